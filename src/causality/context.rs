//! What a client says it has seen, and the token that it carries.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::causality::CausalSet;
use crate::causality::wire::{Reader, WireError, put_varint};
use crate::types::{Dot, Hlc, Key, TableId};

/// The events that a client has seen on one key: what it read, and what it wrote itself. A write
/// that carries it supersedes exactly the values that it covers. The empty one is a *blind*
/// writer's.
///
/// In a last-write-wins table dots decide nothing, stamps do. There the context carries the
/// greatest stamp that the client has met, so that a write which follows a read also comes after it
/// when it is minted by a replica whose clock is behind (Jepsen's lost updates in Riak under a
/// perfect lock).
#[derive(Clone, PartialEq, Eq, Hash, Default, Debug, Serialize, Deserialize)]
#[serde(try_from = "Bytes", into = "Bytes")]
pub struct Context {
    seen: CausalSet,
    stamp: Hlc,
}

impl Context {
    /// A context of events and a stamp.
    #[must_use]
    pub fn new(seen: CausalSet, stamp: Hlc) -> Self {
        Self { seen, stamp }
    }

    /// True when the client has seen the event `dot`.
    #[must_use]
    pub fn covers(&self, dot: Dot) -> bool {
        self.seen.covers(dot)
    }

    /// The greatest last-write-wins stamp that the client has met; zero for none.
    #[must_use]
    pub fn stamp(&self) -> Hlc {
        self.stamp
    }

    /// Adds one event.
    pub fn insert(&mut self, dot: Dot) {
        self.seen.insert(dot);
    }

    /// Takes note of a stamp.
    pub fn meet(&mut self, stamp: Hlc) {
        self.stamp = self.stamp.max(stamp);
    }

    /// Adds all that `other` has seen.
    pub fn union(&mut self, other: &Self) {
        self.seen.union(&other.seen);
        self.meet(other.stamp);
    }

    /// True when nothing has been seen.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.seen.is_empty() && self.stamp == Hlc(0)
    }

    /// The events.
    #[must_use]
    pub fn seen(&self) -> &CausalSet {
        &self.seen
    }

    /// The canonical bytes, without any protection: the stamp, then the events.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut out = Vec::with_capacity(ROOM);
        self.put(&mut out);
        out.into()
    }

    fn put(&self, out: &mut Vec<u8>) {
        put_varint(out, self.stamp.0);
        self.seen.encode(&self.seen.actors(), out);
    }

    /// Reads [`Context::encode`]'s bytes.
    ///
    /// # Errors
    /// [`ContextError::Malformed`] for any other bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, ContextError> {
        let mut reader = Reader::new(bytes);
        let stamp = Hlc(reader.varint()?);
        let (seen, _) = CausalSet::decode(&mut reader)?;
        reader.end()?;
        Ok(Self { seen, stamp })
    }
}

impl From<CausalSet> for Context {
    fn from(seen: CausalSet) -> Self {
        Self { seen, stamp: Hlc(0) }
    }
}

impl TryFrom<Bytes> for Context {
    type Error = ContextError;

    fn try_from(bytes: Bytes) -> Result<Self, ContextError> {
        Self::decode(&bytes)
    }
}

impl From<Context> for Bytes {
    fn from(context: Context) -> Self {
        context.encode()
    }
}

/// A token that is no context for this key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ContextError {
    /// Not the form of a token.
    #[error("the context is damaged; send it back exactly as it was received")]
    Malformed,
    /// Longer than any token that is given out.
    #[error("a context has at most {max} characters, this one has {got}")]
    TooLong {
        /// Characters received.
        got: usize,
        /// [`MAX_TOKEN_CHARS`].
        max: usize,
    },
    /// Of a version that this node does not know.
    #[error("the context is of version {0}, which this node does not know; read the key again")]
    Version(u8),
    /// Not sealed by this cluster for this table and key.
    #[error("the context was not given out for this key; read the key again")]
    Forged,
}

impl From<WireError> for ContextError {
    fn from(_: WireError) -> Self {
        Self::Malformed
    }
}

/// The longest token that is looked at: room for some 900 actors.
pub const MAX_TOKEN_CHARS: usize = 16 * 1024;

const TOKEN_VERSION: u8 = 1;
const MAC_BYTES: usize = 16;
/// Bytes that hold most contexts and their tokens: those of up to three actors.
const ROOM: usize = 64;
/// Separates these MACs from any other use of the cluster's key.
const DOMAIN: &[u8] = b"henge context\0";

/// Seals contexts into opaque tokens and opens them again (rule 4): a client that could write
/// `counter = 2^63` into its context would make every later value look superseded.
///
/// A token is base64url, without padding, of a version byte, the context's canonical encoding and
/// a 16-byte MAC: keyed BLAKE3 over domain, version, table id, key length, key and encoding.
#[derive(Clone)]
pub struct ContextCodec {
    /// The cluster's secret: the same on every node.
    key: [u8; 32],
}

impl std::fmt::Debug for ContextCodec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ContextCodec") // never the secret
    }
}

impl ContextCodec {
    /// A codec with the cluster's secret.
    #[must_use]
    pub fn new(key: [u8; 32]) -> Self {
        Self { key }
    }

    /// The token for `context` of `key` in `table`: some 18 characters an actor. Past
    /// [`MAX_TOKEN_CHARS`] it could not be opened again; that takes 900 actors on one key.
    #[must_use]
    pub fn seal(&self, table: TableId, key: &Key, context: &Context) -> String {
        let mut token = Vec::with_capacity(ROOM);
        token.push(TOKEN_VERSION);
        context.put(&mut token);
        let mac = self.mac(table, key, &token);
        token.extend_from_slice(&mac);
        URL_SAFE_NO_PAD.encode(token)
    }

    /// The context in `token`, if it was sealed for `key` in `table`.
    ///
    /// # Errors
    /// [`ContextError`]. Nothing inside is believed before the MAC has been checked.
    pub fn open(&self, table: TableId, key: &Key, token: &str) -> Result<Context, ContextError> {
        if token.len() > MAX_TOKEN_CHARS {
            return Err(ContextError::TooLong { got: token.len(), max: MAX_TOKEN_CHARS });
        }
        let bytes = URL_SAFE_NO_PAD.decode(token).map_err(|_| ContextError::Malformed)?;
        let split = bytes.len().checked_sub(MAC_BYTES).ok_or(ContextError::Malformed)?;
        let (sealed, mac) = bytes.split_at(split);
        let (&version, encoding) = sealed.split_first().ok_or(ContextError::Malformed)?;
        if version != TOKEN_VERSION {
            return Err(ContextError::Version(version));
        }
        if !equal_in_constant_time(mac, &self.mac(table, key, sealed)) {
            return Err(ContextError::Forged);
        }
        Context::decode(encoding)
    }

    fn mac(&self, table: TableId, key: &Key, sealed: &[u8]) -> [u8; MAC_BYTES] {
        let key = key.as_bytes();
        // In one piece: the streaming form has a large state to set up, and every answer pays.
        let mut input = Vec::with_capacity(DOMAIN.len() + 12 + key.len() + sealed.len());
        input.extend_from_slice(DOMAIN);
        input.extend_from_slice(&table.0.to_be_bytes());
        input.extend_from_slice(&(key.len() as u64).to_be_bytes());
        input.extend_from_slice(key);
        input.extend_from_slice(sealed); // begins with the version
        let mut mac = [0; MAC_BYTES];
        let hash = blake3::keyed_hash(&self.key, &input);
        mac.copy_from_slice(&hash.as_bytes()[..MAC_BYTES]);
        mac
    }
}

/// Compares without stopping at the first difference, so that the time taken says nothing about
/// how much of a forged MAC was right.
fn equal_in_constant_time(a: &[u8], b: &[u8; MAC_BYTES]) -> bool {
    let difference = a.iter().zip(b).fold(0, |all, (x, y)| std::hint::black_box(all | (x ^ y)));
    a.len() == b.len() && difference == 0
}
