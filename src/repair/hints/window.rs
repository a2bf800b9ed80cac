//! How many hints may be under way to one target: pure arithmetic, no clock.
//!
//! Additive increase, multiplicative decrease, as TCP does it (Chiu and Jain, 1989): every window
//! full of good answers allows one call more; a refusal for overload, or answers that take several
//! times as long as the best of late, halve it. So a hand-over is as fast as the target takes it,
//! and gives way to the target's clients when they come.

use std::time::Duration;

/// An answer this many times slower than the best of late is a sign of a queue…
const SLOW: u32 = 4;

/// … if it took this long at least: below that it is noise.
const SLOW_FLOOR: Duration = Duration::from_millis(20);

/// The window of one target.
#[derive(Clone, Debug)]
pub(super) struct Window {
    limit: f64,
    max: f64,
    /// The best answer of late. Grows a little with every answer, so that it does not speak of
    /// times long gone.
    best: Option<Duration>,
    /// Answers until the window may shrink again: those under way were sent under the old one.
    held: u32,
}

impl Window {
    /// A window of at most `max` calls that begins with a few.
    pub(super) fn new(max: u32) -> Self {
        let max = f64::from(max.max(1));
        Self { limit: 4.0_f64.min(max), max, best: None, held: 0 }
    }

    /// Calls that may be under way now; at least one.
    pub(super) fn limit(&self) -> usize {
        self.limit as usize
    }

    /// A hint was taken after `took`.
    pub(super) fn on_ack(&mut self, took: Duration) {
        self.held = self.held.saturating_sub(1);
        let best = self.best.map_or(took, |best| (best + best / 64).min(took));
        self.best = Some(best);
        if took > (best * SLOW).max(SLOW_FLOOR) {
            self.shrink();
        } else {
            self.limit = (self.limit + 1.0 / self.limit).min(self.max);
        }
    }

    /// The target has too much to do. False when the window cannot become smaller: then it is
    /// better to leave the target alone for a while.
    pub(super) fn on_overload(&mut self) -> bool {
        let could_shrink = self.limit > 1.0;
        self.held = self.held.saturating_sub(1);
        self.shrink();
        could_shrink
    }

    fn shrink(&mut self) {
        if self.held == 0 {
            self.held = self.limit as u32;
            self.limit = (self.limit / 2.0).max(1.0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUICK: Duration = Duration::from_millis(2);

    #[test]
    fn good_answers_open_the_window_up_to_its_bound() {
        let mut window = Window::new(16);
        let first = window.limit();
        for _ in 0..1_000 {
            window.on_ack(QUICK);
        }
        assert!(first < 16 && window.limit() == 16, "{window:?}");
    }

    #[test]
    fn slow_answers_and_overload_close_it_but_never_whole() {
        let mut window = Window::new(64);
        for _ in 0..5_000 {
            window.on_ack(QUICK);
        }
        window.on_ack(QUICK * 50);
        assert_eq!(window.limit(), 32);
        for _ in 0..31 {
            window.on_ack(QUICK * 50);
        }
        assert_eq!(window.limit(), 32, "those were sent before it shrank");
        for _ in 0..1_000 {
            window.on_overload();
        }
        assert_eq!(window.limit(), 1);
        assert!(!window.on_overload());
    }

    #[test]
    fn a_target_that_is_slow_for_good_becomes_the_measure() {
        let mut window = Window::new(8);
        window.on_ack(QUICK);
        for _ in 0..2_000 {
            window.on_ack(QUICK * 50);
        }
        assert_eq!(window.limit(), 8, "{window:?}");
    }
}
