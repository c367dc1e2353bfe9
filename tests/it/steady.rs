//! Channels that woke replicate without openraft, and turn to it when anything
//! happens that needs more.

use std::time::Duration;

use accord_jepsen::{Api, Cluster, ClusterOptions, Consistency, RaftOptions, wait_until};

use crate::rejoin::rejoin;
use crate::support::{SOON, assert_gapless, options, run, started};
use crate::writer::{Writer, assert_kept, fill, read_whole, wait_level};

/// Longer than a test: what replicates without openraft stays awake.
const NEVER_MS: u64 = 600_000;

async fn lasting_cluster(nodes: u64) -> Cluster {
    started(ClusterOptions {
        raft: RaftOptions {
            idle_ms: Some(NEVER_MS),
            ..RaftOptions::default()
        },
        ..options(nodes)
    })
    .await
}

/// What openraft runs sleeps soon, so that it wakes without it.
async fn asleep(apis: &[Api]) {
    for api in apis {
        wait_until("channels to sleep", SOON, || async {
            match api.metric("accord_groups_open").await {
                // The directory stays.
                Ok(open) if open <= 1.0 => Ok(()),
                other => Err(format!("{other:?} are open")),
            }
        })
        .await
        .unwrap();
    }
}

async fn steady(api: &Api) -> f64 {
    api.metric("accord_groups_steady").await.unwrap()
}

async fn wait_steady(apis: &[Api], count: f64) {
    for api in apis {
        wait_until("steady channels", SOON, || async {
            match steady(api).await {
                found if (found - count).abs() < 0.5 => Ok(()),
                found => Err(format!("{found} on node {}", api.node())),
            }
        })
        .await
        .unwrap();
    }
}

#[test]
fn a_channel_that_woke_needs_no_openraft_on_any_node() {
    run(120, async {
        let cluster = lasting_cluster(3).await;
        let apis = cluster.apis(&cluster.ids());
        let channel = apis[0].new_channel().await.unwrap();
        let mut sent = fill(&apis, &channel, "first", 4).await.len();
        let term = apis[0].channel_view(&channel.channel).await.unwrap().term;
        asleep(&apis).await;
        let mut sockets = Vec::new();
        for api in &apis {
            sockets.push(api.connect(&channel, "listener").await.unwrap());
        }
        let before = sent as u64;
        sent += fill(&apis, &channel, "second", 40).await.len();
        for socket in &mut sockets {
            let got = socket.messages(sent - before as usize).await.unwrap();
            assert_gapless(&got, before + 1);
        }
        wait_steady(&apis, 1.0).await;
        for api in &apis {
            let read = api.read_all(&channel, Consistency::Linearizable).await;
            assert_eq!(read.unwrap().len(), sent);
        }
        // Neither a read nor a listener is a reason to change over, and nobody was elected.
        wait_steady(&apis, 1.0).await;
        let view = apis[0].channel_view(&channel.channel).await.unwrap();
        assert_eq!(view.term, term, "{view:?}");
    });
}

#[test]
fn a_follower_that_dies_under_a_steady_leader_misses_nothing() {
    run(180, async {
        let cluster = lasting_cluster(3).await;
        let apis = cluster.apis(&cluster.ids());
        let channel = apis[0].new_channel().await.unwrap();
        fill(&apis, &channel, "first", 4).await;
        let leader = apis[0].leader_of(&channel, SOON).await.unwrap();
        asleep(&apis).await;
        let victim = cluster.others(leader)[0];
        let others = cluster.apis(&cluster.others(victim));
        let writer = Writer::start(others.clone(), &channel, "writer");
        writer.wait_more(20, SOON).await;
        wait_steady(&apis, 1.0).await;
        cluster.kill(victim).unwrap();
        writer.wait_more(50, SOON).await;
        cluster.restart(victim).await.unwrap();
        writer.wait_more(20, SOON).await;
        let acked = writer.finish().await;
        let whole = read_whole(&cluster.api(victim), &channel).await;
        assert_kept(&whole, &acked);
        for api in &apis {
            wait_level(api, &channel, &whole).await;
        }
    });
}

/// It woke while a node was away, and the node comes back while it is awake.
#[test]
fn a_node_that_was_left_out_is_brought_level_without_a_write() {
    run(180, async {
        let cluster = lasting_cluster(3).await;
        let apis = cluster.apis(&cluster.ids());
        let channel = apis[0].new_channel().await.unwrap();
        fill(&apis, &channel, "first", 4).await;
        let leader = apis[0].leader_of(&channel, SOON).await.unwrap();
        asleep(&apis).await;
        let away = cluster.others(leader)[1];
        let others = cluster.apis(&cluster.others(away));
        cluster.kill(away).unwrap();
        for api in &others {
            wait_until("the loss to be noticed", SOON, || async {
                match api.cluster().await {
                    Ok(view) if view.nodes.iter().any(|node| !node.up) => Ok(()),
                    Ok(_) => Err("all are up".to_owned()),
                    Err(error) => Err(error.to_string()),
                }
            })
            .await
            .unwrap();
        }
        fill(&others, &channel, "without", 10).await;
        wait_steady(&others, 1.0).await;
        let whole = read_whole(&others[0], &channel).await;
        cluster.restart(away).await.unwrap();
        wait_level(&cluster.api(away), &channel, &whole).await;
    });
}

#[test]
fn a_steady_leader_that_dies_or_stops_is_replaced() {
    run(180, async {
        let cluster = lasting_cluster(3).await;
        let apis = cluster.apis(&cluster.ids());
        let channel = apis[0].new_channel().await.unwrap();
        fill(&apis, &channel, "first", 4).await;
        for stops in [false, true] {
            let leader = apis[0].leader_of(&channel, SOON).await.unwrap();
            asleep(&apis).await;
            let others = cluster.apis(&cluster.others(leader));
            let writer = Writer::start(others.clone(), &channel, &format!("stops: {stops}"));
            writer.wait_more(20, SOON).await;
            wait_steady(&apis, 1.0).await;
            if stops {
                let ended = cluster.stop(leader, Duration::from_secs(20)).await.unwrap();
                assert!(ended.status.success());
            } else {
                cluster.kill(leader).unwrap();
            }
            writer.wait_more(50, SOON).await;
            let acked = writer.finish().await;
            cluster.restart(leader).await.unwrap();
            let whole = read_whole(&cluster.api(leader), &channel).await;
            assert_kept(&whole, &acked);
            for api in &apis {
                wait_level(api, &channel, &whole).await;
            }
        }
    });
}

/// The leader of a sleeping channel loses its disk, and nobody but itself asks
/// for the channel: it must not take itself for the one who leads it.
#[test]
fn a_leader_that_lost_its_disk_recovers_channels_that_sleep() {
    run(180, async {
        let cluster = lasting_cluster(3).await;
        let apis = cluster.apis(&cluster.ids());
        let mut channels = Vec::new();
        for _ in 0..3 {
            let channel = apis[0].new_channel().await.unwrap();
            fill(&apis, &channel, "first", 4).await;
            let whole = read_whole(&apis[0], &channel).await;
            channels.push((channel, whole));
        }
        let leader = apis[0].leader_of(&channels[0].0, SOON).await.unwrap();
        asleep(&apis).await;
        cluster.kill(leader).unwrap();
        let output = rejoin(&cluster, leader);
        assert!(output.status.success(), "{output:?}");
        cluster.start_node(leader).unwrap();
        cluster.wait_ready(leader).await.unwrap();
        let api = cluster.api(leader);
        wait_until("all channels to recover", SOON, || async {
            match api.metric("accord_groups_recovering").await {
                Ok(0.0) => Ok(()),
                other => Err(format!("{other:?} recover")),
            }
        })
        .await
        .unwrap();
        for (channel, whole) in &channels {
            wait_level(&api, channel, whole).await;
        }
    });
}
