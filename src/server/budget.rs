//! A bounded amount of something: bytes of bodies, places of requests.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Notify;

/// A bounded amount of something that is taken and given back. Who finds too little left is
/// refused at once ([`Share::take`]) or waits ([`Share::grow_in_turn`]).
#[derive(Debug)]
pub struct Budget {
    used: AtomicUsize,
    max: usize,
    waiting: AtomicUsize,
    freed: Notify,
}

impl Budget {
    /// A budget of `max`.
    #[must_use]
    pub fn new(max: usize) -> Arc<Self> {
        let (used, waiting) = (AtomicUsize::new(0), AtomicUsize::new(0));
        Arc::new(Self { used, max, waiting, freed: Notify::new() })
    }

    /// What is taken at present.
    #[must_use]
    pub fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    /// The bound.
    #[must_use]
    pub fn max(&self) -> usize {
        self.max
    }

    fn take(&self, amount: usize) -> bool {
        let after = |used: usize| used.checked_add(amount).filter(|after| *after <= self.max);
        self.used.fetch_update(Ordering::SeqCst, Ordering::SeqCst, after).is_ok()
    }

    fn give(&self, amount: usize) {
        self.used.fetch_sub(amount, Ordering::SeqCst);
        // Either this sees who waits, or who waits sees this: both orders are total.
        if self.waiting.load(Ordering::SeqCst) > 0 {
            self.freed.notify_waiters();
        }
    }
}

/// Counts who waits, also when the waiting is given up.
struct Waiting<'a>(&'a Budget);

impl<'a> Waiting<'a> {
    fn new(budget: &'a Budget) -> Self {
        budget.waiting.fetch_add(1, Ordering::SeqCst);
        Self(budget)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::SeqCst);
    }
}

/// A part of a [`Budget`], given back when dropped.
#[derive(Debug)]
pub struct Share {
    budget: Arc<Budget>,
    amount: usize,
}

impl Share {
    /// How much it is.
    #[must_use]
    pub fn amount(&self) -> usize {
        self.amount
    }

    /// Nothing yet.
    #[must_use]
    pub fn none(budget: &Arc<Budget>) -> Self {
        Self { budget: budget.clone(), amount: 0 }
    }

    /// Takes `amount`, if that much is left.
    #[must_use]
    pub fn take(budget: &Arc<Budget>, amount: usize) -> Option<Self> {
        budget.take(amount).then(|| Self { budget: budget.clone(), amount })
    }

    /// Takes `more` on top. False, and nothing changed, if that much is not left.
    #[must_use]
    pub fn grow(&mut self, more: usize) -> bool {
        let fits = self.budget.take(more);
        if fits {
            self.amount += more;
        }
        fits
    }

    /// Takes `more` on top as soon as that much is left: never, if it is more than the bound. Who
    /// waits while it holds a part must bound the wait, or two may wait for each other.
    pub async fn grow_in_turn(&mut self, more: usize) {
        if self.grow(more) {
            return;
        }
        let budget = self.budget.clone();
        let _waiting = Waiting::new(&budget);
        loop {
            let mut freed = pin!(budget.freed.notified());
            freed.as_mut().enable();
            if self.grow(more) {
                return;
            }
            freed.await;
        }
    }

    /// Cuts `amount` off as a share of its own; all, if that is less.
    #[must_use]
    pub fn split(&mut self, amount: usize) -> Self {
        let amount = amount.min(self.amount);
        self.amount -= amount;
        Self { budget: self.budget.clone(), amount }
    }

    /// Gives back all but `amount`.
    pub fn shrink_to(&mut self, amount: usize) {
        let excess = self.amount.saturating_sub(amount);
        if excess > 0 {
            self.amount -= excess;
            self.budget.give(excess);
        }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.shrink_to(0);
    }
}

#[cfg(test)]
mod tests {
    use tokio_test::{assert_pending, assert_ready, task};

    use super::*;

    #[test]
    fn a_budget_is_never_overdrawn_and_comes_back() {
        let budget = Budget::new(10);
        let mut first = Share::take(&budget, 6).unwrap();
        assert!(Share::take(&budget, 5).is_none());
        assert!(first.grow(4));
        assert!(!first.grow(1));
        first.shrink_to(3);
        assert_eq!(budget.used(), 3);
        let part = first.split(2);
        drop(first);
        assert_eq!(budget.used(), 2);
        drop(part);
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn who_waits_goes_on_when_enough_was_given_back() {
        let budget = Budget::new(10);
        let mut first = Share::take(&budget, 8).unwrap();
        let mut second = Share::none(&budget);
        let mut wait = task::spawn(second.grow_in_turn(5));
        assert_pending!(wait.poll());
        first.shrink_to(6);
        assert!(wait.is_woken());
        assert_pending!(wait.poll());
        drop(first);
        assert!(wait.is_woken());
        assert_ready!(wait.poll());
        drop(wait);
        assert_eq!((second.amount(), budget.used()), (5, 5));
        assert_eq!(budget.waiting.load(Ordering::SeqCst), 0);
    }
}
