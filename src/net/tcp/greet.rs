//! The handshake's bytes; its rules are in [`crate::net::handshake`].

use std::io;

use serde::Serialize;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};

use super::shared::Shared;
use super::wire::{FrameReader, ReadEnd};
use crate::net::codec::{self, CodecError, FrameKind};
use crate::net::handshake::{Hello, MAX_HELLO_BYTES};
use crate::types::NodeId;

/// Longest reason that is passed on, in characters.
const MAX_REASON_CHARS: usize = 512;

/// Why a handshake led to nothing.
#[derive(Debug, thiserror::Error)]
pub(super) enum GreetEnd {
    #[error("the peer refused this node: {0}")]
    TheyRefused(String),
    #[error("this node refused the peer: {0}")]
    WeRefused(String),
    #[error(transparent)]
    Read(#[from] ReadEnd),
    #[error("write: {0}")]
    Write(#[from] io::Error),
    #[error("the handshake timed out")]
    Timeout,
}

impl From<CodecError> for GreetEnd {
    fn from(error: CodecError) -> Self {
        Self::Read(ReadEnd::Garbage(error))
    }
}

/// Introduces this node to the peer that should be `expected`, and hears who it is.
pub(super) async fn call<R, W>(
    shared: &Shared,
    reader: &mut FrameReader<R>,
    writer: &mut W,
    expected: NodeId,
) -> Result<Hello, GreetEnd>
where
    R: AsyncRead + Unpin + Send,
    W: AsyncWrite + Unpin + Send,
{
    within(shared, async {
        let ours = shared.admission.hello();
        send(writer, FrameKind::Hello, &ours).await?;
        let theirs = receive(reader, FrameKind::Welcome).await?;
        let verdict = if theirs.node == expected {
            shared.meet(&ours, &theirs)
        } else {
            Err(format!("this is the node {}, and {expected} was expected here", theirs.node))
        };
        match verdict {
            Ok(()) => Ok(theirs),
            Err(why) => refuse(writer, why).await,
        }
    })
    .await
}

/// Hears who calls, and introduces this node if the caller is welcome.
pub(super) async fn answer<R, W>(
    shared: &Shared,
    reader: &mut FrameReader<R>,
    writer: &mut W,
) -> Result<Hello, GreetEnd>
where
    R: AsyncRead + Unpin + Send,
    W: AsyncWrite + Unpin + Send,
{
    within(shared, async {
        let theirs = receive(reader, FrameKind::Hello).await?;
        let ours = shared.admission.hello();
        let verdict = match shared.service.get() {
            None => Err("the node is still starting".to_owned()),
            Some(_) if shared.is_stopping() => Err("the node is stopping".to_owned()),
            Some(_) => shared.meet(&ours, &theirs),
        };
        match verdict {
            Ok(()) => {
                send(writer, FrameKind::Welcome, &ours).await?;
                Ok(theirs)
            }
            Err(why) => refuse(writer, why).await,
        }
    })
    .await
}

/// The reason in a frame of kind [`FrameKind::Refuse`], made fit for a log.
pub(super) fn reason(payload: &[u8]) -> String {
    String::from_utf8_lossy(payload)
        .chars()
        .filter(|c| !c.is_control())
        .take(MAX_REASON_CHARS)
        .collect()
}

async fn within<T>(
    shared: &Shared,
    greeting: impl Future<Output = Result<T, GreetEnd>>,
) -> Result<T, GreetEnd> {
    let timeout = shared.options.handshake_timeout;
    shared.env.timeout(timeout, greeting).await.unwrap_or(Err(GreetEnd::Timeout))
}

async fn receive<R>(reader: &mut FrameReader<R>, kind: FrameKind) -> Result<Hello, GreetEnd>
where
    R: AsyncRead + Unpin,
{
    reader.wait().await?;
    let Some((head, payload)) = reader.buffered()? else { return Err(ReadEnd::Cut.into()) };
    if head.kind == FrameKind::Refuse {
        return Err(GreetEnd::TheyRefused(reason(payload)));
    }
    if head.kind != kind {
        return Err(codec::unexpected(head.kind).into());
    }
    let (hello, _) = codec::decode_prefix(payload)?;
    reader.consume(head);
    Ok(hello)
}

async fn send<W, T>(writer: &mut W, kind: FrameKind, message: &T) -> Result<(), GreetEnd>
where
    W: AsyncWrite + Unpin,
    T: Serialize,
{
    let frame = codec::encode_message(kind, 0, message, MAX_HELLO_BYTES)?;
    writer.write_all(&frame).await?;
    writer.flush().await?;
    Ok(())
}

/// Tells the peer why, as far as it still listens, and ends the handshake.
async fn refuse<W, T>(writer: &mut W, why: String) -> Result<T, GreetEnd>
where
    W: AsyncWrite + Unpin,
{
    let text: String = why.chars().take(MAX_REASON_CHARS).collect();
    let frame = codec::encode_frame(FrameKind::Refuse, 0, text.as_bytes(), MAX_HELLO_BYTES)?;
    let _ = writer.write_all(&frame).await;
    let _ = writer.shutdown().await;
    Err(GreetEnd::WeRefused(why))
}
