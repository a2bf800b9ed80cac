//! Many prepared statements under way on one connection, as drivers have them.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::{
    CqlConnection, CqlFailure, CqlResult, HEADER, MAX_ANSWER, PreparedId, invalid, opcode,
    put_execute, refusal, result_of,
};

/// Bytes that are read at a time.
const READ: usize = 16 << 10;

/// What came on a stream.
pub type PipedAnswer = (i16, Result<CqlResult, CqlFailure>);

/// A connection on which statements are told apart by the numbers of their streams. What one call
/// has put waits for [`CqlPipe::flush`], so that many go out together.
#[derive(Debug)]
pub struct CqlPipe {
    stream: TcpStream,
    out: Vec<u8>,
    /// What has come: from `done` on it was not looked at yet.
    input: Vec<u8>,
    done: usize,
}

impl CqlConnection {
    /// Gives the connection over to many statements at a time.
    #[must_use]
    pub fn into_pipe(self) -> CqlPipe {
        CqlPipe { stream: self.stream, out: Vec::new(), input: Vec::new(), done: 0 }
    }
}

impl CqlPipe {
    /// Puts a prepared statement with `values` on `stream`, on which none may be under way.
    pub fn put(&mut self, stream: i16, id: &PreparedId, level: u16, values: &[&[u8]]) {
        put_execute(&mut self.out, stream, id, level, values);
    }

    /// Sends what was put.
    ///
    /// # Errors
    /// The connection's.
    pub async fn flush(&mut self) -> std::io::Result<()> {
        self.stream.write_all(&self.out).await?;
        self.out.clear();
        Ok(())
    }

    /// The next answer that has come already, and its stream.
    ///
    /// # Errors
    /// [`CqlFailure::Io`]: this is no answer, and the connection is of no more use.
    pub fn take_answer(&mut self) -> Result<Option<PipedAnswer>, CqlFailure> {
        let input = &self.input[self.done..];
        let Some(header) = input.first_chunk::<HEADER>() else { return Ok(None) };
        let len = u32::from_be_bytes([header[5], header[6], header[7], header[8]]) as usize;
        if len > MAX_ANSWER {
            return Err(invalid("an answer that is too long"));
        }
        let Some(body) = input.get(HEADER..HEADER + len) else { return Ok(None) };
        let stream = i16::from_be_bytes([header[2], header[3]]);
        let result = match header[4] {
            opcode::RESULT => Ok(result_of(body)),
            opcode::ERROR => Err(refusal(header[1], body)),
            _ => return Err(invalid("neither a result nor an error")),
        };
        self.done += HEADER + len;
        Ok(Some((stream, result)))
    }

    /// Waits until more has come.
    ///
    /// # Errors
    /// The connection's, its end among them.
    pub async fn fill(&mut self) -> std::io::Result<()> {
        self.input.drain(..self.done);
        self.done = 0;
        self.input.reserve(READ);
        match self.stream.read_buf(&mut self.input).await? {
            0 => Err(std::io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }
}
