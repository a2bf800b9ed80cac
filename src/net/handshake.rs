//! Who may talk to whom.
//!
//! The first frame of a connection is the caller's [`Hello`]. The callee answers with its own, or
//! with a refusal that carries the reason; the caller, too, may refuse what it hears. Each side
//! logs the reason, since the operator may be looking at either log.
//!
//! Three judges look at a hello: [`judge`], about what needs no knowledge (same cluster, another
//! node, a protocol in common); the transport, which refuses a node other than the one it dialled;
//! and the node's [`Admission`], which knows the members. An older copy of a member's directory is
//! let in: only by talking does it learn what it is (rule 17). No secret is shown yet: until TLS comes, the network is trusted not to
//! lie on purpose, only to be misconfigured, which is why addresses beyond loopback need
//! `insecure = true`.
//!
//! Pure; the bytes are moved by [`crate::net::TcpTransport`].

use serde::{Deserialize, Serialize};

use crate::types::{ActorId, Epoch, Incarnation, NodeId};

/// The versions of the peer messages that this build speaks.
pub const PROTOCOL: ProtocolRange = ProtocolRange { min: 9, max: 9 };

/// The most bytes that a hello or a refusal may have.
pub const MAX_HELLO_BYTES: usize = 4096;

/// Versions of the peer messages, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProtocolRange {
    /// The oldest.
    pub min: u16,
    /// The newest.
    pub max: u16,
}

impl ProtocolRange {
    /// The newest version that both speak.
    #[must_use]
    pub fn newest_common(self, other: Self) -> Option<u16> {
        let newest = self.max.min(other.max);
        (newest >= self.min.max(other.min)).then_some(newest)
    }
}

/// How a node introduces itself.
///
/// Fields may only be added, and only at the end: older nodes ignore what follows the fields that
/// they know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// What it speaks: [`PROTOCOL`].
    pub protocol: ProtocolRange,
    /// The cluster's configured name.
    pub cluster_name: String,
    /// The cluster's id; `None` as long as the node has not taken part in a founding.
    pub cluster_id: Option<u128>,
    /// The node.
    pub node: NodeId,
    /// The history of its data directory.
    pub actor: ActorId,
    /// How often that directory has been opened.
    pub incarnation: Incarnation,
    /// How much of the metadata log it has applied.
    pub epoch: Epoch,
}

/// Decides which nodes may talk to this one. Implemented by the node's wiring.
pub trait Admission: Send + Sync + 'static {
    /// How this node introduces itself now.
    fn hello(&self) -> Hello;

    /// May the node that says `theirs` be talked to? Asked for both directions, after [`judge`].
    ///
    /// # Errors
    /// The reason for which it may not, for the operators of both nodes.
    fn admit(&self, theirs: &Hello) -> Result<(), String>;
}

/// The agreed protocol version of two nodes, as far as their hellos alone can tell.
///
/// # Errors
/// The reason for which they must not talk, with what to look at.
pub fn judge(ours: &Hello, theirs: &Hello) -> Result<u16, String> {
    if ours.cluster_name != theirs.cluster_name {
        return Err(format!(
            "you belong to the cluster {:?}, this node to {:?}: check cluster.name and the addresses",
            clipped(&theirs.cluster_name),
            ours.cluster_name
        ));
    }
    if let (Some(our_id), Some(their_id)) = (ours.cluster_id, theirs.cluster_id)
        && our_id != their_id
    {
        return Err(format!(
            "two clusters are called {:?}: yours has the id {their_id:032x}, this node's {our_id:032x}",
            ours.cluster_name
        ));
    }
    if ours.node == theirs.node {
        return Err(format!(
            "both of us are the node {}: check node.name and the peers' addresses",
            ours.node
        ));
    }
    ours.protocol.newest_common(theirs.protocol).ok_or_else(|| {
        format!(
            "you speak the peer protocol {}–{}, this node {}–{}: upgrade the older one",
            theirs.protocol.min, theirs.protocol.max, ours.protocol.min, ours.protocol.max
        )
    })
}

/// At most the first 64 characters of text that came from outside.
fn clipped(text: &str) -> String {
    text.chars().take(64).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hello(node: u128) -> Hello {
        Hello {
            protocol: PROTOCOL,
            cluster_name: "ring".to_owned(),
            cluster_id: Some(1),
            node: NodeId(node),
            actor: ActorId(1),
            incarnation: Incarnation(1),
            epoch: Epoch(0),
        }
    }

    #[test]
    fn members_of_one_cluster_get_along_even_before_its_founding() {
        assert_eq!(judge(&hello(1), &hello(2)), Ok(PROTOCOL.max));
        assert!(judge(&Hello { cluster_id: None, ..hello(1) }, &hello(2)).is_ok());
    }

    #[test]
    fn strangers_are_told_why() {
        let reasons = [
            (Hello { cluster_name: "other".to_owned(), ..hello(2) }, "cluster.name"),
            (Hello { cluster_id: Some(2), ..hello(2) }, "two clusters"),
            (hello(1), "both of us"),
            (
                Hello {
                    protocol: ProtocolRange { min: PROTOCOL.max + 1, max: u16::MAX },
                    ..hello(2)
                },
                "upgrade",
            ),
        ];
        for (theirs, expected) in reasons {
            let reason = judge(&hello(1), &theirs).expect_err(expected);
            assert!(reason.contains(expected), "{reason}");
        }
    }

    #[test]
    fn the_newest_common_version_is_spoken() {
        let range = |min, max| ProtocolRange { min, max };
        assert_eq!(range(1, 4).newest_common(range(2, 3)), Some(3));
        assert_eq!(range(2, 3).newest_common(range(3, 9)), Some(3));
        assert_eq!(range(1, 2).newest_common(range(3, 4)), None);
    }
}
