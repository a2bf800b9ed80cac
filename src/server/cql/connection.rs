//! One connection: how it starts up, and the order of its requests.
//!
//! One task reads and one writes; requests run in tasks of their own, so answers may overtake each
//! other. Reads by key are worked on by the task that reads ([`Inline`]).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::sync::{broadcast, watch};

use crate::env::Env;
use crate::overload::{Busy, Place};
use crate::server::auth::{CHANGED, NoEntry};
use crate::server::budget::{Budget, Share};
use crate::server::cql::CqlService;
use crate::server::cql::auth;
use crate::server::cql::error::{BAD_CREDENTIALS, CqlError, INVALID, OVERLOADED, PROTOCOL};
use crate::server::cql::events::{Event, Interests};
use crate::server::cql::frame::{Frame, Version, flag};
use crate::server::cql::inbox::{Inbox, Incoming, Refusal};
use crate::server::cql::inline::Inline;
use crate::server::cql::outbox::{Framing, NoMemory, Outbox, Parcel, UnderWay};
use crate::server::cql::point::PointRead;
use crate::server::cql::request::{self, Request};
use crate::server::cql::response::{Answer, Reply};
use crate::server::cql::segment::Coding;
use crate::server::cql::service::{Origin, Session, Wanted};

/// How long a client may take to start up, and to say who it is where it is asked: until then it
/// holds one of the places for connections, and nobody knows for whom.
const START_UP: Duration = Duration::from_secs(30);

/// Requests under way on one connection.
const MAX_IN_FLIGHT: usize = 2_048;

/// How long a request waits for its turn at a node with too much to do, and with it whatever its
/// connection sends behind it. A node that lets in one of its clients' requests in this time, of
/// each connection in turn, refuses nothing.
const PATIENCE: Duration = Duration::from_secs(1);

/// What a connection is given by its listener.
#[derive(Debug, Clone)]
pub(super) struct Connection {
    pub(super) service: Arc<CqlService>,
    pub(super) env: Env,
    pub(super) events: broadcast::Sender<Event>,
    pub(super) memory: Arc<Budget>,
    pub(super) stop: watch::Receiver<bool>,
}

/// What is to become of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    Go,
    Close,
}

/// How far it has started up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    New,
    /// Asked who it is.
    Asked,
    Open,
}

/// What STARTUP has agreed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Agreed {
    version: Version,
    framing: Framing,
    /// Bodies of version 4 are compressed.
    deflate: bool,
    /// Asked for by `THROW_ON_OVERLOAD`: to be refused at once, instead of read no more for a while.
    throw: bool,
}

/// What a request holds while it is worked on.
#[derive(Debug)]
struct Places {
    /// Memory of its body.
    held: Share,
    /// Its place at the node, if it needs one.
    entered: Option<Place>,
    /// Its place on the connection.
    under_way: UnderWay,
}

/// A connection being served.
struct Serving {
    connection: Connection,
    session: Arc<Session>,
    outbox: Outbox,
    stage: Stage,
    agreed: Agreed,
    interests: Interests,
    origin: Origin,
    /// Dropped at the connection's end: who tells of events keeps the socket open no longer.
    over: watch::Sender<()>,
}

impl Connection {
    /// Serves `stream` to its end.
    pub(super) async fn run(self, stream: TcpStream) {
        let _ = stream.set_nodelay(true);
        let peer = stream.peer_addr().ok();
        let (input, output) = stream.into_split();
        let (outbox, outgoing) = Outbox::new(output, self.env.clone(), &self.memory);
        self.env.spawn("cql-writer", outgoing.write());
        let mut stop = self.stop.clone();
        let mut inbox = Inbox::new(input, self.env.clone(), &self.memory);
        let mut inline = Inline::new(outbox.clone());
        let mut serving = Serving {
            session: Arc::new(Session::default()),
            outbox: outbox.clone(),
            stage: Stage::New,
            agreed: Agreed {
                version: Version::NEWEST,
                framing: Framing::None,
                deflate: false,
                throw: false,
            },
            interests: Interests::default(),
            over: watch::channel(()).0,
            origin: Origin { client: peer },
            connection: self,
        };
        let stopped = tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop) => true,
            () = outbox.closed() => false,
            () = serving.serve(&mut inbox, &mut inline) => false,
        };
        if stopped {
            inline.finish().await;
        }
    }
}

impl Serving {
    async fn serve(&mut self, inbox: &mut Inbox, inline: &mut Inline) {
        let env = self.connection.env.clone();
        let started = env.timeout(START_UP, self.take_all(inbox, inline, true)).await;
        if matches!(started, Ok(Next::Go)) {
            inbox.let_in();
            self.take_all(inbox, inline, false).await;
        }
    }

    /// Takes what comes to the connection's end, or (`Go`), if it is only `starting`, until the
    /// client has been let in.
    async fn take_all(&mut self, inbox: &mut Inbox, inline: &mut Inline, starting: bool) -> Next {
        while !(starting && self.stage == Stage::Open) {
            match inline.tend(inbox.next()).await {
                Incoming::Frame(frame, held) => {
                    if self.take(inbox, inline, frame, held).await == Next::Close {
                        return Next::Close;
                    }
                }
                Incoming::Refused { stream, why } => self.refused(stream, why).await,
                Incoming::OtherVersion { version, stream } => {
                    if self.stage == Stage::New {
                        self.agreed.version = Version::NEWEST;
                    }
                    let message = format!(
                        "Invalid or unsupported protocol version ({version}); supported versions \
                         are (4/v4, 5/v5)"
                    );
                    self.refuse(stream, &message).await;
                    return Next::Close;
                }
                Incoming::Broken(Some(bad)) => {
                    self.refuse(0, &bad.to_string()).await;
                    return Next::Close;
                }
                Incoming::Broken(None) | Incoming::End => return Next::Close,
            }
        }
        Next::Go
    }

    async fn send(&self, stream: i16, reply: Reply) {
        send(&self.outbox, self.agreed, stream, &reply).await;
    }

    async fn refuse(&self, stream: i16, message: &str) {
        self.send(stream, Answer::Error(CqlError::new(PROTOCOL, message)).into()).await;
    }

    async fn refused(&self, stream: i16, why: Refusal) {
        let error = match why {
            Refusal::TooLong { len, max } => CqlError::new(
                INVALID,
                format!("Request is too big: length {len} exceeds maximum allowed length {max}"),
            ),
            Refusal::NoMemory => CqlError::new(
                OVERLOADED,
                "no memory for this request: too many large ones are under way",
            ),
            Refusal::Compression => CqlError::new(
                PROTOCOL,
                "a compressed frame that was not agreed on, or cannot be decompressed",
            ),
        };
        self.send(stream, Answer::Error(error).into()).await;
    }

    async fn take(
        &mut self,
        inbox: &mut Inbox,
        inline: &mut Inline,
        frame: Frame,
        held: Share,
    ) -> Next {
        let stream = frame.stream;
        if self.stage == Stage::New {
            // Not fixed before STARTUP: who asks for options on one version may start up on
            // another.
            self.agreed.version = frame.version;
        }
        let request = match request::decode(&frame) {
            Ok(request) => request,
            Err(error) => {
                self.send(stream, Answer::Error(error).into()).await;
                return Next::Go;
            }
        };
        match (request, self.stage) {
            (Request::Startup(options), Stage::New) => {
                self.start(inbox, stream, &options).await;
            }
            (Request::Options, Stage::New | Stage::Open) => {
                self.send(stream, Answer::Supported.into()).await;
            }
            (_, Stage::New) => {
                self.refuse(stream, "the first message must be STARTUP or OPTIONS").await;
            }
            (Request::AuthResponse(token), Stage::Asked) => {
                self.authenticate(stream, &token).await;
            }
            (_, Stage::Asked) => self.refuse(stream, "authentication is not complete").await,
            (Request::Startup(_), Stage::Open) => {
                self.refuse(stream, "the connection has started up already").await;
            }
            (Request::AuthResponse(_), Stage::Open) => {
                self.refuse(stream, "the connection is authenticated already").await;
            }
            (_, Stage::Open) if !self.is_known() => {
                let why = CqlError::new(BAD_CREDENTIALS, CHANGED);
                self.send(stream, Answer::Error(why).into()).await;
                return Next::Close;
            }
            (Request::Register(kinds), Stage::Open) => self.register(stream, &kinds).await,
            (request, Stage::Open) => {
                let wanted = Wanted {
                    trace: frame.flags & flag::TRACING != 0,
                    receipt: request::wants_receipt(&frame),
                };
                let noted = wanted != Wanted::default();
                // As soon as there is room for its answer.
                let under_way = inline.tend(self.outbox.room(MAX_IN_FLIGHT)).await;
                let entered = match self.admit(inline, &request).await {
                    Ok(entered) => entered,
                    Err(busy) => {
                        self.send(stream, Answer::Error(CqlError::busy(busy)).into()).await;
                        return Next::Go;
                    }
                };
                let places = Places { held, entered, under_way };
                let point = self.connection.service.point(&self.session, &request);
                let Some(read) = point.filter(|_| !noted) else {
                    self.begin(stream, request, wanted, places);
                    return Next::Go;
                };
                match self.connection.service.read_point_at_once(&read) {
                    Some(answer) => {
                        drop(places);
                        let agreed = self.agreed;
                        let parcel = parcel_of(&self.outbox, agreed, stream, &answer.into());
                        inline.collect(parcel).await;
                    }
                    None => inline.begin(Box::pin(self.read(stream, read, places))),
                }
            }
        }
        Next::Go
    }

    /// A place for a statement or batch among what the node does. Where there is none the connection
    /// is read no further for a while, as Cassandra does it: a driver that has as much under way as
    /// it likes to have is held back by that, and not told to go away.
    async fn admit(&self, inline: &mut Inline, request: &Request) -> Result<Option<Place>, Busy> {
        let works =
            matches!(request, Request::Query { .. } | Request::Execute { .. } | Request::Batch(_));
        let Some(gate) = self.connection.service.store().gate().filter(|_| works) else {
            return Ok(None);
        };
        if let Some(place) = gate.enter_free() {
            return Ok(Some(place));
        }
        if self.agreed.throw {
            return gate.enter().map(Some);
        }
        let env = &self.connection.env;
        let turn = async {
            tokio::select! {
                biased;
                place = gate.room() => Ok(Some(place)),
                () = env.sleep(PATIENCE) => Err(gate.refuse()),
            }
        };
        inline.tend(turn).await
    }

    /// False once whoever has logged in is nobody any more.
    fn is_known(&self) -> bool {
        is_known(&self.connection.service, &self.session)
    }

    /// Begins a request in a task of its own.
    fn begin(
        &self,
        stream: i16,
        request: Request,
        wanted: Wanted,
        Places { held, entered, under_way }: Places,
    ) {
        let (service, session) = (self.connection.service.clone(), self.session.clone());
        let (outbox, agreed, origin) = (self.outbox.clone(), self.agreed, self.origin);
        self.connection.env.spawn("cql-request", async move {
            let reply = service.answer(&session, request, origin, wanted).await;
            drop((held, entered));
            send(&outbox, agreed, stream, &reply).await;
            drop(under_way);
        });
    }

    /// A read by key, for the connection's own task.
    fn read(
        &self,
        stream: i16,
        read: PointRead,
        places: Places,
    ) -> impl Future<Output = Parcel> + Send + 'static {
        let (service, outbox) = (self.connection.service.clone(), self.outbox.clone());
        let agreed = self.agreed;
        async move {
            let answer = service.read_point(read).await;
            drop(places);
            parcel_of(&outbox, agreed, stream, &answer.into())
        }
    }

    async fn start(&mut self, inbox: &mut Inbox, stream: i16, options: &BTreeMap<String, String>) {
        let option = |name: &str| {
            let found = options.iter().find(|(key, _)| key.eq_ignore_ascii_case(name));
            found.map(|(_, value)| value.as_str())
        };
        let lz4 = match option("COMPRESSION") {
            None | Some("") => false,
            Some(name) if name.eq_ignore_ascii_case("lz4") => true,
            Some(other) => {
                let message = format!("Unknown compression algorithm: {other}");
                return self.refuse(stream, &message).await;
            }
        };
        let cql = option("CQL_VERSION");
        if !cql.is_some_and(|v| v.starts_with("3.") || v.starts_with("4.")) {
            return self.refuse(stream, "CQL_VERSION must be 3.x").await;
        }
        let (stage, answer) = match self.connection.service.gate().is_closed() {
            false => (Stage::Open, Answer::Ready),
            true => (Stage::Asked, Answer::Authenticate(auth::PASSWORD)),
        };
        let coding = if lz4 { Coding::Lz4 } else { Coding::Plain };
        let version = self.agreed.version;
        let segments = (version >= Version::V5).then_some(coding);
        let deflate = lz4 && segments.is_none();
        self.stage = stage;
        // The answer itself still goes out plain.
        self.send(stream, answer.into()).await;
        let framing = segments.map_or(Framing::None, Framing::Segments);
        let throw = option("THROW_ON_OVERLOAD") == Some("1");
        self.agreed = Agreed { version, framing, deflate, throw };
        inbox.settle(version, segments, deflate);
    }

    async fn authenticate(&mut self, stream: i16, token: &[u8]) {
        let service = &self.connection.service;
        let state = service.store().state();
        let from = self.origin.client.map(|address| address.ip());
        let known = match auth::plain(token) {
            Some((name, password)) => service.gate().log_in(&state, from, name, password).await,
            None => Err(NoEntry::Wrong),
        };
        let answer = match known {
            Ok(principal) => {
                self.session.log_in(principal);
                self.stage = Stage::Open;
                Answer::AuthSuccess
            }
            Err(why @ (NoEntry::Wrong | NoEntry::NoLogin)) => {
                tracing::info!(client = ?from, %why, "a login was refused");
                Answer::Error(CqlError::new(BAD_CREDENTIALS, why.to_string()))
            }
            Err(why @ (NoEntry::TooMany | NoEntry::Busy)) => {
                Answer::Error(CqlError::new(OVERLOADED, why.to_string()))
            }
        };
        self.send(stream, answer.into()).await;
    }

    async fn register(&mut self, stream: i16, kinds: &[String]) {
        if let Some(kind) = kinds.iter().find(|kind| !self.interests.add(kind)) {
            return self.refuse(stream, &format!("Invalid value '{kind}' for Type")).await;
        }
        // Told before the first event can be.
        self.send(stream, Answer::Ready.into()).await;
        if let Some(interests) = self.interests.begin() {
            let events = self.connection.events.subscribe();
            let (outbox, agreed) = (self.outbox.clone(), self.agreed);
            let mut over = self.over.subscribe();
            let (service, session) = (self.connection.service.clone(), self.session.clone());
            let may_hear = move || is_known(&service, &session);
            self.connection.env.spawn("cql-register", async move {
                tokio::select! {
                    biased;
                    _ = over.changed() => {}
                    () = interests.tell(events, &outbox, (agreed.version, agreed.framing), may_hear) => {}
                }
            });
        }
    }
}

fn is_known(service: &CqlService, session: &Session) -> bool {
    !service.gate().is_closed() || session.principal().is_current(&service.store().state())
}

async fn send(outbox: &Outbox, agreed: Agreed, stream: i16, reply: &Reply) {
    outbox.send(parcel_of(outbox, agreed, stream, reply)).await;
}

/// A reply on its way; or that there was no memory for it: which only a long one can find, and no
/// write that has taken effect has a long one.
fn parcel_of(outbox: &Outbox, agreed: Agreed, stream: i16, reply: &Reply) -> Parcel {
    let bytes = reply.encode(agreed.version, stream, agreed.deflate);
    let parcel = outbox.parcel(bytes, agreed.framing);
    parcel.unwrap_or_else(|NoMemory| {
        let why = "no memory for this answer: too many large ones wait to be taken";
        let reply = Reply::from(Answer::Error(CqlError::new(OVERLOADED, why)));
        outbox.short(reply.encode(agreed.version, stream, agreed.deflate), agreed.framing)
    })
}
