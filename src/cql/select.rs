//! SELECT: its columns, looked up and typed, and what they make of rows.

mod aggregate;
mod nearest;

use bytes::Bytes;

use crate::cql::ast::{Select, Selector, Term};
use crate::cql::functions;
use crate::cql::json;
use crate::cql::relations::{MarkerType, Where, markers};
use crate::cql::rows::RowView;
use crate::cql::schema::{Role, Schema};
use crate::cql::term::{Binds, Bound, evaluate};
use crate::cql::types::{CqlType, RawType, UdtType};
use crate::cql::value;

use std::sync::Arc;

use self::aggregate::{Aggregate, aggregate_kind};

pub use aggregate::Accumulator;
pub use nearest::MAX_NEAREST;

/// A column of the result.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Output {
    /// Its name.
    pub name: String,
    /// Its type.
    pub kind: CqlType,
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum Expression {
    Column(usize),
    WriteTime(usize),
    Ttl(usize),
    Token,
    Literal(Term, CqlType),
    Call(String, Vec<(Expression, CqlType)>),
    Cast(Box<Expression>, CqlType, CqlType),
    Field(Box<Expression>, usize, usize),
    Element(Box<Expression>, CqlType, Term),
    Aggregate(Aggregate, Box<Expression>, CqlType),
    ToJson(Box<Expression>, CqlType),
}

/// Finds user types by (keyspace, name).
pub type FindUdt<'a> = &'a dyn Fn(Option<&str>, &str) -> Option<Arc<UdtType>>;

/// A SELECT whose names are looked up.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Query {
    /// The columns of the result.
    pub outputs: Vec<Output>,
    /// Of SELECT JSON: the columns that are shown as one.
    json: Option<Vec<Output>>,
    expressions: Vec<Expression>,
    /// Its WHERE.
    pub wheres: Where,
    /// Rows may be read that are then left out.
    pub allows_filtering: bool,
    /// One row for each partition.
    pub distinct: bool,
    /// Places of the columns of GROUP BY.
    group_by: Vec<usize>,
    /// Against the clustering order.
    pub reversed: bool,
    /// Places of the columns that rows of several partitions are sorted by, and whether downwards.
    pub order_by: Vec<(usize, bool)>,
    /// The place of a column of vectors, and the one that those of the rows shown are nearest to.
    pub nearest: Option<(usize, Term)>,
    /// LIMIT.
    pub limit: Option<Term>,
    /// PER PARTITION LIMIT.
    pub per_partition: Option<Term>,
}

struct Resolver<'a> {
    schema: &'a Schema,
    table: &'a str,
    udt: FindUdt<'a>,
}

type Typed = (Expression, CqlType, String);

impl Resolver<'_> {
    fn place(&self, name: &str) -> Result<usize, String> {
        let place = self.schema.place(name);
        place.ok_or_else(|| format!("Undefined column name {name} in table {}", self.table))
    }

    fn selector(&self, selector: &Selector, inside: bool) -> Result<Typed, String> {
        match selector {
            Selector::Column(name) => {
                let place = self.place(name)?;
                Ok((
                    Expression::Column(place),
                    self.schema.columns()[place].kind.clone(),
                    name.clone(),
                ))
            }
            Selector::CountAll => {
                let literal = Box::new(Expression::Literal(Term::Null, CqlType::Int));
                let count = Expression::Aggregate(Aggregate::CountAll, literal, CqlType::Int);
                Ok((count, CqlType::Bigint, "count".to_owned()))
            }
            Selector::WriteTime(name) | Selector::Ttl(name) => {
                let place = self.place(name)?;
                let column = &self.schema.columns()[place];
                let is_time = matches!(selector, Selector::WriteTime(_));
                let word = if is_time { "writetime" } else { "ttl" };
                if column.is_key() || column.kind.is_multicell() {
                    return Err(format!(
                        "Cannot use selection function {word} on {}",
                        if column.is_key() { "PRIMARY KEY part " } else { "collections: " }
                            .to_owned()
                            + name
                    ));
                }
                Ok(if is_time {
                    (Expression::WriteTime(place), CqlType::Bigint, format!("writetime({name})"))
                } else {
                    (Expression::Ttl(place), CqlType::Int, format!("ttl({name})"))
                })
            }
            Selector::Function(name, arguments) => self.function(name, arguments, inside),
            Selector::Cast(inner, raw) => {
                let (expression, from, name) = self.selector(inner, inside)?;
                let to = self.kind(raw)?;
                let cast = Expression::Cast(Box::new(expression), from, to.clone());
                Ok((cast, to.clone(), format!("cast({name} as {to})")))
            }
            Selector::Field(inner, field) => {
                let (expression, kind, name) = self.selector(inner, inside)?;
                let CqlType::Udt(udt) = kind.thawed() else {
                    return Err(format!(
                        "Invalid field selection: {name} of type {kind} is not a user type"
                    ));
                };
                let at = udt.fields.iter().position(|(own, _)| own == field);
                let at = at
                    .ok_or_else(|| format!("{} of type {} has no field {field}", name, udt.name))?;
                let of_field = udt.fields[at].1.clone();
                let expression = Expression::Field(Box::new(expression), at, udt.fields.len());
                Ok((expression, of_field, format!("{name}.{field}")))
            }
            Selector::Element(inner, key) => {
                let (expression, kind, name) = self.selector(inner, inside)?;
                let of = match kind.thawed() {
                    CqlType::Map(_, value) => (**value).clone(),
                    CqlType::Set(inner) => (**inner).clone(),
                    _ => {
                        return Err(format!("Invalid element selection: {name} is of type {kind}"));
                    }
                };
                let label = format!("{name}[{key}]");
                Ok((Expression::Element(Box::new(expression), kind, key.clone()), of, label))
            }
            Selector::Literal(term) => {
                let kind = self.literal_kind(term)?;
                Ok((Expression::Literal(term.clone(), kind.clone()), kind, term.to_string()))
            }
        }
    }

    fn kind(&self, raw: &RawType) -> Result<CqlType, String> {
        raw.resolve(self.udt)
    }

    fn literal_kind(&self, term: &Term) -> Result<CqlType, String> {
        Ok(match term {
            Term::Integer(_) => CqlType::Int,
            Term::Float(_) => CqlType::Double,
            Term::Text(_) => CqlType::Text,
            Term::Boolean(_) => CqlType::Boolean,
            Term::Uuid(_) => CqlType::Uuid,
            Term::Blob(_) => CqlType::Blob,
            Term::Duration(_) => CqlType::Duration,
            Term::Cast(raw, _) => self.kind(raw)?,
            _ => {
                return Err(format!(
                    "Cannot infer type for term {term} in selection clause (try using a cast to force a type)"
                ));
            }
        })
    }

    fn function(&self, name: &str, arguments: &[Selector], inside: bool) -> Result<Typed, String> {
        let aggregate = match name {
            "count" => Some(Aggregate::Count),
            "min" => Some(Aggregate::Min),
            "max" => Some(Aggregate::Max),
            "sum" => Some(Aggregate::Sum),
            "avg" => Some(Aggregate::Avg),
            _ => None,
        };
        if let Some(aggregate) = aggregate {
            let [argument] = arguments else {
                return Err(format!("Invalid number of arguments for function system.{name}"));
            };
            if inside {
                return Err(
                    "aggregate functions cannot be used as arguments of aggregate functions"
                        .to_owned(),
                );
            }
            let (expression, kind, label) = self.selector(argument, true)?;
            let result = aggregate_kind(aggregate, name, &kind)?;
            let expression = Expression::Aggregate(aggregate, Box::new(expression), kind);
            return Ok((expression, result, format!("system.{name}({label})")));
        }
        if name == "token" {
            let wanted: Vec<Selector> = self
                .schema
                .partition_key()
                .iter()
                .map(|column| Selector::Column(column.name.clone()))
                .collect();
            if arguments != wanted {
                return Err("the token function takes the columns of the partition key, in order"
                    .to_owned());
            }
            let names: Vec<&str> =
                self.schema.partition_key().iter().map(|c| c.name.as_str()).collect();
            let label = format!("system.token({})", names.join(", "));
            return Ok((Expression::Token, CqlType::Bigint, label));
        }
        if functions::is_to_json(name) {
            let [argument] = arguments else {
                return Err(format!("Invalid number of arguments for function system.{name}"));
            };
            let (expression, kind, label) = self.selector(argument, true)?;
            let label = format!("system.{name}({label})");
            return Ok((Expression::ToJson(Box::new(expression), kind), CqlType::Text, label));
        }
        if nearest::is_similarity(name) {
            return self.similarity(name, arguments, inside);
        }
        let Some((kinds, result)) = functions::signature(name, None) else {
            return Err(format!("Unknown function '{name}'"));
        };
        if kinds.len() != arguments.len() {
            return Err(format!(
                "Invalid number of arguments in call to function {name}: {} required but {} provided",
                kinds.len(),
                arguments.len()
            ));
        }
        let mut typed = Vec::new();
        let mut labels = Vec::new();
        for (argument, wanted) in arguments.iter().zip(kinds) {
            let (expression, kind, label) = match argument {
                Selector::Literal(term) if !matches!(term, Term::Cast(..)) => {
                    let literal = Expression::Literal(term.clone(), wanted.clone());
                    (literal, wanted.clone(), term.to_string())
                }
                other => self.selector(other, inside)?,
            };
            if !functions::takes(&wanted, &kind) {
                return Err(functions::misfit(name, &wanted, &kind));
            }
            typed.push((expression, kind));
            labels.push(label);
        }
        let label = format!("system.{name}({})", labels.join(", "));
        Ok((Expression::Call(name.to_owned(), typed), result, label))
    }
}

impl Query {
    /// Looks up the names of a SELECT.
    ///
    /// # Errors
    /// A sentence for the client.
    pub fn resolve(
        schema: &Schema,
        table: &str,
        select: &Select,
        udt: FindUdt<'_>,
    ) -> Result<Self, String> {
        let resolver = Resolver { schema, table, udt };
        let mut outputs = Vec::new();
        let mut expressions = Vec::new();
        if select.items.is_empty() {
            for (place, column) in schema.columns().iter().enumerate() {
                outputs.push(Output { name: column.name.clone(), kind: column.kind.clone() });
                expressions.push(Expression::Column(place));
            }
        }
        for item in &select.items {
            let (expression, kind, name) = resolver.selector(&item.selector, false)?;
            outputs.push(Output { name: item.alias.clone().unwrap_or(name), kind });
            expressions.push(expression);
        }
        let wheres = Where::resolve(schema, table, &select.relations)?;
        if !select.allow_filtering {
            wheres.check_partition_key(schema)?;
        }
        if wheres.needs_filtering(schema) && !select.allow_filtering {
            return Err(crate::cql::relations::NEEDS_FILTERING.to_owned());
        }
        let mut json = None;
        if select.json {
            let shown = Output { name: "[json]".to_owned(), kind: CqlType::Text };
            json = Some(std::mem::replace(&mut outputs, vec![shown]));
        }
        let mut query = Self {
            outputs,
            json,
            expressions,
            wheres,
            allows_filtering: select.allow_filtering,
            distinct: select.distinct,
            group_by: Vec::new(),
            reversed: false,
            order_by: Vec::new(),
            nearest: None,
            limit: select.limit.clone(),
            per_partition: select.per_partition_limit.clone(),
        };
        query.check_distinct(schema)?;
        query.resolve_order(schema, table, select)?;
        query.resolve_groups(schema, table, select)?;
        query.nearest = resolver.nearest(&query, select)?;
        Ok(query)
    }

    fn check_distinct(&self, schema: &Schema) -> Result<(), String> {
        if !self.distinct {
            return Ok(());
        }
        let allowed = |expression: &Expression| match expression {
            Expression::Column(at) => {
                matches!(schema.columns()[*at].role, Role::Partition(_) | Role::Static)
            }
            Expression::Token | Expression::Aggregate(..) => true,
            _ => false,
        };
        if self.expressions.iter().all(allowed) {
            return Ok(());
        }
        Err("SELECT DISTINCT queries must only request partition key columns and/or static columns"
            .to_owned())
    }

    fn resolve_order(
        &mut self,
        schema: &Schema,
        table: &str,
        select: &Select,
    ) -> Result<(), String> {
        if select.order_by.is_empty() {
            return Ok(());
        }
        if !self.wheres.names_partitions(schema) {
            return Err("ORDER BY is only supported when the partition key is restricted by an EQ or an IN.".to_owned());
        }
        let resolver = Resolver { schema, table, udt: &|_, _| None };
        let mut turned: Option<bool> = None;
        for (at, (name, descending)) in select.order_by.iter().enumerate() {
            let place = resolver.place(name)?;
            let Role::Clustering { at: own, descending: stored } = schema.columns()[place].role
            else {
                return Err(format!(
                    "Order by is currently only supported on the clustered columns of the PRIMARY KEY, got {name}"
                ));
            };
            let reversed = stored != *descending;
            if usize::from(own) != at || turned.is_some_and(|turned| turned != reversed) {
                return Err("Unsupported order by relation: order by the clustering columns in their order, or all of them reversed".to_owned());
            }
            turned = Some(reversed);
            self.order_by.push((place, *descending));
        }
        self.reversed = turned.unwrap_or(false);
        Ok(())
    }

    fn resolve_groups(
        &mut self,
        schema: &Schema,
        table: &str,
        select: &Select,
    ) -> Result<(), String> {
        let resolver = Resolver { schema, table, udt: &|_, _| None };
        for (at, name) in select.group_by.iter().enumerate() {
            let place = resolver.place(name)?;
            if !schema.columns()[place].is_key() || place != at {
                return Err("Group by currently only support groups of columns following their declared order in the PRIMARY KEY".to_owned());
            }
            self.group_by.push(place);
        }
        Ok(())
    }

    /// The places of its columns, if it shows columns as they are, and all rows that match.
    #[must_use]
    pub fn plain_columns(&self) -> Option<Vec<usize>> {
        let limited = self.limit.is_some() || self.per_partition.is_some();
        if limited || self.distinct || self.json.is_some() || self.is_aggregate() {
            return None;
        }
        let place_of = |expression: &Expression| match expression {
            Expression::Column(place) => Some(*place),
            _ => None,
        };
        self.expressions.iter().map(place_of).collect()
    }

    /// True when rows are counted or summed up, not shown each.
    #[must_use]
    pub fn is_aggregate(&self) -> bool {
        !self.group_by.is_empty()
            || self.expressions.iter().any(|e| matches!(e, Expression::Aggregate(..)))
    }

    /// The types of its bind markers.
    #[must_use]
    pub fn bind_types(&self, schema: &Schema) -> Vec<MarkerType> {
        let mut out = Vec::new();
        for expression in &self.expressions {
            expression_markers(expression, &mut out);
        }
        out.extend(self.wheres.bind_types(schema));
        if let Some((place, term)) = &self.nearest {
            let column = &schema.columns()[*place];
            markers(term, &column.name, &column.kind, None, &mut out);
        }
        for (term, name) in
            [(&self.per_partition, "[per_partition_limit]"), (&self.limit, "[limit]")]
        {
            if let Some(term) = term {
                markers(term, name, &CqlType::Int, None, &mut out);
            }
        }
        out
    }

    /// The columns of a row of the result.
    ///
    /// # Errors
    /// A sentence for the client.
    pub fn show(&self, row: &RowView, binds: Binds<'_>) -> Result<Vec<Option<Bytes>>, String> {
        let values = self.expressions.iter().map(|expression| value_of(expression, row, binds));
        Ok(self.shown(values.collect::<Result<_, _>>()?))
    }

    /// The columns of the result: the values, or one JSON object of them.
    fn shown(&self, values: Vec<Option<Bytes>>) -> Vec<Option<Bytes>> {
        let Some(columns) = &self.json else { return values };
        let columns = columns.iter().zip(&values);
        let columns =
            columns.map(|(column, value)| (column.name.as_str(), &column.kind, value.as_deref()));
        vec![Some(json::row(json::Form::Cassandra, columns).into())]
    }
}

fn expression_markers(expression: &Expression, out: &mut Vec<MarkerType>) {
    match expression {
        Expression::Literal(term, kind) => markers(term, "[value]", kind, None, out),
        Expression::Call(_, arguments) => {
            arguments.iter().for_each(|(argument, _)| expression_markers(argument, out));
        }
        Expression::Cast(inner, ..)
        | Expression::Field(inner, ..)
        | Expression::ToJson(inner, _)
        | Expression::Aggregate(_, inner, _) => expression_markers(inner, out),
        Expression::Element(inner, kind, key) => {
            expression_markers(inner, out);
            if let CqlType::Map(of_key, _) | CqlType::Set(of_key) = kind.thawed() {
                markers(key, "[key]", of_key, None, out);
            }
        }
        Expression::Column(_)
        | Expression::WriteTime(_)
        | Expression::Ttl(_)
        | Expression::Token => {}
    }
}

fn value_of(
    expression: &Expression,
    row: &RowView,
    binds: Binds<'_>,
) -> Result<Option<Bytes>, String> {
    Ok(match expression {
        Expression::Column(place) => row.values[*place].clone(),
        Expression::WriteTime(place) => {
            row.stamps[*place].map(|stamp| stamp.to_be_bytes().to_vec().into())
        }
        Expression::Ttl(place) => row.ttls[*place].map(|ttl| ttl.to_be_bytes().to_vec().into()),
        Expression::Token => Some(row.token.to_be_bytes().to_vec().into()),
        Expression::Literal(term, kind) => match evaluate(term, kind, binds)? {
            Bound::Value(bytes) => Some(bytes.into()),
            Bound::Null | Bound::Unset => None,
        },
        Expression::Call(name, arguments) => {
            let mut values = Vec::with_capacity(arguments.len());
            for (argument, kind) in arguments {
                let value = value_of(argument, row, binds)?;
                values.push((kind.clone(), value.map(|value| value.to_vec())));
            }
            functions::apply(name, &values, binds.now)?.1.map(Bytes::from)
        }
        Expression::Cast(inner, from, to) => match value_of(inner, row, binds)? {
            Some(bytes) => Some(functions::cast(from, to, &bytes)?.into()),
            None => None,
        },
        Expression::Field(inner, at, count) => value_of(inner, row, binds)?
            .and_then(|bytes| Some(value::fields(&bytes, *count)?[*at].map(Bytes::copy_from_slice)))
            .flatten(),
        Expression::Element(inner, kind, key) => {
            let whole = value_of(inner, row, binds)?;
            match (kind.thawed(), whole) {
                (CqlType::Map(of_key, _), Some(whole)) => {
                    let Bound::Value(key) = evaluate(key, of_key, binds)? else { return Ok(None) };
                    let items = value::elements(&whole, 2).unwrap_or_default();
                    let found =
                        items.chunks(2).find(|pair| value::compare(of_key, pair[0], &key).is_eq());
                    found.map(|pair| Bytes::copy_from_slice(pair[1]))
                }
                (CqlType::Set(inner), Some(whole)) => {
                    let Bound::Value(key) = evaluate(key, inner, binds)? else { return Ok(None) };
                    let items = value::elements(&whole, 1).unwrap_or_default();
                    let found = items.iter().find(|item| value::compare(inner, item, &key).is_eq());
                    found.map(|item| Bytes::copy_from_slice(item))
                }
                _ => None,
            }
        }
        Expression::Aggregate(_, inner, _) => value_of(inner, row, binds)?,
        Expression::ToJson(inner, kind) => {
            let value = value_of(inner, row, binds)?;
            Some(json::text(json::Form::Cassandra, kind, value.as_deref()).into())
        }
    })
}
