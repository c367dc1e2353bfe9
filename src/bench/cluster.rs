//! The cluster that is measured: one that runs already, or one of our own, on free ports, whose data
//! is gone afterwards.

use std::collections::VecDeque;
use std::io;
use std::net::TcpListener;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;

use rustix::process::Pid;
use rustix::process::Signal;
use rustix::process::kill_process;
use serde::Deserialize;
use tokio::sync::mpsc;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio::time::timeout_at;

use super::BenchError;
use super::plan::Room;
use super::progress::note;
use super::workload::Crew;
use crate::dev;
use crate::dev::Event;
use crate::dev::child::Child;
use crate::dev::layout;
use crate::dev::layout::Layout;
use crate::dev::probe;

const NODES: u16 = 3;
/// How long nodes may take to be ready, and to stop.
const READY_MAX: Duration = Duration::from_secs(60);
const STOP_MAX: Duration = Duration::from_secs(6);
/// Between two looks at what cannot be waited for.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// Events that may wait; beyond that the nodes' logging does.
const EVENTS_MAX: usize = 1_024;
/// Lines of each node that are kept to be shown if it dies.
const LINES_KEPT: usize = 20;
/// Where ports are looked for: below those that the system gives to connections.
const PORTS: std::ops::Range<u16> = 20_000..32_000;
/// Between two places to look, with room for the ports of all nodes.
const PORTS_STEP: u16 = 16;

pub struct Cluster {
    /// Addresses of the API.
    pub nodes: Vec<String>,
    /// Their processes, as far as they are known.
    pub pids: Vec<u32>,
    own: Option<Own>,
}

/// What there is more of a cluster of our own.
struct Own {
    layout: Layout,
    children: Vec<Child>,
    /// How often each was started.
    starts: Vec<u32>,
    events: mpsc::Sender<Event>,
    states: watch::Receiver<Vec<NodeState>>,
}

/// What was heard of a node.
#[derive(Clone, Debug, Default)]
struct NodeState {
    /// Counted, since a node is started again.
    ready: u32,
    ended: u32,
    lines: VecDeque<String>,
}

#[derive(Debug, Deserialize)]
struct Made {
    id: String,
}

#[derive(Debug, Deserialize)]
struct ChannelView {
    leader: Option<u64>,
}

#[derive(Debug, Deserialize)]
struct Overview {
    nodes: Vec<Member>,
}

#[derive(Debug, Deserialize)]
struct Member {
    up: bool,
}

impl Cluster {
    /// One that somebody else runs.
    pub fn running(urls: &[String], pids: &[u32]) -> Result<Cluster, BenchError> {
        let address = |url: &String| {
            let address = url
                .strip_prefix("http://")
                .map(|rest| rest.trim_end_matches('/'));
            let address = address.filter(|address| !address.contains('/'));
            address
                .map(str::to_owned)
                .ok_or(BenchError::Url(url.clone()))
        };
        Ok(Cluster {
            nodes: urls.iter().map(address).collect::<Result<_, _>>()?,
            pids: pids.to_owned(),
            own: None,
        })
    }

    /// Starts one whose data lies in a new directory under `dir`, and waits until it is ready.
    pub async fn start(dir: &Path) -> Result<Cluster, BenchError> {
        let first = free_ports().ok_or(BenchError::Ports)?;
        let dir = new_directory(dir)?;
        let layout = layout::prepare(&dev::Options {
            data_dir: dir,
            nodes: Some(NODES),
            api_port: Some(first),
            peer_port: Some(first + NODES),
        })?;
        let (events, heard) = mpsc::channel(EVENTS_MAX);
        let nodes = layout.nodes.len();
        let (told, states) = watch::channel(vec![NodeState::default(); nodes]);
        tokio::spawn(listen(heard, told));
        let mut cluster = Cluster {
            nodes: layout.nodes.iter().map(|node| node.api.clone()).collect(),
            pids: Vec::new(),
            own: Some(Own {
                layout,
                children: Vec::new(),
                starts: vec![0; nodes],
                events,
                states,
            }),
        };
        let started = cluster.start_all().await;
        match started {
            Ok(()) => Ok(cluster),
            Err(error) => {
                cluster.stop().await;
                Err(error)
            }
        }
    }

    pub fn data_dir(&self) -> Option<&Path> {
        self.own.as_ref().map(|own| own.layout.dir.as_path())
    }

    /// Makes the channels of a crew, all in one server.
    pub async fn rooms(&self, crew: &Crew, index: usize) -> Result<Vec<Room>, BenchError> {
        let server = self.post(0, "/api/servers", "bench").await?;
        let channels = format!("/api/servers/{}/channels", server.id);
        let mut rooms = Vec::with_capacity(crew.channels);
        for channel in 0..crew.channels {
            let made = self.post(channel, &channels, "bench").await?;
            rooms.push(Room {
                path: format!("{channels}/{}", made.id),
                crew: index,
            });
        }
        Ok(rooms)
    }

    async fn post(&self, index: usize, path: &str, name: &str) -> Result<Made, BenchError> {
        let node = &self.nodes[index % self.nodes.len()];
        let body = format!("{{\"name\":\"{name}\"}}");
        let fail = |why: String| BenchError::Request {
            node: node.clone(),
            path: path.to_owned(),
            why,
        };
        let answer = probe::post(node, path, &body).await;
        let (status, text) = answer.map_err(|error| fail(error.to_string()))?;
        if !(200..300).contains(&status) {
            return Err(fail(format!("{status} {text}")));
        }
        serde_json::from_str(&text).map_err(|error| fail(error.to_string()))
    }

    /// Who leads the channel of a room, as an index, asked until somebody knows.
    pub async fn leader(&self, room: &Room) -> Result<usize, BenchError> {
        let id = room.path.rsplit('/').next().unwrap_or_default();
        let path = format!("/api/cluster/channels/{id}");
        let end = Instant::now() + READY_MAX;
        while Instant::now() < end {
            for node in &self.nodes {
                let answer = probe::get(node, &path).await.ok();
                let view = answer.and_then(|(_, text)| serde_json::from_str(&text).ok());
                if let Some(ChannelView {
                    leader: Some(leader),
                }) = view
                {
                    return self.index(leader);
                }
            }
            look_again().await;
        }
        Err(BenchError::NoLeader)
    }

    fn index(&self, node: u64) -> Result<usize, BenchError> {
        let own = self.own.as_ref().ok_or(BenchError::NotOwn)?;
        let nodes = own.layout.nodes.iter();
        let index = nodes.map(|node| node.id).position(|id| id == node);
        index.ok_or(BenchError::NoLeader)
    }

    /// Starts a node that was killed, and waits until all nodes see each other.
    pub async fn restart(&mut self, index: usize) -> Result<(), BenchError> {
        let own = self.own.as_mut().ok_or(BenchError::NotOwn)?;
        let starts = own.starts[index];
        own.wait(index, "to be gone", |state| state.ended >= starts)
            .await?;
        let readies = own.states.borrow()[index].ready;
        own.start(index)?;
        self.pids = own.children.iter().map(Child::pid).collect();
        own.wait(index, "to be ready", |state| state.ready > readies)
            .await?;
        self.wait_whole().await
    }

    async fn wait_whole(&self) -> Result<(), BenchError> {
        let end = Instant::now() + READY_MAX;
        while Instant::now() < end {
            let mut whole = true;
            for node in &self.nodes {
                let answer = probe::get(node, "/api/cluster").await.ok();
                let view =
                    answer.and_then(|(_, text)| serde_json::from_str::<Overview>(&text).ok());
                whole &= view.is_some_and(|view| view.nodes.iter().all(|node| node.up));
            }
            if whole {
                return Ok(());
            }
            look_again().await;
        }
        Err(BenchError::NotWhole)
    }

    /// Ends the nodes of a cluster of our own and removes its data.
    pub async fn stop(&mut self) {
        let Some(own) = self.own.take() else {
            return;
        };
        for child in &own.children {
            child.terminate();
        }
        let starts = own.starts.iter().sum::<u32>();
        let mut states = own.states.clone();
        let ended =
            |states: &Vec<NodeState>| states.iter().map(|state| state.ended).sum::<u32>() >= starts;
        // One that does not go is killed when `own` is dropped.
        let _ = timeout_at(Instant::now() + STOP_MAX, states.wait_for(ended)).await;
    }

    async fn start_all(&mut self) -> Result<(), BenchError> {
        let own = self.own.as_mut().ok_or(BenchError::NotOwn)?;
        for index in 0..own.layout.nodes.len() {
            own.start(index)?;
        }
        self.pids = own.children.iter().map(Child::pid).collect();
        for index in 0..own.layout.nodes.len() {
            own.wait(index, "to be ready", |state| state.ready > 0)
                .await?;
        }
        self.wait_whole().await
    }
}

impl Own {
    fn start(&mut self, index: usize) -> Result<(), BenchError> {
        let node = &self.layout.nodes[index];
        let child = Child::start(&self.layout.path, node, self.events.clone());
        let child = child.map_err(BenchError::Start)?;
        match self.children.get_mut(index) {
            Some(before) => *before = child,
            None => self.children.push(child),
        }
        self.starts[index] += 1;
        Ok(())
    }

    /// What a node said last is part of the error.
    async fn wait(
        &self,
        index: usize,
        what: &'static str,
        reached: impl Fn(&NodeState) -> bool,
    ) -> Result<(), BenchError> {
        let mut states = self.states.clone();
        let there = states.wait_for(|states| reached(&states[index]));
        let end = Instant::now() + READY_MAX;
        if let Ok(Ok(_)) = timeout_at(end, there).await {
            return Ok(());
        }
        let lines = self.states.borrow()[index].lines.clone();
        Err(BenchError::Node {
            node: self.layout.nodes[index].id,
            what,
            lines: lines.into_iter().collect::<Vec<_>>().join("\n"),
        })
    }
}

/// However it ends: no node and no data is left behind.
impl Drop for Own {
    fn drop(&mut self) {
        let states = self.states.borrow();
        for (index, child) in self.children.iter().enumerate() {
            // One that has ended may have given its id to somebody else.
            if states[index].ended < self.starts[index] {
                let _ = kill(child.pid());
            }
        }
        /// A node that is being killed may still make a file.
        const ATTEMPTS: u32 = 100;
        let removed = (0..ATTEMPTS).any(|_| std::fs::remove_dir_all(&self.layout.dir).is_ok());
        if !removed {
            note(&format!("cannot remove {}", self.layout.dir.display()));
        }
    }
}

/// As a crash would. The supervisor hears of it and reaps the process, so the id is still its own.
pub fn kill(pid: u32) -> io::Result<()> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    let pid = pid.ok_or_else(|| io::Error::other("no process id"))?;
    Ok(kill_process(pid, Signal::KILL)?)
}

async fn listen(mut heard: mpsc::Receiver<Event>, told: watch::Sender<Vec<NodeState>>) {
    while let Some(event) = heard.recv().await {
        told.send_modify(|states| {
            let node = match &event {
                Event::Line { node, .. } | Event::Ready { node } | Event::Ended { node, .. } => {
                    *node
                }
                Event::Key(_) => return,
            };
            // Nodes of a layout are counted from 1.
            let index = usize::try_from(node).ok().and_then(|id| id.checked_sub(1));
            let Some(state) = index.and_then(|index| states.get_mut(index)) else {
                return;
            };
            match event {
                Event::Ready { .. } => state.ready += 1,
                Event::Ended { .. } => state.ended += 1,
                Event::Line { text, .. } => {
                    if state.lines.len() == LINES_KEPT {
                        state.lines.pop_front();
                    }
                    state.lines.push_back(text);
                }
                Event::Key(_) => {}
            }
        });
    }
}

async fn look_again() {
    #[expect(
        clippy::disallowed_methods,
        reason = "another process is asked until it has got there"
    )]
    tokio::time::sleep(LOOK_EVERY).await;
}

/// The first of as many free ports in a row as all nodes need. Two runs begin to look at different
/// places; if one still takes a port of the other, its node says so and the run ends.
fn free_ports() -> Option<u16> {
    let places = (PORTS.end - PORTS.start) / PORTS_STEP;
    let begin = (std::process::id() % u32::from(places)) as u16;
    let candidates = (0..places).map(|step| PORTS.start + (begin + step) % places * PORTS_STEP);
    let is_free = |first: &u16| {
        (*first..*first + 2 * NODES).all(|port| TcpListener::bind(("127.0.0.1", port)).is_ok())
    };
    candidates.into_iter().find(is_free)
}

fn new_directory(under: &Path) -> Result<PathBuf, BenchError> {
    let path = under.join(format!("accord-bench-{}", std::process::id()));
    let made = std::fs::create_dir_all(under).and_then(|()| std::fs::create_dir(&path));
    match made {
        Ok(()) => Ok(path),
        Err(source) => Err(BenchError::Directory { path, source }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_taken_from_urls() {
        let urls = ["http://127.0.0.1:8081".to_owned(), "http://b:1/".to_owned()];
        let cluster = Cluster::running(&urls, &[7]).unwrap();
        assert_eq!(cluster.nodes, ["127.0.0.1:8081", "b:1"]);
        assert_eq!(cluster.data_dir(), None);
        for wrong in ["https://a:1", "http://a:1/api", "a:1"] {
            assert!(
                Cluster::running(&[wrong.to_owned()], &[]).is_err(),
                "{wrong}"
            );
        }
    }

    #[test]
    fn ports_are_free_and_hold_all_nodes() {
        let first = free_ports().unwrap();
        assert!(PORTS.contains(&first) && PORTS.contains(&(first + 2 * NODES)));
    }
}
