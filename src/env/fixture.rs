//! A world for tests that run in the real one.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::watch;

use crate::env::{BoxFuture, Env, Runtime, tokio_env};
use crate::types::{Mono, WallMicros};

/// The real world, but that long waits are over once it is said so, and that it counts what was
/// computed away from the tasks.
pub(crate) struct Staged {
    world: Env,
    over: watch::Receiver<bool>,
    computed: AtomicUsize,
}

impl Staged {
    pub(crate) fn new(over: watch::Receiver<bool>) -> Self {
        Self { world: tokio_env(), over, computed: AtomicUsize::new(0) }
    }

    pub(crate) fn computed(&self) -> usize {
        self.computed.load(Ordering::Relaxed)
    }
}

impl Runtime for Staged {
    fn mono(&self) -> Mono {
        self.world.mono()
    }

    fn wall(&self) -> WallMicros {
        self.world.wall()
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        if duration < Duration::from_secs(10) {
            return self.world.sleep(duration);
        }
        let mut over = self.over.clone();
        Box::pin(async move {
            let _ = over.wait_for(|over| *over).await;
        })
    }

    fn spawn(&self, name: &'static str, task: BoxFuture<'static, ()>) {
        self.world.spawn(name, task);
    }

    fn blocking(
        &self,
        name: &'static str,
        work: Box<dyn FnOnce() + Send>,
    ) -> BoxFuture<'static, ()> {
        self.computed.fetch_add(1, Ordering::Relaxed);
        let world = self.world.clone();
        Box::pin(async move {
            let _ = world.blocking(name, work).await;
        })
    }

    fn random(&self, purpose: &'static str) -> u64 {
        self.world.random(purpose)
    }
}
