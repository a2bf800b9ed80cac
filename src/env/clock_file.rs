//! A wall clock that is wrong on purpose, for tests of whole processes (test builds only).
//!
//! `HENGE_CLOCK_FILE` names a file with one number, the microseconds to add to the system's clock.
//! Whoever tests rewrites it to let the clock jump, drift or strobe; a node sees that within
//! [`EVERY`]. The monotonic clock is left alone, as a stepped wall clock leaves it.

#![allow(clippy::disallowed_methods, reason = "a thread of its own, on the real clock")]

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

/// How often the file is read.
const EVERY: Duration = Duration::from_millis(5);

/// What is to be added to the system's clock.
#[derive(Debug, Clone, Default)]
pub(super) struct ClockFile {
    offset_us: Arc<AtomicI64>,
}

impl ClockFile {
    /// Follows the file that the environment names; without one, the clock is right.
    pub(super) fn from_environment() -> Self {
        let clock = Self::default();
        if let Some(path) = std::env::var_os("HENGE_CLOCK_FILE").map(PathBuf::from) {
            clock.read(&path);
            let follower = clock.clone();
            std::thread::spawn(move || {
                loop {
                    std::thread::sleep(EVERY);
                    follower.read(&path);
                }
            });
        }
        clock
    }

    /// A file that is absent or half-written changes nothing.
    fn read(&self, path: &std::path::Path) {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        if let Ok(offset) = text.trim().parse() {
            self.offset_us.store(offset, Ordering::Relaxed);
        }
    }

    /// `real_us` as this clock shows it.
    pub(super) fn shown(&self, real_us: u64) -> u64 {
        real_us.saturating_add_signed(self.offset_us.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_in_the_file_is_added_and_nonsense_changes_nothing() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let clock = ClockFile::default();
        for (text, shown) in
            [("-250000\n", 750_000), ("", 750_000), ("x", 750_000), ("7", 1_000_007)]
        {
            std::fs::write(file.path(), text).unwrap();
            clock.read(file.path());
            assert_eq!(clock.shown(1_000_000), shown, "{text:?}");
        }
    }
}
