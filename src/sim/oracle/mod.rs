//! Judges a run from inside, while it runs: the invariants that no client can see.
//!
//! It looks into every node and disk, which nothing in the real world can, and never changes
//! anything. A breach is noted, not fatal: the run goes on, so that the check named for a bug gets
//! its chance beside the invariant that notices it first.

mod copies;
mod inspect;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::coordinator::{ReadOutcome, WriteOp, WriteOutcome};
use crate::record::{self, Record, RecordKind};
use crate::sim::check::{Check, Violation};
use crate::sim::cluster::{Life, SimCluster};
use crate::storage::keys::{self, Kind};
use crate::types::{ActorId, Ballot, Consistency, Dot, Key, TableId, WallMicros};

use copies::{Copy, copies, keepers};
pub use inspect::Inspector;

/// Breaches kept per check: the first ones tell most.
const KEPT_PER_CHECK: usize = 5;
/// Of so many acknowledgements, one has all replicas' copies of its key looked at.
const SAMPLE: u64 = 4;

#[derive(Default)]
struct Known {
    violations: Vec<Violation>,
    /// What each epoch's state looks like, whoever got there first.
    states: BTreeMap<u64, u64>,
    /// Of each node: losses, lives, epoch and hybrid clock when last looked at.
    nodes: BTreeMap<u32, NodeSeen>,
    /// Which node, after how many losses, an actor acted for.
    actors: BTreeMap<ActorId, (u32, u32)>,
    /// The greatest reading of any wall clock.
    max_wall: u64,
    /// What a node had seen of a key: (node, losses, key).
    contexts: BTreeMap<(u32, u32, Key), crate::causality::Context>,
    /// The latest event of an actor on a key that was on that actor's disk when it was told of.
    synced: BTreeMap<(ActorId, Key), u64>,
    /// What is known to be dead on a node: (node, losses, key).
    lives: BTreeMap<(u32, u32, Key), Lives>,
    /// When values expire, by key and version, as it was fixed when they were minted.
    expiries: BTreeMap<(Key, Dot), Option<WallMicros>>,
    /// Records that nodes have removed: (row, node).
    removed: BTreeMap<(Vec<u8>, u32), Record>,
    /// Rows that were removed.
    purged: u64,
    /// How often values on a node's disk have rotted.
    rots: BTreeMap<u32, u32>,
    pauses: BTreeMap<u32, u32>,
    /// The greatest stamp that a node gave out, and how much its disk had lost by then.
    stamps: BTreeMap<u32, (u32, u64)>,
    /// What was proposed at each ballot of a key.
    ballots: BTreeMap<(TableId, Key, Ballot), u64>,
}

/// What one replica has held of a key: every event, and the values at the latest look. Whatever was
/// seen and was not there then is dead.
#[derive(Default)]
struct Lives {
    seen: crate::causality::Context,
    live: Vec<Dot>,
}

#[derive(Clone, Copy, Default)]
struct NodeSeen {
    losses: u32,
    lives: u32,
    epoch: u64,
    clock: u64,
}

/// See the module's text.
#[derive(Default)]
pub struct Oracle {
    known: Mutex<Known>,
    acknowledged: AtomicU64,
    renewals: AtomicU64,
}

impl std::fmt::Debug for Oracle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Oracle")
    }
}

impl Oracle {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a breach.
    pub fn breach(&self, cluster: &SimCluster, check: Check, key: &str, what: String) {
        let at = Duration::from_nanos(cluster.world().now());
        let what = format!("{what} (at {:.6} s)", at.as_secs_f64());
        let mut known = self.known();
        if known.violations.iter().filter(|v| v.check == check).count() < KEPT_PER_CHECK {
            let key = key.to_owned();
            known.violations.push(Violation { check, key, what, operations: Vec::new() });
        }
    }

    /// All breaches noted so far.
    #[must_use]
    pub fn violations(&self) -> Vec<Violation> {
        self.known().violations.clone()
    }

    /// Times that a node found its directory to be an older copy.
    #[must_use]
    pub fn renewals(&self) -> u64 {
        self.renewals.load(Ordering::Relaxed)
    }

    /// How often data was taken from disks, over all nodes.
    #[must_use]
    pub fn losses(&self, cluster: &SimCluster) -> u32 {
        cluster.nodes().iter().map(|node| node.losses).sum()
    }

    /// A value on node `n`'s disk has rotted: what its record held is forgotten, by a loss that
    /// shows, until the other replicas have brought it again.
    pub fn rotted(&self, n: u32) {
        *self.known().rots.entry(n).or_default() += 1;
    }

    /// Rows of records that nodes have removed.
    #[must_use]
    pub fn purged(&self) -> u64 {
        self.known().purged
    }

    /// Node `n` is about to remove a row: I12.
    pub fn removed(&self, cluster: &SimCluster, n: u32, row: &[u8]) {
        if row.first() != Some(&(Kind::Record as u8)) {
            return;
        }
        let Ok(parsed) = keys::parse_row(row) else { return };
        let (table, key) = (parsed.table, parsed.key);
        let mut record = None;
        let mut lacks = Vec::new();
        {
            let copies = copies(cluster, table, &key);
            let known = self.known();
            let own = copies.iter().find(|copy| copy.node == n);
            if let Some(own) = own.and_then(|copy| copy.record.clone()) {
                let holds = |held: &Record| {
                    let mut held = held.clone();
                    held.merge(&own).is_ok_and(|merged| !merged.changed)
                };
                for copy in &copies {
                    let before = known.removed.get(&(row.to_vec(), copy.node));
                    let held = copy.damaged
                        || copy.record.as_ref().is_some_and(holds)
                        || before.is_some_and(holds);
                    if !held {
                        lacks.push(copy.node);
                    }
                }
                record = Some(own);
            }
        }
        let serves = |n: u32| {
            cluster.life(n).is_some_and(|life| {
                let part = life.node.cluster();
                part.may_serve(&part.state())
            })
        };
        let keeps = |n: u32| {
            let Some(life) = cluster.life(n) else { return false };
            let state = life.node.cluster().state();
            state.table(table).is_some_and(|table| {
                let placement = state.ring().placement(&table.settings.replication);
                let partition = state.ring().partition_of(parsed.token);
                placement.of(partition).write.contains(&life.node.id())
            })
        };
        let by_proof = serves(n);
        lacks.retain(|&other| serves(other) && keeps(other));
        if by_proof && !lacks.is_empty() {
            let what = format!("node {n} removes its record, and nodes {lacks:?} do not hold it");
            self.breach(cluster, Check::I12, &text(&key), what);
        }
        let actor = cluster.life(n).map(|life| life.node.identity().actor);
        let mut known = self.known();
        // What it had minted was on its disk, wherever copies of it may still be on their way.
        if let (Some(actor), Some(record)) = (actor, &record) {
            let synced = known.synced.entry((actor, key.clone())).or_default();
            *synced = record.max_counter(actor).max(*synced);
        }
        known.purged += u64::from(by_proof);
        known.contexts.retain(|(node, _, of), _| *node != n || *of != key);
        for ((node, _, of), lives) in &mut known.lives {
            if *node == n && *of == key {
                lives.live.clear();
            }
        }
        if let Some(record) = record {
            known.removed.insert((row.to_vec(), n), record);
        }
    }

    /// What node `n` held in `row` when it last removed it.
    pub fn removed_record(&self, n: u32, row: &[u8]) -> Option<Record> {
        self.known().removed.get(&(row.to_vec(), n)).cloned()
    }

    /// Node `n` holds this record of `key` on its disk: I13.
    fn holds(&self, cluster: &SimCluster, n: u32, key: &Key, record: &Record) {
        if record.kind() != RecordKind::Siblings {
            return;
        }
        let losses = cluster.nodes().get(n as usize).map_or(0, |node| node.losses);
        let live: Vec<Dot> = record.versions().map(|version| version.dot).collect();
        // A write that meets a purge half way is made on what one replica still holds, and its record
        // brings expired values back to the others: as dead as they were (W11 asks what is shown).
        let expires =
            |dot: Dot| record.versions().any(|v| v.dot == dot && v.value.expires_at.is_some());
        let mut known = self.known();
        let losses = losses + known.rots.get(&n).copied().unwrap_or(0);
        let lives = known.lives.entry((n, losses, key.clone())).or_default();
        let risen: Vec<Dot> = live
            .iter()
            .copied()
            .filter(|dot| lives.seen.covers(*dot) && !lives.live.contains(dot) && !expires(*dot))
            .collect();
        lives.seen.union(&record.context());
        lives.live = live;
        drop(known);
        if let Some(dot) = risen.first() {
            let what = format!("version {dot} was dead on node {n} and lives there again");
            self.breach(cluster, Check::I13, &text(key), what);
        }
    }

    /// A version was minted: when it expires is fixed for ever.
    fn minted(&self, key: &Key, record: &Record, dot: Dot) {
        if let Some(version) = record.versions().find(|version| version.dot == dot) {
            let expiry = version.value.expires_at;
            self.known().expiries.entry((key.clone(), dot)).or_insert(expiry);
        }
    }

    /// A client was shown a record: W11 of values that expire.
    pub fn shown(&self, cluster: &SimCluster, name: &str, outcome: &ReadOutcome) {
        let Ok(key) = Key::new(name.as_bytes().to_vec()) else { return };
        let view = outcome.record.view(outcome.now);
        for version in view.versions {
            let expiry = self.known().expiries.get(&(key.clone(), version.dot)).copied().flatten();
            if expiry.is_some_and(|at| at <= outcome.now) {
                let what = format!(
                    "version {} is shown although it was written to expire at {:?}, before {:?}",
                    version.dot, expiry, outcome.now
                );
                self.breach(cluster, Check::W11, name, what);
            }
        }
    }

    /// Times that node `n` was made to stand still.
    #[must_use]
    pub fn pauses(&self, n: u32) -> u32 {
        self.known().pauses.get(&n).copied().unwrap_or(0)
    }

    /// Node `n` stands still.
    pub fn paused(&self, n: u32) {
        *self.known().pauses.entry(n).or_default() += 1;
    }

    /// Node `n` has found that its directory is an older copy.
    pub fn renewed(&self, _n: u32) {
        self.renewals.fetch_add(1, Ordering::Relaxed);
    }

    /// A node has started.
    pub fn started(&self, cluster: &SimCluster, n: u32, life: &Life) {
        let actor = life.node.identity().actor;
        let foreign = self.known().actors.get(&actor).is_some_and(|(node, _)| *node != n);
        if foreign {
            let what = format!("node {n} has started as actor {actor}, which is another node's");
            self.breach(cluster, Check::I24, "", what);
        }
        let losses = cluster.nodes()[n as usize].losses;
        let given = self.known().stamps.get(&n).copied();
        let clock = life.node.cluster().stamps().clock.now().0;
        if let Some((_, stamp)) = given.filter(|&(then, stamp)| then == losses && clock < stamp) {
            let behind = stamp - clock;
            let what = format!("node {n} has started {behind} µs before a stamp that it gave out");
            self.breach(cluster, Check::I22, "", what);
        }
    }

    /// Node `n` has given out this stamp.
    fn stamped(&self, cluster: &SimCluster, n: u32, stamp: u64) {
        let losses = cluster.nodes()[n as usize].losses;
        let mut known = self.known();
        let given = known.stamps.entry(n).or_insert((losses, stamp));
        if given.0 == losses {
            given.1 = given.1.max(stamp);
        } else {
            *given = (losses, stamp);
        }
    }

    /// I17: a request has ended on node `n` after `took`.
    pub fn ended(
        &self,
        cluster: &SimCluster,
        n: u32,
        took: Duration,
        limit: Duration,
        pauses: u32,
    ) {
        // A process that stood still, or a clock that runs fast, is no broken promise.
        let late = took > limit + limit / 2 + Duration::from_millis(100);
        if late && self.pauses(n) == pauses {
            let what = format!("a request with {limit:?} took {took:?} on node {n}");
            self.breach(cluster, Check::I17, "", what);
        }
    }

    /// Looks at every living node: I9, I22, I24.
    pub fn checkpoint(&self, cluster: &SimCluster) {
        let lives: Vec<(u32, u32, u32, Life)> = {
            let nodes = cluster.nodes();
            let life = |(n, node): (usize, &crate::sim::cluster::SimNode)| {
                Some((n as u32, node.losses, node.lives, node.life.clone()?))
            };
            nodes.iter().enumerate().filter_map(life).collect()
        };
        let walls: Vec<u64> = {
            let machines: Vec<_> = cluster.nodes().iter().map(|node| node.machine).collect();
            machines.into_iter().map(|machine| cluster.world().wall(machine)).collect()
        };
        let mut known = self.known();
        known.max_wall = walls.into_iter().fold(known.max_wall, u64::max);
        let mut found = Vec::new();
        for (n, losses, lives, life) in lives {
            found.extend(known.look_at(cluster, n, losses, lives, &life));
        }
        drop(known);
        for (check, what) in found {
            self.breach(cluster, check, "", what);
        }
    }

    /// A client was told that its write is stored: I1, and now and then I4 and I5.
    pub fn acknowledged(
        &self,
        cluster: &SimCluster,
        op: &WriteOp,
        outcome: &WriteOutcome,
        losses: u32,
    ) {
        let Some(dot) = outcome.dot else { return };
        // Copies that a fault destroyed meanwhile had counted; and a repeated answer tells of
        // copies that were counted long ago.
        if self.losses(cluster) != losses || outcome.replayed {
            return;
        }
        let needed = match op.level {
            Consistency::One => 1,
            Consistency::All => usize::from(cluster.plan().replication),
            _ => usize::from(cluster.plan().replication) / 2 + 1,
        };
        let copies = copies(cluster, op.table.id, &op.key);
        let holders: Vec<u32> =
            copies.iter().filter(|copy| copy.holds(dot)).map(|copy| copy.node).collect();
        let stood_in = if op.table.settings.sloppy {
            keepers(cluster, op.table.id, &op.key, dot, &holders)
        } else {
            0
        };
        let holders = holders.len() + stood_in;
        if holders < needed {
            let what = format!(
                "version {dot} was acknowledged at {} and is durable on {holders} of {needed}",
                op.level
            );
            self.breach(cluster, Check::I1, &text(&op.key), what);
        }
        if self.acknowledged.fetch_add(1, Ordering::Relaxed).is_multiple_of(SAMPLE) {
            self.look_at_copies(cluster, &op.key, &copies);
        }
    }

    /// I4 and I5 on what the replicas of a key hold.
    fn look_at_copies(&self, cluster: &SimCluster, key: &Key, copies: &[Copy]) {
        let records: Vec<(u32, u32, &Record)> =
            copies.iter().filter_map(|c| Some((c.node, c.losses, c.record.as_ref()?))).collect();
        for (node, losses, record) in &records {
            let context = record.context();
            let view = record.view(crate::types::WallMicros(0));
            if let Some(bare) = view.versions.iter().find(|v| !context.covers(v.dot)) {
                let what = format!("node {node} holds version {} unseen by its record", bare.dot);
                self.breach(cluster, Check::I4, &text(key), what);
            }
            if record.kind() != record::RecordKind::Siblings {
                continue;
            }
            let mut known = self.known();
            let losses = losses + known.rots.get(node).copied().unwrap_or(0);
            let before = known.contexts.insert((*node, losses, key.clone()), context.clone());
            drop(known);
            if let Some(before) = before {
                let mut union = context.clone();
                union.union(&before);
                if union.seen() != context.seen() {
                    let what = format!("node {node} has forgotten events that it had seen");
                    self.breach(cluster, Check::I4, &text(key), what);
                }
            }
        }
        for (_, _, a) in &records {
            for (_, _, b) in &records {
                if !merges_lawfully(a, b) {
                    let what = "two stored records do not merge lawfully".to_owned();
                    self.breach(cluster, Check::I5, &text(key), what);
                }
            }
        }
    }
}

impl Known {
    fn look_at(
        &mut self,
        cluster: &SimCluster,
        n: u32,
        losses: u32,
        lives: u32,
        life: &Life,
    ) -> Vec<(Check, String)> {
        let mut found = Vec::new();
        let state = life.node.cluster().state();
        let epoch = state.epoch().0;
        let clock = life.node.cluster().stamps().clock.now().0;
        let seen = self.nodes.entry(n).or_default();
        if seen.losses == losses && epoch < seen.epoch {
            found.push((Check::I9, format!("node {n} went from epoch {} to {epoch}", seen.epoch)));
        }
        if seen.losses == losses && seen.lives == lives && clock < seen.clock {
            found.push((Check::I22, format!("the hybrid clock of node {n} went back")));
        }
        let is_news = seen.lives != lives || seen.epoch != epoch;
        *seen = NodeSeen { losses, lives, epoch, clock };
        let bound = self.max_wall + cluster.plan().max_clock_skew_ms * 1_000 + 1_000_000;
        if clock > bound {
            let ahead = clock - self.max_wall;
            found.push((Check::I22, format!("node {n} is {ahead} µs ahead of every clock")));
        }
        if is_news && state.is_founded() {
            let tables: Vec<_> = state.tables().values().collect();
            let words = format!(
                "{:?} {:?} {:?} {:?}",
                state.cluster_id(),
                state.cluster_name(),
                state.members(),
                tables
            );
            let digest = xxhash_rust::xxh3::xxh3_64(words.as_bytes());
            if *self.states.entry(epoch).or_insert(digest) != digest {
                found.push((Check::I9, format!("node {n} has another epoch {epoch} than others")));
            }
        }
        if is_news && life.node.cluster().may_serve(&state) {
            let actor = life.node.identity().actor;
            let (node, then) = *self.actors.entry(actor).or_insert((n, losses));
            if node != n || then != losses {
                let what = format!(
                    "actor {actor} serves for node {n} although its directory has lost data since"
                );
                found.push((Check::I24, what));
            }
        }
        found
    }
}

fn text(key: &Key) -> String {
    String::from_utf8_lossy(key.as_bytes()).into_owned()
}

fn merges_lawfully(a: &Record, b: &Record) -> bool {
    let joined = |x: &Record, y: &Record| {
        let mut x = x.clone();
        x.merge(y).ok().map(|_| x)
    };
    let (Some(ab), Some(ba)) = (joined(a, b), joined(b, a)) else { return false };
    ab == ba && joined(&ab, b).as_ref() == Some(&ab) && joined(a, &ab).as_ref() == Some(&ab)
}
