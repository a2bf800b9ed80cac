//! What a client sends: bytes to frames, in bounded memory.
//!
//! A connection that has memory for no more does not read its socket. Nothing is allocated by a
//! length that was only announced: buffers grow as the bytes come, and what they hold beyond a
//! little is taken from the node's budget first. A frame for which no memory is to be had within
//! [`PATIENCE`] is passed over and answered `overloaded`, so that connections that hold halves of
//! frames cannot wait for each other.

use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut as _, BytesMut};
use tokio::io::AsyncReadExt as _;
use tokio::net::tcp::OwnedReadHalf;

use crate::env::Env;
use crate::server::budget::{Budget, Share};
use crate::server::cql::compress;
use crate::server::cql::frame::{Decoded, Decoder, Frame, Version, flag};
use crate::server::cql::segment::{self, BadSegment, Coding};

/// Bytes that are read at a time.
const READ: usize = 16 << 10;

/// What a connection's buffers may hold without asking.
const FREE: usize = 2 * READ;

/// How long a frame waits for memory.
const PATIENCE: Duration = Duration::from_secs(3);

/// How long a client may pause within a frame.
const PAUSE: Duration = Duration::from_secs(30);

/// What comes of reading.
#[derive(Debug)]
pub(super) enum Incoming {
    /// A frame, not compressed any more, and the memory that it holds.
    Frame(Frame, Share),
    /// To be answered like this.
    Refused { stream: i16, why: Refusal },
    /// A frame of another version: answer politely, then close.
    OtherVersion { version: u8, stream: i16 },
    /// Nothing more can be read; with what to say of it, if anything.
    Broken(Option<BadSegment>),
    /// The client has ended it, or has been silent for too long.
    End,
}

/// Why a frame was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    /// So many bytes are too many.
    TooLong { len: usize, max: usize },
    /// The node has no memory for it.
    NoMemory,
    /// It is said to be compressed and is not, or not as was agreed.
    Compression,
}

/// The reading half of a connection.
#[derive(Debug)]
pub(super) struct Inbox {
    socket: OwnedReadHalf,
    env: Env,
    decoder: Decoder,
    /// Bytes as they came; with segments, what no segment has been made of.
    raw: BytesMut,
    /// Segments put together.
    joined: BytesMut,
    segments: Option<Coding>,
    /// Bodies of version 4 may be compressed.
    inflates: bool,
    /// For what the buffers hold.
    memory: Share,
}

impl Inbox {
    pub(super) fn new(socket: OwnedReadHalf, env: Env, node: &Arc<Budget>) -> Self {
        Self {
            socket,
            env,
            decoder: Decoder::default(),
            raw: BytesMut::new(),
            joined: BytesMut::new(),
            segments: None,
            inflates: false,
            memory: Share::none(node),
        }
    }

    /// The connection has started up: as `version`, with `segments` or with compressed bodies.
    pub(super) fn settle(&mut self, version: Version, segments: Option<Coding>, inflates: bool) {
        self.decoder.settle(version);
        (self.segments, self.inflates) = (segments, inflates);
    }

    /// The client has said all that it had to say first.
    pub(super) fn let_in(&mut self) {
        self.decoder.let_in();
    }

    /// The next thing that the client has sent. Not to be cancelled and then called again.
    pub(super) async fn next(&mut self) -> Incoming {
        loop {
            let input = if self.segments.is_some() { &mut self.joined } else { &mut self.raw };
            match self.decoder.next(input) {
                Decoded::Frame(frame) => return self.open(frame).await,
                Decoded::TooLong { stream, len } => {
                    let max = self.decoder.max_body();
                    return Incoming::Refused { stream, why: Refusal::TooLong { len, max } };
                }
                Decoded::OtherVersion { version, stream } => {
                    return Incoming::OtherVersion { version, stream };
                }
                Decoded::Hopeless => return Incoming::Broken(None),
                Decoded::More => {}
            }
            if let Some(coding) = self.segments {
                match segment::decode(coding, &mut self.raw) {
                    Ok(Some(segment)) => {
                        // Whole envelopes do not begin in the middle of another.
                        let within = !self.joined.is_empty() || !self.decoder.is_between();
                        if segment.self_contained && within {
                            return Incoming::Broken(None);
                        }
                        self.joined.extend_from_slice(&segment.payload);
                        continue;
                    }
                    Ok(None) => {}
                    Err(bad) => return Incoming::Broken(Some(bad)),
                }
            }
            if !self.make_room().await {
                let input = if self.segments.is_some() { &mut self.joined } else { &mut self.raw };
                match self.decoder.give_up(input) {
                    Some(stream) => {
                        return Incoming::Refused { stream, why: Refusal::NoMemory };
                    }
                    None => return Incoming::Broken(None),
                }
            }
            if !self.read().await {
                return Incoming::End;
            }
        }
    }

    /// Memory for one more read. False: there is none.
    async fn make_room(&mut self) -> bool {
        let held = self.raw.len() + self.joined.len();
        let needed = (held + READ).saturating_sub(FREE);
        if needed < self.memory.amount() {
            self.memory.shrink_to(needed);
        }
        self.reserve(needed).await
    }

    /// Sees to it that `memory` is `needed`. False: there is none.
    async fn reserve(&mut self, needed: usize) -> bool {
        let more = needed.saturating_sub(self.memory.amount());
        if self.memory.grow(more) {
            return true;
        }
        let waited = self.env.timeout(PATIENCE, self.memory.grow_in_turn(more)).await;
        waited.is_ok()
    }

    /// Reads what is there. False: there will be no more.
    async fn read(&mut self) -> bool {
        let within = !self.raw.is_empty() || !self.joined.is_empty();
        let patience = within.then_some(PAUSE);
        self.raw.reserve(READ);
        let mut window = (&mut self.raw).limit(READ);
        // Unlike `try_read`, this knows from a short read that the socket is empty, and does not
        // ask again.
        let reading = self.socket.read_buf(&mut window);
        let read = match patience {
            None => reading.await,
            Some(pause) => match self.env.timeout(pause, reading).await {
                Ok(read) => read,
                Err(_) => return false,
            },
        };
        read.is_ok_and(|read| read > 0)
    }

    /// Takes a frame's memory, and its body out of its compression.
    async fn open(&mut self, mut frame: Frame) -> Incoming {
        let stream = frame.stream;
        let refused = |why| Incoming::Refused { stream, why };
        let mut len = frame.body.len();
        if frame.flags & flag::COMPRESSED != 0 {
            let announced = compress::announced(&frame.body).filter(|_| self.inflates);
            match announced {
                Some((len, _)) if len > self.decoder.max_body() => {
                    return refused(Refusal::TooLong { len, max: self.decoder.max_body() });
                }
                Some((raw_len, _)) => len = len.max(raw_len),
                None => return refused(Refusal::Compression),
            }
        }
        if !self.reserve(len).await {
            return refused(Refusal::NoMemory);
        }
        let held = self.memory.split(len);
        if frame.flags & flag::COMPRESSED != 0 {
            let announced = compress::announced(&frame.body);
            match announced.and_then(|(raw_len, block)| compress::inflate(block, raw_len)) {
                Some(body) => frame.body = body,
                None => return refused(Refusal::Compression),
            }
        }
        Incoming::Frame(frame, held)
    }
}
