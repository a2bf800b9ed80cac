//! Operations that meet a purge: replicas remove a tombstone within moments of each other, and in
//! between one of them may refuse what another one shows (see `repair::purge`).

use crate::coordinator::Inner;
use crate::coordinator::plan::Plan;
use crate::net::messages::{Apply, Read, Want};
use crate::net::purge::{PurgeAction, PurgeRequest};
use crate::net::{CallError, Refusal, Request, Response};
use crate::ring::token_in;
use crate::types::{Generation, Hlc, Key, NodeId, PartitionId, TableId};

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;

/// How often a record that is refused as older than a purge is fetched anew.
const MAX_FETCHES: u32 = 3;

/// The latest purge generations that this node was told of, for writes that rest on no read: one
/// for each partition of a table that it has written to.
#[derive(Debug, Default)]
pub(super) struct Purged {
    known: Mutex<BTreeMap<(TableId, PartitionId), Generation>>,
}

impl Purged {
    /// What is known of the partition of a plan.
    pub(super) fn of(&self, plan: &Plan) -> Generation {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(&(plan.table.id, plan.partition)).copied().unwrap_or_default()
    }

    /// A replica knows of this generation.
    pub(super) fn learn(&self, plan: &Plan, generation: Generation) {
        if generation == Generation::default() {
            return;
        }
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let own = known.entry((plan.table.id, plan.partition)).or_default();
        *own = generation.max(*own);
    }
}

/// A record, and the purge generation that it was read at.
#[derive(Clone)]
pub(super) struct Dated {
    pub(super) record: Bytes,
    pub(super) generation: Generation,
}

impl Inner {
    /// Has `node` catch up with the purge `generation` of the partition of `key`, if it can in
    /// time.
    pub(super) async fn advance(
        &self,
        plan: &Plan,
        key: &Key,
        node: NodeId,
        generation: Generation,
    ) {
        let partition = self.cluster.state().ring().partition_of(token_in(plan.table.id, key));
        let (table, what) = (plan.table.id, PurgeAction::Advance { generation });
        let request = Request::Purge(PurgeRequest { table, partition, what });
        let answer = self.peers.call_at(plan.epoch, node, request, plan.deadline).await;
        tracing::debug!(%node, %generation, ?answer, "a replica is to catch up with a purge");
    }

    /// What `source` holds of some rows once it has caught up with the purge `at`: of those that
    /// have not been purged, and the generation that they were read at. `None`: it cannot tell.
    pub(super) async fn rows_since(
        &self,
        plan: &Plan,
        source: NodeId,
        keys: impl Iterator<Item = &Key>,
        at: Generation,
    ) -> Option<(Vec<(Key, Bytes)>, Generation)> {
        let (mut held, mut generation) = (Vec::new(), Generation(u64::MAX));
        for (number, key) in keys.enumerate() {
            if number == 0 {
                self.advance(plan, key, source, at).await;
            }
            let read = Read { table: plan.table.id, key: key.clone(), want: Want::Record };
            let call =
                self.peers.call_at(plan.epoch, source, Request::Read(read), plan.deadline).await;
            let Ok(Response::Record(record, read_at)) = call else { return None };
            if read_at < at {
                return None;
            }
            generation = generation.min(read_at);
            held.extend(record.map(|record| (key.clone(), record)));
        }
        Some((held, generation))
    }

    /// Has `node` merge a record that `source` holds. If it refuses it as older than a purge: brings
    /// the source up to that purge, and sends what it then holds. Nothing, if that has been purged
    /// meanwhile: then all replicas held it. `dated` becomes what was sent last.
    pub(super) async fn apply_dated(
        &self,
        plan: &Plan,
        key: &Key,
        node: NodeId,
        source: Option<NodeId>,
        dated: &mut Dated,
    ) -> Result<Response, CallError> {
        for _ in 0..MAX_FETCHES {
            let apply = Apply {
                table: plan.table.id,
                key: key.clone(),
                record: dated.record.clone(),
                generation: dated.generation,
                heals: false,
            };
            let result = self.call_until_sent(plan, node, Request::Apply(apply)).await;
            let (Ok(Response::Refused(Refusal::OtherGeneration { generation: at })), Some(source)) =
                (&result, source)
            else {
                return result;
            };
            if *at <= dated.generation {
                return result;
            }
            self.advance(plan, key, source, *at).await;
            let read = Read { table: plan.table.id, key: key.clone(), want: Want::Record };
            let held =
                self.peers.call_at(plan.epoch, source, Request::Read(read), plan.deadline).await;
            match held {
                Ok(Response::Record(Some(record), generation)) => {
                    *dated = Dated { record, generation };
                }
                Ok(Response::Record(None, generation)) if generation >= *at => {
                    return Ok(Response::Applied { dominated: false, stamp: Hlc(0), generation });
                }
                _ => return result,
            }
        }
        Err(CallError::Lost { why: "its key is purged again and again".to_owned() })
    }
}
