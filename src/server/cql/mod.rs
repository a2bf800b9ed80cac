//! The CQL door: Cassandra's native protocol, version 4, on its own port.
//!
//! ```text
//! bytes ─ frame ─▶ request ─ service ─▶ statement (crate::cql) ─▶ store (the node) ─▶ response
//! ```
//!
//! [`frame`] and [`request`] read bytes and do no IO; [`listen`] has the sockets. A door knows no
//! replica: what it needs of the node is [`Store`].
//!
//! Any byte sequence ends in an error or a closed connection; a length that somebody wrote is
//! checked against a bound before anything is allocated for it. A statement never ends a
//! connection.
//!
//! Not here yet: version 5's framing, compression, authentication, tracing, logged batches over
//! several partitions, conditional writes, counters.

mod conditional;
mod ddl;
mod error;
mod frame;
pub mod listen;
mod options;
mod paging;
mod reads;
mod request;
mod response;
mod service;
mod statement;
mod store;
mod system;
#[cfg(test)]
mod tests;
mod wire;

pub use service::CqlService;
pub use store::{PeerView, Store};
