//! New servers and channels, each looked for in the lists of other nodes.

use super::Client;
use super::pace::Pace;
use super::rest::Rest;
use crate::history::{Outcome, Value};

/// Things made per second by one client. Each channel is a group of its own that stays open, so a
/// run must not make many.
const MADE_PER_SECOND: f64 = 0.4;
/// One thing in this many is a server.
const SERVER_EVERY: u64 = 3;

pub async fn run(mut client: Client) {
    let mut phase = client.context.phase.clone();
    let mut rest = Rest::new(client.context.clone());
    let mut servers: Vec<String> = Vec::new();
    let mut made = 0_u32;
    let share = client.rng.below(1_000) as f64 / 1_000.0;
    let mut pace = Pace::new(MADE_PER_SECOND, share, tokio::time::Instant::now());
    while pace.wait(&mut phase).await {
        made += 1;
        let name = format!("{} {made}", client.name);
        let node = client.context.pick_node(&mut client.rng);
        let elsewhere = client.context.pick_other(&mut client.rng, node.id);
        if servers.is_empty() || client.rng.below(SERVER_EVERY) == 0 {
            let outcome = rest.create_server(node, &name).await;
            if let Outcome::Ok {
                value: Value::Created(id),
            } = outcome
            {
                servers.push(id);
            }
            rest.list_servers(elsewhere).await;
        } else {
            let server = client.rng.pick(&servers).clone();
            rest.create_channel(node, &server, &name).await;
            rest.list_channels(elsewhere, &server).await;
        }
    }
}
