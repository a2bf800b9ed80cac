//! Every route of the door, by the name that the documents use. The dispatcher, the numbers and
//! the OpenAPI document are held against this list by tests.

/// (method, template). `HEAD` goes where `GET` does.
pub static ROUTES: &[(&str, &str)] = &[
    ("GET", "/v1/kv/{bucket}/{key}"),
    ("PUT", "/v1/kv/{bucket}/{key}"),
    ("DELETE", "/v1/kv/{bucket}/{key}"),
    ("GET", "/v1/kv/{bucket}"),
    ("POST", "/v1/kv/{bucket}"),
    ("POST", "/v1/kv/{bucket}/batch"),
    ("GET", "/v1/buckets"),
    ("GET", "/v1/buckets/{bucket}"),
    ("PUT", "/v1/buckets/{bucket}"),
    ("PATCH", "/v1/buckets/{bucket}"),
    ("DELETE", "/v1/buckets/{bucket}"),
    ("GET", "/v1/ops/{bucket}/{key}/{id}"),
    ("POST", "/v1/cql"),
    ("GET", "/v1/locks/{name}"),
    ("POST", "/v1/locks/{name}"),
    ("PUT", "/v1/locks/{name}"),
    ("DELETE", "/v1/locks/{name}"),
    ("GET", "/v1/elections/{name}"),
    ("POST", "/v1/elections/{name}"),
    ("DELETE", "/v1/elections/{name}"),
    ("GET", "/v1/where/{bucket}/{key}"),
    ("GET", "/v1/ring"),
    ("GET", "/v1/cluster"),
    ("GET", "/v1/partitions/{partition}/digest"),
    ("GET", "/healthz"),
    ("GET", "/readyz"),
    ("GET", "/metrics"),
    ("GET", "/problems"),
    ("GET", "/problems/{name}"),
    ("GET", "/openapi.json"),
    ("GET", "/docs"),
    ("GET", "/"),
];

/// The methods that a routed path takes, for an `Allow` header.
pub(super) fn allowed(path: &str) -> &'static str {
    let below = |prefix| path.strip_prefix(prefix).is_some_and(|rest: &str| !rest.contains('/'));
    match path {
        _ if below("/v1/buckets/") => "GET, HEAD, PUT, PATCH, DELETE",
        "/v1/cql" => "POST",
        _ if below("/v1/locks/") => "GET, HEAD, POST, PUT, DELETE",
        _ if below("/v1/elections/") => "GET, HEAD, POST, DELETE",
        _ => "GET, HEAD",
    }
}
