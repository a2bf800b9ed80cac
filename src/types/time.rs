//! Three kinds of time that must not be mixed.

use std::ops::{Add, Sub};
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A reading of a clock that never goes back within one process: nanoseconds since an arbitrary
/// origin. Means nothing to any other process.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub struct Mono(pub u64);

impl Mono {
    /// Time from `earlier` to this reading; zero if `earlier` is later.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Mono {
    type Output = Self;

    fn add(self, d: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(d.as_nanos()).unwrap_or(u64::MAX)))
    }
}

impl Sub for Mono {
    type Output = Duration;

    fn sub(self, earlier: Self) -> Duration {
        self.since(earlier)
    }
}

/// What a wall clock shows: microseconds since the Unix epoch. May jump either way; nothing that
/// must be right may rest on it.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug, Serialize, Deserialize,
)]
pub struct WallMicros(pub u64);

/// A hybrid logical clock reading: microseconds like a wall clock's, but never repeated nor
/// falling on one node, and always above every reading the node has been shown (Kulkarni et al.,
/// "Logical physical clocks", folded into one number as Cassandra's timestamps need).
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug, Serialize, Deserialize,
)]
pub struct Hlc(pub u64);
