//! Nodes with more work than they can do in time.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::town::{ABC, SECOND, Town, Write, key_of};
use crate::coordinator::OpError;
use crate::meta::ConflictMode;
use crate::net::messages::{Read, Want};
use crate::net::{Refusal, Request, Response};
use crate::node::Shedding;
use crate::types::Consistency;

/// A town whose nodes shed, with nothing let in while work waits.
fn shedding_town(seed: u64) -> Town {
    let mut town = Town::new(seed, &ABC);
    town.shedding = Some(Shedding { target: Duration::from_millis(20), floor: 0 });
    for name in ABC {
        town.start(name);
    }
    town.until(30, "all serve", |town| ABC.iter().all(|name| town.serves(name)));
    town
}

/// Has `name` see that work waits: it takes on nothing new for the next tenth of a second.
fn overload(town: &Town, name: &str) {
    let life = town.life(name);
    for step in [1, 2, 3] {
        let now = life.env.mono() + Duration::from_millis(100 * step);
        life.node.gates().peers.observe(now, SECOND);
        life.node.gates().clients.observe(now, SECOND);
    }
    assert_eq!(life.node.gates().peers.limit(), 0);
}

#[test]
fn a_replica_that_sheds_takes_nothing_new_and_finishes_what_others_have_begun() {
    let mut town = shedding_town(1);
    let table = town.create("t", |settings| settings.conflict = ConflictMode::Siblings);
    town.put("a", &table, "k", "v1", Write::at(Consistency::All)).unwrap();
    overload(&town, "b");
    let read = Read { table: table.id, key: key_of("k"), want: Want::Record };
    let answer = town.ask("a", "b", Request::Read(read));
    assert!(matches!(answer, Response::Refused(Refusal::Overloaded { .. })), "{answer:?}");
    // A read goes to the others.
    overload(&town, "b");
    assert_eq!(town.values("a", &table, "k"), ["v1"]);
    // A version that was made elsewhere is stored, whatever else there is to do.
    overload(&town, "b");
    let all = Write::at(Consistency::All);
    town.put("a", &table, "k", "v2", all).expect("b takes the second half of a write");
    assert!(town.life("b").node.gates().peers.shed() >= 1);
}

#[test]
fn a_read_that_every_other_replica_has_no_room_for_is_refused_as_overload_at_once() {
    let mut town = shedding_town(2);
    let table = town.create("t", |_| {});
    town.put("a", &table, "k", "v", Write::at(Consistency::All)).unwrap();
    overload(&town, "b");
    overload(&town, "c");
    let before = town.life("a").env.mono();
    let error = town.read("a", &table, "k", Consistency::Quorum).unwrap_err();
    assert!(matches!(error, OpError::Overloaded { .. }), "{error:?}");
    assert!(town.life("a").env.mono().since(before) < SECOND, "not at the deadline");
    // It passes by itself.
    town.run(5 * SECOND);
    assert_eq!(town.values("a", &table, "k"), ["v"]);
}

#[test]
fn a_disk_that_stands_still_closes_the_gate_until_it_goes_on() {
    let mut town = shedding_town(3);
    let table = town.create("t", |_| {});
    town.stall_disk("a", SECOND);
    // The first is in the disk's hands, the second waits for it.
    let writes: Vec<_> = ["k1", "k2", "k3"]
        .map(|key| {
            let write = town.begin_put("a", &table, key, "v", Write::at(Consistency::All));
            town.run(Duration::from_millis(20));
            write
        })
        .into();
    let gates = |town: &Town| town.life("a").node.gates().clone();
    town.until(2, "new work is refused", |town| gates(town).clients.limit() == 0);
    assert!(gates(&town).clients.enter().is_err());
    town.stall_disk("a", Duration::ZERO);
    for write in writes {
        town.wait(&write).expect("what was let in is done");
    }
    town.until(30, "new work is let in", |town| gates(town).clients.enter().is_ok());
}

/// Work that cannot be on the disk before its client has given up is not begun: the client may have
/// sent it elsewhere by then.
#[test]
fn a_mint_that_the_disk_cannot_store_in_time_is_made_by_another_replica() {
    let mut town = shedding_town(4);
    let table = town.create("t", |settings| settings.conflict = ConflictMode::Siblings);
    town.stall_disk("a", 20 * SECOND);
    let stuck: Vec<_> = ["k1", "k2"]
        .map(|key| {
            let how = Write { timeout: Some(SECOND), ..Write::default() };
            let write = town.begin_put("a", &table, key, "v", how);
            town.run(Duration::from_millis(50));
            write
        })
        .into();
    // By now what waits for the disk has waited for longer than the next write has in all.
    town.run(3 * SECOND);
    let mints = |town: &Town, name: &str| {
        let counters = town.life(name).node.replica().counters();
        counters.mints.load(Ordering::Relaxed)
    };
    let elsewhere = |town: &Town| mints(town, "b") + mints(town, "c");
    let second = |town: &Town| {
        let counters = town.life("a").node.coordinator().counters();
        counters.second_mints.load(Ordering::Relaxed)
    };
    let before = (elsewhere(&town), second(&town));
    let how = Write { timeout: Some(SECOND), ..Write::default() };
    let written = town.put("a", &table, "k3", "v", how);
    assert!(written.is_ok(), "{written:?}");
    assert!(elsewhere(&town) > before.0);
    assert_eq!(second(&town), before.1, "no first one may have happened");
    drop(stuck);
}
