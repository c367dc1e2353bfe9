//! An Ethernet switch in a thread: frames come from one descriptor per node, meet the rules of
//! their link, and go to another.
//!
//! Invariants: frames of one link keep their order, however late they are; what is held back is
//! bounded, and a full queue drops the newest frame as a router would.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::rng::Rng;

use super::rules::{Fate, Link, Rules};

/// A frame of the MTU that `namespaces` sets, with its header and room to spare.
pub const FRAME_BYTES_MAX: usize = 16 * 1024;
/// Frames held back in all: at most 64 MiB.
const LATE_FRAMES_MAX: usize = 4096;
/// Frames taken from one node before the others have their turn.
const BURST_FRAMES: usize = 32;

/// The nodes' hardware addresses, whose last byte is the node's id.
const ADDRESS_PREFIX: [u8; 5] = [0x02, 0xac, 0xc0, 0x4d, 0x00];
const ETHERTYPE_IPV4: [u8; 2] = [0x08, 0x00];
const ETHERTYPE_ARP: [u8; 2] = [0x08, 0x06];

/// A running switch; dropping it ends its thread.
#[derive(Debug)]
pub struct Switch {
    /// Closing it wakes the thread, which then ends.
    stop: Option<UnixStream>,
    thread: Option<JoinHandle<()>>,
}

/// The hardware address of a node's interface. At most 254 nodes.
pub fn address_of(node: u64) -> [u8; 6] {
    let mut address = [0; 6];
    address[..5].copy_from_slice(&ADDRESS_PREFIX);
    address[5] = u8::try_from(node).unwrap_or(u8::MAX);
    address
}

impl Switch {
    /// `ports` are non-blocking and carry one frame per read and write.
    pub fn start(ports: Vec<(u64, OwnedFd)>, rules: Arc<Rules>, seed: u64) -> io::Result<Self> {
        let (stop, stopped) = UnixStream::pair()?;
        let fabric = Fabric {
            ports,
            rules,
            rng: Rng::new(seed),
            late: BinaryHeap::new(),
            newest: HashMap::new(),
            taken: 0,
        };
        let thread = std::thread::Builder::new()
            .name("switch".to_owned())
            .spawn(move || fabric.run(&stopped))?;
        Ok(Self {
            stop: Some(stop),
            thread: Some(thread),
        })
    }
}

impl Drop for Switch {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            eprintln!("the switch between the nodes had panicked");
        }
    }
}

/// A frame that waits; ordered by when it is due, then by when it came.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Held {
    due: Instant,
    place: u64,
    to: u64,
    frame: Vec<u8>,
}

struct Fabric {
    ports: Vec<(u64, OwnedFd)>,
    rules: Arc<Rules>,
    rng: Rng,
    late: BinaryHeap<Reverse<Held>>,
    /// When the last frame of a link is due, while one is held back.
    newest: HashMap<Link, Instant>,
    /// Frames held back so far: keeps those with the same due time in order.
    taken: u64,
}

impl Fabric {
    fn run(mut self, stopped: &UnixStream) {
        let mut buffer = vec![0; FRAME_BYTES_MAX];
        while let Some(ready) = self.wait(stopped) {
            for port in ready {
                self.take_burst(port, &mut buffer);
            }
            self.deliver_due();
        }
    }

    /// The ports that have frames; none when it is time to end.
    fn wait(&self, stopped: &UnixStream) -> Option<Vec<usize>> {
        let timeout = self.late.peek().map(|Reverse(held)| {
            let left = held.due.saturating_duration_since(Instant::now());
            Timespec::try_from(left).unwrap_or(Timespec {
                tv_sec: 1,
                tv_nsec: 0,
            })
        });
        let mut polled: Vec<PollFd<'_>> = self
            .ports
            .iter()
            .map(|(_, port)| PollFd::new(port, PollFlags::IN))
            .collect();
        polled.push(PollFd::new(stopped, PollFlags::IN));
        match poll(&mut polled, timeout.as_ref()) {
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => return Some(Vec::new()),
            Err(error) => {
                eprintln!("the switch between the nodes ends: {error}");
                return None;
            }
        }
        let stop = polled.pop().is_none_or(|stop| !stop.revents().is_empty());
        (!stop).then(|| {
            polled
                .iter()
                .enumerate()
                .filter(|(_, port)| port.revents().contains(PollFlags::IN))
                .map(|(at, _)| at)
                .collect()
        })
    }

    fn take_burst(&mut self, port: usize, buffer: &mut [u8]) {
        for _ in 0..BURST_FRAMES {
            let Ok(length) = rustix::io::read(&self.ports[port].1, &mut *buffer) else {
                return;
            };
            if length == 0 {
                return;
            }
            self.take(self.ports[port].0, &buffer[..length]);
        }
    }

    fn take(&mut self, from: u64, frame: &[u8]) {
        for to in self.receivers(from, frame) {
            let link = (from, to);
            let mut fate = self.rules.of(link).fate(&mut self.rng);
            if fate == Fate::Passes && self.newest.contains_key(&link) {
                // Its delay is over, and earlier frames are still on their way.
                fate = Fate::Late(Duration::ZERO);
            }
            if matches!(fate, Fate::Late(_)) && self.late.len() >= LATE_FRAMES_MAX {
                fate = Fate::Lost;
            }
            self.rules.count(link, fate);
            match fate {
                Fate::Passes => self.send(to, frame),
                Fate::Late(late) => self.hold(link, late, frame),
                Fate::Cut | Fate::Lost => {}
            }
        }
    }

    fn hold(&mut self, link: Link, late: Duration, frame: &[u8]) {
        let due = Instant::now() + late;
        let due = self
            .newest
            .get(&link)
            .map_or(due, |newest| due.max(*newest));
        self.newest.insert(link, due);
        self.taken += 1;
        self.late.push(Reverse(Held {
            due,
            place: self.taken,
            to: link.1,
            frame: frame.to_vec(),
        }));
    }

    fn deliver_due(&mut self) {
        let now = Instant::now();
        while let Some(Reverse(held)) = self.late.peek()
            && held.due <= now
        {
            if let Some(Reverse(held)) = self.late.pop() {
                self.send(held.to, &held.frame);
            }
        }
        self.newest.retain(|_, newest| *newest > now);
    }

    /// Whom a frame is for; nobody if it is not IPv4 or ARP.
    fn receivers(&self, from: u64, frame: &[u8]) -> Vec<u64> {
        let (Some(address), Some(kind)) = (frame.get(..6), frame.get(12..14)) else {
            return Vec::new();
        };
        if kind != ETHERTYPE_IPV4 && kind != ETHERTYPE_ARP {
            return Vec::new();
        }
        let everybody = address[0] & 1 == 1;
        self.ports
            .iter()
            .map(|(node, _)| *node)
            .filter(|node| *node != from && (everybody || address == address_of(*node)))
            .collect()
    }

    fn send(&self, to: u64, frame: &[u8]) {
        if let Some((_, port)) = self.ports.iter().find(|(node, _)| *node == to) {
            // A full queue or an interface that is down loses the frame, as a wire would.
            let _ = rustix::io::write(port, frame);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::rules::Rule;
    use std::os::unix::net::UnixDatagram;

    /// A switch of three nodes, and the nodes' ends.
    fn switched() -> (Switch, Arc<Rules>, Vec<UnixDatagram>) {
        let rules = Arc::new(Rules::new(3));
        let mut ports = Vec::new();
        let mut ends = Vec::new();
        for node in 1..=3 {
            let (port, end) = UnixDatagram::pair().unwrap();
            port.set_nonblocking(true).unwrap();
            end.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
            ports.push((node, OwnedFd::from(port)));
            ends.push(end);
        }
        let switch = Switch::start(ports, Arc::clone(&rules), 1).unwrap();
        (switch, rules, ends)
    }

    fn frame(to: [u8; 6], content: u8) -> Vec<u8> {
        let mut frame = to.to_vec();
        frame.extend([0; 6]);
        frame.extend(ETHERTYPE_IPV4);
        frame.push(content);
        frame
    }

    fn content(end: &UnixDatagram) -> u8 {
        let mut buffer = [0; 64];
        let length = end.recv(&mut buffer).unwrap();
        buffer[length - 1]
    }

    #[test]
    fn frames_go_to_whom_they_are_for() {
        let (_switch, rules, ends) = switched();
        ends[0].send(&frame(address_of(2), 12)).unwrap();
        ends[2].send(&frame([0xff; 6], 30)).unwrap();
        assert_eq!(content(&ends[0]), 30);
        let mut at_two = [content(&ends[1]), content(&ends[1])];
        at_two.sort_unstable();
        assert_eq!(at_two, [12, 30]);
        assert_eq!(rules.counts(&rules.links()).passed, 3);
    }

    #[test]
    fn a_cut_is_one_way_and_counted() {
        let (_switch, rules, ends) = switched();
        let cut = rules.add(vec![((1, 2), Rule::CUT)]);
        ends[0].send(&frame(address_of(2), 1)).unwrap();
        ends[1].send(&frame(address_of(1), 2)).unwrap();
        assert_eq!(content(&ends[0]), 2);
        // The third node's answer comes after the first frame was judged: the switch takes turns
        // in the order of arrival of what is already there.
        while rules.counts(&[(1, 2)]).cut == 0 {
            std::thread::yield_now();
        }
        rules.remove(cut);
        ends[0].send(&frame(address_of(2), 3)).unwrap();
        assert_eq!(content(&ends[1]), 3);
    }

    #[test]
    fn late_frames_arrive_in_order_and_nothing_overtakes_them() {
        let (_switch, rules, ends) = switched();
        let slow = Rule {
            delay: Duration::from_millis(20),
            jitter: Duration::from_millis(40),
            ..Rule::default()
        };
        let id = rules.add(vec![((1, 2), slow)]);
        let started = Instant::now();
        for number in 0..20 {
            ends[0].send(&frame(address_of(2), number)).unwrap();
        }
        while rules.counts(&[(1, 2)]).late < 20 {
            std::thread::yield_now();
        }
        rules.remove(id);
        ends[0].send(&frame(address_of(2), 20)).unwrap();
        let arrived: Vec<u8> = (0..=20).map(|_| content(&ends[1])).collect();
        assert_eq!(arrived, (0..=20).collect::<Vec<u8>>());
        assert!(started.elapsed() >= Duration::from_millis(20));
    }

    #[test]
    fn rubbish_and_other_protocols_are_dropped() {
        let (_switch, rules, ends) = switched();
        ends[0].send(&[1, 2, 3]).unwrap();
        let mut six = frame(address_of(2), 1);
        six[12..14].copy_from_slice(&[0x86, 0xdd]);
        ends[0].send(&six).unwrap();
        ends[0].send(&frame(address_of(2), 9)).unwrap();
        assert_eq!(content(&ends[1]), 9);
        assert_eq!(rules.counts(&rules.links()).passed, 1);
    }
}
