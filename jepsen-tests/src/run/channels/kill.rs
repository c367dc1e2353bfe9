//! The loss of a node while some channels are written to each second and the others sleep.
//!
//! An active channel's gap is from the kill to the first acknowledgement of a write that was invoked
//! after it, as a client sees it that repeats the write with the same key on the other nodes. A
//! sleeping channel is written to for the first time after the loss was noticed; its latency is that
//! of one write, with no kill in it but the leader's absence.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::OnceLock;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::join_all;
use futures_util::stream;
use rustix::process::{Pid, Signal, kill_process};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::BenchError;
use super::Settings;
use super::bench::Bench;
use super::catalogue::Catalogue;
use super::client::Client;
use super::figures::Kill;
use super::picks::Picks;
use super::prepare::{body, text};
use super::schedule::{Ended, Schedule, Shot, Slots, Stopper, open_loop};
use super::spread::{Spread, ms};
use super::wake::{Post, fire, outcomes};
use crate::run::Say;
use crate::{Rng, wait_until};

/// Sleeping channels of the lost node that are written to, and how many each second.
const SLEEPERS: usize = 200;
const SLEEPERS_PER_S: f64 = 50.0;
/// Sleeping channels whose leader is asked for, to find those: a node leads about a third.
const SLEEPERS_ASKED: u64 = 4 * SLEEPERS as u64;
/// Requests for leaders at a time.
const AT_ONCE: usize = 16;
/// A channel that was asleep may not know its leader at once.
const LEADER_WITHIN: Duration = Duration::from_secs(1);
/// For all active channels to be awake before anything is asked.
const WARM_UP: Duration = Duration::from_secs(5);
/// How long a client waits for an answer before it asks the next node.
const ATTEMPT_WITHIN: Duration = Duration::from_secs(2);
/// Between two attempts at a write that is refused.
const ATTEMPT_PAUSE: Duration = Duration::from_millis(20);
/// A channel that takes longer is reported as such.
const GAP_MAX: Duration = Duration::from_secs(60);
const NOTICED_WITHIN: Duration = Duration::from_secs(60);

pub async fn kill(
    bench: &Bench,
    catalogue: &Catalogue,
    settings: &Settings,
    picks: &mut Picks,
    rng: &mut Rng,
    say: Say<'_>,
) -> Result<Kill, BenchError> {
    // With few channels, half of them are active and the others sleep.
    let active = picks.take(settings.active.min(picks.channels().div_ceil(2)));
    let sleepers = picks.take(SLEEPERS_ASKED.min(picks.channels() - active.len() as u64));
    say(&format!(
        "kill: {} channels are written to each second",
        active.len()
    ));
    let load = Load::start(bench, catalogue, &active, settings)?;
    tokio::time::sleep_until(Instant::now() + WARM_UP).await;

    let of_sleepers = leaders(bench, catalogue, &sleepers).await;
    let sleep_before = bench.sleep(active.len() as u64, say).await?;
    let (node, led) = most_led(leaders(bench, catalogue, &active).await)?;
    let (sleeping, leaders_unknown) = sleepers_of(node, of_sleepers);
    say(&format!(
        "kill: node {node} leads {} active channels; {} sleeping ones will be written to",
        led.len(),
        sleeping.len()
    ));

    let survivors = survivors(bench, node);
    load.lose(node, led.iter().copied());
    let killed = strike(bench, node)?;
    let writers = led.iter().enumerate().map(|(place, channel)| {
        let target = catalogue.channel(*channel).messages();
        tokio::spawn(first_write(survivors.clone(), place, target, killed))
    });
    let writers: Vec<JoinHandle<Option<Duration>>> = writers.collect();
    // Reaps it; it takes a while to give back its memory.
    bench.cluster().kill(node)?;
    let noticed = wait_noticed(bench, node, killed).await?;
    say(&format!("kill: noticed after {:.0} ms", ms(noticed)));

    let posts = first_posts(catalogue, &sleeping, &survivors, settings, rng);
    let sleeping = outcomes(&fire(posts, SLEEPERS_PER_S).await?);
    let gaps = join_all(writers).await;
    let gaps: Vec<Option<Duration>> = gaps
        .into_iter()
        .map(|gap| gap.expect("writers do not panic and are not aborted"))
        .collect();
    let active_never = gaps.iter().filter(|gap| gap.is_none()).count() as u64;
    let active_gap = Spread::of(gaps.into_iter().flatten());
    let shots = load.stop().await;
    let others: Vec<Shot> = shots
        .into_iter()
        .filter(|shot| shot.due >= killed)
        .collect();
    say(&format!(
        "kill: active p50 {:.0} ms, p99 {:.0} ms; sleeping p50 {:.1} ms, p99 {:.1} ms",
        active_gap.p50_ms, active_gap.p99_ms, sleeping.latency.p50_ms, sleeping.latency.p99_ms
    ));
    let ready = bench.start_node(node).await?;
    Ok(Kill {
        node,
        active: active.len() as u64,
        sleep_before,
        active_gap,
        active_never,
        noticed_ms: ms(noticed),
        sleeping,
        leaders_unknown,
        others: outcomes(&others),
        ready_ms: ms(ready),
    })
}

/// Who leads each channel, if the node that was asked learns it soon. Asking may wake a channel.
async fn leaders(
    bench: &Bench,
    catalogue: &Catalogue,
    channels: &[u64],
) -> Vec<(u64, Option<u64>)> {
    let ids = bench.ids();
    stream::iter(channels.iter().enumerate())
        .map(|(place, number)| {
            let api = bench.api(ids[place % ids.len()]).clone();
            let channel = catalogue.channel(*number);
            async move { (*number, api.leader_of(&channel, LEADER_WITHIN).await.ok()) }
        })
        .buffer_unordered(AT_ONCE)
        .collect()
        .await
}

/// The node that leads most of these channels, and which.
fn most_led(leaders: Vec<(u64, Option<u64>)>) -> Result<(u64, Vec<u64>), BenchError> {
    let mut led: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
    for (channel, leader) in leaders {
        if let Some(leader) = leader {
            led.entry(leader).or_default().push(channel);
        }
    }
    led.into_iter()
        .max_by_key(|(_, channels)| channels.len())
        .ok_or_else(|| BenchError::Unfit("no active channel has a leader".to_owned()))
}

/// Those that `node` led. Where too few are known, those of unknown leaders stand in; how many of
/// these there were.
fn sleepers_of(node: u64, leaders: Vec<(u64, Option<u64>)>) -> (Vec<u64>, u64) {
    let of = |leader: Option<u64>| {
        let channels = leaders.iter().filter(move |(_, found)| *found == leader);
        channels.map(|(channel, _)| *channel)
    };
    let unknown = of(None).count() as u64;
    let chosen = of(Some(node)).chain(of(None)).take(SLEEPERS);
    (chosen.collect(), unknown)
}

fn survivors(bench: &Bench, lost: u64) -> Vec<Arc<Client>> {
    let clients = bench.clients().iter();
    let left = clients.filter(|client| client.node() != lost);
    left.cloned().collect()
}

/// SIGKILL, without waiting for the end.
fn strike(bench: &Bench, node: u64) -> Result<Instant, BenchError> {
    let pid = i32::try_from(bench.pid(node)?).ok().and_then(Pid::from_raw);
    let pid = pid.ok_or_else(|| BenchError::Unfit(format!("node {node} has no usable id")))?;
    let killed = Instant::now();
    let sent = kill_process(pid, Signal::KILL);
    sent.map_err(|error| BenchError::io_of(&format!("killing node {node}"), error.into()))?;
    Ok(killed)
}

/// From the kill to the acknowledgement; none if there was none in time.
async fn first_write(
    survivors: Vec<Arc<Client>>,
    place: usize,
    target: String,
    killed: Instant,
) -> Option<Duration> {
    let body = body("writer", "after the kill");
    for attempt in place.. {
        let client = &survivors[attempt % survivors.len()];
        let posted = client.post(&target, &body, Some("after-the-kill"), ATTEMPT_WITHIN);
        if posted.await.is_ok() {
            return Some(killed.elapsed());
        }
        if killed.elapsed() > GAP_MAX {
            break;
        }
        tokio::time::sleep_until(Instant::now() + ATTEMPT_PAUSE).await;
    }
    None
}

/// Until every other node shows it as down.
async fn wait_noticed(bench: &Bench, node: u64, killed: Instant) -> Result<Duration, BenchError> {
    let others = bench.cluster().others(node);
    let noticed = wait_until("the others to notice", NOTICED_WITHIN, || async {
        for other in &others {
            let view = bench.api(*other).cluster().await;
            let view = view.map_err(|error| error.to_string())?;
            if view.nodes.iter().any(|seen| seen.id == node && seen.up) {
                return Err(format!("node {other} still sees it"));
            }
        }
        Ok(killed.elapsed())
    });
    noticed
        .await
        .map_err(|error| BenchError::request("the loss of a node", &error))
}

fn first_posts(
    catalogue: &Catalogue,
    channels: &[u64],
    survivors: &[Arc<Client>],
    settings: &Settings,
    rng: &mut Rng,
) -> Vec<Post> {
    let posts = channels.iter().map(|channel| Post {
        client: Arc::clone(rng.pick(survivors)),
        target: catalogue.channel(*channel).messages(),
        body: body("waker", &text(rng, settings.message_bytes)),
    });
    posts.collect()
}

/// What a node's death means to the load.
#[derive(Debug)]
struct Lost {
    node: u64,
    /// Channels that have writers of their own from then on.
    led: BTreeSet<u64>,
}

/// Writes to each active channel once a second, until it is stopped.
struct Load {
    lost: Arc<OnceLock<Lost>>,
    stopper: Stopper,
    shots: JoinHandle<Vec<Shot>>,
}

/// What each slot of the load looks at.
struct Targets {
    channels: Vec<(u64, String)>,
    clients: Vec<Arc<Client>>,
    body: String,
    lost: Arc<OnceLock<Lost>>,
}

impl Load {
    fn start(
        bench: &Bench,
        catalogue: &Catalogue,
        active: &[u64],
        settings: &Settings,
    ) -> Result<Self, BenchError> {
        let lost = Arc::new(OnceLock::new());
        let channels = active
            .iter()
            .map(|channel| (*channel, catalogue.channel(*channel).messages()));
        let targets = Arc::new(Targets {
            channels: channels.collect(),
            clients: bench.clients().to_vec(),
            body: body("writer", &"x".repeat(settings.message_bytes.max(1))),
            lost: Arc::clone(&lost),
        });
        let slots = Slots::start(Schedule {
            per_second: active.len() as f64,
            count: None,
        });
        let mut slots = slots.map_err(|error| BenchError::io_of("the pacing thread", error))?;
        let stopper = slots.stopper();
        let shots = tokio::spawn(async move {
            open_loop(&mut slots, |slot| {
                let targets = Arc::clone(&targets);
                async move { targets.write(slot.number).await }
            })
            .await
        });
        Ok(Self {
            lost,
            stopper,
            shots,
        })
    }

    /// From now on nothing is asked of this node or written to these channels.
    fn lose(&self, node: u64, led: impl Iterator<Item = u64>) {
        let lost = Lost {
            node,
            led: led.collect(),
        };
        self.lost.set(lost).expect("one node is lost, once");
    }

    async fn stop(self) -> Vec<Shot> {
        drop(self.stopper);
        let shots = self.shots.await;
        shots.expect("the load does not panic and is not aborted")
    }
}

impl Targets {
    async fn write(&self, slot: u64) -> Ended {
        let count = self.channels.len() as u64;
        let place = usize::try_from(slot % count).unwrap_or(0);
        let (channel, target) = &self.channels[place];
        let lost = self.lost.get();
        if lost.is_some_and(|lost| lost.led.contains(channel)) {
            return Ended::Skipped;
        }
        let nodes = self.clients.iter();
        let left: Vec<&Arc<Client>> = nodes
            .filter(|client| lost.is_none_or(|lost| lost.node != client.node()))
            .collect();
        // Another node each second.
        let turn = usize::try_from(slot / count).unwrap_or(0) + place;
        let post = Post {
            client: Arc::clone(left[turn % left.len()]),
            target: target.clone(),
            body: self.body.clone(),
        };
        post.send().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_node_that_leads_most_is_the_one() {
        let leaders = vec![(1, Some(2)), (2, Some(3)), (3, Some(2)), (4, None)];
        assert_eq!(most_led(leaders).unwrap(), (2, vec![1, 3]));
        assert!(most_led(vec![(1, None)]).is_err());
    }

    #[test]
    fn sleepers_without_a_known_leader_only_stand_in() {
        let leaders = vec![(1, Some(2)), (2, None), (3, Some(1)), (4, Some(2))];
        assert_eq!(sleepers_of(2, leaders.clone()), (vec![1, 4, 2], 1));
        let many = (0..500).map(|channel| (channel, Some(2))).chain(leaders);
        let (chosen, unknown) = sleepers_of(2, many.collect());
        assert_eq!((chosen.len(), unknown), (SLEEPERS, 1));
    }
}
