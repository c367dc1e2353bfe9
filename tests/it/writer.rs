//! A client that goes on posting while a test breaks things, and the checks of
//! what it was promised.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use accord_jepsen::{
    Api, ChannelRef, Consistency, Message, TimedOut, post_until_acknowledged, wait, wait_until,
};
use tokio::task::JoinHandle;

/// One post may have to wait for a whole cluster to start.
const POST_MAX: Duration = Duration::from_secs(90);

/// Between two posts of one writer: a lively channel, and not a load test, which
/// would take the processors from the nodes whose faults are tested.
const PACE: Duration = Duration::from_millis(2);

/// An acknowledged post, and when the acknowledgement came.
#[derive(Debug, Clone)]
pub struct Acked {
    pub message: Message,
    pub at: Instant,
}

/// Posts one message after the other, each with a key of its own, repeating it
/// until it is acknowledged.
pub struct Writer {
    task: JoinHandle<Result<Vec<Acked>, TimedOut>>,
    stop: Arc<AtomicBool>,
    acked: Arc<AtomicUsize>,
    last_seq: Arc<AtomicU64>,
}

impl Writer {
    /// Begins to post through these nodes, the first one first; `username`
    /// tells writers of a channel apart.
    pub fn start(apis: Vec<Api>, channel: &ChannelRef, username: &str) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let acked = Arc::new(AtomicUsize::new(0));
        let last_seq = Arc::new(AtomicU64::new(0));
        let task = tokio::spawn(write(
            apis,
            channel.clone(),
            username.to_owned(),
            Arc::clone(&stop),
            Arc::clone(&acked),
            Arc::clone(&last_seq),
        ));
        Self {
            task,
            stop,
            acked,
            last_seq,
        }
    }

    /// Seq of the last acknowledged post; 0 before the first.
    pub fn last_seq(&self) -> u64 {
        self.last_seq.load(Ordering::Relaxed)
    }

    /// Posts acknowledged so far.
    pub fn acked(&self) -> usize {
        self.acked.load(Ordering::Relaxed)
    }

    /// Waits until `more` posts were acknowledged from now on.
    pub async fn wait_more(&self, more: usize, within: Duration) {
        let wanted = self.acked() + more;
        let reached = wait_until("acknowledged posts", within, || async {
            let acked = self.acked();
            if acked >= wanted {
                Ok(())
            } else {
                Err(format!("{acked} of {wanted}"))
            }
        })
        .await;
        if let Err(error) = reached {
            panic!("{error}");
        }
    }

    /// Ends after the post in hand; gives everything that was acknowledged.
    pub async fn finish(self) -> Vec<Acked> {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await.unwrap().unwrap()
    }
}

async fn write(
    apis: Vec<Api>,
    channel: ChannelRef,
    username: String,
    stop: Arc<AtomicBool>,
    count: Arc<AtomicUsize>,
    last_seq: Arc<AtomicU64>,
) -> Result<Vec<Acked>, TimedOut> {
    let mut acked = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let text = format!("{username} says {}", acked.len());
        let key = format!("{username}-{}", acked.len());
        let posted = post_until_acknowledged(&apis, &channel, &username, &text, &key, POST_MAX);
        let message = posted
            .await
            // Printed at once, since a test may first see that nothing comes.
            .inspect_err(|error| eprintln!("{username} gives up: {error}"))?;
        last_seq.store(message.seq, Ordering::Relaxed);
        acked.push(Acked {
            message,
            at: Instant::now(),
        });
        count.store(acked.len(), Ordering::Relaxed);
        wait::moment(PACE).await;
    }
    Ok(acked)
}

/// Posts `count` messages through these nodes, several at a time; gives them in
/// the order of seq.
pub async fn fill(apis: &[Api], channel: &ChannelRef, label: &str, count: usize) -> Vec<Message> {
    let writers: Vec<Writer> = apis
        .iter()
        .enumerate()
        .map(|(number, api)| {
            Writer::start(vec![api.clone()], channel, &format!("{label}-{number}"))
        })
        .collect();
    let share = count.div_ceil(writers.len());
    for writer in &writers {
        let missing = share.saturating_sub(writer.acked());
        writer.wait_more(missing, POST_MAX).await;
    }
    let mut messages = Vec::new();
    for writer in writers {
        messages.extend(writer.finish().await.into_iter().map(|acked| acked.message));
    }
    messages.sort_unstable_by_key(|message| message.seq);
    messages
}

/// The longest time between two acknowledgements.
pub fn longest_gap(acked: &[Acked]) -> Duration {
    acked
        .windows(2)
        .map(|two| two[1].at.duration_since(two[0].at))
        .max()
        .unwrap_or_default()
}

/// Asserts that everything acknowledged stands where it was promised, and that
/// nothing stands there twice. `read` is the whole channel, oldest first.
#[track_caller]
pub fn assert_kept(read: &[Message], acked: &[Acked]) {
    for Acked { message, .. } in acked {
        let position = usize::try_from(message.seq - 1).unwrap();
        assert_eq!(read.get(position), Some(message), "an acknowledged message");
    }
    let mut met = HashSet::new();
    for message in read {
        assert!(
            met.insert((&message.username, &message.message)),
            "twice: {message:?}"
        );
    }
    assert!(
        read.windows(2)
            .all(|two| two[0].timestamp <= two[1].timestamp)
    );
}

/// The whole channel, read until a node answers.
pub async fn read_whole(api: &Api, channel: &ChannelRef) -> Vec<Message> {
    wait_until("a linearizable read", POST_MAX, || async {
        api.read_all(channel, Consistency::Linearizable)
            .await
            .map_err(|error| error.to_string())
    })
    .await
    .unwrap()
}

/// Waits until this node's own applied state is the whole channel.
pub async fn wait_level(api: &Api, channel: &ChannelRef, whole: &[Message]) {
    let level = wait_until("a node to be level", POST_MAX, || async {
        match api.read_all(channel, Consistency::Stale).await {
            Ok(read) if read == whole => Ok(()),
            Ok(read) if read.len() < whole.len() => {
                Err(format!("{} of {} messages", read.len(), whole.len()))
            }
            Ok(read) => {
                let differing = read.iter().zip(whole).find(|(one, other)| one != other);
                panic!(
                    "a replica differs: {differing:?}, lengths {} {}",
                    read.len(),
                    whole.len()
                )
            }
            Err(error) => Err(error.to_string()),
        }
    })
    .await;
    if let Err(error) = level {
        panic!("node {}: {error}", api.node());
    }
}

mod planted {
    //! The checks above are trusted because they catch what is planted here.

    use super::*;

    fn message(seq: u64, text: &str) -> Message {
        Message {
            id: format!("id-{seq}"),
            seq,
            timestamp: 1_000 + seq,
            username: "ann".to_owned(),
            message: text.to_owned(),
            reply_to: None,
            agent: None,
        }
    }

    fn acked(messages: &[Message]) -> Vec<Acked> {
        let at = Instant::now();
        let each = messages.iter().cloned();
        each.map(|message| Acked { message, at }).collect()
    }

    #[test]
    fn a_whole_history_passes() {
        let whole = [message(1, "a"), message(2, "b"), message(3, "c")];
        assert_kept(&whole, &acked(&whole[..2]));
    }

    #[test]
    #[should_panic(expected = "an acknowledged message")]
    fn a_lost_message_is_caught() {
        let whole = [message(1, "a"), message(2, "b")];
        assert_kept(&whole[..1], &acked(&whole));
    }

    #[test]
    #[should_panic(expected = "an acknowledged message")]
    fn a_message_that_changed_its_place_is_caught() {
        let whole = [message(1, "a"), message(2, "b")];
        assert_kept(&[message(1, "b"), message(2, "a")], &acked(&whole));
    }

    #[test]
    #[should_panic(expected = "twice")]
    fn a_message_that_stands_there_twice_is_caught() {
        assert_kept(&[message(1, "a"), message(2, "a")], &[]);
    }

    #[test]
    #[should_panic]
    fn a_clock_that_goes_back_is_caught() {
        let mut whole = [message(1, "a"), message(2, "b")];
        whole[1].timestamp = 0;
        assert_kept(&whole, &[]);
    }
}
