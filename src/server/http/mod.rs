//! The HTTP door: REST with the web's own conventions.
//!
//! # Reading order
//!
//! [`Door`] takes a request, checks the bounds that hold for all of them, and finds the handler:
//! keys and values are taken apart by hand (`kv`, `listing`, `batch`: a key is raw bytes, and
//! reading one is the hot path), everything else goes through an axum router (`buckets`, `nodes`,
//! `pages`). Handlers check everything about a request before they read its body, so that a wrong
//! one costs no memory, then ask the [`Backend`] and encode what it says. Every error is a
//! [`Problem`](problem::Problem).
//!
//! [`listen`] is the only place with sockets. A [`Door`] is a `tower::Service`, and
//! [`listen::serve_stream`] runs one connection of it over any byte stream, so that the simulator
//! runs the real door.
//!
//! # Rules that it keeps
//!
//! - Every answer to a write that is not a success says what became of the write (law L8). The
//!   body is read whole before the coordinator hears of a write: a truncated one is not applied.
//! - Whatever a client sends, memory is bounded ([`HttpLimits`]): headers, bodies of all requests
//!   together, requests, connections, and the time that any of them may be held open.
//! - Unknown parameters are refused with the nearest known name: a misspelt level that is ignored
//!   would be a weaker promise than the client asked for.
//! - Conditions are never checked here before the write: that would race. They go with the write
//!   to the coordinator, which has Paxos judge them (`conditions`).

pub mod backend;
mod batch;
pub mod body;
mod buckets;
mod conditions;
mod cql;
mod cursor;
mod door;
mod elections;
mod identity;
mod kv;
pub mod limits;
pub mod listen;
mod listing;
mod locks;
pub mod names;
mod nodes;
mod numbers;
pub mod openapi;
mod options;
mod pages;
pub mod path;
pub mod problem;
pub mod query;
pub mod routes;
mod rows;
mod versions;

pub use backend::Backend;
pub use door::Door;
pub use limits::HttpLimits;
