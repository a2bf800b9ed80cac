//! Header names and constant values, made once.

use axum::http::HeaderName;

use crate::server::http::problem::Problem;
use crate::server::http::query::unknown;

/// What the client has seen of a key, in and out.
pub static CONTEXT: HeaderName = HeaderName::from_static("henge-context");
/// Live values after a write.
pub static SIBLINGS: HeaderName = HeaderName::from_static("henge-siblings");
/// The one version of an answer.
pub static DOT: HeaderName = HeaderName::from_static("henge-dot");
/// Asks for a receipt, and carries it.
pub static RECEIPT: HeaderName = HeaderName::from_static("henge-receipt");
/// The operation had run before.
pub static REPLAYED: HeaderName = HeaderName::from_static("henge-replayed");
/// Names the client, for its memory of operations.
pub static CLIENT: HeaderName = HeaderName::from_static("henge-client");
/// The operation's id.
pub static IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// A fencing token.
pub static IF_FENCE: HeaderName = HeaderName::from_static("if-fence");
/// Begins the names of a value's own metadata.
pub const META_PREFIX: &str = "henge-meta-";

/// NDJSON.
pub const NDJSON: &str = "application/x-ndjson";

/// All headers of ours, those of answers included: a client may send them back.
const OURS: &[&str] = &[
    "henge-context",
    "henge-siblings",
    "henge-dot",
    "henge-receipt",
    "henge-replayed",
    "henge-client",
];

/// Refuses a header that begins like ours and is none: a misspelt `Henge-Context` that is ignored
/// would turn an update into a sibling.
///
/// # Errors
/// `400` with the nearest known name.
pub fn check(name: &HeaderName) -> Result<(), Problem> {
    let name = name.as_str();
    if !name.starts_with("henge-") || name.starts_with(META_PREFIX) || OURS.contains(&name) {
        return Ok(());
    }
    Err(unknown("header", name, OURS))
}
