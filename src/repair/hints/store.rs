//! Where hints are kept: rows of the node's own store, and counts of them in memory.
//!
//! Memory does not grow with the number of hints: there is a count for each target, and what is
//! under way to the disk. A row under way is remembered until its commit has ended, because the
//! next change of the row builds on it. When a commit has failed, the counts are put right by what
//! the engine then has.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Notify;

use crate::env::Env;
use crate::plants::{Plant, planted};
use crate::record::{self, Record};
use crate::repair::hints::scan::{Passed, scan};
use crate::repair::hints::{Hint, HintCounters, HintSettings, TargetHints};
use crate::ring::token_in;
use crate::storage::keys::{self, Kind};
use crate::storage::{Batch, CommitTicket, Committer, Engine, KeyRange, StorageError, SubmitError};
use crate::types::{Generation, Key, NodeId, TableId, WallMicros};

/// Rows read at a time.
const PAGE_ROWS: usize = 256;

/// Bytes after which a page ends.
const PAGE_BYTES: usize = 4 << 20;

/// Rows without a sound key that one start removes; the next start finds the rest.
const MAX_REMOVED_AT_START: usize = 10_000;

/// A row with commits under way.
#[derive(Debug)]
struct UnderWay {
    /// What the row holds after the last of them; `None`: it is deleted.
    newest: Option<Bytes>,
    commits: u32,
    /// One of them has failed: what the row holds is to be looked up when all have ended.
    in_doubt: bool,
}

/// The counts of one target.
#[derive(Clone, Copy, Debug, Default)]
struct Target {
    count: u64,
    bytes: u64,
    /// When the oldest write among its hints was missed.
    oldest: Option<WallMicros>,
    /// The same for the part of the rows that a round has seen so far.
    surveyed: Option<WallMicros>,
    /// Hints handed over per second, as the worker reports it.
    rate: f64,
}

#[derive(Debug, Default)]
struct State {
    targets: BTreeMap<NodeId, Target>,
    under_way: BTreeMap<Bytes, UnderWay>,
    bytes: u64,
}

impl State {
    /// Notes that a row of `target` changes from `before` to `after` (their bytes).
    fn account(&mut self, target: NodeId, before: Option<u64>, after: Option<u64>) {
        let entry = self.targets.entry(target).or_default();
        let (less, more) = (before.unwrap_or(0), after.unwrap_or(0));
        entry.bytes = (entry.bytes + more).saturating_sub(less);
        entry.count += u64::from(after.is_some());
        entry.count = entry.count.saturating_sub(u64::from(before.is_some()));
        self.bytes = (self.bytes + more).saturating_sub(less);
        if entry.count == 0 {
            (entry.oldest, entry.surveyed) = (None, None);
        }
    }

    fn note_age(&mut self, target: NodeId, since: WallMicros) {
        let entry = self.targets.entry(target).or_default();
        let older = |known: Option<WallMicros>| Some(known.map_or(since, |k| k.min(since)));
        (entry.oldest, entry.surveyed) = (older(entry.oldest), older(entry.surveyed));
    }
}

/// A hint as it was read.
#[derive(Clone, Debug)]
pub(super) struct StoredHint {
    pub(super) row: Bytes,
    pub(super) value: Bytes,
    pub(super) hint: Hint,
}

/// Part of a target's hints.
#[derive(Debug, Default)]
pub(super) struct Page {
    pub(super) hints: Vec<StoredHint>,
    /// Rows that cannot be read as hints.
    pub(super) damaged: Vec<(Bytes, Bytes)>,
    /// Places where the engine could not read on.
    pub(super) gaps: u64,
    /// Where to go on, strictly after this row.
    pub(super) next: Option<Bytes>,
}

/// Why a hint was not kept.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotKept {
    /// There is no room for it within the bounds, or hints are switched off.
    #[error("no room for it: see hints.max_mb and hints.enabled")]
    NoRoom,
    /// The store refused it, or failed: it may be there nevertheless.
    #[error("{0}")]
    Storage(String),
}

/// What became of a hint on its way to the disk.
enum Staged {
    /// All of it was there already, and durable.
    Kept,
    /// All of it is on its way already.
    UnderWay(CommitTicket),
    /// This row, which others may build on from now on.
    New(Bytes, CommitTicket),
}

/// A promise to leave a hint unless the replica acknowledges; see [`HintStore::owe`].
#[derive(Debug)]
pub struct Owed(Arc<HintStore>);

impl Drop for Owed {
    fn drop(&mut self) {
        if self.0.owed.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.settled.notify_waiters();
        }
    }
}

/// The hints of one node.
pub struct HintStore {
    env: Env,
    engine: Arc<dyn Engine>,
    committer: Committer,
    settings: HintSettings,
    counters: HintCounters,
    state: Mutex<State>,
    /// Calls of writes that may yet leave a hint, and hints on their way to the disk.
    owed: AtomicU64,
    /// There may be something to deliver.
    arrived: Notify,
    /// Nothing is owed any more.
    settled: Notify,
}

impl std::fmt::Debug for HintStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HintStore").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl HintStore {
    /// Opens the hints that a node's store has, counting them. Blocks on the disk for as long as
    /// reading all of them takes. Rows that cannot be read are removed and counted; an engine that
    /// cannot be read is no reason not to start, since hints are a means to be quick.
    #[must_use]
    pub fn open(
        env: Env,
        engine: Arc<dyn Engine>,
        committer: Committer,
        settings: HintSettings,
    ) -> Arc<Self> {
        let store = Self {
            env,
            engine,
            committer,
            settings,
            counters: HintCounters::default(),
            state: Mutex::default(),
            owed: AtomicU64::new(0),
            arrived: Notify::new(),
            settled: Notify::new(),
        };
        store.load();
        Arc::new(store)
    }

    fn load(&self) {
        let mut gone = Batch::new();
        let mut state = self.lock();
        let all = KeyRange::prefix(&[Kind::Hint as u8]);
        let scanned = scan(self.engine.as_ref(), &all, &mut |row, value| {
            match keys::parse_hint_row(row) {
                Ok((target, _)) if !planted(Plant::P21) => {
                    // A damaged value counts too, until delivery meets and removes it.
                    state.account(target, None, Some(cost(row, value.len())));
                    if let Ok(hint) = Hint::read(row, &Bytes::copy_from_slice(value)) {
                        state.note_age(target, hint.since);
                    }
                }
                _ if gone.ops().len() < MAX_REMOVED_AT_START => {
                    gone.delete(Bytes::copy_from_slice(row));
                }
                _ => {}
            }
            ControlFlow::Continue(())
        });
        match scanned {
            Ok(Passed { gaps }) => self.met_gaps(gaps),
            Err(error) => {
                tracing::error!(%error, "not all hints could be read; anti-entropy covers the rest");
            }
        }
        drop(state);
        if !gone.is_empty() {
            let rows = gone.ops().len();
            tracing::warn!(rows, "hints for nobody that can be made out are removed");
            self.counters.damaged.fetch_add(rows as u64, Ordering::Relaxed);
            // Whether that succeeds does not matter: the next start finds them again.
            drop(self.committer.submit(gone));
        }
    }

    fn met_gaps(&self, gaps: u64) {
        if gaps > 0 {
            tracing::error!(gaps, "hints are damaged; anti-entropy covers them");
            self.counters.damaged.fetch_add(gaps, Ordering::Relaxed);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The bounds.
    #[must_use]
    pub fn settings(&self) -> &HintSettings {
        &self.settings
    }

    /// What became of hints so far.
    #[must_use]
    pub fn counters(&self) -> &HintCounters {
        &self.counters
    }

    /// Bytes of all hints.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.lock().bytes
    }

    /// The targets for which there are hints.
    #[must_use]
    pub fn targets(&self) -> Vec<TargetHints> {
        let now = self.env.wall();
        let state = self.lock();
        let of = |(&target, entry): (&NodeId, &Target)| TargetHints {
            target,
            count: entry.count,
            bytes: entry.bytes,
            oldest: age(now, entry.oldest.unwrap_or(now)),
            rate: entry.rate,
        };
        state.targets.iter().filter(|(_, entry)| entry.count > 0).map(of).collect()
    }

    /// Whether something is kept about this key, for whomever.
    #[must_use]
    pub fn holds(&self, table: TableId, key: &Key) -> bool {
        let state = self.lock();
        let token = token_in(table, key);
        let mut targets = state.targets.iter().filter(|(_, entry)| entry.count > 0);
        targets.any(|(&target, _)| {
            let row = keys::hint_row(target, table, token, key);
            match state.under_way.get(&row) {
                Some(under_way) if under_way.newest.is_some() => true,
                // Not durably gone yet, or unreadable, is there.
                _ => !matches!(self.engine.get(&row), Ok(None)),
            }
        })
    }

    /// Announces a call that leaves a hint if it fails: a graceful stop waits for it.
    #[must_use]
    pub fn owe(self: &Arc<Self>) -> Owed {
        self.owed.fetch_add(1, Ordering::AcqRel);
        Owed(self.clone())
    }

    /// Waits until no call of a write is under way that may leave a hint, and all hints are stored;
    /// `patience` at most.
    pub async fn settle(&self, patience: Duration) {
        let all = async {
            loop {
                let settled = self.settled.notified();
                tokio::pin!(settled);
                settled.as_mut().enable();
                if self.owed.load(Ordering::Acquire) == 0 {
                    return;
                }
                settled.await;
            }
        };
        let _ = self.env.timeout(patience, all).await;
    }

    /// Keeps `record` for `target`, which missed it; durable on return. False if it was not kept
    /// (counted); anti-entropy then brings it.
    pub async fn leave(
        &self,
        target: NodeId,
        table: TableId,
        key: &Key,
        record: &Bytes,
        generation: Generation,
    ) -> bool {
        self.counters.missed.fetch_add(1, Ordering::Relaxed);
        self.keep(target, table, key, record, generation).await.is_ok()
    }

    /// Keeps `record` for `target`; durable on return, so that it may count in the target's place.
    ///
    /// # Errors
    /// [`NotKept`]; counted.
    pub async fn keep(
        &self,
        target: NodeId,
        table: TableId,
        key: &Key,
        record: &Bytes,
        generation: Generation,
    ) -> Result<(), NotKept> {
        let now = self.env.wall();
        let hint = Hint {
            target,
            table,
            key: key.clone(),
            since: now,
            generation: generation.0,
            record: record.clone(),
        };
        let result = match self.stage(hint) {
            Ok(Staged::Kept) => Ok(()),
            Ok(Staged::UnderWay(ticket)) => {
                ticket.await.map_err(|error| NotKept::Storage(error.to_string()))
            }
            Ok(Staged::New(row, ticket)) => {
                let result = ticket.await;
                self.committed(target, &row, result.is_err());
                if result.is_ok() {
                    self.counters.stored.fetch_add(1, Ordering::Relaxed);
                    self.arrived.notify_one();
                }
                result.map_err(|error| NotKept::Storage(error.to_string()))
            }
            Err(why) => Err(why),
        };
        result.inspect_err(|why| self.not_kept(why))
    }

    fn not_kept(&self, why: &NotKept) {
        match why {
            NotKept::NoRoom => &self.counters.no_room,
            NotKept::Storage(error) => {
                tracing::warn!(error, "a hint could not be stored; anti-entropy covers it");
                &self.counters.not_stored
            }
        }
        .fetch_add(1, Ordering::Relaxed);
    }

    /// Merges a hint into what is kept, and submits it.
    fn stage(&self, mut hint: Hint) -> Result<Staged, NotKept> {
        if !self.settings.enabled {
            return Err(NotKept::NoRoom);
        }
        let row = hint.row();
        let mut state = self.lock();
        let before = self.newest(&state, &row);
        let kept = before.as_ref().and_then(|value| Hint::read(&row, value).ok());
        if let Some(kept) = &kept {
            hint.since = hint.since.min(kept.since);
            hint.generation = hint.generation.min(kept.generation);
            if let Some(merged) = merged(&hint, &kept.record) {
                if merged == kept.record {
                    if !state.under_way.contains_key(&row) {
                        return Ok(Staged::Kept);
                    }
                    let ticket = self.committer.barrier();
                    let ticket = ticket.map_err(|error| NotKept::Storage(error.to_string()))?;
                    return Ok(Staged::UnderWay(ticket));
                }
                hint.record = merged;
            }
        }
        let value = hint.value(&row);
        let old = before.as_ref().map(|before| cost(&row, before.len()));
        let new = cost(&row, value.len());
        let more = new.saturating_sub(old.unwrap_or(0));
        let of_target = state.targets.get(&hint.target).map_or(0, |target| target.bytes);
        if state.bytes + more > self.settings.max_bytes
            || of_target + more > self.settings.max_target_bytes
        {
            return Err(NotKept::NoRoom);
        }
        let mut batch = Batch::new();
        batch.put(row.clone(), value.clone());
        let ticket = self.submit(batch)?;
        if kept.is_some() {
            self.counters.merged.fetch_add(1, Ordering::Relaxed);
        }
        state.account(hint.target, old, Some(new));
        state.note_age(hint.target, hint.since);
        begin(&mut state, &row, Some(value));
        Ok(Staged::New(row, ticket))
    }

    fn submit(&self, batch: Batch) -> Result<CommitTicket, NotKept> {
        self.committer
            .submit(batch)
            .map_err(|error: SubmitError| NotKept::Storage(error.to_string()))
    }

    /// What a row holds once all that is under way has ended well. (A row that cannot be read
    /// counts as none: it is to be replaced.)
    fn newest(&self, state: &State, row: &Bytes) -> Option<Bytes> {
        match state.under_way.get(row) {
            Some(under_way) => under_way.newest.clone(),
            None => self.engine.get(row).ok().flatten(),
        }
    }

    /// A commit of `row` has ended.
    fn committed(&self, target: NodeId, row: &Bytes, failed: bool) {
        let mut state = self.lock();
        let Some(under_way) = state.under_way.get_mut(row) else { return };
        under_way.commits -= 1;
        under_way.in_doubt |= failed;
        if under_way.commits > 0 {
            return;
        }
        let Some(ended) = state.under_way.remove(row) else { return };
        if ended.in_doubt {
            let found = self.engine.get(row).ok().flatten();
            let bytes = |value: Option<Bytes>| value.map(|value| cost(row, value.len()));
            state.account(target, bytes(ended.newest), bytes(found));
        }
    }

    /// Deletes a hint if it still is what was read; true when it is gone from stable storage.
    pub(super) async fn remove(&self, stored: &StoredHint) -> bool {
        let target = stored.hint.target;
        let ticket = {
            let mut state = self.lock();
            if self.newest(&state, &stored.row).as_ref() != Some(&stored.value) {
                return false;
            }
            let mut batch = Batch::new();
            batch.delete(stored.row.clone());
            let Ok(ticket) = self.submit(batch) else { return false };
            let bytes = cost(&stored.row, stored.value.len());
            state.account(target, Some(bytes), None);
            begin(&mut state, &stored.row, None);
            ticket
        };
        let result = ticket.await;
        self.committed(target, &stored.row, result.is_err());
        result.is_ok()
    }

    /// Removes rows that cannot be read as hints.
    pub(super) async fn remove_damaged(&self, target: NodeId, rows: Vec<(Bytes, Bytes)>) {
        for (row, value) in rows {
            self.counters.damaged.fetch_add(1, Ordering::Relaxed);
            let mut batch = Batch::new();
            batch.delete(row.clone());
            let Ok(ticket) = self.submit(batch) else { return };
            self.lock().account(target, Some(cost(&row, value.len())), None);
            if ticket.await.is_err() {
                return;
            }
        }
    }

    /// Begins a round over a target's rows: what it does not find any more is not the oldest.
    pub(super) fn begin_round(&self, target: NodeId) {
        self.lock().targets.entry(target).or_default().surveyed = None;
    }

    /// A round has left a hint where it is.
    pub(super) fn left(&self, hint: &Hint) {
        let mut state = self.lock();
        let entry = state.targets.entry(hint.target).or_default();
        entry.surveyed = Some(entry.surveyed.map_or(hint.since, |known| known.min(hint.since)));
    }

    /// A round has seen all rows of a target, and `gaps` where there may have been more. What
    /// cannot be read is not counted any more: it stays where it is, and no round finds it.
    pub(super) fn end_round(&self, target: NodeId, gaps: u64) -> Result<(), StorageError> {
        let mut state = self.lock();
        if gaps > 0 {
            let (mut count, mut bytes) = (0, 0);
            let State { under_way, .. } = &*state;
            scan(self.engine.as_ref(), &keys::hint_rows(target), &mut |row, value| {
                if !under_way.contains_key(row) {
                    count += 1;
                    bytes += cost(row, value.len());
                }
                ControlFlow::Continue(())
            })?;
            for (row, change) in under_way {
                let is_its = keys::parse_hint_row(row).is_ok_and(|(of, _)| of == target);
                if let Some(value) = change.newest.as_ref().filter(|_| is_its) {
                    count += 1;
                    bytes += cost(row, value.len());
                }
            }
            let entry = state.targets.entry(target).or_default();
            let believed = std::mem::replace(&mut entry.bytes, bytes);
            let lost = entry.count.saturating_sub(count);
            entry.count = count;
            state.bytes = (state.bytes + bytes).saturating_sub(believed);
            self.met_gaps(lost);
        }
        let entry = state.targets.entry(target).or_default();
        entry.oldest = entry.surveyed.filter(|_| entry.count > 0);
        Ok(())
    }

    /// How fast hints go to a target now.
    pub(super) fn set_rate(&self, target: NodeId, rate: f64) {
        self.lock().targets.entry(target).or_default().rate = rate;
    }

    /// Reads some of a target's hints, strictly after the row `after`. Blocks on the disk.
    pub(super) fn page(&self, target: NodeId, after: Option<&Bytes>) -> Result<Page, StorageError> {
        let mut range = keys::hint_rows(target);
        if let Some(after) = after {
            range.start = [after, &[0][..]].concat().into();
        }
        let (mut page, mut bytes) = (Page::default(), 0);
        let passed = scan(self.engine.as_ref(), &range, &mut |row, value| {
            if page.hints.len() + page.damaged.len() == PAGE_ROWS || bytes > PAGE_BYTES {
                let last = page.hints.last().map(|stored| &stored.row);
                let last = last.max(page.damaged.last().map(|(row, _)| row));
                page.next = last.cloned();
                return ControlFlow::Break(());
            }
            bytes += value.len();
            let (row, value) = (Bytes::copy_from_slice(row), Bytes::copy_from_slice(value));
            match Hint::read(&row, &value) {
                Ok(hint) => page.hints.push(StoredHint { row, value, hint }),
                Err(_) => page.damaged.push((row, value)),
            }
            ControlFlow::Continue(())
        })?;
        page.gaps = passed.gaps;
        Ok(page)
    }

    /// Waits until there may be hints to deliver.
    pub(super) async fn arrived(&self) {
        self.arrived.notified().await;
    }
}

/// Bytes that a row counts for.
fn cost(row: &[u8], value: usize) -> u64 {
    (row.len() + value) as u64
}

/// How old something from `since` is; a clock that went back makes nothing young or old.
pub(super) fn age(now: WallMicros, since: WallMicros) -> Duration {
    Duration::from_micros(now.0.saturating_sub(since.0))
}

fn begin(state: &mut State, row: &Bytes, newest: Option<Bytes>) {
    let entry = state.under_way.entry(row.clone()).or_insert_with(|| UnderWay {
        newest: None,
        commits: 0,
        in_doubt: false,
    });
    entry.newest = newest;
    entry.commits += 1;
}

/// The hint's record with `kept` merged in. `None`: they cannot be merged, and the new one stands.
fn merged(hint: &Hint, kept: &Bytes) -> Option<Bytes> {
    let address = record::address(hint.table, &hint.key);
    let mut record = Record::decode(kept, &address).ok()?;
    record.merge(&Record::decode(&hint.record, &address).ok()?).ok()?;
    Some(record.encode(&address))
}
