//! What votes there are: lists of a replica's rows of votes, for a change of voters and for the sweep
//! that drops what is over.

use std::ops::ControlFlow;

use bytes::Bytes;

use crate::net::paxos::{MAX_OPEN_KEYS, OpenRequest, PaxosAnswer};
use crate::net::{Refusal, Response};
use crate::paxos::Voter;
use crate::record;
use crate::replica::update::refuse_submit;
use crate::replica::{Replica, SHARDS, TokenSpan, shard_of};
use crate::ring::token_in;
use crate::storage::keys::{self, Kind};
use crate::storage::{KeyRange, StorageError};
use crate::types::{Ballot, Key, TableId};

use super::Seat;

/// The most rows that are looked at for one [`OpenRequest`].
const MAX_SCAN: usize = 10_000;

/// A row of votes, as a sweep finds it.
pub(crate) struct VoteRow {
    pub(crate) row: Bytes,
    pub(crate) table: TableId,
    pub(crate) key: Key,
    /// Differs from one version of the row to the next.
    pub(crate) version: u64,
    /// There is a promise in it, and no vote, decided or not.
    pub(crate) is_bare: bool,
}

impl Replica {
    /// The keys of a partition that have a vote which is not known to be decided; all those that
    /// were voted on at epochs before this node's present one. Blocks on the disk: call it through
    /// `Env::blocking`, after [`Replica::fence_votes`].
    ///
    /// # Errors
    /// A [`Refusal`]; a row that cannot be read is one.
    pub(crate) fn open_keys(
        &self,
        span: TokenSpan,
        request: &OpenRequest,
    ) -> Result<Response, Refusal> {
        let mut range = keys::token_rows(Kind::Paxos, request.table, span.first, span.last);
        if let Some(key) = &request.after {
            let token = token_in(request.table, key);
            let mut after = keys::row(Kind::Paxos, request.table, token, key, b"").to_vec();
            after.push(0);
            range.start = range.start.max(after.into());
        }
        let (mut keys, mut looked_at, mut last, mut more) = (Vec::new(), 0, None, false);
        let mut refusal = None;
        let mut visit = |row: &[u8], stored: Result<&[u8], StorageError>| {
            if looked_at >= MAX_SCAN || keys.len() >= MAX_OPEN_KEYS {
                more = true;
                return ControlFlow::Break(());
            }
            looked_at += 1;
            match self.open_row(request, row, stored) {
                Ok((key, is_open)) => {
                    last = Some(key.clone());
                    if is_open {
                        keys.push(key);
                    }
                    ControlFlow::Continue(())
                }
                Err(error) => {
                    refusal = Some(error);
                    ControlFlow::Break(())
                }
            }
        };
        if range.end.as_ref().is_none_or(|end| *end > range.start) {
            self.engine.scan(&range, &mut visit).map_err(|e| self.refuse_storage(&e))?;
        }
        if let Some(refusal) = refusal {
            return Err(refusal);
        }
        // The place to go on from, should none of many rows have been open.
        if let (true, true, Some(last)) = (more, keys.is_empty(), last) {
            keys.push(last);
        }
        Ok(Response::Paxos(PaxosAnswer::Open { keys, more }))
    }

    fn open_row(
        &self,
        request: &OpenRequest,
        row: &[u8],
        stored: Result<&[u8], StorageError>,
    ) -> Result<(Key, bool), Refusal> {
        let parsed = keys::parse_row(row).map_err(|e| self.refuse_storage(&e))?;
        let address = record::address(request.table, &parsed.key);
        let address = xxhash_rust::xxh3::xxh3_64(&address);
        // A vote that cannot be read may be an open one: the key is to be settled.
        let me = self.actor.voter();
        let is_open = match stored.map(|bytes| Voter::<Bytes>::decode(address, me, bytes)) {
            Ok(Ok(voter)) => voter.is_some_and(|voter| voter.accepted().is_some()),
            Ok(Err(_)) | Err(_) => true,
        };
        Ok((parsed.key, is_open))
    }

    /// Rows of votes, at most `limit`, after the storage key `after`. Blocks on the disk: call it
    /// through `Env::blocking`.
    pub(crate) fn vote_rows(&self, after: Option<&Bytes>, limit: usize) -> Vec<VoteRow> {
        let mut range = KeyRange::prefix(&[Kind::Paxos as u8]);
        if let Some(after) = after {
            range.start = [&after[..], &[0]].concat().into();
        }
        let mut rows = Vec::new();
        let mut visit = |row: &[u8], stored: Result<&[u8], StorageError>| {
            if let (Ok(parsed), Ok(bytes)) = (keys::parse_row(row), stored) {
                let address = record::address(parsed.table, &parsed.key);
                let address = xxhash_rust::xxh3::xxh3_64(&address);
                let read = Voter::<Bytes>::decode(address, self.actor.voter(), bytes);
                let is_bare = read.is_ok_and(|voter| {
                    voter.is_none_or(|voter| {
                        voter.accepted().is_none() && voter.committed() == Ballot::ZERO
                    })
                });
                rows.push(VoteRow {
                    row: Bytes::copy_from_slice(row),
                    table: parsed.table,
                    key: parsed.key,
                    version: xxhash_rust::xxh3::xxh3_64(bytes),
                    is_bare,
                });
            }
            if rows.len() < limit { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        };
        if let Err(error) = self.engine.scan(&range, &mut visit) {
            tracing::warn!(%error, "rows of votes cannot be listed");
        }
        rows
    }

    /// Moves the promise of a row that holds nothing else into the floor, if it still is one.
    pub(crate) fn drop_promise(&self, row: &VoteRow) {
        let address = record::address(row.table, &row.key);
        let token = token_in(row.table, &row.key);
        let seat = Seat {
            row: row.row.clone(),
            shard: shard_of(token),
            address: xxhash_rust::xxh3::xxh3_64(&address),
        };
        let _ = self.forget_votes(&seat, Ballot::ZERO);
    }

    /// When this returns, every vote that was cast at an older epoch than this node's present one
    /// is in the engine, and no more of them will be.
    ///
    /// # Errors
    /// A [`Refusal`] when the disk has failed.
    pub(crate) async fn fence_votes(&self) -> Result<(), Refusal> {
        for shard in 0..SHARDS {
            drop(self.voters.lock(shard));
        }
        let failed = |error: StorageError| Refusal::Storage { message: error.to_string() };
        self.committer.barrier().map_err(|e| refuse_submit(&e))?.await.map_err(failed)
    }
}
