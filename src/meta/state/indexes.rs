//! Indexes of tables of rows, in the fold of the log.

use std::sync::Arc;

use crate::cql::index::{Index, MAX_INDEXES};
use crate::meta::{ClusterState, NotDone, Table, Verdict};
use crate::types::{Epoch, TableId};

/// Gives a table the index, whose column there must be and whose name its keyspace must not have.
pub(super) fn create(
    state: &mut ClusterState,
    table: TableId,
    expected: Epoch,
    index: Index,
) -> Result<Verdict, NotDone> {
    let epoch = state.epoch;
    let keyspace = state.tables.get(&table).map(|table| &table.name.keyspace);
    let keyspace = keyspace.ok_or(NotDone::NoSuchTable)?;
    let named = |table: &Arc<Table>| {
        let indexes = table.rows.iter().flat_map(|schema| schema.indexes());
        table.name.keyspace == *keyspace && indexes.into_iter().any(|i| i.name == index.name)
    };
    if state.tables.values().any(named) {
        return Err(NotDone::IndexExists);
    }
    let table = state.tables.get_mut(&table).ok_or(NotDone::NoSuchTable)?;
    let mut schema = table.rows.as_deref().cloned().ok_or(NotDone::NoSuchTable)?;
    if table.version != expected {
        return Err(NotDone::TableChanged { version: table.version });
    }
    if !schema.columns().iter().any(|column| column.id == index.column) {
        return Err(NotDone::OutOfBounds("an index of a column that is none".to_owned()));
    }
    if schema.indexes().len() >= MAX_INDEXES {
        return Err(NotDone::OutOfBounds(format!("{MAX_INDEXES} indexes of a table are allowed")));
    }
    schema.add_index(index);
    let table = Arc::make_mut(table);
    table.rows = Some(Arc::new(schema));
    table.version = epoch;
    Ok(Verdict::Done)
}

/// Takes an index from its table.
pub(super) fn drop(
    state: &mut ClusterState,
    table: TableId,
    name: &str,
) -> Result<Verdict, NotDone> {
    let epoch = state.epoch;
    let table = state.tables.get_mut(&table).ok_or(NotDone::NoSuchIndex)?;
    let mut schema = table.rows.as_deref().cloned().ok_or(NotDone::NoSuchIndex)?;
    if !schema.remove_index(name) {
        return Err(NotDone::NoSuchIndex);
    }
    let table = Arc::make_mut(table);
    table.rows = Some(Arc::new(schema));
    table.version = epoch;
    Ok(Verdict::Done)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cql::index::IndexPart;
    use crate::cql::types::CqlType;
    use crate::meta::Command;
    use crate::meta::fixture::{apply, founded, with_rows};

    /// A cluster with the table `shop.t (k, v, w)`.
    fn state() -> (ClusterState, TableId) {
        let mut state = founded(&["n1"]);
        let columns = ["k", "v", "w"].map(|name| (name, CqlType::Int));
        let table = with_rows(&mut state, ("shop", "t"), &columns);
        (state, table)
    }

    fn names(state: &ClusterState, table: TableId) -> Vec<String> {
        let schema = state.table(table).unwrap().rows.clone().unwrap();
        schema.indexes().iter().map(|index| index.name.clone()).collect()
    }

    fn create(state: &ClusterState, table: TableId, name: &str) -> Command {
        let table = state.table(table).unwrap();
        Command::CreateIndex {
            table: table.id,
            expected: table.version,
            name: name.to_owned(),
            column: table.rows.as_ref().unwrap().column("v").unwrap().id,
            part: IndexPart::Value,
            class: None,
        }
    }

    #[test]
    fn an_index_stays_with_its_table_until_it_or_its_column_is_dropped() {
        let (mut state, id) = state();
        let command = create(&state, id, "i");
        assert_eq!(apply(&mut state, command.clone()), Verdict::Done);
        assert_eq!(apply(&mut state, command), Verdict::NotDone(NotDone::IndexExists));
        let table = state.table(id).unwrap().clone();
        let mut schema = (**table.rows.as_ref().unwrap()).clone();
        schema.remove("w");
        let alter =
            Command::AlterRows { id, expected: table.version, schema: Arc::new(schema.clone()) };
        assert_eq!(apply(&mut state, alter), Verdict::Done);
        assert_eq!(names(&state, id), ["i"], "whoever alters columns says nothing of indexes");
        let renewed = apply(&mut state, Command::Truncate { id });
        let Verdict::Created(id) = renewed else { panic!("{renewed:?}") };
        assert_eq!(names(&state, id), ["i"]);
        schema.remove("v");
        let expected = state.table(id).unwrap().version;
        let alter = Command::AlterRows { id, expected, schema: Arc::new(schema) };
        assert_eq!(apply(&mut state, alter), Verdict::Done);
        assert!(names(&state, id).is_empty(), "its column is gone");
    }

    #[test]
    fn a_dropped_index_never_returns_under_its_old_id() {
        let (mut state, table) = state();
        let command = create(&state, table, "i");
        assert_eq!(apply(&mut state, command), Verdict::Done);
        let old = state.table(table).unwrap().rows.as_ref().unwrap().indexes()[0].id;
        let drop = || Command::DropIndex { table, name: "i".to_owned() };
        assert_eq!(apply(&mut state, drop()), Verdict::Done);
        assert_eq!(apply(&mut state, drop()), Verdict::NotDone(NotDone::NoSuchIndex));
        let command = create(&state, table, "i");
        assert_eq!(apply(&mut state, command), Verdict::Done);
        assert!(state.table(table).unwrap().rows.as_ref().unwrap().indexes()[0].id > old);
    }

    #[test]
    fn a_change_of_the_table_that_came_first_is_told_to_the_one_who_plans_an_index() {
        let (mut state, table) = state();
        let (first, second) = (create(&state, table, "i"), create(&state, table, "j"));
        assert_eq!(apply(&mut state, first), Verdict::Done);
        let version = state.epoch();
        let overtaken = Verdict::NotDone(NotDone::TableChanged { version });
        assert_eq!(apply(&mut state, second), overtaken);
    }
}
