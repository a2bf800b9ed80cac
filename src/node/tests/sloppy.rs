//! Sloppy quorums: who stands in for replicas that are away, what that counts for, and how the
//! replicas get what was kept for them. (Drawn runs of the simulator use them too.)

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::town::{Fate, SECOND, Town, Write, id, is_apply, key_of, values_of};
use crate::coordinator::OpError;
use crate::meta::Table;
use crate::net::messages::{Apply, Keep};
use crate::net::{Refusal, Request, Response};
use crate::repair::hints::HintSettings;
use crate::types::Consistency;

const FIVE: [&str; 5] = ["a", "b", "c", "d", "e"];

/// Five nodes, a table, a key, its three replicas and the two nodes beyond them.
struct Scene {
    town: Town,
    table: Arc<Table>,
    replicas: Vec<&'static str>,
    others: Vec<&'static str>,
}

const KEY: &str = "k";

fn scene(seed: u64, sloppy: bool) -> Scene {
    scene_of(Town::founded(seed, &FIVE), sloppy)
}

fn scene_of(mut town: Town, sloppy: bool) -> Scene {
    let table = town.create("t", |settings| settings.sloppy = sloppy);
    let at = town.life("a").node.coordinator().locate(&table, &key_of(KEY));
    let named = |node| FIVE.into_iter().find(|name| id(name) == node);
    let replicas: Vec<&str> = at.replicas.into_iter().filter_map(named).collect();
    let others = FIVE.into_iter().filter(|name| !replicas.contains(name)).collect();
    Scene { town, table, replicas, others }
}

impl Scene {
    /// Kills the replicas but the first, and waits until that one knows.
    fn lose_two(&mut self) -> &'static str {
        let [first, second, third] = self.replicas[..] else { panic!("three replicas") };
        self.town.kill(second);
        self.town.kill(third);
        self.town.until(30, "the loss is known", |town| {
            let cluster = town.life(first).node.cluster();
            !cluster.is_live(id(second)) && !cluster.is_live(id(third))
        });
        first
    }

    fn kept_by(&self, name: &str) -> u64 {
        self.town.life(name).node.hints().targets().iter().map(|target| target.count).sum()
    }

    /// Starts everything again and waits until all hints are handed over.
    fn come_back(&mut self) {
        for name in FIVE {
            if !self.town.is_up(name) {
                self.town.start(name);
            }
        }
        self.town.until(60, "all serve", |town| FIVE.iter().all(|name| town.serves(name)));
        self.town.until(60, "all is handed over", |town| {
            FIVE.iter().all(|name| town.life(name).node.hints().targets().is_empty())
        });
    }

    fn replicas_are_equal(&mut self) {
        let first = self.town.record(self.replicas[0], &self.table, KEY);
        assert!(first.is_some());
        for name in &self.replicas[1..] {
            assert_eq!(self.town.record(name, &self.table, KEY), first, "at {name}");
        }
    }
}

#[test]
fn a_sloppy_bucket_takes_writes_while_most_replicas_are_away() {
    let mut scene = scene(1, true);
    let first = scene.lose_two();
    let written = scene.town.put(first, &scene.table, KEY, "v", Write::default()).unwrap();
    let receipt = written.receipt.unwrap();
    assert_eq!((receipt.received, receipt.required, receipt.overlap), (2, 2, false));
    let [stood_in] = &receipt.stood_in[..] else { panic!("one is enough: {receipt:?}") };
    assert!(scene.others.contains(&stood_in.node.as_str()), "{receipt:?}");
    assert!(scene.replicas[1..].contains(&stood_in.replica.as_str()), "{receipt:?}");
    assert_eq!(scene.kept_by(&stood_in.node), 1);
    let json = serde_json::to_value(&receipt).unwrap();
    assert_eq!(json["stood_in"][0]["for"], stood_in.replica.as_str());

    let all = scene.town.put(first, &scene.table, KEY, "w", Write::at(Consistency::All)).unwrap();
    assert_eq!(all.receipt.unwrap().stood_in.len(), 2);
    scene.come_back();
    scene.replicas_are_equal();
    let found = scene.town.read(scene.others[0], &scene.table, KEY, Consistency::All).unwrap();
    assert_eq!(values_of(&found), ["v", "w"]);
    // With everybody there nobody stands in.
    let strict = scene.town.put(first, &scene.table, KEY, "x", Write::default()).unwrap();
    assert!(strict.receipt.unwrap().stood_in.is_empty());
}

#[test]
fn without_the_option_nobody_stands_in() {
    let mut scene = scene(2, false);
    let first = scene.lose_two();
    let error = scene.town.put(first, &scene.table, KEY, "v", Write::default()).unwrap_err();
    assert!(matches!(error, OpError::Unavailable { alive: 1, .. }), "{error:?}");
    // And a node that is asked to refuses.
    let apply = Apply {
        table: scene.table.id,
        key: key_of(KEY),
        record: bytes::Bytes::new(),
        generation: crate::types::Generation::default(),
        heals: false,
    };
    let keep = Request::Keep(Keep { replica: id(scene.replicas[1]), apply });
    let answer = scene.town.ask(first, scene.others[0], keep);
    assert!(matches!(answer, Response::Refused(Refusal::BadRequest { .. })), "{answer:?}");
}

/// Rule 21: a replica of the key still mints.
#[test]
fn rule21_with_no_replica_alive_nothing_is_written() {
    let mut scene = scene(3, true);
    scene.lose_two();
    scene.town.kill(scene.replicas[0]);
    let at = scene.others[0];
    let gone: Vec<_> = scene.replicas.iter().map(|name| id(name)).collect();
    scene.town.until(30, "the loss is known", |town| {
        gone.iter().all(|&node| !town.life(at).node.cluster().is_live(node))
    });
    let error = scene.town.put(at, &scene.table, KEY, "v", Write::default()).unwrap_err();
    assert!(matches!(error, OpError::Unavailable { alive: 0, .. }), "{error:?}");
}

/// Believed alive, and silent.
#[test]
fn others_stand_in_for_replicas_that_say_nothing() {
    let mut scene = scene(4, true);
    let [first, second, third] = scene.replicas[..] else { panic!("three replicas") };
    scene.town.pause(second, true);
    scene.town.pause(third, true);
    let begun = scene.town.world.now();
    let written = scene.town.put(first, &scene.table, KEY, "v", Write::default()).unwrap();
    let took = Duration::from_nanos(scene.town.world.now() - begun);
    assert!(took < 2 * SECOND, "it did not wait for the end of its time: {took:?}");
    assert_eq!(written.receipt.unwrap().stood_in.len(), 1);
    scene.town.pause(second, false);
    scene.town.pause(third, false);
    scene.come_back();
    scene.replicas_are_equal();
}

#[test]
fn a_keeper_that_fails_is_replaced_by_the_next_along_the_ring() {
    let mut scene = scene(5, true);
    let first = scene.lose_two();
    let is_keep = |request: &Request| matches!(request, Request::Keep(_));
    let rule = scene.town.script.add(Fate::NotSent, 1, move |_, _, request| is_keep(request));
    let written = scene.town.put(first, &scene.table, KEY, "v", Write::default()).unwrap();
    assert_eq!(scene.town.script.hits(rule), 1);
    assert_eq!(written.receipt.unwrap().stood_in.len(), 1);
    // With nobody left to ask the write says what it is: too few hold it, and it may stand.
    scene.town.script.add(Fate::LoseRequest, u32::MAX, move |_, _, request| is_keep(request));
    let error = scene.town.put(first, &scene.table, KEY, "w", Write::default()).unwrap_err();
    assert_eq!(error.fate(), crate::coordinator::Fate::Unknown, "{error:?}");
}

/// What counted for an acknowledgement is on a keeper's disk, whatever happens to its power.
#[test]
fn what_a_keeper_holds_survives_the_loss_of_power_of_all() {
    let mut scene = scene(6, true);
    let first = scene.lose_two();
    let written = scene.town.put(first, &scene.table, KEY, "v", Write::default()).unwrap();
    let keeper = written.receipt.unwrap().stood_in[0].node.clone();
    // At this very moment all lose power, and the only true copy is lost with its disk.
    for name in [first, scene.others[0], scene.others[1]] {
        scene.town.lose_power(name);
    }
    for name in scene.others.clone().into_iter().chain(scene.replicas[1..].to_vec()) {
        scene.town.start(name);
    }
    let served: Vec<&str> = scene.others.iter().chain(&scene.replicas[1..]).copied().collect();
    scene.town.until(60, "four of five serve", |town| served.iter().all(|name| town.serves(name)));
    scene.town.until(60, "the keeper has handed it over", |town| {
        let kept = town.life(&keeper).node.hints().targets();
        kept.iter().all(|target| target.target == id(first))
    });
    assert_eq!(scene.town.values(scene.others[0], &scene.table, KEY), ["v"]);
}

#[test]
fn a_keeper_without_room_does_not_count() {
    let mut town = Town::new(7, &FIVE);
    town.hints = HintSettings { max_bytes: 10, ..HintSettings::default() };
    for name in FIVE {
        town.start(name);
    }
    town.until(30, "all serve", |town| FIVE.iter().all(|name| town.serves(name)));
    let mut scene = scene_of(town, true);
    let first = scene.lose_two();
    let error = scene.town.put(first, &scene.table, KEY, "v", Write::default()).unwrap_err();
    assert!(matches!(error, OpError::TooFewReplicas { received: 1, .. }), "{error:?}");
    let no_room: u64 = scene
        .others
        .iter()
        .map(|name| scene.town.life(name).node.hints().counters().no_room.load(Ordering::Relaxed))
        .sum();
    assert_eq!(no_room, 2, "both were asked");
}

/// Riak's kv679_dataloss_fb2: a replica that took part in writes and minted none of them forgets
/// all, comes back, mints, and what it mints looks older than what others have; hints go back and
/// forth between replicas and those who stand in for them.
#[test]
fn r13_a_replica_that_forgot_and_mints_again_takes_nothing_from_what_others_kept() {
    let mut scene = scene(8, true);
    let [a, b, c] = scene.replicas[..] else { panic!("three replicas") };
    let table = scene.table.clone();
    let mut dots = Vec::new();
    // b and c mint; a takes part.
    for (at, value) in [(b, "v1"), (c, "v2"), (b, "v3")] {
        let how = Write::at(Consistency::All);
        dots.push(scene.town.put(at, &table, KEY, value, how).unwrap().dot.unwrap());
    }
    // a mints alone; keepers stand in for b and c.
    scene.town.kill(b);
    scene.town.kill(c);
    scene.town.until(30, "known", |town| !town.life(a).node.cluster().is_live(id(c)));
    let alone = scene.town.put(a, &table, KEY, "v4", Write::default()).unwrap();
    dots.push(alone.dot.unwrap());
    let keeper = alone.receipt.unwrap().stood_in[0].node.clone();
    // a forgets everything. The keeper alone knows of v4, and cannot tell anybody yet.
    let mute = id(&keeper);
    scene.town.script.add(Fate::LoseRequest, u32::MAX, move |from, _, request| {
        from == mute && is_apply(request)
    });
    scene.town.wipe(a);
    scene.town.start(b);
    scene.town.start(c);
    scene.town.start(a);
    scene.town.until(90, "a is refilled", |town| town.serves(a));
    dots.push(scene.town.put(a, &table, KEY, "v5", Write::default()).unwrap().dot.unwrap());
    // A second loss, of a's new history.
    scene.town.wipe(a);
    scene.town.start(a);
    scene.town.until(90, "a is refilled", |town| town.serves(a));
    dots.push(scene.town.put(a, &table, KEY, "v6", Write::default()).unwrap().dot.unwrap());
    scene.town.script.clear();
    scene.come_back();
    let found = scene.town.read(b, &table, KEY, Consistency::All).unwrap();
    assert_eq!(values_of(&found), ["v1", "v2", "v3", "v4", "v5", "v6"]);
    let count = dots.len();
    dots.sort();
    dots.dedup();
    assert_eq!(dots.len(), count, "no dot was minted twice");
    scene.replicas_are_equal();
}

/// A keeper that was away for long comes back with a value that was deleted meanwhile. (What a
/// purge makes of the tombstone is the purge's story.)
#[test]
fn a_keeper_that_comes_back_late_does_not_bring_a_deleted_value_back() {
    let mut scene = scene(9, true);
    let table = scene.table.clone();
    let first = scene.lose_two();
    let written = scene.town.put(first, &table, KEY, "v", Write::default()).unwrap();
    let keeper = written.receipt.unwrap().stood_in[0].node.clone();
    scene.town.kill(&keeper);
    // The coordinator's own hints bring the replicas up; then the value is deleted everywhere.
    for name in &scene.replicas[1..] {
        scene.town.start(name);
    }
    let replicas = scene.replicas.clone();
    scene
        .town
        .until(60, "the replicas serve", |town| replicas.iter().all(|name| town.serves(name)));
    scene.town.until(60, "handed over", |town| town.life(first).node.hints().targets().is_empty());
    scene.town.delete(first, &table, KEY, Write::at(Consistency::All)).unwrap();
    scene.come_back();
    assert_eq!(scene.town.values(first, &table, KEY), [""; 0]);
    scene.replicas_are_equal();
}

/// The record goes to the replica itself too: a hint that finds it there changes nothing.
#[test]
fn a_replica_that_was_only_late_is_told_twice_and_holds_it_once() {
    let mut scene = scene(10, true);
    let [first, second, third] = scene.replicas[..] else { panic!("three replicas") };
    scene.town.script.add(Fate::Delay(SECOND), 2, move |_, to, request| {
        is_apply(request) && (to == id(second) || to == id(third))
    });
    let written = scene.town.put(first, &scene.table, KEY, "v", Write::default()).unwrap();
    assert_eq!(written.receipt.unwrap().stood_in.len(), 1);
    scene.town.run(5 * SECOND);
    scene.come_back();
    scene.replicas_are_equal();
    assert_eq!(scene.town.values(first, &scene.table, KEY), ["v"]);
}
