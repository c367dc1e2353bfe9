//! The planted bugs are really there, each seen by the least that shows it: `cargo test --features
//! planted-bugs planted`. That the fault tests find them as well is their own matter.

use std::time::Instant;

use accord_jepsen::{Cluster, ClusterOptions, ConnectOptions, Consistency, RaftOptions};

use crate::support::{SOON, options, run, started};
use crate::writer::{fill, read_whole, wait_level};

async fn planted(nodes: u64, bug: &str, raft: RaftOptions) -> Cluster {
    let cluster = started(ClusterOptions {
        raft,
        environment: vec![("ACCORD_PLANTED".to_owned(), bug.to_owned())],
        ..options(nodes)
    })
    .await;
    let log = cluster.log(1);
    assert!(log.contains("A BUG IS PLANTED") && log.contains(bug));
    cluster
}

#[test]
fn an_unknown_bug_is_not_planted() {
    run(60, async {
        let cluster = Cluster::launch(ClusterOptions {
            environment: vec![("ACCORD_PLANTED".to_owned(), "none_of_ours".to_owned())],
            ..options(1)
        })
        .unwrap();
        let ended = cluster.wait_ended(1, Instant::now(), SOON).await.unwrap();
        assert!(!ended.status.success());
        let log = cluster.log(1);
        assert!(
            log.contains("which is not one of: stream_off_by_one, dedup"),
            "{log}"
        );
    });
}

#[test]
fn stream_off_by_one_misses_a_message() {
    run(120, async {
        let cluster = planted(1, "stream_off_by_one", RaftOptions::default()).await;
        let api = cluster.api(1);
        let channel = api.new_channel().await.unwrap();
        fill(std::slice::from_ref(&api), &channel, "before", 5).await;
        // Whatever is in memory of them goes.
        cluster.restart(1).await.unwrap();
        let resumed = ConnectOptions::plain("ann").after(2);
        let mut socket = api.connect_with(&channel, &resumed).await.unwrap();
        assert_eq!(socket.message().await.unwrap().seq, 4);
    });
}

#[test]
fn dedup_forgotten_on_snapshot_posts_twice() {
    run(180, async {
        let raft = RaftOptions {
            snapshot_after_entries: Some(50),
            snapshot_keep_entries: Some(10),
            ..RaftOptions::default()
        };
        let cluster = planted(3, "dedup_forgotten_on_snapshot", raft).await;
        let channel = cluster.api(1).new_channel().await.unwrap();
        let leader = cluster.api(1).leader_of(&channel, SOON).await.unwrap();
        let victim = cluster.others(leader)[0];
        let others = cluster.apis(&cluster.others(victim));
        cluster.kill(victim).unwrap();
        let first = others[0].post_keyed(&channel, "ann", "once", "key").await;
        let first = first.unwrap();
        fill(&others, &channel, "away", 300).await;
        cluster.restart(victim).await.unwrap();
        // A snapshot that is taken after the retry would cover it.
        let whole = read_whole(&others[0], &channel).await;
        wait_level(&cluster.api(victim), &channel, &whole).await;
        // The others remember the key, the one that installed a snapshot does not.
        let again = others[0].post_keyed(&channel, "ann", "once", "key").await;
        assert_eq!(again.unwrap().seq, first.seq);
        accord_jepsen::wait_until("the message to be there twice", SOON, || async {
            let api = cluster.api(victim);
            let read = api.read_all(&channel, Consistency::Stale).await;
            let read = read.map_err(|error| error.to_string())?;
            match read
                .iter()
                .filter(|message| message.message == "once")
                .count()
            {
                2 => Ok(()),
                count => Err(format!("{count} of {}", read.len())),
            }
        })
        .await
        .unwrap();
    });
}

#[test]
fn lease_read_answers_without_a_majority() {
    run(120, async {
        let cluster = planted(3, "lease_read", RaftOptions::default()).await;
        let channel = cluster.api(1).new_channel().await.unwrap();
        let leader = cluster.api(1).leader_of(&channel, SOON).await.unwrap();
        let api = cluster.api(leader);
        api.post(&channel, "ann", "one").await.unwrap();
        for other in cluster.others(leader) {
            cluster.pause(other).unwrap();
        }
        let read = api.read_all(&channel, Consistency::Linearizable).await;
        assert_eq!(read.unwrap().len(), 1);
    });
}

#[test]
fn applied_before_log_keeps_a_killed_node_from_starting() {
    run(120, async {
        let cluster = planted(1, "applied_before_log", RaftOptions::default()).await;
        let api = cluster.api(1);
        let channel = api.new_channel().await.unwrap();
        fill(&[api], &channel, "before", 5).await;
        cluster.kill(1).unwrap();
        cluster.start_node(1).unwrap();
        let ended = cluster.wait_ended(1, Instant::now(), SOON).await.unwrap();
        assert!(!ended.status.success());
        assert!(cluster.log(1).contains("rows are applied up to"));
    });
}
