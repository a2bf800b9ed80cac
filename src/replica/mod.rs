//! One node's share of the data: answers other nodes' (and its own coordinator's) reads and
//! writes of the keys that it holds. Knows no client.
//!
//! Every change of a record is *read, merge, stage, commit*: under the lock of the key's shard the
//! newest version is read (staged ones included), changed, and handed to the committer; then,
//! outside the lock, the answer waits for the group commit. So
//! - a dot is on stable storage before it leaves the node (law L2), and so is everything that an
//!   acknowledgement promises (law L7);
//! - readers see only what is durable (rule 6; see [`overlay`]);
//! - no lock is held across an await;
//! - the hash trees follow what readers see (see [`trees`]).
//!
//! A copy that fails its checksum is refused as [`Refusal::Damaged`], never taken for absent: the
//! key mints nothing here until the merge of all other replicas has replaced it (rule 2).

mod batches;
mod count;
mod dead;
mod dropped;
mod handoff;
mod identity;
mod index;
mod mint;
mod overlay;
mod page;
mod purge;
mod rows;
mod survey;
#[cfg(all(test, feature = "sim"))]
mod tests;
mod trees;
mod update;
mod voters;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use crate::env::Env;
use crate::merkle;
use crate::meta::Table;
use crate::net::messages::{Read, Want};
use crate::net::{NodeStamps, Refusal, Response};
use crate::plants::{Plant, planted};
use crate::record::{self, Record, RecordKind, Row};
use crate::storage::keys::{self, Kind};
use crate::storage::{Committer, Engine, StorageError};
use crate::types::{Digest, Key, Token};

pub(crate) use dead::Dead;
#[cfg(feature = "sim")]
pub(crate) use identity::durable_counter;
pub use identity::{Actor, Identity, IdentityError, Opening};
use index::Indexes;
pub(crate) use index::Progress;
use overlay::Overlay;
pub(crate) use page::TokenSpan;
use purge::Purges;
pub(crate) use purge::{NotRemoved, Removal};
pub(crate) use survey::{LeafEntry, Sound, Surveyed, root_share};
use trees::LeafAt;
pub use trees::TreeCounts;
pub(crate) use trees::{TreeId, Trees};
pub use update::{MAX_MINTED_BYTES, MAX_RECORD_BYTES};
pub(crate) use voters::VoteRow;
use voters::Voters;

/// Locks over the key space. More than cores and tasks under way, few enough to be cheap.
const SHARDS: usize = 256;

/// Counts of what a replica has met; for `/metrics`.
#[derive(Debug, Default)]
pub struct ReplicaCounters {
    /// Records shown (whole or as digests).
    pub reads: AtomicU64,
    /// Dots minted.
    pub mints: AtomicU64,
    /// Records merged in from other nodes.
    pub applies: AtomicU64,
    /// Of these, those that brought nothing new.
    pub dominated: AtomicU64,
    /// Of the records merged in, hints: what this replica had missed.
    pub hints: AtomicU64,
    /// Copies that failed their checksum.
    pub damaged: AtomicU64,
    /// Damaged copies replaced.
    pub healed: AtomicU64,
}

/// The data of one node. See the module's essay.
pub struct Replica {
    env: Env,
    engine: Arc<dyn Engine>,
    committer: Committer,
    actor: Arc<Actor>,
    stamps: Arc<NodeStamps>,
    shards: Arc<Vec<Mutex<Overlay>>>,
    voters: Arc<Voters>,
    trees: Arc<Trees>,
    purges: Arc<Purges>,
    indexes: Indexes,
    counters: ReplicaCounters,
    forgot: AtomicBool,
}

impl std::fmt::Debug for Replica {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Replica").field("actor", &self.actor.id()).finish_non_exhaustive()
    }
}

/// Where a record is stored.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    kind: RecordKind,
    row: Bytes,
    /// What the stored bytes are bound to, so that a misdirected write is seen.
    address: Bytes,
    shard: usize,
    /// Where its digest goes.
    leaf: LeafAt,
}

impl Replica {
    /// A replica over `engine`, whose writes go through `committer`.
    #[must_use]
    pub fn new(
        env: Env,
        engine: Arc<dyn Engine>,
        committer: Committer,
        actor: Arc<Actor>,
        stamps: Arc<NodeStamps>,
    ) -> Self {
        let trees = Arc::new(Trees::default());
        let shards: Vec<_> = (0..SHARDS).map(|_| Mutex::new(Overlay::new(trees.clone()))).collect();
        let shards = Arc::new(shards);
        let purges = Arc::new(Purges::default());
        let voters = Arc::new(Voters::default());
        let (staged, marks, purged) = (shards.clone(), trees.clone(), purges.clone());
        let votes = voters.clone();
        let committer = committer.with_rollback(Box::new(move |acked| {
            for shard in staged.iter() {
                shard.lock().unwrap_or_else(PoisonError::into_inner).roll_back(acked);
            }
            votes.roll_back(acked);
            // After the shards: whoever was staging in one of them is done.
            marks.rolled_back();
            purged.rolled_back();
        }));
        Self {
            env,
            engine,
            committer,
            actor,
            stamps,
            shards,
            voters,
            trees,
            purges,
            indexes: Indexes::default(),
            counters: ReplicaCounters::default(),
            forgot: AtomicBool::new(false),
        }
    }

    /// True once a peer was found to know events of this node's actor that this node does not:
    /// its directory is an older copy. It mints nothing any more, and should show nothing; it has
    /// to go on as a new actor (law L3).
    #[must_use]
    pub fn has_forgotten(&self) -> bool {
        self.forgot.load(Ordering::Acquire)
    }

    /// Notes that this directory is an older copy of itself; see [`Replica::has_forgotten`].
    pub(crate) fn forget(&self) {
        self.forgot.store(true, Ordering::Release);
    }

    /// What the replica has met so far.
    #[must_use]
    pub fn counters(&self) -> &ReplicaCounters {
        &self.counters
    }

    /// The actor that mints here.
    #[must_use]
    pub fn actor(&self) -> &Arc<Actor> {
        &self.actor
    }

    /// The hash trees of this replica's data.
    pub(crate) fn trees(&self) -> &Trees {
        &self.trees
    }

    fn place(&self, table: &Table, token: Token, key: &Key) -> Place {
        let row = keys::row(Kind::Record, table.id, token, key, b"");
        let address = record::address(table.id, key);
        let leaf = self.trees.at(table.id, token);
        Place { kind: table.record_kind(), row, address, shard: shard_of(token), leaf }
    }

    fn lock(&self, shard: usize) -> MutexGuard<'_, Overlay> {
        self.shards[shard].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The bytes of a row that readers may see.
    fn shown(&self, place: &Place) -> Result<Option<Bytes>, StorageError> {
        // Engine first, overlay second: if the engine already shows an unsynced version, the
        // overlay still has the row and knows better; if the overlay has settled it by now, what
        // the engine showed was durable, or older than that.
        let stored = self.engine.get(&place.row)?;
        let mut overlay = self.lock(place.shard);
        Ok(overlay.shown(&place.row, self.committer.acked_seq()).unwrap_or(stored))
    }

    /// Answers [`Read`]: only what is on stable storage, and only if it passes its checksum.
    ///
    /// # Errors
    /// A [`Refusal`]; [`Refusal::Damaged`] is not absence.
    pub fn read(&self, table: &Table, token: Token, read: &Read) -> Result<Response, Refusal> {
        self.counters.reads.fetch_add(1, Ordering::Relaxed);
        let place = self.place(table, token, &read.key);
        // Before the row: what is read may then be younger than the generation says, never older.
        let generation = self.generation(place.leaf.tree).map_err(|e| self.refuse_storage(&e))?;
        let mut bytes = match self.shown(&place) {
            Err(StorageError::Corrupt { .. }) if planted(Plant::P31) => None,
            bytes => bytes.map_err(|e| self.refuse_storage(&e))?,
        };
        if planted(Plant::P31) {
            bytes = bytes.filter(|bytes| record::verify(bytes, &place.address).is_ok());
        }
        if let Some(bytes) = &bytes {
            record::verify(bytes, &place.address)
                .map_err(|e| self.refuse_damaged(&place.row, &e))?;
        }
        Ok(match read.want {
            Want::Record => Response::Record(bytes, generation),
            Want::Digest => Response::Digest(
                bytes
                    .map(|b| record::stored_digest(&b))
                    .transpose()
                    .map_err(|e| self.refuse_damaged(&place.row, &e))?,
                generation,
            ),
        })
    }

    fn refuse_storage(&self, error: &StorageError) -> Refusal {
        match error {
            StorageError::Full => Refusal::DiskFull,
            StorageError::Corrupt { .. } => {
                self.counters.damaged.fetch_add(1, Ordering::Relaxed);
                tracing::error!(%error, "stored data is damaged");
                Refusal::Damaged
            }
            _ => Refusal::Storage { message: error.to_string() },
        }
    }

    fn refuse_damaged(&self, row: &[u8], error: &record::RecordError) -> Refusal {
        self.counters.damaged.fetch_add(1, Ordering::Relaxed);
        let row_hash = xxhash_rust::xxh3::xxh3_64(row);
        tracing::error!(row_hash, %error, "a stored record is damaged; it will be healed from the other replicas");
        Refusal::Damaged
    }
}

/// The lock that guards a token's rows.
fn shard_of(token: Token) -> usize {
    (token.0 as u64 >> 32) as usize % SHARDS
}

/// The digest of a stored record in the hash tree of its partition. `stored` is the digest that the
/// bytes carry.
fn tree_digest(address: &[u8], bytes: &[u8], stored: Digest) -> u128 {
    if planted(Plant::P24) && is_tombstone(bytes, address) {
        return 0;
    }
    if Row::is_maimed()
        && let Ok(record) = Record::decode(&Bytes::copy_from_slice(bytes), address)
        && let Some(row) = record.row()
    {
        return merkle::digest(address, Record::of_row(row.maimed()).digest());
    }
    merkle::digest(address, stored)
}

/// For planted bugs.
fn is_tombstone(bytes: &[u8], address: &[u8]) -> bool {
    let record = Record::decode(&Bytes::copy_from_slice(bytes), address);
    record.is_ok_and(|record| record.value_count() == 0)
}
