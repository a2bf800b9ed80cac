//! Holds each answer of a node against what is on the disks.

use std::sync::Arc;

use crate::env::BoxFuture;
use crate::net::PeerService;
use crate::net::messages::{Apply, ApplyRows, Header, Mint, Request, Response};
use crate::net::paxos::{PaxosAnswer, PaxosRequest, PaxosStep};
use crate::paxos::Voter;
use crate::record::{self, Record, RecordKind};
use crate::replica::durable_counter;
use crate::ring::token_in;
use crate::sim::check::Check;
use crate::sim::cluster::SimCluster;
use crate::sim::engine::SimEngine;
use crate::storage::keys::{self, Kind};
use crate::types::{Ballot, Dot, Generation, Key, NodeId, TableId};

use super::copies::durable;
use super::text;

/// Stands before a node's service and holds each answer against what is on the disks: I1, I3, I10,
/// I20, I23.
pub struct Inspector {
    cluster: SimCluster,
    me: u32,
    inner: Arc<dyn PeerService>,
    engine: Arc<SimEngine>,
}

impl Inspector {
    /// Inspects `inner`, the service of node `me`.
    #[must_use]
    pub fn new(
        cluster: SimCluster,
        me: u32,
        inner: Arc<dyn PeerService>,
        engine: Arc<SimEngine>,
    ) -> Self {
        Self { cluster, me, inner, engine }
    }
}

/// What a request is about.
enum About {
    Nothing,
    Read(TableId, Key),
    Mint(TableId, Key),
    Apply(Apply),
    /// Rows of one partition, each as if it had come alone.
    Rows(Vec<About>),
    Paxos(PaxosRequest),
}

impl PeerService for Inspector {
    fn serve(
        &self,
        from: NodeId,
        header: Header,
        request: Request,
    ) -> BoxFuture<'static, Response> {
        let (cluster, me, engine) = (self.cluster.clone(), self.me, self.engine.clone());
        let about = match &request {
            Request::Read(read) => About::Read(read.table, read.key.clone()),
            Request::Mint(Mint { table, key, .. }) => About::Mint(*table, key.clone()),
            Request::Apply(apply) | Request::Handoff(apply) => About::Apply(apply.clone()),
            Request::ApplyRows(apply) => About::Rows(single_rows(apply)),
            Request::Paxos(request) => About::Paxos(request.clone()),
            _ => About::Nothing,
        };
        if let About::Paxos(request) = &about {
            one_value_per_ballot(&cluster, request);
        }
        if let About::Apply(apply) = &about {
            sender_has_synced(&cluster, from, apply);
        }
        let answer = self.inner.serve(from, header, request);
        Box::pin(async move {
            let response = answer.await;
            judge(&cluster, me, &engine, &about, &response);
            response
        })
    }
}

/// Rows of a partition, each as if it had come alone.
fn single_rows(apply: &ApplyRows) -> Vec<About> {
    let single = |(key, record): &(Key, bytes::Bytes)| {
        About::Apply(Apply {
            table: apply.table,
            key: key.clone(),
            record: record.clone(),
            generation: Generation::default(),
            heals: false,
        })
    };
    apply.rows.iter().map(single).collect()
}

/// I6: whoever asks for votes at one ballot of one key asks for the same record every time.
fn one_value_per_ballot(cluster: &SimCluster, request: &PaxosRequest) {
    let PaxosStep::Accept { ballot, record, .. } = &request.step else { return };
    let digest = xxhash_rust::xxh3::xxh3_64(record);
    let place = (request.table, request.key.clone(), *ballot);
    let first = *cluster.oracle().known().ballots.entry(place).or_insert(digest);
    if first != digest {
        let what = format!("two values were proposed at ballot {ballot:?}");
        cluster.oracle().breach(cluster, Check::I6, &text(&request.key), what);
    }
}

/// I7: what a voter has answered is on its disk.
fn voter_has_synced(
    cluster: &SimCluster,
    me: u32,
    engine: &SimEngine,
    request: &PaxosRequest,
    response: &Response,
) {
    let ballot = match (&request.step, response) {
        (PaxosStep::Prepare { ballot, .. }, Response::Paxos(PaxosAnswer::Shown { .. }))
        | (PaxosStep::Accept { ballot, .. }, Response::Paxos(PaxosAnswer::Done)) => *ballot,
        _ => return,
    };
    let Some(me_voter) = cluster.life(me).map(|life| life.node.identity().voter) else { return };
    let token = token_in(request.table, &request.key);
    let row = keys::row(Kind::Paxos, request.table, token, &request.key, b"");
    let address = record::address(request.table, &request.key);
    let address = xxhash_rust::xxh3::xxh3_64(&address);
    // A row that rotted, or that was dropped meanwhile, says nothing.
    let Ok(stored) = engine.durable(&row) else { return };
    let voter = match stored {
        Some(bytes) => match Voter::<bytes::Bytes>::decode(address, me_voter, &bytes) {
            Ok(Some(voter)) => voter,
            Ok(None) | Err(_) => return,
        },
        None => return,
    };
    let voted = voter.accepted().map_or(Ballot::ZERO, |(at, _)| *at).max(voter.committed());
    let synced = match request.step {
        PaxosStep::Prepare { .. } => voter.promised() >= ballot,
        // Meanwhile it may have been decided and dropped, and the row begun again by a later round.
        _ => voted >= ballot || voter.promised() > ballot,
    };
    if !synced {
        let what = format!("node {me} has answered at ballot {ballot:?} before it was synced");
        cluster.oracle().breach(cluster, Check::I7, &text(&request.key), what);
    }
}

/// I3: the versions that the sender minted are on its disk before they leave it. (A directory that
/// lost data meets its own old versions in what others hold; it mints nothing until it is whole. A
/// record that has rotted and was healed may lack versions which were on the disk when they left.)
fn sender_has_synced(cluster: &SimCluster, from: NodeId, apply: &Apply) {
    let Some(sender) = cluster.number(from) else { return };
    let Some(life) = cluster.life(sender) else { return };
    let part = life.node.cluster();
    if !part.may_serve(&part.state()) {
        return;
    }
    let address = record::address(apply.table, &apply.key);
    let Ok(record) = Record::decode(&apply.record, &address) else { return };
    let actor = life.node.identity().actor;
    let newest = record.max_counter(actor);
    let Ok(held) = durable(&life.engine, apply.table, &apply.key) else { return };
    let held = held.map_or(0, |record| record.max_counter(actor));
    let synced = cluster.oracle().known().synced.get(&(actor, apply.key.clone())).copied();
    // A last-write-wins record forgets dots: its winner is replaced, and of operations it keeps the
    // newest ids. Then the counter, which moves in the batch of the record, tells.
    let counted = || {
        let is_lww = record.kind() == RecordKind::Lww;
        let read = |row: &[u8]| life.engine.durable(row).ok().flatten();
        is_lww.then(|| durable_counter(actor, read)).flatten()
    };
    if newest > held.max(synced.unwrap_or(0)) && counted().is_none_or(|counter| newest > counter) {
        let what = format!(
            "version {actor}:{newest} has left node {sender}, whose disk has none above {held}"
        );
        cluster.oracle().breach(cluster, Check::I3, &text(&apply.key), what);
    }
}

fn judge(cluster: &SimCluster, me: u32, engine: &SimEngine, about: &About, response: &Response) {
    let (table, key) = match about {
        About::Nothing => return,
        About::Rows(rows) => {
            return rows.iter().for_each(|row| judge(cluster, me, engine, row, response));
        }
        About::Paxos(request) => {
            return voter_has_synced(cluster, me, engine, request, response);
        }
        About::Read(table, key) | About::Mint(table, key) => (*table, key),
        About::Apply(apply) => (apply.table, &apply.key),
    };
    let served = matches!(
        response,
        Response::Record(..)
            | Response::Digest(..)
            | Response::Minted(_)
            | Response::Applied { .. }
    );
    if !served {
        return;
    }
    let oracle = cluster.oracle();
    if let Some(life) = cluster.life(me) {
        let state = life.node.cluster().state();
        let owned = state.table(table).is_none_or(|table| {
            let placement = state.ring().placement(&table.settings.replication);
            let partition = state.ring().partition_of(token_in(table.id, key));
            placement.of(partition).write.contains(&life.node.id())
        });
        if !owned {
            let what = format!("node {me} served a key that it does not keep");
            oracle.breach(cluster, Check::I10, &text(key), what);
        }
    }
    let check = |otherwise| if engine.is_poisoned() { Check::I23 } else { otherwise };
    match (about, response) {
        (About::Read(..), Response::Record(None, _) | Response::Digest(None, _))
            if durable(engine, table, key).is_err() =>
        {
            let what = format!("node {me} has a damaged copy and answers that it has none");
            oracle.breach(cluster, Check::I20, &text(key), what);
        }
        (About::Read(..), Response::Record(Some(bytes), _))
            if Record::decode(bytes, &record::address(table, key)).is_err() =>
        {
            let what = format!("node {me} serves damage");
            oracle.breach(cluster, Check::I20, &text(key), what);
        }
        // Of a copy that cannot be read any more nothing can be said: it was whole when the answer
        // was decided on, or the node would have refused.
        (About::Mint(..), Response::Minted(minted)) => {
            if !minted.replayed {
                oracle.stamped(cluster, me, minted.stamp.0);
            }
            let Ok(held) = durable(engine, table, key) else { return };
            let Dot { actor, counter } = minted.dot;
            if let Some(held) = &held {
                oracle.holds(cluster, me, key, held);
                oracle.minted(key, held, minted.dot);
            }
            if held.is_some_and(|held| held.max_counter(actor) >= counter) {
                let mut known = oracle.known();
                let synced = known.synced.entry((actor, key.clone())).or_default();
                *synced = counter.max(*synced);
            } else {
                let what = format!("node {me} told of version {} before syncing it", minted.dot);
                oracle.breach(cluster, check(Check::I3), &text(key), what);
            }
        }
        (About::Apply(apply), Response::Applied { .. }) => {
            let address = record::address(table, key);
            let Ok(incoming) = Record::decode(&apply.record, &address) else { return };
            let Ok(held) = durable(engine, table, key) else { return };
            if let Some(held) = &held {
                oracle.holds(cluster, me, key, held);
            }
            let missing = held
                .is_none_or(|mut held| held.merge(&incoming).is_ok_and(|merged| merged.changed));
            if missing {
                let what = format!("node {me} acknowledged a record that is not on its disk");
                oracle.breach(cluster, check(Check::I1), &text(key), what);
            }
        }
        _ => {}
    }
}
