//! Strangers, misfits and peers that are not what they were.

use super::*;

#[tokio::test]
async fn strangers_and_garbage_are_hung_up_on_and_counted_while_peers_are_served() {
    let (a, b) = pair().await;
    let request = encode_request(1, &header(), &Request::Ping, 1000).expect("small");
    let mut damaged = request.to_vec();
    *damaged.last_mut().expect("not empty") ^= 1;
    let mut huge = request.to_vec();
    huge[8..12].copy_from_slice(&u32::MAX.to_le_bytes());
    let mut future = request.to_vec();
    future[3] = 77;
    let noise: Vec<u8> =
        (0..100_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let pong = encode_frame(FrameKind::Pong, 0, &[], 0).expect("empty");
    let not_a_request = encode_frame(FrameKind::Request, 1, b"\xff\xff", 10).expect("small");

    let before: [&[u8]; 6] =
        [&noise, b"GET / HTTP/1.1\r\n\r\n", &damaged, &huge, &future, &request];
    let after: [&[u8]; 6] = [&noise, &damaged, &huge, &future, &pong, &not_a_request];
    for (index, bytes) in before.iter().enumerate() {
        let mut stream = TcpStream::connect(b.address()).await.expect("it listens");
        let _ = stream.write_all(bytes).await;
        assert!(is_hung_up(&mut stream).await, "before the handshake, case {index}");
    }
    for (index, bytes) in after.iter().enumerate() {
        let mut stream = raw_peer(&b, &hello(9)).await;
        let _ = stream.write_all(bytes).await;
        assert!(is_hung_up(&mut stream).await, "after the handshake, case {index}");
    }
    eventually("each is counted", || b.inbound().garbage == 12).await;
    assert_eq!(answer_of(a.call(b.id, Request::Ping).await), Response::Pong);
    eventually("only the peer is left", || b.inbound().connections == 1).await;
}

#[tokio::test]
async fn half_frames_and_silent_strangers_are_dropped() {
    let limits = TcpOptions { handshake_timeout: Duration::from_millis(500), ..options() };
    let b = Node::start(hello(2), limits).await;
    let mut silent = TcpStream::connect(b.address()).await.expect("it listens");
    assert!(is_hung_up(&mut silent).await);
    let request = encode_request(1, &header(), &Request::Ping, 1000).expect("small");
    let mut half = raw_peer(&b, &hello(9)).await;
    half.write_all(&request[..request.len() - 1]).await.expect("it reads");
    half.shutdown().await.expect("our side");
    assert!(is_hung_up(&mut half).await);
    assert_eq!(b.echo.begun.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn strangers_beyond_the_bounds_are_dropped_unheard() {
    let limits = TcpOptions { max_handshakes: 3, ..options() };
    let b = Node::start(hello(2), limits).await;
    let mut idle = Vec::new();
    for _ in 0..10 {
        idle.push(TcpStream::connect(b.address()).await.expect("the kernel accepts"));
    }
    eventually("three wait, seven are gone", || b.inbound().dropped == 7).await;
    drop(idle);
    eventually("their places are free again", || b.inbound().accepted == 3).await;
    let limits = TcpOptions { max_connections: 1, ..options() };
    let c = Node::start(hello(3), limits).await;
    let _first = raw_peer(&c, &hello(9)).await;
    let mut second = TcpStream::connect(c.address()).await.expect("the kernel accepts");
    assert!(is_hung_up(&mut second).await);
}

#[tokio::test]
async fn misfits_are_refused_with_the_reason_on_both_sides() {
    let misfits = [
        (Hello { cluster_name: "other".to_owned(), ..hello(3) }, "cluster.name"),
        (Hello { cluster_id: Some(9), ..hello(3) }, "two clusters"),
        (Hello { protocol: ProtocolRange { min: 90, max: 91 }, ..hello(3) }, "upgrade"),
        (hello(666), "no member"),
        (hello(2), "both of us"),
    ];
    let b = Node::new(2).await;
    let refusals = misfits.len() as u64;
    for (misfit, expected) in misfits {
        let a = Node::start(misfit, options()).await;
        a.knows(&b);
        assert_not_sent(a.call(b.id, Request::Ping).await, expected);
    }
    eventually("all refused", || b.inbound().refused == refusals).await;
    assert_eq!(b.inbound().connections, 0);
}

#[tokio::test]
async fn another_node_at_a_peers_address_is_told_apart() {
    let (a, b) = pair().await;
    a.transport.set_address(NodeId(77), &b.address());
    assert_not_sent(a.call(NodeId(77), Request::Ping).await, "was expected here");
}

#[tokio::test]
async fn a_node_that_is_still_starting_is_not_sent_to() {
    let a = Node::new(1).await;
    let env = tokio_env();
    let clock = HlcClock::new(env.clone(), Hlc(0), Duration::from_secs(1));
    let stamps = Arc::new(NodeStamps::new(clock));
    let b = TcpTransport::start(env, options(), stamps, Arc::new(Policy(hello(2))))
        .await
        .expect("a free port on loopback");
    a.transport.set_address(NodeId(2), &b.local_addr().to_string());
    assert_not_sent(a.call(NodeId(2), Request::Ping).await, "still starting");
    b.set_service(Arc::new(Service(a.echo.clone())));
    assert_eq!(answer_of(a.call(NodeId(2), Request::Ping).await), Response::Pong);
}

#[tokio::test]
async fn of_two_starts_of_a_node_the_one_met_last_is_talked_to_even_if_it_is_older() {
    let b = Node::new(2).await;
    let mut old = raw_peer(&b, &hello(9)).await;
    let mut new = raw_peer(&b, &Hello { incarnation: Incarnation(6), ..hello(9) }).await;
    assert!(is_hung_up(&mut old).await);
    // An older copy of a directory has to hear what it is.
    let a = Node::start(hello(9), options()).await;
    a.knows(&b);
    assert_eq!(answer_of(a.call(b.id, Request::Ping).await), Response::Pong);
    assert!(is_hung_up(&mut new).await);
}
