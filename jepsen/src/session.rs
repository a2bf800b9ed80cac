//! A client of the harness: one logical process at a time, one operation at a time, one attempt
//! per operation. Nothing is retried in secret: a retry that a workload makes is its own decision
//! and under the same operation id.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use henge::client::{Call, Client, ClientError, CqlRows, Outcome as Applied, Reply};
use henge::sim::rng::Rng;
use hyper::http::{Method, StatusCode};
use serde_json::Value;

use crate::door::{Door, Level};
use crate::history::{Outcome, Recorder};
use crate::workload::Kind;

/// What a client learns from an answer that says "done", or shows values, and not those that were
/// asked for. No sound node gives one.
pub const STRANGE: &str = "an answer of another kind";

/// How long a client waits for an answer. Nodes are asked to answer in less.
pub const PATIENCE: Duration = Duration::from_secs(3);

/// How long a node may take, as a parameter of each request.
pub const TIMEOUT: &str = "timeout=2s";

/// Keys, each used for a while and then left for ever, so that every key's history stays short
/// enough for a search through its orders.
#[derive(Debug)]
pub struct Keys {
    prefix: String,
    per_key: u64,
    used: AtomicU64,
}

impl Keys {
    /// Keys `prefix-0`, `prefix-1`, …, each for `per_key` operations.
    pub fn new(prefix: String, per_key: u64) -> Self {
        Self { prefix, per_key, used: AtomicU64::new(0) }
    }

    /// The key for the next operation.
    pub fn next(&self) -> String {
        self.named(self.used.fetch_add(1, Relaxed) / self.per_key)
    }

    /// The key in use.
    pub fn current(&self) -> String {
        self.named(self.used.load(Relaxed) / self.per_key)
    }

    /// One of the last `back` before the one in use, or that one.
    pub fn earlier(&self, rng: &mut Rng, back: u64) -> String {
        let now = self.used.load(Relaxed) / self.per_key;
        self.named(now - rng.below(now.min(back) + 1))
    }

    fn named(&self, number: u64) -> String {
        format!("{}-{number}", self.prefix)
    }

    /// An operation stays open: six of them, and the key is left.
    pub fn open(&self) {
        self.used.fetch_add(self.per_key / 6, Relaxed);
    }

    /// Leaves the key in use.
    pub fn leave(&self) {
        self.used.fetch_add(self.per_key, Relaxed);
    }
}

/// What the clients of one workload share.
#[derive(Debug)]
pub struct Stage {
    /// What they do.
    pub kind: Kind,
    /// Where.
    pub bucket: String,
    /// The history.
    pub recorder: Recorder,
    /// One client per node.
    pub nodes: Vec<Client>,
    /// Where each serves CQL, `host:port`.
    pub cql: Vec<String>,
    /// Copies of everything: as many as nodes, or fewer.
    pub replicas: usize,
    /// By group.
    pub keys: Vec<Keys>,
    /// Set when the clients should end.
    pub stop: AtomicBool,
    /// When the run began.
    pub began: Instant,
    /// Clients take turns in phases of this number, so that those of one workload meet.
    pub phases: u64,
    /// Which phase is this workload's.
    pub phase: u64,
    /// Clients hang up before an answer can have come, every so often.
    pub impatient: AtomicBool,
    /// How often they have.
    pub hung_up: AtomicU64,
    /// Seed of the run.
    pub seed: u64,
    processes: AtomicU64,
    numbers: AtomicU64,
}

impl Stage {
    /// An empty stage.
    pub fn new(
        kind: Kind,
        recorder: Recorder,
        (urls, cql, replicas): (&[String], &[String], usize),
        began: Instant,
        seed: u64,
        (phase, phases): (u64, u64),
    ) -> Result<Self, String> {
        let nodes = urls.iter().map(|url| Client::new([url])).collect::<Result<_, _>>();
        let prefix = |group| format!("{}{group}", kind.name().replace('-', ""));
        Ok(Self {
            kind,
            bucket: kind.name().replace('-', "_"),
            recorder,
            nodes: nodes.map_err(|error| error.to_string())?,
            cql: cql.to_vec(),
            replicas,
            keys: (0..kind.groups())
                .map(|group| Keys::new(prefix(group), kind.per_key()))
                .collect(),
            stop: AtomicBool::new(false),
            began,
            phases,
            phase,
            impatient: AtomicBool::new(false),
            hung_up: AtomicU64::new(0),
            seed,
            processes: AtomicU64::new(0),
            numbers: AtomicU64::new(0),
        })
    }

    /// The path of a key, with the timeout as its parameter.
    pub fn path(&self, key: &str) -> String {
        format!("/v1/kv/{}/{key}?{TIMEOUT}", self.bucket)
    }

    /// Waits until this workload's phase.
    async fn turn(&self) {
        const PHASE_MS: u64 = 500;
        let round = PHASE_MS * self.phases;
        let at = self.began.elapsed().as_millis() as u64 % round;
        let mine = self.phase % self.phases * PHASE_MS;
        if at < mine || at >= mine + PHASE_MS {
            let wait = (mine + round - at) % round;
            tokio::time::sleep(Duration::from_millis(wait)).await;
        }
    }
}

/// What became of an attempt.
#[derive(Debug)]
pub struct Attempt {
    /// As recorded.
    pub outcome: Outcome,
    /// The answer, if one came.
    pub reply: Option<Reply>,
    /// As recorded.
    pub learnt: Value,
}

impl Attempt {
    /// True if it took effect or learnt something.
    pub fn is_ok(&self) -> bool {
        self.outcome == Outcome::Ok
    }

    /// A header of the answer.
    pub fn header(&self, name: &str) -> Option<String> {
        self.reply.as_ref()?.header(name).map(str::to_owned)
    }
}

/// Whether an attempt may change anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// It reads: without an answer nothing was learnt, and nothing else.
    Reads,
    /// It writes: without an answer anything may have happened.
    Writes,
}

/// One client.
#[derive(Debug)]
pub struct Session {
    /// What it shares with the others.
    pub stage: Arc<Stage>,
    /// Its number among the clients.
    pub number: u64,
    /// Its group.
    pub group: usize,
    /// Its logical process.
    pub process: u64,
    /// The node that it asks next.
    pub node: usize,
    /// Its connections, where it speaks CQL.
    pub door: Door,
    /// Its draws.
    pub rng: Rng,
    /// The key that `seen` is about.
    pub seen_key: String,
    /// What it has read there, newest last.
    pub seen: Vec<(Value, Option<String>)>,
    /// Keys that it has made and not deleted yet, where each is to be written so often and no more.
    pub made: Vec<String>,
}

impl Session {
    /// Client `number` of a stage.
    pub fn new(stage: &Arc<Stage>, number: u64) -> Self {
        Self {
            stage: Arc::clone(stage),
            number,
            group: number as usize % stage.keys.len(),
            process: stage.processes.fetch_add(1, Relaxed),
            node: number as usize % stage.nodes.len(),
            door: Door::new(&stage.cql),
            rng: Rng::stream(stage.seed, number, stage.kind.name()),
            seen_key: String::new(),
            seen: Vec::new(),
            made: Vec::new(),
        }
    }

    /// The keys of its group.
    pub fn keys(&self) -> &Keys {
        &self.stage.keys[self.group]
    }

    /// The key for its next operation; what it has seen elsewhere is forgotten.
    pub fn key(&mut self) -> String {
        let key = self.keys().next();
        if key != self.seen_key {
            self.seen.clear();
            self.seen_key.clone_from(&key);
        }
        key
    }

    /// A key that was used lately, or the one in use.
    pub fn earlier_key(&mut self) -> String {
        self.older_key(8)
    }

    /// One of the last `back` keys before the one in use, or that one.
    pub fn older_key(&mut self, back: u64) -> String {
        self.stage.keys[self.group].earlier(&mut self.rng, back)
    }

    /// The key for its next operation, and sometimes an older one, which has lived through a fault.
    pub fn any_key(&mut self) -> String {
        if self.rng.below(4) == 0 { self.earlier_key() } else { self.key() }
    }

    /// A value that nobody else writes, and that leads back to its operation wherever it turns up.
    pub fn value(&self) -> String {
        format!("{}.{}.{}", self.stage.seed, self.process, self.unique())
    }

    /// A number above 0 that nobody else writes.
    pub fn unique(&self) -> u64 {
        self.stage.numbers.fetch_add(1, Relaxed) + 1
    }

    /// Works until the stage stops.
    pub async fn run(mut self) {
        while !self.stage.stop.load(Relaxed) {
            self.stage.turn().await;
            let kind = self.stage.kind;
            kind.step(&mut self).await;
            let think = self.rng.between(5, 45);
            tokio::time::sleep(Duration::from_millis(think)).await;
        }
    }

    /// Makes one recorded attempt. `judge` says what an answer tells, if it is one that succeeds;
    /// any other ends the operation as the node's words about it demand.
    pub async fn attempt(
        &mut self,
        (f, key, asked): (&str, &str, Value),
        call: Call,
        effect: Effect,
        judge: impl FnOnce(&Reply) -> Option<Value>,
    ) -> Attempt {
        let recorder = &self.stage.recorder;
        let number = recorder.begin(self.process, self.node, f, key, asked);
        let attempt = self.send(call, effect, judge).await;
        self.stage.recorder.end(number, attempt.outcome, attempt.learnt.clone());
        self.after(attempt.outcome).await;
        attempt
    }

    /// As [`Session::attempt`], unrecorded: a step of something larger.
    pub async fn send(
        &mut self,
        call: Call,
        effect: Effect,
        judge: impl FnOnce(&Reply) -> Option<Value>,
    ) -> Attempt {
        let patience = self.patience();
        let begun = Instant::now();
        let sent = self.stage.nodes[self.node].nodes()[0].send(&call, patience).await;
        self.note_hung_up(patience, begun);
        let (error, reply) = match sent {
            Ok(reply) => {
                if let Some(learnt) = judge(&reply) {
                    return Attempt { outcome: Outcome::Ok, reply: Some(reply), learnt };
                }
                if reply.status.is_success() || reply.status == StatusCode::MULTIPLE_CHOICES {
                    let outcome =
                        if effect == Effect::Reads { Outcome::Fail } else { Outcome::Info };
                    let learnt = Value::String(format!("{STRANGE} ({})", reply.status));
                    return Attempt { outcome, reply: Some(reply), learnt };
                }
                (reply.refused(), Some(reply))
            }
            Err(error) => (error, None),
        };
        let outcome = ended(&error, effect);
        Attempt { outcome, reply, learnt: Value::String(error.to_string()) }
    }

    /// As [`Session::attempt`], of a statement through the CQL port.
    pub async fn ask(
        &mut self,
        (f, key, asked): (&str, &str, Value),
        text: &str,
        level: Level,
        effect: Effect,
        judge: impl FnOnce(&CqlRows) -> Option<Value>,
    ) -> Attempt {
        let number = self.stage.recorder.begin(self.process, self.node, f, key, asked);
        let patience = self.patience();
        let begun = Instant::now();
        let answer = self.door.ask(self.node, text, level, patience).await;
        self.note_hung_up(patience, begun);
        let (outcome, learnt) = match answer.as_ref().map(judge) {
            Ok(Some(learnt)) => (Outcome::Ok, learnt),
            Ok(None) => (Outcome::Info, Value::String(STRANGE.to_owned())),
            Err(trouble) => {
                let is_over = effect == Effect::Reads || trouble.has_no_effect;
                let outcome = if is_over { Outcome::Fail } else { Outcome::Info };
                (outcome, Value::String(trouble.why.clone()))
            }
        };
        self.stage.recorder.end(number, outcome, learnt.clone());
        self.after(outcome).await;
        Attempt { outcome, reply: None, learnt }
    }

    /// How long the next answer is waited for: of impatient clients' requests half are given up, and
    /// the connection closed, about when the node works on it: mostly before a calm one has answered.
    fn patience(&mut self) -> Duration {
        let most = match self.rng.below(6) {
            _ if !self.stage.impatient.load(Relaxed) => return PATIENCE,
            0 => 30_000,
            1..3 => 4_000,
            _ => return PATIENCE,
        };
        self.rng.duration(Duration::from_micros(300), Duration::from_micros(most))
    }

    fn note_hung_up(&self, patience: Duration, begun: Instant) {
        if patience < PATIENCE && begun.elapsed() >= patience {
            self.stage.hung_up.fetch_add(1, Relaxed);
        }
    }

    /// Retires the process where its operation stays open, and goes elsewhere where it failed.
    pub async fn after(&mut self, outcome: Outcome) {
        if outcome == Outcome::Ok {
            if self.rng.below(4) == 0 {
                self.move_on();
            }
            return;
        }
        if outcome == Outcome::Info {
            self.process = self.stage.processes.fetch_add(1, Relaxed);
            self.keys().open();
        }
        self.move_on();
        let pause = self.rng.between(100, 400);
        tokio::time::sleep(Duration::from_millis(pause)).await;
    }

    /// Asks another node from now on.
    pub fn move_on(&mut self) {
        let others = self.stage.nodes.len() - 1;
        self.node = (self.node + 1 + self.rng.index(others)) % self.stage.nodes.len();
    }

    /// A recorded read that is tried until it succeeds, through one node after the other.
    pub async fn insist(
        &mut self,
        f: &str,
        key: &str,
        target: &str,
        judge: impl Fn(&Reply) -> Option<Value>,
    ) -> bool {
        for _ in 0..20 {
            let call = Call::new(Method::GET, target);
            let attempt = self.attempt((f, key, Value::Null), call, Effect::Reads, &judge).await;
            if attempt.is_ok() {
                return true;
            }
        }
        false
    }
}

/// How an operation that brought `error` has ended.
fn ended(error: &ClientError, effect: Effect) -> Outcome {
    match (effect, error.outcome()) {
        (Effect::Reads, _) | (Effect::Writes, Applied::NotApplied) => Outcome::Fail,
        (Effect::Writes, Applied::Unknown) => Outcome::Info,
    }
}
