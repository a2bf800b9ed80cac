//! Locks, leases and leader elections: what a request does to one of them. Pure.
//!
//! # The idea
//!
//! A lock is a key of a `strong` table. Its value, while somebody holds it, says who ([`Holding`])
//! and expires with the lease; its record's *fence* ([`Record::fence`]) counts the grants. A request
//! is judged inside a Paxos round on the newest state of the key, so all requests for one lock have
//! one order, and no grant is ever forgotten: the fence outlives release, expiry and deletion, and
//! a record that has one is never purged.
//!
//! ```text
//! free, fence 7 ──acquire by a──▶ held by a, fence 8 ──renew with 8──▶ held by a, fence 8, longer
//!                                   │            │
//!                        release with 8    time over
//!                                   ▼            ▼
//!                              free, fence 8 ──acquire by b──▶ held by b, fence 9
//! ```
//!
//! # What may be relied on
//!
//! - The fences of all grants of one name are distinct and rise in the order of the grants.
//! - While the clocks of the nodes that judge agree, at most one holder's time is running.
//! - Nothing that must be right rests on those clocks. A lease that ends too early by a fast clock,
//!   and a holder that was paused for longer than its lease, both lead to two processes that think
//!   they hold the lock. That is why whatever the lock protects must be written with its fence
//!   (`If-Fence`): the record of the protected key remembers the highest one, and refuses the older
//!   holder from the moment that the newer one has written. (Gray and Cheriton: "Leases", 1989;
//!   Burrows: "The Chubby lock service", 2006, §2.4 on sequencers.) Until the newer holder has
//!   written there, a late write of the older one is still taken; it is then ordered before.
//!
//! # Choices
//!
//! - Whose time is over holds nothing any more, even if nobody has come since: it must acquire
//!   anew, and gets a new fence. So a holder that was told its lease has ended can rely on that.
//! - An owner's name is a label for people. Who holds the lock is told by the fence alone: a second
//!   process with the same owner is refused. In an election it is the other way round: a candidate
//!   is its name, and a leader that stands again has its time extended.
//! - Nobody queues here: who is refused tries again. A queue would need the waiting to be alive.

use serde::{Deserialize, Serialize};

use crate::plants::{Plant, planted};
use crate::record::Record;
use crate::types::{OpId, WallMicros};

/// Who holds a lock.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Holding {
    /// As the holder called itself.
    pub owner: String,
    /// The grant's number.
    pub fence: u64,
    /// The lease, in milliseconds, as of its last renewal.
    pub ttl_ms: u64,
    /// The operation that was granted.
    pub granted: OpId,
}

/// What somebody wants of a lock.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Request {
    /// To hold it.
    Acquire {
        /// A name for people; in an election the candidate itself.
        owner: String,
        /// For how long, in milliseconds.
        ttl_ms: u64,
        /// An election: who holds it under this name has its time extended.
        stands: bool,
    },
    /// To hold it for longer.
    Renew {
        /// The number of the grant.
        fence: u64,
        /// For how long from now, in milliseconds.
        ttl_ms: u64,
    },
    /// To hold it no more.
    Release {
        /// The number of the grant.
        fence: u64,
    },
}

/// A lock at one instant.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub struct State {
    /// The number of the last grant; 0: there was none.
    pub fence: u64,
    /// Who holds it, and until when by the clocks of the nodes.
    pub held: Option<(Holding, WallMicros)>,
}

/// What the lock becomes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Change {
    /// Held so, from now for [`Holding::ttl_ms`].
    Held(Holding),
    /// Free.
    Freed,
}

/// Why nothing changes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Refusal {
    /// Somebody else's time is running.
    Held,
    /// The grant with this number has ended.
    Ended,
}

/// The bytes under a lock's key are not a holding.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the lock's record does not say who holds it: {0}")]
pub struct Unreadable(String);

impl Holding {
    /// As it is stored: JSON, so that a person who reads the key sees what it is.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        // A struct of text and numbers has a JSON form.
        serde_json::to_vec(self).unwrap_or_default()
    }
}

impl State {
    /// The lock whose record this is, at `now`.
    ///
    /// # Errors
    /// [`Unreadable`].
    pub fn of(record: &Record, now: WallMicros) -> Result<Self, Unreadable> {
        let view = record.view(now);
        let mut held: Option<(Holding, WallMicros)> = None;
        for version in &view.versions {
            let holding: Holding = serde_json::from_slice(&version.value.body)
                .map_err(|error| Unreadable(error.to_string()))?;
            let until = version.value.expires_at.unwrap_or(WallMicros(u64::MAX));
            if held.as_ref().is_none_or(|(other, _)| other.fence < holding.fence) {
                held = Some((holding, until));
            }
        }
        Ok(Self { fence: record.fence(), held })
    }

    /// Milliseconds that the holder has left at `now`, rounded up; 0 if nobody holds it.
    #[must_use]
    pub fn remaining_ms(&self, now: WallMicros) -> u64 {
        let until = self.held.as_ref().map_or(WallMicros(0), |(_, until)| *until);
        until.0.saturating_sub(now.0).div_ceil(1_000)
    }

    /// What `request`, made as operation `op`, does.
    ///
    /// # Errors
    /// [`Refusal`]; nothing changes.
    pub fn judge(&self, request: &Request, op: OpId) -> Result<Change, Refusal> {
        let held = self.held.as_ref().map(|(holding, _)| holding);
        match request {
            Request::Acquire { owner, ttl_ms, stands } => match held {
                Some(leader) if *stands && leader.owner == *owner => {
                    Ok(Change::Held(Holding { ttl_ms: *ttl_ms, ..leader.clone() }))
                }
                Some(_) => Err(Refusal::Held),
                None => {
                    let last = if planted(Plant::P34) { 0 } else { self.fence };
                    // A record's own fence can be set to any number by a client, a lock's cannot:
                    // it is counted up from 0, and does not come to its end.
                    let fence = last.checked_add(1).ok_or(Refusal::Ended)?;
                    let (owner, ttl_ms) = (owner.clone(), *ttl_ms);
                    Ok(Change::Held(Holding { owner, fence, ttl_ms, granted: op }))
                }
            },
            Request::Renew { fence, ttl_ms } => match held {
                Some(holding) if holding.fence == *fence => {
                    Ok(Change::Held(Holding { ttl_ms: *ttl_ms, ..holding.clone() }))
                }
                Some(_) | None => Err(Refusal::Ended),
            },
            Request::Release { fence } => match held {
                Some(holding) if holding.fence == *fence => Ok(Change::Freed),
                Some(_) | None => Err(Refusal::Ended),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OP: OpId = OpId(7);

    fn acquire(owner: &str) -> Request {
        Request::Acquire { owner: owner.to_owned(), ttl_ms: 1_000, stands: false }
    }

    fn stand(candidate: &str) -> Request {
        Request::Acquire { owner: candidate.to_owned(), ttl_ms: 1_000, stands: true }
    }

    /// The state after `request` is judged at `now` milliseconds.
    fn after(state: &State, request: &Request, now: u64) -> Result<State, Refusal> {
        let mut state = state.clone();
        state.held = state.held.filter(|(_, until)| until.0 > now);
        match state.judge(request, OP)? {
            Change::Held(holding) => {
                let fence = state.fence.max(holding.fence);
                let until = WallMicros(now + holding.ttl_ms);
                Ok(State { fence, held: Some((holding, until)) })
            }
            Change::Freed => Ok(State { held: None, ..state }),
        }
    }

    fn fence(state: &State) -> u64 {
        state.held.as_ref().map_or(0, |(holding, _)| holding.fence)
    }

    #[test]
    fn each_grant_has_a_higher_fence_than_all_before_it_however_they_ended() {
        let first = after(&State::default(), &acquire("a"), 0).unwrap();
        assert_eq!(fence(&first), 1);
        assert_eq!(after(&first, &acquire("b"), 500), Err(Refusal::Held));
        assert_eq!(after(&first, &acquire("a"), 500), Err(Refusal::Held), "a name is no proof");
        let expired = after(&first, &acquire("b"), 1_000).unwrap();
        assert_eq!(fence(&expired), 2);
        let free = after(&expired, &Request::Release { fence: 2 }, 1_100).unwrap();
        assert_eq!((fence(&free), free.fence), (0, 2));
        assert_eq!(fence(&after(&free, &acquire("a"), 1_200).unwrap()), 3);
    }

    #[test]
    fn only_the_present_grant_is_renewed_or_released() {
        let first = after(&State::default(), &acquire("a"), 0).unwrap();
        let renew = |fence| Request::Renew { fence, ttl_ms: 5_000 };
        let longer = after(&first, &renew(1), 900).unwrap();
        assert_eq!(longer.held.as_ref().map(|(_, until)| until.0), Some(5_900));
        for other in [renew(0), renew(2), Request::Release { fence: 2 }] {
            assert_eq!(after(&longer, &other, 1_000), Err(Refusal::Ended), "{other:?}");
        }
        assert_eq!(after(&longer, &renew(1), 5_900), Err(Refusal::Ended), "its time is over");
        let next = after(&longer, &acquire("b"), 6_000).unwrap();
        assert_eq!(after(&next, &renew(1), 6_100), Err(Refusal::Ended));
        assert_eq!(after(&next, &Request::Release { fence: 1 }, 6_100), Err(Refusal::Ended));
    }

    #[test]
    fn a_leader_that_stands_again_leads_on_under_the_same_fence() {
        let first = after(&State::default(), &stand("a"), 0).unwrap();
        let again = after(&first, &stand("a"), 900).unwrap();
        assert_eq!((fence(&again), again.held.as_ref().unwrap().1), (1, WallMicros(1_900)));
        assert_eq!(after(&again, &stand("b"), 1_800), Err(Refusal::Held));
        let other = after(&again, &stand("b"), 1_900).unwrap();
        assert_eq!(fence(&other), 2);
        assert_eq!(fence(&after(&other, &stand("a"), 3_000).unwrap()), 3, "a new term");
    }
}
