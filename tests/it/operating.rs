//! What an operator looks at: probes, metrics, the state of the cluster.

use std::time::Duration;

use accord_jepsen::{ApiError, Consistency, wait_until};

use crate::support::{NOBODY, SOON, assert_problem, own_cluster, run, shared_apis, shared_channel};

#[test]
fn probes_answer_on_every_node() {
    run(60, async {
        for api in shared_apis().await {
            for target in ["/livez", "/readyz"] {
                let response = api.get(target).await.unwrap();
                assert_eq!(response.status, 200, "{target}: {}", response.text());
            }
        }
    });
}

#[test]
fn metrics_are_prometheus_text_without_labels_for_channels() {
    run(60, async {
        let (_, channel) = shared_channel().await;
        for api in shared_apis().await {
            api.post(&channel, "ann", "counted").await.unwrap();
            let response = api.get("/metrics").await.unwrap();
            assert_eq!(response.status, 200);
            let content_type = response.header("content-type").unwrap();
            assert!(content_type.starts_with("text/plain"), "{content_type}");
            let text = response.text();
            let samples = parse_samples(&text);
            let ours = samples
                .iter()
                .filter(|sample| sample.name.starts_with("accord_"));
            assert!(ours.count() > 5, "{text}");
            for sample in &samples {
                assert!(!sample.labels.contains("channel="), "{sample:?}");
                assert!(!sample.labels.contains("server="), "{sample:?}");
            }
            assert!(!text.contains(&channel.channel));
        }
    });
}

#[test]
fn the_cluster_describes_itself_alike_on_every_node() {
    run(60, async {
        for api in shared_apis().await {
            let view = api.cluster().await.unwrap();
            assert_eq!(view.node, api.node());
            assert!(!view.cluster.is_empty());
            let ids: Vec<u64> = view.nodes.iter().map(|node| node.id).collect();
            assert_eq!(ids, [1, 2, 3]);
            assert!(view.nodes.iter().all(|node| node.up), "{view:?}");
            let here = view
                .nodes
                .iter()
                .find(|node| node.id == api.node())
                .unwrap();
            assert_eq!(here.api, api.address().to_string());
            assert!(!here.peer.is_empty());
            assert!(
                view.directory
                    .leader
                    .is_some_and(|leader| ids.contains(&leader))
            );
            assert!(view.directory.term >= 1 && view.directory.applied >= 1);
            assert!(view.groups.open >= view.groups.leading);
        }
    });
}

#[test]
fn a_channel_is_described_alike_on_every_node() {
    run(60, async {
        let (api, channel) = shared_channel().await;
        for _ in 0..3 {
            api.post(&channel, "ann", "hello").await.unwrap();
        }
        let mut groups = Vec::new();
        for api in shared_apis().await {
            let view = wait_until("the head of a channel", SOON, || async {
                match api.channel_view(&channel.channel).await {
                    Ok(view) if view.head == 3 && view.leader.is_some() => Ok(view),
                    Ok(view) => Err(format!("{view:?}")),
                    Err(error) => Err(error.to_string()),
                }
            })
            .await
            .unwrap();
            assert_eq!(view.channel, channel.channel);
            let mut replicas = view.replicas.clone();
            replicas.sort_unstable();
            assert_eq!(replicas, [1, 2, 3]);
            assert!(view.term >= 1);
            groups.push(view.group);
            for (id, status) in [(NOBODY, 404), ("x", 400)] {
                let target = format!("/api/cluster/channels/{id}");
                assert_problem(&api.get(&target).await.unwrap(), status);
            }
        }
        groups.dedup();
        assert_eq!(groups.len(), 1);
    });
}

/// Alone, a node is alive, not ready, refuses writes within 5 s and says so,
/// and still shows what it has.
#[test]
fn a_node_without_a_quorum_is_alive_but_not_ready() {
    run(120, async {
        let cluster = own_cluster(3).await;
        let api = cluster.api(1);
        let channel = api.new_channel().await.unwrap();
        let posted = api.post(&channel, "ann", "before").await.unwrap();
        wait_until("the message on node 1", SOON, || async {
            match api.read_all(&channel, Consistency::Stale).await {
                Ok(read) if read.len() == 1 => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .await
        .unwrap();
        cluster.kill(2).unwrap();
        cluster.kill(3).unwrap();

        wait_until("unreadiness", SOON, || async {
            match api.get("/readyz").await {
                Ok(response) if response.status == 503 => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .await
        .unwrap();
        assert_eq!(api.get("/livez").await.unwrap().status, 200);

        let started = std::time::Instant::now();
        match api.post(&channel, "ann", "alone").await {
            Err(ApiError::Refused { status, problem }) => {
                assert_eq!(status, 503);
                assert!(!problem.message.is_empty());
            }
            other => panic!("{other:?}"),
        }
        eprintln!(
            "a write without a quorum was refused after {:?}",
            started.elapsed()
        );
        assert!(started.elapsed() < Duration::from_secs(10));
        let stale = api.read_all(&channel, Consistency::Stale).await.unwrap();
        assert_eq!(stale[0], posted);
        let refused = api.get(&channel.messages()).await.unwrap();
        assert_problem(&refused, 503);
        assert!(refused.header("retry-after").is_some());

        cluster.start_node(2).unwrap();
        cluster.wait_ready(2).await.unwrap();
        cluster.wait_ready(1).await.unwrap();
        wait_until("a write with a quorum", SOON, || async {
            api.post_keyed(&channel, "ann", "again", "key")
                .await
                .map_err(|error| error.to_string())
        })
        .await
        .unwrap();
    });
}

/// One line of the exposition format.
#[derive(Debug)]
pub struct Sample {
    pub name: String,
    /// What stands between the braces, or nothing.
    pub labels: String,
    pub value: f64,
}

/// Parses Prometheus text; panics where it is not.
pub fn parse_samples(text: &str) -> Vec<Sample> {
    let mut samples = Vec::new();
    for line in text.lines().filter(|line| !line.trim().is_empty()) {
        if let Some(comment) = line.strip_prefix('#') {
            let kind = comment.split_whitespace().next();
            assert!(
                matches!(kind, Some("HELP" | "TYPE" | "UNIT" | "EOF")),
                "{line}"
            );
            continue;
        }
        let (series, value) = match line.rfind('}') {
            Some(at) => line.split_at(at + 1),
            None => line.split_once(' ').unwrap_or_else(|| panic!("{line}")),
        };
        let (name, labels) = match series.split_once('{') {
            Some((name, labels)) => (name, labels.trim_end_matches('}')),
            None => (series, ""),
        };
        assert!(
            name.chars()
                .all(|c| c.is_ascii_alphanumeric() || c == '_' || c == ':'),
            "{line}"
        );
        let value = value
            .split_whitespace()
            .next()
            .unwrap_or_else(|| panic!("{line}"));
        samples.push(Sample {
            name: name.to_owned(),
            labels: labels.to_owned(),
            value: value.parse().unwrap_or_else(|_| panic!("{line}")),
        });
    }
    samples
}

#[test]
fn samples_are_parsed() {
    let text = "# HELP a b\n# TYPE a counter\na 1\nb{x=\"1\",y=\"}\"} 2.5 1700000000\nc{le=\"+Inf\"} +Inf\n";
    let samples = parse_samples(text);
    let values: Vec<f64> = samples.iter().map(|sample| sample.value).collect();
    assert_eq!(values, [1.0, 2.5, f64::INFINITY]);
    assert_eq!(samples[1].labels, "x=\"1\",y=\"}\"");
}
