//! The voter's side: what one acceptor has promised and accepted.

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::binary::{self, SealError};
use crate::types::Ballot;

/// Format byte of a stored acceptor. Predecessors: none.
const FORMAT: u8 = 1;

/// A reply that may leave only when the acceptor's present state is on stable storage (law L9).
#[derive(Clone, PartialEq, Eq, Debug)]
#[must_use = "persist the acceptor, then send the reply"]
pub struct Durable<R> {
    reply: R,
    changed: bool,
}

impl<R> Durable<R> {
    /// A reply, and whether the state that it speaks of has to be stored first.
    pub fn new(reply: R, changed: bool) -> Self {
        Self { reply, changed }
    }

    /// True when the state changed, so that there is something to store first. When false, the
    /// state that the reply speaks of is the one that the caller stored before.
    #[must_use]
    pub fn must_persist(&self) -> bool {
        self.changed
    }

    /// Releases the reply. The caller states by this call that the acceptor's state is on stable
    /// storage (or that [`Durable::must_persist`] is false).
    pub fn after_persist(self) -> R {
        self.reply
    }
}

/// An acceptor's answer to *prepare*.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub enum PrepareReply<V> {
    /// Lower ballots will be refused from now on.
    Promise {
        /// The ballot that was prepared.
        ballot: Ballot,
        /// What this acceptor accepted last, at a lower ballot.
        accepted: Option<(Ballot, V)>,
    },
    /// A higher ballot was promised before.
    Reject {
        /// The ballot that was refused.
        ballot: Ballot,
        /// The one that stands in its way.
        promised: Ballot,
    },
}

/// An acceptor's answer to *accept*.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub enum AcceptReply {
    /// Accepted: a vote for the value at this ballot.
    Accepted {
        /// The ballot of the vote.
        ballot: Ballot,
    },
    /// A higher ballot was promised before.
    Reject {
        /// The ballot that was refused.
        ballot: Ballot,
        /// The one that stands in its way.
        promised: Ballot,
    },
}

/// An acceptor's record that cannot have come about by the rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an acceptor that accepted at {accepted:?} cannot have promised only {promised:?}")]
pub struct BrokenAcceptor {
    /// The ballot of the accepted value.
    pub accepted: Ballot,
    /// The promise, which is lower.
    pub promised: Ballot,
}

/// One acceptor of one instance.
///
/// - A promise never falls.
/// - The ballot of the accepted value never falls and is never above the promise.
/// - At one ballot at most one value is ever accepted (invariant I6).
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize)]
pub struct Acceptor<V> {
    promised: Ballot,
    accepted: Option<(Ballot, V)>,
}

impl<V> Default for Acceptor<V> {
    fn default() -> Self {
        Self { promised: Ballot::ZERO, accepted: None }
    }
}

impl<V: Clone + PartialEq> Acceptor<V> {
    /// An acceptor with the given past.
    ///
    /// # Errors
    /// [`BrokenAcceptor`] when the parts contradict each other.
    pub fn restore(
        promised: Ballot,
        accepted: Option<(Ballot, V)>,
    ) -> Result<Self, BrokenAcceptor> {
        match &accepted {
            Some((ballot, _)) if *ballot > promised => {
                Err(BrokenAcceptor { accepted: *ballot, promised })
            }
            _ => Ok(Self { promised, accepted }),
        }
    }

    /// The highest ballot promised; [`Ballot::ZERO`] before the first.
    #[must_use]
    pub fn promised(&self) -> Ballot {
        self.promised
    }

    /// The value accepted last and its ballot.
    #[must_use]
    pub fn accepted(&self) -> Option<&(Ballot, V)> {
        self.accepted.as_ref()
    }

    /// Answers "will you ignore all ballots below `ballot`?". A ballot that is promised already
    /// is promised again: the message was doubled, and its first answer may have been lost.
    pub fn on_prepare(&mut self, ballot: Ballot) -> Durable<PrepareReply<V>> {
        if ballot < self.promised {
            let reply = PrepareReply::Reject { ballot, promised: self.promised };
            return Durable::new(reply, false);
        }
        let changed = ballot > self.promised;
        self.promised = ballot;
        Durable::new(PrepareReply::Promise { ballot, accepted: self.accepted.clone() }, changed)
    }

    /// Answers "do you accept `value` at `ballot`?".
    pub fn on_accept(&mut self, ballot: Ballot, value: V) -> Durable<AcceptReply> {
        let reject = AcceptReply::Reject { ballot, promised: self.promised };
        if ballot < self.promised {
            return Durable::new(reject, false);
        }
        match &self.accepted {
            Some((at, standing)) if *at == ballot => {
                // Doubled. Another value at the same ballot means that its proposer used the
                // ballot twice; a vote once given stands.
                let reply =
                    if *standing == value { AcceptReply::Accepted { ballot } } else { reject };
                Durable::new(reply, false)
            }
            _ => {
                self.promised = ballot;
                self.accepted = Some((ballot, value));
                Durable::new(AcceptReply::Accepted { ballot }, true)
            }
        }
    }
}

impl<V: Clone + PartialEq + Serialize + DeserializeOwned> Acceptor<V> {
    /// The stored form: versioned and with a checksum.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        binary::seal(FORMAT, self)
    }

    /// Reads the stored form.
    ///
    /// # Errors
    /// Any [`SealError`]: what this acceptor promised and accepted is then lost, and it must not
    /// vote in this instance again.
    pub fn decode(bytes: &[u8]) -> Result<Self, SealError> {
        let what = "an acceptor's state";
        let (promised, accepted) = binary::unseal(what, FORMAT, bytes)?;
        Self::restore(promised, accepted)
            .map_err(|broken| SealError::Malformed { what, why: broken.to_string() })
    }
}
