//! One node as a client sees it: its address and the connections that wait for the next call.
#![allow(
    clippy::disallowed_methods,
    reason = "a client lives outside of the simulated node, on the real clock and runtime"
)]

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{AUTHORIZATION, HOST, HeaderValue};
use hyper::http::{HeaderMap, Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::credentials::Credentials;
use super::error::{ClientError, Problem};

/// How long connecting may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// The most idle connections that are kept to one node.
const MAX_IDLE: usize = 256;

/// The largest answer that is taken into memory.
pub const MAX_REPLY_BYTES: usize = 1 << 30;

/// How long a node that could not be reached is tried last.
const AVOID: Duration = Duration::from_millis(1_000);

/// One request, not bound to a node.
#[derive(Debug, Clone)]
pub struct Call {
    /// The method.
    pub method: Method,
    /// Path and query, percent-encoded.
    pub target: String,
    /// Headers, `Host` excepted.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
}

impl Call {
    /// A call without headers and body.
    #[must_use]
    pub fn new(method: Method, target: impl Into<String>) -> Self {
        Self { method, target: target.into(), headers: HeaderMap::new(), body: Bytes::new() }
    }

    /// The call with a header more.
    ///
    /// # Errors
    /// [`ClientError::Invalid`] if `value` cannot stand in a header.
    pub fn header(mut self, name: &'static str, value: &str) -> Result<Self, ClientError> {
        let value = HeaderValue::from_str(value).map_err(|_| {
            ClientError::Invalid(format!("the value of {name} cannot stand in an HTTP header"))
        })?;
        self.headers.append(name, value);
        Ok(self)
    }

    /// The call with this body.
    #[must_use]
    pub fn body(mut self, body: impl Into<Bytes>) -> Self {
        self.body = body.into();
        self
    }
}

/// One answer, taken whole.
#[derive(Debug, Clone)]
pub struct Reply {
    /// The node that gave it.
    pub node: String,
    /// Its status.
    pub status: StatusCode,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Bytes,
}

impl Reply {
    /// The text of a header; `None` if absent or no text.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// The body as JSON.
    ///
    /// # Errors
    /// [`ClientError::Protocol`].
    pub fn json<T: serde::de::DeserializeOwned>(&self) -> Result<T, ClientError> {
        serde_json::from_slice(&self.body).map_err(|error| ClientError::Protocol {
            node: self.node.clone(),
            why: format!("expected other JSON: {error}"),
        })
    }

    /// The answer as an error.
    #[must_use]
    pub fn refused(&self) -> ClientError {
        let retry_after = self.header("retry-after").and_then(|text| text.parse().ok());
        let problem =
            Problem::read(self.status.as_u16(), retry_after.map(Duration::from_secs), &self.body);
        ClientError::Refused { node: self.node.clone(), problem: Box::new(problem) }
    }
}

/// A node's address with its idle connections.
#[derive(Debug)]
pub struct Node {
    authority: String,
    /// Who calls, if the node is to know.
    authorization: Option<HeaderValue>,
    idle: Mutex<Vec<SendRequest<Full<Bytes>>>>,
    born: Instant,
    /// Milliseconds after `born` until which this node is tried last.
    avoid_until_ms: AtomicU64,
}

impl Node {
    /// A node at `address`: `host:port`, `host` (port 8098) or `http://host:port`.
    ///
    /// # Errors
    /// [`ClientError::Invalid`] for anything else.
    pub fn new(address: &str) -> Result<Self, ClientError> {
        let invalid =
            |why: &str| ClientError::Invalid(format!("{address:?} is no address of a node: {why}"));
        if address.starts_with("https://") {
            return Err(invalid("TLS is not supported yet; use http://"));
        }
        let rest = address.strip_prefix("http://").unwrap_or(address).trim_end_matches('/');
        if rest.is_empty() || rest.contains(['/', '?', '#', '@', ' ']) {
            return Err(invalid("use http://host:port"));
        }
        let has_port = rest.rsplit_once(':').is_some_and(|(host, _)| {
            !host.contains(':') || host.ends_with(']') // an IPv6 address has colons of its own
        });
        let authority = if has_port { rest.to_owned() } else { format!("{rest}:8098") };
        authority
            .parse::<hyper::http::uri::Authority>()
            .ok()
            .filter(|authority| authority.port_u16().is_some_and(|port| port > 0))
            .ok_or_else(|| invalid("use http://host:port"))?;
        Ok(Self {
            authority,
            authorization: None,
            idle: Mutex::default(),
            born: Instant::now(),
            avoid_until_ms: AtomicU64::new(0),
        })
    }

    /// The same node, for calls of a role.
    #[must_use]
    pub fn as_role(&self, credentials: &Credentials) -> Self {
        Self {
            authority: self.authority.clone(),
            authorization: credentials.header(),
            idle: Mutex::default(),
            born: Instant::now(),
            avoid_until_ms: AtomicU64::new(0),
        }
    }

    /// `host:port`.
    #[must_use]
    pub fn authority(&self) -> &str {
        &self.authority
    }

    /// True shortly after this node could not be reached.
    #[must_use]
    pub fn is_avoided(&self) -> bool {
        self.avoid_until_ms.load(Ordering::Relaxed) > self.age_ms()
    }

    fn age_ms(&self) -> u64 {
        u64::try_from(self.born.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn avoid(&self) {
        let until = self.age_ms().saturating_add(AVOID.as_millis() as u64);
        self.avoid_until_ms.store(until, Ordering::Relaxed);
    }

    /// Sends `call` and takes the whole answer, whatever its status.
    ///
    /// # Errors
    /// [`ClientError::Unreachable`], [`ClientError::Lost`] or [`ClientError::TimedOut`].
    pub async fn send(&self, call: &Call, timeout: Duration) -> Result<Reply, ClientError> {
        match tokio::time::timeout(timeout, self.send_untimed(call)).await {
            Ok(result) => {
                if matches!(result, Err(ClientError::Unreachable { .. })) {
                    self.avoid();
                }
                result
            }
            Err(_) => {
                self.avoid();
                Err(ClientError::TimedOut { node: self.authority.clone(), after: timeout })
            }
        }
    }

    async fn send_untimed(&self, call: &Call) -> Result<Reply, ClientError> {
        let (response, sender) = self.exchange(call).await?;
        let (parts, body) = response.into_parts();
        let body = self.read_body(body).await?;
        self.keep(sender);
        Ok(Reply {
            node: self.authority.clone(),
            status: parts.status,
            headers: parts.headers,
            body,
        })
    }

    /// Sends over an idle connection, or a new one. A connection that turns out to be closed
    /// before a byte was sent is replaced.
    async fn exchange(
        &self,
        call: &Call,
    ) -> Result<(Response<Incoming>, SendRequest<Full<Bytes>>), ClientError> {
        loop {
            let (mut sender, fresh) = match self.take_idle() {
                Some(sender) => (sender, false),
                None => (self.connect().await?, true),
            };
            match sender.try_send_request(self.request(call)?).await {
                Ok(response) => return Ok((response, sender)),
                Err(mut error) => {
                    let never_sent = error.take_message().is_some();
                    if !never_sent {
                        return Err(self.lost(&error.into_error()));
                    }
                    if fresh {
                        return Err(self.unreachable(&"the connection was closed at once"));
                    }
                }
            }
        }
    }

    fn request(&self, call: &Call) -> Result<Request<Full<Bytes>>, ClientError> {
        let mut request = Request::builder()
            .method(call.method.clone())
            .uri(&call.target)
            .header(HOST, &self.authority)
            .body(Full::new(call.body.clone()))
            .map_err(|error| ClientError::Invalid(format!("{}: {error}", call.target)))?;
        if let Some(authorization) = &self.authorization {
            request.headers_mut().insert(AUTHORIZATION, authorization.clone());
        }
        request.headers_mut().extend(call.headers.clone());
        Ok(request)
    }

    async fn read_body(&self, mut body: Incoming) -> Result<Bytes, ClientError> {
        let mut whole: Option<BytesMut> = None;
        let mut first = Bytes::new();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| self.lost(&error))?;
            let Ok(data) = frame.into_data() else { continue };
            // Most answers are one piece: those are not copied.
            match &mut whole {
                None if first.is_empty() => first = data,
                None => {
                    let mut joined = BytesMut::from(&first[..]);
                    joined.extend_from_slice(&data);
                    whole = Some(joined);
                }
                Some(joined) => joined.extend_from_slice(&data),
            }
            if whole.as_ref().is_some_and(|joined| joined.len() > MAX_REPLY_BYTES) {
                return Err(ClientError::Protocol {
                    node: self.authority.clone(),
                    why: format!("the answer is longer than {MAX_REPLY_BYTES} bytes"),
                });
            }
        }
        Ok(whole.map_or(first, BytesMut::freeze))
    }

    async fn connect(&self) -> Result<SendRequest<Full<Bytes>>, ClientError> {
        let stream = tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(&self.authority))
            .await
            .map_err(|_| self.unreachable(&"connecting took too long"))?
            .map_err(|error| self.unreachable(&error))?;
        stream.set_nodelay(true).map_err(|error| self.unreachable(&error))?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| self.unreachable(&error))?;
        tokio::spawn(async move {
            // Its errors reach whoever waits for an answer.
            drop(connection.await);
        });
        Ok(sender)
    }

    fn take_idle(&self) -> Option<SendRequest<Full<Bytes>>> {
        let mut idle = self.idle.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        std::iter::from_fn(|| idle.pop()).find(|sender| !sender.is_closed() && sender.is_ready())
    }

    fn keep(&self, sender: SendRequest<Full<Bytes>>) {
        let mut idle = self.idle.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if !sender.is_closed() && idle.len() < MAX_IDLE {
            idle.push(sender);
        }
    }

    fn unreachable(&self, why: &dyn std::fmt::Display) -> ClientError {
        ClientError::Unreachable { node: self.authority.clone(), why: why.to_string() }
    }

    fn lost(&self, error: &hyper::Error) -> ClientError {
        let cause = std::error::Error::source(error).map(|cause| format!(" ({cause})"));
        let why = format!("{error}{}", cause.unwrap_or_default());
        ClientError::Lost { node: self.authority.clone(), why }
    }
}
