//! How long work waits for its turn at this node, and the gates that go by it.
//!
//! Two waits count, the longer one:
//! - For the processor: how late a sleeping task wakes, and how long it then waits behind all tasks
//!   that are ready to run. Whatever has come in over a socket waits as long before it is looked at.
//! - For the disk: how long batches wait in the commit queue, beyond what a disk with little to do
//!   takes.
//!
//! Both are looked at every few milliseconds under load, a few times a second otherwise.

use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use crate::env::Env;
use crate::overload::{Gate, Settings};
use crate::storage::Committer;
use crate::types::Mono;

/// Between two looks while much is under way.
const BUSY_PAUSE: Duration = Duration::from_millis(10);

/// Between two looks otherwise.
const IDLE_PAUSE: Duration = Duration::from_millis(200);

/// For how long the least wait is taken.
const INTERVAL: Duration = Duration::from_millis(100);

/// When a node refuses new work for the sake of what is under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shedding {
    /// For how long work may keep waiting for its turn.
    pub target: Duration,
    /// What is let in at once however long it waits, of clients and of peers each.
    pub floor: usize,
}

/// What lets new work in. See [`crate::overload`].
#[derive(Clone, Debug)]
pub struct Gates {
    /// Requests of clients.
    pub clients: Arc<Gate>,
    /// Requests of peers by which an operation begins at this node.
    pub peers: Arc<Gate>,
}

impl Gates {
    /// Gates that let in at most so many of clients and of peers; fewer while work has to wait, if
    /// `shedding` says so and [`watch`] runs.
    pub(super) fn new(
        shedding: Option<Shedding>,
        max_clients: usize,
        max_peers: usize,
        now: Mono,
    ) -> Self {
        let gate = |max: usize| {
            let target = shedding.map_or(Duration::MAX, |shedding| shedding.target);
            let floor = shedding.map_or(max, |shedding| shedding.floor.min(max));
            Gate::new(Settings { target, interval: INTERVAL, floor, max }, now)
        };
        Self { clients: gate(max_clients), peers: gate(max_peers) }
    }

    fn is_busy(&self) -> bool {
        let is_busy = |gate: &Gate| gate.under_way() * 2 > gate.floor() || gate.is_narrowed();
        is_busy(&self.clients) || is_busy(&self.peers)
    }
}

/// Tells the gates for ever how long work waits.
pub(super) async fn watch(env: Env, committer: Committer, gates: Gates) {
    loop {
        let pause = if gates.is_busy() { BUSY_PAUSE } else { IDLE_PAUSE };
        let due = env.mono() + pause;
        env.sleep(pause).await;
        behind_all_others().await;
        let now = env.mono();
        let wait = now.since(due).max(committer.excess_wait());
        gates.clients.observe(now, wait);
        gates.peers.observe(now, wait);
    }
}

/// Goes to the end of the queue of tasks that are ready to run.
async fn behind_all_others() {
    let mut has_gone = false;
    std::future::poll_fn(|cx| {
        if std::mem::replace(&mut has_gone, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}
