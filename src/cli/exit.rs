//! How commands end.

use crate::client::{ClientError, Outcome};

/// Exit codes, listed in `henge --help`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Something went wrong that has no code of its own.
    Failure = 1,
    /// The command line or the configuration is wrong.
    Usage = 2,
    /// There is no such key or bucket.
    NotFound = 3,
    /// Not done, since too few nodes can be reached: try again.
    Unavailable = 4,
    /// A write may or may not have happened.
    Unknown = 5,
    /// The key has several concurrent values.
    Siblings = 6,
    /// Done in part: some rows were refused, or differ.
    Partial = 7,
    /// A lock was lost, or had ended.
    Lost = 8,
    /// The reader of the output went away.
    BrokenPipe = 141,
    /// Stopped by Ctrl-C.
    Interrupted = 130,
}

/// What `henge --help` says about exit codes.
pub const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  failed, for a reason that is printed
  2  wrong usage or configuration
  3  no such key or bucket
  4  unavailable: not done, try again
  5  unknown: a write may or may not have happened
  6  the key has several concurrent values (all of them are printed)
  7  done in part: some rows were refused, or differ
  8  a lock was lost (its command was killed), or had ended
  130  stopped by Ctrl-C";

/// Why a command did not succeed.
#[derive(Debug)]
pub struct Failure {
    /// The process's exit code.
    pub exit: Exit,
    /// What is printed to stderr; empty if all is said already.
    pub message: String,
    /// Printed after it: what to do.
    pub hint: Option<&'static str>,
    /// Printed in place of both with `--json`.
    pub document: Option<serde_json::Value>,
    /// The code of a command that was run, in place of [`Failure::exit`]'s.
    pub code: Option<u8>,
}

impl Failure {
    /// A failure with a message.
    #[must_use]
    pub fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: message.into(), hint: None, document: None, code: None }
    }

    /// A failure about which all has been said.
    #[must_use]
    pub fn silent(exit: Exit) -> Self {
        Self::new(exit, "")
    }

    /// Wrong usage.
    #[must_use]
    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(Exit::Usage, message)
    }

    /// An error of a call that reads, where nothing can be half done.
    #[must_use]
    pub fn read(error: &ClientError) -> Self {
        Self::of(error, false)
    }

    /// An error of a call that writes.
    #[must_use]
    pub fn write(error: &ClientError) -> Self {
        Self::of(error, true)
    }

    fn of(error: &ClientError, write: bool) -> Self {
        let problem = error.problem();
        let status = problem.map(|problem| problem.status);
        let unknown = write && error.outcome() == Outcome::Unknown;
        let (exit, hint) = if matches!(error, ClientError::Invalid(_)) {
            (Exit::Usage, None)
        } else if unknown {
            (Exit::Unknown, Some("the write may or may not have happened: read, then decide"))
        } else if status == Some(404) {
            (Exit::NotFound, None)
        } else if matches!(error, ClientError::Unreachable { .. }) {
            let hint = "is a node running? `henge dev` starts a cluster; --node or HENGE_NODES \
                        names another address";
            (Exit::Unavailable, Some(hint))
        } else if error.is_transient() {
            (Exit::Unavailable, None)
        } else {
            (Exit::Failure, None)
        };
        let hint = match problem.map(|problem| problem.name.as_str()) {
            Some("bucket-not-found") => Some("create it with `henge buckets create NAME`"),
            Some("unauthenticated") => Some(
                "say who you are: --user ROLE with --password-file FILE, or HENGE_USER and \
                 HENGE_PASSWORD",
            ),
            _ => hint,
        };
        let document = problem.map(|problem| problem.document.clone()).filter(|d| !d.is_null());
        Self { exit, message: error.to_string(), hint, document, code: None }
    }

    /// Prints it to stderr.
    pub fn report(&self) {
        use std::io::Write;
        if self.message.is_empty() {
            return;
        }
        let mut stderr = std::io::stderr().lock();
        // Nothing is left to be done if stderr itself is gone.
        drop(writeln!(stderr, "henge: {}", self.message));
        if let Some(hint) = self.hint {
            drop(writeln!(stderr, "  hint: {hint}"));
        }
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        if error.kind() == std::io::ErrorKind::BrokenPipe {
            return Self::silent(Exit::BrokenPipe);
        }
        Self::new(Exit::Failure, error.to_string())
    }
}
