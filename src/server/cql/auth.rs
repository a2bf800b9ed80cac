//! How a client of this door says who it is.

/// The class that every driver answers with a name and a password.
pub(super) const PASSWORD: &str = "org.apache.cassandra.auth.PasswordAuthenticator";

/// Name and password of a token of SASL's PLAIN (RFC 4616): `[authzid] NUL name NUL password`.
pub(super) fn plain(token: &[u8]) -> Option<(&str, &str)> {
    let mut parts = token.split(|byte| *byte == 0);
    let (_acting_for, name, password) = (parts.next()?, parts.next()?, parts.next()?);
    if parts.next().is_some() || name.is_empty() {
        return None;
    }
    Some((std::str::from_utf8(name).ok()?, std::str::from_utf8(password).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_a_name_and_a_password() {
        assert_eq!(plain(b"\0cassandra\0secret"), Some(("cassandra", "secret")));
        assert_eq!(plain(b"other\0a\0"), Some(("a", "")));
        for bad in [&b""[..], b"a", b"\0a", b"\0\0b", b"\0a\0b\0c", b"\0\xff\0b"] {
            assert_eq!(plain(bad), None, "{bad:?}");
        }
    }
}
