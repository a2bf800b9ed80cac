//! Seeded random numbers, with integer arithmetic only, so that one seed draws the same numbers
//! on every machine.

use std::time::Duration;

/// A xoshiro256** generator (Blackman, Vigna). Not for secrets.
#[derive(Clone, Debug)]
pub struct Rng {
    state: [u64; 4],
}

fn split_mix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

impl Rng {
    /// The generator of `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let mut mix = seed;
        Self { state: std::array::from_fn(|_| split_mix(&mut mix)) }
    }

    /// The stream called `purpose` of member `index` under `seed`. Streams are independent: a new
    /// draw in one does not shift the others.
    #[must_use]
    pub fn stream(seed: u64, index: u64, purpose: &str) -> Self {
        let label = xxhash_rust::xxh3::xxh3_64_with_seed(purpose.as_bytes(), seed);
        Self::new(xxhash_rust::xxh3::xxh3_64_with_seed(&index.to_le_bytes(), label))
    }

    /// 64 random bits.
    pub fn next_u64(&mut self) -> u64 {
        let s = &mut self.state;
        let result = s[1].wrapping_mul(5).rotate_left(7).wrapping_mul(9);
        let t = s[1] << 17;
        s[2] ^= s[0];
        s[3] ^= s[1];
        s[1] ^= s[2];
        s[0] ^= s[3];
        s[2] ^= t;
        s[3] = s[3].rotate_left(45);
        result
    }

    /// A number below `bound`; 0 when `bound` is 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.next_u64()) * u128::from(bound)) >> 64) as u64
    }

    /// An index below `len`; 0 when `len` is 0.
    pub fn index(&mut self, len: usize) -> usize {
        self.below(len as u64) as usize
    }

    /// A number from `low` to `high`, both inclusive.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.below((high - low).saturating_add(1))
    }

    /// A number from `low` to `high` (both inclusive, `low` at least 1) whose *magnitude* is
    /// drawn evenly: as likely between 1 and 2 as between 512 and 1,024.
    pub fn magnitude(&mut self, low: u64, high: u64) -> u64 {
        let (first, last) = (low.max(1).ilog2(), high.max(1).ilog2());
        let bits = self.between(u64::from(first), u64::from(last.max(first)));
        let base = 1u64 << bits;
        self.between(base, base.saturating_mul(2) - 1).clamp(low, high)
    }

    /// True `parts` times in a million.
    pub fn chance(&mut self, parts: Ppm) -> bool {
        parts.0 > 0 && self.below(1_000_000) < u64::from(parts.0)
    }

    /// True half of the time.
    pub fn flip(&mut self) -> bool {
        self.next_u64() >> 63 == 1
    }

    /// One of `choices`, which must not be empty.
    pub fn pick<'a, T>(&mut self, choices: &'a [T]) -> &'a T {
        &choices[self.index(choices.len())]
    }

    /// A duration from `low` to `high`.
    pub fn duration(&mut self, low: Duration, high: Duration) -> Duration {
        Duration::from_nanos(self.between(low.as_nanos() as u64, high.as_nanos() as u64))
    }

    /// Puts `items` in a random order.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.index(i + 1));
        }
    }
}

/// A probability in parts per million.
#[derive(
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Debug,
    Default,
    serde::Serialize,
    serde::Deserialize,
)]
pub struct Ppm(pub u32);

impl Ppm {
    /// Never.
    pub const NEVER: Self = Self(0);
    /// Always.
    pub const ALWAYS: Self = Self(1_000_000);

    /// `percent` of a hundred.
    #[must_use]
    pub const fn percent(percent: u32) -> Self {
        Self(percent * 10_000)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_stay_in_their_bounds_and_reach_both_ends() {
        let mut rng = Rng::new(1);
        let draws: Vec<u64> = (0..2_000).map(|_| rng.between(3, 7)).collect();
        assert!(draws.iter().all(|d| (3..=7).contains(d)));
        assert!(draws.contains(&3) && draws.contains(&7));
        assert!((0..2_000).all(|_| (5..=1_000).contains(&rng.magnitude(5, 1_000))));
        assert!(!(0..100).any(|_| rng.chance(Ppm::NEVER)));
        assert!((0..100).all(|_| rng.chance(Ppm::ALWAYS)));
    }

    #[test]
    fn streams_of_one_seed_differ_by_purpose_and_by_member() {
        let first = Rng::stream(7, 1, "a").next_u64();
        assert_eq!(first, Rng::stream(7, 1, "a").next_u64());
        assert_ne!(first, Rng::stream(7, 2, "a").next_u64());
        assert_ne!(first, Rng::stream(7, 1, "b").next_u64());
        assert_ne!(first, Rng::stream(8, 1, "a").next_u64());
    }
}
