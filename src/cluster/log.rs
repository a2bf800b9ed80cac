//! Voting on entries, proposing them, and learning them.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::future::join_all;
use futures_util::stream::FuturesUnordered;

use crate::cluster::Cluster;
use crate::cluster::wire::{MAX_ENTRIES, MetaRequest, MetaResponse};
use crate::meta::{ClusterState, Command, LogEntry, Verdict};
use crate::paxos::{AcceptReply, Electorate, PrepareReply, Proposer, Step};
use crate::types::{Ballot, Epoch, Mono, NodeId, VoterId};

/// How long one voter may take.
const VOTE_TIME: Duration = Duration::from_secs(2);

/// Why a command has no verdict.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    /// Nothing was proposed: it will not take effect.
    #[error(
        "the cluster's metadata cannot change now: a majority of its {members} members must be \
         reachable"
    )]
    Unavailable {
        /// Members of the cluster.
        members: usize,
    },
    /// It was proposed and the outcome was not learnt in time: it may take effect.
    #[error(
        "the outcome of this change is not known yet; look at what is there before trying again"
    )]
    Unknown,
}

/// How one attempt ended.
enum Attempt {
    /// This entry is chosen.
    Chosen(LogEntry),
    /// The log has moved on meanwhile.
    Moved,
    /// Others were in the way, or too few voters were there.
    Again { above: Ballot, proposed: bool },
}

/// Who votes on an entry.
pub(super) struct Voters {
    /// Nodes to ask.
    pub(super) nodes: Vec<NodeId>,
    /// The voters whose votes count.
    pub(super) electorate: Electorate,
    /// For entry 1: the digest of the founders' cards; else 0.
    pub(super) founding: u128,
    /// For entry 1: no state says yet whose vote counts; the cards do.
    pub(super) trusted: bool,
}

impl Cluster {
    /// What to answer if this node may not vote on `index`; `None` when it may.
    fn no_vote_on(&self, index: u64, founding: u128) -> Option<MetaResponse> {
        let epoch = self.state().epoch();
        if index <= epoch.0 {
            return Some(self.entries_after(Epoch(index.saturating_sub(1))));
        }
        if index > epoch.0 + 1 {
            return Some(MetaResponse::Behind { epoch });
        }
        if index == 1 && self.log().founding != Some(founding) {
            let why = "this node has not confirmed that founding".to_owned();
            return Some(MetaResponse::No { why });
        }
        self.why_silent().map(|why| MetaResponse::No { why })
    }

    pub(super) async fn prepare(&self, index: u64, founding: u128, ballot: Ballot) -> MetaResponse {
        let _turn = self.turn.lock().await;
        if index == 0 {
            return MetaResponse::No { why: "entries are numbered from 1".to_owned() };
        }
        if let Some(answer) = self.no_vote_on(index, founding) {
            return answer;
        }
        let (reply, vote) = {
            let mut log = self.log();
            let reply = log.vote.on_prepare(ballot);
            (reply, log.vote.clone())
        };
        // Saved even if unchanged: an earlier save may have failed after it changed the memory.
        if let Err(error) = self.store.save_vote(index, &vote).await {
            return MetaResponse::No { why: error.to_string() };
        }
        match reply.after_persist() {
            PrepareReply::Promise { ballot, accepted } => {
                MetaResponse::Promise { voter: self.config.voter, ballot, accepted }
            }
            PrepareReply::Reject { ballot, promised } => {
                MetaResponse::Reject { voter: self.config.voter, ballot, promised }
            }
        }
    }

    pub(super) async fn accept(
        &self,
        index: u64,
        founding: u128,
        ballot: Ballot,
        entry: LogEntry,
    ) -> MetaResponse {
        let _turn = self.turn.lock().await;
        if index == 0 {
            return MetaResponse::No { why: "entries are numbered from 1".to_owned() };
        }
        if let Some(answer) = self.no_vote_on(index, founding) {
            return answer;
        }
        if index == 1 && !self.is_founding(&entry, founding) {
            let why = "entry 1 must found the cluster that this node has confirmed".to_owned();
            return MetaResponse::No { why };
        }
        let (reply, vote) = {
            let mut log = self.log();
            let reply = log.vote.on_accept(ballot, entry);
            (reply, log.vote.clone())
        };
        if let Err(error) = self.store.save_vote(index, &vote).await {
            return MetaResponse::No { why: error.to_string() };
        }
        match reply.after_persist() {
            AcceptReply::Accepted { ballot } => {
                MetaResponse::Accepted { voter: self.config.voter, ballot }
            }
            AcceptReply::Reject { ballot, promised } => {
                MetaResponse::Reject { voter: self.config.voter, ballot, promised }
            }
        }
    }

    /// Takes chosen entries, numbered from `first`. Those that leave a gap are ignored: they will
    /// be fetched.
    pub(super) async fn learn(&self, first: u64, entries: Vec<LogEntry>) {
        for (at, entry) in entries.into_iter().enumerate() {
            if !self.learn_one(first + at as u64, entry).await {
                return;
            }
        }
    }

    /// True if entry `index` is applied now.
    async fn learn_one(&self, index: u64, entry: LogEntry) -> bool {
        let _turn = self.turn.lock().await;
        let state = self.state();
        if index <= state.epoch().0 {
            return self.agrees(index, &entry);
        }
        if index != state.epoch().0 + 1 {
            return false;
        }
        if index == 1
            && let Err(why) = self.belongs(&entry)
        {
            tracing::error!(why, "this node cannot join the cluster that it met");
            return false;
        }
        if let Err(error) = self.store.save_entry(index, &entry).await {
            tracing::error!(index, %error, "a metadata entry could not be stored");
            return false;
        }
        let mut next = ClusterState::clone(&state);
        let verdict = next.apply(&entry);
        tracing::info!(epoch = index, command = ?Brief(&entry.command), ?verdict, "metadata");
        {
            let mut log = self.log();
            log.verdicts.insert(entry.id, (index, verdict));
            log.entries.push(entry);
            log.vote = crate::paxos::Acceptor::default();
        }
        self.publish(Arc::new(next));
        true
    }

    /// Entry n is the same everywhere (invariant I9). If it is not, two clusters have met, or
    /// somebody voted twice; nothing that follows can be trusted.
    fn agrees(&self, index: u64, entry: &LogEntry) -> bool {
        let at = index.checked_sub(1).and_then(|at| usize::try_from(at).ok());
        let same = at.is_some_and(|at| self.log().entries.get(at) == Some(entry));
        if !same {
            tracing::error!(index, "this metadata entry is known as another one");
        }
        debug_assert!(same, "entry {index} of the metadata log differs (I9)");
        same
    }

    pub(super) fn entries_after(&self, after: Epoch) -> MetaResponse {
        let log = self.log();
        let from = usize::try_from(after.0).unwrap_or(usize::MAX).min(log.entries.len());
        let entries = log.entries[from..].iter().take(MAX_ENTRIES).cloned().collect();
        MetaResponse::Entries { first: from as u64 + 1, entries }
    }

    /// Asks others for what this node lacks, those believed furthest first.
    pub(super) async fn fetch_once(self: &Arc<Self>, deadline: Mono) {
        let _fetching = self.fetching.lock().await;
        let after = self.state().epoch();
        let mut nodes: Vec<NodeId> = self.gossip().ahead().into_iter().map(|(n, _)| n).collect();
        for node in self.everybody() {
            if !nodes.contains(&node) && self.is_live(node) {
                nodes.push(node);
            }
        }
        for node in nodes {
            let time = deadline.min(self.env.mono() + VOTE_TIME);
            let answer = self.ask(node, &MetaRequest::Fetch { after }, time).await;
            if let Some(MetaResponse::Entries { first, entries }) = answer
                && !entries.is_empty()
            {
                self.learn(first, entries).await;
                return;
            }
        }
    }

    /// All other nodes that this one knows of.
    pub(super) fn everybody(&self) -> Vec<NodeId> {
        let state = self.state();
        let known = if state.is_founded() {
            state.voters()
        } else {
            self.config.founders.iter().map(|f| self.founder_id(f)).collect()
        };
        known.into_iter().filter(|&node| node != self.me()).collect()
    }

    /// Has `command` take a place in the log, and waits until every live node has applied it.
    ///
    /// # Errors
    /// [`AppendError`], which tells "will not happen" from "may have happened".
    pub async fn append(
        self: &Arc<Self>,
        command: Command,
        deadline: Mono,
    ) -> Result<Verdict, AppendError> {
        let id = (u128::from(self.env.random("entry-id")) << 64)
            | u128::from(self.env.random("entry-id"));
        let entry = LogEntry { id, command };
        let (index, verdict) = self.decide(&entry, deadline).await?;
        self.spread(index, deadline).await;
        Ok(verdict)
    }

    async fn decide(
        self: &Arc<Self>,
        entry: &LogEntry,
        deadline: Mono,
    ) -> Result<(u64, Verdict), AppendError> {
        let wait = deadline.since(self.env.mono());
        let Ok(_proposing) = self.env.timeout(wait, self.proposing.lock()).await else {
            return Err(AppendError::Unavailable { members: self.state().members().len() });
        };
        let (mut above, mut may_be_chosen, mut pause) =
            (Ballot::ZERO, false, Duration::from_millis(4));
        let mut tried = 0;
        loop {
            // In this order: an entry's verdict is there before the epoch that it makes.
            let state = self.state();
            if let Some(found) = self.log().verdicts.get(&entry.id).cloned() {
                return Ok(found);
            }
            if state.epoch().0 >= tried {
                // The place that was tried has gone to another entry: what was proposed for it
                // is void.
                (above, may_be_chosen) = (Ballot::ZERO, false);
            }
            if self.env.mono() >= deadline {
                let members = state.members().len();
                return Err(if may_be_chosen {
                    AppendError::Unknown
                } else {
                    AppendError::Unavailable { members }
                });
            }
            let voters = self.voters_of(&state);
            let index = state.epoch().0 + 1;
            tried = index;
            match self.attempt(index, entry.clone(), voters, above, deadline).await {
                Attempt::Chosen(chosen) => {
                    // If it cannot be stored here, it is chosen all the same.
                    may_be_chosen = true;
                    self.learn(index, vec![chosen]).await;
                }
                Attempt::Moved => {}
                Attempt::Again { above: seen, proposed } => {
                    may_be_chosen |= proposed;
                    above = above.max(seen);
                    let spread = u64::try_from(pause.as_micros()).unwrap_or(1).max(1);
                    let jitter = self.env.random_below("append-backoff", spread);
                    self.env.sleep(pause + Duration::from_micros(jitter)).await;
                    pause = (pause * 2).min(Duration::from_millis(250));
                }
            }
        }
    }

    fn voters_of(&self, state: &ClusterState) -> Option<Voters> {
        let voters = state.members().values().map(|member| member.voter);
        let electorate = Electorate::majority(voters, state.members().len()).ok()?;
        Some(Voters { nodes: state.voters(), electorate, founding: 0, trusted: false })
    }

    /// One round of Paxos for entry `index`, above the ballot `above`.
    async fn attempt(
        self: &Arc<Self>,
        index: u64,
        entry: LogEntry,
        voters: Option<Voters>,
        above: Ballot,
        deadline: Mono,
    ) -> Attempt {
        let Some(voters) = voters else { return Attempt::Again { above, proposed: false } };
        let above = above.max(self.log().vote.promised());
        let time = self.stamps().clock.tick().0.max(above.time.saturating_add(1));
        let ballot = Ballot { time, actor: self.config.actor };
        let mut proposer = Proposer::new(ballot, entry, voters.electorate.clone());
        let founding = voters.founding;
        let prepare = MetaRequest::Prepare { index, founding, ballot };
        // First its own acceptor, alone: the promise is on disk before the ballot leaves this
        // node, and the next ballot goes above it. So none is ever used twice (invariant I7),
        // whatever became of the clock in a crash.
        let own = self.prepare(index, founding, ballot).await;
        match own {
            MetaResponse::Promise { .. } => {}
            MetaResponse::Reject { promised, .. } => {
                return Attempt::Again { above: above.max(promised), proposed: false };
            }
            MetaResponse::Entries { .. } => return Attempt::Moved,
            _ => return Attempt::Again { above, proposed: false },
        }
        // Its own vote counts like any other's, and may already be all that it takes.
        let mut proposal = match self.step(&mut proposer, &voters, self.me(), Some(own)).await {
            Heard::Step(Step::SendAccept { ballot, value }) => Some((ballot, value)),
            _ => None,
        };
        let others: Vec<NodeId> =
            voters.nodes.iter().copied().filter(|&node| node != self.me()).collect();
        let mut calls = self.ask_all(&others, prepare, deadline);
        while proposal.is_none()
            && let Some((node, answer)) = calls.next().await
        {
            match self.step(&mut proposer, &voters, node, answer).await {
                Heard::Step(Step::SendAccept { ballot, value }) => {
                    proposal = Some((ballot, value));
                }
                Heard::Step(Step::Restart { above }) => {
                    return Attempt::Again { above, proposed: false };
                }
                Heard::Moved => return Attempt::Moved,
                Heard::Step(_) | Heard::Nothing => {}
            }
        }
        let Some((ballot, value)) = proposal else {
            return Attempt::Again { above: proposer.above(), proposed: false };
        };
        let accept = MetaRequest::Accept { index, founding, ballot, entry: value };
        let mut calls = self.ask_all(&voters.nodes, accept, deadline);
        while let Some((node, answer)) = calls.next().await {
            match self.step(&mut proposer, &voters, node, answer).await {
                Heard::Step(Step::Chosen { value, .. }) => return Attempt::Chosen(value),
                Heard::Step(Step::Restart { above }) => {
                    return Attempt::Again { above, proposed: true };
                }
                Heard::Moved => return Attempt::Moved,
                Heard::Step(_) | Heard::Nothing => {}
            }
        }
        Attempt::Again { above: proposer.above(), proposed: true }
    }

    fn ask_all(
        self: &Arc<Self>,
        nodes: &[NodeId],
        request: MetaRequest,
        deadline: Mono,
    ) -> FuturesUnordered<impl Future<Output = (NodeId, Option<MetaResponse>)>> {
        let time = deadline.min(self.env.mono() + VOTE_TIME);
        nodes
            .iter()
            .map(|&node| {
                let (cluster, request) = (self.clone(), request.clone());
                // Each in a task of its own. This node's own vote holds the turn while it is being
                // stored; were it polled only here, it would stand still, turn in hand, whenever
                // the proposer waits for that same turn to learn an entry.
                let answer =
                    self.env.run("ask", async move { cluster.ask(node, &request, time).await });
                async move { (node, answer.await.flatten()) }
            })
            .collect()
    }

    /// Feeds one answer to the proposer, if its vote counts.
    async fn step(
        self: &Arc<Self>,
        proposer: &mut Proposer<LogEntry>,
        voters: &Voters,
        node: NodeId,
        answer: Option<MetaResponse>,
    ) -> Heard {
        let counts = |voter| voters.trusted || self.state().may_vote(node, voter);
        match answer {
            Some(MetaResponse::Promise { voter, ballot, accepted }) if counts(voter) => {
                Heard::Step(proposer.on_promise(voter, ballot, accepted))
            }
            Some(MetaResponse::Accepted { voter, ballot }) if counts(voter) => {
                Heard::Step(proposer.on_accepted(voter, ballot))
            }
            Some(MetaResponse::Reject { voter, ballot, promised }) if counts(voter) => {
                Heard::Step(proposer.on_reject(voter, ballot, promised))
            }
            Some(MetaResponse::Entries { first, entries }) => {
                let before = self.state().epoch();
                self.learn(first, entries).await;
                if self.state().epoch() > before { Heard::Moved } else { Heard::Nothing }
            }
            Some(MetaResponse::Behind { epoch }) => {
                if let MetaResponse::Entries { first, entries } = self.entries_after(epoch) {
                    let deadline = self.env.mono() + VOTE_TIME;
                    drop(self.ask(node, &MetaRequest::Learn { first, entries }, deadline).await);
                }
                Heard::Nothing
            }
            _ => Heard::Nothing,
        }
    }

    /// Tells every member of the log up to `index`, and waits for those that are live.
    pub(super) async fn spread(self: &Arc<Self>, index: u64, deadline: Mono) {
        let calls = self.everybody().into_iter().filter(|&node| self.is_live(node)).map(|node| {
            let cluster = self.clone();
            async move {
                let mut after = Epoch(index - 1);
                while cluster.env.mono() < deadline && cluster.is_live(node) {
                    let MetaResponse::Entries { first, entries } = cluster.entries_after(after)
                    else {
                        return;
                    };
                    let time = deadline.min(cluster.env.mono() + VOTE_TIME);
                    let learn = MetaRequest::Learn { first, entries };
                    match cluster.ask(node, &learn, time).await {
                        Some(MetaResponse::Learned { epoch }) if epoch.0 >= index => {
                            // Known before its next heartbeat: clients that have changed the
                            // schema look at once whether all nodes agree on it.
                            cluster.gossip().heard_epoch(node, epoch);
                            return;
                        }
                        Some(MetaResponse::Learned { epoch }) => after = epoch,
                        _ => cluster.env.sleep(Duration::from_millis(20)).await,
                    }
                }
            }
        });
        join_all(calls).await;
    }

    /// Proposes entry 1 to the founders.
    pub(super) async fn propose_founding(
        self: &Arc<Self>,
        entry: LogEntry,
        nodes: Vec<NodeId>,
        voters: &[VoterId],
        founding: u128,
        deadline: Mono,
    ) {
        let Ok(electorate) = Electorate::majority(voters.iter().copied(), voters.len()) else {
            return;
        };
        let voters = Voters { nodes, electorate, founding, trusted: true };
        let attempt = self.attempt(1, entry, Some(voters), Ballot::ZERO, deadline).await;
        if let Attempt::Chosen(entry) = attempt {
            self.learn(1, vec![entry]).await;
            self.spread(1, deadline).await;
        }
    }
}

enum Heard {
    Step(Step<LogEntry>),
    Moved,
    Nothing,
}

/// A command for the log file, without its secret.
struct Brief<'a>(&'a Command);

impl std::fmt::Debug for Brief<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Command::Found { cluster, q, founders, .. } => f
                .debug_struct("Found")
                .field("cluster", cluster)
                .field("q", q)
                .field("founders", &founders.len())
                .finish_non_exhaustive(),
            other => other.fmt(f),
        }
    }
}
