//! The tables of the system, as drivers read them: answered by this node alone, from what the
//! cluster has agreed on, at whatever level they are asked.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use xxhash_rust::xxh3::xxh3_128;

use crate::cql;
use crate::cql::ast::Statement;
use crate::cql::index::Index;
use crate::cql::options;
use crate::cql::schema::{Column, Role, Schema};
use crate::cql::types::CqlType;
use crate::cql::value;
use crate::meta::{ClusterState, SYSTEM_KEYSPACE};
use crate::ring::Replication;
use crate::server::Principal;
use crate::server::cql::buckets;
use crate::server::cql::error::{CqlError, UNAUTHORIZED};
use crate::server::cql::roles;
use crate::server::cql::store::{PeerView, Store};
use crate::types::Epoch;

/// The release of Cassandra that drivers take this server for: it decides which tables they read.
const RELEASE: &str = "4.1.7";
const CQL_VERSION: &str = "3.4.6";

/// The keyspaces of the system.
pub(super) const KEYSPACES: &[&str] = &[
    "system",
    "system_auth",
    "system_distributed",
    "system_schema",
    "system_traces",
    "system_virtual_schema",
];

/// Every table of the system.
const TABLES: &[&str] = &[
    "CREATE TABLE system.local (key text PRIMARY KEY, bootstrapped text, broadcast_address inet, \
     broadcast_port int, cluster_name text, cql_version text, data_center text, \
     gossip_generation int, host_id uuid, listen_address inet, listen_port int, \
     native_protocol_version text, partitioner text, rack text, release_version text, \
     rpc_address inet, rpc_port int, schema_version uuid, tokens set<text>, \
     truncated_at map<uuid, blob>)",
    "CREATE TABLE system.peers (peer inet PRIMARY KEY, data_center text, host_id uuid, \
     preferred_ip inet, rack text, release_version text, rpc_address inet, schema_version uuid, \
     tokens set<text>)",
    "CREATE TABLE system.peers_v2 (peer inet, peer_port int, data_center text, host_id uuid, \
     native_address inet, native_port int, preferred_ip inet, preferred_port int, rack text, \
     release_version text, schema_version uuid, tokens set<text>, PRIMARY KEY (peer, peer_port))",
    "CREATE TABLE system.size_estimates (keyspace_name text, table_name text, range_start text, \
     range_end text, mean_partition_size bigint, partitions_count bigint, \
     PRIMARY KEY (keyspace_name, table_name, range_start, range_end))",
    "CREATE TABLE system.prepared_statements (prepared_id blob PRIMARY KEY, logged_keyspace text, \
     query_string text)",
    "CREATE TABLE system_auth.roles (role text PRIMARY KEY, can_login boolean, \
     is_superuser boolean, member_of set<text>, salted_hash text)",
    "CREATE TABLE system_auth.role_members (role text, member text, PRIMARY KEY (role, member))",
    "CREATE TABLE system_auth.role_permissions (role text, resource text, permissions set<text>, \
     PRIMARY KEY (role, resource))",
    "CREATE TABLE system_traces.sessions (session_id uuid PRIMARY KEY, client inet, command text, \
     coordinator inet, coordinator_port int, duration int, parameters map<text, text>, \
     request text, started_at timestamp)",
    "CREATE TABLE system_traces.events (session_id uuid, event_id timeuuid, activity text, \
     source inet, source_elapsed int, source_port int, thread text, \
     PRIMARY KEY (session_id, event_id))",
    "CREATE TABLE system_schema.keyspaces (keyspace_name text PRIMARY KEY, durable_writes boolean, \
     replication frozen<map<text, text>>)",
    "CREATE TABLE system_schema.tables (keyspace_name text, table_name text, \
     additional_write_policy text, bloom_filter_fp_chance double, caching frozen<map<text, text>>, \
     cdc boolean, comment text, compaction frozen<map<text, text>>, \
     compression frozen<map<text, text>>, crc_check_chance double, \
     dclocal_read_repair_chance double, default_time_to_live int, \
     extensions frozen<map<text, blob>>, flags frozen<set<text>>, gc_grace_seconds int, id uuid, \
     max_index_interval int, memtable_flush_period_in_ms int, min_index_interval int, \
     read_repair text, read_repair_chance double, speculative_retry text, \
     PRIMARY KEY (keyspace_name, table_name))",
    "CREATE TABLE system_schema.columns (keyspace_name text, table_name text, column_name text, \
     clustering_order text, column_name_bytes blob, kind text, position int, type text, \
     PRIMARY KEY (keyspace_name, table_name, column_name))",
    "CREATE TABLE system_schema.dropped_columns (keyspace_name text, table_name text, \
     column_name text, dropped_time timestamp, kind text, type text, \
     PRIMARY KEY (keyspace_name, table_name, column_name))",
    "CREATE TABLE system_schema.types (keyspace_name text, type_name text, \
     field_names frozen<list<text>>, field_types frozen<list<text>>, \
     PRIMARY KEY (keyspace_name, type_name))",
    "CREATE TABLE system_schema.indexes (keyspace_name text, table_name text, index_name text, \
     kind text, options frozen<map<text, text>>, \
     PRIMARY KEY (keyspace_name, table_name, index_name))",
    "CREATE TABLE system_schema.triggers (keyspace_name text, table_name text, trigger_name text, \
     options frozen<map<text, text>>, PRIMARY KEY (keyspace_name, table_name, trigger_name))",
    "CREATE TABLE system_schema.views (keyspace_name text, view_name text, base_table_id uuid, \
     base_table_name text, include_all_columns boolean, where_clause text, \
     additional_write_policy text, bloom_filter_fp_chance double, caching frozen<map<text, text>>, \
     cdc boolean, comment text, compaction frozen<map<text, text>>, \
     compression frozen<map<text, text>>, crc_check_chance double, \
     dclocal_read_repair_chance double, default_time_to_live int, \
     extensions frozen<map<text, blob>>, gc_grace_seconds int, id uuid, max_index_interval int, \
     memtable_flush_period_in_ms int, min_index_interval int, read_repair text, \
     read_repair_chance double, speculative_retry text, PRIMARY KEY (keyspace_name, view_name))",
    "CREATE TABLE system_schema.functions (keyspace_name text, function_name text, \
     argument_types frozen<list<text>>, argument_names frozen<list<text>>, body text, \
     called_on_null_input boolean, language text, return_type text, \
     PRIMARY KEY (keyspace_name, function_name, argument_types))",
    "CREATE TABLE system_schema.aggregates (keyspace_name text, aggregate_name text, \
     argument_types frozen<list<text>>, final_func text, initcond text, return_type text, \
     state_func text, state_type text, \
     PRIMARY KEY (keyspace_name, aggregate_name, argument_types))",
    "CREATE TABLE system_virtual_schema.keyspaces (keyspace_name text PRIMARY KEY)",
    "CREATE TABLE system_virtual_schema.tables (keyspace_name text, table_name text, comment text, \
     PRIMARY KEY (keyspace_name, table_name))",
    "CREATE TABLE system_virtual_schema.columns (keyspace_name text, table_name text, \
     column_name text, clustering_order text, column_name_bytes blob, kind text, position int, \
     type text, PRIMARY KEY (keyspace_name, table_name, column_name))",
];

/// True of a keyspace of the system.
pub(super) fn is_keyspace(name: &str) -> bool {
    KEYSPACES.contains(&name)
}

/// True of a keyspace that no client makes or drops: the system's, and the one in which the nodes
/// keep locks and batches. With that, the numbers of all grants would be gone.
pub(super) fn is_reserved(name: &str) -> bool {
    is_keyspace(name) || name == SYSTEM_KEYSPACE
}

/// Why a table of the system is not written to.
pub(super) fn read_only(keyspace: &str) -> CqlError {
    CqlError::new(UNAUTHORIZED, format!("{keyspace} keyspace is not user-modifiable."))
}

fn uuid_of(text: &str) -> [u8; 16] {
    let mut uuid = xxh3_128(text.as_bytes()).to_be_bytes();
    uuid[6] = uuid[6] & 0x0F | 0x40;
    uuid[8] = uuid[8] & 0x3F | 0x80;
    uuid
}

/// Keyspace, name and columns of a table that is written down above.
fn build(ddl: &str) -> Option<(String, String, Schema)> {
    let Ok(parsed) = cql::parse(ddl) else { return None };
    let Statement::CreateTable(create) = parsed.statement else { return None };
    let mut columns = Vec::new();
    for def in &create.columns {
        let kind = def.kind.resolve(&|_, _| None).ok()?;
        let at = |key: &[String]| {
            key.iter().position(|name| *name == def.name).and_then(|at| u16::try_from(at).ok())
        };
        let role = match (at(&create.partition_key), at(&create.clustering)) {
            (Some(at), _) => Role::Partition(at),
            (None, Some(at)) => Role::Clustering { at, descending: false },
            (None, None) => Role::Regular,
        };
        columns.push((def.name.clone(), kind, role));
    }
    let keyspace = create.table.keyspace?;
    let uuid = uuid_of(&format!("{keyspace}.{}", create.table.name));
    Some((keyspace, create.table.name, Schema::new(columns, uuid)))
}

/// Keyspace, name and columns of every table of the system, in the order in which they are written
/// down: read once.
fn built() -> &'static [(String, String, Arc<Schema>)] {
    static BUILT: OnceLock<Vec<(String, String, Arc<Schema>)>> = OnceLock::new();
    BUILT.get_or_init(|| {
        let all = TABLES.iter().filter_map(|ddl| build(ddl));
        all.map(|(keyspace, name, schema)| (keyspace, name, Arc::new(schema))).collect()
    })
}

/// The columns of a table of the system.
pub(super) fn schema(keyspace: &str, table: &str) -> Option<Arc<Schema>> {
    if !is_keyspace(keyspace) {
        return None;
    }
    let found = built().iter().find(|(own, name, _)| own == keyspace && name == table);
    found.map(|(.., schema)| schema.clone())
}

/// A row by the names of its columns.
pub(super) type Named = BTreeMap<&'static str, Bytes>;

pub(super) fn text(text: impl AsRef<str>) -> Bytes {
    Bytes::copy_from_slice(text.as_ref().as_bytes())
}

fn int(n: i32) -> Bytes {
    Bytes::copy_from_slice(&n.to_be_bytes())
}

pub(super) fn texts<T: AsRef<str>>(items: &[T]) -> Bytes {
    let items: Vec<&[u8]> = items.iter().map(|item| item.as_ref().as_bytes()).collect();
    value::collection(&items, 1).into()
}

pub(super) fn map<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> Bytes {
    let flat: Vec<&[u8]> =
        pairs.into_iter().flat_map(|(key, value)| [key.as_bytes(), value.as_bytes()]).collect();
    value::collection(&flat, 2).into()
}

pub(super) fn boolean(value: bool) -> Bytes {
    vec![u8::from(value)].into()
}

fn double(value: f64) -> Bytes {
    Bytes::copy_from_slice(&value.to_be_bytes())
}

/// Who looks at a table of the system, by way of which node.
#[derive(Clone, Copy)]
pub(super) struct Viewer<'a> {
    pub(super) store: &'a dyn Store,
    pub(super) principal: &'a Principal,
}

/// The rows of a table of the system, in its order, by the places of its columns.
pub(super) fn rows(
    Viewer { store, principal }: Viewer<'_>,
    keyspace: &str,
    table: &str,
    schema: &Schema,
) -> Vec<Vec<Option<Bytes>>> {
    let state = store.state();
    let named: Vec<Named> = match (keyspace, table) {
        ("system", "local") => {
            store.members().first().map(|me| local(&state, me)).into_iter().collect()
        }
        ("system", "peers") => others(store).iter().map(|peer| old_peer(&state, peer)).collect(),
        ("system", "peers_v2") => others(store).iter().map(|peer| new_peer(&state, peer)).collect(),
        ("system_auth", table) => roles::system_rows(&state, principal, table),
        ("system_schema", "keyspaces") => keyspaces(&state),
        ("system_schema", "tables") => tables(&state),
        ("system_schema", "columns") => columns(&state),
        ("system_schema", "types") => types(&state),
        ("system_schema", "indexes") => indexes(&state),
        _ => Vec::new(),
    };
    let place = |mut row: Named| {
        schema.columns().iter().map(|column| row.remove(column.name.as_str())).collect()
    };
    named.into_iter().map(place).collect()
}

fn others(store: &dyn Store) -> Vec<PeerView> {
    store.members().into_iter().skip(1).collect()
}

fn schema_version(state: &ClusterState, epoch: Epoch) -> Bytes {
    // A node that is behind has another version.
    let known = epoch.min(state.schema_version());
    let text = format!("{:032x} {}", state.cluster_id().unwrap_or(0), known.0);
    Bytes::copy_from_slice(&uuid_of(&text))
}

fn tokens(peer: &PeerView) -> Bytes {
    let mut tokens: Vec<String> = peer.tokens.iter().map(|token| token.0.to_string()).collect();
    tokens.sort();
    texts(&tokens)
}

fn member(state: &ClusterState, peer: &PeerView) -> Named {
    BTreeMap::from([
        ("data_center", text(&peer.datacenter)),
        ("rack", text(&peer.rack)),
        ("host_id", Bytes::copy_from_slice(&peer.id.0.to_be_bytes())),
        ("release_version", text(RELEASE)),
        ("schema_version", schema_version(state, peer.epoch)),
        ("tokens", tokens(peer)),
    ])
}

fn local(state: &ClusterState, me: &PeerView) -> Named {
    let mut row = member(state, &PeerView { epoch: state.epoch(), ..me.clone() });
    let address = Bytes::from(value::inet_bytes(me.address));
    row.extend([
        ("key", text("local")),
        ("bootstrapped", text("COMPLETED")),
        ("broadcast_address", address.clone()),
        ("broadcast_port", int(7000)),
        ("cluster_name", text(state.cluster_name())),
        ("cql_version", text(CQL_VERSION)),
        ("gossip_generation", int(1)),
        ("listen_address", address.clone()),
        ("listen_port", int(7000)),
        ("native_protocol_version", text("5")),
        ("partitioner", text("org.apache.cassandra.dht.Murmur3Partitioner")),
        ("rpc_address", address),
        ("rpc_port", int(i32::from(me.port))),
    ]);
    row
}

fn old_peer(state: &ClusterState, peer: &PeerView) -> Named {
    let mut row = member(state, peer);
    let address = Bytes::from(value::inet_bytes(peer.address));
    row.extend([("peer", address.clone()), ("rpc_address", address)]);
    row
}

fn new_peer(state: &ClusterState, peer: &PeerView) -> Named {
    let mut row = member(state, peer);
    let address = Bytes::from(value::inet_bytes(peer.address));
    row.extend([
        ("peer", address.clone()),
        ("peer_port", int(7000)),
        ("native_address", address),
        ("native_port", int(i32::from(peer.port))),
    ]);
    row
}

fn replication(replication: &Replication) -> Bytes {
    match replication {
        Replication::Simple { factor } => map([
            ("class", "org.apache.cassandra.locator.SimpleStrategy"),
            ("replication_factor", factor.to_string().as_str()),
        ]),
        Replication::NetworkTopology { factors } => {
            let factors: Vec<(&str, String)> =
                factors.iter().map(|(name, factor)| (name.as_str(), factor.to_string())).collect();
            let class = ("class", "org.apache.cassandra.locator.NetworkTopologyStrategy");
            let pairs = factors.iter().map(|(name, factor)| (*name, factor.as_str()));
            map([class].into_iter().chain(pairs))
        }
    }
}

fn keyspaces(state: &ClusterState) -> Vec<Named> {
    let local = map([("class", "org.apache.cassandra.locator.LocalStrategy")]);
    let ours = KEYSPACES.iter().filter(|name| !state.keyspaces().contains_key(**name));
    let system = ours.map(|name| (text(name), local.clone(), true));
    let own = state.keyspaces().values().map(|keyspace| {
        (text(&keyspace.name), replication(&keyspace.replication), keyspace.durable_writes)
    });
    let buckets = buckets::keyspaces(state).into_iter();
    let buckets = buckets.map(|(name, own)| (text(name), replication(own), true));
    system
        .chain(own)
        .chain(buckets)
        .map(|(name, replication, durable)| {
            BTreeMap::from([
                ("keyspace_name", name),
                ("replication", replication),
                ("durable_writes", boolean(durable)),
            ])
        })
        .collect()
}

/// All tables with columns, the system's and the clients': keyspace, name, columns; in order.
pub(super) fn all_tables(state: &ClusterState) -> Vec<(String, String, Arc<Schema>)> {
    let system = built().iter();
    let system = system.filter(|(keyspace, name, _)| state.table_of(keyspace, name).is_none());
    let mut out: Vec<_> = system.cloned().collect();
    for table in state.tables().values() {
        let schema = buckets::schema_of(table);
        out.push((table.name.keyspace.clone(), table.name.table.clone(), schema));
    }
    out.sort_by(|a, b| (&a.0, &a.1).cmp(&(&b.0, &b.1)));
    out
}

fn tables(state: &ClusterState) -> Vec<Named> {
    all_tables(state).iter().map(|(keyspace, name, schema)| table(keyspace, name, schema)).collect()
}

fn table(keyspace: &str, name: &str, schema: &Schema) -> Named {
    let simple = |name: &str| options::simple(schema, name);
    let number = |name: &str| int(simple(name).parse().unwrap_or_default());
    let real = |name: &str| double(simple(name).parse().unwrap_or_default());
    let option = |name: &str| map(options::pairs(schema, name));
    let flags: &[&str] =
        if schema.has_counters() { &["compound", "counter"] } else { &["compound"] };
    BTreeMap::from([
        ("keyspace_name", text(keyspace)),
        ("table_name", text(name)),
        ("additional_write_policy", text(simple("additional_write_policy"))),
        ("bloom_filter_fp_chance", real("bloom_filter_fp_chance")),
        ("caching", option("caching")),
        ("cdc", boolean(simple("cdc") == "true")),
        ("comment", text(simple("comment"))),
        ("compaction", option("compaction")),
        ("compression", option("compression")),
        ("crc_check_chance", real("crc_check_chance")),
        ("dclocal_read_repair_chance", double(0.0)),
        ("default_time_to_live", int(i32::try_from(schema.default_ttl_s).unwrap_or(0))),
        ("extensions", map([])),
        ("flags", texts(flags)),
        ("gc_grace_seconds", number("gc_grace_seconds")),
        ("id", Bytes::copy_from_slice(&schema.uuid)),
        ("max_index_interval", number("max_index_interval")),
        ("memtable_flush_period_in_ms", number("memtable_flush_period_in_ms")),
        ("min_index_interval", number("min_index_interval")),
        ("read_repair", text(simple("read_repair"))),
        ("read_repair_chance", double(0.0)),
        ("speculative_retry", text(simple("speculative_retry"))),
    ])
}

fn columns(state: &ClusterState) -> Vec<Named> {
    let mut out = Vec::new();
    for (keyspace, table, schema) in all_tables(state) {
        let mut columns: Vec<&Column> = schema.columns().iter().collect();
        columns.sort_by(|a, b| a.name.cmp(&b.name));
        out.extend(columns.into_iter().map(|found| column(&keyspace, &table, found)));
    }
    out
}

fn column(keyspace: &str, table: &str, column: &Column) -> Named {
    let (kind, position, order) = match column.role {
        Role::Partition(at) => ("partition_key", i32::from(at), "none"),
        Role::Clustering { at, descending: true } => ("clustering", i32::from(at), "desc"),
        Role::Clustering { at, descending: false } => ("clustering", i32::from(at), "asc"),
        Role::Static => ("static", -1, "none"),
        Role::Regular => ("regular", -1, "none"),
    };
    BTreeMap::from([
        ("keyspace_name", text(keyspace)),
        ("table_name", text(table)),
        ("column_name", text(&column.name)),
        ("clustering_order", text(order)),
        ("column_name_bytes", text(&column.name)),
        ("kind", text(kind)),
        ("position", int(position)),
        ("type", text(column.kind.to_string())),
    ])
}

fn types(state: &ClusterState) -> Vec<Named> {
    let mut out = Vec::new();
    for keyspace in state.keyspaces().values() {
        for udt in keyspace.types.values() {
            let names: Vec<&String> = udt.fields.iter().map(|(name, _)| name).collect();
            let kinds: Vec<String> =
                udt.fields.iter().map(|(_, kind): &(String, CqlType)| kind.to_string()).collect();
            out.push(BTreeMap::from([
                ("keyspace_name", text(&keyspace.name)),
                ("type_name", text(&udt.name)),
                ("field_names", texts(&names)),
                ("field_types", texts(&kinds)),
            ]));
        }
    }
    out
}

fn indexes(state: &ClusterState) -> Vec<Named> {
    let mut out = Vec::new();
    for (keyspace, table, schema) in all_tables(state) {
        let mut indexes: Vec<&Index> = schema.indexes().iter().collect();
        indexes.sort_by(|a, b| a.name.cmp(&b.name));
        for index in indexes {
            let target = index.target(&schema);
            let class = index.class.iter().map(|class| ("class_name", class.as_str()));
            let options = class.chain([("target", target.as_str())]);
            let kind = if index.class.is_some() { "CUSTOM" } else { "COMPOSITES" };
            out.push(BTreeMap::from([
                ("keyspace_name", text(&keyspace)),
                ("table_name", text(&table)),
                ("index_name", text(&index.name)),
                ("kind", text(kind)),
                ("options", map(options)),
            ]));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_table_that_is_written_down_can_be_built_and_found() {
        for ddl in TABLES {
            let (keyspace, name, built) = build(ddl).unwrap_or_else(|| panic!("{ddl}"));
            assert!(is_keyspace(&keyspace), "{ddl}");
            assert_eq!(schema(&keyspace, &name).as_deref(), Some(&built), "{ddl}");
        }
        assert!(schema("system", "scylla_local").is_none());
        assert!(schema("shop", "local").is_none());
    }
}
