//! How slow each replica may be: what writes and rounds of Paxos wait for an answer. (Which replica
//! reads go to, and when they hedge, is [`crate::coordinator::snitch`]'s.)

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::types::NodeId;

/// No replica counts as faster than this.
const MIN: Duration = Duration::from_millis(2);

/// Nor as slower, however slow it has been.
const MAX: Duration = Duration::from_millis(500);

/// What is assumed of a replica that has not answered yet.
const UNKNOWN: Duration = Duration::from_millis(20);

/// A slowly falling peak, in microseconds: it jumps to a slow answer at once and forgets it by 1/64
/// with each faster one.
#[derive(Clone, Copy, Debug)]
struct Peak(u64);

/// Latencies of all replicas. Each call takes a lock for a few nanoseconds.
#[derive(Debug, Default)]
pub(super) struct Latencies {
    nodes: Mutex<BTreeMap<NodeId, Peak>>,
}

impl Latencies {
    /// Notes that `node` answered (or failed to) after `took`.
    pub(super) fn record(&self, node: NodeId, took: Duration) {
        let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX).min(60_000_000);
        let mut nodes = self.nodes.lock().unwrap_or_else(PoisonError::into_inner);
        let Peak(peak_us) = nodes.entry(node).or_insert(Peak(us));
        *peak_us = us.max(*peak_us - *peak_us / 64);
    }

    /// Twice the longest time that `node` has taken of late.
    pub(super) fn slowest(&self, node: NodeId) -> Duration {
        let nodes = self.nodes.lock().unwrap_or_else(PoisonError::into_inner);
        nodes.get(&node).map_or(UNKNOWN, |peak| Duration::from_micros(peak.0 * 2)).clamp(MIN, MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_answer_counts_at_once_and_is_forgotten_slowly() {
        let (latencies, node) = (Latencies::default(), NodeId(1));
        latencies.record(node, Duration::from_millis(1));
        let fast = latencies.slowest(node);
        latencies.record(node, Duration::from_millis(100));
        let slow = latencies.slowest(node);
        assert!(slow > fast * 10);
        for _ in 0..1000 {
            latencies.record(node, Duration::from_millis(1));
        }
        assert!(latencies.slowest(node) < slow / 10);
    }
}
