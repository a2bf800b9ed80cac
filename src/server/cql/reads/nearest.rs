//! ORDER BY … ANN OF: of all rows that are read, those whose vectors are nearest to one.
//!
//! Every row is looked at, so the answer is exact; Cassandra's index looks at fewer and may miss
//! some. What is kept meanwhile are as many rows as LIMIT says, and no more bytes than an answer may
//! have. Rows without a vector are not shown, and those come last of which it cannot be said how near
//! they are.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use bytes::Bytes;

use super::Ask;
use super::collect::MAX_UNPAGED;
use crate::cql::rows::RowView;
use crate::cql::select::MAX_NEAREST;
use crate::cql::similarity::{Similarity, floats};
use crate::cql::term::{Bound, evaluate};
use crate::cql::types::CqlType;
use crate::server::cql::error::CqlError;

/// The nearest rows so far.
pub(super) struct Nearest<'a> {
    place: usize,
    kind: &'a CqlType,
    to: Vec<f32>,
    most: usize,
    /// By how near they are, and those that came first before others.
    kept: BTreeMap<(Near, Reverse<u64>), RowView>,
    seen: u64,
    bytes: usize,
}

/// How near a row is, as a number that orders.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Near(u32);

impl Near {
    /// Similarities by their angle are not below zero, and the bits of such floats order as they do.
    fn new(similarity: f32) -> Self {
        Self(if similarity > 0.0 { similarity.to_bits() } else { 0 })
    }
}

fn len_of(row: &RowView) -> usize {
    row.values.iter().flatten().map(Bytes::len).sum()
}

impl<'a> Nearest<'a> {
    /// None, if `ask` does not want them. `most`: its LIMIT.
    pub(super) fn new(ask: &Ask<'a>, most: Option<u32>) -> Result<Option<Self>, CqlError> {
        let Some((place, term)) = &ask.query.nearest else { return Ok(None) };
        let most = most.filter(|most| *most <= MAX_NEAREST).ok_or_else(|| {
            CqlError::invalid(format!(
                "Use of ANN OF in an ORDER BY clause requires a LIMIT that is not greater than \
                 {MAX_NEAREST}"
            ))
        })?;
        let kind = &ask.schema.columns()[*place].kind;
        let to = match evaluate(term, kind, ask.binds).map_err(CqlError::invalid)? {
            Bound::Value(bytes) => floats(kind, &bytes),
            Bound::Null | Bound::Unset => None,
        };
        let to = to.filter(|to| to.iter().all(|part| part.is_finite()));
        let to = to.filter(|to| to.iter().any(|part| *part != 0.0)).ok_or_else(|| {
            CqlError::invalid("ANN OF takes a vector of numbers that are not all zero")
        })?;
        let (kept, most) = (BTreeMap::new(), most as usize);
        Ok(Some(Self { place: *place, kind, to, most, kept, seen: 0, bytes: 0 }))
    }

    /// Takes a row in, if it is among the nearest.
    pub(super) fn offer(&mut self, row: RowView) -> Result<(), CqlError> {
        let vector = row.values[self.place].as_ref().and_then(|bytes| floats(self.kind, bytes));
        let Some(vector) = vector else { return Ok(()) };
        self.seen += 1;
        let near = Near::new(Similarity::Cosine.of(&vector, &self.to));
        let farthest = self.kept.first_key_value();
        if self.kept.len() >= self.most && farthest.is_some_and(|((far, _), _)| near <= *far) {
            return Ok(());
        }
        self.bytes += len_of(&row);
        self.kept.insert((near, Reverse(self.seen)), row);
        if self.kept.len() > self.most
            && let Some((_, row)) = self.kept.pop_first()
        {
            self.bytes -= len_of(&row);
        }
        if self.bytes > MAX_UNPAGED {
            return Err(CqlError::invalid("the nearest rows are too long to be sent as a whole"));
        }
        Ok(())
    }

    /// The rows, the nearest first.
    pub(super) fn finish(self) -> impl Iterator<Item = RowView> {
        self.kept.into_values().rev()
    }
}
