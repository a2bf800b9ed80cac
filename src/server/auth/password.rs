//! Passwords and their hashes: bcrypt, at the cost and in the form in which Cassandra keeps them,
//! so that roles can be brought along (HASHED PASSWORD). Takes its time: call it away from tasks.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::cql::roles::Secret;

/// Rounds, as a power of two: about 50 ms.
const COST: u32 = 10;

/// The longest password, in bytes: bcrypt looks at no more.
pub const MAX_PASSWORD_BYTES: usize = 72;

/// The hash of no password, of the same cost.
const NOBODYS: &str = "$2a$10$N9qo8uLOickgx2ZMRZoMyeIjZAgcfl7p92ldGxad68LJZdL17lhWy";

/// Says what is wrong with a new password.
pub(super) fn check(password: &Secret) -> Result<(), String> {
    let len = password.0.len();
    if !(1..=MAX_PASSWORD_BYTES).contains(&len) || password.0.contains('\0') {
        return Err(format!(
            "a password has 1 to {MAX_PASSWORD_BYTES} bytes, and none of them is 0"
        ));
    }
    Ok(())
}

/// A password's hash. `salt`: random.
pub(super) fn hash(password: &Secret, salt: [u64; 2]) -> Result<Secret, String> {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&salt[0].to_be_bytes());
    bytes[8..].copy_from_slice(&salt[1].to_be_bytes());
    let parts = bcrypt::non_truncating_hash_with_salt(&password.0, COST, bytes);
    let parts = parts.map_err(|error| error.to_string())?;
    // The letter that Cassandra's library knows.
    Ok(Secret(parts.format_for_version(bcrypt::Version::TwoA)))
}

/// True if `hash` is of this password. Without a hash it is false, after as long.
pub(super) fn is_right(password: &Secret, hash: Option<&Secret>) -> bool {
    let against = hash.map_or(NOBODYS, |hash| hash.0.as_str());
    let same = bcrypt::verify(&password.0, against).unwrap_or(false);
    same && hash.is_some()
}

/// A password that nobody guesses: 24 letters, digits and signs. `random`: 64 random bits a call.
#[must_use]
pub fn random(mut random: impl FnMut() -> u64) -> Secret {
    let bytes: Vec<u8> = (0..18).map(|_| (random() >> 56) as u8).collect();
    Secret(URL_SAFE_NO_PAD.encode(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::meta::is_hash;

    #[test]
    fn a_hash_is_of_one_password() {
        let apple = Secret("apple".to_owned());
        let hashed = hash(&apple, [1, 2]).unwrap();
        assert!(is_hash(&hashed.0), "{}", hashed.0);
        assert!(is_right(&apple, Some(&hashed)));
        assert!(!is_right(&Secret("Apple".to_owned()), Some(&hashed)));
        assert!(!is_right(&apple, None));
        assert_ne!(hash(&apple, [1, 3]).unwrap(), hashed, "another salt");
    }

    /// From the test vectors of OpenBSD's bcrypt, by way of jBCrypt, which Cassandra uses.
    #[test]
    fn a_hash_that_cassandra_made_is_understood() {
        let hash = "$2a$06$If6bvum7DFjUnE9p2uDeDu0YHzrHM6tf.iqN8.yx.jNN1ILEf7h0i";
        let hash = Secret(hash.to_owned());
        assert!(is_right(&Secret("abc".to_owned()), Some(&hash)));
        assert!(!is_right(&Secret("abd".to_owned()), Some(&hash)));
    }

    #[test]
    fn what_bcrypt_would_cut_off_is_no_password() {
        for bad in [String::new(), "a\0b".to_owned(), "x".repeat(73)] {
            assert!(check(&Secret(bad)).is_err());
        }
        assert!(check(&Secret("x".repeat(72))).is_ok());
        let made = random(|| 0xA5A5_5A5A_0000_1111);
        assert_eq!(made.0.len(), 24);
    }
}
