//! The same key yields the one message: to any node, concurrently, on either
//! kind of interface. Across failovers: see `leader_loss` and `restart`.

use serde_json::json;
use tokio::task::JoinSet;

use accord_jepsen::{Api, ChannelRef, Consistency, Message, Response};

use crate::support::{assert_problem, rich, run, shared_apis, shared_channel};

async fn post(api: &Api, channel: &ChannelRef, username: &str, text: &str, key: &str) -> Response {
    let body = json!({ "username": username, "message": text });
    api.post_json(&channel.messages(), &body, &[("idempotency-key", key)])
        .await
        .unwrap()
}

#[test]
fn the_same_key_to_any_node_gives_the_one_message_and_the_same_answer() {
    run(60, async {
        let (_, channel) = shared_channel().await;
        let apis = shared_apis().await;
        let first = post(&apis[0], &channel, "ann", "once", "key-1").await;
        assert_eq!(first.status, 201, "{}", first.text());
        for api in &apis {
            let again = post(api, &channel, "ann", "once", "key-1").await;
            assert_eq!(again.status, 201, "{}", again.text());
            assert_eq!(again.json::<Message>().unwrap(), first.json().unwrap());
            assert_eq!(again.header("location"), first.header("location"));
        }
        let read = apis[1]
            .read_all(&channel, Consistency::Linearizable)
            .await
            .unwrap();
        assert_eq!(read.len(), 1);
    });
}

#[test]
fn the_same_key_with_another_body_is_unprocessable() {
    run(60, async {
        let (_, channel) = shared_channel().await;
        let apis = shared_apis().await;
        let first = post(&apis[0], &channel, "ann", "once", "key-1").await;
        assert_eq!(first.status, 201, "{}", first.text());
        for api in &apis {
            assert_problem(&post(api, &channel, "ann", "twice", "key-1").await, 422);
        }
        let read = apis[1]
            .read_all(&channel, Consistency::Linearizable)
            .await
            .unwrap();
        assert_eq!(read.len(), 1);
    });
}

#[test]
fn a_key_belongs_to_one_user_and_one_channel() {
    run(60, async {
        let (api, channel) = shared_channel().await;
        let sibling = ChannelRef {
            channel: api
                .create_channel(&channel.server, "sibling")
                .await
                .unwrap()
                .id,
            ..channel.clone()
        };
        let ann: Message = post(&api, &channel, "ann", "once", "key")
            .await
            .json()
            .unwrap();
        let bea: Message = post(&api, &channel, "bea", "once", "key")
            .await
            .json()
            .unwrap();
        let other: Message = post(&api, &sibling, "ann", "once", "key")
            .await
            .json()
            .unwrap();
        assert_eq!((ann.seq, bea.seq, other.seq), (1, 2, 1));
        assert!(ann.id != bea.id && ann.id != other.id);
    });
}

#[test]
fn concurrent_posts_with_one_key_become_one_message() {
    run(60, async {
        let (api, channel) = shared_channel().await;
        let apis = shared_apis().await;
        let mut posts = JoinSet::new();
        for number in 0..30 {
            let (api, channel) = (apis[number % 3].clone(), channel.clone());
            posts.spawn(async move { post(&api, &channel, "ann", "once", "the key").await });
        }
        let answers = posts.join_all().await;
        let first: Message = answers[0].json().unwrap();
        for answer in &answers {
            assert_eq!(answer.status, 201, "{}", answer.text());
            assert_eq!(answer.json::<Message>().unwrap(), first);
        }
        let read = api
            .read_all(&channel, Consistency::Linearizable)
            .await
            .unwrap();
        assert_eq!(read, [first]);
    });
}

#[test]
fn a_key_is_looked_up_before_the_head_is_compared() {
    run(60, async {
        let (api, channel) = shared_channel().await;
        let headers = [("idempotency-key", "key"), ("if-match", "\"0\"")];
        let first = api
            .post_with(&channel, "ann", "first", &headers)
            .await
            .unwrap();
        api.post(&channel, "bea", "second").await.unwrap();
        // A retry of what succeeded is a success, though the head moved on.
        let again = api
            .post_with(&channel, "ann", "first", &headers)
            .await
            .unwrap();
        assert_eq!(again, first);
    });
}

#[test]
fn a_refused_post_does_not_use_up_its_key() {
    run(60, async {
        let (api, channel) = shared_channel().await;
        let body = json!({ "username": "ann", "message": "at last" });
        let headers = [("idempotency-key", "key"), ("if-match", "\"7\"")];
        let refused = api
            .post_json(&channel.messages(), &body, &headers)
            .await
            .unwrap();
        assert_problem(&refused, 412);
        let posted = post(&api, &channel, "ann", "at last", "key").await;
        assert_eq!(posted.status, 201, "{}", posted.text());
    });
}

#[test]
fn keys_have_1_to_255_visible_characters() {
    run(60, async {
        let (api, channel) = shared_channel().await;
        let longest = "k".repeat(255);
        assert_eq!(
            post(&api, &channel, "ann", "long key", &longest)
                .await
                .status,
            201
        );
        for key in ["", &"k".repeat(256)] {
            assert_problem(&post(&api, &channel, "ann", "bad key", key).await, 400);
        }
    });
}

#[test]
fn a_nonce_on_a_socket_is_the_same_key_as_in_a_header() {
    run(60, async {
        let [first, second, third] = shared_apis().await;
        let channel = first.new_channel().await.unwrap();
        let posted: Message = post(&first, &channel, "ann", "once", "key")
            .await
            .json()
            .unwrap();
        let (mut socket, _) = rich(&second, &channel, "ann").await;
        socket.send_rich("key", "once").await.unwrap();
        assert_eq!(socket.ack().await.unwrap(), posted);

        socket.send_rich("other", "again").await.unwrap();
        let acked = socket.ack().await.unwrap();
        let again: Message = post(&third, &channel, "ann", "again", "other")
            .await
            .json()
            .unwrap();
        assert_eq!(again, acked);
    });
}
