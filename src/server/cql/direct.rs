//! The door without its socket, for the HTTP door and the simulator: a statement's text goes the way
//! that a QUERY's does, from the parser to the coordinator, and the answer is given as plain values.

use std::sync::Arc;

use bytes::Bytes;

use crate::cql::types::CqlType;
use crate::server::cql::error::{
    BOOTSTRAPPING, CONFIG, CqlError, INVALID, OVERLOADED, SYNTAX, UNAVAILABLE,
};
use crate::server::cql::request::{Parameters, Request};
use crate::server::cql::response::{Answer, Rows};
use crate::server::cql::service::Session;
use crate::server::cql::{CqlService, Store};
use crate::types::Consistency;

/// What comes with a statement.
#[derive(Debug, Clone)]
pub struct Terms {
    /// The level, of everything but conditions.
    pub level: Consistency,
    /// Rows of a page; `None`: all.
    pub page_size: Option<u32>,
    /// Where a page begins.
    pub paging_state: Option<Vec<u8>>,
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
}

/// Sorts of errors, by their codes in the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// The statement is wrong, or what it asks is not possible.
    Bad,
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
    },
}

/// Executes a statement on the node behind `store`, once.
pub async fn execute(store: Arc<dyn Store>, text: String, terms: Terms) -> Reply {
    let parameters = Parameters {
        level: terms.level,
        values: Vec::new(),
        names: None,
        skip_metadata: false,
        page_size: terms.page_size,
        paging_state: terms.paging_state,
        serial: Consistency::Serial,
        timestamp: None,
        keyspace: None,
        now: None,
    };
    let service = CqlService::new(store);
    match service.answer_untraced(&Session::default(), Request::Query { text, parameters }).await {
        Answer::Rows(Rows { metadata, rows, paging_state, .. }) => {
            let names = metadata.columns.iter().map(|column| column.name.clone()).collect();
            let kinds = metadata.columns.iter().map(|column| column.kind.clone()).collect();
            Reply::Rows(PageOfRows { names, kinds, rows, paging_state })
        }
        Answer::Error(error) => failed(&error),
        _ => Reply::Done,
    }
}

/// As a driver may conclude from an error's code.
fn failed(error: &CqlError) -> Reply {
    let not_applied =
        [UNAVAILABLE, OVERLOADED, BOOTSTRAPPING, SYNTAX, INVALID, CONFIG].contains(&error.code());
    let class = match error.code() {
        SYNTAX | INVALID | CONFIG => Class::Bad,
        UNAVAILABLE => Class::Unavailable,
        OVERLOADED => Class::Overloaded,
        BOOTSTRAPPING => Class::NotReady,
        0x1100 | 0x1200 => Class::Timeout,
        0x1300 | 0x1500 => Class::Failure,
        _ => Class::Other,
    };
    Reply::Failed { not_applied, class, message: error.message().to_owned() }
}
