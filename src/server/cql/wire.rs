//! The protocol's notations: `[short]`, `[string]` and so on.

use std::collections::BTreeMap;

use crate::cql::types::CqlType;
use crate::cql::value::Cursor;

/// A body that is cut short, or says what cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(super) struct BadBody(pub(super) String);

fn short() -> BadBody {
    BadBody("the body is cut short".to_owned())
}

/// Reads a body.
pub(super) struct Reader<'a>(Cursor<'a>);

pub(super) type Read<T> = Result<T, BadBody>;

impl<'a> Reader<'a> {
    pub(super) fn new(body: &'a [u8]) -> Self {
        Self(Cursor::new(body))
    }

    fn take(&mut self, len: usize) -> Read<&'a [u8]> {
        self.0.take(len).ok_or_else(short)
    }

    fn array<const N: usize>(&mut self) -> Read<[u8; N]> {
        self.take(N)?.try_into().map_err(|_| short())
    }

    pub(super) fn byte(&mut self) -> Read<u8> {
        Ok(self.array::<1>()?[0])
    }

    pub(super) fn short(&mut self) -> Read<u16> {
        Ok(u16::from_be_bytes(self.array()?))
    }

    pub(super) fn int(&mut self) -> Read<i32> {
        Ok(i32::from_be_bytes(self.array()?))
    }

    pub(super) fn long(&mut self) -> Read<i64> {
        Ok(i64::from_be_bytes(self.array()?))
    }

    fn text(&mut self, len: usize) -> Read<String> {
        let text = std::str::from_utf8(self.take(len)?);
        text.map(str::to_owned).map_err(|_| BadBody("a string that is not UTF-8".to_owned()))
    }

    pub(super) fn string(&mut self) -> Read<String> {
        let len = usize::from(self.short()?);
        self.text(len)
    }

    pub(super) fn long_string(&mut self) -> Read<String> {
        let len =
            usize::try_from(self.int()?).map_err(|_| BadBody("a negative length".to_owned()))?;
        self.text(len)
    }

    pub(super) fn short_bytes(&mut self) -> Read<&'a [u8]> {
        let len = usize::from(self.short()?);
        self.take(len)
    }

    /// `[bytes]`; null is `None`.
    pub(super) fn bytes(&mut self) -> Read<Option<&'a [u8]>> {
        match usize::try_from(self.int()?) {
            Ok(len) => self.take(len).map(Some),
            Err(_) => Ok(None),
        }
    }

    /// `[value]`: bytes, null (−1) or unset (−2).
    pub(super) fn value(&mut self) -> Read<Value> {
        match self.int()? {
            -1 => Ok(Value::Null),
            -2 => Ok(Value::Unset),
            len => match usize::try_from(len) {
                Ok(len) => Ok(Value::Bytes(self.take(len)?.to_vec())),
                Err(_) => Err(BadBody(format!("Invalid ByteBuf length {len}"))),
            },
        }
    }

    pub(super) fn string_map(&mut self) -> Read<BTreeMap<String, String>> {
        (0..self.short()?).map(|_| Ok((self.string()?, self.string()?))).collect()
    }

    pub(super) fn string_list(&mut self) -> Read<Vec<String>> {
        (0..self.short()?).map(|_| self.string()).collect()
    }

    /// Passes over a custom payload.
    pub(super) fn skip_bytes_map(&mut self) -> Read<()> {
        for _ in 0..self.short()? {
            self.string()?;
            self.bytes()?;
        }
        Ok(())
    }
}

/// A bound value as it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Value {
    Bytes(Vec<u8>),
    Null,
    Unset,
}

/// Writes a body.
#[derive(Debug, Default)]
pub(super) struct Writer(pub(super) Vec<u8>);

impl Writer {
    pub(super) fn byte(&mut self, byte: u8) {
        self.0.push(byte);
    }

    pub(super) fn short(&mut self, n: usize) {
        self.0.extend_from_slice(&u16::try_from(n).unwrap_or(u16::MAX).to_be_bytes());
    }

    pub(super) fn int(&mut self, n: i64) {
        let n = i32::try_from(n).unwrap_or(if n < 0 { i32::MIN } else { i32::MAX });
        self.0.extend_from_slice(&n.to_be_bytes());
    }

    /// A string of at most 65,535 bytes: a longer one is cut at a character.
    pub(super) fn string(&mut self, text: &str) {
        let end = (0..=text.len().min(usize::from(u16::MAX)))
            .rev()
            .find(|at| text.is_char_boundary(*at))
            .unwrap_or(0);
        self.short(end);
        self.0.extend_from_slice(&text.as_bytes()[..end]);
    }

    pub(super) fn string_list<T: AsRef<str>>(&mut self, list: &[T]) {
        self.short(list.len());
        list.iter().for_each(|text| self.string(text.as_ref()));
    }

    pub(super) fn short_bytes(&mut self, bytes: &[u8]) {
        self.short(bytes.len());
        self.0.extend_from_slice(bytes);
    }

    pub(super) fn bytes(&mut self, bytes: Option<&[u8]>) {
        crate::cql::value::put_field(&mut self.0, bytes);
    }

    /// `[option]`: a type.
    pub(super) fn kind(&mut self, kind: &CqlType) {
        let thawed = kind.thawed();
        let id = match thawed {
            CqlType::Ascii => 0x01,
            CqlType::Bigint => 0x02,
            CqlType::Blob => 0x03,
            CqlType::Boolean => 0x04,
            CqlType::Counter => 0x05,
            CqlType::Decimal => 0x06,
            CqlType::Double => 0x07,
            CqlType::Float => 0x08,
            CqlType::Int => 0x09,
            CqlType::Timestamp => 0x0B,
            CqlType::Uuid => 0x0C,
            CqlType::Text => 0x0D,
            CqlType::Varint => 0x0E,
            CqlType::Timeuuid => 0x0F,
            CqlType::Inet => 0x10,
            CqlType::Date => 0x11,
            CqlType::Time => 0x12,
            CqlType::Smallint => 0x13,
            CqlType::Tinyint => 0x14,
            CqlType::Duration => 0x15,
            CqlType::List(_) => 0x20,
            CqlType::Map(..) => 0x21,
            CqlType::Set(_) => 0x22,
            CqlType::Udt(_) => 0x30,
            CqlType::Tuple(_) => 0x31,
            CqlType::Vector(..) | CqlType::Frozen(_) => 0x00,
        };
        self.short(id);
        match thawed {
            CqlType::List(inner) | CqlType::Set(inner) => self.kind(inner),
            CqlType::Map(key, value) => {
                self.kind(key);
                self.kind(value);
            }
            CqlType::Tuple(parts) => {
                self.short(parts.len());
                parts.iter().for_each(|part| self.kind(part));
            }
            CqlType::Udt(udt) => {
                self.string(&udt.keyspace);
                self.string(&udt.name);
                self.short(udt.fields.len());
                for (name, kind) in &udt.fields {
                    self.string(name);
                    self.kind(kind);
                }
            }
            CqlType::Vector(..) => self.string(&class_of(thawed)),
            _ => {}
        }
    }
}

/// A type's name in Cassandra's own classes, which is how a vector is announced.
fn class_of(kind: &CqlType) -> String {
    let class = |name: &str| format!("org.apache.cassandra.db.marshal.{name}");
    let join =
        |parts: &[&CqlType]| parts.iter().map(|part| class_of(part)).collect::<Vec<_>>().join(",");
    match kind {
        CqlType::Ascii => class("AsciiType"),
        CqlType::Bigint => class("LongType"),
        CqlType::Blob => class("BytesType"),
        CqlType::Boolean => class("BooleanType"),
        CqlType::Counter => class("CounterColumnType"),
        CqlType::Date => class("SimpleDateType"),
        CqlType::Decimal => class("DecimalType"),
        CqlType::Double => class("DoubleType"),
        CqlType::Duration => class("DurationType"),
        CqlType::Float => class("FloatType"),
        CqlType::Inet => class("InetAddressType"),
        CqlType::Int => class("Int32Type"),
        CqlType::Smallint => class("ShortType"),
        CqlType::Text => class("UTF8Type"),
        CqlType::Time => class("TimeType"),
        CqlType::Timestamp => class("TimestampType"),
        CqlType::Timeuuid => class("TimeUUIDType"),
        CqlType::Tinyint => class("ByteType"),
        CqlType::Uuid => class("UUIDType"),
        CqlType::Varint => class("IntegerType"),
        CqlType::List(_) => format!("{}({})", class("ListType"), join(&kind.parts())),
        CqlType::Set(_) => format!("{}({})", class("SetType"), join(&kind.parts())),
        CqlType::Map(..) => format!("{}({})", class("MapType"), join(&kind.parts())),
        CqlType::Tuple(_) => format!("{}({})", class("TupleType"), join(&kind.parts())),
        CqlType::Frozen(inner) => format!("{}({})", class("FrozenType"), class_of(inner)),
        CqlType::Vector(inner, len) => {
            format!("{}({} , {len})", class("VectorType"), class_of(inner))
        }
        CqlType::Udt(udt) => class(&format!("UserType({},{})", udt.keyspace, udt.name)),
    }
}
