//! The production world: tokio tasks and timers, the system's clocks and random numbers.
#![allow(clippy::disallowed_methods, reason = "this is the seam that the ban protects")]

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::env::{BoxFuture, Env, Runtime};
use crate::types::{Mono, WallMicros};

#[derive(Debug)]
struct TokioRuntime {
    origin: Instant,
    #[cfg(feature = "sim")]
    clock: super::clock_file::ClockFile,
}

/// The production [`Env`]. Must be used from within a tokio runtime.
#[must_use]
pub fn tokio_env() -> Env {
    Env::new(Arc::new(TokioRuntime {
        origin: Instant::now(),
        #[cfg(feature = "sim")]
        clock: super::clock_file::ClockFile::from_environment(),
    }))
}

impl Runtime for TokioRuntime {
    fn mono(&self) -> Mono {
        Mono(u64::try_from(self.origin.elapsed().as_nanos()).unwrap_or(u64::MAX))
    }

    fn wall(&self) -> WallMicros {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let wall = u64::try_from(since_epoch.as_micros()).unwrap_or(u64::MAX);
        #[cfg(feature = "sim")]
        let wall = self.clock.shown(wall);
        WallMicros(wall)
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        Box::pin(tokio::time::sleep(duration))
    }

    fn spawn(&self, _name: &'static str, task: BoxFuture<'static, ()>) {
        // A panic in a task is an impossible state of our own: the binary's panic hook reports it
        // and stops the process.
        drop(tokio::spawn(task));
    }

    fn blocking(
        &self,
        _name: &'static str,
        work: Box<dyn FnOnce() + Send>,
    ) -> BoxFuture<'static, ()> {
        let handle = tokio::task::spawn_blocking(work);
        Box::pin(async move {
            let _ = handle.await;
        })
    }

    fn random(&self, _purpose: &'static str) -> u64 {
        // UUIDv4 draws 122 bits from the operating system; fold them into 64.
        let (high, low) = uuid::Uuid::new_v4().as_u64_pair();
        xxhash_rust::xxh3::xxh3_64_with_seed(&high.to_le_bytes(), low)
    }
}
