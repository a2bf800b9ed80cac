//! Many operations in one request: lines of JSON in, one line of answer for each, in order.
//!
//! Lines are read, run and answered as they come, in bounded memory. Items of one key run one
//! after the other, each superseding the last (rule 5): the context that a write gives out goes
//! to the next write of that key within the batch. Items of different keys run at once, a bounded
//! number of them.
//!
//! A client must read answers while it sends, or keep a batch small enough (some thousand items)
//! for its answers to fit into the connection's buffers.
//!
//! What ends a batch early (a pause that is too long, a body cut short, no memory) is its last
//! line, with the `index` of the item that it met. Items after it, which have no line, were not
//! run.

mod item;
mod lines;
mod whole;

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::body::Body;
use axum::http::request::Parts;
use axum::http::{HeaderValue, Response, header};
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt as _;
use futures_util::stream::FuturesOrdered;
use tokio::sync::{mpsc, oneshot};

use crate::causality::Context;
use crate::coordinator::Condition;
use crate::server::Principal;
use crate::server::budget::Share;
use crate::server::http::body::{DoorBody, drain};
use crate::server::http::conditions::{condition, fence};
use crate::server::http::door::Inner;
use crate::server::http::listing::push_line;
use crate::server::http::names::NDJSON;
use crate::server::http::options::{self, Side};
use crate::server::http::problem::{Kind, Problem};
use crate::server::http::query::Params;
use crate::types::Key;

use item::{Item, ItemAnswer, Options};
use lines::{Line, Lines};
use whole::Terms;

pub use item::{BatchAnswerDoc, BatchItemDoc};

type Answer = Result<Response<DoorBody>, Problem>;

/// Answers that wait for a client that is still sending.
const ANSWERS_WAITING: usize = 1024;
/// Memory accounted for each key of a batch beside the key itself: its place in the map, and the
/// context that goes to its next item.
const KEY_OVERHEAD: usize = 256;

/// Run many operations.
///
/// The body is NDJSON, one item per line; the answer has one line per item, in order, with
/// `status` and the members that a single request's answer or problem would have. Items of one
/// key run in order, each write superseding the one before it; items of different keys run at
/// once. `if_match`, `if_none_match` and `if_fence` are an item's conditions, as the headers are a
/// single request's: an item whose condition does not hold is refused, and the others go on. (Each
/// is an operation of its own: there is no all-or-nothing over several keys.) `id` is the item's
/// operation id, as `Idempotency-Key` is a single request's. Read the answers while sending. Items
/// without a line of answer were not run.
///
/// With `If-Match`, `If-None-Match` or `If-Fence` as headers the whole batch has that condition, and
/// may have one `Idempotency-Key`. Its items are then plain writes of one key, and take effect
/// together or not at all: `412` if the condition does not hold.
#[utoipa::path(post, path = "/v1/kv/{bucket}/batch", operation_id = "run_batch", tag = "Keys and values",
    params(super::openapi::BucketPath, super::openapi::BatchParams, super::openapi::WriteHeaders),
    request_body(content = BatchItemDoc, content_type = "application/x-ndjson", description = "One item per line"),
    responses(
        (status = 200, description = "One answer per line", content_type = "application/x-ndjson", body = BatchAnswerDoc),
        (status = "default", response = super::openapi::ProblemResponse),
    ))]
pub(super) async fn batch(inner: &Arc<Inner>, parts: &Parts, body: Body, bucket: &str) -> Answer {
    let (options, terms) = match options(inner, parts, bucket) {
        Ok(options) => options,
        Err(problem) => {
            drain(&inner.env, body, &inner.limits);
            return Err(problem);
        }
    };
    if terms.are_some() {
        return whole::run(inner, parts, body, &options, terms).await;
    }
    let options = Arc::new(options);
    let (sender, receiver) = mpsc::channel(ANSWERS_WAITING);
    let batch = Batch {
        inner: inner.clone(),
        options,
        keys: BTreeMap::new(),
        running: FuturesOrdered::new(),
        answers: sender,
        memory: None,
        index: 0,
    };
    inner.env.spawn("http-batch", batch.run(body));
    Ok(answer_of(DoorBody::stream(receiver)))
}

/// The answer whose lines are `body`.
fn answer_of(body: DoorBody) -> Response<DoorBody> {
    let mut response = Response::new(body);
    let ndjson = HeaderValue::from_static(NDJSON);
    response.headers_mut().insert(header::CONTENT_TYPE, ndjson);
    response
}

fn options(inner: &Inner, parts: &Parts, bucket: &str) -> Result<(Options, Terms), Problem> {
    const KNOWN: &[&str] = &["level", "r", "w", "timeout"];
    let table = inner.bucket(bucket)?;
    let principal = Principal::of(parts).clone();
    let params = Params::parse(parts.uri.query(), KNOWN)?;
    let terms = Terms { condition: condition(&parts.headers)?, fence: fence(&parts.headers)? };
    if terms.are_some() {
        inner.permit_write(&principal, &table, terms.condition != Condition::None)?;
    }
    options::plain_body(&parts.headers)?;
    let (read, write) = match params.text("level")? {
        // One name for both: what is no level for reads does not refuse a batch of writes.
        Some(_) => {
            let level = options::level(&params, &table, Side::Write)?;
            (level, level)
        }
        None => (
            options::level(&params, &table, Side::Read)?,
            options::level(&params, &table, Side::Write)?,
        ),
    };
    let timeout = options::timeout(&params, &inner.limits)?;
    Ok((Options { read, write, timeout, table, principal }, terms))
}

type Running = FuturesOrdered<crate::env::BoxFuture<'static, Bytes>>;

struct Batch {
    inner: Arc<Inner>,
    options: Arc<Options>,
    /// For each key met so far: what its newest write will have seen.
    keys: BTreeMap<Key, oneshot::Receiver<Context>>,
    running: Running,
    answers: mpsc::Sender<Bytes>,
    /// Memory for `keys`.
    memory: Option<Share>,
    index: usize,
}

/// How reading goes on.
enum Next {
    Go,
    /// Nothing more is read; these are the last words, if any.
    Stop(Option<Problem>),
}

impl Batch {
    async fn run(mut self, body: Body) {
        let mut lines = Lines::new(body, self.inner.clone());
        let mut stop = None;
        let mut reading = true;
        while reading || !self.running.is_empty() {
            let room = self.running.len() < self.inner.limits.batch_concurrency;
            let answer = tokio::select! {
                biased;
                Some(answer) = self.running.next(), if !self.running.is_empty() => Some(answer),
                line = lines.next(), if reading && room => {
                    if let Next::Stop(problem) = self.take(line) {
                        reading = false;
                        stop = problem;
                    }
                    None
                }
            };
            if let Some(answer) = answer
                && self.answers.send(answer).await.is_err()
            {
                // The client is gone. Nothing new is begun; writes under way go on by themselves.
                return;
            }
        }
        if let Some(problem) = stop {
            let problem = problem.with("index", self.index);
            let _ = self.answers.send(ItemAnswer::problem(None, &problem, true).line()).await;
        }
        if let Some(body) = lines.into_rest() {
            drain(&self.inner.env, body, &self.inner.limits);
        }
    }

    fn take(&mut self, line: Result<Option<Line>, Problem>) -> Next {
        let line = match line {
            Ok(Some(line)) => line,
            Ok(None) => return Next::Stop(None),
            Err(problem) => return Next::Stop(Some(problem)),
        };
        let most = self.inner.limits.max_batch_items;
        if self.index >= most {
            return Next::Stop(Some(
                Problem::bad(format!("a batch has at most {most} items; send the rest in another"))
                    .with("max", most),
            ));
        }
        self.index += 1;
        match line.bytes.and_then(|bytes| Item::parse(&bytes, &self.inner, &self.options)) {
            Err((id, problem)) => {
                let answer = ItemAnswer::problem(id.as_deref(), &problem, true).line();
                self.running.push_back(Box::pin(async move { answer }));
            }
            Ok(item) => {
                if let Err(problem) = self.begin(item, line.share) {
                    self.index -= 1;
                    return Next::Stop(Some(problem));
                }
            }
        }
        Next::Go
    }

    /// Starts `item` once the one before it on the same key is done.
    fn begin(&mut self, item: Item, share: Option<Share>) -> Result<(), Problem> {
        let (done, next) = oneshot::channel();
        if !self.keys.contains_key(item.key()) {
            let bytes = item.key().as_bytes().len() + KEY_OVERHEAD;
            let fits = match &mut self.memory {
                Some(memory) => memory.grow(bytes),
                None => {
                    self.memory = Share::take(&self.inner.bodies, bytes);
                    self.memory.is_some()
                }
            };
            if !fits {
                return Err(Problem::new(
                    Kind::Overloaded,
                    "no memory for more keys of this batch (limits.max_body_memory_mb)",
                ));
            }
        }
        let before = self.keys.insert(item.key().clone(), next);
        let (inner, options) = (self.inner.clone(), self.options.clone());
        self.running.push_back(Box::pin(async move {
            let seen = match before {
                // A sender that is dropped had nothing to hand on.
                Some(before) => before.await.unwrap_or_default(),
                None => Context::default(),
            };
            let (answer, seen) = item.run(&inner, &options, seen).await;
            drop(share);
            let _ = done.send(seen);
            answer.line()
        }));
        Ok(())
    }
}

impl ItemAnswer {
    fn line(&self) -> Bytes {
        let mut out = BytesMut::new();
        push_line(&mut out, self);
        out.freeze()
    }
}
