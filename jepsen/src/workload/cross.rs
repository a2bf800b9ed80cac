//! One store, two doors: clients that write through HTTP and read through CQL, and the other way
//! round, on the same keys.
//!
//! `cross-register`: a register per key that is linearizable whatever door an operation takes. Keys
//! of the first group stand in a strong bucket, which is the table `bucket.kv` to CQL; those of the
//! second in a strong table of rows, which is the bucket `keyspace.table` to HTTP. `read`, `write`
//! and `cas` as in `register`.
//!
//! `cross-siblings`: a set that its clients merge, as in `siblings`. A context that came through one
//! door goes back through the other one.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use henge::client::{Call, CqlRows, Reply};
use hyper::http::Method;
use serde_json::{Value, json};

use crate::door::Level;
use crate::session::{Attempt, Effect, Session};

use super::register::compare_and_set;
use super::{cql, is_absent, keys_of, shown, siblings};

/// The columns of the table of rows.
pub const COLUMNS: &str = "v text";

/// Keys tell their group by their names.
fn in_rows(key: &str) -> bool {
    key.starts_with("crossregister1")
}

/// A text as CQL's literal of a blob.
fn blob(text: &str) -> String {
    text.bytes().fold("0x".to_owned(), |mut literal, byte| {
        let _ = write!(literal, "{byte:02x}");
        literal
    })
}

/// The path of a row.
fn row_path(session: &Session, key: &str) -> String {
    format!("/v1/kv/jepsen.{}/{key}", session.stage.bucket)
}

/// The row in an answer with at most one: its value, or null.
fn row_shown(reply: &Reply) -> Option<Value> {
    if is_absent(reply) {
        return Some(Value::Null);
    }
    let body: Value = reply.json().ok()?;
    Some(body.get("rows").filter(|_| reply.status.as_u16() == 200)?[0]["v"].clone())
}

/// What a row that is only created tells.
fn row_created(reply: &Reply) -> Option<Value> {
    match reply.status.as_u16() {
        201 => Some(json!(true)),
        412 => Some(json!({ "refused": reply.json::<Value>().ok()?.get("current")?[0]["v"] })),
        _ => None,
    }
}

/// The one version in a bucket's rows, or null; a strong bucket has no siblings.
fn version_shown(rows: &CqlRows) -> Option<Value> {
    (rows.rows.len() < 2).then(|| cql::text(rows, "value"))
}

fn version_swapped(rows: &CqlRows) -> Option<Value> {
    let applied = rows.applied()?;
    Some(if applied { json!(true) } else { json!({ "refused": cql::text(rows, "value") }) })
}

fn done(reply: &Reply) -> Option<Value> {
    (reply.status.as_u16() < 300).then_some(json!(true))
}

pub async fn step(session: &mut Session) {
    let key = session.key();
    let by_http = session.rng.flip();
    match session.rng.below(10) {
        4..6 => write(session, &key, by_http).await,
        6.. if !session.seen.is_empty() => {
            // Mostly what was seen last, sometimes something older.
            let newest = session.seen.len() - 1;
            let at = if session.rng.below(10) < 8 { newest } else { session.rng.index(newest + 1) };
            let expected = session.seen[at].clone();
            swap(session, &key, by_http, expected).await;
        }
        _ => {
            read(session, &key, by_http).await;
        }
    }
}

/// A serial read. What it has shown is remembered, with the name of the version where it has one.
async fn read(session: &mut Session, key: &str, by_http: bool) -> bool {
    let asked = ("read", key, Value::Null);
    let bucket = &session.stage.bucket;
    let (attempt, etag) = match (by_http, in_rows(key)) {
        (true, true) => {
            let call = Call::new(Method::GET, row_path(session, key) + "?level=serial");
            (session.attempt(asked, call, Effect::Reads, row_shown).await, None)
        }
        (true, false) => {
            let call = Call::new(Method::GET, session.stage.path(key) + "&level=serial");
            let attempt = session.attempt(asked, call, Effect::Reads, shown).await;
            let etag = attempt.header("etag");
            (attempt, etag)
        }
        (false, true) => {
            let text = format!("SELECT * FROM jepsen.{bucket} WHERE k = '{key}'");
            let shown = cql::register::shown;
            (session.ask(asked, &text, Level::Serial, Effect::Reads, shown).await, None)
        }
        (false, false) => {
            let text = format!("SELECT value, etag FROM {bucket}.kv WHERE key = {}", blob(key));
            let mut etag = None;
            let judge = |rows: &CqlRows| {
                etag = cql::text(rows, "etag").as_str().map(str::to_owned);
                version_shown(rows)
            };
            (session.ask(asked, &text, Level::Serial, Effect::Reads, judge).await, etag)
        }
    };
    if attempt.is_ok() {
        session.seen.push((attempt.learnt, etag));
        return true;
    }
    false
}

/// A blind write.
async fn write(session: &mut Session, key: &str, by_http: bool) {
    let value = session.value();
    let asked = ("write", key, json!(value));
    let bucket = &session.stage.bucket;
    match (by_http, in_rows(key)) {
        (true, rows) => {
            let call = if rows {
                let body = json!({ "v": value }).to_string();
                Call::new(Method::PUT, row_path(session, key)).body(body)
            } else {
                Call::new(Method::PUT, session.stage.path(key)).body(value)
            };
            session.attempt(asked, call, Effect::Writes, done).await;
        }
        (false, true) => {
            let text = format!("INSERT INTO jepsen.{bucket} (k, v) VALUES ('{key}', '{value}')");
            cql::write(session, asked, &text, cql::done).await;
        }
        (false, false) => {
            let (key, value) = (blob(key), blob(&value));
            let text = format!("INSERT INTO {bucket}.kv (key, value) VALUES ({key}, {value})");
            cql::write(session, asked, &text, cql::done).await;
        }
    }
}

/// A write on the condition that what was seen stands there still. Rows have no name to compare
/// over HTTP, which can only create them.
async fn swap(
    session: &mut Session,
    key: &str,
    by_http: bool,
    (expected, etag): (Value, Option<String>),
) {
    let is_new = expected.is_null();
    if !in_rows(key) && !is_new && etag.is_none() {
        return;
    }
    if by_http && !in_rows(key) {
        // A version that was seen through the other door goes by the same name here.
        compare_and_set(session, "cas", key, (expected, etag)).await;
        return;
    }
    let value = session.value();
    let pair = json!([expected, value]);
    let asked = ("cas", key, pair);
    let bucket = &session.stage.bucket;
    let attempt = if in_rows(key) {
        if by_http && is_new {
            let body = json!({ "v": value }).to_string();
            let call = Call::new(Method::PUT, row_path(session, key)).body(body);
            let Ok(call) = call.header("if-none-match", "*") else { return };
            session.attempt(asked, call, Effect::Writes, row_created).await
        } else {
            let text = match expected.as_str() {
                None => format!(
                    "INSERT INTO jepsen.{bucket} (k, v) VALUES ('{key}', '{value}') IF NOT EXISTS"
                ),
                Some(old) => format!(
                    "UPDATE jepsen.{bucket} SET v = '{value}' WHERE k = '{key}' IF v = '{old}'"
                ),
            };
            cql::write(session, asked, &text, cql::register::swapped).await
        }
    } else {
        let (key, value) = (blob(key), blob(&value));
        let etag = etag.unwrap_or_default();
        let text = if is_new {
            format!("INSERT INTO {bucket}.kv (key, value) VALUES ({key}, {value}) IF NOT EXISTS")
        } else {
            format!("UPDATE {bucket}.kv SET value = {value} WHERE key = {key} IF etag = '{etag}'")
        };
        cql::write(session, asked, &text, version_swapped).await
    };
    // Names come with reads: without one, what stands in a bucket cannot be named.
    if attempt.is_ok() && in_rows(key) {
        let stands = attempt.learnt.get("refused").cloned().unwrap_or(json!(value));
        session.seen.push((stands, None));
    }
}

/// Reads through both doors: what the first has settled may not change any more.
pub async fn finish(session: &mut Session) -> bool {
    let mut all = true;
    for key in keys_of(&session.stage) {
        for by_http in [true, false] {
            let mut is_read = false;
            for _ in 0..20 {
                is_read = read(session, &key, by_http).await;
                if is_read {
                    break;
                }
            }
            all &= is_read;
        }
    }
    all
}

/// The union of the lists in all versions of a key, and their context.
fn merged(rows: &CqlRows) -> Option<Value> {
    let mut all: BTreeSet<String> = BTreeSet::new();
    for row in &rows.rows {
        all.extend(serde_json::from_slice::<Vec<String>>(row.first()?.as_deref()?).ok()?);
    }
    Some(json!(all))
}

pub async fn siblings_step(session: &mut Session) {
    let key = session.any_key();
    let (reads_by_http, writes_by_http) = (session.rng.flip(), session.rng.flip());
    let Some((read, context)) = siblings_read(session, &key, reads_by_http).await else { return };
    let element = session.value();
    let mut all = super::texts(&read.learnt);
    all.push(&element);
    let list = json!(all).to_string();
    let asked = ("add", &*key, json!(element));
    if writes_by_http {
        let call = Call::new(Method::PUT, session.stage.path(&key)).body(list);
        let call = match context {
            Some(context) => call.header("henge-context", &context),
            None => Ok(call),
        };
        let Ok(call) = call else { return };
        session.attempt(asked, call, Effect::Writes, done).await;
        return;
    }
    let (columns, context) = match context {
        Some(context) => (", context", format!(", '{context}'")),
        None => ("", String::new()),
    };
    let text = format!(
        "INSERT INTO {}.kv (key, value{columns}) VALUES ({}, {}{context})",
        session.stage.bucket,
        blob(&key),
        blob(&list)
    );
    cql::write(session, asked, &text, cql::done).await;
}

/// All elements of a key, with the context of what was read.
async fn siblings_read(
    session: &mut Session,
    key: &str,
    by_http: bool,
) -> Option<(Attempt, Option<String>)> {
    let asked = ("read", key, Value::Null);
    if by_http {
        let call = Call::new(Method::GET, session.stage.path(key));
        let read = session.attempt(asked, call, Effect::Reads, siblings::elements).await;
        let context = read.header("henge-context");
        return read.is_ok().then_some((read, context));
    }
    let text =
        format!("SELECT value, context FROM {}.kv WHERE key = {}", session.stage.bucket, blob(key));
    let mut context = None;
    let judge = |rows: &CqlRows| {
        context = cql::text(rows, "context").as_str().map(str::to_owned);
        merged(rows)
    };
    let read = session.ask(asked, &text, Level::Quorum, Effect::Reads, judge).await;
    read.is_ok().then_some((read, context))
}

pub async fn siblings_finish(session: &mut Session) -> bool {
    let mut all = true;
    for key in keys_of(&session.stage) {
        for by_http in [true, false] {
            let mut is_read = false;
            for _ in 0..20 {
                is_read = siblings_read(session, &key, by_http).await.is_some();
                if is_read {
                    break;
                }
            }
            all &= is_read;
        }
    }
    all
}
