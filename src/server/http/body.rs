//! Bodies, both ways, in bounded memory.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::body::Body;
use axum::http::{HeaderMap, header};
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt as _;
use hyper::body::{Body as HttpBody, Frame, SizeHint};

use crate::env::Env;
use crate::server::budget::{Budget, Share};
use crate::server::http::door::UnderWay;
use crate::server::http::limits::HttpLimits;
use crate::server::http::listen::ConnectionGuard;
use crate::server::http::problem::{Kind, Problem};
use crate::types::Mono;

/// The body of an answer, with what must live until its last byte has left.
pub struct DoorBody {
    content: Content,
    /// The request's place among those under way, and its connection's.
    guards: (Option<UnderWay>, Option<ConnectionGuard>),
    share: Option<Share>,
}

enum Content {
    Empty,
    Once(Bytes),
    Pieces(VecDeque<Bytes>),
    Stream(tokio::sync::mpsc::Receiver<Bytes>),
    Other(Body),
}

impl std::fmt::Debug for DoorBody {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("DoorBody")
    }
}

impl DoorBody {
    fn new(content: Content) -> Self {
        Self { content, guards: (None, None), share: None }
    }

    /// No bytes.
    #[must_use]
    pub fn empty() -> Self {
        Self::new(Content::Empty)
    }

    /// These bytes.
    #[must_use]
    pub fn full(bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        Self::new(if bytes.is_empty() { Content::Empty } else { Content::Once(bytes) })
    }

    /// These bytes, one piece after the other, without joining them first.
    #[must_use]
    pub fn pieces(pieces: impl IntoIterator<Item = Bytes>) -> Self {
        let pieces = pieces.into_iter().filter(|piece| !piece.is_empty()).collect();
        Self::new(Content::Pieces(pieces))
    }

    /// What the sender's side sends, until it is dropped.
    #[must_use]
    pub fn stream(receiver: tokio::sync::mpsc::Receiver<Bytes>) -> Self {
        Self::new(Content::Stream(receiver))
    }

    /// A body made by axum.
    #[must_use]
    pub fn other(body: Body) -> Self {
        Self::new(Content::Other(body))
    }

    /// Keeps `share` of the memory budget until the body has been sent.
    #[must_use]
    pub fn with_share(mut self, share: Option<Share>) -> Self {
        self.share = share;
        self
    }

    /// Keeps `guard` until the body has been sent.
    #[must_use]
    pub(super) fn with_request_guard(mut self, guard: UnderWay) -> Self {
        self.guards.0 = Some(guard);
        self
    }

    /// Keeps `guard` until the body has been sent.
    #[must_use]
    pub(super) fn with_connection_guard(mut self, guard: ConnectionGuard) -> Self {
        self.guards.1 = Some(guard);
        self
    }

    /// Takes the bytes away, for an answer to `HEAD`.
    pub(super) fn clear(&mut self) {
        self.content = Content::Empty;
        self.share = None;
    }

    /// Its length, where that is known.
    #[must_use]
    pub fn len_hint(&self) -> Option<u64> {
        self.size_hint().exact()
    }
}

/// Most bytes that are handed to the connection at a time. What it has taken, it buffers, and the
/// guards end with the last part: a large answer given whole would count as sent at once.
const PART: usize = 64 * 1024;

fn part_of(bytes: &mut Bytes) -> Bytes {
    if bytes.len() <= PART { std::mem::take(bytes) } else { bytes.split_to(PART) }
}

impl HttpBody for DoorBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        match &mut self.content {
            Content::Empty => Poll::Ready(None),
            Content::Once(bytes) => {
                let part = part_of(bytes);
                if bytes.is_empty() {
                    self.content = Content::Empty;
                }
                Poll::Ready(Some(Ok(Frame::data(part))))
            }
            Content::Pieces(pieces) => {
                let part = pieces.front_mut().map(part_of);
                if pieces.front().is_some_and(Bytes::is_empty) {
                    pieces.pop_front();
                }
                Poll::Ready(part.map(|part| Ok(Frame::data(part))))
            }
            Content::Stream(receiver) => {
                receiver.poll_recv(cx).map(|next| next.map(|bytes| Ok(Frame::data(bytes))))
            }
            Content::Other(body) => Pin::new(body).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.content {
            Content::Empty => true,
            Content::Once(_) | Content::Stream(_) => false,
            Content::Pieces(pieces) => pieces.is_empty(),
            Content::Other(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.content {
            Content::Empty => SizeHint::with_exact(0),
            Content::Once(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Content::Pieces(pieces) => {
                SizeHint::with_exact(pieces.iter().map(|piece| piece.len() as u64).sum())
            }
            Content::Stream(_) => SizeHint::default(),
            Content::Other(body) => body.size_hint(),
        }
    }
}

/// A value that has been read, and its share of the memory budget.
#[derive(Debug)]
pub struct ReadBody {
    /// The bytes.
    pub bytes: Bytes,
    /// To be kept as long as the bytes are.
    pub share: Share,
}

/// What reading a body needs to know.
#[derive(Clone, Copy, Debug)]
pub struct Reading<'a> {
    /// Clock and timers.
    pub env: &'a Env,
    /// Bounds.
    pub limits: &'a HttpLimits,
    /// Memory for bodies, over all requests.
    pub budget: &'a Arc<Budget>,
}

impl Reading<'_> {
    /// Reads a body of at most `max` bytes.
    ///
    /// - A `Content-Length` above `max` is refused before a byte is read, a longer body without
    ///   one as soon as it passes `max`.
    /// - Memory is taken from the budget before it is filled: a little at the start, then as the
    ///   bytes come, so that a client that announces much and sends nothing holds nothing.
    ///
    /// # Errors
    /// `413`, `503` (no memory left), `408` (too slow), `400` (cut short).
    pub async fn read<B>(
        &self,
        headers: &HeaderMap,
        body: B,
        max: usize,
    ) -> Result<ReadBody, Problem>
    where
        B: HttpBody<Data = Bytes> + Send,
        B::Error: std::fmt::Display,
    {
        let announced = announced_length(headers)?;
        if announced.is_some_and(|length| length > max as u64) {
            return Err(too_large(max, announced));
        }
        let mut share = Share::take(self.budget, 0).ok_or_else(|| self.no_memory())?;
        let mut body = std::pin::pin!(body);
        let deadline = self.env.mono() + self.limits.body_timeout();
        let mut first = Bytes::new();
        let mut joined: Option<BytesMut> = None;
        let mut length = 0usize;
        while let Some(chunk) = self.next_chunk(body.as_mut(), deadline).await? {
            length += chunk.len();
            if length > max {
                return Err(too_large(max, announced));
            }
            if !share.grow(chunk.len()) {
                return Err(self.no_memory());
            }
            match &mut joined {
                None if first.is_empty() => first = chunk,
                None => {
                    let whole = announced.and_then(|n| usize::try_from(n).ok()).unwrap_or(length);
                    // At most twice what has come, so that the announcement alone reserves little.
                    let mut all = BytesMut::with_capacity(whole.min(2 * length));
                    all.extend_from_slice(&std::mem::take(&mut first));
                    all.extend_from_slice(&chunk);
                    joined = Some(all);
                }
                Some(all) => all.extend_from_slice(&chunk),
            }
        }
        // A transport that ends early says so by an error; this is for those that cannot.
        if announced.is_some_and(|announced| announced != length as u64) {
            return Err(truncated(&format!(
                "Content-Length announced {} bytes and {length} came",
                announced.unwrap_or_default()
            )));
        }
        let bytes = match joined {
            Some(all) => all.freeze(),
            // A small chunk is a slice of the connection's read buffer, which would stay in
            // memory with it.
            None if first.len() < 4096 => Bytes::copy_from_slice(&first),
            None => first,
        };
        Ok(ReadBody { bytes, share })
    }

    /// The next bytes of `body`; `None` at its end.
    ///
    /// # Errors
    /// `408` after the longest allowed pause or at `deadline`, `400` when the body was cut short.
    pub async fn next_chunk<B>(
        &self,
        mut body: Pin<&mut B>,
        deadline: Mono,
    ) -> Result<Option<Bytes>, Problem>
    where
        B: HttpBody<Data = Bytes> + Send,
        B::Error: std::fmt::Display,
    {
        loop {
            // What has already arrived needs no timer.
            let ready = std::future::poll_fn(|cx| match body.as_mut().poll_frame(cx) {
                Poll::Ready(frame) => Poll::Ready(Some(frame)),
                Poll::Pending => Poll::Ready(None),
            })
            .await;
            let frame = match ready {
                Some(frame) => frame,
                None => {
                    let left = deadline.since(self.env.mono()).min(self.limits.body_pause());
                    let next = std::future::poll_fn(|cx| body.as_mut().poll_frame(cx));
                    self.env.timeout(left, next).await.map_err(|_| {
                        Problem::new(
                            Kind::RequestTimeout,
                            "the request's body came too slowly; nothing of it was carried out",
                        )
                    })?
                }
            };
            match frame {
                None => return Ok(None),
                Some(Ok(frame)) => {
                    if let Ok(bytes) = frame.into_data()
                        && !bytes.is_empty()
                    {
                        return Ok(Some(bytes));
                    }
                }
                Some(Err(error)) => return Err(truncated(&error.to_string())),
            }
        }
    }

    fn no_memory(&self) -> Problem {
        Problem::new(
            Kind::Overloaded,
            format!(
                "the bodies of all requests under way would pass {} bytes \
                 (limits.max_body_memory_mb)",
                self.budget.max()
            ),
        )
    }
}

/// The body's length as the client announced it.
///
/// # Errors
/// `400` for a length that is no number.
pub fn announced_length(headers: &HeaderMap) -> Result<Option<u64>, Problem> {
    headers
        .get(header::CONTENT_LENGTH)
        .map(|value| {
            value
                .to_str()
                .ok()
                .and_then(|text| text.parse().ok())
                .ok_or_else(|| Problem::bad_parameter("Content-Length", "is no number"))
        })
        .transpose()
}

fn truncated(why: &str) -> Problem {
    Problem::bad(format!("the request's body was cut short: {why}"))
}

fn too_large(max: usize, got: Option<u64>) -> Problem {
    let problem = Problem::new(
        Kind::ValueTooLarge,
        format!("at most {max} bytes are taken here; nothing was written"),
    )
    .with("max", max);
    match got {
        Some(got) => problem.with("got", got),
        None => problem,
    }
}

/// Reads on from a body whose request has been refused, for a while and a bounded amount: a client
/// that is still sending would otherwise meet a reset connection instead of the answer.
pub fn drain(env: &Env, body: Body, limits: &HttpLimits) {
    let most = limits.max_value_bytes.saturating_mul(2);
    let patience = limits.body_pause();
    let timer = env.clone();
    env.spawn("http-drain", async move {
        let mut body = body;
        let mut seen = 0usize;
        let reading = async {
            while let Some(Ok(frame)) = body.frame().await {
                seen += frame.data_ref().map_or(0, Bytes::len);
                if seen > most {
                    return;
                }
            }
        };
        let _ = timer.timeout(patience, reading).await;
    });
}
