//! One user's socket: what it sends when, and what it makes of what comes.

use std::io;
use std::io::Read as _;
use std::io::Write as _;
use std::net::TcpStream;

use super::checks::Seen;
use super::checks::Turn;
use super::plan::Plan;
use super::plan::Seating;
use super::stamp;
use super::stamp::Said;
use super::stamp::Stamp;
use super::tally::Tally;
use super::wire;
use super::wire::Split;
use super::workload::Pace;

/// Bytes that may wait to be written. A sender with a rate that has more goes on when they are gone,
/// and its messages are late.
const OUT_BYTES_MAX: usize = 1 << 20;

#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    pub room: usize,
    pub user: usize,
    crew: usize,
    node: usize,
    /// The beginning of a frame whose rest has not come.
    left: Vec<u8>,
    out: Vec<u8>,
    written: usize,
    mask: u32,
    sender: Option<Sender>,
    seen: Option<Seen>,
    open: bool,
}

#[derive(Debug)]
struct Sender {
    /// Messages that may be unacknowledged, if that is what holds it back.
    window: Option<u32>,
    period_ns: u64,
    due_ns: u64,
    /// Number of the next message.
    next: u32,
    /// Number of the next message to be answered: answers come in the order of sends.
    next_answer: u32,
    acked: u32,
}

/// What a socket has to tell at the end.
#[derive(Debug)]
pub struct Ended {
    pub room: usize,
    pub crew: usize,
    pub seen: Option<Seen>,
    /// Messages sent and acknowledged, if it sends.
    pub sent: Option<(u64, u64)>,
}

impl Connection {
    /// Connects the user of a room, and waits for the upgrade.
    pub fn open(seating: &Seating, room: usize, user: usize) -> io::Result<Connection> {
        let crew = seating.crew_of(room);
        let node = seating.node_of(room, user);
        let receive = match crew.receives(user) {
            true => "",
            false => "&receive=false",
        };
        let path = &seating.rooms[room].path;
        let target = format!("{path}/connect?username=user{user}{receive}");
        let (stream, left) = wire::open(&seating.nodes[node], &target)?;
        let (period_ns, phase_ns) = crew.period_and_phase_ns(room, user).unwrap_or_default();
        let window = match crew.pace {
            Pace::Closed { window } => Some(window),
            Pace::Rate { .. } => None,
        };
        let sender = (user < crew.senders).then_some(Sender {
            window,
            period_ns,
            due_ns: phase_ns,
            next: 0,
            next_answer: 0,
            acked: 0,
        });
        Ok(Connection {
            stream,
            room,
            user,
            crew: seating.rooms[room].crew,
            node,
            left,
            out: Vec::new(),
            written: 0,
            // Differs from socket to socket and message to message; nobody has to be kept from
            // guessing it, since no browser and no proxy is involved.
            mask: 0x9e37_79b9 ^ ((room as u32) << 16) ^ user as u32,
            seen: crew.receives(user).then(|| Seen::new(crew.senders)),
            sender,
            open: true,
        })
    }

    /// Begins to send at this time, if it sends.
    pub fn start_at(&mut self, start_ns: u64) {
        if let Some(sender) = &mut self.sender {
            sender.due_ns += start_ns;
        }
    }

    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }

    pub fn is_open(&self) -> bool {
        self.open
    }

    pub fn has_more_to_write(&self) -> bool {
        self.written < self.out.len()
    }

    /// When it sends next, if it has a rate.
    pub fn due_ns(&self) -> Option<u64> {
        let sender = self
            .sender
            .as_ref()
            .filter(|sender| sender.window.is_none())?;
        self.open.then_some(sender.due_ns)
    }

    pub fn sent(&self) -> u64 {
        self.sender.as_ref().map_or(0, |sender| sender.next.into())
    }

    /// Nothing that it waits for can still come.
    pub fn is_settled(&self, plan: &Plan) -> bool {
        let answered = self
            .sender
            .as_ref()
            .is_none_or(|sender| sender.next_answer == sender.next);
        let received = || match (&self.seen, plan.sent(self.room)) {
            (Some(seen), Some(sent)) => seen.received() >= sent,
            (Some(_), None) => false,
            (None, _) => true,
        };
        !self.open || answered && received()
    }

    /// Puts what is due in line; `body` is a message of the right length to be stamped.
    pub fn compose(&mut self, plan: &Plan, now_ns: u64, body: &mut [u8]) {
        if now_ns >= plan.end_ns || !self.open {
            return;
        }
        let Some(sender) = &mut self.sender else {
            return;
        };
        loop {
            let due_ns = match sender.window {
                Some(window) if sender.next - sender.next_answer < window => now_ns,
                None if sender.due_ns <= now_ns && self.out.len() < OUT_BYTES_MAX => sender.due_ns,
                _ => return,
            };
            let stamp = Stamp {
                room: self.room as u16,
                user: self.user as u16,
                number: sender.next,
                due_ns,
            };
            stamp.write(body);
            self.mask = self
                .mask
                .wrapping_mul(0x0019_660d)
                .wrapping_add(0x3c6e_f35f);
            wire::write_text(&mut self.out, self.mask, body);
            sender.next += 1;
            sender.due_ns += sender.period_ns;
        }
    }

    /// Writes what is in line, as far as the connection takes it.
    pub fn flush(&mut self, tally: &mut Tally) {
        while self.open && self.has_more_to_write() {
            match (&self.stream).write(&self.out[self.written..]) {
                Ok(0) => self.lose(tally),
                Ok(written) => self.written += written,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => self.lose(tally),
            }
        }
        self.out.clear();
        self.written = 0;
    }

    /// Reads once and takes what came. `scratch` belongs to the thread: sockets keep only what is
    /// no whole frame yet.
    pub fn read(&mut self, plan: &Plan, tally: &mut Tally, scratch: &mut [u8]) {
        let kept = self.left.len();
        scratch[..kept].copy_from_slice(&self.left);
        let read = match (&self.stream).read(&mut scratch[kept..]) {
            Ok(read) if read > 0 => read,
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
                ) =>
            {
                return;
            }
            Ok(_) | Err(_) => return self.lose(tally),
        };
        let now_ns = plan.now_ns();
        let mut rest = &scratch[..kept + read];
        while self.open {
            match wire::split(rest) {
                Split::Text(text, after) => {
                    self.take(plan, tally, stamp::understand(text), now_ns);
                    rest = after;
                }
                Split::Ping(payload, after) => {
                    wire::write_pong(&mut self.out, self.mask, payload);
                    rest = after;
                }
                Split::Pong(after) => rest = after,
                Split::Partial => break,
                Split::Close | Split::Wrong => return self.lose(tally),
            }
        }
        self.left.clear();
        self.left.extend_from_slice(rest);
    }

    /// Says goodbye, without waiting for an answer.
    pub fn close(mut self, plan: &Plan, tally: &mut Tally) -> Ended {
        if self.open {
            wire::write_close(&mut self.out, self.mask);
            self.flush(&mut Tally::default());
        }
        let counts = |sender: &Sender| (u64::from(sender.next), u64::from(sender.acked));
        if let Some(sender) = &self.sender {
            tally.faults.unacked += u64::from(sender.next - sender.next_answer);
            plan.set_acked(self.room, self.user, sender.acked);
        }
        Ended {
            room: self.room,
            crew: self.crew,
            sent: self.sender.as_ref().map(counts),
            seen: self.seen,
        }
    }

    fn take(&mut self, plan: &Plan, tally: &mut Tally, said: Said, now_ns: u64) {
        match said {
            Said::Ack(stamp) => self.take_ack(plan, tally, &stamp, now_ns),
            Said::Message(stamp) => self.take_message(plan, tally, &stamp, now_ns),
            Said::Refused => {
                tally.faults.refused += 1;
                if let Some(sender) = &mut self.sender {
                    sender.next_answer = sender.next.min(sender.next_answer + 1);
                }
            }
            Said::Nonsense => tally.faults.odd_frames += 1,
        }
    }

    fn take_ack(&mut self, plan: &Plan, tally: &mut Tally, stamp: &Stamp, now_ns: u64) {
        let mine = usize::from(stamp.room) == self.room && usize::from(stamp.user) == self.user;
        let sender = self
            .sender
            .as_mut()
            .filter(|sender| mine && (sender.next_answer..sender.next).contains(&stamp.number));
        let Some(sender) = sender else {
            tally.faults.odd_frames += 1;
            return;
        };
        // Those skipped will not be answered any more.
        let skipped = stamp.number - sender.next_answer;
        tally.faults.odd_frames += u64::from(skipped > 0);
        tally.faults.unacked += u64::from(skipped);
        sender.next_answer = stamp.number + 1;
        sender.acked += 1;
        tally.acked(self.crew, plan, stamp.due_ns, now_ns);
    }

    fn take_message(&mut self, plan: &Plan, tally: &mut Tally, stamp: &Stamp, now_ns: u64) {
        let Some(seen) = &mut self.seen else {
            tally.faults.unasked += 1;
            return;
        };
        let turn = match usize::from(stamp.room) == self.room {
            true => seen.take(stamp.user, stamp.number),
            false => None,
        };
        match turn {
            Some(Turn::Next) => {}
            Some(Turn::Late) => tally.faults.out_of_order += 1,
            Some(Turn::Repeated) => {
                tally.faults.duplicates += 1;
                return;
            }
            None => {
                tally.faults.odd_frames += 1;
                return;
            }
        }
        let same_node = plan.seating.node_of(self.room, stamp.user.into()) == self.node;
        tally.delivered(self.crew, plan, same_node, stamp.due_ns, now_ns);
    }

    fn lose(&mut self, tally: &mut Tally) {
        tally.faults.lost_connections += 1;
        self.open = false;
    }
}
