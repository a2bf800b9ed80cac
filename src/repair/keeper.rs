//! A node's own trees: built where they are not known, stored where they rest, and checked against
//! the data, again and again, at a slow pace (scrubbing).
//!
//! Scrubbing reads every row: a disk that changes bytes by itself is found out by the row's
//! checksum, a tree that has gone wrong by the leaf's sum. A damaged row is healed from the other
//! replicas, tried again until it is sound or nobody has anything to heal it with.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::merkle::Leaf;
use crate::meta::{ClusterState, Table};
use crate::net::Refusal;
use crate::net::messages::{Read, Want};
use crate::repair::Inner;
use crate::repair::shared::kept;
use crate::repair::status::RepairCounters;
use crate::replica::{Surveyed, TreeId};
use crate::ring::token_in;
use crate::storage::StorageError;
use crate::types::{Epoch, Key, Mono, NodeId, TableId};

/// Damaged rows that are kept in mind to be healed; more are found by the next pass.
const MAX_PATIENTS: usize = 1_024;

/// First pause between two attempts to heal a row: longer than one takes. Doubles up to
/// [`LONGEST_HEAL_PAUSE`].
const HEAL_PAUSE: Duration = Duration::from_secs(12);

/// See [`HEAL_PAUSE`]. Short, so that a row is healed soon after whatever stood in its way is gone;
/// an attempt is made only while all replicas can be expected to answer, so few are in vain.
const LONGEST_HEAL_PAUSE: Duration = Duration::from_secs(24);

/// Trees that nobody has written to for this long are stored.
const REST: Duration = Duration::from_secs(30);

/// After a failed survey.
const SURVEY_PAUSE: Duration = Duration::from_secs(1);

/// When a damaged row is tried again.
struct Patient {
    due: Mono,
    pause: Duration,
}

/// The task that keeps the trees.
pub(super) struct Keeper {
    inner: Inner,
    epoch: Option<Epoch>,
    scrub: Option<(TreeId, Leaf)>,
    scrub_due: Mono,
    store_due: Mono,
    patients: BTreeMap<(TableId, Key), Patient>,
}

impl Keeper {
    pub(super) fn new(inner: Inner) -> Self {
        let now = inner.env.mono();
        Self {
            epoch: None,
            scrub: None,
            scrub_due: now + inner.options.scrub_pause,
            store_due: now + REST,
            patients: BTreeMap::new(),
            inner,
        }
    }

    pub(super) async fn run(mut self) {
        loop {
            self.inner.env.sleep(self.inner.options.upkeep).await;
            self.inner.replica.settle_all();
            self.follow_the_ring().await;
            self.build().await;
            self.scrub().await;
            self.heal();
            if self.inner.env.mono() >= self.store_due {
                self.store_due = self.inner.env.mono() + REST;
                if let Err(error) = self.inner.replica.store_trees(true).await {
                    tracing::debug!(%error, "resting trees were not stored");
                }
            }
        }
    }

    /// Keeps the trees of what this node keeps by now, and no others.
    async fn follow_the_ring(&mut self) {
        let state = self.inner.cluster.state();
        if !state.is_founded() || self.epoch == Some(state.epoch()) {
            return;
        }
        self.epoch = Some(state.epoch());
        let kept = kept(&state, self.inner.cluster.me());
        let replica = self.inner.replica.clone();
        let trees = kept.clone();
        replica.set_cut(state.ring().map());
        let load = move || trees.into_iter().for_each(|id| replica.keep_tree(id));
        self.inner.env.blocking("load-trees", load).await;
        self.inner.replica.trees().retain(|id| kept.binary_search(&id).is_ok());
        self.inner.repair.retain(|id| kept.binary_search(&id).is_ok());
    }

    /// Builds what is not built, at half a core at most.
    async fn build(&mut self) {
        while let Some((id, leaf)) = self.inner.replica.trees().next_unbuilt() {
            let begun = self.inner.env.mono();
            match self.survey(id, leaf).await {
                Ok(surveyed) => {
                    RepairCounters::add(&self.inner.repair.counters().surveys, 1);
                    self.admit(id.0, surveyed.damaged);
                }
                Err(error) => {
                    tracing::warn!(%error, "a hash tree cannot be built yet");
                    self.inner.env.sleep(SURVEY_PAUSE).await;
                    return;
                }
            }
            let took = self.inner.env.mono().since(begun);
            self.inner.env.sleep(took).await;
        }
    }

    async fn survey(&self, id: TreeId, first: Leaf) -> Result<Surveyed, StorageError> {
        let replica = self.inner.replica.clone();
        let survey = self.inner.env.blocking("survey", move || replica.survey(id, first)).await;
        survey.unwrap_or_else(|| Ok(Surveyed::default()))
    }

    /// One step of scrubbing, if it is due.
    async fn scrub(&mut self) {
        let percent = self.inner.options.scrub_percent.min(100);
        let begun = self.inner.env.mono();
        if percent == 0 || begun < self.scrub_due {
            return;
        }
        let next = || Some((self.inner.replica.trees().next_after(None)?, Leaf::FIRST));
        let Some((id, leaf)) = self.scrub.or_else(next) else { return };
        let mut pause = Duration::ZERO;
        match self.survey(id, leaf).await {
            Ok(surveyed) => {
                self.scrub = Some(self.after(id, &surveyed));
                self.report(id, &surveyed);
                self.admit(id.0, surveyed.damaged);
            }
            Err(error) => {
                tracing::warn!(%error, "part of the data cannot be read through");
                pause = SURVEY_PAUSE;
            }
        }
        let took = self.inner.env.mono().since(begun);
        let rest = took * (100 - percent) / percent;
        self.scrub_due = begun + took + rest.max(self.inner.options.scrub_pause).max(pause);
    }

    /// Where scrubbing goes on.
    fn after(&self, id: TreeId, surveyed: &Surveyed) -> (TreeId, Leaf) {
        if let Some(leaf) = surveyed.next {
            return (id, leaf);
        }
        let next = self.inner.replica.trees().next_after(Some(id)).unwrap_or(id);
        if next <= id {
            RepairCounters::add(&self.inner.repair.counters().scrub_passes, 1);
        }
        (next, Leaf::FIRST)
    }

    fn report(&self, (table, partition): TreeId, surveyed: &Surveyed) {
        let counters = self.inner.repair.counters();
        RepairCounters::add(&counters.scrubbed_rows, surveyed.rows);
        RepairCounters::add(&counters.scrubbed_bytes, surveyed.bytes);
        RepairCounters::add(&counters.scrub_damaged, surveyed.damaged_rows);
        RepairCounters::add(&counters.scrub_wrong_leaves, u64::from(surveyed.wrong));
        if surveyed.wrong > 0 || surveyed.damaged_rows > 0 {
            tracing::error!(
                table = table.0,
                partition = partition.0,
                damaged = surveyed.damaged_rows,
                wrong_leaves = surveyed.wrong,
                "the data on the disk is not what was written; it is being put right"
            );
        }
    }

    fn admit(&mut self, table: TableId, damaged: Vec<Key>) {
        let due = self.inner.env.mono();
        for key in damaged {
            if self.patients.len() < MAX_PATIENTS {
                let patient = Patient { due, pause: HEAL_PAUSE };
                self.patients.entry((table, key)).or_insert(patient);
            }
        }
    }

    /// Heals the damaged rows that are due.
    fn heal(&mut self) {
        let now = self.inner.env.mono();
        let due: Vec<(TableId, Key)> =
            self.patients.iter().filter(|(_, p)| p.due <= now).map(|(at, _)| at.clone()).collect();
        let state = self.inner.cluster.state();
        for at in due {
            let Some(table) = state.table(at.0) else {
                self.patients.remove(&at);
                continue;
            };
            let read = Read { table: table.id, key: at.1.clone(), want: Want::Digest };
            let seen = self.inner.replica.read(table, token_in(at.0, &at.1), &read);
            let me = self.inner.cluster.me();
            if !matches!(seen, Err(Refusal::Damaged)) {
                self.patients.remove(&at);
                continue;
            }
            if !self.all_can_answer(&state, table, &at.1) {
                // It takes all of them. As soon as they are back it is tried.
                if let Some(patient) = self.patients.get_mut(&at) {
                    patient.pause = HEAL_PAUSE;
                }
                continue;
            }
            self.inner.coordinator.heal_copy(table, &at.1, me);
            if let Some(patient) = self.patients.get_mut(&at) {
                patient.due = self.inner.env.mono() + patient.pause;
                patient.pause = (patient.pause * 2).min(LONGEST_HEAL_PAUSE);
            }
        }
    }

    /// Whether every other replica of a key is alive and shows what it has.
    fn all_can_answer(&self, state: &ClusterState, table: &Table, key: &Key) -> bool {
        let placement = state.ring().placement(&table.settings.replication);
        let partition = state.ring().partition_of(token_in(table.id, key));
        let cluster = &self.inner.cluster;
        let can = |&node: &NodeId| {
            let is_filled = state.member(node).is_some_and(|member| member.filled);
            node == cluster.me() || (cluster.is_live(node) && is_filled)
        };
        placement.of(partition).write.iter().all(can)
    }
}
