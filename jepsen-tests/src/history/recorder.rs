//! Collects a history while the run goes on.
//!
//! Invariants:
//! - an operation is in the history from its invocation on, so a client that is dropped, or never
//!   gets an answer, leaves an operation of unknown outcome and not a gap;
//! - all times are taken here, from one clock: an invocation before the request is sent, an end
//!   after its answer was read;
//! - operations, streams and faults stand in order of their beginning, because their place is
//!   given and their time is taken under one lock.
//!
//! Nothing here has a bound of its own: a history is as long as the run, and who paces the clients
//! bounds it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{
    Action, ChannelIx, Ending, FaultRecord, History, Operation, Outcome, RunClock, Seen, Stream,
    StreamEnd, StreamEvent, Via,
};

/// Why an operation is unknown that has no answer when the run ends.
const NEVER_RETURNED: &str = "nothing came back before the run ended";

/// A cheap handle; clones write the same history.
#[derive(Debug, Clone)]
pub struct Recorder {
    clock: RunClock,
    record: Arc<Mutex<Record>>,
}

#[derive(Debug, Default)]
struct Record {
    /// An operation's id is its place.
    operations: Vec<Operation>,
    /// A stream's id is its place.
    streams: Vec<Stream>,
    faults: Vec<FaultRecord>,
    processes: u32,
    subscribers: u32,
}

/// What stands in a history besides what happened.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Setting {
    pub seed: u64,
    pub nodes: Vec<u64>,
    /// As [`History::channels`].
    pub channels: Vec<String>,
}

/// What a stream is opened with; see [`Stream`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Opening {
    pub subscriber: u32,
    pub node: u64,
    pub channel: ChannelIx,
    pub via: Via,
    pub after: Option<u64>,
}

impl Recorder {
    pub fn new(clock: RunClock) -> Recorder {
        Recorder {
            clock,
            record: Arc::default(),
        }
    }

    pub fn clock(&self) -> &RunClock {
        &self.clock
    }

    /// A process number that nobody has used. A client takes a new one after an operation whose
    /// outcome it does not know.
    pub fn new_process(&self) -> u32 {
        let mut record = self.record();
        record.processes += 1;
        record.processes - 1
    }

    /// A subscriber number that nobody has used.
    pub fn new_subscriber(&self) -> u32 {
        let mut record = self.record();
        record.subscribers += 1;
        record.subscribers - 1
    }

    /// An operation begins; call it before anything is sent. Answers with its id.
    pub fn invoke(&self, process: u32, node: u64, action: Action) -> u64 {
        let mut record = self.record();
        let id = record.operations.len() as u64;
        record.operations.push(Operation {
            id,
            process,
            node,
            invoked: self.clock.now(),
            returned: None,
            action,
            outcome: Outcome::Info {
                status: None,
                why: NEVER_RETURNED.to_owned(),
            },
        });
        id
    }

    /// An operation ended. The first end counts; an id that this recorder did not give is ignored,
    /// as is one from before [`Recorder::history`].
    pub fn finish(&self, id: u64, outcome: Outcome) {
        let mut record = self.record();
        let now = self.clock.now();
        let operation = place(id).and_then(|place| record.operations.get_mut(place));
        if let Some(operation) = operation.filter(|operation| operation.returned.is_none()) {
            operation.returned = Some(now);
            operation.outcome = outcome;
        }
    }

    /// A stream is asked for; call it before anything is sent. Answers with its id.
    pub fn open(&self, opening: Opening) -> u64 {
        let mut record = self.record();
        let id = record.streams.len() as u64;
        record.streams.push(Stream {
            id,
            subscriber: opening.subscriber,
            node: opening.node,
            channel: opening.channel,
            via: opening.via,
            after: opening.after,
            opened: self.clock.now(),
            connected: None,
            hello: None,
            events: Vec::new(),
            ended: None,
            end: StreamEnd::Open,
        });
        id
    }

    /// The stream's upgrade was answered.
    pub fn connected(&self, id: u64) {
        self.stream(id, |stream, now| stream.connected = Some(now));
    }

    /// The stream's `hello` came.
    pub fn hello(&self, id: u64, seq: u64) {
        self.stream(id, |stream, _| stream.hello = Some(seq));
    }

    /// A message came on the stream.
    pub fn event(&self, id: u64, seen: Seen) {
        self.stream(id, |stream, at| {
            stream.events.push(StreamEvent { at, seen });
        });
    }

    /// The stream ended. One that never does is [`StreamEnd::Open`].
    pub fn end(&self, id: u64, end: StreamEnd) {
        self.stream(id, |stream, now| {
            stream.ended = Some(now);
            stream.end = end;
        });
    }

    /// Notes a fault; those of a run may come in any order.
    pub fn fault(&self, fault: FaultRecord) {
        self.record().faults.push(fault);
    }

    /// How many operations have begun.
    pub fn operations(&self) -> u64 {
        self.record().operations.len() as u64
    }

    /// Takes what was recorded. What comes in later is lost: end the clients first.
    pub fn history(&self, setting: Setting, ending: Option<Ending>) -> History {
        let mut record = self.record();
        let mut faults = std::mem::take(&mut record.faults);
        faults.sort_by_key(|fault| fault.began);
        History {
            seed: setting.seed,
            nodes: setting.nodes,
            channels: setting.channels,
            operations: std::mem::take(&mut record.operations),
            streams: std::mem::take(&mut record.streams),
            faults,
            ending,
        }
    }

    fn stream(&self, id: u64, change: impl FnOnce(&mut Stream, super::Nanos)) {
        let mut record = self.record();
        let now = self.clock.now();
        if let Some(stream) = place(id).and_then(|place| record.streams.get_mut(place)) {
            change(stream, now);
        }
    }

    fn record(&self) -> MutexGuard<'_, Record> {
        // A client that panicked has left whole records behind: each change is one assignment.
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn place(id: u64) -> Option<usize> {
    usize::try_from(id).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::{Bite, Value};

    #[test]
    fn what_never_returned_is_unknown_and_the_first_end_counts() {
        let recorder = Recorder::new(RunClock::start());
        let lost = recorder.invoke(recorder.new_process(), 1, Action::ListServers);
        let told = recorder.invoke(recorder.new_process(), 2, Action::ListServers);
        let listed = Outcome::Ok {
            value: Value::Listed(Vec::new()),
        };
        recorder.finish(told, listed.clone());
        recorder.finish(
            told,
            Outcome::Fail {
                status: None,
                why: String::new(),
            },
        );
        recorder.finish(99, listed.clone());
        let history = recorder.history(Setting::default(), None);
        assert_eq!(history.operations.len(), 2);
        let [lost, told] = [lost, told].map(|id| &history.operations[id as usize]);
        assert_eq!((lost.process, lost.returned), (0, None));
        assert!(matches!(lost.outcome, Outcome::Info { .. }));
        assert_eq!((told.process, &told.outcome), (1, &listed));
        assert!(told.returned.is_some_and(|at| at >= told.invoked));
    }

    #[test]
    fn many_tasks_write_one_history_in_order() {
        let recorder = Recorder::new(RunClock::start());
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let recorder = recorder.clone();
                    let process = recorder.new_process();
                    for _ in 0..500 {
                        let id = recorder.invoke(process, 1, Action::ListServers);
                        let value = Value::Listed(Vec::new());
                        recorder.finish(id, Outcome::Ok { value });
                    }
                });
            }
        });
        assert_eq!(recorder.operations(), 2_000);
        let history = recorder.history(Setting::default(), None);
        assert!(
            history
                .operations
                .is_sorted_by_key(|it| (it.invoked, it.id))
        );
        assert!(history.operations.iter().all(|it| it.returned.is_some()));
        let processes: std::collections::BTreeSet<u32> =
            history.operations.iter().map(|it| it.process).collect();
        assert_eq!(processes.into_iter().collect::<Vec<_>>(), [0, 1, 2, 3]);
    }

    #[test]
    fn a_stream_and_a_fault_are_kept_with_their_times() {
        let recorder = Recorder::new(RunClock::start());
        let id = recorder.open(Opening {
            subscriber: recorder.new_subscriber(),
            node: 3,
            channel: ChannelIx(0),
            via: Via::RichSocket,
            after: Some(4),
        });
        recorder.connected(id);
        recorder.hello(id, 5);
        recorder.event(
            id,
            Seen {
                seq: 5,
                id: "i".into(),
                user: "u".into(),
                body: "b".into(),
                timestamp: 1,
                reply: None,
            },
        );
        recorder.end(id, StreamEnd::Left);
        for began in [9, 2] {
            recorder.fault(FaultRecord {
                kind: "kill".into(),
                detail: String::new(),
                nodes: vec![1],
                began,
                ended: None,
                bite: Bite::No {
                    evidence: String::new(),
                },
            });
        }
        let history = recorder.history(Setting::default(), None);
        let [stream] = &history.streams[..] else {
            panic!("one stream was opened: {:?}", history.streams);
        };
        let at = stream.events[0].at;
        assert!(
            stream
                .connected
                .is_some_and(|connected| stream.opened <= connected && connected <= at)
        );
        assert!(stream.ended.is_some_and(|ended| at <= ended));
        assert_eq!((stream.hello, &stream.end), (Some(5), &StreamEnd::Left));
        let began: Vec<_> = history.faults.iter().map(|fault| fault.began).collect();
        assert_eq!(began, [2, 9]);
    }
}
