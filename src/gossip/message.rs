//! What nodes tell each other. Wire types: a change of shape is a new format byte.

use serde::{Deserialize, Serialize};

use crate::binary::{self, SealError};
use crate::types::{ActorId, Addresses, Epoch, NodeId};

/// No message names more nodes than this, and no node keeps more.
pub const MAX_MEMBERS: usize = 1024;

/// Format byte of a gossip message. Predecessors: 1 knew no marks; never released.
const FORMAT: u8 = 2;

/// What a node says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heartbeat {
    /// Who.
    pub node: NodeId,
    /// Which of its lives: greater at each start.
    pub generation: u64,
    /// Grows by one at each tick of that life.
    pub version: u64,
    /// The length of the metadata log that it has applied.
    pub epoch: Epoch,
    /// The actor of its data directory.
    pub actor: ActorId,
    /// Which start of it this life is: random.
    pub start: u64,
    /// How many commits that directory is known to hold on stable storage.
    pub mark: u64,
    /// Where it listens.
    pub addresses: Addresses,
}

impl Heartbeat {
    /// What orders the heartbeats of one node.
    pub(super) fn age(&self) -> (u64, u64) {
        (self.generation, self.version)
    }
}

/// How new a heartbeat the sender has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Digest {
    /// Of whom.
    pub node: NodeId,
    /// See [`Heartbeat::generation`].
    pub generation: u64,
    /// See [`Heartbeat::version`].
    pub version: u64,
}

/// One message of the three-way exchange.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Message {
    /// "This is how far I know."
    Syn {
        /// One per member, zeros for those never heard of.
        digests: Vec<Digest>,
    },
    /// "These I know better; of those I want to hear."
    Ack {
        /// Heartbeats newer than the digests said.
        newer: Vec<Heartbeat>,
        /// Nodes of whom the digests were newer.
        wanted: Vec<NodeId>,
    },
    /// "Here they are."
    Ack2 {
        /// What was wanted.
        newer: Vec<Heartbeat>,
    },
}

impl Message {
    /// The bytes on the wire (the frame around them has a checksum).
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        binary::pack(FORMAT, self)
    }

    /// Reads the bytes of a message.
    ///
    /// # Errors
    /// Any [`SealError`], also for a message that names more than [`MAX_MEMBERS`] nodes.
    pub fn decode(bytes: &[u8]) -> Result<Self, SealError> {
        let what = "a gossip message";
        let message = binary::unpack(what, FORMAT, bytes)?;
        let named = match &message {
            Self::Syn { digests } => digests.len(),
            Self::Ack { newer, wanted } => newer.len().max(wanted.len()),
            Self::Ack2 { newer } => newer.len(),
        };
        if named > MAX_MEMBERS {
            let why = format!("{named} nodes are named, at most {MAX_MEMBERS} may be");
            return Err(SealError::Malformed { what, why });
        }
        let heartbeats = match &message {
            Self::Syn { .. } => &[][..],
            Self::Ack { newer, .. } | Self::Ack2 { newer } => newer,
        };
        if heartbeats.iter().any(|beat| beat.addresses.longest() > Addresses::MAX_BYTES) {
            let why = format!("an address of more than {} bytes", Addresses::MAX_BYTES);
            return Err(SealError::Malformed { what, why });
        }
        Ok(message)
    }
}
