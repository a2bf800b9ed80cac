//! Locks with fences. A client acquires a lock for a second or two, writes to what the lock guards
//! under its fence, sometimes sleeps longer than it may, writes again, and gives the lock back.
//!
//! `acquire` learns `{"fence": n}` or `{"held": true}`; `guarded` asks for `{"fence", "value"}` and
//! learns true or `{"refused": …}`; `read` learns the value, which begins with its fence;
//! `release` asks for the fence.

use std::collections::BTreeMap;
use std::time::Duration;

use henge::client::{Call, Reply};
use hyper::http::Method;
use serde_json::{Value, json};

use crate::check::Judgement;
use crate::history::{History, Op, Outcome};
use crate::session::{Effect, Session, TIMEOUT};

use super::{keys_of, shown};

pub async fn step(session: &mut Session) {
    let key = session.key();
    if session.rng.below(10) < 2 {
        let target = session.stage.path(&key) + "&level=serial";
        let call = Call::new(Method::GET, target);
        session.attempt(("read", &key, Value::Null), call, Effect::Reads, shown).await;
        return;
    }
    let ttl_ms = session.rng.between(1_000, 1_500);
    let owner = session.value();
    let body = json!({ "owner": owner, "ttl_ms": ttl_ms }).to_string();
    let call = Call::new(Method::POST, format!("/v1/locks/{key}?{TIMEOUT}")).body(body);
    let asked = ("acquire", &*key, json!(owner));
    let acquired = session.attempt(asked, call, Effect::Writes, granted).await;
    let Some(fence) = acquired.learnt.get("fence").and_then(Value::as_u64) else { return };
    for _ in 0..session.rng.between(1, 3) {
        guarded(session, &key, fence).await;
    }
    if session.rng.below(10) < 2 {
        // Whoever sleeps through the lease may find the next holder's write.
        tokio::time::sleep(Duration::from_millis(ttl_ms + 100)).await;
        guarded(session, &key, fence).await;
    }
    if session.rng.below(10) < 8 {
        let target = format!("/v1/locks/{key}?{TIMEOUT}");
        let call = Call::new(Method::DELETE, target).header("if-fence", &fence.to_string());
        let Ok(call) = call else { return };
        let done =
            |reply: &Reply| matches!(reply.status.as_u16(), 204 | 412).then_some(json!(true));
        session.attempt(("release", &key, json!(fence)), call, Effect::Writes, done).await;
    }
}

fn granted(reply: &Reply) -> Option<Value> {
    match reply.status.as_u16() {
        201 => Some(json!({ "fence": reply.json::<Value>().ok()?["fence"].as_u64()? })),
        409 => Some(json!({ "held": true })),
        _ => None,
    }
}

async fn guarded(session: &mut Session, key: &str, fence: u64) {
    let value = format!("{fence}:{}", session.value());
    let call = Call::new(Method::PUT, session.stage.path(key)).body(value.clone());
    let Ok(call) = call.header("if-fence", &fence.to_string()) else { return };
    let done = |reply: &Reply| match reply.status.as_u16() {
        200..300 => Some(json!(true)),
        412 => Some(json!({ "refused": reply.refused().to_string() })),
        _ => None,
    };
    let asked = ("guarded", key, json!({ "fence": fence, "value": value }));
    session.attempt(asked, call, Effect::Writes, done).await;
}

pub async fn finish(session: &mut Session) -> bool {
    let mut all = true;
    for key in keys_of(&session.stage) {
        let target = session.stage.path(&key) + "&level=serial";
        all &= session.insist("read", &key, &target, shown).await;
    }
    all
}

/// The fence of a grant.
fn fence_granted(op: &Op) -> Option<u64> {
    (op.f == "acquire" && op.is_ok()).then(|| op.learnt["fence"].as_u64())?
}

/// The fence of a guarded write that was taken.
fn fence_taken(op: &Op) -> Option<u64> {
    (op.f == "guarded" && op.is_ok() && op.learnt == true).then(|| op.asked["fence"].as_u64())?
}

/// The fence of the value that a read shows.
fn fence_shown(op: &Op) -> Option<u64> {
    (op.f == "read" && op.is_ok())
        .then(|| op.learnt_text().map_or(Some(0), |text| text.split_once(':')?.0.parse().ok()))?
}

pub fn judge(history: &History) -> Judgement {
    let mut judgement = Judgement::default();
    let mut overlaps = 0;
    for (key, ops) in history.by_key() {
        judgement.keys += 1;
        let mut grants: BTreeMap<u64, &Op> = BTreeMap::new();
        for &op in &ops {
            let Some(fence) = fence_granted(op) else { continue };
            if let Some(other) = grants.insert(fence, op) {
                judgement.breach(key, format!("fence {fence} was given twice"), &[other, op]);
            }
        }
        let pairs = |a: fn(&Op) -> Option<u64>, b: fn(&Op) -> Option<u64>| {
            let mut found = Vec::new();
            for &first in &ops {
                let Some(high) = a(first) else { continue };
                for &second in ops.iter().filter(|op| first.before(op)) {
                    if b(second).is_some_and(|low| low < high) {
                        found.push((first, second));
                    }
                }
            }
            found
        };
        for (first, second) in pairs(fence_granted, fence_granted) {
            judgement.breach(key, "a later grant has a smaller fence", &[first, second]);
        }
        for (first, second) in pairs(fence_taken, fence_taken) {
            judgement.breach(key, "a write with an older fence was taken", &[first, second]);
        }
        for &read in ops.iter().filter(|op| op.f == "read" && op.is_ok()) {
            let not_done = |op: &&&Op| {
                op.f == "guarded"
                    && (op.outcome == Outcome::Fail || op.learnt.get("refused").is_some())
                    && op.asked["value"] == read.learnt
            };
            if let Some(write) = ops.iter().find(not_done) {
                judgement.breach(key, "a write that was refused is there", &[write, read]);
            }
        }
        for (first, second) in pairs(fence_taken, fence_shown) {
            judgement.breach(
                key,
                "a read shows less than the last guarded write",
                &[first, second],
            );
        }
        overlaps += pairs(fence_granted, fence_taken).len();
    }
    if overlaps > 0 {
        judgement.notes.push(format!(
            "{overlaps} writes were taken after a newer grant and before its holder wrote: a lease \
             is no mutual exclusion, and a fence bars only from the newer holder's first write on"
        ));
    }
    judgement
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::told;

    const GOOD: &str = r#"
        1 acquire 0 1 "x" ok {"fence":1}
        1 guarded 2 3 {"fence":1,"value":"1:a"} ok true
        2 acquire 4 5 "y" ok {"held":true}
        2 acquire 6 7 "y" ok {"fence":2}
        1 guarded 8 9 {"fence":1,"value":"1:b"} ok true
        2 guarded 10 11 {"fence":2,"value":"2:c"} ok true
        1 guarded 12 13 {"fence":1,"value":"1:d"} ok {"refused":"fence-too-old"}
        3 read 14 15 null ok "2:c"
    "#;

    #[test]
    fn fences_that_hold_pass_and_overlaps_are_noted() {
        let judgement = judge(&told(GOOD));
        assert_eq!(judgement.breaches, []);
        assert_eq!(judgement.notes.len(), 1);
    }

    #[test]
    fn each_breach_is_named() {
        for (line, name) in [
            (r#"4 acquire 16 17 "z" ok {"fence":2}"#, "fence 2 was given twice"),
            (r#"4 acquire 16 17 "z" ok {"fence":1}"#, "a later grant has a smaller fence"),
            (
                r#"4 guarded 16 17 {"fence":1,"value":"1:e"} ok true"#,
                "a write with an older fence was taken",
            ),
            (r#"4 read 16 17 null ok "1:b""#, "a read shows less than the last guarded write"),
            (r#"4 read 16 17 null ok "1:d""#, "a write that was refused is there"),
        ] {
            let breaches = judge(&told(&(GOOD.to_owned() + line))).breaches;
            assert!(breaches.iter().any(|breach| breach.what == name), "{line}: {breaches:?}");
        }
    }
}
