//! What becomes of calls.

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_come_in_the_order_of_the_calls() {
    let cluster = pair().await;
    let calls: Vec<Call> = (0..20_000)
        .map(|i| cluster.nodes[&1].peer(2).call(ECHO, number(i), LONG))
        .collect();
    for (i, call) in (0..).zip(calls) {
        assert_eq!(call.await, Ok(number(i)));
    }
    let bodies: Vec<Bytes> = locked(&cluster.nodes[&2].desk.requests)
        .iter()
        .map(|request| request.2.clone())
        .collect();
    assert_eq!(bodies, (0..20_000).map(number).collect::<Vec<_>>());
    cluster.stop().await;
}

#[tokio::test]
async fn answers_find_their_calls_in_any_order() {
    let cluster = pair().await;
    let calls: Vec<Call> = (0..100)
        .map(|i| cluster.nodes[&1].peer(2).call(HOLD, number(i), LONG))
        .collect();
    let held = &cluster.nodes[&2].desk.held;
    until("all requests are held", || locked(held).len() == 100).await;
    let mut replies: Vec<_> = locked(held).drain(..).collect();
    replies.sort_by_key(|(body, _)| (u64::from(body[0]) * 7 + 3) % 101);
    for (body, reply) in replies {
        reply.ok_parts(vec![Bytes::from_static(b"re: "), body]);
    }
    for (i, call) in (0..).zip(calls) {
        assert_eq!(
            call.await.unwrap(),
            [b"re: ".as_slice(), &number(i)].concat()
        );
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_directions_work_at_once() {
    let cluster = pair().await;
    let mut callers = JoinSet::new();
    for (from, to) in [(1, 2), (2, 1)] {
        let peer = cluster.nodes[&from].peer(to);
        callers.spawn(async move {
            for round in 0..100 {
                let body = |i: u64| {
                    Bytes::from(vec![
                        u8::try_from(i).unwrap();
                        50 * usize::try_from(i).unwrap()
                    ])
                };
                let calls: Vec<Call> = (0..100).map(|i| peer.call(ECHO, body(i), LONG)).collect();
                for (i, call) in (0..).zip(calls) {
                    assert_eq!(call.await, Ok(body(i)), "round {round}");
                }
            }
        });
    }
    for finished in callers.join_all().await {
        let () = finished;
    }
    cluster.stop().await;
}

#[tokio::test]
async fn bodies_of_all_sizes_arrive_whole() {
    let cluster = pair().await;
    let peer = cluster.nodes[&1].peer(2);
    let pattern = |size: usize| Bytes::from_iter((0..size).map(|i| ((i * 31) >> 3) as u8));
    for size in [
        0,
        1,
        1_023,
        1_024,
        1_025,
        65_535,
        65_536,
        1 << 20,
        BODY_BYTES_MAX,
    ] {
        assert!(
            peer.call(ECHO, pattern(size), LONG).await.unwrap() == pattern(size),
            "{size} bytes"
        );
        let mut rest = pattern(size);
        let parts = [0, size / 3, 10.min(size - size / 3), 0].map(|bytes| rest.split_to(bytes));
        let parts = parts.into_iter().chain([rest]).collect();
        assert!(
            peer.call_parts(ECHO, parts, LONG).await.unwrap() == pattern(size),
            "{size} bytes in parts"
        );
    }
    let answer = peer
        .call(ECHO, vec![0; BODY_BYTES_MAX + 1].into(), LONG)
        .await;
    assert!(
        matches!(answer, Err(CallError::Refused(why)) if why.contains("is larger than 8388598"))
    );
    assert!(peer.is_up());
    cluster.stop().await;
}

#[tokio::test]
async fn refusals_and_dropped_replies_are_told() {
    let cluster = pair().await;
    let peer = cluster.nodes[&1].peer(2);
    assert_eq!(
        peer.call(REFUSE, Bytes::new(), LONG).await,
        Err(CallError::Refused("not today".into()))
    );
    assert_eq!(
        peer.call(DROP, Bytes::new(), LONG).await,
        Err(CallError::Refused("dropped".into()))
    );
    cluster.stop().await;
}

#[tokio::test]
async fn a_deadline_ends_a_call_and_nothing_else() {
    let cluster = pair().await;
    let peer = cluster.nodes[&1].peer(2);
    let patient = peer.call(HOLD, number(1), LONG);
    let hasty: Vec<Call> = (0..50)
        .map(|i| peer.call(HOLD, number(i), Duration::from_millis(i)))
        .collect();
    for call in hasty {
        assert_eq!(call.await, Err(CallError::TimedOut));
    }
    let held = &cluster.nodes[&2].desk.held;
    until("all requests are held", || locked(held).len() == 51).await;
    // The answers to the late calls find nobody, also where their places are used again.
    let next: Vec<Call> = (0..60)
        .map(|_| peer.call(ECHO, Bytes::from_static(b"next"), LONG))
        .collect();
    for (_, reply) in locked(held).drain(..) {
        reply.ok(Bytes::from_static(b"held"));
    }
    for call in next {
        assert_eq!(call.await, Ok(Bytes::from_static(b"next")));
    }
    assert_eq!(patient.await, Ok(Bytes::from_static(b"held")));
    assert_eq!(cluster.nodes[&1].transitions(), [(2, true)]);
    cluster.stop().await;
}

#[tokio::test]
async fn deadlines_pass_also_while_nothing_can_be_written() {
    let cluster = Cluster::start_with(2, hardly_any_pings).await;
    cluster.all_up().await;
    let peer = cluster.nodes[&1].peer(2);
    cluster.wires[&(1, 2)].hold_still(true);
    let body = Bytes::from(vec![0; 1 << 20]);
    let stuck: Vec<Call> = (0..40)
        .map(|_| peer.call(ECHO, body.clone(), LONG * 60))
        .collect();
    let mut written = 0;
    until("the sockets are full", || {
        let before = std::mem::replace(&mut written, cluster.nodes[&1].transport.stats().bytes_out);
        written > 1 << 20 && written == before
    })
    .await;
    let hasty = peer.call(ECHO, body, Duration::from_millis(1));
    assert_eq!(
        tokio::time::timeout(PATIENCE, hasty).await,
        Ok(Err(CallError::TimedOut))
    );
    cluster.wires[&(1, 2)].hold_still(false);
    for call in stuck {
        assert!(call.await.is_ok());
    }
    cluster.stop().await;
}

#[tokio::test]
async fn a_full_queue_refuses_and_empties_again() {
    let cluster = pair().await;
    let peer = cluster.nodes[&1].peer(2);
    cluster.wires[&(1, 2)].hold_still(true);
    let body = Bytes::from(vec![7; 1 << 20]);
    let mut calls = Vec::new();
    loop {
        let mut call = peer.call(ECHO, body.clone(), LONG);
        if let Some(answer) = now(&mut call) {
            assert_eq!(answer, Err(CallError::Full));
            break;
        }
        calls.push(call);
        // Sockets hold some megabytes, and the link task must run to hand them over.
        assert!(calls.len() < 200, "the queue has no bound");
        tokio::task::yield_now().await;
    }
    assert!(calls.len() >= 63, "{} calls were taken", calls.len());
    cluster.wires[&(1, 2)].hold_still(false);
    for call in calls {
        assert_eq!(call.await.unwrap().len(), 1 << 20);
    }
    assert!(peer.call(ECHO, body, LONG).await.is_ok());
    cluster.stop().await;
}

#[tokio::test]
async fn answers_without_room_are_lost_and_the_link_stays() {
    let cluster = pair().await;
    let peer = cluster.nodes[&1].peer(2);
    let calls: Vec<Call> = (0..200).map(|i| peer.call(HOLD, number(i), LONG)).collect();
    let held = &cluster.nodes[&2].desk.held;
    until("all requests are held", || locked(held).len() == 200).await;
    cluster.wires[&(1, 2)].hold_still(true);
    let large = Bytes::from(vec![5; 1 << 20]);
    let replies = std::mem::take(&mut *locked(held));
    for (_, reply) in replies {
        reply.ok(large.clone());
        tokio::task::yield_now().await;
    }
    cluster.wires[&(1, 2)].hold_still(false);
    let mut lost = 0;
    for call in calls {
        match call.await {
            Ok(answer) => assert!(lost == 0 && answer == large),
            Err(error) => {
                assert_eq!(error, CallError::Lost);
                lost += 1;
            }
        }
    }
    assert!((1..=200 - 63).contains(&lost), "{lost} answers were lost");
    assert_eq!(peer.call(ECHO, large.clone(), LONG).await, Ok(large));
    assert_eq!(cluster.nodes[&1].transitions(), [(2, true)]);
    cluster.stop().await;
}

#[tokio::test]
async fn calls_that_wait_are_bounded() {
    let cluster = pair().await;
    let peer = cluster.nodes[&1].peer(2);
    let mut calls = Vec::new();
    for _ in 0..CALLS_MAX {
        calls.push(peer.call(HOLD, Bytes::new(), LONG));
        if calls.len().is_multiple_of(10_000) {
            // So that it is the calls that are at their bound and not the frames.
            let held = &cluster.nodes[&2].desk.held;
            until("these requests have arrived", || {
                locked(held).len() == calls.len()
            })
            .await;
        }
    }
    assert_eq!(
        peer.call(HOLD, Bytes::new(), LONG).await,
        Err(CallError::Full)
    );
    let held = &cluster.nodes[&2].desk.held;
    until("all requests are held", || locked(held).len() == CALLS_MAX).await;
    locked(held)
        .drain(..)
        .for_each(|(body, reply)| reply.ok(body));
    for call in calls {
        assert_eq!(call.await, Ok(Bytes::new()));
    }
    assert!(peer.call(ECHO, Bytes::new(), LONG).await.is_ok());
    cluster.stop().await;
}

#[tokio::test]
async fn calls_to_a_node_that_is_not_there_are_down() {
    let cluster = Cluster::start(2).await;
    cluster.wires[&(1, 2)].lead_nowhere();
    let node = &cluster.nodes[&1];
    until("the link is not up", || !node.peer(2).is_up()).await;
    cluster.wires[&(1, 2)].cut();
    until("the dial has failed", || node.peer(2).trouble().is_some()).await;
    assert_eq!(
        now(&mut node.peer(2).call(ECHO, Bytes::new(), LONG)),
        Some(Err(CallError::Down))
    );
    assert!(node.transport.peer(3).is_none());
    cluster.stop().await;
}

/// What a call says without being waited for.
fn now(call: &mut Call) -> Option<Result<Bytes, CallError>> {
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    match std::pin::Pin::new(call).poll(&mut context) {
        std::task::Poll::Ready(answer) => Some(answer),
        std::task::Poll::Pending => None,
    }
}
