//! Reads by key, which the connection's own task answers, beside the way of all SELECTs.

use super::client::{Answered, Client, Server};
use crate::server::cql::frame::{Version, opcode};
use crate::server::cql::wire::Writer;
use crate::types::Consistency;

const MIB: usize = 1 << 20;

/// A prepared statement.
struct Prepared {
    id: Vec<u8>,
    known: Vec<u8>,
}

async fn prepare(client: &mut Client, text: &str) -> Prepared {
    let mut body = Writer::default();
    body.bytes(Some(text.as_bytes()));
    if client.version == Version::V5 {
        body.int(0);
    }
    let answered = client.ask(opcode::PREPARE, &body.0).await;
    assert_eq!((answered.opcode, answered.code()), (opcode::RESULT, 4), "{answered:?}");
    let known = if client.version == Version::V5 { answered.body[24..40].to_vec() } else { vec![] };
    Prepared { id: answered.body[6..22].to_vec(), known }
}

/// The body of an EXECUTE with these values; with its result's metadata.
fn execute(client: &Client, prepared: &Prepared, values: &[Option<&[u8]>]) -> Vec<u8> {
    execute_at(Consistency::Quorum, client, prepared, values)
}

fn execute_at(
    level: Consistency,
    client: &Client,
    prepared: &Prepared,
    values: &[Option<&[u8]>],
) -> Vec<u8> {
    let mut body = Writer::default();
    body.short_bytes(&prepared.id);
    if client.version == Version::V5 {
        body.short_bytes(&prepared.known);
    }
    body.short(if level == Consistency::One { 1 } else { 4 });
    client.put_flags(&mut body, 0x01);
    body.short(values.len());
    values.iter().for_each(|value| body.bytes(*value));
    body.0
}

async fn both_ways(client: &mut Client, prepared: &Prepared, key: &[&[u8]], text: &str) {
    let values: Vec<Option<&[u8]>> = key.iter().map(|part| Some(*part)).collect();
    let by_text = client.run(text).await;
    let what = |answered: &Answered| (answered.flags, answered.opcode, answered.body.clone());
    // At once, and with waiting.
    for level in [Consistency::One, Consistency::Quorum] {
        let body = execute_at(level, client, prepared, &values);
        let by_key = client.ask(opcode::EXECUTE, &body).await;
        assert_eq!(what(&by_key), what(&by_text), "{text} at {level}");
    }
}

#[tokio::test]
async fn a_read_by_key_answers_as_any_select_would() {
    let server = Server::start(64 * MIB).await;
    let mut client = server.client(Version::V4, false).await;
    client
        .good(
            "CREATE TABLE ks.w (a int, b text, c int, d text, s int static, v text, m map<int, int>, \
             PRIMARY KEY ((a, b), c, d)) WITH CLUSTERING ORDER BY (c DESC, d ASC)",
        )
        .await;
    for text in [
        "INSERT INTO ks.w (a, b, c, d, s, v, m) VALUES (1, 'p', 2, 'q', 9, 'here', {1: 2})",
        "INSERT INTO ks.w (a, b, c, d) VALUES (1, 'p', 3, '')",
        "UPDATE ks.w SET s = 5 WHERE a = 2 AND b = 'only a static column'",
        "INSERT INTO ks.w (a, b, c, d, v) VALUES (3, 'p', 1, 'x', 'deleted with its partition')",
        "DELETE FROM ks.w WHERE a = 3 AND b = 'p'",
        "INSERT INTO ks.w (a, b, c, d, v) VALUES (4, 'p', 1, 'x', 'deleted with its slice')",
        "DELETE FROM ks.w WHERE a = 4 AND b = 'p' AND c = 1",
        "UPDATE ks.w SET v = 'no row of its own' WHERE a = 5 AND b = 'p' AND c = 1 AND d = 'x'",
        "UPDATE ks.w SET v = null WHERE a = 6 AND b = 'p' AND c = 1 AND d = 'x'",
    ] {
        client.good(text).await;
    }
    let select = "SELECT v, m, s, d, a FROM ks.w WHERE d = ? AND a = ? AND c = ? AND b = ?";
    let prepared = prepare(&mut client, select).await;
    for (a, b, c, d) in [
        (1, "p", 2, "q"),
        (1, "p", 3, ""),
        (1, "p", 2, "none"),
        (2, "only a static column", 1, "x"),
        (3, "p", 1, "x"),
        (4, "p", 1, "x"),
        (5, "p", 1, "x"),
        (6, "p", 1, "x"),
        (7, "nobody", 1, "x"),
    ] {
        let text = format!(
            "SELECT v, m, s, d, a FROM ks.w WHERE a = {a} AND b = '{b}' AND c = {c} AND d = '{d}'"
        );
        let (of_a, of_c) = (i32::to_be_bytes(a), i32::to_be_bytes(c));
        both_ways(&mut client, &prepared, &[d.as_bytes(), &of_a, &of_c, b.as_bytes()], &text).await;
    }
    let prepared = prepare(&mut client, "SELECT * FROM ks.t WHERE k = ?").await;
    client.good("INSERT INTO ks.t (k, v) VALUES (7, 'seven')").await;
    for k in [7, 8] {
        let text = format!("SELECT * FROM ks.t WHERE k = {k}");
        both_ways(&mut client, &prepared, &[&i32::to_be_bytes(k)], &text).await;
    }
}

/// What Paxos has decided last need not be on a quorum yet: a read by key of a strong table, prepared
/// or not, has that settled before it looks.
#[tokio::test]
async fn reads_by_key_of_strong_tables_ask_for_what_was_decided() {
    let server = Server::start(64 * MIB).await;
    let mut client = server.client(Version::V4, false).await;
    let columns = "(p int, c int, v int, PRIMARY KEY (p, c))";
    client.good(&format!("CREATE TABLE ks.strong {columns} WITH conflict = 'strong'")).await;
    client.good(&format!("CREATE TABLE ks.plain {columns}")).await;
    let one = 1_i32.to_be_bytes();
    for (table, first) in [("strong", Consistency::Serial), ("plain", Consistency::Quorum)] {
        client.good(&format!("INSERT INTO ks.{table} (p, c, v) VALUES (1, 1, 7)")).await;
        let select = format!("SELECT v FROM ks.{table} WHERE p = ? AND c = ?");
        let prepared = prepare(&mut client, &select).await;
        let text = format!("SELECT v FROM ks.{table} WHERE p = 1 AND c = 1");
        both_ways(&mut client, &prepared, &[&one, &one], &text).await;
        server.store.take_reads();
        client.good(&text).await;
        assert_eq!(server.store.take_reads().first(), Some(&first), "{text}");
        let body = execute(&client, &prepared, &[Some(&one), Some(&one)]);
        assert_eq!(client.ask(opcode::EXECUTE, &body).await.code(), 2);
        assert_eq!(server.store.take_reads().first(), Some(&first), "{select}");
    }
}

#[tokio::test]
async fn values_that_are_no_key_and_statements_that_are_gone_are_refused_in_words() {
    let server = Server::start(64 * MIB).await;
    let mut client = server.client(Version::V5, false).await;
    let select = prepare(&mut client, "SELECT v FROM ks.t WHERE k = ?").await;
    for (values, said) in [
        (vec![], "Invalid amount of bind variables"),
        (vec![None], "null"),
        (vec![Some(&b"abc"[..])], "Invalid value for k"),
        (vec![Some(&[0, 0, 0, 1][..]), None], "Invalid amount of bind variables"),
    ] {
        let body = execute(&client, &select, &values);
        let answered = client.ask(opcode::EXECUTE, &body).await;
        assert_eq!(answered.code(), 0x2200, "{answered:?}");
        assert!(answered.holds(said), "{answered:?}");
    }
    let one: [Option<&[u8]>; 1] = [Some(&[0, 0, 0, 1])];
    client.good("ALTER TABLE ks.t ADD more int").await;
    let body = execute(&client, &select, &one);
    assert_eq!(client.ask(opcode::EXECUTE, &body).await.code(), 0x2500, "to be prepared again");
}

#[tokio::test]
async fn reads_that_come_in_one_packet_are_all_answered() {
    let server = Server::start(64 * MIB).await;
    for (version, lz4) in
        [(Version::V4, false), (Version::V4, true), (Version::V5, false), (Version::V5, true)]
    {
        let mut client = server.client(version, lz4).await;
        let select = prepare(&mut client, "SELECT k, v FROM ks.t WHERE k = ?").await;
        client.good(&format!("INSERT INTO ks.t (k, v) VALUES (1, '{}')", "v".repeat(300))).await;
        let read = execute(&client, &select, &[Some(&[0, 0, 0, 1])]);
        let scan = client.query("SELECT k FROM ks.t");
        let mut packet = Vec::new();
        for stream in 0..1_000 {
            let (kind, body) = match stream % 10 {
                9 => (opcode::QUERY, &scan),
                _ => (opcode::EXECUTE, &read),
            };
            packet.extend(client.frame(version as u8, stream, kind, body));
        }
        client.send_bytes(&packet).await;
        let mut seen = vec![false; 1_000];
        for _ in 0..1_000 {
            let answered = client.next().await.expect("an answer");
            assert_eq!(answered.opcode, opcode::RESULT, "{answered:?}");
            let at = usize::try_from(answered.stream).unwrap();
            assert!(!std::mem::replace(&mut seen[at], true), "answered twice");
            assert_eq!(answered.holds("vvvv"), at % 10 != 9);
        }
    }
}

#[tokio::test]
async fn a_client_that_takes_no_answers_to_its_reads_hurts_itself_only() {
    let server = Server::start(64 * MIB).await;
    let mut slow = server.client(Version::V4, false).await;
    let select = prepare(&mut slow, "SELECT v FROM ks.t WHERE k = ?").await;
    for len in [MIB, 3_000] {
        let value = "s".repeat(len);
        slow.good(&format!("INSERT INTO ks.t (k, v) VALUES (1, '{value}')")).await;
        let body = execute(&slow, &select, &[Some(&[0, 0, 0, 1])]);
        let asked = i16::try_from(300 * MIB / len.max(40_000)).unwrap();
        let requests: Vec<u8> =
            (1..=asked).flat_map(|stream| slow.frame(4, stream, opcode::EXECUTE, &body)).collect();
        slow.send_bytes(&requests).await;
        let mut quick = server.client(Version::V5, true).await;
        let again = prepare(&mut quick, "SELECT v FROM ks.t WHERE k = ?").await;
        let body = execute(&quick, &again, &[Some(&[0, 0, 0, 9])]);
        for _ in 0..100 {
            assert_eq!(quick.ask(opcode::EXECUTE, &body).await.opcode, opcode::RESULT);
            let used = server.memory.used();
            assert!(used <= 16 * MIB, "{used} bytes for one that does not read");
        }
        for _ in 0..asked {
            let answered = slow.next().await.expect("an answer");
            assert!(answered.holds("ssss"), "{}", answered.code());
        }
    }
}
