//! Requests that no decent client sends: bytes over a socket.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// How long an answer may take. Longer than any bound of the node.
const PATIENCE: Duration = Duration::from_secs(90);

/// What came back.
#[derive(Debug, Clone)]
pub struct Raw {
    /// The status; 0 if the connection ended without an answer.
    pub status: u16,
    /// The head, in lower case.
    pub head: String,
    /// The body.
    pub body: Vec<u8>,
}

impl Raw {
    fn parse(bytes: &[u8]) -> Self {
        let split = bytes.windows(4).position(|window| window == b"\r\n\r\n");
        let (head, body) = match split {
            Some(at) => (&bytes[..at], &bytes[at + 4..]),
            None => (bytes, &b""[..]),
        };
        let head = String::from_utf8_lossy(head).to_lowercase();
        let status = head.split(' ').nth(1).and_then(|word| word.parse().ok()).unwrap_or(0);
        Self { status, head, body: body.to_vec() }
    }

    /// The value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines.find(|(found, _)| *found == name).map(|(_, value)| value)
    }

    /// The body as JSON; null if it is none.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    /// The problem's name: the last part of its `type`.
    pub fn problem(&self) -> String {
        let json = self.json();
        let kind = json["type"].as_str().unwrap_or_default();
        kind.trim_start_matches("/problems/").to_owned()
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// A connection to `address`.
pub async fn connect(address: SocketAddr) -> TcpStream {
    TcpStream::connect(address).await.expect("the port listens")
}

/// Reads to the end of the connection, however it ends.
pub async fn rest(stream: &mut TcpStream) -> Vec<u8> {
    let mut found = Vec::new();
    let reading = async {
        let mut buffer = vec![0; 64 << 10];
        while let Ok(count @ 1..) = stream.read(&mut buffer).await {
            found.extend_from_slice(&buffer[..count]);
        }
    };
    tokio::time::timeout(PATIENCE, reading).await.expect("the node ends the connection");
    found
}

/// Sends `bytes` as they are, then reads to the end of the connection.
pub async fn send(address: SocketAddr, bytes: &[u8]) -> Raw {
    let mut stream = connect(address).await;
    // The node may answer and close before it has read everything.
    drop(stream.write_all(bytes).await);
    Raw::parse(&rest(&mut stream).await)
}

/// Sends `bytes`, ends the sending side, and reads what comes back.
pub async fn send_and_end(address: SocketAddr, bytes: &[u8]) -> Raw {
    let mut stream = connect(address).await;
    drop(stream.write_all(bytes).await);
    drop(stream.shutdown().await);
    Raw::parse(&rest(&mut stream).await)
}

/// One request, well formed but for what its parts make of it.
pub async fn request(
    address: SocketAddr,
    method: &str,
    target: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Raw {
    let mut bytes = format!("{method} {target} HTTP/1.1\r\nhost: henge\r\nconnection: close\r\n");
    for (name, value) in headers {
        bytes.push_str(&format!("{name}: {value}\r\n"));
    }
    if !body.is_empty() || matches!(method, "PUT" | "POST") {
        bytes.push_str(&format!("content-length: {}\r\n", body.len()));
    }
    bytes.push_str("\r\n");
    let mut bytes = bytes.into_bytes();
    bytes.extend_from_slice(body);
    send(address, &bytes).await
}
