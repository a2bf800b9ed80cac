//! What nodes say to each other about the metadata log.

use serde::{Deserialize, Serialize};

use crate::meta::{Founder, LogEntry};
use crate::paxos::codec::{self, CodecError};
use crate::types::{ActorId, Ballot, Epoch, Incarnation};

/// Format byte of these messages. Predecessors: none.
const FORMAT: u8 = 1;

/// The most entries in one answer.
pub(super) const MAX_ENTRIES: usize = 256;

/// Who casts a vote: which start of which history.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Voter {
    pub(super) actor: ActorId,
    pub(super) incarnation: Incarnation,
    pub(super) nonce: u64,
}

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
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum MetaResponse {
    Card(Founder),
    Confirmed,
    Promise {
        voter: Voter,
        ballot: Ballot,
        accepted: Option<(Ballot, LogEntry)>,
    },
    Accepted {
        voter: Voter,
        ballot: Ballot,
    },
    Reject {
        voter: Voter,
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
    No {
        why: String,
    },
}

fn seal<T: Serialize>(message: &T) -> Vec<u8> {
    let mut out = vec![FORMAT];
    out.append(&mut codec::body(message));
    out
}

fn open<T: serde::de::DeserializeOwned>(bytes: &[u8]) -> Result<T, CodecError> {
    let what = "a metadata message";
    match bytes.split_first() {
        Some((&FORMAT, body)) => codec::parse_body(what, body),
        Some((&found, _)) => Err(CodecError::UnknownFormat { what, found, known: FORMAT }),
        None => Err(CodecError::Damaged { what, bytes: 0 }),
    }
}

impl MetaRequest {
    pub(super) fn encode(&self) -> Vec<u8> {
        seal(self)
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        open(bytes)
    }
}

impl MetaResponse {
    pub(super) fn encode(&self) -> Vec<u8> {
        seal(self)
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        open(bytes)
    }
}
