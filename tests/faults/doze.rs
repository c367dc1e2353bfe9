//! A node is cut off while the others write to channels that then fall asleep. When the cut ends, its
//! sockets get what they missed although nobody asks for anything, and what missed nothing sleeps on.
//!
//! Packets are dropped where root allows it, and held back by proxies elsewhere: either way nodes
//! notice nothing but silence.

use std::sync::PoisonError;
use std::time::Duration;

use accord_jepsen::world::{World, WorldOptions};
use accord_jepsen::{Api, ChannelRef, RaftOptions, Socket, post_until_acknowledged, wait_until};

use super::{EPISODE_WITHIN, TURN, binary};

/// How long nobody has used a channel when it falls asleep.
const IDLE_MS: u64 = 300;
/// Messages that the node that is cut off does not hear of.
const MISSED: usize = 6;
/// Longer than a node takes to find that another one is silent, and after that to see it again.
const LINKS_WITHIN: Duration = Duration::from_secs(5);
const SOON: Duration = Duration::from_secs(30);

#[test]
fn sleepers_that_were_cut_off_doze_on_or_catch_up() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    let testing = async { tokio::time::timeout(EPISODE_WITHIN, Box::pin(catch_up())).await };
    runtime.block_on(testing).expect("the test ends");
}

async fn catch_up() {
    let options = WorldOptions {
        binary: binary(),
        own_disks: false,
        shim: false,
        raft: RaftOptions {
            idle_ms: Some(IDLE_MS),
            ..RaftOptions::default()
        },
        ..WorldOptions::new(3)
    };
    let world = World::start(options).await.unwrap();
    let cluster = world.cluster();
    let apis = cluster.apis(&cluster.ids());
    let channel = apis[0].new_channel().await.unwrap();
    let mut sockets = Vec::new();
    for api in &apis {
        sockets.push(api.connect(&channel, "listener").await.unwrap());
    }
    say(&apis, &channel, "all").await;
    heard(&mut sockets, "all").await;
    for away in cluster.ids() {
        asleep(&apis).await;
        world.cut_off(away);
        let others = cluster.apis(&cluster.others(away));
        say(&others, &channel, &format!("without {away}")).await;
        asleep(&others).await;
        world.heal().await.unwrap();
        heard(&mut sockets, &format!("without {away}")).await;
    }
    asleep(&apis).await;
    let before = woken(&apis).await;
    for away in cluster.ids() {
        world.cut_off(away);
        sees(&apis, away, false).await;
        world.heal().await.unwrap();
        sees(&apis, away, true).await;
    }
    // Whoever would wake it does so within this.
    tokio::time::sleep_until(tokio::time::Instant::now() + LINKS_WITHIN).await;
    assert_eq!(woken(&apis).await, before, "nothing had happened in it");
}

async fn say(apis: &[Api], channel: &ChannelRef, what: &str) {
    for number in 0..MISSED {
        let (text, key) = (format!("{what} {number}"), format!("{what} {number}"));
        post_until_acknowledged(apis, channel, "ann", &text, &key, SOON)
            .await
            .unwrap();
    }
}

async fn heard(sockets: &mut [Socket], what: &str) {
    for socket in sockets {
        let messages = socket.messages(MISSED).await.unwrap();
        for (number, message) in messages.iter().enumerate() {
            assert_eq!(message.message, format!("{what} {number}"));
        }
    }
}

/// Waits until these nodes keep nothing open but the directory.
async fn asleep(apis: &[Api]) {
    for api in apis {
        wait_until("channels to sleep", SOON, || async {
            match api.cluster().await {
                Ok(view) if view.groups.open <= 1 => Ok(()),
                Ok(view) => Err(format!("{} are open", view.groups.open)),
                Err(error) => Err(error.to_string()),
            }
        })
        .await
        .unwrap();
    }
}

/// Waits until all other nodes see this one, and it sees them, or the contrary.
async fn sees(apis: &[Api], away: u64, up: bool) {
    for api in apis {
        wait_until("links to be lost or made", SOON, || async {
            let view = api.cluster().await.map_err(|error| error.to_string())?;
            let mut across = view.nodes.iter().filter(|node| {
                let is_self = node.id == api.node();
                !is_self && (node.id == away || api.node() == away)
            });
            match across.all(|node| node.up == up) {
                true => Ok(()),
                false => Err(format!("{:?}", view.nodes)),
            }
        })
        .await
        .unwrap();
    }
}

/// How many replicas each node has opened.
async fn woken(apis: &[Api]) -> Vec<String> {
    let mut woken = Vec::new();
    for api in apis {
        let count = api.metric("accord_groups_woken_total").await.unwrap();
        woken.push(count.to_string());
    }
    woken
}
