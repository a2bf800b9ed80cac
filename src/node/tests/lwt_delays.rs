//! What operations cost in message delays: one-way trips that come one after the other, counted in a
//! network where each takes a tenth of a second and all else next to nothing. The table in the
//! project's decisions is this one.

use std::time::Duration;

use super::town::{Slot, Town, Write, key_of};
use crate::coordinator::{Condition, ReadOp, WriteAction, WriteOp};
use crate::meta::{ConflictMode, Table};
use crate::sim::net::LinkProfile;
use crate::sim::rng::Ppm;
use crate::types::{Consistency, Key};
use std::sync::Arc;

/// One way, a tenth of a second.
const WAY: Duration = Duration::from_millis(100);

/// Four nodes and a table of three replicas: the table, a key, one of its replicas, and the node
/// that is none.
fn far_apart(seed: u64, mode: ConflictMode) -> (Town, Arc<Table>, Key, &'static str, &'static str) {
    const NAMES: [&str; 4] = ["a", "b", "c", "d"];
    let mut town = Town::founded(seed, &NAMES);
    let table = town.create("t", |settings| settings.conflict = mode);
    let key = key_of("k");
    let replicas = town.coordinator("a").locate(&table, &key).replicas;
    let is_replica = |name: &&str| replicas.contains(&super::town::id(name));
    let inside = NAMES.into_iter().find(is_replica).unwrap();
    let outside = NAMES.into_iter().find(|name| !is_replica(name)).unwrap();
    let way = u64::try_from(WAY.as_nanos()).unwrap();
    let profile = LinkProfile {
        latency_min: way,
        latency_max: way,
        tail: Ppm::NEVER,
        ..LinkProfile::default()
    };
    town.net.set_profile(None, profile);
    // Old, fast answers are no measure of how slow a replica is.
    town.run(Duration::from_secs(5));
    (town, table, key, inside, outside)
}

/// Delays until the answer.
fn delays(town: &mut Town, slot: &Slot<Duration>) -> u32 {
    let took = town.wait(slot);
    u32::try_from((took + WAY / 2).as_millis() / WAY.as_millis()).unwrap()
}

fn write(town: &mut Town, name: &str, table: &Arc<Table>, key: &Key, condition: Condition) -> u32 {
    let op = WriteOp {
        condition,
        fence: None,
        table: table.clone(),
        key: key.clone(),
        action: WriteAction::Put {
            body: bytes::Bytes::from_static(b"v"),
            content_type: None,
            meta: Vec::new(),
            ttl: None,
        },
        context: None,
        level: Consistency::Quorum,
        timeout: Duration::from_secs(10),
        op: None,
        receipt: false,
    };
    let (coordinator, env) = (town.coordinator(name), town.life(name).env.clone());
    let slot = town.begin(name, async move {
        let began = env.mono();
        let _ = coordinator.write(op).await;
        env.mono().since(began)
    });
    delays(town, &slot)
}

fn read(town: &mut Town, name: &str, table: &Arc<Table>, key: &Key, level: Consistency) -> u32 {
    let op = ReadOp {
        table: table.clone(),
        key: key.clone(),
        level,
        timeout: Duration::from_secs(10),
        receipt: false,
        local: false,
    };
    let (coordinator, env) = (town.coordinator(name), town.life(name).env.clone());
    let slot = town.begin(name, async move {
        let began = env.mono();
        coordinator.read(op).await.unwrap();
        env.mono().since(began)
    });
    delays(town, &slot)
}

/// [create, refusal, compare and set soon after, serial read, quorum read], each alone on the key.
fn costs(mode: ConflictMode, from_outside: bool) -> [u32; 5] {
    let (mut town, table, key, inside, outside) = far_apart(1, mode);
    let name = if from_outside { outside } else { inside };
    let quiet = Duration::from_secs(5);
    let create = write(&mut town, name, &table, &key, Condition::Absent);
    town.run(quiet);
    let refusal = write(&mut town, name, &table, &key, Condition::Absent);
    town.run(quiet);
    let _ = write(&mut town, name, &table, &key, Condition::Exists);
    let again = write(&mut town, name, &table, &key, Condition::Exists);
    town.run(quiet);
    let serial = read(&mut town, name, &table, &key, Consistency::Serial);
    let quorum = read(&mut town, name, &table, &key, Consistency::Quorum);
    [create, refusal, again, serial, quorum]
}

#[test]
fn what_an_operation_takes_that_nobody_contends() {
    for from_outside in [false, true] {
        assert_eq!(costs(ConflictMode::Strong, from_outside), [4, 2, 2, 2, 2]);
        assert_eq!(costs(ConflictMode::Siblings, from_outside), [6, 2, 6, 2, 2]);
        assert_eq!(costs(ConflictMode::Lww, from_outside), [6, 2, 6, 2, 2]);
    }
}

#[test]
fn what_a_plain_write_takes() {
    for mode in [ConflictMode::Siblings, ConflictMode::Lww] {
        let (mut town, table, key, inside, outside) = far_apart(2, mode);
        assert_eq!(write(&mut town, inside, &table, &key, Condition::None), 2, "{mode}");
        town.run(Duration::from_secs(2));
        assert_eq!(write(&mut town, outside, &table, &key, Condition::None), 4, "{mode}");
    }
}

#[test]
fn what_an_operation_takes_that_goes_to_its_keys_home() {
    for (mode, most) in [(ConflictMode::Strong, 6), (ConflictMode::Siblings, 8)] {
        let (mut town, table, key, inside, _) = far_apart(3, mode);
        let replicas = town.coordinator("a").locate(&table, &key).replicas;
        let other = ["a", "b", "c", "d"]
            .into_iter()
            .find(|name| super::town::id(name) == replicas[1])
            .unwrap();
        // Both propose at once, again and again: the later ballot interrupts.
        for _ in 0..4 {
            let _ = town.begin_put(inside, &table, "k", "x", Write::on(Condition::Exists));
            let _ = town.begin_put(other, &table, "k", "y", Write::on(Condition::Exists));
            town.run(Duration::from_millis(700));
        }
        let sent = |town: &Town| {
            let counters = town.coordinator(other);
            counters.lwt_counters().forwarded.load(std::sync::atomic::Ordering::Relaxed)
        };
        let before = sent(&town);
        let took = write(&mut town, other, &table, &key, Condition::Exists);
        assert!(sent(&town) > before || took <= 4, "{mode}: neither sent nor alone");
        assert!(took <= most, "{mode}: {took}");
    }
}
