//! The operations that a record remembers.

use serde::{Deserialize, Serialize};

use crate::types::{Dot, OpId};

/// How many operations a record remembers (rule 3).
pub const OP_LOG_LEN: usize = 32;

/// One remembered operation.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct OpEntry {
    /// The operation.
    pub op: OpId,
    /// One event that it was minted as.
    pub dot: Dot,
    /// Digest of the request.
    pub request: u64,
    /// No live value stood where it was minted.
    pub created: bool,
    /// It was a deletion.
    pub delete: bool,
    /// What was decided of it.
    pub verdict: OpVerdict,
}

/// What was decided of an operation. All but the first are decisions of Paxos alone.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Debug, Serialize, Deserialize)]
pub enum OpVerdict {
    /// It took effect.
    #[default]
    Applied,
    /// Its condition did not hold.
    Refused,
    /// It had not run when somebody asked what had become of it, and never will.
    Barred,
}

/// What a record knows about an operation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OpMemory {
    /// It was minted; this was the outcome. Of several mintings the one with the smallest dot.
    Applied(OpEntry),
    /// It was judged, and its condition did not hold.
    Refused(OpEntry),
    /// It has been decided that it never runs.
    Barred,
    /// Another request used this id.
    Reused,
    /// Older than all that a full memory holds: it may have been applied and forgotten. It must
    /// not be run.
    Forgotten,
    /// Never seen here.
    Unknown,
}

/// The newest [`OP_LOG_LEN`] operations by (op, dot). The first k of a union are the first k of
/// the first k's, so this is a join like any other.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub(crate) struct OpLog {
    /// Strictly ascending by (op, dot).
    entries: Vec<OpEntry>,
}

impl OpLog {
    /// Takes entries that must be strictly ascending by (op, dot), and few enough.
    pub(crate) fn from_sorted(entries: Vec<OpEntry>) -> Option<Self> {
        let sorted = entries.is_sorted_by(|a, b| (a.op, a.dot) < (b.op, b.dot));
        (sorted && entries.len() <= OP_LOG_LEN).then_some(Self { entries })
    }

    pub(crate) fn entries(&self) -> &[OpEntry] {
        &self.entries
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Adds one entry. True when the log changed.
    pub(crate) fn add(&mut self, entry: OpEntry) -> bool {
        match self.entries.binary_search_by_key(&(entry.op, entry.dot), |e| (e.op, e.dot)) {
            // One dot is one event, so only a reused dot gets here with another entry. Whichever
            // wins, all replicas must choose alike.
            Ok(at) if self.entries[at] < entry => self.entries[at] = entry,
            Ok(_) => return false,
            Err(0) if self.entries.len() == OP_LOG_LEN => return false,
            Err(at) => {
                self.entries.insert(at, entry);
                if self.entries.len() > OP_LOG_LEN {
                    self.entries.remove(0);
                }
            }
        }
        true
    }

    /// Joins `other` in. True when the log changed.
    pub(crate) fn join(&mut self, other: &Self) -> bool {
        if self == other {
            return false;
        }
        // Newest first: what is too old then meets a full log.
        other.entries.iter().rev().fold(false, |changed, &entry| self.add(entry) | changed)
    }

    pub(crate) fn find(&self, op: OpId, request: u64) -> OpMemory {
        let judged = |verdict| {
            self.of(op).find(move |entry| entry.request == request && entry.verdict == verdict)
        };
        if let Some(entry) = judged(OpVerdict::Applied) {
            return OpMemory::Applied(*entry);
        }
        if let Some(entry) = judged(OpVerdict::Refused) {
            return OpMemory::Refused(*entry);
        }
        if self.of(op).any(|entry| entry.verdict == OpVerdict::Barred) {
            return OpMemory::Barred;
        }
        let full = self.entries.len() == OP_LOG_LEN;
        match (self.of(op).next(), self.entries.first()) {
            (Some(_), _) => OpMemory::Reused,
            (None, Some(oldest)) if full && op < oldest.op => OpMemory::Forgotten,
            (None, _) => OpMemory::Unknown,
        }
    }

    /// The entries of `op`, by dot.
    pub(crate) fn of(&self, op: OpId) -> impl Iterator<Item = &OpEntry> {
        let start = self.entries.partition_point(|entry| entry.op < op);
        self.entries[start..].iter().take_while(move |entry| entry.op == op)
    }

    /// True unless both dots are remembered with different requests: then a client has used one
    /// id for two things, and neither may hide the other.
    pub(crate) fn same_request(&self, op: OpId, a: Dot, b: Dot) -> bool {
        let request = |dot| self.of(op).find(|entry| entry.dot == dot).map(|entry| entry.request);
        match (request(a), request(b)) {
            (Some(a), Some(b)) => a == b,
            (None, _) | (_, None) => true,
        }
    }
}
