//! The port: connections, their order, and their bounds.
//!
//! One task reads a connection and one writes it; requests run in tasks of their own, so answers
//! may overtake each other. A connection may have [`MAX_IN_FLIGHT`] requests under way: beyond
//! that, and when it does not take its answers, it is not read any more. So a slow reader hurts
//! only itself.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::BytesMut;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, broadcast, mpsc, watch};

use crate::env::Env;
use crate::server::cql::CqlService;
use crate::server::cql::ddl;
use crate::server::cql::error::{CqlError, INVALID, PROTOCOL};
use crate::server::cql::frame::{self, Decoded, Decoder, Frame, VERSION, opcode};
use crate::server::cql::request::{self, Request};
use crate::server::cql::response::{Answer, SchemaChange};
use crate::server::cql::service::Session;
use crate::server::cql::wire::Writer;
use crate::types::Epoch;

/// Requests under way on one connection.
const MAX_IN_FLIGHT: usize = 2_048;

/// Answers that wait for one connection's writer.
const MAX_WAITING: usize = 256;

/// Connections at a time.
const MAX_CONNECTIONS: usize = 4_096;

/// Schema events that a connection may be behind; one further behind misses some, as it would if
/// its connection had been lost.
const MAX_EVENTS: usize = 1_024;

/// A bound port.
#[derive(Debug)]
pub struct CqlListener {
    listener: TcpListener,
}

impl CqlListener {
    /// Binds the port.
    ///
    /// # Errors
    /// The system's.
    pub async fn bind(address: SocketAddr) -> std::io::Result<Self> {
        Ok(Self { listener: TcpListener::bind(address).await? })
    }

    /// Where it listens.
    ///
    /// # Errors
    /// The system's.
    pub fn local_address(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until `stop` is true. `epochs` tells when the metadata has changed.
    pub async fn serve(
        self,
        service: Arc<CqlService>,
        env: Env,
        epochs: watch::Receiver<Epoch>,
        stop: watch::Receiver<bool>,
    ) {
        let (events, _) = broadcast::channel(MAX_EVENTS);
        env.spawn("cql-events", tell(service.clone(), events.clone(), epochs, stop.clone()));
        let open = Arc::new(AtomicUsize::new(0));
        let mut stopping = stop.clone();
        loop {
            let accepted = tokio::select! {
                biased;
                _ = stopping.wait_for(|stop| *stop) => return,
                accepted = self.listener.accept() => accepted,
            };
            let Ok((stream, _)) = accepted else {
                env.sleep(std::time::Duration::from_millis(50)).await;
                continue;
            };
            if open.fetch_add(1, Ordering::AcqRel) >= MAX_CONNECTIONS {
                open.fetch_sub(1, Ordering::AcqRel);
                continue;
            }
            let connection = Connection {
                service: service.clone(),
                env: env.clone(),
                events: events.clone(),
                stop: stop.clone(),
            };
            let open = open.clone();
            env.spawn("cql-connection", async move {
                connection.run(stream).await;
                open.fetch_sub(1, Ordering::AcqRel);
            });
        }
    }
}

/// Tells registered connections what has changed in the schema, whoever changed it.
async fn tell(
    service: Arc<CqlService>,
    events: broadcast::Sender<SchemaChange>,
    mut epochs: watch::Receiver<Epoch>,
    mut stop: watch::Receiver<bool>,
) {
    let mut known = service.store().state();
    loop {
        tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop) => return,
            changed = epochs.changed() => if changed.is_err() { return },
        }
        let now = service.store().state();
        if now.schema_version() != known.schema_version() {
            for change in ddl::differences(&known, &now) {
                // Nobody may be listening.
                let _ = events.send(change);
            }
        }
        known = now;
    }
}

struct Connection {
    service: Arc<CqlService>,
    env: Env,
    events: broadcast::Sender<SchemaChange>,
    stop: watch::Receiver<bool>,
}

/// What is to become of a connection.
#[derive(PartialEq, Eq)]
enum Next {
    Go,
    Close,
}

/// One connection being served.
struct Serving {
    connection: Connection,
    session: Arc<Session>,
    answers: mpsc::Sender<Vec<u8>>,
    places: Arc<Semaphore>,
    started: bool,
    registered: bool,
}

impl Connection {
    async fn run(self, stream: TcpStream) {
        let _ = stream.set_nodelay(true);
        let (mut input, mut output) = stream.into_split();
        let (answers, mut waiting) = mpsc::channel::<Vec<u8>>(MAX_WAITING);
        self.env.spawn("cql-writer", async move {
            while let Some(mut bytes) = waiting.recv().await {
                // What is there already goes out with it.
                while let Ok(more) = waiting.try_recv() {
                    bytes.extend_from_slice(&more);
                    if bytes.len() > 64 << 10 {
                        break;
                    }
                }
                if output.write_all(&bytes).await.is_err() {
                    return;
                }
            }
            let _ = output.shutdown().await;
        });
        let mut stopping = self.stop.clone();
        let mut serving = Serving {
            connection: self,
            session: Arc::new(Session::default()),
            answers,
            places: Arc::new(Semaphore::new(MAX_IN_FLIGHT)),
            started: false,
            registered: false,
        };
        let mut decoder = Decoder::default();
        let mut bytes = BytesMut::with_capacity(8 << 10);
        loop {
            let read = tokio::select! {
                biased;
                _ = stopping.wait_for(|stop| *stop) => return,
                read = input.read_buf(&mut bytes) => read,
            };
            if !matches!(read, Ok(1..)) {
                return;
            }
            loop {
                match decoder.next(&mut bytes) {
                    Decoded::More => break,
                    Decoded::Hopeless => return,
                    Decoded::Frame(frame) => {
                        if serving.take(frame).await == Next::Close {
                            return;
                        }
                    }
                    Decoded::TooLong { stream, len } => {
                        let error = CqlError::new(
                            INVALID,
                            format!(
                                "Request is too big: length {len} exceeds maximum allowed length {}",
                                frame::MAX_BODY
                            ),
                        );
                        serving.send(stream, &error.into()).await;
                    }
                    Decoded::OtherVersion { version, stream } => {
                        let error = CqlError::new(
                            PROTOCOL,
                            format!(
                                "Invalid or unsupported protocol version ({version}); supported versions are (4/v4)"
                            ),
                        );
                        serving.send(stream, &error.into()).await;
                        return;
                    }
                }
            }
        }
    }
}

impl Serving {
    async fn send(&self, stream: i16, answer: &Answer) {
        let (code, body) = answer.encode();
        let _ = self.answers.send(frame::encode(VERSION, stream, code, &body)).await;
    }

    async fn refuse(&self, stream: i16, message: &str) {
        self.send(stream, &CqlError::new(PROTOCOL, message).into()).await;
    }

    async fn take(&mut self, frame: Frame) -> Next {
        let stream = frame.stream;
        let request = match request::decode(&frame) {
            Ok(request) => request,
            Err(error) => {
                self.send(stream, &error.into()).await;
                return Next::Go;
            }
        };
        match request {
            Request::Startup(options) => {
                let compressed = options.keys().any(|key| key.eq_ignore_ascii_case("COMPRESSION"));
                let version = options.get("CQL_VERSION").map(String::as_str);
                if self.started {
                    self.refuse(stream, "the connection has started up already").await;
                } else if compressed {
                    self.refuse(stream, "Unknown compression algorithm: none is supported").await;
                } else if !version.is_some_and(|v| v.starts_with("3.") || v.starts_with("4.")) {
                    self.refuse(stream, "CQL_VERSION must be 3.x").await;
                } else {
                    self.started = true;
                    self.send(stream, &Answer::Ready).await;
                }
            }
            Request::Options => self.send(stream, &Answer::Supported).await,
            _ if !self.started => {
                self.refuse(stream, "the first message must be STARTUP or OPTIONS").await;
            }
            Request::Register(kinds) => self.register(stream, &kinds).await,
            request => {
                let Ok(place) = self.places.clone().acquire_owned().await else {
                    return Next::Close;
                };
                let (service, session) = (self.connection.service.clone(), self.session.clone());
                let answers = self.answers.clone();
                self.connection.env.spawn("cql-request", async move {
                    let answer = service.answer(&session, request).await;
                    let (code, body) = answer.encode();
                    let _ = answers.send(frame::encode(VERSION, stream, code, &body)).await;
                    drop(place);
                });
            }
        }
        Next::Go
    }

    async fn register(&mut self, stream: i16, kinds: &[String]) {
        const KNOWN: &[&str] = &["TOPOLOGY_CHANGE", "STATUS_CHANGE", "SCHEMA_CHANGE"];
        if let Some(kind) = kinds.iter().find(|kind| !KNOWN.contains(&kind.as_str())) {
            return self.refuse(stream, &format!("Invalid value '{kind}' for Type")).await;
        }
        if kinds.iter().any(|kind| kind == "SCHEMA_CHANGE") && !self.registered {
            self.registered = true;
            let (mut events, answers) = (self.connection.events.subscribe(), self.answers.clone());
            self.connection.env.spawn("cql-register", async move {
                loop {
                    let event = tokio::select! {
                        biased;
                        () = answers.closed() => return,
                        event = events.recv() => event,
                    };
                    let change = match event {
                        Ok(change) => change,
                        Err(broadcast::error::RecvError::Lagged(_)) => continue,
                        Err(broadcast::error::RecvError::Closed) => return,
                    };
                    let mut body = Writer::default();
                    body.string("SCHEMA_CHANGE");
                    change.put(&mut body);
                    let bytes = frame::encode(VERSION, -1, opcode::EVENT, &body.0);
                    if answers.send(bytes).await.is_err() {
                        return;
                    }
                }
            });
        }
        self.send(stream, &Answer::Ready).await;
    }
}
