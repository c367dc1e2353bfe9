//! A leader that is cut off from the others takes no write and answers no linearizable read. It says
//! so within twice the election timeout, and goes on with stale reads.
//!
//! Clients ask it from the cut until that bound has passed, so the answers are those of a node that
//! has not noticed yet, of one that sees nobody, and of one whose lease has ended.

use std::sync::PoisonError;
use std::time::Duration;

use accord_jepsen::world::{World, WorldOptions};
use accord_jepsen::{Api, ApiError, ChannelRef, Consistency, post_until_acknowledged};
use futures_util::future::{join, join_all};
use tokio::time::Instant;

use super::{EPISODE_WITHIN, TURN, binary};

/// Writes, and as many reads, that the cut-off node gets at a time.
const AT_ONCE: u64 = 8;
const SOON: Duration = Duration::from_secs(30);

#[test]
fn a_cut_off_leader_refuses_in_time() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    let testing = async { tokio::time::timeout(EPISODE_WITHIN, Box::pin(refuses_in_time())).await };
    runtime.block_on(testing).expect("the test ends");
}

async fn refuses_in_time() {
    let bound = election_timeout() * 2;
    let options = WorldOptions {
        binary: binary(),
        own_disks: false,
        shim: false,
        ..WorldOptions::new(3)
    };
    let world = World::start(options).await.unwrap();
    let cluster = world.cluster();
    let channel = cluster.api(1).new_channel().await.unwrap();
    let leader = cluster.api(1).leader_of(&channel, SOON).await.unwrap();
    let old = cluster.api(leader);
    old.post(&channel, "ann", "before").await.unwrap();

    world.cut_off(leader);
    let cut = Instant::now();
    let others = cluster.apis(&cluster.others(leader));
    let elsewhere = post_until_acknowledged(&others, &channel, "bob", "meanwhile", "key", SOON);
    let (refusals, elsewhere) = join(
        Box::pin(refusals(&old, &channel, cut, bound)),
        Box::pin(elsewhere),
    )
    .await;
    assert_eq!(elsewhere.unwrap().seq, 2, "the others have a new leader");
    tell(&refusals, bound);
    for refusal in &refusals {
        assert!(refusal.took < bound, "{refusal:?}");
    }

    world.heal().await.unwrap();
    let again = [old.clone()];
    post_until_acknowledged(&again, &channel, "ann", "after", "key", SOON)
        .await
        .unwrap();
    let log = old.read_all(&channel, Consistency::Linearizable).await;
    let log = log.unwrap();
    let holds = |text: &str| log.iter().any(|message| message.message == text);
    assert!(holds("before") && holds("meanwhile") && holds("after"));
    for refusal in refusals.iter().filter(|refusal| refusal.is_certain) {
        assert!(!holds(&refusal.what), "{refusal:?}");
    }
}

/// What the product uses unless it is told otherwise.
fn election_timeout() -> Duration {
    let mut lines = include_str!("../../cluster.toml").lines();
    let value = lines.find_map(|line| line.strip_prefix("election_timeout_ms = "));
    let ms = value.expect("the file has this key").parse().unwrap();
    Duration::from_millis(ms)
}

#[derive(Debug)]
struct Refusal {
    what: String,
    is_write: bool,
    /// Since the cut.
    came: Duration,
    took: Duration,
    /// What was asked for certainly did not happen.
    is_certain: bool,
}

/// Asks the cut-off node until `bound` has passed since the cut. Every answer has to be a refusal,
/// but for stale reads.
async fn refusals(old: &Api, channel: &ChannelRef, cut: Instant, bound: Duration) -> Vec<Refusal> {
    let mut refusals = Vec::new();
    while cut.elapsed() < bound {
        let round = refusals.len();
        let writes = (0..AT_ONCE).map(|number| async move {
            let text = format!("refused {round} {number}");
            let asked = Instant::now();
            let answer = old.post(channel, "ann", &text).await;
            refused(text, true, answer.err(), asked, cut)
        });
        let reads = (0..AT_ONCE).map(|_| async {
            let asked = Instant::now();
            let answer = old.messages(channel, "consistency=linearizable").await;
            refused("a read".to_owned(), false, answer.err(), asked, cut)
        });
        let stale = old.messages(channel, "consistency=stale").await.unwrap();
        assert_eq!(stale.len(), 1, "{stale:?}");
        let (writes, reads) = join(join_all(writes), join_all(reads)).await;
        refusals.extend(writes.into_iter().chain(reads));
    }
    refusals
}

fn refused(
    what: String,
    is_write: bool,
    error: Option<ApiError>,
    asked: Instant,
    cut: Instant,
) -> Refusal {
    let error = error.unwrap_or_else(|| panic!("{what:?} was answered by a node that sees nobody"));
    let ApiError::Refused { status: 503, .. } = &error else {
        panic!("{what:?} ended with {error}");
    };
    Refusal {
        what,
        is_write,
        came: cut.elapsed(),
        took: asked.elapsed(),
        is_certain: !error.outcome_unknown(),
    }
}

/// The figures for docs/fault-tests.md.
fn tell(refusals: &[Refusal], bound: Duration) {
    for (name, is_write) in [("write", true), ("linearizable read", false)] {
        let of = || {
            refusals
                .iter()
                .filter(|refusal| refusal.is_write == is_write)
        };
        let first = of().map(|refusal| refusal.came).min();
        let longest = of().map(|refusal| refusal.took).max();
        let unknown = || of().filter(|refusal| !refusal.is_certain);
        let last_unknown = unknown().map(|refusal| refusal.came).max();
        eprintln!(
            "{name}: first refused {first:?} after the cut, none took longer than {longest:?}; {} of \
             {} of unknown outcome, the last answered {last_unknown:?} after the cut; the bound is \
             {bound:?}",
            unknown().count(),
            of().count()
        );
    }
}
