//! A TCP proxy for each ordered pair of nodes, where there is no root: node `i` believes node `j`
//! to be at the proxy `i` to `j`.
//!
//! A proxy sees a stream, not packets, so its faults look as TCP makes them look: what a cut link
//! swallows arrives once the link is whole again, unless the connection was reset; a lost chunk is
//! late by a retransmission. Bytes from `i` to `j` meet the rule of that link whoever dialled.
//!
//! Invariants: no byte is lost, added or reordered within a connection; what a proxy holds back is
//! bounded, and beyond that its sender waits.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::cluster::NodePlace;
use crate::cluster::ports::free_port;
use crate::rng::Rng;
use crate::wait::moment;

use super::WorldError;
use super::rules::{Fate, Link, Rule, Rules};

/// Bytes read at once.
const CHUNK_BYTES: usize = 16 * 1024;
/// Chunks held back in one direction of one connection.
const CHUNKS_MAX: usize = 64;
/// How late a lost chunk is: about what Linux waits before it sends again.
const RETRANSMISSION: Duration = Duration::from_millis(220);
/// A node's own peer port may be taken over from a process that ended: its dialler tries again, so
/// we need not.
const CONNECT_MAX: Duration = Duration::from_secs(5);

/// The proxies of one world; dropping them ends their connections.
#[derive(Debug)]
pub struct Proxies {
    _tasks: JoinSet<()>,
}

impl Proxies {
    /// Starts one for each link, and says where nodes run and whom they see where.
    pub async fn start(
        nodes: u64,
        rules: &Arc<Rules>,
        seed: u64,
    ) -> Result<(Self, Vec<NodePlace>), WorldError> {
        let mut places = Vec::new();
        for _ in 1..=nodes {
            places.push(NodePlace {
                peer: Some(loopback_port()?),
                ..NodePlace::default()
            });
        }
        let mut tasks = JoinSet::new();
        for link @ (from, to) in rules.links() {
            let target = place_of(&places, to)
                .peer
                .expect("every place was just given a peer address");
            let listener = TcpListener::bind(loopback_port()?)
                .await
                .map_err(|source| WorldError::Io {
                    what: format!("listening for the proxy from {from} to {to}"),
                    source,
                })?;
            let seen = listener.local_addr().map_err(|source| WorldError::Io {
                what: "asking a proxy for its address".to_owned(),
                source,
            })?;
            let at = usize::try_from(from - 1).expect("a node's place fits in memory");
            places[at].peers_seen.push((to, seen));
            tasks.spawn(serve(listener, link, target, Arc::clone(rules), seed));
        }
        Ok((Self { _tasks: tasks }, places))
    }
}

fn loopback_port() -> Result<SocketAddr, WorldError> {
    let port = free_port().ok_or(crate::cluster::ClusterError::NoPort)?;
    Ok(SocketAddr::from((Ipv4Addr::LOCALHOST, port)))
}

fn place_of(places: &[NodePlace], node: u64) -> &NodePlace {
    let at = usize::try_from(node - 1).expect("a node's place fits in memory");
    &places[at]
}

/// Accepts until it is dropped; its connections end with it.
async fn serve(
    listener: TcpListener,
    link: Link,
    target: SocketAddr,
    rules: Arc<Rules>,
    seed: u64,
) {
    let connections = AtomicU64::new(0);
    let mut carried = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((near, _)) = accepted else { continue };
                let number = connections.fetch_add(1, Ordering::Relaxed);
                let salt = (link.0 << 40) ^ (link.1 << 32) ^ number;
                let carry = carry(near, link, target, Arc::clone(&rules), Rng::new(seed ^ salt));
                carried.spawn(async move {
                    // The nodes see a broken connection; nobody else needs to know why.
                    let _ = carry.await;
                });
            }
            Some(_) = carried.join_next() => {}
        }
    }
}

/// Carries one connection until one side ends it or a rule resets it.
async fn carry(
    near: TcpStream,
    link: Link,
    target: SocketAddr,
    rules: Arc<Rules>,
    mut rng: Rng,
) -> io::Result<()> {
    let back = (link.1, link.0);
    if rules.of(link).reset || rules.of(back).reset {
        rules.count(link, Fate::Cut);
        return Ok(());
    }
    // A handshake takes both directions.
    pass(&rules, link, &mut rng).await;
    pass(&rules, back, &mut rng).await;
    let far = tokio::time::timeout(CONNECT_MAX, TcpStream::connect(target)).await??;
    near.set_nodelay(true)?;
    far.set_nodelay(true)?;
    let (near_read, near_write) = near.into_split();
    let (far_read, far_write) = far.into_split();
    let seeds = (rng.next_u64(), rng.next_u64());
    tokio::select! {
        ended = pump(near_read, far_write, link, &rules, Rng::new(seeds.0)) => ended,
        ended = pump(far_read, near_write, back, &rules, Rng::new(seeds.1)) => ended,
        () = until_reset(&rules, link, back) => {
            rules.count(link, Fate::Cut);
            Ok(())
        }
    }
}

/// One direction. Reading and writing are apart, so that a late chunk does not hold up the reading
/// of the next: delay is not a lower rate.
async fn pump(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    link: Link,
    rules: &Rules,
    mut rng: Rng,
) -> io::Result<()> {
    let (sender, mut receiver) = mpsc::channel::<(Instant, Vec<u8>)>(CHUNKS_MAX);
    let reading = async move {
        let mut buffer = vec![0; CHUNK_BYTES];
        loop {
            let length = from.read(&mut buffer).await?;
            if length == 0 {
                // The writer writes what is still held back, then ends.
                return io::Result::Ok(());
            }
            let due = Instant::now() + lateness(rules, link, &mut rng);
            if sender.send((due, buffer[..length].to_vec())).await.is_err() {
                return Ok(());
            }
        }
    };
    let writing = async move {
        while let Some((due, chunk)) = receiver.recv().await {
            until(due).await;
            until_whole(rules, link).await;
            to.write_all(&chunk).await?;
        }
        Ok(())
    };
    tokio::try_join!(reading, writing).map(|_| ())
}

/// Judges one chunk, and says how late it is. A cut is not a matter of time: see `until_whole`.
fn lateness(rules: &Rules, link: Link, rng: &mut Rng) -> Duration {
    let fate = rules.of(link).fate(rng);
    rules.count(link, fate);
    match fate {
        Fate::Passes | Fate::Cut => Duration::ZERO,
        Fate::Lost => RETRANSMISSION,
        Fate::Late(late) => late,
    }
}

async fn pass(rules: &Rules, link: Link, rng: &mut Rng) {
    until(Instant::now() + lateness(rules, link, rng)).await;
    until_whole(rules, link).await;
}

async fn until(due: Instant) {
    let left = due.saturating_duration_since(Instant::now());
    if !left.is_zero() {
        moment(left).await;
    }
}

async fn until_whole(rules: &Rules, link: Link) {
    until_rule(rules, link, |rule| !rule.cut).await;
}

async fn until_reset(rules: &Rules, link: Link, back: Link) {
    tokio::select! {
        () = until_rule(rules, link, |rule| rule.reset) => {}
        () = until_rule(rules, back, |rule| rule.reset) => {}
    }
}

async fn until_rule(rules: &Rules, link: Link, wanted: impl Fn(Rule) -> bool) {
    let mut changes = rules.changes();
    while !wanted(rules.of(link)) {
        if changes.changed().await.is_err() {
            // The rules are gone, and with them the world.
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wait::wait_until;

    const LONG: Duration = Duration::from_secs(10);

    /// The proxy from 1 to 2, with an echo at 2; a connection of 1.
    async fn echoing() -> (Proxies, Arc<Rules>, SocketAddr) {
        let rules = Arc::new(Rules::new(2));
        let (proxies, places) = Proxies::start(2, &rules, 1).await.unwrap();
        let echo = TcpListener::bind(places[1].peer.unwrap()).await.unwrap();
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = echo.accept().await.unwrap();
                tokio::spawn(async move {
                    let (mut read, mut write) = stream.split();
                    let _ = tokio::io::copy(&mut read, &mut write).await;
                });
            }
        });
        assert_eq!(places[0].peers_seen[0].0, 2);
        let seen = places[0].peers_seen[0].1;
        (proxies, rules, seen)
    }

    async fn exchange(stream: &mut TcpStream, text: &[u8]) -> Vec<u8> {
        stream.write_all(text).await.unwrap();
        let mut back = vec![0; text.len()];
        tokio::time::timeout(LONG, stream.read_exact(&mut back))
            .await
            .unwrap()
            .unwrap();
        back
    }

    #[tokio::test]
    async fn what_goes_in_comes_out_late_lost_or_not() {
        let (_proxies, rules, seen) = echoing().await;
        let mut stream = TcpStream::connect(seen).await.unwrap();
        assert_eq!(exchange(&mut stream, b"plain").await, b"plain");
        let bad = Rule {
            loss_percent: 50,
            delay: Duration::from_millis(5),
            jitter: Duration::from_millis(20),
            ..Rule::default()
        };
        rules.add(vec![((1, 2), bad), ((2, 1), bad)]);
        let long: Vec<u8> = (0..100_000u32).map(|number| number as u8).collect();
        assert_eq!(exchange(&mut stream, &long).await, long);
        let counts = rules.counts(&rules.links());
        assert!(counts.late + counts.lost > 0, "{counts:?}");
    }

    #[tokio::test]
    async fn a_cut_holds_back_and_its_end_lets_go() {
        let (_proxies, rules, seen) = echoing().await;
        let mut stream = TcpStream::connect(seen).await.unwrap();
        exchange(&mut stream, b"up").await;
        let cut = rules.add(vec![((1, 2), Rule::CUT)]);
        stream.write_all(b"held").await.unwrap();
        wait_until("the cut to be seen", LONG, || async {
            match rules.counts(&[(1, 2)]).cut {
                0 => Err("nothing was cut".to_owned()),
                _ => Ok(()),
            }
        })
        .await
        .unwrap();
        let mut byte = [0; 4];
        let early = tokio::time::timeout(Duration::from_millis(50), stream.read(&mut byte)).await;
        assert!(early.is_err(), "a cut link let something through");
        rules.remove(cut);
        tokio::time::timeout(LONG, stream.read_exact(&mut byte))
            .await
            .unwrap()
            .unwrap();
        assert_eq!(&byte, b"held");
    }

    #[tokio::test]
    async fn a_reset_ends_connections_and_refuses_new_ones() {
        let (_proxies, rules, seen) = echoing().await;
        let mut stream = TcpStream::connect(seen).await.unwrap();
        exchange(&mut stream, b"up").await;
        let reset = Rule {
            reset: true,
            ..Rule::default()
        };
        let id = rules.add(vec![((2, 1), reset)]);
        assert_eq!(ended(&mut stream).await, 0);
        let mut refused = TcpStream::connect(seen).await.unwrap();
        assert_eq!(ended(&mut refused).await, 0);
        rules.remove(id);
        let mut stream = TcpStream::connect(seen).await.unwrap();
        assert_eq!(exchange(&mut stream, b"again").await, b"again");
    }

    /// Zero once the other side has ended the connection, in whatever way.
    async fn ended(stream: &mut TcpStream) -> usize {
        let mut byte = [0; 1];
        tokio::time::timeout(LONG, stream.read(&mut byte))
            .await
            .unwrap()
            .unwrap_or(0)
    }
}
