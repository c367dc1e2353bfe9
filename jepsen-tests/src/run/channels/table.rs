//! What was measured, as a table: one row for each thing, one column for each number of channels.
//! Pure.

use super::charts::{last_of_each_size, resident_mib};
use super::figures::{Figures, Kill, Outcomes, Sleep, Sockets, Wake};
use super::spread::Spread;
use crate::report::chart::number;

/// Where nothing was measured.
const NONE: &str = "–";

type Cell = fn(&Figures) -> Option<String>;

/// In the order of the steps.
const ROWS: &[(&str, Cell)] = &[
    ("making channels", |run| {
        Some(format!("{}/s", number(run.stages.last()?.created_per_s())))
    }),
    ("writing to them, to each all at once", |run| {
        Some(format!(
            "{} messages/s",
            number(run.stages.last()?.written_per_s())
        ))
    }),
    ("idle: asleep", |run| Some(slept(&run.idle.as_ref()?.sleep))),
    ("idle: memory of a node (of it anonymous)", |run| {
        let nodes = &run.idle.as_ref()?.nodes;
        let resident = resident_mib(nodes.iter().map(|node| node.resident_bytes));
        let anonymous = resident_mib(nodes.iter().map(|node| node.anonymous_bytes));
        Some(format!("{} ({}) MiB", number(resident), number(anonymous)))
    }),
    ("idle: processor, all nodes (whole machine)", |run| {
        let idle = run.idle.as_ref()?;
        Some(format!(
            "{} ({}) % of a core",
            number(idle.cpu_percent),
            number(idle.machine_cpu_percent)
        ))
    }),
    ("idle: between nodes, all together", |run| {
        let nodes = run.idle.as_ref()?.nodes.iter();
        let bytes: Option<f64> = nodes.map(|node| node.peer_bytes_per_s).sum();
        Some(format!("{} bytes/s", number(bytes?)))
    }),
    ("idle: threads of a node", |run| {
        let threads = run.idle.as_ref()?.nodes.iter().map(|node| node.threads);
        Some(threads.max()?.to_string())
    }),
    ("disk of a node", |run| {
        let nodes = &run.idle.as_ref()?.nodes;
        let disk = resident_mib(nodes.iter().map(|node| node.disk_bytes));
        Some(format!("{} MiB", number(disk)))
    }),
    ("start of a node after SIGTERM", |run| {
        Some(format!("{} ms", number(run.restart.as_ref()?.ready_ms)))
    }),
    ("wake: sleeping before", |run| {
        Some(slept(&run.wake.as_ref()?.sleep_before))
    }),
    ("wake: acknowledged", |run| Some(rate(run.wake.as_ref()?))),
    ("wake: p50 / p99 / longest", |run| {
        Some(spread(run.wake.as_ref()?.outcomes.latency))
    }),
    ("wake: processor, nodes / load", |run| {
        Some(processor(run.wake.as_ref()?))
    }),
    ("saturation: sleeping before", |run| {
        Some(slept(&run.saturation.as_ref()?.sleep_before))
    }),
    ("saturation: acknowledged", |run| {
        Some(rate(run.saturation.as_ref()?))
    }),
    ("saturation: p50 / p99 / longest", |run| {
        Some(spread(run.saturation.as_ref()?.outcomes.latency))
    }),
    ("saturation: processor, nodes / load", |run| {
        Some(processor(run.saturation.as_ref()?))
    }),
    ("sockets: attached", |run| {
        Some(attached(run.sockets.as_ref()?))
    }),
    ("sockets: memory each", |run| {
        let sockets = run.sockets.as_ref()?;
        Some(format!(
            "{} KiB",
            number(sockets.bytes_per_socket / 1_024.0)
        ))
    }),
    ("sockets: sleeping with them", |run| {
        Some(slept(&run.sockets.as_ref()?.sleep_after))
    }),
    ("sockets: messages that arrived", |run| {
        let sockets = run.sockets.as_ref()?;
        Some(format!(
            "{} of {}",
            sockets.received, sockets.posts.acknowledged
        ))
    }),
    ("sockets: receipt, p50 / p99 / longest", |run| {
        Some(spread(run.sockets.as_ref()?.receipt))
    }),
    ("kill: noticed after", |run| {
        Some(format!("{} ms", number(run.kill.as_ref()?.noticed_ms)))
    }),
    ("kill: active channels of the node", |run| {
        Some(led(run.kill.as_ref()?))
    }),
    (
        "kill: until they are writable, p50 / p99 / longest",
        |run| Some(spread(run.kill.as_ref()?.active_gap)),
    ),
    ("kill: its sleeping channels, acknowledged", |run| {
        Some(sleepers(run.kill.as_ref()?))
    }),
    ("kill: first write there, p50 / p99 / longest", |run| {
        Some(spread(run.kill.as_ref()?.sleeping.latency))
    }),
    ("kill: other active channels, acknowledged", |run| {
        Some(acknowledged(&run.kill.as_ref()?.others))
    }),
    ("kill: there, p50 / p99 / longest", |run| {
        Some(spread(run.kill.as_ref()?.others.latency))
    }),
    ("start of a node after SIGKILL", |run| {
        Some(format!("{} ms", number(run.kill.as_ref()?.ready_ms)))
    }),
    ("memory of a node after each step, MiB", |run| {
        let after = run.moments.iter().map(|moment| {
            let resident = resident_mib(moment.resident_bytes.iter().copied());
            format!("{} {}", moment.after, number(resident.round()))
        });
        let after: Vec<String> = after.collect();
        (!after.is_empty()).then(|| after.join(", "))
    }),
];

/// For a terminal.
pub fn lines(run: &Figures) -> Vec<String> {
    let width = ROWS.iter().map(|(label, _)| label.chars().count()).max();
    let width = width.unwrap_or(0);
    let mut lines = vec![format!(
        "{:width$}  {}",
        "channels",
        number(run.channels as f64)
    )];
    for (label, cell) in ROWS {
        if let Some(text) = cell(run) {
            lines.push(format!("{label:width$}  {text}"));
        }
    }
    lines
}

/// For a document; a size that was measured twice stands there as it was measured last.
pub fn markdown(runs: &[Figures]) -> String {
    let runs = last_of_each_size(runs);
    let sizes = runs.iter().map(|run| number(run.channels as f64));
    let mut text = row("channels", sizes);
    text.push_str(&"|---".repeat(runs.len() + 1));
    text.push_str("|\n");
    for (label, cell) in ROWS {
        let cells = runs
            .iter()
            .map(|run| cell(run).unwrap_or_else(|| NONE.to_owned()));
        text.push_str(&row(label, cells));
    }
    text
}

fn row(label: &str, cells: impl Iterator<Item = String>) -> String {
    let mut text = format!("| {label} |");
    for cell in cells {
        text.push_str(&format!(" {cell} |"));
    }
    text + "\n"
}

fn slept(sleep: &Sleep) -> String {
    match sleep.reached {
        true => "yes".to_owned(),
        false => {
            let open: Vec<String> = sleep.open.iter().map(|open| number(*open as f64)).collect();
            format!("no: {} open", open.join(" / "))
        }
    }
}

fn spread(spread: Spread) -> String {
    format!(
        "{} / {} / {} ms",
        number(spread.p50_ms),
        number(spread.p99_ms),
        number(spread.max_ms)
    )
}

fn acknowledged(outcomes: &Outcomes) -> String {
    let mut text = format!(
        "{} of {}",
        number(outcomes.acknowledged as f64),
        number(outcomes.asked as f64)
    );
    let errors: Vec<String> = outcomes
        .errors
        .iter()
        .map(|(label, count)| format!("{count} × {label}"))
        .collect();
    if !errors.is_empty() {
        text.push_str(&format!(" ({})", errors.join(", ")));
    }
    text
}

fn rate(wake: &Wake) -> String {
    let sustained = match wake.sustained {
        true => "sustained",
        false => "not sustained",
    };
    let shortened = match wake.shortened {
        true => ", no more channels",
        false => "",
    };
    format!(
        "{} at {}/s in {} s: {sustained}{shortened}",
        acknowledged(&wake.outcomes),
        number(wake.per_s),
        number(wake.seconds)
    )
}

fn processor(wake: &Wake) -> String {
    format!(
        "{} / {} % of a core",
        number(wake.nodes_cpu_percent.round()),
        number(wake.client_cpu_percent.round())
    )
}

fn attached(sockets: &Sockets) -> String {
    format!(
        "{} of {} in {} s",
        number(sockets.attached as f64),
        number(sockets.asked as f64),
        number(sockets.attach_seconds)
    )
}

fn led(kill: &Kill) -> String {
    let never = match kill.active_never {
        0 => String::new(),
        count => format!(", {count} NEVER writable"),
    };
    format!(
        "{} of {}{never}",
        kill.active_gap.count + kill.active_never,
        kill.active
    )
}

fn sleepers(kill: &Kill) -> String {
    let unknown = match kill.leaders_unknown {
        0 => "",
        _ => ", leaders not all known",
    };
    format!("{}{unknown}", acknowledged(&kill.sleeping))
}

#[cfg(test)]
mod tests {
    use super::super::figures::example;
    use super::*;

    #[test]
    fn a_run_fills_every_row() {
        let lines = lines(&example(1_000_000));
        assert_eq!(lines.len(), ROWS.len() + 1);
        assert!(lines[0].ends_with("  1,000,000"));
        let text = lines.join("\n");
        assert!(
            text.contains("100 of 101 (1 × 503) at 200/s in 30 s: sustained"),
            "{text}"
        );
        assert!(text.contains("1.5 / 4.5 / 13.5 ms"));
        assert!(text.contains("52 (20) MiB"));
    }

    #[test]
    fn a_document_has_a_column_for_each_size() {
        let bare = Figures {
            idle: None,
            ..example(50)
        };
        let text = markdown(&[example(1_000), bare]);
        let rows: Vec<&str> = text.lines().collect();
        assert_eq!(rows[0], "| channels | 50 | 1,000 |");
        assert_eq!(rows[1], "|---|---|---|");
        assert_eq!(rows.len(), ROWS.len() + 2);
        assert!(rows.iter().all(|row| row.matches('|').count() == 4));
        let disk = rows.iter().find(|row| row.starts_with("| disk")).unwrap();
        assert_eq!(*disk, "| disk of a node | – | 0.98 MiB |");
    }

    #[test]
    fn channels_that_did_not_sleep_are_told() {
        let mut run = example(10);
        let idle = run.idle.as_mut().unwrap();
        idle.sleep.reached = false;
        idle.sleep.open = vec![10, 9, 1_000];
        assert!(
            lines(&run)
                .iter()
                .any(|line| line.ends_with("no: 10 / 9 / 1,000 open"))
        );
    }
}
