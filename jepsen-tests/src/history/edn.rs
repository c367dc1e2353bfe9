//! A history in Jepsen's form, so that checkers which we did not write can judge it too.
//!
//! One map per line, an invocation and a completion for every operation, in order of time:
//! `{:index 0, :type :invoke, :process 3, :f :append, :value [[:append 0 "ann 1"]], :time 12, :node 2}`.
//! Faults are operations of the process `:nemesis`. Streams have no counterpart and are left out.
//!
//! Who can read it, and which form:
//! - **Elle**, by `elle-cli --model list-append history.edn` or `elle.list-append/check` in a REPL:
//!   [`Form::Elle`]. A channel is a list, a message an appended element; `:strict-serializable` is
//!   the model to ask for, since all reads in this form are linearizable.
//! - **Knossos** and **Porcupine** (through a reader for Jepsen's form): [`Form::Elle`] too, with a
//!   model of an append-only list. Both search; give them histories of a few hundred operations.
//! - Jepsen's own tools that look at a history without a model (`jepsen.checker.timeline`,
//!   `perf`), and any EDN reader: [`Form::Jepsen`], which has every operation.
//!
//! Invariants: a completion follows its invocation; each line is one EDN value and holds no line
//! break; an operation that never returned has no completion, which readers take for `:info`.

use std::collections::HashMap;
use std::fmt::{self, Write as _};
use std::io::{self, Write};

use super::{
    Action, ChannelIx, FaultRecord, History, Nanos, Operation, Outcome, Range, Seen, Value,
};

/// What is written of a history.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// Everything but streams.
    Jepsen,
    /// What Elle's list-append checker takes: appends, and linearizable reads that answered with a
    /// whole channel, each a transaction of one step. Elle wants every element appended once, so
    /// the attempts of one key are one operation here, by a process of its own. What failed is
    /// left out but for appends, which Elle looks for in reads.
    Elle,
}

/// Writes a history. The writer should buffer.
pub fn write(history: &History, form: Form, mut out: impl Write) -> io::Result<()> {
    let mut events = match form {
        Form::Jepsen => history.operations.iter().flat_map(full).collect(),
        Form::Elle => transactions(history),
    };
    events.extend(history.faults.iter().flat_map(nemesis));
    events.sort_by_key(|event| event.time);
    let mut line = String::new();
    for (index, event) in events.iter().enumerate() {
        line.clear();
        event
            .render(index, &mut line)
            .expect("a string takes all that is written to it");
        out.write_all(line.as_bytes())?;
    }
    out.flush()
}

/// One line.
struct Event<'h> {
    time: Nanos,
    /// None is the nemesis.
    process: Option<u32>,
    kind: &'static str,
    f: String,
    node: Option<u64>,
    value: Shown<'h>,
}

/// The `:value` of an event.
enum Shown<'h> {
    Nil,
    /// One append of a list-append transaction.
    Append(ChannelIx, &'h str),
    /// One read of such a transaction; none before it is answered.
    List(ChannelIx, Option<&'h [Seen]>),
    Asked(ChannelIx, Range),
    Page(ChannelIx, &'h [Seen], u64),
    Text(&'h str),
    Texts(Vec<&'h str>),
    Fault(&'h FaultRecord),
}

fn full(operation: &Operation) -> Vec<Event<'_>> {
    let (f, asked) = match &operation.action {
        Action::Append { channel, body, .. } => ("append", Shown::Append(*channel, body)),
        Action::Read {
            channel,
            range,
            linearizable,
        } => {
            let f = if *linearizable { "read" } else { "stale-read" };
            match &operation.outcome {
                Outcome::Ok { value } if whole(value).is_some() => (f, Shown::List(*channel, None)),
                _ => (f, Shown::Asked(*channel, *range)),
            }
        }
        Action::CreateServer { name } => ("create-server", Shown::Text(name)),
        Action::CreateChannel { server, name } => {
            ("create-channel", Shown::Texts(vec![server, name]))
        }
        Action::ListServers => ("list-servers", Shown::Nil),
        Action::ListChannels { server } => ("list-channels", Shown::Text(server)),
    };
    let (kind, told) = match &operation.outcome {
        Outcome::Ok { value } => ("ok", answered(&operation.action, value)),
        Outcome::Fail { why, .. } => ("fail", Shown::Text(why)),
        Outcome::Info { why, .. } => ("info", Shown::Text(why)),
    };
    let event = |time, kind, value| Event {
        time,
        process: Some(operation.process),
        kind,
        f: f.to_owned(),
        node: Some(operation.node),
        value,
    };
    let invoke = event(operation.invoked, "invoke", asked);
    let complete = operation.returned.map(|time| event(time, kind, told));
    std::iter::once(invoke).chain(complete).collect()
}

fn answered<'h>(action: &'h Action, value: &'h Value) -> Shown<'h> {
    match (action, value) {
        (Action::Append { channel, .. }, Value::Appended(seen)) => {
            Shown::Append(*channel, &seen.body)
        }
        (Action::Read { channel, .. }, Value::Read { messages, head }) => match whole(value) {
            Some(list) => Shown::List(*channel, Some(list)),
            None => Shown::Page(*channel, messages, *head),
        },
        (_, Value::Created(id)) => Shown::Text(id),
        (_, Value::Listed(listed)) => {
            Shown::Texts(listed.iter().map(|one| one.id.as_str()).collect())
        }
        // An answer to another question than was asked; the checker says so.
        (_, Value::Appended(_) | Value::Read { .. }) => Shown::Nil,
    }
}

/// The messages of a read that answered with all that there was.
fn whole(value: &Value) -> Option<&[Seen]> {
    match value {
        Value::Read { messages, head } => {
            let all = messages.len() as u64 == *head
                && messages.iter().zip(1..).all(|(seen, seq)| seen.seq == seq);
            all.then_some(messages)
        }
        Value::Appended(_) | Value::Created(_) | Value::Listed(_) => None,
    }
}

/// What the attempts at one message came to.
struct Attempts<'h> {
    channel: ChannelIx,
    body: &'h str,
    process: u32,
    alone: bool,
    node: u64,
    invoked: Nanos,
    /// The earliest acknowledgement.
    ok: Option<Nanos>,
    /// When the last attempt failed; none if any may have happened without saying so.
    failed: Option<Nanos>,
    /// When the last attempt was given up.
    given_up: Option<Nanos>,
}

fn transactions(history: &History) -> Vec<Event<'_>> {
    let mut processes = history
        .operations
        .iter()
        .map(|it| it.process)
        .max()
        .unwrap_or(0);
    let mut events = Vec::new();
    let mut appends: Vec<Attempts<'_>> = Vec::new();
    let mut known: HashMap<(ChannelIx, &str, &str), usize> = HashMap::new();
    for operation in &history.operations {
        match &operation.action {
            Action::Append {
                channel,
                user,
                body,
                ..
            } => {
                let place = *known.entry((*channel, user, body)).or_insert(appends.len());
                match appends.get_mut(place) {
                    Some(attempts) => attempts.again(operation),
                    None => appends.push(Attempts::first(operation, *channel, body)),
                }
            }
            Action::Read {
                channel,
                linearizable: true,
                ..
            } => {
                let Outcome::Ok { value } = &operation.outcome else {
                    continue;
                };
                let (Some(list), Some(returned)) = (whole(value), operation.returned) else {
                    continue;
                };
                for (time, kind, list) in [
                    (operation.invoked, "invoke", None),
                    (returned, "ok", Some(list)),
                ] {
                    events.push(Event {
                        time,
                        process: Some(operation.process),
                        kind,
                        f: "txn".to_owned(),
                        node: Some(operation.node),
                        value: Shown::List(*channel, list),
                    });
                }
            }
            _ => {}
        }
    }
    for attempts in appends {
        let process = if attempts.alone {
            attempts.process
        } else {
            // The attempts may span other operations of the same client.
            processes = processes.saturating_add(1);
            processes
        };
        let completion = match (attempts.ok, attempts.failed) {
            (Some(at), _) => Some((at, "ok")),
            (None, Some(at)) => Some((at, "fail")),
            (None, None) => attempts.given_up.map(|at| (at, "info")),
        };
        for (time, kind) in std::iter::once((attempts.invoked, "invoke")).chain(completion) {
            events.push(Event {
                time,
                process: Some(process),
                kind,
                f: "txn".to_owned(),
                node: Some(attempts.node),
                value: Shown::Append(attempts.channel, attempts.body),
            });
        }
    }
    events
}

impl<'h> Attempts<'h> {
    fn first(operation: &'h Operation, channel: ChannelIx, body: &'h str) -> Attempts<'h> {
        let mut attempts = Attempts {
            channel,
            body,
            process: operation.process,
            alone: true,
            node: operation.node,
            invoked: operation.invoked,
            ok: None,
            failed: Some(0),
            given_up: None,
        };
        attempts.note(operation);
        attempts
    }

    fn again(&mut self, operation: &Operation) {
        self.alone = false;
        self.invoked = self.invoked.min(operation.invoked);
        self.note(operation);
    }

    fn note(&mut self, operation: &Operation) {
        let returned = operation.returned;
        match &operation.outcome {
            Outcome::Ok { .. } => {
                self.ok = [self.ok, returned].into_iter().flatten().min();
                self.failed = None;
            }
            Outcome::Fail { .. } => {
                self.failed = self.failed.and_then(|at| Some(at.max(returned?)));
            }
            Outcome::Info { .. } => self.failed = None,
        }
        self.given_up = self.given_up.max(returned);
    }
}

fn nemesis(fault: &FaultRecord) -> impl Iterator<Item = Event<'_>> {
    let event = |word: &str, time| Event {
        time,
        process: None,
        kind: "info",
        f: format!("{word}-{}", keyword(&fault.kind)),
        node: None,
        value: Shown::Fault(fault),
    };
    let start = event("start", fault.began);
    let stop = fault.ended.map(|time| event("stop", time));
    std::iter::once(start).chain(stop)
}

/// The part of a keyword after its colon; what may not stand there becomes a dash.
fn keyword(text: &str) -> String {
    text.chars()
        .map(|one| match one {
            '_' => '-',
            _ if one.is_ascii_alphanumeric() => one,
            _ => '-',
        })
        .collect()
}

impl Event<'_> {
    fn render(&self, index: usize, out: &mut String) -> fmt::Result {
        write!(out, "{{:index {index}, :type :{}, :process ", self.kind)?;
        match self.process {
            Some(process) => write!(out, "{process}")?,
            None => out.push_str(":nemesis"),
        }
        write!(out, ", :f :{}, :value ", self.f)?;
        self.value.render(out)?;
        write!(out, ", :time {}", self.time)?;
        if let Some(node) = self.node {
            write!(out, ", :node {node}")?;
        }
        out.push_str("}\n");
        Ok(())
    }
}

impl Shown<'_> {
    fn render(&self, out: &mut String) -> fmt::Result {
        match self {
            Shown::Nil => out.push_str("nil"),
            Shown::Append(channel, body) => {
                write!(out, "[[:append {} {}]]", channel.0, Quoted(body))?;
            }
            Shown::List(channel, None) => write!(out, "[[:r {} nil]]", channel.0)?,
            Shown::List(channel, Some(list)) => {
                write!(out, "[[:r {} [", channel.0)?;
                spaced(out, list.iter(), |out, seen| {
                    write!(out, "{}", Quoted(&seen.body))
                })?;
                out.push_str("]]]");
            }
            Shown::Asked(channel, range) => {
                let (word, seq, limit) = match range {
                    Range::Latest { limit } => ("latest", None, limit),
                    Range::After { seq, limit } => ("after", Some(seq), limit),
                    Range::Before { seq, limit } => ("before", Some(seq), limit),
                };
                write!(out, "{{:channel {}, :range :{word}", channel.0)?;
                if let Some(seq) = seq {
                    write!(out, ", :seq {seq}")?;
                }
                write!(out, ", :limit {limit}}}")?;
            }
            Shown::Page(channel, messages, head) => {
                write!(out, "{{:channel {}, :head {head}, :messages [", channel.0)?;
                spaced(out, messages.iter(), |out, seen| {
                    write!(out, "[{} {}]", seen.seq, Quoted(&seen.body))
                })?;
                out.push_str("]}");
            }
            Shown::Text(text) => write!(out, "{}", Quoted(text))?,
            Shown::Texts(texts) => {
                out.push('[');
                spaced(out, texts.iter(), |out, text| {
                    write!(out, "{}", Quoted(text))
                })?;
                out.push(']');
            }
            Shown::Fault(fault) => {
                out.push_str("{:nodes [");
                spaced(out, fault.nodes.iter(), |out, node| write!(out, "{node}"))?;
                write!(out, "], :detail {}}}", Quoted(&fault.detail))?;
            }
        }
        Ok(())
    }
}

fn spaced<T>(
    out: &mut String,
    items: impl Iterator<Item = T>,
    mut show: impl FnMut(&mut String, T) -> fmt::Result,
) -> fmt::Result {
    for (place, item) in items.enumerate() {
        if place > 0 {
            out.push(' ');
        }
        show(out, item)?;
    }
    Ok(())
}

/// A string as EDN writes it, on one line.
struct Quoted<'a>(&'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_char('"')?;
        for one in self.0.chars() {
            match one {
                '"' => out.write_str("\\\"")?,
                '\\' => out.write_str("\\\\")?,
                '\n' => out.write_str("\\n")?,
                '\r' => out.write_str("\\r")?,
                '\t' => out.write_str("\\t")?,
                // Line and paragraph separators too: some readers break lines there.
                '\u{2028}' | '\u{2029}' => write!(out, "\\u{:04X}", u32::from(one))?,
                _ if one.is_control() => write!(out, "\\u{:04X}", u32::from(one))?,
                _ => out.write_char(one)?,
            }
        }
        out.write_char('"')
    }
}
