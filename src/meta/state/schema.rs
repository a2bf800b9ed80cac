//! Keyspaces, user types and tables of rows.

use std::sync::Arc;

use crate::cql::index::Index;
use crate::cql::roles::Resource;
use crate::cql::schema::Schema;
use crate::cql::types::UdtType;
use crate::meta::keyspace::MAX_KEYSPACES;
use crate::meta::{Command, ConflictMode, Keyspace, NotDone, TableName, TableSettings, Verdict};
use crate::types::{IndexId, TableId};

use super::{ClusterState, indexes};

pub(super) fn carry_out(state: &mut ClusterState, command: &Command) -> Result<Verdict, NotDone> {
    match command {
        Command::CreateKeyspace(keyspace) => create_keyspace(state, keyspace),
        Command::AlterKeyspace { name, durable_writes } => {
            keyspace_mut(state, name)?.durable_writes = *durable_writes;
            Ok(Verdict::Done)
        }
        Command::DropKeyspace { name } => drop_keyspace(state, name),
        Command::CreateRows { name, schema } => create_rows(state, name, schema),
        Command::AlterRows { id, expected, schema } => {
            let epoch = state.epoch;
            let table = state.tables.get_mut(id).filter(|table| table.rows.is_some());
            let table = table.ok_or(NotDone::NoSuchTable)?;
            if table.version != *expected {
                return Err(NotDone::TableChanged { version: table.version });
            }
            let table = Arc::make_mut(table);
            let mut schema = (**schema).clone();
            if let Some(old) = &table.rows {
                schema = schema.with_indexes_of(old);
            }
            table.rows = Some(Arc::new(schema));
            table.version = epoch;
            Ok(Verdict::Done)
        }
        Command::Truncate { id } => {
            let table = state.tables.get(id).filter(|table| !table.name.is_system()).cloned();
            let table = table.ok_or(NotDone::NoSuchTable)?;
            state.drop_table(*id)?;
            state.create(&table.name, &table.settings, table.rows.clone())
        }
        Command::CreateType(udt) => {
            let types = &mut keyspace_mut(state, &udt.keyspace)?.types;
            if types.len() >= MAX_KEYSPACES {
                return Err(NotDone::OutOfBounds("too many user types".to_owned()));
            }
            match types.contains_key(&udt.name) {
                true => Err(NotDone::TypeExists),
                false => {
                    types.insert(udt.name.clone(), udt.clone());
                    Ok(Verdict::Done)
                }
            }
        }
        Command::AlterType { expected, new } => alter_type(state, expected, new),
        Command::DropType { keyspace, name } => drop_type(state, keyspace, name),
        Command::CreateIndex { table, expected, name, column, part, class } => {
            let index = Index {
                id: IndexId(state.epoch.0),
                name: name.clone(),
                column: *column,
                part: *part,
                class: class.clone(),
            };
            indexes::create(state, *table, *expected, index)
        }
        Command::DropIndex { table, name } => indexes::drop(state, *table, name),
        _ => Ok(Verdict::Done),
    }
}

fn keyspace_mut<'a>(state: &'a mut ClusterState, name: &str) -> Result<&'a mut Keyspace, NotDone> {
    state.keyspaces.get_mut(name).map(Arc::make_mut).ok_or(NotDone::NoSuchKeyspace)
}

fn create_keyspace(state: &mut ClusterState, keyspace: &Arc<Keyspace>) -> Result<Verdict, NotDone> {
    if state.keyspaces.contains_key(&keyspace.name) {
        return Err(NotDone::KeyspaceExists);
    }
    if state.keyspaces.len() >= MAX_KEYSPACES {
        return Err(NotDone::OutOfBounds(format!("{MAX_KEYSPACES} keyspaces are allowed")));
    }
    state.keyspaces.insert(keyspace.name.clone(), keyspace.clone());
    Ok(Verdict::Done)
}

fn drop_keyspace(state: &mut ClusterState, name: &str) -> Result<Verdict, NotDone> {
    state.keyspaces.remove(name).ok_or(NotDone::NoSuchKeyspace)?;
    let ids = state.names.get(name).into_iter().flatten().map(|(_, id)| *id);
    let is_theirs = |id: &TableId| state.table(*id).is_some_and(|t| !t.name.is_system());
    for id in ids.filter(is_theirs).collect::<Vec<_>>() {
        state.drop_table(id)?;
    }
    state.forget(&Resource::Keyspace(name.to_owned()));
    Ok(Verdict::Done)
}

fn create_rows(
    state: &mut ClusterState,
    name: &TableName,
    schema: &Arc<Schema>,
) -> Result<Verdict, NotDone> {
    let keyspace = state.keyspaces.get(&name.keyspace).ok_or(NotDone::NoSuchKeyspace)?;
    let settings = TableSettings {
        conflict: ConflictMode::Lww,
        ..TableSettings::new(keyspace.replication.clone())
    };
    state.create(name, &settings, Some(schema.clone()))
}

fn alter_type(
    state: &mut ClusterState,
    expected: &Arc<UdtType>,
    new: &Arc<UdtType>,
) -> Result<Verdict, NotDone> {
    let keyspace = keyspace_mut(state, &new.keyspace)?;
    // The new version has every field of the old one at its place.
    let grows = new.fields.len() >= expected.fields.len()
        && expected.fields.iter().zip(&new.fields).all(|(old, new)| old.1 == new.1);
    if keyspace.types.get(&new.name) != Some(expected) || new.name != expected.name || !grows {
        return Err(NotDone::NoSuchType);
    }
    keyspace.types.insert(new.name.clone(), new.clone());
    for udt in keyspace.types.values_mut() {
        if udt.name != new.name {
            let fields = udt.fields.iter().map(|(name, kind)| (name.clone(), kind.with_udt(new)));
            *udt = Arc::new(UdtType { fields: fields.collect(), ..(**udt).clone() });
        }
    }
    let epoch = state.epoch;
    for table in state.tables.values_mut() {
        let Some(schema) = &table.rows else { continue };
        let mentions = |kind: &crate::cql::types::CqlType| kind.mentions(&new.keyspace, &new.name);
        if schema.columns().iter().any(|column| mentions(&column.kind)) {
            let mut schema = (**schema).clone();
            schema.renew_udt(new);
            let table = Arc::make_mut(table);
            table.rows = Some(Arc::new(schema));
            table.version = epoch;
        }
    }
    Ok(Verdict::Done)
}

fn drop_type(state: &mut ClusterState, keyspace: &str, name: &str) -> Result<Verdict, NotDone> {
    let types = &keyspace_mut(state, keyspace)?.types;
    if !types.contains_key(name) {
        return Err(NotDone::NoSuchType);
    }
    let user = types.values().find(|udt| {
        udt.name != name && udt.fields.iter().any(|(_, kind)| kind.mentions(keyspace, name))
    });
    if let Some(user) = user {
        return Err(NotDone::TypeInUse(user.name.clone()));
    }
    let user = state.tables.values().find(|table| {
        let columns = table.rows.iter().flat_map(|schema| schema.columns());
        columns.into_iter().any(|column| column.kind.mentions(keyspace, name))
    });
    if let Some(user) = user {
        return Err(NotDone::TypeInUse(user.name.to_string()));
    }
    keyspace_mut(state, keyspace)?.types.remove(name);
    Ok(Verdict::Done)
}
