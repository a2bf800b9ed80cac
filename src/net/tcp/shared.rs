//! What the tasks of one transport share.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use tokio::sync::{Notify, watch};

use super::caller::Load;
use super::closer::LogGate;
use super::inbound::Inbound;
use super::options::{InboundStats, PeerStats, TcpOptions, TransportStats};
use super::peer::{Identity, Peer, PeerLimits};
use crate::env::Env;
use crate::net::codec::CodecError;
use crate::net::handshake::{Admission, Hello, judge};
use crate::net::latency::LatencyTracker;
use crate::net::peers::NodeStamps;
use crate::net::transport::PeerService;
use crate::types::NodeId;

/// How far the transport has come on its way out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Phase {
    Running,
    Draining,
    Closed,
}

/// What the tasks of one transport share.
pub(super) struct Shared {
    pub(super) env: Env,
    pub(super) options: TcpOptions,
    pub(super) stamps: Arc<NodeStamps>,
    pub(super) admission: Arc<dyn Admission>,
    pub(super) service: OnceLock<Arc<dyn PeerService>>,
    pub(super) latency: LatencyTracker,
    peers: Mutex<BTreeMap<NodeId, Arc<Peer>>>,
    loads: Mutex<BTreeMap<NodeId, Arc<Load>>>,
    pub(super) inbound: Mutex<BTreeMap<u64, Inbound>>,
    next_inbound: AtomicU64,
    phase: watch::Sender<Phase>,
    /// Past [`Phase::Running`]; asked with every call.
    stopping: AtomicBool,
    /// Rung, while draining, whenever something has ended.
    settled: Notify,
    pub(super) counters: Counters,
    garbage_log: LogGate,
    pub(super) refusal_log: LogGate,
}

#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) accepted: AtomicU64,
    pub(super) dropped: AtomicU64,
    pub(super) refused: AtomicU64,
    pub(super) garbage: AtomicU64,
    pub(super) requests: AtomicU64,
    pub(super) serving: AtomicUsize,
    pub(super) overloaded: AtomicU64,
    pub(super) late: AtomicU64,
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    pub(super) fn new(
        env: Env,
        options: TcpOptions,
        stamps: Arc<NodeStamps>,
        admission: Arc<dyn Admission>,
    ) -> Self {
        Self {
            env,
            options,
            stamps,
            admission,
            service: OnceLock::new(),
            latency: LatencyTracker::new(),
            peers: Mutex::default(),
            loads: Mutex::default(),
            inbound: Mutex::default(),
            next_inbound: AtomicU64::new(0),
            phase: watch::Sender::new(Phase::Running),
            stopping: AtomicBool::new(false),
            settled: Notify::new(),
            counters: Counters::default(),
            garbage_log: LogGate::default(),
            refusal_log: LogGate::default(),
        }
    }

    pub(super) fn peer(&self, node: NodeId) -> Option<Arc<Peer>> {
        lock(&self.peers).get(&node).cloned()
    }

    pub(super) fn peer_or_new(&self, node: NodeId) -> Arc<Peer> {
        let limits = PeerLimits {
            inflight: self.options.max_inflight_per_peer,
            silent_inflight: self.options.max_silent_inflight_per_peer,
            bytes: self.options.max_queued_bytes_per_peer,
            min_backoff: self.options.min_backoff,
            max_backoff: self.options.max_backoff,
        };
        let mut peers = lock(&self.peers);
        peers.entry(node).or_insert_with(|| Arc::new(Peer::new(node, limits))).clone()
    }

    pub(super) fn load_of(&self, node: NodeId) -> Arc<Load> {
        lock(&self.loads).entry(node).or_default().clone()
    }

    /// May this node talk to the one that says `theirs`?
    pub(super) fn meet(&self, ours: &Hello, theirs: &Hello) -> Result<(), String> {
        judge(ours, theirs)?;
        self.admission.admit(theirs)?;
        Ok(())
    }

    /// Gives up the connections with every other process of `node` than the one just met.
    pub(super) fn supersede(&self, node: NodeId, identity: Identity) {
        if let Some(peer) = self.peer(node) {
            peer.close_unless(identity);
        }
        for inbound in lock(&self.inbound).values() {
            if inbound.node == node && inbound.identity != identity {
                inbound.closer.close("the node has started anew");
            }
        }
    }

    pub(super) fn register(&self, inbound: Inbound) -> u64 {
        let id = self.next_inbound.fetch_add(1, Ordering::Relaxed);
        lock(&self.inbound).insert(id, inbound);
        id
    }

    pub(super) fn unregister(&self, id: u64) {
        lock(&self.inbound).remove(&id);
    }

    pub(super) fn report_garbage(
        &self,
        from: SocketAddr,
        peer: Option<NodeId>,
        error: &CodecError,
    ) {
        self.counters.garbage.fetch_add(1, Ordering::Relaxed);
        if let Some(held_back) = self.garbage_log.pass(self.env.mono()) {
            let peer = peer.map(|node| node.to_string());
            tracing::warn!(%from, peer, %error, held_back, "garbage on the peer port");
        }
    }

    pub(super) fn enter(&self, phase: Phase) {
        self.stopping.store(true, Ordering::SeqCst);
        self.phase.send_if_modified(|current| {
            let later = *current < phase;
            *current = phase.max(*current);
            later
        });
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }

    /// Waits until `phase` or a later one has come.
    pub(super) async fn phase(&self, phase: Phase) {
        // An error would mean that the sender, which `self` holds, is gone.
        let _ = self.phase.subscribe().wait_for(|current| *current >= phase).await;
    }

    /// Something under way has ended; tells a shutdown that waits for it.
    pub(super) fn settle(&self) {
        if self.is_stopping() {
            self.settled.notify_waiters();
        }
    }

    /// Waits until nothing is under way in either direction.
    pub(super) async fn drained(&self) {
        loop {
            let mut settled = std::pin::pin!(self.settled.notified());
            settled.as_mut().enable();
            if !self.is_busy() {
                return;
            }
            settled.await;
        }
    }

    pub(super) fn is_busy(&self) -> bool {
        self.counters.serving.load(Ordering::Acquire) > 0
            || lock(&self.peers).values().any(|peer| peer.in_flight() > 0)
            || lock(&self.inbound).values().any(|inbound| inbound.caller.unwritten() > 0)
    }

    pub(super) fn stats(&self) -> TransportStats {
        let peers: Vec<Arc<Peer>> = lock(&self.peers).values().cloned().collect();
        let mut stats: Vec<PeerStats> = peers.iter().filter_map(|peer| peer.stats()).collect();
        for peer in &mut stats {
            peer.reads = self.latency.estimate(peer.node);
        }
        let counters = &self.counters;
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        TransportStats {
            peers: stats,
            inbound: InboundStats {
                connections: lock(&self.inbound).len(),
                accepted: count(&counters.accepted),
                dropped: count(&counters.dropped),
                refused: count(&counters.refused),
                garbage: count(&counters.garbage),
                requests: count(&counters.requests),
                in_flight: counters.serving.load(Ordering::Relaxed),
                overloaded: count(&counters.overloaded),
                late: count(&counters.late),
            },
        }
    }
}
