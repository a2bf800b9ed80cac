//! What can be set about the transport, and what it counts.

use std::time::Duration;

use crate::net::codec::DEFAULT_MAX_PAYLOAD_BYTES;
use crate::net::latency::LatencyEstimate;
use crate::types::NodeId;

/// Settings of a [`TcpTransport`](super::TcpTransport). Every queue has its bound here.
#[derive(Clone, Debug)]
pub struct TcpOptions {
    /// Where to listen for peers (`host:port`; port 0 takes any free one).
    pub listen: String,
    /// The largest frame that is sent or accepted, without its head. The same on all nodes, and
    /// above the largest record.
    pub max_frame_bytes: usize,
    /// Calls to one peer that may be without an answer; more are not sent. Also how many requests
    /// of one peer are served at a time; more are refused as overload.
    pub max_inflight_per_peer: usize,
    /// The same, of calls only, while the peer has answered none for half a second.
    pub max_silent_inflight_per_peer: usize,
    /// Bytes of calls to one peer that may be without an answer; also the bytes of one peer's
    /// requests that are being served. A single frame may always go.
    pub max_queued_bytes_per_peer: usize,
    /// Connections that peers may hold open here.
    pub max_connections: usize,
    /// Connections that may be in the handshake at a time; more are dropped unheard.
    pub max_handshakes: usize,
    /// Time for name lookup and connecting.
    pub connect_timeout: Duration,
    /// Time for the hellos.
    pub handshake_timeout: Duration,
    /// First pause after a failed attempt to connect; doubles up to [`TcpOptions::max_backoff`].
    pub min_backoff: Duration,
    /// Longest pause between attempts to connect.
    pub max_backoff: Duration,
    /// A caller that hears nothing for this long asks, and gives the connection up after as long
    /// again. A callee gives it up after four times as long. The same on all nodes.
    pub keepalive: Duration,
}

impl Default for TcpOptions {
    fn default() -> Self {
        Self {
            listen: "127.0.0.1:7000".to_owned(),
            max_frame_bytes: DEFAULT_MAX_PAYLOAD_BYTES,
            max_inflight_per_peer: 16_384,
            max_silent_inflight_per_peer: 128,
            max_queued_bytes_per_peer: 64 << 20,
            max_connections: 1024,
            max_handshakes: 256,
            connect_timeout: Duration::from_secs(1),
            handshake_timeout: Duration::from_secs(2),
            min_backoff: Duration::from_millis(50),
            max_backoff: Duration::from_secs(1),
            keepalive: Duration::from_secs(5),
        }
    }
}

/// What the transport has done so far, for `/metrics`. Counters only grow.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TransportStats {
    /// Calls to each peer that has an address.
    pub peers: Vec<PeerStats>,
    /// Calls from peers.
    pub inbound: InboundStats,
}

/// Calls to one peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerStats {
    /// The peer.
    pub node: NodeId,
    /// Where it listens.
    pub address: String,
    /// A connection stands.
    pub connected: bool,
    /// Calls begun.
    pub calls: u64,
    /// Calls that brought an answer.
    pub answered: u64,
    /// Calls of which no byte was sent.
    pub not_sent: u64,
    /// Calls that were sent and brought no answer, or none in time.
    pub lost: u64,
    /// Calls that were sent and whose caller then lost interest (the slower of two hedged reads).
    pub abandoned: u64,
    /// Calls without an answer now.
    pub in_flight: usize,
    /// Bytes that wait to be written now.
    pub queued_bytes: usize,
    /// Connections made.
    pub connects: u64,
    /// Attempts that failed.
    pub connect_failures: u64,
    /// Answers that nobody waited for any more.
    pub late_answers: u64,
    /// Connections given up because the peer sent garbage.
    pub garbage: u64,
    /// Moving average of the time to an answer, of every kind of call; zero before the first.
    pub mean_answer: Duration,
    /// Recent answer times of reads alone (writes wait for a disk); `None` until there are enough.
    pub reads: Option<LatencyEstimate>,
}

/// Calls from all peers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct InboundStats {
    /// Connections past their handshake now.
    pub connections: usize,
    /// Connections accepted.
    pub accepted: u64,
    /// Connections dropped unheard because there were too many.
    pub dropped: u64,
    /// Handshakes that were refused, by either side.
    pub refused: u64,
    /// Connections that ended in garbage.
    pub garbage: u64,
    /// Requests received.
    pub requests: u64,
    /// Requests being served now.
    pub in_flight: usize,
    /// Requests refused because too many were being served.
    pub overloaded: u64,
    /// Requests refused because no time was left.
    pub late: u64,
}
