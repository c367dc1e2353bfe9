//! Checks the argument of docs/adr/0012 on a small Raft: a few nodes, messages that come late, in
//! any order or never, nodes that crash and lose what was not on their disks yet, a candidate its own
//! vote and a leader its last entries, and nodes that lose everything they knew, though never more than
//! a minority at a time. Random schedules must never lead to two leaders of a term, to a leader that lacks what
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
    /// Do not lead before one's own vote is on the disk.
    durable_vote: bool,
}

const ALL: Precautions = Precautions {
    inquire: true,
    confirmations: rules::CONFIRMATIONS,
    durable_vote: true,
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

/// What a node must not forget.
#[derive(Clone, Debug, Default, PartialEq)]
struct Memory {
    term: u64,
    voted: Option<Node>,
    log: Vec<Entry>,
}

#[derive(Clone, Debug)]
struct Replica {
    standing: Standing,
    /// Counts its processes: an answer reaches only the one that asked.
    life: u64,
    memory: Memory,
    /// As it is on the disk.
    disk: Memory,
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
    /// In which life the one that asks has asked.
    life: u64,
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
    /// Candidates that have lost their own votes.
    bereft: usize,
    dice: u64,
}

impl Replica {
    fn new(count: usize, standing: Standing) -> Self {
        Replica {
            standing,
            life: 0,
            memory: Memory::default(),
            disk: Memory::default(),
            commit: 0,
            votes: BTreeSet::new(),
            leads: false,
            matching: vec![0; count],
            began: 0,
        }
    }

    fn last(&self) -> (u64, usize) {
        let log = &self.memory.log;
        (log.last().map_or(0, |entry| entry.0), log.len())
    }

    fn may_vote(&self, rules: Precautions) -> bool {
        match self.standing {
            Standing::Ordinary => true,
            Standing::CatchingUp(..) => rules.confirmations == 0,
            Standing::Inquiring(_) => false,
        }
    }

    fn follow(&mut self, term: u64) {
        if term > self.memory.term {
            (self.memory.term, self.memory.voted) = (term, None);
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
            bereft: 0,
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
            50..58 => self.sync(node)?,
            58..59 => self.crash(node),
            59..62 if !self.messages.is_empty() => {
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
        let life = self.nodes[from].life;
        self.put(from, to, life, body);
    }

    /// Answers what `to` asked in that life, when all that this node knows is on its disk.
    fn answer(&mut self, from: Node, to: Node, life: u64, body: Body) -> Result<(), String> {
        self.sync(from)?;
        self.put(from, to, life, body);
        Ok(())
    }

    fn put(&mut self, from: Node, to: Node, life: u64, body: Body) {
        let term = self.nodes[from].memory.term;
        self.messages.push(Message {
            from,
            to,
            term,
            life,
            body,
        });
    }

    /// Brings to the disk what a node knows.
    fn sync(&mut self, node: Node) -> Result<(), String> {
        let replica = &mut self.nodes[node];
        replica.disk.clone_from(&replica.memory);
        if !replica.leads {
            return self.lead_if_elected(node);
        }
        let length = replica.memory.log.len();
        self.holds(node, node, length)
    }

    /// A process dies and is started again. Its connections end; what it said may still arrive, but the
    /// answers find nobody.
    fn crash(&mut self, node: Node) {
        let replica = &mut self.nodes[node];
        let is_candidate = replica.memory.voted == Some(node) && !replica.leads;
        self.bereft += usize::from(is_candidate && replica.memory.term > replica.disk.term);
        replica.life += 1;
        replica.memory.clone_from(&replica.disk);
        replica.commit = replica.commit.min(replica.memory.log.len());
        replica.leads = false;
        replica.votes.clear();
        replica.standing = match replica.standing {
            Standing::Inquiring(_) => Standing::Inquiring(BTreeMap::new()),
            Standing::CatchingUp(..) => Standing::CatchingUp(0, None),
            Standing::Ordinary => Standing::Ordinary,
        };
        self.messages.retain(|message| message.to != node);
    }

    /// Asks for votes while its own is on the way to the disk.
    fn campaign(&mut self, node: Node) {
        let replica = &mut self.nodes[node];
        if !replica.may_vote(self.rules) || replica.leads {
            return;
        }
        let term = replica.memory.term + 1;
        replica.follow(term);
        replica.memory.voted = Some(node);
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
            let entry = (replica.memory.term, self.made);
            replica.memory.log.push(entry);
        }
    }

    fn replicate(&mut self, node: Node) {
        if !self.nodes[node].leads {
            return;
        }
        for other in (0..self.nodes.len()).filter(|other| *other != node) {
            let replica = &self.nodes[node];
            let (from, length) = (replica.matching[other], replica.memory.log.len());
            // A request is bounded, so it may stop short of the end.
            let upto = from + self.roll(length - from + 1);
            self.send_log(node, other, upto);
        }
    }

    fn send_log(&mut self, node: Node, other: Node, upto: usize) {
        let replica = &self.nodes[node];
        let body = Body::Append {
            from: replica.matching[other],
            entries: replica.memory.log[..upto].to_vec(),
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
        let life = self.nodes[node].life + 1;
        self.nodes[node] = Replica::new(self.nodes.len(), standing);
        self.nodes[node].life = life;
        self.messages.retain(|message| message.to != node);
    }

    fn recover(&mut self, node: Node) -> Result<(), String> {
        match self.nodes[node].standing.clone() {
            Standing::Inquiring(mut told) => {
                let other = self.roll(self.nodes.len());
                if other != node && self.nodes[other].standing == Standing::Ordinary {
                    told.insert(other, self.nodes[other].memory.term);
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
                        (replica.memory.term, replica.memory.voted) = (term, Some(node));
                        replica.disk.clone_from(&replica.memory);
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
        let (term, length) = (replica.memory.term, replica.commit);
        let confirms = |other: &&Replica| {
            !matches!(other.standing, Standing::Inquiring(_)) && other.memory.term <= term
        };
        let confirming = self.nodes.iter().filter(confirms).count();
        (confirming >= self.majority()).then_some(length)
    }

    fn deliver(&mut self, message: Message) -> Result<(), String> {
        let Message {
            from,
            to,
            term,
            life,
            body,
        } = message;
        if matches!(self.nodes[to].standing, Standing::Inquiring(_)) {
            return Ok(());
        }
        let is_answer = matches!(body, Body::Granted | Body::Matches(_) | Body::Conflicts);
        if is_answer && life != self.nodes[to].life {
            return Ok(());
        }
        match body {
            Body::Vote { last } => {
                let may_vote = self.nodes[to].may_vote(self.rules);
                let replica = &mut self.nodes[to];
                if !may_vote {
                    return Ok(());
                }
                replica.follow(term);
                let voted = replica.memory.voted;
                let free = voted.is_none_or(|voted| voted == from);
                if term == replica.memory.term && free && last >= replica.last() {
                    replica.memory.voted = Some(from);
                    return self.answer(to, from, life, Body::Granted);
                }
                Ok(())
            }
            Body::Granted => {
                let replica = &mut self.nodes[to];
                if term == replica.memory.term && replica.memory.voted == Some(to) {
                    replica.votes.insert(from);
                    return self.lead_if_elected(to);
                }
                Ok(())
            }
            Body::Append {
                from: start,
                entries,
                commit,
            } => {
                let replica = &mut self.nodes[to];
                if term < replica.memory.term || (term == replica.memory.term && replica.leads) {
                    return Ok(());
                }
                replica.follow(term);
                let log = &mut replica.memory.log;
                let fits = log.len() >= start && log[..start] == entries[..start];
                if !fits {
                    return self.answer(to, from, life, Body::Conflicts);
                }
                let same = log.iter().zip(&entries);
                let same = same.take_while(|(ours, theirs)| ours == theirs).count();
                if same < entries.len() {
                    log.truncate(same);
                    log.extend_from_slice(&entries[same..]);
                }
                let length = entries.len();
                let commit = commit.min(length).max(replica.commit);
                self.answer(to, from, life, Body::Matches(length))?;
                self.commit(to, commit)
            }
            Body::Matches(length) => {
                let replica = &self.nodes[to];
                match term == replica.memory.term && replica.leads {
                    true => self.holds(to, from, length),
                    false => Ok(()),
                }
            }
            Body::Conflicts => {
                let replica = &mut self.nodes[to];
                if term == replica.memory.term && replica.leads {
                    replica.matching[from] = 0;
                }
                Ok(())
            }
        }
    }

    /// As leader, counts what a node has on its disk.
    fn holds(&mut self, leader: Node, node: Node, length: usize) -> Result<(), String> {
        let majority = self.majority();
        let replica = &mut self.nodes[leader];
        replica.matching[node] = replica.matching[node].max(length);
        let mut lengths = replica.matching.clone();
        lengths.sort_unstable();
        let reached = lengths[lengths.len() - majority];
        let log = &replica.memory.log;
        let own = reached > 0 && log[reached - 1].0 == replica.memory.term;
        match own && reached > replica.commit {
            true => self.commit(leader, reached),
            false => Ok(()),
        }
    }

    /// Leads with the votes of a majority, its own among them, which counts from the disk only.
    fn lead_if_elected(&mut self, node: Node) -> Result<(), String> {
        let replica = &self.nodes[node];
        let on_disk = (replica.disk.term, replica.disk.voted) == (replica.memory.term, Some(node));
        let own = replica.votes.contains(&node) && (on_disk || !self.rules.durable_vote);
        let elected = own && !replica.leads && replica.votes.len() >= self.majority();
        match elected {
            true => self.lead(node),
            false => Ok(()),
        }
    }

    fn lead(&mut self, node: Node) -> Result<(), String> {
        let count = self.nodes.len();
        let replica = &mut self.nodes[node];
        let term = replica.memory.term;
        if let Some(other) = self.leaders.insert(term, node)
            && other != node
        {
            return Err(format!("{other} and {node} lead term {term}"));
        }
        let log = &replica.memory.log;
        let lost = self.committed.iter().find(|entry| !log.contains(entry));
        if let Some(entry) = lost.filter(|entry| entry.0 < term) {
            return Err(format!("leader {node} lacks the committed {entry:?}"));
        }
        replica.leads = true;
        replica.matching = vec![0; count];
        self.propose(node);
        self.nodes[node].began = self.nodes[node].memory.log.len();
        Ok(())
    }

    fn commit(&mut self, node: Node, length: usize) -> Result<(), String> {
        let replica = &mut self.nodes[node];
        if replica.memory.log.len() < length {
            return Err(format!("what was committed is cut off on {node}"));
        }
        replica.commit = length;
        for (index, entry) in replica.memory.log[..length].iter().enumerate() {
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

/// What so many schedules amounted to.
#[derive(Debug, Default)]
struct Explored {
    /// What went wrong first.
    wrong: Option<String>,
    recovered: usize,
    committed: usize,
    bereft: usize,
}

fn explore(rules: Precautions, schedules: u64) -> Explored {
    let mut explored = Explored::default();
    for seed in 1..=schedules {
        let count = if seed % 3 == 0 { 5 } else { 3 };
        let mut world = World::new(count, rules, seed);
        for _ in 0..1_000 {
            if let Err(wrong) = world.step() {
                explored.wrong = Some(format!("seed {seed}: {wrong}"));
                return explored;
            }
        }
        explored.recovered += world.recovered;
        explored.committed += world.committed.len();
        explored.bereft += world.bereft;
    }
    explored
}

#[test]
fn nothing_is_lost_and_no_term_has_two_leaders() {
    let explored = explore(ALL, 40_000);
    assert_eq!(explored.wrong, None);
    // Schedules in which nothing happens would prove nothing.
    assert!(explored.recovered > 5_000, "{explored:?}");
    assert!(explored.committed > 200_000, "{explored:?}");
    assert!(explored.bereft > 8_000, "{explored:?}");
}

/// That the same schedules go wrong without one of the precautions.
#[track_caller]
fn check_is_seen(without: Precautions) {
    assert!(explore(without, 20_000).wrong.is_some());
}

#[test]
fn without_the_inquiry_the_model_sees_it() {
    check_is_seen(Precautions {
        inquire: false,
        ..ALL
    });
}

#[test]
fn without_catching_up_the_model_sees_it() {
    check_is_seen(Precautions {
        confirmations: 0,
        ..ALL
    });
}

#[test]
fn a_candidate_that_leads_by_a_vote_that_it_may_lose_is_seen() {
    check_is_seen(Precautions {
        durable_vote: false,
        ..ALL
    });
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
    world.sync(leader)?;
    world.deliver_all(|_| true)?;
    world.sync(leader)?;
    for _ in 0..2 {
        for other in 1..5 {
            world.send_log(leader, other, 1);
        }
        world.deliver_all(|_| true)?;
    }
    world.propose(leader);
    world.sync(leader)?;
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
    world.sync(candidate)?;
    world.deliver_all(|message| {
        let ends = [message.from, message.to];
        !ends.contains(&leader) && !ends.contains(&holds) && ends.contains(&candidate)
    })?;
    assert!(world.nodes[votes].memory.voted == Some(candidate));
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
