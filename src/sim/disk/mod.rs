//! A simulated disk: files whose latest bytes are lost when the power is.
//!
//! The problem: code that forgets a sync, or syncs the wrong thing, works on every developer's
//! machine and loses data in the first power cut. So this disk keeps two truths.
//!
//! - What a *running* program sees: every write at once, as through the page cache.
//! - What is *durable*: bytes of a file after [`SimDisk::sync`] of that file, and names after
//!   [`SimDisk::sync_dir`].
//!
//! In between are pending operations, in order. [`SimDisk::lose_power`] draws which of them
//! reached the medium, by a [`PowerLoss`] policy; a real page cache promises no order. `kill -9`
//! needs no call at all: the page cache survives the process.
//!
//! A failed sync drops what it was to write and the next one succeeds, as Linux does
//! ("fsyncgate"): a program that retries believes in bytes that are not there.
//!
//! Faults are set in [`DiskFaults`] or done at once ([`SimDisk::rot`], [`SimDisk::wipe`], …), and
//! [`DiskEffects`] counts what they did, so that a run can tell a fault from a fault that nobody
//! met. Absent on purpose: subdirectories, permissions, sparse files.

mod crash;
mod damage;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::io::{Error, ErrorKind, Result};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::sim::rng::{Ppm, Rng};

pub use crash::PowerLoss;
pub use damage::DiskImage;

/// Unit in which writes reach the medium: whole or not at all.
pub const SECTOR: usize = 512;

/// Running faults of a disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct DiskFaults {
    /// Reads that fail with an I/O error.
    pub read_error: Ppm,
    /// Writes that fail, some after part of their bytes.
    pub write_error: Ppm,
    /// Syncs that fail and drop what they were to write.
    pub sync_error: Ppm,
    /// Writes that would make files longer fail for want of space.
    pub full: bool,
    /// Every duration is this many times longer; 0 and 1 mean as usual.
    pub slow: u32,
    /// The next sync reports success but leaves one of its writes out.
    pub lose_next_write: bool,
    /// The next sync stores one of its writes at a wrong place.
    pub misdirect_next_write: bool,
}

/// What faults did to a disk so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct DiskEffects {
    /// Reads that failed.
    pub read_errors: u64,
    /// Writes that failed.
    pub write_errors: u64,
    /// Syncs that failed with something to write.
    pub sync_errors: u64,
    /// Writes refused for want of space.
    pub full: u64,
    /// Pending operations that a loss of power took away or damaged.
    pub lost: u64,
    /// Synced writes that were lost or went astray.
    pub strayed: u64,
    /// Durable bytes that were changed behind the program's back.
    pub rotten: u64,
}

/// A file on a [`SimDisk`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct FileId(u64);

#[derive(Clone, Debug)]
enum Pending {
    Write { at: usize, bytes: Vec<u8> },
    SetLen(usize),
}

#[derive(Clone, Debug)]
enum NameOp {
    Create(String, FileId),
    Rename(String, String),
    Remove(String),
}

#[derive(Clone, Debug, Default)]
struct Inode {
    /// What the running program sees.
    live: Vec<u8>,
    /// What survives the loss of power, whatever else does.
    durable: Vec<u8>,
    pending: Vec<Pending>,
}

type Names = BTreeMap<String, FileId>;

#[derive(Debug)]
struct State {
    inodes: BTreeMap<FileId, Inode>,
    names: Names,
    durable_names: Names,
    pending_names: Vec<NameOp>,
    next_file: u64,
    /// Counts the times that contents were replaced under the program (wipe, restore, power).
    generation: u64,
    faults: DiskFaults,
    effects: DiskEffects,
    rng: Rng,
}

/// A disk. Clones are the same disk.
#[derive(Clone, Debug)]
pub struct SimDisk {
    state: Arc<Mutex<State>>,
    cost: Arc<AtomicU64>,
}

fn io_error(what: &'static str) -> Error {
    Error::other(what)
}

fn no_file() -> Error {
    Error::new(ErrorKind::NotFound, "no such file")
}

fn write_at(content: &mut Vec<u8>, at: usize, bytes: &[u8]) {
    let end = at + bytes.len();
    if content.len() < end {
        content.resize(end, 0);
    }
    content[at..end].copy_from_slice(bytes);
}

fn apply_pending(content: &mut Vec<u8>, pending: &Pending) {
    match pending {
        Pending::Write { at, bytes } => write_at(content, *at, bytes),
        Pending::SetLen(len) => content.resize(*len, 0),
    }
}

fn apply_name(names: &mut Names, op: &NameOp) {
    match op {
        NameOp::Create(name, file) => {
            names.insert(name.clone(), *file);
        }
        NameOp::Rename(from, to) => {
            if let Some(file) = names.remove(from) {
                names.insert(to.clone(), file);
            }
        }
        NameOp::Remove(name) => {
            names.remove(name);
        }
    }
}

impl SimDisk {
    /// An empty disk without faults, whose chances are drawn from `rng`.
    #[must_use]
    pub fn new(rng: Rng) -> Self {
        let state = State {
            inodes: BTreeMap::new(),
            names: Names::new(),
            durable_names: Names::new(),
            pending_names: Vec::new(),
            next_file: 0,
            generation: 0,
            faults: DiskFaults::default(),
            effects: DiskEffects::default(),
            rng,
        };
        Self { state: Arc::new(Mutex::new(state)), cost: Arc::new(AtomicU64::new(0)) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where the nanoseconds gather that the disk took; the executor charges and empties it.
    #[must_use]
    pub fn cost_meter(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.cost)
    }

    fn charge(&self, state: &State, nanos: u64) {
        let nanos = nanos * u64::from(state.faults.slow.max(1));
        self.cost.fetch_add(nanos, Ordering::Relaxed);
    }

    /// The running faults.
    #[must_use]
    pub fn faults(&self) -> DiskFaults {
        self.state().faults
    }

    /// Sets the running faults.
    pub fn set_faults(&self, faults: DiskFaults) {
        self.state().faults = faults;
    }

    /// What faults did so far.
    #[must_use]
    pub fn effects(&self) -> DiskEffects {
        self.state().effects
    }

    /// Opens the file called `name`, creating it if need be. Its name is durable after
    /// [`SimDisk::sync_dir`].
    ///
    /// # Errors
    /// Injected ones.
    pub fn open(&self, name: &str) -> Result<FileId> {
        let mut state = self.state();
        if let Some(file) = state.names.get(name) {
            return Ok(*file);
        }
        state.fail_write(1)?;
        state.next_file += 1;
        let file = FileId(state.next_file);
        state.inodes.insert(file, Inode::default());
        let op = NameOp::Create(name.to_owned(), file);
        apply_name(&mut state.names, &op);
        state.pending_names.push(op);
        Ok(file)
    }

    /// The file called `name`, if there is one.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<FileId> {
        self.state().names.get(name).copied()
    }

    /// The names of all files, in order.
    #[must_use]
    pub fn list(&self) -> Vec<String> {
        self.state().names.keys().cloned().collect()
    }

    /// The file's length.
    ///
    /// # Errors
    /// No such file.
    pub fn len(&self, file: FileId) -> Result<usize> {
        self.state().inodes.get(&file).map(|inode| inode.live.len()).ok_or_else(no_file)
    }

    /// Up to `len` bytes from `at`; fewer at the end of the file.
    ///
    /// # Errors
    /// No such file, and injected ones.
    pub fn read(&self, file: FileId, at: usize, len: usize) -> Result<Vec<u8>> {
        let mut state = self.state();
        let chance = state.faults.read_error;
        if state.rng.chance(chance) {
            state.effects.read_errors += 1;
            return Err(io_error("injected read error"));
        }
        let inode = state.inodes.get(&file).ok_or_else(no_file)?;
        let end = at.saturating_add(len).min(inode.live.len());
        let bytes = inode.live.get(at..end).unwrap_or_default().to_vec();
        self.charge(&state, 200 + bytes.len() as u64 / 4);
        Ok(bytes)
    }

    /// Like [`SimDisk::read`], for the oracle: no faults, no cost.
    #[must_use]
    pub fn peek(&self, file: FileId, at: usize, len: usize) -> Option<Vec<u8>> {
        let state = self.state();
        let live = &state.inodes.get(&file)?.live;
        live.get(at..at.saturating_add(len).min(live.len())).map(<[u8]>::to_vec)
    }

    /// Writes `bytes` at `at`.
    ///
    /// # Errors
    /// No such file, and injected ones: part of the bytes may then have been written.
    pub fn write(&self, file: FileId, at: usize, bytes: &[u8]) -> Result<()> {
        let mut state = self.state();
        let len = state.inodes.get(&file).ok_or_else(no_file)?.live.len();
        let growth = (at + bytes.len()).saturating_sub(len);
        let failed = state.fail_write(growth);
        // A failed write may have written its beginning.
        let written = match failed {
            Ok(()) => bytes.len(),
            Err(_) if growth > 0 && state.faults.full => 0,
            Err(_) => state.rng.index(bytes.len() + 1),
        };
        self.charge(&state, 2_000 + written as u64 / 2);
        let inode = state.inodes.get_mut(&file).ok_or_else(no_file)?;
        if written > 0 {
            write_at(&mut inode.live, at, &bytes[..written]);
            inode.pending.push(Pending::Write { at, bytes: bytes[..written].to_vec() });
        }
        failed
    }

    /// Makes the file `len` bytes long.
    ///
    /// # Errors
    /// No such file, and injected ones.
    pub fn set_len(&self, file: FileId, len: usize) -> Result<()> {
        let mut state = self.state();
        state.fail_write(0)?;
        let inode = state.inodes.get_mut(&file).ok_or_else(no_file)?;
        inode.live.resize(len, 0);
        inode.pending.push(Pending::SetLen(len));
        Ok(())
    }

    /// Makes the file's bytes durable (its name only after [`SimDisk::sync_dir`]).
    ///
    /// # Errors
    /// No such file, and injected ones: what was pending is then lost although the running
    /// program still sees it, and the next sync will not bring it back.
    pub fn sync(&self, file: FileId) -> Result<()> {
        let mut state = self.state();
        let inode = state.inodes.get_mut(&file).ok_or_else(no_file)?;
        let mut pending = std::mem::take(&mut inode.pending);
        let chance = state.faults.sync_error;
        if state.rng.chance(chance) {
            state.effects.sync_errors += u64::from(!pending.is_empty());
            return Err(io_error("injected sync error"));
        }
        state.stray(&mut pending);
        let nanos = state.rng.between(50_000, 500_000);
        self.charge(&state, nanos);
        let inode = state.inodes.get_mut(&file).ok_or_else(no_file)?;
        for op in &pending {
            apply_pending(&mut inode.durable, op);
        }
        Ok(())
    }

    /// Gives a file another name, replacing the file that had it.
    ///
    /// # Errors
    /// No such file, and injected ones.
    pub fn rename(&self, from: &str, to: &str) -> Result<()> {
        self.name_op(from, NameOp::Rename(from.to_owned(), to.to_owned()))
    }

    /// Removes a name, and the file with it.
    ///
    /// # Errors
    /// No such file, and injected ones.
    pub fn remove(&self, name: &str) -> Result<()> {
        self.name_op(name, NameOp::Remove(name.to_owned()))
    }

    fn name_op(&self, name: &str, op: NameOp) -> Result<()> {
        let mut state = self.state();
        state.fail_write(0)?;
        if !state.names.contains_key(name) {
            return Err(no_file());
        }
        apply_name(&mut state.names, &op);
        state.pending_names.push(op);
        Ok(())
    }

    /// Makes creations, renames and removals durable.
    ///
    /// # Errors
    /// Injected ones.
    pub fn sync_dir(&self) -> Result<()> {
        let mut state = self.state();
        let chance = state.faults.sync_error;
        if state.rng.chance(chance) {
            state.effects.sync_errors += 1;
            return Err(io_error("injected directory sync error"));
        }
        self.charge(&state, 50_000);
        let state = &mut *state;
        for op in std::mem::take(&mut state.pending_names) {
            apply_name(&mut state.durable_names, &op);
        }
        state.forget_nameless();
        Ok(())
    }

    /// Bytes of all files as the running program sees them.
    #[must_use]
    pub fn used_bytes(&self) -> u64 {
        let state = self.state();
        state.names.values().filter_map(|f| state.inodes.get(f)).map(|i| i.live.len() as u64).sum()
    }

    /// Counts the times that contents were replaced behind the program's back: an engine that was
    /// opened before must not be used any more.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.state().generation
    }
}

impl State {
    fn fail_write(&mut self, growth: usize) -> Result<()> {
        if self.faults.full && growth > 0 {
            self.effects.full += 1;
            return Err(Error::new(ErrorKind::StorageFull, "injected: no space left on device"));
        }
        let chance = self.faults.write_error;
        if self.rng.chance(chance) {
            self.effects.write_errors += 1;
            return Err(io_error("injected write error"));
        }
        Ok(())
    }

    /// Drops files that no name, durable or live, leads to.
    fn forget_nameless(&mut self) {
        let (names, durable) = (&self.names, &self.durable_names);
        let named: std::collections::BTreeSet<FileId> =
            names.values().chain(durable.values()).copied().collect();
        self.inodes.retain(|file, _| named.contains(file));
    }
}
