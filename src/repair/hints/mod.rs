//! Hinted handoff: a write that missed a replica is kept for it, and handed over when it is back.
//!
//! # The idea
//!
//! A write goes to all replicas and is acknowledged when W hold it. For each of the others that did
//! not say "it is on my disk", the coordinator keeps a *hint*: the record that the replica missed,
//! in a durable row of the coordinator's own store, under the replica's node id (Dynamo, §4.6).
//!
//! ```text
//! coordinator           C (down)                      C (back)
//!     │── Apply ────────▶ ✗
//!     │ row (hint, C, table, key) ── group commit
//!     │                          gossip: C is alive
//!     │── Handoff(record) ────────────────────────────▶│ merge, sync
//!     │◀────────────────────────────────── Applied ────│
//!     │ row deleted
//! ```
//!
//! # Rules
//!
//! - A hint is delivered as a *merge*, never put in the place of what the target has by then: the
//!   target may have newer versions, and a delete may have come in between.
//! - It is deleted only when the target has said that it is on stable storage (invariant I15), or
//!   when it is too old, or when its table or its target is gone, or when the target has purged the
//!   key since ([`crate::repair::purge`]).
//! - There is one hint for each (target, table, key). A newer one is merged into it. So the order
//!   of a key's writes cannot be turned round, and a hot key costs one row however often it is
//!   written. The merged hint keeps the age of the oldest write in it: a target that comes and goes
//!   does not renew the bound.
//! - Storing a hint happens beside the write and delays no answer. Level ANY is no exception: a
//!   version is minted by a replica before anything else happens, and that one copy meets ANY.
//! - Bytes (in all, and for each target) and age are bounded. What does not fit is not kept, is
//!   counted, and is left to anti-entropy. So is what a coordinator had not stored yet when it was
//!   killed: a hint makes healing fast, it is not what makes it certain.
//!
//! # Delivery
//!
//! Begins when gossip sees the target alive; one worker for each target; as many calls at a time as
//! the target takes without slowing down ([`window`]); the first failure ends the round, and the
//! next one comes after a pause that doubles. See [`deliver`] for what each answer means.
//!
//! # What is left out
//!
//! Hints are not handed to another node when this one leaves the cluster for good (membership does
//! not change yet); a target that is no replica any more has its hints turned into hints for those
//! that are.

mod deliver;
mod row;
mod scan;
mod store;
mod window;

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use crate::types::NodeId;

pub use deliver::Delivery;
pub use row::Hint;
pub use store::{HintStore, NotKept};

/// Bounds of the hints that one node keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HintSettings {
    /// Keep hints at all. Those that are there are delivered either way.
    pub enabled: bool,
    /// Bytes of all hints, rows and values.
    pub max_bytes: u64,
    /// Bytes of one target's hints.
    pub max_target_bytes: u64,
    /// A hint is dropped when its oldest write is this old, by the wall clock.
    pub max_age: Duration,
    /// Hints under way to one target at a time.
    pub max_calls: u32,
}

impl Default for HintSettings {
    fn default() -> Self {
        Self {
            enabled: true,
            max_bytes: 1 << 30,
            max_target_bytes: 512 << 20,
            max_age: Duration::from_secs(3 * 3600),
            max_calls: 64,
        }
    }
}

/// Counts of what became of hints; for `/metrics`.
#[derive(Debug, Default)]
pub struct HintCounters {
    /// Replicas that missed a write: hints asked for.
    pub missed: AtomicU64,
    /// Of these, hints stored.
    pub stored: AtomicU64,
    /// Of these, merged into one that was there.
    pub merged: AtomicU64,
    /// Handed over: the target has them on stable storage.
    pub delivered: AtomicU64,
    /// Not kept: switched off, or no room within the bounds.
    pub no_room: AtomicU64,
    /// Not kept: the store refused or failed.
    pub not_stored: AtomicU64,
    /// Dropped because they were too old.
    pub expired: AtomicU64,
    /// Dropped because their table is gone, or turned into hints for other replicas.
    pub moot: AtomicU64,
    /// Dropped because their rows were damaged.
    pub damaged: AtomicU64,
    /// Dropped because their keys have been purged since.
    pub purged: AtomicU64,
    /// Attempts that the target refused or did not answer.
    pub refused: AtomicU64,
}

/// The hints that a node keeps for one target.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TargetHints {
    /// For whom.
    pub target: NodeId,
    /// How many.
    pub count: u64,
    /// Their bytes, rows and values.
    pub bytes: u64,
    /// The age of the oldest; after rounds that were cut off, at most that.
    pub oldest: Duration,
    /// Hints handed over per second in the present round; zero between rounds.
    pub rate: f64,
}

impl TargetHints {
    /// When all will have been handed over, at the present rate.
    #[must_use]
    pub fn eta(&self) -> Option<Duration> {
        (self.rate > 0.0)
            .then(|| Duration::try_from_secs_f64(self.count as f64 / self.rate).ok())
            .flatten()
    }
}
