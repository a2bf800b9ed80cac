//! What a replica knows of purges, and its part in them. `repair::purge` has the protocol.
//!
//! Each partition has a *generation*: how often its dead records have been purged. Every record
//! that leaves the replica carries the generation that it was read at ([`Purges::shown`], taken
//! *before* the row), and every record that comes in is judged by the generation that it carries,
//! under the lock of its row ([`Replica::judge_generation`]):
//!
//! - of this generation: merged;
//! - of a later one: this replica is behind, and catches up before it takes the record;
//! - of an earlier one: refused if its key was purged since. What was purged by the latest
//!   [`SETS_KEPT`] purges is remembered exactly; anything older is refused.
//!
//! A purge removes its rows and raises the generation in one batch, while it holds the locks of all
//! those rows: whoever comes later finds both, or, after a crash or a full disk, neither.
//!
//! Locks: one purge at a time (`doing`), then shards in ascending order, then the states, then the
//! trees.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::binary;
use crate::net::Refusal;
use crate::net::purge::{MAX_SET_ROWS, PurgeSet};
use crate::record::{self, Record};
use crate::replica::dead::Dead;
use crate::replica::overlay::Overlay;
use crate::replica::trees::{LeafAt, LeafChange, TreeId};
use crate::replica::update::refuse_submit;
use crate::replica::{Place, Replica, shard_of, tree_digest};
use crate::ring::token_in;
use crate::storage::keys::{self, Kind};
use crate::storage::{Batch, CommitTicket, Engine, Pace, StorageError};
use crate::types::{Digest, Generation, Key, PartitionId, TableId, WallMicros};

/// Purges of a partition whose keys are remembered.
pub(crate) const SETS_KEPT: u64 = 16;

/// Plans of one purge that a replica remembers to have agreed to.
const PLANS_KEPT: usize = 16;

/// Format of the rows below.
const FORMAT: u8 = 1;

/// The durable state of a partition.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct StateRow {
    table: TableId,
    partition: PartitionId,
    generation: Generation,
    /// Plans for the next generation whose rows this replica has been found to hold.
    prepared: Vec<u128>,
}

/// A purge that is remembered.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct SetRow {
    table: TableId,
    partition: PartitionId,
    set: PurgeSet,
}

/// What is known of a partition.
#[derive(Clone, Debug, Default)]
struct State {
    /// The generation that is acknowledged.
    shown: Generation,
    /// The commit under way that raises it.
    staged: Option<(u64, Generation)>,
    prepared: Vec<u128>,
    /// The latest purge, if this process has seen it.
    latest: Option<PurgeSet>,
}

impl State {
    fn shown(&self, acked: u64) -> Generation {
        match self.staged {
            Some((commit, generation)) if commit <= acked => generation,
            _ => self.shown,
        }
    }

    fn newest(&self) -> Generation {
        self.staged.map_or(self.shown, |(_, generation)| generation)
    }
}

/// The purge states of a replica's partitions, and when something may be due.
#[derive(Debug, Default)]
pub(crate) struct Purges {
    doing: Mutex<()>,
    states: RwLock<BTreeMap<TreeId, State>>,
    due: Mutex<BTreeMap<TreeId, WallMicros>>,
}

impl Purges {
    fn states(&self) -> RwLockReadGuard<'_, BTreeMap<TreeId, State>> {
        self.states.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn states_mut(&self) -> RwLockWriteGuard<'_, BTreeMap<TreeId, State>> {
        self.states.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn due(&self) -> MutexGuard<'_, BTreeMap<TreeId, WallMicros>> {
        self.due.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Everything above what is acknowledged was refused; states are read anew from the engine,
    /// which has none of it.
    pub(super) fn rolled_back(&self) {
        self.states_mut().clear();
    }

    /// A record that is dead, or will be, was staged: nothing of it lives from `at` on.
    pub(super) fn note_dead(&self, id: TreeId, at: WallMicros) {
        // A partition that is not here is to be looked through anyway.
        if let Some(known) = self.due().get_mut(&id) {
            *known = at.min(*known);
        }
    }

    /// From when on a partition may have dead records; `None`: it has not been looked through.
    pub(crate) fn dead_since(&self, id: TreeId) -> Option<WallMicros> {
        self.due().get(&id).copied()
    }

    /// A look through a partition begins: what is staged from now on is noted.
    pub(crate) fn begin_look(&self, id: TreeId) {
        self.due().insert(id, WallMicros(u64::MAX));
    }

    /// It has ended; `first` is when the first record that stayed died or will die.
    pub(crate) fn end_look(&self, id: TreeId, first: WallMicros) {
        self.note_dead(id, first);
    }

    /// It could not be ended.
    pub(crate) fn give_up_look(&self, id: TreeId) {
        self.due().remove(&id);
    }
}

/// How a set is removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Removal {
    /// Rows that are what all replicas were found to hold; this one must have agreed to the plan.
    Agreed,
    /// Whatever stands under the keys. For an older directory, which knows nothing of the purge.
    Forced,
}

/// Why a set is not removed.
#[derive(Debug)]
pub(crate) enum NotRemoved {
    /// The set does not follow this generation.
    At(Generation),
    /// This replica has not agreed to the plan.
    NotPrepared,
    /// It could not.
    Refused(Refusal),
}

impl Replica {
    pub(crate) fn purges(&self) -> &Purges {
        &self.purges
    }

    fn with_state<T>(
        &self,
        id: TreeId,
        look: impl FnOnce(&mut State) -> T,
    ) -> Result<T, StorageError> {
        let known = self.purges.states().contains_key(&id);
        let loaded = if known { None } else { Some(load(self.engine.as_ref(), id)?) };
        let mut states = self.purges.states_mut();
        let state = states.entry(id).or_insert_with(|| loaded.unwrap_or_default());
        let acked = self.committer.acked_seq();
        if let Some((commit, generation)) = state.staged
            && commit <= acked
        {
            (state.shown, state.staged, state.latest) = (generation, None, None);
        }
        Ok(look(state))
    }

    /// The generation that a row read after this call may carry.
    ///
    /// # Errors
    /// Any [`StorageError`].
    pub(crate) fn generation(&self, id: TreeId) -> Result<Generation, StorageError> {
        if let Some(state) = self.purges.states().get(&id) {
            return Ok(state.shown(self.committer.acked_seq()));
        }
        self.with_state(id, |state| state.shown)
    }

    /// The generation of the newest version of a row, whose lock the caller holds.
    pub(super) fn newest_generation(&self, id: TreeId) -> Result<Generation, StorageError> {
        if let Some(state) = self.purges.states().get(&id) {
            return Ok(state.newest());
        }
        self.with_state(id, |state| state.newest())
    }

    /// Whether a record of `generation` may be merged into the row at `place`, whose lock the
    /// caller holds.
    pub(super) fn judge_generation(
        &self,
        place: &Place,
        generation: Generation,
    ) -> Result<(), Refusal> {
        let id = place.leaf.tree;
        let newest = self.newest_generation(id).map_err(|e| self.refuse_storage(&e))?;
        if generation == newest {
            return Ok(());
        }
        let refusal = Refusal::OtherGeneration { generation: newest };
        if generation > newest || newest.0 - generation.0 > SETS_KEPT {
            return Err(refusal);
        }
        let key = place.key();
        let purged = |set: &PurgeSet| set.rows.iter().any(|(purged, _)| purged.as_bytes() == key);
        for at in generation.0 + 1..=newest.0 {
            match self.set_of(id, Generation(at)) {
                Ok(Some(set)) if !purged(&set) => {}
                // What was purged is not known any more: it may have been this key.
                Ok(_) => return Err(refusal),
                Err(error) => return Err(self.refuse_storage(&error)),
            }
        }
        Ok(())
    }

    /// What was purged to make `generation`; `None` if that is forgotten, or damaged.
    fn set_of(&self, id: TreeId, generation: Generation) -> Result<Option<PurgeSet>, StorageError> {
        if let Some(state) = self.purges.states().get(&id)
            && let Some(latest) = &state.latest
            && latest.generation == generation
        {
            return Ok(Some(latest.clone()));
        }
        match self.engine.get(&keys::purge_set_row(id.0, id.1, generation)) {
            Ok(found) => Ok(found.and_then(|bytes| read_set(&bytes, id, generation))),
            Err(StorageError::Corrupt { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// What was purged after `after`, in order, as far as it is remembered without a gap, and the
    /// generation.
    ///
    /// # Errors
    /// Any [`StorageError`].
    pub(crate) fn purged_after(
        &self,
        id: TreeId,
        after: Generation,
        max: usize,
    ) -> Result<(Generation, Vec<PurgeSet>), StorageError> {
        let generation = self.generation(id)?;
        let mut sets = Vec::new();
        for at in after.0.saturating_add(1)..=generation.0 {
            match self.set_of(id, Generation(at))? {
                Some(set) if sets.len() < max => sets.push(set),
                _ => break,
            }
        }
        Ok((generation, sets))
    }

    /// Which of a set's rows this replica does not hold on its disk exactly so, by their places. If
    /// it holds any, it remembers that it was asked, which is durable once the ticket resolves.
    ///
    /// # Errors
    /// [`NotRemoved`].
    pub(crate) fn prepare_purge(
        &self,
        id: TreeId,
        set: &PurgeSet,
    ) -> Result<(Vec<u16>, Option<CommitTicket>), NotRemoved> {
        let storage = |error| NotRemoved::Refused(self.refuse_storage(&error));
        let _doing = self.purges.doing.lock().unwrap_or_else(PoisonError::into_inner);
        let (at, idle) = self
            .with_state(id, |state| (state.newest(), state.staged.is_none()))
            .map_err(storage)?;
        if !idle || set.generation != at.next() || set.rows.len() > MAX_SET_ROWS {
            return Err(NotRemoved::At(at));
        }
        let mut not = Vec::new();
        for (at, (key, digest)) in set.rows.iter().enumerate() {
            if !self.holds_exactly(id, key, *digest).map_err(NotRemoved::Refused)? {
                not.push(at as u16);
            }
        }
        if not.len() == set.rows.len() {
            return Ok((not, None));
        }
        let row = self.with_state(id, |state| {
            let mut prepared = state.prepared.clone();
            if prepared.len() >= PLANS_KEPT {
                prepared.remove(0);
            }
            prepared.push(set.plan);
            StateRow { table: id.0, partition: id.1, generation: state.shown, prepared }
        });
        let row = row.map_err(storage)?;
        let mut batch = Batch::new();
        batch.put(keys::purge_row(id.0, id.1), binary::seal(FORMAT, &row));
        let ticket = self.committer.submit(batch);
        let ticket = ticket.map_err(|e| NotRemoved::Refused(refuse_submit(&e)))?;
        self.with_state(id, |state| state.prepared = row.prepared).map_err(storage)?;
        Ok((not, Some(ticket)))
    }

    /// Whether the durable record of `key` has this digest, and no other version is under way; and,
    /// if it is a row of which something lives by itself, whether the durable head of its partition
    /// deletes that. (The head that did so at the leader may be nowhere else.)
    fn holds_exactly(&self, id: TreeId, key: &Key, digest: Digest) -> Result<bool, Refusal> {
        let token = token_in(id.0, key);
        if self.trees.at(id.0, token).tree != id {
            return Ok(false);
        }
        // The votes on a row are those on the head of its partition.
        let head = key.row_parts().filter(|_| id.0.holds_rows());
        let head = head.and_then(|(partition, _)| Key::of_row(partition, b"").ok());
        if self.has_votes(id.0, token, head.as_ref().unwrap_or(key))? {
            return Ok(false);
        }
        let row = keys::row(Kind::Record, id.0, token, key, b"");
        let mut overlay = self.lock(shard_of(token));
        if overlay.newest(&row, self.committer.acked_seq()).is_some() {
            return Ok(false);
        }
        let bytes = match self.engine.get(&row) {
            Ok(Some(bytes)) => bytes,
            Ok(None) | Err(StorageError::Corrupt { .. }) => return Ok(false),
            Err(error) => return Err(self.refuse_storage(&error)),
        };
        let address = record::address(id.0, key);
        if record::verify(&bytes, &address) != Ok(digest) {
            return Ok(false);
        }
        let Ok(record) = Record::decode(&bytes, &address) else { return Ok(false) };
        if record.dead_at().is_some() {
            return Ok(true);
        }
        let head = self.head_of(id, token, key).map_err(|e| self.refuse_storage(&e))?;
        let deleted = || {
            let ((_, head), (_, clustering)) = (head?, key.row_parts()?);
            record.row()?.dead_under(&head, clustering)
        };
        Ok(deleted().is_some())
    }

    /// Removes a set's rows and raises the generation; durable once the ticket resolves.
    ///
    /// # Errors
    /// [`NotRemoved`]; nothing was changed.
    pub(crate) fn purge(
        &self,
        id: TreeId,
        set: PurgeSet,
        removal: Removal,
    ) -> Result<CommitTicket, NotRemoved> {
        let storage = |error| NotRemoved::Refused(self.refuse_storage(&error));
        let _doing = self.purges.doing.lock().unwrap_or_else(PoisonError::into_inner);
        let (at, prepared) = self
            .with_state(id, |state| (state.newest(), state.prepared.contains(&set.plan)))
            .map_err(storage)?;
        if set.generation != at.next() {
            return Err(NotRemoved::At(at));
        }
        if removal == Removal::Agreed && !prepared {
            return Err(NotRemoved::NotPrepared);
        }
        self.remove(id, &set.rows, removal, Some((set.generation, Some(set.plan))))
            .map_err(NotRemoved::Refused)
    }

    /// Goes over to `generation` without knowing what was purged to make it: removes every row of
    /// the partition. For a directory whose history is over and which is refilled. Blocks on the
    /// disk.
    ///
    /// # Errors
    /// A [`Refusal`]; part of the rows may be gone.
    pub(crate) fn purge_all(
        &self,
        id: TreeId,
        generation: Generation,
    ) -> Result<Option<CommitTicket>, Refusal> {
        let _doing = self.purges.doing.lock().unwrap_or_else(PoisonError::into_inner);
        let at =
            self.with_state(id, |state| state.newest()).map_err(|e| self.refuse_storage(&e))?;
        if at >= generation {
            return Ok(None);
        }
        loop {
            let rows = self.first_rows(id).map_err(|e| self.refuse_storage(&e))?;
            let last = rows.len() < MAX_SET_ROWS;
            let raise = last.then_some((generation, None));
            let ticket = self.remove(id, &rows, Removal::Forced, raise)?;
            if last {
                return Ok(Some(ticket));
            }
        }
    }

    /// The planted mistake: dead rows go by their age alone.
    pub(crate) fn purge_alone(&self, id: TreeId, dead: &[Dead]) -> Option<CommitTicket> {
        let rows: Vec<_> = dead.iter().map(|dead| (dead.key.clone(), dead.digest)).collect();
        self.remove(id, &rows, Removal::Agreed, None).ok()
    }

    /// Removes rows, and raises the generation if `raise` says to which; remembers the rows if it
    /// says by which plan. The caller holds `doing`.
    fn remove(
        &self,
        id: TreeId,
        rows: &[(Key, Digest)],
        removal: Removal,
        raise: Option<(Generation, Option<u128>)>,
    ) -> Result<CommitTicket, Refusal> {
        let mut shards: Vec<usize> =
            rows.iter().map(|(key, _)| shard_of(token_in(id.0, key))).collect();
        shards.sort_unstable();
        shards.dedup();
        let mut overlays: BTreeMap<usize, MutexGuard<'_, Overlay>> =
            shards.into_iter().map(|shard| (shard, self.lock(shard))).collect();
        let mut batch = Batch::new();
        let mut removed = Vec::new();
        for (key, digest) in rows {
            let place = self.purge_place(id.0, key);
            let Some(overlay) = overlays.get_mut(&place.shard) else { continue };
            if place.leaf.tree != id {
                continue;
            }
            let newest = overlay.newest(&place.row, self.committer.acked_seq());
            let found = match newest {
                Some(bytes) => Ok(bytes),
                None => self.engine.get(&place.row),
            };
            let Some((base, change)) = self.removable(&place, *digest, removal, found)? else {
                continue;
            };
            batch.delete(place.row.clone());
            let held = base.as_ref().and_then(|b| Record::decode(b, &place.address).ok());
            let indexed = held.and_then(|held| self.indexes.before(id.0, &place.row, &held));
            if let Some(indexed) = indexed {
                indexed.change(&mut batch, None);
            }
            removed.push((place, base, change));
        }
        let set = raise.and_then(|(generation, plan)| {
            Some(PurgeSet { generation, plan: plan?, rows: rows.to_vec() })
        });
        if let Some((generation, _)) = raise {
            put_state(&mut batch, id, generation, set.as_ref());
        }
        let ticket = self.trees.stage_many(id, removed.len(), batch, (&self.committer, Pace::Now));
        let ticket = ticket.map_err(|e| refuse_submit(&e))?;
        for (place, base, change) in removed {
            if let Some(overlay) = overlays.get_mut(&place.shard) {
                overlay.stage(place.row, ticket.seq, None, base, change);
            }
        }
        if let Some((generation, _)) = raise {
            let raised = self.with_state(id, |state| {
                state.staged = Some((ticket.seq, generation));
                state.prepared.clear();
                state.latest = set;
            });
            // It was loaded before, so it is there.
            raised.map_err(|e| self.refuse_storage(&e))?;
        }
        Ok(ticket)
    }

    fn purge_place(&self, table: TableId, key: &Key) -> PurgePlace {
        let token = token_in(table, key);
        PurgePlace {
            row: keys::row(Kind::Record, table, token, key, b""),
            address: record::address(table, key),
            shard: shard_of(token),
            leaf: self.trees.at(table, token),
        }
    }

    /// What removing a row takes away, if it is to be removed: its bytes, and its leaf's change.
    fn removable(
        &self,
        place: &PurgePlace,
        digest: Digest,
        removal: Removal,
        found: Result<Option<Bytes>, StorageError>,
    ) -> Result<Option<(Option<Bytes>, LeafChange)>, Refusal> {
        let forced = removal == Removal::Forced;
        let change = |change| LeafChange { at: place.leaf, change, value: 0 };
        match found {
            Ok(None) => Ok(None),
            Ok(Some(bytes)) => Ok(match record::verify(&bytes, &place.address) {
                Ok(held) if forced || held == digest => {
                    let old = tree_digest(&place.address, &bytes, held);
                    Some((Some(bytes), change(Some(old))))
                }
                Err(_) if forced => Some((Some(bytes), change(None))),
                Ok(_) | Err(_) => None,
            }),
            Err(StorageError::Corrupt { .. }) => {
                Ok(forced.then(|| (Some(Bytes::new()), change(None))))
            }
            Err(error) => Err(self.refuse_storage(&error)),
        }
    }
}

/// A row that is to go, whatever kind of record it is.
struct PurgePlace {
    row: Bytes,
    address: Bytes,
    shard: usize,
    leaf: LeafAt,
}

impl Place {
    /// The key's bytes.
    fn key(&self) -> &[u8] {
        self.address.get(4..).unwrap_or_default()
    }
}

fn put_state(batch: &mut Batch, id: TreeId, generation: Generation, set: Option<&PurgeSet>) {
    let (table, partition) = id;
    let state = StateRow { table, partition, generation, prepared: Vec::new() };
    batch.put(keys::purge_row(table, partition), binary::seal(FORMAT, &state));
    if let Some(set) = set {
        let row = SetRow { table, partition, set: set.clone() };
        batch.put(keys::purge_set_row(table, partition, generation), binary::seal(FORMAT, &row));
    }
    if let Some(old) = generation.0.checked_sub(SETS_KEPT) {
        batch.delete(keys::purge_set_row(table, partition, Generation(old)));
    }
}

fn read_set(bytes: &[u8], id: TreeId, generation: Generation) -> Option<PurgeSet> {
    let row: SetRow = binary::unseal("a purged set", FORMAT, bytes).ok()?;
    let is_it = (row.table, row.partition) == id && row.set.generation == generation;
    is_it.then_some(row.set)
}

/// Reads a partition's state. A state that is damaged is made out from what was purged: the latest
/// purges are there, each in a row of its own. (What this replica had agreed to is then forgotten.)
fn load(engine: &dyn Engine, id: TreeId) -> Result<State, StorageError> {
    let stored = match engine.get(&keys::purge_row(id.0, id.1)) {
        Ok(None) => return Ok(State::default()),
        Ok(Some(bytes)) => binary::unseal::<StateRow>("a purge state", FORMAT, &bytes).ok(),
        Err(StorageError::Corrupt { .. }) => None,
        Err(error) => return Err(error),
    };
    if let Some(row) = stored.filter(|row| (row.table, row.partition) == id) {
        return Ok(State { shown: row.generation, prepared: row.prepared, ..State::default() });
    }
    tracing::error!(table = id.0.0, partition = id.1.0, "a purge state is damaged");
    let mut generation = Generation::default();
    engine.scan(&keys::purge_set_rows(id.0, id.1), &mut |row, _| {
        if let Some(at) = row.last_chunk() {
            generation = generation.max(Generation(u64::from_be_bytes(*at)));
        }
        std::ops::ControlFlow::Continue(())
    })?;
    Ok(State { shown: generation, ..State::default() })
}
