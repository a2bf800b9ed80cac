//! Invented values (I2; W5.3 where siblings are kept): a read shows only what was written to that
//! key, by a write that had begun and was not answered "did not happen".

use crate::sim::check::{Check, KeyHistory, Violation};
use crate::sim::history::{Outcome, Workload};

pub(super) fn check(key: &KeyHistory<'_>, workload: Workload) -> Vec<Violation> {
    let name = match workload {
        Workload::Siblings | Workload::Expiring => Check::W5Invented,
        Workload::Set | Workload::Register | Workload::Strong | Workload::Conditional => Check::I2,
    };
    let mut found = Vec::new();
    for (at, (_, read)) in key.operations.iter().enumerate() {
        for shown in read.shown().unwrap_or_default() {
            let id = match &shown.value {
                Ok(id) => *id,
                Err(strange) => {
                    let what = format!("a read shows bytes that nobody wrote: {strange:?}");
                    found.push(key.breach(name, what, &[at]));
                    continue;
                }
            };
            let Some(&write_at) = key.writes.get(&id) else {
                let what = format!("a read shows write {}, which was not made on this key", id.0);
                found.push(key.breach(name, what, &[at]));
                continue;
            };
            let write = key.operations[write_at].1;
            let what = if matches!(write.outcome, Outcome::NotApplied | Outcome::Refused(_)) {
                "was answered \"did not happen\" and is shown"
            } else if read.before(write) {
                "is shown by a read that ended before the write began"
            } else {
                continue;
            };
            found.push(key.breach(name, format!("write {} {what}", id.0), &[write_at, at]));
        }
    }
    found
}
