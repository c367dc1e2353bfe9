//! The election that needs no campaign: all logs end alike, so that there is nothing to decide.
//!
//! Two nodes may ask for it. The *leader of everybody's vote*, after it was restarted: it must not go
//! on in its term, because its followers may hold entries that its own disk lost. And a *follower*
//! whose leader is dead. What they ask for is small: that those whose logs end where the candidate's
//! does, and who follow the candidate already or see their leader dead too, give it their vote for
//! the next term. Anything else is refused, and openraft elects: see `docs/adr/0017`.

use std::sync::Arc;
use std::time::Duration;

use accord_storage as storage;
use futures_util::future::join;
use futures_util::future::join_all;
use futures_util::stream::FuturesUnordered;

use super::super::log_store::Written;
use super::super::log_store::completion;
use super::super::types;
use super::Ballot;
use super::Replication;
use super::Steady;
use super::is_majority;
use crate::peers::Kind;
use crate::transport::NodeId;
use crate::transport::Peer;

/// How long a voter may take: it opens its replica, and brings its vote to the disk.
const BALLOT_DEADLINE: Duration = Duration::from_millis(500);

/// A follower that has stepped forward. While there is one, this node follows nobody.
pub(in super::super) struct Candidacy {
    steady: Arc<Steady>,
    ballot: Ballot,
    /// Its own vote, on its way to the disk.
    saved: Option<Written>,
}

impl Steady {
    /// Steps forward for the next term, as a follower of `dead`, if a majority is there to be asked.
    /// Whatever comes of it, this replica does not follow in an earlier term any more.
    pub(in super::super) fn stand(self: &Arc<Self>, dead: NodeId) -> Option<Candidacy> {
        let mut state = self.state();
        let up = self.peers.iter().filter(|peer| peer.is_up()).count();
        if state.ended || state.leader != Some(dead) || !is_majority(up, self.voters.len()) {
            return None;
        }
        state.term = state.term.checked_add(1)?;
        (state.leader, state.pledged) = (None, false);
        state.under_way += 1;
        let ballot = Ballot {
            candidate: self.node,
            term: state.term,
            last: state.last,
            commit: state.committed,
        };
        // Under the lock: whoever ends this must find it in the store.
        let saved = save_vote(&self.group, &ballot);
        drop(state);
        Some(Candidacy {
            steady: Arc::clone(self),
            ballot,
            saved: Some(saved),
        })
    }

    /// Gives this follower's vote for a later term, which counts once it is on the disk. `None` if
    /// openraft should judge: logs that differ, or a candidate other than the leader although that one
    /// lives.
    pub(in super::super) fn grant(
        self: &Arc<Self>,
        ballot: &Ballot,
        is_dead: impl FnOnce(NodeId) -> bool,
    ) -> Option<Written> {
        let written = {
            let mut state = self.state();
            let leader = state.leader?;
            let grants = !state.ended
                && !self.leads()
                && ballot.term > state.term
                && ballot.last == state.last
                && (ballot.candidate == leader || is_dead(leader));
            if !grants {
                return None;
            }
            state.term = ballot.term;
            (state.leader, state.pledged) = (Some(ballot.candidate), true);
            if ballot.commit.index > state.committed.index {
                state.committed = ballot.commit;
            }
            save_vote(&self.group, ballot)
        };
        self.settle();
        Some(written)
    }
}

impl Candidacy {
    /// The term that it stands for.
    pub(in super::super) fn term(&self) -> u64 {
        self.ballot.term
    }

    /// Asks for the votes, and leads if a majority gives them. What is returned tells the followers;
    /// somebody has to run it.
    pub(in super::super) async fn campaign(mut self) -> Option<Replication> {
        let saved = self.saved.take()?;
        let steady = &self.steady;
        let (group, voters) = (&steady.group, steady.voters.len());
        let granted = ask(group, &self.ballot, saved, voters, &steady.peers).await?;
        let mut state = steady.state();
        if state.ended {
            return None;
        }
        // While this has not ended nobody else votes here, and the vote is still the one asked for.
        group.confirm_vote();
        steady.lead(&mut state, Some(&granted));
        if state.committed == state.last {
            let told = steady.tell(&mut state);
            let events: FuturesUnordered<_> = told.into_iter().collect();
            return Some(Replication::new(steady, &mut state, events));
        }
        // What an earlier leader left is committed with the first entry of this term, never before.
        let error = match steady.append(&mut state, types::BLANK) {
            Ok(replication) => return Some(replication),
            Err(error) => error,
        };
        drop(state);
        steady.store_failed(&error);
        None
    }
}

impl Drop for Candidacy {
    fn drop(&mut self) {
        self.steady.state().under_way -= 1;
    }
}

/// Asks for the leadership of a later term before this replica is open, and says who gave it, if that
/// and this node are a majority. Whatever comes of it, this node does not lead an earlier term any more.
pub(in super::super) async fn hold(
    group: &storage::Group,
    ballot: Ballot,
    voters: usize,
    peers: &[Peer],
) -> Option<Vec<NodeId>> {
    let up = peers.iter().filter(|peer| peer.is_up()).count();
    if !is_majority(up, voters) {
        return None;
    }
    let saved = save_vote(group, &ballot);
    let granted = ask(group, &ballot, saved, voters, peers).await?;
    group.confirm_vote();
    Some(granted)
}

/// Who gives the candidate their votes, if that and this node, whose own is on its way to the disk, are
/// a majority.
async fn ask(
    group: &storage::Group,
    ballot: &Ballot,
    saved: Written,
    voters: usize,
    peers: &[Peer],
) -> Option<Vec<NodeId>> {
    let body = ballot.encode(group.id().0);
    let up = peers.iter().filter(|peer| peer.is_up());
    let calls = up.map(|peer| {
        let call = peer.call(Kind::Ballot.byte(), body.clone(), BALLOT_DEADLINE);
        async move { call.await.is_ok().then_some(peer.node()) }
    });
    let (saved, answers) = join(saved.wait(), join_all(calls)).await;
    let granted: Vec<NodeId> = answers.into_iter().flatten().collect();
    // Its own vote counts from the disk only, too.
    (saved.is_ok() && is_majority(granted.len(), voters)).then_some(granted)
}

fn save_vote(group: &storage::Group, ballot: &Ballot) -> Written {
    let (done, written) = completion();
    let vote = storage::Vote {
        term: ballot.term,
        node: ballot.candidate,
        committed: false,
    };
    group.save_vote(vote, done);
    written
}
