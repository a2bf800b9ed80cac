//! In which order rows are read.

use std::cmp::Ordering;

use serde::{Deserialize, Serialize};

/// The order in which a scan shows its rows.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub enum ScanOrder {
    /// By token and key, from the least.
    #[default]
    Ascending,
    /// By token and key, from the greatest.
    Descending,
}

impl ScanOrder {
    /// `Less`: `a` is shown before `b`.
    #[must_use]
    pub fn compare<T: Ord>(self, a: &T, b: &T) -> Ordering {
        match self {
            Self::Ascending => a.cmp(b),
            Self::Descending => b.cmp(a),
        }
    }
}
