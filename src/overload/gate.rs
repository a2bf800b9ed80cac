//! A counted door: who comes in while the limit's number is under way is told to go away.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::window::{Settings, Window};
use crate::types::Mono;

/// Why work was not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("work waits {} ms for its turn, and {limit} are under way", wait.as_millis())]
pub struct Busy {
    /// How much may be under way.
    pub limit: usize,
    /// How long work was last seen to wait.
    pub wait: Duration,
}

/// Lets work in as long as that can be done in time. See [`crate::overload`].
#[derive(Debug)]
pub struct Gate {
    window: Mutex<Window>,
    /// The window's, where each request can read it without a lock.
    limit: AtomicUsize,
    settings: Settings,
    under_way: AtomicUsize,
    shed: AtomicU64,
    wait_us: AtomicU64,
}

/// A place among what is under way, given back when dropped.
#[derive(Debug)]
pub struct Place(Arc<Gate>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.under_way.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Gate {
    /// A gate that is wide open until [`Gate::observe`] is told of waits.
    #[must_use]
    pub fn new(settings: Settings, now: Mono) -> Arc<Self> {
        Arc::new(Self {
            window: Mutex::new(Window::new(settings, now)),
            limit: AtomicUsize::new(settings.max),
            settings,
            under_way: AtomicUsize::new(0),
            shed: AtomicU64::new(0),
            wait_us: AtomicU64::new(0),
        })
    }

    /// A place for new work.
    ///
    /// # Errors
    /// [`Busy`]: as much as may be is under way already.
    pub fn enter(self: &Arc<Self>) -> Result<Place, Busy> {
        let place = self.pass();
        let (limit, under_way) = (self.limit(), self.under_way());
        if under_way <= limit {
            return Ok(place);
        }
        self.shed.fetch_add(1, Ordering::Relaxed);
        Err(Busy { limit, wait: self.wait() })
    }

    /// A place for work that is not judged, but counted.
    #[must_use]
    pub fn pass(self: &Arc<Self>) -> Place {
        self.under_way.fetch_add(1, Ordering::Relaxed);
        Place(self.clone())
    }

    /// Takes note of how long work had to wait at `now`.
    pub fn observe(&self, now: Mono, wait: Duration) {
        let mut window = self.window.lock().unwrap_or_else(PoisonError::into_inner);
        window.observe(now, wait, self.under_way());
        self.limit.store(window.limit(), Ordering::Relaxed);
        let wait_us = u64::try_from(wait.as_micros()).unwrap_or(u64::MAX);
        self.wait_us.store(wait_us, Ordering::Relaxed);
    }

    /// How much may be under way.
    #[must_use]
    pub fn limit(&self) -> usize {
        self.limit.load(Ordering::Relaxed)
    }

    /// What the limit never falls below.
    #[must_use]
    pub fn floor(&self) -> usize {
        self.settings.floor
    }

    /// True while less is let in than would be if nothing had to wait.
    #[must_use]
    pub fn is_narrowed(&self) -> bool {
        self.limit() < self.settings.max
    }

    /// How much is.
    #[must_use]
    pub fn under_way(&self) -> usize {
        self.under_way.load(Ordering::Relaxed)
    }

    /// How often somebody was not let in.
    #[must_use]
    pub fn shed(&self) -> u64 {
        self.shed.load(Ordering::Relaxed)
    }

    /// How long work was last seen to wait for its turn.
    #[must_use]
    pub fn wait(&self) -> Duration {
        Duration::from_micros(self.wait_us.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn beyond_the_limit_nobody_comes_in_until_somebody_leaves() {
        let target = Duration::from_millis(10);
        let settings = Settings { target, interval: target, floor: 2, max: 3 };
        let gate = Gate::new(settings, Mono(0));
        let mut places: Vec<Place> = (0..3).map(|_| gate.enter().expect("there is room")).collect();
        assert!(gate.enter().is_err());
        for ms in [10, 20, 30] {
            gate.observe(Mono(ms * 1_000_000), Duration::from_millis(11));
        }
        assert_eq!(gate.limit(), 2);
        places.pop();
        let wait = Duration::from_millis(11);
        assert_eq!(gate.enter().expect_err("it is full"), Busy { limit: 2, wait });
        // What continues something is let in all the same, and counts.
        let more = gate.pass();
        assert_eq!(gate.under_way(), 3);
        drop((more, places));
        assert!(gate.enter().is_ok());
        assert_eq!((gate.under_way(), gate.shed()), (0, 2));
    }
}
