//! The door without its socket, for the simulator: a statement's text goes the way that a QUERY's
//! does, from the parser to the coordinator, and the answer is given as plain values.

use std::sync::Arc;

use bytes::Bytes;

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
            Reply::Rows(PageOfRows { names, rows, paging_state })
        }
        Answer::Error(error) => failed(&error),
        _ => Reply::Done,
    }
}

/// As a driver may conclude from an error's code.
fn failed(error: &CqlError) -> Reply {
    let not_applied =
        [UNAVAILABLE, OVERLOADED, BOOTSTRAPPING, SYNTAX, INVALID, CONFIG].contains(&error.code());
    Reply::Failed { not_applied, message: error.message().to_owned() }
}
