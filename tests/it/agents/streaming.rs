//! What an agent says is seen while it speaks, by everybody who can see it, and becomes the reply.

use accord_jepsen::agents::Endpoint;
use accord_jepsen::{AgentDelta, Events, Kind, Socket};

use super::{cluster, endpoint, openai, with_replies};
use crate::support::{rich, run};

/// A client's copy of an answer that is on its way, kept as the contract says.
#[derive(Debug, Default)]
pub struct Copy {
    pub attempt: u64,
    pub text: String,
}

impl Copy {
    pub fn take(&mut self, delta: &AgentDelta) {
        if delta.attempt < self.attempt || delta.ended.is_some() {
            return;
        }
        if delta.attempt > self.attempt {
            self.attempt = delta.attempt;
            self.text.clear();
        }
        let length = self.text.encode_utf16().count() as u64;
        if delta.offset == 0 {
            self.text = delta.text.clone();
        } else if delta.offset == length {
            self.text.push_str(&delta.text);
        } else {
            assert!(
                delta.offset < length,
                "a piece is missing: {self:?}, {delta:?}"
            );
        }
    }
}

/// Takes deltas from a socket until the copy is as long as `text`.
pub async fn until_said(socket: &mut Socket, copy: &mut Copy, text: &str) {
    while copy.text != text {
        let delta = socket.find(|frame| match &frame.kind {
            Kind::AgentDelta(delta) => Some(delta.clone()),
            _ => None,
        });
        copy.take(&delta.await.unwrap());
        assert!(text.starts_with(&copy.text), "{copy:?} is not {text:?}");
    }
}

/// What is said before the endpoint holds: half of the pieces, which are words and two ends.
pub fn first_half(job: &str) -> String {
    let answer = Endpoint::answer_to(job);
    let words: Vec<&str> = answer.split_inclusive(' ').collect();
    words[..(words.len() + 2) / 2].concat()
}

#[test]
fn an_answer_is_seen_while_it_is_made_also_by_those_who_come_late() {
    run(120, async {
        let endpoint = endpoint().await;
        let cluster = cluster(&openai("ask", &endpoint.base_url(), "")).await;
        let [first, second, third] = [1, 2, 3].map(|node| cluster.api(node));
        let channel = first.new_channel().await.unwrap();
        let (mut early, _) = rich(&first, &channel, "early").await;
        let mut plain = second.connect(&channel, "plain").await.unwrap();
        let command = first
            .post(&channel, "ann", "/ask hold: why?")
            .await
            .unwrap();

        let half = first_half(&command.id);
        let mut seen = Copy::default();
        until_said(&mut early, &mut seen, &half).await;
        assert_eq!(seen.attempt, 1);
        for api in [&first, &second, &third] {
            let (mut late, _) = rich(api, &channel, "late").await;
            until_said(&mut late, &mut Copy::default(), &half).await;
            let mut events = Events::open(api.address(), &channel, None).await.unwrap();
            let mut copy = Copy::default();
            while copy.text != half {
                if let Kind::AgentDelta(delta) = events.next().await.unwrap().frame.kind {
                    assert_eq!(delta.job, command.id);
                    copy.take(&delta);
                }
            }
        }

        endpoint.release();
        let all = with_replies(&first, &channel, 1).await;
        let reply = super::reply_to(&all, &command);
        assert_eq!(reply.message, Endpoint::answer_to(&command.id));
        // A plain socket has seen the two messages and nothing else.
        for expected in &all {
            let frame = plain.frame().await.unwrap();
            match frame.kind {
                Kind::Message(message) => assert_eq!(message, *expected),
                other => panic!("{other:?} on a plain socket"),
            }
        }
        // Whoever comes now sees no stream: it has become the message.
        let (mut later, head) = rich(&second, &channel, "later").await;
        assert_eq!(head, 2);
        first.post(&channel, "ann", "the end").await.unwrap();
        loop {
            let frame = later.frame().await.unwrap();
            match frame.kind {
                Kind::AgentDelta(delta) => assert!(delta.ended.is_some(), "{delta:?}"),
                Kind::Message(message) => {
                    assert_eq!(message.message, "the end");
                    break;
                }
                _ => {}
            }
        }
    });
}
