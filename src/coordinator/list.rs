//! Listing keys in (token, key) order, partition by partition.
//!
//! Each partition is read like a key: one replica gives records, the others digests, and a key on
//! which they differ is read (and repaired) by itself. A page is *short-read safe*: where one
//! replica's page ends earlier than another's, only the part that all of them cover is used, so a
//! key that only the later part of one page would show is never skipped.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::join_all;

use crate::coordinator::plan::Purpose;
use crate::coordinator::read::{Reading, Stop};
use crate::coordinator::{Fate, Inner, ListOp, ListPage, ListedKey, OpError};
use crate::net::messages::{PageRequest, Row, Want};
use crate::net::{Request, Response};
use crate::record::{self, Record};
use crate::types::{Digest, Key, Mono, NodeId, PartitionId, Token};

type Position = (Token, Key);

/// Rows asked of a replica at a time.
const PAGE: u32 = 500;

/// Lists keys for a client.
pub(super) async fn list(inner: &Arc<Inner>, op: &ListOp) -> Result<ListPage, OpError> {
    let started = inner.env.mono();
    let now = inner.env.wall();
    let mut out = ListPage { keys: Vec::new(), now, next: None };
    let limit = op.limit.max(1) as usize;
    let map = inner.cluster.state().ring().map();
    let mut after = op.after.clone();
    let first = after.as_ref().map_or(PartitionId(0), |(token, _)| map.partition_of(*token));
    for partition in map.partitions().skip(first.0 as usize) {
        loop {
            let part = partition_page(inner, op, partition, after.clone(), started).await?;
            for (position, record) in part.rows {
                let live = record.view(now).versions.len();
                if live >= if op.conflicts { 2 } else { 1 } {
                    let (token, key) = position.clone();
                    out.keys.push(ListedKey { token, key, record });
                }
                if out.keys.len() >= limit {
                    out.next = Some(position);
                    return Ok(out);
                }
                after = Some(position);
            }
            match part.next {
                Some(next) => after = Some(next),
                None => break,
            }
        }
        // A caller that is near its deadline gets what there is, and goes on from there.
        if inner.env.mono().since(started) * 2 > op.timeout && !out.keys.is_empty() {
            let last = partition.0 + 1 == map.q();
            out.next = after.filter(|_| !last);
            return Ok(out);
        }
    }
    Ok(out)
}

/// The part of a partition that all asked replicas cover.
struct Part {
    rows: Vec<(Position, Record)>,
    next: Option<Position>,
}

/// What one replica showed.
struct Shown {
    rows: Vec<Row>,
    next: Option<Position>,
}

async fn partition_page(
    inner: &Arc<Inner>,
    op: &ListOp,
    partition: PartitionId,
    after: Option<Position>,
    started: Mono,
) -> Result<Part, OpError> {
    let plan =
        inner.plan_partition(Purpose::Read, &op.table, partition, op.level, started, op.timeout)?;
    inner.must_be_possible(&plan)?;
    let mut shown: BTreeMap<NodeId, Shown> = BTreeMap::new();
    let mut failed = BTreeMap::new();
    let mut asked = 0;
    while !plan.requirement.alive_suffices(&shown.keys().copied().collect::<Vec<_>>()) {
        let wanted = if asked == 0 { plan.first_contacts() } else { 1 };
        let nodes: Vec<NodeId> = plan.order.iter().copied().skip(asked).take(wanted).collect();
        if nodes.is_empty() {
            return Err(OpError::TooFewReplicas {
                level: op.level,
                required: plan.required(),
                received: u32::try_from(shown.len()).unwrap_or(u32::MAX),
                failed: u32::try_from(failed.len()).unwrap_or(u32::MAX),
                reasons: inner.reasons(&failed),
                fate: Fate::NotApplied,
            });
        }
        asked += nodes.len();
        let have_data = !shown.is_empty();
        let answers = join_all(nodes.iter().enumerate().map(|(at, &node)| {
            let want = if at == 0 && !have_data { Want::Record } else { Want::Digest };
            let request = Request::Page(PageRequest {
                table: op.table.id,
                partition,
                after: after.clone(),
                prefix: op.prefix.clone(),
                limit: PAGE,
                want,
                refill: false,
            });
            inner.peers.call_at(plan.epoch, node, request, plan.deadline)
        }))
        .await;
        for (node, answer) in nodes.into_iter().zip(answers) {
            match answer {
                Ok(Response::Page { rows, next }) => {
                    shown.insert(node, Shown { rows, next });
                }
                Ok(Response::Refused(refusal)) => {
                    failed.insert(node, format!("refused: {refusal}"));
                }
                Ok(_) => {
                    failed.insert(node, "refused: it answered something else".to_owned());
                }
                Err(error) => {
                    failed.insert(node, error.to_string());
                }
            }
        }
    }
    combine(inner, op, started, &shown).await
}

/// Merges what the replicas showed, up to where the shortest page ends.
async fn combine(
    inner: &Arc<Inner>,
    op: &ListOp,
    started: Mono,
    shown: &BTreeMap<NodeId, Shown>,
) -> Result<Part, OpError> {
    let next = shown.values().filter_map(|shown| shown.next.clone()).min();
    let mut keys: BTreeMap<Position, Vec<(Digest, Bytes)>> = BTreeMap::new();
    for row in shown.values().flat_map(|shown| &shown.rows) {
        let position = (row.token, row.key.clone());
        if next.as_ref().is_none_or(|next| position <= *next) {
            keys.entry(position).or_default().push((row.digest, row.record.clone()));
        }
    }
    let mut rows = Vec::with_capacity(keys.len());
    for (position, copies) in keys {
        let agreed =
            copies.len() == shown.len() && copies.iter().all(|(digest, _)| *digest == copies[0].0);
        let data = copies.iter().find(|(_, bytes)| !bytes.is_empty());
        let record = match data {
            Some((_, bytes)) if agreed => {
                let address = record::address(op.table.id, &position.1);
                Record::decode(bytes, &address).ok()
            }
            _ => None,
        };
        let record = match record {
            Some(record) => record,
            None => read_one(inner, op, &position.1, started).await?,
        };
        rows.push((position, record));
    }
    Ok(Part { rows, next })
}

/// Reads (and repairs) one key that the replicas do not agree on.
async fn read_one(
    inner: &Arc<Inner>,
    op: &ListOp,
    key: &Key,
    started: Mono,
) -> Result<Record, OpError> {
    let plan = inner.plan(Purpose::Read, &op.table, key, op.level, started, op.timeout)?;
    match Reading::new(inner, plan, key).run().await {
        Ok(done) => Ok(done.merged),
        Err(Stop::Error(error)) => Err(error),
        Err(Stop::Replan) => {
            Err(OpError::Overloaded { what: "the ring is changing; list again".to_owned() })
        }
    }
}
