//! Leading purges.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::future::join_all;

use crate::meta::{ClusterState, Table};
use crate::net::purge::{PurgeAction, PurgeAnswer, PurgeRequest, PurgeSet};
use crate::net::{Request, Response};
use crate::plants::{Plant, planted};
use crate::repair::purge::{Obstacle, Purge};
use crate::replica::{Dead, TreeId};
use crate::types::{Generation, Key, Mono, NodeId, Token, WallMicros};

/// Time for one answer.
const CALL_TIME: Duration = Duration::from_secs(5);

/// A partition is looked through this many times in a grace time, and a blocked one is tried again
/// so often; see [`crate::repair::purge::PurgeOptions::longest_pause`] too.
const LOOKS_PER_GRACE: u32 = 16;

/// Who stood in the way of how much in one look through a partition.
type InTheWay = BTreeMap<NodeId, (Obstacle, u32)>;

/// What came of one purge.
enum Outcome {
    Purged,
    /// Nothing could be; in particular not what comes next in the partition.
    Blocked,
}

/// Leads purges for as long as the node runs.
pub(super) async fn run(purge: Arc<Purge>) {
    let mut looked: BTreeMap<TreeId, Mono> = BTreeMap::new();
    let mut ended: BTreeMap<TreeId, Generation> = BTreeMap::new();
    loop {
        let nanos = u64::try_from(purge.options.interval.as_nanos()).unwrap_or(u64::MAX).max(1);
        let jitter = Duration::from_nanos(purge.env.random_below("purge", nanos));
        purge.env.sleep(purge.options.interval / 2 + jitter).await;
        let state = purge.cluster.state();
        if !purge.cluster.may_serve(&state) || purge.replica.has_forgotten() {
            continue;
        }
        let led = led(&purge, &state);
        looked.retain(|id, _| led.contains(id));
        ended.retain(|id, _| led.contains(id));
        purge.obstacles.retain(|id| led.contains(&id));
        for &id in &led {
            let Some(table) = state.table(id.0) else { continue };
            let grace = grace_of(table);
            let pause = (grace / LOOKS_PER_GRACE).min(purge.options.longest_pause);
            let now = purge.env.mono();
            if looked.get(&id).is_some_and(|at| now.since(*at) < pause)
                || !is_due(&purge, id, grace)
            {
                continue;
            }
            looked.insert(id, now);
            look(&purge, &state, table, id).await;
        }
        end_all(&purge, &state, &led, &mut ended).await;
    }
}

/// The grace time of a table: of rows what CQL calls `gc_grace_seconds`.
pub(super) fn grace_of(table: &Table) -> Duration {
    let given = table.rows.as_ref().and_then(|schema| schema.options.get("gc_grace_seconds"));
    let given = given.and_then(|text| text.parse().ok());
    Duration::from_secs(given.unwrap_or(table.settings.grace_s))
}

/// The partitions whose purges this node leads, in order.
fn led(purge: &Purge, state: &ClusterState) -> BTreeSet<TreeId> {
    let mut led = BTreeSet::new();
    for table in state.tables().values() {
        let placement = state.ring().placement(&table.settings.replication);
        for partition in placement.kept_by(purge.me()) {
            let leader = placement.of(partition).write.iter().min();
            if leader == Some(&purge.me()) || by_age(table) {
                led.insert((table.id, partition));
            }
        }
    }
    led
}

/// The planted mistake: whether the table's tombstones go by age alone.
fn by_age(table: &Table) -> bool {
    planted(Plant::P20) || (planted(Plant::P20Row) && table.rows.is_some())
}

fn before(purge: &Purge, grace: Duration) -> WallMicros {
    let grace = u64::try_from(grace.as_micros()).unwrap_or(u64::MAX);
    WallMicros(purge.env.wall().0.saturating_sub(grace))
}

fn is_due(purge: &Purge, id: TreeId, grace: Duration) -> bool {
    purge.replica.purges().dead_since(id).is_none_or(|since| since <= before(purge, grace))
}

/// Has the replicas that missed the last purge of a partition that this node leads carry it out
/// too, also one that was led before this node started: the tombstones on the way out are not
/// anybody's to look for any more. `ended` has what all replicas are known to have done.
async fn end_all(
    purge: &Purge,
    state: &ClusterState,
    led: &BTreeSet<TreeId>,
    ended: &mut BTreeMap<TreeId, Generation>,
) {
    for &id in led {
        let Ok(generation) = purge.replica.generation(id) else { continue };
        let known = ended.get(&id).copied().unwrap_or_default();
        let others = purge.other_replicas(state, id);
        if known == generation || !others.iter().all(|&node| purge.cluster.is_live(node)) {
            continue;
        }
        let answers = ask(purge, state, id, &others, PurgeAction::Advance { generation }).await;
        let is_there = |answer| matches!(answer, Ok(PurgeAnswer::At(at)) if at >= generation);
        if answers.into_iter().all(|(_, answer)| is_there(answer)) {
            ended.insert(id, generation);
        }
    }
}

/// Looks through a partition, and has purged what may go.
async fn look(purge: &Purge, state: &ClusterState, table: &Table, id: TreeId) {
    purge.counters.looks.fetch_add(1, Ordering::Relaxed);
    let before = before(purge, grace_of(table));
    let clustered = table.rows.as_ref().is_some_and(|schema| !schema.clustering_key().is_empty());
    let (purges, mut in_the_way) = (purge.replica.purges(), InTheWay::new());
    purges.begin_look(id);
    let (mut after, mut first) = (None::<(Token, Key)>, WallMicros(u64::MAX));
    loop {
        let begun = purge.env.mono();
        let (replica, from) = (purge.replica.clone(), after.take());
        let page = move || replica.dead_rows(id, from.as_ref(), before, clustered);
        let page = match purge.env.blocking("dead-rows", page).await {
            Some(Ok(page)) => page,
            Some(Err(error)) => {
                tracing::warn!(%error, "a partition cannot be looked through for tombstones");
                purges.give_up_look(id);
                return;
            }
            None => return,
        };
        let took = purge.env.mono().since(begun);
        first = first.min(page.later.unwrap_or(first));
        if !page.dead.is_empty() {
            let stay = page.dead.len();
            if matches!(lead(purge, state, id, page.dead, &mut in_the_way).await, Outcome::Blocked)
            {
                tracing::debug!(?id, stay, ?in_the_way, "tombstones cannot be purged yet");
                purge.counters.blocked.fetch_add(1, Ordering::Relaxed);
                first = WallMicros(0);
            }
        }
        let percent = purge.options.percent.clamp(1, 100);
        purge.env.sleep(took * (100 - percent) / percent).await;
        match page.next {
            Some(next) => after = Some(next),
            None => break,
        }
    }
    // What could not go is to be tried again.
    purges.end_look(id, if in_the_way.is_empty() { first } else { WallMicros(0) });
    purge.obstacles.replace(id, &in_the_way);
}

/// One purge, from the question to the end.
async fn lead(
    purge: &Purge,
    state: &ClusterState,
    id: TreeId,
    dead: Vec<Dead>,
    in_the_way: &mut InTheWay,
) -> Outcome {
    if state.table(id.0).is_some_and(|table| by_age(table)) {
        let _ = purge.replica.purge_alone(id, &dead);
        return Outcome::Purged;
    }
    let Ok(at) = purge.replica.generation(id) else { return Outcome::Blocked };
    let mut leading = Leading { purge, state, id, at, in_the_way };
    let mut rows: Vec<_> = dead.into_iter().map(|dead| (dead.key, dead.digest)).collect();
    if !leading.nothing_pends(&mut rows).await {
        return Outcome::Blocked;
    }
    let plan = u128::from(purge.env.random("purge-plan")) << 64
        | u128::from(purge.env.random("purge-plan"));
    let mut set = PurgeSet { generation: at.next(), plan, rows };
    if set.rows.is_empty() || !leading.all_hold(&mut set).await || set.rows.is_empty() {
        return Outcome::Blocked;
    }
    // What was asked of a ring is not done to another one.
    if purge.cluster.state().epoch() != state.epoch() {
        return Outcome::Blocked;
    }
    let (removed, generation) = (set.rows.len() as u64, set.generation);
    if !leading.all_remove(set).await {
        return Outcome::Blocked;
    }
    tracing::info!(table = id.0.0, partition = id.1.0, removed, %generation, "purged tombstones");
    purge.counters.purges.fetch_add(1, Ordering::Relaxed);
    purge.counters.rows.fetch_add(removed, Ordering::Relaxed);
    Outcome::Purged
}

/// Asks several nodes the same about a partition.
async fn ask(
    purge: &Purge,
    state: &ClusterState,
    (table, partition): TreeId,
    nodes: &[NodeId],
    what: PurgeAction,
) -> Vec<(NodeId, Result<PurgeAnswer, Obstacle>)> {
    let deadline = purge.env.mono() + CALL_TIME;
    let calls = nodes.iter().map(|&node| {
        let request = Request::Purge(PurgeRequest { table, partition, what: what.clone() });
        let call = purge.peers.call_at(state.epoch(), node, request, deadline);
        async move {
            let answer = match call.await {
                Ok(Response::Purge(answer)) => Ok(answer),
                Ok(_) => Err(Obstacle::Refuses),
                Err(_) => Err(Obstacle::Away),
            };
            (node, answer)
        }
    });
    join_all(calls).await
}

/// A purge that this node leads.
struct Leading<'a> {
    purge: &'a Purge,
    state: &'a ClusterState,
    id: TreeId,
    at: Generation,
    in_the_way: &'a mut InTheWay,
}

impl Leading<'_> {
    async fn ask(
        &self,
        nodes: &[NodeId],
        what: PurgeAction,
    ) -> Vec<(NodeId, Result<PurgeAnswer, Obstacle>)> {
        ask(self.purge, self.state, self.id, nodes, what).await
    }

    fn block(&mut self, node: NodeId, why: Obstacle, rows: usize) {
        let entry = self.in_the_way.entry(node).or_insert((why, 0));
        *entry = (why, entry.1.saturating_add(rows as u32));
    }

    /// Leaves out the keys about which some member keeps hints; false if not all of them answer.
    async fn nothing_pends(&mut self, rows: &mut Vec<(Key, crate::types::Digest)>) -> bool {
        let members: Vec<NodeId> = self.state.members().keys().copied().collect();
        let away = members.iter().copied().filter(|&node| !self.purge.cluster.is_live(node));
        let away: Vec<NodeId> = away.filter(|&node| node != self.purge.me()).collect();
        for &node in &away {
            self.block(node, Obstacle::Away, rows.len());
        }
        if !away.is_empty() {
            return false;
        }
        let keys = rows.iter().map(|(key, _)| key.clone()).collect();
        let answers = self.ask(&members, PurgeAction::Pending { keys }).await;
        self.leave_out(answers, rows, Obstacle::Hints).await
    }

    /// Leaves out what some replica does not hold; false if not all of them answer.
    async fn all_hold(&mut self, set: &mut PurgeSet) -> bool {
        let replicas = self.purge.replicas(self.state, self.id);
        let answers = self.ask(&replicas, PurgeAction::Prepare(set.clone())).await;
        self.leave_out(answers, &mut set.rows, Obstacle::Differs).await
    }

    async fn leave_out(
        &mut self,
        answers: Vec<(NodeId, Result<PurgeAnswer, Obstacle>)>,
        rows: &mut Vec<(Key, crate::types::Digest)>,
        why: Obstacle,
    ) -> bool {
        let mut out: BTreeSet<u16> = BTreeSet::new();
        let mut all = true;
        for (node, answer) in answers {
            match answer {
                Ok(PurgeAnswer::Not(places)) => {
                    if !places.is_empty() {
                        self.block(node, why, places.len());
                    }
                    out.extend(places);
                }
                Ok(PurgeAnswer::At(at)) => {
                    self.block(node, Obstacle::OtherGeneration, rows.len());
                    self.meet(node, at).await;
                    all = false;
                }
                Ok(PurgeAnswer::Sets { .. }) => all = false,
                Err(obstacle) => {
                    self.block(node, obstacle, rows.len());
                    all = false;
                }
            }
        }
        let mut at = 0;
        rows.retain(|_| {
            at += 1;
            !out.contains(&(at - 1))
        });
        all
    }

    /// A replica is at another generation: whoever is behind catches up.
    async fn meet(&self, node: NodeId, at: Generation) {
        if at > self.at {
            let deadline = self.purge.env.mono() + CALL_TIME;
            let caught = self.purge.catch_up(self.state, self.id, at, Some(node), deadline).await;
            tracing::debug!(?caught, "catches up with a purge");
        } else if at < self.at {
            self.ask(&[node], PurgeAction::Advance { generation: self.at }).await;
        }
    }

    /// Has all replicas remove the set. From here on it happens, whoever is told of it.
    async fn all_remove(&mut self, set: PurgeSet) -> bool {
        let (replicas, rows) = (self.purge.replicas(self.state, self.id), set.rows.len());
        let generation = set.generation;
        let mut all = true;
        for (node, answer) in self.ask(&replicas, PurgeAction::Commit(set)).await {
            if !matches!(answer, Ok(PurgeAnswer::At(at)) if at >= generation) {
                self.block(node, Obstacle::OtherGeneration, rows);
                all = false;
            }
        }
        all
    }
}
