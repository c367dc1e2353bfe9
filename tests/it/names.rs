//! Names of servers and channels: 3 to 100 characters, counted in code points.

use serde_json::{Value, json};

use crate::support::{assert_problem, run, shared};

#[test]
fn servers_and_channels_are_created_and_answered_with_exactly_their_fields() {
    run(60, async {
        let api = shared().await.api(1);
        let response = api
            .post_json("/api/servers", &json!({ "name": "Reading circle" }), &[])
            .await
            .unwrap();
        assert_eq!(response.status, 200);
        let server: Value = response.json().unwrap();
        let id = server["id"].as_str().unwrap();
        assert_eq!(server, json!({ "id": id, "name": "Reading circle" }));
        assert_uuid_v7(id);

        let target = format!("/api/servers/{id}/channels");
        let response = api
            .post_json(&target, &json!({ "name": "general" }), &[])
            .await
            .unwrap();
        assert_eq!(response.status, 200);
        let channel: Value = response.json().unwrap();
        let channel_id = channel["id"].as_str().unwrap();
        assert_eq!(
            channel,
            json!({ "id": channel_id, "name": "general", "server_id": id })
        );
        assert_uuid_v7(channel_id);

        let listed: Value = api.get(&target).await.unwrap().json().unwrap();
        assert_eq!(listed, json!([channel]));
    });
}

#[test]
fn names_of_3_to_100_code_points_are_taken_and_others_refused() {
    run(60, async {
        let api = shared().await.api(1);
        let server = api.create_server("the server of names").await.unwrap().id;
        let targets = [
            "/api/servers".to_owned(),
            format!("/api/servers/{server}/channels"),
        ];
        for target in &targets {
            // Of 1, 2, 3 and 4 bytes: it is code points that count.
            for character in ["a", "é", "語", "🦀"] {
                for (count, status) in [(0, 400), (2, 400), (3, 200), (100, 200), (101, 400)] {
                    let name = character.repeat(count);
                    let response = api
                        .post_json(target, &json!({ "name": name }), &[])
                        .await
                        .unwrap();
                    if status == 200 {
                        assert_eq!(response.status, 200, "{count} of {character}");
                        let answer: Value = response.json().unwrap();
                        assert_eq!(answer["name"], json!(name));
                    } else {
                        assert_problem(&response, 400);
                    }
                }
            }
        }
    });
}

#[test]
fn a_refused_name_creates_nothing() {
    run(60, async {
        let api = shared().await.api(1);
        let server = api.create_server("an empty server").await.unwrap().id;
        let target = format!("/api/servers/{server}/channels");
        for name in ["", "ab", &"x".repeat(101)] {
            let response = api
                .post_json(&target, &json!({ "name": name }), &[])
                .await
                .unwrap();
            assert_problem(&response, 400);
        }
        assert!(api.channels(&server).await.unwrap().is_empty());
    });
}

#[track_caller]
fn assert_uuid_v7(id: &str) {
    let shape: String = id
        .chars()
        .map(|c| {
            if c.is_ascii_hexdigit() && !c.is_ascii_uppercase() {
                'h'
            } else {
                c
            }
        })
        .collect();
    assert_eq!(shape, "hhhhhhhh-hhhh-hhhh-hhhh-hhhhhhhhhhhh", "{id}");
    assert_eq!(id.as_bytes()[14], b'7', "{id} is no UUID v7");
}
