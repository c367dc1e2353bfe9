//! A node that was away longer than the log reaches back catches up by a
//! snapshot, and survives being killed before, while and after.

use std::time::Duration;

use accord_jepsen::{Cluster, ClusterOptions, RaftOptions, Rng, wait, wait_until};

use crate::support::{SOON, options, run, started};
use crate::writer::{fill, read_whole, wait_level};

/// Entries are purged soon, so that a node which is away needs a snapshot.
async fn forgetful_cluster() -> Cluster {
    started(ClusterOptions {
        raft: RaftOptions {
            snapshot_after_entries: Some(50),
            snapshot_keep_entries: Some(10),
            ..RaftOptions::default()
        },
        ..options(3)
    })
    .await
}

/// Several times what the log keeps, even when posts share entries.
const AWAY: usize = 300;

#[test]
fn a_node_killed_before_while_and_after_it_installs_a_snapshot_recovers() {
    run(300, async {
        let mut rng = Rng::announced("a_node_killed_before_while_and_after");
        let cluster = forgetful_cluster().await;
        let channel = cluster.api(1).new_channel().await.unwrap();
        let leader = cluster.api(1).leader_of(&channel, SOON).await.unwrap();
        let victim = cluster.others(leader)[0];
        let others = cluster.apis(&cluster.others(victim));
        fill(&others, &channel, "with-all", 30).await;

        for round in 0..6 {
            cluster.kill(victim).unwrap();
            fill(&others, &channel, &format!("round-{round}"), AWAY).await;
            cluster.start_node(victim).unwrap();
            strike_moment(&cluster, victim, round, &mut rng).await;
        }
        cluster.restart(victim).await.unwrap();
        let whole = read_whole(&others[0], &channel).await;
        wait_level(&cluster.api(victim), &channel, &whole).await;

        // After installing: what was installed outlives the process.
        cluster.restart(victim).await.unwrap();
        wait_level(&cluster.api(victim), &channel, &whole).await;

        // It is a full member: with it and one other, writes go on.
        let absent = *rng.pick(&cluster.others(victim));
        cluster.kill(absent).unwrap();
        let remaining = cluster.apis(&cluster.others(absent));
        fill(&remaining, &channel, "without-another", 60).await;
        cluster.restart(absent).await.unwrap();
        let whole = read_whole(&remaining[0], &channel).await;
        for node in cluster.ids() {
            wait_level(&cluster.api(node), &channel, &whole).await;
        }
    });
}

/// Rounds strike ever later: at once, when the node listens, when it sees
/// something of the channel, and at random.
async fn strike_moment(cluster: &Cluster, victim: u64, round: u64, rng: &mut Rng) {
    let api = cluster.api(victim);
    if round == 0 {
        return;
    }
    wait_until("the node to listen", SOON, || async {
        api.get("/livez").await.map_err(|error| error.to_string())
    })
    .await
    .unwrap();
    if round > 1 {
        let length = Duration::from_millis(rng.below(200 * round));
        eprintln!(
            "round {round}: node {victim} dies {} ms later",
            length.as_millis()
        );
        wait::moment(length).await;
    }
}

#[test]
fn the_directory_too_is_caught_up_by_a_snapshot() {
    run(240, async {
        let cluster = forgetful_cluster().await;
        let directory = cluster.api(1).cluster().await.unwrap().directory;
        let victim = cluster.others(directory.leader.unwrap())[0];
        let others = cluster.apis(&cluster.others(victim));
        cluster.kill(victim).unwrap();
        let mut servers = Vec::new();
        for number in 0..120 {
            let name = format!("server {number}");
            let server = wait_until("a new server", SOON, || async {
                let created = others[number % 2].create_server(&name).await;
                created.map_err(|error| error.to_string())
            });
            servers.push(server.await.unwrap());
        }
        cluster.restart(victim).await.unwrap();
        let api = cluster.api(victim);
        let listed = api.servers().await.unwrap();
        assert!(servers.iter().all(|server| listed.contains(server)));
        let channel = api
            .create_channel(&servers[119].id, "a new channel")
            .await
            .unwrap();
        for other in &others {
            let channels = other.channels(&servers[119].id).await.unwrap();
            assert_eq!(channels, std::slice::from_ref(&channel));
        }
    });
}
