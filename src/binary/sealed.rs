//! Envelopes: a format byte before the body, and for what is stored a checksum behind it.
//!
//! A row of consensus that fails its checksum is *known loss* (the acceptor must not vote); a row that decodes
//! to something else unnoticed would be a vote that changed its mind. Hence the checksum here,
//! whatever the engine below may check by itself.

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::binary::{body, decode};

/// No row may be larger than this, in bytes: the greatest value a record may hold, with room
/// around it.
pub const MAX_ROW_BYTES: usize = 64 << 20;

const CHECKSUM_BYTES: usize = 8;

/// Stored or received bytes are not what they should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SealError {
    /// Too short, too long, or the checksum does not match.
    #[error("{what}: {bytes} bytes that fail their checksum")]
    Damaged {
        /// What it should have been.
        what: &'static str,
        /// How many bytes there are.
        bytes: usize,
    },
    /// A format this program does not know.
    #[error("{what}: format {found}, this program knows format {known}; upgrade it")]
    UnknownFormat {
        /// What it should have been.
        what: &'static str,
        /// The format byte that was found.
        found: u8,
        /// The format that this program writes.
        known: u8,
    },
    /// The body does not have the form that its format byte promises.
    #[error("{what}: {why}")]
    Malformed {
        /// What it should have been.
        what: &'static str,
        /// What is wrong.
        why: String,
    },
}

fn parse<T: DeserializeOwned>(what: &'static str, bytes: &[u8]) -> Result<T, SealError> {
    decode(bytes).map_err(|error| SealError::Malformed { what, why: error.to_string() })
}

/// `format` and the body: for messages, whose frames carry a checksum already.
#[must_use]
pub fn pack<T: Serialize>(format: u8, value: &T) -> Vec<u8> {
    let mut out = vec![format];
    out.append(&mut body(value));
    out
}

/// Reads what [`pack`] wrote with `format`. `what` names it in errors.
///
/// # Errors
/// Any [`SealError`].
pub fn unpack<T: DeserializeOwned>(
    what: &'static str,
    format: u8,
    bytes: &[u8],
) -> Result<T, SealError> {
    match bytes.split_first() {
        None => Err(SealError::Damaged { what, bytes: 0 }),
        Some((&found, body)) if found == format => parse(what, body),
        Some((&found, _)) => Err(SealError::UnknownFormat { what, found, known: format }),
    }
}

/// A stored row: `format`, the body, and the xxh3-64 of both.
#[must_use]
pub fn seal<T: Serialize>(format: u8, value: &T) -> Vec<u8> {
    let mut out = pack(format, value);
    let checksum = xxhash_rust::xxh3::xxh3_64(&out);
    out.extend_from_slice(&checksum.to_be_bytes());
    out
}

/// Reads a row that [`seal`] wrote with `format`. `what` names it in errors.
///
/// # Errors
/// Any [`SealError`]; all of them mean that the row's content is lost, none that it was absent.
pub fn unseal<T: DeserializeOwned>(
    what: &'static str,
    format: u8,
    bytes: &[u8],
) -> Result<T, SealError> {
    let damaged = SealError::Damaged { what, bytes: bytes.len() };
    if bytes.len() > MAX_ROW_BYTES {
        return Err(damaged);
    }
    let Some((sealed, checksum)) = bytes.split_last_chunk::<CHECKSUM_BYTES>() else {
        return Err(damaged);
    };
    if xxhash_rust::xxh3::xxh3_64(sealed) != u64::from_be_bytes(*checksum) {
        return Err(damaged);
    }
    if sealed.is_empty() {
        return Err(damaged);
    }
    unpack(what, format, sealed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_reads_back_and_any_flipped_bit_is_noticed() {
        let row = seal(3, &(7u64, "text".to_owned()));
        assert_eq!(unseal("row", 3, &row), Ok((7u64, "text".to_owned())));
        for bit in 0..row.len() * 8 {
            let mut bad = row.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(unseal::<(u64, String)>("row", 3, &bad).is_err(), "bit {bit}");
        }
        for len in 0..row.len() {
            assert!(unseal::<(u64, String)>("row", 3, &row[..len]).is_err());
        }
    }

    #[test]
    fn a_row_of_another_format_says_so() {
        let row = seal(2, &1u8);
        let error = unseal::<u8>("row", 3, &row).unwrap_err();
        assert_eq!(error, SealError::UnknownFormat { what: "row", found: 2, known: 3 });
    }
}
