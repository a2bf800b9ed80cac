//! The network between simulated nodes: an in-memory [`Transport`] with a link model.
//!
//! Messages really are encoded and decoded, by the same codec as over TCP, and a frame in which
//! bits flipped must be refused by it. What lies between is this module: per directed link a
//! latency with a heavy tail, loss, duplication (copies of old messages up to a minute later),
//! blocks and clogs, cut connections.
//!
//! - Before two nodes talk, they shake hands, as over TCP: [`judge`] and both sides' [`Admission`]
//!   decide. A restarted node is a new life; what was under way to its old one is lost.
//! - A call that found no connection is [`CallError::NotSent`], like one that the peer refused.
//!   Once a frame was handed to a link, the call can only be answered or [`CallError::Lost`].
//! - In a **stream**, frames arrive in order or the connection breaks; while a link is blocked they
//!   wait, as TCP would send them again. As **datagrams**, each goes its own way, or none.
//!
//! Node code cannot tell any of this from a bad day of a real network. Left out: bandwidth.

mod link;
mod session;
#[cfg(test)]
mod tests;
mod transport;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::env::Env;
use crate::net::handshake::Admission;
use crate::net::{NodeStamps, PeerService};
use crate::sim::executor::{GroupId, MachineId, World};
use crate::sim::rng::Rng;
use crate::types::NodeId;

pub use link::{Delivery, LinkProfile};
pub use transport::SimTransport;

use link::Link;
use session::Session;
use transport::PendingCall;

/// What the network did so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct NetStats {
    /// Frames handed to a link.
    pub sent: u64,
    /// Frames that reached a living node.
    pub delivered: u64,
    /// Frames that did not.
    pub lost: u64,
    /// Second copies delivered.
    pub duplicated: u64,
    /// Frames with flipped bits, all of which the codec refused.
    pub corrupted: u64,
    /// Frames with flipped bits that the codec took for whole: must stay zero.
    pub undetected: u64,
    /// Connections that broke.
    pub cut: u64,
    /// Handshakes refused by a node.
    pub refused: u64,
}

/// A node's end of the network in one of its lives.
struct Port {
    life: u64,
    group: GroupId,
    machine: MachineId,
    env: Env,
    stamps: Arc<NodeStamps>,
    admission: Arc<dyn Admission>,
    service: Option<Arc<dyn PeerService>>,
    /// Calls of this life under way, by stream.
    pending: BTreeMap<u64, PendingCall>,
}

struct State {
    rng: Rng,
    delivery: Delivery,
    profile: LinkProfile,
    ports: BTreeMap<NodeId, Port>,
    links: BTreeMap<(NodeId, NodeId), Link>,
    /// By (caller, callee).
    sessions: BTreeMap<(NodeId, NodeId), Session>,
    /// Lives, sessions and streams share one counter, so that none is ever mistaken.
    next: u64,
    /// Streams of the mints that were served: each is, once.
    minted: BTreeSet<u64>,
    stats: NetStats,
}

impl State {
    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    fn link(&mut self, from: NodeId, to: NodeId) -> &mut Link {
        let profile = self.profile;
        self.links.entry((from, to)).or_insert_with(|| Link { profile, ..Link::default() })
    }

    fn port(&self, node: NodeId, life: u64) -> Option<&Port> {
        self.ports.get(&node).filter(|port| port.life == life)
    }
}

/// The network. Clones are the same network.
#[derive(Clone)]
pub struct SimNet {
    world: World,
    state: Arc<Mutex<State>>,
}

impl std::fmt::Debug for SimNet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SimNet")
    }
}

impl SimNet {
    /// A network whose links all have `profile`.
    #[must_use]
    pub fn new(world: &World, delivery: Delivery, profile: LinkProfile) -> Self {
        let state = State {
            rng: world.stream(0, "net"),
            delivery,
            profile,
            ports: BTreeMap::new(),
            links: BTreeMap::new(),
            sessions: BTreeMap::new(),
            next: 0,
            minted: BTreeSet::new(),
            stats: NetStats::default(),
        };
        Self { world: world.clone(), state: Arc::new(Mutex::new(state)) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Connects a life of `node` to the network; an earlier life's end is cut off. Peers are
    /// turned away until [`SimTransport::set_service`].
    pub fn attach(
        &self,
        node: NodeId,
        machine: MachineId,
        group: GroupId,
        env: Env,
        stamps: Arc<NodeStamps>,
        admission: Arc<dyn Admission>,
    ) -> Arc<SimTransport> {
        let mut state = self.state();
        let life = state.number();
        let port = Port {
            life,
            group,
            machine,
            env: env.clone(),
            stamps,
            admission,
            service: None,
            pending: BTreeMap::new(),
        };
        let old = state.ports.insert(node, port);
        state.sessions.retain(|(caller, _), _| *caller != node);
        drop(state);
        drop(old);
        Arc::new(SimTransport::new(self.clone(), node, life, env))
    }

    /// The node's process is gone. With `reset` its machine still answers with resets, so that
    /// callers learn of it (a killed process); else they hear nothing (power loss).
    pub fn detach(&self, node: NodeId, reset: bool) {
        let mut state = self.state();
        let old = state.ports.remove(&node);
        state.sessions.retain(|(caller, _), _| *caller != node);
        if reset {
            let broken: Vec<_> = state
                .sessions
                .iter()
                .filter(|((_, callee), _)| *callee == node)
                .map(|(pair, session)| (*pair, session.id))
                .collect();
            for ((caller, callee), id) in broken {
                self.reset_later(&mut state, caller, callee, id);
            }
        }
        drop(state);
        drop(old);
    }

    /// Gives every link, or one direction, another character.
    pub fn set_profile(&self, direction: Option<(NodeId, NodeId)>, profile: LinkProfile) {
        let mut state = self.state();
        match direction {
            Some((from, to)) => state.link(from, to).profile = profile,
            None => {
                state.profile = profile;
                for link in state.links.values_mut() {
                    link.profile = profile;
                }
            }
        }
    }

    /// The character of links that were given none of their own.
    #[must_use]
    pub fn profile(&self) -> LinkProfile {
        self.state().profile
    }

    /// Nothing passes from one node to another until [`SimNet::unblock`] was called as often.
    pub fn block(&self, from: NodeId, to: NodeId) {
        self.state().link(from, to).blocks += 1;
    }

    /// Ends one block of a direction. What a stream held back goes on.
    pub fn unblock(&self, from: NodeId, to: NodeId) {
        let mut state = self.state();
        let link = state.link(from, to);
        link.blocks = link.blocks.saturating_sub(1);
        if link.blocks == 0 {
            for held in std::mem::take(&mut link.held) {
                self.put_on_link(&mut state, from, to, held);
            }
        }
    }

    /// Ends all blocks and clogs, and gives every link the default character of the network.
    pub fn heal(&self) {
        let pairs: Vec<_> = self.state().links.keys().copied().collect();
        for (from, to) in pairs {
            let mut state = self.state();
            let profile = state.profile;
            let link = state.link(from, to);
            (link.blocks, link.clogged_until, link.profile) = (1, 0, profile);
            drop(state);
            self.unblock(from, to);
        }
    }

    /// Nothing arrives over a direction before virtual time `until`.
    pub fn clog(&self, from: NodeId, to: NodeId, until: u64) {
        let mut state = self.state();
        let link = state.link(from, to);
        link.clogged_until = link.clogged_until.max(until);
    }

    /// Breaks the connections between two nodes, in both directions.
    pub fn cut(&self, a: NodeId, b: NodeId) {
        let mut state = self.state();
        for (caller, callee) in [(a, b), (b, a)] {
            if let Some(id) = state.sessions.get(&(caller, callee)).map(|session| session.id) {
                self.reset_later(&mut state, caller, callee, id);
            }
        }
    }

    /// Messages that blocks and clogs of a direction have met so far.
    #[must_use]
    pub fn hits(&self, from: NodeId, to: NodeId) -> u64 {
        self.state().links.get(&(from, to)).map_or(0, |link| link.hits)
    }

    /// What the network did so far.
    #[must_use]
    pub fn stats(&self) -> NetStats {
        self.state().stats
    }
}
