//! Who keeps what. Pure: no IO, no tasks, no clock; the one lock guards a memory of placements
//! already computed.
//!
//! # The idea
//!
//! A key's *token* is its Murmur3 hash ([`token_of`]), a place on a ring of 2^64 places. The ring
//! is cut once, when the cluster is founded, into Q equal *partitions* ([`PartitionMap`]), and
//! each partition has one *owner* ([`claim`] says which). The *replicas* of a key are found by
//! walking clockwise from the owner of its partition over the owners that follow
//! ([`Replication`]): the next distinct nodes, or per datacentre the next nodes on distinct racks.
//!
//! ```text
//!   Q = 8, owners A B C A B C A B        token of "k" falls in partition 4
//!   partition  0 1 2 3 4 5 6 7           owner B; three replicas: walk 4, 5, 6: B, C, A
//!              A B C A B C A B
//!                      ^ k
//! ```
//!
//! All of this at one epoch of the metadata log is a [`RingSnapshot`]: built once, checked where
//! it is built, shared as an `Arc`, and never changed. A request takes one snapshot and plans with
//! it to its end; that the ring has moved meanwhile is seen by comparing epochs.
//!
//! # Sources
//!
//! Equal partitions are strategy 3 of the Dynamo paper (DeCandia et al. 2007, §6.2): ownership,
//! streaming and hash trees have fixed borders for ever. Tokens and placement are Cassandra's
//! (`Murmur3Partitioner`, `SimpleStrategy`, `NetworkTopologyStrategy` as of version 4), because
//! its drivers compute both for themselves to pick a coordinator; both are checked against a real
//! driver's answers (`tests/data`).
//!
//! # Left out
//!
//! Ownership in motion: read set and write set of a partition are kept apart in [`ReplicaSet`]
//! but equal for now. Transient replicas (Cassandra's `3/1`) do not exist.

mod claim;
mod murmur3;
mod partition;
mod replication;
mod snapshot;

pub use claim::claim;
pub use murmur3::{composite_key, token_in, token_of};
pub use partition::{MAX_PARTITIONS, PartitionMap};
pub use replication::{Placement, ReplicaSet, Replication, ReplicationError};
pub use snapshot::{Member, RingSnapshot};

use crate::types::{NodeId, PartitionId};

/// Why a ring cannot be built: one breach of what every ring must satisfy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RingError {
    /// Q is no power of two, or out of bounds.
    #[error("a ring has a power of two of partitions, 1 to {MAX_PARTITIONS}; {q} is not one")]
    PartitionCount {
        /// The number that was given.
        q: u32,
    },
    /// The list of owners does not have one entry per partition.
    #[error("{got} owners are named for {expected} partitions")]
    OwnerCount {
        /// Q.
        expected: u32,
        /// Length of the list.
        got: usize,
    },
    /// A partition is owned by nobody in the ring.
    #[error("partition {partition} belongs to {owner}, which is no member")]
    UnknownOwner {
        /// The partition.
        partition: PartitionId,
        /// Its supposed owner.
        owner: NodeId,
    },
    /// Two members have one id.
    #[error("the node {id} is listed twice")]
    DuplicateMember {
        /// The id.
        id: NodeId,
    },
    /// Two members have one name.
    #[error("two nodes are called {name:?}")]
    DuplicateName {
        /// The name.
        name: String,
    },
}
