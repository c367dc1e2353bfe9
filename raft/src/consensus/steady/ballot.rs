//! The election that needs no campaign: the leader of everybody's vote was restarted, and asks for a
//! new term.
//!
//! After a restart a leader must not go on in its term, because its followers may hold entries that
//! its own disk lost. But nobody else is about to lead, and what it asks for is small: that the
//! followers, who have its vote already and whose logs end where its own does, give it theirs for
//! the next term. Anything else is refused, and openraft elects: see `docs/adr/0017`.

use std::time::Duration;

use accord_storage as storage;
use futures_util::future::join;
use futures_util::future::join_all;

use super::super::log_store::completion;
use super::Ballot;
use crate::peers::Kind;
use crate::transport::NodeId;
use crate::transport::Peer;

/// How long a follower may take: it opens its replica, and brings its vote to the disk.
const BALLOT_DEADLINE: Duration = Duration::from_millis(500);

/// Asks for the leadership of `term` and says who gave it, if that and this node are a majority.
/// Whatever comes of it, this node does not lead an earlier term any more.
pub(in super::super) async fn hold(
    group: &storage::Group,
    ballot: Ballot,
    voters: usize,
    peers: &[Peer],
) -> Option<Vec<NodeId>> {
    let is_majority = |others: usize| (others + 1) * 2 > voters;
    let up: Vec<&Peer> = peers.iter().filter(|peer| peer.is_up()).collect();
    if !is_majority(up.len()) {
        return None;
    }
    let (done, saved) = completion();
    let vote = storage::Vote {
        term: ballot.term,
        node: ballot.candidate,
        committed: false,
    };
    group.save_vote(vote, done);
    let body = ballot.encode(group.id().0);
    let calls = up.into_iter().map(|peer| {
        let call = peer.call(Kind::Ballot.byte(), body.clone(), BALLOT_DEADLINE);
        async move { call.await.is_ok().then_some(peer.node()) }
    });
    let (saved, answers) = join(saved.wait(), join_all(calls)).await;
    let granted: Vec<NodeId> = answers.into_iter().flatten().collect();
    // Its own vote counts from the disk only, too.
    if saved.is_err() || !is_majority(granted.len()) {
        return None;
    }
    group.confirm_vote();
    Some(granted)
}
