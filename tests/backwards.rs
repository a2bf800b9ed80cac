//! Slices against their clustering order, by CQL on three nodes each of which has missed writes of
//! its own: whatever was written and deleted, they show what the same slices show forwards.
#![cfg(feature = "sim")]

use bytes::Bytes;
use henge::server::cql::direct::{PageOfRows, Reply, Terms};
use henge::sim::rng::Rng;
use henge::sim::stage::Stage;
use henge::types::Consistency::Quorum;

type Rows = Vec<Vec<Option<Bytes>>>;

fn ok(stage: &mut Stage, node: u32, text: &str) -> PageOfRows {
    stage.rows(node, Quorum, text).unwrap_or_else(|why| panic!("{why}"))
}

/// A write of any kind; what it does is only known to those who read.
fn write(rng: &mut Rng, number: u64) -> String {
    let p = rng.below(2);
    let c = i64::try_from(rng.below(40)).unwrap() - 20;
    let d = rng.below(3);
    let row = format!("p = {p} AND c = {c} AND d = {d}");
    match rng.below(20) {
        0..=11 => format!("INSERT INTO k.r (p, c, d, v) VALUES ({p}, {c}, {d}, {number})"),
        12 => format!("UPDATE k.r SET s = {number} WHERE p = {p}"),
        13 => format!("UPDATE k.r SET v = {number} WHERE {row}"),
        14 | 15 => format!("DELETE FROM k.r WHERE {row}"),
        16 => format!("DELETE v FROM k.r WHERE {row}"),
        17 => format!("DELETE FROM k.r WHERE p = {p} AND c = {c}"),
        18 => {
            let end = c + i64::try_from(rng.below(8)).unwrap();
            format!("DELETE FROM k.r WHERE p = {p} AND c >= {c} AND c < {end}")
        }
        _ if rng.below(4) == 0 => format!("DELETE FROM k.r WHERE p = {p}"),
        _ => format!("INSERT INTO k.r (p, s) VALUES ({p}, {number})"),
    }
}

/// Three nodes of which each has missed a third of the writes, and is not told of them.
fn behind(seed: u64) -> Stage {
    let mut stage = Stage::new(seed, false).expect("a cluster");
    let strategy = "{'class': 'SimpleStrategy', 'replication_factor': 3}";
    ok(&mut stage, 0, &format!("CREATE KEYSPACE k WITH replication = {strategy}"));
    ok(
        &mut stage,
        0,
        "CREATE TABLE k.r (p int, c bigint, d int, s int static, v int, PRIMARY KEY (p, c, d))",
    );
    let mut rng = Rng::new(seed);
    let mut number = 0;
    for away in 0..3 {
        stage.isolate(away);
        for _ in 0..60 {
            number += 1;
            ok(&mut stage, (away + 1) % 3, &write(&mut rng, number));
        }
        for other in (0..3).filter(|other| *other != away) {
            stage.break_connections(away, other);
        }
        stage.heal();
        stage.wait_until_all_serve().expect("they serve again");
    }
    stage
}

/// What a statement shows, page by page.
fn paged(stage: &mut Stage, node: u32, text: &str, page_size: Option<u32>) -> Rows {
    let (mut rows, mut state) = (Vec::new(), None);
    loop {
        let terms = Terms { page_size, paging_state: state, ..Terms::at(Quorum) };
        let Reply::Rows(page) = stage.page(node, text, terms) else { panic!("{text}") };
        assert!(page_size.is_none_or(|size| page.rows.len() <= size as usize), "{text}");
        rows.extend(page.rows);
        state = page.paging_state;
        if state.is_none() {
            return rows;
        }
    }
}

const SLICES: &[&str] = &[
    "",
    "AND c > -7",
    "AND c >= 3",
    "AND c < 0",
    "AND c <= 5",
    "AND c > -9 AND c < 9",
    "AND c >= -9 AND c <= 9",
    "AND c = 2",
    "AND c = 2 AND d > 0",
    "AND c IN (-12, 4, 5, 19)",
    "AND (c, d) > (-3, 1) AND (c, d) <= (11, 0)",
    "AND c > 100",
];

#[test]
fn a_slice_from_its_end_is_the_slice_turned_round() {
    let mut shown = 0;
    for seed in 0..24 {
        let mut stage = behind(seed);
        // What is read is repaired, so each cluster is first read in another way.
        let sizes = [Some(1), Some(2), Some(3), Some(7), Some(500), None];
        for (at, slice) in
            SLICES.iter().cycle().skip(2 * seed as usize).take(SLICES.len()).enumerate()
        {
            for p in 0..3 {
                let size = sizes[(at + seed as usize) % sizes.len()];
                let node = u32::try_from((at + p) % 3).unwrap();
                let text = format!("SELECT c, d, s, v FROM k.r WHERE p = {p} {slice}");
                let down = paged(&mut stage, node, &format!("{text} ORDER BY c DESC"), size);
                let mut up = paged(&mut stage, node, &text, None);
                up.reverse();
                assert_eq!(down, up, "seed {seed}, {text}, by {size:?}");
                shown += down.len();
                for limit in [1, 2, 5] {
                    let least = format!("{text} ORDER BY c DESC, d DESC LIMIT {limit}");
                    let least = paged(&mut stage, node, &least, size);
                    assert_eq!(least, up[..limit.min(up.len())], "seed {seed}, {text}, {limit}");
                }
            }
        }
    }
    assert!(shown > 1_000, "{shown} rows are too few to tell");
}

#[test]
fn limits_statics_and_groups_from_the_end() {
    let mut stage = behind(77);
    let rows = |stage: &mut Stage, text: &str, page_size: Option<u32>| {
        let texts = [text.to_owned(), text.replace("DESC", "ASC")];
        texts.map(|text| paged(stage, 1, &text, page_size))
    };
    let [down, mut up] =
        rows(&mut stage, "SELECT c, s FROM k.r WHERE p = 1 ORDER BY c DESC", Some(2));
    up.reverse();
    assert!(down == up && down.len() > 10, "{}", down.len());
    let limited = "SELECT c, s FROM k.r WHERE p = 1 ORDER BY c DESC PER PARTITION LIMIT 3";
    assert_eq!(paged(&mut stage, 2, limited, Some(2)), down[..3]);
    let grouped = "SELECT c, count(*) FROM k.r WHERE p = 1 GROUP BY p, c ORDER BY c DESC";
    let [down, mut up] = rows(&mut stage, grouped, None);
    up.reverse();
    assert!(down == up && down.len() > 5);
    // Of both partitions together they are sorted.
    let text = "SELECT c, d, p FROM k.r WHERE p IN (0, 1) ORDER BY c DESC LIMIT 4";
    let sorted = paged(&mut stage, 0, text, None);
    assert!(sorted.len() == 4 && sorted[0][0] >= sorted[3][0]);
    // Without rows there is the static column alone, once.
    ok(&mut stage, 0, "DELETE FROM k.r WHERE p = 1");
    ok(&mut stage, 0, "UPDATE k.r SET s = 5 WHERE p = 1");
    let alone = paged(&mut stage, 1, "SELECT c, s FROM k.r WHERE p = 1 ORDER BY c DESC", Some(1));
    assert_eq!(alone, [vec![None, Some(Bytes::from_static(&[0, 0, 0, 5]))]]);
}
