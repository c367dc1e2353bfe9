//! `accord-jepsen timers`: how punctual scheduled messages are.

use std::time::Duration;

use accord_jepsen::run::Verdict;
use accord_jepsen::run::timers::{self, TimerSettings};
use accord_jepsen::workload::names;
use clap::Args;

use crate::{Binary, NODES_MAX, SAY, new_seed};

#[derive(Debug, Args)]
pub struct Timers {
    /// Each has one scheduled message
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    channels: u32,
    /// The stretch of time in which all messages are due
    #[arg(long, default_value = "60s", value_parser = names::duration)]
    window: Duration,
    /// From the first request for a message to the first message's time
    #[arg(long, default_value = "120s", value_parser = names::duration)]
    lead: Duration,
    /// Kill all nodes at once while the channels sleep, and start them again
    #[arg(long)]
    restart: bool,
    /// Requests at a time while channels are made and read
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..=1_000))]
    at_once: u16,
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=NODES_MAX))]
    nodes: u64,
    /// Which times are chosen; chosen itself if it is not given
    #[arg(long)]
    seed: Option<u64>,
    #[command(flatten)]
    binary: Binary,
}

pub async fn perform(options: Timers) -> Result<Verdict, String> {
    let settings = TimerSettings {
        channels: options.channels as usize,
        window: options.window,
        lead: options.lead,
        restart: options.restart,
        at_once: options.at_once.into(),
        nodes: options.nodes,
        seed: options.seed.unwrap_or_else(new_seed),
        binary: Some(options.binary.found()?),
    };
    SAY(&format!("seed {}", settings.seed));
    let measured = Box::pin(timers::run(&settings, SAY)).await;
    let found = measured.map_err(|error| error.to_string())?;
    let late = found.lateness;
    SAY(&format!(
        "{} messages: p50 {} ms, p99 {} ms, latest {} ms late by their timestamps; {} over 2 s; {:.1} ms \
         on average until they were committed; {} missing, {} doubled, {} early; {} channels open before",
        found.channels,
        late.p50_ms,
        late.p99_ms,
        late.max_ms,
        found.over_2_s,
        found.mean_to_commit_ms,
        found.missing,
        found.doubled,
        found.early,
        found.awake_before,
    ));
    Ok(match found.is_right() {
        true => Verdict::Passed,
        false => Verdict::Failed,
    })
}
