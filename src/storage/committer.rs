//! Group commit: many writers share one batch and one sync.
//!
//! # Why
//!
//! An acknowledged write must be on stable storage, and a sync costs 0.1 to 0.3 ms whether it
//! covers one write or a thousand. So writers do not sync: they hand their batch to one committer
//! and wait for its ticket. While one group is being synced the next one gathers, so groups grow
//! by themselves with the load and a lone writer waits for nobody. (Gathering on purpose for
//! 100 µs was measured: it helps one engine and slows the others, so it is not done.)
//!
//! # How
//!
//! ```text
//! submit(batch) ──► queue (FIFO, numbered) ──► one task: take a group, merge, [trailer]
//!                                                 └─ blocking: engine.apply, engine.sync
//! ticket ◄────────── durable_seq rises, tickets resolve in order ◄──┘
//! ```
//!
//! - A batch of the queue is whole in one group, and a group is one engine batch, so each
//!   submitted batch stays atomic.
//! - Sequence numbers follow the order of submission. When a ticket resolves, every batch with a
//!   lower number has been resolved too.
//! - A batch whose caller waits for nothing ([`Pace::Lazily`]) begins no group: it rides with the next
//!   one, or with one of its own once [`CommitterOptions::lazy_delay`] is over. It keeps its place
//!   in the order, so whoever waits for a later batch, or for a barrier, waits for it too.
//! - A ticket that is dropped changes nothing: what was submitted is committed. A client that
//!   hangs up cannot cut a write in half.
//! - After a failed sync nobody knows what is on the disk, and a later sync that succeeds proves
//!   nothing. So every ticket fails from then on, until the node is started anew (invariant I23).
//! - An engine that does not come back from a group within [`CommitterOptions::patience`] counts as
//!   one whose sync has failed: a disk may hang, and sled's flush has been seen to wait for ever.
//! - A full disk is different: nothing of that group was applied, and the next one may pass. But
//!   callers may have built later batches on what the refused ones would have written. So all that
//!   waits is refused with it, and before any of these tickets resolves and any other batch is
//!   taken, the [`Rollback`] lets them forget what they had staged. [`StorageError::Full`] on a
//!   ticket therefore means: it did not happen and never will.
//! - A ticket that failed with anything else does *not* mean "did not happen".
//!
//! It runs on [`Env`] alone, so the simulator runs this same code.

mod task;

use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{Notify, oneshot};

use self::task::Task;
use crate::env::Env;
use crate::storage::{Batch, Engine, StorageError, check_batch};
use crate::types::Mono;

/// When a ticket resolves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// Once its batch is on stable storage.
    #[default]
    GroupCommit,
    /// Once its batch is applied; a sync follows within `interval`. **The loss of power loses up
    /// to that much of acknowledged writes**, on every node that lost it.
    Periodic {
        /// Longest time from an apply to the start of its sync.
        interval: Duration,
    },
}

/// How soon a batch is wanted on stable storage.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pace {
    /// As soon as the disk lets it: somebody waits.
    #[default]
    Now,
    /// With the next group that begins for somebody else's sake, or by itself after
    /// [`CommitterOptions::lazy_delay`]. For what may be lost without harm, and so must not take a
    /// sync from those who wait.
    Lazily,
}

/// Bounds of a [`Committer`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CommitterOptions {
    /// When tickets resolve.
    pub durability: Durability,
    /// Bytes of batches waiting or being committed; a submit beyond them is refused. One batch
    /// that is larger by itself passes when nothing else waits.
    pub max_queue_bytes: usize,
    /// Batches waiting or being committed; a submit beyond them is refused.
    pub max_queue_batches: usize,
    /// A group ends before the batch that would make it larger than this. Bounds the engine's work
    /// under one sync, and so the wait of those who come next.
    pub max_group_bytes: usize,
    /// How long one group's apply and sync may take before storage counts as stuck; zero: for ever.
    pub patience: Duration,
    /// The longest that a batch submitted [`Pace::Lazily`] waits for a group to ride with. Less once
    /// such batches fill a group, or a quarter of the queue.
    pub lazy_delay: Duration,
}

impl Default for CommitterOptions {
    fn default() -> Self {
        Self {
            durability: Durability::GroupCommit,
            max_queue_bytes: 64 << 20,
            max_queue_batches: 16_384,
            max_group_bytes: 4 << 20,
            patience: Duration::from_secs(60),
            lazy_delay: Duration::from_millis(20),
        }
    }
}

/// A batch that was not taken. Nothing of it will happen.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SubmitError {
    /// The queue is full: the disk is slower than the writers. Try again later.
    #[error("{queued_bytes} bytes wait to be written and at most {max_bytes} may")]
    Overloaded {
        /// What waits.
        queued_bytes: usize,
        /// The bound, [`CommitterOptions::max_queue_bytes`].
        max_bytes: usize,
    },
    /// No engine would take this batch.
    #[error(transparent)]
    Refused(StorageError),
    /// No space is left, and what waited is being refused right now. Try again later.
    #[error("no space left on the data disk")]
    Full,
    /// An earlier failure stopped the committer for good.
    #[error(transparent)]
    Stopped(StorageError),
}

/// One more row for each group, made just before the group is applied: the node's own high-water
/// marks, which must move in the same atomic batch as the records that they cover.
pub type Trailer = Box<dyn Fn() -> Option<TrailerRow> + Send + Sync>;

/// What a [`Trailer`] adds to a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrailerRow {
    /// The row's key.
    pub key: Bytes,
    /// Its value.
    pub value: Bytes,
    /// The group's number in the history of the directory, which stands in the row; it grows from
    /// group to group. See [`Committer::durable_mark`].
    pub mark: u64,
}

/// Called when a full disk has refused all batches above the given number (and none at or below
/// it): whoever staged them must now forget them. No batch is taken while it runs, so nothing can
/// be built on what is being forgotten. It must be quick and must not call the committer.
pub type Rollback = Box<dyn Fn(u64) + Send + Sync>;

/// A promise about one submitted batch. Resolves when the batch is durable (or applied, with
/// [`Durability::Periodic`]) or has failed. Dropping it does not cancel anything.
#[derive(Debug)]
#[must_use = "a batch is durable only once its ticket has resolved"]
pub struct CommitTicket {
    /// The batch's place in the order of submission, from 1.
    pub seq: u64,
    outcome: oneshot::Receiver<Result<(), StorageError>>,
}

impl Future for CommitTicket {
    type Output = Result<(), StorageError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let outcome = ready!(Pin::new(&mut self.outcome).poll(cx));
        Poll::Ready(outcome.unwrap_or_else(|_| Err(stopping())))
    }
}

/// What a committer has done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CommitterStats {
    /// Batches that wait or are being committed.
    pub queued_batches: usize,
    /// Their bytes.
    pub queued_bytes: usize,
    /// Groups applied.
    pub groups: u64,
    /// Batches applied.
    pub batches: u64,
}

/// The handle on the commit task, cheap to clone. The task ends, after committing what was
/// submitted, when the last handle is dropped.
#[derive(Clone)]
pub struct Committer {
    handle: Arc<Handle>,
}

struct Handle {
    shared: Arc<Shared>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.lock().closed = true;
        self.shared.wake.notify_one();
    }
}

impl fmt::Debug for Committer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Committer").field("stats", &self.stats()).finish()
    }
}

struct Shared {
    env: Env,
    options: CommitterOptions,
    queue: Mutex<Queue>,
    wake: Notify,
    durable_seq: AtomicU64,
    acked_seq: AtomicU64,
    durable_mark: AtomicU64,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Submitted>,
    /// How many of `waiting` began, or will begin, a group.
    hurried: usize,
    last_seq: u64,
    /// Of `waiting` and of the group in flight.
    bytes: usize,
    batches: usize,
    groups_done: u64,
    batches_done: u64,
    closed: bool,
    /// A full disk is being reported: nothing is taken meanwhile.
    refusing: bool,
    /// How long the first batch of the last group had waited for it.
    last_wait: Duration,
    /// The shortest time that a group took, forgotten slowly.
    least_group: Duration,
    stopped: Option<StorageError>,
    trailer: Option<Arc<Trailer>>,
    rollback: Option<Arc<Rollback>>,
}

impl Queue {
    /// How long the first batch that somebody waits for has waited for its group.
    fn head_wait(&self, now: Mono) -> Duration {
        if self.hurried == 0 {
            return Duration::ZERO;
        }
        let first = self.waiting.iter().find(|submitted| submitted.pace == Pace::Now);
        first.map_or(Duration::ZERO, |first| now.since(first.since))
    }

    /// Time left until a group has to begin; `None`: nothing waits for one.
    fn until_group(&self, now: Mono, options: &CommitterOptions) -> Option<Duration> {
        let first = self.waiting.front()?;
        let full = self.waiting.len() >= options.max_queue_batches / 4
            || self.bytes >= options.max_group_bytes.min(options.max_queue_bytes / 4);
        if self.hurried > 0 || self.closed || full {
            return Some(Duration::ZERO);
        }
        Some(options.lazy_delay.saturating_sub(now.since(first.since)))
    }

    /// Takes note of a group that took so long. A disk that became slow for good is known for that
    /// after some thousands of groups.
    fn took(&mut self, took: Duration) {
        let remembered = self.least_group + self.least_group / 4096;
        self.least_group = if self.groups_done == 0 { took } else { took.min(remembered) };
    }
}

/// What is submitted.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Data,
    /// Nothing: a place in the order.
    Barrier,
    /// Nothing, but a sync.
    Flush,
}

struct Submitted {
    seq: u64,
    batch: Batch,
    bytes: usize,
    pace: Pace,
    since: Mono,
    /// The ticket asks for a sync even when syncs are periodic.
    flush: bool,
    done: oneshot::Sender<Result<(), StorageError>>,
}

impl Committer {
    /// Starts the commit task of `engine`.
    #[must_use]
    pub fn start(env: Env, engine: Arc<dyn Engine>, options: CommitterOptions) -> Self {
        let shared = Arc::new(Shared {
            env: env.clone(),
            options,
            queue: Mutex::default(),
            wake: Notify::new(),
            durable_seq: AtomicU64::new(0),
            acked_seq: AtomicU64::new(0),
            durable_mark: AtomicU64::new(0),
        });
        let shared_too = shared.clone();
        env.spawn("committer", Task::new(env.clone(), engine, shared_too).run());
        Self { handle: Arc::new(Handle { shared }) }
    }

    /// Has `trailer` asked for one more row per group. It is called after the last batch of the
    /// group was submitted, so it sees all that happened before those submits; it must be quick
    /// and must not call the committer.
    #[must_use]
    pub fn with_trailer(self, trailer: Trailer) -> Self {
        self.handle.shared.lock().trailer = Some(Arc::new(trailer));
        self
    }

    /// Has `rollback` called when a full disk refuses batches. There is one: the last set.
    #[must_use]
    pub fn with_rollback(self, rollback: Rollback) -> Self {
        self.handle.shared.lock().rollback = Some(Arc::new(rollback));
        self
    }

    /// Hands `batch` over. Never blocks.
    ///
    /// # Errors
    /// [`SubmitError`]; nothing of the batch will then happen.
    pub fn submit(&self, batch: Batch) -> Result<CommitTicket, SubmitError> {
        self.submit_at(Pace::Now, batch)
    }

    /// As [`Committer::submit`], at a pace.
    ///
    /// # Errors
    /// As [`Committer::submit`].
    pub fn submit_at(&self, pace: Pace, batch: Batch) -> Result<CommitTicket, SubmitError> {
        check_batch(&batch).map_err(SubmitError::Refused)?;
        self.handle.shared.submit(batch, Kind::Data, pace)
    }

    /// A ticket that resolves once every batch submitted before has been acknowledged, and fails
    /// if one of those still waiting did. Let in even when the queue is full.
    ///
    /// # Errors
    /// [`SubmitError::Full`] and [`SubmitError::Stopped`]: some of them may have failed.
    pub fn barrier(&self) -> Result<CommitTicket, SubmitError> {
        self.handle.shared.submit(Batch::new(), Kind::Barrier, Pace::Now)
    }

    /// Waits until all that was submitted before is durable, whatever the [`Durability`].
    ///
    /// # Errors
    /// Any [`StorageError`]; some of it may then be lost.
    pub async fn flush(&self) -> Result<(), StorageError> {
        match self.handle.shared.submit(Batch::new(), Kind::Flush, Pace::Now) {
            Ok(ticket) => ticket.await,
            Err(SubmitError::Refused(error) | SubmitError::Stopped(error)) => Err(error),
            Err(SubmitError::Full) => Err(StorageError::Full),
            // A flush adds nothing to the queue's bytes and is let in.
            Err(SubmitError::Overloaded { .. }) => Err(stopping()),
        }
    }

    /// The number up to which every batch is durable, or was refused with its ticket failed.
    #[must_use]
    pub fn durable_seq(&self) -> u64 {
        self.handle.shared.durable_seq.load(Ordering::Acquire)
    }

    /// The number up to which every ticket has resolved: what callers were promised, and so what
    /// may be shown. The same as [`Committer::durable_seq`], or ahead of it with
    /// [`Durability::Periodic`].
    #[must_use]
    pub fn acked_seq(&self) -> u64 {
        self.handle.shared.acked_seq.load(Ordering::Acquire)
    }

    /// The greatest [`TrailerRow::mark`] that is on stable storage; 0 before the first.
    #[must_use]
    pub fn durable_mark(&self) -> u64 {
        self.handle.shared.durable_mark.load(Ordering::Acquire)
    }

    /// The failure that stopped the committer for good, if one did.
    #[must_use]
    pub fn failure(&self) -> Option<StorageError> {
        self.handle.shared.lock().stopped.clone()
    }

    /// False when the next submit would be refused for want of room. For shedding early.
    #[must_use]
    pub fn has_room(&self) -> bool {
        let queue = self.handle.shared.lock();
        let options = &self.handle.shared.options;
        queue.bytes < options.max_queue_bytes && queue.batches < options.max_queue_batches
    }

    /// How long the first batch that somebody waits for has waited for its group to begin; zero when
    /// none does. What is submitted now cannot be expected to be durable sooner than that.
    #[must_use]
    pub fn wait(&self) -> Duration {
        let queue = self.handle.shared.lock();
        queue.head_wait(self.handle.shared.env.mono())
    }

    /// How much longer than two groups take on this disk when it has little to do the batches at
    /// the head of the queue have to wait: the part of the wait that comes from too much work.
    /// Groups grow with what waits for them, so a queue that empties with each group says nothing;
    /// that groups have become longer than they need to be does.
    #[must_use]
    pub fn excess_wait(&self) -> Duration {
        let queue = self.handle.shared.lock();
        let idle = queue.hurried == 0 && queue.batches == queue.waiting.len();
        if idle {
            return Duration::ZERO;
        }
        let wait = queue.head_wait(self.handle.shared.env.mono()).max(queue.last_wait);
        wait.saturating_sub(queue.least_group * 2)
    }

    /// What was done so far.
    #[must_use]
    pub fn stats(&self) -> CommitterStats {
        let queue = self.handle.shared.lock();
        CommitterStats {
            queued_batches: queue.batches,
            queued_bytes: queue.bytes,
            groups: queue.groups_done,
            batches: queue.batches_done,
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn submit(&self, batch: Batch, kind: Kind, pace: Pace) -> Result<CommitTicket, SubmitError> {
        let bytes = batch.bytes();
        let (done, outcome) = oneshot::channel();
        let mut queue = self.lock();
        if let Some(error) = &queue.stopped {
            return Err(SubmitError::Stopped(error.clone()));
        }
        if queue.refusing {
            return Err(SubmitError::Full);
        }
        let too_many = queue.batches >= self.options.max_queue_batches
            || queue.bytes.saturating_add(bytes) > self.options.max_queue_bytes;
        if too_many && queue.batches > 0 && kind == Kind::Data {
            return Err(SubmitError::Overloaded {
                queued_bytes: queue.bytes,
                max_bytes: self.options.max_queue_bytes,
            });
        }
        queue.last_seq += 1;
        queue.bytes += bytes;
        queue.batches += 1;
        let seq = queue.last_seq;
        let flush = kind == Kind::Flush;
        let since = self.env.mono();
        queue.hurried += usize::from(pace == Pace::Now);
        // The first that waits has the task set its alarm.
        let news = queue.waiting.is_empty();
        queue.waiting.push_back(Submitted { seq, batch, bytes, pace, since, flush, done });
        let due = queue.until_group(since, &self.options).is_some_and(|left| left.is_zero());
        drop(queue);
        if news || due {
            self.wake.notify_one();
        }
        Ok(CommitTicket { seq, outcome })
    }
}

fn stopping() -> StorageError {
    StorageError::Io { during: "committing", message: "the node is stopping".to_owned() }
}

#[cfg(test)]
mod tests;
