//! Seeded clients: what they ask of the nodes, and how every answer enters the history.
//!
//! A workload is a kind of client; a run mixes several. Each client is one task with a seed of its
//! own, so which requests it makes does not depend on how fast the others are. Invariants:
//! - every request that may change something is an operation of the history, from before it is
//!   sent until after its answer is read;
//! - a client has one operation under way per process number, and never uses the number of an
//!   operation again whose outcome it does not know;
//! - what an answer proves is decided in [`outcome`] alone.

pub mod append;
pub mod commands;
pub mod conditional;
pub mod context;
pub mod listing;
pub mod names;
pub mod outcome;
pub mod pace;
pub mod rest;
pub mod retries;
pub mod sessions;
pub mod sockets;
pub mod streams;

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::rng::Rng;
use context::Context;

/// What the clients are to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Load the cluster.
    Running,
    /// Ask nothing for a while.
    Resting,
    /// Ask nothing any more; subscribers stay, and come back when their connection is lost.
    Settling,
    /// End.
    Done,
}

/// Waits until the load has ended, or the run is gone.
pub(crate) async fn load_ended(phase: &mut watch::Receiver<Phase>) {
    // An error says that nobody steers the run any more, which ends it as well. What is borrowed
    // here must not live across an await of a task, hence a function.
    let ended = |phase: &Phase| !matches!(phase, Phase::Running | Phase::Resting);
    let _ = phase.wait_for(ended).await;
}

/// Waits until clients need not rest any more.
pub(crate) async fn rest_over(phase: &mut watch::Receiver<Phase>) {
    let _ = phase.wait_for(|phase| *phase != Phase::Resting).await;
}

/// Waits until the run is done, or gone.
pub(crate) async fn run_done(phase: &mut watch::Receiver<Phase>) {
    let _ = phase.wait_for(|phase| *phase == Phase::Done).await;
}

/// A kind of client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Workload {
    /// Posts over REST, and linearizable reads, on all channels through all nodes.
    Append,
    /// Sends on plain and rich sockets, several in flight.
    Sockets,
    /// Stale reads of sessions that stay on one node.
    Stale,
    /// Subscribers: some stay, some hop between nodes and resume.
    Streams,
    /// The same key and body, sent to other nodes until it is acknowledged, and sometimes after.
    Retries,
    /// Posts that hold only for a head that the client knows.
    Conditional,
    /// New servers and channels, and lists read through other nodes.
    Listing,
    /// Linearizable reads of sessions that stay on one node.
    Linearizable,
    /// Commands to an agent whose server fails as it is told. Not among the usual ones: the nodes
    /// must reach that server, which needs a plain network.
    Commands,
}

impl Workload {
    pub const ALL: [Self; 9] = [
        Self::Append,
        Self::Sockets,
        Self::Stale,
        Self::Streams,
        Self::Retries,
        Self::Conditional,
        Self::Listing,
        Self::Linearizable,
        Self::Commands,
    ];
    /// Those of an episode for which none are named.
    pub const USUAL: [Self; 8] = [
        Self::Append,
        Self::Sockets,
        Self::Stale,
        Self::Streams,
        Self::Retries,
        Self::Conditional,
        Self::Listing,
        Self::Linearizable,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::Append => "append",
            Self::Sockets => "sockets",
            Self::Stale => "stale",
            Self::Streams => "streams",
            Self::Retries => "retries",
            Self::Conditional => "conditional",
            Self::Listing => "listing",
            Self::Linearizable => "linearizable",
            Self::Commands => "commands",
        }
    }

    /// How many clients of it a run has.
    fn clients(self) -> u32 {
        match self {
            Self::Append => 16,
            Self::Sockets => 6,
            Self::Stale => 5,
            Self::Streams => 8,
            Self::Retries | Self::Linearizable => 6,
            Self::Conditional | Self::Listing => 2,
            Self::Commands => commands::CLIENTS,
        }
    }

    /// Its share of the run's appends, against the sum of the shares of the workloads that run.
    fn share(self) -> f64 {
        match self {
            Self::Append => 8.0,
            Self::Sockets => 8.0,
            Self::Retries => 3.0,
            Self::Conditional => 1.0,
            Self::Commands => 2.0,
            Self::Stale | Self::Streams | Self::Listing | Self::Linearizable => 0.0,
        }
    }
}

impl fmt::Display for Workload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Workload {
    type Err = names::UnknownName;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        names::one_of(text, "workload", &Self::ALL)
    }
}

/// Clients under way.
#[derive(Debug, Default)]
pub struct Clients {
    /// End when the load ends.
    pub askers: JoinSet<()>,
    /// Stay until the run is done.
    pub subscribers: JoinSet<()>,
}

/// Starts the clients of these workloads. They end when the phase says so.
///
/// `rate` is the sum of their appends per second; workloads that append nothing have rates of
/// their own.
pub fn start(context: &Arc<Context>, workloads: &[Workload], rate: f64, seed: u64) -> Clients {
    let shares: f64 = workloads.iter().map(|kind| kind.share()).sum();
    let mut seeds = Rng::new(seed);
    let mut clients = Clients::default();
    for kind in Workload::ALL {
        // Drawn for every kind, so that leaving one out does not change the others.
        let kind_seed = seeds.next_u64();
        if !workloads.contains(&kind) {
            continue;
        }
        let mut kind_seeds = Rng::new(kind_seed);
        for index in 0..kind.clients() {
            let per_second = if shares > 0.0 {
                rate * kind.share() / shares / f64::from(kind.clients())
            } else {
                0.0
            };
            let client = Client {
                context: Arc::clone(context),
                rng: Rng::new(kind_seeds.next_u64()),
                name: format!("{kind}-{index}"),
                index,
                per_second,
            };
            let askers = &mut clients.askers;
            match kind {
                Workload::Append => askers.spawn(append::run(client)),
                Workload::Sockets => askers.spawn(sockets::run(client)),
                Workload::Stale => askers.spawn(sessions::stale(client)),
                Workload::Streams => clients.subscribers.spawn(streams::run(client)),
                Workload::Retries => askers.spawn(retries::run(client)),
                Workload::Conditional => askers.spawn(conditional::run(client)),
                Workload::Listing => askers.spawn(listing::run(client)),
                Workload::Linearizable => askers.spawn(sessions::linearizable(client)),
                Workload::Commands => askers.spawn(commands::run(client)),
            };
        }
    }
    clients
}

/// What a client's task begins with.
pub struct Client {
    pub context: Arc<Context>,
    pub rng: Rng,
    /// Unique in the run; the user of its messages.
    pub name: String,
    /// Its place among the clients of its workload.
    pub index: u32,
    /// Appends per second of this client.
    pub per_second: f64,
}

/// Bodies that are unique in the run, of varying size.
#[derive(Debug)]
pub struct Bodies {
    user: String,
    made: u64,
}

/// One message in this many is long.
const LONG_BODY_EVERY: u64 = 24;
/// The longest padding of a long message, in bytes.
const PADDING_BYTES_MAX: u64 = 3_000;

impl Bodies {
    pub fn new(user: &str) -> Self {
        Self {
            user: user.to_owned(),
            made: 0,
        }
    }

    pub fn next(&mut self, rng: &mut Rng) -> String {
        self.made += 1;
        let mut body = format!("{} {}", self.user, self.made);
        if rng.below(LONG_BODY_EVERY) == 0 {
            body.push_str(" é ");
            let padding = usize::try_from(rng.below(PADDING_BYTES_MAX)).unwrap_or(0);
            body.extend(std::iter::repeat_n('x', padding));
        }
        body
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn names_are_read_as_they_are_written() {
        for kind in Workload::ALL {
            assert_eq!(kind.to_string().parse::<Workload>().unwrap(), kind);
        }
        let error = "apend".parse::<Workload>().unwrap_err().to_string();
        assert!(
            error.contains("apend") && error.contains("conditional"),
            "{error}"
        );
    }

    #[test]
    fn bodies_differ() {
        let (mut one, mut two) = (Bodies::new("a"), Bodies::new("b"));
        let mut rng = Rng::new(3);
        let seen: HashSet<String> = (0..200)
            .flat_map(|_| [one.next(&mut rng), two.next(&mut rng)])
            .collect();
        assert_eq!(seen.len(), 400);
        assert!(seen.iter().any(|body| body.len() > 500));
        assert!(seen.iter().all(|body| body.len() < 8_000));
    }
}
