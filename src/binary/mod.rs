//! Plain data as bytes: the one module that names bincode.
//!
//! Messages between nodes and the rows of consensus are plain data types with derived encodings:
//! bincode with its standard configuration (little-endian, variable-length integers). What lives
//! on disk for long, records, has a hand-written codec of its own ([`crate::record`]).
//!
//! bincode is no longer developed, which is no harm as long as
//! - its input is checked here: every inner length before anything is allocated for it
//!   ([`strict`]), and that no bytes are left over;
//! - whoever stores or sends the bytes puts a format byte before them ([`pack`], [`seal`], the
//!   head of a frame), so that another encoding can take its place without a guess at what an
//!   old row or an old peer means;
//! - nothing outside of this module sees its types.
//!
//! No IO here.

mod sealed;
mod strict;

use bincode::config::Configuration;
use bincode::enc::write::Writer;
use bincode::error::EncodeError;
use bytes::BytesMut;
use serde::Serialize;
use serde::de::{DeserializeOwned, DeserializeSeed, Deserializer};

pub use sealed::{MAX_ROW_BYTES, SealError, pack, seal, unpack, unseal};
use strict::Strict;

/// Bytes that do not have the form that was expected, or a value that has none; the encoder's
/// words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BinaryError(pub String);

fn config() -> Configuration {
    bincode::config::standard()
}

/// How many bytes [`append`] will write. Costs nanoseconds, since values are not looked at, and
/// spares a buffer that grows by copying, as well as one that is built only to be found too large.
///
/// # Errors
/// [`BinaryError`] when the type cannot be encoded (a sequence of unknown length).
pub fn measure<T: Serialize>(value: &T) -> Result<usize, BinaryError> {
    let mut bytes = 0;
    write_with(value, Count(&mut bytes))?;
    Ok(bytes)
}

/// Appends `value`.
///
/// # Errors
/// As [`measure`].
pub fn append<T: Serialize>(value: &T, to: &mut BytesMut) -> Result<(), BinaryError> {
    write_with(value, Append(to))
}

/// `value` in bytes of its own.
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

/// Reads what one of the functions above wrote: all of it and nothing more.
///
/// # Errors
/// [`BinaryError`]; nothing was allocated that `bytes` do not back.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, BinaryError> {
    let (value, used) = decode_prefix(bytes)?;
    if used != bytes.len() {
        return Err(BinaryError(format!("{} bytes are left over", bytes.len() - used)));
    }
    Ok(value)
}

/// The value at the start of `bytes`, and how many of them it takes: for what may grow at its end.
///
/// # Errors
/// As [`decode`].
pub fn decode_prefix<T: DeserializeOwned>(bytes: &[u8]) -> Result<(T, usize), BinaryError> {
    let seed = Strict(Seed(std::marker::PhantomData::<T>));
    bincode::serde::seed_decode_from_slice(seed, bytes, config())
        .map_err(|error| BinaryError(error.to_string()))
}

struct Seed<T>(std::marker::PhantomData<T>);

impl<'de, T: DeserializeOwned> DeserializeSeed<'de> for Seed<T> {
    type Value = T;

    fn deserialize<D: Deserializer<'de>>(self, inner: D) -> Result<T, D::Error> {
        T::deserialize(inner)
    }
}

struct Append<'a>(&'a mut BytesMut);

impl Writer for Append<'_> {
    fn write(&mut self, bytes: &[u8]) -> Result<(), EncodeError> {
        self.0.extend_from_slice(bytes);
        Ok(())
    }
}

struct Count<'a>(&'a mut usize);

impl Writer for Count<'_> {
    fn write(&mut self, bytes: &[u8]) -> Result<(), EncodeError> {
        *self.0 += bytes.len();
        Ok(())
    }
}

fn write_with<T: Serialize>(value: &T, writer: impl Writer) -> Result<(), BinaryError> {
    bincode::serde::encode_into_writer(value, writer, config())
        .map_err(|error| BinaryError(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_reads_back_from_exactly_its_bytes() {
        let value = (7_u64, "text".to_owned(), Some(vec![1_u8, 2]));
        let mut bytes = BytesMut::new();
        append(&value, &mut bytes).unwrap();
        assert_eq!(measure(&value), Ok(bytes.len()));
        assert_eq!(body(&value), bytes[..]);
        assert_eq!(decode(&bytes), Ok(value.clone()));
        bytes.extend_from_slice(&[0]);
        assert_eq!(decode_prefix(&bytes), Ok((value, bytes.len() - 1)));
        assert!(decode::<(u64, String, Option<Vec<u8>>)>(&bytes).is_err(), "a byte is left over");
    }

    #[test]
    fn a_length_that_lies_allocates_nothing() {
        // A vector that claims 2^62 elements.
        let mut bytes = vec![253];
        bytes.extend_from_slice(&(1_u64 << 62).to_le_bytes());
        assert!(decode::<Vec<u64>>(&bytes).is_err());
        assert!(decode::<Vec<u8>>(&bytes).is_err());
        assert!(decode::<String>(&bytes).is_err());
    }

    /// What an older node has stored or sends: a change of these bytes needs a new format byte
    /// wherever they are used.
    #[test]
    fn the_encoding_stays_as_it_is() {
        #[derive(Serialize)]
        enum Shape {
            #[expect(dead_code, reason = "stands for the first variant")]
            First,
            Second {
                small: u64,
                large: u64,
                text: &'static str,
                absent: Option<u8>,
            },
        }
        let value = Shape::Second { small: 250, large: 70_000, text: "ab", absent: None };
        let expected = [1, 250, 252, 0x70, 0x11, 0x01, 0, 2, b'a', b'b', 0];
        assert_eq!(body(&value), expected);
    }
}
