//! One key's queue at one proposer: rounds as long as anybody waits.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::oneshot;

use crate::coordinator::lwt::judge::{Ask, Verdict};
use crate::coordinator::lwt::round::{Electors, Standing};
use crate::coordinator::lwt::state::records_of;
use crate::coordinator::lwt::{Job, Lane, MAX_COMBINED};
use crate::coordinator::plan::Plan;
use crate::coordinator::{Fate, Inner, OpError};
use crate::env::BoxFuture;
use crate::meta::{ConflictMode, Table};
use crate::net::paxos::{PaxosAnswer, PaxosRequest, PaxosStep};
use crate::net::{CallError, Request, Response};
use crate::plants::{Plant, planted};
use crate::types::{Ballot, Consistency, Generation, Key, Mono, NodeId};

/// The first pause after a round that did not come to its end; it doubles from there.
const FIRST_PAUSE: Duration = Duration::from_millis(2);

/// The longest pause.
const MAX_PAUSE: Duration = Duration::from_millis(200);

/// How long a proposer with a standing promise waits for the next operation on its key.
const LINGER: Duration = Duration::from_millis(100);

/// How long a decision is brought to replicas before it is left to hints.
const COMMIT_TIME: Duration = Duration::from_secs(5);

/// A record that was chosen.
#[derive(Clone)]
pub(super) struct Decision {
    pub(super) ballot: Ballot,
    pub(super) record: Bytes,
    /// The least purge generation of what it was made from.
    pub(super) generation: Generation,
    /// All replicas have stored it.
    pub(super) everywhere: Arc<AtomicBool>,
}

/// How one round ended.
pub(super) enum After {
    /// Everybody in it has an answer.
    Answered,
    /// Another proposer came between, or too few voters answered in time.
    Again,
    /// It cannot be done now.
    Impossible(OpError),
}

/// What a replica said to a step.
pub(super) type Answer = (NodeId, Result<Response, CallError>);

/// A lane at work.
pub(super) struct Drive<'a> {
    pub(super) inner: &'a Arc<Inner>,
    pub(super) table: Arc<Table>,
    pub(super) key: Key,
    lane: Arc<Lane>,
    /// In the present round.
    pub(super) jobs: Vec<Job>,
    /// The next ballot goes above this one.
    pub(super) above: Ballot,
    pub(super) standing: Option<Standing>,
    /// The last decision, while it is not on its way to the data yet.
    pub(super) uncommitted: Option<(Plan, Electors, Decision)>,
}

impl<'a> Drive<'a> {
    pub(super) fn new(inner: &'a Arc<Inner>, table: Arc<Table>, key: Key, lane: Arc<Lane>) -> Self {
        Self {
            inner,
            table,
            key,
            lane,
            jobs: Vec::new(),
            above: Ballot::ZERO,
            standing: None,
            uncommitted: None,
        }
    }

    pub(super) fn is_strong(&self) -> bool {
        self.table.settings.conflict == ConflictMode::Strong
    }

    /// Works until nobody waits any more.
    pub(super) async fn run(mut self) {
        let mut pause = FIRST_PAUSE;
        loop {
            self.top_up();
            self.lane.at_work.store(!self.jobs.is_empty(), Ordering::Release);
            if self.jobs.is_empty() {
                if self.lingers().await {
                    continue;
                }
                let mut lanes = self.inner.lwt.lanes();
                if self.lane.waiting().is_empty() {
                    lanes.remove(&(self.table.id, self.key.clone()));
                    return;
                }
                continue;
            }
            match self.round().await {
                After::Answered => pause = FIRST_PAUSE,
                After::Again => {
                    self.standing = None;
                    if planted(Plant::P10) {
                        for job in &mut self.jobs {
                            job.about.op = self.inner.new_op_id(None);
                        }
                    }
                    self.hand_over();
                    self.wait(&mut pause).await;
                }
                After::Impossible(error) => {
                    self.fail_all(&error);
                    self.wait(&mut pause).await;
                }
            }
        }
    }

    /// Brings what was decided to the data. With a standing promise, waits a while for the next
    /// operation, which then needs one round trip only. True if there may be one.
    async fn lingers(&mut self) -> bool {
        let Some((plan, electors, decision)) = self.uncommitted.take() else { return false };
        if self.standing.is_some() {
            drop(self.commit(plan.clone(), electors.clone(), decision.clone(), false));
            let woken = self.inner.env.timeout(LINGER, self.lane.wake.notified()).await;
            if woken.is_ok() {
                // Should that one come to nothing, this one is still to be forgotten.
                self.uncommitted = Some((plan, electors, decision));
                return true;
            }
        }
        self.standing = None;
        if decision.everywhere.load(Ordering::Acquire) {
            self.forget(&plan, decision.ballot);
        } else {
            // Again where it is stored already: this time its votes are dropped.
            drop(self.commit(plan, electors, decision, true));
        }
        true
    }

    /// Two proposers that pause for a random while do not interrupt each other for ever.
    async fn wait(&self, pause: &mut Duration) {
        let spread = u64::try_from(pause.as_micros()).unwrap_or(u64::MAX).max(1);
        let jitter = self.inner.env.random_below("lane-pause", spread);
        self.inner.env.sleep(*pause / 2 + Duration::from_micros(jitter)).await;
        *pause = (*pause * 2).min(MAX_PAUSE);
    }

    /// Takes in those who wait, and lets go those who do not any more. True if somebody came.
    pub(super) fn top_up(&mut self) -> bool {
        self.jobs.retain(|job| !job.reply.is_closed());
        let mut waiting = self.lane.waiting();
        let before = self.jobs.len();
        while self.jobs.len() < MAX_COMBINED
            && let Some(job) = waiting.pop_front()
        {
            if !job.reply.is_closed() {
                self.jobs.push(job);
            }
        }
        self.jobs.len() > before
    }

    /// Gives back what another node may propose as well, if the key is contended and another node
    /// is its home. What was proposed here stays here.
    fn hand_over(&mut self) {
        if !self.inner.is_contended(&self.table, &self.key)
            || self.inner.home_elsewhere(&self.table, &self.key).is_none()
        {
            return;
        }
        let all = self.jobs.drain(..).chain(self.lane.waiting().drain(..)).collect::<Vec<_>>();
        let goes =
            |job: &Job| job.moves && !job.is_proposed() && !matches!(job.ask, Ask::Rows { .. });
        let (go, stay): (Vec<_>, Vec<_>) = all.into_iter().partition(goes);
        for job in go {
            let _ = job.reply.send(Ok(Verdict::Elsewhere(job.ask)));
        }
        let mut waiting = self.lane.waiting();
        for job in stay.into_iter().rev() {
            waiting.push_front(job);
        }
    }

    fn fail_all(&mut self, error: &OpError) {
        for job in self.jobs.drain(..) {
            let error = if job.is_proposed() && error.fate() == Fate::NotApplied {
                OpError::TooFewReplicas {
                    level: Consistency::Serial,
                    required: 0,
                    received: 0,
                    failed: 0,
                    reasons: error.to_string(),
                    who: Vec::new(),
                    fate: Fate::Unknown,
                }
            } else {
                error.clone()
            };
            let _ = job.reply.send(Err(error));
        }
    }

    /// Sends a step to every replica.
    pub(super) fn ask_all(
        &self,
        plan: &Plan,
        step: &PaxosStep,
        deadline: Mono,
    ) -> futures_util::stream::FuturesUnordered<BoxFuture<'static, Answer>> {
        let calls = plan.order.iter().map(|&node| {
            let (inner, mut plan) = (self.inner.clone(), plan.clone());
            plan.deadline = deadline;
            let (table, key) = (self.table.id, self.key.clone());
            let request = Request::Paxos(PaxosRequest { table, key, step: step.clone() });
            let started = inner.env.mono();
            // What a voter does lazily says nothing of how fast it is.
            let is_timed = !matches!(step, PaxosStep::Commit { .. });
            let call: BoxFuture<'static, Answer> = Box::pin(async move {
                let result = inner.call_until_sent(&plan, node, request).await;
                if is_timed || result.is_err() {
                    inner.took(node, started, &result);
                }
                (node, result)
            });
            call
        });
        calls.collect()
    }

    /// Has voters drop their rows where nothing in them is newer than the decision of `ballot`,
    /// which all of them have stored.
    pub(super) fn forget(&self, plan: &Plan, ballot: Ballot) {
        forget(self.inner, plan, &self.key, ballot);
    }

    /// Brings a decision to the data of every replica, in a task of its own: the receiver hears
    /// when it is on a majority. A replica that misses it gets a hint; once all have it, their
    /// votes on it are dropped, if it is to be forgotten.
    pub(super) fn commit(
        &self,
        plan: Plan,
        electors: Electors,
        decision: Decision,
        forgotten: bool,
    ) -> oneshot::Receiver<()> {
        let Decision { ballot, record, generation, everywhere } = decision;
        let (sender, receiver) = oneshot::channel();
        let deadline = self.inner.env.mono() + COMMIT_TIME;
        let step = PaxosStep::Commit { ballot, record: record.clone(), generation };
        let mut calls = self.ask_all(&plan, &step, deadline);
        let (inner, table, key) = (self.inner.clone(), self.table.id, self.key.clone());
        let records = records_of(&self.table, &key, &record);
        let owed = inner.hints.owe();
        self.inner.env.spawn("commit a decision", async move {
            use futures_util::StreamExt as _;
            let (mut sender, mut done) = (Some(sender), 0);
            while let Some((node, result)) = calls.next().await {
                if matches!(result, Ok(Response::Paxos(PaxosAnswer::Done))) {
                    done += 1;
                    if done >= electors.quorum()
                        && let Some(sender) = sender.take()
                    {
                        let _ = sender.send(());
                    }
                } else {
                    for (key, record) in &records {
                        inner.hints.leave(node, table, key, record, generation).await;
                    }
                }
            }
            let is_everywhere = done == plan.replicas.len();
            everywhere.fetch_or(is_everywhere, Ordering::AcqRel);
            if (is_everywhere && forgotten) || (planted(Plant::P07) && done >= electors.quorum()) {
                forget(&inner, &plan, &key, ballot);
            }
            drop(owed);
        });
        receiver
    }
}

fn forget(inner: &Inner, plan: &Plan, key: &Key, ballot: Ballot) {
    let deadline = inner.env.mono() + COMMIT_TIME;
    for &node in &plan.replicas {
        let (table, step) = (plan.table.id, PaxosStep::Forget { ballot });
        let request = Request::Paxos(PaxosRequest { table, key: key.clone(), step });
        let call = inner.peers.call_at(plan.epoch, node, request, deadline);
        inner.env.spawn("forget a vote", async move { drop(call.await) });
    }
}
