//! Frames: `version flags stream opcode length body`, nine bytes before the body.

use bytes::{Buf as _, BytesMut};

/// The version that is spoken.
pub(super) const VERSION: u8 = 4;

/// The most bytes of a request's body.
pub(super) const MAX_BODY: usize = 16 << 20;

/// A body longer than this is not even passed over: the connection is closed.
const MAX_SKIPPED: usize = 256 << 20;

const HEADER: usize = 9;
const RESPONSE: u8 = 0x80;

/// Flags of a frame.
pub(super) const COMPRESSED: u8 = 0x01;
/// A custom payload stands before the message.
pub(super) const PAYLOAD: u8 = 0x04;

/// What requests and answers are called on the wire.
pub(super) mod opcode {
    pub(crate) const ERROR: u8 = 0x00;
    pub(crate) const STARTUP: u8 = 0x01;
    pub(crate) const READY: u8 = 0x02;
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
}

/// A request's frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Frame {
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
    /// Bytes of a body too long that are still to be passed over.
    skip: usize,
}

impl Decoder {
    /// Takes the next frame off the front of `input`.
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
        if first != VERSION {
            // Versions 1 and 2 had a stream of one byte; anything else has two.
            let stream = match (first, input.get(2), input.get(3)) {
                (1 | 2, Some(stream), _) => i16::from(*stream as i8),
                (_, Some(high), Some(low)) => i16::from_be_bytes([*high, *low]),
                _ => return Decoded::More,
            };
            return Decoded::OtherVersion { version: first, stream };
        }
        let Some(header) = input.first_chunk::<HEADER>() else { return Decoded::More };
        let (flags, opcode) = (header[1], header[4]);
        let stream = i16::from_be_bytes([header[2], header[3]]);
        let len = u32::from_be_bytes([header[5], header[6], header[7], header[8]]);
        let len = usize::try_from(len).unwrap_or(usize::MAX);
        if len > MAX_SKIPPED {
            return Decoded::Hopeless;
        }
        if len > MAX_BODY {
            input.advance(HEADER);
            self.skip = len;
            return Decoded::TooLong { stream, len };
        }
        if input.len() < HEADER + len {
            // Room for what was promised, which is bounded.
            input.reserve(HEADER + len - input.len());
            return Decoded::More;
        }
        input.advance(HEADER);
        let body = input.split_to(len).to_vec();
        Decoded::Frame(Frame { flags, stream, opcode, body })
    }
}

/// An answer's bytes.
pub(super) fn encode(version: u8, stream: i16, opcode: u8, body: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEADER + body.len());
    out.push(version | RESPONSE);
    out.push(0);
    out.extend_from_slice(&stream.to_be_bytes());
    out.push(opcode);
    out.extend_from_slice(&u32::try_from(body.len()).unwrap_or(u32::MAX).to_be_bytes());
    out.extend_from_slice(body);
    out
}
