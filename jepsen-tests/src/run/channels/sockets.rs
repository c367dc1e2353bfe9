//! Sockets on sleeping channels: what one costs, and how soon a message reaches it.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream;
use rustix::process::{Resource, getrlimit};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio::time::Instant;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message as WsMessage;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;

use super::bench::Bench;
use super::catalogue::Catalogue;
use super::figures::{Outcomes, Sleep, Sockets};
use super::picks::Picks;
use super::prepare::{body, text};
use super::schedule::IN_FLIGHT_MAX;
use super::spread::Spread;
use super::wake::{Post, fire, outcomes};
use super::{BenchError, Settings};
use crate::run::Say;
use crate::{Frame, Kind, Rng};

/// Handshakes at a time.
const AT_ONCE: usize = 100;
const HANDSHAKE_WITHIN: Duration = Duration::from_secs(15);
/// Ten thousand sockets of this program share its memory with the nodes.
const BUFFER_BYTES: usize = 2 << 10;
/// Connections from one address to one node; Linux has 28,000 ports for them.
const PORTS_PER_ADDRESS: u64 = 20_000;
/// Messages to sockets, and how many each second.
const PROBES: u64 = 300;
const PROBES_PER_S: f64 = 20.0;
/// After the last post was answered, for its message to arrive.
const RECEIPT_WITHIN: Duration = Duration::from_secs(15);
/// Arrivals that nobody has looked at yet; more than there are probes.
const ARRIVALS_MAX: usize = 1_024;
/// Files that are open besides sockets: connections of posts, logs, libraries.
const OTHER_FILES: u64 = IN_FLIGHT_MAX as u64 + 200;
/// Files that a node has open besides sockets: the connections that it takes, and its store.
const NODE_FILES: u64 = 4_096 + 1_000;
/// How a probe's text begins; its number follows.
const PROBE: &str = "probe ";

/// Refuses what the limit of open files will not bear, before anything is made.
pub fn check_open_files(sockets: u64, nodes: u64) -> Result<(), BenchError> {
    let limit = getrlimit(Resource::Nofile);
    let (soft, hard) = (limit.current, limit.maximum);
    let unlimited = |limit: Option<u64>| limit.unwrap_or(u64::MAX);
    let ours = sockets + OTHER_FILES;
    // A node raises its own soft limit to the hard one.
    let of_a_node = sockets / nodes + NODE_FILES;
    let why = too_few_files(ours, of_a_node, unlimited(soft), unlimited(hard));
    why.map_or(Ok(()), |why| Err(BenchError::Unfit(why)))
}

fn too_few_files(ours: u64, nodes: u64, soft: u64, hard: u64) -> Option<String> {
    let most = ours.max(nodes);
    if most > hard {
        return Some(format!(
            "so many sockets need {most} open files, and the hard limit is {hard}: raise it as root \
             (ulimit -Hn {most}; ulimit -n {most}), or ask for fewer --sockets"
        ));
    }
    (ours > soft).then(|| {
        format!(
            "so many sockets need {ours} open files, and the limit is {soft}: run `ulimit -n {ours}` \
             in this shell first, or ask for fewer --sockets"
        )
    })
}

/// A socket that is attached.
struct Seat {
    channel: u64,
    /// The place of its node among the nodes.
    node: usize,
}

struct Arrival {
    probe: u64,
    at: Instant,
}

/// All sockets; they close when this goes.
struct Crowd {
    seats: Vec<Seat>,
    reading: Vec<AbortHandle>,
    arrivals: mpsc::Receiver<Arrival>,
    errors: BTreeMap<String, u64>,
    error_first: Option<String>,
}

impl Drop for Crowd {
    fn drop(&mut self) {
        self.reading.iter().for_each(AbortHandle::abort);
    }
}

pub async fn sockets(
    bench: &Bench,
    catalogue: &Catalogue,
    settings: &Settings,
    sleep_before: Sleep,
    picks: &mut Picks,
    rng: &mut Rng,
    say: Say<'_>,
) -> Result<Sockets, BenchError> {
    let chosen = picks.take(settings.sockets);
    let asked = chosen.len() as u64;
    let before: u64 = bench.resident_bytes()?.into_iter().sum();
    let started = Instant::now();
    let mut crowd = attach(bench, catalogue, &chosen).await;
    let attach_seconds = started.elapsed().as_secs_f64();
    let attached = crowd.seats.len() as u64;
    say(&format!(
        "sockets: {attached} of {asked} attached in {attach_seconds:.1} s"
    ));
    let sleep_after = bench.sleep(0, say).await?;
    let after: u64 = bench.resident_bytes()?.into_iter().sum();
    let bytes_per_socket = (after as f64 - before as f64) / attached.max(1) as f64;
    say(&format!("sockets: {bytes_per_socket:.0} bytes each"));

    let (posts, receipts) = probe(bench, catalogue, &mut crowd, settings, rng).await?;
    let receipt = Spread::of(receipts);
    say(&format!(
        "sockets: {} of {} messages arrived, p50 {:.1} ms, p99 {:.1} ms",
        receipt.count, posts.acknowledged, receipt.p50_ms, receipt.p99_ms
    ));
    let ended = crowd
        .reading
        .iter()
        .filter(|task| task.is_finished())
        .count();
    Ok(Sockets {
        asked,
        attached,
        errors: std::mem::take(&mut crowd.errors),
        error_first: crowd.error_first.take(),
        attach_seconds,
        sleep_before,
        sleep_after,
        bytes_per_socket,
        posts,
        received: receipt.count,
        receipt,
        ended: ended as u64,
    })
}

/// One socket per channel, spread over the nodes.
async fn attach(bench: &Bench, catalogue: &Catalogue, channels: &[u64]) -> Crowd {
    let (sender, arrivals) = mpsc::channel(ARRIVALS_MAX);
    let ids = bench.ids();
    let opened: Vec<_> = stream::iter(channels.iter().enumerate())
        .map(|(place, channel)| {
            let node = place % ids.len();
            let address = bench.cluster().api_addr(ids[node]);
            let block = (place / ids.len()) as u64 / PORTS_PER_ADDRESS;
            let target = format!("{}?username=sleeper", catalogue.channel(*channel).connect());
            async move {
                let opening = Box::pin(open(address, source(node, block), &target));
                let opened = tokio::time::timeout(HANDSHAKE_WITHIN, opening).await;
                let opened = opened.unwrap_or_else(|_| Err("late".to_owned()));
                opened.map(|socket| {
                    (
                        Seat {
                            channel: *channel,
                            node,
                        },
                        socket,
                    )
                })
            }
        })
        .buffer_unordered(AT_ONCE)
        .collect()
        .await;
    let mut crowd = Crowd {
        seats: Vec::new(),
        reading: Vec::new(),
        arrivals,
        errors: BTreeMap::new(),
        error_first: None,
    };
    for opened in opened {
        match opened {
            Ok((seat, socket)) => {
                let reading = tokio::spawn(read(socket, sender.clone()));
                crowd.reading.push(reading.abort_handle());
                crowd.seats.push(seat);
            }
            Err(why) => {
                crowd.error_first.get_or_insert_with(|| why.clone());
                *crowd.errors.entry(why).or_default() += 1;
            }
        }
    }
    crowd
}

/// The address from which a socket connects. The system chooses for the first ones; when their
/// ports may run out it takes others of loopback, of which each node and block has one.
fn source(node: usize, block: u64) -> Option<Ipv4Addr> {
    let third = u8::try_from(node + 1).ok()?;
    let fourth = u8::try_from(block + 1).ok()?;
    (block > 0).then(|| Ipv4Addr::new(127, 1, third, fourth))
}

async fn open(
    address: SocketAddr,
    source: Option<Ipv4Addr>,
    target: &str,
) -> Result<WebSocketStream<TcpStream>, String> {
    let said = |error: std::io::Error| error.to_string();
    let socket = TcpSocket::new_v4().map_err(said)?;
    if let Some(source) = source {
        socket.bind(SocketAddr::from((source, 0))).map_err(said)?;
    }
    let stream = socket.connect(address).await.map_err(said)?;
    let config = WebSocketConfig::default()
        .read_buffer_size(BUFFER_BYTES)
        .write_buffer_size(0);
    let url = format!("ws://{address}{target}");
    let opened = tokio_tungstenite::client_async_with_config(url, stream, Some(config)).await;
    opened
        .map(|(socket, _)| socket)
        .map_err(|error| error.to_string())
}

/// Tells of the probes that arrive, until the socket ends. tungstenite answers pings meanwhile.
async fn read(mut socket: WebSocketStream<TcpStream>, arrivals: mpsc::Sender<Arrival>) {
    while let Some(Ok(message)) = socket.next().await {
        let at = Instant::now();
        let WsMessage::Text(text) = message else {
            continue;
        };
        if let Some(probe) = probe_of(text.as_str())
            && arrivals.send(Arrival { probe, at }).await.is_err()
        {
            return;
        }
    }
}

fn probe_of(frame: &str) -> Option<u64> {
    let Ok(Kind::Message(message)) = Frame::parse(frame).map(|frame| frame.kind) else {
        return None;
    };
    let number = message.message.strip_prefix(PROBE)?;
    number.split(' ').next()?.parse().ok()
}

/// Posts to sockets of chance through nodes that are not theirs; what became of the posts, and how
/// long each message that arrived took from when its post was due.
async fn probe(
    bench: &Bench,
    catalogue: &Catalogue,
    crowd: &mut Crowd,
    settings: &Settings,
    rng: &mut Rng,
) -> Result<(Outcomes, Vec<Duration>), BenchError> {
    if crowd.seats.is_empty() {
        return Ok((Outcomes::default(), Vec::new()));
    }
    let mut order = Picks::new(crowd.seats.len() as u64, rng)?;
    let chosen = order.take(PROBES);
    let clients = bench.clients();
    let posts: Vec<Post> = chosen
        .iter()
        .enumerate()
        .map(|(number, seat)| {
            let seat = &crowd.seats[usize::try_from(*seat).unwrap_or(0)];
            let step = 1 + rng.below(clients.len() as u64 - 1);
            let node = (seat.node + usize::try_from(step).unwrap_or(1)) % clients.len();
            let text = format!("{PROBE}{number} {}", text(rng, settings.message_bytes));
            Post {
                client: Arc::clone(&clients[node]),
                target: catalogue.channel(seat.channel).messages(),
                body: body("prober", &text),
            }
        })
        .collect();
    let count = posts.len();
    let started = Instant::now();
    let shots = fire(posts, PROBES_PER_S).await?;
    // The grid's own start is a moment later than ours, which is what the slots' times tell.
    let grid = shots.iter().map(|shot| shot.due).min().unwrap_or(started);
    let mut receipts = Vec::new();
    let deadline = Instant::now() + RECEIPT_WITHIN;
    while receipts.len() < count {
        match tokio::time::timeout_at(deadline, crowd.arrivals.recv()).await {
            Ok(Some(arrival)) => {
                let due = grid + Duration::from_secs_f64(arrival.probe as f64 / PROBES_PER_S);
                receipts.push(arrival.at.saturating_duration_since(due));
            }
            Ok(None) | Err(_) => break,
        }
    }
    Ok((outcomes(&shots), receipts))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_of_open_files_are_explained() {
        assert_eq!(too_few_files(12_000, 8_000, 20_000, 20_000), None);
        let soft = too_few_files(12_000, 8_000, 1_024, 20_000).unwrap();
        assert!(soft.contains("ulimit -n 12000"), "{soft}");
        let hard = too_few_files(50_000, 8_000, 1_024, 20_000).unwrap();
        assert!(hard.contains("hard limit is 20000"), "{hard}");
        let nodes = too_few_files(2_000, 5_000, 4_096, 4_096).unwrap();
        assert!(nodes.contains("need 5000"), "{nodes}");
    }

    #[test]
    fn ports_that_may_run_out_come_from_other_addresses() {
        assert_eq!(source(0, 0), None);
        let addresses: Vec<_> = (0..3)
            .flat_map(|node| (1..4).map(move |block| source(node, block).unwrap()))
            .collect();
        assert!(addresses.iter().all(Ipv4Addr::is_loopback));
        let mut distinct = addresses.clone();
        distinct.dedup();
        assert_eq!(distinct.len(), 9);
    }

    #[test]
    fn only_probes_are_arrivals() {
        let frame = |text: &str| {
            format!(
                r#"{{"type":"message","id":"i","seq":1,"timestamp":1,"username":"u","message":"{text}"}}"#
            )
        };
        assert_eq!(probe_of(&frame("probe 12 abc")), Some(12));
        assert_eq!(probe_of(&frame("hello")), None);
        assert_eq!(probe_of("no json"), None);
    }
}
