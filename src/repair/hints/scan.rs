//! Reading hint rows past damage.
//!
//! A value that is damaged is shown as such and passed by. An engine whose index is damaged reports
//! it and ends the scan, without saying under which key. The rows behind it must not be lost to delivery for that. So the scan goes on from the nearest place
//! where the engine can read again, which a search by halves finds in at most a few hundred short
//! scans: places are numbered by (target, table, token), the first 28 bytes after the kind.

use std::ops::ControlFlow;

use bytes::{BufMut as _, Bytes, BytesMut};

use crate::storage::keys::Kind;
use crate::storage::{Engine, KeyRange, StorageError};

/// Bytes of a row's key that number its place, after the kind.
const PLACE_BYTES: usize = 28;

/// Where a row lies: target, then table and token.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Place(u128, u128);

/// Bits of the second part.
const LOW_BITS: u32 = 96;

impl Place {
    fn of(row: &[u8]) -> Self {
        let mut bytes = [0; 32];
        let given = row.get(1..).unwrap_or_default();
        let length = given.len().min(PLACE_BYTES);
        bytes[..length].copy_from_slice(&given[..length]);
        let part = |at: usize| {
            bytes[at..at + 16].iter().fold(0_u128, |sum, &byte| (sum << 8) | u128::from(byte))
        };
        Self(part(0), part(16) >> (128 - LOW_BITS))
    }

    fn row(self) -> Bytes {
        let mut row = BytesMut::with_capacity(1 + PLACE_BYTES);
        row.put_u8(Kind::Hint as u8);
        row.put_u128(self.0);
        row.put_slice(&self.1.to_be_bytes()[4..]);
        row.freeze()
    }

    /// The place `by` further on, within the same target; `None` beyond its last.
    fn after(self, by: u128) -> Option<Self> {
        let low = self.1.checked_add(by).filter(|low| low >> LOW_BITS == 0)?;
        Some(Self(self.0, low))
    }
}

/// Called for each row that can be read; `Break` ends the scan.
pub(super) type RowVisitor<'a> = dyn FnMut(&[u8], &[u8]) -> ControlFlow<()> + 'a;

/// What a scan that passes damage came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Passed {
    /// Stretches that could not be read.
    pub(super) gaps: u64,
}

/// Shows the rows of `range`, which holds hints only, to `visit`, as [`Engine::scan`] does, and
/// passes by what the engine cannot read.
///
/// # Errors
/// Any [`StorageError`] but [`StorageError::Corrupt`].
pub(super) fn scan(
    engine: &dyn Engine,
    range: &KeyRange,
    visit: &mut RowVisitor<'_>,
) -> Result<Passed, StorageError> {
    let (mut range, mut passed) = (range.clone(), Passed::default());
    loop {
        let mut last = Place::of(&range.start);
        let scanned = engine.scan(&range, &mut |row, value| {
            last = Place::of(row);
            match value {
                Ok(value) => visit(row, value),
                Err(_) => {
                    passed.gaps += 1;
                    ControlFlow::Continue(())
                }
            }
        });
        match scanned {
            Ok(()) => return Ok(passed),
            Err(StorageError::Corrupt { .. }) => passed.gaps += 1,
            Err(error) => return Err(error),
        }
        match next_readable(engine, &range, last)? {
            Some(next) => range.start = next.row(),
            None => return Ok(passed),
        }
    }
}

/// The nearest place after `from` at which `range` can be read again; `None`: there is none for
/// this target. (Sound rows that lie among damaged ones may be passed by with them.)
fn next_readable(
    engine: &dyn Engine,
    range: &KeyRange,
    from: Place,
) -> Result<Option<Place>, StorageError> {
    let reads = |place: Place| {
        let rest = KeyRange { start: place.row(), end: range.end.clone() };
        match engine.scan(&rest, &mut |_, _| ControlFlow::Break(())) {
            Ok(()) => Ok(true),
            Err(StorageError::Corrupt { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    };
    let (mut bad, mut step) = (from, 1_u128);
    let mut good = loop {
        // The last place of the target, once the steps lead beyond it.
        let far = from.after(step).unwrap_or(Place(from.0, (1 << LOW_BITS) - 1));
        if far <= bad {
            return Ok(None);
        }
        if reads(far)? {
            break far;
        }
        (bad, step) = (far, step << 1);
    };
    while good.1 - bad.1 > 1 {
        let middle = Place(good.0, bad.1 + (good.1 - bad.1) / 2);
        if reads(middle)? { good = middle } else { bad = middle }
    }
    Ok(Some(good))
}

#[cfg(all(test, feature = "sim"))]
mod tests {
    use super::*;
    use crate::sim::disk::SimDisk;
    use crate::sim::engine::SimEngine;
    use crate::sim::rng::Rng;
    use crate::storage::Batch;
    use crate::storage::keys;
    use crate::types::{Key, NodeId, TableId, Token};

    #[test]
    fn places_follow_the_order_of_rows() {
        let key = Key::new("k").unwrap();
        let mut rows = Vec::new();
        for target in [0, 7, u128::MAX] {
            for table in [1, u32::MAX] {
                for token in [i64::MIN, -1, 0, i64::MAX] {
                    rows.push(keys::hint_row(NodeId(target), TableId(table), Token(token), &key));
                }
            }
        }
        let places: Vec<Place> = rows.iter().map(|row| Place::of(row)).collect();
        assert!(places.is_sorted() && rows.iter().all(|row| Place::of(row).row() <= *row));
    }

    #[test]
    fn whatever_is_damaged_the_rest_is_read() {
        for nth in 0..12 {
            let engine = SimEngine::open(&SimDisk::new(Rng::new(nth))).unwrap();
            let mut rows = Vec::new();
            let mut batch = Batch::new();
            for token in [i64::MIN, -9, -8, 0, 1, 1 << 40, i64::MAX] {
                let key = Key::new("k").unwrap();
                let row = keys::hint_row(NodeId(9), TableId(2), Token(token), &key);
                batch.put(row.clone(), &b"value"[..]);
                rows.push(row);
            }
            engine.apply(&batch).unwrap();
            engine.sync().unwrap();
            let range = keys::hint_rows(NodeId(9));
            let mut bad = vec![nth as usize % 7];
            if nth >= 7 {
                bad.push((nth as usize + 1) % 7);
            }
            for &at in &bad {
                assert!(engine.rot_value(&range, at));
            }
            let mut seen = Vec::new();
            let passed = scan(&engine, &range, &mut |row, _| {
                seen.push(Bytes::copy_from_slice(row));
                ControlFlow::Continue(())
            });
            assert!(passed.unwrap().gaps > 0);
            let sound = |at: &usize| !bad.contains(at);
            let wanted: Vec<Bytes> = (0..7).filter(sound).map(|at| rows[at].clone()).collect();
            assert_eq!(seen, wanted, "damaged: {bad:?}");
        }
    }
}
