//! `before`, `after` and `limit` of messages.

use accord_jepsen::{Api, ChannelRef, Message};

use crate::support::{assert_gapless, assert_problem, run, shared_apis, shared_channel};

/// A channel with this many messages, each numbered like its seq.
async fn filled(api: &Api, count: usize) -> ChannelRef {
    let channel = api.new_channel().await.unwrap();
    let mut socket = api.connect(&channel, "ann").await.unwrap();
    for batch in (1..=count).collect::<Vec<_>>().chunks(50) {
        for number in batch {
            socket
                .send_text(&format!("message {number}"))
                .await
                .unwrap();
        }
        for _ in batch {
            socket.ack().await.unwrap();
        }
    }
    channel
}

fn seqs(messages: &[Message]) -> Vec<u64> {
    messages.iter().map(|message| message.seq).collect()
}

#[test]
fn messages_come_newest_first_and_50_at_a_time() {
    run(60, async {
        let [api, second, third] = shared_apis().await;
        let channel = filled(&api, 60).await;
        for api in [&api, &second, &third] {
            let page = api.messages(&channel, "").await.unwrap();
            assert_eq!(seqs(&page), (11..=60).rev().collect::<Vec<_>>());
            assert_eq!(page[0].message, "message 60");
        }
    });
}

#[test]
fn before_pages_towards_the_past() {
    run(60, async {
        let [api, ..] = shared_apis().await;
        let channel = filled(&api, 60).await;
        let page = api.messages(&channel, "before=11&limit=4").await.unwrap();
        assert_eq!(seqs(&page), [10, 9, 8, 7]);
        let page = api.messages(&channel, "before=3").await.unwrap();
        assert_eq!(seqs(&page), [2, 1]);
        assert!(api.messages(&channel, "before=1").await.unwrap().is_empty());
        let page = api.messages(&channel, "before=1000000").await.unwrap();
        assert_eq!((page.len(), page[0].seq), (50, 60));
    });
}

#[test]
fn after_answers_oldest_first() {
    run(60, async {
        let [api, ..] = shared_apis().await;
        let channel = filled(&api, 60).await;
        let page = api.messages(&channel, "after=0").await.unwrap();
        assert_eq!(seqs(&page), (1..=50).collect::<Vec<_>>());
        let page = api.messages(&channel, "after=10&limit=3").await.unwrap();
        assert_eq!(seqs(&page), [11, 12, 13]);
        let page = api.messages(&channel, "after=58").await.unwrap();
        assert_eq!(seqs(&page), [59, 60]);
        for nothing in ["after=60", "after=18446744073709551615"] {
            assert!(api.messages(&channel, nothing).await.unwrap().is_empty());
        }
    });
}

#[test]
fn a_limit_is_between_1_and_1000() {
    run(60, async {
        let [api, ..] = shared_apis().await;
        let channel = filled(&api, 60).await;
        let page = api.messages(&channel, "limit=1").await.unwrap();
        assert_eq!(seqs(&page), [60]);
        let page = api.messages(&channel, "limit=1000").await.unwrap();
        assert_eq!(page.len(), 60);
        for query in [
            "limit=0",
            "limit=1001",
            "limit=-1",
            "limit=x",
            "limit=",
            "limit=1e2",
        ] {
            let response = api
                .get(&format!("{}?{query}", channel.messages()))
                .await
                .unwrap();
            assert_problem(&response, 400);
        }
    });
}

#[test]
fn positions_that_are_no_numbers_are_refused() {
    run(60, async {
        let (api, channel) = shared_channel().await;
        let bad = [
            "x",
            "-1",
            "1.0",
            "0x10",
            "18446744073709551616",
            "",
            "%20",
            "1%00",
        ];
        for name in ["before", "after"] {
            for value in bad {
                let target = format!("{}?{name}={value}", channel.messages());
                assert_problem(&api.get(&target).await.unwrap(), 400);
            }
        }
    });
}

#[test]
fn a_page_of_1000_holds_1000_and_paging_meets_every_message_once() {
    run(120, async {
        let [api, second, third] = shared_apis().await;
        let channel = filled(&api, 1_230).await;
        let page = api.messages(&channel, "after=0&limit=1000").await.unwrap();
        assert_eq!(page.len(), 1000);
        assert_gapless(&page, 1);

        // Backwards in pages of 111, each through another node.
        let mut before = String::new();
        let mut met = Vec::new();
        for api in [&api, &second, &third].into_iter().cycle() {
            let page = api
                .messages(&channel, &format!("limit=111{before}"))
                .await
                .unwrap();
            let Some(last) = page.last() else { break };
            before = format!("&before={}", last.seq);
            met.extend(page);
        }
        met.reverse();
        assert_eq!(met.len(), 1_230);
        assert_gapless(&met, 1);
        for message in &met {
            assert_eq!(message.message, format!("message {}", message.seq));
        }
    });
}

#[test]
fn a_channel_without_messages_answers_an_empty_list() {
    run(60, async {
        let (api, channel) = shared_channel().await;
        for query in ["", "after=0", "before=5", "after=7&limit=3"] {
            assert!(api.messages(&channel, query).await.unwrap().is_empty());
        }
    });
}
