//! The door without its socket, for the HTTP door and the simulator: a statement's text goes the way
//! that a QUERY's does, from the parser to the coordinator, and the answer is given as plain values.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use serde_json::value::RawValue;

use crate::coordinator::OpError;
use crate::cql::conditions::If;
use crate::cql::json;
use crate::cql::rows::row_tag;
use crate::cql::term::Bound;
use crate::cql::types::CqlType;
use crate::overload::{Gate, Place};
use crate::server::auth::Access;
use crate::server::cql::error::{
    BOOTSTRAPPING, CONFIG, CqlError, INVALID, OVERLOADED, PROTOCOL, SYNTAX, UNAUTHORIZED,
    UNAVAILABLE,
};
use crate::server::cql::request::{Parameters, Request};
use crate::server::cql::response::{Answer, Metadata, Rows};
use crate::server::cql::service::Session;
use crate::server::cql::wire::Value;
use crate::server::cql::{CqlService, Store};
use crate::types::Consistency;

/// What comes with a statement.
#[derive(Debug, Clone)]
pub struct Terms {
    /// The level, of everything but conditions.
    pub level: Consistency,
    /// The level of conditions: SERIAL or LOCAL_SERIAL.
    pub serial: Consistency,
    /// Rows of a page; `None`: all.
    pub page_size: Option<u32>,
    /// Where a page begins.
    pub paging_state: Option<Vec<u8>>,
    /// The keyspace of names without one.
    pub keyspace: Option<String>,
    /// The stamp of what is written, in microseconds since 1970.
    pub timestamp: Option<i64>,
    /// Values of the bind markers.
    pub values: Values,
    /// On whose behalf.
    pub access: Access,
}

impl Terms {
    /// Nothing but a level.
    #[must_use]
    pub fn at(level: Consistency) -> Self {
        Self {
            level,
            serial: Consistency::Serial,
            page_size: None,
            paging_state: None,
            keyspace: None,
            timestamp: None,
            values: Values::InOrder(Vec::new()),
            access: Access::default(),
        }
    }
}

/// Values of bind markers, as JSON: what each means is told by its marker's type.
#[derive(Debug, Clone)]
pub enum Values {
    /// One for each marker.
    InOrder(Vec<Box<RawValue>>),
    /// By the markers' names.
    Named(BTreeMap<String, Box<RawValue>>),
}

impl Values {
    fn is_empty(&self) -> bool {
        match self {
            Self::InOrder(values) => values.is_empty(),
            Self::Named(values) => values.is_empty(),
        }
    }

    /// As the statement with these bind markers wants them.
    fn bound(&self, markers: &Metadata) -> Result<Vec<Value>, CqlError> {
        let markers = &markers.columns;
        let find = |at: usize, name: &str| match self {
            Self::InOrder(values) => values.get(at),
            Self::Named(values) => values.get(name),
        };
        let mut out = Vec::with_capacity(markers.len());
        for (at, marker) in markers.iter().enumerate() {
            // How many there must be is said once, with all of them.
            let Some(json) = find(at, &marker.name) else { break };
            let bound = json::bound(&marker.kind, json).map_err(|why| {
                CqlError::invalid(format!("Invalid value for {}: {why}", marker.name))
            })?;
            out.push(match bound {
                Bound::Value(bytes) => Value::Bytes(bytes),
                Bound::Null => Value::Null,
                Bound::Unset => Value::Unset,
            });
        }
        match self {
            Self::InOrder(values) if values.len() != markers.len() => {
                Err(CqlError::invalid(format!(
                    "Invalid amount of bind variables: {} are needed, {} were given",
                    markers.len(),
                    values.len()
                )))
            }
            Self::Named(values) => {
                let is_marker = |name: &String| markers.iter().any(|marker| marker.name == *name);
                if let Some(marker) = markers.iter().find(|m| !values.contains_key(&m.name)) {
                    let why = format!("no value for the bind marker {}", marker.name);
                    return Err(CqlError::invalid(why));
                }
                match values.keys().find(|name| !is_marker(name)) {
                    Some(name) => Err(CqlError::invalid(format!("there is no bind marker {name}"))),
                    None => Ok(out),
                }
            }
            Self::InOrder(_) => Ok(out),
        }
    }
}

/// A page of rows.
#[derive(Debug, Clone, Default)]
pub struct PageOfRows {
    /// Names of the columns.
    pub names: Vec<String>,
    /// Their types.
    pub kinds: Vec<CqlType>,
    /// The rows, each with a value (or null) per column.
    pub rows: Vec<Vec<Option<Bytes>>>,
    /// Where the next page begins; none: that was all.
    pub paging_state: Option<Vec<u8>>,
}

impl PageOfRows {
    /// The value of the column `name` in a row of this page.
    #[must_use]
    pub fn value<'a>(&self, row: &'a [Option<Bytes>], name: &str) -> Option<&'a Bytes> {
        let at = self.names.iter().position(|own| own == name)?;
        row.get(at)?.as_ref()
    }

    /// Names what a row of this page shows, if all columns of its table are asked for.
    #[must_use]
    pub fn tag(&self, row: &[Option<Bytes>]) -> u128 {
        let columns = self.names.iter().map(String::as_str).zip(row.iter().map(Option::as_ref));
        row_tag(columns.filter(|(name, _)| *name != APPLIED))
    }

    /// A row as a JSON object, by the names of its columns.
    #[must_use]
    pub fn json(&self, row: &[Option<Bytes>]) -> String {
        let columns = self.names.iter().zip(&self.kinds).zip(row);
        let columns = columns.map(|((name, kind), value)| (name.as_str(), kind, value.as_deref()));
        json::row(json::Form::Plain, columns)
    }
}

/// The column that says whether a write with conditions took effect.
pub const APPLIED: &str = "[applied]";

/// Sorts of errors, by their codes in the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// The statement is wrong, or what it asks is not possible.
    Bad,
    /// Who asks may not.
    Forbidden,
    /// Too few replicas are alive.
    Unavailable,
    /// The node has too much to do.
    Overloaded,
    /// The node does not serve yet, or any more.
    NotReady,
    /// Too few replicas have answered in time.
    Timeout,
    /// Too few replicas have answered well.
    Failure,
    /// Something else.
    Other,
}

/// An answer.
#[derive(Debug, Clone)]
pub enum Reply {
    /// Done.
    Done,
    /// Rows.
    Rows(PageOfRows),
    /// Refused or failed.
    Failed {
        /// It did not take effect and never will.
        not_applied: bool,
        /// What sort of error it is.
        class: Class,
        /// Why.
        message: String,
        /// The error's code in the native protocol.
        code: i32,
        /// Line (from 1) and column (from 0) in the statement, of an error of its syntax.
        place: Option<(usize, usize)>,
        /// The operation's own error, if an operation has failed.
        cause: Option<Box<OpError>>,
    },
}

/// Executes a statement on the node behind `store`, once.
pub async fn execute(store: Arc<dyn Store>, text: String, terms: Terms) -> Reply {
    let _place = match enter(&*store) {
        Ok(place) => place,
        Err(error) => return failed(&error),
    };
    let (service, session) = behind(store, terms.access.clone());
    let mut values = Vec::new();
    if !terms.values.is_empty() {
        let bound = service
            .make_ready(&session, terms.keyspace.as_deref(), &text)
            .and_then(|ready| terms.values.bound(&ready.binds));
        values = match bound {
            Ok(bound) => bound,
            Err(error) => return failed(&error),
        };
    }
    let parameters = Parameters {
        level: terms.level,
        values,
        names: None,
        skip_metadata: false,
        page_size: terms.page_size,
        paging_state: terms.paging_state,
        serial: terms.serial,
        timestamp: terms.timestamp,
        keyspace: terms.keyspace,
        now: None,
    };
    let request = Request::Query { text, parameters };
    reply_of(service.answer_untraced(&session, request).await)
}

/// A door for one request on somebody's behalf.
fn behind(store: Arc<dyn Store>, Access { gate, principal }: Access) -> (CqlService, Session) {
    (CqlService::new(store).with_gate(gate), Session::of(principal))
}

/// Executes a statement that writes one row and says no condition, if there is that row; and, if
/// tags are given, if it has one of them ([`PageOfRows::tag`]).
pub async fn write_row_if(
    store: Arc<dyn Store>,
    access: Access,
    text: &str,
    tags: Option<Vec<u128>>,
) -> Reply {
    let _place = match enter(&*store) {
        Ok(place) => place,
        Err(error) => return failed(&error),
    };
    let (service, session) = behind(store, access);
    reply_of(service.write_row_if(&session, text, If::of_row(tags)).await)
}

/// A place among what is under way, held until the answer is there. Nobody waits for one here: HTTP
/// has a status for that, and clients that heed it.
fn enter(store: &dyn Store) -> Result<Option<Place>, CqlError> {
    store.gate().map(Gate::enter).transpose().map_err(CqlError::busy)
}

fn reply_of(answer: Answer) -> Reply {
    match answer {
        Answer::Rows(Rows { metadata, rows, paging_state, .. }) => {
            let names = metadata.columns.iter().map(|column| column.name.clone()).collect();
            let kinds = metadata.columns.iter().map(|column| column.kind.clone()).collect();
            Reply::Rows(PageOfRows { names, kinds, rows, paging_state })
        }
        Answer::SetKeyspace(_) => failed(&CqlError::invalid(
            "USE lasts as long as a connection, and there is none here: name the keyspace with the \
             statement",
        )),
        Answer::Error(error) => failed(&error),
        _ => Reply::Done,
    }
}

/// A keyspace or table that exists.
const EXISTS: i32 = 0x2400;

/// As a driver may conclude from an error's code.
fn failed(error: &CqlError) -> Reply {
    let class = match error.code() {
        SYNTAX | INVALID | CONFIG | PROTOCOL | EXISTS => Class::Bad,
        UNAUTHORIZED => Class::Forbidden,
        UNAVAILABLE => Class::Unavailable,
        OVERLOADED => Class::Overloaded,
        BOOTSTRAPPING => Class::NotReady,
        0x1100 | 0x1200 => Class::Timeout,
        0x1300 | 0x1500 => Class::Failure,
        _ => Class::Other,
    };
    let not_applied = !matches!(class, Class::Timeout | Class::Failure | Class::Other);
    Reply::Failed {
        not_applied,
        class,
        message: error.message().to_owned(),
        code: error.code(),
        place: error.place(),
        cause: error.cause().cloned().map(Box::new),
    }
}
