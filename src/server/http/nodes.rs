//! About the node and its cluster.

use std::sync::Arc;

use axum::body::Body;
use axum::http::request::Parts;
use axum::http::{HeaderValue, Response, StatusCode, header};
use serde::Serialize;
use utoipa::ToSchema;

use crate::cql::roles::Permission;
use crate::server::Principal;
use crate::server::http::backend::{ClusterView, NotReady, RingView};
use crate::server::http::body::DoorBody;
use crate::server::http::buckets::json_answer;
use crate::server::http::door::Inner;
use crate::server::http::path::key_in_path;
use crate::server::http::problem::{Kind, Problem};
use crate::server::http::query::Params;
use crate::types::{Key, PartitionId};

type Answer = Result<Response<DoorBody>, Problem>;

/// Where a key lives.
#[derive(Debug, Serialize, ToSchema)]
pub struct WhereJson {
    /// The key's token.
    #[schema(example = -1_234_567_890)]
    pub token: i64,
    /// Its partition.
    #[schema(example = 17)]
    pub partition: u32,
    /// Ids of its replicas, in preference order.
    pub replicas: Vec<String>,
    /// By which epoch.
    pub epoch: u64,
}

/// A node's own digest of a partition.
#[derive(Debug, Serialize, ToSchema)]
pub struct DigestJson {
    /// The node's epoch.
    pub epoch: u64,
    /// Records that it holds, deletions included.
    pub records: u64,
    /// 32 hexadecimal digits; equal sets of records have equal roots.
    pub root: String,
}

/// A node's state in a word.
#[derive(Debug, Serialize, ToSchema)]
pub struct StatusJson {
    /// `alive` or `ready`.
    pub status: &'static str,
}

/// Where a key lives: its token, its partition and its replicas. Of a table of rows (CQL), named
/// `keyspace.table`, the key is the bytes of a partition key.
#[utoipa::path(get, path = "/v1/where/{bucket}/{key}", operation_id = "where_is", tag = "Nodes",
    params(super::openapi::KeyPath),
    responses(
        (status = 200, description = "Replicas in preference order", body = WhereJson),
        (status = "default", response = super::openapi::ProblemResponse),
    ))]
pub(super) async fn locate(inner: Arc<Inner>, parts: Parts, _: Body) -> Answer {
    Params::parse(parts.uri.query(), &[])?;
    let rest = parts.uri.path().strip_prefix("/v1/where/").unwrap_or_default();
    let (bucket, raw_key) = rest.split_once('/').unwrap_or((rest, ""));
    let rows = bucket.split_once('.').and_then(|(keyspace, table)| {
        inner.backend.any_table(keyspace, table).filter(|table| table.rows.is_some())
    });
    let key = key_in_path(raw_key, &inner.limits)?;
    let (table, key) = match rows {
        None => (inner.bucket(bucket)?, key),
        Some(table) => {
            let of_partition = Key::of_row(key.as_bytes(), &[]);
            (table, of_partition.map_err(|error| Problem::bad_parameter("key", error))?)
        }
    };
    let place = inner.backend.locate(&table, &key);
    let body = WhereJson {
        token: place.token.0,
        partition: place.partition.0,
        replicas: place.replicas.iter().map(ToString::to_string).collect(),
        epoch: place.epoch.0,
    };
    json_answer(StatusCode::OK, &body)
}

/// The ring: every partition with its last token and its owner.
#[utoipa::path(get, path = "/v1/ring", operation_id = "ring", tag = "Nodes",
    responses((status = 200, description = "As this node sees it", body = RingView),
        (status = "default", response = super::openapi::ProblemResponse)))]
pub(super) async fn ring(inner: Arc<Inner>, parts: Parts, _: Body) -> Answer {
    Params::parse(parts.uri.query(), &[])?;
    json_answer(StatusCode::OK, &inner.backend.ring())
}

/// The cluster: its members, and which of them this node believes up.
#[utoipa::path(get, path = "/v1/cluster", operation_id = "cluster", tag = "Nodes",
    responses((status = 200, description = "As this node sees it", body = ClusterView),
        (status = "default", response = super::openapi::ProblemResponse)))]
pub(super) async fn cluster(inner: Arc<Inner>, parts: Parts, _: Body) -> Answer {
    Params::parse(parts.uri.query(), &[])?;
    json_answer(StatusCode::OK, &inner.backend.cluster())
}

/// This node's own digest of a partition of a bucket, for comparing replicas from outside.
#[utoipa::path(get, path = "/v1/partitions/{partition}/digest", operation_id = "partition_digest", tag = "Nodes",
    params(("partition" = u32, Path, description = "Number of the partition"),
           ("bucket" = String, Query, description = "The bucket")),
    responses(
        (status = 200, description = "The digest", body = DigestJson),
        (status = 421, description = "This node holds none of it (`not-a-replica`)", content_type = "application/problem+json", body = super::openapi::ProblemBody),
        (status = "default", response = super::openapi::ProblemResponse),
    ))]
pub(super) async fn digest(inner: Arc<Inner>, parts: Parts, _: Body) -> Answer {
    let params = Params::parse(parts.uri.query(), &["bucket"])?;
    let bucket = params
        .text("bucket")?
        .ok_or_else(|| Problem::bad_parameter("bucket", "say of which bucket: ?bucket=…"))?;
    let table = inner.bucket(bucket)?;
    inner.permit(Principal::of(&parts), Permission::Select, &table)?;
    let text = parts
        .uri
        .path()
        .strip_prefix("/v1/partitions/")
        .and_then(|rest| rest.strip_suffix("/digest"))
        .unwrap_or_default();
    let count = inner.backend.ring().partitions.len();
    let partition =
        text.parse().ok().filter(|&number: &u32| (number as usize) < count).ok_or_else(|| {
            Problem::bad_parameter(
                "partition",
                format_args!("partitions are numbered from 0 to {}", count.saturating_sub(1)),
            )
        })?;
    let digest = inner.backend.partition_digest(table, PartitionId(partition)).await?;
    let body = DigestJson {
        epoch: digest.epoch.0,
        records: digest.records,
        root: format!("{:032x}", digest.root),
    };
    json_answer(StatusCode::OK, &body)
}

/// The process lives.
#[utoipa::path(get, path = "/healthz", operation_id = "alive", tag = "Nodes",
    responses((status = 200, description = "It does", body = StatusJson)))]
pub(super) async fn healthz(_: Arc<Inner>, _: Parts, _: Body) -> Answer {
    json_answer(StatusCode::OK, &StatusJson { status: "alive" })
}

/// This node can serve a quorum read now.
#[utoipa::path(get, path = "/readyz", operation_id = "ready", tag = "Nodes",
    responses((status = 200, description = "It can", body = StatusJson),
        (status = 503, description = "It cannot; the detail says why", content_type = "application/problem+json", body = super::openapi::ProblemBody)))]
pub(super) async fn readyz(inner: Arc<Inner>, _: Parts, _: Body) -> Answer {
    if inner.is_draining() {
        return Err(Problem::new(Kind::ShuttingDown, "this node is shutting down"));
    }
    match inner.backend.ready() {
        Ok(()) => json_answer(StatusCode::OK, &StatusJson { status: "ready" }),
        Err(NotReady(why)) => Err(Problem::new(Kind::Unavailable, why)),
    }
}

/// Numbers for Prometheus.
#[utoipa::path(get, path = "/metrics", operation_id = "metrics", tag = "Nodes",
    responses((status = 200, description = "Prometheus text format", body = String, content_type = "text/plain")))]
pub(super) async fn metrics(inner: Arc<Inner>, _: Parts, _: Body) -> Answer {
    let mut response = Response::new(DoorBody::full(inner.registry.render()));
    let text = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, text);
    Ok(response)
}
