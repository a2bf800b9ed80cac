//! What the clients did and saw, in order, with the faults around it.
//!
//! Newline-delimited JSON: a header, then one line per event, written as it happens, so that a
//! harness that dies loses nothing:
//!
//! ```text
//! {"henge_history":1,"workload":"register","nemesis":"partition-one","seed":7,"nodes":3,"binary":"…","plant":null}
//! {"i":0,"t":1200345,"p":3,"type":"invoke","f":"cas","k":"r0-1","v":["a","b"],"node":2}
//! {"i":5,"t":4300120,"p":3,"type":"ok","f":"cas","k":"r0-1","v":true}
//! {"i":9,"t":9000000,"p":"nemesis","type":"info","f":"begin partition-one","v":"n2"}
//! ```
//!
//! `t` is nanoseconds on the monotonic clock since the run began, taken before the first byte
//! leaves and after the last one has come; `i` is the order of recording; `p` is a logical process,
//! which has one operation at a time and is retired by an `info`. `ok`: it took effect between its
//! two lines. `fail`: a node said that it did not and will not. `info`: it may take effect at any
//! time from its call on, or never. `v` of an `invoke` is what was asked, of an end what was
//! learnt; each workload says what they are.

use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// The first line.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// Version of the format.
    pub henge_history: u32,
    /// What the clients did.
    pub workload: String,
    /// What was done to the nodes.
    pub nemesis: String,
    /// Seed of the run.
    pub seed: u64,
    /// Number of nodes.
    pub nodes: usize,
    /// Fingerprint of the node's program.
    pub binary: String,
    /// The planted bug, if there was one.
    pub plant: Option<String>,
}

/// How an operation ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// It took effect.
    Ok,
    /// It did not and will not; of a read: nothing was learnt.
    Fail,
    /// Nobody knows.
    Info,
}

/// A place in the history.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Mark {
    /// Order of recording.
    pub i: u64,
    /// Nanoseconds since the run began.
    pub t: u64,
}

/// One operation.
#[derive(Clone, Debug, PartialEq)]
pub struct Op {
    /// The logical process.
    pub process: u64,
    /// The node asked, from 0.
    pub node: usize,
    /// What kind.
    pub f: String,
    /// On what.
    pub key: String,
    /// What was asked.
    pub asked: Value,
    /// Before it.
    pub call: Mark,
    /// After it; `None`: it never ended.
    pub end: Option<Mark>,
    /// How it ended.
    pub outcome: Outcome,
    /// What was learnt.
    pub learnt: Value,
}

impl Op {
    /// True if it took effect.
    pub fn is_ok(&self) -> bool {
        self.outcome == Outcome::Ok
    }

    /// The mark of its end, unless its outcome is open.
    pub fn ended(&self) -> Option<u64> {
        self.end.filter(|_| self.outcome != Outcome::Info).map(|end| end.i)
    }

    /// It was over before `other` began.
    pub fn before(&self, other: &Self) -> bool {
        self.ended().is_some_and(|end| end < other.call.i)
    }

    /// What was learnt, as text.
    pub fn learnt_text(&self) -> Option<&str> {
        self.learnt.as_str()
    }
}

/// A fault that began or ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FaultMark {
    /// When.
    pub at: Mark,
    /// `begin …` or `end …`.
    pub name: String,
    /// To whom, and how.
    pub detail: String,
}

/// A whole history.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct History {
    /// The first line.
    pub header: Header,
    /// In the order of their calls.
    pub ops: Vec<Op>,
    /// In order.
    pub faults: Vec<FaultMark>,
}

/// Records a history while it happens.
#[derive(Debug)]
pub struct Recorder {
    began: Instant,
    inner: Mutex<Recorded>,
}

#[derive(Debug)]
struct Recorded {
    next: u64,
    file: BufWriter<File>,
    history: History,
}

impl Recorder {
    /// Begins the file at `path`. Times count from `began`.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn new(path: &Path, header: Header, began: Instant) -> std::io::Result<Self> {
        let mut file = BufWriter::new(File::create(path)?);
        writeln!(file, "{}", json!(header))?;
        let history = History { header, ..History::default() };
        Ok(Self { began, inner: Mutex::new(Recorded { next: 0, file, history }) })
    }

    fn lock(&self) -> MutexGuard<'_, Recorded> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn line(&self, inner: &mut Recorded, mut line: Value) -> Mark {
        let t = u64::try_from(self.began.elapsed().as_nanos()).unwrap_or(u64::MAX);
        let mark = Mark { i: inner.next, t };
        inner.next += 1;
        line["i"] = json!(mark.i);
        line["t"] = json!(mark.t);
        // A full disk shows when the history is read back and is too short.
        drop(writeln!(inner.file, "{line}").and_then(|()| inner.file.flush()));
        mark
    }

    /// Records a call; the number is for [`Recorder::end`].
    pub fn begin(&self, process: u64, node: usize, f: &str, key: &str, asked: Value) -> usize {
        let mut inner = self.lock();
        let line =
            json!({"p": process, "type": "invoke", "f": f, "k": key, "v": asked, "node": node});
        let call = self.line(&mut inner, line);
        inner.history.ops.push(Op {
            process,
            node,
            f: f.to_owned(),
            key: key.to_owned(),
            asked,
            call,
            end: None,
            outcome: Outcome::Info,
            learnt: Value::Null,
        });
        inner.history.ops.len() - 1
    }

    /// Records how call `number` ended.
    pub fn end(&self, number: usize, outcome: Outcome, learnt: Value) {
        let mut inner = self.lock();
        let Some(op) = inner.history.ops.get(number) else { return };
        let line = json!({"p": op.process, "type": outcome, "f": op.f, "k": op.key, "v": learnt});
        let mark = self.line(&mut inner, line);
        let op = &mut inner.history.ops[number];
        op.end = Some(mark);
        op.outcome = outcome;
        op.learnt = learnt;
    }

    /// Records a fault.
    pub fn fault(&self, name: &str, detail: &str) {
        let mut inner = self.lock();
        let line = json!({"p": "nemesis", "type": "info", "f": name, "v": detail});
        let at = self.line(&mut inner, line);
        let mark = FaultMark { at, name: name.to_owned(), detail: detail.to_owned() };
        inner.history.faults.push(mark);
    }

    /// The history so far.
    pub fn history(&self) -> History {
        self.lock().history.clone()
    }
}

impl History {
    /// Reads what a [`Recorder`] wrote.
    ///
    /// # Errors
    /// The first line that makes no sense, and why.
    pub fn read(text: &str) -> Result<Self, String> {
        let mut lines = text.lines();
        let header = serde_json::from_str(lines.next().unwrap_or_default())
            .map_err(|error| format!("line 1: {error}"))?;
        let mut history = Self { header, ..Self::default() };
        // By process, its open operation.
        let mut open = std::collections::BTreeMap::new();
        for (n, line) in lines.enumerate() {
            let event: Event =
                serde_json::from_str(line).map_err(|error| format!("line {}: {error}", n + 2))?;
            let mark = Mark { i: event.i, t: event.t };
            match (event.p, event.kind.as_str()) {
                (Value::String(_), _) => history.faults.push(FaultMark {
                    at: mark,
                    name: event.f,
                    detail: event.v.as_str().unwrap_or_default().to_owned(),
                }),
                (p, "invoke") => {
                    let process = p.as_u64().unwrap_or_default();
                    open.insert(process, history.ops.len());
                    history.ops.push(Op {
                        process,
                        node: event.node,
                        f: event.f,
                        key: event.k,
                        asked: event.v,
                        call: mark,
                        end: None,
                        outcome: Outcome::Info,
                        learnt: Value::Null,
                    });
                }
                (p, kind) => {
                    let outcome = serde_json::from_value(json!(kind))
                        .map_err(|error| format!("line {}: {error}", n + 2))?;
                    let number = open.remove(&p.as_u64().unwrap_or_default());
                    let op = number.and_then(|number: usize| history.ops.get_mut(number));
                    let op = op.ok_or_else(|| format!("line {}: ends no call", n + 2))?;
                    op.end = Some(mark);
                    op.outcome = outcome;
                    op.learnt = event.v;
                }
            }
        }
        Ok(history)
    }

    /// The operations of each key.
    pub fn by_key(&self) -> std::collections::BTreeMap<&str, Vec<&Op>> {
        let mut keys: std::collections::BTreeMap<&str, Vec<&Op>> =
            std::collections::BTreeMap::new();
        for op in &self.ops {
            keys.entry(&op.key).or_default().push(op);
        }
        keys
    }

    /// The history as EDN, one map per line, as Jepsen's tools read it. `:value` is the pair of key
    /// and value, as its `independent` workloads have it.
    pub fn to_edn(&self) -> String {
        let mut lines: Vec<(Mark, String)> = Vec::new();
        for op in &self.ops {
            let line = |mark: Mark, kind: &str, value: &Value| {
                format!(
                    "{{:index {}, :time {}, :process {}, :type :{kind}, :f :{}, :value [{} {}]}}",
                    mark.i,
                    mark.t,
                    op.process,
                    op.f,
                    json!(op.key),
                    edn(value)
                )
            };
            lines.push((op.call, line(op.call, "invoke", &op.asked)));
            if let Some(end) = op.end {
                let kind = match op.outcome {
                    Outcome::Ok => "ok",
                    Outcome::Fail => "fail",
                    Outcome::Info => "info",
                };
                lines.push((end, line(end, kind, &op.learnt)));
            }
        }
        for fault in &self.faults {
            let name = fault.name.replace(' ', "-");
            let (at, detail) = (fault.at, json!(fault.detail));
            lines.push((
                at,
                format!(
                    "{{:index {}, :time {}, :process :nemesis, :type :info, :f :{name}, :value {detail}}}",
                    at.i, at.t
                ),
            ));
        }
        lines.sort();
        lines.into_iter().map(|(_, line)| line + "\n").collect()
    }
}

/// One line of the file.
#[derive(Deserialize)]
struct Event {
    i: u64,
    t: u64,
    p: Value,
    #[serde(rename = "type")]
    kind: String,
    f: String,
    #[serde(default)]
    k: String,
    v: Value,
    #[serde(default)]
    node: usize,
}

/// A JSON value as EDN.
fn edn(value: &Value) -> String {
    match value {
        Value::Null => "nil".to_owned(),
        Value::Array(items) => {
            format!("[{}]", items.iter().map(edn).collect::<Vec<_>>().join(" "))
        }
        Value::Object(members) => {
            let pairs: Vec<_> =
                members.iter().map(|(name, value)| format!(":{name} {}", edn(value))).collect();
            format!("{{{}}}", pairs.join(", "))
        }
        plain => plain.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recorded() -> (History, String) {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("h.ndjson");
        let header = Header { henge_history: 1, seed: 7, nodes: 3, ..Header::default() };
        let recorder = Recorder::new(&path, header, Instant::now()).expect("a file");
        let a = recorder.begin(1, 0, "read", "k", Value::Null);
        recorder.fault("begin kill", "n1");
        let b = recorder.begin(2, 1, "cas", "k", json!([null, "x"]));
        recorder.end(b, Outcome::Info, Value::Null);
        recorder.end(a, Outcome::Ok, json!({"refused": "y"}));
        recorder.begin(3, 2, "write", "k2", json!("z"));
        (recorder.history(), std::fs::read_to_string(&path).expect("it was written"))
    }

    #[test]
    fn a_history_reads_back_as_it_was_recorded() {
        let (history, text) = recorded();
        assert_eq!(History::read(&text), Ok(history));
    }

    #[test]
    fn nonsense_is_refused_with_its_line() {
        let (_, text) = recorded();
        let error = History::read(&format!("{text}{{\"i\":0}}")).unwrap_err();
        assert!(error.starts_with("line 8:"), "{error}");
        assert!(History::read("").is_err());
    }

    #[test]
    fn edn_has_one_map_per_event_in_order() {
        let (history, _) = recorded();
        let edn = history.to_edn();
        let lines: Vec<_> = edn.lines().collect();
        assert_eq!(lines.len(), 6);
        assert!(
            lines[1].contains(":process :nemesis, :type :info, :f :begin-kill"),
            "{}",
            lines[1]
        );
        assert!(lines[2].contains(":f :cas, :value [\"k\" [nil \"x\"]]}"), "{}", lines[2]);
        assert!(lines[4].contains(":value [\"k\" {:refused \"y\"}]}"), "{}", lines[4]);
    }
}
