//! `consistency` of reads.

use std::time::Duration;

use accord_jepsen::{Consistency, wait_until};

use crate::support::{assert_problem, run, shared_apis, shared_channel};

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
