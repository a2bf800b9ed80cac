//! Where a page ended, as an opaque state that a client gives back: a place by key, so that it
//! holds on any node and whatever is written meanwhile; and what the limits still allow.

use crate::cql::value::{Cursor, put_field};
use xxhash_rust::xxh3::xxh3_64;

/// The end of a page.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct PagingState {
    /// The partition of the last row.
    pub(super) partition: Vec<u8>,
    /// Its clustering bytes.
    pub(super) clustering: Vec<u8>,
    /// Rows that LIMIT still allows.
    pub(super) remaining: Option<u32>,
    /// Rows of that partition that PER PARTITION LIMIT still allows.
    pub(super) in_partition: Option<u32>,
}

const FORMAT: u8 = 1;

fn put_count(out: &mut Vec<u8>, count: Option<u32>) {
    out.extend_from_slice(&count.map_or(-1, i64::from).to_be_bytes());
}

fn read_count(cursor: &mut Cursor<'_>) -> Option<Option<u32>> {
    let raw = i64::from_be_bytes(cursor.take(8)?.try_into().ok()?);
    if raw == -1 { Some(None) } else { Some(Some(u32::try_from(raw).ok()?)) }
}

impl PagingState {
    /// `statement` is a digest of what is asked: a state of another statement is noticed.
    pub(super) fn encode(&self, statement: u64) -> Vec<u8> {
        let mut out = vec![FORMAT];
        put_field(&mut out, Some(&self.partition));
        put_field(&mut out, Some(&self.clustering));
        put_count(&mut out, self.remaining);
        put_count(&mut out, self.in_partition);
        out.extend_from_slice(&(xxh3_64(&out) ^ statement).to_be_bytes());
        out
    }

    pub(super) fn decode(bytes: &[u8], statement: u64) -> Option<Self> {
        let (payload, sum) = bytes.split_last_chunk::<8>()?;
        if u64::from_be_bytes(*sum) != xxh3_64(payload) ^ statement {
            return None;
        }
        let mut cursor = Cursor::new(payload);
        if cursor.take(1)? != [FORMAT] {
            return None;
        }
        let partition = cursor.field()??.to_vec();
        let clustering = cursor.field()??.to_vec();
        let remaining = read_count(&mut cursor)?;
        let in_partition = read_count(&mut cursor)?;
        let whole = cursor.is_empty() && !partition.is_empty();
        whole.then_some(Self { partition, clustering, remaining, in_partition })
    }
}
