//! A batch under one condition: all of its items take effect, or none.
//!
//! They are writes of one key. Each supersedes the one before it, and nobody sees the key between two
//! of them; so together they are one write, the last item's under the batch's condition, and are
//! decided as one.

use std::sync::Arc;

use axum::body::Body;
use axum::http::request::Parts;
use bytes::BytesMut;

use crate::coordinator::{Condition, WriteAction, WriteOp};
use crate::server::budget::Share;
use crate::server::http::batch::item::{Item, ItemAnswer, Options, written};
use crate::server::http::batch::lines::Lines;
use crate::server::http::batch::{Answer, answer_of};
use crate::server::http::body::{DoorBody, drain};
use crate::server::http::door::Inner;
use crate::server::http::listing::push_line;
use crate::server::http::options::operation_id;
use crate::server::http::problem::Problem;

/// What holds for the batch.
pub(super) struct Terms {
    pub(super) condition: Condition,
    pub(super) fence: Option<u64>,
}

impl Terms {
    /// Whether there are any.
    pub(super) fn are_some(&self) -> bool {
        self.condition != Condition::None || self.fence.is_some()
    }
}

/// The last item, and how many there are.
struct Read {
    item: Item,
    count: usize,
    _memory: Option<Share>,
}

/// Reads all items, and has the last one decided for all of them.
pub(super) async fn run(
    inner: &Arc<Inner>,
    parts: &Parts,
    body: Body,
    options: &Options,
    terms: Terms,
) -> Answer {
    let mut lines = Lines::new(body, inner.clone());
    let read = read(&mut lines, inner, options).await;
    if let Some(rest) = lines.into_rest() {
        drain(&inner.env, rest, &inner.limits);
    }
    let op = operation_id(&parts.headers)?;
    let Read { item, count, _memory } = read?;
    let (key, action) = item.into_plain_write()?;
    let delete = matches!(action, WriteAction::Delete);
    let op = WriteOp {
        table: options.table.clone(),
        key: key.clone(),
        action,
        condition: terms.condition,
        fence: terms.fence,
        context: None,
        level: options.write,
        timeout: options.timeout,
        op,
        receipt: false,
    };
    let outcome = inner.backend.write(op).await?;
    let mut out = BytesMut::new();
    for _ in 1..count {
        push_line(&mut out, &ItemAnswer::superseded());
    }
    let context = inner.backend.codec().seal(options.table.id, &key, &outcome.context);
    push_line(&mut out, &written(None, &outcome, context, delete));
    Ok(answer_of(DoorBody::full(out.freeze())))
}

async fn read(lines: &mut Lines, inner: &Inner, options: &Options) -> Result<Read, Problem> {
    let most = inner.limits.max_batch_items;
    let mut last: Option<Read> = None;
    while let Some(line) = lines.next().await? {
        let count = last.as_ref().map_or(0, |last| last.count) + 1;
        let named = |problem: Problem| problem.with("index", count - 1);
        if count > most {
            return Err(Problem::bad(format!("a batch has at most {most} items")).with("max", most));
        }
        let item = line.bytes.and_then(|bytes| Item::parse(&bytes, inner, options));
        let item = item.map_err(|(_, problem)| named(problem))?;
        item.must_be_plain_write().map_err(named)?;
        if last.as_ref().is_some_and(|last| last.item.key() != item.key()) {
            return Err(named(Problem::bad(
                "a condition of the whole batch is about one key: give items of several keys \
                 conditions of their own, as if_match, if_none_match or if_fence",
            )));
        }
        last = Some(Read { item, count, _memory: line.share });
    }
    last.ok_or_else(|| Problem::bad("a batch under a condition needs an item to be about"))
}
