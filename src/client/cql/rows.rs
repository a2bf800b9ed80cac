//! Rows out of a result.

/// Parts of types within types that are read at most.
const MAX_DEPTH: usize = 8;

/// Rows by the names of their columns.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CqlRows {
    /// Names of the columns.
    pub names: Vec<String>,
    /// Their values, as the protocol has them.
    pub rows: Vec<Vec<Option<Vec<u8>>>>,
}

impl CqlRows {
    /// Reads the body of a result of version 4; `None`: it is none. A result that is no rows has
    /// none.
    pub(super) fn read(body: &[u8]) -> Option<Self> {
        let mut reader = Reader(body);
        if reader.int()? != 2 {
            return Some(Self::default());
        }
        let flags = reader.int()?;
        let columns = reader.len()?;
        if flags & 2 != 0 {
            reader.value()?;
        }
        let (is_named, is_global) = (flags & 4 == 0, flags & 1 != 0);
        if is_named && is_global {
            reader.text()?;
            reader.text()?;
        }
        let mut names = Vec::new();
        for _ in 0..if is_named { columns } else { 0 } {
            if !is_global {
                reader.text()?;
                reader.text()?;
            }
            names.push(reader.text()?);
            reader.skip_type(MAX_DEPTH)?;
        }
        let mut rows = Vec::new();
        for _ in 0..reader.len()? {
            rows.push((0..columns).map(|_| reader.value()).collect::<Option<_>>()?);
        }
        Some(Self { names, rows })
    }

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
        let mut reader = Reader(value);
        (0..reader.len()?).map(|_| reader.value()?).collect()
    }
}

/// Reads the protocol's notations.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }

    fn short(&mut self) -> Option<usize> {
        Some(usize::from(u16::from_be_bytes(self.take(2)?.try_into().ok()?)))
    }

    fn int(&mut self) -> Option<i32> {
        Some(i32::from_be_bytes(self.take(4)?.try_into().ok()?))
    }

    /// A number of things that each take some bytes: there are not more of them than bytes, but
    /// for rows without columns, of which there are none.
    fn len(&mut self) -> Option<usize> {
        let len = usize::try_from(self.int()?).ok()?;
        (len <= self.0.len()).then_some(len)
    }

    fn text(&mut self) -> Option<String> {
        let len = self.short()?;
        Some(String::from_utf8_lossy(self.take(len)?).into_owned())
    }

    fn value(&mut self) -> Option<Option<Vec<u8>>> {
        match usize::try_from(self.int()?) {
            Ok(len) => Some(Some(self.take(len)?.to_vec())),
            Err(_) => Some(None),
        }
    }

    fn skip_type(&mut self, depth: usize) -> Option<()> {
        let depth = depth.checked_sub(1)?;
        match self.short()? {
            0x00 => drop(self.text()?),
            0x20 | 0x22 => self.skip_type(depth)?,
            0x21 => {
                self.skip_type(depth)?;
                self.skip_type(depth)?;
            }
            0x30 => {
                self.text()?;
                self.text()?;
                for _ in 0..self.short()? {
                    self.text()?;
                    self.skip_type(depth)?;
                }
            }
            0x31 => {
                for _ in 0..self.short()? {
                    self.skip_type(depth)?;
                }
            }
            _ => {}
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(parts: &[&[u8]]) -> Vec<u8> {
        parts.concat()
    }

    #[test]
    fn rows_of_texts_and_sets_are_read() {
        let bytes = body(&[
            &[0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0, 2],
            &[0, 1, b'k', 0, 1, b't'],
            &[0, 1, b'a', 0, 0x0D],
            &[0, 1, b'b', 0, 0x22, 0, 0x0D],
            &[0, 0, 0, 1],
            &[0, 0, 0, 1, b'x'],
            &[0, 0, 0, 14, 0, 0, 0, 2, 0, 0, 0, 1, b'p', 0, 0, 0, 1, b'q'],
        ]);
        let rows = CqlRows::read(&bytes).unwrap();
        assert_eq!(rows.names, ["a", "b"]);
        assert_eq!(rows.first("a"), Some(&b"x"[..]));
        let set = CqlRows::elements(rows.first("b").unwrap()).unwrap();
        assert_eq!(set, [b"p".to_vec(), b"q".to_vec()]);
        for cut in 0..bytes.len() {
            let _ = CqlRows::read(&bytes[..cut]);
        }
    }

    #[test]
    fn what_is_no_rows_has_none_and_nonsense_is_nothing() {
        assert_eq!(CqlRows::read(&[0, 0, 0, 1]), Some(CqlRows::default()));
        assert_eq!(CqlRows::read(&[0, 0]), None);
        // So many columns as there cannot be.
        assert_eq!(CqlRows::read(&[0, 0, 0, 2, 0, 0, 0, 4, 0x7F, 0xFF, 0xFF, 0xFF]), None);
    }
}
