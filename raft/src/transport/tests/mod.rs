//! Transports on loopback sockets in one process.
//!
//! Each ordered pair of nodes talks through a [`Wire`], a relay with a port of its own that can be
//! pointed elsewhere, cut, or made to hold still; so no test guesses a free port or waits for a time
//! to pass.

mod calls;
mod handshakes;
mod links;
mod throughput;
mod wire;

use std::collections::BTreeMap;
use std::io;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::frame::{self, Frame, FrameType, HEADER_BYTES, Header};
use super::hello::{Hello, Message, PREFIX_BYTES, Refusal};
use super::*;
use wire::Wire;

/// No test fails because the machine is slow, unless it is this slow.
const PATIENCE: Duration = Duration::from_secs(60);
/// The deadline of calls that are expected to be answered.
const LONG: Duration = PATIENCE;

/// Kinds of requests that the [`Desk`] knows.
const ECHO: u8 = 1;
const HOLD: u8 = 2;
const DROP: u8 = 3;
const REFUSE: u8 = 4;

const CLUSTER: &str = "accord";
const SETTINGS: &str = "replication=3";

/// A service that writes down what happens to it.
#[derive(Default)]
struct Desk {
    requests: Mutex<Vec<(NodeId, u8, Bytes)>>,
    held: Mutex<Vec<(Bytes, Reply)>>,
    /// Ups and downs, in order.
    transitions: Mutex<Vec<(NodeId, bool)>>,
    unwelcome: Mutex<BTreeMap<NodeId, String>>,
}

impl Service for Desk {
    fn request(&self, from: NodeId, kind: u8, body: Bytes, reply: Reply) {
        locked(&self.requests).push((from, kind, body.clone()));
        match kind {
            ECHO => reply.ok(body),
            HOLD => locked(&self.held).push((body, reply)),
            REFUSE => reply.refuse("not today"),
            _ => drop(reply),
        }
    }

    fn admit(&self, node: NodeId, disk: Disk) -> Result<(), String> {
        assert_eq!(disk, disk_of(node));
        locked(&self.unwelcome)
            .get(&node)
            .map_or(Ok(()), |text| Err(text.clone()))
    }

    fn peer_up(&self, node: NodeId) {
        locked(&self.transitions).push((node, true));
    }

    fn peer_down(&self, node: NodeId) {
        locked(&self.transitions).push((node, false));
    }
}

struct Node {
    transport: Transport,
    desk: Arc<Desk>,
}

impl Node {
    async fn start(config: Config) -> Self {
        let desk = Arc::new(Desk::default());
        let transport = Transport::start(config, Arc::clone(&desk) as Arc<dyn Service>)
            .await
            .unwrap();
        Self { transport, desk }
    }

    fn peer(&self, node: NodeId) -> Peer {
        self.transport.peer(node).unwrap()
    }

    fn transitions(&self) -> Vec<(NodeId, bool)> {
        locked(&self.desk.transitions).clone()
    }

    fn refused(&self, reason: Reason) -> u64 {
        self.transport.stats().refused.of(reason)
    }
}

/// Nodes 1 to n, with the wires between them by (dialler, dialled).
struct Cluster {
    nodes: BTreeMap<NodeId, Node>,
    wires: BTreeMap<(NodeId, NodeId), Wire>,
}

impl Cluster {
    async fn start(count: NodeId) -> Self {
        Self::start_with(count, |_| {}).await
    }

    async fn start_with(count: NodeId, adjust: impl Fn(&mut Config)) -> Self {
        let mut wires = BTreeMap::new();
        for pair in (1..=count)
            .flat_map(|a| (1..=count).map(move |b| (a, b)))
            .filter(|(a, b)| a != b)
        {
            wires.insert(pair, Wire::new().await);
        }
        let mut nodes = BTreeMap::new();
        for node in 1..=count {
            let mut config = config(node, peers_of(node, &wires));
            adjust(&mut config);
            nodes.insert(node, Node::start(config).await);
        }
        for ((_, to), wire) in &wires {
            wire.lead_to(nodes[to].transport.local_addr());
        }
        Self { nodes, wires }
    }

    async fn all_up(&self) {
        for (from, to) in self.wires.keys() {
            until("all links are up", || self.nodes[from].peer(*to).is_up()).await;
        }
    }

    async fn stop(self) {
        for node in self.nodes.values() {
            node.transport.stop().await;
        }
    }
}

/// Node 2, which knows node 1 and cannot reach it: for dials by hand, or in one direction only.
async fn lone_node(adjust: impl Fn(&mut Config)) -> Node {
    let addr = "127.0.0.1:1".to_owned();
    let mut config = config(2, vec![PeerAddress { node: 1, addr }]);
    adjust(&mut config);
    Node::start(config).await
}

/// Two nodes with links in both directions.
async fn pair() -> Cluster {
    let cluster = Cluster::start(2).await;
    cluster.all_up().await;
    cluster
}

/// A link that forgets to wake itself is not saved by its next ping.
fn hardly_any_pings(config: &mut Config) {
    config.timing.ping_every = Duration::from_secs(3_600);
    config.timing.silent_after = Duration::from_secs(3 * 3_600);
}

fn peers_of(node: NodeId, wires: &BTreeMap<(NodeId, NodeId), Wire>) -> Vec<PeerAddress> {
    let outgoing = wires.iter().filter(|((from, _), _)| *from == node);
    outgoing
        .map(|((_, to), wire)| PeerAddress {
            node: *to,
            addr: wire.addr.to_string(),
        })
        .collect()
}

fn config(node: NodeId, peers: Vec<PeerAddress>) -> Config {
    Config {
        cluster: CLUSTER.to_owned(),
        node,
        disk: disk_of(node),
        fingerprint: SETTINGS.to_owned(),
        listen: "127.0.0.1:0".parse().unwrap(),
        peers,
        beat: Beat::new(Instant::now()),
        timing: Timing {
            // Far apart, so that a slow machine is not taken for a dead one.
            ping_every: Duration::from_millis(100),
            silent_after: Duration::from_secs(20),
            redial_min: Duration::from_millis(5),
            redial_max: Duration::from_millis(50),
            handshake_timeout: Duration::from_secs(20),
        },
    }
}

fn disk_of(node: NodeId) -> Disk {
    Disk {
        identity: [u8::try_from(node).unwrap(); 16],
        incarnation: node,
    }
}

async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < PATIENCE, "waited in vain until {what}");
        pause(Duration::from_millis(1)).await;
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "between two looks at a condition, and for measurements; no test relies on a length"
)]
async fn pause(length: Duration) {
    tokio::time::sleep(length).await;
}

fn number(number: u64) -> Bytes {
    Bytes::copy_from_slice(&number.to_le_bytes())
}

/// A dialler made by hand, which can do wrong.
struct Dialler(TcpStream);

impl Dialler {
    async fn connect(addr: SocketAddr) -> Self {
        Self(TcpStream::connect(addr).await.unwrap())
    }

    /// Agreed as node 1 with the node at `addr`, which must be 2.
    async fn agreed(addr: SocketAddr) -> Self {
        let mut dialler = Self::connect(addr).await;
        dialler
            .send(&hello::encode(&Message::Hello(hello_of(1, 2))))
            .await
            .unwrap();
        assert_eq!(
            dialler.receive().await.unwrap(),
            Message::Welcome(hello_of(2, 1))
        );
        dialler.send(&hello::encode(&Message::Ready)).await.unwrap();
        dialler
    }

    async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all(bytes).await
    }

    async fn receive(&mut self) -> io::Result<Message> {
        let mut prefix = [0; PREFIX_BYTES];
        self.0.read_exact(&mut prefix).await?;
        let prefix = hello::decode_prefix(&prefix).map_err(io::Error::other)?;
        let mut body = vec![0; prefix.body_bytes];
        self.0.read_exact(&mut body).await?;
        hello::decode_body(prefix, &body).map_err(io::Error::other)
    }

    /// Resolves when the other end has closed the connection, whatever it said before.
    async fn closed(&mut self) {
        let ended =
            async { while !matches!(self.0.read(&mut [0; 4_096]).await, Ok(0) | Err(_)) {} };
        tokio::time::timeout(PATIENCE, ended)
            .await
            .expect("the connection is closed");
    }
}

fn hello_of(node: NodeId, target: NodeId) -> Hello {
    Hello {
        cluster: CLUSTER.to_owned(),
        node,
        target,
        disk: disk_of(node),
        fingerprint: SETTINGS.to_owned(),
    }
}

fn request(id: u64, kind: u8, body: &[u8]) -> Vec<u8> {
    let header = Header {
        frame_type: FrameType::Request,
        id,
        tag: kind,
    };
    [header.encode(body.len()).as_slice(), body].concat()
}
