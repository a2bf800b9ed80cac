//! The syntax tree. Printed, it is a statement that parses to the same tree.

use crate::cql::index::IndexPart;
use crate::cql::roles::{Permissions, Resource, Secret};
use crate::cql::types::RawType;

/// A table's name, with its keyspace if that was written.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Name {
    /// The keyspace; `None`: the one in use.
    pub keyspace: Option<String>,
    /// The name itself.
    pub name: String,
}

/// A value as it is written.
#[derive(Clone, PartialEq, Eq, Debug)]
#[allow(missing_docs, reason = "the names are CQL's own")]
pub enum Term {
    Null,
    Integer(String),
    Float(String),
    Text(String),
    Boolean(bool),
    Uuid([u8; 16]),
    Blob(Vec<u8>),
    Duration(String),
    /// The bind marker of this number, from 0.
    Bind(usize),
    List(Vec<Term>),
    /// `{a, b}`; `{}` is an empty set or map.
    Set(Vec<Term>),
    Map(Vec<(Term, Term)>),
    Tuple(Vec<Term>),
    /// `{name: value, …}`
    Udt(Vec<(String, Term)>),
    Function(String, Vec<Term>),
    /// `(type) term`
    Cast(RawType, Box<Term>),
    /// `term + term`, and so on: in assignments and conditions.
    Sum(Box<Term>, Box<Term>),
    Difference(Box<Term>, Box<Term>),
    /// A column's name, in assignments.
    Column(String),
}

/// `=`, `<` and so on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs, reason = "the names say it")]
pub enum Operator {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

/// The right side of `IN`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum InValues {
    /// `IN (a, b)`
    Terms(Vec<Term>),
    /// `IN ?`
    Bind(usize),
}

/// One restriction of a WHERE.
#[derive(Clone, PartialEq, Eq, Debug)]
#[allow(missing_docs, reason = "the parts are what their names say")]
pub enum Relation {
    Column { column: String, operator: Operator, value: Term },
    In { column: String, values: InValues },
    Token { columns: Vec<String>, operator: Operator, value: Term },
    Multi { columns: Vec<String>, operator: Operator, value: Term },
    MultiIn { columns: Vec<String>, values: InValues },
    Contains { column: String, value: Term },
    ContainsKey { column: String, value: Term },
    Element { column: String, key: Term, operator: Operator, value: Term },
}

/// What a SELECT shows.
#[derive(Clone, PartialEq, Eq, Debug)]
#[allow(missing_docs, reason = "the parts are what their names say")]
pub enum Selector {
    Column(String),
    /// `count(*)`, `count(1)`
    CountAll,
    WriteTime(String),
    Ttl(String),
    Function(String, Vec<Selector>),
    Cast(Box<Selector>, RawType),
    Field(Box<Selector>, String),
    Element(Box<Selector>, Term),
    Literal(Term),
}

/// A selector and its `AS`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SelectItem {
    /// What is shown.
    pub selector: Selector,
    /// Under which name.
    pub alias: Option<String>,
}

/// SELECT.
#[derive(Clone, PartialEq, Eq, Debug)]
#[allow(missing_docs, reason = "the parts are what their names say")]
pub struct Select {
    pub json: bool,
    pub distinct: bool,
    /// Empty: `*`.
    pub items: Vec<SelectItem>,
    pub table: Name,
    pub relations: Vec<Relation>,
    pub group_by: Vec<String>,
    /// (column, descending)
    pub order_by: Vec<(String, bool)>,
    /// `ORDER BY column ANN OF vector`
    pub nearest: Option<(String, Term)>,
    pub per_partition_limit: Option<Term>,
    pub limit: Option<Term>,
    pub allow_filtering: bool,
}

/// USING.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
#[allow(missing_docs, reason = "the parts are what their names say")]
pub struct Using {
    pub ttl: Option<Term>,
    pub timestamp: Option<Term>,
}

/// A column, an element or a field of it.
#[derive(Clone, PartialEq, Eq, Debug)]
#[allow(missing_docs, reason = "the parts are what their names say")]
pub enum Target {
    Column(String),
    Element(String, Term),
    Field(String, String),
}

/// The right side of a condition.
#[derive(Clone, PartialEq, Eq, Debug)]
#[allow(missing_docs, reason = "the parts are what their names say")]
pub enum Test {
    Compare(Operator, Term),
    In(InValues),
}

/// IF.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
#[allow(missing_docs, reason = "the names are CQL's own")]
pub enum Conditions {
    #[default]
    None,
    Exists,
    NotExists,
    All(Vec<(Target, Test)>),
}

/// INSERT.
#[derive(Clone, PartialEq, Eq, Debug)]
#[allow(missing_docs, reason = "the parts are what their names say")]
pub struct Insert {
    pub table: Name,
    pub columns: Vec<String>,
    pub values: Vec<Term>,
    /// Instead of columns and values.
    pub json: Option<InsertJson>,
    pub conditions: Conditions,
    pub using: Using,
}

/// What follows INSERT … JSON.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct InsertJson {
    /// An object: a text, or a bind marker.
    pub row: Term,
    /// Columns that are not in it are left alone, instead of set to null.
    pub unset: bool,
}

/// UPDATE.
#[derive(Clone, PartialEq, Eq, Debug)]
#[allow(missing_docs, reason = "the parts are what their names say")]
pub struct Update {
    pub table: Name,
    pub using: Using,
    pub assignments: Vec<(Target, Term)>,
    pub relations: Vec<Relation>,
    pub conditions: Conditions,
}

/// DELETE.
#[derive(Clone, PartialEq, Eq, Debug)]
#[allow(missing_docs, reason = "the parts are what their names say")]
pub struct Delete {
    pub table: Name,
    /// Empty: whole rows.
    pub targets: Vec<Target>,
    pub using: Using,
    pub relations: Vec<Relation>,
    pub conditions: Conditions,
}

/// The kinds of batch, with their numbers in the protocol.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[allow(missing_docs, reason = "the names are CQL's own")]
pub enum BatchKind {
    #[default]
    Logged,
    Unlogged,
    Counter,
}

/// BATCH.
#[derive(Clone, PartialEq, Eq, Debug)]
#[allow(missing_docs, reason = "the parts are what their names say")]
pub struct Batch {
    pub kind: BatchKind,
    pub using: Using,
    /// INSERT, UPDATE and DELETE only.
    pub statements: Vec<Statement>,
}

/// A value of a property.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Property {
    /// `'text'`, `1`, `true`, as text.
    Simple(String),
    /// `{'k': 'v'}`
    Map(Vec<(String, String)>),
}

/// A column of CREATE TABLE.
#[derive(Clone, PartialEq, Eq, Debug)]
#[allow(missing_docs, reason = "the parts are what their names say")]
pub struct ColumnDef {
    pub name: String,
    pub kind: RawType,
    pub is_static: bool,
}

/// CREATE TABLE.
#[derive(Clone, PartialEq, Eq, Debug)]
#[allow(missing_docs, reason = "the parts are what their names say")]
pub struct CreateTable {
    pub table: Name,
    pub if_not_exists: bool,
    pub columns: Vec<ColumnDef>,
    pub partition_key: Vec<String>,
    pub clustering: Vec<String>,
    /// (column, descending)
    pub order: Vec<(String, bool)>,
    pub properties: Vec<(String, Property)>,
    pub compact_storage: bool,
}

/// CREATE INDEX.
#[derive(Clone, PartialEq, Eq, Debug)]
#[allow(missing_docs, reason = "the parts are what their names say")]
pub struct CreateIndex {
    /// `None`: it is named after its table and column.
    pub name: Option<String>,
    pub if_not_exists: bool,
    pub custom: bool,
    pub table: Name,
    pub column: String,
    /// `None`: the column's name stands alone.
    pub part: Option<IndexPart>,
    /// `USING`
    pub class: Option<String>,
    /// `WITH OPTIONS`
    pub options: Vec<(String, String)>,
}

/// What ALTER TABLE does.
#[derive(Clone, PartialEq, Eq, Debug)]
#[allow(missing_docs, reason = "the parts are what their names say")]
pub enum AlterTable {
    Add {
        columns: Vec<ColumnDef>,
        if_not_exists: bool,
    },
    Drop {
        columns: Vec<String>,
        if_exists: bool,
    },
    Rename {
        names: Vec<(String, String)>,
        if_exists: bool,
    },
    With(Vec<(String, Property)>),
    /// `ALTER c TYPE t`: refused.
    Retype,
}

/// What ALTER TYPE does.
#[derive(Clone, PartialEq, Eq, Debug)]
#[allow(missing_docs, reason = "the parts are what their names say")]
pub enum AlterType {
    Add { fields: Vec<(String, RawType)>, if_not_exists: bool },
    Rename { names: Vec<(String, String)>, if_exists: bool },
}

/// What DESCRIBE shows.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Describe {
    /// Names of all keyspaces.
    Keyspaces,
    /// Names of the tables of the keyspace in use, or of all.
    Tables,
    /// Names of types, likewise.
    Types,
    /// Names of functions, likewise.
    Functions,
    /// Names of aggregates, likewise.
    Aggregates,
    /// The cluster, and who keeps what of the keyspace in use.
    Cluster,
    /// Everything that makes the clients' keyspaces again.
    Schema {
        /// The system's keyspaces too.
        full: bool,
    },
    /// A keyspace (`None`: the one in use) with all that is in it.
    Keyspace(Option<String>),
    /// A keyspace without what is in it.
    OnlyKeyspace(Option<String>),
    /// A table.
    Table(Name),
    /// A user type.
    Type(Name),
    /// An index.
    Index(Name),
    /// A materialized view.
    View(Name),
    /// A function.
    Function(Name),
    /// An aggregate.
    Aggregate(Name),
    /// A keyspace, or else a table, of that name.
    Any(Name),
}

/// What is said of a role behind WITH.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
#[allow(missing_docs, reason = "the parts are what their names say")]
pub struct RoleOptions {
    pub password: Option<Secret>,
    /// HASHED PASSWORD: what Cassandra keeps of a password.
    pub hashed: Option<Secret>,
    pub login: Option<bool>,
    pub superuser: Option<bool>,
    /// Why what was asked for cannot be.
    pub refused: Option<&'static str>,
}

/// What a permission is granted on, as it is written.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum On {
    /// A table, whose keyspace may be the one in use.
    Table(Name),
    /// Anything else.
    Resource(Resource),
}

/// A statement.
#[derive(Clone, PartialEq, Eq, Debug)]
#[allow(missing_docs, reason = "the names are CQL's own")]
pub enum Statement {
    Select(Select),
    Insert(Insert),
    Update(Update),
    Delete(Delete),
    Batch(Batch),
    Use(String),
    Truncate(Name),
    CreateKeyspace {
        name: String,
        if_not_exists: bool,
        properties: Vec<(String, Property)>,
    },
    AlterKeyspace {
        name: String,
        if_exists: bool,
        properties: Vec<(String, Property)>,
    },
    DropKeyspace {
        name: String,
        if_exists: bool,
    },
    CreateTable(CreateTable),
    AlterTable {
        table: Name,
        if_exists: bool,
        change: AlterTable,
    },
    DropTable {
        table: Name,
        if_exists: bool,
    },
    CreateType {
        name: Name,
        if_not_exists: bool,
        fields: Vec<(String, RawType)>,
    },
    AlterType {
        name: Name,
        if_exists: bool,
        change: AlterType,
    },
    DropType {
        name: Name,
        if_exists: bool,
    },
    CreateIndex(CreateIndex),
    DropIndex {
        name: Name,
        if_exists: bool,
    },
    Describe(Describe),
    CreateRole {
        name: String,
        if_not_exists: bool,
        options: RoleOptions,
    },
    AlterRole {
        name: String,
        if_exists: bool,
        options: RoleOptions,
    },
    DropRole {
        name: String,
        if_exists: bool,
    },
    GrantRole {
        role: String,
        to: String,
    },
    RevokeRole {
        role: String,
        from: String,
    },
    Grant {
        permissions: Permissions,
        on: On,
        to: String,
    },
    Revoke {
        permissions: Permissions,
        on: On,
        from: String,
    },
    ListRoles {
        of: Option<String>,
        /// Also what those roles are members of.
        recursive: bool,
    },
    ListUsers,
    ListPermissions {
        permissions: Permissions,
        on: Option<On>,
        of: Option<String>,
        /// Also what is granted on a whole, or to a role that `of` is a member of.
        recursive: bool,
    },
    /// A statement of CQL that this server does not carry out: what it is, in a sentence.
    Refused(&'static str),
}

/// A statement with its bind markers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Parsed {
    /// The statement.
    pub statement: Statement,
    /// The bind markers in order of appearance; `None` for `?`.
    pub binds: Vec<Option<String>>,
}
