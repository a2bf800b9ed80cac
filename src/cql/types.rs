//! CQL's types.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// A type of a column, a bind marker or a result.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the names are CQL's own")]
pub enum CqlType {
    Ascii,
    Bigint,
    Blob,
    Boolean,
    Counter,
    Date,
    Decimal,
    Double,
    Duration,
    Float,
    Inet,
    Int,
    Smallint,
    Text,
    Time,
    Timestamp,
    Timeuuid,
    Tinyint,
    Uuid,
    Varint,
    List(Box<CqlType>),
    Set(Box<CqlType>),
    Map(Box<CqlType>, Box<CqlType>),
    /// Always frozen.
    Tuple(Vec<CqlType>),
    /// Always frozen.
    Vector(Box<CqlType>, u16),
    Udt(Arc<UdtType>),
    /// A collection or user type that is written and read as one value.
    Frozen(Box<CqlType>),
}

/// A user-defined type, as it is at one version of the schema.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct UdtType {
    /// Its keyspace.
    pub keyspace: String,
    /// Its name.
    pub name: String,
    /// Its fields, in order.
    pub fields: Vec<(String, CqlType)>,
}

/// The simple types, by name.
const NATIVE: &[(&str, CqlType)] = &[
    ("ascii", CqlType::Ascii),
    ("bigint", CqlType::Bigint),
    ("blob", CqlType::Blob),
    ("boolean", CqlType::Boolean),
    ("counter", CqlType::Counter),
    ("date", CqlType::Date),
    ("decimal", CqlType::Decimal),
    ("double", CqlType::Double),
    ("duration", CqlType::Duration),
    ("float", CqlType::Float),
    ("inet", CqlType::Inet),
    ("int", CqlType::Int),
    ("smallint", CqlType::Smallint),
    ("text", CqlType::Text),
    ("time", CqlType::Time),
    ("timestamp", CqlType::Timestamp),
    ("timeuuid", CqlType::Timeuuid),
    ("tinyint", CqlType::Tinyint),
    ("uuid", CqlType::Uuid),
    ("varchar", CqlType::Text),
    ("varint", CqlType::Varint),
];

impl CqlType {
    /// The simple type called `name`.
    #[must_use]
    pub fn native(name: &str) -> Option<Self> {
        NATIVE.iter().find(|(known, _)| *known == name).map(|(_, kind)| kind.clone())
    }

    /// This type as one value: with [`CqlType::Frozen`] around it where that makes a difference.
    #[must_use]
    pub fn frozen(self) -> Self {
        if self.is_multicell() { Self::Frozen(Box::new(self)) } else { self }
    }

    /// The type without [`CqlType::Frozen`] around it.
    #[must_use]
    pub fn thawed(&self) -> &Self {
        match self {
            Self::Frozen(inner) => inner.thawed(),
            other => other,
        }
    }

    /// True of a collection or user type whose elements are cells of their own.
    #[must_use]
    pub fn is_multicell(&self) -> bool {
        matches!(self, Self::List(_) | Self::Set(_) | Self::Map(..) | Self::Udt(_))
    }

    /// True of a list, set or map, frozen or not.
    #[must_use]
    pub fn is_collection(&self) -> bool {
        matches!(self.thawed(), Self::List(_) | Self::Set(_) | Self::Map(..))
    }

    /// True of a type that may not be part of a key: it has no order, or parts of its own.
    #[must_use]
    pub fn is_keyable(&self) -> bool {
        match self {
            Self::Duration | Self::Counter => false,
            Self::Frozen(inner) => inner.parts().iter().all(|part| part.frozen_keyable()),
            Self::Tuple(parts) => parts.iter().all(Self::frozen_keyable),
            Self::Vector(inner, _) => inner.frozen_keyable(),
            other => !other.is_multicell(),
        }
    }

    fn frozen_keyable(&self) -> bool {
        !matches!(self.thawed(), Self::Duration | Self::Counter)
            && self.parts().iter().all(|part| part.frozen_keyable())
    }

    /// The types directly inside this one.
    #[must_use]
    pub fn parts(&self) -> Vec<&Self> {
        match self {
            Self::List(inner) | Self::Set(inner) | Self::Vector(inner, _) | Self::Frozen(inner) => {
                vec![inner]
            }
            Self::Map(key, value) => vec![key, value],
            Self::Tuple(parts) => parts.iter().collect(),
            Self::Udt(udt) => udt.fields.iter().map(|(_, kind)| kind).collect(),
            _ => Vec::new(),
        }
    }

    /// True when this type is, or holds, the user type `keyspace.name`.
    #[must_use]
    pub fn mentions(&self, keyspace: &str, name: &str) -> bool {
        if let Self::Udt(udt) = self
            && udt.keyspace == keyspace
            && udt.name == name
        {
            return true;
        }
        self.parts().iter().any(|part| part.mentions(keyspace, name))
    }

    /// This type with every mention of `new`'s user type brought to that version.
    #[must_use]
    pub fn with_udt(&self, new: &Arc<UdtType>) -> Self {
        let renew = |kind: &Self| Box::new(kind.with_udt(new));
        match self {
            Self::List(inner) => Self::List(renew(inner)),
            Self::Set(inner) => Self::Set(renew(inner)),
            Self::Vector(inner, len) => Self::Vector(renew(inner), *len),
            Self::Frozen(inner) => Self::Frozen(renew(inner)),
            Self::Map(key, value) => Self::Map(renew(key), renew(value)),
            Self::Tuple(parts) => Self::Tuple(parts.iter().map(|p| p.with_udt(new)).collect()),
            Self::Udt(udt) if udt.keyspace == new.keyspace && udt.name == new.name => {
                Self::Udt(new.clone())
            }
            Self::Udt(udt) => {
                let fields =
                    udt.fields.iter().map(|(name, kind)| (name.clone(), kind.with_udt(new)));
                Self::Udt(Arc::new(UdtType { fields: fields.collect(), ..(**udt).clone() }))
            }
            other => other.clone(),
        }
    }

    /// How deep types are nested in this one; 1 for a simple type.
    #[must_use]
    pub fn depth(&self) -> usize {
        1 + self.parts().iter().map(|part| part.depth()).max().unwrap_or(0)
    }
}

/// An identifier as CQL text: quoted only where it must be.
#[must_use]
pub fn quote(name: &str) -> String {
    let mut bytes = name.bytes();
    let plain = bytes.next().is_some_and(|first| first.is_ascii_lowercase())
        && bytes.all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_');
    if plain && !super::parser::is_reserved(name) {
        name.to_owned()
    } else {
        format!("\"{}\"", name.replace('"', "\"\""))
    }
}

impl fmt::Display for CqlType {
    /// As `system_schema.columns.type` has it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::List(inner) => write!(f, "list<{inner}>"),
            Self::Set(inner) => write!(f, "set<{inner}>"),
            Self::Map(key, value) => write!(f, "map<{key}, {value}>"),
            Self::Vector(inner, len) => write!(f, "vector<{inner}, {len}>"),
            Self::Frozen(inner) => write!(f, "frozen<{inner}>"),
            Self::Udt(udt) => f.write_str(&quote(&udt.name)),
            Self::Tuple(parts) => {
                let parts: Vec<String> = parts.iter().map(ToString::to_string).collect();
                write!(f, "frozen<tuple<{}>>", parts.join(", "))
            }
            native => {
                let name = NATIVE.iter().find(|(_, kind)| kind == native).map(|(name, _)| *name);
                f.write_str(name.unwrap_or("custom"))
            }
        }
    }
}

/// A type as it is written, before user types are looked up.
#[derive(Clone, PartialEq, Eq, Debug)]
#[allow(missing_docs, reason = "the names are CQL's own")]
pub enum RawType {
    Native(CqlType),
    List(Box<RawType>),
    Set(Box<RawType>),
    Map(Box<RawType>, Box<RawType>),
    Tuple(Vec<RawType>),
    Vector(Box<RawType>, u16),
    Frozen(Box<RawType>),
    /// A user type, with its keyspace if that was written.
    Named(Option<String>, String),
}

/// Finds a user type by (keyspace if one was written, name).
pub type FindUdt<'a> = &'a dyn Fn(Option<&str>, &str) -> Option<Arc<UdtType>>;

impl RawType {
    /// The type meant, where `udt` finds user types by (keyspace, name).
    ///
    /// # Errors
    /// A sentence for the client.
    pub fn resolve(&self, udt: FindUdt<'_>) -> Result<CqlType, String> {
        let inside = |raw: &Self| {
            let kind = raw.resolve(udt)?;
            match kind {
                // Inside a collection everything is one value.
                kind if kind.is_multicell() => Err(format!(
                    "Non-frozen collections are not allowed inside collections: write frozen<{kind}>"
                )),
                CqlType::Counter => Err("Counters are not allowed inside collections".to_owned()),
                kind => Ok(Box::new(kind)),
            }
        };
        Ok(match self {
            Self::Native(kind) => kind.clone(),
            Self::List(inner) => CqlType::List(inside(inner)?),
            Self::Set(inner) => CqlType::Set(inside(inner)?),
            Self::Map(key, value) => CqlType::Map(inside(key)?, inside(value)?),
            Self::Vector(inner, len) => {
                CqlType::Vector(Box::new(inner.resolve(udt)?.frozen()), *len)
            }
            Self::Tuple(parts) => {
                let parts: Result<_, String> =
                    parts.iter().map(|part| part.resolve(udt).map(CqlType::frozen)).collect();
                CqlType::Tuple(parts?)
            }
            // Everything inside something frozen is frozen.
            Self::Frozen(inner) if matches!(**inner, Self::Native(_)) => {
                return Err(format!(
                    "frozen<> is only allowed on collections, tuples, and user-defined types (got \
                     {inner})"
                ));
            }
            Self::Frozen(inner) => inner.thaw_inside().resolve(udt)?.frozen(),
            Self::Named(keyspace, name) => match udt(keyspace.as_deref(), name) {
                Some(udt) => CqlType::Udt(udt),
                None => return Err(format!("Unknown type {name}")),
            },
        })
    }

    /// This type with `frozen` written around each part of it.
    fn thaw_inside(&self) -> Self {
        let freeze = |raw: &Self| match raw {
            Self::Native(_) | Self::Frozen(_) => Box::new(raw.clone()),
            other => Box::new(Self::Frozen(Box::new(other.clone()))),
        };
        match self {
            Self::List(inner) => Self::List(freeze(inner)),
            Self::Set(inner) => Self::Set(freeze(inner)),
            Self::Map(key, value) => Self::Map(freeze(key), freeze(value)),
            other => other.clone(),
        }
    }
}

impl fmt::Display for RawType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Native(kind) => write!(f, "{kind}"),
            Self::List(inner) => write!(f, "list<{inner}>"),
            Self::Set(inner) => write!(f, "set<{inner}>"),
            Self::Map(key, value) => write!(f, "map<{key}, {value}>"),
            Self::Vector(inner, len) => write!(f, "vector<{inner}, {len}>"),
            Self::Frozen(inner) => write!(f, "frozen<{inner}>"),
            Self::Named(Some(keyspace), name) => write!(f, "{}.{}", quote(keyspace), quote(name)),
            Self::Named(None, name) => f.write_str(&quote(name)),
            Self::Tuple(parts) => {
                let parts: Vec<String> = parts.iter().map(ToString::to_string).collect();
                write!(f, "tuple<{}>", parts.join(", "))
            }
        }
    }
}
