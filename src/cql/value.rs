//! The bytes of values: what is sound, how they compare, how they look.

use std::cmp::Ordering;
use std::net::IpAddr;

use crate::cql::number;
use crate::cql::time;
use crate::cql::types::{CqlType, quote};

/// Days are counted from here in the bytes of a date.
pub const DATE_ZERO: i64 = 1 << 31;

/// The most bytes of a varint or decimal: turning one into digits takes quadratic time.
pub const MAX_NUMBER: usize = 4_200;

/// Nanoseconds of a day.
pub const DAY_NANOS: i64 = 86_400_000_000_000;

/// Reads bytes from the front.
#[derive(Debug, Clone)]
pub struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    /// Over all of `bytes`.
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// The next `len` bytes.
    pub fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(head)
    }

    /// The next four as a number.
    pub fn int(&mut self) -> Option<i32> {
        Some(i32::from_be_bytes(self.take(4)?.try_into().ok()?))
    }

    /// A length and so many bytes; a negative length is null.
    #[allow(clippy::option_option, reason = "outer: cut short; inner: null")]
    pub fn field(&mut self) -> Option<Option<&'a [u8]>> {
        match usize::try_from(self.int()?) {
            Ok(len) => self.take(len).map(Some),
            Err(_) => Some(None),
        }
    }

    /// True at the end.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Bytes left.
    #[must_use]
    pub fn rest(&self) -> &'a [u8] {
        self.0
    }
}

/// Appends a length and bytes; null is −1.
pub fn put_field(out: &mut Vec<u8>, field: Option<&[u8]>) {
    match field {
        Some(bytes) => {
            out.extend_from_slice(&i32::try_from(bytes.len()).unwrap_or(i32::MAX).to_be_bytes());
            out.extend_from_slice(bytes);
        }
        None => out.extend_from_slice(&(-1i32).to_be_bytes()),
    }
}

/// The elements of a list's or set's bytes, or the keys and values of a map's, one after the other.
#[must_use]
pub fn elements(bytes: &[u8], per_item: usize) -> Option<Vec<&[u8]>> {
    let mut cursor = Cursor::new(bytes);
    let count = usize::try_from(cursor.int()?).ok()?.checked_mul(per_item)?;
    if count > cursor.rest().len() / 4 {
        return None;
    }
    let mut out = Vec::with_capacity(count);
    for _ in 0..count {
        out.push(cursor.field()??);
    }
    cursor.is_empty().then_some(out)
}

/// The bytes of a list, set or map of these elements (a map's keys and values in turn).
#[must_use]
pub fn collection<T: AsRef<[u8]>>(elements: &[T], per_item: usize) -> Vec<u8> {
    let count = i32::try_from(elements.len() / per_item).unwrap_or(i32::MAX);
    let mut out = count.to_be_bytes().to_vec();
    elements.iter().for_each(|element| put_field(&mut out, Some(element.as_ref())));
    out
}

/// The fields of a tuple's or user type's bytes; missing ones at the end are null.
#[must_use]
pub fn fields(bytes: &[u8], count: usize) -> Option<Vec<Option<&[u8]>>> {
    let mut cursor = Cursor::new(bytes);
    let mut out = Vec::with_capacity(count);
    while !cursor.is_empty() {
        if out.len() == count {
            return None;
        }
        out.push(cursor.field()?);
    }
    out.resize(count, None);
    Some(out)
}

/// The bytes of each element of a simple type that always has as many; `None`: it varies.
#[must_use]
pub fn fixed_size(kind: &CqlType) -> Option<usize> {
    Some(match kind.thawed() {
        CqlType::Boolean | CqlType::Tinyint => 1,
        CqlType::Smallint => 2,
        CqlType::Int | CqlType::Float | CqlType::Date => 4,
        CqlType::Bigint
        | CqlType::Counter
        | CqlType::Double
        | CqlType::Time
        | CqlType::Timestamp => 8,
        CqlType::Uuid | CqlType::Timeuuid => 16,
        _ => return None,
    })
}

/// The elements of a vector's bytes.
#[must_use]
pub fn vector_elements<'a>(inner: &CqlType, len: u16, bytes: &'a [u8]) -> Option<Vec<&'a [u8]>> {
    let len = usize::from(len);
    // In a vector every number but these has a length before it.
    let fixed = fixed_size(inner).filter(|_| {
        !matches!(inner, CqlType::Tinyint | CqlType::Smallint | CqlType::Date | CqlType::Time)
    });
    if let Some(size) = fixed {
        return (bytes.len() == size * len).then(|| bytes.chunks_exact(size).collect());
    }
    let mut cursor = Cursor::new(bytes);
    let mut out = Vec::with_capacity(len);
    for _ in 0..len {
        let size = usize::try_from(read_vint(&mut cursor)?).ok()?;
        out.push(cursor.take(size)?);
    }
    cursor.is_empty().then_some(out)
}

/// Appends an unsigned vint: leading ones of the first byte say how many bytes follow.
pub fn put_vint(out: &mut Vec<u8>, value: u64) {
    let bits = 64 - (value | 1).leading_zeros() as usize;
    let extra = if bits > 56 { 8 } else { (bits - 1) / 7 };
    if extra == 8 {
        out.push(0xFF);
        out.extend_from_slice(&value.to_be_bytes());
        return;
    }
    let bytes = value.to_be_bytes();
    let start = out.len();
    out.extend_from_slice(&bytes[7 - extra..]);
    out[start] |= !(0xFFu16 >> extra) as u8;
}

/// Reads an unsigned vint.
pub fn read_vint(cursor: &mut Cursor<'_>) -> Option<u64> {
    let first = *cursor.take(1)?.first()?;
    let extra = first.leading_ones() as usize;
    let mut value = if extra >= 7 { 0 } else { u64::from(first & (0xFF >> extra)) };
    for byte in cursor.take(extra)? {
        value = value << 8 | u64::from(*byte);
    }
    Some(value)
}

fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)) as u64
}

fn unzigzag(value: u64) -> i64 {
    (value >> 1) as i64 ^ -((value & 1) as i64)
}

/// The bytes of a duration.
#[must_use]
pub fn duration_bytes((months, days, nanos): time::Duration) -> Vec<u8> {
    let mut out = Vec::new();
    for part in [months, days, nanos] {
        put_vint(&mut out, zigzag(part));
    }
    out
}

fn read_duration(bytes: &[u8]) -> Option<time::Duration> {
    let mut cursor = Cursor::new(bytes);
    let mut part = || read_vint(&mut cursor).map(unzigzag);
    let (months, days, nanos) = (part()?, part()?, part()?);
    let bounded = [months, days].iter().all(|part| i32::try_from(*part).is_ok());
    let signs = [months, days, nanos];
    let one_sign = signs.iter().all(|n| *n >= 0) || signs.iter().all(|n| *n <= 0);
    (cursor.is_empty() && bounded && one_sign).then_some((months, days, nanos))
}

/// Checks bytes that came from outside. Null is not for this function; zero bytes are the "empty"
/// value of most types.
///
/// # Errors
/// A sentence for the client.
pub fn validate(kind: &CqlType, bytes: &[u8]) -> Result<(), String> {
    let wrong = || Err(format!("{} bytes are no value of type {kind}", bytes.len()));
    let sound = |sound: bool| if sound { Ok(()) } else { wrong() };
    let thawed = kind.thawed();
    match thawed {
        CqlType::Blob => Ok(()),
        CqlType::Text => match std::str::from_utf8(bytes) {
            Ok(_) => Ok(()),
            Err(_) => Err("String didn't validate: it is not UTF-8".to_owned()),
        },
        CqlType::Ascii if bytes.is_ascii() => Ok(()),
        CqlType::Ascii => Err("String didn't validate: it is not ASCII".to_owned()),
        CqlType::List(inner) | CqlType::Set(inner) => match elements(bytes, 1) {
            Some(items) => items.iter().try_for_each(|item| validate(inner, item)),
            None => wrong(),
        },
        CqlType::Map(key, value) => match elements(bytes, 2) {
            Some(items) => items.chunks(2).try_for_each(|pair| {
                validate(key, pair[0])?;
                validate(value, pair[1])
            }),
            None => wrong(),
        },
        CqlType::Tuple(_) | CqlType::Udt(_) => {
            let parts = thawed.parts();
            let Some(values) = fields(bytes, parts.len()) else { return wrong() };
            parts.iter().zip(values).try_for_each(|(part, value)| match value {
                Some(value) => validate(part, value),
                None => Ok(()),
            })
        }
        CqlType::Vector(inner, len) => match vector_elements(inner, *len, bytes) {
            Some(items) => items.iter().try_for_each(|item| validate(inner, item)),
            None => wrong(),
        },
        _ if bytes.is_empty() => Ok(()),
        CqlType::Decimal | CqlType::Varint if bytes.len() > MAX_NUMBER => {
            Err(format!("a {kind} has at most {MAX_NUMBER} bytes here"))
        }
        CqlType::Decimal => sound(number::decimal_parts(bytes).is_some()),
        CqlType::Varint => Ok(()),
        CqlType::Inet => sound(matches!(bytes.len(), 4 | 16)),
        CqlType::Duration => sound(read_duration(bytes).is_some()),
        CqlType::Time => {
            let nanos = bytes.try_into().map(i64::from_be_bytes);
            sound(nanos.is_ok_and(|nanos| (0..DAY_NANOS).contains(&nanos)))
        }
        CqlType::Timeuuid => sound(bytes.len() == 16 && bytes[6] >> 4 == 1),
        _ => sound(fixed_size(thawed) == Some(bytes.len())),
    }
}

/// A big-endian number of up to eight bytes.
#[must_use]
pub fn integer(bytes: &[u8]) -> Option<i64> {
    if bytes.is_empty() || bytes.len() > 8 {
        return None;
    }
    let start = if bytes[0] & 0x80 != 0 { -1 } else { 0 };
    Some(bytes.iter().fold(start, |value, byte| value << 8 | i64::from(*byte)))
}

/// A float or double.
#[must_use]
pub fn real(bytes: &[u8]) -> Option<f64> {
    match bytes.len() {
        4 => Some(f64::from(f32::from_be_bytes(bytes.try_into().ok()?))),
        8 => Some(f64::from_be_bytes(bytes.try_into().ok()?)),
        _ => None,
    }
}

/// The 60-bit time of a version 1 UUID, in its order.
#[must_use]
pub fn uuid_time(uuid: &[u8]) -> u64 {
    let Some(head) = uuid.first_chunk::<8>() else { return 0 };
    let all = u64::from_be_bytes(*head);
    (all & 0x0FFF) << 48 | (all >> 16 & 0xFFFF) << 32 | all >> 32
}

fn signed_bytes(bytes: &[u8]) -> impl Iterator<Item = i8> + '_ {
    bytes.iter().map(|byte| *byte as i8)
}

fn compare_timeuuid(a: &[u8], b: &[u8]) -> Ordering {
    let rest = |uuid| <[u8]>::get(uuid, 8..).unwrap_or_default();
    uuid_time(a).cmp(&uuid_time(b)).then_with(|| signed_bytes(rest(a)).cmp(signed_bytes(rest(b))))
}

fn version(uuid: &[u8]) -> u8 {
    uuid.get(6).map_or(0, |byte| byte >> 4)
}

/// The order of two sound values of a type; "empty" ones come first.
#[must_use]
pub fn compare(kind: &CqlType, a: &[u8], b: &[u8]) -> Ordering {
    let thawed = kind.thawed();
    let empty = (b.is_empty(), a.is_empty());
    match thawed {
        CqlType::Ascii | CqlType::Text | CqlType::Blob | CqlType::Inet | CqlType::Duration => {
            a.cmp(b)
        }
        CqlType::List(inner) | CqlType::Set(inner) => {
            compare_lists(&[inner], elements(a, 1), elements(b, 1))
        }
        CqlType::Map(key, value) => compare_lists(&[key, value], elements(a, 2), elements(b, 2)),
        CqlType::Vector(inner, len) => compare_lists(
            &[inner],
            vector_elements(inner, *len, a),
            vector_elements(inner, *len, b),
        ),
        CqlType::Tuple(_) | CqlType::Udt(_) => {
            let parts = thawed.parts();
            let (a, b) = (fields(a, parts.len()), fields(b, parts.len()));
            let pairs = a.unwrap_or_default().into_iter().zip(b.unwrap_or_default());
            parts
                .iter()
                .zip(pairs)
                .map(|(part, pair)| match pair {
                    (Some(a), Some(b)) => compare(part, a, b),
                    (a, b) => a.is_some().cmp(&b.is_some()),
                })
                .find(|order| order.is_ne())
                .unwrap_or(Ordering::Equal)
        }
        _ if empty.0 || empty.1 => empty.0.cmp(&empty.1),
        CqlType::Varint => number::compare_varint(a, b),
        CqlType::Decimal => match (number::decimal_parts(a), number::decimal_parts(b)) {
            (Some(a), Some(b)) => number::compare_decimal(a, b),
            _ => a.cmp(b),
        },
        CqlType::Float | CqlType::Double => match (real(a), real(b)) {
            (Some(a), Some(b)) => a.total_cmp(&b),
            _ => a.cmp(b),
        },
        CqlType::Timeuuid => compare_timeuuid(a, b),
        CqlType::Uuid => match (version(a), version(b)) {
            (1, 1) => compare_timeuuid(a, b),
            (x, y) => x.cmp(&y).then_with(|| a.cmp(b)),
        },
        // Unsigned, and so in byte order.
        CqlType::Date | CqlType::Boolean => a.cmp(b),
        _ => integer(a).cmp(&integer(b)),
    }
}

fn compare_lists(kinds: &[&CqlType], a: Option<Vec<&[u8]>>, b: Option<Vec<&[u8]>>) -> Ordering {
    let (a, b) = (a.unwrap_or_default(), b.unwrap_or_default());
    let pairs = a.iter().zip(&b).enumerate();
    pairs
        .map(|(at, (a, b))| compare(kinds[at % kinds.len()], a, b))
        .find(|order| order.is_ne())
        .unwrap_or_else(|| a.len().cmp(&b.len()))
}

/// A UUID in its usual form.
#[must_use]
pub fn uuid_text(uuid: &[u8]) -> String {
    let mut out = String::with_capacity(36);
    for (at, byte) in uuid.iter().enumerate() {
        if matches!(at, 4 | 6 | 8 | 10) {
            out.push('-');
        }
        out.push_str(&format!("{byte:02x}"));
    }
    out
}

/// `0x…`
#[must_use]
pub fn blob_text(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(2 + bytes.len() * 2);
    out.push_str("0x");
    bytes.iter().for_each(|byte| out.push_str(&format!("{byte:02x}")));
    out
}

/// An address of 4 or 16 bytes.
#[must_use]
pub fn inet(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => Some(IpAddr::from(<[u8; 4]>::try_from(bytes).ok()?)),
        16 => Some(IpAddr::from(<[u8; 16]>::try_from(bytes).ok()?)),
        _ => None,
    }
}

/// The bytes of an address.
#[must_use]
pub fn inet_bytes(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// A sound value as CQL shows it (text unquoted at the top, quoted inside collections).
#[must_use]
pub fn text(kind: &CqlType, bytes: &[u8]) -> String {
    let thawed = kind.thawed();
    let join = |kinds: &[&CqlType], items: Option<Vec<&[u8]>>| {
        let items = items.unwrap_or_default();
        let texts =
            items.iter().enumerate().map(|(at, item)| quoted(kinds[at % kinds.len()], item));
        texts.collect::<Vec<_>>()
    };
    match thawed {
        CqlType::Text | CqlType::Ascii => String::from_utf8_lossy(bytes).into_owned(),
        CqlType::Blob => blob_text(bytes),
        CqlType::List(inner) => format!("[{}]", join(&[inner], elements(bytes, 1)).join(", ")),
        CqlType::Set(inner) => format!("{{{}}}", join(&[inner], elements(bytes, 1)).join(", ")),
        CqlType::Vector(inner, len) => {
            format!("[{}]", join(&[inner], vector_elements(inner, *len, bytes)).join(", "))
        }
        CqlType::Map(key, value) => {
            let items = join(&[key, value], elements(bytes, 2));
            let pairs: Vec<String> = items.chunks(2).map(|pair| pair.join(": ")).collect();
            format!("{{{}}}", pairs.join(", "))
        }
        CqlType::Tuple(_) | CqlType::Udt(_) => {
            let parts = thawed.parts();
            let values = fields(bytes, parts.len()).unwrap_or_default();
            let show = |(part, value): (&&CqlType, Option<&[u8]>)| {
                value.map_or_else(|| "null".to_owned(), |value| quoted(part, value))
            };
            let shown: Vec<String> = parts.iter().zip(values).map(show).collect();
            match thawed {
                CqlType::Udt(udt) => {
                    let named = udt.fields.iter().zip(shown);
                    let pairs: Vec<String> = named
                        .map(|((name, _), value)| format!("{}: {value}", quote(name)))
                        .collect();
                    format!("{{{}}}", pairs.join(", "))
                }
                _ => format!("({})", shown.join(", ")),
            }
        }
        _ if bytes.is_empty() => String::new(),
        CqlType::Boolean => (bytes != [0]).to_string(),
        CqlType::Decimal => number::decimal_parts(bytes)
            .map_or_else(String::new, |(scale, unscaled)| number::decimal_text(scale, unscaled)),
        CqlType::Varint => number::varint_text(bytes),
        CqlType::Float => {
            bytes.try_into().map(|b| f32::from_be_bytes(b).to_string()).unwrap_or_default()
        }
        CqlType::Double => real(bytes).unwrap_or_default().to_string(),
        CqlType::Inet => inet(bytes).map(|inet| inet.to_string()).unwrap_or_default(),
        CqlType::Uuid | CqlType::Timeuuid => uuid_text(bytes),
        CqlType::Date => {
            let days = bytes.try_into().map(u32::from_be_bytes).unwrap_or_default();
            time::date_text(i64::from(days) - DATE_ZERO)
        }
        CqlType::Time => time::time_text(integer(bytes).unwrap_or_default()),
        CqlType::Timestamp => time::timestamp_text(integer(bytes).unwrap_or_default()),
        CqlType::Duration => read_duration(bytes).map(time::duration_text).unwrap_or_default(),
        _ => integer(bytes).unwrap_or_default().to_string(),
    }
}

fn quoted(kind: &CqlType, bytes: &[u8]) -> String {
    let plain = text(kind, bytes);
    match kind.thawed() {
        CqlType::Text
        | CqlType::Ascii
        | CqlType::Date
        | CqlType::Time
        | CqlType::Timestamp
        | CqlType::Inet => format!("'{}'", plain.replace('\'', "''")),
        _ => plain,
    }
}
