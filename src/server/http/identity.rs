//! Who sends a request: `Authorization: Basic`, where the node asks for it.

use axum::http::{HeaderMap, HeaderValue, Method, header};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::cql::roles::{Permission, Resource};
use crate::meta::Table;
use crate::server::Principal;
use crate::server::auth::{Denied, NoEntry};
use crate::server::http::door::{Door, Inner};
use crate::server::http::kv::is_write;
use crate::server::http::problem::{Kind, Problem};

/// The longest credentials that are looked at, in base64.
const MAX_CREDENTIALS: usize = 1_024;

const CHALLENGE: HeaderValue = HeaderValue::from_static("Basic realm=\"henge\", charset=\"UTF-8\"");

impl From<Denied> for Problem {
    fn from(Denied(why): Denied) -> Self {
        Self::new(Kind::Forbidden, why)
    }
}

/// True of what everybody may ask: whether the node is well, and what its answers mean.
fn is_public(path: &str) -> bool {
    matches!(
        path,
        "/healthz" | "/readyz" | "/metrics" | "/" | "/docs" | "/openapi.json" | "/problems"
    ) || path.starts_with("/problems/")
}

/// Paths whose handlers ask for permissions themselves, or show what everybody who has logged in may
/// see. Any other is for superusers, so that none is left open by oversight.
fn is_judged(path: &str) -> bool {
    const JUDGED: &[&str] = &[
        "/v1/kv/",
        "/v1/buckets/",
        "/v1/ops/",
        "/v1/locks/",
        "/v1/elections/",
        "/v1/partitions/",
        "/v1/where/",
    ];
    matches!(path, "/v1/buckets" | "/v1/cql" | "/v1/ring" | "/v1/cluster")
        || JUDGED.iter().any(|prefix| path.starts_with(prefix))
}

fn unknown(detail: impl Into<std::borrow::Cow<'static, str>>) -> Problem {
    Problem::new(Kind::Unauthenticated, detail).with_header(header::WWW_AUTHENTICATE, CHALLENGE)
}

/// Name and password of `Basic …` (RFC 7617).
fn basic(value: &HeaderValue) -> Option<(String, String)> {
    let text = value.to_str().ok().filter(|text| text.len() <= MAX_CREDENTIALS)?;
    let (scheme, encoded) = text.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let text = String::from_utf8(STANDARD.decode(encoded.trim()).ok()?).ok()?;
    let (name, password) = text.split_once(':')?;
    Some((name.to_owned(), password.to_owned()))
}

impl Door {
    /// On whose behalf a request with this path and these headers runs.
    pub(super) async fn identify(
        &self,
        path: &str,
        authorization: Option<HeaderValue>,
    ) -> Result<Principal, Problem> {
        let inner = &self.inner;
        let Some(state) = inner.backend.agreed().filter(|_| inner.gate.is_closed()) else {
            return Ok(Principal::Anonymous);
        };
        if is_public(path) {
            return Ok(Principal::Anonymous);
        }
        let Some(given) = authorization else {
            let detail = "this node asks who you are: send a role's name and password as \
                          Authorization: Basic (curl --user NAME)";
            return Err(unknown(detail));
        };
        let Some((name, password)) = basic(&given) else {
            let detail =
                "the Authorization header is not Basic with a name and a password in base64";
            return Err(unknown(detail));
        };
        let entered = inner.gate.log_in(&state, self.client, &name, &password).await;
        if let Ok(principal) = &entered
            && !is_judged(path)
            && !principal.is_superuser(&state)
        {
            let path: String = path.chars().take(128).collect();
            return Err(Denied(format!("what is at {path}, if anything, is for superusers")).into());
        }
        entered.map_err(|why| {
            if why == NoEntry::Wrong {
                tracing::info!(client = ?self.client, %why, "a login was refused");
            }
            match why {
                NoEntry::Wrong => unknown(why.to_string()),
                NoEntry::NoLogin => Problem::new(Kind::Forbidden, why.to_string()),
                NoEntry::TooMany | NoEntry::Busy => Problem::new(Kind::Overloaded, why.to_string()),
            }
        })
    }
}

/// The header of a request that says who sends it.
pub(super) fn given(headers: &HeaderMap) -> Option<HeaderValue> {
    headers.get(header::AUTHORIZATION).cloned()
}

impl Inner {
    /// Lets `principal` do something with `table`, or says why not.
    pub(super) fn permit(
        &self,
        principal: &Principal,
        permission: Permission,
        table: &Table,
    ) -> Result<(), Problem> {
        self.permit_named(principal, permission, (&table.name.keyspace, &table.name.table))
    }

    /// The same of a table that there need not be yet.
    pub(super) fn permit_named(
        &self,
        principal: &Principal,
        permission: Permission,
        name: (&str, &str),
    ) -> Result<(), Problem> {
        if !self.gate.is_closed() {
            return Ok(());
        }
        let state = self.backend.agreed();
        let state = state.ok_or_else(|| Denied("there are no roles here".to_owned()))?;
        Ok(self.gate.permit_table(&state, principal, permission, name)?)
    }

    /// Lets `principal` do something with a keyspace.
    pub(super) fn permit_keyspace(
        &self,
        principal: &Principal,
        permission: Permission,
        keyspace: &str,
    ) -> Result<(), Problem> {
        if !self.gate.is_closed() {
            return Ok(());
        }
        let state = self.backend.agreed();
        let state = state.ok_or_else(|| Denied("there are no roles here".to_owned()))?;
        let on = Resource::Keyspace(keyspace.to_owned());
        Ok(self.gate.permit(&state, principal, permission, &on)?)
    }

    /// Lets `principal` write to `table`; `shows`: by a request whose refusal shows what is there.
    pub(super) fn permit_write(
        &self,
        principal: &Principal,
        table: &Table,
        shows: bool,
    ) -> Result<(), Problem> {
        self.permit(principal, Permission::Modify, table)?;
        if shows { self.permit(principal, Permission::Select, table) } else { Ok(()) }
    }
}

/// True of a request with a condition on what stands there.
pub(super) fn has_condition(headers: &HeaderMap) -> bool {
    headers.contains_key(header::IF_MATCH) || headers.contains_key(header::IF_NONE_MATCH)
}

/// True of a write that a browser sends for a page of another site. Such a POST needs nobody's leave
/// to be sent, not even to a node that only this machine can reach, and takes along a name and a
/// password that were typed for the node's own pages.
pub(super) fn is_of_another_site(method: &Method, headers: &HeaderMap) -> bool {
    is_write(method) && headers.get("sec-fetch-site").is_some_and(|site| site == "cross-site")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::http::routes::ROUTES;

    #[test]
    fn credentials_are_a_name_and_a_password_with_colons_in_it() {
        let of = |text: &str| basic(&HeaderValue::from_str(text).unwrap());
        let encoded = |text: &str| format!("bAsIc {}", STANDARD.encode(text));
        assert_eq!(of(&encoded("eve:a:b")), Some(("eve".to_owned(), "a:b".to_owned())));
        assert_eq!(of(&encoded("eve:")), Some(("eve".to_owned(), String::new())));
        let long = encoded(&"x".repeat(MAX_CREDENTIALS));
        for bad in ["", "Basic", "Basic ???", "Bearer abc", &encoded("eve"), &long] {
            assert_eq!(of(bad), None, "{bad}");
        }
    }

    #[test]
    fn what_is_public_holds_no_data() {
        for path in ["/healthz", "/readyz", "/metrics", "/problems/unauthenticated", "/docs"] {
            assert!(is_public(path), "{path}");
        }
        for path in ["/v1/kv/b/k", "/v1/buckets", "/v1/cluster", "/v1/ring", "/healthz/x", ""] {
            assert!(!is_public(path), "{path}");
        }
    }

    #[test]
    fn every_route_is_public_or_judged_or_for_superusers() {
        let open = |path: &str| is_public(path) || is_judged(path);
        let rest: Vec<_> = ROUTES.iter().filter(|(_, template)| !open(template)).collect();
        assert!(rest.is_empty(), "for superusers only: {rest:?}");
        assert!(!open("/v1/admin"));
    }
}
