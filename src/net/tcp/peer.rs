//! One peer as its caller sees it: where it is, the calls under way, and the state of the one
//! connection that carries them. No IO here.
//!
//! The fate of a call (law L8) is decided by where its frame is when things go wrong:
//!
//! - still in the queue: nothing has left this node, so it is taken out and is *not sent*;
//! - taken for writing and not reached by the bytes that the stream took: *not sent*;
//! - otherwise: *lost*, it may take effect.
//!
//! Invariants, under the lock: every frame in the queue belongs to a pending call (pings apart);
//! a pending call is in the queue, in the batch that the connection is writing, or written; nothing
//! is pending unless the link is connecting or up.
//!
//! **Credits.** A caller's operations hold on to what they have sent until it is answered, so what
//! one peer may owe is bounded in calls and in bytes; a peer that answers nothing at all may owe
//! less. A call beyond that is *not sent*, at once: the operation goes to another replica, or leaves
//! a hint. So a slow peer takes a share of its callers that is known beforehand.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{Notify, oneshot};

use super::closer::Closer;
use super::options::PeerStats;
use super::wire::SendQueue;
use crate::net::messages::{Header, Response};
use crate::net::transport::CallError;
use crate::types::{ActorId, Incarnation, Mono, NodeId};

/// What a call ends with.
pub(super) type Outcome = Result<(Header, Response), CallError>;

/// Which process one talks to: its data directory's history, and how often that was opened.
pub(super) type Identity = (ActorId, Incarnation);

/// The bounds that a peer keeps.
#[derive(Clone, Copy, Debug)]
pub(super) struct PeerLimits {
    /// Calls without an answer.
    pub(super) inflight: usize,
    /// The same, while the peer answers nothing at all.
    pub(super) silent_inflight: usize,
    /// Bytes of calls without an answer.
    pub(super) bytes: usize,
    pub(super) min_backoff: Duration,
    pub(super) max_backoff: Duration,
}

#[derive(Debug)]
pub(super) struct Peer {
    pub(super) node: NodeId,
    /// Rung when the queue has something to write.
    pub(super) queued: Notify,
    limits: PeerLimits,
    next_stream: AtomicU64,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    address: Option<String>,
    link: Link,
    backoff: Duration,
    /// Why the last attempt or connection ended; `None` once a connection stands again.
    last_why: Option<String>,
    /// Since when there has been no connection, although one was wanted.
    down_since: Option<Mono>,
    /// The reason that was reported last, of this time without a connection.
    reported: Option<String>,
    queue: SendQueue,
    pending: BTreeMap<u64, Pending>,
    /// Of all pending calls, written or not: so much is kept of them by this node's operations.
    pending_bytes: usize,
    /// When the peer was last heard to answer, or was asked while it owed nothing.
    heard: Mono,
    counts: Counts,
}

#[derive(Debug)]
enum Link {
    /// Nothing stands in the way of an attempt to connect.
    Idle,
    /// The last attempt or connection failed, for [`State::last_why`].
    Down {
        retry_at: Mono,
    },
    Connecting,
    Up {
        identity: Identity,
        closer: Arc<Closer>,
    },
}

#[derive(Debug)]
struct Pending {
    answer: oneshot::Sender<Outcome>,
    bytes: usize,
    since: Mono,
    is_read: bool,
}

#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    calls: u64,
    answered: u64,
    not_sent: u64,
    lost: u64,
    abandoned: u64,
    connects: u64,
    connect_failures: u64,
    late_answers: u64,
    garbage: u64,
    mean_answer_ns: u64,
}

/// A peer that has answered nothing for so long, although it was asked, gets fewer calls: it may be
/// frozen, and what waits for it holds memory and places here until the deadline of each.
const SILENT: Duration = Duration::from_millis(500);

/// What the end of a connection, or of an attempt to get one, is worth in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum News {
    /// Nothing: nodes that start together, or one after the other, miss each other at first.
    None,
    /// A connection that stood has ended.
    Ended,
    /// There has been none for [`UNREACHABLE`], for a reason that was not reported yet.
    Unreachable,
}

/// How long a peer is out of reach before that is worth a warning.
const UNREACHABLE: Duration = Duration::from_secs(5);

/// A call that was accepted for sending.
#[derive(Debug)]
pub(super) struct Accepted {
    pub(super) answer: oneshot::Receiver<Outcome>,
    /// There is no connection and nobody makes one: the caller must start that.
    pub(super) must_connect: bool,
}

/// How a connection, or an attempt to get one, came to its end.
#[derive(Debug)]
pub(super) struct LinkEnd {
    pub(super) why: String,
    /// The handshake had succeeded.
    pub(super) established: bool,
    pub(super) garbage: bool,
    /// Calls whose frames were taken from the queue, but not touched by the stream.
    pub(super) untouched: BTreeSet<u64>,
}

fn not_sent(why: impl Into<String>) -> CallError {
    CallError::NotSent { why: why.into(), unreachable: false }
}

fn unreachable(why: impl Into<String>) -> CallError {
    CallError::NotSent { why: why.into(), unreachable: true }
}

impl Peer {
    pub(super) fn new(node: NodeId, limits: PeerLimits) -> Self {
        let state = State {
            address: None,
            link: Link::Idle,
            backoff: limits.min_backoff,
            last_why: None,
            down_since: None,
            reported: None,
            queue: SendQueue::default(),
            pending: BTreeMap::new(),
            pending_bytes: 0,
            heard: Mono(0),
            counts: Counts::default(),
        };
        Self {
            node,
            queued: Notify::new(),
            limits,
            next_stream: AtomicU64::new(1),
            state: Mutex::new(state),
        }
    }

    /// A new address is worth a new attempt at once. A standing connection is kept.
    pub(super) fn set_address(&self, address: &str) {
        let mut state = self.lock();
        if state.address.as_deref() == Some(address) {
            return;
        }
        state.address = Some(address.to_owned());
        state.backoff = self.limits.min_backoff;
        if matches!(state.link, Link::Down { .. }) {
            state.link = Link::Idle;
        }
    }

    /// The peer has just connected to this node, so that an attempt in the other direction is worth
    /// making at once, whatever came of the last one.
    pub(super) fn has_called(&self) {
        let mut state = self.lock();
        state.backoff = self.limits.min_backoff;
        if matches!(state.link, Link::Down { .. }) {
            state.link = Link::Idle;
        }
    }

    pub(super) fn address(&self) -> Option<String> {
        self.lock().address.clone()
    }

    /// A number that no other call to this peer has had.
    pub(super) fn new_stream(&self) -> u64 {
        self.next_stream.fetch_add(1, Ordering::Relaxed)
    }

    /// Counts a call, and says whether it stands a chance; spares encoding a request that would not
    /// be accepted.
    pub(super) fn begin(&self, now: Mono) -> Result<(), CallError> {
        let mut state = self.lock();
        state.counts.calls += 1;
        let verdict = state.refuse_call(now, 0, self.limits);
        state.counts.not_sent += u64::from(verdict.is_err());
        verdict
    }

    /// A call counted by [`Peer::begin`] that could not be made after all.
    pub(super) fn give_up(&self, error: CallError) -> CallError {
        self.lock().counts.not_sent += 1;
        error
    }

    /// Puts the call's frame into the queue, or says why not.
    pub(super) fn enqueue(
        &self,
        now: Mono,
        stream: u64,
        frame: Bytes,
        is_read: bool,
    ) -> Result<Accepted, CallError> {
        let mut state = self.lock();
        if let Err(error) = state.refuse_call(now, frame.len(), self.limits) {
            state.counts.not_sent += 1;
            return Err(error);
        }
        let must_connect = matches!(state.link, Link::Idle | Link::Down { .. });
        if must_connect {
            state.link = Link::Connecting;
        }
        let (sender, answer) = oneshot::channel();
        if state.pending.is_empty() {
            state.heard = now;
        }
        let bytes = frame.len();
        state.queue.push(stream, frame);
        state.pending_bytes += bytes;
        state.pending.insert(stream, Pending { answer: sender, bytes, since: now, is_read });
        drop(state);
        self.queued.notify_one();
        Ok(Accepted { answer, must_connect })
    }

    /// Puts a frame that belongs to no call into the queue.
    pub(super) fn enqueue_ping(&self, frame: Bytes) {
        let stream = self.new_stream();
        self.lock().queue.push(stream, frame);
        self.queued.notify_one();
    }

    /// The call's deadline has passed: takes it out of the queue, or else forgets its answer.
    pub(super) fn expire(&self, stream: u64) -> CallError {
        let mut state = self.lock();
        state.forget(stream);
        if state.queue.remove(stream) {
            state.counts.not_sent += 1;
            not_sent("the deadline passed while it was queued")
        } else {
            state.counts.lost += 1;
            CallError::Lost { why: "the deadline passed".to_owned() }
        }
    }

    /// The caller is gone: as [`Peer::expire`], for nobody to hear. What was written stays written.
    pub(super) fn abandon(&self, stream: u64) {
        let mut state = self.lock();
        if state.forget(stream).is_some() {
            if state.queue.remove(stream) {
                state.counts.not_sent += 1;
            } else {
                state.counts.abandoned += 1;
            }
        }
    }

    /// The frames to write next. Empty: nothing waits.
    pub(super) fn take(&self, batch: &mut Vec<(u64, Bytes)>) {
        self.lock().queue.take(batch);
    }

    /// Is there more to write?
    pub(super) fn has_queued(&self) -> bool {
        !self.lock().queue.is_empty()
    }

    /// Hands answers to their callers; `took` hears how long each read took.
    pub(super) fn complete(
        &self,
        now: Mono,
        answers: &mut Vec<(u64, Outcome)>,
        mut took: impl FnMut(Duration),
    ) {
        let mut state = self.lock();
        for (stream, outcome) in answers.drain(..) {
            state.heard = now;
            let Some(pending) = state.forget(stream) else {
                state.counts.late_answers += 1;
                continue;
            };
            match &outcome {
                Ok(_) => {
                    let elapsed = now.since(pending.since);
                    state.counts.answered += 1;
                    state.counts.average(elapsed);
                    if pending.is_read {
                        took(elapsed);
                    }
                }
                Err(_) => state.counts.lost += 1,
            }
            // An error means that the caller has gone between the two; nothing is lost by it.
            let _ = pending.answer.send(outcome);
        }
    }

    /// A connection stands.
    pub(super) fn connected(&self, identity: Identity, closer: Arc<Closer>) {
        let mut state = self.lock();
        state.link = Link::Up { identity, closer };
        state.last_why = None;
        state.down_since = None;
        state.reported = None;
        state.counts.connects += 1;
    }

    /// The connection or the attempt has ended: every call under way ends with it, and the next
    /// attempt may begin after a pause of which `jitter` (0 … 2^64−1) chooses the length between a
    /// half and the whole. Says what that is worth in the log.
    pub(super) fn disconnected(&self, now: Mono, end: &LinkEnd, jitter: u64) -> News {
        let mut state = self.lock();
        let pause = if end.established { self.limits.min_backoff } else { state.backoff };
        state.backoff = (pause * 2).min(self.limits.max_backoff);
        let half = pause / 2;
        let retry_at = now + half + half.mul_f64(jitter as f64 / u64::MAX as f64);
        state.counts.connect_failures += u64::from(!end.established);
        state.counts.garbage += u64::from(end.garbage);
        state.link = Link::Down { retry_at };
        state.fail_all(&end.why, &end.untouched);
        state.last_why = Some(end.why.clone());
        state.news(now, end)
    }

    /// Gives the connection up if it leads to another process than `identity`.
    pub(super) fn close_unless(&self, identity: Identity) {
        if let Link::Up { identity: current, closer } = &self.lock().link
            && *current != identity
        {
            closer.close("the node has started anew");
        }
    }

    /// Calls without an answer.
    pub(super) fn in_flight(&self) -> usize {
        self.lock().pending.len()
    }

    pub(super) fn stats(&self) -> Option<PeerStats> {
        let state = self.lock();
        let counts = state.counts;
        Some(PeerStats {
            node: self.node,
            address: state.address.clone()?,
            connected: matches!(state.link, Link::Up { .. }),
            calls: counts.calls,
            answered: counts.answered,
            not_sent: counts.not_sent,
            lost: counts.lost,
            abandoned: counts.abandoned,
            in_flight: state.pending.len(),
            queued_bytes: state.queue.bytes(),
            connects: counts.connects,
            connect_failures: counts.connect_failures,
            late_answers: counts.late_answers,
            garbage: counts.garbage,
            mean_answer: Duration::from_nanos(counts.mean_answer_ns),
            reads: None,
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn refuse_call(&self, now: Mono, bytes: usize, limits: PeerLimits) -> Result<(), CallError> {
        if self.address.is_none() {
            return Err(not_sent("no address of that node is known"));
        }
        if let Link::Down { retry_at } = self.link
            && now < retry_at
        {
            let left_ms = retry_at.since(now).as_millis();
            let why = self.last_why.as_deref().unwrap_or("no connection");
            return Err(unreachable(format!("{why} (next attempt in {left_ms} ms)")));
        }
        let calls = self.pending.len();
        if calls >= limits.inflight {
            return Err(not_sent(format!("{calls} calls to that node are under way")));
        }
        let silent = now.since(self.heard);
        if calls >= limits.silent_inflight && silent > SILENT {
            let silent_ms = silent.as_millis();
            return Err(not_sent(format!(
                "it has answered none of {calls} calls for {silent_ms} ms"
            )));
        }
        if self.pending_bytes > 0 && self.pending_bytes + bytes > limits.bytes {
            let under_way = self.pending_bytes;
            return Err(not_sent(format!("calls to that node hold {under_way} bytes")));
        }
        Ok(())
    }

    /// Takes a call out of those under way.
    fn forget(&mut self, stream: u64) -> Option<Pending> {
        let pending = self.pending.remove(&stream)?;
        self.pending_bytes -= pending.bytes;
        Some(pending)
    }

    fn news(&mut self, now: Mono, end: &LinkEnd) -> News {
        let since = *self.down_since.get_or_insert(now);
        if end.established {
            return News::Ended;
        }
        if now.since(since) < UNREACHABLE || self.reported.as_ref() == Some(&end.why) {
            return News::None;
        }
        self.reported = Some(end.why.clone());
        News::Unreachable
    }

    fn fail_all(&mut self, why: &str, untouched: &BTreeSet<u64>) {
        self.pending_bytes = 0;
        for (stream, pending) in std::mem::take(&mut self.pending) {
            let error = if self.queue.contains(stream) || untouched.contains(&stream) {
                self.counts.not_sent += 1;
                unreachable(why)
            } else {
                self.counts.lost += 1;
                CallError::Lost { why: why.to_owned() }
            };
            let _ = pending.answer.send(Err(error));
        }
        self.queue.clear();
    }
}

impl Counts {
    /// Exponential average with a weight of one eighth, as TCP's smoothed round-trip time.
    fn average(&mut self, elapsed: Duration) {
        let sample = u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX);
        self.mean_answer_ns = match self.mean_answer_ns {
            0 => sample,
            mean => mean - mean / 8 + sample / 8,
        };
    }
}

#[cfg(test)]
mod tests;
