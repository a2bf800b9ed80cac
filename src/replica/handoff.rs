//! Taking a hint: what this replica had missed, handed over by the node that kept it.

use std::sync::atomic::Ordering;

use crate::meta::Table;
use crate::net::messages::Apply;
use crate::net::{Refusal, Response};
use crate::plants::{Plant, planted};
use crate::record::{self, Record};
use crate::replica::Replica;
use crate::replica::update::{Change, MAX_RECORD_BYTES, Terms, answer};
use crate::storage::Pace;
use crate::types::Token;

impl Replica {
    /// Answers a hint: a merge like [`Replica::apply`], however late it comes.
    ///
    /// # Errors
    /// A [`Refusal`]; nothing was changed.
    pub async fn take_hint(
        &self,
        table: &Table,
        token: Token,
        apply: Apply,
    ) -> Result<Response, Refusal> {
        self.counters.hints.fetch_add(1, Ordering::Relaxed);
        if planted(Plant::P22) {
            return self.put_blindly(table, token, apply).await;
        }
        self.apply(table, token, apply).await
    }

    /// The planted mistake: what stands here is lost.
    async fn put_blindly(
        &self,
        table: &Table,
        token: Token,
        apply: Apply,
    ) -> Result<Response, Refusal> {
        let place = self.place(table, token, &apply.key);
        let incoming = Record::decode(&apply.record, &record::address(table.id, &apply.key))
            .map_err(|error| Refusal::BadRequest { what: error.to_string() })?;
        let generation = Some(apply.generation);
        let terms =
            Terms { heals: false, max_bytes: MAX_RECORD_BYTES, generation, pace: Pace::Now };
        let stamp = incoming.max_stamp();
        let outcome = self.update(&place, terms, |record| {
            *record = incoming;
            Ok(Change::Store(()))
        });
        let outcome = outcome.await;
        answer(outcome.map(|_| self.applied(&place, false, stamp)))
    }
}
