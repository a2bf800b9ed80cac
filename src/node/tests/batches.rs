//! Logged batches whose coordinator dies.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bytes::Bytes;

use super::town::{ABC, Fate, SECOND, Slot, Town, id};
use crate::coordinator::{BatchError, BatchOp, OpError, PartitionRows, ReadOp, RowsOp, log_table};
use crate::meta::{Command, Table, TableName};
use crate::net::Request;
use crate::record::{Cell, Column, Content, Record, Row};
use crate::types::{Consistency, Key, TableId};

const COLUMN: u16 = 7;

struct Scene {
    town: Town,
    rows: Arc<Table>,
    log: Arc<Table>,
}

fn scene(seed: u64) -> Scene {
    let (mut town, rows) = Town::with_rows(seed);
    let log = town.create(&log_table().to_string(), |_| {});
    Scene { town, rows, log }
}

fn key(partition: &str) -> Key {
    Key::of_row(partition.as_bytes(), b"").unwrap()
}

fn record(text: &'static str, stamp: i64) -> Record {
    let content = Content::Value { bytes: Bytes::from_static(text.as_bytes()), expiry: None };
    let mut row = Row::default();
    row.write(COLUMN, Cell { stamp, content });
    Record::of_row(row)
}

fn is_write(request: &Request) -> bool {
    matches!(request, Request::Mint(_) | Request::Apply(_) | Request::ApplyRows(_))
}

/// Whether it is about rows of a table.
fn is_row(request: &Request, rows: TableId) -> bool {
    match request {
        Request::Apply(apply) => apply.table == rows,
        Request::ApplyRows(apply) => apply.table == rows,
        _ => false,
    }
}

impl Scene {
    /// Begins a batch of these parts, at `name`.
    fn begin_parts(
        &self,
        name: &str,
        parts: Vec<PartitionRows>,
        level: Consistency,
        timeout: Duration,
    ) -> Slot<Result<(), BatchError>> {
        let op = BatchOp { log: self.log.clone(), parts, level, timeout };
        let coordinator = self.town.coordinator(name);
        self.town.begin(name, async move { coordinator.write_batch(op).await })
    }

    /// Begins to write `text` in both partitions, at `name`.
    fn begin(
        &self,
        name: &str,
        text: &'static str,
        stamp: i64,
        level: Consistency,
    ) -> Slot<Result<(), BatchError>> {
        let part = |partition| (self.rows.clone(), vec![(key(partition), record(text, stamp))]);
        self.begin_parts(name, vec![part("p"), part("q")], level, 2 * SECOND)
    }

    fn append(&mut self, command: Command) {
        let life = self.town.life("a");
        let (cluster, deadline) = (life.node.cluster().clone(), life.env.mono() + 10 * SECOND);
        let slot = self.town.begin("a", async move { cluster.append(command, deadline).await });
        self.town.wait(&slot).expect("a majority is there");
    }

    /// How many batches are on record at `name`, written or not.
    fn on_record(&self, name: &str) -> usize {
        let (life, log) = (self.town.life(name), self.log.id);
        let page = life.node.replica().batches(log, None, usize::MAX, life.env.wall());
        page.unwrap().keys.len()
    }

    /// What a quorum read through `name` shows in both partitions.
    fn shown(&mut self, name: &str) -> [String; 2] {
        ["p", "q"].map(|partition| {
            let op = ReadOp {
                table: self.rows.clone(),
                key: key(partition),
                level: Consistency::Quorum,
                timeout: 2 * SECOND,
                receipt: false,
                local: false,
            };
            let coordinator = self.town.coordinator(name);
            let slot = self.town.begin(name, async move { coordinator.read(op).await });
            let found = self.town.wait(&slot).unwrap().record;
            match found.row().and_then(|row| row.column(COLUMN)) {
                Some(Column::Cell(Cell { content: Content::Value { bytes, .. }, .. })) => {
                    String::from_utf8_lossy(bytes).into_owned()
                }
                _ => String::new(),
            }
        })
    }

    fn resumed(&self) -> u64 {
        let of = |name: &&str| {
            let counters = self.town.coordinator(name);
            counters.counters().resumed_batches.load(Ordering::Relaxed)
        };
        ABC.iter().filter(|name| self.town.is_up(name)).map(of).sum()
    }
}

#[test]
fn a_batch_whose_coordinator_dies_at_any_step_is_written_whole_or_not_at_all() {
    let (mut whole, mut none, mut resumed) = (0, 0, 0);
    for step in 0..16 {
        let mut scene = scene(700 + u64::from(step));
        let sent = AtomicU32::new(0);
        scene.town.script.add(Fate::LoseRequest, u32::MAX, move |from, _, request| {
            from == id("a") && is_write(request) && sent.fetch_add(1, Ordering::Relaxed) >= step
        });
        let slot = scene.begin("a", "new", 5, Consistency::All);
        scene.town.run(Duration::from_millis(500));
        let told = if slot.is_done() { Some(scene.town.wait(&slot)) } else { None };
        // What it alone holds is gone with it.
        scene.town.wipe("a");
        scene.town.script.clear();
        scene.town.until(60, "the others know", |town| {
            !town.life("b").node.cluster().is_live(id("a"))
                && !town.life("c").node.cluster().is_live(id("a"))
        });
        scene.town.run(45 * SECOND);
        let shown = scene.shown("b");
        assert_eq!(shown, scene.shown("c"), "step {step}");
        assert_eq!(shown[0], shown[1], "step {step}: all or nothing; {told:?}");
        resumed += scene.resumed();
        if shown[0] == "new" {
            whole += 1;
        } else {
            none += 1;
            assert!(!matches!(told, Some(Ok(()))), "step {step}: it was acknowledged");
        }
    }
    assert!(whole > 0 && none > 0 && resumed > 0, "{whole} whole, {none} none, {resumed} resumed");
}

#[test]
fn a_batch_that_is_late_is_written_by_others_and_takes_nothing_back_that_is_newer() {
    let mut scene = scene(720);
    let rows = scene.rows.id;
    scene.town.script.add(Fate::LoseRequest, u32::MAX, move |from, _, request| {
        from == id("a") && is_row(request, rows)
    });
    let slot = scene.begin("a", "old", 5, Consistency::Quorum);
    let told = scene.town.wait(&slot).unwrap_err();
    assert!(matches!(told, BatchError::Late { done: 0, parts: 2, .. }), "{told:?}");
    let op = RowsOp {
        table: scene.rows.clone(),
        rows: vec![(key("q"), record("newer", 9))],
        level: Consistency::Quorum,
        timeout: 2 * SECOND,
    };
    let coordinator = scene.town.coordinator("b");
    let newer = scene.town.begin("b", async move { coordinator.write_rows(op).await });
    scene.town.wait(&newer).unwrap();
    scene.town.kill("a");
    scene.town.script.clear();
    scene.town.run(60 * SECOND);
    assert_eq!(scene.shown("c"), ["old", "newer"]);
    // Its record is gone: nobody begins again.
    let before = scene.resumed();
    assert!(before > 0);
    scene.town.run(60 * SECOND);
    assert_eq!(scene.resumed(), before);
}

#[test]
fn a_batch_that_cannot_be_written_is_not_put_on_record() {
    let mut scene = scene(730);
    scene.town.kill("b");
    scene.town.kill("c");
    scene.town.until(60, "a knows", |town| !town.life("a").node.cluster().is_live(id("b")));
    scene.town.until(60, "a knows", |town| !town.life("a").node.cluster().is_live(id("c")));
    let slot = scene.begin("a", "x", 5, Consistency::Quorum);
    let told = scene.town.wait(&slot).unwrap_err();
    assert!(matches!(told, BatchError::NotKept(OpError::Unavailable { .. })), "{told:?}");
    scene.town.start("b");
    scene.town.start("c");
    scene.town.run(60 * SECOND);
    assert_eq!(scene.shown("b"), ["", ""]);
    let log = "x".repeat(1 << 20);
    let big = Record::of_row({
        let mut row = Row::default();
        let content = Content::Value { bytes: log.into(), expiry: None };
        row.write(COLUMN, Cell { stamp: 1, content });
        row
    });
    let parts = vec![(scene.rows.clone(), vec![(key("p"), big)])];
    let slot = scene.begin_parts("a", parts, Consistency::Quorum, SECOND);
    let told = scene.town.wait(&slot).unwrap_err();
    assert!(told.to_string().contains("Batch too large"), "{told}");
    // Nor what no replica could ever take: it would be tried for ever.
    let long = Key::of_row(b"p", &[b'c'; 12_000]).unwrap();
    let parts = ["q", "r"].map(|p| (scene.rows.clone(), vec![(key(p), record("x", 1))]));
    let mut parts = parts.to_vec();
    parts[1].1.push((long, record("x", 1)));
    let slot = scene.begin_parts("a", parts, Consistency::Quorum, SECOND);
    let told = scene.town.wait(&slot).unwrap_err();
    assert!(matches!(told, BatchError::NotKept(OpError::Invalid(_))), "{told:?}");
    assert_eq!(ABC.map(|name| scene.on_record(name)), [0; 3]);
}

/// The coordinator's queues have room for fewer, and so had those of whoever went on with it: it
/// stood on record for ever.
#[test]
fn a_batch_of_many_partitions_is_written() {
    let mut scene = scene(740);
    let part = |n: u32| {
        let key = Key::of_row(&n.to_be_bytes(), b"").unwrap();
        (scene.rows.clone(), vec![(key, record("x", 1))])
    };
    let parts: Vec<_> = (0..20_000).map(part).collect();
    let slot = scene.begin_parts("a", parts, Consistency::Quorum, 30 * SECOND);
    assert_eq!(scene.town.wait(&slot), Ok(()));
    scene.town.run(5 * SECOND);
    assert_eq!(ABC.map(|name| scene.on_record(name)), [0; 3]);
}

/// As above, of whoever goes on with it.
#[test]
fn a_batch_of_many_partitions_that_was_left_is_written_by_others() {
    let mut scene = scene(750);
    let rows = scene.rows.id;
    scene.town.script.add(Fate::LoseRequest, u32::MAX, move |from, _, request| {
        from == id("a") && is_row(request, rows)
    });
    let part = |n: u32| {
        let key = Key::of_row(&n.to_be_bytes(), b"").unwrap();
        (scene.rows.clone(), vec![(key, record("x", 1))])
    };
    let mut parts: Vec<_> = (0..20_000).map(part).collect();
    parts.push((scene.rows.clone(), vec![(key("q"), record("x", 1))]));
    let slot = scene.begin_parts("a", parts, Consistency::Quorum, SECOND);
    let told = scene.town.wait(&slot).unwrap_err();
    assert!(matches!(told, BatchError::Late { done: 0, parts: 20_001, .. }), "{told:?}");
    scene.town.kill("a");
    scene.town.script.clear();
    scene.town.run(60 * SECOND);
    assert_eq!(["b", "c"].map(|name| scene.on_record(name)), [0; 2]);
    assert_eq!(scene.shown("b"), ["", "x"]);
}

/// What becomes of a batch if one of its tables is dropped before it is written: the rest of it.
#[test]
fn a_batch_goes_on_without_the_rows_of_a_table_that_was_dropped() {
    let mut scene = scene(760);
    let name: TableName = "ks.other".parse().unwrap();
    let schema = scene.rows.rows.clone().unwrap();
    scene.append(Command::CreateRows { name: name.clone(), schema });
    let other = scene.town.life("a").node.cluster().state().table_named(&name).unwrap().clone();
    let (rows, dropped) = (scene.rows.id, other.id);
    scene.town.script.add(Fate::LoseRequest, u32::MAX, move |from, _, request| {
        from == id("a") && (is_row(request, rows) || is_row(request, dropped))
    });
    let parts = vec![
        (scene.rows.clone(), vec![(key("p"), record("kept", 5))]),
        (other, vec![(key("q"), record("gone", 5))]),
    ];
    let slot = scene.begin_parts("a", parts, Consistency::Quorum, 2 * SECOND);
    assert!(matches!(scene.town.wait(&slot), Err(BatchError::Late { .. })));
    scene.append(Command::DropTable { id: dropped });
    scene.town.script.clear();
    scene.town.run(60 * SECOND);
    assert_eq!(scene.shown("c"), ["kept", ""]);
    assert_eq!(ABC.map(|name| scene.on_record(name)), [0; 3]);
}
