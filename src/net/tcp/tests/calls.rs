//! Calls between peers: their answers, their fates, their bounds.

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_concurrent_calls_get_each_its_own_answer() {
    let (a, b) = pair().await;
    let calls = (0..10_000).map(|i| {
        let prefix = if i % 2 == 0 { '~' } else { '=' };
        let body = Bytes::from(format!("{prefix}{i}"));
        let (from, to) = if i % 3 == 0 { (&b, &a) } else { (&a, &b) };
        let call = from.call(to.id, Request::Gossip(body.clone()));
        async move { assert_eq!(answer_of(call.await), Response::Gossip(Some(body))) }
    });
    join_all(calls).await;
    let stats = a.stats_of(b.id);
    assert_eq!((stats.connects, stats.in_flight, stats.queued_bytes), (1, 0, 0));
    assert_eq!(stats.answered + b.stats_of(a.id).answered, 10_000);
    assert_eq!(a.inbound().in_flight + b.inbound().in_flight, 0);
}

#[tokio::test]
async fn answers_carry_the_peers_epoch_and_clock() {
    let (a, b) = pair().await;
    let (header, _) = a.call(b.id, Request::Ping).await.expect("an answer");
    assert_eq!(header.epoch, Epoch(3));
    assert!(header.hlc > Hlc(1));
}

#[tokio::test]
async fn large_and_small_messages_share_a_connection() {
    let (a, b) = pair().await;
    let large = Bytes::from(vec![9; 20 << 20]);
    let calls = [large.clone(), Bytes::from_static(b"small"), large, Bytes::new()];
    let answers = join_all(calls.iter().map(|b1| a.call(b.id, Request::Gossip(b1.clone())))).await;
    for (answer, sent) in answers.into_iter().zip(calls) {
        assert!(answer_of(answer) == Response::Gossip(Some(sent)));
    }
}

#[tokio::test]
async fn a_refused_connection_is_not_sent_and_calls_fail_fast_during_the_pause() {
    let slow = Duration::from_secs(3600);
    let a = Node::start(hello(1), TcpOptions { min_backoff: slow, max_backoff: slow, ..options() })
        .await;
    let gone = Node::new(2).await;
    let (node, address) = (gone.id, gone.address());
    gone.transport.shutdown(gone.env.mono()).await;
    let probe = async || TcpStream::connect(&address).await.is_err();
    while !probe().await {
        tokio::task::yield_now().await;
    }
    assert_not_sent(a.call(node, Request::Ping).await, "no address");
    a.transport.set_address(node, &address);
    assert_not_sent(a.call(node, Request::Ping).await, "connect to 127.0.0.1");
    assert_not_sent(a.call(node, Request::Ping).await, "next attempt in");
    assert_eq!(a.stats_of(node).connect_failures, 1);
    assert_eq!(a.stats_of(node).not_sent, 2);
}

#[tokio::test]
async fn a_new_address_ends_the_pause() {
    let slow = Duration::from_secs(3600);
    let a = Node::start(hello(1), TcpOptions { min_backoff: slow, max_backoff: slow, ..options() })
        .await;
    let b = Node::new(2).await;
    a.transport.set_address(b.id, "nowhere.invalid:1");
    assert!(matches!(a.call(b.id, Request::Ping).await, Err(CallError::NotSent { .. })));
    a.knows(&b);
    assert_eq!(answer_of(a.call(b.id, Request::Ping).await), Response::Pong);
}

#[tokio::test]
async fn a_peer_that_connects_ends_the_pause() {
    let slow = Duration::from_secs(3600);
    let a = Node::start(hello(1), TcpOptions { min_backoff: slow, max_backoff: slow, ..options() })
        .await;
    let env = tokio_env();
    let clock = HlcClock::new(env.clone(), Hlc(0), Duration::from_secs(1));
    let b = TcpTransport::start(
        env.clone(),
        options(),
        Arc::new(NodeStamps::new(clock)),
        Arc::new(Policy(hello(2))),
    )
    .await
    .expect("a free port on loopback");
    a.transport.set_address(NodeId(2), &b.local_addr().to_string());
    assert_not_sent(a.call(NodeId(2), Request::Ping).await, "still starting");
    b.set_service(Arc::new(Service(a.echo.clone())));
    assert_not_sent(a.call(NodeId(2), Request::Ping).await, "next attempt in");
    b.set_address(a.id, &a.address());
    answer_of(b.call(a.id, header(), Request::Ping, env.mono() + SOON).await);
    assert_eq!(answer_of(a.call(NodeId(2), Request::Ping).await), Response::Pong);
}

#[tokio::test]
async fn a_peer_that_dies_with_the_request_in_hand_makes_it_lost() {
    let (a, b) = pair().await;
    let call = tokio_env().run("call", a.call(b.id, wait()));
    eventually("the request is being served", || b.echo.begun.load(Ordering::SeqCst) == 1).await;
    b.transport.shutdown(b.env.mono()).await;
    assert_lost(call.await.expect("it ran"), "closed");
    assert_eq!(a.stats_of(b.id).in_flight, 0);
    // The work that was begun is finished all the same.
    b.echo.gate.add_permits(1);
    eventually("it ran to its end", || b.echo.finished.load(Ordering::SeqCst) == 1).await;
}

/// R07 of the test plan: a retransmission inside a transport has applied one write twice elsewhere.
#[tokio::test]
async fn a_lost_request_is_never_sent_again() {
    let (a, b) = pair().await;
    let call = a.env.run("call", a.call(b.id, wait()));
    eventually("the request is being served", || b.echo.begun.load(Ordering::SeqCst) == 1).await;
    for inbound in lock(&b.transport.shared.inbound).values() {
        inbound.closer.close("cut by the test");
    }
    assert_lost(call.await.expect("it ran"), "closed");
    assert_eq!(answer_of(a.call(b.id, Request::Ping).await), Response::Pong);
    assert_eq!(a.stats_of(b.id).connects, 2);
    assert_eq!(b.echo.begun.load(Ordering::SeqCst), 2, "the first call and the ping");
}

#[tokio::test]
async fn a_restarted_peer_is_reached_again() {
    let a = Node::new(1).await;
    let b = Node::new(2).await;
    let (address, id) = (b.address(), b.id);
    a.knows(&b);
    assert_eq!(answer_of(a.call(id, Request::Ping).await), Response::Pong);
    b.transport.shutdown(b.env.mono()).await;
    drop(b);
    eventually("the loss is noticed", || !a.stats_of(id).connected).await;
    let again = TcpOptions { listen: address, ..options() };
    let b = Node::start(Hello { incarnation: Incarnation(6), ..hello(2) }, again).await;
    assert_eq!(answer_of(a.call(id, gossip("back")).await), Response::Gossip(Some("back".into())));
    assert_eq!(a.stats_of(id).connects, 2);
    drop(b);
}

#[tokio::test]
async fn a_deadline_before_the_answer_is_lost_and_the_late_answer_is_ignored() {
    let (a, b) = pair().await;
    assert_eq!(answer_of(a.call(b.id, Request::Ping).await), Response::Pong);
    let call = a.call_within(Duration::from_millis(300), b.id, wait());
    assert_lost(call.await, "deadline");
    eventually("it arrived all the same", || b.echo.begun.load(Ordering::SeqCst) == 2).await;
    b.echo.gate.add_permits(1);
    eventually("the answer is too late", || a.stats_of(b.id).late_answers == 1).await;
    assert_eq!(answer_of(a.call(b.id, Request::Ping).await), Response::Pong);
}

#[tokio::test]
async fn a_deadline_while_the_request_is_queued_means_that_it_never_leaves() {
    let a = Node::start(
        hello(1),
        TcpOptions { handshake_timeout: Duration::from_secs(3600), ..options() },
    )
    .await;
    let mute = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = mute.local_addr().expect("bound").to_string();
    a.transport.set_address(NodeId(2), &address);
    let call = a.call_within(Duration::from_millis(20), NodeId(2), wait());
    assert_not_sent(call.await, "queued");
    let past = a.transport.call(NodeId(2), header(), wait(), Mono(0));
    assert_not_sent(past.await, "deadline");
    let stats = a.stats_of(NodeId(2));
    assert_eq!((stats.in_flight, stats.queued_bytes, stats.not_sent), (0, 0, 2));
}

#[tokio::test]
async fn a_mute_callee_costs_one_handshake_timeout() {
    let a = Node::start(
        hello(1),
        TcpOptions { handshake_timeout: Duration::from_millis(20), ..options() },
    )
    .await;
    let mute = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    a.transport.set_address(NodeId(2), &mute.local_addr().expect("bound").to_string());
    assert_not_sent(a.call(NodeId(2), Request::Ping).await, "timed out");
}

#[tokio::test]
async fn dropped_calls_leave_nothing_behind() {
    let (a, b) = pair().await;
    let a_call = || a.call_within(Duration::from_millis(5), b.id, wait());
    for _ in 0..100 {
        let mut call = a_call();
        assert!(futures_util::poll!(&mut call).is_pending());
        drop(call);
    }
    let stats = a.stats_of(b.id);
    assert_eq!((stats.in_flight, stats.queued_bytes), (0, 0));
    assert_eq!(stats.not_sent + stats.abandoned, 100);
    assert_eq!(answer_of(a.call(b.id, Request::Ping).await), Response::Pong);
}

#[tokio::test]
async fn calls_beyond_the_bound_are_not_sent() {
    let a = Node::start(hello(1), TcpOptions { max_inflight_per_peer: 2, ..options() }).await;
    let b = Node::new(2).await;
    a.knows(&b);
    let calls = [a.call(b.id, wait()), a.call(b.id, wait())].map(|call| a.env.run("call", call));
    eventually("both are under way", || a.stats_of(b.id).in_flight == 2).await;
    assert_not_sent(a.call(b.id, Request::Ping).await, "2 calls");
    b.echo.gate.add_permits(1);
    for call in calls {
        assert_eq!(answer_of(call.await.expect("it ran")), Response::Meta(Bytes::new()));
    }
}

#[tokio::test]
async fn bytes_beyond_the_bound_are_not_sent() {
    let limits = TcpOptions {
        max_queued_bytes_per_peer: 1000,
        handshake_timeout: Duration::from_secs(3600),
        ..options()
    };
    let a = Node::start(hello(1), limits).await;
    let mute = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    a.transport.set_address(NodeId(2), &mute.local_addr().expect("bound").to_string());
    let large = || Request::Gossip(Bytes::from(vec![0; 2000]));
    let mut first = a.call(NodeId(2), large());
    assert!(futures_util::poll!(&mut first).is_pending(), "a single frame may always go");
    assert_not_sent(a.call(NodeId(2), large()).await, "calls to that node hold 2");
    drop(first);
    let mut next = a.call(NodeId(2), large());
    assert!(futures_util::poll!(&mut next).is_pending(), "its place is free again");
}

#[tokio::test]
async fn requests_beyond_the_callees_bound_are_refused_at_once() {
    let a = Node::new(1).await;
    let b = Node::start(hello(2), TcpOptions { max_inflight_per_peer: 2, ..options() }).await;
    a.knows(&b);
    let calls = [a.call(b.id, wait()), a.call(b.id, wait())].map(|call| a.env.run("call", call));
    eventually("both are being served", || b.inbound().in_flight == 2).await;
    let refused = answer_of(a.call(b.id, Request::Ping).await);
    assert!(matches!(refused, Response::Refused(Refusal::Overloaded { .. })), "{refused:?}");
    assert_eq!(b.inbound().overloaded, 1);
    assert_eq!(b.echo.begun.load(Ordering::SeqCst), 2);
    b.echo.gate.add_permits(1);
    for call in calls {
        assert_eq!(answer_of(call.await.expect("it ran")), Response::Meta(Bytes::new()));
    }
}

#[tokio::test]
async fn a_request_without_time_left_is_not_begun() {
    let (a, b) = pair().await;
    let late = Header { budget_ms: 0, ..header() };
    let call = a.transport.call(b.id, late, Request::Ping, a.env.mono() + SOON);
    assert_eq!(answer_of(call.await), Response::Refused(Refusal::Late));
    assert_eq!(b.echo.begun.load(Ordering::SeqCst), 0);
    assert_eq!(b.inbound().late, 1);
}

#[tokio::test]
async fn what_is_too_large_for_a_frame_is_not_sent_or_its_answer_unknown() {
    let a = Node::start(hello(1), TcpOptions { max_frame_bytes: 10_000, ..options() }).await;
    let b = Node::start(hello(2), TcpOptions { max_frame_bytes: 10_000, ..options() }).await;
    a.knows(&b);
    let large = Request::Gossip(Bytes::from(vec![0; 10_000]));
    assert_not_sent(a.call(b.id, large).await, "at most 10000 are allowed");
    assert_lost(a.call(b.id, page(10_000)).await, "too large");
    assert_eq!(answer_of(a.call(b.id, Request::Ping).await), Response::Pong);
}

#[tokio::test]
async fn shutdown_finishes_what_is_under_way_and_begins_nothing() {
    let (a, b) = pair().await;
    let call = a.env.run("call", a.call(b.id, wait()));
    eventually("it is being served", || b.inbound().in_flight == 1).await;
    let transport = b.transport.clone();
    let deadline = b.env.mono() + SOON;
    let stopped = b.env.run("stop", async move { transport.shutdown(deadline).await });
    eventually("it drains", || b.transport.shared.is_stopping()).await;
    let refused = answer_of(a.call(b.id, Request::Ping).await);
    assert_eq!(refused, Response::Refused(Refusal::Stopping));
    assert_not_sent(b.call(a.id, Request::Ping).await, "stopping");
    b.echo.gate.add_permits(1);
    assert_eq!(answer_of(call.await.expect("it ran")), Response::Meta(Bytes::new()));
    stopped.await.expect("it ran");
    eventually("the connection is closed", || !a.stats_of(b.id).connected).await;
}

#[tokio::test]
async fn reads_are_timed_for_hedging() {
    let (a, b) = pair().await;
    let key = Key::new(&b"k"[..]).expect("short");
    for _ in 0..30 {
        let read = Read { table: TableId(1), key: key.clone(), want: Want::Record };
        assert_eq!(answer_of(a.call(b.id, Request::Read(read)).await), Response::Pong);
    }
    let estimate = a.transport.latency(b.id).expect("thirty reads");
    assert!(estimate.p50 <= estimate.p99);
    assert_eq!(a.stats_of(b.id).reads, Some(estimate));
    assert!(a.stats_of(b.id).mean_answer > Duration::ZERO);
}
