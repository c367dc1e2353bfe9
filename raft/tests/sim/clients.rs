//! Clients that write and read through one node, and hand what they saw to the checker.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use accord_raft::Call;
use accord_raft::Channel;
use accord_raft::Consistency;
use accord_raft::Draft;
use accord_raft::Node;
use accord_raft::Range;
use accord_raft::WriteError;
use accord_raft::names::AgentName;
use accord_raft::names::ChannelName;
use accord_raft::names::IdempotencyKey;
use accord_raft::names::MessageBody;
use accord_raft::names::ServerName;
use accord_raft::names::Username;
use accord_storage::sim::random;
use uuid::Uuid;

use crate::check::Acknowledged;
use crate::check::Told;
use crate::world::Common;

/// Between two looks for new channels, and between two reads of one that is watched.
const LOOK_EVERY_MS: u64 = 120;
const LIMIT_MAX: u64 = 30;
/// How far ahead messages are scheduled.
const AHEAD_MS_MAX: u64 = 15_000;
const BODY_BYTES_MAX: usize = 4_096;
/// Requests with one key until the client gives up.
const TRIES_MAX: usize = 3;

/// Writes and reads until the node ends.
pub async fn run(common: Rc<Common>, node: Node, client: u64) {
    loop {
        pause(1 + random() % common.shape.think_ms_max).await;
        if common.is_quiet(node.id()) {
            continue;
        }
        let channels = common.channels.borrow().clone();
        if channels.len() < common.shape.channels {
            if client == 0 {
                create(&common, &node).await;
            }
            continue;
        }
        let Some(channel) = channels.get(below(channels.len())) else {
            continue;
        };
        let kinds = if common.shape.has_agenda { 13 } else { 10 };
        match random() % kinds {
            10 => command(&common, &node, channel).await,
            11 => schedule(&common, &node, channel).await,
            12 => cancel(&common, &node, channel).await,
            0..5 => post(&common, &node, channel, None).await,
            5 => post_with_key(&common, &node, channel).await,
            6 | 7 => head(&common, &node, channel).await,
            8 => messages(&common, &node, channel, Consistency::Linearizable).await,
            _ => messages(&common, &node, channel, Consistency::Stale).await,
        }
    }
}

/// Has the node deliver every channel, as a socket would.
pub async fn listen(common: Rc<Common>, node: Node) {
    let mut attached = Vec::new();
    loop {
        let channels = common.channels.borrow().clone();
        for channel in channels.iter().skip(attached.len()) {
            let Ok(attachment) = node.attach(channel).await else {
                break;
            };
            let told = Told::Attached {
                group: channel.group,
                head: attachment.head,
            };
            common.checker.borrow_mut().told(node.id(), told);
            attached.push(attachment);
        }
        pause(LOOK_EVERY_MS).await;
    }
}

/// Reads what the node itself has of every channel again and again, while it is to be watched.
pub async fn watch(common: Rc<Common>, node: Node) {
    loop {
        pause(LOOK_EVERY_MS).await;
        if !common.is_watched(node.id()) {
            continue;
        }
        let channels = common.channels.borrow().clone();
        for channel in &channels {
            messages(&common, &node, channel, Consistency::Stale).await;
        }
    }
}

async fn create(common: &Common, node: &Node) {
    let name = format!("s{}", random());
    let server = ServerName::parse(name).expect("letters and digits are a name");
    let Ok(server) = node.create_server(server).await else {
        return;
    };
    let name = ChannelName::parse("general").expect("letters are a name");
    let made = node.create_channel(Uuid::from_bytes(server.id), name).await;
    if let Ok(channel) = made {
        common.add_channel(channel);
    }
}

fn draft(key: Option<IdempotencyKey>) -> Draft {
    let bytes = [random().to_le_bytes(), random().to_le_bytes()].concat();
    let id = Uuid::from_slice(&bytes).expect("two numbers have sixteen bytes");
    Draft {
        id,
        username: Username::parse("ann").expect("letters are a name"),
        body: MessageBody::parse("x".repeat(1 + below(200)), BODY_BYTES_MAX).expect("it is short"),
        key,
        expected_head: None,
        reply_to: None,
        call: None,
    }
}

/// Sends one message and tells the checker what it came to. Answers whether that is final.
async fn send(common: &Common, node: &Node, channel: &Arc<Channel>, draft: Draft) -> bool {
    let result = node.submit(channel, draft).await;
    let mut checker = common.checker.borrow_mut();
    match result {
        Ok(position) => {
            checker.acknowledge(Acknowledged {
                group: channel.group,
                seq: position.seq,
                id: position.id.into_bytes(),
                timestamp_ms: position.timestamp_ms,
            });
            true
        }
        Err(WriteError::OutcomeUnknown) => {
            checker.coverage.unknown += 1;
            checker
                .trace
                .note(format_args!("unknown {}", channel.group));
            false
        }
        Err(error) => {
            checker.coverage.refused += 1;
            checker
                .trace
                .note(format_args!("refused {} {error}", channel.group));
            false
        }
    }
}

async fn post(common: &Common, node: &Node, channel: &Arc<Channel>, key: Option<IdempotencyKey>) {
    send(common, node, channel, draft(key)).await;
}

/// Sends a message under a key until it is known to be there. The checker sees it twice in the channel
/// if a try is taken twice, since every try has the same id.
async fn post_with_key(common: &Common, node: &Node, channel: &Arc<Channel>) {
    let key =
        IdempotencyKey::parse(format!("k{}", random())).expect("letters and digits are a key");
    let draft = draft(Some(key));
    for _ in 0..TRIES_MAX {
        if send(common, node, channel, draft.clone()).await {
            return;
        }
    }
}

/// Sends a command, which an agent is to answer.
async fn command(common: &Common, node: &Node, channel: &Arc<Channel>) {
    let draft = Draft {
        call: Some(call()),
        ..draft(None)
    };
    let id = draft.id.into_bytes();
    if send(common, node, channel, draft).await {
        common.checker.borrow_mut().commanded(channel.group, id);
    }
}

fn call() -> Call {
    Call {
        agent: AgentName::parse("ask").expect("letters are a name"),
        attempts_max: 3,
        is_outward: true,
    }
}

/// Schedules a message, under a key or without, that is a command or not.
async fn schedule(common: &Common, node: &Node, channel: &Arc<Channel>) {
    let key =
        IdempotencyKey::parse(format!("s{}", random())).expect("letters and digits are a key");
    let draft = Draft {
        call: random().is_multiple_of(2).then(call),
        ..draft(random().is_multiple_of(2).then_some(key))
    };
    let at_ms = accord_raft::sim::true_ms() + random() % AHEAD_MS_MAX;
    let (id, is_command) = (draft.id.into_bytes(), draft.call.is_some());
    let is_keyed = draft.key.is_some();
    for _ in 0..TRIES_MAX {
        match node.schedule(channel, draft.clone(), at_ms).await {
            Ok(made) => {
                let mut checker = common.checker.borrow_mut();
                if made.id.into_bytes() != id || made.deliver_at_ms != at_ms {
                    checker.violation(format!("{made:?} is the answer to {id:x?} at {at_ms}"));
                }
                checker.scheduled(channel.group, id, at_ms);
                if is_command {
                    checker.commanded(channel.group, id);
                }
                return;
            }
            Err(_) if is_keyed => {}
            Err(_) => return,
        }
    }
}

/// Cancels something that is to come.
async fn cancel(common: &Common, node: &Node, channel: &Arc<Channel>) {
    let pending = common.checker.borrow().pending(channel.group);
    let Some(id) = pending.get(below(pending.len().max(1))).copied() else {
        return;
    };
    // Before it is asked: whether it is in time is not known to us.
    common.checker.borrow_mut().cancelled(channel.group, id);
    let id = Uuid::from_bytes(id);
    match random() % 2 {
        0 => drop(node.cancel_job(channel, id).await),
        _ => drop(node.unschedule(channel, id).await),
    }
}

async fn head(common: &Common, node: &Node, channel: &Arc<Channel>) {
    let floor = common.checker.borrow().floor(channel.group);
    if let Ok(head) = node.head(channel, Consistency::Linearizable).await {
        common.checker.borrow_mut().read(channel.group, floor, head);
    }
}

async fn messages(common: &Common, node: &Node, channel: &Arc<Channel>, consistency: Consistency) {
    let floor = common.checker.borrow().floor(channel.group);
    let limit = usize::try_from(1 + random() % LIMIT_MAX).unwrap_or(1);
    let range = Range::Latest { limit };
    let Ok(found) = node.messages(channel, range, consistency).await else {
        return;
    };
    let mut checker = common.checker.borrow_mut();
    for message in &found.messages {
        checker.shown(channel.group, message.seq, message.id, message.timestamp_ms);
    }
    let gap = found
        .messages
        .windows(2)
        .find(|two| two[0].seq != two[1].seq + 1);
    if let Some(gap) = gap {
        let at = gap[0].seq;
        checker.violation(format!(
            "a page of group {} has a gap below {at}",
            channel.group
        ));
    }
    if consistency == Consistency::Linearizable {
        let newest = found.messages.first().map_or(0, |message| message.seq);
        checker.read(channel.group, floor, newest);
    }
}

fn below(bound: usize) -> usize {
    usize::try_from(random() % bound as u64).unwrap_or(0)
}

#[expect(
    clippy::disallowed_methods,
    reason = "a client thinks for a time that is simulated"
)]
async fn pause(ms: u64) {
    tokio::time::sleep(Duration::from_millis(ms)).await;
}
