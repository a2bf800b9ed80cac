//! Why an operation has no result, and what became of it then.

use serde::Serialize;

use crate::coordinator::Cause;
use crate::meta::TableName;
use crate::record::Record;
use crate::types::{Consistency, NodeId, WallMicros};

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
