//! What nodes say to each other. These are wire types: they are encoded by [`crate::net`]'s codec
//! and a change of shape is a new protocol version, never an edit in passing.
//!
//! Records, causal contexts, metadata and gossip travel as bytes in the versioned encodings of
//! their own modules, so that each can change apart from the others.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::net::paxos::{OpenRequest, PaxosAnswer, PaxosRequest};
use crate::net::purge::{PurgeAnswer, PurgeRequest};
use crate::net::trees::{TreeAnswer, TreeRequest};
use crate::types::{
    Digest, Dot, Epoch, Generation, Hlc, IndexTerm, Key, NodeId, OpId, PartitionId, ScanOrder,
    TableId, Token, WallMicros,
};

/// Comes with every request and every answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// The sender's epoch (law L5).
    pub epoch: Epoch,
    /// The sender's hybrid clock, for the receiver to observe.
    pub hlc: Hlc,
    /// Time the receiver has left, in milliseconds. Deadlines travel as remaining time, since
    /// clocks differ (rule 8). Zero in answers.
    pub budget_ms: u32,
}

/// A question or order to a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// Show a record, or its digest.
    Read(Read),
    /// Make a new version of a record: mint its dot, store it, hand back the record (law L2).
    Mint(Mint),
    /// Merge a record into one's own and store it.
    Apply(Apply),
    /// List records of one partition of a table.
    Page(PageRequest),
    /// Metadata log traffic, in [`crate::meta`]'s encoding.
    Meta(Bytes),
    /// Gossip, in [`crate::gossip`]'s encoding.
    Gossip(Bytes),
    /// Are you there?
    Ping,
    /// A hint for the receiver: like [`Request::Apply`], and background work, which gives way when
    /// the receiver is busy.
    Handoff(Apply),
    /// Where do our hash trees differ?
    Tree(TreeRequest),
    /// Keep a record for a replica that cannot be reached (sloppy quorums).
    Keep(Keep),
    /// About tombstones that are to go.
    Purge(PurgeRequest),
    /// A step of a lightweight transaction.
    Paxos(PaxosRequest),
    /// Which keys have undecided votes?
    Open(OpenRequest),
    /// Merge several rows of one partition into one's own and store them, all or none.
    ApplyRows(ApplyRows),
    /// Add to one's own shares of a row's counters.
    Count(Count),
    /// Decide on an operation by Paxos, together with the others that wait for its key there.
    Propose(Propose),
}

/// How much of a record to show.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Want {
    /// All of it.
    Record,
    /// Its digest.
    Digest,
}

/// Show what stands on stable storage under `key` (rule 6).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Read {
    /// The table.
    pub table: TableId,
    /// The key.
    pub key: Key,
    /// How much to show.
    pub want: Want,
}

/// What a new version does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Action {
    /// Store a value.
    Put {
        /// The bytes.
        body: Bytes,
        /// The writer's `Content-Type`.
        content_type: Option<String>,
        /// The writer's `Henge-Meta-*` headers.
        meta: Vec<(String, String)>,
        /// When it ends to exist, by the coordinator's clock; fixed here, the same on every
        /// replica for ever.
        expires_at: Option<WallMicros>,
    },
    /// Remove what the context covers.
    Delete,
}

/// Make a new version of a record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mint {
    /// The table.
    pub table: TableId,
    /// The key.
    pub key: Key,
    /// The operation, however often it is sent (rule 3).
    pub op: OpId,
    /// Digest of the client's request: an id that comes back with another one is misused.
    pub request: u64,
    /// What the writer had read ([`crate::causality`]'s encoding; empty: nothing).
    pub context: Bytes,
    /// What to do.
    pub action: Action,
    /// The operation's one "now" (rule 8).
    pub now: WallMicros,
    /// Refuse if more live values than this would stand; 0 means no bound.
    pub max_siblings: u32,
    /// Another replica's copy, to be merged in first: what a majority knows of an operation that
    /// may have been minted before (rule 3). Empty: none.
    pub known: Bytes,
    /// The purge generation of `known`.
    pub known_generation: Generation,
    /// Last-write-wins only: the new version's stamp, which the coordinator chose. The version is
    /// made with exactly this stamp or not at all ([`Refusal::Outranked`]): whenever the request is
    /// carried out, however late, it cannot win over a write that came after the coordinator's
    /// choice. Zero in other tables.
    pub stamp: Hlc,
}

/// Merge a record into one's own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Apply {
    /// The table.
    pub table: TableId,
    /// The key.
    pub key: Key,
    /// The record ([`crate::record`]'s encoding).
    pub record: Bytes,
    /// The purge generation of its partition on the replica that it was read from; of several, the
    /// least. A replica that has purged the key since refuses the record
    /// ([`Refusal::OtherGeneration`]).
    pub generation: Generation,
    /// The record is the merge of what **all** other replicas hold, so it may take the place of a
    /// damaged copy. Any other record is refused over a damaged copy: the replica would forget
    /// writes that it has acknowledged.
    pub heals: bool,
}

/// Keep a record for a replica that cannot be reached, as a hint, and count in its place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Keep {
    /// The replica.
    pub replica: NodeId,
    /// What it is to merge in.
    pub apply: Apply,
}

/// Merge rows of one partition into one's own, in one commit. Answered like an [`Apply`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApplyRows {
    /// The table, which holds rows.
    pub table: TableId,
    /// The rows by key, at least one; all of one partition.
    pub rows: Vec<(Key, Bytes)>,
    /// The purge generation of their partition, as their coordinator knows it: see [`Apply`].
    pub generation: Generation,
}

/// Add to one's own shares of a row's counters, once, and store them. Answered by
/// [`Response::Counted`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Count {
    /// The table, which holds rows.
    pub table: TableId,
    /// The row.
    pub key: Key,
    /// The increment, however often it is sent.
    pub op: OpId,
    /// What to add, by the id of the column.
    pub adds: Vec<(u16, i64)>,
}

/// Decide on an operation of a lightweight transaction, which its own coordinator has not begun.
/// Answered by [`Response::Proposed`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Propose {
    /// The table.
    pub table: TableId,
    /// The key.
    pub key: Key,
    /// The operation, in the coordinator's own encoding.
    pub operation: Bytes,
}

/// List records of one partition in (token, key) order, or against it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PageRequest {
    /// The table.
    pub table: TableId,
    /// The partition.
    pub partition: PartitionId,
    /// Only rows strictly after this place.
    pub after: Option<(Token, Key)>,
    /// Only rows strictly before this place.
    pub before: Option<(Token, Key)>,
    /// Only keys with this prefix.
    pub prefix: Bytes,
    /// At most this many rows.
    pub limit: u32,
    /// Records themselves, or digests only.
    pub want: Want,
    /// The asker refills an emptied directory. It takes what a replica has that is being refilled
    /// itself; nobody else does.
    pub refill: bool,
    /// Only rows that the replica's index finds by this term. It may show others besides, and must
    /// not leave out one that has it.
    pub term: Option<IndexTerm>,
    /// From which end of the partition on.
    pub order: ScanOrder,
}

/// One row of a page.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Row {
    /// The key's token.
    pub token: Token,
    /// The key.
    pub key: Key,
    /// The record's digest. `None`: the replica's copy is damaged, so it cannot say what it holds
    /// under this key; it does hold something (rule 2).
    pub digest: Option<Digest>,
    /// The record, if records were wanted and it can be read; else empty.
    pub record: Bytes,
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Response {
    /// To [`Read`] with [`Want::Record`]: the record's bytes; `None` when nothing is known of
    /// the key. With the purge generation that it was read at.
    Record(Option<Bytes>, Generation),
    /// To [`Read`] with [`Want::Digest`]; `None` when nothing is known of the key. With the purge
    /// generation that it was read at.
    Digest(Option<Digest>, Generation),
    /// To [`Mint`].
    Minted(Minted),
    /// To [`Apply`]: the record is on stable storage.
    Applied {
        /// The replica had all of it already, and more; or, in a last-write-wins table, it holds
        /// a version that wins over this one (rule 9).
        dominated: bool,
        /// The greatest stamp the replica now holds for the key, for last-write-wins.
        stamp: Hlc,
        /// The purge generation of its partition there, for writes that rest on no read.
        generation: Generation,
    },
    /// To [`PageRequest`].
    Page {
        /// The rows, in order.
        rows: Vec<Row>,
        /// Where to go on, strictly after this place (in a descending page, strictly before it);
        /// `None` when the partition holds no more.
        /// A page may be short, or empty, and yet have a next one.
        next: Option<(Token, Key)>,
        /// The partition's purge generation before the rows were read.
        generation: Generation,
    },
    /// To [`Request::Meta`].
    Meta(Bytes),
    /// To [`Request::Gossip`]: the reply, if gossip has one.
    Gossip(Option<Bytes>),
    /// To [`Request::Ping`].
    Pong,
    /// The request was not carried out, and will not be.
    Refused(Refusal),
    /// The request was begun and its storage failed: it may have taken effect, or may yet.
    Failed {
        /// What happened.
        why: String,
    },
    /// To [`Request::Tree`].
    Tree(TreeAnswer),
    /// To [`Request::Keep`]: the record is on stable storage here, and goes to the replica when it
    /// is back.
    Kept,
    /// To [`Request::Purge`].
    Purge(PurgeAnswer),
    /// To [`Request::Paxos`] and [`Request::Open`].
    Paxos(PaxosAnswer),
    /// To [`Count`]: the replica's whole row with the increment in it, on stable storage. With a
    /// purge generation that it is not older than.
    Counted(Bytes, Generation),
    /// To [`Propose`]: what became of it, in the coordinator's own encoding.
    Proposed(Bytes),
}

/// To [`Mint`]: the version that was made, or that the operation made when it first ran.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Minted {
    /// The replica's whole record with the new version in it, on stable storage.
    pub record: Bytes,
    /// The new version.
    pub dot: Dot,
    /// Its stamp, for the writer's context in a last-write-wins table. Zero: an earlier outcome
    /// whose version is no longer there.
    pub stamp: Hlc,
    /// No live value stood there before.
    pub created: bool,
    /// Live values after it.
    pub siblings: u32,
    /// The operation had already run; this is its first outcome.
    pub replayed: bool,
    /// The purge generation of the record.
    pub generation: Generation,
}

/// Why a node did not do what it was asked. In every case **nothing was changed**.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum Refusal {
    /// The sender plans by an older epoch in which the key's replicas were others.
    #[error("the cluster has moved on to epoch {epoch}")]
    StaleEpoch {
        /// The refuser's epoch.
        epoch: Epoch,
    },
    /// The receiver could not catch up with the sender's epoch in time.
    #[error("this node is still at epoch {epoch}")]
    Behind {
        /// The refuser's epoch.
        epoch: Epoch,
    },
    /// The node is no replica of the key.
    #[error("this node is no replica of the key at epoch {epoch}")]
    NotReplica {
        /// The refuser's epoch.
        epoch: Epoch,
    },
    /// The node may not count for reads and may not mint yet: its data directory began anew and
    /// is being refilled (rules 2 and 17).
    #[error("this node's data is being refilled after it was lost")]
    Refilling,
    /// This node's copy of the record is damaged (rule 2).
    #[error("this node's copy of the record is damaged")]
    Damaged,
    /// No such table at the receiver's epoch.
    #[error("no such table at epoch {epoch}")]
    NoSuchTable {
        /// The refuser's epoch.
        epoch: Epoch,
    },
    /// Too much work is queued.
    #[error("overloaded: {what}")]
    Overloaded {
        /// Which bound was met.
        what: String,
    },
    /// The deadline had passed before the work began.
    #[error("the deadline had passed before the work began")]
    Late,
    /// The disk is full.
    #[error("no space left on the data disk")]
    DiskFull,
    /// The storage engine has stopped or failed.
    #[error("storage: {message}")]
    Storage {
        /// The engine's words.
        message: String,
    },
    /// The operation id was used before with another request.
    #[error("the operation id was used before with another request")]
    OperationReused,
    /// The operation id is older than all that the record remembers.
    #[error("the operation id is older than all that the record remembers")]
    OperationForgotten {
        /// The oldest that it remembers. A greater id can still be told apart.
        oldest: OpId,
    },
    /// Last-write-wins only: the stamp that the version was to have is not above what is there, or
    /// not above what its writer has read.
    #[error("a version stands that wins over this one")]
    Outranked {
        /// The stamp to exceed.
        stamp: Hlc,
    },
    /// The record would hold too many siblings.
    #[error("{siblings} siblings already stand, {max} are allowed")]
    TooManySiblings {
        /// Live values before the write.
        siblings: u32,
        /// The table's bound.
        max: u32,
    },
    /// The record would become larger than a record may be.
    #[error("the record would have {got} bytes, {max} are allowed")]
    RecordTooLarge {
        /// The bound.
        max: u64,
        /// Its size.
        got: u64,
    },
    /// The request makes no sense to the receiver.
    #[error("not understood: {what}")]
    BadRequest {
        /// What is wrong with it.
        what: String,
    },
    /// The node is stopping.
    #[error("the node is stopping")]
    Stopping,
    /// The record comes from a replica of another purge generation. If the refuser's is the newer
    /// one: its key has been purged since, or may have been. If it is the older one: the refuser
    /// could not catch up in time.
    #[error("this replica is at purge generation {generation}")]
    OtherGeneration {
        /// The refuser's.
        generation: Generation,
    },
    /// The index is not built here yet.
    #[error("the index is still being built on this node")]
    IndexBuilding,
}
