//! What the clients do: YCSB's mixes.

use clap::ValueEnum;

use super::chooser::{Choose, Random, mix};

/// A mix of operations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Workload {
    /// Half reads, half updates; Zipfian.
    A,
    /// 95 % reads, 5 % updates; Zipfian.
    B,
    /// Only reads; Zipfian.
    C,
    /// 95 % reads of the latest, 5 % inserts.
    D,
    /// 95 % listings of up to 100 keys, 5 % inserts.
    E,
    /// Half reads, half read-modify-write; Zipfian.
    F,
    /// Only reads; uniform.
    Read,
    /// Only inserts of new keys.
    Insert,
    /// Only inserts of new keys, each if the key is absent: a conditional write, by Paxos.
    Create,
    /// Only compare-and-set: each client replaces what stands under a key of its own if that is what
    /// it knows; with --hot all clients do so with one key, and one of them wins each time.
    Cas,
}

/// One kind of operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// GET.
    Read,
    /// PUT over an existing key.
    Update,
    /// PUT of a new key.
    Insert,
    /// A page of a listing.
    Scan,
    /// GET, then PUT with its context.
    ReadModifyWrite,
    /// PUT if absent.
    Create,
    /// PUT if the version is the one that the client knows.
    Cas,
}

impl Kind {
    /// All kinds, in the order of reports.
    pub const ALL: [Self; 7] = [
        Self::Read,
        Self::Update,
        Self::Insert,
        Self::Scan,
        Self::ReadModifyWrite,
        Self::Create,
        Self::Cas,
    ];

    /// Its name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Update => "update",
            Self::Insert => "insert",
            Self::Scan => "scan",
            Self::ReadModifyWrite => "read-modify-write",
            Self::Create => "create",
            Self::Cas => "compare-and-set",
        }
    }
}

impl Workload {
    /// The next operation.
    pub fn next(self, random: &mut Random) -> Kind {
        let percent = random.below(100);
        match self {
            Self::A if percent < 50 => Kind::Update,
            Self::B if percent < 5 => Kind::Update,
            Self::D | Self::E if percent < 5 => Kind::Insert,
            Self::E => Kind::Scan,
            Self::F if percent < 50 => Kind::ReadModifyWrite,
            Self::Insert => Kind::Insert,
            Self::Create => Kind::Create,
            Self::Cas => Kind::Cas,
            Self::A | Self::B | Self::C | Self::D | Self::F | Self::Read => Kind::Read,
        }
    }

    /// Whether it needs no records that are there before.
    pub fn brings_its_own(self) -> bool {
        matches!(self, Self::Create | Self::Cas)
    }

    /// How it chooses keys.
    pub fn choose(self) -> Choose {
        match self {
            Self::A | Self::B | Self::C | Self::E | Self::F => Choose::Zipfian,
            Self::D => Choose::Latest,
            Self::Read | Self::Insert | Self::Create | Self::Cas => Choose::Uniform,
        }
    }
}

/// The names of records. Those that were there before have the same names in every run; those that
/// a run inserts are its own, so that an insert never meets an older one.
#[derive(Debug, Clone)]
pub struct Keys {
    records: u64,
    run: u64,
}

impl Keys {
    /// `records` records are there before.
    pub fn new(records: u64, seed: u64) -> Self {
        let (high, low) = uuid::Uuid::now_v7().as_u64_pair();
        Self { records, run: mix(high ^ low ^ seed) }
    }

    /// Appends the key of record `index`: 23 bytes that need no encoding.
    pub fn write(&self, index: u64, key: &mut Vec<u8>) {
        use std::io::Write;
        let done = if index < self.records {
            write!(key, "user{:019}", mix(index) >> 1)
        } else {
            write!(key, "new{:08x}-{:011}", self.run >> 32, index - self.records)
        };
        debug_assert!(done.is_ok(), "a Vec takes everything");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mixes_are_those_of_ycsb() {
        let share = |workload: Workload, kind: Kind| {
            let mut random = Random::new(7, 0);
            (0..10_000).filter(|_| workload.next(&mut random) == kind).count()
        };
        assert!((4_700..5_300).contains(&share(Workload::A, Kind::Update)));
        assert!((350..650).contains(&share(Workload::B, Kind::Update)));
        assert_eq!(share(Workload::C, Kind::Read), 10_000);
        assert!((350..650).contains(&share(Workload::D, Kind::Insert)));
        assert!((9_350..9_650).contains(&share(Workload::E, Kind::Scan)));
        assert!((4_700..5_300).contains(&share(Workload::F, Kind::ReadModifyWrite)));
        assert_eq!(share(Workload::Insert, Kind::Insert), 10_000);
    }

    #[test]
    fn keys_differ_and_those_of_the_load_are_the_same_in_every_run() {
        let key = |keys: &Keys, index| {
            let mut key = Vec::new();
            keys.write(index, &mut key);
            assert_eq!(key.len(), 23);
            key
        };
        let (one, two) = (Keys::new(10, 1), Keys::new(10, 1));
        assert_eq!(key(&one, 9), key(&two, 9));
        assert_ne!(key(&one, 10), key(&two, 10));
        let all: std::collections::BTreeSet<_> = (0..20).map(|i| key(&one, i)).collect();
        assert_eq!(all.len(), 20);
    }
}
