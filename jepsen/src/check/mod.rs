//! What a checker finds. The checkers themselves stand beside the clients whose histories they
//! judge (`workload`): each knows what its operations promise, and nothing of how a node works.

#[cfg(test)]
mod cross;

use serde::{Deserialize, Serialize};

use crate::history::Op;

/// A promise that was broken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Breach {
    /// On which key.
    pub key: String,
    /// Which promise, and how.
    pub what: String,
    /// The operations that prove it, as lines.
    pub proof: Vec<String>,
}

/// The outcome of judging a history.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Judgement {
    /// Keys looked at.
    pub keys: usize,
    /// Keys on which the search was too long.
    pub undecided: usize,
    /// Promises broken.
    pub breaches: Vec<Breach>,
    /// What is allowed and worth knowing.
    pub notes: Vec<String>,
}

impl Judgement {
    /// Adds a breach.
    pub fn breach(&mut self, key: &str, what: impl Into<String>, proof: &[&Op]) {
        let proof = proof.iter().map(|op| line(op)).collect();
        self.breaches.push(Breach { key: key.to_owned(), what: what.into(), proof });
    }
}

/// An operation for people.
pub fn line(op: &Op) -> String {
    let seconds = |t: u64| format!("{:.4}", t as f64 / 1e9);
    let end = op.end.map_or("…".to_owned(), |end| seconds(end.t));
    format!(
        "{}–{end} s  p{} n{}  {} {} → {:?} {}",
        seconds(op.call.t),
        op.process,
        op.node + 1,
        op.f,
        op.asked,
        op.outcome,
        op.learnt
    )
}

/// A history of the key `k` for tests, one line per operation: process, kind, mark of the call,
/// mark of the end or `-`, what was asked as JSON, the outcome, what was learnt.
#[cfg(test)]
pub fn told(text: &str) -> crate::history::History {
    use crate::history::{History, Mark, Outcome};
    let mut history = History::default();
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let mut words = line.splitn(5, ' ');
        let mut word = || words.next().expect("five words");
        let (process, f, call, end, rest) = (word(), word(), word(), word(), word());
        let mut values = serde_json::Deserializer::from_str(rest).into_iter();
        let asked = values.next().expect("what was asked").expect("JSON");
        let rest = rest[values.byte_offset()..].trim();
        let (outcome, learnt) = rest.split_once(' ').expect("an outcome and a value");
        let outcome: Outcome =
            serde_json::from_value(serde_json::json!(outcome)).expect("an outcome");
        let mark = |text: &str| Mark { i: text.parse().expect("a mark"), t: 0 };
        history.ops.push(Op {
            process: process.parse().expect("a process"),
            node: 0,
            f: f.to_owned(),
            key: "k".to_owned(),
            asked,
            call: mark(call),
            end: (end != "-").then(|| mark(end)),
            outcome,
            learnt: serde_json::from_str(learnt).expect("JSON"),
        });
    }
    history
}
