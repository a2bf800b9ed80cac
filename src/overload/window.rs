//! How much may be under way at once, judged by how long work has to wait. Pure: time and waits
//! are told to it.

use std::time::Duration;

use crate::types::Mono;

/// An interval is judged by no fewer waits than this: one alone is chance.
const MIN_SAMPLES: u32 = 3;

/// What a [`Window`] goes by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// A wait that may stand.
    pub target: Duration,
    /// For how long the least wait is taken, before it is judged.
    pub interval: Duration,
    /// The limit never falls below this, whatever the wait: a few at once are no load, and with
    /// none let in nobody would notice that there is room again.
    pub floor: usize,
    /// The limit never rises above this, and starts there.
    pub max: usize,
}

/// The limit, and what has been seen in the present interval.
#[derive(Clone, Debug)]
pub struct Window {
    settings: Settings,
    limit: usize,
    begun: Mono,
    samples: u32,
    least: Duration,
    /// The most that was under way.
    most: usize,
}

impl Window {
    /// A window that lets in [`Settings::max`] at first.
    #[must_use]
    pub fn new(settings: Settings, now: Mono) -> Self {
        let limit = settings.max;
        Self { settings, limit, begun: now, samples: 0, least: Duration::MAX, most: 0 }
    }

    /// How much may be under way.
    #[must_use]
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// Takes note that, at `now`, work has waited for `wait` while `under_way` were under way.
    pub fn observe(&mut self, now: Mono, wait: Duration, under_way: usize) {
        self.samples += 1;
        self.least = self.least.min(wait);
        self.most = self.most.max(under_way);
        if self.samples < MIN_SAMPLES || now.since(self.begun) < self.settings.interval {
            return;
        }
        let Settings { target, floor, max, .. } = self.settings;
        let limit = if self.least > target {
            // From what there was: a limit far above it has held nobody back.
            self.limit.min(self.most).saturating_mul(3) / 4
        } else if self.least > target / 2 {
            self.limit
        } else {
            self.limit.saturating_add(self.limit / 16 + 1)
        };
        self.limit = limit.max(floor).min(max);
        *self = Self { limit: self.limit, ..Self::new(self.settings, now) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SETTINGS: Settings = Settings {
        target: Duration::from_millis(20),
        interval: Duration::from_millis(100),
        floor: 8,
        max: 1_000,
    };

    /// Shows `window` one wait every 10 ms for a second, by the time of each.
    fn second(window: &mut Window, from: u64, under_way: usize, wait_ms: impl Fn(u64) -> u64) {
        for step in 0..100 {
            let now = Mono((from * 1_000 + step * 10) * 1_000_000);
            window.observe(now, Duration::from_millis(wait_ms(step)), under_way);
        }
    }

    #[test]
    fn a_standing_queue_lowers_the_limit_to_what_is_under_way_and_then_below() {
        let mut window = Window::new(SETTINGS, Mono(0));
        second(&mut window, 0, 200, |_| 50);
        assert!(window.limit() < 100, "{}", window.limit());
    }

    #[test]
    fn a_queue_that_empties_in_each_interval_is_left_alone() {
        let mut window = Window::new(SETTINGS, Mono(0));
        second(&mut window, 0, 500, |step| if step % 10 == 0 { 1 } else { 500 });
        assert_eq!(window.limit(), SETTINGS.max);
    }

    #[test]
    fn the_limit_falls_to_its_floor_and_no_further() {
        let mut window = Window::new(SETTINGS, Mono(0));
        (0..10).for_each(|at| second(&mut window, at, 1_000, |_| 5_000));
        assert_eq!(window.limit(), SETTINGS.floor);
    }

    #[test]
    fn room_comes_back_within_seconds_and_up_to_the_most() {
        let mut window = Window::new(SETTINGS, Mono(0));
        (0..10).for_each(|at| second(&mut window, at, 1_000, |_| 5_000));
        (10..19).for_each(|at| second(&mut window, at, 0, |_| 0));
        assert_eq!(window.limit(), SETTINGS.max);
    }

    #[test]
    fn one_long_wait_alone_is_no_standing_queue() {
        let mut window = Window::new(SETTINGS, Mono(0));
        window.observe(Mono(2_000_000_000), Duration::from_secs(2), 500);
        assert_eq!(window.limit(), SETTINGS.max);
    }

    /// A server that does 1,000 a second, of whom 3,000 a second ask: what is under way when it
    /// begins is what it can do in a few targets, not ever more.
    #[test]
    fn under_thrice_the_load_the_wait_stays_near_its_target() {
        let mut window = Window::new(SETTINGS, Mono(0));
        let (mut queued, mut done, mut late) = (0_usize, 0, 0);
        for ms in 0..20_000_u64 {
            for _ in 0..3 {
                if queued < window.limit() {
                    queued += 1;
                }
            }
            // Each waits for all before it, a millisecond each.
            let wait = Duration::from_millis(queued as u64);
            if queued > 0 {
                queued -= 1;
                done += 1;
            }
            if ms > 5_000 && wait > SETTINGS.target * 4 {
                late += 1;
            }
            if ms % 10 == 0 {
                window.observe(Mono(ms * 1_000_000), wait, queued);
            }
        }
        assert!(done > 19_900, "the server was idle: {done}");
        assert_eq!(late, 0, "waits stay within four targets");
    }
}
