//! `/api/cluster`: the cluster as this node sees it.

use std::fmt::Write as _;
use std::sync::Arc;

use accord_raft::GroupStatus;
use axum::extract::RawQuery;
use axum::extract::State;
use axum::response::Response;
use serde::Serialize;
use uuid::Uuid;

use super::extract::ChannelId;
use super::json_of;
use super::problem::Problem;
use super::problem::Subject;
use super::query::Query;
use crate::app::App;

#[derive(Debug, Serialize)]
struct Overview<'a> {
    cluster: &'a str,
    node: u64,
    nodes: Vec<NodeView<'a>>,
    groups: Groups,
    directory: Directory,
}

#[derive(Debug, Serialize)]
struct NodeView<'a> {
    id: u64,
    api: Option<&'a str>,
    peer: &'a str,
    zone: Option<&'a str>,
    up: bool,
}

#[derive(Debug, Serialize)]
struct Groups {
    open: usize,
    leading: usize,
}

#[derive(Debug, Serialize)]
struct Directory {
    leader: Option<u64>,
    term: u64,
    applied: u64,
}

#[derive(Debug, Serialize)]
struct ChannelView<'a> {
    channel: Uuid,
    group: u64,
    replicas: &'a [u64],
    leader: Option<u64>,
    term: u64,
    /// Newest seq applied here.
    head: u64,
    /// Last log entry applied here, and the last one here at all.
    applied: u64,
    last: u64,
    /// Of the state and history applied here, in hexadecimal; null unless asked for with
    /// `?hash=true` and a replica is open here. `applied` is then what it covers.
    state_hash: Option<String>,
}

pub async fn overview(State(app): State<Arc<App>>) -> Response {
    let status = app.node.status();
    let api = |id: u64| {
        let node = app.nodes.iter().find(|node| node.id == id);
        node.map(|node| node.api.as_str())
    };
    let nodes = status.members.iter().map(|member| NodeView {
        id: member.member.node,
        api: api(member.member.node),
        peer: &member.member.peer,
        zone: member.member.zone.as_deref(),
        up: member.up,
    });
    let GroupStatus {
        leader,
        term,
        applied,
        last: _,
        last_term: _,
    } = status.directory;
    json_of(&Overview {
        cluster: &status.cluster,
        node: status.node,
        nodes: nodes.collect(),
        groups: Groups {
            open: status.groups_open,
            leading: status.groups_leading,
        },
        directory: Directory {
            leader,
            term,
            applied,
        },
    })
}

pub async fn channel(
    State(app): State<Arc<App>>,
    ChannelId(id): ChannelId,
    RawQuery(query): RawQuery,
) -> Result<Response, Problem> {
    let of_read = |error| Problem::of_read(error, Subject::Channel);
    let channel = app.node.find_channel(id).await.map_err(of_read)?;
    let status = app.node.channel_status(&channel).await.map_err(of_read)?;
    let hash = match Query::parse(query.as_deref())?.flag("hash", false)? {
        true => app.node.state_hash(&channel).await.map_err(of_read)?,
        false => None,
    };
    Ok(json_of(&ChannelView {
        channel: id,
        group: status.channel.group,
        replicas: &status.channel.replicas,
        leader: status.raft.leader,
        term: status.raft.term,
        head: status.head,
        applied: hash.map_or(status.raft.applied, |hash| hash.applied),
        last: status.raft.last,
        state_hash: hash.map(|hash| hex(&hash.hash)),
    }))
}

fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        write!(text, "{byte:02x}").expect("a String takes any text");
    }
    text
}
