//! A few nodes' metadata parts, without data, on simulated machines, disks and a bad network.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::cluster::{AppendError, Cluster, ClusterConfig, FounderName};
use crate::env::{BoxFuture, Env, HlcClock};
use crate::gossip;
use crate::meta::{Command, TableSettings, Verdict};
use crate::net::messages::Header;
use crate::net::{CallError, NodeStamps, PeerService, Peers, Request, Response, Transport};
use crate::ring::Member;
use crate::sim::disk::{PowerLoss, SimDisk};
use crate::sim::engine::SimEngine;
use crate::sim::executor::{Executor, GroupId, MachineId, Schedule, World};
use crate::sim::rng::{Ppm, Rng};
use crate::storage::{Committer, CommitterOptions, Engine, StorageError};
use crate::types::{ActorId, Addresses, Epoch, Hlc, Incarnation, Mono, NodeId, VoterId};

/// How bad the network is: chances in millionths.
#[derive(Clone, Copy)]
pub(super) struct Weather {
    pub(super) lose_request: u32,
    pub(super) lose_answer: u32,
    pub(super) repeat: u32,
}

impl Weather {
    pub(super) const FINE: Self = Self { lose_request: 0, lose_answer: 0, repeat: 0 };
    pub(super) const BAD: Self =
        Self { lose_request: 100_000, lose_answer: 150_000, repeat: 200_000 };
}

struct Line {
    env: Env,
    service: Arc<dyn PeerService>,
}

struct NetState {
    rng: Rng,
    weather: Weather,
    lines: BTreeMap<NodeId, Line>,
    cut: BTreeSet<(NodeId, NodeId)>,
}

/// The network of a town.
#[derive(Clone)]
pub(super) struct Net(Arc<Mutex<NetState>>);

impl Net {
    fn state(&self) -> MutexGuard<'_, NetState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn delay(&self) -> Duration {
        self.state().rng.duration(Duration::from_micros(100), Duration::from_millis(8))
    }

    fn chance(&self, parts: impl Fn(&Weather) -> u32) -> bool {
        let mut state = self.state();
        let parts = parts(&state.weather);
        state.rng.chance(Ppm(parts))
    }
}

struct Wire {
    me: NodeId,
    env: Env,
    net: Net,
}

impl Wire {
    /// Runs `request` at `to` in the life that it has then; `None` if it has none or the line is
    /// cut.
    async fn deliver(
        net: Net,
        from: NodeId,
        to: NodeId,
        header: Header,
        request: Request,
    ) -> Option<Response> {
        let (env, service) = {
            let state = net.state();
            if state.cut.contains(&(from, to)) {
                return None;
            }
            let line = state.lines.get(&to)?;
            (line.env.clone(), line.service.clone())
        };
        env.run("serve", async move { service.serve(from, header, request).await }).await
    }
}

impl Transport for Wire {
    fn call(
        &self,
        to: NodeId,
        header: Header,
        request: Request,
        deadline: Mono,
    ) -> BoxFuture<'static, Result<(Header, Response), CallError>> {
        let (me, env, net) = (self.me, self.env.clone(), self.net.clone());
        Box::pin(async move {
            let lost = || CallError::Lost { why: "lost".to_owned() };
            if !net.state().lines.contains_key(&to) {
                return Err(CallError::NotSent { why: "refused".to_owned(), unreachable: true });
            }
            if net.chance(|weather| weather.repeat) {
                let (net, request, wait) = (net.clone(), request.clone(), net.delay() * 50);
                let later = env.clone();
                env.spawn("late copy", async move {
                    later.sleep(wait).await;
                    drop(Self::deliver(net, me, to, header, request).await);
                });
            }
            let exchange = async {
                env.sleep(net.delay()).await;
                if net.chance(|weather| weather.lose_request) {
                    return None;
                }
                let response = Self::deliver(net.clone(), me, to, header, request).await?;
                env.sleep(net.delay()).await;
                let gone = net.chance(|w| w.lose_answer) || net.state().cut.contains(&(to, me));
                (!gone).then_some(response)
            };
            let left = deadline.since(env.mono());
            match env.timeout(left, exchange).await {
                Ok(Some(response)) => Ok((header, response)),
                Ok(None) => {
                    env.sleep(deadline.since(env.mono())).await;
                    Err(lost())
                }
                Err(_) => Err(lost()),
            }
        })
    }

    fn set_address(&self, _node: NodeId, _address: &str) {}
}

struct Service(Arc<Cluster>);

impl PeerService for Service {
    fn serve(&self, from: NodeId, _: Header, request: Request) -> BoxFuture<'static, Response> {
        let cluster = self.0.clone();
        Box::pin(async move {
            match request {
                Request::Meta(bytes) => cluster.handle_meta(from, bytes).await,
                Request::Gossip(bytes) => cluster.handle_gossip(from, &bytes),
                _ => Response::Pong,
            }
        })
    }
}

/// One machine and the node on it.
pub(super) struct Site {
    pub(super) machine: MachineId,
    pub(super) disk: SimDisk,
    pub(super) actor: u64,
    pub(super) voter: u64,
    pub(super) incarnation: u64,
    pub(super) starts: BTreeSet<u64>,
    pub(super) founders: Vec<String>,
    pub(super) commit: CommitterOptions,
    pub(super) engine: Option<Arc<SimEngine>>,
    life: Option<(GroupId, Env, Arc<Cluster>)>,
}

/// Machines, a network, and the time they live in.
pub(super) struct Town {
    pub(super) executor: Executor,
    pub(super) world: World,
    pub(super) net: Net,
    pub(super) rng: Rng,
    sites: BTreeMap<String, Site>,
}

pub(super) fn id(name: &str) -> NodeId {
    NodeId::derive("town", name)
}

pub(super) fn create(name: &str) -> Command {
    Command::CreateTable { name: name.parse().unwrap(), settings: TableSettings::bucket(3) }
}

impl Town {
    /// Machines called `names`, nodes not started, all of whose configurations list all of them.
    pub(super) fn new(seed: u64, names: &[&str]) -> Self {
        let executor = Executor::new(seed, Schedule::Uniform);
        let world = executor.world();
        let mut rng = world.stream(0, "town");
        let net = Net(Arc::new(Mutex::new(NetState {
            rng: world.stream(0, "town/net"),
            weather: Weather::FINE,
            lines: BTreeMap::new(),
            cut: BTreeSet::new(),
        })));
        let founders: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let sites = founders
            .iter()
            .map(|name| {
                let site = Site {
                    machine: world.add_machine(),
                    disk: SimDisk::new(Rng::new(rng.next_u64())),
                    actor: rng.next_u64(),
                    voter: rng.next_u64(),
                    incarnation: 0,
                    starts: BTreeSet::new(),
                    founders: founders.clone(),
                    commit: CommitterOptions::default(),
                    engine: None,
                    life: None,
                };
                (name.clone(), site)
            })
            .collect();
        Self { executor, world, net, rng, sites }
    }

    /// A town whose cluster is founded, in fine weather.
    pub(super) fn founded(seed: u64, names: &[&str]) -> Self {
        let mut town = Self::new(seed, names);
        for name in names {
            town.start(name);
        }
        town.until(30, |town| town.running().iter().all(|name| town.epoch(name) >= 1));
        town
    }

    pub(super) fn site(&mut self, name: &str) -> &mut Site {
        self.sites.get_mut(name).unwrap()
    }

    pub(super) fn names(&self) -> Vec<String> {
        self.sites.keys().cloned().collect()
    }

    /// Names of the nodes that run.
    pub(super) fn running(&self) -> Vec<String> {
        let up = self.sites.iter().filter(|(_, site)| site.life.is_some());
        up.map(|(name, _)| name.clone()).collect()
    }

    pub(super) fn weather(&self, weather: Weather) {
        self.net.state().weather = weather;
    }

    pub(super) fn cluster(&self, name: &str) -> Arc<Cluster> {
        self.sites[name].life.as_ref().unwrap().2.clone()
    }

    pub(super) fn epoch(&self, name: &str) -> u64 {
        self.cluster(name).state().epoch().0
    }

    /// Starts the node, as the next start of its directory's history.
    pub(super) fn start(&mut self, name: &str) {
        self.try_start(name).unwrap();
    }

    pub(super) fn try_start(&mut self, name: &str) -> Result<(), StorageError> {
        let nonce = self.rng.next_u64();
        let (world, net) = (self.world.clone(), self.net.clone());
        let site = self.sites.get_mut(name).unwrap();
        site.incarnation += 1;
        site.starts.insert(nonce);
        let (group, env) = world.start(site.machine);
        let me = id(name);
        let sim_engine = Arc::new(SimEngine::open(&site.disk)?);
        let engine: Arc<dyn Engine> = sim_engine.clone();
        let committer = Committer::start(env.clone(), engine.clone(), site.commit);
        let clock = HlcClock::new(env.clone(), Hlc(0), Duration::from_secs(1));
        let wire = Wire { me, env: env.clone(), net: net.clone() };
        let peers = Peers::new(me, env.clone(), Arc::new(NodeStamps::new(clock)), Arc::new(wire));
        let address = |name: &str| format!("{name}:7000");
        let config = ClusterConfig {
            cluster: "town".to_owned(),
            member: Member {
                id: me,
                name: name.to_owned(),
                datacenter: "dc1".to_owned(),
                rack: "r1".to_owned(),
                capacity: 1,
            },
            addresses: Addresses { peer: address(name), ..Addresses::default() },
            actor: ActorId(site.actor),
            voter: VoterId(site.voter),
            incarnation: Incarnation(site.incarnation),
            nonce,
            starts: site.starts.clone(),
            mark: 0,
            heard: BTreeMap::new(),
            founders: site
                .founders
                .iter()
                .map(|name| FounderName { name: name.clone(), address: address(name) })
                .collect(),
            partitions: 8,
            gossip: gossip::Options::default(),
        };
        let cluster = Cluster::start(env.clone(), &engine, committer, peers.clone(), config)?;
        let service: Arc<dyn PeerService> = Arc::new(Service(cluster.clone()));
        peers.set_local(&service);
        net.state().lines.insert(me, Line { env: env.clone(), service });
        site.engine = Some(sim_engine);
        site.life = Some((group, env, cluster));
        Ok(())
    }

    /// The node's machine loses power: what was not synced may be lost.
    pub(super) fn crash(&mut self, name: &str, policy: PowerLoss) {
        let (world, net) = (self.world.clone(), self.net.clone());
        let site = self.sites.get_mut(name).unwrap();
        let line = net.state().lines.remove(&id(name));
        drop(line);
        if let Some((group, ..)) = site.life.take() {
            world.kill(group);
        }
        site.engine = None;
        site.disk.lose_power(policy);
    }

    /// The node's disk is replaced by an empty one.
    pub(super) fn wipe(&mut self, name: &str) {
        self.crash(name, PowerLoss::LoseAll);
        self.new_history(name);
        let site = self.sites.get_mut(name).unwrap();
        site.disk.wipe();
        site.incarnation = 0;
        site.starts.clear();
    }

    /// The node's next start has new ids.
    pub(super) fn new_history(&mut self, name: &str) {
        let (actor, voter) = (self.rng.next_u64(), self.rng.next_u64());
        let site = self.sites.get_mut(name).unwrap();
        (site.actor, site.voter) = (actor, voter);
    }

    /// Nothing passes between `name` and the others any more.
    pub(super) fn isolate(&self, name: &str) {
        let mut state = self.net.state();
        for other in self.sites.keys().filter(|other| *other != name) {
            state.cut.insert((id(name), id(other)));
            state.cut.insert((id(other), id(name)));
        }
    }

    pub(super) fn heal(&self) {
        self.net.state().cut.clear();
    }

    pub(super) fn run_ms(&mut self, ms: u64) {
        self.executor.run_for(Duration::from_millis(ms)).unwrap();
        assert_eq!(self.world.take_panics(), []);
    }

    /// Runs until `done`, which must come within `seconds` of virtual time.
    pub(super) fn until(&mut self, seconds: u64, done: impl Fn(&Self) -> bool) {
        for _ in 0..seconds * 50 {
            if done(self) {
                return;
            }
            self.run_ms(20);
        }
        let epochs: Vec<_> =
            self.running().iter().map(|name| (name.clone(), self.epoch(name))).collect();
        panic!("it did not come to that; epochs: {epochs:?}");
    }

    /// Begins an append at `name`; its outcome will stand in the returned slot.
    pub(super) fn begin(
        &self,
        name: &str,
        command: Command,
        seconds: u64,
    ) -> Arc<Mutex<Option<Result<Verdict, AppendError>>>> {
        let (_, env, cluster) = self.sites[name].life.as_ref().unwrap();
        let slot = Arc::new(Mutex::new(None));
        let (outcome, cluster, deadline) =
            (slot.clone(), cluster.clone(), env.mono() + Duration::from_secs(seconds));
        env.spawn("append", async move {
            let result = cluster.append(command, deadline).await;
            *outcome.lock().unwrap() = Some(result);
        });
        slot
    }

    /// Appends and waits for the outcome.
    pub(super) fn append(&mut self, name: &str, command: Command) -> Result<Verdict, AppendError> {
        let slot = self.begin(name, command, 10);
        self.until(12, |_| slot.lock().unwrap().is_some());
        slot.lock().unwrap().take().unwrap()
    }

    /// Invariant I9: entry n is the same at all nodes that have it.
    pub(super) fn check_logs(&self) {
        let logs: Vec<_> =
            self.running().iter().map(|name| self.cluster(name).log().entries.clone()).collect();
        for (at, a) in logs.iter().enumerate() {
            for b in &logs[..at] {
                let common = a.len().min(b.len());
                assert_eq!(a[..common], b[..common]);
            }
        }
        for name in self.running() {
            let cluster = self.cluster(&name);
            assert_eq!(cluster.state().epoch(), Epoch(cluster.log().entries.len() as u64));
        }
    }
}
