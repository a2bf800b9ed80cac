//! What nodes say to each other about tombstones that are to go; `repair::purge` has the protocol.

use serde::{Deserialize, Serialize};

use crate::types::{Digest, Generation, Key, PartitionId, TableId};

/// The most rows that one purge removes.
pub const MAX_SET_ROWS: usize = 512;

/// What a purge has removed, or is to remove.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PurgeSet {
    /// The generation that it makes.
    pub generation: Generation,
    /// Which attempt at that generation it is: random.
    pub plan: u128,
    /// The keys, with the digests that their records have on all replicas. At most
    /// [`MAX_SET_ROWS`].
    pub rows: Vec<(Key, Digest)>,
}

/// A question or order about one partition of a table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PurgeRequest {
    /// The table.
    pub table: TableId,
    /// The partition.
    pub partition: PartitionId,
    /// What.
    pub what: PurgeAction,
}

/// See [`PurgeRequest`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PurgeAction {
    /// For which of these keys do you keep something for another node? To every member.
    Pending {
        /// At most [`MAX_SET_ROWS`].
        keys: Vec<Key>,
    },
    /// Do you hold exactly these records? Then remember that you were asked, durably. To every
    /// replica. The set's generation is the one after the receiver's.
    Prepare(PurgeSet),
    /// All replicas hold them: remove them.
    Commit(PurgeSet),
    /// What has been purged after this generation?
    Sets {
        /// The asker's.
        after: Generation,
    },
    /// Somebody is at this generation: catch up with it.
    Advance {
        /// Its generation.
        generation: Generation,
    },
}

/// The answer to a [`PurgeRequest`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PurgeAnswer {
    /// To [`PurgeAction::Pending`] and [`PurgeAction::Prepare`]: the places in the question, in
    /// order, of the keys for which something is pending, or which are not held exactly so.
    Not(Vec<u16>),
    /// To [`PurgeAction::Commit`] and [`PurgeAction::Advance`], and to the others if they do not
    /// fit it: the partition's durable generation.
    At(Generation),
    /// To [`PurgeAction::Sets`].
    Sets {
        /// The generation.
        generation: Generation,
        /// What led to it, in order, as far as it is remembered and as it goes into an answer.
        sets: Vec<PurgeSet>,
    },
}
