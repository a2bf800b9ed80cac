//! The seam between protocol code and the network.

use crate::env::BoxFuture;
use crate::net::messages::{Header, Request, Response};
use crate::types::{Mono, NodeId};

/// What is known of a call that brought no answer. The difference decides what a client may be
/// told (law L8).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// No byte of the request left this node: it will not take effect.
    #[error("not sent: {why}")]
    NotSent {
        /// No route, connection refused, queue full.
        why: String,
        /// There is no connection to the node, and none could be made. False where the reason is
        /// this node's own: a bound that was met, a deadline, its stop.
        unreachable: bool,
    },
    /// The request may have arrived and may yet take effect.
    #[error("no answer: {why}")]
    Lost {
        /// Connection broken, deadline passed, answer garbled.
        why: String,
    },
}

/// Moves requests to nodes. Bounded: at most a configured number of calls and bytes per peer are
/// under way, and a call beyond that is [`CallError::NotSent`] at once.
pub trait Transport: Send + Sync + 'static {
    /// Sends `request` to `to` and waits for the answer until `deadline` of this node's clock.
    /// Dropping the future abandons the answer; it does not recall the request.
    fn call(
        &self,
        to: NodeId,
        header: Header,
        request: Request,
        deadline: Mono,
    ) -> BoxFuture<'static, Result<(Header, Response), CallError>>;

    /// Tells where `node` listens for peers (`host:port`). Later calls replace earlier ones.
    fn set_address(&self, node: NodeId, address: &str);
}

/// Answers other nodes. Implemented by the node's wiring, called by transports.
pub trait PeerService: Send + Sync + 'static {
    /// Answers one request. `from` has been authenticated by the transport's handshake.
    fn serve(&self, from: NodeId, header: Header, request: Request)
    -> BoxFuture<'static, Response>;

    /// Answers a request of this node itself, if that takes no waiting; else hands it back, to be
    /// given to [`PeerService::serve`]. The header's clock is the node's own: nothing to observe.
    ///
    /// # Errors
    /// The request, untouched.
    #[expect(clippy::result_large_err, reason = "handed back as it came, without an allocation")]
    fn serve_here(&self, _header: Header, request: Request) -> Result<Response, Request> {
        Err(request)
    }
}
