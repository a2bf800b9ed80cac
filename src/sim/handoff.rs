//! Watches hints from inside: I15 (a hint is deleted only after its target durably has the record)
//! and I16 (what a node keeps and queues stays within its bounds); at the end, whether all of them
//! have gone where they belong (W12).

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;

use crate::record::{self, Record};
use crate::repair::hints::Hint;
use crate::sim::check::Check;
use crate::sim::cluster::{Life, SimCluster};
use crate::sim::engine::SimEngine;
use crate::storage::keys::{self, Kind};
use crate::storage::{CommitterOptions, KeyRange};

/// Time by which a node may be late with dropping what is too old.
const LATE: Duration = Duration::from_secs(20);

/// A hint that was seen on a disk.
#[derive(Clone)]
struct Seen {
    value: Bytes,
    /// How much the target's disk had lost by then.
    target_losses: u32,
}

/// The hints of one node when it was last looked at.
#[derive(Default)]
struct Kept {
    losses: u32,
    /// Hints that the node's present life has dropped as too old, or as purged since.
    expired: u64,
    /// Since when its present life has served; one that does not drops nothing.
    serves_since: Option<u64>,
    rows: BTreeMap<Bytes, Seen>,
}

/// See the module's text.
#[derive(Default)]
pub struct HintWatch {
    kept: Mutex<BTreeMap<u32, Kept>>,
}

impl std::fmt::Debug for HintWatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("HintWatch")
    }
}

/// A node's disk, whether or not the node runs; not while nobody has opened what it holds now.
struct Site {
    number: u32,
    losses: u32,
    engine: Arc<SimEngine>,
    life: Option<Life>,
    wall: u64,
}

fn sites(cluster: &SimCluster) -> Vec<Site> {
    let found: Vec<_> = {
        let nodes = cluster.nodes();
        let of = |(number, node): (usize, &crate::sim::cluster::SimNode)| {
            let engine = node.last_engine.clone().filter(|engine| engine.is_current())?;
            Some((number as u32, node.losses, engine, node.life.clone(), node.machine))
        };
        nodes.iter().enumerate().filter_map(of).collect()
    };
    let world = cluster.world();
    found
        .into_iter()
        .map(|(number, losses, engine, life, machine)| Site {
            number,
            losses,
            engine,
            life,
            wall: world.wall(machine),
        })
        .collect()
}

impl HintWatch {
    /// Looks at every disk and every living node.
    pub fn look(&self, cluster: &SimCluster) {
        let sites = sites(cluster);
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        for site in &sites {
            let before = kept.entry(site.number).or_default();
            let rows = site.engine.durable_rows(&KeyRange::prefix(&[Kind::Hint as u8]));
            let expired = site.life.as_ref().map_or(0, |life| {
                let counters = life.node.hints().counters();
                // Those whose keys were purged since are dropped too.
                counters.expired.load(Ordering::Relaxed) + counters.purged.load(Ordering::Relaxed)
            });
            // Which of them were too old, by a clock that may have been set since, is not known.
            let some_expired = expired != before.expired;
            if before.losses == site.losses && !some_expired {
                for (row, seen) in before.rows.iter().filter(|(row, _)| !rows.contains_key(*row)) {
                    deleted(cluster, &sites, site, row, seen);
                }
            }
            let losses = |row: &Bytes| {
                let (target, _) = keys::parse_hint_row(row).ok()?;
                let number = cluster.number(target)?;
                sites.iter().find(|site| site.number == number).map(|site| site.losses)
            };
            let seen = |(row, value): (Bytes, Option<Bytes>)| {
                // What cannot be read now may be read again: it is not gone.
                let known = before.rows.get(&row);
                let value = value.or_else(|| known.map(|seen| seen.value.clone()))?;
                let target_losses = match known {
                    Some(seen) if seen.value == value => seen.target_losses,
                    _ => losses(&row)?,
                };
                Some((row, Seen { value, target_losses }))
            };
            let rows = rows.into_iter().filter_map(seen).collect();
            let now = cluster.world().now();
            let serves = site.life.as_ref().is_some_and(|life| {
                let part = life.node.cluster();
                part.may_serve(&part.state())
            });
            let serves_since = serves.then(|| before.serves_since.unwrap_or(now));
            *before = Kept { losses: site.losses, expired, serves_since, rows };
            if let Some(life) = &site.life {
                let served = serves_since.map(|since| Duration::from_nanos(now - since));
                within_bounds(cluster, site.number, life, served.unwrap_or_default());
            }
        }
    }
}

/// I15 for one hint that is gone.
fn deleted(cluster: &SimCluster, sites: &[Site], holder: &Site, row: &Bytes, seen: &Seen) {
    let Ok(hint) = Hint::read(row, &seen.value) else { return };
    let too_old = cluster.plan().hint_max_age_ms * 1_000;
    if holder.wall.saturating_sub(hint.since.0) > too_old {
        return;
    }
    let target = cluster.number(hint.target);
    let Some(target) = sites.iter().find(|site| Some(site.number) == target) else { return };
    if target.losses != seen.target_losses {
        return;
    }
    let address = record::address(hint.table, &hint.key);
    let Ok(incoming) = Record::decode(&hint.record, &address) else { return };
    let place = keys::row(
        Kind::Record,
        hint.table,
        crate::ring::token_in(hint.table, &hint.key),
        &hint.key,
        b"",
    );
    let Ok(held) = target.engine.durable(&place) else { return };
    let held = held.map(|bytes| Record::decode(&bytes, &address)).transpose();
    // A damaged copy says nothing of what it held.
    let Ok(held) = held else { return };
    let lacks = |held: Option<Record>| {
        held.is_none_or(|mut held| held.merge(&incoming).is_ok_and(|merged| merged.changed))
    };
    // It may have been purged since, by proof.
    let purged = cluster.oracle().removed_record(target.number, &place);
    if lacks(held) && lacks(purged) {
        let key = String::from_utf8_lossy(hint.key.as_bytes()).into_owned();
        let what = format!(
            "node {} has deleted a hint for node {}, which does not have the record",
            holder.number, target.number
        );
        cluster.oracle().breach(cluster, Check::I15, &key, what);
    }
}

/// I16 for one node, which has served for so long.
fn within_bounds(cluster: &SimCluster, n: u32, life: &Life, served: Duration) {
    let hints = life.node.hints();
    let bounds = *hints.settings();
    let breach = |what: String| cluster.oracle().breach(cluster, Check::I16, "", what);
    if hints.bytes() > bounds.max_bytes {
        breach(format!("node {n} keeps {} bytes of hints", hints.bytes()));
    }
    let faults = cluster.plan().fault_names();
    // A wall clock that is set makes hints old at once, and a bad disk keeps what is to go.
    let ages_count = !faults.iter().any(|name| {
        ["clock", "disk", "slow", "sync", "pause"].iter().any(|word| name.contains(word))
    });
    for target in hints.targets() {
        if target.bytes > bounds.max_target_bytes {
            breach(format!("node {n} keeps {} bytes of hints for one node", target.bytes));
        }
        let late = target.oldest > bounds.max_age + LATE;
        if late && ages_count && served > LATE {
            breach(format!("node {n} keeps a hint that is {:?} old", target.oldest));
        }
    }
    let (queue, options) = (life.node.committer().stats(), CommitterOptions::default());
    let over = queue.queued_bytes > options.max_queue_bytes && queue.queued_batches > 1;
    if over || queue.queued_batches > options.max_queue_batches + 1_000 {
        breach(format!("node {n} queues {} bytes for its disk", queue.queued_bytes));
    }
}

/// A hint that some node still keeps, in words.
#[must_use]
pub fn pending(cluster: &SimCluster) -> Option<String> {
    (0..cluster.plan().nodes).find_map(|n| {
        let kept = cluster.life(n)?.node.hints().targets();
        let target = kept.first()?;
        let whom = cluster.number(target.target).map_or(-1, i64::from);
        Some(format!("node {n} keeps {} hints for node {whom}", target.count))
    })
}
