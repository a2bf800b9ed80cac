//! The small file that says which segments count and how far the last one was synced.
//!
//! Two slots in two sectors, written in turn, so that a torn or damaged write leaves the other.
//! It tells a torn tail (beyond the frontier: cut it off, nobody was promised anything) from
//! damage (before it: bytes that were promised).

use std::io;

use bytes::{Buf as _, BufMut as _};
use xxhash_rust::xxh3::xxh3_64;

use crate::sim::disk::{FileId, SECTOR, SimDisk};

const NAME: &str = "frontier";
const LEN: usize = 8 * 6;

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Frontier {
    /// Grows with each write; its parity names the slot.
    pub(super) version: u64,
    /// A whole, synced segment with everything up to a compaction; 0 is none.
    pub(super) base: u64,
    pub(super) base_len: u64,
    /// The segment that is appended to.
    pub(super) log: u64,
    /// Its synced bytes.
    pub(super) synced: u64,
}

/// What was found on the disk.
pub(super) enum FrontierState {
    /// Nothing was ever stored here.
    Fresh,
    Known(FileId, Frontier),
    Damaged,
}

impl Frontier {
    fn encode(self) -> Vec<u8> {
        let mut out = Vec::with_capacity(LEN);
        for number in [self.version, self.base, self.base_len, self.log, self.synced] {
            out.put_u64_le(number);
        }
        out.put_u64_le(xxh3_64(&out));
        out
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (mut fields, mut checksum) = bytes.get(..LEN)?.split_at(LEN - 8);
        if checksum.get_u64_le() != xxh3_64(fields) {
            return None;
        }
        Some(Self {
            version: fields.get_u64_le(),
            base: fields.get_u64_le(),
            base_len: fields.get_u64_le(),
            log: fields.get_u64_le(),
            synced: fields.get_u64_le(),
        })
    }

    /// Reads the newer whole slot.
    pub(super) fn load(disk: &SimDisk) -> io::Result<FrontierState> {
        let Some(file) = disk.find(NAME) else {
            let segments = disk.list().iter().any(|name| name.starts_with("segment-"));
            return Ok(if segments { FrontierState::Damaged } else { FrontierState::Fresh });
        };
        let bytes = disk.read(file, 0, 2 * SECTOR)?;
        let slots = [bytes.get(..SECTOR), bytes.get(SECTOR..)];
        let newest = slots.into_iter().flatten().filter_map(Self::decode).max_by_key(|f| f.version);
        Ok(newest.map_or(FrontierState::Damaged, |f| FrontierState::Known(file, f)))
    }

    /// Creates the file under a passing name first: a file called `frontier` is always whole.
    pub(super) fn create(disk: &SimDisk) -> io::Result<(FileId, Self)> {
        let frontier = Self { version: 2, log: 1, ..Self::default() };
        let file = disk.open("frontier.new")?;
        let mut both = frontier.encode();
        both.resize(SECTOR, 0);
        both.extend(frontier.encode());
        both.resize(2 * SECTOR, 0);
        disk.write(file, 0, &both)?;
        disk.sync(file)?;
        disk.rename("frontier.new", NAME)?;
        disk.sync_dir()?;
        Ok((file, frontier))
    }

    /// Writes the next version over the older slot and syncs it.
    pub(super) fn store(self, disk: &SimDisk, file: FileId) -> io::Result<Self> {
        let next = Self { version: self.version + 1, ..self };
        let slot = (next.version % 2) as usize;
        disk.write(file, slot * SECTOR, &next.encode())?;
        disk.sync(file)?;
        Ok(next)
    }
}
