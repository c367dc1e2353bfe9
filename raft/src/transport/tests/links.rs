//! Links that come, go, fall silent and are replaced.

use bytes::BytesMut;

use super::*;

#[tokio::test]
async fn a_cut_link_loses_its_calls_and_comes_back() {
    let cluster = pair().await;
    let node = &cluster.nodes[&1];
    let peer = node.peer(2);
    for round in 1..=3 {
        let calls: Vec<Call> = (0..100).map(|i| peer.call(HOLD, number(i), LONG)).collect();
        let desk = &cluster.nodes[&2].desk;
        until("all requests are held", || locked(&desk.held).len() == 100).await;
        cluster.wires[&(1, 2)].cut();
        for call in calls {
            assert_eq!(call.await, Err(CallError::Lost));
        }
        until("the link is up again", || {
            node.transitions().len() == 2 * round + 1
        })
        .await;
        // Answers to a connection that is gone do no harm.
        locked(&desk.held)
            .drain(..)
            .for_each(|(body, reply)| reply.ok(body));
        assert_eq!(peer.call(ECHO, number(9), LONG).await, Ok(number(9)));
    }
    let expected = [(2, true), (2, false)].repeat(3);
    assert_eq!(node.transitions(), [expected, vec![(2, true)]].concat());
    assert_eq!(node.transport.stats().reconnects, 3);
    assert_eq!(
        cluster.nodes[&2].transitions(),
        [(1, true)],
        "the other direction has its own connection"
    );
    cluster.stop().await;
}

#[tokio::test]
async fn a_cut_in_the_middle_of_a_frame_delivers_nothing_of_it() {
    let cluster = pair().await;
    let peer = cluster.nodes[&1].peer(2);
    cluster.wires[&(1, 2)].hold_still(true);
    let calls: Vec<Call> = (0..20)
        .map(|i| peer.call(ECHO, vec![i; 1 << 20].into(), LONG))
        .collect();
    let stats = || cluster.nodes[&1].transport.stats();
    until("a part is written", || stats().bytes_out > 1 << 20).await;
    cluster.wires[&(1, 2)].cut();
    cluster.wires[&(1, 2)].hold_still(false);
    for call in calls {
        assert_eq!(call.await, Err(CallError::Lost));
    }
    until("the link is up again", || peer.is_up()).await;
    assert_eq!(peer.call(ECHO, number(5), LONG).await, Ok(number(5)));
    let requests = std::mem::take(&mut *locked(&cluster.nodes[&2].desk.requests));
    assert!(
        requests
            .iter()
            .all(|(_, _, body)| body.len() == 8 || body.len() == 1 << 20)
    );
    cluster.stop().await;
}

#[tokio::test]
async fn a_node_can_be_restarted_on_its_port() {
    let other = lone_node(|_| {}).await;
    let addr = other.transport.local_addr();
    let node = Node::start(config(
        1,
        vec![PeerAddress {
            node: 2,
            addr: addr.to_string(),
        }],
    ))
    .await;
    until("the link is up", || node.transitions() == [(2, true)]).await;
    let call = node.peer(2).call(HOLD, Bytes::new(), LONG);
    until("the request is held", || {
        locked(&other.desk.held).len() == 1
    })
    .await;
    other.transport.stop().await;
    assert_eq!(call.await, Err(CallError::Lost));
    until("the link is down", || {
        node.transitions() == [(2, true), (2, false)]
    })
    .await;

    let mut config = config(
        2,
        vec![PeerAddress {
            node: 1,
            addr: "127.0.0.1:1".into(),
        }],
    );
    config.listen = addr;
    let desk = Arc::new(Desk::default());
    let start = Instant::now();
    let restarted = loop {
        match Transport::start(config.clone(), Arc::clone(&desk) as Arc<dyn Service>).await {
            Ok(restarted) => break restarted,
            // Another test may have been given the port for a moment.
            Err(error) => assert!(start.elapsed() < PATIENCE, "{error}"),
        }
        pause(Duration::from_millis(1)).await;
    };
    until("the link is up again", || node.transitions().len() == 3).await;
    assert_eq!(
        node.peer(2).call(ECHO, number(1), LONG).await,
        Ok(number(1))
    );
    node.transport.stop().await;
    restarted.stop().await;
}

#[tokio::test]
async fn a_silent_link_is_closed() {
    let quick = |config: &mut Config| {
        config.timing.ping_every = Duration::from_millis(20);
        config.timing.silent_after = Duration::from_millis(400);
    };
    let cluster = Cluster::start_with(2, quick).await;
    cluster.all_up().await;
    let node = &cluster.nodes[&1];
    let call = node.peer(2).call(HOLD, Bytes::new(), LONG);
    cluster.wires[&(1, 2)].hold_still(true);
    assert_eq!(call.await, Err(CallError::Lost));
    until("the link is down", || {
        node.transitions().get(1) == Some(&(2, false))
    })
    .await;
    cluster.wires[&(1, 2)].hold_still(false);
    until("the link is up again", || node.peer(2).is_up()).await;
    cluster.stop().await;
}

#[tokio::test]
async fn an_idle_link_stays_up_by_pings_alone() {
    let cluster = pair().await;
    let frames = || cluster.nodes[&1].transport.stats().frames_in;
    let before = frames();
    until("some pings have come", || frames() >= before + 6).await;
    assert_eq!(cluster.nodes[&1].transitions(), [(2, true)]);
    cluster.stop().await;
}

/// Three connections of one node, each with requests still unread when the next one comes: after
/// the first request of a connection none of an older one is served.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_newer_connection_replaces_the_older_one_in_order() {
    let node = lone_node(|_| {}).await;
    let addr = node.transport.local_addr();
    let mut writers = JoinSet::new();
    for connection in 0..20_u64 {
        let mut dialler = Dialler::agreed(addr).await;
        let frame = request(connection, HOLD, &number(connection));
        dialler.send(&frame).await.unwrap();
        let requests = &node.desk.requests;
        until("the new connection is served", || {
            locked(requests)
                .last()
                .is_some_and(|(_, _, body)| *body == number(connection))
        })
        .await;
        // Goes on for as long as it can.
        writers.spawn(async move { while dialler.send(&frame.repeat(1_000)).await.is_ok() {} });
    }
    // The last one is replaced too, so that all writers end.
    let mut last = Dialler::agreed(addr).await;
    assert_eq!(writers.join_all().await.len(), 20);
    let bodies: Vec<Bytes> = locked(&node.desk.requests)
        .iter()
        .map(|request| request.2.clone())
        .collect();
    assert!(bodies.is_sorted_by_key(|body| u64::from_le_bytes(body[..].try_into().unwrap())));
    node.transport.stop().await;
    last.closed().await;
}

#[tokio::test]
async fn who_asks_but_does_not_listen_is_left_unread_until_it_does() {
    // Large answers, so that the sockets are full, then so many small ones that too many wait.
    const LARGE: u64 = 15;
    const ALL: u64 = 100_000;
    let node = lone_node(hardly_any_pings).await;
    let Dialler(stream) = Dialler::agreed(node.transport.local_addr()).await;
    let (mut reader, mut writer) = stream.into_split();
    let large = (0..LARGE).map(|id| request(id, ECHO, &[3; 1 << 20]));
    let small = (LARGE..ALL).map(|id| request(id, ECHO, &[]));
    let requests: Vec<u8> = large.chain(small).flatten().collect();
    let writing = tokio::spawn(async move {
        writer.write_all(&requests).await.unwrap();
        writer
    });
    let mut read = 0;
    until("too many answers wait to read on", || {
        let before = std::mem::replace(&mut read, node.transport.stats().frames_in);
        read > 16_384 && read == before
    })
    .await;
    let mut input = BytesMut::new();
    let mut answered = 0;
    while answered < ALL {
        let reading = tokio::time::timeout(PATIENCE, reader.read_buf(&mut input));
        reading.await.expect("answers go on").unwrap();
        while let Some(Frame { header, .. }) = frame::decode(&mut input).unwrap() {
            if header.frame_type == FrameType::Answer {
                assert_eq!(header.id, answered);
                answered += 1;
            }
        }
    }
    drop(writing.await.unwrap());
    node.transport.stop().await;
}

#[tokio::test]
async fn a_majority_is_seen_to_miss_a_node() {
    let cluster = Cluster::start_with(3, hardly_any_pings).await;
    cluster.all_up().await;
    let view = |node: NodeId| cluster.nodes[&node].transport.alive();
    let mut changes = cluster.nodes[&1].transport.alive_changes();
    for (node, other) in [(1, 3), (1, 2), (2, 3), (3, 1)] {
        until("both others see the node", || {
            view(node).seen_by(other) == 2
        })
        .await;
    }
    let seen = |node: NodeId| {
        view(node)
            .sightings
            .iter()
            .map(|sighting| sighting.node)
            .collect::<Vec<_>>()
    };
    assert_eq!(seen(1), [2, 3]);

    changes.mark_unchanged();
    cluster.nodes[&3].transport.stop().await;
    changes.changed().await.unwrap();
    for node in [1, 2] {
        until("both others miss the node", || view(node).missed_by(3) == 2).await;
        assert_eq!(
            (
                view(node).seen_by(3),
                view(node).missed_by(1),
                view(node).missed_by(2)
            ),
            (0, 0, 0)
        );
    }

    // Only node 1 loses node 2: no majority for that.
    cluster.wires[&(1, 2)].lead_nowhere();
    cluster.wires[&(1, 2)].cut();
    until("node 2 hears that node 1 does not see it", || {
        view(2).missed_by(2) == 1
    })
    .await;
    assert_eq!(view(1).missed_by(2), 1);
    cluster.stop().await;
}

#[tokio::test]
async fn stopping_ends_everything() {
    let cluster = pair().await;
    let node = &cluster.nodes[&1];
    let peer = node.peer(2);
    let call = peer.call(HOLD, Bytes::new(), LONG);
    node.transport.stop().await;
    node.transport.stop().await;
    assert_eq!(call.await, Err(CallError::Lost));
    assert_eq!(
        peer.call(ECHO, Bytes::new(), LONG).await,
        Err(CallError::Down)
    );
    assert_eq!(node.transitions(), [(2, true), (2, false)]);
    until("the other node has noticed", || {
        cluster.nodes[&2].transitions() == [(1, true), (1, false)]
    })
    .await;
    assert!(
        TcpStream::connect(node.transport.local_addr())
            .await
            .is_err()
    );
    cluster.stop().await;
}

#[tokio::test]
async fn dropping_stops_too() {
    let mut cluster = pair().await;
    let node = cluster.nodes.remove(&1).unwrap();
    let peer = node.peer(2);
    let addr = node.transport.local_addr();
    drop(node);
    until("the link is down", || !peer.is_up()).await;
    until("the other node has noticed", || {
        cluster.nodes[&2].transitions() == [(1, true), (1, false)]
    })
    .await;
    assert!(TcpStream::connect(addr).await.is_err());
    cluster.stop().await;
}

/// What was answered before the stop reaches the other end, if its socket has room.
#[tokio::test]
async fn the_last_words_are_said() {
    let cluster = pair().await;
    let call = cluster.nodes[&1].peer(2).call(HOLD, number(4), LONG);
    let held = &cluster.nodes[&2].desk.held;
    until("the request is held", || locked(held).len() == 1).await;
    let (body, reply) = locked(held).pop().unwrap();
    reply.ok(body);
    cluster.nodes[&2].transport.stop().await;
    assert_eq!(call.await, Ok(number(4)));
    cluster.stop().await;
}
