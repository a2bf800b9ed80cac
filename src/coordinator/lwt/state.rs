//! What a register holds: the record of a key; in a table of rows the head of a partition, with
//! the rows of it that a round looks at or has met.
//!
//! A decision on rows carries every row that it rests on, whole: what a round has seen on one voter
//! is on a majority once its decision is. The head remembers the operations, so voters that show
//! the same head hold the same decisions.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::coordinator::lwt::judge::{Case, Events, Verdict, merge_all};
use crate::coordinator::{OpError, RowsJudge};
use crate::meta::Table;
use crate::net::paxos::{put_rows, read_rows};
use crate::record::{self, OpEntry, OpMemory, OpVerdict, Record, RecordKind, Row};
use crate::types::Key;

/// See the module.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct State {
    /// The record of the register's key.
    pub(super) head: Record,
    /// Other rows of its partition.
    pub(super) rows: BTreeMap<Key, Record>,
}

/// What one voter has shown of its data.
#[derive(PartialEq, Eq)]
pub(super) struct Shown {
    pub(super) record: Option<Bytes>,
    /// Of the rows that were asked for.
    pub(super) rows: Vec<Option<Bytes>>,
}

fn decode(table: &Table, key: &Key, bytes: &Bytes) -> Option<Record> {
    Record::decode(bytes, &record::address(table.id, key)).ok()
}

impl State {
    /// The merge of what voters have shown of `key` and of the rows `asked`, and of `votes`. `None`:
    /// some of it cannot be read.
    pub(super) fn merged(
        table: &Table,
        key: &Key,
        asked: &[Key],
        shown: &[Shown],
        votes: &[&Bytes],
    ) -> Option<Self> {
        let kind = table.record_kind();
        let mut heads = Vec::with_capacity(shown.len() + 1);
        let mut rows: BTreeMap<Key, Vec<Record>> =
            asked.iter().map(|key| (key.clone(), Vec::new())).collect();
        for shown in shown {
            if let Some(bytes) = &shown.record {
                heads.push(decode(table, key, bytes)?);
            }
            for (key, bytes) in asked.iter().zip(&shown.rows) {
                if let Some(bytes) = bytes {
                    rows.get_mut(key)?.push(decode(table, key, bytes)?);
                }
            }
        }
        for &vote in votes {
            if kind != RecordKind::Row {
                heads.push(decode(table, key, vote)?);
                continue;
            }
            for (own, bytes) in read_rows(vote).ok()? {
                let record = decode(table, &own, &bytes)?;
                if own == *key {
                    heads.push(record);
                } else {
                    rows.entry(own).or_default().push(record);
                }
            }
        }
        let merged = |records: Vec<Record>| merge_all(kind, records.iter());
        let rows: Option<BTreeMap<Key, Record>> =
            rows.into_iter().map(|(key, records)| Some((key, merged(records)?))).collect();
        Some(Self { head: merged(heads)?, rows: rows? })
    }

    /// Its form in proposals.
    pub(super) fn encode(&self, table: &Table, key: &Key) -> Bytes {
        let one = |key: &Key, record: &Record| record.encode(&record::address(table.id, key));
        if self.head.kind() != RecordKind::Row {
            return one(key, &self.head);
        }
        let known = self.rows.iter().filter(|(_, record)| !record.is_blank());
        let all = std::iter::once((key, &self.head)).chain(known);
        let rows: Vec<(Key, Bytes)> =
            all.map(|(key, record)| (key.clone(), one(key, record))).collect();
        put_rows(&rows)
    }
}

/// The records of a proposal, by key.
pub(super) fn records_of(table: &Table, key: &Key, proposal: &Bytes) -> Vec<(Key, Bytes)> {
    match table.record_kind() {
        // This node has made the proposal.
        RecordKind::Row => read_rows(proposal).unwrap_or_default(),
        RecordKind::Siblings | RecordKind::Lww => vec![(key.clone(), proposal.clone())],
    }
}

/// Judges a conditional write of rows, and changes `state` if it takes effect.
pub(super) fn judge_rows(
    state: &mut State,
    key: &Key,
    judge: &dyn RowsJudge,
    case: &Case<'_>,
    events: &mut Events,
) -> Verdict {
    match state.head.find_op(case.op, case.request) {
        // Proposed by an earlier round, and chosen all the same.
        OpMemory::Applied(_) => return Verdict::Rows { applied: true, seen: BTreeMap::new() },
        OpMemory::Forgotten => {
            let oldest = state.head.op_entries().first().map_or(case.op, |entry| entry.op);
            return Verdict::Rename(oldest);
        }
        OpMemory::Refused(_) | OpMemory::Reused | OpMemory::Barred => {
            return Verdict::Failed(OpError::OperationExpired);
        }
        OpMemory::Unknown => {}
    }
    let all = std::iter::once((key, &state.head)).chain(&state.rows);
    let seen: BTreeMap<Key, Row> =
        all.filter_map(|(key, record)| Some((key.clone(), record.row()?.clone()))).collect();
    let newest = seen.values().filter_map(Row::max_stamp).max();
    let writes = match judge.judge(&seen, events.row_stamp(newest), case.now) {
        Ok(Some(writes)) => writes,
        Ok(None) => return Verdict::Rows { applied: false, seen },
        Err(why) => return Verdict::Failed(OpError::Invalid(why)),
    };
    for (own, row) in writes {
        if own == *key {
            state.head.merge_row(&row);
        } else {
            let entry = state.rows.entry(own);
            entry.or_insert_with(|| Record::empty(RecordKind::Row)).merge_row(&row);
        }
    }
    let noted = state.head.note(OpEntry {
        op: case.op,
        dot: events.dot(),
        request: case.request,
        created: false,
        delete: false,
        verdict: OpVerdict::Applied,
    });
    match noted {
        Ok(()) => Verdict::Rows { applied: true, seen },
        Err(error) => Verdict::Failed(OpError::NotSupported(error.to_string())),
    }
}
