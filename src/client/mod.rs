//! A small client of the HTTP door, for the command line, the tests and the benchmark; and, for the
//! CQL shell and the benchmark, a smaller one of the CQL door ([`CqlConnection`]).
//!
//! A [`Client`] knows several nodes and tries them in turn. What it may repeat is decided by what
//! may have happened, never by hope:
//!
//! - a read, or a write under an operation id (`Idempotency-Key`), goes to the next node after any
//!   passing error, because running twice changes nothing;
//! - any other write goes to the next node only after an answer that says `not_applied`, or when
//!   nothing was sent.
//!
//! Writes made here carry an operation id unless told otherwise, and a repeat carries the same.

mod cql;
mod credentials;
mod error;
mod kv;
mod locks;
mod node;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

pub use cql::{
    BAD_CREDENTIALS, CqlAnswer, CqlAsk, CqlColumn, CqlConnection, CqlFailure, CqlPage, CqlPipe,
    CqlPrepared, CqlReply, CqlResult, CqlRow, CqlRows, PreparedId,
};
pub use credentials::Credentials;
pub use error::{ClientError, Outcome, Problem};
pub use kv::{
    BucketSettings, Encoding, Found, FoundValue, KeyEntry, KeyPage, ListOptions, OpMode,
    ReadOptions, Sibling, Stored, WriteOptions, Written, encode_key, encode_text, key_text,
    text_bytes,
};
pub use locks::{Asked, Kept, Lease};
pub use node::{Call, MAX_REPLY_BYTES, Node, Reply};

use crate::types::OpId;

/// The environment variable that names the nodes, separated by commas.
pub const NODES_VARIABLE: &str = "HENGE_NODES";

/// The node that is tried where none is named.
pub const DEFAULT_NODE: &str = "http://127.0.0.1:8098";

/// Whether a call may be sent again after an error that leaves its outcome open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Repeat {
    /// It may: it is a read, or carries an operation id.
    Always,
    /// Only where the first attempt certainly did not happen.
    IfNotApplied,
}

/// A client of a cluster. Cheap to clone; clones share their connections.
#[derive(Debug, Clone)]
pub struct Client {
    nodes: Arc<[Node]>,
    turn: Arc<AtomicUsize>,
    timeout: Duration,
    patience: Duration,
}

impl Client {
    /// A client of the nodes at `addresses`.
    ///
    /// # Errors
    /// [`ClientError::Invalid`] if there is none or one cannot be an address.
    pub fn new<T: AsRef<str>>(addresses: impl IntoIterator<Item = T>) -> Result<Self, ClientError> {
        let nodes: Vec<_> = addresses
            .into_iter()
            .map(|address| Node::new(address.as_ref().trim()))
            .collect::<Result<_, _>>()?;
        if nodes.is_empty() {
            return Err(ClientError::Invalid("no node is named".to_owned()));
        }
        Ok(Self {
            nodes: nodes.into(),
            turn: Arc::default(),
            timeout: Duration::from_secs(15),
            patience: Duration::ZERO,
        })
    }

    /// The client with another bound on one attempt (15 s at first).
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// The client that begins another round through all nodes until `patience` is over (one round
    /// at first), with a pause between rounds that doubles from 50 ms to 2 s.
    #[must_use]
    pub fn with_patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// The client that says who it is, on nodes that ask.
    #[must_use]
    pub fn with_credentials(mut self, credentials: &Credentials) -> Self {
        let nodes = self.nodes.iter().map(|node| node.as_role(credentials));
        self.nodes = nodes.collect();
        self
    }

    /// The nodes, in the order given.
    #[must_use]
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// A fresh operation id.
    #[must_use]
    pub fn new_op_id() -> OpId {
        OpId(uuid::Uuid::now_v7().as_u128())
    }

    /// Sends `call` to one node after the other until one gives an answer that is no passing
    /// error. Answers with an error status other than those come back as replies, not as errors.
    ///
    /// Calls start at each node in turn, so that many calls spread over all nodes.
    ///
    /// # Errors
    /// The last attempt's error; of a write whose earlier attempt has an open outcome, that one's,
    /// so that "not applied" is never claimed for what may have happened.
    pub async fn call(&self, call: &Call, repeat: Repeat) -> Result<Reply, ClientError> {
        let start = self.turn.fetch_add(1, Ordering::Relaxed);
        let mut open: Option<ClientError> = None;
        let mut last = ClientError::Invalid("no node is named".to_owned());
        let began = now();
        let mut pause = Duration::from_millis(50);
        loop {
            for node in self.order(start) {
                let error = match node.send(call, self.timeout).await {
                    Ok(reply) if reply.status.as_u16() < 400 => return Ok(reply),
                    Ok(reply) => {
                        let error = reply.refused();
                        if !error.is_transient() {
                            return Ok(reply);
                        }
                        error
                    }
                    Err(error) if error.is_transient() => error,
                    Err(error) => return Err(error),
                };
                if error.outcome() == Outcome::Unknown {
                    if repeat == Repeat::IfNotApplied {
                        return Err(error);
                    }
                    open = Some(error.clone());
                }
                last = error;
            }
            if began.elapsed() + pause > self.patience {
                break;
            }
            pause_for(pause).await;
            pause = (pause * 2).min(Duration::from_secs(2));
        }
        Err(open.unwrap_or(last))
    }

    /// Like [`Client::call`], but any error status is an error.
    ///
    /// # Errors
    /// As [`Client::call`], and [`ClientError::Refused`].
    pub async fn ask(&self, call: &Call, repeat: Repeat) -> Result<Reply, ClientError> {
        let reply = self.call(call, repeat).await?;
        if reply.status.as_u16() >= 400 { Err(reply.refused()) } else { Ok(reply) }
    }

    /// The nodes from number `start` on, those that lately could not be reached last.
    fn order(&self, start: usize) -> impl Iterator<Item = &Node> {
        let count = self.nodes.len();
        let mut order: Vec<_> = (0..count).map(|i| &self.nodes[(start + i) % count]).collect();
        order.sort_by_key(|node| node.is_avoided());
        order.into_iter()
    }
}

#[allow(clippy::disallowed_methods, reason = "a client lives outside of the simulated node")]
fn now() -> std::time::Instant {
    std::time::Instant::now()
}

#[allow(clippy::disallowed_methods, reason = "a client lives outside of the simulated node")]
async fn pause_for(duration: Duration) {
    tokio::time::sleep(duration).await;
}

#[cfg(test)]
mod tests;
