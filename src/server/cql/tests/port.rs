//! The port itself: versions, framing, memory, events, over real sockets.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::watch;

use super::client::{Client, Server};
use crate::env::fixture::Staged;
use crate::env::{Env, tokio_env};
use crate::server::auth::Gate;
use crate::server::budget::Share;
use crate::server::cql::auth::PASSWORD;
use crate::server::cql::frame::{MAX_BODY, Version, opcode};
use crate::server::cql::segment::{self, Coding};
use crate::server::cql::wire::Writer;

const MIB: usize = 1 << 20;

const WAYS: [(Version, bool); 4] =
    [(Version::V4, false), (Version::V4, true), (Version::V5, false), (Version::V5, true)];

#[tokio::test]
async fn both_versions_carry_short_and_long_messages_compressed_or_not() {
    let server = Server::start(256 * MIB).await;
    for (version, lz4) in WAYS {
        let mut client = server.client(version, lz4).await;
        for len in [1, 300, 70_000, 131_000, 400_000] {
            // Half of it shrinks well.
            let letter =
                |n: u64| if n.is_multiple_of(2) { b'x' } else { b'a' + (n * n / 7 % 26) as u8 };
            let value: String = (0..len).map(|n| char::from(letter(n))).collect();
            client.good(&format!("INSERT INTO ks.t (k, v) VALUES (1, '{value}')")).await;
            let answered = client.good("SELECT v FROM ks.t WHERE k = 1").await;
            assert!(answered.holds(&value), "{version:?} {lz4} {len}");
            assert_eq!(answered.version, version as u8 | 0x80);
        }
        // Many at a time, in whatever order they are answered.
        let body = client.query("SELECT v FROM ks.t WHERE k = 1");
        let mut waiting = Vec::new();
        for _ in 0..50 {
            waiting.push(client.send(opcode::QUERY, &body).await);
        }
        for _ in 0..50 {
            let answered = client.next().await.expect("an answer");
            let at = waiting.iter().position(|stream| *stream == answered.stream);
            waiting.swap_remove(at.expect("one that was asked for"));
        }
    }
}

#[tokio::test]
async fn other_versions_are_refused_in_the_newest_and_the_connection_closed() {
    let server = Server::start(256 * MIB).await;
    for version in [1, 2, 3, 6, 65, 66, 127] {
        let mut client = Client::connect(server.address, Version::V4).await;
        let bytes = client.frame(version, 5, opcode::OPTIONS, b"");
        client.send_bytes(&bytes).await;
        let answered = client.next().await.expect("a refusal");
        assert_eq!((answered.version, answered.opcode), (0x85, opcode::ERROR));
        let text = format!(
            "unsupported protocol version ({version}); supported versions are (4/v4, 5/v5)"
        );
        assert!(answered.holds(&text), "{answered:?}");
        assert_eq!(client.next().await, None);
    }
    let mut client = Client::connect(server.address, Version::V5).await;
    assert_eq!(client.ask(opcode::OPTIONS, b"").await.opcode, opcode::SUPPORTED);
    assert_eq!(client.start(false).await.opcode, opcode::READY);
}

#[tokio::test]
async fn a_corrupt_segment_ends_the_connection_and_nothing_else() {
    let server = Server::start(256 * MIB).await;
    for lz4 in [false, true] {
        let mut client = server.client(Version::V5, lz4).await;
        let body = client.query("SELECT * FROM ks.t");
        let good = client.frame(5, 1, opcode::QUERY, &body);
        for at in 0..good.len() {
            let mut client = server.client(Version::V5, lz4).await;
            let mut bad = good.clone();
            bad[at] ^= 0x10;
            client.send_bytes(&bad).await;
            let answered = client.next().await.expect("an error");
            assert_eq!(answered.code(), 0x000A, "{answered:?}");
            assert_eq!(client.next().await, None);
        }
        client.good("SELECT * FROM ks.t").await;
    }
}

#[tokio::test]
async fn what_is_only_announced_takes_no_memory() {
    let server = Server::start(32 * MIB).await;
    let mut silent = Vec::new();
    for at in 0..64 {
        let mut client = server.client(WAYS[at % 4].0, false).await;
        let mut announced = client.frame(client.version as u8, 1, opcode::QUERY, b"");
        if client.version == Version::V4 {
            announced[5..9].copy_from_slice(&(MAX_BODY as u32).to_be_bytes());
        } else {
            announced.truncate(5);
        }
        client.send_bytes(&announced).await;
        silent.push(client);
    }
    let value = "y".repeat(8 * MIB);
    let mut client = server.client(Version::V5, false).await;
    client.good(&format!("INSERT INTO ks.t (k, v) VALUES (1, '{value}')")).await;
    drop(silent);
}

#[tokio::test]
async fn a_request_waits_for_memory_and_is_refused_if_none_comes() {
    let server = Server::start(32 * MIB).await;
    let mut client = server.client(Version::V5, true).await;
    let insert = format!("INSERT INTO ks.t (k, v) VALUES (1, '{}')", "z".repeat(4 * MIB));
    let body = client.query(&insert);
    let all = Share::take(&server.memory, 30 * MIB).expect("all of it");
    let stream = client.send(opcode::QUERY, &body).await;
    let mut one = [0];
    let env = crate::env::tokio_env();
    let early = env.timeout(Duration::from_millis(200), client.socket.peek(&mut one));
    assert!(early.await.is_err(), "answered without memory");
    drop(all);
    let answered = client.next().await.expect("an answer");
    assert_eq!((answered.stream, answered.opcode), (stream, opcode::RESULT));
    // No memory for good: overloaded, and the connection goes on.
    for version in [Version::V4, Version::V5] {
        let mut client = server.client(version, false).await;
        let all = Share::take(&server.memory, 30 * MIB).expect("all of it");
        let body = client.query(&insert);
        let stream = client.send(opcode::QUERY, &body).await;
        let answered = client.next().await.expect("an answer");
        assert_eq!((answered.stream, answered.code()), (stream, 0x1001), "{version:?}");
        drop(all);
        client.good("SELECT k FROM ks.t").await;
        client.good(&insert).await;
    }
}

/// Waits until `done`, which is a matter of other tasks.
async fn until(done: impl Fn() -> bool) {
    let wait = async {
        while !done() {
            tokio::task::yield_now().await;
        }
    };
    tokio_env().timeout(Duration::from_secs(20), wait).await.expect("it comes true");
}

#[tokio::test]
async fn a_statement_waits_for_its_turn_and_is_refused_if_none_comes() {
    let server = Server::start(32 * MIB).await;
    let gate = server.store.narrow(1);
    for version in [Version::V4, Version::V5] {
        let (mut one, mut other) =
            (server.client(version, false).await, server.client(version, false).await);
        let place = gate.enter().expect("nothing is under way");
        // Plain, and a read by key, which the connection's own task works on.
        let body = one.query("SELECT v FROM ks.t WHERE k = 1");
        let stream = one.send(opcode::QUERY, &body).await;
        until(|| gate.waiting() == 1).await;
        // What needs no place is answered, unless it stands behind such a statement.
        assert_eq!(other.ask(opcode::OPTIONS, &[]).await.opcode, opcode::SUPPORTED);
        drop(place);
        let answered = one.next().await.expect("an answer");
        assert_eq!((answered.stream, answered.opcode), (stream, opcode::RESULT), "{version:?}");
        // For good, and the connection goes on.
        let before = gate.shed();
        let place = gate.enter().expect("nothing is under way");
        assert_eq!(one.ask(opcode::QUERY, &body).await.code(), 0x1001);
        assert_eq!(gate.shed(), before + 1);
        drop(place);
        one.good("SELECT v FROM ks.t WHERE k = 1").await;
        until(|| gate.under_way() == 0).await;
        // Who goes away while it waits leaves nothing behind.
        let place = gate.enter().expect("nothing is under way");
        one.send(opcode::QUERY, &body).await;
        until(|| gate.waiting() == 1).await;
        drop(one);
        until(|| gate.waiting() == 0).await;
        drop(place);
    }
}

#[tokio::test]
async fn a_driver_that_asks_to_be_told_is_refused_at_once() {
    let server = Server::start(32 * MIB).await;
    server.client(Version::V4, false).await;
    let gate = server.store.narrow(1);
    let mut client = Client::connect(server.address, Version::V4).await;
    client.start_with(false, &[("THROW_ON_OVERLOAD", "1")]).await;
    let place = gate.enter().expect("nothing is under way");
    let body = client.query("SELECT v FROM ks.t WHERE k = 1");
    assert_eq!(client.ask(opcode::QUERY, &body).await.code(), 0x1001);
    assert_eq!((gate.waiting(), gate.shed()), (0, 1));
    drop(place);
    client.good("SELECT v FROM ks.t WHERE k = 1").await;
}

#[tokio::test]
async fn a_client_that_takes_no_answers_hurts_itself_only() {
    let server = Server::start(64 * MIB).await;
    let mut slow = server.client(Version::V4, false).await;
    let value = "s".repeat(MIB);
    slow.good(&format!("INSERT INTO ks.t (k, v) VALUES (1, '{value}')")).await;
    let body = slow.query("SELECT v FROM ks.t WHERE k = 1");
    let asked = 300;
    let requests: Vec<u8> =
        (1..=asked).flat_map(|stream| slow.frame(4, stream, opcode::QUERY, &body)).collect();
    slow.send_bytes(&requests).await;
    let mut quick = server.client(Version::V5, true).await;
    for _ in 0..100 {
        quick.good("SELECT k FROM ks.t WHERE k = 1").await;
        let used = server.memory.used();
        assert!(used <= 16 * MIB, "{used} bytes for one that does not read");
    }
    // What it asked for is all there when it reads.
    for _ in 0..asked {
        let answered = slow.next().await.expect("an answer");
        assert!(answered.holds("ssss"), "{}", answered.code());
    }
    slow.good("SELECT k FROM ks.t").await;
}

#[tokio::test]
async fn who_is_asked_says_a_name_and_a_password_before_anything_else() {
    let eve = Some(("eve", "apple"));
    let server = Server::start_for(32 * MIB, Gate::closed(tokio_env()), eve).await;
    for (version, lz4) in WAYS {
        let mut client = Client::connect(server.address, version).await;
        let asked = client.start(lz4).await;
        assert_eq!(asked.opcode, opcode::AUTHENTICATE);
        assert!(asked.holds(PASSWORD));
        assert_eq!(client.run("SELECT * FROM system.local").await.code(), 0x000A);
        assert_eq!(client.ask(opcode::OPTIONS, b"").await.code(), 0x000A);
        let token = |text: &[u8]| {
            let mut body = Writer::default();
            body.bytes(Some(text));
            body.0
        };
        for wrong in [&b"\0eve\0pear"[..], b"eve", b"\0adam\0apple"] {
            let answered = client.ask(opcode::AUTH_RESPONSE, &token(wrong)).await;
            assert_eq!(answered.code(), 0x0100, "{wrong:?}");
        }
        assert_eq!(client.log_in("eve", "apple").await.opcode, opcode::AUTH_SUCCESS);
        client.good("SELECT * FROM system.local").await;
    }
}

#[tokio::test]
async fn who_is_nobody_any_more_is_told_so_and_let_go() {
    let admin = Some(("admin", "apple"));
    let server = Server::start_for(32 * MIB, Gate::closed(tokio_env()), admin).await;
    let log_in = async |name: &str, password: &str| {
        let mut client = Client::connect(server.address, Version::V5).await;
        assert_eq!(client.start(false).await.opcode, opcode::AUTHENTICATE);
        let answered = client.log_in(name, password).await;
        (client, answered)
    };
    let (mut admin, _) = log_in("admin", "apple").await;
    admin.good("CREATE ROLE bob WITH PASSWORD = 'pear' AND LOGIN = true").await;
    for (change, password) in [
        ("ALTER ROLE bob WITH PASSWORD = 'plum'", "pear"),
        ("ALTER ROLE bob WITH LOGIN = false", "plum"),
        ("DROP ROLE bob", "plum"),
    ] {
        let (mut bob, answered) = log_in("bob", password).await;
        assert_eq!(answered.opcode, opcode::AUTH_SUCCESS, "{change}");
        bob.good("SELECT * FROM system.local").await;
        admin.good(change).await;
        let told = bob.run("SELECT * FROM system.local").await;
        assert_eq!(told.code(), 0x0100, "{change}");
        assert_eq!(bob.next().await, None, "{change}: and the connection is closed");
        assert_eq!(log_in("bob", password).await.1.code(), 0x0100, "{change}");
        if change.contains("LOGIN") {
            admin.good("ALTER ROLE bob WITH LOGIN = true").await;
        }
    }
    admin.good("ALTER ROLE admin WITH PASSWORD = 'cherry'").await;
    admin.good("SELECT * FROM system.local").await;
}

/// Places for connections are few: nobody may hold one who has not said who it is.
#[tokio::test]
async fn who_does_not_say_who_it_is_is_let_go() {
    let (over, waiting) = watch::channel(false);
    let env = Env::new(Arc::new(Staged::new(waiting)));
    let (gate, eve) = (Gate::closed(env.clone()), Some(("eve", "apple")));
    let server = Server::start_in(env, 32 * MIB, gate, eve).await;
    let mut silent = Client::connect(server.address, Version::V4).await;
    let mut asked = Client::connect(server.address, Version::V5).await;
    assert_eq!(asked.start(false).await.opcode, opcode::AUTHENTICATE);
    let mut member = Client::connect(server.address, Version::V5).await;
    assert_eq!(member.start(false).await.opcode, opcode::AUTHENTICATE);
    assert_eq!(member.log_in("eve", "apple").await.opcode, opcode::AUTH_SUCCESS);
    over.send(true).expect("the server listens");
    for client in [&mut silent, &mut asked] {
        let end = tokio_env().timeout(Duration::from_secs(60), client.next()).await;
        assert_eq!(end.expect("the connection ends"), None);
    }
    member.good("SELECT * FROM system.local").await;
}

#[tokio::test]
async fn who_has_not_said_who_it_is_has_no_more_to_say_than_that() {
    let eve = Some(("eve", "apple"));
    let server = Server::start_for(32 * MIB, Gate::closed(tokio_env()), eve).await;
    for (version, lz4) in WAYS {
        let mut client = Client::connect(server.address, version).await;
        assert_eq!(client.start(lz4).await.opcode, opcode::AUTHENTICATE);
        let long = client.query(&format!("SELECT '{}'", "x".repeat(70_000)));
        let refused = client.ask(opcode::QUERY, &long).await;
        assert!(refused.holds("exceeds maximum allowed length 65536"), "{version:?} {lz4}");
        assert_eq!(client.log_in("eve", "apple").await.opcode, opcode::AUTH_SUCCESS);
        assert_eq!(client.ask(opcode::QUERY, &long).await.code(), 0x2000, "read by now");
    }
}

#[tokio::test]
async fn version_5_names_a_keyspace_a_time_and_the_columns_it_knows() {
    let server = Server::start(32 * MIB).await;
    let mut client = server.client(Version::V5, false).await;
    let query = |client: &Client, text: &str, keyspace: Option<&str>, now: Option<i64>| {
        let mut body = Writer::default();
        body.int(text.len() as i64);
        body.0.extend_from_slice(text.as_bytes());
        body.short(4);
        let flags = keyspace.map_or(0, |_| 0x80) | now.map_or(0, |_| 0x100);
        client.put_flags(&mut body, flags);
        if let Some(keyspace) = keyspace {
            body.string(keyspace);
        }
        if let Some(now) = now {
            body.int(now);
        }
        body.0
    };
    assert_eq!(client.run("SELECT * FROM t").await.code(), 0x2200, "no keyspace in use");
    let body =
        query(&client, "INSERT INTO t (k, v) VALUES (1, 'x') USING TTL 1000", Some("ks"), None);
    assert_eq!(client.ask(opcode::QUERY, &body).await.opcode, opcode::RESULT);
    let later = i64::from(i32::MAX);
    let body = query(&client, "SELECT v FROM ks.t", None, Some(later));
    let answered = client.ask(opcode::QUERY, &body).await;
    assert!(answered.body.ends_with(&[0, 0, 0, 0]), "no rows in the year 2038: {answered:?}");
    // PREPARE with a keyspace.
    let text = "SELECT * FROM t WHERE k = 1";
    let mut body = Writer::default();
    body.int(text.len() as i64);
    body.0.extend_from_slice(text.as_bytes());
    body.int(1);
    body.string("ks");
    let prepared = client.ask(opcode::PREPARE, &body.0).await;
    assert_eq!(prepared.code(), 4, "{prepared:?}");
    // Kind, then the id and the result metadata's id: two bytes of length and sixteen each.
    let (id, known) = (prepared.body[6..22].to_vec(), prepared.body[24..40].to_vec());
    let execute = |client: &Client, known: &[u8]| {
        let mut body = Writer::default();
        body.short_bytes(&id);
        body.short_bytes(known);
        body.short(4);
        client.put_flags(&mut body, 0x02);
        body.0
    };
    let flags = |body: &[u8]| i32::from_be_bytes([body[4], body[5], body[6], body[7]]);
    let body = execute(&client, &known);
    let answered = client.ask(opcode::EXECUTE, &body).await;
    assert_eq!(flags(&answered.body), 4, "no metadata: {answered:?}");
    let body = execute(&client, b"another");
    let answered = client.ask(opcode::EXECUTE, &body).await;
    assert_eq!(flags(&answered.body), 1 | 8, "all metadata, and that they are new: {answered:?}");
    assert_eq!(answered.body[14..30], known, "their id");
}

#[tokio::test]
async fn who_has_registered_hears_of_the_schema_on_either_version() {
    let server = Server::start(32 * MIB).await;
    for (version, lz4) in WAYS {
        let mut client = server.client(version, lz4).await;
        let mut body = Writer::default();
        body.string_list(&["SCHEMA_CHANGE", "STATUS_CHANGE", "TOPOLOGY_CHANGE"]);
        assert_eq!(client.ask(opcode::REGISTER, &body.0).await.opcode, opcode::READY);
        let mut other = server.client(Version::V4, false).await;
        let name = format!("{version:?}_{lz4}").to_lowercase();
        other.good(&format!("CREATE TABLE ks.{name} (k int PRIMARY KEY)")).await;
        server.epochs.send_modify(|epoch| epoch.0 += 1);
        let mut event = client.next().await.expect("an event");
        while !event.holds(&name) {
            // Of what was there when it registered.
            assert!(event.holds("CREATED"), "{event:?}");
            event = client.next().await.expect("an event");
        }
        assert_eq!((event.stream, event.opcode), (-1, opcode::EVENT));
        let mut body = Writer::default();
        body.string_list(&["NONSENSE"]);
        assert_eq!(client.ask(opcode::REGISTER, &body.0).await.code(), 0x000A);
    }
}

#[tokio::test]
async fn who_is_nobody_any_more_hears_of_nothing() {
    let admin = Some(("admin", "apple"));
    let server = Server::start_for(32 * MIB, Gate::closed(tokio_env()), admin).await;
    let log_in = async |name: &str| {
        let mut client = Client::connect(server.address, Version::V4).await;
        assert_eq!(client.start(false).await.opcode, opcode::AUTHENTICATE);
        assert_eq!(client.log_in(name, "apple").await.opcode, opcode::AUTH_SUCCESS);
        client
    };
    let mut admin = log_in("admin").await;
    admin.good("CREATE ROLE bob WITH PASSWORD = 'apple' AND LOGIN = true").await;
    let (mut bob, mut other) = (log_in("bob").await, log_in("admin").await);
    for client in [&mut bob, &mut other] {
        let mut body = Writer::default();
        body.string_list(&["SCHEMA_CHANGE"]);
        assert_eq!(client.ask(opcode::REGISTER, &body.0).await.opcode, opcode::READY);
    }
    admin.good("DROP ROLE bob").await;
    admin.good("CREATE KEYSPACE secret WITH replication = {'class': 'SimpleStrategy', 'replication_factor': 1}").await;
    server.epochs.send_modify(|epoch| epoch.0 += 1);
    assert!(other.next().await.expect("an event").holds("secret"));
    let told = bob.run("SELECT * FROM system.local").await;
    assert_eq!(told.code(), 0x0100, "{told:?}");
}

/// A driver that shuts down half-closes its connections and waits until the node has closed its end.
#[tokio::test]
async fn a_client_that_has_registered_is_let_go_when_it_leaves() {
    let server = Server::start(32 * MIB).await;
    let mut client = server.client(Version::V4, false).await;
    let mut body = Writer::default();
    body.string_list(&["SCHEMA_CHANGE", "STATUS_CHANGE", "TOPOLOGY_CHANGE"]);
    assert_eq!(client.ask(opcode::REGISTER, &body.0).await.opcode, opcode::READY);
    client.socket.shutdown().await.expect("half-closed");
    let mut rest = Vec::new();
    let env = crate::env::tokio_env();
    let end = env.timeout(Duration::from_secs(60), client.socket.read_to_end(&mut rest)).await;
    assert_eq!(end.expect("the node closes its end").unwrap_or(0), 0);
}

#[tokio::test]
async fn a_connection_that_was_never_started_ends_by_itself_when_the_client_leaves() {
    let server = Server::start(32 * MIB).await;
    let mut client = Client::connect(server.address, Version::V4).await;
    client.send_bytes(&[0x84]).await;
    let mut rest = Vec::new();
    assert_eq!(client.socket.read_to_end(&mut rest).await.unwrap_or(0), 0);
}

#[tokio::test]
async fn a_traced_request_says_where_its_time_went() {
    let server = Server::start(32 * MIB).await;
    for version in [Version::V4, Version::V5] {
        let mut client = server.client(version, false).await;
        let body = client.query("INSERT INTO ks.t (k, v) VALUES (1, 'x')");
        let mut bytes = client.frame(version as u8, 9, opcode::QUERY, &body);
        if version == Version::V4 {
            bytes[1] |= 0x02;
        } else {
            let mut plain = bytes[6..bytes.len() - 4].to_vec();
            plain[1] |= 0x02;
            bytes.clear();
            segment::encode(Coding::Plain, &plain, true, &mut bytes);
        }
        client.send_bytes(&bytes).await;
        let answered = client.next().await.expect("an answer");
        assert_eq!((answered.flags, answered.opcode), (0x02, opcode::RESULT), "{answered:?}");
        let hex: String = answered.body[..16].iter().map(|byte| format!("{byte:02x}")).collect();
        let id = [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-");
        let session = client
            .good(&format!("SELECT * FROM system_traces.sessions WHERE session_id = {id}"))
            .await;
        assert!(session.holds("INSERT INTO ks.t") && session.holds("QUORUM"), "{session:?}");
        let events = client
            .good(&format!("SELECT activity FROM system_traces.events WHERE session_id = {id}"))
            .await;
        let parts = ["Parsing", "Writing 1 rows", "Enough replicas", "Request complete"];
        let place = |part: &str| {
            let found = events.body.windows(part.len()).position(|own| own == part.as_bytes());
            found.unwrap_or_else(|| panic!("{part}: {events:?}"))
        };
        assert!(parts.map(place).is_sorted(), "in the order in which it was done");
        assert_eq!(client.run("DROP KEYSPACE system_traces").await.code(), 0x2100);
    }
}

#[tokio::test]
async fn what_costs_more_than_it_seems_is_answered_with_a_warning() {
    let server = Server::start(32 * MIB).await;
    for version in [Version::V4, Version::V5] {
        let mut client = server.client(version, false).await;
        let counted = client.good("SELECT count(*) FROM ks.t").await;
        assert_eq!(counted.flags, 0x08, "{counted:?}");
        assert!(counted.holds("Aggregation query used without partition key"));
        let counted = client.good("SELECT count(*) FROM ks.t WHERE k = 1").await;
        assert_eq!(counted.flags, 0, "{counted:?}");
        let batch = |client: &Client, len: usize| {
            let text = format!("INSERT INTO ks.t (k, v) VALUES (1, '{}')", "w".repeat(len));
            let mut body = Writer::default();
            body.byte(1);
            body.short(1);
            body.byte(0);
            body.bytes(Some(text.as_bytes()));
            body.short(0);
            body.short(4);
            client.put_flags(&mut body, 0);
            body.0
        };
        let body = batch(&client, 6_000);
        let answered = client.ask(opcode::BATCH, &body).await;
        assert_eq!((answered.flags, answered.opcode), (0x08, opcode::RESULT), "{answered:?}");
        assert!(answered.holds("exceeding specified threshold of 5120"));
        let body = batch(&client, 100);
        assert_eq!(client.ask(opcode::BATCH, &body).await.flags, 0);
    }
}

#[tokio::test]
async fn a_page_of_long_rows_ends_early_and_the_rest_comes_on_the_next() {
    let server = Server::start(256 * MIB).await;
    let mut client = server.client(Version::V5, true).await;
    let value = "p".repeat(3 * MIB);
    for k in 0..8 {
        client.good(&format!("INSERT INTO ks.t (k, v) VALUES ({k}, '{value}')")).await;
    }
    let text = "SELECT v FROM ks.t";
    let mut body = Writer::default();
    body.bytes(Some(text.as_bytes()));
    body.short(4);
    client.put_flags(&mut body, 0x04);
    body.int(5_000);
    let page = client.ask(opcode::QUERY, &body.0).await;
    assert_eq!(page.code(), 2);
    let flags = i32::from_be_bytes([page.body[4], page.body[5], page.body[6], page.body[7]]);
    assert_eq!(flags & 2, 2, "there is more");
    assert!((17 * MIB..20 * MIB).contains(&page.body.len()), "{}", page.body.len());
}
