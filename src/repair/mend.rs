//! Moving what differs between this node and a peer, both ways.
//!
//! Whatever is moved is merged where it arrives, like any other record ([`Apply`]), so it may be
//! moved late, twice or by two nodes at once. A damaged copy is never moved, and never taken for
//! absent: it is healed from all other replicas.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::StreamExt as _;

use crate::merkle::Leaf;
use crate::meta::{ClusterState, Table};
use crate::net::messages::{Apply, Read, Want};
use crate::net::trees::{TreeAnswer, TreeRequest};
use crate::net::{Refusal, Request, Response};
use crate::plants::{Plant, planted};
use crate::record;
use crate::repair::Inner;
use crate::repair::answer::rows_of;
use crate::repair::exchange::{CALL_TIME, Failed, ask};
use crate::repair::status::RepairCounters;
use crate::replica::{Sound, TreeId};
use crate::ring::token_in;
use crate::types::{Digest, Generation, Key, NodeId, Token};

/// Records that are moved at a time.
const MOVED_AT_ONCE: usize = 32;

/// A key on both sides; `None`: nothing is known of it there.
#[derive(Clone, Copy, Default)]
struct Both {
    mine: Option<Sound>,
    theirs: Option<Sound>,
}

/// One peer, one table, at one epoch.
struct Mending<'a> {
    inner: &'a Inner,
    state: &'a ClusterState,
    table: Arc<Table>,
    peer: NodeId,
}

/// Compares the rows of some leaves and brings them together; returns how many records were
/// moved.
pub(super) async fn leaves(
    inner: &Inner,
    state: &ClusterState,
    peer: NodeId,
    id: TreeId,
    leaves: &[Leaf],
) -> Result<u64, Failed> {
    let Some(table) = state.table(id.0).cloned() else { return Ok(0) };
    let mending = Mending { inner, state, table, peer };
    let (mut after, mut moved) = (None, 0);
    loop {
        let (differ, next) = mending.compare(id, leaves, after).await?;
        let mut moves = futures_util::stream::iter(
            differ.into_iter().map(|(key, both)| mending.mend(key, both)),
        )
        .buffer_unordered(MOVED_AT_ONCE);
        while let Some(mended) = moves.next().await {
            moved += u64::from(mended?);
        }
        drop(moves);
        match next {
            Some(next) => after = Some(next),
            None => return Ok(moved),
        }
    }
}

impl Mending<'_> {
    /// The keys after `after` that differ, as far as one page of either side goes, and where to go
    /// on.
    async fn compare(
        &self,
        id: TreeId,
        leaves: &[Leaf],
        after: Option<Key>,
    ) -> Result<(Vec<(Key, Both)>, Option<Key>), Failed> {
        let request = TreeRequest::Rows {
            table: id.0,
            partition: id.1,
            leaves: leaves.iter().map(|leaf| leaf.index() as u16).collect(),
            after: after.clone(),
        };
        let answer = ask(self.inner, self.state, self.peer, request).await?;
        let TreeAnswer::Rows { rows: theirs, next: their_next } = answer else {
            return Err("it answered something else about rows".to_owned());
        };
        let mine = rows_of(&self.inner.env, &self.inner.replica, id, leaves.to_vec(), after);
        let (mine, my_next) = mine.await.map_err(|refusal| refusal.to_string())?;
        let compared = (mine.len() + theirs.len()) as u64;
        RepairCounters::add(&self.inner.repair.counters().rows, compared);
        // Only what lies before the end of both pages was seen on both sides.
        let place = |key: Key| (token_in(id.0, &key), key);
        let end = my_next.into_iter().chain(their_next).map(place).min();
        let mut keys: BTreeMap<(Token, Key), Both> = BTreeMap::new();
        for row in mine {
            keys.entry((row.token, row.key)).or_default().mine = Some(row.sound);
        }
        for row in theirs {
            let sound = row.digest.map_or(Sound::No, Sound::Yes);
            keys.entry(place(row.key)).or_default().theirs = Some(sound);
        }
        if let Some(end) = &end {
            keys.retain(|place, _| place <= end);
        }
        keys.retain(|_, both| both.mine != both.theirs || both.mine == Some(Sound::No));
        let differ = keys.into_iter().map(|((_, key), both)| (key, both)).collect();
        Ok((differ, end.map(|(_, key)| key)))
    }

    /// Brings one key together; true when something was moved.
    async fn mend(&self, key: Key, both: Both) -> Result<bool, Failed> {
        let me = self.inner.cluster.me();
        match (both.mine, both.theirs) {
            (Some(Sound::No), Some(Sound::No)) => {
                self.heal(&key, me);
                Ok(self.heal(&key, self.peer))
            }
            (Some(Sound::No), _) => Ok(self.heal(&key, me)),
            (_, Some(Sound::No)) => Ok(self.heal(&key, self.peer)),
            (mine, Some(Sound::Yes(theirs))) => {
                if !self.pull(&key).await? {
                    return Ok(false);
                }
                if mine.is_some() {
                    self.push(&key, Some(theirs)).await?;
                }
                Ok(true)
            }
            (Some(Sound::Yes(_)), None) => self.push(&key, None).await,
            (None, None) => Ok(false),
        }
    }

    /// Has a damaged copy healed, some time; false, as nothing was moved yet.
    fn heal(&self, key: &Key, damaged: NodeId) -> bool {
        RepairCounters::add(&self.inner.repair.counters().damaged, 1);
        self.inner.coordinator.heal_copy(&self.table, key, damaged);
        false
    }

    async fn call(&self, to: NodeId, request: Request) -> Result<Response, Failed> {
        let deadline = self.inner.env.mono() + CALL_TIME;
        let answer = self.inner.peers.call_at(self.state.epoch(), to, request, deadline).await;
        answer.map_err(|error| error.to_string())
    }

    async fn read(&self, node: NodeId, key: &Key) -> Result<Option<(Bytes, Generation)>, Failed> {
        let read = Read { table: self.table.id, key: key.clone(), want: Want::Record };
        match self.call(node, Request::Read(read)).await? {
            Response::Record(record, at) => Ok(record.map(|record| (record, at))),
            Response::Refused(Refusal::Damaged) => {
                self.heal(key, node);
                Ok(None)
            }
            Response::Refused(refusal) => Err(refusal.to_string()),
            _ => Err("a read was answered by something else".to_owned()),
        }
    }

    /// Has `node` merge `record` in; true when it did.
    async fn apply(
        &self,
        node: NodeId,
        key: &Key,
        (record, generation): (Bytes, Generation),
    ) -> Result<bool, Failed> {
        let (table, key) = (self.table.id, key.clone());
        let apply = Apply { table, key: key.clone(), record, generation, heals: false };
        match self.call(node, Request::Apply(apply)).await? {
            Response::Applied { .. } => Ok(true),
            Response::Refused(Refusal::Damaged) => Ok(self.heal(&key, node)),
            // It is being purged.
            Response::Refused(Refusal::OtherGeneration { .. }) => Ok(false),
            Response::Refused(
                refusal @ (Refusal::BadRequest { .. } | Refusal::RecordTooLarge { .. }),
            ) => {
                // This record alone; the others can still be brought together.
                tracing::warn!(%node, %refusal, "a record that differs is not taken");
                Ok(false)
            }
            Response::Refused(refusal) => Err(refusal.to_string()),
            Response::Failed { why } => Err(why),
            _ => Err("a record was answered by something else".to_owned()),
        }
    }

    async fn pull(&self, key: &Key) -> Result<bool, Failed> {
        let Some(record) = self.read(self.peer, key).await? else { return Ok(false) };
        let counters = self.inner.repair.counters();
        RepairCounters::add(&counters.pulled, 1);
        RepairCounters::add(&counters.pulled_bytes, record.0.len() as u64);
        self.apply(self.inner.cluster.me(), key, record).await
    }

    /// Sends this node's record, unless it is what the peer has (`theirs`).
    async fn push(&self, key: &Key, theirs: Option<Digest>) -> Result<bool, Failed> {
        if planted(Plant::P26) {
            return Ok(false);
        }
        let Some(record) = self.read(self.inner.cluster.me(), key).await? else {
            return Ok(false);
        };
        if theirs.is_some() && record::stored_digest(&record.0).ok() == theirs {
            return Ok(false);
        }
        let counters = self.inner.repair.counters();
        RepairCounters::add(&counters.pushed, 1);
        RepairCounters::add(&counters.pushed_bytes, record.0.len() as u64);
        self.apply(self.peer, key, record).await
    }
}
