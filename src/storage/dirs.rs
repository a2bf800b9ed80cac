//! Directories whose entries are on the disk.
//!
//! A synced file is still lost with the power if the directory that names it was not synced
//! (`fsync(2)`: "a call to fsync() does not necessarily ensure that the entry in the directory
//! containing the file has also reached disk").

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use crate::storage::StorageError;

/// Creates `dir` with its parents and syncs the directory entries on the way.
///
/// # Errors
/// [`StorageError::Io`] that names the path; also when `dir` is there and is no directory.
pub fn create_durable_dir(dir: &Path) -> Result<(), StorageError> {
    match fs::metadata(dir) {
        Ok(found) if found.is_dir() => return Ok(()),
        Ok(_) => {
            let error = io::Error::new(io::ErrorKind::NotADirectory, "it is not a directory");
            return Err(named("opening the data directory", dir, &error));
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(named("opening the data directory", dir, &error)),
    }
    let parent = parent_of(dir);
    if !parent.as_os_str().is_empty() {
        create_durable_dir(&parent)?;
    }
    match fs::create_dir(dir) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            Err(named("creating the data directory", dir, &error))
        }
        _ => sync_path(&parent),
    }
}

/// Syncs every file and directory below `dir`, `dir` itself and its entry in its parent. What an
/// engine's own threads remove meanwhile (a journal that was flushed) needs no sync.
///
/// # Errors
/// [`StorageError::Io`] that names the path.
pub(super) fn sync_tree(dir: &Path) -> Result<(), StorageError> {
    sync_below(dir)?;
    sync_path(&parent_of(dir))
}

fn sync_below(dir: &Path) -> Result<(), StorageError> {
    let entries = fs::read_dir(dir).map_err(|e| named("listing the data directory", dir, &e))?;
    for entry in entries {
        let entry = entry.map_err(|e| named("listing the data directory", dir, &e))?;
        let path = entry.path();
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => {
                if path.exists() {
                    sync_below(&path)?;
                }
            }
            Ok(kind) if kind.is_file() => match sync_file(&path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                synced => synced.map_err(|e| named("syncing the data directory", &path, &e))?,
            },
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(named("listing the data directory", &path, &error)),
        }
    }
    sync_path(dir)
}

fn sync_file(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Syncs one file or directory.
pub(super) fn sync_path(path: &Path) -> Result<(), StorageError> {
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    sync_file(path).map_err(|error| named("syncing the data directory", path, &error))
}

fn parent_of(dir: &Path) -> PathBuf {
    dir.parent().unwrap_or_else(|| Path::new("/")).to_owned()
}

/// An I/O error with the path that it is about.
pub(super) fn named(during: &'static str, path: &Path, error: &io::Error) -> StorageError {
    StorageError::io(during, &io::Error::new(error.kind(), format!("{}: {error}", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nested_directories_are_made_and_made_again() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("a/b/c");
        create_durable_dir(&dir).unwrap();
        create_durable_dir(&dir).unwrap();
        fs::write(dir.join("f"), b"x").unwrap();
        sync_tree(&root.path().join("a")).unwrap();
    }

    #[test]
    fn a_file_in_the_way_is_named() {
        let root = tempfile::tempdir().unwrap();
        let file = root.path().join("file");
        fs::write(&file, b"x").unwrap();
        for dir in [file.clone(), file.join("below")] {
            let error = create_durable_dir(&dir).unwrap_err().to_string();
            assert!(error.contains("file") && error.contains("directory"), "{error}");
        }
    }
}
