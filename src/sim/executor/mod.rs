//! A deterministic executor: a whole cluster in one thread, on virtual time.
//!
//! Production code asks [`crate::env::Env`] for time, tasks and randomness; this is the simulated
//! world behind it. Ready tasks are polled in *random* order, drawn from the seed, so that every
//! interleaving of wake-ups that a real scheduler could produce may come up, which first-in
//! first-out runtimes never show. When nothing is ready, virtual time jumps to the next timer or
//! callback; events of the same instant come in drawn order. Hence an idle minute costs nothing
//! and a run is a function of its seed.
//!
//! - A **machine** has clocks (offset, drift, jumps), random streams and a disk; it lives as long
//!   as the run.
//! - A **group** is one life of a node on a machine: all tasks spawned through its [`Env`].
//!   [`World::kill`] is `kill -9`: tasks, timers and pending blocking work vanish at once, and
//!   whatever their destructors do can no longer start anything. [`World::pause`] is `SIGSTOP`.
//! - `blocking` work runs inline at a drawn moment and completes after the cost of the machine's
//!   disk.
//! - A task that panics kills its group, as the production binary's panic hook stops the process;
//!   the panic is kept as a finding.
//!
//! Futures are `Send` and wakers are `Arc`s because production needs that; here all of it stays
//! on one thread and the locks are never contended. Absent on purpose: real time, threads, IO.

mod clock;
mod core;
mod runtime;
#[cfg(test)]
mod tests;

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll};
use std::time::Duration;

use crate::env::Env;
use crate::sim::rng::{Ppm, Rng};
use crate::sim::trace::{TraceEvent, TraceKind};

use self::core::{Action, BlockingModel, Core, Next, ReadyList, lock};
use self::runtime::SimRuntime;

pub use clock::WALL_ORIGIN_MICROS;

/// How many polls one virtual instant may have before the run is called a livelock.
pub const POLLS_PER_INSTANT: u64 = 1_000_000;

/// A simulated machine, by number.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct MachineId(pub u32);

/// One life of a node, by number; never used twice.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct GroupId(u32);

/// How the next ready task is chosen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Schedule {
    /// Each with the same chance.
    Uniform,
    /// By random priorities that now and then change (PCT).
    Priorities,
    /// Tasks of one machine only when no other is ready.
    Starve(MachineId),
}

/// A task that panicked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TaskPanic {
    /// Where.
    pub machine: MachineId,
    /// Which task; `blocking` for work of [`Env::blocking`] and callbacks.
    pub task: &'static str,
    /// What it said.
    pub message: String,
}

/// Why a run stopped without reaching its end.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Stuck {
    /// Tasks wake each other without end and time stands still.
    #[error("livelock at {at_ns} ns: {POLLS_PER_INSTANT} polls in one instant, ready: {tasks:?}")]
    Livelock {
        /// Virtual time.
        at_ns: u64,
        /// Names of the tasks that were ready.
        tasks: Vec<&'static str>,
    },
}

/// How a stretch of a run ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ended {
    /// The condition was met.
    Done,
    /// The time given was over.
    TimeOver,
    /// No event was left: who still waits, waits for ever.
    Idle,
}

/// The world as seen from inside: cheap to clone, usable from tasks and callbacks.
#[derive(Clone)]
pub struct World {
    core: Arc<Mutex<Core>>,
}

impl std::fmt::Debug for World {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("World")
    }
}

impl World {
    fn core(&self) -> MutexGuard<'_, Core> {
        lock(&self.core)
    }

    /// Virtual nanoseconds since the run began.
    #[must_use]
    pub fn now(&self) -> u64 {
        self.core().now
    }

    /// Adds a machine with true clocks.
    #[must_use]
    pub fn add_machine(&self) -> MachineId {
        self.core().add_machine()
    }

    /// Begins a life on `machine`; what it spawns through the [`Env`] belongs to the group.
    #[must_use]
    pub fn start(&self, machine: MachineId) -> (GroupId, Env) {
        let group = self.core().add_group(machine);
        (group, Env::new(Arc::new(SimRuntime { world: self.clone(), machine, group })))
    }

    /// Ends a life as `kill -9` does.
    pub fn kill(&self, group: GroupId) {
        let dropped = self.core().kill(group);
        drop(dropped);
    }

    /// True until the group was killed.
    #[must_use]
    pub fn is_alive(&self, group: GroupId) -> bool {
        self.core().is_alive(group)
    }

    /// Lets a group stand still (`SIGSTOP`) or go on. Its clocks run on meanwhile.
    pub fn pause(&self, group: GroupId, paused: bool) {
        self.core().pause(group, paused);
    }

    /// True while the group stands still.
    #[must_use]
    pub fn is_paused(&self, group: GroupId) -> bool {
        self.core().is_paused(group)
    }

    /// Runs `call` at virtual time `at`; with a group, only if that is alive then (and, if it
    /// stands still, when it goes on).
    pub fn call_at(
        &self,
        at: u64,
        group: Option<GroupId>,
        call: impl FnOnce(&Self) + Send + 'static,
    ) {
        self.core().push_event(at, group, Action::Call(Box::new(call)));
    }

    /// Runs `call` after `delay` of virtual time.
    pub fn call_after(&self, delay: Duration, call: impl FnOnce(&Self) + Send + 'static) {
        let at = self.now().saturating_add(u64::try_from(delay.as_nanos()).unwrap_or(u64::MAX));
        self.call_at(at, None, call);
    }

    /// Lets the machine's clocks run fast by `drift_ppm` millionths (slow, below zero). Timers
    /// follow.
    pub fn set_drift(&self, machine: MachineId, drift_ppm: i64) {
        let mut core = self.core();
        let now = core.now;
        core.machines[machine.0 as usize].clock.set_drift(now, drift_ppm);
        core.record(Some(machine), TraceKind::Clock, drift_ppm as u64);
    }

    /// Makes the machine's wall clock jump.
    pub fn jump_wall(&self, machine: MachineId, micros: i64) {
        let mut core = self.core();
        core.machines[machine.0 as usize].clock.jump_wall(micros);
        core.record(Some(machine), TraceKind::Clock, micros as u64);
    }

    /// Makes the machine's wall clock stand still, or go on.
    pub fn freeze_wall(&self, machine: MachineId, frozen: bool) {
        let mut core = self.core();
        let now = core.now;
        core.machines[machine.0 as usize].clock.freeze_wall(now, frozen);
        core.record(Some(machine), TraceKind::Clock, u64::from(frozen));
    }

    /// What the machine's wall clock shows, in microseconds since the Unix epoch.
    #[must_use]
    pub fn wall(&self, machine: MachineId) -> u64 {
        let core = self.core();
        core.machines[machine.0 as usize].clock.wall(core.now).0
    }

    /// How long blocking work waits before it runs, and how often and long it stalls.
    pub fn set_blocking(
        &self,
        machine: MachineId,
        low: Duration,
        high: Duration,
        stall: (Ppm, Duration),
    ) {
        self.core().machines[machine.0 as usize].blocking = BlockingModel { low, high, stall };
    }

    /// Charges blocking work on `machine` with the nanoseconds that gather in `meter`.
    pub fn attach_disk(&self, machine: MachineId, meter: Arc<AtomicU64>) {
        self.core().machines[machine.0 as usize].disk_cost = Some(meter);
    }

    /// Adds an event to the trace; `None` is the world itself.
    pub fn record(&self, machine: Option<MachineId>, kind: TraceKind, digest: u64) {
        self.core().record(machine, kind, digest);
    }

    /// A random stream of the run's seed.
    #[must_use]
    pub fn stream(&self, index: u64, purpose: &str) -> Rng {
        Rng::stream(self.core().seed, index, purpose)
    }

    /// Panics of tasks so far, oldest first; leaves none behind.
    #[must_use]
    pub fn take_panics(&self) -> Vec<TaskPanic> {
        std::mem::take(&mut self.core().panics)
    }
}

/// Owns a world and drives it. Dropping it ends all lives.
#[derive(Debug)]
pub struct Executor {
    world: World,
}

impl Drop for Executor {
    fn drop(&mut self) {
        // Destructors may call into the world, so they run after the lock is released.
        let all = self.world.core().take_all();
        drop(all);
    }
}

impl Executor {
    /// A world at time zero.
    #[must_use]
    pub fn new(seed: u64, schedule: Schedule) -> Self {
        let ready = Arc::new(ReadyList::default());
        Self { world: World { core: Arc::new(Mutex::new(Core::new(seed, schedule, ready))) } }
    }

    /// Changes how ready tasks are chosen.
    pub fn set_schedule(&mut self, schedule: Schedule) {
        self.world.core().schedule = schedule;
    }

    /// The world, for those inside.
    #[must_use]
    pub fn world(&self) -> World {
        self.world.clone()
    }

    /// Runs for `span` of virtual time.
    ///
    /// # Errors
    /// [`Stuck`].
    pub fn run_for(&mut self, span: Duration) -> Result<(), Stuck> {
        self.run_while(span, |_| true).map(|_| ())
    }

    /// Runs while `go_on` says so (asked after every event), at most for `span` of virtual time.
    /// When the time is over the clock stands at its end.
    ///
    /// # Errors
    /// [`Stuck`].
    pub fn run_while(
        &mut self,
        span: Duration,
        mut go_on: impl FnMut(&World) -> bool,
    ) -> Result<Ended, Stuck> {
        let span = u64::try_from(span.as_nanos()).unwrap_or(u64::MAX);
        let limit = self.world.now().saturating_add(span);
        loop {
            if !go_on(&self.world) {
                return Ok(Ended::Done);
            }
            if let Some(idle) = self.step(limit)? {
                let mut core = self.world.core();
                core.now = core.now.max(limit);
                core.polls_now = 0;
                return Ok(if idle { Ended::Idle } else { Ended::TimeOver });
            }
        }
    }

    /// Runs until `future` is done, at most for `span`: for tests and scripted steps. The future
    /// runs in a life of its own on `machine`.
    ///
    /// # Errors
    /// [`Stuck`]; `Ok(None)` when the time was over first.
    pub fn block_on<T: Send + 'static>(
        &mut self,
        machine: MachineId,
        span: Duration,
        future: impl Future<Output = T> + Send + 'static,
    ) -> Result<Option<T>, Stuck> {
        let (group, env) = self.world.start(machine);
        let result = Arc::new(Mutex::new(None));
        let slot = Arc::clone(&result);
        env.spawn("block_on", async move {
            let value = future.await;
            *lock(&slot) = Some(value);
        });
        self.run_while(span, |_| lock(&result).is_none())?;
        self.world.kill(group);
        let value = lock(&result).take();
        Ok(value)
    }

    /// One poll or one event; `Some(idle)` when there was none up to `limit`.
    fn step(&mut self, limit: u64) -> Result<Option<bool>, Stuck> {
        let next = {
            let mut core = self.world.core();
            if core.polls_now > POLLS_PER_INSTANT {
                return Err(Stuck::Livelock { at_ns: core.now, tasks: core.ready_names() });
            }
            core.next(limit)
        };
        match next {
            Next::Poll { id, mut running } => {
                running.state.begin_poll();
                let mut context = Context::from_waker(&running.waker);
                let poll =
                    catch_unwind(AssertUnwindSafe(|| running.future.as_mut().poll(&mut context)));
                match poll {
                    Ok(Poll::Pending) => {
                        let dead = self.world.core().end_pending(id, running);
                        drop(dead);
                    }
                    Ok(Poll::Ready(())) => {
                        drop(running);
                        self.world.core().end_finished(id);
                    }
                    Err(cause) => {
                        let (machine, group, task) = self.world.core().describe(id);
                        let _ = catch_unwind(AssertUnwindSafe(|| drop(running)));
                        self.world.core().end_finished(id);
                        self.panicked(machine, Some(group), task, &*cause);
                    }
                }
            }
            Next::Call(call) => {
                let world = self.world.clone();
                if let Err(cause) = catch_unwind(AssertUnwindSafe(|| call(&world))) {
                    self.panicked(MachineId(u32::MAX), None, "blocking", &*cause);
                }
            }
            Next::Fire(signal) => signal.fire(),
            Next::Done => {}
            Next::Nothing { idle } => return Ok(Some(idle)),
        }
        Ok(None)
    }

    fn panicked(
        &self,
        machine: MachineId,
        group: Option<GroupId>,
        task: &'static str,
        cause: &(dyn std::any::Any + Send),
    ) {
        let message = cause
            .downcast_ref::<String>()
            .cloned()
            .or_else(|| cause.downcast_ref::<&str>().map(|text| (*text).to_owned()))
            .unwrap_or_else(|| "a panic without words".to_owned());
        {
            let mut core = self.world.core();
            core.record(Some(machine), TraceKind::Panic, 0);
            core.panics.push(TaskPanic { machine, task, message });
        }
        if let Some(group) = group {
            self.world.kill(group);
        }
    }

    /// The hash of all events so far.
    #[must_use]
    pub fn trace_hash(&self) -> u64 {
        self.world.core().trace.hash()
    }

    /// How many events there were.
    #[must_use]
    pub fn events(&self) -> u64 {
        self.world.core().trace.len()
    }

    /// How many polls there were.
    #[must_use]
    pub fn polls(&self) -> u64 {
        self.world.core().polls
    }

    /// Keeps all events for [`Executor::recent_events`], not only the latest.
    pub fn keep_all_events(&mut self) {
        self.world.core().trace.keep_all();
    }

    /// The latest events, oldest first.
    #[must_use]
    pub fn recent_events(&self) -> Vec<TraceEvent> {
        self.world.core().trace.recent()
    }
}
