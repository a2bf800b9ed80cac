//! What a proposer of a lightweight transaction says to the voters of one key
//! ([`crate::paxos`], [`crate::replica`]). States travel as records' stored bytes.
//!
//! In a table of rows a register stands for a whole partition, under the key of its head. What is
//! proposed there is a *set of rows* ([`put_rows`]): the head, which remembers the operations, and
//! all rows that the decision rests on.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::binary::{self, SealError};
use crate::types::{Ballot, Generation, Key, PartitionId, TableId};

/// The most keys in one [`PaxosAnswer::Open`].
pub const MAX_OPEN_KEYS: usize = 1_024;

/// The most rows of a partition that one round may look at: of as many operations as a round may
/// combine.
pub const MAX_ROUND_ROWS: usize = 64 * MAX_OPERATION_ROWS;

/// The most rows of a partition that one operation may look at.
pub const MAX_OPERATION_ROWS: usize = 256;

/// Format byte of a set of rows. Predecessors: none.
const ROWS_FORMAT: u8 = 1;

/// The stored bytes of a set of rows: keys and records' stored bytes, the head first.
#[must_use]
pub fn put_rows(rows: &[(Key, Bytes)]) -> Bytes {
    binary::seal(ROWS_FORMAT, &rows).into()
}

/// Reads what [`put_rows`] wrote.
///
/// # Errors
/// [`SealError`].
pub fn read_rows(bytes: &Bytes) -> Result<Vec<(Key, Bytes)>, SealError> {
    binary::unseal("a set of rows", ROWS_FORMAT, bytes)
}

/// A step of one key's Paxos. Answered only at the sender's own epoch (law L5): two rounds of
/// different epochs may count different voters.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PaxosRequest {
    /// The table.
    pub table: TableId,
    /// The key.
    pub key: Key,
    /// What is asked.
    pub step: PaxosStep,
}

/// What is asked of a voter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PaxosStep {
    /// Show the vote and the record, and promise nothing.
    Peek,
    /// Promise this ballot, and show vote and record.
    Prepare {
        /// The ballot.
        ballot: Ballot,
        /// Rows of the key's partition that are to be shown too, [`MAX_ROUND_ROWS`] at most.
        rows: Vec<Key>,
    },
    /// Vote for this record.
    Accept {
        /// The ballot.
        ballot: Ballot,
        /// The record, or the set of rows.
        record: Bytes,
        /// Promise this one too, if the vote is cast.
        next: Option<Ballot>,
    },
    /// The record was chosen: store it where readers see it.
    Commit {
        /// The ballot at which it was chosen.
        ballot: Ballot,
        /// The record, or the set of rows.
        record: Bytes,
        /// The least purge generation of the records that it was made from.
        generation: Generation,
    },
    /// All voters have stored the decision of this ballot.
    Forget {
        /// The ballot.
        ballot: Ballot,
    },
}

/// Keys of one partition that have a vote without a known decision, in order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenRequest {
    /// The table.
    pub table: TableId,
    /// The partition.
    pub partition: PartitionId,
    /// Strictly after this key in (token, key) order.
    pub after: Option<Key>,
}

/// A voter's answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PaxosAnswer {
    /// To [`PaxosStep::Peek`], and the promise of [`PaxosStep::Prepare`].
    Shown {
        /// The vote that is not known to be decided.
        accepted: Option<(Ballot, Bytes)>,
        /// The last decision that the record holds, as far as the voter's row says.
        committed: Ballot,
        /// What readers see of the key; at least as new as `committed`.
        record: Option<Bytes>,
        /// Of the rows that were asked for, in that order.
        rows: Vec<Option<Bytes>>,
        /// The purge generation that it was read at.
        generation: Generation,
    },
    /// A higher ballot was promised before.
    Reject {
        /// That ballot.
        promised: Ballot,
    },
    /// The vote is cast, or the decision stored, or what was to be forgotten looked at.
    Done,
    /// To [`OpenRequest`].
    Open {
        /// The keys.
        keys: Vec<Key>,
        /// There are more after the last one.
        more: bool,
    },
}
