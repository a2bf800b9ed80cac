//! Functions, aggregates, tokens.

use super::Line;

pub(super) const SCALAR: &[Line] = &[
    (
        "CREATE TABLE t (k int PRIMARY KEY, v int, x text, u timeuuid, t timestamp, d date, f double, b blob, e decimal)",
        "CREATED TABLE shop.t",
    ),
    (
        "INSERT INTO t (k, v, x, u, t, d, f, b, e) VALUES (1, 258, 'é', 50554d6e-29bb-11e5-b345-feff819cdc9f, '2024-02-29T01:02:03.004Z', '2024-02-29', 2.75, 0x00000005, 1.50)",
        "void",
    ),
    (
        "SELECT toTimestamp(u), toDate(u), toUnixTimestamp(u), dateOf(u), unixTimestampOf(u) FROM t",
        "2015-07-14T00:00:18.805Z 2015-07-14 1436832018805 2015-07-14T00:00:18.805Z 1436832018805",
    ),
    (
        "SELECT to_timestamp(u), to_date(u), to_unix_timestamp(u) FROM t",
        "2015-07-14T00:00:18.805Z 2015-07-14 1436832018805",
    ),
    (
        "SELECT toDate(t), toUnixTimestamp(t), toTimestamp(d), toUnixTimestamp(d) FROM t",
        "2024-02-29 1709168523004 2024-02-29T00:00:00.000Z 1709164800000",
    ),
    (
        "SELECT intAsBlob(v), blobAsInt(b), textAsBlob(x), varcharAsBlob(x), doubleAsBlob(f), blobAsInt(intAsBlob(v)) FROM t",
        "0x00000102 5 0xc3a9 0xc3a9 0x4006000000000000 258",
    ),
    ("SELECT int_as_blob(v), blob_as_int(b) FROM t", "0x00000102 5"),
    (
        "SELECT cast(v AS text), cast(v AS double), cast(v AS tinyint), cast(f AS int), cast(t AS date), cast(u AS timestamp), cast(e AS double) FROM t",
        "258 258 2 2 2024-02-29 2015-07-14T00:00:18.805Z 1.5",
    ),
    ("SELECT cast(x AS int) FROM t", "2200 cannot be cast"),
    ("SELECT system.toDate(t) FROM t", "2024-02-29"),
    ("SELECT v, 5, 'x', (int) 5 FROM t", "258 5 x 5"),
    ("SELECT toJson(v), toJson(x) FROM t", "258 \"é\""),
    ("INSERT INTO t (k, u, t, d) VALUES (2, now(), toTimestamp(now()), toDate(now()))", "void"),
    (
        "INSERT INTO t (k, u, t, d) VALUES (3, currentTimeUUID(), currentTimestamp(), currentDate())",
        "void",
    ),
    (
        "UPDATE t SET b = intAsBlob(7), v = blobAsInt(0x00000009), x = cast(5 AS text) WHERE k = 2",
        "2000",
    ),
    (
        "UPDATE t SET b = intAsBlob(7), v = blobAsInt(0x00000009), v = (int) 5 WHERE k = 2",
        "2200 Multiple incompatible setting",
    ),
    (
        "UPDATE t SET b = intAsBlob(7), v = blobAsInt(0x00000009), x = fromJson('\"y\"') WHERE k = 2",
        "void",
    ),
    ("SELECT b, v, x FROM t WHERE k = 2", "0x00000007 9 y"),
    (
        "SELECT k FROM t WHERE u < maxTimeuuid('2015-07-14T00:00:19Z') AND u > minTimeuuid('2015-07-14T00:00:18Z') ALLOW FILTERING",
        "1",
    ),
    (
        "SELECT k FROM t WHERE u >= minTimeuuid('2015-07-14T00:00:18.805Z') AND u <= max_timeuuid('2015-07-14 00:00:18.805+0000') ALLOW FILTERING",
        "1",
    ),
    (
        "SELECT writetime(k) FROM t",
        "2200 Cannot use selection function writetime on PRIMARY KEY part k",
    ),
    ("SELECT ttl(k) FROM t", "2200 Cannot use selection function ttl on PRIMARY KEY part k"),
    ("SELECT nope(v) FROM t", "2200 Unknown function 'nope'"),
    ("SELECT toDate(v) FROM t", "2200"),
    ("SELECT toDate(t, d) FROM t", "2200 Invalid number of arguments"),
    ("SELECT intAsBlob(x) FROM t", "2200"),
    ("UPDATE t SET v = now() WHERE k = 1", "2200 Type error: cannot assign result of function now"),
    ("UPDATE t SET v = nope(1) WHERE k = 1", "2200 Unknown function 'nope'"),
    ("UPDATE t SET v = blobAsInt(0x00) WHERE k = 1", "2200 In call to function"),
    ("SELECT cluster_name FROM system.local WHERE key = 'local'", "c"),
];

pub(super) const AGGREGATES: &[Line] = &[
    (
        "CREATE TABLE t (k int PRIMARY KEY, i int, b bigint, s smallint, y tinyint, f float, d double, e decimal, v varint, x text, l list<int>)",
        "CREATED TABLE shop.t",
    ),
    ("SELECT count(*), count(i), sum(i), avg(i), min(i), max(i) FROM t", "0 0 0 0 null null"),
    ("SELECT sum(e), sum(v), avg(d), max(x) FROM t", "0 0 0 null"),
    (
        "INSERT INTO t (k, i, b, s, y, f, d, e, v, x) VALUES (1, 1, 1, 1, 100, 0.5, 0.5, 0.1, 10000000000000000000000, 'b')",
        "void",
    ),
    (
        "INSERT INTO t (k, i, b, s, y, f, d, e, v, x) VALUES (2, 2, 2, 2, 100, 1.5, 1.5, 0.2, 10000000000000000000001, 'a')",
        "void",
    ),
    ("INSERT INTO t (k, i) VALUES (3, null)", "void"),
    ("SELECT count(*), count(1), count(i), count(k) FROM t", "3 3 2 3"),
    ("SELECT sum(i), avg(i), min(i), max(i) FROM t", "3 1 1 2"),
    ("SELECT sum(b), avg(b), sum(s), avg(s) FROM t", "3 1 3 1"),
    ("SELECT sum(y) FROM t", "-56"),
    ("SELECT sum(f), avg(f), sum(d), avg(d) FROM t", "2 1 2 1"),
    (
        "SELECT sum(e), avg(e), sum(v), avg(v) FROM t",
        "0.3 0.2 20000000000000000000001 10000000000000000000000",
    ),
    ("SELECT min(x), max(x), min(k) FROM t", "a b 1"),
    ("SELECT sum(cast(i AS double)), avg(cast(i AS double)) FROM t", "3 1.5"),
    ("SELECT max(cast(i AS text)) FROM t", "2"),
    ("SELECT count(*) AS n, i FROM t WHERE k = 2", "1 2"),
    ("SELECT count(*) FROM t LIMIT 1", "3"),
    ("SELECT count(*) FROM t WHERE i > 1 ALLOW FILTERING", "1"),
    ("SELECT sum(x) FROM t", "2200"),
    ("SELECT sum(max(i)) FROM t", "2200"),
    ("SELECT max() FROM t", "2200"),
];

pub(super) const TOKENS: &[Line] = &[
    ("CREATE TABLE t (k int PRIMARY KEY, v int)", "CREATED TABLE shop.t"),
    ("CREATE TABLE x (k text PRIMARY KEY)", "CREATED TABLE shop.x"),
    ("CREATE TABLE c (a int, b text, PRIMARY KEY ((a, b)))", "CREATED TABLE shop.c"),
    (
        "BEGIN BATCH INSERT INTO t (k, v) VALUES (1, 1) INSERT INTO t (k, v) VALUES (2, 2) INSERT INTO t (k, v) VALUES (3, 3) INSERT INTO x (k) VALUES ('é') INSERT INTO c (a, b) VALUES (1, 'x') APPLY BATCH",
        "void",
    ),
    // In the order of tokens, as Cassandra computes them.
    (
        "SELECT k, token(k) FROM t",
        "1 -4069959284402364209 | 2 -3248873570005575792 | 3 9010454139840013625",
    ),
    ("SELECT k FROM t WHERE token(k) > token(1)", "2 | 3"),
    ("SELECT k FROM t WHERE token(k) >= token(1) AND token(k) <= token(2)", "1 | 2"),
    ("SELECT k FROM t WHERE token(k) = token(2)", "2"),
    (
        "SELECT k FROM t WHERE token(k) > -4069959284402364209 AND token(k) <= 9223372036854775807",
        "2 | 3",
    ),
    ("SELECT k FROM t WHERE token(k) > -9223372036854775808", "1 | 2 | 3"),
    // The least token as an upper bound is the end of the ring.
    (
        "SELECT k FROM t WHERE token(k) > -4069959284402364209 AND token(k) <= -9223372036854775808",
        "2 | 3",
    ),
    ("SELECT k FROM t WHERE token(k) > token(3) AND token(k) <= token(1)", "none"),
    ("SELECT k FROM t WHERE token(k) > token(1) LIMIT 1", "2"),
    ("SELECT count(*) FROM t WHERE token(k) <= token(2)", "2"),
    ("SELECT DISTINCT k FROM t WHERE token(k) > token(1)", "2 | 3"),
    ("SELECT b FROM c WHERE token(a, b) = token(1, 'x')", "x"),
    ("SELECT v FROM t WHERE token(k) > token(1) AND v = 3 ALLOW FILTERING", "3"),
    ("SELECT k FROM t WHERE token(v) > 1", "2200 token function"),
    ("SELECT b FROM c WHERE token(b, a) > 1", "2200 partition key order"),
    ("SELECT k FROM t WHERE token(k) > 'x'", "2200"),
    ("SELECT k FROM t WHERE token(k) > token(1, 2)", "2200 Invalid number of arguments"),
];
