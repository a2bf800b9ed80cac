//! One round for the operations of a lane.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;

use crate::coordinator::OpError;
use crate::coordinator::heal::heal_if_damaged;
use crate::coordinator::lwt::judge::{Ask, Case, Events, Verdict, judge};
use crate::coordinator::lwt::lane::{After, Answer, Decision, Drive};
use crate::coordinator::lwt::stamp;
use crate::coordinator::lwt::state::{Shown, State, judge_rows};
use crate::coordinator::plan::{Plan, Purpose};
use crate::coordinator::read::Stop;
use crate::env::BoxFuture;
use crate::meta::ClusterState;
use crate::net::Response;
use crate::net::paxos::{PaxosAnswer, PaxosStep};
use crate::paxos::{Electorate, Found, Promise, Round, RoundStep};
use crate::plants::{Plant, planted};
use crate::record::RecordKind;
use crate::types::{ActorId, Ballot, Consistency, Epoch, Generation, Key, NodeId, VoterId};

/// The least time that voters have for one step.
const MIN_PATIENCE: Duration = Duration::from_millis(100);

/// The most bytes that a record may have after a round.
const MAX_DECIDED_BYTES: usize = 20 << 20;

/// Who votes on a key, by one epoch.
#[derive(Clone, Debug)]
pub(super) struct Electors {
    voters: BTreeMap<NodeId, VoterId>,
    pub(super) electorate: Electorate,
}

impl Electors {
    /// All replicas of the plan are members of the electorate; a majority of them decides.
    pub(super) fn of(plan: &Plan, state: &ClusterState) -> Option<Self> {
        let voter = |&node: &NodeId| Some((node, state.member(node)?.voter));
        let voters: BTreeMap<_, _> = plan.replicas.iter().filter_map(voter).collect();
        let ids = voters.values().copied();
        let electorate = Electorate::majority(ids, plan.replicas.len()).ok()?;
        Some(Self { voters, electorate })
    }

    pub(super) fn quorum(&self) -> usize {
        self.electorate.quorum()
    }

    pub(super) fn voter(&self, node: NodeId) -> Option<VoterId> {
        self.voters.get(&node).copied()
    }
}

/// Refuses, before anything is sent, what no majority of the replicas themselves could decide:
/// nobody votes in the place of another.
pub(super) fn enough_voters(plan: &Plan) -> Result<(), OpError> {
    let count = |nodes: &[NodeId]| u32::try_from(nodes.len()).unwrap_or(u32::MAX);
    let (required, alive) = (count(&plan.replicas) / 2 + 1, count(&plan.live));
    if alive >= required {
        return Ok(());
    }
    Err(OpError::Unavailable { level: Consistency::Serial, required, alive })
}

/// A majority's promise for the next ballot, given with their votes for `state`.
#[derive(Debug)]
pub(super) struct Standing {
    ballot: Ballot,
    epoch: Epoch,
    state: State,
    generation: Generation,
}

/// The newest state, and what is known of it.
struct Base {
    state: State,
    /// The least purge generation of what was shown.
    generation: Generation,
    /// Nothing undecided was met, and all voters show the same.
    settled: bool,
}

type Calls = FuturesUnordered<BoxFuture<'static, Answer>>;

impl Drive<'_> {
    /// One round.
    pub(super) async fn round(&mut self) -> After {
        let now = self.inner.env.mono();
        let Some(deadline) = self.jobs.iter().map(|job| job.deadline).max() else {
            return After::Answered;
        };
        let state = self.inner.cluster.state();
        let plan = self.inner.plan(
            Purpose::Write,
            &self.table,
            &self.key,
            Consistency::Quorum,
            now,
            deadline.since(now),
        );
        let plan = plan.and_then(|plan| enough_voters(&plan).map(|()| plan));
        let plan = match plan {
            Ok(plan) if plan.epoch == state.epoch() => plan,
            Ok(_) => return After::Again,
            Err(error) => return After::Impossible(error),
        };
        let Some(electors) = Electors::of(&plan, &state) else { return After::Again };
        let counters = &self.inner.lwt.counters;
        counters.rounds.fetch_add(1, Ordering::Relaxed);
        let standing = self.standing.take().filter(|standing| standing.epoch == plan.epoch);
        let (mut round, base, is_standing) = match standing {
            Some(Standing { ballot, state, generation, .. }) => {
                counters.standing.fetch_add(1, Ordering::Relaxed);
                let round = Round::standing(ballot, electors.electorate.clone());
                (round, Base { state, generation, settled: true }, true)
            }
            None => match self.prepare(&plan, &electors).await {
                Ok((round, base)) => (round, base, false),
                Err(after) => return after,
            },
        };
        // Whoever comes after the promises may rest on the state only once it is chosen again.
        let changes = |ask: &Ask| matches!(ask, Ask::Write { .. } | Ask::Lease(_));
        let writes = |drive: &Self| drive.jobs.iter().any(|job| changes(&job.ask));
        // (Of rows, only those were shown that were asked for.)
        let may_join = self.table.record_kind() != RecordKind::Row;
        let late = may_join && (is_standing || writes(self)) && self.top_up();
        let must_propose = is_standing || late || !base.settled;
        let ballot = round.ballot();
        let (state, verdicts, propose) = self.judge(&base, ballot, must_propose);
        if !propose {
            self.answer(verdicts);
            self.forget(&plan, Ballot::ZERO);
            return After::Answered;
        }
        let bytes = state.encode(&self.table, &self.key);
        if bytes.len() > MAX_DECIDED_BYTES {
            let (max, got) = (MAX_DECIDED_BYTES as u64, bytes.len() as u64);
            return After::Impossible(OpError::RecordTooLarge { max, got });
        }
        let next = self.is_strong().then(|| self.inner.next_ballot(ballot));
        if let Err(after) = self.accept(&plan, &electors, &mut round, &bytes, next).await {
            return after;
        }
        let generation = base.generation;
        let decision = Decision { ballot, record: bytes, generation, everywhere: Arc::default() };
        if let Some(next) = next {
            let epoch = plan.epoch;
            self.standing = Some(Standing { ballot: next, epoch, state, generation });
            self.uncommitted = Some((plan, electors, decision));
            self.answer(verdicts);
            return After::Answered;
        }
        let patience = plan.left(self.inner.env.mono());
        let stored = self.commit(plan, electors, decision, true);
        match self.inner.env.timeout(patience, stored).await {
            Ok(Ok(())) => {
                self.answer(verdicts);
                After::Answered
            }
            // It is chosen, and may not be seen by a quorum read yet.
            Ok(Err(_)) | Err(_) => After::Again,
        }
    }

    fn answer(&mut self, verdicts: Vec<Verdict>) {
        let judged = verdicts.len() as u64;
        self.inner.lwt.counters.judged.fetch_add(judged, Ordering::Relaxed);
        for (job, verdict) in self.jobs.drain(..).zip(verdicts) {
            let answer = match verdict {
                Verdict::Failed(error) => Err(error),
                verdict => Ok(verdict),
            };
            let _ = job.reply.send(answer);
        }
    }

    /// The state after all jobs, their verdicts, and whether it has to be proposed.
    fn judge(
        &mut self,
        base: &Base,
        ballot: Ballot,
        must_propose: bool,
    ) -> (State, Vec<Verdict>, bool) {
        let key = &self.key;
        let judge =
            |state: &mut State, case: &Case<'_>, events: &mut Events, room: &mut usize| match case
                .ask
            {
                Ask::Rows { judge, .. } => judge_rows(state, key, &**judge, case, events),
                _ => judge(&mut state.head, case, events, room),
            };
        loop {
            let mut state = base.state.clone();
            let mut events = Events::of(ballot, stamp(self.inner));
            let mut room = MAX_DECIDED_BYTES;
            let mut verdicts = Vec::with_capacity(self.jobs.len());
            for job in &mut self.jobs {
                let mut verdict = judge(&mut state, &job.case(), &mut events, &mut room);
                if let Verdict::Rename(oldest) = verdict {
                    job.about.op = self.inner.new_op_id(Some(oldest));
                    verdict = judge(&mut state, &job.case(), &mut events, &mut room);
                }
                verdicts.push(verdict);
            }
            // An earlier proposal of an operation that is refused now may still be met and
            // finished, unless a higher one without it is chosen.
            let was_proposed = |job: &super::Job| job.is_proposed();
            let settles = self.jobs.iter().any(|job| matches!(job.ask, Ask::Settle));
            let mut propose = must_propose
                || settles
                || state != base.state
                || self.jobs.iter().any(was_proposed);
            if planted(Plant::P06) {
                propose &= verdicts.iter().any(|v| !matches!(v, Verdict::Refused { .. }));
            }
            if !propose {
                return (state, verdicts, false);
            }
            let all = self.jobs.len();
            self.jobs.retain(|job| matches!(job.ask, Ask::Read | Ask::Settle) || job.propose());
            if self.jobs.len() == all {
                return (state, verdicts, true);
            }
        }
    }

    /// The rows that the waiting operations are about, beside the head.
    fn rows_asked(&self) -> Vec<Key> {
        let mut rows: Vec<Key> = self
            .jobs
            .iter()
            .filter_map(|job| match &job.ask {
                Ask::Rows { rows, .. } => Some(rows),
                _ => None,
            })
            .flatten()
            .cloned()
            .collect();
        rows.sort_unstable();
        rows.dedup();
        rows
    }

    fn note_interruption(&self, interrupted: bool) {
        if interrupted {
            self.inner.note_contention(&self.table, &self.key);
            self.inner.lwt.counters.interrupted.fetch_add(1, Ordering::Relaxed);
            for job in &self.jobs {
                job.interrupted.fetch_add(1, Ordering::AcqRel);
            }
        }
    }

    /// How long voters have for one step.
    fn patience(&self, plan: &Plan) -> Duration {
        let slowest = plan.live.iter().map(|&node| self.inner.latencies.slowest(node)).max();
        let left = plan.left(self.inner.env.mono());
        (slowest.unwrap_or_default() * 4).max(MIN_PATIENCE).max(left / 4).min(left)
    }

    async fn prepare(
        &mut self,
        plan: &Plan,
        electors: &Electors,
    ) -> Result<(Round<Bytes>, Base), After> {
        let ballot = self.inner.next_ballot(self.above);
        self.above = self.above.max(ballot);
        let mut round = Round::new(ballot, electors.electorate.clone());
        let deadline = self.inner.env.mono() + self.patience(plan);
        let rows = self.rows_asked();
        let step = PaxosStep::Prepare { ballot, rows: rows.clone() };
        let mut calls = self.ask_all(plan, &step, deadline);
        let (mut shown, mut interrupted) = (Vec::new(), false);
        let mut generation = Generation(u64::MAX);
        let found = loop {
            let (node, answer) = self.next(plan, &mut calls).await?;
            let Some(voter) = electors.voter(node) else { continue };
            let step = match answer {
                Some(PaxosAnswer::Shown { accepted, committed, record, rows, generation: at }) => {
                    shown.push(Shown { record, rows });
                    generation = generation.min(at);
                    round.on_promise(voter, ballot, Promise { accepted, committed })
                }
                Some(PaxosAnswer::Reject { promised }) => {
                    interrupted = true;
                    round.on_reject(voter, ballot, promised)
                }
                _ => round.without(voter, ballot),
            };
            match step {
                RoundStep::Judge(found) => break found,
                RoundStep::Restart { above } => {
                    self.above = self.above.max(above);
                    self.note_interruption(interrupted);
                    return Err(After::Again);
                }
                RoundStep::Wait | RoundStep::Chosen => {}
            }
        };
        self.inner.finish_later("late promises", calls);
        let base = self.base(&rows, shown, found, generation).ok_or(After::Again)?;
        let latest = base.state.head.max_counter(ActorId::PAXOS);
        if latest >= ballot.time {
            self.above = self.above.max(Ballot { time: latest, actor: ballot.actor });
            return Err(After::Again);
        }
        Ok((round, base))
    }

    /// The newest state that a majority shows. `None`: some of it cannot be read.
    fn base(
        &self,
        rows: &[Key],
        mut shown: Vec<Shown>,
        mut found: Found<Bytes>,
        generation: Generation,
    ) -> Option<Base> {
        if planted(Plant::P09) {
            shown.truncate(1);
            found.value = found.value.filter(|_| false);
        }
        let mut same = shown.iter().all(|one| *one == shown[0]) && found.value.is_none();
        if found.value.is_some() && !found.settled {
            self.inner.lwt.counters.finished.fetch_add(1, Ordering::Relaxed);
        }
        let mut votes: Vec<&Bytes> = found.value.iter().map(|(_, vote)| vote).collect();
        // Of a decision on rows, those were shown that were asked for. A repair may have brought just
        // these to a majority.
        if self.table.record_kind() == RecordKind::Row {
            votes.extend(&found.decided);
            same &= found.decided.is_none();
        }
        let state = State::merged(&self.table, &self.key, rows, &shown, &votes)?;
        // Where others read the data alone, what is shown must be in the data of a majority: a
        // plain write may be on its way, and a vote is not there yet. Else a quorum read that
        // follows this answer could show less.
        Some(Base { state, generation, settled: found.settled && (same || self.is_strong()) })
    }

    async fn accept(
        &mut self,
        plan: &Plan,
        electors: &Electors,
        round: &mut Round<Bytes>,
        record: &Bytes,
        next: Option<Ballot>,
    ) -> Result<(), After> {
        round.propose();
        let ballot = round.ballot();
        self.above = self.above.max(ballot).max(next.unwrap_or(ballot));
        let deadline = self.inner.env.mono() + self.patience(plan);
        let step = PaxosStep::Accept { ballot, record: record.clone(), next };
        let mut calls = self.ask_all(plan, &step, deadline);
        let mut interrupted = false;
        loop {
            let (node, answer) = self.next(plan, &mut calls).await?;
            let Some(voter) = electors.voter(node) else { continue };
            let step = match answer {
                Some(PaxosAnswer::Done) => round.on_accepted(voter, ballot),
                Some(PaxosAnswer::Reject { promised }) => {
                    interrupted = true;
                    round.on_reject(voter, ballot, promised)
                }
                _ => round.without(voter, ballot),
            };
            match step {
                RoundStep::Chosen => {
                    self.inner.finish_later("late votes", calls);
                    return Ok(());
                }
                RoundStep::Restart { above } => {
                    self.above = self.above.max(above);
                    self.note_interruption(interrupted);
                    return Err(After::Again);
                }
                RoundStep::Wait | RoundStep::Judge(_) => {}
            }
        }
    }

    /// The next answer, if it is one that counts.
    async fn next(
        &self,
        plan: &Plan,
        calls: &mut Calls,
    ) -> Result<(NodeId, Option<PaxosAnswer>), After> {
        let Some((node, result)) = calls.next().await else { return Err(After::Again) };
        Ok(match result {
            Ok(Response::Paxos(answer)) => (node, Some(answer)),
            Ok(Response::Refused(refusal)) => {
                heal_if_damaged(self.inner, plan, &self.key, node, &refusal);
                match self.inner.follow(plan, &refusal).await {
                    Ok(()) => (node, None),
                    Err(Stop::Replan | Stop::Error(_)) => return Err(After::Again),
                }
            }
            Ok(_) | Err(_) => (node, None),
        })
    }
}

impl super::Job {
    fn case(&self) -> Case<'_> {
        Case {
            ask: &self.ask,
            op: self.about.op,
            named: self.about.named,
            request: self.about.request,
            now: self.about.now,
        }
    }
}
