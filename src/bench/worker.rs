//! One thread of load: a loop over the sockets that have something to say and the messages that are
//! due. No runtime: with a thousand sockets and a hundred thousand messages a second, what a task
//! costs to wake would be a good part of what is measured.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::event::Timespec;
use rustix::event::epoll;
use rustix::time::Itimerspec;
use rustix::time::TimerfdClockId;
use rustix::time::TimerfdFlags;
use rustix::time::TimerfdTimerFlags;
use rustix::time::timerfd_create;
use rustix::time::timerfd_settime;

use super::connection::Connection;
use super::connection::Ended;
use super::plan::Plan;
use super::tally::Tally;
use super::wire::FRAME_BYTES_MAX;

/// Bytes read at a time.
const READ_BYTES: usize = 256 << 10;
/// Sockets that are heard at a time.
const EVENTS_MAX: usize = 1_024;
/// How often a thread looks whether all has come, after the load has ended.
const SETTLED_CHECK_NS: u64 = 5_000_000;
/// What the timer is known by; sockets are by their index.
const TIMER: u64 = u64::MAX;

pub struct Worker {
    plan: Arc<Plan>,
    connections: Vec<Connection>,
    /// Which connections are registered for being writable.
    blocked: Vec<bool>,
    /// Those with a rate, by when they are due.
    due: BinaryHeap<Reverse<(u64, usize)>>,
    epoll: OwnedFd,
    /// Exact to some 10 µs, where the timeouts of epoll are in milliseconds.
    timer: OwnedFd,
    armed_ns: u64,
    tally: Tally,
    scratch: Vec<u8>,
    body: Vec<u8>,
}

impl Worker {
    pub fn new(plan: Arc<Plan>, mut connections: Vec<Connection>) -> io::Result<Worker> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
        let timer = timerfd_create(TimerfdClockId::Monotonic, flags)?;
        // On its edge, so that nobody has to read it.
        let edge = epoll::EventFlags::IN | epoll::EventFlags::ET;
        epoll::add(&epoll, &timer, epoll::EventData::new_u64(TIMER), edge)?;
        for (index, connection) in connections.iter_mut().enumerate() {
            connection.start_at(plan.start_ns);
            let data = epoll::EventData::new_u64(index as u64);
            epoll::add(&epoll, connection.stream(), data, epoll::EventFlags::IN)?;
        }
        let due = connections.iter().enumerate();
        let due =
            due.filter_map(|(index, connection)| Some(Reverse((connection.due_ns()?, index))));
        Ok(Worker {
            due: due.collect(),
            blocked: vec![false; connections.len()],
            tally: Tally::new(plan.seating.workload.crews.len()),
            scratch: vec![0; READ_BYTES + 2 * FRAME_BYTES_MAX],
            body: vec![b'.'; plan.seating.workload.body_bytes],
            armed_ns: 0,
            plan,
            connections,
            epoll,
            timer,
        })
    }

    /// Until all that was sent has come, or it is waited for no longer.
    pub fn run(mut self) -> io::Result<(Tally, Vec<Ended>)> {
        let mut events = Vec::with_capacity(EVENTS_MAX);
        let mut started = false;
        let mut stopped = false;
        loop {
            let now = self.plan.now_ns();
            if !started && now >= self.plan.start_ns {
                started = true;
                self.send_all(now)?;
            }
            if started {
                self.send_due(now)?;
            }
            if !stopped && now >= self.plan.end_ns {
                stopped = true;
                let sent = self.connections.iter();
                self.plan.stop_sending(sent.map(|c| (c.room, c.sent())));
            }
            let plan = &self.plan;
            if now >= plan.last_ns || stopped && self.connections.iter().all(|c| c.is_settled(plan))
            {
                break;
            }
            let next = match (started, stopped) {
                (false, _) => plan.start_ns,
                (true, false) => {
                    let due = self.due.peek().map_or(u64::MAX, |Reverse((due, _))| *due);
                    due.min(plan.end_ns)
                }
                (true, true) => now + SETTLED_CHECK_NS,
            };
            self.arm(next)?;
            match epoll::wait(
                &self.epoll,
                rustix::buffer::spare_capacity(&mut events),
                None,
            ) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            for event in events.drain(..) {
                let (data, flags) = (event.data, event.flags);
                let Ok(index) = usize::try_from(data.u64()) else {
                    continue;
                };
                if index < self.connections.len() {
                    self.hear(index, flags, started)?;
                }
            }
        }
        let Worker {
            plan,
            connections,
            mut tally,
            ..
        } = self;
        let ended = connections.into_iter();
        let ended = ended.map(|c| c.close(&plan, &mut tally)).collect();
        Ok((tally, ended))
    }

    fn hear(&mut self, index: usize, flags: epoll::EventFlags, started: bool) -> io::Result<()> {
        let connection = &mut self.connections[index];
        // Also what went wrong is found by reading.
        if flags != epoll::EventFlags::OUT {
            connection.read(&self.plan, &mut self.tally, &mut self.scratch);
        }
        let now = self.plan.now_ns();
        self.send(index, started.then_some(now))
    }

    /// The closed loops begin.
    fn send_all(&mut self, now: u64) -> io::Result<()> {
        for index in 0..self.connections.len() {
            self.send(index, Some(now))?;
        }
        Ok(())
    }

    fn send_due(&mut self, now: u64) -> io::Result<()> {
        while let Some(Reverse((due, index))) = self.due.peek().copied() {
            if due > now || now >= self.plan.end_ns {
                break;
            }
            self.due.pop();
            self.send(index, Some(now))?;
            if let Some(next) = self.connections[index].due_ns() {
                /// Until a sender whose connection takes nothing is looked at again.
                const BLOCKED_NS: u64 = 1_000_000;
                let at = if next > now { next } else { now + BLOCKED_NS };
                self.due.push(Reverse((at, index)));
            }
        }
        Ok(())
    }

    /// Composes what is due by `now` and writes what waits.
    fn send(&mut self, index: usize, now: Option<u64>) -> io::Result<()> {
        let connection = &mut self.connections[index];
        if let Some(now) = now {
            connection.compose(&self.plan, now, &mut self.body);
        }
        connection.flush(&mut self.tally);
        let data = epoll::EventData::new_u64(index as u64);
        if !connection.is_open() {
            // It may be found lost more than once.
            let _ = epoll::delete(&self.epoll, connection.stream());
        } else if connection.has_more_to_write() != self.blocked[index] {
            self.blocked[index] = connection.has_more_to_write();
            let flags = match self.blocked[index] {
                true => epoll::EventFlags::IN | epoll::EventFlags::OUT,
                false => epoll::EventFlags::IN,
            };
            epoll::modify(&self.epoll, connection.stream(), data, flags)?;
        }
        Ok(())
    }

    fn arm(&mut self, at_ns: u64) -> io::Result<()> {
        if self.armed_ns == at_ns {
            return Ok(());
        }
        self.armed_ns = at_ns;
        // Nothing at all would disarm it.
        let nanos = at_ns.saturating_sub(self.plan.now_ns()).max(1);
        let nanos = i64::try_from(nanos).unwrap_or(i64::MAX);
        const PER_SECOND: i64 = 1_000_000_000;
        let once = Itimerspec {
            it_interval: Timespec {
                tv_sec: 0,
                tv_nsec: 0,
            },
            it_value: Timespec {
                tv_sec: nanos / PER_SECOND,
                tv_nsec: nanos % PER_SECOND,
            },
        };
        timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &once)?;
        Ok(())
    }
}
