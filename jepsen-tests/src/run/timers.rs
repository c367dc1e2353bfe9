//! How punctual scheduled messages are over many sleeping channels.
//!
//! A message is scheduled in each of many channels, all due within one stretch of time. The channels
//! fall asleep, the nodes may be killed and started again, nobody asks for anything. Afterwards each
//! channel is read: its message must be there once, and its timestamp, which is its leader's, says how
//! late it was. All processes are on one machine and so go by one clock.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::{StreamExt, TryStreamExt, stream};
use serde::Deserialize;
use serde_json::json;
use tokio::time::Instant;

use super::Say;
use super::channels::spread::Spread;
use super::episode::RunError;
use crate::client::api::{Api, Consistency};
use crate::client::wire::ChannelRef;
use crate::cluster::{Cluster, ClusterOptions};
use crate::rng::Rng;
use crate::wait::wait_until;
use crate::world::WorldError;

/// Between two looks at how many channels are open.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// What stays open on each node: the directory.
const ALWAYS_OPEN: u64 = 1;
/// How long after the last message's time all of them must be there.
const ALL_WITHIN: Duration = Duration::from_secs(60);
/// Before a request is sent again that was refused for a passing reason.
const AGAIN_AFTER: Duration = Duration::from_millis(50);
/// A request that does not succeed within this ends the run.
const SUCCEED_WITHIN: Duration = Duration::from_secs(60);

#[derive(Debug, Clone)]
pub struct TimerSettings {
    pub channels: usize,
    /// The stretch of time in which all messages are due.
    pub window: Duration,
    /// From the first request to the first message's time: for scheduling, sleeping and starting again.
    pub lead: Duration,
    /// The nodes are killed while all channels sleep, and started again.
    pub restart: bool,
    /// Requests at a time while channels are made, and read.
    pub at_once: usize,
    pub nodes: u64,
    pub seed: u64,
    pub binary: Option<PathBuf>,
}

#[derive(Debug, Clone)]
pub struct Punctuality {
    pub channels: usize,
    /// Of timestamps after the times that were asked for.
    pub lateness: Spread,
    /// Messages that were more than two seconds late.
    pub over_2_s: usize,
    pub missing: usize,
    pub doubled: usize,
    pub early: usize,
    /// Channels open on any node at the last look before the first message's time.
    pub awake_before: u64,
    /// By the nodes' own count, commit included; of those deliveries that happened since their start.
    pub mean_to_commit_ms: f64,
}

impl Punctuality {
    /// Whether each message came once and not before its time.
    pub fn is_right(&self) -> bool {
        self.missing + self.doubled + self.early == 0
    }
}

#[derive(Deserialize)]
struct Made {
    id: String,
}

/// A channel, and what is to come in it.
struct Appointment {
    channel: ChannelRef,
    id: String,
    due_ms: u64,
}

pub async fn run(settings: &TimerSettings, say: Say<'_>) -> Result<Punctuality, RunError> {
    let cluster = Cluster::start(ClusterOptions {
        binary: settings.binary.clone(),
        directory_prefix: format!("accord-run-{}-", std::process::id()),
        ..ClusterOptions::new(settings.nodes)
    })
    .await
    .map_err(WorldError::from)?;
    let apis = Arc::new(cluster.apis(&cluster.ids()));
    let channels = make(&apis, settings).await?;
    say(&format!("{} channels made", channels.len()));
    let first_ms = now_ms() + millis(settings.lead);
    let began = Instant::now();
    let all = schedule(&apis, settings, channels, first_ms).await?;
    let took_s = began.elapsed().as_secs_f64();
    say(&format!("a message scheduled in each, in {took_s:.1} s"));
    asleep(&apis).await?;
    say("all channels sleep");
    if settings.restart {
        restart(&cluster).await?;
        say("all nodes were killed, and are back");
    }
    if now_ms() >= first_ms {
        return Err(request(
            "getting ready",
            &"it took longer than --lead allows",
        ));
    }
    let mut awake_before = 0;
    while now_ms() + millis(LOOK_EVERY) * 2 < first_ms {
        awake_before = open(&apis).await?.into_iter().max().unwrap_or(0);
        tokio::time::sleep_until(Instant::now() + LOOK_EVERY).await;
    }
    say(&format!(
        "at most {awake_before} channels are open on a node before the first message's time"
    ));
    let count = all.len() as f64;
    let (deadline, mut delivered) = (Instant::now() + settings.window + ALL_WITHIN, (0.0, 0.0));
    while delivered.0 < count && Instant::now() < deadline {
        tokio::time::sleep_until(Instant::now() + LOOK_EVERY).await;
        delivered = deliveries(&apis).await?;
    }
    say("reading all channels");
    let mut measured = read(&apis, settings, all).await?;
    measured.awake_before = awake_before;
    measured.mean_to_commit_ms = 1_000.0 * delivered.1 / delivered.0.max(1.0);
    Ok(measured)
}

async fn make(apis: &Arc<Vec<Api>>, settings: &TimerSettings) -> Result<Vec<ChannelRef>, RunError> {
    let server = apis[0].create_server("timers").await;
    let server = server.map_err(|error| request("making a server", &error))?;
    let made = stream::iter(0..settings.channels).map(|number| {
        let (apis, server) = (Arc::clone(apis), server.id.clone());
        async move {
            let name = format!("channel {number}");
            let channel = again(|attempt| {
                let (apis, server, name) = (Arc::clone(&apis), server.clone(), name.clone());
                async move {
                    let api = &apis[(number + attempt) % apis.len()];
                    let made = api.create_channel(&server, &name).await;
                    made.map_err(|error| error.to_string())
                }
            });
            let channel = channel
                .await
                .map_err(|why| request("making a channel", &why))?;
            Ok(ChannelRef {
                server,
                channel: channel.id,
            })
        }
    });
    made.buffered(settings.at_once).try_collect().await
}

async fn schedule(
    apis: &Arc<Vec<Api>>,
    settings: &TimerSettings,
    channels: Vec<ChannelRef>,
    first_ms: u64,
) -> Result<Vec<Appointment>, RunError> {
    let mut rng = Rng::new(settings.seed);
    let window_ms = millis(settings.window).max(1);
    let plan: Vec<_> = channels
        .into_iter()
        .map(|channel| (channel, first_ms + rng.below(window_ms)))
        .collect();
    let scheduled =
        stream::iter(plan.into_iter().enumerate()).map(|(number, (channel, due_ms))| {
            let apis = Arc::clone(apis);
            async move {
                let made = again(|attempt| {
                    let (apis, target) = (Arc::clone(&apis), channel.messages());
                    let body =
                        json!({ "username": "ann", "message": "later", "deliver_at": due_ms });
                    async move {
                        let api = &apis[(number + attempt) % apis.len()];
                        let key = [("idempotency-key", "timers")];
                        let answer = api.post_json(&target, &body, &key).await;
                        let answer = answer.map_err(|error| error.to_string())?;
                        match answer.status {
                            202 => answer.json::<Made>().map_err(|error| error.to_string()),
                            status => Err(format!("{status}: {}", answer.text())),
                        }
                    }
                });
                let made = made
                    .await
                    .map_err(|why| request("scheduling a message", &why))?;
                Ok(Appointment {
                    channel,
                    id: made.id,
                    due_ms,
                })
            }
        });
    scheduled.buffered(settings.at_once).try_collect().await
}

/// All at once, as when the power fails.
async fn restart(cluster: &Cluster) -> Result<(), RunError> {
    cluster.kill_all().map_err(WorldError::from)?;
    for node in cluster.ids() {
        cluster.start_node(node).map_err(WorldError::from)?;
    }
    cluster.wait_all_ready().await.map_err(WorldError::from)?;
    Ok(())
}

async fn read(
    apis: &Arc<Vec<Api>>,
    settings: &TimerSettings,
    all: Vec<Appointment>,
) -> Result<Punctuality, RunError> {
    let channels = all.len();
    let found = stream::iter(all.into_iter().enumerate()).map(|(number, appointment)| {
        let apis = Arc::clone(apis);
        async move {
            let messages = again(|attempt| {
                let (apis, channel) = (Arc::clone(&apis), appointment.channel.clone());
                async move {
                    let api = &apis[(number + attempt) % apis.len()];
                    let read = api.read_all(&channel, Consistency::Linearizable).await;
                    read.map_err(|error| error.to_string())
                }
            });
            let messages = messages
                .await
                .map_err(|why| request("reading a channel", &why))?;
            let times: Vec<u64> = messages
                .iter()
                .filter(|message| message.id == appointment.id)
                .map(|message| message.timestamp)
                .collect();
            Ok::<_, RunError>((appointment.due_ms, times, messages.len()))
        }
    });
    let found: Vec<_> = found.buffered(settings.at_once).try_collect().await?;
    let mut late = Vec::with_capacity(found.len());
    let (mut missing, mut doubled, mut early) = (0, 0, 0);
    for (due_ms, times, messages) in found {
        match times.first() {
            None => missing += 1,
            Some(time) if *time < due_ms => early += 1,
            Some(time) => late.push(Duration::from_millis(time - due_ms)),
        }
        doubled += usize::from(times.len() > 1 || messages > 1);
    }
    Ok(Punctuality {
        channels,
        over_2_s: late.iter().filter(|late| late.as_secs() >= 2).count(),
        lateness: Spread::of(late),
        missing,
        doubled,
        early,
        awake_before: 0,
        mean_to_commit_ms: 0.0,
    })
}

/// Waits until no node keeps a channel open.
async fn asleep(apis: &[Api]) -> Result<(), RunError> {
    let slept = wait_until("channels to sleep", SUCCEED_WITHIN * 2, || async {
        let open = open(apis).await.map_err(|error| error.to_string())?;
        match open.iter().all(|open| *open == 0) {
            true => Ok(()),
            false => Err(format!("open on the nodes: {open:?}")),
        }
    });
    slept
        .await
        .map_err(|error| request("falling asleep", &error))
}

/// Channels that each node keeps open.
async fn open(apis: &[Api]) -> Result<Vec<u64>, RunError> {
    let mut open = Vec::with_capacity(apis.len());
    for api in apis {
        let view = api.cluster().await;
        let view = view.map_err(|error| request("GET /api/cluster", &error))?;
        open.push(view.groups.open.saturating_sub(ALWAYS_OPEN));
    }
    Ok(open)
}

/// How many messages the nodes have delivered since their start, and the seconds that they were late.
async fn deliveries(apis: &[Api]) -> Result<(f64, f64), RunError> {
    let mut sums: BTreeMap<&str, f64> = BTreeMap::new();
    const COUNT: &str = "accord_scheduled_delivered_total";
    const LATE: &str = "accord_scheduled_lateness_seconds_total";
    for api in apis {
        for name in [COUNT, LATE] {
            let value = api.metric(name).await;
            *sums.entry(name).or_default() +=
                value.map_err(|error| request("GET /metrics", &error))?;
        }
    }
    let sum = |name| sums.get(name).copied().unwrap_or(0.0);
    Ok((sum(COUNT), sum(LATE)))
}

/// Asks, with the number of the attempt, until there is an answer.
async fn again<T, F>(mut ask: impl FnMut(usize) -> F) -> Result<T, String>
where
    F: Future<Output = Result<T, String>>,
{
    let end = Instant::now() + SUCCEED_WITHIN;
    let mut attempt = 0;
    loop {
        match ask(attempt).await {
            Ok(answer) => return Ok(answer),
            Err(why) if Instant::now() >= end => return Err(why),
            Err(_) => tokio::time::sleep_until(Instant::now() + AGAIN_AFTER).await,
        }
        attempt += 1;
    }
}

fn request(what: &str, why: &dyn std::fmt::Display) -> RunError {
    RunError::Request(format!("{what} failed: {why}"))
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[expect(
    clippy::disallowed_methods,
    reason = "messages are scheduled by the clock of the day, which the nodes on this machine share"
)]
fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, millis)
}
