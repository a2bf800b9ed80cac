//! Hostile input: mutated frames and mutated statements, through everything but the sockets, so
//! that a panic anywhere fails the test; and garbage over sockets.
//!
//! A short run is part of the tests. For a long one, with a seed of its own:
//!
//! ```text
//! HENGE_FUZZ_SECONDS=600 HENGE_FUZZ_SEED=7 cargo test --profile ci --lib fuzz -- --nocapture
//! ```

use std::time::Duration;

use bytes::BytesMut;

use super::client::{Client as Wire, Server};
use super::mem::MemStore;
use crate::cql;
use crate::env::{Env, tokio_env};
use crate::server::cql::CqlService;
use crate::server::cql::frame::{Decoded, Decoder, Frame, Version, flag, opcode};
use crate::server::cql::request::{self, Parameters, Request};
use crate::server::cql::response::Answer;
use crate::server::cql::segment::{self, Coding};
use crate::server::cql::service::{Origin, Session, Wanted};
use crate::server::cql::wire::{Value, Writer};
use crate::types::Consistency;

/// Statements that are right, of every kind.
const CORPUS: &[&str] = &[
    "SELECT * FROM ks.t WHERE k = 1",
    "SELECT k, v AS name, writetime(v), ttl(v) FROM ks.t WHERE k IN (1, 2, 3) LIMIT 10",
    "SELECT DISTINCT p FROM ks.w PER PARTITION LIMIT 2 ALLOW FILTERING",
    "SELECT p, c, d, s, v FROM ks.w WHERE p = 'a' AND c >= 1 AND c < 5 ORDER BY c DESC, d ASC",
    "SELECT * FROM ks.w WHERE p = 'a' AND (c, d) > (1, 2) AND (c, d) <= (9, 9)",
    "SELECT * FROM ks.w WHERE token(p) > -9223372036854775808 AND token(p) <= 9223372036854775807",
    "SELECT count(*), min(c), max(d), sum(c), avg(d) FROM ks.w GROUP BY p, c",
    "SELECT l, m, st, f, tu FROM ks.c WHERE k = 550e8400-e29b-41d4-a716-446655440000",
    "SELECT cast(c AS text), toTimestamp(now()), blobAsInt(0x00000001) FROM ks.w WHERE p = ? AND c = :c",
    "INSERT INTO ks.t (k, v) VALUES (1, 'it''s') USING TTL 10 AND TIMESTAMP 1234567",
    "INSERT INTO ks.t (k, v) VALUES (?, :v) IF NOT EXISTS",
    "INSERT INTO ks.w (p, c, d, s, v) VALUES ('a', 1, 2, 3, 1.5e10)",
    "INSERT INTO ks.c (k, l, m, st, f, tu) VALUES (uuid(), [1, 2], {'a': 1}, {1.5, -2.5}, [1], (1, 'x', null))",
    "UPDATE ks.c SET l = l + [3], m['b'] = 2, st = st - {1.5} WHERE k = uuid()",
    "UPDATE ks.c SET l[0] = 7, m = m - {'a'}, l = [0] + l WHERE k = 550e8400-e29b-41d4-a716-446655440000 IF l[0] = 1 AND m['a'] IN (1, 2)",
    "UPDATE ks.t USING TTL ? SET v = $$text$$ WHERE k = -2147483648",
    "UPDATE ks.w SET s = 5 WHERE p = 'a' IF s != null",
    "DELETE FROM ks.w USING TIMESTAMP 5 WHERE p = 'a' AND c > 1 AND c <= 5",
    "DELETE v, s FROM ks.w WHERE p = 'a' AND c = 1 AND d = 2 IF EXISTS",
    "DELETE m['a'], l[1] FROM ks.c WHERE k = 550e8400-e29b-41d4-a716-446655440000",
    "BEGIN BATCH INSERT INTO ks.t (k, v) VALUES (1, 'a') UPDATE ks.t SET v = 'b' WHERE k = 1; DELETE FROM ks.t WHERE k = 1 APPLY BATCH",
    "BEGIN UNLOGGED BATCH USING TIMESTAMP 77 INSERT INTO ks.t (k) VALUES (1) INSERT INTO ks.t (k) VALUES (2) APPLY BATCH",
    "CREATE TABLE IF NOT EXISTS ks.x (a int, b text, c list<frozen<map<text, int>>>, d tuple<int, text> static, PRIMARY KEY ((a), b)) WITH CLUSTERING ORDER BY (b DESC) AND comment = 'x' AND compaction = {'class': 'LeveledCompactionStrategy'}",
    "ALTER TABLE ks.x ADD e vector<float, 3>",
    "ALTER TABLE ks.x DROP e",
    "DROP TABLE IF EXISTS ks.x",
    "CREATE TYPE IF NOT EXISTS ks.addr (street text, zip int, more frozen<set<inet>>)",
    "ALTER TYPE ks.addr ADD city text",
    "CREATE KEYSPACE IF NOT EXISTS other WITH replication = {'class': 'NetworkTopologyStrategy', 'dc1': 1} AND durable_writes = true",
    "DROP KEYSPACE IF EXISTS other",
    "TRUNCATE TABLE ks.t",
    "USE ks",
    "SELECT * FROM system.local -- the end",
    "SELECT * FROM system_schema.columns WHERE keyspace_name = 'ks' /* all */ AND table_name IN ('t', 'w')",
    "SELECT '2024-02-29 01:02:03.004+0100', 1d2h3m, P1Y2M3DT4H5M6S, 0xCAFE, NaN, Infinity, true FROM ks.t",
];

const SCHEMA: &[&str] = &[
    "CREATE KEYSPACE IF NOT EXISTS ks WITH replication = {'class': 'SimpleStrategy', 'replication_factor': 1}",
    "CREATE TABLE IF NOT EXISTS ks.t (k int PRIMARY KEY, v text)",
    "CREATE TABLE IF NOT EXISTS ks.w (p text, c int, d bigint, s int static, v double, PRIMARY KEY (p, c, d))",
    "CREATE TABLE IF NOT EXISTS ks.c (k uuid PRIMARY KEY, l list<int>, m map<text, int>, st set<double>, f frozen<list<int>>, tu tuple<int, text, blob>, da date, ti time, ts timestamp, dc decimal, va varint, du duration, ip inet)",
];

/// Pieces that are put where they do not belong.
const PIECES: &[&str] = &[
    "(",
    ")",
    "[",
    "]",
    "{",
    "}",
    ",",
    ";",
    ".",
    "'",
    "\"",
    "$$",
    "?",
    ":x",
    "-",
    "--",
    "/*",
    "*/",
    "=",
    "!=",
    "<",
    ">=",
    "+",
    "null",
    "NOT",
    "IN",
    "IF",
    "EXISTS",
    "now()",
    "uuid()",
    "token(",
    "count(*)",
    "0x",
    "0xFFF",
    "1e999",
    "-0.0",
    "99999999999999999999999999",
    "9223372036854775807",
    "-9223372036854775808",
    "2147483648",
    "frozen<",
    "map<",
    "vector<float, 999999999>",
    "1d",
    "P",
    "'2024-13-45'",
    "''",
    "\u{0}",
    "é",
    "𝄞",
    "USING TTL",
    "WHERE",
    "FROM",
    "LIMIT",
    "0",
    "AND",
    "ORDER BY",
    "GROUP BY",
    "APPLY BATCH",
    "BEGIN BATCH",
    "ALLOW FILTERING",
    "CONTAINS KEY",
    "LIKE",
];

/// Small and fast, and the same everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        // SplitMix64.
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ z >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ z >> 31
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound.max(1) as u64) as usize
    }

    fn pick<'a, T: ?Sized>(&mut self, from: &[&'a T]) -> &'a T {
        from[self.below(from.len())]
    }

    fn bytes(&mut self, max: usize) -> Vec<u8> {
        (0..self.below(max + 1)).map(|_| self.next() as u8).collect()
    }
}

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// How often to go on: for some seconds if asked, else `cases` times.
struct Run {
    env: Env,
    until: Option<crate::types::Mono>,
    left: u64,
    done: u64,
    random: Random,
}

impl Run {
    fn new(cases: u64) -> Self {
        let env = tokio_env();
        let seconds = setting("HENGE_FUZZ_SECONDS");
        let until = seconds.map(|seconds| env.mono() + Duration::from_secs(seconds));
        let random = Random(setting("HENGE_FUZZ_SEED").unwrap_or(1));
        Self { env, until, left: cases, done: 0, random }
    }

    fn goes_on(&mut self) -> bool {
        self.done += 1;
        self.left = self.left.saturating_sub(1);
        match self.until {
            Some(until) => self.env.mono() < until,
            None => self.left > 0,
        }
    }
}

/// A service with tables and some rows; made anew now and then, or it would fill with what mutated
/// statements have made.
struct Target {
    service: CqlService,
    session: Session,
}

impl Target {
    async fn new() -> Self {
        let service = CqlService::new(MemStore::new(tokio_env(), 9042));
        let target = Self { service, session: Session::default() };
        for text in SCHEMA.iter().chain(CORPUS) {
            target.run(text, Vec::new()).await;
        }
        target
    }

    async fn answer(&self, request: Request) -> Answer {
        let origin = Origin { client: None };
        let reply = self.service.answer(&self.session, request, origin, Wanted::default()).await;
        for version in [Version::V4, Version::V5] {
            let _ = reply.encode(version, 1, true);
        }
        reply.answer
    }

    async fn run(&self, text: &str, values: Vec<Value>) -> Answer {
        let parameters = Parameters {
            level: Consistency::One,
            values,
            names: None,
            skip_metadata: false,
            page_size: Some(3),
            paging_state: None,
            serial: Consistency::Serial,
            timestamp: None,
            keyspace: Some("ks".to_owned()),
            now: None,
        };
        self.answer(Request::Query { text: text.to_owned(), parameters }).await
    }
}

fn words(text: &str) -> Vec<String> {
    let mut out: Vec<String> = Vec::new();
    let mut last = None;
    for c in text.chars() {
        let kind = if c.is_alphanumeric() || c == '_' {
            0
        } else if c == ' ' {
            1
        } else {
            2
        };
        match out.last_mut() {
            Some(word) if last == Some(kind) && kind == 0 => word.push(c),
            _ => out.push(c.to_string()),
        }
        last = Some(kind);
    }
    out
}

fn mutated_statement(random: &mut Random) -> String {
    let mut all = words(random.pick(CORPUS));
    for _ in 0..random.below(4) {
        let at = random.below(all.len());
        match random.below(8) {
            0 => drop(all.remove(at)),
            1 => all.insert(at, random.pick(PIECES).to_owned()),
            2 => all[at] = random.pick(PIECES).to_owned(),
            3 => {
                // The rest of another.
                let other = words(random.pick(CORPUS));
                let from = random.below(other.len());
                all.truncate(at);
                all.extend_from_slice(&other[from..]);
            }
            4 => {
                let other = words(random.pick(CORPUS));
                all[at] = other[random.below(other.len())].clone();
            }
            5 => {
                let word = all[at].clone();
                (0..random.below(60)).for_each(|_| all.insert(at, word.clone()));
            }
            6 => {
                let open = random.pick(&["(", "[", "{", "frozen<", "-", "'a': {", "list<"]);
                let piece = open.repeat(random.below(3_000));
                all.insert(at, piece);
            }
            _ => {
                let c = char::from_u32(random.below(0x3000) as u32).unwrap_or('\u{FFFD}');
                all[at].push(c);
            }
        }
        if all.is_empty() {
            all.push(" ".to_owned());
        }
    }
    all.concat()
}

#[tokio::test]
async fn fuzz_statements_never_panic_the_parser_nor_what_runs_them() {
    let mut run = Run::new(3_000);
    let mut target = Target::new().await;
    let mut accepted = 0u64;
    while run.goes_on() {
        if run.done.is_multiple_of(2_000) {
            target = Target::new().await;
        }
        let text = mutated_statement(&mut run.random);
        let _ = cql::parse(&text);
        let values = (0..run.random.below(4))
            .map(|_| match run.random.below(5) {
                0 => Value::Null,
                1 => Value::Unset,
                2 => Value::Bytes(vec![0, 0, 0, 1]),
                _ => Value::Bytes(run.random.bytes(24)),
            })
            .collect();
        let answer = target.run(&text, values).await;
        accepted += u64::from(!matches!(answer, Answer::Error(_)));
    }
    println!("{} statements, {accepted} of them accepted", run.done);
    assert!(accepted > run.done / 100, "mutations that are all refused at once find nothing");
}

/// Messages that are right, of every kind.
fn messages(version: Version) -> Vec<(u8, Vec<u8>)> {
    let mut out = vec![(opcode::OPTIONS, Vec::new())];
    let mut put = |opcode, fill: &dyn Fn(&mut Writer)| {
        let mut body = Writer::default();
        fill(&mut body);
        out.push((opcode, body.0));
    };
    let flags = |body: &mut Writer, flags: u16| match version {
        Version::V4 => body.byte(flags as u8),
        Version::V5 => body.int(i64::from(flags)),
    };
    let long = |body: &mut Writer, text: &str| body.bytes(Some(text.as_bytes()));
    put(opcode::STARTUP, &|body| {
        body.short(1);
        body.string("CQL_VERSION");
        body.string("3.4.6");
    });
    put(opcode::REGISTER, &|body| body.string_list(&["SCHEMA_CHANGE", "STATUS_CHANGE"]));
    put(opcode::AUTH_RESPONSE, &|body| body.bytes(Some(b"\0a\0b")));
    for text in CORPUS {
        put(opcode::PREPARE, &|body| {
            long(body, text);
            if version == Version::V5 {
                body.int(1);
                body.string("ks");
            }
        });
        put(opcode::QUERY, &|body| {
            long(body, text);
            body.short(1);
            flags(body, 0x01 | 0x02 | 0x04 | 0x10 | 0x20);
            body.short(2);
            body.bytes(Some(&[0, 0, 0, 1]));
            body.bytes(None);
            body.int(2);
            body.short(8);
            body.0.extend_from_slice(&77i64.to_be_bytes());
        });
    }
    put(opcode::EXECUTE, &|body| {
        body.short_bytes(&[7; 16]);
        if version == Version::V5 {
            body.short_bytes(&[9; 16]);
        }
        body.short(1);
        flags(body, 0x40 | 0x01);
        body.short(1);
        body.string("k");
        body.bytes(Some(&[0, 0, 0, 1]));
    });
    put(opcode::BATCH, &|body| {
        body.byte(1);
        body.short(2);
        for _ in 0..2 {
            body.byte(0);
            long(body, "INSERT INTO ks.t (k, v) VALUES (?, ?)");
            body.short(2);
            body.bytes(Some(&[0, 0, 0, 1]));
            body.bytes(Some(b"x"));
        }
        body.short(1);
        flags(body, 0);
    });
    out
}

fn mutate(bytes: &mut Vec<u8>, random: &mut Random) {
    for _ in 0..random.below(4) {
        if bytes.is_empty() {
            bytes.extend(random.bytes(16));
        }
        let at = random.below(bytes.len().max(1));
        match random.below(6) {
            0 if !bytes.is_empty() => bytes[at] ^= 1 << random.below(8),
            1 if !bytes.is_empty() => bytes[at] = random.next() as u8,
            2 => bytes.truncate(at),
            3 => {
                let more = random.bytes(20);
                bytes.splice(at..at, more);
            }
            // Numbers at the edges of what there is.
            4 => {
                let edges = [-1i32, -2, i32::MIN, i32::MAX, 0, 1, 0xFFFF, 16 << 20];
                let edge = edges[random.below(edges.len())].to_be_bytes();
                let end = (at + 4).min(bytes.len());
                bytes[at..end].copy_from_slice(&edge[..end - at]);
            }
            _ => {
                let end = (at + random.below(32)).min(bytes.len());
                bytes.drain(at..end);
            }
        }
    }
}

#[tokio::test]
async fn fuzz_frames_never_panic_what_reads_and_answers_them() {
    let mut run = Run::new(6_000);
    let mut target = Target::new().await;
    let corpora = [(Version::V4, messages(Version::V4)), (Version::V5, messages(Version::V5))];
    let mut answered = 0u64;
    while run.goes_on() {
        if run.done.is_multiple_of(2_000) {
            target = Target::new().await;
        }
        let random = &mut run.random;
        let (version, corpus) = &corpora[random.below(2)];
        let (opcode, body) = &corpus[random.below(corpus.len())];
        let mut body = body.clone();
        mutate(&mut body, random);
        // The message alone, so that most mutations get past the frame.
        let frame = Frame {
            version: *version,
            flags: if random.below(8) == 0 { flag::PAYLOAD } else { 0 },
            stream: 1,
            opcode: *opcode,
            body: body.clone(),
        };
        if let Ok(request) = request::decode(&frame)
            && !matches!(
                request,
                Request::Startup(_) | Request::Register(_) | Request::AuthResponse(_)
            )
        {
            target.answer(request).await;
            answered += 1;
        }
        // The whole, in segments, cut anywhere.
        let mut bytes = vec![*version as u8, 0, 0, 1, *opcode];
        bytes.extend_from_slice(&(body.len() as u32).to_be_bytes());
        bytes.extend_from_slice(&body);
        mutate(&mut bytes, random);
        let (mut decoder, mut input) = (Decoder::default(), BytesMut::from(&bytes[..]));
        while matches!(decoder.next(&mut input), Decoded::Frame(_)) {}
        let coding = if random.below(2) == 0 { Coding::Plain } else { Coding::Lz4 };
        let mut segments = Vec::new();
        segment::encode(coding, &bytes, true, &mut segments);
        mutate(&mut segments, random);
        let mut input = BytesMut::from(&segments[..]);
        while let Ok(Some(_)) = segment::decode(coding, &mut input) {}
    }
    println!("{} messages, {answered} of them answered", run.done);
    assert!(answered > run.done / 20, "mutations that are all refused at once find nothing");
}

#[tokio::test]
async fn fuzz_a_port_that_is_sent_garbage_serves_the_others() {
    let server = Server::start(32 << 20).await;
    let mut run = Run::new(150);
    let mut good = server.client(Version::V5, true).await;
    let corpora = [messages(Version::V4), messages(Version::V5)];
    while run.goes_on() {
        let version = if run.random.below(2) == 0 { Version::V4 } else { Version::V5 };
        let mut bad = Wire::connect(server.address, version).await;
        if run.random.below(4) > 0 {
            bad.start(run.random.below(2) == 0).await;
        }
        let corpus = &corpora[usize::from(version == Version::V5)];
        for _ in 0..run.random.below(6) {
            let (opcode, body) = &corpus[run.random.below(corpus.len())];
            let mut bytes = bad.frame(version as u8, 1, *opcode, body);
            mutate(&mut bytes, &mut run.random);
            bad.try_send_bytes(&bytes).await;
        }
        drop(bad);
        good.good("SELECT key FROM system.local").await;
    }
    println!("{} connections", run.done);
    drop(good);
    // Nothing of it is kept.
    while server.memory.used() > 0 {
        tokio::task::yield_now().await;
    }
}
