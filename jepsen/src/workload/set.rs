//! A set: each client adds unique elements, blindly, to a key that keeps siblings, at quorum; a
//! read at quorum shows the elements.
//!
//! `add` asks for the element; `read` learns the list.

use std::collections::BTreeSet;

use henge::client::{Call, Reply};
use hyper::http::Method;
use serde_json::{Value, json};

use crate::check::Judgement;
use crate::history::{History, Op, Outcome};
use crate::session::{Effect, Session};

use super::{keys_of, shown_all, texts};

pub async fn step(session: &mut Session) {
    let key = session.any_key();
    if session.rng.below(10) < 4 {
        let call = Call::new(Method::GET, session.stage.path(&key));
        session.attempt(("read", &key, Value::Null), call, Effect::Reads, shown_all).await;
        return;
    }
    let value = session.value();
    let call = Call::new(Method::PUT, session.stage.path(&key)).body(value.clone());
    let done = |reply: &Reply| (reply.status.as_u16() < 300).then_some(json!(true));
    session.attempt(("add", &key, json!(value)), call, Effect::Writes, done).await;
}

pub async fn finish(session: &mut Session) -> bool {
    let mut all = true;
    for key in keys_of(&session.stage) {
        let target = session.stage.path(&key);
        all &= session.insist("read", &key, &target, shown_all).await;
    }
    all
}

/// Also for sets that are merged by their clients: each read must show what was acknowledged, or
/// shown, before it began, and nothing that nobody added or whose add failed.
pub fn judge(history: &History) -> Judgement {
    let mut judgement = Judgement::default();
    for (key, ops) in history.by_key() {
        judgement.keys += 1;
        let adds: Vec<&Op> = ops.iter().copied().filter(|op| op.f == "add").collect();
        let reads: Vec<&Op> =
            ops.iter().copied().filter(|op| op.f == "read" && op.is_ok()).collect();
        for (n, read) in reads.iter().enumerate() {
            let shows: BTreeSet<&str> = texts(&read.learnt).into_iter().collect();
            let has = |op: &Op| op.asked.as_str().is_some_and(|element| shows.contains(element));
            for add in &adds {
                if add.is_ok() && add.before(read) && !has(add) {
                    judgement.breach(key, "an acknowledged element is missing", &[add, read]);
                }
                if add.outcome == Outcome::Fail && has(add) {
                    judgement.breach(key, "an element whose add failed is there", &[add, read]);
                }
            }
            for earlier in reads[..n].iter().filter(|earlier| earlier.before(read)) {
                if texts(&earlier.learnt).iter().any(|element| !shows.contains(element)) {
                    judgement.breach(key, "a later read shows less", &[earlier, read]);
                }
            }
            let added: BTreeSet<&str> = adds.iter().filter_map(|add| add.asked.as_str()).collect();
            if let Some(strange) = shows.iter().find(|element| !added.contains(*element)) {
                judgement.breach(key, format!("nobody added {strange:?}"), &[read]);
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
        1 add 0 1 "a" ok true
        2 add 2 - "b" info null
        3 add 3 4 "c" fail "unavailable"
        1 read 5 6 null ok ["a","b"]
    "#;

    #[test]
    fn a_set_that_keeps_everything_passes() {
        assert_eq!(judge(&told(GOOD)).breaches, []);
    }

    #[test]
    fn each_breach_is_named() {
        for (line, name) in [
            (r#"4 read 8 9 null ok ["b"]"#, "an acknowledged element is missing"),
            (r#"4 read 8 9 null ok ["a","b","c"]"#, "an element whose add failed is there"),
            (r#"4 read 8 9 null ok ["a"]"#, "a later read shows less"),
            (r#"4 read 8 9 null ok ["a","b","x"]"#, "nobody added \"x\""),
        ] {
            let breaches = judge(&told(&(GOOD.to_owned() + line))).breaches;
            assert!(breaches.iter().any(|breach| breach.what == name), "{line}: {breaches:?}");
        }
    }
}
