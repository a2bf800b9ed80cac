//! Requests that the connection's own task works on.
//!
//! Reading one row by its key is most of what applications do, and costs less than waking two
//! tasks for it, one to read and one to write the answer. So such reads are not given to tasks of
//! their own. What waits for other nodes waits together with the client's next request; answers
//! are collected while there is something left to do, and then written together.
//!
//! Only reads: what is under way here ends with its connection.

use std::future::ready;
use std::pin::pin;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;

use crate::env::BoxFuture;
use crate::server::cql::outbox::{Outbox, Parcel};

/// Answers that are collected at most, and bytes of them.
const MAX_COLLECTED: usize = 256;
const MAX_BYTES: usize = 32 << 10;

/// Reads under way, and answers that wait to be written.
pub(super) struct Inline {
    outbox: Outbox,
    under_way: FuturesUnordered<BoxFuture<'static, Parcel>>,
    answers: Vec<Parcel>,
    bytes: usize,
}

impl Inline {
    /// Nothing under way yet.
    pub(super) fn new(outbox: Outbox) -> Self {
        Self { outbox, under_way: FuturesUnordered::new(), answers: Vec::new(), bytes: 0 }
    }

    /// Takes a read on, of which the next [`Inline::tend`] does the first step.
    pub(super) fn begin(&mut self, read: BoxFuture<'static, Parcel>) {
        self.under_way.push(read);
    }

    /// Waits for `other`, and works on the reads in the meantime.
    pub(super) async fn tend<T>(&mut self, other: impl Future<Output = T>) -> T {
        let mut other = pin!(other);
        loop {
            tokio::select! {
                biased;
                // (An empty set would note who asks, all the same.)
                Some(answer) = self.under_way.next(), if !self.under_way.is_empty() => {
                    self.collect(answer).await;
                }
                done = &mut other => return done,
                () = ready(()), if !self.answers.is_empty() => self.flush().await,
            }
        }
    }

    /// Works on the reads to their end.
    pub(super) async fn finish(&mut self) {
        while let Some(answer) = self.under_way.next().await {
            self.collect(answer).await;
        }
        self.flush().await;
    }

    /// Takes an answer that is there: the next [`Inline::tend`] that has nothing else to do sends it.
    pub(super) async fn collect(&mut self, answer: Parcel) {
        self.bytes += answer.len();
        self.answers.push(answer);
        if self.bytes >= MAX_BYTES || self.answers.len() >= MAX_COLLECTED {
            self.flush().await;
        }
    }

    async fn flush(&mut self) {
        self.bytes = 0;
        if !self.outbox.write_now(&mut self.answers) {
            self.outbox.forward(&mut self.answers).await;
        }
    }
}
