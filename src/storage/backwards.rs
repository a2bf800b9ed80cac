//! Reading a store from its end by forward scans alone: for sled, whose own way back is blocked by
//! some keys (see the head of `sled_engine`).
//!
//! To show what lies before a key, a place is sought from which only some entries lead there: by
//! looking whether there are entries between a place and the end, and how many, and halving what is
//! in doubt. Places that were found on the way, with entries behind them, are kept for the next
//! ones, so that only the first search is a long one. It takes as many looks as the keys differ by
//! bits, which is some tens for numbers and times.

use std::ops::ControlFlow;

use bytes::Bytes;

use crate::storage::StorageError;
use crate::storage::store::{RawStore, RawVisitor};

/// Entries that are read at a time: at most a MiB, as none is above 16 KiB.
const WINDOW: usize = 64;

/// Shows the entries `from ≤ key < to` of `store`, from the greatest to the least.
pub(super) fn scan(
    store: &impl RawStore,
    from: &[u8],
    to: &[u8],
    visit: &mut RawVisitor<'_>,
) -> Result<(), StorageError> {
    let mut end = to.to_vec();
    // Places before `end` with entries between, ascending.
    let mut starts = vec![from.to_vec()];
    while let Some(low) = starts.pop() {
        if low >= end {
            continue;
        }
        let Some(start) = window(store, low, &end, &mut starts)? else { continue };
        let mut entries: Vec<(Bytes, Bytes)> = Vec::with_capacity(WINDOW);
        store.scan(&start, &end, &mut |key, value| {
            entries.push((Bytes::copy_from_slice(key), Bytes::copy_from_slice(value)));
            ControlFlow::Continue(())
        })?;
        for (key, value) in entries.iter().rev() {
            if visit(key, value).is_break() {
                return Ok(());
            }
        }
        end = start;
    }
    Ok(())
}

/// A place from which there is at least one entry before `end` and no more than a window; `None`:
/// there is no entry from `low` on. Adds places below it to `starts` from which there are too many.
fn window(
    store: &impl RawStore,
    mut low: Vec<u8>,
    end: &[u8],
    starts: &mut Vec<Vec<u8>>,
) -> Result<Option<Vec<u8>>, StorageError> {
    // No entry lies between `high` and the end; too many lie between `low` and there.
    let mut high = end.to_vec();
    let mut place = low.clone();
    loop {
        match look(store, &place, end)? {
            Found::Nothing if place <= low => return Ok(None),
            Found::Nothing => high = place,
            Found::Some => {
                if low < place {
                    starts.push(low);
                }
                return Ok(Some(place));
            }
            Found::Many(last) => {
                if last >= high {
                    // Written meanwhile.
                    high = end.to_vec();
                }
                starts.push(std::mem::replace(&mut low, last));
            }
        }
        place = match between(&low, &high) {
            Some(place) => place,
            None => beyond(store, &low, &mut high, end)?,
        };
    }
}

/// How many entries lie from a place to an end.
enum Found {
    Nothing,
    Some,
    /// More than a window. The key of the first one beyond it.
    Many(Vec<u8>),
}

fn look(store: &impl RawStore, from: &[u8], to: &[u8]) -> Result<Found, StorageError> {
    let (mut seen, mut last) = (0, None);
    store.scan(from, to, &mut |key, _| {
        seen += 1;
        if seen <= WINDOW {
            return ControlFlow::Continue(());
        }
        last = Some(key.to_vec());
        ControlFlow::Break(())
    })?;
    Ok(match last {
        Some(last) => Found::Many(last),
        None if seen == 0 => Found::Nothing,
        None => Found::Some,
    })
}

/// A place above `low` and below `high` that halves the first byte in which they differ; `low`, if
/// there is none. `None`: they differ by one there, so all from `low` on begins with that byte.
fn between(low: &[u8], high: &[u8]) -> Option<Vec<u8>> {
    let common = low.iter().zip(high).take_while(|(a, b)| a == b).count();
    let Some(&above) = high.get(common) else { return Some(low.to_vec()) };
    let prefix = |last: u8| Some([&high[..common], &[last]].concat());
    let half = match low.get(common) {
        Some(below) => (above - below) / 2,
        None => above.div_ceil(2),
    };
    match (half, low.get(common)) {
        (0, _) if high.len() > common + 1 => prefix(above),
        (0, Some(_)) => None,
        (0, None) => Some(low.to_vec()),
        (half, _) => prefix(above - half),
    }
}

/// A place above `low`, in the first byte in which the entries from `low` on differ from it. Lowers
/// `high` to the least place above all that begins like them.
fn beyond(
    store: &impl RawStore,
    low: &[u8],
    high: &mut Vec<u8>,
    end: &[u8],
) -> Result<Vec<u8>, StorageError> {
    let known = high.len();
    // So many bytes of `low` all of them have, and not so many.
    let (mut shared, mut too_many) = (known, low.len() + 1);
    while too_many - shared > 1 {
        let middle = shared.midpoint(too_many);
        let after = (known..middle).rev().find(|&at| low[at] < u8::MAX);
        let after = after.map(|at| [&low[..at], &[low[at] + 1]].concat());
        let Some(after) = after else {
            // `low` goes on with FF up to there: so does all above it.
            shared = middle;
            continue;
        };
        let mut any = false;
        store.scan(&after, end, &mut |_, _| {
            any = true;
            ControlFlow::Break(())
        })?;
        if any {
            too_many = middle;
        } else {
            shared = middle;
            *high = after;
        }
    }
    let next = low.get(shared).map_or(0, |&byte| u8::MAX - (u8::MAX - byte) / 2);
    Ok([&low[..shared], &[next]].concat())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::storage::store::RawOp;

    /// A store that counts what is looked at.
    #[derive(Default)]
    struct Counting {
        rows: BTreeMap<Bytes, Bytes>,
        scans: std::sync::atomic::AtomicUsize,
    }

    impl RawStore for Counting {
        fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StorageError> {
            Ok(self.rows.get(key).cloned())
        }

        fn scan(
            &self,
            from: &[u8],
            to: &[u8],
            visit: &mut RawVisitor<'_>,
        ) -> Result<(), StorageError> {
            self.scans.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            let (from, to) = (Bytes::copy_from_slice(from), Bytes::copy_from_slice(to));
            for (key, value) in self.rows.range(from..to) {
                if visit(key, value).is_break() {
                    break;
                }
            }
            Ok(())
        }

        fn scan_back(
            &self,
            from: &[u8],
            to: &[u8],
            visit: &mut RawVisitor<'_>,
        ) -> Result<(), StorageError> {
            scan(self, from, to, visit)
        }

        fn last_key(&self, _: &[u8], _: &[u8]) -> Result<Option<Bytes>, StorageError> {
            Ok(None)
        }

        fn write(&self, _: Vec<RawOp>) -> Result<(), StorageError> {
            Ok(())
        }

        fn sync(&self) -> Result<(), StorageError> {
            Ok(())
        }

        fn disk_bytes(&self) -> u64 {
            0
        }
    }

    fn store(keys: impl IntoIterator<Item = Vec<u8>>) -> Counting {
        let rows = keys.into_iter().map(|key| (Bytes::from(key), Bytes::from_static(b"v")));
        Counting { rows: rows.collect(), ..Counting::default() }
    }

    /// The first `limit` keys backwards, and the number of scans that it took.
    fn back(store: &Counting, from: &[u8], to: &[u8], limit: usize) -> (Vec<Bytes>, usize) {
        let mut shown = Vec::new();
        let outcome = scan(store, from, to, &mut |key, _| {
            shown.push(Bytes::copy_from_slice(key));
            if shown.len() < limit { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        });
        assert_eq!(outcome, Ok(()));
        (shown, store.scans.swap(0, std::sync::atomic::Ordering::Relaxed))
    }

    proptest! {
        /// Keys of few bytes and many of them, so that borders of all kinds are met.
        #[test]
        fn it_is_the_forward_scan_turned_round(
            keys in proptest::collection::vec(
                proptest::collection::vec(
                    prop_oneof![Just(0u8), Just(1), Just(0x7F), Just(0xFE), Just(0xFF)], 1..7,
                ),
                0..700,
            ),
            from in proptest::collection::vec(any::<u8>(), 0..3),
            to in proptest::collection::vec(any::<u8>(), 0..3),
        ) {
            let store = store(keys);
            let (low, high) = (Bytes::from(from.clone()), Bytes::from(to.clone()));
            let within = |key: &&Bytes| **key >= low && **key < high;
            let wanted: Vec<Bytes> = store.rows.keys().rev().filter(within).cloned().collect();
            let (shown, scans) = back(&store, &from, &to, usize::MAX);
            prop_assert_eq!(shown, wanted);
            prop_assert!(scans < 400, "{} scans", scans);
        }
    }

    #[test]
    fn the_last_of_many_is_found_by_few_looks() {
        let times = store((0..200_000u64).map(|n| (n * 1_000_003).to_be_bytes().to_vec()));
        let (shown, scans) = back(&times, &[], &[0xFF], 1);
        assert_eq!(shown[0], (199_999 * 1_000_003u64).to_be_bytes().to_vec());
        assert!(scans < 80, "{scans} scans for one");
        let (shown, scans) = back(&times, &[], &[0xFF], 64_000);
        assert!(shown.len() == 64_000 && scans < 8_000, "{scans} scans for 1,000 windows");
        // A prefix that all share is not gone through bit by bit.
        let long = store((0..20_000u32).map(|n| [&[b'p'; 9_000][..], &n.to_be_bytes()].concat()));
        let (shown, scans) = back(&long, &[], &[0xFF], 1);
        assert!(shown[0].ends_with(&19_999u32.to_be_bytes()), "{:?}", shown[0].len());
        assert!(scans < 200, "{scans} scans behind a long prefix");
    }
}
