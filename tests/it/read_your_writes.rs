//! A read sees every write that was acknowledged before it began, through any
//! node.

use std::time::Duration;

use accord_jepsen::{Api, ChannelRef, Rng, post_until_acknowledged, wait_until};

use crate::support::{SOON, own_cluster, run, shared_apis};

const POSTS: usize = 1000;

#[test]
fn a_thousand_posts_are_each_read_at_once_on_another_node() {
    run(180, async {
        let mut rng = Rng::announced("a_thousand_posts_are_each_read_at_once");
        let apis = shared_apis().await;
        let channel = apis[0].new_channel().await.unwrap();
        for number in 0..POSTS {
            post_and_read(&mut rng, &apis, &channel, number).await;
        }
    });
}

#[test]
fn a_thousand_posts_are_each_read_at_once_while_a_follower_dies_and_returns() {
    run(240, async {
        let mut rng = Rng::announced("a_thousand_posts_are_each_read_at_once_while");
        let cluster = own_cluster(3).await;
        let mut alive = cluster.apis(&cluster.ids());
        let channel = alive[0].new_channel().await.unwrap();
        alive[0].post(&channel, "ann", "the start").await.unwrap();
        let leader = alive[0].leader_of(&channel, SOON).await.unwrap();
        let follower = *rng.pick(&cluster.others(leader));
        let returning = cluster.api(follower);
        for number in 0..POSTS {
            if number == POSTS / 4 {
                alive.retain(|api| api.node() != follower);
                cluster.kill(follower).unwrap();
            }
            if number == POSTS / 2 {
                cluster.start_node(follower).unwrap();
            }
            let is_back = number > POSTS / 2 && alive.len() == 2;
            if is_back && number % 10 == 0 && is_ready(&returning).await {
                alive.push(returning.clone());
            }
            post_and_read(&mut rng, &alive, &channel, number).await;
        }
    });
}

async fn is_ready(api: &Api) -> bool {
    matches!(api.get("/readyz").await, Ok(response) if response.status == 200)
}

/// A post that is acknowledged and then missing fails at once: only a refusal
/// to read is repeated.
async fn post_and_read(rng: &mut Rng, apis: &[Api], channel: &ChannelRef, number: usize) {
    let writer = rng.pick(apis).clone();
    let others: Vec<&Api> = apis
        .iter()
        .filter(|api| api.node() != writer.node())
        .collect();
    let reader = (*rng.pick(&others)).clone();
    let (text, key) = (format!("post {number}"), format!("key-{number}"));
    let deadline = Duration::from_secs(60);
    let posted = post_until_acknowledged(
        std::slice::from_ref(&writer),
        channel,
        "ann",
        &text,
        &key,
        deadline,
    )
    .await
    .unwrap();
    let newest = wait_until("a read", deadline, || async {
        reader
            .messages(channel, "limit=1")
            .await
            .map_err(|error| error.to_string())
    })
    .await
    .unwrap();
    assert_eq!(
        newest,
        [posted],
        "post {number} through node {}, read on node {}",
        writer.node(),
        reader.node()
    );
}
