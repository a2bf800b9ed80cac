//! The network between the nodes: a packet switch in this process.
//!
//! Every host is a network namespace with one TUN device, whose other end is here. One thread takes
//! each packet, looks at where it comes from and where it goes, and lets the rule of that
//! *directed* link decide: through, late, or not at all. TCP on both sides sees what it would see
//! on a broken network: silence, not a closed connection.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use henge::sim::rng::Rng;

use super::sys;

/// What happens to packets from one host to another, and what has happened.
#[derive(Debug, Default)]
pub struct Link {
    /// Nothing gets through.
    pub is_cut: AtomicBool,
    /// Of a million packets, how many are lost.
    pub loss_ppm: AtomicU32,
    /// Each packet comes this much later, in microseconds …
    pub delay_us: AtomicU32,
    /// … and by up to this much more.
    pub jitter_us: AtomicU32,
    /// Packets let through.
    pub passed: AtomicU64,
    /// Packets lost to a rule.
    pub dropped: AtomicU64,
    /// Packets that a rule made late.
    pub delayed: AtomicU64,
}

/// The rules of all directed links of `size` hosts.
#[derive(Debug)]
pub struct Rules {
    size: usize,
    links: Vec<Link>,
}

impl Rules {
    /// All links are whole.
    pub fn new(size: usize) -> Self {
        Self { size, links: (0..size * size).map(|_| Link::default()).collect() }
    }

    /// The link from one host to another.
    pub fn link(&self, from: usize, to: usize) -> &Link {
        &self.links[from * self.size + to]
    }

    /// Makes every link whole again. Counters stay.
    pub fn heal(&self) {
        for link in &self.links {
            link.is_cut.store(false, Relaxed);
            link.loss_ppm.store(0, Relaxed);
            link.delay_us.store(0, Relaxed);
            link.jitter_us.store(0, Relaxed);
        }
    }
}

/// The first three bytes of every host's address.
pub const NET: [u8; 3] = [10, 77, 0];

/// The last byte of a host's address.
pub fn last_byte(host: usize) -> u8 {
    host as u8 + 1
}

/// The host that a packet is for; `None` if it is for nobody here (IPv6, multicast).
fn destination(packet: &[u8], hosts: usize) -> Option<usize> {
    let is_v4 = packet.first().is_some_and(|first| first >> 4 == 4);
    let to = packet.get(16..20).filter(|to| is_v4 && to[..3] == NET)?;
    usize::from(to[3]).checked_sub(1).filter(|&host| host < hosts)
}

/// A packet on its way: when it is due, a number that keeps the order of equals, to whom.
type Late = Reverse<(Instant, u64, usize, Vec<u8>)>;

/// Switches packets until `stop` is set. `devices[i]` is host *i*'s.
pub fn run(mut devices: Vec<File>, rules: &Arc<Rules>, stop: &AtomicBool, seed: u64) {
    let mut rng = Rng::stream(seed, 0, "switch");
    let mut late: BinaryHeap<Late> = BinaryHeap::new();
    let mut number = 0;
    let mut buffer = vec![0; 65_536];
    while !stop.load(Relaxed) {
        let now = Instant::now();
        while late.peek().is_some_and(|Reverse((due, ..))| *due <= now) {
            let Some(Reverse((_, _, to, packet))) = late.pop() else { break };
            deliver(&mut devices[to], &packet);
        }
        let next = late.peek().map(|Reverse((due, ..))| due.saturating_duration_since(now));
        let wait = next.unwrap_or(Duration::from_millis(100)).min(Duration::from_millis(100));
        if sys::wait_readable(&devices, wait).is_err() {
            continue; // interrupted by a signal
        }
        for from in 0..devices.len() {
            // A bounded batch, so that one busy host cannot starve the others.
            for _ in 0..64 {
                let length = match devices[from].read(&mut buffer) {
                    Ok(length) => length,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Err(_) => break,
                };
                let packet = &buffer[..length];
                let Some(to) = destination(packet, rules.size) else { continue };
                let link = rules.link(from, to);
                let loss = u64::from(link.loss_ppm.load(Relaxed));
                if link.is_cut.load(Relaxed) || (loss > 0 && rng.below(1_000_000) < loss) {
                    link.dropped.fetch_add(1, Relaxed);
                    continue;
                }
                link.passed.fetch_add(1, Relaxed);
                let delay = u64::from(link.delay_us.load(Relaxed));
                if delay == 0 {
                    deliver(&mut devices[to], packet);
                    continue;
                }
                link.delayed.fetch_add(1, Relaxed);
                let jitter = rng.below(u64::from(link.jitter_us.load(Relaxed)) + 1);
                let due = Instant::now() + Duration::from_micros(delay + jitter);
                number += 1;
                late.push(Reverse((due, number, to, packet.to_vec())));
            }
        }
    }
}

fn deliver(device: &mut File, packet: &[u8]) {
    // A full queue loses packets, as on any network.
    drop(device.write(packet));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(version: u8, to: [u8; 4]) -> Vec<u8> {
        let mut packet = vec![0; 40];
        packet[0] = version << 4 | 5;
        packet[16..20].copy_from_slice(&to);
        packet
    }

    #[test]
    fn packets_go_to_hosts_of_this_network_only() {
        assert_eq!(destination(&packet(4, [10, 77, 0, 3]), 4), Some(2));
        assert_eq!(destination(&packet(4, [10, 77, 0, 9]), 4), None);
        assert_eq!(destination(&packet(4, [10, 77, 0, 0]), 4), None);
        assert_eq!(destination(&packet(4, [10, 78, 0, 1]), 4), None);
        assert_eq!(destination(&packet(6, [10, 77, 0, 1]), 4), None);
        assert_eq!(destination(&[0x45, 0, 0], 4), None);
    }

    #[test]
    fn healing_makes_every_link_whole() {
        let rules = Rules::new(3);
        rules.link(0, 2).is_cut.store(true, Relaxed);
        rules.link(1, 0).loss_ppm.store(5, Relaxed);
        rules.heal();
        assert!(!rules.link(0, 2).is_cut.load(Relaxed));
        assert_eq!(rules.link(1, 0).loss_ppm.load(Relaxed), 0);
    }
}
