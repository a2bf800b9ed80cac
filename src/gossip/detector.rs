//! The accrual failure detector for one peer.

use std::collections::VecDeque;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::types::Mono;

/// Heartbeat intervals that are remembered: at most so many.
const WINDOW: usize = 64;

/// A pause counts as an interval of at most so many expected ones: a peer's long absence must not
/// teach patience with its next one.
const LONGEST_SAMPLE: u32 = 4;

/// How much phi one refused or reset connection is worth, in parts of the threshold for "dead".
const REFUSALS_TO_DEAD: f64 = 2.0;

/// What is believed of a node.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Liveness {
    /// Heard from as regularly as ever.
    Live,
    /// Silent for longer than usual, or it refused a connection: ask others first.
    Suspect,
    /// Not expected to answer.
    Dead,
    /// Not heard from since this node started, which is not long ago.
    Unknown,
}

/// From which phi a peer counts as suspect, and as dead.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Thresholds {
    pub suspect: f64,
    pub dead: f64,
}

/// What has been heard of one peer.
#[derive(Clone, Debug)]
pub(super) struct Detector {
    /// The interval at which heartbeats are expected; also the least mean that is believed.
    expected: Duration,
    intervals: VecDeque<Duration>,
    sum: Duration,
    last_beat: Option<Mono>,
    last_heard: Option<Mono>,
    /// When this node began to listen for the peer.
    since: Option<Mono>,
    refusals: u32,
}

impl Detector {
    pub(super) fn new(expected: Duration) -> Self {
        Self {
            expected,
            intervals: VecDeque::new(),
            sum: Duration::ZERO,
            last_beat: None,
            last_heard: None,
            since: None,
            refusals: 0,
        }
    }

    /// From now on it means something not to hear from the peer.
    pub(super) fn listen(&mut self, now: Mono) {
        self.since.get_or_insert(now);
    }

    /// A new heartbeat of the peer has come, by whatever way.
    pub(super) fn beat(&mut self, now: Mono) {
        if let Some(before) = self.last_beat {
            let interval = now.since(before).min(self.expected * LONGEST_SAMPLE);
            self.intervals.push_back(interval);
            self.sum += interval;
            if self.intervals.len() > WINDOW
                && let Some(oldest) = self.intervals.pop_front()
            {
                self.sum -= oldest;
            }
        }
        self.last_beat = Some(now);
        self.heard(now);
    }

    /// Any message of the peer has come.
    pub(super) fn heard(&mut self, now: Mono) {
        self.last_heard = self.last_heard.max(Some(now));
        self.refusals = 0;
    }

    /// The peer refused or reset a connection.
    pub(super) fn refused(&mut self) {
        self.refusals = self.refusals.saturating_add(1);
    }

    /// This node itself did not run for `pause`: nobody can be blamed for that silence.
    pub(super) fn forgive(&mut self, pause: Duration) {
        self.last_heard = self.last_heard.map(|at| at + pause);
        self.last_beat = self.last_beat.map(|at| at + pause);
        self.since = self.since.map(|at| at + pause);
    }

    fn mean(&self) -> Duration {
        // The expected interval weighs in as one sample, so that there is a mean from the start.
        let samples = u32::try_from(self.intervals.len()).unwrap_or(u32::MAX).saturating_add(1);
        ((self.sum + self.expected) / samples).max(self.expected)
    }

    fn phi(&self, since: Mono, now: Mono) -> f64 {
        let silence = now.since(since).as_secs_f64();
        silence / self.mean().as_secs_f64().max(f64::MIN_POSITIVE) * std::f64::consts::LOG10_E
    }

    pub(super) fn liveness(&self, thresholds: Thresholds, now: Mono) -> Liveness {
        let testimony = f64::from(self.refusals) * thresholds.dead / REFUSALS_TO_DEAD;
        let silent_since = self.last_heard.or(self.since);
        let phi = silent_since.map_or(0.0, |since| self.phi(since, now)) + testimony;
        if self.last_heard.is_none() && phi < thresholds.dead {
            return Liveness::Unknown;
        }
        if phi >= thresholds.dead {
            Liveness::Dead
        } else if phi >= thresholds.suspect {
            Liveness::Suspect
        } else {
            Liveness::Live
        }
    }
}
