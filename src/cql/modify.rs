//! INSERT, UPDATE and DELETE: checked against a schema, and turned into rows to merge.

mod change;
mod counters;
mod write;

use std::collections::BTreeMap;

use self::change::{Change, assignment, subtracted};
use self::write::Write;
use crate::cql::ast::{Delete, Insert, InsertJson, Statement, Term, Update, Using};
use crate::cql::conditions::If;
use crate::cql::relations::{MarkerType, Where, component, markers, partition_bytes};
use crate::cql::schema::{Role, Schema};
use crate::cql::term::{Binds, Bound, evaluate};
use crate::cql::types::CqlType;
use crate::cql::value;
use crate::record::{Expiry, Liveness, RangeDeletion, Row};
use crate::types::WallMicros;

pub use counters::Counts;

/// The longest time to live, in seconds: 20 years.
const MAX_TTL_S: i64 = 630_720_000;

/// How far ahead of the server's clock a stamp may be, in microseconds: a day. What is written
/// further in the future could not be deleted by anybody.
const MAX_AHEAD: i64 = 86_400_000_000;

/// The key of a row: the bytes of its partition key, and its clustering bytes (none: the head).
pub type RowKey = (Vec<u8>, Vec<u8>);

/// Changes of one partition.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Mutation {
    /// The partition key's bytes.
    pub partition: Vec<u8>,
    /// What to merge, by clustering bytes.
    pub rows: BTreeMap<Vec<u8>, Row>,
}

/// A write whose names are looked up.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Modify {
    kind: Kind,
    wheres: Where,
    /// By place.
    changes: Vec<(usize, Change)>,
    using: Using,
    condition: If,
    /// Of INSERT JSON: the row, whose columns become values of bind markers.
    json: Option<InsertJson>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Insert,
    Update,
    Delete,
}

/// What a write needs beside its values.
#[derive(Debug)]
pub struct Moment<'a> {
    /// The stamp of statements that name none, in microseconds.
    pub stamp: i64,
    /// What time it is for the statement, which may have said so itself.
    pub now: WallMicros,
    /// The server's clock.
    pub clock: WallMicros,
    /// New elements of lists stand after those of an earlier moment, in microseconds: the time, or
    /// of what is decided in rounds, the round's stamp.
    pub order: u64,
    /// Rows as they are, where [`Modify::needs_read`] asked for them: (head, row) by key.
    pub current: &'a BTreeMap<RowKey, (Row, Row)>,
}

impl Modify {
    /// Looks up the names of a write.
    ///
    /// # Errors
    /// A sentence for the client.
    pub fn resolve(schema: &Schema, table: &str, statement: &Statement) -> Result<Self, String> {
        let modify = match statement {
            Statement::Insert(insert) => Self::insert(schema, table, insert)?,
            Statement::Update(update) => Self::update(schema, table, update)?,
            Statement::Delete(delete) => Self::delete(schema, table, delete)?,
            _ => return Err("only INSERT, UPDATE and DELETE can be batched".to_owned()),
        };
        modify.check(schema)?;
        if schema.has_counters() {
            modify.check_counters()?;
        }
        Ok(modify)
    }

    fn insert(schema: &Schema, table: &str, insert: &Insert) -> Result<Self, String> {
        let condition = If::resolve(schema, table, &insert.conditions)?;
        let mut changes: Vec<(usize, Change)> = Vec::new();
        for (name, term) in insert.columns.iter().zip(&insert.values) {
            let place = place(schema, table, name)?;
            if changes.iter().any(|(other, _)| *other == place) {
                return Err(format!("The column names contains duplicates: {name}"));
            }
            changes.push((place, Change::Set(term.clone())));
        }
        let wheres = Where::resolve(schema, table, &[])?;
        let (using, json) = (insert.using.clone(), insert.json.clone());
        Ok(Self { kind: Kind::Insert, wheres, changes, using, condition, json })
    }

    /// The row of an INSERT JSON.
    #[must_use]
    pub fn json(&self) -> Option<&InsertJson> {
        self.json.as_ref()
    }

    /// Has every column set from a bind marker, from number `first` on: they get their values from
    /// the row of an INSERT JSON ([`crate::cql::json::columns`]) when it is known.
    pub fn spread_json(&mut self, schema: &Schema, first: usize) {
        let set = |place| (place, Change::Set(Term::Bind(first + place)));
        self.changes = (0..schema.columns().len()).map(set).collect();
    }

    fn update(schema: &Schema, table: &str, update: &Update) -> Result<Self, String> {
        let condition = If::resolve(schema, table, &update.conditions)?;
        let (mut changes, mut earlier) = (Vec::new(), BTreeMap::new());
        for (target, term) in &update.assignments {
            let (place, change) = assignment(schema, table, target, term)?;
            if schema.columns()[place].is_key() {
                let name = &schema.columns()[place].name;
                return Err(format!("PRIMARY KEY part {name} found in SET part"));
            }
            // Parts of a column may be set beside each other, and nothing beside the whole of it.
            let is_whole = !matches!(change, Change::Element(..) | Change::Field(..));
            let before = earlier.insert(place, is_whole);
            if before.is_some_and(|was_whole| is_whole || was_whole) {
                let name = &schema.columns()[place].name;
                return Err(format!("Multiple incompatible setting of column {name}"));
            }
            changes.push((place, change));
        }
        let wheres = Where::resolve(schema, table, &update.relations)?;
        let using = update.using.clone();
        Ok(Self { kind: Kind::Update, wheres, changes, using, condition, json: None })
    }

    fn delete(schema: &Schema, table: &str, delete: &Delete) -> Result<Self, String> {
        let condition = If::resolve(schema, table, &delete.conditions)?;
        let mut changes = Vec::new();
        for target in &delete.targets {
            let (place, change) = assignment(schema, table, target, &Term::Null)?;
            if schema.columns()[place].is_key() {
                let name = &schema.columns()[place].name;
                return Err(format!(
                    "Invalid identifier {name} for deletion (should not be a PRIMARY KEY part)"
                ));
            }
            changes.push((place, change));
        }
        if delete.using.ttl.is_some() {
            return Err("a DELETE has no TTL".to_owned());
        }
        let wheres = Where::resolve(schema, table, &delete.relations)?;
        let using = delete.using.clone();
        Ok(Self { kind: Kind::Delete, wheres, changes, using, condition, json: None })
    }

    /// True when it changes a static column.
    #[must_use]
    pub fn writes_static(&self, schema: &Schema) -> bool {
        self.changes.iter().any(|(at, _)| schema.columns()[*at].role == Role::Static)
    }

    fn only_static(&self, schema: &Schema) -> bool {
        let mut values = self.changes.iter().filter(|(at, _)| !schema.columns()[*at].is_key());
        self.changes.iter().any(|(at, _)| schema.columns()[*at].role == Role::Static)
            && values.all(|(at, _)| schema.columns()[*at].role == Role::Static)
    }

    /// True when no clustering column is given, and need not be.
    fn is_static_write(&self, schema: &Schema) -> bool {
        let key = schema.partition_key().len()
            ..schema.partition_key().len() + schema.clustering_key().len();
        let given = match self.kind {
            Kind::Insert => self.changes.iter().any(|(at, _)| key.contains(at)),
            Kind::Update | Kind::Delete => self.wheres.restricts_clustering(schema),
        };
        !key.is_empty() && !given && self.only_static(schema)
    }

    fn check(&self, schema: &Schema) -> Result<(), String> {
        if self.condition.is_some() {
            if self.using.timestamp.is_some() {
                return Err("Cannot provide custom timestamp for conditional updates".to_owned());
            }
            if self.wheres.has_in() {
                return Err(
                    "IN on the key columns is not supported with conditional updates".to_owned()
                );
            }
            if self.kind != Kind::Insert && self.condition.is_not_exists() {
                return Err("IF NOT EXISTS belongs to an INSERT".to_owned());
            }
        }
        if self.json.is_some() {
            // Of which columns it has values is not known yet.
            return Ok(());
        }
        if self.kind == Kind::Insert {
            for (place, column) in schema.columns().iter().enumerate() {
                let given = self.changes.iter().any(|(at, _)| *at == place);
                let needed = match column.role {
                    Role::Partition(_) => true,
                    Role::Clustering { .. } => !self.is_static_write(schema),
                    Role::Static | Role::Regular => false,
                };
                if needed && !given {
                    return Err(format!("Some partition key parts are missing: {}", column.name)
                        .replace(
                            "partition key",
                            if column.role == Role::Partition(0) {
                                "partition key"
                            } else {
                                "primary key"
                            },
                        ));
                }
            }
            return Ok(());
        }
        self.wheres.check_partition_key(schema)?;
        if !self.wheres.names_partitions(schema) {
            let names: Vec<&str> =
                schema.partition_key().iter().map(|column| column.name.as_str()).collect();
            return Err(format!("Some partition key parts are missing: {}", names.join(", ")));
        }
        if self.wheres.leaves_rows_out(schema) {
            return Err("A write's WHERE may name key columns only, in order".to_owned());
        }
        Ok(())
    }

    /// The types of its bind markers.
    #[must_use]
    pub fn bind_types(&self, schema: &Schema) -> Vec<MarkerType> {
        let mut out = self.wheres.bind_types(schema);
        if let Some(json) = &self.json {
            markers(&json.row, "[json]", &CqlType::Text, None, &mut out);
        }
        for (place, change) in &self.changes {
            let column = &schema.columns()[*place];
            let (name, kind) = (&column.name, &column.kind);
            match change {
                Change::Set(term) => {
                    let at = (self.kind == Kind::Insert).then_some(*place);
                    markers(term, name, kind, at, &mut out);
                }
                Change::Append(term) | Change::Prepend(term) => {
                    markers(term, name, kind, None, &mut out);
                }
                Change::Subtract(term) => {
                    markers(term, name, &subtracted(kind), None, &mut out);
                }
                Change::Field(at, term) => {
                    if let CqlType::Udt(udt) = kind
                        && let Some((field, kind)) = udt.fields.get(*at)
                    {
                        markers(term, &format!("{name}.{field}"), kind, None, &mut out);
                    }
                }
                Change::Element(key, term) => match kind {
                    CqlType::Map(of_key, of_value) => {
                        markers(key, &format!("key({name})"), of_key, None, &mut out);
                        markers(term, &format!("value({name})"), of_value, None, &mut out);
                    }
                    CqlType::List(inner) => {
                        markers(key, &format!("idx({name})"), &CqlType::Int, None, &mut out);
                        markers(term, &format!("value({name})"), inner, None, &mut out);
                    }
                    CqlType::Set(inner) => {
                        markers(key, &format!("value({name})"), inner, None, &mut out);
                    }
                    _ => {}
                },
            }
        }
        self.condition.bind_types(schema, &mut out);
        out.extend(using_types(&self.using));
        out
    }

    /// True if it names its own stamp.
    #[must_use]
    pub fn has_timestamp(&self) -> bool {
        self.using.timestamp.is_some()
    }

    /// The same, if `condition` holds, in the place of its own.
    ///
    /// # Errors
    /// A sentence for the client: there are no conditions on counters.
    pub fn only_if(mut self, schema: &Schema, condition: If) -> Result<Self, String> {
        self.condition = condition;
        if schema.has_counters() {
            self.check_counters()?;
        }
        Ok(self)
    }

    /// What must hold for it.
    #[must_use]
    pub fn condition(&self) -> &If {
        &self.condition
    }

    /// True when the rows that it changes must be read first: it names places of a list.
    #[must_use]
    pub fn needs_read(&self, schema: &Schema) -> bool {
        self.changes.iter().any(|(place, change)| {
            matches!(schema.columns()[*place].kind, CqlType::List(_))
                && matches!(change, Change::Element(..) | Change::Subtract(_))
        })
    }

    /// The keys (partition, clustering) of the rows that it writes, whole ones only.
    ///
    /// # Errors
    /// A sentence for the client.
    pub fn keys(&self, schema: &Schema, binds: Binds<'_>) -> Result<Vec<RowKey>, String> {
        let partitions = self.partitions(schema, binds)?;
        let (prefixes, whole) = self.clusterings(schema, binds)?;
        if !whole {
            return Ok(Vec::new());
        }
        let pairs = partitions
            .iter()
            .flat_map(|p| prefixes.iter().map(move |(c, _)| (p.clone(), c.clone())));
        Ok(pairs.collect())
    }

    /// The keys of the partitions that it writes.
    ///
    /// # Errors
    /// A sentence for the client.
    pub fn partitions(&self, schema: &Schema, binds: Binds<'_>) -> Result<Vec<Vec<u8>>, String> {
        if self.kind != Kind::Insert {
            let tests = self.wheres.bind(schema, binds)?;
            return Ok(tests.partitions(schema)?.unwrap_or_default());
        }
        let mut values = Vec::new();
        for place in 0..schema.partition_key().len() {
            values.push(self.key_value(schema, place, binds)?);
        }
        if values.iter().any(|value| value.len() > usize::from(u16::MAX)) {
            return Err("Key length of more than 65535 bytes".to_owned());
        }
        if values.len() == 1 && values[0].is_empty() {
            return Err("Key may not be empty".to_owned());
        }
        Ok(vec![partition_bytes(&values)])
    }

    fn key_value(
        &self,
        schema: &Schema,
        place: usize,
        binds: Binds<'_>,
    ) -> Result<Vec<u8>, String> {
        let column = &schema.columns()[place];
        let change = self.changes.iter().find(|(at, _)| *at == place);
        let Some((_, Change::Set(term))) = change else {
            return Err(format!("Some primary key parts are missing: {}", column.name));
        };
        match evaluate(term, &column.kind, binds)? {
            Bound::Value(bytes) => Ok(bytes),
            Bound::Null => {
                Err(format!("Invalid null value in condition for column {}", column.name))
            }
            Bound::Unset => {
                Err(format!("Invalid unset value in condition for column {}", column.name))
            }
        }
    }

    /// The rows that it writes in each partition: whole clustering keys, or (`false`) slices.
    #[allow(clippy::type_complexity, reason = "(start, end) of each, and whether they are rows")]
    fn clusterings(
        &self,
        schema: &Schema,
        binds: Binds<'_>,
    ) -> Result<(Vec<(Vec<u8>, Vec<u8>)>, bool), String> {
        let key = schema.clustering_key();
        if key.is_empty() || self.is_static_write(schema) {
            // No clustering column is given: the head of the partition.
            if self.wheres.restricts_clustering(schema) {
                return Err("there are no clustering columns to restrict".to_owned());
            }
            return Ok((vec![(Vec::new(), Vec::new())], true));
        }
        if self.kind == Kind::Insert {
            let mut bytes = Vec::new();
            for (at, column) in key.iter().enumerate() {
                let place = schema.partition_key().len() + at;
                bytes.extend(component(column, &self.key_value(schema, place, binds)?));
            }
            return Ok((vec![(bytes.clone(), bytes)], true));
        }
        let tests = self.wheres.bind(schema, binds)?;
        let slices = tests.slices(schema)?;
        let whole = tests.names_rows(schema);
        if !whole && (self.kind == Kind::Update || !self.changes.is_empty()) {
            let names: Vec<&str> = key.iter().map(|column| column.name.as_str()).collect();
            return Err(format!("Some clustering keys are missing: {}", names.join(", ")));
        }
        Ok((slices.into_iter().map(|slice| (slice.start, slice.end)).collect(), whole))
    }

    /// What to merge.
    ///
    /// # Errors
    /// A sentence for the client.
    pub fn mutations(
        &self,
        schema: &Schema,
        binds: Binds<'_>,
        moment: &Moment<'_>,
    ) -> Result<Vec<Mutation>, String> {
        let stamp = self.stamp(binds, moment)?;
        let expiry = self.expiry(schema, binds, moment)?;
        let (clusterings, whole) = self.clusterings(schema, binds)?;
        let mut out = Vec::new();
        for partition in self.partitions(schema, binds)? {
            let mut mutation = Mutation { partition, rows: BTreeMap::new() };
            for (start, end) in &clusterings {
                if whole {
                    let write = Write { schema, binds, moment, stamp, expiry };
                    self.write_row(&write, &mut mutation, start)?;
                } else if start.is_empty() && *end == [crate::cql::order::AFTER] {
                    mutation.rows.entry(Vec::new()).or_default().delete(stamp);
                } else {
                    let range = RangeDeletion {
                        start: start.clone().into(),
                        end: end.clone().into(),
                        stamp,
                    };
                    mutation.rows.entry(Vec::new()).or_default().delete_range(range);
                }
            }
            mutation.rows.retain(|_, row| !row.is_blank());
            out.push(mutation);
        }
        Ok(out)
    }

    fn stamp(&self, binds: Binds<'_>, moment: &Moment<'_>) -> Result<i64, String> {
        let given = number(self.using.timestamp.as_ref(), &CqlType::Bigint, binds)?;
        let stamp = given.unwrap_or(moment.stamp);
        let clock = i64::try_from(moment.clock.0).unwrap_or(i64::MAX);
        if stamp > clock.saturating_add(MAX_AHEAD) {
            return Err(format!(
                "the timestamp {stamp} is more than a day in the future: nobody could delete it"
            ));
        }
        if stamp == i64::MIN {
            return Err("the timestamp is out of bounds".to_owned());
        }
        Ok(stamp)
    }

    fn expiry(
        &self,
        schema: &Schema,
        binds: Binds<'_>,
        moment: &Moment<'_>,
    ) -> Result<Option<Expiry>, String> {
        let given = number(self.using.ttl.as_ref(), &CqlType::Int, binds)?;
        let ttl = given.unwrap_or(i64::from(schema.default_ttl_s));
        if ttl < 0 {
            return Err(format!("A TTL must be greater or equal to 0, but was {ttl}"));
        }
        if ttl > MAX_TTL_S {
            return Err(format!("ttl is too large. requested ({ttl}) maximum ({MAX_TTL_S})"));
        }
        let ttl_s = u32::try_from(ttl).unwrap_or(0);
        let at = WallMicros(moment.now.0.saturating_add(u64::from(ttl_s) * 1_000_000));
        Ok((ttl_s > 0).then_some(Expiry { at, ttl_s }))
    }

    fn write_row(
        &self,
        write: &Write<'_>,
        mutation: &mut Mutation,
        clustering: &[u8],
    ) -> Result<(), String> {
        let schema = write.schema;
        if self.kind == Kind::Delete && self.changes.is_empty() {
            mutation.rows.entry(clustering.to_vec()).or_default().delete(write.stamp);
            return Ok(());
        }
        if self.kind == Kind::Insert && !self.is_static_write(schema) {
            let liveness = Liveness { stamp: write.stamp, expiry: write.expiry };
            mutation.rows.entry(clustering.to_vec()).or_default().insert(liveness);
        }
        for (place, change) in &self.changes {
            let column = &schema.columns()[*place];
            let at = match column.role {
                Role::Partition(_) | Role::Clustering { .. } => continue,
                Role::Static => Vec::new(),
                Role::Regular => clustering.to_vec(),
            };
            let key = (mutation.partition.clone(), clustering.to_vec());
            let row = mutation.rows.entry(at).or_default();
            write.change(self.kind, row, column, change, &key)?;
        }
        Ok(())
    }
}

/// Bind markers of USING.
fn using_types(using: &Using) -> Vec<MarkerType> {
    let mut out = Vec::new();
    let ttl = using.ttl.iter().map(|term| (term, "[ttl]", CqlType::Int));
    let timestamp = using.timestamp.iter().map(|term| (term, "[timestamp]", CqlType::Bigint));
    for (term, name, kind) in ttl.chain(timestamp) {
        markers(term, name, &kind, None, &mut out);
    }
    out
}

fn number(term: Option<&Term>, kind: &CqlType, binds: Binds<'_>) -> Result<Option<i64>, String> {
    let Some(term) = term else { return Ok(None) };
    match evaluate(term, kind, binds)? {
        Bound::Value(bytes) => match value::integer(&bytes) {
            Some(number) => Ok(Some(number)),
            None => Err("an empty value where a number must be".to_owned()),
        },
        Bound::Null | Bound::Unset => Ok(None),
    }
}

fn place(schema: &Schema, table: &str, name: &str) -> Result<usize, String> {
    schema.place(name).ok_or_else(|| format!("Undefined column name {name} in table {table}"))
}
