//! Which nodes this node talks to.

use std::sync::{Arc, OnceLock};

use crate::cluster::Cluster;
use crate::net::{Admission, Hello, PROTOCOL};
use crate::replica::Identity;
use crate::types::{Epoch, NodeId};

/// Introduces this node, and admits founders and members.
#[derive(Debug)]
pub(super) struct NodeAdmission {
    cluster_name: String,
    identity: Identity,
    founders: Vec<NodeId>,
    cluster: OnceLock<Arc<Cluster>>,
}

impl NodeAdmission {
    pub(super) fn new(cluster_name: String, identity: Identity, founders: Vec<NodeId>) -> Self {
        Self { cluster_name, identity, founders, cluster: OnceLock::new() }
    }

    pub(super) fn set_cluster(&self, cluster: Arc<Cluster>) {
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
        let Some(member) = state.member(theirs.node) else {
            return Err(format!(
                "you are node {}, which is no member of this cluster",
                theirs.node
            ));
        };
        // Another actor is a directory that began anew; the log will say what it may do. The
        // same actor with an older incarnation is a copy of a directory that has gone on since.
        if theirs.actor == member.actor && theirs.incarnation < member.incarnation {
            return Err(format!(
                "your data directory is an older copy: you were started {} times and this cluster \
                 has seen {}",
                theirs.incarnation.0, member.incarnation.0
            ));
        }
        Ok(())
    }
}
