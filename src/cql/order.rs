//! Clustering keys as bytes whose order is the rows' order, and back.
//!
//! Each component is a mark and a body. No component's bytes are a prefix of another value's, so
//! components can follow each other, and a component in descending order is the complement of its
//! bytes. After the bytes of any prefix of a clustering key come only bytes below [`AFTER`]: so
//! "all rows that begin with p" is `p ≤ row < p ++ AFTER`.
//!
//! ```text
//! 02 empty value   03 value   (01 null, inside tuples)
//! whole numbers   sign bit turned round       floats    sign bit, or all bits if negative
//! text, blob      00 → 00 FF, ended by 00 00  collections   elements with marks, ended by 00
//!                                             tuples        so too, less the nulls at their end
//! uuid            version, time or bytes      varint    sign, length, magnitude
//! decimal         sign, exponent, digits (zeros at the end of the digits are lost)
//! ```

use crate::cql::number;
use crate::cql::types::CqlType;
use crate::cql::value::{self, Cursor};

/// Greater than what may follow the bytes of a component.
pub const AFTER: u8 = 0xFF;

const NULL: u8 = 1;
const EMPTY: u8 = 2;
const VALUE: u8 = 3;

/// Appends one component.
pub fn put_component(out: &mut Vec<u8>, kind: &CqlType, descending: bool, bytes: &[u8]) {
    let start = out.len();
    put_marked(out, kind, Some(bytes));
    if descending {
        out[start..].iter_mut().for_each(|byte| *byte = !*byte);
    }
}

/// Reads the components of a whole clustering key.
#[must_use]
pub fn read_components(kinds: &[(&CqlType, bool)], bytes: &[u8]) -> Option<Vec<Vec<u8>>> {
    let mut rest = bytes;
    let mut out = Vec::with_capacity(kinds.len());
    for (kind, descending) in kinds {
        let turned: Vec<u8>;
        let input = if *descending {
            turned = rest.iter().map(|byte| !byte).collect();
            turned.as_slice()
        } else {
            rest
        };
        let mut cursor = Cursor::new(input);
        out.push(read_marked(&mut cursor, kind)??);
        rest = &rest[rest.len() - cursor.rest().len()..];
    }
    rest.is_empty().then_some(out)
}

fn put_marked(out: &mut Vec<u8>, kind: &CqlType, value: Option<&[u8]>) {
    match value {
        None => out.push(NULL),
        Some([]) => out.push(EMPTY),
        Some(bytes) => {
            out.push(VALUE);
            put_body(out, kind.thawed(), bytes);
        }
    }
}

#[allow(clippy::option_option, reason = "outer: damaged; inner: null")]
fn read_marked(cursor: &mut Cursor<'_>, kind: &CqlType) -> Option<Option<Vec<u8>>> {
    match cursor.take(1)?[0] {
        NULL => Some(None),
        EMPTY => Some(Some(Vec::new())),
        VALUE => read_body(cursor, kind.thawed()).map(Some),
        _ => None,
    }
}

fn put_escaped(out: &mut Vec<u8>, bytes: &[u8]) {
    for &byte in bytes {
        out.push(byte);
        if byte == 0 {
            out.push(0xFF);
        }
    }
    out.extend_from_slice(&[0, 0]);
}

fn read_escaped(cursor: &mut Cursor<'_>) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    loop {
        match cursor.take(1)?[0] {
            0 => match cursor.take(1)?[0] {
                0 => return Some(out),
                0xFF => out.push(0),
                _ => return None,
            },
            byte => out.push(byte),
        }
    }
}

fn put_timeuuid(out: &mut Vec<u8>, uuid: &[u8]) {
    out.extend_from_slice(&value::uuid_time(uuid).to_be_bytes());
    out.extend(uuid.iter().skip(8).map(|byte| byte ^ 0x80));
}

fn read_timeuuid(cursor: &mut Cursor<'_>) -> Option<Vec<u8>> {
    let time = u64::from_be_bytes(cursor.take(8)?.try_into().ok()?);
    let all = time << 32 | (time >> 32 & 0xFFFF) << 16 | (time >> 48 & 0x0FFF) | 0x1000;
    let mut out = all.to_be_bytes().to_vec();
    out.extend(cursor.take(8)?.iter().map(|byte| byte ^ 0x80));
    Some(out)
}

fn put_body(out: &mut Vec<u8>, kind: &CqlType, bytes: &[u8]) {
    match kind {
        CqlType::Boolean | CqlType::Date => out.extend_from_slice(bytes),
        CqlType::Float | CqlType::Double => {
            let negative = bytes[0] & 0x80 != 0;
            let start = out.len();
            out.extend_from_slice(bytes);
            let turn = if negative { 0xFF } else { 0 };
            out[start..].iter_mut().for_each(|byte| *byte ^= turn);
            out[start] ^= if negative { 0 } else { 0x80 };
        }
        CqlType::Ascii | CqlType::Text | CqlType::Blob | CqlType::Inet | CqlType::Duration => {
            put_escaped(out, bytes);
        }
        CqlType::Timeuuid => put_timeuuid(out, bytes),
        CqlType::Uuid => {
            let version = bytes.get(6).map_or(0, |byte| byte >> 4);
            out.push(version);
            if version == 1 { put_timeuuid(out, bytes) } else { out.extend_from_slice(bytes) }
        }
        CqlType::Varint => {
            let (negative, magnitude) = number::magnitude(bytes);
            let turn = if negative { 0xFF } else { 0 };
            out.push(u8::from(!negative));
            let len = u32::try_from(magnitude.len()).unwrap_or(u32::MAX).to_be_bytes();
            out.extend(len.iter().chain(&magnitude).map(|byte| byte ^ turn));
        }
        CqlType::Decimal => {
            let (scale, unscaled) = number::decimal_parts(bytes).unwrap_or((0, &[0]));
            let (sign, exponent, digits) = number::normalized(scale, unscaled);
            out.push((sign + 1) as u8);
            if sign != 0 {
                let turn = if sign < 0 { 0xFF } else { 0 };
                let exponent = ((exponent as u64) ^ (1 << 63)).to_be_bytes();
                out.extend(exponent.iter().map(|byte| byte ^ turn));
                out.extend(digits.iter().map(|digit| (digit + 1) ^ turn));
                out.push(turn);
            }
        }
        CqlType::List(_)
        | CqlType::Set(_)
        | CqlType::Map(..)
        | CqlType::Tuple(_)
        | CqlType::Udt(_)
        | CqlType::Vector(..) => {
            let (parts, mut items) = (kind.parts(), items(kind, bytes));
            // Values that are equal have one form: a type may have got fields since one was written.
            while items.last() == Some(&None) {
                items.pop();
            }
            for (at, item) in items.into_iter().enumerate() {
                put_marked(out, parts[at % parts.len()], item);
            }
            out.push(0);
        }
        _ => {
            let start = out.len();
            out.extend_from_slice(bytes);
            out[start] ^= 0x80;
        }
    }
}

/// The parts of a value that has parts.
fn items<'a>(kind: &CqlType, bytes: &'a [u8]) -> Vec<Option<&'a [u8]>> {
    let all = |items: Option<Vec<&'a [u8]>>| {
        items.unwrap_or_default().into_iter().map(Some).collect::<Vec<_>>()
    };
    match kind {
        CqlType::List(_) | CqlType::Set(_) => all(value::elements(bytes, 1)),
        CqlType::Map(..) => all(value::elements(bytes, 2)),
        CqlType::Vector(inner, len) => all(value::vector_elements(inner, *len, bytes)),
        _ => value::fields(bytes, kind.parts().len()).unwrap_or_default(),
    }
}

fn read_body(cursor: &mut Cursor<'_>, kind: &CqlType) -> Option<Vec<u8>> {
    match kind {
        CqlType::Boolean | CqlType::Date => Some(cursor.take(value::fixed_size(kind)?)?.to_vec()),
        CqlType::Float | CqlType::Double => {
            let mut bytes = cursor.take(value::fixed_size(kind)?)?.to_vec();
            if bytes[0] & 0x80 == 0 {
                bytes.iter_mut().for_each(|byte| *byte = !*byte);
            } else {
                bytes[0] ^= 0x80;
            }
            Some(bytes)
        }
        CqlType::Ascii | CqlType::Text | CqlType::Blob | CqlType::Inet | CqlType::Duration => {
            read_escaped(cursor)
        }
        CqlType::Timeuuid => read_timeuuid(cursor),
        CqlType::Uuid => match cursor.take(1)?[0] {
            1 => read_timeuuid(cursor),
            _ => Some(cursor.take(16)?.to_vec()),
        },
        CqlType::Varint => {
            let negative = cursor.take(1)?[0] == 0;
            let turn = if negative { 0xFF } else { 0 };
            let len: Vec<u8> = cursor.take(4)?.iter().map(|byte| byte ^ turn).collect();
            let len = u32::from_be_bytes(len.try_into().ok()?);
            let magnitude: Vec<u8> =
                cursor.take(usize::try_from(len).ok()?)?.iter().map(|byte| byte ^ turn).collect();
            Some(number::twos_complement(negative, &magnitude))
        }
        CqlType::Decimal => read_decimal(cursor),
        CqlType::List(_)
        | CqlType::Set(_)
        | CqlType::Map(..)
        | CqlType::Tuple(_)
        | CqlType::Udt(_)
        | CqlType::Vector(..) => read_items(cursor, kind),
        _ => {
            let mut bytes = cursor.take(value::fixed_size(kind)?)?.to_vec();
            bytes[0] ^= 0x80;
            Some(bytes)
        }
    }
}

fn read_decimal(cursor: &mut Cursor<'_>) -> Option<Vec<u8>> {
    let turn = match cursor.take(1)?[0] {
        1 => return Some(vec![0, 0, 0, 0, 0]),
        0 => 0xFF,
        2 => 0,
        _ => return None,
    };
    let exponent: Vec<u8> = cursor.take(8)?.iter().map(|byte| byte ^ turn).collect();
    let exponent = (u64::from_be_bytes(exponent.try_into().ok()?) ^ (1 << 63)) as i64;
    let mut digits = String::new();
    loop {
        match cursor.take(1)?[0] ^ turn {
            0 => break,
            digit @ 1..=10 => digits.push(char::from(b'0' + digit - 1)),
            _ => return None,
        }
    }
    let scale = i32::try_from((digits.len() as i64).checked_sub(exponent)?).ok()?;
    let sign = if turn == 0 { "" } else { "-" };
    let mut out = scale.to_be_bytes().to_vec();
    out.extend(number::parse_varint(&format!("{sign}{digits}"))?);
    Some(out)
}

fn read_items(cursor: &mut Cursor<'_>, kind: &CqlType) -> Option<Vec<u8>> {
    let parts = kind.parts();
    let mut items: Vec<Option<Vec<u8>>> = Vec::new();
    while *cursor.rest().first()? != 0 {
        items.push(read_marked(cursor, parts[items.len() % parts.len()])?);
    }
    cursor.take(1)?;
    let whole = || items.iter().cloned().collect::<Option<Vec<Vec<u8>>>>();
    Some(match kind {
        CqlType::List(_) | CqlType::Set(_) => value::collection(&whole()?, 1),
        CqlType::Map(..) => value::collection(&whole()?, 2),
        CqlType::Vector(inner, _) => vector_bytes(inner, &whole()?),
        _ => {
            items.resize(parts.len(), None);
            let mut out = Vec::new();
            items.iter().for_each(|item| value::put_field(&mut out, item.as_deref()));
            out
        }
    })
}

/// The bytes of a vector of these elements.
#[must_use]
pub fn vector_bytes(inner: &CqlType, items: &[Vec<u8>]) -> Vec<u8> {
    let whole = items.concat();
    let len = u16::try_from(items.len()).unwrap_or(u16::MAX);
    // Fixed-size elements stand without lengths: then the plain form reads back.
    if value::vector_elements(inner, len, &whole).is_some_and(|read| read == *items)
        && value::fixed_size(inner).is_some()
    {
        return whole;
    }
    let mut out = Vec::new();
    for item in items {
        value::put_vint(&mut out, item.len() as u64);
        out.extend_from_slice(item);
    }
    out
}
