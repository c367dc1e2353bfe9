//! Commands to an agent: the same key and body, to one node after the other, until acknowledged. All
//! channels get as many.
//!
//! What the agent's server does with a command is its script's business; here only the commands are
//! written. Each client makes its share of the run's commands and is then done.

use std::time::Duration;

use tokio::time::Instant;

use super::Client;
use super::pace::Pace;
use super::rest::{Post, Rest};
use super::retries::until_acknowledged;
use crate::agents::Endpoint;
use crate::client::api::Api;
use crate::client::http::Http;
use crate::history::ChannelIx;
use crate::wait::wait_until;
use crate::workload::context::Context;
use crate::workload::rest::{PAGE_MAX, seen};

/// Clients of this workload.
pub const CLIENTS: u32 = 10;
/// The agent that is called, as the nodes know it.
pub const AGENT: &str = "ask";

/// The nodes' configuration for it. Attempts are short and many, so that faults meet some of them
/// and all commands end soon after the faults.
pub fn agent_section(endpoint: &Endpoint) -> String {
    format!(
        "\n[[agent]]\nname = \"{AGENT}\"\nkind = \"openai\"\nbase_url = \"{}\"\nmodel = \"m\"\n\
         timeout_ms = 2000\nattempts_max = 100\nbackoff_ms = 50\nbackoff_max_ms = 1000\n\
         concurrency = 64\n",
        endpoint.base_url()
    )
}

pub async fn run(mut client: Client) {
    let mut phase = client.context.phase.clone();
    let mut rest = Rest::new(client.context.clone());
    let share = client.rng.below(1_000) as f64 / 1_000.0;
    let mut pace = Pace::new(client.per_second, share, Instant::now());
    let channels = client.context.channels.len() as u64;
    for number in share_of(client.context.commands, client.index) {
        if !pace.wait(&mut phase).await {
            return;
        }
        let post = Post {
            channel: ChannelIx(u32::try_from(number % channels).unwrap_or(0)),
            user: client.name.clone(),
            body: format!("/{AGENT} what is {number}?"),
            key: Some(format!("command-{number}")),
            if_head: None,
        };
        until_acknowledged(&mut client, &mut rest, &post).await;
    }
}

/// The numbers of the commands that a client makes.
fn share_of(commands: u64, index: u32) -> impl Iterator<Item = u64> {
    (u64::from(index)..commands).step_by(CLIENTS as usize)
}

/// Waits until each command of the channel has a reply; where the channel then ends. None if that
/// did not come about.
pub async fn answered(context: &Context, channel: ChannelIx, within: Duration) -> Option<u64> {
    let waiting = wait_until("the agent's replies", within, || async {
        let mut why = "no node answers".to_owned();
        for node in &context.nodes {
            let api = Api::new(Http::new(), node.id, node.api);
            match unanswered(&api, context, channel).await {
                Some((0, head)) => return Ok(head),
                Some((left, _)) => why = format!("{left} commands wait"),
                None => {}
            }
        }
        Err(why)
    });
    waiting.await.ok()
}

/// How many commands have no reply, and where the channel ends.
async fn unanswered(api: &Api, context: &Context, channel: ChannelIx) -> Option<(usize, u64)> {
    let mut log = Vec::new();
    loop {
        let query = format!("after={}&limit={PAGE_MAX}&consistency=stale", log.len());
        let page = api.messages(context.channel(channel), &query).await.ok()?;
        let is_last = page.len() < PAGE_MAX as usize;
        log.extend(page.into_iter().map(seen));
        if is_last {
            break;
        }
    }
    let commands = log.iter().filter(|seen| seen.command().is_some()).count();
    let replies = log.iter().filter(|seen| seen.reply.is_some()).count();
    Some((commands.saturating_sub(replies), log.len() as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_commands_are_made_once() {
        let mut made: Vec<u64> = (0..CLIENTS).flat_map(|it| share_of(33, it)).collect();
        made.sort_unstable();
        assert_eq!(made, (0..33).collect::<Vec<u64>>());
    }
}
