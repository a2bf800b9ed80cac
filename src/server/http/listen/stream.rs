//! A byte stream that notes what passes through it.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::server::http::problem::{Kind, Problem};

/// What a connection has done so far.
#[derive(Debug, Default)]
pub(super) struct Activity {
    /// Requests whose answer has not been handed over yet.
    under_way: AtomicUsize,
    /// Requests begun.
    begun: AtomicU64,
    /// Bytes came since the last request began.
    head_begun: AtomicBool,
    /// The last write found no room.
    write_blocked: AtomicBool,
    /// Writes that found room.
    written: AtomicU64,
}

/// A look at an [`Activity`].
#[derive(Clone, Copy, Debug)]
pub(super) struct Seen {
    pub(super) under_way: bool,
    pub(super) begun: u64,
    pub(super) head_begun: bool,
    pub(super) write_blocked: bool,
    pub(super) written: u64,
}

/// A request under way on a connection, until its answer has been handed over.
#[derive(Debug)]
pub(in crate::server::http) struct ConnectionGuard(Arc<Activity>);

impl Activity {
    pub(super) fn begin(self: &Arc<Self>) -> ConnectionGuard {
        self.begun.fetch_add(1, Ordering::Relaxed);
        self.head_begun.store(false, Ordering::Relaxed);
        self.under_way.fetch_add(1, Ordering::Relaxed);
        ConnectionGuard(self.clone())
    }

    pub(super) fn look(&self) -> Seen {
        Seen {
            under_way: self.under_way.load(Ordering::Relaxed) > 0,
            begun: self.begun.load(Ordering::Relaxed),
            head_begun: self.head_begun.load(Ordering::Relaxed),
            write_blocked: self.write_blocked.load(Ordering::Relaxed),
            written: self.written.load(Ordering::Relaxed),
        }
    }
}

impl Drop for ConnectionGuard {
    fn drop(&mut self) {
        self.0.under_way.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The stream.
///
/// It also gives a body to the answers that hyper makes by itself, to requests that it cannot
/// parse: they are a bare status line, and our clients may expect a problem document.
#[derive(Debug)]
pub(super) struct Watched<S> {
    stream: S,
    activity: Arc<Activity>,
    /// An answer of our own that is being written in place of hyper's, and how much of it has
    /// been; then the length of hyper's, which it is told has been written.
    instead: Option<(Vec<u8>, usize, usize)>,
}

impl<S> Watched<S> {
    pub(super) fn new(stream: S, activity: Arc<Activity>) -> Self {
        Self { stream, activity, instead: None }
    }

    fn note(&self, poll: &Poll<io::Result<usize>>) {
        if poll.is_pending() {
            self.activity.write_blocked.store(true, Ordering::Relaxed);
        } else {
            self.activity.write_blocked.store(false, Ordering::Relaxed);
            self.activity.written.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl<S: AsyncWrite + Unpin> Watched<S> {
    fn write_instead(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        while let Some((bytes, done, original)) = &mut self.instead {
            if *done == bytes.len() {
                let original = *original;
                self.instead = None;
                return Poll::Ready(Ok(original));
            }
            let wrote = ready!(Pin::new(&mut self.stream).poll_write(cx, &bytes[*done..]))?;
            if wrote == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            *done += wrote;
        }
        Poll::Ready(Ok(0))
    }
}

/// Recognises an answer that hyper made by itself: an error without a body that closes the
/// connection. Every such answer of ours has a body, or says how long it would be.
fn made_by_hyper(bytes: &[u8]) -> Option<Problem> {
    const FIRST: &[u8] = b"HTTP/1.1 4";
    if !bytes.starts_with(FIRST) || bytes.len() > 512 || !bytes.ends_with(b"\r\n\r\n") {
        return None;
    }
    let text = std::str::from_utf8(bytes).ok()?;
    if text.matches("\r\n\r\n").count() != 1
        || !text.contains("\r\nconnection: close\r\n")
        || !text.contains("\r\ncontent-length: 0\r\n")
        || text.contains("\r\ncontent-type:")
    {
        return None;
    }
    Some(match &text[9..12] {
        "414" => Problem::new(Kind::UriTooLong, "the request target is far too long"),
        "431" => Problem::new(Kind::HeadersTooLarge, "the headers are far too many or too long"),
        _ => Problem::bad("this is no HTTP request: its head cannot be parsed"),
    })
}

/// A whole HTTP/1.1 answer that ends its connection. As nothing was carried out, it says so in
/// the way that an answer to a write must.
pub(in crate::server::http) fn raw_refusal(problem: &Problem) -> Vec<u8> {
    let body = serde_json::to_vec(&problem.json(true)).unwrap_or_default();
    let status = axum::http::StatusCode::from_u16(problem.status()).unwrap_or_default();
    let retry = if problem.status() == 503 { "retry-after: 1\r\n" } else { "" };
    let mut out = format!(
        "HTTP/1.1 {} {}\r\nconnection: close\r\ncontent-type: application/problem+json\r\n\
         {retry}content-length: {}\r\n\r\n",
        status.as_str(),
        status.canonical_reason().unwrap_or_default(),
        body.len()
    )
    .into_bytes();
    out.extend_from_slice(&body);
    out
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let result = Pin::new(&mut self.stream).poll_read(cx, buffer);
        if buffer.filled().len() > before {
            self.activity.head_begun.store(true, Ordering::Relaxed);
        }
        result
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.instead.is_none()
            && let Some(problem) = made_by_hyper(bytes)
        {
            self.instead = Some((raw_refusal(&problem), 0, bytes.len()));
        }
        let result = if self.instead.is_some() {
            self.write_instead(cx)
        } else {
            Pin::new(&mut self.stream).poll_write(cx, bytes)
        };
        self.note(&result);
        result
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let filled = slices.iter().filter(|slice| !slice.is_empty());
        if let Some(only) = filled.clone().next().filter(|_| filled.count() == 1) {
            return self.poll_write(cx, only);
        }
        let result = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.note(&result);
        result
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
