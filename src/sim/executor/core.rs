//! The executor's tables: tasks, groups, machines, coming events.
//!
//! Only data and small steps; nothing here polls a future, drops one or runs a callback, because
//! those may call back into the tables.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Wake, Waker};
use std::time::Duration;

use crate::env::BoxFuture;
use crate::sim::executor::clock::MachineClock;
use crate::sim::executor::{GroupId, MachineId, Schedule, TaskPanic, World};
use crate::sim::rng::{Ppm, Rng};
use crate::sim::trace::{Trace, TraceKind};
use crate::types::Mono;

/// A mutex whose holder never panics while holding it; a poisoned one is used as it is.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct TaskId {
    index: u32,
    generation: u32,
}

/// The tasks that were woken and not yet polled, in ascending order: a set. In which order they
/// were woken must not matter, because some wakers choose it by a hidden random number (tokio's
/// `watch` spreads its waiters over shards).
#[derive(Default, Debug)]
pub(super) struct ReadyList(pub(super) Mutex<Vec<TaskId>>);

impl ReadyList {
    fn insert(&self, id: TaskId) {
        let mut list = lock(&self.0);
        if let Err(at) = list.binary_search(&id) {
            list.insert(at, id);
        }
    }
}

/// Wakes one task: puts it on the ready list, once.
#[derive(Debug)]
pub(super) struct TaskWaker {
    ready: Arc<ReadyList>,
    id: TaskId,
    queued: AtomicBool,
}

impl TaskWaker {
    /// To be called before a poll, so that a wake during the poll counts.
    pub(super) fn begin_poll(&self) {
        self.queued.store(false, Ordering::Release);
    }
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.queued.swap(true, Ordering::AcqRel) {
            self.ready.insert(self.id);
        }
    }
}

/// What is taken out of a slot for a poll.
pub(super) struct Running {
    pub(super) future: BoxFuture<'static, ()>,
    pub(super) waker: Waker,
    pub(super) state: Arc<TaskWaker>,
}

struct Slot {
    generation: u32,
    group: GroupId,
    name: &'static str,
    priority: u32,
    /// True from spawn to end, also while a poll has taken `running` out.
    live: bool,
    running: Option<Running>,
}

/// One shot of a timer or a completion: set once, wakes its waiter.
#[derive(Default)]
pub(super) struct Signal {
    pub(super) fired: AtomicBool,
    pub(super) cancelled: AtomicBool,
    pub(super) waker: Mutex<Option<Waker>>,
}

impl Signal {
    pub(super) fn fire(&self) {
        self.fired.store(true, Ordering::Release);
        let waker = lock(&self.waker).take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

/// A callback of the world.
pub(super) type Call = Box<dyn FnOnce(&World) + Send>;

pub(super) enum Action {
    /// Fire a timer once its machine's clock shows the deadline.
    Timer { signal: Arc<Signal>, deadline: Mono },
    /// Run a callback.
    Call(Call),
}

struct Event {
    at: u64,
    /// Drawn, so that events of one instant come in any order.
    tie: u32,
    seq: u64,
    group: Option<GroupId>,
    action: Action,
}

impl Event {
    fn order(&self) -> (u64, u32, u64) {
        (self.at, self.tie, self.seq)
    }
}

impl PartialEq for Event {
    fn eq(&self, other: &Self) -> bool {
        self.order() == other.order()
    }
}

impl Eq for Event {}

impl PartialOrd for Event {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Event {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.order().cmp(&other.order())
    }
}

/// Delays of work that blocks.
#[derive(Clone, Copy, Debug)]
pub(super) struct BlockingModel {
    pub(super) low: Duration,
    pub(super) high: Duration,
    /// Chance and length of a stall.
    pub(super) stall: (Ppm, Duration),
}

pub(super) struct Machine {
    pub(super) clock: MachineClock,
    streams: BTreeMap<&'static str, Rng>,
    pub(super) blocking: BlockingModel,
    /// Nanoseconds that the machine's disk took and nobody was charged for yet.
    pub(super) disk_cost: Option<Arc<AtomicU64>>,
}

struct Group {
    machine: MachineId,
    alive: bool,
    paused: bool,
    parked_tasks: Vec<TaskId>,
    parked_events: Vec<Event>,
}

/// What the executor does next.
pub(super) enum Next {
    Poll {
        id: TaskId,
        running: Running,
    },
    Call(Call),
    /// A timer to fire: outside the lock, as any waker may be behind it.
    Fire(Arc<Signal>),
    /// Something was dealt with inside.
    Done,
    /// No event at or before the limit.
    Nothing {
        idle: bool,
    },
}

pub(super) struct Core {
    pub(super) now: u64,
    pub(super) seed: u64,
    pub(super) trace: Trace,
    pub(super) machines: Vec<Machine>,
    pub(super) panics: Vec<TaskPanic>,
    pub(super) schedule: Schedule,
    /// Polls since time last moved.
    pub(super) polls_now: u64,
    pub(super) polls: u64,
    groups: Vec<Group>,
    slots: Vec<Slot>,
    free: Vec<u32>,
    events: BinaryHeap<Reverse<Event>>,
    event_seq: u64,
    purge_at: usize,
    ready: Arc<ReadyList>,
    order: Rng,
    ties: Rng,
}

impl Core {
    pub(super) fn new(seed: u64, schedule: Schedule, ready: Arc<ReadyList>) -> Self {
        Self {
            now: 0,
            seed,
            trace: Trace::default(),
            machines: Vec::new(),
            panics: Vec::new(),
            schedule,
            polls_now: 0,
            polls: 0,
            groups: Vec::new(),
            slots: Vec::new(),
            free: Vec::new(),
            events: BinaryHeap::new(),
            event_seq: 0,
            purge_at: 4_096,
            ready,
            order: Rng::stream(seed, 0, "executor/order"),
            ties: Rng::stream(seed, 0, "executor/ties"),
        }
    }

    pub(super) fn record(&mut self, machine: Option<MachineId>, kind: TraceKind, digest: u64) {
        self.trace.record(self.now, machine.map_or(u32::MAX, |m| m.0), kind, digest);
    }

    pub(super) fn add_machine(&mut self) -> MachineId {
        self.machines.push(Machine {
            clock: MachineClock::new(),
            streams: BTreeMap::new(),
            blocking: BlockingModel {
                low: Duration::from_micros(1),
                high: Duration::from_micros(200),
                stall: (Ppm::NEVER, Duration::ZERO),
            },
            disk_cost: None,
        });
        MachineId(self.machines.len() as u32 - 1)
    }

    pub(super) fn random(&mut self, machine: MachineId, purpose: &'static str) -> u64 {
        let seed = self.seed;
        let streams = &mut self.machines[machine.0 as usize].streams;
        streams
            .entry(purpose)
            .or_insert_with(|| Rng::stream(seed, u64::from(machine.0), purpose))
            .next_u64()
    }

    pub(super) fn add_group(&mut self, machine: MachineId) -> GroupId {
        self.groups.push(Group {
            machine,
            alive: true,
            paused: false,
            parked_tasks: Vec::new(),
            parked_events: Vec::new(),
        });
        GroupId(self.groups.len() as u32 - 1)
    }

    pub(super) fn is_alive(&self, group: GroupId) -> bool {
        self.groups[group.0 as usize].alive
    }

    pub(super) fn is_paused(&self, group: GroupId) -> bool {
        self.groups[group.0 as usize].paused
    }

    /// Adds a task and wakes it. Hands the future back if the group is dead.
    pub(super) fn spawn(
        &mut self,
        group: GroupId,
        name: &'static str,
        future: BoxFuture<'static, ()>,
    ) -> Result<(), BoxFuture<'static, ()>> {
        if !self.is_alive(group) {
            return Err(future);
        }
        let priority = self.ties.next_u64() as u32;
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot {
                generation: 0,
                group,
                name,
                priority,
                live: false,
                running: None,
            });
            self.slots.len() as u32 - 1
        });
        let generation = self.slots[index as usize].generation;
        let id = TaskId { index, generation };
        let ready = Arc::clone(&self.ready);
        let state = Arc::new(TaskWaker { ready, id, queued: AtomicBool::new(false) });
        let waker = Waker::from(Arc::clone(&state));
        waker.wake_by_ref();
        let running = Some(Running { future, waker, state });
        self.slots[index as usize] =
            Slot { generation, group, name, priority, live: true, running };
        let machine = self.groups[group.0 as usize].machine;
        self.record(Some(machine), TraceKind::Spawn, fingerprint(id, name));
        Ok(())
    }

    pub(super) fn push_event(&mut self, at: u64, group: Option<GroupId>, action: Action) {
        self.event_seq += 1;
        let tie = self.ties.next_u64() as u32;
        let at = at.max(self.now);
        self.events.push(Reverse(Event { at, tie, seq: self.event_seq, group, action }));
        if self.events.len() >= self.purge_at {
            self.purge();
        }
    }

    /// Forgets cancelled timers, which would otherwise wait in the heap for their deadline.
    fn purge(&mut self) {
        let cancelled = |event: &Event| match &event.action {
            Action::Timer { signal, .. } => signal.cancelled.load(Ordering::Acquire),
            Action::Call(_) => false,
        };
        self.events.retain(|Reverse(event)| !cancelled(event));
        self.purge_at = (self.events.len() * 2).max(4_096);
    }

    /// Chooses what happens next, up to virtual time `limit`.
    pub(super) fn next(&mut self, limit: u64) -> Next {
        match self.pick_ready() {
            Some(id) => self.begin(id),
            None => self.next_event(limit),
        }
    }

    fn pick_ready(&mut self) -> Option<TaskId> {
        let ready = Arc::clone(&self.ready);
        let mut list = lock(&ready.0);
        let len = list.len();
        let at = match (len, self.schedule) {
            (0, _) => return None,
            (1, _) => 0,
            (_, Schedule::Uniform) => self.order.index(len),
            (_, Schedule::Priorities) => self.highest(&list),
            (_, Schedule::Starve(machine)) => {
                let first = self.order.index(len);
                let starved = |id: &TaskId| {
                    let group = self.slots[id.index as usize].group;
                    self.groups[group.0 as usize].machine == machine
                };
                (0..len).map(|i| (first + i) % len).find(|&i| !starved(&list[i])).unwrap_or(first)
            }
        };
        Some(list.remove(at))
    }

    /// The ready task with the highest priority, which is then drawn anew one time in thirty (a
    /// change point of PCT: Burckhardt et al.).
    fn highest(&mut self, list: &[TaskId]) -> usize {
        let key = |i: &usize| (self.slots[list[*i].index as usize].priority, *i);
        let at = (0..list.len()).max_by_key(key).unwrap_or(0);
        if self.order.below(30) == 0 {
            let index = list[at].index as usize;
            self.slots[index].priority = self.order.next_u64() as u32;
        }
        at
    }

    fn begin(&mut self, id: TaskId) -> Next {
        let slot = &mut self.slots[id.index as usize];
        if slot.generation != id.generation {
            return Next::Done;
        }
        let group = &mut self.groups[slot.group.0 as usize];
        if group.paused {
            group.parked_tasks.push(id);
            return Next::Done;
        }
        let Some(running) = slot.running.take() else { return Next::Done };
        self.polls += 1;
        self.polls_now += 1;
        let (machine, digest) = (group.machine, fingerprint(id, slot.name));
        self.record(Some(machine), TraceKind::Poll, digest);
        Next::Poll { id, running }
    }

    /// Puts a pending task back. Hands it out again to be dropped if its group died meanwhile.
    pub(super) fn end_pending(&mut self, id: TaskId, running: Running) -> Option<Running> {
        let slot = &mut self.slots[id.index as usize];
        if slot.generation != id.generation {
            return Some(running);
        }
        slot.running = Some(running);
        None
    }

    /// Frees the slot of a finished task.
    pub(super) fn end_finished(&mut self, id: TaskId) {
        let slot = &mut self.slots[id.index as usize];
        if slot.generation == id.generation {
            slot.live = false;
            slot.generation = slot.generation.wrapping_add(1);
            self.free.push(id.index);
        }
    }

    /// The machine, group and name of a task that is being polled.
    pub(super) fn describe(&self, id: TaskId) -> (MachineId, GroupId, &'static str) {
        let slot = &self.slots[id.index as usize];
        (self.groups[slot.group.0 as usize].machine, slot.group, slot.name)
    }

    fn next_event(&mut self, limit: u64) -> Next {
        match self.events.peek() {
            None => return Next::Nothing { idle: true },
            Some(Reverse(event)) if event.at > limit => return Next::Nothing { idle: false },
            Some(_) => {}
        }
        let Some(Reverse(event)) = self.events.pop() else { return Next::Done };
        if let Action::Timer { signal, .. } = &event.action
            && signal.cancelled.load(Ordering::Acquire)
        {
            return Next::Done;
        }
        if event.at > self.now {
            self.now = event.at;
            self.polls_now = 0;
        }
        self.dispatch(event)
    }

    fn dispatch(&mut self, event: Event) -> Next {
        let mut machine = None;
        if let Some(id) = event.group {
            let group = &mut self.groups[id.0 as usize];
            if !group.alive {
                // Dropping the callback could call back into the tables: let the caller do it.
                return match event.action {
                    Action::Call(call) => Next::Call(Box::new(move |_| drop(call))),
                    Action::Timer { .. } => Next::Done,
                };
            }
            if group.paused {
                group.parked_events.push(event);
                return Next::Done;
            }
            machine = Some(group.machine);
        }
        match event.action {
            Action::Timer { signal, deadline } => {
                if let Some(m) = machine {
                    let clock = self.machines[m.0 as usize].clock;
                    if clock.mono(self.now) < deadline {
                        let at = self.now + clock.until(self.now, deadline);
                        self.push_event(at, event.group, Action::Timer { signal, deadline });
                        return Next::Done;
                    }
                }
                self.record(machine, TraceKind::Timer, event.seq);
                Next::Fire(signal)
            }
            Action::Call(call) => {
                self.record(machine, TraceKind::Call, event.seq);
                Next::Call(call)
            }
        }
    }

    /// Ends a group. The futures are handed out to be dropped outside the lock.
    pub(super) fn kill(&mut self, id: GroupId) -> Vec<Running> {
        let group = &mut self.groups[id.0 as usize];
        if !group.alive {
            return Vec::new();
        }
        group.alive = false;
        group.paused = false;
        group.parked_tasks.clear();
        let machine = group.machine;
        // Parked events hold callbacks, which must not be dropped under the lock either: they go
        // back to the heap and meet the dead group there.
        for event in std::mem::take(&mut group.parked_events) {
            self.push_event(self.now, Some(id), event.action);
        }
        let mut dropped = Vec::new();
        for (index, slot) in self.slots.iter_mut().enumerate() {
            if slot.group == id && slot.live {
                slot.live = false;
                slot.generation = slot.generation.wrapping_add(1);
                dropped.extend(slot.running.take());
                self.free.push(index as u32);
            }
        }
        self.record(Some(machine), TraceKind::Kill, u64::from(id.0));
        dropped
    }

    pub(super) fn pause(&mut self, id: GroupId, paused: bool) {
        let group = &mut self.groups[id.0 as usize];
        if !group.alive || group.paused == paused {
            return;
        }
        group.paused = paused;
        let machine = group.machine;
        for id in std::mem::take(&mut group.parked_tasks) {
            self.ready.insert(id);
        }
        for event in std::mem::take(&mut group.parked_events) {
            self.push_event(self.now, Some(id), event.action);
        }
        self.record(Some(machine), TraceKind::Pause, u64::from(paused));
    }

    /// Everything that may hold callbacks or futures, to be dropped outside the lock.
    pub(super) fn take_all(&mut self) -> impl Sized + use<> {
        for group in &mut self.groups {
            group.alive = false;
        }
        let parked: Vec<Vec<Event>> =
            self.groups.iter_mut().map(|g| std::mem::take(&mut g.parked_events)).collect();
        (std::mem::take(&mut self.slots), std::mem::take(&mut self.events), parked)
    }

    /// Names of the tasks that are ready now, for a livelock report.
    pub(super) fn ready_names(&self) -> Vec<&'static str> {
        let list = lock(&self.ready.0);
        let mut names: Vec<_> =
            list.iter().filter_map(|id| Some(self.slots.get(id.index as usize)?.name)).collect();
        names.sort_unstable();
        names.dedup();
        names
    }
}

/// A task's fingerprint in the trace.
fn fingerprint(id: TaskId, name: &'static str) -> u64 {
    (u64::from(id.index) << 32) ^ (u64::from(id.generation) << 8) ^ name.len() as u64
}
