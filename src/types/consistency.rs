//! How many replicas must answer.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A consistency level by name (as Cassandra defines them) or, over HTTP, a plain count.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub enum Consistency {
    /// Writes only: any node, a keeper of a hint included.
    Any,
    /// One replica.
    One,
    /// Two replicas.
    Two,
    /// Three replicas.
    Three,
    /// More than half of all replicas.
    Quorum,
    /// Every replica.
    All,
    /// More than half of the replicas in the coordinator's datacentre.
    LocalQuorum,
    /// Writes only: more than half of the replicas in each datacentre.
    EachQuorum,
    /// One replica in the coordinator's datacentre.
    LocalOne,
    /// Linearizable, over all datacentres.
    Serial,
    /// Linearizable within the coordinator's datacentre.
    LocalSerial,
    /// Exactly this many replicas (`r=`, `w=`).
    Count(u8),
}

/// A name that is no consistency level.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no consistency level: use any, one, two, three, quorum, all, local_quorum, \
     each_quorum, local_one, serial or local_serial"
)]
pub struct ParseConsistencyError(pub String);

impl FromStr for Consistency {
    type Err = ParseConsistencyError;

    fn from_str(text: &str) -> Result<Self, ParseConsistencyError> {
        Ok(match text.to_ascii_lowercase().as_str() {
            "any" => Self::Any,
            "one" => Self::One,
            "two" => Self::Two,
            "three" => Self::Three,
            "quorum" => Self::Quorum,
            "all" => Self::All,
            "local_quorum" => Self::LocalQuorum,
            "each_quorum" => Self::EachQuorum,
            "local_one" => Self::LocalOne,
            "serial" => Self::Serial,
            "local_serial" => Self::LocalSerial,
            _ => return Err(ParseConsistencyError(text.to_owned())),
        })
    }
}

impl fmt::Display for Consistency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Any => "any",
            Self::One => "one",
            Self::Two => "two",
            Self::Three => "three",
            Self::Quorum => "quorum",
            Self::All => "all",
            Self::LocalQuorum => "local_quorum",
            Self::EachQuorum => "each_quorum",
            Self::LocalOne => "local_one",
            Self::Serial => "serial",
            Self::LocalSerial => "local_serial",
            Self::Count(n) => return write!(f, "{n}"),
        })
    }
}
