//! One peer as its callee sees it: the requests under way for it, and the answers that wait to be
//! written to it. No IO here.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::Notify;

use super::TcpOptions;
use super::shared::Shared;
use super::wire::SendQueue;
use crate::types::NodeId;

/// What one peer has under way here, over all of its connections.
#[derive(Debug, Default)]
pub(super) struct Load {
    requests: AtomicUsize,
    bytes: AtomicUsize,
}

impl Load {
    /// The bound that a request of `bytes` would break.
    pub(super) fn overload(&self, bytes: usize, bounds: &TcpOptions) -> Option<String> {
        let requests = self.requests.load(Ordering::Relaxed);
        if requests >= bounds.max_inflight_per_peer {
            return Some(format!("{requests} requests of this peer are being served"));
        }
        let under_way = self.bytes.load(Ordering::Relaxed);
        if under_way > 0 && under_way + bytes > bounds.max_queued_bytes_per_peer {
            return Some(format!("requests of this peer hold {under_way} bytes"));
        }
        None
    }
}

/// A request under way, counted until it is dropped.
pub(super) struct UnderWay {
    shared: Arc<Shared>,
    load: Arc<Load>,
    bytes: usize,
}

impl UnderWay {
    pub(super) fn new(shared: &Arc<Shared>, load: &Arc<Load>, bytes: usize) -> Self {
        load.requests.fetch_add(1, Ordering::Relaxed);
        load.bytes.fetch_add(bytes, Ordering::Relaxed);
        shared.counters.serving.fetch_add(1, Ordering::Relaxed);
        Self { shared: shared.clone(), load: load.clone(), bytes }
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.load.requests.fetch_sub(1, Ordering::Relaxed);
        self.load.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
        self.shared.counters.serving.fetch_sub(1, Ordering::Release);
        self.shared.settle();
    }
}

/// A peer that calls over one connection.
#[derive(Debug)]
pub(super) struct Caller {
    pub(super) node: NodeId,
    pub(super) load: Arc<Load>,
    max_queued_bytes: usize,
    answers: Mutex<SendQueue>,
    next_answer: AtomicU64,
    /// Answers in the queue or being written.
    unwritten: AtomicUsize,
    gone: AtomicBool,
    /// Rung when there is something to write.
    pub(super) queued: Notify,
    space: Notify,
}

impl Caller {
    pub(super) fn new(shared: &Shared, node: NodeId) -> Arc<Self> {
        Arc::new(Self {
            node,
            load: shared.load_of(node),
            max_queued_bytes: shared.options.max_queued_bytes_per_peer,
            answers: Mutex::default(),
            next_answer: AtomicU64::new(0),
            unwritten: AtomicUsize::new(0),
            gone: AtomicBool::new(false),
            queued: Notify::new(),
            space: Notify::new(),
        })
    }

    /// The answers to write next. Empty: none waits.
    pub(super) fn take(&self, batch: &mut Vec<(u64, Bytes)>) {
        self.lock().take(batch);
        self.space.notify_waiters();
    }

    /// So many of the answers taken have been written.
    pub(super) fn wrote(&self, answers: usize) {
        self.unwritten.fetch_sub(answers, Ordering::Release);
    }

    /// Answers that wait or are being written.
    pub(super) fn unwritten(&self) -> usize {
        self.unwritten.load(Ordering::Acquire)
    }

    /// Bytes of answers that wait.
    #[cfg(test)]
    pub(super) fn waiting_bytes(&self) -> usize {
        self.lock().bytes()
    }

    /// Queues an answer whatever waits already: for the reader, which waits for space before it
    /// takes a request.
    pub(super) fn push(&self, frame: Bytes) {
        self.push_to(self.lock(), frame);
    }

    /// Queues an answer as soon as there is space.
    pub(super) async fn push_in_turn(&self, frame: Bytes) {
        loop {
            let mut space = std::pin::pin!(self.space.notified());
            space.as_mut().enable();
            {
                let answers = self.lock();
                if answers.bytes() <= self.max_queued_bytes {
                    return self.push_to(answers, frame);
                }
            }
            space.await;
        }
    }

    fn push_to(&self, mut answers: MutexGuard<'_, SendQueue>, frame: Bytes) {
        if self.gone.load(Ordering::Relaxed) {
            return;
        }
        self.unwritten.fetch_add(1, Ordering::Relaxed);
        answers.push(self.next_answer.fetch_add(1, Ordering::Relaxed), frame);
        drop(answers);
        self.queued.notify_one();
    }

    /// Waits until there is space for an answer.
    pub(super) async fn has_space(&self) {
        loop {
            let mut space = std::pin::pin!(self.space.notified());
            space.as_mut().enable();
            if self.lock().bytes() <= self.max_queued_bytes {
                return;
            }
            space.await;
        }
    }

    /// Nobody is there to read answers any more.
    pub(super) fn leave(&self) {
        let mut answers = self.lock();
        self.gone.store(true, Ordering::Relaxed);
        answers.clear();
        drop(answers);
        self.unwritten.store(0, Ordering::Release);
        self.space.notify_waiters();
    }

    fn lock(&self) -> MutexGuard<'_, SendQueue> {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
