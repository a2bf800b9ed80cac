//! DESCRIBE: looked up in what the cluster has agreed on, and answered as rows, as Cassandra does
//! since its version 4.
//!
//! Names come as (keyspace_name, type, name); things themselves with the statement that makes
//! them again ([`crate::cql::describe`]) besides.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;

use crate::cql::ast::{Describe, Name};
use crate::cql::describe as render;
use crate::cql::schema::Schema;
use crate::cql::types::{CqlType, quote};
use crate::cql::value;
use crate::meta::{ClusterState, ConflictMode};
use crate::ring::Replication;
use crate::server::cql::buckets;
use crate::server::cql::ddl::indexes;
use crate::server::cql::error::CqlError;
use crate::server::cql::request::Parameters;
use crate::server::cql::response::{ColumnSpec, Metadata, Rows};
use crate::server::cql::store::Store;
use crate::server::cql::system;

/// A keyspace, a type or a table: which keyspace, what it is, its name, how to make it.
struct Element {
    keyspace: String,
    kind: &'static str,
    name: String,
    statement: String,
}

/// Answers a DESCRIBE. `keyspace`: the one in use.
pub(super) fn run(
    store: &dyn Store,
    keyspace: Option<&str>,
    what: &Describe,
    parameters: &Parameters,
) -> Result<Rows, CqlError> {
    let state = store.state();
    let look = Look { state: &state, keyspace };
    let (columns, rows) = match what {
        Describe::Keyspaces => names(look.keyspaces().map(|name| (name, "keyspace", name))),
        Describe::Tables => {
            let tables = look.all_tables()?;
            names(tables.iter().map(|(keyspace, name, _)| (&**keyspace, "table", &**name)))
        }
        Describe::Types => {
            let types = look.in_use()?.into_iter().flat_map(|keyspace| look.types(keyspace));
            names(types.map(|udt| (&*udt.keyspace, "type", &*udt.name)))
        }
        // There are none: UDFs are refused.
        Describe::Functions | Describe::Aggregates => {
            look.in_use()?;
            names(std::iter::empty())
        }
        Describe::Cluster => cluster(store, &look)?,
        other => elements(look.elements(other)?),
    };
    page(&state, columns, rows, parameters)
}

type Columns = Vec<(&'static str, CqlType)>;
type Row = Vec<Bytes>;

fn text(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

const NAMES: [&str; 3] = ["keyspace_name", "type", "name"];

fn names<'a>(rows: impl Iterator<Item = (&'a str, &'a str, &'a str)>) -> (Columns, Vec<Row>) {
    let columns = NAMES.iter().map(|name| (*name, CqlType::Text)).collect();
    let row = |(keyspace, kind, name)| vec![text(keyspace), text(kind), text(name)];
    (columns, rows.map(row).collect())
}

fn elements(all: Vec<Element>) -> (Columns, Vec<Row>) {
    let columns = NAMES.iter().chain(&["create_statement"]);
    let row = |e: Element| vec![text(&e.keyspace), text(e.kind), text(&e.name), text(&e.statement)];
    (columns.map(|name| (*name, CqlType::Text)).collect(), all.into_iter().map(row).collect())
}

/// What there is, as a client sees it that uses `keyspace`.
struct Look<'a> {
    state: &'a ClusterState,
    keyspace: Option<&'a str>,
}

impl<'a> Look<'a> {
    /// All keyspaces, the system's too, by name.
    fn keyspaces(&self) -> impl Iterator<Item = &'a str> {
        let own = self.state.keyspaces().keys().map(String::as_str);
        let own = own.chain(buckets::keyspaces(self.state).into_keys());
        let mut all: Vec<&str> = system::KEYSPACES.iter().copied().chain(own).collect();
        all.sort_unstable();
        all.dedup();
        all.into_iter()
    }

    fn is_keyspace(&self, name: &str) -> bool {
        self.replication(name).is_some() || system::is_keyspace(name)
    }

    /// How a keyspace of the clients', or of buckets alone, is replicated.
    fn replication(&self, name: &str) -> Option<&'a Replication> {
        let own = self.state.keyspaces().get(name).map(|keyspace| &keyspace.replication);
        own.or_else(|| buckets::keyspaces(self.state).get(name).copied())
    }

    fn check(&self, name: &'a str) -> Result<&'a str, CqlError> {
        if self.is_keyspace(name) {
            return Ok(name);
        }
        Err(CqlError::invalid(format!("'{name}' not found in keyspaces")))
    }

    /// The keyspace in use, or all.
    fn in_use(&self) -> Result<Vec<&'a str>, CqlError> {
        match self.keyspace {
            Some(name) => self.check(name).map(|name| vec![name]),
            None => Ok(self.keyspaces().collect()),
        }
    }

    fn types(&self, keyspace: &str) -> Vec<&'a Arc<crate::cql::types::UdtType>> {
        let found = self.state.keyspaces().get(keyspace);
        found.map(|keyspace| keyspace.types.values().collect()).unwrap_or_default()
    }

    /// Tables of the keyspace in use, or of all.
    fn all_tables(&self) -> Result<Vec<(String, String, Arc<Schema>)>, CqlError> {
        let keyspaces = self.in_use()?;
        let mut all = system::all_tables(self.state);
        all.retain(|(keyspace, ..)| keyspaces.contains(&keyspace.as_str()));
        Ok(all)
    }

    /// The keyspace of `name`.
    fn keyspace_of(&self, name: &'a Name) -> Result<&'a str, CqlError> {
        let given = name.keyspace.as_deref().or(self.keyspace);
        let given = given
            .ok_or_else(|| CqlError::invalid("No keyspace specified and no current keyspace"))?;
        self.check(given)
    }

    fn keyspace(&self, name: &str) -> Element {
        let durable = self.state.keyspaces().get(name).is_none_or(|own| own.durable_writes);
        let statement = match self.replication(name) {
            Some(replication) => render::keyspace(name, replication, durable),
            None => render::local_keyspace(name),
        };
        Element { keyspace: name.to_owned(), kind: "keyspace", name: name.to_owned(), statement }
    }

    fn table(&self, keyspace: &str, name: &str) -> Option<Element> {
        let own = self.state.table_of(keyspace, name).map(|table| buckets::schema_of(table));
        let schema = own.or_else(|| system::schema(keyspace, name))?;
        Some(self.table_element(keyspace, name, &schema))
    }

    fn table_element(&self, keyspace: &str, name: &str, schema: &Schema) -> Element {
        let mut statement = render::table(keyspace, name, schema);
        let table = self.state.table_of(keyspace, name);
        let bucket = table.filter(|table| table.rows.is_none());
        if bucket.is_some_and(|bucket| bucket.settings.conflict != ConflictMode::Siblings) {
            statement = format!(
                "/*\nWarning: {}.{} is a bucket that CQL cannot make: make it over HTTP.\nStructure, \
                 for reference:\n{statement}\n*/",
                quote(keyspace),
                quote(name)
            );
        }
        Element { keyspace: keyspace.to_owned(), kind: "table", name: name.to_owned(), statement }
    }

    fn index(&self, keyspace: &str, name: &str) -> Option<Element> {
        let mut all = indexes::of_keyspace(self.state, keyspace);
        let (table, schema, index) = all.find(|(.., index)| index.name == name)?;
        Some(Element {
            keyspace: keyspace.to_owned(),
            kind: "index",
            name: name.to_owned(),
            statement: render::index(keyspace, &table.name.table, schema, index),
        })
    }

    fn user_type(&self, keyspace: &str, name: &str) -> Option<Element> {
        let udt = self.state.keyspaces().get(keyspace)?.types.get(name)?;
        Some(type_element(udt))
    }

    /// A keyspace with what is in it: types so that each stands behind its parts, then tables.
    fn whole(&self, name: &str, tables: &[(String, String, Arc<Schema>)]) -> Vec<Element> {
        let mut out = vec![self.keyspace(name)];
        if let Some(own) = self.state.keyspaces().get(name) {
            out.extend(render::in_order(&own.types).into_iter().map(|udt| type_element(udt)));
        }
        let own = tables.iter().filter(|(keyspace, ..)| keyspace == name);
        out.extend(own.map(|(keyspace, name, schema)| self.table_element(keyspace, name, schema)));
        out
    }

    fn elements(&self, what: &'a Describe) -> Result<Vec<Element>, CqlError> {
        let missing = |what: &str, name: &str, keyspace: &str| {
            CqlError::invalid(format!("{what} '{name}' not found in {keyspace}"))
        };
        // Of these there are none, whatever the name.
        let none = |what: &str, name: &'a Name| -> Result<Vec<Element>, CqlError> {
            let keyspace = self.keyspace_of(name)?;
            Err(missing(what, &name.name, &format!("keyspace '{keyspace}'")))
        };
        match what {
            Describe::Schema { full } => {
                let tables = system::all_tables(self.state);
                let wanted = self.keyspaces().filter(|name| *full || !system::is_reserved(name));
                Ok(wanted.flat_map(|name| self.whole(name, &tables)).collect())
            }
            Describe::Keyspace(name) | Describe::OnlyKeyspace(name) => {
                let name = name.as_deref().or(self.keyspace).ok_or_else(|| {
                    CqlError::invalid("No keyspace specified and no current keyspace")
                })?;
                self.check(name)?;
                if matches!(what, Describe::OnlyKeyspace(_)) {
                    return Ok(vec![self.keyspace(name)]);
                }
                Ok(self.whole(name, &system::all_tables(self.state)))
            }
            Describe::Table(name) => {
                let keyspace = self.keyspace_of(name)?;
                let found = self.table(keyspace, &name.name);
                let place = format!("keyspace '{keyspace}'");
                Ok(vec![found.ok_or_else(|| missing("Table", &name.name, &place))?])
            }
            Describe::Type(name) => {
                let keyspace = self.keyspace_of(name)?;
                let found = self.user_type(keyspace, &name.name);
                let place = format!("'{keyspace}'");
                Ok(vec![found.ok_or_else(|| missing("User defined type", &name.name, &place))?])
            }
            Describe::Any(name) => self.any(name),
            Describe::Index(name) => {
                let keyspace = self.keyspace_of(name)?;
                let found = self.index(keyspace, &name.name);
                let place = format!("keyspace '{keyspace}'");
                Ok(vec![found.ok_or_else(|| missing("Index", &name.name, &place))?])
            }
            Describe::View(name) => none("Materialized view", name),
            Describe::Function(name) => none("User defined function", name),
            Describe::Aggregate(name) => none("User defined aggregate", name),
            Describe::Keyspaces
            | Describe::Tables
            | Describe::Types
            | Describe::Functions
            | Describe::Aggregates
            | Describe::Cluster => Ok(Vec::new()),
        }
    }

    /// A keyspace, or else a table or type, called `name`.
    fn any(&self, name: &'a Name) -> Result<Vec<Element>, CqlError> {
        if name.keyspace.is_none() && self.is_keyspace(&name.name) {
            return Ok(self.whole(&name.name, &system::all_tables(self.state)));
        }
        let Some(keyspace) = name.keyspace.as_deref().or(self.keyspace) else {
            return Err(CqlError::invalid(format!("'{}' not found in keyspaces", name.name)));
        };
        let keyspace = self.check(keyspace)?;
        let found = self.table(keyspace, &name.name);
        let found = found.or_else(|| self.user_type(keyspace, &name.name));
        let found = found.or_else(|| self.index(keyspace, &name.name));
        found.map(|element| vec![element]).ok_or_else(|| {
            CqlError::invalid(format!("'{}' not found in keyspace '{keyspace}'", name.name))
        })
    }
}

fn type_element(udt: &crate::cql::types::UdtType) -> Element {
    Element {
        keyspace: udt.keyspace.clone(),
        kind: "type",
        name: udt.name.clone(),
        statement: render::user_type(udt),
    }
}

/// The cluster's name and, if a keyspace is in use, the replicas of each range by its end.
fn cluster(store: &dyn Store, look: &Look<'_>) -> Result<(Columns, Vec<Row>), CqlError> {
    let state = look.state;
    let mut columns: Columns =
        ["cluster", "partitioner", "snitch"].map(|name| (name, CqlType::Text)).to_vec();
    // Placement goes by datacentre and rack, as with this snitch.
    let mut row = vec![
        text(state.cluster_name()),
        text("Murmur3Partitioner"),
        text("GossipingPropertyFileSnitch"),
    ];
    let Some(keyspace) = look.keyspace else { return Ok((columns, vec![row])) };
    look.check(keyspace)?;
    let Some(replication) = look.replication(keyspace) else { return Ok((columns, vec![row])) };
    let hosts: BTreeMap<_, _> = store
        .members()
        .into_iter()
        .map(|member| (member.id, format!("{0}/{0}:7000", member.address)))
        .collect();
    let ring = state.ring();
    let mut ranges = Vec::new();
    for partition in ring.map().partitions() {
        let replicas = ring.replicas(replication, partition);
        let names: Vec<&[u8]> =
            replicas.read.iter().filter_map(|node| hosts.get(node).map(String::as_bytes)).collect();
        let token = ring.map().end_token(partition).0.to_string();
        ranges.push((token.into_bytes(), value::collection(&names, 1)));
    }
    // A map's pairs stand in the order of its keys.
    ranges.sort();
    let flat: Vec<&[u8]> =
        ranges.iter().flat_map(|(token, hosts)| [&token[..], &hosts[..]]).collect();
    row.push(value::collection(&flat, 2).into());
    let list = CqlType::Frozen(Box::new(CqlType::List(Box::new(CqlType::Text))));
    columns.push(("range_ownership", CqlType::Map(Box::new(CqlType::Text), Box::new(list))));
    Ok((columns, vec![row]))
}

/// The page that is asked for. Its state is how many rows there were before, of which schema: a
/// schema that has changed meanwhile is described anew.
fn page(
    state: &ClusterState,
    columns: Columns,
    rows: Vec<Row>,
    parameters: &Parameters,
) -> Result<Rows, CqlError> {
    let version = state.schema_version().0.to_be_bytes();
    let from = match parameters.paging_state.as_deref() {
        None => 0,
        Some(given) => {
            let bad = || CqlError::invalid("Invalid value for the paging state");
            let (was, at) = given.split_first_chunk::<8>().ok_or_else(bad)?;
            let at = u64::from_be_bytes(at.try_into().map_err(|_| bad())?);
            if *was != version {
                return Err(CqlError::invalid(
                    "The schema has changed since the previous page of the DESCRIBE statement \
                     result. Please retry the DESCRIBE statement.",
                ));
            }
            usize::try_from(at).map_err(|_| bad())?.min(rows.len())
        }
    };
    let size = parameters.page_size.map_or(usize::MAX, |size| size as usize);
    let to = from.saturating_add(size).min(rows.len());
    let paging_state = (to < rows.len()).then(|| [version, (to as u64).to_be_bytes()].concat());
    let spec = |(name, kind): (&str, CqlType)| ColumnSpec { name: name.to_owned(), kind };
    let metadata = Metadata {
        keyspace: "system".to_owned(),
        table: "describe".to_owned(),
        columns: columns.into_iter().map(spec).collect(),
    };
    let shown = rows.into_iter().take(to).skip(from);
    Ok(Rows {
        metadata: Arc::new(metadata),
        rows: shown.map(|row| row.into_iter().map(Some).collect()).collect(),
        paging_state,
        ..Rows::default()
    })
}
