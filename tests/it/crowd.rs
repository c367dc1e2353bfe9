//! Many clients in one channel see one history.

use std::sync::Arc;

use tokio::sync::Barrier;
use tokio::task::JoinSet;

use accord_jepsen::{Consistency, Kind, Message};

use crate::support::{assert_gapless, run, shared_apis};

const CLIENTS: usize = 50;
const MESSAGES_EACH: usize = 20;
const ALL: usize = CLIENTS * MESSAGES_EACH;

#[test]
fn fifty_clients_over_three_nodes_see_the_same_thousand_messages_in_one_order() {
    run(180, async {
        let apis = shared_apis().await;
        let channel = apis[0].new_channel().await.unwrap();
        let connected = Arc::new(Barrier::new(CLIENTS));
        let mut clients = JoinSet::new();
        for number in 0..CLIENTS {
            let (api, channel) = (apis[number % apis.len()].clone(), channel.clone());
            let connected = Arc::clone(&connected);
            clients.spawn(async move {
                let username = format!("client {number}");
                let mut socket = api.connect(&channel, &username).await.unwrap();
                connected.wait().await;
                for message in 0..MESSAGES_EACH {
                    socket
                        .send_text(&format!("{username}, {message}"))
                        .await
                        .unwrap();
                }
                let (mut acks, mut seen) = (Vec::new(), Vec::new());
                while acks.len() < MESSAGES_EACH || seen.len() < ALL {
                    match socket.frame().await.unwrap().kind {
                        Kind::Ack { message, .. } => acks.push(message),
                        Kind::Message(message) => seen.push(message),
                        other => panic!("{other:?}"),
                    }
                }
                assert_one_senders(&acks, &seen, &username);
                seen
            });
        }
        let histories = clients.join_all().await;
        let read = apis[1]
            .read_all(&channel, Consistency::Linearizable)
            .await
            .unwrap();
        assert_eq!(read.len(), ALL);
        assert_gapless(&read, 1);
        for history in &histories {
            assert_eq!(*history, read);
        }
    });
}

/// What a sender was told is what everybody saw, in the order of its sends.
fn assert_one_senders(acks: &[Message], seen: &[Message], username: &str) {
    let mine: Vec<&Message> = seen
        .iter()
        .filter(|message| message.username == username)
        .collect();
    assert_eq!(acks.iter().collect::<Vec<_>>(), mine);
    for (number, message) in mine.iter().enumerate() {
        assert_eq!(message.message, format!("{username}, {number}"));
    }
}
