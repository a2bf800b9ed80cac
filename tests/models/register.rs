//! MC1 to MC3: one register, as lightweight transactions use it. The voters and rounds are the real
//! ones ([`henge::paxos`]); the thin rest of this file stands for network, disks and clients.
//!
//! The register's state is the set of operations that took effect, a bit for each, so that states
//! which contain one another are in order. What must hold:
//!
//! - *agreement*: under one ballot, one state is voted for;
//! - *chain*: of any two states that were chosen, or shown to a client, one contains the other;
//! - *linearizable*: what an operation shows contains all that had been shown to anybody before it
//!   began. With the chain, that is an order of all operations which real time agrees with: reads
//!   and refusals are in it where their state stands.
//!
//! A request and its answer are one step, unless the answer gets lost (a bounded number of times): a
//! voter's answer commutes with whatever else happens before its client looks at it. Requests wait
//! in the network for any time and are lost by never arriving. Clients may stop anywhere, or give an
//! attempt up and make another one at a higher ballot.

use std::collections::{BTreeMap, BTreeSet};

use henge::paxos::{
    AcceptReply, Ballot, Electorate, Forgotten, PrepareReply, Promise, Round, RoundStep, Voter,
    found,
};
use henge::types::{ActorId, VoterId};
use stateright::{Model, Property};

const VOTERS: usize = 3;

/// A set of operations.
type Bits = u8;

/// What a client does.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Op {
    /// Adds a bit.
    Add(Bits),
    /// Adds the first bit, unless the second is there; then it shows the state.
    AddUnless(Bits, Bits),
    /// Shows the state, by a round.
    Read,
    /// Shows the state after one round trip, if all is settled; else by a round.
    Peek,
}

/// A mistake of what is around the real code. (Those inside it are planted: see `main`.)
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Mistake {
    None,
    /// P02: a promise is answered before it is durable.
    PromiseEarly,
    /// P03: a vote is answered before it is durable.
    VoteEarly,
    /// P04: ballots begin anew.
    SameBallots,
    /// P05: a read that takes one round trip looks at the data alone.
    ReadData,
    /// P06: what a read or a refusal met is not settled.
    SettleNothing,
    /// P07: votes are dropped when a majority has the decision.
    DropEarly,
}

/// A model with its bounds.
#[derive(Clone, Debug)]
pub struct Register {
    /// The operations of each client, one after the other.
    pub clients: Vec<Vec<Op>>,
    /// Rounds of all clients together.
    pub ballots: u64,
    /// Answers that get lost.
    pub losses: u8,
    /// Voters that crash, all crashes together.
    pub crashes: u8,
    /// What is not synced is lost in a crash, and syncing is a step of its own. Without: all is
    /// durable at once.
    pub syncs: bool,
    /// The decisions of so many clients are brought to the data; the others stop before that.
    pub committers: usize,
    /// Votes are dropped once all have the decision.
    pub forgets: bool,
    /// Requests arrive any number of times.
    pub doubles: bool,
    pub mistake: Mistake,
}

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Mail {
    Peek(usize),
    Prepare(Ballot),
    Accept(Ballot, Bits),
    Commit(Ballot, Bits),
    Forget(Ballot),
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Act {
    /// The client begins its operation, or gives its attempt up and makes another.
    Begin(usize),
    /// It arrives, and the answer does too if it says so.
    Arrives(Mail, usize, bool),
    Sync(usize),
    Crash(usize),
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
enum Answer {
    Promise(Ballot, Promise<Bits>, Bits),
    Vote(Ballot),
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Node {
    voter: Voter<Bits>,
    durable: Voter<Bits>,
    floor: Ballot,
    data: Bits,
    /// Answers that wait for the sync.
    held: Vec<Answer>,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
enum Attempt {
    None,
    Peeking(BTreeMap<VoterId, (Promise<Bits>, Bits)>),
    Round { round: Round<Bits>, heard: Bits, proposed: Option<Bits> },
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Client {
    done: usize,
    attempt: Attempt,
    /// An accept with the operation in it has left.
    was_proposed: bool,
    peeked: bool,
    /// All that had been shown when the operation began.
    floor: Bits,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct World {
    nodes: Vec<Node>,
    clients: Vec<Client>,
    mail: BTreeSet<(Mail, usize)>,
    next: u64,
    losses: u8,
    crashes: u8,
    votes: BTreeSet<(Ballot, Bits, usize)>,
    stored: BTreeMap<Ballot, BTreeSet<usize>>,
    /// Chosen, or shown to a client.
    shown: BTreeSet<Bits>,
    seen_by_somebody: Bits,
    stale: bool,
}

fn voter(at: usize) -> VoterId {
    VoterId(at as u64 + 1)
}

fn electorate() -> Electorate {
    Electorate::majority((0..VOTERS).map(voter), VOTERS).expect("three voters")
}

impl World {
    fn send(&mut self, mail: &Mail) {
        self.mail.extend((0..VOTERS).map(|to| (mail.clone(), to)));
    }

    /// The client's operation has this result.
    fn show(&mut self, client: usize, state: Bits) {
        let client = &mut self.clients[client];
        self.stale |= client.floor & !state != 0;
        self.shown.insert(state);
        self.seen_by_somebody |= state;
        client.done += 1;
        client.attempt = Attempt::None;
        (client.was_proposed, client.peeked) = (false, false);
    }

    fn states(&self) -> BTreeSet<Bits> {
        let mut count: BTreeMap<(Ballot, Bits), usize> = BTreeMap::new();
        for (ballot, state, _) in &self.votes {
            *count.entry((*ballot, *state)).or_default() += 1;
        }
        let chosen = count.into_iter().filter(|(_, n)| *n > VOTERS / 2);
        chosen.map(|((_, state), _)| state).chain(self.shown.iter().copied()).collect()
    }

    fn agrees(&self) -> bool {
        let differ =
            |a: &(Ballot, Bits, usize), b: &(Ballot, Bits, usize)| a.0 == b.0 && a.1 != b.1;
        !self.votes.iter().any(|a| self.votes.iter().any(|b| differ(a, b)))
    }

    fn is_chain(&self) -> bool {
        let states = self.states();
        let ordered = |a: Bits, b: Bits| a & b == a || a & b == b;
        states.iter().all(|a| states.iter().all(|b| ordered(*a, *b)))
    }
}

impl Register {
    fn op(&self, world: &World, client: usize) -> Option<Op> {
        self.clients[client].get(world.clients[client].done).copied()
    }

    fn begin(&self, world: &mut World, client: usize) {
        let Some(op) = self.op(world, client) else { return };
        if matches!(world.clients[client].attempt, Attempt::None)
            && !world.clients[client].was_proposed
            && !world.clients[client].peeked
        {
            world.clients[client].floor = world.seen_by_somebody;
        }
        if op == Op::Peek && !world.clients[client].peeked {
            world.clients[client].peeked = true;
            world.clients[client].attempt = Attempt::Peeking(BTreeMap::new());
            world.send(&Mail::Peek(client));
            return;
        }
        let time = if self.mistake == Mistake::SameBallots { 1 } else { world.next };
        world.next += 1;
        let round = Round::new(Ballot { time, actor: ActorId(7) }, electorate());
        world.send(&Mail::Prepare(round.ballot()));
        world.clients[client].attempt = Attempt::Round { round, heard: 0, proposed: None };
    }

    /// What becomes of the state by the client's operation, and whether that needs no round of its
    /// own where all was settled.
    fn next(&self, world: &World, client: usize, base: Bits) -> (Bits, bool) {
        let was_proposed = world.clients[client].was_proposed;
        match self.op(world, client) {
            Some(Op::Read | Op::Peek) | None => (base, true),
            Some(Op::Add(bit)) => (base | bit, false),
            Some(Op::AddUnless(bit, _)) if base & bit != 0 => (base, false),
            Some(Op::AddUnless(_, unless)) if base & unless != 0 => (base, !was_proposed),
            Some(Op::AddUnless(bit, _)) => (base | bit, false),
        }
    }

    fn peeked(&self, world: &mut World, client: usize) {
        let Attempt::Peeking(heard) = &world.clients[client].attempt else { return };
        if heard.len() < VOTERS / 2 + 1 {
            return;
        }
        let votes = heard.iter().map(|(voter, (promise, _))| (*voter, promise.clone())).collect();
        let found = found(&votes, VOTERS / 2 + 1);
        let data = heard.values().fold(0, |all, (_, data)| all | data);
        let state = data | found.value.map_or(0, |(_, state)| state);
        if self.mistake == Mistake::ReadData {
            world.show(client, data);
        } else if found.settled {
            world.show(client, state);
        } else {
            world.clients[client].attempt = Attempt::None;
        }
    }

    fn hears(&self, world: &mut World, from: usize, answer: Answer) {
        let at = match &answer {
            Answer::Promise(ballot, ..) | Answer::Vote(ballot) => *ballot,
        };
        let is_at = |client: &Client| match &client.attempt {
            Attempt::Round { round, .. } => round.ballot() == at,
            Attempt::None | Attempt::Peeking(_) => false,
        };
        for number in 0..world.clients.len() {
            if is_at(&world.clients[number]) {
                self.client_hears(world, number, from, answer.clone());
            }
        }
    }

    fn client_hears(&self, world: &mut World, number: usize, from: usize, answer: Answer) {
        let Attempt::Round { round, heard, proposed } = &mut world.clients[number].attempt else {
            return;
        };
        match answer {
            Answer::Promise(ballot, promise, data) => {
                if proposed.is_none() {
                    *heard |= data;
                }
                let RoundStep::Judge(found) = round.on_promise(voter(from), ballot, promise) else {
                    return;
                };
                let base = *heard | found.value.map_or(0, |(_, state)| state);
                let settled = found.settled || self.mistake == Mistake::SettleNothing;
                let (next, may_end) = self.next(world, number, base);
                if may_end && settled {
                    world.show(number, base);
                    return;
                }
                let client = &mut world.clients[number];
                if let Attempt::Round { round, proposed, .. } = &mut client.attempt {
                    round.propose();
                    *proposed = Some(next);
                }
                client.was_proposed = true;
                world.send(&Mail::Accept(ballot, next));
            }
            Answer::Vote(ballot) => {
                if round.on_accepted(voter(from), ballot) != RoundStep::Chosen {
                    return;
                }
                let Some(state) = *proposed else { return };
                world.show(number, state);
                if number < self.committers {
                    world.send(&Mail::Commit(ballot, state));
                }
            }
        }
    }

    /// With `early`, it is answered before it is durable.
    fn answers(&self, world: &mut World, at: usize, answer: Answer, early: bool, arrives: bool) {
        if let Answer::Vote(ballot) = &answer
            && !self.syncs
            && let Some((at_ballot, state)) = world.nodes[at].voter.accepted()
            // A late request for what is decided already is answered, and is no vote.
            && at_ballot == ballot
        {
            world.votes.insert((*ballot, *state, at));
        }
        if self.syncs && !early {
            world.nodes[at].held.push(answer);
        } else if arrives {
            self.hears(world, at, answer);
        }
    }

    fn arrives(&self, world: &mut World, mail: &Mail, at: usize, arrives: bool) {
        let node = &mut world.nodes[at];
        match mail {
            Mail::Peek(client) => {
                let promise = promise_of(&node.voter);
                let data = node.data;
                if let Attempt::Peeking(heard) = &mut world.clients[*client].attempt {
                    heard.insert(voter(at), (promise, data));
                    self.peeked(world, *client);
                }
            }
            Mail::Prepare(ballot) => {
                let reply = node.voter.on_prepare(*ballot).after_persist();
                if let PrepareReply::Promise { .. } = reply {
                    let answer = Answer::Promise(*ballot, promise_of(&node.voter), node.data);
                    let early = self.mistake == Mistake::PromiseEarly;
                    self.answers(world, at, answer, early, arrives);
                }
            }
            Mail::Accept(ballot, state) => {
                let reply = node.voter.on_accept(*ballot, *state, None).after_persist();
                if let AcceptReply::Accepted { ballot } = reply {
                    let early = self.mistake == Mistake::VoteEarly;
                    self.answers(world, at, Answer::Vote(ballot), early, arrives);
                }
            }
            Mail::Commit(ballot, state) => {
                node.data |= *state;
                node.voter.on_commit(*ballot);
                // What is stored as data was synced with all before it.
                node.durable = node.voter.clone();
                let stored = world.stored.entry(*ballot).or_default();
                stored.insert(at);
                let early = self.mistake == Mistake::DropEarly;
                let enough = if early { VOTERS / 2 + 1 } else { VOTERS };
                if self.forgets && stored.len() == enough {
                    world.send(&Mail::Forget(*ballot));
                }
            }
            Mail::Forget(ballot) => {
                let floor = match node.voter.forget(*ballot) {
                    _ if self.mistake == Mistake::DropEarly => Ballot::ZERO,
                    Forgotten::Dropped { floor } => floor,
                    Forgotten::Kept => return,
                };
                node.floor = node.floor.max(floor);
                node.voter = Voter::new(node.floor);
                node.durable = node.voter.clone();
            }
        }
    }

    fn sync(&self, world: &mut World, at: usize) {
        let node = &mut world.nodes[at];
        node.durable = node.voter.clone();
        if let Some((ballot, state)) = node.durable.accepted() {
            world.votes.insert((*ballot, *state, at));
        }
        for answer in std::mem::take(&mut node.held) {
            self.hears(world, at, answer);
        }
    }
}

fn promise_of(voter: &Voter<Bits>) -> Promise<Bits> {
    Promise { accepted: voter.accepted().copied(), committed: voter.committed() }
}

impl Model for Register {
    type State = World;
    type Action = Act;

    fn init_states(&self) -> Vec<World> {
        let node = Node {
            voter: Voter::new(Ballot::ZERO),
            durable: Voter::new(Ballot::ZERO),
            floor: Ballot::ZERO,
            data: 0,
            held: Vec::new(),
        };
        let client = Client {
            done: 0,
            attempt: Attempt::None,
            was_proposed: false,
            peeked: false,
            floor: 0,
        };
        vec![World {
            nodes: vec![node; VOTERS],
            clients: vec![client; self.clients.len()],
            mail: BTreeSet::new(),
            next: 1,
            losses: self.losses,
            crashes: self.crashes,
            votes: BTreeSet::new(),
            stored: BTreeMap::new(),
            shown: BTreeSet::new(),
            seen_by_somebody: 0,
            stale: false,
        }]
    }

    fn actions(&self, world: &World, actions: &mut Vec<Act>) {
        for client in 0..self.clients.len() {
            let Some(op) = self.op(world, client) else { continue };
            let peeks = op == Op::Peek && !world.clients[client].peeked;
            if peeks || world.next <= self.ballots {
                actions.push(Act::Begin(client));
            }
        }
        for (mail, to) in &world.mail {
            actions.push(Act::Arrives(mail.clone(), *to, true));
            let answered = matches!(mail, Mail::Prepare(_) | Mail::Accept(..));
            if answered && world.losses > 0 && !self.syncs {
                actions.push(Act::Arrives(mail.clone(), *to, false));
            }
        }
        for (at, node) in world.nodes.iter().enumerate() {
            if self.syncs && node.durable != node.voter {
                actions.push(Act::Sync(at));
                if world.crashes > 0 {
                    actions.push(Act::Crash(at));
                }
            }
        }
    }

    fn next_state(&self, last: &World, action: Act) -> Option<World> {
        let mut world = last.clone();
        match action {
            Act::Begin(client) => self.begin(&mut world, client),
            Act::Arrives(mail, to, arrives) => {
                if !self.doubles {
                    world.mail.remove(&(mail.clone(), to));
                }
                world.losses -= u8::from(!arrives);
                self.arrives(&mut world, &mail, to, arrives);
            }
            Act::Sync(at) => self.sync(&mut world, at),
            Act::Crash(at) => {
                world.crashes -= 1;
                let node = &mut world.nodes[at];
                node.voter = node.durable.clone();
                node.held.clear();
            }
        }
        (world != *last).then_some(world)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("agreement", |_, world: &World| world.agrees()),
            Property::always("chain", |_, world: &World| world.is_chain()),
            Property::always("linearizable", |_, world: &World| !world.stale),
            Property::sometimes("all operations end", |model: &Self, world: &World| {
                let ends = |(client, ops): (&Client, &Vec<Op>)| client.done == ops.len();
                world.clients.iter().zip(&model.clients).all(ends)
            }),
        ]
    }
}
