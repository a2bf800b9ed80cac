//! SELECT: slices, IN, orders, limits.

use super::Line;

/// A partition of six rows and one of one; `v` is their place.
const W: &str = "CREATE TABLE w (p int, c int, d int, s text static, v int, PRIMARY KEY (p, c, d))";

const FILL: &str = "BEGIN UNLOGGED BATCH \
    INSERT INTO w (p, c, d, v) VALUES (1, 1, 1, 11) INSERT INTO w (p, c, d, v) VALUES (1, 1, 2, 12) \
    INSERT INTO w (p, c, d, v) VALUES (1, 2, 1, 21) INSERT INTO w (p, c, d, v) VALUES (1, 2, 2, 22) \
    INSERT INTO w (p, c, d, v) VALUES (1, 3, 1, 31) INSERT INTO w (p, c, d, v) VALUES (1, 3, 2, 32) \
    INSERT INTO w (p, c, d, v) VALUES (2, 1, 1, 211) \
    INSERT INTO w (p, s) VALUES (1, 'all') APPLY BATCH";

pub(super) const ROWS: &[Line] = &[
    (W, "CREATED TABLE shop.w"),
    (FILL, "void"),
    ("SELECT * FROM w WHERE p = 1 AND c = 2 AND d = 2", "1 2 2 all 22"),
    ("SELECT d, v FROM w WHERE p = 1 AND c = 2", "1 21 | 2 22"),
    ("SELECT v FROM w WHERE p IN (2, 1) AND c = 1", "11 | 12 | 211"),
    ("SELECT v FROM w WHERE p IN (1, 1, 3) AND c = 1 AND d = 1", "11"),
    ("SELECT v FROM w WHERE p IN ()", "none"),
    ("SELECT v FROM w WHERE p = 1 AND c IN (3, 1)", "11 | 12 | 31 | 32"),
    ("SELECT v FROM w WHERE p = 1 AND c IN (3, 1) AND d = 2", "12 | 32"),
    ("SELECT v FROM w WHERE p = 1 AND c IN (3, 1) AND d IN (2) ORDER BY c DESC", "32 | 12"),
    ("SELECT v FROM w WHERE p = 1 AND c > 1 AND c <= 3", "21 | 22 | 31 | 32"),
    ("SELECT v FROM w WHERE p = 1 AND c >= 2 AND c < 3", "21 | 22"),
    ("SELECT v FROM w WHERE p = 1 AND c > 3", "none"),
    ("SELECT v FROM w WHERE p = 1 AND c > 2 AND c < 2", "none"),
    ("SELECT v FROM w WHERE p = 1 AND c = 2 AND d > 1", "22"),
    ("SELECT v FROM w WHERE p = 1 AND (c, d) > (1, 1) AND (c, d) < (3, 2)", "12 | 21 | 22 | 31"),
    ("SELECT v FROM w WHERE p = 1 AND (c, d) IN ((1, 2), (3, 1))", "12 | 31"),
    ("SELECT v FROM w WHERE p = 1 AND (c, d) = (2, 1)", "21"),
    ("SELECT v FROM w WHERE p = 1 AND (c) > (2)", "31 | 32"),
    ("SELECT v FROM w WHERE p = 1 AND (c, d) >= (2, 2) AND c < 3", "22"),
    ("SELECT v FROM w WHERE p = 1 AND c >= 2 ORDER BY c DESC", "32 | 31 | 22 | 21"),
    ("SELECT v FROM w WHERE p = 1 ORDER BY c ASC, d ASC LIMIT 2", "11 | 12"),
    ("SELECT v FROM w WHERE p = 1 ORDER BY c DESC, d DESC LIMIT 2", "32 | 31"),
    ("SELECT v FROM w WHERE p IN (1, 2) ORDER BY c DESC LIMIT 3", "32 | 31 | 22"),
    ("SELECT v FROM w WHERE v = 21 ALLOW FILTERING", "21"),
    ("SELECT v FROM w WHERE v > 30 AND v < 100 ALLOW FILTERING", "31 | 32"),
    ("SELECT v FROM w WHERE c = 1 ALLOW FILTERING", "11 | 12 | 211"),
    ("SELECT v FROM w WHERE p = 1 AND d = 1 ALLOW FILTERING", "11 | 21 | 31"),
    ("SELECT v FROM w WHERE p > 1 ALLOW FILTERING", "211"),
    ("SELECT v FROM w WHERE s = 'all' AND c = 3 ALLOW FILTERING", "31 | 32"),
    ("SELECT DISTINCT p, s FROM w", "1 all | 2 null"),
    ("SELECT DISTINCT p FROM w WHERE p IN (1, 2) LIMIT 1", "1"),
    ("SELECT p, v FROM w PER PARTITION LIMIT 1", "1 11 | 2 211"),
    ("SELECT p, v FROM w PER PARTITION LIMIT 2 LIMIT 3", "1 11 | 1 12 | 2 211"),
    ("SELECT v FROM w WHERE p = 1 PER PARTITION LIMIT 1", "11"),
    ("SELECT count(*) FROM w WHERE p = 1 AND c > 1", "4"),
    ("SELECT c, max(v) FROM w WHERE p = 1 GROUP BY p, c", "1 12 | 2 22 | 3 32"),
    ("SELECT p, count(*) FROM w GROUP BY p", "1 6 | 2 1"),
    ("SELECT v FROM w LIMIT 1 ALLOW FILTERING", "11"),
    ("SELECT v AS a, p AS \"B\" FROM w LIMIT 1", "11 1"),
    // Descending order is stored order.
    (
        "CREATE TABLE o (p int, c int, PRIMARY KEY (p, c)) WITH CLUSTERING ORDER BY (c DESC)",
        "CREATED TABLE shop.o",
    ),
    (
        "BEGIN BATCH INSERT INTO o (p, c) VALUES (1, 1) INSERT INTO o (p, c) VALUES (1, 2) INSERT INTO o (p, c) VALUES (1, 3) APPLY BATCH",
        "void",
    ),
    ("SELECT c FROM o WHERE p = 1", "3 | 2 | 1"),
    ("SELECT c FROM o WHERE p = 1 AND c < 3", "2 | 1"),
    ("SELECT c FROM o WHERE p = 1 AND c > 1 ORDER BY c ASC", "2 | 3"),
    ("SELECT c FROM o WHERE p = 1 AND c IN (1, 3)", "3 | 1"),
    // A composite partition key.
    ("CREATE TABLE k (a int, b text, v int, PRIMARY KEY ((a, b)))", "CREATED TABLE shop.k"),
    (
        "BEGIN BATCH INSERT INTO k (a, b, v) VALUES (1, 'x', 1) INSERT INTO k (a, b, v) VALUES (1, 'y', 2) APPLY BATCH",
        "void",
    ),
    ("SELECT v FROM k WHERE a = 1 AND b = 'y'", "2"),
    ("SELECT v FROM k WHERE a = 1 AND b IN ('x', 'y', 'z') AND v = 1 ALLOW FILTERING", "1"),
    ("SELECT v FROM k WHERE b = 'x' ALLOW FILTERING", "1"),
];

pub(super) const REFUSED: &[Line] = &[
    (W, "CREATED TABLE shop.w"),
    ("SELECT v FROM w WHERE p = 1 ORDER BY c DESC, d ASC", "2200 Unsupported order by relation"),
    (
        "SELECT v FROM w WHERE p = 1 ORDER BY v",
        "2200 Order by is currently only supported on the clustered columns of the PRIMARY KEY, got v",
    ),
    (
        "SELECT v FROM w ORDER BY c",
        "2200 ORDER BY is only supported when the partition key is restricted by an EQ or an IN",
    ),
    ("SELECT v FROM w WHERE v = 21", "2200 use ALLOW FILTERING"),
    ("SELECT v FROM w WHERE p = 1 AND v = 21", "2200 use ALLOW FILTERING"),
    ("SELECT v FROM w WHERE p = 1 AND d = 1", "2200 use ALLOW FILTERING"),
    ("SELECT v FROM w WHERE c = 1", "2200 use ALLOW FILTERING"),
    (
        "SELECT v FROM w WHERE p > 1",
        "2200 Only EQ and IN relation are supported on the partition key (unless you use the token() function)",
    ),
    ("SELECT v FROM w WHERE p != 1", "2200 !="),
    (
        "SELECT v FROM w WHERE p = 1 AND p = 2",
        "2200 cannot be restricted by more than one relation if it includes an Equal",
    ),
    ("SELECT v FROM w WHERE p = null", "2200 Invalid null value"),
    ("SELECT v FROM w WHERE p = 1 AND c = 'x'", "2200 Invalid STRING constant"),
    ("SELECT v FROM w WHERE p = 1 AND c IN (1, 'x')", "2200 Invalid STRING constant"),
    ("SELECT v FROM w WHERE p = 1 AND (d, c) > (1, 1)", "2200 clustering columns, in order"),
    ("SELECT v FROM w WHERE p = 1 AND (c, d) > (1, 1, 1)", "2200 too many"),
    (
        "SELECT v FROM w WHERE p = 1 AND (p, c) > (1, 1)",
        "2200 Multi-column relations can only be applied to clustering columns",
    ),
    ("SELECT v FROM w WHERE token(c) > 1", "2200 token function"),
    ("SELECT v FROM w WHERE nope = 1", "2200 Undefined column name nope in table shop.w"),
    ("SELECT nope FROM w", "2200 Undefined column name nope in table shop.w"),
    ("SELECT v FROM w WHERE p = ?", "2200 Invalid amount of bind variables"),
    ("SELECT v FROM w WHERE v CONTAINS 1 ALLOW FILTERING", "2200 CONTAINS"),
    ("SELECT v FROM w WHERE v LIKE 'x%'", "2200 LIKE is not supported"),
    ("SELECT v + 1 FROM w", "2200 arithmetic"),
    ("SELECT v FROM w ORDER BY v ANN OF [1.0, 2.0] LIMIT 3", "2200"),
    ("SELECT v FROM w LIMIT 0", "2200 LIMIT must be strictly positive"),
    ("SELECT v FROM w LIMIT -1", "2200 LIMIT must be strictly positive"),
    ("SELECT v FROM w LIMIT 'x'", "2000"),
    ("SELECT v FROM w PER PARTITION LIMIT 0", "2200 LIMIT must be strictly positive"),
    (
        "SELECT DISTINCT p, c FROM w",
        "2200 SELECT DISTINCT queries must only request partition key columns and/or static columns",
    ),
    (
        "SELECT DISTINCT p, v FROM w",
        "2200 SELECT DISTINCT queries must only request partition key columns and/or static columns",
    ),
    ("SELECT v FROM w GROUP BY v", "2200 Group by"),
    ("SELECT v FROM w GROUP BY c", "2200 Group by"),
    ("SELECT v FROM nope", "2200 unconfigured table nope"),
    ("SELECT v FROM nope.w", "2200 keyspace nope does not exist"),
    ("SELECT v.x FROM w", "2200 is not a user type"),
    ("SELECT v['x'] FROM w", "2200 Invalid element selection"),
    ("SELECT FROM w", "2000"),
    ("SELECT v w", "2000"),
    ("SELECT v FROM w WHERE", "2000"),
    ("SELECT v FROM w WHERE p = 1 OR p = 2", "2000"),
    ("SELECT v FROM w; SELECT v FROM w", "2000"),
    ("SELEC v FROM w", "2000"),
    ("", "2000"),
    (";", "2000"),
    ("SELECT v FROM w WHERE s = 'open", "2000"),
    ("SELECT v FROM w /* open", "2000"),
    ("SELECT v FROM w WHERE p = 0xABC", "2000"),
    ("SELECT v FROM w WHERE p = 99999999999", "2200"),
];

pub(super) const FORMS: &[Line] = &[
    ("CREATE TABLE w (p int PRIMARY KEY, v text, \"V\" text)", "CREATED TABLE shop.w"),
    ("INSERT INTO w (p, v, \"V\") VALUES (1, 'it''s', $$it's $1$$)", "void"),
    ("SELECT v FROM w", "it's"),
    ("select V from W where P = 1;", "it's"),
    ("SELECT \"v\" FROM \"shop\".\"w\"", "it's"),
    ("SELECT \"V\" FROM w", "it's $1"),
    ("SELECT * FROM w", "1 it's $1 it's"),
    ("SELECT v FROM \"W\"", "2200 unconfigured table W"),
    ("SELECT v -- to the end of the line\nFROM w", "it's"),
    ("SELECT v // to the end of the line\nFROM w -- and here", "it's"),
    ("/* before */ SELECT /* in\n the middle */ v FROM w /* after */;", "it's"),
    ("\n\t SELECT\r\n v\tFROM w ;", "it's"),
    (
        "CREATE TABLE words (key int PRIMARY KEY, type text, value text, ttl int, list text, role text, json text, text text, count int, timestamp int, user text, date text, time text, uuid text, values text, keys text, language text, function text, writetime text, distinct text, \"as\" text, static text, filtering text, partition text, map text, tuple text, frozen text, int int, exists text, options text, users text, password text, clustering text, cast text, contains text, per text, login text, storage text, compact text)",
        "CREATED TABLE shop.words",
    ),
    (
        "INSERT INTO words (key, type, value, ttl, list, json, count, writetime) VALUES (1, 'a', 'b', 2, 'c', 'd', 3, 'e')",
        "void",
    ),
    (
        "SELECT type, value, ttl, list, json, count, writetime FROM words WHERE key = 1",
        "a b 2 c d 3 e",
    ),
    ("UPDATE words SET ttl = 5, value = 'x' WHERE key = 1", "void"),
    ("SELECT ttl AS type FROM words WHERE value = 'x' ALLOW FILTERING", "5"),
    ("CREATE TABLE r (select int PRIMARY KEY)", "2000"),
    ("CREATE TABLE table (k int PRIMARY KEY)", "2000"),
    ("CREATE TABLE r (\"select\" int PRIMARY KEY, \"from\" int)", "CREATED TABLE shop.r"),
    ("SELECT \"select\", \"from\" FROM r", "none"),
    ("USE shop", "use shop"),
    ("USE \"shop\"", "use shop"),
    ("USE nope", "2200 Keyspace 'nope' does not exist"),
    ("USE Shop;", "use shop"),
    ("USE \"Shop\"", "2200 Keyspace 'Shop' does not exist"),
];
