//! Lists of servers and channels, in pages.

use serde_json::Value;

use accord_jepsen::{Channel, Server, link_next};

use crate::support::{assert_problem, run, shared_apis};

#[test]
fn channels_page_by_cursor_and_every_page_is_a_bare_array() {
    run(60, async {
        let [api, second, third] = shared_apis().await;
        let server = api.create_server("seven channels").await.unwrap().id;
        let mut created = Vec::new();
        for number in 1..=7 {
            let name = format!("channel {number}");
            created.push(api.create_channel(&server, &name).await.unwrap());
        }
        let mut met: Vec<Channel> = Vec::new();
        let mut next = Some(format!("/api/servers/{server}/channels?limit=3"));
        let mut sizes = Vec::new();
        // A cursor is good on every node.
        for api in [&second, &third, &api] {
            let Some(target) = next else { break };
            let response = api.get(&target).await.unwrap();
            assert_eq!(response.status, 200, "{}", response.text());
            assert!(response.json::<Value>().unwrap().is_array());
            let page: Vec<Channel> = response.json().unwrap();
            sizes.push(page.len());
            met.extend(page);
            next = link_next(&response);
        }
        assert_eq!(next, None, "the last page links to nothing");
        assert_eq!(sizes, [3, 3, 1]);
        assert_eq!(met, created);
    });
}

#[test]
fn a_list_that_fits_into_one_page_links_to_no_other() {
    run(60, async {
        let [api, ..] = shared_apis().await;
        let server = api.create_server("two channels").await.unwrap().id;
        for name in ["first channel", "second channel"] {
            api.create_channel(&server, name).await.unwrap();
        }
        let target = format!("/api/servers/{server}/channels");
        for query in ["", "?limit=2", "?limit=3"] {
            let response = api.get(&format!("{target}{query}")).await.unwrap();
            assert_eq!(response.json::<Vec<Channel>>().unwrap().len(), 2);
            assert_eq!(link_next(&response), None, "{query}");
        }
    });
}

#[test]
fn servers_page_by_cursor_and_each_is_met_once() {
    run(60, async {
        let [api, second, _] = shared_apis().await;
        let mut mine = Vec::new();
        for number in 1..=5 {
            let name = format!("paged server {number}");
            mine.push(api.create_server(&name).await.unwrap());
        }
        // Other tests create servers meanwhile, in between and after mine.
        let all: Vec<Server> = second.all_pages("/api/servers?limit=2").await.unwrap();
        let met: Vec<Server> = all
            .iter()
            .filter(|server| mine.contains(server))
            .cloned()
            .collect();
        assert_eq!(met, mine, "each once, in the order of creation");
        let mut ids: Vec<&String> = all.iter().map(|server| &server.id).collect();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), all.len());
    });
}

#[test]
fn cursors_and_limits_that_make_no_sense_are_refused() {
    run(60, async {
        let [api, ..] = shared_apis().await;
        let server = api.create_server("a server to list").await.unwrap().id;
        for list in ["/api/servers", &format!("/api/servers/{server}/channels")] {
            for query in [
                "limit=0",
                "limit=x",
                "limit=-3",
                "limit=",
                "cursor=!",
                "cursor=%ff",
            ] {
                let response = api.get(&format!("{list}?{query}")).await.unwrap();
                assert_problem(&response, 400);
            }
        }
    });
}
