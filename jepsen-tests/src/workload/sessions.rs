//! Reads only: each client is a session that stays on one node, whatever becomes of that node.
//!
//! Clients that also write are soon all waiting for a node that is cut off, and go elsewhere. These
//! go on asking it, so what it answers while the others move on without it is seen.

use super::Client;
use super::append::{note_head, some_range};
use super::context::NodeAddress;
use super::pace::Pace;
use super::rest::Rest;
use crate::history::ChannelIx;

/// Reads per second of one session.
const READS_PER_SECOND: f64 = 6.0;

/// Stale reads of all channels.
pub async fn stale(mut client: Client) {
    let node = place(&client).0;
    let channel = |client: &mut Client| client.context.pick_channel(&mut client.rng);
    read(&mut client, node, false, channel).await;
}

/// Linearizable reads of one channel. Of several channels, the first whose leader is out of reach
/// would keep the session waiting.
pub async fn linearizable(mut client: Client) {
    let (node, channel) = place(&client);
    read(&mut client, node, true, |_| channel).await;
}

/// The node and the channel of a session: every node has one for the first channel before any has
/// one for the second. The leader of the first channel is the one that faults strike which look for
/// a leader.
fn place(client: &Client) -> (NodeAddress, ChannelIx) {
    let nodes = &client.context.nodes;
    let index = client.index as usize;
    let mut channels = client.context.channel_ixs().cycle();
    let channel = channels.nth(index / nodes.len()).unwrap_or_default();
    (nodes[index % nodes.len()], channel)
}

async fn read(
    client: &mut Client,
    node: NodeAddress,
    linearizable: bool,
    channel_of: impl Fn(&mut Client) -> ChannelIx,
) {
    let mut phase = client.context.phase.clone();
    let mut rest = Rest::new(client.context.clone());
    let mut heads = vec![0_u64; client.context.channels.len()];
    let share = client.rng.below(1_000) as f64 / 1_000.0;
    let mut pace = Pace::new(READS_PER_SECOND, share, tokio::time::Instant::now());
    while pace.wait(&mut phase).await {
        let channel = channel_of(client);
        let range = some_range(&mut client.rng, heads[channel.0 as usize]);
        let outcome = rest.read(node, channel, linearizable, range).await;
        note_head(&mut heads, channel, &outcome);
    }
}
