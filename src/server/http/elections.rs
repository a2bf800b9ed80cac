//! Elections: a lock whose holder leads, and that others watch.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::request::Parts;
use axum::http::{HeaderValue, Response, StatusCode, header};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use utoipa::ToSchema;

use crate::coordinator::LeaseOutcome;
use crate::recipes::{Request, State};
use crate::server::http::body::DoorBody;
use crate::server::http::buckets::json_answer;
use crate::server::http::door::Inner;
use crate::server::http::locks::{
    Errand, Family, NamePath, TimeoutParam, checked_owner, checked_ttl, end_grant, json_body,
    millis, replayed_header, with_holder,
};
use crate::server::http::options;
use crate::server::http::problem::{Kind, Problem};
use crate::server::http::query::Params;
use crate::types::WallMicros;

type Answer = Result<Response<DoorBody>, Problem>;

/// How often a watched election is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// After so many looks without news a comment says that the stream lives.
const LOOKS_PER_BEAT: u32 = 20;
/// Events that wait for a slow reader; then looking waits for it too.
const EVENTS_WAITING: usize = 4;

/// Stands for election.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct StandJson {
    /// The candidate: its name is what it is, so no two may use one.
    #[schema(example = "node-2")]
    candidate: String,
    /// The term, in milliseconds: 1,000 (a second) to 86,400,000 (a day); default 10,000.
    #[schema(example = 10_000)]
    ttl_ms: Option<u64>,
}

/// The answer to a candidate.
#[derive(Debug, Serialize, ToSchema)]
pub struct StoodJson {
    /// Whether the one who asked leads now.
    pub leader: bool,
    /// Who leads. Absent: nobody, by now.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "node-2")]
    pub candidate: Option<String>,
    /// The number of the term: it grows with every new leader, and never otherwise.
    #[schema(example = 3)]
    pub fence: u64,
    /// What is left of the term.
    #[schema(example = 10_000)]
    pub remaining_ms: u64,
}

/// Who leads.
#[derive(Debug, Serialize, ToSchema)]
pub struct LeaderJson {
    /// The leader.
    #[schema(example = "node-2")]
    pub candidate: String,
    /// The number of its term.
    #[schema(example = 3)]
    pub fence: u64,
    /// The term, in milliseconds.
    #[schema(example = 10_000)]
    pub ttl_ms: u64,
    /// What is left of it.
    #[schema(example = 9_250)]
    pub remaining_ms: u64,
}

/// For showing an election.
#[derive(utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "describes the query in the OpenAPI document")]
pub(super) struct WatchParam {
    /// `true`: a stream of server-sent events, one for each change.
    watch: Option<bool>,
}

/// Stand for election, or lead on.
///
/// If nobody leads, the candidate does, with a greater `fence` than every leader before it. If it
/// leads already, its term begins anew under the same fence: a leader stands again well before its
/// term is over. Otherwise the answer says who leads.
#[utoipa::path(post, path = "/v1/elections/{name}", operation_id = "stand", tag = "Locks",
    params(NamePath, TimeoutParam),
    request_body(content = StandJson, description = "Who, and for how long"),
    responses(
        (status = 200, description = "Whether the candidate leads", body = StoodJson),
        (status = "default", response = super::openapi::ProblemResponse),
    ))]
pub(super) async fn stand(inner: Arc<Inner>, parts: Parts, mut body: Body) -> Answer {
    let errand = Family::Elections.errand(&inner, &parts)?;
    let StandJson { candidate, ttl_ms } = json_body(&inner, &parts.headers, &mut body).await?;
    let (owner, ttl_ms) = (checked_owner("candidate", candidate)?, checked_ttl(ttl_ms)?);
    let request = Request::Acquire { owner, ttl_ms, stands: true };
    let (stood, replayed) = match errand.ask(&inner, request).await? {
        LeaseOutcome::Held { holding, remaining, replayed } => {
            let (candidate, fence) = (Some(holding.owner), holding.fence);
            let remaining_ms = millis(remaining);
            (StoodJson { leader: true, candidate, fence, remaining_ms }, replayed)
        }
        LeaseOutcome::Refused { state, now, replayed, .. } => {
            let remaining_ms = state.remaining_ms(now);
            let fence = state.fence;
            let candidate = state.held.map(|(holding, _)| holding.owner);
            (StoodJson { leader: false, candidate, fence, remaining_ms }, replayed)
        }
        LeaseOutcome::Freed { .. } => {
            return Err(Problem::new(Kind::Internal, "an election was answered as a release"));
        }
    };
    let mut response = json_answer(StatusCode::OK, &stood)?;
    replayed_header(&mut response, replayed);
    Ok(response)
}

/// End one's own term.
#[utoipa::path(delete, path = "/v1/elections/{name}", operation_id = "resign", tag = "Locks",
    params(NamePath, TimeoutParam, ("If-Fence" = u64, Header, description = "The number of the term")),
    responses(
        (status = 204, description = "Nobody leads"),
        (status = 412, description = "The term had ended before (`fence-too-old`)", content_type = "application/problem+json", body = super::openapi::ProblemBody),
        (status = "default", response = super::openapi::ProblemResponse),
    ))]
pub(super) async fn resign(inner: Arc<Inner>, parts: Parts, _: Body) -> Answer {
    end_grant(Family::Elections, &inner, &parts).await
}

/// Show who leads, or watch.
///
/// With `watch=true` the answer is a stream of server-sent events: the present leader first, then
/// each change as it is noticed (the node looks twice a second). `leader` has the leader and the
/// fence as data, `vacant` the fence of the last term, `unavailable` the reason for which the
/// node cannot tell. The `id` of an event is the fence. A term that was renewed is no change.
#[utoipa::path(get, path = "/v1/elections/{name}", operation_id = "show_election", tag = "Locks",
    params(NamePath, WatchParam, TimeoutParam),
    responses(
        (status = 200, description = "Who leads; or, watched, `text/event-stream`", body = LeaderJson),
        (status = 404, description = "Nobody leads. `fence` is the number of the last term, 0 if there was none", content_type = "application/problem+json", body = super::openapi::ProblemBody),
        (status = "default", response = super::openapi::ProblemResponse),
    ))]
pub(super) async fn show(inner: Arc<Inner>, parts: Parts, _: Body) -> Answer {
    let params = Params::parse(parts.uri.query(), &["timeout", "watch"])?;
    let key = Family::Elections.name(&inner, &parts)?;
    let timeout = options::timeout(&params, &inner.limits)?;
    let errand = Errand::about(Family::Elections, key, timeout, &parts);
    if params.flag("watch")? {
        return Ok(watch(inner, errand));
    }
    let (state, now) = errand.look(&inner).await?;
    match leader(&state, now) {
        Some(leader) => json_answer(StatusCode::OK, &leader),
        None => {
            let problem = Problem::new(Kind::KeyNotFound, "nobody leads");
            Err(with_holder(problem, &state, now))
        }
    }
}

fn leader(state: &State, now: WallMicros) -> Option<LeaderJson> {
    let (holding, _) = state.held.as_ref()?;
    Some(LeaderJson {
        candidate: holding.owner.clone(),
        fence: holding.fence,
        ttl_ms: holding.ttl_ms,
        remaining_ms: state.remaining_ms(now),
    })
}

/// What a watcher was told last.
#[derive(Clone, PartialEq, Eq)]
enum Told {
    Leader(u64),
    Vacant(u64),
    Unavailable,
    /// That it may not watch any more: the last thing that it is told.
    Forbidden,
}

/// A stream of changes. It ends with its reader, or with the node; it is a request under way all the
/// time, and counts as one.
fn watch(inner: Arc<Inner>, errand: Errand) -> Response<DoorBody> {
    let (sender, receiver) = mpsc::channel(EVENTS_WAITING);
    let env = inner.env.clone();
    env.spawn("watch an election", async move {
        let (mut told, mut quiet) = (None, 0);
        while !sender.is_closed() && !inner.is_draining() {
            let (now_told, event) = event(errand.look(&inner).await);
            quiet += 1;
            let news = if told.as_ref() != Some(&now_told) {
                told = Some(now_told);
                Some(Bytes::from(event))
            } else {
                (quiet >= LOOKS_PER_BEAT).then(|| Bytes::from_static(b": nothing new\n\n"))
            };
            if let Some(news) = news {
                quiet = 0;
                if sender.send(news).await.is_err() || told == Some(Told::Forbidden) {
                    return;
                }
            }
            inner.env.sleep(LOOK_EVERY).await;
        }
    });
    let mut response = Response::new(DoorBody::stream(receiver));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

fn event(looked: Result<(State, WallMicros), Problem>) -> (Told, String) {
    let (told, name, id, data) = match looked {
        Ok((state, now)) => match leader(&state, now) {
            Some(leader) => {
                let data = serde_json::to_string(&leader).unwrap_or_default();
                (Told::Leader(leader.fence), "leader", Some(leader.fence), data)
            }
            None => {
                let data = serde_json::json!({ "fence": state.fence }).to_string();
                (Told::Vacant(state.fence), "vacant", Some(state.fence), data)
            }
        },
        Err(problem) => {
            let data = serde_json::to_string(&problem.json(false)).unwrap_or_default();
            let told = if problem.status() == 403 { Told::Forbidden } else { Told::Unavailable };
            (told, "unavailable", None, data)
        }
    };
    let id = id.map(|id| format!("id: {id}\n")).unwrap_or_default();
    (told, format!("event: {name}\n{id}data: {data}\n\n"))
}
