//! Messages for later: they come once, in order, not before their time, and whatever happens to nodes
//! and channels meanwhile.
//!
//! What time it is, the channel says: the timestamps of its messages are its leader's.

use std::collections::BTreeMap;
use std::time::Duration;

use accord_jepsen::{
    Api, ChannelRef, Cluster, ClusterOptions, Consistency, Message, RaftOptions, Response,
    wait_until,
};
use serde::Deserialize;
use serde_json::json;

use crate::support::{
    NOBODY, SOON, assert_problem, options, run, shared_apis, shared_channel, started,
};

/// What stays awake: the directory.
const ALWAYS_OPEN: u64 = 1;

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
struct Scheduled {
    id: String,
    deliver_at: u64,
    username: String,
    message: String,
}

fn path(channel: &ChannelRef) -> String {
    format!("{}/scheduled", channel.path())
}

async fn schedule(api: &Api, channel: &ChannelRef, text: &str, deliver_at: u64) -> Response {
    schedule_with(api, channel, text, deliver_at, &[]).await
}

async fn schedule_with(
    api: &Api,
    channel: &ChannelRef,
    text: &str,
    deliver_at: u64,
    headers: &[(&str, &str)],
) -> Response {
    let body = json!({ "username": "ann", "message": text, "deliver_at": deliver_at });
    api.post_json(&channel.messages(), &body, headers)
        .await
        .unwrap()
}

async fn scheduled(api: &Api, channel: &ChannelRef, text: &str, deliver_at: u64) -> Scheduled {
    let answer = schedule(api, channel, text, deliver_at).await;
    assert_eq!(answer.status, 202, "{}", answer.text());
    answer.json().unwrap()
}

async fn list(api: &Api, channel: &ChannelRef) -> Vec<Scheduled> {
    api.all_pages(&path(channel)).await.unwrap()
}

async fn delete(api: &Api, target: &str) -> Response {
    api.send("DELETE", target, &[], "").await.unwrap()
}

/// The channel's time: that of a message posted now.
async fn now(api: &Api, channel: &ChannelRef) -> u64 {
    api.post(channel, "clock", "tick").await.unwrap().timestamp
}

/// What the channel holds besides the ticks of [`now`], once that is so many messages.
async fn delivered(api: &Api, channel: &ChannelRef, count: usize) -> Vec<Message> {
    wait_until("messages to be delivered", SOON * 2, || async {
        let all = api.read_all(channel, Consistency::Linearizable).await;
        let mut all = all.map_err(|error| error.to_string())?;
        all.retain(|message| message.username != "clock");
        match all.len() >= count {
            true => Ok(all),
            false => Err(format!("{} are there", all.len())),
        }
    })
    .await
    .unwrap()
}

async fn sleepy_cluster(nodes: u64) -> Cluster {
    started(ClusterOptions {
        raft: RaftOptions {
            idle_ms: Some(300),
            ..RaftOptions::default()
        },
        ..options(nodes)
    })
    .await
}

async fn asleep(apis: &[Api]) {
    for api in apis {
        wait_until("channels to sleep", SOON * 2, || async {
            match api.cluster().await {
                Ok(view) if view.groups.open <= ALWAYS_OPEN => Ok(()),
                Ok(view) => Err(format!("{} are open", view.groups.open)),
                Err(error) => Err(error.to_string()),
            }
        })
        .await
        .unwrap();
    }
}

#[test]
fn a_message_comes_at_its_time_with_its_id() {
    run(120, async {
        let (api, channel) = shared_channel().await;
        let mut socket = api.connect(&channel, "listener").await.unwrap();
        let at = now(&api, &channel).await + 2_000;
        let answer = schedule(&api, &channel, "later", at).await;
        assert_eq!(answer.status, 202, "{}", answer.text());
        let made: Scheduled = answer.json().unwrap();
        assert_eq!((made.deliver_at, &*made.message), (at, "later"));
        let location = answer.header("location").unwrap().to_owned();
        assert_eq!(location, format!("{}/{}", path(&channel), made.id));
        assert_eq!(
            api.get(&location)
                .await
                .unwrap()
                .json::<Scheduled>()
                .unwrap(),
            made
        );
        for api in shared_apis().await {
            assert_eq!(list(&api, &channel).await, std::slice::from_ref(&made));
        }
        let before = now(&api, &channel).await;

        let messages = delivered(&api, &channel, 1).await;
        assert_eq!(messages.len(), 1);
        let message = &messages[0];
        assert_eq!((&message.id, &*message.message), (&made.id, "later"));
        assert!(
            message.timestamp >= at,
            "{} is before {at}",
            message.timestamp
        );
        assert!(
            before >= at || message.seq > 2,
            "it came in the order of time"
        );
        let frames = socket.messages(3).await.unwrap();
        assert_eq!(frames[2].id, made.id);
        assert!(list(&api, &channel).await.is_empty());
        assert_problem(&api.get(&location).await.unwrap(), 404);
        assert_problem(&delete(&api, &location).await, 404);
    });
}

#[test]
fn what_has_passed_is_delivered_at_once() {
    run(60, async {
        let (api, channel) = shared_channel().await;
        let first = scheduled(&api, &channel, "long ago", 1).await;
        let messages = delivered(&api, &channel, 1).await;
        assert_eq!(messages[0].id, first.id);
    });
}

#[test]
fn bad_requests() {
    run(60, async {
        let (api, channel) = shared_channel().await;
        let now = now(&api, &channel).await;
        let condition = [("if-match", "\"1\"")];
        let refused = schedule_with(&api, &channel, "x", now, &condition).await;
        assert_problem(&refused, 400);
        let days = 401 * 24 * 60 * 60 * 1_000;
        assert_problem(&schedule(&api, &channel, "x", now + days).await, 400);
        assert_problem(&schedule(&api, &channel, " ", now + 1_000).await, 400);
        for bad in [json!("soon"), json!(-1), json!(1.5)] {
            let body = json!({ "username": "ann", "message": "x", "deliver_at": bad });
            let answer = api.post_json(&channel.messages(), &body, &[]).await;
            assert_problem(&answer.unwrap(), 400);
        }
        for query in ["cursor=7", "limit=0", "limit=1001"] {
            let answer = api.get(&format!("{}?{query}", path(&channel))).await;
            assert_problem(&answer.unwrap(), 400);
        }
        let unknown = format!("{}/{NOBODY}", path(&channel));
        assert_problem(&api.get(&unknown).await.unwrap(), 404);
        assert_problem(&delete(&api, &unknown).await, 404);
        assert_problem(&delete(&api, &format!("{}/x", path(&channel))).await, 400);
        assert_problem(&delete(&api, &path(&channel)).await, 405);
        assert!(list(&api, &channel).await.is_empty());
    });
}

#[test]
fn they_are_listed_and_delivered_in_the_order_of_their_times() {
    run(120, async {
        let (_, channel) = shared_channel().await;
        let apis = shared_apis().await;
        let at = now(&apis[0], &channel).await + 4_000;
        // Some at the same moment, and one of them will not come.
        let offsets = [500, 0, 300, 100, 300, 200, 300];
        let mut made = Vec::new();
        for (number, (offset, api)) in offsets.iter().zip(apis.iter().cycle()).enumerate() {
            let text = format!("number {number}");
            made.push(scheduled(api, &channel, &text, at + offset).await);
        }
        made.sort_by_key(|scheduled| (scheduled.deliver_at, scheduled.id.clone()));
        for api in &apis {
            let first = format!("{}?limit=2", path(&channel));
            let pages: Vec<Scheduled> = api.all_pages(&first).await.unwrap();
            assert_eq!(pages, made);
        }
        let gone = made.remove(2);
        let target = format!("{}/{}", path(&channel), gone.id);
        let answer = delete(&apis[1], &target).await;
        assert_eq!(answer.status, 204, "{}", answer.text());
        assert_problem(&delete(&apis[2], &target).await, 404);
        assert_eq!(list(&apis[0], &channel).await, made);

        let messages = delivered(&apis[0], &channel, made.len()).await;
        let ids: Vec<_> = messages.iter().map(|message| &message.id).collect();
        let expected: Vec<_> = made.iter().map(|scheduled| &scheduled.id).collect();
        assert_eq!(ids, expected);
    });
}

#[test]
fn the_same_key_gives_the_one_scheduled_message_and_the_same_answer() {
    run(120, async {
        let (_, channel) = shared_channel().await;
        let apis = shared_apis().await;
        let at = now(&apis[0], &channel).await + 2_000;
        let key = [("idempotency-key", "key-1")];
        let first = schedule_with(&apis[0], &channel, "once", at, &key).await;
        assert_eq!(first.status, 202, "{}", first.text());
        let again = async || {
            for api in &apis {
                let again = schedule_with(api, &channel, "once", at, &key).await;
                assert_eq!((again.status, &again.body), (202, &first.body));
                assert_eq!(again.header("location"), first.header("location"));
                let other = schedule_with(api, &channel, "once", at + 1, &key).await;
                assert_problem(&other, 422);
                let now = json!({ "username": "ann", "message": "once" });
                let now = api.post_json(&channel.messages(), &now, &key).await;
                assert_problem(&now.unwrap(), 422);
            }
        };
        again().await;
        delivered(&apis[0], &channel, 1).await;
        again().await;
        assert_eq!(delivered(&apis[1], &channel, 1).await.len(), 1);
    });
}

/// Channels, each with a message at its own time in the seconds that follow `after_ms`.
async fn put_down(
    apis: &[Api],
    count: usize,
    after_ms: u64,
    spread_ms: u64,
) -> BTreeMap<String, (ChannelRef, Scheduled)> {
    let mut all = BTreeMap::new();
    let mut channels = Vec::new();
    for _ in 0..count {
        channels.push(apis[0].new_channel().await.unwrap());
    }
    let at = now(&apis[0], &channels[0]).await + after_ms;
    for (number, (channel, api)) in channels.into_iter().zip(apis.iter().cycle()).enumerate() {
        let at = at + number as u64 * spread_ms / count as u64;
        let made = scheduled(api, &channel, "later", at).await;
        all.insert(made.id.clone(), (channel, made));
    }
    all
}

/// Waits until the nodes say that they have delivered so many. Nobody asks for the messages themselves:
/// a question would wake their channels.
async fn count_delivered(apis: &[Api], count: usize) {
    wait_until("all to be delivered", SOON * 2, || async {
        let mut delivered = 0.0;
        for api in apis {
            let metric = api.metric("accord_scheduled_delivered_total").await;
            delivered += metric.map_err(|error| error.to_string())?;
        }
        match delivered >= count as f64 {
            true => Ok(()),
            false => Err(format!("{delivered} of {count} are delivered")),
        }
    })
    .await
    .unwrap();
}

/// Each of them is delivered once, with its id and not before its time.
async fn all_delivered(apis: &[Api], all: &BTreeMap<String, (ChannelRef, Scheduled)>) {
    for ((channel, made), api) in all.values().zip(apis.iter().cycle()) {
        let messages = delivered(api, channel, 1).await;
        assert_eq!(messages.len(), 1, "{messages:?}");
        assert_eq!(messages[0].id, made.id);
        assert!(messages[0].timestamp >= made.deliver_at);
        assert!(list(api, channel).await.is_empty());
    }
}

#[test]
fn sleeping_channels_wake_for_what_is_due_in_them_and_no_sooner() {
    run(240, async {
        let cluster = sleepy_cluster(3).await;
        let apis = cluster.apis(&cluster.ids());
        let all = put_down(&apis, 200, 15_000, 4_000).await;
        asleep(&apis).await;
        count_delivered(&apis, all.len()).await;
        asleep(&apis).await;
        all_delivered(&apis, &all).await;
    });
}

#[test]
fn a_power_cut_of_all_nodes_loses_none_of_them() {
    run(240, async {
        let cluster = sleepy_cluster(3).await;
        let apis = cluster.apis(&cluster.ids());
        // Some become due while nobody is there, others after that.
        let all = put_down(&apis, 40, 3_000, 8_000).await;
        asleep(&apis).await;
        cluster.kill_all().unwrap();
        for node in cluster.ids() {
            cluster.start_node(node).unwrap();
        }
        cluster.wait_all_ready().await.unwrap();
        all_delivered(&apis, &all).await;
        for node in cluster.ids() {
            let answer = cluster.stop(node, Duration::from_secs(20)).await.unwrap();
            assert!(answer.status.success());
        }
        for node in cluster.ids() {
            cluster.start_node(node).unwrap();
        }
        cluster.wait_all_ready().await.unwrap();
        all_delivered(&apis, &all).await;
    });
}

#[test]
fn others_deliver_what_a_dead_node_led() {
    run(240, async {
        let cluster = sleepy_cluster(3).await;
        let apis = cluster.apis(&cluster.ids());
        let all = put_down(&apis, 30, 4_000, 3_000).await;
        asleep(&apis).await;
        cluster.kill(1).unwrap();
        let others = cluster.apis(&cluster.others(1));
        count_delivered(&others, all.len()).await;
        all_delivered(&others, &all).await;
        cluster.restart(1).await.unwrap();
        all_delivered(&[cluster.api(1)], &all).await;
    });
}

#[test]
fn a_node_without_a_replica_schedules_lists_and_cancels() {
    run(180, async {
        let cluster = sleepy_cluster(5).await;
        let apis = cluster.apis(&cluster.ids());
        let channel = apis[0].new_channel().await.unwrap();
        let at = now(&apis[0], &channel).await + 8_000;
        let mut made = Vec::new();
        for (number, api) in apis.iter().enumerate() {
            let text = format!("through {}", api.node());
            made.push(scheduled(api, &channel, &text, at + number as u64).await);
        }
        for api in &apis {
            assert_eq!(list(api, &channel).await, made);
        }
        let gone = made.pop().unwrap();
        let target = format!("{}/{}", path(&channel), gone.id);
        assert_eq!(delete(&apis[4], &target).await.status, 204);
        asleep(&apis).await;
        let messages = delivered(&apis[4], &channel, made.len()).await;
        let texts: Vec<_> = messages.iter().map(|message| &message.message).collect();
        let expected: Vec<_> = made.iter().map(|made| &made.message).collect();
        assert_eq!(texts, expected);
    });
}
