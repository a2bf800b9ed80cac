//! The network between the nodes where no network of their own can be had: addresses of loopback,
//! and a TCP proxy in front of each node's port for its peers.
//!
//! Whose connection a proxy has accepted is found in `/proc`: the process that holds the other end
//! of it. From then on each direction is a directed link with the same rules as in the switch, as
//! far as streams allow: bytes on a cut link are held until it is whole again, and so is the end of
//! the connection; a lost piece comes late by a retransmission's time; a delayed one by its delay.
//! Weaker than the switch: no packet is ever lost, a connection over a cut link is accepted (and
//! then silent), and pieces never overtake each other.

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use henge::sim::rng::Rng;

use super::switch::{Link, Rules};

/// How often a held piece is looked at.
const TICK: Duration = Duration::from_millis(2);

/// A lost piece is sent again after so long, as TCP does.
const RETRANSMISSION: Duration = Duration::from_millis(200);

/// Pieces of a connection that may be under way at once; then its sender has to wait.
const UNDER_WAY: usize = 128;

/// Bytes, and when they may arrive.
type Piece = (Instant, Vec<u8>);

/// The port for peers.
const PEER: u16 = 7000;

/// Where this run's host number `host` is. Two runs at a time are apart by their process ids.
pub fn address(host: usize) -> IpAddr {
    at(host + 1)
}

/// Where its peers find a node: at its proxy.
pub fn advertised(host: usize) -> SocketAddr {
    (at(host + 101), PEER).into()
}

fn at(last: usize) -> IpAddr {
    let [.., high, low] = std::process::id().to_be_bytes();
    Ipv4Addr::new(127, high | 0x80, low, last as u8).into()
}

/// What the proxies share.
#[derive(Debug)]
struct Shared {
    rules: Arc<Rules>,
    stop: AtomicBool,
    /// The process of each node, as started last.
    pids: Mutex<Vec<u32>>,
    seed: u64,
}

/// The proxies of all nodes. Their threads end when it is dropped.
#[derive(Debug)]
pub struct Proxies {
    shared: Arc<Shared>,
}

impl Proxies {
    /// A proxy for each of `nodes` nodes.
    ///
    /// # Errors
    /// An address is taken.
    pub fn new(nodes: usize, rules: &Arc<Rules>, seed: u64) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            rules: Arc::clone(rules),
            stop: AtomicBool::new(false),
            pids: Mutex::new(vec![0; nodes]),
            seed,
        });
        for node in 0..nodes {
            let listener = TcpListener::bind(advertised(node))?;
            let shared = Arc::clone(&shared);
            spawn(format!("proxy {}", node + 1), move || {
                for accepted in listener.incoming() {
                    if shared.stop.load(Relaxed) {
                        return;
                    }
                    let Ok(stream) = accepted else { continue };
                    let shared = Arc::clone(&shared);
                    drop(spawn("link".to_owned(), move || join(&shared, stream, node)));
                }
            })?;
        }
        Ok(Self { shared })
    }

    /// A node's process, started anew.
    pub fn started(&self, node: usize, pid: u32) {
        self.shared.pids.lock().unwrap_or_else(PoisonError::into_inner)[node] = pid;
    }
}

impl Drop for Proxies {
    fn drop(&mut self) {
        self.shared.stop.store(true, Relaxed);
        let nodes = self.shared.pids.lock().unwrap_or_else(PoisonError::into_inner).len();
        for node in 0..nodes {
            // Wakes who accepts.
            drop(TcpStream::connect(advertised(node)));
        }
    }
}

fn spawn(name: String, work: impl FnOnce() + Send + 'static) -> io::Result<()> {
    std::thread::Builder::new().name(name).spawn(work).map(drop)
}

/// Carries a connection to node `to`, both ways.
fn join(shared: &Arc<Shared>, from_peer: TcpStream, to: usize) {
    let Some(from) = whose(shared, &from_peer) else { return };
    // A connection that is made over a cut link stays silent.
    if !hold(shared, shared.rules.link(from, to)) {
        return;
    }
    let Ok(to_peer) = TcpStream::connect((address(to), PEER)) else { return };
    let (Ok(there), Ok(here)) = (to_peer.try_clone(), from_peer.try_clone()) else { return };
    drop(from_peer.set_nodelay(true));
    drop(to_peer.set_nodelay(true));
    let back = Arc::clone(shared);
    drop(spawn("link".to_owned(), move || pump(&back, there, here, (to, from))));
    pump(shared, from_peer, to_peer, (from, to));
}

/// Which node holds the other end of a connection.
fn whose(shared: &Shared, stream: &TcpStream) -> Option<usize> {
    let port = stream.peer_addr().ok()?.port();
    let table = fs::read_to_string("/proc/net/tcp").ok()?;
    let inode = inode_of(port, &table)?;
    let socket = format!("socket:[{inode}]");
    let pids = shared.pids.lock().unwrap_or_else(PoisonError::into_inner).clone();
    pids.iter().position(|pid| {
        let open = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        open.map(|file| fs::read_link(file.path()))
            .any(|link| link.is_ok_and(|link| link.as_os_str() == socket.as_str()))
    })
}

/// The inode of the socket that is bound to `port` and connected to a proxy, from the kernel's table.
fn inode_of(port: u16, table: &str) -> Option<&str> {
    let (local, remote) = (format!(":{port:04X}"), format!(":{PEER:04X}"));
    let mut lines = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let own = lines.find(|words| {
        words.get(1).is_some_and(|at| at.ends_with(&local))
            && words.get(2).is_some_and(|at| at.ends_with(&remote))
    })?;
    own.get(9).copied()
}

/// Waits until a link is whole; false at the end of the run.
fn hold(shared: &Shared, link: &Link) -> bool {
    if link.is_cut.load(Relaxed) {
        link.dropped.fetch_add(1, Relaxed);
    }
    while link.is_cut.load(Relaxed) && !shared.stop.load(Relaxed) {
        std::thread::sleep(TICK);
    }
    !shared.stop.load(Relaxed)
}

/// Carries one direction, until it ends: takes pieces here and hands them over in a thread of its
/// own, so that any number may be on their late way at once.
fn pump(shared: &Arc<Shared>, mut from: TcpStream, to: TcpStream, (a, b): (usize, usize)) {
    let link = shared.rules.link(a, b);
    let mut rng = Rng::stream(shared.seed, (a * 100 + b) as u64, "proxy");
    let mut buffer = vec![0; 65_536];
    let (under_way, arriving) = mpsc::sync_channel::<Piece>(UNDER_WAY);
    let (at_the_end, source) = (Arc::clone(shared), from.try_clone());
    drop(spawn("link".to_owned(), move || {
        deliver(&at_the_end, &arriving, to, (a, b));
        // Nothing more is taken from who cannot be heard any more.
        drop(source.map(|source| source.shutdown(Shutdown::Read)));
    }));
    loop {
        let length = from.read(&mut buffer).unwrap_or_default();
        let mut due = Instant::now();
        let loss = u64::from(link.loss_ppm.load(Relaxed));
        if loss > 0 && rng.below(1_000_000) < loss {
            link.dropped.fetch_add(1, Relaxed);
            due += RETRANSMISSION;
        }
        let delay = u64::from(link.delay_us.load(Relaxed));
        if delay > 0 {
            link.delayed.fetch_add(1, Relaxed);
            let jitter = rng.below(u64::from(link.jitter_us.load(Relaxed)) + 1);
            due += Duration::from_micros(delay + jitter);
        }
        // The end of the connection travels as its last piece does.
        if under_way.send((due, buffer[..length].to_vec())).is_err() || length == 0 {
            return;
        }
    }
}

/// Hands over what comes along a link when it is due; closes the connection with its empty piece.
fn deliver(shared: &Shared, arriving: &Receiver<Piece>, mut to: TcpStream, (a, b): (usize, usize)) {
    let link = shared.rules.link(a, b);
    while let Ok((due, piece)) = arriving.recv() {
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        if !hold(shared, link) || piece.is_empty() || to.write_all(&piece).is_err() {
            break;
        }
        link.passed.fetch_add(1, Relaxed);
    }
    drop(to.shutdown(Shutdown::Write));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connection() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (near, listener.accept().unwrap().0)
    }

    #[test]
    fn a_bad_link_carries_all_that_was_sent_in_order_and_then_the_end() {
        let rules = Arc::new(Rules::new(2));
        let link = rules.link(0, 1);
        link.loss_ppm.store(300_000, Relaxed);
        link.delay_us.store(1_000, Relaxed);
        link.jitter_us.store(9_000, Relaxed);
        let (stop, pids) = (AtomicBool::new(false), Mutex::default());
        let shared = Arc::new(Shared { rules: Arc::clone(&rules), stop, pids, seed: 1 });
        let ((mut sender, taken), (given, mut receiver)) = (connection(), connection());
        let carrier = std::thread::spawn(move || pump(&shared, taken, given, (0, 1)));
        let sent: Vec<u8> = (0..200).collect();
        for piece in sent.chunks(10) {
            sender.write_all(piece).unwrap();
        }
        drop(sender);
        let mut received = Vec::new();
        receiver.read_to_end(&mut received).unwrap();
        assert_eq!(received, sent);
        carrier.join().unwrap();
        assert!(link.delayed.load(Relaxed) > 0);
    }

    #[test]
    fn the_kernels_table_tells_whose_a_connection_is() {
        let table = "\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 11 1
   1: 6501807F:1B58 0100007F:9C42 01 00000000:00000000 00:00000000 00000000     0        0 12 1
   2: 0100007F:9C42 6501807F:1B58 01 00000000:00000000 00:00000000 00000000     0        0 13 1";
        assert_eq!(inode_of(0x9C42, table), Some("13"));
        assert_eq!(inode_of(0x1F90, table), None);
    }
}
