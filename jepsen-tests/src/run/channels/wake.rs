//! First writes to sleeping channels.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::bench::Bench;
use super::catalogue::Catalogue;
use super::client::{ANSWER_WITHIN, Client};
use super::figures::{Outcomes, Sleep, Wake};
use super::idle::percent;
use super::picks::Picks;
use super::prepare::{body, text};
use super::schedule::{Ended, Schedule, Shot, Slots, open_loop};
use super::spread::Spread;
use super::{BenchError, Settings, Step, usage};
use crate::Rng;
use crate::run::Say;

/// A rate is sustained if at least this share of it was acknowledged, the time of the last answers
/// included …
const SUSTAINED_SHARE: f64 = 0.95;
/// … and at most this share of the requests failed.
const SUSTAINED_ERRORS: f64 = 0.001;

/// Writes of one load.
#[derive(Debug)]
pub struct Plan {
    step: Step,
    per_s: f64,
    time: Duration,
    message_bytes: usize,
    sleep_before: Sleep,
}

impl Plan {
    /// `step` is one of the two that wake.
    pub fn new(step: Step, settings: &Settings, sleep_before: Sleep) -> Self {
        Self {
            step,
            per_s: match step {
                Step::Saturate => settings.saturate_per_s,
                _ => settings.wake_per_s,
            },
            time: settings.wake_time,
            message_bytes: settings.message_bytes,
            sleep_before,
        }
    }

    fn wished(&self) -> u64 {
        (self.per_s * self.time.as_secs_f64()).round().max(1.0) as u64
    }
}

/// One post, ready to be sent.
#[derive(Debug, Clone)]
pub struct Post {
    pub client: Arc<Client>,
    pub target: String,
    pub body: String,
}

impl Post {
    pub async fn send(self) -> Ended {
        let sent = self
            .client
            .post(&self.target, &self.body, None, ANSWER_WITHIN);
        match sent.await {
            Ok(_) => Ended::Acknowledged,
            Err(failure) => Ended::Failed(failure),
        }
    }
}

/// Posts to as many channels as rate and time ask for, each once, each through a node of chance.
pub async fn wake(
    bench: &Bench,
    catalogue: &Catalogue,
    plan: Plan,
    picks: &mut Picks,
    rng: &mut Rng,
    say: Say<'_>,
) -> Result<Wake, BenchError> {
    let wished = plan.wished();
    let chosen = picks.take(wished);
    let count = chosen.len() as u64;
    say(&format!(
        "{}: {count} channels at {}/s",
        plan.step, plan.per_s
    ));
    let posts: Vec<Post> = chosen
        .into_iter()
        .map(|number| Post {
            client: Arc::clone(rng.pick(bench.clients())),
            target: catalogue.channel(number).messages(),
            body: body("waker", &text(rng, plan.message_bytes)),
        })
        .collect();

    let nodes_before = bench.cpu_times()?;
    let client_before = own_cpu_time()?;
    let started = Instant::now();
    let shots = fire(posts, plan.per_s).await?;
    let seconds = started.elapsed().as_secs_f64();
    let nodes: Duration = bench.cpu_times()?.into_iter().sum();
    let client = own_cpu_time()?.saturating_sub(client_before);

    let outcomes = outcomes(&shots);
    let wake = Wake {
        sleep_before: plan.sleep_before,
        per_s: plan.per_s,
        seconds,
        shortened: count < wished,
        sustained: is_sustained(&outcomes, plan.per_s, seconds),
        outcomes,
        nodes_cpu_percent: percent(
            nodes.saturating_sub(nodes_before.into_iter().sum()),
            seconds,
        ),
        client_cpu_percent: percent(client, seconds),
    };
    say(&format!(
        "{}: {} of {count} acknowledged in {seconds:.1} s, p50 {:.1} ms, p99 {:.1} ms",
        plan.step,
        wake.outcomes.acknowledged,
        wake.outcomes.latency.p50_ms,
        wake.outcomes.latency.p99_ms
    ));
    Ok(wake)
}

/// Sends each post when it is due.
pub async fn fire(posts: Vec<Post>, per_second: f64) -> Result<Vec<Shot>, BenchError> {
    let slots = Slots::start(Schedule {
        per_second,
        count: Some(posts.len() as u64),
    });
    let mut slots = slots.map_err(|error| BenchError::io_of("the pacing thread", error))?;
    let job = |slot: super::schedule::Slot| {
        let place = usize::try_from(slot.number).unwrap_or(0);
        posts[place].clone().send()
    };
    Ok(open_loop(&mut slots, job).await)
}

pub fn outcomes(shots: &[Shot]) -> Outcomes {
    let mut outcomes = Outcomes::default();
    let mut times = Vec::new();
    for shot in shots {
        match &shot.ended {
            Ended::Skipped => continue,
            Ended::Acknowledged => times.push(shot.took),
            Ended::Failed(failure) => {
                *outcomes.errors.entry(failure.label()).or_default() += 1;
                let first = outcomes.error_first.take();
                outcomes.error_first = first.or_else(|| Some(failure.to_string()));
            }
        }
        outcomes.asked += 1;
    }
    outcomes.acknowledged = times.len() as u64;
    outcomes.latency = Spread::of(times);
    outcomes
}

fn is_sustained(outcomes: &Outcomes, per_s: f64, seconds: f64) -> bool {
    let failed = outcomes.asked - outcomes.acknowledged;
    let rate = outcomes.acknowledged as f64 / seconds;
    failed as f64 <= SUSTAINED_ERRORS * outcomes.asked as f64 && rate >= SUSTAINED_SHARE * per_s
}

fn own_cpu_time() -> Result<Duration, BenchError> {
    let time = usage::cpu_time(std::process::id());
    time.map_err(|error| BenchError::io_of("reading /proc", error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::channels::client::Failure;

    fn shot(took_ms: u64, ended: Ended) -> Shot {
        Shot {
            due: Instant::now(),
            took: Duration::from_millis(took_ms),
            ended,
        }
    }

    #[test]
    fn only_acknowledged_writes_have_latencies() {
        let refused = Failure::Refused {
            status: 503,
            body: "busy".to_owned(),
        };
        let shots = [
            shot(1, Ended::Acknowledged),
            shot(3, Ended::Acknowledged),
            shot(900, Ended::Failed(refused)),
            shot(950, Ended::Failed(Failure::Late)),
            shot(0, Ended::Skipped),
        ];
        let outcomes = outcomes(&shots);
        assert_eq!((outcomes.asked, outcomes.acknowledged), (4, 2));
        assert!((outcomes.latency.max_ms - 3.0).abs() < f64::EPSILON);
        assert_eq!(outcomes.errors["503"], 1);
        assert_eq!(outcomes.errors["late"], 1);
        assert_eq!(outcomes.error_first.unwrap(), "refused with 503: busy");
    }

    #[test]
    fn a_rate_is_sustained_if_neither_time_nor_errors_say_otherwise() {
        let outcomes = |asked, acknowledged| Outcomes {
            asked,
            acknowledged,
            ..Outcomes::default()
        };
        assert!(is_sustained(&outcomes(6_000, 6_000), 200.0, 30.0));
        assert!(is_sustained(&outcomes(6_000, 5_995), 200.0, 30.1));
        assert!(!is_sustained(&outcomes(6_000, 6_000), 200.0, 40.0));
        assert!(!is_sustained(&outcomes(6_000, 5_900), 200.0, 30.0));
    }
}
