//! The hybrid logical clock of one node.

use std::sync::Mutex;
use std::time::Duration;

use crate::env::Env;
use crate::types::Hlc;

/// A reading from elsewhere is further ahead of this node's wall clock than allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "the stamp is {ahead_ms} ms ahead of this node's clock and at most {allowed_ms} ms is allowed: \
     check the clocks, or raise cluster.max_clock_skew_ms"
)]
pub struct ClockAhead {
    /// How far ahead it is.
    pub ahead_ms: u64,
    /// How far ahead it may be.
    pub allowed_ms: u64,
}

/// The first number from `least` on that leaves the remainder `slot` when it is divided by `slots`.
#[must_use]
pub fn next_in(least: u64, slot: u64, slots: u64) -> u64 {
    let slots = slots.max(1);
    least.saturating_add((slot % slots + slots - least % slots) % slots)
}

/// Hands out stamps that grow strictly and stay above all that the node has seen.
///
/// - `tick` = max(wall clock, last + 1).
/// - `observe` raises `last` to a stamp that came from elsewhere, unless that lies too far ahead
///   of the wall clock: one broken clock must not drag the whole cluster into the future, neither
///   at once nor in many small steps. Only a clock that is itself beyond that bound (its wall
///   clock was set back) takes stamps a little above its own: its peers are in the same place.
/// - The owner persists readings with the records that they stamp and passes the greatest one to
///   [`HlcClock::new`] after a restart, so that stamps never go back (invariant I22).
#[derive(Debug)]
pub struct HlcClock {
    env: Env,
    last: Mutex<u64>,
    max_ahead: Duration,
}

impl HlcClock {
    /// A clock that continues after `floor`, the greatest reading that this node ever gave out.
    #[must_use]
    pub fn new(env: Env, floor: Hlc, max_ahead: Duration) -> Self {
        Self { env, last: Mutex::new(floor.0), max_ahead }
    }

    /// A fresh stamp, above every one given out or observed before.
    pub fn tick(&self) -> Hlc {
        let wall = self.env.wall().0;
        let mut last = self.last.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        *last = wall.max(last.saturating_add(1));
        Hlc(*last)
    }

    /// A fresh stamp, as [`HlcClock::tick`], that leaves the remainder `slot` when it is divided by
    /// `slots`: clocks that use different slots never give out the same one. At most `slots`
    /// microseconds further than a plain tick.
    pub fn tick_in(&self, slot: u64, slots: u64) -> Hlc {
        let wall = self.env.wall().0;
        let mut last = self.last.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        *last = next_in(wall.max(last.saturating_add(1)), slot, slots);
        Hlc(*last)
    }

    /// The present reading: at or above every stamp given out or observed before, and every
    /// earlier reading, even if the wall clock has jumped back since.
    pub fn now(&self) -> Hlc {
        let wall = self.env.wall().0;
        let mut last = self.last.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        *last = wall.max(*last);
        Hlc(*last)
    }

    /// Takes note of a stamp made elsewhere.
    ///
    /// # Errors
    /// [`ClockAhead`] when it lies further ahead than allowed; the clock is then left alone.
    pub fn observe(&self, seen: Hlc) -> Result<(), ClockAhead> {
        let wall = self.env.wall().0;
        let allowed = u64::try_from(self.max_ahead.as_micros()).unwrap_or(u64::MAX);
        let mut last = self.last.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let bound = wall.saturating_add(allowed);
        let bound = if *last > bound { last.saturating_add(allowed) } else { bound };
        if seen.0 > bound {
            return Err(ClockAhead {
                ahead_ms: seen.0.saturating_sub(wall) / 1000,
                allowed_ms: allowed / 1000,
            });
        }
        *last = seen.0.max(*last);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::tokio_env;

    fn clock(floor: Hlc) -> HlcClock {
        HlcClock::new(tokio_env(), floor, Duration::from_secs(1))
    }

    #[tokio::test]
    async fn stamps_grow_strictly_even_when_the_floor_is_in_the_future() {
        let floor = Hlc(u64::MAX / 2);
        let clock = clock(floor);
        let (a, b) = (clock.tick(), clock.tick());
        assert!(floor < a && a < b);
    }

    #[tokio::test]
    async fn clocks_that_use_different_slots_never_give_out_the_same_stamp() {
        let (one, other) = (clock(Hlc(0)), clock(Hlc(0)));
        let mut last = Hlc(0);
        for turn in 0..1_000 {
            // Each follows the other, as nodes do: plain ticks would meet.
            let (a, b) = (one.tick_in(2, 16), other.tick_in(3, 16));
            assert_eq!((a.0 % 16, b.0 % 16), (2, 3), "turn {turn}");
            assert!(a > last && b > last, "they grow");
            one.observe(b).unwrap();
            other.observe(a).unwrap();
            last = a.max(b);
        }
        assert!(one.tick_in(5, 0) > last, "no slots: any stamp");
    }

    #[tokio::test]
    async fn small_steps_do_not_drag_the_clock_into_the_future() {
        let clock = clock(Hlc(0));
        let start = clock.tick().0;
        let mut refused = 0;
        for step in 1..=100 {
            refused += u32::from(clock.observe(Hlc(start + step * 900_000)).is_err());
        }
        assert!(refused >= 90, "{refused} of 100 steps of 0.9 s were refused");
        assert!(clock.tick().0 < start + 60_000_000);
    }

    #[tokio::test]
    async fn clocks_that_were_all_set_back_still_follow_each_other() {
        let hour_ahead = Hlc(tokio_env().wall().0 + 3_600_000_000);
        let clock = clock(hour_ahead);
        assert!(clock.observe(Hlc(hour_ahead.0 + 1_000)).is_ok());
        assert!(clock.tick().0 > hour_ahead.0 + 1_000);
    }

    #[tokio::test]
    async fn a_stamp_too_far_ahead_is_refused_and_changes_nothing() {
        let clock = clock(Hlc(0));
        let now = clock.tick();
        assert!(clock.observe(Hlc(now.0 + 3_600_000_000)).is_err());
        assert!(clock.tick().0 < now.0 + 1_000_000);
        assert!(clock.observe(Hlc(now.0 + 500_000)).is_ok());
        assert!(clock.tick().0 > now.0 + 500_000);
    }
}
