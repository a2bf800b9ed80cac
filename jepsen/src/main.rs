//! `henge-jepsen`: real node processes under real faults, and the histories that their clients saw,
//! judged.
//!
//! ```text
//! clients (session, workload) ── HTTP, CQL (door) ──▶ nodes, each in a network of its own (hosts)
//!      │                                     ▲
//!      ▼                                     │ partitions, kills, clocks, disks (nemesis)
//! history (NDJSON) ──▶ checkers (workload, check) ──▶ verdict ──▶ report
//! ```
//!
//! Only public doors are used, and nothing is known about how a node works. `LOGBOOK.md` tells what
//! was run and found.
#![allow(clippy::disallowed_methods, reason = "drives real processes on the real clock")]

mod check;
mod door;
mod history;
mod hosts;
mod matrix;
mod nemesis;
mod report;
mod run;
mod session;
mod verdict;
mod workload;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};

use history::History;
use matrix::Cell;
use nemesis::Fault;
use verdict::Verdict;
use workload::Kind;

/// Real henge processes under real faults, judged by what their clients saw.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Do,
}

#[derive(Subcommand)]
enum Do {
    /// Run workloads under a fault; with --all, every workload under every fault.
    Run(Run),
    /// Judge a history again: the NDJSON file of a run.
    Check {
        /// The file.
        file: PathBuf,
        /// Print the history as EDN, for other checkers.
        #[arg(long)]
        edn: bool,
    },
    /// Show the results in a directory of runs, as a table.
    Report {
        /// The directory.
        directory: PathBuf,
    },
    /// Run planted bugs, each of which must be caught.
    Plants {
        /// Only these, separated by commas; `gate` for those of the gate.
        #[arg(long, value_delimiter = ',')]
        only: Vec<String>,
        /// Make the same runs without the bugs: all must be green.
        #[arg(long)]
        control: bool,
        /// For all draws.
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// How many runs at once.
        #[arg(long, default_value_t = 2)]
        jobs: usize,
        #[command(flatten)]
        place: Place,
    },
    /// What this machine lets the harness do.
    Doctor {
        #[command(flatten)]
        place: Place,
    },
}

#[derive(clap::Args)]
struct Place {
    /// The henge binary; test builds (`--features sim`) know planted bugs and wrong clocks.
    /// [default: beside this program]
    #[arg(long)]
    henge: Option<PathBuf>,
    /// Where histories and reports go.
    #[arg(long, default_value = "target/jepsen")]
    out: PathBuf,
}

#[derive(clap::Args)]
struct Run {
    /// Every workload under every fault; with --workload, those that it names.
    #[arg(long)]
    all: bool,
    /// The short matrix of the gate.
    #[arg(long, conflicts_with = "all")]
    quick: bool,
    /// Workloads that run beside each other on one cluster [default: register]; `all` through
    /// HTTP, or `cql`, among them those through both doors.
    #[arg(long, value_delimiter = ',', conflicts_with = "quick")]
    workload: Vec<String>,
    /// The fault; with --all, only these.
    #[arg(long, value_delimiter = ',', default_value = "none")]
    nemesis: Vec<String>,
    /// How long under load, as in 60s.
    #[arg(long, default_value = "60s", value_parser = seconds)]
    time: Duration,
    /// For all draws.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Number of nodes [default: 3, or what the fault needs].
    #[arg(long)]
    nodes: Option<usize>,
    /// Copies of everything [default: one on each node].
    #[arg(long)]
    replicas: Option<usize>,
    /// How long each episode of the fault lasts, as in 20s [default: as its kind usually does].
    #[arg(long, value_parser = seconds)]
    lasts: Option<Duration>,
    /// How often, with one seed after the other.
    #[arg(long, default_value_t = 1)]
    repeat: u64,
    /// With --all: how many clusters at once.
    #[arg(long, default_value_t = 1)]
    jobs: usize,
    /// A planted bug (test builds only).
    #[arg(long)]
    plant: Option<String>,
    /// A setting of the nodes, as in hints.enabled=false; may come several times. Not with --all.
    #[arg(long, value_name = "NAME=VALUE", value_parser = setting, conflicts_with_all = ["all", "quick"])]
    set: Vec<(String, String)>,
    /// Join the nodes by proxies on loopback, as is done where no network namespaces can be made.
    #[arg(long)]
    loopback: bool,
    /// Keep the nodes' data also when all is well.
    #[arg(long)]
    keep: bool,
    #[command(flatten)]
    place: Place,
}

impl Run {
    /// What the runs of a matrix are told beside their workloads, fault, time and seed.
    fn more(&self) -> Vec<String> {
        let mut more = Vec::new();
        let numbers = [("--nodes", self.nodes), ("--replicas", self.replicas)];
        for (name, number) in numbers {
            more.extend(number.map(|number| format!("{name}={number}")));
        }
        more.extend(self.lasts.map(|lasts| format!("--lasts={}s", lasts.as_secs())));
        more.extend(self.loopback.then(|| "--loopback".to_owned()));
        more
    }
}

fn seconds(text: &str) -> Result<Duration, String> {
    let number = text.strip_suffix('s').unwrap_or(text).parse::<u64>();
    match number {
        Ok(1..=86_400) => number.map(Duration::from_secs).map_err(|error| error.to_string()),
        _ => Err("expected seconds, as in 60s".to_owned()),
    }
}

/// `hints.enabled=false` as the variable that a node reads.
fn setting(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if name.contains('.') => {
            let name = name.replace('.', "_").to_uppercase();
            Ok((format!("HENGE_{name}"), value.to_owned()))
        }
        _ => Err("expected section.key=value, as in hints.enabled=false".to_owned()),
    }
}

impl Place {
    fn binary(&self) -> Result<PathBuf, String> {
        if let Some(path) = &self.henge {
            return std::path::absolute(path).map_err(|error| error.to_string());
        }
        let own = std::env::current_exe().map_err(|error| error.to_string())?;
        Ok(own.with_file_name("henge"))
    }

    fn out(&self) -> Result<PathBuf, String> {
        std::path::absolute(&self.out).map_err(|error| error.to_string())
    }
}

/// 0: green. 1: a promise was broken, or a planted bug missed. 2: nothing was proved. 3: no run.
fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let done = match arguments.command {
        Do::Run(run) => run_command(&run),
        Do::Check { file, edn } => check(&file, edn),
        Do::Report { directory } => table(&directory),
        Do::Plants { only, control, seed, jobs, place } => {
            plants(&only, control, seed, jobs, &place)
        }
        Do::Doctor { place } => doctor(&place),
    };
    done.unwrap_or_else(|why| {
        eprintln!("henge-jepsen: {why}");
        ExitCode::from(3)
    })
}

fn faults(names: &[String]) -> Result<Vec<Fault>, String> {
    let named = |name: &String| Fault::named(name).ok_or_else(|| format!("no fault {name:?}"));
    names.iter().map(named).collect()
}

/// The workloads of these names; without a name, `otherwise`.
fn workloads(names: &[String], otherwise: &[Kind]) -> Result<Vec<Kind>, String> {
    if names.is_empty() {
        return Ok(otherwise.to_vec());
    }
    if names.iter().any(|name| name == "all") {
        return Ok(workload::ALL.to_vec());
    }
    if names.iter().any(|name| name == "cql") {
        return Ok(workload::CQL.to_vec());
    }
    let named = |name: &String| Kind::named(name).ok_or_else(|| format!("no workload {name:?}"));
    names.iter().map(named).collect()
}

fn run_command(run: &Run) -> Result<ExitCode, String> {
    let (binary, out) = (run.place.binary()?, run.place.out()?);
    let named = faults(&run.nemesis)?;
    if run.all || run.quick {
        let all: Vec<Fault> = match (&named[..], run.quick) {
            ([Fault::None], false) => nemesis::ALL.to_vec(),
            ([Fault::None], true) => {
                vec![Fault::Mix, Fault::PartitionOne, Fault::ClockJump, Fault::Power]
            }
            (named, _) => named.to_vec(),
        };
        let (all, refused): (Vec<Fault>, Vec<Fault>) =
            all.into_iter().partition(|fault| !(run.loopback && fault.needs_own_disks()));
        for fault in refused {
            println!("{} needs disks, and thus mounts, of its own: not on loopback", fault.name());
        }
        let mut workloads = workloads(&run.workload, &workload::ALL)?;
        if run.quick {
            // The gate looks through the other door too.
            workloads.extend([Kind::CqlRegister, Kind::CrossRegister]);
        }
        let more = run.more();
        let cells = all.into_iter().flat_map(|nemesis| {
            let (workloads, arguments) = (workloads.clone(), more.clone());
            (0..run.repeat).map(move |more| Cell {
                workloads: workloads.clone(),
                nemesis,
                seconds: run.time.as_secs(),
                seed: run.seed + more,
                plant: None,
                control: false,
                more: arguments.clone(),
            })
        });
        let green = matrix::prove(cells.collect(), &binary, &out, run.jobs);
        return Ok(ExitCode::from(u8::from(!green)));
    }
    let [nemesis] = named[..] else { return Err("one --nemesis, or --all".to_owned()) };
    let on_loopback = run.loopback || {
        let entered = hosts::enter_own_world();
        if let Err(why) = &entered {
            eprintln!("henge-jepsen: {why}: the nodes are joined by proxies on loopback");
        }
        entered.is_err()
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| error.to_string())?;
    let mut worst = 0;
    for more in 0..run.repeat {
        let nodes = run.nodes.unwrap_or(nemesis.nodes());
        let plan = run::Plan {
            binary: binary.clone(),
            workloads: workloads(&run.workload, &[Kind::Register])?,
            nemesis,
            time: run.time,
            seed: run.seed + more,
            nodes,
            replicas: run.replicas.unwrap_or(nodes).clamp(1, nodes),
            lasts: run.lasts,
            plant: run.plant.clone(),
            set: run.set.clone(),
            on_loopback,
            directory: if run.repeat > 1 {
                out.join((run.seed + more).to_string())
            } else {
                out.clone()
            },
            keep: run.keep,
        };
        for result in runtime.block_on(run::run(&plan))? {
            println!("{}", report::summary(&result));
            worst = worst.max(match result.verdict {
                Verdict::Ok => 0,
                Verdict::Vacuous | Verdict::Unknown => 1,
                Verdict::Failed => 2,
            });
        }
    }
    println!("reports: {}", out.display());
    Ok(ExitCode::from([0, 2, 1][worst]))
}

fn check(file: &Path, edn: bool) -> Result<ExitCode, String> {
    let text = std::fs::read_to_string(file).map_err(|error| error.to_string())?;
    let history = History::read(&text)?;
    if edn {
        print!("{}", history.to_edn());
        return Ok(ExitCode::SUCCESS);
    }
    let kind = Kind::named(&history.header.workload).ok_or("an unknown workload")?;
    let judgement = kind.judge(&history);
    println!(
        "{} operations on {} keys: {} breaches, {} undecided",
        history.ops.len(),
        judgement.keys,
        judgement.breaches.len(),
        judgement.undecided
    );
    for breach in judgement.breaches.iter().take(10) {
        println!("{}: {}\n    {}", breach.key, breach.what, breach.proof.join("\n    "));
    }
    for note in &judgement.notes {
        println!("note: {note}");
    }
    let code = match (judgement.breaches.is_empty(), judgement.undecided) {
        (true, 0) => 0,
        (true, _) => 2,
        (false, _) => 1,
    };
    Ok(ExitCode::from(code))
}

/// All results below a directory.
fn table(directory: &Path) -> Result<ExitCode, String> {
    let mut table = matrix::Table::new();
    let mut open = vec![directory.to_owned()];
    while let Some(directory) = open.pop() {
        for entry in std::fs::read_dir(&directory).map_err(|error| error.to_string())?.flatten() {
            let path = entry.path();
            if path.is_dir() {
                open.push(path);
                continue;
            }
            let bytes = std::fs::read(&path).unwrap_or_default();
            let is_result = path.extension().is_some_and(|extension| extension == "json");
            let Some(result) = is_result
                .then(|| serde_json::from_slice::<verdict::Result>(&bytes).ok())
                .flatten()
                .filter(|result| result.plant.is_none())
            else {
                continue;
            };
            if result.verdict != Verdict::Ok {
                println!("{}", report::summary(&result));
            }
            matrix::enter(&mut table, result);
        }
    }
    println!("{}", matrix::markdown(&table));
    let green = table.values().all(|verdict| *verdict == Verdict::Ok);
    Ok(ExitCode::from(u8::from(!green)))
}

fn plants(
    only: &[String],
    control: bool,
    seed: u64,
    jobs: usize,
    place: &Place,
) -> Result<ExitCode, String> {
    let gate = only.iter().any(|name| name == "gate");
    let is_named = |plant: &&matrix::Planted| only.iter().any(|name| name == plant.id);
    let expected = matrix::PLANTS.iter().enumerate();
    let chosen: Vec<_> = expected
        .filter(|(at, plant)| only.is_empty() || gate && *at < 6 || is_named(plant))
        .map(|(_, plant)| *plant)
        .collect();
    let (binary, out) = (place.binary()?, place.out()?);
    let missed = matrix::catch(&chosen, control, seed, (&binary, &out), jobs);
    let (good, all) = (chosen.len() - missed.len(), chosen.len());
    let what =
        if control { "runs green without their planted bugs" } else { "planted bugs caught" };
    println!("{good} of {all} {what}");
    Ok(ExitCode::from(u8::from(!missed.is_empty() || chosen.is_empty())))
}

fn doctor(place: &Place) -> Result<ExitCode, String> {
    let binary = place.binary()?;
    let entered = hosts::enter_own_world();
    let mut missing = 0;
    for need in hosts::doctor::examine(&entered, &binary) {
        match need.missing {
            None => println!("ok       {:<14} {}", need.name, need.purpose),
            Some(why) => {
                missing += 1;
                println!("MISSING  {:<14} {} ({why})", need.name, need.purpose);
            }
        }
    }
    println!("faults: {}", nemesis::ALL.map(Fault::name).join(" "));
    println!("workloads: {}", workload::ALL.map(Kind::name).join(" "));
    println!("through CQL: {}", workload::CQL.map(Kind::name).join(" "));
    Ok(ExitCode::from(u8::from(missing > 0)))
}
