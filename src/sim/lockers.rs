//! W7: clients that take turns by a lock, write under its fence, and are often too late.
//!
//! Each *locker* asks for one of two locks with a short lease, and when it has it, writes to the key
//! that the lock protects; after pauses that may be longer than its lease, so that another one
//! holds the lock by then. Some give the lock back, some let it end. Faults and clocks do the rest.
//! What must hold ([`check`]):
//!
//! - the fences of all grants of a lock are distinct;
//! - a grant that was asked for after another had been given has the greater fence;
//! - a write with an older fence is never acknowledged that began after the acknowledgement of one
//!   with a newer fence.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;

use crate::coordinator::{Condition, LeaseOp, LeaseOutcome, WriteAction, WriteOp};
use crate::env::Env;
use crate::recipes::Request;
use crate::sim::check::{Check, Violation};
use crate::sim::client::{Answer, Bench, Client, HangUp};
use crate::types::{Consistency, Key};

/// Locks of a run.
const LOCKS: u64 = 2;
/// How often a locker asks for one.
const ROUNDS: u32 = 20;

/// What a locker got.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum What {
    /// The lock, with this fence.
    Granted(u64),
    /// An acknowledgement of a write with this fence.
    Wrote(u64),
}

/// An answer to a locker.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Event {
    /// Which lock.
    pub lock: u64,
    /// Place of the request's beginning in the order of all beginnings and ends.
    pub begun: u64,
    /// Place of its end.
    pub ended: u64,
    /// What it was.
    pub what: What,
}

/// All answers of a run.
#[derive(Debug, Default)]
pub struct LockLog {
    events: Vec<Event>,
    next: u64,
}

impl LockLog {
    fn mark(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    fn ended(&mut self, lock: u64, begun: u64, what: What) {
        let ended = self.mark();
        self.events.push(Event { lock, begun, ended, what });
    }

    /// The answers, in order of their ends.
    #[must_use]
    pub fn events(&self) -> &[Event] {
        &self.events
    }
}

/// Runs locker `number`.
pub async fn run(bench: Arc<Bench>, env: Env, number: u32) {
    let locker = Locker { client: Client::new(bench.clone(), env.clone(), number), bench, env };
    for round in 0..ROUNDS {
        locker.turn(&format!("{number}-{round}")).await;
    }
    locker.bench.done.fetch_add(1, Ordering::Relaxed);
}

struct Locker {
    client: Client,
    bench: Arc<Bench>,
    env: Env,
}

fn key(kind: &str, lock: u64) -> Option<Key> {
    Key::new(format!("{kind}-{lock}").into_bytes()).ok()
}

impl Locker {
    fn below(&self, bound: u64) -> u64 {
        self.env.random_below("locker", bound)
    }

    fn node(&self) -> u32 {
        let nodes = self.bench.cluster.plan().nodes;
        u32::try_from(self.below(u64::from(nodes))).unwrap_or(0)
    }

    fn timeout(&self) -> Duration {
        Duration::from_millis(self.bench.cluster.plan().timeout_ms)
    }

    /// Asks for a lock once, and does what it is for.
    async fn turn(&self, name: &str) {
        self.env.sleep(Duration::from_millis(self.below(600))).await;
        let (lock, ttl_ms) = (self.below(LOCKS), 100 + self.below(900));
        let request = Request::Acquire { owner: name.to_owned(), ttl_ms, stands: false };
        let begun = self.bench.locks().mark();
        let Some(LeaseOutcome::Held { holding, .. }) = self.ask(lock, request).await else {
            return;
        };
        let fence = holding.fence;
        self.bench.locks().ended(lock, begun, What::Granted(fence));
        for write in 0..1 + self.below(3) {
            self.env.sleep(Duration::from_millis(self.below(2 * ttl_ms))).await;
            self.write(lock, fence, format!("{name}-{write}")).await;
        }
        if self.below(3) == 0 {
            self.ask(lock, Request::Release { fence }).await;
        }
    }

    /// `None`: there was no answer.
    async fn ask(&self, lock: u64, request: Request) -> Option<LeaseOutcome> {
        let (table, timeout) = (self.bench.strong.clone(), self.timeout());
        let op = LeaseOp { table, key: key("lock", lock)?, request, timeout, op: None };
        let handler =
            move |node: crate::node::Node| async move { node.coordinator().lease(op).await };
        match self.client.request(self.node(), HangUp::NEVER, handler).await {
            Answer::Got(Ok(outcome)) => Some(outcome),
            Answer::Got(Err(_)) | Answer::Refused | Answer::Silence => None,
        }
    }

    async fn write(&self, lock: u64, fence: u64, body: String) {
        let Some(key) = key("guarded", lock) else { return };
        let op = WriteOp {
            table: self.bench.siblings.clone(),
            key,
            action: WriteAction::Put {
                body: Bytes::from(body.into_bytes()),
                content_type: None,
                meta: Vec::new(),
                ttl: None,
            },
            condition: Condition::None,
            fence: Some(fence),
            context: None,
            level: Consistency::Quorum,
            timeout: self.timeout(),
            op: None,
            receipt: false,
        };
        let begun = self.bench.locks().mark();
        let handler =
            move |node: crate::node::Node| async move { node.coordinator().write(op).await };
        let answer = self.client.request(self.node(), HangUp::NEVER, handler).await;
        if matches!(answer, Answer::Got(Ok(_))) {
            self.bench.locks().ended(lock, begun, What::Wrote(fence));
        }
    }
}

/// Every breach of what is promised of locks and fences.
#[must_use]
pub fn check(events: &[Event]) -> Vec<Violation> {
    let mut found = Vec::new();
    let mut breach = |lock: u64, what: String| {
        let key = format!("lock-{lock}");
        found.push(Violation { check: Check::W7, key, what, operations: Vec::new() });
    };
    let mut granted: BTreeMap<(u64, u64), u32> = BTreeMap::new();
    for event in events {
        if let What::Granted(fence) = event.what {
            *granted.entry((event.lock, fence)).or_default() += 1;
        }
    }
    for ((lock, fence), count) in granted {
        if count > 1 {
            breach(lock, format!("fence {fence} was granted {count} times"));
        }
    }
    for (at, later) in events.iter().enumerate() {
        let before = events[..at].iter().filter(|e| e.lock == later.lock && e.ended < later.begun);
        for earlier in before {
            match (earlier.what, later.what) {
                (What::Granted(old), What::Granted(new)) if new < old => {
                    breach(later.lock, format!("fence {new} was granted after {old}"));
                }
                (What::Wrote(newer), What::Wrote(older)) if older < newer => {
                    let what = "after the acknowledgement of one with";
                    breach(later.lock, format!("a write with fence {older} began {what} {newer}"));
                }
                _ => {}
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Answers one after the other, each request begun after the answer before it.
    fn in_turn(answers: &[(u64, What)]) -> Vec<Event> {
        let mut log = LockLog::default();
        for (lock, what) in answers {
            let begun = log.mark();
            log.ended(*lock, begun, *what);
        }
        log.events
    }

    #[test]
    fn turns_as_they_should_be_break_nothing() {
        use What::{Granted, Wrote};
        let events = in_turn(&[
            (0, Granted(1)),
            (1, Granted(1)),
            (0, Wrote(1)),
            (0, Granted(2)),
            // The newer holder has not written yet.
            (0, Wrote(1)),
            (0, Wrote(2)),
            (0, Granted(4)),
            (1, Wrote(1)),
        ]);
        assert_eq!(check(&events), []);
        let mut log = LockLog::default();
        let begun = log.mark();
        let other = log.mark();
        log.ended(0, other, What::Wrote(2));
        log.ended(0, begun, What::Wrote(1));
        assert_eq!(check(log.events()), [], "it was under way with the other");
    }

    #[test]
    fn each_anomaly_is_named() {
        use What::{Granted, Wrote};
        for (answers, words) in [
            (&[(0, Granted(1)), (0, Granted(1))][..], "granted 2 times"),
            (&[(0, Granted(2)), (0, Granted(1))], "granted after"),
            (&[(0, Wrote(2)), (0, Wrote(1))], "a write with fence 1 began after"),
        ] {
            let found = check(&in_turn(answers));
            assert!(found.iter().any(|v| v.what.contains(words)), "{answers:?}: {found:?}");
            assert!(found.iter().all(|violation| violation.check == Check::W7));
        }
    }
}
