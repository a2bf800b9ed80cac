//! How versions of a value look outside: in JSON, and as the parts of a `multipart/mixed` body.

use std::borrow::Cow;
use std::collections::BTreeMap;

use axum::http::{HeaderMap, header};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::Serialize;
use utoipa::ToSchema;

use crate::record::{Version, version_etag};
use crate::types::{Digest, Dot};

/// Bytes as JSON can hold them: as text where they are valid UTF-8, else in base64.
#[must_use]
pub fn textual(bytes: &[u8]) -> (Cow<'_, str>, &'static str) {
    match std::str::from_utf8(bytes) {
        Ok(text) => (Cow::Borrowed(text), "utf8"),
        Err(_) => (Cow::Owned(STANDARD.encode(bytes)), "base64"),
    }
}

/// A version's name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct DotJson {
    /// Who minted it, as 16 hexadecimal digits.
    #[schema(example = "9f86d081884c7d65")]
    pub actor: String,
    /// The actor's own count.
    #[schema(example = 7)]
    pub counter: u64,
}

impl From<Dot> for DotJson {
    fn from(dot: Dot) -> Self {
        Self { actor: dot.actor.to_string(), counter: dot.counter }
    }
}

/// One version of a value.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct VersionJson<'a> {
    /// The bytes: as text, or in base64.
    #[schema(value_type = String)]
    pub value: Cow<'a, str>,
    /// `utf8` or `base64`.
    #[schema(example = "utf8")]
    pub encoding: &'static str,
    /// As the writer sent it; null: not sent.
    pub content_type: Option<&'a str>,
    /// This version's entity tag, quotes included.
    #[schema(example = "\"0f343b0931126a20f133d67c2b018a3b\"")]
    pub etag: String,
    /// This version's name.
    pub dot: DotJson,
    /// The writer's own metadata.
    #[schema(value_type = BTreeMap<String, String>)]
    pub meta: BTreeMap<&'a str, &'a str>,
}

impl<'a> From<&'a Version> for VersionJson<'a> {
    fn from(version: &'a Version) -> Self {
        let (value, encoding) = textual(&version.value.body);
        Self {
            value,
            encoding,
            content_type: version.value.content_type.as_deref(),
            etag: version_etag(version.dot),
            dot: version.dot.into(),
            meta: version.value.meta.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect(),
        }
    }
}

/// The body of `300 Multiple Choices`.
#[derive(Debug, Serialize, ToSchema)]
pub struct SiblingsJson<'a> {
    /// Covers all of the siblings: write the merged value back with it.
    pub context: &'a str,
    /// The concurrent values.
    pub siblings: Vec<VersionJson<'a>>,
}

/// The form of an answer with several values.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Form {
    /// One JSON object.
    Json,
    /// One part per value.
    Multipart,
}

/// How much a client wants `full` (`type/subtype`), and whether it named it in full: the most
/// specific range decides (RFC 9110, 12.5.1).
fn quality(accept: &str, full: &str) -> (f32, bool) {
    let kind = full.split('/').next().unwrap_or_default();
    let mut best = (0, 0.0f32);
    for range in accept.split(',') {
        let mut parts = range.split(';').map(str::trim);
        let name = parts.next().unwrap_or_default();
        let rank = if name.eq_ignore_ascii_case(full) {
            3
        } else if name.strip_suffix("/*").is_some_and(|k| k.eq_ignore_ascii_case(kind)) {
            2
        } else if name == "*/*" {
            1
        } else {
            continue;
        };
        let q = parts
            .find_map(|part| part.strip_prefix("q=").or_else(|| part.strip_prefix("Q=")))
            .and_then(|q| q.parse().ok())
            .unwrap_or(1.0);
        if rank > best.0 {
            best = (rank, q);
        }
    }
    (best.1, best.0 == 3)
}

/// True when `Accept` asks for `wanted` rather than for `usual`: it names it in full, and ranks it
/// no lower.
#[must_use]
pub fn prefers(headers: &HeaderMap, wanted: &str, usual: &str) -> bool {
    headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok()).any(|accept| {
        let (q, named) = quality(accept, wanted);
        let (usual_q, usual_named) = quality(accept, usual);
        named && q > 0.0 && (q > usual_q || (q >= usual_q && !usual_named))
    })
}

/// The form of siblings that `Accept` asks for.
#[must_use]
pub fn form(headers: &HeaderMap) -> Form {
    if prefers(headers, "multipart/mixed", "application/json") {
        Form::Multipart
    } else {
        Form::Json
    }
}

/// A `multipart/mixed` body: its boundary, and the pieces to be sent one after the other. No
/// value is copied.
#[must_use]
pub fn multipart(versions: &[&Version]) -> (String, Vec<Bytes>) {
    let boundary = boundary(versions);
    let mut pieces = Vec::with_capacity(2 * versions.len() + 1);
    for (at, version) in versions.iter().enumerate() {
        let break_before = if at == 0 { "" } else { "\r\n" };
        let mut head = format!("{break_before}--{boundary}\r\n");
        let mut put = |name: &str, value: &str| {
            // What a header line cannot hold was never accepted as metadata; should it turn up
            // all the same, it must not end the line.
            if !value.contains(['\r', '\n']) {
                head.push_str(&format!("{name}: {value}\r\n"));
            }
        };
        if let Some(content_type) = &version.value.content_type {
            put("Content-Type", content_type);
        }
        put("Content-Length", &version.value.body.len().to_string());
        put("ETag", &version_etag(version.dot));
        put("Henge-Dot", &version.dot.to_string());
        for (name, value) in &version.value.meta {
            put(&format!("Henge-Meta-{name}"), value);
        }
        head.push_str("\r\n");
        pieces.push(Bytes::from(head));
        pieces.push(version.value.body.clone());
    }
    pieces.push(Bytes::from(format!("\r\n--{boundary}--\r\n")));
    (boundary, pieces)
}

/// A line that occurs in no value.
fn boundary(versions: &[&Version]) -> String {
    let seed: Vec<u8> =
        versions.iter().flat_map(|version| version.dot.to_string().into_bytes()).collect();
    let mut digest = Digest::of(&seed);
    loop {
        let candidate = format!("henge-{digest}");
        let taken = versions.iter().any(|version| {
            let body = &version.value.body;
            body.windows(candidate.len()).any(|window| window == candidate.as_bytes())
        });
        if !taken {
            return candidate;
        }
        digest = Digest::of(candidate.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accept(text: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT, text.parse().unwrap());
        headers
    }

    #[test]
    fn json_unless_multipart_is_asked_for() {
        for json in [
            "",
            "*/*",
            "application/json",
            "text/plain",
            "multipart/mixed;q=0",
            "multipart/mixed;q=0.5, application/json",
            "multipart/mixed, application/json",
            "multipart/mixed; q=0.3, */*",
        ] {
            assert_eq!(form(&accept(json)), Form::Json, "{json}");
        }
        for multipart in [
            "multipart/mixed",
            "Multipart/Mixed, */*;q=0.1",
            "multipart/mixed, */*",
            "application/json;q=0.5, multipart/mixed",
        ] {
            assert_eq!(form(&accept(multipart)), Form::Multipart, "{multipart}");
        }
    }

    #[test]
    fn bytes_that_are_no_text_are_base64() {
        assert_eq!(textual(b"abc"), (Cow::Borrowed("abc"), "utf8"));
        assert_eq!(textual(b"\xFF\x00").1, "base64");
    }
}
