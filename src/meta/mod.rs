//! What the cluster has agreed on: who is in it, who owns which partition, which tables there are.
//!
//! It is one log. Entry n is a [`Command`] that the voters of entry n−1 chose by Paxos, and the
//! *epoch* of a node is how many entries it has applied. [`ClusterState`] is the fold of the log:
//! applying the same entries gives the same state on every node, for ever, so `apply` may look at
//! nothing but the state and the entry. This is how Cassandra's transactional cluster metadata
//! works (CEP-21); gossip decides nothing here.
//!
//! A command that no longer holds when its turn comes (the table exists by now) is not an error:
//! it takes its place in the log as a *refusal*, and whoever proposed it reads that verdict. So a
//! proposer whose answer was lost finds out by reading the log (CASSANDRA-21222): entries carry
//! ids.
//!
//! Pure: no IO, no clock, no randomness. What a command needs of these comes inside it.

mod bounds;
mod command;
#[cfg(test)]
pub(crate) mod fixture;
mod keyspace;
#[cfg(test)]
mod properties;
mod roles;
mod state;
mod table;

pub use command::{Command, Founder, LogEntry, Made, NotDone, Verdict};
pub use keyspace::Keyspace;
pub use roles::{Role, RoleChange, Roles, is_hash};
pub use state::{ClusterState, MemberState};
pub use table::{ConflictMode, NameError, SYSTEM_KEYSPACE, Table, TableName, TableSettings};
