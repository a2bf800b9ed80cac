//! Henge: a leaderless, replicated key-value database; a ring of equal stones.
//!
//! One request takes one path, and the modules are its steps:
//!
//! ```text
//! decode (server) → plan (ring) → contact (net) → decide (quorum, paxos)
//!                 → apply (replica, storage) → reply (server)
//! ```
//!
//! Reading order, from the bottom (pure) to the top (wiring):
//! [`types`], [`binary`], [`causality`], [`record`], [`ring`], [`quorum`], [`paxos`], [`gossip`], [`cql`],
//! [`meta`], [`merkle`], [`recipes`], [`overload`]; then [`env`] and [`storage`]; [`net`]; [`replica`],
//! [`cluster`], [`coordinator`],
//! [`repair`]; [`config`], [`server`], [`node`]; [`client`], [`cli`]. No module names one that
//! comes later: `tests/layers.rs` has the whole map, and checks it.

pub mod binary;
pub mod causality;
pub mod cli;
pub mod client;
pub mod cluster;
pub mod config;
pub mod coordinator;
pub mod cql;
pub mod env;
pub mod gossip;
pub mod merkle;
pub mod meta;
pub mod metrics;
pub mod net;
pub mod node;
pub mod overload;
pub mod paxos;
pub mod plants;
pub mod quorum;
pub mod recipes;
pub mod record;
pub mod repair;
pub mod replica;
pub mod ring;
pub mod server;
#[cfg(feature = "sim")]
pub mod sim;
pub mod storage;
pub mod telemetry;
pub mod types;

/// A write makes and frees hundreds of small blocks, on a thread that is often not the one that frees
/// them: the C library's allocator took a quarter of a node's time for it (`benches/RESULTS.md`).
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;
