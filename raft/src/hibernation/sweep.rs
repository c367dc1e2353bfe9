//! Looks at all groups that are awake, again and again, and closes those that nobody uses.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use accord_storage::GroupId;
use bytes::Bytes;
use futures_util::future::join_all;

use super::close;
use super::close::Log;
use super::policy::Decision;
use super::policy::Facts;
use super::policy::Role;
use super::policy::Rules;
use super::policy::decide;
use super::wire;
use super::wire::Idle;
use crate::group::DIRECTORY;
use crate::group::Group;
use crate::group::registry::Retired;
use crate::peers::Kind;
use crate::shared::Shared;
use crate::transport::NodeId;

/// Bounds of the time between two sweeps: a quarter of the idle time in between.
const PAUSE_MIN: Duration = Duration::from_millis(25);
const PAUSE_MAX: Duration = Duration::from_millis(500);
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
        silence: timing.heartbeat.saturating_mul(3) / 2,
        leaderless: timing.election_timeout.saturating_mul(2),
    };
    let pause_for = (rules.idle / 4).clamp(PAUSE_MIN, PAUSE_MAX);
    let mut stopping = shared.stopping.subscribe();
    loop {
        tokio::select! {
            _ = stopping.wait_for(|stopping| *stopping) => return,
            () = pause(pause_for) => {}
        }
        let sweep = Sweep {
            shared: &shared,
            rules: &rules,
            now_ms: shared.now_ms(),
            pressed_ms: pressed_ms(&shared),
        };
        sweep.run().await;
        shared.feeds.prune();
    }
}

/// Groups that were last used before this are to close although they were used lately.
fn pressed_ms(shared: &Shared) -> u64 {
    let mut used = shared.groups.survey(Group::used_ms);
    let over = used
        .len()
        .saturating_sub(shared.options.hibernation.awake_max);
    if over == 0 {
        return 0;
    }
    let (_, last, _) = used.select_nth_unstable(over - 1);
    last.saturating_add(1)
}

struct Sweep<'a> {
    shared: &'a Arc<Shared>,
    rules: &'a Rules,
    now_ms: u64,
    pressed_ms: u64,
}

/// A leader's group that closes.
struct Leaving {
    idle: Idle,
    followers: Vec<NodeId>,
}

impl Sweep<'_> {
    async fn run(&self) {
        let look = |group: &Group| (group.id, self.decision(group));
        let found = self.shared.groups.survey(look);
        let with = |wanted| {
            let these = found
                .iter()
                .filter(move |(_, decision)| *decision == wanted);
            these.map(|(id, _)| *id).collect::<Vec<_>>()
        };
        self.close(&with(Decision::Close)).await;
        let level = self.ask(&with(Decision::Ask)).await;
        self.close(&level).await;
    }

    fn decision(&self, group: &Group) -> Decision {
        if group.id == DIRECTORY || group.is_recovering() {
            return Decision::Stay;
        }
        let since = |ms: u64| Duration::from_millis(self.now_ms.saturating_sub(ms));
        let role = match group.open_replica() {
            None => Role::Absent,
            Some(replica) if replica.consensus.is_steady() => Role::Steady {
                at_rest: replica.consensus.is_at_rest(),
            },
            Some(replica) => match replica.consensus.leader().leader {
                Some(leader) if leader == self.shared.node() => Role::Leader {
                    settled: replica.consensus.is_settled(),
                    level: group.level().is_some()
                        && group.level() == replica.consensus.group().log_state().last,
                },
                Some(leader) if self.shared.is_up(leader) => Role::Follower {
                    silent: since(group.heard_ms()),
                },
                _ => Role::Leaderless,
            },
        };
        let facts = Facts {
            idle: since(group.used_ms()),
            quiet: group.is_quiet(),
            pressed: group.used_ms() < self.pressed_ms,
            role,
        };
        decide(self.rules, &facts)
    }

    /// Closes these, unless somebody uses them again, and tells the followers of those led here.
    async fn close(&self, ids: &[GroupId]) {
        for some in ids.chunks(CLOSINGS_AT_ONCE_MAX) {
            let mut leaving = Vec::new();
            let mut closing = Vec::new();
            for id in some {
                let Some((retired, led)) = self.retire(*id) else {
                    continue;
                };
                if let Some(replica) = retired.group.open_replica() {
                    let left_out = replica.consensus.left_out();
                    if !left_out.is_empty() {
                        self.shared.lagging.note(*id, &left_out);
                    }
                }
                let log = match led.as_ref().map(|led| self.down(led)) {
                    Some(down) if down.is_empty() => Log::Purged,
                    Some(down) => {
                        self.shared.lagging.note(*id, &down);
                        Log::Kept
                    }
                    None => Log::Kept,
                };
                leaving.extend(led);
                closing.push(close::close(Arc::clone(self.shared), retired, log));
            }
            join_all(closing.into_iter().map(tokio::spawn)).await;
            self.tell(&leaving);
        }
    }

    fn retire(&self, id: GroupId) -> Option<(Retired, Option<Leaving>)> {
        let mut leaving = None;
        let retired = self.shared.groups.retire(id, |group| {
            leaving = self.leaving(group);
            self.decision(group) == Decision::Close
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
        let mut followers = replica.consensus.voters();
        followers.retain(|node| *node != self.shared.node());
        Some(Leaving {
            idle: Idle::new(group.id.0, place),
            followers,
        })
    }

    fn down(&self, leaving: &Leaving) -> Vec<NodeId> {
        let followers = leaving.followers.iter().copied();
        followers.filter(|node| !self.shared.is_up(*node)).collect()
    }

    /// Which of these groups all followers that are up are level in. Those in which one is not are
    /// told at once what is committed.
    async fn ask(&self, ids: &[GroupId]) -> Vec<GroupId> {
        let look = |id: &GroupId| self.shared.groups.look(*id, |group| self.leaving(group));
        let idle: Vec<Leaving> = ids.iter().filter_map(look).flatten().collect();
        let mut behind = BTreeSet::new();
        for (idle, answer) in join_all(self.questions(&idle)).await {
            for (place, asked) in idle.iter().enumerate() {
                if answer.get(place) != Some(&1) {
                    behind.insert(asked.group);
                }
            }
        }
        let mut level = Vec::new();
        for asked in &idle {
            let id = GroupId(asked.idle.group);
            if behind.contains(&asked.idle.group) {
                self.remind(id).await;
            } else {
                let last = asked.idle.place().last;
                self.shared.groups.look(id, |group| group.set_level(last));
                level.push(id);
            }
        }
        level
    }

    /// One request to each follower for as many groups as fit; no answer is an empty one.
    fn questions(&self, idle: &[Leaving]) -> Vec<impl Future<Output = (Vec<Idle>, Bytes)> + use<>> {
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
                    (some, answer)
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

#[expect(
    clippy::disallowed_methods,
    reason = "there is no event for nothing happening"
)]
async fn pause(duration: Duration) {
    tokio::time::sleep(duration).await;
}
