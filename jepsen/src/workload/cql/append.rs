//! A list per key through CQL, to which elements are appended under a condition: all serial reads
//! show beginnings of one list, in whose order no append stands before one that was over when it
//! began.
//!
//! `append` and `create` (the first append) ask for an element; they learn true, or
//! `{"refused": true}` where there was no list yet, or one already. `read` learns the list.

use std::collections::BTreeMap;

use henge::client::CqlRows;
use serde_json::{Value, json};

use crate::check::Judgement;
use crate::door::Level;
use crate::history::{History, Op, Outcome};
use crate::session::{Effect, Session};

use super::super::texts;
use super::{elements, read, read_all};

pub const COLUMNS: &str = "v list<text>";

fn appended(rows: &CqlRows) -> Option<Value> {
    let applied = rows.applied()?;
    Some(if applied { json!(true) } else { json!({ "refused": true }) })
}

pub async fn step(session: &mut Session) {
    let key = session.key();
    if session.rng.below(10) < 4 {
        if let Some(list) = read(session, &key, Level::Serial, elements).await {
            session.seen = vec![(list, None)];
        }
        return;
    }
    let (value, table) = (session.value(), &session.stage.bucket);
    let is_there = session.seen.first().is_some_and(|(list, _)| !texts(list).is_empty());
    let (f, statement) = if is_there {
        (
            "append",
            format!("UPDATE jepsen.{table} SET v = v + ['{value}'] WHERE k = '{key}' IF EXISTS"),
        )
    } else {
        (
            "create",
            format!(
                "INSERT INTO jepsen.{table} (k, v) VALUES ('{key}', ['{value}']) IF NOT EXISTS"
            ),
        )
    };
    let asked = (f, &*key, json!(value));
    let attempt = session.ask(asked, &statement, Level::Quorum, Effect::Writes, appended).await;
    // Created by now, by whomever.
    if attempt.is_ok() {
        session.seen = vec![(json!([value]), None)];
    }
}

pub async fn finish(session: &mut Session) -> bool {
    read_all(session, |_| Level::Serial, 2, elements).await
}

pub fn judge(history: &History) -> Judgement {
    let mut judgement = Judgement::default();
    for (key, ops) in history.by_key() {
        judgement.keys += 1;
        let is_read = |op: &&Op| op.f == "read" && op.is_ok();
        let reads: Vec<&Op> = ops.iter().copied().filter(is_read).collect();
        let appends: Vec<&Op> = ops.iter().copied().filter(|op| op.f != "read").collect();
        let refused = |op: &Op| op.outcome == Outcome::Fail || op.learnt.get("refused").is_some();
        let Some(longest) = reads.iter().copied().max_by_key(|op| texts(&op.learnt).len()) else {
            continue;
        };
        let order = texts(&longest.learnt);
        let mut places = BTreeMap::new();
        for (at, element) in order.iter().enumerate() {
            if places.insert(*element, at).is_some() {
                judgement.breach(key, format!("{element:?} is there twice"), &[longest]);
            }
            match appends.iter().find(|op| op.asked.as_str() == Some(element)) {
                Some(op) if refused(op) => {
                    judgement.breach(
                        key,
                        "an element whose append failed is there",
                        &[op, longest],
                    );
                }
                Some(_) => {}
                None => judgement.breach(key, format!("nobody appended {element:?}"), &[longest]),
            }
        }
        let place = |op: &Op| places.get(op.asked.as_str()?).copied();
        for (n, read) in reads.iter().enumerate() {
            let shows = texts(&read.learnt);
            if !order.starts_with(&shows) {
                judgement.breach(key, "two reads show different orders", &[read, longest]);
            }
            for append in &appends {
                let is_over = append.is_ok() && !refused(append) && append.before(read);
                let is_shown = append.asked.as_str().is_some_and(|own| shows.contains(&own));
                if is_over && !is_shown {
                    judgement.breach(key, "an acknowledged element is missing", &[append, read]);
                }
            }
            let is_less =
                |earlier: &&&Op| earlier.before(read) && texts(&earlier.learnt).len() > shows.len();
            if let Some(earlier) = reads[..n].iter().find(is_less) {
                judgement.breach(key, "a later read shows less", &[earlier, read]);
            }
        }
        for later in &appends {
            for earlier in appends.iter().filter(|op| op.is_ok() && op.before(later)) {
                if let (Some(first), Some(second)) = (place(earlier), place(later))
                    && first > second
                {
                    judgement.breach(
                        key,
                        "an append stands before an earlier one",
                        &[earlier, later],
                    );
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
        1 create 0 1 "a" ok true
        2 create 0 2 "x" ok {"refused":true}
        2 append 3 4 "b" ok true
        3 append 3 - "c" info null
        1 read 5 6 null ok ["a","b"]
        4 append 7 8 "d" fail "unavailable"
        1 read 9 10 null ok ["a","b","c"]
    "#;

    #[test]
    fn a_list_in_one_order_passes() {
        assert_eq!(judge(&told(GOOD)).breaches, []);
    }

    #[test]
    fn each_breach_is_named() {
        for (line, name) in [
            (r#"4 read 11 12 null ok ["a","c","b"]"#, "two reads show different orders"),
            (r#"4 read 11 12 null ok ["a","b"]"#, "a later read shows less"),
            (r#"4 read 11 12 null ok ["a"]"#, "an acknowledged element is missing"),
            (
                r#"4 read 11 12 null ok ["a","b","c","d"]"#,
                "an element whose append failed is there",
            ),
            (
                r#"4 read 11 12 null ok ["a","b","c","x"]"#,
                "an element whose append failed is there",
            ),
            (r#"4 read 11 12 null ok ["a","b","c","b"]"#, "\"b\" is there twice"),
            (r#"4 read 11 12 null ok ["a","b","c","y"]"#, "nobody appended \"y\""),
        ] {
            let breaches = judge(&told(&(GOOD.to_owned() + line))).breaches;
            assert!(breaches.iter().any(|breach| breach.what == name), "{line}: {breaches:?}");
        }
        let turned = r#"
            1 create 0 1 "a" ok true
            2 append 2 3 "b" ok true
            3 append 4 5 "c" ok true
            1 read 6 7 null ok ["a","c","b"]
        "#;
        let breaches = judge(&told(turned)).breaches;
        assert_eq!(breaches[0].what, "an append stands before an earlier one");
    }
}
