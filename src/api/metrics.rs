//! `/metrics` in the text format of Prometheus.
//!
//! Names begin with `accord_`, units are base units, and no label takes values that grow in number
//! with use.

use std::fmt::Write as _;
use std::sync::Arc;

use accord_raft::Metrics;
use axum::body::Body;
use axum::extract::State;
use axum::http::HeaderValue;
use axum::http::header;
use axum::response::Response;

use crate::agents::FailureKind;
use crate::agents::counters::AgentCounters;
use crate::agents::counters::SECONDS_BOUNDS;
use crate::app::App;
use crate::counters::Counter;
use crate::process::Usage;

const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

pub async fn show(State(app): State<Arc<App>>) -> Response {
    let mut text = Text::default();
    of_clients(&mut text, &app);
    of_agents(&mut text, &app);
    of_process(&mut text, &Usage::read());
    of_store(&mut text, &app.node.metrics());
    let mut response = Response::new(Body::from(text.0));
    let value = HeaderValue::from_static(CONTENT_TYPE);
    response.headers_mut().insert(header::CONTENT_TYPE, value);
    response
}

fn of_clients(text: &mut Text, app: &App) {
    let counters = &app.counters;
    let ready = f64::from(u8::from(app.ready().is_ok()));
    text.gauge("ready", "Whether this node can serve.", ready);
    text.head(
        "http_requests_total",
        "Answered requests by class of status.",
        "counter",
    );
    for (index, counter) in counters.http_answers.iter().enumerate() {
        let class = format!("{}xx", index + 1);
        text.labelled("http_requests_total", "class", &class, counter.get() as f64);
    }
    text.head(
        "http_rejected_total",
        "Connections closed for what came, or did not come, instead of a request.",
        "counter",
    );
    for (reason, counter) in [
        ("malformed", &counters.http_rejected_malformed),
        ("slow", &counters.http_rejected_slow),
        ("incomplete", &counters.http_rejected_incomplete),
    ] {
        text.labelled(
            "http_rejected_total",
            "reason",
            reason,
            counter.get() as f64,
        );
    }
    let open = app.open.count() as f64;
    text.gauge(
        "connections",
        "Open connections of clients, sockets included.",
        open,
    );
    let taken = app.sockets.taken() as f64;
    text.gauge("sockets", "Open WebSockets.", taken);
    let (channels, subscribers) = app.hub.size();
    text.gauge("tails", "Channels with subscribers here.", channels as f64);
    text.gauge(
        "subscribers",
        "Sockets that receive messages.",
        subscribers as f64,
    );
    for (name, help, counter) in [
        (
            "sockets_opened_total",
            "WebSockets opened.",
            &counters.sockets_opened,
        ),
        (
            "sockets_refused_total",
            "WebSockets refused because there were too many.",
            &counters.sockets_refused,
        ),
        (
            "slow_readers_total",
            "Sockets closed because their client did not read.",
            &counters.slow_readers,
        ),
        (
            "silent_sockets_total",
            "Sockets closed because their client did not answer pings.",
            &counters.silent_sockets,
        ),
        (
            "messages_in_total",
            "Messages that clients asked to be written.",
            &counters.messages_in,
        ),
        (
            "messages_out_total",
            "Message frames written to sockets.",
            &counters.messages_out,
        ),
        (
            "acks_total",
            "Acknowledgements written to sockets.",
            &counters.acks,
        ),
        (
            "errors_total",
            "Error frames written to sockets.",
            &counters.errors,
        ),
        (
            "catch_up_pages_total",
            "Pages of history read for sockets that were behind.",
            &counters.catch_up_pages,
        ),
        (
            "ephemeral_dropped_total",
            "Typing events dropped because a client sent too many.",
            &counters.ephemeral_dropped,
        ),
    ] {
        text.counter(name, help, counter.get() as f64);
    }
}

fn of_agents(text: &mut Text, app: &App) {
    let (running, waiting) = app.executor.load();
    text.gauge(
        "agent_jobs_waiting",
        "Due jobs that wait for a slot on this node.",
        waiting as f64,
    );
    let agents = &app.agents.all;
    text.head("agent_running", "Attempts under way.", "gauge");
    for (agent, running) in agents.iter().zip(running) {
        text.labelled("agent_running", "agent", &agent.config.name, running as f64);
    }
    type Count = fn(&AgentCounters) -> &Counter;
    let counts: [(&str, &str, Count); 4] = [
        ("agent_attempts_total", "Attempts begun.", |c| &c.attempts),
        (
            "agent_replies_total",
            "Attempts that ended with a reply in the channel.",
            |c| &c.replies,
        ),
        ("agent_given_up_total", "Jobs that were given up.", |c| {
            &c.given_up
        }),
        (
            "agent_stopped_total",
            "Attempts cut short: cancelled, or this node led the channel no longer.",
            |c| &c.stopped,
        ),
    ];
    for (name, help, count) in counts {
        text.head(name, help, "counter");
        for agent in agents {
            let value = count(&agent.counters).get() as f64;
            text.labelled(name, "agent", &agent.config.name, value);
        }
    }
    text.head(
        "agent_failures_total",
        "Failed attempts by what went wrong.",
        "counter",
    );
    for agent in agents {
        let name = &agent.config.name;
        for (kind, counter) in FailureKind::NAMES.iter().zip(&agent.counters.failures) {
            let labels = [("agent", name.as_str()), ("kind", kind)];
            text.labels("agent_failures_total", &labels, counter.get() as f64);
        }
    }
    text.head("agent_seconds", "Time that attempts took.", "histogram");
    for agent in agents {
        agent_seconds(text, &agent.config.name, &agent.counters);
    }
}

fn agent_seconds(text: &mut Text, agent: &str, counters: &AgentCounters) {
    let mut count = 0;
    let bounds = SECONDS_BOUNDS.iter().map(f64::to_string);
    let bounds = bounds.chain(["+Inf".to_owned()]);
    for (bound, counter) in bounds.zip(&counters.seconds) {
        count += counter.get();
        let labels = [("agent", agent), ("le", &bound)];
        text.labels("agent_seconds_bucket", &labels, count as f64);
    }
    let sum = counters.micros_sum.get() as f64 / 1e6;
    text.labelled("agent_seconds_sum", "agent", agent, sum);
    text.labelled("agent_seconds_count", "agent", agent, count as f64);
}

fn of_process(text: &mut Text, usage: &Usage) {
    let gauge = |text: &mut Text, name, help, value: Option<u64>| {
        if let Some(value) = value {
            text.gauge(name, help, value as f64);
        }
    };
    gauge(
        text,
        "process_resident_bytes",
        "Memory in use.",
        usage.resident_bytes,
    );
    gauge(
        text,
        "process_open_fds",
        "Open files and sockets.",
        usage.open_fds,
    );
    gauge(
        text,
        "process_max_fds",
        "Most open files and sockets.",
        usage.max_fds,
    );
    if let Some(seconds) = usage.cpu_seconds {
        text.counter("process_cpu_seconds_total", "CPU time used.", seconds);
    }
}

fn of_store(text: &mut Text, metrics: &Metrics) {
    for (name, help, is_counter, value) in &metrics.values {
        if *is_counter {
            text.counter(name, help, *value);
        } else {
            text.gauge(name, help, *value);
        }
    }
    text.head(
        "peer_refused_total",
        "Refused connections of peers.",
        "counter",
    );
    for (reason, count) in &metrics.peer_refused {
        text.labelled("peer_refused_total", "reason", reason, *count as f64);
    }
    let (buckets, sum) = &metrics.fsync_seconds;
    text.head(
        "fsync_seconds",
        "Time that a synced write took.",
        "histogram",
    );
    for (bound, count) in buckets.iter().filter(|(bound, _)| bound.is_finite()) {
        text.labelled(
            "fsync_seconds_bucket",
            "le",
            &bound.to_string(),
            *count as f64,
        );
    }
    let count = buckets.last().map_or(0, |(_, count)| *count) as f64;
    text.labelled("fsync_seconds_bucket", "le", "+Inf", count);
    text.sample("fsync_seconds_sum", *sum);
    text.sample("fsync_seconds_count", count);
}

/// The text being written; names come without the prefix.
#[derive(Debug, Default)]
struct Text(String);

impl Text {
    fn counter(&mut self, name: &str, help: &str, value: f64) {
        self.head(name, help, "counter");
        self.sample(name, value);
    }

    fn gauge(&mut self, name: &str, help: &str, value: f64) {
        self.head(name, help, "gauge");
        self.sample(name, value);
    }

    fn head(&mut self, name: &str, help: &str, kind: &str) {
        let help = help.replace('\\', "\\\\").replace('\n', "\\n");
        self.line(format_args!("# HELP accord_{name} {help}"));
        self.line(format_args!("# TYPE accord_{name} {kind}"));
    }

    fn sample(&mut self, name: &str, value: f64) {
        self.line(format_args!("accord_{name} {value}"));
    }

    fn labelled(&mut self, name: &str, label: &str, of: &str, value: f64) {
        self.labels(name, &[(label, of)], value);
    }

    /// Values of labels are words of ours, or of the configuration, that need no escaping.
    fn labels(&mut self, name: &str, labels: &[(&str, &str)], value: f64) {
        let labels = labels.iter().map(|(label, of)| format!("{label}=\"{of}\""));
        let labels: Vec<String> = labels.collect();
        self.line(format_args!(
            "accord_{name}{{{}}} {value}",
            labels.join(",")
        ));
    }

    fn line(&mut self, line: std::fmt::Arguments<'_>) {
        writeln!(self.0, "{line}").expect("a String takes any text");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden() {
        let mut text = Text::default();
        of_store(
            &mut text,
            &Metrics {
                values: vec![
                    ("elections_total", "Elections.", true, 2.0),
                    ("groups", "Open groups.", false, 0.5),
                ],
                peer_refused: vec![("cluster", 3)],
                fsync_seconds: (vec![(0.001, 4), (0.01, 5), (f64::INFINITY, 6)], 0.25),
            },
        );
        let expected = "\
# HELP accord_elections_total Elections.
# TYPE accord_elections_total counter
accord_elections_total 2
# HELP accord_groups Open groups.
# TYPE accord_groups gauge
accord_groups 0.5
# HELP accord_peer_refused_total Refused connections of peers.
# TYPE accord_peer_refused_total counter
accord_peer_refused_total{reason=\"cluster\"} 3
# HELP accord_fsync_seconds Time that a synced write took.
# TYPE accord_fsync_seconds histogram
accord_fsync_seconds_bucket{le=\"0.001\"} 4
accord_fsync_seconds_bucket{le=\"0.01\"} 5
accord_fsync_seconds_bucket{le=\"+Inf\"} 6
accord_fsync_seconds_sum 0.25
accord_fsync_seconds_count 6
";
        assert_eq!(text.0, expected);
    }

    #[test]
    fn times_of_agents_are_cumulative() {
        let counters = AgentCounters::default();
        counters.took(std::time::Duration::from_millis(200));
        counters.took(std::time::Duration::from_secs(100));
        let mut text = Text::default();
        agent_seconds(&mut text, "ask", &counters);
        for line in [
            "accord_agent_seconds_bucket{agent=\"ask\",le=\"0.1\"} 0\n",
            "accord_agent_seconds_bucket{agent=\"ask\",le=\"0.25\"} 1\n",
            "accord_agent_seconds_bucket{agent=\"ask\",le=\"60\"} 1\n",
            "accord_agent_seconds_bucket{agent=\"ask\",le=\"+Inf\"} 2\n",
            "accord_agent_seconds_sum{agent=\"ask\"} 100.2\n",
            "accord_agent_seconds_count{agent=\"ask\"} 2\n",
        ] {
            assert!(text.0.contains(line), "no {line} in {}", text.0);
        }
    }
}
