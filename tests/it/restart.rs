//! All nodes die at once and come back: everything acknowledged is there.

use accord_jepsen::{ChannelRef, Cluster, ConnectOptions, post_until_acknowledged};

use crate::support::{SOON, assert_gapless, options, own_cluster, run, started};
use crate::writer::{Writer, assert_kept, read_whole, wait_level};

async fn power_cycle(cluster: &Cluster) {
    cluster.kill_all().unwrap();
    for node in cluster.ids() {
        assert!(!cluster.is_running(node));
        cluster.start_node(node).unwrap();
    }
    cluster.wait_all_ready().await.unwrap();
}

#[test]
fn everything_acknowledged_is_there_after_all_nodes_were_killed_at_once() {
    run(240, async {
        let cluster = own_cluster(3).await;
        let apis = cluster.apis(&cluster.ids());
        let server = apis[0].create_server("a lasting server").await.unwrap();
        let mut channels = Vec::new();
        for name in ["first channel", "second channel", "third channel"] {
            channels.push(apis[1].create_channel(&server.id, name).await.unwrap());
        }
        let mut writers = Vec::new();
        for (number, channel) in channels.iter().enumerate() {
            let channel = ChannelRef {
                server: server.id.clone(),
                channel: channel.id.clone(),
            };
            let mut mine = apis.clone();
            mine.rotate_left(number);
            writers.push((Writer::start(mine, &channel, "ann"), channel));
        }
        for _ in 0..2 {
            for (writer, _) in &writers {
                writer.wait_more(60, SOON).await;
            }
            // In the middle of posts, which the writers then repeat with their
            // keys.
            power_cycle(&cluster).await;
            for (writer, _) in &writers {
                writer.wait_more(20, SOON * 2).await;
            }
        }
        for (writer, channel) in writers {
            let acked = writer.finish().await;
            let whole = read_whole(&apis[2], &channel).await;
            assert_kept(&whole, &acked);
            assert_eq!(whole.len(), acked.len());
            for api in &apis {
                wait_level(api, &channel, &whole).await;
            }
        }
        for api in &apis {
            assert_eq!(api.servers().await.unwrap(), std::slice::from_ref(&server));
            assert_eq!(api.channels(&server.id).await.unwrap(), channels);
        }
    });
}

/// The replicas that come back remember a leader that does not. With an election timeout far beyond
/// the test's patience, only a node that looks whether that leader is alive can find another.
#[test]
fn the_others_go_on_when_the_leader_does_not_come_back_from_a_power_cut() {
    run(120, async {
        let mut options = options(3);
        options.raft.election_timeout_ms = Some(60_000);
        let cluster = started(options).await;
        let channel = cluster.api(1).new_channel().await.unwrap();
        cluster
            .api(1)
            .post(&channel, "ann", "before")
            .await
            .unwrap();
        let leader = cluster.api(1).leader_of(&channel, SOON).await.unwrap();
        cluster.kill_all().unwrap();
        let others = cluster.others(leader);
        for node in &others {
            cluster.start_node(*node).unwrap();
        }
        for node in &others {
            cluster.wait_ready(*node).await.unwrap();
            let api = cluster.api(*node);
            let key = format!("after on {node}");
            post_until_acknowledged(&[api], &channel, "ann", "after", &key, SOON)
                .await
                .unwrap();
        }
        let bodies = read_whole(&cluster.api(others[0]), &channel).await;
        assert_eq!(bodies.len(), 3);
    });
}

#[test]
fn keys_cursors_and_heads_survive_a_full_restart() {
    run(180, async {
        let cluster = own_cluster(3).await;
        let channel = cluster.api(1).new_channel().await.unwrap();
        let mut posted = Vec::new();
        for number in 0..10 {
            let key = format!("key-{number}");
            let api = cluster.api(number % 3 + 1);
            posted.push(api.post_keyed(&channel, "ann", "once", &key).await.unwrap());
        }
        power_cycle(&cluster).await;
        for number in 0..10 {
            let key = format!("key-{number}");
            let api = cluster.api((number + 1) % 3 + 1);
            let again = api.post_keyed(&channel, "ann", "once", &key).await.unwrap();
            assert_eq!(again, posted[number as usize]);
            let other = api
                .post_keyed(&channel, "ann", "changed", &key)
                .await
                .unwrap_err();
            assert_eq!(other.status(), Some(422), "{other}");
        }
        let api = cluster.api(2);
        let stale_head = [("if-match", "\"9\"")];
        let refused = api
            .post_with(&channel, "ann", "x", &stale_head)
            .await
            .unwrap_err();
        assert_eq!(refused.status(), Some(412), "{refused}");
        let next = api
            .post_with(&channel, "ann", "x", &[("if-match", "\"10\"")])
            .await
            .unwrap();
        assert_eq!(next.seq, 11);
        assert!(next.timestamp >= posted[9].timestamp);

        let options = ConnectOptions::plain("bea").after(4);
        let mut socket = cluster
            .api(3)
            .connect_with(&channel, &options)
            .await
            .unwrap();
        assert_gapless(&socket.messages(7).await.unwrap(), 5);
    });
}
