//! Tables: what they are called and how they behave.

use std::fmt;
use std::str::FromStr;

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::cql::schema::Schema;
use crate::record::RecordKind;
use crate::ring::Replication;
use crate::types::{Consistency, Epoch, TableId};

/// How concurrent writes of one key meet.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ConflictMode {
    /// Every concurrent value is kept until a reader resolves them.
    #[default]
    Siblings,
    /// The newest wins.
    Lww,
    /// Every write goes through Paxos: there are no concurrent values.
    Strong,
}

impl fmt::Display for ConflictMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Siblings => "siblings",
            Self::Lww => "lww",
            Self::Strong => "strong",
        })
    }
}

/// A name that is not one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no name: use a lower-case letter, then up to 47 lower-case letters, digits or \
     underscores (keyspace.table for a table that is not a bucket)"
)]
pub struct NameError(pub String);

/// The full name of a table. The HTTP bucket `b` is table `kv` of keyspace `b`; any other table is
/// written `keyspace.table`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct TableName {
    /// The keyspace.
    pub keyspace: String,
    /// The table.
    pub table: String,
}

/// The keyspace of the tables that nodes keep for themselves, beside the bucket of that name.
pub const SYSTEM_KEYSPACE: &str = "henge";

/// The table that a bucket is in its keyspace.
const BUCKET_TABLE: &str = "kv";

/// Names that CQL gives in quotes may have capitals, and begin with anything.
pub(super) fn is_quoted_name(text: &str) -> bool {
    (1..=48).contains(&text.len()) && text.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'_')
}

fn is_name(text: &str) -> bool {
    let mut chars = text.bytes();
    chars.next().is_some_and(|first| first.is_ascii_lowercase())
        && text.len() <= 48
        && chars.all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'_')
}

impl TableName {
    /// True of a name that parsing gives; one that was decoded may be anything.
    pub(super) fn is_well_formed(&self) -> bool {
        is_name(&self.keyspace) && is_name(&self.table)
    }

    /// A table that the nodes keep for themselves.
    #[must_use]
    pub fn system(table: &'static str) -> Self {
        Self { keyspace: SYSTEM_KEYSPACE.to_owned(), table: table.to_owned() }
    }

    /// True of a table that the nodes keep for themselves: read as any other, written by no client.
    #[must_use]
    pub fn is_system(&self) -> bool {
        self.keyspace == SYSTEM_KEYSPACE && self.table != BUCKET_TABLE
    }

    /// The table that the bucket `name` is.
    ///
    /// # Errors
    /// [`NameError`].
    pub fn bucket(name: &str) -> Result<Self, NameError> {
        if is_name(name) {
            Ok(Self { keyspace: name.to_owned(), table: BUCKET_TABLE.to_owned() })
        } else {
            Err(NameError(name.chars().take(100).collect()))
        }
    }
}

impl FromStr for TableName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let (keyspace, table) = text.split_once('.').unwrap_or((text, BUCKET_TABLE));
        if is_name(keyspace) && is_name(table) {
            Ok(Self { keyspace: keyspace.to_owned(), table: table.to_owned() })
        } else {
            Err(NameError(text.chars().take(100).collect()))
        }
    }
}

impl fmt::Display for TableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.table == BUCKET_TABLE {
            f.write_str(&self.keyspace)
        } else {
            write!(f, "{}.{}", self.keyspace, self.table)
        }
    }
}

/// How a table behaves.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct TableSettings {
    /// How many replicas each key has, and where. For ever.
    pub replication: Replication,
    /// How concurrent writes meet. For ever.
    pub conflict: ConflictMode,
    /// Level of reads that name none.
    pub read_level: Consistency,
    /// Level of writes that name none.
    pub write_level: Consistency,
    /// Time to live of values that name none, in seconds; 0: for ever.
    pub ttl_s: u64,
    /// The most live values of one key that a write may leave; 0: no bound.
    pub max_siblings: u32,
    /// Whether other nodes may stand in for replicas that are away.
    pub sloppy: bool,
    /// How long deleted and expired records are kept at least before they are purged, in seconds.
    /// Longer than anyone may repeat an operation that the deletion covers.
    pub grace_s: u64,
}

impl TableSettings {
    /// The settings of a table of which nothing is said but its replication.
    #[must_use]
    pub fn new(replication: Replication) -> Self {
        Self {
            replication,
            conflict: ConflictMode::Siblings,
            read_level: Consistency::Quorum,
            write_level: Consistency::Quorum,
            ttl_s: 0,
            max_siblings: 64,
            sloppy: false,
            grace_s: 10 * 24 * 3600,
        }
    }

    /// The settings of a bucket of which nothing is said, in a cluster of `nodes` nodes.
    #[must_use]
    pub fn bucket(nodes: usize) -> Self {
        Self::new(Replication::Simple { factor: nodes.clamp(1, 3) as u8 })
    }

    /// True when `self` differs from `other` only in what may be altered.
    #[must_use]
    pub fn may_become(&self, other: &Self) -> bool {
        self.replication == other.replication && self.conflict == other.conflict
    }
}

/// A table.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Table {
    /// Its id, never used again once it is dropped.
    pub id: TableId,
    /// Its name.
    pub name: TableName,
    /// How it behaves.
    pub settings: TableSettings,
    /// The entry of the log that set its settings or columns last.
    pub version: Epoch,
    /// Its columns, if its records are rows of cells; `None`: they are values.
    pub rows: Option<Arc<Schema>>,
}

impl Table {
    /// The kind of record that the table's rows are.
    #[must_use]
    pub fn record_kind(&self) -> RecordKind {
        match self.settings.conflict {
            _ if self.rows.is_some() => RecordKind::Row,
            ConflictMode::Siblings | ConflictMode::Strong => RecordKind::Siblings,
            ConflictMode::Lww => RecordKind::Lww,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_is_table_kv_of_its_keyspace() {
        let name: TableName = "cart".parse().unwrap();
        assert_eq!((name.keyspace.as_str(), name.table.as_str()), ("cart", "kv"));
        assert_eq!(name.to_string(), "cart");
        let name: TableName = "shop.cart".parse().unwrap();
        assert_eq!(name.to_string(), "shop.cart");
    }

    #[test]
    fn names_are_checked() {
        let long = "a".repeat(49);
        for bad in ["", "Cart", "1cart", "_c", "ca-rt", "a.b.c", ".a", "a.", "é", long.as_str()] {
            assert!(bad.parse::<TableName>().is_err(), "{bad}");
        }
        assert!("a".repeat(48).parse::<TableName>().is_ok());
    }
}
