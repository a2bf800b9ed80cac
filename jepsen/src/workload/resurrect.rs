//! Values that are put, read, and deleted with the context of the read: what an acknowledged
//! delete covered never shows again, and what none covered is there.
//!
//! `put` asks for a value, `delete` for the list of values that its context covers, `read` learns
//! the list of values.

use henge::client::{Call, Reply};
use hyper::http::Method;
use serde_json::{Value, json};

use crate::check::Judgement;
use crate::history::{History, Op, Outcome};
use crate::session::{Effect, Session};

use super::{keys_of, shown_all, texts};

pub async fn step(session: &mut Session) {
    if session.rng.below(5) == 0 {
        return end_earlier(session).await;
    }
    let key = session.key();
    let path = session.stage.path(&key);
    match session.rng.below(10) {
        0..3 => {
            let call = Call::new(Method::GET, &path);
            let asked = ("read", &*key, Value::Null);
            let read = session.attempt(asked, call, Effect::Reads, shown_all).await;
            if read.is_ok() {
                session.seen = vec![(read.learnt.clone(), read.header("henge-context"))];
            }
        }
        3..6 if !session.seen.is_empty() => {
            let Some((covered, Some(context))) = session.seen.pop() else { return };
            let call = Call::new(Method::DELETE, &path).header("henge-context", &context);
            let Ok(call) = call else { return };
            session.attempt(("delete", &key, covered), call, Effect::Writes, done).await;
        }
        _ => {
            let value = session.value();
            let call = Call::new(Method::PUT, &path).body(value.clone());
            session.attempt(("put", &key, json!(value)), call, Effect::Writes, done).await;
        }
    }
}

fn done(reply: &Reply) -> Option<Value> {
    (reply.status.as_u16() < 300).then_some(json!(true))
}

/// Deletes all that stands in an older key. Nothing is left there but the trace of the deletion,
/// which goes when its time is over: too early, if a replica that still has the values is away.
async fn end_earlier(session: &mut Session) {
    let key = session.older_key(24);
    let path = session.stage.path(&key);
    let asked = ("read", &*key, Value::Null);
    let read =
        session.attempt(asked, Call::new(Method::GET, &path), Effect::Reads, shown_all).await;
    let Some(context) = read.header("henge-context").filter(|_| read.is_ok()) else { return };
    let call = Call::new(Method::DELETE, &path).header("henge-context", &context);
    let Ok(call) = call else { return };
    session.attempt(("delete", &key, read.learnt), call, Effect::Writes, done).await;
}

/// Reads at quorum through every node.
pub async fn finish(session: &mut Session) -> bool {
    let mut all = true;
    for key in keys_of(&session.stage) {
        let target = session.stage.path(&key);
        for _ in 0..session.stage.nodes.len() {
            all &= session.insist("read", &key, &target, shown_all).await;
            session.move_on();
        }
    }
    all
}

pub fn judge(history: &History) -> Judgement {
    let mut judgement = Judgement::default();
    for (key, ops) in history.by_key() {
        judgement.keys += 1;
        let of = |f: &'static str| ops.iter().copied().filter(move |op| op.f == f);
        let covers = |delete: &Op, value: &str| texts(&delete.asked).contains(&value);
        for read in of("read").filter(|op| op.is_ok()) {
            let shows = texts(&read.learnt);
            for delete in of("delete").filter(|op| op.is_ok() && op.before(read)) {
                if shows.iter().any(|value| covers(delete, value)) {
                    judgement.breach(key, "a deleted value is back", &[delete, read]);
                }
            }
            let is_put = |value: &&str| of("put").any(|op| op.asked == **value && !read.before(op));
            if let Some(strange) = shows.iter().find(|value| !is_put(value)) {
                judgement.breach(key, format!("nobody had put {strange:?}"), &[read]);
            }
            for put in of("put") {
                let Some(value) = put.asked.as_str() else { continue };
                let is_shown = shows.contains(&value);
                if put.outcome == Outcome::Fail && is_shown {
                    judgement.breach(key, "a value whose put failed is there", &[put, read]);
                }
                let may_be_deleted =
                    of("delete").any(|op| op.outcome != Outcome::Fail && covers(op, value));
                if put.is_ok() && put.before(read) && !is_shown && !may_be_deleted {
                    judgement.breach(key, "a value that nobody deleted is gone", &[put, read]);
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
        1 put 0 1 "a" ok true
        2 put 2 3 "b" ok true
        1 read 4 5 null ok ["a","b"]
        1 delete 6 7 ["a"] ok true
        3 put 8 9 "c" fail "unavailable"
        1 read 10 11 null ok ["b"]
    "#;

    #[test]
    fn deletes_that_hold_pass() {
        assert_eq!(judge(&told(GOOD)).breaches, []);
    }

    #[test]
    fn each_breach_is_named() {
        for (line, name) in [
            (r#"4 read 12 13 null ok ["a","b"]"#, "a deleted value is back"),
            (r#"4 read 12 13 null ok []"#, "a value that nobody deleted is gone"),
            (r#"4 read 12 13 null ok ["b","c"]"#, "a value whose put failed is there"),
            (r#"4 read 12 13 null ok ["b","x"]"#, "nobody had put \"x\""),
        ] {
            let breaches = judge(&told(&(GOOD.to_owned() + line))).breaches;
            assert!(breaches.iter().any(|breach| breach.what == name), "{line}: {breaches:?}");
        }
    }
}
