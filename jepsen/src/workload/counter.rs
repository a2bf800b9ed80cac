//! A counter by compare-and-set: read the number, write the next one if nothing has changed.
//!
//! `read` learns the number. `increment` asks for the new number; it learns true or
//! `{"refused": what stood there}`.

use std::collections::BTreeMap;

use henge::client::{Call, Reply};
use hyper::http::Method;
use serde_json::{Value, json};

use crate::check::Judgement;
use crate::history::{History, Op, Outcome};
use crate::session::{Effect, Session};

use super::{keys_of, register::swapped, shown};

fn number(reply: &Reply) -> Option<Value> {
    match shown(reply)? {
        Value::Null => Some(json!(0)),
        value => Some(json!(value.as_str()?.parse::<u64>().ok()?)),
    }
}

pub async fn step(session: &mut Session) {
    let key = session.key();
    if session.seen.is_empty() || session.rng.below(10) < 2 {
        let call = Call::new(Method::GET, session.stage.path(&key));
        let asked = ("read", &*key, Value::Null);
        let read = session.attempt(asked, call, Effect::Reads, number).await;
        if read.is_ok() {
            session.seen = vec![(read.learnt.clone(), read.header("etag"))];
        }
        return;
    }
    let Some((stood, etag)) = session.seen.pop() else { return };
    let next = stood.as_u64().unwrap_or_default() + 1;
    let call = Call::new(Method::PUT, session.stage.path(&key)).body(next.to_string());
    let call = match (&etag, next) {
        (Some(etag), 2..) => call.header("if-match", etag),
        _ => call.header("if-none-match", "*"),
    };
    let Ok(call) = call else { return };
    let asked = ("increment", &*key, json!(next));
    let done = session.attempt(asked, call, Effect::Writes, swapped).await;
    if done.is_ok() && done.learnt == true {
        session.seen = vec![(json!(next), done.header("etag"))];
    }
}

pub async fn finish(session: &mut Session) -> bool {
    let mut all = true;
    for key in keys_of(&session.stage) {
        let target = session.stage.path(&key);
        all &= session.insist("read", &key, &target, number).await;
    }
    all
}

pub fn judge(history: &History) -> Judgement {
    let mut judgement = Judgement::default();
    for (key, ops) in history.by_key() {
        judgement.keys += 1;
        let is_done = |op: &&Op| op.f == "increment" && op.is_ok() && op.learnt == true;
        let may_be = |op: &&Op| {
            let open = op.outcome == Outcome::Info;
            op.f == "increment" && (open || is_done(op))
        };
        let mut made: BTreeMap<u64, &Op> = BTreeMap::new();
        for op in ops.iter().copied().filter(is_done) {
            let number = op.asked.as_u64().unwrap_or_default();
            if let Some(other) = made.insert(number, op) {
                judgement.breach(key, format!("{number} was reached twice"), &[other, op]);
            }
        }
        for read in ops.iter().copied().filter(|op| op.f == "read" && op.is_ok()) {
            let shows = read.learnt.as_u64().unwrap_or_default();
            let before = ops.iter().copied().filter(is_done).filter(|op| op.before(read));
            let least = before.max_by_key(|op| op.asked.as_u64());
            if let Some(done) = least.filter(|op| op.asked.as_u64() > Some(shows)) {
                judgement.breach(key, "a read does not see an increment", &[done, read]);
            }
            let begun = |op: &&Op| read.ended().is_some_and(|end| op.call.i < end);
            let most = ops.iter().copied().filter(may_be).filter(begun).count() as u64;
            if shows > most {
                let what = format!("a read shows {shows}, but only {most} were under way");
                judgement.breach(key, what, &[read]);
            }
        }
        let last = ops.iter().copied().rfind(|op| op.f == "read" && op.is_ok());
        if let Some(last) = last {
            let done = made.values().filter(|op| op.before(last)).count() as u64;
            if last.learnt.as_u64() < Some(done) {
                let what = format!("{done} increments were acknowledged before a read");
                judgement.breach(key, what, &[last]);
            }
        }
    }
    judgement
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::told;

    const GOOD: &str = "
        1 increment 0 1 1 ok true
        2 increment 2 3 2 ok true
        3 increment 2 4 2 ok {\"refused\":\"2\"}
        3 increment 5 - 3 info null
        1 read 6 7 null ok 3
    ";

    #[test]
    fn a_counter_that_counts_passes() {
        assert_eq!(judge(&told(GOOD)).breaches, []);
    }

    #[test]
    fn each_breach_is_named() {
        // Without final reads, the last read may have begun before increments.
        let early = "1 read 0 9 null ok 0\n2 increment 1 2 1 ok true";
        assert_eq!(judge(&told(early)).breaches, []);
        for (line, name) in [
            ("4 increment 8 9 2 ok true", "2 was reached twice"),
            ("4 read 8 9 null ok 1", "a read does not see an increment"),
            ("4 read 8 9 null ok 4", "a read shows 4, but only 3 were under way"),
        ] {
            let breaches = judge(&told(&(GOOD.to_owned() + line))).breaches;
            assert!(breaches.iter().any(|breach| breach.what == name), "{line}: {breaches:?}");
        }
    }
}
