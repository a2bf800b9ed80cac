//! What each driver's requests are answered beyond their statements: start-up, parameters, values,
//! batches.

use super::client::{Client, Server};
use crate::server::cql::frame::{Version, opcode};
use crate::server::cql::wire::Writer;

const MIB: usize = 1 << 20;

/// The flag of values, of a page size and so on, in parameters.
const VALUES: u16 = 0x01;
const PAGE_SIZE: u16 = 0x04;
const PAGING_STATE: u16 = 0x08;
const SERIAL: u16 = 0x10;
const TIMESTAMP: u16 = 0x20;
const NAMES: u16 = 0x40;

const QUORUM: usize = 4;
const AT_SERIAL: usize = 8;

/// The body of a QUERY at `level`, whose flags are followed by `rest`.
fn query(client: &Client, text: &str, (level, flags): (usize, u16), rest: &[u8]) -> Vec<u8> {
    let mut body = Writer::default();
    body.bytes(Some(text.as_bytes()));
    body.short(level);
    client.put_flags(&mut body, flags);
    body.0.extend_from_slice(rest);
    body.0
}

/// So many values: null is −1, unset −2.
fn values(all: &[Result<&[u8], i64>]) -> Vec<u8> {
    let mut out = Writer::default();
    out.short(all.len());
    for value in all {
        match value {
            Ok(bytes) => out.bytes(Some(bytes)),
            Err(length) => out.int(*length),
        }
    }
    out.0
}

const NULL: Result<&[u8], i64> = Err(-1);
const UNSET: Result<&[u8], i64> = Err(-2);

#[tokio::test]
async fn parameters_and_values_that_do_not_fit_are_refused_and_the_connection_goes_on() {
    let server = Server::start(64 * MIB).await;
    for version in [Version::V4, Version::V5] {
        let mut client = server.client(version, false).await;
        let (select, insert) =
            ("SELECT v FROM ks.t WHERE k = ?", "INSERT INTO ks.t (k, v) VALUES (?, ?)");
        let one = Ok(&[0, 0, 0, 1][..]);
        let page = |size: i32| size.to_be_bytes().to_vec();
        let state = [&8_i32.to_be_bytes()[..], b"no state"].concat();
        let level = |level: u16| level.to_be_bytes().to_vec();
        for (what, text, how, rest, code) in [
            ("an unknown level", select, (0x99, 0), vec![], 0x000A),
            ("a page of no rows", "SELECT v FROM ks.t", (QUORUM, PAGE_SIZE), page(0), 0x000A),
            ("a negative page", "SELECT v FROM ks.t", (QUORUM, PAGE_SIZE), page(-1), 2),
            ("a state that is none", "SELECT v FROM ks.t", (QUORUM, PAGING_STATE), state, 0x000A),
            ("half a page size", "SELECT v FROM ks.t", (QUORUM, PAGE_SIZE), vec![0, 0], 0x000A),
            ("values that are not there", select, (QUORUM, VALUES), vec![0, 1], 0x000A),
            ("too few values", insert, (QUORUM, VALUES), values(&[one]), 0x2200),
            ("too many values", select, (QUORUM, VALUES), values(&[one, one]), 0x2200),
            ("a value that is too short", select, (QUORUM, VALUES), values(&[Ok(b"abc")]), 0x2200),
            ("a key that is null", select, (QUORUM, VALUES), values(&[NULL]), 0x2200),
            ("a key that is unset", select, (QUORUM, VALUES), values(&[UNSET]), 0x2200),
            ("a text that is none", insert, (QUORUM, VALUES), values(&[one, Ok(&[0xFF])]), 0x2200),
            ("an unset key of a row", insert, (QUORUM, VALUES), values(&[UNSET, NULL]), 0x2200),
            ("a row", insert, (QUORUM, VALUES), values(&[one, Ok(b"x")]), 1),
            ("an unset column", insert, (QUORUM, VALUES), values(&[one, UNSET]), 1),
            (
                "a serial level that is none",
                "SELECT v FROM ks.t",
                (QUORUM, SERIAL),
                level(4),
                0x2200,
            ),
            ("a serial scan", "SELECT v FROM ks.t", (AT_SERIAL, 0), vec![], 0x2200),
            ("a serial read", select, (AT_SERIAL, VALUES), values(&[one]), 2),
            (
                "a stamp out of bounds",
                insert,
                (QUORUM, TIMESTAMP),
                i64::MIN.to_be_bytes().to_vec(),
                0x000A,
            ),
        ] {
            let body = query(&client, text, how, &rest);
            let answered = client.ask(opcode::QUERY, &body).await;
            let is_error = answered.opcode == opcode::ERROR;
            assert_eq!((answered.code(), is_error), (code, code > 5), "{what}: {answered:?}");
        }
        // What was unset has left what there was.
        let shown = client.good("SELECT v FROM ks.t WHERE k = 1").await;
        assert!(shown.body.ends_with(b"x"), "{shown:?}");
    }
}

#[tokio::test]
async fn values_go_by_name_too_and_no_bytes_are_a_value() {
    let server = Server::start(64 * MIB).await;
    for version in [Version::V4, Version::V5] {
        let mut client = server.client(version, false).await;
        client.good("CREATE TABLE IF NOT EXISTS ks.n (k int PRIMARY KEY, v int)").await;
        let mut named = Writer::default();
        named.short(2);
        named.string("value");
        named.bytes(Some(b""));
        named.string("key");
        named.bytes(Some(&[0, 0, 0, 5]));
        let text = "INSERT INTO ks.n (k, v) VALUES (:key, :value)";
        let body = query(&client, text, (QUORUM, VALUES | NAMES), &named.0);
        assert_eq!(client.ask(opcode::QUERY, &body).await.code(), 1);
        let shown = client.good("SELECT v FROM ks.n WHERE k = 5").await;
        assert!(shown.body.ends_with(&[0, 0, 0, 1, 0, 0, 0, 0]), "one row, no bytes: {shown:?}");
    }
}

#[tokio::test]
async fn connections_start_as_drivers_start_them() {
    let server = Server::start(64 * MIB).await;
    let options = |all: &[(&str, &str)]| {
        let mut body = Writer::default();
        body.short(all.len());
        for (name, value) in all {
            body.string(name);
            body.string(value);
        }
        body.0
    };
    for version in [Version::V4, Version::V5] {
        let mut client = Client::connect(server.address, version).await;
        let supported = client.ask(opcode::OPTIONS, b"").await;
        assert_eq!(supported.opcode, opcode::SUPPORTED);
        for part in ["CQL_VERSION", "3.4.6", "COMPRESSION", "lz4", "4/v4", "5/v5"] {
            assert!(supported.holds(part), "{part}");
        }
        assert!(!supported.holds("SCYLLA"), "nobody is to take it for another");
        for (what, code, body) in [
            (opcode::QUERY, 0x000A, client.query("SELECT * FROM system.local")),
            (opcode::STARTUP, 0x000A, options(&[])),
            (opcode::STARTUP, 0x000A, options(&[("CQL_VERSION", "2.0.0")])),
            (opcode::STARTUP, 0x000A, options(&[("CQL_VERSION", "3.0.0"), ("COMPRESSION", "zip")])),
        ] {
            let answered = client.ask(what, &body).await;
            assert_eq!((answered.opcode, answered.code()), (opcode::ERROR, code), "{answered:?}");
        }
        // Before the answer of the start all is plain; a client for each way to begin.
        for given in [
            &[("CQL_VERSION", "4.0.0"), ("DRIVER_NAME", "scylla")][..],
            &[("cql_version", "3.4.5"), ("NO_COMPACT", "true"), ("THROW_ON_OVERLOAD", "1")],
            &[("CQL_VERSION", "3.0.0"), ("COMPRESSION", "")],
        ] {
            let mut client = Client::connect(server.address, version).await;
            let answered = client.ask(opcode::STARTUP, &options(given)).await;
            assert_eq!(answered.opcode, opcode::READY, "{given:?}: {answered:?}");
        }
        let mut client = server.client(version, false).await;
        assert_eq!(client.ask(opcode::OPTIONS, b"").await.opcode, opcode::SUPPORTED, "a heartbeat");
        let again = client.ask(opcode::STARTUP, &options(&[("CQL_VERSION", "3.0.0")])).await;
        assert_eq!(again.code(), 0x000A, "{again:?}");
        assert_eq!(client.ask(0x77, b"").await.code(), 0x000A, "an unknown opcode");
        client.good("SELECT * FROM system.local").await;
    }
}

#[tokio::test]
async fn batches_of_requests_are_checked_as_statements_are() {
    let server = Server::start(64 * MIB).await;
    for version in [Version::V4, Version::V5] {
        let mut client = server.client(version, false).await;
        let batch = |client: &Client, kind: u8, texts: &[&str], flags: u16| {
            let mut body = Writer::default();
            body.byte(kind);
            body.short(texts.len());
            for text in texts {
                body.byte(0);
                body.bytes(Some(text.as_bytes()));
                body.short(0);
            }
            body.short(QUORUM);
            client.put_flags(&mut body, flags);
            body.0
        };
        let good = "INSERT INTO ks.t (k) VALUES (1)";
        for (kind, texts, flags, code) in [
            (0, &[][..], 0, 1),
            (0, &[good, good], 0, 1),
            (1, &[good], 0, 1),
            (2, &[good], 0, 0x2200),
            (3, &[good], 0, 0x000A),
            (0, &[good], NAMES, 0x000A),
            (0, &[good, "SELECT * FROM ks.t"], 0, 0x2200),
            (0, &[good, "INSERT INTO"], 0, 0x2000),
        ] {
            let body = batch(&client, kind, texts, flags);
            let answered = client.ask(opcode::BATCH, &body).await;
            assert_eq!(answered.code(), code, "{kind} {texts:?}: {answered:?}");
        }
        // A statement that nobody has prepared: its id comes back.
        let mut body = Writer::default();
        body.byte(0);
        body.short(1);
        body.byte(1);
        body.short_bytes(b"an id of 16 byte");
        body.short(0);
        body.short(QUORUM);
        client.put_flags(&mut body, 0);
        let answered = client.ask(opcode::BATCH, &body.0).await;
        assert_eq!(answered.code(), 0x2500);
        assert!(answered.holds("an id of 16 byte"), "{answered:?}");
    }
}
