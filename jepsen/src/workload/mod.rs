//! What the clients do, one file per workload: a client's step, the final reads, and the judgement.

mod bank;
mod converge;
mod counter;
mod cql;
mod cross;
mod election;
mod lock;
mod monotonic;
mod register;
mod resurrect;
mod set;
mod siblings;

/// What the cross-check of the checkers looks at.
#[cfg(test)]
pub(crate) mod register_for_tests {
    pub(crate) use super::register::{Did, apply, judge};
}

use std::sync::Arc;

use henge::client::{BucketSettings, Reply};
use serde_json::{Value, json};

use crate::check::Judgement;
use crate::history::History;
use crate::session::{Session, Stage};

/// The workloads.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Kind {
    /// Read, write and compare-and-set of a register in a strong bucket.
    Register,
    /// Many create one key; one wins.
    Create,
    /// A counter by compare-and-set.
    Counter,
    /// Elements added blindly at quorum.
    Set,
    /// Read, merge, write with the context: no add is lost.
    Siblings,
    /// Deletes with a context: what they covered never shows again.
    Resurrect,
    /// Locks, and writes under their fences.
    Lock,
    /// Leader election.
    Election,
    /// Transfers between accounts by idempotent conditional steps.
    Bank,
    /// One writer with growing numbers, many readers.
    Monotonic,
    /// As monotonic, but reads ask one replica, which promises nothing: what that costs is counted.
    Weak,
    /// As register, but plain writes beside the conditional ones, in a bucket where the last write
    /// wins: they are not ordered against each other, and what that costs is counted.
    Mixed,
    /// Anything goes; afterwards all replicas become equal by themselves.
    Converge,
    /// Through CQL: compare-and-set of a register by conditional statements.
    CqlRegister,
    /// Through CQL: appends to a list by conditional statements.
    CqlAppend,
    /// Through CQL: elements added blindly at quorum to a set.
    CqlSet,
    /// Through CQL: rows are seen whole.
    RowShape,
    /// Through CQL: a column of type counter.
    CqlCounter,
    /// Through CQL: one writer with growing numbers. Only where clocks agree.
    CqlMonotonic,
    /// Through both doors: a register.
    CrossRegister,
    /// Through both doors: read, merge, write with the context.
    CrossSiblings,
}

/// Those that hold the cluster to a promise.
pub const ALL: [Kind; 11] = [
    Kind::Register,
    Kind::Create,
    Kind::Counter,
    Kind::Set,
    Kind::Siblings,
    Kind::Resurrect,
    Kind::Lock,
    Kind::Election,
    Kind::Bank,
    Kind::Monotonic,
    Kind::Converge,
];

/// Those that hold it to one through CQL, or through both doors.
pub const CQL: [Kind; 7] = [
    Kind::CqlRegister,
    Kind::CqlAppend,
    Kind::CqlSet,
    Kind::CqlCounter,
    Kind::RowShape,
    Kind::CrossRegister,
    Kind::CrossSiblings,
];

impl Kind {
    /// As on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Register => "register",
            Self::Create => "create",
            Self::Counter => "counter",
            Self::Set => "set",
            Self::Siblings => "siblings",
            Self::Resurrect => "resurrect",
            Self::Lock => "lock",
            Self::Election => "election",
            Self::Bank => "bank",
            Self::Monotonic => "monotonic",
            Self::Weak => "weak",
            Self::Mixed => "mixed",
            Self::Converge => "converge",
            Self::CqlRegister => "cql-register",
            Self::CqlAppend => "cql-append",
            Self::CqlSet => "cql-set",
            Self::RowShape => "row-shape",
            Self::CqlCounter => "cql-counter",
            Self::CqlMonotonic => "cql-monotonic",
            Self::CrossRegister => "cross-register",
            Self::CrossSiblings => "cross-siblings",
        }
    }

    /// The workload called `name`.
    pub fn named(name: &str) -> Option<Self> {
        let others = [Self::Weak, Self::Mixed, Self::CqlMonotonic];
        ALL.into_iter().chain(CQL).chain(others).find(|kind| kind.name() == name)
    }

    /// The columns of its table, where it speaks CQL.
    fn columns(self) -> Option<&'static str> {
        match self {
            Self::CqlRegister => Some(cql::register::COLUMNS),
            Self::CqlAppend => Some(cql::append::COLUMNS),
            Self::CqlSet => Some(cql::set::COLUMNS),
            Self::RowShape => Some(cql::shape::COLUMNS),
            Self::CqlCounter => Some(cql::counter::COLUMNS),
            Self::CqlMonotonic => Some(cql::monotonic::COLUMNS),
            _ => None,
        }
    }

    /// How concurrent writes meet in its bucket.
    fn conflict(self) -> &'static str {
        match self {
            Self::Register | Self::Bank | Self::Counter | Self::CrossRegister => "strong",
            Self::Monotonic | Self::Weak | Self::Mixed | Self::CqlMonotonic => "lww",
            Self::Create
            | Self::Set
            | Self::Siblings
            | Self::Resurrect
            | Self::Lock
            | Self::Election
            | Self::Converge
            | Self::CqlRegister
            | Self::CqlAppend
            | Self::CqlSet
            | Self::CqlCounter
            | Self::RowShape
            | Self::CrossSiblings => "siblings",
        }
    }

    /// Groups of clients, each with keys of its own.
    pub fn groups(self) -> usize {
        2
    }

    /// Clients in all.
    pub fn clients(self) -> u64 {
        match self {
            Self::Register | Self::Mixed => 10,
            Self::Create | Self::Lock => 8,
            _ => 6,
        }
    }

    /// Operations on a key before it is left.
    pub fn per_key(self) -> u64 {
        match self {
            Self::Create => 10,
            Self::Resurrect | Self::Converge => 30,
            Self::Set | Self::CqlSet | Self::CqlAppend => 48,
            Self::Lock | Self::Election | Self::CqlCounter => 60,
            Self::Siblings | Self::CrossSiblings => 80,
            Self::Register
            | Self::Mixed
            | Self::Counter
            | Self::CqlRegister
            | Self::RowShape
            | Self::CrossRegister => 100,
            Self::Bank => 24,
            Self::Monotonic | Self::Weak | Self::CqlMonotonic => 400,
        }
    }

    /// The kinds of operations that must have succeeded often for a run to mean anything.
    pub fn required(self) -> &'static [&'static str] {
        match self {
            Self::Register | Self::Mixed | Self::CrossRegister => &["read", "write", "cas"],
            Self::Create => &["read", "create"],
            Self::Counter => &["read", "increment"],
            Self::Set | Self::Siblings | Self::CqlSet | Self::CqlCounter | Self::CrossSiblings => {
                &["read", "add"]
            }
            Self::Resurrect => &["read", "put", "delete"],
            Self::Lock => &["acquire", "guarded"],
            Self::Election => &["stand", "observe"],
            Self::Bank => &["transfer", "look"],
            Self::Monotonic | Self::Weak | Self::CqlMonotonic => &["read", "write"],
            Self::Converge => &["put", "delete"],
            Self::CqlRegister => &["read", "cas"],
            Self::CqlAppend => &["read", "append"],
            Self::RowShape => &["read", "write", "batch", "fleeting", "cas"],
        }
    }

    /// Makes what the clients need.
    ///
    /// # Errors
    /// The cluster's words.
    pub async fn prepare(self, stage: &Stage) -> Result<(), String> {
        if let Some(columns) = self.columns() {
            return cql::prepare(stage, columns, "").await;
        }
        if self == Self::CrossRegister {
            cql::prepare(stage, cross::COLUMNS, " WITH conflict = 'strong'").await?;
        }
        let settings = BucketSettings {
            replication_factor: u32::try_from(stage.replicas).ok(),
            conflict: Some(self.conflict().to_owned()),
            max_siblings: (self.conflict() == "siblings").then_some(500),
            // So that traces of deletions go while they may still matter.
            grace_s: (self == Self::Resurrect).then_some(1),
            ..BucketSettings::default()
        };
        let made = stage.nodes[0].create_bucket(&stage.bucket, &settings).await;
        made.map(drop).map_err(|error| format!("bucket {}: {error}", stage.bucket))
    }

    /// One step of a client.
    pub async fn step(self, session: &mut Session) {
        match self {
            Self::Register | Self::Mixed => register::step(session).await,
            Self::Create => register::create_step(session).await,
            Self::Counter => counter::step(session).await,
            Self::Set => set::step(session).await,
            Self::Siblings => siblings::step(session).await,
            Self::Resurrect => resurrect::step(session).await,
            Self::Lock => lock::step(session).await,
            Self::Election => election::step(session).await,
            Self::Bank => bank::step(session).await,
            Self::Monotonic | Self::Weak => monotonic::step(session).await,
            Self::Converge => converge::step(session).await,
            Self::CqlRegister => cql::register::step(session).await,
            Self::CqlAppend => cql::append::step(session).await,
            Self::CqlSet => cql::set::step(session).await,
            Self::RowShape => cql::shape::step(session).await,
            Self::CqlCounter => cql::counter::step(session).await,
            Self::CqlMonotonic => cql::monotonic::step(session).await,
            Self::CrossRegister => cross::step(session).await,
            Self::CrossSiblings => cross::siblings_step(session).await,
        }
    }

    /// The final reads, when all faults are over and the clients have stopped. False if one of them
    /// never succeeded.
    pub async fn finish(self, stage: &Arc<Stage>) -> bool {
        let mut session = Session::new(stage, 1_000);
        match self {
            Self::Register | Self::Mixed | Self::Create => register::finish(&mut session).await,
            Self::Counter => counter::finish(&mut session).await,
            Self::Set => set::finish(&mut session).await,
            Self::Siblings => siblings::finish(&mut session).await,
            Self::Resurrect => resurrect::finish(&mut session).await,
            Self::Lock => lock::finish(&mut session).await,
            Self::Election => true,
            Self::Bank => bank::finish(&mut session).await,
            Self::Monotonic | Self::Weak => monotonic::finish(&mut session).await,
            Self::Converge => converge::finish(&mut session).await,
            Self::CqlRegister => cql::register::finish(&mut session).await,
            Self::CqlAppend => cql::append::finish(&mut session).await,
            Self::CqlSet => cql::set::finish(&mut session).await,
            Self::RowShape => cql::shape::finish(&mut session).await,
            Self::CqlCounter => cql::counter::finish(&mut session).await,
            Self::CqlMonotonic => cql::monotonic::finish(&mut session).await,
            Self::CrossRegister => cross::finish(&mut session).await,
            Self::CrossSiblings => cross::siblings_finish(&mut session).await,
        }
    }

    /// Judges a history of this workload.
    pub fn judge(self, history: &History) -> Judgement {
        match self {
            Self::Register | Self::Create | Self::CqlRegister | Self::CrossRegister => {
                register::judge(history)
            }
            Self::Mixed => register::judge_mixed(history),
            Self::Counter => counter::judge(history),
            Self::Set | Self::CqlSet => set::judge(history),
            Self::Siblings | Self::CrossSiblings => siblings::judge(history),
            Self::Resurrect => resurrect::judge(history),
            Self::Lock => lock::judge(history),
            Self::Election => election::judge(history),
            Self::Bank => bank::judge(history),
            Self::Monotonic | Self::CqlMonotonic => monotonic::judge(history),
            Self::Weak => monotonic::judge_weak(history),
            Self::Converge => converge::judge(history),
            Self::CqlAppend => cql::append::judge(history),
            Self::CqlCounter => cql::counter::judge(history),
            Self::RowShape => cql::shape::judge(history),
        }
    }
}

/// The keys of a history, in order.
fn keys_of(stage: &Stage) -> Vec<String> {
    stage.recorder.history().by_key().into_keys().map(str::to_owned).collect()
}

/// A read's one value: text, or null where there is none. Several are shown as a list.
fn shown(reply: &Reply) -> Option<Value> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    match reply.status.as_u16() {
        200 => Some(json!(text(&reply.body))),
        404 => is_absent(reply).then_some(Value::Null),
        300 => Some(json!(several(reply)?)),
        _ => None,
    }
}

/// A read's values, as a list.
fn shown_all(reply: &Reply) -> Option<Value> {
    match shown(reply)? {
        Value::Null => Some(json!([])),
        Value::Array(values) => Some(Value::Array(values)),
        value => Some(json!([value])),
    }
}

fn is_absent(reply: &Reply) -> bool {
    reply.refused().problem().is_some_and(|problem| problem.name == "key-not-found")
}

/// The values of an answer with several.
fn several(reply: &Reply) -> Option<Vec<String>> {
    let body: Value = reply.json().ok()?;
    let values = body["siblings"].as_array()?.iter();
    values.map(|sibling| sibling["value"].as_str().map(str::to_owned)).collect()
}

/// The texts in a list.
fn texts(value: &Value) -> Vec<&str> {
    value.as_array().map(|all| all.iter().filter_map(Value::as_str).collect()).unwrap_or_default()
}
