//! Agents: commands and their replies, over the sockets of real nodes, with a model server that fails
//! as it is told.

mod builtin;
mod failover;
mod failures;
mod later;
mod streaming;

use accord_jepsen::agents::{Endpoint, Script};
use accord_jepsen::{Api, ChannelRef, Cluster, ClusterOptions, Consistency, Message, wait_until};

use crate::support::{SOON, options, started};

/// The built-in agent as the shipped configuration has it.
const BUILTIN: &str = "\n[[agent]]\nname = \"accord\"\nkind = \"builtin\"\n";

/// A cluster of three that knows these agents.
async fn cluster(agents: &str) -> Cluster {
    started(ClusterOptions {
        extra: agents.to_owned(),
        ..options(3)
    })
    .await
}

async fn endpoint() -> Endpoint {
    Endpoint::start(Script::Kind).await.unwrap()
}

/// An agent of this name that asks the endpoint, with short times and four attempts.
fn openai(name: &str, base_url: &str, more: &str) -> String {
    format!(
        "\n[[agent]]\nname = \"{name}\"\nkind = \"openai\"\nbase_url = \"{base_url}\"\nmodel = \"m\"\n\
         attempts_max = 4\nbackoff_ms = 20\nbackoff_max_ms = 200\n{more}\n"
    )
}

/// Waits until the channel holds so many replies, and then returns all of it.
async fn with_replies(api: &Api, channel: &ChannelRef, count: usize) -> Vec<Message> {
    let waiting = wait_until("the replies", SOON, || async {
        let all = api
            .read_all(channel, Consistency::Linearizable)
            .await
            .map_err(|error| error.to_string())?;
        let replies = all.iter().filter(|it| it.agent.is_some()).count();
        match replies >= count {
            true => Ok(all),
            false => Err(format!("{replies} of {count} replies")),
        }
    });
    waiting.await.unwrap()
}

/// The one reply to a command.
#[track_caller]
fn reply_to<'a>(all: &'a [Message], command: &Message) -> &'a Message {
    let mut replies = all
        .iter()
        .filter(|it| it.reply_to.as_deref() == Some(command.id.as_str()));
    let reply = replies.next();
    let reply = reply.unwrap_or_else(|| panic!("no reply to {:?} in {all:#?}", command.message));
    assert!(
        replies.next().is_none(),
        "two replies to {:?}",
        command.message
    );
    assert!(reply.seq > command.seq);
    assert_eq!(reply.agent.as_deref(), Some(reply.username.as_str()));
    reply
}
