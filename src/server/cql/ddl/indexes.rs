//! CREATE INDEX and DROP INDEX.

use std::sync::Arc;

use super::{Plan, change, check_name};
use crate::cql::ast::CreateIndex;
use crate::cql::index::{Index, MAX_INDEXES, part_of};
use crate::cql::schema::Schema;
use crate::meta::{ClusterState, Command, Table};
use crate::server::cql::error::{CONFIG, CqlError};

/// Classes of Cassandra's indexes whose statements are taken for our own kind of index, which
/// answers `=` and CONTAINS.
const CLASSES: [&str; 4] = [
    "sai",
    "storageattachedindex",
    "org.apache.cassandra.index.sai.storageattachedindex",
    "legacy_local_table",
];

/// The indexes of a keyspace, each with its table.
pub(in crate::server::cql) fn of_keyspace<'a, 'b>(
    state: &'a ClusterState,
    keyspace: &'b str,
) -> impl Iterator<Item = (&'a Arc<Table>, &'a Arc<Schema>, &'a Index)> + use<'a, 'b> {
    let tables = state.tables().values().filter(move |table| table.name.keyspace == keyspace);
    tables
        .filter_map(|table| Some((table, table.rows.as_ref()?)))
        .flat_map(|(table, schema)| schema.indexes().iter().map(move |i| (table, schema, i)))
}

fn check_class(create: &CreateIndex) -> Result<(), CqlError> {
    let Some(class) = &create.class else {
        return if create.custom {
            Err(CqlError::invalid("CUSTOM index requires specifying the index class"))
        } else {
            Ok(())
        };
    };
    if !CLASSES.contains(&class.to_ascii_lowercase().as_str()) {
        return Err(CqlError::new(
            CONFIG,
            format!(
                "Unable to find custom indexer class '{class}': leave USING out, or write 'sai'"
            ),
        ));
    }
    match create.options.first() {
        Some((name, _)) => Err(CqlError::invalid(format!(
            "the option {name} of an index is not supported: values are found as they are"
        ))),
        None => Ok(()),
    }
}

/// `t_col_idx`, or with a number behind it if that is taken.
fn free_name(state: &ClusterState, table: &Table, column: &str) -> String {
    // A name has 48 characters at most, and a number may follow.
    let stem: String = format!("{}_{column}", table.name.table).chars().take(40).collect();
    let base = format!("{stem}_idx");
    let taken = |name: &str| of_keyspace(state, &table.name.keyspace).any(|(.., i)| i.name == name);
    let numbered = (1..).map(|n: u32| format!("{base}_{n}"));
    std::iter::once(base.clone()).chain(numbered).find(|name| !taken(name)).unwrap_or(base)
}

pub(super) fn create(
    state: &ClusterState,
    table: &Arc<Table>,
    schema: &Schema,
    create: &CreateIndex,
) -> Result<Plan, CqlError> {
    check_class(create)?;
    let column = schema.column(&create.column).ok_or_else(|| {
        CqlError::invalid(format!(
            "Undefined column name {} in table {}",
            create.column, table.name
        ))
    })?;
    if schema.has_counters() {
        return Err(CqlError::invalid("Secondary indexes are not supported on counter tables"));
    }
    let part = part_of(schema, column, create.part).map_err(CqlError::invalid)?;
    let keyspace = &table.name.keyspace;
    let name = match &create.name {
        Some(name) => {
            check_name("Index", name)?;
            name.clone()
        }
        None => free_name(state, table, &column.name),
    };
    if let Some((.., index)) = of_keyspace(state, keyspace).find(|(.., i)| i.name == name) {
        return exists(create, format!("Index '{}' already exists", index.name));
    }
    let twin = schema.indexes().iter().find(|i| i.column == column.id && i.part == part);
    if let Some(twin) = twin {
        return exists(
            create,
            format!("Index {name} is a duplicate of existing index {}", twin.name),
        );
    }
    if schema.indexes().len() >= MAX_INDEXES {
        return Err(CqlError::invalid(format!("a table has {MAX_INDEXES} indexes at most")));
    }
    let command = Command::CreateIndex {
        table: table.id,
        expected: table.version,
        name,
        column: column.id,
        part,
        class: create.class.clone(),
    };
    let updated = change("UPDATED", "TABLE", keyspace, &table.name.table);
    Ok(Plan::Do(Box::new(command), updated))
}

fn exists(create: &CreateIndex, why: String) -> Result<Plan, CqlError> {
    if create.if_not_exists { Ok(Plan::Nothing) } else { Err(CqlError::invalid(why)) }
}

pub(super) fn drop(
    state: &ClusterState,
    keyspace: &str,
    name: &str,
    if_exists: bool,
) -> Result<Plan, CqlError> {
    let Some((table, ..)) = of_keyspace(state, keyspace).find(|(.., i)| i.name == name) else {
        if if_exists {
            return Ok(Plan::Nothing);
        }
        return Err(CqlError::invalid(format!("Index '{keyspace}.{name}' doesn't exist")));
    };
    let command = Command::DropIndex { table: table.id, name: name.to_owned() };
    let updated = change("UPDATED", "TABLE", keyspace, &table.name.table);
    Ok(Plan::Do(Box::new(command), updated))
}
