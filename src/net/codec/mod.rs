//! How peer messages look on the wire: one frame per message.
//!
//! ```text
//!  0      3        4     5          8         12          20          28
//!  | HNG  | format | kind | 0 0 0   | length  | stream    | checksum  | payload …
//!    magic  u8       u8    reserved   u32       u64         u64         `length` bytes
//! ```
//!
//! Numbers are little-endian. `format` changes when this layout or the payload encoding does
//! (what peers may *say* has its own number, agreed in the handshake).
//! `stream` pairs an answer with its question. The checksum is xxh3-64 of the payload, seeded with
//! the xxh3-64 of the twenty bytes before it: a frame that was damaged or put together from two
//! fails as a whole. TCP's own sixteen bits let through about one damaged segment in 65,536
//! (Stone and Partridge, "When the CRC and TCP checksum disagree", 2000).
//!
//! The payload is [`Header`] and message as [`crate::binary`] encodes plain data. Its length is
//! checked before a byte is stored for it, and every inner length before anything is allocated.
//!
//! Encoding and decoding copy a value once each. A frame is built whole, in one buffer of its own,
//! since it may wait in a queue; scattered writes that spare large values that copy are left out
//! until a profile asks for them.
//!
//! No IO here: the simulator's transport sends the very same frames through memory.

use bytes::{Bytes, BytesMut};
use serde::Serialize;
use serde::de::DeserializeOwned;
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use crate::binary::{self, BinaryError};
use crate::net::messages::{Header, Request, Response};

/// Bytes before the payload.
pub const FRAME_HEAD_BYTES: usize = 28;

/// The largest payload by default: a record of 64 MiB and 1 MiB of all else.
pub const DEFAULT_MAX_PAYLOAD_BYTES: usize = 65 << 20;

/// The first bytes of every frame.
const MAGIC: [u8; 3] = *b"HNG";

/// Layout and payload encoding, as described above.
const FORMAT: u8 = 1;

/// Head bytes that the checksum covers.
const CHECKED_HEAD_BYTES: usize = 20;

/// Bytes that are not what they should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// Not a Henge peer, or out of step.
    #[error("no frame begins here: the first bytes are {found:02x?}")]
    Magic {
        /// What stands in place of the magic.
        found: [u8; 3],
    },
    /// Another version of this module.
    #[error("frame format {found}, this node speaks {FORMAT}: upgrade the older node")]
    Format {
        /// The frame's format.
        found: u8,
    },
    /// The head is damaged, or from the future.
    #[error("frame kind {kind} is unknown, or its reserved bytes are in use")]
    Kind {
        /// The frame's kind.
        kind: u8,
    },
    /// A payload larger than allowed, met before anything was stored for it.
    #[error("a payload of {got} bytes, at most {max} are allowed")]
    TooLarge {
        /// The bound.
        max: usize,
        /// The announced or encoded length.
        got: usize,
    },
    /// Fewer or more bytes than the head announces.
    #[error("the frame should have {expected} bytes and has {got}")]
    Length {
        /// By the head.
        expected: usize,
        /// Given.
        got: usize,
    },
    /// Bytes were changed on the way.
    #[error("the frame's checksum does not match")]
    Checksum,
    /// The payload is no message, or not the one that was expected.
    #[error("not a message: {what}")]
    Payload {
        /// The decoder's words.
        what: String,
    },
}

impl From<BinaryError> for CodecError {
    fn from(error: BinaryError) -> Self {
        Self::Payload { what: error.to_string() }
    }
}

/// What a frame carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum FrameKind {
    /// First frame of a connection: who is calling.
    Hello = 1,
    /// Answer to [`FrameKind::Hello`]: who is being called.
    Welcome = 2,
    /// Answer to either: the reason, as text. The connection ends.
    Refuse = 3,
    /// [`Header`] and [`Request`].
    Request = 4,
    /// [`Header`] and [`Response`].
    Response = 5,
    /// Is the connection alive? Empty.
    Ping = 6,
    /// It is. Empty.
    Pong = 7,
}

impl FrameKind {
    fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            1 => Self::Hello,
            2 => Self::Welcome,
            3 => Self::Refuse,
            4 => Self::Request,
            5 => Self::Response,
            6 => Self::Ping,
            7 => Self::Pong,
            _ => return None,
        })
    }
}

/// The head of a frame, checked in itself; the checksum is not looked at yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameHead {
    /// What the frame carries.
    pub kind: FrameKind,
    /// Which question it belongs to; 0 where there is none.
    pub stream: u64,
    /// Bytes after the head, within the bound that the head was read with.
    pub payload_bytes: usize,
}

impl FrameHead {
    /// Bytes of the whole frame.
    #[must_use]
    pub fn frame_bytes(&self) -> usize {
        FRAME_HEAD_BYTES + self.payload_bytes
    }
}

/// Reads the head at the start of `bytes`. `None`: there are not enough bytes yet; what is there
/// may be the beginning of a frame.
///
/// # Errors
/// [`CodecError`] as soon as the bytes cannot become a frame with a payload of at most
/// `max_payload_bytes`.
pub fn read_head(bytes: &[u8], max_payload_bytes: usize) -> Result<Option<FrameHead>, CodecError> {
    let seen = bytes.len().min(MAGIC.len());
    if bytes[..seen] != MAGIC[..seen] {
        let mut found = [0; 3];
        found[..seen].copy_from_slice(&bytes[..seen]);
        return Err(CodecError::Magic { found });
    }
    if let Some(&found) = bytes.get(3)
        && found != FORMAT
    {
        return Err(CodecError::Format { found });
    }
    let Some(head) = bytes.first_chunk::<FRAME_HEAD_BYTES>() else { return Ok(None) };
    let kind = match FrameKind::from_byte(head[4]) {
        Some(kind) if head[5..8] == [0, 0, 0] => kind,
        _ => return Err(CodecError::Kind { kind: head[4] }),
    };
    let length = u32::from_le_bytes([head[8], head[9], head[10], head[11]]);
    let payload_bytes = usize::try_from(length).unwrap_or(usize::MAX);
    if payload_bytes > max_payload_bytes {
        return Err(CodecError::TooLarge { max: max_payload_bytes, got: payload_bytes });
    }
    Ok(Some(FrameHead { kind, stream: read_u64(head, 12), payload_bytes }))
}

/// The payload of one whole frame, after its checksum was compared.
///
/// # Errors
/// [`CodecError`] when `frame` is not exactly one sound frame.
pub fn open_frame(
    frame: &[u8],
    max_payload_bytes: usize,
) -> Result<(FrameHead, &[u8]), CodecError> {
    let length = |expected| CodecError::Length { expected, got: frame.len() };
    let head = read_head(frame, max_payload_bytes)?.ok_or_else(|| length(FRAME_HEAD_BYTES))?;
    if frame.len() != head.frame_bytes() {
        return Err(length(head.frame_bytes()));
    }
    let payload = &frame[FRAME_HEAD_BYTES..];
    if read_u64(frame, CHECKED_HEAD_BYTES) != checksum(frame, payload) {
        return Err(CodecError::Checksum);
    }
    Ok((head, payload))
}

/// A frame of `kind` that carries `payload` as it is.
///
/// # Errors
/// [`CodecError::TooLarge`].
pub fn encode_frame(
    kind: FrameKind,
    stream: u64,
    payload: &[u8],
    max_payload_bytes: usize,
) -> Result<Bytes, CodecError> {
    if payload.len() > max_payload_bytes {
        return Err(CodecError::TooLarge { max: max_payload_bytes, got: payload.len() });
    }
    let mut frame = begin_frame(payload.len());
    frame.extend_from_slice(payload);
    finish_frame(frame, kind, stream, max_payload_bytes)
}

/// The frame that asks `request` on `stream`.
///
/// # Errors
/// [`CodecError::TooLarge`].
pub fn encode_request(
    stream: u64,
    header: &Header,
    request: &Request,
    max_payload_bytes: usize,
) -> Result<Bytes, CodecError> {
    encode_message(FrameKind::Request, stream, &(header, request), max_payload_bytes)
}

/// The frame that answers `response` on `stream`.
///
/// # Errors
/// [`CodecError::TooLarge`].
pub fn encode_response(
    stream: u64,
    header: &Header,
    response: &Response,
    max_payload_bytes: usize,
) -> Result<Bytes, CodecError> {
    encode_message(FrameKind::Response, stream, &(header, response), max_payload_bytes)
}

/// The request in one whole frame, with its stream.
///
/// # Errors
/// [`CodecError`], always when any bit of the frame was changed.
pub fn decode_request(
    frame: &[u8],
    max_payload_bytes: usize,
) -> Result<(u64, Header, Request), CodecError> {
    let (head, payload) = open_frame(frame, max_payload_bytes)?;
    expect_kind(head, FrameKind::Request)?;
    let (header, request) = decode_payload(payload)?;
    Ok((head.stream, header, request))
}

/// The answer in one whole frame, with its stream.
///
/// # Errors
/// [`CodecError`], always when any bit of the frame was changed.
pub fn decode_response(
    frame: &[u8],
    max_payload_bytes: usize,
) -> Result<(u64, Header, Response), CodecError> {
    let (head, payload) = open_frame(frame, max_payload_bytes)?;
    expect_kind(head, FrameKind::Response)?;
    let (header, response) = decode_payload(payload)?;
    Ok((head.stream, header, response))
}

/// A frame of `kind` whose payload is `message`.
///
/// # Errors
/// [`CodecError::TooLarge`].
pub fn encode_message<T: Serialize>(
    kind: FrameKind,
    stream: u64,
    message: &T,
    max_payload_bytes: usize,
) -> Result<Bytes, CodecError> {
    let bytes = binary::measure(message)?;
    if bytes > max_payload_bytes {
        return Err(CodecError::TooLarge { max: max_payload_bytes, got: bytes });
    }
    let mut frame = begin_frame(bytes);
    binary::append(message, &mut frame)?;
    finish_frame(frame, kind, stream, max_payload_bytes)
}

/// The message in a payload that [`open_frame`] has checked.
///
/// # Errors
/// [`CodecError::Payload`] when it is something else, or bytes are left over.
pub fn decode_payload<T: DeserializeOwned>(payload: &[u8]) -> Result<T, CodecError> {
    Ok(binary::decode(payload)?)
}

/// The message at the start of a payload, and how many bytes it takes: for the handshake, whose
/// messages may grow at their end.
///
/// # Errors
/// [`CodecError::Payload`].
pub fn decode_prefix<T: DeserializeOwned>(payload: &[u8]) -> Result<(T, usize), CodecError> {
    Ok(binary::decode_prefix(payload)?)
}

fn begin_frame(payload_bytes: usize) -> BytesMut {
    let mut frame = BytesMut::with_capacity(FRAME_HEAD_BYTES + payload_bytes);
    frame.resize(FRAME_HEAD_BYTES, 0);
    frame
}

fn finish_frame(
    mut frame: BytesMut,
    kind: FrameKind,
    stream: u64,
    max_payload_bytes: usize,
) -> Result<Bytes, CodecError> {
    let got = frame.len() - FRAME_HEAD_BYTES;
    let too_large = CodecError::TooLarge { max: max_payload_bytes, got };
    let length = match u32::try_from(got) {
        Ok(length) if got <= max_payload_bytes => length,
        _ => return Err(too_large),
    };
    frame[..3].copy_from_slice(&MAGIC);
    frame[3] = FORMAT;
    frame[4] = kind as u8;
    frame[8..12].copy_from_slice(&length.to_le_bytes());
    frame[12..CHECKED_HEAD_BYTES].copy_from_slice(&stream.to_le_bytes());
    let sum = checksum(&frame, &frame[FRAME_HEAD_BYTES..]);
    frame[CHECKED_HEAD_BYTES..FRAME_HEAD_BYTES].copy_from_slice(&sum.to_le_bytes());
    Ok(frame.freeze())
}

fn checksum(frame: &[u8], payload: &[u8]) -> u64 {
    xxh3_64_with_seed(payload, xxh3_64(&frame[..CHECKED_HEAD_BYTES]))
}

fn expect_kind(head: FrameHead, expected: FrameKind) -> Result<(), CodecError> {
    if head.kind == expected {
        return Ok(());
    }
    Err(unexpected(head.kind))
}

/// A sound frame in a place where its kind does not belong.
pub(crate) fn unexpected(kind: FrameKind) -> CodecError {
    CodecError::Payload { what: format!("a frame of kind {kind:?} does not belong here") }
}

/// The number at `at`, which the caller knows to lie within `bytes`.
fn read_u64(bytes: &[u8], at: usize) -> u64 {
    let mut number = [0; 8];
    number.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(number)
}

#[cfg(test)]
mod tests;
