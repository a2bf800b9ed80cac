//! Puts and deletes, with and without context, on few keys; beside them brief ones, put once and
//! deleted once: what a replica has missed of those no later write makes good. When all faults are
//! over and no client asks for anything any more, all replicas must become equal by themselves:
//! first their digests, then, byte by byte, their copies of every key.
//!
//! `digests` learns `{"equal", "after_ms", "differ"}`; `copies` asks for nothing and learns every
//! node's own copy of a key, as its ETag and its values.

use std::time::{Duration, Instant};

use henge::client::{Call, ClientError, Reply};
use hyper::http::Method;
use serde_json::{Value, json};

use crate::check::Judgement;
use crate::history::{History, Outcome};
use crate::session::{Effect, Session};

use super::{keys_of, shown_all};

/// How long replicas may take to become equal.
const PATIENCE: Duration = Duration::from_secs(60);

/// So many of a client's brief keys live at a time, at most.
const MOST_BRIEF: usize = 12;

fn done(reply: &Reply) -> Option<Value> {
    (reply.status.as_u16() < 300).then_some(json!(true))
}

/// Puts a key, or deletes one that was put by an earlier step: between the two, one of them, or
/// both, a replica may have gone and come back.
async fn brief_step(session: &mut Session) {
    let living = session.made.len();
    if living == MOST_BRIEF || (living > 0 && session.rng.flip()) {
        let at = session.rng.index(living);
        let key = session.made.swap_remove(at);
        let call = Call::new(Method::DELETE, session.stage.path(&key));
        session.attempt(("delete", &key, Value::Null), call, Effect::Writes, done).await;
        return;
    }
    let value = session.value();
    let key = format!("brief-{value}");
    let call = Call::new(Method::PUT, session.stage.path(&key)).body(value.clone());
    let put = session.attempt(("put", &key, json!(value)), call, Effect::Writes, done).await;
    if put.outcome != Outcome::Fail {
        session.made.push(key);
    }
}

pub async fn step(session: &mut Session) {
    if session.rng.below(6) == 0 {
        return brief_step(session).await;
    }
    if session.rng.below(6) == 0 {
        // An older key ends with a deletion, which some replica may miss.
        let key = session.earlier_key();
        let call = Call::new(Method::DELETE, session.stage.path(&key));
        let asked = ("delete", &*key, Value::Null);
        session.attempt(asked, call, Effect::Writes, done).await;
        return;
    }
    let key = session.key();
    let path = session.stage.path(&key);
    let context = session.seen.pop().and_then(|(_, context)| context);
    let choice = session.rng.below(10);
    if choice < 2 {
        let call = Call::new(Method::GET, &path);
        let asked = ("read", &*key, Value::Null);
        let read = session.attempt(asked, call, Effect::Reads, shown_all).await;
        session.seen.push((Value::Null, read.header("henge-context")));
        return;
    }
    let value = session.value();
    let (f, asked, call) = if choice < 7 {
        ("put", json!(value), Call::new(Method::PUT, &path).body(value.clone()))
    } else {
        ("delete", Value::Null, Call::new(Method::DELETE, &path))
    };
    let call = match &context {
        Some(context) => call.header("henge-context", context),
        None => Ok(call),
    };
    let Ok(call) = call else { return };
    session.attempt((f, &key, asked), call, Effect::Writes, done).await;
}

/// The node holds no copy of this.
fn is_elsewhere(error: &ClientError) -> bool {
    error.problem().is_some_and(|problem| problem.name == "not-a-replica")
}

/// Every replica's digest of every partition; the numbers of those that differ.
async fn differing(session: &mut Session) -> Option<Vec<u64>> {
    let ring: Value = session.stage.nodes[0].json("/v1/ring").await.ok()?;
    let partitions = ring["partitions"].as_array()?.len();
    let mut differ = Vec::new();
    for partition in 0..partitions {
        let path = format!("/v1/partitions/{partition}/digest?bucket={}", session.stage.bucket);
        let mut roots = Vec::new();
        for node in &session.stage.nodes {
            let digest: Value = match node.json(&path).await {
                Ok(digest) => digest,
                Err(error) if is_elsewhere(&error) => continue,
                Err(_) => return None,
            };
            roots.push((digest["records"].clone(), digest["root"].clone()));
        }
        roots.dedup();
        if roots.len() > 1 {
            differ.push(partition as u64);
        }
    }
    Some(differ)
}

pub async fn finish(session: &mut Session) -> bool {
    let keys = keys_of(&session.stage);
    let number = session.stage.recorder.begin(session.process, 0, "digests", "*", Value::Null);
    let began = Instant::now();
    let found = loop {
        let found = differing(session).await;
        let is_equal = found.as_ref().is_some_and(Vec::is_empty);
        if is_equal || began.elapsed() > PATIENCE {
            break found;
        }
        tokio::time::sleep(Duration::from_millis(250)).await;
    };
    let Some(differ) = found else {
        session.stage.recorder.end(number, Outcome::Fail, json!("no digests"));
        return false;
    };
    let learnt = json!({
        "equal": differ.is_empty(), "after_ms": began.elapsed().as_millis() as u64, "differ": differ,
    });
    session.stage.recorder.end(number, Outcome::Ok, learnt);
    let mut all = true;
    for key in keys {
        let path = session.stage.path(&key) + "&local=true";
        let number = session.stage.recorder.begin(session.process, 0, "copies", &key, Value::Null);
        let mut copies = Vec::new();
        for node in 0..session.stage.nodes.len() {
            session.node = node;
            let call = Call::new(Method::GET, &path);
            let read = session.send(call, Effect::Reads, shown_all).await;
            if read.is_ok() {
                let mut values: Vec<String> =
                    super::texts(&read.learnt).into_iter().map(str::to_owned).collect();
                values.sort();
                copies.push(json!([read.header("etag"), values]));
            }
        }
        let complete = copies.len() == session.stage.replicas;
        all &= complete;
        let outcome = if complete { Outcome::Ok } else { Outcome::Fail };
        session.stage.recorder.end(number, outcome, json!(copies));
    }
    all
}

pub fn judge(history: &History) -> Judgement {
    let mut judgement = Judgement::default();
    for (key, ops) in history.by_key() {
        judgement.keys += 1;
        for &op in ops.iter().filter(|op| op.is_ok()) {
            let is_different = match op.f.as_str() {
                "digests" => op.learnt["equal"] == false,
                "copies" => op
                    .learnt
                    .as_array()
                    .is_some_and(|copies| copies.windows(2).any(|pair| pair[0] != pair[1])),
                _ => false,
            };
            if is_different {
                judgement.breach(key, "replicas did not become equal", &[op]);
            }
        }
    }
    judgement
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::told;

    #[test]
    fn equal_replicas_pass_and_others_are_named() {
        for (line, breaches) in [
            (r#"1 digests 0 1 null ok {"equal":true,"after_ms":3,"differ":[]}"#, 0),
            (r#"1 digests 0 1 null ok {"equal":false,"after_ms":3,"differ":[7]}"#, 1),
            (r#"1 copies 0 1 null ok [["e",["a"]],["e",["a"]]]"#, 0),
            (r#"1 copies 0 1 null ok [["e",["a"]],["e",["b"]]]"#, 1),
        ] {
            assert_eq!(judge(&told(line)).breaches.len(), breaches, "{line}");
        }
    }
}
