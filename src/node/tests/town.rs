//! Whole nodes on simulated machines and disks, over the simulated network, with a script that
//! loses, delays or repeats single messages. For stories: one happening after the other, each
//! waited for. (Random faults in bulk are the simulator's.)

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;

use crate::causality::Context;
use crate::cluster::FounderName;
use crate::coordinator::{
    Condition, Coordinator, OpError, ReadOp, ReadOutcome, WriteAction, WriteOp, WriteOutcome,
};
use crate::cql::schema::{Role, Schema};
use crate::cql::types::CqlType;
use crate::env::{BoxFuture, Env};
use crate::gossip;
use crate::meta::{Command, ConflictMode, Keyspace, MemberState, Table, TableName, TableSettings};
use crate::net::messages::{Header, Read, Want};
use crate::net::{CallError, Peers, Request, Response, Transport};
use crate::node::admission::NodeAdmission;
use crate::node::{self, Node, NodeSettings, Shedding};
use crate::record::{self, Record};
use crate::repair;
use crate::repair::hints::HintSettings;
use crate::ring::token_of;
use crate::sim::disk::{PowerLoss, SimDisk};
use crate::sim::engine::SimEngine;
use crate::sim::executor::{Executor, GroupId, MachineId, Schedule, World};
use crate::sim::net::{Delivery, LinkProfile, SimNet};
use crate::sim::rng::{Ppm, Rng};
use crate::storage::keys::{self, Kind};
use crate::storage::{
    CommitterOptions, Durability, HighWater, HighWaterStore, KeyRange, StorageError,
};
use crate::types::{Addresses, Consistency, Key, Mono, NodeId, OpId};

pub(super) const ABC: [&str; 3] = ["a", "b", "c"];
pub(super) const SECOND: Duration = Duration::from_secs(1);

/// What becomes of a call that a rule picks.
#[derive(Clone, Copy)]
pub(super) enum Fate {
    /// The transport refuses it at once: nothing of it leaves the node.
    NotSent,
    /// It never arrives.
    LoseRequest,
    /// It is carried out, and nobody hears of it.
    LoseAnswer,
    /// It arrives so much later; an answer that is too late is lost.
    Delay(Duration),
    /// It arrives, and so much later once more.
    Repeat(Duration),
}

type Picks = Box<dyn Fn(NodeId, NodeId, &Request) -> bool + Send>;

struct Rule {
    picks: Picks,
    fate: Fate,
    left: u32,
    hits: u32,
}

/// The script of a town. Clones are the same script.
#[derive(Clone, Default)]
pub(super) struct Script(Arc<Mutex<Vec<Rule>>>);

impl Script {
    fn rules(&self) -> MutexGuard<'_, Vec<Rule>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fate(&self, from: NodeId, to: NodeId, request: &Request) -> Option<Fate> {
        let mut rules = self.rules();
        let rule =
            rules.iter_mut().find(|rule| rule.left > 0 && (rule.picks)(from, to, request))?;
        rule.left -= 1;
        rule.hits += 1;
        Some(rule.fate)
    }

    /// Lets `fate` befall the next `count` calls that `picks` picks. The number names the rule.
    pub(super) fn add(
        &self,
        fate: Fate,
        count: u32,
        picks: impl Fn(NodeId, NodeId, &Request) -> bool + Send + 'static,
    ) -> usize {
        let mut rules = self.rules();
        rules.push(Rule { picks: Box::new(picks), fate, left: count, hits: 0 });
        rules.len() - 1
    }

    /// How often the rule has picked a call.
    pub(super) fn hits(&self, rule: usize) -> u32 {
        self.rules()[rule].hits
    }

    /// Ends all rules.
    pub(super) fn clear(&self) {
        for rule in self.rules().iter_mut() {
            rule.left = 0;
        }
    }
}

/// A transport that follows the script.
struct Scripted {
    me: NodeId,
    env: Env,
    inner: Arc<dyn Transport>,
    script: Script,
}

impl Transport for Scripted {
    fn call(
        &self,
        to: NodeId,
        header: Header,
        request: Request,
        deadline: Mono,
    ) -> BoxFuture<'static, Result<(Header, Response), CallError>> {
        let Some(fate) = self.script.fate(self.me, to, &request) else {
            return self.inner.call(to, header, request, deadline);
        };
        let (env, inner) = (self.env.clone(), self.inner.clone());
        let much_later = Mono(u64::MAX);
        Box::pin(async move {
            let lost = CallError::Lost { why: "the script has lost it".to_owned() };
            let until_deadline = || env.sleep(deadline.since(env.mono()));
            match fate {
                Fate::NotSent => {
                    let why = "the script says so".to_owned();
                    return Err(CallError::NotSent { why, unreachable: true });
                }
                Fate::LoseRequest => {}
                Fate::LoseAnswer => drop(inner.call(to, header, request, deadline).await),
                Fate::Delay(by) => {
                    let later = env.clone();
                    let delayed = env.run("delayed", async move {
                        later.sleep(by).await;
                        inner.call(to, header, request, much_later).await
                    });
                    let left = deadline.since(env.mono());
                    if let Ok(Some(answer)) = env.timeout(left, delayed).await {
                        return answer;
                    }
                    return Err(lost);
                }
                Fate::Repeat(after) => {
                    let (later, again) = (env.clone(), inner.clone());
                    let copy = request.clone();
                    env.spawn("repeated", async move {
                        later.sleep(after).await;
                        drop(again.call(to, header, copy, much_later).await);
                    });
                    return inner.call(to, header, request, deadline).await;
                }
            }
            until_deadline().await;
            Err(lost)
        })
    }

    fn set_address(&self, node: NodeId, address: &str) {
        self.inner.set_address(node, address);
    }
}

/// One life of a node.
#[derive(Clone)]
pub(super) struct Life {
    pub(super) group: GroupId,
    pub(super) env: Env,
    pub(super) node: Node,
    pub(super) engine: Arc<SimEngine>,
    /// Calls as this node makes them.
    pub(super) peers: Peers,
}

struct Site {
    machine: MachineId,
    disk: SimDisk,
    durability: Durability,
    note: Option<Arc<Note>>,
    life: Option<Life>,
}

/// A note beside the store, on a disk of its own.
#[derive(Debug, Default)]
pub(super) struct Note(Mutex<Option<HighWater>>);

impl HighWaterStore for Note {
    fn load(&self) -> Result<Option<HighWater>, StorageError> {
        Ok(self.0.lock().unwrap().clone())
    }

    fn save(&self, note: &HighWater) -> Result<(), StorageError> {
        *self.0.lock().unwrap() = Some(note.clone());
        Ok(())
    }
}

/// A value that a test waits for.
pub(super) struct Slot<T>(Arc<Mutex<Option<T>>>);

impl<T> Slot<T> {
    pub(super) fn is_done(&self) -> bool {
        self.0.lock().unwrap().is_some()
    }

    fn take(&self) -> Option<T> {
        self.0.lock().unwrap().take()
    }
}

/// Machines, their network, and the time they live in.
pub(super) struct Town {
    executor: Executor,
    pub(super) world: World,
    pub(super) net: SimNet,
    pub(super) script: Script,
    /// Bounds of the hints that nodes keep which start from now on.
    pub(super) hints: HintSettings,
    sites: BTreeMap<String, Site>,
    /// How the nodes started from now on repair: not at all, unless a story is about it.
    pub(super) repair: repair::Options,
    /// When they refuse new work.
    pub(super) shedding: Option<Shedding>,
}

pub(super) fn id(name: &str) -> NodeId {
    NodeId::derive("town", name)
}

/// A fresh operation id: ids with greater `n` are newer.
pub(super) fn op_id(town: &Town, n: u64) -> OpId {
    OpId::from_parts(town.life("a").env.wall().0 / 1000 + n, u128::from(n))
}

/// How a write is to be made, beyond the usual.
#[derive(Clone, Default)]
pub(super) struct Write {
    pub(super) condition: Condition,
    pub(super) fence: Option<u64>,
    pub(super) context: Option<Context>,
    pub(super) op: Option<OpId>,
    pub(super) level: Option<Consistency>,
    pub(super) ttl: Option<Duration>,
    pub(super) timeout: Option<Duration>,
}

impl Write {
    pub(super) fn seen(context: &Context) -> Self {
        Self { context: Some(context.clone()), ..Self::default() }
    }

    pub(super) fn on(condition: Condition) -> Self {
        Self { condition, ..Self::default() }
    }

    pub(super) fn named(op: OpId) -> Self {
        Self { op: Some(op), ..Self::default() }
    }

    pub(super) fn at(level: Consistency) -> Self {
        Self { level: Some(level), ..Self::default() }
    }
}

impl Town {
    /// Machines called `names`, nodes not started.
    pub(super) fn new(seed: u64, names: &[&str]) -> Self {
        let executor = Executor::new(seed, Schedule::Uniform);
        let world = executor.world();
        let quiet = LinkProfile { tail: Ppm::NEVER, ..LinkProfile::default() };
        let net = SimNet::new(&world, Delivery::Stream, quiet);
        let mut rng = world.stream(0, "town");
        let sites = names
            .iter()
            .map(|name| {
                let site = Site {
                    machine: world.add_machine(),
                    disk: SimDisk::new(Rng::new(rng.next_u64())),
                    durability: Durability::GroupCommit,
                    note: None,
                    life: None,
                };
                ((*name).to_owned(), site)
            })
            .collect();
        let (script, hints) = (Script::default(), HintSettings::default());
        let repair =
            repair::Options { interval: None, scrub_percent: 0, ..repair::Options::default() };
        Self { executor, world, net, script, hints, sites, repair, shedding: None }
    }

    /// A town whose nodes serve.
    pub(super) fn founded(seed: u64, names: &[&str]) -> Self {
        let mut town = Self::new(seed, names);
        for name in names {
            town.start(name);
        }
        town.until(30, "all serve", |town| town.running().iter().all(|name| town.serves(name)));
        town
    }

    /// A town of three with a table.
    pub(super) fn with_table(seed: u64, conflict: ConflictMode) -> (Self, Arc<Table>) {
        let mut town = Self::founded(seed, &ABC);
        let table = town.create("t", |settings| settings.conflict = conflict);
        (town, table)
    }

    /// A town with a table of rows of three replicas.
    pub(super) fn with_rows(seed: u64) -> (Self, Arc<Table>) {
        let mut town = Self::founded(seed, &ABC);
        let table = town.create_rows(None);
        (town, table)
    }

    /// Creates a table of rows of three replicas, with this `gc_grace_seconds`.
    pub(super) fn create_rows(&mut self, grace_s: Option<u32>) -> Arc<Table> {
        let keyspace = Keyspace {
            name: "ks".to_owned(),
            replication: TableSettings::bucket(3).replication,
            durable_writes: true,
            types: BTreeMap::new(),
        };
        let columns = vec![
            ("p".to_owned(), CqlType::Blob, Role::Partition(0)),
            ("c".to_owned(), CqlType::Blob, Role::Clustering { at: 0, descending: false }),
            ("v".to_owned(), CqlType::Int, Role::Regular),
        ];
        let name: TableName = "ks.rows".parse().unwrap();
        let mut schema = Schema::new(columns, [7; 16]);
        let grace = grace_s.map(|grace| ("gc_grace_seconds".to_owned(), grace.to_string()));
        schema.options.extend(grace);
        let schema = Arc::new(schema);
        for command in [
            Command::CreateKeyspace(Arc::new(keyspace)),
            Command::CreateRows { name: name.clone(), schema },
        ] {
            let life = self.life("a");
            let (cluster, deadline) = (life.node.cluster().clone(), life.env.mono() + 10 * SECOND);
            let slot = self.begin("a", async move { cluster.append(command, deadline).await });
            self.wait(&slot).expect("a majority is there");
        }
        let state = self.life("a").node.cluster().state();
        state.table_named(&name).expect("it was created").clone()
    }

    pub(super) fn serves(&self, name: &str) -> bool {
        let cluster = self.life(name).node.cluster().clone();
        cluster.may_serve(&cluster.state())
    }

    fn running(&self) -> Vec<String> {
        let up = self.sites.iter().filter(|(_, site)| site.life.is_some());
        up.map(|(name, _)| name.clone()).collect()
    }

    pub(super) fn life(&self, name: &str) -> &Life {
        self.sites[name].life.as_ref().expect("the node runs")
    }

    pub(super) fn disk(&self, name: &str) -> &SimDisk {
        &self.sites[name].disk
    }

    pub(super) fn machine(&self, name: &str) -> MachineId {
        self.sites[name].machine
    }

    pub(super) fn member(&self, name: &str) -> Arc<MemberState> {
        let asker = self.running().into_iter().find(|other| other != name).unwrap();
        self.life(&asker).node.cluster().state().member(id(name)).unwrap().clone()
    }

    /// How the next start of `name` commits.
    pub(super) fn set_durability(&mut self, name: &str, durability: Durability) {
        self.sites.get_mut(name).unwrap().durability = durability;
    }

    /// Gives every node a note beside its store from its next start on.
    pub(super) fn keep_notes(&mut self) {
        for site in self.sites.values_mut() {
            site.note = Some(Arc::default());
        }
    }

    /// What stands in a node's note.
    pub(super) fn note(&self, name: &str) -> Option<HighWater> {
        self.sites[name].note.as_ref().and_then(|note| note.load().unwrap())
    }

    /// Puts another note in its place.
    pub(super) fn set_note(&self, name: &str, note: Option<HighWater>) {
        *self.sites[name].note.as_ref().unwrap().0.lock().unwrap() = note;
    }

    fn settings(&self, name: &str) -> NodeSettings {
        let address = |name: &str| format!("{name}:7000");
        NodeSettings {
            cluster: "town".to_owned(),
            name: name.to_owned(),
            datacenter: "dc1".to_owned(),
            rack: "r1".to_owned(),
            capacity: 1,
            addresses: Addresses { peer: address(name), ..Addresses::default() },
            founders: self
                .sites
                .keys()
                .map(|name| FounderName { name: name.clone(), address: address(name) })
                .collect(),
            partitions: 8,
            max_clock_skew: Duration::from_secs(10),
            gossip: gossip::Options::default(),
            commit: CommitterOptions {
                durability: self.sites[name].durability,
                ..CommitterOptions::default()
            },
            hints: self.hints,
            max_operations: 1_024,
            max_peer_requests: 4_096,
            shedding: self.shedding,
            high_water: self.sites[name].note.clone().map(|note| note as Arc<dyn HighWaterStore>),
            repair: self.repair,
        }
    }

    pub(super) fn is_up(&self, name: &str) -> bool {
        self.sites[name].life.is_some()
    }

    /// Starts a node on what its disk holds.
    pub(super) fn start(&mut self, name: &str) {
        self.try_start(name).expect("a sound disk, and its own directory");
    }

    /// The same, where the disk may not be sound: why the node does not start.
    pub(super) fn try_start(&mut self, name: &str) -> Result<(), String> {
        let settings = self.settings(name);
        let founders = settings.founders.iter().map(|founder| id(&founder.name)).collect();
        let site = self.sites.get_mut(name).unwrap();
        let (group, env) = self.world.start(site.machine);
        let engine = SimEngine::open(&site.disk).map_err(|error| error.to_string())?;
        let engine = Arc::new(engine);
        let opened =
            node::open(env.clone(), engine.clone(), settings).map_err(|error| error.to_string())?;
        let admission =
            Arc::new(NodeAdmission::new("town".to_owned(), opened.identity().clone(), founders));
        let stamps = opened.stamps().clone();
        let transport = self.net.attach(
            id(name),
            site.machine,
            group,
            env.clone(),
            stamps.clone(),
            admission.clone(),
        );
        let scripted: Arc<dyn Transport> = Arc::new(Scripted {
            me: id(name),
            env: env.clone(),
            inner: transport.clone(),
            script: self.script.clone(),
        });
        let node = opened.start(scripted.clone()).map_err(|error| error.to_string())?;
        let peers = Peers::new(id(name), env.clone(), stamps, scripted);
        peers.set_local(&node.service());
        admission.set_cluster(node.cluster().clone());
        transport.set_service(node.service());
        site.life = Some(Life { group, env, node, engine, peers });
        Ok(())
    }

    /// `kill -9`: the disk keeps what it was given.
    pub(super) fn kill(&mut self, name: &str) {
        self.net.detach(id(name), true);
        let site = self.sites.get_mut(name).unwrap();
        if let Some(life) = site.life.take() {
            self.world.kill(life.group);
        }
    }

    /// The machine loses power, and all that was not synced.
    pub(super) fn lose_power(&mut self, name: &str) {
        self.kill(name);
        self.sites[name].disk.lose_power(PowerLoss::LoseAll);
    }

    /// The machine gets an empty disk.
    pub(super) fn wipe(&mut self, name: &str) {
        self.kill(name);
        self.sites[name].disk.wipe();
    }

    /// Starts the node anew as a new actor, as its process does when it is told to.
    pub(super) fn renew(&mut self, name: &str) {
        self.life(name).node.renew().unwrap();
        self.kill(name);
        self.start(name);
    }

    /// All that the node has its disk do takes so long from now on.
    pub(super) fn stall_disk(&self, name: &str, by: Duration) {
        self.world.set_blocking(self.machine(name), by, by, (Ppm::NEVER, Duration::ZERO));
    }

    /// The node stands still, or goes on.
    pub(super) fn pause(&self, name: &str, paused: bool) {
        self.world.pause(self.life(name).group, paused);
    }

    /// Nothing passes between `name` and the others any more.
    pub(super) fn isolate(&self, name: &str) {
        for other in self.sites.keys().filter(|other| *other != name) {
            self.net.block(id(name), id(other));
            self.net.block(id(other), id(name));
        }
    }

    pub(super) fn heal(&self) {
        self.net.heal();
    }

    pub(super) fn run(&mut self, span: Duration) {
        self.executor.run_for(span).unwrap();
        assert_eq!(self.world.take_panics(), []);
    }

    /// Runs until `done`, which must come within `seconds` of virtual time.
    pub(super) fn until(&mut self, seconds: u64, what: &str, done: impl Fn(&Self) -> bool) {
        for _ in 0..seconds * 200 {
            if done(self) {
                return;
            }
            self.run(Duration::from_millis(5));
        }
        panic!("it did not come to that: {what}");
    }

    /// Begins `task` in the life of `name`.
    pub(super) fn begin<T: Send + 'static>(
        &self,
        name: &str,
        task: impl Future<Output = T> + Send + 'static,
    ) -> Slot<T> {
        let slot = Arc::new(Mutex::new(None));
        let outcome = slot.clone();
        self.life(name).env.spawn("story", async move {
            let value = task.await;
            *outcome.lock().unwrap() = Some(value);
        });
        Slot(slot)
    }

    /// Waits for what was begun.
    pub(super) fn wait<T>(&mut self, slot: &Slot<T>) -> T {
        self.until(60, "an operation has ended", |_| slot.is_done());
        slot.take().unwrap()
    }

    /// Creates a table.
    pub(super) fn create(
        &mut self,
        name: &str,
        change: impl FnOnce(&mut TableSettings),
    ) -> Arc<Table> {
        let mut settings = TableSettings::bucket(3);
        change(&mut settings);
        let table_name: TableName = name.parse().unwrap();
        let life = self.life("a");
        let (cluster, deadline) = (life.node.cluster().clone(), life.env.mono() + 10 * SECOND);
        let command = Command::CreateTable { name: table_name.clone(), settings };
        let slot = self.begin("a", async move { cluster.append(command, deadline).await });
        self.wait(&slot).expect("a majority is there");
        let state = self.life("a").node.cluster().state();
        state.table_named(&table_name).expect("it was created").clone()
    }

    pub(super) fn coordinator(&self, name: &str) -> Coordinator {
        self.life(name).node.coordinator().clone()
    }

    /// Begins a write at `name`.
    pub(super) fn begin_write(
        &self,
        name: &str,
        table: &Arc<Table>,
        key: &str,
        action: WriteAction,
        how: Write,
    ) -> Slot<Result<WriteOutcome, OpError>> {
        let op = WriteOp {
            condition: how.condition,
            fence: how.fence,
            table: table.clone(),
            key: key_of(key),
            action,
            context: how.context,
            level: how.level.unwrap_or(Consistency::Quorum),
            timeout: how.timeout.unwrap_or(3 * SECOND),
            op: how.op,
            receipt: true,
        };
        let coordinator = self.coordinator(name);
        self.begin(name, async move { coordinator.write(op).await })
    }

    pub(super) fn begin_put(
        &self,
        name: &str,
        table: &Arc<Table>,
        key: &str,
        value: &str,
        how: Write,
    ) -> Slot<Result<WriteOutcome, OpError>> {
        let action = WriteAction::Put {
            body: Bytes::copy_from_slice(value.as_bytes()),
            content_type: None,
            meta: Vec::new(),
            ttl: how.ttl,
        };
        self.begin_write(name, table, key, action, how)
    }

    pub(super) fn put(
        &mut self,
        name: &str,
        table: &Arc<Table>,
        key: &str,
        value: &str,
        how: Write,
    ) -> Result<WriteOutcome, OpError> {
        let slot = self.begin_put(name, table, key, value, how);
        self.wait(&slot)
    }

    pub(super) fn delete(
        &mut self,
        name: &str,
        table: &Arc<Table>,
        key: &str,
        how: Write,
    ) -> Result<WriteOutcome, OpError> {
        let slot = self.begin_write(name, table, key, WriteAction::Delete, how);
        self.wait(&slot)
    }

    pub(super) fn begin_read(
        &self,
        name: &str,
        table: &Arc<Table>,
        key: &str,
        level: Consistency,
    ) -> Slot<Result<ReadOutcome, OpError>> {
        let op = ReadOp {
            table: table.clone(),
            key: key_of(key),
            level,
            timeout: 3 * SECOND,
            receipt: true,
            local: false,
        };
        let coordinator = self.coordinator(name);
        self.begin(name, async move { coordinator.read(op).await })
    }

    pub(super) fn read(
        &mut self,
        name: &str,
        table: &Arc<Table>,
        key: &str,
        level: Consistency,
    ) -> Result<ReadOutcome, OpError> {
        let slot = self.begin_read(name, table, key, level);
        self.wait(&slot)
    }

    /// The values that a quorum read at `name` shows, sorted.
    pub(super) fn values(&mut self, name: &str, table: &Arc<Table>, key: &str) -> Vec<String> {
        let found = self.read(name, table, key, Consistency::Quorum).expect("a quorum answers");
        values_of(&found)
    }

    /// What `name` itself shows of a key, if anything.
    pub(super) fn own(&mut self, name: &str, table: &Arc<Table>, key: &str) -> Response {
        let read = Read { table: table.id, key: key_of(key), want: Want::Record };
        self.ask(name, name, Request::Read(read))
    }

    /// The record that `name` shows of a key; `None`: absent.
    pub(super) fn record(&mut self, name: &str, table: &Arc<Table>, key: &str) -> Option<Record> {
        match self.own(name, table, key) {
            Response::Record(bytes, _) => {
                bytes.map(|bytes| Record::decode(&bytes, &address(table, key)).unwrap())
            }
            other => panic!("{name} shows {other:?}"),
        }
    }

    /// What `to` answers to `from`.
    pub(super) fn ask(&mut self, from: &str, to: &str, request: Request) -> Response {
        let life = self.life(from);
        let call = life.peers.call(id(to), request, life.env.mono() + 3 * SECOND);
        let slot = self.begin(from, call);
        self.wait(&slot).expect("an answer")
    }

    /// Flips a bit of the stored record.
    pub(super) fn rot(&self, name: &str, table: &Arc<Table>, key: &str) {
        assert!(self.life(name).engine.rot_value(&row_range(table, key), 0), "there is a record");
    }
}

pub(super) fn key_of(key: &str) -> Key {
    Key::new(key.as_bytes().to_vec()).unwrap()
}

pub(super) fn address(table: &Arc<Table>, key: &str) -> Bytes {
    record::address(table.id, &key_of(key))
}

/// The key's row in a store.
pub(super) fn row(table: &Arc<Table>, key: &str) -> Bytes {
    keys::row(Kind::Record, table.id, token_of(key.as_bytes()), &key_of(key), b"")
}

fn row_range(table: &Arc<Table>, key: &str) -> KeyRange {
    let start = row(table, key);
    let mut end = start.to_vec();
    end.push(0);
    KeyRange { start, end: Some(end.into()) }
}

pub(super) fn values_of(found: &ReadOutcome) -> Vec<String> {
    let view = found.record.view(found.now);
    let mut values: Vec<String> = view
        .versions
        .iter()
        .map(|version| String::from_utf8_lossy(&version.value.body).into_owned())
        .collect();
    values.sort();
    values
}

pub(super) fn is_mint(request: &Request) -> bool {
    matches!(request, Request::Mint(_))
}

/// A record to be merged in, from a write or from a hint.
pub(super) fn is_apply(request: &Request) -> bool {
    matches!(request, Request::Apply(_) | Request::Handoff(_))
}

pub(super) fn is_read(request: &Request) -> bool {
    matches!(request, Request::Read(_))
}
