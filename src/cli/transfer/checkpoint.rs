//! How far an import has come, kept in a file, so that it can go on after an interruption.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::rows::FileArgs;
use crate::cli::exit::Failure;
use crate::client::Client;
use crate::types::OpId;

/// Names one import: of which file, into which bucket, since when.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Import {
    /// Version of this form.
    version: u32,
    bucket: String,
    /// How keys are made.
    keys: String,
    /// The file's length.
    length: u64,
    /// xxh3 of its first 64 KiB, in hexadecimal.
    head: String,
    /// When the import began, in milliseconds since the Unix epoch.
    began_ms: u64,
    /// 34 random bits that tell it from others of that instant.
    salt: u64,
    /// All rows before this one are done.
    rows_done: u64,
}

impl Import {
    /// A new import of that file.
    pub fn new(args: &FileArgs) -> std::io::Result<Self> {
        let mut head = Vec::new();
        let file = File::open(&args.file)?;
        let id = Client::new_op_id().0;
        let length = file.metadata()?.len();
        file.take(1 << 16).read_to_end(&mut head)?;
        Ok(Self {
            version: 1,
            bucket: args.bucket.clone(),
            keys: args.key_template.clone().unwrap_or_else(|| args.key_columns.join(",")),
            length,
            head: format!("{:016x}", xxhash_rust::xxh3::xxh3_64(&head)),
            began_ms: u64::try_from(id >> 80).unwrap_or_default(),
            salt: u64::try_from(id & ((1 << 34) - 1)).unwrap_or_default(),
            rows_done: 0,
        })
    }

    /// The operation id under which row `number` is written: always the same for this import.
    ///
    /// It has the import's instant, then the row's number, then its salt. So
    /// ids grow with the rows, as the server expects of one client's ids, and two imports that
    /// began in one millisecond still differ.
    pub fn op_id(&self, number: u64) -> OpId {
        let number = u128::from(number) & ((1 << 40) - 1);
        let (high, low) = (number >> 28, number & ((1 << 28) - 1));
        let salt = u128::from(self.salt) & ((1 << 34) - 1);
        OpId::from_parts(self.began_ms, (high << 64) | (low << 34) | salt)
    }

    /// All rows before this one are done.
    pub fn rows_done(&self) -> u64 {
        self.rows_done
    }

    fn is_of(&self, other: &Self) -> bool {
        let what = |import: &Self| Self { began_ms: 0, salt: 0, rows_done: 0, ..import.clone() };
        what(self) == what(other)
    }
}

/// An import with the file that remembers it, if there is one.
#[derive(Debug)]
pub struct Checkpoint {
    import: Import,
    path: Option<PathBuf>,
    done: Done,
}

impl Checkpoint {
    /// Begins an import, or goes on with the one that `path` remembers.
    pub fn open(args: &FileArgs, path: Option<&Path>) -> Result<Self, Failure> {
        let fresh = Import::new(args)
            .map_err(|error| Failure::usage(format!("{}: {error}", args.file.display())))?;
        let import = match path.map(|path| (path, std::fs::read(path))) {
            Some((path, Ok(text))) => {
                let found: Import = serde_json::from_slice(&text).map_err(|error| {
                    Failure::usage(format!("{} is no resume file: {error}", path.display()))
                })?;
                if !found.is_of(&fresh) {
                    return Err(Failure::usage(format!(
                        "{} belongs to an import of another file, bucket or key: name another, or \
                         remove it to start over",
                        path.display()
                    )));
                }
                found
            }
            Some((path, Err(error))) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(Failure::usage(format!("{}: {error}", path.display())));
            }
            Some((_, Err(_))) | None => fresh,
        };
        let done = Done { low: import.rows_done, above: BTreeSet::new() };
        Ok(Self { import, path: path.map(Path::to_owned), done })
    }

    /// The import.
    pub fn import(&self) -> &Import {
        &self.import
    }

    /// Row `number` needs nothing more.
    pub fn row_done(&mut self, number: u64) {
        self.done.add(number);
    }

    /// Writes down how far the import has come. Old or new: never half of it.
    pub fn save(&mut self) -> std::io::Result<()> {
        self.import.rows_done = self.done.low;
        let Some(path) = &self.path else { return Ok(()) };
        let beside = path.with_extension("new");
        let mut file = File::create(&beside)?;
        file.write_all(&serde_json::to_vec_pretty(&self.import)?)?;
        file.sync_data()?;
        std::fs::rename(beside, path)
    }

    /// The import is complete: there is nothing to go on with.
    pub fn finish(&mut self) -> std::io::Result<()> {
        self.path.take().map_or(Ok(()), std::fs::remove_file)
    }

    /// True if the import can go on later.
    pub fn is_kept(&self) -> bool {
        self.path.is_some()
    }
}

/// Numbers of rows that are done: all below `low`, and those in `above`.
///
/// - `above` has at most as many members as there are workers, times what the slowest of them
///   waits for: a row that is not done holds `low` back.
#[derive(Debug, Default, PartialEq, Eq)]
struct Done {
    low: u64,
    above: BTreeSet<u64>,
}

impl Done {
    fn add(&mut self, number: u64) {
        if number >= self.low {
            self.above.insert(number);
        }
        while self.above.remove(&self.low) {
            self.low += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(file: &Path) -> FileArgs {
        FileArgs {
            file: file.to_owned(),
            bucket: "b".to_owned(),
            format: None,
            key_template: None,
            key_columns: vec!["a".to_owned()],
            concurrency: 1,
            limit: None,
            patience: std::time::Duration::ZERO,
        }
    }

    #[test]
    fn rows_done_out_of_order_count_only_without_gaps() {
        let mut done = Done::default();
        for number in [1, 3, 0, 4] {
            done.add(number);
        }
        assert_eq!(done, Done { low: 2, above: [3, 4].into() });
        done.add(2);
        assert_eq!(done, Done { low: 5, above: BTreeSet::new() });
    }

    #[test]
    fn operation_ids_grow_with_the_rows_and_survive_a_resume() {
        let directory = tempfile::tempdir().unwrap();
        let (file, resume) = (directory.path().join("f.csv"), directory.path().join("resume"));
        std::fs::write(&file, "a\n1\n").unwrap();
        let mut first = Checkpoint::open(&args(&file), Some(&resume)).unwrap();
        first.row_done(0);
        first.save().unwrap();
        let second = Checkpoint::open(&args(&file), Some(&resume)).unwrap();
        assert_eq!(second.import().rows_done(), 1);
        let numbers = [0, 1, 2, (1 << 28) - 1, 1 << 28, (1 << 40) - 1];
        let ids = |of: &Checkpoint| numbers.map(|number| of.import().op_id(number));
        assert_eq!(ids(&first), ids(&second));
        assert!(ids(&first).is_sorted_by(|a, b| a < b));
        for id in ids(&first) {
            assert_eq!(id.to_string().parse(), Ok(id), "a UUIDv7");
        }
        let other = Checkpoint::open(&args(&file), None).unwrap();
        assert_ne!(ids(&first), ids(&other));
    }

    #[test]
    fn a_resume_file_of_another_import_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let (file, resume) = (directory.path().join("f.csv"), directory.path().join("resume"));
        std::fs::write(&file, "a\n1\n").unwrap();
        Checkpoint::open(&args(&file), Some(&resume)).unwrap().save().unwrap();
        std::fs::write(&file, "a\n2\n").unwrap();
        assert!(Checkpoint::open(&args(&file), Some(&resume)).is_err());
        std::fs::write(&resume, "{").unwrap();
        assert!(Checkpoint::open(&args(&file), Some(&resume)).is_err());
    }
}
