//! When a replica may be closed. Pure: facts and times in, a decision out.
//!
//! Closing is always safe, since a replica keeps what it promised on the disk; this is about not
//! closing what is in use, and not waking again what was just closed. The leader closes first, once
//! every follower that can be reached says that it is level: a follower that closed earlier would be
//! woken by the next heartbeat. Then it tells the followers. One that misses the word hears no
//! heartbeats any more, and closes after a silence.

use std::time::Duration;

/// The times that decide.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rules {
    /// A group that nobody used for this long may close.
    pub(crate) idle: Duration,
    /// The same for one that openraft runs, if that is shorter: it costs much more to keep open, and
    /// goes on without it when it wakes.
    pub(crate) elective: Duration,
    /// A follower that has not heard its leader for this long takes it for closed; longer than the
    /// time between two heartbeats, shorter than an election timeout.
    pub(crate) silence: Duration,
    /// A replica that knows no leader waits this much longer than `idle`, so that it does not close
    /// amid an election.
    pub(crate) leaderless: Duration,
}

/// A group on this node at one moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Facts {
    /// Since somebody used it.
    pub(crate) idle: Duration,
    /// Nobody holds it and nothing waits in it.
    pub(crate) quiet: bool,
    /// So many are open that the least recently used ones need not be idle for long.
    pub(crate) pressed: bool,
    pub(crate) role: Role,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Role {
    /// No replica is open on this node.
    Absent,
    /// `settled`: all of its log is applied. `level`: the followers have said that they hold all of
    /// it, and have applied it, too.
    Leader { settled: bool, level: bool },
    /// Since the last word of a leader that is alive.
    Follower { silent: Duration },
    /// It replicates without openraft, so that nothing wakes it but use. `at_rest`: all that it began
    /// has ended, and every follower that is up knows it.
    Steady { at_rest: bool },
    /// Nobody is known to lead, or whoever did is dead.
    Leaderless,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    Stay,
    /// Ask the followers whether they are level.
    Ask,
    Close,
}

pub(crate) fn decide(rules: &Rules, facts: &Facts) -> Decision {
    let idle = match facts.pressed {
        true => Duration::ZERO,
        false => match facts.role {
            Role::Leader { .. } => rules.idle.min(rules.elective),
            _ => rules.idle,
        },
    };
    if !facts.quiet || facts.idle < idle {
        return Decision::Stay;
    }
    match facts.role {
        Role::Absent | Role::Steady { at_rest: true } => Decision::Close,
        Role::Steady { at_rest: false } => Decision::Stay,
        Role::Leader { settled: false, .. } => Decision::Stay,
        Role::Leader { level: false, .. } => Decision::Ask,
        Role::Leader { .. } => Decision::Close,
        Role::Follower { silent } if silent >= rules.silence => Decision::Close,
        Role::Follower { .. } => Decision::Stay,
        Role::Leaderless if facts.idle >= rules.idle + rules.leaderless => Decision::Close,
        Role::Leaderless => Decision::Stay,
    }
}

#[cfg(test)]
#[path = "model.rs"]
mod model;
