//! Ordered bytes on stable storage. Knows keys and values, no records, no cluster.
//!
//! [`Engine`] is the contract; every implementation passes the one conformance suite. All calls
//! are synchronous and may be made from any thread; who must not block wraps them in
//! [`crate::env::Env::blocking`].

mod backwards;
mod committer;
#[cfg(any(test, feature = "sim"))]
pub mod conformance;
mod contain;
mod dirs;
mod engine;
mod fjall_engine;
mod high_water;
pub mod keys;
mod lock_wait;
mod mem;
mod rows;
mod sled_barrier;
mod sled_engine;
mod space;
mod store;

pub use committer::{
    CommitTicket, Committer, CommitterOptions, CommitterStats, Durability, Pace, Rollback,
    SubmitError, Trailer, TrailerRow,
};
pub use contain::panic_is_contained;
pub use dirs::create_durable_dir;
pub use engine::{
    Batch, BatchOp, Engine, EngineStats, KeyRange, MAX_STORAGE_KEY_BYTES, MAX_STORAGE_VALUE_BYTES,
    ScanVisitor, StorageError, check_batch,
};
pub use fjall_engine::{FjallEngine, FjallOptions};
pub use high_water::{HighWater, HighWaterFile, HighWaterStore};
pub use mem::MemEngine;
pub use sled_engine::{SledEngine, SledOptions};
pub use space::DEFAULT_RESERVE_BYTES;
