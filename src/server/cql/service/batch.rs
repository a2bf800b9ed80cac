//! BATCH: which statements go together, and how they are written then.

use std::sync::Arc;

use super::writes::{How, Writes, rows_of};
use super::{CqlService, Given, Session};
use crate::cql::ast::{BatchKind, Using};
use crate::cql::modify::Modify;
use crate::cql::term::{Binds, Bound, evaluate};
use crate::cql::types::CqlType;
use crate::cql::value;
use crate::server::cql::buckets;
use crate::server::cql::conditional::{Conditional, Write};
use crate::server::cql::error::CqlError;
use crate::server::cql::reads::TIMEOUT;
use crate::server::cql::request::{BatchItem, BatchRequest};
use crate::server::cql::response::Answer;
use crate::server::cql::statement::{Target, Work};
use crate::types::Consistency;

/// Of what is not an increment in a batch of counters.
fn not_a_count() -> CqlError {
    CqlError::invalid("Cannot include non-counter statement in a counter batch")
}

impl CqlService {
    /// Runs a batch of statements that come one by one, each with its own values.
    pub(super) async fn batch(
        &self,
        session: &Session,
        batch: BatchRequest,
    ) -> Result<Answer, CqlError> {
        let mut all = Vec::with_capacity(batch.items.len());
        for item in batch.items {
            let (ready, values) = match item {
                BatchItem::Text(text, values) => {
                    let keyspace = batch.keyspace.as_deref();
                    (Arc::new(self.make_ready(session, keyspace, &text)?), values)
                }
                BatchItem::Prepared(id, values) => (self.find(&id)?, values),
            };
            let Work::Modify(target, modify) = &ready.work else {
                return Err(CqlError::invalid(
                    "Invalid statement in batch: only UPDATE, INSERT and DELETE statements are allowed.",
                ));
            };
            self.permit(session, &ready)?;
            let bound = ready.bind(values, None)?;
            all.push((target.clone(), self.write_of(modify, bound, batch.now)));
        }
        if all.iter().any(|(target, _)| buckets::is_bucket(target)) {
            let writes: Vec<_> =
                all.iter().map(|(target, write)| (target, write.clone())).collect();
            return self.values(batch.kind, &writes, batch.level).await;
        }
        let by_paxos = |(target, write): &(Target, Write)| {
            write.modify.condition().is_some() || target.is_strong()
        };
        if all.iter().any(by_paxos) {
            if batch.kind == BatchKind::Counter {
                return Err(not_a_count());
            }
            return self.write_if(Conditional::new(all, true)?, batch.serial).await;
        }
        let stamp = Some(batch.timestamp.unwrap_or_else(|| self.stamp()));
        let how = How { stamp, level: batch.level, now: batch.now };
        let mut writes = Writes::default();
        for (target, write) in &all {
            let moment = write.now();
            let binds = write.binds(&moment);
            self.gather(&mut writes, target, &write.modify, binds, how).await?;
        }
        self.write_batch(batch.kind, writes, batch.level).await
    }

    /// Runs BEGIN BATCH … APPLY BATCH, whose statements share its values.
    pub(super) async fn run_batch(
        &self,
        (kind, using): (BatchKind, &Using),
        all: &[(Target, Modify)],
        given: &Given<'_>,
        binds: Binds<'_>,
    ) -> Result<Answer, CqlError> {
        if all.iter().any(|(target, _)| buckets::is_bucket(target)) {
            let mut writes = Vec::with_capacity(all.len());
            for (target, modify) in all {
                let values = given.binds.clone();
                writes.push((target, self.write_of(modify, values, given.parameters.now)));
            }
            return self.values(kind, &writes, given.parameters.level).await;
        }
        let by_paxos = |(target, modify): &(Target, Modify)| {
            modify.condition().is_some() || target.is_strong()
        };
        if all.iter().any(by_paxos) {
            if kind == BatchKind::Counter {
                return Err(not_a_count());
            }
            if using.timestamp.is_some() {
                return Err(CqlError::invalid(
                    "Cannot provide custom timestamp for conditional BATCH",
                ));
            }
            // All of them share the batch's bind markers.
            let write = |(target, modify): &(Target, Modify)| {
                (target.clone(), self.write_of(modify, given.binds.clone(), given.parameters.now))
            };
            let all = Conditional::new(all.iter().map(write).collect(), true)?;
            return self.write_if(all, given.parameters.serial).await;
        }
        if using.timestamp.is_some() && all.iter().any(|(_, write)| write.has_timestamp()) {
            return Err(CqlError::invalid(
                "Timestamp must be set either on BATCH or individual statements",
            ));
        }
        let mut stamp = given.parameters.timestamp;
        if let Some(term) = &using.timestamp
            && let Bound::Value(bytes) =
                evaluate(term, &CqlType::Bigint, binds).map_err(CqlError::invalid)?
        {
            stamp = value::integer(&bytes).or(stamp);
        }
        if using.ttl.is_some() {
            return Err(CqlError::invalid(
                "Global TTL on the BATCH statement is not supported: give each statement its own",
            ));
        }
        let stamp = Some(stamp.unwrap_or_else(|| self.stamp()));
        let how = How { stamp, level: given.parameters.level, now: given.parameters.now };
        let mut writes = Writes::default();
        for (target, modify) in all {
            self.gather(&mut writes, target, modify, binds, how).await?;
        }
        self.write_batch(kind, writes, given.parameters.level).await
    }

    /// Writes values of buckets one after the other, as their door does with a batch.
    async fn values(
        &self,
        kind: BatchKind,
        writes: &[(&Target, Write)],
        level: Consistency,
    ) -> Result<Answer, CqlError> {
        let plain = |(target, write): &(&Target, Write)| {
            buckets::is_bucket(target) && !write.modify.condition().is_some()
        };
        if !writes.iter().all(plain) {
            return Err(CqlError::invalid(
                "a batch with writes of buckets has nothing else in it, and no conditions",
            ));
        }
        if kind != BatchKind::Unlogged && writes.len() > 1 {
            return Err(CqlError::invalid(
                "writes of buckets are not atomic together: use BEGIN UNLOGGED BATCH",
            ));
        }
        let mut parts = buckets::Parts::default();
        for (target, write) in writes {
            let now = write.now();
            let (statement, when) = ((&write.modify, write.binds(&now)), (level, write.at.0));
            parts.add(&*self.store, target, statement, when)?;
        }
        parts.write(&*self.store, "UNLOGGED_BATCH").await?;
        Ok(Answer::Void)
    }

    async fn write_batch(
        &self,
        kind: BatchKind,
        writes: Writes,
        level: Consistency,
    ) -> Result<Answer, CqlError> {
        let word = match kind {
            BatchKind::Counter if writes.values => return Err(not_a_count()),
            BatchKind::Counter => "COUNTER",
            BatchKind::Logged if !writes.counts.is_empty() => {
                return Err(CqlError::invalid(
                    "Cannot include a counter statement in a logged batch",
                ));
            }
            BatchKind::Unlogged if writes.values && !writes.counts.is_empty() => {
                return Err(CqlError::invalid(
                    "Counter and non-counter mutations cannot exist in the same batch",
                ));
            }
            BatchKind::Logged if writes.partitions.len() > 1 => {
                let parts = rows_of(writes.partitions)?;
                let written = self.store.write_batch(parts, level, TIMEOUT).await;
                written.map_err(|error| CqlError::of_batch(&error))?;
                return Ok(Answer::Void);
            }
            // One partition is one commit on each replica.
            BatchKind::Logged => "SIMPLE",
            BatchKind::Unlogged => "UNLOGGED_BATCH",
        };
        self.write(writes, level, word).await?;
        Ok(Answer::Void)
    }
}
