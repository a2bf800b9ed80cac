//! The small words of the system: ids, tokens, dots, epochs, levels. Newtypes only; no behaviour
//! beyond ordering, parsing and printing. Pure.

mod addresses;
mod consistency;
mod digest;
mod ids;
mod key;
mod order;
mod time;
mod token;

pub use addresses::Addresses;
pub use consistency::{Consistency, ParseConsistencyError};
pub use digest::{Digest, PartitionDigest};
pub use ids::{
    ActorId, Ballot, Dot, Epoch, Generation, Incarnation, IndexId, IndexTerm, NodeId, OpId,
    ParseIdError, TableId, VoterId,
};
pub use key::{Key, KeyError, MAX_KEY_BYTES, MAX_STORED_KEY_BYTES};
pub use order::ScanOrder;
pub use time::{Hlc, Mono, WallMicros};
pub use token::{PartitionId, Token};
