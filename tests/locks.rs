//! Locks over whole processes: holders that are killed, that sleep through their lease, and that
//! can reach nobody. R52 of the project's test plan is here by name.
#![allow(clippy::disallowed_methods, reason = "drives real processes")]

mod support;

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use support::cluster::TestCluster;
use support::henge;

/// A `henge` that runs on, and the lines that its command prints.
struct Running {
    child: Child,
    lines: std::io::Lines<BufReader<std::process::ChildStdout>>,
}

impl Running {
    fn start(nodes: &str, args: &[&str]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_henge"))
            .args(args)
            .env("HENGE_NODES", nodes)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("the binary starts");
        let lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        Self { child, lines }
    }

    fn line(&mut self) -> String {
        self.lines.next().expect("another line").expect("text")
    }

    fn fence(&mut self) -> u64 {
        self.line().parse().expect("a fence")
    }

    fn signal(&self, signal: &str) {
        signal_to(&self.child.id().to_string(), signal);
    }

    fn code(mut self) -> Option<i32> {
        // A command that was not killed would keep its end of the pipe open.
        assert!(self.lines.next().is_none(), "the command prints no more");
        self.child.wait().expect("it ends").code()
    }
}

fn signal_to(process: &str, signal: &str) {
    let sent = Command::new("kill").args([&format!("-{signal}"), process]).status();
    assert!(sent.expect("kill is there").success());
}

/// Prints the fence, then stays.
const STAY: &str = "echo $HENGE_FENCE; exec sleep 600";

#[tokio::test(flavor = "multi_thread")]
async fn a_command_runs_under_its_lock_and_gives_it_back() {
    let cluster = TestCluster::start(3).await;
    let nodes = cluster.nodes();
    let shown = ["lock", "l", "--", "sh", "-c", "echo $HENGE_LOCK $HENGE_FENCE"];
    assert_eq!(henge(&nodes, &shown).await.ok().text(), "l 1\n");
    assert_eq!(henge(&nodes, &shown).await.ok().text(), "l 2\n", "it was given back");
    henge(&nodes, &["lock", "l", "--", "sh", "-c", "exit 42"]).await.code(42);
    henge(&nodes, &["lock", "l", "--", "/no/such/command"]).await.code(2);
    henge(&nodes, &["lease", "show", "l"]).await.code(3);

    let held = henge(&nodes, &["lease", "acquire", "l", "--ttl", "60s", "--owner", "me"]).await;
    let fence = held.ok().text().trim().to_owned();
    assert_eq!(fence, "5");
    let refused = henge(&nodes, &["lock", "--wait", "0s", "l", "--", "true"]).await.code(4);
    assert!(refused.stderr.contains("held by me"), "{}", refused.stderr);
    let shown = henge(&nodes, &["lease", "show", "l"]).await.ok();
    assert!(shown.text().starts_with("me, fence 5,"), "{}", shown.text());
    henge(&nodes, &["lease", "renew", "l", "--fence", &fence]).await.ok();
    henge(&nodes, &["lease", "renew", "l", "--fence", "4"]).await.code(8);
    henge(&nodes, &["lease", "release", "l", "--fence", &fence]).await.ok();
    henge(&nodes, &["lease", "release", "l", "--fence", &fence]).await.code(8);

    // The table of locks is nobody's to write, and its numbers are nobody's to drop.
    henge(&nodes, &["put", "henge.locks", "l", "x"]).await.code(1);
    henge(&nodes, &["buckets", "drop", "henge.locks", "--yes"]).await.code(1);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_lock_of_a_killed_holder_passes_on_and_its_command_writes_no_more() {
    let cluster = TestCluster::start(3).await;
    let nodes = cluster.nodes();
    henge(&nodes, &["buckets", "create", "b"]).await.ok();
    let script = "echo $$; echo $HENGE_FENCE; exec sleep 600";
    let args = ["lock", "l", "--ttl", "1s", "--", "sh", "-c", script];
    let mut first = Running::start(&nodes, &args);
    let (orphan, old) = (first.line(), first.fence());
    let old = old.to_string();
    henge(&nodes, &["put", "b", "k", "first", "--fence", &old]).await.ok();
    // Its command lives on, and knows nothing.
    first.child.kill().unwrap();
    first.child.wait().unwrap();

    let script = "echo $HENGE_FENCE && henge put b k second --fence $HENGE_FENCE";
    let path = std::path::Path::new(env!("CARGO_BIN_EXE_henge")).parent().unwrap();
    let path = format!("PATH={}:$PATH; {script}", path.display());
    let second = henge(&nodes, &["lock", "l", "--wait", "60s", "--", "sh", "-c", &path]).await;
    let second = second.ok();
    let new: u64 = second.text().lines().next().unwrap().parse().unwrap();
    assert!(new > old.parse().unwrap(), "{new} after {old}");

    let late = henge(&nodes, &["put", "b", "k", "late", "--fence", &old]).await.code(1);
    assert!(late.stderr.contains("fence-too-old"), "{}", late.stderr);
    henge(&nodes, &["del", "b", "k", "--fence", &old]).await.code(1);
    signal_to(&orphan, "KILL");
}

#[tokio::test(flavor = "multi_thread")]
async fn r52_a_holder_that_was_paused_for_longer_than_its_lease_is_stopped_and_shut_out() {
    let cluster = TestCluster::start(3).await;
    let nodes = cluster.nodes();
    henge(&nodes, &["buckets", "create", "b"]).await.ok();
    let args = ["lock", "l", "--ttl", "1s", "--", "sh", "-c", STAY];
    let mut paused = Running::start(&nodes, &args);
    let old = paused.fence().to_string();
    paused.signal("STOP");
    let acquire = ["lease", "acquire", "l", "--wait", "60s", "--ttl", "600s"];
    let new = henge(&nodes, &acquire).await.ok().text().trim().to_owned();
    henge(&nodes, &["put", "b", "k", "new", "--fence", &new]).await.ok();
    henge(&nodes, &["put", "b", "k", "old", "--fence", &old]).await.code(1);
    paused.signal("CONT");
    assert_eq!(paused.code(), Some(8), "it has noticed, and killed its command");
    assert_eq!(henge(&nodes, &["get", "b", "k"]).await.ok().text(), "new");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_holder_that_can_reach_nobody_stops_its_command_in_time() {
    let mut cluster = TestCluster::start(3).await;
    let nodes = cluster.nodes();
    let args = ["lock", "l", "--ttl", "2s", "--", "sh", "-c", STAY];
    let mut cut_off = Running::start(&nodes, &args);
    let fence = cut_off.fence();
    for node in 0..3 {
        cluster.kill(node).unwrap();
    }
    assert_eq!(cut_off.code(), Some(8));
    for node in 0..3 {
        cluster.start_node(node).unwrap();
    }
    cluster.wait_ready().await.unwrap();
    let next = henge(&nodes, &["lease", "acquire", "l", "--wait", "60s"]).await.ok();
    let next: u64 = next.text().trim().parse().unwrap();
    assert!(next > fence, "no number is given twice, whoever was killed");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_candidate_leads_when_the_leader_is_killed() {
    let cluster = TestCluster::start(3).await;
    let nodes = cluster.nodes();
    let elect = |candidate| {
        let args = ["elect", "e", "--ttl", "1s", "--candidate", candidate, "--", "sh", "-c", STAY];
        Running::start(&nodes, &args)
    };
    let mut first = elect("x");
    let term = first.fence();
    let mut observer = Running::start(&nodes, &["elect", "e", "--observe"]);
    assert_eq!(observer.line(), format!("x leads, fence {term}"));
    let mut second = elect("y");
    first.child.kill().unwrap();
    first.child.wait().unwrap();
    let next = second.fence();
    assert!(next > term);
    let follows = format!("y leads, fence {next}");
    // Nobody may have led in between.
    while observer.line() != follows {}
    let shown = henge(&nodes, &["elect", "e", "--show"]).await.ok();
    assert!(shown.text().starts_with(&format!("y, fence {next},")), "{}", shown.text());
    second.signal("TERM");
    assert_eq!(second.code(), Some(130));
    observer.child.kill().unwrap();
    observer.child.wait().unwrap();
}
