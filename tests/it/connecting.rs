//! Opening a socket: usernames in every shape, options in the query.

use serde_json::json;

use accord_jepsen::{ConnectOptions, Socket, percent_encode, raw};

use crate::support::{assert_problem, assert_problem_of, run, shared_channel};

#[test]
fn a_missing_empty_or_over_long_username_is_refused_before_the_upgrade() {
    run(60, async {
        let (api, channel) = shared_channel().await;
        let long = |character: &str| percent_encode(&character.repeat(65));
        let queries = [
            String::new(),
            "?".to_owned(),
            "?username".to_owned(),
            "?username=".to_owned(),
            "?after=0".to_owned(),
            format!("?username={}", long("a")),
            format!("?username={}", long("é")),
            format!("?username={}", long("🦀")),
        ];
        for query in queries {
            let target = format!("{}{query}", channel.connect());
            let upgrade = raw::upgrade_request(api.address(), target.as_bytes(), "");
            let response = raw::exchange(api.address(), &upgrade).await.unwrap();
            assert_problem(&response, 400);
        }
    });
}

#[test]
fn a_username_of_64_code_points_is_taken_whatever_their_bytes() {
    run(60, async {
        let (api, channel) = shared_channel().await;
        for character in ["a", "é", "語", "🦀"] {
            let username = character.repeat(64);
            let mut socket = api.connect(&channel, &username).await.unwrap();
            socket.send_text("hello").await.unwrap();
            assert_eq!(socket.ack().await.unwrap().username, username);
        }
    });
}

/// The front end does not fully encode what the user typed.
#[test]
fn an_oddly_encoded_username_is_taken_as_best_understood() {
    run(60, async {
        let (api, channel) = shared_channel().await;
        let target = format!("{}?username=100%%20me", channel.connect());
        let mut socket = Socket::connect(api.address(), &target, false)
            .await
            .unwrap();
        socket.send_text("hello").await.unwrap();
        assert_eq!(socket.ack().await.unwrap().username, "100% me");
    });
}

#[test]
fn no_encoding_of_a_username_is_an_error_of_the_server() {
    run(60, async {
        let (api, channel) = shared_channel().await;
        let odd: [&[u8]; 7] = [b"%", b"%zz", b"a%", b"%2", b"%%%", b"a&b=%", b"%u00e9"];
        for username in odd {
            let mut target = format!("{}?username=", channel.connect()).into_bytes();
            target.extend_from_slice(username);
            let upgrade = raw::upgrade_request(api.address(), &target, "");
            let response = raw::exchange(api.address(), &upgrade).await.unwrap();
            if response.status != 101 {
                assert_problem(&response, 400);
            }
        }
    });
}

#[test]
fn a_username_that_is_not_utf8_is_refused_and_never_replaced() {
    run(60, async {
        let (api, channel) = shared_channel().await;
        for username in ["%ff", "ann%ff", "%c0%af", "%ed%a0%80", "%e8%aa"] {
            let target = format!("{}?username={username}", channel.connect());
            let upgrade = raw::upgrade_request(api.address(), target.as_bytes(), "");
            let response = raw::exchange(api.address(), &upgrade).await.unwrap();
            assert_problem(&response, 400);
        }
        // The same bytes without any encoding: an HTTP parser may object first.
        let mut target = format!("{}?username=", channel.connect()).into_bytes();
        target.extend_from_slice(b"ann\xff");
        let upgrade = raw::upgrade_request(api.address(), &target, "");
        let response = raw::exchange(api.address(), &upgrade).await.unwrap();
        assert_eq!(response.status, 400);
    });
}

#[test]
fn usernames_of_posts_follow_the_same_rule() {
    run(60, async {
        let (api, channel) = shared_channel().await;
        for username in ["", &"é".repeat(65)] {
            let body = json!({ "username": username, "message": "hello" });
            let response = api
                .post_json(&channel.messages(), &body, &[])
                .await
                .unwrap();
            assert_problem(&response, 400);
        }
        let longest = "é".repeat(64);
        assert_eq!(api.post(&channel, &longest, "hello").await.unwrap().seq, 1);
    });
}

#[test]
fn options_of_a_connection_that_make_no_sense_are_refused_before_the_upgrade() {
    run(60, async {
        let (api, channel) = shared_channel().await;
        for query in [
            "after=x",
            "after=-1",
            "after=",
            "after=1.5",
            "receive=perhaps",
        ] {
            let target = format!("{}?username=ann&{query}", channel.connect());
            let upgrade = raw::upgrade_request(api.address(), target.as_bytes(), "");
            let response = raw::exchange(api.address(), &upgrade).await.unwrap();
            assert_problem(&response, 400);
        }
    });
}

#[test]
fn an_upgrade_without_a_key_or_of_another_version_is_refused() {
    run(60, async {
        let (api, channel) = shared_channel().await;
        let target = ConnectOptions::plain("ann").target(&channel);
        let request = raw::upgrade_request(api.address(), target.as_bytes(), "");
        let request = String::from_utf8(request).unwrap();
        let damaged = [
            request.replace("Sec-WebSocket-Version: 13", "Sec-WebSocket-Version: 7"),
            request.replace("Sec-WebSocket-Key", "X-Not-The-Key"),
        ];
        for request in damaged {
            let response = raw::exchange(api.address(), request.as_bytes())
                .await
                .unwrap();
            assert_problem_of(&response, &[400, 426]);
        }
    });
}
