//! Clusters of one and of five nodes.

use std::collections::BTreeMap;

use accord_jepsen::{ConnectOptions, Consistency, wait_until};

use crate::support::{SOON, assert_gapless, own_cluster, rich, run};
use crate::writer::{Writer, assert_kept, fill, read_whole, wait_level};

#[test]
fn a_single_node_is_a_cluster_that_keeps_its_promises() {
    run(120, async {
        let cluster = own_cluster(1).await;
        let api = cluster.api(1);
        let channel = api.new_channel().await.unwrap();
        let mut socket = api.connect(&channel, "bea").await.unwrap();
        let posted = fill(std::slice::from_ref(&api), &channel, "ann", 100).await;
        assert_eq!(socket.messages(100).await.unwrap(), posted[..100]);
        let view = api.channel_view(&channel.channel).await.unwrap();
        assert_eq!((view.replicas, view.leader), (vec![1], Some(1)));

        cluster.restart(1).await.unwrap();
        assert_eq!(read_whole(&api, &channel).await, posted);
        let again = api
            .post_keyed(&channel, "ann-0", "ann-0 says 0", "ann-0-0")
            .await
            .unwrap();
        assert_eq!(again, posted[0], "a key is remembered over a restart");
    });
}

#[test]
fn five_nodes_hold_three_replicas_of_each_channel_evenly_and_all_serve_it() {
    run(240, async {
        let cluster = own_cluster(5).await;
        let apis = cluster.apis(&cluster.ids());
        let server = apis[0].create_server("many channels").await.unwrap().id;
        let mut held: BTreeMap<u64, u64> = cluster.ids().into_iter().map(|id| (id, 0)).collect();
        let mut led = held.clone();
        const CHANNELS: usize = 20;
        for number in 0..CHANNELS {
            let name = format!("channel {number}");
            let channel = accord_jepsen::ChannelRef {
                channel: apis[number % 5]
                    .create_channel(&server, &name)
                    .await
                    .unwrap()
                    .id,
                server: server.clone(),
            };
            let view = apis[0].channel_view(&channel.channel).await.unwrap();
            let mut replicas = view.replicas.clone();
            replicas.sort_unstable();
            replicas.dedup();
            assert_eq!(replicas.len(), 3, "{view:?}");
            for node in replicas {
                *held.get_mut(&node).unwrap() += 1;
            }
            // Every node posts and every node reads, replica or not.
            for (posts, api) in apis.iter().enumerate() {
                let posted = api
                    .post(&channel, "ann", &format!("post {posts}"))
                    .await
                    .unwrap();
                assert_eq!(posted.seq, posts as u64 + 1);
                let reader = &apis[(posts + 1 + number) % 5];
                let newest = reader.messages(&channel, "limit=1").await.unwrap();
                assert_eq!(newest, [posted]);
            }
            let leader = apis[0].leader_of(&channel, SOON).await.unwrap();
            *led.get_mut(&leader).unwrap() += 1;
        }
        eprintln!("replicas by node {held:?}, leaders by node {led:?}");
        let (least, most) = (held.values().min().unwrap(), held.values().max().unwrap());
        assert!(most - least <= 1, "{held:?}");
    });
}

#[test]
fn nodes_without_a_replica_serve_a_channel_while_its_replicas_die_one_by_one() {
    run(300, async {
        let cluster = own_cluster(5).await;
        let api = cluster.api(1);
        let channel = api.new_channel().await.unwrap();
        let replicas = api.channel_view(&channel.channel).await.unwrap().replicas;
        let outside: Vec<u64> = cluster
            .ids()
            .into_iter()
            .filter(|id| !replicas.contains(id))
            .collect();
        assert_eq!(outside.len(), 2);
        let outsiders = cluster.apis(&outside);

        let mut plain = outsiders[0].connect(&channel, "bea").await.unwrap();
        let (mut wealthy, head) = rich(&outsiders[1], &channel, "cid").await;
        assert_eq!(head, 0);
        plain.send_text("by an outsider").await.unwrap();
        let first = plain.ack().await.unwrap();
        wealthy.send_rich("n", "by another").await.unwrap();
        let second = wealthy.ack().await.unwrap();
        assert_eq!((first.seq, second.seq), (1, 2));
        let read = outsiders[1]
            .read_all(&channel, Consistency::Linearizable)
            .await
            .unwrap();
        assert_eq!(read, [first, second]);

        let writer = Writer::start(outsiders.clone(), &channel, "ann");
        // Each in turn, so that the leader and every source of a feed is met.
        for replica in &replicas {
            writer.wait_more(30, SOON).await;
            cluster.kill(*replica).unwrap();
            writer.wait_more(60, SOON * 2).await;
            cluster.start_node(*replica).unwrap();
            cluster.wait_ready(*replica).await.unwrap();
        }
        let acked = writer.finish().await;
        let whole = read_whole(&outsiders[0], &channel).await;
        assert_kept(&whole, &acked);
        for socket in [&mut plain, &mut wealthy] {
            let seen = socket.messages(whole.len()).await.unwrap();
            assert_gapless(&seen, 1);
            assert_eq!(seen, whole);
        }
        for replica in &replicas {
            wait_level(&cluster.api(*replica), &channel, &whole).await;
        }
        // A newcomer on a node without a replica gets the whole past as well.
        let options = ConnectOptions::plain("dan").after(0);
        let mut late = outsiders[1].connect_with(&channel, &options).await.unwrap();
        assert_eq!(late.messages(whole.len()).await.unwrap(), whole);
    });
}

#[test]
fn five_nodes_go_on_with_two_of_them_dead() {
    run(240, async {
        let cluster = own_cluster(5).await;
        let api = cluster.api(1);
        let channel = api.new_channel().await.unwrap();
        let replicas = api.channel_view(&channel.channel).await.unwrap().replicas;
        let outside = cluster
            .ids()
            .into_iter()
            .find(|id| !replicas.contains(id))
            .unwrap();
        let dead = [replicas[0], outside];
        for node in dead {
            cluster.kill(node).unwrap();
        }
        let living: Vec<u64> = cluster
            .ids()
            .into_iter()
            .filter(|id| !dead.contains(id))
            .collect();
        let apis = cluster.apis(&living);
        let posted = fill(&apis, &channel, "ann", 60).await;
        for api in &apis {
            assert_eq!(read_whole(api, &channel).await, posted);
        }
        // The directory lives on as well.
        let server = wait_until("a new server", SOON, || async {
            apis[0]
                .create_server("made by three")
                .await
                .map_err(|error| error.to_string())
        })
        .await
        .unwrap();
        assert!(apis[1].servers().await.unwrap().contains(&server));
    });
}
