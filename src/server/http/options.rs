//! What a request asks for beside its value: level, time, receipt, operation id, context.

use std::time::Duration;

use axum::http::{HeaderMap, HeaderName, HeaderValue, header};

use crate::causality::{Context, ContextCodec};
use crate::meta::{ConflictMode, Table};
use crate::server::http::limits::HttpLimits;
use crate::server::http::names;
use crate::server::http::problem::{Kind, Problem};
use crate::server::http::query::Params;
use crate::types::{Consistency, Key, OpId};

/// Longest TTL, in seconds: twenty years, as Cassandra has it.
pub const MAX_TTL_S: u64 = 20 * 365 * 24 * 3600;

/// Which of a table's two levels is meant.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Side {
    /// How many must answer a read.
    Read,
    /// How many must hold a write.
    Write,
}

/// The consistency level of a request: `level=`, or `r=` / `w=`, or the table's own.
///
/// Both counts may be given to either kind of request, so that a client can send one pair with
/// all of them; the one that does not apply is checked and then not used.
///
/// # Errors
/// `400` for both kinds together, an unknown name, a count of 0 or above the number of replicas.
pub fn level(params: &Params<'_>, table: &Table, side: Side) -> Result<Consistency, Problem> {
    let name = params.text("level")?;
    let r = count(params, "r", table)?;
    let w = count(params, "w", table)?;
    let level = match (name, r, w) {
        (Some(_), Some(_), _) | (Some(_), _, Some(_)) => {
            return Err(Problem::bad_parameter("level", "give either level, or r and w"));
        }
        (Some(name), None, None) => {
            name.parse().map_err(|error| Problem::bad_parameter("level", error))?
        }
        (None, r, w) => match side {
            Side::Read if table.settings.conflict == ConflictMode::Strong => {
                r.unwrap_or(Consistency::Serial)
            }
            Side::Read => r.unwrap_or(table.settings.read_level),
            Side::Write => w.unwrap_or(table.settings.write_level),
        },
    };
    Ok(level)
}

fn count(
    params: &Params<'_>,
    name: &'static str,
    table: &Table,
) -> Result<Option<Consistency>, Problem> {
    let Some(count) = params.number::<u64>(name)? else { return Ok(None) };
    let n = table.settings.replication.total();
    match u8::try_from(count) {
        Ok(0) => Err(Problem::bad_parameter(name, "at least one replica must be asked")),
        Ok(small) if count <= u64::from(n) => Ok(Some(Consistency::Count(small))),
        _ => Err(Problem::bad_parameter(
            name,
            format_args!("{count} replicas are asked for and the bucket keeps {n}"),
        )
        .with("replication_factor", n)),
    }
}

/// The operation's time limit.
///
/// # Errors
/// `400` for another form than `500ms` or `2s`, for zero, and beyond the node's bound.
pub fn timeout(params: &Params<'_>, limits: &HttpLimits) -> Result<Duration, Problem> {
    let Some(text) = params.text("timeout")? else {
        return Ok(Duration::from_millis(limits.default_timeout_ms));
    };
    let millis = match (text.strip_suffix("ms"), text.strip_suffix('s')) {
        (Some(ms), _) => ms.parse::<u64>().ok(),
        (None, Some(s)) => s.parse::<u64>().ok().and_then(|s| s.checked_mul(1000)),
        (None, None) => None,
    };
    match millis {
        Some(ms) if (1..=limits.max_timeout_ms).contains(&ms) => Ok(Duration::from_millis(ms)),
        Some(_) => Err(Problem::bad_parameter(
            "timeout",
            format_args!("must be between 1ms and {}ms", limits.max_timeout_ms),
        )),
        None => Err(Problem::bad_parameter(
            "timeout",
            format_args!("{text:?} is no time: write 500ms or 2s"),
        )),
    }
}

/// The value's time to live; `None` means the bucket's.
///
/// # Errors
/// `400` for zero and for more than [`MAX_TTL_S`].
pub fn ttl(seconds: Option<u64>) -> Result<Option<Duration>, Problem> {
    match seconds {
        None => Ok(None),
        Some(s) if (1..=MAX_TTL_S).contains(&s) => Ok(Some(Duration::from_secs(s))),
        Some(_) => Err(Problem::bad_parameter(
            "ttl",
            format_args!(
                "must be 1 to {MAX_TTL_S} seconds; without it the bucket's own setting holds"
            ),
        )),
    }
}

/// A header's text, if the header is there.
///
/// # Errors
/// `400` when it is given twice or is not printable ASCII.
pub fn header_text<'a>(
    headers: &'a HeaderMap,
    name: &HeaderName,
) -> Result<Option<&'a str>, Problem> {
    let mut all = headers.get_all(name).iter();
    let Some(value) = all.next() else { return Ok(None) };
    if all.next().is_some() {
        return Err(Problem::bad_parameter(name.as_str(), "given more than once"));
    }
    value.to_str().map(Some).map_err(|_| {
        Problem::bad_parameter(name.as_str(), "holds characters that a header may not have")
    })
}

/// Whether a receipt is wanted.
///
/// # Errors
/// `400` when the header says neither yes nor no.
pub fn wants_receipt(headers: &HeaderMap) -> Result<bool, Problem> {
    match header_text(headers, &names::RECEIPT)? {
        None => Ok(false),
        Some(text) if text.eq_ignore_ascii_case("true") => Ok(true),
        Some(text) if text.eq_ignore_ascii_case("false") => Ok(false),
        Some(text) => Err(Problem::bad_parameter(
            "Henge-Receipt",
            format_args!("{text:?} is not true or false"),
        )),
    }
}

/// The context that the client sent.
///
/// # Errors
/// `400 bad-context` when it is none, or not one for this key.
pub fn context(
    headers: &HeaderMap,
    codec: &ContextCodec,
    table: &Table,
    key: &Key,
) -> Result<Option<Context>, Problem> {
    header_text(headers, &names::CONTEXT)?
        .map(|token| open_context(codec, table, key, token))
        .transpose()
}

/// Opens a context's token.
///
/// # Errors
/// `400 bad-context`.
pub fn open_context(
    codec: &ContextCodec,
    table: &Table,
    key: &Key,
    token: &str,
) -> Result<Context, Problem> {
    codec
        .open(table.id, key, token)
        .map_err(|error| Problem::new(Kind::BadContext, error.to_string()))
}

/// The operation's id.
///
/// # Errors
/// `400` when it is not a UUIDv7.
pub fn operation_id(headers: &HeaderMap) -> Result<Option<OpId>, Problem> {
    if let Some(client) = header_text(headers, &names::CLIENT)?
        && uuid::Uuid::parse_str(client).is_err()
    {
        return Err(Problem::bad_parameter("Henge-Client", "is no UUID"));
    }
    header_text(headers, &names::IDEMPOTENCY_KEY)?
        .map(|text| parse_operation_id("Idempotency-Key", text))
        .transpose()
}

/// Reads an operation's id, bare or (as the header's draft standard has it) in quotes.
///
/// # Errors
/// `400` when it is not a UUIDv7.
pub fn parse_operation_id(what: &str, text: &str) -> Result<OpId, Problem> {
    let bare = text.strip_prefix('"').and_then(|t| t.strip_suffix('"')).unwrap_or(text);
    bare.parse().map_err(|_| {
        Problem::bad_parameter(
            what,
            "must be a UUIDv7: operation ids are ordered over all 128 bits, and this order is \
             what lets a key remember its newest ones in bounded memory",
        )
    })
}

/// Refuses headers that would change what the body's bytes mean, and that would not be kept.
///
/// # Errors
/// `400`.
pub fn plain_body(headers: &HeaderMap) -> Result<(), Problem> {
    if headers.contains_key(header::CONTENT_RANGE) {
        return Err(Problem::bad_parameter("Content-Range", "a value is written whole"));
    }
    let encoded = headers
        .get(header::CONTENT_ENCODING)
        .is_some_and(|value| !value.as_bytes().eq_ignore_ascii_case(b"identity"));
    if encoded {
        return Err(Problem::bad_parameter(
            "Content-Encoding",
            "the encoding is not kept with the value: send the bytes as they are to be read, or \
             say so in Content-Type",
        ));
    }
    Ok(())
}

/// The value's own metadata: `Henge-Meta-*`, in the order that they came in, a repeated one
/// joined by commas as HTTP does.
///
/// # Errors
/// `400` for values that are no text, `431` for too much.
pub fn meta(headers: &HeaderMap, limits: &HttpLimits) -> Result<Vec<(String, String)>, Problem> {
    let mut found: Vec<(String, String)> = Vec::new();
    let mut bytes = 0;
    for (name, value) in headers {
        let Some(name) = name.as_str().strip_prefix(names::META_PREFIX) else { continue };
        if name.is_empty() {
            return Err(Problem::bad_parameter("Henge-Meta-", "a name must follow"));
        }
        let value = std::str::from_utf8(value.as_bytes()).map_err(|_| {
            Problem::bad_parameter(&format!("Henge-Meta-{name}"), "is not valid UTF-8")
        })?;
        bytes += name.len() + value.len();
        match found.iter_mut().find(|(other, _)| other == name) {
            Some((_, all)) => {
                all.push_str(", ");
                all.push_str(value);
            }
            None => found.push((name.to_owned(), value.to_owned())),
        }
    }
    meta_fits(bytes, limits)?;
    Ok(found)
}

/// Refuses too much metadata.
///
/// # Errors
/// `431`.
pub fn meta_fits(bytes: usize, limits: &HttpLimits) -> Result<(), Problem> {
    if bytes <= limits.max_meta_bytes {
        return Ok(());
    }
    Err(Problem::new(
        Kind::HeadersTooLarge,
        format!(
            "Henge-Meta-* headers have {bytes} bytes and at most {} are kept with a value",
            limits.max_meta_bytes
        ),
    ))
}

/// The `Content-Type` as sent.
///
/// # Errors
/// `400` when it is no text.
pub fn content_type(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    header_text(headers, &header::CONTENT_TYPE).map(|text| text.map(str::to_owned))
}

/// True when a list of entity tags (`If-None-Match`, `If-Match`) names `etag`, or anything.
#[must_use]
pub fn names_etag(headers: &HeaderMap, name: &HeaderName, etag: &str) -> bool {
    headers.get_all(name).iter().filter_map(|value| value.to_str().ok()).any(|list| {
        list.split(',').map(str::trim).any(|tag| {
            // Weak comparison: If-None-Match asks no more (RFC 9110, 13.1.2).
            tag == "*" || tag.strip_prefix("W/").unwrap_or(tag) == etag
        })
    })
}

/// A header value of text that this node made: printable by construction.
#[must_use]
pub fn value_of(text: String) -> HeaderValue {
    HeaderValue::from_maybe_shared(bytes::Bytes::from(text))
        .unwrap_or_else(|_| HeaderValue::from_static("?"))
}
