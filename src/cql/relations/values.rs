//! Terms of a WHERE: their bind markers, and the values that they have.

use crate::cql::ast::{InValues, Term};
use crate::cql::relations::{MarkerType, partition_bytes};
use crate::cql::schema::Schema;
use crate::cql::term::{Binds, Bound, evaluate};
use crate::cql::types::CqlType;
use crate::cql::value;
use crate::ring::token_of;

/// The type of the token function.
const TOKEN: CqlType = CqlType::Bigint;

fn list_of(kind: CqlType) -> CqlType {
    CqlType::List(Box::new(kind))
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

pub(super) fn token_markers(term: &Term, schema: &Schema, out: &mut Vec<MarkerType>) {
    match term {
        Term::Function(name, arguments) if name == "token" => {
            for (term, column) in arguments.iter().zip(schema.partition_key()) {
                markers(term, &column.name, &column.kind, None, out);
            }
        }
        term => markers(term, "partition key token", &TOKEN, None, out),
    }
}

pub(super) fn token_value(term: &Term, schema: &Schema, binds: Binds<'_>) -> Result<i64, String> {
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

pub(super) fn known(
    term: &Term,
    kind: &CqlType,
    name: &str,
    binds: Binds<'_>,
) -> Result<Vec<u8>, String> {
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

pub(super) fn split_tuple(bytes: &[u8], count: usize) -> Result<Vec<Vec<u8>>, String> {
    let fields = value::fields(bytes, count).ok_or("the tuple has too many values")?;
    fields
        .into_iter()
        .map(|field| {
            field.map(<[u8]>::to_vec).ok_or_else(|| "Invalid null value in tuple".to_owned())
        })
        .collect()
}
