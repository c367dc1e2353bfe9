//! Configuration and start: what must be refused, and bounds that are set.

use std::time::{Duration, Instant};

use accord_jepsen::{Cluster, ClusterOptions, ConnectError, ConnectOptions, LimitOptions, Oddity};

use crate::support::{assert_problem_of, options, own_cluster, run, started};

const REFUSAL_MAX: Duration = Duration::from_secs(30);

#[test]
fn an_unknown_key_of_the_cluster_file_is_named_and_ends_the_start() {
    run(60, async {
        let cluster = Cluster::prepare(options(1)).unwrap();
        let oddity = Oddity {
            extra: "\n[limits]\nmesage_bytes_max = 5\n".to_owned(),
            ..Oddity::default()
        };
        cluster.start_odd(1, &oddity).unwrap();
        let ended = cluster
            .wait_ended(1, Instant::now(), REFUSAL_MAX)
            .await
            .unwrap();
        assert!(!ended.status.success());
        assert!(
            cluster.log(1).contains("mesage_bytes_max"),
            "{}",
            cluster.log(1)
        );
    });
}

#[test]
fn an_agent_without_its_secret_ends_the_start_and_says_which() {
    run(60, async {
        let cluster = Cluster::prepare(options(1)).unwrap();
        let agent = "\n[[agent]]\nname = \"ask\"\nkind = \"openai\"\nmodel = \"m\"\n\
                     base_url = \"http://127.0.0.1:9/v1\"\n";
        for (key, says) in [
            ("api_key_env = \"ACCORD_NO_SUCH_KEY\"", "ACCORD_NO_SUCH_KEY"),
            ("api_key_file = \"/no/such/key\"", "/no/such/key"),
            ("modle = \"m\"", "modle"),
            ("url = \"http://a/\"", "agent \"ask\": url"),
        ] {
            let oddity = Oddity {
                extra: format!("{agent}{key}\n"),
                ..Oddity::default()
            };
            cluster.start_odd(1, &oddity).unwrap();
            let ended = cluster.wait_ended(1, Instant::now(), REFUSAL_MAX).await;
            assert!(!ended.unwrap().status.success());
            let log = cluster.log(1);
            assert!(log.contains(says), "{log}");
        }
    });
}

#[test]
fn a_data_directory_serves_one_process_only() {
    run(60, async {
        let cluster = own_cluster(1).await;
        let second = Cluster::prepare(options(1)).unwrap();
        let oddity = Oddity {
            data_dir: Some(cluster.data_dir(1).to_owned()),
            ..Oddity::default()
        };
        second.start_odd(1, &oddity).unwrap();
        let ended = second
            .wait_ended(1, Instant::now(), REFUSAL_MAX)
            .await
            .unwrap();
        assert!(!ended.status.success());
        assert!(!second.log(1).is_empty(), "a refusal says why");
        assert_eq!(cluster.api(1).get("/readyz").await.unwrap().status, 200);
    });
}

#[test]
fn a_data_directory_belongs_to_one_cluster_and_one_node() {
    run(60, async {
        let cluster = own_cluster(1).await;
        cluster.kill(1).unwrap();
        let oddity = Oddity {
            cluster: Some("tuesday".to_owned()),
            ..Oddity::default()
        };
        cluster.start_odd(1, &oddity).unwrap();
        let ended = cluster
            .wait_ended(1, Instant::now(), REFUSAL_MAX)
            .await
            .unwrap();
        assert!(!ended.status.success());
        assert!(cluster.log(1).contains("tuesday"), "{}", cluster.log(1));
        cluster.start_odd(1, &Oddity::default()).unwrap();
        cluster.wait_ready(1).await.unwrap();
    });
}

#[test]
fn limits_of_the_cluster_file_are_kept() {
    run(60, async {
        let cluster = started(ClusterOptions {
            limits: LimitOptions {
                message_bytes_max: Some(100),
                request_bytes_max: Some(2_000),
                sockets_max: Some(2),
                ..LimitOptions::default()
            },
            ..options(1)
        })
        .await;
        let api = cluster.api(1);
        let channel = api.new_channel().await.unwrap();
        api.post(&channel, "ann", &"x".repeat(100)).await.unwrap();
        let error = api
            .post(&channel, "ann", &"x".repeat(101))
            .await
            .unwrap_err();
        assert!(matches!(error.status(), Some(400 | 413)), "{error}");
        let error = api
            .post(&channel, "ann", &"x".repeat(3_000))
            .await
            .unwrap_err();
        assert_eq!(error.status(), Some(413), "{error}");

        let mut first = api.connect(&channel, "ann").await.unwrap();
        let _second = api.connect(&channel, "bea").await.unwrap();
        let target = ConnectOptions::plain("cid").target(&channel);
        match api.connect(&channel, "cid").await {
            Err(ConnectError::Refused { status, .. }) => {
                assert!(matches!(status, 429 | 503), "{status}");
                let upgrade =
                    accord_jepsen::raw::upgrade_request(api.address(), target.as_bytes(), "");
                let answer = accord_jepsen::raw::exchange(api.address(), &upgrade)
                    .await
                    .unwrap();
                assert_problem_of(&answer, &[429, 503]);
                assert!(answer.header("retry-after").is_some());
            }
            Err(other) => panic!("{other}"),
            Ok(mut third) => {
                let close = third.until_closed().await.unwrap();
                assert_eq!(close.code, Some(1013), "one socket too many");
            }
        }
        first.send_text("still open").await.unwrap();
        first.ack().await.unwrap();
    });
}
