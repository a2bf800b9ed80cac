//! The serial read that needs one round trip and no sync (rule 13).
//!
//! A majority shows its votes and records and promises nothing. If nothing undecided is among them
//! and all records agree, what they show is the state at some instant between question and answer:
//! whatever was decided before the question is in it, as each majority meets that one. Of rows, the
//! head stands for all: the last decision must be stored by a majority as well. Otherwise the read
//! goes the long way, which finishes what is undecided.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;

use crate::coordinator::lwt::Errand;
use crate::coordinator::lwt::judge::merge_all;
use crate::coordinator::lwt::round::{Electors, enough_voters};
use crate::coordinator::plan::Purpose;
use crate::coordinator::{Inner, OpError, ReadOp, read};
use crate::meta::ConflictMode;
use crate::net::paxos::{PaxosAnswer, PaxosRequest, PaxosStep};
use crate::net::{Request, Response};
use crate::paxos::{Promise, found};
use crate::plants::{Plant, planted};
use crate::record::{self, Record, RecordKind};
use crate::types::Consistency;

/// The record, if a majority agrees on it.
///
/// # Errors
/// When too few replicas are alive.
pub(super) async fn peek(
    inner: &Arc<Inner>,
    errand: &Errand<'_>,
) -> Result<Option<Record>, OpError> {
    if planted(Plant::P05) {
        let op = ReadOp {
            table: errand.table.clone(),
            key: errand.key.clone(),
            level: Consistency::Quorum,
            timeout: errand.timeout,
            receipt: false,
            local: false,
        };
        return read::plain(inner, &op).await.map(|outcome| Some(outcome.record));
    }
    let state = inner.cluster.state();
    let (table, key, level) = (errand.table, errand.key, Consistency::Quorum);
    let plan = inner.plan(Purpose::Read, table, key, level, errand.started, errand.timeout)?;
    enough_voters(&plan)?;
    let Some(electors) = Electors::of(&plan, &state) else { return Ok(None) };
    if plan.epoch != state.epoch() {
        return Ok(None);
    }
    // What is left is for the long way.
    let deadline = inner.env.mono() + plan.left(inner.env.mono()) / 3;
    let mut calls: FuturesUnordered<_> = plan
        .order
        .iter()
        .map(|&node| {
            let (table, key, step) = (table.id, key.clone(), PaxosStep::Peek);
            let request = Request::Paxos(PaxosRequest { table, key, step });
            let call = inner.peers.call_at(plan.epoch, node, request, deadline);
            let (inner, started) = (inner.clone(), inner.env.mono());
            let call: crate::env::BoxFuture<'static, _> = Box::pin(async move {
                let result = call.await;
                inner.took(node, started, &result);
                (node, result)
            });
            call
        })
        .collect();
    let (mut shown, mut votes) = (Vec::new(), BTreeMap::new());
    while votes.len() < electors.quorum() {
        let Some((node, result)) = calls.next().await else { return Ok(None) };
        if let Ok(Response::Paxos(PaxosAnswer::Shown { accepted, committed, record, .. })) = result
            && let Some(voter) = electors.voter(node)
        {
            shown.push(record);
            votes.insert(voter, Promise { accepted, committed });
        }
    }
    inner.finish_later("late answers", calls);
    let found = found(&votes, electors.quorum());
    let is_strong = table.settings.conflict == ConflictMode::Strong;
    let same = shown.iter().all(|record| *record == shown[0]);
    // The key is the head of a partition then, of which a repair may have brought the head alone.
    let is_partial = table.record_kind() == RecordKind::Row && found.decided.is_some();
    if !found.settled || is_partial || !(is_strong || (same && found.value.is_none())) {
        return Ok(None);
    }
    shown.push(found.value.map(|(_, vote)| vote));
    let address = record::address(table.id, key);
    let decode = |bytes| Record::decode(bytes, &address).ok();
    let records: Option<Vec<Record>> = shown.iter().flatten().map(decode).collect();
    let record = records.and_then(|records| merge_all(table.record_kind(), records.iter()));
    if record.is_some() {
        inner.lwt.counters.peeks.fetch_add(1, Ordering::Relaxed);
    }
    Ok(record)
}
