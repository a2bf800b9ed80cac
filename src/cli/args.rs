//! What can be said on the command line.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use super::bench::BenchArgs;
use super::cql::CqlArgs;
use super::demo::DemoArgs;
use super::dev::DevArgs;
use super::exit::{EXIT_CODES, Failure};
use super::locks::{ElectArgs, LeaseArgs, LockArgs};
use super::login::LoginArgs;
use super::start::StartArgs;
use super::transfer::{ExportArgs, ImportArgs, VerifyArgs};
use crate::client::{Client, Credentials, DEFAULT_NODE, NODES_VARIABLE, ReadOptions, WriteOptions};

const EXAMPLES: &str = "\
Examples:
  henge dev                                  three nodes in this terminal, Ctrl-C stops them
  henge buckets create fruit
  henge put fruit apple 'red and round'
  henge get fruit apple
  henge where fruit apple                    which nodes hold it
  henge import flights.csv.gz --bucket flights --key-columns time_hour,carrier,flight,origin
  henge lock nightly-report -- ./report.sh   run a command under a lock
  henge cql -e 'DESCRIBE KEYSPACES'          CQL, on a terminal or from a script
  henge bench --workload a --seconds 20";

/// Henge: a leaderless, replicated key-value database.
#[derive(Debug, Parser)]
#[command(
    name = "henge",
    version,
    about,
    max_term_width = 100,
    after_help = format!("{EXAMPLES}\n\n{EXIT_CODES}"),
    arg_required_else_help = true
)]
pub struct Cli {
    #[command(flatten)]
    pub client: ClientArgs,
    #[command(subcommand)]
    pub command: Command,
}

/// How to reach a cluster.
#[derive(Debug, Clone, Args)]
pub struct ClientArgs {
    /// Nodes to talk to, tried in turn.
    #[arg(
        long = "node",
        value_name = "URL",
        env = NODES_VARIABLE,
        value_delimiter = ',',
        default_value = DEFAULT_NODE,
        global = true
    )]
    pub nodes: Vec<String>,
    /// Print JSON instead of tables.
    #[arg(long, global = true)]
    pub json: bool,
    #[command(flatten)]
    pub login: LoginArgs,
}

impl ClientArgs {
    /// A client of those nodes.
    pub fn client(&self) -> Result<Client, Failure> {
        self.client_as(self.login.credentials()?.as_ref())
    }

    /// A client of those nodes that says who it is.
    pub fn client_as(&self, credentials: Option<&Credentials>) -> Result<Client, Failure> {
        let client = Client::new(&self.nodes).map_err(|error| Failure::read(&error))?;
        Ok(match credentials {
            Some(credentials) => client.with_credentials(credentials),
            None => client,
        })
    }
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run one node in the foreground.
    #[command(after_help = "\
Examples:
  henge start --config config/henge.toml
  HENGE_NODE_DATA_DIR=/var/lib/henge henge start --config config/henge.toml
SIGTERM or Ctrl-C: takes no new requests, finishes those under way, and stops.")]
    Start(StartArgs),
    /// Run a whole cluster in this terminal.
    #[command(after_help = "\
Examples:
  henge dev                     three nodes that forget everything when they stop
  henge dev --data ./henge      three nodes that keep their data; the same again goes on
  henge dev --nodes 5")]
    Dev(DevArgs),
    /// Measure a cluster with YCSB workloads.
    #[command(after_help = "\
Examples:
  henge bench --workload c --clients 64 --seconds 20
  henge bench --workload a --rate 5000           open loop: latency from the intended start
  henge bench --workload insert --value-size 1000 --report insert.json
  henge bench --workload b --node http://127.0.0.1:8098,http://127.0.0.2:8098")]
    Bench(Box<BenchArgs>),
    /// Show Henge at work.
    Demo(DemoArgs),
    /// Print a configuration: the commented defaults, or what a file comes to.
    Config(ConfigArgs),
    /// Print the value of a key.
    #[command(after_help = "\
The value's bytes go to stdout as they are. A key with several concurrent values ends with exit
code 6 after printing all of them; --sibling N prints one of them raw. To resolve them, write with
the context that -v shows:
  henge get -v fruit apple
  henge put fruit apple 'the merged value' --context CONTEXT")]
    Get(GetArgs),
    /// Write a value.
    #[command(after_help = "\
Examples:
  henge put fruit apple red
  henge put fruit apple --file apple.json --content-type application/json
  date | henge put fruit when
  henge put fruit apple green --context CONTEXT    replaces what CONTEXT has seen
Without --context a write replaces nothing that it has not seen: over an existing value it makes a
sibling, and says so.")]
    Put(PutArgs),
    /// Delete a key.
    Del(DelArgs),
    /// List the keys of a bucket.
    Ls(LsArgs),
    /// Write the rows of a CSV or NDJSON file.
    #[command(after_help = "\
Examples:
  henge import flights.csv.gz --bucket flights -w 2 \\
      --key-columns time_hour,carrier,flight,origin --resume-file flights.resume
  henge import users.ndjson --bucket users --key-template 'user:{id}'
A row's value is the row as a JSON object. Rows that meet too few living replicas are sent again
through other nodes under the same operation id, so none is written twice. An import that was
interrupted goes on where it was with the same command and --resume-file.")]
    Import(Box<ImportArgs>),
    /// Write all keys and values of a bucket to a file.
    #[command(after_help = "\
Examples:
  henge export flights -o flights.records
  henge export flights --format csv --columns carrier,flight,origin,dest > flights.csv")]
    Export(Box<ExportArgs>),
    /// Compare every row of a file with what the cluster holds.
    #[command(after_help = "\
Example:
  henge verify flights.csv.gz --bucket flights -r 2 --key-columns time_hour,carrier,flight,origin
Ends with exit code 7 if any row is missing or changed.")]
    Verify(Box<VerifyArgs>),
    /// Run a command while holding a lock.
    #[command(after_help = "\
Waits for the lock, runs the command, renews the lock meanwhile, gives it back, and ends as the
command did. If the lock is lost (no node could be reached for as long as --ttl), the command is
killed and the exit code is 8. The command finds the lock's name in HENGE_LOCK and its fence in
HENGE_FENCE: a number greater than that of every holder before. Write with it what the lock
protects, and a holder that was asleep when its time ended can do no harm:
  henge lock nightly-report -- ./report.sh
  henge lock --wait 0s nightly-report -- ./report.sh           give up at once if it is held
  henge lock l -- sh -c 'date | henge put --fence $HENGE_FENCE report last'")]
    Lock(LockArgs),
    /// Take, renew and give back a lock by hand.
    #[command(after_help = "\
Example, for a script:
  FENCE=$(henge lease acquire nightly-report --ttl 60s) || exit
  date | henge put --fence $FENCE report last
  henge lease renew nightly-report --fence $FENCE --ttl 60s
  henge lease release nightly-report --fence $FENCE
A lease that is not renewed ends with its time. Exit code 4: somebody else holds it; 8: it has
ended.")]
    Lease(LeaseArgs),
    /// Run a command on one of several nodes: the one that leads.
    #[command(after_help = "\
Start the same on several machines. One of them leads and runs its command; when it ends, dies, or
can reach no node for as long as --ttl, the next one leads. The command finds its term's number in
HENGE_FENCE, to be sent with its writes as under `henge lock`:
  henge elect scheduler -- ./scheduler
  henge elect scheduler --observe                              who leads, and each change")]
    Elect(ElectArgs),
    /// Talk CQL to a cluster.
    #[command(after_help = "\
Examples:
  henge cql                                    on a terminal: HELP, Tab, Ctrl-D
  henge cql 10.0.0.1,10.0.0.2 -k shop
  henge cql -e 'SELECT * FROM shop.stock'
  henge cql --json -e 'SELECT * FROM shop.stock' | jq .item
  henge cql -f schema.cql
  henge cql -e \"COPY shop.stock FROM 'stock.csv' WITH HEADER = true\"
A script ends at its first statement that fails, with the place of the error and an exit code:
4 where nothing was done, 5 where a write may have been, 7 where rows of a COPY were refused.")]
    Cql(CqlArgs),
    /// Show which nodes hold a key.
    Where(WhereArgs),
    /// Show the nodes of the cluster and how they are.
    Status,
    /// Show how the ring is shared out.
    Ring(RingArgs),
    /// Create, show and drop buckets.
    Buckets(BucketsArgs),
}

/// How many replicas of a read must answer.
#[derive(Debug, Clone, Default, Args)]
pub struct ReadArgs {
    /// Consistency level: one, two, three, quorum, all, local_quorum, …
    #[arg(long, conflicts_with = "r")]
    pub level: Option<String>,
    /// Number of replicas that must answer.
    #[arg(long, short = 'r', value_name = "N")]
    pub r: Option<u32>,
    /// Time for the request, such as 500ms or 2s.
    #[arg(long, value_name = "TIME")]
    pub timeout: Option<String>,
}

impl ReadArgs {
    /// As the client takes it.
    pub fn options(&self) -> ReadOptions {
        ReadOptions {
            level: self.level.clone(),
            r: self.r,
            timeout: self.timeout.clone(),
            ..ReadOptions::default()
        }
    }
}

/// How many replicas of a write must acknowledge.
#[derive(Debug, Clone, Default, Args)]
pub struct WriteArgs {
    /// Consistency level: one, two, three, quorum, all, any, …
    #[arg(long, conflicts_with = "w")]
    pub level: Option<String>,
    /// Number of replicas that must acknowledge.
    #[arg(long, short = 'w', value_name = "N")]
    pub w: Option<u32>,
    /// Time for the request, such as 500ms or 2s.
    #[arg(long, value_name = "TIME")]
    pub timeout: Option<String>,
}

impl WriteArgs {
    /// As the client takes it.
    pub fn options(&self) -> WriteOptions {
        WriteOptions {
            level: self.level.clone(),
            w: self.w,
            timeout: self.timeout.clone(),
            ..WriteOptions::default()
        }
    }
}

/// Arguments of `henge config`.
#[derive(Debug, Args)]
pub struct ConfigArgs {
    /// Show what this file and the environment come to, after checking them.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

/// Arguments of `henge get`.
#[derive(Debug, Args)]
pub struct GetArgs {
    /// The bucket.
    pub bucket: String,
    /// The key.
    pub key: OsString,
    #[command(flatten)]
    pub read: ReadArgs,
    /// Only the asked node's own copy (for diagnosis).
    #[arg(long, conflicts_with_all = ["level", "r"])]
    pub local: bool,
    /// Of several concurrent values print the N-th, raw.
    #[arg(long, value_name = "N")]
    pub sibling: Option<usize>,
    /// Also show version, context and receipt, on stderr.
    #[arg(long, short)]
    pub verbose: bool,
}

/// Arguments of `henge put`.
#[derive(Debug, Args)]
pub struct PutArgs {
    /// The bucket.
    pub bucket: String,
    /// The key.
    pub key: OsString,
    /// The value; without it, it comes from --file or stdin.
    pub value: Option<OsString>,
    /// Read the value from this file (`-`: stdin).
    #[arg(long, value_name = "FILE", conflicts_with = "value")]
    pub file: Option<PathBuf>,
    /// What the writer has read, as `get -v` shows it: the write replaces that.
    #[arg(long)]
    pub context: Option<String>,
    /// Seconds until the value expires.
    #[arg(long, value_name = "SECONDS")]
    pub ttl: Option<u64>,
    /// The value's type.
    #[arg(long, value_name = "TYPE")]
    pub content_type: Option<String>,
    /// The fence of the lock that this write is made under: refused if the key has seen a higher
    /// one.
    #[arg(long, value_name = "N")]
    pub fence: Option<u64>,
    /// Operation id (a UUIDv7): the same id again never writes twice.
    #[arg(long, value_name = "UUID")]
    pub op_id: Option<String>,
    #[command(flatten)]
    pub write: WriteArgs,
    /// Also show version, context and receipt, on stderr.
    #[arg(long, short)]
    pub verbose: bool,
}

/// Arguments of `henge del`.
#[derive(Debug, Args)]
pub struct DelArgs {
    /// The bucket.
    pub bucket: String,
    /// The key.
    pub key: OsString,
    /// Delete only what this context has seen; without it, what a quorum read shows.
    #[arg(long)]
    pub context: Option<String>,
    /// The fence of the lock that this write is made under: refused if the key has seen a higher
    /// one.
    #[arg(long, value_name = "N")]
    pub fence: Option<u64>,
    #[command(flatten)]
    pub write: WriteArgs,
}

/// Arguments of `henge ls`.
#[derive(Debug, Args)]
pub struct LsArgs {
    /// The bucket.
    pub bucket: String,
    /// Only keys that begin so.
    #[arg(long)]
    pub prefix: Option<OsString>,
    /// Only keys with several concurrent values.
    #[arg(long)]
    pub conflicts: bool,
    /// The most keys to print.
    #[arg(long, default_value_t = 1_000, conflicts_with = "all")]
    pub limit: u64,
    /// Print all keys.
    #[arg(long)]
    pub all: bool,
    /// Go on where an earlier listing ended.
    #[arg(long, value_name = "CURSOR")]
    pub start: Option<String>,
}

/// Arguments of `henge where`.
#[derive(Debug, Args)]
pub struct WhereArgs {
    /// The bucket.
    pub bucket: String,
    /// The key.
    pub key: OsString,
}

/// Arguments of `henge ring`.
#[derive(Debug, Args)]
pub struct RingArgs {
    /// List every partition.
    #[arg(long)]
    pub partitions: bool,
}

/// Arguments of `henge buckets`.
#[derive(Debug, Args)]
pub struct BucketsArgs {
    #[command(subcommand)]
    pub command: BucketsCommand,
}

/// What to do with buckets.
#[derive(Debug, Subcommand)]
pub enum BucketsCommand {
    /// List all buckets.
    List,
    /// Show one bucket.
    Show {
        /// Its name.
        name: String,
    },
    /// Create a bucket; one that is there with the same settings is fine.
    Create {
        /// Its name: a small letter, then up to 47 small letters, digits and underscores.
        name: String,
        /// Copies of each value.
        #[arg(long, short = 'n', value_name = "N")]
        replication_factor: Option<u32>,
        /// How concurrent writes meet: siblings, lww or strong.
        #[arg(long)]
        conflict: Option<String>,
        /// Level of reads that name none.
        #[arg(long, value_name = "LEVEL")]
        read_level: Option<String>,
        /// Level of writes that name none.
        #[arg(long, value_name = "LEVEL")]
        write_level: Option<String>,
        /// Seconds until values expire; 0: never.
        #[arg(long, value_name = "SECONDS")]
        ttl: Option<u64>,
        /// The most siblings of a key.
        #[arg(long, value_name = "N")]
        max_siblings: Option<u32>,
        /// Let other nodes hold writes for replicas that are down, and count in their place.
        #[arg(long)]
        sloppy: bool,
    },
    /// Drop a bucket with all that is in it.
    Drop {
        /// Its name.
        name: String,
        /// Do not ask.
        #[arg(long)]
        yes: bool,
    },
}

/// The bytes of an argument.
pub fn bytes_of(text: OsString) -> Vec<u8> {
    #[cfg(unix)]
    {
        use std::os::unix::ffi::OsStringExt;
        text.into_vec()
    }
    #[cfg(not(unix))]
    {
        text.to_string_lossy().into_owned().into_bytes()
    }
}

/// Reads `500ms`, `2s`, `5m` or plain seconds.
pub fn duration(text: &str) -> Result<Duration, String> {
    let bad = || format!("{text:?} is no time: use 500ms, 2s or 5m");
    let (digits, unit_ms) = match text {
        _ if text.ends_with("ms") => (&text[..text.len() - 2], 1),
        _ if text.ends_with('s') => (&text[..text.len() - 1], 1_000),
        _ if text.ends_with('m') => (&text[..text.len() - 1], 60_000),
        _ => (text, 1_000),
    };
    let number: u64 = digits.parse().map_err(|_| bad())?;
    number.checked_mul(unit_ms).map(Duration::from_millis).ok_or_else(bad)
}
