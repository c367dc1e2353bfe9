//! A run of `accord bench`: round after round of its cases, and what is told of them.

use std::fs::OpenOptions;
use std::io;
use std::io::Write as _;

use serde::Serialize;

use super::BenchError;
use super::CLUSTER_ESTIMATE;
use super::Options;
use super::cases::Case;
use super::cases::Kind;
use super::checks::Faults;
use super::cluster;
use super::cluster::Cluster;
use super::disk;
use super::disk::Disk;
use super::figures;
use super::figures::Figures;
use super::figures::Values;
use super::load;
use super::load::Means;
use super::load::Outcome;
use super::plan::Seating;
use super::progress;
use super::progress::Progress;
use super::table;
use super::workload::Crew;
use super::workload::Workload;

/// A run and what it has found so far.
pub struct Bench {
    options: Options,
    progress: Progress,
    all: Vec<Figures>,
    disks: Vec<Disk>,
}

impl Bench {
    pub fn new(options: &Options, progress: Progress) -> Bench {
        Bench {
            options: options.clone(),
            progress,
            all: Vec::new(),
            disks: Vec::new(),
        }
    }

    /// Runs all cases once.
    pub async fn round(&mut self, round: u32, cases: &[Case]) -> Result<(), BenchError> {
        let mut cluster = self.cluster(round).await?;
        for case in cases.iter().filter(|case| round == 1 || !case.kills()) {
            let rounds = self.options.rounds;
            let what = format!("round {round} of {rounds}, {}: {}", case.letter, case.about);
            self.progress.begin(what, case.estimate());
            let (values, faults) = self.case(case, &mut cluster).await?;
            let figures = Figures {
                case: case.letter,
                round,
                about: case.about,
                values,
                faults,
            };
            self.tell(&figures);
            self.write(&figures)?;
            self.all.push(figures);
        }
        cluster.stop().await;
        Ok(())
    }

    async fn cluster(&mut self, round: u32) -> Result<Cluster, BenchError> {
        if !self.options.urls.is_empty() {
            return Cluster::running(&self.options.urls, &self.options.pids);
        }
        let what = format!("round {round} of {}, a new cluster", self.options.rounds);
        self.progress.begin(what, CLUSTER_ESTIMATE);
        let dir = self.options.data_dir.clone();
        let cluster = Cluster::start(&dir.unwrap_or_else(std::env::temp_dir)).await?;
        if let Some(dir) = cluster.data_dir() {
            let disk = disk::measure(dir).map_err(BenchError::Load)?;
            if disk.is_memory {
                let dir = dir.display();
                self.progress.say(&format!(
                    "{dir} is in memory: syncing costs nothing there; --data-dir says where else"
                ));
            }
            self.disks.push(disk);
        }
        Ok(cluster)
    }

    async fn case(
        &self,
        case: &Case,
        cluster: &mut Cluster,
    ) -> Result<(Values, Faults), BenchError> {
        let has_pids = !cluster.pids.is_empty();
        match &case.kind {
            Kind::Load(load) => {
                let outcome = self.load(cluster, load, &load.crews).await?;
                let seconds = load.measured.as_secs_f64();
                let values = figures::of_load(&outcome, seconds, has_pids);
                Ok((values, outcome.tally.faults))
            }
            Kind::Beside(load) => {
                let alone = self.load(cluster, load, &load.crews[..1]).await?;
                let beside = self.load(cluster, load, &load.crews).await?;
                let seconds = load.measured.as_secs_f64();
                let mut faults = alone.tally.faults;
                faults += beside.tally.faults;
                Ok((
                    figures::of_beside(&alone, &beside, seconds, has_pids),
                    faults,
                ))
            }
            Kind::Kill { load, times } => {
                let mut outcomes = Vec::new();
                let mut faults = Faults::default();
                for _ in 0..*times {
                    let outcome = self.kill(cluster, load).await?;
                    faults += outcome.tally.faults;
                    faults.unacked += u64::from(outcome.kill_to_ack_ms.is_none());
                    outcomes.push(outcome);
                }
                let one_channel = load.crews[0].channels == 1;
                Ok((figures::of_kills(&outcomes, one_channel), faults))
            }
        }
    }

    /// Loads the nodes other than the leader of the first channel, and kills that one meanwhile.
    async fn kill(&self, cluster: &mut Cluster, load: &Workload) -> Result<Outcome, BenchError> {
        let rooms = cluster.rooms(&load.crews[0], 0).await?;
        let leader = cluster.leader(&rooms[0]).await?;
        let mut nodes = cluster.nodes.clone();
        nodes.remove(leader);
        let pid = cluster.pids[leader];
        let seating = Seating {
            workload: load.clone(),
            rooms,
            nodes,
        };
        let outcome = self.drive(seating, cluster, Some(pid)).await?;
        cluster.restart(leader).await?;
        Ok(outcome)
    }

    /// Loads all nodes with some of the crews.
    async fn load(
        &self,
        cluster: &Cluster,
        load: &Workload,
        crews: &[Crew],
    ) -> Result<Outcome, BenchError> {
        let mut rooms = Vec::new();
        for (index, crew) in crews.iter().enumerate() {
            rooms.extend(cluster.rooms(crew, index).await?);
        }
        let seating = Seating {
            workload: Workload {
                crews: crews.to_owned(),
                ..load.clone()
            },
            rooms,
            nodes: cluster.nodes.clone(),
        };
        self.drive(seating, cluster, None).await
    }

    /// The load has threads of its own; this one goes on hearing what the nodes say.
    async fn drive(
        &self,
        seating: Seating,
        cluster: &Cluster,
        victim: Option<u32>,
    ) -> Result<Outcome, BenchError> {
        let progress = self.progress.clone();
        let means = Means {
            threads: self.options.threads,
            pids: cluster.pids.clone(),
            at_warm: Box::new(move |plan| {
                if let Some(pid) = victim {
                    plan.note_kill();
                    if let Err(error) = cluster::kill(pid) {
                        progress::note(&format!("cannot kill {pid}: {error}"));
                    }
                }
            }),
            show: Box::new(move |part| progress.show(part)),
        };
        let ran = tokio::task::spawn_blocking(move || load::run(seating, means)).await;
        ran.map_err(io::Error::other)
            .and_then(|outcome| outcome)
            .map_err(BenchError::Load)
    }

    fn tell(&self, figures: &Figures) {
        let number = |name: &str| figures.values.get(name);
        let mut line = format!("{} (round {})", figures.case, figures.round);
        for (name, what) in HEADLINES {
            if let Some(value) = number(name) {
                line.push_str(&format!("  {what} {}", table::number(value)));
            }
        }
        if figures.faults.total() > 0 {
            line.push_str(&format!("  CHECKS FAILED: {}", told(&figures.faults)));
        }
        self.progress.say(&line);
    }

    fn write<T: Serialize>(&self, value: &T) -> Result<(), BenchError> {
        let Some(path) = &self.options.json else {
            return Ok(());
        };
        let mut line = serde_json::to_string(value).expect("numbers and names have a JSON form");
        line.push('\n');
        let file = OpenOptions::new().create(true).append(true).open(path);
        let written = file.and_then(|mut file| file.write_all(line.as_bytes()));
        written.map_err(|source| BenchError::Json {
            path: path.clone(),
            source,
        })
    }

    /// Prints the tables. It is an error if any check failed.
    pub fn finish(&self) -> Result<(), BenchError> {
        let mut faults = Faults::default();
        for figures in &self.all {
            faults += figures.faults;
        }
        let mut values = Values::default();
        if !self.disks.is_empty() {
            let mut p50: Vec<f64> = self.disks.iter().map(|d| d.fdatasync_p50_ms).collect();
            let mut p99: Vec<f64> = self.disks.iter().map(|d| d.fdatasync_p99_ms).collect();
            p50.sort_by(f64::total_cmp);
            p99.sort_by(f64::total_cmp);
            values.put("fdatasync_p50_ms", figures::median(&p50));
            values.put("fdatasync_p99_ms", figures::median(&p99));
        }
        self.progress.clear();
        let mut text = table::render(&self.all);
        if let (Some(p50), Some(p99)) = (
            values.get("fdatasync_p50_ms"),
            values.get("fdatasync_p99_ms"),
        ) {
            let (p50, p99) = (table::number(p50), table::number(p99));
            text.push_str(&format!(
                "fdatasync of 512 bytes before each round: p50 {p50} ms, p99 {p99} ms\n"
            ));
        }
        print(&text);
        self.write(&Summary {
            summary: table::summary(&self.all),
            version: env!("CARGO_PKG_VERSION"),
            rounds: self.options.rounds,
            bytes: self.options.bytes,
            threads: self.options.threads,
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            disk: values,
            faults,
        })?;
        match faults.total() {
            0 => Ok(()),
            _ => Err(BenchError::Checks(told(&faults))),
        }
    }
}

/// The last line of JSON of a run.
#[derive(Serialize)]
struct Summary<T> {
    summary: T,
    version: &'static str,
    rounds: u32,
    bytes: usize,
    threads: usize,
    cores: usize,
    disk: Values,
    faults: Faults,
}

/// What is said of a case as soon as it is over.
const HEADLINES: &[(&str, &str)] = &[
    ("acked_per_s", "acked/s"),
    ("deliveries_per_s", "deliveries/s"),
    ("ack_p50_ms", "ack p50 ms"),
    ("ack_p99_ms", "p99"),
    ("server_us_per_ack", "server µs/ack"),
    ("server_us_per_delivery", "µs/delivery"),
    ("quiet_alone_ack_p99_ms", "quiet alone p99 ms"),
    ("quiet_beside_ack_p99_ms", "beside"),
    ("loud_acked_per_s", "loud acked/s"),
    ("kill_to_ack_ms_median", "kill to next ack ms"),
    ("kill_to_ack_ms_most", "at most"),
    ("delivery_p99_9_ms", "delivery p99.9"),
    ("client_cores", "client cores"),
];

fn told(faults: &Faults) -> String {
    let value = serde_json::to_value(faults).expect("numbers have a JSON form");
    let fields = value.as_object().into_iter().flatten();
    let fields = fields.filter(|(_, count)| count.as_u64() != Some(0));
    let fields: Vec<String> = fields
        .map(|(name, count)| format!("{name} {count}"))
        .collect();
    fields.join(", ")
}

/// If nobody reads any more there is nobody to tell.
fn print(text: &str) {
    let mut out = io::stdout().lock();
    let _ = write!(out, "{text}");
    let _ = out.flush();
}
