//! What a client is told beside its answer.

use crate::server::cql::request::{BatchItem, BatchRequest};
use crate::server::cql::wire::Value;

/// A batch longer than this is warned of, in bytes: Cassandra's own threshold.
const LONG_BATCH: usize = 5 << 10;

/// What there is to say of a batch.
pub(super) fn of_batch(batch: &BatchRequest) -> Option<String> {
    let len: usize = batch.items.iter().map(len).sum();
    (len > LONG_BATCH).then(|| {
        format!(
            "Batch is of size {len}, exceeding specified threshold of {LONG_BATCH} by {}.",
            len - LONG_BATCH
        )
    })
}

fn len(item: &BatchItem) -> usize {
    let (text, values) = match item {
        BatchItem::Text(text, values) => (text.len(), values),
        BatchItem::Prepared(_, values) => (0, values),
    };
    let one = |value: &Value| match value {
        Value::Bytes(bytes) => bytes.len(),
        Value::Null | Value::Unset => 0,
    };
    text + values.iter().map(one).sum::<usize>()
}
