//! Keyspaces: what the tables of rows in them share.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::cql::types::UdtType;
use crate::meta::table::is_quoted_name;
use crate::ring::Replication;

/// The most keyspaces, and the most user types of one keyspace.
pub(super) const MAX_KEYSPACES: usize = 1_000;

/// The most fields of a user type, and the deepest nesting of types.
const MAX_FIELDS: usize = 500;
const MAX_DEPTH: usize = 40;

/// A keyspace that CQL has made. (A bucket has none: its settings are its own.)
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Keyspace {
    /// Its name.
    pub name: String,
    /// How many replicas its tables have, and where. For ever.
    pub replication: Replication,
    /// Said by its maker, and shown again; every write here is durable.
    pub durable_writes: bool,
    /// Its user types.
    pub types: BTreeMap<String, Arc<UdtType>>,
}

/// True of a user type that a node can keep.
pub(super) fn is_sound(udt: &UdtType) -> bool {
    let names = udt.fields.iter().all(|(name, _)| is_quoted_name(name));
    let depth = udt.fields.iter().all(|(_, kind)| kind.depth() <= MAX_DEPTH);
    let count = (1..=MAX_FIELDS).contains(&udt.fields.len());
    is_quoted_name(&udt.keyspace) && is_quoted_name(&udt.name) && names && depth && count
}
