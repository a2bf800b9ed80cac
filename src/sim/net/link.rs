//! How one direction between two nodes behaves.

use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::sim::rng::{Ppm, Rng};

/// How messages travel.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Delivery {
    /// Each on its own: in any order, lost, or twice.
    Datagram,
    /// In order per connection. A lost one delays all that follow; a cut connection loses its
    /// tail.
    Stream,
}

/// The character of a link.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct LinkProfile {
    /// Shortest way, in nanoseconds.
    pub latency_min: u64,
    /// Longest usual way.
    pub latency_max: u64,
    /// Messages that take ten to a hundred times longer.
    pub tail: Ppm,
    /// Messages that get lost (streams: sent again after a while).
    pub loss: Ppm,
    /// Messages that come a second time (datagrams only).
    pub duplicate: Ppm,
    /// The latest that a second copy comes, in nanoseconds.
    pub replay_max: u64,
    /// Messages in which bits flip.
    pub corrupt: Ppm,
    /// Messages at which the connection breaks (streams only).
    pub cut: Ppm,
    /// Messages under way beyond which more are lost (datagrams only); 0 is no bound.
    pub capacity: u32,
}

impl Default for LinkProfile {
    /// A quiet local network.
    fn default() -> Self {
        Self {
            latency_min: 50_000,
            latency_max: 500_000,
            tail: Ppm(1_000),
            loss: Ppm::NEVER,
            duplicate: Ppm::NEVER,
            replay_max: 0,
            corrupt: Ppm::NEVER,
            cut: Ppm::NEVER,
            capacity: 0,
        }
    }
}

impl LinkProfile {
    /// A way's length, drawn.
    pub(super) fn latency(&self, rng: &mut Rng) -> u64 {
        let usual = rng.between(self.latency_min, self.latency_max.max(self.latency_min));
        if rng.chance(self.tail) { usual * rng.between(10, 100) } else { usual }
    }

    /// A way's length in a stream, where a lost message is sent again.
    pub(super) fn stream_latency(&self, rng: &mut Rng) -> u64 {
        let mut total = self.latency(rng);
        let mut timeout = Duration::from_millis(200).as_nanos() as u64;
        while rng.chance(self.loss) && timeout < 10_000_000_000 {
            total += timeout;
            timeout *= 2;
        }
        total
    }
}

/// A frame on its way.
#[derive(Clone, Debug)]
pub(super) struct InFlight {
    pub(super) session: u64,
    /// Who it goes to, and in which life.
    pub(super) receiver_life: u64,
    pub(super) is_request: bool,
    pub(super) frame: Bytes,
}

/// One direction.
#[derive(Debug, Default)]
pub(super) struct Link {
    pub(super) profile: LinkProfile,
    /// Counts the faults that block it, so that overlapping ones end apart.
    pub(super) blocks: u32,
    /// Nothing arrives before this time.
    pub(super) clogged_until: u64,
    pub(super) under_way: u32,
    /// Frames of streams that wait for the end of a block, in order.
    pub(super) held: Vec<InFlight>,
    /// Messages that a block or a clog has met.
    pub(super) hits: u64,
}
