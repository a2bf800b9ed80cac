//! Causality: which events a record, or a client, has seen. Pure.
//!
//! # The problem
//!
//! Two clients write one key through two replicas at the same time. Neither knew of the other, so
//! neither value may be dropped; a third client, who has read both, may replace both. "Has read"
//! must therefore be a fact that travels with a write and that a replica can check.
//!
//! # The idea
//!
//! Each write is an event with a name, its *dot* (actor, counter): the counter-th event of the
//! actor that minted it. What someone has seen is a set of dots ([`CausalSet`]). A value is
//! superseded by a write whose writer had seen the value's dot, and by nothing else (Preguiça,
//! Baquero, Almeida, Fonte, Gonçalves: "Dotted version vectors", 2010/2012).
//!
//! A set of all dots ever minted would grow for ever, so it is kept as a [`VersionVector`], actor
//! → n, that stands for all dots (actor, 1..=n), and a *cloud* of single dots above it.
//!
//! # Why a vector entry may stand for dots that it never met
//!
//! An actor counts all its events over *all* keys with one counter (rule 1: one counter per key
//! would start again when a purged key is reborn, and an old tombstone would kill the new value).
//! So the dots of one key have gaps: (a,3), (a,17), (a,40). On this key, the entry (a,40) claims
//! (a,3) and (a,17), and also thousands of dots that name events of other keys. The latter are
//! harmless: no value of this key has them, nor will have, as counters only grow. What must hold
//! is this:
//!
//! > Whoever holds entry (a,n) for a key has met every event of a on that key up to n.
//!
//! 1. *Minting.* Actor a's own replica holds its whole record of the key: every event of a on
//!    it, because a record is on disk before its dot leaves (L2) and because an actor ends with
//!    the history of its data directory (L3). When it mints (a,n), nothing of a at or below n is
//!    missing, so it may raise its own entry to n ([`CausalSet::advance`]). It raises no other.
//! 2. *Merging.* Replicas ship whole records, never one value, so one who takes entry (a,n) takes
//!    the verdict on each event below it as well: live (the value is there) or superseded.
//! 3. *Reading.* A client is shown a whole view and gets all of its seen set as its context.
//! 4. *Having written.* A writer's own new dot is the exception: it has seen that event and maybe
//!    not an older sibling by the same actor. This dot goes into the cloud of its context, alone
//!    ([`CausalSet::insert`]); when the context comes back to another replica it lands in that
//!    record's cloud, and is absorbed when the actor's own record arrives and the entry rises.
//!
//! If 1 is broken, by a damaged or restored copy of the record under the same actor id, the next
//! minted entry claims events that were forgotten here and live elsewhere; the merge would then
//! drop them as superseded (Riak's kv679 family). A replica that finds its own copy unreadable
//! therefore mints nothing under that actor again; that is the replica's duty (rules 2 and 17).
//!
//! # Example
//!
//! A writes x blind: dot (a,3), record `{x(a,3)}, seen a→3`. A client writes y blind through A:
//! dot (a,17), record `{x, y}, seen a→17`; its context is the cloud {(a,17)}, not a→17, or its
//! next write would delete x unread. It writes y' with that context through B, which knows nothing
//! yet: dot (b,5), record `{y'(b,5)}, seen b→5, cloud {(a,17)}`. B's record merged into A's: x
//! stays (B has not seen (a,3)), y goes (B has seen (a,17) and holds it no more), y' comes:
//! `{x, y'}, seen a→17, b→5`; the cloud is absorbed.
//!
//! # Left out
//!
//! No entry is ever pruned for age: a pruned entry makes an old value look new (riak_core#613).
//! Vectors are bounded by the number of actors that ever minted on the key.

mod context;
mod set;
#[cfg(test)]
mod tests;
mod vector;
pub(crate) mod wire;

pub use context::{Context, ContextCodec, ContextError, MAX_TOKEN_CHARS};
pub use set::CausalSet;
pub(crate) use set::{put_dot, read_dot};
pub use vector::VersionVector;
