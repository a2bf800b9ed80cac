//! Plans from seeds.
//!
//! Swarm testing (Groce et al.): each seed leaves most features *out*, at random, and uses the
//! rest hard; that finds more than using everything a little. So each class of faults is in or out
//! with even chances, and so is each quirk of network, scheduler and clients.
//!
//! *Atlas.* Faults that destroy synced data are planned such that a holder of every acknowledged
//! write remains: either wipes and restores, one node at a time (the runner skips one while
//! another node is still refilling), with all writes at a quorum; or rot, on one node of the run.

use std::time::Duration;

use crate::repair::hints::HintSettings;
use crate::sim::disk::PowerLoss;
use crate::sim::history::Workload;
use crate::sim::net::{Delivery, LinkProfile};
use crate::sim::plan::{Fault, PLAN_FORMAT, Picking, Plan, PlannedFault, Step, Verb};
use crate::sim::rng::{Ppm, Rng};
use crate::types::Consistency;

/// How large a run is to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// Client operations.
    pub operations: u32,
    /// Faults planned; some meet nobody.
    pub faults: u32,
}

impl Default for Size {
    fn default() -> Self {
        Self { operations: 2_000, faults: 44 }
    }
}

/// Operations after which a key is left alone: checkers stay fast and old keys settle.
const KEY_LIFE: u32 = 90;
/// Blind puts on one key, which all stay as siblings.
const MAX_BLIND: u32 = 40;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Loss {
    None,
    Wipes,
    Rot(u32),
}

struct Swarm {
    nodes: u32,
    clients: u32,
    weak: bool,
    hang_ups: bool,
    retries: bool,
    large: bool,
    hints_only: bool,
    sloppy: bool,
    workloads: Vec<Workload>,
    loss: Loss,
    classes: [bool; 6],
}

impl Swarm {
    fn draw(rng: &mut Rng) -> Self {
        let nodes = *rng.pick(&[3, 3, 3, 4, 5]);
        let loss = match rng.below(4) {
            0 | 1 => Loss::Wipes,
            2 => Loss::Rot(rng.below(u64::from(nodes)) as u32),
            _ => Loss::None,
        };
        let mut workloads = vec![Workload::Set, Workload::Siblings, Workload::Register];
        if rng.below(3) == 0 {
            workloads.remove(rng.index(3));
        }
        let mut classes = std::array::from_fn(|_| rng.flip());
        // At least two classes: network and process faults.
        classes[rng.index(2)] = true;
        classes[2 + rng.index(2)] = true;
        Self {
            nodes,
            clients: rng.between(2, 10) as u32,
            weak: loss == Loss::None && rng.below(3) == 0,
            hang_ups: rng.below(3) == 0,
            retries: rng.flip(),
            large: rng.below(8) == 0,
            hints_only: false,
            sloppy: false,
            workloads,
            loss,
            classes,
        }
    }
}

/// One seed in so many shows what hints do alone.
const HINTS_ONLY: u64 = 4;

/// What leaves it to hints alone to bring replicas together: three nodes, so that every node mints
/// its clients' writes itself and knows of every version; a network that fails in all ways; nodes
/// that stop gracefully, and so keep what they owe. (A killed coordinator may owe what it has not
/// stored, and a mint at another node may go unheard: those are anti-entropy's.)
fn leave_it_to_hints(swarm: &mut Swarm) {
    swarm.nodes = 3;
    swarm.loss = Loss::None;
    swarm.hang_ups = true;
    swarm.hints_only = true;
    swarm.classes = [true, true, true, false, false, false];
}

/// One seed in so many lets nodes stand in for replicas.
const SLOPPY: u64 = 8;

/// More nodes than replicas, and no loss of disks: what a keeper holds is known to it alone.
fn let_others_stand_in(swarm: &mut Swarm, rng: &mut Rng) {
    swarm.nodes = *rng.pick(&[4, 5, 5, 6]);
    swarm.loss = Loss::None;
    swarm.sloppy = true;
}

/// One seed in so many has clients that take turns by locks.
const LOCKS: u64 = 5;
/// One seed in so many has clients that write rows.
const ROWS: u64 = 2;

/// The plan of `seed`.
#[must_use]
pub fn generate(seed: u64, size: Size) -> Plan {
    let mut rng = Rng::stream(seed, 0, "plan/options");
    let mut swarm = Swarm::draw(&mut rng);
    let mut hint_rng = Rng::stream(seed, 0, "plan/hints");
    if hint_rng.below(HINTS_ONLY) == 0 {
        leave_it_to_hints(&mut swarm);
    } else if hint_rng.below(SLOPPY) == 0 {
        let_others_stand_in(&mut swarm, &mut hint_rng);
    }
    let mut hints = HintSettings::default();
    if !swarm.hints_only && !swarm.sloppy && hint_rng.flip() {
        hints.max_bytes = hint_rng.magnitude(1_000, 100_000);
        hints.max_age = Duration::from_millis(hint_rng.magnitude(200, 60_000));
    }
    let picking = match rng.below(4) {
        0 => Picking::Priorities,
        1 => Picking::Starve(rng.below(u64::from(swarm.nodes)) as u32),
        _ => Picking::Uniform,
    };
    let delivery = if rng.flip() { Delivery::Stream } else { Delivery::Datagram };
    let latency_min = rng.magnitude(20_000, 5_000_000);
    let link = LinkProfile {
        latency_min,
        latency_max: latency_min * rng.between(1, 8),
        tail: Ppm(rng.below(5_000) as u32),
        duplicate: if rng.below(3) == 0 { Ppm::percent(5) } else { Ppm::NEVER },
        replay_max: Duration::from_secs(60).as_nanos() as u64,
        corrupt: if rng.below(3) == 0 { Ppm(100) } else { Ppm::NEVER },
        ..LinkProfile::default()
    };
    let mut script_rng = Rng::stream(seed, 0, "plan/script");
    let (mut script, length_ms) = script(&mut script_rng, &swarm, size.operations);
    if swarm.hang_ups {
        for step in &mut script {
            step.hang_up_awaits =
                (hint_rng.below(20) == 0).then(|| hint_rng.magnitude(1, 30) as u32);
        }
    }
    expiring(&mut Rng::stream(seed, 0, "plan/expiring"), &mut script);
    let timeout_ms = rng.between(400, 1_500);
    // From a stream of its own: seeds without it are what they were before there was any.
    let mut serial_rng = Rng::stream(seed, 0, "plan/serial");
    if !swarm.hints_only && !swarm.sloppy && serial_rng.below(5) < 3 {
        make_serial(&mut serial_rng, &mut script);
    }
    let mut fault_rng = Rng::stream(seed, 0, "plan/faults");
    let mut faults = faults(&mut fault_rng, &swarm, size.faults, length_ms);
    let mut row_rng = Rng::stream(seed, 0, "plan/rows");
    let has_rows = !swarm.hints_only && !swarm.sloppy && row_rng.below(ROWS) == 0;
    let grace_s = grace_s(&swarm, timeout_ms, has_rows);
    let mut outage_rng = Rng::stream(seed, 0, "plan/outage");
    let outage = long_outage(&mut outage_rng, &swarm, grace_s).filter(|_| size.faults > 0);
    if outage.is_some() && !swarm.sloppy && outage_rng.flip() {
        // What it missed comes by hash trees, or not at all.
        hints.max_bytes = 0;
    }
    faults.extend(outage);
    faults.sort_by_key(|planned| planned.at_ms);
    let mut lock_rng = Rng::stream(seed, 0, "plan/locks");
    let has_locks = !swarm.hints_only && !swarm.sloppy && lock_rng.below(LOCKS) == 0;
    let lockers = if has_locks { lock_rng.between(2, 4) as u32 } else { 0 };
    let rowers = if has_rows { row_rng.between(2, 5) as u32 } else { 0 };
    Plan {
        henge_plan: PLAN_FORMAT,
        seed,
        nodes: swarm.nodes,
        replication: 3,
        partitions: *rng.pick(&[8, 16, 32, 64]),
        picking,
        delivery,
        link,
        max_clock_skew_ms: 60_000,
        timeout_ms,
        gossip_ms: rng.between(100, 500),
        hints_only: swarm.hints_only,
        sloppy: swarm.sloppy,
        hint_max_bytes: hints.max_bytes,
        hint_max_age_ms: hints.max_age.as_millis() as u64,
        faults,
        grace_s,
        lockers,
        rowers,
        script,
    }
}

/// As short as it may be: longer than an operation that a tombstone covers may be repeated by its
/// client or arrive late, by any of the clocks.
fn grace_s(swarm: &Swarm, timeout_ms: u64, has_rows: bool) -> u64 {
    let attempts = if swarm.retries || has_rows { 3 } else { 1 };
    let late_ms = 3_000;
    let clocks_ms = if swarm.classes[4] { 11_000 } else { 0 };
    (attempts * (timeout_ms + 2_000) + late_ms + clocks_ms).div_ceil(1_000)
}

/// In some runs, a node is away for longer than tombstones have to be kept.
fn long_outage(rng: &mut Rng, swarm: &Swarm, grace_s: u64) -> Option<PlannedFault> {
    if rng.below(3) != 0 || swarm.hints_only {
        return None;
    }
    let node = rng.below(u64::from(swarm.nodes)) as u32;
    let fault = if rng.flip() { Fault::Kill { node } } else { Fault::Isolate { node } };
    let (at_ms, for_ms) = (rng.between(500, 15_000), grace_s * 1_000 + rng.between(1_000, 8_000));
    Some(PlannedFault { at_ms, for_ms, fault })
}

/// In some runs, one step in eight becomes one on a key whose values expire.
fn expiring(rng: &mut Rng, script: &mut [Step]) {
    if rng.below(3) != 0 {
        return;
    }
    for step in script.iter_mut().filter(|step| step.id % 8 == 0) {
        step.workload = Workload::Expiring;
        step.key = rng.below(4) as u32;
        step.verb = match rng.below(10) {
            0..=4 => Verb::Put,
            5 => Verb::Delete,
            _ => Verb::Read,
        };
        step.ttl_ms = (rng.below(8) > 0).then(|| rng.magnitude(100, 8_000) as u32);
    }
}

/// The keys of a workload that are in use.
struct Keys {
    workload: Workload,
    used: Vec<(u32, u32, u32)>,
    next: u32,
}

impl Keys {
    fn new(workload: Workload, rng: &mut Rng) -> Self {
        let count = rng.between(1, 3) as u32;
        Self { workload, used: (0..count).map(|key| (key, 0, 0)).collect(), next: count }
    }

    /// A key to use, and the verb.
    fn draw(&mut self, rng: &mut Rng) -> (u32, Verb) {
        let at = rng.index(self.used.len());
        if self.used[at].1 >= KEY_LIFE {
            self.used[at] = (self.next, 0, 0);
            self.next += 1;
        }
        let (key, life, blind) = &mut self.used[at];
        *life += 1;
        let verb = match (self.workload, rng.below(100)) {
            (Workload::Set, 0..=49) => Verb::PutBlind,
            (Workload::Set, _) => Verb::Read,
            (Workload::Siblings, 0..=37) | (Workload::Register, 0..=49) => Verb::Read,
            (Workload::Siblings, 38..=69) => Verb::Put,
            (Workload::Siblings, 70..=77) => Verb::PutBlind,
            (Workload::Siblings, 78..=82) => Verb::PutStale,
            (Workload::Siblings, 83..=93) => Verb::Delete,
            (Workload::Siblings, _) => Verb::DeleteBlind,
            (Workload::Register, 50..=69) => Verb::Put,
            (Workload::Register, 70..=94) => Verb::PutBlind,
            (Workload::Register, _) => Verb::DeleteBlind,
            // Made of the others' steps; see `expiring`.
            (Workload::Expiring, _) => Verb::Read,
            (Workload::Strong | Workload::Conditional, _) => Verb::Read,
        };
        if verb != Verb::PutBlind || self.workload == Workload::Register {
            return (*key, verb);
        }
        *blind += 1;
        (*key, if *blind > MAX_BLIND { Verb::Read } else { verb })
    }
}

/// Operations after which a key that Paxos writes is left alone: the search for an order of them
/// stays short.
const SERIAL_KEY_LIFE: u32 = 60;

/// Turns some of the steps into lightweight transactions.
fn make_serial(rng: &mut Rng, script: &mut [Step]) {
    let workloads: &[Workload] = match rng.below(4) {
        0 => &[Workload::Strong, Workload::Conditional],
        1 => &[Workload::Conditional],
        _ => &[Workload::Strong],
    };
    let share = rng.between(30, 90);
    let keys = rng.between(1, 2) as u32;
    let mut used: Vec<Vec<(u32, u32)>> =
        workloads.iter().map(|_| (0..keys).map(|key| (key, 0)).collect()).collect();
    for step in script {
        if rng.below(100) >= share {
            continue;
        }
        let which = rng.index(workloads.len());
        let at = rng.index(used[which].len());
        let next = used[which].iter().map(|(key, _)| key + 1).max().unwrap_or(0);
        let (key, life) = &mut used[which][at];
        if *life >= SERIAL_KEY_LIFE {
            (*key, *life) = (next, 0);
        }
        *life += 1;
        step.key = *key;
        step.workload = workloads[which];
        step.size = step.size.min(4_096);
        step.level = Consistency::Serial;
        step.ttl_ms = None;
        step.verb = match (workloads[which], rng.below(100)) {
            (_, 0..=34) => Verb::Read,
            (Workload::Strong, 35..=49) => Verb::PutBlind,
            (Workload::Strong, 50..=53) => Verb::DeleteBlind,
            (_, 35..=79) => Verb::PutIf,
            (_, 80..=91) => Verb::PutIfStale,
            _ => Verb::DeleteIf,
        };
        // Where answers wait for the data of a majority, quorum reads are part of the order.
        if step.verb == Verb::Read && step.workload == Workload::Conditional && rng.below(3) == 0 {
            step.level = Consistency::Quorum;
        }
    }
}

fn script(rng: &mut Rng, swarm: &Swarm, operations: u32) -> (Vec<Step>, u64) {
    let mut keys: Vec<Keys> = swarm.workloads.iter().map(|w| Keys::new(*w, rng)).collect();
    let pause_us = 800 * u64::from(swarm.clients) * rng.between(8, 40);
    let mut steps = Vec::with_capacity(operations as usize);
    for id in 1..=u64::from(operations) {
        let at = rng.index(keys.len());
        let (key, verb) = keys[at].draw(rng);
        let level = match rng.below(20) {
            0 if swarm.weak => Consistency::One,
            1 => Consistency::All,
            _ => Consistency::Quorum,
        };
        let size = match rng.below(40) {
            0 if swarm.large => rng.magnitude(4_096, 300_000),
            _ => rng.magnitude(16, 256),
        };
        steps.push(Step {
            id,
            client: rng.below(u64::from(swarm.clients)) as u32,
            key,
            workload: keys[at].workload,
            verb,
            node: rng.below(u64::from(swarm.nodes)) as u32,
            gap_us: rng.below(2 * pause_us) as u32,
            level,
            retries: swarm.retries && rng.flip(),
            hang_up_us: (swarm.hang_ups && rng.below(15) == 0)
                .then(|| rng.magnitude(10, 20_000) as u32),
            hang_up_awaits: None,
            size: size as u32,
            ttl_ms: None,
        });
    }
    let length_ms = u64::from(operations) * (pause_us + 8_000) / u64::from(swarm.clients) / 1_000;
    (steps, length_ms)
}

fn weather(rng: &mut Rng) -> LinkProfile {
    let latency_min = rng.magnitude(50_000, 20_000_000);
    LinkProfile {
        latency_min,
        latency_max: latency_min * rng.between(1, 20),
        tail: Ppm(rng.below(50_000) as u32),
        loss: Ppm::percent(rng.below(30) as u32),
        duplicate: Ppm::percent(rng.below(50) as u32),
        replay_max: Duration::from_secs(60).as_nanos() as u64,
        corrupt: Ppm(rng.below(5_000) as u32),
        cut: Ppm(rng.below(20_000) as u32),
        capacity: if rng.flip() { rng.between(2, 20) as u32 } else { 0 },
    }
}

/// One fault of the classes that are in, and how long it lasts, in milliseconds.
fn draw_fault(rng: &mut Rng, swarm: &Swarm, loss_left: &mut u32) -> (Fault, u64) {
    let nodes = swarm.nodes;
    let node = rng.below(u64::from(nodes)) as u32;
    let other = (node + 1 + rng.below(u64::from(nodes - 1)) as u32) % nodes;
    let all = (1 << nodes) - 1;
    loop {
        let class = rng.index(7);
        let is_in = swarm.classes.get(class).copied().unwrap_or(*loss_left > 0);
        if !is_in {
            continue;
        }
        let short = rng.magnitude(20, 400);
        let long = rng.magnitude(50, 1_600);
        return match (class, rng.below(5)) {
            (0, 0 | 1) => (Fault::Isolate { node }, long),
            (0, 2) => (Fault::Halves { sides: rng.between(1, u64::from(all - 1)) as u32 }, long),
            (0, 3) if nodes > 3 => (Fault::Ring, long),
            (0, 3) => (Fault::OneWay { from: other, to: node }, long),
            (0, _) => (Fault::Bridge { node }, long),
            (1, 0) => (Fault::OneWay { from: node, to: other }, long),
            (1, 1) => (Fault::Clog { from: node, to: other }, long),
            (1, 2) => (Fault::Cut { a: node, b: other }, 1),
            (1, _) => (Fault::Weather { profile: weather(rng) }, long),
            (2, _) if swarm.hints_only => (Fault::Stop { node }, short),
            (2, 0 | 1) => (Fault::Kill { node }, short),
            (2, 2) => (Fault::Flap { node, times: rng.between(2, 5) as u32 }, short),
            (2, 3) => (Fault::Stop { node }, short),
            (2, _) => (Fault::Pause { node }, rng.magnitude(20, 3_000)),
            (3, n) => {
                let nodes = match n {
                    0 | 1 => all,
                    2 => 1 << node | 1 << other,
                    _ => 1 << node,
                };
                (Fault::PowerLoss { nodes, policy: *rng.pick(&PowerLoss::ALL) }, short)
            }
            (4, 0 | 1) => {
                let size = rng.magnitude(1_000, 5_000_000) as i64;
                let offset_us = if rng.flip() { size } else { -size };
                (Fault::ClockSet { node, offset_us }, 1)
            }
            (4, 2) => (Fault::ClockFreeze { node }, long),
            (4, _) => {
                let ppm = rng.magnitude(100, 200_000) as i64;
                (Fault::ClockDrift { node, ppm: if rng.flip() { ppm } else { -ppm } }, long)
            }
            (5, 0) => {
                let factor = rng.magnitude(4, 200) as u32;
                (Fault::SlowDisk { node, factor, stall_ms: rng.magnitude(1, 500) as u32 }, long)
            }
            (5, 1) => (
                Fault::DiskErrors { node, chance: Ppm(rng.magnitude(1_000, 200_000) as u32) },
                long,
            ),
            (5, 2) => (Fault::DiskFull { node }, long),
            (5, _) => (Fault::SyncError { node }, long),
            _ => {
                *loss_left -= 1;
                match swarm.loss {
                    Loss::Rot(node) => (Fault::Rot { node, nth: rng.next_u64() as u32 }, 1),
                    _ if rng.flip() => (Fault::Wipe { node }, short),
                    _ => (Fault::Restore { node }, long),
                }
            }
        };
    }
}

fn faults(rng: &mut Rng, swarm: &Swarm, count: u32, length_ms: u64) -> Vec<PlannedFault> {
    let mut loss_left = match swarm.loss {
        Loss::None => 0,
        Loss::Wipes => rng.between(1, 5) as u32,
        Loss::Rot(_) => rng.between(1, 10) as u32,
    };
    let mut faults: Vec<PlannedFault> = (0..count)
        .map(|_| {
            let (fault, for_ms) = draw_fault(rng, swarm, &mut loss_left);
            PlannedFault { at_ms: rng.below(length_ms.max(1)), for_ms, fault }
        })
        .collect();
    faults.sort_by_key(|planned| planned.at_ms);
    faults
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_is_one_plan_and_plans_read_back() {
        let plan = generate(5, Size::default());
        assert_eq!(plan, generate(5, Size::default()));
        assert_ne!(plan.script, generate(6, Size::default()).script);
        assert_eq!(Plan::from_json(&plan.to_json()), Ok(plan));
    }

    #[test]
    fn every_fault_and_verb_comes_up_in_some_plan() {
        let mut faults = std::collections::BTreeSet::new();
        let mut verbs = std::collections::BTreeSet::new();
        for seed in 0..300 {
            let plan = generate(seed, Size { operations: 200, faults: 40 });
            assert_eq!(plan.script.len(), 200);
            faults.extend(plan.fault_names());
            verbs.extend(plan.script.iter().map(|step| step.verb));
        }
        assert_eq!((faults.len(), verbs.len()), (23, 9), "{faults:?}");
    }

    #[test]
    fn wipes_and_rot_are_never_planned_together() {
        for seed in 0..300 {
            let plan = generate(seed, Size { operations: 10, faults: 40 });
            let names = plan.fault_names();
            let has = |name: &str| names.iter().any(|n| n == name);
            assert!(!(has("rot") && (has("wipe") || has("restore"))));
        }
    }
}
