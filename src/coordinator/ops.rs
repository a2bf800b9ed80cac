//! What a door asks of a coordinator, and what it gets.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::causality::Context;
use crate::coordinator::Cause;
use crate::meta::{ConflictMode, Table, TableName};
use crate::recipes;
use crate::record::{Record, Row};
use crate::types::{
    Consistency, Dot, Epoch, IndexTerm, Key, NodeId, OpId, PartitionId, Token, WallMicros,
};

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

/// Read stored rows in (token, key) order, whatever they hold.
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
    /// Where the next page begins (strictly after); `None` at the end.
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

/// Why a logged batch has not been written whole yet.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum BatchError {
    /// No quorum has it on record, and none of its rows was sent. If the error's fate is unknown,
    /// it may be found on record all the same, and be written whole.
    #[error("{0}")]
    NotKept(OpError),
    /// It is on record, and will be written whole.
    #[error("{done} of {parts} partitions are written, and the others will be: {why}")]
    Late {
        /// Partitions of which enough replicas hold the rows.
        done: usize,
        /// All partitions.
        parts: usize,
        /// The batch's level.
        level: Consistency,
        /// The first error of the others.
        why: String,
    },
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

/// How an operation went: who was asked, what each said, which rule was met.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Receipt {
    /// `read`, `write`, or `scan` of a part of the ring.
    pub operation: &'static str,
    /// Epoch by which the operation was planned.
    pub epoch: u64,
    /// The level that was asked for.
    pub level: String,
    /// Replicas of the key.
    pub n: u32,
    /// Answers needed.
    pub required: u32,
    /// Answers that counted.
    pub received: u32,
    /// Whether every operation at this level meets every one of the other kind at the table's own
    /// level: a read what was written, a write what will be read.
    pub overlap: bool,
    /// Nodes that hold the record in a replica's place (sloppy quorums).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub stood_in: Vec<StoodIn>,
    /// Replicas that were sent the merged record because they were behind.
    pub repaired: Vec<String>,
    /// Hedges: replicas asked because another was slow.
    pub hedged: u32,
    /// Each replica that was asked.
    pub replicas: Vec<ReplicaReceipt>,
    /// Time from start to answer, in microseconds.
    pub total_us: u64,
}

/// A node that holds a record for a replica which could not be reached, and counted in its place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct StoodIn {
    /// Its name.
    pub node: String,
    /// The replica.
    #[serde(rename = "for")]
    pub replica: String,
}

/// One replica's part in a [`Receipt`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ReplicaReceipt {
    /// Its name.
    pub node: String,
    /// Its part: `data`, `digest`, `mint`, `apply`; `keep` of one that stands in for a replica.
    pub role: &'static str,
    /// What it said: `ok`; `dominated` (it had all of it and more, or a version that wins);
    /// `refused: …`; `no answer: …`; `not sent: …`; `pending`.
    pub answer: String,
    /// Digest of what it held, where it said so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// From the operation's start to its answer, in microseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub answered_us: Option<u64>,
}

/// The receipts of what one request has set going, as far as they are kept.
#[derive(Debug, Default)]
pub struct Receipts(Mutex<Vec<Receipt>>);

/// Receipts of one request that are kept: a scan makes one for each part of the ring that it reads.
const MAX_RECEIPTS: usize = 32;

impl Receipts {
    /// Keeps one more, if there is room.
    pub fn add(&self, receipt: Receipt) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() < MAX_RECEIPTS {
            all.push(receipt);
        }
    }

    /// Takes all that have been kept.
    #[must_use]
    pub fn take(&self) -> Vec<Receipt> {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// What became of a write that was not a success (law L8).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Fate {
    /// It did not take effect and will not.
    NotApplied,
    /// It may have taken effect, or may yet.
    Unknown,
}

/// Why an operation has no result. [`OpError::fate`] tells what became of a write.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpError {
    /// Too few replicas were alive; nothing was sent.
    #[error("{level} needs {required} of the key's replicas, and {alive} are alive")]
    Unavailable {
        /// The level asked for.
        level: Consistency,
        /// Replicas needed.
        required: u32,
        /// Replicas alive.
        alive: u32,
    },
    /// The time was over before enough replicas had answered.
    #[error("{level} needs {required} replicas; {received} answered in {timeout_ms} ms")]
    Timeout {
        /// The level asked for.
        level: Consistency,
        /// Answers needed.
        required: u32,
        /// Answers that came.
        received: u32,
        /// The operation's time limit.
        timeout_ms: u64,
        /// What became of it.
        fate: Fate,
    },
    /// Every replica has answered or failed, and too few answered well.
    #[error("{level} needs {required} replicas; {received} answered, {failed} failed ({reasons})")]
    TooFewReplicas {
        /// The level asked for.
        level: Consistency,
        /// Answers needed.
        required: u32,
        /// Answers that came.
        received: u32,
        /// Replicas that refused or could not be reached.
        failed: u32,
        /// Their reasons.
        reasons: String,
        /// Those of them that are known, in order, each once.
        who: Vec<(NodeId, Cause)>,
        /// What became of it.
        fate: Fate,
    },
    /// The index that was asked has not been built on enough replicas of some partition.
    #[error("the index is still being built on {failed} of the replicas: ask again in a while")]
    IndexBuilding {
        /// The level asked for.
        level: Consistency,
        /// Answers needed.
        required: u32,
        /// Answers that came.
        received: u32,
        /// Replicas that are not done.
        failed: u32,
    },
    /// A level that the operation or the table does not allow, or a count above N.
    #[error("{0}")]
    BadLevel(String),
    /// The table is one that the nodes keep for themselves.
    #[error(
        "{0} is kept by the nodes themselves: locks are at /v1/locks, elections at /v1/elections"
    )]
    Reserved(TableName),
    /// The operation needs a feature that is not there yet.
    #[error("{0}")]
    NotSupported(String),
    /// A local read on a node that is no replica of the key.
    #[error("this node is no replica of the key; its replicas are {replicas}")]
    NotAReplica {
        /// The names of those that are.
        replicas: String,
    },
    /// This node or the replicas have too much queued.
    #[error("overloaded: {what}; try again shortly")]
    Overloaded {
        /// Which bound was met.
        what: String,
    },
    /// The key would hold more siblings than its table allows.
    #[error("{siblings} siblings stand and at most {max} are allowed: read, merge and write back")]
    TooManySiblings {
        /// Live values before the write.
        siblings: u32,
        /// The table's bound.
        max: u32,
    },
    /// The record would outgrow what a record may be.
    #[error("the record would have {got} bytes and at most {max} are allowed")]
    RecordTooLarge {
        /// The bound.
        max: u64,
        /// Its size.
        got: u64,
    },
    /// An operation id that cannot be one made by now.
    #[error("{0}")]
    BadOperationId(String),
    /// Other proposers decided on the key again and again until the time was over.
    #[error(
        "others kept deciding on this key: {rounds} rounds were interrupted in {timeout_ms} ms"
    )]
    Contended {
        /// Rounds that others interrupted.
        rounds: u32,
        /// The operation's time limit.
        timeout_ms: u64,
        /// What became of it.
        fate: Fate,
    },
    /// The condition of a write does not hold.
    #[error("the condition does not hold for what stands there")]
    ConditionFailed {
        /// What stands there: part of the linearizable answer.
        current: Box<Record>,
        /// The instant that decides what of it has expired.
        now: WallMicros,
        /// The operation had been refused before.
        replayed: bool,
    },
    /// Somebody has written here with a higher fence.
    #[error("a write with fence {highest} was here before, and this one has {fence}")]
    FenceTooOld {
        /// The write's own.
        fence: u64,
        /// The highest that the record remembers.
        highest: u64,
        /// The operation had been refused before.
        replayed: bool,
    },
    /// The operation makes no sense for what stands there.
    #[error("{0}")]
    Invalid(String),
    /// The operation id was used before with another request.
    #[error("this operation id was used before with another request")]
    OperationReused,
    /// The operation id is older than all that the key remembers: it may have run.
    #[error("this operation id is older than all that the key remembers; it is not run again")]
    OperationExpired,
    /// The replicas' disks are full.
    #[error(
        "no space left on the replicas' data disks but what storage.reserve_mb keeps free: make room \
         there, and writes go on by themselves"
    )]
    DiskFull,
    /// An operation of several parts, each atomic by itself: some took effect, and some did not.
    #[error("{done} of {parts} parts took effect, and the others did not: {why}")]
    Partly {
        /// Parts that took effect.
        done: u32,
        /// All parts.
        parts: u32,
        /// The operation's level.
        level: Consistency,
        /// The first error of the others.
        why: String,
    },
    /// The node is stopping; nothing was sent.
    #[error("the node is shutting down")]
    ShuttingDown,
    /// The node stopped while the operation was under way.
    #[error("the node stopped while the operation was under way")]
    Stopped,
    /// The table went away.
    #[error("the table does not exist any more")]
    NoSuchTable,
}

impl OpError {
    /// What became of the write that met this error.
    #[must_use]
    pub fn fate(&self) -> Fate {
        match self {
            Self::Timeout { fate, .. }
            | Self::Contended { fate, .. }
            | Self::TooFewReplicas { fate, .. } => *fate,
            Self::OperationExpired | Self::Stopped | Self::Partly { .. } => Fate::Unknown,
            Self::Unavailable { .. }
            | Self::ConditionFailed { .. }
            | Self::FenceTooOld { .. }
            | Self::Invalid(_)
            | Self::BadLevel(_)
            | Self::Reserved(_)
            | Self::NotSupported(_)
            | Self::NotAReplica { .. }
            | Self::Overloaded { .. }
            | Self::TooManySiblings { .. }
            | Self::RecordTooLarge { .. }
            | Self::BadOperationId(_)
            | Self::OperationReused
            | Self::IndexBuilding { .. }
            | Self::DiskFull
            | Self::ShuttingDown
            | Self::NoSuchTable => Fate::NotApplied,
        }
    }

    /// What became of an operation of several parts, of which each is atomic by itself. It has not
    /// been applied only if none of them has: whoever hears so may send all of it again.
    ///
    /// # Errors
    /// The first error of unknown fate; else the first, if every part failed; else
    /// [`OpError::Partly`].
    pub fn of_parts(level: Consistency, results: Vec<Result<(), Self>>) -> Result<(), Self> {
        let (mut first, mut parts, mut failed) = (None::<Self>, 0, 0);
        for result in results {
            parts += 1;
            let Err(error) = result else { continue };
            if error.fate() == Fate::Unknown {
                return Err(error);
            }
            failed += 1;
            first.get_or_insert(error);
        }
        match first {
            None => Ok(()),
            Some(error) if failed == parts => Err(error),
            Some(error) => {
                Err(Self::Partly { done: parts - failed, parts, level, why: error.to_string() })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused() -> Result<(), OpError> {
        Err(OpError::Unavailable { level: Consistency::Quorum, required: 2, alive: 1 })
    }

    fn fate(results: Vec<Result<(), OpError>>) -> Option<Fate> {
        OpError::of_parts(Consistency::Quorum, results).err().map(|error| error.fate())
    }

    #[test]
    fn a_whole_is_not_applied_only_if_no_part_of_it_is() {
        assert_eq!(fate(vec![Ok(()), Ok(())]), None);
        assert_eq!(fate(vec![refused(), refused()]), Some(Fate::NotApplied));
        assert_eq!(fate(vec![refused(), Ok(())]), Some(Fate::Unknown));
        assert_eq!(fate(vec![Ok(()), refused()]), Some(Fate::Unknown));
        assert_eq!(fate(vec![refused(), Err(OpError::Stopped)]), Some(Fate::Unknown));
    }
}
