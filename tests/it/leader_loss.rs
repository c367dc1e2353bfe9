//! The leader of a channel dies, or stands still: acknowledged writes go on,
//! and nothing acknowledged is lost.

use std::time::Duration;

use tokio::task::JoinSet;

use accord_jepsen::{Rng, post_until_acknowledged, wait};

use crate::support::{SOON, own_cluster, run};
use crate::writer::{Writer, assert_kept, longest_gap, read_whole, wait_level};

/// The bound of a test; what is aimed at is 2 s, and the gap is printed.
const GAP_MAX: Duration = Duration::from_secs(30);

#[test]
fn writes_through_another_node_go_on_when_the_leader_is_killed() {
    run(180, async {
        let cluster = own_cluster(3).await;
        let channel = cluster.api(1).new_channel().await.unwrap();
        let leader = cluster.api(1).leader_of(&channel, SOON).await.unwrap();
        let survivors = cluster.others(leader);
        let writer = Writer::start(vec![cluster.api(survivors[0])], &channel, "ann");
        writer.wait_more(100, SOON).await;
        cluster.kill(leader).unwrap();
        writer.wait_more(100, GAP_MAX + SOON).await;

        let next = cluster
            .api(survivors[1])
            .leader_of(&channel, SOON)
            .await
            .unwrap();
        assert!(survivors.contains(&next));
        cluster.start_node(leader).unwrap();
        cluster.wait_ready(leader).await.unwrap();
        writer.wait_more(50, SOON).await;
        let acked = writer.finish().await;

        let gap = longest_gap(&acked);
        eprintln!(
            "no acknowledgement for {} ms after kill -9 of the leader",
            gap.as_millis()
        );
        assert!(gap < GAP_MAX, "{gap:?}");
        let whole = read_whole(&cluster.api(survivors[1]), &channel).await;
        assert_kept(&whole, &acked);
        for node in cluster.ids() {
            wait_level(&cluster.api(node), &channel, &whole).await;
        }
    });
}

#[test]
fn several_writers_lose_nothing_through_three_deaths_of_the_leader() {
    run(300, async {
        let cluster = own_cluster(3).await;
        let channel = cluster.api(1).new_channel().await.unwrap();
        let apis = cluster.apis(&cluster.ids());
        // Each begins at another node, and moves on when that one is dead.
        let writers: Vec<Writer> = (0..3)
            .map(|number| {
                let mut mine = apis.clone();
                mine.rotate_left(number);
                Writer::start(mine, &channel, &format!("writer-{number}"))
            })
            .collect();
        for _ in 0..3 {
            for writer in &writers {
                writer.wait_more(30, GAP_MAX + SOON).await;
            }
            let leader = apis[0].leader_of(&channel, SOON).await.unwrap();
            cluster.kill(leader).unwrap();
            for writer in &writers {
                writer.wait_more(30, GAP_MAX + SOON).await;
            }
            cluster.start_node(leader).unwrap();
            cluster.wait_ready(leader).await.unwrap();
        }
        let mut acked = Vec::new();
        for writer in writers {
            acked.extend(writer.finish().await);
        }
        let whole = read_whole(&apis[1], &channel).await;
        assert_kept(&whole, &acked);
        assert_eq!(whole.len(), acked.len(), "every message was asked for once");
        for api in &apis {
            wait_level(api, &channel, &whole).await;
        }
    });
}

/// A leader that stands still is deposed; when it goes on, it must not answer
/// from what it knew.
#[test]
fn a_leader_that_was_paused_reads_what_was_written_without_it() {
    run(180, async {
        let cluster = own_cluster(3).await;
        let channel = cluster.api(1).new_channel().await.unwrap();
        let leader = cluster.api(1).leader_of(&channel, SOON).await.unwrap();
        let others = cluster.apis(&cluster.others(leader));
        let before = Writer::start(others.clone(), &channel, "before");
        before.wait_more(20, SOON).await;
        cluster.pause(leader).unwrap();
        before.wait_more(20, GAP_MAX + SOON).await;
        let mut acked = before.finish().await;

        cluster.resume(leader).unwrap();
        // Its first answer, whenever it comes, holds everything.
        let whole = read_whole(&cluster.api(leader), &channel).await;
        assert_kept(&whole, &acked);
        let after = Writer::start(vec![cluster.api(leader)], &channel, "after");
        after.wait_more(20, SOON).await;
        acked.extend(after.finish().await);
        let whole = read_whole(&others[0], &channel).await;
        assert_kept(&whole, &acked);
        for node in cluster.ids() {
            wait_level(&cluster.api(node), &channel, &whole).await;
        }
    });
}

/// Answers that reached a leader before it stood still wait in its sockets until it goes on. They
/// prove nothing about the time after.
#[test]
fn a_leader_that_goes_on_does_not_take_old_answers_for_new_ones() {
    const CHANNELS: usize = 24;
    const ROUNDS: usize = 4;
    run(300, async {
        let cluster = own_cluster(3).await;
        let mut channels = Vec::new();
        for _ in 0..CHANNELS {
            channels.push(cluster.api(1).new_channel().await.unwrap());
        }
        for round in 0..ROUNDS {
            // Any node leads some of them, and has requests of some of those under way.
            let paused = cluster.ids()[round % 3];
            let others = cluster.apis(&cluster.others(paused));
            let name = format!("round {round}");
            let start = |channel| Writer::start(others.clone(), channel, &name);
            let writers: Vec<Writer> = channels.iter().map(start).collect();
            for writer in &writers {
                writer.wait_more(5, SOON).await;
            }
            cluster.pause(paused).unwrap();
            for writer in &writers {
                writer.wait_more(3, GAP_MAX + SOON).await;
            }
            let mut reads = JoinSet::new();
            for (channel, writer) in channels.iter().zip(&writers) {
                let (channel, least) = (channel.clone(), writer.last_seq());
                let api = cluster.api(paused);
                reads.spawn(async move { (least, api.messages(&channel, "limit=1").await) });
            }
            cluster.resume(paused).unwrap();
            while let Some(read) = reads.join_next().await {
                let (least, answer) = read.unwrap();
                // It may be unable to answer for a while. What it answers must be true.
                if let Ok(messages) = answer {
                    let head = messages.last().unwrap().seq;
                    assert!(head >= least, "read {head} after {least} was acknowledged");
                }
            }
            for writer in writers {
                writer.finish().await;
            }
            cluster.wait_ready(paused).await.unwrap();
        }
    });
}

#[test]
fn one_key_posted_through_several_nodes_while_the_leader_dies_is_one_message() {
    run(240, async {
        let mut rng = Rng::announced("one_key_posted_through_several_nodes");
        let cluster = own_cluster(3).await;
        let channel = cluster.api(1).new_channel().await.unwrap();
        let first = cluster
            .api(1)
            .post_keyed(&channel, "ann", "before", "before")
            .await
            .unwrap();
        let leader = cluster.api(1).leader_of(&channel, SOON).await.unwrap();
        let survivors = cluster.apis(&cluster.others(leader));

        const KEYS: usize = 60;
        let mut posts = JoinSet::new();
        for number in 0..KEYS {
            for start in 0..survivors.len() {
                let mut apis = survivors.clone();
                apis.rotate_left(start);
                let channel = channel.clone();
                posts.spawn(async move {
                    let (text, key) = (format!("text {number}"), format!("key-{number}"));
                    let posted =
                        post_until_acknowledged(&apis, &channel, "ann", &text, &key, GAP_MAX * 2);
                    (number, posted.await.unwrap())
                });
            }
        }
        wait::moment(Duration::from_millis(rng.below(40))).await;
        cluster.kill(leader).unwrap();

        let mut answers = vec![None; KEYS];
        while let Some(posted) = posts.join_next().await {
            let (number, message) = posted.unwrap();
            match &answers[number] {
                None => answers[number] = Some(message),
                Some(earlier) => assert_eq!(*earlier, message, "one key, one answer"),
            }
        }
        // What was answered by the dead leader is known to its successor.
        for api in &survivors {
            let one = std::slice::from_ref(api);
            let again =
                post_until_acknowledged(one, &channel, "ann", "before", "before", GAP_MAX).await;
            assert_eq!(again.unwrap(), first);
            let other = api.post_keyed(&channel, "ann", "changed", "before").await;
            assert_eq!(other.unwrap_err().status(), Some(422));
        }
        let whole = read_whole(&survivors[0], &channel).await;
        assert_eq!(whole.len(), KEYS + 1);
        for answer in answers.into_iter().flatten() {
            assert!(whole.contains(&answer));
        }
    });
}
