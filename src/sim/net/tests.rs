use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::{Delivery, LinkProfile, SimNet, SimTransport};
use crate::env::{BoxFuture, Env, HlcClock};
use crate::net::handshake::{Admission, Hello, PROTOCOL};
use crate::net::{CallError, Header, NodeStamps, PeerService, Request, Response, Transport};
use crate::sim::executor::{Executor, GroupId, MachineId, Schedule};
use crate::sim::rng::Ppm;
use crate::types::{ActorId, Epoch, Hlc, Incarnation, NodeId};

const SECOND: Duration = Duration::from_secs(1);

struct Gate {
    node: NodeId,
    welcome: bool,
}

impl Admission for Gate {
    fn hello(&self) -> Hello {
        Hello {
            protocol: PROTOCOL,
            cluster_name: "sim".to_owned(),
            cluster_id: None,
            node: self.node,
            actor: ActorId(1),
            incarnation: Incarnation(1),
            epoch: Epoch(0),
        }
    }

    fn admit(&self, _theirs: &Hello) -> Result<(), String> {
        if self.welcome { Ok(()) } else { Err("not welcome".to_owned()) }
    }
}

/// Answers gossip with itself, after a while, and keeps what it saw.
struct Echo {
    env: Env,
    seen: Arc<Mutex<Vec<u64>>>,
}

impl PeerService for Echo {
    fn serve(&self, _: NodeId, header: Header, request: Request) -> BoxFuture<'static, Response> {
        self.seen.lock().unwrap().push(header.hlc.0);
        let env = self.env.clone();
        Box::pin(async move {
            env.sleep(Duration::from_millis(1)).await;
            match request {
                Request::Gossip(bytes) => Response::Gossip(Some(bytes)),
                _ => Response::Pong,
            }
        })
    }
}

struct Node {
    id: NodeId,
    machine: MachineId,
    group: GroupId,
    env: Env,
    transport: Arc<SimTransport>,
    seen: Arc<Mutex<Vec<u64>>>,
}

struct Pair {
    executor: Executor,
    net: SimNet,
    a: Node,
    b: Node,
}

fn start(executor: &Executor, net: &SimNet, id: u128, machine: MachineId, welcome: bool) -> Node {
    let id = NodeId(id);
    let (group, env) = executor.world().start(machine);
    let clock = HlcClock::new(env.clone(), Hlc(0), SECOND);
    let stamps = Arc::new(NodeStamps::new(clock));
    let gate = Arc::new(Gate { node: id, welcome });
    let transport = net.attach(id, machine, group, env.clone(), stamps, gate);
    let seen = Arc::new(Mutex::new(Vec::new()));
    transport.set_service(Arc::new(Echo { env: env.clone(), seen: Arc::clone(&seen) }));
    Node { id, machine, group, env, transport, seen }
}

fn pair(seed: u64, delivery: Delivery, profile: LinkProfile) -> Pair {
    let executor = Executor::new(seed, Schedule::Uniform);
    let world = executor.world();
    let net = SimNet::new(&world, delivery, profile);
    let a = start(&executor, &net, 1, world.add_machine(), true);
    let b = start(&executor, &net, 2, world.add_machine(), true);
    Pair { executor, net, a, b }
}

type Outcome = Result<(Header, Response), CallError>;

/// A calls B `count` times, each `gap` after the other, numbering the calls in the clock field.
fn calls(pair: &Pair, count: u64, gap: Duration) -> Arc<Mutex<Vec<Outcome>>> {
    let outcomes = Arc::new(Mutex::new(Vec::new()));
    let (env, transport, to) = (pair.a.env.clone(), pair.a.transport.clone(), pair.b.id);
    let results = Arc::clone(&outcomes);
    let inner = env.clone();
    env.spawn("caller", async move {
        for n in 0..count {
            let header = Header { epoch: Epoch(7), hlc: Hlc(n), budget_ms: 9 };
            let body = n.to_le_bytes().to_vec();
            let deadline = inner.mono() + 2 * SECOND;
            let call = transport.call(to, header, Request::Gossip(body.into()), deadline);
            let results = Arc::clone(&results);
            inner.spawn("call", async move {
                let outcome = call.await;
                results.lock().unwrap().push(outcome);
            });
            inner.sleep(gap).await;
        }
    });
    outcomes
}

fn run(pair: &mut Pair, span: Duration) {
    pair.executor.run_for(span).unwrap();
    assert_eq!(pair.executor.world().take_panics(), []);
}

#[test]
fn calls_are_answered_in_both_modes() {
    for delivery in [Delivery::Datagram, Delivery::Stream] {
        let mut pair = pair(1, delivery, LinkProfile::default());
        let outcomes = calls(&pair, 50, Duration::from_millis(1));
        run(&mut pair, 5 * SECOND);
        let outcomes = outcomes.lock().unwrap();
        assert_eq!(outcomes.len(), 50);
        for outcome in outcomes.iter() {
            assert!(matches!(outcome, Ok((_, Response::Gossip(Some(_))))));
        }
    }
}

#[test]
fn a_stream_keeps_the_order_of_requests_and_datagrams_do_not() {
    let profile = LinkProfile { latency_max: 50_000_000, ..LinkProfile::default() };
    let order = |delivery| {
        let mut pair = pair(3, delivery, profile);
        let _outcomes = calls(&pair, 100, Duration::from_micros(100));
        run(&mut pair, 5 * SECOND);
        let seen = pair.b.seen.lock().unwrap().clone();
        assert_eq!(seen.len(), 100);
        seen.is_sorted()
    };
    assert!(order(Delivery::Stream) && !order(Delivery::Datagram));
}

#[test]
fn a_dead_peer_refuses_and_a_new_life_answers_again() {
    for delivery in [Delivery::Datagram, Delivery::Stream] {
        let mut pair = pair(2, delivery, LinkProfile::default());
        let before = calls(&pair, 3, Duration::from_millis(5));
        run(&mut pair, SECOND);
        assert!(before.lock().unwrap().iter().all(Result::is_ok));
        pair.net.detach(pair.b.id, true);
        pair.executor.world().kill(pair.b.group);
        run(&mut pair, SECOND);
        let during = calls(&pair, 10, Duration::from_millis(100));
        run(&mut pair, 4 * SECOND);
        let refused = |o: &Outcome| matches!(o, Err(CallError::NotSent { .. }));
        assert_eq!(during.lock().unwrap().iter().filter(|o| refused(o)).count(), 10);
        let (machine, id) = (pair.b.machine, pair.b.id.0);
        pair.b = start(&pair.executor, &pair.net, id, machine, true);
        run(&mut pair, 2 * SECOND);
        let after = calls(&pair, 3, Duration::from_millis(5));
        run(&mut pair, 4 * SECOND);
        assert!(after.lock().unwrap().iter().all(Result::is_ok));
    }
}

#[test]
fn a_peer_that_dies_over_a_request_leaves_it_lost_not_refused() {
    let mut pair = pair(2, Delivery::Stream, LinkProfile::default());
    let warm = calls(&pair, 1, SECOND);
    run(&mut pair, SECOND);
    assert!(warm.lock().unwrap()[0].is_ok());
    let outcomes = calls(&pair, 1, SECOND);
    run(&mut pair, Duration::from_micros(700));
    assert_eq!(pair.b.seen.lock().unwrap().len(), 2, "the request has arrived");
    pair.net.detach(pair.b.id, true);
    pair.executor.world().kill(pair.b.group);
    run(&mut pair, SECOND);
    assert!(matches!(outcomes.lock().unwrap()[0], Err(CallError::Lost { .. })));
}

#[test]
fn a_blocked_direction_lets_nothing_through_until_it_heals() {
    let mut stream = pair(2, Delivery::Stream, LinkProfile::default());
    let warm = calls(&stream, 1, SECOND);
    run(&mut stream, SECOND);
    assert!(warm.lock().unwrap()[0].is_ok());
    stream.net.block(stream.b.id, stream.a.id);
    let outcomes = calls(&stream, 1, SECOND);
    run(&mut stream, SECOND);
    assert_eq!(stream.b.seen.lock().unwrap().len(), 2, "the other direction is open");
    assert!(outcomes.lock().unwrap().is_empty());
    assert!(stream.net.hits(stream.b.id, stream.a.id) > 0);
    stream.net.unblock(stream.b.id, stream.a.id);
    run(&mut stream, SECOND / 2);
    assert!(outcomes.lock().unwrap()[0].is_ok(), "a stream sends again");

    let mut datagrams = pair(2, Delivery::Datagram, LinkProfile::default());
    let warm = calls(&datagrams, 1, SECOND);
    run(&mut datagrams, SECOND);
    assert!(warm.lock().unwrap()[0].is_ok());
    datagrams.net.block(datagrams.b.id, datagrams.a.id);
    let outcomes = calls(&datagrams, 1, SECOND);
    run(&mut datagrams, SECOND);
    datagrams.net.heal();
    run(&mut datagrams, 2 * SECOND);
    assert!(matches!(outcomes.lock().unwrap()[0], Err(CallError::Lost { .. })));
}

#[test]
fn a_call_that_finds_no_connection_in_time_was_not_sent() {
    let mut pair = pair(2, Delivery::Stream, LinkProfile::default());
    pair.net.block(pair.a.id, pair.b.id);
    let outcomes = calls(&pair, 1, SECOND);
    run(&mut pair, 3 * SECOND);
    assert!(matches!(outcomes.lock().unwrap()[0], Err(CallError::NotSent { .. })));
    assert!(pair.b.seen.lock().unwrap().is_empty());
}

#[test]
fn a_node_that_is_not_admitted_gets_no_word_in() {
    let mut pair = pair(2, Delivery::Stream, LinkProfile::default());
    let (machine, id) = (pair.b.machine, pair.b.id.0);
    pair.b = start(&pair.executor, &pair.net, id, machine, false);
    let outcomes = calls(&pair, 5, SECOND / 10);
    run(&mut pair, 5 * SECOND);
    assert!(outcomes.lock().unwrap().iter().all(Result::is_err));
    assert!(pair.b.seen.lock().unwrap().is_empty());
    assert!(pair.net.stats().refused > 0);
}

#[test]
fn damaged_frames_are_refused_every_one() {
    for delivery in [Delivery::Datagram, Delivery::Stream] {
        let profile = LinkProfile { corrupt: Ppm::percent(30), ..LinkProfile::default() };
        let mut pair = pair(4, delivery, profile);
        let outcomes = calls(&pair, 500, Duration::from_millis(10));
        run(&mut pair, 20 * SECOND);
        let stats = pair.net.stats();
        assert!(stats.corrupted > 10, "{stats:?}");
        assert_eq!(stats.undetected, 0);
        assert_eq!(outcomes.lock().unwrap().len(), 500, "every call ends");
    }
}

#[test]
fn datagrams_come_twice_and_late_and_get_lost() {
    let profile = LinkProfile {
        duplicate: Ppm::percent(50),
        replay_max: 60_000_000_000,
        loss: Ppm::percent(10),
        ..LinkProfile::default()
    };
    let mut pair = pair(4, Delivery::Datagram, profile);
    let outcomes = calls(&pair, 200, Duration::from_millis(1));
    run(&mut pair, 5 * SECOND);
    let soon = pair.b.seen.lock().unwrap().len();
    run(&mut pair, 70 * SECOND);
    let seen = pair.b.seen.lock().unwrap().len();
    assert!(seen > soon && seen > 220, "{soon} {seen}");
    let outcomes = outcomes.lock().unwrap();
    assert_eq!(outcomes.len(), 200);
    assert!(outcomes.iter().any(Result::is_err) && outcomes.iter().any(Result::is_ok));
}

#[test]
fn cut_connections_lose_calls_and_come_back() {
    let profile = LinkProfile { cut: Ppm::percent(5), ..LinkProfile::default() };
    let mut pair = pair(4, Delivery::Stream, profile);
    let outcomes = calls(&pair, 300, Duration::from_millis(20));
    run(&mut pair, 20 * SECOND);
    let outcomes = outcomes.lock().unwrap();
    let lost = |o: &&Outcome| matches!(o, Err(CallError::Lost { .. }));
    assert_eq!(outcomes.len(), 300);
    assert!(outcomes.iter().filter(lost).count() > 3 && outcomes.last().is_some());
    assert!(outcomes.iter().filter(|o| o.is_ok()).count() > 150);
}

#[test]
fn an_abandoned_call_is_not_recalled() {
    let mut pair = pair(4, Delivery::Stream, LinkProfile::default());
    let warm = calls(&pair, 1, SECOND);
    run(&mut pair, SECOND);
    assert!(warm.lock().unwrap()[0].is_ok());
    let header = Header { epoch: Epoch(0), hlc: Hlc(99), budget_ms: 0 };
    let deadline = pair.a.env.mono() + SECOND;
    let call = pair.a.transport.call(pair.b.id, header, Request::Ping, deadline);
    let env = pair.a.env.clone();
    pair.a.env.spawn("hang up", async move {
        let _ = env.timeout(Duration::from_nanos(1), call).await;
    });
    run(&mut pair, SECOND);
    assert_eq!(pair.b.seen.lock().unwrap().last(), Some(&99));
}
