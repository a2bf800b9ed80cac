//! Answers on their way to one client, in bounded memory.
//!
//! Who does not take its answers is not read any more ([`Outbox::room`]): how many requests are
//! begun depends on how long the answers have been of late. What is under way then may still
//! answer; an answer for which neither the connection nor the node has memory is dropped, and its
//! client is told that the node is overloaded. One that takes no byte for [`STALL`] is cut off.
//!
//! Who has an answer for a socket that nobody writes to writes it at once ([`Outbox::write_now`]):
//! waking the writer's task costs more than the write. What the socket does not take is left to
//! that task, and so is everything behind it.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

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
const ALWAYS: usize = 512;

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
pub(super) struct Parcel {
    bytes: Vec<u8>,
    framing: Framing,
    held: Option<(Share, Share)>,
}

impl Parcel {
    /// Bytes of the answer.
    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }
}

/// The socket, and what is on its way to it.
#[derive(Debug)]
struct Wire {
    socket: OwnedWriteHalf,
    line: Mutex<Line>,
}

/// Who writes next, and what was packed and is not written yet.
#[derive(Debug, Default)]
struct Line {
    /// Parcels that the writer's task was given and has not written. While there are any, nobody
    /// else writes.
    queued: usize,
    packed: Packed,
    /// The memory of what is packed.
    held: Vec<Option<(Share, Share)>>,
}

impl Wire {
    fn line(&self) -> MutexGuard<'_, Line> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }
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
    /// Gone when the writer has ended: the socket is closed then.
    wire: Weak<Wire>,
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
    /// An outbox into `socket`, and what empties it.
    pub(super) fn new(socket: OwnedWriteHalf, env: Env, node: &Arc<Budget>) -> (Self, Outgoing) {
        let (parcels, waiting) = mpsc::channel(MAX_WAITING);
        let load = Arc::new(Load {
            waiting: Budget::new((node.max() / LARGEST_PART).max(2 * TARGET)),
            under_way: AtomicUsize::new(0),
            length: AtomicUsize::new(0),
            sent: AtomicUsize::new(0),
            changed: Notify::new(),
        });
        let wire = Arc::new(Wire { socket, line: Mutex::default() });
        let outbox =
            Self { parcels, load: load.clone(), node: node.clone(), wire: Arc::downgrade(&wire) };
        (outbox, Outgoing { parcels: waiting, load, wire, env })
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

    /// Makes a parcel of a frame.
    ///
    /// # Errors
    /// [`NoMemory`]: there is none for it. [`Outbox::short`] says so.
    pub(super) fn parcel(&self, bytes: Vec<u8>, framing: Framing) -> Result<Parcel, NoMemory> {
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
        Ok(Parcel { bytes, framing, held })
    }

    /// Makes a parcel of a frame of a few words, which is sent whatever the budgets say.
    pub(super) fn short(&self, bytes: Vec<u8>, framing: Framing) -> Parcel {
        Parcel { bytes, framing, held: None }
    }

    /// Sends a parcel. A connection that has ended takes it and forgets it.
    pub(super) async fn send(&self, parcel: Parcel) {
        // While others are under way their answers may go out together with this one.
        let mut parcels = Vec::from([parcel]);
        if self.load.under_way.load(Ordering::Acquire) > 1 || !self.write_now(&mut parcels) {
            self.forward(&mut parcels).await;
        }
    }

    /// Leaves parcels to the writer's task.
    pub(super) async fn forward(&self, parcels: &mut Vec<Parcel>) {
        let Some(wire) = self.wire.upgrade() else { return parcels.clear() };
        wire.line().queued += parcels.len();
        // Who waits here must not keep the socket open.
        drop(wire);
        for parcel in parcels.drain(..) {
            let _ = self.parcels.send(parcel).await;
        }
    }

    /// Writes parcels at once, as far as the socket takes them; the writer's task sees to the rest.
    /// False: nothing was taken, as others are before them or they are too long.
    pub(super) fn write_now(&self, parcels: &mut Vec<Parcel>) -> bool {
        if parcels.iter().map(Parcel::len).sum::<usize>() > WRITE {
            return false;
        }
        let Some(wire) = self.wire.upgrade() else {
            parcels.clear();
            return true;
        };
        let mut line = wire.line();
        if line.queued > 0 {
            return false;
        }
        let mut framing = Framing::None;
        for parcel in parcels.iter() {
            framing = parcel.framing;
            line.packed.add(&parcel.bytes, framing);
        }
        line.packed.seal(framing);
        // An error is met again by the writer's task.
        let written = wire.socket.try_write(&line.packed.out).unwrap_or(0);
        line.packed.out.drain(..written);
        if line.packed.out.is_empty() {
            parcels.clear();
        } else {
            line.held.extend(parcels.drain(..).map(|parcel| parcel.held));
            line.queued += 1;
            // There is room: nothing was queued.
            let wake = Parcel { bytes: Vec::new(), framing: Framing::None, held: None };
            let _ = self.parcels.try_send(wake);
        }
        self.load.changed.notify_one();
        true
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
    wire: Arc<Wire>,
    env: Env,
}

impl Outgoing {
    /// Writes what comes until there is nobody left who sends, or the client is gone.
    pub(super) async fn write(mut self) {
        let mut parcels = Vec::new();
        loop {
            let count = self.parcels.recv_many(&mut parcels, 256).await;
            if count == 0 || self.write_all(&mut parcels).await.is_err() {
                // With its last owner the socket is shut down.
                return;
            }
            self.wire.line().queued -= count;
        }
    }

    /// Writes what is packed already, and then the parcels.
    async fn write_all(&self, parcels: &mut Vec<Parcel>) -> std::io::Result<()> {
        let (packed, held) = {
            let mut line = self.wire.line();
            (std::mem::take(&mut line.packed), std::mem::take(&mut line.held))
        };
        let mut writer = Writer { socket: &self.wire.socket, env: &self.env, packed };
        if !held.is_empty() {
            writer.flush().await?;
            drop(held);
            self.load.changed.notify_one();
        }
        let mut framing = Framing::None;
        for parcel in parcels.drain(..) {
            framing = parcel.framing;
            writer.add(&parcel).await?;
            drop(parcel);
            self.load.changed.notify_one();
        }
        writer.packed.seal(framing);
        writer.flush().await?;
        self.wire.line().packed = writer.packed;
        Ok(())
    }
}

/// Answers put together into segments and large writes.
#[derive(Debug, Default)]
struct Packed {
    out: Vec<u8>,
    /// Of the segment that is being filled.
    payload: Vec<u8>,
}

impl Packed {
    /// Adds an answer of at most [`MAX_PAYLOAD`] bytes.
    fn add(&mut self, bytes: &[u8], framing: Framing) {
        match framing {
            Framing::None => self.out.extend_from_slice(bytes),
            Framing::Segments(_) => {
                if self.payload.len() + bytes.len() > MAX_PAYLOAD {
                    self.seal(framing);
                }
                self.payload.extend_from_slice(bytes);
            }
        }
    }

    /// Ends the segment that is being filled.
    fn seal(&mut self, framing: Framing) {
        if let Framing::Segments(coding) = framing
            && !self.payload.is_empty()
        {
            segment::encode(coding, &self.payload, true, &mut self.out);
            self.payload.clear();
        }
    }
}

/// Packs answers, and writes when there is enough.
struct Writer<'a> {
    socket: &'a OwnedWriteHalf,
    env: &'a Env,
    packed: Packed,
}

impl Writer<'_> {
    async fn add(&mut self, parcel: &Parcel) -> std::io::Result<()> {
        let bytes = &parcel.bytes;
        match parcel.framing {
            Framing::None if bytes.len() >= WRITE => {
                self.flush().await?;
                put(self.socket, self.env, bytes).await?;
            }
            Framing::Segments(coding) if bytes.len() > MAX_PAYLOAD => {
                self.packed.seal(parcel.framing);
                for part in bytes.chunks(MAX_PAYLOAD) {
                    segment::encode(coding, part, false, &mut self.packed.out);
                    self.flush().await?;
                }
            }
            framing => self.packed.add(bytes, framing),
        }
        if self.packed.out.len() >= WRITE { self.flush().await } else { Ok(()) }
    }

    async fn flush(&mut self) -> std::io::Result<()> {
        let packed = &mut self.packed;
        put(self.socket, self.env, &packed.out).await?;
        packed.out.clear();
        // What one long answer has needed is not kept for the next short one.
        packed.out.shrink_to(2 * WRITE);
        packed.payload.shrink_to(WRITE);
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
