//! What the disks hold of a key, synced.

use std::sync::Arc;

use crate::record::{self, OP_LOG_LEN, Record};
use crate::repair::hints::Hint;
use crate::ring::token_in;
use crate::sim::cluster::SimCluster;
use crate::sim::engine::SimEngine;
use crate::storage::keys::{self, Kind};
use crate::types::{Dot, Key, TableId};

/// What one replica durably holds of a key.
pub(super) struct Copy {
    pub(super) node: u32,
    pub(super) losses: u32,
    pub(super) record: Option<Record>,
    /// It cannot be read, so nothing can be said of it.
    pub(super) damaged: bool,
}

impl Copy {
    pub(super) fn holds(&self, dot: Dot) -> bool {
        let Some(record) = &self.record else { return self.damaged };
        // A last-write-wins record names its present version and the latest operations only.
        let forgets =
            record.kind() == record::RecordKind::Lww && record.op_entries().len() == OP_LOG_LEN;
        forgets
            || record.context().covers(dot)
            || record.op_entries().iter().any(|entry| entry.dot == dot)
    }
}

pub(super) fn row_of(table: TableId, key: &Key) -> bytes::Bytes {
    keys::row(Kind::Record, table, token_in(table, key), key, b"")
}

/// The durable record of a key in an engine; `Err` when it cannot be read.
pub(super) fn durable(engine: &SimEngine, table: TableId, key: &Key) -> Result<Option<Record>, ()> {
    let bytes = engine.durable(&row_of(table, key)).map_err(|_| ())?;
    let address = record::address(table, key);
    bytes.map(|bytes| Record::decode(&bytes, &address)).transpose().map_err(|_| ())
}

pub(super) fn copies(cluster: &SimCluster, table: TableId, key: &Key) -> Vec<Copy> {
    let engines: Vec<(u32, u32, Arc<SimEngine>)> = {
        let nodes = cluster.nodes();
        let one = |(n, node): (usize, &crate::sim::cluster::SimNode)| {
            Some((n as u32, node.losses, node.last_engine.clone()?))
        };
        nodes.iter().enumerate().filter_map(one).collect()
    };
    let copy =
        |(node, losses, engine): (u32, u32, Arc<SimEngine>)| match durable(&engine, table, key) {
            Ok(record) => Copy { node, losses, record, damaged: false },
            Err(()) => Copy { node, losses, record: None, damaged: true },
        };
    engines.into_iter().map(copy).collect()
}

/// For how many nodes, `holders` apart, another one durably keeps a hint with the version `dot`.
pub(super) fn keepers(
    cluster: &SimCluster,
    table: TableId,
    key: &Key,
    dot: Dot,
    holders: &[u32],
) -> usize {
    let engines: Vec<Arc<SimEngine>> =
        cluster.nodes().iter().filter_map(|node| node.last_engine.clone()).collect();
    let keeps = |engine: &SimEngine, row: &[u8]| {
        let value = engine.durable(row).ok().flatten()?;
        let hint = Hint::read(row, &value).ok()?;
        let record = Record::decode(&hint.record, &record::address(table, key)).ok()?;
        Some(record.context().covers(dot) || record.op_entries().iter().any(|op| op.dot == dot))
    };
    let is_kept = |n: &u32| {
        let row = keys::hint_row(cluster.id(*n), table, token_in(table, key), key);
        engines.iter().any(|engine| keeps(engine, &row) == Some(true))
    };
    let nodes = 0..cluster.plan().nodes;
    nodes.filter(|n| !holders.contains(n)).filter(is_kept).count()
}
