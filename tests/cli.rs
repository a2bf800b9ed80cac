//! The command line as a user meets it: output, exit codes, files; against a fake node.
#![allow(clippy::disallowed_methods, reason = "drives real processes")]

mod support;

use support::fake::{Fake, Fault};
use support::{henge, henge_in};
use tempfile::tempdir;

#[tokio::test(flavor = "multi_thread")]
async fn what_was_put_comes_back_byte_for_byte() {
    let (fake, node) = Fake::start().await;
    let value: Vec<u8> = (0..=255).collect();
    let directory = tempdir().unwrap();
    henge(&node, &["buckets", "create", "b"]).await.ok();
    let put = henge_in(directory.path(), &node, &["put", "b", "a/k ü"], &value).await.ok();
    assert_eq!(put.text(), "created\n");
    assert_eq!(fake.values("b", "a/k ü".as_bytes()), [&value[..]]);
    assert_eq!(henge(&node, &["get", "b", "a/k ü"]).await.ok().stdout, value);

    std::fs::write(directory.path().join("v"), b"from a file").unwrap();
    let args = ["put", "b", "f", "--file", "v"];
    henge_in(directory.path(), &node, &args, b"").await.ok();
    assert_eq!(henge(&node, &["get", "b", "f"]).await.ok().text(), "from a file");
    henge(&node, &["put", "b", "empty", ""]).await.ok();
    assert_eq!(henge(&node, &["get", "b", "empty"]).await.ok().stdout, b"");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_way_to_end_has_its_exit_code() {
    let (fake, node) = Fake::start().await;
    let missing = henge(&node, &["get", "nope", "k"]).await.code(3);
    assert!(missing.stderr.contains("henge buckets create"), "{}", missing.stderr);
    henge(&node, &["buckets", "create", "b"]).await.ok();
    henge(&node, &["get", "b", "k"]).await.code(3);
    assert!(
        !henge(&node, &["get", "b", "k", "--json"]).await.code(3).json()["found"]
            .as_bool()
            .unwrap()
    );

    fake.faults([Fault::Unavailable]);
    henge(&node, &["put", "b", "k", "v"]).await.code(4);
    fake.faults([Fault::AppliedButTimedOut]);
    let unknown = henge(&node, &["put", "b", "k", "v"]).await.code(5);
    assert!(unknown.stderr.contains("may or may not"), "{}", unknown.stderr);
    fake.faults([Fault::TooLarge]);
    henge(&node, &["put", "b", "k", "v"]).await.code(1);

    let nobody = henge("http://127.0.0.1:1", &["get", "b", "k"]).await.code(4);
    assert!(nobody.stderr.contains("henge dev"), "{}", nobody.stderr);
    henge("https://x", &["get", "b", "k"]).await.code(2);
    henge(&node, &["get", "b"]).await.code(2);
    henge(&node, &["put", "b", "k", "v", "--op-id", "x"]).await.code(2);
    henge(&node, &["get", "b", "k", "--level", "one", "-r", "1"]).await.code(2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_goes_on_through_another_node_and_is_one_write() {
    let (one, first) = Fake::start().await;
    let nodes = format!("http://127.0.0.1:1,{first}");
    henge(&nodes, &["buckets", "create", "b"]).await.ok();
    henge(&nodes, &["put", "b", "k", "v"]).await.ok();
    let id = "0190b6f0-0000-7000-8000-000000000001";
    henge(&nodes, &["put", "b", "k2", "v", "--op-id", id]).await.ok();
    let again = henge(&nodes, &["put", "b", "k2", "v", "--op-id", id]).await.ok();
    assert!(again.text().contains("done before"), "{}", again.text());
    assert_eq!(one.writes(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn siblings_are_all_shown_and_one_can_be_chosen() {
    let (fake, node) = Fake::start().await;
    fake.set("b", b"k", &[b"red", b"\xff\x00"]);
    let all = henge(&node, &["get", "b", "k"]).await.code(6);
    assert!(all.text().contains("sibling 1 of 2") && all.text().contains("\nred\n"));
    assert!(all.text().contains("(base64)\n/wA=\n"), "{}", all.text());
    assert_eq!(henge(&node, &["get", "b", "k", "--sibling", "2"]).await.ok().stdout, [0xff, 0]);
    henge(&node, &["get", "b", "k", "--sibling", "3"]).await.code(2);
    let json = henge(&node, &["get", "b", "k", "--json"]).await.code(6).json();
    assert_eq!(json["siblings"][0]["value"], "red");
    assert_eq!(json["context"], "ctx");

    let blind = henge(&node, &["put", "b", "k", "blue"]).await.ok();
    assert!(blind.stderr.contains("3 concurrent values"), "{}", blind.stderr);
    henge(&node, &["put", "b", "k", "all", "--context", "ctx"]).await.ok();
    assert_eq!(henge(&node, &["get", "b", "k"]).await.ok().text(), "all");
    henge(&node, &["del", "b", "k"]).await.ok();
    henge(&node, &["get", "b", "k"]).await.code(3);
}

#[tokio::test(flavor = "multi_thread")]
async fn listing_follows_pages_and_says_where_it_stopped() {
    let (fake, node) = Fake::start().await;
    for i in 0..2_500 {
        fake.set("b", format!("k{i:04}").as_bytes(), &[b"v"]);
    }
    fake.set("b", b"k9999", &[b"v", b"w"]);
    let all = henge(&node, &["ls", "b", "--all"]).await.ok();
    assert_eq!(all.text().lines().count(), 2_501);
    assert!(all.text().ends_with("k9999\t(2 values)\n"));
    let some = henge(&node, &["ls", "b", "--limit", "10"]).await.ok();
    assert_eq!(some.text().lines().count(), 10);
    assert!(some.stderr.contains("--start 10"), "{}", some.stderr);
    let rest = henge(&node, &["ls", "b", "--start", "2490", "--limit", "2"]).await.ok();
    assert_eq!(rest.text(), "k2490\nk2491\n");
    assert_eq!(
        henge(&node, &["ls", "b", "--prefix", "k001"]).await.ok().text().lines().count(),
        10
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_cluster_is_shown_in_tables_and_as_json() {
    let (_fake, node) = Fake::start().await;
    let status = henge(&node, &["status"]).await.ok();
    assert!(
        status.text().contains("epoch: 3") && status.text().contains("n1"),
        "{}",
        status.text()
    );
    let place = henge(&node, &["where", "b", "k"]).await.ok();
    assert!(place.text().contains("n1 (id-1)"), "{}", place.text());
    let ring = henge(&node, &["ring"]).await.ok();
    assert!(ring.text().contains("100.0 %"), "{}", ring.text());
    assert_eq!(henge(&node, &["ring", "--partitions"]).await.ok().text().lines().count(), 5);
    assert_eq!(henge(&node, &["status", "--json"]).await.ok().json()["cluster"], "fake");
    henge(&node, &["buckets", "create", "b"]).await.ok();
    let again = henge(&node, &["buckets", "create", "b"]).await.ok();
    assert!(again.text().contains("there already"), "{}", again.text());
    assert!(henge(&node, &["buckets", "list"]).await.ok().text().contains("\n b"));
    henge(&node, &["buckets", "drop", "b"]).await.code(2);
    henge(&node, &["buckets", "drop", "b", "--yes"]).await.ok();
}

/// 200 rows with columns `id` and `text`.
fn csv() -> String {
    let rows: String = (0..200).map(|i| format!("{i},\"row, {i}\"\n")).collect();
    format!("id,text\n{rows}")
}

#[tokio::test(flavor = "multi_thread")]
async fn an_import_writes_each_row_once_whatever_the_cluster_answers() {
    let (fake, node) = Fake::start().await;
    let directory = tempdir().unwrap();
    std::fs::write(directory.path().join("f.csv"), csv()).unwrap();
    fake.faults((0..150).map(|i| match i % 3 {
        0 => Fault::Unavailable,
        1 => Fault::AppliedButTimedOut,
        _ => Fault::None,
    }));
    let args = ["import", "f.csv", "--bucket", "b", "--key-template", "k{id}", "--json"];
    let done = henge_in(directory.path(), &node, &args, b"").await.ok().json();
    assert_eq!(
        (&done["rows"], &done["refused"], &done["siblings"]),
        (&200.into(), &0.into(), &0.into())
    );
    assert_eq!((fake.keys(), fake.all_values(), fake.writes()), (200, 200, 200));
    assert_eq!(fake.values("b", b"k7"), [&br#"{"id":"7","text":"row, 7"}"#[..]]);
    assert!(!directory.path().join("henge-refused-rows.ndjson").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn refused_rows_go_to_a_file_with_the_reason() {
    let (fake, node) = Fake::start().await;
    let directory = tempdir().unwrap();
    std::fs::write(directory.path().join("f.csv"), format!("{}short\n", csv())).unwrap();
    fake.faults([Fault::None, Fault::TooLarge]);
    let args = ["import", "f.csv", "-b", "b", "--key-columns", "id", "--concurrency", "1"];
    let done = henge_in(directory.path(), &node, &args, b"").await.code(7);
    assert!(done.stderr.contains("2 rows were refused"), "{}", done.stderr);
    let refused =
        std::fs::read_to_string(directory.path().join("henge-refused-rows.ndjson")).unwrap();
    let rows: Vec<serde_json::Value> =
        refused.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(rows[0]["row"], 2);
    assert_eq!(rows[0]["key"], "1");
    assert!(rows[0]["reason"].as_str().unwrap().contains("value-too-large"));
    assert!(rows[1]["reason"].as_str().unwrap().contains("1 fields"), "{}", rows[1]);
    assert_eq!(fake.keys(), 199);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_import_goes_on_and_writes_nothing_twice() {
    let (fake, node) = Fake::start().await;
    let directory = tempdir().unwrap();
    std::fs::write(directory.path().join("f.csv"), csv()).unwrap();
    fake.limit_writes(Some(77));
    let args = [
        "import",
        "f.csv",
        "-b",
        "b",
        "--key-columns",
        "id",
        "--patience",
        "0ms",
        "--concurrency",
        "8",
        "--resume-file",
        "resume",
        "--json",
    ];
    let stopped = henge_in(directory.path(), &node, &args, b"").await.code(4);
    assert!(stopped.stderr.contains("goes on from there"), "{}", stopped.stderr);
    fake.limit_writes(None);
    let done = henge_in(directory.path(), &node, &args, b"").await.ok().json();
    let skipped = done["skipped"].as_u64().unwrap();
    // The mark is where all before it is written; the slowest of the eight may be well behind.
    assert!((1..=77).contains(&skipped), "{done}");
    assert_eq!(done["rows"].as_u64().unwrap() + skipped, 200);
    assert_eq!((fake.keys(), fake.all_values(), fake.writes()), (200, 200, 200));
    assert!(!directory.path().join("resume").exists(), "nothing is left to go on with");
}

#[tokio::test(flavor = "multi_thread")]
async fn verify_names_what_is_missing_or_changed() {
    let (fake, node) = Fake::start().await;
    let directory = tempdir().unwrap();
    std::fs::write(directory.path().join("f.csv"), csv()).unwrap();
    let with = |command| [command, "f.csv", "-b", "b", "--key-columns", "id"];
    henge_in(directory.path(), &node, &with("import"), b"").await.ok();
    henge_in(directory.path(), &node, &with("verify"), b"").await.ok();
    fake.set("b", b"3", &[]);
    fake.set("b", b"5", &[b"{}"]);
    fake.set("b", b"9", &[b"{}", b"[]"]);
    let found = henge_in(directory.path(), &node, &with("verify"), b"").await.code(7);
    for expected in ["row 4: missing: 3", "row 6: changed: 5", "row 10: 2 values: 9"] {
        assert!(found.text().contains(expected), "{}", found.text());
    }
    assert!(found.text().contains("1 missing, 1 changed, 1 with siblings"), "{}", found.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_can_be_imported_elsewhere_siblings_and_all() {
    let ((from, first), (to, second)) = (Fake::start().await, Fake::start().await);
    from.set("b", b"\xff", &[b"\x00\x01"]);
    from.set("b", b"two", &[b"x", b"y"]);
    for i in 0..1_500 {
        from.set("b", format!("k{i}").as_bytes(), &[b"{\"a\":1}"]);
    }
    let directory = tempdir().unwrap();
    let at = directory.path();
    henge_in(at, &first, &["export", "b", "-o", "b.records"], b"").await.ok();
    henge_in(at, &second, &["import", "b.records", "-b", "b"], b"").await.ok();
    assert_eq!(to.keys(), 1_502);
    assert_eq!(to.values("b", b"\xff"), from.values("b", b"\xff"));
    let mut values = to.values("b", b"two");
    values.sort();
    assert_eq!(values, [&b"x"[..], b"y"]);
    // Forms for other programs leave out what they cannot hold, and say so.
    let csv = henge_in(at, &first, &["export", "b", "--format", "csv"], b"").await.code(7);
    assert_eq!(csv.text().lines().count(), 1_501);
    assert!(csv.stderr.contains("left out: two"), "{}", csv.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_short_benchmark_reports_what_it_measured() {
    let (_fake, node) = Fake::start().await;
    for workload in ["a", "e", "f", "insert"] {
        let args = [
            "bench",
            "--workload",
            workload,
            "--seconds",
            "1",
            "--warmup",
            "0",
            "--records",
            "200",
            "--clients",
            "8",
            "--json",
        ];
        let report = henge(&node, &args).await.ok().json();
        assert!(report["ops"].as_u64().unwrap() > 0, "{report}");
        assert_eq!(report["errors"], serde_json::json!({}), "{report}");
    }
    let open = [
        "bench",
        "--workload",
        "c",
        "--rate",
        "200",
        "--seconds",
        "1",
        "--warmup",
        "0",
        "--records",
        "200",
        "--clients",
        "8",
        "--json",
    ];
    let report = henge(&node, &open).await.ok().json();
    let ops = report["ops"].as_u64().unwrap();
    assert!((1..=210).contains(&ops), "no more than the rate: {report}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_configuration_is_told_whole_and_stops_the_start() {
    let directory = tempdir().unwrap();
    let bad = "[node]\nnme = \"x\"\n[listen]\nhttp = \"0.0.0.0:8098\"\n";
    std::fs::write(directory.path().join("h.toml"), bad).unwrap();
    let args = ["start", "--config", "h.toml"];
    let ended = henge_in(directory.path(), "", &args, b"").await.code(2);
    assert!(ended.stderr.contains("2 problems"), "{}", ended.stderr);
    assert!(ended.stderr.contains("line 2: unknown key node.nme; did you mean \"name\"?"));
    assert!(ended.stderr.contains("line 4: listen.http") && ended.stderr.contains("insecure"));
    let absent = henge("", &["start", "--config", "/nonexistent.toml"]).await.code(2);
    assert!(absent.stderr.contains("cannot read the file"), "{}", absent.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn help_teaches() {
    let help = henge("", &["--help"]).await.ok();
    for expected in ["henge dev", "HENGE_NODES", "Exit codes:", "  5  unknown"] {
        assert!(help.text().contains(expected), "{expected}\n{}", help.text());
    }
    for command in ["start", "dev", "get", "put", "import", "export", "verify", "bench"] {
        henge("", &[command, "--help"]).await.ok();
    }
    let defaults = henge("", &["config"]).await.ok();
    let shipped = include_str!("../config/henge.toml");
    assert_eq!(defaults.text(), shipped);
}
