//! How fast each node has been of late: what hedged reads and `/metrics` go by.
//!
//! A histogram per node, in buckets an eighth of a power of two wide, so that a percentile is at
//! most an eighth too large. It forgets by halving all counts whenever it holds
//! [`HALVE_AT`] samples: recent answers weigh most, without a clock and the same in every replay.
//! A node that has stopped answering adds no samples; that is the failure detector's business.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::types::NodeId;

/// Sub-buckets of each power of two.
const STEPS: u64 = 8;

/// Powers of two of microseconds that are told apart: up to 2^27 µs, about two minutes.
const MAX_EXPONENT: u32 = 27;

const BUCKETS: usize = ((MAX_EXPONENT - 2) as usize + 1) * STEPS as usize;

/// Samples at which all counts are halved.
const HALVE_AT: u32 = 1024;

/// With fewer samples than this nothing is said: a 99th percentile of ten is a rumour.
const MIN_SAMPLES: u32 = 20;

/// How long a node takes to answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LatencyEstimate {
    /// Half of the recent answers took at most this long.
    pub p50: Duration,
    /// 99 in 100 of the recent answers took at most this long.
    pub p99: Duration,
}

/// Answer times of all nodes. Shared; takes a short lock per call.
#[derive(Debug, Default)]
pub struct LatencyTracker {
    nodes: Mutex<BTreeMap<NodeId, Histogram>>,
}

impl LatencyTracker {
    /// A tracker that knows nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes note that `node` answered after `took`.
    pub fn record(&self, node: NodeId, took: Duration) {
        self.lock().entry(node).or_default().record(took);
    }

    /// What is known of `node`; `None` until it has answered a score of times.
    #[must_use]
    pub fn estimate(&self, node: NodeId) -> Option<LatencyEstimate> {
        self.known(node, |histogram| LatencyEstimate {
            p50: histogram.quantile(50),
            p99: histogram.quantile(99),
        })
    }

    /// The 99th percentile alone.
    #[must_use]
    pub fn p99(&self, node: NodeId) -> Option<Duration> {
        self.known(node, |histogram| histogram.quantile(99))
    }

    fn known<T>(&self, node: NodeId, look: impl FnOnce(&Histogram) -> T) -> Option<T> {
        let nodes = self.lock();
        nodes.get(&node).filter(|histogram| histogram.total >= MIN_SAMPLES).map(look)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<NodeId, Histogram>> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug)]
struct Histogram {
    counts: Box<[u32; BUCKETS]>,
    total: u32,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { counts: Box::new([0; BUCKETS]), total: 0 }
    }
}

impl Histogram {
    fn record(&mut self, took: Duration) {
        if self.total >= HALVE_AT {
            self.counts.iter_mut().for_each(|count| *count /= 2);
            self.total = self.counts.iter().sum();
        }
        self.counts[bucket_of(took)] += 1;
        self.total += 1;
    }

    /// The upper edge of the bucket in which the `percent`-th percentile lies.
    fn quantile(&self, percent: u32) -> Duration {
        let rank = (self.total * percent).div_ceil(100).max(1);
        let mut seen = 0;
        for (bucket, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= rank {
                return upper_edge(bucket);
            }
        }
        upper_edge(BUCKETS - 1)
    }
}

/// Values below [`STEPS`] have a bucket each; above, the top bit and the three bits after it count.
fn bucket_of(took: Duration) -> usize {
    let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
    if micros < STEPS {
        return micros as usize;
    }
    let exponent = micros.ilog2();
    if exponent > MAX_EXPONENT {
        return BUCKETS - 1;
    }
    let step = (micros >> (exponent - 3)) - STEPS;
    (u64::from(exponent - 2) * STEPS + step) as usize
}

fn upper_edge(bucket: usize) -> Duration {
    let (octave, step) = (bucket as u64 / STEPS, bucket as u64 % STEPS);
    let micros = if octave == 0 { step + 1 } else { (STEPS + step + 1) << (octave - 1) };
    Duration::from_micros(micros)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODE: NodeId = NodeId(1);

    fn tracker(micros: impl IntoIterator<Item = u64>) -> LatencyTracker {
        let tracker = LatencyTracker::new();
        for value in micros {
            tracker.record(NODE, Duration::from_micros(value));
        }
        tracker
    }

    #[test]
    fn every_value_lies_below_its_buckets_edge_by_an_eighth_at_most() {
        for micros in (0..100_000).chain((100_000..134_000_000).step_by(99_991)) {
            let edge = upper_edge(bucket_of(Duration::from_micros(micros))).as_micros() as u64;
            assert!(edge > micros && edge <= micros + micros / 8 + 1, "{micros} in {edge}");
        }
        assert_eq!(bucket_of(Duration::MAX), BUCKETS - 1);
    }

    #[test]
    fn percentiles_are_those_of_the_samples() {
        let estimate = tracker(1..=1000).estimate(NODE).expect("enough samples");
        assert!((500..=565).contains(&(estimate.p50.as_micros() as u64)), "{estimate:?}");
        assert!((990..=1125).contains(&(estimate.p99.as_micros() as u64)), "{estimate:?}");
    }

    #[test]
    fn few_samples_say_nothing_and_nodes_are_told_apart() {
        assert_eq!(tracker(1..=19).estimate(NODE), None);
        let tracker = tracker(1..=20);
        assert!(tracker.p99(NODE).is_some());
        assert_eq!(tracker.p99(NodeId(2)), None);
    }

    #[test]
    fn a_node_that_became_slow_is_noticed_soon() {
        let history = std::iter::repeat_n(100, 100_000).chain(std::iter::repeat_n(9000, 800));
        let estimate = tracker(history).estimate(NODE).expect("enough samples");
        assert!(estimate.p50 >= Duration::from_millis(9), "{estimate:?}");
    }
}
