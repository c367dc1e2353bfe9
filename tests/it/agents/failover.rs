//! A leader dies in the middle of an answer: another one asks again, and there is one reply.

use accord_jepsen::agents::Endpoint;

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
