//! Frames: `version flags stream opcode length body`, nine bytes before the body. On version 5 they
//! are called envelopes, and stand in [segments](super::segment) once a connection has started up.

use bytes::{Buf as _, BytesMut};

/// The versions that are spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Version {
    V4 = 4,
    V5 = 5,
}

impl Version {
    /// The newest, in which other versions are refused.
    pub(super) const NEWEST: Self = Self::V5;

    fn of(byte: u8) -> Option<Self> {
        match byte {
            4 => Some(Self::V4),
            5 => Some(Self::V5),
            _ => None,
        }
    }
}

/// The most bytes of a request's body.
pub(super) const MAX_BODY: usize = 16 << 20;

/// The same of a client that has not been let in yet: what it may say is short.
const MAX_FIRST_BODY: usize = 64 << 10;

/// A body longer than this is not even passed over: the connection is closed.
const MAX_SKIPPED: usize = 256 << 20;

/// Bytes of a frame's header.
pub(super) const HEADER: usize = 9;
const RESPONSE: u8 = 0x80;

/// Flags of a frame.
pub(super) mod flag {
    pub(crate) const COMPRESSED: u8 = 0x01;
    /// Of a request: trace it. Of an answer: a trace's id stands first.
    pub(crate) const TRACING: u8 = 0x02;
    /// A custom payload stands before the message.
    pub(crate) const PAYLOAD: u8 = 0x04;
    /// Warnings stand before the message.
    pub(crate) const WARNINGS: u8 = 0x08;
}

/// What requests and answers are called on the wire.
pub(super) mod opcode {
    pub(crate) const ERROR: u8 = 0x00;
    pub(crate) const STARTUP: u8 = 0x01;
    pub(crate) const READY: u8 = 0x02;
    pub(crate) const AUTHENTICATE: u8 = 0x03;
    pub(crate) const OPTIONS: u8 = 0x05;
    pub(crate) const SUPPORTED: u8 = 0x06;
    pub(crate) const QUERY: u8 = 0x07;
    pub(crate) const RESULT: u8 = 0x08;
    pub(crate) const PREPARE: u8 = 0x09;
    pub(crate) const EXECUTE: u8 = 0x0A;
    pub(crate) const REGISTER: u8 = 0x0B;
    pub(crate) const EVENT: u8 = 0x0C;
    pub(crate) const BATCH: u8 = 0x0D;
    pub(crate) const AUTH_RESPONSE: u8 = 0x0F;
    pub(crate) const AUTH_SUCCESS: u8 = 0x10;
}

/// A request's frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Frame {
    pub(super) version: Version,
    pub(super) flags: u8,
    pub(super) stream: i16,
    pub(super) opcode: u8,
    pub(super) body: Vec<u8>,
}

/// What the bytes so far hold.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Decoded {
    /// Not a whole frame yet.
    More,
    /// A frame.
    Frame(Frame),
    /// A frame of another version: answer politely, then close.
    OtherVersion { version: u8, stream: i16 },
    /// A body that is too long and will be passed over.
    TooLong { stream: i16, len: usize },
    /// Nothing that can be answered: close.
    Hopeless,
}

/// Cuts a stream of bytes into frames.
#[derive(Debug, Default)]
pub(super) struct Decoder {
    /// The connection's version, once it has one.
    version: Option<Version>,
    /// The client has been let in.
    is_in: bool,
    /// Bytes of a body that are still to be passed over.
    skip: usize,
}

impl Decoder {
    /// From now on frames of another version are refused.
    pub(super) fn settle(&mut self, version: Version) {
        self.version = Some(version);
    }

    /// From now on frames may be as long as any.
    pub(super) fn let_in(&mut self) {
        self.is_in = true;
    }

    /// The most bytes of a body.
    pub(super) fn max_body(&self) -> usize {
        if self.is_in { MAX_BODY } else { MAX_FIRST_BODY }
    }

    /// Takes the next frame off the front of `input`. Reserves nothing by a length that was only
    /// announced.
    pub(super) fn next(&mut self, input: &mut BytesMut) -> Decoded {
        if self.skip > 0 {
            let now = self.skip.min(input.len());
            input.advance(now);
            self.skip -= now;
        }
        let Some(&first) = input.first() else { return Decoded::More };
        if first & RESPONSE != 0 {
            return Decoded::Hopeless;
        }
        let known = Version::of(first).filter(|own| self.version.is_none_or(|set| set == *own));
        let Some(version) = known else {
            // Versions 1 and 2 had a stream of one byte; anything else has two.
            let stream = match (first, input.get(2), input.get(3)) {
                (1 | 2, Some(stream), _) => i16::from(*stream as i8),
                (_, Some(high), Some(low)) => i16::from_be_bytes([*high, *low]),
                _ => return Decoded::More,
            };
            return Decoded::OtherVersion { version: first, stream };
        };
        let Some(header) = input.first_chunk::<HEADER>() else { return Decoded::More };
        let (flags, opcode) = (header[1], header[4]);
        let stream = i16::from_be_bytes([header[2], header[3]]);
        let len = body_len(header);
        if len > MAX_SKIPPED {
            return Decoded::Hopeless;
        }
        if len > self.max_body() {
            input.advance(HEADER);
            self.skip = len;
            return Decoded::TooLong { stream, len };
        }
        if input.len() < HEADER + len {
            return Decoded::More;
        }
        input.advance(HEADER);
        // Copied, not split off: a buffer that nobody shares is filled again where it is.
        let body = input[..len].to_vec();
        input.advance(len);
        Decoded::Frame(Frame { version, flags, stream, opcode, body })
    }

    /// Gives up the frame at the front of `input`, of which the rest is still to come: it will be
    /// passed over. Its stream, to be answered.
    pub(super) fn give_up(&mut self, input: &mut BytesMut) -> Option<i16> {
        let header = *input.first_chunk::<HEADER>()?;
        input.advance(HEADER);
        self.skip = body_len(&header);
        Some(i16::from_be_bytes([header[2], header[3]]))
    }

    /// True when it is in the middle of nothing.
    pub(super) fn is_between(&self) -> bool {
        self.skip == 0
    }
}

fn body_len(header: &[u8; HEADER]) -> usize {
    let len = u32::from_be_bytes([header[5], header[6], header[7], header[8]]);
    usize::try_from(len).unwrap_or(usize::MAX)
}

/// Writes the header of an answer into the [`HEADER`] bytes that were left free before its body.
pub(super) fn seal(out: &mut [u8], version: Version, flags: u8, stream: i16, opcode: u8) {
    let len = u32::try_from(out.len().saturating_sub(HEADER)).unwrap_or(u32::MAX);
    if let Some(header) = out.first_chunk_mut::<HEADER>() {
        header[0] = version as u8 | RESPONSE;
        header[1] = flags;
        header[2..4].copy_from_slice(&stream.to_be_bytes());
        header[4] = opcode;
        header[5..].copy_from_slice(&len.to_be_bytes());
    }
}
