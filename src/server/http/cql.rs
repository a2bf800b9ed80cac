//! `POST /v1/cql`: a CQL statement for those who speak HTTP.
//!
//! The statement goes the way of one that came over the native protocol. A request is all that
//! there is: no connection keeps a keyspace or a prepared statement. The answer is a page of rows
//! as JSON objects, or, by `Accept`, all rows as lines, page after page in bounded memory.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::request::Parts;
use axum::http::{HeaderValue, Response, header};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::{BufMut as _, Bytes, BytesMut};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tokio::sync::mpsc;
use utoipa::ToSchema;

use crate::coordinator::Fate;
use crate::cql;
use crate::cql::ast::Statement;
use crate::server::Principal;
use crate::server::auth::Access;
use crate::server::cql::Store;
use crate::server::cql::direct::{self, Class, PageOfRows, Reply, Terms, Values};
use crate::server::http::body::{DoorBody, Reading};
use crate::server::http::buckets::json_answer;
use crate::server::http::door::Inner;
use crate::server::http::listing::push_line;
use crate::server::http::names::NDJSON;
use crate::server::http::problem::{Kind, Problem};
use crate::server::http::query::Params;
use crate::server::http::versions::prefers;
use crate::types::Consistency;

type Answer = Result<Response<DoorBody>, Problem>;

/// Rows of a page when the client names no number.
const PAGE_ROWS: u32 = 1_000;
/// The most rows of a page.
const MAX_PAGE_ROWS: u32 = 10_000;
/// Rows that a stream asks for at a time.
const STREAM_ROWS: u32 = 500;
/// Bytes of a stream that are handed over at a time.
const CHUNK: usize = 64 << 10;
/// Chunks of a stream that wait for the client.
const CHUNKS_WAITING: usize = 4;
/// How often a later page of a stream is tried.
const ATTEMPTS: u32 = 3;

/// A statement, and how it is to be run.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct StatementJson {
    /// One statement of CQL.
    #[schema(example = "SELECT * FROM shop.stock WHERE item = ?")]
    query: String,
    /// Values of its bind markers: an array for `?`, an object for `:name`. Each is read as its
    /// marker's type, as `INSERT JSON` reads it; numbers of more than 64 bits may be texts.
    #[schema(value_type = Option<Object>, example = json!(["shirt"]))]
    params: Option<Box<RawValue>>,
    /// The keyspace of names without one.
    #[schema(example = "shop")]
    keyspace: Option<String>,
    /// The level: `one`, `quorum`, `local_quorum`, `all`, …; default `quorum`.
    #[schema(example = "quorum")]
    consistency: Option<String>,
    /// The level of conditions: `serial` (default) or `local_serial`.
    serial_consistency: Option<String>,
    /// The most rows of the answer: 1 to 10,000; default 1,000. A page may have fewer and still
    /// not be the last.
    #[schema(example = 100)]
    page_size: Option<u32>,
    /// The `next` of the page before.
    paging_state: Option<String>,
    /// The stamp of what is written, in microseconds since 1970; `USING TIMESTAMP` goes first.
    timestamp: Option<i64>,
}

/// A column of the result.
#[derive(Debug, Serialize, ToSchema)]
pub struct ColumnJson {
    /// Its name.
    #[schema(example = "item")]
    name: String,
    /// Its type, as CQL writes it.
    #[serde(rename = "type")]
    #[schema(example = "text")]
    kind: String,
}

/// What a statement shows.
#[derive(Debug, Serialize, ToSchema)]
pub struct RowsJson {
    /// The columns, in order; none of a statement that shows nothing.
    columns: Vec<ColumnJson>,
    /// The rows, each an object by the names of the columns.
    #[schema(value_type = Vec<Object>)]
    rows: Vec<Box<RawValue>>,
    /// `paging_state` for the next page; null: that was all.
    next: Option<String>,
}

/// Run a CQL statement.
///
/// Any statement of CQL but `USE`. A conditional statement that does not apply is a success whose
/// row says `"[applied]": false`. `Accept: application/x-ndjson` gives all rows of a SELECT, one
/// object on each line, without paging; what ends such a stream early is its last line, an object
/// whose `error` is the problem and whose `next` goes on from there.
///
/// A problem has the error's `code` in Cassandra's protocol and, of an error of syntax, `line` (from
/// 1) and `column` (from 0).
#[utoipa::path(post, path = "/v1/cql", operation_id = "run_cql", tag = "CQL",
    request_body(content = StatementJson, content_type = "application/json"),
    responses(
        (status = 200, description = "A page of rows, or a stream of lines", content(
            (RowsJson = "application/json"), (Object = "application/x-ndjson"))),
        (status = "default", response = super::openapi::ProblemResponse),
    ))]
pub(super) async fn run(inner: Arc<Inner>, parts: Parts, mut body: Body) -> Answer {
    Params::parse(parts.uri.query(), &[])?;
    let Some(store) = inner.backend.cql() else {
        return Err(Problem::new(Kind::NotSupported, "this node does not run CQL"));
    };
    let reading = Reading { env: &inner.env, limits: &inner.limits, budget: &inner.bodies };
    let read = reading.read(&parts.headers, &mut body, inner.limits.max_value_bytes).await?;
    let given: StatementJson = serde_json::from_slice(&read.bytes)
        .map_err(|error| Problem::bad(format!("the body is not the JSON wanted here: {error}")))?;
    let stream = prefers(&parts.headers, NDJSON, "application/json");
    let access = Access { gate: inner.gate.clone(), principal: Principal::of(&parts).clone() };
    let asked = Asked::new(store, access, given, stream)?;
    let first = asked.page().await;
    let answer = match first {
        Err(problem) => Ok(problem.into_response(asked.is_write())),
        Ok(page) if stream => lines(&inner, asked, page),
        Ok(page) => whole(&page),
    };
    // The statement's bytes were held until here.
    drop(read.share);
    answer
}

/// A statement under way.
struct Asked {
    store: Arc<dyn Store>,
    text: String,
    terms: Terms,
}

impl Asked {
    fn new(
        store: Arc<dyn Store>,
        access: Access,
        given: StatementJson,
        stream: bool,
    ) -> Result<Self, Problem> {
        let most = if stream { STREAM_ROWS } else { PAGE_ROWS };
        let page_size = given.page_size.unwrap_or(most);
        if !(1..=MAX_PAGE_ROWS).contains(&page_size) {
            let why = format_args!("must be 1 to {MAX_PAGE_ROWS}").to_string();
            return Err(Problem::bad_parameter("page_size", why));
        }
        let level = |name: &str, given: Option<String>, usual| match given {
            None => Ok(usual),
            Some(level) => level.parse().map_err(|error| Problem::bad_parameter(name, error)),
        };
        let serial = level("serial_consistency", given.serial_consistency, Consistency::Serial)?;
        if !matches!(serial, Consistency::Serial | Consistency::LocalSerial) {
            return Err(Problem::bad_parameter("serial_consistency", "is serial or local_serial"));
        }
        let state = given.paging_state.map(|text| URL_SAFE_NO_PAD.decode(text)).transpose();
        let terms = Terms {
            level: level("consistency", given.consistency, Consistency::Quorum)?,
            serial,
            page_size: Some(page_size),
            paging_state: state
                .map_err(|_| Problem::bad_parameter("paging_state", "is no next of a page"))?,
            keyspace: given.keyspace,
            timestamp: given.timestamp,
            values: values(given.params.as_deref())?,
            access,
        };
        Ok(Self { store, text: given.query, terms })
    }

    /// The page that its terms name.
    async fn page(&self) -> Result<PageOfRows, Problem> {
        let reply = direct::execute(self.store.clone(), self.text.clone(), self.terms.clone());
        let page = answered(reply.await)?;
        let mut names: Vec<&String> = page.names.iter().collect();
        names.sort_unstable();
        match names.windows(2).find(|two| two[0] == two[1]) {
            None => Ok(page),
            Some(two) => Err(Problem::bad(format!(
                "two columns of the result are called {}: give one another name with AS",
                two[0]
            ))),
        }
    }

    /// Whether it may change anything, so that its problem says what became of that.
    fn is_write(&self) -> bool {
        let parsed = cql::parse(&self.text).map(|parsed| parsed.statement);
        !matches!(parsed, Ok(Statement::Select(_) | Statement::Describe(_)))
    }
}

fn values(params: Option<&RawValue>) -> Result<Values, Problem> {
    let bad = |error: serde_json::Error| Problem::bad_parameter("params", error);
    let Some(params) = params else { return Ok(Values::InOrder(Vec::new())) };
    let text = params.get();
    match text.as_bytes().first() {
        Some(b'[') => serde_json::from_str(text).map(Values::InOrder).map_err(bad),
        Some(b'{') => serde_json::from_str(text).map(Values::Named).map_err(bad),
        Some(b'n') => Ok(Values::InOrder(Vec::new())),
        _ => Err(Problem::bad_parameter("params", "is an array, or an object by names")),
    }
}

/// What a statement shows, or the problem that it has met.
pub(super) fn answered(reply: Reply) -> Result<PageOfRows, Problem> {
    let (not_applied, class, message, code, place, cause) = match reply {
        Reply::Done => return Ok(PageOfRows::default()),
        Reply::Rows(page) => return Ok(page),
        Reply::Failed { not_applied, class, message, code, place, cause } => {
            (not_applied, class, message, code, place, cause)
        }
    };
    let kind = match class {
        Class::Bad => Kind::BadRequest,
        Class::Forbidden => Kind::Forbidden,
        Class::Unavailable => Kind::Unavailable,
        Class::Overloaded => Kind::Overloaded,
        Class::NotReady => Kind::ShuttingDown,
        Class::Timeout => Kind::Timeout,
        Class::Failure => Kind::TooFewReplicasAnswered,
        Class::Other => Kind::Internal,
    };
    let mut problem = match cause {
        // It has its own numbers: level, required, received.
        Some(cause) => Problem::from(*cause),
        None if not_applied => Problem::new(kind, message),
        None => Problem::new(kind, message).with_outcome(Fate::Unknown),
    };
    problem = problem.with("code", format!("{code:#06x}"));
    Err(match place {
        Some((line, column)) => problem.with("line", line).with("column", column),
        None => problem,
    })
}

fn sealed(state: Option<&Vec<u8>>) -> Option<String> {
    state.map(|state| URL_SAFE_NO_PAD.encode(state))
}

/// One page.
pub(super) fn whole(page: &PageOfRows) -> Answer {
    let columns = page.names.iter().zip(&page.kinds);
    let columns = columns
        .map(|(name, kind)| ColumnJson { name: name.clone(), kind: kind.to_string() })
        .collect();
    let rows = page.rows.iter().map(|row| RawValue::from_string(page.json(row)));
    let rows = rows.collect::<Result<_, _>>();
    let rows = rows.map_err(|_| Problem::new(Kind::Internal, "a row could not be encoded"))?;
    let next = sealed(page.paging_state.as_ref());
    json_answer(axum::http::StatusCode::OK, &RowsJson { columns, rows, next })
}

/// All rows as lines, from those of the first page on, which was fetched before the answer began,
/// so that what is wrong with the statement has its own status.
fn lines(inner: &Arc<Inner>, asked: Asked, first: PageOfRows) -> Answer {
    let (sender, receiver) = mpsc::channel(CHUNKS_WAITING);
    let stream = Stream { inner: inner.clone(), asked, sender };
    inner.env.spawn("http-cql", stream.run(first));
    let mut response = Response::new(DoorBody::stream(receiver));
    let ndjson = HeaderValue::from_static(NDJSON);
    response.headers_mut().insert(header::CONTENT_TYPE, ndjson);
    Ok(response)
}

struct Stream {
    inner: Arc<Inner>,
    asked: Asked,
    sender: mpsc::Sender<Bytes>,
}

/// The client has hung up.
struct Gone;

impl Stream {
    async fn run(mut self, mut page: PageOfRows) {
        loop {
            if self.send(&page).await.is_err() {
                return;
            }
            let Some(state) = page.paging_state.take() else { return };
            self.asked.terms.paging_state = Some(state);
            page = match self.next().await {
                Ok(page) => page,
                Err(problem) => {
                    let _ = self.sender.send(self.last_words(&problem)).await;
                    return;
                }
            };
        }
    }

    async fn send(&self, page: &PageOfRows) -> Result<(), Gone> {
        let mut out = BytesMut::new();
        for row in &page.rows {
            out.put_slice(page.json(row).as_bytes());
            out.put_u8(b'\n');
            if out.len() >= CHUNK {
                self.sender.send(out.split().freeze()).await.map_err(|_| Gone)?;
            }
        }
        if out.is_empty() {
            return Ok(());
        }
        self.sender.send(out.freeze()).await.map_err(|_| Gone)
    }

    /// The next page. Only a SELECT has one, so it may be asked for again.
    async fn next(&self) -> Result<PageOfRows, Problem> {
        let mut attempt = 1;
        loop {
            match self.asked.page().await {
                Err(problem) if attempt == ATTEMPTS || problem.status() < 500 => {
                    return Err(problem);
                }
                Err(_) => {
                    self.inner.env.sleep(Duration::from_millis(50 << attempt)).await;
                    attempt += 1;
                }
                Ok(page) => return Ok(page),
            }
        }
    }

    /// The line that says why the stream ends early, and where to go on.
    fn last_words(&self, problem: &Problem) -> Bytes {
        #[derive(Serialize)]
        struct Line<'a> {
            error: super::problem::ProblemJson<'a>,
            next: Option<String>,
        }
        let mut out = BytesMut::new();
        let next = sealed(self.asked.terms.paging_state.as_ref());
        push_line(&mut out, &Line { error: problem.json(false), next });
        out.freeze()
    }
}
