//! Where a node can be reached.

use serde::{Deserialize, Serialize};

/// Where a node can be reached: `host:port` each. May change from start to start.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Addresses {
    /// By other nodes.
    pub peer: String,
    /// By HTTP clients.
    pub http: String,
    /// By CQL clients.
    pub cql: String,
}

impl Addresses {
    /// Longest address, in bytes: the longest host name (253), a colon, a port, and some room.
    pub const MAX_BYTES: usize = 300;

    /// Bytes of the longest of them.
    #[must_use]
    pub fn longest(&self) -> usize {
        self.peer.len().max(self.http.len()).max(self.cql.len())
    }
}
