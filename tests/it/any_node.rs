//! Any node serves any request.

use accord_jepsen::Consistency;

use crate::support::{run, shared_apis};

#[test]
fn what_is_created_on_one_node_is_at_once_listed_and_connected_to_on_the_others() {
    run(60, async {
        let apis = shared_apis().await;
        for turn in 0..9 {
            let [first, second, third] = [0, 1, 2].map(|offset| &apis[(turn + offset) % 3]);
            let server = first.create_server("made on one node").await.unwrap();
            let servers = second.servers().await.unwrap();
            assert!(servers.contains(&server), "turn {turn}");

            let channel = second
                .create_channel(&server.id, "made on another")
                .await
                .unwrap();
            assert_eq!(
                third.channels(&server.id).await.unwrap(),
                std::slice::from_ref(&channel)
            );
            assert_eq!(
                first.channels(&server.id).await.unwrap(),
                std::slice::from_ref(&channel)
            );

            let channel = accord_jepsen::ChannelRef {
                server: server.id,
                channel: channel.id,
            };
            let mut socket = third.connect(&channel, "ann").await.unwrap();
            let posted = first.post(&channel, "bea", "hello").await.unwrap();
            assert_eq!(socket.message().await.unwrap(), posted);
            let read = second
                .read_all(&channel, Consistency::Linearizable)
                .await
                .unwrap();
            assert_eq!(read, [posted]);
        }
    });
}
