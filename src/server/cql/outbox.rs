//! Answers on their way to one client, in bounded memory.
//!
//! Who does not take its answers is not read any more ([`Outbox::room`]): how many requests are
//! begun depends on how long the answers have been of late. What is under way then may still
//! answer; an answer for which neither the connection nor the node has memory is dropped, and its
//! client is told that the node is overloaded. One that takes no byte for [`STALL`] is cut off.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::AsyncWriteExt as _;
use tokio::net::tcp::OwnedWriteHalf;
use tokio::sync::{Notify, mpsc};

use crate::env::Env;
use crate::server::budget::{Budget, Share};
use crate::server::cql::segment::{self, Coding, MAX_PAYLOAD};

/// Bytes of answers that a connection should have waiting at most.
const TARGET: usize = 8 << 20;

/// It never has more than this part of the node's budget for all of them.
const LARGEST_PART: usize = 8;

/// Requests that are begun before anything is known about the answers.
const FIRST: usize = 4;

/// An answer as short as this is always sent, whatever the budgets say: that a request was refused
/// has to be told.
pub(super) const ALWAYS: usize = 512;

/// Answers and events that wait at most.
const MAX_WAITING: usize = 4_096;

/// Bytes that are handed to the socket at a time.
const WRITE: usize = 64 << 10;

/// How long a client may take no byte of what waits for it.
const STALL: Duration = Duration::from_secs(30);

/// How answers are framed beyond their own headers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Framing {
    /// Not at all: version 4, and the beginning of version 5.
    None,
    Segments(Coding),
}

/// An answer, and the memory that it holds.
#[derive(Debug)]
struct Parcel {
    bytes: Vec<u8>,
    framing: Framing,
    _held: Option<(Share, Share)>,
}

#[derive(Debug)]
struct Load {
    /// Bytes of answers that wait.
    waiting: Arc<Budget>,
    /// Requests under way.
    under_way: AtomicUsize,
    /// How long answers have been of late.
    length: AtomicUsize,
    /// Answers so far.
    sent: AtomicUsize,
    changed: Notify,
}

/// Where a connection's answers go. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Outbox {
    parcels: mpsc::Sender<Parcel>,
    load: Arc<Load>,
    node: Arc<Budget>,
}

/// A request under way.
#[derive(Debug)]
pub(super) struct UnderWay(Arc<Load>);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.under_way.fetch_sub(1, Ordering::AcqRel);
        self.0.changed.notify_one();
    }
}

/// There was no memory for an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NoMemory;

impl Outbox {
    /// An outbox that `write` empties.
    pub(super) fn new(node: &Arc<Budget>) -> (Self, Outgoing) {
        let (parcels, waiting) = mpsc::channel(MAX_WAITING);
        let load = Arc::new(Load {
            waiting: Budget::new((node.max() / LARGEST_PART).max(2 * TARGET)),
            under_way: AtomicUsize::new(0),
            length: AtomicUsize::new(0),
            sent: AtomicUsize::new(0),
            changed: Notify::new(),
        });
        let out = Outgoing { parcels: waiting, load: load.clone() };
        (Self { parcels, load, node: node.clone() }, out)
    }

    /// Takes a place among the requests under way, as soon as the answers of all of them are
    /// likely to fit. `max`: requests at a time.
    pub(super) async fn room(&self, max: usize) -> UnderWay {
        loop {
            let under_way = self.load.under_way.load(Ordering::Acquire);
            let expected = under_way.saturating_mul(self.load.length.load(Ordering::Relaxed));
            let waiting = self.load.waiting.used();
            let fits = waiting.saturating_add(expected) < TARGET;
            // As many more as answers have shown how long they are.
            let sent = self.load.sent.load(Ordering::Relaxed);
            let window = FIRST.saturating_add(sent.saturating_mul(2)).min(max);
            if under_way < window && (fits || under_way == 0 && waiting < TARGET) {
                self.load.under_way.fetch_add(1, Ordering::AcqRel);
                return UnderWay(self.load.clone());
            }
            self.load.changed.notified().await;
        }
    }

    /// Sends a frame. A connection that has ended takes it and forgets it.
    ///
    /// # Errors
    /// [`NoMemory`]: it was not sent; something of at most [`ALWAYS`] bytes will be.
    pub(super) async fn send(&self, bytes: Vec<u8>, framing: Framing) -> Result<(), NoMemory> {
        let len = bytes.len();
        // Falls slowly, so that one short answer among long ones changes little.
        let known = self.load.length.load(Ordering::Relaxed);
        self.load.length.store((known - known / 4).max(len), Ordering::Relaxed);
        self.load.sent.fetch_add(1, Ordering::Relaxed);
        let own = Share::take(&self.load.waiting, len);
        let held = own.and_then(|own| Some((own, Share::take(&self.node, len)?)));
        if held.is_none() && len > ALWAYS {
            return Err(NoMemory);
        }
        let _ = self.parcels.send(Parcel { bytes, framing, _held: held }).await;
        Ok(())
    }

    /// Completes when nobody will send any more answers to the client.
    pub(super) async fn closed(&self) {
        self.parcels.closed().await;
    }
}

/// The end of an [`Outbox`] that has the socket.
#[derive(Debug)]
pub(super) struct Outgoing {
    parcels: mpsc::Receiver<Parcel>,
    load: Arc<Load>,
}

impl Outgoing {
    /// Writes what comes until there is nobody left who sends, or the client is gone.
    pub(super) async fn write(mut self, socket: OwnedWriteHalf, env: Env) {
        let mut writer = Writer { socket, env, out: Vec::new(), payload: Vec::new() };
        let mut parcels = Vec::new();
        while self.parcels.recv_many(&mut parcels, 256).await > 0 {
            let mut last = None;
            for parcel in parcels.drain(..) {
                if writer.add(&parcel).await.is_err() {
                    return;
                }
                last = Some(parcel.framing);
                drop(parcel);
                self.load.changed.notify_one();
            }
            if let Some(Framing::Segments(coding)) = last {
                writer.seal(coding);
            }
            if writer.flush().await.is_err() {
                return;
            }
        }
        let _ = writer.socket.shutdown().await;
    }
}

/// Puts answers together into segments and large writes.
struct Writer {
    socket: OwnedWriteHalf,
    env: Env,
    out: Vec<u8>,
    /// Of the segment that is being filled.
    payload: Vec<u8>,
}

impl Writer {
    async fn add(&mut self, parcel: &Parcel) -> std::io::Result<()> {
        let bytes = &parcel.bytes;
        match parcel.framing {
            Framing::None if bytes.len() >= WRITE => {
                self.flush().await?;
                put(&self.socket, &self.env, bytes).await?;
            }
            Framing::None => self.out.extend_from_slice(bytes),
            Framing::Segments(coding) if bytes.len() > MAX_PAYLOAD => {
                self.seal(coding);
                for part in bytes.chunks(MAX_PAYLOAD) {
                    segment::encode(coding, part, false, &mut self.out);
                    self.flush().await?;
                }
            }
            Framing::Segments(coding) => {
                if self.payload.len() + bytes.len() > MAX_PAYLOAD {
                    self.seal(coding);
                }
                self.payload.extend_from_slice(bytes);
            }
        }
        if self.out.len() >= WRITE { self.flush().await } else { Ok(()) }
    }

    /// Ends the segment that is being filled.
    fn seal(&mut self, coding: Coding) {
        if !self.payload.is_empty() {
            segment::encode(coding, &self.payload, true, &mut self.out);
            self.payload.clear();
        }
    }

    async fn flush(&mut self) -> std::io::Result<()> {
        put(&self.socket, &self.env, &self.out).await?;
        self.out.clear();
        // What one long answer has needed is not kept for the next short one.
        self.out.shrink_to(2 * WRITE);
        self.payload.shrink_to(WRITE);
        Ok(())
    }
}

/// Writes all, unless the client takes no byte of it for [`STALL`].
async fn put(socket: &OwnedWriteHalf, env: &Env, mut bytes: &[u8]) -> std::io::Result<()> {
    use std::io::ErrorKind;
    while !bytes.is_empty() {
        match socket.try_write(bytes) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(written) => bytes = &bytes[written..],
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                let writable = env.timeout(STALL, socket.writable()).await;
                writable.map_err(|_| std::io::Error::from(ErrorKind::TimedOut))??;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
