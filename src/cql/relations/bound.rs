//! A WHERE with its values: the partitions and slices that it names, and the rows that satisfy it.

use std::cmp::Ordering;

use crate::cql::ast::Operator;
use crate::cql::order::AFTER;
use crate::cql::relations::{component, contained, partition_bytes};
use crate::cql::schema::{Column, Role, Schema};
use crate::cql::types::CqlType;
use crate::cql::value;

/// The most partitions, or slices of one, that a statement may name by IN.
const MAX_PRODUCT: usize = 10_000;

/// A restriction with its values.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Test {
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
    pub(super) tests: Vec<Test>,
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
