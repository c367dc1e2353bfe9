//! When to look at which group. Pure: rows of the index and news in, groups to attend to out.
//!
//! The index on the disk knows all groups; here is its front, read page by page as time goes on. What
//! was read is kept in step by the news of the replicas.
//!
//! Invariants: every group of the index up to the horizon is here, and no other; each is given out once
//! at a time, and again later until there is nothing to do in it.

use std::collections::BTreeMap;
use std::collections::BTreeSet;

use accord_storage::GroupId;

/// How far ahead the index is read, and how near its end may come before it is read on: it is not read
/// each time that something happens.
const AHEAD_MS: u64 = 10_000;
const NEAR_MS: u64 = 5_000;
/// Groups that are known at a time. Beyond them the index is read on when some are done with.
const ENTRIES_MAX: usize = 100_000;
/// A group that another node is to attend to is looked at again so much later. Two seconds and no more
/// is what a delivery may be late when all is well, so this is less.
const LATE_MS: u64 = 1_500;
/// Bounds of the pause before the next look where there is nothing new, or a try has failed: it doubles
/// in between.
const PAUSE_MIN_MS: u64 = 500;
const PAUSE_MAX_MS: u64 = 30_000;
/// A clock that is set back by more than this makes all pauses wrong.
const SET_BACK_MS: u64 = 1_000;
/// How soon a job is offered again that the executor had no place for, or has dropped.
const OFFER_MS: u64 = 5_000;
/// How soon one that it has, or that another node is to see to: each time its channel is opened, and one
/// that waits for a slot may sleep.
const KEPT_MS: u64 = 60_000;

/// What came of attending to a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Attended {
    /// All that was due has been seen to. News will say so; what is due next comes then, at the latest.
    Served { next_ms: Option<u64> },
    /// Jobs are due, and the executor has all of them. Something else is due at the time given.
    InCare { next_ms: Option<u64> },
    /// Jobs are due, and the executor had no place for some. Something else is due at the time given.
    Refused { next_ms: Option<u64> },
    /// Another node is up that is to do it.
    Elsewhere,
    /// It did not work.
    Failed,
}

#[derive(Debug)]
struct Entry {
    /// `None` only while it is being attended to: nothing is due any more before the horizon.
    due_ms: Option<u64>,
    look_ms: u64,
    /// Looks since the last news.
    looks: u32,
    /// When it was last said to be late.
    late_ms: Option<u64>,
    /// It is being attended to.
    out: bool,
    /// There were news meanwhile.
    stale: bool,
    /// The executor has dropped a job meanwhile.
    left: bool,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Timetable {
    entries: BTreeMap<GroupId, Entry>,
    /// Those that are not being attended to.
    looks: BTreeSet<(u64, GroupId)>,
    /// The last place of the index that was read.
    horizon: Option<(u64, GroupId)>,
    /// The latest time by which anything was decided.
    latest_ms: u64,
}

impl Timetable {
    /// After which place the index is to be read, and until when; `None` while it is read as far as it
    /// should be, or enough is known.
    pub(super) fn wants(&self, now_ms: u64) -> Option<(Option<(u64, GroupId)>, u64)> {
        let until_ms = now_ms.saturating_add(AHEAD_MS);
        let is_read = self
            .horizon
            .is_some_and(|(due_ms, _)| due_ms >= now_ms.saturating_add(NEAR_MS));
        let has_room = self.entries.len() < ENTRIES_MAX;
        (!is_read && has_room).then_some((self.horizon, until_ms))
    }

    /// What the index has there; `all` if nothing more lies before `until_ms`.
    pub(super) fn read(&mut self, rows: &[(u64, GroupId)], until_ms: u64, all: bool) {
        for (due_ms, group) in rows {
            match self.entries.get_mut(group) {
                None => self.insert(*group, *due_ms),
                Some(entry) if entry.due_ms.is_none() => entry.due_ms = Some(*due_ms),
                // News of it are younger than the row.
                Some(_) => {}
            }
        }
        let end = match all {
            true => Some((until_ms, GroupId(u64::MAX))),
            false => rows.last().copied(),
        };
        self.horizon = self.horizon.max(end);
    }

    /// What there is to do in a group has changed.
    pub(super) fn changed(&mut self, group: GroupId, due_ms: Option<u64>) {
        // Whatever lies further will be read when its time comes nearer.
        let near = due_ms.filter(|due_ms| self.horizon.is_none_or(|end| (*due_ms, group) <= end));
        match self.entries.get_mut(&group) {
            Some(entry) if entry.out => (entry.due_ms, entry.stale) = (near, true),
            _ => {
                self.remove(group);
                if let Some(due_ms) = near {
                    self.insert(group, due_ms);
                }
            }
        }
    }

    /// This node leads the group from now on: nothing in it is another's business.
    pub(super) fn leads(&mut self, group: GroupId) {
        if let Some(entry) = self.entries.get_mut(&group) {
            match entry.out {
                true => entry.stale = true,
                false => {
                    let due_ms = entry.due_ms;
                    self.changed(group, due_ms);
                }
            }
        }
    }

    /// The executor has dropped a job of the group that it had.
    pub(super) fn left(&mut self, group: GroupId, now_ms: u64) {
        let Some(entry) = self.entries.get_mut(&group) else {
            return;
        };
        if entry.out {
            entry.left = true;
            return;
        }
        let look_ms = entry.look_ms.min(now_ms.saturating_add(OFFER_MS));
        self.looks.remove(&(entry.look_ms, group));
        self.looks.insert((look_ms, group));
        entry.look_ms = look_ms;
    }

    /// Has to be told the time before anything else is asked. Whatever waits for a moment of a clock that
    /// was ahead is looked at by the clock as it is now.
    pub(super) fn at(&mut self, now_ms: u64) {
        if now_ms.saturating_add(SET_BACK_MS) < self.latest_ms {
            self.latest_ms = now_ms;
            self.looks.clear();
            for (group, entry) in self.entries.iter_mut().filter(|(_, entry)| !entry.out) {
                entry.look_ms = entry.due_ms.unwrap_or(entry.look_ms);
                entry.late_ms = None;
                self.looks.insert((entry.look_ms, *group));
            }
        }
        self.latest_ms = self.latest_ms.max(now_ms);
    }

    /// When the next group is to be looked at.
    pub(super) fn next_ms(&self) -> Option<u64> {
        self.looks.first().map(|(look_ms, _)| *look_ms)
    }

    /// The next group to attend to, and whether it is late.
    pub(super) fn take(&mut self, now_ms: u64) -> Option<(GroupId, bool)> {
        let (look_ms, group) = self.looks.first().copied()?;
        if look_ms > now_ms {
            return None;
        }
        self.looks.pop_first();
        let entry = self.entries.get_mut(&group)?;
        let late_ms = entry.due_ms.map(|due_ms| due_ms.saturating_add(LATE_MS));
        // To whom it is late opens the group, which may sleep because the executor has its jobs. Whether
        // the node that is to see to it is up is looked at more often.
        let again_ms = entry.late_ms.map(|last_ms| last_ms.saturating_add(KEPT_MS));
        let is_late = entry.looks > 0
            && late_ms.is_some_and(|late_ms| now_ms >= late_ms)
            && again_ms.is_none_or(|again_ms| now_ms >= again_ms);
        if is_late {
            entry.late_ms = Some(now_ms);
        }
        entry.out = true;
        entry.looks = entry.looks.saturating_add(1);
        Some((group, is_late))
    }

    /// Somebody has attended to a group that was taken.
    pub(super) fn attended(&mut self, group: GroupId, what: Attended, now_ms: u64) {
        let Some(entry) = self.entries.get_mut(&group).filter(|entry| entry.out) else {
            return;
        };
        entry.out = false;
        let left = std::mem::take(&mut entry.left);
        let Some(due_ms) = entry.due_ms else {
            self.entries.remove(&group);
            return;
        };
        if what == Attended::Failed {
            entry.late_ms = None;
        }
        if std::mem::take(&mut entry.stale) {
            (entry.looks, entry.late_ms) = (0, None);
            entry.look_ms = due_ms;
        } else {
            let doublings = entry.looks.saturating_sub(1).min(16);
            let pause_ms = (PAUSE_MIN_MS << doublings).min(PAUSE_MAX_MS);
            let (pause_ms, next_ms) = match what {
                Attended::Served { next_ms } => (pause_ms, next_ms),
                Attended::InCare { next_ms } => (KEPT_MS, next_ms),
                Attended::Refused { next_ms } => (OFFER_MS, next_ms),
                Attended::Elsewhere => (pause_ms.max(LATE_MS), None),
                Attended::Failed => (pause_ms, None),
            };
            let pause_ms = if left {
                pause_ms.min(OFFER_MS)
            } else {
                pause_ms
            };
            let look_ms = now_ms.saturating_add(pause_ms);
            entry.look_ms = next_ms.map_or(look_ms, |next_ms| look_ms.min(next_ms.max(now_ms)));
        }
        self.looks.insert((entry.look_ms, group));
    }

    fn insert(&mut self, group: GroupId, due_ms: u64) {
        let entry = Entry {
            due_ms: Some(due_ms),
            look_ms: due_ms,
            looks: 0,
            late_ms: None,
            out: false,
            stale: false,
            left: false,
        };
        self.looks.insert((due_ms, group));
        self.entries.insert(group, entry);
    }

    fn remove(&mut self, group: GroupId) {
        if let Some(entry) = self.entries.remove(&group) {
            self.looks.remove(&(entry.look_ms, group));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const GROUP: GroupId = GroupId(7);

    fn read(table: &mut Timetable, rows: &[(u64, GroupId)], until_ms: u64) {
        table.read(rows, until_ms, true);
    }

    #[test]
    fn a_group_comes_at_its_time_and_again_until_it_is_done() {
        let mut table = Timetable::default();
        read(&mut table, &[(100, GROUP)], 10_000);
        assert_eq!(table.take(99), None);
        assert_eq!(table.next_ms(), Some(100));
        assert_eq!(table.take(100), Some((GROUP, false)));
        assert_eq!(table.take(9_000), None, "it is out");
        table.attended(GROUP, Attended::Failed, 200);
        assert_eq!(table.next_ms(), Some(200 + PAUSE_MIN_MS));
        assert_eq!(table.take(5_000), Some((GROUP, true)), "it is late now");
        table.attended(GROUP, Attended::Served { next_ms: None }, 5_001);
        table.changed(GROUP, None);
        assert_eq!(table.next_ms(), None);
    }

    #[test]
    fn what_another_node_leads_is_left_to_it_for_a_while() {
        let mut table = Timetable::default();
        read(&mut table, &[(100, GROUP)], 10_000);
        assert_eq!(table.take(100), Some((GROUP, false)));
        table.attended(GROUP, Attended::Elsewhere, 100);
        assert_eq!(table.next_ms(), Some(100 + LATE_MS));
        table.leads(GROUP);
        assert_eq!(
            table.take(101),
            Some((GROUP, false)),
            "until this one leads"
        );
    }

    #[test]
    fn a_group_that_another_node_sees_to_is_opened_rarely_but_looked_at() {
        let mut table = Timetable::default();
        read(&mut table, &[(100, GROUP)], 10_000);
        table.take(100);
        table.attended(GROUP, Attended::Elsewhere, 100);
        let (mut late, mut looks) = (Vec::new(), 0);
        let mut now_ms = 100;
        while now_ms < 200_000 {
            now_ms = table.next_ms().unwrap();
            let (_, is_late) = table.take(now_ms).unwrap();
            table.attended(GROUP, Attended::Elsewhere, now_ms);
            late.extend(is_late.then_some(now_ms));
            looks += 1;
        }
        assert_eq!(late[0], 100 + LATE_MS);
        assert!(
            late.len() >= 2 && looks > 2 * late.len(),
            "{late:?} of {looks}"
        );
        assert!(late.windows(2).all(|two| two[1] - two[0] >= KEPT_MS));
        table.take(now_ms + KEPT_MS);
        table.attended(GROUP, Attended::Failed, now_ms + KEPT_MS);
        let soon_ms = table.next_ms().unwrap();
        assert_eq!(table.take(soon_ms), Some((GROUP, true)), "it did not work");
    }

    #[test]
    fn a_job_in_care_does_not_hide_what_is_due_next() {
        let mut table = Timetable::default();
        read(&mut table, &[(100, GROUP)], 10_000);
        table.take(100);
        let next_ms = Some(900);
        table.attended(GROUP, Attended::InCare { next_ms }, 200);
        assert_eq!(table.next_ms(), Some(900));
        table.take(900);
        table.attended(GROUP, Attended::InCare { next_ms: None }, 950);
        assert_eq!(table.next_ms(), Some(950 + KEPT_MS));
        table.left(GROUP, 2_000);
        assert_eq!(table.next_ms(), Some(2_000 + OFFER_MS));
        table.left(GROUP, 3_000);
        assert_eq!(table.next_ms(), Some(2_000 + OFFER_MS), "no later");
        table.take(7_000);
        table.attended(GROUP, Attended::Refused { next_ms: None }, 7_001);
        assert_eq!(table.next_ms(), Some(7_001 + OFFER_MS));
        table.take(13_000);
        table.left(GROUP, 13_000);
        table.attended(GROUP, Attended::InCare { next_ms: None }, 13_001);
        assert_eq!(
            table.next_ms(),
            Some(13_001 + OFFER_MS),
            "it was left meanwhile"
        );
        table.left(GroupId(8), 13_001);
    }

    #[test]
    fn news_while_it_is_attended_to_bring_it_again() {
        let mut table = Timetable::default();
        read(&mut table, &[(100, GROUP)], 10_000);
        table.take(100);
        table.changed(GROUP, Some(300));
        table.attended(GROUP, Attended::Served { next_ms: None }, 200);
        assert_eq!(table.next_ms(), Some(300));
        table.take(300);
        table.changed(GROUP, Some(99_000));
        table.attended(GROUP, Attended::Served { next_ms: None }, 301);
        assert_eq!(table.next_ms(), None, "that is beyond the horizon");
    }

    #[test]
    fn the_index_is_read_in_pages_and_no_further_than_needed() {
        let mut table = Timetable::default();
        assert_eq!(table.wants(50), Some((None, 50 + AHEAD_MS)));
        table.read(&[(7, GROUP)], 50 + AHEAD_MS, false);
        assert_eq!(table.wants(50), Some((Some((7, GROUP)), 50 + AHEAD_MS)));
        table.read(&[], 50 + AHEAD_MS, true);
        assert_eq!(table.wants(50), None);
        assert_eq!(table.wants(50 + AHEAD_MS - NEAR_MS), None);
        assert!(table.wants(51 + AHEAD_MS - NEAR_MS).is_some());
        // The clock has gone back.
        assert_eq!(table.wants(10), None);
    }

    #[test]
    fn a_clock_that_is_set_back_delays_nothing_but_by_itself() {
        let mut table = Timetable::default();
        table.at(90_000);
        read(&mut table, &[(100, GROUP)], 100_000);
        table.take(90_000);
        table.attended(GROUP, Attended::Failed, 90_000);
        table.at(89_900);
        assert_eq!(
            table.next_ms(),
            Some(90_000 + PAUSE_MIN_MS),
            "that is no jump"
        );
        table.at(2_000);
        assert_eq!(table.take(2_000), Some((GROUP, true)));
    }

    #[derive(Debug, Clone)]
    enum Step {
        /// A group's first due time becomes this.
        Change {
            group: u64,
            in_ms: Option<u64>,
        },
        Pass {
            ms: u64,
        },
        Attend {
            fails: bool,
        },
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (0..5_u64, proptest::option::of(0..30_000_u64))
                .prop_map(|(group, in_ms)| Step::Change { group, in_ms }),
            (0..9_000_u64).prop_map(|ms| Step::Pass { ms }),
            any::<bool>().prop_map(|fails| Step::Attend { fails }),
        ]
    }

    proptest! {
        /// Whatever changes, and however late the index is read: what is due is given out, nothing is
        /// before its time, and in the end nothing is left that is due.
        #[test]
        fn what_is_due_is_given_out(steps in proptest::collection::vec(step(), 1..60), page in 1..4_usize) {
            let mut table = Timetable::default();
            let mut index: BTreeMap<u64, u64> = BTreeMap::new();
            let mut now_ms = 1_000;
            let read = |table: &mut Timetable, index: &BTreeMap<u64, u64>, now_ms| {
                while let Some((after, until_ms)) = table.wants(now_ms) {
                    let mut rows: Vec<_> = index.iter().map(|(group, due_ms)| (*due_ms, GroupId(*group))).collect();
                    rows.sort_unstable();
                    rows.retain(|row| Some(*row) > after && row.0 <= until_ms);
                    let all = rows.len() <= page;
                    rows.truncate(page);
                    table.read(&rows, until_ms, all);
                }
            };
            let attend = |table: &mut Timetable, index: &mut BTreeMap<u64, u64>, now_ms: u64, fails| {
                let (group, _) = table.take(now_ms)?;
                let due_ms = index.get(&group.0).copied();
                if fails {
                    table.attended(group, Attended::Failed, now_ms);
                } else {
                    index.remove(&group.0);
                    table.changed(group, None);
                    table.attended(group, Attended::Served { next_ms: None }, now_ms);
                }
                Some(due_ms)
            };
            for step in steps {
                read(&mut table, &index, now_ms);
                match step {
                    Step::Change { group, in_ms } => {
                        let due_ms = in_ms.map(|in_ms| now_ms + in_ms - in_ms.min(500));
                        match due_ms {
                            Some(due_ms) => index.insert(group, due_ms),
                            None => index.remove(&group),
                        };
                        table.changed(GroupId(group), due_ms);
                    }
                    Step::Pass { ms } => now_ms += ms,
                    Step::Attend { fails } => {
                        if let Some(due_ms) = attend(&mut table, &mut index, now_ms, fails) {
                            prop_assert!(due_ms.is_some_and(|due_ms| due_ms <= now_ms), "{due_ms:?}");
                        }
                    }
                }
            }
            now_ms += PAUSE_MAX_MS;
            read(&mut table, &index, now_ms);
            while attend(&mut table, &mut index, now_ms, false).is_some() {}
            prop_assert!(index.values().all(|due_ms| *due_ms > now_ms), "{index:?}");
        }
    }
}
