//! Increments of counters, and what else is not possible with them.

use std::collections::BTreeMap;

use super::change::Change;
use super::{Kind, Modify, RowKey};
use crate::cql::schema::{Role, Schema};
use crate::cql::term::{Binds, Bound, evaluate};
use crate::cql::value;

/// What to add to counters, by row and column.
pub type Counts = BTreeMap<RowKey, BTreeMap<u16, i64>>;

impl Modify {
    /// What is not possible with counters.
    pub(super) fn check_counters(&self) -> Result<(), String> {
        let refuse = |what: &str| Err(what.to_owned());
        if self.kind == Kind::Insert {
            return refuse(
                "INSERT statements are not allowed on counter tables, use UPDATE instead",
            );
        }
        if self.condition.is_some() {
            return refuse("Conditional updates are not supported on counter tables");
        }
        if self.using.timestamp.is_some() {
            return refuse("Cannot provide custom timestamp for counter updates");
        }
        if self.using.ttl.is_some() {
            return refuse("Cannot provide custom TTL for counter updates");
        }
        let counts = |change: &Change| matches!(change, Change::Append(_) | Change::Subtract(_));
        if self.kind == Kind::Update && !self.changes.iter().all(|(_, change)| counts(change)) {
            return refuse("Cannot set the value of counter columns: they are added to");
        }
        Ok(())
    }

    /// True of increments of counters: see [`Modify::counts`].
    #[must_use]
    pub fn is_count(&self, schema: &Schema) -> bool {
        self.kind == Kind::Update && schema.has_counters()
    }

    /// What to add to which counters.
    ///
    /// # Errors
    /// A sentence for the client.
    pub fn counts(&self, schema: &Schema, binds: Binds<'_>) -> Result<Counts, String> {
        let mut counts = Counts::new();
        for (partition, clustering) in self.keys(schema, binds)? {
            for (place, change) in &self.changes {
                let column = &schema.columns()[*place];
                let (term, sign) = match change {
                    Change::Append(term) => (term, 1_i64),
                    Change::Subtract(term) => (term, -1),
                    _ => continue,
                };
                let add = match evaluate(term, &column.kind, binds)? {
                    Bound::Value(bytes) => value::integer(&bytes),
                    Bound::Unset => continue,
                    Bound::Null => None,
                };
                let Some(add) = add else {
                    return Err("Invalid null value for counter increment".to_owned());
                };
                let clustering = match column.role {
                    Role::Static => Vec::new(),
                    _ => clustering.clone(),
                };
                let row = counts.entry((partition.clone(), clustering)).or_default();
                let sum = row.entry(column.id).or_default();
                *sum = sum.wrapping_add(add.wrapping_mul(sign));
            }
        }
        Ok(counts)
    }
}
