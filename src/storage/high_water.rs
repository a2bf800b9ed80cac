//! A note beside the store of how far the store has come.
//!
//! An engine that finds its log cut short, or the last part of it damaged, takes that for the torn
//! tail of a crash and opens with the state before it, without a word. What it lost may have been
//! synced and acknowledged. So the node notes now and then, in a small file of its own, the number
//! of the newest commit that it knows to be on stable storage. A store that opens below the note
//! has forgotten acknowledged writes: its directory is an older one (rule 17).
//!
//! What is noticed: a store that lost a commit that was durable when the note was last written,
//! some seconds before the stop at the latest, or at the stop itself if it was clean. Not noticed:
//! the loss of what came after that, and of a store and its note together (an older copy of the
//! whole directory), which the other nodes notice.
//!
//! The note costs no sync of a commit: it has its own file, written at its own pace.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, File};
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::storage::StorageError;
use crate::storage::dirs::{named, sync_path};

/// The note's file in the data directory.
const NAME: &str = "HIGH-WATER";

/// Format of the note. Predecessors: none.
const FORMAT: u8 = 1;

/// No note is longer, in bytes.
const MAX_BYTES: u64 = 1 << 20;

/// What is noted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HighWater {
    /// The store's newest commit known to be durable: its mark.
    pub mark: u64,
    /// What was heard of other directories' marks, by the ids of their histories; the storage does
    /// not look into it.
    pub heard: BTreeMap<u64, [u64; 3]>,
}

/// Keeps one [`HighWater`] over restarts, apart from the store.
pub trait HighWaterStore: fmt::Debug + Send + Sync + 'static {
    /// The note; `None` if there is none.
    ///
    /// # Errors
    /// [`StorageError::Corrupt`] when it is damaged, or any I/O error.
    fn load(&self) -> Result<Option<HighWater>, StorageError>;

    /// Puts `note` in place of the one before, durably. Blocks on the disk.
    ///
    /// # Errors
    /// Any I/O error; the note before is then still there.
    fn save(&self, note: &HighWater) -> Result<(), StorageError>;
}

#[derive(Serialize, Deserialize)]
struct Form {
    format: u8,
    note: HighWater,
}

/// A note in a data directory.
#[derive(Debug)]
pub struct HighWaterFile {
    dir: PathBuf,
}

impl HighWaterFile {
    /// The note in `dir`, which must exist.
    #[must_use]
    pub fn new(dir: &Path) -> Self {
        Self { dir: dir.to_owned() }
    }

    fn path(&self) -> PathBuf {
        self.dir.join(NAME)
    }
}

impl HighWaterStore for HighWaterFile {
    fn load(&self) -> Result<Option<HighWater>, StorageError> {
        let path = self.path();
        let damaged =
            |why: &str| StorageError::Corrupt { what: format!("{}: {why}", path.display()) };
        match fs::metadata(&path) {
            Ok(found) if found.len() > MAX_BYTES => return Err(damaged("it is far too long")),
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(named("reading the high-water note", &path, &error)),
        }
        let bytes = fs::read(&path).map_err(|e| named("reading the high-water note", &path, &e))?;
        let Some((sum, json)) = bytes.split_first_chunk::<8>() else {
            return Err(damaged("it is cut short"));
        };
        if u64::from_be_bytes(*sum) != xxhash_rust::xxh3::xxh3_64(json) {
            return Err(damaged("it fails its checksum"));
        }
        match serde_json::from_slice::<Form>(json) {
            Ok(form) if form.format == FORMAT => Ok(Some(form.note)),
            Ok(form) => Err(damaged(&format!("format {}, not {FORMAT}", form.format))),
            Err(error) => Err(damaged(&error.to_string())),
        }
    }

    fn save(&self, note: &HighWater) -> Result<(), StorageError> {
        let (path, new) = (self.path(), self.dir.join(format!("{NAME}.new")));
        let form = Form { format: FORMAT, note: note.clone() };
        // Numbers and maps of them always encode.
        let json = serde_json::to_vec(&form).unwrap_or_default();
        let write = || {
            let mut file = File::create(&new)?;
            file.write_all(&xxhash_rust::xxh3::xxh3_64(&json).to_be_bytes())?;
            file.write_all(&json)?;
            file.sync_all()?;
            fs::rename(&new, &path)
        };
        write().map_err(|error| named("writing the high-water note", &path, &error))?;
        sync_path(&self.dir)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(mark: u64) -> HighWater {
        HighWater { mark, heard: BTreeMap::from([(7, [1, 2, 3]), (u64::MAX, [u64::MAX; 3])]) }
    }

    #[test]
    fn a_note_reads_back_and_takes_the_place_of_the_one_before() {
        let dir = tempfile::tempdir().unwrap();
        let file = HighWaterFile::new(dir.path());
        assert_eq!(file.load(), Ok(None));
        for mark in [3, u64::MAX] {
            file.save(&note(mark)).unwrap();
            assert_eq!(HighWaterFile::new(dir.path()).load(), Ok(Some(note(mark))));
        }
    }

    #[test]
    fn a_damaged_note_is_no_note_and_says_so() {
        let dir = tempfile::tempdir().unwrap();
        let file = HighWaterFile::new(dir.path());
        file.save(&note(3)).unwrap();
        let sound = fs::read(file.path()).unwrap();
        for at in 0..sound.len() {
            let mut bytes = sound.clone();
            bytes[at] ^= 4;
            fs::write(file.path(), &bytes).unwrap();
            assert!(matches!(file.load(), Err(StorageError::Corrupt { .. })), "byte {at}");
            fs::write(file.path(), &sound[..at]).unwrap();
            assert!(matches!(file.load(), Err(StorageError::Corrupt { .. })), "length {at}");
        }
    }

    #[test]
    fn a_note_that_cannot_be_written_leaves_the_one_before() {
        let dir = tempfile::tempdir().unwrap();
        let file = HighWaterFile::new(dir.path());
        file.save(&note(3)).unwrap();
        fs::create_dir(dir.path().join(format!("{NAME}.new"))).unwrap();
        assert!(matches!(file.save(&note(4)), Err(StorageError::Io { .. })));
        assert_eq!(file.load(), Ok(Some(note(3))));
    }
}
