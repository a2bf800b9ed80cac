//! Judges a history: what clients saw against what was promised.
//!
//! Each checker looks at the operations of one key (dots: of all keys) and names every breach it
//! finds, with the operations that prove it. They are black-box: nothing here knows how the
//! database works. All are linear or quadratic in the operations of a key, on bit sets.
//!
//! Unknown outcomes are never a breach by themselves: a write without an answer may show at any
//! time, or never. A breach is therefore a proof, not a suspicion, as long as what a client sent
//! as its context is recorded truly.
//!
//! Every checker has a transcript that it must pass and one per anomaly that it must name
//! (`tests`); a checker that cannot fail proves nothing.

mod bits;
mod dots;
pub mod linear;
mod register;
pub mod rows;
mod serial;
mod set;
mod siblings;
#[cfg(test)]
mod tests;
mod values;

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

use crate::sim::history::{History, Operation, Workload, WriteId};

/// A promise that was broken; invariants (I…) and workload checks (W…) carry the numbers of the
/// project's test plan.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
pub enum Check {
    /// A key that only Paxos writes is not linearizable.
    W1,
    /// An acknowledged element of a set is missing.
    W4,
    /// An acknowledged write is gone though nothing superseded it.
    W5Lost,
    /// A value is shown although an acknowledged write had superseded it.
    W5FalseSibling,
    /// A value that nobody wrote, or whose write was answered "did not happen".
    W5Invented,
    /// A read does not cover what had been read or acknowledged before it began.
    W5Backwards,
    /// One dot names two values.
    W5DotReuse,
    /// One read shows a value together with another that had superseded it.
    W5Bound,
    /// A counter shows what was not counted, or not what was.
    W6,
    /// A lock was granted twice under one number, or a write was taken that a later holder had shut out.
    W7,
    /// A client does not find its own acknowledged write.
    W9,
    /// Reads of a register went back in time.
    W10,
    /// A value was shown although it had been deleted, or had expired.
    W11,
    /// A row is torn, or one of its cells is not the greatest write's.
    W14,
    /// An index does not show what reads of the rows show, or its entries are not those of the rows.
    W19,
    /// Of a logged batch a part was written and the rest was not, or never will be.
    W20,
    /// Replicas did not become equal after faults had stopped, without any client request.
    W12,
    /// An acknowledged write is not durable on as many replicas as counted.
    I1,
    /// A value that nobody wrote, or whose write was answered "did not happen", outside W5.
    I2,
    /// A dot was minted twice, or left its node before it was on disk.
    I3,
    /// A record's own vector covers one of its live values without naming it, or shrank.
    I4,
    /// A merge law failed on records of this run.
    I5,
    /// Two values were voted for under one ballot of one key.
    I6,
    /// A voter answered with what is not on its disk.
    I7,
    /// A node's epoch went back, or two nodes disagree on an entry of the metadata log.
    I9,
    /// A node served a key that it does not own.
    I10,
    /// A tombstone went from a replica although not all replicas held it.
    I12,
    /// What was dead on a replica came to life there.
    I13,
    /// A hash tree is not what the data gives, at a quiet point.
    I14,
    /// A hint was deleted although its target did not durably have the record.
    I15,
    /// Hints or queues of a node grew beyond their bounds.
    I16,
    /// A request ended after its deadline, never, or twice.
    I17,
    /// A quorum read returned what an earlier quorum read's answer dominates.
    I18,
    /// Damage was served, or taken for absence.
    I20,
    /// A hybrid clock went back, or ran ahead of all clocks.
    I22,
    /// A node acknowledged a write after an I/O error had stopped it.
    I23,
    /// Two live nodes share an identity.
    I24,
    /// After healing, the cluster did not serve, or reads did not settle.
    Liveness,
    /// A task of a node panicked.
    Panic,
    /// Time stood still: tasks woke each other without end.
    Livelock,
}

impl Check {
    /// All of them.
    pub const ALL: [Self; 40] = [
        Self::W1,
        Self::I6,
        Self::I7,
        Self::W4,
        Self::W5Lost,
        Self::W5FalseSibling,
        Self::W5Invented,
        Self::W5Backwards,
        Self::W5DotReuse,
        Self::W5Bound,
        Self::W6,
        Self::W7,
        Self::W9,
        Self::W10,
        Self::W11,
        Self::W12,
        Self::W14,
        Self::W19,
        Self::W20,
        Self::I1,
        Self::I2,
        Self::I3,
        Self::I4,
        Self::I5,
        Self::I9,
        Self::I10,
        Self::I12,
        Self::I13,
        Self::I14,
        Self::I15,
        Self::I16,
        Self::I17,
        Self::I18,
        Self::I20,
        Self::I22,
        Self::I23,
        Self::I24,
        Self::Liveness,
        Self::Panic,
        Self::Livelock,
    ];

    /// Its name in the test plan, such as `W5.1`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::W1 => "W1",
            Self::I6 => "I6",
            Self::I7 => "I7",
            Self::W4 => "W4",
            Self::W5Lost => "W5.1",
            Self::W5FalseSibling => "W5.2",
            Self::W5Invented => "W5.3",
            Self::W5Backwards => "W5.4",
            Self::W5DotReuse => "W5.5",
            Self::W5Bound => "W5.6",
            Self::W6 => "W6",
            Self::W7 => "W7",
            Self::W9 => "W9",
            Self::W10 => "W10",
            Self::W11 => "W11",
            Self::W12 => "W12",
            Self::W14 => "W14",
            Self::W19 => "W19",
            Self::W20 => "W20",
            Self::I1 => "I1",
            Self::I2 => "I2",
            Self::I3 => "I3",
            Self::I4 => "I4",
            Self::I5 => "I5",
            Self::I9 => "I9",
            Self::I10 => "I10",
            Self::I12 => "I12",
            Self::I13 => "I13",
            Self::I14 => "I14",
            Self::I15 => "I15",
            Self::I16 => "I16",
            Self::I17 => "I17",
            Self::I18 => "I18",
            Self::I20 => "I20",
            Self::I22 => "I22",
            Self::I23 => "I23",
            Self::I24 => "I24",
            Self::Liveness => "liveness",
            Self::Panic => "panic",
            Self::Livelock => "livelock",
        }
    }

    /// The check called `name`.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|check| check.name().eq_ignore_ascii_case(name))
    }
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A breach that was found.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Violation {
    /// Of what.
    pub check: Check,
    /// On which key; empty when it is not about one.
    pub key: String,
    /// What is wrong, in words.
    pub what: String,
    /// Numbers of the operations that prove it.
    pub operations: Vec<usize>,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { check, key, what, operations } = self;
        write!(f, "{check}: ")?;
        if !key.is_empty() {
            write!(f, "key {key}: ")?;
        }
        write!(f, "{what}")?;
        if !operations.is_empty() {
            write!(f, " (operations {operations:?})")?;
        }
        Ok(())
    }
}

/// The operations of one key, for its checkers.
pub(crate) struct KeyHistory<'a> {
    pub(crate) key: &'a str,
    /// In order of their calls, with their numbers in the history.
    pub(crate) operations: Vec<(usize, &'a Operation)>,
    /// Position in `operations` of each write.
    pub(crate) writes: BTreeMap<WriteId, usize>,
}

impl<'a> KeyHistory<'a> {
    fn new(history: &'a History, key: &'a str, numbers: &[usize]) -> Self {
        let operations: Vec<_> = numbers.iter().map(|&n| (n, &history.operations[n])).collect();
        let writes = operations
            .iter()
            .enumerate()
            .filter_map(|(at, (_, operation))| Some((operation.action.write_id()?, at)))
            .collect();
        Self { key, operations, writes }
    }

    fn breach(&self, check: Check, what: String, at: &[usize]) -> Violation {
        let operations = at.iter().map(|&at| self.operations[at].0).collect();
        Violation { check, key: self.key.to_owned(), what, operations }
    }
}

/// Runs all checkers that a history alone can feed.
#[must_use]
pub fn check(history: &History) -> Vec<Violation> {
    let mut found = dots::check(history);
    for (key, numbers) in history.by_key() {
        let of_key = KeyHistory::new(history, key, &numbers);
        let Some((_, first)) = of_key.operations.first() else { continue };
        found.extend(values::check(&of_key, first.workload));
        match first.workload {
            Workload::Set => found.extend(set::check(&of_key)),
            Workload::Siblings => found.extend(siblings::check(&of_key)),
            Workload::Register => found.extend(register::check(&of_key)),
            // Their values go by themselves; the oracle knows when.
            Workload::Expiring => {}
            Workload::Strong | Workload::Conditional => found.extend(serial::check(&of_key)),
        }
    }
    found.sort_by(|a, b| (a.check, &a.key).cmp(&(b.check, &b.key)));
    found
}
