//! The calls of a reading under way, and what the snitch is told of each.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;

use crate::coordinator::Inner;
use crate::coordinator::snitch::End;
use crate::env::BoxFuture;
use crate::net::messages::Want;
use crate::net::{CallError, Refusal, Response};
use crate::types::{Mono, NodeId};

/// Who has answered, what it was asked for, and what it said.
pub(super) type Answer = (NodeId, Want, Result<Response, CallError>);

/// Calls under way. There are as many as a key has replicas: polling all of them whenever one has
/// news costs less than an account of which it is.
#[derive(Default)]
pub(super) struct Calls(Vec<BoxFuture<'static, Answer>>);

impl Calls {
    pub(super) fn push(&mut self, call: BoxFuture<'static, Answer>) {
        self.0.push(call);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The next answer; `None`: nothing is under way.
    pub(super) async fn next(&mut self) -> Option<Answer> {
        poll_fn(|cx| {
            for at in 0..self.0.len() {
                if let Poll::Ready(answer) = self.0[at].as_mut().poll(cx) {
                    drop(self.0.swap_remove(at));
                    return Poll::Ready(Some(answer));
                }
            }
            if self.is_empty() { Poll::Ready(None) } else { Poll::Pending }
        })
        .await
    }
}

/// A replica that was asked: what comes of it is told to the snitch, also if nobody waits for it.
pub(super) struct Asked {
    inner: Arc<Inner>,
    node: NodeId,
    started: Mono,
    end: End,
}

impl Asked {
    pub(super) fn new(inner: &Arc<Inner>, node: NodeId) -> Self {
        let started = inner.env.mono();
        inner.snitch.ask(started, node);
        Self { inner: inner.clone(), node, started, end: End::Unanswered }
    }

    pub(super) fn end(mut self, result: &Result<Response, CallError>) {
        self.end = match result {
            Ok(Response::Refused(Refusal::Overloaded { .. })) => End::Busy,
            Ok(Response::Refused(_)) => End::Refused,
            Ok(_) => End::Answered,
            Err(_) => End::NotSent,
        };
        self.inner.took(self.node, self.started, result);
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        let now = self.inner.env.mono();
        self.inner.snitch.end(now, self.node, now.since(self.started), self.end);
    }
}
