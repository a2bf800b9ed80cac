//! Hands hints over.
//!
//! One task looks which targets have hints and are alive, and gives each a worker of its own for
//! one *round*: all rows of the target in order, as many at a time as its [`Window`] allows. What
//! the answers mean:
//!
//! | Answer | The hint | The round |
//! |---|---|---|
//! | `Applied` | deleted | goes on |
//! | `Overloaded`, `Late` | stays | goes on with half the window; ends when that is one |
//! | `Damaged` | stays; the copy is healed from all other replicas | goes on |
//! | `OtherGeneration`, a later one | dropped: its key has been purged since | goes on |
//! | `StaleEpoch`, `NotReplica`, `NoSuchTable` | stays; judged anew once this node has caught up | goes on |
//! | `BadRequest`, `RecordTooLarge`, other refusals | stays until it is too old | goes on |
//! | `OtherGeneration`, an earlier one, `Behind`, `Refilling`, `DiskFull`, `Storage`, `Stopping` | stays | ends |
//! | `Failed`, no answer, not sent | stays | ends |
//!
//! (A target that is being refilled takes merges, so `Refilling` is not expected.) Before it is
//! sent, a hint is judged by this node's present epoch: of a table that is gone, or older than the
//! bound, it is dropped; for a target that is no replica of the key any more, it becomes a hint for
//! each one that is.
//!
//! A round that ended early is followed by a pause that doubles up to [`MAX_PAUSE`] as long as
//! nothing is taken; a target that was believed dead and is alive again is tried at once.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;

use crate::cluster::Cluster;
use crate::coordinator::Coordinator;
use crate::env::{BoxFuture, Env};
use crate::gossip::Liveness;
use crate::meta::{ClusterState, Table};
use crate::net::messages::Apply;
use crate::net::{Peers, Refusal, Request, Response};
use crate::repair::hints::store::{StoredHint, age};
use crate::repair::hints::window::Window;
use crate::repair::hints::{HintStore, TargetHints};
use crate::ring::token_in;
use crate::types::{Epoch, Generation, Mono, NodeId};

/// How often it is looked who is alive, while there are hints.
const TICK: Duration = Duration::from_millis(200);

/// Time for one hand-over.
const CALL_TIME: Duration = Duration::from_secs(5);

/// The first pause after a round that ended early.
const MIN_PAUSE: Duration = Duration::from_millis(200);

/// The longest pause.
const MAX_PAUSE: Duration = Duration::from_secs(15);

/// Rounds of looking for hints that are too old, in one bound's time.
const SWEEPS_PER_AGE: u32 = 32;

/// What is known of one target between rounds.
#[derive(Clone, Debug)]
struct Lane {
    window: Window,
    busy: bool,
    not_before: Mono,
    pause: Duration,
    /// When its rows were last looked through.
    swept: Mono,
}

/// The task that delivers hints.
#[derive(Clone)]
pub struct Delivery {
    env: Env,
    cluster: Arc<Cluster>,
    peers: Peers,
    coordinator: Coordinator,
    store: Arc<HintStore>,
    lanes: Arc<Mutex<BTreeMap<NodeId, Lane>>>,
}

impl std::fmt::Debug for Delivery {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Delivery").finish_non_exhaustive()
    }
}

/// What is to be done with a hint before it is sent.
enum Judgement {
    Send(Arc<Table>, Epoch),
    TooOld,
    TableGone,
    /// The target keeps the key no more; these do.
    Others(Vec<NodeId>),
}

/// What came of one attempt.
enum Attempt {
    /// It is gone from the store.
    Gone {
        delivered: bool,
    },
    /// It stays, and the round goes on.
    Stays,
    Overloaded,
    /// It stays, and the round ends.
    Failed(String),
}

/// What came of a round.
#[derive(Default)]
struct Round {
    delivered: u64,
    stayed: u64,
    /// Why it ended early.
    failed: Option<String>,
}

impl Delivery {
    /// The delivery of what `store` holds. `coordinator` heals damaged copies that are met.
    #[must_use]
    pub fn new(
        env: Env,
        cluster: Arc<Cluster>,
        peers: Peers,
        coordinator: Coordinator,
        store: Arc<HintStore>,
    ) -> Self {
        Self { env, cluster, peers, coordinator, store, lanes: Arc::default() }
    }

    /// Runs as long as the node does. Costs nothing while there are no hints.
    pub async fn run(self) {
        loop {
            let targets = self.store.targets();
            if targets.is_empty() {
                self.store.arrived().await;
                continue;
            }
            let state = self.cluster.state();
            if self.cluster.may_serve(&state) {
                for target in &targets {
                    self.look_at(target);
                }
            }
            self.env.sleep(TICK).await;
        }
    }

    fn lanes(&self) -> MutexGuard<'_, BTreeMap<NodeId, Lane>> {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins a round for a target if it is time.
    fn look_at(&self, hints: &TargetHints) {
        let (now, target) = (self.env.mono(), hints.target);
        let is_live = target == self.peers.me() || self.cluster.liveness(target) == Liveness::Live;
        let max_age = self.store.settings().max_age;
        let mut lanes = self.lanes();
        let lane = lanes.entry(target).or_insert_with(|| Lane {
            window: Window::new(self.store.settings().max_calls),
            busy: false,
            not_before: Mono(0),
            pause: Duration::ZERO,
            swept: now,
        });
        if lane.busy {
            return;
        }
        let is_gone = self.cluster.state().member(target).is_none();
        let is_due = is_live && now >= lane.not_before;
        let may_expire = hints.oldest > max_age || is_gone;
        let must_sweep = may_expire && now.since(lane.swept) >= max_age / SWEEPS_PER_AGE;
        if !is_live {
            // As soon as it is back it is tried, however often it failed before.
            (lane.not_before, lane.pause) = (Mono(0), Duration::ZERO);
        }
        if !is_due && !must_sweep {
            return;
        }
        // A target that takes nothing must not keep what is too old from being dropped.
        let send = is_due && !must_sweep;
        lane.busy = true;
        lane.swept = now;
        let (task, mut window) = (self.clone(), lane.window.clone());
        self.env.spawn("hints", async move {
            let round = task.round(target, send, &mut window).await;
            task.store.set_rate(target, 0.0);
            task.rest(target, window, send, &round);
        });
    }

    /// Decides when the next round may begin.
    fn rest(&self, target: NodeId, window: Window, sent: bool, round: &Round) {
        if round.delivered > 0 || round.failed.is_some() {
            let (delivered, stayed) = (round.delivered, round.stayed);
            tracing::info!(%target, delivered, stayed, failed = ?round.failed, "hints");
        }
        let now = self.env.mono();
        let mut lanes = self.lanes();
        let Some(lane) = lanes.get_mut(&target) else { return };
        lane.busy = false;
        lane.window = window;
        if !sent {
            return;
        }
        let left_some = round.failed.is_some() || round.stayed > 0;
        lane.pause = match (left_some, round.delivered) {
            (false, _) => Duration::ZERO,
            (true, 0) => (lane.pause * 2).clamp(MIN_PAUSE, MAX_PAUSE),
            (true, _) => MIN_PAUSE,
        };
        let jitter_us = lane.pause.as_micros() as u64 / 4 + 1;
        let jitter = Duration::from_micros(self.env.random_below("hint-pause", jitter_us));
        lane.not_before = now + lane.pause + jitter;
    }

    /// Goes through all hints of a target. Unless `send` is set, it only drops what is too old.
    async fn round(&self, target: NodeId, send: bool, window: &mut Window) -> Round {
        let (begun, mut round, mut after) = (self.env.mono(), Round::default(), None);
        let mut gaps = 0;
        self.store.begin_round(target);
        loop {
            let (store, from) = (self.store.clone(), after.take());
            let page = self.env.blocking("hints", move || store.page(target, from.as_ref())).await;
            let page = match page {
                Some(Ok(page)) => page,
                Some(Err(error)) => {
                    round.failed = Some(error.to_string());
                    return round;
                }
                None => return round,
            };
            gaps += page.gaps;
            if !page.damaged.is_empty() {
                tracing::error!(%target, rows = page.damaged.len(), "hints are damaged");
                self.store.remove_damaged(target, page.damaged).await;
            }
            self.hand_over(target, page.hints, (send, begun), window, &mut round).await;
            if round.failed.is_some() {
                return round;
            }
            match page.next {
                Some(next) => after = Some::<Bytes>(next),
                None => break,
            }
        }
        round.failed = self.store.end_round(target, gaps).err().map(|error| error.to_string());
        round
    }

    /// Attempts some hints, as many at a time as the window allows.
    async fn hand_over(
        &self,
        target: NodeId,
        hints: Vec<StoredHint>,
        (send, begun): (bool, Mono),
        window: &mut Window,
        round: &mut Round,
    ) {
        let mut waiting = hints.into_iter();
        let mut calls: FuturesUnordered<BoxFuture<'_, (Attempt, Duration)>> =
            FuturesUnordered::new();
        loop {
            while round.failed.is_none() && calls.len() < window.limit() {
                let Some(stored) = waiting.next() else { break };
                calls.push(Box::pin(self.attempt(stored, send)));
            }
            let Some((attempt, took)) = calls.next().await else { return };
            match attempt {
                Attempt::Gone { delivered: true } => {
                    round.delivered += 1;
                    window.on_ack(took);
                }
                Attempt::Gone { delivered: false } => {}
                Attempt::Stays => round.stayed += 1,
                Attempt::Overloaded => {
                    round.stayed += 1;
                    if !window.on_overload() {
                        round.failed = Some("the target is overloaded".to_owned());
                    }
                }
                Attempt::Failed(why) => {
                    round.stayed += 1;
                    round.failed.get_or_insert(why);
                }
            }
            let seconds = self.env.mono().since(begun).as_secs_f64().max(1e-3);
            self.store.set_rate(target, round.delivered as f64 / seconds);
        }
    }

    /// Attempts one hint; with the time that the target took to answer.
    async fn attempt(&self, stored: StoredHint, send: bool) -> (Attempt, Duration) {
        let begun = self.env.mono();
        let counters = self.store.counters();
        let judgement = self.judge(&self.cluster.state(), &stored);
        let dropped = match judgement {
            Judgement::Send(..) if !send => {
                self.store.left(&stored.hint);
                return (Attempt::Stays, Duration::ZERO);
            }
            Judgement::Send(table, epoch) => {
                let response = self.send(&stored, &table, epoch).await;
                let took = self.env.mono().since(begun);
                let attempt = self.taken(&stored, &table, response).await;
                if !matches!(attempt, Attempt::Gone { .. }) {
                    self.store.left(&stored.hint);
                }
                return (attempt, took);
            }
            Judgement::TooOld => &counters.expired,
            Judgement::TableGone => &counters.moot,
            Judgement::Others(others) => {
                let hint = &stored.hint;
                for other in others {
                    let generation = Generation(hint.generation);
                    self.store.leave(other, hint.table, &hint.key, &hint.record, generation).await;
                }
                &counters.moot
            }
        };
        if self.store.remove(&stored).await {
            dropped.fetch_add(1, Ordering::Relaxed);
        }
        (Attempt::Gone { delivered: false }, Duration::ZERO)
    }

    fn judge(&self, state: &ClusterState, stored: &StoredHint) -> Judgement {
        let hint = &stored.hint;
        if age(self.env.wall(), hint.since) > self.store.settings().max_age {
            return Judgement::TooOld;
        }
        let Some(table) = state.table(hint.table) else { return Judgement::TableGone };
        let partition = state.ring().partition_of(token_in(hint.table, &hint.key));
        let placement = state.ring().placement(&table.settings.replication);
        let replicas = &placement.of(partition).write;
        if replicas.contains(&hint.target) {
            return Judgement::Send(table.clone(), state.epoch());
        }
        Judgement::Others(replicas.clone())
    }

    async fn send(
        &self,
        stored: &StoredHint,
        table: &Arc<Table>,
        epoch: Epoch,
    ) -> Result<Response, String> {
        let apply = Apply {
            table: table.id,
            key: stored.hint.key.clone(),
            record: stored.hint.record.clone(),
            generation: Generation(stored.hint.generation),
            heals: false,
        };
        let deadline = self.env.mono() + CALL_TIME;
        let call = self.peers.call_at(epoch, stored.hint.target, Request::Handoff(apply), deadline);
        call.await.map_err(|error| error.to_string())
    }

    /// What an answer means for the hint; see the table in the module's essay.
    async fn taken(
        &self,
        stored: &StoredHint,
        table: &Arc<Table>,
        response: Result<Response, String>,
    ) -> Attempt {
        let counters = self.store.counters();
        let refusal = match response {
            Ok(Response::Applied { .. }) => {
                // If it has become another hint meanwhile, that one is delivered in its turn.
                if !self.store.remove(stored).await {
                    return Attempt::Stays;
                }
                counters.delivered.fetch_add(1, Ordering::Relaxed);
                return Attempt::Gone { delivered: true };
            }
            Ok(Response::Refused(refusal)) => refusal,
            Ok(Response::Failed { why }) | Err(why) => return self.failed(why),
            Ok(_) => return self.failed("it answered something else".to_owned()),
        };
        counters.refused.fetch_add(1, Ordering::Relaxed);
        match refusal {
            Refusal::Overloaded { .. } | Refusal::Late => Attempt::Overloaded,
            Refusal::Damaged => {
                self.coordinator.heal_copy(table, &stored.hint.key, stored.hint.target);
                Attempt::Stays
            }
            Refusal::StaleEpoch { epoch }
            | Refusal::NotReplica { epoch }
            | Refusal::NoSuchTable { epoch } => {
                self.cluster.catch_up(epoch, self.env.mono() + CALL_TIME).await;
                Attempt::Stays
            }
            Refusal::OtherGeneration { generation }
                if generation > Generation(stored.hint.generation) =>
            {
                // Its key was purged since. Whatever lives of it is on the replica that minted it.
                if !self.store.remove(stored).await {
                    return Attempt::Stays;
                }
                counters.purged.fetch_add(1, Ordering::Relaxed);
                Attempt::Gone { delivered: false }
            }
            Refusal::OtherGeneration { .. }
            | Refusal::Behind { .. }
            | Refusal::Refilling
            | Refusal::DiskFull
            | Refusal::Storage { .. }
            | Refusal::Stopping => Attempt::Failed(refusal.to_string()),
            refusal => {
                let key_hash = xxhash_rust::xxh3::xxh3_64(stored.hint.key.as_bytes());
                tracing::warn!(key_hash, %refusal, "a hint is refused");
                Attempt::Stays
            }
        }
    }

    fn failed(&self, why: String) -> Attempt {
        self.store.counters().refused.fetch_add(1, Ordering::Relaxed);
        Attempt::Failed(why)
    }
}
