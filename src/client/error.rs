//! What can go wrong between a client and a cluster, told apart by what may have happened.

use std::fmt;
use std::time::Duration;

use serde::Deserialize;

/// What became of a write that was not a success.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It did not happen and will not.
    NotApplied,
    /// It may have happened, or may yet.
    Unknown,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotApplied => "not_applied",
            Self::Unknown => "unknown",
        })
    }
}

/// A problem document (RFC 9457) that a node answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The last part of its `type`: `unavailable`, `bucket-not-found`, …; empty if the answer was
    /// no problem document.
    pub name: String,
    /// The HTTP status.
    pub status: u16,
    /// What is wrong in this case.
    pub detail: String,
    /// What became of the write, where the node said so.
    pub outcome: Option<Outcome>,
    /// `Retry-After`.
    pub retry_after: Option<Duration>,
    /// The document as it came, for `--json`.
    pub document: serde_json::Value,
}

impl Problem {
    /// Reads the body of an answer with an error status. A body that is no problem document (some
    /// proxy's page, a truncated text) makes a problem without a name.
    #[must_use]
    pub fn read(status: u16, retry_after: Option<Duration>, body: &[u8]) -> Self {
        #[derive(Deserialize, Default)]
        struct Document {
            #[serde(default, rename = "type")]
            kind: String,
            #[serde(default)]
            title: String,
            #[serde(default)]
            detail: String,
            #[serde(default)]
            outcome: Option<Outcome>,
        }
        let document: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
        let read: Document = serde_json::from_value(document.clone()).unwrap_or_default();
        let detail = match (read.detail.is_empty(), read.title.is_empty()) {
            (false, _) => read.detail,
            (true, false) => read.title,
            (true, true) => {
                let text = String::from_utf8_lossy(&body[..body.len().min(200)]);
                text.lines().next().unwrap_or_default().trim().to_owned()
            }
        };
        let name = read.kind.strip_prefix("/problems/").unwrap_or_default().to_owned();
        Self { name, status, detail, outcome: read.outcome, retry_after, document }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.name.is_empty(), self.detail.is_empty()) {
            (false, false) => write!(f, "{}: {}", self.name, self.detail),
            (false, true) => f.write_str(&self.name),
            (true, false) => write!(f, "HTTP status {}: {}", self.status, self.detail),
            (true, true) => write!(f, "HTTP status {}", self.status),
        }
    }
}

/// Why a call brought no success.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ClientError {
    /// The call cannot be made at all: a bad address, a bad header value.
    #[error("{0}")]
    Invalid(String),
    /// No connection: nothing was sent.
    #[error("cannot reach {node}: {why}")]
    Unreachable {
        /// The node's address.
        node: String,
        /// The system's words.
        why: String,
    },
    /// Something was sent and no whole answer came back.
    #[error("no answer from {node}: {why}")]
    Lost {
        /// The node's address.
        node: String,
        /// The connection's words.
        why: String,
    },
    /// Something was sent and no whole answer came back in time.
    #[error("no answer from {node} within {} ms", after.as_millis())]
    TimedOut {
        /// The node's address.
        node: String,
        /// How long was waited.
        after: Duration,
    },
    /// The node answered that it could not, or would not.
    #[error("{problem}")]
    Refused {
        /// The node's address.
        node: String,
        /// Its words.
        problem: Box<Problem>,
    },
    /// The node answered something that a node of this version does not answer.
    #[error("{node} gave an answer that makes no sense: {why}")]
    Protocol {
        /// The node's address.
        node: String,
        /// What is odd about it.
        why: String,
    },
}

impl ClientError {
    /// What became of the call, if it was a write. An answer that does not say counts as unknown,
    /// except that a `4xx` refuses before anything is done.
    #[must_use]
    pub fn outcome(&self) -> Outcome {
        match self {
            Self::Invalid(_) | Self::Unreachable { .. } => Outcome::NotApplied,
            Self::Refused { problem, .. } => match problem.outcome {
                Some(outcome) => outcome,
                None if (400..500).contains(&problem.status) => Outcome::NotApplied,
                None => Outcome::Unknown,
            },
            Self::Lost { .. } | Self::TimedOut { .. } | Self::Protocol { .. } => Outcome::Unknown,
        }
    }

    /// True if the same call may succeed later or through another node.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::Lost { .. } | Self::TimedOut { .. } => true,
            Self::Refused { problem, .. } => matches!(problem.status, 421 | 429 | 502..=504),
            Self::Invalid(_) | Self::Protocol { .. } => false,
        }
    }

    /// The problem that the node answered, if it did.
    #[must_use]
    pub fn problem(&self) -> Option<&Problem> {
        match self {
            Self::Refused { problem, .. } => Some(problem),
            _ => None,
        }
    }
}
