//! Locks: one holder at a time, a time limit, and a number that proves who came last.
//! ([`crate::recipes`] says what may be relied on.)

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, Response, StatusCode};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::coordinator::{LeaseOp, LeaseOutcome, ReadOp};
use crate::cql::roles::Permission;
use crate::meta::{ConflictMode, Table, TableName, TableSettings};
use crate::recipes::{Refusal, Request, State};
use crate::server::Principal;
use crate::server::http::backend::Creation;
use crate::server::http::body::{DoorBody, Reading};
use crate::server::http::buckets::json_answer;
use crate::server::http::conditions::{checked_fence, fence};
use crate::server::http::door::Inner;
use crate::server::http::names;
use crate::server::http::options;
use crate::server::http::path::key_in_path;
use crate::server::http::problem::{Kind, Problem};
use crate::server::http::query::Params;
use crate::types::{Consistency, Key, OpId, WallMicros};

type Answer = Result<Response<DoorBody>, Problem>;

/// Most bytes of a request's body.
const MAX_BODY: usize = 16 * 1024;
/// The shortest lease: below, a slow round trip would end it.
const MIN_TTL_MS: u64 = 1_000;
/// The longest lease, a day. Who needs a lock for longer renews it.
const MAX_TTL_MS: u64 = 24 * 3600 * 1_000;
/// The lease of a request that names none.
const DEFAULT_TTL_MS: u64 = 10_000;
/// The longest name of an owner or a candidate, in bytes.
const MAX_OWNER_BYTES: usize = 256;

/// Asks for a lock.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AcquireJson {
    /// Who asks: a name for people. It proves nothing; the fence does.
    #[schema(example = "worker-3")]
    owner: String,
    /// The lease, in milliseconds: 1,000 (a second) to 86,400,000 (a day); default 10,000.
    #[schema(example = 10_000)]
    ttl_ms: Option<u64>,
}

/// Asks to hold a lock for longer.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RenewJson {
    /// The number of the grant.
    #[schema(example = 8)]
    fence: u64,
    /// The lease from now on, in milliseconds; default 10,000.
    #[schema(example = 10_000)]
    ttl_ms: Option<u64>,
}

/// A lock that somebody holds.
#[derive(Debug, Serialize, ToSchema)]
pub struct LockJson {
    /// As the holder called itself.
    #[schema(example = "worker-3")]
    pub owner: String,
    /// The number of the grant: send it as `If-Fence` with every write that the lock protects.
    #[schema(example = 8)]
    pub fence: u64,
    /// The lease, in milliseconds.
    #[schema(example = 10_000)]
    pub ttl_ms: u64,
    /// What is left of it.
    #[schema(example = 9_250)]
    pub remaining_ms: u64,
}

/// Names a lock or an election.
#[derive(utoipa::IntoParams)]
#[into_params(parameter_in = Path)]
#[expect(dead_code, reason = "describes the path in the OpenAPI document")]
pub(super) struct NamePath {
    /// The name: any bytes, percent-encoded, 1 to 1,024 of them.
    #[param(example = "nightly-report")]
    name: String,
}

/// For requests about locks and elections.
#[derive(utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "describes the query in the OpenAPI document")]
pub(super) struct TimeoutParam {
    /// The request's time limit: `500ms`, `2s`.
    timeout: Option<String>,
}

/// Which of the two families of names.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Family {
    Locks,
    Elections,
}

impl Family {
    /// The table that keeps them.
    fn table(self) -> TableName {
        TableName::system(match self {
            Self::Locks => "locks",
            Self::Elections => "elections",
        })
    }

    fn prefix(self) -> &'static str {
        match self {
            Self::Locks => "/v1/locks/",
            Self::Elections => "/v1/elections/",
        }
    }

    /// What both families need to know of a request.
    pub(super) fn errand(self, inner: &Inner, parts: &Parts) -> Result<Errand, Problem> {
        let params = Params::parse(parts.uri.query(), &["timeout"])?;
        Ok(Errand {
            family: self,
            key: self.name(inner, parts)?,
            timeout: options::timeout(&params, &inner.limits)?,
            op: options::operation_id(&parts.headers)?,
            principal: Principal::of(parts).clone(),
        })
    }

    /// The name in the path.
    pub(super) fn name(self, inner: &Inner, parts: &Parts) -> Result<Key, Problem> {
        key_in_path(parts.uri.path().strip_prefix(self.prefix()).unwrap_or_default(), &inner.limits)
    }

    /// The table, if somebody has used it yet.
    pub(super) fn known(self, inner: &Inner) -> Option<Arc<Table>> {
        let name = self.table();
        inner.backend.table(&name.keyspace, &name.table)
    }

    /// The table; made by whoever uses it first, with the usual number of replicas.
    async fn made(self, inner: &Inner) -> Result<Arc<Table>, Problem> {
        if let Some(table) = self.known(inner) {
            return Ok(table);
        }
        let nodes = inner.backend.node_count() as usize;
        let settings =
            TableSettings { conflict: ConflictMode::Strong, ..TableSettings::bucket(nodes) };
        match inner.backend.create_table(self.table(), settings, None).await? {
            Creation::Created(table) | Creation::Exists(table) => Ok(table),
        }
    }
}

/// What is common to all requests about one name.
pub(super) struct Errand {
    family: Family,
    key: Key,
    timeout: Duration,
    op: Option<OpId>,
    principal: Principal,
}

impl Errand {
    /// A request about `key` that changes nothing.
    pub(super) fn about(family: Family, key: Key, timeout: Duration, parts: &Parts) -> Self {
        Self { family, key, timeout, op: None, principal: Principal::of(parts).clone() }
    }

    /// Has `request` judged.
    pub(super) async fn ask(
        self,
        inner: &Inner,
        request: Request,
    ) -> Result<LeaseOutcome, Problem> {
        let TableName { keyspace, table } = self.family.table();
        inner.permit_named(&self.principal, Permission::Modify, (&keyspace, &table))?;
        let table = self.family.made(inner).await?;
        let op = LeaseOp { table, key: self.key, request, timeout: self.timeout, op: self.op };
        Ok(inner.backend.lease(op).await?)
    }

    /// The present state, and the instant that it is judged at: a serial read.
    pub(super) async fn look(&self, inner: &Inner) -> Result<(State, WallMicros), Problem> {
        let TableName { keyspace, table } = self.family.table();
        inner.permit_named(&self.principal, Permission::Select, (&keyspace, &table))?;
        let Some(table) = self.family.known(inner) else {
            return Ok((State::default(), inner.env.wall()));
        };
        let op = ReadOp {
            table,
            key: self.key.clone(),
            level: Consistency::Serial,
            timeout: self.timeout,
            receipt: false,
            local: false,
        };
        let found = inner.backend.read(op).await?;
        let state = State::of(&found.record, found.now)
            .map_err(|unreadable| Problem::new(Kind::Internal, unreadable.to_string()))?;
        Ok((state, found.now))
    }
}

/// A request's JSON body.
pub(super) async fn json_body<T: DeserializeOwned>(
    inner: &Inner,
    headers: &HeaderMap,
    body: &mut Body,
) -> Result<T, Problem> {
    let reading = Reading { env: &inner.env, limits: &inner.limits, budget: &inner.bodies };
    let read = reading.read(headers, body, MAX_BODY).await?;
    serde_json::from_slice(&read.bytes)
        .map_err(|error| Problem::bad(format!("the body is not the JSON wanted here: {error}")))
}

/// The lease that a request names, or the usual one.
pub(super) fn checked_ttl(ttl_ms: Option<u64>) -> Result<u64, Problem> {
    let ttl_ms = ttl_ms.unwrap_or(DEFAULT_TTL_MS);
    if (MIN_TTL_MS..=MAX_TTL_MS).contains(&ttl_ms) {
        return Ok(ttl_ms);
    }
    let why = format_args!("must be {MIN_TTL_MS} to {MAX_TTL_MS} milliseconds").to_string();
    Err(Problem::bad_parameter("ttl_ms", why))
}

/// A name of an owner or a candidate.
pub(super) fn checked_owner(member: &str, owner: String) -> Result<String, Problem> {
    if (1..=MAX_OWNER_BYTES).contains(&owner.len()) {
        return Ok(owner);
    }
    let why = format!("has 1 to {MAX_OWNER_BYTES} bytes");
    Err(Problem::bad_parameter(member, why))
}

/// The fence of a request that must have one.
fn needed_fence(headers: &HeaderMap) -> Result<u64, Problem> {
    fence(headers)?.ok_or_else(|| {
        Problem::bad_parameter("If-Fence", "the number of the grant that is to end must be given")
    })
}

pub(super) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Says in a problem who holds the lock, if anybody does.
pub(super) fn with_holder(problem: Problem, state: &State, now: WallMicros) -> Problem {
    match &state.held {
        Some((holding, _)) => problem
            .with("owner", holding.owner.clone())
            .with("fence", holding.fence)
            .with("remaining_ms", state.remaining_ms(now)),
        None => problem.with("fence", state.fence).with("remaining_ms", 0),
    }
}

/// A request that changed nothing, as a problem.
fn refused(why: Refusal, state: &State, now: WallMicros, replayed: bool) -> Problem {
    let (kind, detail) = match why {
        Refusal::Held => (Kind::LockHeld, "somebody holds it, and the time is not over"),
        Refusal::Ended => {
            (Kind::FenceTooOld, "the grant with this fence has ended: nothing was changed")
        }
    };
    with_holder(Problem::new(kind, detail), state, now).replay(replayed)
}

pub(super) fn replayed_header(response: &mut Response<DoorBody>, replayed: bool) {
    if replayed {
        let value = HeaderValue::from_static("true");
        response.headers_mut().insert(names::REPLAYED.clone(), value);
    }
}

fn answer(outcome: LeaseOutcome, status: StatusCode) -> Answer {
    match outcome {
        LeaseOutcome::Held { holding, remaining, replayed } => {
            let mut response = json_answer(
                status,
                &LockJson {
                    owner: holding.owner,
                    fence: holding.fence,
                    ttl_ms: holding.ttl_ms,
                    remaining_ms: millis(remaining),
                },
            )?;
            replayed_header(&mut response, replayed);
            Ok(response)
        }
        LeaseOutcome::Freed { replayed } => {
            let mut response = Response::new(DoorBody::empty());
            *response.status_mut() = StatusCode::NO_CONTENT;
            replayed_header(&mut response, replayed);
            Ok(response)
        }
        LeaseOutcome::Refused { why, state, now, replayed } => {
            Err(refused(why, &state, now, replayed))
        }
    }
}

/// Ends the grant whose number the request gives.
pub(super) async fn end_grant(family: Family, inner: &Inner, parts: &Parts) -> Answer {
    let errand = family.errand(inner, parts)?;
    let fence = needed_fence(&parts.headers)?;
    answer(errand.ask(inner, Request::Release { fence }).await?, StatusCode::NO_CONTENT)
}

/// Take a lock.
///
/// Given to one at a time, for `ttl_ms`, with a `fence`: a number greater than that of every holder
/// before, for ever. Send it as `If-Fence` with each write that the lock protects: once the next
/// holder has written, the key refuses this one. With an `Idempotency-Key` a repeat gets the same
/// grant, as long as it stands.
#[utoipa::path(post, path = "/v1/locks/{name}", operation_id = "acquire_lock", tag = "Locks",
    params(NamePath, TimeoutParam),
    request_body(content = AcquireJson, description = "Who, and for how long"),
    responses(
        (status = 201, description = "Held", body = LockJson),
        (status = 409, description = "Somebody else holds it (`lock-held`): `owner`, `fence`, `remaining_ms`", content_type = "application/problem+json", body = super::openapi::ProblemBody),
        (status = "default", response = super::openapi::ProblemResponse),
    ))]
pub(super) async fn acquire(inner: Arc<Inner>, parts: Parts, mut body: Body) -> Answer {
    let errand = Family::Locks.errand(&inner, &parts)?;
    let AcquireJson { owner, ttl_ms } = json_body(&inner, &parts.headers, &mut body).await?;
    let (owner, ttl_ms) = (checked_owner("owner", owner)?, checked_ttl(ttl_ms)?);
    let request = Request::Acquire { owner, ttl_ms, stands: false };
    answer(errand.ask(&inner, request).await?, StatusCode::CREATED)
}

/// Hold a lock for longer.
#[utoipa::path(put, path = "/v1/locks/{name}", operation_id = "renew_lock", tag = "Locks",
    params(NamePath, TimeoutParam),
    request_body(content = RenewJson, description = "The grant, and for how long from now"),
    responses(
        (status = 200, description = "Held, from now for `ttl_ms`", body = LockJson),
        (status = 412, description = "The grant has ended (`fence-too-old`)", content_type = "application/problem+json", body = super::openapi::ProblemBody),
        (status = "default", response = super::openapi::ProblemResponse),
    ))]
pub(super) async fn renew(inner: Arc<Inner>, parts: Parts, mut body: Body) -> Answer {
    let errand = Family::Locks.errand(&inner, &parts)?;
    let RenewJson { fence, ttl_ms } = json_body(&inner, &parts.headers, &mut body).await?;
    checked_fence("fence", fence)?;
    let request = Request::Renew { fence, ttl_ms: checked_ttl(ttl_ms)? };
    answer(errand.ask(&inner, request).await?, StatusCode::OK)
}

/// Give a lock back.
#[utoipa::path(delete, path = "/v1/locks/{name}", operation_id = "release_lock", tag = "Locks",
    params(NamePath, TimeoutParam, ("If-Fence" = u64, Header, description = "The number of the grant")),
    responses(
        (status = 204, description = "Free"),
        (status = 412, description = "The grant had ended before (`fence-too-old`)", content_type = "application/problem+json", body = super::openapi::ProblemBody),
        (status = "default", response = super::openapi::ProblemResponse),
    ))]
pub(super) async fn release(inner: Arc<Inner>, parts: Parts, _: Body) -> Answer {
    end_grant(Family::Locks, &inner, &parts).await
}

/// Show who holds a lock.
#[utoipa::path(get, path = "/v1/locks/{name}", operation_id = "show_lock", tag = "Locks",
    params(NamePath, TimeoutParam),
    responses(
        (status = 200, description = "Held", body = LockJson),
        (status = 404, description = "Free. `fence` is the number of the last grant, 0 if there was none", content_type = "application/problem+json", body = super::openapi::ProblemBody),
        (status = "default", response = super::openapi::ProblemResponse),
    ))]
pub(super) async fn show(inner: Arc<Inner>, parts: Parts, _: Body) -> Answer {
    let (state, now) = Family::Locks.errand(&inner, &parts)?.look(&inner).await?;
    let Some((holding, _)) = &state.held else {
        let problem = Problem::new(Kind::KeyNotFound, "nobody holds this lock");
        return Err(with_holder(problem, &state, now));
    };
    let (owner, remaining_ms) = (holding.owner.clone(), state.remaining_ms(now));
    let (fence, ttl_ms) = (holding.fence, holding.ttl_ms);
    json_answer(StatusCode::OK, &LockJson { owner, fence, ttl_ms, remaining_ms })
}
