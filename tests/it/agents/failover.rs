//! A leader dies in the middle of an answer, or all nodes do: there is another attempt, and one reply.

use accord_jepsen::agents::Endpoint;
use accord_jepsen::wait_until;

use super::streaming::{Copy, first_half, until_said};
use super::{cluster, endpoint, openai, reply_to, with_replies};
use crate::support::{SOON, rich, run};

#[test]
fn an_attempt_that_dies_with_its_leader_is_made_again_by_the_next() {
    run(180, async {
        let endpoint = endpoint().await;
        let patient = "timeout_ms = 600000\nidle_timeout_ms = 600000";
        let cluster = cluster(&openai("ask", &endpoint.base_url(), patient)).await;
        let channel = cluster.api(1).new_channel().await.unwrap();
        let leader = cluster.api(1).leader_of(&channel, SOON).await.unwrap();
        let other = cluster.api(cluster.others(leader)[0]);
        let (mut socket, _) = rich(&other, &channel, "bea").await;
        let command = other
            .post(&channel, "ann", "/ask hold: why?")
            .await
            .unwrap();
        let half = first_half(&command.id);
        let mut copy = Copy::default();
        until_said(&mut socket, &mut copy, &half).await;
        assert_eq!(copy.attempt, 1);

        cluster.kill(leader).unwrap();
        // The stream begins anew, marked as another attempt.
        copy.text.clear();
        copy.attempt = 2;
        until_said(&mut socket, &mut copy, &half).await;
        assert_eq!(endpoint.ledger()[&command.id].calls, 2);
        endpoint.release();
        let all = with_replies(&other, &channel, 1).await;
        let reply = reply_to(&all, &command);
        assert_eq!(reply.message, Endpoint::answer_to(&command.id));

        // The one that died learns of it and adds nothing.
        cluster.restart(leader).await.unwrap();
        other.post(&channel, "ann", "the end").await.unwrap();
        let back = cluster.api(leader);
        let all = with_replies(&back, &channel, 1).await;
        assert_eq!(all.len(), 3);
    });
}

#[test]
fn commands_outlive_a_power_cut_of_all_nodes() {
    run(180, async {
        let endpoint = endpoint().await;
        // One at a time in a channel: one is asked, and the other waits.
        let patient = "timeout_ms = 600000\nidle_timeout_ms = 600000\nconcurrency = 2";
        let cluster = cluster(&openai("ask", &endpoint.base_url(), patient)).await;
        let api = cluster.api(1);
        let channel = api.new_channel().await.unwrap();
        let asked = api.post(&channel, "ann", "/ask hold: why?").await.unwrap();
        let waits = api.post(&channel, "ann", "/ask ok: how?").await.unwrap();
        let begun = wait_until("the first call", SOON, || async {
            match endpoint.ledger().contains_key(&asked.id) {
                true => Ok(()),
                false => Err("nobody was asked".to_owned()),
            }
        });
        begun.await.unwrap();
        cluster.kill_all().unwrap();
        assert!(!endpoint.ledger().contains_key(&waits.id));
        endpoint.release();
        for node in cluster.ids() {
            cluster.start_node(node).unwrap();
        }
        cluster.wait_all_ready().await.unwrap();
        let all = with_replies(&cluster.api(2), &channel, 2).await;
        for command in [&asked, &waits] {
            let reply = reply_to(&all, command);
            assert_eq!(reply.message, Endpoint::answer_to(&command.id));
        }
        assert!(endpoint.ledger()[&asked.id].calls >= 2);
        assert_eq!(all.len(), 4);
    });
}
