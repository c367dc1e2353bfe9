//! The agent that needs nobody.

use accord_jepsen::{Consistency, wait_until};
use serde_json::{Value, json};

use super::{BUILTIN, cluster, reply_to, with_replies};
use crate::support::{SOON, rich, run};

#[test]
fn commands_are_understood_on_every_way_in_and_answered_once() {
    run(120, async {
        let cluster = cluster(BUILTIN).await;
        let apis = [1, 2, 3].map(|node| cluster.api(node));
        let channel = apis[0].new_channel().await.unwrap();
        let mut plain = apis[1].connect(&channel, "bea").await.unwrap();
        let (mut ann, _) = rich(&apis[2], &channel, "ann").await;

        let talk = "The release is on Friday. Who writes the notes for the release?";
        apis[0].post(&channel, "cid", talk).await.unwrap();
        let mut commands = vec![apis[0].post(&channel, "cid", "/help").await.unwrap()];
        plain.send_text("/roll 3d6").await.unwrap();
        commands.push(plain.ack().await.unwrap());
        ann.send_rich("n", "/summary 5").await.unwrap();
        commands.push(ann.ack().await.unwrap());
        let twice = apis[1].post_keyed(&channel, "cid", "/accord roll d20", "k");
        commands.push(twice.await.unwrap());
        let again = apis[2].post_keyed(&channel, "cid", "/accord roll d20", "k");
        assert_eq!(again.await.unwrap(), commands[3]);
        let odd = apis[0].post(&channel, "cid", "/roll seven").await.unwrap();
        for text in ["/shrug", "/etc/hosts", "help", " /help"] {
            apis[0].post(&channel, "cid", text).await.unwrap();
        }

        let all = with_replies(&apis[0], &channel, 5).await;
        assert!(reply_to(&all, &commands[0]).message.contains("/summary N"));
        assert!(reply_to(&all, &commands[1]).message.starts_with("3d6: "));
        assert!(reply_to(&all, &commands[2]).message.contains("release"));
        assert!(reply_to(&all, &commands[3]).message.starts_with("1d20: "));
        assert!(reply_to(&all, &odd).message.starts_with("Usage: /roll"));
        let replies = all.iter().filter(|it| it.agent.is_some()).count();
        assert_eq!(replies, 5);
        assert_eq!(all.len(), 15, "what is no command is a message");

        // A plain socket gets messages and nothing else; everybody gets the same ones.
        let seen = plain.messages(all.len()).await.unwrap();
        assert_eq!(seen, all);
        for api in &apis[1..] {
            let read = api.read_all(&channel, Consistency::Linearizable).await;
            assert_eq!(read.unwrap(), all);
        }
    });
}

#[test]
fn agents_are_listed_and_counted() {
    run(120, async {
        let more = "\n[[agent]]\nname = \"ask\"\nkind = \"openai\"\nmodel = \"m\"\n\
                    base_url = \"http://127.0.0.1:9/secret-path\"\ndescription = \"Knows all.\"\n";
        let cluster = cluster(&format!("{BUILTIN}{more}")).await;
        let api = cluster.api(1);
        let listed: Value = api.get("/api/agents").await.unwrap().json().unwrap();
        assert_eq!(
            listed,
            json!([
                {
                    "name": "accord",
                    "kind": "builtin",
                    "description": "Built in: works without any network.",
                    "commands": ["/accord", "/help", "/summary", "/roll", "/cancel"]
                },
                {
                    "name": "ask",
                    "kind": "openai",
                    "description": "Knows all.",
                    "commands": ["/ask"]
                }
            ])
        );
        let channel = api.new_channel().await.unwrap();
        api.post(&channel, "ann", "/roll").await.unwrap();
        with_replies(&api, &channel, 1).await;
        // One of the nodes led the channel and made the attempt.
        let line = "accord_agent_replies_total{agent=\"accord\"} 1";
        let counted = wait_until("the counters", SOON, || async {
            for node in 1..=3 {
                let metrics = cluster.api(node).get("/metrics").await;
                if metrics.is_ok_and(|metrics| metrics.text().contains(line)) {
                    return Ok(());
                }
            }
            Err(format!("no node has {line}"))
        });
        counted.await.unwrap();
    });
}
