//! How fast each replica has been answering, as this coordinator saw it.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::types::NodeId;

/// A hedge never fires sooner than this: below it, the second request costs more than it saves.
const MIN_HEDGE: Duration = Duration::from_millis(2);

/// Nor later than this, however slow a replica has been.
const MAX_HEDGE: Duration = Duration::from_millis(500);

/// What is assumed of a replica that has not answered yet.
const UNKNOWN: Duration = Duration::from_millis(20);

/// A running mean and a slowly falling peak, which stands in for the 99th percentile: it jumps
/// to a slow answer at once and forgets it by 1/64 with each faster one.
#[derive(Clone, Copy, Debug)]
struct Latency {
    mean_us: u64,
    peak_us: u64,
}

/// Latencies of all replicas. Each call takes a lock for a few nanoseconds.
#[derive(Debug, Default)]
pub(super) struct Latencies {
    nodes: Mutex<BTreeMap<NodeId, Latency>>,
}

impl Latencies {
    /// Notes that `node` answered (or failed to) after `took`.
    pub(super) fn record(&self, node: NodeId, took: Duration) {
        let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX).min(60_000_000);
        let mut nodes = self.nodes.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = nodes.entry(node).or_insert(Latency { mean_us: us, peak_us: us });
        entry.mean_us = (entry.mean_us * 7 + us) / 8;
        entry.peak_us = us.max(entry.peak_us - entry.peak_us / 64);
    }

    /// The usual time to an answer, in steps of a power of two so that small differences do not
    /// reorder replicas from one operation to the next.
    pub(super) fn typical(&self, node: NodeId) -> Duration {
        let nodes = self.nodes.lock().unwrap_or_else(PoisonError::into_inner);
        let us = nodes.get(&node).map_or(0, |latency| latency.mean_us);
        Duration::from_micros(us.next_power_of_two())
    }

    /// How long to wait for `node` before asking another replica too.
    pub(super) fn hedge_after(&self, node: NodeId) -> Duration {
        let nodes = self.nodes.lock().unwrap_or_else(PoisonError::into_inner);
        nodes
            .get(&node)
            .map_or(UNKNOWN, |latency| Duration::from_micros(latency.peak_us * 2))
            .clamp(MIN_HEDGE, MAX_HEDGE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_answer_raises_the_hedge_at_once_and_is_forgotten_slowly() {
        let (latencies, node) = (Latencies::default(), NodeId(1));
        latencies.record(node, Duration::from_millis(1));
        let fast = latencies.hedge_after(node);
        latencies.record(node, Duration::from_millis(100));
        let slow = latencies.hedge_after(node);
        assert!(slow > fast * 10);
        for _ in 0..1000 {
            latencies.record(node, Duration::from_millis(1));
        }
        assert!(latencies.hedge_after(node) < slow / 10);
    }
}
