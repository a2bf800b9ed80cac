//! What a run has shown. Four verdicts, of which one is green:
//!
//! - `ok`: every promise held, and the run could have shown otherwise.
//! - `failed`: a promise was broken, or a node panicked.
//! - `vacuous`: it could not have shown anything: too few operations succeeded, or none met a fault.
//! - `unknown`: the harness could not tell: a search was too long, a fault had no visible effect,
//!   a node did not come back, final reads are missing.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::check::Breach;
use crate::history::{History, Op, Outcome};
use crate::nemesis::Effect;
use crate::run::Ended;
use crate::session::STRANGE;
use crate::workload::Kind;

/// The four.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// Green.
    Ok,
    /// A promise was broken.
    Failed,
    /// Nothing could have been seen.
    Vacuous,
    /// Nobody can tell.
    Unknown,
}

impl Verdict {
    /// Of two runs of the same, the one that counts.
    pub fn or_worse(self, other: Self) -> Self {
        let weight = |verdict| match verdict {
            Self::Ok => 0,
            Self::Vacuous => 1,
            Self::Unknown => 2,
            Self::Failed => 3,
        };
        if weight(other) > weight(self) { other } else { self }
    }
}

/// How often each kind of operation ended how, and how long it took.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stats {
    /// Took effect.
    pub ok: u64,
    /// Of those, conditions that did not hold, locks that others held.
    pub refused: u64,
    /// Did not.
    pub fail: u64,
    /// Open.
    pub info: u64,
    /// Microseconds, of those that took effect: median …
    pub p50_us: u64,
    /// … and 99th percentile.
    pub p99_us: u64,
}

/// The result of one workload under one fault.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Result {
    /// What the clients did.
    pub workload: String,
    /// What was done to the nodes.
    pub nemesis: String,
    /// Seed of the run.
    pub seed: u64,
    /// Number of nodes.
    pub nodes: usize,
    /// The planted bug.
    pub plant: Option<String>,
    /// Seconds under load.
    pub seconds: u64,
    /// What it showed.
    pub verdict: Verdict,
    /// Why it is not green.
    pub why: Vec<String>,
    /// By kind of operation.
    pub stats: BTreeMap<String, Stats>,
    /// Keys used.
    pub keys: usize,
    /// What the faults did.
    pub effects: Vec<Effect>,
    /// Promises broken.
    pub breaches: Vec<Breach>,
    /// What is allowed and worth knowing.
    pub notes: Vec<String>,
}

/// Weighs a history.
pub fn judge(kind: Kind, history: &History, run: &Ended<'_>, time: Duration) -> Result {
    let mut judgement = kind.judge(history);
    let stats = stats(history);
    let mut vacuous = too_few(kind, &stats, time);
    let mut unknown = Vec::new();
    let faults = history.header.nemesis != "none";
    if faults && run.trouble.is_none() {
        if run.effects.is_empty() {
            vacuous.push("no fault struck".to_owned());
        }
        for effect in run.effects.iter().filter(|effect| !effect.seen) {
            let Effect { fault, detail, probe, .. } = effect;
            unknown.push(format!("{fault} ({detail}) had no visible effect: {probe}"));
        }
        if !met(history) {
            vacuous.push("no operation met a fault".to_owned());
        }
    }
    unknown.extend(run.trouble.map(str::to_owned));
    if judgement.undecided > 0 {
        unknown.push(format!("the search was too long on {} keys", judgement.undecided));
    }
    if !run.complete {
        unknown.push("final reads are missing".to_owned());
    }
    for panic in run.panics {
        judgement.breaches.push(Breach {
            key: String::new(),
            what: format!("a node panicked: {panic}"),
            proof: Vec::new(),
        });
    }
    for op in history.ops.iter().filter(|op| is_strange(op)) {
        judgement.breach(&op.key, "an answer in which what was asked for does not stand", &[op]);
    }
    judgement.breaches.truncate(20);
    let (verdict, why) = if !judgement.breaches.is_empty() {
        let told = judgement.breaches.iter().map(|b| format!("{}: {}", b.key, b.what));
        (Verdict::Failed, told.take(5).collect())
    } else if !unknown.is_empty() {
        (Verdict::Unknown, unknown)
    } else if !vacuous.is_empty() {
        (Verdict::Vacuous, vacuous)
    } else {
        (Verdict::Ok, Vec::new())
    };
    let mut notes = judgement.notes;
    notes.extend(run.notes.iter().cloned());
    Result {
        workload: kind.name().to_owned(),
        nemesis: history.header.nemesis.clone(),
        seed: history.header.seed,
        nodes: history.header.nodes,
        plant: history.header.plant.clone(),
        seconds: time.as_secs(),
        verdict,
        why,
        stats,
        keys: judgement.keys,
        effects: run.effects.to_vec(),
        breaches: judgement.breaches,
        notes,
    }
}

/// It was answered as done, by something that its client could make nothing of.
fn is_strange(op: &Op) -> bool {
    let said = op.learnt_text().filter(|_| !op.is_ok());
    said.is_some_and(|said| said.starts_with(STRANGE))
}

fn stats(history: &History) -> BTreeMap<String, Stats> {
    let mut stats: BTreeMap<String, (Stats, Vec<u64>)> = BTreeMap::new();
    for op in &history.ops {
        let (stats, took) = stats.entry(op.f.clone()).or_default();
        match op.outcome {
            Outcome::Ok => {
                stats.ok += 1;
                let is_refused =
                    op.learnt.get("refused").is_some() || op.learnt.get("held").is_some();
                stats.refused += u64::from(is_refused);
                took.extend(op.end.map(|end| (end.t - op.call.t) / 1_000));
            }
            Outcome::Fail => stats.fail += 1,
            Outcome::Info => stats.info += 1,
        }
    }
    let finished = stats.into_iter().map(|(f, (mut stats, mut took))| {
        took.sort_unstable();
        let at = |percent: usize| {
            took.get((took.len().max(1) - 1) * percent / 100).copied().unwrap_or_default()
        };
        (stats.p50_us, stats.p99_us) = (at(50), at(99));
        (f, stats)
    });
    finished.collect()
}

/// Fewer than half of all operations, or fewer than fifty a minute of a kind, succeeded.
fn too_few(kind: Kind, stats: &BTreeMap<String, Stats>, time: Duration) -> Vec<String> {
    let mut why = Vec::new();
    let ok: u64 = stats.values().map(|stats| stats.ok).sum();
    let all: u64 = stats.values().map(|stats| stats.ok + stats.fail + stats.info).sum();
    if ok * 2 < all {
        why.push(format!("only {ok} of {all} operations succeeded"));
    }
    let least = (50 * time.as_secs() / 60).clamp(5, 50);
    for f in kind.required() {
        let done = stats.get(*f).map_or(0, |stats| stats.ok - stats.refused);
        if done < least {
            why.push(format!("only {done} of {f} succeeded"));
        }
    }
    why
}

/// Did any operation overlap any fault?
fn met(history: &History) -> bool {
    let begun = |at: u64| {
        let before = history.faults.iter().filter(|fault| fault.at.t <= at);
        before.fold(0i32, |open, fault| open + if fault.name.starts_with("begin") { 1 } else { -1 })
    };
    history.ops.iter().any(|op| begun(op.call.t) > 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::told;

    fn verdict(history: &str) -> Verdict {
        let mut history = told(history);
        history.header.nemesis = "none".to_owned();
        let run = Ended { effects: &[], notes: &[], panics: &[], trouble: None, complete: true };
        judge(Kind::Counter, &history, &run, Duration::from_secs(1)).verdict
    }

    #[test]
    fn an_answer_that_makes_no_sense_is_a_breach_and_a_refused_one_is_none() {
        let counted = (0..10).map(|n| {
            let (at, next) = (n * 4, n + 1);
            format!(
                "1 increment {} {} {next} ok true\n1 read {} {} null ok {next}\n",
                at,
                at + 1,
                at + 2,
                at + 3
            )
        });
        let counted: String = counted.collect();
        assert_eq!(verdict(&counted), Verdict::Ok);
        let refused = counted.clone() + "2 read 90 91 null fail \"unavailable\"";
        assert_eq!(verdict(&refused), Verdict::Ok);
        let strange = counted.clone() + &format!("2 read 90 91 null fail \"{STRANGE} (300)\"");
        assert_eq!(verdict(&strange), Verdict::Failed);
        assert_eq!(verdict("1 read 0 1 null ok 0"), Verdict::Vacuous);
    }
}
