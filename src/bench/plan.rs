//! What all threads of one load share: who is where, when it is what time, and the few numbers that
//! one needs to know of the others.

use std::sync::atomic::AtomicU32;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::AcqRel;
use std::sync::atomic::Ordering::Acquire;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;
use std::time::Instant;

use super::workload::Crew;
use super::workload::Workload;

/// No such moment yet.
const NEVER: u64 = u64::MAX;

/// A channel in use.
#[derive(Clone, Debug)]
pub struct Room {
    /// `/api/servers/…/channels/…`
    pub path: String,
    /// Index of its crew.
    pub crew: usize,
}

/// Who is where.
#[derive(Debug)]
pub struct Seating {
    pub workload: Workload,
    pub rooms: Vec<Room>,
    /// Addresses of the nodes that sockets go to.
    pub nodes: Vec<String>,
}

impl Seating {
    pub fn crew_of(&self, room: usize) -> &Crew {
        &self.workload.crews[self.rooms[room].crew]
    }

    /// Users of a room go round over the nodes, and rooms begin with different ones.
    pub fn node_of(&self, room: usize, user: usize) -> usize {
        (room + user) % self.nodes.len()
    }
}

#[derive(Debug)]
pub struct Plan {
    pub seating: Seating,
    epoch: Instant,
    /// When the load begins, is measured, ends, and is waited for no longer.
    pub start_ns: u64,
    pub warm_ns: u64,
    pub end_ns: u64,
    pub last_ns: u64,
    shared: Shared,
}

#[derive(Debug)]
struct Shared {
    /// Messages sent to each room, complete when all threads have stopped sending.
    sent: Vec<AtomicU64>,
    sending: AtomicUsize,
    /// Acknowledgements of each sender of each room.
    acked: Vec<Vec<AtomicU32>>,
    killed_ns: AtomicU64,
    first_ack_ns: AtomicU64,
}

impl Plan {
    /// Begins the time of a load that many threads will make, `after` from now.
    pub fn new(seating: Seating, threads: usize, after: Duration) -> Plan {
        let workload = &seating.workload;
        let nanos = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(NEVER / 8);
        let start_ns = nanos(after);
        let warm_ns = start_ns + nanos(workload.warm_up);
        let end_ns = warm_ns + nanos(workload.measured);
        let senders = |room: &Room| {
            let senders = workload.crews[room.crew].senders;
            (0..senders).map(|_| AtomicU32::new(0)).collect()
        };
        let shared = Shared {
            sent: seating.rooms.iter().map(|_| AtomicU64::new(0)).collect(),
            sending: AtomicUsize::new(threads),
            acked: seating.rooms.iter().map(senders).collect(),
            killed_ns: AtomicU64::new(NEVER),
            first_ack_ns: AtomicU64::new(NEVER),
        };
        Plan {
            start_ns,
            warm_ns,
            end_ns,
            last_ns: end_ns + nanos(workload.drain_max),
            epoch: Instant::now(),
            shared,
            seating,
        }
    }

    pub fn now_ns(&self) -> u64 {
        u64::try_from(self.epoch.elapsed().as_nanos()).unwrap_or(NEVER)
    }

    pub fn is_measured(&self, at_ns: u64) -> bool {
        (self.warm_ns..self.end_ns).contains(&at_ns)
    }

    /// A thread sends no more; so much went to each room.
    pub fn stop_sending(&self, sent: impl Iterator<Item = (usize, u64)>) {
        for (room, count) in sent {
            self.shared.sent[room].fetch_add(count, Relaxed);
        }
        // The last one to leave makes the counts of all readable.
        self.shared.sending.fetch_sub(1, AcqRel);
    }

    /// What was sent to a room, once nobody sends any more.
    pub fn sent(&self, room: usize) -> Option<u64> {
        let sending = self.shared.sending.load(Acquire);
        (sending == 0).then(|| self.shared.sent[room].load(Relaxed))
    }

    /// At the end: what of a sender's was acknowledged.
    pub fn set_acked(&self, room: usize, user: usize, acked: u32) {
        self.shared.acked[room][user].store(acked, Relaxed);
    }

    pub fn acked(&self, room: usize) -> Vec<u32> {
        let counts = self.shared.acked[room].iter();
        counts.map(|count| count.load(Relaxed)).collect()
    }

    /// The leader is about to be killed.
    pub fn note_kill(&self) {
        self.shared.killed_ns.store(self.now_ns(), Relaxed);
    }

    /// Only what was due after the kill is news: what was under way before may have been decided.
    pub fn note_ack(&self, due_ns: u64, now_ns: u64) {
        if due_ns > self.shared.killed_ns.load(Relaxed) {
            self.shared.first_ack_ns.fetch_min(now_ns, Relaxed);
        }
    }

    /// From the kill to the first such acknowledgement.
    pub fn kill_to_ack_ns(&self) -> Option<u64> {
        let killed = self.shared.killed_ns.load(Relaxed);
        let acked = self.shared.first_ack_ns.load(Relaxed);
        (killed != NEVER && acked != NEVER).then(|| acked.saturating_sub(killed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(threads: usize) -> Plan {
        let seating = Seating {
            workload: Workload::new(Crew::talkers(1, 1)),
            rooms: vec![Room {
                path: String::new(),
                crew: 0,
            }],
            nodes: vec![String::new()],
        };
        Plan::new(seating, threads, Duration::ZERO)
    }

    #[test]
    fn only_what_was_due_after_the_kill_counts() {
        let plan = plan(1);
        plan.note_ack(5, 6);
        assert_eq!(plan.kill_to_ack_ns(), None);
        plan.note_kill();
        plan.note_ack(0, plan.now_ns());
        assert_eq!(plan.kill_to_ack_ns(), None);
        let later = plan.now_ns() + 1_000;
        plan.note_ack(later, later + 50);
        plan.note_ack(later, later + 10);
        plan.note_ack(later, later + 20);
        let found = plan.kill_to_ack_ns().unwrap();
        assert!((1_010..1_010 + later).contains(&found), "{found}");
    }

    #[test]
    fn what_was_sent_is_known_when_nobody_sends() {
        let plan = plan(2);
        plan.stop_sending([(0, 3)].into_iter());
        assert_eq!(plan.sent(0), None);
        plan.stop_sending([(0, 4)].into_iter());
        assert_eq!(plan.sent(0), Some(7));
    }
}
