//! Replacing a damaged copy. Only the merge of *all* other replicas may take its place: a copy
//! restored from fewer would have forgotten writes that its replica acknowledged, and would then
//! vote "absent" in a quorum.
//!
//! Nothing is put in the place of a damaged copy of which no other replica knows anything: it may
//! be the only one there is.
//!
//! # Operations under way
//!
//! A write counts the copy that it has minted or brought to a replica; the copy is damaged then,
//! healed from the others, which the write has yet to reach, and now lacks the write; and the next
//! one that the write reaches makes up its quorum, of which only one half holds it. So healing waits
//! for [`HEAL_AFTER`] before it asks the others, and an operation rests on no answer that is older
//! than [`ANSWERS_LAST`] ([`still_good`]): what rested on the copy before it was damaged has by then
//! reached the others, or has not been acknowledged. (Half, since clocks run at different speeds.)

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::join_all;

use crate::coordinator::lwt;
use crate::coordinator::plan::{Plan, Purpose};
use crate::coordinator::read::Stop;
use crate::coordinator::{Coordinator, Inner};
use crate::meta::Table;
use crate::net::messages::{Apply, Read, Want};
use crate::net::{Refusal, Request, Response};
use crate::record::{self, Record};
use crate::types::{Consistency, Generation, Key, Mono, NodeId, TableId};

/// How long reading the others and writing the merge may take.
const TIME: Duration = Duration::from_secs(10);

/// Between finding the damage and asking the others. See the module's text.
const HEAL_AFTER: Duration = Duration::from_secs(10);

/// The age at which a replica's answer is no longer taken for what it holds.
const ANSWERS_LAST: Duration = Duration::from_secs(5);

/// Copies that may be under healing at once; more are left to the next one who meets them.
const MAX_HEALING: usize = 1024;

/// The copies that are being healed: however many requests meet a damaged copy, it is healed once.
#[derive(Debug, Default)]
pub(super) struct Healing(Mutex<BTreeSet<(TableId, Key, NodeId)>>);

impl Healing {
    fn begin(&self, copy: &(TableId, Key, NodeId)) -> bool {
        let mut copies = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        copies.len() < MAX_HEALING && copies.insert(copy.clone())
    }

    fn end(&self, copy: &(TableId, Key, NodeId)) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(copy);
    }
}

/// Whether what replicas answered to questions asked since `asked` may still be counted on at `now`.
/// If not, the operation is to begin again.
pub(super) fn still_good(asked: Mono, now: Mono) -> Result<(), Stop> {
    if now.since(asked) < ANSWERS_LAST { Ok(()) } else { Err(Stop::Replan) }
}

/// If `refusal` says that `node`'s copy of `key` is damaged: heals it in a task of its own, if
/// every other replica answers.
pub(super) fn heal_if_damaged(
    inner: &Arc<Inner>,
    plan: &Plan,
    key: &Key,
    node: NodeId,
    refusal: &Refusal,
) {
    if *refusal == Refusal::Damaged {
        heal_later(inner, plan, key, node);
    }
}

/// Heals `damaged`'s copy of `key` in a task of its own, if every other replica answers.
pub(super) fn heal_later(inner: &Arc<Inner>, plan: &Plan, key: &Key, damaged: NodeId) {
    let copy = (plan.table.id, key.clone(), damaged);
    if !inner.healing.begin(&copy) {
        return;
    }
    let (task, plan) = (inner.clone(), plan.clone());
    inner.env.spawn("heal", async move {
        let healed = heal(&task, &plan, &copy.1, damaged).await.is_some();
        task.healing.end(&copy);
        if healed {
            task.counters.heals.fetch_add(1, Ordering::Relaxed);
        }
    });
}

impl Coordinator {
    /// Has `damaged`'s copy of `key` replaced, in a task of its own, by the merge of all other
    /// replicas' copies, unless that is under way. Nothing happens if one of them does not answer,
    /// or none knows anything of the key: call again later.
    pub fn heal_copy(&self, table: &Arc<Table>, key: &Key, damaged: NodeId) {
        let (inner, now) = (&self.inner, self.inner.env.mono());
        if let Ok(plan) = inner.plan(Purpose::Write, table, key, Consistency::All, now, TIME) {
            heal_later(inner, &plan, key, damaged);
        }
    }
}

async fn heal(inner: &Arc<Inner>, plan: &Plan, key: &Key, damaged: NodeId) -> Option<()> {
    inner.env.sleep(HEAL_AFTER).await;
    let deadline = inner.env.mono() + TIME;
    let others: Vec<NodeId> = plan.replicas.iter().copied().filter(|&n| n != damaged).collect();
    // What the damaged copy held of a decision may be a mere vote with the others.
    lwt::settle_votes(inner, plan, key, &others, deadline).await?;
    let read = Read { table: plan.table.id, key: key.clone(), want: Want::Record };
    let answers =
        join_all(others.iter().map(|&node| {
            inner.peers.call_at(plan.epoch, node, Request::Read(read.clone()), deadline)
        }))
        .await;
    let address = record::address(plan.table.id, key);
    let mut merged = Record::empty(plan.table.record_kind());
    let mut generation = Generation(u64::MAX);
    for answer in answers {
        let Ok(Response::Record(bytes, at)) = answer else { return None };
        generation = generation.min(at);
        if let Some(bytes) = bytes {
            merged.merge(&Record::decode(&bytes, &address).ok()?).ok()?;
        }
    }
    if merged.is_blank() {
        return None;
    }
    let apply = Apply {
        table: plan.table.id,
        key: key.clone(),
        record: merged.encode(&address),
        generation,
        heals: true,
    };
    match inner.peers.call_at(plan.epoch, damaged, Request::Apply(apply), deadline).await {
        Ok(Response::Applied { .. }) => Some(()),
        _ => None,
    }
}
