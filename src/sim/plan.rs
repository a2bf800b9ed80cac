//! A run, written down: nodes, network, client script and faults. `seed → plan → run`.
//!
//! Seeds rot (one new random draw shifts everything after it); plans survive code changes better.
//! So a failing run leaves its plan, shrinking works on plans, and regressions are kept as plans.

use serde::{Deserialize, Serialize};

use crate::repair::hints::HintSettings;
use crate::sim::disk::PowerLoss;
use crate::sim::history::Workload;
use crate::sim::net::{Delivery, LinkProfile};
use crate::sim::rng::Ppm;
use crate::types::Consistency;

/// Version of the plan format.
pub const PLAN_FORMAT: u32 = 1;

/// What one client operation does.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verb {
    /// Read, and hold the context.
    Read,
    /// Put with the context held.
    Put,
    /// Put without a context.
    PutBlind,
    /// Put with the context held before the present one.
    PutStale,
    /// Delete with the context held.
    Delete,
    /// Delete without a context.
    DeleteBlind,
    /// Put if what was read last still stands there.
    PutIf,
    /// Put if what was read before that still stands there.
    PutIfStale,
    /// Delete if what was read last still stands there.
    DeleteIf,
}

/// One client operation.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Step {
    /// Number of the write it makes, unique in the plan; it stays when other steps are removed.
    pub id: u64,
    /// Which client.
    pub client: u32,
    /// On which key of its workload.
    pub key: u32,
    /// Which promises.
    pub workload: Workload,
    /// What.
    pub verb: Verb,
    /// Through which node; retries go on to the next.
    pub node: u32,
    /// Pause before it, in microseconds.
    pub gap_us: u32,
    /// At which level.
    pub level: Consistency,
    /// Sends an operation id of its own, and repeats the operation if the outcome is unknown.
    pub retries: bool,
    /// The client hangs up this many microseconds after the call.
    pub hang_up_us: Option<u32>,
    /// The client hangs up when its request has come to this await, counted from 1.
    #[serde(default)]
    pub hang_up_awaits: Option<u32>,
    /// Bytes of the value.
    pub size: u32,
    /// The value expires so many milliseconds after the write.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl_ms: Option<u32>,
}

impl Step {
    /// The key's name.
    #[must_use]
    pub fn key_name(&self) -> String {
        key_name(self.workload, self.key)
    }
}

/// The name of key `number` of a workload.
#[must_use]
pub fn key_name(workload: Workload, number: u32) -> String {
    let kind = match workload {
        Workload::Set => "set",
        Workload::Siblings => "sib",
        Workload::Register => "reg",
        Workload::Expiring => "ttl",
        Workload::Strong => "strong",
        Workload::Conditional => "cond",
    };
    format!("{kind}-{number}")
}

/// What goes wrong.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fault {
    /// One node hears nobody, and nobody hears it.
    Isolate {
        /// Which.
        node: u32,
    },
    /// Two halves; bit n says on which side node n is.
    Halves {
        /// The sides.
        sides: u32,
    },
    /// Each node hears only its neighbours on a circle.
    Ring,
    /// Two halves that only one node can talk to both of.
    Bridge {
        /// That node.
        node: u32,
    },
    /// One direction is cut.
    OneWay {
        /// From here…
        from: u32,
        /// …to there.
        to: u32,
    },
    /// A direction delivers nothing until the end, then all at once.
    Clog {
        /// From here…
        from: u32,
        /// …to there.
        to: u32,
    },
    /// All connections between two nodes break.
    Cut {
        /// One end.
        a: u32,
        /// The other.
        b: u32,
    },
    /// All links get another character.
    Weather {
        /// Which.
        profile: LinkProfile,
    },
    /// `kill -9`; the page cache survives. Started again at the end.
    Kill {
        /// Which.
        node: u32,
    },
    /// Killed and started again at once, several times in a row.
    Flap {
        /// Which.
        node: u32,
        /// How often.
        times: u32,
    },
    /// Power goes, and what was not synced with it. Started again at the end.
    PowerLoss {
        /// Which; bit n is node n. All at one instant.
        nodes: u32,
        /// What survives of it.
        policy: PowerLoss,
    },
    /// A clean stop; started again at the end.
    Stop {
        /// Which.
        node: u32,
    },
    /// The process stands still (SIGSTOP).
    Pause {
        /// Which.
        node: u32,
    },
    /// The wall clock is set to true time plus this.
    ClockSet {
        /// Which.
        node: u32,
        /// Microseconds ahead (behind, below zero).
        offset_us: i64,
    },
    /// The clocks run fast or slow.
    ClockDrift {
        /// Which.
        node: u32,
        /// Millionths.
        ppm: i64,
    },
    /// The wall clock stands still.
    ClockFreeze {
        /// Which.
        node: u32,
    },
    /// The disk is slow and stalls.
    SlowDisk {
        /// Which.
        node: u32,
        /// Times slower.
        factor: u32,
        /// Longest stall, in milliseconds.
        stall_ms: u32,
    },
    /// Reads and writes of the disk fail now and then.
    DiskErrors {
        /// Which.
        node: u32,
        /// How often.
        chance: Ppm,
    },
    /// No space left.
    DiskFull {
        /// Which.
        node: u32,
    },
    /// A sync fails and drops what it was to write. The node is started again at the end.
    SyncError {
        /// Which.
        node: u32,
    },
    /// A stored value rots.
    Rot {
        /// Which.
        node: u32,
        /// Which value, counted round and round.
        nth: u32,
    },
    /// The disk is emptied and the node started again at the end.
    Wipe {
        /// Which.
        node: u32,
    },
    /// A copy of the disk is made at the beginning and put back at the end. The node is started
    /// anew in between: a copy from within its present life is not told from a crash (see
    /// [`crate::sim::inject`]).
    Restore {
        /// Which.
        node: u32,
    },
}

impl Fault {
    /// Its name, for reports.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Isolate { .. } => "isolate",
            Self::Halves { .. } => "halves",
            Self::Ring => "ring",
            Self::Bridge { .. } => "bridge",
            Self::OneWay { .. } => "one-way",
            Self::Clog { .. } => "clog",
            Self::Cut { .. } => "cut",
            Self::Weather { .. } => "weather",
            Self::Kill { .. } => "kill",
            Self::Flap { .. } => "flap",
            Self::PowerLoss { .. } => "power-loss",
            Self::Stop { .. } => "stop",
            Self::Pause { .. } => "pause",
            Self::ClockSet { .. } => "clock-set",
            Self::ClockDrift { .. } => "clock-drift",
            Self::ClockFreeze { .. } => "clock-freeze",
            Self::SlowDisk { .. } => "slow-disk",
            Self::DiskErrors { .. } => "disk-errors",
            Self::DiskFull { .. } => "disk-full",
            Self::SyncError { .. } => "sync-error",
            Self::Rot { .. } => "rot",
            Self::Wipe { .. } => "wipe",
            Self::Restore { .. } => "restore",
        }
    }
}

/// A fault with its time.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PlannedFault {
    /// Milliseconds after the clients have begun.
    pub at_ms: u64,
    /// How long, in milliseconds.
    pub for_ms: u64,
    /// What.
    #[serde(flatten)]
    pub fault: Fault,
}

/// How the executor picks among ready tasks.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Picking {
    /// Evenly.
    Uniform,
    /// By random priorities.
    Priorities,
    /// One node only when no other is ready.
    Starve(u32),
}

/// A whole run.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Plan {
    /// [`PLAN_FORMAT`].
    pub henge_plan: u32,
    /// Feeds every random stream of the run.
    pub seed: u64,
    /// Nodes.
    pub nodes: u32,
    /// Replicas of each key.
    pub replication: u8,
    /// Partitions of the ring.
    pub partitions: u32,
    /// How ready tasks are picked.
    pub picking: Picking,
    /// How messages travel.
    pub delivery: Delivery,
    /// The character of all links in good weather.
    pub link: LinkProfile,
    /// How far ahead of its own clock a node lets a stamp be, in milliseconds.
    pub max_clock_skew_ms: u64,
    /// Time limit of a client operation, in milliseconds.
    pub timeout_ms: u64,
    /// Pace of gossip, in milliseconds.
    pub gossip_ms: u64,
    /// Nothing but hints brings replicas up to date in the background: no anti-entropy. Clients
    /// then turn to nodes only that serve, and the faults must be such that hints suffice (see
    /// [`crate::sim::generate`]).
    #[serde(default)]
    pub hints_only: bool,
    /// Nodes beyond the replicas may stand in for those that are away. Reads then need not meet
    /// writes, and nothing is concluded from what one shows before all are equal at the end.
    #[serde(default)]
    pub sloppy: bool,
    /// Bytes of hints that a node keeps, in all and for one target.
    #[serde(default = "hint_max_bytes")]
    pub hint_max_bytes: u64,
    /// Age at which a hint is dropped, in milliseconds.
    #[serde(default = "hint_max_age_ms")]
    pub hint_max_age_ms: u64,
    /// For how long tombstones are kept at least, in seconds.
    #[serde(default = "ten_days")]
    pub grace_s: u64,
    /// Clients that take turns by locks, beside the script (see [`crate::sim::lockers`]).
    #[serde(default)]
    pub lockers: u32,
    /// Clients that write rows by CQL, beside the script (see [`crate::sim::rows`]).
    #[serde(default)]
    pub rowers: u32,
    /// What the clients do, each in this order.
    pub script: Vec<Step>,
    /// What goes wrong, by time.
    pub faults: Vec<PlannedFault>,
}

fn hint_max_bytes() -> u64 {
    HintSettings::default().max_bytes
}

fn hint_max_age_ms() -> u64 {
    u64::try_from(HintSettings::default().max_age.as_millis()).unwrap_or(u64::MAX)
}

/// The grace time of plans that say nothing of it.
fn ten_days() -> u64 {
    10 * 24 * 3600
}

impl Plan {
    /// Reads a plan.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn from_json(text: &str) -> Result<Self, String> {
        let plan: Self = serde_json::from_str(text).map_err(|error| error.to_string())?;
        if plan.henge_plan != PLAN_FORMAT {
            return Err(format!("plan format {}, not {PLAN_FORMAT}", plan.henge_plan));
        }
        if !(1..=16).contains(&plan.nodes) || u32::from(plan.replication) > plan.nodes {
            return Err(format!("{} replicas on {} nodes", plan.replication, plan.nodes));
        }
        Ok(plan)
    }

    /// The plan as JSON.
    #[must_use]
    pub fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).unwrap_or_default()
    }

    /// Names of its faults, each once.
    #[must_use]
    pub fn fault_names(&self) -> Vec<String> {
        let mut names: Vec<String> =
            self.faults.iter().map(|planned| planned.fault.name().to_owned()).collect();
        names.sort();
        names.dedup();
        names
    }
}
