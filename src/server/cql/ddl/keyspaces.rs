//! CREATE and ALTER KEYSPACE.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::{Plan, change, check_name, find, not_system};
use crate::cql::ast::Property;
use crate::meta::{ClusterState, Command, Keyspace};
use crate::server::cql::error::CqlError;
use crate::server::cql::options;

pub(super) fn create(
    state: &ClusterState,
    name: &str,
    if_not_exists: bool,
    properties: &[(String, Property)],
) -> Result<Plan, CqlError> {
    not_system(name)?;
    check_name("Keyspace", name)?;
    if state.keyspaces().contains_key(name) {
        return if if_not_exists { Ok(Plan::Nothing) } else { Err(CqlError::exists(name, "")) };
    }
    let (replication, durable_writes) = options::keyspace(properties, &datacenters(state))?;
    let missing = || {
        CqlError::new(
            crate::server::cql::error::CONFIG,
            "Missing mandatory replication strategy class",
        )
    };
    let keyspace = Keyspace {
        name: name.to_owned(),
        replication: replication.ok_or_else(missing)?,
        durable_writes: durable_writes.unwrap_or(true),
        types: std::collections::BTreeMap::new(),
    };
    let command = Command::CreateKeyspace(Arc::new(keyspace));
    Ok(Plan::Do(Box::new(command), change("CREATED", "KEYSPACE", name, "")))
}

fn datacenters(state: &ClusterState) -> Vec<String> {
    let all: BTreeSet<String> =
        state.members().values().map(|member| member.member.datacenter.clone()).collect();
    all.into_iter().collect()
}

pub(super) fn alter(
    state: &ClusterState,
    name: &str,
    if_exists: bool,
    properties: &[(String, Property)],
) -> Result<Plan, CqlError> {
    not_system(name)?;
    if !state.keyspaces().contains_key(name) && if_exists {
        return Ok(Plan::Nothing);
    }
    let old = find(state, name)?;
    let (replication, durable_writes) = options::keyspace(properties, &datacenters(state))?;
    if replication.is_some_and(|new| new != old.replication) {
        return Err(CqlError::invalid(
            "a keyspace's replication cannot be changed yet: make another keyspace and copy",
        ));
    }
    let durable_writes = durable_writes.unwrap_or(old.durable_writes);
    let command = Command::AlterKeyspace { name: name.to_owned(), durable_writes };
    Ok(Plan::Do(Box::new(command), change("UPDATED", "KEYSPACE", name, "")))
}
