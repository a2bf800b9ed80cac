//! Hash trees: what a replica holds of one partition of a table, in a form in which two replicas
//! find their differences without sending what is equal. Pure.
//!
//! # Shape
//!
//! The partition's token range is cut into [`LEAVES`] equal sub-ranges by the top bits of a
//! token's place in it, so that a leaf is one contiguous range of the store. [`GROUP`] leaves
//! make a group, [`GROUPS`] groups the tree. (A thousand leaves of a partition of a few thousand
//! records hold a few keys each: what differs is narrowed to about those keys, and at steady load
//! the writes in flight touch few leaves.)
//!
//! A record's [`digest`] is a 128-bit hash of its address and of the digest of its stored bytes; a
//! leaf is the XOR of the digests of its records, and so are group and root. Hence
//! - a change of a record is three XORs with *old digest* ^ *new digest*, whatever else the leaf
//!   holds, in any order;
//! - two trees have equal roots exactly when they hold equal records (but for a chance of about
//!   2^-128: the hash is not keyed, and an adversary who chooses keys could find two sets with one
//!   XOR; the scrub of the stored bytes does not rest on it);
//! - no value is reserved. The tree of nothing has root 0 because the XOR of nothing is 0, and not
//!   because 0 means "absent" (a hash that happened to be 0 cost OpenRiak its repairs).
//!
//! Whoever keeps a tree feeds it changes that are on stable storage only (rule 6).

mod leaves;
#[cfg(test)]
mod tests;

use bytes::{BufMut as _, Bytes, BytesMut};
use xxhash_rust::xxh3::{xxh3_64_with_seed, xxh3_128};

use crate::types::Digest;

pub use leaves::{Cut, Leaf, LeafSet};

/// Leaves of a tree.
pub const LEAVES: usize = GROUPS * GROUP;

/// Groups of a tree.
pub const GROUPS: usize = 32;

/// Leaves of a group.
pub const GROUP: usize = 32;

/// First byte of a stored tree.
const FORMAT: u8 = 1;

/// Bytes of a leaf in a stored tree: its number and its value.
const STORED_LEAF: usize = 2 + 16;

/// A record's share of its leaf: bound to the record's address, so that two keys that have each
/// other's value are found out.
#[must_use]
pub fn digest(address: &[u8], stored: Digest) -> u128 {
    let mut bytes = BytesMut::with_capacity(address.len() + 16);
    bytes.put_slice(address);
    bytes.put_u128(stored.0);
    xxh3_128(&bytes)
}

/// One partition of one table. Takes 0.5 KiB when empty, 17 KiB when every leaf is in use.
#[derive(Clone, Debug, Default)]
pub struct Tree {
    root: u128,
    groups: [Option<Box<Group>>; GROUPS],
}

#[derive(Clone, Debug, Default)]
struct Group {
    sum: u128,
    leaves: [u128; GROUP],
}

impl Tree {
    /// Folds `change` into a leaf: the old digest of a record ^ its new one; for a record that was
    /// not there or is no more, its digest alone.
    pub fn fold(&mut self, leaf: Leaf, change: u128) {
        if change == 0 {
            return;
        }
        let group = self.groups[leaf.group()].get_or_insert_default();
        group.leaves[leaf.index() % GROUP] ^= change;
        group.sum ^= change;
        self.root ^= change;
    }

    /// Gives a leaf the value `value`.
    pub fn set(&mut self, leaf: Leaf, value: u128) {
        self.fold(leaf, self.leaf(leaf) ^ value);
    }

    /// The XOR of all records.
    #[must_use]
    pub fn root(&self) -> u128 {
        self.root
    }

    /// The XOR of the records of each group.
    #[must_use]
    pub fn groups(&self) -> [u128; GROUPS] {
        std::array::from_fn(|n| self.groups[n].as_ref().map_or(0, |group| group.sum))
    }

    /// The leaves of group `group` (below [`GROUPS`]; past it, those of an empty group).
    #[must_use]
    pub fn leaves_of(&self, group: usize) -> [u128; GROUP] {
        let group = self.groups.get(group).and_then(Option::as_ref);
        group.map_or([0; GROUP], |group| group.leaves)
    }

    /// The value of one leaf.
    #[must_use]
    pub fn leaf(&self, leaf: Leaf) -> u128 {
        self.groups[leaf.group()].as_ref().map_or(0, |group| group.leaves[leaf.index() % GROUP])
    }

    /// The tree as a checkpoint stores it, bound to `place`, so that the tree of another place is
    /// not taken for this one's.
    ///
    /// ```text
    /// format u8 | checksum u64 | (leaf u16, value u128)…     leaves of value 0 are left out
    /// ```
    #[must_use]
    pub fn encode(&self, place: u64) -> Bytes {
        let mut leaves = BytesMut::new();
        for leaf in Leaf::all() {
            let value = self.leaf(leaf);
            if value != 0 {
                leaves.put_u16(leaf.index() as u16);
                leaves.put_u128(value);
            }
        }
        let mut out = BytesMut::with_capacity(9 + leaves.len());
        out.put_u8(FORMAT);
        out.put_u64(xxh3_64_with_seed(&leaves, place));
        out.put_slice(&leaves);
        out.freeze()
    }

    /// Reads what [`Tree::encode`] wrote for `place`. `None`: damaged, or of another place or
    /// format; the tree must then be built from the data.
    #[must_use]
    pub fn decode(bytes: &[u8], place: u64) -> Option<Self> {
        let (head, leaves) = bytes.split_at_checked(9)?;
        let sound = head[0] == FORMAT
            && head[1..] == xxh3_64_with_seed(leaves, place).to_be_bytes()
            && leaves.len().is_multiple_of(STORED_LEAF);
        if !sound {
            return None;
        }
        let mut tree = Self::default();
        for stored in leaves.chunks_exact(STORED_LEAF) {
            let (number, value) = stored.split_at(2);
            let leaf = Leaf::new(u16::from_be_bytes(number.try_into().ok()?))?;
            tree.set(leaf, u128::from_be_bytes(value.try_into().ok()?));
        }
        Some(tree)
    }
}
