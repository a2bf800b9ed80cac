//! CQL's built-in functions of single values.

use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::value::RawValue;
use xxhash_rust::xxh3::xxh3_128_with_seed;

use crate::cql::ast::Term;
use crate::cql::json;
use crate::cql::number;
use crate::cql::similarity::{Similarity, floats};
use crate::cql::term::{Binds, Bound, assignable, evaluate};
use crate::cql::types::CqlType;
use crate::cql::value;

/// Where a statement stands in time, and its share of chance: functions take theirs from here.
#[derive(Debug)]
pub struct Now {
    /// Microseconds since 1970.
    pub micros: u64,
    random: u128,
    used: AtomicU64,
}

impl Now {
    /// The moment `micros`, with random bits that no other statement gets.
    #[must_use]
    pub fn new(micros: u64, random: u128) -> Self {
        Self { micros, random, used: AtomicU64::new(0) }
    }

    /// Fresh bits at every call.
    fn draw(&self) -> u128 {
        let use_of = self.used.fetch_add(1, Ordering::Relaxed);
        xxh3_128_with_seed(&self.random.to_be_bytes(), use_of)
    }

    /// A random UUID.
    #[must_use]
    pub fn uuid(&self) -> [u8; 16] {
        let mut uuid = self.draw().to_be_bytes();
        uuid[6] = uuid[6] & 0x0F | 0x40;
        uuid[8] = uuid[8] & 0x3F | 0x80;
        uuid
    }

    /// A time UUID of this moment.
    #[must_use]
    pub fn timeuuid(&self) -> [u8; 16] {
        let random = self.draw().to_be_bytes();
        let mut tail: [u8; 8] = [0; 8];
        tail.copy_from_slice(&random[..8]);
        tail[0] = tail[0] & 0x3F | 0x80;
        // One statement may ask more than once: 100 ns steps keep the answers in order.
        timeuuid(self.micros * 10 + self.used.load(Ordering::Relaxed) % 10, tail)
    }
}

/// 100 ns steps from 1582-10-15 to 1970-01-01.
const GREGORIAN: u64 = 0x01B2_1DD2_1381_4000;

/// The time UUID of a number of 100 ns steps since 1970.
fn timeuuid(steps: u64, tail: [u8; 8]) -> [u8; 16] {
    let time = steps.wrapping_add(GREGORIAN);
    let head =
        (time & 0xFFFF_FFFF) << 32 | (time >> 32 & 0xFFFF) << 16 | time >> 48 & 0x0FFF | 0x1000;
    let mut out = [0; 16];
    out[..8].copy_from_slice(&head.to_be_bytes());
    out[8..].copy_from_slice(&tail);
    out
}

fn timeuuid_millis(uuid: &[u8]) -> i64 {
    (value::uuid_time(uuid).wrapping_sub(GREGORIAN) as i64).div_euclid(10_000)
}

/// A name without case and underscores: `to_timestamp` is `toTimestamp`.
pub(super) fn plain(name: &str) -> String {
    name.chars().filter(|c| *c != '_').collect::<String>().to_ascii_lowercase()
}

/// The types of a function's arguments where they do not depend on the call, and of its result.
/// `None`: there is no such function.
#[must_use]
pub fn signature(name: &str, wanted: Option<&CqlType>) -> Option<(Vec<CqlType>, CqlType)> {
    let name = plain(name);
    if let Some(kind) = name.strip_suffix("asblob").and_then(CqlType::native) {
        return Some((vec![kind], CqlType::Blob));
    }
    if let Some(kind) = name.strip_prefix("blobas").and_then(CqlType::native) {
        return Some((vec![CqlType::Blob], kind));
    }
    let argument = |kinds: &[CqlType]| vec![kinds[0].clone()];
    Some(match name.as_str() {
        "now" | "currenttimeuuid" => (vec![], CqlType::Timeuuid),
        "uuid" => (vec![], CqlType::Uuid),
        "currenttimestamp" => (vec![], CqlType::Timestamp),
        "currentdate" => (vec![], CqlType::Date),
        "currenttime" => (vec![], CqlType::Time),
        "mintimeuuid" | "maxtimeuuid" => (argument(&[CqlType::Timestamp]), CqlType::Timeuuid),
        "dateof" | "totimestamp" => (argument(&[CqlType::Timeuuid]), CqlType::Timestamp),
        "todate" => (argument(&[CqlType::Timeuuid]), CqlType::Date),
        "unixtimestampof" | "tounixtimestamp" => (argument(&[CqlType::Timeuuid]), CqlType::Bigint),
        // What it gives is whatever is wanted.
        "fromjson" => (vec![CqlType::Text], wanted?.clone()),
        _ => return None,
    })
}

/// True when a value of `kind` may be an argument where [`signature`] says `wanted`: dates and moments
/// are turned into each other, and bytes are read by those functions only that are for it.
#[must_use]
pub fn takes(wanted: &CqlType, kind: &CqlType) -> bool {
    match wanted {
        CqlType::Timeuuid => matches!(kind, CqlType::Timeuuid | CqlType::Timestamp | CqlType::Date),
        CqlType::Blob => *kind == CqlType::Blob,
        _ => assignable(kind, wanted),
    }
}

/// True of the function that shows a value of any type as JSON.
#[must_use]
pub fn is_to_json(name: &str) -> bool {
    plain(name) == "tojson"
}

/// Calls a function on terms. With its result's type.
///
/// # Errors
/// A sentence for the client.
pub fn call(
    name: &str,
    arguments: &[Term],
    wanted: Option<&CqlType>,
    binds: Binds<'_>,
) -> Result<(CqlType, Bound), String> {
    let Some((kinds, _)) = signature(name, wanted) else {
        return Err(format!("Unknown function '{name}'"));
    };
    if kinds.len() != arguments.len() {
        return Err(format!(
            "Invalid call to function {name}: it takes {} arguments, {} were given",
            kinds.len(),
            arguments.len()
        ));
    }
    let mut values = Vec::with_capacity(arguments.len());
    for (term, wanted) in arguments.iter().zip(kinds) {
        let (kind, value) = evaluate_argument(term, wanted.clone(), binds)?;
        if !takes(&wanted, &kind) {
            return Err(misfit(name, &wanted, &kind));
        }
        values.push((kind, value));
    }
    if plain(name) == "fromjson"
        && let Some(kind) = wanted
    {
        return from_json(kind, values.pop().and_then(|(_, text)| text));
    }
    let (kind, result) = apply(name, &values, binds.now)?;
    if let Some(wanted) = wanted
        && !assignable(&kind, wanted)
    {
        return Err(format!(
            "Type error: cannot assign result of function {name} (type {kind}) to type {wanted}"
        ));
    }
    Ok((kind, result.map_or(Bound::Null, Bound::Value)))
}

/// What is said of an argument of the wrong type.
#[must_use]
pub fn misfit(name: &str, wanted: &CqlType, kind: &CqlType) -> String {
    format!("Type error: a {kind} cannot be passed to function {name}, which takes a {wanted}")
}

/// The value of `kind` that a JSON text is; null of null.
fn from_json(kind: &CqlType, text: Option<Vec<u8>>) -> Result<(CqlType, Bound), String> {
    let Some(text) = text else { return Ok((kind.clone(), Bound::Null)) };
    let json: Result<Box<RawValue>, _> = serde_json::from_slice(&text);
    let json = json.map_err(|error| format!("Could not decode JSON string: {error}"))?;
    Ok((kind.clone(), json::bound(kind, &json)?))
}

/// An argument may be of a type of its own where functions are overloaded: calls and casts say so.
fn evaluate_argument(
    term: &Term,
    kind: CqlType,
    binds: Binds<'_>,
) -> Result<(CqlType, Option<Vec<u8>>), String> {
    let (kind, value) = match term {
        Term::Function(name, arguments) => call(name, arguments, None, binds)?,
        Term::Cast(raw, inner) => {
            let no_udt = |_: Option<&str>, _: &str| None;
            let kind = raw.resolve(&no_udt)?;
            let value = evaluate(inner, &kind, binds)?;
            (kind, value)
        }
        term => {
            let value = evaluate(term, &kind, binds)?;
            (kind, value)
        }
    };
    match value {
        Bound::Value(bytes) => Ok((kind, Some(bytes))),
        Bound::Null => Ok((kind, None)),
        Bound::Unset => Err("an argument of a function is unset".to_owned()),
    }
}

/// Calls a function on values.
///
/// # Errors
/// A sentence for the client.
pub fn apply(
    name: &str,
    arguments: &[(CqlType, Option<Vec<u8>>)],
    now: &Now,
) -> Result<(CqlType, Option<Vec<u8>>), String> {
    let plain_name = plain(name);
    if let Some(similarity) = Similarity::named(&plain_name) {
        return Ok((CqlType::Float, nearness(similarity, arguments)?));
    }
    let Some((kinds, result)) = signature(name, None) else {
        return Err(format!("Unknown function '{name}'"));
    };
    if kinds.len() != arguments.len() {
        return Err(format!("Invalid call to function {name}: wrong number of arguments"));
    }
    let millis_now = i64::try_from(now.micros / 1000).unwrap_or(i64::MAX);
    let done = match plain_name.as_str() {
        "now" | "currenttimeuuid" => Some(now.timeuuid().to_vec()),
        "uuid" => Some(now.uuid().to_vec()),
        "currenttimestamp" => Some(millis_now.to_be_bytes().to_vec()),
        "currentdate" => Some(date_bytes(millis_now)),
        "currenttime" => {
            Some((millis_now.rem_euclid(86_400_000) * 1_000_000).to_be_bytes().to_vec())
        }
        _ => None,
    };
    if let Some(done) = done {
        return Ok((result, Some(done)));
    }
    let Some((kind, argument)) = arguments.first() else { return Ok((result, None)) };
    let Some(bytes) = argument else { return Ok((result, None)) };
    let wrong = || Err(format!("Invalid call to function {name}: a {kind} is no argument of it"));
    if plain_name.ends_with("asblob") {
        return Ok((result, Some(bytes.clone())));
    }
    if plain_name.starts_with("blobas") {
        value::validate(&result, bytes)
            .map_err(|error| format!("In call to function {name}: {error}"))?;
        return Ok((result, Some(bytes.clone())));
    }
    let millis = match kind {
        CqlType::Timeuuid if bytes.len() == 16 => timeuuid_millis(bytes),
        CqlType::Timestamp => value::integer(bytes).unwrap_or_default(),
        CqlType::Date if bytes.len() == 4 => {
            let days = bytes.as_slice().try_into().map(u32::from_be_bytes).unwrap_or_default();
            (i64::from(days) - value::DATE_ZERO) * 86_400_000
        }
        _ => return wrong(),
    };
    Ok(match plain_name.as_str() {
        "mintimeuuid" | "maxtimeuuid" => {
            let least = plain_name == "mintimeuuid";
            let steps = millis.wrapping_mul(10_000) as u64;
            let steps = if least { steps } else { steps.wrapping_add(9_999) };
            let tail = if least { [0x80; 8] } else { [0x7F; 8] };
            (result, Some(timeuuid(steps, tail).to_vec()))
        }
        "todate" => (result, Some(date_bytes(millis))),
        _ => (result, Some(millis.to_be_bytes().to_vec())),
    })
}

/// How near two vectors are; null of null.
fn nearness(
    similarity: Similarity,
    arguments: &[(CqlType, Option<Vec<u8>>)],
) -> Result<Option<Vec<u8>>, String> {
    let [(kind, Some(a)), (_, Some(b))] = arguments else { return Ok(None) };
    let (Some(a), Some(b)) = (floats(kind, a), floats(kind, b)) else {
        return Err("a similarity is one of two vectors of floats".to_owned());
    };
    let nearness = similarity.of(&a, &b);
    if nearness.is_nan() && similarity == Similarity::Cosine {
        return Err("similarity_cosine doesn't support all-zero vectors".to_owned());
    }
    Ok(Some(nearness.to_be_bytes().to_vec()))
}

fn date_bytes(millis: i64) -> Vec<u8> {
    let days = millis.div_euclid(86_400_000) + value::DATE_ZERO;
    u32::try_from(days).unwrap_or(0).to_be_bytes().to_vec()
}

/// `CAST(value AS to)`.
///
/// # Errors
/// A sentence for the client: there is no such cast.
pub fn cast(from: &CqlType, to: &CqlType, bytes: &[u8]) -> Result<Vec<u8>, String> {
    if from == to {
        return Ok(bytes.to_vec());
    }
    let none = || format!("{from} cannot be cast to {to}");
    if matches!(to, CqlType::Text | CqlType::Ascii) {
        return Ok(value::text(from, bytes).into_bytes());
    }
    let number = match from {
        CqlType::Float | CqlType::Double => value::real(bytes).map(|real| (real as i128, real)),
        CqlType::Varint => number::varint_i128(bytes).map(|whole| (whole, whole as f64)),
        CqlType::Decimal => {
            let text = value::text(from, bytes);
            text.parse::<f64>().ok().map(|real| (real as i128, real))
        }
        CqlType::Tinyint
        | CqlType::Smallint
        | CqlType::Int
        | CqlType::Bigint
        | CqlType::Counter => value::integer(bytes).map(|whole| (i128::from(whole), whole as f64)),
        CqlType::Timeuuid | CqlType::Timestamp | CqlType::Date => {
            let name = match to {
                CqlType::Timestamp => "totimestamp",
                CqlType::Date => "todate",
                _ => return Err(none()),
            };
            let argument = (from.clone(), Some(bytes.to_vec()));
            return apply(name, &[argument], &Now::new(0, 0))?.1.ok_or_else(none);
        }
        _ => None,
    };
    let (whole, real) = number.ok_or_else(none)?;
    Ok(match to {
        CqlType::Tinyint => (whole as i8).to_be_bytes().to_vec(),
        CqlType::Smallint => (whole as i16).to_be_bytes().to_vec(),
        CqlType::Int => (whole as i32).to_be_bytes().to_vec(),
        CqlType::Bigint => (whole as i64).to_be_bytes().to_vec(),
        CqlType::Float => (real as f32).to_be_bytes().to_vec(),
        CqlType::Double => real.to_be_bytes().to_vec(),
        CqlType::Varint => number::varint_of(whole),
        CqlType::Decimal => {
            let text = match from {
                CqlType::Float | CqlType::Double => format!("{real:?}"),
                _ => whole.to_string(),
            };
            number::parse_decimal(&text).ok_or_else(none)?
        }
        _ => return Err(none()),
    })
}
