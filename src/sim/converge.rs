//! Whether the replicas have come together: W12 (all copies equal, byte for byte, and no hint
//! left), I14 (hash trees say what the data says), W19 (indexes are built, and hold the entries of
//! the rows) and W20 (no logged batch is left on record). Looks into every disk; asks no node
//! anything, so that nothing is repaired by looking.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::sync::atomic::Ordering;

use bytes::Bytes;

use crate::coordinator::log_table;
use crate::cql::index;
use crate::merkle::{self, Cut, GROUPS, Leaf, Tree};
use crate::record::{self, Record};
use crate::sim::check::Check;
use crate::sim::cluster::{Life, SimCluster};
use crate::sim::handoff;
use crate::sim::plan::{Fault, PlannedFault};
use crate::storage::keys::{self, Kind};
use crate::storage::{Engine as _, KeyRange, StorageError};
use crate::types::{Digest, Key, PartitionId, TableId};

/// A stored record as it is on a disk; `None`: damaged.
type Stored = Option<Bytes>;

/// All records of one node, by row key.
type Rows = BTreeMap<Bytes, Stored>;

/// What one node holds.
struct Held {
    number: u32,
    life: Life,
    rows: Rows,
}

/// What keeps the cluster from being at rest and equal; `None`: nothing does.
#[must_use]
pub fn apart(cluster: &SimCluster) -> Option<(Check, String)> {
    let mut held = Vec::new();
    for number in 0..cluster.plan().nodes {
        let Some(life) = cluster.life(number) else {
            return Some((Check::W12, format!("node {number} is down")));
        };
        match rows(&life) {
            Ok(rows) => held.push(Held { number, life, rows }),
            Err(error) => {
                return Some((Check::W12, format!("node {number} cannot be read: {error}")));
            }
        }
    }
    copies_differ(&held)
        .map(|what| (Check::W12, what))
        .or_else(|| handoff::pending(cluster).map(|what| (Check::W12, what)))
        .or_else(|| held.iter().find_map(tree_differs).map(|what| (Check::I14, what)))
        .or_else(|| held.iter().find_map(batch_left).map(|what| (Check::W20, what)))
        .or_else(|| {
            let rots = |fault: &PlannedFault| matches!(fault.fault, Fault::Rot { .. });
            let rots = cluster.plan().faults.iter().any(rots);
            let what = held.iter().find_map(|held| index_differs(held, rots));
            what.map(|what| (Check::W19, what))
        })
}

fn rows(life: &Life) -> Result<Rows, StorageError> {
    let mut rows = Rows::new();
    life.engine.scan(&KeyRange::prefix(&[Kind::Record as u8]), &mut |key, value| {
        let sound = value.ok().map(Bytes::copy_from_slice).filter(|bytes| {
            keys::parse_row(key).is_ok_and(|row| {
                record::verify(bytes, &record::address(row.table, &row.key)).is_ok()
            })
        });
        rows.insert(Bytes::copy_from_slice(key), sound);
        ControlFlow::Continue(())
    })?;
    Ok(rows)
}

/// The first key that two of its replicas hold differently.
fn copies_differ(held: &[Held]) -> Option<String> {
    let state = held.first()?.life.node.cluster().state();
    let mut keys: Vec<&Bytes> = held.iter().flat_map(|held| held.rows.keys()).collect();
    keys.sort_unstable();
    keys.dedup();
    for key in keys {
        let Ok(row) = keys::parse_row(key) else { return Some("a row key is damaged".to_owned()) };
        let Some(table) = state.table(row.table) else { continue };
        let placement = state.ring().placement(&table.settings.replication);
        let replicas = &placement.of(state.ring().partition_of(row.token)).write;
        let copies: Vec<(u32, Option<&Stored>)> = held
            .iter()
            .filter(|held| replicas.contains(&held.life.node.id()))
            .map(|held| (held.number, held.rows.get(key)))
            .collect();
        let sound = copies.iter().filter(|(_, copy)| matches!(copy, Some(Some(_)))).count();
        let damaged = copies.iter().filter(|(_, copy)| matches!(copy, Some(None))).count();
        // A damaged copy is replaced by the merge of all others (rule 2): there must be something
        // to merge, and no other damage.
        if damaged > 1 || (damaged == 1 && sound == 0) {
            continue;
        }
        if copies.iter().any(|copy| copy.1 != copies[0].1) {
            return Some(describe(&row.key, &copies));
        }
    }
    None
}

fn describe(key: &Key, copies: &[(u32, Option<&Stored>)]) -> String {
    let words: Vec<String> = copies
        .iter()
        .map(|(node, copy)| match copy {
            None => format!("node {node} knows nothing of it"),
            Some(None) => format!("node {node} has a damaged copy"),
            Some(Some(bytes)) => {
                let digest = record::stored_digest(bytes).unwrap_or_default();
                format!("node {node} has {digest:?}")
            }
        })
        .collect();
    format!("{}: {}", String::from_utf8_lossy(key.as_bytes()), words.join(", "))
}

/// The first tree of a node that is not what its data gives.
fn tree_differs(held: &Held) -> Option<String> {
    let replica = held.life.node.replica();
    let state = held.life.node.cluster().state();
    let cut = Cut::new(state.ring().map());
    let mut built: BTreeMap<(TableId, PartitionId), (Tree, Vec<Leaf>)> = BTreeMap::new();
    for (key, stored) in &held.rows {
        let Ok(row) = keys::parse_row(key) else { continue };
        let (partition, leaf) = cut.place(row.token);
        let (tree, damaged) = built.entry((row.table, partition)).or_default();
        match stored {
            Some(bytes) => {
                let digest: Digest = record::stored_digest(bytes).unwrap_or_default();
                tree.fold(leaf, merkle::digest(&record::address(row.table, &row.key), digest));
            }
            None => damaged.push(leaf),
        }
    }
    let wrong = &held.life.node.repair().counters().scrub_wrong_leaves;
    if wrong.load(Ordering::Relaxed) > 0 {
        return Some(format!("scrubbing found leaves wrong on node {}", held.number));
    }
    replica.settle_all();
    for table in state.tables().values() {
        let placement = state.ring().placement(&table.settings.replication);
        for partition in placement.kept_by(held.life.node.id()) {
            let id = (table.id, partition);
            let (expected, damaged) = built.remove(&id).unwrap_or_default();
            let which = format!("of node {}, table {}, {partition}", held.number, table.id.0);
            if replica.trees().root(id).is_none() {
                return Some(format!("the tree {which} is not built"));
            }
            let of = |group| replica.trees().leaves_of(id, group).unwrap_or([0; _]);
            let live: Vec<u128> = (0..GROUPS).flat_map(of).collect();
            let wrong =
                |leaf: &Leaf| live[leaf.index()] != expected.leaf(*leaf) && !damaged.contains(leaf);
            if let Some(leaf) = Leaf::all().find(wrong) {
                return Some(format!("leaf {} {which} is not what the data gives", leaf.index()));
            }
        }
    }
    None
}

/// A logged batch that is on record at a node.
fn batch_left(held: &Held) -> Option<String> {
    let (state, now) = (held.life.node.cluster().state(), held.life.env.wall());
    let log = state.table_named(&log_table())?.id;
    let is_left = |(key, stored): (&Bytes, &Stored)| {
        let row = keys::parse_row(key).ok().filter(|row| row.table == log)?;
        let record = Record::decode(stored.as_ref()?, &record::address(log, &row.key)).ok()?;
        (!record.view(now).versions.is_empty()).then_some(())
    };
    let left = held.rows.iter().filter_map(is_left).count();
    (left > 0).then(|| format!("{left} logged batches are on record at node {}", held.number))
}

/// What is wrong with the indexes of a node. Where values have rotted, entries of what nobody could
/// read any more may be left.
fn index_differs(held: &Held, rots: bool) -> Option<String> {
    let (node, state) = (&held.life.node, held.life.node.cluster().state());
    let mut expected = BTreeSet::new();
    for table in state.tables().values() {
        let Some(schema) = table.rows.as_ref() else { continue };
        let unbuilt = schema.indexes().iter().find(|i| !node.replica().has_built(table.id, i.id));
        if let Some(index) = unbuilt {
            return Some(format!("node {} has not built {}", held.number, index.name));
        }
    }
    for (key, stored) in &held.rows {
        let (Ok(row), Some(stored)) = (keys::parse_row(key), stored) else { continue };
        let Some(schema) = state.table(row.table).and_then(|table| table.rows.as_ref()) else {
            continue;
        };
        let record = Record::decode(stored, &record::address(row.table, &row.key)).ok();
        let Some(cells) = record.as_ref().and_then(Record::row) else { continue };
        let terms = index::terms(schema, &row.key, cells).into_iter();
        expected.extend(terms.map(|term| keys::index_row(row.table, term, row.token, &row.key)));
    }
    let mut found = BTreeSet::new();
    let entries = KeyRange::prefix(&[Kind::Index as u8]);
    let scanned = held.life.engine.scan(&entries, &mut |entry, _| {
        found.insert(Bytes::copy_from_slice(entry));
        ControlFlow::Continue(())
    });
    if let Err(error) = scanned {
        return Some(format!("node {} cannot be read: {error}", held.number));
    }
    let (missing, more) =
        (expected.difference(&found).count(), found.difference(&expected).count());
    (missing > 0 || (more > 0 && !rots)).then(|| {
        format!(
            "node {} lacks {missing} entries of indexes, and has {more} of nothing",
            held.number
        )
    })
}
