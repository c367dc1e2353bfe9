//! Checks the argument of docs/adr/0012 on a small Raft: a few nodes, messages that come late, in
//! any order or never, and nodes that lose everything they knew, though never more than a minority
//! at a time. Random schedules must never lead to two leaders of a term, to a leader that lacks what
//! was committed, or to two commits at one index. The same schedules without one of the precautions
//! must: that is how the model shows that it can see.

use std::collections::BTreeMap;
use std::collections::BTreeSet;

use super::rules;

/// Which precautions are taken.
#[derive(Clone, Copy)]
struct Precautions {
    /// Ask all others for their terms first.
    inquire: bool,
    /// Do not vote before the log has been confirmed so often.
    confirmations: usize,
}

const ALL: Precautions = Precautions {
    inquire: true,
    confirmations: rules::CONFIRMATIONS,
};

type Node = usize;
/// An entry is the term that it was made in and a number of its own.
type Entry = (u64, u64);

#[derive(Clone, Debug, PartialEq)]
enum Standing {
    Inquiring(BTreeMap<Node, u64>),
    /// Confirmations reached, and the length that the next one asks for.
    CatchingUp(usize, Option<usize>),
    Ordinary,
}

#[derive(Clone, Debug)]
struct Replica {
    standing: Standing,
    term: u64,
    voted: Option<Node>,
    log: Vec<Entry>,
    commit: usize,
    votes: BTreeSet<Node>,
    leads: bool,
    matching: Vec<usize>,
    /// How long the log was when it began to lead.
    began: usize,
}

#[derive(Clone, Debug)]
enum Body {
    Vote {
        last: (u64, usize),
    },
    Granted,
    Append {
        from: usize,
        entries: Vec<Entry>,
        commit: usize,
    },
    Matches(usize),
    Conflicts,
}

#[derive(Clone, Debug)]
struct Message {
    from: Node,
    to: Node,
    term: u64,
    body: Body,
}

struct World {
    rules: Precautions,
    nodes: Vec<Replica>,
    messages: Vec<Message>,
    leaders: BTreeMap<u64, Node>,
    committed: Vec<Entry>,
    made: u64,
    recovered: usize,
    dice: u64,
}

impl Replica {
    fn new(count: usize, standing: Standing) -> Self {
        Replica {
            standing,
            term: 0,
            voted: None,
            log: Vec::new(),
            commit: 0,
            votes: BTreeSet::new(),
            leads: false,
            matching: vec![0; count],
            began: 0,
        }
    }

    fn last(&self) -> (u64, usize) {
        (self.log.last().map_or(0, |entry| entry.0), self.log.len())
    }

    fn may_vote(&self, rules: Precautions) -> bool {
        match self.standing {
            Standing::Ordinary => true,
            Standing::CatchingUp(..) => rules.confirmations == 0,
            Standing::Inquiring(_) => false,
        }
    }

    fn follow(&mut self, term: u64) {
        if term > self.term {
            (self.term, self.voted) = (term, None);
            self.leads = false;
            self.votes.clear();
        }
    }
}

impl World {
    fn new(count: usize, rules: Precautions, seed: u64) -> Self {
        World {
            rules,
            nodes: vec![Replica::new(count, Standing::Ordinary); count],
            messages: Vec::new(),
            leaders: BTreeMap::new(),
            committed: Vec::new(),
            made: 0,
            recovered: 0,
            dice: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
        }
    }

    /// Below `n`; xorshift, so that a seed is a schedule.
    fn roll(&mut self, n: usize) -> usize {
        self.dice ^= self.dice << 13;
        self.dice ^= self.dice >> 7;
        self.dice ^= self.dice << 17;
        usize::try_from(self.dice >> 33).unwrap() % n
    }

    fn majority(&self) -> usize {
        self.nodes.len() / 2 + 1
    }

    fn step(&mut self) -> Result<(), String> {
        let node = self.roll(self.nodes.len());
        match self.roll(100) {
            0..4 => self.campaign(node),
            4..14 => self.propose(node),
            14..32 => self.replicate(node),
            32..35 => self.forget(node),
            35..50 => self.recover(node)?,
            50..53 if !self.messages.is_empty() => {
                let lost = self.roll(self.messages.len());
                self.messages.swap_remove(lost);
            }
            _ if !self.messages.is_empty() => {
                let next = self.roll(self.messages.len());
                let message = self.messages.swap_remove(next);
                self.deliver(message)?;
            }
            _ => {}
        }
        Ok(())
    }

    fn send(&mut self, from: Node, to: Node, body: Body) {
        let term = self.nodes[from].term;
        self.messages.push(Message {
            from,
            to,
            term,
            body,
        });
    }

    fn campaign(&mut self, node: Node) {
        let replica = &mut self.nodes[node];
        if !replica.may_vote(self.rules) || replica.leads {
            return;
        }
        let term = replica.term + 1;
        replica.follow(term);
        replica.voted = Some(node);
        replica.votes.insert(node);
        let last = replica.last();
        for other in (0..self.nodes.len()).filter(|other| *other != node) {
            self.send(node, other, Body::Vote { last });
        }
    }

    fn propose(&mut self, node: Node) {
        let replica = &mut self.nodes[node];
        if replica.leads {
            self.made += 1;
            replica.log.push((replica.term, self.made));
            replica.matching[node] = replica.log.len();
        }
    }

    fn replicate(&mut self, node: Node) {
        if !self.nodes[node].leads {
            return;
        }
        for other in (0..self.nodes.len()).filter(|other| *other != node) {
            let replica = &self.nodes[node];
            let (from, length) = (replica.matching[other], replica.log.len());
            // A request is bounded, so it may stop short of the end.
            let upto = from + self.roll(length - from + 1);
            self.send_log(node, other, upto);
        }
    }

    fn send_log(&mut self, node: Node, other: Node, upto: usize) {
        let replica = &self.nodes[node];
        let body = Body::Append {
            from: replica.matching[other],
            entries: replica.log[..upto].to_vec(),
            commit: replica.commit,
        };
        self.send(node, other, body);
    }

    /// Everything that it knew is gone, and so are its connections' ends. What it said may still
    /// arrive.
    fn forget(&mut self, node: Node) {
        let without = self.nodes.iter();
        let without = without.filter(|other| other.standing != Standing::Ordinary);
        let minority = self.nodes.len() - self.majority();
        if self.nodes[node].standing != Standing::Ordinary || without.count() >= minority {
            return;
        }
        let standing = match self.rules.inquire {
            true => Standing::Inquiring(BTreeMap::new()),
            false => Standing::CatchingUp(0, None),
        };
        self.nodes[node] = Replica::new(self.nodes.len(), standing);
        self.messages.retain(|message| message.to != node);
    }

    fn recover(&mut self, node: Node) -> Result<(), String> {
        match self.nodes[node].standing.clone() {
            Standing::Inquiring(mut told) => {
                let other = self.roll(self.nodes.len());
                if other != node && self.nodes[other].standing == Standing::Ordinary {
                    told.insert(other, self.nodes[other].term);
                    // It has met the new disk, so the old one's connections have ended there.
                    let stale = |message: &Message| message.from == node && message.to == other;
                    self.messages.retain(|message| !stale(message));
                }
                let count = self.nodes.len();
                let others: Vec<u64> = (0..count)
                    .filter(|o| *o != node)
                    .map(|o| o as u64)
                    .collect();
                let term_of = |other: u64| told.get(&usize::try_from(other).unwrap()).copied();
                let replica = &mut self.nodes[node];
                match rules::promised_term(&others, term_of) {
                    Ok(term) => {
                        (replica.term, replica.voted) = (term, Some(node));
                        replica.standing = Standing::CatchingUp(0, None);
                    }
                    Err(_) => replica.standing = Standing::Inquiring(told),
                }
            }
            Standing::CatchingUp(reached, None) => {
                let wanted = self.confirmed_length(node);
                self.nodes[node].standing = Standing::CatchingUp(reached, wanted);
            }
            Standing::CatchingUp(reached, Some(wanted)) if self.nodes[node].commit >= wanted => {
                let reached = reached + 1;
                if reached >= self.rules.confirmations {
                    self.recovered += 1;
                    self.nodes[node].standing = Standing::Ordinary;
                } else {
                    self.nodes[node].standing = Standing::CatchingUp(reached, None);
                }
            }
            Standing::CatchingUp(..) | Standing::Ordinary => {}
        }
        Ok(())
    }

    /// The read index of some leader that a majority confirms.
    fn confirmed_length(&mut self, asks: Node) -> Option<usize> {
        let leader = self.roll(self.nodes.len());
        let replica = &self.nodes[leader];
        if leader == asks || !replica.leads || replica.commit < replica.began {
            return None;
        }
        let (term, length) = (replica.term, replica.commit);
        let confirms = |other: &&Replica| {
            !matches!(other.standing, Standing::Inquiring(_)) && other.term <= term
        };
        let confirming = self.nodes.iter().filter(confirms).count();
        (confirming >= self.majority()).then_some(length)
    }

    fn deliver(&mut self, message: Message) -> Result<(), String> {
        let Message { from, to, term, .. } = message;
        if matches!(self.nodes[to].standing, Standing::Inquiring(_)) {
            return Ok(());
        }
        match message.body {
            Body::Vote { last } => {
                let may_vote = self.nodes[to].may_vote(self.rules);
                let replica = &mut self.nodes[to];
                if !may_vote {
                    return Ok(());
                }
                replica.follow(term);
                let free = replica.voted.is_none_or(|voted| voted == from);
                if term == replica.term && free && last >= replica.last() {
                    replica.voted = Some(from);
                    self.send(to, from, Body::Granted);
                }
                Ok(())
            }
            Body::Granted => {
                let majority = self.majority();
                let replica = &mut self.nodes[to];
                if term == replica.term && replica.voted == Some(to) && !replica.leads {
                    replica.votes.insert(from);
                    if replica.votes.len() >= majority && replica.votes.contains(&to) {
                        return self.lead(to);
                    }
                }
                Ok(())
            }
            Body::Append {
                from: start,
                entries,
                commit,
            } => {
                let replica = &mut self.nodes[to];
                if term < replica.term || (term == replica.term && replica.leads) {
                    return Ok(());
                }
                replica.follow(term);
                let fits = replica.log.len() >= start && replica.log[..start] == entries[..start];
                if !fits {
                    self.send(to, from, Body::Conflicts);
                    return Ok(());
                }
                let same = replica.log.iter().zip(&entries);
                let same = same.take_while(|(ours, theirs)| ours == theirs).count();
                if same < entries.len() {
                    replica.log.truncate(same);
                    replica.log.extend_from_slice(&entries[same..]);
                }
                let length = entries.len();
                let commit = commit.min(length).max(replica.commit);
                self.send(to, from, Body::Matches(length));
                self.commit(to, commit)
            }
            Body::Matches(length) => {
                let replica = &mut self.nodes[to];
                if term != replica.term || !replica.leads {
                    return Ok(());
                }
                replica.matching[from] = replica.matching[from].max(length);
                let mut lengths = replica.matching.clone();
                lengths.sort_unstable();
                let reached = lengths[lengths.len() - self.majority()];
                let replica = &self.nodes[to];
                let own = reached > 0 && replica.log[reached - 1].0 == replica.term;
                match own && reached > replica.commit {
                    true => self.commit(to, reached),
                    false => Ok(()),
                }
            }
            Body::Conflicts => {
                let replica = &mut self.nodes[to];
                if term == replica.term && replica.leads {
                    replica.matching[from] = 0;
                }
                Ok(())
            }
        }
    }

    fn lead(&mut self, node: Node) -> Result<(), String> {
        let count = self.nodes.len();
        let replica = &mut self.nodes[node];
        if let Some(other) = self.leaders.insert(replica.term, node)
            && other != node
        {
            return Err(format!("{other} and {node} lead term {}", replica.term));
        }
        let lost = self
            .committed
            .iter()
            .find(|entry| !replica.log.contains(entry));
        if let Some(entry) = lost.filter(|entry| entry.0 < replica.term) {
            return Err(format!("leader {node} lacks the committed {entry:?}"));
        }
        replica.leads = true;
        replica.matching = vec![0; count];
        self.propose(node);
        self.nodes[node].began = self.nodes[node].log.len();
        Ok(())
    }

    fn commit(&mut self, node: Node, length: usize) -> Result<(), String> {
        let replica = &mut self.nodes[node];
        if replica.log.len() < length {
            return Err(format!("what was committed is cut off on {node}"));
        }
        replica.commit = length;
        for (index, entry) in replica.log[..length].iter().enumerate() {
            match self.committed.get(index) {
                Some(known) if known != entry => {
                    return Err(format!("{known:?} and {entry:?} are committed at {index}"));
                }
                Some(_) => {}
                None => self.committed.push(*entry),
            }
        }
        Ok(())
    }
}

/// What went wrong first in so many schedules, and what they amounted to.
fn explore(rules: Precautions, schedules: u64) -> (Option<String>, usize, usize) {
    let (mut recovered, mut committed) = (0, 0);
    for seed in 1..=schedules {
        let count = if seed % 3 == 0 { 5 } else { 3 };
        let mut world = World::new(count, rules, seed);
        for _ in 0..600 {
            if let Err(wrong) = world.step() {
                return (Some(format!("seed {seed}: {wrong}")), recovered, committed);
            }
        }
        recovered += world.recovered;
        committed += world.committed.len();
    }
    (None, recovered, committed)
}

#[test]
fn nothing_is_lost_and_no_term_has_two_leaders() {
    let (wrong, recovered, committed) = explore(ALL, 40_000);
    assert_eq!(wrong, None);
    // Schedules in which nothing happens would prove nothing.
    assert!(recovered > 8_000, "{recovered} recoveries");
    assert!(committed > 200_000, "{committed} entries committed");
}

#[test]
fn without_the_inquiry_the_model_sees_it() {
    let (wrong, _, _) = explore(
        Precautions {
            inquire: false,
            ..ALL
        },
        20_000,
    );
    assert!(wrong.is_some());
}

#[test]
fn without_catching_up_the_model_sees_it() {
    let (wrong, _, _) = explore(
        Precautions {
            confirmations: 0,
            ..ALL
        },
        20_000,
    );
    assert!(wrong.is_some());
}

impl World {
    /// Delivers what `wanted` picks, and what comes of it, as long as there is any.
    fn deliver_all(&mut self, wanted: impl Fn(&Message) -> bool) -> Result<(), String> {
        while let Some(next) = self.messages.iter().position(&wanted) {
            let message = self.messages.swap_remove(next);
            self.deliver(message)?;
        }
        Ok(())
    }

    /// Lets `node` go on with its recovery until it stands so.
    fn recover_until(&mut self, node: Node, stands: impl Fn(&Standing) -> bool) {
        for _ in 0..10_000 {
            if stands(&self.nodes[node].standing) {
                return;
            }
            self.recover(node).unwrap();
        }
        panic!("{:?}", self.nodes[node].standing);
    }
}

/// The schedule for which one confirmation is not enough: between it and the moment in which the
/// leader finds out how short the log has become, the leader commits with a forgotten
/// acknowledgement.
fn commit_with_a_forgotten_acknowledgement(confirmations: usize) -> Result<(), String> {
    let rules = Precautions {
        confirmations,
        ..ALL
    };
    let (leader, forgets, holds, candidate, votes) = (0, 1, 2, 3, 4);
    let mut world = World::new(5, rules, 1);
    world.campaign(leader);
    world.deliver_all(|_| true)?;
    for _ in 0..2 {
        for other in 1..5 {
            world.send_log(leader, other, 1);
        }
        world.deliver_all(|_| true)?;
    }
    world.propose(leader);
    world.send_log(leader, forgets, 2);
    world.deliver_all(|_| true)?;
    world.forget(forgets);
    let wants = |standing: &Standing| matches!(standing, Standing::CatchingUp(0, Some(_)));
    world.recover_until(forgets, wants);

    world.send_log(leader, holds, 2);
    world.deliver_all(|_| true)?;
    assert_eq!(
        world.committed.len(),
        2,
        "with an acknowledgement that is gone"
    );
    world.send_log(leader, forgets, 2);
    world.deliver_all(|_| true)?;
    world.send_log(leader, forgets, 1);
    world.deliver_all(|_| true)?;
    let reached = |standing: &Standing| !matches!(standing, Standing::CatchingUp(0, _));
    world.recover_until(forgets, reached);

    world.campaign(candidate);
    world.deliver_all(|message| {
        let ends = [message.from, message.to];
        !ends.contains(&leader) && !ends.contains(&holds) && ends.contains(&candidate)
    })?;
    assert!(world.nodes[votes].voted == Some(candidate));
    Ok(())
}

#[test]
fn one_confirmation_is_not_enough() {
    let wrong = commit_with_a_forgotten_acknowledgement(1);
    assert!(wrong.unwrap_err().contains("lacks the committed"));
    assert_eq!(
        commit_with_a_forgotten_acknowledgement(rules::CONFIRMATIONS),
        Ok(())
    );
}
