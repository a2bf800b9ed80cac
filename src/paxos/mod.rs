//! Paxos for one value: several nodes agree on one opaque value, though messages get lost,
//! doubled and reordered and nodes stop and start again. Pure: no clock, no disk, no network.
//!
//! The problem: two nodes each want theirs to be *the* value (the next entry of the metadata
//! log; the next version of a key). Whatever happens, at most one may win, everyone who learns of
//! a winner must learn of the same one, and a crash must not change the past.
//!
//! The idea (Lamport, "Paxos made simple", 2001, §2.2): an attempt has a number, its [`Ballot`].
//!
//! 1. *Prepare.* A [`Proposer`] asks the [`Acceptor`]s to promise that they will ignore all lower
//!    ballots. Each answers with the value that it accepted last, if any.
//! 2. *Accept.* With promises from a majority the proposer must take, of the accepted values it
//!    was told, that of the highest ballot, and may take its own only when there is none. It asks
//!    the acceptors to accept it. Once a majority has, the value is *chosen*, for ever.
//!
//! Why that works: any two majorities share an acceptor. If a value was chosen at a lower ballot,
//! some acceptor among the promises has accepted it and says so; if it was still on its way, that
//! same acceptor has by now promised to refuse it.
//!
//! ```text
//! A proposes x at ballot 1              B proposes y at ballot 2
//!   prepare 1 → a b c   promises a b
//!   accept 1 x → a      (b, c: lost)      prepare 2 → a b c   a: "x at 1"   b: nothing
//!                                         accept 2 x → a b    chosen: x, by B, although B wanted y
//!   accept 1 x → b late: refused, 2 was promised. No harm: x is chosen already.
//! ```
//!
//! What the caller must do, as it is not decided here:
//! - **Law L9**: store the acceptor's state *before* its reply leaves. The types say so: replies
//!   come wrapped in [`Durable`]. One message at a time: a second reply built on a state that is
//!   not stored yet would leak it.
//! - Ballots are unique and grow, over restarts too (invariant I7). A ballot names the proposing
//!   *actor* (rule 16). An easy way that needs no clock: a proposer first makes the acceptor next
//!   to it promise, durably, and always starts above what that one has promised.
//! - Say who may vote ([`Electorate`]: votes are of *voters*, which outlive their actors where only
//!   unsynced writes were lost), and let no reply through from anyone whose state may have
//!   been lost (rule 17): Paxos does not survive one acceptor that forgets.
//! - Give up after a time, and wait a random while before the next attempt: two proposers that
//!   always interrupt each other decide nothing (safe, but useless).
//!
//! A value that changes, as a key's does, is a [`Round`] after the other on one register, whose
//! [`Voter`]s are acceptors that also know what was decided: see `register`.
//!
//! Left out: no leader and no sequence of instances live here; the metadata log runs one instance
//! per entry ([`crate::meta`]), lightweight transactions one register per key.

mod acceptor;
mod proposer;
mod register;

#[cfg(test)]
mod explore;
#[cfg(test)]
mod register_explore;
#[cfg(test)]
mod transcripts;

pub use acceptor::{AcceptReply, Acceptor, BrokenAcceptor, Durable, PrepareReply};
pub use proposer::{BadElectorate, Electorate, Proposer, Step};
pub use register::{Forgotten, Found, Promise, Round, RoundStep, Voter, found};

#[doc(no_inline)]
pub use crate::types::Ballot;
