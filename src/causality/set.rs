//! Sets of dots: a version vector and a cloud.

use std::collections::BTreeSet;

use crate::causality::VersionVector;
use crate::causality::wire::{Reader, WireError, put_len, put_varint};
use crate::types::{ActorId, Dot};

/// A set of dots: everything that the vector reaches, and single dots above it (the *cloud*).
///
/// Invariant: one set has one form. A dot that continues its actor's vector entry without a gap is
/// in the vector, every other dot is in the cloud. Hence equality of forms is equality of sets,
/// union is a join for free, and equal sets have equal encodings.
#[derive(Clone, PartialEq, Eq, Hash, Default, Debug)]
pub struct CausalSet {
    vector: VersionVector,
    cloud: BTreeSet<Dot>,
}

impl CausalSet {
    /// True when `dot` is in the set.
    #[must_use]
    pub fn covers(&self, dot: Dot) -> bool {
        self.vector.covers(dot) || self.cloud.contains(&dot)
    }

    /// Adds one dot and nothing else. True when it was new.
    pub fn insert(&mut self, dot: Dot) -> bool {
        if dot.counter == 0 || self.covers(dot) {
            return false;
        }
        self.cloud.insert(dot);
        self.absorb(dot.actor);
        true
    }

    /// Adds *all* dots of an actor up to `dot`. Only for one who knows that no event of that
    /// actor on this key up to `dot` is missing here: the minting replica (see the module essay).
    /// True when anything was added.
    pub fn advance(&mut self, dot: Dot) -> bool {
        let changed = self.vector.raise(dot.actor, dot.counter);
        if changed {
            self.absorb(dot.actor);
        }
        changed
    }

    /// Adds all dots of `other`. True when any was new.
    pub fn union(&mut self, other: &Self) -> bool {
        let mut changed = false;
        for (actor, counter) in other.vector.iter() {
            changed |= self.advance(Dot { actor, counter });
        }
        for &dot in &other.cloud {
            changed |= self.insert(dot);
        }
        changed
    }

    /// Moves dots of `actor` from the cloud to the vector where the vector now reaches or meets
    /// them.
    fn absorb(&mut self, actor: ActorId) {
        let last = Dot { actor, counter: u64::MAX };
        loop {
            let reached = self.vector.get(actor);
            let first = Dot { actor, counter: 0 };
            let Some(&dot) = self.cloud.range(first..=last).next() else { return };
            if dot.counter > reached.saturating_add(1) {
                return;
            }
            self.cloud.remove(&dot);
            self.vector.raise(actor, dot.counter);
        }
    }

    /// True when every dot of `other` is in this set.
    #[must_use]
    pub fn includes(&self, other: &Self) -> bool {
        other.vector.iter().all(|(actor, counter)| self.vector.get(actor) >= counter)
            && other.cloud.iter().all(|&dot| self.covers(dot))
    }

    /// The greatest counter of `actor` in the set; 0 for none.
    #[must_use]
    pub fn max_counter(&self, actor: ActorId) -> u64 {
        let all = Dot { actor, counter: 0 }..=Dot { actor, counter: u64::MAX };
        self.cloud.range(all).next_back().map_or_else(|| self.vector.get(actor), |dot| dot.counter)
    }

    /// The part that is a vector.
    #[must_use]
    pub fn vector(&self) -> &VersionVector {
        &self.vector
    }

    /// The single dots above the vector.
    #[must_use]
    pub fn cloud(&self) -> &BTreeSet<Dot> {
        &self.cloud
    }

    /// True when the set holds no dot.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.vector.is_empty() && self.cloud.is_empty()
    }

    /// Every actor with a dot in the set, sorted.
    pub(crate) fn actors(&self) -> Vec<ActorId> {
        let mut actors: Vec<_> = self.vector.iter().map(|entry| entry.0).collect();
        if !self.cloud.is_empty() {
            actors.extend(self.cloud.iter().map(|dot| dot.actor));
            actors.sort_unstable();
            actors.dedup();
        }
        actors
    }

    /// Appends the encoding: the actors in order, each with its vector entry (0: in the cloud
    /// only); then the cloud in order, each dot with its actor's place in that list.
    pub(crate) fn encode(&self, actors: &[ActorId], out: &mut Vec<u8>) {
        put_len(out, actors.len());
        for &actor in actors {
            out.extend_from_slice(&actor.0.to_be_bytes());
            put_varint(out, self.vector.get(actor));
        }
        put_len(out, self.cloud.len());
        for &dot in &self.cloud {
            put_dot(out, actors, dot);
        }
    }

    /// Reads what [`CausalSet::encode`] wrote: the set and its actors in order. Refuses any other
    /// form of the same set.
    pub(crate) fn decode(reader: &mut Reader<'_>) -> Result<(Self, Vec<ActorId>), WireError> {
        let count = reader.count(9)?;
        let mut actors = Vec::with_capacity(count);
        let mut entries = Vec::with_capacity(count);
        for _ in 0..count {
            let actor = ActorId(u64::from_be_bytes(reader.array()?));
            if actors.last().is_some_and(|&last| last >= actor) {
                return Err(WireError::Malformed("actors out of order"));
            }
            actors.push(actor);
            let counter = reader.varint()?;
            if counter > 0 {
                entries.push((actor, counter));
            }
        }
        let vector = VersionVector::from_sorted(entries);
        let mut cloud = BTreeSet::new();
        let mut last = None;
        for _ in 0..reader.count(2)? {
            let dot = read_dot(reader, &actors)?;
            if last.is_some_and(|last| last >= dot) {
                return Err(WireError::Malformed("cloud out of order"));
            }
            if dot.counter <= vector.get(dot.actor).saturating_add(1) {
                return Err(WireError::Malformed("cloud dot belongs in the vector"));
            }
            last = Some(dot);
            cloud.insert(dot);
        }
        let set = Self { vector, cloud };
        if set.actors().len() != actors.len() {
            return Err(WireError::Malformed("actor without a dot"));
        }
        Ok((set, actors))
    }
}

impl FromIterator<Dot> for CausalSet {
    fn from_iter<I: IntoIterator<Item = Dot>>(dots: I) -> Self {
        let mut set = Self::default();
        for dot in dots {
            set.insert(dot);
        }
        set
    }
}

/// Appends a dot as its actor's place in `actors` and its counter. The actor must be listed.
pub(crate) fn put_dot(out: &mut Vec<u8>, actors: &[ActorId], dot: Dot) {
    let place = actors.binary_search(&dot.actor);
    debug_assert!(place.is_ok(), "{dot:?} is not of a listed actor");
    put_len(out, place.unwrap_or(actors.len()));
    put_varint(out, dot.counter);
}

/// Reads what [`put_dot`] wrote.
pub(crate) fn read_dot(reader: &mut Reader<'_>, actors: &[ActorId]) -> Result<Dot, WireError> {
    let place = reader.len()?;
    let &actor = actors.get(place).ok_or(WireError::Malformed("dot of an unlisted actor"))?;
    match reader.varint()? {
        0 => Err(WireError::Malformed("dot with counter 0")),
        counter => Ok(Dot { actor, counter }),
    }
}
