mod client;
mod describe;
mod door;
mod fuzz;
mod indexes;
mod json;
pub(super) mod mem;
mod point;
mod port;
mod requests;
mod roles;
mod slices;
mod statements;
mod vectors;

use bytes::BytesMut;
use proptest::prelude::*;

use super::frame::{Decoded, Decoder, Frame, MAX_BODY, Version, opcode};
use super::paging::PagingState;
use super::request::{self, Request};

fn frame(version: u8, stream: i16, opcode: u8, body: &[u8]) -> Vec<u8> {
    let mut out = vec![version, 0];
    out.extend_from_slice(&stream.to_be_bytes());
    out.push(opcode);
    out.extend_from_slice(&(body.len() as u32).to_be_bytes());
    out.extend_from_slice(body);
    out
}

#[test]
fn frames_are_cut_wherever_the_bytes_are() {
    let bytes = [frame(4, 7, opcode::OPTIONS, b""), frame(4, -2, opcode::QUERY, b"body")].concat();
    let (mut decoder, mut input) = (Decoder::default(), BytesMut::new());
    let mut seen = Vec::new();
    for byte in bytes {
        input.extend_from_slice(&[byte]);
        while let Decoded::Frame(frame) = decoder.next(&mut input) {
            seen.push((frame.stream, frame.opcode, frame.body));
        }
    }
    assert_eq!(seen, [(7, opcode::OPTIONS, Vec::new()), (-2, opcode::QUERY, b"body".to_vec())]);
}

#[test]
fn a_body_that_is_too_long_is_passed_over_and_the_next_one_read() {
    let (mut decoder, mut input) = (Decoder::default(), BytesMut::new());
    decoder.let_in();
    let mut long = frame(4, 3, opcode::QUERY, b"");
    long[5..9].copy_from_slice(&(MAX_BODY as u32 + 1).to_be_bytes());
    input.extend_from_slice(&long);
    assert_eq!(decoder.next(&mut input), Decoded::TooLong { stream: 3, len: MAX_BODY + 1 });
    let mut left = MAX_BODY + 1;
    while left > 0 {
        let now = left.min(1 << 20);
        input.resize(now, 0);
        assert_eq!(decoder.next(&mut input), Decoded::More);
        assert!(input.is_empty());
        left -= now;
    }
    input.extend_from_slice(&frame(4, 9, opcode::OPTIONS, b""));
    assert!(matches!(decoder.next(&mut input), Decoded::Frame(Frame { stream: 9, .. })));
    let (mut decoder, mut input) = (Decoder::default(), BytesMut::new());
    let mut endless = frame(4, 3, opcode::QUERY, b"");
    endless[5..9].copy_from_slice(&u32::MAX.to_be_bytes());
    input.extend_from_slice(&endless);
    assert_eq!(decoder.next(&mut input), Decoded::Hopeless);
}

#[test]
fn other_versions_are_noticed_from_their_first_bytes() {
    for (version, stream) in [(66, 5), (65, 5), (6, 5), (3, 5), (127, 5)] {
        let mut input = BytesMut::from(&frame(version, stream, opcode::OPTIONS, b"")[..]);
        assert_eq!(Decoder::default().next(&mut input), Decoded::OtherVersion { version, stream });
    }
    let mut answer = BytesMut::from(&frame(0x84, 1, opcode::READY, b"")[..]);
    assert_eq!(Decoder::default().next(&mut answer), Decoded::Hopeless);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn any_bytes_are_judged_without_a_panic(bytes: Vec<u8>, flags: u8, opcode in 0u8..0x12) {
        let mut input = BytesMut::from(&bytes[..]);
        let mut decoder = Decoder::default();
        for _ in 0..4 {
            let _ = decoder.next(&mut input);
        }
        let frame = Frame { version: Version::V4, flags, stream: 1, opcode, body: bytes };
        let _ = request::decode(&frame);
    }

    #[test]
    fn a_paging_state_reads_back_and_a_forged_one_does_not(
        partition in prop::collection::vec(any::<u8>(), 1..9),
        clustering: Vec<u8>,
        remaining: Option<u32>,
        at: prop::sample::Index,
        bit in 0u8..8,
    ) {
        let state = PagingState { partition, clustering, remaining, in_partition: Some(3) };
        let mut bytes = state.encode(77);
        prop_assert_eq!(PagingState::decode(&bytes, 77), Some(state));
        prop_assert_eq!(PagingState::decode(&bytes, 78), None);
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        prop_assert_eq!(PagingState::decode(&bytes, 77), None);
    }
}

#[test]
fn a_query_is_read_with_all_its_parameters() {
    let mut body = Vec::new();
    body.extend_from_slice(&8i32.to_be_bytes());
    body.extend_from_slice(b"SELECT 1");
    body.extend_from_slice(&4u16.to_be_bytes());
    body.push(0x01 | 0x04 | 0x08 | 0x10 | 0x20);
    body.extend_from_slice(&3u16.to_be_bytes());
    body.extend_from_slice(&2i32.to_be_bytes());
    body.extend_from_slice(b"ab");
    body.extend_from_slice(&(-1i32).to_be_bytes());
    body.extend_from_slice(&(-2i32).to_be_bytes());
    body.extend_from_slice(&100i32.to_be_bytes());
    body.extend_from_slice(&1i32.to_be_bytes());
    body.push(9);
    body.extend_from_slice(&8u16.to_be_bytes());
    body.extend_from_slice(&42i64.to_be_bytes());
    let frame = Frame { version: Version::V4, flags: 0, stream: 1, opcode: opcode::QUERY, body };
    let Ok(Request::Query { text, parameters }) = request::decode(&frame) else {
        panic!("a query");
    };
    assert_eq!(text, "SELECT 1");
    assert_eq!(parameters.values.len(), 3);
    assert_eq!(parameters.page_size, Some(100));
    assert_eq!(parameters.paging_state.as_deref(), Some(&[9][..]));
    assert_eq!(parameters.timestamp, Some(42));
    for cut in 0..frame.body.len() {
        let short = Frame { body: frame.body[..cut].to_vec(), ..frame.clone() };
        assert!(request::decode(&short).is_err(), "{cut}");
    }
}
