//! The door itself: one value that answers HTTP requests, whatever stream they come over.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::http::request::Parts;
use axum::http::{HeaderValue, Method, Response, Version, header};
use axum::routing::{MethodFilter, on};
use bytes::Bytes;
use hyper::body::Body as HttpBody;
use tower::ServiceExt as _;

use crate::env::Env;
use crate::meta::Table;
use crate::metrics::Registry;
use crate::overload;
use crate::server::auth::Gate;
use crate::server::budget::{Budget, Share};
use crate::server::http::backend::Backend;
use crate::server::http::body::{DoorBody, drain};
use crate::server::http::kv::{self, KvPath};
use crate::server::http::limits::HttpLimits;
use crate::server::http::numbers::{Numbers, RouteId, UNROUTED};
use crate::server::http::path::{decode_path, is_bucket_name};
use crate::server::http::problem::{Kind, Problem};
use crate::server::http::{
    batch, buckets, conditions, cql, elections, identity, listing, locks, names, nodes, pages, rows,
};
use crate::types::Mono;

/// The HTTP door of one node. Cheap to clone; knows no socket ([`super::listen`] does).
#[derive(Clone, Debug)]
pub struct Door {
    pub(super) inner: Arc<Inner>,
    router: Router,
    /// Where this door's requests come from.
    pub(super) client: Option<IpAddr>,
}

/// What all requests share.
pub(super) struct Inner {
    pub(super) backend: Arc<dyn Backend>,
    pub(super) env: Env,
    pub(super) gate: Gate,
    pub(super) limits: HttpLimits,
    /// Bytes of bodies held.
    pub(super) bodies: Arc<Budget>,
    /// Requests under way.
    requests: Arc<Budget>,
    pub(super) registry: Arc<Registry>,
    numbers: Numbers,
    draining: AtomicBool,
    stopping: AtomicBool,
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Inner")
    }
}

/// The places that a request holds while it is under way: among all requests, and, if it is an
/// operation, among what the node can do in time.
type Places = (Option<Share>, Option<overload::Place>);

/// A request under way. Its end is when the last byte of the answer has been handed over.
pub(super) struct UnderWay {
    inner: Arc<Inner>,
    _places: Places,
    route: RouteId,
    started: Mono,
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        let took = self.inner.env.mono().since(self.started);
        self.inner.numbers.finished(self.route, took);
    }
}

impl Door {
    /// A door in front of `backend`. Its numbers go into `registry`.
    #[must_use]
    pub fn new(
        backend: Arc<dyn Backend>,
        env: Env,
        limits: HttpLimits,
        registry: Arc<Registry>,
    ) -> Self {
        let bodies = Budget::new(limits.max_body_bytes_in_flight);
        let requests = Budget::new(limits.max_requests);
        let numbers = Numbers::new(&registry, &bodies, &requests);
        let inner = Arc::new(Inner {
            gate: backend.gate(),
            backend,
            env,
            limits,
            bodies,
            requests,
            registry,
            numbers,
            draining: AtomicBool::new(false),
            stopping: AtomicBool::new(false),
        });
        let router = routes(&inner);
        Self { inner, router, client: None }
    }

    /// The same door, for requests that come from `client`.
    #[must_use]
    pub fn seen_from(&self, client: Option<IpAddr>) -> Self {
        Self { client, ..self.clone() }
    }

    /// From now on the node says that it is not ready, and each answer over HTTP/1 ends its
    /// connection, so that clients go elsewhere. Requests are served as ever.
    pub fn begin_draining(&self) {
        self.inner.draining.store(true, Ordering::Release);
    }

    /// From now on every request is answered `503 shutting-down`, but those about the node
    /// itself. Requests under way go on.
    pub fn begin_shutdown(&self) {
        self.begin_draining();
        self.inner.stopping.store(true, Ordering::Release);
    }

    /// Memory for bodies, of which other doors of the node take their part.
    #[must_use]
    pub fn bodies(&self) -> &Arc<Budget> {
        &self.inner.bodies
    }

    /// Requests under way now.
    #[must_use]
    pub fn under_way(&self) -> usize {
        self.inner.requests.used()
    }

    /// The bounds.
    #[must_use]
    pub fn limits(&self) -> &HttpLimits {
        &self.inner.limits
    }

    pub(super) fn env(&self) -> &Env {
        &self.inner.env
    }

    pub(super) fn numbers(&self) -> &Numbers {
        &self.inner.numbers
    }

    /// Answers one request. Its principal, where it has one, is an extension of the request.
    pub async fn serve<B>(&self, mut request: Request<B>) -> Response<DoorBody>
    where
        B: HttpBody<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let inner = &self.inner;
        let started = inner.env.mono();
        let head = request.method() == Method::HEAD;
        let is_http1 = request.version() <= Version::HTTP_11;
        let (mut response, route, places) = match inner.admit(&request) {
            Err((problem, route)) => {
                let write = kv::is_write(request.method());
                refuse_body(inner, request);
                (problem.into_response(write), route, Places::default())
            }
            Ok(places) => {
                let identified = if inner.gate.is_closed() {
                    let given = identity::given(request.headers());
                    let path = request.uri().path().to_owned();
                    self.identify(&path, given).await.map(Some)
                } else {
                    Ok(None)
                };
                let (response, route) = match identified {
                    Ok(principal) => {
                        principal.and_then(|known| request.extensions_mut().insert(known));
                        self.dispatch(request).await
                    }
                    Err(problem) => {
                        let write = kv::is_write(request.method());
                        refuse_body(inner, request);
                        (problem.into_response(write), UNROUTED)
                    }
                };
                (response, route, places)
            }
        };
        inner.numbers.answered(route, response.status(), response.body().len_hint());
        if head {
            if let Some(length) = response.body().len_hint()
                && length > 0
                && !response.headers().contains_key(header::CONTENT_LENGTH)
            {
                response.headers_mut().insert(header::CONTENT_LENGTH, length.into());
            }
            response.body_mut().clear();
        }
        if is_http1 && inner.is_draining() {
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        let guard = UnderWay { inner: inner.clone(), _places: places, route, started };
        response.map(|body| body.with_request_guard(guard))
    }

    async fn dispatch<B>(&self, request: Request<B>) -> (Response<DoorBody>, RouteId)
    where
        B: HttpBody<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        if request.uri().path().starts_with("/v1/kv/") {
            let (parts, body) = request.into_parts();
            return self.dispatch_kv(&parts, body).await;
        }
        let request = request.map(Body::new);
        let mut response = match self.router.clone().oneshot(request).await {
            Ok(response) => response,
            Err(never) => match never {},
        };
        let route = response.extensions_mut().remove::<RouteId>().unwrap_or(UNROUTED);
        (response.map(DoorBody::other), route)
    }

    async fn dispatch_kv<B>(&self, parts: &Parts, body: B) -> (Response<DoorBody>, RouteId)
    where
        B: HttpBody<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let inner = &self.inner;
        let path = kv::split(parts.uri.path());
        let route = |method, template| RouteId::of(method, template);
        const ONE: &str = "/v1/kv/{bucket}/{key}";
        const ALL: &str = "/v1/kv/{bucket}";
        const BATCH: &str = "/v1/kv/{bucket}/batch";
        if let Some(KvPath::Bucket(bucket) | KvPath::Key(bucket, _)) = path
            && let Some(rows) = rows::find(inner, parts, bucket)
        {
            let (key, template) = match path {
                Some(KvPath::Key(_, key)) => (Some(key), ONE),
                _ => (None, ALL),
            };
            let mut body = Body::new(body);
            let answer = rows::answer(inner, parts, &mut body, &rows, key).await;
            finish_body(inner, body);
            let write = kv::is_write(&parts.method);
            let route = match parts.method {
                Method::GET | Method::HEAD => route("GET", template),
                Method::PUT => route("PUT", ONE),
                Method::DELETE => route("DELETE", ONE),
                _ => UNROUTED,
            };
            return (answer.unwrap_or_else(|problem| problem.into_response(write)), route);
        }
        let (answer, route, write) = match (&parts.method, path) {
            (&Method::GET | &Method::HEAD, Some(KvPath::Key(bucket, key))) => {
                (kv::get(inner, parts, bucket, key).await, route("GET", ONE), false)
            }
            (&Method::GET | &Method::HEAD, Some(KvPath::Bucket(bucket))) => {
                (listing::list(inner, parts, bucket).await, route("GET", ALL), false)
            }
            (&Method::DELETE, Some(KvPath::Key(bucket, key))) => {
                (kv::delete(inner, parts, bucket, key).await, route("DELETE", ONE), true)
            }
            (&Method::PUT, Some(KvPath::Key(bucket, key))) => {
                let mut body = Body::new(body);
                let answer = kv::put(inner, parts, &mut body, bucket, key).await;
                finish_body(inner, body);
                (answer, route("PUT", ONE), true)
            }
            (&Method::POST, Some(KvPath::Bucket(bucket))) => {
                let mut body = Body::new(body);
                let answer = kv::post(inner, parts, &mut body, bucket).await;
                finish_body(inner, body);
                (answer, route("POST", ALL), true)
            }
            (&Method::POST, Some(KvPath::Key(bucket, "batch"))) => {
                let answer = batch::batch(inner, parts, Body::new(body), bucket).await;
                (answer, route("POST", BATCH), true)
            }
            (method, Some(path)) => {
                finish_body(inner, Body::new(body));
                let problem = not_allowed(method, parts.uri.path(), kv::allowed(path));
                (Err(problem), UNROUTED, kv::is_write(method))
            }
            (method, None) => (Err(nothing_here(parts)), UNROUTED, kv::is_write(method)),
        };
        (answer.unwrap_or_else(|problem| problem.into_response(write)), route)
    }
}

impl tower::Service<Request> for Door {
    type Response = Response<DoorBody>;
    type Error = std::convert::Infallible;
    type Future = crate::env::BoxFuture<'static, Result<Response<DoorBody>, Self::Error>>;

    fn poll_ready(
        &mut self,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Result<(), Self::Error>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let door = self.clone();
        Box::pin(async move { Ok(door.serve(request).await) })
    }
}

impl Inner {
    /// A place among the requests under way, unless a bound is met. Requests about the node
    /// itself need none: an overloaded node must still be observable.
    fn admit<B>(&self, request: &Request<B>) -> Result<Places, (Problem, RouteId)> {
        let refuse = |problem| Err((problem, UNROUTED));
        let path = request.uri().path();
        let length = path.len() + request.uri().query().map_or(0, |query| query.len() + 1);
        if length > self.limits.max_uri_bytes {
            return refuse(
                Problem::new(
                    Kind::UriTooLong,
                    format!(
                        "the request target has {length} bytes and at most {} are read",
                        self.limits.max_uri_bytes
                    ),
                )
                .with("max", self.limits.max_uri_bytes),
            );
        }
        let headers = request.headers();
        let mut bytes = 0;
        for (name, value) in headers {
            bytes += name.as_str().len() + value.len();
            if let Err(problem) = names::check(name) {
                return refuse(problem);
            }
        }
        if headers.len() > self.limits.max_headers || bytes > self.limits.max_header_bytes {
            return refuse(Problem::new(
                Kind::HeadersTooLarge,
                format!(
                    "{} header fields with {bytes} bytes came; at most {} with {} are read",
                    headers.len(),
                    self.limits.max_headers,
                    self.limits.max_header_bytes
                ),
            ));
        }
        if identity::is_of_another_site(request.method(), headers) {
            let why =
                "a browser has sent this for a page of another site: nothing is written for one";
            return refuse(Problem::new(Kind::Forbidden, why));
        }
        if matches!(path, "/healthz" | "/readyz" | "/metrics") {
            return Ok(Places::default());
        }
        if self.is_stopping() {
            return refuse(Problem::new(
                Kind::ShuttingDown,
                "this node is shutting down; use another one",
            ));
        }
        let Some(share) = Share::take(&self.requests, 1) else {
            return refuse(Problem::new(
                Kind::Overloaded,
                format!(
                    "{} requests are under way (limits.max_inflight_requests)",
                    self.requests.max()
                ),
            ));
        };
        if !path.starts_with("/v1/kv/") {
            return Ok((Some(share), None));
        }
        match self.backend.enter() {
            Ok(place) => Ok((Some(share), Some(place))),
            Err(busy) => refuse(
                Problem::new(Kind::Overloaded, format!("{busy} (limits.shed_wait_ms)"))
                    .with("limit", busy.limit)
                    .with("wait_ms", u64::try_from(busy.wait.as_millis()).unwrap_or(u64::MAX)),
            ),
        }
    }

    /// True once clients are to go elsewhere.
    pub(super) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }

    /// True once the node has begun to stop.
    pub(super) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    /// The table that `/v1/…/{bucket}` names: bucket `b` is table `kv` of keyspace `b`, and
    /// `keyspace.table` is any table.
    pub(super) fn bucket(&self, name: &str) -> Result<Arc<Table>, Problem> {
        let (keyspace, table) = name.split_once('.').unwrap_or((name, "kv"));
        if let Some(table) = self.backend.table(keyspace, table) {
            return Ok(table);
        }
        if name.contains('%')
            && let Ok(bytes) = decode_path(name)
            && let Ok(decoded) = std::str::from_utf8(&bytes)
            && !decoded.contains('%')
        {
            return self.bucket(decoded);
        }
        let shown: String = name.chars().take(64).collect();
        let mut detail = if is_bucket_name(keyspace) && is_bucket_name(table) {
            format!("there is no bucket {shown:?}; create it with PUT /v1/buckets/{shown}")
        } else {
            format!(
                "there is no bucket {shown:?}, nor can there be: names are [a-z][a-z0-9_]{{0,47}}"
            )
        };
        let nearest = self
            .backend
            .tables()
            .iter()
            .map(|table| buckets::name_of(table))
            .map(|other| (strsim::damerau_levenshtein(&shown, &other), other))
            .min()
            .filter(|(distance, other)| *distance <= 1 + other.len() / 4);
        if let Some((_, other)) = nearest {
            detail.push_str(&format!("; did you mean {other:?}?"));
        }
        Err(Problem::new(Kind::BucketNotFound, detail).with("bucket", shown))
    }
}

/// Lets a client that is still sending see the answer.
fn finish_body(inner: &Inner, body: Body) {
    if !body.is_end_stream() {
        drain(&inner.env, body, &inner.limits);
    }
}

fn refuse_body<B>(inner: &Inner, request: Request<B>)
where
    B: HttpBody<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    if !request.body().is_end_stream() {
        drain(&inner.env, Body::new(request.into_body()), &inner.limits);
    }
}

fn nothing_here(parts: &Parts) -> Problem {
    let shown: String = parts.uri.path().chars().take(128).collect();
    let nearest = super::routes::ROUTES
        .iter()
        .map(|(_, template)| (strsim::damerau_levenshtein(&shown, template), *template))
        .min()
        .filter(|(distance, template)| *distance <= template.len() / 4);
    match nearest {
        Some((_, template)) => Problem::new(
            Kind::NotFound,
            format!("there is nothing at {shown:?}; did you mean {template}?"),
        ),
        None => Problem::new(Kind::NotFound, format!("there is nothing at {shown:?}; see /docs")),
    }
}

fn not_allowed(method: &Method, path: &str, allowed: &'static str) -> Problem {
    let shown: String = path.chars().take(128).collect();
    Problem::new(
        Kind::MethodNotAllowed,
        format!("{shown} does not take {method}; it takes {allowed}"),
    )
    .with_header(header::ALLOW, HeaderValue::from_static(allowed))
}

/// Adds routes to a router, and notes which route answered.
struct Routes {
    inner: Arc<Inner>,
    router: Router,
}

impl Routes {
    fn on<H, F>(mut self, method: &'static str, template: &'static str, handler: H) -> Self
    where
        H: Fn(Arc<Inner>, Parts, Body) -> F + Clone + Send + Sync + 'static,
        F: Future<Output = Result<Response<DoorBody>, Problem>> + Send + 'static,
    {
        let filter = match method {
            "GET" => MethodFilter::GET,
            "PUT" => MethodFilter::PUT,
            "PATCH" => MethodFilter::PATCH,
            "DELETE" => MethodFilter::DELETE,
            _ => MethodFilter::POST,
        };
        let route = RouteId::of(method, template);
        let inner = self.inner.clone();
        let answer = move |request: Request| {
            let (inner, handler) = (inner.clone(), handler.clone());
            async move {
                let (parts, body) = request.into_parts();
                let write = kv::is_write(&parts.method);
                let answer = handler(inner, parts, body).await;
                let mut response = answer.unwrap_or_else(|problem| problem.into_response(write));
                response.extensions_mut().insert(route);
                response.map(Body::new)
            }
        };
        // The router takes a last `{*key}` with its slashes; the documented name is `{key}`. What
        // comes after a key is for its handler to find.
        let pattern = match template.split_once("/{key}") {
            Some((before, _)) => format!("{before}/{{*key}}"),
            None => template.to_owned(),
        };
        self.router = self.router.route(&pattern, on(filter, answer));
        self
    }
}

fn routes(inner: &Arc<Inner>) -> Router {
    let fallback_inner = inner.clone();
    let wrong_method = inner.clone();
    Routes { inner: inner.clone(), router: Router::new() }
        .on("GET", "/v1/buckets", buckets::list)
        .on("GET", "/v1/buckets/{bucket}", buckets::get)
        .on("PUT", "/v1/buckets/{bucket}", buckets::put)
        .on("PATCH", "/v1/buckets/{bucket}", buckets::patch)
        .on("DELETE", "/v1/buckets/{bucket}", buckets::delete)
        .on("GET", "/v1/ops/{bucket}/{key}/{id}", conditions::operation)
        .on("POST", "/v1/cql", cql::run)
        .on("GET", "/v1/locks/{name}", locks::show)
        .on("POST", "/v1/locks/{name}", locks::acquire)
        .on("PUT", "/v1/locks/{name}", locks::renew)
        .on("DELETE", "/v1/locks/{name}", locks::release)
        .on("GET", "/v1/elections/{name}", elections::show)
        .on("POST", "/v1/elections/{name}", elections::stand)
        .on("DELETE", "/v1/elections/{name}", elections::resign)
        .on("GET", "/v1/where/{bucket}/{key}", nodes::locate)
        .on("GET", "/v1/ring", nodes::ring)
        .on("GET", "/v1/cluster", nodes::cluster)
        .on("GET", "/v1/partitions/{partition}/digest", nodes::digest)
        .on("GET", "/healthz", nodes::healthz)
        .on("GET", "/readyz", nodes::readyz)
        .on("GET", "/metrics", nodes::metrics)
        .on("GET", "/problems", pages::problems)
        .on("GET", "/problems/{name}", pages::problem)
        .on("GET", "/openapi.json", pages::openapi)
        .on("GET", "/docs", pages::docs)
        .on("GET", "/", pages::root)
        .router
        .fallback(move |request: Request| {
            let inner = fallback_inner.clone();
            async move {
                let (parts, body) = request.into_parts();
                finish_body(&inner, body);
                let write = kv::is_write(&parts.method);
                nothing_here(&parts).into_response(write).map(Body::new)
            }
        })
        .method_not_allowed_fallback(move |request: Request| {
            let inner = wrong_method.clone();
            async move {
                let (parts, body) = request.into_parts();
                finish_body(&inner, body);
                let allowed = super::routes::allowed(parts.uri.path());
                let problem = not_allowed(&parts.method, parts.uri.path(), allowed);
                problem.into_response(kv::is_write(&parts.method)).map(Body::new)
            }
        })
}
