//! A counted door: who comes in while the limit's number is under way is told to go away.

use std::pin::pin;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

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
    /// Who waits in [`Gate::room`].
    waiting: AtomicUsize,
    /// Somebody has left, or more may come in.
    left: Notify,
    shed: AtomicU64,
    wait_us: AtomicU64,
}

/// A place among what is under way, given back when dropped.
#[derive(Debug)]
pub struct Place(Arc<Gate>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.under_way.fetch_sub(1, Ordering::Relaxed);
        self.0.left.notify_one();
    }
}

/// One more in a count, for as long as it lives.
struct Counted<'a>(&'a AtomicUsize);

impl<'a> Counted<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
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
            waiting: AtomicUsize::new(0),
            left: Notify::new(),
            shed: AtomicU64::new(0),
            wait_us: AtomicU64::new(0),
        })
    }

    /// A place for new work.
    ///
    /// # Errors
    /// [`Busy`]: as much as may be is under way already.
    pub fn enter(self: &Arc<Self>) -> Result<Place, Busy> {
        self.try_enter().ok_or_else(|| self.refuse())
    }

    /// A place for new work of somebody who can wait, but need not: nobody else does, and there is
    /// room.
    #[must_use]
    pub fn enter_free(self: &Arc<Self>) -> Option<Place> {
        if self.waiting() > 0 { None } else { self.try_enter() }
    }

    /// A place for new work, when it is its turn. Who came first is woken first; but a caller of
    /// [`Gate::enter`], who cannot wait, may take the place before, and who was woken for it then
    /// goes to the end of the queue. Takes no more memory than the future does; how many wait, and
    /// for how long, is for the caller to bound.
    pub async fn room(self: &Arc<Self>) -> Place {
        let _waiting = Counted::new(&self.waiting);
        let mut left = pin!(self.left.notified());
        loop {
            // In the queue before looking, so that nobody leaves unseen in between.
            left.as_mut().enable();
            if let Some(place) = self.try_enter() {
                return place;
            }
            left.as_mut().await;
            left.set(self.left.notified());
        }
    }

    /// Why somebody who was not let in is sent away; counts that.
    #[must_use]
    pub fn refuse(&self) -> Busy {
        self.shed.fetch_add(1, Ordering::Relaxed);
        Busy { limit: self.limit(), wait: self.wait() }
    }

    fn try_enter(self: &Arc<Self>) -> Option<Place> {
        let limit = self.limit();
        let one_more = |under_way: usize| (under_way < limit).then_some(under_way + 1);
        let entered = self.under_way.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more);
        entered.is_ok().then(|| Place(self.clone()))
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
        let free = self.limit().saturating_sub(self.under_way());
        (0..free.min(self.waiting())).for_each(|_| self.left.notify_one());
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

    /// How many wait in [`Gate::room`].
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
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
    use std::task::{Context, Poll, Waker};

    use super::*;

    /// A gate with `limit` places, of which there are never fewer than `floor`.
    fn gate(floor: usize, limit: usize) -> Arc<Gate> {
        let target = Duration::from_millis(10);
        Gate::new(Settings { target, interval: target, floor, max: limit }, Mono(0))
    }

    fn poll<T>(future: &mut (impl Future<Output = T> + Unpin)) -> Option<T> {
        match std::pin::Pin::new(future).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(done) => Some(done),
            Poll::Pending => None,
        }
    }

    #[test]
    fn beyond_the_limit_nobody_comes_in_until_somebody_leaves() {
        let gate = gate(2, 3);
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

    #[test]
    fn who_waits_comes_in_when_somebody_leaves_and_in_order() {
        let gate = gate(1, 1);
        let place = gate.enter_free().expect("nobody is there");
        let (mut first, mut second) = (Box::pin(gate.room()), Box::pin(gate.room()));
        assert!(poll(&mut first).is_none() && poll(&mut second).is_none());
        assert_eq!(gate.waiting(), 2);
        drop(place);
        assert!(gate.enter_free().is_none(), "it is the turn of others");
        assert!(poll(&mut second).is_none());
        let place = poll(&mut first).expect("its turn");
        // Somebody who is woken and goes away leaves the turn to the next one.
        let mut third = Box::pin(gate.room());
        assert!(poll(&mut third).is_none());
        drop((place, second));
        assert!(poll(&mut third).is_some());
        drop(first);
        drop(third);
        assert_eq!((gate.waiting(), gate.under_way(), gate.shed()), (0, 0, 0));
    }

    #[test]
    fn who_waits_comes_in_when_the_limit_rises() {
        let gate = gate(1, 3);
        for ms in [10, 20, 30, 40, 50, 60] {
            gate.observe(Mono(ms * 1_000_000), Duration::from_millis(11));
        }
        assert_eq!(gate.limit(), 1);
        let _place = gate.enter().expect("there is room");
        let mut next = Box::pin(gate.room());
        assert!(poll(&mut next).is_none());
        for ms in [70, 80, 90] {
            gate.observe(Mono(ms * 1_000_000), Duration::ZERO);
        }
        assert_eq!(gate.limit(), 2);
        assert!(poll(&mut next).is_some());
    }
}
