//! `config`, `status`, `ring`, `where`, `buckets`.

use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};

use serde_json::Value;

use super::args::{BucketsCommand, ClientArgs, ConfigArgs, RingArgs, WhereArgs, bytes_of};
use super::exit::{Exit, Failure};
use super::output::{self, cell};
use crate::client::{BucketSettings, ClientError, encode_key};
use crate::config::Config;

/// The columns that come first in a table of nodes.
const NODE_COLUMNS: &[&str] =
    &["name", "status", "address", "datacenter", "rack", "capacity", "partitions", "epoch", "id"];

/// The columns of a table of hints.
const HINT_COLUMNS: &[&str] = &["target", "count", "bytes", "oldest_s", "rate_per_s", "eta_s"];

/// `henge config`.
pub fn config(args: &ConfigArgs) -> Result<(), Failure> {
    let text = match &args.config {
        None => Config::default().to_commented_toml(),
        Some(path) => {
            let loaded = Config::load(path).map_err(|error| Failure::usage(error.to_string()))?;
            for warning in loaded.warnings {
                output::note(format!("warning: {warning}"));
            }
            loaded.config.to_toml()
        }
    };
    std::io::stdout().lock().write_all(text.as_bytes())?;
    Ok(())
}

async fn fetch(client: &ClientArgs, path: &str) -> Result<Value, Failure> {
    client.client()?.json(path).await.map_err(|error| Failure::read(&error))
}

/// The array called `name` in `document`.
fn list<'a>(document: &'a Value, name: &str) -> &'a [Value] {
    document.get(name).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// The plain members of `document`, one a line.
fn summary(document: &Value) -> Result<(), Failure> {
    let members = document.as_object().into_iter().flatten();
    for (name, value) in members.filter(|(_, value)| !value.is_array() && !value.is_object()) {
        output::line(format!("{name}: {}", cell(value)))?;
    }
    Ok(())
}

const RANGE_COLUMNS: &[&str] = &["table", "partition", "peer", "leaves", "since_ms"];

const BLOCKED_COLUMNS: &[&str] = &["table", "partition", "node", "why", "rows", "since_ms"];

/// Ranges that `henge status` lists.
const MAX_RANGES: usize = 20;

/// `henge status`.
pub async fn status(client: &ClientArgs) -> Result<(), Failure> {
    let document = fetch(client, "/v1/cluster").await?;
    if client.json {
        return output::json(&document);
    }
    summary(&document)?;
    let nodes = list(&document, "nodes");
    if !nodes.is_empty() {
        output::line("")?;
        let mut nodes = nodes.to_vec();
        nodes.sort_by_key(|node| node.get("name").map(cell));
        output::print(&output::table_of(&nodes, NODE_COLUMNS))?;
    }
    load(document.get("load").unwrap_or(&Value::Null))?;
    hints(&document)?;
    repair(document.get("repair").unwrap_or(&Value::Null))
}

/// How much the node has to do, and what it refuses for that.
fn load(load: &Value) -> Result<(), Failure> {
    let number = |name: &str| load.get(name).and_then(Value::as_u64).unwrap_or(0);
    let wait = load.get("wait_ms").and_then(Value::as_f64).unwrap_or(0.0);
    let under_way = number("under_way");
    if load.get("shedding").and_then(Value::as_bool).unwrap_or(false) {
        let limit = number("limit");
        output::line(format!(
            "\nload: shedding; {under_way} of {limit} requests under way, work waits {wait} ms"
        ))?;
    } else {
        output::line(format!("\nload: {under_way} requests under way, work waits {wait} ms"))?;
    }
    let (shed, of_peers) = (number("shed"), number("shed_of_peers"));
    if shed + of_peers > 0 {
        output::line(format!("refused so far: {shed} requests of clients, {of_peers} of peers"))?;
    }
    Ok(())
}

/// What the node keeps for others, if it keeps something.
fn hints(document: &Value) -> Result<(), Failure> {
    let hints = list(document, "hints");
    if hints.is_empty() {
        return output::line("\nhints kept here for other nodes: 0");
    }
    let count: u64 = hints.iter().filter_map(|row| row.get("count")?.as_u64()).sum();
    output::line(format!("\nhints kept here for other nodes: {count}"))?;
    output::print(&output::table_of(hints, HINT_COLUMNS))
}

/// How far the node is from the other replicas.
fn repair(repair: &Value) -> Result<(), Failure> {
    let number = |name: &str| repair.get(name).and_then(Value::as_u64).unwrap_or(0);
    let apart = list(repair, "apart");
    output::line("")?;
    match apart.first() {
        None => output::line("replicas: no difference known")?,
        Some(longest) => output::line(format!(
            "replicas: {} ranges differ, the first since {} ms",
            apart.len(),
            longest.get("since_ms").map(cell).unwrap_or_default()
        ))?,
    }
    if number("trees_unbuilt") > 0 {
        let (unbuilt, trees) = (number("trees_unbuilt"), number("trees"));
        output::line(format!("hash trees: {unbuilt} of {trees} are being built"))?;
    }
    if number("scrub_damaged") > 0 {
        output::line(format!("scrubbing: {} damaged records met", number("scrub_damaged")))?;
    }
    if !apart.is_empty() {
        output::print(&output::table_of(&apart[..apart.len().min(MAX_RANGES)], RANGE_COLUMNS))?;
    }
    let blocked = list(repair, "blocked");
    if blocked.is_empty() {
        return Ok(());
    }
    let rows: u64 = blocked.iter().filter_map(|row| row.get("rows")?.as_u64()).sum();
    output::line(format!("\ntombstones past their grace time that cannot go yet: {rows}"))?;
    output::print(&output::table_of(&blocked[..blocked.len().min(MAX_RANGES)], BLOCKED_COLUMNS))
}

/// `henge ring`.
pub async fn ring(client: &ClientArgs, args: RingArgs) -> Result<(), Failure> {
    let document = fetch(client, "/v1/ring").await?;
    if client.json {
        return output::json(&document);
    }
    summary(&document)?;
    let partitions = list(&document, "partitions");
    output::line("")?;
    if args.partitions {
        return output::print(&output::table_of(partitions, &["partition", "end_token", "owner"]));
    }
    let mut owned: BTreeMap<String, usize> = BTreeMap::new();
    for partition in partitions {
        *owned.entry(partition.get("owner").map(cell).unwrap_or_default()).or_default() += 1;
    }
    let mut table = output::table(["node", "owns", "share"]);
    for (node, count) in owned {
        let share = 100.0 * count as f64 / partitions.len().max(1) as f64;
        let name = name_of(list(&document, "nodes"), &node);
        table.add_row([name, count.to_string(), format!("{share:.1} %")]);
    }
    output::print(&table)
}

/// `node`'s id with its name, where the list has one.
fn name_of(nodes: &[Value], id: &str) -> String {
    let named = nodes
        .iter()
        .find(|node| node.get("id").and_then(Value::as_str) == Some(id))
        .and_then(|node| node.get("name"))
        .map(cell);
    named.map_or_else(|| id.to_owned(), |name| format!("{name} ({id})"))
}

/// `henge where`.
pub async fn whereabouts(client: &ClientArgs, args: WhereArgs) -> Result<(), Failure> {
    let key = encode_key(&bytes_of(args.key));
    let path = format!("/v1/where/{}/{key}", encode_key(args.bucket.as_bytes()));
    let document = fetch(client, &path).await?;
    if client.json {
        return output::json(&document);
    }
    summary(&document)?;
    let replicas = list(&document, "replicas");
    let nodes = if replicas.iter().all(Value::is_string) {
        // Names are a courtesy: without them the ids still answer the question.
        fetch(client, "/v1/cluster").await.unwrap_or_default()
    } else {
        Value::Null
    };
    output::line("")?;
    if replicas.iter().any(Value::is_object) {
        return output::print(&output::table_of(replicas, &["name", "id", "address"]));
    }
    let mut table = output::table(["replica", "node"]);
    for (index, replica) in replicas.iter().enumerate() {
        table.add_row([(index + 1).to_string(), name_of(list(&nodes, "nodes"), &cell(replica))]);
    }
    output::print(&table)
}

/// `henge buckets`.
pub async fn buckets(client: &ClientArgs, command: BucketsCommand) -> Result<(), Failure> {
    match command {
        BucketsCommand::List => {
            let document = fetch(client, "/v1/buckets").await?;
            if client.json {
                return output::json(&document);
            }
            let rows =
                document.as_array().map_or_else(|| list(&document, "buckets"), Vec::as_slice);
            if rows.is_empty() {
                output::note("no buckets yet: henge buckets create NAME");
                return Ok(());
            }
            output::print(&output::table_of(rows, &["name", "replication_factor", "conflict"]))
        }
        BucketsCommand::Show { name } => {
            let document = fetch(client, &bucket_path(&name)).await?;
            if client.json { output::json(&document) } else { summary(&document) }
        }
        BucketsCommand::Create {
            name,
            replication_factor,
            conflict,
            read_level,
            write_level,
            ttl,
            max_siblings,
            sloppy,
        } => {
            let settings = BucketSettings {
                replication_factor,
                conflict,
                r: read_level,
                w: write_level,
                ttl_s: ttl,
                max_siblings,
                sloppy: sloppy.then_some(true),
                grace_s: None,
            };
            create(client, &name, &settings).await
        }
        BucketsCommand::Drop { name, yes } => drop_bucket(client, &name, yes).await,
    }
}

fn bucket_path(name: &str) -> String {
    format!("/v1/buckets/{}", encode_key(name.as_bytes()))
}

async fn create(client: &ClientArgs, name: &str, settings: &BucketSettings) -> Result<(), Failure> {
    let created = client
        .client()?
        .create_bucket(name, settings)
        .await
        .map_err(|error| Failure::write(&error))?;
    if client.json {
        return output::json(&serde_json::json!({ "bucket": name, "created": created }));
    }
    output::line(if created { "created" } else { "there already, with the same settings" })
}

async fn drop_bucket(client: &ClientArgs, name: &str, yes: bool) -> Result<(), Failure> {
    if !yes {
        if !std::io::stdin().is_terminal() {
            return Err(Failure::usage(format!("dropping {name} destroys its data: add --yes")));
        }
        output::note(format!("This destroys bucket {name} with all its data. Type its name:"));
        let mut answer = String::new();
        std::io::stdin().read_line(&mut answer)?;
        if answer.trim() != name {
            return Err(Failure::new(Exit::Failure, "nothing was dropped"));
        }
    }
    match client.client()?.drop_bucket(name).await {
        Ok(()) => output::line("dropped"),
        Err(error @ ClientError::Invalid(_)) => Err(Failure::read(&error)),
        Err(error) => Err(Failure::write(&error)),
    }
}
