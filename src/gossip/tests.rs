//! Small clusters of gossips, with a clock that the test turns.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::gossip::{Gossip, Liveness, Message, Options};
use crate::types::{ActorId, Addresses, Epoch, Mono, NodeId};

const A: NodeId = NodeId(1);
const B: NodeId = NodeId(2);
const C: NodeId = NodeId(3);

fn at(name: &str) -> Addresses {
    Addresses { peer: format!("{name}:7000"), ..Addresses::default() }
}

/// Nodes, a clock, and who is cut off.
struct World {
    nodes: BTreeMap<NodeId, Gossip>,
    down: Vec<NodeId>,
    now: Mono,
    random: u64,
}

impl World {
    fn of(ids: &[NodeId]) -> Self {
        let mut world =
            Self { nodes: BTreeMap::new(), down: Vec::new(), now: Mono(1 << 40), random: 7 };
        for id in ids {
            world.start(*id, 1, ids);
        }
        world
    }

    fn start(&mut self, id: NodeId, generation: u64, members: &[NodeId]) {
        let actor = ActorId(id.0 as u64);
        let start = (actor, generation);
        let mut gossip = Gossip::new(id, generation, start, at("host"), Options::default());
        gossip.set_members(members.iter().copied());
        self.nodes.insert(id, gossip);
    }

    fn random(&mut self) -> u64 {
        // SplitMix64: enough to pick peers.
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.random ^ (self.random >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb) ^ (z >> 31)
    }

    fn up(&self, id: NodeId) -> bool {
        !self.down.contains(&id)
    }

    /// All nodes tick once, a gossip interval later.
    fn round(&mut self) {
        self.now = self.now + Options::default().interval;
        let ids: Vec<NodeId> = self.nodes.keys().copied().filter(|id| self.up(*id)).collect();
        for id in ids {
            let (now, random) = (self.now, self.random());
            for (to, message) in self.nodes.get_mut(&id).unwrap().tick(now, random) {
                self.exchange(id, to, message);
            }
        }
    }

    fn exchange(&mut self, from: NodeId, to: NodeId, message: Message) {
        let (mut from, mut to, mut message) = (from, to, Some(message));
        while let Some(sent) = message {
            if !self.up(from) || !self.up(to) || !self.nodes.contains_key(&to) {
                return;
            }
            let bytes = sent.encode();
            let received = Message::decode(&bytes).unwrap();
            message = self.nodes.get_mut(&to).unwrap().on_message(from, received, self.now);
            std::mem::swap(&mut from, &mut to);
        }
    }

    fn rounds(&mut self, n: usize) {
        (0..n).for_each(|_| self.round());
    }

    fn seen(&self, by: NodeId, of: NodeId) -> Liveness {
        self.nodes[&by].liveness(of, self.now)
    }
}

#[test]
fn everyone_learns_of_everyones_liveness_epoch_and_addresses() {
    let mut world = World::of(&[A, B, C]);
    assert_eq!(world.seen(A, B), Liveness::Unknown);
    world.nodes.get_mut(&C).unwrap().set_epoch(Epoch(9));
    world.rounds(10);
    for by in [A, B, C] {
        for of in [A, B, C] {
            assert_eq!(world.seen(by, of), Liveness::Live, "{by:?} of {of:?}");
        }
        assert_eq!(world.nodes[&by].epoch_of(C), Some(Epoch(9)));
    }
    assert_eq!(world.nodes[&A].ahead(), [(C, Epoch(9))]);
    assert_eq!(world.nodes[&B].heartbeat(C).unwrap().addresses, at("host"));
}

#[test]
fn an_epoch_heard_of_otherwise_counts_at_once_and_never_goes_back() {
    let mut world = World::of(&[A, B]);
    world.rounds(20);
    let a = world.nodes.get_mut(&A).unwrap();
    a.heard_epoch(B, Epoch(7));
    assert_eq!(a.epoch_of(B), Some(Epoch(7)));
    a.heard_epoch(B, Epoch(3));
    assert_eq!(a.epoch_of(B), Some(Epoch(7)));
    a.heard_epoch(C, Epoch(3));
    assert_eq!(a.epoch_of(C), None, "nobody has met it");
}

#[test]
fn silence_makes_a_node_suspect_then_dead_and_a_word_makes_it_live() {
    let mut world = World::of(&[A, B]);
    world.rounds(20);
    world.down.push(B);
    world.rounds(3);
    assert_eq!(world.seen(A, B), Liveness::Live, "three lost beats are nothing");
    world.rounds(9);
    assert_eq!(world.seen(A, B), Liveness::Suspect);
    world.rounds(12);
    assert_eq!(world.seen(A, B), Liveness::Dead);
    world.down.clear();
    world.rounds(10);
    assert_eq!(world.seen(A, B), Liveness::Live, "the dead are asked now and then");
}

#[test]
fn a_node_that_never_says_a_word_is_unknown_and_then_dead() {
    let mut world = World::of(&[A, B]);
    world.down.push(B);
    world.rounds(5);
    assert_eq!(world.seen(A, B), Liveness::Unknown);
    world.rounds(20);
    assert_eq!(world.seen(A, B), Liveness::Dead);
}

#[test]
fn other_traffic_counts_against_silence_but_does_not_shorten_patience() {
    let mut world = World::of(&[A, B]);
    world.rounds(5);
    let a = world.nodes.get_mut(&A).unwrap();
    for _ in 0..10_000 {
        world.now = world.now + Duration::from_micros(50);
        a.heard_from(B, world.now);
    }
    let later = world.now + Options::default().interval * 5;
    assert_eq!(a.liveness(B, later), Liveness::Live);
}

#[test]
fn a_refused_connection_is_suspicious_and_two_are_proof() {
    let mut world = World::of(&[A, B]);
    world.rounds(5);
    let now = world.now;
    let a = world.nodes.get_mut(&A).unwrap();
    a.unreachable(B, now);
    assert_eq!(a.liveness(B, now), Liveness::Suspect);
    a.unreachable(B, now);
    assert_eq!(a.liveness(B, now), Liveness::Dead);
    a.heard_from(B, now);
    assert_eq!(a.liveness(B, now), Liveness::Live);
}

#[test]
fn a_node_that_was_paused_itself_blames_nobody() {
    let mut world = World::of(&[A, B, C]);
    world.rounds(10);
    world.now = world.now + Duration::from_secs(60);
    let (now, a) = (world.now, world.nodes.get_mut(&A).unwrap());
    let _ = a.tick(now, 1);
    assert_eq!(a.liveness(B, now), Liveness::Live);
    // But it does notice who stays silent from then on.
    world.down.extend([B, C]);
    world.rounds(30);
    assert_eq!(world.seen(A, B), Liveness::Dead);
}

/// chitchat 155 and 161: nodes forget a dead member at different times and re-infect each other.
#[test]
fn r35_a_removed_node_never_comes_back_through_a_neighbour() {
    let mut world = World::of(&[A, B, C]);
    world.rounds(10);
    // The log removes B. A has applied that entry, C has not.
    world.down.push(B);
    world.nodes.get_mut(&A).unwrap().set_members([A, C]);
    world.rounds(20);
    assert_eq!(world.seen(A, B), Liveness::Unknown);
    assert!(world.nodes[&A].heartbeat(B).is_none());
    assert!(world.nodes[&C].heartbeat(B).is_some(), "C has not applied it");
    // B itself comes back and talks to A: it gets no answer and leaves no trace.
    world.down.clear();
    world.rounds(20);
    assert!(world.nodes[&A].heartbeat(B).is_none());
    // Then C applies it too.
    world.nodes.get_mut(&C).unwrap().set_members([A, C]);
    world.rounds(20);
    assert!(world.nodes[&C].heartbeat(B).is_none());
}

/// chitchat 94: a restarted node appears twice, its old generation stays.
#[test]
fn r36_a_node_restarted_five_times_fast_is_one_live_node() {
    let mut world = World::of(&[A, B, C]);
    world.rounds(10);
    for generation in 2..=6 {
        world.start(B, generation, &[A, B, C]);
        world.round();
    }
    world.rounds(10);
    for by in [A, C] {
        assert_eq!(world.nodes[&by].heartbeat(B).unwrap().generation, 6);
        assert_eq!(world.seen(by, B), Liveness::Live);
    }
}

#[test]
fn a_wiped_node_whose_generations_begin_anew_goes_above_its_former_ones() {
    let mut world = World::of(&[A, B]);
    for generation in [2, 9] {
        world.start(B, generation, &[A, B]);
        world.rounds(10);
    }
    world.start(B, 1, &[A, B]);
    world.rounds(10);
    assert_eq!(world.nodes[&A].heartbeat(B).unwrap().generation, 10);
    assert_eq!(world.nodes[&B].impostors(), 1);
    let before = world.nodes[&A].heartbeat(B).unwrap().version;
    world.rounds(10);
    assert!(world.nodes[&A].heartbeat(B).unwrap().version > before, "its beats are heard again");
}

#[test]
fn an_older_life_is_not_believed_and_ones_own_epoch_never_falls() {
    let mut world = World::of(&[A, B]);
    world.nodes.get_mut(&B).unwrap().set_epoch(Epoch(5));
    world.nodes.get_mut(&B).unwrap().set_epoch(Epoch(4));
    world.rounds(5);
    assert_eq!(world.nodes[&A].epoch_of(B), Some(Epoch(5)));
    let mut stale = world.nodes[&A].heartbeat(B).unwrap().clone();
    stale.generation = 0;
    stale.epoch = Epoch(99);
    let now = world.now;
    let a = world.nodes.get_mut(&A).unwrap();
    let _ = a.on_message(B, Message::Ack2 { newer: vec![stale] }, now);
    assert_eq!(a.epoch_of(B), Some(Epoch(5)));
}

#[test]
fn garbage_and_oversize_messages_are_refused() {
    assert!(Message::decode(&[]).is_err());
    assert!(Message::decode(&[9, 0, 0]).is_err());
    let many = Message::Ack { newer: vec![], wanted: vec![A; 2000] };
    assert!(Message::decode(&many.encode()).is_err());
    let good = Message::Ack { newer: vec![], wanted: vec![A] }.encode();
    for len in 0..good.len() {
        assert!(Message::decode(&good[..len]).is_err());
    }
}
