//! Two and more transports on loopback, and strangers at the door.

use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;

use super::shared::lock;
use super::wire::FrameReader;
use super::*;
use crate::env::{HlcClock, tokio_env};
use crate::net::codec::{FrameKind, encode_frame, encode_message, encode_request};
use crate::net::handshake::{Hello, MAX_HELLO_BYTES, PROTOCOL, ProtocolRange};
use crate::net::messages::{Read, Refusal, Response, Want};
use crate::types::{ActorId, Epoch, Hlc, Incarnation, Key, TableId};

const SOON: Duration = Duration::from_secs(20);

/// Answers gossip with the same bytes; keeps `Meta` waiting until the gate is opened.
struct Echo {
    env: Env,
    gate: Semaphore,
    begun: AtomicUsize,
    finished: AtomicUsize,
}

/// The service that a node is given.
struct Service(Arc<Echo>);

impl PeerService for Service {
    fn serve(&self, _: NodeId, _: Header, request: Request) -> BoxFuture<'static, Response> {
        let echo = self.0.clone();
        Box::pin(async move {
            echo.begun.fetch_add(1, Ordering::SeqCst);
            let response = match request {
                Request::Gossip(bytes) => {
                    if bytes.first() == Some(&b'~') {
                        echo.env.sleep(Duration::from_millis(1)).await;
                    }
                    Response::Gossip(Some(bytes))
                }
                Request::Meta(bytes) => {
                    let _permit = echo.gate.acquire().await;
                    Response::Meta(bytes)
                }
                Request::Page(page) => Response::Meta(Bytes::from(vec![1; page.limit as usize])),
                _ => Response::Pong,
            };
            echo.finished.fetch_add(1, Ordering::SeqCst);
            response
        })
    }
}

struct Policy(Hello);

impl Admission for Policy {
    fn hello(&self) -> Hello {
        self.0.clone()
    }

    fn admit(&self, theirs: &Hello) -> Result<(), String> {
        if theirs.node == NodeId(666) {
            return Err("666 is no member of this cluster".to_owned());
        }
        Ok(())
    }
}

fn hello(node: u128) -> Hello {
    Hello {
        protocol: PROTOCOL,
        cluster_name: "ring".to_owned(),
        cluster_id: Some(1),
        node: NodeId(node),
        actor: ActorId(node as u64),
        incarnation: Incarnation(5),
        epoch: Epoch(3),
    }
}

/// No pauses and no keep-alive of their own accord, so that only what a test asks for happens.
fn options() -> TcpOptions {
    TcpOptions {
        listen: "127.0.0.1:0".to_owned(),
        min_backoff: Duration::ZERO,
        max_backoff: Duration::ZERO,
        keepalive: Duration::from_secs(3600),
        ..TcpOptions::default()
    }
}

struct Node {
    id: NodeId,
    env: Env,
    transport: Arc<TcpTransport>,
    echo: Arc<Echo>,
}

impl Node {
    async fn start(hello: Hello, options: TcpOptions) -> Self {
        let env = tokio_env();
        let clock = HlcClock::new(env.clone(), Hlc(0), Duration::from_secs(1));
        let stamps = Arc::new(NodeStamps::new(clock));
        stamps.advance(Epoch(3));
        let id = hello.node;
        let transport = TcpTransport::start(env.clone(), options, stamps, Arc::new(Policy(hello)))
            .await
            .expect("a free port on loopback");
        let echo = Arc::new(Echo {
            env: env.clone(),
            gate: Semaphore::new(0),
            begun: AtomicUsize::new(0),
            finished: AtomicUsize::new(0),
        });
        transport.set_service(Arc::new(Service(echo.clone())));
        Self { id, env, transport, echo }
    }

    async fn new(node: u128) -> Self {
        Self::start(hello(node), options()).await
    }

    fn knows(&self, other: &Node) {
        self.transport.set_address(other.id, &other.address());
    }

    fn address(&self) -> String {
        self.transport.local_addr().to_string()
    }

    fn call(&self, to: NodeId, request: Request) -> BoxFuture<'static, Outcome> {
        self.call_within(SOON, to, request)
    }

    fn call_within(
        &self,
        time: Duration,
        to: NodeId,
        request: Request,
    ) -> BoxFuture<'static, Outcome> {
        self.transport.call(to, header(), request, self.env.mono() + time)
    }

    fn stats_of(&self, peer: NodeId) -> PeerStats {
        let stats = self.transport.stats();
        stats.peers.into_iter().find(|stats| stats.node == peer).expect("it has an address")
    }

    fn inbound(&self) -> InboundStats {
        self.transport.stats().inbound
    }
}

fn header() -> Header {
    Header { epoch: Epoch(3), hlc: Hlc(1), budget_ms: 1000 }
}

fn gossip(text: &'static str) -> Request {
    Request::Gossip(Bytes::from_static(text.as_bytes()))
}

fn wait() -> Request {
    Request::Meta(Bytes::new())
}

fn page(bytes: u32) -> Request {
    Request::Page(crate::net::messages::PageRequest {
        table: TableId(1),
        partition: crate::types::PartitionId(0),
        after: None,
        prefix: Bytes::new(),
        limit: bytes,
        want: Want::Digest,
        refill: false,
    })
}

fn answer_of(outcome: Outcome) -> Response {
    outcome.expect("an answer").1
}

#[track_caller]
fn assert_not_sent(outcome: Outcome, expected: &str) {
    match outcome {
        Err(CallError::NotSent { why, .. }) if why.contains(expected) => {}
        other => panic!("{expected:?} was expected, not {other:?}"),
    }
}

#[track_caller]
fn assert_lost(outcome: Outcome, expected: &str) {
    match outcome {
        Err(CallError::Lost { why }) if why.contains(expected) => {}
        other => panic!("{expected:?} was expected, not {other:?}"),
    }
}

/// Polls until `holds`, or fails after [`SOON`].
async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let env = tokio_env();
    let deadline = env.mono() + SOON;
    while !holds() {
        assert!(env.mono() < deadline, "never came true: {what}");
        env.sleep(Duration::from_millis(1)).await;
    }
}

async fn pair() -> (Node, Node) {
    let (a, b) = (Node::new(1).await, Node::new(2).await);
    a.knows(&b);
    b.knows(&a);
    (a, b)
}

/// A stranger's connection, past its handshake as `hello`.
async fn raw_peer(to: &Node, hello: &Hello) -> TcpStream {
    let mut stream = TcpStream::connect(to.address()).await.expect("it listens");
    let frame = encode_message(FrameKind::Hello, 0, hello, MAX_HELLO_BYTES).expect("small");
    stream.write_all(&frame).await.expect("it reads");
    let mut reader = FrameReader::new(&mut stream, MAX_HELLO_BYTES);
    reader.wait().await.expect("an answer");
    let (head, payload) = reader.buffered().expect("sound").expect("whole");
    assert_eq!(head.kind, FrameKind::Welcome, "{:?}", greet::reason(payload));
    stream
}

/// Reads until the other side closes; true if it did.
async fn is_hung_up(stream: &mut TcpStream) -> bool {
    let mut sink = Vec::new();
    let env = tokio_env();
    // A reset counts as well: it closed with bytes of ours unread.
    env.timeout(SOON, stream.read_to_end(&mut sink)).await.is_ok()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_concurrent_calls_get_each_its_own_answer() {
    let (a, b) = pair().await;
    let calls = (0..10_000).map(|i| {
        let prefix = if i % 2 == 0 { '~' } else { '=' };
        let body = Bytes::from(format!("{prefix}{i}"));
        let (from, to) = if i % 3 == 0 { (&b, &a) } else { (&a, &b) };
        let call = from.call(to.id, Request::Gossip(body.clone()));
        async move { assert_eq!(answer_of(call.await), Response::Gossip(Some(body))) }
    });
    join_all(calls).await;
    let stats = a.stats_of(b.id);
    assert_eq!((stats.connects, stats.in_flight, stats.queued_bytes), (1, 0, 0));
    assert_eq!(stats.answered + b.stats_of(a.id).answered, 10_000);
    assert_eq!(a.inbound().in_flight + b.inbound().in_flight, 0);
}

#[tokio::test]
async fn answers_carry_the_peers_epoch_and_clock() {
    let (a, b) = pair().await;
    let (header, _) = a.call(b.id, Request::Ping).await.expect("an answer");
    assert_eq!(header.epoch, Epoch(3));
    assert!(header.hlc > Hlc(1));
}

#[tokio::test]
async fn large_and_small_messages_share_a_connection() {
    let (a, b) = pair().await;
    let large = Bytes::from(vec![9; 20 << 20]);
    let calls = [large.clone(), Bytes::from_static(b"small"), large, Bytes::new()];
    let answers = join_all(calls.iter().map(|b1| a.call(b.id, Request::Gossip(b1.clone())))).await;
    for (answer, sent) in answers.into_iter().zip(calls) {
        assert!(answer_of(answer) == Response::Gossip(Some(sent)));
    }
}

#[tokio::test]
async fn a_refused_connection_is_not_sent_and_calls_fail_fast_during_the_pause() {
    let slow = Duration::from_secs(3600);
    let a = Node::start(hello(1), TcpOptions { min_backoff: slow, max_backoff: slow, ..options() })
        .await;
    let gone = Node::new(2).await;
    let (node, address) = (gone.id, gone.address());
    gone.transport.shutdown(gone.env.mono()).await;
    let probe = async || TcpStream::connect(&address).await.is_err();
    while !probe().await {
        tokio::task::yield_now().await;
    }
    assert_not_sent(a.call(node, Request::Ping).await, "no address");
    a.transport.set_address(node, &address);
    assert_not_sent(a.call(node, Request::Ping).await, "connect to 127.0.0.1");
    assert_not_sent(a.call(node, Request::Ping).await, "next attempt in");
    assert_eq!(a.stats_of(node).connect_failures, 1);
    assert_eq!(a.stats_of(node).not_sent, 2);
}

#[tokio::test]
async fn a_new_address_ends_the_pause() {
    let slow = Duration::from_secs(3600);
    let a = Node::start(hello(1), TcpOptions { min_backoff: slow, max_backoff: slow, ..options() })
        .await;
    let b = Node::new(2).await;
    a.transport.set_address(b.id, "nowhere.invalid:1");
    assert!(matches!(a.call(b.id, Request::Ping).await, Err(CallError::NotSent { .. })));
    a.knows(&b);
    assert_eq!(answer_of(a.call(b.id, Request::Ping).await), Response::Pong);
}

#[tokio::test]
async fn a_peer_that_connects_ends_the_pause() {
    let slow = Duration::from_secs(3600);
    let a = Node::start(hello(1), TcpOptions { min_backoff: slow, max_backoff: slow, ..options() })
        .await;
    let env = tokio_env();
    let clock = HlcClock::new(env.clone(), Hlc(0), Duration::from_secs(1));
    let b = TcpTransport::start(
        env.clone(),
        options(),
        Arc::new(NodeStamps::new(clock)),
        Arc::new(Policy(hello(2))),
    )
    .await
    .expect("a free port on loopback");
    a.transport.set_address(NodeId(2), &b.local_addr().to_string());
    assert_not_sent(a.call(NodeId(2), Request::Ping).await, "still starting");
    b.set_service(Arc::new(Service(a.echo.clone())));
    assert_not_sent(a.call(NodeId(2), Request::Ping).await, "next attempt in");
    b.set_address(a.id, &a.address());
    answer_of(b.call(a.id, header(), Request::Ping, env.mono() + SOON).await);
    assert_eq!(answer_of(a.call(NodeId(2), Request::Ping).await), Response::Pong);
}

#[tokio::test]
async fn a_peer_that_dies_with_the_request_in_hand_makes_it_lost() {
    let (a, b) = pair().await;
    let call = tokio_env().run("call", a.call(b.id, wait()));
    eventually("the request is being served", || b.echo.begun.load(Ordering::SeqCst) == 1).await;
    b.transport.shutdown(b.env.mono()).await;
    assert_lost(call.await.expect("it ran"), "closed");
    assert_eq!(a.stats_of(b.id).in_flight, 0);
    // The work that was begun is finished all the same.
    b.echo.gate.add_permits(1);
    eventually("it ran to its end", || b.echo.finished.load(Ordering::SeqCst) == 1).await;
}

/// R07 of the test plan: a retransmission inside a transport has applied one write twice elsewhere.
#[tokio::test]
async fn a_lost_request_is_never_sent_again() {
    let (a, b) = pair().await;
    let call = a.env.run("call", a.call(b.id, wait()));
    eventually("the request is being served", || b.echo.begun.load(Ordering::SeqCst) == 1).await;
    for inbound in lock(&b.transport.shared.inbound).values() {
        inbound.closer.close("cut by the test");
    }
    assert_lost(call.await.expect("it ran"), "closed");
    assert_eq!(answer_of(a.call(b.id, Request::Ping).await), Response::Pong);
    assert_eq!(a.stats_of(b.id).connects, 2);
    assert_eq!(b.echo.begun.load(Ordering::SeqCst), 2, "the first call and the ping");
}

#[tokio::test]
async fn a_restarted_peer_is_reached_again() {
    let a = Node::new(1).await;
    let b = Node::new(2).await;
    let (address, id) = (b.address(), b.id);
    a.knows(&b);
    assert_eq!(answer_of(a.call(id, Request::Ping).await), Response::Pong);
    b.transport.shutdown(b.env.mono()).await;
    drop(b);
    eventually("the loss is noticed", || !a.stats_of(id).connected).await;
    let again = TcpOptions { listen: address, ..options() };
    let b = Node::start(Hello { incarnation: Incarnation(6), ..hello(2) }, again).await;
    assert_eq!(answer_of(a.call(id, gossip("back")).await), Response::Gossip(Some("back".into())));
    assert_eq!(a.stats_of(id).connects, 2);
    drop(b);
}

#[tokio::test]
async fn a_deadline_before_the_answer_is_lost_and_the_late_answer_is_ignored() {
    let (a, b) = pair().await;
    assert_eq!(answer_of(a.call(b.id, Request::Ping).await), Response::Pong);
    let call = a.call_within(Duration::from_millis(300), b.id, wait());
    assert_lost(call.await, "deadline");
    eventually("it arrived all the same", || b.echo.begun.load(Ordering::SeqCst) == 2).await;
    b.echo.gate.add_permits(1);
    eventually("the answer is too late", || a.stats_of(b.id).late_answers == 1).await;
    assert_eq!(answer_of(a.call(b.id, Request::Ping).await), Response::Pong);
}

#[tokio::test]
async fn a_deadline_while_the_request_is_queued_means_that_it_never_leaves() {
    let a = Node::start(
        hello(1),
        TcpOptions { handshake_timeout: Duration::from_secs(3600), ..options() },
    )
    .await;
    let mute = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = mute.local_addr().expect("bound").to_string();
    a.transport.set_address(NodeId(2), &address);
    let call = a.call_within(Duration::from_millis(20), NodeId(2), wait());
    assert_not_sent(call.await, "queued");
    let past = a.transport.call(NodeId(2), header(), wait(), Mono(0));
    assert_not_sent(past.await, "deadline");
    let stats = a.stats_of(NodeId(2));
    assert_eq!((stats.in_flight, stats.queued_bytes, stats.not_sent), (0, 0, 2));
}

#[tokio::test]
async fn a_mute_callee_costs_one_handshake_timeout() {
    let a = Node::start(
        hello(1),
        TcpOptions { handshake_timeout: Duration::from_millis(20), ..options() },
    )
    .await;
    let mute = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    a.transport.set_address(NodeId(2), &mute.local_addr().expect("bound").to_string());
    assert_not_sent(a.call(NodeId(2), Request::Ping).await, "timed out");
}

#[tokio::test]
async fn dropped_calls_leave_nothing_behind() {
    let (a, b) = pair().await;
    let a_call = || a.call_within(Duration::from_millis(5), b.id, wait());
    for _ in 0..100 {
        let mut call = a_call();
        assert!(futures_util::poll!(&mut call).is_pending());
        drop(call);
    }
    let stats = a.stats_of(b.id);
    assert_eq!((stats.in_flight, stats.queued_bytes), (0, 0));
    assert_eq!(stats.not_sent + stats.abandoned, 100);
    assert_eq!(answer_of(a.call(b.id, Request::Ping).await), Response::Pong);
}

#[tokio::test]
async fn calls_beyond_the_bound_are_not_sent() {
    let a = Node::start(hello(1), TcpOptions { max_inflight_per_peer: 2, ..options() }).await;
    let b = Node::new(2).await;
    a.knows(&b);
    let calls = [a.call(b.id, wait()), a.call(b.id, wait())].map(|call| a.env.run("call", call));
    eventually("both are under way", || a.stats_of(b.id).in_flight == 2).await;
    assert_not_sent(a.call(b.id, Request::Ping).await, "2 calls");
    b.echo.gate.add_permits(1);
    for call in calls {
        assert_eq!(answer_of(call.await.expect("it ran")), Response::Meta(Bytes::new()));
    }
}

#[tokio::test]
async fn bytes_beyond_the_bound_are_not_sent() {
    let limits = TcpOptions {
        max_queued_bytes_per_peer: 1000,
        handshake_timeout: Duration::from_secs(3600),
        ..options()
    };
    let a = Node::start(hello(1), limits).await;
    let mute = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    a.transport.set_address(NodeId(2), &mute.local_addr().expect("bound").to_string());
    let large = || Request::Gossip(Bytes::from(vec![0; 2000]));
    let mut first = a.call(NodeId(2), large());
    assert!(futures_util::poll!(&mut first).is_pending(), "a single frame may always go");
    assert_not_sent(a.call(NodeId(2), large()).await, "bytes to that node are queued");
    drop(first);
    let mut next = a.call(NodeId(2), large());
    assert!(futures_util::poll!(&mut next).is_pending(), "its place is free again");
}

#[tokio::test]
async fn requests_beyond_the_callees_bound_are_refused_at_once() {
    let a = Node::new(1).await;
    let b = Node::start(hello(2), TcpOptions { max_inflight_per_peer: 2, ..options() }).await;
    a.knows(&b);
    let calls = [a.call(b.id, wait()), a.call(b.id, wait())].map(|call| a.env.run("call", call));
    eventually("both are being served", || b.inbound().in_flight == 2).await;
    let refused = answer_of(a.call(b.id, Request::Ping).await);
    assert!(matches!(refused, Response::Refused(Refusal::Overloaded { .. })), "{refused:?}");
    assert_eq!(b.inbound().overloaded, 1);
    assert_eq!(b.echo.begun.load(Ordering::SeqCst), 2);
    b.echo.gate.add_permits(1);
    for call in calls {
        assert_eq!(answer_of(call.await.expect("it ran")), Response::Meta(Bytes::new()));
    }
}

#[tokio::test]
async fn a_request_without_time_left_is_not_begun() {
    let (a, b) = pair().await;
    let late = Header { budget_ms: 0, ..header() };
    let call = a.transport.call(b.id, late, Request::Ping, a.env.mono() + SOON);
    assert_eq!(answer_of(call.await), Response::Refused(Refusal::Late));
    assert_eq!(b.echo.begun.load(Ordering::SeqCst), 0);
    assert_eq!(b.inbound().late, 1);
}

#[tokio::test]
async fn what_is_too_large_for_a_frame_is_not_sent_or_its_answer_unknown() {
    let a = Node::start(hello(1), TcpOptions { max_frame_bytes: 10_000, ..options() }).await;
    let b = Node::start(hello(2), TcpOptions { max_frame_bytes: 10_000, ..options() }).await;
    a.knows(&b);
    let large = Request::Gossip(Bytes::from(vec![0; 10_000]));
    assert_not_sent(a.call(b.id, large).await, "at most 10000 are allowed");
    assert_lost(a.call(b.id, page(10_000)).await, "too large");
    assert_eq!(answer_of(a.call(b.id, Request::Ping).await), Response::Pong);
}

#[tokio::test]
async fn strangers_and_garbage_are_hung_up_on_and_counted_while_peers_are_served() {
    let (a, b) = pair().await;
    let request = encode_request(1, &header(), &Request::Ping, 1000).expect("small");
    let mut damaged = request.to_vec();
    *damaged.last_mut().expect("not empty") ^= 1;
    let mut huge = request.to_vec();
    huge[8..12].copy_from_slice(&u32::MAX.to_le_bytes());
    let mut future = request.to_vec();
    future[3] = 77;
    let noise: Vec<u8> =
        (0..100_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let pong = encode_frame(FrameKind::Pong, 0, &[], 0).expect("empty");
    let not_a_request = encode_frame(FrameKind::Request, 1, b"\xff\xff", 10).expect("small");

    let before: [&[u8]; 6] =
        [&noise, b"GET / HTTP/1.1\r\n\r\n", &damaged, &huge, &future, &request];
    let after: [&[u8]; 6] = [&noise, &damaged, &huge, &future, &pong, &not_a_request];
    for (index, bytes) in before.iter().enumerate() {
        let mut stream = TcpStream::connect(b.address()).await.expect("it listens");
        let _ = stream.write_all(bytes).await;
        assert!(is_hung_up(&mut stream).await, "before the handshake, case {index}");
    }
    for (index, bytes) in after.iter().enumerate() {
        let mut stream = raw_peer(&b, &hello(9)).await;
        let _ = stream.write_all(bytes).await;
        assert!(is_hung_up(&mut stream).await, "after the handshake, case {index}");
    }
    eventually("each is counted", || b.inbound().garbage == 12).await;
    assert_eq!(answer_of(a.call(b.id, Request::Ping).await), Response::Pong);
    eventually("only the peer is left", || b.inbound().connections == 1).await;
}

#[tokio::test]
async fn half_frames_and_silent_strangers_are_dropped() {
    let limits = TcpOptions { handshake_timeout: Duration::from_millis(500), ..options() };
    let b = Node::start(hello(2), limits).await;
    let mut silent = TcpStream::connect(b.address()).await.expect("it listens");
    assert!(is_hung_up(&mut silent).await);
    let request = encode_request(1, &header(), &Request::Ping, 1000).expect("small");
    let mut half = raw_peer(&b, &hello(9)).await;
    half.write_all(&request[..request.len() - 1]).await.expect("it reads");
    half.shutdown().await.expect("our side");
    assert!(is_hung_up(&mut half).await);
    assert_eq!(b.echo.begun.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn strangers_beyond_the_bounds_are_dropped_unheard() {
    let limits = TcpOptions { max_handshakes: 3, ..options() };
    let b = Node::start(hello(2), limits).await;
    let mut idle = Vec::new();
    for _ in 0..10 {
        idle.push(TcpStream::connect(b.address()).await.expect("the kernel accepts"));
    }
    eventually("three wait, seven are gone", || b.inbound().dropped == 7).await;
    drop(idle);
    eventually("their places are free again", || b.inbound().accepted == 3).await;
    let limits = TcpOptions { max_connections: 1, ..options() };
    let c = Node::start(hello(3), limits).await;
    let _first = raw_peer(&c, &hello(9)).await;
    let mut second = TcpStream::connect(c.address()).await.expect("the kernel accepts");
    assert!(is_hung_up(&mut second).await);
}

#[tokio::test]
async fn misfits_are_refused_with_the_reason_on_both_sides() {
    let misfits = [
        (Hello { cluster_name: "other".to_owned(), ..hello(3) }, "cluster.name"),
        (Hello { cluster_id: Some(9), ..hello(3) }, "two clusters"),
        (Hello { protocol: ProtocolRange { min: 90, max: 91 }, ..hello(3) }, "upgrade"),
        (hello(666), "no member"),
        (hello(2), "both of us"),
    ];
    let b = Node::new(2).await;
    let refusals = misfits.len() as u64;
    for (misfit, expected) in misfits {
        let a = Node::start(misfit, options()).await;
        a.knows(&b);
        assert_not_sent(a.call(b.id, Request::Ping).await, expected);
    }
    eventually("all refused", || b.inbound().refused == refusals).await;
    assert_eq!(b.inbound().connections, 0);
}

#[tokio::test]
async fn another_node_at_a_peers_address_is_told_apart() {
    let (a, b) = pair().await;
    a.transport.set_address(NodeId(77), &b.address());
    assert_not_sent(a.call(NodeId(77), Request::Ping).await, "was expected here");
}

#[tokio::test]
async fn a_node_that_is_still_starting_is_not_sent_to() {
    let a = Node::new(1).await;
    let env = tokio_env();
    let clock = HlcClock::new(env.clone(), Hlc(0), Duration::from_secs(1));
    let stamps = Arc::new(NodeStamps::new(clock));
    let b = TcpTransport::start(env, options(), stamps, Arc::new(Policy(hello(2))))
        .await
        .expect("a free port on loopback");
    a.transport.set_address(NodeId(2), &b.local_addr().to_string());
    assert_not_sent(a.call(NodeId(2), Request::Ping).await, "still starting");
    b.set_service(Arc::new(Service(a.echo.clone())));
    assert_eq!(answer_of(a.call(NodeId(2), Request::Ping).await), Response::Pong);
}

#[tokio::test]
async fn of_two_starts_of_a_node_the_one_met_last_is_talked_to_even_if_it_is_older() {
    let b = Node::new(2).await;
    let mut old = raw_peer(&b, &hello(9)).await;
    let mut new = raw_peer(&b, &Hello { incarnation: Incarnation(6), ..hello(9) }).await;
    assert!(is_hung_up(&mut old).await);
    // An older copy of a directory has to hear what it is.
    let a = Node::start(hello(9), options()).await;
    a.knows(&b);
    assert_eq!(answer_of(a.call(b.id, Request::Ping).await), Response::Pong);
    assert!(is_hung_up(&mut new).await);
}

#[tokio::test]
async fn a_silent_connection_is_given_up() {
    let limits = TcpOptions { keepalive: Duration::from_millis(10), ..options() };
    let a = Node::start(hello(1), limits).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    a.transport.set_address(NodeId(2), &listener.local_addr().expect("bound").to_string());
    let call = a.env.run("call", a.call(NodeId(2), wait()));
    let (mut stream, _) = listener.accept().await.expect("it calls");
    let frame = encode_message(FrameKind::Welcome, 0, &hello(2), MAX_HELLO_BYTES).expect("small");
    stream.write_all(&frame).await.expect("it reads");
    assert_lost(call.await.expect("it ran"), "silent");
}

#[tokio::test]
async fn an_idle_connection_between_living_peers_stays() {
    let limits = TcpOptions { keepalive: Duration::from_millis(250), ..options() };
    let a = Node::start(hello(1), limits.clone()).await;
    let b = Node::start(hello(2), limits).await;
    a.knows(&b);
    assert_eq!(answer_of(a.call(b.id, Request::Ping).await), Response::Pong);
    let env = tokio_env();
    let until = env.mono() + Duration::from_millis(1500);
    eventually("six intervals are over", || env.mono() > until).await;
    assert_eq!(answer_of(a.call(b.id, Request::Ping).await), Response::Pong);
    assert_eq!(a.stats_of(b.id).connects, 1);
}

/// The peer asks for far more than it reads. What waits for it stays within the bound, and it
/// still gets all of it when it reads at last.
#[tokio::test]
async fn a_peer_that_does_not_read_costs_bounded_memory() {
    const CALLS: u64 = 2000;
    const ANSWER: u32 = 100_000;
    let limits = TcpOptions { max_queued_bytes_per_peer: 1 << 20, ..options() };
    let b = Node::start(hello(2), limits).await;
    let stream = raw_peer(&b, &hello(9)).await;
    let (read, mut write) = stream.into_split();
    let mut requests = Vec::new();
    for stream in 1..=CALLS {
        let request = page(ANSWER);
        requests.extend(encode_request(stream, &header(), &request, 1000).expect("small"));
    }
    let writer = b.env.run("write", async move {
        write.write_all(&requests).await.expect("it reads in the end");
        write
    });
    let waiting = || {
        let inbound = lock(&b.transport.shared.inbound);
        inbound.values().map(|entry| entry.caller.waiting_bytes()).max().unwrap_or(0)
    };
    let bound = (1 << 20) + 2 * ANSWER as usize;
    eventually("the bound is met", || waiting() > 1 << 20).await;
    assert!(waiting() <= bound, "{}", waiting());
    // The kernel's buffers hold some megabytes of the 200.
    assert!(b.inbound().requests < CALLS / 2, "{}", b.inbound().requests);

    let mut reader = FrameReader::new(read, 1 << 20);
    for stream in 1..=CALLS {
        reader.wait().await.expect("an answer");
        let (head, _) = reader.buffered().expect("sound").expect("whole");
        assert_eq!(head.stream, stream);
        assert!(waiting() <= bound, "{}", waiting());
        reader.consume(head);
    }
    drop(writer.await);
}

#[tokio::test]
async fn a_peer_that_does_not_read_is_given_up() {
    let limits = TcpOptions { keepalive: Duration::from_millis(50), ..options() };
    let b = Node::start(hello(2), limits).await;
    let mut stream = raw_peer(&b, &hello(9)).await;
    for id in 1..=20 {
        let request = page(10 << 20);
        let frame = encode_request(id, &header(), &request, 1000).expect("small");
        if stream.write_all(&frame).await.is_err() {
            break;
        }
    }
    eventually("it is given up", || b.inbound().connections == 0).await;
}

#[tokio::test]
async fn shutdown_finishes_what_is_under_way_and_begins_nothing() {
    let (a, b) = pair().await;
    let call = a.env.run("call", a.call(b.id, wait()));
    eventually("it is being served", || b.inbound().in_flight == 1).await;
    let transport = b.transport.clone();
    let deadline = b.env.mono() + SOON;
    let stopped = b.env.run("stop", async move { transport.shutdown(deadline).await });
    eventually("it drains", || b.transport.shared.is_stopping()).await;
    let refused = answer_of(a.call(b.id, Request::Ping).await);
    assert_eq!(refused, Response::Refused(Refusal::Stopping));
    assert_not_sent(b.call(a.id, Request::Ping).await, "stopping");
    b.echo.gate.add_permits(1);
    assert_eq!(answer_of(call.await.expect("it ran")), Response::Meta(Bytes::new()));
    stopped.await.expect("it ran");
    eventually("the connection is closed", || !a.stats_of(b.id).connected).await;
}

#[tokio::test]
async fn reads_are_timed_for_hedging() {
    let (a, b) = pair().await;
    let key = Key::new(&b"k"[..]).expect("short");
    for _ in 0..30 {
        let read = Read { table: TableId(1), key: key.clone(), want: Want::Record };
        assert_eq!(answer_of(a.call(b.id, Request::Read(read)).await), Response::Pong);
    }
    let estimate = a.transport.latency(b.id).expect("thirty reads");
    assert!(estimate.p50 <= estimate.p99);
    assert_eq!(a.stats_of(b.id).reads, Some(estimate));
    assert!(a.stats_of(b.id).mean_answer > Duration::ZERO);
}
