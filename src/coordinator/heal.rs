//! Replacing a damaged copy. Only the merge of *all* other replicas may take its place: a copy
//! restored from fewer would have forgotten writes that its replica acknowledged, and would then
//! vote "absent" in a quorum.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;

use crate::coordinator::Inner;
use crate::coordinator::plan::Plan;
use crate::net::messages::{Apply, Read, Want};
use crate::net::{Request, Response};
use crate::record::{self, Record};
use crate::replica::kind_of;
use crate::types::{Key, NodeId};

/// How long healing one record may take.
const TIME: Duration = Duration::from_secs(10);

/// Heals `damaged`'s copy of `key` in a task of its own, if every other replica answers.
pub(super) fn heal_later(inner: &Arc<Inner>, plan: &Plan, key: &Key, damaged: NodeId) {
    let (task, plan, key) = (inner.clone(), plan.clone(), key.clone());
    inner.env.spawn("heal", async move {
        if heal(&task, &plan, &key, damaged).await.is_some() {
            task.counters.heals.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        }
    });
}

async fn heal(inner: &Arc<Inner>, plan: &Plan, key: &Key, damaged: NodeId) -> Option<()> {
    let deadline = inner.env.mono() + TIME;
    let others: Vec<NodeId> = plan.order.iter().copied().filter(|&n| n != damaged).collect();
    if others.is_empty() {
        return None;
    }
    let read = Read { table: plan.table.id, key: key.clone(), want: Want::Record };
    let answers =
        join_all(others.iter().map(|&node| {
            inner.peers.call_at(plan.epoch, node, Request::Read(read.clone()), deadline)
        }))
        .await;
    let address = record::address(plan.table.id, key);
    let mut merged = Record::empty(kind_of(&plan.table));
    for answer in answers {
        let Ok(Response::Record(bytes)) = answer else { return None };
        if let Some(bytes) = bytes {
            merged.merge(&Record::decode(&bytes, &address).ok()?).ok()?;
        }
    }
    let apply = Apply {
        table: plan.table.id,
        key: key.clone(),
        record: merged.encode(&address),
        heals: true,
    };
    match inner.peers.call_at(plan.epoch, damaged, Request::Apply(apply), deadline).await {
        Ok(Response::Applied { .. }) => Some(()),
        _ => None,
    }
}
