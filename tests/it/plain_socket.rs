//! A socket without a subprotocol, as the existing front end speaks it.

use serde_json::{Value, json};

use accord_jepsen::{ConnectOptions, Event, Kind, Socket, SocketError};

use crate::support::{assert_gapless, run, shared_apis, shared_channel};

#[test]
fn the_sender_gets_an_ack_and_everyone_gets_the_message_with_exact_fields() {
    run(60, async {
        let (api, channel) = shared_channel().await;
        let [_, second, third] = shared_apis().await;
        let mut ann = api.connect(&channel, "ann").await.unwrap();
        let mut bea = second.connect(&channel, "bea").await.unwrap();
        let mut cid = third.connect(&channel, "cid").await.unwrap();
        ann.send_text("hello, all").await.unwrap();

        let (mut ack, mut message) = (None, None);
        while ack.is_none() || message.is_none() {
            let frame = ann.frame().await.unwrap();
            match frame.kind {
                Kind::Ack { .. } => assert!(ack.replace(frame.raw).is_none()),
                Kind::Message(_) => assert!(message.replace(frame.raw).is_none()),
                other => panic!("no other frames appear on a plain socket: {other:?}"),
            }
        }
        let (mut ack, message) = (ack.unwrap(), message.unwrap());
        assert_exact_fields(&message, "message", "ann", "hello, all");
        assert_exact_fields(&ack, "ack", "ann", "hello, all");
        ack["type"] = json!("message");
        assert_eq!(ack, message, "an ack is the message with another type");

        // The first frame of the others is that message, and not an ack.
        assert_eq!(bea.frame().await.unwrap().raw, message);
        assert_eq!(cid.frame().await.unwrap().raw, message);

        let mut listed = message;
        listed.as_object_mut().unwrap().remove("type");
        let answer: Value = api.get(&channel.messages()).await.unwrap().json().unwrap();
        assert_eq!(answer, json!([listed]));
    });
}

#[test]
fn nothing_but_answers_and_messages_appears_and_in_commit_order() {
    run(60, async {
        let (api, channel) = shared_channel().await;
        let mut ann = api.connect(&channel, "ann").await.unwrap();
        for number in 0..50 {
            ann.send_text(&format!("message {number}")).await.unwrap();
        }
        let (mut acks, mut messages) = (Vec::new(), Vec::new());
        while acks.len() < 50 || messages.len() < 50 {
            match ann.frame().await.unwrap().kind {
                Kind::Ack { message, .. } => acks.push(message),
                Kind::Message(message) => messages.push(message),
                other => panic!("no other frames appear on a plain socket: {other:?}"),
            }
        }
        assert_gapless(&messages, 1);
        assert_eq!(acks, messages, "one sender's messages keep their order");
        for (number, message) in messages.iter().enumerate() {
            assert_eq!(message.message, format!("message {number}"));
        }
        assert!(
            messages
                .windows(2)
                .all(|two| two[0].timestamp <= two[1].timestamp)
        );
    });
}

#[test]
fn whatever_a_text_frame_holds_is_a_message() {
    run(60, async {
        let (api, channel) = shared_channel().await;
        let mut ann = api.connect(&channel, "ann").await.unwrap();
        let texts = [
            r#"{"type":"send","nonce":"1","message":"not parsed"}"#,
            r#"{"type":"ping"}"#,
            "{",
            "null",
            " leading and trailing ",
            "a\u{0}b",
            "\u{feff}语\r\n🦀 e\u{301}",
            "<script>alert(1)</script>",
        ];
        for text in texts {
            ann.send_text(text).await.unwrap();
            assert_eq!(ann.ack().await.unwrap().message, text);
            assert_eq!(ann.message().await.unwrap().message, text);
        }
    });
}

#[test]
fn a_message_in_several_frames_is_one_message() {
    run(60, async {
        let (api, channel) = shared_channel().await;
        let mut ann = api.connect(&channel, "ann").await.unwrap();
        // The pieces cut a character in two: only the whole must be UTF-8.
        let pieces: [&[u8]; 3] = [b"one \xc3", b"\xa9 ", b"two"];
        ann.send_in_pieces(&pieces).await.unwrap();
        assert_eq!(ann.ack().await.unwrap().message, "one é two");
    });
}

#[test]
fn nothing_old_is_replayed_unless_after_asks_for_it() {
    run(60, async {
        let (api, channel) = shared_channel().await;
        for number in 1..=5 {
            api.post(&channel, "ann", &format!("message {number}"))
                .await
                .unwrap();
        }
        for api in shared_apis().await {
            let mut live = api.connect(&channel, "bea").await.unwrap();
            let options = ConnectOptions::plain("cid").after(2);
            let mut resumed = api.connect_with(&channel, &options).await.unwrap();
            let all = ConnectOptions::plain("dan").after(0);
            let mut replayed = api.connect_with(&channel, &all).await.unwrap();
            let seq = api.post(&channel, "ann", "the newest").await.unwrap().seq;

            assert_eq!(live.message().await.unwrap().seq, seq);
            let messages = resumed.messages(seq as usize - 2).await.unwrap();
            assert_gapless(&messages, 3);
            let messages = replayed.messages(seq as usize).await.unwrap();
            assert_gapless(&messages, 1);
            assert_eq!(messages[4].message, "message 5");
        }
    });
}

#[test]
fn the_longest_message_passes_and_a_longer_one_is_refused() {
    run(60, async {
        let (api, channel) = shared_channel().await;
        let mut ann = api.connect(&channel, "ann").await.unwrap();
        let longest = "é".repeat(8_192);
        ann.send_text(&longest).await.unwrap();
        assert_eq!(ann.ack().await.unwrap().message, longest);

        ann.send_text(&format!("{longest}x")).await.unwrap();
        match ann.refusal().await {
            Ok((_, problem)) => {
                assert!(matches!(problem.status, 400 | 413), "{problem:?}");
                ann.send_text("still open").await.unwrap();
                assert_eq!(ann.ack().await.unwrap().seq, 2);
            }
            Err(SocketError::Closed(close)) => assert_eq!(close.code, Some(1009)),
            Err(other) => panic!("{other}"),
        }
        let stored = api.messages(&channel, "").await.unwrap();
        assert!(stored.iter().all(|message| message.message.len() <= 16_384));
    });
}

#[test]
fn a_frame_beyond_every_bound_closes_the_socket_as_too_big() {
    run(60, async {
        let (api, channel) = shared_channel().await;
        let mut ann = api.connect(&channel, "ann").await.unwrap();
        // The server may close before it has taken all of it.
        let _ = ann.send_text(&"x".repeat(80_000)).await;
        assert_eq!(ann.until_closed().await.unwrap().code, Some(1009));
        assert!(api.messages(&channel, "").await.unwrap().is_empty());
    });
}

#[test]
fn blank_text_is_refused_with_an_error_frame_and_the_socket_stays() {
    run(60, async {
        let (api, channel) = shared_channel().await;
        let mut ann = api.connect(&channel, "ann").await.unwrap();
        for blank in ["", "   ", "\n\t\r\n", "\u{3000}"] {
            ann.send_text(blank).await.unwrap();
            let (_, problem) = ann.refusal().await.unwrap();
            assert_eq!(problem.kind, "error");
            assert_eq!(problem.status, 400);
            assert!(!problem.message.is_empty());
        }
        ann.send_text("not blank").await.unwrap();
        assert_eq!(ann.ack().await.unwrap().seq, 1);
    });
}

#[test]
fn text_that_is_not_utf8_closes_the_socket_with_1007() {
    run(60, async {
        let (api, channel) = shared_channel().await;
        let bad: [&[u8]; 4] = [
            b"\xff\xfe",
            b"abc\xc0\xaf",
            b"\xed\xa0\x80",
            b"cut \xe8\xaa",
        ];
        for bytes in bad {
            let mut ann = api.connect(&channel, "ann").await.unwrap();
            ann.send_text_bytes(bytes).await.unwrap();
            assert_eq!(ann.until_closed().await.unwrap().code, Some(1007));
        }
        assert!(api.messages(&channel, "").await.unwrap().is_empty());
    });
}

#[test]
fn a_binary_frame_is_never_taken_as_text() {
    run(60, async {
        let (api, channel) = shared_channel().await;
        let mut ann = api.connect(&channel, "ann").await.unwrap();
        ann.send_binary(b"perfectly good text").await.unwrap();
        match ann.event().await.unwrap() {
            Event::Frame(frame) => match frame.kind {
                Kind::Error { problem, .. } => assert!(!problem.message.is_empty()),
                other => panic!("{other:?}"),
            },
            Event::Closed(close) => {
                assert!(matches!(close.code, Some(1003 | 1008)), "{close}");
            }
        }
        assert!(api.messages(&channel, "").await.unwrap().is_empty());
    });
}

#[test]
fn a_publish_only_socket_gets_answers_and_no_messages() {
    run(60, async {
        let (api, channel) = shared_channel().await;
        let options = ConnectOptions::plain("ann").publish_only();
        let mut ann = api.connect_with(&channel, &options).await.unwrap();
        for number in 1..=5 {
            let other = api.post(&channel, "bea", "for others").await.unwrap();
            ann.send_text(&format!("message {number}")).await.unwrap();
            // Two seqs later there was time and reason enough for a message.
            match ann.frame().await.unwrap().kind {
                Kind::Ack { message, .. } => assert!(message.seq > other.seq),
                unexpected => panic!("{unexpected:?}"),
            }
        }
        ann.send_text(" ").await.unwrap();
        assert!(matches!(
            ann.frame().await.unwrap().kind,
            Kind::Error { .. }
        ));
    });
}

#[test]
fn a_client_that_says_goodbye_is_answered() {
    run(60, async {
        let (api, channel) = shared_channel().await;
        let mut ann: Socket = api.connect(&channel, "ann").await.unwrap();
        ann.close().await.unwrap();
        let close = ann.until_closed().await.unwrap();
        assert!(matches!(close.code, None | Some(1000 | 1005)), "{close}");
    });
}

/// Only what is expected on a message without further features.
#[track_caller]
fn assert_exact_fields(frame: &Value, kind: &str, username: &str, text: &str) {
    let fields = frame.as_object().unwrap();
    let mut names: Vec<&str> = fields.keys().map(String::as_str).collect();
    names.sort_unstable();
    assert_eq!(
        names,
        ["id", "message", "seq", "timestamp", "type", "username"]
    );
    assert_eq!(frame["type"], json!(kind));
    assert_eq!(frame["username"], json!(username));
    assert_eq!(frame["message"], json!(text));
    assert_eq!(frame["seq"], json!(1));
    assert_eq!(frame["id"].as_str().unwrap().len(), 36);
    // Milliseconds, not seconds or microseconds: between 2020 and 2100.
    let timestamp = frame["timestamp"].as_u64().unwrap();
    assert!(
        (1_577_836_800_000..4_102_444_800_000).contains(&timestamp),
        "{timestamp}"
    );
}
