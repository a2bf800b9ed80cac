//! Damage to what was already durable: rot, stray and lost writes, wipes, restored copies.

use std::collections::BTreeMap;

use crate::sim::disk::{Inode, Names, Pending, SECTOR, SimDisk, State, write_at};

/// A copy of a disk's durable contents.
#[derive(Clone, Debug)]
pub struct DiskImage {
    contents: BTreeMap<String, Vec<u8>>,
}

impl DiskImage {
    /// True when no file was there.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.contents.is_empty()
    }
}

impl State {
    /// Leaves one of a sync's writes out, or sends it to a wrong place, if that is armed.
    pub(super) fn stray(&mut self, pending: &mut Vec<Pending>) {
        let armed = self.faults.lose_next_write || self.faults.misdirect_next_write;
        if !armed || !pending.iter().any(|op| matches!(op, Pending::Write { .. })) {
            return;
        }
        let at = self.rng.index(pending.len());
        let shift = self.rng.between(1, 8) as usize * SECTOR;
        let Some(Pending::Write { at: place, bytes }) = pending.get_mut(at) else { return };
        if self.faults.lose_next_write {
            self.faults.lose_next_write = false;
            bytes.clear();
        } else {
            self.faults.misdirect_next_write = false;
            *place = place.checked_sub(shift).unwrap_or(*place + shift);
        }
        pending.retain(|op| !matches!(op, Pending::Write { bytes, .. } if bytes.is_empty()));
        self.effects.strayed += 1;
    }

    fn become_image(&mut self, image: &DiskImage) {
        self.generation += 1;
        self.inodes.clear();
        self.pending_names.clear();
        self.names = Names::new();
        for (name, bytes) in &image.contents {
            self.next_file += 1;
            let file = super::FileId(self.next_file);
            let inode = Inode { live: bytes.clone(), durable: bytes.clone(), pending: Vec::new() };
            self.inodes.insert(file, inode);
            self.names.insert(name.clone(), file);
        }
        self.durable_names.clone_from(&self.names);
    }
}

impl SimDisk {
    /// Flips a bit of one durable byte of a file whose name begins with `prefix`; false when there
    /// is none.
    pub fn rot(&self, prefix: &str) -> bool {
        let mut guard = self.state();
        let state = &mut *guard;
        let sizes: Vec<_> = state
            .durable_names
            .iter()
            .filter(|(name, _)| name.starts_with(prefix))
            .filter_map(|(_, file)| Some((*file, state.inodes.get(file)?.durable.len())))
            .filter(|(_, len)| *len > 0)
            .collect();
        if sizes.is_empty() {
            return false;
        }
        let (file, len) = *state.rng.pick(&sizes);
        let at = state.rng.index(len);
        drop(guard);
        self.rot_at(file, at)
    }

    /// Flips a bit of the durable byte at `at`; false when there is no such byte.
    pub fn rot_at(&self, file: super::FileId, at: usize) -> bool {
        let mut guard = self.state();
        let state = &mut *guard;
        let flip = 1u8 << state.rng.below(8);
        let Some(inode) = state.inodes.get_mut(&file) else { return false };
        let Some(byte) = inode.durable.get_mut(at) else { return false };
        *byte ^= flip;
        let rotten = *byte;
        // The page cache may hold the byte still; assume that it was dropped, as that is worse.
        if inode.live.len() > at {
            write_at(&mut inode.live, at, &[rotten]);
        }
        state.effects.rotten += 1;
        true
    }

    /// Everything is gone.
    pub fn wipe(&self) {
        self.state().become_image(&DiskImage { contents: BTreeMap::new() });
    }

    /// A copy of what is durable now.
    #[must_use]
    pub fn image(&self) -> DiskImage {
        let state = self.state();
        let contents = state
            .durable_names
            .iter()
            .filter_map(|(name, file)| {
                Some((name.clone(), state.inodes.get(file)?.durable.clone()))
            })
            .collect();
        DiskImage { contents }
    }

    /// Puts an older copy back in place of everything.
    pub fn restore(&self, image: &DiskImage) {
        self.state().become_image(image);
    }
}
