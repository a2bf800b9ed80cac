//! What is remembered of logins: which passwords were right, and who guesses.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use crate::types::{Epoch, Mono};

/// The most names of which a right password is remembered, and addresses that have guessed.
const MAX_NAMES: usize = 4_096;
const MAX_ADDRESSES: usize = 4_096;

/// Wrong passwords that an address may try in a row.
pub(super) const GUESSES: u32 = 20;

/// Then one more each time that this is over.
const PAUSE: Duration = Duration::from_secs(1);

/// What an address has tried.
struct Guesses {
    used: u32,
    /// Up to when what was used has been given back.
    at: Mono,
}

/// See the module.
pub(super) struct Memory {
    /// Of this process alone: a digest is worth nothing elsewhere.
    key: [u8; 32],
    right: BTreeMap<String, (Epoch, blake3::Hash)>,
    guesses: BTreeMap<IpAddr, Guesses>,
}

impl Memory {
    /// Nothing yet. `random`: 64 random bits a call.
    pub(super) fn new(random: impl Fn() -> u64) -> Self {
        let mut key = [0; 32];
        key.chunks_exact_mut(8).for_each(|part| part.copy_from_slice(&random().to_be_bytes()));
        Self { key, right: BTreeMap::new(), guesses: BTreeMap::new() }
    }

    /// What is remembered of a name and a password.
    pub(super) fn digest(&self, name: &str, password: &str) -> blake3::Hash {
        let mut hasher = blake3::Hasher::new_keyed(&self.key);
        hasher.update(&(name.len() as u64).to_be_bytes());
        hasher.update(name.as_bytes()).update(password.as_bytes()).finalize()
    }

    /// True if this was right, for the role since this entry.
    pub(super) fn is_known(&self, name: &str, since: Epoch, digest: &blake3::Hash) -> bool {
        // Compared in constant time.
        self.right.get(name).is_some_and(|(then, known)| *then == since && known == digest)
    }

    pub(super) fn remember(&mut self, name: &str, since: Epoch, digest: blake3::Hash) {
        if self.right.len() >= MAX_NAMES && !self.right.contains_key(name) {
            self.right.pop_first();
        }
        self.right.insert(name.to_owned(), (since, digest));
    }

    /// True if an address has guesses left; none is taken.
    pub(super) fn has_guesses(&mut self, from: Option<IpAddr>, now: Mono) -> bool {
        self.guesses.get_mut(&source(from)).is_none_or(|own| own.settle(now) < GUESSES)
    }

    /// Takes one of an address's guesses; false: it has none left.
    pub(super) fn may_guess(&mut self, from: Option<IpAddr>, now: Mono) -> bool {
        if self.guesses.len() >= MAX_ADDRESSES {
            self.guesses.retain(|_, own| own.settle(now) > 0);
            if self.guesses.len() >= MAX_ADDRESSES {
                self.guesses.pop_first();
            }
        }
        let own = self.guesses.entry(source(from)).or_insert(Guesses { used: 0, at: now });
        if own.settle(now) >= GUESSES {
            return false;
        }
        own.used += 1;
        true
    }

    /// It was no guess.
    pub(super) fn guessed(&mut self, from: Option<IpAddr>) {
        if let Some(own) = self.guesses.get_mut(&source(from)) {
            own.used = own.used.saturating_sub(1);
        }
    }
}

/// Where guesses are counted. Of IPv6 it is the network: who has one address there mostly has all
/// 2^64 of them.
fn source(from: Option<IpAddr>) -> IpAddr {
    match from.map(|address| address.to_canonical()) {
        None => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        Some(IpAddr::V6(address)) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() >> 64 << 64)),
        Some(address) => address,
    }
}

impl Guesses {
    /// Gives back what the time since then allows; how many are used.
    fn settle(&mut self, now: Mono) -> u32 {
        let pauses = now.since(self.at).as_nanos() / PAUSE.as_nanos();
        let pauses = u32::try_from(pauses).unwrap_or(u32::MAX);
        self.used = self.used.saturating_sub(pauses);
        self.at = if self.used == 0 { now } else { self.at + PAUSE * pauses };
        self.used
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guesses_come_back_with_time() {
        let mut memory = Memory::new(|| 7);
        let second = |n: u64| Mono(n * 1_000_000_000);
        for _ in 0..GUESSES {
            assert!(memory.may_guess(None, second(1)));
        }
        assert!(!memory.may_guess(None, second(1)));
        assert!(memory.may_guess(Some(IpAddr::from([10, 0, 0, 1])), second(1)), "another one");
        assert!(memory.may_guess(None, second(2)) && !memory.may_guess(None, second(2)));
        memory.guessed(None);
        assert!(memory.may_guess(None, second(2)), "the last one was right");
        assert!(!memory.has_guesses(None, second(2)) && memory.has_guesses(None, second(3)));
        for _ in 0..GUESSES {
            assert!(memory.may_guess(None, second(100)));
        }
    }

    #[test]
    fn all_addresses_of_one_network_guess_together() {
        let mut memory = Memory::new(|| 7);
        let mut guess = |from: &str| memory.may_guess(from.parse().ok(), Mono(1));
        for n in 0..GUESSES {
            assert!(guess(&format!("2001:db8::{n:x}")));
        }
        assert!(!guess("2001:db8::ffff"));
        assert!(guess("2001:db8:0:1::1"), "another network");
        for n in 0..GUESSES {
            assert!(guess(if n % 2 == 0 { "10.0.0.1" } else { "::ffff:10.0.0.1" }));
        }
        assert!(!guess("10.0.0.1") && guess("10.0.0.2"));
    }

    #[test]
    fn memory_is_bounded() {
        let mut memory = Memory::new(|| 7);
        for n in 0..10_000u32 {
            memory.may_guess(Some(IpAddr::from(n.to_be_bytes())), Mono(1));
            let digest = memory.digest(&n.to_string(), "x");
            memory.remember(&n.to_string(), Epoch(1), digest);
        }
        assert!(memory.guesses.len() <= MAX_ADDRESSES && memory.right.len() <= MAX_NAMES);
        let (one, other) = (memory.digest("a", "bc"), memory.digest("ab", "c"));
        assert_ne!(one, other);
    }
}
