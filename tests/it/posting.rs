//! Posting over REST: the answer, and `If-Match`.

use serde_json::{Value, json};
use tokio::task::JoinSet;

use accord_jepsen::Consistency;

use crate::support::{assert_gapless, assert_problem, run, shared_apis, shared_channel};

#[test]
fn a_post_is_answered_with_the_message_and_its_location() {
    run(60, async {
        let (_, channel) = shared_channel().await;
        for (number, api) in shared_apis().await.iter().enumerate() {
            let text = format!("hello {number}");
            let body = json!({ "username": "ann", "message": text });
            let response = api
                .post_json(&channel.messages(), &body, &[])
                .await
                .unwrap();
            assert_eq!(response.status, 201, "{}", response.text());
            assert!(!response.header("location").unwrap_or("").is_empty());
            let message: Value = response.json().unwrap();
            assert_eq!(message["seq"], json!(number + 1));
            assert_eq!(message["username"], json!("ann"));
            assert_eq!(message["message"], json!(text));
            assert!(message["timestamp"].is_u64());
            let listed: Value = api
                .get(&format!("{}?limit=1", channel.messages()))
                .await
                .unwrap()
                .json()
                .unwrap();
            assert_eq!(listed, json!([message]));
        }
    });
}

#[test]
fn posts_reach_sockets_and_sockets_reach_readers() {
    run(60, async {
        let (api, channel) = shared_channel().await;
        let mut socket = api.connect(&channel, "ann").await.unwrap();
        let posted = api.post(&channel, "bea", "by REST").await.unwrap();
        assert_eq!(socket.message().await.unwrap(), posted);
        socket.send_text("by socket").await.unwrap();
        let acked = socket.ack().await.unwrap();
        let read = api
            .read_all(&channel, Consistency::Linearizable)
            .await
            .unwrap();
        assert_eq!(read, [posted, acked]);
    });
}

#[test]
fn if_match_lets_a_post_pass_only_at_that_head() {
    run(60, async {
        let (api, channel) = shared_channel().await;
        let post = |seq: &str| {
            let (api, channel) = (api.clone(), channel.clone());
            let header = seq.to_owned();
            async move {
                let body = json!({ "username": "ann", "message": "only here" });
                api.post_json(&channel.messages(), &body, &[("if-match", &header)])
                    .await
                    .unwrap()
            }
        };
        assert_problem(&post("\"1\"").await, 412);
        assert_eq!(
            post("\"0\"").await.status,
            201,
            "the head of an empty channel is 0"
        );
        assert_eq!(post("\"1\"").await.status, 201);
        assert_problem(&post("\"1\"").await, 412);
        assert_problem(&post("\"3\"").await, 412);
        assert_eq!(post("\"2\"").await.status, 201);
        for malformed in [
            "\"abc\"",
            "\"-1\"",
            "\"",
            "\"3",
            "abc",
            "\"99999999999999999999999\"",
        ] {
            assert_problem(&post(malformed).await, 400);
        }
        let read = api
            .read_all(&channel, Consistency::Linearizable)
            .await
            .unwrap();
        assert_eq!(read.len(), 3);
    });
}

#[test]
fn of_100_racers_with_the_same_if_match_one_wins() {
    run(120, async {
        let (api, channel) = shared_channel().await;
        let head = api.post(&channel, "ann", "the start").await.unwrap().seq;
        let apis = shared_apis().await;
        let mut racers = JoinSet::new();
        for number in 0..100 {
            let (api, channel) = (apis[number % 3].clone(), channel.clone());
            racers.spawn(async move {
                let body = json!({ "username": "ann", "message": format!("racer {number}") });
                let tag = format!("\"{head}\"");
                api.post_json(&channel.messages(), &body, &[("if-match", &tag)])
                    .await
                    .unwrap()
            });
        }
        let answers = racers.join_all().await;
        let winners: Vec<_> = answers
            .iter()
            .filter(|answer| answer.status == 201)
            .collect();
        assert_eq!(winners.len(), 1);
        for loser in answers.iter().filter(|answer| answer.status != 201) {
            assert_problem(loser, 412);
        }
        let read = api
            .read_all(&channel, Consistency::Linearizable)
            .await
            .unwrap();
        assert_eq!(read.len(), 2);
        assert_gapless(&read, 1);
        assert_eq!(read[1], winners[0].json().unwrap());
    });
}
