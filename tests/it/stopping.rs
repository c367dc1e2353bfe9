//! SIGTERM: leadership moves away first, sockets are told, the process ends
//! with 0.

use std::time::{Duration, Instant};

use accord_jepsen::{ClusterOptions, ConnectOptions, RaftOptions};

use crate::support::{SOON, options, own_cluster, run, started};
use crate::writer::{Writer, assert_kept, fill, longest_gap, read_whole, wait_level};

/// The promise is 5 s; the rest is for a slow machine. The time is printed.
const STOP_MAX: Duration = Duration::from_secs(10);

/// Long, so that writes which go on sooner cannot have waited for an election
/// by timeout: leadership was handed over.
const ELECTION: Duration = Duration::from_millis(4000);

#[test]
fn a_leader_that_is_told_to_stop_hands_over_closes_sockets_with_1001_and_exits_with_0() {
    run(180, async {
        let cluster = started(ClusterOptions {
            raft: RaftOptions {
                election_timeout_ms: Some(u64::try_from(ELECTION.as_millis()).unwrap()),
                ..RaftOptions::default()
            },
            ready_within: Duration::from_secs(90),
            ..options(3)
        })
        .await;
        let channel = cluster.api(1).new_channel().await.unwrap();
        let leader = cluster.api(1).leader_of(&channel, SOON).await.unwrap();
        let others = cluster.others(leader);
        let mut plain = cluster.api(leader).connect(&channel, "bea").await.unwrap();
        let mut rich = cluster
            .api(leader)
            .connect_with(&channel, &ConnectOptions::rich("cid"))
            .await
            .unwrap();
        let mut elsewhere = cluster
            .api(others[1])
            .connect(&channel, "dan")
            .await
            .unwrap();
        let writer = Writer::start(vec![cluster.api(others[0])], &channel, "ann");
        writer.wait_more(50, SOON).await;

        let stopped = cluster.stop(leader, STOP_MAX).await.unwrap();
        eprintln!("the leader stopped within {} ms", stopped.took.as_millis());
        assert_eq!(stopped.status.code(), Some(0), "{}", cluster.log(leader));
        assert_eq!(plain.until_closed().await.unwrap().code, Some(1001));
        assert_eq!(rich.until_closed().await.unwrap().code, Some(1001));

        writer.wait_more(50, SOON).await;
        let acked = writer.finish().await;
        let gap = longest_gap(&acked);
        eprintln!("the longest pause of writes was {} ms", gap.as_millis());
        assert!(
            gap < ELECTION - Duration::from_millis(500),
            "{gap:?}: no hand-over"
        );
        let next = cluster
            .api(others[0])
            .leader_of(&channel, SOON)
            .await
            .unwrap();
        assert!(others.contains(&next));

        let whole = read_whole(&cluster.api(others[1]), &channel).await;
        assert_kept(&whole, &acked);
        assert_eq!(elsewhere.messages(whole.len()).await.unwrap(), whole);
        cluster.start_node(leader).unwrap();
        cluster.wait_ready(leader).await.unwrap();
        wait_level(&cluster.api(leader), &channel, &whole).await;
    });
}

#[test]
fn a_whole_cluster_that_is_told_to_stop_exits_with_0_and_starts_again_with_everything() {
    run(180, async {
        let cluster = own_cluster(3).await;
        let apis = cluster.apis(&cluster.ids());
        let channel = apis[0].new_channel().await.unwrap();
        let posted = fill(&apis, &channel, "ann", 60).await;
        let mut sockets = Vec::new();
        for api in &apis {
            sockets.push(api.connect(&channel, "bea").await.unwrap());
        }
        let started = Instant::now();
        for node in cluster.ids() {
            cluster.terminate(node).unwrap();
        }
        for node in cluster.ids() {
            let stopped = cluster.wait_ended(node, started, STOP_MAX).await.unwrap();
            eprintln!("node {node} stopped within {} ms", stopped.took.as_millis());
            assert_eq!(stopped.status.code(), Some(0), "{}", cluster.log(node));
        }
        for mut socket in sockets {
            assert_eq!(socket.until_closed().await.unwrap().code, Some(1001));
        }
        for node in cluster.ids() {
            cluster.start_node(node).unwrap();
        }
        cluster.wait_all_ready().await.unwrap();
        for api in &apis {
            assert_eq!(read_whole(api, &channel).await, posted);
        }
    });
}

/// An open request must not keep a node from stopping.
#[test]
fn a_half_sent_request_does_not_hold_up_a_stop() {
    run(120, async {
        use tokio::io::AsyncWriteExt;
        let cluster = own_cluster(1).await;
        let mut half = tokio::net::TcpStream::connect(cluster.api_addr(1))
            .await
            .unwrap();
        half.write_all(b"POST /api/servers HTTP/1.1\r\nHost: a\r\nContent-Length: 50\r\n\r\n{")
            .await
            .unwrap();
        let stopped = cluster.stop(1, STOP_MAX).await.unwrap();
        assert_eq!(stopped.status.code(), Some(0), "{}", cluster.log(1));
    });
}
