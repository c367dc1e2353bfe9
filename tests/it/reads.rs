//! `consistency` of reads.

use std::time::Duration;

use accord_jepsen::{Consistency, NodeView, wait_until};

use crate::support::{SOON, assert_problem, own_cluster, run, shared_apis, shared_channel};

#[test]
fn reads_are_linearizable_or_stale_and_nothing_else() {
    run(60, async {
        let (_, channel) = shared_channel().await;
        let targets = [
            channel.messages(),
            "/api/servers".to_owned(),
            format!("/api/servers/{}/channels", channel.server),
        ];
        for api in shared_apis().await {
            for target in &targets {
                let good = api
                    .get(&format!("{target}?consistency=linearizable"))
                    .await
                    .unwrap();
                assert_eq!(good.status, 200, "{}", good.text());
                for garbage in ["strong", "", "Stale", "linearizable%20", "1"] {
                    let query = format!("{target}?consistency={garbage}");
                    assert_problem(&api.get(&query).await.unwrap(), 400);
                }
            }
        }
    });
}

#[test]
fn a_read_says_how_far_it_sees() {
    run(60, async {
        let (api, channel) = shared_channel().await;
        for _ in 0..3 {
            api.post(&channel, "ann", "hello").await.unwrap();
        }
        for api in shared_apis().await {
            let target = format!("{}?limit=1", channel.messages());
            let read = api.get(&target).await.unwrap();
            assert_eq!(read.header("accord-seq"), Some("3"));

            // A stale read gets there too: the node applies what is committed.
            wait_until(
                "a stale read of all three",
                Duration::from_secs(20),
                || async {
                    let read = api
                        .get(&format!("{target}&consistency=stale"))
                        .await
                        .unwrap();
                    match (read.status, read.header("accord-seq")) {
                        (200, Some("3")) => Ok(()),
                        (status, seq) => Err(format!("{status}, Accord-Seq {seq:?}")),
                    }
                },
            )
            .await
            .unwrap();
            let stale = api.read_all(&channel, Consistency::Stale).await.unwrap();
            assert_eq!(stale.len(), 3);
        }
    });
}

/// Found by the fault tests (seed 167982974): a node without a replica asks one of those that are up,
/// and the one that it asks next may be behind the one that it asked last.
#[test]
fn a_stale_read_through_a_node_without_a_replica_never_goes_back() {
    run(120, async {
        let cluster = own_cluster(5).await;
        let channel = cluster.api(1).new_channel().await.unwrap();
        let view = cluster.api(1).channel_view(&channel.channel).await.unwrap();
        let replicas = view.replicas;
        let mut ids = cluster.ids().into_iter();
        let outsider = cluster.api(ids.find(|id| !replicas.contains(id)).unwrap());
        let latest = || async {
            let found = outsider.messages(&channel, "consistency=stale").await;
            found.map(|found| found.first().map_or(0, |message| message.seq))
        };
        outsider.post(&channel, "ann", "one").await.unwrap();
        cluster.kill(replicas[0]).unwrap();
        outsider.post(&channel, "ann", "two").await.unwrap();
        wait_until("the second message is read", SOON, || async {
            match latest().await {
                Ok(2) => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .await
        .unwrap();
        // Only the one that missed it can answer now.
        cluster.pause(replicas[1]).unwrap();
        cluster.pause(replicas[2]).unwrap();
        cluster.start_node(replicas[0]).unwrap();
        wait_until("the restarted node is seen", SOON, || async {
            let view = outsider
                .cluster()
                .await
                .map_err(|error| error.to_string())?;
            let back = |node: &NodeView| node.id == replicas[0] && node.up;
            let is_back = view.nodes.iter().any(back);
            is_back.then_some(()).ok_or_else(|| "it is not".to_owned())
        })
        .await
        .unwrap();
        let answer = latest().await;
        assert!(
            answer.as_ref().map_or(true, |seq| *seq == 2),
            "it went back: {answer:?}"
        );
        cluster.resume(replicas[1]).unwrap();
        cluster.resume(replicas[2]).unwrap();
        wait_until("the second message is read again", SOON, || async {
            match latest().await {
                Ok(2) => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .await
        .unwrap();
    });
}
