//! What an entry of the log may hold at the most. Each node keeps all of it in memory for ever, and
//! entries come from other nodes: nothing in them is taken at its word.
//!
//! Part of applying an entry, so every node judges alike: a bound may be raised, by all nodes
//! together, and never lowered.

use crate::cql::schema::Schema;
use crate::meta::keyspace;
use crate::meta::roles;
use crate::meta::table::is_quoted_name;
use crate::meta::{Command, Founder, NotDone, TableName, TableSettings};
use crate::ring::Replication;
use crate::types::Addresses;

/// Longest name of a cluster, node, datacentre or rack, in bytes: as in the configuration.
const MAX_NAME_BYTES: usize = 48;

/// The most founders, as in the configuration.
const MAX_FOUNDERS: usize = 64;

/// The most partitions, as in the configuration.
const MAX_PARTITIONS: u32 = 65_536;

/// The most datacentres that a table's replication may name.
const MAX_DATACENTERS: usize = 64;

fn refuse(what: impl Into<String>) -> NotDone {
    NotDone::OutOfBounds(what.into())
}

fn check_name(what: &str, name: &str) -> Result<(), NotDone> {
    if (1..=MAX_NAME_BYTES).contains(&name.len()) {
        return Ok(());
    }
    Err(refuse(format!("{what} of {} bytes, 1 to {MAX_NAME_BYTES} are allowed", name.len())))
}

fn check_addresses(addresses: &Addresses) -> Result<(), NotDone> {
    match addresses.longest() {
        len if len <= Addresses::MAX_BYTES => Ok(()),
        len => {
            Err(refuse(format!("an address of {len} bytes, {} are allowed", Addresses::MAX_BYTES)))
        }
    }
}

fn check_founder(founder: &Founder) -> Result<(), NotDone> {
    check_name("a node's name", &founder.member.name)?;
    check_name("a datacentre", &founder.member.datacenter)?;
    check_name("a rack", &founder.member.rack)?;
    check_addresses(&founder.addresses)
}

fn check_table(name: &TableName) -> Result<(), NotDone> {
    // The name may come from a node that does not check it as this one does.
    if name.is_well_formed() { Ok(()) } else { Err(refuse("a table's name that is none")) }
}

fn check_settings(settings: &TableSettings) -> Result<(), NotDone> {
    check_replication(&settings.replication)
}

fn check_replication(replication: &Replication) -> Result<(), NotDone> {
    let Replication::NetworkTopology { factors } = replication else { return Ok(()) };
    if factors.len() > MAX_DATACENTERS {
        return Err(refuse(format!(
            "{} datacentres, {MAX_DATACENTERS} are allowed",
            factors.len()
        )));
    }
    factors.keys().try_for_each(|name| check_name("a datacentre", name))
}

/// The most bytes of a table's options, all together.
const MAX_OPTION_BYTES: usize = 16 << 10;

fn check_schema(schema: &Schema) -> Result<(), NotDone> {
    let named = schema.columns().iter().all(|column| is_quoted_name(&column.name));
    if !named || !schema.is_sound() {
        return Err(refuse("columns that make no table"));
    }
    let simple = schema.options.iter().map(|(name, value)| name.len() + value.len());
    let pairs = schema.map_options.values().flatten();
    let bytes: usize =
        simple.sum::<usize>() + pairs.map(|(name, value)| name.len() + value.len()).sum::<usize>();
    if bytes > MAX_OPTION_BYTES || schema.map_options.len() > 32 {
        return Err(refuse(format!("{bytes} bytes of options, {MAX_OPTION_BYTES} are allowed")));
    }
    Ok(())
}

/// The most bytes of the name of an index's class.
const MAX_CLASS_BYTES: usize = 128;

fn check_quotable(name: &str) -> Result<(), NotDone> {
    if is_quoted_name(name) { Ok(()) } else { Err(refuse("a name that is none")) }
}

/// Refuses a command that holds more than it may.
pub(super) fn check(command: &Command) -> Result<(), NotDone> {
    match command {
        Command::Found { cluster, q, founders, .. } => {
            check_name("a cluster's name", cluster)?;
            if !q.is_power_of_two() || *q > MAX_PARTITIONS {
                return Err(refuse(format!(
                    "{q} partitions: no power of two up to {MAX_PARTITIONS}"
                )));
            }
            if founders.len() > MAX_FOUNDERS {
                return Err(refuse(format!(
                    "{} founders, {MAX_FOUNDERS} are allowed",
                    founders.len()
                )));
            }
            founders.iter().try_for_each(check_founder)
        }
        Command::NodeStarted { addresses, .. } => check_addresses(addresses),
        Command::CreateTable { name, settings } => {
            check_table(name)?;
            check_settings(settings)
        }
        Command::AlterTable { settings, .. } => check_settings(settings),
        Command::CreateKeyspace(keyspace) => {
            check_quotable(&keyspace.name)?;
            if !keyspace.types.is_empty() || keyspace.replication.check().is_err() {
                return Err(refuse("a keyspace without replicas, or with types"));
            }
            check_replication(&keyspace.replication)
        }
        Command::CreateRows { name, schema } => {
            check_quotable(&name.keyspace)?;
            check_quotable(&name.table)?;
            check_schema(schema)
        }
        Command::AlterRows { schema, .. } => check_schema(schema),
        Command::CreateType(udt) | Command::AlterType { new: udt, .. } => {
            if keyspace::is_sound(udt) { Ok(()) } else { Err(refuse("a user type that is none")) }
        }
        Command::CreateIndex { name, class, .. } => {
            check_quotable(name)?;
            match class {
                Some(class) if class.len() > MAX_CLASS_BYTES => {
                    Err(refuse("the name of an index's class is too long"))
                }
                _ => Ok(()),
            }
        }
        Command::Role(change) => roles::check(change),
        Command::Owned { made, by } => {
            roles::check_name(by)?;
            check(&made.command())
        }
        Command::AlterKeyspace { .. }
        | Command::DropIndex { .. }
        | Command::Truncate { .. }
        | Command::DropKeyspace { .. }
        | Command::DropType { .. }
        | Command::Refilled { .. }
        | Command::DropTable { .. }
        | Command::Nothing => Ok(()),
    }
}
