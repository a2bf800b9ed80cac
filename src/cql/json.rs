//! Values as JSON, and JSON as values, as Cassandra maps them.

use serde_json::{Map, Number, Value};

use crate::cql::types::CqlType;
use crate::cql::value;

/// A sound value as JSON: numbers, booleans, texts, lists and objects as what they are, all other
/// types as the text that CQL shows them as.
#[must_use]
pub fn of(kind: &CqlType, bytes: &[u8]) -> Value {
    let thawed = kind.thawed();
    let list = |inner: &CqlType, items: Option<Vec<&[u8]>>| {
        Value::Array(items.unwrap_or_default().into_iter().map(|item| of(inner, item)).collect())
    };
    match thawed {
        CqlType::List(inner) | CqlType::Set(inner) => list(inner, value::elements(bytes, 1)),
        CqlType::Vector(inner, len) => list(inner, value::vector_elements(inner, *len, bytes)),
        CqlType::Map(key, inner) => {
            let items = value::elements(bytes, 2).unwrap_or_default();
            let pairs = items.chunks(2).filter_map(|pair| match pair {
                [name, item] => Some((value::text(key, name), of(inner, item))),
                _ => None,
            });
            Value::Object(pairs.collect::<Map<_, _>>())
        }
        CqlType::Tuple(_) | CqlType::Udt(_) => {
            let parts = thawed.parts();
            let values = value::fields(bytes, parts.len()).unwrap_or_default();
            let shown = parts.iter().zip(values);
            let shown =
                shown.map(|(part, value)| value.map_or(Value::Null, |value| of(part, value)));
            match thawed {
                CqlType::Udt(udt) => {
                    let names = udt.fields.iter().map(|(name, _)| name.clone());
                    Value::Object(names.zip(shown).collect())
                }
                _ => Value::Array(shown.collect()),
            }
        }
        CqlType::Boolean if !bytes.is_empty() => Value::Bool(bytes != [0]),
        CqlType::Tinyint
        | CqlType::Smallint
        | CqlType::Int
        | CqlType::Bigint
        | CqlType::Counter
        | CqlType::Varint
        | CqlType::Decimal
        | CqlType::Float
        | CqlType::Double
            if !bytes.is_empty() =>
        {
            number(&value::text(thawed, bytes))
        }
        _ => Value::String(value::text(thawed, bytes)),
    }
}

/// A number that JSON has no form for stays a text: it would lose digits, or is not a number.
fn number(text: &str) -> Value {
    if let Ok(whole) = text.parse::<i64>() {
        return whole.into();
    }
    let real = text.parse::<f64>().ok().and_then(Number::from_f64);
    match real {
        Some(real) if real.to_string() == text || text.len() <= 15 => Value::Number(real),
        _ => Value::String(text.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn values_are_json_of_their_own_kind() {
        let list = CqlType::List(Box::new(CqlType::Int));
        let items = value::collection(&[1i32.to_be_bytes(), 2i32.to_be_bytes()], 1);
        assert_eq!(of(&list, &items), json!([1, 2]));
        let map = CqlType::Map(Box::new(CqlType::Int), Box::new(CqlType::Text));
        let pairs = value::collection(&[&7i32.to_be_bytes()[..], b"x"], 2);
        assert_eq!(of(&map, &pairs), json!({"7": "x"}));
        assert_eq!(of(&CqlType::Boolean, &[1]), json!(true));
        assert_eq!(of(&CqlType::Double, &1.5f64.to_be_bytes()), json!(1.5));
        assert_eq!(of(&CqlType::Double, &f64::NAN.to_be_bytes()), json!("NaN"));
        assert_eq!(of(&CqlType::Bigint, &i64::MIN.to_be_bytes()), json!(i64::MIN));
        assert_eq!(of(&CqlType::Blob, &[0, 255]), json!("0x00ff"));
        let tuple = CqlType::Tuple(vec![CqlType::Int, CqlType::Text]);
        let mut bytes = Vec::new();
        value::put_field(&mut bytes, None);
        value::put_field(&mut bytes, Some(b"t"));
        assert_eq!(of(&tuple, &bytes), json!([null, "t"]));
    }
}
