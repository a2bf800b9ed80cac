//! What a client stores, and how a replica is asked to change a record.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::causality::Context;
use crate::types::{Dot, Hlc, OpId, WallMicros};

/// A client's bytes and what was sent with them.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Default, Debug, Serialize, Deserialize)]
pub struct Value {
    /// The bytes. May be a slice of the record that it was decoded from, and then keeps all of
    /// that record in memory.
    pub body: Bytes,
    /// `Content-Type` as sent. None: not sent, which is not the same as sent empty.
    pub content_type: Option<String>,
    /// `Henge-Meta-*` headers, in the order that they came in.
    pub meta: Vec<(String, String)>,
    /// First instant at which the value is gone. Fixed once, at the write, and the same on all
    /// replicas: nobody computes it again from an arrival time.
    pub expires_at: Option<WallMicros>,
    /// When it was minted, by the minting replica's hybrid clock. [`Record::mint`] fills it in;
    /// what stood there before is ignored.
    ///
    /// [`Record::mint`]: crate::record::Record::mint
    pub written_at: Hlc,
}

impl Value {
    /// True when the value is gone at `now`.
    #[must_use]
    pub fn expired(&self, now: WallMicros) -> bool {
        self.expires_at.is_some_and(|at| at <= now)
    }
}

/// A value with the event that made it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Version {
    /// The event.
    pub dot: Dot,
    /// The client operation behind the event: one operation may have been minted twice, when a
    /// coordinator gave up waiting for one minter and asked another.
    pub op: OpId,
    /// What was written.
    pub value: Value,
}

/// What to do to a record.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Action {
    /// Store a value in place of all that the context covers.
    Put(Value),
    /// Remove all that the context covers.
    Delete,
}

/// One client operation on one key, as it travels to the replica that mints it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Mutation {
    /// The operation's id, the same however often it is sent.
    pub op: OpId,
    /// Digest of the client's request (body and what belongs to it), so that an id which comes
    /// back with another request is noticed.
    pub request: u64,
    /// What the client has seen.
    pub context: Context,
    /// What it wants.
    pub action: Action,
}

/// What the minting replica adds to a mutation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mint {
    /// The event's name: this replica's actor, and a counter never used before on any key.
    pub dot: Dot,
    /// A fresh reading of this replica's hybrid clock.
    pub stamp: Hlc,
    /// The coordinator's *now*, which decides expiry (rule 8).
    pub now: WallMicros,
}

/// What a mutation did.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Minted {
    /// The event.
    pub dot: Dot,
    /// The stamp that the record now holds: [`Mint::stamp`], or just above a greater one in
    /// the cell or the context (last-write-wins only). The caller's clock must observe it.
    pub stamp: Hlc,
    /// No live value stood here before.
    pub created: bool,
    /// Live values after the mutation.
    pub siblings: usize,
    /// What the writer has seen now: what it sent, and its own event; never a sibling that it has
    /// not read.
    pub writer_context: Context,
    /// Values that this mutation removed.
    pub superseded: usize,
}

/// Why nothing was minted. The record is unchanged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MintError {
    /// The record or the writer's context knows this dot or a later one of the same actor. The
    /// actor has forgotten part of its history and must not mint any more (laws L2, L3): the value
    /// would be taken for one that was superseded long ago, and vanish.
    #[error("{dot} cannot be minted: events of that actor are known up to {known}")]
    DotReused {
        /// The dot that was to be minted.
        dot: Dot,
        /// The greatest counter of that actor found.
        known: u64,
    },
    /// The record holds [`MAX_VALUES`](crate::record::MAX_VALUES) values.
    #[error("the record holds {got} values; the bound is {max}")]
    TooManyValues {
        /// Values held.
        got: usize,
        /// The bound.
        max: usize,
    },
    /// The cell or the context carries the greatest stamp that there is, so no write can come
    /// after it.
    #[error("the stamp before this write is the end of time")]
    StampExhausted,
    /// Rows of cells are written by merging, never by minting.
    #[error("a row of cells is not minted")]
    NotMinted,
}
