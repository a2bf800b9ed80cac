//! A counter per key through CQL: many clients add to a column of type `counter`. Each read lies
//! between what was acknowledged before it began and what may have been counted when it ended.
//!
//! `add` asks for a number, `read` learns the sum. CQL has no name for an increment, so that none is
//! sent again by its client.

use henge::client::CqlRows;
use serde_json::{Value, json};

use crate::check::Judgement;
use crate::door::Level;
use crate::history::{History, Op, Outcome};
use crate::session::Session;

use super::{done, read, read_all, write};

pub const COLUMNS: &str = "v counter";

fn sum(rows: &CqlRows) -> Option<Value> {
    let Some(bytes) = rows.first("v") else { return Some(json!(0)) };
    Some(json!(i64::from_be_bytes(bytes.try_into().ok()?)))
}

pub async fn step(session: &mut Session) {
    let key = session.key();
    if session.rng.below(10) < 4 {
        read(session, &key, Level::Quorum, sum).await;
        return;
    }
    let (more, table) = (session.rng.between(1, 9), &session.stage.bucket);
    let statement = format!("UPDATE jepsen.{table} SET v = v + {more} WHERE k = '{key}'");
    write(session, ("add", &key, json!(more)), &statement, done).await;
}

pub async fn finish(session: &mut Session) -> bool {
    read_all(session, |_| Level::Quorum, 2, sum).await
}

pub fn judge(history: &History) -> Judgement {
    let mut judgement = Judgement::default();
    for (key, ops) in history.by_key() {
        judgement.keys += 1;
        let adds: Vec<&Op> = ops.iter().copied().filter(|op| op.f == "add").collect();
        let amount = |op: &Op| op.asked.as_i64().unwrap_or_default();
        for read in ops.iter().copied().filter(|op| op.f == "read" && op.is_ok()) {
            let shows = read.learnt.as_i64().unwrap_or_default();
            let counted = adds.iter().filter(|add| add.is_ok() && add.before(read));
            let least: i64 = counted.map(|add| amount(add)).sum();
            let may_count = |add: &&&Op| add.outcome != Outcome::Fail && !read.before(add);
            let most: i64 = adds.iter().filter(may_count).map(|add| amount(add)).sum();
            if shows < least {
                judgement.breach(key, format!("{least} were counted before this read"), &[read]);
            }
            if shows > most {
                judgement.breach(key, format!("at most {most} were ever added"), &[read]);
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
        1 add 0 1 5 ok true
        2 add 2 - 3 info null
        3 add 3 4 2 fail \"unavailable\"
        1 read 5 6 null ok 5
        1 read 7 8 null ok 8
        2 add 9 12 1 ok true
        1 read 10 11 null ok 9
    ";

    #[test]
    fn sums_of_what_was_added_pass() {
        assert_eq!(judge(&told(GOOD)).breaches, []);
    }

    #[test]
    fn each_breach_is_named() {
        for (line, name) in [
            ("4 read 13 14 null ok 5", "6 were counted before this read"),
            ("4 read 13 14 null ok 11", "at most 9 were ever added"),
        ] {
            let breaches = judge(&told(&(GOOD.to_owned() + line))).breaches;
            assert_eq!(breaches.len(), 1, "{line}: {breaches:?}");
            assert_eq!(breaches[0].what, name, "{line}");
        }
        let below = judge(&told("1 read 0 1 null ok -1")).breaches;
        assert_eq!(below[0].what, "0 were counted before this read");
    }
}
