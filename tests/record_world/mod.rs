//! A world of replicas, clients and packets around one key, and an oracle that keeps what the
//! record must not: every event with its full causal past.
//!
//! The record under test forgets superseded values and squeezes what it has seen into a vector.
//! The oracle is naive: a set of event numbers per replica, per packet and per client. After each
//! step the two must agree on what is live and on what is covered.

use std::collections::BTreeSet;

use bytes::Bytes;
use henge::causality::Context;
use henge::record::{
    Action, Merged, Mint, Minted, Mutation, OpMemory, Record, RecordKind, Value, address,
};
use henge::types::{ActorId, Dot, Hlc, Key, OpId, TableId, WallMicros};
use proptest::prelude::*;

/// Numbers are taken modulo what there is.
#[derive(Clone, Debug)]
pub enum Step {
    /// A client reads through the replicas of a mask, merged.
    Read { client: usize, mask: u8 },
    /// A client writes with a context that it holds: 0 the latest, 1 the one before, …; with
    /// `blind`, with none. With `retry_at`, the coordinator gives up waiting and asks a second
    /// minter as well; the client hears of the first or of the second.
    Write { client: usize, at: usize, held: usize, how: How, retry_at: Option<usize> },
    /// A replica's whole record leaves as a packet.
    Send { from: usize },
    /// A packet arrives, perhaps not for the first time.
    Deliver { packet: usize, to: usize },
    /// The actor counts events on other keys; its clock goes on.
    Elsewhere { replica: usize, events: u64, micros: u64 },
    /// The replica loses its disk and begins a new actor (law L3).
    Wipe { replica: usize },
}

#[derive(Clone, Copy, Debug)]
pub struct How {
    pub blind: bool,
    pub delete: bool,
    pub hears_second: bool,
}

/// What a history may contain.
#[derive(Clone, Copy, Debug)]
pub struct Faults {
    pub retries: bool,
    pub wipes: bool,
}

pub fn steps(faults: Faults, len: std::ops::Range<usize>) -> impl Strategy<Value = Vec<Step>> {
    let index = || 0usize..64;
    let how = (prop::bool::weighted(0.15), prop::bool::weighted(0.2), any::<bool>())
        .prop_map(|(blind, delete, hears_second)| How { blind, delete, hears_second });
    let retry = prop::option::weighted(0.4, index())
        .prop_map(move |retry_at| retry_at.filter(|_| faults.retries));
    let step = prop_oneof![
        4 => (index(), any::<u8>()).prop_map(|(client, mask)| Step::Read { client, mask }),
        6 => (index(), index(), 0usize..3, how, retry).prop_map(
            |(client, at, held, how, retry_at)| Step::Write { client, at, held, how, retry_at }
        ),
        3 => index().prop_map(|from| Step::Send { from }),
        5 => (index(), index()).prop_map(|(packet, to)| Step::Deliver { packet, to }),
        1 => (index(), 0u64..5, 0u64..20).prop_map(
            |(replica, events, micros)| Step::Elsewhere { replica, events, micros }
        ),
        1 => index().prop_map(move |replica| match faults.wipes {
            true => Step::Wipe { replica },
            false => Step::Send { from: replica },
        }),
    ];
    prop::collection::vec(step, len)
}

/// A rule of the siblings checker (W5) that was broken.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Breach {
    /// A value that nobody superseded is not shown.
    Lost(String),
    /// A superseded value is shown.
    FalseSibling(String),
    /// The seen set says otherwise than the history.
    Coverage(String),
    /// A receipt or a flag says otherwise than the history.
    Answer(String),
    /// Replicas that have exchanged everything differ.
    Diverged(String),
}

type Events = BTreeSet<usize>;

struct Event {
    dot: Dot,
    op: u64,
    /// None: a deletion.
    body: Option<Bytes>,
    stamp: Hlc,
    /// All that its writer had seen.
    past: Events,
}

struct Replica {
    actor: ActorId,
    counter: u64,
    clock: u64,
    record: Record,
    known: Events,
}

pub struct World {
    kind: RecordKind,
    exact_until_the_end: bool,
    events: Vec<Event>,
    replicas: Vec<Replica>,
    /// Encoded records under way, with what they know. Never removed: any may come again.
    packets: Vec<(Bytes, Events)>,
    /// Each client's contexts, newest last, with what the client had seen.
    clients: Vec<Vec<(Context, Events)>>,
    next_actor: u64,
    next_op: u64,
    /// Every state that any replica went through.
    pub states: Vec<Record>,
}

const NOW: WallMicros = WallMicros(0);

fn home() -> Bytes {
    address(TableId(7), &Key::new("stone").unwrap())
}

impl World {
    pub fn new(kind: RecordKind, replicas: usize, clients: usize, faults: Faults) -> Self {
        let mut world = Self {
            kind,
            exact_until_the_end: !faults.retries,
            events: Vec::new(),
            replicas: Vec::new(),
            packets: Vec::new(),
            clients: vec![Vec::new(); clients],
            next_actor: 0,
            next_op: 0,
            states: vec![Record::empty(kind)],
        };
        for at in 0..replicas {
            let replica = world.fresh_replica(at as u64 * 7);
            world.replicas.push(replica);
        }
        world
    }

    fn fresh_replica(&mut self, clock: u64) -> Replica {
        // Actor ids in no order of birth, as random ones are.
        let actor = ActorId((self.next_actor + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
        self.next_actor += 1;
        Replica { actor, counter: 0, clock, record: Record::empty(self.kind), known: Events::new() }
    }

    /// Runs all steps, then lets everyone exchange everything, checking all the way.
    pub fn run(&mut self, steps: &[Step]) -> Result<(), Breach> {
        for step in steps {
            self.step(step)?;
        }
        self.settle()
    }

    #[allow(dead_code, reason = "not every test program looks at states")]
    /// Runs all steps without judging them, for the states that come out.
    pub fn wander(&mut self, steps: &[Step]) {
        for step in steps {
            let _ = self.step(step);
        }
    }

    fn step(&mut self, step: &Step) -> Result<(), Breach> {
        let (replicas, clients) = (self.replicas.len(), self.clients.len());
        match *step {
            Step::Read { client, mask } => self.read(client % clients, mask)?,
            Step::Write { client, at, held, how, retry_at } => {
                let retry_at = retry_at.map(|at| at % replicas);
                self.write(client % clients, at % replicas, held, how, retry_at)?;
            }
            Step::Send { from } => {
                let from = &self.replicas[from % replicas];
                self.packets.push((from.record.encode(&home()), from.known.clone()));
            }
            Step::Deliver { packet, to } if !self.packets.is_empty() => {
                let (bytes, known) = self.packets[packet % self.packets.len()].clone();
                let record = Record::decode(&bytes, &home()).expect("a packet decodes");
                self.merge_into(to % replicas, &record, &known)?;
            }
            Step::Deliver { .. } => {}
            Step::Elsewhere { replica, events, micros } => {
                let replica = &mut self.replicas[replica % replicas];
                replica.counter += events;
                replica.clock += micros;
            }
            Step::Wipe { replica } => {
                let clock = self.replicas[replica % replicas].clock;
                self.replicas[replica % replicas] = self.fresh_replica(clock);
            }
        }
        Ok(())
    }

    fn read(&mut self, client: usize, mask: u8) -> Result<(), Breach> {
        let mut merged = Record::empty(self.kind);
        let mut known = Events::new();
        for (at, replica) in self.replicas.iter().enumerate() {
            if mask >> at & 1 == 1 {
                merged.merge(&replica.record).expect("one kind");
                known.extend(&replica.known);
            }
        }
        self.check(&merged, &known, false)?;
        self.clients[client].push((merged.view(NOW).context, known));
        Ok(())
    }

    fn write(
        &mut self,
        client: usize,
        at: usize,
        held: usize,
        how: How,
        retry_at: Option<usize>,
    ) -> Result<(), Breach> {
        let contexts = &self.clients[client];
        let held = contexts.iter().rev().nth(held).or(contexts.first());
        let (context, read) = match held {
            Some(held) if !how.blind => held.clone(),
            Some(_) | None => Default::default(),
        };
        let op = self.next_op;
        self.next_op += 1;
        let body = (!how.delete).then(|| Bytes::from(format!("value {}", op % 5 * 100 + op)));
        let action = match &body {
            Some(body) => Action::Put(Value { body: body.clone(), ..Value::default() }),
            None => Action::Delete,
        };
        let mutation = Mutation { op: OpId(u128::from(op)), request: op, context, action };
        let mut held = self.mint(at, &mutation, &body, &read)?;
        if let Some(second) = retry_at {
            let known = &self.replicas[second].record;
            if known.find_op(mutation.op, op) == OpMemory::Unknown {
                let answer = self.mint(second, &mutation, &body, &read)?;
                if how.hears_second {
                    held = answer;
                }
            }
        }
        self.clients[client].push(held);
        Ok(())
    }

    fn mint(
        &mut self,
        at: usize,
        mutation: &Mutation,
        body: &Option<Bytes>,
        read: &Events,
    ) -> Result<(Context, Events), Breach> {
        let replica = &mut self.replicas[at];
        replica.counter += 1;
        replica.clock += 1;
        let dot = Dot { actor: replica.actor, counter: replica.counter };
        let mint = Mint { dot, stamp: Hlc(replica.clock), now: NOW };
        let before = replica.record.view(NOW).versions.len();
        let minted = replica.record.mint(mutation.clone(), mint).expect("dots never repeat");
        let after = replica.record.view(NOW).versions.len();
        let event = self.events.len();
        let (op, body) = (mutation.op.0 as u64, body.clone());
        self.events.push(Event { dot, op, body, stamp: minted.stamp, past: read.clone() });
        let replica = &mut self.replicas[at];
        replica.known.extend(read);
        replica.known.insert(event);
        let mut seen = read.clone();
        seen.insert(event);

        self.check_minted(&minted, before, after)?;
        if self.kind == RecordKind::Siblings {
            self.check_covers(&minted.writer_context, &seen, "writer")?;
        }
        let replica = &self.replicas[at];
        self.states.push(replica.record.clone());
        self.check(&replica.record, &replica.known, false)?;
        Ok((minted.writer_context, seen))
    }

    fn check_minted(&self, minted: &Minted, before: usize, after: usize) -> Result<(), Breach> {
        if minted.created != (before == 0) || minted.siblings != after {
            return Err(Breach::Answer(format!("{minted:?}: {before} before, {after} after")));
        }
        Ok(())
    }

    fn merge_into(&mut self, to: usize, other: &Record, known: &Events) -> Result<(), Breach> {
        let replica = &mut self.replicas[to];
        let before = replica.record.clone();
        let merged = replica.record.merge(other).expect("one kind");
        replica.known.extend(known);
        let expected = Merged {
            changed: replica.record != before,
            incoming_dominated: replica.record == before,
            equal: before == *other,
            dot_reused: None,
            outranked: merged.outranked,
        };
        if merged != expected {
            return Err(Breach::Answer(format!("{merged:?}, expected {expected:?}")));
        }
        // Only last-write-wins ranks; equal stamps are ranked by more than what shows here.
        let (theirs, ours) = (other.max_stamp(), before.max_stamp());
        let lww = before.kind() == RecordKind::Lww;
        let outranked = lww && theirs.0 > 0 && theirs < ours;
        if merged.outranked != outranked && !(lww && theirs == ours) {
            return Err(Breach::Answer(format!("{merged:?}: {theirs:?} met {ours:?}")));
        }
        let replica = &self.replicas[to];
        self.states.push(replica.record.clone());
        self.check(&replica.record, &replica.known, false)
    }

    /// Everyone merges with everyone; all must be equal, and exactly right.
    fn settle(&mut self) -> Result<(), Breach> {
        let all: Vec<_> =
            self.replicas.iter().map(|r| (r.record.clone(), r.known.clone())).collect();
        for to in 0..all.len() {
            // Each in an order of its own.
            for from in 0..all.len() {
                let (record, known) = &all[(to + from) % all.len()];
                self.merge_into(to, record, known)?;
            }
        }
        let first = &self.replicas[0];
        for replica in &self.replicas {
            if replica.record.encode(&home()) != first.record.encode(&home()) {
                return Err(Breach::Diverged(format!("{:?}\n{:?}", replica.record, first.record)));
            }
        }
        self.check(&first.record, &first.known, true)
    }

    fn check(&self, record: &Record, known: &Events, settled: bool) -> Result<(), Breach> {
        let view = record.view(NOW);
        let shown: Vec<u64> = view.versions.iter().map(|version| version.op.0 as u64).collect();
        let unique: BTreeSet<u64> = shown.iter().copied().collect();
        if unique.len() != shown.len() {
            return Err(Breach::FalseSibling(format!("operations shown twice: {shown:?}")));
        }
        for version in &view.versions {
            let event = self.events.iter().find(|event| event.dot == version.dot);
            if event.and_then(|event| event.body.as_ref()) != Some(&version.value.body) {
                return Err(Breach::Answer(format!("{version:?} is not what was written")));
            }
        }
        let (must, may) = self.expected(known);
        let may = if settled || self.exact_until_the_end { &must } else { &may };
        if let Some(op) = must.difference(&unique).next() {
            return Err(Breach::Lost(format!("{op} of {must:?}, shown {shown:?}")));
        }
        if let Some(op) = unique.difference(may).next() {
            return Err(Breach::FalseSibling(format!("{op}; expected {may:?}")));
        }
        if view.tombstone != (unique.is_empty() && !known.is_empty()) {
            return Err(Breach::Answer(format!("tombstone: {}", view.tombstone)));
        }
        match self.kind {
            RecordKind::Siblings => self.check_covers(&view.context, known, "record"),
            // Rows are of another world: nothing of theirs is minted.
            RecordKind::Lww | RecordKind::Row => Ok(()),
        }
    }

    /// A context covers an event exactly when its holder knows it. (The record knows more: dots of
    /// other keys, which are no events here.)
    fn check_covers(&self, context: &Context, known: &Events, whose: &str) -> Result<(), Breach> {
        for (number, event) in self.events.iter().enumerate() {
            if context.covers(event.dot) != known.contains(&number) {
                let known = known.contains(&number);
                return Err(Breach::Coverage(format!("{whose}: {:?}, known {known}", event.dot)));
            }
        }
        Ok(())
    }

    /// The operations that must be shown, and those that may be shown for a while.
    fn expected(&self, known: &Events) -> (BTreeSet<u64>, BTreeSet<u64>) {
        if self.kind == RecordKind::Lww {
            let winner = known.iter().map(|&number| &self.events[number]).max_by(|a, b| {
                (a.stamp, a.body.is_none(), &a.body, a.dot).cmp(&(
                    b.stamp,
                    b.body.is_none(),
                    &b.body,
                    b.dot,
                ))
            });
            let shown: BTreeSet<u64> = winner
                .filter(|event| event.body.is_some())
                .map(|event| event.op)
                .into_iter()
                .collect();
            return (shown.clone(), shown);
        }
        let past: Events =
            known.iter().flat_map(|&number| self.events[number].past.iter().copied()).collect();
        let past_ops: BTreeSet<u64> = past.iter().map(|&number| self.events[number].op).collect();
        let puts = || known.iter().filter(|&&number| self.events[number].body.is_some());
        let op = |number: &usize| self.events[*number].op;
        // An operation is superseded when any of its events is in anyone's past. Until the event's
        // record arrives, a replica that only has a twin of it cannot know that.
        let must = puts().map(op).filter(|op| !past_ops.contains(op)).collect();
        let may = puts().filter(|number| !past.contains(number)).map(op).collect();
        (must, may)
    }
}
