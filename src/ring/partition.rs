//! The token space, cut once and for ever into Q equal partitions.

use std::fmt;

use super::RingError;
use crate::types::{PartitionId, Token};

/// The most partitions a cluster may be cut into.
pub const MAX_PARTITIONS: u32 = 65_536;

/// The cut: Q equal partitions, Q a power of two from 1 to [`MAX_PARTITIONS`], fixed when the
/// cluster is founded. Partition p holds the tokens from [`first_token`](Self::first_token) to
/// [`end_token`](Self::end_token), both inclusive; in Cassandra's words it is the range that
/// *ends at* its end token, which is therefore the token that its owner publishes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PartitionMap {
    /// log2 of Q: the partition is the token's top `bits` bits.
    bits: u32,
}

impl PartitionMap {
    /// No cut at all: one partition.
    pub const WHOLE: Self = Self { bits: 0 };

    /// A cut into `q` partitions.
    ///
    /// # Errors
    /// [`RingError::PartitionCount`] unless `q` is a power of two from 1 to [`MAX_PARTITIONS`].
    pub fn new(q: u32) -> Result<Self, RingError> {
        if q.is_power_of_two() && q <= MAX_PARTITIONS {
            Ok(Self { bits: q.trailing_zeros() })
        } else {
            Err(RingError::PartitionCount { q })
        }
    }

    /// How many partitions there are.
    #[must_use]
    pub fn q(self) -> u32 {
        1 << self.bits
    }

    /// The partition that holds `token`.
    #[must_use]
    pub fn partition_of(self, token: Token) -> PartitionId {
        // Shifted so that the lowest token is 0; then the top bits count the partitions. The
        // 128-bit shift is for Q = 1, where all 64 bits go.
        let place = u128::from(token.0.cast_unsigned() ^ (1 << 63));
        PartitionId((place >> (64 - self.bits)) as u32)
    }

    /// The lowest token of partition `p`. For a `p` past the last one: the last one's.
    #[must_use]
    pub fn first_token(self, p: PartitionId) -> Token {
        let p = u128::from(p.0.min(self.q() - 1));
        Token(((p << (64 - self.bits)) as u64 ^ (1 << 63)).cast_signed())
    }

    /// The highest token of partition `p`, inclusive: −2^63 + (p+1)·2^64/Q − 1. For a `p` past
    /// the last one: 2^63−1.
    #[must_use]
    pub fn end_token(self, p: PartitionId) -> Token {
        let next = u128::from(p.0.min(self.q() - 1)) + 1;
        let place = (next << (64 - self.bits)) - 1;
        Token((place as u64 ^ (1 << 63)).cast_signed())
    }

    /// All partitions, clockwise from the lowest token.
    pub fn partitions(self) -> impl Iterator<Item = PartitionId> {
        (0..self.q()).map(PartitionId)
    }
}

impl fmt::Display for PartitionMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} partitions", self.q())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn only_powers_of_two_up_to_the_bound_are_partition_counts() {
        for q in [1, 2, 256, 65_536] {
            assert_eq!(PartitionMap::new(q).map(PartitionMap::q), Ok(q));
        }
        for q in [0, 3, 255, 131_072, u32::MAX] {
            assert_eq!(PartitionMap::new(q), Err(RingError::PartitionCount { q }));
        }
    }

    #[test]
    fn the_partitions_tile_the_whole_ring() {
        for bits in [0, 1, 2, 8, 16] {
            let map = PartitionMap::new(1 << bits).expect("a power of two");
            let mut next = i128::from(i64::MIN);
            for p in map.partitions() {
                let (first, end) = (map.first_token(p), map.end_token(p));
                assert_eq!(i128::from(first.0), next);
                assert_eq!(map.partition_of(first), p);
                assert_eq!(map.partition_of(end), p);
                next = i128::from(end.0) + 1;
            }
            assert_eq!(next, i128::from(i64::MAX) + 1, "Q = 2^{bits}");
        }
    }

    #[test]
    fn the_end_tokens_of_four_partitions_are_the_quarters() {
        let map = PartitionMap::new(4).expect("a power of two");
        let ends: Vec<i64> = map.partitions().map(|p| map.end_token(p).0).collect();
        assert_eq!(ends, [-(1 << 62) - 1, -1, (1 << 62) - 1, i64::MAX]);
    }

    proptest! {
        #[test]
        fn every_token_lies_within_its_partition(token: i64, bits in 0u32..=16) {
            let map = PartitionMap::new(1 << bits).expect("a power of two");
            let p = map.partition_of(Token(token));
            prop_assert!(p.0 < map.q());
            prop_assert!(map.first_token(p).0 <= token && token <= map.end_token(p).0);
        }

        #[test]
        fn a_partition_that_does_not_exist_is_answered_without_a_panic(p: u32, bits in 0u32..=16) {
            let map = PartitionMap::new(1 << bits).expect("a power of two");
            prop_assert!(map.first_token(PartitionId(p)) <= map.end_token(PartitionId(p)));
        }
    }
}
