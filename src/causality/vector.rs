//! Version vectors.

use crate::types::{ActorId, Dot};

/// For each actor, how far its events have been seen: entry (a, n) stands for the dots (a, 1) to
/// (a, n). Kept sorted by actor; an entry of 0 is not stored.
#[derive(Clone, PartialEq, Eq, Hash, Default, Debug)]
pub struct VersionVector {
    entries: Vec<(ActorId, u64)>,
}

impl VersionVector {
    /// Takes entries that are sorted by actor, without repetition and without zeros.
    pub(crate) fn from_sorted(entries: Vec<(ActorId, u64)>) -> Self {
        debug_assert!(entries.is_sorted_by(|a, b| a.0 < b.0) && entries.iter().all(|e| e.1 > 0));
        Self { entries }
    }

    fn place(&self, actor: ActorId) -> Result<usize, usize> {
        self.entries.binary_search_by_key(&actor, |entry| entry.0)
    }

    /// The counter up to which `actor`'s events are seen; 0 for none.
    #[must_use]
    pub fn get(&self, actor: ActorId) -> u64 {
        self.place(actor).map_or(0, |at| self.entries[at].1)
    }

    /// True when the entry of the dot's actor reaches the dot.
    #[must_use]
    pub fn covers(&self, dot: Dot) -> bool {
        dot.counter <= self.get(dot.actor)
    }

    /// Raises the entry of `actor` to `counter`; never lowers it. True when it rose.
    pub fn raise(&mut self, actor: ActorId, counter: u64) -> bool {
        match self.place(actor) {
            Ok(at) if self.entries[at].1 < counter => self.entries[at].1 = counter,
            Err(at) if counter > 0 => self.entries.insert(at, (actor, counter)),
            Ok(_) | Err(_) => return false,
        }
        true
    }

    /// Raises every entry to `other`'s. True when any rose.
    pub fn join(&mut self, other: &Self) -> bool {
        let mut changed = false;
        for &(actor, counter) in &other.entries {
            changed |= self.raise(actor, counter);
        }
        changed
    }

    /// The entries, by actor.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (ActorId, u64)> + '_ {
        self.entries.iter().copied()
    }

    /// Number of actors with an entry.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// True when nothing is seen.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}
