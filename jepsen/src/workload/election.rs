//! Leader election: candidates stand, some lead on, some fall silent; others watch.
//!
//! `stand` asks with a name and learns `{"leader", "candidate", "fence"}`; `observe` learns
//! `{"candidate", "fence"}` or null where nobody leads.

use std::collections::BTreeMap;

use henge::client::{Call, Reply};
use hyper::http::Method;
use serde_json::{Value, json};

use crate::check::Judgement;
use crate::history::{History, Op};
use crate::session::{Effect, Session, TIMEOUT};

use super::is_absent;

pub async fn step(session: &mut Session) {
    let key = session.key();
    let target = format!("/v1/elections/{key}?{TIMEOUT}");
    if session.rng.below(10) < 4 {
        let call = Call::new(Method::GET, target);
        let seen = |reply: &Reply| match reply.status.as_u16() {
            200 => term(reply),
            404 => is_absent(reply).then_some(Value::Null),
            _ => None,
        };
        session.attempt(("observe", &key, Value::Null), call, Effect::Reads, seen).await;
        return;
    }
    // A candidate stays the same for a while, and then falls silent.
    let name = format!("c{}-{}", session.number, session.rng.below(3));
    let body = json!({ "candidate": name, "ttl_ms": 1_000 }).to_string();
    let call = Call::new(Method::POST, target).body(body);
    let stood = |reply: &Reply| (reply.status.as_u16() < 300).then(|| term(reply))?;
    session.attempt(("stand", &key, json!(name)), call, Effect::Writes, stood).await;
}

fn term(reply: &Reply) -> Option<Value> {
    let body: Value = reply.json().ok()?;
    body["fence"].as_u64()?;
    Some(
        json!({ "leader": body["leader"], "candidate": body["candidate"], "fence": body["fence"] }),
    )
}

/// Who led with which number, as this operation was told.
fn told_term(op: &Op) -> Option<(u64, &str)> {
    let fence = op.learnt.get("fence")?.as_u64()?;
    Some((fence, op.learnt.get("candidate")?.as_str()?))
}

pub fn judge(history: &History) -> Judgement {
    let mut judgement = Judgement::default();
    for (key, ops) in history.by_key() {
        judgement.keys += 1;
        let mut leaders: BTreeMap<u64, (&str, &Op)> = BTreeMap::new();
        for &op in ops.iter().filter(|op| op.is_ok()) {
            let Some((fence, candidate)) = told_term(op) else { continue };
            let (first, other) = *leaders.entry(fence).or_insert((candidate, op));
            if first != candidate {
                let what = format!("term {fence} has two leaders");
                judgement.breach(key, what, &[other, op]);
            }
            if op.learnt["leader"] == true && op.asked != candidate {
                judgement.breach(key, "one is told to lead as another", &[op]);
            }
        }
        for &first in ops.iter().filter(|op| op.is_ok()) {
            let Some((high, _)) = told_term(first) else { continue };
            let later = ops.iter().filter(|op| op.is_ok() && first.before(op));
            for &second in later {
                if told_term(second).is_some_and(|(low, _)| low < high) {
                    judgement.breach(key, "a later look shows an older term", &[first, second]);
                }
            }
        }
    }
    judgement
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::told;

    const GOOD: &str = r#"
        1 stand 0 1 "a" ok {"leader":true,"candidate":"a","fence":1}
        2 stand 2 3 "b" ok {"leader":false,"candidate":"a","fence":1}
        2 observe 4 5 null ok null
        2 stand 6 7 "b" ok {"leader":true,"candidate":"b","fence":2}
        1 observe 8 9 null ok {"leader":null,"candidate":"b","fence":2}
    "#;

    #[test]
    fn terms_that_follow_each_other_pass() {
        assert_eq!(judge(&told(GOOD)).breaches, []);
    }

    #[test]
    fn each_breach_is_named() {
        for (line, name) in [
            (
                r#"3 stand 10 11 "c" ok {"leader":true,"candidate":"c","fence":2}"#,
                "term 2 has two leaders",
            ),
            (
                r#"3 observe 10 11 null ok {"leader":null,"candidate":"a","fence":1}"#,
                "a later look shows an older term",
            ),
            (
                r#"3 stand 10 11 "c" ok {"leader":true,"candidate":"b","fence":2}"#,
                "one is told to lead as another",
            ),
        ] {
            let breaches = judge(&told(&(GOOD.to_owned() + line))).breaches;
            assert!(breaches.iter().any(|breach| breach.what == name), "{line}: {breaches:?}");
        }
    }
}
