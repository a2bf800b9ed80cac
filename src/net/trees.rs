//! What two replicas say to each other to find where their hash trees differ
//! ([`crate::merkle`]): first one number for all trees that they share, then roots, then groups,
//! then leaves, then the keys of leaves. Each step is asked only about what differed in the one
//! before.

use serde::{Deserialize, Serialize};

use crate::types::{Digest, Generation, Key, PartitionId, TableId};

/// The most trees in one [`TreeAnswer::Roots`].
pub const MAX_ROOTS: usize = 8_192;

/// The most rows in one [`TreeAnswer::Rows`].
pub const MAX_LEAF_ROWS: usize = 1_024;

/// A question about hash trees. The asker is a replica of the same partitions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TreeRequest {
    /// Is the sum over all trees that both nodes keep this one?
    Sum {
        /// The asker's.
        sum: u128,
    },
    /// The roots of the trees that both nodes keep, after this one.
    Roots {
        /// Strictly after this one.
        after: Option<(TableId, PartitionId)>,
    },
    /// The leaves of those groups of a tree that differ from these.
    Groups {
        /// The table.
        table: TableId,
        /// The partition.
        partition: PartitionId,
        /// All of the asker's.
        groups: Vec<u128>,
    },
    /// The rows of some leaves, in token order.
    Rows {
        /// The table.
        table: TableId,
        /// The partition.
        partition: PartitionId,
        /// The leaves, ascending.
        leaves: Vec<u16>,
        /// Only rows strictly after this key.
        after: Option<Key>,
    },
}

/// A tree and its root.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TreeRoot {
    /// The table.
    pub table: TableId,
    /// The partition.
    pub partition: PartitionId,
    /// `None`: the tree is still being built, and cannot be compared.
    pub root: Option<u128>,
    /// The partition's purge generation; trees of different ones are not compared.
    pub generation: Generation,
}

/// A group of leaves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TreeGroup {
    /// Its number.
    pub group: u8,
    /// Its leaves.
    pub leaves: Vec<u128>,
}

/// A row of a leaf.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeafRow {
    /// Its key.
    pub key: Key,
    /// Its digest. `None`: the copy is damaged, which is not absence.
    pub digest: Option<Digest>,
}

/// The answer to a [`TreeRequest`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TreeAnswer {
    /// Nothing differs.
    Same,
    /// To [`TreeRequest::Sum`]: something differs, or cannot be compared yet.
    Differs,
    /// To [`TreeRequest::Roots`].
    Roots {
        /// At most [`MAX_ROOTS`], in order.
        roots: Vec<TreeRoot>,
        /// There are more.
        more: bool,
    },
    /// To [`TreeRequest::Groups`]: those that differ.
    Groups(Vec<TreeGroup>),
    /// To [`TreeRequest::Groups`]: the tree is still being built.
    NotBuilt,
    /// To [`TreeRequest::Rows`].
    Rows {
        /// At most [`MAX_LEAF_ROWS`], by (token, key).
        rows: Vec<LeafRow>,
        /// Where to go on, strictly after this key; `None`: that was all.
        next: Option<Key>,
    },
}
