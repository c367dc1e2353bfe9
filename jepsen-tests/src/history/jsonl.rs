//! A history as JSON lines: what a run leaves behind, and what `check` reads again.
//!
//! The first line is the header: format, version, seed, nodes, channels. Every other line is one
//! record in order of time: an operation (at its invocation, with its outcome), a stream (at its
//! opening, with its end), an event of a stream, or a fault. The last lines are the ending and the
//! messages of its final logs. `grep` and `jq` are enough to look into it.
//!
//! Invariants:
//! - reading what was written gives the equal history, even one whose times are out of order;
//! - no input makes the reader panic or allocate more than the input's own size and one line of at
//!   most [`LINE_BYTES_MAX`].

use std::io::{self, BufRead, Read, Write};

use serde::{Deserialize, Serialize};

use super::{Ending, FaultRecord, FinalLog, History, Nanos, Operation, Seen, Stream, StreamEvent};

const FORMAT: &str = "accord-history";
const VERSION: u32 = 1;

/// The longest line that is read: a page of a thousand messages of the greatest size that the
/// contract allows, each byte written as a six-byte escape, with room to spare.
pub const LINE_BYTES_MAX: u64 = 128 << 20;

/// Why a history could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error("line {line}: {source}")]
    Io { line: u64, source: io::Error },
    #[error("line {line}: {why}")]
    Bad { line: u64, why: String },
}

/// Writes a history. The writer should buffer: every line is many small writes.
pub fn write(history: &History, mut out: impl Write) -> io::Result<()> {
    let header = Header {
        format: FORMAT.to_owned(),
        version: VERSION,
        seed: history.seed,
        nodes: history.nodes.clone(),
        channels: history.channels.clone(),
    };
    line(&mut out, &header)?;
    for (_, entry) in entries(history) {
        match entry {
            Entry::Operation(operation) => line(&mut out, &Written::Operation(operation))?,
            Entry::Stream(stream) => line(&mut out, &Written::Stream(&without_events(stream)))?,
            Entry::Event(stream, event) => {
                line(&mut out, &Written::Event(&EventLine { stream, event }))?;
            }
            Entry::Fault(fault) => line(&mut out, &Written::Fault(fault))?,
        }
    }
    if let Some(ending) = &history.ending {
        let bare = Ending {
            healed: ending.healed,
            ready: ending.ready.clone(),
            writable: ending.writable.clone(),
            replicas: ending.replicas.clone(),
            logs: ending.logs.iter().map(without_messages).collect(),
        };
        line(&mut out, &Written::Ending(&bare))?;
        for (log, final_log) in ending.logs.iter().enumerate() {
            for seen in &final_log.messages {
                line(&mut out, &Written::Final(&FinalLine { log, seen }))?;
            }
        }
    }
    out.flush()
}

/// Reads a history that [`write()`] wrote.
///
/// Fails at the first line that is not such a line, and names it.
pub fn read(input: impl BufRead) -> Result<History, ReadError> {
    let mut lines = Lines {
        input,
        number: 0,
        text: Vec::new(),
    };
    let header: Header = match lines.next()? {
        Some(text) => serde_json::from_slice(text).map_err(|error| lines.bad(error))?,
        None => return Err(lines.bad("the file is empty")),
    };
    if header.format != FORMAT || header.version != VERSION {
        let Header {
            format, version, ..
        } = header;
        return Err(lines.bad(format!(
            "this is version {version} of {format:?}, not version {VERSION} of {FORMAT:?}"
        )));
    }
    let mut history = History {
        seed: header.seed,
        nodes: header.nodes,
        channels: header.channels,
        ..History::default()
    };
    while let Some(text) = lines.next()? {
        let record: Record = serde_json::from_slice(text).map_err(|error| lines.bad(error))?;
        take(&mut history, record).map_err(|why| lines.bad(why))?;
    }
    Ok(history)
}

fn take(history: &mut History, record: Record) -> Result<(), &'static str> {
    match record {
        Record::Operation(operation) => history.operations.push(operation),
        Record::Stream(stream) => history.streams.push(stream),
        Record::Event(line) => history
            .streams
            .get_mut(line.stream)
            .ok_or("an event of a stream that was not opened before")?
            .events
            .push(line.event),
        Record::Fault(fault) => history.faults.push(fault),
        Record::Ending(ending) => history.ending = Some(ending),
        Record::Final(line) => history
            .ending
            .as_mut()
            .and_then(|ending| ending.logs.get_mut(line.log))
            .ok_or("a message of a final log that no ending announced before")?
            .messages
            .push(line.seen),
    }
    Ok(())
}

#[derive(Serialize, Deserialize)]
struct Header {
    format: String,
    version: u32,
    seed: u64,
    nodes: Vec<u64>,
    channels: Vec<String>,
}

/// A line as it is written; [`Record`] is its counterpart.
#[derive(Serialize)]
#[serde(tag = "record", rename_all = "snake_case")]
enum Written<'h> {
    Operation(&'h Operation),
    Stream(&'h Stream),
    Event(&'h EventLine<&'h StreamEvent>),
    Fault(&'h FaultRecord),
    Ending(&'h Ending),
    Final(&'h FinalLine<&'h Seen>),
}

#[derive(Deserialize)]
#[serde(tag = "record", rename_all = "snake_case")]
enum Record {
    Operation(Operation),
    Stream(Stream),
    Event(EventLine<StreamEvent>),
    Fault(FaultRecord),
    Ending(Ending),
    Final(FinalLine<Seen>),
}

/// An event of the stream at this place in [`History::streams`].
#[derive(Serialize, Deserialize)]
struct EventLine<Event> {
    stream: usize,
    event: Event,
}

/// A message of the log at this place in [`Ending::logs`].
#[derive(Serialize, Deserialize)]
struct FinalLine<Message> {
    log: usize,
    seen: Message,
}

fn without_events(stream: &Stream) -> Stream {
    Stream {
        events: Vec::new(),
        end: stream.end.clone(),
        ..*stream
    }
}

fn without_messages(log: &FinalLog) -> FinalLog {
    FinalLog {
        channel: log.channel,
        node: log.node,
        messages: Vec::new(),
        state_hash: log.state_hash.clone(),
    }
}

enum Entry<'h> {
    Operation(&'h Operation),
    Stream(&'h Stream),
    Event(usize, &'h StreamEvent),
    Fault(&'h FaultRecord),
}

/// All records in order of time. Where the times of one list go back, its own order wins: that is
/// what the reader restores.
fn entries(history: &History) -> Vec<(Nanos, Entry<'_>)> {
    let mut entries = Vec::new();
    let mut latest = 0;
    for operation in &history.operations {
        latest = operation.invoked.max(latest);
        entries.push((latest, Entry::Operation(operation)));
    }
    let mut opened = 0;
    for (place, stream) in history.streams.iter().enumerate() {
        opened = stream.opened.max(opened);
        entries.push((opened, Entry::Stream(stream)));
        let mut latest = opened;
        for event in &stream.events {
            latest = event.at.max(latest);
            entries.push((latest, Entry::Event(place, event)));
        }
    }
    let mut latest = 0;
    for fault in &history.faults {
        latest = fault.began.max(latest);
        entries.push((latest, Entry::Fault(fault)));
    }
    entries.sort_by_key(|(at, _)| *at);
    entries
}

fn line(out: &mut impl Write, record: &impl Serialize) -> io::Result<()> {
    serde_json::to_writer(&mut *out, record)?;
    out.write_all(b"\n")
}

/// The lines of a file, one at a time.
struct Lines<Input> {
    input: Input,
    /// Of the line read last, from 1.
    number: u64,
    text: Vec<u8>,
}

impl<Input: BufRead> Lines<Input> {
    fn next(&mut self) -> Result<Option<&[u8]>, ReadError> {
        self.number += 1;
        self.text.clear();
        let read = (&mut self.input)
            .take(LINE_BYTES_MAX)
            .read_until(b'\n', &mut self.text);
        let bytes = match read {
            Ok(bytes) => bytes,
            Err(source) => {
                let line = self.number;
                return Err(ReadError::Io { line, source });
            }
        };
        if bytes as u64 == LINE_BYTES_MAX && self.text.last() != Some(&b'\n') {
            return Err(self.bad(format!("it is longer than {LINE_BYTES_MAX} bytes")));
        }
        Ok((bytes > 0).then_some(&self.text))
    }

    fn bad(&self, why: impl ToString) -> ReadError {
        ReadError::Bad {
            line: self.number,
            why: why.to_string(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::sample;
    use proptest::prelude::*;

    fn written(history: &History) -> Vec<u8> {
        let mut bytes = Vec::new();
        write(history, &mut bytes).unwrap();
        bytes
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_again(history in sample::history()) {
            let bytes = written(&history);
            prop_assert_eq!(read(&bytes[..]).unwrap(), history);
        }

        #[test]
        fn no_bytes_make_the_reader_panic(
            history in sample::history(),
            cut in any::<prop::sample::Index>(),
            flip in any::<(prop::sample::Index, u8)>(),
        ) {
            let mut bytes = written(&history);
            let place = flip.0.index(bytes.len());
            bytes[place] ^= flip.1;
            bytes.truncate(cut.index(bytes.len()));
            // Either way is fine: a flipped digit is another history.
            let _ = read(&bytes[..]);
        }
    }

    #[test]
    fn records_stand_in_order_of_time() {
        let history = sample::small();
        let text = String::from_utf8(written(&history)).unwrap();
        let kinds: Vec<String> = text
            .lines()
            .skip(1)
            .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap())
            .map(|line| line["record"].as_str().unwrap().to_owned())
            .collect();
        assert_eq!(
            kinds,
            [
                "operation",
                "stream",
                "fault",
                "operation",
                "event",
                "ending",
                "final"
            ]
        );
    }

    #[test]
    fn an_error_names_the_line() {
        let text = String::from_utf8(written(&sample::small())).unwrap();
        let error = |text: &str| read(text.as_bytes()).unwrap_err().to_string();
        assert_eq!(error(""), "line 1: the file is empty");
        let foreign = text.replacen("accord-history", "diary", 1);
        assert!(error(&foreign).starts_with("line 1: this is version 1 of \"diary\""));
        let broken = text.replacen("\"record\":\"fault\"", "\"record\":\"joke\"", 1);
        assert!(
            error(&broken).starts_with("line 4: unknown variant `joke`"),
            "{}",
            error(&broken)
        );
        let mut lines: Vec<&str> = text.lines().collect();
        lines.remove(2);
        assert!(error(&lines.join("\n")).contains("line 5: an event of a stream"));
        lines.truncate(1);
        lines.push("{\"record\":");
        assert!(error(&lines.join("\n")).starts_with("line 2: EOF"));
    }
}
