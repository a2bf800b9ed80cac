//! Listing keys in (token, key) order, partition by partition; rows also from the end.
//!
//! Each partition is read like a key: one replica gives records, the others digests, and a key on
//! which they differ is read (and repaired) by itself. A page is *short-read safe*: where one
//! replica's page ends earlier than another's, only the part that all of them cover is used, so a
//! key that only the later part of one page would show is never skipped. (From the end, the page
//! that ends earlier is the one whose last place is greater.) A key of which a replica
//! shows that its copy is damaged is read by itself too, and so from the other replicas.
//!
//! A page may be short, or empty, and still not be the last: it ends at its number of keys, at a
//! bound on the bytes held for it, or when half of its time is over, whichever comes first; and the
//! place up to which everything was looked at is where the next one begins.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;

use crate::coordinator::failure::{Failure, Failures, causes};
use crate::coordinator::plan::{Plan, Purpose};
use crate::coordinator::read::{Reading, Stop};
use crate::coordinator::{
    Fate, Inner, ListOp, ListPage, ListedKey, OpError, Receipts, ReplicaReceipt, ScanOp, ScanPage,
};
use crate::meta::Table;
use crate::net::messages::{PageRequest, Row, Want};
use crate::net::{CallError, Refusal, Request, Response};
use crate::record::{self, Record};
use crate::ring::token_of;
use crate::types::{
    Consistency, Digest, IndexTerm, Key, Mono, NodeId, PartitionId, ScanOrder, Token,
};

type Position = (Token, Key);

/// Rows asked of a replica at a time.
const PAGE: u32 = 500;

/// A page ends once the records behind its keys have this many bytes.
const MAX_LISTED_BYTES: usize = 32 << 20;

/// A replica that has not shown its page within this time (or a third of what is left, if that is
/// longer) is passed over for another one.
const MIN_PAGE_WAIT: Duration = Duration::from_millis(500);

/// Partitions of which an index is asked at once, when those before have shown too few rows: most
/// of them have none.
const MAX_AHEAD: usize = 16;

/// How long is waited for an index to be built: that of a small table is built at once, and whoever
/// made it asks it the next moment.
const BUILD_PATIENCE: Duration = Duration::from_secs(2);

/// Between two looks whether it is.
const BUILD_POLL: Duration = Duration::from_millis(20);

/// How often one page is planned anew because the ring moved under it.
const MAX_PLANS: u32 = 4;

/// Lists keys for a client.
pub(super) async fn list(inner: &Arc<Inner>, op: &ListOp) -> Result<ListPage, OpError> {
    let started = inner.env.mono();
    let now = inner.env.wall();
    let mut out = ListPage { keys: Vec::new(), now, next: None };
    let limit = op.limit.max(1) as usize;
    let map = inner.cluster.state().ring().map();
    let mut bytes = 0;
    let mut after = op.after.clone();
    let ask = Ask {
        table: op.table.clone(),
        order: ScanOrder::Ascending,
        prefix: op.prefix.clone(),
        term: None,
        rows: PAGE,
        level: op.level,
        timeout: op.timeout,
        receipts: None,
    };
    let first = after.as_ref().map_or(PartitionId(0), |(token, _)| map.partition_of(*token));
    for partition in map.partitions().skip(first.0 as usize) {
        loop {
            let span = Span { after: after.clone(), before: None };
            let part = partition_page(inner, &ask, partition, span, started).await?;
            for (position, record, size) in part.rows {
                let live = record.view(now).versions.len();
                after = Some(position.clone());
                if live < if op.conflicts { 2 } else { 1 } {
                    continue;
                }
                let (token, key) = position;
                out.keys.push(ListedKey { token, key, record });
                bytes += size;
                if out.keys.len() >= limit || bytes >= MAX_LISTED_BYTES {
                    out.next = after;
                    return Ok(out);
                }
            }
            let whole = part.next.is_none();
            match part.next {
                Some(next) => after = Some(next),
                None => match first_place(map.first_token(PartitionId(partition.0 + 1))) {
                    _ if partition.0 + 1 == map.q() => return Ok(out),
                    Some(place) => after = Some(place),
                    None => {}
                },
            }
            // Near its deadline a caller gets what there is, and goes on from there.
            if inner.env.mono().since(started) * 2 > op.timeout {
                out.next = after;
                return Ok(out);
            }
            if whole {
                break;
            }
        }
    }
    Ok(out)
}

/// Reads stored rows for a door that knows what they mean.
pub(super) async fn scan(
    inner: &Arc<Inner>,
    op: &ScanOp,
    receipts: Option<Arc<Receipts>>,
) -> Result<ScanPage, OpError> {
    let (started, now) = (inner.env.mono(), inner.env.wall());
    let mut out = ScanPage { rows: Vec::new(), now, next: None };
    let limit = op.limit.max(1);
    let map = inner.cluster.state().ring().map();
    let ask = Ask {
        table: op.table.clone(),
        order: op.order,
        prefix: Bytes::new(),
        term: op.term,
        rows: limit.min(PAGE),
        level: op.level,
        timeout: op.timeout,
        receipts,
    };
    let mut span = Span { after: op.after.clone(), before: op.before.clone() };
    let mut bytes = 0;
    let first = op.after.as_ref().map_or(PartitionId(0), |(token, _)| map.partition_of(*token));
    let last =
        op.before.as_ref().map_or(PartitionId(map.q() - 1), |(token, _)| map.partition_of(*token));
    let mut partitions: VecDeque<PartitionId> =
        map.partitions().take(last.0 as usize + 1).skip(first.0 as usize).collect();
    if op.order == ScanOrder::Descending {
        partitions.make_contiguous().reverse();
    }
    let mut ahead: VecDeque<(PartitionId, Result<Part, OpError>)> = VecDeque::new();
    let mut window = 1;
    loop {
        if ahead.is_empty() {
            let group = partitions.drain(..window.min(partitions.len()));
            let span = &span;
            let pages = group.map(|partition| {
                let page = patient_page(inner, &ask, partition, span.clone(), started);
                async move { (partition, page.await) }
            });
            ahead.extend(join_all(pages).await);
            if ask.term.is_some() {
                window = (window * 2).min(MAX_AHEAD);
            }
        }
        let Some((partition, page)) = ahead.pop_front() else { break };
        let mut page = Some(page);
        loop {
            let part = match page.take() {
                Some(page) => page?,
                None => partition_page(inner, &ask, partition, span.clone(), started).await?,
            };
            let whole = part.next.is_none();
            let ends = whole && ahead.is_empty() && partitions.is_empty();
            for (position, record, size) in part.rows {
                span.go_on(op.order, position.clone());
                bytes += size;
                out.rows.push((position.0, position.1, record));
            }
            // Of a whole partition that is not the last one, its border: so that a page without rows
            // goes on from there, and not from where it began.
            let place = part.next.or_else(|| match op.order {
                _ if ends => None,
                ScanOrder::Ascending => first_place(map.first_token(PartitionId(partition.0 + 1))),
                ScanOrder::Descending => least(map.first_token(partition)),
            });
            if let Some(place) = place {
                span.go_on(op.order, place);
            }
            let full = out.rows.len() >= limit as usize || bytes >= MAX_LISTED_BYTES;
            let late = inner.env.mono().since(started) * 2 > op.timeout;
            if (full || late) && !ends {
                out.next = match op.order {
                    ScanOrder::Ascending => span.after,
                    ScanOrder::Descending => span.before,
                };
                return Ok(out);
            }
            if whole {
                break;
            }
        }
    }
    Ok(out)
}

/// A page of a partition, waited for if the index that it is asked of is about to be built.
async fn patient_page(
    inner: &Arc<Inner>,
    op: &Ask,
    partition: PartitionId,
    span: Span,
    started: Mono,
) -> Result<Part, OpError> {
    loop {
        let page = partition_page(inner, op, partition, span.clone(), started).await;
        let waited = inner.env.mono().since(started);
        match page {
            Err(OpError::IndexBuilding { .. })
                if waited < BUILD_PATIENCE && waited * 2 < op.timeout =>
            {
                inner.env.sleep(BUILD_POLL).await;
            }
            page => return page,
        }
    }
}

/// The place before every key of `token` and later, as one after which a listing can go on: the
/// least key there is, unless that one is really there.
fn first_place(token: Token) -> Option<Position> {
    (token_of(LEAST) != token).then(|| least(token)).flatten()
}

/// The least key.
const LEAST: &[u8] = &[0];

/// The first place of a token: there is none of that token before it.
fn least(token: Token) -> Option<Position> {
    Some((token, Key::new(LEAST).ok()?))
}

/// What is still to be looked at: strictly after one place, strictly before another.
#[derive(Clone)]
struct Span {
    after: Option<Position>,
    before: Option<Position>,
}

impl Span {
    /// All up to `place` was looked at, coming from the beginning or from the end.
    fn go_on(&mut self, order: ScanOrder, place: Position) {
        match order {
            ScanOrder::Ascending => self.after = Some(place),
            ScanOrder::Descending => self.before = Some(place),
        }
    }
}

/// The part of a partition that all asked replicas cover.
struct Part {
    /// With the bytes of each stored record.
    rows: Vec<(Position, Record, usize)>,
    next: Option<Position>,
}

/// What one replica showed.
struct Shown {
    want: Want,
    rows: Vec<Row>,
    next: Option<Position>,
}

/// What is asked of each partition of the ring.
struct Ask {
    table: Arc<Table>,
    order: ScanOrder,
    prefix: Bytes,
    term: Option<IndexTerm>,
    /// Rows at a time.
    rows: u32,
    level: Consistency,
    timeout: Duration,
    /// Where to note how it went.
    receipts: Option<Arc<Receipts>>,
}

impl Ask {
    /// Notes who has shown a part of the ring.
    fn note(&self, inner: &Inner, plan: &Plan, shown: &BTreeMap<NodeId, Shown>) {
        let Some(receipts) = &self.receipts else { return };
        let entry = |(&node, shown): (&NodeId, &Shown)| {
            let role = if shown.want == Want::Record { "data" } else { "digest" };
            (node, ReplicaReceipt { role, answer: "ok".to_owned(), ..ReplicaReceipt::default() })
        };
        let log = shown.iter().map(entry).collect();
        receipts.add(inner.receipt("scan", plan, shown.len(), &log, &[], 0));
    }
}

async fn partition_page(
    inner: &Arc<Inner>,
    op: &Ask,
    partition: PartitionId,
    span: Span,
    started: Mono,
) -> Result<Part, OpError> {
    for _ in 0..MAX_PLANS {
        let plan = inner.plan_partition(
            Purpose::Read,
            &op.table,
            partition,
            op.level,
            started,
            op.timeout,
        )?;
        inner.must_be_possible(&plan)?;
        let request = PageRequest {
            table: op.table.id,
            partition,
            after: span.after.clone(),
            before: span.before.clone(),
            prefix: op.prefix.clone(),
            limit: op.rows,
            want: Want::Record,
            refill: false,
            term: op.term,
            order: op.order,
        };
        let result = match show(inner, &plan, &request).await {
            Ok(shown) => {
                op.note(inner, &plan, &shown);
                combine(inner, op, &request, started, &shown).await
            }
            Err(stop) => Err(stop),
        };
        match result {
            Ok(part) => return Ok(part),
            Err(Stop::Replan) => {}
            Err(Stop::Error(error)) => return Err(error),
        }
    }
    Err(OpError::Overloaded { what: "the ring keeps changing; list again".to_owned() })
}

/// Asks replicas until enough have shown their pages, one of them with records.
async fn show(
    inner: &Arc<Inner>,
    plan: &Plan,
    request: &PageRequest,
) -> Result<BTreeMap<NodeId, Shown>, Stop> {
    let mut shown: BTreeMap<NodeId, Shown> = BTreeMap::new();
    let mut failed = Failures::new();
    let (mut asked, mut building) = (0, 0);
    while !plan.requirement.alive_suffices(&shown.keys().copied().collect::<Vec<_>>()) {
        let wanted = if asked == 0 { plan.first_contacts() } else { 1 };
        let nodes: Vec<NodeId> = plan.order.iter().copied().skip(asked).take(wanted).collect();
        if nodes.is_empty() && building > 0 {
            return Err(Stop::Error(OpError::IndexBuilding {
                level: plan.level,
                required: plan.required(),
                received: u32::try_from(shown.len()).unwrap_or(u32::MAX),
                failed: building,
            }));
        }
        if nodes.is_empty() {
            return Err(Stop::Error(too_few(inner, plan, shown.len(), &failed)));
        }
        asked += nodes.len();
        let have_data = shown.values().any(|shown| shown.want == Want::Record);
        let now = inner.env.mono();
        let left = plan.left(now);
        let deadline = now + left.min(MIN_PAGE_WAIT.max(left / 3));
        let answers = join_all(nodes.iter().enumerate().map(|(at, &node)| {
            let want = if at == 0 && !have_data { Want::Record } else { Want::Digest };
            let request = Request::Page(PageRequest { want, ..request.clone() });
            let call = inner.peers.call_at(plan.epoch, node, request, deadline);
            async move { (node, want, call.await) }
        }))
        .await;
        for (node, want, answer) in answers {
            let is_building = matches!(answer, Ok(Response::Refused(Refusal::IndexBuilding)));
            building += u32::from(is_building);
            match understand(inner, plan, request, answer).await? {
                Ok((rows, next)) => {
                    shown.insert(node, Shown { want, rows, next });
                }
                Err(failure) => {
                    failed.insert(node, failure);
                }
            }
        }
    }
    Ok(shown)
}

/// The rows of a page that go on from where it was to begin, in its order, and where it ends.
async fn understand(
    inner: &Inner,
    plan: &Plan,
    request: &PageRequest,
    answer: Result<Response, CallError>,
) -> Result<Result<(Vec<Row>, Option<Position>), Failure>, Stop> {
    Ok(match answer {
        Ok(Response::Page { rows, next, .. }) => {
            let order = request.order;
            let begin = match order {
                ScanOrder::Ascending => request.after.clone(),
                ScanOrder::Descending => request.before.clone(),
            };
            let is_behind = |place: &Position, last: &Option<Position>| {
                last.as_ref().is_none_or(|last| order.compare(last, place).is_lt())
            };
            let ends = next.as_ref().is_none_or(|next| is_behind(next, &begin));
            let mut last = begin;
            let in_order = rows.iter().all(|row| {
                let place = (row.token, row.key.clone());
                let on = is_behind(&place, &last);
                last = Some(place);
                on
            });
            if in_order && ends {
                Ok((rows, next))
            } else {
                Err(Failure::from("refused: its page is out of order".to_owned()))
            }
        }
        Ok(Response::Refused(refusal)) => {
            inner.follow(plan, &refusal).await?;
            Err(Failure::from(&refusal))
        }
        Ok(_) => Err(Failure::from("refused: it answered something else".to_owned())),
        Err(error) => Err(Failure::from(&error)),
    })
}

fn too_few(inner: &Inner, plan: &Plan, received: usize, failed: &Failures) -> OpError {
    OpError::TooFewReplicas {
        level: plan.level,
        required: plan.required(),
        received: u32::try_from(received).unwrap_or(u32::MAX),
        failed: u32::try_from(failed.len()).unwrap_or(u32::MAX),
        reasons: inner.reasons(failed),
        who: causes(failed),
        fate: Fate::NotApplied,
    }
}

/// Merges what the replicas showed, up to where the shortest page ends.
async fn combine(
    inner: &Arc<Inner>,
    op: &Ask,
    request: &PageRequest,
    started: Mono,
    shown: &BTreeMap<NodeId, Shown>,
) -> Result<Part, Stop> {
    let order = request.order;
    let ends = shown.values().filter_map(|shown| shown.next.clone());
    let next = ends.min_by(|a, b| order.compare(a, b));
    let mut keys: BTreeMap<Position, Vec<(Option<Digest>, Bytes)>> = BTreeMap::new();
    for row in shown.values().flat_map(|shown| &shown.rows) {
        let position = (row.token, row.key.clone());
        if next.as_ref().is_none_or(|next| order.compare(&position, next).is_le()) {
            keys.entry(position).or_default().push((row.digest, row.record.clone()));
        }
    }
    let mut keys: Vec<_> = keys.into_iter().collect();
    if order == ScanOrder::Descending {
        keys.reverse();
    }
    let mut rows = Vec::with_capacity(keys.len());
    for (position, copies) in keys {
        let agreed =
            copies.len() == shown.len() && copies.iter().all(|(digest, _)| *digest == copies[0].0);
        let data = copies.iter().map(|(_, bytes)| bytes).find(|bytes| !bytes.is_empty());
        let decoded = data.filter(|_| agreed).and_then(|bytes| {
            let address = record::address(request.table, &position.1);
            Some((Record::decode(bytes, &address).ok()?, bytes.len()))
        });
        let (record, size) = match decoded {
            Some(decoded) => decoded,
            None => {
                let plan = inner
                    .plan(Purpose::Read, &op.table, &position.1, op.level, started, op.timeout)
                    .map_err(Stop::Error)?;
                let done = Reading::new(inner, plan, &position.1).run().await?;
                (done.merged, done.bytes.len())
            }
        };
        rows.push((position, record, size));
    }
    Ok(Part { rows, next })
}
