//! The path, byte for byte. A key is any bytes, so the path is taken apart before it is decoded:
//! `%2F` is part of a key, and a decoded key need not be UTF-8.

use std::borrow::Cow;

use bytes::Bytes;

use crate::server::http::limits::HttpLimits;
use crate::server::http::problem::{Kind, Problem};
use crate::types::Key;

/// A `%` that two hexadecimal digits do not follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BadEscape;

fn hex(digit: u8) -> Option<u8> {
    (digit as char).to_digit(16).and_then(|value| u8::try_from(value).ok())
}

fn decode(text: &str, plus_is_space: bool) -> Result<Cow<'_, [u8]>, BadEscape> {
    let bytes = text.as_bytes();
    if !bytes.iter().any(|&byte| byte == b'%' || (plus_is_space && byte == b'+')) {
        return Ok(Cow::Borrowed(bytes));
    }
    let mut out = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let Some((&byte, tail)) = rest.split_first() {
        rest = tail;
        match byte {
            b'%' => {
                let [high, low, tail @ ..] = rest else { return Err(BadEscape) };
                let (high, low) = (hex(*high).ok_or(BadEscape)?, hex(*low).ok_or(BadEscape)?);
                out.push(high << 4 | low);
                rest = tail;
            }
            b'+' if plus_is_space => out.push(b' '),
            other => out.push(other),
        }
    }
    Ok(Cow::Owned(out))
}

/// The bytes of a part of a path.
///
/// # Errors
/// [`BadEscape`].
pub fn decode_path(text: &str) -> Result<Cow<'_, [u8]>, BadEscape> {
    decode(text, false)
}

/// The bytes of a part of a query, in which `+` is a space.
///
/// # Errors
/// [`BadEscape`].
pub fn decode_query(text: &str) -> Result<Cow<'_, [u8]>, BadEscape> {
    decode(text, true)
}

/// The key in the raw last part of a path.
///
/// # Errors
/// `400` when it is empty, too long or badly escaped.
pub fn key_in_path(raw: &str, limits: &HttpLimits) -> Result<Key, Problem> {
    let bytes = decode_path(raw)
        .map_err(|BadEscape| Problem::bad_parameter("key", "the path has a bad percent-escape"))?;
    check_key(Bytes::copy_from_slice(&bytes), limits)
}

/// `bytes` as a key.
///
/// # Errors
/// `400` when there are none or too many.
pub fn check_key(bytes: Bytes, limits: &HttpLimits) -> Result<Key, Problem> {
    let got = bytes.len();
    if got > limits.max_key_bytes {
        return Err(Problem::new(
            Kind::KeyTooLong,
            format!("the key has {got} bytes and at most {} are allowed", limits.max_key_bytes),
        )
        .with("max", limits.max_key_bytes)
        .with("got", got));
    }
    Key::new(bytes).map_err(|_| Problem::bad_parameter("key", "a key has at least one byte"))
}

/// A key as a part of a path: everything but unreserved characters is escaped.
#[must_use]
pub fn encode_key(key: &[u8]) -> String {
    use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_encode};
    const ESCAPED: &AsciiSet =
        &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
    percent_encode(key, ESCAPED).to_string()
}

/// True for a name that a bucket may have: `[a-z][a-z0-9_]{0,47}`.
#[must_use]
pub fn is_bucket_name(name: &str) -> bool {
    let mut bytes = name.bytes();
    name.len() <= 48
        && bytes.next().is_some_and(|first| first.is_ascii_lowercase())
        && bytes.all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_key_survives_its_path(bytes in proptest::collection::vec(any::<u8>(), 1..64)) {
            let text = encode_key(&bytes);
            prop_assert!(text.is_ascii() && !text.contains('/'));
            let key = key_in_path(&text, &HttpLimits::default()).unwrap();
            prop_assert_eq!(key.as_bytes(), &bytes[..]);
        }
    }

    #[test]
    fn broken_escapes_are_refused() {
        for text in ["%", "a%4", "%zz", "%+1", "%%41"] {
            assert_eq!(decode_path(text), Err(BadEscape), "{text}");
        }
        assert_eq!(decode_path("%2f+").unwrap(), &b"/+"[..]);
    }

    #[test]
    fn bucket_names() {
        for good in ["a", "flights", "a_1", &"x".repeat(48)] {
            assert!(is_bucket_name(good), "{good}");
        }
        for bad in ["", "A", "1a", "_a", "a-b", "a.b", "ä", &"x".repeat(49)] {
            assert!(!is_bucket_name(bad), "{bad}");
        }
    }
}
