//! Reading and writing one key: the door's hot path. Taken apart by hand, because a key is raw
//! bytes that a router would decode, and because each step here is paid for by every request.

use std::sync::Arc;

use axum::body::Body;
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, header};
use bytes::Bytes;

use crate::coordinator::{ReadOp, ReadOutcome, Receipt, WriteAction, WriteOp, WriteOutcome};
use crate::cql::roles::Permission;
use crate::meta::Table;
use crate::record::{Version, View, version_etag};
use crate::server::Principal;
use crate::server::budget::Share;
use crate::server::http::body::{DoorBody, Reading};
use crate::server::http::conditions::{condition, fence};
use crate::server::http::door::Inner;
use crate::server::http::identity::has_condition;
use crate::server::http::names;
use crate::server::http::options::{self, Side, value_of};
use crate::server::http::path::{encode_key, key_in_path};
use crate::server::http::problem::{Kind, Problem};
use crate::server::http::query::Params;
use crate::server::http::versions::{self, Form, SiblingsJson};
use crate::types::Key;

type Answer = Result<Response<DoorBody>, Problem>;

/// Answers shorter than this take no share of the memory budget: the bound on requests under way
/// bounds them already.
const SMALL_ANSWER: usize = 16 * 1024;

/// A path below `/v1/kv/`, still escaped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum KvPath<'a> {
    /// `/v1/kv/{bucket}`
    Bucket(&'a str),
    /// `/v1/kv/{bucket}/{key}`
    Key(&'a str, &'a str),
}

/// The parts of a path below `/v1/kv/`; `None` for any other path. Everything after the bucket's
/// slash is the key, so its own slashes need no escape.
pub(super) fn split(path: &str) -> Option<KvPath<'_>> {
    let rest = path.strip_prefix("/v1/kv/")?;
    Some(match rest.split_once('/') {
        None => KvPath::Bucket(rest),
        Some((bucket, key)) => KvPath::Key(bucket, key),
    })
}

/// Read a value.
///
/// `HEAD` gives the same headers. The bytes come as they were written, whatever `Accept` says.
#[utoipa::path(get, path = "/v1/kv/{bucket}/{key}", operation_id = "get_value", tag = "Keys and values",
    params(super::openapi::KeyPath, super::openapi::LevelParams, super::openapi::LocalParam, super::openapi::ReadHeaders),
    responses(
        (status = 200, description = "The one value, with the `Content-Type` and `Henge-Meta-*` it was written with", content_type = "application/octet-stream", body = Vec<u8>,
            headers(("ETag" = String, description = "Names the version"), ("Henge-Context" = String, description = "What has now been read; send it back with the next write of this key"), ("Henge-Dot" = String, description = "The version's dot, `actor:counter`"), ("Henge-Receipt" = String, description = "If asked for"))),
        (status = 300, description = "Several concurrent values: merge them and write the result with the context",
            headers(("ETag" = String, description = "Names the set of versions"), ("Henge-Context" = String, description = "Covers all of them")),
            content((SiblingsJson = "application/json"), (String = "multipart/mixed"))),
        (status = 304, description = "`If-None-Match` names what stands"),
        (status = 404, description = "No value. `ETag` and `Henge-Context` where a deletion stands", content_type = "application/problem+json", body = super::openapi::ProblemBody),
        (status = "default", response = super::openapi::ProblemResponse),
    ))]
pub(super) async fn get(inner: &Inner, parts: &Parts, bucket: &str, raw_key: &str) -> Answer {
    const KNOWN: &[&str] = &["level", "r", "w", "timeout", "local"];
    let table = inner.bucket(bucket)?;
    inner.permit(Principal::of(parts), Permission::Select, &table)?;
    let key = key_in_path(raw_key, &inner.limits)?;
    let params = Params::parse(parts.uri.query(), KNOWN)?;
    let op = ReadOp {
        level: options::level(&params, &table, Side::Read)?,
        timeout: options::timeout(&params, &inner.limits)?,
        receipt: options::wants_receipt(&parts.headers)?,
        local: params.flag("local")?,
        table: table.clone(),
        key: key.clone(),
    };
    let found = inner.backend.read(op).await?;
    read_answer(inner, &parts.headers, &table, &key, &found)
}

fn read_answer(
    inner: &Inner,
    headers: &HeaderMap,
    table: &Table,
    key: &Key,
    found: &ReadOutcome,
) -> Answer {
    let view = found.record.view(found.now);
    let Some(etag) = view.etag() else {
        return Err(with_receipt(absent(), found.receipt.as_ref()));
    };
    let context = inner.backend.codec().seal(table.id, key, &view.context);
    if view.versions.is_empty() {
        let problem = absent()
            .with_header(header::ETAG, value_of(etag))
            .with_header(names::CONTEXT.clone(), value_of(context));
        return Err(with_receipt(problem, found.receipt.as_ref()));
    }
    if headers.contains_key(header::IF_MATCH)
        && !options::names_etag(headers, &header::IF_MATCH, &etag)
    {
        let problem = Problem::new(Kind::PreconditionFailed, "If-Match names another version");
        return Err(problem.with_header(header::ETAG, value_of(etag)));
    }
    let unchanged = headers.contains_key(header::IF_NONE_MATCH)
        && options::names_etag(headers, &header::IF_NONE_MATCH, &etag);
    let mut response = match (&view.versions[..], unchanged) {
        (_, true) => {
            let mut response = Response::new(DoorBody::empty());
            *response.status_mut() = StatusCode::NOT_MODIFIED;
            response
        }
        ([version], false) => one(inner, version)?,
        (_, false) => several(inner, headers, &view, &context)?,
    };
    let out = response.headers_mut();
    out.insert(header::ETAG, value_of(etag));
    out.insert(names::CONTEXT.clone(), value_of(context));
    put_receipt(out, found.receipt.as_ref());
    Ok(response)
}

fn absent() -> Problem {
    Problem::new(Kind::KeyNotFound, "there is no value under this key")
}

/// `200`: the raw bytes.
fn one(inner: &Inner, version: &Version) -> Answer {
    let value = &version.value;
    let share = inner.share_for_answer(value.body.len())?;
    let mut response = Response::new(DoorBody::full(value.body.clone()).with_share(share));
    let headers = response.headers_mut();
    headers.reserve(8);
    let content_type = value
        .content_type
        .as_deref()
        .and_then(|text| HeaderValue::from_str(text).ok())
        .unwrap_or_else(|| HeaderValue::from_static("application/octet-stream"));
    headers.insert(header::CONTENT_TYPE, content_type);
    headers.insert(header::CONTENT_LENGTH, value.body.len().into());
    headers.insert(names::DOT.clone(), value_of(version.dot.to_string()));
    for (name, text) in &value.meta {
        let name = HeaderName::from_bytes(format!("{}{name}", names::META_PREFIX).as_bytes());
        if let (Ok(name), Ok(text)) = (name, HeaderValue::from_bytes(text.as_bytes())) {
            headers.append(name, text);
        }
    }
    Ok(response)
}

/// `300`: several values.
fn several(inner: &Inner, headers: &HeaderMap, view: &View<'_>, context: &str) -> Answer {
    let (body, share, content_type) = match versions::form(headers) {
        Form::Json => {
            let siblings = view.versions.iter().map(|&version| version.into()).collect();
            let json = serde_json::to_vec(&SiblingsJson { context, siblings })
                .map_err(|_| Problem::new(Kind::Internal, "the answer could not be encoded"))?;
            let share = inner.share_for_answer(json.len())?;
            (DoorBody::full(json), share, HeaderValue::from_static("application/json"))
        }
        Form::Multipart => {
            let (boundary, pieces) = versions::multipart(&view.versions);
            let share = inner.share_for_answer(pieces.iter().map(Bytes::len).sum())?;
            let content_type = format!("multipart/mixed; boundary={boundary}");
            (DoorBody::pieces(pieces), share, value_of(content_type))
        }
    };
    let length = body.len_hint();
    let mut response = Response::new(body.with_share(share));
    *response.status_mut() = StatusCode::MULTIPLE_CHOICES;
    let out = response.headers_mut();
    out.insert(header::CONTENT_TYPE, content_type);
    out.insert(header::VARY, HeaderValue::from_static("Accept"));
    if let Some(length) = length {
        out.insert(header::CONTENT_LENGTH, length.into());
    }
    Ok(response)
}

/// Write a value.
///
/// With a `Henge-Context` it supersedes exactly what that context covers; without one it stands
/// beside what is there, and `Henge-Siblings` says so. `Content-Type` and `Henge-Meta-*` are kept.
///
/// With `If-None-Match: *` (create) or `If-Match` (compare and set) it takes effect only if the
/// condition holds for the newest state of the key, as Paxos has it; else `412` with what stands
/// there. In a `strong` bucket every write goes that way. With `If-Fence` (the number of a lock that
/// its writer holds) it is refused with `fence-too-old` if a write with a higher one was there
/// before; else the key remembers the number, for ever.
#[utoipa::path(put, path = "/v1/kv/{bucket}/{key}", operation_id = "put_value", tag = "Keys and values",
    params(super::openapi::KeyPath, super::openapi::LevelParams, super::openapi::TtlParam, super::openapi::WriteHeaders),
    request_body(content = Vec<u8>, content_type = "application/octet-stream", description = "Any bytes, up to 8 MiB"),
    responses(
        (status = 201, description = "Written; no live value stood there", headers(("ETag" = String, description = "Names the new version"), ("Henge-Context" = String, description = "What the writer had seen, and its own value"), ("Henge-Siblings" = u32, description = "Live values after it"), ("Henge-Replayed" = bool, description = "The operation had run before"), ("Henge-Receipt" = String, description = "If asked for"))),
        (status = 204, description = "Written", headers(("ETag" = String, description = "Names the new version"), ("Henge-Context" = String, description = "What the writer had seen, and its own value"), ("Henge-Siblings" = u32, description = "Live values after it"), ("Henge-Replayed" = bool, description = "The operation had run before"), ("Henge-Receipt" = String, description = "If asked for"))),
        (status = "default", response = super::openapi::ProblemResponse),
    ))]
pub(super) async fn put(
    inner: &Inner,
    parts: &Parts,
    body: &mut Body,
    bucket: &str,
    raw_key: &str,
) -> Answer {
    let table = inner.bucket(bucket)?;
    inner.permit_write(Principal::of(parts), &table, has_condition(&parts.headers))?;
    let key = key_in_path(raw_key, &inner.limits)?;
    let (outcome, created) = store(inner, parts, body, &table, &key).await?;
    let status = if created { StatusCode::CREATED } else { StatusCode::NO_CONTENT };
    Ok(write_answer(inner, &table, &key, &outcome, status))
}

/// Write a value under a key that the server makes (a UUIDv7; with an `Idempotency-Key`, that one).
#[utoipa::path(post, path = "/v1/kv/{bucket}", operation_id = "post_value", tag = "Keys and values",
    params(super::openapi::BucketPath, super::openapi::LevelParams, super::openapi::TtlParam, super::openapi::WriteHeaders),
    request_body(content = Vec<u8>, content_type = "application/octet-stream", description = "Any bytes, up to 8 MiB"),
    responses(
        (status = 201, description = "Written; `Location` names the key", headers(("Location" = String, description = "Where it is"))),
        (status = "default", response = super::openapi::ProblemResponse),
    ))]
pub(super) async fn post(inner: &Inner, parts: &Parts, body: &mut Body, bucket: &str) -> Answer {
    let table = inner.bucket(bucket)?;
    inner.permit_write(Principal::of(parts), &table, has_condition(&parts.headers))?;
    // An operation's scope is its key, so a repeat must come to the same one: the operation's own
    // id is then the key.
    let id = options::operation_id(&parts.headers)?;
    let text = id.unwrap_or_else(|| inner.env.new_op_id()).to_string();
    let location = format!("/v1/kv/{bucket}/{}", encode_key(text.as_bytes()));
    let key = Key::new(text)
        .map_err(|_| Problem::new(Kind::Internal, "a UUID could not be made a key"))?;
    let (outcome, _) = store(inner, parts, body, &table, &key).await?;
    let mut response = write_answer(inner, &table, &key, &outcome, StatusCode::CREATED);
    response.headers_mut().insert(header::LOCATION, value_of(location));
    Ok(response)
}

async fn store(
    inner: &Inner,
    parts: &Parts,
    body: &mut Body,
    table: &Arc<Table>,
    key: &Key,
) -> Result<(WriteOutcome, bool), Problem> {
    const KNOWN: &[&str] = &["level", "r", "w", "timeout", "ttl"];
    let headers = &parts.headers;
    let params = Params::parse(parts.uri.query(), KNOWN)?;
    let (condition, fence) = (condition(headers)?, fence(headers)?);
    options::plain_body(headers)?;
    let level = options::level(&params, table, Side::Write)?;
    let timeout = options::timeout(&params, &inner.limits)?;
    let ttl = options::ttl(params.number("ttl")?)?;
    let receipt = options::wants_receipt(headers)?;
    let op = options::operation_id(headers)?;
    let context = options::context(headers, inner.backend.codec(), table, key)?;
    let meta = options::meta(headers, &inner.limits)?;
    let content_type = options::content_type(headers)?;
    let reading = Reading { env: &inner.env, limits: &inner.limits, budget: &inner.bodies };
    // Everything else has been checked by now: a request that is wrong costs no memory.
    let read = reading.read(headers, body, inner.limits.max_value_bytes).await?;
    let action = WriteAction::Put { body: read.bytes, content_type, meta, ttl };
    let op = WriteOp {
        table: table.clone(),
        key: key.clone(),
        action,
        condition,
        fence,
        context,
        level,
        timeout,
        op,
        receipt,
    };
    let outcome = inner.backend.write(op).await?;
    drop(read.share);
    let created = outcome.created;
    Ok((outcome, created))
}

/// Delete a value.
///
/// With a `Henge-Context`: what that context covers. Without: what a quorum read shows. A value
/// written concurrently lives on.
#[utoipa::path(delete, path = "/v1/kv/{bucket}/{key}", operation_id = "delete_value", tag = "Keys and values",
    params(super::openapi::KeyPath, super::openapi::LevelParams, super::openapi::WriteHeaders),
    responses(
        (status = 204, description = "Deleted, or there was nothing", headers(("Henge-Context" = String, description = "Covers the deletion"), ("Henge-Siblings" = u32, description = "Live values after it"))),
        (status = "default", response = super::openapi::ProblemResponse),
    ))]
pub(super) async fn delete(inner: &Inner, parts: &Parts, bucket: &str, raw_key: &str) -> Answer {
    const KNOWN: &[&str] = &["level", "r", "w", "timeout"];
    let table = inner.bucket(bucket)?;
    inner.permit_write(Principal::of(parts), &table, has_condition(&parts.headers))?;
    let key = key_in_path(raw_key, &inner.limits)?;
    let params = Params::parse(parts.uri.query(), KNOWN)?;
    let headers = &parts.headers;
    let op = WriteOp {
        condition: condition(headers)?,
        fence: fence(headers)?,
        level: options::level(&params, &table, Side::Write)?,
        timeout: options::timeout(&params, &inner.limits)?,
        context: options::context(headers, inner.backend.codec(), &table, &key)?,
        op: options::operation_id(headers)?,
        receipt: options::wants_receipt(headers)?,
        action: WriteAction::Delete,
        table: table.clone(),
        key: key.clone(),
    };
    let outcome = inner.backend.write(op).await?;
    let mut response = write_answer(inner, &table, &key, &outcome, StatusCode::NO_CONTENT);
    // A deletion is no version that a reader could name.
    response.headers_mut().remove(header::ETAG);
    Ok(response)
}

fn write_answer(
    inner: &Inner,
    table: &Table,
    key: &Key,
    outcome: &WriteOutcome,
    status: StatusCode,
) -> Response<DoorBody> {
    let mut response = Response::new(DoorBody::empty());
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.reserve(6);
    if let Some(dot) = outcome.dot {
        headers.insert(header::ETAG, value_of(version_etag(dot)));
        headers.insert(names::DOT.clone(), value_of(dot.to_string()));
    }
    let context = inner.backend.codec().seal(table.id, key, &outcome.context);
    headers.insert(names::CONTEXT.clone(), value_of(context));
    headers.insert(names::SIBLINGS.clone(), outcome.siblings.into());
    if outcome.replayed {
        headers.insert(names::REPLAYED.clone(), HeaderValue::from_static("true"));
    }
    put_receipt(headers, outcome.receipt.as_ref());
    response
}

fn put_receipt(headers: &mut HeaderMap, receipt: Option<&Receipt>) {
    if let Some(json) = receipt.and_then(|receipt| serde_json::to_vec(receipt).ok())
        && let Ok(value) = HeaderValue::from_maybe_shared(Bytes::from(json))
    {
        headers.insert(names::RECEIPT.clone(), value);
    }
}

fn with_receipt(problem: Problem, receipt: Option<&Receipt>) -> Problem {
    match receipt.and_then(|receipt| serde_json::to_value(receipt).ok()) {
        Some(receipt) => problem.with("receipt", receipt),
        None => problem,
    }
}

/// Which methods a path below `/v1/kv/` takes.
pub(super) fn allowed(path: KvPath<'_>) -> &'static str {
    match path {
        KvPath::Bucket(_) => "GET, HEAD, POST",
        KvPath::Key(_, "batch") => "GET, HEAD, PUT, POST, DELETE",
        KvPath::Key(..) => "GET, HEAD, PUT, DELETE",
    }
}

/// True for methods whose answers, when they are no success, must say what became of the write.
pub(super) fn is_write(method: &Method) -> bool {
    !matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS | Method::TRACE)
}

impl Inner {
    /// Memory for an answer of `bytes`.
    pub(super) fn share_for_answer(&self, bytes: usize) -> Result<Option<Share>, Problem> {
        if bytes < SMALL_ANSWER {
            return Ok(None);
        }
        Share::take(&self.bodies, bytes).map(Some).ok_or_else(|| {
            Problem::new(
                Kind::Overloaded,
                "too many large answers are being sent (limits.max_body_memory_mb)",
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_split_at_the_first_slash_after_the_bucket() {
        assert_eq!(split("/v1/kv/b"), Some(KvPath::Bucket("b")));
        assert_eq!(split("/v1/kv/b/"), Some(KvPath::Key("b", "")));
        assert_eq!(split("/v1/kv/b/k%2F/x"), Some(KvPath::Key("b", "k%2F/x")));
        assert_eq!(split("/v1/kx/b"), None);
    }
}
