//! One episode, from the start of a cluster to the verdict.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::settings::{Nemesis, Settings};
use super::{Say, Verdict, artifacts, ending};
use crate::agents::{Endpoint, Script};
use crate::checker::{self, Report};
use crate::client::wire::ChannelRef;
use crate::history::recorder::Setting;
use crate::history::{Bite, FaultRecord, History, Outcome, Recorder, RunClock, Value};
use crate::nemesis::{self, FaultKind, Step};
use crate::rng::Rng;
use crate::workload::commands::agent_section;
use crate::workload::context::{Context, NodeAddress, Oddities};
use crate::workload::rest::Rest;
use crate::workload::{self, Clients, Phase};
use crate::world::{NetworkKind, World, WorldError, WorldOptions};

/// Load before the first fault may strike, so that there is something to lose.
const WARM_UP: Duration = Duration::from_secs(1);
/// How much longer than its plan a nemesis may take to undo its last fault.
const UNDO_WITHIN: Duration = Duration::from_secs(120);
/// Clients end within their longest wait for an answer.
const CLIENTS_END_WITHIN: Duration = Duration::from_secs(30);
/// How many of a hundred calls the agent's server lets fail.
const FAILING_PERCENT: u64 = 50;
/// Attempts to make the run's server and channels.
const SETUP_ATTEMPTS_MAX: u32 = 100;
const SETUP_PAUSE: Duration = Duration::from_millis(100);
/// Between two lines about the progress.
const PROGRESS_EVERY: Duration = Duration::from_secs(10);

/// A finished episode.
pub struct Episode {
    pub verdict: Verdict,
    /// Why it did not pass.
    pub reasons: Vec<String>,
    pub history: History,
    pub report: Report,
    pub oddities: Oddities,
    /// Replicas that the nodes have closed because nobody used them, as far as processes that lived to
    /// tell know.
    pub slept: f64,
    /// Where history, logs and data are kept, if they are.
    pub kept: Option<PathBuf>,
    /// Faults that were asked for and cannot be injected here, and why.
    pub cannot: Vec<(FaultKind, String)>,
}

#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error(transparent)]
    World(#[from] WorldError),
    #[error("the run's channels could not be made: {0}")]
    Setup(String),
    #[error("{0}")]
    Request(String),
    #[error("{what}: {source}")]
    Io {
        what: String,
        #[source]
        source: std::io::Error,
    },
}

/// Runs one episode. An error means that there is nothing to judge.
pub async fn run(settings: &Settings, say: Say<'_>) -> Result<Episode, RunError> {
    // Before the nodes, which are told where it is, and until they have ended.
    let endpoint = match settings.has_commands() {
        true => Some(start_endpoint(settings).await?),
        false => None,
    };
    let world = World::start(WorldOptions {
        extra: endpoint.as_ref().map(agent_section).unwrap_or_default(),
        ..world_options(settings)
    })
    .await?;
    let (kinds, cannot) = chosen(settings, &world);
    for (kind, why) in &cannot {
        say(&format!("cannot inject {kind} here: {why}"));
    }
    let recorder = Recorder::new(RunClock::start());
    let (phase, watched) = watch::channel(Phase::Running);
    let nodes: Vec<NodeAddress> = addresses(&world);
    let channels = set_up(settings, &recorder, &nodes, &watched).await?;
    let mut context = Context::new(recorder.clone(), nodes, channels, watched);
    context.commands = match settings.has_commands() {
        true => settings.commands,
        false => 0,
    };
    let context = Arc::new(context);
    say(&format!(
        "{} nodes, {} channels, faults: {}",
        settings.nodes,
        context.channels.len(),
        crate::workload::names::listed(&kinds)
    ));

    let clients = workload::start(&context, &settings.workloads, settings.rate, settings.seed);
    let steps = nemesis::plan(&kinds, settings.time, settings.seed);
    let faults = load(&world, &context, &phase, &steps, settings, say).await;
    // Nobody listens any more only if every client has ended, which is what this asks for.
    let _ = phase.send(Phase::Settling);
    let Clients {
        mut askers,
        mut subscribers,
    } = clients;
    let mut reasons = drained(&mut askers, "a client").await;
    let slept_under_load = slept(&world).await;
    say("healing");
    let healed = recorder.clock().now();
    world.heal().await?;
    let ending = ending::look(&world, &context, healed, settings.seed, say).await;
    let _ = phase.send(Phase::Done);
    reasons.extend(drained(&mut subscribers, "a subscriber").await);

    if let Some(endpoint) = &endpoint {
        tell_calls(endpoint, say);
    }
    reasons.extend(toothless(&kinds, &faults, settings, &cannot));
    for fault in faults {
        recorder.fault(fault);
    }
    let setting = Setting {
        seed: settings.seed,
        nodes: world.cluster().ids(),
        channels: context
            .channels
            .iter()
            .map(|channel| format!("{}/{}", channel.server, channel.channel))
            .collect(),
    };
    let history = recorder.history(setting, Some(ending));
    let slept = slept(&world).await.max(slept_under_load);
    // The check needs the processors for itself, and nobody needs the nodes any more.
    world.cluster().kill_all().map_err(WorldError::from)?;
    let (history, report) = checked(history).await;
    let oddities = context.oddities();
    let verdict = judge(&report, &oddities, &mut reasons);
    let mut episode = Episode {
        verdict,
        reasons,
        history,
        report,
        oddities,
        slept,
        kept: None,
        cannot,
    };
    if verdict != Verdict::Passed || settings.keep {
        episode.kept = Some(keep(settings, &world, &episode)?);
    }
    Ok(episode)
}

/// The agent's server of a run with commands. It must be reachable for the nodes.
async fn start_endpoint(settings: &Settings) -> Result<Endpoint, RunError> {
    if !matches!(settings.network, NetworkKind::Plain | NetworkKind::Proxy) {
        let why = "commands need the network to be plain or proxy: in a namespace of its own a node \
                   does not reach the agent's server";
        return Err(RunError::Setup(why.to_owned()));
    }
    let script = Script::Seeded {
        seed: settings.seed,
        failing: FAILING_PERCENT,
    };
    let started = Endpoint::start(script).await;
    started.map_err(|source| RunError::Io {
        what: "starting the agent's server".to_owned(),
        source,
    })
}

fn tell_calls(endpoint: &Endpoint, say: Say<'_>) {
    let ledger = endpoint.ledger();
    let calls: u64 = ledger.values().map(|asked| asked.calls).sum();
    let most = ledger.values().map(|asked| asked.calls).max().unwrap_or(0);
    let twice = ledger.values().filter(|asked| asked.answered > 1).count();
    say(&format!(
        "the agent's server was asked for {} commands in {calls} calls, {most} for one at the most; \
         it answered {twice} more than once",
        ledger.len()
    ));
}

/// Replicas that were closed because nobody used them, by nodes that run still and say so.
async fn slept(world: &World) -> f64 {
    world.slept().await.values().sum()
}

/// The faults that this world can inject and those that were asked for and it cannot.
fn chosen(settings: &Settings, world: &World) -> (Vec<FaultKind>, Vec<(FaultKind, String)>) {
    let cannot = world.cannot();
    let asked: Vec<FaultKind> = match &settings.nemesis {
        Nemesis::All => FaultKind::ALL.to_vec(),
        Nemesis::These(kinds) => kinds.clone(),
    };
    asked_apart(&asked, &cannot)
}

fn asked_apart(
    asked: &[FaultKind],
    cannot: &[(FaultKind, String)],
) -> (Vec<FaultKind>, Vec<(FaultKind, String)>) {
    let impossible = |kind: &FaultKind| cannot.iter().any(|(other, _)| other == kind);
    (
        asked
            .iter()
            .copied()
            .filter(|kind| !impossible(kind))
            .collect(),
        cannot
            .iter()
            .filter(|(kind, _)| asked.contains(kind))
            .cloned()
            .collect(),
    )
}

pub fn world_options(settings: &Settings) -> WorldOptions {
    WorldOptions {
        seed: settings.seed,
        binary: settings.binary.clone(),
        network: settings.network,
        raft: settings.raft(),
        environment: settings.environment.clone(),
        ..WorldOptions::new(settings.nodes)
    }
}

fn addresses(world: &World) -> Vec<NodeAddress> {
    let cluster = world.cluster();
    cluster
        .ids()
        .into_iter()
        .map(|id| NodeAddress {
            id,
            api: cluster.api_addr(id),
        })
        .collect()
}

/// The run's server and its channels. These are operations of the history too.
async fn set_up(
    settings: &Settings,
    recorder: &Recorder,
    nodes: &[NodeAddress],
    phase: &watch::Receiver<Phase>,
) -> Result<Vec<ChannelRef>, RunError> {
    let context = Context::new(recorder.clone(), nodes.to_vec(), Vec::new(), phase.clone());
    let mut rest = Rest::new(Arc::new(context));
    let mut rng = Rng::new(settings.seed);
    let mut why = String::new();
    let mut server: Option<String> = None;
    let mut channels: Vec<ChannelRef> = Vec::new();
    for _ in 0..SETUP_ATTEMPTS_MAX {
        let node = *rng.pick(nodes);
        let outcome = match &server {
            None => rest.create_server(node, "the run").await,
            Some(id) => {
                let name = format!("channel {}", channels.len());
                rest.create_channel(node, id, &name).await
            }
        };
        match outcome {
            Outcome::Ok {
                value: Value::Created(id),
            } => match &server {
                None => server = Some(id),
                Some(server) => channels.push(ChannelRef {
                    server: server.clone(),
                    channel: id,
                }),
            },
            other => {
                why = format!("{other:?}");
                tokio::time::sleep_until(Instant::now() + SETUP_PAUSE).await;
            }
        }
        if channels.len() as u64 == settings.channels() {
            return Ok(channels);
        }
    }
    Err(RunError::Setup(why))
}

/// The load's time, with its faults; longer if the nemesis needs longer to undo them.
async fn load(
    world: &World,
    context: &Arc<Context>,
    phase: &watch::Sender<Phase>,
    steps: &[Step],
    settings: &Settings,
    say: Say<'_>,
) -> Vec<FaultRecord> {
    let progress = async {
        let mut ticks = tokio::time::interval(PROGRESS_EVERY);
        ticks.tick().await;
        loop {
            ticks.tick().await;
            let seconds = context.clock.now() / 1_000_000_000;
            say(&format!(
                "{seconds} s: {} operations",
                context.recorder.operations()
            ));
        }
    };
    let work = async {
        let began = Instant::now();
        tokio::time::sleep_until(began + WARM_UP).await;
        let offset = Duration::from_nanos(context.clock.now());
        let steps: Vec<Step> = steps
            .iter()
            .map(|step| Step {
                at: step.at + offset,
                ..*step
            })
            .collect();
        let channel = context
            .channels
            .first()
            .map(|channel| channel.channel.as_str());
        let until = offset + settings.time + UNDO_WITHIN;
        let leader = || world.leader(channel);
        let rest = |rests| {
            phase.send_replace(match rests {
                true => Phase::Resting,
                false => Phase::Running,
            });
        };
        let striking = nemesis::run(world, &steps, &context.clock, until, leader, rest);
        let faults = Box::pin(striking).await;
        tokio::time::sleep_until(began + settings.time).await;
        faults
    };
    tokio::select! {
        faults = work => faults,
        () = progress => Vec::new(),
    }
}

/// Waits for tasks that were told to end; what went wrong with them.
async fn drained(tasks: &mut tokio::task::JoinSet<()>, who: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    let waiting = async {
        while let Some(ended) = tasks.join_next().await {
            if let Err(error) = ended {
                wrong.push(format!("{who} failed: {error}"));
            }
        }
    };
    if tokio::time::timeout(CLIENTS_END_WITHIN, waiting)
        .await
        .is_err()
    {
        wrong.push(format!("{who} did not end"));
        tasks.abort_all();
    }
    wrong
}

/// Why the faults prove less than was asked for.
fn toothless(
    kinds: &[FaultKind],
    faults: &[FaultRecord],
    settings: &Settings,
    cannot: &[(FaultKind, String)],
) -> Vec<String> {
    let mut reasons = Vec::new();
    for fault in faults {
        if let Bite::No { evidence } = &fault.bite {
            reasons.push(format!("{} did not bite: {evidence}", fault.kind));
        }
    }
    if let Nemesis::These(_) = settings.nemesis {
        for kind in kinds {
            if !faults.iter().any(|fault| fault.kind == kind.name()) {
                reasons.push(format!(
                    "{kind} was asked for, and the time was too short for it"
                ));
            }
        }
        for (kind, why) in cannot {
            reasons.push(format!("{kind} cannot be injected here: {why}"));
        }
    }
    reasons
}

async fn checked(history: History) -> (History, Report) {
    let work = tokio::task::spawn_blocking(move || {
        let report = checker::check(&history);
        (history, report)
    });
    match work.await {
        Ok(done) => done,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

fn judge(report: &Report, oddities: &Oddities, reasons: &mut Vec<String>) -> Verdict {
    for (property, why) in &report.unchecked {
        reasons.push(format!("{property} was not checked: {why}"));
    }
    if !report.is_clean() || oddities.count > 0 {
        Verdict::Failed
    } else if reasons.is_empty() {
        Verdict::Passed
    } else {
        Verdict::Unknown
    }
}

fn keep(settings: &Settings, world: &World, episode: &Episode) -> Result<PathBuf, RunError> {
    let directory = settings.out.join(format!("seed-{}", settings.seed));
    let io = |what: &str| {
        let what = format!("{what} in {}", directory.display());
        move |source| RunError::Io { what, source }
    };
    artifacts::keep_history(&directory, &episode.history, &episode.report)
        .map_err(io("keeping the history"))?;
    artifacts::keep_nodes(&directory, world.cluster()).map_err(io("keeping the nodes' files"))?;
    let mut text = settings.replay();
    for line in episode.reasons.iter().chain(&episode.oddities.first) {
        text.push('\n');
        text.push_str(line);
    }
    text.push('\n');
    std::fs::write(directory.join("replay.txt"), text).map_err(io("keeping the replay line"))?;
    Ok(directory)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(kind: &str, bit: bool) -> FaultRecord {
        let evidence = "e".to_owned();
        FaultRecord {
            kind: kind.to_owned(),
            detail: String::new(),
            nodes: vec![1],
            began: 0,
            ended: None,
            bite: if bit {
                Bite::Yes { evidence }
            } else {
                Bite::No { evidence }
            },
        }
    }

    fn asked(kinds: &[FaultKind]) -> Settings {
        Settings {
            nemesis: Nemesis::These(kinds.to_vec()),
            ..Settings::new(1)
        }
    }

    #[test]
    fn faults_that_prove_nothing_are_reasons() {
        let kinds = [FaultKind::Kill, FaultKind::Pause];
        let settings = asked(&kinds);
        let bit = [record("kill", true), record("pause", true)];
        assert!(toothless(&kinds, &bit, &settings, &[]).is_empty());
        let one = [record("kill", true), record("kill", false)];
        let reasons = toothless(&kinds, &one, &settings, &[]);
        assert_eq!(reasons.len(), 2, "{reasons:?}");
        let all = Settings::new(1);
        let cannot = [(FaultKind::Loss, "no root".to_owned())];
        assert!(toothless(&kinds, &bit, &all, &cannot).is_empty());
        assert_eq!(toothless(&kinds, &bit, &settings, &cannot).len(), 1);
    }

    #[test]
    fn a_broken_promise_fails_whatever_else_is_unknown() {
        let clean = Report::default();
        let none = Oddities::default();
        assert_eq!(judge(&clean, &none, &mut Vec::new()), Verdict::Passed);
        let mut reasons = vec!["a fault did not bite".to_owned()];
        assert_eq!(judge(&clean, &none, &mut reasons), Verdict::Unknown);
        let odd = Oddities {
            count: 1,
            ..Oddities::default()
        };
        assert_eq!(judge(&clean, &odd, &mut reasons), Verdict::Failed);
        let mut broken = Report::default();
        broken.counts.insert(crate::checker::Property::P1, 1);
        assert_eq!(judge(&broken, &none, &mut reasons), Verdict::Failed);
    }

    #[test]
    fn what_cannot_be_injected_is_told_apart() {
        let cannot = [
            (FaultKind::Loss, "no root".to_owned()),
            (FaultKind::Delay, "no root".to_owned()),
        ];
        let (can, not) = asked_apart(&[FaultKind::Kill, FaultKind::Loss], &cannot);
        assert_eq!(can, [FaultKind::Kill]);
        assert_eq!(not.len(), 1);
    }
}
