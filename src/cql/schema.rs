//! Keyspaces' types and tables' columns as plain data, as the metadata log keeps them.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::cql::index::Index;
use crate::cql::types::{CqlType, UdtType};

/// The most columns that a table may ever have had.
pub const MAX_COLUMNS: usize = 2_000;

/// What a column is for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub enum Role {
    /// Part of the partition key, at this place.
    Partition(u16),
    /// Part of the clustering key, at this place.
    Clustering {
        /// The place.
        at: u16,
        /// In descending order.
        descending: bool,
    },
    /// One value for the whole partition.
    Static,
    /// A value of each row.
    Regular,
}

/// A column.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Column {
    /// Names its cells in storage. Never used again in its table, so that a column which is
    /// dropped and added again starts empty.
    pub id: u16,
    /// Its name.
    pub name: String,
    /// Its type.
    pub kind: CqlType,
    /// What it is for.
    pub role: Role,
}

impl Column {
    /// True of a column of the primary key.
    #[must_use]
    pub fn is_key(&self) -> bool {
        matches!(self.role, Role::Partition(_) | Role::Clustering { .. })
    }
}

/// A table's columns and options.
///
/// Invariants: names and ids are unique; the partition key is not empty; key places run from 0
/// without gaps; `columns` is in the order of [`Schema::new`].
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Schema {
    /// Partition key, clustering key, then all others by name: the order of `SELECT *`.
    columns: Vec<Column>,
    /// The next column's id.
    next_id: u16,
    /// A UUID that names the table to drivers.
    pub uuid: [u8; 16],
    /// Options as they were given: shown again, mostly without meaning here.
    pub options: BTreeMap<String, String>,
    /// Options whose value is a map.
    pub map_options: BTreeMap<String, BTreeMap<String, String>>,
    /// Time to live of cells that name none, in seconds; 0: for ever.
    pub default_ttl_s: u32,
    /// Its indexes, by id. They are entries of the metadata log of their own, which those who fold
    /// the log put here: what is written down of a schema has none.
    #[serde(skip)]
    indexes: Vec<Index>,
}

impl Schema {
    /// A schema of these columns (their ids are given here), which the caller has checked.
    #[must_use]
    pub fn new(columns: Vec<(String, CqlType, Role)>, uuid: [u8; 16]) -> Self {
        let mut schema = Self {
            columns: Vec::with_capacity(columns.len()),
            next_id: 0,
            uuid,
            options: BTreeMap::new(),
            map_options: BTreeMap::new(),
            default_ttl_s: 0,
            indexes: Vec::new(),
        };
        for (name, kind, role) in columns {
            schema.add(name, kind, role);
        }
        schema
    }

    /// Adds a column. False: there have been too many.
    pub fn add(&mut self, name: String, kind: CqlType, role: Role) -> bool {
        if usize::from(self.next_id) >= MAX_COLUMNS {
            return false;
        }
        let id = self.next_id;
        self.next_id += 1;
        self.columns.push(Column { id, name, kind, role });
        self.sort();
        true
    }

    fn sort(&mut self) {
        let class = |role: Role| match role {
            Role::Partition(at) => (0, at),
            Role::Clustering { at, .. } => (1, at),
            Role::Static => (2, 0),
            Role::Regular => (3, 0),
        };
        self.columns.sort_by(|a, b| (class(a.role), &a.name).cmp(&(class(b.role), &b.name)));
    }

    /// Takes a column away.
    pub fn remove(&mut self, name: &str) {
        self.columns.retain(|column| column.name != name);
    }

    /// Gives a column another name.
    pub fn rename(&mut self, old: &str, new: &str) {
        for column in &mut self.columns {
            if column.name == old {
                new.clone_into(&mut column.name);
            }
        }
        self.sort();
    }

    /// Brings every mention of a user type to its new version.
    pub fn renew_udt(&mut self, udt: &Arc<UdtType>) {
        for column in &mut self.columns {
            column.kind = column.kind.with_udt(udt);
        }
    }

    /// All columns: partition key, clustering key, static ones, others, each by place or name.
    #[must_use]
    pub fn columns(&self) -> &[Column] {
        &self.columns
    }

    /// Its indexes, by id.
    #[must_use]
    pub fn indexes(&self) -> &[Index] {
        &self.indexes
    }

    /// Adds an index.
    pub fn add_index(&mut self, index: Index) {
        let at = self.indexes.partition_point(|other| other.id < index.id);
        self.indexes.insert(at, index);
    }

    /// Takes the index called `name` away. False: there is none.
    pub fn remove_index(&mut self, name: &str) -> bool {
        let before = self.indexes.len();
        self.indexes.retain(|index| index.name != name);
        self.indexes.len() < before
    }

    /// Takes all indexes away.
    pub fn clear_indexes(&mut self) {
        self.indexes.clear();
    }

    /// This schema with the indexes of `other`, of those columns that are left.
    #[must_use]
    pub fn with_indexes_of(mut self, other: &Self) -> Self {
        self.indexes.clone_from(&other.indexes);
        let columns = &self.columns;
        self.indexes.retain(|index| columns.iter().any(|column| column.id == index.column));
        self
    }

    /// The column called `name`.
    #[must_use]
    pub fn column(&self, name: &str) -> Option<&Column> {
        self.columns.iter().find(|column| column.name == name)
    }

    /// The place of the column called `name` in [`Schema::columns`].
    #[must_use]
    pub fn place(&self, name: &str) -> Option<usize> {
        self.columns.iter().position(|column| column.name == name)
    }

    /// The partition key's columns.
    #[must_use]
    pub fn partition_key(&self) -> &[Column] {
        let end = self.columns.partition_point(|c| matches!(c.role, Role::Partition(_)));
        &self.columns[..end]
    }

    /// The clustering key's columns.
    #[must_use]
    pub fn clustering_key(&self) -> &[Column] {
        let start = self.partition_key().len();
        let end = self.columns.partition_point(Column::is_key);
        &self.columns[start..end]
    }

    /// The columns that are not part of the key.
    #[must_use]
    pub fn values(&self) -> &[Column] {
        let start = self.columns.partition_point(Column::is_key);
        &self.columns[start..]
    }

    /// True when some column is static.
    #[must_use]
    pub fn has_static(&self) -> bool {
        self.columns.iter().any(|column| column.role == Role::Static)
    }

    /// True of a table of counters.
    #[must_use]
    pub fn has_counters(&self) -> bool {
        self.columns.iter().any(|column| column.kind == CqlType::Counter)
    }

    /// True when names, ids and key places are as they must be; for schemas from outside.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        let mut names: Vec<&str> = self.columns.iter().map(|c| c.name.as_str()).collect();
        let mut ids: Vec<u16> = self.columns.iter().map(|c| c.id).collect();
        names.sort_unstable();
        ids.sort_unstable();
        let unique = names.is_sorted_by(|a, b| a < b) && ids.is_sorted_by(|a, b| a < b);
        let place = |column: &Column| match column.role {
            Role::Partition(at) | Role::Clustering { at, .. } => usize::from(at),
            Role::Static | Role::Regular => 0,
        };
        let in_order = |key: &[Column]| key.iter().enumerate().all(|(at, c)| place(c) == at);
        let bounded = self.columns.iter().all(|c| c.id < self.next_id && c.kind.depth() <= 40);
        unique
            && bounded
            && usize::from(self.next_id) <= MAX_COLUMNS
            && !self.partition_key().is_empty()
            && in_order(self.partition_key())
            && in_order(self.clustering_key())
            && self.columns.iter().filter(|c| c.is_key()).count()
                == self.partition_key().len() + self.clustering_key().len()
    }
}
