//! The state of gossip at one node.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::gossip::detector::{Detector, Thresholds};
use crate::gossip::{Digest, Heartbeat, Liveness, MAX_MEMBERS, Message};
use crate::types::{ActorId, Addresses, Epoch, Mono, NodeId};

/// A gap between two ticks of more than this many intervals means that this node did not run.
const OWN_PAUSE: u32 = 4;

/// How fast to gossip, and how quickly to suspect.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Options {
    /// Time between two calls of [`Gossip::tick`]. Default 300 ms.
    pub interval: Duration,
    /// From this phi on a peer is suspect. Default 4: after a silence of about 9 intervals.
    pub suspect_phi: f64,
    /// From this phi on a peer is dead. Default 8 (Cassandra's): about 18 intervals.
    pub dead_phi: f64,
}

impl Default for Options {
    fn default() -> Self {
        Self { interval: Duration::from_millis(300), suspect_phi: 4.0, dead_phi: 8.0 }
    }
}

/// What was heard of one actor's marks: how many commits its directory held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heard {
    /// The life heard of last.
    pub start: u64,
    /// The greatest mark of that life.
    pub mark: u64,
    /// The greatest mark of the lives before.
    pub before: u64,
}

#[derive(Clone, Debug)]
struct Peer {
    heartbeat: Option<Heartbeat>,
    detector: Detector,
}

/// Gossip at one node.
///
/// - Of each member at most one heartbeat is kept: the newest by (generation, version).
/// - Nobody is kept who is no member; nobody is dropped who is one.
/// - The node's own epoch and mark never go back, nor does what was heard of an actor's mark.
#[derive(Clone, Debug)]
pub struct Gossip {
    options: Options,
    own: Heartbeat,
    peers: BTreeMap<NodeId, Peer>,
    heard: BTreeMap<ActorId, Heard>,
    last_tick: Option<Mono>,
    impostors: u64,
}

impl Gossip {
    /// Gossip of the node `me` in its life number `generation`, the start `start` of `actor`, which
    /// listens at `addresses`. It knows nobody until [`Gossip::set_members`].
    #[must_use]
    pub fn new(
        me: NodeId,
        generation: u64,
        (actor, start): (ActorId, u64),
        addresses: Addresses,
        options: Options,
    ) -> Self {
        let (version, epoch, mark) = (0, Epoch(0), 0);
        let own = Heartbeat { node: me, generation, version, epoch, actor, start, mark, addresses };
        let (peers, heard) = (BTreeMap::new(), BTreeMap::new());
        Self { options, own, peers, heard, last_tick: None, impostors: 0 }
    }

    /// The members as the metadata log names them, this node included or not. All that is known
    /// of others is dropped. At most [`MAX_MEMBERS`] are taken.
    pub fn set_members(&mut self, members: impl IntoIterator<Item = NodeId>) {
        let me = self.own.node;
        let members: BTreeSet<NodeId> =
            members.into_iter().filter(|node| *node != me).take(MAX_MEMBERS - 1).collect();
        self.peers.retain(|node, _| members.contains(node));
        for node in members {
            let expected = self.options.interval;
            self.peers
                .entry(node)
                .or_insert_with(|| Peer { heartbeat: None, detector: Detector::new(expected) });
        }
    }

    /// This node has applied the metadata log up to `epoch`.
    pub fn set_epoch(&mut self, epoch: Epoch) {
        if epoch > self.own.epoch {
            self.own.epoch = epoch;
            self.own.version += 1;
        }
    }

    /// This node's directory holds `mark` commits on stable storage.
    pub fn set_mark(&mut self, mark: u64) {
        self.own.mark = self.own.mark.max(mark);
    }

    /// The greatest mark heard of `actor` in any of its lives but `start`; 0 if none was. If its
    /// directory held fewer commits when that life began, it had lost some.
    #[must_use]
    pub fn heard_before(&self, actor: ActorId, start: u64) -> u64 {
        self.heard.get(&actor).map_or(0, |heard| {
            if heard.start == start { heard.before } else { heard.before.max(heard.mark) }
        })
    }

    /// What was heard of each actor's marks.
    #[must_use]
    pub fn heard(&self) -> &BTreeMap<ActorId, Heard> {
        &self.heard
    }

    /// Takes up what was heard of `actor` in an earlier life of this node.
    pub fn remember(&mut self, actor: ActorId, heard: Heard) {
        self.heard.insert(actor, heard);
    }

    fn hear(&mut self, actor: ActorId, start: u64, mark: u64) {
        let heard = self.heard.entry(actor).or_insert(Heard { start, mark, before: 0 });
        if heard.start != start {
            heard.before = heard.before.max(heard.mark);
            (heard.start, heard.mark) = (start, mark);
        }
        heard.mark = heard.mark.max(mark);
    }

    /// Forgets all actors but these: no other will ever act again.
    pub fn forget_all_but(&mut self, actors: &BTreeSet<ActorId>) {
        self.heard.retain(|actor, _| actors.contains(actor));
    }

    /// One beat. Returns what to send to whom: one live peer if there is one, and with the
    /// chance of (others)/(live + 1) one of those that are not. `random` is 64 random bits.
    pub fn tick(&mut self, now: Mono, random: u64) -> Vec<(NodeId, Message)> {
        self.forgive_own_pause(now);
        self.peers.values_mut().for_each(|peer| peer.detector.listen(now));
        self.own.version += 1;
        let (live, others): (Vec<NodeId>, Vec<NodeId>) = self
            .peers
            .keys()
            .partition(|node| matches!(self.liveness(**node, now), Liveness::Live));
        let (low, high) = (random & u64::from(u32::MAX), random >> 32);
        let mut chosen = Vec::with_capacity(2);
        if let Some(node) = pick(&live, low) {
            chosen.push(node);
        }
        let chance = (live.len() + 1) as u64;
        if high % chance < others.len() as u64
            && let Some(node) = pick(&others, high / chance)
        {
            chosen.push(node);
        }
        chosen.into_iter().map(|node| (node, self.syn())).collect()
    }

    fn forgive_own_pause(&mut self, now: Mono) {
        if let Some(last) = self.last_tick {
            let gap = now.since(last);
            if gap > self.options.interval * OWN_PAUSE {
                let pause = gap.saturating_sub(self.options.interval);
                self.peers.values_mut().for_each(|peer| peer.detector.forgive(pause));
            }
        }
        self.last_tick = Some(now);
    }

    fn syn(&self) -> Message {
        let digest = |beat: &Heartbeat| Digest {
            node: beat.node,
            generation: beat.generation,
            version: beat.version,
        };
        let mut digests = vec![digest(&self.own)];
        digests.extend(self.peers.iter().map(|(node, peer)| match &peer.heartbeat {
            Some(beat) => digest(beat),
            None => Digest { node: *node, generation: 0, version: 0 },
        }));
        Message::Syn { digests }
    }

    /// Takes a message of `from`. Returns the reply, if there is one to send. A stranger gets
    /// none: who is no member here is either removed or known to a newer epoch than this node's,
    /// which the request's own header tells.
    pub fn on_message(&mut self, from: NodeId, message: Message, now: Mono) -> Option<Message> {
        if !self.peers.contains_key(&from) {
            return None;
        }
        self.heard_from(from, now);
        match message {
            Message::Syn { digests } => Some(self.answer(&digests)),
            Message::Ack { newer, wanted } => {
                self.merge(newer, now);
                let newer: Vec<Heartbeat> =
                    wanted.into_iter().filter_map(|node| self.heartbeat(node).cloned()).collect();
                (!newer.is_empty()).then_some(Message::Ack2 { newer })
            }
            Message::Ack2 { newer } => {
                self.merge(newer, now);
                None
            }
        }
    }

    fn answer(&mut self, digests: &[Digest]) -> Message {
        let mut newer = Vec::new();
        let mut wanted = Vec::new();
        let mut named = BTreeSet::new();
        for digest in digests {
            let theirs = (digest.generation, digest.version);
            if digest.node == self.own.node {
                self.outlive(digest.generation, digest.version);
            }
            if !named.insert(digest.node) {
                continue;
            }
            match self.heartbeat(digest.node) {
                Some(mine) if mine.age() > theirs => newer.push(mine.clone()),
                Some(mine) if mine.age() == theirs => {}
                Some(_) => wanted.push(digest.node),
                None if self.peers.contains_key(&digest.node) && theirs > (0, 0) => {
                    wanted.push(digest.node);
                }
                None => {}
            }
        }
        // Members that the sender does not know of yet.
        for peer in self.peers.values() {
            newer.extend(peer.heartbeat.iter().filter(|beat| !named.contains(&beat.node)).cloned());
        }
        Message::Ack { newer, wanted }
    }

    fn merge(&mut self, newer: Vec<Heartbeat>, now: Mono) {
        for beat in newer {
            if beat.node == self.own.node {
                self.outlive(beat.generation, beat.version);
                continue;
            }
            let Some(peer) = self.peers.get_mut(&beat.node) else {
                continue;
            };
            match &peer.heartbeat {
                Some(known) if known.age() >= beat.age() => continue,
                Some(known) if known.generation < beat.generation => {
                    // A new life: what was learnt of the old one's rhythm is void.
                    peer.detector = Detector::new(self.options.interval);
                }
                Some(_) | None => {}
            }
            peer.detector.beat(now);
            let (actor, start, mark) = (beat.actor, beat.start, beat.mark);
            peer.heartbeat = Some(beat);
            self.hear(actor, start, mark);
        }
    }

    /// Others have heard, under this node's name, of a later life than this one: the count of
    /// lives began anew (a wiped disk), or somebody else runs under the same name.
    fn outlive(&mut self, generation: u64, version: u64) {
        if (generation, version) > self.own.age() {
            self.own.generation = generation.saturating_add(1);
            self.own.version = 1;
            self.impostors += 1;
        }
    }

    /// Any traffic of `node` counts: it has answered, or asked, something.
    pub fn heard_from(&mut self, node: NodeId, now: Mono) {
        if let Some(peer) = self.peers.get_mut(&node) {
            peer.detector.heard(now);
        }
    }

    /// `node` refused or reset a connection.
    pub fn unreachable(&mut self, node: NodeId, _now: Mono) {
        if let Some(peer) = self.peers.get_mut(&node) {
            peer.detector.refused();
        }
    }

    /// What is believed of `node`. This node itself is live; who is no member is unknown.
    #[must_use]
    pub fn liveness(&self, node: NodeId, now: Mono) -> Liveness {
        if node == self.own.node {
            return Liveness::Live;
        }
        let thresholds =
            Thresholds { suspect: self.options.suspect_phi, dead: self.options.dead_phi };
        self.peers
            .get(&node)
            .map_or(Liveness::Unknown, |peer| peer.detector.liveness(thresholds, now))
    }

    /// The newest heartbeat of `node`, this node's own included.
    #[must_use]
    pub fn heartbeat(&self, node: NodeId) -> Option<&Heartbeat> {
        if node == self.own.node {
            return Some(&self.own);
        }
        self.peers.get(&node)?.heartbeat.as_ref()
    }

    /// The epoch that `node` was last heard to be at.
    #[must_use]
    pub fn epoch_of(&self, node: NodeId) -> Option<Epoch> {
        self.heartbeat(node).map(|beat| beat.epoch)
    }

    /// `node` has said, otherwise than by gossip, that it is at `epoch`.
    pub fn heard_epoch(&mut self, node: NodeId, epoch: Epoch) {
        let beat = self.peers.get_mut(&node).and_then(|peer| peer.heartbeat.as_mut());
        if let Some(beat) = beat {
            beat.epoch = beat.epoch.max(epoch);
        }
    }

    /// Peers that were heard to be at a later epoch than this node, the furthest first.
    #[must_use]
    pub fn ahead(&self) -> Vec<(NodeId, Epoch)> {
        let mut ahead: Vec<(NodeId, Epoch)> = self
            .peers
            .values()
            .filter_map(|peer| peer.heartbeat.as_ref())
            .filter(|beat| beat.epoch > self.own.epoch)
            .map(|beat| (beat.node, beat.epoch))
            .collect();
        ahead.sort_by_key(|(node, epoch)| (std::cmp::Reverse(*epoch), *node));
        ahead
    }

    /// How often another life was met under this node's own name. More than one in the life of a
    /// process means that a second process runs as this node.
    #[must_use]
    pub fn impostors(&self) -> u64 {
        self.impostors
    }
}

fn pick(nodes: &[NodeId], random: u64) -> Option<NodeId> {
    let at = usize::try_from(random % nodes.len().max(1) as u64).ok()?;
    nodes.get(at).copied()
}
