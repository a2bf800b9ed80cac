//! Which leaf a token belongs to, and which tokens belong to a leaf.

use crate::merkle::{GROUP, LEAVES};
use crate::ring::PartitionMap;
use crate::types::{PartitionId, Token};

/// The number of a leaf in its tree, below [`LEAVES`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Leaf(u16);

impl Leaf {
    /// The first leaf.
    pub const FIRST: Self = Self(0);
    /// The last leaf.
    pub const LAST: Self = Self(LEAVES as u16 - 1);

    /// Leaf `number`, if there is one.
    #[must_use]
    pub fn new(number: u16) -> Option<Self> {
        (usize::from(number) < LEAVES).then_some(Self(number))
    }

    /// Its number.
    #[must_use]
    pub fn index(self) -> usize {
        usize::from(self.0)
    }

    /// Its group.
    #[must_use]
    pub fn group(self) -> usize {
        self.index() / GROUP
    }

    /// The one after it.
    #[must_use]
    pub fn next(self) -> Option<Self> {
        Self::new(self.0 + 1)
    }

    /// All leaves, in token order.
    pub fn all() -> impl DoubleEndedIterator<Item = Self> {
        (0..LEAVES as u16).map(Self)
    }

    /// The leaves from this one to `last`, both included.
    pub fn to(self, last: Self) -> impl DoubleEndedIterator<Item = Self> {
        (self.0..=last.0).map(Self)
    }
}

/// How tokens are cut into partitions and these into leaves. The ring's cut is for ever, hence so
/// is this one.
#[derive(Clone, Copy, Debug)]
pub struct Cut {
    map: PartitionMap,
}

impl Cut {
    /// The cut of a ring.
    #[must_use]
    pub fn new(map: PartitionMap) -> Self {
        Self { map }
    }

    /// The partition and leaf that hold `token`.
    #[must_use]
    pub fn place(self, token: Token) -> (PartitionId, Leaf) {
        let partition = self.map.partition_of(token);
        let offset = (token.0.wrapping_sub(self.map.first_token(partition).0)).cast_unsigned();
        (partition, Leaf((offset >> self.shift()) as u16))
    }

    /// The tokens of the leaves `first` to `last` of a partition, all ends inclusive.
    #[must_use]
    pub fn tokens(self, partition: PartitionId, first: Leaf, last: Leaf) -> (Token, Token) {
        let start = self.map.first_token(partition).0;
        let at = |leaf: u64| start.wrapping_add((leaf << self.shift()).cast_signed());
        let end = if last == Leaf::LAST {
            self.map.end_token(partition).0
        } else {
            at(u64::from(last.0) + 1).wrapping_sub(1)
        };
        (Token(at(u64::from(first.0))), Token(end))
    }

    /// Bits of a token's place in its partition that do not tell the leaf. At least 38: a
    /// partition has 2^48 tokens or more.
    fn shift(self) -> u32 {
        u64::BITS - self.map.q().trailing_zeros() - LEAVES.trailing_zeros()
    }
}

/// Some leaves of a tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeafSet([u64; LEAVES / 64]);

impl LeafSet {
    /// None.
    pub const NONE: Self = Self([0; LEAVES / 64]);
    /// All.
    pub const ALL: Self = Self([u64::MAX; LEAVES / 64]);

    /// Adds a leaf.
    pub fn insert(&mut self, leaf: Leaf) {
        self.0[leaf.index() / 64] |= 1 << (leaf.index() % 64);
    }

    /// Takes a leaf out.
    pub fn remove(&mut self, leaf: Leaf) {
        self.0[leaf.index() / 64] &= !(1 << (leaf.index() % 64));
    }

    /// True when the leaf is in it.
    #[must_use]
    #[inline]
    pub fn contains(&self, leaf: Leaf) -> bool {
        self.0[leaf.index() / 64] & 1 << (leaf.index() % 64) != 0
    }

    /// True when no leaf is in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0 == Self::NONE.0
    }

    /// The first run of neighbours in it: first and last leaf.
    #[must_use]
    pub fn first_run(&self) -> Option<(Leaf, Leaf)> {
        let (word, bits) = self.0.iter().enumerate().find(|(_, bits)| **bits != 0)?;
        let first = Leaf((word * 64) as u16 + bits.trailing_zeros() as u16);
        let run = first.to(Leaf::LAST).take_while(|&leaf| self.contains(leaf));
        Some((first, run.last().unwrap_or(first)))
    }
}
