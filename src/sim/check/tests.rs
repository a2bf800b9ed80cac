//! Transcripts that each checker must pass, and one per anomaly that it must name.
//!
//! One operation a line: `process verb …`. `put 1 [2 3] ok` writes number 1 with a context of 2
//! and 3; `del 4 [1] ok`, `del 4 blind ok`; `read -> 1 2` at a quorum, `weak -> 1` at less,
//! `last -> 1` after healing. Answers: `ok`, `ok a:7` (with a dot), `fail`, `info`. A line that ends
//! in `...` leaves the operation open; `process end ok` closes it.

use std::collections::BTreeMap;

use super::{Check, check};
use crate::sim::history::{Action, History, Mark, Operation, Outcome, Shown, Workload, WriteId};
use crate::types::{ActorId, Dot};

fn dot(text: &str) -> Dot {
    let (actor, counter) = text.split_once(':').unwrap();
    let actor = ActorId(u64::from(actor.as_bytes()[0]));
    Dot { actor, counter: counter.parse().unwrap() }
}

fn ids(text: &str) -> Vec<WriteId> {
    let text = text.trim_matches(['[', ']']);
    text.split_whitespace().map(|id| WriteId(id.parse().unwrap())).collect()
}

fn outcome(text: &str) -> Outcome {
    match text.trim().split_once(' ') {
        Some(("ok", version)) => Outcome::Written(Some(dot(version))),
        None if text.trim() == "ok" => Outcome::Written(None),
        None if text.trim() == "fail" => Outcome::NotApplied,
        None if text.trim() == "info" => Outcome::Unknown,
        _ => panic!("{text:?} is no answer"),
    }
}

/// `1 2@a:7 ?bytes`
fn shown(text: &str) -> Outcome {
    let one = |word: &str| {
        let (value, version) = match word.split_once('@') {
            Some((value, version)) => (value, Some(dot(version))),
            None => (word, None),
        };
        let value = match value.strip_prefix('?') {
            Some(strange) => Err(strange.to_owned()),
            None => Ok(WriteId(value.parse().unwrap())),
        };
        Shown { value, dot: version }
    };
    Outcome::Read(text.split_whitespace().map(one).collect())
}

fn history(workload: Workload, transcript: &str) -> History {
    let mut history = History::new(0, 3, vec![]);
    let mut open = BTreeMap::new();
    let mut t = 0;
    for line in transcript.lines().map(str::trim).filter(|line| !line.is_empty()) {
        t += 1;
        let (process, rest) = line.split_once(' ').unwrap();
        let process: u32 = process.parse().unwrap();
        if let Some(answer) = rest.strip_prefix("end ") {
            let answer = match answer.strip_prefix("->") {
                Some(values) => shown(values),
                None => outcome(answer),
            };
            history.end(t, open.remove(&process).unwrap(), answer);
            continue;
        }
        let (verb, rest) = rest.split_once(' ').unwrap();
        let (action, answer) = match verb {
            "put" => {
                let (id, rest) = rest.split_once(' ').unwrap();
                let (seen, answer) = rest.split_at(rest.find(']').unwrap() + 1);
                (Action::Put { id: ids(id)[0], seen: ids(seen) }, answer)
            }
            "del" => {
                let (id, rest) = rest.split_once(' ').unwrap();
                let (seen, answer) = match rest.strip_prefix("blind") {
                    Some(answer) => (None, answer),
                    None => {
                        let (seen, answer) = rest.split_at(rest.find(']').unwrap() + 1);
                        (Some(ids(seen)), answer)
                    }
                };
                (Action::Delete { id: ids(id)[0], seen }, answer)
            }
            "cas" => {
                let (id, rest) = rest.split_once(' ').unwrap();
                let (expected, answer) = rest.split_at(rest.find(']').unwrap() + 1);
                let expected = ids(expected).first().copied();
                (Action::Cas { id: ids(id)[0], expected, delete: false }, answer)
            }
            "read" | "weak" | "last" => (Action::Read, rest),
            other => panic!("{other:?} is no operation"),
        };
        let mark = Mark { i: 0, t };
        let number = history.begin(
            t,
            Operation {
                process,
                node: 1,
                key: "k".to_owned(),
                workload,
                strong: verb != "weak",
                last: verb == "last",
                action,
                call: mark,
                ret: None,
                outcome: Outcome::Unknown,
            },
        );
        match answer.trim() {
            "..." => {
                open.insert(process, number);
            }
            answer => {
                let answer = match (answer.strip_prefix("->"), answer.strip_prefix("no")) {
                    (Some(values), _) => shown(values),
                    (None, Some(values)) => match shown(values) {
                        Outcome::Read(shown) => Outcome::Refused(shown),
                        other => other,
                    },
                    (None, None) => outcome(answer),
                };
                history.end(t, number, answer);
            }
        }
    }
    history
}

#[track_caller]
fn names(workload: Workload, transcript: &str, expected: &[Check]) {
    let found = check(&history(workload, transcript));
    let mut checks: Vec<Check> = found.iter().map(|violation| violation.check).collect();
    checks.dedup();
    let words: Vec<String> = found.iter().map(ToString::to_string).collect();
    assert_eq!(checks, expected, "{words:#?}");
}

#[track_caller]
fn siblings(transcript: &str, expected: &[Check]) {
    names(Workload::Siblings, transcript, expected);
}

#[track_caller]
fn register(transcript: &str, expected: &[Check]) {
    names(Workload::Register, transcript, expected);
}

#[track_caller]
fn set(transcript: &str, expected: &[Check]) {
    names(Workload::Set, transcript, expected);
}

#[test]
fn lawful_siblings_pass() {
    siblings(
        "1 put 1 [] ok a:1
         2 put 2 [] ok b:1
         3 read -> 1@a:1 2@b:1
         3 put 3 [1 2] ok a:2
         1 put 4 [1] ok b:2
         2 read -> 3@a:2 4@b:2
         2 del 5 [3 4] ok
         1 read ->
         1 put 6 [] info
         2 last -> 6@c:1",
        &[],
    );
    // An unknown write may show late, or never; reads that overlap a write may show it or not.
    siblings(
        "1 put 1 [] ...
         2 read -> 1
         3 read -> 1
         1 end info
         4 put 2 [1] ...
         2 read -> 1
         3 last -> 2",
        &[],
    );
    // An unknown deletion without a context excuses the absence of whatever it may have met.
    siblings(
        "1 put 1 [] ok
         2 del 2 blind info
         3 last ->",
        &[],
    );
}

/// Found by seed 127: the client hung up, the deletion went on and met a write that began later.
#[test]
fn a_deletion_without_an_answer_may_cover_what_was_written_after_its_client_left() {
    siblings(
        "1 del 1 blind info
         2 put 2 [] ok
         3 last ->",
        &[],
    );
    siblings(
        "1 del 1 blind ok
         2 put 2 [] ok
         3 last ->",
        &[Check::W5Lost, Check::W5Backwards],
    );
}

#[test]
fn a_lost_write_is_named() {
    siblings(
        "1 put 1 [] ok
         2 put 2 [] ok
         3 last -> 2",
        &[Check::W5Lost, Check::W5Backwards],
    );
    // A blind put supersedes nothing, a deletion only what it covers.
    siblings(
        "1 put 1 [] ok
         2 put 2 [] ok
         3 del 3 [2] ok
         3 last ->",
        &[Check::W5Lost, Check::W5Backwards],
    );
}

#[test]
fn a_write_lost_at_less_than_a_quorum_is_lost_all_the_same() {
    let mut history = history(Workload::Siblings, "1 put 1 [] ok\n3 last ->");
    history.operations[0].strong = false;
    let found: Vec<Check> = check(&history).iter().map(|violation| violation.check).collect();
    assert_eq!(found, [Check::W5Lost]);
}

#[test]
fn a_false_sibling_is_named() {
    siblings(
        "1 put 1 [] ok
         1 put 2 [1] ok
         2 read -> 1 ",
        &[Check::W5FalseSibling, Check::W5Backwards],
    );
    siblings(
        "1 put 1 [] ok
         2 del 2 [1] ok
         3 last -> 1",
        &[Check::W11],
    );
    // Pasts are transitive: whoever covers 2 covers what 2 covered.
    siblings(
        "1 put 1 [] info
         2 read -> 1
         2 put 2 [1] info
         3 read -> 2
         3 put 3 [2] ok
         4 last -> 1 3",
        &[Check::W5Bound],
    );
}

#[test]
fn a_value_shown_beside_its_successor_is_named() {
    siblings(
        "1 put 1 [] ok
         1 put 2 [1] info
         2 weak -> 1 2",
        &[Check::W5Bound],
    );
}

#[test]
fn invented_values_are_named() {
    siblings("1 put 1 [] ok\n2 weak -> 1 ?junk", &[Check::W5Invented]);
    siblings("1 weak -> 9", &[Check::W5Invented]);
    siblings("1 put 1 [] fail\n2 weak -> 1", &[Check::W5Invented]);
    siblings("2 weak -> 1\n1 put 1 [] ok", &[Check::W5Invented]);
    register("1 put 1 [] fail\n2 weak -> 1", &[Check::I2]);
}

#[test]
fn reads_that_go_backwards_are_named_by_who_had_learnt_it() {
    // Its own acknowledged write; another's; what it had read; what another had read.
    siblings("1 put 1 [] ok\n1 read ->\n2 last -> 1", &[Check::W9]);
    siblings("1 put 1 [] ok\n2 read ->\n2 last -> 1", &[Check::W5Backwards]);
    siblings("1 put 1 [] info\n2 read -> 1\n2 read ->\n2 last -> 1", &[Check::W5Backwards]);
    siblings("1 put 1 [] info\n2 read -> 1\n3 read ->\n2 last -> 1", &[Check::I18]);
    // Below a quorum nothing of this is promised.
    siblings("1 put 1 [] ok\n1 weak ->\n2 weak -> 1\n2 weak ->\n2 last -> 1", &[]);
}

#[test]
fn a_dot_that_names_two_writes_is_named_even_when_nothing_is_lost() {
    siblings(
        "1 put 1 [] ok a:1
         2 put 2 [] ok a:1
         3 last -> 1@a:1 2@a:1",
        &[Check::W5DotReuse],
    );
    // Two dots of one write are the trace of a retry.
    siblings("1 put 1 [] ok a:1\n3 last -> 1@b:4", &[]);
}

#[test]
fn sets_keep_every_element() {
    set("1 put 1 [] ok\n2 put 2 [] info\n3 put 3 [] ok\n1 read -> 1 3\n1 last -> 1 2 3", &[]);
    set("1 put 1 [] ok\n2 put 2 [] ok\n1 last -> 2", &[Check::W4]);
    let stale = history(Workload::Set, "1 put 1 [] ok\n2 read ->\n1 last -> 1");
    let found = check(&stale);
    assert!(found[0].what.contains("stale"), "{found:?}");
}

#[test]
fn lawful_registers_pass() {
    register(
        "1 put 1 [] ok
         2 put 2 [1] ...
         3 read -> 1
         4 read -> 2
         2 end ok
         1 put 3 [] info
         1 read -> 2
         2 read -> 3
         2 put 4 [] ok
         3 read -> 3
         1 del 5 [] ok
         2 read ->
         2 put 6 [] ok
         1 last -> 6",
        &[],
    );
}

#[test]
fn stale_reads_of_registers_are_named_by_whose_write_was_missed() {
    register("1 put 1 [] ok\n1 put 2 [] ok\n1 read -> 1", &[Check::W9]);
    register("1 put 1 [] ok\n1 put 2 [] ok\n2 read -> 1", &[Check::W10]);
    register("1 put 1 [] ok\n2 read ->", &[Check::W10]);
    register("1 put 1 [] ok\n2 del 2 [] ok\n1 read -> 1", &[Check::W11]);
    register("1 put 1 [] ok\n1 del 2 [] ok\n2 put 3 [] ok\n2 read ->", &[Check::W9]);
    register("1 put 1 [] ok\n1 put 2 [] ok\n2 weak -> 1", &[]);
}

/// Seed 10996: a deletion at one, stamped by a clock that was ahead, of which the next write's
/// quorum did not hear.
#[test]
fn a_write_at_less_than_a_quorum_may_win_over_later_ones() {
    for (transcript, named) in [
        ("1 del 1 [] ok\n2 put 2 [] ok\n1 read ->", Check::W10),
        ("1 put 1 [] ok\n2 put 2 [] ok\n1 read -> 1", Check::W10),
    ] {
        let mut history = history(Workload::Register, transcript);
        let found: Vec<Check> = check(&history).iter().map(|violation| violation.check).collect();
        assert_eq!(found, [named]);
        history.operations[0].strong = false;
        assert_eq!(check(&history), []);
    }
}

#[test]
fn registers_that_go_back_are_named() {
    register("1 put 1 [] ok\n1 put 2 [] info\n2 read -> 2\n2 read -> 1", &[Check::W10]);
    register("1 put 1 [] ok\n1 put 2 [] info\n2 read -> 2\n3 read -> 1", &[Check::I18]);
    register("1 put 2 [] info\n2 read -> 2\n2 read ->", &[Check::W10]);
}

#[test]
fn every_check_has_its_own_name() {
    for check in Check::ALL {
        assert_eq!(Check::named(check.name()), Some(check));
    }
}

#[track_caller]
fn strong(transcript: &str, expected: &[Check]) {
    names(Workload::Strong, transcript, expected);
}

#[test]
fn w1_passes_what_a_register_answers() {
    strong(
        "1 read ->
         1 cas 1 [] ok
         2 cas 2 [] no 1
         2 cas 3 [1] ok
         3 put 4 [] info
         1 read -> 3
         2 read -> 4
         2 del 5 blind ok
         1 read ->",
        &[],
    );
}

#[test]
fn w1_two_creators_cannot_both_win() {
    strong("1 cas 1 [] ok\n2 cas 2 [] ok", &[Check::W1]);
}

#[test]
fn w1_an_acknowledged_write_is_not_gone() {
    strong("1 put 1 [] ok\n2 read ->", &[Check::W1]);
    strong("1 put 1 [] ok\n2 cas 2 [] ok", &[Check::W1]);
}

#[test]
fn w1_a_refusal_is_part_of_the_order() {
    // Told that 1 stands there, and then that nothing does.
    strong("3 cas 1 [] ...\n1 cas 2 [] no 1\n2 read ->", &[Check::W1]);
    // Refused, though what it expects is what it is shown.
    strong("1 cas 1 [] ok\n2 cas 2 [1] no 1", &[Check::W1]);
}

#[test]
fn w1_a_refused_write_does_not_land_later() {
    strong("1 put 1 [] ok\n1 cas 2 [] no 1\n2 read -> 2", &[Check::W1, Check::I2]);
}

#[test]
fn w1_a_write_takes_effect_once() {
    strong("1 put 1 [] ...\n2 read -> 1\n2 put 2 [] ok\n3 read -> 1\n1 end ok", &[Check::W1]);
}
