//! Between nodes: what they say ([`messages`]), and how it gets there ([`Transport`]).
//!
//! A [`Transport`] moves one framed request to one node and brings back its answer, or says what
//! is known of its fate ([`CallError`]). Production speaks TCP; the simulator delivers in memory,
//! through the same codec. [`Peers`] sits on top: it stamps every request with the sender's epoch
//! and clock (law L5) and short-cuts calls to the node itself, so that a local replica is one
//! more replica, reached without a wire.

pub mod codec;
pub mod handshake;
pub mod latency;
pub mod messages;
pub mod paxos;
mod peers;
pub mod purge;
mod tcp;
mod transport;
pub mod trees;

pub use codec::CodecError;
pub use handshake::{Admission, Hello, PROTOCOL};
pub use latency::{LatencyEstimate, LatencyTracker};
pub use messages::{Header, Refusal, Request, Response};
pub use peers::{NodeStamps, Peers};
pub use tcp::{InboundStats, PeerStats, TcpOptions, TcpTransport, TransportError, TransportStats};
pub use transport::{CallError, PeerService, Transport};
