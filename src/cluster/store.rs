//! What a node keeps of the metadata log on its disk: the entries it has learnt, its vote on the
//! next one, and the founding list it has confirmed.

use std::ops::ControlFlow;
use std::sync::Arc;

use bytes::Bytes;

use crate::binary;
use crate::meta::LogEntry;
use crate::paxos::Acceptor;
use crate::storage::{Batch, Committer, Engine, StorageError, keys};

const ENTRY: u8 = 1;
const VOTE: u8 = 2;
const FOUNDING: u8 = 3;

/// Format byte of a stored entry. Predecessors: 1 knew no voters, 2 no grace times; never released.
const ENTRY_FORMAT: u8 = 3;

/// The metadata rows of one node.
#[derive(Debug, Clone)]
pub(super) struct MetaStore {
    committer: Committer,
}

/// What a data directory held.
pub(super) struct Loaded {
    pub(super) entries: Vec<LogEntry>,
    /// The vote on the entry after the last.
    pub(super) vote: Acceptor<LogEntry>,
    /// Digest of the cards that this node has confirmed.
    pub(super) founding: Option<u128>,
}

fn corrupt(what: impl std::fmt::Display) -> StorageError {
    StorageError::Corrupt { what: format!("the metadata log: {what}") }
}

impl MetaStore {
    pub(super) fn new(committer: Committer) -> Self {
        Self { committer }
    }

    /// See [`Committer::durable_mark`].
    pub(super) fn durable_mark(&self) -> u64 {
        self.committer.durable_mark()
    }

    /// Reads everything. A damaged row is an error, never absence: a node that forgot a vote must
    /// not vote again.
    pub(super) fn load(engine: &Arc<dyn Engine>) -> Result<Loaded, StorageError> {
        let mut entries = Vec::new();
        let mut problem = None;
        engine.scan(&keys::meta_rows(ENTRY), &mut |key, value| {
            let expected = keys::meta_row(ENTRY, entries.len() as u64 + 1);
            if key != &expected[..] {
                problem = Some(corrupt(format!("entry {} is missing", entries.len() + 1)));
                return ControlFlow::Break(());
            }
            let entry = value.map_err(|error| error.to_string()).and_then(|value| {
                binary::unseal("a metadata entry", ENTRY_FORMAT, value).map_err(|e| e.to_string())
            });
            match entry {
                Ok(entry) => entries.push(entry),
                Err(error) => {
                    problem = Some(corrupt(error));
                    return ControlFlow::Break(());
                }
            }
            ControlFlow::Continue(())
        })?;
        if let Some(problem) = problem {
            return Err(problem);
        }
        let vote = match engine.get(&keys::meta_row(VOTE, entries.len() as u64 + 1))? {
            Some(bytes) => Acceptor::decode(&bytes).map_err(corrupt)?,
            None => Acceptor::default(),
        };
        let founding = match engine.get(&keys::meta_row(FOUNDING, 0))? {
            Some(bytes) => {
                Some(binary::unseal("the founding list", ENTRY_FORMAT, &bytes).map_err(corrupt)?)
            }
            None => None,
        };
        Ok(Loaded { entries, vote, founding })
    }

    /// Durable on return whatever `storage.durability` says: with periodic syncs a ticket resolves
    /// before its batch is on stable storage, which is enough for a client that chose it and
    /// never for a vote. The flush joins the batch's group, so it costs no second sync.
    async fn commit(&self, batch: Batch) -> Result<(), StorageError> {
        let ticket = self.committer.submit(batch).map_err(|error| StorageError::Io {
            during: "storing metadata",
            message: error.to_string(),
        })?;
        self.committer.flush().await?;
        ticket.await
    }

    /// Stores the vote on entry `index`; durable on return (law L9).
    pub(super) async fn save_vote(
        &self,
        index: u64,
        vote: &Acceptor<LogEntry>,
    ) -> Result<(), StorageError> {
        let mut batch = Batch::new();
        batch.put(keys::meta_row(VOTE, index), vote.encode());
        self.commit(batch).await
    }

    /// Stores entry `index`, which makes the vote on it needless; durable on return.
    pub(super) async fn save_entry(
        &self,
        index: u64,
        entry: &LogEntry,
    ) -> Result<(), StorageError> {
        let mut batch = Batch::new();
        batch.put(keys::meta_row(ENTRY, index), binary::seal(ENTRY_FORMAT, entry));
        batch.delete(keys::meta_row(VOTE, index));
        self.commit(batch).await
    }

    /// Stores which founding this node has agreed to; durable on return.
    pub(super) async fn save_founding(&self, cards: u128) -> Result<(), StorageError> {
        let mut batch = Batch::new();
        let bytes: Bytes = binary::seal(ENTRY_FORMAT, &cards).into();
        batch.put(keys::meta_row(FOUNDING, 0), bytes);
        self.commit(batch).await
    }
}
