//! Many episodes, one after the other, until a time is over.
//!
//! The sums are written after every episode, whole, so that a campaign that is interrupted keeps
//! what it found.

use std::path::Path;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::episode::{self, Episode, RunError, world_options};
use super::settings::{Nemesis, Settings};
use super::totals::Totals;
use super::{Say, Verdict, artifacts};
use crate::nemesis::FaultKind;
use crate::world::{NetworkKind, World, WorldError};

/// Episodes in a row that could not be run, after which a campaign gives up.
const ERRORS_MAX: u32 = 3;

/// What stands in `campaign.json`.
#[derive(Debug, Serialize)]
pub struct Campaign {
    pub seed: u64,
    pub asked_s: u64,
    pub elapsed_s: u64,
    pub verdict: Verdict,
    /// Faults that were asked for and cannot be injected here, and why.
    pub cannot: Vec<(String, String)>,
    pub totals: Totals,
    pub episodes: Vec<Entry>,
}

/// One episode of the list.
#[derive(Debug, Serialize)]
pub struct Entry {
    pub number: u64,
    pub replay: String,
    pub verdict: Verdict,
    /// Why it did not pass.
    pub reasons: Vec<String>,
    pub elapsed_s: u64,
    pub appends_acknowledged: u64,
    pub kept: Option<String>,
}

/// Runs episodes derived from `settings` until `time` is over; the last one ends after it.
pub async fn run(settings: &Settings, time: Duration, say: Say<'_>) -> Result<Campaign, RunError> {
    std::fs::create_dir_all(&settings.out).map_err(|source| RunError::Io {
        what: format!("making {}", settings.out.display()),
        source,
    })?;
    let possible = Possible::here(settings).await?;
    let mut campaign = Campaign {
        seed: settings.seed,
        asked_s: time.as_secs(),
        elapsed_s: 0,
        verdict: Verdict::Unknown,
        cannot: possible
            .cannot
            .iter()
            .map(|(kind, why)| (kind.to_string(), why.clone()))
            .collect(),
        totals: Totals::default(),
        episodes: Vec::new(),
    };
    let began = Instant::now();
    let mut errors = 0;
    let mut number = 0;
    while began.elapsed() < time {
        let asked = settings.of_campaign(number, |network| possible.with(network));
        number += 1;
        say(&format!("episode {number}: {}", asked.replay()));
        let episode_began = Instant::now();
        let entry = match Box::pin(episode::run(&asked, say)).await {
            Ok(episode) => {
                errors = 0;
                campaign
                    .totals
                    .add(episode.verdict, &episode.history, &episode.report);
                entry(number, &asked, &episode, episode_began.elapsed())
            }
            Err(error) => {
                errors += 1;
                campaign.totals.add_unjudged();
                Entry {
                    number,
                    replay: asked.replay(),
                    verdict: Verdict::Unknown,
                    reasons: vec![error.to_string()],
                    elapsed_s: episode_began.elapsed().as_secs(),
                    appends_acknowledged: 0,
                    kept: None,
                }
            }
        };
        tell(&entry, &campaign.totals, say);
        campaign.episodes.push(entry);
        campaign.elapsed_s = began.elapsed().as_secs();
        campaign.verdict = campaign.totals.verdict();
        write(&settings.out.join("campaign.json"), &campaign)?;
        if errors >= ERRORS_MAX {
            say("giving up: the last episodes could not be run");
            break;
        }
    }
    Ok(campaign)
}

fn entry(number: u64, asked: &Settings, episode: &Episode, took: Duration) -> Entry {
    let mut reasons = episode.reasons.clone();
    reasons.extend(
        episode
            .report
            .anomalies
            .iter()
            .map(ToString::to_string)
            .take(5),
    );
    reasons.extend(episode.oddities.first.iter().take(5).cloned());
    Entry {
        number,
        replay: asked.replay(),
        verdict: episode.verdict,
        reasons,
        elapsed_s: took.as_secs(),
        appends_acknowledged: episode.report.figures.appended_ok,
        kept: episode.kept.as_ref().map(|path| path.display().to_string()),
    }
}

fn tell(entry: &Entry, totals: &Totals, say: Say<'_>) {
    say(&format!(
        "episode {}: {} after {} s, {} appends acknowledged ({} in all, {} power cuts)",
        entry.number,
        entry.verdict,
        entry.elapsed_s,
        entry.appends_acknowledged,
        totals.appends_acknowledged,
        totals.power_cuts
    ));
    for reason in &entry.reasons {
        say(&format!("  {reason}"));
    }
    if let Some(kept) = &entry.kept {
        say(&format!("  kept in {kept}"));
    }
}

fn write(path: &Path, campaign: &Campaign) -> Result<(), RunError> {
    let text = serde_json::to_string_pretty(campaign)
        .expect("numbers, texts and lists of them can be written as JSON");
    artifacts::replace(path, &text).map_err(|source| RunError::Io {
        what: format!("writing {}", path.display()),
        source,
    })
}

/// What can be injected on this machine, found out by starting small worlds.
struct Possible {
    best: Vec<FaultKind>,
    proxy: Vec<FaultKind>,
    /// Of the faults that were asked for.
    cannot: Vec<(FaultKind, String)>,
}

impl Possible {
    async fn here(settings: &Settings) -> Result<Self, RunError> {
        let asked = match &settings.nemesis {
            Nemesis::All => FaultKind::ALL.to_vec(),
            Nemesis::These(kinds) => kinds.clone(),
        };
        let can = |cannot: &[(FaultKind, String)]| -> Vec<FaultKind> {
            let impossible = |kind: &FaultKind| cannot.iter().any(|(other, _)| other == kind);
            asked
                .iter()
                .copied()
                .filter(|kind| !impossible(kind))
                .collect()
        };
        let cannot = cannot_inject(settings, settings.network).await?;
        let best = can(&cannot);
        let proxy = match settings.network {
            NetworkKind::Best => can(&cannot_inject(settings, NetworkKind::Proxy).await?),
            _ => best.clone(),
        };
        Ok(Self {
            best,
            proxy,
            cannot: cannot
                .into_iter()
                .filter(|(kind, _)| asked.contains(kind))
                .collect(),
        })
    }

    fn with(&self, network: NetworkKind) -> &[FaultKind] {
        match network {
            NetworkKind::Proxy => &self.proxy,
            NetworkKind::Best | NetworkKind::Namespaces | NetworkKind::Plain => &self.best,
        }
    }
}

/// The faults that cannot be injected on this machine with such a network, and why.
pub async fn cannot_inject(
    settings: &Settings,
    network: NetworkKind,
) -> Result<Vec<(FaultKind, String)>, RunError> {
    let options = world_options(&Settings {
        network,
        ..settings.clone()
    });
    let world = World::start(options).await?;
    let cannot = world.cannot();
    world.cluster().kill_all().map_err(WorldError::from)?;
    Ok(cannot)
}
