//! A set of small numbers.

/// Numbers below a bound that was given at birth.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Bits(Vec<u64>);

impl Bits {
    pub(super) fn new(bound: usize) -> Self {
        Self(vec![0; bound.div_ceil(64)])
    }

    pub(super) fn insert(&mut self, n: usize) {
        self.0[n / 64] |= 1 << (n % 64);
    }

    pub(super) fn contains(&self, n: usize) -> bool {
        self.0[n / 64] >> (n % 64) & 1 == 1
    }

    pub(super) fn union(&mut self, other: &Self) {
        for (word, other) in self.0.iter_mut().zip(&other.0) {
            *word |= other;
        }
    }

    /// The smallest member that `other` lacks.
    pub(super) fn first_beyond(&self, other: &Self) -> Option<usize> {
        self.0.iter().zip(&other.0).enumerate().find_map(|(at, (word, other))| {
            let left = word & !other;
            (left != 0).then(|| at * 64 + left.trailing_zeros() as usize)
        })
    }
}
