//! How what was measured grows with the number of channels, as pictures. Pure: figures in, text out.

use std::collections::BTreeMap;

use super::figures::{Figures, Idle, Wake};
use super::spread::Spread;
use crate::report::chart::{Chart, Scale, Series, svg};

const MIB: f64 = 1_048_576.0;

/// Names of files, and what they hold. What no run measured has no picture.
pub fn charts(runs: &[Figures]) -> Vec<(&'static str, String)> {
    let runs = last_of_each_size(runs);
    [
        ("channels-memory.svg", memory(&runs)),
        ("channels-cpu.svg", cpu(&runs)),
        ("channels-start.svg", start(&runs)),
        ("channels-wake.svg", wake(&runs)),
    ]
    .into_iter()
    .filter_map(|(name, chart)| Some((name, svg(&chart)?)))
    .collect()
}

/// A size that was measured again replaces what was measured before, step by step.
pub fn last_of_each_size(runs: &[Figures]) -> Vec<Figures> {
    let mut last: BTreeMap<u64, Figures> = BTreeMap::new();
    for run in runs {
        let mut run = run.clone();
        if let Some(before) = last.remove(&run.channels) {
            run.idle = run.idle.or(before.idle);
            run.restart = run.restart.or(before.restart);
            run.wake = run.wake.or(before.wake);
            run.saturation = run.saturation.or(before.saturation);
            run.sockets = run.sockets.or(before.sockets);
            run.kill = run.kill.or(before.kill);
        }
        last.insert(run.channels, run);
    }
    last.into_values().collect()
}

/// The mean of the nodes.
pub fn resident_mib(bytes: impl ExactSizeIterator<Item = u64>) -> f64 {
    let count = bytes.len().max(1) as f64;
    bytes.map(|bytes| bytes as f64).sum::<f64>() / count / MIB
}

fn memory(runs: &[Figures]) -> Chart {
    let mut all = by_sleep("nobody asks", runs, |idle| {
        resident_mib(idle.nodes.iter().map(|node| node.resident_bytes))
    });
    all.push(series("after all steps", runs, |run| {
        let last = run.moments.last()?;
        Some(resident_mib(last.resident_bytes.iter().copied()))
    }));
    Chart {
        y_label: "MiB resident, mean of the nodes".to_owned(),
        ..chart("Memory of a node", all)
    }
}

fn cpu(runs: &[Figures]) -> Chart {
    Chart {
        y_label: "percent of one core, all nodes together".to_owned(),
        ..chart(
            "Processor time while nobody asks",
            by_sleep("nobody asks", runs, |idle| idle.cpu_percent),
        )
    }
}

/// Awake channels cost so much more that they are no point on the same line.
fn by_sleep(name: &str, runs: &[Figures], of: fn(&Idle) -> f64) -> Vec<Series> {
    let line = |name: String, asleep: bool| {
        series(&name, runs, |run| {
            let idle = run.idle.as_ref();
            idle.filter(|idle| idle.sleep.reached == asleep).map(of)
        })
    };
    vec![
        line(format!("asleep, {name}"), true),
        line(format!("NOT asleep, {name}"), false),
    ]
}

fn start(runs: &[Figures]) -> Chart {
    let stopped = series("after SIGTERM", runs, |run| {
        Some(run.restart.as_ref()?.ready_ms / 1_000.0)
    });
    let killed = series("after SIGKILL", runs, |run| {
        Some(run.kill.as_ref()?.ready_ms / 1_000.0)
    });
    Chart {
        y_label: "seconds from the start of a node to 200 on /readyz".to_owned(),
        ..chart("Start of a node", vec![stopped, killed])
    }
}

fn wake(runs: &[Figures]) -> Chart {
    let all = vec![
        series("p50", runs, |run| Some(latency(&run.wake)?.p50_ms)),
        series("p99", runs, |run| Some(latency(&run.wake)?.p99_ms)),
        series("p50, high rate", runs, |run| {
            Some(latency(&run.saturation)?.p50_ms)
        }),
        series("p99, high rate", runs, |run| {
            Some(latency(&run.saturation)?.p99_ms)
        }),
    ];
    Chart {
        y_label: "milliseconds from when the first write was due to its acknowledgement".to_owned(),
        y_scale: Scale::Logarithmic,
        ..chart("Waking a channel", all)
    }
}

/// Of channels that slept: a write to others wakes nobody.
fn latency(wake: &Option<Wake>) -> Option<Spread> {
    let woke = wake.as_ref().filter(|wake| wake.sleep_before.reached);
    woke.map(|wake| wake.outcomes.latency)
}

fn chart(title: &str, series: Vec<Series>) -> Chart {
    Chart {
        title: title.to_owned(),
        x_label: "channels".to_owned(),
        y_label: String::new(),
        y_scale: Scale::Linear,
        series,
    }
}

fn series(name: &str, runs: &[Figures], of: impl Fn(&Figures) -> Option<f64>) -> Series {
    let points = runs
        .iter()
        .filter_map(|run| Some((run.channels as f64, of(run)?)));
    Series {
        name: name.to_owned(),
        points: points.collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::figures::example;
    use super::*;

    #[test]
    fn every_size_is_a_point_of_every_picture() {
        let drawn = charts(&[example(1_000_000), example(10_000)]);
        let names: Vec<_> = drawn.iter().map(|(name, _)| *name).collect();
        assert_eq!(names.len(), 4);
        for (name, picture) in drawn {
            assert!(picture.contains("at 10,000<"), "{name}");
            assert!(picture.contains("at 1,000,000<"), "{name}");
        }
    }

    #[test]
    fn what_was_not_measured_has_no_picture() {
        let bare = Figures {
            wake: None,
            saturation: None,
            idle: None,
            moments: Vec::new(),
            ..example(100)
        };
        let names: Vec<_> = charts(&[bare]).into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["channels-start.svg"]);
        assert!(charts(&[]).is_empty());
    }

    #[test]
    fn channels_that_did_not_sleep_are_no_point_among_those_that_did() {
        let mut awake = example(100);
        awake.idle.as_mut().unwrap().sleep.reached = false;
        awake.wake.as_mut().unwrap().sleep_before.reached = false;
        awake.saturation = None;
        let drawn: BTreeMap<_, _> = charts(&[awake]).into_iter().collect();
        assert!(drawn["channels-cpu.svg"].contains("NOT asleep, nobody asks"));
        assert!(!drawn["channels-cpu.svg"].contains(">asleep"));
        assert!(!drawn.contains_key("channels-wake.svg"));
    }

    #[test]
    fn a_later_run_of_the_same_size_replaces_what_it_measured() {
        let mut again = example(100);
        again.idle = None;
        again.restart.as_mut().unwrap().ready_ms = 5.0;
        let merged = last_of_each_size(&[example(100), again]);
        assert_eq!(merged.len(), 1);
        assert!(merged[0].idle.is_some());
        assert!((merged[0].restart.as_ref().unwrap().ready_ms - 5.0).abs() < f64::EPSILON);
    }
}
