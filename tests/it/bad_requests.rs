//! Ids, paths and requests that are wrong: malformed, unknown, cut off.

use serde_json::json;

use accord_jepsen::{ConnectError, Consistency, Rng, raw};

use crate::support::{NOBODY, assert_problem, run, shared, shared_apis, shared_channel};

#[test]
fn malformed_ids_are_bad_requests_everywhere() {
    run(60, async {
        let (api, channel) = shared_channel().await;
        let good = &channel.server;
        for bad in [
            "x",
            "123",
            "01890a5d-ac96-774b-bcce-b302099a805",
            "%20",
            "%ff",
            "a%zzb",
            "%",
        ] {
            let targets = [
                format!("/api/servers/{bad}/channels"),
                format!("/api/servers/{bad}/channels/{NOBODY}/messages"),
                format!("/api/servers/{good}/channels/{bad}/messages"),
                format!("/api/servers/{good}/channels/{bad}/connect?username=ann"),
            ];
            for target in &targets[..3] {
                assert_problem(&api.get(target).await.unwrap(), 400);
            }
            let upgrade = raw::upgrade_request(api.address(), targets[3].as_bytes(), "");
            let response = raw::exchange(api.address(), &upgrade).await.unwrap();
            assert_problem(&response, 400);

            let body = json!({ "name": "a name", "username": "ann", "message": "x" });
            for target in [&targets[0], &targets[2]] {
                assert_problem(&api.post_json(target, &body, &[]).await.unwrap(), 400);
            }
        }
    });
}

#[test]
fn unknown_servers_and_channels_are_not_found_through_any_node() {
    run(60, async {
        let (_, channel) = shared_channel().await;
        let server = &channel.server;
        for api in shared_apis().await {
            let body = json!({ "name": "a name", "username": "ann", "message": "x" });
            let targets = [
                format!("/api/servers/{NOBODY}/channels"),
                format!("/api/servers/{NOBODY}/channels/{NOBODY}/messages"),
                format!("/api/servers/{server}/channels/{NOBODY}/messages"),
            ];
            for target in &targets {
                assert_problem(&api.get(target).await.unwrap(), 404);
                assert_problem(&api.post_json(target, &body, &[]).await.unwrap(), 404);
            }
            let target = format!("/api/servers/{server}/channels/{NOBODY}/connect?username=ann");
            let upgrade = raw::upgrade_request(api.address(), target.as_bytes(), "");
            assert_problem(&raw::exchange(api.address(), &upgrade).await.unwrap(), 404);
        }
    });
}

/// The front end asks so for its old channel, when another server is chosen.
#[test]
fn a_channel_under_another_server_is_not_found_also_before_the_upgrade() {
    run(60, async {
        let (api, mut channel) = shared_channel().await;
        channel.server = api.create_server("another server").await.unwrap().id;
        for api in shared_apis().await {
            assert_problem(&api.get(&channel.messages()).await.unwrap(), 404);
            let body = json!({ "username": "ann", "message": "x" });
            let posted = api
                .post_json(&channel.messages(), &body, &[])
                .await
                .unwrap();
            assert_problem(&posted, 404);

            let target = format!("{}?username=ann", channel.connect());
            let upgrade = raw::upgrade_request(api.address(), target.as_bytes(), "");
            assert_problem(&raw::exchange(api.address(), &upgrade).await.unwrap(), 404);
            let refused = api.connect(&channel, "ann").await.err().unwrap();
            assert!(
                matches!(refused, ConnectError::Refused { status: 404, .. }),
                "{refused}"
            );
        }
    });
}

#[test]
fn invalid_utf8_in_a_query_is_refused() {
    run(60, async {
        let (api, channel) = shared_channel().await;
        let messages = channel.messages();
        for query in [
            "before=%ff",
            "after=%c0%af",
            "limit=%fe",
            "consistency=stale%ff",
        ] {
            let response = api.get(&format!("{messages}?{query}")).await.unwrap();
            assert_problem(&response, 400);
        }
        for list in [
            "/api/servers",
            &format!("/api/servers/{}/channels", channel.server),
        ] {
            let response = api.get(&format!("{list}?cursor=%ff")).await.unwrap();
            assert_problem(&response, 400);
        }
    });
}

#[test]
fn requests_that_are_cut_off_in_the_middle_harm_nobody() {
    run(60, async {
        let (api, channel) = shared_channel().await;
        let address = api.address();
        let body = r#"{"username":"ann","message":"never finished"}"#;
        let head = format!(
            "POST {} HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/json\r\n",
            channel.messages()
        );
        let whole = format!("{head}Content-Length: {}\r\n\r\n{body}", body.len() + 1);
        let chunked = format!("{head}Transfer-Encoding: chunked\r\n\r\n2d\r\n{body}\r\n");
        for request in [whole.as_bytes(), chunked.as_bytes()] {
            for cut in (1..=request.len()).step_by(23).chain([request.len()]) {
                raw::send_and_vanish(address, &request[..cut])
                    .await
                    .unwrap();
            }
        }
        let connect = format!("{}?username=ann", channel.connect());
        let upgrade = raw::upgrade_request(address, connect.as_bytes(), "");
        for cut in (1..=upgrade.len()).step_by(23).chain([upgrade.len()]) {
            raw::send_and_vanish(address, &upgrade[..cut])
                .await
                .unwrap();
        }

        let posted = api.post(&channel, "ann", "still here").await.unwrap();
        assert_eq!(posted.seq, 1, "none of the halves became a message");
        let all = api
            .read_all(&channel, Consistency::Linearizable)
            .await
            .unwrap();
        assert_eq!(all, [posted]);
    });
}

#[test]
fn sockets_that_vanish_in_the_middle_of_a_frame_harm_nobody() {
    run(60, async {
        let (api, channel) = shared_channel().await;
        let connect = format!("{}?username=ann", channel.connect());
        let mut bytes = raw::upgrade_request(api.address(), connect.as_bytes(), "");
        // A masked text frame of 100 bytes, of which 3 come.
        bytes.extend_from_slice(&[0x81, 0x80 | 100, 1, 2, 3, 4, b'a', b'b', b'c']);
        for _ in 0..20 {
            raw::send_and_vanish(api.address(), &bytes).await.unwrap();
        }
        assert_eq!(
            api.post(&channel, "ann", "still here").await.unwrap().seq,
            1
        );
    });
}

#[test]
fn random_bytes_at_the_api_port_end_the_connection_and_nothing_else() {
    run(120, async {
        let mut rng = Rng::announced("random_bytes_at_the_api_port");
        let cluster = shared().await;
        let (api, channel) = shared_channel().await;
        for length in [1, 16, 256, 4096, 100_000] {
            let mut bytes = rng.bytes(length);
            // The end of a head, so that nobody waits for more of it.
            bytes.extend_from_slice(b"\r\n\r\n");
            let echo = raw::send_and_drain(cluster.api_addr(1), &bytes)
                .await
                .unwrap();
            assert!(
                echo.closed,
                "{length} random bytes left the connection open"
            );
            let answer = String::from_utf8_lossy(&echo.received).into_owned();
            assert!(
                answer.is_empty() || answer.starts_with("HTTP/1.1 4"),
                "{answer}"
            );
        }
        assert!(cluster.is_running(1));
        assert_eq!(
            api.post(&channel, "ann", "still here").await.unwrap().seq,
            1
        );
    });
}
