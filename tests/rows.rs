//! Rows over CQL, below the socket, in scenarios of other databases' failures.
#![cfg(feature = "sim")]

use std::time::Duration;

use henge::server::cql::direct::{PageOfRows, Reply};
use henge::sim::generate::{Size, generate};
use henge::sim::run::run;
use henge::sim::stage::Stage;
use henge::types::Consistency::{self, Quorum, Serial};
use henge::types::Epoch;

const SETTLE: Duration = Duration::from_secs(5);

fn stage(seed: u64, repairs: bool) -> Stage {
    let mut stage = Stage::new(seed, repairs).expect("a cluster");
    let strategy = "{'class': 'SimpleStrategy', 'replication_factor': 3}";
    let keyspace = format!("CREATE KEYSPACE k WITH replication = {strategy}");
    ok(&mut stage, 0, &keyspace);
    ok(
        &mut stage,
        0,
        "CREATE TABLE k.t (p int, c int, s int static, a int, x text, m map<int, int>, \
         PRIMARY KEY (p, c))",
    );
    stage
}

fn ok(stage: &mut Stage, node: u32, text: &str) {
    if let Reply::Failed { message, .. } = stage.cql(node, Quorum, text) {
        panic!("{text}: {message}");
    }
}

fn epoch(stage: &Stage, node: u32) -> Epoch {
    let life = stage.cluster().life(node).expect("it runs");
    life.node.cluster().state().epoch()
}

fn numbers(page: &PageOfRows, column: &str) -> Vec<Option<i32>> {
    let number = |row: &Vec<_>| {
        let value = page.value(row, column)?;
        Some(i32::from_be_bytes(value[..].try_into().expect("an int")))
    };
    page.rows.iter().map(number).collect()
}

/// Cassandra's and Scylla's digests left out fields, so that a quorum read took rows for equal that
/// were not (Scylla 7116). Two replicas differ in one field each time, and nothing but the read can
/// tell them.
#[test]
fn r05_a_quorum_read_notices_a_difference_in_any_one_field() {
    let mut stage = stage(5, false);
    let here = |p: usize| format!("WHERE p = {p} AND c = 1");
    type Statement = fn(&str, usize) -> String;
    let update: Statement = |here, _| format!("UPDATE k.t USING TIMESTAMP 10 SET a = 1 {here}");
    let cases: [(&str, Statement, Statement); 12] = [
        ("a cell's stamp", update, |here, _| {
            format!("UPDATE k.t USING TIMESTAMP 11 SET a = 1 {here}")
        }),
        ("a cell's deletion", update, |here, _| {
            format!("DELETE a FROM k.t USING TIMESTAMP 10 {here}")
        }),
        ("that a cell ends", update, |here, _| {
            format!("UPDATE k.t USING TIMESTAMP 10 AND TTL 1000 SET a = 1 {here}")
        }),
        (
            "when a cell ends",
            |here, _| format!("UPDATE k.t USING TIMESTAMP 10 AND TTL 1000 SET a = 1 {here}"),
            |here, _| format!("UPDATE k.t USING TIMESTAMP 10 AND TTL 2000 SET a = 1 {here}"),
        ),
        ("an empty value", update, |here, _| {
            format!("UPDATE k.t USING TIMESTAMP 10 SET x = '' {here}")
        }),
        ("that a row was inserted", update, |_, p| {
            format!("INSERT INTO k.t (p, c) VALUES ({p}, 1) USING TIMESTAMP 10")
        }),
        (
            "a row's deletion",
            |here, _| format!("DELETE FROM k.t USING TIMESTAMP 5 {here}"),
            |here, _| format!("DELETE FROM k.t USING TIMESTAMP 6 {here}"),
        ),
        (
            "a partition's deletion",
            |_, p| format!("DELETE FROM k.t USING TIMESTAMP 5 WHERE p = {p}"),
            |_, p| format!("DELETE FROM k.t USING TIMESTAMP 6 WHERE p = {p}"),
        ),
        (
            "a range's deletion",
            |_, p| format!("DELETE FROM k.t USING TIMESTAMP 5 WHERE p = {p} AND c > 3"),
            |_, p| format!("DELETE FROM k.t USING TIMESTAMP 6 WHERE p = {p} AND c > 3"),
        ),
        (
            "a collection's deletion",
            |here, _| format!("DELETE m FROM k.t USING TIMESTAMP 5 {here}"),
            |here, _| format!("DELETE m FROM k.t USING TIMESTAMP 6 {here}"),
        ),
        (
            "an element's deletion",
            |here, _| format!("UPDATE k.t USING TIMESTAMP 5 SET m[1] = 1 {here}"),
            |here, _| format!("DELETE m[1] FROM k.t USING TIMESTAMP 5 {here}"),
        ),
        (
            "a static cell",
            |_, p| format!("UPDATE k.t USING TIMESTAMP 5 SET s = 1 WHERE p = {p}"),
            |_, p| format!("DELETE s FROM k.t USING TIMESTAMP 5 WHERE p = {p}"),
        ),
    ];
    for (p, (_, before, _)) in cases.iter().enumerate() {
        ok(&mut stage, 0, &before(&here(p), p));
    }
    stage.run_for(SETTLE).expect("time passes");
    assert_eq!(stage.records(2), stage.records(0));
    stage.isolate(2);
    for (p, (_, _, after)) in cases.iter().enumerate() {
        ok(&mut stage, 0, &after(&here(p), p));
    }
    stage.run_for(SETTLE).expect("time passes");
    stage.heal();
    stage.run_for(SETTLE).expect("time passes");
    for (p, (field, ..)) in cases.iter().enumerate() {
        let apart = |stage: &Stage| {
            let (ours, theirs) = (stage.records(0), stage.records(2));
            ours.iter().filter(|(row, record)| theirs.get(*row) != Some(record)).count()
        };
        let left = cases.len() - p;
        assert_eq!(apart(&stage), left, "before the read that tells of {field}");
        let read = format!("SELECT * FROM k.t WHERE p = {p}");
        stage.rows(2, Quorum, &read).expect("a quorum");
        assert_eq!(apart(&stage), left - 1, "a read has passed over {field}");
    }
}

/// Jepsen lost 599 of 1,841 writes that Riak had acknowledged under a perfect lock, because clocks
/// were apart. Whoever reads before writing, through any node, is not overtaken by an older write;
/// and conditions need no reading.
#[test]
fn r18_writers_in_lock_step_lose_nothing_though_clocks_are_apart() {
    let mut stage = stage(18, true);
    for (node, micros) in [(1, -3_000_000), (2, 4_000_000)] {
        let machine = stage.cluster().nodes()[node].machine;
        stage.cluster().world().jump_wall(machine, micros);
    }
    let read = "SELECT a FROM k.t WHERE p = 0 AND c = 0";
    ok(&mut stage, 0, "INSERT INTO k.t (p, c, a) VALUES (0, 0, 0)");
    for turn in 1..60 {
        // Node 1 is away now and then, and comes back with a clock that has heard of nothing.
        match turn % 12 {
            6 => stage.isolate(1),
            0 => stage.heal(),
            _ => {}
        }
        let isolated = (6..12).contains(&(turn % 12));
        let node = if isolated { [0, 2][turn as usize % 2] } else { (turn % 3) as u32 };
        let before = stage.rows(node, Quorum, read).expect("a quorum");
        assert_eq!(numbers(&before, "a"), [Some(turn - 1)], "turn {turn}");
        let update = format!("UPDATE k.t SET a = {turn} WHERE p = 0 AND c = 0");
        ok(&mut stage, node, &update);
    }
    stage.heal();
    stage.run_for(SETTLE).expect("time passes");
    for turn in 60..90 {
        let text = format!("UPDATE k.t SET a = {turn} WHERE p = 0 AND c = 0 IF a = {}", turn - 1);
        let page = stage.rows((turn % 3) as u32, Quorum, &text).expect("a verdict");
        let applied = page.value(&page.rows[0], "[applied]").map(|value| value[..] == [1]);
        assert_eq!(applied, Some(true), "turn {turn}");
    }
    let last = stage.rows(1, Serial, read).expect("a quorum");
    assert_eq!(numbers(&last, "a"), [Some(89)]);
}

/// Cassandra's isolation test: of batches with equal stamps a reader sees cells of both. Here too,
/// as documented, and nothing that no rule of cells gives: five clients, stamps that collide.
#[test]
fn r19_rows_under_colliding_stamps_are_mixed_only_cell_by_cell() {
    for seed in 190..194 {
        let mut plan = generate(seed, Size { operations: 1, faults: 8 });
        (plan.rowers, plan.sloppy, plan.hints_only) = (5, false, false);
        let report = run(plan);
        assert!(report.passed(), "seed {seed}: {:#?}", report.violations);
        assert!(report.operations > 150, "seed {seed}: {} operations", report.operations);
    }
}

/// Has node 0 decide a batch under conditions on two rows, and store it alone: the others have voted
/// on it (node 2 only if it is to), hear nothing of the decision, and never will.
fn half_committed(stage: &mut Stage, third_votes: bool) {
    ok(stage, 0, "INSERT INTO k.t (p, c, a) VALUES (0, 0, 1)");
    ok(stage, 0, "INSERT INTO k.t (p, c, a) VALUES (0, 1, 1)");
    stage.run_for(SETTLE).expect("time passes");
    let batch = "BEGIN BATCH UPDATE k.t SET a = 2 WHERE p = 0 AND c = 0 IF a = 1; \
                 UPDATE k.t SET a = 2 WHERE p = 0 AND c = 1 IF a = 1; APPLY BATCH";
    let before = stage.records(0);
    if !third_votes {
        stage.cut(0, 2);
    }
    stage.begin(0, Quorum, batch);
    // More than a promise.
    let has_voted = |stage: &Stage, node| stage.votes(node) > 100;
    let voted = |stage: &Stage| has_voted(stage, 1) && (!third_votes || has_voted(stage, 2));
    assert!(stage.step_until(voted).expect("time passes"), "nobody voted");
    assert_eq!(has_voted(stage, 2), third_votes);
    stage.cut(0, 1);
    stage.cut(0, 2);
    let stored = |stage: &Stage| stage.records(0) != before;
    assert!(stage.step_until(stored).expect("time passes"), "nothing was decided");
    stage.break_connections(0, 1);
    stage.break_connections(0, 2);
    assert_eq!((stage.records(1), stage.records(2)), (before.clone(), before));
}

/// The coordinator gives up; nodes 0 and 2 hear each other again. Never are all three in touch: a
/// sweep of old votes would settle them.
fn give_up_without_node_1(stage: &mut Stage) {
    let before = stage.records(2);
    stage.isolate(1);
    stage.run_for(SETTLE).expect("time passes");
    stage.heal();
    stage.isolate(1);
    stage.run_for(SETTLE).expect("time passes");
    assert_eq!(stage.records(2), before, "the decision has come through");
}

/// A round about the first of the two rows, and nothing else, while node 1 is away. What it shows.
fn look_without_node_1(stage: &mut Stage) -> Vec<Option<i32>> {
    let look = "UPDATE k.t SET a = 9 WHERE p = 0 AND c = 0 IF a = 7";
    numbers(&stage.rows(2, Quorum, look).expect("a verdict"), "a")
}

/// Both rows, when node 0, who was the first to store them, is gone and node 1 is back.
fn read_without_node_0(stage: &mut Stage, level: Consistency) -> Vec<Option<i32>> {
    stage.heal();
    stage.isolate(0);
    let sees_node_1 = |stage: &Stage| {
        let life = stage.cluster().life(2).expect("it runs");
        life.node.cluster().is_live(stage.cluster().id(1))
    };
    assert!(stage.step_until(sees_node_1).expect("time passes"), "it is not seen");
    let rows = stage.rows(2, level, "SELECT a FROM k.t WHERE p = 0").expect("a quorum");
    numbers(&rows, "a")
}

/// A batch under conditions is decided, one voter alone has stored it, its coordinator dies. It
/// starts in a new epoch, with open votes.
#[test]
fn a_batch_whose_coordinator_died_is_seen_whole_or_not_at_all() {
    let mut stage = stage(7, false);
    half_committed(&mut stage, true);
    stage.cluster().kill(0, true);
    stage.heal();
    stage.cluster().start(0);
    stage.wait_until_all_serve().expect("it starts");
    stage.isolate(1);
    assert_eq!(look_without_node_1(&mut stage), [Some(2)]);
    assert_eq!(read_without_node_0(&mut stage, Serial), [Some(2), Some(2)], "the batch is torn");
}

/// As above, and nobody dies: no epoch comes to settle what is open. A round about one of the rows,
/// of the node that has stored the batch and one that has not, must not let the other row fall
/// behind. Where that one has not voted for it either, nothing but the vote that the first has kept
/// tells of the other row.
#[test]
fn a_round_about_one_row_carries_along_the_batch_that_one_voter_has_stored() {
    for (seed, third_votes) in [(7, true), (7, false), (8, true), (8, false)] {
        let mut stage = stage(seed, false);
        half_committed(&mut stage, third_votes);
        let at = epoch(&stage, 2);
        give_up_without_node_1(&mut stage);
        let case = format!("seed {seed}, node 2 has voted: {third_votes}");
        assert_eq!(look_without_node_1(&mut stage), [Some(2)], "{case}");
        assert_eq!(read_without_node_0(&mut stage, Serial), [Some(2), Some(2)], "{case}: torn");
        assert_eq!(epoch(&stage, 2), at, "an epoch has settled it");
    }
}

/// As above, and a plain read has brought the head and the first row from the one node to the other.
/// To a serial read both show the same then, and nothing undecided, though only one of them has the
/// second row. It must settle the batch all the same: a quorum read that follows rests on it.
#[test]
fn a_serial_read_settles_a_batch_of_which_replicas_were_repaired_in_part() {
    for (seed, third_votes) in [(7, true), (7, false), (8, true), (8, false)] {
        let mut stage = stage(seed, false);
        half_committed(&mut stage, third_votes);
        give_up_without_node_1(&mut stage);
        let first = "SELECT s, a FROM k.t WHERE p = 0 AND c = 0";
        let case = format!("seed {seed}, node 2 has voted: {third_votes}");
        let shown = stage.rows(2, Quorum, first).expect("a quorum");
        assert_eq!(numbers(&shown, "a"), [Some(2)], "{case}");
        let (whole, part) = (stage.records(0), stage.records(2));
        let missing = whole.iter().filter(|(row, record)| part.get(*row) != Some(record)).count();
        assert_eq!(missing, 1, "{case}: the second row alone");
        let shown = stage.rows(2, Serial, first).expect("a quorum");
        assert_eq!(numbers(&shown, "a"), [Some(2)], "{case}");
        assert_eq!(read_without_node_0(&mut stage, Quorum), [Some(2), Some(2)], "{case}: torn");
    }
}

/// Cassandra picked leaders of counter writes that were still starting, or were down (13043, 17411).
/// Nodes come and go; whoever is asked counts by another one, and nothing is counted twice.
#[test]
fn r28_counters_pass_by_leaders_that_are_away_and_count_each_increment_once() {
    let mut stage = stage(28, true);
    ok(&mut stage, 0, "CREATE TABLE k.n (k int PRIMARY KEY, a counter)");
    let (mut counted, mut unknown) = (0, 0);
    for turn in 0..60 {
        match turn % 10 {
            // Node 1 is down, and then starts, and is asked at once.
            2 => {
                stage.cluster().kill(1, true);
            }
            5 => stage.cluster().start(1),
            7 => stage.isolate(2),
            9 => stage.heal(),
            _ => {}
        }
        let node = turn % 3;
        match stage.cql(node, Quorum, "UPDATE k.n SET a = a + 1 WHERE k = 1") {
            Reply::Failed { not_applied: true, .. } => {}
            Reply::Failed { .. } => unknown += 1,
            _ => counted += 1,
        }
    }
    stage.heal();
    stage.run_for(SETTLE).expect("time passes");
    let page = stage.rows(1, Quorum, "SELECT a FROM k.n WHERE k = 1").expect("a quorum");
    let shown = page.value(&page.rows[0], "a").expect("a count");
    let shown = i64::from_be_bytes(shown[..].try_into().expect("a counter"));
    assert!(counted >= 40, "{counted} of 60");
    assert!((counted..=counted + unknown).contains(&shown), "{counted} + {unknown}: {shown}");
}

/// What tables had before DROP and TRUNCATE leaves the disks, also if nodes die over it.
#[test]
fn data_of_dropped_and_truncated_tables_is_deleted_and_nothing_else() {
    let mut stage = stage(9, true);
    ok(&mut stage, 0, "CREATE TABLE k.gone (p int, c int, a int, PRIMARY KEY (p, c))");
    let insert = |stage: &mut Stage, table: &str, rows: std::ops::Range<i32>| {
        for c in rows {
            let text = format!("INSERT INTO k.{table} (p, c, a) VALUES ({}, {c}, 1)", c % 7);
            ok(stage, 0, &text);
        }
    };
    insert(&mut stage, "gone", 0..700);
    ok(&mut stage, 0, "INSERT INTO k.gone (p, c, a) VALUES (0, 900, 1) IF NOT EXISTS");
    insert(&mut stage, "t", 0..30);
    ok(&mut stage, 0, "TRUNCATE k.t");
    ok(&mut stage, 0, "DROP TABLE k.gone");
    insert(&mut stage, "t", 100..110);
    let more = |stage: &Stage| (0..3).any(|node| stage.records(node).len() > 10);
    assert!(more(&stage));
    for node in [0, 2] {
        stage.run_for(Duration::from_secs(4)).expect("time passes");
        stage.cluster().kill(node, true);
        stage.run_for(Duration::from_secs(4)).expect("time passes");
        stage.cluster().start(node);
    }
    stage.run_for(Duration::from_secs(40)).expect("time passes");
    for node in 0..3 {
        assert_eq!(stage.records(node).len(), 10, "node {node}");
        assert_eq!(stage.votes(node), 0, "node {node}");
    }
    let page = stage.rows(1, Quorum, "SELECT a FROM k.t").expect("a quorum");
    assert_eq!(page.rows.len(), 10);
}

/// A coordinator that lags behind has stored rows on its own disk when the others tell it that the
/// table was dropped. It must not say that nothing was written: the client would write elsewhere.
#[test]
fn rows_that_some_plan_has_sent_are_never_said_to_be_unwritten() {
    let mut stage = stage(11, true);
    let before = epoch(&stage, 0);
    stage.isolate(0);
    stage.begin(1, Quorum, "DROP TABLE k.t");
    let others_know = |stage: &Stage| epoch(stage, 1) > before && epoch(stage, 2) > before;
    assert!(stage.step_until(others_know).expect("time passes"), "it was not dropped");
    stage.heal();
    assert_eq!(epoch(&stage, 0), before);
    let update = "UPDATE k.t SET a = 1 WHERE p = 0 AND c = 0";
    let reply = stage.cql(0, Quorum, update);
    assert!(matches!(reply, Reply::Failed { not_applied: false, .. }), "{reply:?}");
}

/// A batch deleted a partition and wrote a row of it. A slice was read meanwhile, its head before
/// the batch and the row after it: the row showed what the batch had written and what it had
/// deleted. What is written together with its deletion carries it now.
#[test]
fn seed_3074_a_row_never_shows_without_the_deletion_that_came_with_it() {
    let report = run(generate(3074, Size { operations: 2_000, faults: 44 }));
    assert!(report.passed(), "{:#?}", report.violations);
}

fn list(page: &PageOfRows, column: &str) -> Vec<i32> {
    let value = page.rows.first().and_then(|row| page.value(row, column)).expect("a list");
    let elements = value[4..].chunks(8).map(|element| element[4..].try_into().expect("an int"));
    elements.map(i32::from_be_bytes).collect()
}

/// An append under a condition waits behind a cut link, and another one, which came later, is
/// decided first. The list has to grow in the order of the decisions: who has read it between them
/// must find the second behind (found by `henge-jepsen run --workload cql-append`).
#[test]
fn a_list_grows_in_the_order_in_which_appends_are_decided() {
    let mut stage = stage(21, true);
    ok(&mut stage, 0, "CREATE TABLE k.l (p int PRIMARY KEY, v list<int>)");
    ok(&mut stage, 0, "INSERT INTO k.l (p, v) VALUES (0, [0])");
    let append = |n: u32| format!("UPDATE k.l SET v = v + [{n}] WHERE p = 0 IF v != null");
    stage.isolate(0);
    stage.begin(0, Quorum, &append(1));
    stage.run_for(Duration::from_millis(100)).expect("time passes");
    ok(&mut stage, 1, &append(2));
    let read = "SELECT v FROM k.l WHERE p = 0";
    assert_eq!(list(&stage.rows(1, Serial, read).expect("a quorum"), "v"), [0, 2]);
    stage.heal();
    stage.run_for(SETTLE).expect("time passes");
    assert_eq!(list(&stage.rows(2, Serial, read).expect("a quorum"), "v"), [0, 2, 1]);
}
