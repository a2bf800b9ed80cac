//! The bytes of partition keys and of clustering columns.

use crate::cql::order;
use crate::cql::schema::{Column, Role};
use crate::cql::value;

/// A partition key's bytes, as Cassandra writes them and tokens are computed from.
#[must_use]
pub fn partition_bytes<T: AsRef<[u8]>>(values: &[T]) -> Vec<u8> {
    if let [only] = values {
        return only.as_ref().to_vec();
    }
    let mut out = Vec::new();
    for value in values.iter().map(AsRef::as_ref) {
        out.extend_from_slice(&u16::try_from(value.len()).unwrap_or(u16::MAX).to_be_bytes());
        out.extend_from_slice(value);
        out.push(0);
    }
    out
}

/// The values of a partition key of `count` columns.
#[must_use]
pub fn partition_values(bytes: &[u8], count: usize) -> Option<Vec<Vec<u8>>> {
    if count == 1 {
        return Some(vec![bytes.to_vec()]);
    }
    let mut cursor = value::Cursor::new(bytes);
    let mut out = Vec::with_capacity(count);
    for _ in 0..count {
        let len = u16::from_be_bytes(cursor.take(2)?.try_into().ok()?);
        out.push(cursor.take(usize::from(len))?.to_vec());
        cursor.take(1)?;
    }
    cursor.is_empty().then_some(out)
}

/// A clustering column's value as it stands in keys.
#[must_use]
pub fn component(column: &Column, value: &[u8]) -> Vec<u8> {
    let descending = matches!(column.role, Role::Clustering { descending: true, .. });
    let mut out = Vec::new();
    order::put_component(&mut out, &column.kind, descending, value);
    out
}
