//! Frames from and onto a byte stream of any kind, and the queue in between.

use std::collections::BTreeMap;
use std::io;

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::net::codec::{self, CodecError, FrameHead};

/// Room that is kept for reading.
const READ_BYTES: usize = 64 << 10;

/// A read buffer that has grown beyond this is given back when it is empty.
const KEEP_READ_BYTES: usize = 1 << 20;

/// Frames up to this size are written together and pass larger ones in the queue.
const SMALL_FRAME_BYTES: usize = 64 << 10;

/// Small frames are gathered up to about this much for one write.
const GATHER_BYTES: usize = 256 << 10;

/// Why a stream brings no more frames.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReadEnd {
    /// The peer closed between two frames.
    #[error("the peer closed the connection")]
    Closed,
    /// The peer closed within a frame.
    #[error("the peer closed the connection within a frame")]
    Cut,
    /// The stream failed.
    #[error("read: {0}")]
    Io(#[from] io::Error),
    /// The peer does not speak our language.
    #[error("garbage: {0}")]
    Garbage(#[from] CodecError),
}

/// Cuts a byte stream into frames. Holds at most one frame and [`READ_BYTES`], and grows no
/// further ahead of the bytes that have come than to twice their number.
#[derive(Debug)]
pub(super) struct FrameReader<R> {
    stream: R,
    buffer: BytesMut,
    max_payload_bytes: usize,
}

impl<R: AsyncRead + Unpin> FrameReader<R> {
    pub(super) fn new(stream: R, max_payload_bytes: usize) -> Self {
        Self { stream, buffer: BytesMut::new(), max_payload_bytes }
    }

    /// Changes the bound for the frames to come: during the handshake it is much lower.
    pub(super) fn set_max_payload_bytes(&mut self, max_payload_bytes: usize) {
        self.max_payload_bytes = max_payload_bytes;
    }

    /// The next frame, if it is already here, whole and sound. [`FrameReader::consume`] it after.
    pub(super) fn buffered(&self) -> Result<Option<(FrameHead, &[u8])>, CodecError> {
        let Some(head) = codec::read_head(&self.buffer, self.max_payload_bytes)? else {
            return Ok(None);
        };
        match self.buffer.get(..head.frame_bytes()) {
            Some(frame) => codec::open_frame(frame, self.max_payload_bytes).map(Some),
            None => Ok(None),
        }
    }

    /// Drops the frame that [`FrameReader::buffered`] has shown.
    pub(super) fn consume(&mut self, head: FrameHead) {
        self.buffer.advance(head.frame_bytes().min(self.buffer.len()));
        if self.buffer.is_empty() && self.buffer.capacity() > KEEP_READ_BYTES {
            self.buffer = BytesMut::new();
        }
    }

    /// Reads what there is, at least one byte, and says how many.
    pub(super) async fn fill(&mut self) -> Result<usize, ReadEnd> {
        let missing = match codec::read_head(&self.buffer, self.max_payload_bytes)? {
            Some(head) => head.frame_bytes().saturating_sub(self.buffer.len()),
            None => 0,
        };
        self.buffer.reserve(missing.min(self.buffer.len()).max(READ_BYTES));
        match self.stream.read_buf(&mut self.buffer).await? {
            0 if self.buffer.is_empty() => Err(ReadEnd::Closed),
            0 => Err(ReadEnd::Cut),
            bytes => Ok(bytes),
        }
    }

    /// Waits until a frame is here ([`FrameReader::buffered`] shows it then).
    pub(super) async fn wait(&mut self) -> Result<(), ReadEnd> {
        while self.buffered()?.is_none() {
            self.fill().await?;
        }
        Ok(())
    }
}

/// After a read of so many bytes there may well be more: time to let others go first.
pub(super) fn is_busy(bytes: usize) -> bool {
    bytes >= READ_BYTES / 2
}

/// Frames that wait to be written, oldest first, but small ones before large ones: a record of
/// many megabytes delays the ping behind it by no more than its own time on the wire. (Large
/// frames are not cut into pieces: on one connection a small frame can still wait for one large.)
#[derive(Debug, Default)]
pub(super) struct SendQueue {
    small: BTreeMap<u64, Bytes>,
    large: BTreeMap<u64, Bytes>,
    bytes: usize,
}

impl SendQueue {
    /// Appends `frame` under an `id` greater than any before.
    pub(super) fn push(&mut self, id: u64, frame: Bytes) {
        self.bytes += frame.len();
        let line = if frame.len() <= SMALL_FRAME_BYTES { &mut self.small } else { &mut self.large };
        line.insert(id, frame);
    }

    /// Takes the frame `id` out again. False: it has gone already.
    pub(super) fn remove(&mut self, id: u64) -> bool {
        let frame = self.small.remove(&id).or_else(|| self.large.remove(&id));
        self.bytes -= frame.as_ref().map_or(0, Bytes::len);
        frame.is_some()
    }

    /// Is the frame `id` still here?
    pub(super) fn contains(&self, id: u64) -> bool {
        self.small.contains_key(&id) || self.large.contains_key(&id)
    }

    /// Bytes that wait.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// True when nothing waits.
    pub(super) fn is_empty(&self) -> bool {
        self.small.is_empty() && self.large.is_empty()
    }

    /// Moves to the empty `batch` what should be written next: small frames up to [`GATHER_BYTES`], then one
    /// large one, so that neither kind keeps the other waiting for ever.
    pub(super) fn take(&mut self, batch: &mut Vec<(u64, Bytes)>) {
        let mut gathered = 0;
        while gathered < GATHER_BYTES
            && let Some((id, frame)) = self.small.pop_first()
        {
            gathered += frame.len();
            batch.push((id, frame));
        }
        batch.extend(self.large.pop_first());
        self.bytes -= batch.iter().map(|(_, frame)| frame.len()).sum::<usize>();
    }

    /// Forgets everything.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}

/// Writes all of `frames`, gathering small ones. Tells `wrote` after each write by how many bytes
/// it went on, so that a failure leaves behind which frames were touched.
pub(super) async fn write_frames<W: AsyncWrite + Unpin>(
    stream: &mut W,
    frames: &[(u64, Bytes)],
    gather: &mut BytesMut,
    wrote: &mut (impl FnMut(usize) + Send),
) -> io::Result<()> {
    gather.clear();
    for (_, frame) in frames {
        if frame.len() <= SMALL_FRAME_BYTES {
            gather.extend_from_slice(frame);
        } else {
            write_all(stream, gather, wrote).await?;
            gather.clear();
            write_all(stream, frame, wrote).await?;
        }
    }
    write_all(stream, gather, wrote).await?;
    stream.flush().await
}

async fn write_all<W: AsyncWrite + Unpin>(
    stream: &mut W,
    mut bytes: &[u8],
    wrote: &mut (impl FnMut(usize) + Send),
) -> io::Result<()> {
    while !bytes.is_empty() {
        let count = stream.write(bytes).await?;
        if count == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        wrote(count);
        bytes = &bytes[count..];
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::codec::{FrameKind, encode_frame};

    const MAX: usize = 1 << 20;

    fn frame(payload_bytes: usize) -> Bytes {
        encode_frame(FrameKind::Ping, 0, &vec![7; payload_bytes], MAX).expect("below the bound")
    }

    async fn payload_sizes(stream: &[u8], max: usize) -> (Vec<usize>, ReadEnd) {
        let mut reader = FrameReader::new(stream, max);
        let mut sizes = Vec::new();
        loop {
            if let Err(end) = reader.wait().await {
                return (sizes, end);
            }
            let (head, payload) = reader.buffered().expect("sound").expect("whole");
            sizes.push(payload.len());
            reader.consume(head);
        }
    }

    #[tokio::test]
    async fn frames_of_all_sizes_come_out_of_the_stream_as_they_went_in() {
        let sizes = [0, 1, 100, READ_BYTES - 28, READ_BYTES, 500_000, 3, MAX];
        let frames: Vec<_> = sizes.iter().map(|&size| (0, frame(size))).collect();
        let mut stream = Vec::new();
        let mut written = 0;
        write_frames(&mut stream, &frames, &mut BytesMut::new(), &mut |count| written += count)
            .await
            .expect("a vector takes everything");
        assert_eq!(written, stream.len());
        let (seen, end) = payload_sizes(&stream, MAX).await;
        assert_eq!(seen, sizes);
        assert!(matches!(end, ReadEnd::Closed), "{end}");
    }

    #[tokio::test]
    async fn half_frames_and_too_large_ones_end_the_stream() {
        let (_, end) = payload_sizes(&frame(100)[..90], MAX).await;
        assert!(matches!(end, ReadEnd::Cut), "{end}");
        let (_, end) = payload_sizes(&frame(100), 99).await;
        assert!(matches!(end, ReadEnd::Garbage(CodecError::TooLarge { .. })), "{end}");
    }

    #[tokio::test]
    async fn an_announced_length_alone_makes_no_buffer_grow() {
        let head = &frame(MAX)[..1000];
        let mut reader = FrameReader::new(head, MAX);
        reader.fill().await.expect("the head");
        assert!(reader.fill().await.is_err());
        assert!(reader.buffer.capacity() <= 2 * READ_BYTES, "{}", reader.buffer.capacity());
    }

    #[test]
    fn small_frames_pass_large_ones_and_large_ones_still_go() {
        let mut queue = SendQueue::default();
        queue.push(1, frame(SMALL_FRAME_BYTES));
        queue.push(2, frame(SMALL_FRAME_BYTES));
        for id in 3..100 {
            queue.push(id, frame(10_000));
        }
        let mut batch = Vec::new();
        queue.take(&mut batch);
        let ids: Vec<u64> = batch.iter().map(|(id, _)| *id).collect();
        assert_eq!(ids[0], 3);
        assert_eq!(ids.last(), Some(&1));
        assert!(batch.len() < 30 && !queue.is_empty());
    }

    #[test]
    fn the_queue_counts_its_bytes() {
        let mut queue = SendQueue::default();
        queue.push(1, frame(10));
        queue.push(2, frame(SMALL_FRAME_BYTES));
        let all = queue.bytes();
        assert!(queue.remove(2) && !queue.remove(2) && queue.contains(1));
        assert_eq!(queue.bytes(), frame(10).len());
        assert!(all > SMALL_FRAME_BYTES);
        queue.take(&mut Vec::new());
        assert!(queue.is_empty() && queue.bytes() == 0);
    }
}
