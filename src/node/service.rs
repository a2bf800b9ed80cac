//! What a node answers to other nodes, and the rules that hold before any answer: the epoch rule
//! (law L5), ownership, deadlines, and a bound on the work under way.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use crate::cluster::Cluster;
use crate::coordinator::Coordinator;
use crate::env::{BoxFuture, Env};
use crate::meta::{ClusterState, Table};
use crate::net::messages::{Header, Keep, PageRequest, Read, Request, Response};
use crate::net::paxos::{OpenRequest, PaxosStep};
use crate::net::{PeerService, Refusal};
use crate::overload::{self, Gate};
use crate::record;
use crate::repair::hints::{HintStore, NotKept};
use crate::repair::purge::Purge;
use crate::repair::{self, Repair};
use crate::replica::{Replica, TokenSpan};
use crate::ring::token_in;
use crate::types::{Generation, Key, Mono, NodeId, PartitionDigest, PartitionId, TableId, Token};

/// Answers peers: data requests from the [`Replica`], metadata and gossip from the [`Cluster`].
pub struct NodeService {
    env: Env,
    me: NodeId,
    cluster: Arc<Cluster>,
    replica: Arc<Replica>,
    repair: Arc<Repair>,
    hints: Arc<HintStore>,
    purge: Arc<Purge>,
    gate: Arc<Gate>,
    /// What decides on operations that others send here.
    coordinator: OnceLock<Coordinator>,
    under_way: Arc<AtomicUsize>,
    max_under_way: usize,
}

impl std::fmt::Debug for NodeService {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NodeService").field("me", &self.me).finish_non_exhaustive()
    }
}

/// Counts one piece of work under way until it is dropped.
struct Admission(Arc<AtomicUsize>, Option<overload::Place>);

impl Drop for Admission {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// What a request is to the node that is asked, when it has more to do than it can.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sort {
    /// An operation begins with it here: refused, it goes elsewhere or comes again, and nothing was
    /// done in vain.
    New,
    /// It continues what has begun on other nodes. Refused, it would leave replicas apart or a
    /// round of Paxos undecided, and make more work than it saves.
    Continued,
    /// It is not urgent.
    Background,
}

impl Sort {
    fn of(request: &Request) -> Self {
        match request {
            Request::Read(_) | Request::Mint(_) | Request::Count(_) => Self::New,
            Request::Page(page) if !page.refill => Self::New,
            Request::Paxos(request) => match request.step {
                PaxosStep::Peek | PaxosStep::Prepare { .. } => Self::New,
                PaxosStep::Accept { .. } | PaxosStep::Commit { .. } | PaxosStep::Forget { .. } => {
                    Self::Continued
                }
            },
            Request::Handoff(_) | Request::Tree(_) => Self::Background,
            Request::Apply(_)
            | Request::ApplyRows(_)
            | Request::Page(_)
            | Request::Meta(_)
            | Request::Gossip(_)
            | Request::Ping
            | Request::Keep(_)
            | Request::Purge(_)
            // Refused, it would be proposed elsewhere and be in the way of those that are here.
            | Request::Propose(_)
            | Request::Open(_) => Self::Continued,
        }
    }
}

/// A table and a token, judged by this node's present epoch.
struct Located {
    table: Arc<Table>,
    token: Token,
}

impl NodeService {
    /// The service of node `me`. At most `max_under_way` data requests are worked on at once;
    /// more are refused at once as overload, and so is what `gate` does not let in.
    #[must_use]
    #[expect(clippy::too_many_arguments, reason = "what a node answers from, each once")]
    pub fn new(
        env: Env,
        me: NodeId,
        cluster: Arc<Cluster>,
        replica: Arc<Replica>,
        repair: Arc<Repair>,
        hints: Arc<HintStore>,
        purge: Arc<Purge>,
        gate: Arc<Gate>,
        max_under_way: usize,
    ) -> Self {
        let (coordinator, under_way) = (OnceLock::new(), Arc::default());
        Self {
            env,
            me,
            cluster,
            replica,
            repair,
            hints,
            purge,
            gate,
            coordinator,
            under_way,
            max_under_way,
        }
    }

    /// Names the node's coordinator, which is made after this. Only the first call counts.
    pub fn set_coordinator(&self, coordinator: Coordinator) {
        let _ = self.coordinator.set(coordinator);
    }

    /// Background work is let in only while half of the places are free. New work of others has to
    /// pass the gate; this node's own has passed the one for clients.
    fn admit(&self, from: NodeId, sort: Sort) -> Result<Admission, Refusal> {
        let overloaded = |what: String| Refusal::Overloaded { what };
        let mut admission = Admission(self.under_way.clone(), None);
        let background = sort == Sort::Background;
        let max = if background { self.max_under_way.div_ceil(2) } else { self.max_under_way };
        if self.under_way.fetch_add(1, Ordering::AcqRel) >= max {
            let max = self.max_under_way;
            return Err(overloaded(format!("{max} requests of peers are under way")));
        }
        if sort == Sort::New && from != self.me {
            let place = self.gate.enter().map_err(|busy| overloaded(busy.to_string()))?;
            admission.1 = Some(place);
        }
        Ok(admission)
    }

    /// Law L5. The sender's plan is good if this node, at an epoch no older than the sender's,
    /// still is a replica of the key.
    async fn catch_up(
        &self,
        header: &Header,
        deadline: Mono,
    ) -> Result<Arc<ClusterState>, Refusal> {
        let state = self.cluster.state();
        if state.epoch() >= header.epoch {
            return Ok(state);
        }
        if self.cluster.catch_up(header.epoch, deadline).await {
            Ok(self.cluster.state())
        } else {
            Err(Refusal::Behind { epoch: self.cluster.state().epoch() })
        }
    }

    fn locate(
        &self,
        state: &ClusterState,
        header: &Header,
        table: TableId,
        key: &Key,
    ) -> Result<Located, Refusal> {
        let token = token_in(table, key);
        let partition = state.ring().partition_of(token);
        let table = self.owned(state, header, table, partition)?;
        Ok(Located { table, token })
    }

    /// The table, if this node is a replica of `partition` in it.
    fn owned(
        &self,
        state: &ClusterState,
        header: &Header,
        table: TableId,
        partition: PartitionId,
    ) -> Result<Arc<Table>, Refusal> {
        let epoch = state.epoch();
        let table = state.table(table).ok_or(Refusal::NoSuchTable { epoch })?;
        let placement = state.ring().placement(&table.settings.replication);
        let replicas = placement.of(partition);
        self.replica.set_cut(state.ring().map());
        if replicas.write.contains(&self.me) {
            return Ok(table.clone());
        }
        Err(if header.epoch < epoch {
            Refusal::StaleEpoch { epoch }
        } else {
            Refusal::NotReplica { epoch }
        })
    }

    /// Rules 2 and 17: a directory that began anew takes writes, but shows and mints nothing until
    /// it has been refilled.
    fn must_be_filled(&self, state: &ClusterState) -> Result<(), Refusal> {
        if self.cluster.may_serve(state) && !self.replica.has_forgotten() {
            Ok(())
        } else {
            Err(Refusal::Refilling)
        }
    }

    /// Has the node go on as a new actor once it has found that it forgot some of its past
    /// (law L3).
    fn look_at_memory(&self) {
        if self.replica.has_forgotten() {
            self.cluster.begin_anew("peers know later events of this node than it does itself");
        }
    }

    /// A record comes from a replica that has purged more: this one catches up before it takes it.
    async fn follow(
        &self,
        state: &ClusterState,
        from: NodeId,
        table: TableId,
        token: Token,
        generation: Generation,
        deadline: Mono,
    ) -> Result<(), Refusal> {
        let id = (table, state.ring().partition_of(token));
        let at = self.replica.generation(id);
        if at.is_ok_and(|at| at >= generation) {
            return Ok(());
        }
        self.purge.catch_up(state, id, generation, Some(from), deadline).await
    }

    async fn answer(
        &self,
        from: NodeId,
        header: Header,
        deadline: Mono,
        request: Request,
    ) -> Result<Response, Refusal> {
        if header.budget_ms == 0 || self.env.mono() >= deadline {
            return Err(Refusal::Late);
        }
        let _admission = self.admit(from, Sort::of(&request))?;
        let state = self.catch_up(&header, deadline).await?;
        match request {
            Request::Read(read) => self.read(&state, &header, &read),
            Request::Mint(mint) => {
                let at = self.locate(&state, &header, mint.table, &mint.key)?;
                self.must_be_filled(&state)?;
                self.follow(&state, from, mint.table, at.token, mint.known_generation, deadline)
                    .await?;
                let minted = self.replica.mint(&at.table, at.token, mint, deadline).await;
                self.look_at_memory();
                minted
            }
            Request::Apply(apply) => {
                let at = self.locate(&state, &header, apply.table, &apply.key)?;
                self.follow(&state, from, apply.table, at.token, apply.generation, deadline)
                    .await?;
                let applied = self.replica.apply(&at.table, at.token, apply).await;
                self.look_at_memory();
                applied
            }
            Request::Page(page) => {
                self.owned(&state, &header, page.table, page.partition)?;
                if !page.refill {
                    self.must_be_filled(&state)?;
                }
                self.page(&state, page).await
            }
            Request::ApplyRows(apply) => {
                let bad = |what: &str| Refusal::BadRequest { what: what.to_owned() };
                let (first, _) = apply.rows.first().ok_or_else(|| bad("no rows"))?;
                let at = self.locate(&state, &header, apply.table, first)?;
                let together =
                    apply.rows.iter().all(|(key, _)| token_in(apply.table, key) == at.token);
                let distinct = apply.rows.is_sorted_by(|a, b| a.0 < b.0);
                if !together || !distinct {
                    return Err(bad("rows that are not of one partition, or not in order"));
                }
                // Their generation rests on no read: see `coordinator::rows`.
                self.must_be_filled(&state)?;
                self.follow(&state, from, apply.table, at.token, apply.generation, deadline)
                    .await?;
                self.replica.apply_rows(&at.table, at.token, apply).await
            }
            Request::Count(count) => {
                let at = self.locate(&state, &header, count.table, &count.key)?;
                self.must_be_filled(&state)?;
                self.replica.count(&at.table, at.token, count, deadline).await
            }
            Request::Handoff(apply) => {
                let at = self.locate(&state, &header, apply.table, &apply.key)?;
                self.follow(&state, from, apply.table, at.token, apply.generation, deadline)
                    .await?;
                let applied = self.replica.take_hint(&at.table, at.token, apply).await;
                self.look_at_memory();
                applied
            }
            Request::Tree(request) => {
                self.must_be_filled(&state)?;
                let (env, replica, between) = (&self.env, &self.replica, (self.me, from));
                repair::answer(env, replica, &self.repair, &state, between, request).await
            }
            Request::Keep(keep) => self.keep(&state, &header, keep).await,
            Request::Purge(request) => {
                let answer = self.purge.answer(&state, from, request, deadline).await;
                self.look_at_memory();
                answer
            }
            Request::Paxos(request) => {
                let at = self.locate(&state, &header, request.table, &request.key)?;
                // A decision is a write like any other; votes are for those who know all.
                if let PaxosStep::Commit { generation, .. } = request.step {
                    let (table, token) = (request.table, at.token);
                    self.follow(&state, from, table, token, generation, deadline).await?;
                } else {
                    self.must_be_filled(&state)?;
                }
                let answer = self.replica.paxos(&at.table, at.token, request, header.epoch).await;
                self.look_at_memory();
                answer
            }
            Request::Propose(propose) => {
                let at = self.locate(&state, &header, propose.table, &propose.key)?;
                let coordinator = self.coordinator.get().ok_or(Refusal::Stopping)?;
                let left = deadline.since(self.env.mono());
                let operation = propose.operation;
                let answer = coordinator.propose(&at.table, &propose.key, operation, left);
                Ok(Response::Proposed(answer.await?))
            }
            Request::Open(request) => {
                self.owned(&state, &header, request.table, request.partition)?;
                self.replica.fence_votes().await?;
                self.open_keys(&state, request).await
            }
            Request::Meta(_) | Request::Gossip(_) | Request::Ping => Ok(Response::Pong),
        }
    }

    /// Keeps a record for a replica that is away, and counts in its place: only where the table
    /// allows that, and only for a replica of the key by this node's epoch.
    async fn keep(
        &self,
        state: &ClusterState,
        header: &Header,
        keep: Keep,
    ) -> Result<Response, Refusal> {
        let Keep { replica, apply } = keep;
        let epoch = state.epoch();
        let table = state.table(apply.table).ok_or(Refusal::NoSuchTable { epoch })?;
        let bad = |what: String| Refusal::BadRequest { what };
        if !table.settings.sloppy {
            return Err(bad("nobody stands in for the replicas of this table".to_owned()));
        }
        let partition = state.ring().partition_of(token_in(apply.table, &apply.key));
        let placement = state.ring().placement(&table.settings.replication);
        if !placement.of(partition).write.contains(&replica) {
            return Err(if header.epoch < epoch {
                Refusal::StaleEpoch { epoch }
            } else {
                Refusal::NotReplica { epoch }
            });
        }
        let address = record::address(table.id, &apply.key);
        record::verify(&apply.record, &address).map_err(|e| bad(format!("record: {e}")))?;
        match self.hints.keep(replica, table.id, &apply.key, &apply.record, apply.generation).await
        {
            Ok(()) => Ok(Response::Kept),
            Err(why @ NotKept::NoRoom) => Err(Refusal::Overloaded { what: why.to_string() }),
            Err(NotKept::Storage(why)) => Ok(Response::Failed { why }),
        }
    }

    fn read(
        &self,
        state: &ClusterState,
        header: &Header,
        read: &Read,
    ) -> Result<Response, Refusal> {
        let at = self.locate(state, header, read.table, &read.key)?;
        self.must_be_filled(state)?;
        self.replica.read(&at.table, at.token, read)
    }

    /// A read by this node itself, by the same rules. `None`: the node has to catch up first.
    fn read_here(&self, header: &Header, read: &Read) -> Option<Result<Response, Refusal>> {
        let state = self.cluster.state();
        if header.budget_ms == 0 || state.epoch() < header.epoch {
            return None;
        }
        let admission = self.admit(self.me, Sort::New);
        Some(admission.and_then(|_admission| self.read(&state, header, read)))
    }

    /// This node's own digest of one partition of a table.
    ///
    /// # Errors
    /// A [`Refusal`], also when the node holds none of it.
    pub async fn partition_digest(
        &self,
        table: Arc<Table>,
        partition: PartitionId,
    ) -> Result<PartitionDigest, Refusal> {
        let state = self.cluster.state();
        let epoch = state.epoch();
        let placement = state.ring().placement(&table.settings.replication);
        if !placement.of(partition).contains(self.me) {
            return Err(Refusal::NotReplica { epoch });
        }
        let map = state.ring().map();
        let span = TokenSpan { first: map.first_token(partition), last: map.end_token(partition) };
        let replica = self.replica.clone();
        self.env
            .blocking("partition-digest", move || {
                replica.partition_digest(epoch, &table, partition, span)
            })
            .await
            .unwrap_or(Err(Refusal::Stopping))
    }

    async fn open_keys(
        &self,
        state: &ClusterState,
        request: OpenRequest,
    ) -> Result<Response, Refusal> {
        let map = state.ring().map();
        let span = TokenSpan {
            first: map.first_token(request.partition),
            last: map.end_token(request.partition),
        };
        let replica = self.replica.clone();
        self.env
            .blocking("open-keys", move || replica.open_keys(span, &request))
            .await
            .unwrap_or(Err(Refusal::Stopping))
    }

    async fn page(&self, state: &ClusterState, page: PageRequest) -> Result<Response, Refusal> {
        let ring = state.ring();
        let span = TokenSpan {
            first: ring.map().first_token(page.partition),
            last: ring.map().end_token(page.partition),
        };
        let replica = self.replica.clone();
        self.env
            .blocking("page", move || replica.page(span, &page))
            .await
            .unwrap_or(Err(Refusal::Stopping))
    }
}

/// A shared handle that answers: what transports and the node's own coordinator call.
#[derive(Clone, Debug)]
pub struct SharedService(pub Arc<NodeService>);

impl PeerService for SharedService {
    fn serve(
        &self,
        from: NodeId,
        header: Header,
        request: Request,
    ) -> BoxFuture<'static, Response> {
        let service = self.0.clone();
        // From its arrival on, not from when there is time for it.
        let budget = Duration::from_millis(u64::from(header.budget_ms));
        let deadline = service.env.mono() + budget;
        Box::pin(async move {
            service.cluster.heard_from(from);
            if let Err(ahead) = service.cluster.stamps().clock.observe(header.hlc) {
                tracing::warn!(peer = %from, %ahead, "ignored a peer's clock");
            }
            match request {
                Request::Ping => Response::Pong,
                Request::Meta(bytes) => service.cluster.handle_meta(from, bytes).await,
                Request::Gossip(bytes) => service.cluster.handle_gossip(from, &bytes),
                request => match service.answer(from, header, deadline, request).await {
                    Ok(response) => response,
                    Err(refusal) => Response::Refused(refusal),
                },
            }
        })
    }

    fn serve_here(&self, header: Header, request: Request) -> Result<Response, Request> {
        let answer = match &request {
            Request::Read(read) => self.0.read_here(&header, read),
            _ => None,
        };
        answer.ok_or(request).map(|answer| answer.unwrap_or_else(Response::Refused))
    }
}
