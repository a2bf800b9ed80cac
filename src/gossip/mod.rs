//! Who is alive, and how far along: gossip with an accrual failure detector. Pure: time and
//! randomness are arguments, messages are values.
//!
//! The problem: each node wants to know which others answer, without asking all of them all the
//! time, and without one lost packet turning a healthy node into a dead one.
//!
//! The idea, in two halves:
//!
//! - *Push-pull anti-entropy* (Demers et al. 1987; the three messages are Cassandra's). Each node
//!   owns one [`Heartbeat`], whose version it raises at every tick. At a tick it picks one live
//!   peer (and now and then a dead one, or else two healed halves would never meet) and sends a
//!   digest of all that it knows; the peer answers with what it knows better and asks for the
//!   rest.
//!
//! ```text
//! A → B   Syn   A at 7, B at 3, C at 5
//! B → A   Ack   newer: B at 4      wanted: A
//! A → B   Ack2  newer: A at 7                          (C at 5: both had it)
//! ```
//!
//! - *Accrual failure detection* (Hayashibara et al. 2004). Not "no answer for T seconds" but a
//!   grade of suspicion, phi: how unlikely such a silence is, given how regularly the peer was
//!   heard before. As in Cassandra, arrivals are taken as exponential, so
//!   `phi = silence / mean interval · log10 e`, and phi 8 means one false alarm in 10^8.
//!   Silence is counted from *any* message of the peer; the interval only from heartbeats, or
//!   else a burst of requests would teach that a second of quiet is a catastrophe. A refused or
//!   reset connection is no silence but testimony: one makes a peer suspect, a second, with
//!   nothing heard in between, makes it dead.
//!
//! What gossip carries: liveness, addresses, and "my epoch is n". What it never does: decide who
//! is a member. It knows of exactly those that the metadata log names ([`Gossip::set_members`]),
//! drops what others say of anyone else, and by itself forgets nobody. So a removed node cannot
//! come back by way of a neighbour that has not forgotten it yet (chitchat's issues 155 and 161),
//! and a restarted one replaces its former self by a higher *generation* (chitchat's issue 94).
//! A generation is only ever compared: it starts as the node's incarnation, and a node that
//! meets a higher one under its own name (its disk was wiped, so its count began anew) goes above
//! it.
//!
//! Why not the `chitchat` crate: it spawns its own tasks, reads the system's clock and random
//! numbers and iterates hash sets, so it cannot run under the deterministic simulator; and all
//! that we need of it is in these few hundred lines.
//!
//! Left out: no per-key state, no garbage collection, no seeds; deltas are not cut to a packet
//! size (a heartbeat is about 100 bytes, members are bounded).

mod detector;
mod message;
mod state;

pub use detector::Liveness;
pub use message::{Digest, Heartbeat, MAX_MEMBERS, Message};
pub use state::{Gossip, Heard, Options};

#[cfg(test)]
mod tests;
