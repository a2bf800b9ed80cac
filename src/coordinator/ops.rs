//! What a door asks of a coordinator, and what it gets.

mod error;
mod receipt;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::causality::Context;
use crate::meta::{ConflictMode, Table};
use crate::recipes;
use crate::record::{Record, Row};
use crate::types::{
    Consistency, Dot, Epoch, IndexTerm, Key, NodeId, OpId, PartitionId, ScanOrder, Token,
    WallMicros,
};

pub use error::{BatchError, Fate, OpError};
pub use receipt::{Receipt, Receipts, ReplicaReceipt, StoodIn};

/// Read one key.
#[derive(Clone, Debug)]
pub struct ReadOp {
    /// The table.
    pub table: Arc<Table>,
    /// The key.
    pub key: Key,
    /// How many replicas must answer.
    pub level: Consistency,
    /// Time until the operation gives up.
    pub timeout: Duration,
    /// Collect a [`Receipt`].
    pub receipt: bool,
    /// Read this node's own copy only, whatever the level says; for diagnosis.
    pub local: bool,
}

/// What a read found.
#[derive(Clone, Debug)]
pub struct ReadOutcome {
    /// The merge of all that the contacted replicas hold. [`Record::view`] at [`ReadOutcome::now`]
    /// says what a client may see of it.
    pub record: Record,
    /// The operation's one "now", which decides expiry (rule 8).
    pub now: WallMicros,
    /// How it went, if asked for.
    pub receipt: Option<Receipt>,
}

/// What a write does. (Nodes send it to each other, `lwt::wire`: its shape is a matter of the
/// protocol's version.)
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum WriteAction {
    /// Store a value.
    Put {
        /// The bytes.
        body: Bytes,
        /// Their media type, as the writer sent it.
        content_type: Option<String>,
        /// The writer's metadata.
        meta: Vec<(String, String)>,
        /// Time to live; the coordinator turns it into an instant.
        ttl: Option<Duration>,
    },
    /// Delete what the context covers; without a context, what a quorum read shows.
    Delete,
}

/// What must hold for a write to take effect. Judged by Paxos on the key's newest state, whatever
/// the conflict mode. (Its shape is a matter of the protocol's version, like [`WriteAction`]'s.)
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub enum Condition {
    /// Nothing. In a table that is not `strong` such a write goes without Paxos.
    #[default]
    None,
    /// No live value stands there (a tombstone is none).
    Absent,
    /// Some live value stands there.
    Exists,
    /// What stands there has one of these entity tags.
    Matches(Vec<String>),
    /// What stands there, if anything, has none of these entity tags.
    Differs(Vec<String>),
}

/// Write one key.
#[derive(Clone, Debug)]
pub struct WriteOp {
    /// The table.
    pub table: Arc<Table>,
    /// The key.
    pub key: Key,
    /// What to do.
    pub action: WriteAction,
    /// What must hold for it.
    pub condition: Condition,
    /// The fence of a lock that the writer holds: refused if the record knows a higher one, else
    /// remembered there. Judged by Paxos, whatever the conflict mode.
    pub fence: Option<u64>,
    /// What the writer had read, if it said so. Not looked at where a condition says what may be
    /// replaced, nor in a `strong` table. A fenced write without one replaces all that stands.
    pub context: Option<Context>,
    /// How many replicas must hold it before the answer.
    pub level: Consistency,
    /// Time until the operation gives up.
    pub timeout: Duration,
    /// The client's own operation id, if it gave one (`Idempotency-Key`). `None`: a fresh one.
    pub op: Option<OpId>,
    /// Collect a [`Receipt`].
    pub receipt: bool,
}

impl WriteOp {
    /// Whether Paxos decides on it.
    #[must_use]
    pub fn by_paxos(&self) -> bool {
        let strong = self.table.settings.conflict == ConflictMode::Strong;
        strong || self.condition != Condition::None || self.fence.is_some()
    }
}

/// Change a lock.
#[derive(Clone, Debug)]
pub struct LeaseOp {
    /// The table of such locks; a `strong` one.
    pub table: Arc<Table>,
    /// The lock.
    pub key: Key,
    /// What is wanted of it.
    pub request: recipes::Request,
    /// Time until the operation gives up.
    pub timeout: Duration,
    /// The client's own operation id, if it gave one. `None`: a fresh one.
    pub op: Option<OpId>,
}

/// What a write did.
#[derive(Clone, Debug)]
pub struct WriteOutcome {
    /// The version that was made. `None`: a delete found nothing to delete.
    pub dot: Option<Dot>,
    /// No live value stood where the write was minted.
    pub created: bool,
    /// Live values there after it.
    pub siblings: u32,
    /// What the writer has now seen: its context plus its own version.
    pub context: Context,
    /// The operation had run before; this is its first outcome.
    pub replayed: bool,
    /// How it went, if asked for.
    pub receipt: Option<Receipt>,
}

/// List keys of a table, in (token, key) order.
#[derive(Clone, Debug)]
pub struct ListOp {
    /// The table.
    pub table: Arc<Table>,
    /// Only keys with this prefix.
    pub prefix: Bytes,
    /// Only rows strictly after this place.
    pub after: Option<(Token, Key)>,
    /// At most this many keys. The page may be shorter though more exist; see
    /// [`ListPage::next`].
    pub limit: u32,
    /// Only keys that hold siblings.
    pub conflicts: bool,
    /// How many replicas of each partition must answer.
    pub level: Consistency,
    /// Time until the operation gives up.
    pub timeout: Duration,
}

/// A key that a listing found: it has at least one live value.
#[derive(Clone, Debug)]
pub struct ListedKey {
    /// Its place on the ring.
    pub token: Token,
    /// The key.
    pub key: Key,
    /// The merged record.
    pub record: Record,
}

/// A page of a listing.
#[derive(Clone, Debug)]
pub struct ListPage {
    /// Keys in order.
    pub keys: Vec<ListedKey>,
    /// The operation's "now", which decided expiry.
    pub now: WallMicros,
    /// Where the next page begins (strictly after); `None` at the end of the table.
    pub next: Option<(Token, Key)>,
}

/// Read stored rows in (token, key) order or against it, whatever they hold.
#[derive(Clone, Debug)]
pub struct ScanOp {
    /// The table.
    pub table: Arc<Table>,
    /// Only rows strictly after this place.
    pub after: Option<(Token, Key)>,
    /// Only rows strictly before this place.
    pub before: Option<(Token, Key)>,
    /// Only rows that an index finds by this term, and perhaps others.
    pub term: Option<IndexTerm>,
    /// From which end on.
    pub order: ScanOrder,
    /// About so many rows. The page may be shorter though more exist; see [`ScanPage::next`].
    pub limit: u32,
    /// How many replicas of each partition must answer.
    pub level: Consistency,
    /// Time until the operation gives up.
    pub timeout: Duration,
}

/// A page of a scan.
#[derive(Clone, Debug)]
pub struct ScanPage {
    /// Rows in order: token, key, merged record.
    pub rows: Vec<(Token, Key, Record)>,
    /// The operation's one "now".
    pub now: WallMicros,
    /// Where the next page begins (strictly after; descending, strictly before); `None` at the end.
    pub next: Option<(Token, Key)>,
}

/// Merge rows of one partition into what the replicas hold.
#[derive(Clone, Debug)]
pub struct RowsOp {
    /// The table, which holds rows.
    pub table: Arc<Table>,
    /// The rows by key, ascending; all of one partition, at least one.
    pub rows: Vec<(Key, Record)>,
    /// How many replicas must hold them before the answer.
    pub level: Consistency,
    /// Time until the operation gives up.
    pub timeout: Duration,
}

/// Rows of one partition, by key, ascending, and the table that holds them.
pub type PartitionRows = (Arc<Table>, Vec<(Key, Record)>);

/// Write rows of several partitions so that in the end all are written, or none.
#[derive(Clone, Debug)]
pub struct BatchOp {
    /// The table of batches under way ([`crate::coordinator::log_table`]).
    pub log: Arc<Table>,
    /// Its partitions.
    pub parts: Vec<PartitionRows>,
    /// How many replicas must hold each row before the answer.
    pub level: Consistency,
    /// Time for putting it on record, and again for writing it.
    pub timeout: Duration,
}

/// What a conditional write of rows does to the rows as they are. It may be asked more than once,
/// and must then say the same of the same rows.
pub trait RowsJudge: Send + Sync + std::fmt::Debug {
    /// The rows to merge in, all with `stamp`, which is above all that is there. `None`: its
    /// conditions do not hold. `rows` are those that the operation names, by key, blank ones too,
    /// and perhaps others; `now` decides what has expired.
    ///
    /// # Errors
    /// A sentence for the client: it cannot be run at all.
    fn judge(
        &self,
        rows: &BTreeMap<Key, Row>,
        stamp: i64,
        now: WallMicros,
    ) -> Result<Option<Vec<(Key, Row)>>, String>;
}

/// Change rows of one partition, if they are as they must be: by Paxos.
#[derive(Clone, Debug)]
pub struct ConditionalOp {
    /// The table, which holds rows.
    pub table: Arc<Table>,
    /// The key of the partition's head.
    pub head: Key,
    /// The other rows that are looked at or changed; all of that partition.
    pub rows: Vec<Key>,
    /// What is to become of them.
    pub judge: Arc<dyn RowsJudge>,
    /// `Serial` or `LocalSerial`.
    pub level: Consistency,
    /// Time until the operation gives up.
    pub timeout: Duration,
}

/// What a conditional write of rows did.
#[derive(Clone, Debug)]
pub struct ConditionalOutcome {
    /// Its conditions held, and it took effect.
    pub applied: bool,
    /// The rows that it was judged on; none, if its answer had been lost between nodes.
    pub rows: BTreeMap<Key, Row>,
    /// The instant that decided what of them had expired.
    pub now: WallMicros,
}

/// Where a key lives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Whereabouts {
    /// The key's token.
    pub token: Token,
    /// Its partition.
    pub partition: PartitionId,
    /// Its replicas, in preference order.
    pub replicas: Vec<NodeId>,
    /// By which epoch.
    pub epoch: Epoch,
}
