//! Connections: the only place of the HTTP door with sockets.
//!
//! HTTP/1.1 and HTTP/2 (with prior knowledge) are served on one port; the first bytes decide. A
//! connection is watched from outside the protocol, by what passes through its stream, so that
//! one set of rules holds for both versions and before either is chosen:
//!
//! - no request begun for too long: closed (idle);
//! - the head of a request begun and not finished for too long: closed (slow sender; pauses
//!   within a *body* are the reader's affair and are answered with `408`);
//! - the client takes no byte of an answer for too long: closed (slow reader).

mod stream;

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use axum::http::Request;
use futures_util::FutureExt as _;
use hyper::body::Incoming;
use hyper::rt::{Sleep, Timer};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use hyper_util::server::conn::auto;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::env::{BoxFuture, Env};
use crate::server::http::Door;
use crate::server::http::problem::{Kind, Problem};
use crate::types::Mono;

use stream::{Activity, Watched};
pub(super) use stream::{ConnectionGuard, raw_refusal};

/// Bytes of answers that an HTTP/2 stream buffers.
const SEND_BUFFER: usize = 64 * 1024;

/// For so long after a stop has begun, a request that comes over a kept connection is served.
pub const LINGER: Duration = Duration::from_millis(500);

/// A bound port that does not listen to anybody yet.
#[derive(Debug)]
pub struct Listener {
    tcp: TcpListener,
}

impl Listener {
    /// Binds `address`. Port 0 takes any free one.
    ///
    /// # Errors
    /// The system's: the port is taken, the address is not this machine's, no permission.
    pub async fn bind(address: SocketAddr) -> io::Result<Self> {
        Ok(Self { tcp: TcpListener::bind(address).await? })
    }

    /// The address that it is bound to.
    ///
    /// # Errors
    /// The system's.
    pub fn local_address(&self) -> io::Result<SocketAddr> {
        self.tcp.local_addr()
    }

    /// Serves until `stop` completes; then takes no new connection, lets open requests finish
    /// (for [`drain_timeout_ms`](crate::server::http::HttpLimits::drain_timeout_ms) at most),
    /// closes the connections and returns.
    ///
    /// A client may be writing its next request on a kept connection at any moment, so that a
    /// connection that is just closed can lose a request. So requests are still served for a
    /// while ([`LINGER`]), each with an answer that says that its connection ends with it.
    pub async fn serve(self, door: Door, stop: impl Future<Output = ()>) {
        let env = door.env().clone();
        let (stopping, stopped) = watch::channel(false);
        // Its receivers are held by the connections: it closes when the last one has ended.
        let (alive, ended) = watch::channel(());
        let mut stop = pin!(stop);
        loop {
            let accepted = tokio::select! {
                biased;
                () = stop.as_mut() => break,
                accepted = self.tcp.accept() => accepted,
            };
            match accepted {
                Ok((tcp, _)) => self.begin(tcp, &door, stopped.clone(), ended.clone()),
                Err(error) => {
                    // Out of descriptors, or a connection that was gone at once. Taking the next
                    // one without a pause would spin.
                    tracing::warn!(%error, "cannot take a connection");
                    env.sleep(Duration::from_millis(50)).await;
                }
            }
        }
        door.begin_draining();
        // Connections that the system has taken for this process already; they would be reset.
        while let Some(Ok((tcp, _))) = self.tcp.accept().now_or_never() {
            self.begin(tcp, &door, stopped.clone(), ended.clone());
        }
        drop(self.tcp);
        drop(ended);
        let _ = env.timeout(LINGER, alive.closed()).await;
        door.begin_shutdown();
        let _ = stopping.send(true);
        let patience = Duration::from_millis(door.limits().drain_timeout_ms);
        if env.timeout(patience, alive.closed()).await.is_err() {
            let left = alive.receiver_count();
            tracing::warn!(left, "connections were still busy when the time to drain was over");
        }
    }

    fn begin(
        &self,
        tcp: TcpStream,
        door: &Door,
        stopped: watch::Receiver<bool>,
        ended: watch::Receiver<()>,
    ) {
        let most = i64::try_from(door.limits().max_connections).unwrap_or(i64::MAX);
        if door.numbers().connections.get() >= most {
            door.numbers().refused_connections.inc();
            let problem = Problem::new(
                Kind::Overloaded,
                format!("{most} connections are open (limits.max_connections)"),
            );
            // One attempt without waiting: a client that is worth refusing is not worth a task.
            let _ = tcp.try_write(&raw_refusal(&problem));
            return;
        }
        let _ = tcp.set_nodelay(true);
        let door = door.seen_from(tcp.peer_addr().ok().map(|address| address.ip()));
        let env = door.env().clone();
        env.spawn("http-connection", async move {
            serve_stream(tcp, &door, stopped, true).await;
            drop(ended);
        });
    }
}

/// Serves one connection over any byte stream until it ends, or until `stopped` turns true and
/// its open requests are answered. `dates` asks for a `Date` header on answers, which comes from
/// the system's clock: not for a simulator.
pub async fn serve_stream<S>(
    stream: S,
    door: &Door,
    mut stopped: watch::Receiver<bool>,
    dates: bool,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    door.numbers().connections.add(1);
    let env = door.env().clone();
    let activity = Arc::new(Activity::default());
    let io = TokioIo::new(Watched::new(stream, activity.clone()));
    let builder = builder(door, dates);
    let service = service_fn(|request: Request<Incoming>| {
        let guard = activity.begin();
        let door = door.clone();
        async move {
            let response = door.serve(request).await;
            Ok::<_, Infallible>(response.map(|body| body.with_connection_guard(guard)))
        }
    });
    let mut connection = pin!(builder.serve_connection(io, service));
    let mut watch = Watch::new(door, env.mono());
    let mut tick = env.sleep(watch.tick);
    let stopping = async move { stopped.wait_for(|stop| *stop).await.is_ok() };
    let mut stopping = pin!(stopping);
    let mut stop_seen = false;
    let result = loop {
        tokio::select! {
            biased;
            result = connection.as_mut() => break result.map_err(|error| error.to_string()),
            _ = stopping.as_mut(), if !stop_seen => {
                stop_seen = true;
                connection.as_mut().graceful_shutdown();
            }
            () = tick.as_mut() => {
                match watch.verdict(&activity, env.mono()) {
                    Verdict::Good => {}
                    Verdict::Close => connection.as_mut().graceful_shutdown(),
                    Verdict::Drop(why) => break Err(why.to_owned()),
                }
                tick = env.sleep(watch.tick);
            }
        }
    };
    door.numbers().connections.add(-1);
    if let Err(error) = result {
        door.numbers().broken_connections.inc();
        tracing::debug!(%error, "a connection broke");
    }
}

fn builder(door: &Door, dates: bool) -> auto::Builder<EnvExecutor> {
    let limits = door.limits();
    let env = door.env();
    let mut builder = auto::Builder::new(EnvExecutor(env.clone()));
    builder
        .http1()
        // `Watch` times all connections; hyper's own timer would cost one per request.
        .header_read_timeout(None)
        // Not `pipeline_flush`: with it, an answer to garbage that other garbage follows is never
        // flushed.
        .max_buf_size(2 * limits.max_header_bytes.max(limits.max_uri_bytes).max(8192))
        .auto_date_header(dates);
    builder
        .http2()
        .timer(EnvTimer::new(env.clone()))
        .auto_date_header(dates)
        .max_send_buf_size(SEND_BUFFER)
        .max_concurrent_streams(limits.max_streams_per_connection)
        .max_header_list_size(u32::try_from(2 * limits.max_header_bytes).unwrap_or(u32::MAX));
    builder
}

enum Verdict {
    Good,
    /// It rests: close it as the protocol has it.
    Close,
    /// It is stuck: cut it.
    Drop(&'static str),
}

/// Judges a connection by comparing what it did between two looks. The stream itself reads no
/// clock.
struct Watch {
    tick: Duration,
    idle: Duration,
    header: Duration,
    stall: Duration,
    begun: u64,
    written: u64,
    /// Since when no request is under way and none has begun.
    idle_since: Mono,
    head_since: Option<Mono>,
    stalled_since: Option<Mono>,
    closing_since: Option<Mono>,
}

impl Watch {
    fn new(door: &Door, now: Mono) -> Self {
        let limits = door.limits();
        let (idle, header, stall) =
            (limits.idle_timeout(), limits.header_timeout(), limits.stall_timeout());
        let tick = (idle.min(header).min(stall) / 4)
            .clamp(Duration::from_millis(10), Duration::from_millis(2500));
        Self {
            tick,
            idle,
            header,
            stall,
            begun: 0,
            written: 0,
            idle_since: now,
            // A connection that opens and says nothing gets no longer than one that stammers.
            head_since: Some(now),
            stalled_since: None,
            closing_since: None,
        }
    }

    fn verdict(&mut self, activity: &Activity, now: Mono) -> Verdict {
        let seen = activity.look();
        if seen.begun != self.begun || seen.under_way {
            self.begun = seen.begun;
            self.idle_since = now;
            self.head_since = None;
            self.closing_since = None;
        } else if seen.head_begun {
            self.head_since.get_or_insert(now);
        }
        if seen.write_blocked && seen.written == self.written {
            let since = *self.stalled_since.get_or_insert(now);
            if now.since(since) >= self.stall {
                return Verdict::Drop("the client takes no bytes");
            }
        } else {
            self.written = seen.written;
            self.stalled_since = None;
        }
        if self.head_since.is_some_and(|since| now.since(since) >= self.header) {
            return Verdict::Drop("no whole request came in time");
        }
        if now.since(self.idle_since) < self.idle {
            return Verdict::Good;
        }
        match self.closing_since {
            None => {
                self.closing_since = Some(now);
                Verdict::Close
            }
            Some(_) => Verdict::Drop("it did not end when it was closed"),
        }
    }
}

/// Runs HTTP/2 streams as tasks of the node.
#[derive(Clone, Debug)]
struct EnvExecutor(Env);

impl<F> hyper::rt::Executor<F> for EnvExecutor
where
    F: Future + Send + 'static,
    F::Output: Send,
{
    fn execute(&self, future: F) {
        self.0.spawn("http2-stream", async move {
            let _ = future.await;
        });
    }
}

/// The node's clock, as hyper wants it. Its instants mean nothing outside.
struct EnvTimer {
    env: Env,
    origin: Instant,
    started: Mono,
}

impl EnvTimer {
    #[expect(clippy::disallowed_methods, reason = "an arbitrary origin; only differences count")]
    fn new(env: Env) -> Self {
        let started = env.mono();
        Self { env, origin: Instant::now(), started }
    }
}

impl Timer for EnvTimer {
    fn sleep(&self, duration: Duration) -> Pin<Box<dyn Sleep>> {
        Box::pin(EnvSleep(Mutex::new(self.env.sleep(duration))))
    }

    fn sleep_until(&self, deadline: Instant) -> Pin<Box<dyn Sleep>> {
        self.sleep(deadline.saturating_duration_since(self.now()))
    }

    fn now(&self) -> Instant {
        self.origin + self.env.mono().since(self.started)
    }
}

/// A sleep that may be shared between threads, as hyper asks: it is only ever polled through a
/// unique reference, so the lock is never taken.
struct EnvSleep(Mutex<BoxFuture<'static, ()>>);

impl Future for EnvSleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        match self.0.get_mut() {
            Ok(sleep) => sleep.as_mut().poll(cx),
            Err(poisoned) => poisoned.into_inner().as_mut().poll(cx),
        }
    }
}

impl Sleep for EnvSleep {}
