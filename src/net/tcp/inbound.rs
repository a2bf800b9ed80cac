//! The callee's end of a connection: listen, judge who calls, serve requests.
//!
//! A request is tried on the spot first: an answer that is in memory is then written together with
//! all others of the same read, without a task of its own. One that has to wait goes on in a task
//! that nothing cuts short: not the connection's end either, for the write that it carries out may
//! already stand on other replicas.
//!
//! Bounds: requests and their bytes under way per peer, over all its connections (beyond: refused
//! as overload, at once); bytes of answers that wait (beyond: no further request is read, and
//! finished ones wait). A peer that does not read its answers is given up by [`watch`].

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use super::caller::{Caller, UnderWay};
use super::closer::{Closer, duplex, let_others};
use super::greet::{self, GreetEnd};
use super::peer::Identity;
use super::shared::{Phase, Shared};
use super::wire::{FrameReader, ReadEnd, is_busy, write_frames};
use crate::net::codec::{self, FrameKind};
use crate::net::handshake::MAX_HELLO_BYTES;
use crate::net::messages::{Header, Refusal, Request, Response};
use crate::types::NodeId;

/// Silent keep-alive intervals after which a caller counts as gone (it pings every second one).
const SILENT_INTERVALS: u32 = 4;

/// Keep-alive intervals without progress in writing after which a caller counts as stuck.
const STUCK_INTERVALS: u32 = 2;

/// Accepts peers until the node stops.
pub(super) async fn listen(shared: Arc<Shared>, listener: TcpListener) {
    let connections = Arc::new(Semaphore::new(shared.options.max_connections));
    let handshakes = Arc::new(Semaphore::new(shared.options.max_handshakes));
    loop {
        let accepted = tokio::select! {
            biased;
            () = shared.phase(Phase::Draining) => return,
            accepted = listener.accept() => accepted,
        };
        let (stream, from) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of file descriptors, most likely: wait for some to come back.
                tracing::warn!(%error, "cannot accept a peer's connection");
                shared.env.sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let (Ok(connection), Ok(handshake)) =
            (connections.clone().try_acquire_owned(), handshakes.clone().try_acquire_owned())
        else {
            shared.counters.dropped.fetch_add(1, Ordering::Relaxed);
            continue;
        };
        shared.counters.accepted.fetch_add(1, Ordering::Relaxed);
        let task_shared = shared.clone();
        shared.env.spawn("peer connection", async move {
            let _connection = connection;
            accept(task_shared, stream, from, move || drop(handshake)).await;
        });
    }
}

async fn accept(
    shared: Arc<Shared>,
    stream: TcpStream,
    from: SocketAddr,
    greeted: impl FnOnce() + Send,
) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "TCP_NODELAY");
    }
    let (read, write) = stream.into_split();
    tokio::select! {
        biased;
        () = shared.phase(Phase::Closed) => {}
        () = converse(&shared, read, write, from, greeted) => {}
    }
}

/// Serves one caller over any byte stream (TLS will come in between here).
async fn converse<R, W>(
    shared: &Arc<Shared>,
    read: R,
    mut write: W,
    from: SocketAddr,
    greeted: impl FnOnce() + Send,
) where
    R: AsyncRead + Unpin + Send,
    W: AsyncWrite + Unpin + Send,
{
    let mut reader = FrameReader::new(read, MAX_HELLO_BYTES);
    let theirs = match greet::answer(shared, &mut reader, &mut write).await {
        Ok(theirs) => theirs,
        Err(end) => return report_greeting(shared, from, &end),
    };
    greeted();
    reader.set_max_payload_bytes(shared.options.max_frame_bytes);
    let caller = Caller::new(shared, theirs.node);
    let identity = (theirs.actor, theirs.incarnation);
    let registered = Registered::new(shared, &caller, identity);
    shared.supersede(theirs.node, identity);
    if let Some(peer) = shared.peer(theirs.node) {
        peer.has_called();
    }
    tracing::info!(peer = %theirs.node, %from, epoch = %theirs.epoch, "a peer has connected");

    let alive = Alive::default();
    let end = duplex(
        write_answers(&caller, &mut write, &alive),
        read_requests(shared, &caller, &mut reader, &alive),
        async {
            tokio::select! {
                biased;
                why = registered.closer.closed() => ReadEnd::Io(std::io::Error::other(why)),
                end = watch(shared, &caller, &alive) => end,
            }
        },
    )
    .await;
    drop(registered);
    match end {
        ReadEnd::Garbage(error) => shared.report_garbage(from, Some(caller.node), &error),
        ReadEnd::Closed => tracing::debug!(peer = %caller.node, "a peer has disconnected"),
        end => tracing::info!(peer = %caller.node, why = %end, "a peer's connection has ended"),
    }
}

fn report_greeting(shared: &Shared, from: SocketAddr, end: &GreetEnd) {
    match end {
        GreetEnd::Read(ReadEnd::Garbage(error)) => shared.report_garbage(from, None, error),
        GreetEnd::WeRefused(_) | GreetEnd::TheyRefused(_) => {
            shared.counters.refused.fetch_add(1, Ordering::Relaxed);
            if let Some(held_back) = shared.refusal_log.pass(shared.env.mono()) {
                tracing::warn!(%from, why = %end, held_back, "a peer's handshake was refused");
            }
        }
        GreetEnd::Read(_) | GreetEnd::Write(_) | GreetEnd::Timeout => {
            tracing::debug!(%from, why = %end, "a connection ended before its handshake");
        }
    }
}

/// The connection's entry among those of the transport, until it is dropped.
struct Registered<'a> {
    shared: &'a Arc<Shared>,
    id: u64,
    caller: Arc<Caller>,
    closer: Arc<Closer>,
}

impl<'a> Registered<'a> {
    fn new(shared: &'a Arc<Shared>, caller: &Arc<Caller>, identity: Identity) -> Self {
        let closer = Arc::new(Closer::default());
        let id = shared.register(Inbound {
            node: caller.node,
            identity,
            closer: closer.clone(),
            caller: caller.clone(),
        });
        Self { shared, id, caller: caller.clone(), closer }
    }
}

impl Drop for Registered<'_> {
    fn drop(&mut self) {
        self.caller.leave();
        self.shared.unregister(self.id);
        self.shared.settle();
    }
}

/// A connection that a peer has opened.
#[derive(Debug)]
pub(super) struct Inbound {
    pub(super) node: NodeId,
    pub(super) identity: Identity,
    pub(super) closer: Arc<Closer>,
    pub(super) caller: Arc<Caller>,
}

#[derive(Debug, Default)]
struct Alive {
    heard: AtomicBool,
    wrote: AtomicBool,
}

async fn write_answers<W>(caller: &Caller, write: &mut W, alive: &Alive) -> ReadEnd
where
    W: AsyncWrite + Unpin + Send,
{
    let mut frames = Vec::new();
    let mut gather = BytesMut::new();
    loop {
        caller.take(&mut frames);
        if frames.is_empty() {
            caller.queued.notified().await;
            continue;
        }
        let mut wrote = |_| alive.wrote.store(true, Ordering::Relaxed);
        if let Err(error) = write_frames(write, &frames, &mut gather, &mut wrote).await {
            return error.into();
        }
        caller.wrote(frames.len());
        frames.clear();
        if caller.unwritten() > 0 {
            let_others().await;
        }
    }
}

async fn read_requests<R>(
    shared: &Arc<Shared>,
    caller: &Arc<Caller>,
    reader: &mut FrameReader<R>,
    alive: &Alive,
) -> ReadEnd
where
    R: AsyncRead + Unpin,
{
    loop {
        caller.has_space().await;
        match take_request(reader) {
            Err(end) => return end,
            Ok(Some(Incoming::Ping)) => answer_ping(caller),
            Ok(Some(Incoming::Request { stream, bytes, header, request })) => {
                serve(shared, caller, stream, bytes, header, request);
            }
            Ok(None) => {
                match reader.fill().await {
                    Ok(bytes) if is_busy(bytes) => let_others().await,
                    Ok(_) => {}
                    Err(end) => return end,
                }
                alive.heard.store(true, Ordering::Relaxed);
            }
        }
    }
}

#[expect(clippy::large_enum_variant, reason = "one at a time, on the stack")]
enum Incoming {
    Ping,
    Request { stream: u64, bytes: usize, header: Header, request: Request },
}

fn take_request<R>(reader: &mut FrameReader<R>) -> Result<Option<Incoming>, ReadEnd>
where
    R: AsyncRead + Unpin,
{
    let Some((head, payload)) = reader.buffered()? else { return Ok(None) };
    let incoming = match head.kind {
        FrameKind::Request => {
            let (header, request) = codec::decode_payload(payload)?;
            Incoming::Request { stream: head.stream, bytes: payload.len(), header, request }
        }
        FrameKind::Ping => Incoming::Ping,
        FrameKind::Refuse => {
            let why = format!("the peer refused this node: {}", greet::reason(payload));
            return Err(ReadEnd::Io(std::io::Error::other(why)));
        }
        FrameKind::Hello | FrameKind::Welcome | FrameKind::Response | FrameKind::Pong => {
            return Err(codec::unexpected(head.kind).into());
        }
    };
    reader.consume(head);
    Ok(Some(incoming))
}

fn answer_ping(caller: &Caller) {
    if let Ok(pong) = codec::encode_frame(FrameKind::Pong, 0, &[], 0) {
        caller.push(pong);
    }
}

/// Answers a request now, or sees to it that it is answered later.
fn serve(
    shared: &Arc<Shared>,
    caller: &Arc<Caller>,
    stream: u64,
    bytes: usize,
    header: Header,
    request: Request,
) {
    let counters = &shared.counters;
    counters.requests.fetch_add(1, Ordering::Relaxed);
    let Some(service) = shared.service.get().filter(|_| !shared.is_stopping()) else {
        return answer(shared, caller, stream, &Response::Refused(Refusal::Stopping));
    };
    if header.budget_ms == 0 {
        counters.late.fetch_add(1, Ordering::Relaxed);
        return answer(shared, caller, stream, &Response::Refused(Refusal::Late));
    }
    if let Some(what) = caller.load.overload(bytes, &shared.options) {
        counters.overloaded.fetch_add(1, Ordering::Relaxed);
        return answer(shared, caller, stream, &Response::Refused(Refusal::Overloaded { what }));
    }
    let under_way = UnderWay::new(shared, &caller.load, bytes);
    let mut served = service.serve(caller.node, header, request);
    // Its wakers mean nothing yet: a future that is not ready is polled again by its own task.
    if let Poll::Ready(response) = served.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        return answer(shared, caller, stream, &response);
    }
    let (task_shared, caller) = (shared.clone(), caller.clone());
    shared.env.spawn("peer request", async move {
        let response = served.await;
        if let Some(frame) = answer_frame(&task_shared, caller.node, stream, &response) {
            drop(response);
            caller.push_in_turn(frame).await;
        }
        drop(under_way);
    });
}

fn answer(shared: &Shared, caller: &Caller, stream: u64, response: &Response) {
    if let Some(frame) = answer_frame(shared, caller.node, stream, response) {
        caller.push(frame);
    }
}

fn answer_frame(shared: &Shared, to: NodeId, stream: u64, response: &Response) -> Option<Bytes> {
    let stamps = &shared.stamps;
    let header = Header { epoch: stamps.epoch(), hlc: stamps.clock.now(), budget_ms: 0 };
    let max = shared.options.max_frame_bytes;
    let frame = codec::encode_response(stream, &header, response, max).or_else(|error| {
        // The work is done and cannot be refused any more: an empty answer means "unknown".
        tracing::error!(peer = %to, %error, "an answer cannot be sent");
        codec::encode_frame(FrameKind::Response, stream, &[], max)
    });
    frame.ok()
}

/// Ends the connection of a caller that is silent, though callers ping, or that does not read.
async fn watch(shared: &Shared, caller: &Caller, alive: &Alive) -> ReadEnd {
    let (mut silent, mut stuck) = (0, 0);
    loop {
        shared.env.sleep(shared.options.keepalive).await;
        let heard = alive.heard.swap(false, Ordering::Relaxed);
        silent = if heard { 0 } else { silent + 1 };
        let writing = alive.wrote.swap(false, Ordering::Relaxed) || caller.unwritten() == 0;
        stuck = if writing { 0 } else { stuck + 1 };
        if stuck >= STUCK_INTERVALS {
            return ReadEnd::Io(std::io::Error::other("it does not read its answers"));
        }
        if silent >= SILENT_INTERVALS {
            return ReadEnd::Io(std::io::Error::other("silent for too long"));
        }
    }
}
