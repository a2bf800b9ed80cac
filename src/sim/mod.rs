//! A whole cluster in one thread, replayed from a seed. Test builds only (`sim` feature).
//!
//! [`executor`] is time, tasks and randomness; [`disk`] and [`engine`] are storage that loses power.

pub mod check;
pub mod disk;
pub mod engine;
pub mod executor;
pub mod history;
pub mod net;
pub mod rng;
pub mod trace;
