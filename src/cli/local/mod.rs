//! Clusters on this machine, for `henge dev`, `henge demo` and the tests of whole processes.

mod layout;
mod processes;

pub use layout::{Layout, Place, node_config};
pub use processes::{LocalCluster, LocalError};
