//! Listing the keys of a bucket, in pages or as a stream of lines.

use std::sync::Arc;
use std::time::Duration;

use axum::http::request::Parts;
use axum::http::{HeaderValue, Response, StatusCode, header};
use bytes::{Bytes, BytesMut};
use serde::Serialize;
use tokio::sync::mpsc;
use utoipa::ToSchema;

use crate::coordinator::{ListOp, ListPage};
use crate::cql::roles::Permission;
use crate::meta::Table;
use crate::server::Principal;
use crate::server::http::body::DoorBody;
use crate::server::http::buckets::json_answer;
use crate::server::http::cursor;
use crate::server::http::door::Inner;
use crate::server::http::names::NDJSON;
use crate::server::http::options::{self, Side};
use crate::server::http::problem::Problem;
use crate::server::http::query::Params;
use crate::server::http::versions::{prefers, textual};
use crate::types::{Key, Token};

type Answer = Result<Response<DoorBody>, Problem>;

/// Keys on a page when the client names no limit.
const PAGE_KEYS: u32 = 100;
/// Keys that a stream asks the coordinator for at a time.
const STREAM_KEYS: u32 = 256;
/// Chunks of a stream that wait for the client.
const CHUNKS_WAITING: usize = 4;

/// One key of a listing.
#[derive(Debug, Serialize, ToSchema)]
pub struct ListedKeyJson {
    /// The key: as text, or in base64.
    #[schema(example = "EWR-UA-1545")]
    pub key: String,
    /// `utf8` or `base64`.
    #[schema(example = "utf8")]
    pub encoding: &'static str,
    /// As a read of the key would give it.
    pub etag: String,
    /// Live values.
    #[schema(example = 1)]
    pub siblings: usize,
    /// In a stream: `start=` that goes on after this key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// A page of a listing.
#[derive(Debug, Serialize, ToSchema)]
pub struct PageJson {
    /// Keys, ordered by token, then by key.
    pub keys: Vec<ListedKeyJson>,
    /// `start=` for the next page; null at the end of the bucket. A page may be short, or empty,
    /// and still not be the last.
    pub next: Option<String>,
}

/// What was asked for.
#[derive(Clone)]
struct Wanted {
    op: ListOp,
    /// Keys still to be given; `None`: all.
    left: Option<u64>,
    /// On whose behalf.
    principal: Principal,
}

/// List the keys of a bucket.
///
/// Ordered by token, then by key, and so the same on every node. `Accept: application/x-ndjson`
/// gives a stream with one key per line, each with the cursor that goes on after it; without
/// `limit` it runs to the end of the bucket.
#[utoipa::path(get, path = "/v1/kv/{bucket}", operation_id = "list_keys", tag = "Keys and values",
    params(super::openapi::BucketPath, super::openapi::ListParams),
    responses(
        (status = 200, description = "A page of keys, or a stream of lines", content(
            (PageJson = "application/json"), (ListedKeyJson = "application/x-ndjson"))),
        (status = "default", response = super::openapi::ProblemResponse),
    ))]
pub(super) async fn list(inner: &Arc<Inner>, parts: &Parts, bucket: &str) -> Answer {
    const KNOWN: &[&str] = &["prefix", "start", "limit", "conflicts", "level", "r", "w", "timeout"];
    let table = inner.bucket(bucket)?;
    inner.permit(Principal::of(parts), Permission::Select, &table)?;
    let params = Params::parse(parts.uri.query(), KNOWN)?;
    let stream = prefers(&parts.headers, NDJSON, "application/json");
    let limit: Option<u64> = match params.bytes("limit") {
        Some(b"") => None,
        _ => params.number("limit")?,
    };
    let most = u64::from(inner.limits.max_page_keys);
    if limit == Some(0) || (!stream && limit.is_some_and(|limit| limit > most)) {
        return Err(Problem::bad_parameter(
            "limit",
            format_args!("must be 1 to {most}; for more, follow \"next\" or ask for {NDJSON}"),
        ));
    }
    let after = match params.text("start")? {
        None | Some("") => None,
        Some(text) => Some(cursor::open(table.id, text)?),
    };
    let op = ListOp {
        prefix: Bytes::copy_from_slice(params.bytes("prefix").unwrap_or_default()),
        after,
        limit: 0,
        conflicts: params.flag("conflicts")?,
        level: options::level(&params, &table, Side::Read)?,
        timeout: options::timeout(&params, &inner.limits)?,
        table,
    };
    if stream {
        let principal = Principal::of(parts).clone();
        lines(inner, Wanted { op, left: limit, principal }).await
    } else {
        page(inner, op, limit.unwrap_or(u64::from(PAGE_KEYS))).await
    }
}

/// One page, filled as far as half of the time allows.
async fn page(inner: &Inner, mut op: ListOp, limit: u64) -> Answer {
    let mut keys = Vec::new();
    let until = inner.env.mono() + op.timeout / 2;
    loop {
        let missing = limit.saturating_sub(keys.len() as u64);
        op.limit = u32::try_from(missing).unwrap_or(u32::MAX);
        let found = inner.backend.list(op.clone()).await?;
        keys.extend(shown(&op.table, &found, false));
        op.after = found.next;
        let full = keys.len() as u64 >= limit;
        if full || op.after.is_none() || inner.env.mono() >= until {
            break;
        }
    }
    let next = op.after.as_ref().map(|(token, key)| cursor::seal(op.table.id, *token, key));
    json_answer(StatusCode::OK, &PageJson { keys, next })
}

fn shown(table: &Table, page: &ListPage, with_cursor: bool) -> impl Iterator<Item = ListedKeyJson> {
    page.keys.iter().filter_map(move |listed| {
        let view = listed.record.view(page.now);
        // A value may expire between the coordinator's look and this one: then it is not there.
        let etag = view.etag().filter(|_| !view.versions.is_empty())?;
        let (key, encoding) = textual(listed.key.as_bytes());
        Some(ListedKeyJson {
            key: key.into_owned(),
            encoding,
            etag,
            siblings: view.versions.len(),
            next: with_cursor.then(|| cursor::seal(table.id, listed.token, &listed.key)),
        })
    })
}

/// A stream of lines. The first page is fetched before the answer begins, so that what is wrong
/// with the request has its own status; what goes wrong later is the stream's last line.
async fn lines(inner: &Arc<Inner>, mut wanted: Wanted) -> Answer {
    let first = wanted.fetch(inner).await?;
    let (sender, receiver) = mpsc::channel(CHUNKS_WAITING);
    let task_inner = inner.clone();
    inner.env.spawn("http-listing", async move {
        let mut chunk = Some(first);
        while let Some(lines) = chunk {
            // A client that hangs up ends the listing here.
            if !lines.is_empty() && sender.send(lines).await.is_err() {
                return;
            }
            chunk = match wanted.more() {
                false => None,
                true => Some(match wanted.fetch(&task_inner).await {
                    Ok(lines) => lines,
                    Err(problem) => {
                        let _ = sender.send(wanted.last_words(&problem)).await;
                        return;
                    }
                }),
            };
        }
    });
    let mut response = Response::new(DoorBody::stream(receiver));
    let ndjson = HeaderValue::from_static(NDJSON);
    response.headers_mut().insert(header::CONTENT_TYPE, ndjson);
    Ok(response)
}

impl Wanted {
    /// True when there is more to give.
    fn more(&self) -> bool {
        self.op.after.is_some() && self.left != Some(0)
    }

    /// The lines of the next page.
    async fn fetch(&mut self, inner: &Inner) -> Result<Bytes, Problem> {
        const ATTEMPTS: u32 = 3;
        // A stream may outlast the right to it.
        inner.permit(&self.principal, Permission::Select, &self.op.table)?;
        let left = self.left.unwrap_or(u64::MAX).min(u64::from(STREAM_KEYS));
        self.op.limit = u32::try_from(left).unwrap_or(STREAM_KEYS);
        let mut attempt = 1;
        let found = loop {
            match inner.backend.list(self.op.clone()).await {
                Ok(found) => break found,
                Err(error) if attempt == ATTEMPTS => return Err(error.into()),
                Err(_) => {
                    inner.env.sleep(Duration::from_millis(50 << attempt)).await;
                    attempt += 1;
                }
            }
        };
        let mut out = BytesMut::new();
        let mut given = 0;
        for key in shown(&self.op.table, &found, true) {
            push_line(&mut out, &key);
            given += 1;
        }
        self.left = self.left.map(|left| left.saturating_sub(given));
        self.op.after = found.next;
        Ok(out.freeze())
    }

    /// The line that says why the stream ends early, and where to go on.
    fn last_words(&self, problem: &Problem) -> Bytes {
        #[derive(Serialize)]
        struct Line<'a> {
            error: super::problem::ProblemJson<'a>,
            next: Option<String>,
        }
        let mut out = BytesMut::new();
        let seal = |(token, key): &(Token, Key)| cursor::seal(self.op.table.id, *token, key);
        let next = self.op.after.as_ref().map(seal);
        push_line(&mut out, &Line { error: problem.json(false), next });
        out.freeze()
    }
}

/// Appends `value` as one line of JSON.
pub(super) fn push_line(out: &mut BytesMut, value: &impl Serialize) {
    use bytes::BufMut as _;
    let before = out.len();
    if serde_json::to_writer((&mut *out).writer(), value).is_err() {
        out.truncate(before);
        return;
    }
    out.put_u8(b'\n');
}
