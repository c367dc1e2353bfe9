//! What HTTP itself asks for: methods, types, unknown paths, HEAD and OPTIONS.

use serde_json::{Value, json};

use accord_jepsen::{ConnectOptions, raw};

use crate::support::{assert_problem, assert_problem_of, run, shared_apis, shared_channel};

#[test]
fn the_api_says_that_it_is_there_with_and_without_a_slash() {
    run(60, async {
        for api in shared_apis().await {
            for target in ["/api", "/api/"] {
                let response = api.get(target).await.unwrap();
                assert_eq!(response.status, 200);
                assert_eq!(response.json::<Value>().unwrap(), json!({ "api": true }));
                let content_type = response.header("content-type").unwrap();
                assert!(
                    content_type.starts_with("application/json"),
                    "{content_type}"
                );
            }
        }
    });
}

#[test]
fn a_method_that_a_path_does_not_have_is_answered_with_those_it_has() {
    run(60, async {
        let (api, channel) = shared_channel().await;
        let channels = format!("/api/servers/{}/channels", channel.server);
        let cases = [
            ("POST", "/api".to_owned(), "GET"),
            ("DELETE", "/api/servers".to_owned(), "GET"),
            ("PUT", "/api/servers".to_owned(), "POST"),
            ("PATCH", channels, "POST"),
            ("DELETE", channel.messages(), "POST"),
            ("POST", format!("{}?username=ann", channel.connect()), "GET"),
            ("POST", "/livez".to_owned(), "GET"),
        ];
        for (method, target, allowed) in cases {
            let response = api.send(method, &target, &[], "").await.unwrap();
            assert_problem(&response, 405);
            let allow = response.header("allow").unwrap_or("");
            assert!(
                allow.split(',').any(|one| one.trim() == allowed),
                "{method} {target}: Allow: {allow}"
            );
        }
    });
}

#[test]
fn unknown_paths_are_not_found_as_problems() {
    run(60, async {
        let (api, channel) = shared_channel().await;
        let targets = [
            "/api/nothing".to_owned(),
            "/api/servers/".to_owned() + &channel.server + "/members",
            channel.path() + "/nothing",
            channel.messages() + "/1/2/3",
        ];
        for target in targets {
            assert_problem(&api.get(&target).await.unwrap(), 404);
        }
    });
}

#[test]
fn head_and_options_are_answered_sanely() {
    run(60, async {
        let (api, channel) = shared_channel().await;
        for target in ["/api", "/api/servers", &channel.messages()] {
            let head = api.send("HEAD", target, &[], "").await.unwrap();
            assert_eq!(head.status, 200, "HEAD {target}");
            assert!(head.body.is_empty());
            let options = api.send("OPTIONS", target, &[], "").await.unwrap();
            assert!(
                matches!(options.status, 200 | 204) || options.header("allow").is_some(),
                "OPTIONS {target}: {}",
                options.status
            );
        }
    });
}

#[test]
fn a_get_at_the_connect_path_without_an_upgrade_is_refused() {
    run(60, async {
        let (api, channel) = shared_channel().await;
        let target = ConnectOptions::plain("ann").target(&channel);
        let response = api.get(&target).await.unwrap();
        assert_problem_of(&response, &[400, 426]);
    });
}

#[test]
fn a_connection_serves_one_request_after_another_also_after_an_error() {
    run(60, async {
        let (api, _) = shared_channel().await;
        let host = api.address();
        let request = format!(
            "GET /api/nothing HTTP/1.1\r\nHost: {host}\r\n\r\n\
             GET /api HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
        );
        let echo = raw::send_and_drain(host, request.as_bytes()).await.unwrap();
        let text = String::from_utf8_lossy(&echo.received).into_owned();
        assert!(echo.closed);
        assert!(text.starts_with("HTTP/1.1 404"), "{text}");
        assert!(text.contains("HTTP/1.1 200"), "{text}");
    });
}
