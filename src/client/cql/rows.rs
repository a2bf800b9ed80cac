//! Rows by the names of their columns.

use super::answer::{CqlPage, CqlRow};
use crate::cql::value;

/// Rows by the names of their columns.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CqlRows {
    /// Names of the columns.
    pub names: Vec<String>,
    /// Their values, as the protocol has them.
    pub rows: Vec<CqlRow>,
}

impl From<CqlPage> for CqlRows {
    fn from(page: CqlPage) -> Self {
        let names = page.columns.into_iter().map(|column| column.name).collect();
        Self { names, rows: page.rows }
    }
}

impl CqlRows {
    /// The value of the column `name` in the first row.
    #[must_use]
    pub fn first(&self, name: &str) -> Option<&[u8]> {
        let at = self.names.iter().position(|own| own == name)?;
        self.rows.first()?.get(at)?.as_deref()
    }

    /// What a conditional statement says of itself.
    #[must_use]
    pub fn applied(&self) -> Option<bool> {
        Some(self.first("[applied]")? == [1])
    }

    /// The elements of a list or set.
    #[must_use]
    pub fn elements(value: &[u8]) -> Option<Vec<Vec<u8>>> {
        Some(value::elements(value, 1)?.into_iter().map(<[u8]>::to_vec).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::cql::CqlAnswer;
    use crate::client::cql::answer;

    #[test]
    fn rows_of_texts_and_sets_are_read() {
        let bytes = [
            &[0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0, 2][..],
            &[0, 1, b'k', 0, 1, b't'],
            &[0, 1, b'a', 0, 0x0D],
            &[0, 1, b'b', 0, 0x22, 0, 0x0D],
            &[0, 0, 0, 1],
            &[0, 0, 0, 1, b'x'],
            &[0, 0, 0, 14, 0, 0, 0, 2, 0, 0, 0, 1, b'p', 0, 0, 0, 1, b'q'],
        ]
        .concat();
        let Some(CqlAnswer::Page(page)) = answer::read(0, &bytes).map(|reply| reply.answer) else {
            panic!("a page");
        };
        let rows = CqlRows::from(page);
        assert_eq!(rows.names, ["a", "b"]);
        assert_eq!(rows.first("a"), Some(&b"x"[..]));
        let set = CqlRows::elements(rows.first("b").unwrap()).unwrap();
        assert_eq!(set, [b"p".to_vec(), b"q".to_vec()]);
        for cut in 0..bytes.len() {
            assert_eq!(answer::read(0, &bytes[..cut]), None);
        }
    }
}
