//! A value of a CSV file to the bytes of its type. (The other way is [`crate::cql::value::text`].)

use crate::cql::ast::Term;
use crate::cql::functions::Now;
use crate::cql::term::{Binds, Bound, evaluate};
use crate::cql::types::CqlType;
use crate::cql::{self, value};

/// The bytes of `field` as a value of `kind`.
///
/// # Errors
/// Why it is none.
pub(super) fn bytes(kind: &CqlType, field: &str) -> Result<Vec<u8>, String> {
    let trimmed = field.trim();
    let bad = || format!("'{field}' is no {kind}");
    let out = match kind.thawed() {
        CqlType::Text | CqlType::Ascii => field.as_bytes().to_vec(),
        // The most usual ones, without a parser.
        CqlType::Int => trimmed.parse::<i32>().map_err(|_| bad())?.to_be_bytes().to_vec(),
        CqlType::Bigint => trimmed.parse::<i64>().map_err(|_| bad())?.to_be_bytes().to_vec(),
        CqlType::Double => trimmed.parse::<f64>().map_err(|_| bad())?.to_be_bytes().to_vec(),
        CqlType::Boolean => match trimmed.to_ascii_lowercase().as_str() {
            "true" => vec![1],
            "false" => vec![0],
            _ => return Err(bad()),
        },
        CqlType::Timestamp | CqlType::Date | CqlType::Time | CqlType::Inet => {
            let number = trimmed.parse::<i64>().is_ok() && *kind.thawed() != CqlType::Inet;
            let term = if number {
                Term::Integer(trimmed.to_owned())
            } else {
                Term::Text(trimmed.to_owned())
            };
            evaluated(&term, kind)?
        }
        _ => {
            let term = cql::parse_term(trimmed).map_err(|error| format!("'{field}': {error}"))?;
            evaluated(&term, kind)?
        }
    };
    value::validate(kind, &out)?;
    Ok(out)
}

fn evaluated(term: &Term, kind: &CqlType) -> Result<Vec<u8>, String> {
    // No function is called, so the moment does not matter.
    if matches!(term, Term::Function(..)) {
        return Err("a function is no value of a file".to_owned());
    }
    let now = Now::new(0, 0);
    match evaluate(term, kind, Binds { values: &[], now: &now })? {
        Bound::Value(bytes) => Ok(bytes),
        Bound::Null | Bound::Unset => Err("null is no value here".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_can_be_read_again() {
        let list = CqlType::List(Box::new(CqlType::Text));
        let maker = std::sync::Arc::new(crate::cql::types::UdtType {
            keyspace: "shop".to_owned(),
            name: "maker".to_owned(),
            fields: vec![("name".to_owned(), CqlType::Text), ("Since".to_owned(), CqlType::Int)],
        });
        let map = CqlType::Map(Box::new(CqlType::Text), Box::new(CqlType::Int));
        for (kind, field) in [
            (CqlType::Text, "as it, 'is'"),
            (CqlType::Int, "-5"),
            (CqlType::Bigint, "1099511627776"),
            (CqlType::Varint, "-1267650600228229401496703205376"),
            (CqlType::Decimal, "-12.50"),
            (CqlType::Double, "1.5"),
            (CqlType::Boolean, "true"),
            (CqlType::Blob, "0x00ff"),
            (CqlType::Uuid, "123e4567-e89b-12d3-a456-426614174000"),
            (CqlType::Inet, "::1"),
            (CqlType::Date, "2024-02-29"),
            (CqlType::Time, "01:02:03.000000004"),
            (CqlType::Duration, "1mo2d3ns"),
            (list, "['a', 'it''s']"),
            (map, "{'k': 1}"),
            (CqlType::Tuple(vec![CqlType::Int, CqlType::Text]), "(1, 'x')"),
            (CqlType::Udt(maker), "{name: 'a', \"Since\": 1901}"),
        ] {
            let bytes = bytes(&kind, field).unwrap_or_else(|error| panic!("{kind}: {error}"));
            assert_eq!(value::text(&kind, &bytes), field, "{kind}");
        }
        let timestamp = bytes(&CqlType::Timestamp, "2024-02-29T01:02:03.004Z").expect("a time");
        let shown = value::text(&CqlType::Timestamp, &timestamp);
        assert_eq!(bytes(&CqlType::Timestamp, &shown), Ok(timestamp));
    }

    #[test]
    fn what_is_no_value_is_refused() {
        for (kind, field) in [
            (CqlType::Int, "3000000000"),
            (CqlType::Int, "x"),
            (CqlType::Boolean, "yes"),
            (CqlType::Uuid, "now()"),
            (CqlType::Ascii, "é"),
            (CqlType::Date, "2024-02-30"),
            (CqlType::List(Box::new(CqlType::Int)), "[1, 'a']"),
            (CqlType::List(Box::new(CqlType::Int)), "[1"),
        ] {
            assert!(bytes(&kind, field).is_err(), "{kind} {field}");
        }
    }
}
