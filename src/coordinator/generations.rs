//! Operations that meet a purge: replicas remove a tombstone within moments of each other, and in
//! between one of them may refuse what another one shows (see `repair::purge`).

use crate::coordinator::Inner;
use crate::coordinator::plan::Plan;
use crate::net::messages::{Apply, Read, Want};
use crate::net::purge::{PurgeAction, PurgeRequest};
use crate::net::{CallError, Refusal, Request, Response};
use crate::ring::token_in;
use crate::types::{Generation, Hlc, Key, NodeId};

use bytes::Bytes;

/// How often a record that is refused as older than a purge is fetched anew.
const MAX_FETCHES: u32 = 3;

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
                    return Ok(Response::Applied { dominated: false, stamp: Hlc(0) });
                }
                _ => return result,
            }
        }
        Err(CallError::Lost { why: "its key is purged again and again".to_owned() })
    }
}
