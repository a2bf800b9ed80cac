//! Faults, carried out: each begins, ends, and says whether it met anybody.
//!
//! A fault that silently does nothing is the classic false pass, so each has a probe: messages
//! that met a block, operations that a disk refused, a process that was alive to be killed. Only
//! those that took effect count.
//!
//! Limits of what a restored copy can be told by are kept to: a copy of the node's *present* life
//! is put back only where scenarios of [`crate::node`] do it, since others have heard of what it
//! lacks only a gossip round later; and a copy is not put back while another node has not heard of
//! the start that tells it.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;

use crate::sim::client::Bench;
use crate::sim::cluster::{Life, SimCluster};
use crate::sim::disk::{DiskEffects, DiskImage};
use crate::sim::engine::SimEngine;
use crate::sim::executor::GroupId;
use crate::sim::plan::{Fault, PlannedFault};
use crate::sim::rng::Ppm;
use crate::sim::trace::TraceKind;
use crate::storage::KeyRange;
use crate::storage::keys::Kind;

/// What a fault has to remember between its beginning and its end.
enum Probe {
    /// It met nobody, or has struck and left nothing to undo.
    Over { effect: bool },
    /// Blocked directions, with the messages each had met before.
    Blocks(Vec<(u32, u32, u64)>),
    /// Messages lost and repeated before.
    Weather(u64),
    /// Held down: these nodes come back at the end.
    Down { nodes: Vec<u32>, effect: bool },
    /// A process that stands still.
    Paused(GroupId),
    /// A disk fault, with what had happened on that disk before.
    Disk(u32, DiskEffects, u64),
    /// A copy of a disk, and the node's lives until then.
    Image(u32, DiskImage, u32),
}

/// Counts of faults that took effect, by name.
pub type Effects = Arc<Mutex<Vec<&'static str>>>;

/// Plans all faults of the run into the world's calendar.
pub fn schedule(bench: &Arc<Bench>, effects: &Effects) {
    for planned in bench.cluster.plan().faults.clone() {
        let (bench, effects) = (Arc::clone(bench), Arc::clone(effects));
        let delay = Duration::from_millis(planned.at_ms);
        let world = bench.cluster.world().clone();
        world.call_after(delay, move |_| strike(&bench, &effects, planned));
    }
}

fn strike(bench: &Arc<Bench>, effects: &Effects, planned: PlannedFault) {
    let cluster = bench.cluster.clone();
    let name = planned.fault.name();
    mark(bench, "begin", &planned.fault);
    let probe = begin(&cluster, &planned);
    let (bench, effects) = (Arc::clone(bench), Arc::clone(effects));
    let finish = move |cluster: &SimCluster| {
        if end(cluster, &planned.fault, probe) {
            effects.lock().unwrap_or_else(PoisonError::into_inner).push(name);
        }
        mark(&bench, "end", &planned.fault);
    };
    let world = cluster.world().clone();
    world.call_after(Duration::from_millis(planned.for_ms), move |_| finish(&cluster));
}

fn mark(bench: &Arc<Bench>, what: &str, fault: &Fault) {
    let world = bench.cluster.world();
    let detail = serde_json::to_string(fault).unwrap_or_default();
    world.record(None, TraceKind::Fault, xxhash_rust::xxh3::xxh3_64(detail.as_bytes()));
    bench.history().fault(world.now(), format!("{what} {}", fault.name()), detail);
}

/// Directions that a partition cuts.
fn cut_directions(fault: &Fault, nodes: u32) -> Vec<(u32, u32)> {
    let all = (0..nodes).flat_map(|a| (0..nodes).map(move |b| (a, b)).filter(|(a, b)| a != b));
    let is_cut = |a: u32, b: u32| match *fault {
        Fault::Isolate { node } => a == node || b == node,
        Fault::Halves { sides } => (sides >> a & 1) != (sides >> b & 1),
        Fault::Ring => !(a.abs_diff(b) == 1 || a.abs_diff(b) == nodes - 1),
        Fault::Bridge { node } => {
            a != node && b != node && (a < node) != (b < node) ||
            // With the bridge at an end of the row, the others would all be on one side.
            (node == 0 || node == nodes - 1) && a != node && b != node && a % 2 != b % 2
        }
        Fault::OneWay { from, to } => (a, b) == (from, to),
        _ => false,
    };
    all.filter(|&(a, b)| is_cut(a, b)).collect()
}

fn begin(cluster: &SimCluster, planned: &PlannedFault) -> Probe {
    let net = cluster.net();
    match &planned.fault {
        fault @ (Fault::Isolate { .. }
        | Fault::Halves { .. }
        | Fault::Ring
        | Fault::Bridge { .. }
        | Fault::OneWay { .. }) => {
            let cut = cut_directions(fault, cluster.plan().nodes).into_iter();
            Probe::Blocks(
                cut.map(|(a, b)| {
                    let (from, to) = (cluster.id(a), cluster.id(b));
                    net.block(from, to);
                    (a, b, net.hits(from, to))
                })
                .collect(),
            )
        }
        Fault::Clog { from, to } => {
            let (a, b) = (cluster.id(*from), cluster.id(*to));
            net.clog(a, b, cluster.world().now() + planned.for_ms * 1_000_000);
            Probe::Blocks(vec![(*from, *to, net.hits(a, b))])
        }
        Fault::Cut { a, b } => {
            net.cut(cluster.id(*a), cluster.id(*b));
            Probe::Over { effect: cluster.life(*a).is_some() && cluster.life(*b).is_some() }
        }
        Fault::Weather { profile } => {
            net.set_profile(None, *profile);
            Probe::Weather(bad_luck(cluster))
        }
        Fault::Kill { node } => take_down(cluster, &[*node], true),
        Fault::Flap { node, times } => flap(cluster, *node, *times),
        Fault::PowerLoss { nodes, policy } => {
            let hit: Vec<u32> = (0..cluster.plan().nodes)
                .filter(|n| nodes >> n & 1 == 1 && may_lose_power(cluster, *n))
                .collect();
            let probe = take_down(cluster, &hit, false);
            for n in hit {
                let disk = cluster.nodes()[n as usize].disk.clone();
                disk.lose_power(*policy);
            }
            probe
        }
        Fault::Stop { node } => stop(cluster, *node),
        Fault::Pause { node } => match cluster.life(*node) {
            Some(life) if !cluster.world().is_paused(life.group) => {
                cluster.oracle().paused(*node);
                cluster.world().pause(life.group, true);
                Probe::Paused(life.group)
            }
            _ => Probe::Over { effect: false },
        },
        Fault::ClockSet { .. } | Fault::ClockDrift { .. } | Fault::ClockFreeze { .. } => {
            begin_clock(cluster, &planned.fault)
        }
        Fault::SlowDisk { .. }
        | Fault::DiskErrors { .. }
        | Fault::DiskFull { .. }
        | Fault::SyncError { .. } => begin_disk(cluster, &planned.fault),
        Fault::Rot { node, nth } => {
            let engine = cluster.nodes()[*node as usize].last_engine.clone();
            let effect = engine.is_some_and(|engine| {
                let range = row_to_rot(cluster, &engine, *nth);
                engine.rot_value(&range, *nth as usize)
            });
            if effect {
                cluster.oracle().rotted(*node);
            }
            Probe::Over { effect }
        }
        Fault::Wipe { node } => {
            if !others_are_whole(cluster, *node) {
                return Probe::Over { effect: false };
            }
            let probe = take_down(cluster, &[*node], true);
            let mut nodes = cluster.nodes();
            nodes[*node as usize].disk.wipe();
            nodes[*node as usize].losses += 1;
            probe
        }
        Fault::Restore { node } => {
            let (image, lives) = {
                let nodes = cluster.nodes();
                (nodes[*node as usize].disk.image(), nodes[*node as usize].lives)
            };
            cluster.kill(*node, true);
            cluster.start(*node);
            Probe::Image(*node, image, lives)
        }
    }
}

fn end(cluster: &SimCluster, fault: &Fault, probe: Probe) -> bool {
    let net = cluster.net();
    match probe {
        Probe::Over { effect } => effect,
        Probe::Blocks(blocks) => {
            let mut hits = 0;
            for (a, b, before) in blocks {
                let (from, to) = (cluster.id(a), cluster.id(b));
                if !matches!(fault, Fault::Clog { .. }) {
                    net.unblock(from, to);
                }
                hits += net.hits(from, to) - before;
            }
            hits > 0
        }
        Probe::Weather(before) => {
            net.set_profile(None, cluster.plan().link);
            bad_luck(cluster) > before
        }
        Probe::Down { nodes, effect } => {
            let wait = after_loss(cluster, fault);
            for n in nodes {
                let again = cluster.clone();
                cluster.world().call_after(wait, move |_| bring_up(&again, n));
            }
            effect
        }
        Probe::Paused(group) => {
            cluster.world().pause(group, false);
            true
        }
        Probe::Disk(node, before, syncs) => end_disk(cluster, fault, node, before, syncs),
        Probe::Image(node, image, lives) => restore(cluster, node, &image, lives),
    }
}

/// What rots: by every other draw a record that another node holds in another version, if there
/// is one. Where a write has reached a bare majority, taking one of its copies for absent loses it;
/// elsewhere read repair would hide that.
fn row_to_rot(cluster: &SimCluster, engine: &Arc<SimEngine>, nth: u32) -> KeyRange {
    let all = KeyRange::prefix(&[Kind::Record as u8]);
    if nth.is_multiple_of(2) {
        return all;
    }
    let others: Vec<Arc<SimEngine>> = cluster
        .nodes()
        .iter()
        .filter_map(|node| node.last_engine.clone())
        .filter(|other| !Arc::ptr_eq(other, engine))
        .collect();
    let is_elsewhere_otherwise = |row: &Bytes, value: &Bytes| {
        let held = |other: &Arc<SimEngine>| other.durable(row).ok().flatten();
        others.iter().filter_map(held).any(|held| held != *value)
    };
    let rows: Vec<Bytes> = engine
        .durable_rows(&all)
        .into_iter()
        .filter_map(|(row, value)| is_elsewhere_otherwise(&row, &value?).then_some(row))
        .collect();
    match rows.get(nth as usize / 2 % rows.len().max(1)) {
        Some(row) => KeyRange::prefix(row),
        None => all,
    }
}

/// An operation counts copies that a wipe destroys under it. A real disk is not replaced within
/// the second that an operation may last; so it takes longer here too.
fn after_loss(cluster: &SimCluster, fault: &Fault) -> Duration {
    match fault {
        Fault::Wipe { .. } | Fault::Restore { .. } => {
            Duration::from_millis(cluster.plan().timeout_ms + 1_000)
        }
        _ => Duration::ZERO,
    }
}

fn bad_luck(cluster: &SimCluster) -> u64 {
    let stats = cluster.net().stats();
    stats.lost + stats.duplicated + stats.cut + stats.corrupted
}

fn take_down(cluster: &SimCluster, nodes: &[u32], reset: bool) -> Probe {
    let mut effect = false;
    for &n in nodes {
        cluster.nodes()[n as usize].held_down += 1;
        effect |= cluster.kill(n, reset);
    }
    Probe::Down { nodes: nodes.to_vec(), effect }
}

fn bring_up(cluster: &SimCluster, n: u32) {
    {
        let mut nodes = cluster.nodes();
        let node = &mut nodes[n as usize];
        node.held_down = node.held_down.saturating_sub(1);
    }
    cluster.start(n);
}

/// Killed and started `times` times within the fault's span.
fn flap(cluster: &SimCluster, n: u32, times: u32) -> Probe {
    let effect = cluster.kill(n, true);
    cluster.start(n);
    for round in 1..times {
        let again = cluster.clone();
        cluster.world().call_after(Duration::from_millis(u64::from(round) * 15), move |_| {
            if again.kill(n, true) {
                again.start(n);
            }
        });
    }
    Probe::Over { effect }
}

fn stop(cluster: &SimCluster, n: u32) -> Probe {
    let Some(Life { node, env, .. }) = cluster.life(n) else {
        return Probe::Over { effect: false };
    };
    cluster.nodes()[n as usize].held_down += 1;
    let stopped = cluster.clone();
    env.spawn("stop", async move {
        let result = node.stop().await;
        tracing::info!(?result, "stopped");
        stopped.world().clone().call_after(Duration::ZERO, move |_| {
            stopped.kill(n, true);
            // If the fault is over by now, this is what would have been its end.
            stopped.start(n);
        });
    });
    Probe::Down { nodes: vec![n], effect: true }
}

fn begin_clock(cluster: &SimCluster, fault: &Fault) -> Probe {
    let world = cluster.world();
    let machine = |n: u32| cluster.nodes()[n as usize].machine;
    match *fault {
        Fault::ClockSet { node, offset_us } => {
            let machine = machine(node);
            let truth = crate::sim::executor::WALL_ORIGIN_MICROS + world.now() / 1_000;
            let target = truth.saturating_add_signed(offset_us);
            let by = i64::try_from(i128::from(target) - i128::from(world.wall(machine)));
            world.jump_wall(machine, by.unwrap_or(0));
        }
        Fault::ClockDrift { node, ppm } => world.set_drift(machine(node), ppm),
        Fault::ClockFreeze { node } => world.freeze_wall(machine(node), true),
        _ => {}
    }
    Probe::Over { effect: true }
}

/// Ends what a clock fault left: drift and standstill; the offset stays.
pub fn mend_clock(cluster: &SimCluster, n: u32) {
    let machine = cluster.nodes()[n as usize].machine;
    cluster.world().set_drift(machine, 0);
    cluster.world().freeze_wall(machine, false);
}

fn begin_disk(cluster: &SimCluster, fault: &Fault) -> Probe {
    let (n, disk, machine) = {
        let n = match *fault {
            Fault::SlowDisk { node, .. }
            | Fault::DiskErrors { node, .. }
            | Fault::DiskFull { node }
            | Fault::SyncError { node } => node,
            _ => return Probe::Over { effect: false },
        };
        let nodes = cluster.nodes();
        let node = &nodes[n as usize];
        (n, node.disk.clone(), node.machine)
    };
    let mut faults = disk.faults();
    match *fault {
        Fault::SlowDisk { factor, stall_ms, .. } => {
            faults.slow = factor;
            let high = Duration::from_micros(200 * u64::from(factor));
            let stall = (Ppm::percent(5), Duration::from_millis(u64::from(stall_ms)));
            cluster.world().set_blocking(machine, Duration::from_micros(1), high, stall);
        }
        Fault::DiskErrors { chance, .. } => {
            (faults.read_error, faults.write_error) = (chance, chance);
        }
        Fault::DiskFull { .. } => faults.full = true,
        Fault::SyncError { .. } => faults.sync_error = Ppm::ALWAYS,
        _ => {}
    }
    let (before, syncs) = (disk.effects(), syncs_of(cluster, n));
    disk.set_faults(faults);
    Probe::Disk(n, before, syncs)
}

fn syncs_of(cluster: &SimCluster, n: u32) -> u64 {
    use crate::storage::Engine as _;
    let engine = cluster.nodes()[n as usize].last_engine.clone();
    engine.map_or(0, |engine| engine.stats().syncs)
}

fn end_disk(cluster: &SimCluster, fault: &Fault, n: u32, before: DiskEffects, syncs: u64) -> bool {
    let (disk, machine) = {
        let nodes = cluster.nodes();
        (nodes[n as usize].disk.clone(), nodes[n as usize].machine)
    };
    let (mut faults, effects) = (disk.faults(), disk.effects());
    let effect = match fault {
        Fault::SlowDisk { .. } => {
            faults.slow = 1;
            let usual = (Duration::from_micros(1), Duration::from_micros(200));
            let never = (Ppm::NEVER, Duration::ZERO);
            cluster.world().set_blocking(machine, usual.0, usual.1, never);
            syncs_of(cluster, n) != syncs
        }
        Fault::DiskErrors { .. } => {
            (faults.read_error, faults.write_error) = (Ppm::NEVER, Ppm::NEVER);
            effects.read_errors + effects.write_errors > before.read_errors + before.write_errors
        }
        Fault::DiskFull { .. } => {
            faults.full = false;
            effects.full > before.full
        }
        Fault::SyncError { .. } => {
            faults.sync_error = Ppm::NEVER;
            effects.sync_errors > before.sync_errors
        }
        _ => false,
    };
    disk.set_faults(faults);
    // A node whose storage has stopped stays up and acknowledges nothing until someone starts it
    // anew.
    if cluster.life(n).is_some_and(|life| life.engine.has_failed()) {
        cluster.kill(n, true);
        cluster.start(n);
    }
    effect
}

/// True when every other node runs and lacks nothing: the one loss more can be borne.
fn others_are_whole(cluster: &SimCluster, n: u32) -> bool {
    (0..cluster.plan().nodes).filter(|&other| other != n).all(|other| {
        cluster.life(other).is_some_and(|life| {
            let part = life.node.cluster();
            part.may_serve(&part.state()) && !life.engine.has_failed()
        })
    })
}

/// A node that was started anew after a failed sync takes for durable what is only in the page
/// cache, and tells others of it. The loss of power then puts it back to an older state, as a
/// restored copy does; as with that, the others must be whole.
fn may_lose_power(cluster: &SimCluster, n: u32) -> bool {
    let disk = cluster.nodes()[n as usize].disk.clone();
    !disk.has_lost_syncs() || others_are_whole(cluster, n)
}

/// True when every node that runs knows the start `nonce` of node `n` to be the one on record.
fn all_know(cluster: &SimCluster, n: u32, nonce: u64) -> bool {
    (0..cluster.plan().nodes).filter_map(|other| cluster.life(other)).all(|life| {
        let state = life.node.cluster().state();
        state.member(cluster.id(n)).is_some_and(|member| member.nonce == nonce)
    })
}

fn restore(cluster: &SimCluster, n: u32, image: &DiskImage, lives: u32) -> bool {
    let on_record = cluster.life(n).is_some_and(|life| {
        let part = life.node.cluster();
        part.may_serve(&part.state()) && all_know(cluster, n, life.node.identity().nonce)
    });
    let lives_on = on_record && cluster.nodes()[n as usize].lives > lives;
    if !lives_on || !others_are_whole(cluster, n) || image.is_empty() {
        return false;
    }
    cluster.nodes()[n as usize].held_down += 1;
    cluster.kill(n, true);
    {
        let mut nodes = cluster.nodes();
        nodes[n as usize].disk.restore(image);
        nodes[n as usize].losses += 1;
    }
    let again = cluster.clone();
    let wait = Duration::from_millis(cluster.plan().timeout_ms + 1_000);
    cluster.world().call_after(wait, move |_| bring_up(&again, n));
    true
}

/// Ends everything that a fault may have left, and lets all nodes run.
pub fn heal(cluster: &SimCluster) {
    cluster.net().set_profile(None, cluster.plan().link);
    cluster.net().heal();
    for n in 0..cluster.plan().nodes {
        let (disk, machine) = {
            let mut nodes = cluster.nodes();
            let node = &mut nodes[n as usize];
            node.held_down = 0;
            (node.disk.clone(), node.machine)
        };
        disk.set_faults(crate::sim::disk::DiskFaults::default());
        let (low, high) = (Duration::from_micros(1), Duration::from_micros(200));
        cluster.world().set_blocking(machine, low, high, (Ppm::NEVER, Duration::ZERO));
        mend_clock(cluster, n);
        if let Some(life) = cluster.life(n) {
            cluster.world().pause(life.group, false);
            if life.engine.has_failed() {
                cluster.kill(n, true);
            }
        }
        cluster.start(n);
    }
}
