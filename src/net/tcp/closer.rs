//! Small tools of the connection tasks.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Poll;

use tokio::sync::Notify;

use crate::types::Mono;

/// Lets others end a connection's task. The first reason counts.
#[derive(Debug, Default)]
pub(super) struct Closer {
    why: OnceLock<&'static str>,
    rung: Notify,
}

impl Closer {
    pub(super) fn close(&self, why: &'static str) {
        let _ = self.why.set(why);
        self.rung.notify_one();
    }

    /// Waits for [`Closer::close`]. For one waiter: the connection's task.
    pub(super) async fn closed(&self) -> &'static str {
        loop {
            if let Some(why) = self.why.get() {
                return why;
            }
            self.rung.notified().await;
        }
    }
}

/// Drives both halves of a connection and a third future within one task, until one of them ends.
///
/// The writer is polled before and after the reader: what the reader has just answered leaves at
/// once, without another trip through the scheduler. The third comes last: it may judge by what the
/// reader has just heard. Neither half may keep the other waiting: both
/// let go ([`let_others`]) when there is always more to do.
pub(super) async fn duplex<T>(
    write: impl Future<Output = T>,
    read: impl Future<Output = T>,
    rest: impl Future<Output = T>,
) -> T {
    let (mut write, mut read, mut rest) = (pin!(write), pin!(read), pin!(rest));
    poll_fn(|cx| {
        if let Poll::Ready(end) = write.as_mut().poll(cx) {
            return Poll::Ready(end);
        }
        if let Poll::Ready(end) = read.as_mut().poll(cx) {
            return Poll::Ready(end);
        }
        if let Poll::Ready(end) = write.as_mut().poll(cx) {
            return Poll::Ready(end);
        }
        rest.as_mut().poll(cx)
    })
    .await
}

/// Lets go once.
pub(super) async fn let_others() {
    let mut let_go = false;
    poll_fn(|cx| {
        if std::mem::replace(&mut let_go, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// Lets one line into the log per second, so that a noisy stranger cannot fill a disk.
#[derive(Debug, Default)]
pub(super) struct LogGate {
    open_at: AtomicU64,
    held_back: AtomicU64,
}

impl LogGate {
    /// `Some(n)`: log it, and say that `n` lines before it were held back.
    pub(super) fn pass(&self, now: Mono) -> Option<u64> {
        let open_at = self.open_at.load(Ordering::Relaxed);
        let next = now.0.saturating_add(1_000_000_000);
        let mine = now.0 >= open_at
            && self
                .open_at
                .compare_exchange(open_at, next, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok();
        if mine {
            return Some(self.held_back.swap(0, Ordering::Relaxed));
        }
        self.held_back.fetch_add(1, Ordering::Relaxed);
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_per_second_passes_and_tells_of_the_others() {
        let gate = LogGate::default();
        assert_eq!(gate.pass(Mono(5)), Some(0));
        assert_eq!(gate.pass(Mono(6)), None);
        assert_eq!(gate.pass(Mono(1_000_000_004)), None);
        assert_eq!(gate.pass(Mono(1_000_000_005)), Some(2));
    }

    #[tokio::test]
    async fn closing_before_waiting_is_not_missed() {
        let closer = Closer::default();
        closer.close("first");
        closer.close("second");
        assert_eq!(closer.closed().await, "first");
    }
}
