//! The side that is asked.

use crate::coordinator::{left_behind, log_table};
use crate::meta::{ClusterState, Table};
use crate::net::purge::{MAX_SET_ROWS, PurgeAction, PurgeAnswer, PurgeRequest, PurgeSet};
use crate::net::{Refusal, Response};
use crate::repair::purge::rounds::grace_of;
use crate::repair::purge::{Purge, within};
use crate::replica::{NotRemoved, Removal, TreeId};
use crate::types::{Generation, Mono, NodeId};

/// Purges that one answer tells of: at most some hundred KiB each.
const MAX_SETS: usize = 4;

/// Records of batches of one look.
const MAX_BATCHES: usize = 4_096;

impl Purge {
    /// Answers `from`'s question or order about a partition.
    ///
    /// # Errors
    /// A [`Refusal`]; nothing was changed.
    pub(crate) async fn answer(
        &self,
        state: &ClusterState,
        from: NodeId,
        request: PurgeRequest,
        deadline: Mono,
    ) -> Result<Response, Refusal> {
        let epoch = state.epoch();
        let Some(table) = state.table(request.table) else {
            return Err(Refusal::NoSuchTable { epoch });
        };
        let id = (request.table, request.partition);
        if let PurgeAction::Pending { keys } = &request.what {
            bounded(keys.len())?;
            let not = match table.rows.is_some() && self.has_old_batches(state, table).await? {
                true => (0..keys.len()).map(|at| at as u16).collect(),
                false => self.pending(id, keys),
            };
            return Ok(Response::Purge(PurgeAnswer::Not(not)));
        }
        if !self.replicas(state, id).contains(&self.me()) {
            return Err(Refusal::NotReplica { epoch });
        }
        let answer = match request.what {
            PurgeAction::Pending { .. } => PurgeAnswer::Not(Vec::new()),
            PurgeAction::Prepare(set) => self.prepare(state, id, set).await?,
            PurgeAction::Commit(set) => self.commit(id, set).await?,
            PurgeAction::Sets { after } => {
                let sets = self.replica.purged_after(id, after, MAX_SETS);
                let (generation, sets) = sets.map_err(|error| within(&error))?;
                PurgeAnswer::Sets { generation, sets }
            }
            PurgeAction::Advance { generation } => {
                self.advance(state, id, generation, from, deadline).await?
            }
        };
        Ok(Response::Purge(answer))
    }

    /// Whether a logged batch is on record here which, were it gone on with now, might write rows that
    /// have been deleted for the table's grace time.
    async fn has_old_batches(&self, state: &ClusterState, table: &Table) -> Result<bool, Refusal> {
        let Some(log) = state.table_named(&log_table()) else { return Ok(false) };
        let (log, now, grace) = (log.id, self.env.wall(), grace_of(table));
        let mut after = None;
        loop {
            let (replica, from) = (self.replica.clone(), after.take());
            let look = move || replica.batches(log, from.as_ref(), MAX_BATCHES, now);
            let Some(page) = self.env.blocking("batches", look).await else { return Ok(true) };
            let page = page.map_err(|error| within(&error))?;
            if page.keys.iter().any(|key| left_behind(key, now, grace)) {
                return Ok(true);
            }
            match page.next {
                Some(next) => after = Some(next),
                None => return Ok(false),
            }
        }
    }

    /// The places of the keys for which this node keeps something for another one.
    fn pending(&self, (table, _): TreeId, keys: &[crate::types::Key]) -> Vec<u16> {
        let holds = |(at, key)| self.hints.holds(table, key).then_some(at as u16);
        keys.iter().enumerate().filter_map(holds).collect()
    }

    async fn prepare(
        &self,
        state: &ClusterState,
        id: TreeId,
        set: PurgeSet,
    ) -> Result<PurgeAnswer, Refusal> {
        bounded(set.rows.len())?;
        if !self.cluster.may_serve(state) || self.replica.has_forgotten() {
            return Err(Refusal::Refilling);
        }
        match self.replica.prepare_purge(id, &set) {
            Ok((not, ticket)) => {
                if let Some(ticket) = ticket {
                    ticket.await.map_err(|error| within(&error))?;
                }
                Ok(PurgeAnswer::Not(not))
            }
            Err(NotRemoved::At(at)) => Ok(PurgeAnswer::At(at)),
            Err(NotRemoved::NotPrepared) => Ok(PurgeAnswer::At(self.at(id)?)),
            Err(NotRemoved::Refused(refusal)) => Err(refusal),
        }
    }

    async fn commit(&self, id: TreeId, set: PurgeSet) -> Result<PurgeAnswer, Refusal> {
        bounded(set.rows.len())?;
        match self.replica.purge(id, set, Removal::Agreed) {
            Ok(ticket) => ticket.await.map_err(|error| within(&error))?,
            Err(NotRemoved::At(_) | NotRemoved::NotPrepared) => {}
            Err(NotRemoved::Refused(refusal)) => return Err(refusal),
        }
        Ok(PurgeAnswer::At(self.at(id)?))
    }

    async fn advance(
        &self,
        state: &ClusterState,
        id: TreeId,
        generation: Generation,
        from: NodeId,
        deadline: Mono,
    ) -> Result<PurgeAnswer, Refusal> {
        self.catch_up(state, id, generation, Some(from), deadline).await?;
        Ok(PurgeAnswer::At(self.at(id)?))
    }
}

fn bounded(rows: usize) -> Result<(), Refusal> {
    if rows > MAX_SET_ROWS {
        return Err(Refusal::BadRequest { what: format!("{rows} rows of a purge") });
    }
    Ok(())
}
