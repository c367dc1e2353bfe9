//! What one episode is to be, and the line that runs it again.

use std::path::PathBuf;
use std::time::Duration;

use crate::cluster::config::RaftOptions;
use crate::nemesis::FaultKind;
use crate::rng::Rng;
use crate::workload::Workload;
use crate::workload::names::{duration_text, listed};
use crate::world::NetworkKind;

/// Names of the kinds of network, as the command line takes them.
pub const NETWORKS: [(&str, NetworkKind); 4] = [
    ("best", NetworkKind::Best),
    ("namespaces", NetworkKind::Namespaces),
    ("proxy", NetworkKind::Proxy),
    ("plain", NetworkKind::Plain),
];

/// Appends per second of an episode for which none are asked for.
pub const RATE_DEFAULT: f64 = 120.0;
/// Commands of an episode for which no number is asked for.
pub const COMMANDS_DEFAULT: u64 = 100;
/// Fewest and most channels that a seed chooses.
const CHANNELS: (u64, u64) = (3, 9);
/// Most kinds of fault that a seed mixes in one episode of a campaign.
const KINDS_MAX: u64 = 4;
/// The idle time of the episodes of a campaign in which channels fall asleep all the time, in
/// milliseconds.
pub const DOZE_MS: u64 = 200;
/// Shortest and longest load of an episode of a campaign, in seconds.
const CAMPAIGN_LOAD_S: (u64, u64) = (30, 75);

#[derive(Debug, Clone)]
pub struct Settings {
    pub seed: u64,
    pub nodes: u64,
    pub nemesis: Nemesis,
    /// How long the load and the faults last; the healing and the last look come after it.
    pub time: Duration,
    pub workloads: Vec<Workload>,
    pub network: NetworkKind,
    /// Appends per second of all clients together.
    pub rate: f64,
    /// How many channels; none for as many as the seed chooses.
    pub channels_asked: Option<u64>,
    /// Commands of an episode with that workload.
    pub commands: u64,
    /// How long nobody has used a channel when it falls asleep; none for the product's own time, in
    /// which no channel of a run does.
    pub idle_ms: Option<u64>,
    /// Keep history, logs and data of an episode that passed, too.
    pub keep: bool,
    /// Where to keep them.
    pub out: PathBuf,
    /// The product; none for the file that `ACCORD_BIN` names.
    pub binary: Option<PathBuf>,
    /// For the product's processes.
    pub environment: Vec<(String, String)>,
}

/// Which faults to inject.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Nemesis {
    /// All that can be injected here.
    All,
    /// These, and a verdict of unknown if one of them cannot be injected here.
    These(Vec<FaultKind>),
}

impl Nemesis {
    pub fn text(&self) -> String {
        match self {
            Self::All => "all".to_owned(),
            Self::These(kinds) if kinds.is_empty() => "none".to_owned(),
            Self::These(kinds) => listed(kinds),
        }
    }
}

impl Settings {
    pub fn new(seed: u64) -> Self {
        Self {
            seed,
            nodes: 3,
            nemesis: Nemesis::All,
            time: Duration::from_secs(60),
            workloads: Workload::USUAL.to_vec(),
            network: NetworkKind::Best,
            rate: RATE_DEFAULT,
            channels_asked: None,
            commands: COMMANDS_DEFAULT,
            idle_ms: None,
            keep: false,
            out: PathBuf::from("jepsen-out"),
            binary: None,
            environment: Vec::new(),
        }
    }

    /// The line that runs this episode again. What its seed decides is not repeated in it.
    pub fn replay(&self) -> String {
        let mut line = format!(
            "make jepsen SEED={} NEMESIS={} TIME={} NODES={} NETWORK={}",
            self.seed,
            self.nemesis.text(),
            duration_text(self.time),
            self.nodes,
            network_name(self.network)
        );
        let mut arguments = Vec::new();
        if self.rate != RATE_DEFAULT {
            arguments.push(format!("--rate {}", self.rate));
        }
        if let Some(idle_ms) = self.idle_ms {
            arguments.push(format!("--idle-ms {idle_ms}"));
        }
        if let Some(channels) = self.channels_asked {
            arguments.push(format!("--channels {channels}"));
        }
        if self.has_commands() {
            arguments.push(format!("--commands {}", self.commands));
        }
        if self.workloads != Workload::USUAL {
            arguments.push(format!("--workload {}", listed(&self.workloads)));
        }
        if !arguments.is_empty() {
            line.push_str(&format!(" ARGS='{}'", arguments.join(" ")));
        }
        for (key, value) in &self.environment {
            line = format!("{key}={value} {line}");
        }
        line
    }

    /// How many channels the load goes to.
    pub fn channels(&self) -> u64 {
        if let Some(channels) = self.channels_asked {
            return channels;
        }
        let mut rng = Rng::new(self.seed ^ 0xc4a7);
        CHANNELS.0 + rng.below(CHANNELS.1 - CHANNELS.0 + 1)
    }

    /// Whether an agent is called.
    pub fn has_commands(&self) -> bool {
        self.workloads.contains(&Workload::Commands)
    }

    /// Whether clients are to rest, so that channels sleep.
    fn lulls(&self) -> bool {
        match &self.nemesis {
            Nemesis::All => true,
            Nemesis::These(kinds) => kinds.contains(&FaultKind::Lull),
        }
    }

    /// Snapshots so often that they happen in an episode, or as seldom as the product does.
    pub fn raft(&self) -> RaftOptions {
        let mut rng = Rng::new(self.seed ^ 0x5a47);
        let (after, keep) = match rng.below(4) {
            0 => (None, None),
            1 => (Some(500), Some(50)),
            2 => (Some(120), Some(20)),
            _ => (Some(40), Some(8)),
        };
        RaftOptions {
            snapshot_after_entries: after,
            snapshot_keep_entries: keep,
            idle_ms: self.idle_ms.or(self.lulls().then_some(DOZE_MS)),
            ..RaftOptions::default()
        }
    }

    /// The `number`th episode of a campaign that was asked for with these settings: its seed, time,
    /// size and faults follow from the campaign's seed. `possible` says which faults a network
    /// allows.
    pub fn of_campaign<'a>(
        &self,
        number: u64,
        possible: impl Fn(NetworkKind) -> &'a [FaultKind],
    ) -> Self {
        let mut rng = Rng::new(
            self.seed
                .wrapping_add(number.wrapping_mul(0xd1b5_4a32_d192_ed03)),
        );
        let seed = rng.next_u64() % 1_000_000_000;
        let seconds = CAMPAIGN_LOAD_S.0 + rng.below(CAMPAIGN_LOAD_S.1 - CAMPAIGN_LOAD_S.0 + 1);
        let nodes = if rng.below(5) == 0 { 5 } else { 3 };
        let proxied = rng.below(6) == 0;
        let dozes = Rng::new(seed ^ 0xd02e).below(3) == 0;
        let network = match self.network {
            NetworkKind::Best if proxied => NetworkKind::Proxy,
            asked => asked,
        };
        Self {
            seed,
            nodes,
            nemesis: Nemesis::These(mixed(possible(network), &mut rng)),
            time: Duration::from_secs(seconds),
            network,
            idle_ms: self.idle_ms.or(dozes.then_some(DOZE_MS)),
            ..self.clone()
        }
    }
}

/// One to [`KINDS_MAX`] different kinds.
fn mixed(possible: &[FaultKind], rng: &mut Rng) -> Vec<FaultKind> {
    let count = 1 + rng.below(KINDS_MAX);
    let mut left = possible.to_vec();
    let mut kinds = Vec::new();
    while !left.is_empty() && (kinds.len() as u64) < count {
        let place = usize::try_from(rng.below(left.len() as u64)).unwrap_or(0);
        kinds.push(left.swap_remove(place));
    }
    kinds
}

pub fn network_name(kind: NetworkKind) -> &'static str {
    NETWORKS
        .iter()
        .find(|(_, known)| *known == kind)
        .map_or("best", |(name, _)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_replay_line_says_what_differs_from_the_usual() {
        let usual = Settings::new(7);
        assert_eq!(
            usual.replay(),
            "make jepsen SEED=7 NEMESIS=all TIME=1m NODES=3 NETWORK=best"
        );
        let odd = Settings {
            nemesis: Nemesis::These(vec![FaultKind::Kill, FaultKind::Pause]),
            workloads: vec![Workload::Append],
            rate: 50.0,
            environment: vec![("ACCORD_PLANTED".to_owned(), "lease_read".to_owned())],
            ..usual
        };
        assert_eq!(
            odd.replay(),
            "ACCORD_PLANTED=lease_read make jepsen SEED=7 NEMESIS=kill,pause TIME=1m NODES=3 \
             NETWORK=best ARGS='--rate 50 --workload append'"
        );
    }

    #[test]
    fn a_campaign_derives_its_episodes_from_its_seed() {
        let campaign = Settings::new(3);
        let episodes = |settings: &Settings| -> Vec<String> {
            (0..40)
                .map(|number| settings.of_campaign(number, |_| &FaultKind::ALL).replay())
                .collect()
        };
        assert_eq!(episodes(&campaign), episodes(&campaign));
        assert_ne!(episodes(&campaign), episodes(&Settings::new(4)));
        let all: Vec<Settings> = (0..200)
            .map(|number| campaign.of_campaign(number, |_| &FaultKind::ALL))
            .collect();
        assert!(all.iter().any(|it| it.nodes == 5) && all.iter().any(|it| it.nodes == 3));
        assert!(all.iter().any(|it| it.network == NetworkKind::Proxy));
        for episode in &all {
            let Nemesis::These(kinds) = &episode.nemesis else {
                panic!("an episode names its faults");
            };
            assert!((1..=4).contains(&kinds.len()));
            assert!((3..=9).contains(&episode.channels()));
        }
        let alone = campaign.of_campaign(1, |_| &[FaultKind::Kill]);
        assert_eq!(alone.nemesis, Nemesis::These(vec![FaultKind::Kill]));
    }
}
