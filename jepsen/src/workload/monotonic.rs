//! One writer with growing numbers in a last-write-wins bucket, and many readers, at quorum. Reads
//! never go back, and show every acknowledged write that began before them, whatever the clocks.
//!
//! `write` asks for a number, `read` learns one (null: none yet). The writer leaves a key whose
//! last write stays open: another one would be concurrent with it.

use henge::client::{Call, Reply};
use hyper::http::Method;
use serde_json::{Value, json};

use crate::check::{Breach, Judgement};
use crate::history::{History, Op, Outcome};
use crate::session::{Effect, Session};

use super::{Kind, keys_of, shown};

const FAILED_IS_THERE: &str = "a number whose write failed is there";

const INVENTED: &str = "a number that nobody had begun to write is there";

fn number(reply: &Reply) -> Option<Value> {
    match shown(reply)? {
        Value::Null => Some(Value::Null),
        value => Some(json!(value.as_str()?.parse::<u64>().ok()?)),
    }
}

pub async fn step(session: &mut Session) {
    // The first client of each group is its writer.
    if session.number as usize >= session.stage.keys.len() {
        // Often one that its writer has left with its last write open.
        let key = if session.rng.below(3) == 0 {
            session.earlier_key()
        } else {
            session.keys().current()
        };
        let level = if session.stage.kind == Kind::Weak { "&level=one" } else { "" };
        let call = Call::new(Method::GET, session.stage.path(&key) + level);
        session.attempt(("read", &key, Value::Null), call, Effect::Reads, number).await;
        return;
    }
    let key = session.key();
    let last = session.seen.pop().and_then(|(last, _)| last.as_u64()).unwrap_or_default();
    let next = last + 1;
    session.seen.push((json!(next), None));
    let call = Call::new(Method::PUT, session.stage.path(&key)).body(next.to_string());
    let done = |reply: &Reply| (reply.status.as_u16() < 300).then_some(json!(true));
    let wrote = session.attempt(("write", &key, json!(next)), call, Effect::Writes, done).await;
    session.move_on();
    if wrote.outcome == Outcome::Info {
        session.keys().leave();
    }
}

pub async fn finish(session: &mut Session) -> bool {
    let mut all = true;
    for key in keys_of(&session.stage) {
        let target = session.stage.path(&key);
        for _ in 0..2 {
            all &= session.insist("read", &key, &target, number).await;
        }
    }
    all
}

pub fn judge(history: &History) -> Judgement {
    let mut judgement = Judgement::default();
    for (key, ops) in history.by_key() {
        judgement.keys += 1;
        // What was known at the end of each operation, in the order of their ends.
        let mut known: Vec<(u64, u64, &Op)> = ops
            .iter()
            .copied()
            .filter(|op| op.is_ok())
            .filter_map(|op| {
                let value = if op.f == "write" { &op.asked } else { &op.learnt };
                Some((op.ended()?, value.as_u64().unwrap_or_default(), op))
            })
            .collect();
        known.sort_by_key(|(end, ..)| *end);
        // The greatest so far replaces each, so that the last one before a read is its bound.
        let mut greatest: Vec<(u64, u64, &Op)> = Vec::with_capacity(known.len());
        for (end, value, op) in known {
            match greatest.last() {
                Some(&(_, best, holder)) if best > value => greatest.push((end, best, holder)),
                _ => greatest.push((end, value, op)),
            }
        }
        for read in ops.iter().copied().filter(|op| op.f == "read" && op.is_ok()) {
            let shows = read.learnt.as_u64().unwrap_or_default();
            let before = greatest.partition_point(|(end, ..)| *end < read.call.i);
            let bound = before.checked_sub(1).and_then(|at| greatest.get(at));
            if let Some((_, _, holder)) = bound.filter(|(_, least, _)| *least > shows) {
                let what = match holder.f.as_str() {
                    "write" => "a read misses an acknowledged write",
                    _ => "a later read shows an older number",
                };
                judgement.breach(key, what, &[holder, read]);
            }
            let begun = |op: &&Op| op.f == "write" && !read.before(op);
            if shows > 0 && !ops.iter().copied().filter(begun).any(|op| op.asked == read.learnt) {
                judgement.breach(key, INVENTED, &[read]);
            }
            let failed = |op: &&Op| op.f == "write" && op.outcome == Outcome::Fail;
            let wrote = ops.iter().copied().filter(failed).find(|op| op.asked == read.learnt);
            if let Some(write) = wrote {
                judgement.breach(key, FAILED_IS_THERE, &[write, read]);
            }
        }
    }
    judgement
}

/// Reads of one replica may be stale: how often they were is no breach.
pub fn judge_weak(history: &History) -> Judgement {
    let mut judgement = judge(history);
    let stale = |breach: &Breach| ![FAILED_IS_THERE, INVENTED].contains(&&*breach.what);
    let (allowed, breaches): (Vec<_>, Vec<_>) = judgement.breaches.into_iter().partition(stale);
    judgement.breaches = breaches;
    if let Some(first) = allowed.first() {
        judgement.notes.push(format!(
            "{} reads of one replica were stale, as they may be; the first: {}",
            allowed.len(),
            first.proof.join(" | ")
        ));
    }
    judgement
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::told;

    const GOOD: &str = "
        1 write 0 1 1 ok true
        2 read 2 5 null ok 1
        1 write 3 4 2 ok true
        1 write 6 7 3 fail \"unavailable\"
        2 read 8 9 null ok 2
        1 write 10 - 4 info null
        2 read 11 12 null ok 4
    ";

    #[test]
    fn reads_that_never_go_back_pass() {
        assert_eq!(judge(&told(GOOD)).breaches, []);
    }

    #[test]
    fn a_stale_read_of_one_replica_is_only_noted() {
        let stale = told(&(GOOD.to_owned() + "3 read 13 14 null ok 2"));
        let judgement = judge_weak(&stale);
        assert_eq!((judgement.breaches.len(), judgement.notes.len()), (0, 1));
    }

    #[test]
    fn each_breach_is_named() {
        for (text, line, name) in [
            (GOOD, "3 read 13 14 null ok 2", "a later read shows an older number"),
            (
                "1 write 0 1 1 ok true\n",
                "3 read 13 14 null ok null",
                "a read misses an acknowledged write",
            ),
            (GOOD, "3 read 8 9 null ok 3", FAILED_IS_THERE),
            (GOOD, "3 read 13 14 null ok 9", INVENTED),
            ("1 read 0 1 null ok 1\n", "2 write 2 3 1 ok true", INVENTED),
        ] {
            let breaches = judge(&told(&(text.to_owned() + line))).breaches;
            assert!(breaches.iter().any(|breach| breach.what == name), "{line}: {breaches:?}");
        }
    }
}
