//! MC6: a key whose concurrent values are all kept, on three replicas. Records, contexts, minting and
//! merging are the real ones ([`henge::record`], [`henge::causality`]); the thin rest of this file
//! stands for disks, network and clients.
//!
//! Beside each record stands a set of writes: those that it has met, minted or merged in. With what
//! each writer had read (also a set of writes) that says what the record must show, without any dot
//! or vector: the values of all writes that it has met, but for those that the writer of another one
//! of them had read. What must hold:
//!
//! - *no lost update*, *nothing superseded lives*: each record shows exactly that;
//! - *no dot twice*: no two writes get one name;
//! - *who has its history mints*: no replica is refused an event as one that it has forgotten;
//! - *convergence*: whoever hears everything that was ever sent or is on a disk, in whatever order,
//!   ends with the same record.
//!
//! What was sent can arrive at any time, any number of times, anywhere: as a write's second copy, as
//! a hint, from a stream. It is lost by never arriving. Besides, a replica brings another one up at
//! any time with all that it holds (read repair, anti-entropy). A client writes blind or with what it
//! holds: what it read last, however long ago, or got for its last write.
//!
//! Replicas are told apart by nothing but what they hold, and so are clients: of those that hold
//! nothing yet only the first one does anything.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use henge::causality::Context;
use henge::record::{Action, Mint, Minted, Mutation, Record, RecordKind, Value};
use henge::types::{ActorId, Digest, Dot, Hlc, OpId, WallMicros};
use stateright::{Model, Property};

const REPLICAS: usize = 3;
/// The most writes of one client.
const EACH: u8 = 8;

/// A mistake of what is around the real code. (Those inside it are planted: see `main`.)
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Mistake {
    None,
    /// P16: a lost or older disk goes on as the actor that it was, and counts from what it holds.
    SameActor,
    /// P17: what was minted is sent, and answered, before it is durable.
    SendEarly,
    /// Riak's kv679: the key's record is lost, and its actor goes on, from the next number.
    KeepsCounter,
    /// Riak's kv679, too: two replicas are one actor.
    OneActor,
}

/// A model with its bounds.
#[derive(Clone, Debug)]
pub struct Causal {
    /// Who writes.
    pub clients: usize,
    /// Writes of all together.
    pub writes: u32,
    /// How far an actor's counter goes with each write to this key: beyond 1 there are events of
    /// other keys between.
    pub step: u64,
    /// Disks that are lost.
    pub losses: u8,
    /// Copies of disks that are put back.
    pub restores: u8,
    /// Replicas that crash. What is not synced is lost then, and syncing is a step of its own. With
    /// none, all is durable at once.
    pub crashes: u8,
    pub mistake: Mistake,
}

/// Writes, a bit for each: client × [`EACH`] + number.
type Writes = u16;

fn bit(write: u8) -> Writes {
    1 << write
}

fn each(writes: Writes) -> impl Iterator<Item = u8> {
    (0..Writes::BITS as u8).filter(move |write| writes & bit(*write) != 0)
}

/// A record, and its digest to tell it from others by.
#[derive(Clone, Debug)]
struct Copy {
    record: Arc<Record>,
    digest: Digest,
    met: Writes,
}

impl Copy {
    fn new(record: Record, met: Writes) -> Self {
        Self { digest: record.digest(), record: Arc::new(record), met }
    }

    fn empty() -> Self {
        Self::new(Record::empty(RecordKind::Siblings), 0)
    }

    fn merged(&self, other: &Self) -> Self {
        let mut record = Record::clone(&self.record);
        record.merge(&other.record).expect("of one kind");
        Self::new(record, self.met | other.met)
    }

    /// The writes whose values it holds.
    fn live(&self) -> Writes {
        self.record.versions().fold(0, |all, version| all | bit(version.op.0 as u8))
    }
}

impl PartialEq for Copy {
    fn eq(&self, other: &Self) -> bool {
        (self.digest, self.met) == (other.digest, other.met)
    }
}

impl Eq for Copy {}

impl Hash for Copy {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (self.digest, self.met).hash(state);
    }
}

/// What is on a disk, or shall be.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Disk {
    copy: Copy,
    actor: ActorId,
    counter: u64,
}

/// A write that waits for the sync.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Pending {
    write: u8,
    dot: Dot,
    copy: Copy,
    holds: Held,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Replica {
    memory: Disk,
    disk: Disk,
    pending: Vec<Pending>,
    /// Actors that it has been.
    lives: u64,
}

/// What a client holds: a context, and the writes that it stands for.
#[derive(Clone, PartialEq, Eq, Hash, Default, Debug)]
struct Held {
    context: Context,
    read: Writes,
}

#[derive(Clone, PartialEq, Eq, Hash, Default, Debug)]
struct Client {
    written: u8,
    holds: Held,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct World {
    replicas: Vec<Replica>,
    clients: Vec<Client>,
    /// The record that each write left, as it was sent to the others.
    sent: BTreeMap<u8, Copy>,
    /// What each write's writer had read.
    had_read: BTreeMap<u8, Writes>,
    puts: Writes,
    dots: BTreeSet<Dot>,
    backup: Option<(usize, Disk)>,
    losses: u8,
    restores: u8,
    crashes: u8,
    twice: bool,
    refused: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Act {
    /// The client reads at one replica.
    Read(usize, usize),
    /// It stores a value there: blind, or over what it has read.
    Blind(usize, usize),
    Put(usize, usize),
    Delete(usize, usize),
    /// What a write sent arrives.
    Arrives(u8, usize),
    /// The first brings the second up.
    Push(usize, usize),
    Sync(usize),
    Crash(usize),
    Lose(usize),
    Backup(usize),
    Restore,
}

impl World {
    /// What the writers of `met` had read.
    fn had_read(&self, met: Writes) -> Writes {
        each(met).fold(0, |all, write| all | self.had_read[&write])
    }

    /// What one has read who reads a record that has met `met`: those, and what they came after.
    fn read_in(&self, met: Writes) -> Writes {
        met | self.had_read(met)
    }

    /// The writes whose values a record must hold that has met `met`.
    fn expected(&self, met: Writes) -> Writes {
        met & self.puts & !self.had_read(met)
    }

    fn written(&self) -> u32 {
        self.clients.iter().map(|client| u32::from(client.written)).sum()
    }

    fn copies(&self) -> impl Iterator<Item = &Copy> {
        let kept = self.replicas.iter().flat_map(|r| [&r.disk.copy, &r.memory.copy]);
        kept.chain(self.sent.values())
    }

    /// Who hears everything, in different orders, ends alike.
    fn converges(&self) -> bool {
        let kept = self.replicas.iter().map(|replica| &replica.disk.copy);
        let all: Vec<&Record> = kept.chain(self.sent.values()).map(|copy| &*copy.record).collect();
        let end = |order: &mut dyn Iterator<Item = &&Record>| {
            let mut record = Record::empty(RecordKind::Siblings);
            for other in order {
                record.merge(other).expect("of one kind");
            }
            record
        };
        let first = end(&mut all.iter());
        first == end(&mut all.iter().rev())
            && first == end(&mut all[1..].iter().rev().chain(&all[..1]))
            && first == end(&mut all[2..].iter().chain(all[..2].iter().rev()))
    }

    /// A write is durable (or taken for it): it is sent to all, and its client has its answer.
    fn leaves(&mut self, pending: Pending) {
        self.twice |= !self.dots.insert(pending.dot);
        self.sent.insert(pending.write, pending.copy);
        self.clients[usize::from(pending.write / EACH)].holds = pending.holds;
    }

    /// All up to the first replica that holds nothing.
    fn told_apart(&self) -> usize {
        let blank = |r: &Replica| r.lives == 1 && r.memory.copy.met == 0;
        self.replicas.iter().position(blank).map_or(REPLICAS, |at| at + 1)
    }
}

impl Causal {
    fn actor(&self, replica: usize, lives: u64) -> ActorId {
        let replica = if self.mistake == Mistake::OneActor { 0 } else { replica as u64 };
        ActorId(16 * replica + lives)
    }

    /// A disk is begun anew with `found` on it, which may be old or nothing.
    fn begins(&self, world: &mut World, at: usize, found: Copy, counter: u64) {
        let replica = &mut world.replicas[at];
        let lost = &replica.disk;
        let (actor, counter) = match self.mistake {
            Mistake::SameActor => (lost.actor, counter),
            Mistake::KeepsCounter => (lost.actor, lost.counter),
            Mistake::None | Mistake::SendEarly | Mistake::OneActor => {
                replica.lives += 1;
                (self.actor(at, replica.lives), 0)
            }
        };
        replica.disk = Disk { copy: found, actor, counter };
        replica.memory = replica.disk.clone();
        replica.pending.clear();
    }

    fn merges(&self, world: &mut World, at: usize, copy: &Copy) {
        let replica = &mut world.replicas[at];
        replica.memory.copy = replica.memory.copy.merged(copy);
        self.stored(world, at);
    }

    fn stored(&self, world: &mut World, at: usize) {
        if self.crashes == 0 {
            self.sync(world, at);
        }
    }

    fn sync(&self, world: &mut World, at: usize) {
        let replica = &mut world.replicas[at];
        replica.disk = replica.memory.clone();
        for pending in std::mem::take(&mut replica.pending) {
            world.leaves(pending);
        }
    }

    fn writes(&self, world: &mut World, client: usize, at: usize, action: Action, held: Held) {
        let write = client as u8 * EACH + world.clients[client].written;
        let Disk { copy, actor, counter } = &mut world.replicas[at].memory;
        let dot = Dot { actor: *actor, counter: *counter + self.step };
        let is_put = matches!(action, Action::Put(_));
        let mutation = Mutation {
            op: OpId(write.into()),
            request: write.into(),
            context: held.context,
            action,
        };
        let mint = Mint { dot, stamp: Hlc(write.into()), now: WallMicros(0) };
        let mut record = Record::clone(&copy.record);
        let Ok(Minted { writer_context, .. }) = record.mint(mutation, mint) else {
            world.refused = true;
            return;
        };
        *copy = Copy::new(record, copy.met | bit(write));
        *counter = dot.counter;
        let holds = Held { context: writer_context, read: held.read | bit(write) };
        let pending = Pending { write, dot, copy: copy.clone(), holds };
        world.clients[client].written += 1;
        world.had_read.insert(write, held.read);
        world.puts |= if is_put { bit(write) } else { 0 };
        if self.mistake == Mistake::SendEarly {
            world.leaves(pending);
        } else {
            world.replicas[at].pending.push(pending);
        }
        self.stored(world, at);
    }
}

impl Model for Causal {
    type State = World;
    type Action = Act;

    fn init_states(&self) -> Vec<World> {
        let replica = |at| {
            let disk = Disk { copy: Copy::empty(), actor: self.actor(at, 1), counter: 0 };
            Replica { memory: disk.clone(), disk, pending: Vec::new(), lives: 1 }
        };
        vec![World {
            replicas: (0..REPLICAS).map(replica).collect(),
            clients: vec![Client::default(); self.clients],
            sent: BTreeMap::new(),
            had_read: BTreeMap::new(),
            puts: 0,
            dots: BTreeSet::new(),
            backup: None,
            losses: self.losses,
            restores: self.restores,
            crashes: self.crashes,
            twice: false,
            refused: false,
        }]
    }

    fn actions(&self, world: &World, actions: &mut Vec<Act>) {
        let replicas = world.told_apart();
        let blank = |client: &Client| *client == Client::default();
        let clients = world.clients.iter().position(blank).map_or(self.clients, |at| at + 1);
        for at in 0..replicas {
            for client in 0..clients {
                if world.written() < self.writes {
                    actions.extend([Act::Read(client, at), Act::Blind(client, at)]);
                    if world.clients[client].holds.read != 0 {
                        actions.extend([Act::Put(client, at), Act::Delete(client, at)]);
                    }
                }
            }
            actions.extend(world.sent.keys().map(|write| Act::Arrives(*write, at)));
            actions.extend((0..replicas).map(|from| Act::Push(from, at)));
            let replica = &world.replicas[at];
            if replica.memory != replica.disk {
                actions.push(Act::Sync(at));
                if world.crashes > 0 {
                    actions.push(Act::Crash(at));
                }
            }
            if replica.disk.copy.met != 0 {
                if world.losses > 0 {
                    actions.push(Act::Lose(at));
                }
                if world.restores > 0 && world.backup.is_none() {
                    actions.push(Act::Backup(at));
                }
            }
        }
        if world.backup.is_some() {
            actions.push(Act::Restore);
        }
    }

    fn next_state(&self, last: &World, action: Act) -> Option<World> {
        let mut world = last.clone();
        let value = || Action::Put(Value::default());
        match action {
            Act::Read(client, at) => {
                let Copy { record, met, .. } = &world.replicas[at].disk.copy;
                let context = record.view(WallMicros(0)).context;
                world.clients[client].holds = Held { context, read: world.read_in(*met) };
            }
            Act::Blind(client, at) => self.writes(&mut world, client, at, value(), Held::default()),
            Act::Put(client, at) => {
                let held = world.clients[client].holds.clone();
                self.writes(&mut world, client, at, value(), held);
            }
            Act::Delete(client, at) => {
                let held = world.clients[client].holds.clone();
                self.writes(&mut world, client, at, Action::Delete, held);
            }
            Act::Arrives(write, at) => self.merges(&mut world, at, &last.sent[&write]),
            Act::Push(from, at) => self.merges(&mut world, at, &last.replicas[from].disk.copy),
            Act::Sync(at) => self.sync(&mut world, at),
            Act::Crash(at) => {
                world.crashes -= 1;
                let replica = &mut world.replicas[at];
                replica.memory = replica.disk.clone();
                replica.pending.clear();
            }
            Act::Lose(at) => {
                world.losses -= 1;
                self.begins(&mut world, at, Copy::empty(), 0);
            }
            Act::Backup(at) => world.backup = Some((at, world.replicas[at].disk.clone())),
            Act::Restore => {
                world.restores -= 1;
                let (at, disk) = world.backup.take()?;
                self.begins(&mut world, at, disk.copy, disk.counter);
            }
        }
        if world.written() == self.writes {
            // Nobody writes any more, so what is held makes no difference.
            world.clients.iter_mut().for_each(|client| client.holds = Held::default());
            let pending = world.replicas.iter_mut().flat_map(|replica| &mut replica.pending);
            pending.for_each(|pending| pending.holds = Held::default());
        }
        (world != *last).then_some(world)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("no lost update", |_, world: &World| {
                world.copies().all(|copy| world.expected(copy.met) & !copy.live() == 0)
            }),
            Property::always("nothing superseded lives", |_, world: &World| {
                world.copies().all(|copy| copy.live() & !world.expected(copy.met) == 0)
            }),
            Property::always("no dot twice", |_, world: &World| !world.twice),
            Property::always("who has its history mints", |_, world: &World| !world.refused),
            Property::always("convergence", |_, world: &World| world.converges()),
            Property::sometimes("all values side by side", |model: &Self, world: &World| {
                world.copies().any(|copy| copy.live().count_ones() == model.writes)
            }),
            Property::sometimes("a deletion leaves a tombstone", |_, world: &World| {
                world.copies().any(|copy| copy.record.view(WallMicros(0)).tombstone)
            }),
            Property::sometimes("a new actor mints", |model: &Self, world: &World| {
                let anew = world.replicas.iter().any(|r| r.lives > 1 && r.disk.counter > 0);
                anew || model.losses + model.restores == 0
            }),
        ]
    }
}
