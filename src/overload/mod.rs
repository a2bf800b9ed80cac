//! When to take on no more work, so that what was taken on is done in time.
//!
//! A node that takes on all that comes does ever more things at once, each ever later, until most
//! of what it finishes is of no use to anybody. So new work passes a [`Gate`]: it is let in while
//! fewer than a *limit* of others are under way, and is refused at once beyond that, before
//! anything was done for it.
//!
//! The limit follows from how long work waits for its turn (for the processor, for the disk), by
//! CoDel's rule (Nichols and Jacobson, "Controlling Queue Delay", 2012): a queue that empties
//! now and then is a burst, and does no harm; one that never does within an interval is *standing*.
//! So the **least** wait in each interval counts ([`Window`]). While it is above the target the
//! limit falls by a quarter per interval; below half of it, it rises by a sixteenth. How long an operation takes
//! in all is no sign: a slow disk and a far replica make every operation long, and doing fewer of
//! them at once would only make them rarer.
//!
//! Who has sent ten requests and waits for their answers before it sends more is held back as well by
//! letting its next one wait for a place ([`Gate::room`]): nothing is refused then, and no more is taken on
//! either. That is for those who can be held back, such as a connection that is not read meanwhile,
//! and for a bounded time.
//!
//! What may pass without being judged: whatever continues what has begun elsewhere (the second half
//! of a write, votes and decisions of Paxos) or repairs what went wrong. Refusing that would waste
//! work that was done already, and leave replicas apart.

mod gate;
mod window;

pub use gate::{Busy, Gate, Place};
pub use window::{Settings, Window};
