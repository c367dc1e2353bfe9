//! Stale reads: each client is a session that stays on one node.

use super::Client;
use super::append::{note_head, some_range};
use super::pace::Pace;
use super::rest::Rest;

/// Reads per second of one session.
const READS_PER_SECOND: f64 = 6.0;

pub async fn run(mut client: Client) {
    let mut phase = client.context.phase.clone();
    let mut rest = Rest::new(client.context.clone());
    let node = client.context.nodes[client.index as usize % client.context.nodes.len()];
    let mut heads = vec![0_u64; client.context.channels.len()];
    let share = client.rng.below(1_000) as f64 / 1_000.0;
    let mut pace = Pace::new(READS_PER_SECOND, share, tokio::time::Instant::now());
    while pace.wait(&mut phase).await {
        let channel = client.context.pick_channel(&mut client.rng);
        let range = some_range(&mut client.rng, heads[channel.0 as usize]);
        let outcome = rest.read(node, channel, false, range).await;
        note_head(&mut heads, channel, &outcome);
    }
}
