//! A bare HTTP/1.1 connection for measuring: one request under way, nothing kept of an answer but
//! what the benchmark needs.
//!
//! It understands what Henge answers (`Content-Length`, chunked, and answers without a body) and
//! refuses the rest. Other programs should use [`crate::client`].

use std::io;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// The largest head of an answer.
const MAX_HEAD: usize = 64 << 10;

/// One connection.
pub struct Connection {
    stream: TcpStream,
    /// Bytes that came and are not used up yet: `start..end` of it.
    buffer: Vec<u8>,
    start: usize,
    end: usize,
}

/// What is kept of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// What was asked for, if it was there.
    pub kept: Option<String>,
    /// The first bytes of the body of an error.
    pub problem: Option<String>,
    /// The server will close the connection.
    pub closes: bool,
}

/// What of an answer is wanted beside its status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Want {
    /// Nothing.
    Nothing,
    /// `Henge-Context`.
    Context,
    /// `ETag`.
    Etag,
    /// The first 2,000 bytes of the body.
    Body,
}

impl Want {
    fn header(self) -> Option<&'static [u8]> {
        match self {
            Self::Nothing | Self::Body => None,
            Self::Context => Some(b"henge-context"),
            Self::Etag => Some(b"etag"),
        }
    }
}

/// What a head says.
#[derive(Debug, Default, PartialEq, Eq)]
struct Head {
    status: u16,
    length: usize,
    chunked: bool,
    closes: bool,
    kept: Option<String>,
}

fn invalid(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why.to_owned())
}

impl Connection {
    /// Connects to `host:port`.
    pub async fn open(authority: &str) -> io::Result<Self> {
        let stream = TcpStream::connect(authority).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, buffer: vec![0; 8 << 10], start: 0, end: 0 })
    }

    /// Sends a whole request and reads the whole answer. After an error the connection is useless.
    pub async fn exchange(&mut self, request: &[u8], want: Want) -> io::Result<Answer> {
        self.stream.write_all(request).await?;
        let mut head = self.head(want).await?;
        let bodyless = matches!(head.status, 204 | 304) || head.status < 200;
        let problem = if bodyless {
            None
        } else if head.chunked {
            self.skip_chunks().await?;
            None
        } else if want == Want::Body && head.status < 400 {
            head.kept = self.body(head.length, 2_000).await?;
            None
        } else {
            self.body(head.length, if head.status >= 400 { 400 } else { 0 }).await?
        };
        Ok(Answer { status: head.status, kept: head.kept, problem, closes: head.closes })
    }

    /// Reads more. At least one byte has come if it succeeds.
    async fn fill(&mut self) -> io::Result<()> {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        } else if self.end == self.buffer.len() {
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
            if self.end == self.buffer.len() {
                self.buffer.resize(2 * self.end, 0);
            }
        }
        let count = self.stream.read(&mut self.buffer[self.end..]).await?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.end += count;
        Ok(())
    }

    async fn head(&mut self, want: Want) -> io::Result<Head> {
        let mut looked = 0;
        loop {
            let held = &self.buffer[self.start..self.end];
            let from = usize::saturating_sub(looked, 3);
            if let Some(at) = held[from..].windows(4).position(|four| four == b"\r\n\r\n") {
                let end = from + at;
                let head = parse_head(&held[..end], want)?;
                self.start += end + 4;
                return Ok(head);
            }
            looked = held.len();
            if looked > MAX_HEAD {
                return Err(invalid("the head of the answer does not end"));
            }
            self.fill().await?;
        }
    }

    /// Reads the body, and keeps as much of its start.
    async fn body(&mut self, length: usize, keep: usize) -> io::Result<Option<String>> {
        let mut left = length;
        let mut kept = Vec::new();
        loop {
            let held = &self.buffer[self.start..self.end];
            let count = held.len().min(left);
            kept.extend_from_slice(&held[..count.min(keep - kept.len())]);
            self.start += count;
            left -= count;
            if left == 0 {
                let text = || String::from_utf8_lossy(&kept).into_owned();
                return Ok((!kept.is_empty()).then(text));
            }
            self.fill().await?;
        }
    }

    async fn skip_chunks(&mut self) -> io::Result<()> {
        loop {
            let line = self.line().await?;
            let digits = line.split(';').next().unwrap_or_default().trim();
            let length = usize::from_str_radix(digits, 16)
                .map_err(|_| invalid("a chunk without a length"))?;
            if length == 0 {
                // Trailers, and the empty line that ends them.
                while !self.line().await?.is_empty() {}
                return Ok(());
            }
            self.body(length, 0).await?;
            self.line().await?;
        }
    }

    async fn line(&mut self) -> io::Result<String> {
        loop {
            let held = &self.buffer[self.start..self.end];
            if let Some(at) = held.windows(2).position(|two| two == b"\r\n") {
                let line = String::from_utf8_lossy(&held[..at]).into_owned();
                self.start += at + 2;
                return Ok(line);
            }
            if held.len() > MAX_HEAD {
                return Err(invalid("a line of the answer does not end"));
            }
            self.fill().await?;
        }
    }
}

fn parse_head(head: &[u8], want: Want) -> io::Result<Head> {
    let mut lines = head.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii_end);
    let first = lines.next().unwrap_or_default();
    let status = first
        .strip_prefix(b"HTTP/1.1 ")
        .and_then(|rest| rest.get(..3))
        .and_then(|digits| std::str::from_utf8(digits).ok())
        .and_then(|digits| digits.parse().ok())
        .ok_or_else(|| invalid("the answer is not HTTP/1.1"))?;
    let mut parsed = Head { status, ..Head::default() };
    for line in lines {
        let Some(colon) = line.iter().position(|byte| *byte == b':') else { continue };
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        let text = || std::str::from_utf8(value).unwrap_or_default();
        if name.eq_ignore_ascii_case(b"content-length") {
            parsed.length = text().parse().map_err(|_| invalid("a bad Content-Length"))?;
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            parsed.chunked = true;
        } else if name.eq_ignore_ascii_case(b"connection") {
            parsed.closes = value.eq_ignore_ascii_case(b"close");
        } else if want.header().is_some_and(|wanted| name.eq_ignore_ascii_case(wanted)) {
            parsed.kept = Some(text().to_owned());
        }
    }
    Ok(parsed)
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "a scripted server on the real runtime")]
mod tests {
    use super::*;

    /// Answers each request with the next of `answers`, cut into pieces of `piece` bytes.
    async fn server(answers: Vec<&'static str>, piece: usize) -> String {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.set_nodelay(true).unwrap();
            let mut request = [0; 1024];
            for answer in answers {
                assert!(stream.read(&mut request).await.unwrap() > 0);
                for piece in answer.as_bytes().chunks(piece) {
                    stream.write_all(piece).await.unwrap();
                    tokio::task::yield_now().await;
                }
            }
        });
        address
    }

    #[tokio::test]
    async fn answers_of_every_form_are_read_however_they_are_cut() {
        let long = "x".repeat(20_000);
        let long: &'static str =
            format!("HTTP/1.1 200 OK\r\ncontent-length: 20000\r\n\r\n{long}").leak();
        for piece in [1, 7, 100_000] {
            let address = server(
                vec![
                    "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nHenge-Context: ab=\r\n\r\nabc",
                    "HTTP/1.1 204 No Content\r\netag: \"1\"\r\n\r\n",
                    "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n10;x=y\r\n\
                     0123456789abcdef\r\n0\r\nt: v\r\n\r\n",
                    long,
                    "HTTP/1.1 503 X\r\ncontent-length: 5\r\nconnection: close\r\n\r\nsorry",
                ],
                piece,
            )
            .await;
            let mut connection = Connection::open(&address).await.unwrap();
            let mut answers = Vec::new();
            for _ in 0..5 {
                answers.push(connection.exchange(b"GET", Want::Context).await.unwrap());
            }
            let statuses: Vec<_> = answers.iter().map(|answer| answer.status).collect();
            assert_eq!(statuses, [200, 204, 200, 200, 503]);
            assert_eq!(answers[0].kept.as_deref(), Some("ab="));
            assert!(answers[4].closes);
            if piece > 5 {
                assert_eq!(answers[4].problem.as_deref(), Some("sorry"));
            }
        }
    }

    #[tokio::test]
    async fn what_is_no_answer_is_an_error() {
        let bad = [
            "SSH-2.0-x\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: x\r\n\r\n",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nshort",
        ];
        for answer in bad {
            let address = server(vec![answer], 100).await;
            let mut connection = Connection::open(&address).await.unwrap();
            assert!(connection.exchange(b"GET", Want::Nothing).await.is_err(), "{answer}");
        }
    }
}
