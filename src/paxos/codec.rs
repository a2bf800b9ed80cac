//! The envelope of stored consensus rows: format byte, body, checksum.
//!
//! A row that fails its checksum is *known loss* (the acceptor must not vote); a row that decodes
//! to something else unnoticed would be a vote that changed its mind. Hence the checksum here,
//! whatever the engine below may check by itself.

use serde::Serialize;
use serde::de::DeserializeOwned;

/// No row may be larger than this, in bytes: the greatest value a record may hold, with room
/// around it.
pub const MAX_ROW_BYTES: usize = 64 << 20;

const CHECKSUM_BYTES: usize = 8;

/// Stored or received bytes are not what they should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CodecError {
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

fn config() -> impl bincode::config::Config {
    bincode::config::standard().with_limit::<MAX_ROW_BYTES>()
}

/// Encodes `value` without an envelope: for canonical bytes that are hashed, and for messages
/// whose frames carry a checksum already.
///
/// # Panics
/// Never for the plain data types of this crate: their encoding cannot fail.
#[must_use]
pub fn body<T: Serialize>(value: &T) -> Vec<u8> {
    match bincode::serde::encode_to_vec(value, config()) {
        Ok(bytes) => bytes,
        Err(error) => unreachable!("plain data always encodes: {error}"),
    }
}

/// Reads what [`body`] wrote, all of it and nothing more.
///
/// # Errors
/// [`CodecError::Malformed`].
pub fn parse_body<T: DeserializeOwned>(what: &'static str, bytes: &[u8]) -> Result<T, CodecError> {
    let malformed = |why: String| CodecError::Malformed { what, why };
    let (value, used) = bincode::serde::decode_from_slice(bytes, config())
        .map_err(|error| malformed(error.to_string()))?;
    if used != bytes.len() {
        return Err(malformed(format!("{} bytes too many", bytes.len() - used)));
    }
    Ok(value)
}

/// A stored row: `format`, the body, and the xxh3-64 of both.
#[must_use]
pub fn seal<T: Serialize>(format: u8, value: &T) -> Vec<u8> {
    let mut out = vec![format];
    out.append(&mut body(value));
    let checksum = xxhash_rust::xxh3::xxh3_64(&out);
    out.extend_from_slice(&checksum.to_be_bytes());
    out
}

/// Reads a row that [`seal`] wrote with `format`. `what` names it in errors.
///
/// # Errors
/// Any [`CodecError`]; all of them mean that the row's content is lost, none that it was absent.
pub fn unseal<T: DeserializeOwned>(
    what: &'static str,
    format: u8,
    bytes: &[u8],
) -> Result<T, CodecError> {
    let damaged = CodecError::Damaged { what, bytes: bytes.len() };
    if bytes.len() > MAX_ROW_BYTES {
        return Err(damaged);
    }
    let Some((sealed, checksum)) = bytes.split_last_chunk::<CHECKSUM_BYTES>() else {
        return Err(damaged);
    };
    if xxhash_rust::xxh3::xxh3_64(sealed) != u64::from_be_bytes(*checksum) {
        return Err(damaged);
    }
    match sealed.split_first() {
        None => Err(damaged),
        Some((&found, body)) if found == format => parse_body(what, body),
        Some((&found, _)) => Err(CodecError::UnknownFormat { what, found, known: format }),
    }
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
        assert_eq!(error, CodecError::UnknownFormat { what: "row", found: 2, known: 3 });
    }

    #[test]
    fn a_length_that_lies_allocates_nothing() {
        // A vector that claims 2^62 elements.
        let mut bytes = vec![253];
        bytes.extend_from_slice(&(1u64 << 62).to_le_bytes());
        assert!(parse_body::<Vec<u64>>("list", &bytes).is_err());
        assert!(parse_body::<Vec<u8>>("list", &bytes).is_err());
    }
}
