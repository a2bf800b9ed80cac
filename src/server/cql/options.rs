//! Properties of keyspaces and tables: what they mean here, and what is kept to be shown again.

use std::collections::BTreeMap;

use crate::cql::ast::Property;
use crate::cql::options as cql_options;
use crate::cql::schema::Schema;
use crate::meta::{ConflictMode, TableSettings};
use crate::ring::Replication;
use crate::server::cql::error::{CONFIG, CqlError, SYNTAX};

/// The options of a table whose value is one word.
const SIMPLE: &[&str] = &[
    "additional_write_policy",
    "allow_auto_snapshot",
    "bloom_filter_fp_chance",
    "cdc",
    "comment",
    "crc_check_chance",
    "dclocal_read_repair_chance",
    TTL,
    GRACE,
    "incremental_backups",
    "max_index_interval",
    "memtable",
    "memtable_flush_period_in_ms",
    "min_index_interval",
    "read_repair",
    "read_repair_chance",
    "speculative_retry",
];

const TTL: &str = "default_time_to_live";
const GRACE: &str = "gc_grace_seconds";

/// Twenty years, as in Cassandra.
const MAX_TTL_S: u32 = 630_720_000;
/// What fits the column that shows it.
const MAX_GRACE_S: u32 = i32::MAX.unsigned_abs();

/// Those whose value is a map.
const MAPS: &[&str] = &["caching", "compaction", "compression", "extensions"];

/// Puts properties into a schema.
pub(super) fn apply(schema: &mut Schema, given: &[(String, Property)]) -> Result<(), CqlError> {
    for (name, value) in given {
        match value {
            Property::Simple(value) if name == TTL => {
                schema.default_ttl_s = seconds(TTL, value, MAX_TTL_S)?;
            }
            Property::Simple(value) if name == GRACE => {
                let seconds = seconds(GRACE, value, MAX_GRACE_S)?;
                schema.options.insert(name.clone(), seconds.to_string());
            }
            Property::Simple(_) if name == "conflict" => {
                return Err(CqlError::invalid(
                    "conflict is chosen when a table is created, for ever: make another one and copy",
                ));
            }
            Property::Simple(_) if name == "id" => {
                return Err(CqlError::invalid("WITH id is not supported yet"));
            }
            Property::Simple(value)
                if cql_options::is_plain(name) && !cql_options::reads_plain(value) =>
            {
                return Err(CqlError::new(SYNTAX, format!("Invalid value for property '{name}'")));
            }
            Property::Simple(value) if SIMPLE.contains(&name.as_str()) => {
                schema.options.insert(name.clone(), value.clone());
            }
            Property::Map(pairs) if MAPS.contains(&name.as_str()) => {
                check_class(name, pairs)?;
                let pairs: BTreeMap<String, String> = pairs.iter().cloned().collect();
                schema.map_options.insert(name.clone(), pairs);
            }
            _ if SIMPLE.contains(&name.as_str()) || MAPS.contains(&name.as_str()) => {
                return Err(CqlError::new(SYNTAX, format!("Invalid value for property '{name}'")));
            }
            _ => return Err(CqlError::new(SYNTAX, format!("Unknown property '{name}'"))),
        }
    }
    Ok(())
}

/// The classes of Cassandra 4.1 and 5.0 that these options may name, with or without their package.
const COMPACTIONS: &[&str] = &[
    "DateTieredCompactionStrategy",
    "LeveledCompactionStrategy",
    "SizeTieredCompactionStrategy",
    "TimeWindowCompactionStrategy",
    "UnifiedCompactionStrategy",
];
const COMPRESSORS: &[&str] =
    &["DeflateCompressor", "LZ4Compressor", "NoopCompressor", "SnappyCompressor", "ZstdCompressor"];

/// Refuses a class that there is not: it means nothing here, but would on the way back to Cassandra.
fn check_class(name: &str, pairs: &[(String, String)]) -> Result<(), CqlError> {
    let class = |key: &str| pairs.iter().find(|(own, _)| own == key).map(|(_, class)| class);
    let known =
        |class: &str, all: &[&str]| all.contains(&class.rsplit('.').next().unwrap_or(class));
    let config = |message: String| Err(CqlError::new(CONFIG, message));
    match name {
        "compaction" => match class("class") {
            Some(class) if known(class, COMPACTIONS) => Ok(()),
            Some(class) => config(format!("Unable to find compaction strategy class '{class}'")),
            None => config("Missing sub-option 'class' for the 'compaction' option".to_owned()),
        },
        "compression" => match class("class").or_else(|| class("sstable_compression")) {
            Some(class) if !class.is_empty() && !known(class, COMPRESSORS) => {
                config(format!("Could not create Compression for type {class}"))
            }
            _ => Ok(()),
        },
        _ => Ok(()),
    }
}

/// An option of so many seconds.
fn seconds(name: &str, value: &str, max: u32) -> Result<u32, CqlError> {
    let seconds = value.parse().ok().filter(|seconds| *seconds <= max);
    seconds.ok_or_else(|| CqlError::new(CONFIG, format!("Invalid {name}: {value}")))
}

/// True of a table's properties that a table of values has too.
pub(super) fn of_buckets(name: &str) -> bool {
    name == TTL || name == GRACE
}

/// Puts properties into the settings of a table of values.
pub(super) fn bucket(
    settings: &mut TableSettings,
    given: &[(String, Property)],
) -> Result<(), CqlError> {
    for (name, value) in given {
        match value {
            Property::Simple(value) if name == TTL => {
                settings.ttl_s = seconds(TTL, value, MAX_TTL_S)?.into();
            }
            Property::Simple(value) if name == GRACE => {
                settings.grace_s = seconds(GRACE, value, MAX_GRACE_S)?.into();
            }
            _ => {
                return Err(CqlError::invalid(format!(
                    "a bucket's settings here are {TTL} and {GRACE}, not {name}: see PATCH \
                     /v1/buckets for others"
                )));
            }
        }
    }
    Ok(())
}

/// Properties by name, as they were given.
type Properties = Vec<(String, Property)>;

/// How concurrent writes meet in a new table, and its other properties.
pub(super) fn conflict(
    given: &[(String, Property)],
) -> Result<(Option<ConflictMode>, Properties), CqlError> {
    let (own, rest): (Vec<_>, Vec<_>) =
        given.iter().cloned().partition(|(name, _)| name == "conflict");
    let mode = match own.last().map(|(_, value)| value) {
        None => None,
        Some(Property::Simple(mode)) if mode == "lww" => Some(ConflictMode::Lww),
        Some(Property::Simple(mode)) if mode == "siblings" => Some(ConflictMode::Siblings),
        Some(Property::Simple(mode)) if mode == "strong" => Some(ConflictMode::Strong),
        Some(_) => {
            return Err(CqlError::new(CONFIG, "conflict is 'lww', 'siblings' or 'strong'"));
        }
    };
    Ok((mode, rest))
}

/// What a keyspace's properties say: replication and durable_writes, if given.
pub(super) fn keyspace(
    given: &[(String, Property)],
    datacenters: &[String],
) -> Result<(Option<Replication>, Option<bool>), CqlError> {
    let (mut found, mut durable) = (None, None);
    for (name, value) in given {
        match (name.as_str(), value) {
            ("replication", Property::Map(pairs)) => {
                found = Some(replication(pairs, datacenters)?);
            }
            ("durable_writes", Property::Simple(value)) if value.parse::<bool>().is_ok() => {
                durable = value.parse().ok();
            }
            ("replication" | "durable_writes", _) => {
                return Err(CqlError::new(SYNTAX, format!("Invalid value for property '{name}'")));
            }
            _ => return Err(CqlError::new(SYNTAX, format!("Unknown property '{name}'"))),
        }
    }
    Ok((found, durable))
}

fn replication(
    pairs: &[(String, String)],
    datacenters: &[String],
) -> Result<Replication, CqlError> {
    let config = |message: String| CqlError::new(CONFIG, message);
    let class = pairs.iter().find(|(name, _)| name == "class").map(|(_, class)| class.as_str());
    let class = class.ok_or_else(|| config("Missing replication strategy class".to_owned()))?;
    let factor = |text: &str| {
        let factor = text.parse::<u8>();
        factor.map_err(|_| config(format!("Replication factor must be a number up to 255: {text}")))
    };
    let rest = pairs.iter().filter(|(name, _)| name != "class");
    let replication = match class.rsplit('.').next().unwrap_or(class) {
        "SimpleStrategy" => {
            let mut found = None;
            for (name, value) in rest {
                if name != "replication_factor" {
                    return Err(config(format!(
                        "Unrecognized strategy option {name} for SimpleStrategy"
                    )));
                }
                found = Some(factor(value)?);
            }
            let missing = || config("SimpleStrategy requires a replication_factor".to_owned());
            Replication::Simple { factor: found.ok_or_else(missing)? }
        }
        "NetworkTopologyStrategy" => {
            let mut factors = BTreeMap::new();
            for (name, value) in rest {
                let factor = factor(value)?;
                if name == "replication_factor" {
                    for datacenter in datacenters {
                        factors.entry(datacenter.clone()).or_insert(factor);
                    }
                } else if datacenters.contains(name) {
                    factors.insert(name.clone(), factor);
                } else {
                    return Err(config(format!(
                        "Unrecognized strategy option {{{name}}} for NetworkTopologyStrategy: no such datacenter"
                    )));
                }
            }
            Replication::NetworkTopology { factors }
        }
        other => {
            return Err(config(format!("Unable to find replication strategy class '{other}'")));
        }
    };
    replication.check().map_err(|error| config(error.to_string()))?;
    Ok(replication)
}
