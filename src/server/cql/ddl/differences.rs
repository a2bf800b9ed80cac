//! What differs between two states of the schema.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::change;
use crate::meta::{ClusterState, Table};
use crate::server::cql::buckets;
use crate::server::cql::response::SchemaChange;

/// What differs between two states, as events: for drivers that keep a copy of the schema.
pub(in crate::server::cql) fn differences(
    old: &ClusterState,
    new: &ClusterState,
) -> Vec<SchemaChange> {
    let mut out = Vec::new();
    // Those that there are for their buckets alone come and go with these.
    let (was, is) = (buckets::keyspaces(old), buckets::keyspaces(new));
    let is_known = |name: &str| old.keyspaces().contains_key(name) || was.contains_key(name);
    let stays = |name: &str| new.keyspaces().contains_key(name) || is.contains_key(name);
    out.extend(
        is.keys()
            .filter(|name| !is_known(name))
            .map(|name| change("CREATED", "KEYSPACE", name, "")),
    );
    out.extend(
        was.keys().filter(|name| !stays(name)).map(|name| change("DROPPED", "KEYSPACE", name, "")),
    );
    let keyspaces: BTreeSet<&String> =
        old.keyspaces().keys().chain(new.keyspaces().keys()).collect();
    for keyspace in keyspaces {
        match (old.keyspaces().get(keyspace), new.keyspaces().get(keyspace)) {
            (None, Some(_)) => out.push(change("CREATED", "KEYSPACE", keyspace, "")),
            (Some(_), None) => out.push(change("DROPPED", "KEYSPACE", keyspace, "")),
            (Some(a), Some(b)) => {
                if (&a.replication, a.durable_writes) != (&b.replication, b.durable_writes) {
                    out.push(change("UPDATED", "KEYSPACE", keyspace, ""));
                }
            }
            (None, None) => {}
        }
        let types = |state: &ClusterState| {
            state.keyspaces().get(keyspace).map(|k| k.types.clone()).unwrap_or_default()
        };
        let (a, b) = (types(old), types(new));
        for name in a.keys().chain(b.keys()).collect::<BTreeSet<_>>() {
            if let Some(word) = word(a.get(name), b.get(name), |a, b| a == b) {
                out.push(change(word, "TYPE", keyspace, name));
            }
        }
    }
    let tables = |state: &ClusterState| {
        state
            .tables()
            .values()
            .map(|table| (table.name.clone(), table.clone()))
            .collect::<std::collections::BTreeMap<_, _>>()
    };
    let (a, b) = (tables(old), tables(new));
    for name in a.keys().chain(b.keys()).collect::<BTreeSet<_>>() {
        let same = |a: &Arc<Table>, b: &Arc<Table>| (a.id, a.version) == (b.id, b.version);
        if let Some(word) = word(a.get(name), b.get(name), same) {
            out.push(change(word, "TABLE", &name.keyspace, &name.table));
        }
    }
    out
}

fn word<T>(
    old: Option<&T>,
    new: Option<&T>,
    same: impl Fn(&T, &T) -> bool,
) -> Option<&'static str> {
    match (old, new) {
        (None, Some(_)) => Some("CREATED"),
        (Some(_), None) => Some("DROPPED"),
        (Some(old), Some(new)) if !same(old, new) => Some("UPDATED"),
        _ => None,
    }
}
