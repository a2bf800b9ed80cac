//! Writes that are staged but not yet on stable storage.
//!
//! A replica shows only what is durable (rule 6 of the design): a read that saw a write before
//! its sync could be followed by a crash, and the value that a client had read would be gone. But
//! the *next write* of the key must build on the staged one. So each row under way keeps both:
//! what readers may see, and what the next writer starts from.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;

/// One row with writes under way.
#[derive(Debug)]
struct Pending {
    /// The newest durable bytes; `None`: nothing durable yet.
    shown: Option<Bytes>,
    /// Staged versions, oldest first, each with the commit sequence that makes it durable.
    staged: VecDeque<(u64, Bytes)>,
}

/// The rows under way of one shard. The owner holds the shard's lock around every call.
///
/// Invariants: a row is here only while its newest version may be ahead of stable storage;
/// sequences of one row grow.
#[derive(Debug, Default)]
pub(super) struct Overlay {
    rows: BTreeMap<Bytes, Pending>,
}

impl Overlay {
    /// What a reader may see of `row`, if it is under way here; else the engine knows.
    pub(super) fn shown(&mut self, row: &[u8], durable_seq: u64) -> Option<Option<Bytes>> {
        let pending = self.rows.get_mut(row)?;
        pending.settle(durable_seq);
        let shown = pending.shown.clone();
        if pending.staged.is_empty() {
            self.rows.remove(row);
        }
        Some(shown)
    }

    /// What the next writer of `row` starts from, with the sequence it waits for, if the row is
    /// under way here.
    pub(super) fn newest(&self, row: &[u8]) -> Option<(u64, Bytes)> {
        self.rows.get(row)?.staged.back().cloned()
    }

    /// Notes a staged version. `durable` is what the engine shows of the row, used only when the
    /// row was not under way.
    pub(super) fn stage(&mut self, row: Bytes, seq: u64, bytes: Bytes, durable: Option<Bytes>) {
        let pending = self
            .rows
            .entry(row)
            .or_insert_with(|| Pending { shown: durable, staged: VecDeque::new() });
        debug_assert!(
            pending.staged.back().is_none_or(|(last, _)| *last < seq),
            "versions of a row are staged in the order of their commits"
        );
        pending.staged.push_back((seq, bytes));
    }

    /// Forgets what is durable by now.
    pub(super) fn settle(&mut self, row: &[u8], durable_seq: u64) {
        if let Some(pending) = self.rows.get_mut(row) {
            pending.settle(durable_seq);
            if pending.staged.is_empty() {
                self.rows.remove(row);
            }
        }
    }
}

impl Pending {
    fn settle(&mut self, durable_seq: u64) {
        while self.staged.front().is_some_and(|(seq, _)| *seq <= durable_seq) {
            self.shown = self.staged.pop_front().map(|(_, bytes)| bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readers_see_the_durable_version_and_writers_the_newest() {
        let mut overlay = Overlay::default();
        let row = Bytes::from_static(b"row");
        overlay.stage(row.clone(), 5, Bytes::from_static(b"v5"), Some(Bytes::from_static(b"v0")));
        overlay.stage(row.clone(), 9, Bytes::from_static(b"v9"), None);
        assert_eq!(overlay.shown(&row, 4), Some(Some(Bytes::from_static(b"v0"))));
        assert_eq!(overlay.newest(&row), Some((9, Bytes::from_static(b"v9"))));
        assert_eq!(overlay.shown(&row, 5), Some(Some(Bytes::from_static(b"v5"))));
        assert_eq!(overlay.shown(&row, 9), Some(Some(Bytes::from_static(b"v9"))));
        assert_eq!(overlay.shown(&row, 9), None, "a settled row is the engine's again");
    }

    #[test]
    fn a_row_that_was_absent_stays_absent_to_readers_until_durable() {
        let mut overlay = Overlay::default();
        let row = Bytes::from_static(b"row");
        overlay.stage(row.clone(), 1, Bytes::from_static(b"v1"), None);
        assert_eq!(overlay.shown(&row, 0), Some(None));
        overlay.settle(&row, 1);
        assert_eq!(overlay.newest(&row), None);
    }
}
