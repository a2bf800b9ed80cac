//! Who a data directory is: its node, its actor, how often it was opened, and the one counter
//! from which the actor mints its dots.
//!
//! Law L3: an actor id belongs to one unbroken history of one directory. An empty directory is a
//! new actor. So is a directory that was stopped uncleanly while it acknowledged writes before
//! they were synced: it may have forgotten dots that others have seen, and would mint them again.
//! Rule 1: the counter runs over all keys and never restarts; the row that holds it moves in the
//! same batch as the records whose dots it counts.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::env::Env;
use crate::net::NodeStamps;
use crate::plants::{Plant, planted};
use crate::storage::{Batch, Engine, StorageError, keys};
use crate::types::{ActorId, Dot, Hlc, Incarnation, NodeId};

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
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct IdentityRow {
    format: u8,
    cluster: String,
    name: String,
    node: NodeId,
    actor: ActorId,
    incarnation: Incarnation,
    clean: bool,
    /// Whether this start acknowledges writes before they are synced. The next one asks: what an
    /// unclean stop may have lost depends on how the directory *was* run.
    #[serde(default)]
    acks_before_sync: bool,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct ActorRow {
    actor: ActorId,
    counter: u64,
    hlc: Hlc,
}

/// The identity of an opened data directory.
#[derive(Debug, Clone)]
pub struct Identity {
    /// The node.
    pub node: NodeId,
    /// The actor of this directory's history.
    pub actor: ActorId,
    /// Which opening this is, from 1.
    pub incarnation: Incarnation,
    /// Distinguishes two starts that claim one incarnation (a restored copy).
    pub nonce: u64,
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

impl Identity {
    /// Opens the directory behind `engine`: checks whose it is, counts the start, and makes both
    /// durable before returning.
    ///
    /// # Errors
    /// [`IdentityError`] when the directory belongs to someone else or cannot be used.
    pub fn open(engine: &dyn Engine, env: &Env, opening: &Opening) -> Result<Self, IdentityError> {
        let node = NodeId::derive(&opening.cluster, &opening.name);
        let found: Option<IdentityRow> =
            engine.get(&identity_key())?.map(|b| unseal("identity", &b)).transpose()?;
        let stored: Option<ActorRow> =
            engine.get(&actor_key())?.map(|b| unseal("actor", &b)).transpose()?;
        let fresh = || {
            if planted(Plant::P16) {
                return ActorId(node.0 as u64);
            }
            ActorId(env.random("actor-id"))
        };
        let row = match found {
            None => IdentityRow {
                format: 1,
                cluster: opening.cluster.clone(),
                name: opening.name.clone(),
                node,
                actor: fresh(),
                incarnation: Incarnation(1),
                clean: false,
                acks_before_sync: opening.acks_before_sync,
            },
            Some(row) if row.node != node => {
                return Err(IdentityError::Foreign {
                    found_name: row.name,
                    found_cluster: row.cluster,
                    name: opening.name.clone(),
                    cluster: opening.cluster.clone(),
                });
            }
            Some(row) => {
                // The counter is stored with the identity from the first opening on. Without it,
                // nobody knows which dots were minted.
                let counted = stored.is_some_and(|stored| stored.actor == row.actor);
                let may_have_forgotten = !counted || (row.acks_before_sync && !row.clean);
                IdentityRow {
                    actor: if may_have_forgotten { fresh() } else { row.actor },
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
        let mut batch = Batch::new();
        batch.put(identity_key(), seal(&row));
        batch.put(actor_key(), seal(&ActorRow { actor: row.actor, counter, hlc }));
        engine.apply(&batch)?;
        engine.sync()?;
        Ok(Self {
            node,
            actor: row.actor,
            incarnation: row.incarnation,
            nonce: env.random("start-nonce"),
            counter,
            hlc,
            row,
        })
    }

    /// Begins a new history in this directory: its old actor is known to have more behind it than
    /// the directory holds (a restored copy). Durable when it returns.
    ///
    /// # Errors
    /// Any [`StorageError`].
    pub fn renew(&mut self, engine: &dyn Engine, env: &Env) -> Result<(), StorageError> {
        self.actor = ActorId(env.random("actor-id"));
        self.counter = 0;
        self.row.actor = self.actor;
        let mut batch = Batch::new();
        batch.put(identity_key(), seal(&self.row));
        batch.put(actor_key(), seal(&ActorRow { actor: self.actor, counter: 0, hlc: self.hlc }));
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
    counter: AtomicU64,
    stamps: Arc<NodeStamps>,
}

impl Actor {
    /// The actor of `identity`, going on where its directory left off.
    #[must_use]
    pub fn new(identity: &Identity, stamps: Arc<NodeStamps>) -> Self {
        Self { id: identity.actor, counter: AtomicU64::new(identity.counter), stamps }
    }

    /// The actor's id.
    #[must_use]
    pub fn id(&self) -> ActorId {
        self.id
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
    /// all that the group used.
    #[must_use]
    pub fn row(&self) -> (Bytes, Bytes) {
        let row = ActorRow {
            actor: self.id,
            counter: self.counter.load(Ordering::Acquire),
            hlc: self.stamps.clock.now(),
        };
        (actor_key(), seal(&row))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::{HlcClock, tokio_env};
    use crate::storage::MemEngine;

    fn opening(name: &str, acks_before_sync: bool) -> Opening {
        Opening { cluster: "c".to_owned(), name: name.to_owned(), acks_before_sync }
    }

    #[tokio::test]
    async fn a_directory_keeps_its_actor_and_counts_its_starts() {
        let (engine, env) = (MemEngine::new(), tokio_env());
        let first = Identity::open(&engine, &env, &opening("n1", false)).unwrap();
        let second = Identity::open(&engine, &env, &opening("n1", false)).unwrap();
        assert_eq!(first.actor, second.actor);
        assert_eq!((first.incarnation.0, second.incarnation.0), (1, 2));
        assert_ne!(first.nonce, second.nonce);
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
        let old = first.actor;
        first.renew(&engine, &env).unwrap();
        let second = Identity::open(&engine, &env, &opening("n1", false)).unwrap();
        assert_eq!((second.actor, second.counter), (first.actor, 0));
        assert_ne!(second.actor, old);
    }

    #[tokio::test]
    async fn the_counter_goes_on_after_a_restart() {
        let (engine, env) = (MemEngine::new(), tokio_env());
        let identity = Identity::open(&engine, &env, &opening("n1", false)).unwrap();
        let clock = HlcClock::new(env.clone(), identity.hlc, std::time::Duration::from_secs(1));
        let actor = Actor::new(&identity, Arc::new(NodeStamps::new(clock)));
        assert_eq!(actor.next_dot().counter, 1);
        assert_eq!(actor.next_dot().counter, 2);
        let (key, value) = actor.row();
        let mut batch = Batch::new();
        batch.put(key, value);
        engine.apply(&batch).unwrap();
        let again = Identity::open(&engine, &env, &opening("n1", false)).unwrap();
        assert_eq!(again.counter, 2);
        assert!(again.hlc > Hlc(0));
    }
}
