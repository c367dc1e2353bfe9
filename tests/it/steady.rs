//! Channels replicate without openraft, from their first message on and when
//! they woke, and turn to it when anything happens that needs more.

use std::time::Duration;

use accord_jepsen::{
    Api, ChannelRef, Cluster, ClusterOptions, Consistency, RaftOptions, wait_until,
};

use crate::rejoin::rejoin;
use crate::support::{SOON, assert_gapless, options, run, started};
use crate::writer::{Acked, Writer, assert_kept, fill, read_whole, wait_level};

/// Longer than a test: what replicates without openraft stays awake.
const NEVER_MS: u64 = 600_000;
const SHORT_MS: u64 = 300;

async fn cluster(idle_ms: u64) -> Cluster {
    started(ClusterOptions {
        raft: RaftOptions {
            idle_ms: Some(idle_ms),
            ..RaftOptions::default()
        },
        ..options(3)
    })
    .await
}

/// How many are open, and how many of them without openraft.
async fn open_and_steady(api: &Api) -> (f64, f64) {
    let open = api.metric("accord_groups_open").await.unwrap();
    (open, api.metric("accord_groups_steady").await.unwrap())
}

async fn wait_open(apis: &[Api], what: &str, wanted: impl Fn(f64, f64) -> bool) {
    for api in apis {
        wait_until(what, SOON, || async {
            match open_and_steady(api).await {
                (open, steady) if wanted(open, steady) => Ok(()),
                found => Err(format!("{found:?} on node {}", api.node())),
            }
        })
        .await
        .unwrap();
    }
}

/// The directory stays open.
async fn asleep(apis: &[Api]) {
    wait_open(apis, "channels to sleep", |open, _| open < 1.5).await;
}

/// What openraft runs sleeps soon, so that it wakes without it.
async fn at_rest(apis: &[Api]) {
    wait_open(
        apis,
        "openraft to run the directory only",
        |open, steady| open - steady < 1.5,
    )
    .await;
}

async fn wait_steady(apis: &[Api], count: f64) {
    wait_open(apis, "steady channels", |_, steady| {
        (steady - count).abs() < 0.5
    })
    .await;
}

/// With a few messages, and its leader.
async fn lively_channel(apis: &[Api]) -> (ChannelRef, u64) {
    let channel = apis[0].new_channel().await.unwrap();
    fill(apis, &channel, "first", 4).await;
    let leader = apis[0].leader_of(&channel, SOON).await.unwrap();
    (channel, leader)
}

/// What was acknowledged is in the log of the node that `was_away`, and every node has that log.
async fn assert_kept_by_all(apis: &[Api], was_away: u64, channel: &ChannelRef, acked: &[Acked]) {
    let api = apis.iter().find(|api| api.node() == was_away).unwrap();
    let whole = read_whole(api, channel).await;
    assert_kept(&whole, acked);
    for api in apis {
        wait_level(api, channel, &whole).await;
    }
}

async fn loss_noticed(apis: &[Api]) {
    for api in apis {
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
}

#[test]
fn a_channel_needs_no_openraft_on_any_node() {
    run(120, async {
        let cluster = cluster(NEVER_MS).await;
        let apis = cluster.apis(&cluster.ids());
        let channel = apis[0].new_channel().await.unwrap();
        let mut sent = fill(&apis, &channel, "first", 4).await.len();
        wait_steady(&apis, 1.0).await;
        let view = apis[0].channel_view(&channel.channel).await.unwrap();
        assert_eq!(view.term, 1, "nobody was elected: {view:?}");
        assert_eq!(view.leader, Some(view.replicas[0]));
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
        for api in &apis {
            let read = api.read_all(&channel, Consistency::Linearizable).await;
            assert_eq!(read.unwrap().len(), sent);
        }
        // Neither a read nor a listener is a reason to change over.
        wait_steady(&apis, 1.0).await;
        let view = apis[0].channel_view(&channel.channel).await.unwrap();
        assert_eq!(view.term, 1, "{view:?}");
    });
}

/// Its leader closed it in this very process, and goes on.
#[test]
fn a_channel_that_woke_goes_on_in_its_term() {
    run(120, async {
        let cluster = cluster(SHORT_MS).await;
        let apis = cluster.apis(&cluster.ids());
        let (channel, leader) = lively_channel(&apis).await;
        for round in 0..3 {
            asleep(&apis).await;
            fill(&apis, &channel, &format!("round {round}"), 4).await;
            let view = apis[0].channel_view(&channel.channel).await.unwrap();
            assert_eq!((view.term, view.leader), (1, Some(leader)), "{view:?}");
        }
    });
}

/// Its leader was restarted, as all were, and asks its followers for a new term.
#[test]
fn a_channel_that_wakes_after_a_restart_needs_no_openraft_either() {
    run(180, async {
        let cluster = cluster(NEVER_MS).await;
        let apis = cluster.apis(&cluster.ids());
        let (channel, leader) = lively_channel(&apis).await;
        let mut whole = read_whole(&apis[0], &channel).await;
        for round in 0..2 {
            // Followers hear with the next entry what is committed; it must not be in doubt now.
            for api in &apis {
                wait_level(api, &channel, &whole).await;
            }
            // None of them lives to see another die, and to stand in its place.
            for node in cluster.ids() {
                cluster.pause(node).unwrap();
            }
            cluster.kill_all().unwrap();
            for node in cluster.ids() {
                cluster.start_node(node).unwrap();
            }
            for node in cluster.ids() {
                cluster.wait_ready(node).await.unwrap();
            }
            let writer = Writer::start(apis.clone(), &channel, &format!("round {round}"));
            writer.wait_more(10, SOON).await;
            let acked = writer.finish().await;
            // With openraft it would sleep a moment later, and be steady only when it is asked for again.
            wait_steady(&apis, 1.0).await;
            whole = read_whole(&apis[1], &channel).await;
            assert_kept(&whole, &acked);
        }
        let view = apis[0].channel_view(&channel.channel).await.unwrap();
        assert_eq!((view.term, view.leader), (3, Some(leader)), "{view:?}");
    });
}

#[test]
fn a_follower_that_dies_under_a_steady_leader_misses_nothing() {
    run(180, async {
        let cluster = cluster(NEVER_MS).await;
        let apis = cluster.apis(&cluster.ids());
        let (channel, leader) = lively_channel(&apis).await;
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
        assert_kept_by_all(&apis, victim, &channel, &acked).await;
    });
}

/// They were opened while a node was away, which comes back while they are.
#[test]
fn a_node_that_was_left_out_is_brought_level_without_a_write() {
    run(180, async {
        let cluster = cluster(NEVER_MS).await;
        let away = 3;
        let others = cluster.apis(&cluster.others(away));
        let mut channels = Vec::new();
        for _ in 0..3 {
            channels.push(others[0].new_channel().await.unwrap());
        }
        cluster.kill(away).unwrap();
        loss_noticed(&others).await;
        for channel in &channels {
            fill(&others, channel, "without", 10).await;
        }
        // Every node is the first leader of one, and another has taken the place of the one away.
        wait_steady(&others, 3.0).await;
        let mut wholes = Vec::new();
        for channel in &channels {
            wholes.push(read_whole(&others[0], channel).await);
        }
        cluster.restart(away).await.unwrap();
        for (channel, whole) in channels.iter().zip(&wholes) {
            wait_level(&cluster.api(away), channel, whole).await;
        }
    });
}

#[test]
fn a_steady_leader_that_dies_or_stops_is_replaced() {
    run(180, async {
        let cluster = cluster(NEVER_MS).await;
        let apis = cluster.apis(&cluster.ids());
        let (channel, _) = lively_channel(&apis).await;
        for stops in [false, true] {
            let leader = apis[0].leader_of(&channel, SOON).await.unwrap();
            at_rest(&apis).await;
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
            assert_kept_by_all(&apis, leader, &channel, &acked).await;
        }
    });
}

/// Where all logs end alike nothing has to be decided, whether the channel is awake or not.
#[test]
fn a_dead_leaders_place_is_taken_without_openraft() {
    run(180, async {
        let cluster = cluster(NEVER_MS).await;
        let apis = cluster.apis(&cluster.ids());
        for asleep in [false, true] {
            let (channel, leader) = lively_channel(&apis).await;
            let others = cluster.apis(&cluster.others(leader));
            let whole = read_whole(&apis[0], &channel).await;
            for api in &apis {
                wait_level(api, &channel, &whole).await;
            }
            if asleep {
                for node in cluster.ids() {
                    cluster.pause(node).unwrap();
                }
                cluster.kill_all().unwrap();
                for api in &others {
                    cluster.start_node(api.node()).unwrap();
                }
                for api in &others {
                    cluster.wait_ready(api.node()).await.unwrap();
                }
            } else {
                cluster.kill(leader).unwrap();
            }
            loss_noticed(&others).await;
            let writer = Writer::start(others.clone(), &channel, "without");
            writer.wait_more(10, SOON).await;
            let now = others[0].leader_of(&channel, SOON).await.unwrap();
            assert_ne!(now, leader);
            wait_steady(&others, 1.0).await;
            let view = others[0].channel_view(&channel.channel).await.unwrap();
            assert_eq!(view.term, 2, "{view:?}");
            cluster.restart(leader).await.unwrap();
            let acked = writer.finish().await;
            assert_kept_by_all(&apis, leader, &channel, &acked).await;
        }
    });
}

/// After a restart a follower has heard nobody, and nobody has a reason to speak.
#[test]
fn every_node_names_the_leader_of_a_channel_that_is_looked_at() {
    run(120, async {
        let cluster = cluster(NEVER_MS).await;
        let apis = cluster.apis(&cluster.ids());
        let (channel, _) = lively_channel(&apis).await;
        for node in cluster.ids() {
            cluster.pause(node).unwrap();
        }
        cluster.kill_all().unwrap();
        for node in cluster.ids() {
            cluster.start_node(node).unwrap();
        }
        for node in cluster.ids() {
            cluster.wait_ready(node).await.unwrap();
        }
        for api in &apis {
            api.leader_of(&channel, SOON).await.unwrap();
        }
    });
}

/// The leader of a sleeping channel loses its disk, and nobody but itself asks
/// for the channel: it must not take itself for the one who leads it.
#[test]
fn a_leader_that_lost_its_disk_recovers_channels_that_sleep() {
    run(180, async {
        let cluster = cluster(SHORT_MS).await;
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
