//! The gossip loop.

use std::sync::Arc;

use crate::cluster::Cluster;
use crate::gossip::Message;
use crate::net::{CallError, Request, Response};
use crate::types::NodeId;

impl Cluster {
    /// One beat per interval, for ever.
    pub(super) async fn beat(self: &Arc<Self>) {
        loop {
            let now = self.env.mono();
            let random = self.env.random("gossip");
            let mark = self.own_mark();
            let messages = {
                let mut gossip = self.gossip();
                gossip.set_mark(mark);
                gossip.tick(now, random)
            };
            for (node, message) in messages {
                let task = self.clone();
                self.env.spawn("gossip-exchange", async move {
                    task.exchange(node, message).await;
                });
            }
            let ahead = self.gossip().ahead();
            if let Some(&(_, epoch)) = ahead.first() {
                let task = self.clone();
                let deadline = now + self.config.gossip.interval * 4;
                self.env.spawn("catch-up", async move {
                    task.catch_up(epoch, deadline).await;
                });
            }
            self.env.sleep(self.config.gossip.interval).await;
        }
    }

    /// One three-way exchange with `node`.
    async fn exchange(self: &Arc<Self>, node: NodeId, message: Message) {
        let mut next = Some(message);
        while let Some(message) = next.take() {
            let deadline = self.env.mono() + self.config.gossip.interval * 4;
            let request = Request::Gossip(message.encode().into());
            match self.peers.call(node, request, deadline).await {
                Ok(Response::Gossip(reply)) => {
                    let now = self.env.mono();
                    let mut gossip = self.gossip();
                    gossip.heard_from(node, now);
                    next = reply
                        .and_then(|bytes| Message::decode(&bytes).ok())
                        .and_then(|reply| gossip.on_message(node, reply, now));
                }
                Ok(_) => {}
                Err(CallError::NotSent { unreachable: true, .. }) => {
                    let now = self.env.mono();
                    self.gossip().unreachable(node, now);
                }
                // That this node is too busy to ask says nothing about the other.
                Err(CallError::NotSent { .. } | CallError::Lost { .. }) => {}
            }
        }
    }

    /// Answers a gossip message.
    pub fn handle_gossip(&self, from: NodeId, bytes: &[u8]) -> Response {
        let now = self.env.mono();
        let reply = Message::decode(bytes)
            .ok()
            .and_then(|message| self.gossip().on_message(from, message, now));
        Response::Gossip(reply.map(|message| message.encode().into()))
    }
}
