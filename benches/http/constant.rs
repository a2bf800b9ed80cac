//! The HTTP door over a backend that has one value under every key, and nothing else: what the door
//! costs by itself.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use henge::causality::{Context, ContextCodec};
use henge::coordinator::{
    LeaseOp, LeaseOutcome, ListOp, ListPage, OpError, PartitionDigest, ReadOp, ReadOutcome, Told,
    Whereabouts, WriteOp, WriteOutcome,
};
use henge::env::{BoxFuture, tokio_env};
use henge::meta::{Table, TableName, TableSettings};
use henge::metrics::Registry;
use henge::overload::{Busy, Gate, Place, Settings};
use henge::record::{Action, Mint, Mutation, Record, RecordKind, Value};
use henge::server::http::backend::{
    Alteration, Backend, ClusterView, Creation, NotReady, RingView,
};
use henge::server::http::listen::Listener;
use henge::server::http::{Door, HttpLimits};
use henge::types::{ActorId, Dot, Epoch, Hlc, Key, Mono, OpId, PartitionId, TableId, WallMicros};

use crate::VALUE;

/// Such a door, listening.
pub async fn door() -> SocketAddr {
    let table = Arc::new(Table {
        id: TableId(1),
        name: "b".parse().expect("a name"),
        settings: TableSettings::bucket(1),
        version: Epoch(1),
        rows: None,
    });
    let mut record = Record::empty(RecordKind::Siblings);
    let mutation = Mutation {
        op: OpId::from_parts(1, 1),
        request: 0,
        context: Context::default(),
        action: Action::Put(Value {
            body: Bytes::from(vec![b'x'; VALUE]),
            content_type: Some("text/plain".to_owned()),
            ..Value::default()
        }),
    };
    let dot = Dot { actor: ActorId(7), counter: 1 };
    let mint = Mint { dot, stamp: Hlc(1), now: WallMicros(1) };
    record.mint(mutation, mint).expect("a fresh dot");
    let (target, interval) = (Duration::MAX, Duration::MAX);
    let gate = Gate::new(Settings { target, interval, floor: 1, max: 1 << 20 }, Mono(0));
    let backend = Constant { table, record, codec: ContextCodec::new([1; 32]), gate };
    let door = Door::new(Arc::new(backend), tokio_env(), HttpLimits::default(), Registry::new());
    let listener = Listener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.expect("a port");
    let address = listener.local_address().expect("an address");
    tokio::spawn(listener.serve(door, std::future::pending()));
    address
}

/// Has one value under every key, and nothing else.
struct Constant {
    table: Arc<Table>,
    record: Record,
    codec: ContextCodec,
    gate: Arc<Gate>,
}

impl Backend for Constant {
    fn enter(&self) -> Result<Place, Busy> {
        self.gate.enter()
    }
    fn table(&self, _: &str, _: &str) -> Option<Arc<Table>> {
        Some(self.table.clone())
    }
    fn tables(&self) -> Vec<Arc<Table>> {
        vec![self.table.clone()]
    }
    fn codec(&self) -> &ContextCodec {
        &self.codec
    }
    fn read(&self, _: ReadOp) -> BoxFuture<'_, Result<ReadOutcome, OpError>> {
        let record = self.record.clone();
        Box::pin(async { Ok(ReadOutcome { record, now: WallMicros(2), receipt: None }) })
    }
    fn write(&self, _: WriteOp) -> BoxFuture<'_, Result<WriteOutcome, OpError>> {
        Box::pin(async { Err(OpError::NoSuchTable) })
    }
    fn lease(&self, _: LeaseOp) -> BoxFuture<'_, Result<LeaseOutcome, OpError>> {
        Box::pin(async { Err(OpError::NoSuchTable) })
    }
    fn list(&self, _: ListOp) -> BoxFuture<'_, Result<ListPage, OpError>> {
        Box::pin(async { Err(OpError::NoSuchTable) })
    }
    fn tell(
        &self,
        _: Arc<Table>,
        _: Key,
        _: OpId,
        _: Duration,
    ) -> BoxFuture<'_, Result<Told, OpError>> {
        Box::pin(async { Ok(Told::Never) })
    }

    fn locate(&self, _: &Table, _: &Key) -> Whereabouts {
        unreachable!("not asked")
    }
    fn partition_digest(
        &self,
        _: Arc<Table>,
        _: PartitionId,
    ) -> BoxFuture<'_, Result<PartitionDigest, OpError>> {
        Box::pin(async { Err(OpError::NoSuchTable) })
    }
    fn create_table(
        &self,
        _: TableName,
        _: TableSettings,
        _: Option<String>,
    ) -> BoxFuture<'_, Result<Creation, OpError>> {
        Box::pin(async { Err(OpError::NoSuchTable) })
    }
    fn alter_table(
        &self,
        _: Arc<Table>,
        _: TableSettings,
    ) -> BoxFuture<'_, Result<Alteration, OpError>> {
        Box::pin(async { Err(OpError::NoSuchTable) })
    }
    fn drop_table(&self, _: Arc<Table>) -> BoxFuture<'_, Result<(), OpError>> {
        Box::pin(async { Err(OpError::NoSuchTable) })
    }
    fn node_count(&self) -> u32 {
        1
    }
    fn cluster(&self) -> ClusterView {
        unreachable!("not asked")
    }
    fn ring(&self) -> RingView {
        unreachable!("not asked")
    }
    fn ready(&self) -> Result<(), NotReady> {
        Ok(())
    }
}
