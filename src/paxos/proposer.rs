//! The proposer's side: one attempt, at one ballot.

use std::collections::BTreeSet;

use crate::types::{Ballot, VoterId};

/// Who may vote in one instance, and how many votes decide.
///
/// - The quorum is more than half of *all* members, those included whose votes do not count for
///   the time being: who lost its state is not heard, but is not subtracted either.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Electorate {
    voters: BTreeSet<VoterId>,
    quorum: usize,
}

/// A set of voters that cannot be one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{voters} voters cannot be part of {members} members")]
pub struct BadElectorate {
    /// Voters given.
    pub voters: usize,
    /// Members given.
    pub members: usize,
}

impl Electorate {
    /// `voters` out of `members` members; a majority of the members decides.
    ///
    /// # Errors
    /// [`BadElectorate`] when there are no members, or fewer members than voters.
    pub fn majority(
        voters: impl IntoIterator<Item = VoterId>,
        members: usize,
    ) -> Result<Self, BadElectorate> {
        let voters: BTreeSet<VoterId> = voters.into_iter().collect();
        if members == 0 || voters.len() > members {
            return Err(BadElectorate { voters: voters.len(), members });
        }
        Ok(Self { voters, quorum: members / 2 + 1 })
    }

    /// Those whose votes count.
    #[must_use]
    pub fn voters(&self) -> &BTreeSet<VoterId> {
        &self.voters
    }

    /// How many of them decide.
    #[must_use]
    pub fn quorum(&self) -> usize {
        self.quorum
    }
}

/// What the proposer's caller does next.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Step<V> {
    /// Nothing: pending.
    Wait,
    /// Ask every voter to accept `value` at `ballot`. From here on the value may come to be
    /// chosen, whatever else happens: the attempt can no longer be said to have failed.
    SendAccept {
        /// This proposer's ballot.
        ballot: Ballot,
        /// The value to propose.
        value: V,
    },
    /// `value` is chosen, for ever.
    Chosen {
        /// The value.
        value: V,
        /// True when this proposer brought it; false when it had to finish another's.
        own: bool,
    },
    /// This ballot can no longer win. Try again, after a random pause, with a ballot greater
    /// than `above`.
    Restart {
        /// The highest ballot that was seen.
        above: Ballot,
    },
}

#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
enum Phase<V> {
    Preparing { promises: BTreeSet<VoterId>, highest: Option<(Ballot, V)> },
    Accepting { votes: BTreeSet<VoterId>, value: V, own: bool },
    Over,
}

/// One attempt to have a value chosen.
///
/// - Each voter counts once in each phase, however often its reply arrives.
/// - At most one value is sent for acceptance, and only after a quorum of promises.
/// - That value is the one accepted at the highest ballot among the promises, if there is any.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Proposer<V> {
    ballot: Ballot,
    own: V,
    electorate: Electorate,
    phase: Phase<V>,
    rejections: BTreeSet<VoterId>,
    above: Ballot,
}

impl<V: Clone> Proposer<V> {
    /// Begins an attempt for `own` at `ballot`, which this actor has never used before in this
    /// instance. The caller now sends *prepare* to every voter.
    #[must_use]
    pub fn new(ballot: Ballot, own: V, electorate: Electorate) -> Self {
        Self {
            ballot,
            own,
            electorate,
            phase: Phase::Preparing { promises: BTreeSet::new(), highest: None },
            rejections: BTreeSet::new(),
            above: ballot,
        }
    }

    /// The attempt's ballot.
    #[must_use]
    pub fn ballot(&self) -> Ballot {
        self.ballot
    }

    /// Who may vote.
    #[must_use]
    pub fn electorate(&self) -> &Electorate {
        &self.electorate
    }

    /// The highest ballot seen so far, this one included: the next attempt goes above it.
    #[must_use]
    pub fn above(&self) -> Ballot {
        self.above
    }

    /// True once a value has been handed out for acceptance: the outcome is then open until it is
    /// learnt.
    #[must_use]
    pub fn has_proposed(&self) -> bool {
        matches!(self.phase, Phase::Accepting { .. } | Phase::Over)
    }

    /// Takes a promise of `from` for `ballot`, with what it had accepted.
    pub fn on_promise(
        &mut self,
        from: VoterId,
        ballot: Ballot,
        accepted: Option<(Ballot, V)>,
    ) -> Step<V> {
        if ballot != self.ballot || !self.electorate.voters.contains(&from) {
            return Step::Wait;
        }
        let Phase::Preparing { promises, highest } = &mut self.phase else {
            return Step::Wait;
        };
        if accepted.as_ref().is_some_and(|(at, _)| *at >= ballot) {
            // No acceptor that keeps the rules says this before it was asked to accept.
            return Step::Wait;
        }
        promises.insert(from);
        if accepted.as_ref().map(|(at, _)| *at) > highest.as_ref().map(|(at, _)| *at) {
            *highest = accepted;
        }
        if promises.len() < self.electorate.quorum {
            return Step::Wait;
        }
        let (value, own) = match highest.take() {
            Some((_, value)) => (value, false),
            None => (self.own.clone(), true),
        };
        self.phase = Phase::Accepting { votes: BTreeSet::new(), value: value.clone(), own };
        self.rejections.clear();
        Step::SendAccept { ballot, value }
    }

    /// Takes a vote of `from` for what was proposed at `ballot`.
    pub fn on_accepted(&mut self, from: VoterId, ballot: Ballot) -> Step<V> {
        if ballot != self.ballot || !self.electorate.voters.contains(&from) {
            return Step::Wait;
        }
        let Phase::Accepting { votes, value, own } = &mut self.phase else {
            return Step::Wait;
        };
        votes.insert(from);
        if votes.len() < self.electorate.quorum {
            return Step::Wait;
        }
        let step = Step::Chosen { value: value.clone(), own: *own };
        self.phase = Phase::Over;
        step
    }

    /// Takes a refusal of `ballot` by `from`, in either phase: it has promised `promised`.
    /// A single refusal ends nothing; only when a quorum is out of reach is it time to restart.
    pub fn on_reject(&mut self, from: VoterId, ballot: Ballot, promised: Ballot) -> Step<V> {
        if ballot != self.ballot || !self.electorate.voters.contains(&from) {
            return Step::Wait;
        }
        self.above = self.above.max(promised);
        if matches!(self.phase, Phase::Over) || !self.rejections.insert(from) {
            return Step::Wait;
        }
        // A voter may refuse after it voted (its vote stands), or vote after a refusal of an
        // earlier, doubled message; count only those that have not voted.
        let heard = match &self.phase {
            Phase::Preparing { promises, .. } => promises,
            Phase::Accepting { votes, .. } => votes,
            Phase::Over => return Step::Wait,
        };
        let against = self.rejections.difference(heard).count();
        if self.electorate.voters.len() - against >= self.electorate.quorum {
            return Step::Wait;
        }
        Step::Restart { above: self.above }
    }
}
