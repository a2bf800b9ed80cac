//! Values as JSON, and JSON as values, as Cassandra maps them.
//!
//! JSON is written as text and read as text ([`RawValue`]): a decimal or varint has any number of
//! digits, and would lose some of them as a number of 64 bits on the way.

use std::collections::BTreeMap;

use serde_json::value::RawValue;

use crate::cql::ast::Term;
use crate::cql::functions::Now;
use crate::cql::parse_term;
use crate::cql::schema::Schema;
use crate::cql::term::{Binds, Bound, evaluate};
use crate::cql::types::CqlType;
use crate::cql::value;

/// For whom JSON is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// As Cassandra's `SELECT JSON` has it: numbers have all their digits, what JSON has no number
    /// for (NaN) is null, and names with capitals have quotes of their own.
    Cassandra,
    /// For programs whose numbers are of 64 bits: what does not fit them is a text, and names are
    /// as they are.
    Plain,
}

impl Form {
    const fn comma(self) -> &'static str {
        match self {
            Self::Cassandra => ", ",
            Self::Plain => ",",
        }
    }

    const fn colon(self) -> &'static str {
        match self {
            Self::Cassandra => ": ",
            Self::Plain => ":",
        }
    }

    /// The name of a column or field.
    fn name(self, name: &str) -> String {
        match self {
            Self::Cassandra if name.chars().any(char::is_uppercase) => {
                quoted(&format!("\"{name}\""))
            }
            Self::Cassandra | Self::Plain => quoted(name),
        }
    }

    /// Names and values, which are JSON already, as an object.
    fn object(self, out: &mut String, pairs: impl Iterator<Item = (String, String)>) {
        out.push('{');
        for (at, (name, value)) in pairs.enumerate() {
            out.push_str(if at > 0 { self.comma() } else { "" });
            out.push_str(&name);
            out.push_str(self.colon());
            out.push_str(&value);
        }
        out.push('}');
    }

    fn array(self, out: &mut String, items: impl Iterator<Item = String>) {
        out.push('[');
        for (at, item) in items.enumerate() {
            out.push_str(if at > 0 { self.comma() } else { "" });
            out.push_str(&item);
        }
        out.push(']');
    }
}

fn quoted(text: &str) -> String {
    // A text always has a form in JSON.
    serde_json::to_string(text).unwrap_or_default()
}

/// A sound value, or null, as JSON: numbers, booleans, texts, lists and objects as what they are,
/// all other types as the text that CQL shows them as.
#[must_use]
pub fn text(form: Form, kind: &CqlType, bytes: Option<&[u8]>) -> String {
    let Some(bytes) = bytes else { return "null".to_owned() };
    let thawed = kind.thawed();
    let mut out = String::new();
    let mut list = |inner: &CqlType, items: Option<Vec<&[u8]>>| {
        let items = items.unwrap_or_default().into_iter();
        form.array(&mut out, items.map(|item| text(form, inner, Some(item))));
    };
    match thawed {
        CqlType::List(inner) | CqlType::Set(inner) => list(inner, value::elements(bytes, 1)),
        CqlType::Vector(inner, len) => list(inner, value::vector_elements(inner, *len, bytes)),
        CqlType::Map(key, inner) => {
            let items = value::elements(bytes, 2).unwrap_or_default();
            let pairs = items.chunks_exact(2).map(|pair| {
                let name = text(form, key, Some(pair[0]));
                let name = if name.starts_with('"') { name } else { quoted(&name) };
                (name, text(form, inner, Some(pair[1])))
            });
            form.object(&mut out, pairs);
        }
        CqlType::Tuple(_) | CqlType::Udt(_) => {
            let parts = thawed.parts();
            let values = value::fields(bytes, parts.len()).unwrap_or_default();
            let shown = parts.iter().zip(values).map(|(part, value)| text(form, part, value));
            match thawed {
                CqlType::Udt(udt) => {
                    let names = udt.fields.iter().map(|(name, _)| form.name(name));
                    form.object(&mut out, names.zip(shown));
                }
                _ => form.array(&mut out, shown),
            }
        }
        // The empty value that most types have.
        _ if bytes.is_empty() => out.push_str("\"\""),
        CqlType::Boolean => out.push_str(if bytes == [0] { "false" } else { "true" }),
        CqlType::Float | CqlType::Double => out = real(form, thawed, bytes),
        CqlType::Varint | CqlType::Decimal if form == Form::Plain => {
            out = number(&value::text(thawed, bytes));
        }
        CqlType::Tinyint
        | CqlType::Smallint
        | CqlType::Int
        | CqlType::Bigint
        | CqlType::Counter
        | CqlType::Varint
        | CqlType::Decimal => out = value::text(thawed, bytes),
        CqlType::Timestamp if form == Form::Cassandra => {
            out = quoted(&value::text(thawed, bytes).replacen('T', " ", 1));
        }
        _ => out = quoted(&value::text(thawed, bytes)),
    }
    out
}

fn real(form: Form, kind: &CqlType, bytes: &[u8]) -> String {
    let shown = match <[u8; 4]>::try_from(bytes) {
        Ok(bytes) => format!("{:?}", f32::from_be_bytes(bytes)),
        Err(_) => format!("{:?}", value::real(bytes).unwrap_or_default()),
    };
    match form {
        _ if value::real(bytes).is_some_and(f64::is_finite) => shown,
        Form::Cassandra => "null".to_owned(),
        Form::Plain => quoted(&value::text(kind, bytes)),
    }
}

/// A number that 64 bits do not hold stays a text.
fn number(text: &str) -> String {
    let fits = text.parse::<i64>().is_ok()
        || text.len() <= 15 && text.parse::<f64>().is_ok_and(f64::is_finite)
        || text.parse::<f64>().is_ok_and(|real| real.is_finite() && real.to_string() == text);
    if fits { text.to_owned() } else { quoted(text) }
}

/// A row as an object, by the names of its columns.
pub fn row<'a>(
    form: Form,
    columns: impl Iterator<Item = (&'a str, &'a CqlType, Option<&'a [u8]>)>,
) -> String {
    let mut out = String::new();
    let pairs = columns.map(|(name, kind, bytes)| (form.name(name), text(form, kind, bytes)));
    form.object(&mut out, pairs);
    out
}

/// JSON as a literal of a type; null is `null` of every type. Printed, it is one literal, whatever
/// the JSON was.
///
/// # Errors
/// A sentence for the client: it is none.
pub fn term(kind: &CqlType, json: &RawValue) -> Result<Term, String> {
    let text = json.get();
    let wrong = || format!("{} is no value of type {kind}", brief(text));
    let thawed = kind.thawed();
    let found = match text.as_bytes().first() {
        Some(b'n') => Term::Null,
        Some(b't' | b'f') if *thawed == CqlType::Boolean => Term::Boolean(text == "true"),
        Some(b'[') => array(thawed, &parsed::<Vec<_>>(text)?)?.ok_or_else(wrong)?,
        Some(b'{') => object(thawed, &parsed(text)?)?.ok_or_else(wrong)?,
        Some(b'"') => of_text(thawed, &parsed::<String>(text)?).ok_or_else(wrong)?,
        Some(b'-' | b'0'..=b'9') if takes_numbers(thawed) => digits(text).ok_or_else(wrong)?,
        _ => return Err(wrong()),
    };
    Ok(found)
}

/// JSON as the bytes of a type's value, or null.
///
/// # Errors
/// A sentence for the client: it is none.
pub fn bound(kind: &CqlType, json: &RawValue) -> Result<Bound, String> {
    // No function is called, so the moment does not matter.
    let now = Now::new(0, 0);
    let bound = evaluate(&term(kind, json)?, kind, Binds { values: &[], now: &now })?;
    if let Bound::Value(bytes) = &bound {
        value::validate(kind, bytes)?;
    }
    Ok(bound)
}

/// The columns of a row that is a JSON object: for each column of the schema its value, null, or
/// (`unset`: what is missing is left alone, else it is null) nothing.
///
/// # Errors
/// A sentence for the client.
pub fn columns(schema: &Schema, json: &str, unset: bool) -> Result<Vec<Bound>, String> {
    let object: Object = serde_json::from_str(json)
        .map_err(|error| format!("Could not decode JSON string as a map: {error}"))?;
    let mut given: BTreeMap<String, Box<RawValue>> =
        object.into_iter().map(|(name, value)| (plain_name(&name), value)).collect();
    let mut out = Vec::with_capacity(schema.columns().len());
    for column in schema.columns() {
        out.push(match given.remove(&column.name) {
            None if unset => Bound::Unset,
            None => Bound::Null,
            Some(value) => bound(&column.kind, &value)
                .map_err(|why| format!("Error decoding JSON value for {}: {why}", column.name))?,
        });
    }
    match given.pop_first() {
        None => Ok(out),
        Some((name, _)) => Err(format!("JSON values map contains unrecognized column: {name}")),
    }
}

type Object = BTreeMap<String, Box<RawValue>>;

/// A name as JSON has it: in lower case, unless it has quotes of its own.
fn plain_name(name: &str) -> String {
    match name.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) {
        Some(inside) => inside.to_owned(),
        None => name.to_lowercase(),
    }
}

/// The start of `text`, for errors.
fn brief(text: &str) -> String {
    const MOST: usize = 60;
    match text.char_indices().nth(MOST) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

fn parsed<T: serde::de::DeserializeOwned>(text: &str) -> Result<T, String> {
    serde_json::from_str(text).map_err(|error| format!("Could not decode JSON: {error}"))
}

fn takes_numbers(kind: &CqlType) -> bool {
    is_number(kind) || matches!(kind, CqlType::Date | CqlType::Time | CqlType::Timestamp)
}

fn is_number(kind: &CqlType) -> bool {
    matches!(
        kind,
        CqlType::Bigint
            | CqlType::Counter
            | CqlType::Decimal
            | CqlType::Double
            | CqlType::Float
            | CqlType::Int
            | CqlType::Smallint
            | CqlType::Tinyint
            | CqlType::Varint
    )
}

/// A number as CQL writes it.
fn digits(text: &str) -> Option<Term> {
    let whole = text.strip_prefix('-').unwrap_or(text);
    let whole = !whole.is_empty() && whole.bytes().all(|byte| byte.is_ascii_digit());
    let is_real = || {
        let sound = |byte: u8| byte.is_ascii_digit() || b"+-.eE".contains(&byte);
        text.bytes().all(sound) && text.parse::<f64>().is_ok()
    };
    if whole {
        return Some(Term::Integer(text.to_owned()));
    }
    is_real().then(|| Term::Float(text.to_owned()))
}

/// The inner `None`s: JSON of another shape than the type.
fn array(kind: &CqlType, items: &[Box<RawValue>]) -> Result<Option<Term>, String> {
    let all =
        |inner: &CqlType| items.iter().map(|item| term(inner, item)).collect::<Result<Vec<_>, _>>();
    Ok(match kind {
        CqlType::List(inner) | CqlType::Vector(inner, _) => Some(Term::List(all(inner)?)),
        CqlType::Set(inner) => Some(Term::Set(all(inner)?)),
        CqlType::Tuple(parts) if items.len() == parts.len() => {
            let items = parts.iter().zip(items).map(|(part, item)| term(part, item));
            Some(Term::Tuple(items.collect::<Result<_, _>>()?))
        }
        _ => None,
    })
}

fn object(kind: &CqlType, members: &Object) -> Result<Option<Term>, String> {
    Ok(match kind {
        CqlType::Map(key, inner) => {
            let mut pairs = Vec::with_capacity(members.len());
            for (name, value) in members {
                pairs.push((map_key(key, name)?, term(inner, value)?));
            }
            Some(Term::Map(pairs))
        }
        CqlType::Udt(udt) => {
            let mut fields = Vec::with_capacity(members.len());
            for (name, value) in members {
                let plain = plain_name(name);
                // The name as it is, for those who write it as HTTP's rows show it.
                let own = |wanted: &str| udt.fields.iter().find(|(own, _)| own == wanted);
                let Some((own, kind)) = own(&plain).or_else(|| own(name)) else {
                    return Err(format!(
                        "Unknown field '{plain}' in value of user type {}",
                        udt.name
                    ));
                };
                fields.push((own.clone(), term(kind, value)?));
            }
            Some(Term::Udt(fields))
        }
        _ => None,
    })
}

/// Names of JSON are texts: of another type they hold a value of it.
fn map_key(kind: &CqlType, name: &str) -> Result<Term, String> {
    let holds_json = matches!(
        kind.thawed(),
        CqlType::List(_)
            | CqlType::Set(_)
            | CqlType::Map(..)
            | CqlType::Vector(..)
            | CqlType::Tuple(_)
            | CqlType::Udt(_)
    );
    if holds_json {
        return term(kind, &parsed::<Box<RawValue>>(name)?);
    }
    of_text(kind.thawed(), name)
        .ok_or_else(|| format!("{} is no value of type {kind}", brief(&quoted(name))))
}

fn of_text(kind: &CqlType, text: &str) -> Option<Term> {
    match kind {
        CqlType::Text
        | CqlType::Ascii
        | CqlType::Date
        | CqlType::Time
        | CqlType::Timestamp
        | CqlType::Inet => Some(Term::Text(text.to_owned())),
        CqlType::Boolean => match text.to_ascii_lowercase().as_str() {
            "true" => Some(Term::Boolean(true)),
            "false" => Some(Term::Boolean(false)),
            _ => None,
        },
        CqlType::Float | CqlType::Double if matches!(text, "NaN" | "inf" | "-inf") => {
            Some(Term::Float(text.replace("inf", "infinity").to_ascii_lowercase()))
        }
        kind if is_number(kind) => digits(text),
        CqlType::Blob | CqlType::Duration | CqlType::Timeuuid | CqlType::Uuid => {
            let term = parse_term(text).ok()?;
            let is_literal = matches!(term, Term::Blob(_) | Term::Duration(_) | Term::Uuid(_));
            is_literal.then_some(term)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    use crate::cql::types::UdtType;

    fn raw(json: &str) -> Box<RawValue> {
        RawValue::from_string(json.to_owned()).expect("JSON")
    }

    fn bytes(kind: &CqlType, json: &str) -> Vec<u8> {
        match bound(kind, &raw(json)) {
            Ok(Bound::Value(bytes)) => bytes,
            other => panic!("{kind} {json}: {other:?}"),
        }
    }

    fn nested() -> CqlType {
        let udt = UdtType {
            keyspace: "k".to_owned(),
            name: "u".to_owned(),
            fields: vec![("a".to_owned(), CqlType::Int), ("B".to_owned(), CqlType::Text)],
        };
        let tuple = CqlType::Tuple(vec![CqlType::Udt(Arc::new(udt)), CqlType::Boolean]);
        CqlType::Map(Box::new(CqlType::Int), Box::new(CqlType::List(Box::new(tuple))))
    }

    #[test]
    fn what_is_shown_as_cassandra_does_is_read_again() {
        for (kind, json) in [
            (CqlType::Int, "-7"),
            (CqlType::Bigint, "9223372036854775807"),
            (CqlType::Varint, "123456789012345678901234567890"),
            (CqlType::Decimal, "3.14159265358979323846264338327950288"),
            (CqlType::Double, "1.5"),
            (CqlType::Float, "0.1"),
            (CqlType::Boolean, "true"),
            (CqlType::Text, r#""it's \"so\"\n""#),
            (CqlType::Blob, r#""0x00ff""#),
            (CqlType::Uuid, r#""123e4567-e89b-12d3-a456-426614174000""#),
            (CqlType::Inet, r#""::1""#),
            (CqlType::Date, r#""2024-02-29""#),
            (CqlType::Timestamp, r#""2024-02-29 01:02:03.004Z""#),
            (CqlType::Duration, r#""1mo2d3ns""#),
            (CqlType::Set(Box::new(CqlType::Text)), r#"["a", "b"]"#),
            (
                nested(),
                r#"{"1": [[{"a": 1, "\"B\"": "x"}, true], [{"a": 2, "\"B\"": null}, null]]}"#,
            ),
            (
                CqlType::Map(
                    Box::new(CqlType::Frozen(Box::new(CqlType::List(Box::new(CqlType::Int))))),
                    Box::new(CqlType::Int),
                ),
                r#"{"[1, 2]": 3}"#,
            ),
        ] {
            let value = bytes(&kind, json);
            assert_eq!(text(Form::Cassandra, &kind, Some(&value)), json, "{kind}");
            let plain = text(Form::Plain, &kind, Some(&value));
            assert_eq!(bytes(&kind, &plain), value, "{kind}: {plain}");
        }
    }

    #[test]
    fn plain_numbers_fit_those_of_programs() {
        let plain = |kind: &CqlType, json: &str| text(Form::Plain, kind, Some(&bytes(kind, json)));
        assert_eq!(plain(&CqlType::Varint, "7"), "7");
        assert_eq!(
            plain(&CqlType::Varint, "\"123456789012345678901234567890\""),
            "\"123456789012345678901234567890\""
        );
        assert_eq!(plain(&CqlType::Decimal, "12.50"), "12.50");
        assert_eq!(plain(&CqlType::Bigint, "-9223372036854775808"), "-9223372036854775808");
        let nan = f64::NAN.to_be_bytes();
        assert_eq!(text(Form::Plain, &CqlType::Double, Some(&nan)), "\"NaN\"");
        assert_eq!(text(Form::Cassandra, &CqlType::Double, Some(&nan)), "null");
        assert_eq!(bytes(&CqlType::Float, "\"-inf\""), f32::NEG_INFINITY.to_be_bytes());
        assert_eq!(text(Form::Plain, &CqlType::Int, Some(&[])), "\"\"");
        assert_eq!(text(Form::Plain, &CqlType::Int, None), "null");
    }

    #[test]
    fn what_is_no_value_is_refused_and_printed_terms_end_nowhere_else() {
        for (kind, json) in [
            (CqlType::Int, "1.5"),
            (CqlType::Int, "3000000000"),
            (CqlType::Int, r#""7) IF NOT EXISTS""#),
            (CqlType::Text, "7"),
            (CqlType::Blob, r#""0x00'""#),
            (CqlType::Blob, r#""now()""#),
            (CqlType::Uuid, r#""""#),
            (CqlType::Uuid, r#""0x00""#),
            (CqlType::Boolean, "1"),
            (CqlType::List(Box::new(CqlType::Int)), r#"[1, null]"#),
            (CqlType::List(Box::new(CqlType::Int)), r#"{"a": 1}"#),
            (CqlType::Tuple(vec![CqlType::Int]), "[1, 2]"),
            (nested(), r#"{"1": [[{"c": 1}, true]]}"#),
            (nested(), r#"{"x": []}"#),
        ] {
            assert!(bound(&kind, &raw(json)).is_err(), "{kind} {json}");
        }
        let shown =
            |kind: &CqlType, json: &str| term(kind, &raw(json)).map(|term| term.to_string());
        assert_eq!(shown(&CqlType::Text, r#""it's""#).as_deref(), Ok("'it''s'"));
        assert_eq!(shown(&CqlType::Int, r#""7""#).as_deref(), Ok("7"));
        let map = CqlType::Map(Box::new(CqlType::Text), Box::new(CqlType::Int));
        assert_eq!(shown(&map, r#"{"a'": 1}"#).as_deref(), Ok("{'a''': 1}"));
        assert_eq!(bound(&CqlType::Int, &raw("null")), Ok(Bound::Null));
    }
}
