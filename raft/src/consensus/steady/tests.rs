//! A steady replica on a real store, whose peers are the test.

use std::sync::Arc;

use accord_storage as storage;
use accord_storage::GroupId;
use accord_storage::Options;
use accord_storage::Store;
use bytes::Bytes;
use tokio::sync::watch;

use super::super::founding;
use super::super::state_machine::Applier;
use super::super::state_machine::Commits;
use super::super::state_machine::Progress;
use super::super::state_machine::Published;
use super::*;
use crate::machine::Committed;
use crate::machine::Outlook;

const LEADER: NodeId = 1;
const NODE: NodeId = 2;
const THIRD: NodeId = 3;
const FIRST: storage::LogId = storage::LogId { term: 0, index: 0 };

struct Nobody;

impl Commits for Nobody {
    fn committed(&self, _: &Arc<Committed>) {}
    fn skipped(&self, _: u64) {}
    fn outlook(&self, _: &Outlook) {}
    fn cancelled(&self, _: &[[u8; 16]]) {}
}

/// A replica on node 2, founded by the directory with node 1 as its leader in term 1.
struct Replica {
    steady: Arc<Steady>,
    group: storage::Group,
    progress: watch::Receiver<Progress>,
    _store: Store,
    _dir: tempfile::TempDir,
}

impl Replica {
    /// As one of these voters. None of them can be reached.
    async fn open(voters: &[NodeId]) -> Replica {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(Options::new(dir.path(), "steady", NODE)).unwrap();
        let group = store.group(GroupId(7)).unwrap();
        let founded = founding::found(NODE, &group, &[LEADER, NODE, THIRD]).await;
        assert!(!founded.unwrap(), "node 1 leads");
        let published = Arc::new(Published::default());
        let progress = published.progress();
        let kind = crate::machine::Kind::Channel;
        let applier = Applier::load(kind, group.clone(), Arc::new(Nobody), published).unwrap();
        let steady = Steady::begin(Beginning {
            group: group.clone(),
            node: NODE,
            term: 1,
            leader: LEADER,
            voters: voters.to_vec(),
            peers: Vec::new(),
            level: None,
            applier,
            last: FIRST,
            applied: FIRST,
            unapplied: Vec::new(),
            keep: Keep {
                entries: 1_000,
                slack: 1_000,
            },
        });
        Replica {
            steady,
            group,
            progress,
            _store: store,
            _dir: dir,
        }
    }

    /// Takes a blank entry of the leader, and waits until it is on the disk.
    async fn follow(&self, prev: storage::LogId, commit: storage::LogId) -> storage::LogId {
        let taken = self.steady.accept(&request(LEADER, 1, prev, commit, 1));
        let written = taken.flatten().expect("it follows");
        written.wait().await.unwrap();
        id(1, prev.index + 1)
    }

    async fn until_applied(&mut self, index: u64) {
        let applied = self.group.clone();
        let is_applied = |_: &Progress| applied.applied().is_some_and(|id| id.index >= index);
        self.progress.wait_for(is_applied).await.unwrap();
    }
}

fn id(term: u64, index: u64) -> storage::LogId {
    storage::LogId { term, index }
}

fn request(
    leader: NodeId,
    term: u64,
    prev: storage::LogId,
    commit: storage::LogId,
    entries: usize,
) -> SteadyRequest {
    SteadyRequest {
        leader,
        term,
        prev,
        commit,
        payloads: vec![types::BLANK; entries],
    }
}

fn ballot(candidate: NodeId, term: u64, last: storage::LogId) -> Ballot {
    Ballot {
        candidate,
        term,
        last,
        commit: FIRST,
    }
}

fn lives(_: NodeId) -> bool {
    false
}

fn is_dead(_: NodeId) -> bool {
    true
}

#[tokio::test]
async fn a_follower_takes_what_follows_and_applies_what_is_committed() {
    let mut replica = Replica::open(&[LEADER, NODE, THIRD]).await;
    let last = replica.follow(FIRST, FIRST).await;
    let last = replica.follow(last, FIRST).await;
    assert_eq!(replica.group.log_state().last, Some(last));
    assert_eq!(replica.group.applied(), Some(FIRST), "nothing is committed");
    let news = request(LEADER, 1, last, id(1, 1), 0);
    assert!(matches!(replica.steady.accept(&news), Some(None)));
    replica.until_applied(1).await;
    assert_eq!(replica.group.applied(), Some(id(1, 1)), "and no more");
    for refused in [
        request(LEADER, 1, FIRST, FIRST, 1),
        request(LEADER, 1, id(1, 9), FIRST, 1),
        request(LEADER, 1, id(0, last.index), FIRST, 1),
        request(LEADER, 2, last, FIRST, 1),
        request(THIRD, 1, last, FIRST, 1),
        request(LEADER, 1, last, FIRST, WAITING_MAX + 1),
    ] {
        assert!(replica.steady.accept(&refused).is_none(), "{refused:?}");
    }
    assert_eq!(replica.group.log_state().last, Some(last));
    replica.steady.end();
    assert!(replica.steady.accept(&news).is_none(), "it has ended");
}

#[tokio::test]
async fn a_follower_votes_where_nothing_is_to_be_decided() {
    let replica = Replica::open(&[LEADER, NODE, THIRD]).await;
    let last = replica.follow(FIRST, FIRST).await;
    let grants = |ballot: Ballot, dead: fn(NodeId) -> bool| replica.steady.grant(&ballot, dead);
    for (refused, dead) in [
        (ballot(THIRD, 2, last), lives as fn(NodeId) -> bool),
        (ballot(THIRD, 1, last), is_dead),
        (ballot(LEADER, 1, last), lives),
        (ballot(THIRD, 2, FIRST), is_dead),
        (ballot(THIRD, 2, id(1, 2)), is_dead),
        (ballot(LEADER, 2, FIRST), lives),
    ] {
        assert!(grants(refused, dead).is_none(), "{refused:?}");
    }
    let vote = replica.group.vote().unwrap();
    assert_eq!((vote.term, vote.node), (1, LEADER), "it is as it was");

    let granted = grants(ballot(THIRD, 4, last), is_dead);
    granted.expect("all is level").wait().await.unwrap();
    let vote = replica.group.vote().unwrap();
    assert_eq!((vote.term, vote.node, vote.committed), (4, THIRD, false));
    let stale = request(LEADER, 1, last, FIRST, 1);
    assert!(replica.steady.accept(&stale).is_none(), "an earlier term");
    assert!(
        grants(ballot(LEADER, 4, last), is_dead).is_none(),
        "one vote a term"
    );
    let word = request(THIRD, 4, last, last, 0);
    assert!(matches!(replica.steady.accept(&word), Some(None)));
    assert!(replica.group.vote().unwrap().committed, "it has won");
    let again = grants(ballot(THIRD, 5, last), lives);
    again.expect("its own leader").wait().await.unwrap();
    replica.steady.end();
    assert!(
        grants(ballot(THIRD, 6, last), is_dead).is_none(),
        "it has ended"
    );
}

#[tokio::test]
async fn a_candidate_follows_nobody_and_votes_for_nobody() {
    // It alone is a majority.
    let replica = Replica::open(&[NODE]).await;
    let last = replica.follow(FIRST, FIRST).await;
    assert!(replica.steady.stand(THIRD).is_none(), "not its leader");
    let candidacy = replica.steady.stand(LEADER).unwrap();
    assert!(!replica.steady.is_at_rest());
    assert!(replica.steady.stand(LEADER).is_none(), "it stands already");
    let stale = request(LEADER, 1, last, FIRST, 1);
    assert!(replica.steady.accept(&stale).is_none());
    let rival = ballot(THIRD, 9, last);
    assert!(replica.steady.grant(&rival, is_dead).is_none());
    drop(candidacy);
    assert!(replica.steady.is_at_rest());
    assert!(!replica.steady.leads());
}

#[tokio::test]
async fn without_a_majority_nobody_stands() {
    let replica = Replica::open(&[LEADER, NODE, THIRD]).await;
    assert!(replica.steady.stand(LEADER).is_none());
    let vote = replica.group.vote().unwrap();
    assert_eq!(vote.term, 1, "it has given no vote");
}

/// Raft's figure 8: what an earlier leader left may be replaced until an entry of a later term is
/// behind it.
#[tokio::test]
async fn what_an_earlier_leader_left_is_committed_with_the_first_entry_of_the_term() {
    let mut replica = Replica::open(&[NODE]).await;
    let last = replica.follow(FIRST, FIRST).await;
    let candidacy = replica.steady.stand(LEADER).unwrap();
    let replication = candidacy.campaign().await.expect("nobody else votes");
    assert!(replica.steady.leads());
    let vote = replica.group.vote().unwrap();
    assert_eq!((vote.term, vote.node, vote.committed), (2, NODE, true));
    assert_eq!(replica.group.log_state().last, Some(id(2, last.index + 1)));
    replication.run().await.unwrap();
    replica.until_applied(2).await;
    assert!(replica.steady.is_at_rest());
}

#[tokio::test]
async fn a_candidate_that_knows_all_of_its_log_committed_needs_no_entry() {
    let mut replica = Replica::open(&[NODE]).await;
    let last = replica.follow(FIRST, id(1, 1)).await;
    replica.until_applied(1).await;
    let candidacy = replica.steady.stand(LEADER).unwrap();
    let replication = candidacy.campaign().await.expect("nobody else votes");
    replication.run().await.unwrap();
    assert_eq!(replica.group.log_state().last, Some(last));
    let proposed = replica.steady.propose(types::BLANK, Answer::new(drop));
    assert!(proposed.is_ok(), "it takes commands");
    proposed.ok().unwrap().run().await.unwrap();
    replica.until_applied(2).await;
    assert_eq!(replica.group.applied(), Some(id(2, 2)));
}

/// Whoever takes over must find every vote that was given.
#[tokio::test]
async fn a_candidate_that_has_ended_meanwhile_does_not_lead() {
    let replica = Replica::open(&[NODE]).await;
    let candidacy = replica.steady.stand(LEADER).unwrap();
    replica.steady.end();
    let vote = replica.group.vote().unwrap();
    assert_eq!((vote.term, vote.node, vote.committed), (2, NODE, false));
    assert!(candidacy.campaign().await.is_none());
    assert!(!replica.steady.leads());
    assert!(!replica.group.vote().unwrap().committed);
}

/// Kept in memory until it is told to be committed, and so bounded.
#[tokio::test]
async fn a_leader_holds_so_many_entries_and_no_more() {
    let replica = Replica::open(&[NODE]).await;
    let candidacy = replica.steady.stand(LEADER).unwrap();
    let _told = candidacy.campaign().await.unwrap();
    let propose = || {
        let answer = Answer::new(|_| {});
        replica.steady.propose(Bytes::from_static(&[0]), answer)
    };
    // Nobody runs them, so that none is committed.
    let held: Vec<_> = (0..WAITING_MAX).map(|_| propose().ok().unwrap()).collect();
    assert!(propose().is_err());
    assert_eq!(held.len(), WAITING_MAX);
}
