//! The promises, checked after every step of the simulation, each against what all replicas together
//! show and not against what one of them says.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::sync::Arc;

use accord_raft::Node;
use accord_raft::NodeId;
use accord_raft::machine::Batch;
use accord_raft::machine::Committed;
use accord_raft::machine::Message;
use accord_raft::machine::channel::Command;
use accord_raft::sim::Probe;
use accord_storage::GroupId;
use accord_storage::LogId;
use accord_storage::Vote;
use accord_storage::sim::Disk;

use crate::trace::Trace;
use crate::trace::hash;

/// First byte of a batch of commands in an entry.
const BATCH: u8 = 1;
/// The group of servers and channels.
const DIRECTORY: u64 = 0;
/// Steps between two looks at all rows of a replica.
const DIGEST_EVERY_STEPS: u64 = 1_024;
/// Violations kept; the first is what matters.
const VIOLATIONS_MAX: usize = 16;

/// A message that a client was told has its place for good.
#[derive(Debug, Clone, Copy)]
pub struct Acknowledged {
    pub group: u64,
    pub seq: u64,
    pub id: [u8; 16],
    pub timestamp_ms: u64,
}

/// What a node told its sockets.
pub enum Told {
    Attached { group: u64, head: u64 },
    Committed { group: u64, batch: Arc<Committed> },
    Skipped { group: u64, head: u64 },
}

/// What clients have asked of a channel for later, and what came of it. Messages that were acknowledged
/// are looked for by what they are about.
#[derive(Default)]
struct Agenda {
    /// Commands that are in the channel, or will be, and that nobody has cancelled.
    commands: BTreeSet<[u8; 16]>,
    /// Scheduled messages that nobody has cancelled, and their times.
    scheduled: BTreeMap<[u8; 16], u64>,
    /// Where each command was answered.
    replies: BTreeMap<[u8; 16], u64>,
}

/// The committed log of one group, as the first replica to apply each entry had it.
#[derive(Default)]
struct Log {
    /// Term and hash of the payload.
    entries: Vec<(u64, u64)>,
    /// Where each message was first proposed, by id.
    messages: BTreeMap<[u8; 16], u64>,
    leaders: BTreeMap<u64, NodeId>,
    digests: BTreeMap<u64, [u8; 32]>,
    /// Which message has a seq, and when it was stamped.
    seqs: BTreeMap<u64, ([u8; 16], u64)>,
    ids: BTreeMap<[u8; 16], u64>,
    acknowledged: BTreeMap<u64, u64>,
    agenda: Agenda,
    /// Newest seq that a reader has to see: acknowledged, or read before.
    floor: u64,
}

/// What is known of one replica.
#[derive(Default)]
struct Replica {
    /// Entries compared with the common log in this life of the node.
    compared: u64,
    /// Entries of the common log that a loss of power would leave.
    durable: u64,
    vote: Option<Vote>,
    leads: Option<u64>,
}

/// What the sockets of a node know of a channel.
#[derive(Clone, Copy)]
enum Known {
    /// Messages up to here are read, those above are told; so may be some of the former.
    UpTo(u64),
    /// The last one told.
    Told(u64),
}

#[derive(Default)]
struct NodeState {
    replicas: BTreeMap<u64, Replica>,
    disk_version: Option<u64>,
    /// What its sockets know, by group.
    told: BTreeMap<u64, Known>,
}

/// How much a run has covered.
#[derive(Debug, Default, Clone, Copy)]
pub struct Coverage {
    pub acknowledged: u64,
    pub unknown: u64,
    pub refused: u64,
    pub reads: u64,
    pub leaders: u64,
    pub entries: u64,
    pub snapshots: u64,
    pub digests: u64,
    pub scheduled: u64,
    pub replies: u64,
}

pub struct Checker {
    pub trace: Trace,
    pub coverage: Coverage,
    violations: Vec<String>,
    logs: BTreeMap<u64, Log>,
    nodes: BTreeMap<NodeId, NodeState>,
    replicas: BTreeMap<u64, Vec<NodeId>>,
    acknowledged: Vec<Acknowledged>,
    steps: u64,
}

impl Checker {
    pub fn new(nodes: &[NodeId]) -> Self {
        Checker {
            trace: Trace::new(),
            coverage: Coverage::default(),
            violations: Vec::new(),
            logs: BTreeMap::new(),
            nodes: nodes
                .iter()
                .map(|node| (*node, NodeState::default()))
                .collect(),
            replicas: BTreeMap::from([(0, nodes.to_vec())]),
            acknowledged: Vec::new(),
            steps: 0,
        }
    }

    pub fn violation(&mut self, what: String) {
        self.trace.note(format_args!("VIOLATION {what}"));
        if self.violations.len() < VIOLATIONS_MAX {
            self.violations
                .push(format!("at {} ms: {what}", self.trace.now_ms()));
        }
    }

    pub fn violations(&self) -> &[String] {
        &self.violations
    }

    /// Says where a channel's replicas are.
    pub fn placed(&mut self, group: u64, replicas: &[NodeId]) {
        self.replicas.insert(group, replicas.to_vec());
    }

    /// The newest seq that a linearizable read which begins now has to see.
    pub fn floor(&self, group: u64) -> u64 {
        self.logs.get(&group).map_or(0, |log| log.floor)
    }

    /// A client was told that its message has its place. Checked when the step has ended.
    pub fn acknowledge(&mut self, told: Acknowledged) {
        self.trace.note(format_args!(
            "ack {} {} {:x?}",
            told.group, told.seq, told.id
        ));
        self.coverage.acknowledged += 1;
        self.acknowledged.push(told);
    }

    /// A linearizable read that began when the floor was `floor` found `head`.
    pub fn read(&mut self, group: u64, floor: u64, head: u64) {
        self.trace.note(format_args!("read {group} {floor} {head}"));
        self.coverage.reads += 1;
        if head < floor {
            self.violation(format!(
                "a linearizable read of group {group} saw {head} although {floor} was acknowledged or read before"
            ));
        }
        let log = self.logs.entry(group).or_default();
        log.floor = log.floor.max(head);
    }

    /// A message was shown by any read or delivery.
    pub fn shown(&mut self, group: u64, seq: u64, id: [u8; 16], timestamp_ms: u64) {
        let log = self.logs.entry(group).or_default();
        let known = *log.seqs.entry(seq).or_insert((id, timestamp_ms));
        let place = *log.ids.entry(id).or_insert(seq);
        let before = log.seqs.range(..seq).next_back().map(|(_, known)| known.1);
        let after = log.seqs.range(seq + 1..).next().map(|(_, known)| known.1);
        if known != (id, timestamp_ms) {
            self.violation(format!("two messages of group {group} have seq {seq}"));
        }
        if place != seq {
            self.violation(format!(
                "a message of group {group} has the seqs {place} and {seq}"
            ));
        }
        if before.is_some_and(|before| before > timestamp_ms)
            || after.is_some_and(|after| after < timestamp_ms)
        {
            self.violation(format!("time goes back at seq {seq} of group {group}"));
        }
    }

    pub fn told(&mut self, node: NodeId, told: Told) {
        let (group, last, problem) = {
            let heard = &mut self.nodes.entry(node).or_default().told;
            match &told {
                Told::Attached { group, head } => {
                    heard.entry(*group).or_insert(Known::UpTo(*head));
                    (*group, *head, false)
                }
                Told::Skipped { group, head } => {
                    heard.insert(*group, Known::Told(*head));
                    self.coverage.snapshots += 1;
                    (*group, *head, false)
                }
                Told::Committed { group, batch } => {
                    let first = batch.first_seq;
                    let last = first + batch.messages.len() as u64 - 1;
                    let has_gap = match heard.insert(*group, Known::Told(last)) {
                        None => false,
                        Some(Known::UpTo(head)) => first > head + 1,
                        Some(Known::Told(before)) => first != before + 1,
                    };
                    (*group, last, has_gap)
                }
            }
        };
        self.trace
            .note(format_args!("told {node} {group} up to {last}"));
        if problem {
            self.violation(format!(
                "node {node} did not deliver group {group} without a gap, at {last}"
            ));
        }
        if let Told::Committed { group, batch } = told {
            for message in &batch.messages {
                self.shown(group, message.seq, message.id, message.timestamp_ms);
                self.answers(group, message);
                self.is_in_time(group, message);
            }
        }
    }

    /// A client was told that its message is a command and has its place, or will be one.
    pub fn commanded(&mut self, group: u64, id: [u8; 16]) {
        self.logs
            .entry(group)
            .or_default()
            .agenda
            .commands
            .insert(id);
    }

    /// A client was told that its message comes later.
    pub fn scheduled(&mut self, group: u64, id: [u8; 16], deliver_at_ms: u64) {
        self.coverage.scheduled += 1;
        let agenda = &mut self.logs.entry(group).or_default().agenda;
        agenda.scheduled.insert(id, deliver_at_ms);
    }

    /// A client wants a command or a scheduled message no more: whether it is in time is open.
    pub fn cancelled(&mut self, group: u64, id: [u8; 16]) {
        let agenda = &mut self.logs.entry(group).or_default().agenda;
        agenda.commands.remove(&id);
        agenda.scheduled.remove(&id);
    }

    /// Any command or scheduled message that a client may cancel.
    pub fn pending(&self, group: u64) -> Vec<[u8; 16]> {
        let Some(log) = self.logs.get(&group) else {
            return Vec::new();
        };
        let Agenda {
            commands,
            scheduled,
            replies,
        } = &log.agenda;
        let commands = commands.iter().filter(|id| !replies.contains_key(*id));
        let scheduled = scheduled.keys().filter(|id| !log.ids.contains_key(*id));
        commands.chain(scheduled).copied().collect()
    }

    /// A scheduled message that has not come, or a command that has no answer.
    pub fn unserved(&self) -> Option<String> {
        self.logs.iter().find_map(|(group, log)| {
            let late = log.agenda.scheduled.iter();
            let mut late = late.filter(|(id, _)| !log.ids.contains_key(*id));
            if let Some((id, at)) = late.next() {
                return Some(format!(
                    "message {id:x?} of group {group} was due at {at} and has not come"
                ));
            }
            let mut open = log.agenda.commands.iter();
            let open = open.find(|id| !log.agenda.replies.contains_key(*id))?;
            Some(format!("command {open:x?} of group {group} has no answer"))
        })
    }

    /// A reply is about a command, and the only one.
    fn answers(&mut self, group: u64, message: &Message) {
        if message.agent.is_none() {
            return;
        }
        let log = self.logs.entry(group).or_default();
        let Some(command) = message.reply_to.filter(|id| log.ids.contains_key(id)) else {
            return self.violation(format!(
                "the reply at {} of group {group} is about no message",
                message.seq
            ));
        };
        let first = *log.agenda.replies.entry(command).or_insert(message.seq);
        self.coverage.replies = self
            .logs
            .values()
            .map(|log| log.agenda.replies.len() as u64)
            .sum();
        if first != message.seq {
            self.violation(format!(
                "a command of group {group} was answered at {first} and at {}",
                message.seq
            ));
        }
    }

    fn is_in_time(&mut self, group: u64, message: &Message) {
        let log = self.logs.entry(group).or_default();
        let due_ms = log.agenda.scheduled.get(&message.id).copied();
        if due_ms.is_some_and(|due_ms| message.timestamp_ms < due_ms) {
            self.violation(format!(
                "message {} of group {group} came before its time",
                message.seq
            ));
        }
    }

    /// `node` has lost its memory, and its disk perhaps what was not synced.
    pub fn crashed(&mut self, node: NodeId) {
        let state = self.nodes.entry(node).or_default();
        state.told.clear();
        state.disk_version = None;
        for replica in state.replicas.values_mut() {
            replica.compared = 0;
            replica.durable = 0;
            replica.leads = None;
        }
    }

    /// Checks everything between two steps.
    pub fn step(&mut self, nodes: &BTreeMap<NodeId, Node>, disks: &BTreeMap<NodeId, Disk>) {
        self.steps += 1;
        let probes: Vec<(NodeId, Probe)> = nodes
            .iter()
            .flat_map(|(id, node)| node.probe().into_iter().map(|probe| (*id, probe)))
            .collect();
        for (node, probe) in &probes {
            self.check_leader(*node, probe);
            self.check_log(*node, probe);
        }
        for (node, disk) in disks {
            self.check_disk(*node, disk);
        }
        self.check_majorities();
        self.check_acknowledged();
        if self.steps.is_multiple_of(DIGEST_EVERY_STEPS) {
            for (node, probe) in &probes {
                self.check_rows(*node, probe);
            }
        }
    }

    /// The groups of which a replica is open anywhere, and how long their common logs are.
    pub fn lengths(&self) -> BTreeMap<u64, u64> {
        let lengths = self.logs.iter();
        lengths
            .map(|(group, log)| (*group, log.entries.len() as u64))
            .collect()
    }

    /// Where a group's replicas are.
    pub fn replicas(&self, group: u64) -> Vec<NodeId> {
        self.replicas.get(&group).cloned().unwrap_or_default()
    }

    /// What the sockets of some node have not been told, though somebody was shown it. Every node has
    /// sockets for every channel.
    pub fn untold(&self) -> Option<String> {
        let channels = self.logs.iter().filter(|(group, _)| **group != 0);
        for (group, log) in channels {
            let last = log.seqs.keys().next_back().copied().unwrap_or(0);
            for (node, state) in &self.nodes {
                let told = match state.told.get(group) {
                    Some(Known::UpTo(head)) => *head,
                    Some(Known::Told(seq)) => *seq,
                    None => 0,
                };
                if told < last {
                    return Some(format!(
                        "node {node} has told its sockets of group {group} up to {told}, not up to {last}"
                    ));
                }
            }
        }
        None
    }

    fn check_leader(&mut self, node: NodeId, probe: &Probe) {
        let leads = probe.leads();
        let replica = self.replica(node, probe.group());
        if replica.leads == leads {
            return;
        }
        replica.leads = leads;
        let group = probe.group();
        self.trace
            .note(format_args!("leads {node} {group} {leads:?}"));
        let Some(term) = leads else {
            return;
        };
        self.coverage.leaders += 1;
        let log = self.logs.entry(group).or_default();
        let first = *log.leaders.entry(term).or_insert(node);
        if first != node {
            self.violation(format!(
                "nodes {first} and {node} both lead group {group} in term {term}"
            ));
        }
    }

    /// What this replica takes for committed is the same everywhere.
    fn check_log(&mut self, node: NodeId, probe: &Probe) {
        let group = probe.group();
        let next = probe.computed_next();
        let from = self.replica(node, group).compared;
        for index in from..next {
            let entry = match probe.entry(index) {
                Ok(Some(entry)) => entry,
                Ok(None) => {
                    return self.violation(format!(
                        "node {node} has applied {index} of group {group} and does not hold it"
                    ));
                }
                Err(error) => {
                    return self.violation(format!("node {node} cannot read: {error}"));
                }
            };
            let found = (entry.log_id.term, hash(&entry.payload));
            self.replica(node, group).compared = index + 1;
            let log = self.logs.entry(group).or_default();
            let position = usize::try_from(index).unwrap_or(usize::MAX);
            match log.entries.get(position) {
                Some(known) if *known == found => {}
                Some(known) => {
                    let known = *known;
                    self.violation(format!(
                        "entry {index} of group {group}: node {node} has applied {found:x?}, another {known:x?}"
                    ));
                }
                None => {
                    log.entries.push(found);
                    for id in messages_of(group, &entry.payload) {
                        log.messages.entry(id).or_insert(index);
                    }
                    self.coverage.entries += 1;
                    self.trace
                        .note(format_args!("commit {node} {group} {index} {found:x?}"));
                }
            }
        }
    }

    /// What a loss of power would leave on this disk.
    fn check_disk(&mut self, node: NodeId, disk: &Disk) {
        let version = Some(disk.version());
        let grows = self.steps.is_multiple_of(DIGEST_EVERY_STEPS);
        let state = self.nodes.entry(node).or_default();
        let is_same = state.disk_version == version && !grows;
        state.disk_version = version;
        // An entry may be on the disk long before it is known to be committed.
        let is_settled = |group: &u64, log: &Log| {
            let replica = state.replicas.get(group);
            replica.is_some_and(|replica| replica.durable == log.entries.len() as u64)
        };
        let groups: Vec<u64> = self
            .logs
            .iter()
            .filter(|(group, log)| !is_same || !is_settled(group, log))
            .map(|(group, _)| *group)
            .collect();
        for group in groups {
            let durable = match disk.durable(GroupId(group)) {
                Ok(durable) => durable,
                Err(error) => {
                    self.violation(format!("node {node}'s disk: {error}"));
                    continue;
                }
            };
            let last = durable.last();
            if index(durable.applied) > index(last) {
                self.violation(format!(
                    "node {node}'s disk has applied {:?} of group {group} and ends at {last:?}",
                    durable.applied
                ));
            }
            let before = self.replica(node, group).vote;
            if goes_back(before, durable.vote) {
                self.violation(format!(
                    "node {node}'s vote in group {group} went from {before:?} to {:?}",
                    durable.vote
                ));
            }
            let mut matched = self.replica(node, group).durable;
            if grows || matched > index(last) {
                matched = 0;
            }
            if let Some(log) = self.logs.get(&group) {
                while let Some(wanted) = usize::try_from(matched)
                    .ok()
                    .and_then(|position| log.entries.get(position))
                    && let Some(held) = durable.entry(matched)
                    && (held.log_id.term, hash(&held.payload)) == *wanted
                    && matched < index(last)
                {
                    matched += 1;
                }
            }
            let replica = self.replica(node, group);
            replica.vote = durable.vote;
            replica.durable = matched;
        }
    }

    /// Whatever anybody takes for committed, a loss of power on all nodes would leave on a majority.
    fn check_majorities(&mut self) {
        let mut missing = Vec::new();
        for (group, log) in &self.logs {
            let Some(replicas) = self.replicas.get(group) else {
                continue;
            };
            let length = log.entries.len() as u64;
            if length == 1 && *group != DIRECTORY {
                // How a channel begins is written in the directory.
                continue;
            }
            let durable = replicas.iter().filter(|node| {
                let state = self.nodes.get(node);
                let replica = state.and_then(|state| state.replicas.get(group));
                replica.is_some_and(|replica| replica.durable >= length)
            });
            let count = durable.count();
            if count <= replicas.len() / 2 {
                missing.push(format!(
                    "entry {} of group {group} is committed and durable on {count} of {replicas:?} only",
                    length - 1
                ));
            }
        }
        for what in missing {
            self.violation(what);
        }
    }

    fn check_acknowledged(&mut self) {
        for told in std::mem::take(&mut self.acknowledged) {
            let log = self.logs.entry(told.group).or_default();
            let is_committed = log.messages.contains_key(&told.id);
            log.floor = log.floor.max(told.seq);
            log.acknowledged.insert(told.seq, told.timestamp_ms);
            if !is_committed {
                self.violation(format!(
                    "message {} of group {} was acknowledged and no replica has it in its log",
                    told.seq, told.group
                ));
            }
            self.shown(told.group, told.seq, told.id, told.timestamp_ms);
        }
    }

    fn check_rows(&mut self, node: NodeId, probe: &Probe) {
        let Some(applied) = probe.applied() else {
            return;
        };
        let digest = match probe.digest() {
            Ok(digest) => digest,
            Err(error) => return self.violation(format!("node {node} cannot read: {error}")),
        };
        self.coverage.digests += 1;
        let group = probe.group();
        let log = self.logs.entry(group).or_default();
        let known = *log.digests.entry(applied.index).or_insert(digest);
        if known != digest {
            self.violation(format!(
                "node {node}'s rows of group {group} differ from another's at {applied}"
            ));
        }
    }

    /// At the end, when all replicas have applied the same: every acknowledged message was shown, no
    /// seq is missing, all sockets were told of all, and all rows are equal.
    pub fn finish(&mut self, nodes: &BTreeMap<NodeId, Node>) {
        for (id, node) in nodes {
            for probe in node.probe() {
                self.check_rows(*id, &probe);
            }
        }
        let mut missing: Vec<String> = self.untold().into_iter().collect();
        for (group, log) in &self.logs {
            let seqs: BTreeSet<u64> = log.seqs.keys().copied().collect();
            let last = seqs.last().copied().unwrap_or(0);
            missing.extend(
                (1..=last)
                    .filter(|seq| !seqs.contains(seq))
                    .map(|seq| format!("nobody was ever shown seq {seq} of group {group}")),
            );
        }
        for what in missing {
            self.violation(what);
        }
    }

    fn replica(&mut self, node: NodeId, group: u64) -> &mut Replica {
        let state = self.nodes.entry(node).or_default();
        state.replicas.entry(group).or_default()
    }
}

/// The index behind a position; 0 for none.
fn index(position: Option<LogId>) -> u64 {
    position.map_or(0, |position| position.index + 1)
}

/// A vote must not be for an earlier term. In one term it may only give way to the leader that a
/// majority has elected, and that one stays.
fn goes_back(before: Option<Vote>, now: Option<Vote>) -> bool {
    match (before, now) {
        (None, _) => false,
        (Some(_), None) => true,
        (Some(before), Some(now)) if now.term == before.term => {
            let is_other = now.node != before.node;
            (before.committed && (is_other || !now.committed)) || (is_other && !now.committed)
        }
        (Some(before), Some(now)) => now.term < before.term,
    }
}

/// The ids of the messages that an entry proposes.
fn messages_of(group: u64, payload: &[u8]) -> Vec<[u8; 16]> {
    if group == 0 || payload.first() != Some(&BATCH) {
        return Vec::new();
    }
    let Ok(batch) = Batch::read(payload) else {
        return Vec::new();
    };
    let commands = batch.parts().iter().filter_map(|part| part.commands());
    commands
        .flat_map(|commands: Vec<Command<'_>>| commands)
        .filter_map(|command| command.message_id())
        .collect()
}
