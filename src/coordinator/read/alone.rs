//! Reads for which this node's own copy is enough.

use crate::coordinator::{Inner, ReadOp, ReadOutcome};
use crate::meta::ClusterState;
use crate::net::messages::{Read, Want};
use crate::net::{Request, Response};
use crate::record::{self, Record};
use crate::ring::token_in;
use crate::types::{Consistency, NodeId};

/// Reads this node's own copy where that is all there is to ask: without a plan, and without waiting.
/// `None`: for all else, and for what is no plain answer; a read leaves nothing behind.
pub(in crate::coordinator) fn at_once(inner: &Inner, op: &ReadOp) -> Option<ReadOutcome> {
    let (state, me, now) = (inner.cluster.state(), inner.peers.me(), inner.env.wall());
    if op.receipt || !suffices_alone(&state, me, op) {
        return None;
    }
    let (table, key) = (op.table.id, op.key.clone());
    let request = Request::Read(Read { table, key, want: Want::Record });
    let deadline = inner.env.mono() + op.timeout;
    let answer = inner.peers.call_here_at(state.epoch(), me, request, deadline);
    let kind = op.table.record_kind();
    let record = match answer.ok()? {
        Response::Record(None, _) => Record::empty(kind),
        Response::Record(Some(bytes), _) => {
            let record = Record::decode(&bytes, &record::address(table, &op.key)).ok()?;
            Some(record).filter(|record| record.kind() == kind)?
        }
        _ => return None,
    };
    Some(ReadOutcome { record, now, receipt: None })
}

/// True when the copy of this node, `me`, is enough: at level ONE, or as there is no other.
fn suffices_alone(state: &ClusterState, me: NodeId, op: &ReadOp) -> bool {
    let ring = state.ring();
    let partition = ring.partition_of(token_in(op.table.id, &op.key));
    let placement = ring.placement(&op.table.settings.replication);
    let replicas = &placement.of(partition).read;
    let enough = match op.level {
        Consistency::One | Consistency::LocalOne => replicas.contains(&me),
        Consistency::Quorum | Consistency::LocalQuorum | Consistency::All => replicas[..] == [me],
        _ => false,
    };
    enough && state.table(op.table.id).is_some()
}
