//! A set that its clients merge: read all siblings, put the union of their elements and one more
//! back with the context of the read. No add may be lost, however many do so at once.
//!
//! `read` learns all elements, `add` asks for one. A value is a JSON list of elements.

use std::collections::BTreeSet;

use henge::client::{Call, Reply};
use hyper::http::Method;
use serde_json::{Value, json};

use crate::check::Judgement;
use crate::history::History;
use crate::session::{Effect, Session};

use super::{keys_of, set, shown_all, texts};

/// The union of the lists in all siblings.
pub(super) fn elements(reply: &Reply) -> Option<Value> {
    let values = shown_all(reply)?;
    let mut all: BTreeSet<String> = BTreeSet::new();
    for value in texts(&values) {
        all.extend(serde_json::from_str::<Vec<String>>(value).ok()?);
    }
    Some(json!(all))
}

pub async fn step(session: &mut Session) {
    let key = session.any_key();
    let path = session.stage.path(&key);
    let call = Call::new(Method::GET, &path);
    let read = session.attempt(("read", &key, Value::Null), call, Effect::Reads, elements).await;
    if !read.is_ok() {
        return;
    }
    let element = session.value();
    let mut all = texts(&read.learnt);
    all.push(&element);
    let call = Call::new(Method::PUT, &path).body(json!(all).to_string());
    let call = match read.header("henge-context") {
        Some(context) => call.header("henge-context", &context),
        None => Ok(call),
    };
    let Ok(call) = call else { return };
    let done = |reply: &Reply| (reply.status.as_u16() < 300).then_some(json!(true));
    session.attempt(("add", &key, json!(element)), call, Effect::Writes, done).await;
}

pub async fn finish(session: &mut Session) -> bool {
    let mut all = true;
    for key in keys_of(&session.stage) {
        let target = session.stage.path(&key);
        all &= session.insist("read", &key, &target, elements).await;
    }
    all
}

/// What holds for sets holds here.
pub fn judge(history: &History) -> Judgement {
    set::judge(history)
}
