//! What clients that have registered are told: of the schema, of nodes that come and go.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{broadcast, watch};

use crate::cql::value;
use crate::env::Env;
use crate::server::cql::CqlService;
use crate::server::cql::ddl;
use crate::server::cql::frame::Version;
use crate::server::cql::outbox::{Framing, Outbox};
use crate::server::cql::response::{self, SchemaChange};
use crate::server::cql::store::PeerView;
use crate::types::{Epoch, NodeId};

/// Events that a connection may be behind; one further behind misses some, as it would if its
/// connection had been lost.
pub(super) const MAX_BEHIND: usize = 1_024;

/// How often the nodes' liveness is looked at.
const LOOK: Duration = Duration::from_millis(500);

/// Something that clients are told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Event {
    Schema(SchemaChange),
    /// `UP` or `DOWN`.
    Status(&'static str, IpAddr, u16),
    /// `NEW_NODE` or `REMOVED_NODE`.
    Topology(&'static str, IpAddr, u16),
}

const SCHEMA: usize = 0;
const STATUS: usize = 1;
const TOPOLOGY: usize = 2;
const KINDS: [&str; 3] = ["SCHEMA_CHANGE", "STATUS_CHANGE", "TOPOLOGY_CHANGE"];

impl Event {
    fn kind(&self) -> usize {
        match self {
            Self::Schema(_) => SCHEMA,
            Self::Status(..) => STATUS,
            Self::Topology(..) => TOPOLOGY,
        }
    }

    fn encode(&self, version: Version) -> Vec<u8> {
        response::event(version, KINDS[self.kind()], |out| match self {
            Self::Schema(change) => change.put(out),
            Self::Status(change, address, port) | Self::Topology(change, address, port) => {
                out.string(change);
                let bytes = value::inet_bytes(*address);
                out.byte(u8::try_from(bytes.len()).unwrap_or(0));
                out.0.extend_from_slice(&bytes);
                out.int(i64::from(*port));
            }
        })
    }
}

/// What a connection wants to be told.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Interests {
    kinds: [bool; KINDS.len()],
    begun: bool,
}

impl Interests {
    /// Adds a kind by name. False: there is none of that name.
    pub(super) fn add(&mut self, name: &str) -> bool {
        let found = KINDS.iter().position(|kind| *kind == name);
        if let Some(at) = found {
            self.kinds[at] = true;
        }
        found.is_some()
    }

    /// What to tell, unless a task does so already. What is registered later is not added to it:
    /// drivers register once.
    pub(super) fn begin(&mut self) -> Option<Self> {
        let first = !self.begun && self.kinds.contains(&true);
        self.begun |= first;
        first.then_some(*self)
    }

    /// Tells a client until its connection ends, or it may not hear any more.
    pub(super) async fn tell(
        self,
        mut events: broadcast::Receiver<Event>,
        outbox: &Outbox,
        (version, framing): (Version, Framing),
        may_hear: impl Fn() -> bool,
    ) {
        loop {
            let event = tokio::select! {
                biased;
                () = outbox.closed() => return,
                event = events.recv() => event,
            };
            match event {
                Ok(_) if !may_hear() => return,
                Ok(event) if self.kinds[event.kind()] => {
                    // Without memory it is missed, as if the connection had been lost.
                    if let Ok(parcel) = outbox.parcel(event.encode(version), framing) {
                        outbox.send(parcel).await;
                    }
                }
                Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => {}
                Err(broadcast::error::RecvError::Closed) => return,
            }
        }
    }
}

/// Sends what changes, whoever changed it, until `stop`.
pub(super) async fn watch(
    service: Arc<CqlService>,
    env: Env,
    events: broadcast::Sender<Event>,
    mut epochs: watch::Receiver<Epoch>,
    mut stop: watch::Receiver<bool>,
) {
    let mut schema = service.store().state();
    let mut nodes = Nodes::default();
    nodes.look(&service.store().members());
    loop {
        tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop) => return,
            changed = epochs.changed() => if changed.is_err() { return },
            () = env.sleep(LOOK) => {}
        }
        let now = service.store().state();
        let mut news = Vec::new();
        if now.schema_version() != schema.schema_version() {
            news.extend(ddl::differences(&schema, &now).into_iter().map(Event::Schema));
        }
        schema = now;
        news.extend(nodes.look(&service.store().members()));
        for event in news {
            // Nobody may be listening.
            let _ = events.send(event);
        }
    }
}

/// The nodes as they were looked at last: where they serve, and whether they are up.
#[derive(Debug, Default)]
struct Nodes(BTreeMap<NodeId, (IpAddr, u16, bool)>);

impl Nodes {
    /// What has changed since.
    fn look(&mut self, members: &[PeerView]) -> Vec<Event> {
        let seen = members.iter().map(|peer| (peer.id, (peer.address, peer.port, peer.up)));
        let now: BTreeMap<_, _> = seen.collect();
        let mut news = Vec::new();
        for (id, &(address, port, up)) in &now {
            let before = self.0.get(id).copied();
            // One that has moved is another to a client.
            let known = before.filter(|(a, p, _)| (*a, *p) == (address, port));
            if let (None, Some((address, port, _))) = (known, before) {
                news.push(Event::Topology("REMOVED_NODE", address, port));
            }
            if known.is_none() {
                news.push(Event::Topology("NEW_NODE", address, port));
            }
            if known.is_none_or(|(.., was)| was != up) && (up || known.is_some()) {
                news.push(Event::Status(if up { "UP" } else { "DOWN" }, address, port));
            }
        }
        for (id, &(address, port, _)) in &self.0 {
            if !now.contains_key(id) {
                news.push(Event::Topology("REMOVED_NODE", address, port));
            }
        }
        self.0 = now;
        news
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn peer(id: u128, port: u16, up: bool) -> PeerView {
        PeerView {
            id: NodeId(id),
            address: IpAddr::V4(Ipv4Addr::LOCALHOST),
            port,
            datacenter: String::new(),
            rack: String::new(),
            tokens: Vec::new(),
            epoch: Epoch(1),
            up,
        }
    }

    fn said(news: &[Event]) -> Vec<(&'static str, u16)> {
        let one = |event: &Event| match event {
            Event::Status(change, _, port) | Event::Topology(change, _, port) => (*change, *port),
            Event::Schema(_) => ("", 0),
        };
        news.iter().map(one).collect()
    }

    #[test]
    fn nodes_that_come_fall_return_move_and_leave_are_told_once() {
        let mut nodes = Nodes::default();
        nodes.look(&[peer(1, 1, true), peer(2, 2, true)]);
        let mut look = |members: &[PeerView]| said(&nodes.look(members));
        assert_eq!(look(&[peer(1, 1, true), peer(2, 2, false)]), [("DOWN", 2)]);
        assert_eq!(look(&[peer(1, 1, true), peer(2, 2, false)]), []);
        assert_eq!(look(&[peer(1, 1, true), peer(2, 2, true)]), [("UP", 2)]);
        let three = [peer(1, 1, true), peer(2, 2, true), peer(3, 3, false)];
        assert_eq!(look(&three), [("NEW_NODE", 3)]);
        let moved = [peer(1, 1, true), peer(2, 9, true), peer(3, 3, true)];
        assert_eq!(look(&moved), [("REMOVED_NODE", 2), ("NEW_NODE", 9), ("UP", 9), ("UP", 3)]);
        assert_eq!(look(&moved[..2]), [("REMOVED_NODE", 3)]);
    }
}
