//! Writes that are staged but not yet acknowledged.
//!
//! A replica shows only what it may promise to keep (rule 6 of the design): a read that saw a write
//! before its sync could be followed by a crash, and the value that a client had read would be
//! gone. But the *next write* of the key must build on the staged one. So each row under way
//! keeps both: what readers may see, and what the next writer starts from.
//!
//! When a version is settled, that is acknowledged and so what readers see, the hash tree of its
//! partition is told.
//!
//! A full disk takes staged versions back ([`Overlay::roll_back`]); nothing is staged on top of
//! them in between, because the committer takes no batch until all overlays have been rolled back.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;

use crate::replica::trees::{LeafChange, Trees};

/// One row with writes under way.
#[derive(Debug)]
struct Pending {
    /// The newest bytes that are acknowledged; `None`: nothing is.
    shown: Option<Bytes>,
    /// Staged versions, oldest first, each with the commit that makes it durable; `None`: the row
    /// is removed. Never empty.
    staged: VecDeque<(u64, Option<Bytes>)>,
}

/// The rows under way of one shard. The owner holds the shard's lock around every call, and passes
/// the number up to which commits have been acknowledged.
///
/// Invariants: a row is here only while its newest version may be ahead of what was acknowledged;
/// commits grow in `order`, and so in each row.
#[derive(Debug, Default)]
pub(super) struct Overlay {
    rows: BTreeMap<Bytes, Pending>,
    /// Every staged version's commit and row: rows leave when their commits are acknowledged,
    /// whether or not anybody asks for them again.
    order: VecDeque<Staged>,
    trees: Arc<Trees>,
}

/// A staged version: its commit, its row, and what it does to the row's hash tree.
#[derive(Debug)]
struct Staged {
    commit: u64,
    row: Bytes,
    change: LeafChange,
}

impl Overlay {
    /// An overlay that tells `trees` of what it settles.
    pub(super) fn new(trees: Arc<Trees>) -> Self {
        Self { trees, ..Self::default() }
    }

    /// What a reader may see of `row`, if it is under way here; else the engine knows.
    pub(super) fn shown(&mut self, row: &[u8], acked: u64) -> Option<Option<Bytes>> {
        self.settle(acked);
        self.rows.get(row).map(|pending| pending.shown.clone())
    }

    /// The rows under way of which readers may see something, with what they may see.
    pub(super) fn shown_rows(&mut self, acked: u64) -> impl Iterator<Item = (&Bytes, &Bytes)> {
        self.settle(acked);
        self.rows.iter().filter_map(|(row, pending)| Some((row, pending.shown.as_ref()?)))
    }

    /// What the next writer of `row` starts from, if the row is under way here; `Some(None)`: from
    /// nothing.
    pub(super) fn newest(&mut self, row: &[u8], acked: u64) -> Option<Option<Bytes>> {
        self.settle(acked);
        self.rows.get(row)?.staged.back().map(|(_, bytes)| bytes.clone())
    }

    /// Notes a staged version, or the row's removal. `shown` is what readers may see of the row, used only when the row
    /// was not under way.
    pub(super) fn stage(
        &mut self,
        row: Bytes,
        commit: u64,
        bytes: Option<Bytes>,
        shown: Option<Bytes>,
        change: LeafChange,
    ) {
        debug_assert!(
            self.order.back().is_none_or(|last| last.commit <= commit),
            "versions are staged in the order of their commits"
        );
        self.order.push_back(Staged { commit, row: row.clone(), change });
        let pending =
            self.rows.entry(row).or_insert_with(|| Pending { shown, staged: VecDeque::new() });
        pending.staged.push_back((commit, bytes));
    }

    /// Forgets what is acknowledged by now.
    pub(super) fn settle(&mut self, acked: u64) {
        while let Some(staged) = self.order.front()
            && staged.commit <= acked
        {
            let Some(Staged { row, change, .. }) = self.order.pop_front() else { return };
            self.trees.settle(&row, &change);
            let Some(pending) = self.rows.get_mut(&row) else { continue };
            pending.shown = pending.staged.pop_front().and_then(|(_, bytes)| bytes);
            if pending.staged.is_empty() {
                self.rows.remove(&row);
            }
        }
    }

    /// Forgets every version above `acked`: its batch was refused.
    pub(super) fn roll_back(&mut self, acked: u64) {
        self.settle(acked);
        for staged in self.order.drain(..) {
            self.trees.forget(&staged.change);
        }
        self.rows.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::merkle::Leaf;
    use crate::replica::trees::LeafAt;
    use crate::types::{PartitionId, TableId};

    impl Overlay {
        fn stage_row(&mut self, row: Bytes, commit: u64, bytes: Bytes, shown: Option<Bytes>) {
            let at = LeafAt { tree: (TableId(1), PartitionId(0)), leaf: Leaf::FIRST };
            let change = LeafChange { at, change: Some(0), value: 0 };
            self.stage(row, commit, Some(bytes), shown, change);
        }
    }

    fn bytes(text: &'static str) -> Bytes {
        Bytes::from_static(text.as_bytes())
    }

    #[test]
    fn readers_see_the_acknowledged_version_and_writers_the_newest() {
        let (mut overlay, row) = (Overlay::default(), bytes("row"));
        overlay.stage_row(row.clone(), 5, bytes("v5"), Some(bytes("v0")));
        overlay.stage_row(row.clone(), 9, bytes("v9"), None);
        assert_eq!(overlay.shown(&row, 4), Some(Some(bytes("v0"))));
        assert_eq!(overlay.newest(&row, 4), Some(Some(bytes("v9"))));
        assert_eq!(overlay.shown(&row, 5), Some(Some(bytes("v5"))));
        assert_eq!(overlay.shown(&row, 9), None, "a settled row is the engine's again");
    }

    #[test]
    fn a_row_that_was_absent_stays_absent_to_readers_until_acknowledged() {
        let (mut overlay, row) = (Overlay::default(), bytes("row"));
        overlay.stage_row(row.clone(), 1, bytes("v1"), None);
        assert_eq!(overlay.shown(&row, 0), Some(None));
        assert_eq!(overlay.newest(&row, 1), None);
    }

    #[test]
    fn rows_that_nobody_asks_for_again_leave_all_the_same() {
        let mut overlay = Overlay::default();
        for commit in 1..=100 {
            overlay.stage_row(Bytes::from(format!("row {commit}")), commit, bytes("v"), None);
        }
        overlay.settle(99);
        assert_eq!((overlay.rows.len(), overlay.order.len()), (1, 1));
    }

    #[test]
    fn what_a_full_disk_refused_is_forgotten() {
        let (mut overlay, row) = (Overlay::default(), bytes("row"));
        overlay.stage_row(row.clone(), 1, bytes("v1"), None);
        overlay.stage_row(row.clone(), 2, bytes("v2"), None);
        overlay.stage_row(bytes("other"), 3, bytes("v3"), None);
        overlay.roll_back(1);
        assert_eq!(overlay.newest(&row, 1), None, "v1 is in the engine");
        assert_eq!(overlay.newest(b"other", 1), None);
        overlay.stage_row(row.clone(), 4, bytes("v4"), Some(bytes("v1")));
        assert_eq!(overlay.shown(&row, 3), Some(Some(bytes("v1"))));
    }
}
