//! The layout of the key space: (kind, table, token, partition key, clustering key).
//!
//! Big-endian numbers with the token's sign bit flipped, so that byte order is (kind, table,
//! token, key) order and a ring partition of a table is one range. The partition key is escaped
//! (`00` becomes `00 FF`) and ended with `00 00`, so that no key is a prefix of another and
//! clustering bytes can follow.

use bytes::{BufMut as _, Bytes, BytesMut};

use crate::storage::{KeyRange, StorageError};
use crate::types::{Generation, IndexId, IndexTerm, Key, NodeId, PartitionId, TableId, Token};

/// First byte of every storage key. Numbers are for ever: a retired kind is never used again.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(u8)]
pub enum Kind {
    /// The node's own rows: identity, actor state, clean-stop mark.
    Node = 0,
    /// The metadata log: acceptor state and learnt entries.
    Meta = 1,
    /// Records of tables.
    Record = 2,
    /// Hints for replicas that missed a write.
    Hint = 3,
    /// Paxos state of partition keys.
    Paxos = 4,
    /// Hash tree leaves.
    Tree = 5,
    /// How far the tombstones of partitions have been purged.
    Purge = 7,
    /// Entries of indexes: which rows have a term.
    Index = 8,
    /// How far indexes are built.
    IndexBuild = 9,
}

/// The storage key of a node row called `name`.
#[must_use]
pub fn node_row(name: &str) -> Bytes {
    let mut out = BytesMut::with_capacity(1 + name.len());
    out.put_u8(Kind::Node as u8);
    out.put_slice(name.as_bytes());
    out.freeze()
}

/// The storage key of a metadata row: `sub` names the sort of row, `index` the log entry.
#[must_use]
pub fn meta_row(sub: u8, index: u64) -> Bytes {
    let mut out = BytesMut::with_capacity(10);
    out.put_u8(Kind::Meta as u8);
    out.put_u8(sub);
    out.put_u64(index);
    out.freeze()
}

/// All metadata rows of sort `sub`.
#[must_use]
pub fn meta_rows(sub: u8) -> KeyRange {
    KeyRange::prefix(&[Kind::Meta as u8, sub])
}

fn ordered(token: Token) -> u64 {
    (token.0 as u64) ^ (1 << 63)
}

fn put_prefix(out: &mut BytesMut, kind: Kind, table: TableId) {
    out.put_u8(kind as u8);
    out.put_u32(table.0);
}

fn put_escaped(out: &mut BytesMut, key: &[u8]) {
    for &byte in key {
        out.put_u8(byte);
        if byte == 0 {
            out.put_u8(0xFF);
        }
    }
    out.put_slice(&[0, 0]);
}

/// The storage key of `key`'s row of kind `kind` in `table`. `clustering` is empty for a bucket.
#[must_use]
pub fn row(kind: Kind, table: TableId, token: Token, key: &Key, clustering: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(15 + key.as_bytes().len() + clustering.len());
    put_prefix(&mut out, kind, table);
    out.put_u64(ordered(token));
    put_escaped(&mut out, key.as_bytes());
    out.put_slice(clustering);
    out.freeze()
}

/// All rows of kind `kind` in `table`.
#[must_use]
pub fn table_rows(kind: Kind, table: TableId) -> KeyRange {
    let mut out = BytesMut::with_capacity(5);
    put_prefix(&mut out, kind, table);
    KeyRange::prefix(&out)
}

/// All rows of kind `kind` in `table` with `first ≤ token ≤ last`, both inclusive.
#[must_use]
pub fn token_rows(kind: Kind, table: TableId, first: Token, last: Token) -> KeyRange {
    let mut start = BytesMut::with_capacity(13);
    put_prefix(&mut start, kind, table);
    start.put_u64(ordered(first));
    let end = match ordered(last).checked_add(1) {
        Some(after) => {
            let mut end = BytesMut::with_capacity(13);
            put_prefix(&mut end, kind, table);
            end.put_u64(after);
            Some(end.freeze())
        }
        None => table_rows(kind, table).end,
    };
    KeyRange { start: start.freeze(), end }
}

/// The storage key of the hint for `target` about `key` in `table`: one each.
#[must_use]
pub fn hint_row(target: NodeId, table: TableId, token: Token, key: &Key) -> Bytes {
    let mut out = BytesMut::with_capacity(31 + key.as_bytes().len());
    out.put_u8(Kind::Hint as u8);
    out.put_u128(target.0);
    out.put_u32(table.0);
    out.put_u64(ordered(token));
    put_escaped(&mut out, key.as_bytes());
    out.freeze()
}

/// All hints for `target`.
#[must_use]
pub fn hint_rows(target: NodeId) -> KeyRange {
    let mut out = BytesMut::with_capacity(17);
    out.put_u8(Kind::Hint as u8);
    out.put_u128(target.0);
    KeyRange::prefix(&out)
}

/// Reads a storage key made by [`hint_row`].
///
/// # Errors
/// [`StorageError::Corrupt`] when it is not one.
pub fn parse_hint_row(bytes: &[u8]) -> Result<(NodeId, RowKey), StorageError> {
    let corrupt = || StorageError::Corrupt {
        what: format!("a hint's key of {} bytes does not have the form of one", bytes.len()),
    };
    let (prefix, _) = bytes.split_at_checked(17).ok_or_else(corrupt)?;
    let target = u128::from_be_bytes(prefix[1..].try_into().map_err(|_| corrupt())?);
    // What follows has the form of a row's key after its first byte, which says the kind.
    Ok((NodeId(target), parse_row(&bytes[16..])?))
}

/// The storage key of the stored hash tree of a partition of `table`.
#[must_use]
pub fn tree_row(table: TableId, partition: PartitionId) -> Bytes {
    let mut out = BytesMut::with_capacity(9);
    put_prefix(&mut out, Kind::Tree, table);
    out.put_u32(partition.0);
    out.freeze()
}

/// The storage key of a partition's purge state.
#[must_use]
pub fn purge_row(table: TableId, partition: PartitionId) -> Bytes {
    let mut out = BytesMut::with_capacity(9);
    put_prefix(&mut out, Kind::Purge, table);
    out.put_u32(partition.0);
    out.freeze()
}

/// The storage key of what was purged to make `generation`.
#[must_use]
pub fn purge_set_row(table: TableId, partition: PartitionId, generation: Generation) -> Bytes {
    let mut out = BytesMut::with_capacity(17);
    put_prefix(&mut out, Kind::Purge, table);
    out.put_u32(partition.0);
    out.put_u64(generation.0);
    out.freeze()
}

/// All sets that are remembered of what was purged in a partition.
#[must_use]
pub fn purge_set_rows(table: TableId, partition: PartitionId) -> KeyRange {
    let state = purge_row(table, partition);
    let mut range = KeyRange::prefix(&state);
    range.start = [&state[..], &[0]].concat().into();
    range
}

fn put_index(out: &mut BytesMut, kind: Kind, table: TableId, index: IndexId) {
    put_prefix(out, kind, table);
    out.put_u64(index.0);
}

/// Bytes of an entry's key before its token.
const TERM_BYTES: usize = 21;

fn put_term(out: &mut BytesMut, table: TableId, term: IndexTerm) {
    put_index(out, Kind::Index, table, term.index);
    out.put_u64(term.hash);
}

/// The storage key of the entry that `key`'s row in `table` has `term`: in the order of tokens and
/// keys, as rows are.
#[must_use]
pub fn index_row(table: TableId, term: IndexTerm, token: Token, key: &Key) -> Bytes {
    let mut out = BytesMut::with_capacity(TERM_BYTES + 10 + key.as_bytes().len());
    put_term(&mut out, table, term);
    out.put_u64(ordered(token));
    put_escaped(&mut out, key.as_bytes());
    out.freeze()
}

/// The entries of a term with `first ≤ token ≤ last`, both inclusive.
#[must_use]
pub fn index_rows(table: TableId, term: IndexTerm, first: Token, last: Token) -> KeyRange {
    let mut start = BytesMut::with_capacity(TERM_BYTES + 8);
    put_term(&mut start, table, term);
    let end = match ordered(last).checked_add(1) {
        Some(after) => {
            let mut end = start.clone();
            end.put_u64(after);
            Some(end.freeze())
        }
        None => KeyRange::prefix(&start).end,
    };
    start.put_u64(ordered(first));
    KeyRange { start: start.freeze(), end }
}

/// All keys of an index that are of kind `kind`: its entries, or how far it is built.
#[must_use]
pub fn index_keys(kind: Kind, table: TableId, index: IndexId) -> KeyRange {
    let mut out = BytesMut::with_capacity(13);
    put_index(&mut out, kind, table, index);
    KeyRange::prefix(&out)
}

/// The storage key of how far an index is built.
#[must_use]
pub fn index_build_row(table: TableId, index: IndexId) -> Bytes {
    let mut out = BytesMut::with_capacity(13);
    put_index(&mut out, Kind::IndexBuild, table, index);
    out.freeze()
}

/// Reads a storage key made by [`index_build_row`], or the start of one made by [`index_row`].
///
/// # Errors
/// [`StorageError::Corrupt`] when it is not one.
pub fn parse_index(bytes: &[u8]) -> Result<(TableId, IndexId), StorageError> {
    let number = |range: std::ops::Range<usize>| {
        Some(bytes.get(range)?.iter().fold(0u64, |sum, &byte| sum << 8 | u64::from(byte)))
    };
    match (number(1..5).and_then(|table| u32::try_from(table).ok()), number(5..13)) {
        (Some(table), Some(index)) => Ok((TableId(table), IndexId(index))),
        _ => Err(StorageError::Corrupt {
            what: format!("an index's key of {} bytes does not have the form of one", bytes.len()),
        }),
    }
}

/// The row of which the entry under a storage key made by [`index_row`] speaks.
///
/// # Errors
/// [`StorageError::Corrupt`] when it is not one.
pub fn parse_index_row(bytes: &[u8]) -> Result<RowKey, StorageError> {
    let corrupt =
        || StorageError::Corrupt { what: format!("an index entry's key of {} bytes", bytes.len()) };
    let place = bytes.get(TERM_BYTES..).ok_or_else(corrupt)?;
    // With the term left out, it has the form of a row's key.
    parse_row(&[&bytes[..5], place].concat())
}

/// What a row's storage key says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowKey {
    /// The table.
    pub table: TableId,
    /// The partition key's token.
    pub token: Token,
    /// The partition key.
    pub key: Key,
    /// The clustering bytes; empty for a bucket.
    pub clustering: Bytes,
}

/// Reads a storage key made by [`row`].
///
/// # Errors
/// [`StorageError::Corrupt`] when it is not one.
pub fn parse_row(bytes: &[u8]) -> Result<RowKey, StorageError> {
    let corrupt = || StorageError::Corrupt {
        what: format!("a row key of {} bytes does not have the form of one", bytes.len()),
    };
    let (prefix, rest) = bytes.split_at_checked(13).ok_or_else(corrupt)?;
    let table = u32::from_be_bytes(prefix[1..5].try_into().map_err(|_| corrupt())?);
    let token = u64::from_be_bytes(prefix[5..13].try_into().map_err(|_| corrupt())?);
    let mut key = Vec::with_capacity(rest.len());
    let mut at = 0;
    loop {
        match (rest.get(at), rest.get(at + 1)) {
            (Some(0), Some(0)) => break,
            (Some(0), Some(0xFF)) => {
                key.push(0);
                at += 2;
            }
            (Some(0) | None, _) => return Err(corrupt()),
            (Some(&byte), _) => {
                key.push(byte);
                at += 1;
            }
        }
    }
    Ok(RowKey {
        table: TableId(table),
        token: Token((token ^ (1 << 63)) as i64),
        key: Key::new(key).map_err(|_| corrupt())?,
        clustering: Bytes::copy_from_slice(&rest[at + 2..]),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::MAX_STORAGE_KEY_BYTES;
    use crate::types::MAX_STORED_KEY_BYTES;

    #[test]
    fn rows_sort_by_token_then_key_and_read_back() {
        let table = TableId(7);
        let mut rows = Vec::new();
        for token in [i64::MIN + 1, -5, 0, 9, i64::MAX] {
            for key in [&b"\0"[..], b"\0\0", b"\0\x01", b"a", b"a\0", b"ab", b"\xFF"] {
                rows.push((token, key));
            }
        }
        let encoded: Vec<Bytes> = rows
            .iter()
            .map(|(t, k)| row(Kind::Record, table, Token(*t), &Key::new(k.to_vec()).unwrap(), b"c"))
            .collect();
        assert!(encoded.is_sorted());
        for ((token, key), bytes) in rows.iter().zip(&encoded) {
            let parsed = parse_row(bytes).unwrap();
            assert_eq!((parsed.token.0, parsed.key.as_bytes()), (*token, *key));
            assert_eq!(&parsed.clustering[..], b"c");
        }
    }

    #[test]
    fn a_token_range_holds_its_last_token_even_at_the_end_of_the_ring() {
        let key = Key::new("k").unwrap();
        let last = row(Kind::Record, TableId(1), Token(i64::MAX), &key, b"");
        let range = token_rows(Kind::Record, TableId(1), Token(5), Token(i64::MAX));
        assert!(range.start < last && last < range.end.unwrap());
    }

    #[test]
    fn hints_of_one_target_are_one_range_and_read_back() {
        let key = Key::new(&b"k\0"[..]).unwrap();
        let row = |target| hint_row(NodeId(target), TableId(9), Token(-4), &key);
        let range = hint_rows(NodeId(5));
        assert!(range.start <= row(5) && row(5) < range.end.clone().unwrap());
        assert!(row(4) < range.start && row(6) >= range.end.unwrap());
        let (target, at) = parse_hint_row(&row(5)).unwrap();
        assert_eq!((target, at.table, at.token), (NodeId(5), TableId(9), Token(-4)));
        assert_eq!(at.key, key);
        assert!(parse_hint_row(&row(5)[..20]).is_err());
    }

    #[test]
    fn a_terms_entries_are_one_range_in_the_order_of_rows_and_read_back() {
        let (table, index) = (TableId(7), IndexId(300));
        let term = |hash| IndexTerm { index, hash };
        let place = |token, key: &'static [u8]| (Token(token), Key::new(key).unwrap());
        let places =
            [place(i64::MIN, b"a"), place(-1, b"a"), place(-1, b"a\0b"), place(i64::MAX, b"z")];
        let rows: Vec<Bytes> =
            places.iter().map(|(token, key)| index_row(table, term(9), *token, key)).collect();
        assert!(rows.is_sorted());
        let all = index_rows(table, term(9), Token(i64::MIN), Token(i64::MAX));
        let whole = index_keys(Kind::Index, table, index);
        for (row, (token, key)) in rows.iter().zip(&places) {
            let read = parse_index_row(row).unwrap();
            assert_eq!((read.table, read.token, &read.key), (table, *token, key));
            assert_eq!(parse_index(row).unwrap(), (table, index));
            assert!(all.start <= *row && row < all.end.as_ref().unwrap());
            assert!(whole.start <= *row && row < whole.end.as_ref().unwrap());
        }
        let middle = index_rows(table, term(9), Token(-1), Token(-1));
        let inside =
            rows.iter().filter(|r| middle.start <= **r && **r < *middle.end.as_ref().unwrap());
        assert_eq!(inside.count(), 2);
        for other in [8, 10] {
            let row = index_row(table, term(other), Token(-1), &places[1].1);
            assert!(row < all.start || row >= *all.end.as_ref().unwrap());
        }
        let greatest = index_rows(table, term(u64::MAX), Token(5), Token(i64::MAX));
        let last = index_row(table, term(u64::MAX), Token(i64::MAX), &places[3].1);
        assert!(greatest.start < last && last < greatest.end.unwrap());
        assert_eq!(parse_index(&index_build_row(table, index)).unwrap(), (table, index));
        assert!(parse_index(&rows[0][..12]).is_err() && parse_index_row(&rows[0][..20]).is_err());
    }

    /// A row whose key was taken must not fail for want of room for its hint or its index entry.
    #[test]
    fn whatever_names_the_longest_key_that_is_storable_fits() {
        for byte in [0u8, b'k'] {
            let most = MAX_STORED_KEY_BYTES / if byte == 0 { 2 } else { 1 };
            let key = |len| Key::new(vec![byte; len]).unwrap();
            assert!(key(most).is_storable() && !key(most + 1).is_storable());
            let (table, token, key) = (TableId(1), Token(1), key(most));
            let term = IndexTerm { index: IndexId(1), hash: 1 };
            for row in [
                row(Kind::Record, table, token, &key, b""),
                hint_row(NodeId(1), table, token, &key),
                index_row(table, term, token, &key),
            ] {
                assert!(row.len() <= MAX_STORAGE_KEY_BYTES, "{} bytes", row.len());
            }
        }
    }

    #[test]
    fn damaged_row_keys_are_reported() {
        for bytes in [
            &b""[..],
            b"\x02\0\0\0\x01",
            b"\x02\0\0\0\x01\0\0\0\0\0\0\0\0ab\0",
            b"\x02\0\0\0\x01\0\0\0\0\0\0\0\0ab\0\x07",
        ] {
            assert!(parse_row(bytes).is_err());
        }
    }
}
