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
use super::super::state_machine::Nobody;
use super::super::state_machine::Progress;
use super::super::state_machine::Published;
use super::*;

const LEADER: NodeId = 1;
const NODE: NodeId = 2;
const THIRD: NodeId = 3;
const FIRST: storage::LogId = storage::LogId { term: 0, index: 0 };

/// A replica on node 2, founded by the directory; node 1 leads it in term 1 if nothing else is said.
struct Replica {
    steady: Arc<Steady>,
    group: storage::Group,
    progress: watch::Receiver<Progress>,
    store: Store,
    _dir: tempfile::TempDir,
}

impl Replica {
    /// As one of these voters. None of them can be reached.
    async fn open(voters: &[NodeId]) -> Replica {
        Replica::begin(LEADER, voters, Vec::new()).await
    }

    /// As the leader of these others, with the way to each of them.
    async fn lead(peers: &[Peer]) -> Replica {
        let mut voters = vec![NODE];
        voters.extend(peers.iter().map(Peer::node));
        Replica::begin(NODE, &voters, peers.to_vec()).await
    }

    async fn begin(leader: NodeId, voters: &[NodeId], peers: Vec<Peer>) -> Replica {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(Options::new(dir.path(), "steady", NODE)).unwrap();
        let group = store.group(GroupId(7)).unwrap();
        let others = [LEADER, NODE, THIRD].into_iter();
        let others = others.filter(|node| *node != leader);
        let replicas: Vec<NodeId> = [leader].into_iter().chain(others).collect();
        let founded = founding::found(NODE, &group, &replicas).await;
        assert_eq!(founded.unwrap(), leader == NODE);
        let published = Arc::new(Published::default());
        let progress = published.progress();
        let kind = crate::machine::Kind::Channel;
        let applier = Applier::load(kind, group.clone(), Arc::new(Nobody), published).unwrap();
        let steady = Steady::begin(Beginning {
            group: group.clone(),
            node: NODE,
            term: 1,
            leader,
            voters: voters.to_vec(),
            peers,
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
            store,
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
        let is_applied = |progress: &Progress| progress.applied_next > index;
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

/// Requests that followers have not answered.
fn owed(state: &State) -> usize {
    let windows = state.followers.iter().map(|follower| &follower.window);
    windows.map(Window::requests).sum()
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
        request(LEADER, 1, last, FIRST, waiting::ENTRIES_MAX + 1),
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
    let held: Vec<_> = (0..waiting::ENTRIES_MAX)
        .map(|_| propose().ok().unwrap())
        .collect();
    assert!(propose().is_err());
    assert_eq!(held.len(), waiting::ENTRIES_MAX);
}

#[tokio::test]
async fn nobody_is_sent_what_the_store_does_not_take() {
    let peers = [Peer::silent(LEADER), Peer::silent(THIRD)];
    let replica = Replica::lead(&peers).await;
    let is_known = Arc::new(AtomicBool::new(false));
    let propose = || {
        let is_known = Arc::clone(&is_known);
        let answer = Answer::new(move |_| is_known.store(true, Ordering::SeqCst));
        let batch = Bytes::from_static(&[1]);
        replica.steady.propose(batch, answer)
    };
    assert!(!replica.steady.is_replicating());
    let replication = propose().ok().unwrap();
    assert!(replica.steady.is_replicating());
    replica.store.close().await.unwrap();
    let told = || {
        let state = replica.steady.state();
        (state.last, owed(&state))
    };
    let before: (storage::LogId, usize) = told();
    assert_eq!(before, (id(1, 1), 2));
    let (_, answer) = propose().err().expect("the store is closed");
    assert_eq!(told(), before);
    assert!(is_known.load(Ordering::SeqCst), "the first one is unknown");
    is_known.store(false, Ordering::SeqCst);
    answer.give(Ok(Vec::new()));
    assert!(is_known.load(Ordering::SeqCst), "it was given back");
    drop(replication);
    assert!(!replica.steady.is_replicating());
}

#[tokio::test]
async fn a_follower_of_a_closed_store_takes_nothing() {
    let replica = Replica::open(&[LEADER, NODE, THIRD]).await;
    let last = replica.follow(FIRST, FIRST).await;
    replica.store.close().await.unwrap();
    let next = request(LEADER, 1, last, FIRST, 1);
    assert!(replica.steady.accept(&next).is_none());
    assert_eq!(replica.steady.state().last, last);
    assert!(*replica.steady.ended.borrow());
}

/// It would wait for ever for rows that nobody writes.
#[tokio::test]
async fn a_replica_that_cannot_write_what_it_applies_ends() {
    let replica = Replica::open(&[LEADER, NODE, THIRD]).await;
    let last = replica.follow(FIRST, FIRST).await;
    replica.store.close().await.unwrap();
    let news = request(LEADER, 1, last, last, 0);
    assert!(matches!(replica.steady.accept(&news), Some(None)));
    let mut ended = replica.steady.ended.subscribe();
    ended.wait_for(|ended| *ended).await.unwrap();
    assert_eq!(replica.group.applied(), Some(FIRST));
}

#[tokio::test(start_paused = true)]
async fn a_leader_waits_for_a_follower_that_owes_it_much() {
    let peers = [Peer::silent(LEADER), Peer::silent(THIRD)];
    let replica = Replica::lead(&peers).await;
    let steady = &replica.steady;
    let mut held = Vec::new();
    while !steady.is_crowded() {
        let answer = Answer::new(|_| {});
        let proposed = steady.propose(Bytes::from_static(&[1]), answer);
        held.push(proposed.ok().unwrap());
    }
    assert_eq!(held.len(), window::REQUESTS_MAX);
    assert!(!steady.relieved().await, "nobody answers");
    // One whose node is gone is waited for no more, but the other one still is.
    peers[0].lose();
    assert!(steady.leave_out(LEADER));
    assert!(!steady.relieved().await);
    let first = Sent {
        node: LEADER,
        bytes: 1,
        upto: None,
    };
    steady.answered(&first);
    assert!(steady.is_crowded(), "what was left out owes nothing");
    steady.end();
    assert!(steady.relieved().await && !steady.is_crowded());
}
