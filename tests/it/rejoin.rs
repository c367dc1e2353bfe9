//! A node whose data is damaged or lost: it refuses to serve, the others refuse it, and one command
//! brings it back under its own id with nothing lost.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use accord_jepsen::{ChannelRef, Cluster, ClusterOptions, RaftOptions, wait_until};

use crate::support::{SOON, options, run, started};
use crate::writer::{Writer, assert_kept, fill, read_whole, wait_level};

const REFUSAL_MAX: Duration = Duration::from_secs(30);

/// Snapshots after a few entries, so that a rejoining node is brought up to date by one.
async fn cluster() -> Cluster {
    started(ClusterOptions {
        raft: RaftOptions {
            snapshot_after_entries: Some(40),
            snapshot_keep_entries: Some(5),
            ..RaftOptions::default()
        },
        ..options(3)
    })
    .await
}

/// `accord rejoin` for a node of the cluster.
pub fn rejoin(cluster: &Cluster, node: u64) -> Output {
    let binary = options(1).binary.expect("a binary to test");
    let config = cluster.directory().join(format!("cluster-{node}.toml"));
    let mut command = Command::new(binary);
    command.args(["rejoin", "--node", &node.to_string(), "--config"]);
    command.arg(config).output().unwrap()
}

fn assert_rejoined(cluster: &Cluster, node: u64) {
    let output = rejoin(cluster, node);
    assert!(output.status.success(), "{output:?}");
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr[..]].concat()).into_owned()
}

/// The largest file with this extension in a node's store.
pub fn largest(data_dir: &Path, extension: &str) -> PathBuf {
    let files = std::fs::read_dir(data_dir.join("db")).unwrap();
    let files = files.map(|file| file.unwrap().path());
    files
        .filter(|path| path.extension().is_some_and(|found| found == extension))
        .max_by_key(|path| path.metadata().unwrap().len())
        .unwrap()
}

fn flip_a_bit_in_the_middle(path: &Path) {
    let mut bytes = std::fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 4;
    std::fs::write(path, bytes).unwrap();
}

/// All nodes hold the same state of the channel, up to the same entry.
async fn wait_equal(cluster: &Cluster, channel: &ChannelRef) {
    wait_until("equal states on all nodes", SOON, || async {
        let mut seen = Vec::new();
        for api in cluster.apis(&cluster.ids()) {
            match api.channel_hash(&channel.channel).await {
                Ok(view) => seen.push((view.applied, view.state_hash)),
                Err(error) => return Err(error.to_string()),
            }
        }
        let first = &seen[0];
        match first.1.is_some() && seen.iter().all(|one| one == first) {
            true => Ok(()),
            false => Err(format!("{seen:?}")),
        }
    })
    .await
    .unwrap();
}

async fn ended_with(cluster: &Cluster, node: u64) -> Option<i32> {
    let ended = cluster.wait_ended(node, Instant::now(), REFUSAL_MAX).await;
    ended.unwrap().status.code()
}

#[test]
fn a_damaged_node_refuses_to_serve_and_rejoins_with_nothing_lost() {
    run(240, async {
        let cluster = cluster().await;
        let api = cluster.api(1);
        let channel = api.new_channel().await.unwrap();
        let mut posted = fill(&cluster.apis(&[1, 2, 3]), &channel, "before", 120).await;
        // The leader: the one whose promises matter most.
        let damaged = api.leader_of(&channel, SOON).await.unwrap();
        let others = cluster.others(damaged);
        cluster.kill(damaged).unwrap();
        flip_a_bit_in_the_middle(&largest(cluster.data_dir(damaged), "log"));

        cluster.start_node(damaged).unwrap();
        assert_eq!(ended_with(&cluster, damaged).await, Some(1));
        let log = cluster.log(damaged);
        assert!(log.contains(".log is damaged"), "{log}");
        assert!(log.contains("accord rejoin"), "{log}");

        let output = rejoin(&cluster, others[0]);
        assert!(!output.status.success(), "that one runs: {output:?}");
        assert!(said(&output).contains("in use"), "{output:?}");
        assert!(cluster.is_running(others[0]));

        let output = rejoin(&cluster, damaged);
        assert!(output.status.success(), "{output:?}");
        assert!(said(&output).contains("accord serve"), "{output:?}");
        posted.extend(fill(&cluster.apis(&others), &channel, "meanwhile", 20).await);
        cluster.start_node(damaged).unwrap();
        cluster.wait_ready(damaged).await.unwrap();
        let whole = read_whole(&cluster.api(damaged), &channel).await;
        assert_eq!(whole, posted);
        wait_level(&cluster.api(damaged), &channel, &whole).await;
        wait_equal(&cluster, &channel).await;

        // It is a voter again: with another node gone, it is one of the two that are needed.
        cluster.kill(others[0]).unwrap();
        let two = cluster.apis(&[damaged, others[1]]);
        posted.extend(fill(&two, &channel, "after", 20).await);
        assert_eq!(read_whole(&two[1], &channel).await, posted);

        // The old directory again: the others know that it is out of date.
        cluster.kill(damaged).unwrap();
        let data_dir = cluster.data_dir(damaged);
        let newer = data_dir.with_extension("newer");
        std::fs::rename(data_dir, &newer).unwrap();
        let name = data_dir.file_name().unwrap().to_str().unwrap();
        let beside = std::fs::read_dir(data_dir.parent().unwrap()).unwrap();
        let old = beside.map(|entry| entry.unwrap().path()).find(|path| {
            let found = path.file_name().unwrap().to_str().unwrap();
            found.starts_with(&format!("{name}.damaged-"))
        });
        let old = old.unwrap();
        flip_a_bit_in_the_middle(&largest(&old, "log"));
        std::fs::rename(&old, data_dir).unwrap();
        cluster.start_node(damaged).unwrap();
        wait_log(&cluster, damaged, "has rejoined with another disk").await;
        cluster.kill(damaged).unwrap();
        std::fs::rename(data_dir, &old).unwrap();
        std::fs::rename(&newer, data_dir).unwrap();
        cluster.start_node(damaged).unwrap();
        cluster.start_node(others[0]).unwrap();
        cluster.wait_all_ready().await.unwrap();
        assert_eq!(read_whole(&cluster.api(damaged), &channel).await, posted);
        wait_equal(&cluster, &channel).await;
    });
}

async fn wait_log(cluster: &Cluster, node: u64, text: &str) {
    wait_until("a line in the log", SOON, || async {
        let log = cluster.log(node);
        match log.contains(text) {
            true => Ok(()),
            false => Err(log
                .chars()
                .rev()
                .take(600)
                .collect::<String>()
                .chars()
                .rev()
                .collect()),
        }
    })
    .await
    .unwrap();
}

#[test]
fn an_emptied_disk_is_refused_until_the_command_is_given() {
    run(180, async {
        let cluster = cluster().await;
        let channel = cluster.api(1).new_channel().await.unwrap();
        let posted = fill(&cluster.apis(&[1, 2, 3]), &channel, "kept", 60).await;
        cluster.kill(3).unwrap();
        std::fs::remove_dir_all(cluster.data_dir(3)).unwrap();
        cluster.start_node(3).unwrap();
        wait_log(&cluster, 3, "accord rejoin --config FILE --node 3").await;
        wait_log(&cluster, 1, "accord rejoin --config FILE --node 3").await;
        assert_eq!(cluster.api(3).get("/readyz").await.unwrap().status, 503);
        assert!(!rejoin(&cluster, 3).status.success(), "it runs");
        cluster.kill(3).unwrap();

        // With one of the others away it must wait: that one may know of a vote that is forgotten.
        assert_rejoined(&cluster, 3);
        cluster.kill(2).unwrap();
        cluster.start_node(3).unwrap();
        wait_log(&cluster, 3, "cannot recover before these nodes answer").await;
        assert_eq!(cluster.api(3).get("/readyz").await.unwrap().status, 503);
        cluster.start_node(2).unwrap();
        cluster.wait_all_ready().await.unwrap();
        wait_level(&cluster.api(3), &channel, &posted).await;
        // A channel made after that founds itself as ever, and a restart finds nothing to recover.
        let later = cluster.api(3).new_channel().await.unwrap();
        fill(&cluster.apis(&[3]), &later, "later", 5).await;
        cluster.kill(3).unwrap();
        cluster.start_node(3).unwrap();
        cluster.wait_ready(3).await.unwrap();
        wait_equal(&cluster, &later).await;
    });
}

/// The leaders stay, with what they remember of the lost logs, and writes go on.
#[test]
fn nodes_rejoin_one_after_the_other_under_load() {
    run(300, async {
        let cluster = cluster().await;
        let apis = cluster.apis(&cluster.ids());
        let mut writers = Vec::new();
        for _ in 0..3 {
            let channel = apis[0].new_channel().await.unwrap();
            writers.push((Writer::start(apis.clone(), &channel, "ann"), channel));
        }
        for node in [3, 2, 1] {
            for (writer, _) in &writers {
                writer.wait_more(40, SOON).await;
            }
            cluster.kill(node).unwrap();
            assert_rejoined(&cluster, node);
            cluster.start_node(node).unwrap();
            cluster.wait_ready(node).await.unwrap();
        }
        for (writer, channel) in writers {
            writer.wait_more(20, SOON).await;
            let acked = writer.finish().await;
            let whole = read_whole(&apis[2], &channel).await;
            assert_kept(&whole, &acked);
            for api in &apis {
                wait_level(api, &channel, &whole).await;
            }
            wait_equal(&cluster, &channel).await;
        }
    });
}
