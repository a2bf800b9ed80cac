//! Version 5's outer framing: segments with checksums, plain or compressed by LZ4.
//!
//! ```text
//! plain  length 17 bits, self-contained 1, 0…; CRC24 ; payload ; CRC32       3 + 3 + n + 4 bytes
//! lz4    compressed 17, raw 17, self-contained 1, 0…; CRC24; payload; CRC32  5 + 3 + n + 4 bytes
//! ```
//!
//! Numbers are little-endian. A self-contained segment holds whole envelopes; a longer envelope is
//! cut over segments that are not. The CRC32 is of the payload as it is sent.

use bytes::{Buf as _, BytesMut};

use crate::server::cql::compress;

/// The most bytes of a payload, before compression as after.
pub(super) const MAX_PAYLOAD: usize = (1 << 17) - 1;

const CRC24_INIT: u32 = 0x0087_5060;
const CRC24_POLYNOMIAL: u32 = 0x0197_4F0B;
/// Fed to the CRC32 before the payload, so that a run of zeros is not its own checksum.
const CRC32_PREFIX: [u8; 4] = [0xFA, 0x2D, 0x55, 0xCA];
const CRC24_LEN: usize = 3;
const CRC32_LEN: usize = 4;

/// Bytes that are no segment: nothing after them can be trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum BadSegment {
    #[error("a segment's header does not match its CRC24")]
    Header,
    #[error("a segment's payload does not match its CRC32")]
    Payload,
    #[error("a segment's payload cannot be decompressed")]
    Compression,
}

/// How segments are written on a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Coding {
    Plain,
    Lz4,
}

impl Coding {
    fn header_len(self) -> usize {
        match self {
            Self::Plain => 3,
            Self::Lz4 => 5,
        }
    }
}

fn crc24(bytes: &[u8]) -> u32 {
    let mut crc = CRC24_INIT;
    for byte in bytes {
        crc ^= u32::from(*byte) << 16;
        for _ in 0..8 {
            crc <<= 1;
            if crc & 0x0100_0000 != 0 {
                crc ^= CRC24_POLYNOMIAL;
            }
        }
    }
    crc
}

fn crc32(bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&CRC32_PREFIX);
    hasher.update(bytes);
    hasher.finalize()
}

/// A segment's payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Segment {
    pub(super) payload: Vec<u8>,
    /// It holds whole envelopes.
    pub(super) self_contained: bool,
}

/// Takes the next segment off the front of `input`; `None`: it is not all there yet, which never
/// takes more than [`MAX_PAYLOAD`] and a few bytes.
///
/// # Errors
/// [`BadSegment`], after which `input` is of no more use.
pub(super) fn decode(coding: Coding, input: &mut BytesMut) -> Result<Option<Segment>, BadSegment> {
    let bits_len = coding.header_len();
    let header_len = bits_len + CRC24_LEN;
    let Some(header) = input.get(..header_len) else { return Ok(None) };
    let (bits, sum) = header.split_at(bits_len);
    let number = |bytes: &[u8]| bytes.iter().rev().fold(0u64, |n, byte| n << 8 | u64::from(*byte));
    if number(sum) != u64::from(crc24(bits)) {
        return Err(BadSegment::Header);
    }
    let bits = number(bits);
    let field = |at: u32| (bits >> at) as usize & MAX_PAYLOAD;
    let (len, raw_len, flag_at) = match coding {
        Coding::Plain => (field(0), 0, 17),
        Coding::Lz4 => (field(0), field(17), 34),
    };
    let whole = header_len + len + CRC32_LEN;
    if input.len() < whole {
        return Ok(None);
    }
    let payload = &input[header_len..header_len + len];
    if number(&input[header_len + len..whole]) != u64::from(crc32(payload)) {
        return Err(BadSegment::Payload);
    }
    // A raw length of nothing: it was not worth compressing.
    let payload = match raw_len {
        0 => payload.to_vec(),
        raw_len => compress::inflate(payload, raw_len).ok_or(BadSegment::Compression)?,
    };
    input.advance(whole);
    Ok(Some(Segment { payload, self_contained: bits >> flag_at & 1 == 1 }))
}

/// Appends a segment of `payload`, of which only the first [`MAX_PAYLOAD`] bytes fit.
pub(super) fn encode(coding: Coding, payload: &[u8], self_contained: bool, out: &mut Vec<u8>) {
    let payload = &payload[..payload.len().min(MAX_PAYLOAD)];
    let deflated = match coding {
        Coding::Plain => None,
        Coding::Lz4 => compress::deflate(payload),
    };
    let flag = u64::from(self_contained);
    let (bits, sent) = match (coding, &deflated) {
        (Coding::Plain, _) => (payload.len() as u64 | flag << 17, payload),
        (Coding::Lz4, None) => (payload.len() as u64 | flag << 34, payload),
        (Coding::Lz4, Some(small)) => {
            (small.len() as u64 | (payload.len() as u64) << 17 | flag << 34, &small[..])
        }
    };
    let bits = bits.to_le_bytes();
    let bits = &bits[..coding.header_len()];
    out.extend_from_slice(bits);
    out.extend_from_slice(&crc24(bits).to_le_bytes()[..CRC24_LEN]);
    out.extend_from_slice(sent);
    out.extend_from_slice(&crc32(sent).to_le_bytes());
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn coding() -> impl Strategy<Value = Coding> {
        prop::sample::select(vec![Coding::Plain, Coding::Lz4])
    }

    /// Some that shrink and some that do not.
    fn payloads() -> impl Strategy<Value = Vec<Vec<u8>>> {
        let one = prop_oneof![
            prop::collection::vec(any::<u8>(), 0..300),
            prop::collection::vec(0u8..2, 0..3000),
            (any::<u8>(), 0..=MAX_PAYLOAD).prop_map(|(byte, len)| vec![byte; len]),
        ];
        prop::collection::vec(one, 1..5)
    }

    #[test]
    fn checksums_are_those_of_the_protocol() {
        // The common CRC32 of "123456789" is CBF43926; here it comes after the prefix.
        assert_eq!(crc32fast::hash(b"123456789"), 0xCBF4_3926);
        assert_eq!(crc32(b""), crc32fast::hash(&CRC32_PREFIX));
        // The division, one bit at a time.
        let mut crc = u64::from(CRC24_INIT) ^ 0x0005_0000;
        for _ in 0..8 {
            crc = if crc & 0x80_0000 != 0 { crc << 1 ^ 0x0197_4F0B } else { crc << 1 };
        }
        assert_eq!(u64::from(crc24(&[5])), crc & 0xFF_FFFF);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]

        #[test]
        fn segments_read_back_wherever_the_bytes_are_cut(
            coding in coding(),
            payloads in payloads(),
            steps in prop::collection::vec(1usize..50_000, 1..20),
        ) {
            let mut bytes = Vec::new();
            for (at, payload) in payloads.iter().enumerate() {
                encode(coding, payload, at % 2 == 0, &mut bytes);
            }
            let (mut input, mut seen, mut at) = (BytesMut::new(), Vec::new(), 0);
            for step in steps.iter().cycle() {
                let to = (at + step).min(bytes.len());
                input.extend_from_slice(&bytes[at..to]);
                at = to;
                while let Some(segment) = decode(coding, &mut input).expect("a good segment") {
                    prop_assert_eq!(segment.self_contained, seen.len() % 2 == 0);
                    seen.push(segment.payload);
                }
                if at == bytes.len() {
                    break;
                }
            }
            prop_assert_eq!(seen, payloads);
            prop_assert!(input.is_empty());
        }

        #[test]
        fn a_changed_bit_is_noticed(
            coding in coding(),
            payload in prop::collection::vec(0u8..3, 0..2000),
            at: prop::sample::Index,
            bit in 0u8..8,
        ) {
            let mut bytes = Vec::new();
            encode(coding, &payload, true, &mut bytes);
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            prop_assert!(decode(coding, &mut BytesMut::from(&bytes[..])).is_err());
        }

        #[test]
        fn any_bytes_are_judged_without_a_panic(coding in coding(), bytes: Vec<u8>, sealed: bool) {
            let mut bytes = bytes;
            let header = coding.header_len();
            if sealed && bytes.len() > header + CRC24_LEN {
                // A good header: so that the rest is looked at.
                bytes[2] &= 1;
                let sum = crc24(&bytes[..header]).to_le_bytes();
                bytes[header..header + CRC24_LEN].copy_from_slice(&sum[..CRC24_LEN]);
            }
            let mut input = BytesMut::from(&bytes[..]);
            while let Ok(Some(_)) = decode(coding, &mut input) {}
        }
    }

    #[test]
    fn a_forged_length_is_refused_by_what_came_and_not_by_what_was_said() {
        // Few compressed bytes that claim to be 128 KiB, all checksums right.
        let small = [0x10u8, 1, 2];
        let bits = (small.len() as u64 | (MAX_PAYLOAD as u64) << 17 | 1 << 34).to_le_bytes();
        let mut bytes = bits[..5].to_vec();
        bytes.extend_from_slice(&crc24(&bits[..5]).to_le_bytes()[..3]);
        bytes.extend_from_slice(&small);
        bytes.extend_from_slice(&crc32(&small).to_le_bytes());
        let read = decode(Coding::Lz4, &mut BytesMut::from(&bytes[..]));
        assert_eq!(read, Err(BadSegment::Compression));
    }
}
