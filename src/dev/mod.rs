//! `accord dev`: a local cluster of real processes under one supervisor.
//!
//! The supervisor starts one `accord serve` per node, passes on what they log, and says what becomes
//! of them. It restarts nothing by itself: a node that dies is a thing to look at. On a terminal,
//! keys kill and start nodes.
//!
//! Invariant: no child outlives the supervisor. Each holds a pipe from it as standard input and stops
//! when that ends, however the supervisor ended; on the orderly way each is asked first and killed
//! if it does not go.

pub mod child;
mod keys;
pub mod layout;
pub mod probe;
mod show;

use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Duration;

use tokio::signal::unix::SignalKind;
use tokio::signal::unix::signal;
use tokio::sync::mpsc;
use tokio::time::Instant;

use child::Child;
use keys::Keys;
use layout::Layout;
use show::say;

/// Events that may wait for the supervisor; beyond that the children's logging waits.
const EVENTS_MAX: usize = 1_024;
/// How long the nodes may take to stop; each gives itself five seconds.
const STOP_MAX: Duration = Duration::from_secs(6);

/// Where and how large.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Where the configuration and the nodes' data are kept
    #[arg(long, value_name = "DIR", default_value = "data/dev")]
    pub data_dir: PathBuf,
    /// How many nodes, 1 to 9 [default: 3, or as many as the data directory has]
    #[arg(long, value_name = "COUNT")]
    pub nodes: Option<u16>,
    /// Port for clients of node 1; node 2 has the next one, and so on [default: 8081, or as before]
    #[arg(long, value_name = "PORT")]
    pub api_port: Option<u16>,
    /// Port for the peers of node 1; node 2 has the next one, and so on [default: 9081, or as before]
    #[arg(long, value_name = "PORT")]
    pub peer_port: Option<u16>,
}

/// Why there is no cluster; each is a sentence.
#[derive(Debug, thiserror::Error)]
pub enum DevError {
    #[error("{0}")]
    Layout(#[from] layout::LayoutError),
    #[error("cannot handle signals: {0}")]
    Signals(std::io::Error),
    #[error("cannot start node {node}: {source}")]
    Start { node: u64, source: std::io::Error },
    #[error("all nodes have ended")]
    AllEnded,
}

/// What the supervisor hears of.
#[derive(Debug)]
pub enum Event {
    /// A node logged something.
    Line {
        node: u64,
        text: String,
    },
    /// A node answers `/readyz` with yes.
    Ready {
        node: u64,
    },
    Ended {
        node: u64,
        status: Option<ExitStatus>,
    },
    Key(char),
}

/// Runs a cluster until told to stop.
pub async fn run(options: Options) -> Result<(), DevError> {
    let layout = layout::prepare(&options)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(DevError::Signals)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(DevError::Signals)?;
    let (events, mut heard) = mpsc::channel(EVENTS_MAX);
    let keys = Keys::take(&events);
    let mut supervisor = Supervisor::new(layout, events, keys.is_some());
    supervisor.start_all()?;
    let result = loop {
        let event = tokio::select! {
            biased;
            _ = terminate.recv() => break Ok(()),
            _ = interrupt.recv() => break Ok(()),
            event = heard.recv() => event,
        };
        match event {
            Some(Event::Key('q' | 'Q')) | None => break Ok(()),
            Some(event) => supervisor.hear(event),
        }
        if supervisor.is_lost() {
            break Err(DevError::AllEnded);
        }
    };
    supervisor.stop(&mut heard).await;
    drop(keys);
    result
}

struct Supervisor {
    layout: Layout,
    nodes: Vec<Node>,
    events: mpsc::Sender<Event>,
    has_keys: bool,
    welcomed: bool,
}

/// One node as the supervisor sees it.
struct Node {
    child: Option<Child>,
    ready: bool,
    /// It was asked, or killed on purpose; its end is no news.
    expected_to_end: bool,
}

impl Supervisor {
    fn new(layout: Layout, events: mpsc::Sender<Event>, has_keys: bool) -> Supervisor {
        let nodes = layout.nodes.iter().map(|_| Node {
            child: None,
            ready: false,
            expected_to_end: false,
        });
        Supervisor {
            nodes: nodes.collect(),
            layout,
            events,
            has_keys,
            welcomed: false,
        }
    }

    fn start_all(&mut self) -> Result<(), DevError> {
        say(&show::starting(&self.layout));
        for index in 0..self.nodes.len() {
            let node = self.layout.nodes[index].id;
            self.start(index)
                .map_err(|source| DevError::Start { node, source })?;
        }
        Ok(())
    }

    fn start(&mut self, index: usize) -> std::io::Result<()> {
        let config = &self.layout.nodes[index];
        let child = Child::start(&self.layout.path, config, self.events.clone())?;
        self.nodes[index] = Node {
            child: Some(child),
            ready: false,
            expected_to_end: false,
        };
        Ok(())
    }

    fn hear(&mut self, event: Event) {
        match event {
            Event::Line { node, text } => say(&format!("node {node} | {text}")),
            Event::Ready { node } => self.ready(node),
            Event::Ended { node, status } => self.ended(node, status),
            Event::Key(key) => self.key(key),
        }
    }

    fn ready(&mut self, node: u64) {
        let Some(index) = self.index(node) else {
            return;
        };
        self.nodes[index].ready = true;
        let url = show::url(&self.layout.nodes[index]);
        say(&format!("accord | node {node} is ready at {url}"));
        if !self.welcomed && self.nodes.iter().all(|node| node.ready) {
            self.welcomed = true;
            say(&show::welcome(&self.layout, self.has_keys));
        }
    }

    fn ended(&mut self, node: u64, status: Option<ExitStatus>) {
        let Some(index) = self.index(node) else {
            return;
        };
        let was = &mut self.nodes[index];
        was.child = None;
        was.ready = false;
        let how = status.map_or_else(|| "in an unknown way".to_owned(), |s| s.to_string());
        let again = match self.has_keys {
            true => format!("; press {node} to start it again"),
            false => String::new(),
        };
        match was.expected_to_end {
            true => say(&format!("accord | node {node} is down ({how}){again}")),
            false => say(&format!(
                "accord | node {node} has ended by itself ({how}){again}"
            )),
        }
    }

    fn key(&mut self, key: char) {
        if matches!(key, 's' | 'S') {
            let pids = self.nodes.iter().map(|n| n.child.as_ref().map(Child::pid));
            tokio::spawn(show::state(self.layout.clone(), pids.collect()));
            return;
        }
        let node = key.to_digit(10).map(u64::from);
        let Some(index) = node.and_then(|node| self.index(node)) else {
            return;
        };
        let node = self.layout.nodes[index].id;
        if let Some(child) = &self.nodes[index].child {
            say(&format!("accord | killing node {node} (SIGKILL)"));
            child.kill();
            self.nodes[index].expected_to_end = true;
        } else {
            say(&format!("accord | starting node {node}"));
            if let Err(error) = self.start(index) {
                say(&format!(
                    "accord | node {node} could not be started: {error}"
                ));
            }
        }
    }

    /// Nothing runs any more, and there is nobody who could start it again.
    fn is_lost(&self) -> bool {
        !self.has_keys && self.nodes.iter().all(|node| node.child.is_none())
    }

    async fn stop(&mut self, heard: &mut mpsc::Receiver<Event>) {
        say("accord | stopping");
        for node in &mut self.nodes {
            if let Some(child) = &node.child {
                child.terminate();
                node.expected_to_end = true;
            }
        }
        // Its own keys and its own messages no longer matter, the nodes' do.
        self.has_keys = false;
        let end = Instant::now() + STOP_MAX;
        while !self.is_lost() {
            match tokio::time::timeout_at(end, heard.recv()).await {
                Ok(Some(Event::Key(_))) => {}
                Ok(Some(event)) => self.hear(event),
                Ok(None) | Err(_) => break,
            }
        }
        for (node, config) in self.nodes.iter().zip(&self.layout.nodes) {
            if let Some(child) = &node.child {
                say(&format!(
                    "accord | node {} did not stop; killing it",
                    config.id
                ));
                child.kill();
            }
        }
    }

    fn index(&self, node: u64) -> Option<usize> {
        self.layout.nodes.iter().position(|known| known.id == node)
    }
}
