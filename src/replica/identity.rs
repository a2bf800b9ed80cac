//! Who a data directory is: its node, its actor and its voter, which starts it has seen, and the
//! one counter from which the actor mints its dots.
//!
//! Law L3: an actor id belongs to one unbroken history of one directory. An empty directory is a
//! new actor. So is a directory that was stopped uncleanly while it acknowledged writes before
//! they were synced: it may have forgotten dots that others have seen, and would mint them again.
//! Rule 1: the counter runs over all keys and never restarts; the row that holds it moves in the
//! same batch as the records whose dots it counts.
//!
//! Its *voter* is the history of what it voted. Votes are synced before they are answered whatever
//! the durability of writes, so the voter outlives an unclean stop that its actor does not; else a
//! majority of nodes that stop so at once could never agree on anything again.
//!
//! # Older copies
//!
//! A directory that was copied and put back later is consistent in itself. What tells it:
//! - *Its starts.* Each start draws a random nonce and stores it beside those of the starts before.
//!   The metadata log accepts a start only in place of the one on record, and the node proposes
//!   that only if its directory knows of the start on record. A copy that was made before that
//!   start does not, however often it was started meanwhile, on record or not.
//! - *Its mark*, a count of its commits that is stored with each of them. A copy that was made
//!   within the start on record knows of all starts; but other nodes have heard of later marks by
//!   gossip ([`crate::cluster`] asks them), or have met later dots
//!   ([`Replica`](crate::replica::Replica) compares).
//! - *The high-water note* ([`crate::storage::HighWater`]), when it is not the directory that was
//!   put back, but the store in it that recovered an older state.
//!
//! Whatever tells it: both ids are drawn anew, and the data is refilled from the others.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::env::Env;
use crate::net::NodeStamps;
use crate::plants::{Plant, planted};
use crate::storage::{Batch, Engine, StorageError, TrailerRow, keys};
use crate::types::{ActorId, Dot, Hlc, Incarnation, NodeId, VoterId};

/// Why a data directory does not fit the node that opened it.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// It belongs to another node or cluster.
    #[error(
        "the data directory belongs to node {found_name:?} of cluster {found_cluster:?}, and the \
         configuration names node {name:?} of cluster {cluster:?}: point node.data_dir at this \
         node's own directory, or correct node.name or cluster.name"
    )]
    Foreign {
        /// The node that the directory belongs to.
        found_name: String,
        /// Its cluster.
        found_cluster: String,
        /// The configured node.
        name: String,
        /// The configured cluster.
        cluster: String,
    },
    /// The directory cannot be read or written.
    #[error("the node's identity cannot be read from its data directory: {0}")]
    Storage(#[from] StorageError),
}

/// Which node is opening which directory, and how its storage acknowledges.
#[derive(Debug, Clone)]
pub struct Opening {
    /// The cluster's configured name.
    pub cluster: String,
    /// The node's configured name.
    pub name: String,
    /// True when writes are acknowledged before they are synced (`storage.durability =
    /// "periodic"`).
    pub acks_before_sync: bool,
    /// The directory's mark by the note beside its store; 0 if there is none.
    pub high_water: u64,
}

/// The starts that a directory remembers. If so many in a row do not get on record, it takes
/// itself for an older copy, which is safe.
const STARTS_KEPT: usize = 1024;

/// Format of the rows below. Predecessors: 1 knew neither voter, starts nor mark; never released.
const FORMAT: u8 = 2;

#[derive(Debug, Clone, Serialize, Deserialize)]
struct IdentityRow {
    format: u8,
    cluster: String,
    name: String,
    node: NodeId,
    actor: ActorId,
    voter: VoterId,
    incarnation: Incarnation,
    /// Nonces of the starts, oldest first, this one last.
    starts: Vec<u64>,
    clean: bool,
    /// Whether this start acknowledges writes before they are synced. The next one asks: what an
    /// unclean stop may have lost depends on how the directory *was* run.
    acks_before_sync: bool,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct ActorRow {
    actor: ActorId,
    counter: u64,
    hlc: Hlc,
    mark: u64,
}

/// The identity of an opened data directory.
#[derive(Debug, Clone)]
pub struct Identity {
    /// The node.
    pub node: NodeId,
    /// The actor of this directory's history.
    pub actor: ActorId,
    /// The voter of this directory's history.
    pub voter: VoterId,
    /// Which opening this is, from 1.
    pub incarnation: Incarnation,
    /// Which start this is: random.
    pub nonce: u64,
    /// Commits in this directory's history that it held when it was opened.
    pub held: u64,
    /// Commits in this directory's history so far: more than were held, or ever noted.
    pub mark: u64,
    /// Dots minted so far.
    pub counter: u64,
    /// Greatest hybrid-clock reading ever stored.
    pub hlc: Hlc,
    row: IdentityRow,
}

fn identity_key() -> Bytes {
    keys::node_row("identity")
}

fn actor_key() -> Bytes {
    keys::node_row("actor")
}

/// How many dots an actor has minted in commits that are on a disk, by what the disk holds under
/// its row; for the simulator's oracle.
#[cfg(feature = "sim")]
pub(crate) fn durable_counter(
    actor: ActorId,
    read: impl FnOnce(&[u8]) -> Option<Bytes>,
) -> Option<u64> {
    let row: ActorRow = unseal("actor", &read(&actor_key())?).ok()?;
    (row.actor == actor).then_some(row.counter)
}

fn seal<T: Serialize>(row: &T) -> Bytes {
    // These types have no maps with foreign keys and no floats: they always encode.
    let json = serde_json::to_vec(row).unwrap_or_default();
    let mut out = xxhash_rust::xxh3::xxh3_64(&json).to_be_bytes().to_vec();
    out.extend_from_slice(&json);
    out.into()
}

fn unseal<T: DeserializeOwned>(what: &'static str, bytes: &[u8]) -> Result<T, StorageError> {
    let corrupt = || StorageError::Corrupt { what: format!("the {what} row is damaged") };
    let (sum, json) = bytes.split_at_checked(8).ok_or_else(corrupt)?;
    if sum != xxhash_rust::xxh3::xxh3_64(json).to_be_bytes() {
        return Err(corrupt());
    }
    serde_json::from_slice(json).map_err(|_| corrupt())
}

impl IdentityRow {
    fn read(bytes: &[u8]) -> Result<Self, StorageError> {
        #[derive(Deserialize)]
        struct Format {
            format: u8,
        }
        let Format { format } = unseal("identity", bytes)?;
        if format != FORMAT {
            let what = format!("the identity row has format {format}, not {FORMAT}");
            return Err(StorageError::Corrupt { what });
        }
        unseal("identity", bytes)
    }
}

const LOST_MUCH: &str = "this node goes on as a new actor; it takes writes, and counts for no read \
                         until it has been refilled from the other replicas";

fn fresh_actor(env: &Env, node: NodeId) -> ActorId {
    ActorId(if planted(Plant::P16) { node.0 as u64 } else { env.random("actor-id") })
}

fn fresh_voter(env: &Env, node: NodeId) -> VoterId {
    VoterId(if planted(Plant::P16) { node.0 as u64 } else { env.random("voter-id") })
}

impl Identity {
    /// Opens the directory behind `engine`: checks whose it is, counts the start, and makes both
    /// durable before returning.
    ///
    /// # Errors
    /// [`IdentityError`] when the directory belongs to someone else or cannot be used.
    pub fn open(engine: &dyn Engine, env: &Env, opening: &Opening) -> Result<Self, IdentityError> {
        let node = NodeId::derive(&opening.cluster, &opening.name);
        let found = engine.get(&identity_key())?.map(|b| IdentityRow::read(&b)).transpose()?;
        let stored: Option<ActorRow> =
            engine.get(&actor_key())?.map(|b| unseal("actor", &b)).transpose()?;
        let nonce = env.random("start-nonce");
        let held = stored.map_or(0, |stored| stored.mark);
        let row = match found {
            None => {
                if opening.high_water > 0 {
                    tracing::warn!(
                        commits = opening.high_water,
                        "the store is empty, and {LOST_MUCH}"
                    );
                }
                IdentityRow {
                    format: FORMAT,
                    cluster: opening.cluster.clone(),
                    name: opening.name.clone(),
                    node,
                    actor: fresh_actor(env, node),
                    voter: fresh_voter(env, node),
                    incarnation: Incarnation(1),
                    starts: vec![nonce],
                    clean: false,
                    acks_before_sync: opening.acks_before_sync,
                }
            }
            Some(row) if row.node != node => {
                return Err(IdentityError::Foreign {
                    found_name: row.name,
                    found_cluster: row.cluster,
                    name: opening.name.clone(),
                    cluster: opening.cluster.clone(),
                });
            }
            Some(mut row) => {
                // The counter is stored with the identity from the first opening on. Without it,
                // nobody knows which dots were minted.
                let counted = stored.is_some_and(|stored| stored.actor == row.actor);
                let older = held < opening.high_water;
                if older {
                    tracing::warn!(
                        commits = held,
                        noted = opening.high_water,
                        "the store has recovered an older state than it had: {LOST_MUCH}"
                    );
                }
                if older || !counted {
                    row.voter = fresh_voter(env, node);
                }
                if older || !counted || (row.acks_before_sync && !row.clean) {
                    row.actor = fresh_actor(env, node);
                }
                let spare = (row.starts.len() + 1).saturating_sub(STARTS_KEPT);
                row.starts.drain(..spare);
                row.starts.push(nonce);
                IdentityRow {
                    incarnation: Incarnation(row.incarnation.0 + 1),
                    clean: false,
                    acks_before_sync: opening.acks_before_sync,
                    ..row
                }
            }
        };
        let (counter, hlc) = match stored {
            Some(stored) if stored.actor == row.actor => (stored.counter, stored.hlc),
            Some(stored) => (0, stored.hlc),
            None => (0, Hlc(0)),
        };
        let hlc = if planted(Plant::P36) { Hlc(0) } else { hlc };
        let mark = held.max(opening.high_water) + 1;
        let identity = Self {
            node,
            actor: row.actor,
            voter: row.voter,
            incarnation: row.incarnation,
            nonce,
            held,
            mark,
            counter,
            hlc,
            row,
        };
        identity.store(engine)?;
        Ok(identity)
    }

    /// Nonces of the starts that this directory has seen, the last 1024, this one included.
    #[must_use]
    pub fn starts(&self) -> &[u64] {
        &self.row.starts
    }

    /// Begins a new history in this directory: its old actor is known to have more behind it than
    /// the directory holds (an older copy). Durable when it returns.
    ///
    /// # Errors
    /// Any [`StorageError`].
    pub fn renew(&mut self, engine: &dyn Engine, env: &Env) -> Result<(), StorageError> {
        let stored = engine.get(&actor_key())?;
        let stored: Option<ActorRow> = stored.map(|b| unseal("actor", &b)).transpose()?;
        self.mark = stored.map_or(self.mark, |stored| stored.mark.max(self.mark)) + 1;
        self.actor = ActorId(env.random("actor-id"));
        self.voter = VoterId(env.random("voter-id"));
        self.counter = 0;
        self.row.actor = self.actor;
        self.row.voter = self.voter;
        self.store(engine)
    }

    fn store(&self, engine: &dyn Engine) -> Result<(), StorageError> {
        let Self { actor, counter, hlc, mark, .. } = *self;
        let mut batch = Batch::new();
        batch.put(identity_key(), seal(&self.row));
        batch.put(actor_key(), seal(&ActorRow { actor, counter, hlc, mark }));
        engine.apply(&batch)?;
        engine.sync()
    }

    /// The row that marks a clean stop, to be stored last and synced.
    #[must_use]
    pub fn clean_stop(&self) -> Batch {
        let mut batch = Batch::new();
        batch.put(identity_key(), seal(&IdentityRow { clean: true, ..self.row.clone() }));
        batch
    }
}

/// The running actor: hands out its dots.
#[derive(Debug)]
pub struct Actor {
    id: ActorId,
    voter: VoterId,
    counter: AtomicU64,
    mark: AtomicU64,
    stamps: Arc<NodeStamps>,
}

impl Actor {
    /// The actor of `identity`, going on where its directory left off.
    #[must_use]
    pub fn new(identity: &Identity, stamps: Arc<NodeStamps>) -> Self {
        Self {
            id: identity.actor,
            voter: identity.voter,
            counter: AtomicU64::new(identity.counter),
            mark: AtomicU64::new(identity.mark),
            stamps,
        }
    }

    /// The actor's id.
    #[must_use]
    pub fn id(&self) -> ActorId {
        self.id
    }

    /// Whose votes this directory's votes are.
    #[must_use]
    pub fn voter(&self) -> VoterId {
        self.voter
    }

    /// The counter of the last dot handed out. Every dot of this actor that anybody can have met
    /// is at or below it.
    #[must_use]
    pub fn minted(&self) -> u64 {
        self.counter.load(Ordering::Acquire)
    }

    /// A fresh dot. May be lost to a crash before it is stored; never repeated after it was.
    pub(super) fn next_dot(&self) -> Dot {
        Dot { actor: self.id, counter: self.counter.fetch_add(1, Ordering::AcqRel) + 1 }
    }

    /// The row to store with every group of records: a counter and a clock reading at or above
    /// all that the group used, and the next mark.
    #[must_use]
    pub fn row(&self) -> TrailerRow {
        let row = ActorRow {
            actor: self.id,
            counter: self.counter.load(Ordering::Acquire),
            hlc: self.stamps.clock.now(),
            mark: self.mark.fetch_add(1, Ordering::AcqRel) + 1,
        };
        TrailerRow { key: actor_key(), value: seal(&row), mark: row.mark }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::{HlcClock, tokio_env};
    use crate::storage::MemEngine;

    fn opening(name: &str, acks_before_sync: bool) -> Opening {
        let (cluster, name) = ("c".to_owned(), name.to_owned());
        Opening { cluster, name, acks_before_sync, high_water: 0 }
    }

    #[tokio::test]
    async fn a_directory_keeps_its_actor_and_counts_its_starts() {
        let (engine, env) = (MemEngine::new(), tokio_env());
        let first = Identity::open(&engine, &env, &opening("n1", false)).unwrap();
        let second = Identity::open(&engine, &env, &opening("n1", false)).unwrap();
        assert_eq!(first.actor, second.actor);
        assert_eq!((first.incarnation.0, second.incarnation.0), (1, 2));
        assert_ne!(first.nonce, second.nonce);
        assert_eq!(second.starts(), [first.nonce, second.nonce]);
    }

    #[tokio::test]
    async fn another_nodes_directory_is_refused() {
        let (engine, env) = (MemEngine::new(), tokio_env());
        Identity::open(&engine, &env, &opening("n1", false)).unwrap();
        let error = Identity::open(&engine, &env, &opening("n2", false)).unwrap_err();
        assert!(error.to_string().contains("node.data_dir"), "{error}");
    }

    #[tokio::test]
    async fn an_unclean_stop_that_may_have_lost_writes_begins_a_new_actor() {
        let (engine, env) = (MemEngine::new(), tokio_env());
        let first = Identity::open(&engine, &env, &opening("n1", true)).unwrap();
        let unclean = Identity::open(&engine, &env, &opening("n1", true)).unwrap();
        assert_ne!(first.actor, unclean.actor);
        assert_eq!(first.voter, unclean.voter, "votes are synced in any case");
        engine.apply(&unclean.clean_stop()).unwrap();
        let clean = Identity::open(&engine, &env, &opening("n1", true)).unwrap();
        assert_eq!(unclean.actor, clean.actor);
    }

    /// A node that ran with periodic syncs and was killed may have lost dots, however it is
    /// configured when it comes back.
    #[tokio::test]
    async fn how_the_directory_was_run_decides_what_an_unclean_stop_may_have_lost() {
        let (engine, env) = (MemEngine::new(), tokio_env());
        let periodic = Identity::open(&engine, &env, &opening("n1", true)).unwrap();
        let group = Identity::open(&engine, &env, &opening("n1", false)).unwrap();
        assert_ne!(periodic.actor, group.actor);
        let again = Identity::open(&engine, &env, &opening("n1", true)).unwrap();
        assert_eq!(group.actor, again.actor, "a group commit loses nothing");
    }

    #[tokio::test]
    async fn a_directory_without_its_counter_begins_a_new_actor() {
        let (engine, env) = (MemEngine::new(), tokio_env());
        let first = Identity::open(&engine, &env, &opening("n1", false)).unwrap();
        let mut batch = Batch::new();
        batch.delete(actor_key());
        engine.apply(&batch).unwrap();
        let second = Identity::open(&engine, &env, &opening("n1", false)).unwrap();
        assert_ne!(first.actor, second.actor);
        assert_eq!(second.counter, 0);
    }

    #[tokio::test]
    async fn a_renewed_directory_keeps_its_new_actor() {
        let (engine, env) = (MemEngine::new(), tokio_env());
        let mut first = Identity::open(&engine, &env, &opening("n1", false)).unwrap();
        let old = (first.actor, first.voter);
        first.renew(&engine, &env).unwrap();
        let second = Identity::open(&engine, &env, &opening("n1", false)).unwrap();
        assert_eq!((second.actor, second.counter), (first.actor, 0));
        assert_eq!(second.voter, first.voter);
        assert!(second.actor != old.0 && second.voter != old.1);
    }

    /// A torn tail that hides more than a crash can have lost.
    #[tokio::test]
    async fn a_store_that_recovered_an_older_state_than_was_noted_begins_a_new_history() {
        let (engine, env) = (MemEngine::new(), tokio_env());
        let first = Identity::open(&engine, &env, &opening("n1", false)).unwrap();
        let noted = |high_water| Opening { high_water, ..opening("n1", false) };
        let sound = Identity::open(&engine, &env, &noted(first.mark)).unwrap();
        assert_eq!((sound.actor, sound.voter), (first.actor, first.voter));
        let older = Identity::open(&engine, &env, &noted(sound.mark + 10)).unwrap();
        assert!(older.actor != first.actor && older.voter != first.voter);
        assert_eq!(older.counter, 0);
        let again = Identity::open(&engine, &env, &noted(sound.mark + 10)).unwrap();
        assert_eq!(again.actor, older.actor, "once is enough");
    }

    #[tokio::test]
    async fn a_directory_remembers_a_bounded_number_of_starts() {
        let (engine, env) = (MemEngine::new(), tokio_env());
        for _ in 0..STARTS_KEPT + 3 {
            Identity::open(&engine, &env, &opening("n1", false)).unwrap();
        }
        let last = Identity::open(&engine, &env, &opening("n1", false)).unwrap();
        assert_eq!(last.starts().len(), STARTS_KEPT);
        assert_eq!(last.starts().last(), Some(&last.nonce));
    }

    #[tokio::test]
    async fn the_counter_goes_on_after_a_restart() {
        let (engine, env) = (MemEngine::new(), tokio_env());
        let identity = Identity::open(&engine, &env, &opening("n1", false)).unwrap();
        let clock = HlcClock::new(env.clone(), identity.hlc, std::time::Duration::from_secs(1));
        let actor = Actor::new(&identity, Arc::new(NodeStamps::new(clock)));
        assert_eq!(actor.next_dot().counter, 1);
        assert_eq!(actor.next_dot().counter, 2);
        let row = actor.row();
        let mut batch = Batch::new();
        batch.put(row.key, row.value);
        engine.apply(&batch).unwrap();
        let again = Identity::open(&engine, &env, &opening("n1", false)).unwrap();
        assert_eq!(again.counter, 2);
        assert!(again.mark > row.mark && row.mark > identity.mark);
        assert!(again.hlc > Hlc(0));
    }
}
