//! Where a listing goes on: an opaque token.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;

use crate::server::http::problem::Problem;
use crate::types::{Key, TableId, Token};

const VERSION: u8 = 1;
const CHECK_BYTES: usize = 4;

/// The token for the place right after `key`: base64url of version, table, ring token, key and a
/// check that tells a damaged one, or one of another bucket, from a good one. (It guards nothing:
/// whoever may list may begin anywhere.)
#[must_use]
pub fn seal(table: TableId, token: Token, key: &Key) -> String {
    let mut bytes = vec![VERSION];
    bytes.extend_from_slice(&token.0.to_be_bytes());
    bytes.extend_from_slice(key.as_bytes());
    let check = check(table, &bytes);
    bytes.extend_from_slice(&check);
    URL_SAFE_NO_PAD.encode(bytes)
}

/// The place in a cursor.
///
/// # Errors
/// `400` for anything that [`seal`] did not make for this table.
pub fn open(table: TableId, text: &str) -> Result<(Token, Key), Problem> {
    parse(table, text).ok_or_else(|| {
        Problem::bad_parameter(
            "start",
            "is no cursor of this bucket: pass on the \"next\" of an earlier page as it is",
        )
    })
}

fn parse(table: TableId, text: &str) -> Option<(Token, Key)> {
    let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
    let (body, found) = bytes.split_at_checked(bytes.len().checked_sub(CHECK_BYTES)?)?;
    if check(table, body) != found {
        return None;
    }
    let rest = body.strip_prefix(&[VERSION])?;
    let (token, key) = rest.split_first_chunk::<8>()?;
    Some((Token(i64::from_be_bytes(*token)), Key::new(Bytes::copy_from_slice(key)).ok()?))
}

fn check(table: TableId, body: &[u8]) -> [u8; CHECK_BYTES] {
    let hash = xxhash_rust::xxh3::xxh3_64_with_seed(body, u64::from(table.0)).to_be_bytes();
    [hash[0], hash[1], hash[2], hash[3]]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_reads_back_for_its_own_table_only() {
        let key = Key::new(&b"\x00k"[..]).unwrap();
        let text = seal(TableId(3), Token(-5), &key);
        assert_eq!(open(TableId(3), &text).unwrap(), (Token(-5), key));
        assert!(open(TableId(4), &text).is_err());
        for bad in ["", "A", "%%", &text[1..], &format!("{text}A")] {
            assert!(open(TableId(3), bad).is_err(), "{bad}");
        }
    }
}
