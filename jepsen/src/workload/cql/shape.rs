//! The shape of rows through CQL: two columns are always written together, as (v, −v), by plain
//! statements, batches of two, statements with a time to live, or under conditions. No read may
//! show one half of a write with half of another, or a half that outlives the other.
//!
//! Keys of the first group are written blindly and read at quorum: a statement, and a batch on one
//! row, has one stamp for all its cells, so that the newest write wins in both columns. Keys of the
//! second are written under conditions only, and read serially. `write`, `batch`, `fleeting` and
//! `cas` ask for v; `read` learns `[a, b]`, with null for a column without a value.

use henge::client::CqlRows;
use serde_json::{Value, json};

use crate::check::Judgement;
use crate::door::Level;
use crate::history::{History, Op, Outcome};
use crate::session::{Effect, Session};

use super::{done, read, read_all};

pub const COLUMNS: &str = "a bigint, b bigint";

/// The group whose keys are written under conditions.
const CONDITIONAL: usize = 1;

fn shown(rows: &CqlRows) -> Option<Value> {
    let number = |name: &str| {
        let bytes = rows.first(name)?.try_into().ok()?;
        Some(i64::from_be_bytes(bytes))
    };
    Some(json!([number("a"), number("b")]))
}

fn applied(rows: &CqlRows) -> Option<Value> {
    Some(if rows.applied()? { json!(true) } else { json!({ "refused": shown(rows)? }) })
}

pub async fn step(session: &mut Session) {
    let key = session.key();
    let conditional = session.group == CONDITIONAL;
    let level = if conditional { Level::Serial } else { Level::Quorum };
    if session.rng.below(10) < 5 || conditional && session.seen.is_empty() {
        if let Some(pair) = read(session, &key, level, shown).await {
            session.seen = vec![(pair, None)];
        }
        return;
    }
    let (v, table) = (session.unique() as i64, &session.stage.bucket);
    if conditional {
        let known = session.seen.pop().and_then(|(pair, _)| pair[0].as_i64());
        let statement = match known {
            None => format!(
                "INSERT INTO jepsen.{table} (k, a, b) VALUES ('{key}', {v}, -{v}) IF NOT EXISTS"
            ),
            Some(old) => format!(
                "UPDATE jepsen.{table} SET a = {v}, b = -{v} WHERE k = '{key}' IF a = {old} AND b = -{old}"
            ),
        };
        let asked = ("cas", &*key, json!(v));
        session.ask(asked, &statement, Level::Quorum, Effect::Writes, applied).await;
        return;
    }
    let set = |what: &str| format!("UPDATE jepsen.{table} SET {what} WHERE k = '{key}'");
    let (a, b) = (format!("a = {v}"), format!("b = -{v}"));
    let (f, statement) = match session.rng.below(3) {
        0 => ("write", set(&format!("{a}, {b}"))),
        1 => ("batch", format!("BEGIN BATCH {}; {}; APPLY BATCH", set(&a), set(&b))),
        _ => (
            "fleeting",
            format!("INSERT INTO jepsen.{table} (k, a, b) VALUES ('{key}', {v}, -{v}) USING TTL 1"),
        ),
    };
    let asked = (f, &*key, json!(v));
    session.ask(asked, &statement, Level::Quorum, Effect::Writes, done).await;
}

/// Keys tell their group by their names.
fn level_of(key: &str) -> Level {
    if key.starts_with("rowshape1") { Level::Serial } else { Level::Quorum }
}

pub async fn finish(session: &mut Session) -> bool {
    read_all(session, level_of, 2, shown).await
}

pub fn judge(history: &History) -> Judgement {
    let mut judgement = Judgement::default();
    for (key, ops) in history.by_key() {
        judgement.keys += 1;
        let writes: Vec<&Op> = ops.iter().copied().filter(|op| op.f != "read").collect();
        let refused = |op: &Op| op.outcome == Outcome::Fail || op.learnt.get("refused").is_some();
        let acked = |op: &Op| op.is_ok() && !refused(op);
        for read in ops.iter().copied().filter(|op| op.f == "read" && op.is_ok()) {
            match (read.learnt[0].as_i64(), read.learnt[1].as_i64()) {
                (None, None) => {
                    // Nothing that stays was written, or a fleeting write has covered it.
                    let stays = writes.iter().find(|op| acked(op) && op.before(read));
                    let fleeting = |op: &&Op| op.f == "fleeting" && op.call.i < read.call.i;
                    if let Some(write) = stays
                        && !writes.iter().copied().any(|op| fleeting(&op))
                    {
                        judgement.breach(key, "an acknowledged row is missing", &[write, read]);
                    }
                }
                (Some(a), Some(b)) if a == -b => {
                    match writes.iter().find(|op| op.asked.as_i64() == Some(a)) {
                        Some(write) if refused(write) => {
                            judgement.breach(
                                key,
                                "a row that was refused is there",
                                &[write, read],
                            );
                        }
                        Some(_) => {}
                        None => judgement.breach(key, format!("nobody wrote {a}"), &[read]),
                    }
                }
                (a, b) => {
                    let of = |v: Option<i64>| {
                        writes.iter().copied().find(move |op| v.is_some() && op.asked.as_i64() == v)
                    };
                    let mut proof: Vec<&Op> = of(a).into_iter().chain(of(b.map(|b| -b))).collect();
                    proof.push(read);
                    judgement.breach(key, "half of one write and half of another", &proof);
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
        1 read 0 1 null ok [null,null]
        1 write 2 3 7 ok true
        2 batch 4 - 8 info null
        3 cas 4 5 9 ok {"refused":[7,-7]}
        1 read 6 7 null ok [7,-7]
        1 read 8 9 null ok [8,-8]
    "#;

    #[test]
    fn whole_rows_pass() {
        assert_eq!(judge(&told(GOOD)).breaches, []);
        let gone =
            GOOD.to_owned() + "1 fleeting 10 11 12 ok true\n1 read 12 13 null ok [null,null]";
        assert_eq!(judge(&told(&gone)).breaches, []);
    }

    #[test]
    fn each_breach_is_named() {
        for (line, name) in [
            ("4 read 10 11 null ok [7,-8]", "half of one write and half of another"),
            ("4 read 10 11 null ok [8,null]", "half of one write and half of another"),
            ("4 read 10 11 null ok [9,-9]", "a row that was refused is there"),
            ("4 read 10 11 null ok [null,null]", "an acknowledged row is missing"),
            ("4 read 10 11 null ok [5,-5]", "nobody wrote 5"),
        ] {
            let breaches = judge(&told(&(GOOD.to_owned() + line))).breaches;
            assert_eq!(breaches.len(), 1, "{line}: {breaches:?}");
            assert_eq!(breaches[0].what, name, "{line}");
        }
    }
}
