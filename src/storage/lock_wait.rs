//! Waiting for a store's lock to be let go.
#![allow(clippy::disallowed_methods, reason = "an open blocks anyway and has no Env yet")]

use std::time::Duration;

/// How often an open is tried again while the store is locked. An engine's own threads keep its
/// lock for a moment after it was closed, so a node that restarts in one process must wait.
pub(super) const LOCK_TRIES: u32 = 300;

/// Waits 10 ms.
pub(super) fn pause() {
    std::thread::sleep(Duration::from_millis(10));
}
