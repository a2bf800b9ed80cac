//! Buckets: making, showing, changing and dropping them.

use std::sync::Arc;

use axum::body::Body;
use axum::http::request::Parts;
use axum::http::{HeaderValue, Response, StatusCode, header};
use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;

use crate::cql::roles::Permission;
use crate::meta::{ConflictMode, Table, TableName, TableSettings};
use crate::ring::Replication;
use crate::server::Principal;
use crate::server::http::backend::{Alteration, Creation};
use crate::server::http::body::{DoorBody, Reading};
use crate::server::http::door::Inner;
use crate::server::http::path::is_bucket_name;
use crate::server::http::problem::{Kind, Problem};
use crate::server::http::query::{Params, unknown};
use crate::types::Consistency;

type Answer = Result<Response<DoorBody>, Problem>;

/// Most bytes of a bucket's settings.
const MAX_BODY: usize = 64 * 1024;
const MEMBERS: &[&str] =
    &["replication_factor", "conflict", "r", "w", "ttl_s", "max_siblings", "sloppy", "grace_s"];
/// Bound on a bucket's `max_siblings`.
const MAX_SIBLINGS: u32 = 10_000;
/// Longest `ttl_s` and `grace_s` of a bucket, in seconds: ten years.
const MAX_TTL_S: u64 = 10 * 366 * 24 * 3600;

/// How often a change of settings is made anew because others were faster.
const MAX_OVERTAKEN: u32 = 8;

/// A bucket's settings.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct BucketJson {
    /// Its name.
    #[schema(example = "flights")]
    pub name: String,
    /// Copies of each value.
    #[schema(example = 3)]
    pub replication_factor: u32,
    /// How concurrent writes meet: `siblings`, `lww` or `strong`.
    #[schema(example = "siblings")]
    pub conflict: &'static str,
    /// How many replicas must answer a read: a level's name or a count.
    #[schema(value_type = String, example = "quorum")]
    pub r: Value,
    /// How many replicas must hold a write: a level's name or a count.
    #[schema(value_type = String, example = "quorum")]
    pub w: Value,
    /// Seconds until a value ends to exist, unless its writer says otherwise; 0: never.
    pub ttl_s: u64,
    /// Most concurrent values of a key; 0: no bound.
    #[schema(example = 64)]
    pub max_siblings: u32,
    /// Whether other nodes may hold writes for replicas that are down, and count in their place.
    pub sloppy: bool,
    /// Seconds for which what is deleted or expired is kept at least, before it is purged.
    #[schema(example = 864_000)]
    pub grace_s: u64,
}

/// All buckets.
#[derive(Debug, Serialize, ToSchema)]
pub struct BucketsJson {
    /// By name.
    pub buckets: Vec<BucketJson>,
}

/// What a client may send; every member may be left out.
#[derive(Debug, ToSchema)]
#[expect(dead_code, reason = "describes the body in the OpenAPI document; read by hand below")]
pub struct BucketSettings {
    /// Copies of each value (default: 3, or the number of nodes if fewer). Fixed for ever.
    #[schema(example = 3)]
    replication_factor: Option<u32>,
    /// `siblings` (default) keeps every concurrent value, `lww` the last one, `strong` has none
    /// (not supported yet). Fixed for ever.
    #[schema(example = "siblings")]
    conflict: Option<String>,
    /// Read level: a name or a count (default `quorum`).
    #[schema(example = "quorum")]
    r: Option<String>,
    /// Write level: a name or a count (default `quorum`).
    #[schema(example = "quorum")]
    w: Option<String>,
    /// Seconds until a value ends to exist (default 0: never).
    ttl_s: Option<u64>,
    /// Most concurrent values of a key (default 64; 0: no bound).
    #[schema(example = 64)]
    max_siblings: Option<u32>,
    /// Whether other nodes may hold writes for replicas that are down, and count in their place
    /// (default false). Reads then need not see the latest write at once.
    sloppy: Option<bool>,
    /// Seconds for which what is deleted or expired is kept at least, before it is purged (default
    /// 864000, ten days). Longer than any client may repeat a request.
    #[schema(example = 864_000)]
    grace_s: Option<u64>,
}

/// The name by which the HTTP door knows a table.
pub(super) fn name_of(table: &Table) -> String {
    table.name.to_string()
}

fn shown(table: &Table) -> BucketJson {
    let level = |level: Consistency| match level {
        Consistency::Count(n) => Value::from(n),
        named => Value::from(named.to_string()),
    };
    let settings = &table.settings;
    BucketJson {
        name: name_of(table),
        replication_factor: settings.replication.total(),
        conflict: match settings.conflict {
            ConflictMode::Siblings => "siblings",
            ConflictMode::Lww => "lww",
            ConflictMode::Strong => "strong",
        },
        r: level(settings.read_level),
        w: level(settings.write_level),
        ttl_s: settings.ttl_s,
        max_siblings: settings.max_siblings,
        sloppy: settings.sloppy,
        grace_s: settings.grace_s,
    }
}

/// List all buckets.
#[utoipa::path(get, path = "/v1/buckets", operation_id = "list_buckets", tag = "Buckets",
    responses(
        (status = 200, description = "All buckets, by name", body = BucketsJson),
        (status = "default", response = super::openapi::ProblemResponse),
    ))]
pub(super) async fn list(inner: Arc<Inner>, parts: Parts, _: Body) -> Answer {
    Params::parse(parts.uri.query(), &[])?;
    let buckets = inner.backend.tables().iter().map(|table| shown(table)).collect();
    json_answer(StatusCode::OK, &BucketsJson { buckets })
}

/// Show a bucket.
#[utoipa::path(get, path = "/v1/buckets/{bucket}", operation_id = "get_bucket", tag = "Buckets",
    params(super::openapi::BucketPath),
    responses(
        (status = 200, description = "The bucket's settings", body = BucketJson),
        (status = "default", response = super::openapi::ProblemResponse),
    ))]
pub(super) async fn get(inner: Arc<Inner>, parts: Parts, _: Body) -> Answer {
    Params::parse(parts.uri.query(), &[])?;
    let table = inner.bucket(name_in(&parts))?;
    json_answer(StatusCode::OK, &shown(&table))
}

/// Create a bucket, or confirm that it exists with these very settings.
///
/// Idempotent. When it returns, every live node knows the bucket.
#[utoipa::path(put, path = "/v1/buckets/{bucket}", operation_id = "create_bucket", tag = "Buckets",
    params(super::openapi::BucketPath),
    request_body(content = BucketSettings, description = "Settings; those left out take their defaults. No body at all is taken as `{}`."),
    responses(
        (status = 201, description = "Created", body = BucketJson),
        (status = 200, description = "It exists with these settings", body = BucketJson),
        (status = 409, description = "It exists with other settings (`bucket-exists`)", content_type = "application/problem+json", body = super::openapi::ProblemBody),
        (status = "default", response = super::openapi::ProblemResponse),
    ))]
pub(super) async fn put(inner: Arc<Inner>, parts: Parts, mut body: Body) -> Answer {
    let name = name_in(&parts);
    let table_name: TableName = Some(name)
        .filter(|name| is_bucket_name(name))
        .and_then(|name| name.parse().ok())
        .ok_or_else(|| {
            Problem::bad_parameter(
                "bucket",
                "a name begins with a letter and has up to 48 of a-z, 0-9 and _",
            )
        })?;
    let principal = Principal::of(&parts);
    inner.permit_keyspace(principal, Permission::Create, &table_name.keyspace)?;
    let members = members(&inner, &parts, &mut body).await?;
    let nodes = inner.backend.node_count();
    let usual = TableSettings::bucket(nodes as usize);
    let wanted = apply(&usual, &members, Some(nodes))?;
    let owner = inner.backend.agreed().and_then(|state| principal.owner(&state));
    match inner.backend.create_table(table_name, wanted.clone(), owner).await? {
        Creation::Created(table) => {
            let mut response = json_answer(StatusCode::CREATED, &shown(&table))?;
            if let Ok(location) = HeaderValue::from_str(&format!("/v1/buckets/{name}")) {
                response.headers_mut().insert(header::LOCATION, location);
            }
            Ok(response)
        }
        Creation::Exists(table) => {
            let mut wanted = wanted;
            // The default depends on how many nodes there were at the time.
            if !members.contains_key("replication_factor") {
                wanted.replication = table.settings.replication.clone();
            }
            if wanted == table.settings {
                return json_answer(StatusCode::OK, &shown(&table));
            }
            let settings = serde_json::to_value(shown(&table)).unwrap_or_default();
            Err(Problem::new(
                Kind::BucketExists,
                format!("bucket {name} exists, and its settings are others"),
            )
            .with("settings", settings))
        }
    }
}

/// Change what may be changed: `r`, `w`, `ttl_s`, `max_siblings`, `sloppy`.
///
/// Changes of different settings at the same time all take effect, at whichever node; of one
/// setting, the later one stands.
#[utoipa::path(patch, path = "/v1/buckets/{bucket}", operation_id = "change_bucket", tag = "Buckets",
    params(super::openapi::BucketPath),
    request_body(content = BucketSettings, description = "Only the settings to be changed"),
    responses(
        (status = 200, description = "The bucket's settings now", body = BucketJson),
        (status = "default", response = super::openapi::ProblemResponse),
    ))]
pub(super) async fn patch(inner: Arc<Inner>, parts: Parts, mut body: Body) -> Answer {
    let mut table = inner.bucket(name_in(&parts))?;
    inner.permit(Principal::of(&parts), Permission::Alter, &table)?;
    let members = members(&inner, &parts, &mut body).await?;
    // Made anew from what stands when somebody else was faster.
    for _ in 0..MAX_OVERTAKEN {
        let wanted = apply(&table.settings, &members, None)?;
        let fixed = [
            ("replication_factor", wanted.replication != table.settings.replication),
            ("conflict", wanted.conflict != table.settings.conflict),
        ];
        if let Some((name, _)) = fixed.iter().find(|(_, changed)| *changed) {
            return Err(Problem::bad_parameter(name, "is fixed when the bucket is made"));
        }
        if wanted == table.settings {
            return json_answer(StatusCode::OK, &shown(&table));
        }
        match inner.backend.alter_table(table, wanted).await? {
            Alteration::Done(table) => return json_answer(StatusCode::OK, &shown(&table)),
            Alteration::Overtaken(now) => table = now,
        }
    }
    Err(Problem::new(
        Kind::Overloaded,
        "others keep changing this bucket's settings: nothing was changed; try again",
    ))
}

/// Delete a bucket and everything in it.
#[utoipa::path(delete, path = "/v1/buckets/{bucket}", operation_id = "delete_bucket", tag = "Buckets",
    params(super::openapi::BucketPath),
    responses(
        (status = 204, description = "Deleted: every live node knows"),
        (status = "default", response = super::openapi::ProblemResponse),
    ))]
pub(super) async fn delete(inner: Arc<Inner>, parts: Parts, _: Body) -> Answer {
    Params::parse(parts.uri.query(), &[])?;
    let table = inner.bucket(name_in(&parts))?;
    inner.permit(Principal::of(&parts), Permission::Drop, &table)?;
    inner.backend.drop_table(table).await?;
    let mut response = Response::new(DoorBody::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    Ok(response)
}

/// The last part of the path.
fn name_in(parts: &Parts) -> &str {
    parts.uri.path().strip_prefix("/v1/buckets/").unwrap_or_default()
}

async fn members(
    inner: &Inner,
    parts: &Parts,
    body: &mut Body,
) -> Result<Map<String, Value>, Problem> {
    Params::parse(parts.uri.query(), &[])?;
    let reading = Reading { env: &inner.env, limits: &inner.limits, budget: &inner.bodies };
    let read = reading.read(&parts.headers, body, MAX_BODY).await?;
    if read.bytes.iter().all(u8::is_ascii_whitespace) {
        return Ok(Map::new());
    }
    match serde_json::from_slice(&read.bytes) {
        Ok(Value::Object(members)) => Ok(members),
        Ok(_) => Err(Problem::bad("the body must be a JSON object of settings")),
        Err(error) => Err(Problem::bad(format!("the body is no valid JSON: {error}"))),
    }
}

/// `base` with `members` in place of its own. `nodes` bounds a new bucket's replicas.
fn apply(
    base: &TableSettings,
    members: &Map<String, Value>,
    nodes: Option<u32>,
) -> Result<TableSettings, Problem> {
    let mut out = base.clone();
    if let Some(value) = members.get("replication_factor") {
        let most = nodes.unwrap_or(u32::from(u8::MAX)).min(u32::from(u8::MAX));
        let factor = number(value, "replication_factor", 1, u64::from(most))
            .map_err(|problem| problem.with("nodes", most))?;
        out.replication = Replication::Simple { factor: u8::try_from(factor).unwrap_or(u8::MAX) };
    }
    for (name, value) in members {
        match name.as_str() {
            "replication_factor" => {}
            "conflict" => out.conflict = conflict(value)?,
            "r" => out.read_level = level(value, "r", out.replication.total())?,
            "w" => out.write_level = level(value, "w", out.replication.total())?,
            "ttl_s" => out.ttl_s = number(value, "ttl_s", 0, MAX_TTL_S)?,
            "max_siblings" => {
                let most = number(value, "max_siblings", 0, u64::from(MAX_SIBLINGS))?;
                out.max_siblings = u32::try_from(most).unwrap_or(MAX_SIBLINGS);
            }
            "grace_s" => out.grace_s = number(value, "grace_s", 0, MAX_TTL_S)?,
            "sloppy" => match value {
                Value::Bool(sloppy) => out.sloppy = *sloppy,
                _ => return Err(Problem::bad_parameter("sloppy", "must be true or false")),
            },
            other => return Err(unknown("setting", other, MEMBERS)),
        }
    }
    Ok(out)
}

fn number(value: &Value, name: &str, least: u64, most: u64) -> Result<u64, Problem> {
    value.as_u64().filter(|n| (least..=most).contains(n)).ok_or_else(|| {
        Problem::bad_parameter(
            name,
            format_args!("{value} is not a whole number from {least} to {most}"),
        )
    })
}

fn conflict(value: &Value) -> Result<ConflictMode, Problem> {
    match value.as_str() {
        Some("siblings") => Ok(ConflictMode::Siblings),
        Some("lww") => Ok(ConflictMode::Lww),
        Some("strong") => Ok(ConflictMode::Strong),
        _ => Err(Problem::bad_parameter(
            "conflict",
            format_args!("{value} is none of \"siblings\", \"lww\" and \"strong\""),
        )),
    }
}

fn level(value: &Value, side: &'static str, replicas: u32) -> Result<Consistency, Problem> {
    if value.is_number() {
        let count = number(value, side, 1, u64::from(replicas))?;
        return Ok(Consistency::Count(u8::try_from(count).unwrap_or(u8::MAX)));
    }
    let Some(text) = value.as_str() else {
        return Err(Problem::bad_parameter(side, "must be a level's name or a count"));
    };
    let level: Consistency = text.parse().map_err(|error| Problem::bad_parameter(side, error))?;
    let least = match level {
        Consistency::Two => 2,
        Consistency::Three => 3,
        _ => 1,
    };
    if least > replicas {
        return Err(Problem::bad_parameter(
            side,
            format_args!("{level} is more than the bucket's {replicas} replicas"),
        ));
    }
    match level {
        Consistency::Serial | Consistency::LocalSerial => Err(Problem::new(
            Kind::NotSupported,
            format!("level {level} comes with lightweight transactions"),
        )),
        Consistency::Any | Consistency::EachQuorum if side == "r" => {
            Err(Problem::bad_parameter("r", format_args!("{level} is a level for writes")))
        }
        level => Ok(level),
    }
}

/// `body` as JSON.
pub(super) fn json_answer(status: StatusCode, body: &impl Serialize) -> Answer {
    let bytes = serde_json::to_vec(body)
        .map_err(|_| Problem::new(Kind::Internal, "the answer could not be encoded"))?;
    let mut response = Response::new(DoorBody::full(bytes));
    *response.status_mut() = status;
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    Ok(response)
}
