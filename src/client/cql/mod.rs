//! A small client of the CQL door: one connection, version 4, one request under way. For the
//! shell, the benchmark and the tests of whole clusters; applications use a driver.

mod answer;
mod pipe;
mod rows;

pub use answer::{CqlAnswer, CqlColumn, CqlPage, CqlPrepared, CqlReply, CqlRow};

use crate::client::Credentials;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

const HEADER: usize = 9;
const REQUEST: u8 = 0x04;

/// The longest answer that is read, in bytes.
const MAX_ANSWER: usize = 64 << 20;

mod opcode {
    pub(super) const ERROR: u8 = 0x00;
    pub(super) const STARTUP: u8 = 0x01;
    pub(super) const READY: u8 = 0x02;
    pub(super) const AUTHENTICATE: u8 = 0x03;
    pub(super) const QUERY: u8 = 0x07;
    pub(super) const RESULT: u8 = 0x08;
    pub(super) const PREPARE: u8 = 0x09;
    pub(super) const EXECUTE: u8 = 0x0A;
    pub(super) const BATCH: u8 = 0x0D;
    pub(super) const AUTH_RESPONSE: u8 = 0x0F;
    pub(super) const AUTH_SUCCESS: u8 = 0x10;
}

/// The code of an error: who asks is not known.
pub const BAD_CREDENTIALS: i32 = 0x0100;

/// A flag of a request's frame: note what is done for it.
const TRACING: u8 = 0x02;

/// A flag of a frame: a custom payload stands first.
const PAYLOAD: u8 = 0x04;

/// The name under which Henge is asked for receipts, and gives them, in custom payloads.
const RECEIPT: &str = "henge-receipt";

/// Flags of a query.
mod with {
    pub(super) const PAGE_SIZE: u8 = 0x04;
    pub(super) const PAGING_STATE: u8 = 0x08;
    pub(super) const SERIAL: u8 = 0x10;
}

/// Rows without their metadata, and values in order.
const FLAGS: u8 = 0x01 | 0x02;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum CqlFailure {
    /// The connection is of no more use.
    #[error("{0}")]
    Io(#[from] std::io::Error),
    /// The server has answered with an error.
    #[error("{message} (code {code:#06x})")]
    Refused {
        /// Its code in the protocol.
        code: i32,
        /// What it says.
        message: String,
    },
}

/// A prepared statement's id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PreparedId(Vec<u8>);

impl CqlFailure {
    /// The request was refused by a node that says that it has had no effect and will have none.
    #[must_use]
    pub fn has_no_effect(&self) -> bool {
        // Unavailable, overloaded, bootstrapping; and from 0x2000 on what is wrong with the request.
        matches!(self, Self::Refused { code: 0x1000..=0x1002 | 0x2000.., .. })
    }
}

/// What is kept of a result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CqlResult {
    /// Rows on the page; 0 for a result that has none.
    pub rows: u32,
    /// Bytes of the answer's body.
    pub bytes: usize,
}

pub use pipe::CqlPipe;
pub use rows::CqlRows;

/// A statement, and how it is to be run.
#[derive(Debug, Clone, Copy)]
pub struct CqlAsk<'a> {
    /// The statement.
    pub text: &'a str,
    /// The protocol's number of a level.
    pub level: u16,
    /// The level of a condition: 8 (SERIAL) or 9 (LOCAL_SERIAL).
    pub serial: u16,
    /// Rows of a page; `None`: all.
    pub page_size: Option<u32>,
    /// Where the page begins.
    pub paging_state: Option<&'a [u8]>,
    /// Note what is done for it.
    pub trace: bool,
    /// Say how it went: see [`CqlReply::receipts`].
    pub receipt: bool,
}

/// One connection.
#[derive(Debug)]
pub struct CqlConnection {
    stream: TcpStream,
    out: Vec<u8>,
    body: Vec<u8>,
    /// Flags of the last answer.
    flags: u8,
}

fn invalid(why: &str) -> CqlFailure {
    CqlFailure::Io(std::io::Error::new(std::io::ErrorKind::InvalidData, why.to_owned()))
}

fn put_len(out: &mut Vec<u8>, len: usize) {
    out.extend_from_slice(&u32::try_from(len).unwrap_or(u32::MAX).to_be_bytes());
}

impl CqlConnection {
    /// Connects to `host:port` and starts up.
    ///
    /// # Errors
    /// [`CqlFailure`].
    pub async fn open(authority: &str) -> Result<Self, CqlFailure> {
        Self::open_as(authority, None).await
    }

    /// The same, saying who it is if the server asks.
    ///
    /// # Errors
    /// [`CqlFailure`].
    pub async fn open_as(
        authority: &str,
        credentials: Option<&Credentials>,
    ) -> Result<Self, CqlFailure> {
        let stream = TcpStream::connect(authority).await?;
        stream.set_nodelay(true)?;
        let mut connection = Self { stream, out: Vec::new(), body: Vec::new(), flags: 0 };
        connection.begin(opcode::STARTUP);
        let out = &mut connection.out;
        out.extend_from_slice(&1u16.to_be_bytes());
        for text in ["CQL_VERSION", "3.4.6"] {
            out.extend_from_slice(&(text.len() as u16).to_be_bytes());
            out.extend_from_slice(text.as_bytes());
        }
        match connection.exchange().await? {
            opcode::READY => Ok(connection),
            opcode::AUTHENTICATE => connection.log_in(credentials).await,
            other => Err(invalid(&format!("STARTUP is answered with {other:#04x}"))),
        }
    }

    async fn log_in(mut self, credentials: Option<&Credentials>) -> Result<Self, CqlFailure> {
        let Some(credentials) = credentials else {
            let message = "this server asks who you are: give a role and its password".to_owned();
            return Err(CqlFailure::Refused { code: BAD_CREDENTIALS, message });
        };
        self.begin(opcode::AUTH_RESPONSE);
        let token = credentials.plain();
        put_len(&mut self.out, token.len());
        self.out.extend_from_slice(&token);
        match self.exchange().await? {
            opcode::AUTH_SUCCESS => Ok(self),
            other => Err(invalid(&format!("AUTH_RESPONSE is answered with {other:#04x}"))),
        }
    }

    /// False once the server has closed the connection, as far as this side has heard, or has sent
    /// what nobody asked for: to be looked at between requests, so that none is lost to a
    /// connection that was dead before.
    #[must_use]
    pub fn is_open(&self) -> bool {
        let waiting = self.stream.try_read(&mut [0]);
        waiting.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock)
    }

    /// Runs a statement without values at QUORUM.
    ///
    /// # Errors
    /// [`CqlFailure`].
    pub async fn query(&mut self, text: &str) -> Result<CqlResult, CqlFailure> {
        self.put_query(text, 4);
        self.result().await
    }

    /// Runs a statement without values, and reads the rows that it answers with; none for one that
    /// has no result. `level`: the protocol's number of a level. A future of it that is dropped
    /// leaves the connection of no more use.
    ///
    /// # Errors
    /// [`CqlFailure`].
    pub async fn rows(&mut self, text: &str, level: u16) -> Result<CqlRows, CqlFailure> {
        self.put_query(text, level);
        Ok(match self.reply().await?.answer {
            CqlAnswer::Page(page) => page.into(),
            _ => CqlRows::default(),
        })
    }

    fn put_query(&mut self, text: &str, level: u16) {
        self.begin(opcode::QUERY);
        put_len(&mut self.out, text.len());
        self.out.extend_from_slice(text.as_bytes());
        self.out.extend_from_slice(&level.to_be_bytes());
        self.out.push(0);
    }

    /// Prepares a statement.
    ///
    /// # Errors
    /// [`CqlFailure`].
    pub async fn prepare(&mut self, text: &str) -> Result<PreparedId, CqlFailure> {
        self.begin(opcode::PREPARE);
        put_len(&mut self.out, text.len());
        self.out.extend_from_slice(text.as_bytes());
        self.result().await?;
        let id = self.body.get(4..6).map(|len| usize::from(u16::from_be_bytes([len[0], len[1]])));
        let id = id.and_then(|len| self.body.get(6..6 + len));
        id.map(|id| PreparedId(id.to_vec())).ok_or_else(|| invalid("a result without an id"))
    }

    /// Runs a prepared statement with `values`. `level`: the protocol's number of a level.
    ///
    /// # Errors
    /// [`CqlFailure`].
    pub async fn execute(
        &mut self,
        id: &PreparedId,
        level: u16,
        values: &[&[u8]],
    ) -> Result<CqlResult, CqlFailure> {
        self.out.clear();
        put_execute(&mut self.out, 1, id, level, values);
        self.result().await
    }

    /// Runs a statement, and reads all of the answer.
    ///
    /// # Errors
    /// [`CqlFailure`].
    pub async fn ask(&mut self, ask: CqlAsk<'_>) -> Result<CqlReply, CqlFailure> {
        self.begin(opcode::QUERY);
        if ask.trace {
            self.out[1] |= TRACING;
        }
        if ask.receipt {
            self.out[1] |= PAYLOAD;
            self.out.extend_from_slice(&1u16.to_be_bytes());
            self.out.extend_from_slice(&(RECEIPT.len() as u16).to_be_bytes());
            self.out.extend_from_slice(RECEIPT.as_bytes());
            put_len(&mut self.out, 0);
        }
        put_len(&mut self.out, ask.text.len());
        self.out.extend_from_slice(ask.text.as_bytes());
        self.out.extend_from_slice(&ask.level.to_be_bytes());
        let mut flags = with::SERIAL;
        flags |= if ask.page_size.is_some() { with::PAGE_SIZE } else { 0 };
        flags |= if ask.paging_state.is_some() { with::PAGING_STATE } else { 0 };
        self.out.push(flags);
        if let Some(size) = ask.page_size {
            self.out.extend_from_slice(&size.to_be_bytes());
        }
        if let Some(state) = ask.paging_state {
            put_len(&mut self.out, state.len());
            self.out.extend_from_slice(state);
        }
        self.out.extend_from_slice(&ask.serial.to_be_bytes());
        self.reply().await
    }

    /// Prepares a statement, and learns its bind markers.
    ///
    /// # Errors
    /// [`CqlFailure`].
    pub async fn prepare_whole(&mut self, text: &str) -> Result<CqlPrepared, CqlFailure> {
        self.begin(opcode::PREPARE);
        put_len(&mut self.out, text.len());
        self.out.extend_from_slice(text.as_bytes());
        match self.reply().await?.answer {
            CqlAnswer::Prepared(prepared) => Ok(prepared),
            _ => Err(invalid("PREPARE is answered with something else")),
        }
    }

    /// Runs a prepared statement once for each of `rows`, in one batch of `kind` (1: unlogged,
    /// 2: counters). At most 65,535 rows.
    ///
    /// # Errors
    /// [`CqlFailure`].
    pub async fn batch(
        &mut self,
        kind: u8,
        id: &[u8],
        rows: &[CqlRow],
        level: u16,
    ) -> Result<CqlReply, CqlFailure> {
        self.begin(opcode::BATCH);
        let out = &mut self.out;
        let put_short = |out: &mut Vec<u8>, len: usize| {
            out.extend_from_slice(&u16::try_from(len).unwrap_or(u16::MAX).to_be_bytes());
        };
        out.push(kind);
        put_short(out, rows.len());
        for row in rows {
            out.push(1);
            put_short(out, id.len());
            out.extend_from_slice(id);
            put_short(out, row.len());
            for value in row {
                match value {
                    Some(bytes) => {
                        put_len(out, bytes.len());
                        out.extend_from_slice(bytes);
                    }
                    None => out.extend_from_slice(&(-1i32).to_be_bytes()),
                }
            }
        }
        out.extend_from_slice(&level.to_be_bytes());
        out.push(0);
        self.reply().await
    }

    async fn reply(&mut self) -> Result<CqlReply, CqlFailure> {
        if self.exchange().await? != opcode::RESULT {
            return Err(invalid("no result"));
        }
        answer::read(self.flags, &self.body).ok_or_else(|| invalid("a result that is none"))
    }

    fn begin(&mut self, opcode: u8) {
        self.out.clear();
        self.out.extend_from_slice(&[REQUEST, 0, 0, 1, opcode, 0, 0, 0, 0]);
    }

    /// Sends what was begun and reads the answer; its opcode.
    async fn exchange(&mut self) -> Result<u8, CqlFailure> {
        let len = u32::try_from(self.out.len() - HEADER).unwrap_or(u32::MAX);
        self.out[5..HEADER].copy_from_slice(&len.to_be_bytes());
        self.stream.write_all(&self.out).await?;
        // Header and, nearly always, body come in one read.
        self.body.clear();
        self.body.reserve(8 << 10);
        let mut whole = HEADER;
        while self.body.len() < whole {
            if self.stream.read_buf(&mut self.body).await? == 0 {
                return Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into());
            }
            if let Some(header) = self.body.first_chunk::<HEADER>() {
                let len = u32::from_be_bytes([header[5], header[6], header[7], header[8]]) as usize;
                if len > MAX_ANSWER {
                    return Err(invalid("an answer that is too long"));
                }
                whole = HEADER + len;
            }
        }
        let opcode = self.body[4];
        self.flags = self.body[1];
        self.body.drain(..HEADER);
        if opcode != opcode::ERROR {
            return Ok(opcode);
        }
        Err(refusal(self.flags, &self.body))
    }

    async fn result(&mut self) -> Result<CqlResult, CqlFailure> {
        if self.exchange().await? != opcode::RESULT {
            return Err(invalid("no result"));
        }
        Ok(result_of(&self.body))
    }
}

/// Appends the frame of an EXECUTE on `stream`.
fn put_execute(out: &mut Vec<u8>, stream: i16, id: &PreparedId, level: u16, values: &[&[u8]]) {
    let start = out.len();
    let [high, low] = stream.to_be_bytes();
    out.extend_from_slice(&[REQUEST, 0, high, low, opcode::EXECUTE, 0, 0, 0, 0]);
    out.extend_from_slice(&(id.0.len() as u16).to_be_bytes());
    out.extend_from_slice(&id.0);
    out.extend_from_slice(&level.to_be_bytes());
    out.push(FLAGS);
    out.extend_from_slice(&(values.len() as u16).to_be_bytes());
    for value in values {
        put_len(out, value.len());
        out.extend_from_slice(value);
    }
    let len = u32::try_from(out.len() - start - HEADER).unwrap_or(u32::MAX);
    out[start + 5..start + HEADER].copy_from_slice(&len.to_be_bytes());
}

/// What an ERROR with these flags says.
fn refusal(flags: u8, body: &[u8]) -> CqlFailure {
    match answer::error(flags, body) {
        Some((code, message)) => CqlFailure::Refused { code, message },
        None => invalid("an error without a code"),
    }
}

/// What is kept of a RESULT.
fn result_of(body: &[u8]) -> CqlResult {
    let int = |at: usize| {
        let four = body.get(at..at + 4)?;
        Some(u32::from_be_bytes([four[0], four[1], four[2], four[3]]))
    };
    // Rows without metadata: kind, flags, columns, rows.
    let rows = match (int(0), int(4)) {
        (Some(2), Some(4)) => int(12).unwrap_or(0),
        _ => 0,
    };
    CqlResult { rows, bytes: body.len() }
}
