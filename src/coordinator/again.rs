//! Calls of which nothing has left this node.
//!
//! The link to a replica may be down for a moment only: the replica has just been started, or its
//! connection has just been cut. While another one is frozen, or gone for good, its answer is the
//! one that makes the quorum; so such a call is made again for a while. Nothing was sent, so nothing
//! can happen twice (law L8). A call that was sent is never repeated here.

use std::time::Duration;

use crate::coordinator::Inner;
use crate::coordinator::plan::Plan;
use crate::net::{CallError, Request, Response};
use crate::types::{Mono, NodeId};

/// Between two attempts.
pub(super) const PAUSE: Duration = Duration::from_millis(50);

/// How long an operation tries. Longer than the longest pause of a transport between its attempts
/// to connect, and short for a client that is to hear that too few replicas can be reached.
const TRY_FOR: Duration = Duration::from_secs(2);

/// Whether nothing of a call has left this node, for a reason that may be over in a moment. Not if
/// the reason is a bound of this node's own: what waits for the replica is enough already.
pub(super) fn is_worth_another(result: &Result<Response, CallError>) -> bool {
    matches!(result, Err(CallError::NotSent { unreachable: true, .. }))
}

impl Inner {
    /// Whether a call to `node` that was not sent is to be made again after a [`PAUSE`]; `begun` is
    /// the time of the first attempt.
    pub(super) fn may_try_again(&self, plan: &Plan, node: NodeId, begun: Mono) -> bool {
        let next = self.env.mono() + PAUSE;
        next < plan.deadline && next < begun + TRY_FOR && self.cluster.is_live(node)
    }

    /// Calls a replica, again for a while as long as nothing is sent.
    pub(super) async fn call_until_sent(
        &self,
        plan: &Plan,
        node: NodeId,
        request: Request,
    ) -> Result<Response, CallError> {
        let begun = self.env.mono();
        loop {
            let call = self.peers.call_at(plan.epoch, node, request.clone(), plan.deadline);
            let result = call.await;
            if !is_worth_another(&result) || !self.may_try_again(plan, node, begun) {
                return result;
            }
            self.env.sleep(PAUSE).await;
        }
    }
}
