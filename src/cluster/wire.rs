//! What nodes say to each other about the metadata log.

use serde::{Deserialize, Serialize};

use crate::binary::{self, SealError};
use crate::meta::{Founder, LogEntry};
use crate::types::{ActorId, Ballot, Epoch, VoterId};

/// Format byte of these messages. Predecessors: 1 knew no voters; never released.
const FORMAT: u8 = 2;

/// The most entries in one answer.
pub(super) const MAX_ENTRIES: usize = 256;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum MetaRequest {
    /// Founding, first step: "my configuration names these founders; show me your card".
    Card { names: u128 },
    /// Founding, second step: "these are everybody's cards; will you found this cluster and no
    /// other?"
    Confirm { cards: Vec<Founder> },
    /// Paxos, first phase, for entry `index`. `founding`: for entry 1, the digest of the cards.
    Prepare { index: u64, founding: u128, ballot: Ballot },
    /// Paxos, second phase.
    Accept { index: u64, founding: u128, ballot: Ballot, entry: LogEntry },
    /// These entries are chosen, from number `first` on.
    Learn { first: u64, entries: Vec<LogEntry> },
    /// What comes after this epoch?
    Fetch { after: Epoch },
    /// "I am the start `start` of `actor`: how far have you heard me to be before?"
    Recall { actor: ActorId, start: u64 },
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum MetaResponse {
    Card(Founder),
    Confirmed,
    Promise {
        voter: VoterId,
        ballot: Ballot,
        accepted: Option<(Ballot, LogEntry)>,
    },
    Accepted {
        voter: VoterId,
        ballot: Ballot,
    },
    Reject {
        voter: VoterId,
        ballot: Ballot,
        promised: Ballot,
    },
    /// The asker is behind: here is what it lacks. Also the answer to `Fetch`.
    Entries {
        first: u64,
        entries: Vec<LogEntry>,
    },
    /// The answerer is behind, and votes on nothing before it has learnt what comes before.
    Behind {
        epoch: Epoch,
    },
    /// What was to be learnt is learnt.
    Learned {
        epoch: Epoch,
    },
    /// How far the answerer is in the log, and the greatest mark that it has heard of other starts
    /// of the asker's actor.
    Recalled {
        epoch: Epoch,
        mark: u64,
    },
    No {
        why: String,
    },
}

/// What the messages are called in errors.
const WHAT: &str = "a metadata message";

impl MetaRequest {
    pub(super) fn encode(&self) -> Vec<u8> {
        binary::pack(FORMAT, self)
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, SealError> {
        binary::unpack(WHAT, FORMAT, bytes)
    }
}

impl MetaResponse {
    pub(super) fn encode(&self) -> Vec<u8> {
        binary::pack(FORMAT, self)
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, SealError> {
        binary::unpack(WHAT, FORMAT, bytes)
    }
}
