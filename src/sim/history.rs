//! What the clients of a run did and saw, in order, with the faults around it.
//!
//! Every write of a run has a number of its own, which its value carries, so that any bytes that
//! turn up anywhere lead back to the operation that wrote them (a register test with five values
//! notices 2 to 24 % of stale reads; with unique values it notices 80 to 91 %).
//!
//! Kept as operations with two marks each, because that is what checkers ask for; written and read
//! as newline-delimited JSON with one line per event (`invoke`, then `ok`, `fail` or `info`), which
//! other tools read too. What an answer means (`testing.md` §2.5):
//!
//! - `ok`: took effect between its marks. `fail`: said that it did not and will not take effect,
//!   and is held to it. `info`: may take effect at any time from its call on, or never.
//! - A retry under the same operation id is the same operation: one call, the last answer.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::types::{ActorId, Dot};

/// The number of a write, unique in its run.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct WriteId(pub u64);

/// A place in the history: its total order, and when.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Mark {
    /// Order of recording.
    pub i: u64,
    /// Virtual nanoseconds.
    pub t: u64,
}

/// Which promises a key's operations are held to.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub enum Workload {
    /// W4: unique elements added blindly to a key that keeps siblings.
    Set,
    /// W5: puts and deletes with and without context on a key that keeps siblings.
    Siblings,
    /// W9 and W10: a last-write-wins register.
    Register,
    /// W11: values that expire, on a key that keeps siblings.
    Expiring,
    /// W1: a register in a strong bucket: serial reads, writes, compare and set.
    Strong,
    /// W1: a key that keeps siblings and that conditional writes alone write.
    Conditional,
}

/// What was asked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Action {
    /// Show the key.
    Read,
    /// Store a value.
    Put {
        /// Its number.
        id: WriteId,
        /// The writes whose values its client had read when it got the context that it sends.
        seen: Vec<WriteId>,
    },
    /// Delete.
    Delete {
        /// The number that stands for the deletion.
        id: WriteId,
        /// As with a put; `None`: without a context, so it deletes what a quorum read shows.
        seen: Option<Vec<WriteId>>,
    },
    /// Store a value, or delete, if this is what stands there.
    Cas {
        /// The number of the write.
        id: WriteId,
        /// The value that must stand there; `None`: none may.
        expected: Option<WriteId>,
        /// Delete.
        delete: bool,
    },
}

impl Action {
    /// The number of the write, if it is one.
    #[must_use]
    pub fn write_id(&self) -> Option<WriteId> {
        match self {
            Self::Read => None,
            Self::Put { id, .. } | Self::Delete { id, .. } | Self::Cas { id, .. } => Some(*id),
        }
    }

    /// What the history calls it.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Put { .. } => "put",
            Self::Delete { .. } => "delete",
            Self::Cas { delete: false, .. } => "cas",
            Self::Cas { delete: true, .. } => "cas-delete",
        }
    }
}

/// One value that a read showed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Shown {
    /// The write that its bytes name, or the bytes themselves if they name none.
    pub value: Result<WriteId, String>,
    /// Its version.
    pub dot: Option<Dot>,
}

/// What the client learnt.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// The values of a read.
    Read(Vec<Shown>),
    /// A write took effect, as this version if it told.
    Written(Option<Dot>),
    /// A condition did not hold, as these values stood there.
    Refused(Vec<Shown>),
    /// It did not take effect and never will.
    NotApplied,
    /// Nothing is known.
    Unknown,
}

/// An operation.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Operation {
    /// Who: a process has one operation at a time, and is retired by an unknown outcome.
    pub process: u32,
    /// Through which node.
    pub node: u32,
    /// On what.
    pub key: String,
    /// What the key promises.
    pub workload: Workload,
    /// Read and write quorums meet: the level was a quorum or more.
    pub strong: bool,
    /// It came after healing, when everything must have settled.
    pub last: bool,
    /// What was asked.
    pub action: Action,
    /// Before the first byte left.
    pub call: Mark,
    /// After the last byte came; none if it never did.
    pub ret: Option<Mark>,
    /// What the client learnt; `Unknown` until then.
    pub outcome: Outcome,
}

impl Operation {
    /// True for a write that was acknowledged.
    #[must_use]
    pub fn acked(&self) -> bool {
        matches!(self.outcome, Outcome::Written(_))
    }

    /// True for a write that may have taken effect.
    #[must_use]
    pub fn may_have_happened(&self) -> bool {
        self.action.write_id().is_some()
            && !matches!(self.outcome, Outcome::NotApplied | Outcome::Refused(_))
    }

    /// This operation had ended before `other` began. One whose outcome is unknown has not ended:
    /// its client stopped waiting, and it may take effect at any later time.
    #[must_use]
    pub fn before(&self, other: &Self) -> bool {
        self.outcome != Outcome::Unknown && self.ret.is_some_and(|ret| ret.i < other.call.i)
    }

    /// The values shown, for a read that was answered.
    #[must_use]
    pub fn shown(&self) -> Option<&[Shown]> {
        match &self.outcome {
            Outcome::Read(shown) | Outcome::Refused(shown) => Some(shown),
            Outcome::Written(_) | Outcome::NotApplied | Outcome::Unknown => None,
        }
    }
}

/// A fault that began, ended or struck.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FaultMark {
    /// When.
    pub at: Mark,
    /// What, as `begin isolate`, `end isolate`, `power-loss`.
    pub name: String,
    /// Whom.
    pub detail: String,
}

/// The first line.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Header {
    /// Version of this format.
    pub henge_history: u32,
    /// Seed of the run.
    pub seed: u64,
    /// Number of nodes.
    pub nodes: u32,
    /// Names of the faults in the plan.
    pub nemesis: Vec<String>,
}

/// A run's history.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct History {
    /// The first line.
    pub header: Header,
    /// In order of their calls.
    pub operations: Vec<Operation>,
    /// In order.
    pub faults: Vec<FaultMark>,
    next: u64,
}

impl History {
    /// An empty history.
    #[must_use]
    pub fn new(seed: u64, nodes: u32, nemesis: Vec<String>) -> Self {
        let header = Header { henge_history: 1, seed, nodes, nemesis };
        Self { header, ..Self::default() }
    }

    fn mark(&mut self, t: u64) -> Mark {
        self.next += 1;
        Mark { i: self.next - 1, t }
    }

    /// Records a call; the number is for [`History::end`]. Its marks and outcome are set here.
    pub fn begin(&mut self, t: u64, operation: Operation) -> usize {
        let call = self.mark(t);
        self.operations.push(Operation { call, ret: None, outcome: Outcome::Unknown, ..operation });
        self.operations.len() - 1
    }

    /// Records how a call ended.
    pub fn end(&mut self, t: u64, number: usize, outcome: Outcome) {
        let ret = self.mark(t);
        if let Some(operation) = self.operations.get_mut(number) {
            operation.ret = Some(ret);
            operation.outcome = outcome;
        }
    }

    /// Records a fault.
    pub fn fault(&mut self, t: u64, name: impl Into<String>, detail: impl Into<String>) {
        let at = self.mark(t);
        self.faults.push(FaultMark { at, name: name.into(), detail: detail.into() });
    }

    /// The operations of each key, with their numbers.
    #[must_use]
    pub fn by_key(&self) -> BTreeMap<&str, Vec<usize>> {
        let mut keys: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
        for (n, operation) in self.operations.iter().enumerate() {
            keys.entry(&operation.key).or_default().push(n);
        }
        keys
    }

    /// The history as newline-delimited JSON, one line per event in order.
    #[must_use]
    pub fn to_ndjson(&self) -> String {
        let mut lines: Vec<(u64, Value)> = Vec::new();
        for (n, operation) in self.operations.iter().enumerate() {
            lines.push((operation.call.i, invoke_line(n, operation)));
            if let Some(ret) = operation.ret {
                lines.push((ret.i, end_line(n, ret, operation)));
            }
        }
        for FaultMark { at, name, detail } in &self.faults {
            let line = json!({"i": at.i, "t": at.t, "p": "nemesis", "type": "info",
                              "f": name, "v": detail});
            lines.push((at.i, line));
        }
        lines.sort_by_key(|(i, _)| *i);
        let mut out = serde_json::to_string(&self.header).unwrap_or_default();
        for (_, line) in lines {
            out.push('\n');
            out.push_str(&line.to_string());
        }
        out.push('\n');
        out
    }

    /// Reads what [`History::to_ndjson`] wrote.
    ///
    /// # Errors
    /// The number of the first line that makes no sense, and why.
    pub fn from_ndjson(text: &str) -> Result<Self, String> {
        let mut lines = text.lines();
        let header = lines.next().unwrap_or_default();
        let header: Header =
            serde_json::from_str(header).map_err(|error| format!("line 1: {error}"))?;
        let mut history = Self { header, ..Self::default() };
        for (n, line) in lines.enumerate() {
            history.read_line(line).map_err(|why| format!("line {}: {why}", n + 2))?;
        }
        Ok(history)
    }

    fn read_line(&mut self, line: &str) -> Result<(), String> {
        let line: Value = serde_json::from_str(line).map_err(|error| error.to_string())?;
        let mark = Mark { i: number(&line, "i")?, t: number(&line, "t")? };
        self.next = mark.i + 1;
        if line["p"] == "nemesis" {
            let (name, detail) = (text(&line, "f")?, text(&line, "v")?);
            self.faults.push(FaultMark { at: mark, name, detail });
            return Ok(());
        }
        if line["type"] == "invoke" {
            let operation = read_invoke(mark, &line)?;
            self.operations.push(operation);
            return Ok(());
        }
        let n = usize::try_from(number(&line, "n")?).map_err(|error| error.to_string())?;
        let operation = self.operations.get_mut(n).ok_or("the end of no known call")?;
        operation.ret = Some(mark);
        operation.outcome = read_outcome(&operation.action, &line)?;
        Ok(())
    }
}

fn number(line: &Value, member: &str) -> Result<u64, String> {
    line[member].as_u64().ok_or_else(|| format!("{member:?} is no number"))
}

fn text(line: &Value, member: &str) -> Result<String, String> {
    line[member].as_str().map(str::to_owned).ok_or_else(|| format!("{member:?} is no text"))
}

fn invoke_line(n: usize, operation: &Operation) -> Value {
    let seen = match &operation.action {
        Action::Read => Value::Null,
        Action::Put { seen, .. } => json!(seen),
        Action::Delete { seen, .. } => json!(seen),
        Action::Cas { expected, .. } => json!(expected),
    };
    json!({
        "i": operation.call.i, "t": operation.call.t, "n": n, "p": operation.process,
        "type": "invoke", "f": operation.action.name(), "k": operation.key,
        "v": operation.action.write_id(), "seen": seen, "node": operation.node,
        "w": operation.workload, "strong": operation.strong, "last": operation.last,
    })
}

fn read_invoke(call: Mark, line: &Value) -> Result<Operation, String> {
    let id = || serde_json::from_value(line["v"].clone()).map_err(|error| error.to_string());
    let seen = || serde_json::from_value(line["seen"].clone()).map_err(|error| error.to_string());
    let action = match line["f"].as_str() {
        Some("read") => Action::Read,
        Some("put") => {
            Action::Put { id: id()?, seen: seen().map(Option::<Vec<_>>::unwrap_or_default)? }
        }
        Some("delete") => Action::Delete { id: id()?, seen: seen()? },
        Some(name @ ("cas" | "cas-delete")) => {
            let expected = serde_json::from_value(line["seen"].clone());
            let expected = expected.map_err(|error| error.to_string())?;
            Action::Cas { id: id()?, expected, delete: name == "cas-delete" }
        }
        other => return Err(format!("{other:?} is no operation")),
    };
    let small = |member| {
        number(line, member).and_then(|n| u32::try_from(n).map_err(|error| error.to_string()))
    };
    Ok(Operation {
        process: small("p")?,
        node: small("node")?,
        key: text(line, "k")?,
        workload: serde_json::from_value(line["w"].clone()).map_err(|error| error.to_string())?,
        strong: line["strong"] == true,
        last: line["last"] == true,
        action,
        call,
        ret: None,
        outcome: Outcome::Unknown,
    })
}

fn dot_json(dot: Option<Dot>) -> Value {
    dot.map_or(Value::Null, |dot| json!([dot.actor.to_string(), dot.counter]))
}

fn read_dot(value: &Value) -> Result<Option<Dot>, String> {
    if value.is_null() {
        return Ok(None);
    }
    let (actor, counter): (String, u64) =
        serde_json::from_value(value.clone()).map_err(|error| error.to_string())?;
    let actor: ActorId = actor.parse().map_err(|error| format!("{error}"))?;
    Ok(Some(Dot { actor, counter }))
}

fn end_line(n: usize, ret: Mark, operation: &Operation) -> Value {
    let head = |kind: &str| {
        json!({"i": ret.i, "t": ret.t, "n": n, "p": operation.process, "type": kind,
               "f": operation.action.name(), "k": operation.key})
    };
    match &operation.outcome {
        Outcome::Unknown => head("info"),
        Outcome::NotApplied => head("fail"),
        Outcome::Written(dot) => {
            let mut line = head("ok");
            line["dot"] = dot_json(*dot);
            line
        }
        Outcome::Read(shown) | Outcome::Refused(shown) => {
            let refused = matches!(operation.outcome, Outcome::Refused(_));
            let mut line = head(if refused { "refused" } else { "ok" });
            let value = |shown: &Shown| match &shown.value {
                Ok(id) => json!(id),
                Err(strange) => json!(strange),
            };
            line["v"] = shown.iter().map(value).collect();
            line["dots"] = shown.iter().map(|shown| dot_json(shown.dot)).collect();
            line
        }
    }
}

fn read_outcome(action: &Action, line: &Value) -> Result<Outcome, String> {
    match (line["type"].as_str(), action) {
        (Some("info"), _) => Ok(Outcome::Unknown),
        (Some("fail"), _) => Ok(Outcome::NotApplied),
        (Some("ok"), Action::Put { .. } | Action::Delete { .. } | Action::Cas { .. }) => {
            Ok(Outcome::Written(read_dot(&line["dot"])?))
        }
        (Some("ok"), Action::Read) => Ok(Outcome::Read(read_shown(line)?)),
        (Some("refused"), _) => Ok(Outcome::Refused(read_shown(line)?)),
        (other, _) => Err(format!("{other:?} is no way for an operation to end")),
    }
}

fn read_shown(line: &Value) -> Result<Vec<Shown>, String> {
    let values = line["v"].as_array().ok_or("\"v\" is no list")?;
    let shown = values.iter().enumerate().map(|(n, value)| {
        let value = match value.as_u64() {
            Some(id) => Ok(WriteId(id)),
            None => Err(value.as_str().unwrap_or_default().to_owned()),
        };
        Ok(Shown { value, dot: read_dot(&line["dots"][n])? })
    });
    shown.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn operation(process: u32, action: Action) -> Operation {
        let mark = Mark { i: 0, t: 0 };
        Operation {
            process,
            node: 2,
            key: "k\u{e9}".to_owned(),
            workload: Workload::Siblings,
            strong: true,
            last: process == 3,
            action,
            call: mark,
            ret: None,
            outcome: Outcome::Unknown,
        }
    }

    #[test]
    fn a_history_reads_back_as_it_was_written() {
        let mut history = History::new(7, 3, vec!["isolate".to_owned()]);
        let dot = Some(Dot { actor: ActorId(0xa3), counter: 7 });
        let put = Action::Put { id: WriteId(1), seen: vec![WriteId(9)] };
        let a = history.begin(10, operation(1, put));
        history.fault(11, "begin isolate", "n2");
        let b = history.begin(12, operation(2, Action::Delete { id: WriteId(2), seen: None }));
        history.end(13, b, Outcome::Unknown);
        history.end(14, a, Outcome::Written(dot));
        let c = history.begin(15, operation(3, Action::Read));
        let shown = vec![
            Shown { value: Ok(WriteId(1)), dot },
            Shown { value: Err("strange".to_owned()), dot: None },
        ];
        history.end(16, c, Outcome::Read(shown));
        let delete = Action::Delete { id: WriteId(3), seen: Some(vec![]) };
        let d = history.begin(17, operation(1, delete));
        history.end(18, d, Outcome::NotApplied);
        for expected in [None, Some(WriteId(1))] {
            let cas = Action::Cas { id: WriteId(4), expected, delete: expected.is_some() };
            let e = history.begin(19, operation(1, cas));
            history.end(20, e, Outcome::Refused(vec![Shown { value: Ok(WriteId(1)), dot }]));
        }
        history.begin(19, operation(1, Action::Read));
        assert_eq!(History::from_ndjson(&history.to_ndjson()), Ok(history));
    }

    #[test]
    fn nonsense_is_refused_with_its_line() {
        let good = History::new(7, 3, vec![]).to_ndjson();
        let error = History::from_ndjson(&format!("{good}{{\"i\":0}}")).unwrap_err();
        assert!(error.starts_with("line 2:"), "{error}");
        assert!(History::from_ndjson("").is_err());
    }
}
