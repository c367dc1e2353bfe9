//! The subprotocol `accord.v1`.

use serde_json::json;

use accord_jepsen::{
    Api, ChannelRef, ConnectOptions, Consistency, Event, Frame, Kind, Socket, raw,
};

use crate::support::{
    assert_gapless, assert_problem, rich, rich_with, run, shared_apis, shared_channel,
};

#[test]
fn a_rich_socket_is_agreed_on_and_begins_with_hello() {
    run(60, async {
        let (api, channel) = shared_channel().await;
        let target = ConnectOptions::rich("ann").target(&channel);
        let protocol = "Sec-WebSocket-Protocol: accord.v1\r\n";
        let upgrade = raw::upgrade_request(api.address(), target.as_bytes(), protocol);
        let response = raw::exchange(api.address(), &upgrade).await.unwrap();
        assert_eq!(response.status, 101);
        assert_eq!(response.header("sec-websocket-protocol"), Some("accord.v1"));

        api.post(&channel, "bea", "before").await.unwrap();
        for api in shared_apis().await {
            let options = ConnectOptions::rich("ann");
            let mut socket = api.connect_with(&channel, &options).await.unwrap();
            let hello = socket.frame().await.unwrap();
            assert_eq!(hello.raw["type"], json!("hello"));
            assert_eq!(hello.raw["seq"], json!(1));
            assert_eq!(hello.raw["node"], json!(api.node()));
            assert!(!hello.raw["session"].is_null());
        }
    });
}

#[test]
fn a_send_is_acked_with_its_nonce_and_becomes_a_message() {
    run(60, async {
        let [first, second, _] = shared_apis().await;
        let channel = first.new_channel().await.unwrap();
        let (mut ann, _) = rich(&first, &channel, "ann").await;
        let (mut bea, _) = rich(&second, &channel, "bea").await;
        let mut plain = second.connect(&channel, "cid").await.unwrap();
        ann.send_rich("nonce-1", "hello").await.unwrap();
        let (nonce, acked) = ann
            .find(|frame| match &frame.kind {
                Kind::Ack { nonce, message } => Some((nonce.clone(), message.clone())),
                _ => None,
            })
            .await
            .unwrap();
        assert_eq!(nonce.as_deref(), Some("nonce-1"));
        assert_eq!(
            (acked.username.as_str(), acked.message.as_str()),
            ("ann", "hello")
        );
        for socket in [&mut ann, &mut bea, &mut plain] {
            assert_eq!(socket.message().await.unwrap(), acked);
        }
    });
}

#[test]
fn a_nonce_gives_one_message_on_any_socket_and_any_node() {
    run(60, async {
        let apis = shared_apis().await;
        let channel = apis[0].new_channel().await.unwrap();
        let mut seen = Vec::new();
        for api in &apis {
            let (mut socket, _) = rich(api, &channel, "ann").await;
            socket.send_rich("the nonce", "once").await.unwrap();
            seen.push(socket.ack().await.unwrap());
            socket.send_rich("the nonce", "once").await.unwrap();
            seen.push(socket.ack().await.unwrap());
        }
        assert!(seen.iter().all(|message| *message == seen[0]));

        let (mut socket, _) = rich(&apis[1], &channel, "ann").await;
        socket.send_rich("the nonce", "another text").await.unwrap();
        let (nonce, problem) = socket.refusal().await.unwrap();
        assert_eq!((nonce.as_deref(), problem.status), (Some("the nonce"), 422));
        let read = apis[2]
            .read_all(&channel, Consistency::Linearizable)
            .await
            .unwrap();
        assert_eq!(read.len(), 1);
    });
}

#[test]
fn malformed_frames_are_answered_with_an_error_and_the_socket_stays() {
    run(60, async {
        let (api, channel) = shared_channel().await;
        let (mut ann, _) = rich(&api, &channel, "ann").await;
        let bad = [
            json!({ "type": "send" }),
            json!({ "type": "send", "nonce": "n1" }),
            json!({ "type": "send", "nonce": "n2", "message": 7 }),
            json!({ "type": "send", "nonce": 7, "message": "x" }),
            json!({ "type": "send", "nonce": "", "message": "x" }),
            json!({ "type": "send", "nonce": "n".repeat(256), "message": "x" }),
            json!({ "type": "send", "nonce": "n3", "message": "  " }),
            json!({ "type": "send", "nonce": "n4", "message": "x", "reply_to": "no id" }),
            json!({ "type": "dance" }),
            json!({ "message": "no type" }),
            json!([]),
            json!("text"),
        ];
        for frame in &bad {
            ann.send_json(frame).await.unwrap();
            let (_, problem) = ann.refusal().await.unwrap();
            assert_eq!(problem.status, 400, "{frame}");
            assert!(!problem.message.is_empty());
        }
        ann.send_rich("good", "still open").await.unwrap();
        assert_eq!(ann.ack().await.unwrap().seq, 1);
    });
}

#[test]
fn an_error_carries_the_nonce_of_the_send_that_it_answers() {
    run(60, async {
        let (api, channel) = shared_channel().await;
        let (mut ann, _) = rich(&api, &channel, "ann").await;
        ann.send_rich("the blank one", "  ").await.unwrap();
        let (nonce, _) = ann.refusal().await.unwrap();
        assert_eq!(nonce.as_deref(), Some("the blank one"));
    });
}

#[test]
fn what_is_not_json_or_not_text_is_refused() {
    run(60, async {
        let (api, channel) = shared_channel().await;
        let (mut ann, _) = rich(&api, &channel, "ann").await;
        ann.send_text("hello {").await.unwrap();
        assert_refused(&mut ann, 4400).await;
        let (mut bea, _) = rich(&api, &channel, "bea").await;
        bea.send_binary(br#"{"type":"send","nonce":"n","message":"x"}"#)
            .await
            .unwrap();
        assert_refused(&mut bea, 1003).await;
        let (mut cid, _) = rich(&api, &channel, "cid").await;
        cid.send_text_bytes(b"{\"type\":\"send\",\"nonce\":\"n\",\"message\":\"\xff\"}")
            .await
            .unwrap();
        assert_eq!(cid.until_closed().await.unwrap().code, Some(1007));
        assert!(api.messages(&channel, "").await.unwrap().is_empty());
    });
}

#[test]
fn unknown_fields_of_a_frame_are_ignored() {
    run(60, async {
        let (api, channel) = shared_channel().await;
        let (mut ann, _) = rich(&api, &channel, "ann").await;
        ann.send_json(&json!({ "type": "send", "nonce": "n", "message": "x", "colour": [1] }))
            .await
            .unwrap();
        assert_eq!(ann.ack().await.unwrap().seq, 1);
    });
}

#[test]
fn a_ping_is_answered_with_a_pong() {
    run(60, async {
        let (api, channel) = shared_channel().await;
        let (mut ann, _) = rich(&api, &channel, "ann").await;
        ann.send_json(&json!({ "type": "ping" })).await.unwrap();
        ann.find(|frame| matches!(frame.kind, Kind::Pong).then_some(()))
            .await
            .unwrap();
    });
}

#[test]
fn typing_and_presence_reach_others_on_the_same_node() {
    run(60, async {
        let (api, channel) = shared_channel().await;
        assert_seen_by_each_other(&api, &api, &channel).await;
    });
}

#[test]
fn typing_and_presence_reach_others_on_another_node() {
    run(60, async {
        let [first, second, _] = shared_apis().await;
        let channel = first.new_channel().await.unwrap();
        assert_seen_by_each_other(&first, &second, &channel).await;
    });
}

#[test]
fn a_reply_names_the_message_that_it_answers() {
    run(60, async {
        let [first, second, _] = shared_apis().await;
        let channel = first.new_channel().await.unwrap();
        let question = first.post(&channel, "bea", "why?").await.unwrap();
        let (mut ann, _) = rich(&second, &channel, "ann").await;
        ann.send_json(&json!({
            "type": "send", "nonce": "n", "message": "because", "reply_to": question.id
        }))
        .await
        .unwrap();
        let reply = ann.ack().await.unwrap();
        assert_eq!(reply.reply_to.as_deref(), Some(question.id.as_str()));
        assert_eq!(ann.message().await.unwrap(), reply);
        let read = first
            .read_all(&channel, Consistency::Linearizable)
            .await
            .unwrap();
        assert_eq!(read, [question, reply]);
    });
}

#[test]
fn after_resumes_on_any_node_gapless_and_then_live() {
    run(60, async {
        let apis = shared_apis().await;
        let channel = apis[0].new_channel().await.unwrap();
        for number in 1..=30 {
            apis[0]
                .post(&channel, "ann", &format!("message {number}"))
                .await
                .unwrap();
        }
        for api in &apis {
            let options = ConnectOptions::rich("bea").after(12);
            let (mut socket, _) = rich_with(api, &channel, &options).await;
            let live = apis[0].post(&channel, "ann", "live").await.unwrap();
            let messages = socket.messages(live.seq as usize - 12).await.unwrap();
            assert_gapless(&messages, 13);
            assert_eq!(messages.last(), Some(&live));
        }
    });
}

#[test]
fn a_publish_only_rich_socket_gets_answers_and_no_messages() {
    run(60, async {
        let (api, channel) = shared_channel().await;
        let options = ConnectOptions::rich("ann").publish_only();
        let mut ann = api.connect_with(&channel, &options).await.unwrap();
        for number in 1..=5 {
            api.post(&channel, "bea", "for others").await.unwrap();
            ann.send_rich(&format!("n{number}"), "mine").await.unwrap();
            let acked = ann
                .find(|frame| match &frame.kind {
                    Kind::Ack { message, .. } => Some(message.clone()),
                    Kind::Message(message) => panic!("a publish-only socket got {message:?}"),
                    _ => None,
                })
                .await
                .unwrap();
            assert_eq!(acked.seq, number * 2);
        }
        ann.send_rich("blank", "").await.unwrap();
        ann.refusal().await.unwrap();
    });
}

#[test]
fn a_rich_socket_is_refused_like_a_plain_one() {
    run(60, async {
        let (api, channel) = shared_channel().await;
        let protocol = "Sec-WebSocket-Protocol: accord.v1\r\n";
        let target = channel.connect();
        let upgrade = raw::upgrade_request(api.address(), target.as_bytes(), protocol);
        let response = raw::exchange(api.address(), &upgrade).await.unwrap();
        assert_problem(&response, 400);
    });
}

async fn assert_seen_by_each_other(first: &Api, second: &Api, channel: &ChannelRef) {
    let (mut ann, _) = rich(first, channel, "ann").await;
    let (mut bea, _) = rich(second, channel, "bea").await;
    let about = |kind: &'static str, who: &'static str| {
        move |frame: &Frame| {
            let of_kind = frame.raw["type"] == json!(kind);
            (of_kind && frame.raw.to_string().contains(who)).then_some(())
        }
    };
    ann.find(about("presence", "\"bea\"")).await.unwrap();
    bea.send_json(&json!({ "type": "typing" })).await.unwrap();
    ann.find(about("typing", "\"bea\"")).await.unwrap();
    // A plain socket gets neither: its first frame is the message.
    let mut plain = first.connect(channel, "cid").await.unwrap();
    ann.send_json(&json!({ "type": "typing" })).await.unwrap();
    bea.find(about("typing", "\"ann\"")).await.unwrap();
    bea.send_rich("n", "hello").await.unwrap();
    assert!(matches!(
        plain.frame().await.unwrap().kind,
        Kind::Message(_)
    ));
}

/// Either an error frame, and the socket stays; or a close with this code.
async fn assert_refused(socket: &mut Socket, code: u16) {
    loop {
        match socket.event().await.unwrap() {
            Event::Frame(frame) => match frame.kind {
                Kind::Presence | Kind::Typing => {}
                Kind::Error { problem, .. } => {
                    assert!(!problem.message.is_empty());
                    return;
                }
                other => panic!("{other:?}"),
            },
            Event::Closed(close) => {
                let taken = [Some(code), Some(1008), Some(4400)];
                assert!(taken.contains(&close.code), "{close}");
                return;
            }
        }
    }
}
