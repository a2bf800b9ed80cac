//! The replica alone, over an engine that does as it is told.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use bytes::Bytes;

use crate::cql::index::{IndexPart, hash_of};
use crate::cql::types::CqlType;
use crate::env::{HlcClock, tokio_env};
use crate::meta::fixture::{apply, founded, with_rows};
use crate::meta::{ClusterState, Command, ConflictMode, Table, TableSettings, Verdict};
use crate::net::messages::{Action, Apply, ApplyRows, Mint, Minted, PageRequest, Read, Want};
use crate::net::{NodeStamps, Refusal, Response};
use crate::record::{self, Cell, Content, Record, RecordKind, Row};
use crate::replica::{Actor, Identity, Opening, Progress, Replica, TokenSpan};
use crate::ring::token_of;
use crate::storage::keys;
use crate::storage::{
    Batch, Committer, CommitterOptions, Engine, EngineStats, KeyRange, MemEngine, ScanVisitor,
    StorageError,
};
use crate::types::{
    Epoch, Generation, Hlc, IndexId, IndexTerm, Key, Mono, OpId, PartitionId, ScanOrder, TableId,
    Token, WallMicros,
};

#[derive(Default)]
struct Moody {
    rows: MemEngine,
    unreadable: Mutex<BTreeSet<Bytes>>,
    full: AtomicBool,
    broken: AtomicBool,
    closed: Mutex<bool>,
    /// What is applied is not synced yet.
    unsynced: Mutex<bool>,
    moved: Condvar,
}

impl Moody {
    fn gate(&self, closed: bool) {
        *self.closed.lock().unwrap() = closed;
        self.moved.notify_all();
    }

    fn hold_syncs(&self, hold: bool) {
        *self.unsynced.lock().unwrap() = hold;
        self.moved.notify_all();
    }

    fn pass(&self, gate: &Mutex<bool>) {
        let mut closed = gate.lock().unwrap();
        while *closed {
            closed = self.moved.wait(closed).unwrap();
        }
    }
}

impl Engine for Moody {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StorageError> {
        if self.unreadable.lock().unwrap().contains(key) {
            return Err(StorageError::Corrupt { what: "a test".to_owned() });
        }
        self.rows.get(key)
    }

    fn scan(&self, range: &KeyRange, visit: &mut ScanVisitor<'_>) -> Result<(), StorageError> {
        let unreadable = self.unreadable.lock().unwrap().clone();
        self.rows.scan(range, &mut |key, value| {
            let damage = StorageError::Corrupt { what: "a test".to_owned() };
            visit(key, if unreadable.contains(key) { Err(damage) } else { value })
        })
    }

    fn scan_back(&self, range: &KeyRange, visit: &mut ScanVisitor<'_>) -> Result<(), StorageError> {
        let unreadable = self.unreadable.lock().unwrap().clone();
        self.rows.scan_back(range, &mut |key, value| {
            let damage = StorageError::Corrupt { what: "a test".to_owned() };
            visit(key, if unreadable.contains(key) { Err(damage) } else { value })
        })
    }

    fn apply(&self, batch: &Batch) -> Result<(), StorageError> {
        if batch.is_empty() {
            return Ok(());
        }
        self.pass(&self.closed);
        if self.full.load(Ordering::SeqCst) {
            return Err(StorageError::Full);
        }
        for op in batch.ops() {
            if let crate::storage::BatchOp::Put { key, .. } = op {
                self.unreadable.lock().unwrap().remove(key);
            }
        }
        self.rows.apply(batch)
    }

    fn sync(&self) -> Result<(), StorageError> {
        self.pass(&self.unsynced);
        if self.broken.load(Ordering::SeqCst) {
            return Err(StorageError::Io { during: "syncing", message: "EIO".to_owned() });
        }
        Ok(())
    }

    fn stats(&self) -> EngineStats {
        EngineStats::default()
    }
}

struct Alone {
    engine: Arc<Moody>,
    replica: Arc<Replica>,
    table: Table,
    ops: std::cell::Cell<u128>,
}

fn key() -> Key {
    Key::new(&b"k"[..]).unwrap()
}

impl Alone {
    fn new() -> Self {
        let (engine, env) = (Arc::new(Moody::default()), tokio_env());
        let opening = Opening {
            cluster: "c".to_owned(),
            name: "n".to_owned(),
            acks_before_sync: false,
            high_water: 0,
        };
        let identity = Identity::open(engine.as_ref(), &env, &opening).unwrap();
        let clock = HlcClock::new(env.clone(), Hlc(0), Duration::from_secs(1));
        let stamps = Arc::new(NodeStamps::new(clock));
        let actor = Arc::new(Actor::new(&identity, stamps.clone()));
        let committer = Committer::start(env.clone(), engine.clone(), CommitterOptions::default());
        let replica = Replica::new(env, engine.clone(), committer, actor, stamps);
        let table = Table {
            id: TableId(3),
            name: "t".parse().unwrap(),
            settings: TableSettings::bucket(3),
            version: Epoch(3),
            rows: None,
        };
        Self { engine, replica: Arc::new(replica), table, ops: std::cell::Cell::new(0) }
    }

    fn mint_of(&self, value: &str) -> Mint {
        self.ops.set(self.ops.get() + 1);
        Mint {
            table: self.table.id,
            key: key(),
            op: OpId(self.ops.get()),
            request: 1,
            context: Bytes::new(),
            action: Action::Put {
                body: Bytes::copy_from_slice(value.as_bytes()),
                content_type: None,
                meta: Vec::new(),
                expires_at: None,
            },
            now: WallMicros(1),
            max_siblings: 0,
            known: Bytes::new(),
            known_generation: Generation::default(),
            stamp: Hlc(0),
        }
    }

    /// Begins a mint in a task.
    fn begin(
        &self,
        mint: Mint,
    ) -> tokio_test::task::Spawn<crate::env::BoxFuture<'static, Minting>> {
        let (replica, table) = (self.replica.clone(), self.table.clone());
        tokio_test::task::spawn(Box::pin(async move {
            replica.mint(&table, token_of(b"k"), mint, Mono(u64::MAX)).await
        }))
    }

    async fn put(&self, value: &str) -> Minting {
        self.begin(self.mint_of(value)).await
    }

    fn read(&self) -> Result<Option<Record>, Refusal> {
        let read = Read { table: self.table.id, key: key(), want: Want::Record };
        match self.replica.read(&self.table, token_of(b"k"), &read)? {
            Response::Record(bytes, _) => {
                Ok(bytes.map(|b| Record::decode(&b, &self.address()).unwrap()))
            }
            other => panic!("{other:?}"),
        }
    }

    fn values(&self) -> Vec<String> {
        let record = self.read().unwrap();
        let record = record.unwrap_or_else(|| Record::empty(RecordKind::Siblings));
        let view = record.view(WallMicros(1));
        let text = |bytes: &Bytes| String::from_utf8_lossy(bytes).into_owned();
        view.versions.iter().map(|version| text(&version.value.body)).collect()
    }

    fn address(&self) -> Bytes {
        record::address(self.table.id, &key())
    }

    async fn apply(&self, record: &Record, heals: bool) -> Result<Response, Refusal> {
        let record = record.encode(&self.address());
        let (table, key, generation) = (self.table.id, key(), Generation::default());
        let apply = Apply { table, key, record, generation, heals };
        self.replica.apply(&self.table, token_of(b"k"), apply).await
    }
}

type Minting = Result<Response, Refusal>;

fn made(minting: Minting) -> Minted {
    match minting {
        Ok(Response::Minted(minted)) => minted,
        other => panic!("{other:?}"),
    }
}

/// A refused version is forgotten together with all that was built on it.
#[tokio::test]
async fn nothing_is_built_on_what_a_full_disk_refused() {
    let alone = Alone::new();
    made(alone.put("kept").await);
    alone.engine.gate(true);
    let mut first = alone.begin(alone.mint_of("refused"));
    assert!(first.poll().is_pending());
    let mut second = alone.begin(alone.mint_of("built on it"));
    assert!(second.poll().is_pending());
    alone.engine.full.store(true, Ordering::SeqCst);
    alone.engine.gate(false);
    assert_eq!(first.await, Err(Refusal::DiskFull));
    assert_eq!(second.await, Err(Refusal::DiskFull));
    assert_eq!(alone.values(), ["kept"]);
    assert_eq!(alone.put("also refused").await, Err(Refusal::DiskFull));
    alone.engine.full.store(false, Ordering::SeqCst);
    let minted = made(alone.put("next").await);
    assert_eq!(minted.siblings, 2);
    assert_eq!(alone.values(), ["kept", "next"]);
}

/// A repeat that finds its operation staged waits for it, and shares its fate.
#[tokio::test]
async fn a_repeat_of_what_a_full_disk_refuses_is_refused_too() {
    let alone = Alone::new();
    alone.engine.gate(true);
    let mint = alone.mint_of("v");
    let (mut first, mut again) = (alone.begin(mint.clone()), alone.begin(mint.clone()));
    assert!(first.poll().is_pending());
    assert!(again.poll().is_pending());
    alone.engine.full.store(true, Ordering::SeqCst);
    alone.engine.gate(false);
    assert_eq!(first.await, Err(Refusal::DiskFull));
    assert_eq!(again.await, Err(Refusal::DiskFull), "it is not there");
    alone.engine.full.store(false, Ordering::SeqCst);
    let minted = made(alone.begin(mint).await);
    assert!(!minted.replayed);
}

/// A caller that goes away stops nothing, and leaves nothing behind in memory.
#[tokio::test]
async fn a_mint_whose_caller_went_away_happens_all_the_same() {
    let alone = Alone::new();
    alone.engine.gate(true);
    let mut gone = alone.begin(alone.mint_of("v"));
    assert!(gone.poll().is_pending());
    drop(gone);
    assert_eq!(alone.values(), [""; 0], "nothing is shown before it is durable");
    alone.engine.gate(false);
    made(alone.put("w").await);
    assert_eq!(alone.values(), ["v", "w"]);
}

#[tokio::test]
async fn after_a_failed_sync_nothing_is_acknowledged_not_even_what_is_there() {
    let alone = Alone::new();
    let record = {
        made(alone.put("v").await);
        alone.read().unwrap().unwrap()
    };
    alone.engine.broken.store(true, Ordering::SeqCst);
    let mint = alone.mint_of("unknown");
    let failed = alone.begin(mint.clone()).await;
    assert!(matches!(failed, Ok(Response::Failed { .. })), "{failed:?}");
    alone.engine.broken.store(false, Ordering::SeqCst);
    let again = alone.begin(mint).await;
    assert!(matches!(again, Ok(Response::Failed { .. })), "nobody knows: {again:?}");
    let same = alone.apply(&record, false).await;
    assert!(matches!(same, Ok(Response::Failed { .. })), "{same:?}");
    assert_eq!(alone.values(), ["v"], "reads go on, of what is durable");
}

/// A row that the engine itself cannot read is damaged like one that fails its checksum.
#[tokio::test]
async fn a_row_that_the_engine_cannot_read_is_healed_by_the_merge_of_all_others() {
    let alone = Alone::new();
    made(alone.put("v").await);
    let whole = alone.read().unwrap().unwrap();
    let place = alone.replica.place(&alone.table, token_of(b"k"), &key());
    alone.engine.unreadable.lock().unwrap().insert(place.row.clone());
    assert_eq!(alone.read(), Err(Refusal::Damaged));
    assert_eq!(alone.put("w").await, Err(Refusal::Damaged), "mints nothing (rule 2)");
    assert_eq!(alone.apply(&whole, false).await, Err(Refusal::Damaged));
    alone.engine.gate(true);
    let (replica, table) = (alone.replica.clone(), alone.table.clone());
    let record = whole.encode(&alone.address());
    let generation = Generation::default();
    let heal = Apply { table: table.id, key: key(), record, generation, heals: true };
    let mut healing = tokio_test::task::spawn(Box::pin(async move {
        replica.apply(&table, token_of(b"k"), heal).await
    }));
    assert!(healing.poll().is_pending());
    assert_eq!(alone.read(), Err(Refusal::Damaged), "never absent, not even meanwhile");
    alone.engine.gate(false);
    assert!(matches!(healing.await, Ok(Response::Applied { .. })));
    assert_eq!(alone.values(), ["v"]);
}

/// One row that cannot be read neither ends the page nor is missing from it.
#[tokio::test]
async fn a_page_marks_the_rows_that_cannot_be_read_and_goes_on() {
    let alone = Alone::new();
    let mut keys = Vec::new();
    for name in [&b"k"[..], b"l", b"m"] {
        let key = Key::new(name).unwrap();
        let mint = Mint { key: key.clone(), ..alone.mint_of("v") };
        made(alone.replica.mint(&alone.table, token_of(name), mint, Mono(u64::MAX)).await);
        keys.push((token_of(name), key));
    }
    keys.sort();
    let (token, key) = &keys[1];
    let place = alone.replica.place(&alone.table, *token, key);
    alone.engine.unreadable.lock().unwrap().insert(place.row);
    let page = PageRequest {
        table: alone.table.id,
        partition: PartitionId(0),
        after: None,
        before: None,
        prefix: Bytes::new(),
        limit: 10,
        want: Want::Record,
        refill: false,
        term: None,
        order: ScanOrder::Ascending,
    };
    let span = TokenSpan { first: Token(i64::MIN), last: Token(i64::MAX) };
    let Ok(Response::Page { rows, next: None, .. }) = alone.replica.page(span, &page) else {
        panic!("a page")
    };
    let shown: Vec<_> = rows.iter().map(|row| (row.token, row.key.clone())).collect();
    assert_eq!(shown, keys);
    let sound: Vec<_> =
        rows.iter().map(|row| (row.digest.is_some(), !row.record.is_empty())).collect();
    assert_eq!(sound, [(true, true), (false, false), (true, true)]);
}

/// Rule 6, of an index. The write that is under way has deleted the entry of what readers see and
/// put another: they find the row by the value that they see, and by no other.
#[tokio::test]
async fn rule06_a_row_under_way_is_found_by_what_readers_see_of_it() {
    let (state, table, index) = indexed();
    let alone = Alone::new();
    assert_eq!(alone.replica.keep_indexes(&state).unwrap(), [(table.id, index)]);
    let built = Progress { built: true, after: None };
    alone.replica.note_index((table.id, index), &built).await.unwrap();
    let key = Key::of_row(b"p", b"").unwrap();
    let token = token_of(b"p");
    let column = table.rows.as_ref().unwrap().column("v").unwrap().id;
    let write = |v: i32| {
        let bytes = Bytes::copy_from_slice(&v.to_be_bytes());
        let mut row = Row::default();
        row.write(
            column,
            Cell { stamp: v.into(), content: Content::Value { bytes, expiry: None } },
        );
        let record = Record::of_row(row).encode(&record::address(table.id, &key));
        let rows = vec![(key.clone(), record)];
        let apply = ApplyRows { table: table.id, rows, generation: Generation::default() };
        let (replica, table) = (alone.replica.clone(), table.clone());
        async move { replica.apply_rows(&table, token, apply).await }
    };
    let term = |v: i32| IndexTerm { index, hash: hash_of(&CqlType::Int, &v.to_be_bytes()) };
    let found = |v: i32| {
        let page = PageRequest {
            table: table.id,
            partition: PartitionId(0),
            after: None,
            before: None,
            prefix: Bytes::new(),
            limit: 10,
            want: Want::Record,
            refill: false,
            term: Some(term(v)),
            order: ScanOrder::Ascending,
        };
        let span = TokenSpan { first: Token(i64::MIN), last: Token(i64::MAX) };
        match alone.replica.page(span, &page) {
            Ok(Response::Page { rows, next: None, .. }) => rows.len(),
            other => panic!("{other:?}"),
        }
    };
    write(1).await.unwrap();
    assert_eq!((found(1), found(2)), (1, 0));
    alone.engine.hold_syncs(true);
    let mut second = tokio_test::task::spawn(Box::pin(write(2)));
    assert!(second.poll().is_pending());
    let entry = keys::index_row(table.id, term(2), token, &key);
    while alone.engine.rows.get(&entry).unwrap().is_none() {
        tokio::task::yield_now().await;
    }
    assert_eq!(found(1), 1, "what readers see has the first value still");
    alone.engine.hold_syncs(false);
    second.await.unwrap();
    assert_eq!((found(1), found(2)), (0, 1));
}

/// A cluster of one with a table (k, v) and an index of v.
fn indexed() -> (ClusterState, Table, IndexId) {
    let mut state = founded(&["n"]);
    let columns = [("k", CqlType::Text), ("v", CqlType::Int)];
    let table = with_rows(&mut state, ("ks", "t"), &columns);
    let create = Command::CreateIndex {
        table,
        expected: state.epoch(),
        name: "i".to_owned(),
        column: state.table(table).unwrap().rows.as_ref().unwrap().column("v").unwrap().id,
        part: IndexPart::Value,
        class: None,
    };
    assert_eq!(apply(&mut state, create), Verdict::Done);
    let index = IndexId(state.epoch().0);
    let table = Table::clone(state.table(table).unwrap());
    (state, table, index)
}

#[tokio::test]
async fn a_stamp_from_the_far_future_is_not_built_on() {
    let alone = Alone::new();
    let far = Hlc(u64::MAX);
    let mint = Mint { stamp: far, ..alone.mint_of("v") };
    let refused = alone.begin(mint).await;
    assert!(matches!(refused, Err(Refusal::BadRequest { .. })), "{refused:?}");
}

#[tokio::test]
async fn a_mint_whose_time_is_over_is_not_begun() {
    let alone = Alone::new();
    let mint = alone.mint_of("v");
    let late = alone.replica.mint(&alone.table, token_of(b"k"), mint, Mono(0)).await;
    assert_eq!(late, Err(Refusal::Late));
    assert_eq!(alone.read(), Ok(None));
}

#[tokio::test]
async fn a_last_write_has_the_stamp_that_was_chosen_for_it_or_is_refused() {
    let mut alone = Alone::new();
    alone.table.settings.conflict = ConflictMode::Lww;
    let now = tokio_env().wall().0;
    let of = |value: &str, stamp| Mint { stamp: Hlc(stamp), ..alone.mint_of(value) };
    let (first, second) = (of("first", now), of("second", now + 5));
    assert_eq!(made(alone.begin(first.clone()).await).stamp, Hlc(now));
    assert_eq!(made(alone.begin(second).await).stamp, Hlc(now + 5));
    // A write that was stamped before the second one, carried out after it: no later write.
    for stamp in [now + 4, now + 5] {
        let late = alone.begin(of("late", stamp)).await;
        assert_eq!(late, Err(Refusal::Outranked { stamp: Hlc(now + 5) }));
    }
    assert_eq!(alone.values(), ["second"]);
    // Sent again, the first one is what it was.
    let again = made(alone.begin(first.clone()).await);
    assert_eq!((again.replayed, again.stamp), (true, Hlc(0)), "it has been overwritten");
    assert_eq!(alone.values(), ["second"]);
}
