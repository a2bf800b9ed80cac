//! A role's name and password, as each door wants them.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hyper::header::HeaderValue;

use crate::cql::roles::Secret;

/// Who a client is. `Debug` does not show the password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credentials {
    name: String,
    password: Secret,
}

impl Credentials {
    /// The role `name` with its password.
    #[must_use]
    pub fn new(name: impl Into<String>, password: impl Into<String>) -> Self {
        Self { name: name.into(), password: Secret(password.into()) }
    }

    /// The role's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The value of an `Authorization` header (RFC 7617).
    #[must_use]
    pub fn basic(&self) -> String {
        format!("Basic {}", STANDARD.encode(format!("{}:{}", self.name, self.password.0)))
    }

    /// The same, as a header that no log shows.
    pub(super) fn header(&self) -> Option<HeaderValue> {
        let mut value = HeaderValue::from_str(&self.basic()).ok()?;
        value.set_sensitive(true);
        Some(value)
    }

    /// A token of SASL's PLAIN (RFC 4616).
    pub(super) fn plain(&self) -> Vec<u8> {
        format!("\0{}\0{}", self.name, self.password.0).into_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_door_is_told_in_its_own_way() {
        let eve = Credentials::new("Aladdin", "open sesame");
        assert_eq!(eve.basic(), "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==");
        assert_eq!(eve.plain(), b"\0Aladdin\0open sesame");
        assert!(!format!("{eve:?} {:?}", eve.header()).contains("sesame"));
    }
}
