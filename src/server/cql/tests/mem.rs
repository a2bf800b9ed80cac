//! A node of one, in memory: for talking to the CQL door without a cluster behind it.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use bytes::Bytes;

use crate::causality::ContextCodec;
use crate::coordinator::{
    BatchError, ConditionalOp, ConditionalOutcome, CountOp, CountRow, OpError, PartitionRows,
    ReadOp, ReadOutcome, RowsOp, ScanOp, ScanPage, WriteOp, WriteOutcome,
};
use crate::cql::index::terms;
use crate::env::{BoxFuture, Env};
use crate::meta::fixture::{apply, founded};
use crate::meta::{ClusterState, Command, Verdict};
use crate::overload::{Gate, Settings};
use crate::record::{Cell, Column, Content, Record, RecordKind, Row};
use crate::ring::token_in;
use crate::server::cql::{PeerView, Store};
use crate::types::{Consistency, Key, NodeId, ScanOrder, TableId, Token, WallMicros};

/// Rows by table and place.
type Rows = BTreeMap<(TableId, Token, Key), Record>;

/// Rows of scans in memory: now, and at most.
#[derive(Debug, Default)]
struct Scanned {
    held: AtomicUsize,
    most: AtomicUsize,
}

/// A row of a scan.
struct Counted {
    bytes: Bytes,
    of: Arc<Scanned>,
}

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.of.held.fetch_sub(1, Ordering::AcqRel);
    }
}

/// See the module.
#[derive(Debug)]
pub struct MemStore {
    env: Env,
    port: u16,
    state: Mutex<Arc<ClusterState>>,
    rows: Mutex<Rows>,
    unreachable: Mutex<Option<Vec<u8>>>,
    reads: Mutex<Vec<Consistency>>,
    scanned: Arc<Scanned>,
    codec: ContextCodec,
    gate: OnceLock<Arc<Gate>>,
    builds: AtomicBool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl MemStore {
    /// A founded cluster of one node, which serves CQL on `port`.
    pub fn new(env: Env, port: u16) -> Arc<Self> {
        Arc::new(Self {
            env,
            port,
            state: Mutex::new(Arc::new(founded(&["n1"]))),
            rows: Mutex::default(),
            unreachable: Mutex::new(None),
            reads: Mutex::default(),
            scanned: Arc::default(),
            codec: ContextCodec::new([1; 32]),
            gate: OnceLock::new(),
            builds: AtomicBool::new(false),
        })
    }

    /// From now on no replica of a key that begins with `partition` is alive, for writes.
    pub fn cut_off(&self, partition: &[u8]) {
        *lock(&self.unreachable) = Some(partition.to_vec());
    }

    /// Whether its indexes are still being built.
    pub fn set_building(&self, builds: bool) {
        self.builds.store(builds, Ordering::Relaxed);
    }

    /// From now on no more than `limit` statements are worked on at a time.
    pub fn narrow(&self, limit: usize) -> Arc<Gate> {
        let (target, interval) = (Duration::MAX, Duration::MAX);
        let settings = Settings { target, interval, floor: limit, max: limit };
        self.gate.get_or_init(|| Gate::new(settings, self.env.mono())).clone()
    }

    /// The levels of the reads of rows since the last call.
    pub fn take_reads(&self) -> Vec<Consistency> {
        std::mem::take(&mut *lock(&self.reads))
    }

    /// As if no replica of `key` were alive.
    fn reach(&self, key: &Key, level: Consistency) -> Result<(), OpError> {
        let cut = lock(&self.unreachable);
        let cut = cut.as_ref().is_some_and(|partition| key.as_bytes()[2..].starts_with(partition));
        if cut { Err(OpError::Unavailable { level, required: 1, alive: 0 }) } else { Ok(()) }
    }

    fn found(&self, op: &ReadOp) -> ReadOutcome {
        let place = (op.table.id, token_in(op.table.id, &op.key), op.key.clone());
        let record = lock(&self.rows).get(&place).cloned();
        let record = record.unwrap_or_else(|| Record::empty(RecordKind::Row));
        ReadOutcome { record, now: self.env.wall(), receipt: None }
    }

    /// The most rows of scans that were in memory at a time since the last call.
    pub fn take_most_scanned(&self) -> usize {
        self.scanned.most.swap(0, Ordering::AcqRel)
    }

    /// The same record in bytes of its own, which are counted for as long as anybody holds a value
    /// of it.
    fn counted(&self, record: &Record) -> Record {
        let held = self.scanned.held.fetch_add(1, Ordering::AcqRel) + 1;
        self.scanned.most.fetch_max(held, Ordering::AcqRel);
        let bytes = Counted { bytes: record.encode(&[]), of: self.scanned.clone() };
        Record::decode(&Bytes::from_owner(bytes), &[]).unwrap()
    }

    fn apply(&self, command: Command) -> Verdict {
        let mut state = lock(&self.state);
        apply(Arc::make_mut(&mut state), command)
    }
}

impl Store for MemStore {
    fn gate(&self) -> Option<&Arc<Gate>> {
        self.gate.get()
    }

    fn state(&self) -> Arc<ClusterState> {
        lock(&self.state).clone()
    }

    fn members(&self) -> Vec<PeerView> {
        let state = self.state();
        let ring = state.ring();
        let id = NodeId::derive("c", "n1");
        vec![PeerView {
            id,
            address: IpAddr::V4(Ipv4Addr::LOCALHOST),
            port: self.port,
            datacenter: "dc1".to_owned(),
            rack: "r1".to_owned(),
            tokens: ring.owned_by(id).map(|p| ring.map().end_token(p)).collect(),
            epoch: state.epoch(),
            up: true,
        }]
    }

    fn wall(&self) -> WallMicros {
        self.env.wall()
    }

    fn stamp(&self) -> u64 {
        self.env.wall().0
    }

    fn random(&self) -> u128 {
        u128::from(self.env.random("cql")) << 64 | u128::from(self.env.random("cql"))
    }

    fn read(&self, op: ReadOp) -> BoxFuture<'_, Result<ReadOutcome, OpError>> {
        lock(&self.reads).push(op.level);
        Box::pin(async move { Ok(self.found(&op)) })
    }

    /// At level ONE only: tests ask at that and at others.
    fn read_at_once(&self, op: &ReadOp) -> Option<Result<ReadOutcome, OpError>> {
        (op.level == Consistency::One).then(|| Ok(self.found(op)))
    }

    fn scan(&self, op: ScanOp) -> BoxFuture<'_, Result<ScanPage, OpError>> {
        Box::pin(async move {
            if op.term.is_some() && self.builds.load(Ordering::Relaxed) {
                let (level, required, received, failed) = (op.level, 1, 0, 1);
                return Err(OpError::IndexBuilding { level, required, received, failed });
            }
            let rows = lock(&self.rows);
            let inside = |place: &(Token, Key)| {
                op.after.as_ref().is_none_or(|after| place > after)
                    && op.before.as_ref().is_none_or(|before| place < before)
            };
            let mut out = ScanPage { rows: Vec::new(), now: self.env.wall(), next: None };
            let mut sought: Vec<_> = rows.iter().collect();
            if op.order == ScanOrder::Descending {
                sought.reverse();
            }
            for ((table, token, key), record) in sought {
                let place = (*token, key.clone());
                let has = |term| match (&op.table.rows, record.row()) {
                    (Some(schema), Some(row)) => terms(schema, key, row).contains(&term),
                    _ => false,
                };
                if *table != op.table.id || !inside(&place) || !op.term.is_none_or(has) {
                    continue;
                }
                if out.rows.len() >= op.limit as usize {
                    out.next = out.rows.last().map(|(token, key, _)| (*token, key.clone()));
                    break;
                }
                out.rows.push((*token, key.clone(), self.counted(record)));
            }
            Ok(out)
        })
    }

    fn write(&self, op: RowsOp) -> BoxFuture<'_, Result<(), OpError>> {
        Box::pin(async move {
            let mut rows = lock(&self.rows);
            for (key, record) in op.rows {
                self.reach(&key, op.level)?;
                let place = (op.table.id, token_in(op.table.id, &key), key);
                let own = rows.entry(place).or_insert_with(|| Record::empty(RecordKind::Row));
                let _ = own.merge(&record);
            }
            Ok(())
        })
    }

    fn write_batch(
        &self,
        parts: Vec<PartitionRows>,
        level: Consistency,
        timeout: Duration,
    ) -> BoxFuture<'_, Result<(), BatchError>> {
        Box::pin(async move {
            for (table, rows) in parts {
                let written = self.write(RowsOp { table, rows, level, timeout }).await;
                written.map_err(BatchError::NotKept)?;
            }
            Ok(())
        })
    }

    fn put(&self, _: WriteOp) -> BoxFuture<'_, Result<WriteOutcome, OpError>> {
        Box::pin(std::future::ready(Err(OpError::NotSupported("no buckets here".to_owned()))))
    }

    fn codec(&self) -> &ContextCodec {
        &self.codec
    }

    fn count(&self, op: CountOp) -> BoxFuture<'_, Result<(), OpError>> {
        let mut rows = lock(&self.rows);
        let stamp = i64::try_from(self.env.wall().0).unwrap();
        for CountRow { key, adds } in op.rows {
            if let Err(error) = self.reach(&key, op.level) {
                return Box::pin(std::future::ready(Err(error)));
            }
            let own = rows.entry((op.table.id, token_in(op.table.id, &key), key));
            let own = own.or_insert_with(|| Record::empty(RecordKind::Row));
            let held = own.row().cloned().unwrap_or_default();
            let mut change = Row::default();
            for (column, add) in adds {
                let share = match held.column(column) {
                    Some(Column::Elements { cells, .. }) => cells.values().next(),
                    _ => None,
                };
                let share = share.and_then(|cell| cell.live(self.env.wall()));
                let share =
                    share.map_or(0, |share| i64::from_be_bytes(share[..].try_into().unwrap()));
                let bytes = (share + add).to_be_bytes().to_vec().into();
                let stamp = stamp.max(held.max_stamp().unwrap_or(0) + 1);
                let content = Content::Value { bytes, expiry: None };
                change.write_element(column, b"me"[..].into(), Cell { stamp, content });
            }
            own.merge_row(&change);
        }
        Box::pin(std::future::ready(Ok(())))
    }

    fn write_if(&self, op: ConditionalOp) -> BoxFuture<'_, Result<ConditionalOutcome, OpError>> {
        Box::pin(async move {
            let mut rows = lock(&self.rows);
            let place = |key: &Key| (op.table.id, token_in(op.table.id, key), key.clone());
            let row = |key: &Key| rows.get(&place(key))?.row().cloned();
            let seen: BTreeMap<Key, Row> = std::iter::once(&op.head)
                .chain(&op.rows)
                .map(|key| (key.clone(), row(key).unwrap_or_default()))
                .collect();
            let (now, newest) = (self.env.wall(), seen.values().filter_map(Row::max_stamp).max());
            let stamp = i64::try_from(now.0).unwrap().max(newest.unwrap_or(0) + 2);
            let writes = op.judge.judge(&seen, stamp, now).map_err(OpError::Invalid)?;
            let applied = writes.is_some();
            for (key, row) in writes.into_iter().flatten() {
                let own = rows.entry(place(&key));
                own.or_insert_with(|| Record::empty(RecordKind::Row)).merge_row(&row);
            }
            Ok(ConditionalOutcome { applied, rows: seen, now })
        })
    }

    fn append(&self, command: Command) -> BoxFuture<'_, Result<Verdict, OpError>> {
        Box::pin(async move { Ok(self.apply(command)) })
    }

    fn ready(&self) -> Result<(), String> {
        Ok(())
    }
}
