//! The main job on real data: flights are imported at W=2 into three processes while one of them
//! is killed and started again, and every row is then read at R=2 and compared with the file.
//!
//! Five thousand rows by default; `FLIGHTS_FILE=…/flights.csv.gz cargo test --test flights_demo`
//! takes another file. By hand: `henge demo flights --file FILE`.
#![allow(clippy::disallowed_methods, reason = "drives real processes")]

mod support;

use support::henge_in;

#[tokio::test(flavor = "multi_thread")]
async fn flights_survive_the_death_of_a_node_in_the_middle_of_their_import() {
    let own = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/flights-5000.csv");
    let file = std::env::var("FLIGHTS_FILE").unwrap_or_else(|_| own.to_owned());
    let directory = tempfile::tempdir().unwrap();
    let args = ["demo", "flights", "--file", &file, "--data", "demo", "--json"];
    let done = henge_in(directory.path(), "", &args, b"").await;
    // Said before the checks, so that a failure shows how far it came.
    println!("{}", done.stderr);
    let shown = done.ok().json();
    println!("{shown:#}");
    let (imported, verified) = (&shown["imported"], &shown["verified"]);
    assert_eq!(shown["killed"], true);
    assert_eq!(imported["refused"], 0);
    assert_eq!(imported["siblings"], 0, "no row was written twice");
    assert_eq!(imported["rows"], verified["rows"]);
    assert_eq!(verified["rows"], verified["same"]);
    assert!(verified["rows"].as_u64().unwrap() >= 5_000);
}
