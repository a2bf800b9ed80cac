//! CREATE, ALTER, DROP: turned into entries of the metadata log.

mod differences;
pub(super) mod indexes;
mod keyspaces;
mod types;

use std::sync::Arc;

use crate::cql::ast::{AlterTable, ColumnDef, CreateTable, Name, Property, Statement};
use crate::cql::schema::{MAX_COLUMNS, Role, Schema};
use crate::cql::types::{CqlType, RawType};
use crate::meta::{
    ClusterState, Command, ConflictMode, Keyspace, NotDone, Table, TableName, TableSettings,
    Verdict,
};
use crate::server::cql::buckets;
use crate::server::cql::error::{CqlError, SERVER, UNAUTHORIZED};
use crate::server::cql::options;
use crate::server::cql::response::{Answer, SchemaChange};
use crate::server::cql::statement::udt;
use crate::server::cql::store::Store;
use crate::server::cql::system;

pub(super) use self::differences::differences;

/// How often a change is made again from what is there by then.
const MAX_TRIES: usize = 5;

/// What a statement comes to.
enum Plan {
    /// Nothing is to be done.
    Nothing,
    Do(Box<Command>, SchemaChange),
}

fn change(change: &'static str, target: &'static str, keyspace: &str, name: &str) -> SchemaChange {
    SchemaChange { change, target, keyspace: keyspace.to_owned(), name: name.to_owned() }
}

/// Runs a statement that changes the schema. `owner`: gets all rights on what it makes.
pub(super) async fn run(
    store: &dyn Store,
    keyspace: Option<&str>,
    statement: &Statement,
    owner: Option<String>,
) -> Result<Answer, CqlError> {
    for _ in 0..MAX_TRIES {
        let state = store.state();
        let (command, change) = match plan(store, &state, keyspace, statement)? {
            Plan::Nothing => return Ok(Answer::Void),
            Plan::Do(command, change) => (command, change),
        };
        let verdict = store.append(command.owned(owner.clone())).await;
        let verdict = verdict.map_err(|error| CqlError::of_operation(&error, Some("SIMPLE")))?;
        match verdict {
            Verdict::Done | Verdict::Created(_) => return Ok(Answer::SchemaChange(change)),
            // Somebody was faster: look again at what there is now, and judge by that.
            Verdict::NotDone(
                NotDone::KeyspaceExists
                | NotDone::TableExists { .. }
                | NotDone::TypeExists
                | NotDone::NoSuchKeyspace
                | NotDone::NoSuchTable
                | NotDone::NoSuchType
                | NotDone::IndexExists
                | NotDone::NoSuchIndex
                | NotDone::TableChanged { .. },
            ) => {}
            Verdict::NotDone(NotDone::TypeInUse(user)) => {
                return Err(CqlError::invalid(format!(
                    "Cannot drop user type: it is still used by {user}"
                )));
            }
            Verdict::NotDone(why) => return Err(CqlError::invalid(why.to_string())),
        }
    }
    Err(CqlError::new(SERVER, "the schema keeps changing: try again"))
}

fn keyspace_of(given: Option<&str>, name: &Name) -> Result<String, CqlError> {
    let keyspace = name.keyspace.as_deref().or(given).ok_or_else(|| {
        CqlError::invalid("No keyspace has been specified. USE a keyspace, or explicitly specify keyspace.tablename")
    })?;
    not_system(keyspace)?;
    Ok(keyspace.to_owned())
}

fn not_system(keyspace: &str) -> Result<(), CqlError> {
    if system::is_reserved(keyspace) {
        return Err(CqlError::new(
            UNAUTHORIZED,
            format!("{keyspace} keyspace is not user-modifiable."),
        ));
    }
    Ok(())
}

fn find<'a>(state: &'a ClusterState, name: &str) -> Result<&'a Arc<Keyspace>, CqlError> {
    let missing = || CqlError::invalid(format!("Keyspace '{name}' doesn't exist"));
    state.keyspaces().get(name).ok_or_else(missing)
}

fn check_name(what: &str, name: &str) -> Result<(), CqlError> {
    let sound = (1..=48).contains(&name.len())
        && name.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'_');
    if sound {
        return Ok(());
    }
    Err(CqlError::invalid(format!(
        "{what} name must not be empty, more than 48 characters long, or contain \
         non-alphanumeric-underscore characters (got \"{name}\")"
    )))
}

fn plan(
    store: &dyn Store,
    state: &ClusterState,
    given: Option<&str>,
    statement: &Statement,
) -> Result<Plan, CqlError> {
    match statement {
        Statement::CreateKeyspace { name, if_not_exists, properties } => {
            keyspaces::create(state, name, *if_not_exists, properties)
        }
        Statement::AlterKeyspace { name, if_exists, properties } => {
            keyspaces::alter(state, name, *if_exists, properties)
        }
        Statement::DropKeyspace { name, if_exists } => {
            not_system(name)?;
            if !state.keyspaces().contains_key(name) && *if_exists {
                return Ok(Plan::Nothing);
            }
            find(state, name)?;
            let command = Command::DropKeyspace { name: name.clone() };
            Ok(Plan::Do(Box::new(command), change("DROPPED", "KEYSPACE", name, "")))
        }
        Statement::CreateTable(create) => create_table(store, state, given, create),
        Statement::AlterTable { table, if_exists, change } => {
            let keyspace = keyspace_of(given, table)?;
            if let Some(bucket) = bucket_of(state, &keyspace, &table.name)? {
                return alter_bucket(bucket, change);
            }
            match existing(state, &keyspace, table, *if_exists)? {
                Some((id, schema)) => alter_table(state, &keyspace, table, (id, &schema), change),
                None => Ok(Plan::Nothing),
            }
        }
        Statement::DropTable { table, if_exists } => {
            let keyspace = keyspace_of(given, table)?;
            let found = match bucket_of(state, &keyspace, &table.name)? {
                Some(bucket) => Some(bucket.clone()),
                None => existing(state, &keyspace, table, *if_exists)?.map(|(table, _)| table),
            };
            match found {
                Some(old) => {
                    let dropped = change("DROPPED", "TABLE", &keyspace, &table.name);
                    Ok(Plan::Do(Box::new(Command::DropTable { id: old.id }), dropped))
                }
                None => Ok(Plan::Nothing),
            }
        }
        Statement::CreateType { name, if_not_exists, fields } => {
            let keyspace = keyspace_of(given, name)?;
            types::create(state, &keyspace, &name.name, *if_not_exists, fields)
        }
        Statement::AlterType { name, if_exists, change } => {
            let keyspace = keyspace_of(given, name)?;
            types::alter(state, &keyspace, &name.name, *if_exists, change)
        }
        Statement::DropType { name, if_exists } => {
            let keyspace = keyspace_of(given, name)?;
            if udt(state, &keyspace, &name.name).is_none() {
                if *if_exists {
                    return Ok(Plan::Nothing);
                }
                return Err(CqlError::invalid(format!(
                    "Type '{keyspace}.{}' doesn't exist",
                    name.name
                )));
            }
            let dropped = change("DROPPED", "TYPE", &keyspace, &name.name);
            Ok(Plan::Do(Box::new(Command::DropType { keyspace, name: name.name.clone() }), dropped))
        }
        Statement::CreateIndex(create) => {
            let keyspace = keyspace_of(given, &create.table)?;
            match existing(state, &keyspace, &create.table, false)? {
                Some((table, schema)) => indexes::create(state, &table, &schema, create),
                None => Ok(Plan::Nothing),
            }
        }
        Statement::DropIndex { name, if_exists } => {
            let keyspace = keyspace_of(given, name)?;
            find(state, &keyspace)?;
            indexes::drop(state, &keyspace, &name.name, *if_exists)
        }
        _ => Err(CqlError::new(SERVER, "no statement of the schema")),
    }
}

/// The table of values of this name that clients may change, if there is one.
fn bucket_of<'a>(
    state: &'a ClusterState,
    keyspace: &str,
    name: &str,
) -> Result<Option<&'a Arc<Table>>, CqlError> {
    let bucket = state.table_of(keyspace, name).filter(|table| table.rows.is_none());
    match bucket {
        Some(bucket) if bucket.name.is_system() => Err(system::read_only(keyspace)),
        bucket => Ok(bucket),
    }
}

fn alter_bucket(bucket: &Table, alteration: &AlterTable) -> Result<Plan, CqlError> {
    let (keyspace, name) = (&bucket.name.keyspace, &bucket.name.table);
    let AlterTable::With(properties) = alteration else {
        return Err(CqlError::invalid(format!(
            "{keyspace}.{name} is a bucket: its columns are fixed"
        )));
    };
    let mut settings = bucket.settings.clone();
    options::bucket(&mut settings, properties)?;
    let (id, expected) = (bucket.id, bucket.version);
    let command = Command::AlterTable { id, expected, settings };
    Ok(Plan::Do(Box::new(command), change("UPDATED", "TABLE", keyspace, name)))
}

type Found = (Arc<Table>, Arc<Schema>);

fn existing(
    state: &ClusterState,
    keyspace: &str,
    name: &Name,
    if_exists: bool,
) -> Result<Option<Found>, CqlError> {
    let table = state.table_of(keyspace, &name.name);
    match table.and_then(|table| Some((table.clone(), table.rows.clone()?))) {
        Some(found) => Ok(Some(found)),
        None if if_exists => Ok(None),
        None => {
            find(state, keyspace)?;
            Err(CqlError::invalid(format!("Table '{keyspace}.{}' doesn't exist", name.name)))
        }
    }
}

fn resolve(state: &ClusterState, keyspace: &str, raw: &RawType) -> Result<CqlType, CqlError> {
    let find = |other: Option<&str>, name: &str| match other {
        Some(other) if other != keyspace => None,
        _ => udt(state, keyspace, name),
    };
    raw.resolve(&find).map_err(CqlError::invalid)
}

fn create_table(
    store: &dyn Store,
    state: &ClusterState,
    given: Option<&str>,
    create: &CreateTable,
) -> Result<Plan, CqlError> {
    let keyspace = keyspace_of(given, &create.table)?;
    let name = &create.table.name;
    find(state, &keyspace)?;
    check_name("Table", name)?;
    if state.table_of(&keyspace, name).is_some() {
        if create.if_not_exists {
            return Ok(Plan::Nothing);
        }
        return Err(CqlError::exists(&keyspace, name));
    }
    if create.compact_storage {
        return Err(CqlError::invalid(
            "COMPACT STORAGE tables are not allowed: leave the option out",
        ));
    }
    if create.columns.len() > MAX_COLUMNS {
        return Err(CqlError::invalid(format!(
            "a table has {MAX_COLUMNS} columns at most, and this one has {}",
            create.columns.len()
        )));
    }
    let mut columns: Vec<(String, CqlType, Role)> = Vec::new();
    for def in &create.columns {
        check_name("Column", &def.name)?;
        let kind = resolve(state, &keyspace, &def.kind)?;
        let role = role_of(create, def, &kind)?;
        if columns.iter().any(|(other, ..)| *other == def.name) {
            return Err(CqlError::invalid(format!(
                "Multiple definition of identifier {}",
                def.name
            )));
        }
        columns.push((def.name.clone(), kind, role));
    }
    if create.partition_key.is_empty() {
        return Err(CqlError::invalid("No PRIMARY KEY specified (exactly one required)"));
    }
    for key in create.partition_key.iter().chain(&create.clustering) {
        if !create.columns.iter().any(|def| def.name == *key) {
            return Err(CqlError::invalid(format!(
                "Unknown definition {key} referenced in PRIMARY KEY"
            )));
        }
        let all = create.partition_key.iter().chain(&create.clustering);
        if all.filter(|other| *other == key).count() > 1 {
            return Err(CqlError::invalid(format!("{key} is in the PRIMARY KEY more than once")));
        }
    }
    for (at, (column, _)) in create.order.iter().enumerate() {
        if create.clustering.get(at) != Some(column) {
            return Err(CqlError::invalid(format!(
                "CLUSTERING ORDER BY names {column}, which is not the clustering column at its place"
            )));
        }
    }
    let counts = |(_, kind, _): &(String, CqlType, Role)| *kind == CqlType::Counter;
    let is_key =
        |(.., role): &(String, CqlType, Role)| !matches!(role, Role::Static | Role::Regular);
    if let Some((name, ..)) = columns.iter().find(|column| is_key(column) && counts(column)) {
        return Err(CqlError::invalid(format!(
            "counter type is not supported for PRIMARY KEY column '{name}'"
        )));
    }
    let mut values = columns.iter().filter(|column| !is_key(column));
    if columns.iter().any(counts) && !values.all(counts) {
        return Err(CqlError::invalid(
            "Cannot mix counter and non counter columns in the same table",
        ));
    }
    if columns.iter().any(|(.., role)| *role == Role::Static) && create.clustering.is_empty() {
        return Err(CqlError::invalid(
            "Static columns are only useful (and thus allowed) if the table has at least one clustering column",
        ));
    }
    let uuid = crate::cql::functions::Now::new(store.wall().0, store.random()).uuid();
    let (conflict, properties) = options::conflict(&create.properties)?;
    let misfit = buckets::misfit(&columns);
    let is_strong = conflict == Some(ConflictMode::Strong);
    if is_strong && columns.iter().any(counts) {
        return Err(CqlError::invalid("counters are not for tables WITH conflict = 'strong'"));
    }
    let mut schema = Schema::new(columns, uuid);
    options::apply(&mut schema, &properties)?;
    let name = TableName { keyspace: keyspace.clone(), table: name.clone() };
    let created = change("CREATED", "TABLE", &keyspace, &name.table);
    if conflict == Some(ConflictMode::Siblings) {
        if let Some(misfit) = misfit {
            return Err(CqlError::invalid(misfit));
        }
        if name.to_string().parse::<TableName>().is_err() {
            return Err(CqlError::invalid(format!(
                "{name}: a table WITH conflict = 'siblings' is a bucket too, and so named in lower-case \
                 letters, digits and _"
            )));
        }
        let replication = find(state, &keyspace)?.replication.clone();
        let mut settings = TableSettings::new(replication);
        let is_own = |(name, _): &&(String, Property)| options::of_buckets(name);
        let own: Vec<_> = properties.iter().filter(is_own).cloned().collect();
        options::bucket(&mut settings, &own)?;
        return Ok(Plan::Do(Box::new(Command::CreateTable { name, settings }), created));
    }
    if is_strong {
        schema.options.insert("conflict".to_owned(), "strong".to_owned());
    }
    Ok(Plan::Do(Box::new(Command::CreateRows { name, schema: Arc::new(schema) }), created))
}

fn role_of(create: &CreateTable, def: &ColumnDef, kind: &CqlType) -> Result<Role, CqlError> {
    let at = |key: &[String]| {
        key.iter().position(|name| *name == def.name).and_then(|at| u16::try_from(at).ok())
    };
    let role = if let Some(at) = at(&create.partition_key) {
        Role::Partition(at)
    } else if let Some(at) = at(&create.clustering) {
        let descending =
            create.order.iter().any(|(name, descending)| *name == def.name && *descending);
        Role::Clustering { at, descending }
    } else if def.is_static {
        return Ok(Role::Static);
    } else {
        return Ok(Role::Regular);
    };
    if def.is_static {
        return Err(CqlError::invalid(format!(
            "Static column {} cannot be part of the PRIMARY KEY",
            def.name
        )));
    }
    if !kind.is_keyable() {
        return Err(CqlError::invalid(format!(
            "Invalid type {kind} for PRIMARY KEY column {}",
            def.name
        )));
    }
    Ok(role)
}

fn alter_table(
    state: &ClusterState,
    keyspace: &str,
    name: &Name,
    (old, schema): (Arc<Table>, &Arc<Schema>),
    alteration: &AlterTable,
) -> Result<Plan, CqlError> {
    let mut schema = (**schema).clone();
    match alteration {
        AlterTable::Add { columns, if_not_exists } => {
            for def in columns {
                check_name("Column", &def.name)?;
                let kind = resolve(state, keyspace, &def.kind)?;
                if schema.column(&def.name).is_some() {
                    if *if_not_exists {
                        continue;
                    }
                    return Err(CqlError::invalid(format!(
                        "Column with name '{}' already exists",
                        def.name
                    )));
                }
                if def.is_static && schema.clustering_key().is_empty() {
                    return Err(CqlError::invalid(
                        "Static columns are only useful (and thus allowed) if the table has at least one clustering column",
                    ));
                }
                let has_values = !schema.values().is_empty();
                if has_values && (kind == CqlType::Counter) != schema.has_counters() {
                    return Err(CqlError::invalid(format!(
                        "Cannot mix counter and non counter columns in the same table: {}",
                        def.name
                    )));
                }
                let role = if def.is_static { Role::Static } else { Role::Regular };
                if !schema.add(def.name.clone(), kind, role) {
                    return Err(CqlError::invalid("the table has had too many columns"));
                }
            }
        }
        AlterTable::Drop { columns, if_exists } => {
            for column in columns {
                match schema.column(column) {
                    None if *if_exists => {}
                    None => {
                        return Err(CqlError::invalid(format!(
                            "Column {column} was not found in table '{keyspace}.{}'",
                            name.name
                        )));
                    }
                    Some(found) if found.is_key() => {
                        return Err(CqlError::invalid(format!(
                            "Cannot drop PRIMARY KEY column {column}"
                        )));
                    }
                    Some(found) => {
                        if let Some(index) = schema.indexes().iter().find(|i| i.column == found.id)
                        {
                            return Err(CqlError::invalid(format!(
                                "Cannot drop column {column} because it has dependent secondary \
                                 indexes ({})",
                                index.name
                            )));
                        }
                        schema.remove(column);
                    }
                }
            }
        }
        AlterTable::Rename { names, if_exists } => {
            for (from, to) in names {
                check_name("Column", to)?;
                match schema.column(from) {
                    None if *if_exists => continue,
                    Some(found) if found.is_key() && schema.column(to).is_none() => {}
                    _ => {
                        return Err(CqlError::invalid(format!(
                            "Cannot rename {from} to {to}: only PRIMARY KEY columns can be renamed, to names that are free"
                        )));
                    }
                }
                schema.rename(from, to);
            }
        }
        AlterTable::With(properties) => options::apply(&mut schema, properties)?,
        AlterTable::Retype => {
            return Err(CqlError::invalid("Altering column types is no longer supported"));
        }
    }
    // Indexes are entries of the log of their own.
    schema.clear_indexes();
    let updated = change("UPDATED", "TABLE", keyspace, &name.name);
    let command =
        Command::AlterRows { id: old.id, expected: old.version, schema: Arc::new(schema) };
    Ok(Plan::Do(Box::new(command), updated))
}
