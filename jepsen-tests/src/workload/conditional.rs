//! Conditional appends: a client reads a channel's head, and posts only if it is still that. Mostly
//! on the quiet channel, where that is sometimes so; on the others it is hardly ever.

use super::append::note_head;
use super::pace::Pace;
use super::rest::{Post, Rest};
use super::{Bodies, Client};
use crate::history::{Outcome, Range};

pub async fn run(mut client: Client) {
    let mut phase = client.context.phase.clone();
    let mut rest = Rest::new(client.context.clone());
    let mut bodies = Bodies::new(&client.name);
    let mut heads = vec![0_u64; client.context.channels.len()];
    let share = client.rng.below(1_000) as f64 / 1_000.0;
    let mut pace = Pace::new(client.per_second, share, tokio::time::Instant::now());
    while pace.wait(&mut phase).await {
        let channel = match client.rng.below(4) {
            0 => client.context.pick_channel(&mut client.rng),
            _ => client.context.quiet_channel(),
        };
        let node = client.context.pick_node(&mut client.rng);
        // One in four goes by what the client knew before, which is mostly no longer so.
        if client.rng.below(4) != 0 {
            let newest = Range::Latest { limit: 1 };
            let outcome = rest.read(node, channel, true, newest).await;
            note_head(&mut heads, channel, &outcome);
            if !matches!(outcome, Outcome::Ok { .. }) {
                continue;
            }
        }
        let post = Post {
            channel,
            user: client.name.clone(),
            body: bodies.next(&mut client.rng),
            key: None,
            if_head: Some(heads[channel.0 as usize]),
        };
        let node = client.context.pick_node(&mut client.rng);
        let outcome = rest.append(node, &post).await;
        note_head(&mut heads, channel, &outcome);
    }
}
