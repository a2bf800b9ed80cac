//! Errors as the client sees them: `application/problem+json` (RFC 9457).
//!
//! Two rules. Every kind has a page at its `type` address, on this node, that names cause and
//! cure. And every answer to a *write* that is not a success carries `outcome`: whether the write
//! did not take effect, or may have (law L8).

use std::borrow::Cow;

use axum::http::header::{CONTENT_TYPE, ETAG, HeaderName, HeaderValue, RETRY_AFTER};
use axum::http::{Response, StatusCode};
use serde::Serialize;
use serde_json::{Map, Value};

use crate::coordinator::{Fate, OpError};
use crate::server::http::body::DoorBody;
use crate::server::http::conditions::current;
use crate::server::http::names;
use crate::server::http::options::value_of;

/// What a kind of problem is called, and what its page says.
#[derive(Debug)]
pub struct Entry {
    /// The kind.
    pub kind: Kind,
    /// Last part of its `type` address; stable for ever.
    pub name: &'static str,
    /// HTTP status.
    pub status: u16,
    /// One line.
    pub title: &'static str,
    /// Why it happens.
    pub cause: &'static str,
    /// What to do.
    pub cure: &'static str,
}

macro_rules! kinds {
    ($($kind:ident $name:literal $status:literal $title:literal cause $cause:literal cure $cure:literal)*) => {
        /// The kinds of problem.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub enum Kind {
            $(#[doc = $title] $kind,)*
        }

        /// Every kind, in the order of [`Kind`].
        pub static CATALOGUE: &[Entry] = &[
            $(Entry {
                kind: Kind::$kind, name: $name, status: $status, title: $title,
                cause: $cause, cure: $cure,
            },)*
        ];
    };
}

kinds! {
    BadRequest "bad-request" 400 "The request cannot be understood"
        cause "A parameter, header, name or body is missing, unknown, malformed or out of range. The detail names it."
        cure "Correct what the detail names. /docs lists every parameter; a misspelt one is answered with the nearest known name."
    BadContext "bad-context" 400 "The Henge-Context is not one for this key"
        cause "The context was altered on its way, cut short, or belongs to another key or bucket. Contexts are sealed, so that a forged one cannot hide other clients' writes."
        cure "Send the Henge-Context back exactly as a read or write of this same key returned it. If it is lost, read the key again."
    KeyTooLong "key-too-long" 400 "The key is too long"
        cause "The key, after percent-decoding, has more bytes than this node allows."
        cure "Use a shorter key, for example a hash of the long one, or raise limits.max_key_bytes on every node."
    Unauthenticated "unauthenticated" 401 "Who are you?"
        cause "The node asks its clients who they are (auth.enabled), and this request did not say, or the name or the password is wrong."
        cure "Send Authorization: Basic with a role's name and password (curl --user NAME). Roles are made over CQL: CREATE ROLE."
    Forbidden "forbidden" 403 "Not allowed"
        cause "The role of this client does not allow the request, or it would change a table that the nodes keep for themselves."
        cure "Use another role, or have this one granted what it needs. Locks and elections are changed at /v1/locks and /v1/elections."
    BucketNotFound "bucket-not-found" 404 "There is no such bucket"
        cause "No bucket of this name exists, or it was deleted. Buckets are created explicitly, so that a typing error does not make a new one."
        cure "Create it: PUT /v1/buckets/{bucket} with a JSON body, {} for the defaults. GET /v1/buckets lists those that exist."
    KeyNotFound "key-not-found" 404 "There is no value under this key"
        cause "The key was never written, was deleted, or its value has expired. ETag and Henge-Context, where they are present, name the deletion."
        cure "Nothing, if that is what you expected. Pass the Henge-Context on with your next write, so that it supersedes the deletion."
    NotFound "not-found" 404 "There is nothing at this address"
        cause "The path is none that this node serves."
        cure "See /docs for all that it does serve. A key's slashes may be written as %2F."
    MethodNotAllowed "method-not-allowed" 405 "This address does not take that method"
        cause "The path exists, with other methods."
        cure "Use one of those that the Allow header names."
    RequestTimeout "request-timeout" 408 "The request's body came too slowly"
        cause "The body paused for longer, or took longer in all, than this node waits. Nothing was written."
        cure "Send it again over a better connection, or in smaller values."
    BucketExists "bucket-exists" 409 "The bucket exists with other settings"
        cause "A bucket of this name exists and one of its settings differs from those asked for."
        cure "Use it as it is (the problem shows its settings), PATCH what may be changed, or choose another name."
    TooManySiblings "too-many-siblings" 409 "The key holds as many concurrent values as it may"
        cause "Many writes without a context, each of which adds a value next to the others, since none says which it replaces."
        cure "GET the key, merge its values, and PUT the result with the Henge-Context of that GET. Always pass the context of the last read or write."
    LockHeld "lock-held" 409 "Somebody else holds the lock"
        cause "The lock is taken and its time is not over."
        cure "Try again after remaining_ms."
    OperationExpired "operation-expired" 410 "The operation id is older than all that is remembered"
        cause "Newer operations on this key have pushed this id out of memory. It may have run once; it was not run again."
        cure "Read the key to see whether the write is there. Retry sooner, or with fewer other operations on the key in between."
    PreconditionFailed "precondition-failed" 412 "The condition does not hold"
        cause "The value is not the one that the condition names."
        cure "Read the key again and decide anew."
    FenceTooOld "fence-too-old" 412 "The fencing token has been overtaken"
        cause "A later holder of the lock has already written with a higher fence, or the grant that a renewal or release names has ended."
        cure "Stop: this process no longer holds the lock. Acquire it anew."
    ValueTooLarge "value-too-large" 413 "The value is too large"
        cause "The body has more bytes than this node takes, or the record with all its concurrent values would outgrow what a record may be. Nothing was written."
        cure "Split the value over several keys, merge siblings, or raise limits.max_value_bytes on every node."
    UriTooLong "uri-too-long" 414 "The request target is too long"
        cause "Path and query together have more bytes than this node reads."
        cure "Shorten the key or the prefix."
    NotAReplica "not-a-replica" 421 "This node holds no copy"
        cause "The request asks for this node's own copy (local=true, or a partition's digest), and it has none."
        cure "Ask one of the key's replicas: GET /v1/where/{bucket}/{key} names them."
    OperationIdReused "operation-id-reused" 422 "The operation id was used for another request"
        cause "The same Idempotency-Key came before with another body, content type or parameter."
        cure "Make a new UUIDv7 for each operation, and repeat it only when repeating that very request."
    HeadersTooLarge "headers-too-large" 431 "The headers are too large"
        cause "There are more header fields, or more bytes in them, than this node reads."
        cure "Send fewer or shorter headers (Henge-Meta-* has its own, lower bound)."
    Internal "internal" 500 "The node failed in a way it should not"
        cause "A fault in Henge itself."
        cure "Report it with the node's log. Whether a write took effect is unknown: read the key, or repeat the request with the same Idempotency-Key."
    NotSupported "not-supported" 501 "This is not supported yet"
        cause "This version has no serial level as a bucket's default, and no condition on a batch as a whole."
        cure "The detail says what is missing. Conditions on single writes and on items of a batch, and strong buckets, are there."
    Overloaded "overloaded" 503 "The node has too much to do"
        cause "A bound on requests, bytes or queued work was met, or work keeps waiting for its turn for longer than limits.shed_wait_ms. The request was not carried out."
        cure "Wait as Retry-After says, then try again, with growing pauses. If it lasts: add nodes, or raise the bound that the detail names."
    Unavailable "unavailable" 503 "Too few replicas are alive"
        cause "The consistency level needs more replicas of this key than are alive, as far as this node knows. Nothing was sent to any of them."
        cure "Try again shortly, or use a lower level (level=one) if an older answer, or a weaker promise, will do."
    ShuttingDown "shutting-down" 503 "The node is shutting down"
        cause "The node finishes what it has begun and takes nothing new."
        cure "Use another node."
    Contended "contended" 503 "Others kept winning"
        cause "Several clients decide on this key at once, and this request lost too many rounds."
        cure "Read again, decide anew, and try after a random pause."
    TooFewReplicasAnswered "too-few-replicas-answered" 504 "Too few replicas answered well"
        cause "Enough replicas were thought alive, yet some failed or refused. A write may have reached some of them, and may spread from there."
        cure "Repeat it with the same Idempotency-Key: that never makes a second write. Or read the key."
    Timeout "timeout" 504 "The time was over"
        cause "Too few replicas answered in time. A write may have been stored by some of them, and may spread from there."
        cure "Repeat it with the same Idempotency-Key: that never makes a second write. Or read the key, or allow more time with timeout=."
    DiskFull "disk-full" 507 "The disks are full"
        cause "Too few of the key's replicas have room for the write. It was refused; reads go on."
        cure "Free space or add disks on the nodes; deletes free space only after a while."
}

impl Kind {
    /// Name, status and texts.
    #[must_use]
    pub fn entry(self) -> &'static Entry {
        &CATALOGUE[self as usize]
    }

    /// The kind called `name`.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        CATALOGUE.iter().find(|entry| entry.name == name).map(|entry| entry.kind)
    }
}

/// An answer that is not a success.
#[derive(Clone, Debug)]
pub struct Problem(Box<Inner>);

#[derive(Clone, Debug)]
struct Inner {
    kind: Kind,
    detail: Cow<'static, str>,
    outcome: Option<Fate>,
    members: Map<String, Value>,
    headers: Vec<(HeaderName, HeaderValue)>,
}

/// The JSON form, members in reading order.
#[derive(Debug, Serialize)]
pub(super) struct ProblemJson<'a> {
    #[serde(rename = "type")]
    address: String,
    title: &'static str,
    status: u16,
    detail: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    outcome: Option<Fate>,
    #[serde(flatten)]
    members: &'a Map<String, Value>,
}

impl Problem {
    /// A problem of `kind`; `detail` says what exactly and, where it can, what to do.
    #[must_use]
    pub fn new(kind: Kind, detail: impl Into<Cow<'static, str>>) -> Self {
        Self(Box::new(Inner {
            kind,
            detail: detail.into(),
            outcome: None,
            members: Map::new(),
            headers: Vec::new(),
        }))
    }

    /// `400 bad-request`.
    #[must_use]
    pub fn bad(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Kind::BadRequest, detail)
    }

    /// `400 bad-request` about one parameter, header or member.
    #[must_use]
    pub fn bad_parameter(name: &str, why: impl std::fmt::Display) -> Self {
        Self::bad(format!("{name}: {why}")).with("parameter", name)
    }

    /// Adds a member.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.0.members.insert(name.to_owned(), value.into());
        self
    }

    /// Adds a header.
    #[must_use]
    pub fn with_header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.0.headers.push((name, value));
        self
    }

    /// Says what became of the write, where that is not "not applied".
    #[must_use]
    pub fn with_outcome(mut self, outcome: Fate) -> Self {
        self.0.outcome = Some(outcome);
        self
    }

    /// Says that the operation had been refused before, if it had.
    #[must_use]
    pub(super) fn replay(self, replayed: bool) -> Self {
        if !replayed {
            return self;
        }
        self.with_header(names::REPLAYED.clone(), HeaderValue::from_static("true"))
    }

    /// The kind.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.0.kind
    }

    /// The HTTP status.
    #[must_use]
    pub fn status(&self) -> u16 {
        self.0.kind.entry().status
    }

    /// What became of the write, as its answer says it.
    #[must_use]
    pub fn outcome(&self) -> Fate {
        self.0.outcome.unwrap_or(Fate::NotApplied)
    }

    pub(super) fn json(&self, write: bool) -> ProblemJson<'_> {
        let entry = self.0.kind.entry();
        ProblemJson {
            address: format!("/problems/{}", entry.name),
            title: entry.title,
            status: entry.status,
            detail: &self.0.detail,
            outcome: write.then(|| self.outcome()),
            members: &self.0.members,
        }
    }

    /// The answer. `write` says whether the request was one, and so needs an `outcome`.
    #[must_use]
    pub fn into_response(self, write: bool) -> Response<DoorBody> {
        let body = serde_json::to_vec(&self.json(write)).unwrap_or_default();
        let mut response = Response::new(DoorBody::full(body));
        *response.status_mut() =
            StatusCode::from_u16(self.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if self.status() == 503 {
            headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
        }
        for (name, value) in self.0.headers {
            headers.append(name, value);
        }
        response
    }
}

impl From<OpError> for Problem {
    fn from(error: OpError) -> Self {
        let kind = match &error {
            OpError::Unavailable { .. } => Kind::Unavailable,
            // The node goes down in the middle: the client is left as after a timeout.
            OpError::Timeout { .. } | OpError::Stopped => Kind::Timeout,
            OpError::TooFewReplicas { .. }
            | OpError::Partly { .. }
            | OpError::IndexBuilding { .. } => Kind::TooFewReplicasAnswered,
            OpError::BadLevel(_) | OpError::BadOperationId(_) | OpError::Invalid(_) => {
                Kind::BadRequest
            }
            OpError::Reserved(_) => Kind::Forbidden,
            OpError::NotSupported(_) => Kind::NotSupported,
            OpError::NotAReplica { .. } => Kind::NotAReplica,
            OpError::Overloaded { .. } => Kind::Overloaded,
            OpError::TooManySiblings { .. } => Kind::TooManySiblings,
            OpError::RecordTooLarge { .. } => Kind::ValueTooLarge,
            OpError::OperationReused => Kind::OperationIdReused,
            OpError::OperationExpired => Kind::OperationExpired,
            OpError::ConditionFailed { .. } => Kind::PreconditionFailed,
            OpError::FenceTooOld { .. } => Kind::FenceTooOld,
            OpError::Contended { .. } => Kind::Contended,
            OpError::DiskFull => Kind::DiskFull,
            OpError::ShuttingDown => Kind::ShuttingDown,
            OpError::NoSuchTable => Kind::BucketNotFound,
        };
        let problem = Self::new(kind, error.to_string()).with_outcome(error.fate());
        match error {
            OpError::Unavailable { level, required, alive } => problem
                .with("level", level.to_string())
                .with("required", required)
                .with("alive", alive),
            OpError::Timeout { level, required, received, timeout_ms, .. } => problem
                .with("level", level.to_string())
                .with("required", required)
                .with("received", received)
                .with("timeout_ms", timeout_ms),
            OpError::TooFewReplicas { level, required, received, failed, .. }
            | OpError::IndexBuilding { level, required, received, failed } => problem
                .with("level", level.to_string())
                .with("required", required)
                .with("received", received)
                .with("failed", failed),
            OpError::Partly { done, parts, level, .. } => {
                problem.with("level", level.to_string()).with("done", done).with("parts", parts)
            }
            OpError::TooManySiblings { siblings, max } => {
                problem.with("siblings", siblings).with("max", max)
            }
            OpError::RecordTooLarge { max, got } => problem.with("max", max).with("got", got),
            OpError::Contended { rounds, timeout_ms, .. } => {
                problem.with("rounds", rounds).with("timeout_ms", timeout_ms)
            }
            OpError::FenceTooOld { fence, highest, replayed } => {
                problem.with("fence", fence).with("highest", highest).replay(replayed)
            }
            OpError::ConditionFailed { current: record, now, replayed } => {
                let problem = problem.with("current", current(&record, now)).replay(replayed);
                match record.view(now).etag() {
                    Some(etag) => problem.with_header(ETAG, value_of(etag)),
                    None => problem,
                }
            }
            OpError::BadLevel(_)
            | OpError::BadOperationId(_)
            | OpError::Reserved(_)
            | OpError::Invalid(_)
            | OpError::NotSupported(_)
            | OpError::NotAReplica { .. }
            | OpError::Overloaded { .. }
            | OpError::OperationReused
            | OpError::OperationExpired
            | OpError::DiskFull
            | OpError::ShuttingDown
            | OpError::Stopped
            | OpError::NoSuchTable => problem,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_finds_its_own_entry_and_names_are_distinct() {
        for (index, entry) in CATALOGUE.iter().enumerate() {
            assert_eq!(entry.kind as usize, index);
            assert_eq!(Kind::named(entry.name), Some(entry.kind));
            assert!(StatusCode::from_u16(entry.status).is_ok_and(|s| !s.is_success()));
        }
    }

    #[test]
    fn only_a_write_has_an_outcome_and_it_defaults_to_not_applied() {
        let problem = Problem::bad("no");
        let json = |write| serde_json::to_value(problem.json(write)).unwrap();
        assert_eq!(json(true)["outcome"], "not_applied");
        assert_eq!(json(true)["type"], "/problems/bad-request");
        assert!(json(false).get("outcome").is_none());
    }
}
