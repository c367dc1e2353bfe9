//! How long a channel cannot be written to after its leader was killed.
//!
//! The gap of a channel: from the kill (SIGKILL has been delivered) to the first acknowledgement
//! of a write that was invoked after it. The writer is a client that repeats its write with the
//! same key on the other nodes until one acknowledges. Only channels that the killed node led are
//! measured. All channels are open and were written to; with many, some are sampled, because a
//! writer for each would measure the processors instead.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::join_all;
use futures_util::stream;
use serde::Serialize;
use tokio::time::Instant;

use super::Say;
use super::episode::RunError;
use super::totals::{Percentiles, percentiles};
use crate::client::api::Api;
use crate::client::http::Http;
use crate::client::wire::ChannelRef;
use crate::cluster::{Cluster, ClusterOptions};
use crate::rng::Rng;
use crate::wait::wait_until;
use crate::world::WorldError;

/// Channels that have a writer.
const SAMPLED_MAX: usize = 100;
/// Requests at a time while channels are made and touched.
const AT_ONCE: usize = 8;
/// How long a client waits for an answer before it asks the next node.
const ATTEMPT_WITHIN: Duration = Duration::from_secs(2);
/// Between two attempts at a write that is refused.
const ATTEMPT_PAUSE: Duration = Duration::from_millis(20);
/// A write that takes longer than this is reported as such.
const GAP_MAX: Duration = Duration::from_secs(60);
/// For a restarted node to be ready and level.
const LEVEL_WITHIN: Duration = Duration::from_secs(120);

#[derive(Debug, Clone)]
pub struct GapSettings {
    pub channels: usize,
    pub kills: u32,
    pub nodes: u64,
    pub seed: u64,
    pub binary: Option<PathBuf>,
}

#[derive(Debug, Clone, Serialize)]
pub struct Gaps {
    pub channels: usize,
    pub sampled: usize,
    pub kills: u32,
    /// Of all measured gaps.
    pub gap: Percentiles,
    /// Writes that no node acknowledged within a minute.
    pub never: u64,
}

/// What a gap is, for whoever reads the figures.
pub const DEFINITION: &str = "gap: from the SIGKILL of the node that leads most channels to the \
    first acknowledgement of a write invoked after it, for each sampled channel that this node \
    led, as seen by a client that repeats the write with the same key on the other nodes";

pub async fn run(settings: &GapSettings, say: Say<'_>) -> Result<Gaps, RunError> {
    let cluster = Cluster::start(ClusterOptions {
        binary: settings.binary.clone(),
        directory_prefix: format!("accord-run-{}-", std::process::id()),
        ..ClusterOptions::new(settings.nodes)
    })
    .await
    .map_err(WorldError::from)?;
    let mut rng = Rng::new(settings.seed);
    let channels = channels(&cluster, settings.channels).await?;
    say(&format!("{} channels made", channels.len()));
    let mut gaps: Vec<u32> = Vec::new();
    let mut never = 0;
    let mut sampled = 0;
    for kill in 1..=settings.kills {
        touch(&cluster, &channels, kill).await?;
        let sample = sample(&channels, &mut rng);
        sampled = sample.len();
        let (victim, led) = most_leading(&cluster, &sample).await?;
        cluster.kill(victim).map_err(WorldError::from)?;
        let killed = Instant::now();
        let others = cluster.apis(&cluster.others(victim));
        let writes = led
            .iter()
            .enumerate()
            .map(|(place, channel)| first_write(&others, place, channel, kill, killed));
        let measured = join_all(writes).await;
        never += measured.iter().filter(|gap| gap.is_none()).count() as u64;
        let measured: Vec<u32> = measured.into_iter().flatten().collect();
        let spread = percentiles(measured.clone());
        say(&format!(
            "kill {kill}: node {victim} led {} of {} sampled channels; p50 {} ms, p99 {} ms, \
             longest {} ms",
            led.len(),
            sample.len(),
            spread.p50_ms,
            spread.p99_ms,
            spread.max_ms
        ));
        gaps.extend(measured);
        cluster.start_node(victim).map_err(WorldError::from)?;
        cluster.wait_ready(victim).await.map_err(WorldError::from)?;
        wait_level(&cluster, &sample).await?;
    }
    Ok(Gaps {
        channels: channels.len(),
        sampled,
        kills: settings.kills,
        gap: percentiles(gaps),
        never,
    })
}

async fn channels(cluster: &Cluster, count: usize) -> Result<Vec<ChannelRef>, RunError> {
    let setup = |error: crate::client::api::ApiError| RunError::Setup(error.to_string());
    let api = cluster.api(1);
    let server = api.create_server("gap").await.map_err(setup)?.id;
    let made = stream::iter(0..count)
        .map(|number| {
            let (api, server) = (api.clone(), server.clone());
            async move {
                let name = format!("channel {number}");
                let channel = api.create_channel(&server, &name).await?.id;
                Ok(ChannelRef { server, channel })
            }
        })
        .buffered(AT_ONCE)
        .collect::<Vec<_>>()
        .await;
    made.into_iter().collect::<Result<_, _>>().map_err(setup)
}

/// Writes to every channel, through any node, so that all are open.
async fn touch(cluster: &Cluster, channels: &[ChannelRef], round: u32) -> Result<(), RunError> {
    let apis = cluster.apis(&cluster.ids());
    let written = stream::iter(channels.iter().enumerate())
        .map(|(place, channel)| {
            let mut turn = apis.clone();
            turn.rotate_left(place % apis.len());
            async move {
                let key = format!("touch-{round}");
                crate::client::api::post_until_acknowledged(
                    &turn,
                    channel,
                    "gap",
                    &format!("touch {round}"),
                    &key,
                    GAP_MAX,
                )
                .await
            }
        })
        .buffered(AT_ONCE)
        .collect::<Vec<_>>()
        .await;
    for result in written {
        result.map_err(|error| RunError::Setup(error.to_string()))?;
    }
    Ok(())
}

fn sample(channels: &[ChannelRef], rng: &mut Rng) -> Vec<ChannelRef> {
    let mut left = channels.to_vec();
    let mut sample = Vec::new();
    while !left.is_empty() && sample.len() < SAMPLED_MAX {
        let place = usize::try_from(rng.below(left.len() as u64)).unwrap_or(0);
        sample.push(left.swap_remove(place));
    }
    sample
}

/// The node that leads most of these channels, and which.
async fn most_leading(
    cluster: &Cluster,
    sample: &[ChannelRef],
) -> Result<(u64, Vec<ChannelRef>), RunError> {
    let api = cluster.api(1);
    let leaders = stream::iter(sample)
        .map(|channel| {
            let api = api.clone();
            async move { (channel, api.leader_of(channel, LEVEL_WITHIN).await) }
        })
        .buffered(AT_ONCE)
        .collect::<Vec<_>>()
        .await;
    let mut led: BTreeMap<u64, Vec<ChannelRef>> = BTreeMap::new();
    for (channel, leader) in leaders {
        let leader = leader.map_err(|error| RunError::Setup(error.to_string()))?;
        led.entry(leader).or_default().push(channel.clone());
    }
    led.into_iter()
        .max_by_key(|(_, channels)| channels.len())
        .ok_or_else(|| RunError::Setup("no channel to measure".to_owned()))
}

/// Milliseconds from the kill to the acknowledgement; none if there was none in time.
async fn first_write(
    others: &[Api],
    place: usize,
    channel: &ChannelRef,
    kill: u32,
    killed: Instant,
) -> Option<u32> {
    let key = format!("gap-{kill}");
    let text = format!("after kill {kill}");
    for attempt in place.. {
        // A client of its own, as users have: no connection is shared.
        let known = &others[attempt % others.len()];
        let api = Api::new(Http::new(), known.node(), known.address());
        let posting = Box::pin(api.post_keyed(channel, "gap", &text, &key));
        if let Ok(Ok(_)) = tokio::time::timeout(ATTEMPT_WITHIN, posting).await {
            let gap = killed.elapsed().as_millis();
            return Some(u32::try_from(gap).unwrap_or(u32::MAX));
        }
        if killed.elapsed() > GAP_MAX {
            break;
        }
        tokio::time::sleep_until(Instant::now() + ATTEMPT_PAUSE).await;
    }
    None
}

/// Every node shows the same heads, and knows a leader.
async fn wait_level(cluster: &Cluster, sample: &[ChannelRef]) -> Result<(), RunError> {
    let apis = cluster.apis(&cluster.ids());
    wait_until("level nodes", LEVEL_WITHIN, || async {
        for channel in sample {
            let looks = join_all(apis.iter().map(|api| api.channel_view(&channel.channel))).await;
            let mut heads = Vec::new();
            for look in looks {
                let view = look.map_err(|error| error.to_string())?;
                if view.leader.is_none() {
                    return Err(format!("{} has no leader", channel.channel));
                }
                heads.push(view.head);
            }
            heads.dedup();
            if heads.len() != 1 {
                return Err(format!("the heads of {} are {heads:?}", channel.channel));
            }
        }
        Ok(())
    })
    .await
    .map_err(|error| RunError::Setup(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_has_no_channel_twice() {
        let channels: Vec<ChannelRef> = (0..300)
            .map(|number| ChannelRef {
                server: "s".to_owned(),
                channel: number.to_string(),
            })
            .collect();
        let mut names: Vec<String> = sample(&channels, &mut Rng::new(1))
            .into_iter()
            .map(|channel| channel.channel)
            .collect();
        assert_eq!(names.len(), SAMPLED_MAX);
        names.sort();
        names.dedup();
        assert_eq!(names.len(), SAMPLED_MAX);
        assert_eq!(sample(&channels[..3], &mut Rng::new(1)).len(), 3);
    }
}
