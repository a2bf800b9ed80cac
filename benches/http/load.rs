//! A closed loop of clients, and what it found.

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::cql;

/// What is measured: a name, and where it listens. Clients are spread over the addresses.
pub struct Target {
    pub name: &'static str,
    pub addresses: Vec<SocketAddr>,
    /// Over CQL: one frame for each client, in turn. Else the load's requests, over HTTP.
    frames: Option<Arc<[Vec<u8>]>>,
}

impl Target {
    pub fn new(name: &'static str, addresses: Vec<SocketAddr>) -> Self {
        Self { name, addresses, frames: None }
    }

    pub fn over_cql(
        name: &'static str,
        addresses: Vec<SocketAddr>,
        frames: Arc<[Vec<u8>]>,
    ) -> Self {
        Self { name, addresses, frames: Some(frames) }
    }
}

/// Clients that each send the next request when the last one was answered, over a connection that
/// they keep.
pub struct Load {
    pub clients: usize,
    pub seconds: u64,
    /// Whether the clients' thread never sleeps. One that does is woken by the server's `send`, which
    /// pays for it: the more often, the more a server leaves its clients waiting. So a server that
    /// keeps them busy looks cheaper by more than its work.
    pub awake: bool,
    /// The `n`-th request of client `c`, head and body; `n` never repeats.
    pub request: fn(c: usize, n: u64) -> Vec<u8>,
}

struct Found {
    rate: f64,
    latency_us: Histogram<u64>,
    server_us: f64,
}

/// What was found of a target, the medians of all rounds.
#[derive(Clone, Copy)]
pub struct Medians {
    /// Requests per second.
    pub rate: f64,
    /// Processor time of everything but the clients, per request, in microseconds.
    pub server_us: f64,
}

impl Load {
    /// Measures all targets `rounds` times in turn; prints what was found of each.
    pub fn compare(&self, targets: &[Target], rounds: usize) -> Vec<Medians> {
        let mut found: Vec<Vec<Found>> = targets.iter().map(|_| Vec::new()).collect();
        for _ in 0..rounds {
            for (found, target) in found.iter_mut().zip(targets) {
                found.push(self.run(target));
            }
        }
        targets.iter().zip(&mut found).map(|(target, found)| summary(target, found)).collect()
    }

    fn run(&self, target: &Target) -> Found {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let stop = Rc::new(Cell::new(false));
        let tasks = tokio::task::LocalSet::new();
        if self.awake {
            tasks.spawn_local(stay_awake(stop.clone()));
        }
        let (began, cpu) = (Instant::now(), server_cpu());
        let clients: Vec<_> = (0..self.clients)
            .map(|c| {
                let address = target.addresses[c % target.addresses.len()];
                let frame = target.frames.as_ref().map(|frames| frames[c % frames.len()].clone());
                tasks.spawn_local(client(address, c, (self.request, frame), stop.clone()))
            })
            .collect();
        tasks.block_on(&runtime, async {
            tokio::time::sleep(Duration::from_secs(self.seconds)).await;
            stop.set(true);
            let mut latency_us = histogram();
            for client in clients {
                latency_us.add(client.await.expect("no client fails")).expect("one range");
            }
            let requests = latency_us.len().max(1) as f64;
            let server_us = (server_cpu() - cpu).as_secs_f64() * 1e6 / requests;
            Found { rate: requests / began.elapsed().as_secs_f64(), latency_us, server_us }
        })
    }
}

/// Keeps its thread from sleeping.
async fn stay_awake(stop: Rc<Cell<bool>>) {
    while !stop.get() {
        tokio::task::yield_now().await;
    }
}

fn summary(target: &Target, found: &mut [Found]) -> Medians {
    found.sort_by(|a, b| a.server_us.total_cmp(&b.server_us));
    let server_us = found[found.len() / 2].server_us;
    found.sort_by(|a, b| a.rate.total_cmp(&b.rate));
    let medians = Medians { rate: found[found.len() / 2].rate, server_us };
    let mut all = histogram();
    for round in &*found {
        all.add(&round.latency_us).expect("one range");
    }
    println!(
        "{:22} {:7.0}/s ({:.0} to {:.0})   server {:5.1} us/request   p50 {} us   p99 {} us   \
         p99.9 {} us",
        target.name,
        medians.rate,
        found[0].rate,
        found[found.len() - 1].rate,
        medians.server_us,
        all.value_at_quantile(0.5),
        all.value_at_quantile(0.99),
        all.value_at_quantile(0.999)
    );
    medians
}

/// What a client asks at a turn of its.
type Request = fn(usize, u64) -> Vec<u8>;

async fn client(
    address: SocketAddr,
    c: usize,
    (request, frame): (Request, Option<Vec<u8>>),
    stop: Rc<Cell<bool>>,
) -> Histogram<u64> {
    thread_local! {
        static TURN: Cell<u64> = const { Cell::new(0) };
    }
    let mut latency = histogram();
    let mut connection = Connection::open(address).await;
    if frame.is_some() {
        connection.is_whole = cql::is_whole;
        connection.exchange(&cql::startup()).await;
    }
    while !stop.get() {
        let turn = TURN.replace(TURN.get() + 1);
        let request = frame.clone().unwrap_or_else(|| request(c, turn));
        let began = Instant::now();
        connection.exchange(&request).await;
        latency.saturating_record(began.elapsed().as_micros() as u64);
    }
    latency
}

fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 60_000_000, 3).expect("valid bounds")
}

/// Processor time of this process less that of the calling thread, in steps of 10 ms.
fn server_cpu() -> Duration {
    let ticks = |file: &str| {
        let stat = std::fs::read_to_string(file).unwrap_or_default();
        let after = stat.rsplit(") ").next().unwrap_or_default().to_owned();
        let field = |at: usize| after.split(' ').nth(at).and_then(|text| text.parse::<u64>().ok());
        field(11).unwrap_or(0) + field(12).unwrap_or(0)
    };
    let ticks = ticks("/proc/self/stat").saturating_sub(ticks("/proc/thread-self/stat"));
    Duration::from_millis(ticks * 10)
}

struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
    is_whole: fn(&[u8]) -> bool,
}

impl Connection {
    async fn open(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.expect("the server listens");
        stream.set_nodelay(true).expect("a socket");
        Self { stream, buffer: vec![0; 8192], is_whole }
    }

    async fn exchange(&mut self, request: &[u8]) {
        self.stream.write_all(request).await.expect("it takes requests");
        let mut have = 0;
        loop {
            let got = self.stream.read(&mut self.buffer[have..]).await.expect("it answers");
            assert!(got > 0, "the server closed the connection");
            have += got;
            if (self.is_whole)(&self.buffer[..have]) {
                return;
            }
        }
    }
}

/// True when the answer is all there. It must be a success; without a length it has no body.
fn is_whole(answer: &[u8]) -> bool {
    const LENGTH: &[u8] = b"content-length: ";
    let Some(end) = answer.windows(4).position(|window| window == b"\r\n\r\n") else {
        return false;
    };
    assert!(answer.starts_with(b"HTTP/1.1 20"), "{}", String::from_utf8_lossy(answer));
    let place = answer[..end].windows(LENGTH.len()).position(|window| window == LENGTH);
    let digits = place.map_or(&b""[..], |at| &answer[at + LENGTH.len()..end]);
    let digits = digits.iter().take_while(|byte| byte.is_ascii_digit());
    let length = digits.fold(0, |sum, digit| sum * 10 + usize::from(digit - b'0'));
    answer.len() >= end + 4 + length
}

/// One request over a connection of its own.
pub async fn call(address: SocketAddr, method: &str, path: &str, body: &str) {
    let request = format!(
        "{method} {path} HTTP/1.1\r\nhost: bench\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n{body}",
        body.len()
    );
    Connection::open(address).await.exchange(request.as_bytes()).await;
}
