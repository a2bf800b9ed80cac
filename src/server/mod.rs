//! Doors: where clients come in. A door decodes a request, asks a
//! [coordinator](crate::coordinator), encodes the answer and maps errors; it knows no replica, no
//! disk and no ring. On whose behalf a request runs, and what that one may do, is known to
//! [`auth`].

pub mod auth;
pub mod budget;
pub mod cql;
pub mod http;

pub use auth::Principal;
