//! Commands that are for later, and channels that have no room for more.

use accord_jepsen::agents::Endpoint;
use accord_jepsen::{Api, ChannelRef, Consistency, wait_until};
use serde_json::{Value, json};

use super::{BUILTIN, cluster, endpoint, openai, reply_to, with_replies};
use crate::support::{SOON, assert_problem, run};

/// Commands to those outside that a channel has room for.
const ROOM: usize = 240;

/// Puts a message of ann's down for later, and returns its id.
async fn schedule(api: &Api, channel: &ChannelRef, text: &str, deliver_at: u64) -> String {
    let body = json!({ "username": "ann", "message": text, "deliver_at": deliver_at });
    let answer = api.post_json(&channel.messages(), &body, &[]).await;
    let answer = answer.unwrap();
    assert_eq!(answer.status, 202, "{}", answer.text());
    let made: Value = answer.json().unwrap();
    made["id"].as_str().unwrap().to_owned()
}

#[test]
fn a_scheduled_command_is_answered_when_its_time_has_come() {
    run(120, async {
        let endpoint = endpoint().await;
        let cluster = cluster(&openai("ask", &endpoint.base_url(), "")).await;
        let api = cluster.api(2);
        let channel = api.new_channel().await.unwrap();
        let now = api.post(&channel, "bea", "hello").await.unwrap().timestamp;
        let at = now + 1_500;
        let id = schedule(&api, &channel, "/ask 500,ok: now?", at).await;
        let all = with_replies(&api, &channel, 1).await;
        let command = all.iter().find(|message| message.id == id).unwrap();
        assert!(command.timestamp >= at);
        let reply = reply_to(&all, command);
        assert_eq!(reply.message, Endpoint::answer_to(&id));
        let asked = &endpoint.ledger()[&id];
        assert_eq!(asked.text, "ann: /ask 500,ok: now?");
        assert!(asked.calls >= 2);
        assert_eq!(all.len(), 3);
    });
}

#[test]
fn a_full_channel_takes_messages_and_the_commands_that_empty_it() {
    run(240, async {
        let endpoint = endpoint().await;
        let patient = "timeout_ms = 600000\nconcurrency = 2";
        let ask = openai("ask", &endpoint.base_url(), patient);
        let cluster = cluster(&format!("{BUILTIN}{ask}")).await;
        let api = cluster.api(1);
        let channel = api.new_channel().await.unwrap();
        for number in 0..ROOM {
            let text = format!("/ask hang: {number}");
            api.post(&channel, "ann", &text).await.unwrap();
        }
        let body = json!({ "username": "bea", "message": "/ask ok: me too?" });
        let refused = api.post_json(&channel.messages(), &body, &[]).await;
        let refused = refused.unwrap();
        assert_problem(&refused, 429);
        assert!(refused.header("retry-after").is_some());

        // A command whose time has come waits for room, and what comes after it does not wait for it.
        let command = schedule(&api, &channel, "/ask ok: later?", 1).await;
        let message = schedule(&api, &channel, "behind it", 2).await;
        let delivered = wait_until("the message", SOON, || async {
            let all = api.read_all(&channel, Consistency::Linearizable).await;
            let all = all.map_err(|error| error.to_string())?;
            assert!(all.iter().all(|it| it.id != command), "there is no room");
            match all.iter().any(|it| it.id == message) {
                true => Ok(()),
                false => Err(format!("{} messages are there", all.len())),
            }
        });
        delivered.await.unwrap();
        let rolled = api.post(&channel, "bea", "/roll 2d6").await.unwrap();
        let all = with_replies(&api, &channel, 1).await;
        assert!(reply_to(&all, &rolled).message.starts_with("2d6: "));

        let cancel = api.post(&channel, "ann", "/cancel").await.unwrap();
        let all = with_replies(&api, &channel, 3).await;
        let cancelled = &reply_to(&all, &cancel).message;
        assert!(cancelled.starts_with("Cancelled: /ask"), "{cancelled}");
        let command = all.iter().find(|it| it.id == command).unwrap();
        let answer = Endpoint::answer_to(&command.id);
        assert_eq!(reply_to(&all, command).message, answer);
        // The message, and three commands with their replies.
        assert_eq!(all.len(), ROOM + 1 + 2 * 3);
    });
}
