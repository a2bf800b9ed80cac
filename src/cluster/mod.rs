//! A node's part in the cluster: it keeps a copy of the metadata log, votes on its next entry,
//! proposes entries of its own, and gossips liveness. [`crate::meta`] says what the log means,
//! [`crate::paxos`] how one entry is agreed, [`crate::gossip`] who is believed alive; here are
//! the tasks and messages between them.
//!
//! - *Epoch n* means that entries 1 to n are applied. An entry is on disk before the epoch that
//!   it makes is published, so a node's epoch never goes back (invariant I9).
//! - Entry n fixes the voters of entry n+1, and nobody votes on n+1 before it has learnt n
//!   (rule 20). A node with an emptied disk is another *voter*, whose vote counts only after an
//!   entry has named it; and a restored older copy of a directory, which sees in the log that it is
//!   one, votes no more (rule 17; [`start`]).
//! - A vote is on disk before it is answered (law L9).
//! - Lost answers: every entry has a random id; a proposer looks for that id in the log before it
//!   proposes again (CASSANDRA-21222).
//! - A node serves reads and mints only once its own start stands in the log: until then it
//!   cannot know that its directory is not an older copy.

mod beat;
mod founding;
mod log;
mod start;
mod store;
#[cfg(all(test, feature = "sim"))]
mod tests;
mod wire;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use tokio::sync::watch;

use crate::env::Env;
use crate::gossip::{self, Gossip, Heard, Liveness};
use crate::meta::{ClusterState, LogEntry, Verdict};
use crate::net::{NodeStamps, Peers, Request, Response};
use crate::paxos::Acceptor;
use crate::ring::Member;
use crate::storage::{Committer, Engine, StorageError};
use crate::types::{ActorId, Addresses, Epoch, Incarnation, Mono, NodeId, VoterId};

pub use log::AppendError;
use store::MetaStore;
use wire::{MetaRequest, MetaResponse};

/// A founder as the configuration names it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FounderName {
    /// The node's name.
    pub name: String,
    /// Where it listens for peers, `host:port`.
    pub address: String,
}

/// What a node knows of itself and of its cluster before it has heard from anybody.
#[derive(Clone, Debug)]
pub struct ClusterConfig {
    /// The cluster's name.
    pub cluster: String,
    /// This node's place in the ring.
    pub member: Member,
    /// Where this node can be reached.
    pub addresses: Addresses,
    /// The actor of its data directory.
    pub actor: ActorId,
    /// Who votes here: the history of the votes in that directory.
    pub voter: VoterId,
    /// How often that directory has been opened.
    pub incarnation: Incarnation,
    /// Which start this is.
    pub nonce: u64,
    /// The starts that the directory knows of, this one included.
    pub starts: BTreeSet<u64>,
    /// Commits that the directory held when it was opened.
    pub mark: u64,
    /// What was heard of others' marks in earlier lives.
    pub heard: BTreeMap<ActorId, Heard>,
    /// The founding list, the same on every founder.
    pub founders: Vec<FounderName>,
    /// Partitions of the ring, used at the founding only.
    pub partitions: u32,
    /// Gossip's pace.
    pub gossip: gossip::Options,
}

/// What a node tells of one member.
#[derive(Clone, Debug)]
pub struct MemberStatus {
    /// The member, as the log has it.
    pub member: Arc<crate::meta::MemberState>,
    /// What this node believes of it.
    pub liveness: Liveness,
    /// The epoch it was last heard to be at.
    pub epoch: Option<Epoch>,
}

/// Why a node must be started anew.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MustRestart {
    /// Its directory is an older copy: it has to go on as a new actor.
    OlderCopy(String),
}

/// The node's copy of the log. Changed only under [`Cluster::turn`].
struct Log {
    entries: Vec<LogEntry>,
    verdicts: BTreeMap<u128, (u64, Verdict)>,
    vote: Acceptor<LogEntry>,
    founding: Option<u128>,
}

/// See the module's essay.
pub struct Cluster {
    env: Env,
    config: ClusterConfig,
    peers: Peers,
    store: MetaStore,
    state: ArcSwap<ClusterState>,
    epochs: watch::Sender<Epoch>,
    restart: watch::Sender<Option<MustRestart>>,
    gossip: Mutex<Gossip>,
    /// True once the others were asked what they have heard of this node.
    asked: AtomicBool,
    log: Mutex<Log>,
    /// Held while a vote or an entry is being stored: they happen one after the other, and what is
    /// answered is on disk.
    turn: tokio::sync::Mutex<()>,
    /// Held while this node proposes: it does not compete with itself.
    proposing: tokio::sync::Mutex<()>,
    /// Held while this node fetches entries.
    fetching: tokio::sync::Mutex<()>,
}

impl std::fmt::Debug for Cluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cluster")
            .field("me", &self.config.member.id)
            .field("epoch", &self.state().epoch())
            .finish_non_exhaustive()
    }
}

impl Cluster {
    /// Loads the log and begins to take part. Spawns the tasks that gossip, found the cluster if
    /// it is not founded, and put this start on record; they end with the node.
    ///
    /// # Errors
    /// Any [`StorageError`] while the log is loaded.
    pub fn start(
        env: Env,
        engine: &Arc<dyn Engine>,
        committer: Committer,
        peers: Peers,
        config: ClusterConfig,
    ) -> Result<Arc<Self>, StorageError> {
        let loaded = MetaStore::load(engine)?;
        let mut state = ClusterState::unfounded(config.member.clone());
        let mut verdicts = BTreeMap::new();
        for entry in &loaded.entries {
            let verdict = state.apply(entry);
            verdicts.insert(entry.id, (state.epoch().0, verdict));
        }
        let mut gossip = Gossip::new(
            config.member.id,
            config.incarnation.0,
            (config.actor, config.nonce),
            config.addresses.clone(),
            config.gossip,
        );
        gossip.set_mark(config.mark);
        for (&actor, &heard) in &config.heard {
            gossip.remember(actor, heard);
        }
        // A directory without history has nothing that it could have forgotten.
        let asked = AtomicBool::new(loaded.entries.is_empty());
        let epoch = state.epoch();
        let cluster = Arc::new(Self {
            store: MetaStore::new(committer),
            state: ArcSwap::from_pointee(state),
            epochs: watch::Sender::new(epoch),
            restart: watch::Sender::new(None),
            gossip: Mutex::new(gossip),
            asked,
            log: Mutex::new(Log {
                entries: loaded.entries,
                verdicts,
                vote: loaded.vote,
                founding: loaded.founding,
            }),
            turn: tokio::sync::Mutex::new(()),
            proposing: tokio::sync::Mutex::new(()),
            fetching: tokio::sync::Mutex::new(()),
            env,
            config,
            peers,
        });
        cluster.publish(cluster.state());
        for founder in &cluster.config.founders {
            if !cluster.state().is_founded() {
                cluster.peers.set_address(cluster.founder_id(founder), &founder.address);
            }
        }
        let task = cluster.clone();
        cluster.env.spawn("gossip", async move { task.beat().await });
        let task = cluster.clone();
        cluster.env.spawn("enter", async move { task.enter().await });
        Ok(cluster)
    }

    fn founder_id(&self, founder: &FounderName) -> NodeId {
        NodeId::derive(&self.config.cluster, &founder.name)
    }

    /// This node.
    #[must_use]
    pub fn me(&self) -> NodeId {
        self.config.member.id
    }

    /// What this node was started with.
    #[must_use]
    pub fn config(&self) -> &ClusterConfig {
        &self.config
    }

    /// What the cluster has agreed on, as far as this node knows.
    #[must_use]
    pub fn state(&self) -> Arc<ClusterState> {
        self.state.load_full()
    }

    /// Tells of every new epoch.
    #[must_use]
    pub fn epochs(&self) -> watch::Receiver<Epoch> {
        self.epochs.subscribe()
    }

    /// Becomes `Some` when this node has to be started anew.
    #[must_use]
    pub fn must_restart(&self) -> watch::Receiver<Option<MustRestart>> {
        self.restart.subscribe()
    }

    /// Has this node started anew, as a new actor: its directory is an older copy.
    pub fn begin_anew(&self, why: &str) {
        self.restart.send_if_modified(|restart| {
            let first = restart.is_none();
            if first {
                tracing::error!(%why, "going on as a new actor");
                *restart = Some(MustRestart::OlderCopy(why.to_owned()));
            }
            first
        });
    }

    pub(super) fn is_to_begin_anew(&self) -> bool {
        self.restart.borrow().is_some()
    }

    /// How far this node's directory is known to be on stable storage, in commits, and how far
    /// others were heard to be. For the note beside the store.
    #[must_use]
    pub fn marks(&self) -> (u64, BTreeMap<ActorId, Heard>) {
        (self.own_mark(), self.gossip().heard().clone())
    }

    fn own_mark(&self) -> u64 {
        self.store.durable_mark().max(self.config.mark)
    }

    /// The node's epoch and clock.
    #[must_use]
    pub fn stamps(&self) -> &Arc<NodeStamps> {
        self.peers.stamps()
    }

    /// True when this node may show and mint records: its own start stands in the log, and its
    /// directory lacks nothing that it had acknowledged (rules 2 and 17).
    #[must_use]
    pub fn may_serve(&self, state: &ClusterState) -> bool {
        self.is_on_record(state)
            && state.member(self.me()).is_some_and(|member| member.filled)
            && !self.is_to_begin_anew()
    }

    /// What is believed of `node`.
    #[must_use]
    pub fn liveness(&self, node: NodeId) -> Liveness {
        self.gossip().liveness(node, self.env.mono())
    }

    /// True unless `node` is believed dead. A node of which nothing was heard yet is asked.
    #[must_use]
    pub fn is_live(&self, node: NodeId) -> bool {
        node == self.me() || !matches!(self.liveness(node), Liveness::Dead)
    }

    /// All members with what is believed of them.
    #[must_use]
    pub fn members(&self) -> Vec<MemberStatus> {
        let (state, now) = (self.state(), self.env.mono());
        let gossip = self.gossip();
        state
            .members()
            .iter()
            .map(|(&node, member)| MemberStatus {
                member: member.clone(),
                liveness: gossip.liveness(node, now),
                epoch: if node == self.me() { Some(state.epoch()) } else { gossip.epoch_of(node) },
            })
            .collect()
    }

    /// Notes that `node` has sent something.
    pub fn heard_from(&self, node: NodeId) {
        let now = self.env.mono();
        self.gossip().heard_from(node, now);
    }

    fn gossip(&self) -> std::sync::MutexGuard<'_, Gossip> {
        self.gossip.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn log(&self) -> std::sync::MutexGuard<'_, Log> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a state the one that everybody sees.
    fn publish(&self, state: Arc<ClusterState>) {
        let epoch = state.epoch();
        for (&node, member) in state.members() {
            self.peers.set_address(node, &member.addresses.peer);
        }
        {
            let mut gossip = self.gossip();
            if state.is_founded() {
                gossip.set_members(state.voters());
                let actors = state.members().values().map(|member| member.actor).collect();
                gossip.forget_all_but(&actors);
            } else {
                let founders = self.config.founders.iter().map(|f| self.founder_id(f));
                gossip.set_members(founders.collect::<Vec<_>>());
            }
            gossip.set_epoch(epoch);
        }
        self.state.store(state);
        self.peers.stamps().advance(epoch);
        self.epochs.send_if_modified(|known| {
            let newer = epoch > *known;
            *known = epoch.max(*known);
            newer
        });
    }

    /// Asks one node about the log.
    async fn ask(
        &self,
        node: NodeId,
        request: &MetaRequest,
        deadline: Mono,
    ) -> Option<MetaResponse> {
        let request = Request::Meta(request.encode().into());
        match self.peers.call(node, request, deadline).await {
            Ok(Response::Meta(bytes)) => {
                self.heard_from(node);
                MetaResponse::decode(&bytes).ok()
            }
            _ => None,
        }
    }

    /// Answers a message about the log.
    pub async fn handle_meta(self: &Arc<Self>, from: NodeId, bytes: Bytes) -> Response {
        let answer = match MetaRequest::decode(&bytes) {
            Ok(request) => self.answer(from, request).await,
            Err(error) => MetaResponse::No { why: error.to_string() },
        };
        Response::Meta(answer.encode().into())
    }

    async fn answer(self: &Arc<Self>, from: NodeId, request: MetaRequest) -> MetaResponse {
        match request {
            MetaRequest::Card { names } => self.show_card(names),
            MetaRequest::Confirm { cards } => self.confirm(&cards).await,
            MetaRequest::Prepare { index, founding, ballot } => {
                self.prepare(index, founding, ballot).await
            }
            MetaRequest::Accept { index, founding, ballot, entry } => {
                self.accept(index, founding, ballot, entry).await
            }
            MetaRequest::Learn { first, entries } => {
                self.learn(first, entries).await;
                let epoch = self.state().epoch();
                tracing::debug!(%from, %epoch, "learnt metadata");
                MetaResponse::Learned { epoch }
            }
            MetaRequest::Fetch { after } => self.entries_after(after),
            MetaRequest::Recall { actor, start } => MetaResponse::Recalled {
                epoch: self.state().epoch(),
                mark: self.gossip().heard_before(actor, start),
            },
        }
    }

    /// Waits until this node has applied `epoch`. False if the deadline comes first.
    pub async fn catch_up(self: &Arc<Self>, epoch: Epoch, deadline: Mono) -> bool {
        let mut pause = Duration::from_millis(5);
        while self.state().epoch() < epoch {
            if self.env.mono() >= deadline {
                return false;
            }
            self.fetch_once(deadline).await;
            if self.state().epoch() < epoch {
                self.env.sleep(pause).await;
                pause = (pause * 2).min(Duration::from_millis(200));
            }
        }
        true
    }
}
