//! What the executor offers to the code of a node: [`crate::env::Runtime`].

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;

use crate::env::{BoxFuture, Runtime};
use crate::sim::executor::core::{Action, Signal, lock};
use crate::sim::executor::{GroupId, MachineId, World};
use crate::types::{Mono, WallMicros};

/// One life of a node on one machine.
pub(super) struct SimRuntime {
    pub(super) world: World,
    pub(super) machine: MachineId,
    pub(super) group: GroupId,
}

/// Waits for a [`Signal`]; dropping it cancels.
struct Waiting {
    signal: Arc<Signal>,
}

impl Future for Waiting {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if self.signal.fired.load(Ordering::Acquire) {
            return Poll::Ready(());
        }
        let mut waker = lock(&self.signal.waker);
        match &mut *waker {
            Some(known) if known.will_wake(context.waker()) => {}
            slot => *slot = Some(context.waker().clone()),
        }
        Poll::Pending
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.signal.cancelled.store(true, Ordering::Release);
        drop(lock(&self.signal.waker).take());
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX / 4)
}

impl Runtime for SimRuntime {
    fn mono(&self) -> Mono {
        let core = self.world.core();
        core.machines[self.machine.0 as usize].clock.mono(core.now)
    }

    fn wall(&self) -> WallMicros {
        let core = self.world.core();
        core.machines[self.machine.0 as usize].clock.wall(core.now)
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        let signal = Arc::new(Signal::default());
        {
            let mut core = self.world.core();
            if core.is_alive(self.group) {
                let clock = core.machines[self.machine.0 as usize].clock;
                let deadline = clock.mono(core.now) + duration;
                let at = core.now.saturating_add(clock.until(core.now, deadline));
                let action = Action::Timer { signal: Arc::clone(&signal), deadline };
                core.push_event(at, Some(self.group), action);
            }
        }
        Box::pin(Waiting { signal })
    }

    fn spawn(&self, name: &'static str, task: BoxFuture<'static, ()>) {
        // A dead node's task is dropped here, outside the lock.
        let refused = self.world.core().spawn(self.group, name, task);
        drop(refused);
    }

    /// The work runs inline at a drawn moment and its caller learns of it later still: what the
    /// machine's disk says that it took. A kill in between leaves work done that nobody heard of,
    /// a kill before it leaves nothing.
    fn blocking(
        &self,
        _name: &'static str,
        work: Box<dyn FnOnce() + Send>,
    ) -> BoxFuture<'static, ()> {
        let signal = Arc::new(Signal::default());
        let (machine, group) = (self.machine, self.group);
        let done = Arc::clone(&signal);
        let run = move |world: &World| {
            work();
            let at = {
                let core = world.core();
                let cost = core.machines[machine.0 as usize].disk_cost.as_ref();
                core.now + cost.map_or(0, |cost| cost.swap(0, Ordering::Relaxed)) + 1
            };
            world.call_at(at, Some(group), move |_| done.fire());
        };
        let at = {
            let mut core = self.world.core();
            let model = core.machines[machine.0 as usize].blocking;
            let draw = core.random(machine, "executor/blocking");
            let mut rng = crate::sim::rng::Rng::new(draw);
            let mut delay = rng.duration(model.low, model.high);
            if rng.chance(model.stall.0) {
                delay += rng.duration(Duration::ZERO, model.stall.1);
            }
            core.now.saturating_add(nanos(delay))
        };
        self.world.call_at(at, Some(group), run);
        Box::pin(Waiting { signal })
    }

    fn random(&self, purpose: &'static str) -> u64 {
        self.world.core().random(self.machine, purpose)
    }
}
