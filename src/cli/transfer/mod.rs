//! Moving many rows: `import`, `export`, `verify`.
//!
//! A file is read by one thread that sends rows through a bounded channel; a fixed number of
//! workers carry them to the cluster. So memory is bounded whatever the file's size, and a slow
//! cluster slows the reading down.
//!
//! **Exactly once.** Row *i* of an import is written under an operation id that is computed from
//! the import's own id and *i* ([`checkpoint`]). Sent again, by a retry through another node or by
//! an import that was interrupted and resumed, it never makes a second value.

mod checkpoint;
mod export;
mod import;
pub(super) mod progress;
mod rows;
mod template;
mod verify;

pub use export::{ExportArgs, export};
pub use import::{ImportArgs, Imported, import, import_counted};
pub use progress::grouped;
pub use rows::{FileArgs, open};
pub use verify::{Verified, VerifyArgs, print, verify, verify_rows};
