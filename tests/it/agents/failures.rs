//! However the outside fails, a command has one reply in the end.

use std::time::Duration;

use accord_jepsen::agents::Endpoint;
use accord_jepsen::wait_until;

use super::{BUILTIN, cluster, endpoint, openai, reply_to, with_replies};
use crate::support::{SOON, run};

/// What the endpoint is told, how often it must be asked then, and whether that ends with an answer.
/// On a busy machine it may be asked more often: whatever takes too long is a failure like others.
const TOLD: [(&str, u64, bool); 15] = [
    ("ok", 1, true),
    ("whole", 1, true),
    ("drip", 1, true),
    ("500,ok", 2, true),
    ("429,ok", 2, true),
    ("refuse,ok", 2, true),
    ("hang,ok", 2, true),
    ("cut,ok", 2, true),
    ("garbage,ok", 2, true),
    ("noise,ok", 2, true),
    ("cut,500,refuse,ok", 4, true),
    ("400,ok", 1, false),
    ("500", 4, false),
    ("hang", 4, false),
    ("garbage", 4, false),
];

#[test]
fn every_failure_ends_in_one_reply() {
    run(180, async {
        let endpoint = endpoint().await;
        let base = endpoint.base_url();
        let short = "timeout_ms = 20000\nfirst_byte_timeout_ms = 2000\nconcurrency = 32";
        let whole = format!("{short}\nstream = false");
        // Nobody listens on the discard port of loopback.
        let agents = [
            openai("ask", &base, short),
            openai("slow", &base, &whole),
            openai("nobody", "http://127.0.0.1:9/v1", short),
        ];
        let cluster = cluster(&agents.concat()).await;
        let api = cluster.api(1);
        let channel = api.new_channel().await.unwrap();
        let mut commands = Vec::new();
        for agent in ["ask", "slow"] {
            for (told, calls, is_answered) in TOLD {
                let text = format!("/{agent} {told}: why?");
                let command = api.post(&channel, "ann", &text).await.unwrap();
                commands.push((command, calls, is_answered));
            }
        }
        let to_nobody = api.post(&channel, "ann", "/nobody hello").await.unwrap();
        let all = with_replies(&api, &channel, commands.len() + 1).await;
        let ledger = endpoint.ledger();
        for (command, calls, is_answered) in &commands {
            let reply = reply_to(&all, command);
            // The key is the command's id, in each attempt.
            let asked = &ledger[&command.id];
            assert!(asked.calls >= *calls && asked.calls <= 4, "{asked:?}");
            assert_eq!(asked.text, format!("ann: {}", command.message));
            if *is_answered {
                assert_eq!(reply.message, Endpoint::answer_to(&command.id));
            } else {
                assert_eq!(asked.answered, 0);
                assert!(reply.message.starts_with("No answer after "), "{reply:?}");
            }
        }
        let given_up = reply_to(&all, &to_nobody);
        let expected = "No answer after 4 attempts: no connection: connection refused.";
        assert_eq!(given_up.message, expected);
        assert_eq!(all.len(), 2 * (commands.len() + 1));
    });
}

#[test]
fn nobody_is_asked_again_sooner_than_it_said() {
    run(120, async {
        let endpoint = endpoint().await;
        // By itself it would be asked again within a fifth of a second.
        let cluster = cluster(&openai("ask", &endpoint.base_url(), "")).await;
        let api = cluster.api(1);
        let channel = api.new_channel().await.unwrap();
        let command = api.post(&channel, "ann", "/ask 429,ok: why?").await;
        let command = command.unwrap();
        with_replies(&api, &channel, 1).await;
        let ledger = endpoint.ledger();
        let at = &ledger[&command.id].at;
        let pause = at[1].duration_since(at[0]);
        // A second, as far as a clock that counts in milliseconds can tell.
        assert!(pause >= Duration::from_millis(990), "{pause:?}");
    });
}

#[test]
fn a_model_is_shown_the_conversation_and_a_webhook_signs() {
    run(120, async {
        let endpoint = endpoint().await;
        let base = endpoint.base_url();
        let dir = tempfile::tempdir().unwrap();
        let secret = dir.path().join("secret");
        std::fs::write(&secret, "hush\n").unwrap();
        let ask = openai(
            "ask",
            &base,
            &format!(
                "system_prompt = \"Be brief.\"\ncontext_messages = 2\napi_key_file = {secret:?}\n"
            ),
        );
        let hook = format!(
            "\n[[agent]]\nname = \"hook\"\nkind = \"webhook\"\nurl = \"{base}/hook\"\n\
             secret_file = {secret:?}\n"
        );
        let cluster = cluster(&format!("{ask}{hook}")).await;
        let api = cluster.api(2);
        let channel = api.new_channel().await.unwrap();
        for text in ["one", "two", "three"] {
            api.post(&channel, "bea", text).await.unwrap();
        }
        let asked = api.post(&channel, "ann", "/ask why?").await.unwrap();
        with_replies(&api, &channel, 1).await;
        let hooked = api
            .post(&channel, "ann", "/hook 500,ok: why?")
            .await
            .unwrap();
        let all = with_replies(&api, &channel, 2).await;

        let ledger = endpoint.ledger();
        let shown = &ledger[&asked.id];
        let told: Vec<&str> = shown
            .messages
            .iter()
            .map(|message| message["content"].as_str().unwrap())
            .collect();
        assert_eq!(
            told,
            ["Be brief.", "bea: two", "bea: three", "ann: /ask why?"]
        );
        assert_eq!(shown.authorization.as_deref(), Some("Bearer hush"));

        let reply = reply_to(&all, &hooked);
        assert_eq!(reply.message, Endpoint::answer_to(&hooked.id));
        let call = &ledger[&hooked.id];
        assert_eq!(call.calls, 2);
        let signature = call.signature.as_deref().unwrap();
        let (time, hex) = signature
            .strip_prefix("t=")
            .and_then(|rest| rest.split_once(",v1="))
            .unwrap();
        let mut signed = format!("{time}.").into_bytes();
        signed.extend_from_slice(&call.body);
        assert_eq!(hex, hmac_sha256(b"hush", &signed));
        let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs();
        assert!(now.abs_diff(time.parse().unwrap()) < 300);
    });
}

/// As a receiver would compute it.
fn hmac_sha256(key: &[u8], data: &[u8]) -> String {
    use hmac::Mac as _;
    let mut mac = hmac::Hmac::<sha2::Sha256>::new_from_slice(key).unwrap();
    mac.update(data);
    let bytes = mac.finalize().into_bytes();
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn an_agent_that_hangs_holds_up_nobody_and_can_be_cancelled() {
    run(120, async {
        let endpoint = endpoint().await;
        // In one channel half of them, rounded up.
        let patient = "timeout_ms = 600000\nconcurrency = 7";
        let ask = openai("ask", &endpoint.base_url(), patient);
        let cluster = cluster(&format!("{BUILTIN}{ask}")).await;
        let api = cluster.api(1);
        let channel = api.new_channel().await.unwrap();
        let mut hanging = Vec::new();
        for number in 0..6 {
            let text = format!("/ask hang: {number}");
            hanging.push(api.post(&channel, "ann", &text).await.unwrap());
        }
        let asked = wait_until("the calls that hang", SOON, || async {
            match endpoint.ledger().len() {
                4 => Ok(()),
                calls => Err(format!("{calls} calls")),
            }
        });
        asked.await.unwrap();

        let talk = api.post(&channel, "bea", "still here").await.unwrap();
        let rolled = api.post(&channel, "bea", "/roll 2d6").await.unwrap();
        let all = with_replies(&api, &channel, 1).await;
        assert!(reply_to(&all, &rolled).message.starts_with("2d6: "));
        assert_eq!(talk.seq, 7);

        let cancel = api.post(&channel, "ann", "/cancel").await.unwrap();
        let all = with_replies(&api, &channel, 2).await;
        let cancelled = &reply_to(&all, &cancel).message;
        assert!(cancelled.starts_with("Cancelled: /ask"), "{cancelled}");
        // Their slots are free, and the two that waited were never asked.
        let after = api.post(&channel, "ann", "/ask ok: now?").await.unwrap();
        let all = with_replies(&api, &channel, 3).await;
        assert_eq!(
            reply_to(&all, &after).message,
            Endpoint::answer_to(&after.id)
        );
        assert_eq!(endpoint.ledger().len(), 5);
        for command in &hanging {
            let answers = all
                .iter()
                .filter(|it| it.reply_to.as_ref() == Some(&command.id));
            assert_eq!(answers.count(), 0);
        }
    });
}
