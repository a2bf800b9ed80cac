//! The seam between the node and the world: clock, tasks and randomness.
//!
//! Node code takes an [`Env`] and nothing else: no `Instant::now`, no `tokio::spawn`, no
//! `rand::rng` (clippy's `disallowed-methods` watches). Production plugs in [`tokio_env`]; the
//! simulator plugs in its own executor, so that one seed replays a whole cluster exactly.
//! `tokio::sync` primitives need no runtime and may be used anywhere; a `select!` must be
//! `biased`, because the unbiased form draws from a hidden generator.

#[cfg(feature = "sim")]
mod clock_file;
#[cfg(test)]
pub(crate) mod fixture;
mod hlc;
mod tokio_env;

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use crate::types::{Mono, OpId, WallMicros};

pub use hlc::{ClockAhead, HlcClock, next_in};
pub use tokio_env::tokio_env;

/// A boxed future that may move between threads.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// What a world must offer. Implemented once for production and once for the simulator.
pub trait Runtime: Send + Sync + 'static {
    /// A clock that never goes back.
    fn mono(&self) -> Mono;
    /// The wall clock, which may jump.
    fn wall(&self) -> WallMicros;
    /// Completes after `duration` of this node's time.
    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()>;
    /// Runs `task` until it ends or the node is stopped.
    fn spawn(&self, name: &'static str, task: BoxFuture<'static, ()>);
    /// Runs `work`, which may block on a disk, away from the tasks.
    fn blocking(
        &self,
        name: &'static str,
        work: Box<dyn FnOnce() + Send>,
    ) -> BoxFuture<'static, ()>;
    /// 64 random bits. `purpose` names the stream that they come from, so that a new draw in one
    /// place does not shift the draws of all others in a replay.
    fn random(&self, purpose: &'static str) -> u64;
}

/// A handle on the world, cheap to clone.
#[derive(Clone)]
pub struct Env {
    runtime: Arc<dyn Runtime>,
}

impl fmt::Debug for Env {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Env")
    }
}

/// The time given to [`Env::timeout`] was over first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("timed out")]
pub struct Elapsed;

impl Env {
    /// Wraps a runtime.
    pub fn new(runtime: Arc<dyn Runtime>) -> Self {
        Self { runtime }
    }

    /// A clock that never goes back; for latencies and deadlines.
    #[must_use]
    pub fn mono(&self) -> Mono {
        self.runtime.mono()
    }

    /// The wall clock; for stamps, never for safety.
    #[must_use]
    pub fn wall(&self) -> WallMicros {
        self.runtime.wall()
    }

    /// Waits.
    pub fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        self.runtime.sleep(duration)
    }

    /// Runs `task` in the background. `name` says what it is for, in logs and traces.
    pub fn spawn(&self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        self.runtime.spawn(name, Box::pin(task));
    }

    /// Runs `task` in the background and hands back its result. Dropping the returned future does
    /// not stop the task: this is how a client that hangs up cannot cut a write in half.
    pub fn run<T: Send + 'static>(
        &self,
        name: &'static str,
        task: impl Future<Output = T> + Send + 'static,
    ) -> impl Future<Output = Option<T>> + Send + 'static {
        let (sender, receiver) = tokio::sync::oneshot::channel();
        self.spawn(name, async move {
            let _ = sender.send(task.await);
        });
        async move { receiver.await.ok() }
    }

    /// Runs blocking `work` away from the tasks. `None` if the node stopped first.
    pub async fn blocking<T: Send + 'static>(
        &self,
        name: &'static str,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        let (sender, receiver) = tokio::sync::oneshot::channel();
        self.runtime
            .blocking(
                name,
                Box::new(move || {
                    let _ = sender.send(work());
                }),
            )
            .await;
        receiver.await.ok()
    }

    /// `future`'s result, or [`Elapsed`] if `duration` is over first (the future is then dropped).
    ///
    /// # Errors
    /// [`Elapsed`].
    pub async fn timeout<T>(
        &self,
        duration: Duration,
        future: impl Future<Output = T>,
    ) -> Result<T, Elapsed> {
        tokio::select! {
            biased;
            value = future => Ok(value),
            () = self.sleep(duration) => Err(Elapsed),
        }
    }

    /// 64 random bits from the stream called `purpose`.
    #[must_use]
    pub fn random(&self, purpose: &'static str) -> u64 {
        self.runtime.random(purpose)
    }

    /// A random number below `bound` (which must not be zero), close enough to uniform.
    #[must_use]
    pub fn random_below(&self, purpose: &'static str, bound: u64) -> u64 {
        debug_assert!(bound > 0, "an empty range has no members");
        ((u128::from(self.random(purpose)) * u128::from(bound)) >> 64) as u64
    }

    /// A fresh operation id (UUIDv7) stamped with this node's wall clock.
    #[must_use]
    pub fn new_op_id(&self) -> OpId {
        let random = (u128::from(self.random("op-id")) << 64) | u128::from(self.random("op-id"));
        OpId::from_parts(self.wall().0 / 1000, random)
    }
}
