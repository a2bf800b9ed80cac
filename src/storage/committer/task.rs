//! The task behind a [`super::Committer`]: takes a group, has it applied and synced, tells its
//! tickets.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::oneshot;

use super::{Durability, Pace, Shared, stopping};
use crate::env::Env;
use crate::plants::{Plant, planted};
use crate::storage::{Batch, Engine, StorageError};
use crate::types::Mono;

/// Batches that are committed together.
#[derive(Default)]
struct Group {
    batch: Batch,
    tickets: Vec<oneshot::Sender<Result<(), StorageError>>>,
    last_seq: u64,
    bytes: usize,
    flush: bool,
    mark: Option<u64>,
}

/// The commit loop's own state.
pub(super) struct Task {
    env: Env,
    engine: Arc<dyn Engine>,
    shared: Arc<Shared>,
    /// With periodic syncs: since when, and up to which number, applied batches await a sync.
    unsynced: Option<(Mono, u64)>,
    /// The greatest mark that is applied.
    applied_mark: u64,
}

/// Whether the loop goes on.
type Step = Result<(), StorageError>;

impl Task {
    /// The task of `engine`. [`Task::run`] must follow.
    pub(super) fn new(env: Env, engine: Arc<dyn Engine>, shared: Arc<Shared>) -> Self {
        Self { env, engine, shared, unsynced: None, applied_mark: 0 }
    }

    /// Commits until the last handle is gone, or until storage has failed.
    pub(super) async fn run(mut self) {
        loop {
            let step = match self.take_group() {
                Some(group) => self.commit(group).await,
                None if self.shared.lock().closed => {
                    let last = if self.unsynced.is_some() { self.sync().await } else { Ok(()) };
                    if let Err(error) = last {
                        self.stop(error);
                    }
                    return;
                }
                None => self.wait().await,
            };
            if let Err(error) = step {
                self.stop(error);
                return;
            }
        }
    }

    /// Waits for a submit, for lazy batches to be due or, with periodic syncs, for the next one.
    async fn wait(&mut self) -> Step {
        let shared = self.shared.clone();
        let until_sync = self.until_sync();
        let until_group = shared.lock().until_group(self.env.mono(), &shared.options);
        let Some(left) = until_sync.into_iter().chain(until_group).min() else {
            shared.wake.notified().await;
            return Ok(());
        };
        if !left.is_zero() {
            tokio::select! {
                biased;
                () = shared.wake.notified() => return Ok(()),
                () = self.env.sleep(left) => {}
            }
        }
        if until_sync == Some(left) { self.sync().await } else { Ok(()) }
    }

    /// Time left until a sync is due; `None` if nothing awaits one.
    fn until_sync(&self) -> Option<Duration> {
        let (since, _) = self.unsynced?;
        let Durability::Periodic { interval } = self.shared.options.durability else {
            return Some(Duration::ZERO);
        };
        let gone = Duration::from_nanos(self.env.mono().0.saturating_sub(since.0));
        Some(interval.saturating_sub(gone))
    }

    fn take_group(&self) -> Option<Group> {
        let now = self.env.mono();
        let mut queue = self.shared.lock();
        if !queue.until_group(now, &self.shared.options)?.is_zero() {
            return None;
        }
        let mut group = Group::default();
        queue.last_wait = queue.head_wait(now);
        while let Some(next) = queue.waiting.front() {
            let full = group.bytes.saturating_add(next.bytes) > self.shared.options.max_group_bytes;
            if full && !group.tickets.is_empty() {
                break;
            }
            let Some(next) = queue.waiting.pop_front() else { break };
            queue.hurried -= usize::from(next.pace == Pace::Now);
            group.last_seq = next.seq;
            group.bytes += next.bytes;
            group.flush |= next.flush;
            group.batch.extend(next.batch);
            group.tickets.push(next.done);
        }
        let trailer = queue.trailer.clone();
        drop(queue);
        if !group.batch.is_empty()
            && let Some(row) = trailer.and_then(|trailer| trailer())
        {
            group.batch.put(row.key, row.value);
            group.mark = Some(row.mark);
        }
        Some(group)
    }

    async fn commit(&mut self, group: Group) -> Step {
        let Group { batch, mut tickets, last_seq, bytes, flush, mark } = group;
        let periodic = matches!(self.shared.options.durability, Durability::Periodic { .. });
        let due = self.until_sync().is_some_and(|left| left.is_zero());
        let sync = !periodic || flush || due;
        let count = tickets.len();
        if planted(Plant::P11) {
            self.shared.durable_seq.store(last_seq, Ordering::Release);
            self.shared.acked_seq.store(last_seq, Ordering::Release);
            for ticket in tickets.drain(..) {
                let _ = ticket.send(Ok(()));
            }
        }
        let begun = self.env.mono();
        match self.on_disk(batch, sync).await {
            Ok(()) => {}
            Err(StorageError::Full) => {
                self.refuse(tickets);
                return Ok(());
            }
            Err(error) => {
                for ticket in tickets {
                    let _ = ticket.send(Err(error.clone()));
                }
                return Err(error);
            }
        }
        self.applied_mark = mark.unwrap_or(self.applied_mark);
        if sync {
            self.unsynced = None;
            self.shared.durable_seq.store(last_seq, Ordering::Release);
            self.shared.durable_mark.store(self.applied_mark, Ordering::Release);
        } else {
            self.await_sync(last_seq);
        }
        self.shared.acked_seq.store(last_seq, Ordering::Release);
        let took = self.env.mono().since(begun);
        let mut queue = self.shared.lock();
        queue.took(took);
        queue.bytes -= bytes;
        queue.batches -= count;
        queue.groups_done += 1;
        queue.batches_done += count as u64;
        drop(queue);
        for ticket in tickets {
            let _ = ticket.send(Ok(()));
        }
        Ok(())
    }

    /// Notes that what was applied up to `last_seq` awaits a sync.
    fn await_sync(&mut self, last_seq: u64) {
        let since = self.unsynced.map_or_else(|| self.env.mono(), |(since, _)| since);
        self.unsynced = Some((since, last_seq));
    }

    /// The disk is full: refuses a group and all that waits behind it. See the module's essay.
    fn refuse(&mut self, mut tickets: Vec<oneshot::Sender<Result<(), StorageError>>>) {
        let mut queue = self.shared.lock();
        queue.refusing = true;
        queue.hurried = 0;
        tickets.extend(queue.waiting.drain(..).map(|submitted| submitted.done));
        let (last_seq, rollback) = (queue.last_seq, queue.rollback.clone());
        drop(queue);
        if let Some(rollback) = rollback {
            rollback(self.shared.acked_seq.load(Ordering::Acquire));
        }
        // What awaited a periodic sync before still does; the refused have nothing to sync.
        if self.unsynced.is_some() {
            self.await_sync(last_seq);
        } else {
            self.shared.durable_seq.store(last_seq, Ordering::Release);
        }
        self.shared.acked_seq.store(last_seq, Ordering::Release);
        let mut queue = self.shared.lock();
        queue.refusing = false;
        queue.bytes = 0;
        queue.batches = 0;
        drop(queue);
        for ticket in tickets {
            let _ = ticket.send(Err(StorageError::Full));
        }
    }

    async fn sync(&mut self) -> Step {
        self.on_disk(Batch::new(), true).await?;
        if let Some((_, last_seq)) = self.unsynced.take() {
            self.shared.durable_seq.store(last_seq, Ordering::Release);
            self.shared.durable_mark.store(self.applied_mark, Ordering::Release);
        }
        Ok(())
    }

    /// Applies and syncs, on a thread that may block. What does not come back within the patience is
    /// left to itself, and its outcome is unknown: the committer stops as after a failed sync.
    async fn on_disk(&self, batch: Batch, sync: bool) -> Result<(), StorageError> {
        let engine = self.engine.clone();
        let nothing_new = batch.is_empty() && self.unsynced.is_none();
        if nothing_new {
            return Ok(());
        }
        let work = move || {
            if !batch.is_empty() {
                engine.apply(&batch)?;
            }
            if sync { engine.sync().map_err(beyond_hope) } else { Ok(()) }
        };
        let done = self.env.blocking("commit", work);
        let patience = self.shared.options.patience;
        if patience.is_zero() {
            return done.await.unwrap_or_else(|| Err(stopping()));
        }
        tokio::select! {
            biased;
            done = done => done.unwrap_or_else(|| Err(stopping())),
            () = self.env.sleep(patience) => Err(StorageError::Stuck { patience }),
        }
    }

    /// Fails all that waits and all that will come.
    fn stop(&self, error: StorageError) {
        let mut queue = self.shared.lock();
        queue.stopped = Some(error.clone());
        let waiting = std::mem::take(&mut queue.waiting);
        queue.hurried = 0;
        drop(queue);
        for submitted in waiting {
            let _ = submitted.done.send(Err(error.clone()));
        }
    }
}

/// A sync that fails for want of space has failed like any other: its batch is applied, and nobody
/// knows what is on the disk. It must not be taken for the refusal of a batch.
fn beyond_hope(error: StorageError) -> StorageError {
    match error {
        StorageError::Full => StorageError::Poisoned { cause: error.to_string() },
        other => other,
    }
}
