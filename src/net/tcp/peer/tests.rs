use super::*;
use crate::types::{Epoch, Hlc};

fn limits() -> PeerLimits {
    PeerLimits {
        inflight: 10,
        silent_inflight: 4,
        bytes: 1000,
        min_backoff: Duration::from_millis(50),
        max_backoff: Duration::from_secs(1),
    }
}

fn peer() -> Peer {
    let peer = Peer::new(NodeId(2), limits());
    peer.set_address("there:1");
    peer
}

fn enqueue(peer: &Peer, now: Mono) -> (u64, Accepted) {
    peer.begin(now).expect("nothing stands in the way");
    let stream = peer.new_stream();
    let accepted = peer.enqueue(now, stream, Bytes::from_static(b"frame"), false);
    (stream, accepted.expect("as before"))
}

fn end(established: bool, untouched: impl IntoIterator<Item = u64>) -> LinkEnd {
    let untouched = untouched.into_iter().collect();
    LinkEnd { why: "cut".to_owned(), established, garbage: false, untouched }
}

fn up(peer: &Peer) {
    peer.connected((ActorId(1), Incarnation(1)), Arc::new(Closer::default()));
}

#[test]
fn a_call_is_lost_only_if_a_byte_of_it_may_have_left() {
    let peer = peer();
    let calls = [0; 3].map(|_| enqueue(&peer, Mono(0)));
    up(&peer);
    let mut batch = Vec::new();
    peer.take(&mut batch);
    assert_eq!(batch.len(), 3);
    let (queued, waiting) = enqueue(&peer, Mono(0));
    peer.disconnected(Mono(0), &end(true, [calls[2].0]), 0);
    let fates = calls.map(|(_, mut call)| call.answer.try_recv().expect("an outcome"));
    assert!(matches!(fates[0], Err(CallError::Lost { .. })));
    assert!(matches!(fates[1], Err(CallError::Lost { .. })));
    assert!(matches!(fates[2], Err(CallError::NotSent { .. })));
    let mut waiting = waiting.answer;
    assert!(matches!(waiting.try_recv(), Ok(Err(CallError::NotSent { .. }))), "{queued}");
    let stats = peer.stats().expect("it has an address");
    assert_eq!((stats.lost, stats.not_sent, stats.in_flight), (2, 2, 0));
    assert_eq!(stats.queued_bytes, 0);
}

#[test]
fn what_a_peer_owes_is_bounded_in_bytes_written_or_not() {
    let peer = peer();
    let frame = Bytes::from(vec![0; 400]);
    let enqueue = || {
        let stream = peer.new_stream();
        peer.enqueue(Mono(0), stream, frame.clone(), false).map(|call| (stream, call))
    };
    let (first, _call) = enqueue().expect("the first");
    up(&peer);
    peer.take(&mut Vec::new());
    let (_, _other) = enqueue().expect("the second");
    assert!(enqueue().is_err(), "1,200 bytes");
    let header = Header { epoch: Epoch(1), hlc: Hlc(1), budget_ms: 0 };
    peer.complete(Mono(0), &mut vec![(first, Ok((header, Response::Pong)))], |_| {});
    assert!(enqueue().is_ok());
}

#[test]
fn a_peer_that_answers_nothing_gets_few_calls_until_it_answers() {
    let peer = peer();
    let late = Mono(0) + SILENT + Duration::from_millis(1);
    let mut calls: Vec<(u64, Accepted)> = (0..4).map(|_| enqueue(&peer, Mono(0))).collect();
    assert!(peer.begin(Mono(0)).is_ok());
    assert!(peer.begin(late).is_err(), "four are unanswered, for too long");
    let header = Header { epoch: Epoch(1), hlc: Hlc(1), budget_ms: 0 };
    let (stream, _) = calls.remove(0);
    peer.complete(late, &mut vec![(stream, Ok((header, Response::Pong)))], |_| {});
    let more: Vec<_> = (0..3).map(|_| enqueue(&peer, late)).collect();
    assert_eq!(calls.len() + more.len(), 6);
    assert!(peer.begin(late + SILENT + Duration::from_millis(1)).is_err());
}

#[test]
fn the_first_call_connects_and_the_others_wait_for_it() {
    let peer = peer();
    assert!(enqueue(&peer, Mono(0)).1.must_connect);
    assert!(!enqueue(&peer, Mono(0)).1.must_connect);
    up(&peer);
    assert!(!enqueue(&peer, Mono(0)).1.must_connect);
}

#[test]
fn pauses_double_up_to_the_longest_and_begin_anew_after_a_success() {
    let peer = peer();
    let mut now = Mono(0);
    let mut pauses = Vec::new();
    for established in [false, false, false, false, false, false, false, true, false] {
        assert!(enqueue(&peer, now).1.must_connect);
        peer.disconnected(now, &end(established, []), u64::MAX);
        let began = now;
        while peer.begin(now).is_err() {
            now = now + Duration::from_millis(10);
        }
        pauses.push(now.since(began).as_millis());
    }
    assert_eq!(pauses, [50, 100, 200, 400, 800, 1000, 1000, 50, 100]);
}

#[test]
fn a_pause_ends_when_the_peer_connects_to_this_node() {
    let peer = peer();
    for _ in 0..6 {
        enqueue(&peer, Mono(0));
        peer.disconnected(Mono(0), &end(false, []), u64::MAX);
        assert!(peer.begin(Mono(0)).is_err());
        peer.has_called();
        assert!(peer.begin(Mono(0)).is_ok());
    }
    // An attempt under way, and a connection, are left alone.
    assert!(enqueue(&peer, Mono(0)).1.must_connect);
    peer.has_called();
    assert!(!enqueue(&peer, Mono(0)).1.must_connect);
    up(&peer);
    peer.has_called();
    assert!(!enqueue(&peer, Mono(0)).1.must_connect);
}

#[test]
fn jitter_shortens_a_pause_by_half_at_most() {
    let peer = peer();
    enqueue(&peer, Mono(0));
    peer.disconnected(Mono(0), &end(false, []), 0);
    assert!(peer.begin(Mono(0) + Duration::from_millis(24)).is_err());
    assert!(peer.begin(Mono(0) + Duration::from_millis(25)).is_ok());
}

#[test]
fn a_peer_that_stays_away_is_news_once_for_each_reason() {
    let peer = peer();
    let at = |seconds| Mono(0) + Duration::from_secs(seconds);
    let fails = |seconds| peer.disconnected(at(seconds), &end(false, []), 0);
    assert_eq!([fails(0), fails(4)], [News::None; 2], "it may just be starting");
    assert_eq!([fails(5), fails(6)], [News::Unreachable, News::None]);
    let other = LinkEnd { why: "refused".to_owned(), ..end(false, []) };
    assert_eq!(peer.disconnected(at(7), &other, 0), News::Unreachable, "another reason");
    up(&peer);
    assert_eq!(peer.disconnected(at(8), &end(true, []), 0), News::Ended);
    assert_eq!([fails(9), fails(13)], [News::None, News::Unreachable]);
}

#[test]
fn an_answer_reaches_its_caller_and_a_second_one_nobody() {
    let peer = peer();
    let (stream, mut call) = enqueue(&peer, Mono(0));
    up(&peer);
    peer.take(&mut Vec::new());
    let header = Header { epoch: Epoch(1), hlc: Hlc(1), budget_ms: 0 };
    for _ in 0..2 {
        peer.complete(Mono(8000), &mut vec![(stream, Ok((header, Response::Pong)))], |_| {});
    }
    assert_eq!(call.answer.try_recv().expect("answered"), Ok((header, Response::Pong)));
    let stats = peer.stats().expect("it has an address");
    assert_eq!((stats.answered, stats.late_answers), (1, 1));
    assert_eq!(stats.mean_answer, Duration::from_nanos(8000));
}
