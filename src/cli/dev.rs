//! `henge dev`: a whole cluster in this process.
//!
//! Each node has its own data directory, ports and identity, and they talk real TCP: only the
//! process is shared. Whoever wants to kill nodes starts them one by one (`henge start`).
#![allow(
    clippy::disallowed_methods,
    reason = "a command lives outside of the simulated node, on the real clock and runtime"
)]

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::Args;
use futures_util::future::{join_all, select_all, try_join_all};
use hyper::http::Method;

use super::args::ClientArgs;
use super::exit::{Exit, Failure};
use super::local::{Layout, node_config};
use super::{nodes, output};
use crate::client::{
    BucketSettings, Call, Client, ClientError, Credentials, FoundValue, ReadOptions, WriteOptions,
};
use crate::config::Config;
use crate::cql::roles::Secret;
use crate::node::superuser;
use crate::telemetry::{self, LogFormat};

/// How long the cluster may take to be ready.
const READY: Duration = Duration::from_secs(30);

/// The file in the data directory that remembers the addresses.
const LAYOUT_FILE: &str = "dev.json";

/// The file in the data directory with the superuser's first password.
const PASSWORD_FILE: &str = "first-password";

/// Arguments of `henge dev`.
#[derive(Debug, Args)]
pub struct DevArgs {
    /// Number of nodes.
    // Its own id: `--node` is called "nodes" too.
    #[arg(id = "node_count", long = "nodes", value_name = "N", default_value_t = 3)]
    #[arg(value_parser = clap::value_parser!(u8).range(1..=9))]
    pub nodes: u8,
    /// Keep the data here; the same directory again goes on with the same cluster.
    #[arg(long, value_name = "DIR", conflicts_with = "ephemeral")]
    pub data: Option<PathBuf>,
    /// Keep nothing (what happens without --data, too).
    #[arg(long)]
    pub ephemeral: bool,
    /// Ask clients who they are: a superuser is made, and its password shown.
    #[arg(long)]
    pub auth: bool,
    /// What the nodes log to stderr: error, warn, info, debug, trace, or filter directives.
    #[arg(long, value_name = "LEVEL", default_value = "warn")]
    pub log: String,
}

/// `henge dev`.
pub fn dev(client: &ClientArgs, args: &DevArgs) -> Result<(), Failure> {
    telemetry::check_filter(&args.log).map_err(Failure::usage)?;
    telemetry::init(&args.log, LogFormat::Text);
    telemetry::abort_on_panic();
    nodes::plant()?;
    let began = Instant::now();
    let data = Data::open(args)?;
    let layout = layout(args, &data)?;
    let password = password(args, &data)?;
    match nodes::block_on(run(client.json, &data, &layout, password, began))? {
        End::Asked => Ok(()),
        End::Anew => {
            drop(data);
            Err(nodes::start_anew())
        }
    }
}

async fn run(
    json: bool,
    data: &Data,
    layout: &Layout,
    password: Option<String>,
    began: Instant,
) -> Result<End, Failure> {
    let mut base = Config::default();
    base.auth.enabled = password.is_some();
    base.auth.first_password_file =
        password.as_ref().map(|_| shown(&data.path.join(PASSWORD_FILE)));
    let role = password.map(|password| Credentials::new(base.auth.superuser.clone(), password));
    base.cluster.name = "dev".to_owned();
    base.storage.cache_mb = 64;
    let starting = (0..layout.places.len())
        .map(|index| nodes::start(node_config(&base, layout, index, &data.path)));
    let running =
        try_join_all(starting).await.map_err(|message| Failure::new(Exit::Failure, message))?;
    let end = tokio::select! {
        biased;
        stopped = nodes::asked_to_stop() => stopped.map(|_| End::Asked),
        trouble = first_trouble(&running) => trouble,
        never = serve(json, data, layout, role, began) => never.map(|()| End::Asked),
    };
    if matches!(end, Ok(End::Asked)) {
        output::note("stopping");
    }
    join_all(running.into_iter().map(nodes::RunningNode::stop)).await;
    end
}

/// How a cluster comes to its end.
enum End {
    /// By Ctrl-C.
    Asked,
    /// It has to be started again, on the same data.
    Anew,
}

/// Completes when one of the nodes cannot go on.
async fn first_trouble(running: &[nodes::RunningNode]) -> Result<End, Failure> {
    let troubles = running.iter().enumerate().map(|(index, node)| {
        Box::pin(async move {
            tokio::select! {
                biased;
                why = node.storage_failed() => {
                    let cure = "start it again once the disk is well";
                    let message = format!("node n{}: {why}; {cure}", index + 1);
                    Err(Failure::new(Exit::Failure, message))
                }
                why = node.must_restart() => {
                    tracing::warn!(node = index + 1, why, "starting anew");
                    Ok(End::Anew)
                }
            }
        })
    });
    select_all(troubles).await.0
}

/// Waits for the cluster, says so, and then waits for ever.
async fn serve(
    json: bool,
    data: &Data,
    layout: &Layout,
    role: Option<Credentials>,
    began: Instant,
) -> Result<(), Failure> {
    wait_ready(layout, role.as_ref(), began).await?;
    if json {
        output::json(&serde_json::json!({ "nodes": layout.urls(), "data": data.path }))?;
    } else {
        print_nodes(data, layout, began.elapsed())?;
        show_it_working(layout, role.as_ref()).await?;
        print_tour(data, layout, role.as_ref())?;
    }
    std::future::pending().await
}

/// A client of some nodes that says who it is, if they ask.
fn client_of(urls: &[String], role: Option<&Credentials>) -> Result<Client, Failure> {
    let client = Client::new(urls).map_err(|error| Failure::read(&error))?;
    Ok(match role {
        Some(role) => client.with_credentials(role),
        None => client,
    })
}

async fn wait_ready(
    layout: &Layout,
    role: Option<&Credentials>,
    began: Instant,
) -> Result<(), Failure> {
    let client = client_of(&layout.urls(), role)?;
    // Anybody may ask whether a node is ready; that somebody is let in, whoever is.
    let path = if role.is_some() { "/v1/cluster" } else { "/readyz" };
    for path in ["/readyz", path] {
        wait_for(&client, path, began).await?;
    }
    Ok(())
}

async fn wait_for(client: &Client, path: &str, began: Instant) -> Result<(), Failure> {
    let ready = Call::new(Method::GET, path);
    for node in client.nodes() {
        loop {
            let why = match node.send(&ready, Duration::from_secs(2)).await {
                Ok(reply) if reply.status.as_u16() == 200 => break,
                Ok(reply) => reply.refused().to_string(),
                Err(error) => error.to_string(),
            };
            if began.elapsed() > READY {
                let message = format!("the cluster did not become ready: {why}");
                return Err(Failure::new(Exit::Failure, message));
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    Ok(())
}

/// Where the data is, removed at the end unless it was asked for.
struct Data {
    path: PathBuf,
    kept: bool,
}

impl Data {
    fn open(args: &DevArgs) -> Result<Self, Failure> {
        let (path, kept) = match &args.data {
            Some(path) => (path.clone(), true),
            None => {
                let name = format!("henge-dev-{}", Client::new_op_id());
                (std::env::temp_dir().join(name), false)
            }
        };
        std::fs::create_dir_all(&path)
            .map_err(|error| Failure::usage(format!("{}: {error}", path.display())))?;
        Ok(Self { path, kept })
    }
}

impl Drop for Data {
    fn drop(&mut self) {
        if !self.kept {
            drop(std::fs::remove_dir_all(&self.path));
        }
    }
}

/// The superuser's first password, if clients are to be asked: the one in the data directory, or a
/// random one, which is there afterwards.
fn password(args: &DevArgs, data: &Data) -> Result<Option<String>, Failure> {
    if !args.auth {
        return Ok(None);
    }
    let path = data.path.join(PASSWORD_FILE);
    match std::fs::read_to_string(&path) {
        Ok(text) => Ok(text.lines().next().map(str::to_owned)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let password = Secret(uuid::Uuid::new_v4().simple().to_string());
            superuser::write_secret(&path, &password)?;
            Ok(Some(password.0))
        }
        Err(error) => Err(Failure::usage(format!("{}: {error}", path.display()))),
    }
}

/// The addresses that the data directory remembers, or fresh ones, which it then remembers.
fn layout(args: &DevArgs, data: &Data) -> Result<Layout, Failure> {
    let file = data.path.join(LAYOUT_FILE);
    let wrong = |why: String| Failure::usage(format!("{}: {why}", file.display()));
    match std::fs::read(&file) {
        Ok(text) => {
            let layout: Layout =
                serde_json::from_slice(&text).map_err(|error| wrong(error.to_string()))?;
            if layout.places.len() != usize::from(args.nodes) {
                let had = layout.places.len();
                return Err(wrong(format!("this cluster has {had} nodes: use --nodes {had}")));
            }
            if let Some(address) = layout.taken() {
                return Err(Failure::usage(format!(
                    "something already listens on {address}, where this cluster's nodes know each \
                     other: is it running in another terminal?"
                )));
            }
            Ok(layout)
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let layout = Layout::usual(args.nodes).map_err(Failure::usage)?;
            let text = serde_json::to_vec_pretty(&layout).map_err(std::io::Error::from)?;
            std::fs::write(&file, text).map_err(|error| wrong(error.to_string()))?;
            Ok(layout)
        }
        Err(error) => Err(wrong(error.to_string())),
    }
}

/// The bucket of [`show_it_working`]. It goes again.
const CHECK_BUCKET: &str = "henge_self_check";

/// Writes through the first node, reads through the last one, and says what came of it.
async fn show_it_working(layout: &Layout, role: Option<&Credentials>) -> Result<(), Failure> {
    let urls = layout.urls();
    let client = |url: &String| {
        Ok::<_, Failure>(client_of(std::slice::from_ref(url), role)?.with_patience(READY))
    };
    let (first, last) = (client(&urls[0])?, client(&urls[urls.len() - 1])?);
    let failed = |error: ClientError| Failure::read(&error);
    first.create_bucket(CHECK_BUCKET, &BucketSettings::default()).await.map_err(failed)?;
    let (key, value) = (b"stone", "a ring of equal stones");
    let options = WriteOptions { receipt: true, ..WriteOptions::default() };
    let written = first.put(CHECK_BUCKET, key, value, &options).await.map_err(failed)?;
    let options = ReadOptions { receipt: true, ..ReadOptions::default() };
    let found = last.get(CHECK_BUCKET, key, &options).await.map_err(failed)?;
    let arrived = match &found.value {
        FoundValue::One(stored) => stored.value == value.as_bytes(),
        // Left by an earlier start that was cut off right here.
        FoundValue::Siblings(siblings) => siblings.iter().any(|sibling| sibling.value == value),
        FoundValue::Absent => false,
    };
    first.drop_bucket(CHECK_BUCKET).await.map_err(failed)?;
    if !arrived {
        let message = format!("the self-check failed: n{} does not show what n1 wrote", urls.len());
        return Err(Failure::new(Exit::Failure, message));
    }
    let count = urls.len();
    output::line(format!(
        "\nChecked: wrote {value:?} through n1 ({}), read it through n{count} ({}).",
        told(written.receipt.as_deref()),
        told(found.receipt.as_deref())
    ))
}

/// A consistency receipt in a few words.
fn told(receipt: Option<&str>) -> String {
    let receipt: serde_json::Value =
        receipt.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
    let number = |name: &str| receipt[name].as_u64().unwrap_or(0);
    format!(
        "{}: {} of {} replicas, {:.1} ms",
        receipt["level"].as_str().unwrap_or("quorum"),
        number("received"),
        number("n"),
        number("total_us") as f64 / 1000.0
    )
}

fn print_nodes(data: &Data, layout: &Layout, time: Duration) -> Result<(), Failure> {
    let count = layout.places.len();
    output::line(format!(
        "A cluster of {count} node{} is ready, after {} ms.\n",
        if count == 1 { "" } else { "s" },
        time.as_millis()
    ))?;
    let mut table = output::table(["node", "http", "peers", "cql", "data"]);
    for (index, place) in layout.places.iter().enumerate() {
        let name = format!("n{}", index + 1);
        let directory = if data.kept { shown(&data.path.join(&name)) } else { "-".to_owned() };
        let (http, peer) = (format!("http://{}", place.http), place.peer.to_string());
        table.add_row([name, http, peer, place.cql.to_string(), directory]);
    }
    output::print(&table)
}

fn print_tour(data: &Data, layout: &Layout, role: Option<&Credentials>) -> Result<(), Failure> {
    let urls = layout.urls();
    let (first, last) = (&urls[0], &urls[urls.len() - 1]);
    let option = if first == crate::client::DEFAULT_NODE {
        String::new()
    } else {
        format!("  export {}={first}\n", crate::client::NODES_VARIABLE)
    };
    let option = match role {
        Some(role) => format!(
            "{option}  export HENGE_USER={} HENGE_PASSWORD=$(cat {})\n",
            role.name(),
            shown(&data.path.join(PASSWORD_FILE))
        ),
        None => option,
    };
    let curl = if role.is_some() { "curl -u $HENGE_USER:$HENGE_PASSWORD" } else { "curl" };
    let ending = if data.kept { "the data stays" } else { "and forgets everything" };
    output::line(format!(
        "
Try, in another terminal:
{option}  henge buckets create fruit
  henge put fruit apple red
  henge get fruit apple
  henge where fruit apple
  henge status
or with curl, writing through one node and reading through another:
  {curl} -i -X PUT {first}/v1/kv/fruit/pear --data green
  {curl} -i {last}/v1/kv/fruit/pear
The API, readable: {first}/docs

Ctrl-C stops the cluster ({ending})."
    ))
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}
