//! A whole cluster in one thread, replayed from a seed. Test builds only (`sim` feature).
//!
//! ```text
//! seed → plan (generate) → run: cluster, clients, faults (inject) → history → check
//! ```
//!
//! Reading order, from the bottom: [`rng`], [`trace`]; [`executor`] is time, tasks and randomness;
//! [`disk`] and [`engine`] are storage that loses power; [`net`] is the network. On top,
//! [`cluster`] starts and kills production nodes, [`client`]s work through the script of a
//! [`plan`] beside clients of [`rows`] and locks, [`inject`] breaks things, the [`oracle`] watches from inside, and [`check`] judges the
//! [`history`] from outside.

pub mod check;
pub mod client;
pub mod cluster;
pub mod converge;
pub mod disk;
pub mod engine;
pub mod executor;
pub mod generate;
pub mod handoff;
pub mod hang_up;
pub mod history;
pub mod inject;
pub mod lockers;
pub mod net;
pub mod oracle;
pub mod plan;
pub mod rng;
pub mod rows;
pub mod run;
pub mod shrink;
pub mod stage;
pub mod trace;
