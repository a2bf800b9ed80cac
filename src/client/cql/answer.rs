//! Answers of the CQL door, read from their bytes. Lengths in them are checked against what is
//! there before anything is kept.

use std::sync::Arc;

use super::{PAYLOAD, RECEIPT};
use crate::cql::types::{CqlType, UdtType};

/// A column of a result, or a bind marker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CqlColumn {
    /// Its name.
    pub name: String,
    /// Its type.
    pub kind: CqlType,
}

/// A row: a value or null for each column.
pub type CqlRow = Vec<Option<Vec<u8>>>;

/// A page of rows.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CqlPage {
    /// The table's keyspace; empty if there is no table.
    pub keyspace: String,
    /// The table.
    pub table: String,
    /// The columns.
    pub columns: Vec<CqlColumn>,
    /// The rows.
    pub rows: Vec<CqlRow>,
    /// Where the next page begins; `None`: that was all.
    pub paging_state: Option<Vec<u8>>,
}

/// A prepared statement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CqlPrepared {
    /// Its id.
    pub id: Vec<u8>,
    /// Its bind markers.
    pub binds: Vec<CqlColumn>,
}

/// What a statement has come to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CqlAnswer {
    /// Done; there is nothing to show.
    Done,
    /// Rows.
    Page(CqlPage),
    /// This keyspace is in use now.
    Keyspace(String),
    /// It is prepared.
    Prepared(CqlPrepared),
    /// The schema has changed.
    SchemaChange,
}

/// An answer with what came before it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CqlReply {
    /// The answer.
    pub answer: CqlAnswer,
    /// What the server warns of.
    pub warnings: Vec<String>,
    /// The id of the trace that was asked for.
    pub trace: Option<Vec<u8>>,
    /// The receipts that were asked for: a JSON array of what the HTTP door has in `Henge-Receipt`.
    pub receipts: Option<Vec<u8>>,
}

/// How deep types in an answer may be nested.
const MAX_DEPTH: usize = 40;

const FLAG_TRACING: u8 = 0x02;
const FLAG_WARNINGS: u8 = 0x08;

const GLOBAL_TABLE: i32 = 1;
const MORE_PAGES: i32 = 2;
const NO_METADATA: i32 = 4;

/// Bytes that are read from the front. Every method is `None` when there are too few.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (head, tail) = self.0.split_at_checked(len)?;
        self.0 = tail;
        Some(head)
    }

    fn short(&mut self) -> Option<u16> {
        Some(u16::from_be_bytes(self.take(2)?.try_into().ok()?))
    }

    fn int(&mut self) -> Option<i32> {
        Some(i32::from_be_bytes(self.take(4)?.try_into().ok()?))
    }

    fn count(&mut self) -> Option<usize> {
        usize::try_from(self.int()?).ok()
    }

    fn string(&mut self) -> Option<String> {
        let len = usize::from(self.short()?);
        Some(String::from_utf8_lossy(self.take(len)?).into_owned())
    }

    fn short_bytes(&mut self) -> Option<&'a [u8]> {
        let len = usize::from(self.short()?);
        self.take(len)
    }

    /// `[bytes]`: a negative length is null.
    fn bytes(&mut self) -> Option<Option<&'a [u8]>> {
        let len = self.int()?;
        match usize::try_from(len) {
            Ok(len) => self.take(len).map(Some),
            Err(_) => Some(None),
        }
    }

    fn kind(&mut self, depth: usize) -> Option<CqlType> {
        if depth > MAX_DEPTH {
            return None;
        }
        let code = self.short()?;
        let inner = |reader: &mut Self| reader.kind(depth + 1).map(Box::new);
        Some(match code {
            0x00 => custom(&self.string()?),
            0x01 => CqlType::Ascii,
            0x02 => CqlType::Bigint,
            0x03 => CqlType::Blob,
            0x04 => CqlType::Boolean,
            0x05 => CqlType::Counter,
            0x06 => CqlType::Decimal,
            0x07 => CqlType::Double,
            0x08 => CqlType::Float,
            0x09 => CqlType::Int,
            0x0A | 0x0D => CqlType::Text,
            0x0B => CqlType::Timestamp,
            0x0C => CqlType::Uuid,
            0x0E => CqlType::Varint,
            0x0F => CqlType::Timeuuid,
            0x10 => CqlType::Inet,
            0x11 => CqlType::Date,
            0x12 => CqlType::Time,
            0x13 => CqlType::Smallint,
            0x14 => CqlType::Tinyint,
            0x15 => CqlType::Duration,
            0x20 => CqlType::List(inner(self)?),
            0x21 => CqlType::Map(inner(self)?, inner(self)?),
            0x22 => CqlType::Set(inner(self)?),
            0x30 => {
                let (keyspace, name) = (self.string()?, self.string()?);
                let mut fields = Vec::new();
                for _ in 0..self.short()? {
                    fields.push((self.string()?, self.kind(depth + 1)?));
                }
                CqlType::Udt(Arc::new(UdtType { keyspace, name, fields }))
            }
            0x31 => {
                let mut parts = Vec::new();
                for _ in 0..self.short()? {
                    parts.push(self.kind(depth + 1)?);
                }
                CqlType::Tuple(parts)
            }
            _ => return None,
        })
    }

    fn columns(&mut self, count: usize, global: bool) -> Option<(String, String, Vec<CqlColumn>)> {
        let mut names = (String::new(), String::new());
        if global {
            names = (self.string()?, self.string()?);
        }
        let mut columns = Vec::new();
        for _ in 0..count {
            if !global {
                names = (self.string()?, self.string()?);
            }
            columns.push(CqlColumn { name: self.string()?, kind: self.kind(0)? });
        }
        Some((names.0, names.1, columns))
    }

    fn page(&mut self) -> Option<CqlPage> {
        let flags = self.int()?;
        let count = self.count()?;
        let mut page = CqlPage::default();
        if flags & MORE_PAGES != 0 {
            page.paging_state = self.bytes()?.map(<[u8]>::to_vec);
        }
        if flags & NO_METADATA == 0 {
            (page.keyspace, page.table, page.columns) =
                self.columns(count, flags & GLOBAL_TABLE != 0)?;
        }
        for _ in 0..self.count()? {
            // A row of no columns would take no bytes, and there could be any number of them.
            if count == 0 {
                return None;
            }
            let mut row = Vec::new();
            for _ in 0..count {
                row.push(self.bytes()?.map(<[u8]>::to_vec));
            }
            page.rows.push(row);
        }
        Some(page)
    }

    fn prepared(&mut self) -> Option<CqlPrepared> {
        let id = self.short_bytes()?.to_vec();
        let flags = self.int()?;
        let count = self.count()?;
        for _ in 0..self.count()? {
            self.short()?;
        }
        let (_, _, binds) = self.columns(count, count > 0 && flags & GLOBAL_TABLE != 0)?;
        Some(CqlPrepared { id, binds })
    }

    fn answer(&mut self) -> Option<CqlAnswer> {
        Some(match self.int()? {
            1 => CqlAnswer::Done,
            2 => CqlAnswer::Page(self.page()?),
            3 => CqlAnswer::Keyspace(self.string()?),
            4 => CqlAnswer::Prepared(self.prepared()?),
            5 => CqlAnswer::SchemaChange,
            _ => return None,
        })
    }
}

/// A type that goes by the name of its class: vectors of numbers; any other is shown as bytes.
fn custom(class: &str) -> CqlType {
    let inner = || {
        let inside = class.strip_suffix(')')?.split_once("VectorType(")?.1;
        let (inner, len) = inside.rsplit_once(',')?;
        let short = inner.trim().rsplit('.').next()?.strip_suffix("Type")?;
        let native = match short {
            "Int32" => "int",
            "Long" => "bigint",
            "UTF8" => "text",
            "Integer" => "varint",
            other => &other.to_ascii_lowercase(),
        };
        let len = len.trim().parse().ok()?;
        Some(CqlType::Vector(Box::new(CqlType::native(native)?), len))
    };
    inner().unwrap_or(CqlType::Blob)
}

/// Reads a RESULT with the flags of its frame.
pub(super) fn read(flags: u8, body: &[u8]) -> Option<CqlReply> {
    let Before { trace, warnings, receipts, rest } = before(flags, body)?;
    let answer = Reader(rest).answer()?;
    Some(CqlReply { answer, warnings, trace, receipts })
}

/// Reads an ERROR with the flags of its frame: its code and what it says.
pub(super) fn error(flags: u8, body: &[u8]) -> Option<(i32, String)> {
    let mut reader = Reader(before(flags, body)?.rest);
    Some((reader.int()?, reader.string()?))
}

/// What stands before a message, and the message.
struct Before<'a> {
    trace: Option<Vec<u8>>,
    warnings: Vec<String>,
    receipts: Option<Vec<u8>>,
    rest: &'a [u8],
}

fn before(flags: u8, body: &[u8]) -> Option<Before<'_>> {
    let mut reader = Reader(body);
    let mut trace = None;
    if flags & FLAG_TRACING != 0 {
        trace = Some(reader.take(16)?.to_vec());
    }
    let mut warnings = Vec::new();
    if flags & FLAG_WARNINGS != 0 {
        for _ in 0..reader.short()? {
            warnings.push(reader.string()?);
        }
    }
    let mut receipts = None;
    if flags & PAYLOAD != 0 {
        for _ in 0..reader.short()? {
            let (name, value) = (reader.string()?, reader.bytes()?);
            if name == RECEIPT {
                receipts = value.map(<[u8]>::to_vec);
            }
        }
    }
    Some(Before { trace, warnings, receipts, rest: reader.0 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_bytes_are_too_odd_to_be_refused() {
        let mut state = 1u64;
        for _ in 0..20_000 {
            let mut body = Vec::new();
            for _ in 0..state % 60 {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                body.push(((state >> 33) % 40) as u8);
            }
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(7);
            for kind in 1..=5 {
                let mut whole = vec![0, 0, 0, kind];
                whole.extend_from_slice(&body);
                let _ = read(0x0E, &whole);
                let _ = read(0, &whole);
            }
        }
        // Rows without columns: two thousand million of them.
        let endless = [0, 0, 0, 2, 0, 0, 0, 4, 0, 0, 0, 0, 0x7F, 0xFF, 0xFF, 0xFF];
        assert_eq!(read(0, &endless), None);
    }

    #[test]
    fn vectors_are_known_by_their_class() {
        let class = "org.apache.cassandra.db.marshal.VectorType(\
                     org.apache.cassandra.db.marshal.FloatType , 3)";
        assert_eq!(custom(class), CqlType::Vector(Box::new(CqlType::Float), 3));
        assert_eq!(custom("org.example.Odd"), CqlType::Blob);
    }
}
