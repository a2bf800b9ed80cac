//! Which record comes next: uniform, Zipfian, or the latest ones most often; as YCSB defines them.

use clap::ValueEnum;

/// How records are chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Choose {
    /// Each equally often.
    Uniform,
    /// Few very often, spread over all keys.
    Zipfian,
    /// Those written last most often.
    Latest,
}

/// A small fast generator (SplitMix64); statistics need no more.
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// A generator whose draws follow from `seed` and `stream`.
    pub fn new(seed: u64, stream: u64) -> Self {
        let mut random = Self(seed ^ stream.wrapping_mul(0xd134_2543_de82_ef95));
        random.next();
        random
    }

    /// 64 bits.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// Below `bound`, which is not zero.
    pub fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(bound)) >> 64) as u64
    }

    /// From 0 up to, not including, 1.
    pub fn unit(&mut self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "53 bits fit")]
        let number = (self.next() >> 11) as f64;
        number / (1u64 << 53) as f64
    }
}

/// SplitMix64's finaliser: spreads neighbouring numbers over all 64 bits.
pub fn mix(number: u64) -> u64 {
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

/// Zipf's law over `0..count`, the exponent 0.99, by the method of Gray et al., "Quickly
/// generating billion-record synthetic databases" (SIGMOD 1994), as YCSB has it.
#[derive(Debug, Clone)]
pub struct Zipf {
    count: f64,
    alpha: f64,
    zeta: f64,
    eta: f64,
}

const THETA: f64 = 0.99;

impl Zipf {
    /// Costs a sum over `count` terms.
    #[expect(clippy::cast_precision_loss, reason = "counts of records are far below 2^53")]
    pub fn new(count: u64) -> Self {
        let zeta: f64 = (1..=count).map(|i| 1.0 / (i as f64).powf(THETA)).sum();
        let zeta_two = 1.0 + 0.5f64.powf(THETA);
        let count = count as f64;
        let eta = (1.0 - (2.0 / count).powf(1.0 - THETA)) / (1.0 - zeta_two / zeta);
        Self { count, alpha: 1.0 / (1.0 - THETA), zeta, eta }
    }

    /// A rank: 0 is the most frequent.
    pub fn next(&self, random: &mut Random) -> u64 {
        let u = random.unit();
        let uz = u * self.zeta;
        if uz < 1.0 {
            return 0;
        }
        if uz < 1.0 + 0.5f64.powf(THETA) {
            return 1;
        }
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "between 0 and the count"
        )]
        let rank = (self.count * (self.eta * u - self.eta + 1.0).powf(self.alpha)) as u64;
        rank
    }
}

/// Chooses among the records `0..count`, where `count` may grow.
#[derive(Debug, Clone)]
pub struct Chooser {
    choose: Choose,
    records: u64,
    zipf: Zipf,
}

impl Chooser {
    /// `records` is the count at the beginning.
    pub fn new(choose: Choose, records: u64) -> Self {
        let zipf = match choose {
            Choose::Uniform => Zipf::new(1),
            Choose::Zipfian | Choose::Latest => Zipf::new(records),
        };
        Self { choose, records, zipf }
    }

    /// A record below `count`, which is not zero.
    pub fn next(&self, random: &mut Random, count: u64) -> u64 {
        match self.choose {
            Choose::Uniform => random.below(count),
            // Always among the first ones: the popular records stay popular while others come.
            Choose::Zipfian => mix(self.zipf.next(random)) % self.records,
            Choose::Latest => count - 1 - self.zipf.next(random).min(count - 1),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draws(choose: Choose, count: u64) -> Vec<u64> {
        let (chooser, mut random) = (Chooser::new(choose, count), Random::new(1, 2));
        let mut seen = vec![0; usize::try_from(count).unwrap()];
        for _ in 0..100_000 {
            seen[usize::try_from(chooser.next(&mut random, count)).unwrap()] += 1;
        }
        seen
    }

    #[test]
    fn uniform_choices_are_even() {
        let seen = draws(Choose::Uniform, 100);
        assert!(seen.iter().all(|count| (800..1200).contains(count)), "{seen:?}");
    }

    #[test]
    fn zipfian_choices_follow_the_law() {
        let mut seen = draws(Choose::Zipfian, 1000);
        seen.sort_unstable_by(|a, b| b.cmp(a));
        // The first rank's share is 1/zeta = 1/7.73 (n = 1000, theta 0.99); scrambling may put a
        // second rank on the same record.
        assert!((11_500..17_500).contains(&seen[0]), "{}", seen[0]);
        assert!(seen[..100].iter().sum::<u64>() > 60_000);
    }

    #[test]
    fn latest_choices_prefer_the_end() {
        let seen = draws(Choose::Latest, 1000);
        assert!((11_500..14_500).contains(&seen[999]), "{}", seen[999]);
        assert!(seen[999] > seen[998] && seen[998] > seen[900]);
    }
}
