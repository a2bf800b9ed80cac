//! Stories and tables; the model and the laws are in `tests/record_model.rs`.

mod codec;
mod stories;

use bytes::Bytes;

use super::*;
use crate::types::{Key, TableId};

/// One replica of one key, as the replica module will drive it.
pub(super) struct Stone {
    pub(super) actor: u64,
    pub(super) counter: u64,
    pub(super) clock: u64,
    pub(super) record: Record,
}

impl Stone {
    pub(super) fn new(kind: RecordKind, actor: u64) -> Self {
        Self { actor, counter: 0, clock: 1_000 * actor, record: Record::empty(kind) }
    }

    /// Mints, counting two events so that the dots of the key have gaps.
    pub(super) fn mint(&mut self, mutation: Mutation) -> Minted {
        self.try_mint(mutation, WallMicros(0)).unwrap()
    }

    pub(super) fn try_mint(&mut self, m: Mutation, now: WallMicros) -> Result<Minted, MintError> {
        self.counter += 2;
        self.clock += 1;
        let dot = Dot { actor: ActorId(self.actor), counter: self.counter };
        self.record.mint(m, Mint { dot, stamp: Hlc(self.clock), now })
    }

    pub(super) fn take(&mut self, other: &Self) -> Merged {
        self.record.merge(&other.record).unwrap()
    }

    pub(super) fn shows(&self) -> Vec<&str> {
        shows(&self.record, 0)
    }

    pub(super) fn context(&self) -> Context {
        self.record.context()
    }
}

pub(super) fn shows(record: &Record, now: u64) -> Vec<&str> {
    let view = record.view(WallMicros(now));
    view.versions.iter().map(|v| str::from_utf8(&v.value.body).unwrap()).collect()
}

pub(super) fn value(body: &'static str) -> Value {
    Value { body: Bytes::from_static(body.as_bytes()), ..Value::default() }
}

pub(super) fn put(op: u128, context: &Context, body: &'static str) -> Mutation {
    let (request, context) = (op as u64 * 10, context.clone());
    Mutation { op: OpId(op), request, context, action: Action::Put(value(body)) }
}

pub(super) fn delete(op: u128, context: &Context) -> Mutation {
    Mutation { action: Action::Delete, ..put(op, context, "") }
}

pub(super) fn blind() -> Context {
    Context::default()
}

pub(super) fn home() -> Bytes {
    address(TableId(3), &Key::new("k").unwrap())
}
