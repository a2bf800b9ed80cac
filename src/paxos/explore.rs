//! Every schedule of a small world: three acceptors, two proposers, and a network that may lose,
//! double and reorder. The real code runs, on states read back from their stored form after every
//! step, so that a crash between any two steps is part of the search.
//!
//! The network is the set of all messages ever sent: any of them may be delivered at any time,
//! again and again, or never. A proposer may stop at any time (it just gets no more messages),
//! and a new attempt of the same proposer starts from nothing but a greater ballot.

use std::collections::{BTreeSet, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};

use proptest::prelude::*;

use crate::paxos::{AcceptReply, Acceptor, Electorate, PrepareReply, Proposer, Step};
use crate::types::{ActorId, Ballot, VoterId};

type Value = u8;

const ACCEPTORS: usize = 3;

/// How thorough to be about refusals. They never let a proposer do anything but give up, so the
/// exhaustive search loses them all (as a network may) and keeps the number of states in reach.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Refusals {
    Lost,
    Delivered,
}

/// A mistake to plant, to see that the search notices it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Mistake {
    None,
    /// Promises are answered before they are stored, then lost in a crash (plant P02).
    ForgetPromise,
    /// Votes are answered before they are stored, then lost in a crash (plant P03).
    ForgetVote,
    /// The proposer ignores what was accepted before (plant P01).
    IgnoreAccepted,
}

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
enum Message {
    Prepare(Ballot),
    Promise { from: usize, reply: PrepareReply<Value> },
    Accept(Ballot, Value),
    Vote { from: usize, reply: AcceptReply },
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct World {
    acceptors: [Acceptor<Value>; ACCEPTORS],
    proposers: Vec<Proposer<Value>>,
    network: BTreeSet<Message>,
    /// Every vote ever cast.
    votes: BTreeSet<(Ballot, Value, usize)>,
    /// What proposers called chosen.
    declared: BTreeSet<Value>,
    crashes_left: u8,
    refusals: Refusals,
}

fn voter(index: usize) -> VoterId {
    VoterId(index as u64 + 1)
}

/// 64 bits stand for a state: among a million states two collide with probability 10^-7.
fn fingerprint(world: &World) -> u64 {
    let mut hasher = DefaultHasher::new();
    world.hash(&mut hasher);
    hasher.finish()
}

impl World {
    /// Attempt `i` runs at ballot time `i + 1`, for proposer `owners[i]`, whose value is its own
    /// number.
    fn new(owners: &[u8], crashes: u8, refusals: Refusals) -> Self {
        let voters = || Electorate::majority((0..ACCEPTORS).map(voter), ACCEPTORS).unwrap();
        let proposers: Vec<_> = owners
            .iter()
            .zip(1..)
            .map(|(&owner, time)| {
                let ballot = Ballot { time, actor: ActorId(100 + u64::from(owner)) };
                Proposer::new(ballot, owner, voters())
            })
            .collect();
        let network = proposers.iter().map(|p| Message::Prepare(p.ballot())).collect();
        Self {
            acceptors: Default::default(),
            proposers,
            network,
            votes: BTreeSet::new(),
            declared: BTreeSet::new(),
            crashes_left: crashes,
            refusals,
        }
    }

    /// Message `message` arrives at `to` (an acceptor; a proposer is found by its ballot).
    fn deliver(&mut self, message: &Message, to: usize, mistake: Mistake) {
        match message {
            Message::Prepare(ballot) => {
                let reply = self.acceptors[to].on_prepare(*ballot).after_persist();
                self.reload(to);
                if matches!(reply, PrepareReply::Promise { .. }) || self.delivers_refusals() {
                    self.network.insert(Message::Promise { from: to, reply });
                }
            }
            Message::Accept(ballot, value) => {
                let reply = self.acceptors[to].on_accept(*ballot, *value).after_persist();
                self.reload(to);
                let voted = matches!(reply, AcceptReply::Accepted { .. });
                if voted {
                    self.votes.insert((*ballot, *value, to));
                }
                if voted || self.delivers_refusals() {
                    self.network.insert(Message::Vote { from: to, reply });
                }
            }
            Message::Promise { from, reply } => match reply.clone() {
                PrepareReply::Promise { ballot, accepted } => {
                    let accepted = if mistake == Mistake::IgnoreAccepted { None } else { accepted };
                    self.step(ballot, |p| p.on_promise(voter(*from), ballot, accepted));
                }
                PrepareReply::Reject { ballot, promised } => {
                    self.step(ballot, |p| p.on_reject(voter(*from), ballot, promised));
                }
            },
            Message::Vote { from, reply } => match *reply {
                AcceptReply::Accepted { ballot } => {
                    self.step(ballot, |p| p.on_accepted(voter(*from), ballot));
                }
                AcceptReply::Reject { ballot, promised } => {
                    self.step(ballot, |p| p.on_reject(voter(*from), ballot, promised));
                }
            },
        }
    }

    fn delivers_refusals(&self) -> bool {
        self.refusals == Refusals::Delivered
    }

    /// What a crash after the last step leaves: all of it.
    fn reload(&mut self, who: usize) {
        self.acceptors[who] = Acceptor::decode(&self.acceptors[who].encode()).unwrap();
    }

    fn step(&mut self, ballot: Ballot, input: impl FnOnce(&mut Proposer<Value>) -> Step<Value>) {
        let Some(proposer) = self.proposers.iter_mut().find(|p| p.ballot() == ballot) else {
            return;
        };
        match input(proposer) {
            Step::Wait | Step::Restart { .. } => {}
            Step::SendAccept { ballot, value } => {
                self.network.insert(Message::Accept(ballot, value));
            }
            Step::Chosen { value, .. } => {
                self.declared.insert(value);
            }
        }
    }

    /// Acceptor `who` stops and starts again. With a mistake, some of its state is not there.
    fn crash(&mut self, who: usize, mistake: Mistake) {
        let old = &self.acceptors[who];
        let (promised, accepted) = match mistake {
            Mistake::ForgetPromise => {
                let accepted = old.accepted().copied();
                (accepted.map_or(Ballot::ZERO, |(at, _)| at), accepted)
            }
            Mistake::ForgetVote => (old.promised(), None),
            Mistake::None | Mistake::IgnoreAccepted => return self.reload(who),
        };
        self.acceptors[who] = Acceptor::restore(promised, accepted).unwrap();
    }

    /// The first broken promise of the protocol, if there is one.
    fn breach(&self) -> Option<String> {
        let mut chosen = self.declared.clone();
        for (ballot, value, _) in &self.votes {
            let votes = self.votes.iter().filter(|(b, v, _)| (b, v) == (ballot, value)).count();
            if votes > ACCEPTORS / 2 {
                chosen.insert(*value);
            }
        }
        if chosen.len() > 1 {
            return Some(format!("agreement: {chosen:?} are all chosen"));
        }
        if let Some(value) = chosen.iter().find(|v| ![1, 2].contains(*v)) {
            return Some(format!("validity: nobody proposed {value}"));
        }
        let per_ballot: BTreeSet<_> = self.votes.iter().map(|(b, v, _)| (b, v)).collect();
        let ballots: BTreeSet<_> = self.votes.iter().map(|(b, _, _)| b).collect();
        (per_ballot.len() > ballots.len())
            .then(|| "two values were accepted at one ballot (I6)".to_owned())
    }

    fn successors(&self, mistake: Mistake) -> Vec<Self> {
        let mut next = Vec::new();
        for message in &self.network {
            let targets = match message {
                Message::Prepare(_) | Message::Accept(..) => ACCEPTORS,
                Message::Promise { .. } | Message::Vote { .. } => 1,
            };
            for to in 0..targets {
                let mut world = self.clone();
                world.deliver(message, to, mistake);
                next.push(world);
            }
        }
        if self.crashes_left > 0 {
            for who in 0..ACCEPTORS {
                let mut world = self.clone();
                world.crashes_left -= 1;
                world.crash(who, mistake);
                next.push(world);
            }
        }
        next
    }
}

/// Searches all schedules; the number of states seen, or the first breach.
fn explore(start: World, mistake: Mistake) -> Result<usize, String> {
    let mut seen = BTreeSet::from([fingerprint(&start)]);
    let mut queue = VecDeque::from([start]);
    while let Some(world) = queue.pop_front() {
        for next in world.successors(mistake) {
            if !seen.insert(fingerprint(&next)) {
                continue;
            }
            if let Some(breach) = next.breach() {
                return Err(breach);
            }
            queue.push_back(next);
        }
    }
    Ok(seen.len())
}

#[test]
fn no_schedule_of_two_proposers_breaks_agreement() {
    let states = explore(World::new(&[1, 2], 0, Refusals::Lost), Mistake::None).unwrap();
    assert!(states > 100_000, "only {states} states: the search did not search");
}

#[test]
fn forgetting_a_promise_is_found_by_the_search() {
    let breach =
        explore(World::new(&[1, 2], 1, Refusals::Lost), Mistake::ForgetPromise).unwrap_err();
    assert!(breach.starts_with("agreement"), "{breach}");
}

#[test]
fn forgetting_a_vote_is_found_by_the_search() {
    let breach = explore(World::new(&[1, 2], 1, Refusals::Lost), Mistake::ForgetVote).unwrap_err();
    assert!(breach.starts_with("agreement"), "{breach}");
}

#[test]
fn ignoring_accepted_values_is_found_by_the_search() {
    let breach =
        explore(World::new(&[1, 2], 0, Refusals::Lost), Mistake::IgnoreAccepted).unwrap_err();
    assert!(breach.starts_with("agreement"), "{breach}");
}

/// One random walk: each number picks the next event.
fn walk(choices: &[u16]) -> Result<(), String> {
    let mut world = World::new(&[1, 2, 1, 2, 2, 1], 200, Refusals::Delivered);
    for &choice in choices {
        let messages: Vec<Message> = world.network.iter().cloned().collect();
        let pick = usize::from(choice);
        if pick % 11 == 10 {
            world.crash(pick / 11 % ACCEPTORS, Mistake::None);
        } else {
            let message = &messages[pick / 11 % messages.len()];
            world.deliver(message, pick % ACCEPTORS, Mistake::None);
        }
        if let Some(breach) = world.breach() {
            return Err(breach);
        }
    }
    Ok(())
}

proptest! {
    #[test]
    fn long_random_schedules_of_six_attempts_agree(
        choices in proptest::collection::vec(any::<u16>(), 0..400),
    ) {
        prop_assert_eq!(walk(&choices), Ok(()));
    }
}
