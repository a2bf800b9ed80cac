//! What a round does to a record: the waiting operations, one after the other, on the newest
//! state. Pure.
//!
//! Each operation sees what those before it did, in the same round; so a refusal may rest on a
//! neighbour, and no answer leaves before what it rests on is decided.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::causality::Context;
use crate::coordinator::lwt::lease::{self, LeaseOutcome};
use crate::coordinator::{Condition, DECIDED, OpError, RowsJudge, STAMP_SLOTS, WriteAction};
use crate::env::next_in;
use crate::recipes;
use crate::record::{
    self, Mint, Mutation, OP_LOG_LEN, OpEntry, OpMemory, OpVerdict, Record, RecordKind, Row, Value,
    View,
};
use crate::types::{ActorId, Ballot, Dot, Hlc, Key, OpId, WallMicros};

/// What one waiting operation asks for.
#[derive(Clone, Debug)]
pub(super) enum Ask {
    /// The record as it is.
    Read,
    /// The same; and whatever was met, and if it was nothing, is decided once more.
    Settle,
    /// A change, if the condition holds, and no later fence than this one has been seen.
    Write {
        action: WriteAction,
        condition: Condition,
        fence: Option<u64>,
        /// What it supersedes; `None`: all that stands there.
        seen: Option<Seen>,
    },
    /// A change of a lock.
    Lease(recipes::Request),
    /// A change of rows of a partition, if what the judge looks at allows it. The register is that
    /// of the partition's head; `rows` are the other rows to look at.
    Rows { rows: Vec<Key>, judge: Arc<dyn RowsJudge> },
    /// What became of an operation; if it has not run, it never will.
    Verdict(OpId),
}

impl Ask {
    /// Whether carrying it out twice could be told from carrying it out once.
    pub(super) fn changes(&self) -> bool {
        match self {
            Self::Write { .. } | Self::Lease(_) | Self::Rows { .. } => true,
            Self::Read | Self::Settle | Self::Verdict(_) => false,
        }
    }
}

/// What a writer has read, where values that it has not read must stay beside its own.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    pub(super) context: Context,
    /// The table's bound; 0: none.
    pub(super) max_siblings: u32,
}

/// An operation as the judge sees it.
#[derive(Debug)]
pub(super) struct Case<'a> {
    pub(super) ask: &'a Ask,
    pub(super) op: OpId,
    /// The client chose the id, and may send it again.
    pub(super) named: bool,
    /// Digest of the request.
    pub(super) request: u64,
    pub(super) now: WallMicros,
}

/// What became of it.
#[derive(Clone, Debug)]
pub(super) enum Verdict {
    /// It took effect; `dot` is `None` if there was nothing to delete.
    Applied { dot: Option<Dot>, created: bool, replayed: bool, after: After },
    /// Its condition does not hold on this record.
    Refused { current: Record, replayed: bool },
    /// A write with the fence `highest` was here before, and its own is lower.
    Fenced { fence: u64, highest: u64, replayed: bool },
    /// To [`Ask::Lease`].
    Leased(LeaseOutcome),
    /// What became of a write of rows, and the rows that it was judged on (none, if an earlier round
    /// had judged it).
    Rows { applied: bool, seen: BTreeMap<Key, Row> },
    /// The record.
    Shown(Record),
    /// To [`Ask::Verdict`].
    Told(Told),
    /// It cannot be run at all.
    Failed(OpError),
    /// Its id is older than all that a full memory holds: as the id was made by a node and has not
    /// been proposed, another one above this will do.
    Rename(OpId),
    /// It is for another node to propose; nothing of it has left this one.
    Elsewhere(Ask),
}

/// What a writer is told of the record that it left behind.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct After {
    /// Live values.
    pub(super) siblings: u32,
    pub(super) context: Context,
    /// The greatest stamp.
    pub(super) stamp: Hlc,
}

impl After {
    fn of(record: &Record, now: WallMicros) -> Self {
        let siblings = u32::try_from(record.view(now).versions.len()).unwrap_or(u32::MAX);
        Self { siblings, context: record.context(), stamp: record.max_stamp() }
    }
}

/// What is known of an operation.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Told {
    /// It took effect, as this version.
    Applied(Dot),
    /// Its condition did not hold.
    Refused,
    /// It has not run and never will.
    Never,
    /// The key has forgotten: nobody can tell.
    Expired,
}

/// The events of one round: (`PAXOS`, time of its ballot and up).
pub(super) struct Events {
    next: u64,
    stamp: Hlc,
}

impl Events {
    /// Events of the round at `ballot`; `stamp` is a fresh reading of the clock.
    pub(super) fn of(ballot: Ballot, stamp: Hlc) -> Self {
        Self { next: ballot.time, stamp }
    }

    /// A stamp for rows, in microseconds: above `newest`, by two, as what replaces a collection
    /// deletes it one before it writes it anew; and one that no node gives to a plain write, which may
    /// be under way beside this one, unseen, and would share the row with it.
    pub(super) fn row_stamp(&self, newest: Option<i64>) -> i64 {
        let newest = newest.map_or(0, |newest| newest.saturating_add(2));
        let least = self.stamp.0.max(u64::try_from(newest).unwrap_or(0));
        i64::try_from(next_in(least, DECIDED, STAMP_SLOTS)).unwrap_or(i64::MAX)
    }

    pub(super) fn dot(&mut self) -> Dot {
        self.next += 1;
        Dot { actor: ActorId::PAXOS, counter: self.next - 1 }
    }

    /// The stamp of a version that comes after all that `record` holds.
    pub(super) fn stamp_above(&self, record: &Record) -> Hlc {
        Hlc(self.stamp.0.max(record.max_stamp().0.saturating_add(1)))
    }
}

/// Whether `condition` holds on what a client is shown.
pub(super) fn holds(condition: &Condition, view: &View<'_>) -> bool {
    let exists = !view.versions.is_empty();
    let names = |etags: &[String]| exists && view.etag().is_some_and(|etag| etags.contains(&etag));
    match condition {
        Condition::None => true,
        Condition::Absent => !exists,
        Condition::Exists => exists,
        Condition::Matches(etags) => names(etags),
        Condition::Differs(etags) => !names(etags),
    }
}

/// Judges one operation, and changes `record` if it takes effect. `room` is how many bytes the
/// record may yet grow by.
pub(super) fn judge(
    record: &mut Record,
    case: &Case<'_>,
    events: &mut Events,
    room: &mut usize,
) -> Verdict {
    match case.ask {
        Ask::Read | Ask::Settle => Verdict::Shown(record.clone()),
        Ask::Verdict(op) => tell(record, *op, events),
        // Rows are judged with their partition (`state`).
        Ask::Rows { .. } => Verdict::Failed(OpError::NotSupported("rows of a bucket".to_owned())),
        Ask::Lease(request) => lease::judge(record, case, request, events),
        Ask::Write { action, condition, fence, seen } => {
            let (own, highest) = (fence.unwrap_or(u64::MAX), record.fence());
            match record.find_op(case.op, case.request) {
                OpMemory::Applied(entry) => {
                    return Verdict::Applied {
                        dot: Some(entry.dot),
                        created: entry.created,
                        replayed: case.named,
                        after: After::of(record, case.now),
                    };
                }
                // Fences do not fall: it is too old for ever.
                OpMemory::Refused(_) if own < highest => {
                    return Verdict::Fenced { fence: own, highest, replayed: case.named };
                }
                OpMemory::Refused(_) => {
                    return Verdict::Refused { current: record.clone(), replayed: case.named };
                }
                OpMemory::Reused => return Verdict::Failed(OpError::OperationReused),
                OpMemory::Barred => return Verdict::Failed(OpError::OperationExpired),
                OpMemory::Forgotten if case.named => {
                    return Verdict::Failed(OpError::OperationExpired);
                }
                OpMemory::Forgotten => {
                    let oldest = record.op_entries().first().map_or(case.op, |entry| entry.op);
                    return Verdict::Rename(oldest);
                }
                OpMemory::Unknown => {}
            }
            let holds = holds(condition, &record.view(case.now));
            if own < highest || !holds {
                if case.named {
                    let _ = note(record, case, OpVerdict::Refused, events);
                }
                if own < highest {
                    return Verdict::Fenced { fence: own, highest, replayed: false };
                }
                return Verdict::Refused { current: record.clone(), replayed: false };
            }
            let limits = (*fence, seen.as_ref());
            apply(record, case, action, limits, events, room)
        }
    }
}

fn apply(
    record: &mut Record,
    case: &Case<'_>,
    action: &WriteAction,
    (fence, seen): (Option<u64>, Option<&Seen>),
    events: &mut Events,
    room: &mut usize,
) -> Verdict {
    let brings_news = fence.is_some_and(|fence| fence > record.fence());
    let action = match action {
        WriteAction::Put { body, content_type, meta, ttl } => {
            let size =
                body.len() + 256 + meta.iter().map(|(n, v)| n.len() + v.len()).sum::<usize>();
            if size > *room {
                let (max, got) = (*room as u64, size as u64);
                return Verdict::Failed(OpError::RecordTooLarge { max, got });
            }
            *room -= size;
            let micros = |ttl: &std::time::Duration| u64::try_from(ttl.as_micros()).ok();
            let ttl = ttl.as_ref().and_then(micros);
            record::Action::Put(Value {
                body: body.clone(),
                content_type: content_type.clone(),
                meta: meta.clone(),
                expires_at: ttl.map(|ttl| WallMicros(case.now.0.saturating_add(ttl))),
                written_at: Hlc(0),
            })
        }
        WriteAction::Delete => {
            if record.view(case.now).versions.is_empty() && !case.named && !brings_news {
                let after = After::of(record, case.now);
                return Verdict::Applied { dot: None, created: false, replayed: false, after };
            }
            record::Action::Delete
        }
    };
    // All that is there is what its writer has put the condition on, unless it says what it has read.
    let context = seen.map_or_else(|| record.context(), |seen| seen.context.clone());
    let before = seen.map(|_| record.clone());
    let mutation = Mutation { op: case.op, request: case.request, context, action };
    let at = Mint { dot: events.dot(), stamp: events.stamp_above(record), now: case.now };
    match record.mint(mutation, at) {
        Ok(minted) => {
            if let (Some(seen), Some(before)) = (seen, before) {
                let count = before.view(case.now).versions.len();
                let max = seen.max_siblings;
                if max > 0 && minted.siblings > count && minted.siblings > max as usize {
                    *record = before;
                    let siblings = u32::try_from(count).unwrap_or(u32::MAX);
                    return Verdict::Failed(OpError::TooManySiblings { siblings, max });
                }
            }
            record.raise_fence(fence.unwrap_or(0));
            Verdict::Applied {
                dot: Some(minted.dot),
                created: minted.created,
                replayed: false,
                after: After::of(record, case.now),
            }
        }
        Err(error) => Verdict::Failed(OpError::NotSupported(error.to_string())),
    }
}

pub(super) fn note(
    record: &mut Record,
    case: &Case<'_>,
    verdict: OpVerdict,
    events: &mut Events,
) -> Result<(), record::MintError> {
    record.note(OpEntry {
        op: case.op,
        dot: events.dot(),
        request: case.request,
        created: false,
        delete: false,
        verdict,
    })
}

fn tell(record: &mut Record, op: OpId, events: &mut Events) -> Verdict {
    let entries = record.op_entries();
    let of = |verdict| entries.iter().find(move |e| e.op == op && e.verdict == verdict).copied();
    let told = if let Some(entry) = of(OpVerdict::Applied) {
        Told::Applied(entry.dot)
    } else if of(OpVerdict::Refused).is_some() {
        Told::Refused
    } else if of(OpVerdict::Barred).is_some() {
        Told::Never
    } else if entries.len() == OP_LOG_LEN && entries.first().is_some_and(|oldest| op < oldest.op) {
        Told::Expired
    } else {
        let barred = OpEntry {
            op,
            dot: events.dot(),
            request: 0,
            created: false,
            delete: false,
            verdict: OpVerdict::Barred,
        };
        match record.note(barred) {
            Ok(()) => Told::Never,
            Err(error) => return Verdict::Failed(OpError::NotSupported(error.to_string())),
        }
    };
    Verdict::Told(told)
}

/// A record that the one of `kind` begins from when nobody knows anything of the key.
pub(super) fn merge_all<'a>(
    kind: RecordKind,
    records: impl Iterator<Item = &'a Record>,
) -> Option<Record> {
    let mut merged = Record::empty(kind);
    for record in records {
        merged.merge(record).ok()?;
    }
    Some(merged)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::coordinator::slot_of;

    fn put(body: &'static str) -> WriteAction {
        let body = Bytes::from_static(body.as_bytes());
        WriteAction::Put { body, content_type: None, meta: Vec::new(), ttl: None }
    }

    fn write(action: WriteAction, condition: Condition) -> Ask {
        Ask::Write { action, condition, fence: None, seen: None }
    }

    fn run(record: &mut Record, time: u64, op: u64, ask: &Ask) -> Verdict {
        let op = OpId::from_parts(op, 1);
        let case = Case { ask, op, named: true, request: 7, now: WallMicros(1) };
        let ballot = Ballot { time, actor: ActorId(3) };
        judge(record, &case, &mut Events::of(ballot, Hlc(time)), &mut 1_000_000)
    }

    fn bodies(record: &Record) -> Vec<Bytes> {
        let view = record.view(WallMicros(1));
        view.versions.iter().map(|version| version.value.body.clone()).collect()
    }

    /// A stamp that a conditional write shared with a plain one beside it would leave a row with
    /// half of each.
    #[test]
    fn no_plain_write_has_the_stamp_of_a_conditional_one() {
        for clock in 0..40 {
            let ballot = Ballot { time: 1, actor: ActorId(3) };
            let events = Events::of(ballot, Hlc(1_000 + clock));
            for newest in [None, Some(i64::MIN), Some(990), Some(1_010), Some(1_100 + clock as i64)]
            {
                let stamp = events.row_stamp(newest);
                assert!(stamp >= 1_000 + clock as i64, "{newest:?}: {stamp}");
                assert!(newest.is_none_or(|newest| stamp > newest + 1), "{newest:?}: {stamp}");
                for place in 0..40 {
                    assert_ne!(slot_of(place), stamp as u64 % STAMP_SLOTS, "member {place}");
                }
            }
        }
    }

    #[test]
    fn create_if_absent_has_one_winner_and_shows_it_to_the_loser() {
        for kind in [RecordKind::Siblings, RecordKind::Lww] {
            let mut record = Record::empty(kind);
            let first = run(&mut record, 10, 1, &write(put("a"), Condition::Absent));
            assert!(matches!(first, Verdict::Applied { created: true, .. }), "{first:?}");
            let second = run(&mut record, 20, 2, &write(put("b"), Condition::Absent));
            let Verdict::Refused { current, .. } = second else { panic!("{second:?}") };
            assert_eq!(bodies(&current), ["a"]);
            assert_eq!(bodies(&record), ["a"]);
        }
    }

    #[test]
    fn compare_and_set_replaces_what_it_names_and_nothing_else() {
        for kind in [RecordKind::Siblings, RecordKind::Lww] {
            let mut record = Record::empty(kind);
            let _ = run(&mut record, 10, 1, &write(put("a"), Condition::None));
            let etag = record.view(WallMicros(1)).etag().unwrap();
            let matches = Condition::Matches(vec![etag.clone()]);
            let cas = run(&mut record, 20, 2, &write(put("b"), matches.clone()));
            assert!(matches!(cas, Verdict::Applied { created: false, .. }), "{cas:?}");
            let late = run(&mut record, 30, 3, &write(put("c"), matches));
            assert!(matches!(late, Verdict::Refused { .. }));
            let differs = Condition::Differs(vec![etag]);
            let _ = run(&mut record, 40, 4, &write(WriteAction::Delete, differs));
            assert!(bodies(&record).is_empty());
            let gone = run(&mut record, 50, 5, &write(put("d"), Condition::Exists));
            assert!(matches!(gone, Verdict::Refused { .. }), "a tombstone is no value");
        }
    }

    #[test]
    fn a_repeated_operation_gets_its_first_verdict_whatever_has_come_since() {
        for kind in [RecordKind::Siblings, RecordKind::Lww] {
            let mut record = Record::empty(kind);
            let create = write(put("a"), Condition::Absent);
            let _ = run(&mut record, 10, 1, &create);
            let _ = run(&mut record, 20, 2, &create);
            let _ = run(&mut record, 30, 3, &write(WriteAction::Delete, Condition::None));
            let again = run(&mut record, 40, 1, &create);
            assert!(matches!(again, Verdict::Applied { replayed: true, created: true, .. }));
            let again = run(&mut record, 50, 2, &create);
            assert!(matches!(again, Verdict::Refused { replayed: true, .. }), "{again:?}");
            assert!(bodies(&record).is_empty(), "and nothing happens");
        }
    }

    #[test]
    fn who_asks_about_an_operation_that_never_ran_bars_it() {
        let mut record = Record::empty(RecordKind::Siblings);
        let op = |n| OpId::from_parts(n, 1);
        let _ = run(&mut record, 10, 1, &write(put("a"), Condition::None));
        let _ = run(&mut record, 20, 2, &write(put("b"), Condition::Absent));
        for (n, expected) in [(1, "Applied"), (2, "Refused"), (3, "Never"), (3, "Never")] {
            let told = run(&mut record, 20 + 10 * n, 9, &Ask::Verdict(op(n)));
            let Verdict::Told(told) = told else { panic!("{told:?}") };
            assert!(format!("{told:?}").starts_with(expected), "{n}: {told:?}");
        }
        let late = run(&mut record, 90, 3, &write(put("c"), Condition::None));
        assert!(matches!(late, Verdict::Failed(OpError::OperationExpired)), "{late:?}");
        assert_eq!(bodies(&record), ["a"]);
    }

    #[test]
    fn operations_of_one_round_see_each_other_and_have_versions_of_their_own() {
        let mut record = Record::empty(RecordKind::Siblings);
        let ballot = Ballot { time: 10, actor: ActorId(3) };
        let mut events = Events::of(ballot, Hlc(10));
        let mut dots = Vec::new();
        for n in 1..=3 {
            let ask = write(put("x"), if n == 1 { Condition::Absent } else { Condition::Exists });
            let op = OpId::from_parts(n, 1);
            let case = Case { ask: &ask, op, named: false, request: 7, now: WallMicros(1) };
            let verdict = judge(&mut record, &case, &mut events, &mut 1_000_000);
            let Verdict::Applied { dot: Some(dot), .. } = verdict else { panic!("{verdict:?}") };
            dots.push(dot.counter);
        }
        assert_eq!(dots, [10, 11, 12]);
        assert_eq!(record.value_count(), 1);
    }
}
