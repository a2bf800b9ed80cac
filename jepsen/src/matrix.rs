//! Many runs: every workload under every fault, or planted bugs that must be caught. Each run is a
//! process of its own (its network namespaces are), so that several may go at once.

use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::time::Instant;

use crate::nemesis::Fault;
use crate::report::{summary, word};
use crate::verdict::{Result as CellResult, Verdict};
use crate::workload::Kind;

/// One run to be made.
#[derive(Debug, Clone)]
pub struct Cell {
    /// Beside each other on one cluster.
    pub workloads: Vec<Kind>,
    /// The fault.
    pub nemesis: Fault,
    /// Seconds.
    pub seconds: u64,
    /// For all draws.
    pub seed: u64,
    /// The planted bug.
    pub plant: Option<&'static str>,
    /// The planted bug is left out: what is seen in this run is not its doing.
    pub control: bool,
    /// More of what `henge-jepsen run` takes.
    pub more: Vec<String>,
}

impl Cell {
    fn directory(&self, base: &Path) -> PathBuf {
        let control = if self.control { "-control" } else { "" };
        let plant = self.plant.map(|plant| format!("-{plant}{control}")).unwrap_or_default();
        base.join(format!("{}{plant}-{}", self.nemesis.name(), self.seed))
    }

    /// Runs it in a child process; its results as far as there are any, and what it said otherwise.
    fn run(&self, binary: &Path, base: &Path) -> (Vec<CellResult>, String) {
        let directory = self.directory(base);
        let names: Vec<&str> = self.workloads.iter().map(|kind| kind.name()).collect();
        let mut command = Command::new("/proc/self/exe");
        command.args(["run", "--workload", &names.join(","), "--nemesis", self.nemesis.name()]);
        command.args(["--time", &format!("{}s", self.seconds), "--seed", &self.seed.to_string()]);
        command.arg("--henge").arg(binary).arg("--out").arg(&directory);
        if let Some(plant) = self.plant.filter(|_| !self.control) {
            command.args(["--plant", plant]);
        }
        command.args(&self.more);
        let output = match command.stdin(Stdio::null()).output() {
            Ok(output) => output,
            Err(error) => return (Vec::new(), error.to_string()),
        };
        let results = self.workloads.iter().filter_map(|kind| {
            let path = directory.join(format!("{}.json", kind.name()));
            serde_json::from_slice(&std::fs::read(path).ok()?).ok()
        });
        (results.collect(), String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

/// Runs all cells, `jobs` at a time, and hands each result to `done` as it comes.
pub fn run_all(
    cells: Vec<Cell>,
    binary: &Path,
    base: &Path,
    jobs: usize,
    done: impl Fn(&Cell, Vec<CellResult>, String, u64) + Sync,
) {
    let queue = Mutex::new(VecDeque::from(cells));
    std::thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                loop {
                    let next =
                        queue.lock().unwrap_or_else(std::sync::PoisonError::into_inner).pop_front();
                    let Some(cell) = next else { return };
                    let began = Instant::now();
                    let (results, said) = cell.run(binary, base);
                    done(&cell, results, said, began.elapsed().as_secs());
                }
            });
        }
    });
}

/// Runs cells that must be green; prints a table. False if one is not.
pub fn prove(cells: Vec<Cell>, binary: &Path, base: &Path, jobs: usize) -> bool {
    let table: Mutex<Table> = Mutex::default();
    let missing = Mutex::new(0);
    let began = Instant::now();
    run_all(cells, binary, base, jobs, |cell, results, said, took| {
        println!("--- {} ({took} s)", cell.directory(base).display());
        for result in &results {
            if result.verdict == Verdict::Ok {
                println!("{}", summary(result).lines().next().unwrap_or_default());
            } else {
                println!("{}", summary(result));
            }
        }
        if results.len() < cell.workloads.len() {
            println!("no result: {said}");
            *missing.lock().unwrap_or_else(std::sync::PoisonError::into_inner) += 1;
        }
        let mut table = table.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        for result in results {
            enter(&mut table, result);
        }
    });
    let table = table.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    let missing = missing.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    println!("\n{}", markdown(&table));
    let green = table.values().filter(|verdict| **verdict == Verdict::Ok).count();
    println!(
        "{green} of {} cells ok, {missing} runs without a result, {} s",
        table.len(),
        began.elapsed().as_secs()
    );
    missing == 0 && green == table.len() && green > 0
}

/// What was shown under each fault (first) by each workload.
pub type Table = BTreeMap<(String, String), Verdict>;

/// The worst of several runs of a cell counts.
pub fn enter(table: &mut Table, result: CellResult) {
    let cell = table.entry((result.nemesis, result.workload)).or_insert(result.verdict);
    *cell = cell.or_worse(result.verdict);
}

/// Faults down, workloads across.
pub fn markdown(table: &Table) -> String {
    let mut workloads: Vec<&str> = table.keys().map(|(_, workload)| workload.as_str()).collect();
    workloads.sort_unstable();
    workloads.dedup();
    let mut text =
        format!("| | {} |\n|---|{}\n", workloads.join(" | "), "---|".repeat(workloads.len()));
    let mut faults: Vec<&str> = table.keys().map(|(fault, _)| fault.as_str()).collect();
    faults.dedup();
    for fault in faults {
        let cells: Vec<&str> = workloads
            .iter()
            .map(|workload| {
                let verdict = table.get(&(fault.to_owned(), (*workload).to_owned()));
                match verdict {
                    None => "–",
                    Some(Verdict::Ok) => "ok",
                    Some(other) => word(*other),
                }
            })
            .collect();
        text.push_str(&format!("| {fault} | {} |\n", cells.join(" | ")));
    }
    text
}

/// A planted bug, and where it must show.
#[derive(Debug, Clone, Copy)]
pub struct Planted {
    /// Its id in `henge`'s `plants`.
    pub id: &'static str,
    /// What it does.
    pub what: &'static str,
    /// The workloads, one of which has to fail.
    pub workloads: &'static [Kind],
    /// Under which fault.
    pub nemesis: Fault,
    /// For how many seconds.
    pub seconds: u64,
    /// More of what `henge-jepsen run` takes: settings that leave the planted mechanism alone with
    /// the work, a fault that lasts longer. Without the bug the same run is green.
    pub more: &'static [&'static str],
}

const fn planted(
    id: &'static str,
    workloads: &'static [Kind],
    nemesis: Fault,
    seconds: u64,
    what: &'static str,
) -> Planted {
    Planted { id, what, workloads, nemesis, seconds, more: &[] }
}

impl Planted {
    const fn with(self, more: &'static [&'static str]) -> Self {
        Self { more, ..self }
    }
}

/// Only hints bring a replica what it has missed.
const HINTS_ONLY: &[&str] = &["--set=repair.interval_ms=0"];

/// Only hash trees do; scrubbing would make good what they miss. A partition that is over before
/// it is noticed is none: requests wait in the connections, and arrive.
const TREES_ONLY: &[&str] =
    &["--set=hints.enabled=false", "--set=repair.scrub_percent=0", "--lasts=10s"];

/// Only reads do.
const READS_ONLY: &[&str] = &["--set=hints.enabled=false", "--set=repair.interval_ms=0"];

/// Those that this harness must catch. The first six are the gate's.
pub const PLANTS: &[Planted] = &[
    planted("P05", &[Kind::Register], Fault::PartitionOne, 20, "a serial read is a quorum read"),
    planted(
        "P09",
        &[Kind::Register],
        Fault::PartitionOne,
        20,
        "a condition is judged on one replica",
    ),
    planted("P13", &[Kind::Monotonic], Fault::PartitionOne, 20, "a read takes one answer too few"),
    planted("P18", &[Kind::Siblings], Fault::None, 10, "a PUT replaces all siblings"),
    planted("P11", &[Kind::Set], Fault::Power, 20, "a write is acknowledged before it is synced"),
    planted("P34", &[Kind::Lock], Fault::None, 15, "fences begin anew"),
    planted("P01", &[Kind::Register], Fault::Loss, 45, "a proposer ignores what others accepted"),
    planted("P03", &[Kind::Register], Fault::Power, 60, "a vote is answered before it is durable"),
    planted("P10", &[Kind::Register], Fault::Loss, 45, "a transaction proposed again is another"),
    planted(
        "P12",
        &[Kind::Set, Kind::Monotonic],
        Fault::Bridge,
        45,
        "the coordinator's copy counts twice",
    ),
    planted("P15", &[Kind::Monotonic], Fault::ClockJump, 60, "stamps come from the raw clock"),
    planted("P17", &[Kind::Siblings], Fault::Power, 60, "a dot leaves before it is on disk"),
    planted("P32", &[Kind::Set], Fault::PartitionOne, 45, "\"did not happen\" of what may have"),
    planted(
        "P16",
        &[Kind::Set, Kind::Siblings],
        Fault::SlowRefill,
        60,
        "dots begin anew after a wipe",
    ),
    planted(
        "P22",
        &[Kind::Set, Kind::Converge],
        Fault::PartitionOne,
        45,
        "a hint replaces what it meets",
    )
    .with(HINTS_ONLY),
    planted(
        "P23",
        &[Kind::Monotonic],
        Fault::PartitionOne,
        60,
        "an answer does not wait for its repair",
    )
    .with(READS_ONLY),
    planted("P20", &[Kind::Resurrect], Fault::PartitionOne, 90, "tombstones go by age alone")
        // Two nodes have to have looked for old tombstones while the third is away.
        .with(&["--set=hints.enabled=false", "--lasts=25s"]),
    planted("P21", &[Kind::Converge], Fault::RollingCut, 30, "hints are lost on a restart")
        .with(HINTS_ONLY),
    planted("P24", &[Kind::Converge], Fault::PartitionOne, 30, "digests leave deletion marks out")
        .with(TREES_ONLY),
    planted("P25", &[Kind::Converge], Fault::PartitionOne, 30, "hash trees do not see deletions")
        .with(TREES_ONLY),
    planted("P33", &[Kind::Converge], Fault::HangUp, 30, "a client that hangs up ends its write")
        .with(HINTS_ONLY),
    // Where every node holds a copy, none sends an increment to another one.
    planted("P35", &[Kind::CqlCounter], Fault::OneWay, 60, "an increment sent again is another")
        .with(&["--nodes=5", "--replicas=3"]),
    planted(
        "P36",
        &[Kind::CqlMonotonic],
        Fault::ClockRestart,
        45,
        "stamps begin anew with a start",
    ),
];

/// Runs planted bugs; each must make one of its workloads fail. With the names of those that did
/// not. As a `control` the same runs are made without the bugs, and all must be green.
pub fn catch(
    plants: &[Planted],
    control: bool,
    seed: u64,
    (binary, base): (&Path, &Path),
    jobs: usize,
) -> Vec<String> {
    let cells = plants.iter().map(|plant| Cell {
        workloads: plant.workloads.to_vec(),
        nemesis: plant.nemesis,
        seconds: plant.seconds,
        seed,
        plant: Some(plant.id),
        control,
        more: plant.more.iter().map(|more| (*more).to_owned()).collect(),
    });
    let missed = Mutex::new(Vec::new());
    run_all(cells.collect(), binary, base, jobs, |cell, results, said, took| {
        let plant = cell.plant.unwrap_or_default();
        let what = plants.iter().find(|known| known.id == plant).map_or("", |known| known.what);
        let caught = results.iter().find(|result| result.verdict == Verdict::Failed);
        let all = results.len() == cell.workloads.len();
        let is_green = all && results.iter().all(|result| result.verdict == Verdict::Ok);
        match caught {
            Some(result) if !control => println!(
                "caught {plant} ({what}) in {took} s: {} × {}: {}",
                result.workload,
                result.nemesis,
                result.why.first().map_or("", String::as_str)
            ),
            None if control && is_green => println!("green without {plant} ({what}), in {took} s"),
            _ => {
                let verb = if control { "NOT GREEN without" } else { "MISSED" };
                println!("{verb} {plant} ({what}) in {took} s {said}");
                for result in &results {
                    println!("{}", summary(result));
                }
                let mut missed = missed.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                missed.push(plant.to_owned());
            }
        }
    });
    missed.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_several_runs_of_a_cell_the_worst_counts() {
        let mut table = Table::new();
        let mut verdicts = Vec::new();
        for verdict in
            [Verdict::Ok, Verdict::Unknown, Verdict::Failed, Verdict::Vacuous, Verdict::Ok]
        {
            enter(&mut table, result("kill", "set", verdict));
            verdicts.extend(table.values().copied());
        }
        let failed = Verdict::Failed;
        assert_eq!(verdicts, [Verdict::Ok, Verdict::Unknown, failed, failed, failed]);
    }

    fn result(nemesis: &str, workload: &str, verdict: Verdict) -> CellResult {
        CellResult {
            workload: workload.to_owned(),
            nemesis: nemesis.to_owned(),
            seed: 1,
            nodes: 3,
            plant: None,
            seconds: 1,
            verdict,
            why: Vec::new(),
            stats: BTreeMap::new(),
            keys: 0,
            effects: Vec::new(),
            breaches: Vec::new(),
            notes: Vec::new(),
        }
    }

    #[test]
    fn the_table_has_a_row_per_fault_and_marks_what_is_not_green() {
        let cell = |fault: &str, workload: &str| (fault.to_owned(), workload.to_owned());
        let table = BTreeMap::from([
            (cell("kill", "bank"), Verdict::Ok),
            (cell("kill", "set"), Verdict::Failed),
            (cell("loss", "set"), Verdict::Vacuous),
        ]);
        let text = markdown(&table);
        assert!(text.contains("| | bank | set |"), "{text}");
        assert!(text.contains("| kill | ok | FAILED |"), "{text}");
        assert!(text.contains("| loss | – | VACUOUS |"), "{text}");
    }
}
