//! One writer with growing numbers through CQL, in a column where the last write wins, and many
//! readers, at quorum; judged as the workload behind HTTP is. Here nothing but the stamp that a
//! write is given orders it after the one before, so its writer is at the mercy of the clocks of
//! the nodes it asks, one after the other: clocks that differ by more than two writes are apart
//! break what is promised here, and not what CQL promises.

use henge::client::CqlRows;
use serde_json::{Value, json};

use crate::door::Level;
use crate::history::Outcome;
use crate::session::Session;

use super::{done, read, read_all, write};

pub const COLUMNS: &str = "v bigint";

fn number(rows: &CqlRows) -> Option<Value> {
    let Some(bytes) = rows.first("v") else { return Some(Value::Null) };
    Some(json!(i64::from_be_bytes(bytes.try_into().ok()?)))
}

pub async fn step(session: &mut Session) {
    // The first client of each group is its writer.
    if session.number as usize >= session.stage.keys.len() {
        let key = session.keys().current();
        read(session, &key, Level::Quorum, number).await;
        return;
    }
    let key = session.key();
    let last = session.seen.pop().and_then(|(last, _)| last.as_u64()).unwrap_or_default();
    let next = last + 1;
    session.seen.push((json!(next), None));
    let table = &session.stage.bucket;
    let statement = format!("UPDATE jepsen.{table} SET v = {next} WHERE k = '{key}'");
    let wrote = write(session, ("write", &key, json!(next)), &statement, done).await;
    session.move_on();
    if wrote.outcome == Outcome::Info {
        session.keys().leave();
    }
}

pub async fn finish(session: &mut Session) -> bool {
    read_all(session, |_| Level::Quorum, 2, number).await
}
