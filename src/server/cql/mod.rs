//! The CQL door: Cassandra's native protocol, versions 4 and 5, on its own port.
//!
//! ```text
//! bytes ─ segment ─ frame ─▶ request ─ service ─▶ statement (crate::cql) ─▶ store (the node)
//!         inbox                 connection                                       │
//! bytes ◀ outbox ─ segment ─ frame ◀─────────────── response ◀──────────────────────┘
//! ```
//!
//! [`segment`], [`compress`], [`frame`] and [`request`] read bytes and do no IO; [`inbox`] and
//! [`outbox`] have a socket's halves. A door knows no replica: what it needs of the node is
//! [`Store`].
//!
//! Any byte sequence ends in an error or a closed connection; a length that somebody wrote is
//! checked against a bound before anything is allocated for it. A statement never ends a
//! connection.
//!
//! Not here yet: logged batches over several partitions.

mod auth;
mod buckets;
mod compress;
mod conditional;
mod connection;
mod ddl;
mod describe;
pub mod direct;
mod error;
mod events;
mod frame;
mod inbox;
mod inline;
pub mod listen;
mod options;
mod outbox;
mod paging;
mod permits;
mod point;
mod reads;
mod request;
mod response;
mod roles;
mod segment;
mod service;
mod statement;
mod store;
mod system;
#[cfg(test)]
mod tests;
mod traces;
mod warnings;
mod wire;

pub use service::CqlService;
pub use store::{PeerView, Store};
