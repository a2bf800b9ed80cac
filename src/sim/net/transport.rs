//! A node's handle on the network.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::oneshot;

use super::{SimNet, State};
use crate::env::{BoxFuture, Env};
use crate::net::codec::{self, DEFAULT_MAX_PAYLOAD_BYTES};
use crate::net::{CallError, Header, PeerService, Request, Response, Transport};
use crate::types::{Mono, NodeId};

/// Calls to one peer under way; one more is refused.
const MAX_CALLS_PER_PEER: usize = 1_024;

/// What a call ends with.
pub(super) type Outcome = Result<(Header, Response), CallError>;

pub(super) struct PendingCall {
    callee: NodeId,
    /// The frame, while it waits for a handshake.
    unsent: Option<Bytes>,
    answer: oneshot::Sender<Outcome>,
}

impl State {
    pub(super) fn keep_frame(&mut self, caller: NodeId, stream: u64, frame: Bytes) {
        let port = self.ports.get_mut(&caller);
        if let Some(call) = port.and_then(|port| port.pending.get_mut(&stream)) {
            call.unsent = Some(frame);
        }
    }

    pub(super) fn take_frame(&mut self, caller: NodeId, stream: u64) -> Option<Bytes> {
        self.ports.get_mut(&caller)?.pending.get_mut(&stream)?.unsent.take()
    }

    pub(super) fn finish(&mut self, caller: NodeId, stream: u64, outcome: Outcome) {
        let port = self.ports.get_mut(&caller);
        if let Some(call) = port.and_then(|port| port.pending.remove(&stream)) {
            let _ = call.answer.send(outcome);
        }
    }

    /// Ends all calls to `callee` whose frames have left.
    pub(super) fn lose_calls(&mut self, caller: NodeId, callee: NodeId, why: &str) {
        let Some(port) = self.ports.get_mut(&caller) else { return };
        let gone = |call: &PendingCall| call.callee == callee && call.unsent.is_none();
        let streams: Vec<u64> =
            port.pending.iter().filter(|(_, call)| gone(call)).map(|(s, _)| *s).collect();
        for stream in streams {
            self.finish(caller, stream, Err(CallError::Lost { why: why.to_owned() }));
        }
    }
}

/// The transport of one life of a node.
pub struct SimTransport {
    net: SimNet,
    me: NodeId,
    life: u64,
    env: Env,
}

impl std::fmt::Debug for SimTransport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SimTransport").field("me", &self.me).finish_non_exhaustive()
    }
}

impl SimTransport {
    pub(super) fn new(net: SimNet, me: NodeId, life: u64, env: Env) -> Self {
        Self { net, me, life, env }
    }

    /// Names the service that answers peers. Only the first call counts.
    pub fn set_service(&self, service: Arc<dyn PeerService>) {
        let mut state = self.net.state();
        let port = state.ports.get_mut(&self.me).filter(|port| port.life == self.life);
        if let Some(port) = port {
            port.service.get_or_insert(service);
        }
    }
}

impl Transport for SimTransport {
    fn call(
        &self,
        to: NodeId,
        header: Header,
        request: Request,
        deadline: Mono,
    ) -> BoxFuture<'static, Outcome> {
        let (net, me, life, env) = (self.net.clone(), self.me, self.life, self.env.clone());
        Box::pin(async move {
            let left = deadline.since(env.mono());
            if left.is_zero() {
                return Err(not_sent("the deadline had passed"));
            }
            let (waiting, answer) = Waiting::begin(net, me, life, to, &header, &request)?;
            drop(request);
            match env.timeout(left, answer).await {
                Ok(Ok(outcome)) => outcome,
                Ok(Err(_)) => Err(CallError::Lost { why: "the node stopped".to_owned() }),
                Err(_) => Err(waiting.expire()),
            }
        })
    }

    /// Nodes find each other by id here.
    fn set_address(&self, _node: NodeId, _address: &str) {}
}

fn not_sent(why: &str) -> CallError {
    CallError::NotSent { why: why.to_owned(), unreachable: false }
}

/// A call under way, whose future may be dropped at any time.
struct Waiting {
    net: SimNet,
    me: NodeId,
    life: u64,
    stream: u64,
}

impl Waiting {
    fn begin(
        net: SimNet,
        me: NodeId,
        life: u64,
        to: NodeId,
        header: &Header,
        request: &Request,
    ) -> Result<(Self, oneshot::Receiver<Outcome>), CallError> {
        let (sender, answer) = oneshot::channel();
        let stream = {
            let mut state = net.state();
            let stream = state.number();
            let Some(port) = state.ports.get_mut(&me).filter(|port| port.life == life) else {
                return Err(not_sent("the node is stopping"));
            };
            let under_way = port.pending.values().filter(|call| call.callee == to).count();
            if under_way >= MAX_CALLS_PER_PEER {
                return Err(not_sent("too many calls to that node are under way"));
            }
            let call = PendingCall { callee: to, unsent: None, answer: sender };
            port.pending.insert(stream, call);
            stream
        };
        let waiting = Self { net, me, life, stream };
        let frame = codec::encode_request(stream, header, request, DEFAULT_MAX_PAYLOAD_BYTES)
            .map_err(|error| not_sent(&error.to_string()))?;
        waiting.net.enqueue(me, to, stream, frame)?;
        Ok((waiting, answer))
    }

    /// What is known of the call when its time is over.
    fn expire(&self) -> CallError {
        let state = self.net.state();
        let port = state.port(self.me, self.life);
        let call = port.and_then(|port| port.pending.get(&self.stream));
        match call {
            Some(PendingCall { unsent: Some(_), .. }) => not_sent("no connection in time"),
            Some(_) | None => CallError::Lost { why: "no answer in time".to_owned() },
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let mut state = self.net.state();
        let port = state.ports.get_mut(&self.me).filter(|port| port.life == self.life);
        let call = port.and_then(|port| port.pending.remove(&self.stream));
        drop(state);
        drop(call);
    }
}
