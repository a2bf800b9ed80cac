use std::sync::Condvar;
use std::sync::atomic::AtomicBool;

use super::*;
use crate::env::tokio_env;
use crate::storage::{EngineStats, KeyRange, MemEngine, ScanVisitor};

/// A memory engine whose syncs wait at a gate, and which fails when told to.
#[derive(Default)]
struct Scripted {
    rows: MemEngine,
    /// Keys in the order they were applied, a batch each.
    applied: Mutex<Vec<Vec<Bytes>>>,
    syncs: AtomicU64,
    closed: Mutex<bool>,
    moved: Condvar,
    full: AtomicBool,
    sync_fails: AtomicBool,
    sync_meets_full_disk: AtomicBool,
}

impl Scripted {
    fn new() -> Arc<Self> {
        Arc::new(Self::default())
    }

    fn close_gate(&self) {
        *self.closed.lock().unwrap() = true;
    }

    fn open_gate(&self) {
        *self.closed.lock().unwrap() = false;
        self.moved.notify_all();
    }

    fn groups(&self) -> Vec<Vec<Bytes>> {
        self.applied.lock().unwrap().clone()
    }
}

impl Engine for Scripted {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StorageError> {
        self.rows.get(key)
    }

    fn scan(&self, range: &KeyRange, visit: &mut ScanVisitor<'_>) -> Result<(), StorageError> {
        self.rows.scan(range, visit)
    }

    fn scan_back(&self, range: &KeyRange, visit: &mut ScanVisitor<'_>) -> Result<(), StorageError> {
        self.rows.scan_back(range, visit)
    }

    fn apply(&self, batch: &Batch) -> Result<(), StorageError> {
        if self.full.load(Ordering::SeqCst) {
            return Err(StorageError::Full);
        }
        let keys = batch.ops().iter().map(|op| match op {
            crate::storage::BatchOp::Put { key, .. } | crate::storage::BatchOp::Delete { key } => {
                key.clone()
            }
        });
        self.applied.lock().unwrap().push(keys.collect());
        self.rows.apply(batch)
    }

    fn sync(&self) -> Result<(), StorageError> {
        let mut closed = self.closed.lock().unwrap();
        while *closed {
            closed = self.moved.wait(closed).unwrap();
        }
        if self.sync_fails.load(Ordering::SeqCst) {
            return Err(StorageError::Io { during: "syncing", message: "EIO".into() });
        }
        if self.sync_meets_full_disk.load(Ordering::SeqCst) {
            return Err(StorageError::Full);
        }
        self.syncs.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }

    fn stats(&self) -> EngineStats {
        EngineStats::default()
    }
}

fn start(engine: &Arc<Scripted>, options: CommitterOptions) -> Committer {
    Committer::start(tokio_env(), engine.clone(), options)
}

fn batch(key: &str) -> Batch {
    let mut batch = Batch::new();
    batch.put(key.to_owned(), "value");
    batch
}

fn submit(committer: &Committer, key: &str) -> CommitTicket {
    committer.submit(batch(key)).unwrap()
}

/// Submits one batch and returns once it is being synced, behind the closed gate.
async fn occupy(engine: &Scripted, committer: &Committer) -> CommitTicket {
    engine.close_gate();
    let before = engine.groups().len();
    let ticket = submit(committer, "first");
    while engine.groups().len() == before {
        tokio::task::yield_now().await;
    }
    ticket
}

#[tokio::test]
async fn a_sync_that_never_returns_stops_the_committer_and_acknowledges_nothing() {
    let engine = Scripted::new();
    let patience = Duration::from_millis(20);
    let committer = start(&engine, CommitterOptions { patience, ..CommitterOptions::default() });
    engine.close_gate();
    let stuck = submit(&committer, "stuck").await;
    assert_eq!(stuck, Err(StorageError::Stuck { patience }));
    assert_eq!(committer.durable_seq(), 0);
    while committer.failure().is_none() {
        tokio::task::yield_now().await;
    }
    let next = committer.submit(batch("next"));
    assert!(matches!(next, Err(SubmitError::Stopped(StorageError::Stuck { .. }))), "{next:?}");
    engine.open_gate();
}

#[tokio::test]
async fn a_ticket_resolves_after_the_sync_and_not_before() {
    let engine = Scripted::new();
    let committer = start(&engine, CommitterOptions::default());
    let mut ticket = occupy(&engine, &committer).await;
    for _ in 0..20 {
        tokio::task::yield_now().await;
        assert!(ticket.outcome.try_recv().is_err(), "acknowledged before it was synced");
    }
    assert_eq!(committer.durable_seq(), 0);
    engine.open_gate();
    ticket.await.unwrap();
    assert_eq!((committer.durable_seq(), engine.syncs.load(Ordering::SeqCst)), (1, 1));
}

#[tokio::test]
async fn what_gathers_during_a_sync_is_one_group_in_the_order_of_submission() {
    let engine = Scripted::new();
    let committer = start(&engine, CommitterOptions::default());
    let first = occupy(&engine, &committer).await;
    let tickets: Vec<CommitTicket> =
        (0..50).map(|n| submit(&committer, &format!("{n:02}"))).collect();
    assert!(tickets.iter().map(|ticket| ticket.seq).eq(2..52));
    engine.open_gate();
    first.await.unwrap();
    for ticket in tickets {
        ticket.await.unwrap();
    }
    let groups = engine.groups();
    assert_eq!((groups.len(), groups[1].len()), (2, 50));
    assert!(groups[1].is_sorted());
    assert_eq!((committer.durable_seq(), engine.syncs.load(Ordering::SeqCst)), (51, 2));
    let stats = committer.stats();
    assert_eq!(
        (stats.groups, stats.batches, stats.queued_batches, stats.queued_bytes),
        (2, 51, 0, 0)
    );
}

#[tokio::test]
async fn a_group_ends_at_its_bound_and_a_batch_stays_whole() {
    let engine = Scripted::new();
    let options = CommitterOptions { max_group_bytes: 20, ..CommitterOptions::default() };
    let committer = start(&engine, options);
    let first = occupy(&engine, &committer).await;
    let mut large = batch("large-1");
    large.put("large-2", vec![0; 100]);
    let tickets =
        [submit(&committer, "a"), submit(&committer, "b"), committer.submit(large).unwrap()];
    let last = submit(&committer, "c");
    engine.open_gate();
    first.await.unwrap();
    for ticket in tickets {
        ticket.await.unwrap();
    }
    last.await.unwrap();
    let sizes: Vec<usize> = engine.groups().iter().map(Vec::len).collect();
    assert_eq!(sizes, [1, 2, 2, 1]);
}

#[tokio::test]
async fn a_dropped_ticket_does_not_cancel_its_batch() {
    let engine = Scripted::new();
    let committer = start(&engine, CommitterOptions::default());
    let first = occupy(&engine, &committer).await;
    drop(submit(&committer, "dropped"));
    let last = submit(&committer, "last");
    engine.open_gate();
    first.await.unwrap();
    last.await.unwrap();
    assert!(engine.get(b"dropped").unwrap().is_some());
}

#[tokio::test]
async fn what_was_submitted_is_committed_though_every_handle_is_dropped() {
    let engine = Scripted::new();
    let committer = start(&engine, CommitterOptions::default());
    let first = occupy(&engine, &committer).await;
    let last = submit(&committer, "last");
    drop(committer);
    engine.open_gate();
    first.await.unwrap();
    last.await.unwrap();
    assert!(engine.get(b"last").unwrap().is_some());
    // The task has let go of the engine, so that its directory can be opened again.
    while Arc::strong_count(&engine) > 1 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_full_queue_refuses_and_takes_again_once_there_is_room() {
    let engine = Scripted::new();
    let options = CommitterOptions { max_queue_batches: 2, ..CommitterOptions::default() };
    let committer = start(&engine, options);
    assert!(committer.has_room());
    let first = occupy(&engine, &committer).await;
    let second = submit(&committer, "second");
    assert!(!committer.has_room());
    let refused = committer.submit(batch("third"));
    assert!(matches!(refused, Err(SubmitError::Overloaded { .. })), "{refused:?}");
    engine.open_gate();
    first.await.unwrap();
    second.await.unwrap();
    submit(&committer, "fourth").await.unwrap();
    assert_eq!(engine.get(b"third").unwrap(), None, "what was refused does not happen");
}

#[tokio::test]
async fn the_queue_is_bounded_in_bytes_but_one_large_batch_passes() {
    let engine = Scripted::new();
    let options = CommitterOptions { max_queue_bytes: 50, ..CommitterOptions::default() };
    let committer = start(&engine, options);
    let mut large = Batch::new();
    large.put("large", vec![0; 1000]);
    committer.submit(large.clone()).unwrap().await.unwrap();
    let first = occupy(&engine, &committer).await;
    assert!(matches!(committer.submit(large), Err(SubmitError::Overloaded { .. })));
    engine.open_gate();
    first.await.unwrap();
}

#[tokio::test]
async fn a_batch_that_no_engine_takes_is_refused_alone() {
    let engine = Scripted::new();
    let committer = start(&engine, CommitterOptions::default());
    assert!(matches!(committer.submit(batch("")), Err(SubmitError::Refused(_))));
    submit(&committer, "fine").await.unwrap();
}

/// I23: after a failed sync nothing is acknowledged, not even if a later sync would succeed.
#[tokio::test]
async fn after_a_failed_sync_nothing_is_acknowledged() {
    let engine = Scripted::new();
    let committer = start(&engine, CommitterOptions::default());
    let first = occupy(&engine, &committer).await;
    let waiting = submit(&committer, "waiting");
    engine.sync_fails.store(true, Ordering::SeqCst);
    engine.open_gate();
    assert!(matches!(first.await, Err(StorageError::Io { .. })));
    engine.sync_fails.store(false, Ordering::SeqCst);
    assert!(matches!(waiting.await, Err(StorageError::Io { .. })));
    assert!(matches!(committer.submit(batch("late")), Err(SubmitError::Stopped(_))));
    assert!(committer.flush().await.is_err());
    assert_eq!(committer.durable_seq(), 0);
}

/// Whoever waits may have built on what is refused, so it is refused too; and its stagers forget
/// it before they hear of it.
#[tokio::test]
async fn a_full_disk_refuses_its_group_and_all_behind_it_and_the_next_may_pass() {
    let engine = Scripted::new();
    let rolled_back = Arc::new(Mutex::new(Vec::new()));
    let calls = rolled_back.clone();
    let options = CommitterOptions { max_group_bytes: 1, ..CommitterOptions::default() };
    let committer = start(&engine, options)
        .with_rollback(Box::new(move |acked| calls.lock().unwrap().push(acked)));
    let first = occupy(&engine, &committer).await;
    let (mut b, mut c) = (submit(&committer, "b"), submit(&committer, "c"));
    let barrier = committer.barrier().unwrap();
    engine.full.store(true, Ordering::SeqCst);
    engine.open_gate();
    first.await.unwrap();
    assert_eq!((&mut b).await, Err(StorageError::Full));
    assert_eq!(*rolled_back.lock().unwrap(), [1], "forgotten before the ticket resolved, once");
    assert_eq!((&mut c).await, Err(StorageError::Full));
    assert_eq!(barrier.await, Err(StorageError::Full), "some of what it waited for has failed");
    assert_eq!((committer.acked_seq(), committer.stats().queued_batches), (4, 0));
    engine.full.store(false, Ordering::SeqCst);
    submit(&committer, "d").await.unwrap();
    assert_eq!(engine.groups(), [["first"], ["d"]]);
}

#[tokio::test]
async fn nothing_is_taken_while_a_full_disk_is_being_reported() {
    let engine = Scripted::new();
    let (seen, slot) = (Arc::new(Mutex::new(None)), Arc::new(Mutex::new(None::<Committer>)));
    let (inner_seen, inner_slot) = (seen.clone(), slot.clone());
    let committer =
        start(&engine, CommitterOptions::default()).with_rollback(Box::new(move |_| {
            let committer = inner_slot.lock().unwrap().take().unwrap();
            *inner_seen.lock().unwrap() = Some(committer.submit(batch("late")).map(|_| ()));
        }));
    *slot.lock().unwrap() = Some(committer.clone());
    engine.full.store(true, Ordering::SeqCst);
    assert_eq!(submit(&committer, "a").await, Err(StorageError::Full));
    assert_eq!(seen.lock().unwrap().take(), Some(Err(SubmitError::Full)));
}

/// Its batch is applied: that is no refusal, and the disk can no longer be trusted.
#[tokio::test]
async fn a_sync_that_meets_a_full_disk_stops_everything() {
    let engine = Scripted::new();
    let committer = start(&engine, CommitterOptions::default());
    engine.sync_meets_full_disk.store(true, Ordering::SeqCst);
    assert!(matches!(submit(&committer, "a").await, Err(StorageError::Poisoned { .. })));
    engine.sync_meets_full_disk.store(false, Ordering::SeqCst);
    assert!(matches!(committer.submit(batch("b")), Err(SubmitError::Stopped(_))));
    assert!(committer.failure().is_some());
}

#[tokio::test]
async fn a_barrier_waits_for_what_was_submitted_before_it() {
    let engine = Scripted::new();
    let committer = start(&engine, CommitterOptions::default());
    let first = occupy(&engine, &committer).await;
    let mut barrier = committer.barrier().unwrap();
    for _ in 0..20 {
        tokio::task::yield_now().await;
        assert!(barrier.outcome.try_recv().is_err(), "ahead of what it waits for");
    }
    engine.open_gate();
    first.await.unwrap();
    barrier.await.unwrap();
}

#[tokio::test]
async fn the_trailer_joins_every_group_and_sees_all_of_its_submits() {
    let engine = Scripted::new();
    let minted = Arc::new(AtomicU64::new(0));
    let seen = minted.clone();
    let committer = start(&engine, CommitterOptions::default()).with_trailer(Box::new(move || {
        let mark = seen.load(Ordering::SeqCst);
        Some(TrailerRow { key: "counter".into(), value: mark.to_string().into(), mark })
    }));
    let first = occupy(&engine, &committer).await;
    let tickets: Vec<CommitTicket> = (0..10)
        .map(|n| {
            minted.fetch_add(1, Ordering::SeqCst);
            submit(&committer, &format!("{n}"))
        })
        .collect();
    engine.open_gate();
    first.await.unwrap();
    for ticket in tickets {
        ticket.await.unwrap();
    }
    assert_eq!(committer.durable_mark(), 10);
    let groups = engine.groups();
    assert_eq!(groups.len(), 2);
    assert!(groups.iter().all(|keys| keys.last().unwrap() == "counter"));
    assert_eq!(engine.get(b"counter").unwrap().as_deref(), Some(&b"10"[..]));
}

fn hourly() -> CommitterOptions {
    let durability = Durability::Periodic { interval: Duration::from_secs(3600) };
    CommitterOptions { durability, ..CommitterOptions::default() }
}

#[tokio::test]
async fn periodic_acknowledges_before_the_sync_and_says_so() {
    let engine = Scripted::new();
    let committer = start(&engine, hourly());
    submit(&committer, "a").await.unwrap();
    submit(&committer, "b").await.unwrap();
    assert_eq!((committer.durable_seq(), engine.syncs.load(Ordering::SeqCst)), (0, 0));
    assert_eq!(committer.acked_seq(), 2, "what was promised may be shown");
    committer.flush().await.unwrap();
    assert_eq!((committer.durable_seq(), engine.syncs.load(Ordering::SeqCst)), (3, 1));
}

#[tokio::test]
async fn periodic_syncs_when_its_interval_is_over_and_at_the_end() {
    let engine = Scripted::new();
    let durability = Durability::Periodic { interval: Duration::from_millis(1) };
    let committer = start(&engine, CommitterOptions { durability, ..CommitterOptions::default() });
    submit(&committer, "a").await.unwrap();
    while committer.durable_seq() == 0 {
        tokio::task::yield_now().await;
    }
    assert_eq!(engine.syncs.load(Ordering::SeqCst), 1);
    drop(committer);

    let committer = start(&engine, hourly());
    submit(&committer, "b").await.unwrap();
    drop(committer);
    while Arc::strong_count(&engine) > 1 {
        tokio::task::yield_now().await;
    }
    assert_eq!(engine.syncs.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn a_periodic_sync_that_fails_stops_everything() {
    let engine = Scripted::new();
    let committer = start(&engine, hourly());
    submit(&committer, "a").await.unwrap();
    engine.sync_fails.store(true, Ordering::SeqCst);
    assert!(committer.flush().await.is_err());
    engine.sync_fails.store(false, Ordering::SeqCst);
    assert!(matches!(committer.submit(batch("late")), Err(SubmitError::Stopped(_))));
}

fn unhurried() -> CommitterOptions {
    CommitterOptions { lazy_delay: Duration::from_secs(3600), ..CommitterOptions::default() }
}

fn submit_lazily(committer: &Committer, key: &str) -> CommitTicket {
    committer.submit_at(Pace::Lazily, batch(key)).unwrap()
}

#[tokio::test]
async fn a_lazy_batch_waits_for_a_group_of_others_and_keeps_its_place_in_it() {
    let engine = Scripted::new();
    let committer = start(&engine, unhurried());
    let mut lazy = submit_lazily(&committer, "lazy");
    for _ in 0..20 {
        tokio::task::yield_now().await;
        assert!(lazy.outcome.try_recv().is_err());
    }
    assert!(engine.groups().is_empty(), "it begins no group");
    submit(&committer, "hurried").await.unwrap();
    lazy.await.unwrap();
    assert_eq!(engine.groups(), [["lazy", "hurried"]]);
    assert_eq!((committer.durable_seq(), engine.syncs.load(Ordering::SeqCst)), (2, 1));
}

#[tokio::test]
async fn a_lazy_batch_alone_is_committed_after_its_delay() {
    let engine = Scripted::new();
    let lazy_delay = Duration::from_millis(1);
    let committer = start(&engine, CommitterOptions { lazy_delay, ..CommitterOptions::default() });
    submit_lazily(&committer, "a").await.unwrap();
    submit_lazily(&committer, "b").await.unwrap();
    assert_eq!((committer.durable_seq(), engine.syncs.load(Ordering::SeqCst)), (2, 2));
}

#[tokio::test]
async fn barriers_flushes_and_the_end_do_not_wait_for_the_delay_of_lazy_batches() {
    let engine = Scripted::new();
    let committer = start(&engine, unhurried());
    let lazy = submit_lazily(&committer, "a");
    committer.barrier().unwrap().await.unwrap();
    lazy.await.unwrap();
    drop(submit_lazily(&committer, "b"));
    committer.flush().await.unwrap();
    assert!(engine.get(b"b").unwrap().is_some());
    let last = submit_lazily(&committer, "c");
    drop(committer);
    last.await.unwrap();
}

#[tokio::test]
async fn lazy_batches_begin_a_group_before_they_fill_the_queue() {
    let engine = Scripted::new();
    let options = CommitterOptions { max_queue_batches: 12, ..unhurried() };
    let committer = start(&engine, options);
    let tickets = ["a", "b", "c"].map(|key| submit_lazily(&committer, key));
    for ticket in tickets {
        ticket.await.unwrap();
    }
    assert_eq!(engine.groups(), [["a", "b", "c"]]);
}

/// The waits are what new work is refused by.
#[tokio::test]
async fn nobody_is_said_to_wait_because_of_lazy_batches() {
    let engine = Scripted::new();
    let committer = start(&engine, unhurried());
    let first = occupy(&engine, &committer).await;
    let second = submit(&committer, "second");
    engine.open_gate();
    first.await.unwrap();
    second.await.unwrap();
    drop(submit_lazily(&committer, "lazy"));
    assert_eq!((committer.wait(), committer.excess_wait()), (Duration::ZERO, Duration::ZERO));
    assert_eq!(committer.stats().queued_batches, 1, "it is there all the same");
}

#[tokio::test]
async fn a_full_disk_refuses_lazy_batches_too_and_takes_others_later() {
    let engine = Scripted::new();
    let committer = start(&engine, unhurried());
    let lazy = submit_lazily(&committer, "lazy");
    engine.full.store(true, Ordering::SeqCst);
    assert_eq!(submit(&committer, "a").await, Err(StorageError::Full));
    assert_eq!(lazy.await, Err(StorageError::Full));
    engine.full.store(false, Ordering::SeqCst);
    let lazy = submit_lazily(&committer, "lazy again");
    submit(&committer, "b").await.unwrap();
    lazy.await.unwrap();
    assert_eq!(engine.groups(), [["lazy again", "b"]]);
}
