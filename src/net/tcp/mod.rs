//! Peers over TCP.
//!
//! A node opens one connection to each peer that it calls, when it first calls it, and sends
//! requests on it only; the peer's own requests come over the connection that the peer opens. All
//! calls to a peer share its connection: each has a stream number, answers come in any order. Each
//! end of a connection is one task that drives a reader and a writer. The writer takes all that
//! waits for one write, so that the more there is to do, the less each call costs.
//!
//! ```text
//! call → queue → write …… read → serve ─(ready at once)→ queue → write …… read → answer
//!        peer.rs  link.rs        inbound.rs └(task)────↗                  link.rs
//! ```
//!
//! **What a failed call means** is settled in [`peer`]. Nothing is ever sent twice: a repetition
//! is the coordinator's to decide, who knows the operation's id (R07 of the test plan: a
//! retransmission inside the transport has turned one write into two elsewhere).
//!
//! **Pauses.** After a failed attempt the next one waits 50 ms, then twice as long each time up
//! to a second, less a random part of up to a half. Calls in the meantime fail at once, as not
//! sent, so that the coordinator turns to another replica. A pause ends at once when the peer connects to
//! this node, or is said to be elsewhere. There is no attempt without a call.
//!
//! **Deadlines** travel as remaining time, taken when the call is made. A frame that waits for a
//! connection arrives with that much too long a budget (at most the connect timeout); the caller
//! has by then taken its own deadline as met or missed.
//!
//! Left out: several connections per peer, cutting large frames into pieces (a small frame waits
//! for at most one large one), compression, and a source address of one's own.

mod caller;
mod closer;
mod greet;
mod inbound;
mod link;
mod options;
mod peer;
mod shared;
mod wire;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::net::TcpListener;

use crate::env::{BoxFuture, Env};
use crate::net::codec;
use crate::net::handshake::Admission;
use crate::net::latency::LatencyEstimate;
use crate::net::messages::{Header, Request};
use crate::net::peers::NodeStamps;
use crate::net::transport::{CallError, PeerService, Transport};
use crate::types::{Mono, NodeId};
use peer::{Outcome, Peer};
use shared::{Phase, Shared};

pub use options::{InboundStats, PeerStats, TcpOptions, TransportStats};

/// The transport cannot start.
#[derive(Debug, thiserror::Error)]
pub enum TransportError {
    /// The port cannot be had.
    #[error("cannot listen for peers on {address}: {error} (see listen.peer)")]
    Listen {
        /// What was asked for.
        address: String,
        /// Why not.
        error: std::io::Error,
    },
}

/// Calls peers over TCP and serves theirs. Dropping it closes every connection.
pub struct TcpTransport {
    shared: Arc<Shared>,
    local_addr: SocketAddr,
}

impl std::fmt::Debug for TcpTransport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TcpTransport").field("local_addr", &self.local_addr).finish_non_exhaustive()
    }
}

impl TcpTransport {
    /// Begins to listen. Peers are turned away until [`TcpTransport::set_service`].
    ///
    /// # Errors
    /// [`TransportError::Listen`].
    pub async fn start(
        env: Env,
        options: TcpOptions,
        stamps: Arc<NodeStamps>,
        admission: Arc<dyn Admission>,
    ) -> Result<Arc<Self>, TransportError> {
        let failed = |error| TransportError::Listen { address: options.listen.clone(), error };
        let listener = TcpListener::bind(options.listen.as_str()).await.map_err(failed)?;
        let local_addr = listener.local_addr().map_err(failed)?;
        let shared = Arc::new(Shared::new(env, options, stamps, admission));
        shared.env.spawn("peer listener", inbound::listen(shared.clone(), listener));
        Ok(Arc::new(Self { shared, local_addr }))
    }

    /// Names the service that answers peers. Only the first call counts.
    pub fn set_service(&self, service: Arc<dyn PeerService>) {
        let _ = self.shared.service.set(service);
    }

    /// Where peers are listened for; tells the port when port 0 was asked for.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// How fast `node` has answered reads of late; for hedging.
    #[must_use]
    pub fn latency(&self, node: NodeId) -> Option<LatencyEstimate> {
        self.shared.latency.estimate(node)
    }

    /// What has been done so far.
    #[must_use]
    pub fn stats(&self) -> TransportStats {
        self.shared.stats()
    }

    /// Accepts no more connections, calls and requests, waits until all that is under way in
    /// either direction has ended or `deadline` has come, and closes every connection.
    pub async fn shutdown(&self, deadline: Mono) {
        let shared = &self.shared;
        shared.enter(Phase::Draining);
        let left = deadline.since(shared.env.mono());
        let drained = shared.env.timeout(left, shared.drained()).await;
        if drained.is_err() {
            let in_flight = shared.counters.serving.load(Ordering::Relaxed);
            tracing::warn!(in_flight, "peers' requests were still under way at the end");
        }
        shared.enter(Phase::Closed);
    }
}

impl Drop for TcpTransport {
    fn drop(&mut self) {
        self.shared.enter(Phase::Closed);
    }
}

impl Transport for TcpTransport {
    fn call(
        &self,
        to: NodeId,
        header: Header,
        request: Request,
        deadline: Mono,
    ) -> BoxFuture<'static, Outcome> {
        Box::pin(call(self.shared.clone(), to, header, request, deadline))
    }

    fn set_address(&self, node: NodeId, address: &str) {
        self.shared.peer_or_new(node).set_address(address);
    }
}

async fn call(
    shared: Arc<Shared>,
    to: NodeId,
    header: Header,
    request: Request,
    deadline: Mono,
) -> Outcome {
    let not_sent = |why: &str| CallError::NotSent { why: why.to_owned(), unreachable: false };
    let Some(peer) = shared.peer(to) else {
        return Err(not_sent("no address of that node is known"));
    };
    let now = shared.env.mono();
    peer.begin(now)?;
    if shared.is_stopping() {
        return Err(peer.give_up(not_sent("the node is stopping")));
    }
    if deadline <= now {
        return Err(peer.give_up(not_sent("the deadline had passed")));
    }
    let stream = peer.new_stream();
    let is_read = matches!(request, Request::Read(_));
    let max = shared.options.max_frame_bytes;
    let frame = codec::encode_request(stream, &header, &request, max)
        .map_err(|error| peer.give_up(not_sent(&error.to_string())))?;
    drop(request);
    let accepted = peer.enqueue(now, stream, frame, is_read)?;
    if accepted.must_connect {
        shared.env.spawn("peer link", link::run(shared.clone(), peer.clone()));
    }
    let mut waiting = Waiting { shared: &shared, peer: &peer, stream, is_over: false };
    tokio::select! {
        biased;
        outcome = accepted.answer => {
            waiting.is_over = true;
            // The sender is only dropped with the whole transport.
            outcome.unwrap_or_else(|_| Err(CallError::Lost { why: "the node stopped".to_owned() }))
        }
        () = shared.env.sleep(deadline.since(now)) => {
            waiting.is_over = true;
            let error = peer.expire(stream);
            shared.settle();
            Err(error)
        }
    }
}

/// A call whose future may be dropped at any time.
struct Waiting<'a> {
    shared: &'a Shared,
    peer: &'a Peer,
    stream: u64,
    is_over: bool,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if !self.is_over {
            self.peer.abandon(self.stream);
            self.shared.settle();
        }
    }
}

#[cfg(test)]
mod tests;
