//! IF: what must hold of a row for a write to take effect.
//!
//! A value that is not there is null: `= null` holds of it, `!= x` too, and no other comparison
//! with a value. A collection that is not frozen and empty is null.

use std::cmp::Ordering;

use bytes::Bytes;

use crate::cql::ast::{Conditions, InValues, Operator, Target, Term, Test};
use crate::cql::relations::{MarkerType, holds, in_markers, in_values, markers};
use crate::cql::rows::RowView;
use crate::cql::schema::{Role, Schema};
use crate::cql::term::{Binds, Bound, evaluate};
use crate::cql::types::CqlType;
use crate::cql::value;

/// What of a column is compared.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Part {
    Whole,
    Element(Term),
    Field(usize),
}

/// A condition on one column.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Check {
    place: usize,
    part: Part,
    /// Of the part.
    kind: CqlType,
    test: Test,
}

/// The conditions of a write, their names looked up.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct If {
    which: Which,
}

#[derive(Clone, PartialEq, Eq, Default, Debug)]
enum Which {
    #[default]
    Nothing,
    Exists,
    NotExists,
    All(Vec<Check>),
    /// There is a row, and it has one of these tags.
    Tagged(Vec<u128>),
}

impl If {
    /// Looks up the names of `conditions`.
    ///
    /// # Errors
    /// A sentence for the client.
    pub fn resolve(schema: &Schema, table: &str, conditions: &Conditions) -> Result<Self, String> {
        let which = match conditions {
            Conditions::None => Which::Nothing,
            Conditions::Exists => Which::Exists,
            Conditions::NotExists => Which::NotExists,
            Conditions::All(all) => {
                let checks: Result<Vec<Check>, String> =
                    all.iter().map(|(target, test)| check(schema, table, target, test)).collect();
                Which::All(checks?)
            }
        };
        Ok(Self { which })
    }

    /// That there is a row, and, if tags are given, that it has one of them ([`RowView::tag`]).
    #[must_use]
    pub fn of_row(tags: Option<Vec<u128>>) -> Self {
        Self { which: tags.map_or(Which::Exists, Which::Tagged) }
    }

    /// True if there are any.
    #[must_use]
    pub fn is_some(&self) -> bool {
        self.which != Which::Nothing
    }

    /// True of IF NOT EXISTS.
    #[must_use]
    pub fn is_not_exists(&self) -> bool {
        self.which == Which::NotExists
    }

    /// True of IF EXISTS and IF NOT EXISTS.
    #[must_use]
    pub fn is_about_existence(&self) -> bool {
        matches!(self.which, Which::Exists | Which::NotExists)
    }

    /// The columns that it compares, in the order of the schema.
    #[must_use]
    pub fn places(&self, schema: &Schema) -> Vec<usize> {
        if let Which::Tagged(_) = self.which {
            return (0..schema.columns().len()).collect();
        }
        let Which::All(checks) = &self.which else { return Vec::new() };
        let mut places: Vec<usize> = checks.iter().map(|check| check.place).collect();
        places.sort_unstable();
        places.dedup();
        places
    }

    /// The value that the column at `place` must equal, if that is all that it asks.
    ///
    /// # Errors
    /// A sentence for the client.
    pub fn equals(&self, place: usize, binds: Binds<'_>) -> Result<Option<Vec<u8>>, String> {
        let Which::All(checks) = &self.which else { return Ok(None) };
        let [Check { place: own, part: Part::Whole, kind, test }] = &checks[..] else {
            return Ok(None);
        };
        let Test::Compare(Operator::Equal, term) = test else { return Ok(None) };
        match evaluate(term, kind, binds)? {
            Bound::Value(bytes) if *own == place => Ok(Some(bytes.to_vec())),
            _ => Ok(None),
        }
    }

    /// True when it compares static columns only, at least one.
    #[must_use]
    pub fn is_about_statics(&self, schema: &Schema) -> bool {
        let places = self.places(schema);
        !places.is_empty() && places.iter().all(|at| schema.columns()[*at].role == Role::Static)
    }

    /// The types of its bind markers.
    pub(crate) fn bind_types(&self, schema: &Schema, out: &mut Vec<MarkerType>) {
        let Which::All(checks) = &self.which else { return };
        for check in checks {
            let column = &schema.columns()[check.place];
            let name = match &check.part {
                Part::Whole => column.name.clone(),
                Part::Field(at) => match &column.kind {
                    CqlType::Udt(udt) => format!("{}.{}", column.name, udt.fields[*at].0),
                    _ => column.name.clone(),
                },
                Part::Element(key) => {
                    let (what, kind) = match column.kind.thawed() {
                        CqlType::Map(of_key, _) => ("key", (**of_key).clone()),
                        _ => ("idx", CqlType::Int),
                    };
                    markers(key, &format!("{what}({})", column.name), &kind, None, out);
                    format!("value({})", column.name)
                }
            };
            match &check.test {
                Test::Compare(_, term) => markers(term, &name, &check.kind, None, out),
                Test::In(values) => in_markers(values, &name, &check.kind, out),
            }
        }
    }

    /// Whether it holds of `row`; `exists`: whether that is a row, or the static columns of a
    /// partition without one.
    ///
    /// # Errors
    /// A sentence for the client.
    pub fn holds(
        &self,
        schema: &Schema,
        row: Option<&RowView>,
        exists: bool,
        binds: Binds<'_>,
    ) -> Result<bool, String> {
        match &self.which {
            Which::Nothing => Ok(true),
            Which::Exists => Ok(exists),
            Which::NotExists => Ok(!exists),
            Which::Tagged(tags) => {
                Ok(exists && row.is_some_and(|row| tags.contains(&row.tag(schema))))
            }
            Which::All(checks) => {
                for check in checks {
                    if !check.holds(schema, row, binds)? {
                        return Ok(false);
                    }
                }
                Ok(true)
            }
        }
    }
}

fn check(schema: &Schema, table: &str, target: &Target, test: &Test) -> Result<Check, String> {
    let (Target::Column(name) | Target::Element(name, _) | Target::Field(name, _)) = target;
    let place = schema
        .place(name)
        .ok_or_else(|| format!("Undefined column name {name} in table {table}"))?;
    let column = &schema.columns()[place];
    if column.is_key() {
        return Err(format!("PRIMARY KEY column '{name}' cannot have IF conditions"));
    }
    let (part, kind) = match target {
        Target::Column(_) => (Part::Whole, column.kind.clone()),
        Target::Element(_, key) => match column.kind.thawed() {
            CqlType::Map(_, inner) | CqlType::List(inner) => {
                (Part::Element(key.clone()), (**inner).clone())
            }
            kind => return Err(format!("Invalid element access syntax for {name} of type {kind}")),
        },
        Target::Field(_, field) => match column.kind.thawed() {
            CqlType::Udt(udt) => {
                let at = udt.fields.iter().position(|(own, _)| own == field);
                let at = at.ok_or_else(|| format!("Unknown field {field} for column {name}"))?;
                (Part::Field(at), udt.fields[at].1.clone())
            }
            kind => return Err(format!("Invalid field access: {name} is of type {kind}")),
        },
    };
    Ok(Check { place, part, kind, test: test.clone() })
}

impl Check {
    /// The part's value in `row`.
    fn value(
        &self,
        schema: &Schema,
        row: &RowView,
        binds: Binds<'_>,
    ) -> Result<Option<Bytes>, String> {
        let Some(whole) = row.values[self.place].clone() else { return Ok(None) };
        let column = &schema.columns()[self.place];
        let copied = Bytes::copy_from_slice;
        Ok(match (&self.part, column.kind.thawed()) {
            (Part::Whole, _) => Some(whole),
            (Part::Field(at), CqlType::Udt(udt)) => {
                let fields = value::fields(&whole, udt.fields.len()).unwrap_or_default();
                fields.get(*at).copied().flatten().map(copied)
            }
            (Part::Element(key), CqlType::Map(of_key, _)) => {
                let Bound::Value(key) = evaluate(key, of_key, binds)? else {
                    return Err(format!("Invalid null map key for column {}", column.name));
                };
                let items = value::elements(&whole, 2).unwrap_or_default();
                let own = |pair: &&[&[u8]]| value::compare(of_key, pair[0], &key).is_eq();
                items.chunks(2).find(own).map(|pair| copied(pair[1]))
            }
            (Part::Element(index), _) => {
                let index = match evaluate(index, &CqlType::Int, binds)? {
                    Bound::Value(bytes) => value::integer(&bytes),
                    Bound::Null | Bound::Unset => None,
                };
                let Some(index) = index.and_then(|at| usize::try_from(at).ok()) else {
                    return Err(format!("Invalid list index for column {}", column.name));
                };
                let items = value::elements(&whole, 1).unwrap_or_default();
                items.get(index).map(|item| copied(item))
            }
            (Part::Field(_), _) => None,
        })
    }

    fn holds(
        &self,
        schema: &Schema,
        row: Option<&RowView>,
        binds: Binds<'_>,
    ) -> Result<bool, String> {
        let own = match row {
            Some(row) => self.value(schema, row, binds)?,
            None => None,
        };
        let equal = |value: Option<&[u8]>| match (&own, value) {
            (None, None) => true,
            (Some(own), Some(value)) => value::compare(&self.kind, own, value).is_eq(),
            (None, Some(_)) | (Some(_), None) => false,
        };
        match &self.test {
            Test::Compare(operator, term) => {
                let given = self.bound(term, schema, binds)?;
                Ok(match (operator, &given, &own) {
                    (Operator::Equal, ..) => equal(given.as_deref()),
                    (Operator::NotEqual, ..) => !equal(given.as_deref()),
                    (_, None, _) => {
                        let name = &schema.columns()[self.place].name;
                        return Err(format!("Invalid comparison with null for column {name}"));
                    }
                    (_, Some(_), None) => false,
                    (_, Some(given), Some(own)) => {
                        let order: Ordering = value::compare(&self.kind, own, given);
                        holds(*operator, order)
                    }
                })
            }
            Test::In(InValues::Terms(terms)) => {
                for term in terms {
                    if equal(self.bound(term, schema, binds)?.as_deref()) {
                        return Ok(true);
                    }
                }
                Ok(false)
            }
            Test::In(values) => {
                let name = &schema.columns()[self.place].name;
                let values = in_values(values, &self.kind, name, binds)?;
                Ok(values.iter().any(|value| equal(Some(value))))
            }
        }
    }

    /// The value that is compared with; `None` is null.
    fn bound(
        &self,
        term: &Term,
        schema: &Schema,
        binds: Binds<'_>,
    ) -> Result<Option<Vec<u8>>, String> {
        let column = &schema.columns()[self.place];
        match evaluate(term, &self.kind, binds)? {
            Bound::Null => Ok(None),
            Bound::Unset => Err(format!("Invalid 'unset' value in condition on {}", column.name)),
            Bound::Value(bytes) => {
                let multicell = self.part == Part::Whole && self.kind.is_multicell();
                let empty = multicell
                    && !matches!(self.kind, CqlType::Udt(_))
                    && value::elements(&bytes, 1).is_some_and(|items| items.is_empty());
                Ok((!empty).then_some(bytes))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cql::ast::Statement;
    use crate::cql::functions::Now;
    use crate::cql::parse;

    fn schema() -> Schema {
        let list = CqlType::List(Box::new(CqlType::Int));
        let map = CqlType::Map(Box::new(CqlType::Text), Box::new(CqlType::Int));
        Schema::new(
            vec![
                ("k".to_owned(), CqlType::Int, Role::Partition(0)),
                ("l".to_owned(), list, Role::Regular),
                ("m".to_owned(), map, Role::Regular),
                ("v".to_owned(), CqlType::Int, Role::Regular),
            ],
            [0; 16],
        )
    }

    fn judged(text: &str, row: Option<&RowView>) -> Result<bool, String> {
        let statement = parse(&format!("UPDATE t SET v = 1 WHERE k = 1 IF {text}")).unwrap();
        let Statement::Update(update) = statement.statement else { panic!("{text}") };
        let conditions = If::resolve(&schema(), "t", &update.conditions)?;
        let now = Now::new(0, 0);
        conditions.holds(&schema(), row, row.is_some(), Binds { values: &[], now: &now })
    }

    fn row(v: Option<i32>) -> RowView {
        let int = |n: i32| Bytes::from(n.to_be_bytes().to_vec());
        let list = value::collection(&[int(7), int(8)], 1);
        let map = value::collection(&[Bytes::from_static(b"a"), int(5)], 2);
        RowView::of_values(vec![Some(int(1)), Some(list.into()), Some(map.into()), v.map(int)])
    }

    #[test]
    fn conditions_compare_values_parts_and_null() {
        let five = row(Some(5));
        for yes in [
            "v = 5",
            "v != 4",
            "v > 4 AND v <= 5",
            "v IN (1, 5)",
            "v != null",
            "l = [7, 8]",
            "l[1] = 8",
            "m['a'] = 5",
            "m['b'] = null",
            "EXISTS",
        ] {
            assert_eq!(judged(yes, Some(&five)), Ok(true), "{yes}");
        }
        for no in ["v = 4", "v < 5", "v IN ()", "v = null", "l = []", "l[1] = 7", "m['a'] > 5"] {
            assert_eq!(judged(no, Some(&five)), Ok(false), "{no}");
        }
        for wrong in ["k = 1", "nope = 1", "v > null", "v[1] = 2", "l[-1] = 2"] {
            assert!(judged(wrong, Some(&five)).is_err(), "{wrong}");
        }
    }

    #[test]
    fn of_an_absent_row_everything_is_null() {
        for yes in ["v = null", "v != 4", "l = []", "v IN (null, 1)"] {
            assert_eq!(judged(yes, None), Ok(true), "{yes}");
        }
        for no in ["v = 4", "v > 4", "v != null", "EXISTS"] {
            assert_eq!(judged(no, None), Ok(false), "{no}");
        }
    }
}
