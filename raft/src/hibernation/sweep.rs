//! Looks at all groups that are awake, again and again, and closes those that nobody uses.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use accord_storage::GroupId;
use accord_storage::LogId;
use bytes::Bytes;
use futures_util::future::join_all;

use super::close;
use super::close::Log;
use super::policy::Awake;
use super::policy::Decision;
use super::policy::Facts;
use super::policy::Role;
use super::policy::Rules;
use super::policy::decide;
use super::policy::pressed_ms;
use super::rouse;
use super::wire;
use super::wire::Idle;
use super::wire::Levelness;
use crate::clock;
use crate::group::DIRECTORY;
use crate::group::Group;
use crate::group::Replica;
use crate::group::registry::Retired;
use crate::peers::Kind;
use crate::shared::Shared;
use crate::transport::NodeId;

/// Bounds of the time between two sweeps: a quarter of the idle time in between. The longest is that of
/// two pings, so that an idle node wakes up for both at once.
const PAUSE_MIN: Duration = Duration::from_millis(25);
const PAUSE_MAX: Duration = Duration::from_millis(660);
/// A group that is used more often stays awake, however many are: closing and opening three replicas
/// costs a few milliseconds of a processor, and three that are awake cost about as much in a second.
const IDLE_PRESSED: Duration = Duration::from_secs(1);
/// How long a follower may take to say which groups it is level in.
const ASK_DEADLINE: Duration = Duration::from_secs(1);
/// Groups that close at the same time.
const CLOSINGS_AT_ONCE_MAX: usize = 256;
/// How long a settled group that openraft runs may be idle, at most.
const ELECTIVE_IDLE_MAX: Duration = Duration::from_millis(250);

/// Runs until the node stops.
pub(crate) async fn run(shared: Arc<Shared>) {
    let timing = &shared.options.timing;
    let rules = Rules {
        idle: shared.options.hibernation.idle,
        elective: ELECTIVE_IDLE_MAX,
        idle_pressed: IDLE_PRESSED.min(shared.options.hibernation.idle),
        silence: timing.heartbeat.saturating_mul(3) / 2,
        leaderless: timing.election_timeout.saturating_mul(2),
    };
    let pause_for = (rules.idle / 4).clamp(PAUSE_MIN, PAUSE_MAX);
    let mut stopping = shared.stopping.subscribe();
    loop {
        tokio::select! {
            _ = stopping.wait_for(|stopping| *stopping) => return,
            () = tokio::time::sleep_until(shared.next_beat(pause_for)) => {}
        }
        let sweep = Sweep {
            shared: &shared,
            rules: &rules,
            now_ms: shared.now_ms(),
            wall_ms: clock::now_ms(),
            pressed_ms: pressure(&shared),
        };
        sweep.run().await;
        shared.feeds.prune();
    }
}

/// Groups that were last used before this are to close although they were used lately.
fn pressure(shared: &Shared) -> u64 {
    let awake = shared.groups.survey(|group| {
        let stays = group.id == DIRECTORY || group.is_recovering();
        (!stays).then(|| Awake {
            used_ms: group.used_ms(),
            closes_here: !is_led_elsewhere(shared, group),
        })
    });
    let awake: Vec<Awake> = awake.into_iter().flatten().collect();
    let awake_max = shared.options.hibernation.awake_max;
    pressed_ms(&awake, awake_max, shared.options.replication)
}

/// Whether only another node can begin to close the group.
fn is_led_elsewhere(shared: &Shared, group: &Group) -> bool {
    let replica = group.open_replica();
    let leader = replica
        .filter(|replica| !replica.consensus.is_steady())
        .and_then(|replica| replica.consensus.leader().leader);
    leader.is_some_and(|leader| leader != shared.node() && shared.is_up(leader))
}

struct Sweep<'a> {
    shared: &'a Arc<Shared>,
    rules: &'a Rules,
    now_ms: u64,
    /// What scheduled messages and jobs go by.
    wall_ms: u64,
    pressed_ms: u64,
}

/// A leader's group that closes.
struct Leaving {
    idle: Idle,
    followers: Vec<NodeId>,
}

/// What a leader's followers have just answered.
struct Level {
    /// The end of the log that they hold.
    last: LogId,
    /// Those that do.
    nodes: Vec<NodeId>,
}

impl Level {
    /// The followers that did not answer, and may lack something.
    fn missing(&self, followers: &[NodeId]) -> Vec<NodeId> {
        let followers = followers.iter().copied();
        followers
            .filter(|node| !self.nodes.contains(node))
            .collect()
    }
}

impl Sweep<'_> {
    async fn run(&self) {
        let look = |group: &Group| (group.id, self.decision(group, None));
        let found = self.shared.groups.survey(look);
        let with = |wanted| {
            let these = found
                .iter()
                .filter(move |(_, decision)| *decision == wanted);
            these.map(|(id, _)| *id)
        };
        let close: Vec<_> = with(Decision::Close).map(|id| (id, None)).collect();
        self.close(&close).await;
        let ask: Vec<_> = with(Decision::Ask).collect();
        let level = self.ask(&ask).await;
        self.close(&level).await;
    }

    /// `level` is what its followers say, if they were asked.
    fn decision(&self, group: &Group, level: Option<&Level>) -> Decision {
        if group.id == DIRECTORY || group.is_recovering() {
            return Decision::Stay;
        }
        // Both may have been moved on since this sweep began.
        let since = |ms: u64| Duration::from_millis(self.now_ms.saturating_sub(ms));
        let silent = since(group.heard_ms());
        let role = match group.open_replica() {
            None => Role::Absent,
            Some(replica) if replica.consensus.is_steady() => Role::Steady {
                at_rest: replica.consensus.is_at_rest(),
            },
            Some(replica) => match replica.consensus.leader().leader {
                Some(leader) if leader == self.shared.node() => Role::Leader {
                    settled: replica.consensus.is_settled(),
                    level: level.is_some_and(|level| self.is_level(&replica, level)),
                },
                Some(leader) if self.shared.is_up(leader) => Role::Follower { silent },
                _ => Role::Leaderless { silent },
            },
        };
        let pressed = group.used_ms() < self.pressed_ms;
        let facts = Facts {
            idle: since(group.used_ms()),
            quiet: group.is_quiet() && (pressed || !self.is_awaited(group)),
            pressed,
            role,
        };
        decide(self.rules, &facts)
    }

    /// Whether there is something to do for the leader before the group would have slept for long. What
    /// nobody has done for as long as that may wait asleep: its time is in the index.
    fn is_awaited(&self, group: &Group) -> bool {
        let leading = group
            .open_replica()
            .filter(|replica| replica.consensus.is_in_office());
        leading.is_some_and(|replica| {
            let outlook = replica.consensus.outlook();
            let idle_ms = u64::try_from(self.rules.idle.as_millis()).unwrap_or(u64::MAX);
            let is_near = |due_ms: u64| due_ms.abs_diff(self.wall_ms) < idle_ms;
            outlook.runs || outlook.due_ms.is_some_and(is_near)
        })
    }

    /// Whether all followers that are up have all of the leader's log. One that was down when they
    /// were asked is asked, too, once it is up.
    fn is_level(&self, leader: &Replica, level: &Level) -> bool {
        let followers = self.followers(leader);
        let missing = level.missing(&followers);
        leader.consensus.group().log_state().last == Some(level.last)
            && !missing.iter().any(|node| self.shared.is_up(*node))
    }

    fn followers(&self, leader: &Replica) -> Vec<NodeId> {
        let mut followers = leader.consensus.voters();
        followers.retain(|node| *node != self.shared.node());
        followers
    }

    /// Closes these, unless somebody uses them again, and tells the followers of those led here.
    async fn close(&self, ids: &[(GroupId, Option<Level>)]) {
        for some in ids.chunks(CLOSINGS_AT_ONCE_MAX) {
            let mut leaving = Vec::new();
            let mut closing = Vec::new();
            for (id, level) in some {
                let Some((retired, led)) = self.retire(*id, level.as_ref()) else {
                    continue;
                };
                let missing = match (&led, level) {
                    (Some(led), Some(level)) => level.missing(&led.followers),
                    _ => retired.left_out(),
                };
                let log = match led.is_some() && missing.is_empty() {
                    true => Log::Purged,
                    false => Log::Kept,
                };
                rouse::note(self.shared, *id, &missing);
                leaving.extend(led);
                closing.push(close::close(Arc::clone(self.shared), retired, log));
            }
            join_all(closing.into_iter().map(tokio::spawn)).await;
            self.tell(&leaving);
        }
    }

    fn retire(&self, id: GroupId, level: Option<&Level>) -> Option<(Retired, Option<Leaving>)> {
        let mut leaving = None;
        let retired = self.shared.groups.retire(id, |group| {
            leaving = self.leaving(group);
            self.decision(group, level) == Decision::Close
        })?;
        Some((retired, leaving))
    }

    /// `None` unless this node leads the group.
    fn leaving(&self, group: &Group) -> Option<Leaving> {
        let replica = group.open_replica()?;
        if replica.consensus.is_steady() {
            return None;
        }
        let leads = replica.consensus.leader().leader == Some(self.shared.node());
        let place = replica.consensus.place().filter(|_| leads)?;
        Some(Leaving {
            idle: Idle::new(group.id.0, place),
            followers: self.followers(&replica),
        })
    }

    /// Which of these groups all followers that are up are level in. Those in which one is not are
    /// told at once what is committed. When they were used at the followers is known here from then
    /// on, so that a group's last use is that at any node, under pressure, too.
    async fn ask(&self, ids: &[GroupId]) -> Vec<(GroupId, Option<Level>)> {
        let look = |id: &GroupId| self.shared.groups.look(*id, |group| self.leaving(group));
        let idle: Vec<Leaving> = ids.iter().filter_map(look).flatten().collect();
        // `None` for one in which a follower is behind.
        let mut levels: BTreeMap<GroupId, Option<Level>> = BTreeMap::new();
        for leaving in &idle {
            let level = Level {
                last: leaving.idle.place().last,
                nodes: Vec::new(),
            };
            levels.insert(GroupId(leaving.idle.group), Some(level));
        }
        for (node, asked, answers) in join_all(self.questions(&idle)).await {
            for (position, idle) in asked.iter().enumerate() {
                let id = GroupId(idle.group);
                let Some(level) = levels.get_mut(&id) else {
                    continue;
                };
                let answer = answers.get(position);
                if let Some(answer) = answer {
                    let note = |group: &Group| group.used_elsewhere(answer.unused_ms);
                    self.shared.groups.look(id, note);
                }
                match (answer, level.as_mut()) {
                    (Some(answer), Some(level)) if answer.is_level => level.nodes.push(node),
                    _ => *level = None,
                }
            }
        }
        let mut level = Vec::new();
        for (id, answered) in levels {
            match answered {
                Some(answered) => level.push((id, Some(answered))),
                None => self.remind(id).await,
            }
        }
        level
    }

    /// One request to each follower for as many groups as fit; no answer is an empty one.
    fn questions(
        &self,
        idle: &[Leaving],
    ) -> Vec<impl Future<Output = (NodeId, Vec<Idle>, Vec<Levelness>)> + use<>> {
        let mut questions = Vec::new();
        for (node, idle) in self.by_follower(idle) {
            for some in idle.chunks(wire::IDLE_MAX) {
                let some = some.to_vec();
                let call = self
                    .shared
                    .peer(node)
                    .map(|peer| peer.call(Kind::Level.byte(), wire::encode(&some), ASK_DEADLINE));
                questions.push(async move {
                    let answer = match call {
                        Some(call) => call.await.unwrap_or_default(),
                        None => Bytes::new(),
                    };
                    (node, some, wire::decode_levels(&answer).unwrap_or_default())
                });
            }
        }
        questions
    }

    /// Has the followers of a group hear what is committed; a follower that is not open opens.
    async fn remind(&self, id: GroupId) {
        let replica = self.shared.groups.look(id, |group| group.open_replica());
        if let Some(replica) = replica.flatten() {
            replica.consensus.heartbeat().await;
        }
    }

    fn tell(&self, leaving: &[Leaving]) {
        for (node, idle) in self.by_follower(leaving) {
            let Some(peer) = self.shared.peer(node) else {
                continue;
            };
            for some in idle.chunks(wire::IDLE_MAX) {
                // A follower that misses it closes after a silence.
                drop(peer.call(Kind::Rest.byte(), wire::encode(some), ASK_DEADLINE));
            }
        }
    }

    fn by_follower(&self, leaving: &[Leaving]) -> BTreeMap<NodeId, Vec<Idle>> {
        let mut by_follower: BTreeMap<NodeId, Vec<Idle>> = BTreeMap::new();
        for leaving in leaving {
            let up = leaving.followers.iter();
            for node in up.filter(|node| self.shared.is_up(**node)) {
                by_follower.entry(*node).or_default().push(leaving.idle);
            }
        }
        by_follower
    }
}
