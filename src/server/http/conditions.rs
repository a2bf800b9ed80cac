//! Conditions on writes: `If-Match` and `If-None-Match`, and what a client is shown when one does
//! not hold.

use std::sync::Arc;

use axum::body::Body;
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, Response, StatusCode, header};
use serde::Serialize;
use serde_json::{Value, json};
use utoipa::ToSchema;

use crate::coordinator::{Condition, Told};
use crate::cql::roles::Permission;
use crate::record::{Record, version_etag};
use crate::server::Principal;
use crate::server::http::body::DoorBody;
use crate::server::http::buckets::json_answer;
use crate::server::http::door::Inner;
use crate::server::http::names;
use crate::server::http::options::{self, header_text, parse_operation_id};
use crate::server::http::path::key_in_path;
use crate::server::http::problem::Problem;
use crate::server::http::query::Params;
use crate::server::http::versions::textual;
use crate::types::WallMicros;

type Answer = Result<Response<DoorBody>, Problem>;

/// The most entity tags in one condition.
const MAX_TAGS: usize = 64;

/// The condition of a write.
///
/// # Errors
/// `400` for two conditions at once, tags that are none, weak tags (a write compares strongly: RFC
/// 9110, 13.1.1), and dates.
pub fn condition(headers: &HeaderMap) -> Result<Condition, Problem> {
    for name in [&header::IF_MODIFIED_SINCE, &header::IF_UNMODIFIED_SINCE] {
        if headers.contains_key(name) {
            return Err(Problem::bad_parameter(
                name.as_str(),
                "values have no modification time to compare; their ETag is what names them",
            ));
        }
    }
    let matches = tags(headers, &header::IF_MATCH)?;
    let differs = tags(headers, &header::IF_NONE_MATCH)?;
    match (matches, differs) {
        (Some(_), Some(_)) => Err(Problem::bad_parameter(
            "if-match",
            "give either If-Match or If-None-Match, not both",
        )),
        (None, None) => Ok(Condition::None),
        (Some(Tags::Any), None) => Ok(Condition::Exists),
        (Some(Tags::These(tags)), None) => Ok(Condition::Matches(tags)),
        (None, Some(Tags::Any)) => Ok(Condition::Absent),
        (None, Some(Tags::These(tags))) => Ok(Condition::Differs(tags)),
    }
}

/// The greatest fence: numbers up to it are exact in JSON, wherever it is read.
pub const MAX_FENCE: u64 = (1 << 53) - 1;

/// The fence of a write.
///
/// # Errors
/// `400` for what is no number of 1 to [`MAX_FENCE`].
pub fn fence(headers: &HeaderMap) -> Result<Option<u64>, Problem> {
    let Some(text) = header_text(headers, &names::IF_FENCE)? else { return Ok(None) };
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    let fence = text.parse().ok().filter(|_| digits).ok_or_else(|| {
        Problem::bad_parameter("If-Fence", format_args!("{text:?} is no number of a fence"))
    })?;
    checked_fence("If-Fence", fence).map(Some)
}

/// `fence`, if it can be one.
///
/// # Errors
/// `400`.
pub fn checked_fence(name: &str, fence: u64) -> Result<u64, Problem> {
    if (1..=MAX_FENCE).contains(&fence) {
        return Ok(fence);
    }
    Err(Problem::bad_parameter(name, format_args!("must be 1 to {MAX_FENCE}")))
}

/// The condition that the texts of an `If-Match` and of an `If-None-Match` make, where they are no
/// headers.
///
/// # Errors
/// As [`condition`].
pub fn condition_of(
    if_match: Option<&str>,
    if_none_match: Option<&str>,
) -> Result<Condition, Problem> {
    let mut headers = HeaderMap::new();
    for (name, text) in [(header::IF_MATCH, if_match), (header::IF_NONE_MATCH, if_none_match)] {
        let Some(text) = text else { continue };
        let value = text.parse().map_err(|_| {
            Problem::bad_parameter(name.as_str(), "holds characters that no entity tag has")
        })?;
        headers.insert(name, value);
    }
    condition(&headers)
}

enum Tags {
    Any,
    These(Vec<String>),
}

fn tags(headers: &HeaderMap, name: &HeaderName) -> Result<Option<Tags>, Problem> {
    let bad = |what: &str| Problem::bad_parameter(name.as_str(), what);
    let mut all = Vec::new();
    for value in headers.get_all(name) {
        let text = value.to_str().map_err(|_| bad("holds characters that no entity tag has"))?;
        all.extend(text.split(',').map(str::trim).filter(|tag| !tag.is_empty()));
    }
    match &all[..] {
        [] if headers.contains_key(name) => Err(bad("names no entity tag")),
        [] => Ok(None),
        ["*"] => Ok(Some(Tags::Any)),
        tags if tags.len() > MAX_TAGS => Err(bad("names too many entity tags")),
        tags => {
            let is_tag = |tag: &&str| tag.len() >= 2 && tag.starts_with('"') && tag.ends_with('"');
            if !tags.iter().all(is_tag) {
                return Err(bad(
                    "takes * or entity tags as an answer's ETag has them, quotes included",
                ));
            }
            Ok(Some(Tags::These(tags.iter().map(|tag| (*tag).to_owned()).collect())))
        }
    }
}

/// What stands there, for an answer that refuses: null, one value, or siblings.
#[must_use]
pub fn current(record: &Record, now: WallMicros) -> Value {
    let view = record.view(now);
    let version = |version: &crate::record::Version| {
        let (value, encoding) = textual(&version.value.body);
        json!({
            "value": value,
            "encoding": encoding,
            "content_type": version.value.content_type,
            "etag": version_etag(version.dot),
        })
    };
    match &view.versions[..] {
        [] => Value::Null,
        [one] => version(one),
        several => {
            let siblings: Vec<Value> = several.iter().map(|one| version(one)).collect();
            json!({"siblings": siblings, "etag": view.etag()})
        }
    }
}

/// What became of an operation.
#[derive(Debug, Serialize, ToSchema)]
pub struct OpJson {
    /// `applied`, `refused`, `never` (it has not run and now never will) or `expired` (the key has
    /// forgotten: nobody can tell).
    pub outcome: &'static str,
    /// The version that it made, as an entity tag, if it was applied.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub etag: Option<String>,
}

/// Settle what became of an operation that went through Paxos: a conditional write, or any write
/// of a `strong` bucket.
///
/// Asking about an operation that has not run makes sure that it never will.
#[utoipa::path(get, path = "/v1/ops/{bucket}/{key}/{id}", operation_id = "operation", tag = "Keys and values",
    params(super::openapi::KeyPath, ("id" = String, Path, description = "The operation's `Idempotency-Key`")),
    responses(
        (status = 200, description = "What became of it", body = OpJson),
        (status = "default", response = super::openapi::ProblemResponse),
    ))]
pub(super) async fn operation(inner: Arc<Inner>, parts: Parts, _: Body) -> Answer {
    let params = Params::parse(parts.uri.query(), &["timeout"])?;
    let timeout = options::timeout(&params, &inner.limits)?;
    let rest = parts.uri.path().strip_prefix("/v1/ops/").unwrap_or_default();
    let (bucket, rest) = rest.split_once('/').unwrap_or((rest, ""));
    let (raw_key, id) = rest.rsplit_once('/').unwrap_or((rest, ""));
    let table = inner.bucket(bucket)?;
    // Asking decides about what has not run yet.
    inner.permit(Principal::of(&parts), Permission::Modify, &table)?;
    let key = key_in_path(raw_key, &inner.limits)?;
    let op = parse_operation_id("id", id)?;
    let told = inner.backend.tell(table, key, op, timeout).await?;
    let (outcome, etag) = match told {
        Told::Applied(dot) => ("applied", Some(version_etag(dot))),
        Told::Refused => ("refused", None),
        Told::Never => ("never", None),
        Told::Expired => ("expired", None),
    };
    json_answer(StatusCode::OK, &OpJson { outcome, etag })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(pairs: &[(&'static str, &str)]) -> Result<Condition, Problem> {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, value.parse().unwrap());
        }
        condition(&headers)
    }

    #[test]
    fn conditions_are_read_as_http_has_them() {
        assert_eq!(of(&[]).unwrap(), Condition::None);
        assert_eq!(of(&[("if-none-match", "*")]).unwrap(), Condition::Absent);
        assert_eq!(of(&[("if-match", "*")]).unwrap(), Condition::Exists);
        let two = Condition::Matches(vec!["\"a\"".to_owned(), "\"b\"".to_owned()]);
        assert_eq!(of(&[("if-match", "\"a\", \"b\"")]).unwrap(), two);
        assert_eq!(of(&[("if-match", "\"a\""), ("if-match", "\"b\"")]).unwrap(), two);
        let differs = Condition::Differs(vec!["\"a\"".to_owned()]);
        assert_eq!(of(&[("if-none-match", "\"a\"")]).unwrap(), differs);
    }

    #[test]
    fn what_is_no_condition_is_refused_and_not_ignored() {
        for bad in [
            &[("if-match", "W/\"a\"")][..],
            &[("if-match", "a")],
            &[("if-match", "")],
            &[("if-match", "*, \"a\"")],
            &[("if-match", "*"), ("if-none-match", "*")],
            &[("if-modified-since", "Sat, 29 Oct 1994 19:43:31 GMT")],
        ] {
            assert!(of(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_fence_is_a_positive_number_and_nothing_else() {
        let of = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.append("if-fence", text.parse().unwrap());
            fence(&headers)
        };
        assert_eq!(fence(&HeaderMap::new()).unwrap(), None);
        assert_eq!(of("8").unwrap(), Some(8));
        assert_eq!(of(&MAX_FENCE.to_string()).unwrap(), Some(MAX_FENCE));
        for bad in ["", "0", "+8", "-1", "8.0", "\"8\"", "9007199254740992", "99999999999999999999"]
        {
            assert!(of(bad).is_err(), "{bad:?}");
        }
    }
}
