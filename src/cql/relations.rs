//! WHERE: what it restricts, whether that can be answered without filtering, which partitions and
//! slices it names, and whether a row satisfies it.

mod indexed;

use std::cmp::Ordering;

use crate::cql::ast::{InValues, Operator, Relation, Term};
use crate::cql::order::{self, AFTER};
use crate::cql::schema::{Column, Role, Schema};
use crate::cql::term::{Binds, Bound, evaluate};
use crate::cql::types::CqlType;
use crate::cql::value;
use crate::ring::token_of;

/// The most partitions, or slices of one, that a statement may name by IN.
const MAX_PRODUCT: usize = 10_000;

/// What Cassandra says of it.
pub const NEEDS_FILTERING: &str = "Cannot execute this query as it might involve data filtering \
    and thus may have unpredictable performance. If you want to execute this query despite the \
    performance unpredictability, use ALLOW FILTERING";

/// A bind marker of a WHERE: its number, name and type, and its column where it is one value of it.
pub type MarkerType = (usize, String, CqlType, Option<usize>);

/// A restriction on columns, which are named by their places in the schema.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Restriction {
    Compare { place: usize, operator: Operator, value: Term },
    In { place: usize, values: InValues },
    Token { operator: Operator, value: Term },
    Multi { places: Vec<usize>, operator: Operator, value: Term },
    MultiIn { places: Vec<usize>, values: InValues },
    Contains { place: usize, key: bool, value: Term },
    Element { place: usize, key: Term, operator: Operator, value: Term },
}

/// A WHERE whose names are looked up.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Where {
    restrictions: Vec<Restriction>,
}

/// The type of the token function.
const TOKEN: CqlType = CqlType::Bigint;

fn place(schema: &Schema, table: &str, name: &str) -> Result<usize, String> {
    schema.place(name).ok_or_else(|| format!("Undefined column name {name} in table {table}"))
}

fn tuple_of(schema: &Schema, places: &[usize]) -> CqlType {
    CqlType::Tuple(places.iter().map(|at| schema.columns()[*at].kind.clone()).collect())
}

fn list_of(kind: CqlType) -> CqlType {
    CqlType::List(Box::new(kind))
}

impl Where {
    /// Looks up the names of `relations`.
    ///
    /// # Errors
    /// A sentence for the client.
    pub fn resolve(schema: &Schema, table: &str, relations: &[Relation]) -> Result<Self, String> {
        let at = |name: &String| place(schema, table, name);
        let mut restrictions = Vec::with_capacity(relations.len());
        for relation in relations {
            restrictions.push(match relation.clone() {
                Relation::Column { column, operator, value } => {
                    Restriction::Compare { place: at(&column)?, operator, value }
                }
                Relation::In { column, values } => Restriction::In { place: at(&column)?, values },
                Relation::Token { columns, operator, value } => {
                    let key: Vec<&str> =
                        schema.partition_key().iter().map(|c| c.name.as_str()).collect();
                    if columns != key {
                        return Err(format!(
                            "The token function arguments must be in the partition key order: {}",
                            key.join(", ")
                        ));
                    }
                    Restriction::Token { operator, value }
                }
                Relation::Multi { columns, operator, value } => {
                    let places = clustering_places(schema, table, &columns)?;
                    Restriction::Multi { places, operator, value }
                }
                Relation::MultiIn { columns, values } => {
                    let places = clustering_places(schema, table, &columns)?;
                    Restriction::MultiIn { places, values }
                }
                Relation::Contains { column, value } => {
                    Restriction::Contains { place: at(&column)?, key: false, value }
                }
                Relation::ContainsKey { column, value } => {
                    Restriction::Contains { place: at(&column)?, key: true, value }
                }
                Relation::Element { column, key, operator, value } => {
                    Restriction::Element { place: at(&column)?, key, operator, value }
                }
            });
        }
        let all = Self { restrictions };
        all.check(schema)?;
        Ok(all)
    }

    fn check(&self, schema: &Schema) -> Result<(), String> {
        for restriction in &self.restrictions {
            if let Restriction::Compare { place, operator, .. } = restriction {
                let column = &schema.columns()[*place];
                if *operator == Operator::NotEqual {
                    return Err(format!("Unsupported '!=' relation: {} != ?", column.name));
                }
                if column.kind.is_multicell() {
                    return Err(format!(
                        "Collection column '{}' ({}) cannot be restricted by a '{operator}' relation",
                        column.name, column.kind
                    ));
                }
                let equal = *operator == Operator::Equal;
                let again = self.restrictions.iter().filter(|other| match other {
                    Restriction::Compare { place: at, operator, .. } => {
                        at == place && (equal || *operator == Operator::Equal)
                    }
                    Restriction::In { place: at, .. } => at == place && equal,
                    _ => false,
                });
                if again.count() > usize::from(equal) {
                    return Err(format!(
                        "{} cannot be restricted by more than one relation if it includes an Equal",
                        column.name
                    ));
                }
            }
            if let Restriction::Contains { place, key, .. } = restriction {
                let column = &schema.columns()[*place];
                let fits = column.kind.is_collection()
                    && (!key || matches!(column.kind.thawed(), CqlType::Map(..)));
                if !fits {
                    return Err(format!("Cannot use CONTAINS on column {}", column.name));
                }
            }
            if let Restriction::Element { place, .. } = restriction {
                let column = &schema.columns()[*place];
                if !matches!(column.kind.thawed(), CqlType::Map(..)) {
                    return Err(format!("Column {} is no map", column.name));
                }
            }
        }
        Ok(())
    }

    /// The types that bind markers in this WHERE have: (marker, name, type, column).
    #[must_use]
    pub fn bind_types(&self, schema: &Schema) -> Vec<MarkerType> {
        let mut out = Vec::new();
        let column = |at: usize| &schema.columns()[at];
        let names = |places: &[usize]| {
            places.iter().map(|at| column(*at).name.clone()).collect::<Vec<_>>().join(",")
        };
        for restriction in &self.restrictions {
            match restriction {
                Restriction::Compare { place, operator, value } => {
                    let at = (*operator == Operator::Equal).then_some(*place);
                    markers(value, &column(*place).name, &column(*place).kind, at, &mut out);
                }
                Restriction::In { place, values } => {
                    in_markers(values, &column(*place).name, &column(*place).kind, &mut out);
                }
                Restriction::Token { value, .. } => {
                    token_markers(value, schema, &mut out);
                }
                Restriction::Multi { places, value, .. } => {
                    let name = format!("({})", names(places));
                    markers(value, &name, &tuple_of(schema, places), None, &mut out);
                }
                Restriction::MultiIn { places, values } => {
                    in_markers(values, &names(places), &tuple_of(schema, places), &mut out);
                }
                Restriction::Contains { place, key, value } => {
                    let kind = contained(&column(*place).kind, *key);
                    let what = if *key { "key" } else { "value" };
                    let name = format!("{what}({})", column(*place).name);
                    markers(value, &name, &kind, None, &mut out);
                }
                Restriction::Element { place, key, value, .. } => {
                    if let CqlType::Map(key_kind, value_kind) = column(*place).kind.thawed() {
                        let name = &column(*place).name;
                        markers(key, &format!("key({name})"), key_kind, None, &mut out);
                        markers(value, &format!("value({name})"), value_kind, None, &mut out);
                    }
                }
            }
        }
        out
    }

    fn restricts(&self, place: usize) -> Option<bool> {
        let mut found = None;
        for restriction in &self.restrictions {
            let (touches, exact) = match restriction {
                Restriction::Compare { place: at, operator, .. } => {
                    (*at == place, *operator == Operator::Equal)
                }
                Restriction::In { place: at, .. } => (*at == place, true),
                Restriction::Multi { places, operator, .. } => {
                    (places.contains(&place), *operator == Operator::Equal)
                }
                Restriction::MultiIn { places, .. } => (places.contains(&place), true),
                Restriction::Token { .. }
                | Restriction::Contains { .. }
                | Restriction::Element { .. } => (false, false),
            };
            if touches {
                found = Some(found.unwrap_or(false) || exact);
            }
        }
        found
    }

    /// True when every column of the partition key is restricted by `=` or IN.
    #[must_use]
    pub fn names_partitions(&self, schema: &Schema) -> bool {
        (0..schema.partition_key().len()).all(|at| self.restricts(at) == Some(true))
    }

    /// The bind markers of the key's columns, in its order: if the statement is about one row,
    /// names each column of its key by a marker, and restricts nothing else.
    #[must_use]
    pub fn key_markers(&self, schema: &Schema) -> Option<Vec<usize>> {
        let count = schema.partition_key().len() + schema.clustering_key().len();
        if self.restrictions.len() != count {
            return None;
        }
        let marker_of = |place: usize| {
            self.restrictions.iter().find_map(|restriction| match restriction {
                Restriction::Compare { place: at, operator: Operator::Equal, value } => {
                    let Term::Bind(marker) = value else { return None };
                    (*at == place).then_some(*marker)
                }
                _ => None,
            })
        };
        (0..count).map(marker_of).collect()
    }

    /// Refuses slices of columns of the partition key, which only filtering can answer.
    ///
    /// # Errors
    /// A sentence for the client.
    pub fn check_partition_key(&self, schema: &Schema) -> Result<(), String> {
        let is_slice = |restriction: &Restriction| match restriction {
            Restriction::Compare { place, operator, .. } => {
                *place < schema.partition_key().len() && *operator != Operator::Equal
            }
            _ => false,
        };
        if !self.restrictions.iter().any(is_slice) {
            return Ok(());
        }
        Err("Only EQ and IN relation are supported on the partition key (unless you use the token() \
             function)"
            .to_owned())
    }

    /// True when there is no restriction at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.restrictions.is_empty()
    }

    /// True when a clustering column is restricted.
    #[must_use]
    pub fn restricts_clustering(&self, schema: &Schema) -> bool {
        let start = schema.partition_key().len();
        (start..start + schema.clustering_key().len()).any(|at| self.restricts(at).is_some())
    }

    /// True when it has IN on any column.
    #[must_use]
    pub fn has_in(&self) -> bool {
        let is_in = |restriction: &Restriction| {
            matches!(restriction, Restriction::In { .. } | Restriction::MultiIn { .. })
        };
        self.restrictions.iter().any(is_in)
    }

    /// True when it has IN on the partition key.
    #[must_use]
    pub fn has_many_partitions(&self, schema: &Schema) -> bool {
        self.restrictions.iter().any(|restriction| {
            matches!(restriction, Restriction::In { place, .. } if *place < schema.partition_key().len())
        })
    }

    /// True when rows must be read that are then left out.
    #[must_use]
    pub fn leaves_rows_out(&self, schema: &Schema) -> bool {
        let has_token = self.restrictions.iter().any(|r| matches!(r, Restriction::Token { .. }));
        let others = self.restrictions.len()
            - self.restrictions.iter().filter(|r| matches!(r, Restriction::Token { .. })).count();
        if !self.names_partitions(schema) {
            return others > 0;
        }
        if has_token {
            return false;
        }
        let keys = schema.partition_key().len() + schema.clustering_key().len();
        let on_values = self.restrictions.iter().any(|restriction| match restriction {
            Restriction::Compare { place, .. } | Restriction::In { place, .. } => *place >= keys,
            Restriction::Contains { .. } | Restriction::Element { .. } => true,
            Restriction::Token { .. } | Restriction::Multi { .. } | Restriction::MultiIn { .. } => {
                false
            }
        });
        // Clustering columns must be restricted in order, and nothing after a slice.
        let mut open = true;
        let mut gap = false;
        let mut slices: Option<&Restriction> = None;
        for at in schema.partition_key().len()..keys {
            match self.restricts(at) {
                Some(exact) => {
                    let by = self.restrictions.iter().find(|r| match r {
                        Restriction::Multi { places, .. } => places.contains(&at),
                        _ => false,
                    });
                    let same_slice = slices.is_some() && by.is_some() && slices == by;
                    gap |= !open && !same_slice;
                    if !exact {
                        open = false;
                        slices = by;
                    }
                }
                None => open = false,
            }
        }
        on_values || gap
    }

    /// The values that the statement's terms have.
    ///
    /// # Errors
    /// A sentence for the client.
    pub fn bind(&self, schema: &Schema, binds: Binds<'_>) -> Result<Tests, String> {
        let kind = |at: usize| &schema.columns()[at].kind;
        let mut tests = Vec::with_capacity(self.restrictions.len());
        for restriction in &self.restrictions {
            let name = |place: usize| schema.columns()[place].name.as_str();
            tests.push(match restriction {
                Restriction::Compare { place, operator, value } => {
                    let value = known(value, kind(*place), name(*place), binds)?;
                    Test::Compare { place: *place, operator: *operator, value }
                }
                Restriction::In { place, values } => Test::In {
                    place: *place,
                    values: in_values(values, kind(*place), name(*place), binds)?,
                },
                Restriction::Token { operator, value } => {
                    Test::Token { operator: *operator, value: token_value(value, schema, binds)? }
                }
                Restriction::Multi { places, operator, value } => {
                    let tuple = tuple_of(schema, places);
                    let value = known(value, &tuple, "the tuple", binds)?;
                    let values = split_tuple(&value, places.len())?;
                    Test::Multi { places: places.clone(), operator: *operator, values }
                }
                Restriction::MultiIn { places, values } => {
                    let tuple = tuple_of(schema, places);
                    let values = in_values(values, &tuple, "the tuple", binds)?;
                    let values: Result<_, String> =
                        values.iter().map(|value| split_tuple(value, places.len())).collect();
                    Test::MultiIn { places: places.clone(), values: values? }
                }
                Restriction::Contains { place, key, value } => {
                    let inner = contained(kind(*place), *key);
                    let value = known(value, &inner, name(*place), binds)?;
                    Test::Contains { place: *place, key: *key, value }
                }
                Restriction::Element { place, key, operator, value } => {
                    let CqlType::Map(key_kind, value_kind) = kind(*place).thawed() else {
                        return Err(format!("Column {} is no map", name(*place)));
                    };
                    Test::Element {
                        place: *place,
                        operator: *operator,
                        key: known(key, key_kind, name(*place), binds)?,
                        value: known(value, value_kind, name(*place), binds)?,
                    }
                }
            });
        }
        Ok(Tests { tests })
    }
}

fn clustering_places(
    schema: &Schema,
    table: &str,
    columns: &[String],
) -> Result<Vec<usize>, String> {
    let places: Result<Vec<usize>, String> =
        columns.iter().map(|name| place(schema, table, name)).collect();
    let places = places?;
    let in_order = places.is_sorted_by(|a, b| a + 1 == *b);
    let clustering = |at: &usize| matches!(schema.columns()[*at].role, Role::Clustering { .. });
    if places.is_empty() || !in_order || !places.iter().all(clustering) {
        return Err(format!(
            "Multi-column relations can only be applied to clustering columns, in order: ({})",
            columns.join(", ")
        ));
    }
    Ok(places)
}

fn contained(kind: &CqlType, key: bool) -> CqlType {
    match kind.thawed() {
        CqlType::List(inner) | CqlType::Set(inner) => (**inner).clone(),
        CqlType::Map(of_key, value) => (**if key { of_key } else { value }).clone(),
        other => other.clone(),
    }
}

/// Finds the bind markers of a term that must be of `kind`.
pub(crate) fn markers(
    term: &Term,
    name: &str,
    kind: &CqlType,
    column: Option<usize>,
    out: &mut Vec<MarkerType>,
) {
    let inside = |term: &Term, kind: &CqlType, out: &mut Vec<MarkerType>| {
        markers(term, name, kind, None, out);
    };
    match (term, kind.thawed()) {
        (Term::Bind(at), _) => out.push((*at, name.to_owned(), kind.clone(), column)),
        (Term::Cast(_, inner), _) => markers(inner, name, kind, column, out),
        (Term::Sum(left, right) | Term::Difference(left, right), _) => {
            inside(left, kind, out);
            inside(right, kind, out);
        }
        (Term::Function(function, arguments), _) => {
            if let Some((kinds, _)) = crate::cql::functions::signature(function, Some(kind)) {
                for (at, (term, kind)) in arguments.iter().zip(&kinds).enumerate() {
                    markers(term, &format!("arg{at}({function})"), kind, None, out);
                }
            }
        }
        (
            Term::List(items) | Term::Set(items),
            CqlType::List(inner) | CqlType::Set(inner) | CqlType::Vector(inner, _),
        ) => items.iter().for_each(|item| inside(item, inner, out)),
        (Term::Map(pairs), CqlType::Map(key, value)) => {
            for (left, right) in pairs {
                inside(left, key, out);
                inside(right, value, out);
            }
        }
        (Term::Tuple(items), CqlType::Tuple(parts)) => {
            items.iter().zip(parts).for_each(|(item, part)| inside(item, part, out));
        }
        (Term::Tuple(items), _) if items.len() == 1 => inside(&items[0], kind, out),
        (Term::Udt(fields), CqlType::Udt(udt)) => {
            for (field, term) in fields {
                if let Some((_, kind)) = udt.fields.iter().find(|(name, _)| name == field) {
                    inside(term, kind, out);
                }
            }
        }
        _ => {}
    }
}

/// Finds the bind markers of the values of an IN.
pub(crate) fn in_markers(values: &InValues, name: &str, kind: &CqlType, out: &mut Vec<MarkerType>) {
    let name = format!("in({name})");
    match values {
        InValues::Bind(at) => out.push((*at, name, list_of(kind.clone()), None)),
        InValues::Terms(terms) => {
            terms.iter().for_each(|term| markers(term, &name, kind, None, out));
        }
    }
}

fn token_markers(term: &Term, schema: &Schema, out: &mut Vec<MarkerType>) {
    match term {
        Term::Function(name, arguments) if name == "token" => {
            for (term, column) in arguments.iter().zip(schema.partition_key()) {
                markers(term, &column.name, &column.kind, None, out);
            }
        }
        term => markers(term, "partition key token", &TOKEN, None, out),
    }
}

fn token_value(term: &Term, schema: &Schema, binds: Binds<'_>) -> Result<i64, String> {
    if let Term::Function(name, arguments) = term
        && name == "token"
    {
        if arguments.len() != schema.partition_key().len() {
            return Err("Invalid number of arguments in call to function token".to_owned());
        }
        let mut values = Vec::new();
        for (term, column) in arguments.iter().zip(schema.partition_key()) {
            values.push(known(term, &column.kind, &column.name, binds)?);
        }
        return Ok(token_of(&partition_bytes(&values)).0);
    }
    let value = known(term, &TOKEN, "the token", binds)?;
    value::integer(&value).ok_or_else(|| "a token is a bigint".to_owned())
}

fn known(term: &Term, kind: &CqlType, name: &str, binds: Binds<'_>) -> Result<Vec<u8>, String> {
    match evaluate(term, kind, binds)? {
        Bound::Value(bytes) => Ok(bytes),
        Bound::Null => Err(format!("Invalid null value for column {name}")),
        Bound::Unset => Err(format!("Invalid unset value for column {name}")),
    }
}

/// The values of an IN; null is refused.
pub(crate) fn in_values(
    values: &InValues,
    kind: &CqlType,
    name: &str,
    binds: Binds<'_>,
) -> Result<Vec<Vec<u8>>, String> {
    match values {
        InValues::Terms(terms) => terms.iter().map(|term| known(term, kind, name, binds)).collect(),
        InValues::Bind(at) => {
            let list = known(&Term::Bind(*at), &list_of(kind.clone()), name, binds)?;
            let items = value::elements(&list, 1).ok_or("the value of IN ? is no list")?;
            Ok(items.into_iter().map(<[u8]>::to_vec).collect())
        }
    }
}

fn split_tuple(bytes: &[u8], count: usize) -> Result<Vec<Vec<u8>>, String> {
    let fields = value::fields(bytes, count).ok_or("the tuple has too many values")?;
    fields
        .into_iter()
        .map(|field| {
            field.map(<[u8]>::to_vec).ok_or_else(|| "Invalid null value in tuple".to_owned())
        })
        .collect()
}

/// A partition key's bytes, as Cassandra writes them and tokens are computed from.
#[must_use]
pub fn partition_bytes<T: AsRef<[u8]>>(values: &[T]) -> Vec<u8> {
    if let [only] = values {
        return only.as_ref().to_vec();
    }
    let mut out = Vec::new();
    for value in values.iter().map(AsRef::as_ref) {
        out.extend_from_slice(&u16::try_from(value.len()).unwrap_or(u16::MAX).to_be_bytes());
        out.extend_from_slice(value);
        out.push(0);
    }
    out
}

/// The values of a partition key of `count` columns.
#[must_use]
pub fn partition_values(bytes: &[u8], count: usize) -> Option<Vec<Vec<u8>>> {
    if count == 1 {
        return Some(vec![bytes.to_vec()]);
    }
    let mut cursor = value::Cursor::new(bytes);
    let mut out = Vec::with_capacity(count);
    for _ in 0..count {
        let len = u16::from_be_bytes(cursor.take(2)?.try_into().ok()?);
        out.push(cursor.take(usize::from(len))?.to_vec());
        cursor.take(1)?;
    }
    cursor.is_empty().then_some(out)
}

/// A restriction with its values.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Test {
    Compare { place: usize, operator: Operator, value: Vec<u8> },
    In { place: usize, values: Vec<Vec<u8>> },
    Token { operator: Operator, value: i64 },
    Multi { places: Vec<usize>, operator: Operator, values: Vec<Vec<u8>> },
    MultiIn { places: Vec<usize>, values: Vec<Vec<Vec<u8>>> },
    Contains { place: usize, key: bool, value: Vec<u8> },
    Element { place: usize, key: Vec<u8>, operator: Operator, value: Vec<u8> },
}

/// A WHERE with its values.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Tests {
    tests: Vec<Test>,
}

/// Rows `start ≤ clustering < end`; no end: to the end of the partition.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Slice {
    /// First clustering bytes.
    pub start: Vec<u8>,
    /// The clustering bytes after the last ones.
    pub end: Vec<u8>,
}

impl Slice {
    /// The slice of all rows that begin with `prefix`.
    #[must_use]
    pub fn of_prefix(prefix: &[u8]) -> Self {
        let mut end = prefix.to_vec();
        end.push(AFTER);
        Self { start: prefix.to_vec(), end }
    }
}

/// True when `left operator right`, given how they compare.
#[must_use]
pub fn holds(operator: Operator, order: Ordering) -> bool {
    match operator {
        Operator::Equal => order.is_eq(),
        Operator::NotEqual => order.is_ne(),
        Operator::Less => order.is_lt(),
        Operator::LessOrEqual => order.is_le(),
        Operator::Greater => order.is_gt(),
        Operator::GreaterOrEqual => order.is_ge(),
    }
}

fn products(choices: Vec<Vec<Vec<u8>>>) -> Result<Vec<Vec<Vec<u8>>>, String> {
    let mut out: Vec<Vec<Vec<u8>>> = vec![Vec::new()];
    for values in choices {
        if out.len().saturating_mul(values.len()) > MAX_PRODUCT {
            return Err(format!("more than {MAX_PRODUCT} combinations of IN values"));
        }
        out = out
            .iter()
            .flat_map(|prefix| {
                values.iter().map(|value| {
                    let mut longer = prefix.clone();
                    longer.push(value.clone());
                    longer
                })
            })
            .collect();
    }
    Ok(out)
}

impl Tests {
    /// The values that a column is restricted to, if it is.
    fn choices(&self, place: usize, kind: &CqlType) -> Option<Vec<Vec<u8>>> {
        self.tests.iter().find_map(|test| match test {
            Test::Compare { place: at, operator: Operator::Equal, value } if *at == place => {
                Some(vec![value.clone()])
            }
            Test::In { place: at, values } if *at == place => {
                let mut values = values.clone();
                values.sort_by(|a, b| value::compare(kind, a, b));
                values.dedup();
                Some(values)
            }
            _ => None,
        })
    }

    /// The partitions named, as partition keys' bytes; `None`: they are not named.
    ///
    /// # Errors
    /// A sentence for the client: too many, or a key that is none.
    pub fn partitions(&self, schema: &Schema) -> Result<Option<Vec<Vec<u8>>>, String> {
        let key = schema.partition_key();
        let choices: Option<Vec<_>> =
            key.iter().enumerate().map(|(at, column)| self.choices(at, &column.kind)).collect();
        let Some(choices) = choices else { return Ok(None) };
        let keys = products(choices)?;
        let mut out = Vec::with_capacity(keys.len());
        for values in keys {
            if values.iter().any(|value| value.len() > usize::from(u16::MAX)) {
                return Err("Key length of more than 65535 bytes".to_owned());
            }
            if values.len() == 1 && values[0].is_empty() {
                return Err("Key may not be empty".to_owned());
            }
            out.push(partition_bytes(&values));
        }
        Ok(Some(out))
    }

    /// True when every clustering column is given by `=` or IN: the slices are single rows.
    #[must_use]
    pub fn names_rows(&self, schema: &Schema) -> bool {
        let (start, count) = (schema.partition_key().len(), schema.clustering_key().len());
        let mut at = 0;
        while at < count {
            at += match self.multi_choices(start + at) {
                Some((places, _)) => places,
                None if self.choices(start + at, &schema.columns()[start + at].kind).is_some() => 1,
                None => return false,
            };
        }
        true
    }

    /// The tokens that may match: (first, last), both inclusive. `None`: none can.
    #[must_use]
    pub fn token_range(&self) -> Option<(i64, i64)> {
        let (mut first, mut last) = (i64::MIN, i64::MAX);
        for test in &self.tests {
            let Test::Token { operator, value } = test else { continue };
            // As an upper bound, the least token means the end of the ring.
            let upper = if *value == i64::MIN { i64::MAX } else { *value };
            match operator {
                Operator::Equal => (first, last) = (first.max(*value), last.min(*value)),
                Operator::Greater => first = first.max(value.checked_add(1)?),
                Operator::GreaterOrEqual => first = first.max(*value),
                Operator::Less if *value == i64::MIN => {}
                Operator::Less => last = last.min(upper.checked_sub(1)?),
                Operator::LessOrEqual => last = last.min(upper),
                Operator::NotEqual => {}
            }
        }
        (first <= last).then_some((first, last))
    }

    /// The slices of a partition that may match, in order and apart from each other.
    ///
    /// # Errors
    /// A sentence for the client: too many.
    pub fn slices(&self, schema: &Schema) -> Result<Vec<Slice>, String> {
        let start = schema.partition_key().len();
        let key = schema.clustering_key();
        let mut prefixes: Vec<Vec<u8>> = vec![Vec::new()];
        let mut at = 0;
        while at < key.len() {
            let place = start + at;
            if let Some(values) = self.choices(place, &key[at].kind) {
                let tails = values.iter().map(|value| component(&key[at], value)).collect();
                prefixes = extend(&prefixes, tails)?;
                at += 1;
                continue;
            }
            if let Some((count, tuples)) = self.multi_choices(place) {
                let tail = |values: &Vec<Vec<u8>>| {
                    let parts = key[at..].iter().zip(values);
                    parts.flat_map(|(column, value)| component(column, value)).collect()
                };
                prefixes = extend(&prefixes, tuples.iter().map(tail).collect())?;
                at += count;
                continue;
            }
            break;
        }
        let mut slices: Vec<Slice> = prefixes
            .iter()
            .map(|prefix| self.cut(Slice::of_prefix(prefix), prefix, start + at, key.get(at..)))
            .filter(|slice| slice.start < slice.end)
            .collect();
        slices.sort();
        slices.dedup();
        Ok(slices)
    }

    fn multi_choices(&self, place: usize) -> Option<(usize, Vec<Vec<Vec<u8>>>)> {
        self.tests.iter().find_map(|test| match test {
            Test::Multi { places, operator: Operator::Equal, values } if places[0] == place => {
                Some((places.len(), vec![values.clone()]))
            }
            Test::MultiIn { places, values } if places[0] == place => {
                Some((places.len(), values.clone()))
            }
            _ => None,
        })
    }

    /// Cuts a slice by the bounds on the column at `place`.
    fn cut(&self, mut slice: Slice, prefix: &[u8], place: usize, key: Option<&[Column]>) -> Slice {
        let Some(key @ [first, ..]) = key else { return slice };
        for test in &self.tests {
            let (operator, values): (_, Vec<&Vec<u8>>) = match test {
                Test::Compare { place: at, operator, value } if *at == place => {
                    (*operator, vec![value])
                }
                Test::Multi { places, operator, values } if places[0] == place => {
                    (*operator, values.iter().collect())
                }
                _ => continue,
            };
            let is_descending =
                |column: &Column| matches!(column.role, Role::Clustering { descending: true, .. });
            // Columns of both directions are no one slice: then the first column alone bounds, and
            // loosely.
            let one_way =
                key.iter().zip(&values).all(|(c, _)| is_descending(c) == is_descending(first));
            let values = if one_way { &values[..] } else { &values[..1] };
            let mut bound = prefix.to_vec();
            for (column, value) in key.iter().zip(values) {
                bound.extend(component(column, value));
            }
            let mut after = bound.clone();
            after.push(AFTER);
            let turned = match operator {
                Operator::Less => Operator::Greater,
                Operator::LessOrEqual => Operator::GreaterOrEqual,
                Operator::Greater => Operator::Less,
                Operator::GreaterOrEqual => Operator::LessOrEqual,
                other => other,
            };
            let operator = if is_descending(first) { turned } else { operator };
            let loosely = match operator {
                Operator::Less if !one_way => Operator::LessOrEqual,
                Operator::Greater if !one_way => Operator::GreaterOrEqual,
                other => other,
            };
            match loosely {
                Operator::Less => slice.end = slice.end.min(bound),
                Operator::LessOrEqual => slice.end = slice.end.min(after),
                Operator::Greater => slice.start = slice.start.max(after),
                Operator::GreaterOrEqual => slice.start = slice.start.max(bound),
                Operator::Equal | Operator::NotEqual => {}
            }
        }
        slice
    }

    /// True when the row with these values (by place) and token matches.
    pub fn admit<T: AsRef<[u8]>>(&self, schema: &Schema, row: &[Option<T>], token: i64) -> bool {
        let kind = |at: usize| &schema.columns()[at].kind;
        let get = |at: usize| row.get(at).and_then(Option::as_ref).map(AsRef::as_ref);
        self.tests.iter().all(|test| match test {
            Test::Compare { place, operator, value } => get(*place)
                .is_some_and(|own| holds(*operator, value::compare(kind(*place), own, value))),
            Test::In { place, values } => get(*place).is_some_and(|own| {
                values.iter().any(|value| value::compare(kind(*place), own, value).is_eq())
            }),
            Test::Token { operator, value } => {
                let is_upper = matches!(operator, Operator::Less | Operator::LessOrEqual);
                is_upper && *value == i64::MIN || holds(*operator, token.cmp(value))
            }
            Test::Multi { places, operator, values } => {
                compare_places(schema, places, &get, values)
                    .is_some_and(|order| holds(*operator, order))
            }
            Test::MultiIn { places, values } => values.iter().any(|values| {
                compare_places(schema, places, &get, values).is_some_and(Ordering::is_eq)
            }),
            Test::Contains { place, key, value } => {
                get(*place).is_some_and(|own| contains(kind(*place), own, *key, value))
            }
            Test::Element { place, key, operator, value } => {
                let CqlType::Map(key_kind, value_kind) = kind(*place).thawed() else {
                    return false;
                };
                let items = get(*place).and_then(|own| value::elements(own, 2)).unwrap_or_default();
                items.chunks(2).any(|pair| {
                    value::compare(key_kind, pair[0], key).is_eq()
                        && holds(*operator, value::compare(value_kind, pair[1], value))
                })
            }
        })
    }
}

fn compare_places<'a>(
    schema: &Schema,
    places: &[usize],
    get: &dyn Fn(usize) -> Option<&'a [u8]>,
    values: &[Vec<u8>],
) -> Option<Ordering> {
    for (place, value) in places.iter().zip(values) {
        let order = value::compare(&schema.columns()[*place].kind, get(*place)?, value);
        if order.is_ne() {
            return Some(order);
        }
    }
    Some(Ordering::Equal)
}

fn contains(kind: &CqlType, own: &[u8], key: bool, wanted: &[u8]) -> bool {
    let inner = contained(kind, key);
    let is_wanted = |item: &[u8]| value::compare(&inner, item, wanted).is_eq();
    match kind.thawed() {
        CqlType::Map(..) => value::elements(own, 2)
            .unwrap_or_default()
            .chunks(2)
            .any(|pair| is_wanted(pair[usize::from(!key)])),
        _ => value::elements(own, 1).unwrap_or_default().into_iter().any(is_wanted),
    }
}

/// A clustering column's value as it stands in keys.
#[must_use]
pub fn component(column: &Column, value: &[u8]) -> Vec<u8> {
    let descending = matches!(column.role, Role::Clustering { descending: true, .. });
    let mut out = Vec::new();
    order::put_component(&mut out, &column.kind, descending, value);
    out
}

fn extend(prefixes: &[Vec<u8>], tails: Vec<Vec<u8>>) -> Result<Vec<Vec<u8>>, String> {
    if prefixes.len().saturating_mul(tails.len()) > MAX_PRODUCT {
        return Err(format!("more than {MAX_PRODUCT} combinations of IN values"));
    }
    let longer = |prefix: &Vec<u8>| {
        let prefix = prefix.clone();
        tails.iter().map(move |tail| [prefix.as_slice(), tail].concat()).collect::<Vec<_>>()
    };
    Ok(prefixes.iter().flat_map(longer).collect())
}
