//! A register per key that only lightweight transactions write: serial reads, blind writes,
//! compare-and-set (`register`); and many clients that create one key (`create`).
//!
//! `read` learns the value or null. `write` asks for a value. `cas` asks for `[expected, new]`, and
//! `create` for `[null, new]`; they learn true, or `{"refused": what stood there}`, which is part
//! of the linearizable answer.

use std::collections::BTreeMap;

use henge::client::{Call, Reply};
use henge::sim::check::linear::{self, Verdict};
use hyper::http::Method;
use serde_json::{Value, json};

use crate::check::Judgement;
use crate::history::{History, Op, Outcome};
use crate::session::{Effect, Session};

use super::{keys_of, shown};

/// Steps of the search through the orders of one key.
const BUDGET: u64 = 3_000_000;

pub async fn step(session: &mut Session) {
    let key = session.key();
    match session.rng.below(10) {
        0..3 => read(session, &key).await,
        3..5 => write(session, &key).await,
        _ if session.seen.is_empty() => read(session, &key).await,
        choice => {
            // What was read long ago is mostly refused.
            if choice >= 7 {
                read(session, &key).await;
            }
            // Mostly what was read last, sometimes something older.
            let newest = session.seen.len() - 1;
            let at = if session.rng.below(10) < 7 { newest } else { session.rng.index(newest + 1) };
            let expected = session.seen[at].clone();
            compare_and_set(session, "cas", &key, expected).await;
        }
    }
}

/// Reads and creates; whoever comes late is shown the winner.
pub async fn create_step(session: &mut Session) {
    let key = session.key();
    if session.rng.below(10) < 4 {
        read(session, &key).await;
    } else {
        compare_and_set(session, "create", &key, (Value::Null, None)).await;
    }
}

async fn read(session: &mut Session, key: &str) {
    let call = Call::new(Method::GET, session.stage.path(key) + "&level=serial");
    let attempt = session.attempt(("read", key, Value::Null), call, Effect::Reads, shown).await;
    if attempt.is_ok() {
        session.seen.push((attempt.learnt.clone(), attempt.header("etag")));
    }
}

async fn write(session: &mut Session, key: &str) {
    let value = session.value();
    let call = Call::new(Method::PUT, session.stage.path(key)).body(value.clone());
    let done = |reply: &Reply| (reply.status.as_u16() < 300).then_some(json!(true));
    session.attempt(("write", key, json!(value)), call, Effect::Writes, done).await;
}

pub(super) async fn compare_and_set(
    session: &mut Session,
    f: &str,
    key: &str,
    (expected, etag): (Value, Option<String>),
) {
    let value = session.value();
    let call = Call::new(Method::PUT, session.stage.path(key)).body(value.clone());
    let call = match &etag {
        Some(etag) if !expected.is_null() => call.header("if-match", etag),
        _ => call.header("if-none-match", "*"),
    };
    let Ok(call) = call else { return };
    let asked = json!([expected, value]);
    let attempt = session.attempt((f, key, asked), call, Effect::Writes, swapped).await;
    let etag = attempt.header("etag");
    match (attempt.is_ok(), attempt.learnt.get("refused"), etag) {
        (true, None, etag @ Some(_)) => session.seen.push((json!(value), etag)),
        (true, Some(stood), _) => {
            let body: Value = attempt.reply.and_then(|reply| reply.json().ok()).unwrap_or_default();
            let etag = body["current"]["etag"].as_str().map(str::to_owned);
            session.seen.push((stood.clone(), etag));
        }
        _ => {}
    }
}

/// What a conditional write's answer tells.
pub(super) fn swapped(reply: &Reply) -> Option<Value> {
    match reply.status.as_u16() {
        200..300 => Some(json!(true)),
        412 => {
            let body: Value = reply.json().ok()?;
            let current = body.get("current")?;
            let stood = match current.get("siblings") {
                Some(siblings) => siblings.clone(),
                None => current.get("value").cloned().unwrap_or_default(),
            };
            Some(json!({ "refused": stood }))
        }
        _ => None,
    }
}

pub async fn finish(session: &mut Session) -> bool {
    let mut all = true;
    for key in keys_of(&session.stage) {
        let target = session.stage.path(&key) + "&level=serial";
        // Twice: what the first has settled may not change any more.
        for _ in 0..2 {
            all &= session.insist("read", &key, &target, shown).await;
        }
    }
    all
}

/// What stands under a key: the number of a value, 0 for none.
type State = u32;

/// An operation and its answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Did {
    Read(State),
    Wrote(State),
    Swapped { expected: State, new: State },
    Refused { expected: State, stood: State },
}

/// The sequential register.
pub(crate) fn apply(state: State, did: &Did) -> Option<State> {
    match did {
        Did::Read(shown) => (state == *shown).then_some(state),
        Did::Wrote(new) => Some(*new),
        Did::Swapped { expected, new } => (state == *expected).then_some(*new),
        Did::Refused { expected, stood } => {
            (state != *expected && state == *stood).then_some(state)
        }
    }
}

/// Gives values numbers; null is 0. Several values at once are one that nobody wrote.
#[derive(Default)]
struct Numbers(BTreeMap<String, State>);

impl Numbers {
    fn of(&mut self, value: &Value) -> State {
        let next = self.0.len() as State + 1;
        if value.is_null() { 0 } else { *self.0.entry(value.to_string()).or_insert(next) }
    }
}

/// One key's operations as calls of the register, with their places among `ops`.
pub(crate) fn calls(ops: &[&Op]) -> Vec<(usize, linear::Call<Did>)> {
    let mut numbers = Numbers::default();
    let mut found = Vec::new();
    let mut shown = std::collections::BTreeSet::new();
    for (at, op) in ops.iter().enumerate() {
        let pair = |asked: usize| &op.asked[asked];
        let did = match (op.f.as_str(), op.outcome, op.learnt.get("refused")) {
            (_, Outcome::Fail, _) | ("read", Outcome::Info, _) => continue,
            ("read", _, _) => Did::Read(numbers.of(&op.learnt)),
            ("write", _, _) => Did::Wrote(numbers.of(&op.asked)),
            (_, _, None) => {
                Did::Swapped { expected: numbers.of(pair(0)), new: numbers.of(pair(1)) }
            }
            (_, _, Some(stood)) => {
                Did::Refused { expected: numbers.of(pair(0)), stood: numbers.of(stood) }
            }
        };
        match (&did, op.outcome) {
            (Did::Read(state) | Did::Refused { stood: state, .. }, _) => {
                shown.insert(*state);
            }
            // Of an open one too: it may have made a value that was seen.
            (Did::Swapped { expected, .. }, _) => {
                shown.insert(*expected);
            }
            _ => {}
        }
        found.push((at, linear::Call { begun: op.call.i, ended: op.ended(), what: did }));
    }
    // An open write whose value nobody has seen may never have happened, and any order with it is
    // one without it.
    found.retain(|(_, call)| match call.what {
        Did::Wrote(new) | Did::Swapped { new, .. } => call.ended.is_some() || shown.contains(&new),
        Did::Read(_) | Did::Refused { .. } => true,
    });
    found
}

pub fn judge(history: &History) -> Judgement {
    let mut judgement = Judgement::default();
    for (key, ops) in history.by_key() {
        judgement.keys += 1;
        let calls = calls(&ops);
        let places: Vec<usize> = calls.iter().map(|(at, _)| *at).collect();
        let calls: Vec<_> = calls.into_iter().map(|(_, call)| call).collect();
        match linear::check(&calls, 0, |state, did| apply(*state, did), BUDGET) {
            Verdict::Linearizable => {}
            Verdict::Unknown => judgement.undecided += 1,
            Verdict::Broken { longest, stuck } => {
                let what = format!(
                    "not linearizable: {} of {} operations have an order; none of the last {} can \
                     come next",
                    longest.len(),
                    calls.len(),
                    stuck.len()
                );
                let proof = longest.iter().rev().take(3).rev().chain(&stuck);
                let proof: Vec<&Op> = proof.map(|&at| ops[places[at]]).collect();
                judgement.breach(key, what, &proof);
            }
        }
        winners(key, &ops, &mut judgement);
    }
    judgement
}

/// Plain writes beside conditional ones are not ordered against them: how often that showed is no
/// breach. What did not happen shows nowhere even so.
pub fn judge_mixed(history: &History) -> Judgement {
    let allowed = judge(history).breaches;
    let mut judgement = Judgement::default();
    for (key, ops) in history.by_key() {
        judgement.keys += 1;
        for read in ops.iter().filter(|op| op.f == "read" && op.is_ok()) {
            let failed = |op: &&&Op| op.f == "write" && op.outcome == Outcome::Fail;
            let wrote = ops.iter().filter(failed).find(|op| op.asked == read.learnt);
            if let Some(write) = wrote {
                judgement.breach(key, "a value whose write failed is there", &[write, read]);
            }
        }
    }
    if let Some(first) = allowed.first() {
        judgement.notes.push(format!(
            "{} keys have no one order of plain and conditional writes, as may be; the first: {}",
            allowed.len(),
            first.proof.join(" | ")
        ));
    }
    judgement
}

/// Of those who created a key, at most one was told that it had won.
fn winners(key: &str, ops: &[&Op], judgement: &mut Judgement) {
    let won = |op: &&&Op| op.f == "create" && op.is_ok() && op.learnt.get("refused").is_none();
    let winners: Vec<&Op> = ops.iter().filter(won).copied().collect();
    if winners.len() > 1 {
        judgement.breach(key, format!("{} clients created it", winners.len()), &winners);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::told;

    const GOOD: &str = r#"
        1 cas 0 3 [null,"a"] ok true
        2 read 1 2 null ok null
        2 read 4 5 null ok "a"
        3 cas 6 7 [null,"b"] ok {"refused":"a"}
        3 write 8 - "c" info null
        2 read 9 10 null ok "a"
        2 read 11 12 null ok "c"
        4 write 13 14 "d" fail "unavailable"
        2 read 15 16 null ok "c"
    "#;

    #[test]
    fn a_linearizable_history_passes() {
        assert_eq!(judge(&told(GOOD)).breaches, []);
    }

    #[test]
    fn each_breach_is_named() {
        let stale = GOOD.to_owned() + r#"5 read 17 18 null ok "a""#;
        let failed = GOOD.to_owned() + r#"5 read 17 18 null ok "d""#;
        let refused = GOOD.to_owned() + r#"5 cas 17 18 ["c","x"] ok {"refused":"c"}"#;
        let invented = GOOD.to_owned() + r#"5 read 17 18 null ok "zz""#;
        for broken in [stale, failed, refused, invented] {
            let breaches = judge(&told(&broken)).breaches;
            assert_eq!(breaches.len(), 1, "{broken}");
            assert!(breaches[0].what.starts_with("not linearizable"), "{breaches:?}");
        }
    }

    #[test]
    fn without_an_order_between_plain_and_conditional_writes_only_a_failed_one_is_a_breach() {
        let unordered = GOOD.to_owned() + r#"5 read 17 18 null ok "a""#;
        let judgement = judge_mixed(&told(&unordered));
        assert_eq!((judgement.breaches.len(), judgement.notes.len()), (0, 1));
        let failed = GOOD.to_owned() + r#"5 read 17 18 null ok "d""#;
        let breaches = judge_mixed(&told(&failed)).breaches;
        assert_eq!(breaches[0].what, "a value whose write failed is there");
    }

    /// Found by the cross-check: of two open writes the first was left out, and the second not.
    #[test]
    fn what_an_open_swap_replaces_may_be_of_an_open_write() {
        let history = r#"
            1 write 0 - "a" info null
            2 cas 1 - ["a","b"] info null
            3 cas 2 3 ["b","c"] ok true
        "#;
        assert_eq!(judge(&told(history)).breaches, []);
    }

    #[test]
    fn several_values_at_once_are_not_taken_for_none() {
        let open = r#"
            1 create 0 - [null,"a"] info null
            2 create 1 - [null,"b"] info null
        "#;
        assert_eq!(judge(&told(open)).breaches, []);
        for line in [
            r#"3 read 2 3 null ok ["a","b"]"#,
            r#"3 create 2 3 ["x","c"] ok {"refused":["a","b"]}"#,
        ] {
            assert_eq!(judge(&told(&(open.to_owned() + line))).breaches.len(), 1, "{line}");
        }
    }

    #[test]
    fn two_winners_are_named() {
        let history = r#"
            1 create 0 3 [null,"a"] ok true
            2 create 1 2 [null,"b"] ok true
        "#;
        let breaches = judge(&told(history)).breaches;
        assert!(
            breaches.iter().any(|breach| breach.what == "2 clients created it"),
            "{breaches:?}"
        );
    }
}
