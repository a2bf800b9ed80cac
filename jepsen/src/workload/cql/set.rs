//! A set per key through CQL: elements added blindly at quorum to a column of type `set`, judged as
//! the set behind HTTP is.
//!
//! `add` asks for the element; `read` learns the list.

use serde_json::json;

use crate::door::Level;
use crate::session::{Effect, Session};

use super::{done, elements, read, read_all};

pub const COLUMNS: &str = "v set<text>";

pub async fn step(session: &mut Session) {
    let key = session.key();
    if session.rng.below(10) < 4 {
        read(session, &key, Level::Quorum, elements).await;
        return;
    }
    let (value, table) = (session.value(), &session.stage.bucket);
    let statement = format!("UPDATE jepsen.{table} SET v = v + {{'{value}'}} WHERE k = '{key}'");
    let asked = ("add", &*key, json!(value));
    session.ask(asked, &statement, Level::Quorum, Effect::Writes, done).await;
}

pub async fn finish(session: &mut Session) -> bool {
    read_all(session, |_| Level::Quorum, 1, elements).await
}
