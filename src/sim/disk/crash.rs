//! Which pending operations survive the loss of power.

use crate::sim::disk::{Inode, NameOp, Pending, SECTOR, SimDisk, State, apply_name, apply_pending};
use crate::sim::rng::Rng;

/// What reaches the medium of all that was written and not synced.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
pub enum PowerLoss {
    /// Nothing.
    LoseAll,
    /// The earliest operations of each file, in order.
    Prefix,
    /// Any of them, sector by sector: a page cache keeps no order.
    Subset,
    /// The earliest, and of the next one only some leading sectors.
    Torn,
    /// Any of them, and some sectors with random bytes.
    Garbled,
    /// Names and lengths, but not the bytes.
    NamesWithoutData,
    /// The bytes, but not the names.
    DataWithoutNames,
}

impl PowerLoss {
    /// All policies.
    pub const ALL: [Self; 7] = [
        Self::LoseAll,
        Self::Prefix,
        Self::Subset,
        Self::Torn,
        Self::Garbled,
        Self::NamesWithoutData,
        Self::DataWithoutNames,
    ];
}

/// Cuts writes at sector boundaries, so that each piece reaches the medium whole or not at all.
fn sectors(pending: Vec<Pending>) -> Vec<Pending> {
    let mut pieces = Vec::with_capacity(pending.len());
    for op in pending {
        let Pending::Write { mut at, bytes } = op else {
            pieces.push(op);
            continue;
        };
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let (piece, tail) = rest.split_at((SECTOR - at % SECTOR).min(rest.len()));
            pieces.push(Pending::Write { at, bytes: piece.to_vec() });
            at += piece.len();
            rest = tail;
        }
    }
    pieces
}

fn survivors(policy: PowerLoss, pending: Vec<Pending>, rng: &mut Rng) -> Vec<Pending> {
    match policy {
        PowerLoss::LoseAll => Vec::new(),
        PowerLoss::DataWithoutNames => pending,
        PowerLoss::Prefix => {
            let keep = rng.index(pending.len() + 1);
            pending.into_iter().take(keep).collect()
        }
        PowerLoss::NamesWithoutData => pending
            .into_iter()
            .map(|op| match op {
                Pending::Write { at, bytes } => Pending::SetLen(at + bytes.len()),
                op @ Pending::SetLen(_) => op,
            })
            .collect(),
        PowerLoss::Subset => sectors(pending).into_iter().filter(|_| rng.flip()).collect(),
        PowerLoss::Torn => {
            let mut kept: Vec<Pending> = Vec::new();
            let keep = rng.index(pending.len() + 1);
            for (i, op) in pending.into_iter().enumerate() {
                if i < keep {
                    kept.push(op);
                } else if i == keep {
                    let mut pieces = sectors(vec![op]);
                    pieces.truncate(rng.index(pieces.len() + 1));
                    kept.append(&mut pieces);
                }
            }
            kept
        }
        PowerLoss::Garbled => sectors(pending)
            .into_iter()
            .filter_map(|op| match (rng.below(6), op) {
                (0..=2, _) => None,
                (3, Pending::Write { at, bytes }) => {
                    let bytes = bytes.iter().map(|_| rng.next_u64() as u8).collect();
                    Some(Pending::Write { at, bytes })
                }
                (_, op) => Some(op),
            })
            .collect(),
    }
}

impl Inode {
    fn lose_power(&mut self, policy: PowerLoss, rng: &mut Rng) -> u64 {
        let pending = std::mem::take(&mut self.pending);
        let pieces = pending.len() as u64;
        // Lengths shrink only by an explicit SetLen: a "length without data" must not cut.
        for op in survivors(policy, pending, rng) {
            match op {
                Pending::SetLen(len) if policy == PowerLoss::NamesWithoutData => {
                    let len = len.max(self.durable.len());
                    self.durable.resize(len, 0);
                }
                op => apply_pending(&mut self.durable, &op),
            }
        }
        let lost = if self.durable == self.live { 0 } else { pieces.max(1) };
        self.live.clone_from(&self.durable);
        lost
    }
}

impl State {
    fn surviving_names(&mut self, policy: PowerLoss) -> Vec<NameOp> {
        let ops = std::mem::take(&mut self.pending_names);
        let rng = &mut self.rng;
        match policy {
            PowerLoss::LoseAll | PowerLoss::DataWithoutNames => Vec::new(),
            PowerLoss::NamesWithoutData => ops,
            // Directories are journalled: their operations keep their order.
            PowerLoss::Prefix | PowerLoss::Torn | PowerLoss::Subset | PowerLoss::Garbled => {
                let keep = rng.index(ops.len() + 1);
                ops.into_iter().take(keep).collect()
            }
        }
    }
}

impl SimDisk {
    /// True when a failed sync has left bytes that a running program sees, and that no later sync
    /// will make durable.
    #[must_use]
    pub fn has_lost_syncs(&self) -> bool {
        self.state().inodes.values().any(|inode| {
            let mut medium = inode.durable.clone();
            for op in &inode.pending {
                apply_pending(&mut medium, op);
            }
            medium != inode.live
        })
    }

    /// The power goes: of what was pending, only what `policy` draws reaches the medium. Who had
    /// the disk open must open it again.
    pub fn lose_power(&self, policy: PowerLoss) {
        let mut guard = self.state();
        let state = &mut *guard;
        state.generation += 1;
        let all_names = state.names.clone();
        for op in state.surviving_names(policy) {
            apply_name(&mut state.durable_names, &op);
        }
        if state.durable_names != all_names {
            state.effects.lost += 1;
        }
        state.names.clone_from(&state.durable_names);
        state.forget_nameless();
        for inode in state.inodes.values_mut() {
            state.effects.lost += inode.lose_power(policy, &mut state.rng);
        }
    }
}
