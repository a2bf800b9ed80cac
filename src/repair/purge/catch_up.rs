//! Catching up with purges that this node's replica has missed.

use std::sync::atomic::Ordering;

use crate::meta::ClusterState;
use crate::net::purge::{PurgeAction, PurgeAnswer, PurgeRequest, PurgeSet};
use crate::net::{Refusal, Request, Response};
use crate::plants::{Plant, planted};
use crate::repair::purge::{Purge, within};
use crate::replica::{NotRemoved, Removal, TreeId};
use crate::types::{Generation, Mono, NodeId};

/// Answers with sets that may be needed to catch up.
const MAX_STEPS: u32 = 64;

impl Purge {
    /// Brings this node's replica of a partition to `generation` or a later one, by what other
    /// replicas remember to have purged. `from` is asked first.
    ///
    /// A replica that has not agreed to what was purged holds an older directory than it should: if
    /// it counts for reads, its history ends here, and it begins anew (law L3). One that is being
    /// refilled removes whatever it has under the purged keys.
    ///
    /// # Errors
    /// A [`Refusal`], for whoever waits for it.
    pub(crate) async fn catch_up(
        &self,
        state: &ClusterState,
        id: TreeId,
        generation: Generation,
        from: Option<NodeId>,
        deadline: Mono,
    ) -> Result<(), Refusal> {
        let mut others = self.other_replicas(state, id);
        others.sort_by_key(|node| Some(*node) != from);
        let mut at = self.at(id)?;
        for step in 0..MAX_STEPS {
            if at >= generation {
                return Ok(());
            }
            let Some(&node) = others.get(step as usize % others.len().max(1)) else { break };
            if self.env.mono() >= deadline {
                break;
            }
            if let Some((newest, sets)) = self.sets_of(state, id, node, at, deadline).await
                && newest > at
            {
                self.take(state, id, newest, sets).await?;
            }
            at = self.at(id)?;
        }
        if at >= generation { Ok(()) } else { Err(Refusal::OtherGeneration { generation: at }) }
    }

    /// This replica's generation.
    pub(super) fn at(&self, id: TreeId) -> Result<Generation, Refusal> {
        self.replica.generation(id).map_err(|error| Refusal::Storage { message: error.to_string() })
    }

    async fn sets_of(
        &self,
        state: &ClusterState,
        (table, partition): TreeId,
        node: NodeId,
        after: Generation,
        deadline: Mono,
    ) -> Option<(Generation, Vec<PurgeSet>)> {
        let what = PurgeAction::Sets { after };
        let request = Request::Purge(PurgeRequest { table, partition, what });
        match self.peers.call_at(state.epoch(), node, request, deadline).await {
            Ok(Response::Purge(PurgeAnswer::Sets { generation, sets })) => Some((generation, sets)),
            _ => None,
        }
    }

    async fn take(
        &self,
        state: &ClusterState,
        id: TreeId,
        newest: Generation,
        sets: Vec<PurgeSet>,
    ) -> Result<(), Refusal> {
        if sets.is_empty() {
            // What was purged is forgotten by those who did.
            self.end_history(state, id, newest)?;
            let replica = self.replica.clone();
            let all = move || replica.purge_all(id, newest);
            let ticket = self.env.blocking("purge-all", all).await.unwrap_or(Ok(None))?;
            return match ticket {
                Some(ticket) => ticket.await.map_err(|error| within(&error)),
                None => Ok(()),
            };
        }
        for set in sets {
            let generation = set.generation;
            let removed = match self.replica.purge(id, set.clone(), Removal::Agreed) {
                Err(NotRemoved::NotPrepared) => {
                    self.end_history(state, id, generation)?;
                    self.replica.purge(id, set, Removal::Forced)
                }
                removed => removed,
            };
            match removed {
                Ok(ticket) => {
                    ticket.await.map_err(|error| within(&error))?;
                    self.counters.caught_up.fetch_add(1, Ordering::Relaxed);
                }
                // Somebody else was faster.
                Err(NotRemoved::At(_)) => {}
                Err(NotRemoved::NotPrepared) => return Err(Refusal::Refilling),
                Err(NotRemoved::Refused(refusal)) => return Err(refusal),
            }
        }
        Ok(())
    }

    /// This replica should have agreed to a purge, and knows nothing of it. Only one that does not
    /// count for anything yet may go on.
    fn end_history(
        &self,
        state: &ClusterState,
        (table, partition): TreeId,
        generation: Generation,
    ) -> Result<(), Refusal> {
        // The plants that forget on purpose are for other checks to find.
        let forgets_on_purpose = planted(Plant::P16) || planted(Plant::P17);
        if !self.cluster.may_serve(state) || forgets_on_purpose {
            return Ok(());
        }
        tracing::error!(
            table = table.0,
            partition = partition.0,
            %generation,
            "the other replicas have purged tombstones to which this one has not agreed: its data \
             directory is an older copy"
        );
        self.replica.forget();
        self.cluster.begin_anew("the other replicas have purged what it has not agreed to");
        Err(Refusal::Refilling)
    }
}
