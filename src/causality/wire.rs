//! Small reader and writer for the hand-written encodings of this module and of [`crate::record`].
//!
//! Canonical: one value has one encoding (an overlong varint is refused), so that equal bytes mean
//! equal things. Safe on hostile input: a count or length is compared with what is really there
//! before anything is allocated for it.

use std::ops::Range;

/// Why bytes could not be read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum WireError {
    /// The input ends too early.
    Truncated,
    /// The input breaks a rule; the text names it.
    Malformed(&'static str),
}

/// Appends `n` in LEB128: seven bits a byte, lowest first.
pub(crate) fn put_varint(out: &mut Vec<u8>, mut n: u64) {
    while n >= 0x80 {
        out.push(n as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
}

/// Appends a length.
pub(crate) fn put_len(out: &mut Vec<u8>, n: usize) {
    put_varint(out, n as u64);
}

/// Appends a length and the bytes.
pub(crate) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_len(out, bytes.len());
    out.extend_from_slice(bytes);
}

/// A cursor over bytes that nobody has vouched for.
pub(crate) struct Reader<'a> {
    input: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(input: &'a [u8]) -> Self {
        Self { input, at: 0 }
    }

    /// How many bytes are left.
    pub(crate) fn remaining(&self) -> usize {
        self.input.len() - self.at
    }

    /// The place of the next `n` bytes in the input, which are then behind the cursor.
    pub(crate) fn range(&mut self, n: usize) -> Result<Range<usize>, WireError> {
        if n > self.remaining() {
            return Err(WireError::Truncated);
        }
        let start = self.at;
        self.at += n;
        Ok(start..self.at)
    }

    pub(crate) fn bytes(&mut self, n: usize) -> Result<&'a [u8], WireError> {
        let input = self.input;
        self.range(n).map(|range| &input[range])
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], WireError> {
        let mut array = [0; N];
        array.copy_from_slice(self.bytes(N)?);
        Ok(array)
    }

    pub(crate) fn byte(&mut self) -> Result<u8, WireError> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub(crate) fn varint(&mut self) -> Result<u64, WireError> {
        let mut n = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            if shift == 63 && byte > 1 {
                return Err(WireError::Malformed("varint above 64 bits"));
            }
            n |= u64::from(byte & 0x7F) << shift;
            if byte & 0x80 == 0 {
                if byte == 0 && shift > 0 {
                    return Err(WireError::Malformed("overlong varint"));
                }
                return Ok(n);
            }
        }
        Err(WireError::Malformed("varint above 64 bits"))
    }

    /// A length of something whose bytes follow.
    pub(crate) fn len(&mut self) -> Result<usize, WireError> {
        let n = self.varint()?;
        usize::try_from(n).map_err(|_| WireError::Truncated)
    }

    /// A count of items of at least `min_size` encoded bytes each: never more than can be there,
    /// so that it may be given to `with_capacity`.
    pub(crate) fn count(&mut self, min_size: usize) -> Result<usize, WireError> {
        let n = self.len()?;
        if n > self.remaining() / min_size.max(1) {
            return Err(WireError::Truncated);
        }
        Ok(n)
    }

    /// Insists that everything was read.
    pub(crate) fn end(&self) -> Result<(), WireError> {
        if self.remaining() == 0 { Ok(()) } else { Err(WireError::Malformed("bytes left over")) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn varints_read_back(n in any::<u64>(), shift in 0u32..64) {
            let n = n >> shift;
            let mut out = Vec::new();
            put_varint(&mut out, n);
            let mut reader = Reader::new(&out);
            prop_assert_eq!(reader.varint(), Ok(n));
            prop_assert_eq!(reader.end(), Ok(()));
        }
    }

    #[test]
    fn a_varint_has_one_encoding() {
        assert!(Reader::new(&[0x80, 0x00]).varint().is_err());
        assert!(Reader::new(&[0xFF; 10]).varint().is_err());
        assert_eq!(Reader::new(&[0x80]).varint(), Err(WireError::Truncated));
    }

    #[test]
    fn a_count_never_exceeds_what_is_there() {
        let mut out = Vec::new();
        put_varint(&mut out, u64::MAX);
        assert_eq!(Reader::new(&out).count(1), Err(WireError::Truncated));
        assert_eq!(Reader::new(&[2, 0, 0, 0]).count(2), Err(WireError::Truncated));
        assert_eq!(Reader::new(&[2, 0, 0, 0, 0]).count(2), Ok(2));
    }
}
