//! Which nodes this node talks to.

use std::sync::{Arc, OnceLock};

use crate::cluster::Cluster;
use crate::net::{Admission, Hello, PROTOCOL};
use crate::replica::Identity;
use crate::types::{Epoch, NodeId};

/// Introduces this node, and admits founders and members.
#[derive(Debug)]
pub struct NodeAdmission {
    cluster_name: String,
    identity: Identity,
    founders: Vec<NodeId>,
    cluster: OnceLock<Arc<Cluster>>,
}

impl NodeAdmission {
    /// The admission of the node with this identity, for its transport.
    #[must_use]
    pub fn new(cluster_name: String, identity: Identity, founders: Vec<NodeId>) -> Self {
        Self { cluster_name, identity, founders, cluster: OnceLock::new() }
    }

    /// Names the node's part in the cluster, once it runs: nobody is admitted before.
    pub fn set_cluster(&self, cluster: Arc<Cluster>) {
        let _ = self.cluster.set(cluster);
    }
}

impl Admission for NodeAdmission {
    fn hello(&self) -> Hello {
        let state = self.cluster.get().map(|cluster| cluster.state());
        Hello {
            protocol: PROTOCOL,
            cluster_name: self.cluster_name.clone(),
            cluster_id: state.as_ref().and_then(|state| state.cluster_id()),
            node: self.identity.node,
            actor: self.identity.actor,
            incarnation: self.identity.incarnation,
            epoch: state.map_or(Epoch(0), |state| state.epoch()),
        }
    }

    fn admit(&self, theirs: &Hello) -> Result<(), String> {
        let Some(cluster) = self.cluster.get() else {
            return Err("this node is still starting".to_owned());
        };
        let state = cluster.state();
        if !state.is_founded() {
            if self.founders.contains(&theirs.node) {
                return Ok(());
            }
            return Err(format!(
                "you are node {}, which this node's cluster.founders does not list",
                theirs.node
            ));
        }
        // An older copy of a member's directory is let in too. It finds out what it is only by
        // reading the log, which it cannot if nobody talks to it; until then it serves nothing
        // (`Cluster::may_serve`), and its votes do not count (`ClusterState::may_vote`).
        if state.member(theirs.node).is_none() {
            return Err(format!(
                "you are node {}, which is no member of this cluster",
                theirs.node
            ));
        }
        Ok(())
    }
}
