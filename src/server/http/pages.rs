//! What the node says about itself in words: the OpenAPI document, a page to read it, and a page
//! for each kind of problem. Self-contained: no script, no font, no image from elsewhere.

use std::fmt::Write as _;
use std::sync::{Arc, OnceLock};

use axum::body::Body;
use axum::http::request::Parts;
use axum::http::{HeaderValue, Response, StatusCode, header};
use bytes::Bytes;
use serde_json::Value;

use crate::server::http::body::DoorBody;
use crate::server::http::door::Inner;
use crate::server::http::openapi;
use crate::server::http::problem::{CATALOGUE, Entry, Kind, Problem};

type Answer = Result<Response<DoorBody>, Problem>;

const STYLE: &str = "body{font:16px/1.5 system-ui,sans-serif;max-width:56rem;margin:2rem auto;\
padding:0 1rem;color:#222;background:#fdfdfc}code,pre{font:14px/1.4 ui-monospace,monospace;\
background:#f0efec;border-radius:3px;padding:.1em .3em}pre{padding:.8em;overflow-x:auto}\
h1,h2,h3{line-height:1.2}h2{margin-top:2.5rem;border-bottom:1px solid #ddd}\
table{border-collapse:collapse;width:100%;margin:.5rem 0}td,th{border-bottom:1px solid #e4e2de;\
padding:.3rem .6rem .3rem 0;text-align:left;vertical-align:top}.m{font-weight:700;color:#7a3e00}\
details{margin:.6rem 0}summary{cursor:pointer}.d{color:#555}\
@media(prefers-color-scheme:dark){body{color:#ddd;background:#1b1b1a}code,pre{background:#2a2a28}\
td,th{border-color:#3a3a37}.m{color:#f0a860}.d{color:#aaa}a{color:#8ab4f8}h2{border-color:#444}}";

/// The OpenAPI document.
#[utoipa::path(get, path = "/openapi.json", operation_id = "openapi", tag = "Documents",
    responses((status = 200, description = "OpenAPI 3.1", content_type = "application/json", body = Object)))]
pub(super) async fn openapi(_: Arc<Inner>, _: Parts, _: Body) -> Answer {
    static DOCUMENT: OnceLock<Bytes> = OnceLock::new();
    let document = DOCUMENT.get_or_init(openapi::json).clone();
    Ok(page_of("application/json", document))
}

/// The same to read.
#[utoipa::path(get, path = "/docs", operation_id = "docs", tag = "Documents",
    responses((status = 200, description = "A page that needs no network", content_type = "text/html", body = String)))]
pub(super) async fn docs(_: Arc<Inner>, _: Parts, _: Body) -> Answer {
    static PAGE: OnceLock<Bytes> = OnceLock::new();
    let page = PAGE.get_or_init(|| Bytes::from(render_docs())).clone();
    Ok(page_of("text/html; charset=utf-8", page))
}

/// Sends a browser to the documents.
#[utoipa::path(get, path = "/", operation_id = "root", tag = "Documents",
    responses((status = 303, description = "To `/docs`")))]
pub(super) async fn root(_: Arc<Inner>, _: Parts, _: Body) -> Answer {
    let mut response = Response::new(DoorBody::empty());
    *response.status_mut() = StatusCode::SEE_OTHER;
    response.headers_mut().insert(header::LOCATION, HeaderValue::from_static("/docs"));
    Ok(response)
}

/// All kinds of problem.
#[utoipa::path(get, path = "/problems", operation_id = "list_problems", tag = "Documents",
    responses((status = 200, description = "A page that lists them", content_type = "text/html", body = String)))]
pub(super) async fn problems(_: Arc<Inner>, _: Parts, _: Body) -> Answer {
    let mut out = String::from("<h1>Problems</h1><table><tr><th>Name<th>Status<th>Meaning</tr>");
    for entry in CATALOGUE {
        let Entry { name, status, title, .. } = entry;
        let _ = write!(
            out,
            "<tr><td><a href=\"/problems/{name}\"><code>{name}</code></a><td>{status}<td>{title}</tr>"
        );
    }
    out.push_str("</table>");
    Ok(page_of("text/html; charset=utf-8", html("Problems", &out)))
}

/// One kind of problem: its cause and its cure.
#[utoipa::path(get, path = "/problems/{name}", operation_id = "explain_problem", tag = "Documents",
    params(("name" = String, Path, description = "The last part of a problem's `type`")),
    responses((status = 200, description = "The page", content_type = "text/html", body = String),
        (status = "default", response = super::openapi::ProblemResponse)))]
pub(super) async fn problem(_: Arc<Inner>, parts: Parts, _: Body) -> Answer {
    let name = parts.uri.path().strip_prefix("/problems/").unwrap_or_default();
    let Some(kind) = Kind::named(name) else {
        return Err(Problem::new(
            Kind::NotFound,
            "there is no such kind of problem; see /problems",
        ));
    };
    let Entry { name, status, title, cause, cure, .. } = kind.entry();
    let body = format!(
        "<p><a href=\"/problems\">Problems</a></p><h1>{}</h1>\
         <p><code>{name}</code>, HTTP status {status}</p>\
         <h2>Cause</h2><p>{}</p><h2>Cure</h2><p>{}</p>{}",
        escape(title),
        escape(cause),
        escape(cure),
        outcome_note(kind)
    );
    Ok(page_of("text/html; charset=utf-8", html(title, &body)))
}

/// What a write's `outcome` is with this kind of problem.
fn outcome_note(kind: Kind) -> &'static str {
    let maybe = matches!(
        kind,
        Kind::Timeout
            | Kind::TooFewReplicasAnswered
            | Kind::OperationExpired
            | Kind::Contended
            | Kind::Internal
    );
    if maybe {
        "<h2>If it was a write</h2><p><code>outcome</code> says what became of it: \
         <code>\"unknown\"</code> means that it may have taken effect, or may yet.</p>"
    } else {
        "<h2>If it was a write</h2><p><code>outcome: \"not_applied\"</code>: it did not take \
         effect and will not.</p>"
    }
}

fn page_of(content_type: &'static str, body: impl Into<Bytes>) -> Response<DoorBody> {
    let mut response = Response::new(DoorBody::full(body));
    let content_type = HeaderValue::from_static(content_type);
    response.headers_mut().insert(header::CONTENT_TYPE, content_type);
    response
}

fn html(title: &str, body: &str) -> String {
    format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width\"><title>{} – Henge</title>\
         <style>{STYLE}</style><body>{body}</body></html>",
        escape(title)
    )
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// Escapes, and marks what stands in backticks as code.
fn prose(text: &str) -> String {
    let mut out = String::new();
    for (at, part) in escape(text).split('`').enumerate() {
        if at % 2 == 1 {
            let _ = write!(out, "<code>{part}</code>");
        } else {
            out.push_str(&part.replace("\n\n", "<p>"));
        }
    }
    out
}

fn render_docs() -> String {
    let document = serde_json::to_value(openapi::document()).unwrap_or_default();
    let mut out = String::from("<h1>Henge over HTTP</h1>");
    let _ = write!(out, "<p>{}</p>", prose(text(&document["info"]["description"])));
    out.push_str(
        "<p>The same for machines: <a href=\"/openapi.json\">openapi.json</a>. \
         All errors: <a href=\"/problems\">problems</a>.</p>",
    );
    out.push_str(TOUR);
    for tag in document["tags"].as_array().into_iter().flatten() {
        let name = text(&tag["name"]);
        let _ = write!(
            out,
            "<h2>{}</h2><p class=d>{}</p>",
            escape(name),
            prose(text(&tag["description"]))
        );
        for (path, item) in document["paths"].as_object().into_iter().flatten() {
            for (method, operation) in item.as_object().into_iter().flatten() {
                if operation["tags"][0] == tag["name"] {
                    render_operation(&mut out, path, method, operation);
                }
            }
        }
    }
    out.push_str("<h2>Forms</h2>");
    for (name, schema) in document["components"]["schemas"].as_object().into_iter().flatten() {
        render_schema(&mut out, name, schema);
    }
    html("HTTP", &out)
}

const TOUR: &str = "<h2>A tour</h2><pre>\
curl -i -X PUT  localhost:8098/v1/buckets/tour\n\
curl -i -X PUT  localhost:8098/v1/kv/tour/hello -d 'world'\n\
curl -i         localhost:8098/v1/kv/tour/hello\n\
curl -i -X PUT  localhost:8098/v1/kv/tour/hello -H 'Henge-Context: …' -d 'you'   # replaces what was read\n\
curl -i -X PUT  localhost:8098/v1/kv/tour/hello -d 'all'     # a blind write: a second value beside the first\n\
curl -i         localhost:8098/v1/kv/tour/hello              # 300: both values, and a context that covers them\n\
curl -i -X DELETE localhost:8098/v1/kv/tour/hello -H 'Henge-Context: …'</pre>";

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn render_operation(out: &mut String, path: &str, method: &str, operation: &Value) {
    let _ = write!(
        out,
        "<details><summary><span class=m>{}</span> <code>{}</code> {}</summary><p>{}</p>",
        method.to_uppercase(),
        escape(path),
        prose(text(&operation["summary"])),
        prose(text(&operation["description"]))
    );
    let parameters = operation["parameters"].as_array().map(Vec::as_slice).unwrap_or_default();
    if !parameters.is_empty() {
        out.push_str("<table><tr><th>Parameter<th>In<th>Meaning</tr>");
        for parameter in parameters {
            let _ = write!(
                out,
                "<tr><td><code>{}</code><td>{}<td>{}</tr>",
                escape(text(&parameter["name"])),
                escape(text(&parameter["in"])),
                prose(text(&parameter["description"]))
            );
        }
        out.push_str("</table>");
    }
    let body = &operation["requestBody"];
    if body.is_object() {
        let _ = write!(
            out,
            "<p>Body: {} {}</p>",
            prose(text(&body["description"])),
            forms(&body["content"])
        );
    }
    out.push_str("<table><tr><th>Status<th>Meaning</tr>");
    for (status, response) in operation["responses"].as_object().into_iter().flatten() {
        let (status, meaning) = match status.as_str() {
            "default" => ("else", "A problem: <a href=\"/problems\">all kinds</a>".to_owned()),
            status => (
                status,
                format!(
                    "{} {}",
                    prose(text(&response["description"])),
                    forms(&response["content"])
                ),
            ),
        };
        let _ = write!(out, "<tr><td>{}<td>{meaning}</tr>", escape(status));
    }
    out.push_str("</table></details>");
}

/// The media types of a body and their forms.
fn forms(content: &Value) -> String {
    let mut out = String::new();
    for (media, form) in content.as_object().into_iter().flatten() {
        let _ = write!(out, "<code>{}</code>", escape(media));
        let name = text(&form["schema"]["$ref"]).rsplit('/').next().unwrap_or_default();
        if !name.is_empty() {
            let name = escape(name);
            let _ = write!(out, " <a href=\"#{name}\">{name}</a>");
        }
        out.push(' ');
    }
    out
}

fn render_schema(out: &mut String, name: &str, schema: &Value) {
    let name = escape(name);
    let _ = write!(
        out,
        "<h3 id=\"{name}\">{name}</h3><p>{}</p><table><tr><th>Member<th>Type<th>Meaning</tr>",
        prose(text(&schema["description"]))
    );
    for (member, form) in schema["properties"].as_object().into_iter().flatten() {
        let kind = match &form["type"] {
            Value::String(kind) => kind.clone(),
            Value::Array(kinds) => kinds.iter().map(text).collect::<Vec<_>>().join(" or "),
            _ => text(&form["$ref"]).rsplit('/').next().unwrap_or_default().to_owned(),
        };
        let _ = write!(
            out,
            "<tr><td><code>{}</code><td>{}<td>{}</tr>",
            escape(member),
            escape(&kind),
            prose(text(&form["description"]))
        );
    }
    out.push_str("</table>");
}
