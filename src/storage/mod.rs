//! Ordered bytes on stable storage. Knows keys and values, no records, no cluster.
//!
//! [`Engine`] is the contract; every implementation passes the one conformance suite. All calls
//! are synchronous and may be made from any thread; who must not block wraps them in
//! [`crate::env::Env::blocking`].

mod engine;
pub mod keys;
mod mem;

pub use engine::{
    Batch, BatchOp, Engine, EngineStats, KeyRange, MAX_STORAGE_KEY_BYTES, MAX_STORAGE_VALUE_BYTES,
    ScanVisitor, StorageError, check_batch,
};
pub use mem::MemEngine;
