//! From a term and the type that it must have, to bytes.

use crate::cql::ast::Term;
use crate::cql::functions::{self, Now};
use crate::cql::types::CqlType;
use crate::cql::value;
use crate::cql::{number, order, time};

/// A bound value.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Bound {
    /// Bytes, checked against the marker's type.
    Value(Vec<u8>),
    /// Null.
    Null,
    /// Nothing was bound: the column is left alone.
    Unset,
}

/// What terms are evaluated with.
#[derive(Clone, Copy, Debug)]
pub struct Binds<'a> {
    /// The bound values, by marker.
    pub values: &'a [Bound],
    /// The statement's moment.
    pub now: &'a Now,
}

/// The bytes of `term` as a value of `kind`.
///
/// # Errors
/// A sentence for the client: the term is no such value.
pub fn evaluate(term: &Term, kind: &CqlType, binds: Binds<'_>) -> Result<Bound, String> {
    let thawed = kind.thawed();
    let bytes = match term {
        Term::Null => return Ok(Bound::Null),
        Term::Bind(at) => {
            return binds.values.get(*at).cloned().ok_or_else(|| {
                format!("there are {} values for the bind markers", binds.values.len())
            });
        }
        Term::Column(name) => return Err(format!("Undefined column name {name} in a value")),
        Term::Cast(raw, inner) => {
            let no_udt = |_: Option<&str>, _: &str| None;
            let cast = raw.resolve(&no_udt).unwrap_or_else(|_| kind.clone());
            if !assignable(&cast, kind) {
                return Err(format!("cannot assign a value of type {cast} to type {kind}"));
            }
            return evaluate(inner, kind, binds);
        }
        Term::Function(name, arguments) => {
            return functions::call(name, arguments, Some(kind), binds).map(|(_, value)| value);
        }
        Term::Sum(left, right) => return sum(left, right, kind, binds, 1),
        Term::Difference(left, right) => return sum(left, right, kind, binds, -1),
        Term::Integer(text) => integer_literal(text, thawed),
        Term::Float(text) => float_literal(text, thawed),
        Term::Text(text) => text_literal(text, thawed),
        Term::Boolean(value) => match thawed {
            CqlType::Boolean => Some(vec![u8::from(*value)]),
            _ => None,
        },
        Term::Uuid(uuid) => match thawed {
            CqlType::Uuid => Some(uuid.to_vec()),
            CqlType::Timeuuid if uuid[6] >> 4 == 1 => Some(uuid.to_vec()),
            _ => None,
        },
        Term::Blob(bytes) => match thawed {
            CqlType::Blob => Some(bytes.clone()),
            _ => None,
        },
        Term::Duration(text) => match thawed {
            CqlType::Duration => time::parse_duration(text).map(value::duration_bytes),
            _ => None,
        },
        Term::List(items) => match thawed {
            CqlType::List(inner) => Some(value::collection(&inside(items, inner, binds)?, 1)),
            CqlType::Vector(inner, len) => {
                if items.len() != usize::from(*len) {
                    return Err(format!("{} elements are no value of type {kind}", items.len()));
                }
                Some(order::vector_bytes(inner, &inside(items, inner, binds)?))
            }
            _ => None,
        },
        Term::Set(items) => match thawed {
            CqlType::Set(inner) => {
                let mut items = inside(items, inner, binds)?;
                items.sort_by(|a, b| value::compare(inner, a, b));
                items.dedup();
                Some(value::collection(&items, 1))
            }
            CqlType::Map(..) if items.is_empty() => Some(value::collection::<Vec<u8>>(&[], 2)),
            CqlType::Udt(_) if items.is_empty() => Some(Vec::new()),
            _ => None,
        },
        Term::Map(pairs) => match thawed {
            CqlType::Map(key, inner) => Some(map_literal(pairs, key, inner, binds)?),
            _ => None,
        },
        Term::Tuple(items) => match thawed {
            CqlType::Tuple(parts) => Some(tuple_literal(items, parts, kind, binds)?),
            _ if items.len() == 1 => return evaluate(&items[0], kind, binds),
            _ => None,
        },
        Term::Udt(given) => match thawed {
            CqlType::Udt(udt) => {
                if let Some((name, _)) = given
                    .iter()
                    .find(|(name, _)| !udt.fields.iter().any(|(field, _)| field == name))
                {
                    return Err(format!(
                        "Unknown field '{name}' in value of user type {}",
                        udt.name
                    ));
                }
                let mut out = Vec::new();
                for (name, kind) in &udt.fields {
                    let term = given.iter().find(|(given, _)| given == name).map(|(_, term)| term);
                    let value = part(term.unwrap_or(&Term::Null), kind, binds)?;
                    value::put_field(&mut out, value.as_deref());
                }
                Some(out)
            }
            _ => None,
        },
    };
    match bytes {
        Some(bytes) => Ok(Bound::Value(bytes)),
        None => Err(format!("Invalid {} constant for a value of type {kind}", sort_of(term))),
    }
}

fn sort_of(term: &Term) -> String {
    match term {
        Term::Integer(text) => format!("INTEGER ({text})"),
        Term::Float(text) => format!("FLOAT ({text})"),
        Term::Text(_) => "STRING".to_owned(),
        Term::Boolean(_) => "BOOLEAN".to_owned(),
        Term::Uuid(_) => "UUID".to_owned(),
        Term::Blob(_) => "HEX".to_owned(),
        Term::Duration(_) => "DURATION".to_owned(),
        Term::List(_) => "list".to_owned(),
        Term::Set(_) => "set".to_owned(),
        Term::Map(_) => "map".to_owned(),
        Term::Tuple(_) => "tuple".to_owned(),
        _ => "user type".to_owned(),
    }
}

/// True when a value of `from` can stand where `to` is wanted, byte for byte.
#[must_use]
pub fn assignable(from: &CqlType, to: &CqlType) -> bool {
    let (from, to) = (from.thawed(), to.thawed());
    from == to
        || matches!(
            (from, to),
            (CqlType::Ascii, CqlType::Text)
                | (CqlType::Timeuuid, CqlType::Uuid)
                | (_, CqlType::Blob)
                | (CqlType::Bigint, CqlType::Timestamp | CqlType::Counter)
                | (CqlType::Counter, CqlType::Bigint)
        )
}

/// The value of a term inside something larger, where nothing can be unset.
fn part(term: &Term, kind: &CqlType, binds: Binds<'_>) -> Result<Option<Vec<u8>>, String> {
    match evaluate(term, kind, binds)? {
        Bound::Value(bytes) => Ok(Some(bytes)),
        Bound::Null => Ok(None),
        Bound::Unset => Err("unset value is not supported inside collections".to_owned()),
    }
}

fn inside(items: &[Term], kind: &CqlType, binds: Binds<'_>) -> Result<Vec<Vec<u8>>, String> {
    let item = |term| {
        part(term, kind, binds)?
            .ok_or_else(|| "null is not supported inside collections".to_owned())
    };
    items.iter().map(item).collect()
}

fn map_literal(
    pairs: &[(Term, Term)],
    key: &CqlType,
    inner: &CqlType,
    binds: Binds<'_>,
) -> Result<Vec<u8>, String> {
    let keys = inside(&pairs.iter().map(|(key, _)| key.clone()).collect::<Vec<_>>(), key, binds)?;
    let values =
        inside(&pairs.iter().map(|(_, value)| value.clone()).collect::<Vec<_>>(), inner, binds)?;
    let mut both: Vec<(Vec<u8>, Vec<u8>)> = keys.into_iter().zip(values).collect();
    both.sort_by(|a, b| value::compare(key, &a.0, &b.0));
    // Of a key given twice the last one stands.
    both.reverse();
    both.dedup_by(|a, b| a.0 == b.0);
    both.reverse();
    let flat: Vec<Vec<u8>> = both.into_iter().flat_map(|(key, value)| [key, value]).collect();
    Ok(value::collection(&flat, 2))
}

fn tuple_literal(
    items: &[Term],
    parts: &[CqlType],
    kind: &CqlType,
    binds: Binds<'_>,
) -> Result<Vec<u8>, String> {
    if items.len() > parts.len() {
        return Err(format!("{} values are too many for type {kind}", items.len()));
    }
    let mut out = Vec::new();
    for (item, kind) in items.iter().zip(parts) {
        value::put_field(&mut out, part(item, kind, binds)?.as_deref());
    }
    Ok(out)
}

fn sum(
    left: &Term,
    right: &Term,
    kind: &CqlType,
    binds: Binds<'_>,
    sign: i128,
) -> Result<Bound, String> {
    let (Bound::Value(left), Bound::Value(right)) =
        (evaluate(left, kind, binds)?, evaluate(right, kind, binds)?)
    else {
        return Ok(Bound::Null);
    };
    let whole = match kind {
        CqlType::Varint => number::varint_i128(&left).zip(number::varint_i128(&right)),
        _ => value::integer(&left)
            .zip(value::integer(&right))
            .map(|(left, right)| (i128::from(left), i128::from(right))),
    };
    let size = value::fixed_size(kind);
    let bytes = match (kind, whole) {
        (CqlType::Varint, Some((left, right))) => {
            sign.checked_mul(right).and_then(|right| left.checked_add(right)).map(number::varint_of)
        }
        (
            CqlType::Tinyint | CqlType::Smallint | CqlType::Int | CqlType::Bigint,
            Some((left, right)),
        ) => size.and_then(|size| sized(left + sign * right, size)),
        _ => return Err(format!("the operation is not supported for type {kind}")),
    };
    bytes.map(Bound::Value).ok_or_else(|| format!("the result is out of the range of {kind}"))
}

/// A whole number as so many bytes, if it fits.
fn sized(value: i128, size: usize) -> Option<Vec<u8>> {
    let bits = size * 8 - 1;
    let fits = value >= -(1i128 << bits) && value < (1i128 << bits);
    fits.then(|| value.to_be_bytes()[16 - size..].to_vec())
}

fn integer_literal(text: &str, kind: &CqlType) -> Option<Vec<u8>> {
    match kind {
        CqlType::Varint => number::parse_varint(text),
        CqlType::Decimal => number::parse_decimal(text),
        CqlType::Float | CqlType::Double => float_literal(text, kind),
        CqlType::Date => {
            let days: i64 = text.parse().ok()?;
            u32::try_from(days).ok().map(|days| days.to_be_bytes().to_vec())
        }
        CqlType::Time => {
            let nanos: i64 = text.parse().ok()?;
            (0..value::DAY_NANOS).contains(&nanos).then(|| nanos.to_be_bytes().to_vec())
        }
        CqlType::Tinyint
        | CqlType::Smallint
        | CqlType::Int
        | CqlType::Bigint
        | CqlType::Counter
        | CqlType::Timestamp => sized(text.parse().ok()?, value::fixed_size(kind)?),
        CqlType::Duration => match text {
            "0" => Some(value::duration_bytes((0, 0, 0))),
            _ => None,
        },
        _ => None,
    }
}

fn float_literal(text: &str, kind: &CqlType) -> Option<Vec<u8>> {
    match kind {
        CqlType::Float => Some(text.parse::<f32>().ok()?.to_be_bytes().to_vec()),
        CqlType::Double => Some(text.parse::<f64>().ok()?.to_be_bytes().to_vec()),
        CqlType::Decimal => number::parse_decimal(text),
        _ => None,
    }
}

fn text_literal(text: &str, kind: &CqlType) -> Option<Vec<u8>> {
    match kind {
        CqlType::Text => Some(text.as_bytes().to_vec()),
        CqlType::Ascii => text.is_ascii().then(|| text.as_bytes().to_vec()),
        CqlType::Inet => text.parse().ok().map(value::inet_bytes),
        CqlType::Date => {
            let days = time::parse_date(text)?.checked_add(value::DATE_ZERO)?;
            u32::try_from(days).ok().map(|days| days.to_be_bytes().to_vec())
        }
        CqlType::Time => Some(time::parse_time(text)?.to_be_bytes().to_vec()),
        CqlType::Timestamp => Some(time::parse_timestamp(text)?.to_be_bytes().to_vec()),
        CqlType::Duration => time::parse_duration(text).map(value::duration_bytes),
        _ => None,
    }
}
