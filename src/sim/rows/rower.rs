//! The clients of [`crate::sim::rows`].

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;

use crate::env::Env;
use crate::node::{Node, NodeStore};
use crate::server::cql::direct::{self, PageOfRows, Reply, Terms};
use crate::sim::client::{Answer, Bench, Client, HangUp};
use crate::sim::history::{Action, Mark, Operation, Outcome, Shown, Workload, WriteId};
use crate::sim::rows::draw::draw;
use crate::sim::rows::search;
use crate::sim::rows::{
    COUNTERS, CountRead, Fate, Increment, PARTITIONS, ROWS, Read, ShownRow, Wanted, Write,
};
use crate::types::Consistency;

/// What a client does before it is done.
const TURNS: u32 = 60;
/// How often it sends a write.
const ATTEMPTS: u32 = 3;
/// Partitions of `pairs` with one row each, and then those with two.
const PAIRS: i32 = 2;
const DUOS: i32 = 2;

/// A client.
pub struct Rower {
    client: Client,
    pub(super) bench: Arc<Bench>,
    env: Env,
    number: u32,
    generation: u32,
    /// What stood under a pair when last heard of.
    held: BTreeMap<String, Option<i32>>,
}

/// Rows of `pairs` that are written together.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pair {
    partition: i32,
    rows: i32,
}

impl Pair {
    fn all() -> impl Iterator<Item = Self> {
        (0..PAIRS + DUOS)
            .map(|partition| Self { partition, rows: if partition < PAIRS { 1 } else { 2 } })
    }

    fn key(self) -> String {
        format!("pair-{}", self.partition)
    }

    /// A statement for each row, as one batch if there are several.
    fn statement(self, one: impl Fn(&str) -> String) -> String {
        let at = |c: i32| one(&format!("WHERE p = {} AND c = {c}", self.partition));
        if self.rows == 1 {
            return at(0);
        }
        let all: Vec<String> = (0..self.rows).map(|c| format!("{};", at(c))).collect();
        format!("BEGIN BATCH {} APPLY BATCH", all.join(" "))
    }

    fn write(self, value: i32, expected: Option<i32>) -> String {
        let Self { partition, .. } = self;
        match expected {
            Some(old) => self.statement(|here| {
                let minus = -value;
                format!(
                    "UPDATE w.pairs SET a = {value}, b = {minus} {here} IF a = {old} AND b = {}",
                    -old
                )
            }),
            None => {
                let insert = |c: i32| {
                    format!(
                        "INSERT INTO w.pairs (p, c, a, b) VALUES ({partition}, {c}, {value}, {}) \
                         IF NOT EXISTS",
                        -value
                    )
                };
                if self.rows == 1 {
                    return insert(0);
                }
                let all: Vec<String> = (0..self.rows).map(|c| format!("{};", insert(c))).collect();
                format!("BEGIN BATCH {} APPLY BATCH", all.join(" "))
            }
        }
    }

    fn delete(self, old: i32) -> String {
        self.statement(|here| format!("DELETE FROM w.pairs {here} IF a = {old} AND b = {}", -old))
    }

    /// Never takes effect, so that its refusal shows all rows at one moment.
    fn look(self) -> String {
        self.statement(|here| format!("UPDATE w.pairs SET a = 0 {here} IF a = 0 AND b = 1"))
    }
}

/// What is read when all has settled.
#[derive(Clone, Copy, Debug)]
pub(super) enum Last {
    Cells(i32),
    Pair(Pair),
    Count(i32),
    Search(Wanted),
    AllTwins,
    Twins(i32),
}

pub(super) fn int(bytes: Option<&Bytes>) -> Option<i32> {
    bytes.and_then(|bytes| <[u8; 4]>::try_from(&bytes[..]).ok()).map(i32::from_be_bytes)
}

/// A map of numbers, as the protocol has it.
fn map(bytes: Option<&Bytes>) -> BTreeMap<i32, i32> {
    let words: Vec<i32> = bytes
        .map(|bytes| bytes.chunks_exact(4).filter_map(|word| word.try_into().ok()))
        .into_iter()
        .flatten()
        .map(i32::from_be_bytes)
        .collect();
    // Count, then (4, key, 4, value).
    words.get(1..).unwrap_or_default().chunks_exact(4).map(|entry| (entry[1], entry[3])).collect()
}

/// The columns a, b and m of a row.
pub(super) fn shown_row(page: &PageOfRows, row: &[Option<Bytes>]) -> ShownRow {
    let column = |name| page.value(row, name);
    ShownRow { a: int(column("a")), b: int(column("b")), m: map(column("m")) }
}

/// What a pair holds: one value, nothing, or what nobody has written.
fn shown_pair(page: &PageOfRows, pair: Pair) -> Vec<Shown> {
    let mut values: Vec<(Option<i32>, Option<i32>)> = page
        .rows
        .iter()
        .map(|row| (int(page.value(row, "a")), int(page.value(row, "b"))))
        .collect();
    values.resize(usize::try_from(pair.rows).unwrap_or(1).max(values.len()), (None, None));
    let (a, b) = values[0];
    let torn = values.iter().any(|other| *other != (a, b)) || a != b.map(|b| -b);
    let dot = None;
    match a {
        _ if torn => vec![Shown { value: Err(format!("torn: {values:?}")), dot }],
        Some(a) => vec![Shown { value: Ok(WriteId(u64::from(a.unsigned_abs()))), dot }],
        None => Vec::new(),
    }
}

/// How a write that is sent once has ended.
pub(super) fn fate_of(answer: &Answer<Reply>) -> Fate {
    match answer {
        Answer::Got(Ok(Reply::Done | Reply::Rows(_))) => Fate::Acknowledged,
        Answer::Got(Ok(Reply::Failed { not_applied: true, .. })) | Answer::Refused => {
            Fate::NotApplied
        }
        Answer::Got(_) | Answer::Silence => Fate::Unknown,
    }
}

/// Runs client `number`.
pub async fn run(bench: Arc<Bench>, env: Env, number: u32) {
    let mut rower = Rower::new(bench, env, number);
    for _ in 0..TURNS {
        rower.env.sleep(Duration::from_millis(rower.below(500))).await;
        match rower.below(14) {
            0..=3 => rower.write().await,
            4 => rower.increment().await,
            5 => {
                let key = i32::try_from(rower.below(COUNTERS.unsigned_abs().into())).unwrap_or(0);
                rower.read_count(key).await;
            }
            6 | 7 => {
                let from = i32::try_from(rower.below(2)).unwrap_or(0);
                let partition = rower.partition();
                rower.read(partition, from, ROWS, false).await;
            }
            8 => rower.search_for_some().await,
            9 => rower.write_twins().await,
            10 => rower.search_for_twins().await,
            11 if rower.below(4) == 0 => rower.make_index_anew().await,
            _ => rower.pair().await,
        }
    }
    rower.bench.done.fetch_add(1, Ordering::Relaxed);
}

/// Reads all rows after the run. Gives what could not be read.
pub async fn finale(bench: Arc<Bench>, env: Env, number: u32) -> Vec<String> {
    let mut rower = Rower::new(bench, env, number);
    let mut unread = Vec::new();
    for partition in 0..PARTITIONS {
        if !rower.insist(Last::Cells(partition)).await {
            unread.push(format!("cells {partition}"));
        }
    }
    for key in 0..COUNTERS {
        if !rower.insist(Last::Count(key)).await {
            unread.push(format!("counter {key}"));
        }
    }
    for pair in Pair::all() {
        if !rower.insist(Last::Pair(pair)).await {
            unread.push(pair.key());
        }
    }
    unread.extend(rower.last_searches().await);
    unread
}

/// Creates keyspace and tables through `node`. `Err`: what a node said; it may be tried again.
pub async fn create_tables(node: Node, replication: u8, grace_s: u64) -> Result<(), String> {
    let strategy = format!("{{'class': 'SimpleStrategy', 'replication_factor': {replication}}}");
    for text in [
        format!("CREATE KEYSPACE IF NOT EXISTS w WITH replication = {strategy}"),
        format!(
            "CREATE TABLE IF NOT EXISTS w.cells (p int, c int, s int static, a int, b int, \
             m map<int, int>, PRIMARY KEY (p, c)) WITH gc_grace_seconds = {grace_s}"
        ),
        format!(
            "CREATE TABLE IF NOT EXISTS w.pairs (p int, c int, a int, b int, PRIMARY KEY (p, c)) \
             WITH gc_grace_seconds = {grace_s}"
        ),
        "CREATE TABLE IF NOT EXISTS w.counts (k int PRIMARY KEY, n counter)".to_owned(),
        "CREATE TABLE IF NOT EXISTS w.twins (p int PRIMARY KEY, v int)".to_owned(),
        "CREATE INDEX IF NOT EXISTS twins_v ON w.twins (v)".to_owned(),
        "CREATE INDEX IF NOT EXISTS cells_a ON w.cells (a)".to_owned(),
        search::MAP_INDEX.to_owned(),
        search::FIRST_BATCH.to_owned(),
    ] {
        let terms = Terms::at(Consistency::Quorum);
        let store = Arc::new(NodeStore::new(node.clone()));
        if let Reply::Failed { message, .. } = direct::execute(store, text, terms).await {
            return Err(message);
        }
    }
    Ok(())
}

impl Rower {
    fn new(bench: Arc<Bench>, env: Env, number: u32) -> Self {
        let client = Client::new(bench.clone(), env.clone(), number);
        Self { client, bench, env, number, generation: 0, held: BTreeMap::new() }
    }

    pub(super) fn below(&self, bound: u64) -> u64 {
        self.env.random_below("rower", bound)
    }

    fn partition(&self) -> i32 {
        i32::try_from(self.below(PARTITIONS.unsigned_abs().into())).unwrap_or(0)
    }

    pub(super) fn node(&self) -> u32 {
        u32::try_from(self.below(self.bench.cluster.plan().nodes.into())).unwrap_or(0)
    }

    pub(super) fn now(&self) -> u64 {
        self.bench.cluster.world().now()
    }

    pub(super) async fn insist(&mut self, what: Last) -> bool {
        for _ in 0..20 {
            let read = match what {
                Last::Cells(partition) => self.read(partition, 0, ROWS, true).await,
                Last::Count(key) => self.read_count(key).await,
                Last::Pair(pair) => self.look(pair, true).await,
                Last::Search(wanted) => self.search(wanted, true).await,
                Last::AllTwins => self.read_twins().await,
                Last::Twins(number) => self.search_twins(number, true).await,
            };
            if read {
                return true;
            }
            self.env.sleep(Duration::from_millis(500)).await;
        }
        false
    }

    pub(super) async fn execute(
        &self,
        node: u32,
        text: String,
        terms: Terms,
        calls: u32,
    ) -> Answer<Reply> {
        let limit = Duration::from_millis(self.bench.cluster.plan().timeout_ms);
        let handler = move |node: Node| async move {
            let store = Arc::new(NodeStore::with_limit(node, limit));
            Ok(direct::execute(store, text, terms).await)
        };
        self.client.request_within(node, HangUp::NEVER, limit * calls, handler).await
    }

    /// Sends a write of `cells`, again if the outcome is unknown.
    async fn write(&mut self) {
        let (partition, first) = (self.partition(), self.node());
        let (number, drawn) = {
            let mut log = self.bench.rows();
            let value = log.new_value();
            // Several writes in a row have the same stamp, and some an older one.
            let stamp = 1_000 + i64::from(value) / 4 + i64::from(self.below(3) == 0);
            let drawn = draw(&self.env, partition, value, stamp);
            let begun = log.mark();
            log.writes.push(Write {
                value,
                partition,
                stamp,
                ttl_s: drawn.ttl_s,
                effects: drawn.effects.clone(),
                begun,
                ended: u64::MAX,
                ended_at: u64::MAX,
                fate: Fate::Unknown,
            });
            (log.writes.len() - 1, drawn)
        };
        let mut unknown = false;
        let mut fate = Fate::Unknown;
        for attempt in 0..ATTEMPTS {
            let node = (first + attempt) % self.bench.cluster.plan().nodes;
            let level = if self.below(10) == 0 { Consistency::All } else { Consistency::Quorum };
            let terms = Terms::at(level);
            match self.execute(node, drawn.text.clone(), terms, 1).await {
                Answer::Got(Ok(Reply::Done | Reply::Rows(_))) => {
                    fate = Fate::Acknowledged;
                    break;
                }
                Answer::Got(Ok(Reply::Failed { not_applied: true, .. })) | Answer::Refused => {}
                Answer::Got(_) | Answer::Silence => unknown = true,
            }
        }
        if fate != Fate::Acknowledged && !unknown {
            fate = Fate::NotApplied;
        }
        let now = self.now();
        let mut log = self.bench.rows();
        let ended = log.mark();
        let write = &mut log.writes[number];
        (write.ended, write.ended_at, write.fate) = (ended, now, fate);
    }

    /// All pages of a SELECT at a quorum, through one node; `None`: it could not be answered.
    pub(super) async fn pages(&self, text: String) -> Option<Vec<PageOfRows>> {
        let node = self.node();
        let page_size = (self.below(2) == 0).then(|| 1 + self.below(3) as u32);
        let mut terms = Terms { page_size, ..Terms::at(Consistency::Quorum) };
        let mut pages = Vec::new();
        loop {
            let answer = self.execute(node, text.clone(), terms.clone(), 4).await;
            let Answer::Got(Ok(Reply::Rows(page))) = answer else { return None };
            terms.paging_state.clone_from(&page.paging_state);
            pages.push(page);
            if terms.paging_state.is_none() {
                return Some(pages);
            }
        }
    }

    /// Reads a slice of `cells`, page by page, through one node, from either end.
    async fn read(&mut self, partition: i32, from: i32, to: i32, last: bool) -> bool {
        let (begun, begun_at) = (self.bench.rows().mark(), self.now());
        let whole = from == 0 && to == ROWS;
        let slice = if whole { String::new() } else { format!(" AND c >= {from} AND c < {to}") };
        let descending = self.below(2) == 0;
        let order = if descending { " ORDER BY c DESC" } else { "" };
        let text = format!("SELECT c, s, a, b, m FROM w.cells WHERE p = {partition}{slice}{order}");
        let Some(pages) = self.pages(text).await else { return false };
        let (mut rows, mut statics) = (BTreeMap::new(), whole.then_some(None));
        let (mut in_order, mut before) = (true, None);
        for page in &pages {
            for row in &page.rows {
                // Pages are read at different times; the first one tells of the static column.
                if rows.is_empty() {
                    statics = Some(int(page.value(row, "s")));
                }
                let Some(c) = int(page.value(row, "c")) else { continue };
                in_order &=
                    before.is_none_or(|before| if descending { c < before } else { c > before });
                before = Some(c);
                rows.insert(c, shown_row(page, row));
            }
        }
        let mut log = self.bench.rows();
        let ended = log.mark();
        log.reads.push(Read {
            partition,
            from,
            to,
            begun,
            ended,
            begun_at,
            last,
            statics,
            rows,
            in_order,
        });
        true
    }

    /// Adds to a counter. It is not sent again: nobody could tell whether it was counted.
    async fn increment(&mut self) {
        let key = i32::try_from(self.below(COUNTERS.unsigned_abs().into())).unwrap_or(0);
        let add = 1 + i64::try_from(self.below(9)).unwrap_or(0);
        let number = {
            let mut log = self.bench.rows();
            let begun = log.mark();
            let (ended, fate) = (u64::MAX, Fate::Unknown);
            log.increments.push(Increment { key, add, begun, ended, fate });
            log.increments.len() - 1
        };
        let text = format!("UPDATE w.counts SET n = n + {add} WHERE k = {key}");
        let terms = Terms::at(Consistency::Quorum);
        let fate = fate_of(&self.execute(self.node(), text, terms, 1).await);
        let mut log = self.bench.rows();
        let ended = log.mark();
        let increment = &mut log.increments[number];
        (increment.ended, increment.fate) = (ended, fate);
    }

    async fn read_count(&mut self, key: i32) -> bool {
        let begun = self.bench.rows().mark();
        let text = format!("SELECT n FROM w.counts WHERE k = {key}");
        let terms = Terms::at(Consistency::Quorum);
        let Answer::Got(Ok(Reply::Rows(page))) = self.execute(self.node(), text, terms, 4).await
        else {
            return false;
        };
        let shown = page.rows.first().and_then(|row| page.value(row, "n"));
        let shown = shown.and_then(|bytes| <[u8; 8]>::try_from(&bytes[..]).ok());
        let value = shown.map_or(0, i64::from_be_bytes);
        let mut log = self.bench.rows();
        let ended = log.mark();
        log.counts.push(CountRead { key, value, begun, ended });
        true
    }

    /// Does something under conditions.
    async fn pair(&mut self) {
        let all: Vec<Pair> = Pair::all().collect();
        let pair = all[usize::try_from(self.below(all.len() as u64)).unwrap_or(0)];
        let expected = self.held.get(&pair.key()).copied();
        match (self.below(10), expected) {
            (0..=2, _) | (_, None) => {
                self.look(pair, false).await;
            }
            (3, Some(Some(old))) => self.swap(pair, Some(old), true).await,
            (_, Some(expected)) => self.swap(pair, expected, false).await,
        }
    }

    fn begin(&self, pair: Pair, node: u32, action: Action, last: bool) -> usize {
        let t = self.now();
        self.bench.history().begin(
            t,
            Operation {
                process: self.number + self.generation * 1_000,
                node,
                key: pair.key(),
                workload: Workload::Conditional,
                strong: true,
                last,
                action,
                call: Mark { i: 0, t },
                ret: None,
                outcome: Outcome::Unknown,
            },
        )
    }

    fn end(&mut self, number: usize, outcome: Outcome) {
        if outcome == Outcome::Unknown {
            self.generation += 1;
        }
        let t = self.now();
        self.bench.history().end(t, number, outcome);
    }

    fn hold(&mut self, pair: Pair, shown: &[Shown]) {
        let value = match shown {
            [Shown { value: Ok(id), .. }] => i32::try_from(id.0).ok(),
            _ => None,
        };
        self.held.insert(pair.key(), value);
    }

    /// Reads a pair at SERIAL, or by a condition that cannot hold, which shows all rows at once.
    async fn look(&mut self, pair: Pair, last: bool) -> bool {
        let node = self.node();
        let serial = pair.rows == 1 && self.below(2) == 0;
        let (text, level) = if serial {
            let text = format!("SELECT a, b FROM w.pairs WHERE p = {} AND c = 0", pair.partition);
            (text, Consistency::Serial)
        } else {
            (pair.look(), Consistency::Quorum)
        };
        let number = self.begin(pair, node, Action::Read, last);
        let terms = Terms::at(level);
        let outcome = match self.execute(node, text, terms, 4).await {
            Answer::Got(Ok(Reply::Rows(page))) => {
                let shown = shown_pair(&page, pair);
                self.hold(pair, &shown);
                Outcome::Read(shown)
            }
            _ => Outcome::NotApplied,
        };
        let is_read = matches!(outcome, Outcome::Read(_));
        self.end(number, outcome);
        is_read
    }

    async fn swap(&mut self, pair: Pair, expected: Option<i32>, delete: bool) {
        let node = self.node();
        let value = self.bench.rows().new_value();
        let text = match expected {
            Some(old) if delete => pair.delete(old),
            expected => pair.write(value, expected),
        };
        let id = |value: i32| WriteId(u64::from(value.unsigned_abs()));
        let action = Action::Cas { id: id(value), expected: expected.map(id), delete };
        let number = self.begin(pair, node, action, false);
        let terms = Terms::at(Consistency::Quorum);
        let outcome = match self.execute(node, text, terms, 1).await {
            Answer::Got(Ok(Reply::Rows(page))) => {
                let applied = page.rows.first().and_then(|row| page.value(row, "[applied]"));
                if applied.is_some_and(|applied| applied[..] == [1]) {
                    self.held.insert(pair.key(), (!delete).then_some(value));
                    Outcome::Written(None)
                } else {
                    let shown = shown_pair(&page, pair);
                    self.hold(pair, &shown);
                    Outcome::Refused(shown)
                }
            }
            Answer::Got(Ok(Reply::Failed { not_applied: true, .. })) | Answer::Refused => {
                Outcome::NotApplied
            }
            Answer::Got(_) | Answer::Silence => Outcome::Unknown,
        };
        self.end(number, outcome);
    }
}
