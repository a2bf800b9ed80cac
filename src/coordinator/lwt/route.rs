//! Where an operation is proposed.
//!
//! Any node may propose on any key, and one whose key nobody else asks for does so at once: that is
//! the fewest round trips. Proposers of several nodes that meet on one key interrupt each other,
//! though, again and again. So a node that was interrupted sends the operations on that key to the
//! first live replica of it, the key's *home*, for as long as there is more than one at work: they
//! wait there in one lane, and whatever waits is decided in one round.
//!
//! It is a hint. Nodes that disagree on who is alive have two homes, which interrupt each other and
//! are right all the same. A home never sends an operation on.
//!
//! *Outcomes*: an operation leaves this node only while nothing of it has been proposed. If the home
//! says that it has not run it, or was not reached, it is proposed here. If the home's answer is
//! lost, it may take effect at any time. Then it is unknown; unless its client named it (or it
//! changes nothing): then it is proposed here as well, since its name makes it one operation
//! wherever it is decided, and its verdict is written down under that name.
//!
//! A message may arrive twice, the second time when its answer is long known: a refusal of an
//! operation without a name is written down nowhere, so what was refused then could take effect now.
//! Each sending has a number, and a home takes it in once ([`Taken`]).

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::oneshot;

use crate::coordinator::lwt::judge::{Ask, Verdict};
use crate::coordinator::lwt::wire::{self, About, Answer};
use crate::coordinator::lwt::{
    ABANDONED, Errand, Job, Lane, MAX_WAITING, PROPOSED, WAITING, lane, millis,
};
use crate::coordinator::plan::{Plan, Purpose};
use crate::coordinator::{Fate, Inner, OpError};
use crate::meta::Table;
use crate::net::messages::Propose;
use crate::net::{CallError, Refusal, Request, Response};
use crate::plants::{Plant, planted};
use crate::types::{Consistency, Key, Mono, OpId, TableId};

/// How long a key counts as contended after two proposers have met on it.
const CONTENDED_FOR: Duration = Duration::from_secs(1);

/// The most keys that are known to be contended.
const MAX_CONTENDED: usize = 4_096;

/// How often one operation is sent to another node.
const MAX_SENT: u32 = 3;

/// Keys on which proposers of several nodes have met, and until when that is believed.
#[derive(Debug, Default)]
pub(super) struct Contended(Mutex<BTreeMap<(TableId, Key), Mono>>);

impl Contended {
    fn keys(&self) -> MutexGuard<'_, BTreeMap<(TableId, Key), Mono>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn mark(&self, place: (TableId, Key), now: Mono) {
        let mut keys = self.keys();
        if keys.len() >= MAX_CONTENDED {
            keys.retain(|_, until| *until > now);
        }
        if keys.len() < MAX_CONTENDED || keys.contains_key(&place) {
            keys.insert(place, now + CONTENDED_FOR);
        }
    }

    fn has(&self, place: &(TableId, Key), now: Mono) -> bool {
        let mut keys = self.keys();
        let until = keys.get(place).copied();
        if until.is_some_and(|until| until <= now) {
            keys.remove(place);
        }
        until.is_some_and(|until| until > now)
    }

    fn forget(&self, place: &(TableId, Key)) {
        self.keys().remove(place);
    }
}

/// The most sendings that a home remembers: more than can be under way at once.
const MAX_TAKEN: usize = 65_536;

/// The sendings that this home has taken in, in this life: a connection, and with it whatever may
/// come twice, ends with either side's life.
#[derive(Debug, Default)]
pub(super) struct Taken(Mutex<TakenIn>);

#[derive(Debug, Default)]
struct TakenIn {
    numbers: BTreeSet<OpId>,
    order: VecDeque<OpId>,
    /// The greatest that is forgotten.
    floor: Option<OpId>,
}

/// How a sending arrives.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Arrival {
    First,
    /// It was here before.
    Again,
    /// It is older than some that are forgotten.
    TooOld,
}

impl Taken {
    fn take(&self, sending: OpId) -> Arrival {
        let mut taken = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if taken.numbers.contains(&sending) {
            return Arrival::Again;
        }
        if taken.floor.is_some_and(|floor| sending <= floor) {
            return Arrival::TooOld;
        }
        taken.numbers.insert(sending);
        taken.order.push_back(sending);
        if taken.order.len() > MAX_TAKEN
            && let Some(oldest) = taken.order.pop_front()
        {
            taken.numbers.remove(&oldest);
            taken.floor = taken.floor.max(Some(oldest));
        }
        Arrival::First
    }
}

/// What became of an operation that was sent to its key's home.
enum Sent {
    Answered(Result<Verdict, OpError>),
    /// It is not run there, and will not be.
    NotRun,
    /// It may take effect at any time.
    Lost(String),
}

/// How an operation is proposed here.
#[derive(Clone, Copy)]
struct Here {
    /// Another node may be the one to propose it.
    moves: bool,
    /// It may have been proposed by another node.
    elsewhere: bool,
}

impl Inner {
    /// Has `ask` decided.
    pub(super) async fn decide(
        self: &Arc<Self>,
        errand: &Errand<'_>,
        mut ask: Ask,
        (op, request): (Option<OpId>, u64),
    ) -> Result<Verdict, OpError> {
        let mut about = About {
            op: op.unwrap_or_else(|| self.new_op_id(None)),
            named: op.is_some(),
            request,
            now: self.env.wall(),
        };
        let (mut sent, mut elsewhere) = (0, false);
        loop {
            let moves = sent < MAX_SENT && !elsewhere;
            sent += 1;
            if moves
                && self.is_contended(errand.table, errand.key)
                && let Some(plan) = self.home_elsewhere(errand.table, errand.key)
                && let Some(operation) = wire::put_operation(&ask, &about, self.new_op_id(None))
            {
                match self.send(errand, &plan, operation).await {
                    Sent::Answered(result) => return result,
                    Sent::NotRun => {}
                    Sent::Lost(_) if planted(Plant::P37) => about.op = self.new_op_id(None),
                    Sent::Lost(why) if ask.changes() && !about.named => {
                        return Err(wire::unknown(why));
                    }
                    Sent::Lost(_) => elsewhere = ask.changes(),
                }
            }
            match self.decide_here(errand, ask, about, Here { moves, elsewhere }).await {
                Ok(Verdict::Elsewhere(back)) => ask = back,
                // A refusal is written down under the operation's name, and bars it; of an error
                // nothing is.
                Err(error) if elsewhere && error.fate() == Fate::NotApplied => {
                    return Err(wire::unknown(error.to_string()));
                }
                decided => return decided,
            }
        }
    }

    /// Whether proposers of several nodes have met on the key a moment ago.
    pub(super) fn is_contended(&self, table: &Table, key: &Key) -> bool {
        self.lwt.contended.has(&(table.id, key.clone()), self.env.mono())
    }

    pub(super) fn note_contention(&self, table: &Table, key: &Key) {
        self.lwt.contended.mark((table.id, key.clone()), self.env.mono());
    }

    /// A plan for the key whose first live replica is another node than this one.
    pub(super) fn home_elsewhere(&self, table: &Arc<Table>, key: &Key) -> Option<Plan> {
        let (now, patience) = (self.env.mono(), Duration::ZERO);
        let level = Consistency::Quorum;
        let plan = self.plan(Purpose::Write, table, key, level, now, patience).ok()?;
        (*plan.live.first()? != self.peers.me()).then_some(plan)
    }

    /// Sends an operation to its key's home. Half of the time that is left is for what comes after,
    /// should it not be run there.
    async fn send(self: &Arc<Self>, errand: &Errand<'_>, plan: &Plan, operation: Bytes) -> Sent {
        let Some(&home) = plan.live.first() else { return Sent::NotRun };
        let now = self.env.mono();
        let deadline = now + (errand.started + errand.timeout).since(now) / 2;
        self.lwt.counters.forwarded.fetch_add(1, Ordering::Relaxed);
        let (table, key) = (errand.table, errand.key);
        let place = (table.id, key.clone());
        let request = Request::Propose(Propose { table: table.id, key: key.clone(), operation });
        let answer = self.peers.call_at(plan.epoch, home, request, deadline).await;
        let lost = |why: &str| format!("{}, which orders the key's: {why}", self.name_of(home));
        let sent = match answer {
            Ok(Response::Proposed(bytes)) => match wire::read_answer(table.id, key, &bytes) {
                Ok((Answer::Decided(result), busy)) => {
                    if busy {
                        self.lwt.contended.mark(place, self.env.mono());
                    }
                    return Sent::Answered(result);
                }
                Ok((Answer::NotRun { why }, _)) => {
                    tracing::debug!(%home, why, "an operation was not run where it was sent");
                    Sent::NotRun
                }
                Err(error) => Sent::Lost(lost(&error.to_string())),
            },
            Ok(Response::Refused(_)) | Err(CallError::NotSent { .. }) => Sent::NotRun,
            Ok(_) => Sent::Lost(lost("another answer")),
            Err(CallError::Lost { why }) => Sent::Lost(lost(&why)),
        };
        self.lwt.contended.forget(&place);
        sent
    }

    /// Decides on an operation that another node has sent, `patience` at most.
    pub(in crate::coordinator) async fn take_in(
        self: &Arc<Self>,
        table: &Arc<Table>,
        key: &Key,
        operation: &Bytes,
        patience: Duration,
    ) -> Result<Bytes, Refusal> {
        let (ask, about, sending) = wire::read_operation(operation)
            .map_err(|error| Refusal::BadRequest { what: error.to_string() })?;
        let busy = self.lwt.is_at_work(table, key);
        if ask.changes() {
            match self.lwt.taken.take(sending) {
                Arrival::First => {}
                // The first one's answer counts, if it is on its way.
                Arrival::Again => {
                    let unknown = wire::unknown("it was taken in before".to_owned());
                    return Ok(wire::put_answer(table.id, key, Err(unknown), busy));
                }
                Arrival::TooOld => {
                    let what = "too many operations since it was sent".to_owned();
                    return Ok(wire::put_answer(
                        table.id,
                        key,
                        Err(OpError::Overloaded { what }),
                        busy,
                    ));
                }
            }
        }
        if busy {
            self.note_contention(table, key);
        }
        // An answer in time is worth more than the last moment.
        let timeout = patience - patience / 8;
        let errand = Errand { table, key, timeout, started: self.env.mono() };
        let here = Here { moves: false, elsewhere: false };
        let result = self.decide_here(&errand, ask, about, here).await;
        Ok(wire::put_answer(table.id, key, result, busy))
    }

    /// Has `ask` decided by this node's own lane.
    async fn decide_here(
        self: &Arc<Self>,
        errand: &Errand<'_>,
        ask: Ask,
        about: About,
        here: Here,
    ) -> Result<Verdict, OpError> {
        let (reply, answer) = oneshot::channel();
        let state = Arc::new(AtomicU8::new(if here.elsewhere { PROPOSED } else { WAITING }));
        let interrupted = Arc::new(AtomicU32::new(0));
        let deadline = errand.started + errand.timeout;
        let job = Job {
            ask,
            about,
            moves: here.moves,
            deadline,
            state: state.clone(),
            interrupted: interrupted.clone(),
            reply,
        };
        self.queue(errand.table, errand.key, job)?;
        let left = deadline.since(self.env.mono());
        match self.env.timeout(left, answer).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Err(OpError::Stopped),
            Err(_) => {
                let given_up =
                    state.compare_exchange(WAITING, ABANDONED, Ordering::AcqRel, Ordering::Acquire);
                let fate = if given_up.is_ok() { Fate::NotApplied } else { Fate::Unknown };
                let rounds = interrupted.load(Ordering::Acquire);
                if rounds > 0 {
                    let timeout_ms = millis(errand.timeout);
                    return Err(OpError::Contended { rounds, timeout_ms, fate });
                }
                Err(out_of_time(errand, fate))
            }
        }
    }

    /// Puts a job into its lane, and starts the lane if it stands still.
    fn queue(self: &Arc<Self>, table: &Arc<Table>, key: &Key, job: Job) -> Result<(), OpError> {
        let place = (table.id, key.clone());
        let mut lanes = self.lwt.lanes();
        if let Some(lane) = lanes.get(&place) {
            let mut waiting = lane.waiting();
            if waiting.len() >= MAX_WAITING {
                let what = format!("{MAX_WAITING} operations wait for this key");
                return Err(OpError::Overloaded { what });
            }
            waiting.push_back(job);
            lane.wake.notify_one();
            return Ok(());
        }
        let lane = Arc::new(Lane::default());
        lane.waiting().push_back(job);
        lanes.insert(place, lane.clone());
        drop(lanes);
        let (inner, table, key) = (self.clone(), table.clone(), key.clone());
        let owed = self.hints.owe();
        self.env.spawn("lane", async move {
            lane::Drive::new(&inner, table, key, lane).run().await;
            drop(owed);
        });
        Ok(())
    }
}

fn out_of_time(errand: &Errand<'_>, fate: Fate) -> OpError {
    let n = errand.table.settings.replication.total();
    OpError::Timeout {
        level: Consistency::Serial,
        required: n / 2 + 1,
        received: 0,
        timeout_ms: millis(errand.timeout),
        fate,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sending_is_taken_in_once_and_not_at_all_once_it_may_have_been_forgotten() {
        let taken = Taken::default();
        let number = |n: usize| OpId(n as u128 + 10);
        assert_eq!(taken.take(number(0)), Arrival::First);
        assert_eq!(taken.take(number(0)), Arrival::Again);
        for n in 1..=MAX_TAKEN {
            assert_eq!(taken.take(number(n)), Arrival::First);
        }
        assert_eq!(taken.take(number(0)), Arrival::TooOld);
        assert_eq!(taken.take(number(1)), Arrival::Again);
        assert_eq!(taken.take(OpId(1)), Arrival::TooOld);
    }
}
