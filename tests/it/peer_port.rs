//! The port for other nodes: strangers and misled nodes are refused, seen, and
//! do no harm.

use accord_jepsen::{Api, Cluster, Oddity, Rng, raw, wait_until};

use crate::operating::parse_samples;
use crate::support::{SOON, own_cluster, run};
use crate::writer::{Writer, assert_kept, read_whole, wait_level};

/// All counters of refusals together.
async fn refusals(api: &Api) -> f64 {
    let text = api.get("/metrics").await.unwrap().text();
    parse_samples(&text)
        .iter()
        .filter(|sample| sample.name.starts_with("accord_"))
        .filter(|sample| sample.name.contains("refused") || sample.name.contains("rejected"))
        .map(|sample| sample.value)
        .sum()
}

#[test]
fn random_bytes_at_the_peer_port_end_the_connection_and_raise_a_counter() {
    run(180, async {
        let mut rng = Rng::announced("random_bytes_at_the_peer_port");
        let cluster = own_cluster(3).await;
        let api = cluster.api(1);
        let channel = api.new_channel().await.unwrap();
        let writer = Writer::start(vec![cluster.api(2)], &channel, "ann");
        writer.wait_more(10, SOON).await;
        let strangers = [
            rng.bytes(64),
            rng.bytes(100_000),
            vec![0; 4096],
            vec![0xff; 4096],
            // The longest length that a prefix can tell, then nothing of it.
            [&[0xff, 0xff, 0xff, 0x7f][..], &rng.bytes(60)].concat(),
            b"GET / HTTP/1.1\r\nHost: a\r\n\r\n".repeat(10),
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".repeat(20),
        ];
        for bytes in strangers {
            let before = refusals(&api).await;
            let echo = raw::send_and_drain(cluster.peer_addr(1), &bytes)
                .await
                .unwrap();
            assert!(
                echo.closed,
                "{} strange bytes left the connection open",
                bytes.len()
            );
            wait_until("a counter of refusals to rise", SOON, || async {
                let now = refusals(&api).await;
                if now > before {
                    Ok(())
                } else {
                    Err(format!("still {now}"))
                }
            })
            .await
            .unwrap();
        }
        assert!(cluster.is_running(1));
        assert_eq!(api.get("/readyz").await.unwrap().status, 200);
        writer.wait_more(10, SOON).await;
        let acked = writer.finish().await;
        let whole = read_whole(&api, &channel).await;
        assert_kept(&whole, &acked);
    });
}

#[test]
fn a_node_of_another_cluster_is_refused_and_both_sides_say_why() {
    run(180, async {
        let cluster = own_cluster(3).await;
        let oddity = Oddity {
            cluster: Some("tuesday".to_owned()),
            data_dir: Some(cluster.directory().join("node-3-of-tuesday")),
            ..Oddity::default()
        };
        let both_names = |line: &str| line.contains("tuesday") && line.contains("accord-test");
        assert_refused(&cluster, &oddity, both_names).await;
    });
}

#[test]
fn a_node_with_another_replication_is_refused_and_both_sides_say_why() {
    run(180, async {
        let cluster = own_cluster(3).await;
        let oddity = Oddity {
            replication: Some(1),
            ..Oddity::default()
        };
        assert_refused(&cluster, &oddity, |line| {
            let line = line.to_lowercase();
            let refused = ["refuse", "reject", "mismatch", "differ"];
            line.contains("replication") && refused.iter().any(|word| line.contains(word))
        })
        .await;
    });
}

/// Node 3 is started wrongly: it is refused with a line in its log and in that
/// of another node, never gets ready, harms nobody, and is welcome again when
/// its file is right.
async fn assert_refused(cluster: &Cluster, oddity: &Oddity, explains: impl Fn(&str) -> bool) {
    let channel = cluster.api(1).new_channel().await.unwrap();
    let writer = Writer::start(cluster.apis(&[1, 2]), &channel, "ann");
    writer.wait_more(20, SOON).await;
    cluster.kill(3).unwrap();
    let lengths = cluster
        .ids()
        .into_iter()
        .map(|node| (node, cluster.log(node).len()));
    let before: Vec<(u64, usize)> = lengths.collect();
    cluster.start_odd(3, oddity).unwrap();

    let new_lines = |node: u64| {
        let length = before
            .iter()
            .find(|(id, _)| *id == node)
            .map_or(0, |(_, length)| *length);
        cluster.log(node).split_off(length)
    };
    wait_until("a line on both sides that says why", SOON, || async {
        let here = new_lines(3).lines().any(&explains);
        let there = [1, 2]
            .iter()
            .any(|node| new_lines(*node).lines().any(&explains));
        if here && there {
            Ok(())
        } else {
            Err(format!(
                "in the log of node 3: {here}, in another: {there}\n3: {}\n1: {}",
                new_lines(3),
                new_lines(1)
            ))
        }
    })
    .await
    .unwrap();
    if cluster.is_running(3)
        && let Ok(response) = cluster.api(3).get("/readyz").await
    {
        assert_eq!(response.status, 503, "a refused node is not ready");
    }
    writer.wait_more(20, SOON).await;

    cluster.kill(3).unwrap();
    cluster.start_odd(3, &Oddity::default()).unwrap();
    cluster.wait_ready(3).await.unwrap();
    let acked = writer.finish().await;
    let whole = read_whole(&cluster.api(1), &channel).await;
    assert_kept(&whole, &acked);
    wait_level(&cluster.api(3), &channel, &whole).await;
}
