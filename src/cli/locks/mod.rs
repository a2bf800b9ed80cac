//! `lock`, `lease`, `elect`.

mod held;

use std::ffi::OsString;
use std::time::Duration;

use clap::{Args, Subcommand};
use serde_json::json;

use super::args::{ClientArgs, bytes_of, duration};
use super::exit::{Exit, Failure};
use super::output;
use crate::client::{Asked, Client, ClientError, Kept, Lease, key_text};

use held::{Held, pause, run_under};

/// How often an election is looked at by `--observe`.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Arguments of `henge lock`.
#[derive(Debug, Args)]
pub struct LockArgs {
    /// The lock. Any name: a lock exists as soon as somebody asks for it.
    pub name: OsString,
    /// How long the lock outlives this process, should it die: it is renewed all the while.
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = duration)]
    pub ttl: Duration,
    /// How long to wait for the lock; 0s: not at all. Without it: for ever.
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub wait: Option<Duration>,
    /// A name for others to see. Default: host and process number.
    #[arg(long)]
    pub owner: Option<String>,
    /// The command, and its arguments.
    #[arg(required = true, last = true)]
    pub command: Vec<OsString>,
}

/// Arguments of `henge lease`.
#[derive(Debug, Args)]
pub struct LeaseArgs {
    #[command(subcommand)]
    pub command: LeaseCommand,
}

/// What to do with a lock by hand.
#[derive(Debug, Subcommand)]
pub enum LeaseCommand {
    /// Take a lock for some time, and print the fence.
    Acquire {
        /// The lock.
        name: OsString,
        /// For how long.
        #[arg(long, value_name = "TIME", default_value = "10s", value_parser = duration)]
        ttl: Duration,
        /// How long to wait for it.
        #[arg(long, value_name = "TIME", default_value = "0s", value_parser = duration)]
        wait: Duration,
        /// A name for others to see. Default: host and process number.
        #[arg(long)]
        owner: Option<String>,
    },
    /// Hold it for longer.
    Renew {
        /// The lock.
        name: OsString,
        /// The number that `acquire` printed.
        #[arg(long)]
        fence: u64,
        /// For how long from now.
        #[arg(long, value_name = "TIME", default_value = "10s", value_parser = duration)]
        ttl: Duration,
    },
    /// Give it back.
    Release {
        /// The lock.
        name: OsString,
        /// The number that `acquire` printed.
        #[arg(long)]
        fence: u64,
    },
    /// Show who holds it.
    Show {
        /// The lock.
        name: OsString,
    },
}

/// Arguments of `henge elect`.
#[derive(Debug, Args)]
pub struct ElectArgs {
    /// The election. Any name.
    pub name: OsString,
    /// Print the leader, and each new one, until Ctrl-C.
    #[arg(long, conflicts_with_all = ["candidate", "command"])]
    pub observe: bool,
    /// Print the leader and end.
    #[arg(long, conflicts_with_all = ["candidate", "command", "observe"])]
    pub show: bool,
    /// The candidate's name, which no other may use. Default: host and process number.
    #[arg(long)]
    pub candidate: Option<String>,
    /// How long the term outlives this process, should it die: it is renewed all the while.
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = duration)]
    pub ttl: Duration,
    /// The command to run while leading, and its arguments.
    #[arg(required_unless_present_any = ["observe", "show"], last = true)]
    pub command: Vec<OsString>,
}

/// `henge lock`.
pub async fn lock(client: &ClientArgs, args: LockArgs) -> Result<(), Failure> {
    let client = client.client()?;
    let (name, owner) = (bytes_of(args.name), args.owner.unwrap_or_else(held::whoever));
    let shown = key_text(&name);
    let wait = args.wait.unwrap_or(Duration::MAX);
    let ask = || client.acquire(&name, &owner, args.ttl);
    let held = held::wait_for(&shown, args.ttl, wait, ask).await?;
    let fence = held.fence;
    let keep = || client.renew(&name, fence, args.ttl);
    let variables = [("HENGE_LOCK", shown.clone()), ("HENGE_FENCE", fence.to_string())];
    let ended = run_under(held, &args.command, &variables, keep).await;
    give_back(&shown, client.release(&name, fence).await);
    ended
}

/// `henge elect`.
pub async fn elect(client: &ClientArgs, args: ElectArgs) -> Result<(), Failure> {
    let as_json = client.json;
    let client = client.client()?;
    let name = bytes_of(args.name);
    let shown = key_text(&name);
    if args.observe {
        return observe(&client, &name, as_json).await;
    }
    if args.show {
        let leader = client.leader(&name).await.map_err(|error| Failure::read(&error))?;
        return show(leader, "nobody leads", as_json);
    }
    let candidate = args.candidate.unwrap_or_else(held::whoever);
    let stand = || client.stand(&name, &candidate, args.ttl);
    let held = held::wait_for(&shown, args.ttl, Duration::MAX, stand).await?;
    let fence = held.fence;
    let keep = || async {
        Ok(match client.stand(&name, &candidate, args.ttl).await? {
            Asked::Ours(lease) if lease.fence == fence => Kept::Done,
            Asked::Ours(_) | Asked::Theirs(_) => Kept::Ended,
        })
    };
    let variables = [("HENGE_ELECTION", shown.clone()), ("HENGE_FENCE", fence.to_string())];
    let ended = run_under(held, &args.command, &variables, keep).await;
    give_back(&shown, client.resign(&name, fence).await);
    ended
}

/// A lease that could not be given back ends by itself.
fn give_back(shown: &str, given: Result<Kept, ClientError>) {
    if let Err(error) = given {
        output::note(format!("{shown} was not given back, and ends with its time: {error}"));
    }
}

async fn observe(client: &Client, name: &[u8], as_json: bool) -> Result<(), Failure> {
    let mut told: Option<Option<u64>> = None;
    loop {
        match client.leader(name).await {
            Ok(leader) => {
                let fence = leader.as_ref().map(|leader| leader.fence);
                if told != Some(fence) {
                    told = Some(fence);
                    if as_json {
                        output::line(json!({ "leader": leader }))?;
                    } else {
                        output::line(leader.map_or("nobody leads".to_owned(), |leader| {
                            format!("{} leads, fence {}", leader.owner, leader.fence)
                        }))?;
                    }
                }
            }
            Err(error) if error.is_transient() => output::note(format!("cannot tell: {error}")),
            Err(error) => return Err(Failure::read(&error)),
        }
        pause(LOOK_EVERY).await;
    }
}

fn show(lease: Option<Lease>, nobody: &str, as_json: bool) -> Result<(), Failure> {
    match lease {
        Some(lease) if as_json => output::json(&lease),
        Some(Lease { owner, fence, remaining_ms }) => {
            output::line(format!("{owner}, fence {fence}, {remaining_ms} ms left"))
        }
        None => Err(Failure::new(Exit::NotFound, nobody)),
    }
}

/// `henge lease`.
pub async fn lease(client: &ClientArgs, command: LeaseCommand) -> Result<(), Failure> {
    let as_json = client.json;
    let client = client.client()?;
    let ended =
        || Failure::new(Exit::Lost, "this grant has ended: acquire anew, and expect another fence");
    match command {
        LeaseCommand::Acquire { name, ttl, wait, owner } => {
            let (name, owner) = (bytes_of(name), owner.unwrap_or_else(held::whoever));
            let ask = || client.acquire(&name, &owner, ttl);
            let Held { fence, .. } = held::wait_for(&key_text(&name), ttl, wait, ask).await?;
            if as_json { output::json(&json!({ "fence": fence })) } else { output::line(fence) }
        }
        LeaseCommand::Renew { name, fence, ttl } => {
            let kept = client.renew(&bytes_of(name), fence, ttl).await;
            match kept.map_err(|error| Failure::write(&error))? {
                Kept::Done => output::line("renewed"),
                Kept::Ended => Err(ended()),
            }
        }
        LeaseCommand::Release { name, fence } => {
            let kept = client.release(&bytes_of(name), fence).await;
            match kept.map_err(|error| Failure::write(&error))? {
                Kept::Done => output::line("released"),
                Kept::Ended => Err(ended()),
            }
        }
        LeaseCommand::Show { name } => {
            let held = client.holder(&bytes_of(name)).await;
            show(held.map_err(|error| Failure::read(&error))?, "nobody holds it", as_json)
        }
    }
}
