//! What DESCRIBE writes: the statements that make a keyspace, a type or a table again, in
//! Cassandra 4.1's form, as tools read them. Run on an empty cluster, they make the same schema,
//! which is then described by the same text.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::cql::index::Index;
use crate::cql::options;
use crate::cql::schema::{Column, Role, Schema};
use crate::cql::types::{CqlType, UdtType, quote};
use crate::ring::Replication;

/// `CREATE KEYSPACE …;`
#[must_use]
pub fn keyspace(name: &str, replication: &Replication, durable_writes: bool) -> String {
    let factors: Vec<(&str, String)> = match replication {
        Replication::Simple { factor } => vec![("replication_factor", factor.to_string())],
        Replication::NetworkTopology { factors } => {
            factors.iter().map(|(name, factor)| (name.as_str(), factor.to_string())).collect()
        }
    };
    let class = match replication {
        Replication::Simple { .. } => "SimpleStrategy",
        Replication::NetworkTopology { .. } => "NetworkTopologyStrategy",
    };
    let mut pairs = vec![("class", class)];
    pairs.extend(factors.iter().map(|(name, factor)| (*name, factor.as_str())));
    create_keyspace(name, &pairs, durable_writes)
}

/// The same for a keyspace of the system, which every node has for itself.
#[must_use]
pub fn local_keyspace(name: &str) -> String {
    create_keyspace(name, &[("class", "LocalStrategy")], true)
}

fn create_keyspace(name: &str, replication: &[(&str, &str)], durable_writes: bool) -> String {
    format!(
        "CREATE KEYSPACE {} WITH replication = {}  AND durable_writes = {durable_writes};",
        quote(name),
        options::map(replication)
    )
}

/// `CREATE TYPE …;`
#[must_use]
pub fn user_type(udt: &UdtType) -> String {
    let fields: Vec<String> =
        udt.fields.iter().map(|(name, kind)| format!("    {} {kind}", quote(name))).collect();
    format!(
        "CREATE TYPE {}.{} (\n{}\n);",
        quote(&udt.keyspace),
        quote(&udt.name),
        fields.join(",\n")
    )
}

/// Types so that each one stands behind those that it is made of; else by name.
#[must_use]
pub fn in_order(types: &BTreeMap<String, Arc<UdtType>>) -> Vec<&Arc<UdtType>> {
    let mut out: Vec<&Arc<UdtType>> = Vec::with_capacity(types.len());
    let mut done: BTreeSet<&str> = BTreeSet::new();
    // A type can be made only of older ones, so each round finds at least one.
    while out.len() < types.len() {
        let before = out.len();
        for (name, udt) in types {
            let others = || types.keys().filter(|other| *other != name);
            let waits = |other: &&String| {
                !done.contains(other.as_str())
                    && udt.fields.iter().any(|(_, kind)| kind.mentions(&udt.keyspace, other))
            };
            if !done.contains(name.as_str()) && !others().any(|other| waits(&other)) {
                out.push(udt);
                done.insert(name);
            }
        }
        if out.len() == before {
            break;
        }
    }
    out
}

/// `CREATE TABLE …;`, and its indexes after it.
#[must_use]
pub fn table(keyspace: &str, name: &str, schema: &Schema) -> String {
    let partition = schema.partition_key();
    let clustering = schema.clustering_key();
    let lone = partition.len() == 1 && clustering.is_empty();
    let mut lines: Vec<String> = Vec::new();
    for column in columns(schema) {
        let mark = match column.role {
            Role::Static => " static",
            Role::Partition(_) if lone => " PRIMARY KEY",
            _ => "",
        };
        lines.push(format!("    {} {}{mark}", quote(&column.name), column.kind));
    }
    if !lone {
        lines.push(format!("    {}", primary_key(partition, clustering)));
    }
    let mut with = Vec::new();
    if !clustering.is_empty() {
        let order = clustering.iter().map(|column| {
            let descending = matches!(column.role, Role::Clustering { descending: true, .. });
            format!("{} {}", quote(&column.name), if descending { "DESC" } else { "ASC" })
        });
        with.push(format!("CLUSTERING ORDER BY ({})", order.collect::<Vec<_>>().join(", ")));
    }
    with.extend(options::all(schema));
    let mut out = format!(
        "CREATE TABLE {}.{} (\n{}\n) WITH {};",
        quote(keyspace),
        quote(name),
        lines.join(",\n"),
        with.join("\n    AND ")
    );
    let mut indexes: Vec<&Index> = schema.indexes().iter().collect();
    indexes.sort_by(|a, b| a.name.cmp(&b.name));
    for own in indexes {
        out.push_str("\n\n");
        out.push_str(&index(keyspace, name, schema, own));
    }
    out
}

/// `CREATE INDEX …;`
#[must_use]
pub fn index(keyspace: &str, table: &str, schema: &Schema, index: &Index) -> String {
    let (custom, using) = match &index.class {
        Some(class) => ("CUSTOM ", format!(" USING '{}'", class.replace('\'', "''"))),
        None => ("", String::new()),
    };
    format!(
        "CREATE {custom}INDEX {} ON {}.{} ({}){using};",
        quote(&index.name),
        quote(keyspace),
        quote(table),
        index.target(schema)
    )
}

/// Keys first; of static and of other columns those of one cell before those of many.
fn columns(schema: &Schema) -> Vec<&Column> {
    let mut out: Vec<&Column> = schema.columns().iter().collect();
    let class = |column: &Column| {
        let many = column.kind.is_multicell() && !matches!(column.kind, CqlType::Udt(_));
        match column.role {
            Role::Partition(_) => 0,
            Role::Clustering { .. } => 1,
            Role::Static => 2 + u8::from(many),
            Role::Regular => 4 + u8::from(many),
        }
    };
    // Stable: within a class they stand in the schema's order.
    out.sort_by_key(|column| class(column));
    out
}

fn primary_key(partition: &[Column], clustering: &[Column]) -> String {
    let names = |columns: &[Column]| {
        columns.iter().map(|column| quote(&column.name)).collect::<Vec<_>>().join(", ")
    };
    let first = match partition {
        [one] => quote(&one.name),
        several => format!("({})", names(several)),
    };
    if clustering.is_empty() {
        format!("PRIMARY KEY ({first})")
    } else {
        format!("PRIMARY KEY ({first}, {})", names(clustering))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cql;
    use crate::cql::ast::Statement;

    fn shop() -> Schema {
        let columns = vec![
            ("a".to_owned(), CqlType::Int, Role::Partition(0)),
            ("Select".to_owned(), CqlType::Text, Role::Partition(1)),
            ("c".to_owned(), CqlType::Timeuuid, Role::Clustering { at: 0, descending: true }),
            ("l".to_owned(), CqlType::List(Box::new(CqlType::Int)), Role::Regular),
            ("v".to_owned(), CqlType::Text, Role::Regular),
            ("s".to_owned(), CqlType::Double, Role::Static),
        ];
        Schema::new(columns, [7; 16])
    }

    #[test]
    fn a_table_has_its_key_order_options_and_quotes() {
        let mut schema = shop();
        schema.options.insert("comment".to_owned(), "it's".to_owned());
        schema.options.insert("gc_grace_seconds".to_owned(), "10".to_owned());
        schema.options.insert("cdc".to_owned(), "no; DROP".to_owned());
        schema.default_ttl_s = 60;
        let text = table("shop", "T", &schema);
        let head = "CREATE TABLE shop.\"T\" (\n    a int,\n    \"Select\" text,\n    c timeuuid,\n    \
                    s double static,\n    v text,\n    l list<int>,\n    \
                    PRIMARY KEY ((a, \"Select\"), c)\n) WITH CLUSTERING ORDER BY (c DESC)\n    \
                    AND additional_write_policy = '99p'\n    AND bloom_filter_fp_chance = 0.01\n    \
                    AND caching = {'keys': 'ALL', 'rows_per_partition': 'NONE'}\n    \
                    AND cdc = false\n    AND comment = 'it''s'\n";
        assert!(text.starts_with(head), "{text}");
        assert!(text.contains("\n    AND default_time_to_live = 60\n"), "{text}");
        assert!(text.contains("\n    AND gc_grace_seconds = 10\n"), "{text}");
        assert!(text.ends_with("    AND speculative_retry = '99p';"), "{text}");
        let parsed = cql::parse(&text).expect("CQL");
        assert!(matches!(parsed.statement, Statement::CreateTable(_)), "{text}");
    }

    #[test]
    fn a_lone_key_stands_at_its_column() {
        let schema = Schema::new(vec![("k".to_owned(), CqlType::Int, Role::Partition(0))], [0; 16]);
        let text = table("s", "t", &schema);
        assert!(
            text.starts_with("CREATE TABLE s.t (\n    k int PRIMARY KEY\n) WITH add"),
            "{text}"
        );
    }

    #[test]
    fn types_come_after_those_that_they_are_made_of() {
        let udt = |name: &str, fields: Vec<(String, CqlType)>| {
            Arc::new(UdtType { keyspace: "s".to_owned(), name: name.to_owned(), fields })
        };
        let z = udt("z", vec![("Zip".to_owned(), CqlType::Int)]);
        let inner = CqlType::List(Box::new(CqlType::Frozen(Box::new(CqlType::Udt(z.clone())))));
        let a = udt("a", vec![("zs".to_owned(), CqlType::Frozen(Box::new(inner)))]);
        let types = BTreeMap::from([("a".to_owned(), a), ("z".to_owned(), z)]);
        let names: Vec<&str> = in_order(&types).iter().map(|udt| udt.name.as_str()).collect();
        assert_eq!(names, ["z", "a"]);
        assert_eq!(user_type(&types["z"]), "CREATE TYPE s.z (\n    \"Zip\" int\n);");
        assert_eq!(user_type(&types["a"]), "CREATE TYPE s.a (\n    zs frozen<list<frozen<z>>>\n);");
    }

    #[test]
    fn keyspaces_have_the_short_names_of_their_strategies() {
        let simple = Replication::Simple { factor: 3 };
        assert_eq!(
            keyspace("k", &simple, true),
            "CREATE KEYSPACE k WITH replication = {'class': 'SimpleStrategy', \
             'replication_factor': '3'}  AND durable_writes = true;"
        );
        let factors = BTreeMap::from([("dc1".to_owned(), 2)]);
        assert_eq!(
            keyspace("K", &Replication::NetworkTopology { factors }, false),
            "CREATE KEYSPACE \"K\" WITH replication = {'class': 'NetworkTopologyStrategy', \
             'dc1': '2'}  AND durable_writes = false;"
        );
        assert!(local_keyspace("system").contains("{'class': 'LocalStrategy'}"));
    }
}
