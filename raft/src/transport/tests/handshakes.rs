//! Who is let in, who is not, and what they are told.

use super::*;

/// Node 1 dials node 2, both adjusted; the refusal must be counted and worded the same on both.
async fn check(adjust: impl Fn(&mut Config), reason: Reason, text: &str) {
    let other = lone_node(&adjust).await;
    let node = one_way(1, 2, Some(other.transport.local_addr()), &adjust).await;
    until("both have refused", || {
        node.refused(reason) > 1 && other.refused(reason) > 1
    })
    .await;
    for node in [&node, &other] {
        assert_eq!(node.transport.stats().last_refusal.as_deref(), Some(text));
        assert_eq!(
            node.transport.stats().refused.total(),
            node.refused(reason),
            "and for no other reason"
        );
    }
    let trouble = node.peer(2).trouble().unwrap();
    assert_eq!(
        trouble,
        format!("node 2 at {} refuses: {text}", other.transport.local_addr())
    );
    assert_eq!(
        (node.transitions(), other.transitions()),
        (Vec::new(), Vec::new())
    );
    node.transport.stop().await;
    other.transport.stop().await;
}

/// A node with one peer, which it can reach only if an address is given.
async fn one_way(
    node: NodeId,
    peer: NodeId,
    addr: Option<SocketAddr>,
    adjust: impl Fn(&mut Config),
) -> Node {
    let addr = addr.map_or("127.0.0.1:1".to_owned(), |addr| addr.to_string());
    let mut config = config(node, vec![PeerAddress { node: peer, addr }]);
    adjust(&mut config);
    Node::start(config).await
}

#[tokio::test]
async fn another_cluster_is_refused() {
    let adjust = |config: &mut Config| {
        if config.node == 1 {
            config.cluster = "other".into();
        }
    };
    let text = "the cluster is 'accord' on node 2 but 'other' on node 1";
    check(adjust, Reason::OtherCluster, text).await;
}

#[tokio::test]
async fn other_settings_are_refused() {
    let adjust = |config: &mut Config| config.fingerprint = format!("replication={}", config.node);
    let text = "settings differ: node 2 has replication=2, node 1 has replication=1";
    check(adjust, Reason::OtherSettings, text).await;
}

#[tokio::test]
async fn a_node_that_is_not_configured_is_refused() {
    let adjust = |config: &mut Config| {
        if config.node == 2 {
            config.peers[0].node = 3;
        }
    };
    let text = "node 1 is not in the configuration of node 2";
    check(adjust, Reason::UnknownNode, text).await;
}

#[tokio::test]
async fn a_misdirected_dial_is_refused() {
    let other = one_way(3, 1, None, |_| {}).await;
    let node = one_way(1, 2, Some(other.transport.local_addr()), |_| {}).await;
    let text = "node 1 dialled node 2 but reached node 3: check the address of node 2";
    until("both have refused", || {
        [&node, &other]
            .iter()
            .all(|node| node.refused(Reason::OtherNode) > 0)
    })
    .await;
    for node in [&node, &other] {
        assert_eq!(node.transport.stats().last_refusal.as_deref(), Some(text));
    }
    node.transport.stop().await;
    other.transport.stop().await;
}

#[tokio::test]
async fn a_replaced_disk_is_refused_by_either_end_until_it_is_accepted() {
    for (refusing, refused) in [(1, 2), (2, 1)] {
        let cluster = Cluster::start_with(2, |_| {}).await;
        cluster.all_up().await;
        let text = format!("node {refused}'s disk is not the one this cluster knows");
        let desk = &cluster.nodes[&refusing].desk;
        locked(&desk.unwelcome).insert(refused, text.clone());
        cluster.wires[&(1, 2)].cut();
        let node = &cluster.nodes[&1];
        let verb = if refusing == 1 {
            format!("refusing node 2 at {}", cluster.wires[&(1, 2)].addr)
        } else {
            format!("node 2 at {} refuses", cluster.wires[&(1, 2)].addr)
        };
        until("the refusal is known", || {
            node.peer(2).trouble() == Some(format!("{verb}: {text}"))
        })
        .await;
        for node in cluster.nodes.values() {
            until("both have counted it", || {
                node.refused(Reason::OtherIdentity) > 0
            })
            .await;
            assert_eq!(node.transport.stats().last_refusal.as_ref(), Some(&text));
        }
        assert!(!node.peer(2).is_up());
        locked(&desk.unwelcome).clear();
        until("the link is up again", || node.peer(2).is_up()).await;
        assert_eq!(node.peer(2).trouble(), None);
        cluster.stop().await;
    }
}

#[tokio::test]
async fn another_version_is_refused_and_told_so() {
    let node = lone_node(|_| {}).await;
    let mut dialler = Dialler::connect(node.transport.local_addr()).await;
    let mut bytes = hello::encode(&Message::Hello(hello_of(1, 2)));
    bytes[8..12].copy_from_slice(&[7, 0, 9, 0]);
    dialler.send(&bytes).await.unwrap();
    let Message::Refused(Refusal { reason, text }) = dialler.receive().await.unwrap() else {
        panic!("expected a refusal");
    };
    assert_eq!(reason, Reason::Version);
    assert_eq!(
        text,
        "the programs do not fit: one speaks protocol versions 2 to 2, the other 7 to 9"
    );
    dialler.closed().await;
    assert_eq!(node.refused(Reason::Version), 1);
    node.transport.stop().await;
}

#[tokio::test]
async fn garbage_closes_its_connection_and_nothing_else() {
    let cluster = pair().await;
    let node = &cluster.nodes[&2];
    let addr = node.transport.local_addr();
    for garbage in [
        &b"GET / HTTP/1.1\r\nHost: node\r\n\r\n"[..],
        b"\0",
        &[0xff; 100_000],
    ] {
        let before = node.refused(Reason::BadMagic);
        let mut dialler = Dialler::connect(addr).await;
        // The other end may close while there is more to say.
        let _ = dialler.send(garbage).await;
        dialler.closed().await;
        until("it is counted", || {
            node.refused(Reason::BadMagic) == before + 1
        })
        .await;
    }
    // The right first words and then garbage; and the right words in the wrong order.
    let mut long = hello::encode(&Message::Hello(hello_of(1, 2)));
    long[13..15].copy_from_slice(&u16::MAX.to_le_bytes());
    let mut broken = hello::encode(&Message::Hello(hello_of(1, 2)));
    broken[PREFIX_BYTES] = 250;
    for bytes in [long, broken, hello::encode(&Message::Ready)] {
        let before = node.refused(Reason::Malformed);
        let mut dialler = Dialler::connect(addr).await;
        dialler.send(&bytes).await.unwrap();
        dialler.closed().await;
        until("it is counted", || {
            node.refused(Reason::Malformed) == before + 1
        })
        .await;
    }
    assert_eq!(
        cluster.nodes[&1].peer(2).call(ECHO, number(1), LONG).await,
        Ok(number(1))
    );
    for node in cluster.nodes.values() {
        assert_eq!(node.transitions().len(), 1);
    }
    cluster.stop().await;
}

#[tokio::test]
async fn a_handshake_that_is_not_done_in_time_is_closed() {
    let quick = |config: &mut Config| config.timing.handshake_timeout = Duration::from_millis(100);
    let node = lone_node(quick).await;
    let mut silent = Dialler::connect(node.transport.local_addr()).await;
    let mut halfway = Dialler::connect(node.transport.local_addr()).await;
    halfway
        .send(&hello::encode(&Message::Hello(hello_of(1, 2))))
        .await
        .unwrap();
    silent.closed().await;
    halfway.closed().await;
    until("both are counted", || node.refused(Reason::TimedOut) == 2).await;
    node.transport.stop().await;
}

#[tokio::test]
async fn strangers_at_the_door_are_bounded() {
    let node = lone_node(|_| {}).await;
    let mut strangers = Vec::new();
    while node.refused(Reason::TooMany) == 0 {
        strangers.push(Dialler::connect(node.transport.local_addr()).await);
        tokio::task::yield_now().await;
        assert!(strangers.len() < 1_000, "there is no bound");
    }
    drop(strangers);
    let mut refused = node.refused(Reason::TooMany);
    until("there is room again", || {
        std::mem::replace(&mut refused, node.refused(Reason::TooMany)) == refused
    })
    .await;
    let mut dialler = Dialler::connect(node.transport.local_addr()).await;
    dialler.send(b"who is there?").await.unwrap();
    until("a stranger is listened to again", || {
        node.refused(Reason::BadMagic) == 1
    })
    .await;
    node.transport.stop().await;
}

#[tokio::test]
async fn a_frame_that_breaks_a_rule_closes_its_connection() {
    let node = lone_node(|_| {}).await;
    let oversize = u32::try_from(FRAME_BYTES_MAX + 1).unwrap().to_le_bytes();
    let answer = Header {
        frame_type: FrameType::Answer,
        id: 1,
        tag: 0,
    }
    .encode(0);
    for (bytes, reason) in [
        (&oversize[..], Reason::OversizeFrame),
        (&[3, 0, 0, 0], Reason::BadFrame),
        (&[10, 0, 0, 0, 77], Reason::BadFrame),
        (&answer[..HEADER_BYTES], Reason::BadFrame),
    ] {
        let before = node.refused(reason);
        let mut dialler = Dialler::agreed(node.transport.local_addr()).await;
        dialler.send(bytes).await.unwrap();
        dialler.closed().await;
        until("it is counted", || node.refused(reason) == before + 1).await;
    }
    assert_eq!(
        node.transport.stats().last_refusal.as_deref(),
        Some("a frame that does not belong on this side of a connection")
    );
    node.transport.stop().await;
}

#[tokio::test]
async fn contradictory_configurations_are_refused_at_once() {
    let refuses = async |adjust: fn(&mut Config), part: &str| {
        let mut config = config(
            1,
            vec![PeerAddress {
                node: 2,
                addr: "127.0.0.1:1".into(),
            }],
        );
        adjust(&mut config);
        let error = Transport::start(config, Arc::new(Desk::default()))
            .await
            .err()
            .unwrap();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
        assert!(error.to_string().contains(part), "{error}");
    };
    refuses(
        |config| config.cluster = "x".repeat(256),
        "name is longer than 255 bytes",
    )
    .await;
    refuses(
        |config| config.fingerprint = "x".repeat(4_097),
        "longer than 4096 bytes",
    )
    .await;
    refuses(
        |config| config.peers.push(config.peers[0].clone()),
        "node 2 is named twice",
    )
    .await;
    refuses(
        |config| config.timing.silent_after = config.timing.ping_every,
        "three times",
    )
    .await;
    refuses(
        |config| config.timing.redial_max = Duration::ZERO,
        "redial_max",
    )
    .await;
}
