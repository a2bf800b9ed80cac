//! The syntax tree as text that parses to the same tree.

use std::fmt::{self, Display, Formatter};

use crate::cql::ast::*;
use crate::cql::index::IndexPart;
use crate::cql::roles::{Permissions, Resource, Secret};
use crate::cql::types::quote;
use crate::cql::value::{blob_text, uuid_text};

fn text(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

fn join<T: Display>(items: &[T], between: &str) -> String {
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join(between)
}

fn names(names: &[String]) -> String {
    names.iter().map(|name| quote(name)).collect::<Vec<_>>().join(", ")
}

impl Display for Name {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        if let Some(keyspace) = &self.keyspace {
            write!(f, "{}.", quote(keyspace))?;
        }
        f.write_str(&quote(&self.name))
    }
}

impl Display for Term {
    /// A bind marker prints as `?`, whatever its name was.
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => f.write_str("null"),
            Self::Integer(text) | Self::Float(text) | Self::Duration(text) => f.write_str(text),
            Self::Text(plain) => f.write_str(&text(plain)),
            Self::Boolean(value) => write!(f, "{value}"),
            Self::Uuid(uuid) => f.write_str(&uuid_text(uuid)),
            Self::Blob(bytes) => f.write_str(&blob_text(bytes)),
            Self::Bind(_) => f.write_str("?"),
            Self::List(items) => write!(f, "[{}]", join(items, ", ")),
            Self::Set(items) => write!(f, "{{{}}}", join(items, ", ")),
            Self::Tuple(items) => write!(f, "({})", join(items, ", ")),
            Self::Map(pairs) => {
                let pairs: Vec<String> = pairs.iter().map(|(k, v)| format!("{k}: {v}")).collect();
                write!(f, "{{{}}}", pairs.join(", "))
            }
            Self::Udt(fields) => {
                let fields: Vec<String> = fields
                    .iter()
                    .map(|(name, value)| format!("{}: {value}", quote(name)))
                    .collect();
                write!(f, "{{{}}}", fields.join(", "))
            }
            Self::Function(name, arguments) => write!(f, "{name}({})", join(arguments, ", ")),
            Self::Cast(kind, term) => write!(f, "({kind}) {term}"),
            Self::Sum(left, right) => write!(f, "{left} + {right}"),
            Self::Difference(left, right) => write!(f, "{left} - {right}"),
            Self::Column(name) => f.write_str(&quote(name)),
        }
    }
}

impl Display for Operator {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Equal => "=",
            Self::NotEqual => "!=",
            Self::Less => "<",
            Self::LessOrEqual => "<=",
            Self::Greater => ">",
            Self::GreaterOrEqual => ">=",
        })
    }
}

impl Display for InValues {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Terms(terms) => write!(f, "({})", join(terms, ", ")),
            Self::Bind(_) => f.write_str("?"),
        }
    }
}

impl Display for Relation {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Column { column, operator, value } => {
                write!(f, "{} {operator} {value}", quote(column))
            }
            Self::In { column, values } => write!(f, "{} IN {values}", quote(column)),
            Self::Token { columns, operator, value } => {
                write!(f, "token({}) {operator} {value}", names(columns))
            }
            Self::Multi { columns, operator, value } => {
                write!(f, "({}) {operator} {value}", names(columns))
            }
            Self::MultiIn { columns, values } => write!(f, "({}) IN {values}", names(columns)),
            Self::Contains { column, value } => write!(f, "{} CONTAINS {value}", quote(column)),
            Self::ContainsKey { column, value } => {
                write!(f, "{} CONTAINS KEY {value}", quote(column))
            }
            Self::Element { column, key, operator, value } => {
                write!(f, "{}[{key}] {operator} {value}", quote(column))
            }
        }
    }
}

impl Display for Selector {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Column(name) => f.write_str(&quote(name)),
            Self::CountAll => f.write_str("count(*)"),
            Self::WriteTime(column) => write!(f, "writetime({})", quote(column)),
            Self::Ttl(column) => write!(f, "ttl({})", quote(column)),
            Self::Function(name, arguments) => write!(f, "{name}({})", join(arguments, ", ")),
            Self::Cast(inner, kind) => write!(f, "cast({inner} AS {kind})"),
            Self::Field(inner, name) => write!(f, "{inner}.{}", quote(name)),
            Self::Element(inner, key) => write!(f, "{inner}[{key}]"),
            Self::Literal(term) => write!(f, "{term}"),
        }
    }
}

impl Display for SelectItem {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.selector)?;
        match &self.alias {
            Some(alias) => write!(f, " AS {}", quote(alias)),
            None => Ok(()),
        }
    }
}

impl Display for Select {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str("SELECT ")?;
        if self.json {
            f.write_str("JSON ")?;
        }
        if self.distinct {
            f.write_str("DISTINCT ")?;
        }
        if self.items.is_empty() {
            f.write_str("*")?;
        }
        write!(f, "{} FROM {}", join(&self.items, ", "), self.table)?;
        if !self.relations.is_empty() {
            write!(f, " WHERE {}", join(&self.relations, " AND "))?;
        }
        if !self.group_by.is_empty() {
            write!(f, " GROUP BY {}", names(&self.group_by))?;
        }
        if !self.order_by.is_empty() {
            write!(f, " ORDER BY {}", orderings(&self.order_by))?;
        }
        if let Some((column, vector)) = &self.nearest {
            write!(f, " ORDER BY {} ANN OF {vector}", quote(column))?;
        }
        if let Some(limit) = &self.per_partition_limit {
            write!(f, " PER PARTITION LIMIT {limit}")?;
        }
        if let Some(limit) = &self.limit {
            write!(f, " LIMIT {limit}")?;
        }
        if self.allow_filtering { f.write_str(" ALLOW FILTERING") } else { Ok(()) }
    }
}

fn orderings(order: &[(String, bool)]) -> String {
    let one = |(name, descending): &(String, bool)| {
        format!("{} {}", quote(name), if *descending { "DESC" } else { "ASC" })
    };
    order.iter().map(one).collect::<Vec<_>>().join(", ")
}

impl Display for Using {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let ttl = self.ttl.iter().map(|ttl| format!("TTL {ttl}"));
        let timestamp = self.timestamp.iter().map(|stamp| format!("TIMESTAMP {stamp}"));
        let both: Vec<String> = ttl.chain(timestamp).collect();
        if both.is_empty() { Ok(()) } else { write!(f, " USING {}", both.join(" AND ")) }
    }
}

impl Display for Target {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Column(name) => f.write_str(&quote(name)),
            Self::Element(name, key) => write!(f, "{}[{key}]", quote(name)),
            Self::Field(name, field) => write!(f, "{}.{}", quote(name), quote(field)),
        }
    }
}

impl Display for Conditions {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => Ok(()),
            Self::Exists => f.write_str(" IF EXISTS"),
            Self::NotExists => f.write_str(" IF NOT EXISTS"),
            Self::All(all) => {
                let one = |(target, test): &(Target, Test)| match test {
                    Test::Compare(operator, term) => format!("{target} {operator} {term}"),
                    Test::In(values) => format!("{target} IN {values}"),
                };
                write!(f, " IF {}", all.iter().map(one).collect::<Vec<_>>().join(" AND "))
            }
        }
    }
}

fn with(f: &mut Formatter<'_>, options: &[String]) -> fmt::Result {
    if options.is_empty() { Ok(()) } else { write!(f, " WITH {}", options.join(" AND ")) }
}

fn properties(all: &[(String, Property)]) -> Vec<String> {
    let one = |(name, value): &(String, Property)| match value {
        Property::Simple(simple) => format!("{} = {}", quote(name), text(simple)),
        Property::Map(pairs) => {
            let pairs: Vec<String> = pairs
                .iter()
                .map(|(key, value)| format!("{}: {}", text(key), text(value)))
                .collect();
            format!("{} = {{{}}}", quote(name), pairs.join(", "))
        }
    };
    all.iter().map(one).collect()
}

fn fields<T: Display>(fields: &[(String, T)]) -> String {
    let one = |(name, kind): &(String, T)| format!("{} {kind}", quote(name));
    fields.iter().map(one).collect::<Vec<_>>().join(", ")
}

fn renames(all: &[(String, String)]) -> String {
    let one = |(old, new): &(String, String)| format!("{} TO {}", quote(old), quote(new));
    all.iter().map(one).collect::<Vec<_>>().join(" AND ")
}

impl Display for ColumnDef {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", quote(&self.name), self.kind)?;
        if self.is_static { f.write_str(" STATIC") } else { Ok(()) }
    }
}

impl Display for CreateTable {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let exists = if self.if_not_exists { "IF NOT EXISTS " } else { "" };
        write!(f, "CREATE TABLE {exists}{} ({}", self.table, join(&self.columns, ", "))?;
        if !self.partition_key.is_empty() {
            write!(f, ", PRIMARY KEY (({})", names(&self.partition_key))?;
            for column in &self.clustering {
                write!(f, ", {}", quote(column))?;
            }
            f.write_str(")")?;
        }
        f.write_str(")")?;
        let mut options = properties(&self.properties);
        if !self.order.is_empty() {
            options.push(format!("CLUSTERING ORDER BY ({})", orderings(&self.order)));
        }
        if self.compact_storage {
            options.push("COMPACT STORAGE".to_owned());
        }
        with(f, &options)
    }
}

impl Display for CreateIndex {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let custom = if self.custom { "CUSTOM " } else { "" };
        let exists = if self.if_not_exists { "IF NOT EXISTS " } else { "" };
        write!(f, "CREATE {custom}INDEX {exists}")?;
        if let Some(name) = &self.name {
            write!(f, "{} ", quote(name))?;
        }
        write!(f, "ON {} (", self.table)?;
        match self.part.and_then(IndexPart::word) {
            Some(word) => write!(f, "{word}({}))", quote(&self.column))?,
            None => write!(f, "{})", quote(&self.column))?,
        }
        if let Some(class) = &self.class {
            write!(f, " USING {}", text(class))?;
        }
        if self.options.is_empty() {
            return Ok(());
        }
        let options = Property::Map(self.options.clone());
        with(f, &properties(&[("options".to_owned(), options)]))
    }
}

impl Display for On {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Table(name) => write!(f, "TABLE {name}"),
            Self::Resource(Resource::AllKeyspaces) => f.write_str("ALL KEYSPACES"),
            Self::Resource(Resource::Keyspace(name)) => write!(f, "KEYSPACE {}", quote(name)),
            Self::Resource(Resource::Table(keyspace, table)) => {
                write!(f, "TABLE {}.{}", quote(keyspace), quote(table))
            }
            Self::Resource(Resource::AllRoles) => f.write_str("ALL ROLES"),
            Self::Resource(Resource::Role(name)) => write!(f, "ROLE {}", quote(name)),
        }
    }
}

fn permissions(all: Permissions) -> String {
    if all == Permissions::every() {
        return "ALL PERMISSIONS".to_owned();
    }
    join(&all.iter().collect::<Vec<_>>(), ", ")
}

fn of_role(of: &Option<String>) -> String {
    of.as_ref().map(|role| format!(" OF {}", quote(role))).unwrap_or_default()
}

fn norecursive(recursive: bool) -> &'static str {
    if recursive { "" } else { " NORECURSIVE" }
}

/// The whole statement: who shows it to others than its author masks it
/// ([`crate::cql::roles::masked`]).
fn role_options(options: &RoleOptions) -> Vec<String> {
    let secret = |word: &str, secret: &Option<Secret>| {
        secret.as_ref().map(|secret| format!("{word} = {}", text(&secret.0)))
    };
    let switch = |word: &str, on: Option<bool>| on.map(|on| format!("{word} = {on}"));
    [
        secret("PASSWORD", &options.password),
        secret("HASHED PASSWORD", &options.hashed),
        switch("LOGIN", options.login),
        switch("SUPERUSER", options.superuser),
    ]
    .into_iter()
    .flatten()
    .collect()
}

impl Display for Describe {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let keyspace = |f: &mut Formatter<'_>, name: &Option<String>| match name {
            Some(name) => write!(f, "KEYSPACE {}", quote(name)),
            None => f.write_str("KEYSPACE"),
        };
        match self {
            Self::Keyspaces => f.write_str("KEYSPACES"),
            Self::Tables => f.write_str("TABLES"),
            Self::Types => f.write_str("TYPES"),
            Self::Functions => f.write_str("FUNCTIONS"),
            Self::Aggregates => f.write_str("AGGREGATES"),
            Self::Cluster => f.write_str("CLUSTER"),
            Self::Schema { full: false } => f.write_str("SCHEMA"),
            Self::Schema { full: true } => f.write_str("FULL SCHEMA"),
            Self::Keyspace(name) => keyspace(f, name),
            Self::OnlyKeyspace(name) => {
                f.write_str("ONLY ")?;
                keyspace(f, name)
            }
            Self::Table(name) => write!(f, "TABLE {name}"),
            Self::Type(name) => write!(f, "TYPE {name}"),
            Self::Index(name) => write!(f, "INDEX {name}"),
            Self::View(name) => write!(f, "MATERIALIZED VIEW {name}"),
            Self::Function(name) => write!(f, "FUNCTION {name}"),
            Self::Aggregate(name) => write!(f, "AGGREGATE {name}"),
            Self::Any(name) => write!(f, "{name}"),
        }
    }
}

impl Display for Statement {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let exists = |if_exists: bool| if if_exists { "IF EXISTS " } else { "" };
        let absent = |absent: bool| if absent { "IF NOT EXISTS " } else { "" };
        match self {
            Self::Select(select) => write!(f, "{select}"),
            Self::Insert(i) => {
                write!(f, "INSERT INTO {} ", i.table)?;
                match &i.json {
                    Some(json) => {
                        let default = if json.unset { " DEFAULT UNSET" } else { "" };
                        write!(f, "JSON {}{default}", json.row)?;
                    }
                    None => {
                        let (columns, values) = (names(&i.columns), join(&i.values, ", "));
                        write!(f, "({columns}) VALUES ({values})")?;
                    }
                }
                write!(f, "{}{}", i.conditions, i.using)
            }
            Self::Update(u) => {
                let set = |(target, term): &(Target, Term)| format!("{target} = {term}");
                let sets = u.assignments.iter().map(set).collect::<Vec<_>>().join(", ");
                let relations = join(&u.relations, " AND ");
                write!(
                    f,
                    "UPDATE {}{} SET {sets} WHERE {relations}{}",
                    u.table, u.using, u.conditions
                )
            }
            Self::Delete(d) => {
                let gap = if d.targets.is_empty() { "" } else { " " };
                let (targets, relations) = (join(&d.targets, ", "), join(&d.relations, " AND "));
                write!(
                    f,
                    "DELETE {targets}{gap}FROM {}{} WHERE {relations}{}",
                    d.table, d.using, d.conditions
                )
            }
            Self::Batch(b) => {
                let kind = match b.kind {
                    BatchKind::Logged => "",
                    BatchKind::Unlogged => "UNLOGGED ",
                    BatchKind::Counter => "COUNTER ",
                };
                write!(f, "BEGIN {kind}BATCH{} ", b.using)?;
                b.statements.iter().try_for_each(|statement| write!(f, "{statement}; "))?;
                f.write_str("APPLY BATCH")
            }
            Self::Use(keyspace) => write!(f, "USE {}", quote(keyspace)),
            Self::Truncate(table) => write!(f, "TRUNCATE {table}"),
            Self::CreateKeyspace { name, if_not_exists, properties: given } => {
                write!(f, "CREATE KEYSPACE {}{}", absent(*if_not_exists), quote(name))?;
                with(f, &properties(given))
            }
            Self::AlterKeyspace { name, if_exists, properties: given } => {
                write!(f, "ALTER KEYSPACE {}{}", exists(*if_exists), quote(name))?;
                with(f, &properties(given))
            }
            Self::DropKeyspace { name, if_exists } => {
                write!(f, "DROP KEYSPACE {}{}", exists(*if_exists), quote(name))
            }
            Self::CreateTable(table) => write!(f, "{table}"),
            Self::AlterTable { table, if_exists, change } => {
                write!(f, "ALTER TABLE {}{table} ", exists(*if_exists))?;
                match change {
                    AlterTable::Add { columns, if_not_exists } => {
                        write!(f, "ADD {}({})", absent(*if_not_exists), join(columns, ", "))
                    }
                    AlterTable::Drop { columns, if_exists } => {
                        write!(f, "DROP {}({})", exists(*if_exists), names(columns))
                    }
                    AlterTable::Rename { names, if_exists } => {
                        write!(f, "RENAME {}{}", exists(*if_exists), renames(names))
                    }
                    AlterTable::With(given) => {
                        write!(f, "WITH {}", properties(given).join(" AND "))
                    }
                    AlterTable::Retype => f.write_str("ALTER c TYPE int"),
                }
            }
            Self::DropTable { table, if_exists } => {
                write!(f, "DROP TABLE {}{table}", exists(*if_exists))
            }
            Self::CreateType { name, if_not_exists, fields: given } => {
                write!(f, "CREATE TYPE {}{name} ({})", absent(*if_not_exists), fields(given))
            }
            Self::AlterType { name, if_exists, change } => {
                write!(f, "ALTER TYPE {}{name} ", exists(*if_exists))?;
                match change {
                    AlterType::Add { fields: given, if_not_exists } => {
                        write!(f, "ADD {}{}", absent(*if_not_exists), fields(given))
                    }
                    AlterType::Rename { names, if_exists } => {
                        write!(f, "RENAME {}{}", exists(*if_exists), renames(names))
                    }
                }
            }
            Self::DropType { name, if_exists } => {
                write!(f, "DROP TYPE {}{name}", exists(*if_exists))
            }
            Self::CreateIndex(index) => write!(f, "{index}"),
            Self::DropIndex { name, if_exists } => {
                write!(f, "DROP INDEX {}{name}", exists(*if_exists))
            }
            Self::Describe(what) => write!(f, "DESCRIBE {what}"),
            Self::CreateRole { name, if_not_exists, options } => {
                write!(f, "CREATE ROLE {}{}", absent(*if_not_exists), quote(name))?;
                with(f, &role_options(options))
            }
            Self::AlterRole { name, if_exists, options } => {
                write!(f, "ALTER ROLE {}{}", exists(*if_exists), quote(name))?;
                with(f, &role_options(options))
            }
            Self::DropRole { name, if_exists } => {
                write!(f, "DROP ROLE {}{}", exists(*if_exists), quote(name))
            }
            Self::GrantRole { role, to } => write!(f, "GRANT {} TO {}", quote(role), quote(to)),
            Self::RevokeRole { role, from } => {
                write!(f, "REVOKE {} FROM {}", quote(role), quote(from))
            }
            Self::Grant { permissions: all, on, to } => {
                write!(f, "GRANT {} ON {on} TO {}", permissions(*all), quote(to))
            }
            Self::Revoke { permissions: all, on, from } => {
                write!(f, "REVOKE {} ON {on} FROM {}", permissions(*all), quote(from))
            }
            Self::ListRoles { of, recursive } => {
                write!(f, "LIST ROLES{}{}", of_role(of), norecursive(*recursive))
            }
            Self::ListUsers => f.write_str("LIST USERS"),
            Self::ListPermissions { permissions: all, on, of, recursive } => {
                write!(f, "LIST {}", permissions(*all))?;
                if let Some(on) = on {
                    write!(f, " ON {on}")?;
                }
                write!(f, "{}{}", of_role(of), norecursive(*recursive))
            }
            Self::Refused(_) => f.write_str("CREATE TRIGGER"),
        }
    }
}
