//! The OpenAPI 3.1 document, generated from the handlers and their types.
#![allow(dead_code, reason = "the types here describe what others read by hand")]

use bytes::Bytes;
use utoipa::openapi::OpenApi as Document;
use utoipa::{IntoParams, OpenApi, ToResponse, ToSchema};

use crate::server::http::{
    backend, batch, buckets, conditions, cql, elections, kv, listing, locks, nodes, pages, versions,
};

/// Names a bucket.
#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
pub(super) struct BucketPath {
    /// The bucket, `[a-z][a-z0-9_]{0,47}`; `keyspace.table` names any table.
    #[param(example = "flights")]
    bucket: String,
}

/// Names a key.
#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
pub(super) struct KeyPath {
    /// The bucket, `[a-z][a-z0-9_]{0,47}`; `keyspace.table` names any table.
    #[param(example = "flights")]
    bucket: String,
    /// The key: any bytes, percent-encoded, 1 to 1,024 of them.
    #[param(example = "EWR-UA-1545")]
    key: String,
}

/// How an operation is to be carried out.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct LevelParams {
    /// How many replicas must answer: `one`, `two`, `three`, `quorum`, `all`, `local_one`,
    /// `local_quorum`, `each_quorum` (writes), `any` (writes), `serial` (reads).
    /// Default: the bucket's own. Not together with `r` or `w`.
    level: Option<String>,
    /// How many replicas must answer a read, as a number.
    r: Option<u32>,
    /// How many replicas must hold a write, as a number.
    w: Option<u32>,
    /// The operation's time limit: `500ms`, `2s`.
    timeout: Option<String>,
}

/// For reads.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct LocalParam {
    /// Read this node's own copy and ask nobody else; `421` when it has none. For diagnosis.
    local: Option<bool>,
}

/// For writes of values.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct TtlParam {
    /// Seconds until the value ends to exist. Default: the bucket's `ttl_s`.
    ttl: Option<u64>,
}

/// For listings.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct ListParams {
    /// Only keys that begin with these bytes.
    prefix: Option<String>,
    /// The `next` of an earlier page: go on after it.
    start: Option<String>,
    /// Most keys to give (a page: default 100, at most 1,000; a stream: default all).
    limit: Option<u64>,
    /// Only keys with several concurrent values.
    conflicts: Option<bool>,
    /// How many replicas of each partition must answer, by name.
    level: Option<String>,
    /// How many replicas of each partition must answer, as a number.
    r: Option<u32>,
    /// Taken and not used, so that one set of parameters fits all requests.
    w: Option<u32>,
    /// Time limit of each page: `500ms`, `2s`.
    timeout: Option<String>,
}

/// For batches.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct BatchParams {
    /// The level of all items.
    level: Option<String>,
    /// How many replicas must answer each read, as a number.
    r: Option<u32>,
    /// How many replicas must hold each write, as a number.
    w: Option<u32>,
    /// Time limit of each item: `500ms`, `2s`.
    timeout: Option<String>,
}

/// Headers of a request for a value.
#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
pub(super) struct ReadHeaders {
    /// Entity tags that the client has: `304` when the present one is among them.
    #[param(rename = "If-None-Match")]
    if_none_match: Option<String>,
    /// Several values come as `application/json`, or as `multipart/mixed` if that is asked for.
    #[param(rename = "Accept")]
    accept: Option<String>,
    /// `true` asks for the receipt: who was asked, what each answered, which rule was met.
    #[param(rename = "Henge-Receipt")]
    henge_receipt: Option<bool>,
}

/// Headers of a write.
#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
pub(super) struct WriteHeaders {
    /// What the writer has seen of this key: the write supersedes exactly that.
    #[param(rename = "Henge-Context")]
    henge_context: Option<String>,
    /// `*`: only if there is no value. Entity tags: only if what stands there has none of them.
    #[param(rename = "If-None-Match")]
    if_none_match: Option<String>,
    /// Entity tags: only if what stands there has one of them. `*`: only if there is a value.
    #[param(rename = "If-Match")]
    if_match: Option<String>,
    /// The fence of a lock that the writer holds: refused if the key has seen a higher one.
    #[param(rename = "If-Fence")]
    if_fence: Option<u64>,
    /// The operation's id, a UUIDv7. Sent again, it never makes a second write.
    #[param(rename = "Idempotency-Key")]
    idempotency_key: Option<String>,
    /// `true` asks for the receipt.
    #[param(rename = "Henge-Receipt")]
    henge_receipt: Option<bool>,
}

/// An error (RFC 9457).
#[derive(ToSchema)]
#[schema(as = Problem)]
pub(super) struct ProblemBody {
    /// Address of the page that explains it, `/problems/{name}`.
    #[schema(example = "/problems/unavailable")]
    r#type: String,
    /// The kind in a line.
    title: String,
    /// The HTTP status.
    #[schema(example = 503)]
    status: u16,
    /// This case of it.
    detail: String,
    /// Of a write: `not_applied`, or `unknown` when it may have taken effect.
    outcome: Option<String>,
    /// The consistency level asked for.
    level: Option<String>,
    /// Replicas needed.
    required: Option<u32>,
    /// Replicas that answered.
    received: Option<u32>,
    /// Replicas alive.
    alive: Option<u32>,
}

/// An error. Every one to a write says in `outcome` what became of it.
#[derive(ToResponse)]
#[response(description = "A problem document", content_type = "application/problem+json")]
pub(super) struct ProblemResponse(#[allow(unused)] ProblemBody);

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Henge",
        description = "A leaderless, replicated key-value database.\n\nAny node serves any key. A read returns an opaque `Henge-Context`; send it back with the next write of that key, and the write supersedes exactly what was read. Values written concurrently are all kept and come as `300 Multiple Choices` until a reader has merged them.\n\nErrors are problem documents (RFC 9457); every one to a write says in `outcome` whether the write did not take effect, or may have.",
        license(name = "Apache-2.0", identifier = "Apache-2.0"),
    ),
    tags(
        (name = "Keys and values", description = "Reading, writing, listing"),
        (name = "Buckets", description = "Making, showing, changing, dropping"),
        (name = "CQL", description = "Statements"),
        (name = "Locks", description = "Locks, leases and elections; their fences"),
        (name = "Nodes", description = "The node, its cluster, its ring"),
        (name = "Documents", description = "This document, a readable page, the kinds of problem"),
    ),
    paths(
        kv::get, kv::put, kv::delete, kv::post, listing::list, batch::batch,
        buckets::list, buckets::get, buckets::put, buckets::patch, buckets::delete,
        conditions::operation, cql::run,
        locks::show, locks::acquire, locks::renew, locks::release,
        elections::show, elections::stand, elections::resign,
        nodes::locate, nodes::ring, nodes::cluster, nodes::digest,
        nodes::healthz, nodes::readyz, nodes::metrics,
        pages::problems, pages::problem, pages::openapi, pages::docs, pages::root,
    ),
    components(
        schemas(
            ProblemBody, versions::SiblingsJson<'static>, versions::VersionJson<'static>, versions::DotJson,
            listing::PageJson, listing::ListedKeyJson, batch::BatchItemDoc, batch::BatchAnswerDoc,
            buckets::BucketJson, buckets::BucketsJson, buckets::BucketSettings,
            conditions::OpJson,
            cql::StatementJson, cql::RowsJson, cql::ColumnJson,
            locks::AcquireJson, locks::RenewJson, locks::LockJson,
            elections::StandJson, elections::StoodJson, elections::LeaderJson,
            nodes::WhereJson, nodes::DigestJson, nodes::StatusJson,
            backend::ClusterView, backend::HintsView, backend::RepairView, backend::ApartView, backend::BlockedView, backend::LoadView,
            backend::RingView, backend::PartitionView, backend::NodeView,
        ),
        responses(ProblemResponse),
    ),
)]
struct Api;

/// The document.
#[must_use]
pub fn document() -> Document {
    Api::openapi()
}

/// The document as JSON.
#[must_use]
pub fn json() -> Bytes {
    document().to_pretty_json().map(Bytes::from).unwrap_or_default()
}
