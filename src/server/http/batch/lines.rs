//! The lines of a body, in bounded memory.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use bytes::{Bytes, BytesMut};

use crate::server::budget::Share;
use crate::server::http::body::Reading;
use crate::server::http::door::Inner;
use crate::server::http::problem::{Kind, Problem};

/// What a line may have beside its value: key, context, metadata, names.
const BESIDE_THE_VALUE: usize = 128 * 1024;

/// One line, without its end.
pub(super) struct Line {
    /// Its bytes; or why they were not kept (with no id: it was not read that far).
    pub(super) bytes: Result<Bytes, (Option<String>, Problem)>,
    /// The memory that they take.
    pub(super) share: Option<Share>,
}

/// Cuts a body into lines. Empty lines are skipped; one that is too long is read to its end and
/// not kept.
pub(super) struct Lines {
    inner: Arc<Inner>,
    body: Option<Body>,
    held: BytesMut,
    /// Bytes at the front of `held` that are known to hold no line end.
    searched: usize,
    share: Option<Share>,
    /// The line at hand is too long; its bytes are dropped as they come.
    skipping: bool,
    longest: usize,
}

impl Lines {
    pub(super) fn new(body: Body, inner: Arc<Inner>) -> Self {
        // A value of text may have a backslash before every character, in base64 it is a third
        // longer.
        let longest = inner.limits.max_value_bytes.saturating_mul(2) + BESIDE_THE_VALUE;
        let share = Share::take(&inner.bodies, 0);
        Self {
            inner,
            body: Some(body),
            held: BytesMut::new(),
            searched: 0,
            share,
            skipping: false,
            longest,
        }
    }

    /// What has not been read of the body.
    pub(super) fn into_rest(self) -> Option<Body> {
        self.body
    }

    /// The next line; `None` at the end of the body. May be dropped at any await and called again
    /// without losing anything.
    pub(super) async fn next(&mut self) -> Result<Option<Line>, Problem> {
        loop {
            if let Some(at) = self.held[self.searched..].iter().position(|&b| b == b'\n') {
                let mut line = self.held.split_to(self.searched + at + 1);
                line.truncate(line.len() - 1);
                self.searched = 0;
                match self.finish(line) {
                    Some(line) => return Ok(Some(line)),
                    None => continue,
                }
            }
            self.searched = self.held.len();
            if self.held.len() > self.longest {
                self.skipping = true;
            }
            if self.skipping {
                self.held.clear();
                self.searched = 0;
                self.account()?;
            }
            let Some(body) = &mut self.body else { return Ok(None) };
            let reading = Reading {
                env: &self.inner.env,
                limits: &self.inner.limits,
                budget: &self.inner.bodies,
            };
            // A batch may last; only its pauses are bounded.
            let deadline = self.inner.env.mono() + Duration::from_secs(1 << 30);
            match reading.next_chunk(Pin::new(body), deadline).await {
                Ok(Some(chunk)) => {
                    self.held.extend_from_slice(&chunk);
                    self.account()?;
                }
                Ok(None) => {
                    self.body = None;
                    let rest = std::mem::take(&mut self.held);
                    self.searched = 0;
                    return Ok(self.finish(rest));
                }
                Err(problem) => {
                    self.body = None;
                    return Err(problem);
                }
            }
        }
    }

    /// Makes the memory taken fit what is held.
    fn account(&mut self) -> Result<(), Problem> {
        let Some(share) = &mut self.share else { return Ok(()) };
        let held = self.held.len();
        share.shrink_to(held);
        if share.grow(held.saturating_sub(share.amount())) {
            return Ok(());
        }
        Err(Problem::new(
            Kind::Overloaded,
            "no memory for the next item (limits.max_body_memory_mb)",
        ))
    }

    fn finish(&mut self, line: BytesMut) -> Option<Line> {
        if std::mem::take(&mut self.skipping) {
            let problem = Problem::new(
                Kind::ValueTooLarge,
                format!("an item may have at most {} bytes", self.longest),
            )
            .with("max", self.longest);
            return Some(Line { bytes: Err((None, problem)), share: None });
        }
        if line.iter().all(u8::is_ascii_whitespace) {
            return None;
        }
        // The line's memory changes hands: from what is held here to what the item holds.
        if let Some(share) = &mut self.share {
            share.shrink_to(self.held.len());
        }
        let share = Share::take(&self.inner.bodies, line.len());
        let bytes = match share {
            // A copy, so that a short line does not keep the whole buffer in memory.
            Some(_) => Ok(Bytes::copy_from_slice(&line)),
            None => Err((
                None,
                Problem::new(
                    Kind::Overloaded,
                    "no memory for this item (limits.max_body_memory_mb)",
                ),
            )),
        };
        Some(Line { bytes, share })
    }
}
