//! Receipts: how an operation went, for those who want to know.

use std::sync::{Mutex, PoisonError};

use serde::Serialize;

/// How an operation went: who was asked, what each said, which rule was met.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Receipt {
    /// `read`, `write`, or `scan` of a part of the ring.
    pub operation: &'static str,
    /// Epoch by which the operation was planned.
    pub epoch: u64,
    /// The level that was asked for.
    pub level: String,
    /// Replicas of the key.
    pub n: u32,
    /// Answers needed.
    pub required: u32,
    /// Answers that counted.
    pub received: u32,
    /// Whether every operation at this level meets every one of the other kind at the table's own
    /// level: a read what was written, a write what will be read.
    pub overlap: bool,
    /// Nodes that hold the record in a replica's place (sloppy quorums).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub stood_in: Vec<StoodIn>,
    /// Replicas that were sent the merged record because they were behind.
    pub repaired: Vec<String>,
    /// Hedges: replicas asked because another was slow.
    pub hedged: u32,
    /// Each replica that was asked.
    pub replicas: Vec<ReplicaReceipt>,
    /// Time from start to answer, in microseconds.
    pub total_us: u64,
}

/// A node that holds a record for a replica which could not be reached, and counted in its place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct StoodIn {
    /// Its name.
    pub node: String,
    /// The replica.
    #[serde(rename = "for")]
    pub replica: String,
}

/// One replica's part in a [`Receipt`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ReplicaReceipt {
    /// Its name.
    pub node: String,
    /// Its part: `data`, `digest`, `mint`, `apply`; `keep` of one that stands in for a replica.
    pub role: &'static str,
    /// What it said: `ok`; `dominated` (it had all of it and more, or a version that wins);
    /// `refused: …`; `no answer: …`; `not sent: …`; `pending`.
    pub answer: String,
    /// Digest of what it held, where it said so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// From the operation's start to its answer, in microseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub answered_us: Option<u64>,
}

/// The receipts of what one request has set going, as far as they are kept.
#[derive(Debug, Default)]
pub struct Receipts(Mutex<Vec<Receipt>>);

/// Receipts of one request that are kept: a scan makes one for each part of the ring that it reads.
const MAX_RECEIPTS: usize = 32;

impl Receipts {
    /// Keeps one more, if there is room.
    pub fn add(&self, receipt: Receipt) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() < MAX_RECEIPTS {
            all.push(receipt);
        }
    }

    /// Takes all that have been kept.
    #[must_use]
    pub fn take(&self) -> Vec<Receipt> {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
