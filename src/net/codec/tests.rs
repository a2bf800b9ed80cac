//! Round trips, and bytes from strangers.

use std::collections::BTreeMap;

use proptest::prelude::*;
use serde::Deserialize;

use super::*;
use crate::net::messages::{Action, Apply, Keep, Mint, Read, Refusal, Want};
use crate::net::purge::{PurgeAction, PurgeRequest, PurgeSet};
use crate::types::{Epoch, Generation, Hlc, Key, NodeId, OpId, TableId, WallMicros};

const MAX: usize = 1 << 20;

fn header() -> Header {
    Header { epoch: Epoch(7), hlc: Hlc(1_700_000_000_000_000), budget_ms: 1500 }
}

fn apply(record: &'static [u8]) -> Request {
    let key = Key::new(&b"key"[..]).expect("a short key");
    Request::Apply(Apply {
        table: TableId(3),
        key,
        record: Bytes::from_static(record),
        generation: Generation(4),
        heals: false,
    })
}

fn any_bytes() -> impl Strategy<Value = Bytes> {
    proptest::collection::vec(any::<u8>(), 0..300).prop_map(Bytes::from)
}

fn any_key() -> impl Strategy<Value = Key> {
    proptest::collection::vec(any::<u8>(), 1..40)
        .prop_map(|bytes| Key::new(bytes).expect("within bounds"))
}

prop_compose! {
    fn any_mint()(
        key in any_key(), op in any::<u128>(), context in any_bytes(), body in any_bytes(),
        content_type in any::<Option<String>>(), meta in any::<Vec<(String, String)>>(),
        expires in any::<Option<u64>>(), max_siblings in any::<u32>(), stamp in any::<u64>(),
    ) -> Request {
        let action = Action::Put {
            body, content_type, meta, expires_at: expires.map(WallMicros),
        };
        Request::Mint(Mint {
            table: TableId(1), key, op: OpId(op), request: 5, context, action,
            now: WallMicros(9), max_siblings, known: Bytes::new(),
            known_generation: Generation(3), stamp: Hlc(stamp),
        })
    }
}

fn any_request() -> impl Strategy<Value = Request> {
    prop_oneof![
        any_mint(),
        any_key().prop_map(|key| Request::Read(Read {
            table: TableId(2),
            key,
            want: Want::Digest
        })),
        (any_key(), any_bytes()).prop_map(|(key, record)| Request::Apply(Apply {
            table: TableId(2),
            key,
            record,
            generation: Generation(4),
            heals: false
        })),
        (any::<u128>(), any_key(), any_bytes()).prop_map(|(node, key, record)| {
            let (table, generation) = (TableId(2), Generation(4));
            let apply = Apply { table, key, record, generation, heals: false };
            Request::Keep(Keep { replica: NodeId(node), apply })
        }),
        (any_key(), any::<u128>(), any::<u64>()).prop_map(|(key, plan, generation)| {
            let generation = Generation(generation);
            let rows = vec![(key, crate::types::Digest(plan))];
            Request::Purge(PurgeRequest {
                table: TableId(2),
                partition: crate::types::PartitionId(7),
                what: PurgeAction::Commit(PurgeSet { generation, plan, rows }),
            })
        }),
        any_bytes().prop_map(Request::Gossip),
        Just(Request::Ping),
    ]
}

proptest! {
    #[test]
    fn a_request_comes_back_as_it_was(stream in any::<u64>(), request in any_request()) {
        let frame = encode_request(stream, &header(), &request, MAX).expect("small");
        prop_assert_eq!(decode_request(&frame, MAX), Ok((stream, header(), request)));
    }

    #[test]
    fn a_frame_with_any_bit_changed_is_refused(
        request in any_request(), at in any::<prop::sample::Index>(), bit in 0..8u8,
    ) {
        let mut frame = encode_request(1, &header(), &request, MAX).expect("small").to_vec();
        let at = at.index(frame.len());
        frame[at] ^= 1 << bit;
        prop_assert!(decode_request(&frame, MAX).is_err());
    }

    #[test]
    fn a_frame_cut_short_or_prolonged_is_refused(
        request in any_request(), at in any::<prop::sample::Index>(), extra in any_bytes(),
    ) {
        let frame = encode_request(1, &header(), &request, MAX).expect("small").to_vec();
        prop_assert!(decode_request(&frame[..at.index(frame.len())], MAX).is_err());
        if !extra.is_empty() {
            prop_assert!(decode_request(&[&frame[..], &extra[..]].concat(), MAX).is_err());
        }
    }

    /// What a fuzzer would do behind a correct checksum: the decoder itself faces the bytes.
    #[test]
    fn random_payloads_never_panic(payload in proptest::collection::vec(any::<u8>(), 0..400)) {
        let _ = decode_payload::<(Header, Request)>(&payload);
        let _ = decode_payload::<(Header, Response)>(&payload);
        let _ = decode_payload::<Request>(&payload);
        let _ = read_head(&payload, MAX);
        let _ = open_frame(&payload, MAX);
    }

    #[test]
    fn mutated_payloads_never_panic(
        request in any_request(), at in any::<prop::sample::Index>(), byte in any::<u8>(),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut payload = binary::body(&request);
        let at = at.index(payload.len());
        payload[at] = byte;
        let _ = decode_payload::<Request>(&payload);
        let _ = decode_payload::<Request>(&payload[..cut.index(payload.len())]);
    }
}

#[test]
fn a_refusal_comes_back_as_it_was() {
    let response = Response::Refused(Refusal::Overloaded { what: "calls".to_owned() });
    let frame = encode_response(9, &header(), &response, MAX).expect("small");
    assert_eq!(decode_response(&frame, MAX), Ok((9, header(), response)));
}

#[test]
fn a_length_beyond_the_bound_is_refused_as_soon_as_the_head_is_there() {
    let frame = encode_request(1, &header(), &apply(&[0; 100]), MAX).expect("small");
    let error = read_head(&frame[..FRAME_HEAD_BYTES], 99).expect_err("100 bytes and more");
    assert!(matches!(error, CodecError::TooLarge { max: 99, got } if got > 100), "{error}");
}

#[test]
fn a_message_beyond_the_bound_is_not_encoded() {
    let error = encode_request(1, &header(), &apply(&[0; 100]), 99).expect_err("too large");
    assert!(matches!(error, CodecError::TooLarge { max: 99, .. }), "{error}");
    let error = encode_frame(FrameKind::Refuse, 0, &[0; 100], 99).expect_err("too large");
    assert_eq!(error, CodecError::TooLarge { max: 99, got: 100 });
}

#[test]
fn strangers_are_noticed_by_their_first_byte() {
    assert!(matches!(read_head(b"G", MAX), Err(CodecError::Magic { .. })));
    assert_eq!(read_head(b"HN", MAX), Ok(None));
    assert_eq!(read_head(b"HNG\x63", MAX), Err(CodecError::Format { found: 0x63 }));
}

#[test]
fn an_answer_is_not_taken_for_a_request() {
    let frame = encode_response(9, &header(), &Response::Pong, MAX).expect("small");
    assert!(matches!(decode_request(&frame, MAX), Err(CodecError::Payload { .. })));
}

#[test]
fn left_over_bytes_are_refused() {
    let mut bytes = binary::body(&Request::Ping);
    assert_eq!(decode_payload(&bytes), Ok(Request::Ping));
    bytes.push(0);
    assert!(decode_payload::<Request>(&bytes).is_err());
}

/// Two buffers and strings each announce 2^60 bytes and bring none: before [`strict`], bincode
/// would try to allocate them (and the process would abort).
#[test]
fn an_announced_length_without_bytes_allocates_nothing() {
    #[derive(Debug, PartialEq, Deserialize)]
    struct Announced {
        bytes: Bytes,
        text: String,
    }
    let mut huge = vec![253];
    huge.extend_from_slice(&(1u64 << 60).to_le_bytes());
    assert!(decode_payload::<Bytes>(&huge).is_err());
    assert!(decode_payload::<String>(&huge).is_err());
    assert!(decode_payload::<Vec<u64>>(&huge).is_err());
    assert!(decode_payload::<BTreeMap<u64, String>>(&huge).is_err());
    assert!(decode_payload::<Option<Announced>>(&[&[1][..], &huge].concat()).is_err());
    assert!(decode_payload::<Announced>(&[&[0][..], &huge].concat()).is_err());
    let fits = Announced { bytes: Bytes::from_static(b"ab"), text: "c".to_owned() };
    assert_eq!(decode_payload(&[2, b'a', b'b', 1, b'c']), Ok(fits));
}

/// The layout is a promise to nodes of the next release. (What the messages look like in bincode
/// is covered by the handshake's protocol number.)
#[test]
fn the_layout_stays_as_it_is() {
    let frame = encode_frame(FrameKind::Response, 0x0102, b"value", MAX).expect("small");
    let head = b"HNG\x01\x05\0\0\0\x05\0\0\0\x02\x01\0\0\0\0\0\0";
    assert_eq!(frame[..CHECKED_HEAD_BYTES], head[..]);
    assert_eq!(read_u64(&frame, CHECKED_HEAD_BYTES), 0x147e_48b2_7582_dcc1);
    assert_eq!(frame[FRAME_HEAD_BYTES..], b"value"[..]);
}
