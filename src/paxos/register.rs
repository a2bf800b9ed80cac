//! Paxos for a value that changes: one register, decided again and again.
//!
//! The register's state is whatever was chosen last; the next round is proposed a function of it.
//! (Rystsov: "CASPaxos", 2018; Cassandra's lightweight transactions come to the same.) A round is
//!
//! 1. *Prepare*: promises from a majority, each with what that voter accepted last and the last
//!    decision that it knows of.
//! 2. The caller makes the next state out of the newest one ([`Found`]): of the accepted states,
//!    that of the highest ballot, unless a voter knows a decision at or above it. Then it is dead
//!    or part of that decision, and the voter's own data holds the decision's result.
//! 3. *Accept*: once a majority has voted for the next state, it is chosen.
//! 4. *Commit*, sent when chosen: the voter stores the state where readers see it, and need not
//!    keep it as a vote any more.
//!
//! Why no decision is lost: a state chosen at b was voted for by a majority, and each of these
//! voters either still shows that vote, or a later one, or has stored the state as data. Any later
//! round at b' > b meets one of them *after* it voted, or it would have refused b. So its caller
//! builds on the state: every chosen state contains all that were chosen before it.
//!
//! A vote that a *minority* cast stays where it is until a round meets it, and then it is
//! finished as if it had been chosen. So what a round has seen is settled, or nothing was there;
//! a round that has only read may say so only if (a) it met no undecided vote, or (b) it had what
//! it met chosen at its own ballot. [`Found::settled`] tells.
//!
//! A state may be more than what a voter shows of its data (rows of a partition of which a round
//! names some). Then a decision that one voter alone has stored, and whose votes a round about
//! other rows replaces, would be whole on that voter only. So a voter of such a register *keeps* the
//! vote for a decision that it has stored ([`Voter::on_commit_keeping`]), and a round is given the
//! latest decision that it meets unless all who promised have stored it ([`Found::decided`]): what
//! it proposes contains it. By induction every part of every decision is stored by a majority, or is
//! in the votes and kept votes of one.
//!
//! Left to the caller: durability (law L9, [`Durable`]), who may vote, by which epoch, and when a
//! voter's row may be dropped ([`Voter::forget`]).

use std::collections::{BTreeMap, BTreeSet};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::binary::{self, SealError};
use crate::paxos::{AcceptReply, Acceptor, Durable, Electorate, PrepareReply};
use crate::plants::{Plant, planted};
use crate::types::{Ballot, VoterId};

/// Format byte of a stored voter. Predecessors: none.
const FORMAT: u8 = 1;

/// One voter of one register.
///
/// - A promise never falls; nothing is voted for below it.
/// - A standing vote is above the last decision that the voter has stored; a kept one is at it.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize)]
pub struct Voter<V> {
    acceptor: Acceptor<V>,
    committed: Ballot,
}

/// What became of a voter's row when a decision was known to be everywhere.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Forgotten {
    /// Something in it is newer than that decision: it stays.
    Kept,
    /// It may be dropped, if the floor of all rows that are not there rises to this ballot in the
    /// same step: the promise must outlive the row.
    Dropped {
        /// The promise.
        floor: Ballot,
    },
}

impl<V: Clone + PartialEq> Voter<V> {
    /// A voter that has no row: it has promised all below `floor` away.
    #[must_use]
    pub fn new(floor: Ballot) -> Self {
        let acceptor = Acceptor::restore(floor, None).unwrap_or_default();
        Self { acceptor, committed: Ballot::ZERO }
    }

    /// The highest ballot promised.
    #[must_use]
    pub fn promised(&self) -> Ballot {
        self.acceptor.promised()
    }

    /// The vote that is not known to be decided, if there is one.
    #[must_use]
    pub fn accepted(&self) -> Option<&(Ballot, V)> {
        self.acceptor.accepted().filter(|(at, _)| *at > self.committed)
    }

    /// The vote as it is to be shown: standing, or kept.
    #[must_use]
    pub fn vote(&self) -> Option<&(Ballot, V)> {
        self.acceptor.accepted()
    }

    /// The last decision that is stored as data here.
    #[must_use]
    pub fn committed(&self) -> Ballot {
        self.committed
    }

    /// Answers *prepare*.
    pub fn on_prepare(&mut self, ballot: Ballot) -> Durable<PrepareReply<V>> {
        self.acceptor.on_prepare(ballot)
    }

    /// Answers *accept*. With `next`, a vote is also the promise of that higher ballot of the same
    /// proposer, who can then go on without preparing.
    pub fn on_accept(
        &mut self,
        ballot: Ballot,
        value: V,
        next: Option<Ballot>,
    ) -> Durable<AcceptReply> {
        if ballot == self.committed {
            // Chosen and stored already; the request was doubled or late.
            return Durable::new(AcceptReply::Accepted { ballot }, false);
        }
        let mut reply = self.acceptor.on_accept(ballot, value);
        let voted = reply.must_persist();
        if let Some(next) = next.filter(|next| voted && *next > ballot) {
            let promise = self.acceptor.on_prepare(next).must_persist();
            reply = Durable::new(AcceptReply::Accepted { ballot }, voted || promise);
        }
        reply
    }

    /// Takes note that the decision of `ballot` is stored as data here. True if that is news.
    pub fn on_commit(&mut self, ballot: Ballot) -> bool {
        self.commit(ballot, |at| at > ballot)
    }

    /// As [`Voter::on_commit`], and the vote for this decision stays: see the module.
    pub fn on_commit_keeping(&mut self, ballot: Ballot) -> bool {
        self.commit(ballot, |at| at >= ballot)
    }

    fn commit(&mut self, ballot: Ballot, stays: impl Fn(Ballot) -> bool) -> bool {
        if ballot <= self.committed {
            return false;
        }
        self.committed = ballot;
        let vote = self.acceptor.accepted().filter(|(at, _)| stays(*at)).cloned();
        let promised = self.acceptor.promised().max(ballot);
        self.acceptor = Acceptor::restore(promised, vote).unwrap_or_default();
        true
    }

    /// The decision of `ballot` is stored as data on *every* voter: what is no newer can go.
    #[must_use]
    pub fn forget(&self, ballot: Ballot) -> Forgotten {
        if planted(Plant::P07) {
            return Forgotten::Dropped { floor: Ballot::ZERO };
        }
        // A bare promise may always go into the floor. What was decided may not: it tells of votes
        // that they are dead.
        if self.accepted().is_some() || self.committed > ballot {
            return Forgotten::Kept;
        }
        Forgotten::Dropped { floor: self.acceptor.promised() }
    }
}

impl<V: Clone + PartialEq + Serialize + DeserializeOwned> Voter<V> {
    /// The stored form, bound to `address`, so that a misdirected write is found out, and to the
    /// voter `of`, whose votes end with it.
    #[must_use]
    pub fn encode(&self, address: u64, of: VoterId) -> Vec<u8> {
        binary::seal(FORMAT, &(address, of, self.promised(), self.vote(), self.committed))
    }

    /// Reads the stored form. `None`: these are the votes of another voter, from before the
    /// directory was put back to an older state. They must not be shown again.
    ///
    /// # Errors
    /// Any [`SealError`]: what was promised and voted for is lost, and the voter must not vote on
    /// this register.
    pub fn decode(address: u64, voter: VoterId, bytes: &[u8]) -> Result<Option<Self>, SealError> {
        let what = "a register's voter";
        let malformed = |why: String| SealError::Malformed { what, why };
        type Row<V> = (u64, VoterId, Ballot, Option<(Ballot, V)>, Ballot);
        let (at, of, promised, accepted, committed): Row<V> = binary::unseal(what, FORMAT, bytes)?;
        if at != address {
            return Err(malformed("it belongs to another register".to_owned()));
        }
        let acceptor = Acceptor::restore(promised, accepted)
            .map_err(|broken| malformed(broken.to_string()))?;
        Ok((of == voter).then_some(Self { acceptor, committed }))
    }
}

/// A voter's promise, as its proposer hears it.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct Promise<V> {
    /// Its vote, undecided or kept.
    pub accepted: Option<(Ballot, V)>,
    /// The last decision that its data holds.
    pub committed: Ballot,
}

/// The newest state among the promises of a majority.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Found<V> {
    /// The state to build on, beside the voters' own data. `None`: their data has all.
    pub value: Option<(Ballot, V)>,
    /// Nothing that was met is undecided: there was no vote, or a majority has cast the same one.
    pub settled: bool,
    /// The last decision met, where not all who promised have stored it and some show a vote for it.
    pub decided: Option<V>,
}

/// What the promises of a majority, `quorum` at least, show.
#[must_use]
pub fn found<V: Clone>(promises: &BTreeMap<VoterId, Promise<V>>, quorum: usize) -> Found<V> {
    let decided = promises.values().map(|p| p.committed).max().unwrap_or(Ballot::ZERO);
    let votes = || promises.values().filter_map(|p| p.accepted.as_ref());
    let highest = votes().filter(|(at, _)| *at > decided).max_by_key(|(at, _)| *at).cloned();
    let highest = highest.filter(|_| !planted(Plant::P01));
    let settled = match &highest {
        None => true,
        Some((ballot, _)) => votes().filter(|(at, _)| at == ballot).count() >= quorum,
    };
    let stored = promises.values().filter(|promise| promise.committed == decided).count();
    let vote = votes().find(|(at, _)| *at == decided).filter(|_| stored < quorum);
    Found { value: highest, settled, decided: vote.map(|(_, vote)| vote.clone()) }
}

/// What the proposer's caller does next.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum RoundStep<V> {
    /// Nothing: pending.
    Wait,
    /// Make the next state out of this, then call [`Round::propose`]; or stop here.
    Judge(Found<V>),
    /// What was proposed is chosen, for ever.
    Chosen,
    /// This ballot can no longer win. What was proposed may be chosen all the same, by another
    /// proposer who meets it.
    Restart {
        /// The highest ballot that was seen.
        above: Ballot,
    },
}

#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
enum Phase<V> {
    Preparing(BTreeMap<VoterId, Promise<V>>),
    Judging,
    Accepting(BTreeSet<VoterId>),
    Over,
}

/// One round at one ballot.
///
/// - Each voter counts once in each phase, however often its reply arrives.
/// - At most one state is proposed, after a majority's promises.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Round<V> {
    ballot: Ballot,
    electorate: Electorate,
    phase: Phase<V>,
    rejections: BTreeSet<VoterId>,
    above: Ballot,
}

impl<V: Clone> Round<V> {
    /// Begins a round at a ballot that was never used before. The caller now sends *prepare*.
    #[must_use]
    pub fn new(ballot: Ballot, electorate: Electorate) -> Self {
        Self {
            ballot,
            electorate,
            phase: Phase::Preparing(BTreeMap::new()),
            rejections: BTreeSet::new(),
            above: ballot,
        }
    }

    /// A round whose ballot a majority has promised with their last votes: nothing needs to be
    /// prepared, and the state to build on is the one that they voted for.
    #[must_use]
    pub fn standing(ballot: Ballot, electorate: Electorate) -> Self {
        Self { phase: Phase::Judging, ..Self::new(ballot, electorate) }
    }

    /// The round's ballot.
    #[must_use]
    pub fn ballot(&self) -> Ballot {
        self.ballot
    }

    /// The highest ballot seen.
    #[must_use]
    pub fn above(&self) -> Ballot {
        self.above
    }

    /// A promise of this round's ballot.
    pub fn on_promise(
        &mut self,
        voter: VoterId,
        ballot: Ballot,
        promise: Promise<V>,
    ) -> RoundStep<V> {
        let Phase::Preparing(promises) = &mut self.phase else { return RoundStep::Wait };
        if ballot != self.ballot || !self.electorate.voters().contains(&voter) {
            return RoundStep::Wait;
        }
        promises.entry(voter).or_insert(promise);
        if promises.len() < self.electorate.quorum() {
            return RoundStep::Wait;
        }
        let found = found(promises, self.electorate.quorum());
        self.phase = Phase::Judging;
        RoundStep::Judge(found)
    }

    /// The caller now sends *accept* with the next state to every voter.
    pub fn propose(&mut self) {
        if matches!(self.phase, Phase::Judging) {
            self.phase = Phase::Accepting(BTreeSet::new());
        }
    }

    /// A vote for what this round proposed.
    pub fn on_accepted(&mut self, voter: VoterId, ballot: Ballot) -> RoundStep<V> {
        let Phase::Accepting(votes) = &mut self.phase else { return RoundStep::Wait };
        if ballot != self.ballot || !self.electorate.voters().contains(&voter) {
            return RoundStep::Wait;
        }
        votes.insert(voter);
        if votes.len() < self.electorate.quorum() {
            return RoundStep::Wait;
        }
        self.phase = Phase::Over;
        RoundStep::Chosen
    }

    /// A voter has promised a higher ballot.
    pub fn on_reject(&mut self, voter: VoterId, ballot: Ballot, promised: Ballot) -> RoundStep<V> {
        self.above = self.above.max(promised);
        self.without(voter, ballot)
    }

    /// A voter does not take part: it refused, or did not answer.
    pub fn without(&mut self, voter: VoterId, ballot: Ballot) -> RoundStep<V> {
        let is_open = matches!(self.phase, Phase::Preparing(_) | Phase::Accepting(_));
        if !is_open || ballot != self.ballot || !self.electorate.voters().contains(&voter) {
            return RoundStep::Wait;
        }
        self.rejections.insert(voter);
        let left = self.electorate.voters().len() - self.rejections.len();
        if left >= self.electorate.quorum() {
            return RoundStep::Wait;
        }
        self.phase = Phase::Over;
        RoundStep::Restart { above: self.above }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::ActorId;

    const A: VoterId = VoterId(1);
    const B: VoterId = VoterId(2);
    const C: VoterId = VoterId(3);

    fn at(time: u64) -> Ballot {
        Ballot { time, actor: ActorId(9) }
    }

    fn three() -> Electorate {
        Electorate::majority([A, B, C], 3).unwrap()
    }

    fn promise(accepted: Option<(u64, &'static str)>, committed: u64) -> Promise<&'static str> {
        let accepted = accepted.map(|(time, value)| (at(time), value));
        let committed = if committed == 0 { Ballot::ZERO } else { at(committed) };
        Promise { accepted, committed }
    }

    fn judged(a: Promise<&'static str>, b: Promise<&'static str>) -> Found<&'static str> {
        let mut round = Round::new(at(50), three());
        assert_eq!(round.on_promise(A, at(50), a), RoundStep::Wait);
        match round.on_promise(B, at(50), b) {
            RoundStep::Judge(found) => found,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_vote_that_may_not_be_decided_is_built_on_and_not_taken_for_settled() {
        let found = judged(promise(Some((10, "v")), 0), promise(None, 0));
        assert_eq!(found, Found { value: Some((at(10), "v")), settled: false, decided: None });
        let found = judged(promise(Some((10, "v")), 0), promise(Some((20, "w")), 0));
        assert_eq!(found, Found { value: Some((at(20), "w")), settled: false, decided: None });
    }

    #[test]
    fn the_same_vote_of_a_majority_is_settled() {
        let found = judged(promise(Some((10, "v")), 0), promise(Some((10, "v")), 0));
        assert_eq!(found, Found { value: Some((at(10), "v")), settled: true, decided: None });
    }

    #[test]
    fn a_vote_below_a_known_decision_is_dead() {
        let found = judged(promise(Some((20, "dead")), 0), promise(None, 30));
        assert_eq!(found, Found { value: None, settled: true, decided: None });
    }

    #[test]
    fn a_commit_ends_the_vote_and_a_late_accept_of_it_changes_nothing() {
        let mut voter = Voter::new(Ballot::ZERO);
        let _ = voter.on_accept(at(10), "v", None).after_persist();
        assert!(voter.on_commit(at(10)));
        assert_eq!((voter.accepted(), voter.committed()), (None, at(10)));
        let again = voter.on_accept(at(10), "v", None);
        assert!(!again.must_persist());
        assert_eq!(again.after_persist(), AcceptReply::Accepted { ballot: at(10) });
        let below = voter.on_accept(at(9), "w", None).after_persist();
        assert!(matches!(below, AcceptReply::Reject { .. }));
        assert!(!voter.on_commit(at(10)), "no news");
    }

    #[test]
    fn a_decision_that_one_voter_has_stored_is_shown_until_all_who_promise_have_stored_it() {
        let mut voter = Voter::new(Ballot::ZERO);
        let _ = voter.on_accept(at(10), "v".to_owned(), None).after_persist();
        assert!(voter.on_commit_keeping(at(10)));
        assert_eq!((voter.accepted(), voter.vote()), (None, Some(&(at(10), "v".to_owned()))));
        assert_eq!(Voter::decode(7, A, &voter.encode(7, A)).unwrap().as_ref(), Some(&voter));
        let stored = promise(Some((10, "v")), 10);
        let found = judged(stored.clone(), promise(None, 0));
        assert_eq!((found.value, found.settled, found.decided), (None, true, Some("v")));
        let open = promise(Some((10, "v")), 0);
        assert_eq!(judged(open, promise(None, 10)).decided, Some("v"), "its vote shows it too");
        assert_eq!(judged(stored.clone(), stored).decided, None);
        assert_eq!(judged(promise(Some((9, "dead")), 0), promise(None, 10)).decided, None);
        assert_eq!(voter.forget(at(10)), Forgotten::Dropped { floor: at(10) });
    }

    #[test]
    fn a_row_goes_only_when_nothing_in_it_is_newer_and_leaves_its_promise_behind() {
        let mut voter = Voter::new(Ballot::ZERO);
        let _ = voter.on_accept(at(10), "v", None).after_persist();
        assert_eq!(voter.forget(at(10)), Forgotten::Kept, "its own data lacks the decision");
        let _ = voter.on_commit(at(10));
        let _ = voter.on_prepare(at(40)).after_persist();
        assert_eq!(voter.forget(at(10)), Forgotten::Dropped { floor: at(40) });
        let mut anew = Voter::<&str>::new(at(40));
        assert!(matches!(
            anew.on_accept(at(30), "late", None).after_persist(),
            AcceptReply::Reject { .. }
        ));
        let _ = voter.on_accept(at(40), "w", None).after_persist();
        assert_eq!(voter.forget(at(10)), Forgotten::Kept);
    }

    #[test]
    fn a_vote_can_promise_the_next_ballot_and_others_then_stand_in_nobodys_way() {
        let mut voter = Voter::new(Ballot::ZERO);
        let reply = voter.on_accept(at(10), "v", Some(at(60)));
        assert_eq!(reply.after_persist(), AcceptReply::Accepted { ballot: at(10) });
        assert_eq!(voter.promised(), at(60));
        let refused = voter.on_prepare(at(50)).after_persist();
        assert!(matches!(refused, PrepareReply::Reject { .. }));
        let _ = voter.on_accept(at(60), "w", None).after_persist();
        assert_eq!(voter.accepted(), Some(&(at(60), "w")));
    }

    #[test]
    fn a_stored_voter_reads_back_at_its_own_place_only() {
        let mut voter = Voter::new(Ballot::ZERO);
        let _ = voter.on_accept(at(10), "v".to_owned(), None).after_persist();
        let _ = voter.on_prepare(at(11)).after_persist();
        let bytes = voter.encode(7, A);
        assert_eq!(Voter::decode(7, A, &bytes), Ok(Some(voter)));
        assert!(Voter::<String>::decode(8, A, &bytes).is_err());
        assert_eq!(Voter::<String>::decode(7, B, &bytes), Ok(None), "another voter's");
    }

    #[test]
    fn a_round_ends_when_too_few_voters_are_left() {
        let mut round = Round::<&str>::new(at(5), three());
        assert_eq!(round.on_reject(A, at(5), at(9)), RoundStep::Wait);
        assert_eq!(round.without(B, at(5)), RoundStep::Restart { above: at(9) });
        let mut standing = Round::<&str>::standing(at(5), three());
        standing.propose();
        assert_eq!(standing.on_accepted(A, at(5)), RoundStep::Wait);
        assert_eq!(standing.on_accepted(A, at(5)), RoundStep::Wait, "doubled");
        assert_eq!(standing.on_accepted(C, at(5)), RoundStep::Chosen);
    }
}
