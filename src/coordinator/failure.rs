//! Why replicas have not done what they were asked.

use std::collections::BTreeMap;

use crate::net::{CallError, Refusal};
use crate::types::NodeId;

/// What kept a replica from it, as far as anybody makes a difference.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// Its disk is full.
    Full,
    /// It has too much to do, or too much is under way to it.
    Busy,
    /// Its copy is damaged.
    Damaged,
    /// There is no connection to it: nothing was sent.
    Unreachable,
    /// No answer has come. It may have been done, or may yet be.
    Silent,
    /// What it has said, in words.
    Other,
}

/// Why a replica does not count.
pub(super) struct Failure {
    pub(super) cause: Cause,
    pub(super) said: String,
}

/// By replica.
pub(super) type Failures = BTreeMap<NodeId, Failure>;

/// Who has failed, in order.
pub(super) fn causes(failures: &Failures) -> Vec<(NodeId, Cause)> {
    failures.iter().map(|(&node, failure)| (node, failure.cause)).collect()
}

/// True if some have failed, and all of them for this reason.
pub(super) fn all_are(failures: &Failures, cause: Cause) -> bool {
    !failures.is_empty() && failures.values().all(|failure| failure.cause == cause)
}

impl From<&Refusal> for Failure {
    fn from(refusal: &Refusal) -> Self {
        let cause = match refusal {
            Refusal::DiskFull => Cause::Full,
            Refusal::Overloaded { .. } => Cause::Busy,
            Refusal::Damaged => Cause::Damaged,
            _ => Cause::Other,
        };
        Self { cause, said: format!("refused: {refusal}") }
    }
}

impl From<&CallError> for Failure {
    fn from(error: &CallError) -> Self {
        let cause = match error {
            // A bound on what is under way to that node.
            CallError::NotSent { unreachable: false, .. } => Cause::Busy,
            CallError::NotSent { .. } => Cause::Unreachable,
            CallError::Lost { .. } => Cause::Silent,
        };
        Self { cause, said: error.to_string() }
    }
}

impl From<String> for Failure {
    fn from(said: String) -> Self {
        Self { cause: Cause::Other, said }
    }
}
