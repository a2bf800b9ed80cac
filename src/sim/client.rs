//! The simulated clients: each runs its part of the script, holds contexts as a careful client
//! would, and records what it did and saw.
//!
//! A request runs as a task of the node that it is sent to, as a handler does in production: the
//! node's death ends it, a hang-up drops it at whatever await it stands.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::oneshot;

use crate::causality::Context;
use crate::coordinator::{
    Condition, Fate, OpError, ReadOp, ReadOutcome, WriteAction, WriteOp, WriteOutcome,
};
use crate::env::Env;
use crate::meta::Table;
use crate::record::{Record, version_etag};
use crate::sim::cluster::SimCluster;
use crate::sim::hang_up::until_await;
use crate::sim::history::{Action, History, Mark, Operation, Outcome, Shown, Workload, WriteId};
use crate::sim::lockers::LockLog;
use crate::sim::plan::{Step, Verb, key_name};
use crate::sim::rows::RowLog;
use crate::types::{Consistency, Key, OpId, WallMicros};

/// How much longer than the operation's own limit a client waits for an answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// Times that a client sends an operation which it may repeat.
const MAX_ATTEMPTS: u32 = 3;

/// What all clients of a run share.
pub struct Bench {
    /// The cluster.
    pub cluster: SimCluster,
    /// The bucket that keeps siblings.
    pub siblings: Arc<Table>,
    /// The last-write-wins bucket.
    pub registers: Arc<Table>,
    /// The strong bucket.
    pub strong: Arc<Table>,
    /// What happened.
    pub history: Mutex<History>,
    /// What lockers were answered.
    pub locks: Mutex<LockLog>,
    /// What was done to rows.
    pub rows: Mutex<RowLog>,
    /// Clients of all sorts that are done.
    pub done: AtomicU32,
}

impl std::fmt::Debug for Bench {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Bench")
    }
}

impl Bench {
    /// The history.
    pub fn history(&self) -> MutexGuard<'_, History> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What lockers were answered.
    pub fn locks(&self) -> MutexGuard<'_, LockLog> {
        self.locks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What was done to rows.
    pub fn rows(&self) -> MutexGuard<'_, RowLog> {
        self.rows.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn table(&self, workload: Workload) -> &Arc<Table> {
        match workload {
            Workload::Set | Workload::Siblings | Workload::Conditional | Workload::Expiring => {
                &self.siblings
            }
            Workload::Strong => &self.strong,
            Workload::Register => &self.registers,
        }
    }
}

/// The bytes of write `id` on `key`: they say whose they are, all of them.
#[must_use]
pub fn value_of(id: WriteId, key: &str, size: u32) -> Bytes {
    let mut bytes = format!("{}|{key}|{size}|", id.0).into_bytes();
    let mut filler = crate::sim::rng::Rng::new(id.0);
    while bytes.len() < size as usize {
        bytes.extend_from_slice(&filler.next_u64().to_le_bytes());
    }
    bytes.into()
}

/// The write that made these bytes, if they are exactly what it wrote to `key`.
///
/// # Errors
/// A description of bytes that no write of the run made.
pub fn write_of(bytes: &[u8], key: &str) -> Result<WriteId, String> {
    let strange = || {
        let head = &bytes[..bytes.len().min(40)];
        format!("{} bytes: {}", bytes.len(), String::from_utf8_lossy(head))
    };
    let mut parts = bytes.splitn(4, |byte| *byte == b'|');
    let mut number = |_: usize| {
        let part = parts.next()?;
        Some(std::str::from_utf8(part).ok()?.to_owned())
    };
    let (id, named, size) = (number(0), number(1), number(2));
    let id = id.and_then(|id| id.parse().ok()).map(WriteId).ok_or_else(strange)?;
    let size = size.and_then(|size| size.parse().ok()).ok_or_else(strange)?;
    if named.as_deref() != Some(key) || value_of(id, key, size) != bytes {
        return Err(strange());
    }
    Ok(id)
}

/// What a client has in hand for a key.
#[derive(Clone, Default)]
struct Held {
    context: Context,
    seen: Vec<WriteId>,
    /// The one value that stood there, with its entity tag; none: nothing did.
    one: Option<(WriteId, String)>,
}

/// How one request ended.
pub(super) enum Answer<T> {
    Got(Result<T, OpError>),
    /// No byte was sent: the node was down.
    Refused,
    /// The node died over it, or said nothing, or the client hung up.
    Silence,
}

/// When a client hangs up, if before the answer.
#[derive(Clone, Copy)]
pub(super) struct HangUp {
    after_us: Option<u32>,
    /// At this await of its request.
    awaits: u32,
}

impl HangUp {
    /// The client waits as long as it has patience.
    pub(super) const NEVER: Self = Self { after_us: None, awaits: u32::MAX };

    fn of(step: &Step) -> Self {
        Self { after_us: step.hang_up_us, awaits: step.hang_up_awaits.unwrap_or(u32::MAX) }
    }
}

/// A client.
pub struct Client {
    bench: Arc<Bench>,
    env: Env,
    number: u32,
    /// A process ends with its first unknown outcome; then the client is another one.
    generation: u32,
    held: BTreeMap<String, [Held; 2]>,
}

impl Client {
    /// Client `number`.
    #[must_use]
    pub fn new(bench: Arc<Bench>, env: Env, number: u32) -> Self {
        Self { bench, env, number, generation: 0, held: BTreeMap::new() }
    }

    /// Works through its script.
    pub async fn run(mut self, script: Vec<Step>) {
        for step in script {
            self.env.sleep(Duration::from_micros(u64::from(step.gap_us))).await;
            match step.verb {
                Verb::Read => self.read(&step).await,
                _ => self.write(&step).await,
            }
        }
        self.bench.done.fetch_add(1, Ordering::Relaxed);
    }

    /// Reads every one of `keys` twice, through different nodes, until it succeeds. Gives the keys
    /// that could not be read.
    pub async fn read_all(mut self, keys: Vec<(Workload, u32)>) -> Vec<String> {
        let nodes = self.bench.cluster.plan().nodes;
        let mut unread = Vec::new();
        for (workload, key) in keys {
            for round in 0..2 {
                let mut step = Step {
                    id: 0,
                    client: self.number,
                    key,
                    workload,
                    verb: Verb::Read,
                    node: 0,
                    gap_us: 0,
                    level: match workload {
                        Workload::Strong => Consistency::Serial,
                        _ => Consistency::Quorum,
                    },
                    retries: false,
                    hang_up_us: None,
                    hang_up_awaits: None,
                    size: 0,
                    ttl_ms: None,
                };
                let mut read = false;
                for attempt in 0..20 {
                    step.node = (self.number + round + attempt) % nodes;
                    read = self.read_once(&step, true).await;
                    if read {
                        break;
                    }
                    self.env.sleep(Duration::from_millis(500)).await;
                }
                if !read {
                    unread.push(key_name(workload, key));
                }
            }
        }
        unread
    }

    fn begin(&mut self, step: &Step, action: Action, last: bool) -> usize {
        let t = self.bench.cluster.world().now();
        self.bench.history().begin(
            t,
            Operation {
                process: self.number + self.generation * 1_000,
                node: step.node,
                key: step.key_name(),
                workload: step.workload,
                strong: step.level != Consistency::One
                    && (last || !self.bench.cluster.plan().sloppy),
                last,
                action,
                call: Mark { i: 0, t },
                ret: None,
                outcome: Outcome::Unknown,
            },
        )
    }

    fn end(&mut self, number: usize, outcome: Outcome) {
        if outcome == Outcome::Unknown {
            self.generation += 1;
        }
        let t = self.bench.cluster.world().now();
        self.bench.history().end(t, number, outcome);
    }

    async fn read(&mut self, step: &Step) {
        self.read_once(step, false).await;
    }

    async fn read_once(&mut self, step: &Step, last: bool) -> bool {
        let name = step.key_name();
        let number = self.begin(step, Action::Read, last);
        let Some(key) = key_of(&name) else { return false };
        let timeout = Duration::from_millis(self.bench.cluster.plan().timeout_ms);
        let op = ReadOp {
            table: self.bench.table(step.workload).clone(),
            key,
            level: step.level,
            timeout,
            receipt: false,
            local: false,
        };
        let answer = self
            .request(step.node, HangUp::of(step), move |node| async move {
                match node.coordinator().read_at_once(&op) {
                    Some(outcome) => outcome,
                    None => node.coordinator().read(op).await,
                }
            })
            .await;
        match answer {
            Answer::Got(Ok(outcome)) => {
                self.bench.cluster.oracle().shown(&self.bench.cluster, &name, &outcome);
                let shown = shown_by(&outcome, &name);
                let seen = shown.iter().filter_map(|s| s.value.as_ref().ok().copied()).collect();
                let one = match &shown[..] {
                    [Shown { value: Ok(id), dot: Some(dot) }] => Some((*id, version_etag(*dot))),
                    _ => None,
                };
                self.hold(name, Held { context: outcome.record.context(), seen, one });
                self.end(number, Outcome::Read(shown));
                true
            }
            Answer::Got(Err(_)) | Answer::Refused => {
                self.end(number, Outcome::NotApplied);
                false
            }
            Answer::Silence => {
                self.end(number, Outcome::Unknown);
                false
            }
        }
    }

    fn hold(&mut self, key: String, held: Held) {
        let slot = self.held.entry(key).or_default();
        slot.swap(0, 1);
        slot[0] = held;
    }

    /// A write on what its client believes to stand there.
    async fn write_if(&mut self, step: &Step) {
        let name = step.key_name();
        let id = WriteId(step.id);
        let slot = self.held.get(&name).cloned().unwrap_or_default();
        let held = &slot[usize::from(step.verb == Verb::PutIfStale)];
        let expected = held.one.as_ref().map(|(id, _)| *id);
        let condition = match &held.one {
            None => Condition::Absent,
            Some((_, etag)) => Condition::Matches(vec![etag.clone()]),
        };
        let delete = step.verb == Verb::DeleteIf;
        let number = self.begin(step, Action::Cas { id, expected, delete }, false);
        let Some(key) = key_of(&name) else { return };
        let body = value_of(id, &name, step.size);
        let put = WriteAction::Put { body, content_type: None, meta: Vec::new(), ttl: None };
        let op = WriteOp {
            table: self.bench.table(step.workload).clone(),
            key,
            action: if delete { WriteAction::Delete } else { put },
            condition,
            fence: None,
            context: None,
            level: step.level,
            timeout: Duration::from_millis(self.bench.cluster.plan().timeout_ms),
            op: step.retries.then(|| self.new_op_id()),
            receipt: false,
        };
        let outcome = match self.send_write(step, &op).await {
            Some(Ok(outcome)) => {
                let one = outcome.dot.filter(|_| !delete).map(|dot| (id, version_etag(dot)));
                let seen = one.iter().map(|(id, _)| *id).collect();
                self.hold(name, Held { context: outcome.context, seen, one });
                Outcome::Written(outcome.dot)
            }
            Some(Err(Some(shown))) => Outcome::Refused(shown),
            Some(Err(None)) => Outcome::NotApplied,
            None => Outcome::Unknown,
        };
        self.end(number, outcome);
    }

    async fn write(&mut self, step: &Step) {
        let name = step.key_name();
        let id = WriteId(step.id);
        let slot = self.held.get(&name).cloned().unwrap_or_default();
        let held = match step.verb {
            Verb::Read | Verb::PutBlind | Verb::DeleteBlind => None,
            Verb::PutIf | Verb::PutIfStale | Verb::DeleteIf => return self.write_if(step).await,
            Verb::Put | Verb::Delete => Some(slot[0].clone()),
            Verb::PutStale => Some(slot[1].clone()),
        };
        // An empty context is no context; a delete without one deletes what a quorum shows.
        let held = held.filter(|held| !held.context.is_empty());
        let seen = held.as_ref().map(|held| held.seen.clone());
        let deletes = matches!(step.verb, Verb::Delete | Verb::DeleteBlind);
        let (action, sent) = if deletes {
            (Action::Delete { id, seen: seen.clone() }, WriteAction::Delete)
        } else {
            let body = value_of(id, &name, step.size);
            let ttl = step.ttl_ms.map(|ms| Duration::from_millis(u64::from(ms)));
            let put = WriteAction::Put { body, content_type: None, meta: Vec::new(), ttl };
            (Action::Put { id, seen: seen.clone().unwrap_or_default() }, put)
        };
        let number = self.begin(step, action, false);
        let Some(key) = key_of(&name) else { return };
        let op_id = step.retries.then(|| self.new_op_id());
        let op = WriteOp {
            condition: Condition::None,
            fence: None,
            table: self.bench.table(step.workload).clone(),
            key,
            action: sent,
            context: held.map(|held| held.context),
            level: step.level,
            timeout: Duration::from_millis(self.bench.cluster.plan().timeout_ms),
            op: op_id,
            receipt: false,
        };
        let outcome = self.send_write(step, &op).await;
        if let Some(Ok(outcome)) = &outcome {
            let mut seen = seen.unwrap_or_default();
            seen.push(id);
            let one = outcome.dot.filter(|_| !deletes).map(|dot| (id, version_etag(dot)));
            self.hold(name, Held { context: outcome.context.clone(), seen, one });
        }
        let outcome = match outcome {
            Some(Ok(outcome)) => Outcome::Written(outcome.dot),
            Some(Err(_)) => Outcome::NotApplied,
            None => Outcome::Unknown,
        };
        self.end(number, outcome);
    }

    fn new_op_id(&self) -> OpId {
        let random = u128::from(self.env.random("op-id")) << 64;
        OpId::from_parts(self.env.wall().0 / 1_000, random | u128::from(self.env.random("op-id")))
    }

    /// Sends a write, again under the same id if it may. `None`: unknown; `Err`: not applied, with
    /// what stood there if that was the reason.
    async fn send_write(
        &self,
        step: &Step,
        op: &WriteOp,
    ) -> Option<Result<WriteOutcome, Option<Vec<Shown>>>> {
        let cluster = &self.bench.cluster;
        let attempts = if step.retries { MAX_ATTEMPTS } else { 1 };
        let mut unknown = false;
        for attempt in 0..attempts {
            let node = (step.node + attempt) % cluster.plan().nodes;
            let losses = cluster.oracle().losses(cluster);
            let sent = op.clone();
            let answer = self
                .request(node, HangUp::of(step), move |node| async move {
                    node.coordinator().write(sent).await
                })
                .await;
            match answer {
                Answer::Got(Ok(outcome)) => {
                    // What Paxos decides is judged by its own invariants.
                    if !matches!(step.workload, Workload::Strong | Workload::Conditional) {
                        cluster.oracle().acknowledged(cluster, op, &outcome, losses);
                    }
                    return Some(Ok(outcome));
                }
                // A verdict on the operation, whatever earlier attempts were answered.
                // What a repeated refusal shows is of its own time, not of the verdict's.
                Answer::Got(Err(OpError::ConditionFailed { replayed: true, .. })) => {
                    return Some(Err(None));
                }
                Answer::Got(Err(OpError::ConditionFailed { current, now, .. })) => {
                    return Some(Err(Some(shown_of(&current, now, &step.key_name()))));
                }
                Answer::Got(Err(error)) => {
                    tracing::debug!(id = step.id, node, %error, fate = ?error.fate(), "write");
                    unknown |= error.fate() == Fate::Unknown;
                }
                Answer::Refused => {}
                Answer::Silence => unknown = true,
            }
        }
        if unknown { None } else { Some(Err(None)) }
    }

    /// Runs a request on node `n`, as long as the client waits.
    pub(super) async fn request<T, F>(
        &self,
        n: u32,
        hang_up: HangUp,
        handler: impl FnOnce(crate::node::Node) -> F + Send + 'static,
    ) -> Answer<T>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, OpError>> + Send + 'static,
    {
        let limit = Duration::from_millis(self.bench.cluster.plan().timeout_ms);
        self.request_within(n, hang_up, limit, handler).await
    }

    /// [`Self::request`] for one that may take as long as `limit`.
    pub(super) async fn request_within<T, F>(
        &self,
        n: u32,
        hang_up: HangUp,
        limit: Duration,
        handler: impl FnOnce(crate::node::Node) -> F + Send + 'static,
    ) -> Answer<T>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, OpError>> + Send + 'static,
    {
        let cluster = self.bench.cluster.clone();
        let Some(life) = cluster.life(n) else { return Answer::Refused };
        let part = life.node.cluster();
        if cluster.plan().hints_only && !part.may_serve(&part.state()) {
            return Answer::Refused;
        }
        let (sender, answer) = oneshot::channel();
        // Dropped with this future, which is how the handler learns that its client has gone.
        let (alive, gone) = oneshot::channel::<()>();
        let env = life.env.clone();
        life.env.spawn("client request", async move {
            let pauses = cluster.oracle().pauses(n);
            let begun = env.mono();
            let handled = until_await(handler(life.node.clone()), hang_up.awaits);
            tokio::select! {
                biased;
                result = handled => {
                    let Some(result) = result else { return };
                    let took = env.mono().since(begun);
                    cluster.oracle().ended(&cluster, n, took, limit, pauses);
                    let _ = sender.send(result);
                }
                _ = gone => {}
            }
        });
        let patience =
            hang_up.after_us.map_or(limit + PATIENCE, |us| Duration::from_micros(u64::from(us)));
        let answer = match self.env.timeout(patience, answer).await {
            Ok(Ok(result)) => Answer::Got(result),
            Ok(Err(_)) | Err(_) => Answer::Silence,
        };
        drop(alive);
        answer
    }
}

fn key_of(name: &str) -> Option<Key> {
    Key::new(name.as_bytes().to_vec()).ok()
}

fn shown_by(outcome: &ReadOutcome, key: &str) -> Vec<Shown> {
    shown_of(&outcome.record, outcome.now, key)
}

fn shown_of(record: &Record, now: WallMicros, key: &str) -> Vec<Shown> {
    let view = record.view(now);
    let shown = view
        .versions
        .iter()
        .map(|version| Shown { value: write_of(&version.value.body, key), dot: Some(version.dot) });
    shown.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_say_whose_they_are_and_nothing_else_does() {
        for size in [1, 40, 5_000] {
            let value = value_of(WriteId(7), "sib-3", size);
            assert_eq!(write_of(&value, "sib-3"), Ok(WriteId(7)));
            assert!(write_of(&value, "sib-4").is_err());
            assert!(write_of(&value[..value.len() - 1], "sib-3").is_err());
            let mut bent = value.to_vec();
            if let Some(last) = bent.last_mut() {
                *last ^= 1;
            }
            assert!(write_of(&bent, "sib-3").is_err());
        }
        assert!(write_of(b"", "k").is_err());
    }
}
