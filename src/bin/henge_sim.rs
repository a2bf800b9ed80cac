//! `henge-sim`: runs, replays and shrinks simulated cluster histories. `--help` tells how.
#![allow(
    clippy::disallowed_methods,
    reason = "drives simulations from outside: real threads, and how long they really took"
)]

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use clap::{Args, Parser, Subcommand};
use henge::plants::{plant_named, set_plant};
use henge::sim::check::{Check, check};
use henge::sim::generate::{Size, generate};
use henge::sim::history::History;
use henge::sim::plan::Plan;
use henge::sim::run::{Report, run, run_with};
use henge::sim::shrink::shrink;

const HELP: &str = "\
A seed makes a plan (nodes, network, client script, faults), a plan makes a run. The run is
deterministic: one plan gives one trace hash, in any process.

  henge-sim --seed 7                     one run
  henge-sim --seeds 0..5000 --jobs 2     many; failures leave a directory each under --out
  henge-sim --plan out/seed-7/plan.json  the same run again, exactly
  henge-sim --seed 7 --shrink            a failing plan, cut down to what still fails alike
  henge-sim --seed 7 --plant P13         with a planted bug: the checks must notice
  henge-sim plants                       every planted bug, each within its number of seeds
  henge-sim check out/seed-7/history.ndjson   judge a history alone

A failing run leaves plan.json, history.ndjson, report.json and events.txt (the latest events).

Exit codes: 0 all is well; 1 a promise was broken; 2 wrong usage; 3 some run proved too little
(fewer operations than planned, fewer than half of them successful, or fewer faults that took effect
than --min-effects).";

#[derive(Parser)]
#[command(name = "henge-sim", about = "Simulates whole Henge clusters under faults", after_help = HELP)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    run: RunArgs,
}

#[derive(Subcommand)]
enum Command {
    /// Switches on each planted bug in turn: each must be caught by the check that is named for
    /// it, and the clean code must pass the same seeds.
    Plants(PlantArgs),
    /// Judges a recorded history.
    Check {
        /// A history.ndjson.
        history: PathBuf,
    },
}

#[derive(Args)]
struct SizeArgs {
    /// Client operations of each run.
    #[arg(long, default_value_t = Size::default().operations)]
    ops: u32,
    /// Faults planned for each run.
    #[arg(long, default_value_t = Size::default().faults)]
    faults: u32,
    /// Runs at a time.
    #[arg(long, default_value_t = 2)]
    jobs: usize,
}

impl SizeArgs {
    fn size(&self) -> Size {
        Size { operations: self.ops, faults: self.faults }
    }
}

#[derive(Args)]
struct RunArgs {
    /// Run this seed.
    #[arg(long, conflicts_with_all = ["seeds", "plan"])]
    seed: Option<u64>,
    /// Run these seeds, FIRST..END (END excluded).
    #[arg(long, value_parser = seed_range, conflicts_with = "plan")]
    seeds: Option<std::ops::Range<u64>>,
    /// Run this plan.
    #[arg(long)]
    plan: Option<PathBuf>,
    #[command(flatten)]
    size: SizeArgs,
    /// Switch on this planted bug (see `henge-sim plants`).
    #[arg(long)]
    plant: Option<String>,
    /// Cut a failing plan down, and keep what is left.
    #[arg(long)]
    shrink: bool,
    /// Print nothing but seed and trace hash of each run.
    #[arg(long)]
    hash_only: bool,
    /// Where failing runs leave their traces.
    #[arg(long, default_value = "target/sim")]
    out: PathBuf,
    /// Write every event of a single run to this file.
    #[arg(long)]
    trace: Option<PathBuf>,
    /// Faults that must have taken effect in a run for it to prove anything.
    #[arg(long, default_value_t = 20)]
    min_effects: usize,
    /// Show the nodes' own log on stderr (single runs).
    #[arg(long)]
    log: bool,
}

#[derive(Args)]
struct PlantArgs {
    /// Seeds that each bug may take.
    #[arg(long, default_value_t = 500)]
    seeds: u64,
    /// First seed.
    #[arg(long, default_value_t = 0)]
    first: u64,
    /// Only these bugs.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Leave out the run of the clean code over the same seeds.
    #[arg(long)]
    skip_clean: bool,
    #[command(flatten)]
    size: SizeArgs,
}

/// The planted bugs, with the checks of the test plan of which one must name each.
const PLANTS: &[(&str, &[Check])] = &[
    ("P01", &[Check::W1]),
    ("P02", &[Check::W1, Check::I7]),
    ("P03", &[Check::W1, Check::I7]),
    ("P04", &[Check::W1, Check::I6, Check::I7]),
    ("P05", &[Check::W1]),
    ("P06", &[Check::W1]),
    ("P07", &[Check::W1]),
    ("P09", &[Check::W1]),
    ("P10", &[Check::W1]),
    ("P11", &[Check::W4]),
    ("P12", &[Check::W4, Check::W9]),
    ("P13", &[Check::W9, Check::W10]),
    ("P15", &[Check::W9, Check::W10]),
    ("P16", &[Check::W5Lost, Check::W5DotReuse]),
    ("P17", &[Check::W5DotReuse]),
    ("P18", &[Check::W5Lost]),
    ("P19", &[Check::W5Lost]),
    ("P20", &[Check::W11, Check::I13]),
    ("P20Row", &[Check::W14, Check::W19, Check::I13]),
    ("Ttl", &[Check::W11]),
    ("P21", &[Check::W12]),
    ("P22", &[Check::W5Lost]),
    ("P23", &[Check::W10, Check::I18]),
    ("P24", &[Check::W12, Check::I14]),
    ("P24Live", &[Check::W12, Check::I14]),
    ("P24Map", &[Check::W12, Check::I14]),
    ("P24Mark", &[Check::W12, Check::I14]),
    ("P24Range", &[Check::W12, Check::I14]),
    ("P24Row", &[Check::W12, Check::I14]),
    ("P24Ttl", &[Check::W12, Check::I14]),
    ("P25", &[Check::W12, Check::I14]),
    ("P26", &[Check::W12]),
    ("NoTrees", &[Check::W12, Check::I14]),
    ("P30", &[Check::W5Invented, Check::I2]),
    ("P31", &[Check::W5Lost, Check::I20]),
    ("P32", &[Check::W5Invented, Check::I2]),
    ("P33", &[Check::W12]),
    ("P34", &[Check::W7]),
    ("P35", &[Check::W6]),
    ("P36", &[Check::W9, Check::I22]),
    ("P37", &[Check::W1]),
    ("P40", &[Check::W19]),
    ("P42", &[Check::W19]),
    ("P43", &[Check::W19]),
    ("P44", &[Check::W20]),
    ("P45", &[Check::W20]),
];

fn seed_range(text: &str) -> Result<std::ops::Range<u64>, String> {
    let usage = || format!("{text:?} is not FIRST..END, such as 0..500");
    let (first, end) = text.split_once("..").ok_or_else(usage)?;
    let (first, end) = (first.parse().map_err(|_| usage())?, end.parse().map_err(|_| usage())?);
    if first < end { Ok(first..end) } else { Err(usage()) }
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    if std::env::var_os("HENGE_SIM_BACKTRACE").is_none() {
        // A panic inside a node is a finding of the run, not noise on the terminal.
        std::panic::set_hook(Box::new(|_| {}));
    }
    let result = match cli.command {
        Some(Command::Plants(args)) => plants(&args),
        Some(Command::Check { history }) => check_history(&history),
        None => run_all(&cli.run),
    };
    result.unwrap_or_else(|problem| {
        eprintln!("henge-sim: {problem}");
        ExitCode::from(2)
    })
}

fn check_history(path: &Path) -> Result<ExitCode, String> {
    let text = std::fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?;
    let violations = check(&History::from_ndjson(&text)?);
    for violation in &violations {
        println!("{violation}");
    }
    println!("{} violations", violations.len());
    Ok(ExitCode::from(u8::from(!violations.is_empty())))
}

fn switch_on(plant: Option<&str>) -> Result<(), String> {
    let plant = plant.map(|name| plant_named(name).ok_or_else(|| format!("no plant {name:?}")));
    set_plant(plant.transpose()?);
    Ok(())
}

fn run_all(args: &RunArgs) -> Result<ExitCode, String> {
    switch_on(args.plant.as_deref())?;
    if let Some(seeds) = &args.seeds {
        return Ok(run_many(args, seeds.clone()));
    }
    let plan = match (&args.plan, args.seed) {
        (Some(path), _) => {
            let text = std::fs::read_to_string(path);
            Plan::from_json(&text.map_err(|e| format!("{}: {e}", path.display()))?)?
        }
        (None, Some(seed)) => generate(seed, args.size.size()),
        (None, None) => return Err("give --seed, --seeds or --plan; see --help".to_owned()),
    };
    if args.log {
        tracing_subscriber::fmt()
            .with_writer(std::io::stderr)
            .with_max_level(tracing::Level::DEBUG)
            .with_ansi(false)
            .without_time()
            .init();
    }
    let (begun, planned) = (Instant::now(), plan.script.len());
    let report = run_with(plan.clone(), args.trace.is_some());
    let took = begun.elapsed();
    if let Some(path) = &args.trace {
        write_events(path, &report).map_err(|e| format!("{}: {e}", path.display()))?;
    }
    print_one(args, &report, took);
    if report.passed() {
        return Ok(verdict(0, usize::from(is_vacuous(&report, planned, args.min_effects))));
    }
    let plan = if args.shrink { shrink_failure(plan, &report) } else { plan };
    leave_behind(&args.out, &plan, &report)?;
    Ok(verdict(1, 0))
}

fn verdict(failed: usize, vacuous: usize) -> ExitCode {
    match (failed, vacuous) {
        (0, 0) => ExitCode::SUCCESS,
        (0, _) => ExitCode::from(3),
        _ => ExitCode::from(1),
    }
}

fn is_vacuous(report: &Report, planned: usize, min_effects: usize) -> bool {
    report.operations < planned as u64
        || report.ok * 2 < report.operations
        || report.effects.len() < min_effects
}

fn print_one(args: &RunArgs, report: &Report, took: Duration) {
    if args.hash_only {
        println!("{} {:016x}", report.seed, report.trace_hash);
        return;
    }
    let Report { seed, operations, ok, unknown, virtual_ms, events, lives, .. } = report;
    println!("seed {seed}: {}", if report.passed() { "passed" } else { "FAILED" });
    println!("  operations {operations}, ok {ok}, unknown {unknown}");
    println!("  faults that took effect: {}", count_by_name(&report.effects));
    println!(
        "  lives of nodes {lives}, new histories {}, records purged {}",
        report.renewals, report.purged
    );
    println!(
        "  {events} events over {:.3} virtual seconds, trace {:016x}",
        *virtual_ms as f64 / 1e3,
        report.trace_hash
    );
    println!("  took {took:.3?}: {:.0} operations/s", rate(*operations, took));
    for violation in &report.violations {
        println!("  {violation}");
    }
}

fn rate(operations: u64, took: Duration) -> f64 {
    operations as f64 / took.as_secs_f64().max(1e-9)
}

fn count_by_name(names: &[&'static str]) -> String {
    let mut counts: BTreeMap<&str, u32> = BTreeMap::new();
    for name in names {
        *counts.entry(name).or_default() += 1;
    }
    let words: Vec<String> = counts.iter().map(|(name, count)| format!("{name} {count}")).collect();
    format!("{} ({})", names.len(), words.join(", "))
}

fn shrink_failure(plan: Plan, report: &Report) -> Plan {
    let wanted = report.violations[0].check;
    println!("  shrinking what breaks {wanted} …");
    let small = shrink(plan, wanted, Duration::from_secs(120));
    println!("  left: {} operations, {} faults", small.script.len(), small.faults.len());
    small
}

/// Writes what a failing run leaves, and says how to see it again.
fn leave_behind(out: &Path, plan: &Plan, report: &Report) -> Result<(), String> {
    let folder = out.join(format!("seed-{}", report.seed));
    let write = || -> std::io::Result<()> {
        std::fs::create_dir_all(&folder)?;
        std::fs::write(folder.join("plan.json"), plan.to_json())?;
        std::fs::write(folder.join("history.ndjson"), report.history.to_ndjson())?;
        let report_json = serde_json::to_string_pretty(report)?;
        std::fs::write(folder.join("report.json"), report_json)?;
        write_events(&folder.join("events.txt"), report)
    };
    write().map_err(|error| format!("{}: {error}", folder.display()))?;
    println!("  again: henge-sim --plan {}/plan.json", folder.display());
    Ok(())
}

fn write_events(path: &Path, report: &Report) -> std::io::Result<()> {
    let mut file = std::io::BufWriter::new(std::fs::File::create(path)?);
    for event in &report.recent {
        writeln!(file, "{event}")?;
    }
    file.flush()
}

/// What many runs add up to.
#[derive(Default)]
struct Sum {
    runs: usize,
    failed: usize,
    /// Seeds of the runs that proved too little.
    vacuous: Vec<u64>,
    operations: u64,
    busy: Duration,
    virtual_ms: u64,
    checks: BTreeMap<Check, u32>,
    effects: BTreeMap<&'static str, u64>,
    fewest_operations: Option<u64>,
    fewest_effects: Option<usize>,
    purged: u64,
    runs_with_purges: usize,
}

impl Sum {
    fn add(&mut self, report: &Report, took: Duration, planned: usize, min_effects: usize) {
        self.runs += 1;
        self.failed += usize::from(!report.passed());
        if is_vacuous(report, planned, min_effects) {
            self.vacuous.push(report.seed);
        }
        self.operations += report.operations;
        self.busy += took;
        self.virtual_ms += report.virtual_ms;
        self.purged += report.purged;
        self.runs_with_purges += usize::from(report.purged > 0);
        for violation in &report.violations {
            *self.checks.entry(violation.check).or_default() += 1;
        }
        for effect in &report.effects {
            *self.effects.entry(effect).or_default() += 1;
        }
        let fewest = self.fewest_operations.unwrap_or(u64::MAX).min(report.operations);
        self.fewest_operations = Some(fewest);
        let effects = report.effects.len();
        self.fewest_effects = Some(self.fewest_effects.map_or(effects, |e| e.min(effects)));
    }

    fn line(&self) -> String {
        format!(
            "{} runs, {} failed, {} prove too little; {:.1} M operations, {:.0} per core-second, \
             {:.0}x real time",
            self.runs,
            self.failed,
            self.vacuous.len(),
            self.operations as f64 / 1e6,
            rate(self.operations, self.busy),
            self.virtual_ms as f64 / 1e3 / self.busy.as_secs_f64().max(1e-9)
        )
    }
}

/// Runs `seeds` on `jobs` threads; `each` says whether to go on.
fn in_parallel(
    seeds: std::ops::Range<u64>,
    size: &SizeArgs,
    each: impl Fn(Plan, Report, Duration) -> bool + Sync,
) {
    let next = AtomicU64::new(seeds.start);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..size.jobs.max(1) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end || stop.load(Ordering::Relaxed) {
                        return;
                    }
                    let plan = generate(seed, size.size());
                    let begun = Instant::now();
                    let report = run(plan.clone());
                    if !each(plan, report, begun.elapsed()) {
                        stop.store(true, Ordering::Relaxed);
                    }
                }
            });
        }
    });
}

fn run_many(args: &RunArgs, seeds: std::ops::Range<u64>) -> ExitCode {
    let total = seeds.end - seeds.start;
    let sum = Mutex::new(Sum::default());
    let shown = Mutex::new(Instant::now());
    in_parallel(seeds, &args.size, |plan, report, took| {
        let Ok(mut sum) = sum.lock() else { return false };
        sum.add(&report, took, plan.script.len(), args.min_effects);
        if args.hash_only {
            println!("{} {:016x}", report.seed, report.trace_hash);
            return true;
        }
        if !report.passed() {
            print_one(args, &report, took);
            let plan = if args.shrink { shrink_failure(plan, &report) } else { plan };
            if let Err(problem) = leave_behind(&args.out, &plan, &report) {
                eprintln!("henge-sim: {problem}");
            }
        }
        if let Ok(mut last) = shown.lock()
            && last.elapsed() > Duration::from_secs(5)
        {
            *last = Instant::now();
            eprintln!("{}/{total}: {}", sum.runs, sum.line());
        }
        true
    });
    let Ok(sum) = sum.into_inner() else { return ExitCode::from(2) };
    if !args.hash_only {
        println!("{}", sum.line());
        let (operations, effects) = (sum.fewest_operations, sum.fewest_effects);
        println!("effects: {:?}", sum.effects);
        println!("records purged: {} in {} runs", sum.purged, sum.runs_with_purges);
        println!(
            "fewest in a run: {} operations, {} faults that took effect",
            operations.unwrap_or_default(),
            effects.unwrap_or_default()
        );
        if !sum.checks.is_empty() {
            println!("broken: {:?}", sum.checks);
        }
        if !sum.vacuous.is_empty() {
            println!("too little was proved by seeds {:?}", sum.vacuous);
        }
    }
    verdict(sum.failed, sum.vacuous.len())
}

fn plants(args: &PlantArgs) -> Result<ExitCode, String> {
    let is_known = |only: &String| PLANTS.iter().any(|(name, _)| only.eq_ignore_ascii_case(name));
    if let Some(unknown) = args.only.iter().find(|only| !is_known(only)) {
        let all: Vec<&str> = PLANTS.iter().map(|(name, _)| *name).collect();
        return Err(format!("no planted bug is called {unknown}: there are {}", all.join(", ")));
    }
    let wanted = |name: &str| {
        args.only.is_empty() || args.only.iter().any(|only| only.eq_ignore_ascii_case(name))
    };
    let seeds = args.first..args.first + args.seeds;
    let mut missed = 0;
    let mut furthest = args.first;
    for (name, checks) in PLANTS.iter().filter(|(name, _)| wanted(name)) {
        switch_on(Some(name))?;
        let begun = Instant::now();
        let caught = Mutex::new(None);
        let others = Mutex::new(BTreeMap::<Check, u32>::new());
        in_parallel(seeds.clone(), &args.size, |_, report, _| {
            let named = checks.iter().copied().find(|check| report.names(*check));
            if let (Some(check), Ok(mut caught)) = (named, caught.lock()) {
                let seed = report.seed;
                if caught.is_none_or(|(earlier, _)| seed < earlier) {
                    *caught = Some((seed, check));
                }
            }
            if let Ok(mut others) = others.lock() {
                for violation in &report.violations {
                    *others.entry(violation.check).or_default() += 1;
                }
            }
            named.is_none()
        });
        let took = begun.elapsed();
        let others = others.into_inner().unwrap_or_default();
        match caught.into_inner().ok().flatten() {
            Some((seed, check)) => {
                furthest = furthest.max(seed);
                println!("{name}: caught by {check} at seed {seed} in {took:.1?} {others:?}");
            }
            None => {
                missed += 1;
                println!("{name}: NOT caught by {checks:?} in {} seeds {others:?}", args.seeds);
            }
        }
    }
    switch_on(None)?;
    if args.skip_clean {
        return Ok(verdict(missed, 0));
    }
    let sum = Mutex::new(Sum::default());
    in_parallel(args.first..furthest + 1, &args.size, |_, report, took| {
        for violation in &report.violations {
            println!("clean code, seed {}: {violation}", report.seed);
        }
        sum.lock().map(|mut sum| sum.add(&report, took, 0, 0)).is_ok()
    });
    let sum = sum.into_inner().map_err(|_| "a run panicked".to_owned())?;
    println!("clean code on the same seeds: {}", sum.line());
    Ok(verdict(missed + sum.failed, 0))
}
