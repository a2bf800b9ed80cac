//! Identities. Each is a number in disguise, so each has its own type.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Text that is not an id of the expected form.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not {expected}")]
pub struct ParseIdError {
    /// What was given.
    pub text: String,
    /// What would have been right.
    pub expected: &'static str,
}

/// A node: one process with one place in the cluster, known by this id for ever. Its addresses
/// may change; its id may not. Shown as a UUID (it is also the CQL `host_id`).
///
/// The id is derived from the cluster's and the node's names, so that the founders can name each
/// other before they have met. What distinguishes two *histories* under one name is [`ActorId`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct NodeId(pub u128);

impl NodeId {
    /// The id of the node called `name` in the cluster called `cluster`: an RFC 9562 version 8
    /// UUID over the xxh3-128 digest of both names.
    #[must_use]
    pub fn derive(cluster: &str, name: &str) -> Self {
        let text = format!("henge node\0{cluster}\0{name}");
        let hash = xxhash_rust::xxh3::xxh3_128(text.as_bytes());
        Self(uuid::Builder::from_custom_bytes(hash.to_be_bytes()).into_uuid().as_u128())
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&uuid::Uuid::from_u128(self.0), f)
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "node:{:08x}", self.0 >> 96)
    }
}

impl FromStr for NodeId {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        uuid::Uuid::parse_str(text)
            .map(|id| Self(id.as_u128()))
            .map_err(|_| ParseIdError { text: text.to_owned(), expected: "a node id (a UUID)" })
    }
}

/// One unbroken history of one data directory (law L3). A wiped disk, a restored backup or an
/// unclean stop that may have lost acknowledged writes begins a new actor. Only actors mint dots
/// and own ballots. Shown as 16 hex digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ActorId(pub u64);

impl ActorId {
    /// The actor of all events that Paxos has agreed on (rule 10): a version made by a lightweight
    /// transaction has the dot (`PAXOS`, time of its ballot), so that everyone who finishes it
    /// makes the same one. No data directory ever gets this id.
    pub const PAXOS: Self = Self(u64::MAX);
}

impl fmt::Display for ActorId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for ActorId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a{:016x}", self.0)
    }
}

impl FromStr for ActorId {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        let bad = || ParseIdError {
            text: text.to_owned(),
            expected: "an actor id (16 hexadecimal digits)",
        };
        if text.len() != 16 {
            return Err(bad());
        }
        u64::from_str_radix(text, 16).map(Self).map_err(|_| bad())
    }
}

/// How often tombstones of one partition of a table have been purged. Every record that travels
/// carries the generation of the replica that it was read from: a replica that has purged the key
/// since does not take it (rule 18 of the design).
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug, Serialize, Deserialize,
)]
pub struct Generation(pub u64);

impl Generation {
    /// The one that the next purge makes.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// One unbroken history of one node's votes. An empty or an older data directory begins a new one,
/// as it begins a new [`ActorId`]; an unclean stop that may have lost acknowledged *writes* does
/// not, because votes are on stable storage before they are answered, whatever the durability of
/// writes (law L9). Shown as 16 hex digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct VoterId(pub u64);

impl fmt::Display for VoterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for VoterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "v{:016x}", self.0)
    }
}

/// One event of one actor: the `counter`-th that it minted over all keys (rule 1 of the design:
/// one counter per actor, never one per key). Counters start at 1.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Dot {
    /// Who minted it.
    pub actor: ActorId,
    /// The actor's own count of events, from 1.
    pub counter: u64,
}

impl fmt::Display for Dot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.actor, self.counter)
    }
}

impl fmt::Debug for Dot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "({:?},{})", self.actor, self.counter)
    }
}

/// Length of the metadata log that its holder has applied. Epoch 0 is a node that has not heard
/// of any founding.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug, Serialize, Deserialize,
)]
pub struct Epoch(pub u64);

impl Epoch {
    /// The epoch after this one.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// How many times a data directory has been opened by a starting node, this start included.
/// Kept on disk and in the metadata log, for people to read; what tells an older copy is which
/// starts it knows of (rule 17).
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug, Serialize, Deserialize,
)]
pub struct Incarnation(pub u64);

/// A table (or HTTP bucket), named by the epoch of the log entry that created it, so that an id
/// never returns after a drop.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug, Serialize, Deserialize,
)]
pub struct TableId(pub u32);

impl TableId {
    /// Set in the ids of tables whose records are rows of partitions ([`Key::of_row`]): so that
    /// whoever has an id and a key can tell the key's token without looking the table up.
    ///
    /// [`Key::of_row`]: crate::types::Key::of_row
    const ROWS: u32 = 1 << 31;

    /// The id of the table that entry `n` of the metadata log creates. `None`: there are none left.
    #[must_use]
    pub fn of_entry(n: u64, rows: bool) -> Option<Self> {
        let n = u32::try_from(n).ok().filter(|n| n & Self::ROWS == 0)?;
        Some(Self(if rows { n | Self::ROWS } else { n }))
    }

    /// The number of the entry that created the table.
    #[must_use]
    pub fn entry(self) -> u64 {
        u64::from(self.0 & !Self::ROWS)
    }

    /// True when the table's records are rows of partitions.
    #[must_use]
    pub fn holds_rows(self) -> bool {
        self.0 & Self::ROWS != 0
    }
}

impl fmt::Display for TableId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// A secondary index, named by the entry of the metadata log that made it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct IndexId(pub u64);

impl fmt::Display for IndexId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// What a row is found by in an index: the hash of a value.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct IndexTerm {
    /// The index.
    pub index: IndexId,
    /// The hash. Two values may share it.
    pub hash: u64,
}

/// One client operation, however often it is sent: a UUIDv7. Ordered over all 128 bits, so that
/// "newest" is well defined.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct OpId(pub u128);

impl OpId {
    /// Builds a UUIDv7 from a wall-clock instant in milliseconds and 74 random bits (the rest of
    /// `random` is ignored).
    #[must_use]
    pub fn from_parts(unix_millis: u64, random: u128) -> Self {
        let bytes = random.to_be_bytes();
        let mut tail = [0u8; 10];
        tail.copy_from_slice(&bytes[6..]);
        Self(uuid::Builder::from_unix_timestamp_millis(unix_millis, &tail).into_uuid().as_u128())
    }
}

impl OpId {
    /// The time that is part of the id: milliseconds since the Unix epoch, by its maker's clock.
    #[must_use]
    pub fn unix_millis(self) -> u64 {
        (self.0 >> 80) as u64
    }
}

impl fmt::Display for OpId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&uuid::Uuid::from_u128(self.0), f)
    }
}

impl fmt::Debug for OpId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "op:{self}")
    }
}

impl FromStr for OpId {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        let bad = || ParseIdError { text: text.to_owned(), expected: "an operation id (a UUIDv7)" };
        let id = uuid::Uuid::parse_str(text).map_err(|_| bad())?;
        if id.get_version_num() == 7 && id.get_variant() == uuid::Variant::RFC4122 {
            Ok(Self(id.as_u128()))
        } else {
            Err(bad())
        }
    }
}

/// A Paxos round number: time first, so that later rounds tend to be greater; then the actor that
/// proposes (not the node: rule 16), so that no two proposers share one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Ballot {
    /// Hybrid-clock reading, in microseconds, made greater than any ballot seen.
    pub time: u64,
    /// The proposing actor.
    pub actor: ActorId,
}

impl Ballot {
    /// Below every ballot that a proposer uses.
    pub const ZERO: Self = Self { time: 0, actor: ActorId(0) };
}

impl fmt::Debug for Ballot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "b{}@{:?}", self.time, self.actor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn node_ids_differ_by_cluster_and_by_name_and_read_back() {
        let a = NodeId::derive("c", "n1");
        assert_ne!(a, NodeId::derive("c", "n2"));
        assert_ne!(a, NodeId::derive("d", "n1"));
        assert_eq!(a.to_string().parse(), Ok(a));
    }

    #[test]
    fn only_version_7_uuids_are_operation_ids() {
        let op = OpId::from_parts(1_700_000_000_000, 0x1234_5678_9abc_def0_1122_3344);
        assert_eq!(op.to_string().parse(), Ok(op));
        assert!("6ba7b810-9dad-11d1-80b4-00c04fd430c8".parse::<OpId>().is_err());
        assert!("nonsense".parse::<OpId>().is_err());
    }

    #[test]
    fn later_operation_ids_are_greater() {
        assert_eq!(OpId::from_parts(1_700_000_000_123, u128::MAX).unix_millis(), 1_700_000_000_123);
        assert!(OpId::from_parts(2, 0) > OpId::from_parts(1, u128::MAX));
    }
}
