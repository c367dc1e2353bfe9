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
    /// The same while too many are awake, and for a follower whose leader has closed. One that is
    /// used more often than this would be opened as often again, which costs more than it awake.
    pub(crate) idle_pressed: Duration,
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
    /// Since somebody used it, at any node as far as this one was told.
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
    /// `settled`: all of its log is applied. `level`: every follower that is up has just said that it
    /// holds all of it, and has applied it, too.
    Leader { settled: bool, level: bool },
    /// Since the last word of a leader that is alive.
    Follower { silent: Duration },
    /// It replicates without openraft, so that nothing wakes it but use. `at_rest`: all that it began
    /// has ended, and every follower that is up knows it.
    Steady { at_rest: bool },
    /// Nobody is known to lead, or whoever did is dead. Since its last word, or the waking.
    Leaderless { silent: Duration },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    Stay,
    /// Ask the followers whether they are level.
    Ask,
    Close,
}

pub(crate) fn decide(rules: &Rules, facts: &Facts) -> Decision {
    let idle = match (facts.role, facts.pressed) {
        (Role::Leader { .. }, false) => rules.idle.min(rules.elective),
        // Its leader knew of all use here but what came while it closed. Staying awake without it
        // would end in an election.
        (Role::Follower { .. }, _) | (_, true) => rules.idle_pressed,
        (_, false) => rules.idle,
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
        Role::Leaderless { silent } => {
            match facts.idle.min(silent) >= rules.idle + rules.leaderless {
                true => Decision::Close,
                false => Decision::Stay,
            }
        }
    }
}

/// A group that is awake, in the count of them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Awake {
    pub(crate) used_ms: u64,
    /// It closes by this node's decision: no other node leads it.
    pub(crate) closes_here: bool,
}

/// Groups that close by this node's decision and were last used before this are pressed to close.
///
/// What other nodes lead counts, since it is awake here, too; but it presses this node's own only
/// down to their share. Beyond that it is its leaders that have to close, and closing what is left
/// here would help little.
pub(crate) fn pressed_ms(awake: &[Awake], awake_max: usize, replication: usize) -> u64 {
    let mut own: Vec<u64> = awake
        .iter()
        .filter(|group| group.closes_here)
        .map(|group| group.used_ms)
        .collect();
    let share = awake_max / replication.max(1);
    let over = awake.len().saturating_sub(awake_max);
    let over = over.min(own.len().saturating_sub(share));
    if over == 0 {
        return 0;
    }
    let (_, last, _) = own.select_nth_unstable(over - 1);
    last.saturating_add(1)
}

#[cfg(test)]
#[path = "model.rs"]
mod model;
