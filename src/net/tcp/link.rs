//! The caller's end of a connection: connect, introduce oneself, send requests, hand out answers.

use std::collections::BTreeSet;
use std::future::pending;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use super::closer::{Closer, duplex, let_others};
use super::greet::{self, GreetEnd};
use super::peer::{LinkEnd, News, Outcome, Peer};
use super::shared::{Phase, Shared};
use super::wire::{FrameReader, ReadEnd, is_busy, write_frames};
use crate::net::codec::{self, FrameKind};
use crate::net::handshake::MAX_HELLO_BYTES;
use crate::net::transport::CallError;

/// Makes one attempt to connect to `peer` and carries its calls until the connection ends.
pub(super) async fn run(shared: Arc<Shared>, peer: Arc<Peer>) {
    let end = tokio::select! {
        biased;
        () = shared.phase(Phase::Closed) => LinkEnd::failed("the node is stopping".to_owned()),
        end = connect(&shared, &peer) => end,
    };
    let jitter = shared.env.random("peer-backoff");
    let news = peer.disconnected(shared.env.mono(), &end, jitter);
    let (peer, why) = (peer.node, end.why);
    match news {
        News::None => tracing::debug!(%peer, why, "no connection to a peer"),
        News::Ended => tracing::info!(%peer, why, "the connection to a peer has ended"),
        News::Unreachable => tracing::warn!(%peer, why, "no connection to a peer"),
    }
    shared.settle();
}

impl LinkEnd {
    fn failed(why: String) -> Self {
        Self { why, established: false, garbage: false, untouched: BTreeSet::new() }
    }
}

async fn connect(shared: &Arc<Shared>, peer: &Peer) -> LinkEnd {
    let Some(address) = peer.address() else {
        return LinkEnd::failed("no address of that node is known".to_owned());
    };
    let timeout = shared.options.connect_timeout;
    match shared.env.timeout(timeout, TcpStream::connect(address.as_str())).await {
        Err(_) => LinkEnd::failed(format!("connect to {address}: no answer in {timeout:?}")),
        Ok(Err(error)) => LinkEnd::failed(format!("connect to {address}: {error}")),
        Ok(Ok(stream)) => {
            // Small frames are gathered here; the kernel must not wait for more of them.
            if let Err(error) = stream.set_nodelay(true) {
                tracing::debug!(%error, "TCP_NODELAY");
            }
            let (read, write) = stream.into_split();
            carry(shared, peer, read, write).await
        }
    }
}

/// Carries calls over any byte stream (TLS will come in between here).
async fn carry<R, W>(shared: &Arc<Shared>, peer: &Peer, read: R, mut write: W) -> LinkEnd
where
    R: AsyncRead + Unpin + Send,
    W: AsyncWrite + Unpin + Send,
{
    let mut reader = FrameReader::new(read, MAX_HELLO_BYTES);
    let theirs = match greet::call(shared, &mut reader, &mut write, peer.node).await {
        Ok(theirs) => theirs,
        Err(end) => {
            let garbage = matches!(end, GreetEnd::Read(ReadEnd::Garbage(_)));
            return LinkEnd { garbage, ..LinkEnd::failed(format!("handshake: {end}")) };
        }
    };
    reader.set_max_payload_bytes(shared.options.max_frame_bytes);
    let identity = (theirs.actor, theirs.incarnation);
    let closer = Arc::new(Closer::default());
    peer.connected(identity, closer.clone());
    shared.supersede(peer.node, identity);
    tracing::info!(peer = %peer.node, epoch = %theirs.epoch, "connected to a peer");

    let batch = Batch::default();
    let heard = AtomicBool::new(true);
    let end = duplex(
        async { ReadEnd::Io(write_requests(peer, &batch, &mut write).await) },
        read_answers(shared, peer, &mut reader, &heard),
        async {
            tokio::select! {
                biased;
                why = closer.closed() => ReadEnd::Io(std::io::Error::other(why)),
                end = watch(shared, peer, &heard) => end,
            }
        },
    )
    .await;
    LinkEnd {
        why: end.to_string(),
        established: true,
        garbage: matches!(end, ReadEnd::Garbage(_)),
        untouched: batch.untouched(),
    }
}

/// The frames that are being written, kept where the end of the connection finds them.
#[derive(Debug, Default)]
struct Batch(Mutex<BatchState>);

#[derive(Debug, Default)]
struct BatchState {
    /// Stream and first byte of each frame, counted from the start of the batch.
    starts: Vec<(u64, usize)>,
    written: usize,
}

impl Batch {
    fn begin(&self, frames: &[(u64, Bytes)]) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.starts.clear();
        state.written = 0;
        let mut start = 0;
        for (stream, frame) in frames {
            state.starts.push((*stream, start));
            start += frame.len();
        }
    }

    fn wrote(&self, bytes: usize) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).written += bytes;
    }

    /// Calls of which the stream has taken nothing.
    fn untouched(&self) -> BTreeSet<u64> {
        let state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let untouched = state.starts.iter().filter(|(_, start)| *start >= state.written);
        untouched.map(|(stream, _)| *stream).collect()
    }
}

async fn write_requests<W>(peer: &Peer, batch: &Batch, write: &mut W) -> std::io::Error
where
    W: AsyncWrite + Unpin + Send,
{
    let mut frames = Vec::new();
    let mut gather = BytesMut::new();
    loop {
        peer.take(&mut frames);
        if frames.is_empty() {
            peer.queued.notified().await;
            continue;
        }
        batch.begin(&frames);
        let mut wrote = |bytes| batch.wrote(bytes);
        if let Err(error) = write_frames(write, &frames, &mut gather, &mut wrote).await {
            return error;
        }
        frames.clear();
        if peer.has_queued() {
            let_others().await;
        }
    }
}

async fn read_answers<R>(
    shared: &Shared,
    peer: &Peer,
    reader: &mut FrameReader<R>,
    heard: &AtomicBool,
) -> ReadEnd
where
    R: AsyncRead + Unpin,
{
    let mut answers = Vec::new();
    loop {
        let verdict = drain(reader, &mut answers);
        // What came before the garbage was sound.
        if !answers.is_empty() {
            let now = shared.env.mono();
            peer.complete(now, &mut answers, |took| shared.latency.record(peer.node, took));
            shared.settle();
        }
        if let Err(end) = verdict {
            return end;
        }
        match reader.fill().await {
            Ok(bytes) if is_busy(bytes) => let_others().await,
            Ok(_) => {}
            Err(end) => return end,
        }
        heard.store(true, Ordering::Relaxed);
    }
}

/// Decodes all answers that have come.
fn drain<R>(reader: &mut FrameReader<R>, answers: &mut Vec<(u64, Outcome)>) -> Result<(), ReadEnd>
where
    R: AsyncRead + Unpin,
{
    while let Some((head, payload)) = reader.buffered()? {
        match head.kind {
            FrameKind::Response if payload.is_empty() => {
                let why = "the answer was too large to be sent".to_owned();
                answers.push((head.stream, Err(CallError::Lost { why })));
            }
            FrameKind::Response => {
                answers.push((head.stream, Ok(codec::decode_payload(payload)?)));
            }
            FrameKind::Pong => {}
            FrameKind::Refuse => {
                let why = format!("the peer refused this node: {}", greet::reason(payload));
                return Err(ReadEnd::Io(std::io::Error::other(why)));
            }
            FrameKind::Hello | FrameKind::Welcome | FrameKind::Request | FrameKind::Ping => {
                return Err(codec::unexpected(head.kind).into());
            }
        }
        reader.consume(head);
    }
    Ok(())
}

/// Asks when nothing was heard for a while, and ends the connection when nothing comes of it: a
/// peer whose machine has gone sends no word of it.
async fn watch(shared: &Shared, peer: &Peer, heard: &AtomicBool) -> ReadEnd {
    let interval = shared.options.keepalive;
    let Ok(ping) = codec::encode_frame(FrameKind::Ping, 0, &[], 0) else {
        return pending().await;
    };
    let mut asked = false;
    loop {
        shared.env.sleep(interval).await;
        if heard.swap(false, Ordering::Relaxed) {
            asked = false;
        } else if asked {
            return ReadEnd::Io(std::io::Error::other(format!("silent for {:?}", interval * 2)));
        } else {
            asked = true;
            peer.enqueue_ping(ping.clone());
        }
    }
}
