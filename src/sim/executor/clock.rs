//! The clocks of one simulated machine.

use crate::types::{Mono, WallMicros};

/// What every machine's wall clock shows at virtual time zero: 2026-01-01T00:00:00Z.
pub const WALL_ORIGIN_MICROS: u64 = 1_767_225_600_000_000;

const MILLION: i128 = 1_000_000;

/// Clocks that run at a rate of their own. The monotonic one never goes back, whatever happens to
/// the rate; the wall clock also jumps, and can stand still.
#[derive(Clone, Copy, Debug)]
pub(super) struct MachineClock {
    /// Parts per million by which it runs fast (or slow, below zero).
    drift_ppm: i64,
    /// Virtual time at which the present rate began, and what the clock showed then.
    since: u64,
    shown: u64,
    /// Wall clock minus (origin + monotonic), in microseconds.
    wall_offset: i64,
    frozen_wall: Option<u64>,
}

impl MachineClock {
    pub(super) const fn new() -> Self {
        Self { drift_ppm: 0, since: 0, shown: 0, wall_offset: 0, frozen_wall: None }
    }

    /// Nanoseconds that the monotonic clock shows at virtual time `now`.
    pub(super) fn mono(&self, now: u64) -> Mono {
        let elapsed = i128::from(now.saturating_sub(self.since));
        let grown = elapsed * (MILLION + i128::from(self.drift_ppm)) / MILLION;
        Mono(self.shown + u64::try_from(grown).unwrap_or(0))
    }

    /// Virtual nanoseconds from `now` until the monotonic clock shows `deadline`, at the present
    /// rate; zero if it is past.
    pub(super) fn until(&self, now: u64, deadline: Mono) -> u64 {
        let left = i128::from(deadline.0.saturating_sub(self.mono(now).0));
        let rate = MILLION + i128::from(self.drift_ppm);
        u64::try_from((left * MILLION + rate - 1) / rate).unwrap_or(u64::MAX)
    }

    pub(super) fn wall(&self, now: u64) -> WallMicros {
        WallMicros(self.frozen_wall.unwrap_or_else(|| {
            let running = WALL_ORIGIN_MICROS + self.mono(now).0 / 1_000;
            running.saturating_add_signed(self.wall_offset)
        }))
    }

    /// Runs fast by `drift_ppm` from now on, held to ±50 % so that time always goes on.
    pub(super) fn set_drift(&mut self, now: u64, drift_ppm: i64) {
        self.shown = self.mono(now).0;
        self.since = now;
        self.drift_ppm = drift_ppm.clamp(-500_000, 500_000);
    }

    pub(super) fn jump_wall(&mut self, micros: i64) {
        self.wall_offset = self.wall_offset.saturating_add(micros);
        if let Some(frozen) = &mut self.frozen_wall {
            *frozen = frozen.saturating_add_signed(micros);
        }
    }

    pub(super) fn freeze_wall(&mut self, now: u64, frozen: bool) {
        self.frozen_wall = frozen.then(|| self.wall(now).0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn monotonic_time_never_goes_back_when_the_rate_changes() {
        let mut clock = MachineClock::new();
        let mut last = Mono(0);
        for (step, drift) in [200_000, -200_000, 0, 500_000, -500_000].into_iter().enumerate() {
            let now = (step as u64 + 1) * 1_000;
            clock.set_drift(now, drift);
            assert!(clock.mono(now) >= last);
            last = clock.mono(now);
        }
    }

    #[test]
    fn waiting_for_a_deadline_reaches_it_whatever_the_rate() {
        let mut clock = MachineClock::new();
        for drift in [-200_000, -7, 0, 13, 200_000] {
            clock.set_drift(10_000, drift);
            let deadline = Mono(clock.mono(10_000).0 + 12_345);
            let wait = clock.until(10_000, deadline);
            assert!(clock.mono(10_000 + wait) >= deadline);
            assert!(clock.mono(10_000 + wait - 2) < deadline);
        }
    }

    #[test]
    fn the_wall_clock_jumps_and_stands_still_but_the_monotonic_one_goes_on() {
        let mut clock = MachineClock::new();
        clock.jump_wall(-5_000_000);
        assert_eq!(clock.wall(0).0, WALL_ORIGIN_MICROS - 5_000_000);
        clock.freeze_wall(0, true);
        assert_eq!(clock.wall(9_000_000).0, WALL_ORIGIN_MICROS - 5_000_000);
        assert_eq!(clock.mono(9_000_000).0, 9_000_000);
        clock.freeze_wall(9_000_000, false);
        assert_eq!(clock.wall(9_000_000).0, WALL_ORIGIN_MICROS - 5_000_000 + 9_000);
    }
}
