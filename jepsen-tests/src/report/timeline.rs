//! A picture of what happened around an anomaly: an SVG that needs nothing but itself.
//!
//! Pure: a history and a mark in, text out. Time runs to the right; each client, stream and fault
//! has a line. What does not concern the anomaly's channel is left out, and so is what does not
//! fit, which the picture says.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use super::svg::escaped;
use crate::history::{Action, ChannelIx, FaultRecord, History, Nanos, Operation, Outcome, Value};

/// What the picture is about.
#[derive(Debug, Clone, Default)]
pub struct Mark {
    pub title: String,
    pub what: String,
    pub at: (Nanos, Nanos),
    pub channel: Option<ChannelIx>,
    pub operations: Vec<u64>,
    pub streams: Vec<u64>,
}

const SECOND: Nanos = 1_000_000_000;
/// Shown before and after the anomaly.
const MARGIN: Nanos = 2 * SECOND;
/// The longest stretch of time in one picture; a longer anomaly is shown at its end.
const WINDOW_MAX: Nanos = 30 * SECOND;
/// Lines of clients in one picture.
const CLIENTS_MAX: usize = 36;
/// Lines of streams in one picture.
const STREAMS_MAX: usize = 8;
/// Lines of faults in one picture.
const FAULTS_MAX: usize = 16;
/// Characters of an explanation in a line of the picture.
const LINE_CHARS_MAX: usize = 160;

const WIDTH: f64 = 1_400.0;
const LEFT: f64 = 210.0;
const RIGHT: f64 = 24.0;
const ROW: f64 = 20.0;
const BAR: f64 = 14.0;
const HEAD: f64 = 92.0;
const FOOT: f64 = 56.0;
/// An operation is never narrower than this, or a fast one could not be seen.
const BAR_WIDTH_MIN: f64 = 2.5;
/// A character of the small font, about.
const CHAR_WIDTH: f64 = 5.8;

const OK: &str = "#3a9d5d";
const FAIL: &str = "#9aa0a6";
const INFO: &str = "#e8a33d";
const MARKED: &str = "#c62828";
const STREAM: &str = "#4472b8";
const FAULT: &str = "#8e4ec6";

/// The picture.
pub fn svg(history: &History, mark: &Mark) -> String {
    let mark = &placed(history, mark);
    let view = View::of(history, mark);
    let faults = faults_in(history, &view);
    let (clients, left_out) = clients_in(history, mark, &view);
    let streams = streams_in(history, mark, &view);
    let rows = faults.len() + clients.len() + streams.len();
    let height = HEAD + FOOT + ROW * rows.max(1) as f64;
    let mut out = Picture {
        text: String::new(),
        view,
        bottom: height - FOOT,
    };
    out.frame(height, mark, left_out);
    out.axis();
    out.anomaly(mark);
    let mut row = 0;
    for fault in &faults {
        out.fault(row, fault);
        row += 1;
    }
    for (process, operations) in &clients {
        out.client(row, *process, operations, mark);
        row += 1;
    }
    for stream in &streams {
        out.stream(row, stream, mark);
        row += 1;
    }
    out.text.push_str("</svg>\n");
    out.text
}

/// What only the final logs show has no time of its own: it is where its operations are, or
/// otherwise where the cluster was healed.
fn placed(history: &History, mark: &Mark) -> Mark {
    let mut mark = mark.clone();
    if mark.at == (0, 0) {
        let spans = history
            .operations
            .iter()
            .filter(|operation| mark.operations.contains(&operation.id))
            .map(|operation| (operation.invoked, end_of(operation)));
        let healed = history.ending.as_ref().map_or(0, |ending| ending.healed);
        mark.at = spans
            .reduce(|all, span| (all.0.min(span.0), all.1.max(span.1)))
            .unwrap_or((healed, healed));
    }
    mark
}

/// The stretch of time that is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct View {
    from: Nanos,
    to: Nanos,
}

impl View {
    fn of(history: &History, mark: &Mark) -> Self {
        let marked = history
            .operations
            .iter()
            .filter(|operation| mark.operations.contains(&operation.id));
        // Where the anomaly itself is long (a message lost until the end of the run, say), the
        // operations of it are what is worth seeing.
        let (mut first, mut last) = mark.at;
        if last.saturating_sub(first) > WINDOW_MAX - 2 * MARGIN {
            let spans: Vec<(Nanos, Nanos)> = marked
                .map(|operation| (operation.invoked, end_of(operation)))
                .collect();
            if let (Some(from), Some(to)) = (
                spans.iter().map(|span| span.0).min(),
                spans.iter().map(|span| span.1).max(),
            ) {
                (first, last) = (from, to);
            }
        }
        let to = last.max(first) + MARGIN;
        let from = first
            .saturating_sub(MARGIN)
            .max(to.saturating_sub(WINDOW_MAX));
        Self { from, to }
    }

    fn holds(self, from: Nanos, to: Nanos) -> bool {
        from <= self.to && to >= self.from
    }

    fn x(self, at: Nanos) -> f64 {
        let at = at.clamp(self.from, self.to);
        let share = (at - self.from) as f64 / (self.to - self.from).max(1) as f64;
        LEFT + share * (WIDTH - LEFT - RIGHT)
    }
}

/// An operation without an answer lasted to the end of the run.
fn end_of(operation: &Operation) -> Nanos {
    operation.returned.unwrap_or(operation.invoked)
}

fn faults_in<'a>(history: &'a History, view: &View) -> Vec<&'a FaultRecord> {
    history
        .faults
        .iter()
        .filter(|fault| view.holds(fault.began, fault.ended.unwrap_or(Nanos::MAX)))
        .take(FAULTS_MAX)
        .collect()
}

/// Lines of clients in the order of their process numbers, and how many did not fit.
fn clients_in<'a>(
    history: &'a History,
    mark: &Mark,
    view: &View,
) -> (BTreeMap<u32, Vec<&'a Operation>>, usize) {
    let concerns = |operation: &Operation| {
        mark.operations.contains(&operation.id)
            || mark.channel.is_none()
            || channel_of(&operation.action) == mark.channel
    };
    let mut all: BTreeMap<u32, Vec<&Operation>> = BTreeMap::new();
    for operation in &history.operations {
        if view.holds(operation.invoked, end_of(operation)) && concerns(operation) {
            all.entry(operation.process).or_default().push(operation);
        }
    }
    let involved = |operations: &Vec<&Operation>| {
        operations
            .iter()
            .any(|operation| mark.operations.contains(&operation.id))
    };
    let mut chosen: BTreeSet<u32> = all
        .iter()
        .filter(|(_, operations)| involved(operations))
        .map(|(process, _)| *process)
        .take(CLIENTS_MAX)
        .collect();
    // Of the others, those that did most here say most about what was going on.
    let mut busiest: Vec<(usize, u32)> = all
        .iter()
        .map(|(process, operations)| (operations.len(), *process))
        .collect();
    busiest.sort_unstable_by(|a, b| b.cmp(a));
    for (_, process) in busiest {
        if chosen.len() >= CLIENTS_MAX {
            break;
        }
        chosen.insert(process);
    }
    let left_out = all.len() - chosen.len();
    all.retain(|process, _| chosen.contains(process));
    (all, left_out)
}

fn streams_in<'a>(
    history: &'a History,
    mark: &Mark,
    view: &View,
) -> Vec<&'a crate::history::Stream> {
    history
        .streams
        .iter()
        .filter(|stream| mark.streams.contains(&stream.id))
        .filter(|stream| view.holds(stream.opened, stream.ended.unwrap_or(Nanos::MAX)))
        .take(STREAMS_MAX)
        .collect()
}

fn channel_of(action: &Action) -> Option<ChannelIx> {
    match action {
        Action::Append { channel, .. } | Action::Read { channel, .. } => Some(*channel),
        Action::CreateServer { .. }
        | Action::CreateChannel { .. }
        | Action::ListServers
        | Action::ListChannels { .. } => None,
    }
}

struct Picture {
    text: String,
    view: View,
    bottom: f64,
}

impl Picture {
    fn put(&mut self, arguments: std::fmt::Arguments<'_>) {
        self.text
            .write_fmt(arguments)
            .expect("writing to a String cannot fail");
        self.text.push('\n');
    }

    fn frame(&mut self, height: f64, mark: &Mark, left_out: usize) {
        let seconds = |at: Nanos| at as f64 / SECOND as f64;
        self.put(format_args!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" \
             viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\" font-size=\"11\">"
        ));
        self.put(format_args!(
            "<rect width=\"{WIDTH}\" height=\"{height}\" fill=\"#ffffff\"/>"
        ));
        self.put(format_args!(
            "<text x=\"16\" y=\"24\" font-size=\"16\" font-weight=\"bold\">{}</text>",
            escaped(&cut(&mark.title))
        ));
        self.put(format_args!(
            "<text x=\"16\" y=\"44\" font-size=\"12\">{}</text>",
            escaped(&cut(&mark.what))
        ));
        let (from, to) = mark.at;
        let more = match left_out {
            0 => String::new(),
            count => format!("; {count} more clients of this channel are not shown"),
        };
        self.put(format_args!(
            "<text x=\"16\" y=\"62\" fill=\"#555555\">from {:.3} s to {:.3} s of the run{more}</text>",
            seconds(from),
            seconds(to)
        ));
        let legend = [
            (OK, "ok"),
            (FAIL, "fail: certainly not applied"),
            (INFO, "info: outcome unknown"),
            (STREAM, "stream"),
            (FAULT, "fault"),
            (MARKED, "part of the anomaly"),
        ];
        let mut x = 16.0;
        for (colour, label) in legend {
            self.put(format_args!(
                "<rect x=\"{x}\" y=\"72\" width=\"12\" height=\"10\" fill=\"{colour}\"/>\
                 <text x=\"{}\" y=\"81\">{label}</text>",
                x + 17.0
            ));
            x += 40.0 + CHAR_WIDTH * label.len() as f64;
        }
    }

    fn axis(&mut self) {
        let span = self.view.to - self.view.from;
        let step = [SECOND / 10, SECOND / 2, SECOND, 2 * SECOND, 5 * SECOND]
            .into_iter()
            .find(|step| span / step <= 16)
            .unwrap_or(10 * SECOND);
        let bottom = self.bottom;
        let mut at = self.view.from.div_ceil(step) * step;
        while at <= self.view.to {
            let x = self.view.x(at);
            self.put(format_args!(
                "<line x1=\"{x:.1}\" y1=\"{HEAD}\" x2=\"{x:.1}\" y2=\"{bottom:.1}\" \
                 stroke=\"#e4e4e4\"/><text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
                bottom + 16.0,
                at as f64 / SECOND as f64
            ));
            at += step;
        }
        self.put(format_args!(
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\" fill=\"#555555\">seconds since \
             the run began</text>",
            (LEFT + WIDTH - RIGHT) / 2.0,
            bottom + 36.0
        ));
    }

    fn anomaly(&mut self, mark: &Mark) {
        let (left, right) = (self.view.x(mark.at.0), self.view.x(mark.at.1));
        let bottom = self.bottom;
        self.put(format_args!(
            "<rect x=\"{left:.1}\" y=\"{HEAD}\" width=\"{:.1}\" height=\"{:.1}\" fill=\"{MARKED}\" \
             fill-opacity=\"0.08\"/>",
            (right - left).max(2.0),
            bottom - HEAD
        ));
        for x in [left, right] {
            self.put(format_args!(
                "<line x1=\"{x:.1}\" y1=\"{HEAD}\" x2=\"{x:.1}\" y2=\"{bottom:.1}\" \
                 stroke=\"{MARKED}\" stroke-dasharray=\"4 3\"/>"
            ));
        }
    }

    fn fault(&mut self, row: usize, fault: &FaultRecord) {
        let (left, right) = (
            self.view.x(fault.began),
            self.view.x(fault.ended.unwrap_or(self.view.to)),
        );
        let width = (right - left).max(BAR_WIDTH_MIN);
        let (y, bottom) = (y_of(row), self.bottom);
        let nodes: Vec<String> = fault.nodes.iter().map(ToString::to_string).collect();
        let label = format!("{} of {}", fault.kind, nodes.join(", "));
        self.label(row, &label, FAULT);
        self.put(format_args!(
            "<rect x=\"{left:.1}\" y=\"{HEAD}\" width=\"{width:.1}\" height=\"{:.1}\" \
             fill=\"{FAULT}\" fill-opacity=\"0.05\"/>",
            bottom - HEAD
        ));
        self.put(format_args!(
            "<rect x=\"{left:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{BAR}\" \
             fill=\"{FAULT}\" fill-opacity=\"0.75\"><title>{}</title></rect>",
            escaped(&format!("{label}: {}", fault.detail))
        ));
        self.text_in_bar(left, width, y, &fault.detail, "#ffffff");
    }

    fn client(&mut self, row: usize, process: u32, operations: &[&Operation], mark: &Mark) {
        let involved = operations.iter().any(|op| mark.operations.contains(&op.id));
        let colour = if involved { MARKED } else { "#333333" };
        self.label(row, &format!("client {process}"), colour);
        let y = y_of(row);
        for operation in operations {
            let marked = mark.operations.contains(&operation.id);
            let (left, right) = (
                self.view.x(operation.invoked),
                self.view.x(operation.returned.unwrap_or(self.view.to)),
            );
            let width = (right - left).max(BAR_WIDTH_MIN);
            let edge = match marked {
                true => format!(" stroke=\"{MARKED}\" stroke-width=\"3\""),
                false => String::new(),
            };
            self.put(format_args!(
                "<rect x=\"{left:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{BAR}\" \
                 fill=\"{}\"{edge}><title>{}</title></rect>",
                colour_of(&operation.outcome),
                escaped(&told(operation))
            ));
            if marked {
                self.text_beside(left + width + 5.0, y, &short(operation));
            } else {
                self.text_in_bar(left, width, y, &short(operation), "#ffffff");
            }
        }
    }

    fn stream(&mut self, row: usize, stream: &crate::history::Stream, mark: &Mark) {
        let label = format!("stream {} of subscriber {}", stream.id, stream.subscriber);
        let involved = mark.streams.contains(&stream.id);
        self.label(row, &label, if involved { MARKED } else { STREAM });
        let y = y_of(row);
        let (left, right) = (
            self.view.x(stream.opened),
            self.view.x(stream.ended.unwrap_or(self.view.to)),
        );
        self.put(format_args!(
            "<rect x=\"{left:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"4\" fill=\"{STREAM}\">\
             <title>{}</title></rect>",
            y + BAR / 2.0 - 2.0,
            (right - left).max(BAR_WIDTH_MIN),
            escaped(&format!(
                "node {}, after {:?}, {:?}",
                stream.node, stream.after, stream.end
            ))
        ));
        for event in &stream.events {
            if event.at < self.view.from || event.at > self.view.to {
                continue;
            }
            self.put(format_args!(
                "<rect x=\"{:.1}\" y=\"{y:.1}\" width=\"1.5\" height=\"{BAR}\" fill=\"{STREAM}\">\
                 <title>seq {} {}</title></rect>",
                self.view.x(event.at),
                event.seen.seq,
                escaped(&cut(&event.seen.body))
            ));
        }
    }

    fn label(&mut self, row: usize, label: &str, colour: &str) {
        let room = ((LEFT - 20.0) / CHAR_WIDTH) as usize;
        self.put(format_args!(
            "<text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\" fill=\"{colour}\">{}</text>",
            LEFT - 8.0,
            y_of(row) + BAR - 3.0,
            escaped(&shortened(label, room))
        ));
    }

    /// Only if it fits.
    fn text_in_bar(&mut self, left: f64, width: f64, y: f64, text: &str, colour: &str) {
        let room = ((width - 8.0) / CHAR_WIDTH).max(0.0) as usize;
        if room >= text.chars().count().min(12) && room > 0 {
            self.put(format_args!(
                "<text x=\"{:.1}\" y=\"{:.1}\" fill=\"{colour}\" font-size=\"10\">{}</text>",
                left + 4.0,
                y + BAR - 3.5,
                escaped(&shortened(text, room))
            ));
        }
    }

    /// To the right of a bar, or to its left where the picture ends.
    fn text_beside(&mut self, x: f64, y: f64, text: &str) {
        let fits = x + CHAR_WIDTH * text.chars().count() as f64 <= WIDTH;
        let (x, anchor) = match fits {
            true => (x, "start"),
            false => (WIDTH - RIGHT, "end"),
        };
        self.put(format_args!(
            "<text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"{anchor}\" fill=\"{MARKED}\" \
             font-weight=\"bold\" font-size=\"10\" stroke=\"#ffffff\" stroke-width=\"3\" \
             paint-order=\"stroke\">{}</text>",
            y + BAR - 3.5,
            escaped(text)
        ));
    }
}

fn y_of(row: usize) -> f64 {
    HEAD + ROW * row as f64 + (ROW - BAR) / 2.0
}

fn colour_of(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Ok { .. } => OK,
        Outcome::Fail { .. } => FAIL,
        Outcome::Info { .. } => INFO,
    }
}

/// A few words for beside a bar.
fn short(operation: &Operation) -> String {
    let node = operation.node;
    match (&operation.action, &operation.outcome) {
        (
            Action::Append { .. },
            Outcome::Ok {
                value: Value::Appended(seen),
            },
        ) => format!("append = {} @{node}", seen.seq),
        (Action::Append { .. }, _) => format!("append @{node}"),
        (
            Action::Read { linearizable, .. },
            Outcome::Ok {
                value: Value::Read { head, .. },
            },
        ) => {
            let kind = if *linearizable { "read" } else { "stale read" };
            format!("{kind} to {head} @{node}")
        }
        (Action::Read { .. }, _) => format!("read @{node}"),
        (Action::CreateServer { .. }, _) => format!("new server @{node}"),
        (Action::CreateChannel { .. }, _) => format!("new channel @{node}"),
        (Action::ListServers | Action::ListChannels { .. }, _) => format!("list @{node}"),
    }
}

/// All about an operation, for whoever points at it.
fn told(operation: &Operation) -> String {
    let what = match &operation.action {
        Action::Append { body, user, .. } => format!("{user}: {}", cut(body)),
        other => format!("{other:?}"),
    };
    let outcome = match &operation.outcome {
        Outcome::Ok { .. } => "ok".to_owned(),
        Outcome::Fail { status, why } => format!("fail {status:?} {why}"),
        Outcome::Info { status, why } => format!("info {status:?} {why}"),
    };
    let ms = |at: Nanos| at / 1_000_000;
    format!(
        "operation {} on node {}, {} to {} ms: {} ({what}): {}",
        operation.id,
        operation.node,
        ms(operation.invoked),
        operation
            .returned
            .map_or_else(|| "?".to_owned(), |at| ms(at).to_string()),
        short(operation),
        cut(&outcome)
    )
}

fn cut(text: &str) -> String {
    shortened(text, LINE_CHARS_MAX)
}

fn shortened(text: &str, chars_max: usize) -> String {
    if text.chars().count() <= chars_max {
        return text.to_owned();
    }
    let mut short: String = text.chars().take(chars_max.saturating_sub(1)).collect();
    short.push('…');
    short
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::{Bite, Seen, Via};

    fn append(id: u64, process: u32, from_ms: u64, to_ms: u64, outcome: Outcome) -> Operation {
        Operation {
            id,
            process,
            node: 1,
            invoked: from_ms * 1_000_000,
            returned: Some(to_ms * 1_000_000),
            action: Action::Append {
                channel: ChannelIx(0),
                user: "u".to_owned(),
                body: format!("<body & {id}>"),
                key: None,
                if_head: None,
                via: Via::Rest,
            },
            outcome,
        }
    }

    fn ok(seq: u64) -> Outcome {
        Outcome::Ok {
            value: Value::Appended(Seen {
                seq,
                id: "i".to_owned(),
                user: "u".to_owned(),
                body: "b".to_owned(),
                timestamp: 1,
                reply: None,
            }),
        }
    }

    fn info() -> Outcome {
        Outcome::Info {
            status: None,
            why: "\"gone\"".to_owned(),
        }
    }

    fn history() -> History {
        History {
            operations: vec![
                append(1, 1, 1_000, 1_010, ok(1)),
                append(2, 2, 1_200, 1_900, info()),
                append(3, 1, 90_000, 90_010, ok(2)),
            ],
            faults: vec![FaultRecord {
                kind: "kill".to_owned(),
                detail: "node 2 <now>".to_owned(),
                nodes: vec![2],
                began: 1_100_000_000,
                ended: None,
                bite: Bite::Yes {
                    evidence: String::new(),
                },
            }],
            ..History::default()
        }
    }

    fn mark() -> Mark {
        Mark {
            title: "P1 lost".to_owned(),
            what: "a & b < c".to_owned(),
            at: (1_000_000_000, 1_900_000_000),
            channel: Some(ChannelIx(0)),
            operations: vec![1],
            streams: Vec::new(),
        }
    }

    #[test]
    fn the_picture_holds_what_is_in_the_window_and_nothing_else() {
        let picture = svg(&history(), &mark());
        assert!(picture.contains("operation 1 on node 1, 1000 to 1010 ms"));
        assert!(picture.contains("operation 2") && !picture.contains("operation 3"));
        assert!(picture.contains("kill of 2"));
        assert_eq!(
            picture.matches("stroke-width=\"3\"><title>").count(),
            1,
            "one is marked"
        );
        assert!(picture.contains(INFO) && picture.contains(OK));
    }

    #[test]
    fn text_from_outside_cannot_break_the_picture() {
        let picture = svg(&history(), &mark());
        assert!(picture.contains("a &amp; b &lt; c"));
        assert!(!picture.contains("<now>") && !picture.contains("<body"));
        let opened = picture.matches("<title>").count();
        assert_eq!(opened, picture.matches("</title>").count());
    }

    #[test]
    fn a_long_anomaly_is_shown_where_its_operations_are() {
        let long = Mark {
            at: (0, 300 * SECOND),
            operations: vec![1, 2],
            ..mark()
        };
        let view = View::of(&history(), &long);
        assert_eq!((view.from, view.to), (0, 3_900_000_000));
        let nothing_marked = Mark {
            operations: Vec::new(),
            ..long
        };
        let view = View::of(&history(), &nothing_marked);
        assert_eq!(view.to - view.from, WINDOW_MAX);
        assert_eq!(view.to, 300 * SECOND + MARGIN);
    }

    #[test]
    fn what_has_no_time_of_its_own_is_shown_where_its_operations_are() {
        let timeless = Mark {
            at: (0, 0),
            ..mark()
        };
        let at = placed(&history(), &timeless).at;
        assert_eq!(at, (1_000_000_000, 1_010_000_000));
        let nothing = Mark {
            operations: Vec::new(),
            ..timeless
        };
        let mut healed = history();
        healed.ending = Some(crate::history::Ending {
            healed: 9,
            ready: Vec::new(),
            writable: Vec::new(),
            replicas: Vec::new(),
            logs: Vec::new(),
        });
        assert_eq!(placed(&healed, &nothing).at, (9, 9));
    }

    #[test]
    fn a_crowd_is_cut_down_to_the_involved_and_the_busy() {
        let mut crowd = history();
        for process in 10..100 {
            crowd
                .operations
                .push(append(u64::from(process), process, 1_300, 1_310, ok(9)));
        }
        let view = View::of(&crowd, &mark());
        let (clients, left_out) = clients_in(&crowd, &mark(), &view);
        assert_eq!(clients.len(), CLIENTS_MAX);
        assert_eq!(left_out, 92 - CLIENTS_MAX);
        assert!(clients.contains_key(&1));
    }
}
