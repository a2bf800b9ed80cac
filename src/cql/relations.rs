//! WHERE: what it restricts, whether that can be answered without filtering, and with its values
//! which partitions and slices it names, and whether a row satisfies it.

mod bound;
mod indexed;
mod keys;
mod values;

pub use bound::{Slice, Tests, holds};
pub use keys::{component, partition_bytes, partition_values};
pub(crate) use values::{in_markers, in_values, markers};

use crate::cql::ast::{InValues, Operator, Relation, Term};
use crate::cql::schema::{Role, Schema};
use crate::cql::term::Binds;
use crate::cql::types::CqlType;
use bound::Test;
use values::{known, split_tuple, token_markers, token_value};

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

fn place(schema: &Schema, table: &str, name: &str) -> Result<usize, String> {
    schema.place(name).ok_or_else(|| format!("Undefined column name {name} in table {table}"))
}

fn tuple_of(schema: &Schema, places: &[usize]) -> CqlType {
    CqlType::Tuple(places.iter().map(|at| schema.columns()[*at].kind.clone()).collect())
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
