//! A client over a real socket, on either version, compressed or not.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::watch;

use super::mem::MemStore;
use crate::cql::roles::Secret;
use crate::env::{Env, tokio_env};
use crate::meta::{Command, RoleChange, Verdict};
use crate::server::auth::Gate;
use crate::server::budget::Budget;
use crate::server::cql::compress;
use crate::server::cql::frame::{Version, flag, opcode};
use crate::server::cql::listen::CqlListener;
use crate::server::cql::segment::{self, Coding};
use crate::server::cql::wire::Writer;
use crate::server::cql::{CqlService, Store as _};
use crate::types::Epoch;

/// A port in front of a node in memory.
pub(super) struct Server {
    pub(super) address: SocketAddr,
    pub(super) memory: Arc<Budget>,
    /// Says that the metadata may have changed.
    pub(super) epochs: watch::Sender<Epoch>,
    /// The node behind it.
    pub(super) store: Arc<MemStore>,
    _stop: watch::Sender<bool>,
}

impl Server {
    pub(super) async fn start(memory: usize) -> Self {
        Self::start_for(memory, Gate::open(), None).await
    }

    /// One behind `gate`. `role`: made beforehand, by its name and password, as a superuser.
    pub(super) async fn start_for(memory: usize, gate: Gate, role: Option<(&str, &str)>) -> Self {
        Self::start_in(tokio_env(), memory, gate, role).await
    }

    /// The same in another world.
    pub(super) async fn start_in(
        env: Env,
        memory: usize,
        gate: Gate,
        role: Option<(&str, &str)>,
    ) -> Self {
        let loopback = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
        let listener = CqlListener::bind(loopback).await.unwrap();
        let address = listener.local_address().unwrap();
        let store = MemStore::new(env.clone(), address.port());
        if let Some((name, password)) = role {
            let made = RoleChange::Create {
                name: name.to_owned(),
                superuser: true,
                login: true,
                password: Some(gate.hash(Secret(password.to_owned())).await.unwrap()),
                by: None,
            };
            let made = store.append(Command::Role(made)).await.unwrap();
            assert_eq!(made, Verdict::Done);
        }
        let service = Arc::new(CqlService::new(store.clone()).with_gate(gate));
        let (epochs, changes) = watch::channel(service.store().state().epoch());
        let (stop, stopping) = watch::channel(false);
        let memory = Budget::new(memory);
        env.spawn("port", listener.serve(service, env.clone(), memory.clone(), changes, stopping));
        Self { address, memory, epochs, store, _stop: stop }
    }

    /// A client that has started up, and a keyspace `ks` with a table `t` for it.
    pub(super) async fn client(&self, version: Version, lz4: bool) -> Client {
        let mut client = Client::connect(self.address, version).await;
        assert_eq!(client.start(lz4).await.opcode, opcode::READY);
        client.good("CREATE KEYSPACE IF NOT EXISTS ks WITH replication = {'class': 'SimpleStrategy', 'replication_factor': 1}").await;
        client.good("CREATE TABLE IF NOT EXISTS ks.t (k int PRIMARY KEY, v text)").await;
        client
    }
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Answered {
    pub(super) version: u8,
    pub(super) flags: u8,
    pub(super) stream: i16,
    pub(super) opcode: u8,
    pub(super) body: Vec<u8>,
}

impl Answered {
    /// The first number: an error's code, a result's kind.
    pub(super) fn code(&self) -> i32 {
        self.body.first_chunk::<4>().copied().map_or(-1, i32::from_be_bytes)
    }

    pub(super) fn holds(&self, text: &str) -> bool {
        self.body.windows(text.len()).any(|part| part == text.as_bytes())
    }
}

pub(super) struct Client {
    pub(super) socket: TcpStream,
    pub(super) version: Version,
    lz4: bool,
    segments: Option<Coding>,
    raw: BytesMut,
    joined: BytesMut,
    stream: i16,
}

impl Client {
    pub(super) async fn connect(address: SocketAddr, version: Version) -> Self {
        let socket = TcpStream::connect(address).await.unwrap();
        let (raw, joined) = (BytesMut::new(), BytesMut::new());
        Self { socket, version, lz4: false, segments: None, raw, joined, stream: 0 }
    }

    /// A frame's bytes as they go over the wire.
    pub(super) fn frame(&self, version: u8, stream: i16, opcode: u8, body: &[u8]) -> Vec<u8> {
        let small = (self.lz4 && self.segments.is_none()).then(|| compress::deflate_body(body));
        let (flags, body) = match small.flatten() {
            Some(small) => (flag::COMPRESSED, small),
            None => (0, body.to_vec()),
        };
        let mut out = vec![version, flags];
        out.extend_from_slice(&stream.to_be_bytes());
        out.push(opcode);
        out.extend_from_slice(&(body.len() as u32).to_be_bytes());
        out.extend_from_slice(&body);
        let Some(coding) = self.segments else { return out };
        let mut segments = Vec::new();
        if out.len() <= segment::MAX_PAYLOAD {
            segment::encode(coding, &out, true, &mut segments);
        } else {
            for part in out.chunks(segment::MAX_PAYLOAD) {
                segment::encode(coding, part, false, &mut segments);
            }
        }
        segments
    }

    pub(super) async fn send_bytes(&mut self, bytes: &[u8]) {
        self.socket.write_all(bytes).await.unwrap();
    }

    /// Sends to a server that may have had enough.
    pub(super) async fn try_send_bytes(&mut self, bytes: &[u8]) {
        let _ = self.socket.write_all(bytes).await;
    }

    /// Sends a request; its stream.
    pub(super) async fn send(&mut self, opcode: u8, body: &[u8]) -> i16 {
        self.stream = self.stream.wrapping_add(1) & i16::MAX;
        let bytes = self.frame(self.version as u8, self.stream, opcode, body);
        self.send_bytes(&bytes).await;
        self.stream
    }

    /// The next answer; `None`: the connection has ended.
    pub(super) async fn next(&mut self) -> Option<Answered> {
        loop {
            if let Some(coding) = self.segments
                && let Some(part) = segment::decode(coding, &mut self.raw).expect("good segments")
            {
                self.joined.extend_from_slice(&part.payload);
                continue;
            }
            let input = if self.segments.is_some() { &mut self.joined } else { &mut self.raw };
            if let Some(header) = input.first_chunk::<9>().copied() {
                let len = u32::from_be_bytes([header[5], header[6], header[7], header[8]]) as usize;
                if input.len() >= 9 + len {
                    let mut body = input.split_to(9 + len).split_off(9).to_vec();
                    if header[1] & flag::COMPRESSED != 0 {
                        let (len, block) = compress::announced(&body).unwrap();
                        body = compress::inflate(block, len).unwrap();
                    }
                    return Some(Answered {
                        version: header[0],
                        flags: header[1],
                        stream: i16::from_be_bytes([header[2], header[3]]),
                        opcode: header[4],
                        body,
                    });
                }
            }
            if self.socket.read_buf(&mut self.raw).await.unwrap_or(0) == 0 {
                return None;
            }
        }
    }

    pub(super) async fn ask(&mut self, opcode: u8, body: &[u8]) -> Answered {
        let stream = self.send(opcode, body).await;
        let answered = self.next().await.expect("an answer");
        assert_eq!(answered.stream, stream);
        answered
    }

    /// Says who it is.
    pub(super) async fn log_in(&mut self, name: &str, password: &str) -> Answered {
        let mut body = Writer::default();
        body.bytes(Some(format!("\0{name}\0{password}").as_bytes()));
        self.ask(opcode::AUTH_RESPONSE, &body.0).await
    }

    pub(super) async fn start(&mut self, lz4: bool) -> Answered {
        self.start_with(lz4, &[]).await
    }

    /// As [`Client::start`], with more options.
    pub(super) async fn start_with(&mut self, lz4: bool, more: &[(&str, &str)]) -> Answered {
        let lz4_option = lz4.then_some(("COMPRESSION", "LZ4"));
        let options = [("CQL_VERSION", "3.4.6")].into_iter().chain(lz4_option);
        let options: Vec<_> = options.chain(more.iter().copied()).collect();
        let mut body = Writer::default();
        body.short(options.len());
        for (name, value) in options {
            body.string(name);
            body.string(value);
        }
        let answered = self.ask(opcode::STARTUP, &body.0).await;
        if answered.opcode != opcode::ERROR {
            let coding = if lz4 { Coding::Lz4 } else { Coding::Plain };
            self.segments = (self.version == Version::V5).then_some(coding);
            self.lz4 = lz4;
        }
        answered
    }

    /// A QUERY without values.
    pub(super) fn query(&self, text: &str) -> Vec<u8> {
        let mut body = Writer::default();
        body.int(text.len() as i64);
        body.0.extend_from_slice(text.as_bytes());
        body.short(4);
        self.put_flags(&mut body, 0);
        body.0
    }

    pub(super) fn put_flags(&self, body: &mut Writer, flags: u16) {
        match self.version {
            Version::V4 => body.byte(u8::try_from(flags).unwrap()),
            Version::V5 => body.int(i64::from(flags)),
        }
    }

    pub(super) async fn run(&mut self, text: &str) -> Answered {
        let body = self.query(text);
        self.ask(opcode::QUERY, &body).await
    }

    pub(super) async fn good(&mut self, text: &str) -> Answered {
        let answered = self.run(text).await;
        assert_eq!(answered.opcode, opcode::RESULT, "{text}: {answered:?}");
        answered
    }
}
