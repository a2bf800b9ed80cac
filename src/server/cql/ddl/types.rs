//! CREATE and ALTER TYPE.

use std::sync::Arc;

use super::{Plan, change, check_name, find, resolve};
use crate::cql::ast::AlterType;
use crate::cql::types::{CqlType, RawType, UdtType};
use crate::meta::{ClusterState, Command, Table};
use crate::server::cql::error::CqlError;
use crate::server::cql::statement::udt;

pub(super) fn create(
    state: &ClusterState,
    keyspace: &str,
    name: &str,
    if_not_exists: bool,
    fields: &[(String, RawType)],
) -> Result<Plan, CqlError> {
    find(state, keyspace)?;
    check_name("Type", name)?;
    if udt(state, keyspace, name).is_some() {
        if if_not_exists {
            return Ok(Plan::Nothing);
        }
        return Err(CqlError::invalid(format!("A user type with name '{name}' already exists")));
    }
    if CqlType::native(name).is_some() {
        return Err(CqlError::invalid(format!("{name} is a type already")));
    }
    let udt = UdtType {
        keyspace: keyspace.to_owned(),
        name: name.to_owned(),
        fields: typed_fields(state, keyspace, &[], fields)?,
    };
    let created = change("CREATED", "TYPE", keyspace, name);
    Ok(Plan::Do(Box::new(Command::CreateType(Arc::new(udt))), created))
}

fn typed_fields(
    state: &ClusterState,
    keyspace: &str,
    before: &[(String, CqlType)],
    fields: &[(String, RawType)],
) -> Result<Vec<(String, CqlType)>, CqlError> {
    let mut out = before.to_vec();
    for (name, raw) in fields {
        check_name("Field", name)?;
        if out.iter().any(|(other, _)| other == name) {
            return Err(CqlError::invalid(format!("Duplicate field name '{name}' in type")));
        }
        let mut kind = resolve(state, keyspace, raw)?;
        if kind.is_collection() {
            // A field is one value, whether that is written or not.
            kind = kind.frozen();
        }
        if kind.is_multicell() {
            return Err(CqlError::invalid(format!(
                "A user type cannot contain non-frozen UDTs: write frozen<{kind}>"
            )));
        }
        if kind == CqlType::Counter {
            return Err(CqlError::invalid("A user type cannot contain counters"));
        }
        out.push((name.clone(), kind));
    }
    Ok(out)
}

pub(super) fn alter(
    state: &ClusterState,
    keyspace: &str,
    name: &str,
    if_exists: bool,
    alteration: &AlterType,
) -> Result<Plan, CqlError> {
    let Some(expected) = udt(state, keyspace, name) else {
        if if_exists {
            return Ok(Plan::Nothing);
        }
        return Err(CqlError::invalid(format!("Type '{keyspace}.{name}' doesn't exist")));
    };
    let mut new = (*expected).clone();
    match alteration {
        AlterType::Add { fields, if_not_exists } => {
            // The bytes of a partition key are its identity: a field more would make them others.
            let in_key = |table: &&Arc<Table>| {
                let key = table.rows.iter().flat_map(|schema| schema.partition_key());
                key.into_iter().any(|column| column.kind.mentions(keyspace, name))
            };
            let tables = state.tables().values().filter(in_key);
            let tables: Vec<_> = tables.map(|table| table.name.table.as_str()).collect();
            if !tables.is_empty() {
                return Err(CqlError::invalid(format!(
                    "Cannot add new field to user type {keyspace}.{name} as the type is being used \
                     in partition key by the following tables: {}",
                    tables.join(", ")
                )));
            }
            let is_new = |(name, _): &&(String, RawType)| {
                !*if_not_exists || new.fields.iter().all(|(own, _)| own != name)
            };
            let fields: Vec<_> = fields.iter().filter(is_new).cloned().collect();
            new.fields = typed_fields(state, keyspace, &new.fields, &fields)?;
        }
        AlterType::Rename { names, if_exists } => {
            for (from, to) in names {
                check_name("Field", to)?;
                if *if_exists && new.fields.iter().all(|(own, _)| own != from) {
                    continue;
                }
                let taken = new.fields.iter().any(|(other, _)| other == to);
                let field = new.fields.iter_mut().find(|(own, _)| own == from);
                match field.filter(|_| !taken) {
                    Some(field) => field.0.clone_from(to),
                    None => {
                        return Err(CqlError::invalid(format!(
                            "Cannot rename field {from} to {to}"
                        )));
                    }
                }
            }
        }
    }
    let updated = change("UPDATED", "TYPE", keyspace, name);
    Ok(Plan::Do(Box::new(Command::AlterType { expected, new: Arc::new(new) }), updated))
}
