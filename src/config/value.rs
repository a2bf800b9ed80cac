//! How one setting is read from TOML or from the environment, and written as TOML.

use std::net::SocketAddr;
use std::path::PathBuf;

use toml::de::DeValue;

use super::{Durability, EngineKind, Founder};
use crate::telemetry::LogFormat;

/// A value before its type is known.
#[derive(Debug, Clone, PartialEq)]
pub enum Raw {
    /// From a file.
    Text(String),
    /// From a file.
    Integer(i64),
    /// From a file.
    Float(f64),
    /// From a file.
    Bool(bool),
    /// From a file: a list of strings.
    List(Vec<String>),
    /// From a file, of a type that no setting has.
    Other(&'static str),
    /// From the environment: text that may stand for any type.
    Untyped(String),
}

impl Raw {
    /// What `value` holds.
    pub fn of(value: &DeValue<'_>) -> Self {
        match value {
            DeValue::String(text) => Self::Text(text.to_string()),
            DeValue::Integer(number) => {
                match i64::from_str_radix(number.as_str(), number.radix()) {
                    Ok(number) => Self::Integer(number),
                    Err(_) => Self::Other("a number too large for 64 bits"),
                }
            }
            DeValue::Float(number) => {
                number.as_str().parse().map_or(Self::Other("no number"), Self::Float)
            }
            DeValue::Boolean(flag) => Self::Bool(*flag),
            DeValue::Array(items) => items
                .iter()
                .map(|item| item.get_ref().as_str().map(str::to_owned))
                .collect::<Option<_>>()
                .map_or(Self::Other("a list of something other than strings"), Self::List),
            DeValue::Datetime(_) => Self::Other("a date"),
            DeValue::Table(_) => Self::Other("a table"),
        }
    }

    fn named(&self) -> String {
        match self {
            Self::Text(text) | Self::Untyped(text) => format!("{text:?}"),
            Self::Integer(number) => number.to_string(),
            Self::Float(number) => number.to_string(),
            Self::Bool(flag) => flag.to_string(),
            Self::List(_) => "a list".to_owned(),
            Self::Other(what) => (*what).to_owned(),
        }
    }

    /// The text of a string setting.
    fn text(&self, expected: &str) -> Result<&str, String> {
        match self {
            Self::Text(text) | Self::Untyped(text) => Ok(text),
            _ => Err(self.not(expected)),
        }
    }

    fn not(&self, expected: &str) -> String {
        format!("expected {expected}, found {}", self.named())
    }
}

/// A type that a setting can have.
pub trait Setting: Sized {
    /// Reads a value; the error says what was expected.
    fn read(raw: &Raw) -> Result<Self, String>;
    /// The value as TOML.
    fn write(&self) -> String;
}

/// `text` as a TOML string.
fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

impl Setting for String {
    fn read(raw: &Raw) -> Result<Self, String> {
        raw.text("a string in quotes").map(str::to_owned)
    }

    fn write(&self) -> String {
        quoted(self)
    }
}

impl Setting for PathBuf {
    fn read(raw: &Raw) -> Result<Self, String> {
        match raw.text("a path in quotes")? {
            "" => Err("expected a path, found nothing".to_owned()),
            text => Ok(Self::from(text)),
        }
    }

    fn write(&self) -> String {
        quoted(&self.to_string_lossy())
    }
}

impl Setting for Option<String> {
    fn read(raw: &Raw) -> Result<Self, String> {
        let text = raw.text("a string in quotes")?;
        Ok((!text.is_empty()).then(|| text.to_owned()))
    }

    fn write(&self) -> String {
        quoted(self.as_deref().unwrap_or_default())
    }
}

impl Setting for bool {
    fn read(raw: &Raw) -> Result<Self, String> {
        match raw {
            Raw::Bool(flag) => Ok(*flag),
            Raw::Untyped(text) => text.parse().map_err(|_| raw.not("true or false")),
            _ => Err(raw.not("true or false")),
        }
    }

    fn write(&self) -> String {
        self.to_string()
    }
}

fn integer(raw: &Raw) -> Result<u64, String> {
    const EXPECTED: &str = "a whole number, zero or more";
    match raw {
        Raw::Integer(number) => u64::try_from(*number).map_err(|_| raw.not(EXPECTED)),
        Raw::Untyped(text) => text.replace('_', "").parse().map_err(|_| raw.not(EXPECTED)),
        _ => Err(raw.not(EXPECTED)),
    }
}

macro_rules! integer_setting {
    ($($type:ty),*) => {$(
        impl Setting for $type {
            fn read(raw: &Raw) -> Result<Self, String> {
                Self::try_from(integer(raw)?).map_err(|_| format!("{} is too large", raw.named()))
            }

            fn write(&self) -> String {
                self.to_string()
            }
        }
    )*};
}

integer_setting!(u32, u64, usize);

impl Setting for f64 {
    fn read(raw: &Raw) -> Result<Self, String> {
        match raw {
            Raw::Float(number) => Ok(*number),
            #[expect(clippy::cast_precision_loss, reason = "settings are small numbers")]
            Raw::Integer(number) => Ok(*number as Self),
            Raw::Untyped(text) => text.parse().map_err(|_| raw.not("a number")),
            _ => Err(raw.not("a number")),
        }
    }

    fn write(&self) -> String {
        format!("{self:?}")
    }
}

impl Setting for SocketAddr {
    fn read(raw: &Raw) -> Result<Self, String> {
        const EXPECTED: &str = "an IP address and port such as \"127.0.0.1:8098\"";
        raw.text(EXPECTED)?.parse().map_err(|_| raw.not(EXPECTED))
    }

    fn write(&self) -> String {
        quoted(&self.to_string())
    }
}

impl Setting for Vec<Founder> {
    fn read(raw: &Raw) -> Result<Self, String> {
        let items = match raw {
            Raw::List(items) => items.clone(),
            Raw::Untyped(text) => text
                .split(',')
                .map(|item| item.trim().to_owned())
                .filter(|item| !item.is_empty())
                .collect(),
            _ => return Err(raw.not("a list such as [\"n1=127.0.0.1:7000\"]")),
        };
        items.iter().map(|item| founder(item)).collect()
    }

    fn write(&self) -> String {
        let items: Vec<_> = self.iter().map(|founder| quoted(&founder.to_string())).collect();
        format!("[{}]", items.join(", "))
    }
}

/// Reads `name=host:port`.
fn founder(text: &str) -> Result<Founder, String> {
    let bad = || format!("founder {text:?} is not of the form \"name=host:port\"");
    let (name, address) = text.split_once('=').ok_or_else(bad)?;
    let (name, address) = (name.trim(), address.trim());
    if name.is_empty() {
        return Err(bad());
    }
    host_and_port(address).map_err(|why| format!("founder {text:?}: {why}"))?;
    Ok(Founder { name: name.to_owned(), address: address.to_owned() })
}

/// Checks that `address` is `host:port` with a port that can be dialled.
pub fn host_and_port(address: &str) -> Result<(), String> {
    let split = address.rsplit_once(':').filter(|(host, _)| !host.is_empty());
    match split.and_then(|(_, port)| port.parse::<u16>().ok()) {
        Some(port) if port > 0 => Ok(()),
        _ => Err(format!("{address:?} is not of the form \"host:port\"")),
    }
}

macro_rules! choice_setting {
    ($type:ident { $($text:literal => $variant:ident),* $(,)? }) => {
        impl Setting for $type {
            fn read(raw: &Raw) -> Result<Self, String> {
                let allowed = [$($text),*];
                match raw.text("a string in quotes")? {
                    $($text => Ok(Self::$variant),)*
                    other => Err(format!(
                        "{other:?} is not one of {}{}",
                        allowed.map(|text| format!("{text:?}")).join(", "),
                        super::load::did_you_mean(other, allowed),
                    )),
                }
            }

            fn write(&self) -> String {
                quoted(match self {
                    $(Self::$variant => $text,)*
                })
            }
        }
    };
}

choice_setting!(EngineKind { "sled" => Sled, "fjall" => Fjall, "memory" => Memory });
choice_setting!(Durability { "group" => Group, "periodic" => Periodic });
choice_setting!(LogFormat { "text" => Text, "json" => Json });
