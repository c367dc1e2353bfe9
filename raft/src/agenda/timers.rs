//! What replicas tell the task that attends to due groups, and which jobs the executor has.
//!
//! Invariant: [`Executor::ended`] is called for each job that was handed over and is not this node's
//! business any more, once. Also for what this node has settled: who ended a job cannot be told from
//! its row.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;

use accord_storage::GroupId;
use tokio::sync::Notify;
use uuid::Uuid;

use crate::api::Channel;
use crate::api::Executor;
use crate::api::Job;

pub(crate) struct Timers {
    executor: Arc<dyn Executor>,
    /// The last word of each group that has had one since they were taken: no more than are open.
    news: Mutex<BTreeMap<GroupId, News>>,
    arrived: Notify,
    /// Of channels that this node leads, the live jobs that the executor was told of.
    handed: Mutex<BTreeMap<GroupId, Handed>>,
    /// Scheduled messages that this node has delivered, and how late they were, all together.
    deliveries: AtomicU64,
    late_ms: AtomicU64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum News {
    /// What there is to do has changed; the first of it is due then.
    Due(Option<u64>),
    /// This node leads the group from now on.
    Leads,
    /// The executor has dropped a job of it.
    Left,
}

struct Handed {
    channel: Uuid,
    jobs: BTreeSet<Uuid>,
}

impl Timers {
    pub(crate) fn new(executor: Arc<dyn Executor>) -> Self {
        Timers {
            executor,
            news: Mutex::default(),
            arrived: Notify::new(),
            handed: Mutex::default(),
            deliveries: AtomicU64::new(0),
            late_ms: AtomicU64::new(0),
        }
    }

    /// What a group has to do has changed.
    pub(crate) fn note(&self, group: GroupId, due_ms: Option<u64>) {
        if due_ms.is_none() {
            // All that it had has ended.
            self.lost(group);
        }
        lock(&self.news).insert(group, News::Due(due_ms));
        self.arrived.notify_one();
    }

    /// This node leads the group from now on.
    pub(crate) fn look(&self, group: GroupId) {
        let mut news = lock(&self.news);
        let known = news.entry(group).or_insert(News::Leads);
        if *known == News::Left {
            *known = News::Leads;
        }
        drop(news);
        self.arrived.notify_one();
    }

    /// The executor has dropped a job of the group that it said it had.
    pub(crate) fn left(&self, group: GroupId) {
        // Any other news bring the job sooner.
        lock(&self.news).entry(group).or_insert(News::Left);
        self.arrived.notify_one();
    }

    /// Nothing of the group is this node's business any more.
    pub(crate) fn lost(&self, group: GroupId) {
        let handed = lock(&self.handed).remove(&group);
        if let Some(handed) = handed {
            for job in handed.jobs {
                self.executor.ended(handed.channel, job);
            }
        }
    }

    /// Somebody does not want these jobs done any more.
    pub(crate) fn cancelled(&self, group: GroupId, jobs: &[[u8; 16]]) {
        for job in jobs {
            let job = Uuid::from_bytes(*job);
            let mut all = lock(&self.handed);
            let Some(handed) = all.get_mut(&group) else {
                return;
            };
            let (channel, was_handed) = (handed.channel, handed.jobs.remove(&job));
            drop(all);
            if was_handed {
                self.executor.ended(channel, job);
            }
        }
    }

    /// Tells the executor of a job. Answers whether it has it now.
    pub(super) fn hand(&self, group: GroupId, channel: &Arc<Channel>, job: Job) -> bool {
        {
            let mut all = lock(&self.handed);
            let handed = all.entry(group).or_insert_with(|| Handed {
                channel: Uuid::from_bytes(channel.id),
                jobs: BTreeSet::new(),
            });
            handed.jobs.insert(job.id);
        }
        self.executor.due(channel, job)
    }

    /// Forgets the jobs of a group that have ended.
    pub(super) fn keep_live(&self, group: GroupId, live: &BTreeSet<Uuid>) {
        let mut all = lock(&self.handed);
        let Some(handed) = all.get_mut(&group) else {
            return;
        };
        let channel = handed.channel;
        let ended: Vec<Uuid> = handed.jobs.difference(live).copied().collect();
        handed.jobs.retain(|job| live.contains(job));
        if handed.jobs.is_empty() {
            all.remove(&group);
        }
        drop(all);
        for job in ended {
            self.executor.ended(channel, job);
        }
    }

    /// A scheduled message was delivered, so late.
    pub(super) fn delivered(&self, late_ms: u64) {
        self.deliveries.fetch_add(1, Ordering::Relaxed);
        self.late_ms.fetch_add(late_ms, Ordering::Relaxed);
    }

    /// How many scheduled messages this node has delivered, and the sum of what they were late.
    pub(crate) fn deliveries(&self) -> (u64, u64) {
        let count = self.deliveries.load(Ordering::Relaxed);
        (count, self.late_ms.load(Ordering::Relaxed))
    }

    /// Resolves when there are news.
    pub(super) async fn arrived(&self) {
        self.arrived.notified().await;
    }

    pub(super) fn take_news(&self) -> BTreeMap<GroupId, News> {
        std::mem::take(&mut *lock(&self.news))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Each critical section leaves its map whole.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::JobState;
    use crate::names::AgentName;

    #[derive(Default)]
    struct Told(Mutex<Vec<(&'static str, Uuid)>>);

    impl Executor for Told {
        fn due(&self, _: &Arc<Channel>, job: Job) -> bool {
            self.0.lock().unwrap().push(("due", job.id));
            true
        }

        fn ended(&self, _: Uuid, job: Uuid) {
            self.0.lock().unwrap().push(("ended", job));
        }
    }

    fn job(id: u128) -> Job {
        Job {
            id: Uuid::from_u128(id),
            seq: 1,
            agent: AgentName::parse("ask").unwrap(),
            username: "ada".to_owned(),
            command: "/ask".to_owned(),
            state: JobState::Pending,
            attempt: 0,
            attempts_max: 1,
            due_ms: 0,
            created_ms: 0,
            last_error: None,
        }
    }

    fn channel() -> Arc<Channel> {
        Arc::new(Channel {
            id: [1; 16],
            server: [2; 16],
            name: "general".to_owned(),
            group: 7,
            replicas: vec![1],
            created_ms: 0,
        })
    }

    #[test]
    fn the_executor_hears_once_of_what_is_not_its_business_any_more() {
        let told = Arc::new(Told::default());
        let timers = Timers::new(Arc::clone(&told) as Arc<dyn Executor>);
        let (group, channel) = (GroupId(7), channel());
        for id in [1, 2, 3, 4] {
            timers.hand(group, &channel, job(id));
        }
        told.0.lock().unwrap().clear();
        timers.cancelled(group, &[*Uuid::from_u128(1).as_bytes(), [9; 16]]);
        timers.cancelled(group, &[*Uuid::from_u128(1).as_bytes()]);
        // Two is done, whoever has settled it.
        let live = [3, 4].map(Uuid::from_u128).into();
        timers.keep_live(group, &live);
        timers.keep_live(group, &live);
        timers.note(group, Some(0));
        timers.lost(group);
        timers.lost(group);
        // The last one is done, and nothing is left to do.
        timers.hand(group, &channel, job(5));
        timers.note(group, None);
        timers.note(group, None);
        let ended = |id| ("ended", Uuid::from_u128(id));
        let expected = [
            ended(1),
            ended(2),
            ended(3),
            ended(4),
            ("due", Uuid::from_u128(5)),
            ended(5),
        ];
        assert_eq!(*told.0.lock().unwrap(), expected);
    }

    #[test]
    fn of_a_group_the_last_word_counts() {
        let timers = Timers::new(Arc::new(Told::default()));
        timers.note(GroupId(1), Some(5));
        timers.look(GroupId(1));
        timers.look(GroupId(2));
        timers.note(GroupId(2), None);
        timers.left(GroupId(2));
        timers.left(GroupId(3));
        timers.look(GroupId(3));
        timers.left(GroupId(4));
        let news = timers.take_news();
        assert_eq!(news[&GroupId(1)], News::Due(Some(5)));
        assert_eq!(news[&GroupId(2)], News::Due(None));
        assert_eq!(news[&GroupId(3)], News::Leads);
        assert_eq!(news[&GroupId(4)], News::Left);
        assert!(timers.take_news().is_empty());
    }
}
