//! From a partition key to its token, bit for bit as Cassandra does it.
//!
//! `Murmur3Partitioner` hashes with MurmurHash3 x64/128, seed 0, and keeps the first 64 bits. Its
//! Java code has one bug that drivers have copied ever since: in the tail (the last `len % 16`
//! bytes) each byte is widened *with its sign*, so a byte ≥ 0x80 also flips every higher bit.
//! A textbook implementation agrees on ASCII keys and sends the others to the wrong replicas.
//! This is why the function is here and not taken from a library. Checked against the tokens of a
//! real driver (`tests/data/murmur3_tokens.tsv`).

use crate::types::{Key, TableId, Token};

const C1: u64 = 0x87c3_7b91_1142_53d5;
const C2: u64 = 0x4cf5_ad43_2745_937f;

/// The token of a partition key.
///
/// As in Cassandra, the result is never −2^63 (it becomes 2^63−1) except for the empty key, which
/// is Cassandra's "minimum" and no valid key here.
#[must_use]
pub fn token_of(key: &[u8]) -> Token {
    if key.is_empty() {
        return Token(i64::MIN);
    }
    match hash_first_half(key).cast_signed() {
        i64::MIN => Token(i64::MAX),
        token => Token(token),
    }
}

/// The token of a key of `table`: where the table holds rows, that of the row's partition key.
#[must_use]
pub fn token_in(table: TableId, key: &Key) -> Token {
    let partition = key.row_parts().filter(|_| table.holds_rows()).map(|(partition, _)| partition);
    token_of(partition.unwrap_or(key.as_bytes()))
}

/// The bytes of a partition key of several columns: for each component its length in two bytes
/// (big-endian), its bytes, and a zero. (A partition key of *one* column is that column's bytes
/// alone, unwrapped.)
///
/// A component longer than 65,535 bytes has no such form; the result is then longer than any
/// [`Key`](crate::types::Key) may be, so it is refused there and no two keys can meet.
#[must_use]
pub fn composite_key(components: &[&[u8]]) -> Vec<u8> {
    let mut key = Vec::with_capacity(components.iter().map(|c| c.len() + 3).sum());
    for component in components {
        let len = u16::try_from(component.len()).unwrap_or(u16::MAX);
        key.extend_from_slice(&len.to_be_bytes());
        key.extend_from_slice(component);
        key.push(0);
    }
    key
}

/// The first 64 of MurmurHash3 x64/128's bits, with the signed tail.
fn hash_first_half(key: &[u8]) -> u64 {
    let (mut h1, mut h2) = (0u64, 0u64);
    let (blocks, tail) = key.as_chunks::<16>();
    for block in blocks {
        let (k1, k2) = halves(block);
        h1 = (h1 ^ mix_k1(k1)).rotate_left(27).wrapping_add(h2);
        h1 = h1.wrapping_mul(5).wrapping_add(0x52dc_e729);
        h2 = (h2 ^ mix_k2(k2)).rotate_left(31).wrapping_add(h1);
        h2 = h2.wrapping_mul(5).wrapping_add(0x3849_5ab5);
    }

    let (low, high) = tail.split_at(tail.len().min(8));
    h2 ^= mix_k2(signed_tail(high));
    h1 ^= mix_k1(signed_tail(low));

    let len = key.len() as u64;
    h1 ^= len;
    h2 ^= len;
    h1 = h1.wrapping_add(h2);
    h2 = h2.wrapping_add(h1);
    finish(h1).wrapping_add(finish(h2))
}

/// A block as two little-endian words.
fn halves(block: &[u8; 16]) -> (u64, u64) {
    let both = u128::from_le_bytes(*block);
    (both as u64, (both >> 64) as u64)
}

/// The quirk: up to eight bytes, each sign-extended before it is shifted and XORed in. XOR and not
/// OR, so that the sign bits of two bytes cancel.
fn signed_tail(bytes: &[u8]) -> u64 {
    bytes.iter().enumerate().fold(0, |word, (i, &byte)| {
        word ^ (i64::from(byte.cast_signed()).cast_unsigned() << (8 * i))
    })
}

fn mix_k1(k: u64) -> u64 {
    k.wrapping_mul(C1).rotate_left(31).wrapping_mul(C2)
}

fn mix_k2(k: u64) -> u64 {
    k.wrapping_mul(C2).rotate_left(33).wrapping_mul(C1)
}

fn finish(mut h: u64) -> u64 {
    h ^= h >> 33;
    h = h.wrapping_mul(0xff51_afd7_ed55_8ccd);
    h ^= h >> 33;
    h = h.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    h ^ (h >> 33)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unhex(text: &str) -> Vec<u8> {
        (0..text.len())
            .step_by(2)
            .map(|i| u8::from_str_radix(&text[i..i + 2], 16).expect("hex"))
            .collect()
    }

    #[test]
    fn tokens_are_those_of_a_real_driver() {
        let fixture = include_str!("../../tests/data/murmur3_tokens.tsv");
        let mut seen = 0;
        for line in fixture.lines().filter(|line| !line.starts_with('#')) {
            let (hex, token) = line.split_once('\t').expect("two columns");
            let key = unhex(hex);
            assert_eq!(token_of(&key), Token(token.parse().expect("a number")), "key {hex}");
            seen += 1;
        }
        assert!(seen >= 300, "the fixture has shrunk to {seen} keys");
    }

    #[test]
    fn a_composite_key_has_length_bytes_and_zero_per_component() {
        assert_eq!(composite_key(&[b"ab", b"", b"c"]), b"\0\x02ab\0\0\0\0\0\x01c\0");
    }

    #[test]
    fn a_component_too_long_for_its_length_field_makes_no_valid_key() {
        let long = vec![7; 65_536];
        assert!(crate::types::Key::new(composite_key(&[&long])).is_err());
    }
}
