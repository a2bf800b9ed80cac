//! CREATE, ALTER, DROP.

use super::Line;

pub(super) const KEYSPACES: &[Line] = &[
    (
        "CREATE KEYSPACE a WITH replication = {'class': 'SimpleStrategy', 'replication_factor': 1}",
        "CREATED KEYSPACE a",
    ),
    (
        "CREATE KEYSPACE a WITH replication = {'class': 'SimpleStrategy', 'replication_factor': 1}",
        "2400 Cannot add existing keyspace",
    ),
    (
        "CREATE KEYSPACE IF NOT EXISTS a WITH replication = {'class': 'SimpleStrategy', 'replication_factor': 1}",
        "void",
    ),
    (
        "CREATE SCHEMA b WITH REPLICATION = {'class': 'org.apache.cassandra.locator.NetworkTopologyStrategy', 'dc1': '1'} AND DURABLE_WRITES = false;",
        "CREATED KEYSPACE b",
    ),
    (
        "SELECT durable_writes, replication FROM system_schema.keyspaces WHERE keyspace_name = 'b'",
        "false {'class': 'org.apache.cassandra.locator.NetworkTopologyStrategy', 'dc1': '1'}",
    ),
    (
        "CREATE KEYSPACE c WITH replication = {'class': 'NetworkTopologyStrategy', 'replication_factor': 1}",
        "CREATED KEYSPACE c",
    ),
    (
        "CREATE KEYSPACE \"Mixed\" WITH replication = {'class': 'SimpleStrategy', 'replication_factor': 1}",
        "CREATED KEYSPACE Mixed",
    ),
    (
        "CREATE KEYSPACE d WITH replication = {'class': 'Nope'}",
        "2300 Unable to find replication strategy class",
    ),
    (
        "CREATE KEYSPACE d WITH replication = {'class': 'SimpleStrategy'}",
        "2300 SimpleStrategy requires a replication_factor",
    ),
    (
        "CREATE KEYSPACE d WITH replication = {'class': 'SimpleStrategy', 'replication_factor': 'x'}",
        "2300",
    ),
    (
        "CREATE KEYSPACE d WITH replication = {'class': 'NetworkTopologyStrategy', 'nope': 1}",
        "2300 Unrecognized strategy option {nope}",
    ),
    ("CREATE KEYSPACE d WITH replication = {'replication_factor': 1}", "2300"),
    ("CREATE KEYSPACE d WITH durable_writes = true", "2300"),
    ("CREATE KEYSPACE d WITH nonsense = 1", "2000 Unknown property 'nonsense'"),
    ("CREATE KEYSPACE d", "2000"),
    (
        "CREATE KEYSPACE \"no-good\" WITH replication = {'class': 'SimpleStrategy', 'replication_factor': 1}",
        "2200 Keyspace name must not",
    ),
    ("ALTER KEYSPACE a WITH durable_writes = false", "UPDATED KEYSPACE a"),
    // What is not said stays as it is.
    (
        "ALTER KEYSPACE a WITH replication = {'class': 'SimpleStrategy', 'replication_factor': 1}",
        "UPDATED KEYSPACE a",
    ),
    ("SELECT durable_writes FROM system_schema.keyspaces WHERE keyspace_name = 'a'", "false"),
    ("ALTER KEYSPACE a WITH durable_writes = maybe", "2000"),
    ("ALTER KEYSPACE nope WITH durable_writes = false", "2200 Keyspace 'nope' doesn't exist"),
    ("ALTER KEYSPACE IF EXISTS nope WITH durable_writes = false", "void"),
    ("DROP KEYSPACE a", "DROPPED KEYSPACE a"),
    ("DROP KEYSPACE a", "2200 Keyspace 'a' doesn't exist"),
    ("DROP KEYSPACE IF EXISTS a", "void"),
    ("DROP SCHEMA b", "DROPPED KEYSPACE b"),
    ("DROP KEYSPACE system", "2100"),
    ("ALTER KEYSPACE system_schema WITH durable_writes = false", "2100"),
    (
        "CREATE KEYSPACE system WITH replication = {'class': 'SimpleStrategy', 'replication_factor': 1}",
        "2100",
    ),
];

pub(super) const TABLES: &[Line] = &[
    ("CREATE TABLE a (k int PRIMARY KEY, v text,)", "CREATED TABLE shop.a"),
    (
        "CREATE TABLE a (k int PRIMARY KEY)",
        "2400 Cannot add already existing table \"a\" to keyspace \"shop\"",
    ),
    ("CREATE TABLE IF NOT EXISTS a (k int PRIMARY KEY)", "void"),
    // A duration has a unit behind each of its numbers.
    ("CREATE TABLE p1 (p99 int PRIMARY KEY, P2 int, pt5 duration)", "CREATED TABLE shop.p1"),
    ("INSERT INTO p1 (p99, p2, pt5) VALUES (1, 2, P0001-02-03T04:05:06)", "void"),
    ("SELECT p99, P2, pt5 FROM shop.p1 WHERE P99 = 1", "1 2 1y2mo3d4h5m6s"),
    ("DROP TABLE p1", "DROPPED TABLE shop.p1"),
    (
        "CREATE TABLE e (k int PRIMARY KEY) WITH comment = 'a' AND comment = 'b'",
        "2000 Multiple definition for property 'comment'",
    ),
    (
        "CREATE TABLE e (k int PRIMARY KEY) WITH compaction = {'class': 'LeveledCompactionStrategy', 'class': 'Nope'}",
        "2000 Multiple definition for property 'class'",
    ),
    (
        "ALTER TABLE a WITH gc_grace_seconds = 1 AND gc_grace_seconds = 2",
        "2000 Multiple definition for property 'gc_grace_seconds'",
    ),
    ("CREATE COLUMNFAMILY b (k int, v text, PRIMARY KEY (k))", "CREATED TABLE shop.b"),
    (
        "CREATE TABLE c (a int, b text, c int, d uuid, s text static, v int, PRIMARY KEY ((a, b), c, d)) WITH CLUSTERING ORDER BY (c DESC, d ASC) AND comment = 'it''s'",
        "CREATED TABLE shop.c",
    ),
    (
        "SELECT column_name, kind, position, clustering_order FROM system_schema.columns WHERE keyspace_name = 'shop' AND table_name = 'c'",
        "a partition_key 0 none | b partition_key 1 none | c clustering 0 desc | d clustering 1 asc | s static -1 none | v regular -1 none",
    ),
    (
        "SELECT comment, flags FROM system_schema.tables WHERE keyspace_name = 'shop' AND table_name = 'c'",
        "it's {'compound'}",
    ),
    (
        "CREATE TABLE d (k int PRIMARY KEY) WITH additional_write_policy = '99p' AND bloom_filter_fp_chance = 0.01 AND caching = {'keys': 'ALL', 'rows_per_partition': 'NONE'} AND cdc = false AND comment = '' AND compaction = {'class': 'org.apache.cassandra.db.compaction.SizeTieredCompactionStrategy', 'max_threshold': '32', 'min_threshold': '4'} AND compression = {'chunk_length_in_kb': '16', 'class': 'org.apache.cassandra.io.compress.LZ4Compressor'} AND crc_check_chance = 1.0 AND default_time_to_live = 5 AND extensions = {} AND gc_grace_seconds = 864000 AND max_index_interval = 2048 AND memtable = 'default' AND memtable_flush_period_in_ms = 0 AND min_index_interval = 128 AND read_repair = 'BLOCKING' AND speculative_retry = '99p' AND incremental_backups = true AND allow_auto_snapshot = true AND dclocal_read_repair_chance = 0.1 AND read_repair_chance = 0.0",
        "CREATED TABLE shop.d",
    ),
    (
        "SELECT default_time_to_live, gc_grace_seconds FROM system_schema.tables WHERE keyspace_name = 'shop' AND table_name = 'd'",
        "5 864000",
    ),
    (
        "CREATE TABLE e (k int PRIMARY KEY) WITH compaction = {'class': 'LeveledCompactionStrategy'} AND compression = {'enabled': 'false'}",
        "CREATED TABLE shop.e",
    ),
    (
        "CREATE TABLE f (k int PRIMARY KEY) WITH compaction = {'class': 'NopeStrategy'}",
        "2300 NopeStrategy",
    ),
    (
        "CREATE TABLE f (k int PRIMARY KEY) WITH compaction = {'max_threshold': '32'}",
        "2300 Missing sub-option 'class'",
    ),
    (
        "CREATE TABLE f (k int PRIMARY KEY) WITH compression = {'class': 'NopeCompressor'}",
        "2300 NopeCompressor",
    ),
    (
        "CREATE TABLE f (k int PRIMARY KEY) WITH compression = {'sstable_compression': ''}",
        "CREATED TABLE shop.f",
    ),
    ("CREATE TABLE g (k int PRIMARY KEY) WITH nonsense = 1", "2000 Unknown property 'nonsense'"),
    ("CREATE TABLE g (k int PRIMARY KEY) WITH comment = {'a': 'b'}", "2000"),
    ("CREATE TABLE g (k int PRIMARY KEY) WITH bloom_filter_fp_chance = 'x'", "2000"),
    ("CREATE TABLE g (k int PRIMARY KEY) WITH default_time_to_live = -1", "2300"),
    ("CREATE TABLE g (k int PRIMARY KEY) WITH default_time_to_live = 630720001", "2300"),
    ("CREATE TABLE g (k int)", "2200 No PRIMARY KEY specified (exactly one required)"),
    ("CREATE TABLE g (k int PRIMARY KEY, l int PRIMARY KEY)", "2000"),
    ("CREATE TABLE g (k int PRIMARY KEY, k text)", "2200 Multiple definition of identifier k"),
    (
        "CREATE TABLE g (k int, PRIMARY KEY (nope))",
        "2200 Unknown definition nope referenced in PRIMARY KEY",
    ),
    ("CREATE TABLE g (k int, PRIMARY KEY (k, k))", "2200"),
    ("CREATE TABLE g (k int PRIMARY KEY, s int static)", "2200 Static columns are only useful"),
    (
        "CREATE TABLE g (k int, c int static, PRIMARY KEY (k, c))",
        "2200 Static column c cannot be part of the PRIMARY KEY",
    ),
    ("CREATE TABLE g (k int, c int, PRIMARY KEY (k, c)) WITH CLUSTERING ORDER BY (k DESC)", "2200"),
    ("CREATE TABLE g (k nope PRIMARY KEY)", "2200 Unknown type"),
    ("CREATE TABLE g (k list<int> PRIMARY KEY)", "2200 Invalid"),
    ("CREATE TABLE g (k duration PRIMARY KEY)", "2200"),
    ("CREATE TABLE g (k counter PRIMARY KEY)", "2200 counter"),
    (
        "CREATE TABLE g (k int PRIMARY KEY, a counter, b int)",
        "2200 Cannot mix counter and non counter columns in the same table",
    ),
    ("CREATE TABLE g (k int PRIMARY KEY) WITH COMPACT STORAGE", "2200 COMPACT STORAGE"),
    ("CREATE TABLE g (k int PRIMARY KEY, v text MASKED WITH DEFAULT)", "2200 masked"),
    ("CREATE TABLE \"no good\" (k int PRIMARY KEY)", "2200 Table name must not"),
    ("CREATE TABLE nope.g (k int PRIMARY KEY)", "2200 Keyspace 'nope' doesn't exist"),
    ("CREATE TABLE system.g (k int PRIMARY KEY)", "2100"),
    ("CREATE TABLE g ()", "2000"),
    ("ALTER TABLE a ADD w int", "UPDATED TABLE shop.a"),
    ("ALTER TABLE a ADD (x int, y list<text>)", "UPDATED TABLE shop.a"),
    ("ALTER TABLE a ADD z int, zz frozen<set<int>>", "UPDATED TABLE shop.a"),
    ("INSERT INTO a (k, w, x, y, z) VALUES (1, 2, 3, ['4'], 5)", "void"),
    ("SELECT * FROM a", "1 null 2 3 ['4'] 5 null"),
    ("ALTER TABLE a DROP w", "UPDATED TABLE shop.a"),
    ("ALTER TABLE a DROP (x, y)", "UPDATED TABLE shop.a"),
    ("ALTER TABLE a DROP z, zz", "UPDATED TABLE shop.a"),
    ("ALTER TABLE a RENAME k TO key", "UPDATED TABLE shop.a"),
    ("SELECT * FROM a", "1 null"),
    ("ALTER TABLE c RENAME a TO aa AND c TO cc", "UPDATED TABLE shop.c"),
    ("ALTER TABLE a WITH comment = 'new' AND gc_grace_seconds = 5", "UPDATED TABLE shop.a"),
    ("ALTER TABLE a WITH compaction = {'class': 'NopeStrategy'}", "2300 NopeStrategy"),
    ("ALTER TABLE a ADD IF NOT EXISTS v text", "UPDATED TABLE shop.a"),
    ("ALTER TABLE a DROP IF EXISTS nope", "UPDATED TABLE shop.a"),
    ("ALTER TABLE a ADD v text", "2200 Column with name 'v' already exists"),
    ("ALTER TABLE a DROP nope", "2200 Column nope was not found in table"),
    ("ALTER TABLE a DROP key", "2200 Cannot drop PRIMARY KEY column key"),
    ("ALTER TABLE a RENAME v TO w", "2200"),
    ("ALTER TABLE a ALTER v TYPE blob", "2200 Altering column types is no longer supported"),
    ("ALTER TABLE a ADD s int static", "2200 Static columns are only useful"),
    ("ALTER TABLE a ADD n counter", "2200 Cannot mix counter"),
    ("ALTER TABLE nope ADD v int", "2200 Table 'shop.nope' doesn't exist"),
    ("ALTER TABLE IF EXISTS nope ADD v int", "void"),
    ("ALTER TABLE a", "2000"),
    ("DROP TABLE a", "DROPPED TABLE shop.a"),
    ("DROP TABLE a", "2200 Table 'shop.a' doesn't exist"),
    ("DROP TABLE IF EXISTS a", "void"),
    ("SELECT * FROM a", "2200 unconfigured table a"),
    ("DROP COLUMNFAMILY shop.b", "DROPPED TABLE shop.b"),
    ("DROP TABLE system.local", "2100"),
];

pub(super) const TYPES: &[Line] = &[
    ("CREATE TYPE a (street text, zip int)", "CREATED TYPE shop.a"),
    ("CREATE TYPE a (x int)", "2200 already exists"),
    ("CREATE TYPE IF NOT EXISTS a (x int)", "void"),
    ("CREATE TYPE shop.b (home frozen<a>, tags set<text>)", "CREATED TYPE shop.b"),
    ("CREATE TABLE t (k int PRIMARY KEY, a a, b frozen<b>)", "CREATED TABLE shop.t"),
    (
        "SELECT column_name, type FROM system_schema.columns WHERE keyspace_name = 'shop' AND table_name = 't'",
        "a a | b frozen<b> | k int",
    ),
    (
        "INSERT INTO t (k, a, b) VALUES (1, {street: 's', zip: 1}, {home: {street: 'h', zip: 2}, tags: {'x'}})",
        "void",
    ),
    ("ALTER TYPE a ADD city text", "UPDATED TYPE shop.a"),
    (
        "SELECT * FROM t",
        "1 {street: 's', zip: 1, city: null} {home: {street: 'h', zip: 2, city: null}, tags: {'x'}}",
    ),
    ("ALTER TYPE a RENAME zip TO code AND street TO road", "UPDATED TYPE shop.a"),
    ("SELECT a.code, a.road, b.home.code FROM t", "1 s 2"),
    ("ALTER TYPE a ADD code int", "2200"),
    ("ALTER TYPE a RENAME nope TO x", "2200"),
    ("ALTER TYPE nope ADD x int", "2200 doesn't exist"),
    ("ALTER TYPE IF EXISTS nope ADD x int", "void"),
    ("CREATE TYPE c (a int, a int)", "2200"),
    ("CREATE TYPE c (a counter)", "2200"),
    ("CREATE TYPE c (a nope)", "2200 Unknown type"),
    ("CREATE TYPE nope.c (a int)", "2200"),
    ("CREATE TYPE c ()", "2000"),
    ("DROP TYPE a", "2200"),
    ("DROP TYPE nope", "2200 doesn't exist"),
    ("DROP TYPE IF EXISTS nope", "void"),
    ("DROP TABLE t", "DROPPED TABLE shop.t"),
    ("DROP TYPE b", "DROPPED TYPE shop.b"),
    ("DROP TYPE a", "DROPPED TYPE shop.a"),
];

/// What there is not is refused by a sentence that says what to do instead, and never by silence.
pub(super) const ABSENT: &[Line] = &[
    ("CREATE TABLE t (k int PRIMARY KEY, v text)", "CREATED TABLE shop.t"),
    (
        "CREATE MATERIALIZED VIEW m AS SELECT * FROM t WHERE v IS NOT NULL AND k IS NOT NULL PRIMARY KEY (v, k)",
        "2200 Materialized views are disabled: write a second table",
    ),
    ("ALTER MATERIALIZED VIEW m WITH comment = 'x'", "2200 Materialized views are disabled"),
    ("DROP MATERIALIZED VIEW IF EXISTS m", "2200 Materialized views are disabled"),
    (
        "CREATE FUNCTION f (x int) RETURNS NULL ON NULL INPUT RETURNS int LANGUAGE java AS $$return x;$$",
        "2200 User-defined functions are disabled: compute in the application",
    ),
    (
        "CREATE OR REPLACE FUNCTION IF NOT EXISTS f (x int) CALLED ON NULL INPUT RETURNS int LANGUAGE java AS 'return x;'",
        "2200 User-defined functions are disabled",
    ),
    (
        "CREATE AGGREGATE g (int) SFUNC f STYPE int INITCOND 0",
        "2200 User-defined functions are disabled",
    ),
    ("DROP FUNCTION f", "2200 User-defined functions are disabled"),
    ("DROP AGGREGATE g (int)", "2200 User-defined functions are disabled"),
    ("CREATE TRIGGER r ON t USING 'x'", "2200 Triggers are not supported"),
    ("DROP TRIGGER r ON t", "2200 Triggers are not supported"),
    ("CREATE CUSTOM INDEX ON t (v) USING 'nope.Class'", "2300 Unable to find custom indexer class"),
    (
        "CREATE TABLE x (k int PRIMARY KEY, v 'org.apache.cassandra.db.marshal.Nope')",
        "2200 custom types are not supported",
    ),
    ("SELECT * FROM t WHERE v IS NOT NULL ALLOW FILTERING", "2200 IS NOT NULL"),
    ("ALTER TABLE t DROP COMPACT STORAGE", "2200 COMPACT STORAGE"),
    ("ALTER TABLE t ALTER v MASKED WITH DEFAULT", "2200 masked"),
    // Without authentication there are no roles.
    ("CREATE ROLE r", "2100"),
    ("CREATE USER u WITH PASSWORD 'x'", "2100"),
    ("ALTER ROLE r WITH PASSWORD = 'x'", "2100"),
    ("DROP ROLE IF EXISTS r", "2100"),
    ("GRANT SELECT ON t TO r", "2100"),
    ("REVOKE ALL ON KEYSPACE shop FROM r", "2100"),
    ("LIST ROLES", "2100"),
    ("LIST USERS", "2100"),
    ("LIST ALL PERMISSIONS", "2100"),
];
