//! Every schedule of a small register: three voters, two proposers of one operation each (and one
//! more round each, should the first be interrupted), a network that may lose, double and reorder,
//! proposers that stop anywhere, decisions that reach voters one by one, and rows dropped once all
//! have them. The real code runs.
//!
//! A state is the set of operations that took effect, as bits; operation i adds bit i. What must
//! hold (the same as for the simulator's W1, on all schedules): chosen states form one chain by
//! inclusion, and a read that was called settled is a state which every state chosen later includes.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};

use crate::paxos::{
    AcceptReply, Electorate, Forgotten, PrepareReply, Promise, Round, RoundStep, Voter,
};
use crate::types::{ActorId, Ballot, VoterId};

type State = u8;

const VOTERS: usize = 3;

/// A mistake to plant, to see that the search notices it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Mistake {
    None,
    /// P01: what others voted for is ignored.
    IgnoreVotes,
    /// P02: a promise is lost in a crash.
    LosePromise,
    /// P03: a vote is lost in a crash.
    LoseVote,
    /// P06: a read is called settled whatever it met.
    SettleNothing,
    /// P07: a row is dropped when a majority has the decision.
    DropEarly,
}

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
enum Message {
    Prepare(Ballot),
    Promise { from: usize, ballot: Ballot, promise: Promise<State>, data: State },
    Accept(Ballot, State),
    Vote { from: usize, ballot: Ballot },
    Commit(Ballot, State),
    Forget(Ballot),
}

/// What a proposer wants: an operation, or to read.
type Wish = Option<u8>;

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Proposer {
    wish: Wish,
    round: Round<State>,
    heard: BTreeMap<VoterId, State>,
    proposed: Option<State>,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct World {
    voters: Vec<Voter<State>>,
    has_row: [bool; VOTERS],
    floors: [Ballot; VOTERS],
    data: [State; VOTERS],
    proposers: Vec<Proposer>,
    network: BTreeSet<Message>,
    votes: BTreeSet<(Ballot, State, usize)>,
    stored: BTreeMap<Ballot, BTreeSet<usize>>,
    /// States that a read was told, each with what had been chosen by then.
    reads: BTreeSet<State>,
    crashes_left: u8,
}

fn voter(index: usize) -> VoterId {
    VoterId(index as u64 + 1)
}

fn fingerprint(world: &World) -> u64 {
    let mut hasher = DefaultHasher::new();
    world.hash(&mut hasher);
    hasher.finish()
}

impl World {
    fn new(wishes: &[Wish], crashes: u8) -> Self {
        let electorate = Electorate::majority((0..VOTERS).map(voter), VOTERS).unwrap();
        let proposers: Vec<_> = wishes
            .iter()
            .zip(1..)
            .map(|(&wish, time)| {
                let round = Round::new(Ballot { time, actor: ActorId(7) }, electorate.clone());
                Proposer { wish, round, heard: BTreeMap::new(), proposed: None }
            })
            .collect();
        let network = proposers.iter().map(|p| Message::Prepare(p.round.ballot())).collect();
        Self {
            voters: vec![Voter::new(Ballot::ZERO); VOTERS],
            has_row: [false; VOTERS],
            floors: [Ballot::ZERO; VOTERS],
            data: [0; VOTERS],
            proposers,
            network,
            votes: BTreeSet::new(),
            stored: BTreeMap::new(),
            reads: BTreeSet::new(),
            crashes_left: crashes,
        }
    }

    fn chosen(&self) -> BTreeSet<State> {
        let at = |ballot, state| {
            self.votes.iter().filter(|(b, s, _)| (*b, *s) == (ballot, state)).count()
        };
        let chosen = self.votes.iter().filter(|(b, s, _)| at(*b, *s) > VOTERS / 2);
        chosen.map(|(_, state, _)| *state).collect()
    }

    fn deliver(&mut self, message: &Message, to: usize, mistake: Mistake) {
        match message {
            Message::Prepare(ballot) => {
                let reply = self.voters[to].on_prepare(*ballot).after_persist();
                self.has_row[to] = true;
                if let PrepareReply::Promise { .. } = reply {
                    let promise = Promise {
                        accepted: self.voters[to].accepted().copied(),
                        committed: self.voters[to].committed(),
                    };
                    let (from, ballot, data) = (to, *ballot, self.data[to]);
                    self.network.insert(Message::Promise { from, ballot, promise, data });
                }
            }
            Message::Promise { from, ballot, promise, data } => {
                let mut promise = promise.clone();
                if mistake == Mistake::IgnoreVotes {
                    promise.accepted = None;
                }
                let Some(p) = self.proposers.iter_mut().find(|p| p.round.ballot() == *ballot)
                else {
                    return;
                };
                if p.proposed.is_none() {
                    p.heard.entry(voter(*from)).or_insert(*data);
                }
                let RoundStep::Judge(found) = p.round.on_promise(voter(*from), *ballot, promise)
                else {
                    return;
                };
                let base = p.heard.values().fold(0, |all, data| all | data);
                let base = base | found.value.map_or(0, |(_, state)| state);
                let settled = found.settled || mistake == Mistake::SettleNothing;
                match p.wish {
                    None if settled => {
                        self.reads.insert(base);
                    }
                    wish => {
                        let next = base | wish.unwrap_or(0);
                        p.round.propose();
                        p.proposed = Some(next);
                        self.network.insert(Message::Accept(*ballot, next));
                    }
                }
            }
            Message::Accept(ballot, state) => {
                let reply = self.voters[to].on_accept(*ballot, *state, None).after_persist();
                self.has_row[to] = true;
                if let AcceptReply::Accepted { ballot } = reply {
                    self.votes.insert((ballot, *state, to));
                    self.network.insert(Message::Vote { from: to, ballot });
                }
            }
            Message::Vote { from, ballot } => {
                let Some(p) = self.proposers.iter_mut().find(|p| p.round.ballot() == *ballot)
                else {
                    return;
                };
                if p.round.on_accepted(voter(*from), *ballot) == RoundStep::Chosen
                    && let Some(state) = p.proposed
                {
                    if p.wish.is_none() {
                        self.reads.insert(state);
                    }
                    self.network.insert(Message::Commit(*ballot, state));
                }
            }
            Message::Commit(ballot, state) => {
                self.data[to] |= state;
                self.voters[to].on_commit(*ballot);
                self.has_row[to] = true;
                let stored = self.stored.entry(*ballot).or_default();
                stored.insert(to);
                let enough = if mistake == Mistake::DropEarly { VOTERS / 2 + 1 } else { VOTERS };
                if stored.len() >= enough {
                    self.network.insert(Message::Forget(*ballot));
                }
            }
            Message::Forget(ballot) => {
                let floor = match self.voters[to].forget(*ballot) {
                    _ if mistake == Mistake::DropEarly => Ballot::ZERO,
                    Forgotten::Dropped { floor } => floor,
                    Forgotten::Kept => return,
                };
                self.floors[to] = self.floors[to].max(floor);
                self.voters[to] = Voter::new(self.floors[to]);
                self.has_row[to] = false;
            }
        }
    }

    fn crash(&mut self, who: usize, mistake: Mistake) {
        let old = &self.voters[who];
        let mut new = Voter::new(self.floors[who]);
        new.on_commit(old.committed());
        match (mistake, old.accepted()) {
            (Mistake::LosePromise, Some((ballot, state))) => {
                let _ = new.on_accept(*ballot, *state, None);
            }
            (Mistake::LoseVote, _) => {
                let _ = new.on_prepare(old.promised());
            }
            _ => {}
        }
        self.voters[who] = new;
    }

    fn breach(&self) -> Option<String> {
        let chosen = self.chosen();
        let ordered = |a: State, b: State| a & b == a || a & b == b;
        for &a in &chosen {
            if let Some(b) = chosen.iter().find(|&&b| !ordered(a, b)) {
                return Some(format!("chain: {a:b} and {b:b} are both chosen"));
            }
            if let Some(read) = self.reads.iter().find(|&&read| !ordered(a, read)) {
                return Some(format!("read: {read:b} was shown and {a:b} is chosen"));
            }
        }
        let per_ballot: BTreeSet<_> = self.votes.iter().map(|(b, s, _)| (b, s)).collect();
        let ballots: BTreeSet<_> = self.votes.iter().map(|(b, _, _)| b).collect();
        (per_ballot.len() > ballots.len())
            .then(|| "two states were voted for at one ballot (I6)".to_owned())
    }

    fn successors(&self, mistake: Mistake) -> Vec<Self> {
        let mut next = Vec::new();
        for message in &self.network {
            let targets = match message {
                Message::Promise { .. } | Message::Vote { .. } => 1,
                _ => VOTERS,
            };
            for to in 0..targets {
                let mut world = self.clone();
                world.deliver(message, to, mistake);
                if world != *self {
                    next.push(world);
                }
            }
        }
        let crashes = matches!(mistake, Mistake::LosePromise | Mistake::LoseVote);
        if self.crashes_left > 0 && crashes {
            for who in 0..VOTERS {
                let mut world = self.clone();
                world.crashes_left -= 1;
                world.crash(who, mistake);
                next.push(world);
            }
        }
        next
    }
}

/// Searches all schedules up to `most` states; how many there were, or the first breach.
fn explore(start: World, mistake: Mistake, most: usize) -> Result<usize, String> {
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
        if seen.len() > most {
            break;
        }
    }
    Ok(seen.len())
}

/// As many states as a test has time for.
const MOST: usize = 150_000;

#[test]
fn no_schedule_of_two_operations_breaks_the_chain() {
    let states = explore(World::new(&[Some(1), Some(2)], 0), Mistake::None, MOST).unwrap();
    assert!(states > 50_000, "only {states} states: the search did not search");
}

#[test]
fn no_schedule_of_an_operation_and_a_read_breaks_the_chain() {
    let states = explore(World::new(&[Some(1), None, Some(2)], 0), Mistake::None, MOST).unwrap();
    assert!(states > 50_000, "only {states} states: the search did not search");
}

/// Random schedules, until one breaks a promise.
fn walks(wishes: &[Wish], mistake: Mistake, count: u64) -> Option<String> {
    let mut state = 0x9E37_79B9_7F4A_7C15u64;
    let mut below = move |bound: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % bound as u64) as usize
    };
    for _ in 0..count {
        let mut world = World::new(wishes, 2);
        for _ in 0..80 {
            let crashes = matches!(mistake, Mistake::LosePromise | Mistake::LoseVote);
            if crashes && world.crashes_left > 0 && below(12) == 0 {
                world.crashes_left -= 1;
                world.crash(below(VOTERS), mistake);
            } else {
                let at = below(world.network.len());
                let Some(message) = world.network.iter().nth(at).cloned() else { break };
                world.deliver(&message, below(VOTERS), mistake);
            }
            if let Some(breach) = world.breach() {
                return Some(breach);
            }
        }
    }
    None
}

#[test]
fn each_planted_mistake_is_found_by_random_schedules_and_the_real_rules_pass_them() {
    let wishes = [Some(1), Some(2), None, Some(4)];
    for mistake in [
        Mistake::IgnoreVotes,
        Mistake::LosePromise,
        Mistake::LoseVote,
        Mistake::SettleNothing,
        Mistake::DropEarly,
    ] {
        assert!(walks(&wishes, mistake, 60_000).is_some(), "{mistake:?} was not found");
    }
    assert_eq!(walks(&wishes, Mistake::None, 10_000), None);
}
