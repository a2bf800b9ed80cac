//! Hosts, the network between them, their disks and the node processes on them.

pub mod cluster;
pub mod doctor;
mod loopback;
mod network;
#[path = "../../../tests/support/power.rs"]
mod power;
pub mod switch;
mod sys;

pub use doctor::enter_own_world;
