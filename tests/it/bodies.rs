//! Request bodies: JSON or not, of the right shape or not, too large, of
//! another type.

use serde_json::{Value, json};

use accord_jepsen::{Api, ChannelRef};

use crate::support::{assert_problem, assert_problem_of, run, shared_channel};

/// The three places that take a JSON body, each with a good one.
fn places(channel: &ChannelRef) -> [(String, Value, u16); 3] {
    [
        (
            "/api/servers".to_owned(),
            json!({ "name": "a server" }),
            200,
        ),
        (
            format!("/api/servers/{}/channels", channel.server),
            json!({ "name": "a channel" }),
            200,
        ),
        (
            channel.messages(),
            json!({ "username": "ann", "message": "hello" }),
            201,
        ),
    ]
}

async fn post_bytes(api: &Api, target: &str, body: &[u8]) -> accord_jepsen::Response {
    api.send(
        "POST",
        target,
        &[("content-type", "application/json")],
        body.to_vec(),
    )
    .await
    .unwrap()
}

#[test]
fn a_body_that_is_not_the_json_asked_for_is_refused() {
    run(60, async {
        let (api, channel) = shared_channel().await;
        let bad: [&[u8]; 12] = [
            b"",
            b"{",
            b"{\"name\":\"abc\"",
            b"name=abc",
            b"[]",
            b"null",
            b"\"abcdef\"",
            b"{}",
            b"{\"name\":7,\"username\":7,\"message\":\"x\"}",
            b"{\"name\":null,\"username\":\"ann\",\"message\":null}",
            b"{\"name\":[\"abc\"],\"username\":{},\"message\":true}",
            b"{\"name\":\"abc\",\"username\":\"ann\",\"message\":\"x\"} {}",
        ];
        for (target, _, _) in places(&channel) {
            for body in bad {
                let response = post_bytes(&api, &target, body).await;
                assert_problem(&response, 400);
            }
        }
        assert!(api.messages(&channel, "").await.unwrap().is_empty());
    });
}

#[test]
fn a_message_without_one_of_its_fields_is_refused() {
    run(60, async {
        let (api, channel) = shared_channel().await;
        for body in [json!({ "username": "ann" }), json!({ "message": "hello" })] {
            let response = api
                .post_json(&channel.messages(), &body, &[])
                .await
                .unwrap();
            assert_problem(&response, 400);
        }
    });
}

#[test]
fn unknown_json_fields_are_ignored() {
    run(60, async {
        let (api, channel) = shared_channel().await;
        for (target, mut body, status) in places(&channel) {
            body["colour"] = json!({ "of": ["a", "later", "version"] });
            let response = api.post_json(&target, &body, &[]).await.unwrap();
            assert_eq!(response.status, status, "{}", response.text());
        }
    });
}

#[test]
fn invalid_utf8_in_a_body_is_refused_and_never_replaced() {
    run(60, async {
        let (api, channel) = shared_channel().await;
        let bad: [&[u8]; 4] = [
            b"{\"name\":\"ab\xff\xfecd\",\"username\":\"ann\",\"message\":\"ab\xff\xfecd\"}",
            // An overlong slash, a lone surrogate, and a character cut short.
            b"{\"name\":\"ab\xc0\xafcd\",\"username\":\"ann\",\"message\":\"ab\xc0\xafcd\"}",
            b"{\"name\":\"ab\xed\xa0\x80cd\",\"username\":\"ann\",\"message\":\"ab\xed\xa0\x80cd\"}",
            b"{\"name\":\"abcd\xe8\xaa\",\"username\":\"ann\",\"message\":\"abcd\xe8\xaa\"}",
        ];
        for (target, _, _) in places(&channel) {
            for body in bad {
                assert_problem(&post_bytes(&api, &target, body).await, 400);
            }
        }
        // The same as an escape: half of a surrogate pair is no character.
        let escaped = br#"{"name":"ab\ud800cd","username":"ann","message":"ab\ud800cd"}"#;
        for (target, _, _) in places(&channel) {
            assert_problem(&post_bytes(&api, &target, escaped).await, 400);
        }
        assert!(api.messages(&channel, "").await.unwrap().is_empty());
        let channels = api.channels(&channel.server).await.unwrap();
        assert_eq!(channels.len(), 1);
    });
}

#[test]
fn a_body_over_64_kib_is_too_large() {
    run(60, async {
        let (api, channel) = shared_channel().await;
        for (target, mut body, _) in places(&channel) {
            body["padding"] = json!("x".repeat(70_000));
            let response = api.post_json(&target, &body, &[]).await.unwrap();
            assert_problem(&response, 413);
        }
        assert!(api.messages(&channel, "").await.unwrap().is_empty());
    });
}

#[test]
fn a_body_within_64_kib_is_taken_however_it_is_padded() {
    run(60, async {
        let (api, channel) = shared_channel().await;
        for (target, mut body, status) in places(&channel) {
            body["padding"] = json!("x".repeat(60_000));
            let response = api.post_json(&target, &body, &[]).await.unwrap();
            assert_eq!(response.status, status, "{}", response.text());
        }
    });
}

#[test]
fn a_body_of_another_type_than_json_is_unsupported() {
    run(60, async {
        let (api, channel) = shared_channel().await;
        for (target, body, _) in places(&channel) {
            for content_type in ["text/plain", "application/x-www-form-urlencoded"] {
                let headers = [("content-type", content_type)];
                let response = api
                    .send("POST", &target, &headers, body.to_string())
                    .await
                    .unwrap();
                assert_problem(&response, 415);
            }
        }
    });
}

#[test]
fn json_with_a_charset_is_json() {
    run(60, async {
        let (api, channel) = shared_channel().await;
        for (target, body, status) in places(&channel) {
            let headers = [("content-type", "application/json; charset=utf-8")];
            let response = api
                .send("POST", &target, &headers, body.to_string())
                .await
                .unwrap();
            assert_eq!(response.status, status, "{}", response.text());
        }
    });
}

#[test]
fn a_posted_message_holds_16384_bytes_and_not_one_more() {
    run(60, async {
        let (api, channel) = shared_channel().await;
        // 8,192 characters of two bytes: it is bytes that count here.
        let longest = "é".repeat(8_192);
        let message = api.post(&channel, "ann", &longest).await.unwrap();
        assert_eq!(message.message.len(), 16_384);
        let body = json!({ "username": "ann", "message": format!("{longest}x") });
        let response = api
            .post_json(&channel.messages(), &body, &[])
            .await
            .unwrap();
        assert_problem_of(&response, &[400, 413]);
        let all = api.messages(&channel, "").await.unwrap();
        assert_eq!(all, [message]);
    });
}

#[test]
fn a_posted_message_that_is_blank_is_refused() {
    run(60, async {
        let (api, channel) = shared_channel().await;
        for text in ["", " ", "\n\t  \r\n", "\u{2003}\u{3000}"] {
            let body = json!({ "username": "ann", "message": text });
            let response = api
                .post_json(&channel.messages(), &body, &[])
                .await
                .unwrap();
            assert_problem(&response, 400);
        }
        assert!(api.messages(&channel, "").await.unwrap().is_empty());
    });
}
