//! The record of a run: every event, folded into one hash, and the last few kept for the report.
//!
//! Two runs of one plan must fold to the same hash, in two processes: whatever slipped past the
//! injected clock, tasks, randomness, network and disk shows up as a difference here.

use std::collections::VecDeque;
use std::fmt;

use serde::Serialize;

/// How many of the latest events a run keeps for its report.
pub const KEPT_EVENTS: usize = 2_000;

/// What happened.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
#[repr(u8)]
pub enum TraceKind {
    /// A task began.
    Spawn = 1,
    /// A task was polled.
    Poll = 2,
    /// A timer fired.
    Timer = 3,
    /// A call of the world itself came due (a delivery, a disk completion, a fault).
    Call = 4,
    /// A node's life ended.
    Kill = 5,
    /// A node stood still, or went on.
    Pause = 6,
    /// A clock was changed.
    Clock = 7,
    /// A task panicked.
    Panic = 8,
    /// A message left its sender.
    Send = 9,
    /// A message reached its receiver.
    Deliver = 10,
    /// A message was lost, cut off or refused.
    Lose = 11,
    /// A disk was damaged, cut off or made to fail.
    Disk = 12,
    /// A client began or ended an operation.
    Client = 13,
    /// A fault began or ended.
    Fault = 14,
    /// A checkpoint of the run's state (digest of all stores, and so on).
    State = 15,
}

/// One event.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub struct TraceEvent {
    /// Its number, from 1.
    pub seq: u64,
    /// Virtual nanoseconds since the run began.
    pub time: u64,
    /// The machine it happened on; `u32::MAX` for the world itself.
    pub machine: u32,
    /// What happened.
    pub kind: TraceKind,
    /// A fingerprint of the details.
    pub digest: u64,
}

impl fmt::Display for TraceEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seq, time, machine, kind, digest } = self;
        let (seconds, micros) = (time / 1_000_000_000, time % 1_000_000_000 / 1_000);
        write!(f, "{seq:>9} {seconds:>5}.{micros:06} ")?;
        match machine {
            &u32::MAX => f.write_str(" world ")?,
            n => write!(f, "{n:>6} ")?,
        }
        write!(f, "{kind:<8?} {digest:016x}")
    }
}

/// The record of one run.
#[derive(Debug, Default)]
pub struct Trace {
    seq: u64,
    hash: u64,
    recent: VecDeque<TraceEvent>,
    /// Keeps all events, not only the latest.
    keep_all: bool,
}

impl Trace {
    /// Adds an event.
    pub fn record(&mut self, time: u64, machine: u32, kind: TraceKind, digest: u64) {
        self.seq += 1;
        let mut bytes = [0u8; 29];
        bytes[..8].copy_from_slice(&self.seq.to_le_bytes());
        bytes[8..16].copy_from_slice(&time.to_le_bytes());
        bytes[16..20].copy_from_slice(&machine.to_le_bytes());
        bytes[20] = kind as u8;
        bytes[21..].copy_from_slice(&digest.to_le_bytes());
        self.hash = xxhash_rust::xxh3::xxh3_64_with_seed(&bytes, self.hash);
        if self.recent.len() == KEPT_EVENTS && !self.keep_all {
            self.recent.pop_front();
        }
        self.recent.push_back(TraceEvent { seq: self.seq, time, machine, kind, digest });
    }

    /// Keeps all events from now on.
    pub fn keep_all(&mut self) {
        self.keep_all = true;
    }

    /// The hash of all events so far.
    #[must_use]
    pub fn hash(&self) -> u64 {
        self.hash
    }

    /// How many events there were.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.seq
    }

    /// True before the first event.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.seq == 0
    }

    /// The latest events, oldest first.
    #[must_use]
    pub fn recent(&self) -> Vec<TraceEvent> {
        self.recent.iter().copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_tells_order_time_and_detail_apart() {
        let hash_of = |events: &[(u64, u64)]| {
            let mut trace = Trace::default();
            for (time, digest) in events {
                trace.record(*time, 0, TraceKind::Poll, *digest);
            }
            trace.hash()
        };
        let base = hash_of(&[(1, 1), (2, 2)]);
        assert_eq!(base, hash_of(&[(1, 1), (2, 2)]));
        for other in [&[(1, 2), (2, 1)][..], &[(1, 1), (3, 2)], &[(1, 1)]] {
            assert_ne!(base, hash_of(other));
        }
    }

    #[test]
    fn only_the_latest_events_are_kept() {
        let mut trace = Trace::default();
        for i in 0..KEPT_EVENTS as u64 + 10 {
            trace.record(i, 0, TraceKind::Call, 0);
        }
        assert_eq!(trace.recent().len(), KEPT_EVENTS);
        assert_eq!(trace.recent()[0].seq, 11);
    }
}
