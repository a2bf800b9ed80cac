//! CQL's frames: a server that echoes them, and the rows that are read.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::{Buf as _, BytesMut};
use henge::client::CqlConnection;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::VALUE;

/// Bytes before a frame's body: version, flags, stream, opcode, length.
const HEADER: usize = 9;

const STARTUP: u8 = 0x01;
const READY: u8 = 0x02;
const RESULT: u8 = 0x08;
const EXECUTE: u8 = 0x0A;

/// QUORUM; rows without their metadata.
const TERMS: [u8; 3] = [0, 4, 0x01 | 0x02];

/// Makes a table with `keys` rows, a replica at each of `nodes`. Returns the frame that reads each of
/// them.
pub async fn fill(nodes: &[SocketAddr], keys: u64) -> Arc<[Vec<u8>]> {
    let open = async |node: &SocketAddr| {
        CqlConnection::open(&node.to_string()).await.expect("it takes connections")
    };
    let (mut client, factor) = (open(&nodes[0]).await, nodes.len());
    let keyspace = format!(
        "CREATE KEYSPACE b WITH replication = \
         {{'class': 'SimpleStrategy', 'replication_factor': {factor}}}"
    );
    for text in [&keyspace[..], "CREATE TABLE b.t (k blob PRIMARY KEY, v blob)"] {
        client.query(text).await.expect("made");
    }
    let insert = client.prepare("INSERT INTO b.t (k, v) VALUES (?, ?)").await.expect("prepared");
    for key in 0..keys {
        let key = format!("key{key:03}");
        let all = 5;
        client.execute(&insert, all, &[key.as_bytes(), &[b'x'; VALUE]]).await.expect("written");
    }
    let select = "SELECT v FROM b.t WHERE k = ?";
    let mut id = Vec::new();
    for node in nodes {
        id = open(node).await.prepare_whole(select).await.expect("prepared").id;
    }
    (0..keys).map(|key| read(&id, format!("key{key:03}").as_bytes())).collect()
}

/// The frame that reads one row.
fn read(id: &[u8], key: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    body.extend_from_slice(&(id.len() as u16).to_be_bytes());
    body.extend_from_slice(id);
    body.extend_from_slice(&TERMS);
    body.extend_from_slice(&1u16.to_be_bytes());
    body.extend_from_slice(&(key.len() as u32).to_be_bytes());
    body.extend_from_slice(key);
    frame([0x04, EXECUTE], &body)
}

/// The first frame of a connection.
pub fn startup() -> Vec<u8> {
    let mut body = 1u16.to_be_bytes().to_vec();
    for text in ["CQL_VERSION", "3.4.6"] {
        body.extend_from_slice(&(text.len() as u16).to_be_bytes());
        body.extend_from_slice(text.as_bytes());
    }
    frame([0x04, STARTUP], &body)
}

fn frame([version, opcode]: [u8; 2], body: &[u8]) -> Vec<u8> {
    let mut frame = vec![version, 0, 0, 1, opcode];
    frame.extend_from_slice(&(body.len() as u32).to_be_bytes());
    frame.extend_from_slice(body);
    frame
}

/// The bytes of the frame at the start of `input`, if it is all there.
fn whole(input: &[u8]) -> Option<usize> {
    let header = input.first_chunk::<HEADER>()?;
    let len = u32::from_be_bytes([header[5], header[6], header[7], header[8]]) as usize;
    (input.len() >= HEADER + len).then_some(HEADER + len)
}

/// True when the answer is all there. It must be a success, and a result one of rows with a value.
pub fn is_whole(answer: &[u8]) -> bool {
    let Some(len) = whole(answer) else { return false };
    match answer[4] {
        READY => {}
        RESULT => assert!(len > HEADER + VALUE, "a result without the value"),
        other => panic!("{other:#04x}: {}", String::from_utf8_lossy(&answer[HEADER..])),
    }
    true
}

/// Answers each frame with one of the length that a row has: the least that a server in this
/// language, on this runtime, does for the same bytes.
pub async fn echo() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(echo_on(stream));
        }
    });
    address
}

async fn echo_on(mut stream: TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let (mut input, mut out) = (BytesMut::new(), Vec::new());
    // Kind, flags, columns, rows and the value's length, then the value.
    let row = frame([0x84, RESULT], &[b'x'; 5 * 4 + VALUE]);
    let ready = frame([0x84, READY], &[]);
    loop {
        input.reserve(16 << 10);
        if stream.read_buf(&mut input).await? == 0 {
            return Ok(());
        }
        while let Some(len) = whole(&input) {
            let answer = if input[4] == EXECUTE { &row } else { &ready };
            let start = out.len();
            out.extend_from_slice(answer);
            // The stream of the question.
            out[start + 2..start + 4].copy_from_slice(&input[2..4]);
            input.advance(len);
        }
        stream.write_all(&out).await?;
        out.clear();
    }
}
