use super::ast::Statement;
use super::*;

fn same(text: &str) {
    let parsed = parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
    let printed = parsed.statement.to_string();
    let again = parse(&printed).unwrap_or_else(|error| panic!("{printed}: {error}"));
    assert_eq!(parsed.statement, again.statement, "{text}\n{printed}");
}

#[test]
fn statements_print_as_what_they_were_parsed_from() {
    for text in [
        "SELECT * FROM system.local WHERE key='local'",
        "select json a, b as c, count(*), writetime(v), ttl(v), token(k), cast(v as text) from ks.t",
        "SELECT DISTINCT k FROM t WHERE token(k) > ? AND token(k) <= 5 PER PARTITION LIMIT 2 LIMIT ? ALLOW FILTERING",
        "SELECT a FROM t WHERE k IN (1, 2) AND (c, d) >= (1, 'x') AND (c, d) IN ((1,2), ?) ORDER BY c DESC, d ASC;",
        "SELECT a, similarity_cosine(v, [1, -2.5]) FROM t WHERE k = 1 ORDER BY v ANN OF [0.1, ?] LIMIT 3 ALLOW FILTERING",
        "SELECT ann FROM ann ORDER BY ann ASC, b DESC",
        "SELECT m['k'], u.f FROM t WHERE l CONTAINS 1 AND m CONTAINS KEY 'a' AND m['x'] = 3 GROUP BY k",
        "INSERT INTO t (k, \"V\", type, key) VALUES (?, :named, {'a': 1, 'b': 2}, {1, 2}) IF NOT EXISTS USING TTL 5 AND TIMESTAMP -1",
        "INSERT INTO t (a, b, c, d, e, f) VALUES (0xCAfe, 1.5e3, -2, true, null, 123e4567-e89b-12d3-a456-426614174000)",
        "INSERT INTO t (u, d, x) VALUES ({street: 'a ''quoted'' b', zip: 1}, 1y2mo3d, -NaN)",
        "UPDATE ks.t USING TTL ? SET a = 1, l = l + [1], l = [0] + l, m['k'] = 'v', u.f = 2, c += 1, s -= {3} WHERE k = 1 AND c = 2 IF a = 3 AND m['x'] IN (1, 2)",
        "UPDATE t SET a = (int) ?, b = now(), d = system.toTimestamp(now()), v = [1.0, 2.0] WHERE k = blobAsInt(0x01) IF EXISTS",
        "DELETE FROM t WHERE k = 1",
        "DELETE a, m['k'], u.f FROM t USING TIMESTAMP 7 WHERE k = 1 AND c > 3 IF a != 2",
        "BEGIN UNLOGGED BATCH USING TIMESTAMP 3 INSERT INTO t (k) VALUES (1); DELETE FROM t WHERE k = 2 APPLY BATCH;",
        "INSERT INTO t JSON '{\"a\": \"it''s\"}'",
        "insert into ks.t json ? default unset if not exists using ttl ?",
        "INSERT INTO t JSON :row DEFAULT NULL",
        "USE \"Ks\"",
        "TRUNCATE TABLE ks.t",
        "CREATE KEYSPACE IF NOT EXISTS k WITH replication = {'class': 'SimpleStrategy', 'replication_factor': 3} AND durable_writes = true",
        "CREATE TABLE IF NOT EXISTS ks.t (k int PRIMARY KEY, v text, )",
        "CREATE TABLE t (a int, b text, c timeuuid, s int static, m map<text, frozen<list<int>>>, st set<int>, tu tuple<int, text>, u frozen<ks.addr>, ve vector<float, 3>, PRIMARY KEY ((a, b), c)) WITH CLUSTERING ORDER BY (c DESC) AND comment = 'x' AND compaction = {'class': 'LeveledCompactionStrategy'} AND gc_grace_seconds = 10",
        "ALTER TABLE t ADD a int, b text",
        "ALTER TABLE t ADD (a int, b text)",
        "ALTER TABLE t DROP a",
        "ALTER TABLE t RENAME a TO b AND c TO d",
        "ALTER TABLE t WITH default_time_to_live = 10",
        "CREATE TYPE IF NOT EXISTS ks.addr (street text, zip int)",
        "ALTER TYPE addr ADD x int",
        "DROP TYPE IF EXISTS addr",
        "DROP TABLE IF EXISTS ks.t",
        "DROP KEYSPACE k",
        "-- comment\nSELECT /* inside */ key, value, type, list FROM t // end",
        "SELECT $$dollars 'n' quotes$$ FROM t",
        "DESCRIBE KEYSPACES",
        "DESC TABLES;",
        "describe full schema",
        "DESCRIBE KEYSPACE",
        "DESCRIBE KEYSPACE \"Ks\" WITH INTERNALS",
        "DESCRIBE ONLY KEYSPACE ks",
        "DESCRIBE TABLE ks.t",
        "DESCRIBE TYPE addr",
        "DESCRIBE type",
        "DESCRIBE type.t",
        "DESCRIBE MATERIALIZED VIEW v",
        "DESCRIBE INDEX ks.i",
        "CREATE INDEX ON t (a)",
        "CREATE INDEX IF NOT EXISTS \"I\" ON ks.t (keys(m))",
        "CREATE INDEX i ON t (values(m))",
        "CREATE INDEX i ON t (entries(m))",
        "CREATE INDEX i ON t (full(\"F\"))",
        "CREATE INDEX i ON t (values)",
        "CREATE CUSTOM INDEX i ON t (v) USING 'sai' WITH OPTIONS = {'a': 'b'}",
        "DROP INDEX IF EXISTS ks.i",
        "DESCRIBE ks.t",
        "DESCRIBE CLUSTER",
        "CREATE ROLE IF NOT EXISTS r WITH PASSWORD = 'it''s' AND LOGIN = true AND SUPERUSER = false",
        "CREATE ROLE 'A b' WITH HASHED PASSWORD = '$2a$x'",
        "CREATE ROLE \"R\"",
        "CREATE USER Bob WITH PASSWORD 'x' SUPERUSER",
        "ALTER USER IF EXISTS bob NOSUPERUSER",
        "ALTER ROLE r WITH ACCESS TO ALL DATACENTERS AND LOGIN = false",
        "DROP ROLE IF EXISTS r;",
        "DROP USER bob",
        "GRANT staff TO eve",
        "REVOKE staff FROM \"Eve\"",
        "GRANT SELECT ON t TO r",
        "GRANT SELECT PERMISSION, MODIFY ON TABLE ks.t TO r",
        "GRANT ALL PERMISSIONS ON KEYSPACE ks TO r",
        "GRANT ALL ON ALL KEYSPACES TO r",
        "REVOKE CREATE ON ALL ROLES FROM r",
        "REVOKE ALTER ON ROLE other FROM r",
        "GRANT SELECT ON role TO r",
        "LIST ROLES",
        "LIST ROLES OF r NORECURSIVE",
        "LIST USERS",
        "LIST ALL PERMISSIONS",
        "LIST SELECT ON ks.t OF r NORECURSIVE",
        "LIST ALL PERMISSIONS ON ALL ROLES OF r",
    ] {
        same(text);
    }
}

#[test]
fn errors_name_the_place_and_what_would_be_valid() {
    for (text, line, column, part) in [
        ("SELEC * FROM t", 1, 0, "a statement"),
        ("SELECT * FORM t", 1, 9, "FROM"),
        ("SELECT a,\n  FROM t", 2, 2, "reserved"),
        ("INSERT INTO t (a) VALUES (1, 2)", 1, 31, "Unmatched"),
        ("SELECT * FROM t WHERE a LIKE 'x'", 1, 24, "LIKE"),
        ("SELECT 'abc FROM t", 1, 7, "closing"),
        ("SELECT * FROM t; SELECT * FROM t", 1, 17, "end of the statement"),
        ("CREATE TABLE t (a int,, b int)", 1, 22, "a name"),
    ] {
        let error = parse(text).unwrap_err();
        assert_eq!((error.line, error.column), (line, column), "{text}: {error}");
        assert!(error.message.contains(part), "{text}: {error}");
    }
}

#[test]
fn nesting_is_bounded() {
    for deep in [
        format!("SELECT {}1 FROM t", "[".repeat(100_000)),
        format!("INSERT INTO t (a) VALUES ({}", "(".repeat(100_000)),
        format!("INSERT INTO t (a) VALUES ({}", "{".repeat(100_000)),
        format!("CREATE TABLE t (a {}", "frozen<".repeat(100_000)),
        format!("SELECT {} FROM t", "f(".repeat(100_000)),
        format!("UPDATE t SET a = 1{} WHERE k = 1", " + 1".repeat(100_000)),
        format!("SELECT a{} FROM t", ".b".repeat(100_000)),
        format!("SELECT * FROM t WHERE {}", "(a[".repeat(100_000)),
    ] {
        assert!(parse(&deep).is_err());
    }
}

/// Counting lines for each guess that proves wrong took minutes.
#[test]
fn a_long_text_is_read_in_one_go() {
    let nulls = "(null),".repeat(500_000);
    let insert = format!("INSERT INTO t (a) VALUES ([{nulls}(null)])");
    assert!(parse(&insert).is_ok());
    let columns = "a vector<float, 2>, ".repeat(200_000);
    assert!(parse(&format!("CREATE TABLE t ({columns} k int PRIMARY KEY)")).is_ok());
    let relations = vec!["a = 1"; 20_000].join(" AND ");
    assert!(parse(&format!("SELECT * FROM t WHERE {relations}")).is_err());
}

#[test]
fn what_is_not_carried_out_is_named() {
    for text in [
        "CREATE MATERIALIZED VIEW v AS SELECT * FROM t",
        "CREATE OR REPLACE FUNCTION f(a int) RETURNS int",
        "CREATE TRIGGER g ON t USING 'x'",
        "GRANT EXECUTE ON ALL FUNCTIONS TO r",
        "LIST ALL PERMISSIONS ON ALL MBEANS",
    ] {
        let parsed = parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
        assert!(matches!(parsed.statement, Statement::Refused(_)), "{text}");
    }
}

mod properties {
    use proptest::prelude::*;

    use crate::cql::types::CqlType;
    use crate::cql::{number, order, value};

    fn native() -> impl Strategy<Value = CqlType> {
        prop::sample::select(vec![
            CqlType::Ascii,
            CqlType::Bigint,
            CqlType::Blob,
            CqlType::Boolean,
            CqlType::Date,
            CqlType::Decimal,
            CqlType::Double,
            CqlType::Float,
            CqlType::Inet,
            CqlType::Int,
            CqlType::Smallint,
            CqlType::Text,
            CqlType::Time,
            CqlType::Timestamp,
            CqlType::Timeuuid,
            CqlType::Tinyint,
            CqlType::Uuid,
            CqlType::Varint,
        ])
    }

    fn kind() -> impl Strategy<Value = CqlType> {
        native().prop_recursive(2, 6, 3, |inner| {
            prop_oneof![
                inner
                    .clone()
                    .prop_map(|kind| CqlType::Frozen(Box::new(CqlType::List(Box::new(kind))))),
                (inner.clone(), inner.clone()).prop_map(|(k, v)| {
                    CqlType::Frozen(Box::new(CqlType::Map(Box::new(k), Box::new(v))))
                }),
                prop::collection::vec(inner.clone(), 1..3).prop_map(CqlType::Tuple),
                inner.prop_map(|kind| CqlType::Vector(Box::new(kind), 2)),
            ]
        })
    }

    fn sized(len: usize) -> BoxedStrategy<Vec<u8>> {
        prop_oneof![
            3 => prop::collection::vec(any::<u8>(), len),
            1 => prop::collection::vec(prop::sample::select(vec![0u8, 1, 0x7F, 0x80, 0xFF]), len),
        ]
        .boxed()
    }

    fn bytes_of(kind: &CqlType) -> BoxedStrategy<Vec<u8>> {
        match kind.thawed() {
            CqlType::Ascii | CqlType::Text => {
                "[a-z\\x00]{0,3}".prop_map(String::into_bytes).boxed()
            }
            CqlType::Blob => {
                prop::collection::vec(prop::sample::select(vec![0u8, 1, 255]), 0..4).boxed()
            }
            CqlType::Boolean => any::<bool>().prop_map(|b| vec![u8::from(b)]).boxed(),
            CqlType::Inet => prop_oneof![sized(4), sized(16)].boxed(),
            CqlType::Time => (0..value::DAY_NANOS).prop_map(|n| n.to_be_bytes().to_vec()).boxed(),
            CqlType::Timeuuid => sized(16)
                .prop_map(|mut uuid| {
                    uuid[6] = uuid[6] & 0x0F | 0x10;
                    uuid
                })
                .boxed(),
            CqlType::Varint => any::<i128>()
                .prop_flat_map(|n| (0u32..127).prop_map(move |shift| number::varint_of(n >> shift)))
                .boxed(),
            CqlType::Decimal => (-50i32..50, any::<i64>(), 0u32..63)
                .prop_map(|(scale, n, shift)| {
                    let mut out = scale.to_be_bytes().to_vec();
                    out.extend(number::varint_of(i128::from(n >> shift)));
                    out
                })
                .boxed(),
            CqlType::List(inner) => prop::collection::vec(bytes_of(inner), 0..3)
                .prop_map(|items| value::collection(&items, 1))
                .boxed(),
            CqlType::Map(key, item) => prop::collection::vec((bytes_of(key), bytes_of(item)), 0..3)
                .prop_map(|pairs| {
                    let flat: Vec<_> = pairs.into_iter().flat_map(|(k, v)| [k, v]).collect();
                    value::collection(&flat, 2)
                })
                .boxed(),
            CqlType::Tuple(parts) => {
                let parts: Vec<_> =
                    parts.iter().map(|part| prop::option::of(bytes_of(part))).collect();
                parts
                    .prop_map(|values| {
                        let mut out = Vec::new();
                        values.iter().for_each(|v| value::put_field(&mut out, v.as_deref()));
                        out
                    })
                    .boxed()
            }
            CqlType::Vector(inner, len) => {
                let inner = (**inner).clone();
                prop::collection::vec(bytes_of(&inner), usize::from(*len))
                    .prop_map(move |items| order::vector_bytes(&inner, &items))
                    .boxed()
            }
            other => sized(value::fixed_size(other).expect("a fixed size")),
        }
    }

    fn pair() -> impl Strategy<Value = (CqlType, Vec<u8>, Vec<u8>)> {
        kind().prop_flat_map(|kind| {
            let (a, b) = (bytes_of(&kind), bytes_of(&kind));
            (Just(kind), a, b)
        })
    }

    fn key(kind: &CqlType, descending: bool, bytes: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        order::put_component(&mut out, kind, descending, bytes);
        out
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        /// The law that clustering rests on.
        #[test]
        fn the_order_of_keys_is_the_order_of_values((kind, a, b) in pair(), descending: bool) {
            prop_assert_eq!(value::validate(&kind, &a), Ok(()));
            let values = value::compare(&kind, &a, &b);
            let wanted = if descending { values.reverse() } else { values };
            let (x, y) = (key(&kind, descending, &a), key(&kind, descending, &b));
            prop_assert_eq!(x.cmp(&y), wanted, "{:?} {:02x?} {:02x?}", kind, a, b);
            if x != y {
                prop_assert!(!x.starts_with(&y) && !y.starts_with(&x));
            }
        }

        #[test]
        fn keys_read_back_as_equal_values((kind, a, b) in pair(), descending: bool) {
            let mut bytes = key(&kind, descending, &a);
            bytes.extend(key(&kind, !descending, &b));
            let read = order::read_components(&[(&kind, descending), (&kind, !descending)], &bytes);
            let read = read.expect("both");
            prop_assert_eq!(value::compare(&kind, &read[0], &a), std::cmp::Ordering::Equal);
            prop_assert_eq!(value::compare(&kind, &read[1], &b), std::cmp::Ordering::Equal);
            if !format!("{kind}").contains("decimal") && !format!("{kind}").contains("tuple") {
                prop_assert_eq!(&read[0], &a);
            }
        }

        /// A type gets a field, and what was written before is still equal to itself.
        #[test]
        fn a_value_keeps_its_key_when_its_type_gets_a_field(
            (kind, a, _) in pair(),
            more in kind(),
            descending: bool,
        ) {
            let mut bytes = Vec::new();
            value::put_field(&mut bytes, Some(&a));
            let (old, new) = (vec![kind.clone()], vec![kind, more]);
            let (old, new) = (CqlType::Tuple(old), CqlType::Tuple(new));
            let before = key(&old, descending, &bytes);
            prop_assert_eq!(&before, &key(&new, descending, &bytes));
            value::put_field(&mut bytes, None);
            prop_assert_eq!(&before, &key(&new, descending, &bytes));
        }

        #[test]
        fn any_bytes_at_all_are_judged_without_a_panic(kind in kind(), bytes: Vec<u8>) {
            if value::validate(&kind, &bytes).is_ok() {
                let _ = value::text(&kind, &bytes);
                let _ = value::compare(&kind, &bytes, &bytes);
                let key = key(&kind, false, &bytes);
                prop_assert!(order::read_components(&[(&kind, false)], &key).is_some());
            }
            let _ = order::read_components(&[(&kind, false)], &bytes);
        }

        #[test]
        fn any_text_at_all_is_parsed_without_a_panic(text: String, words in "([a-z?:(){}\\[\\]<>,.;'\"$0-9=+-]|select |from |where |insert |into |values |create |table |set |map<| and |update ){0,40}") {
            let _ = crate::cql::parse(&text);
            if let Ok(parsed) = crate::cql::parse(&words) {
                let printed = parsed.statement.to_string();
                let again = crate::cql::parse(&printed).expect("what is printed is CQL");
                prop_assert_eq!(again.statement, parsed.statement);
            }
        }

        #[test]
        fn vints_read_back(value: u64, shift in 0u32..64) {
            let mut out = Vec::new();
            value::put_vint(&mut out, value >> shift);
            let mut cursor = value::Cursor::new(&out);
            prop_assert_eq!(value::read_vint(&mut cursor), Some(value >> shift));
            prop_assert!(cursor.is_empty());
        }
    }
}
