//! Workloads through the native protocol of CQL: a table each, in one keyspace.

pub mod append;
pub mod counter;
pub mod monotonic;
pub mod register;
pub mod set;
pub mod shape;

use henge::client::CqlRows;
use serde_json::{Value, json};

use crate::door::{Door, Level};
use crate::session::{Attempt, Effect, PATIENCE, Session, Stage};

use super::keys_of;

/// Makes the keyspace and the table of a stage, with these columns beside its key, and options.
pub async fn prepare(stage: &Stage, columns: &str, options: &str) -> Result<(), String> {
    let (table, count) = (&stage.bucket, stage.replicas);
    let mut door = Door::new(&stage.cql);
    for text in [
        format!(
            "CREATE KEYSPACE IF NOT EXISTS jepsen WITH replication = \
             {{'class': 'SimpleStrategy', 'replication_factor': {count}}}"
        ),
        format!("CREATE TABLE jepsen.{table} (k text PRIMARY KEY, {columns}){options}"),
    ] {
        let made = door.ask(0, &text, Level::Quorum, 10 * PATIENCE).await;
        made.map_err(|trouble| format!("{text}: {}", trouble.why))?;
    }
    Ok(())
}

/// A read of one key, recorded; what was learnt, if it succeeded.
pub async fn read(
    session: &mut Session,
    key: &str,
    level: Level,
    judge: impl FnOnce(&CqlRows) -> Option<Value>,
) -> Option<Value> {
    let text = format!("SELECT * FROM jepsen.{} WHERE k = '{key}'", session.stage.bucket);
    let asked = ("read", key, Value::Null);
    let attempt = session.ask(asked, &text, level, Effect::Reads, judge).await;
    attempt.is_ok().then_some(attempt.learnt)
}

/// Reads every key, as often as it takes, `times` times.
async fn read_all(
    session: &mut Session,
    level: impl Fn(&str) -> Level,
    times: usize,
    judge: impl Fn(&CqlRows) -> Option<Value>,
) -> bool {
    let mut all = true;
    for key in keys_of(&session.stage) {
        for _ in 0..times {
            let mut learnt = None;
            for _ in 0..20 {
                learnt = read(session, &key, level(&key), &judge).await;
                if learnt.is_some() {
                    break;
                }
            }
            all &= learnt.is_some();
        }
    }
    all
}

/// A statement that writes at quorum, recorded.
pub async fn write(
    session: &mut Session,
    asked: (&str, &str, Value),
    statement: &str,
    judge: impl FnOnce(&CqlRows) -> Option<Value>,
) -> Attempt {
    session.ask(asked, statement, Level::Quorum, Effect::Writes, judge).await
}

/// What an acknowledged write tells.
pub fn done(_: &CqlRows) -> Option<Value> {
    Some(json!(true))
}

/// The text in the column `name`, or null.
pub fn text(rows: &CqlRows, name: &str) -> Value {
    rows.first(name).map_or(Value::Null, |bytes| json!(String::from_utf8_lossy(bytes)))
}

/// The texts in the list or set `v`.
fn elements(rows: &CqlRows) -> Option<Value> {
    let Some(bytes) = rows.first("v") else { return Some(json!([])) };
    let all = CqlRows::elements(bytes)?;
    Some(all.iter().map(|element| json!(String::from_utf8_lossy(element))).collect())
}
