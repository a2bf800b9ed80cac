//! Two and more transports on loopback, and strangers at the door.

mod calls;
mod silence;
mod strangers;

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
        before: None,
        prefix: Bytes::new(),
        limit: bytes,
        want: Want::Digest,
        refill: false,
        term: None,
        order: crate::types::ScanOrder::Ascending,
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
