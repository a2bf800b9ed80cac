//! What a client is shown of a record, and the names that HTTP gives to it.

use crate::causality::Context;
use crate::record::value::Version;
use crate::types::{Digest, Dot};

/// A record as it looks at one instant.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct View<'a> {
    /// The live values by dot: unexpired, and each operation once.
    pub versions: Vec<&'a Version>,
    /// All that the record has seen: the shown values, and everything superseded, deleted, expired
    /// or hidden. A write with this context replaces all of it.
    pub context: Context,
    /// Something was here, and nothing is live.
    pub tombstone: bool,
}

impl View<'_> {
    /// The entity tag of what is shown: of the set of versions, or of the tombstone. None when
    /// nothing was ever written.
    #[must_use]
    pub fn etag(&self) -> Option<String> {
        if self.tombstone {
            let mut bytes = b"tombstone\0".to_vec();
            bytes.extend_from_slice(&self.context.encode());
            return Some(quoted(&bytes));
        }
        (!self.versions.is_empty()).then(|| etag(self.versions.iter().map(|version| version.dot)))
    }
}

/// The strong entity tag, quotes included, of the versions with these dots, in any order: 128 bits
/// over the sorted dots. It names the versions, not their bytes: the same bytes written again get
/// another one.
#[must_use]
pub fn etag(dots: impl IntoIterator<Item = Dot>) -> String {
    let mut dots: Vec<Dot> = dots.into_iter().collect();
    dots.sort_unstable();
    let mut bytes = Vec::with_capacity(ETAG_PREFIX.len() + 16 * dots.len());
    bytes.extend_from_slice(ETAG_PREFIX);
    for dot in dots {
        bytes.extend_from_slice(&dot.actor.0.to_be_bytes());
        bytes.extend_from_slice(&dot.counter.to_be_bytes());
    }
    quoted(&bytes)
}

const ETAG_PREFIX: &[u8] = b"versions\0";

/// The entity tag of one version.
#[must_use]
pub fn version_etag(dot: Dot) -> String {
    etag([dot])
}

fn quoted(bytes: &[u8]) -> String {
    // By hand: every answer has one, and the formatting machinery costs more than the digest.
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let mut out = String::with_capacity(34);
    out.push('"');
    for byte in Digest::of(bytes).0.to_be_bytes() {
        out.push(char::from(HEX[usize::from(byte >> 4)]));
        out.push(char::from(HEX[usize::from(byte & 0xF)]));
    }
    out.push('"');
    out
}
