//! A register per key through CQL that only conditional statements write: serial reads and
//! compare-and-set, judged as the register behind HTTP is.
//!
//! `read` learns the value or null. `cas` asks for `[expected, new]`; it learns true, or
//! `{"refused": what stood there}`.

use henge::client::CqlRows;
use serde_json::{Value, json};

use crate::door::Level;
use crate::session::{Effect, Session};

use super::{read, read_all, text};

pub const COLUMNS: &str = "v text";

/// The value, or null.
pub fn shown(rows: &CqlRows) -> Option<Value> {
    Some(text(rows, "v"))
}

/// What a conditional statement about `v` tells.
pub fn swapped(rows: &CqlRows) -> Option<Value> {
    let applied = rows.applied()?;
    Some(if applied { json!(true) } else { json!({ "refused": text(rows, "v") }) })
}

pub async fn step(session: &mut Session) {
    let key = session.key();
    if session.seen.is_empty() || session.rng.below(10) < 4 {
        if let Some(value) = read(session, &key, Level::Serial, shown).await {
            session.seen.push((value, None));
        }
        return;
    }
    // Mostly what was seen last, sometimes something older.
    let newest = session.seen.len() - 1;
    let at = if session.rng.below(10) < 8 { newest } else { session.rng.index(newest + 1) };
    let expected = session.seen[at].0.clone();
    let (value, table) = (session.value(), &session.stage.bucket);
    let statement = match expected.as_str() {
        None => {
            format!("INSERT INTO jepsen.{table} (k, v) VALUES ('{key}', '{value}') IF NOT EXISTS")
        }
        Some(old) => {
            format!("UPDATE jepsen.{table} SET v = '{value}' WHERE k = '{key}' IF v = '{old}'")
        }
    };
    let asked = ("cas", &*key, json!([expected, value]));
    let attempt = session.ask(asked, &statement, Level::Quorum, Effect::Writes, swapped).await;
    match (attempt.is_ok(), attempt.learnt.get("refused")) {
        (true, None) => session.seen.push((json!(value), None)),
        (true, Some(stood)) => session.seen.push((stood.clone(), None)),
        (false, _) => {}
    }
}

pub async fn finish(session: &mut Session) -> bool {
    // Twice: what the first has settled may not change any more.
    read_all(session, |_| Level::Serial, 2, shown).await
}
