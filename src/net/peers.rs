//! Calls to any node of the cluster, this one included.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::task::Poll;

use crate::env::{BoxFuture, Env, HlcClock};
use crate::net::messages::{Header, Request, Response};
use crate::net::transport::{CallError, PeerService, Transport};
use crate::types::{Epoch, Hlc, Mono, NodeId};

/// The two numbers that every message carries: the node's epoch and its hybrid clock.
#[derive(Debug)]
pub struct NodeStamps {
    /// The node's hybrid clock.
    pub clock: HlcClock,
    epoch: AtomicU64,
}

impl NodeStamps {
    /// Stamps of a node that knows no epoch yet.
    #[must_use]
    pub fn new(clock: HlcClock) -> Self {
        Self { clock, epoch: AtomicU64::new(0) }
    }

    /// The newest epoch that this node has applied.
    pub fn epoch(&self) -> Epoch {
        Epoch(self.epoch.load(Ordering::Acquire))
    }

    /// Publishes a newer epoch. Never goes back.
    pub fn advance(&self, epoch: Epoch) {
        self.epoch.fetch_max(epoch.0, Ordering::AcqRel);
    }
}

/// Calls nodes by id. Cheap to clone.
#[derive(Clone)]
pub struct Peers {
    inner: Arc<Inner>,
}

struct Inner {
    me: NodeId,
    env: Env,
    stamps: Arc<NodeStamps>,
    transport: Arc<dyn Transport>,
    /// Not held: the service holds what calls its peers, and a node that was dropped must go.
    local: OnceLock<Weak<dyn PeerService>>,
}

impl std::fmt::Debug for Peers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Peers").field("me", &self.inner.me).finish_non_exhaustive()
    }
}

impl Peers {
    /// Peers of the node `me`. [`Peers::set_local`] must follow before the first call to itself.
    #[must_use]
    pub fn new(
        me: NodeId,
        env: Env,
        stamps: Arc<NodeStamps>,
        transport: Arc<dyn Transport>,
    ) -> Self {
        Self { inner: Arc::new(Inner { me, env, stamps, transport, local: OnceLock::new() }) }
    }

    /// Names the service that answers calls to the node itself, as long as somebody holds it. Only
    /// the first call counts.
    pub fn set_local(&self, service: &Arc<dyn PeerService>) {
        let _ = self.inner.local.set(Arc::downgrade(service));
    }

    /// The node itself.
    #[must_use]
    pub fn me(&self) -> NodeId {
        self.inner.me
    }

    /// The node's epoch and clock.
    #[must_use]
    pub fn stamps(&self) -> &Arc<NodeStamps> {
        &self.inner.stamps
    }

    /// Tells where `node` listens for peers.
    pub fn set_address(&self, node: NodeId, address: &str) {
        if node != self.inner.me {
            self.inner.transport.set_address(node, address);
        }
    }

    /// Sends `request` to `to`, this node or another, stamped with this node's present epoch and
    /// clock. The answer's clock has been observed when the future completes.
    pub fn call(
        &self,
        to: NodeId,
        request: Request,
        deadline: Mono,
    ) -> BoxFuture<'static, Result<Response, CallError>> {
        self.call_at(self.inner.stamps.epoch(), to, request, deadline)
    }

    /// Like [`Peers::call_at`], if `to` is this node and has the answer at hand, as it has for most
    /// reads: no future, no timer and no stamp is made for it.
    ///
    /// # Errors
    /// The request, for [`Peers::call_at`].
    #[expect(clippy::result_large_err, reason = "handed back as it came, without an allocation")]
    pub fn call_here_at(
        &self,
        epoch: Epoch,
        to: NodeId,
        request: Request,
        deadline: Mono,
    ) -> Result<Response, Request> {
        match self.inner.local.get().and_then(Weak::upgrade) {
            Some(local) if to == self.inner.me => {
                let budget_ms = budget_ms(deadline, self.inner.env.mono());
                local.serve_here(Header { epoch, hlc: Hlc(0), budget_ms }, request)
            }
            _ => Err(request),
        }
    }

    /// Like [`Peers::call`], for an operation that was planned at `epoch`: the plan is fixed once
    /// per operation, and a replica must judge it by the epoch it was made in.
    pub fn call_at(
        &self,
        epoch: Epoch,
        to: NodeId,
        request: Request,
        deadline: Mono,
    ) -> BoxFuture<'static, Result<Response, CallError>> {
        let inner = self.inner.clone();
        let budget_ms = budget_ms(deadline, inner.env.mono());
        let header = Header { epoch, hlc: inner.stamps.clock.now(), budget_ms };
        if to == inner.me {
            let Some(local) = inner.local.get().and_then(Weak::upgrade) else {
                let why = "the node is starting or stopping".to_owned();
                return Box::pin(async { Err(CallError::NotSent { why, unreachable: false }) });
            };
            let needs_task = !survives_abandonment(&request);
            let work = local.serve(inner.me, header, request);
            return Box::pin(
                async move { serve_here(&inner.env, work, deadline, needs_task).await },
            );
        }
        let answer = inner.transport.call(to, header, request, deadline);
        Box::pin(async move {
            let (header, response) = answer.await?;
            if let Err(ahead) = inner.stamps.clock.observe(header.hlc) {
                tracing::warn!(peer = %to, %ahead, "ignored a peer's clock");
            }
            Ok(response)
        })
    }
}

/// The time left, as a header says it.
fn budget_ms(deadline: Mono, now: Mono) -> u32 {
    u32::try_from(deadline.since(now).as_millis()).unwrap_or(u32::MAX)
}

/// True of requests whose change, once begun, is in the committer's hands before anything is waited
/// for: whoever stops waiting, or is dropped, does not take it back.
fn survives_abandonment(request: &Request) -> bool {
    matches!(
        request,
        Request::Mint(_) | Request::Apply(_) | Request::ApplyRows(_) | Request::Count(_)
    )
}

/// A node's call to itself keeps the promises of any other: it ends at its deadline, and whoever
/// abandons it does not stop the work. What is answered at once costs no task, nor does what goes
/// on by itself.
async fn serve_here(
    env: &Env,
    mut work: BoxFuture<'static, Response>,
    deadline: Mono,
    needs_task: bool,
) -> Result<Response, CallError> {
    let at_once = std::future::poll_fn(|cx| Poll::Ready(work.as_mut().poll(cx))).await;
    if let Poll::Ready(response) = at_once {
        return Ok(response);
    }
    let lost = |why: &str| CallError::Lost { why: why.to_owned() };
    let left = deadline.since(env.mono());
    let done = if needs_task {
        env.timeout(left, env.run("serve-here", work)).await
    } else {
        env.timeout(left, work).await.map(Some)
    };
    match done {
        Ok(Some(response)) => Ok(response),
        Ok(None) => Err(lost("the node is stopping")),
        Err(_) => Err(lost("no answer in time")),
    }
}
