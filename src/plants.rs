//! Planted bugs: known mistakes that a test build can switch on, one at a time, to show that the
//! tests notice them (`henge-sim --plant P13`, or `HENGE_PLANT=P13` for a test build of `henge`).
//!
//! A build without the `sim` feature has none of them: [`planted`] is then the constant `false`.

/// The mistakes that can be planted, with the ids of the project's test plan.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Plant {
    /// A proposer ignores what others have accepted and not decided.
    P01,
    /// A promise is answered before it is durable.
    P02,
    /// A vote is answered before it is durable.
    P03,
    /// Ballots begin anew with each start.
    P04,
    /// A serial read is a plain quorum read.
    P05,
    /// A condition that does not hold is answered without settling what the round met.
    P06,
    /// A key's votes are dropped when its decision has reached a quorum, not all.
    P07,
    /// A condition is judged on one replica.
    P09,
    /// A transaction that is proposed again is another operation.
    P10,
    /// A write is acknowledged before it is synced.
    P11,
    /// The coordinator's own copy counts twice towards W.
    P12,
    /// A read takes one answer fewer than its level asks.
    P13,
    /// Last-write-wins stamps come from the raw wall clock.
    P15,
    /// Actor id and counter start anew, under the old id, after a wipe.
    P16,
    /// A dot leaves the node before it is on disk.
    P17,
    /// A PUT replaces all siblings, whatever its context covers.
    P18,
    /// Merging keeps the side with the larger vector.
    P19,
    /// Tombstones are dropped by age alone.
    P20,
    /// … those of tables of rows.
    P20Row,
    /// A value that is brought to a replica lives on from its arrival.
    Ttl,
    /// Hints do not survive a restart of the node that keeps them.
    P21,
    /// A hint takes the place of what its target holds, instead of being merged in.
    P22,
    /// A quorum read answers before the replicas that were behind are brought up.
    P23,
    /// Hash trees leave deletions out.
    P24,
    /// Hash trees leave out that a row, or a partition, was deleted.
    P24Row,
    /// … that a row was inserted.
    P24Live,
    /// … when a cell ends.
    P24Ttl,
    /// … that a cell was deleted.
    P24Mark,
    /// … that a collection was deleted.
    P24Map,
    /// … which ranges of rows were deleted.
    P24Range,
    /// A deletion does not change the hash tree.
    P25,
    /// Anti-entropy pulls but never pushes.
    P26,
    /// What fails its checksum is served, and goes to other replicas, as if it were sound.
    P30,
    /// What fails its checksum counts as absent.
    P31,
    /// "It did not happen" is said of a write that may have happened.
    P32,
    /// A write lives in the task of its request: it ends where the client hangs up.
    P33,
    /// The numbers of a lock's grants begin anew when nobody holds it.
    P34,
    /// An increment of a counter that is sent again is another one.
    P35,
    /// The hybrid clock begins anew with each start.
    P36,
    /// A transaction whose answer was lost between nodes is decided again, as another operation.
    P37,
    /// A row that changes leaves its old entries in indexes.
    P40,
    /// An index counts as built without a look at the rows that are there.
    P42,
    /// Rows that a replica had missed get no entries in indexes when they are brought.
    P43,
    /// The record of a logged batch is deleted while its rows are still being sent.
    P44,
    /// Nobody looks for logged batches that were left.
    P45,
    /// No hash tree is kept at all: what the trees cost is measured against it.
    NoTrees,
    /// sled's log writes end with its own `sync_file_range` in place of `fdatasync`.
    SledSync,
}

#[cfg(feature = "sim")]
mod active {
    use std::sync::atomic::{AtomicU8, Ordering};

    use super::Plant;

    static ACTIVE: AtomicU8 = AtomicU8::new(u8::MAX);

    /// A release binary must not contain this text; the gate looks for it.
    pub(super) const MARKER: &str = "henge-planted-bug-marker";

    /// Switches `plant` on for the whole process (or all off).
    pub fn set_plant(plant: Option<Plant>) {
        ACTIVE.store(plant.map_or(u8::MAX, |p| p as u8), Ordering::SeqCst);
        if let Some(plant) = plant {
            tracing::warn!(?plant, "{MARKER}");
        }
    }

    /// True while `plant` is switched on.
    #[must_use]
    pub fn planted(plant: Plant) -> bool {
        ACTIVE.load(Ordering::Relaxed) == plant as u8
    }

    /// The plant called `name`.
    #[must_use]
    pub fn plant_named(name: &str) -> Option<Plant> {
        use Plant::{
            NoTrees, P01, P02, P03, P04, P05, P06, P07, P09, P10, P11, P12, P13, P15, P16, P17,
            P18, P19, P20, P20Row, P21, P22, P23, P24, P24Live, P24Map, P24Mark, P24Range, P24Row,
            P24Ttl, P25, P26, P30, P31, P32, P33, P34, P35, P36, P37, P40, P42, P43, P44, P45,
            SledSync, Ttl,
        };
        let all = [
            P01, P02, P03, P04, P05, P06, P07, P09, P10, P11, P12, P13, P15, P16, P17, P18, P19,
            P20, P20Row, P21, P22, P23, P24, P24Live, P24Map, P24Mark, P24Range, P24Row, P24Ttl,
            P25, P26, P30, P31, P32, P33, P34, P35, P36, P37, P40, P42, P43, P44, P45, NoTrees,
            SledSync, Ttl,
        ];
        all.into_iter().find(|plant| format!("{plant:?}").eq_ignore_ascii_case(name))
    }
}

#[cfg(feature = "sim")]
pub use active::{plant_named, planted, set_plant};

/// Always false: this build has no planted bugs.
#[cfg(not(feature = "sim"))]
#[must_use]
#[inline(always)]
pub const fn planted(_plant: Plant) -> bool {
    false
}
