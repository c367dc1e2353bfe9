//! Sockets on nodes that live stay open when another node dies, and nothing
//! that they send is silently dropped.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use accord_jepsen::{ConnectOptions, Event, Kind, Message, Problem, Socket, wait, wait_until};

use crate::support::{SOON, assert_gapless, own_cluster, run};
use crate::writer::{Writer, assert_kept, read_whole};

/// The promise is 5 s; the rest is for a slow machine.
const ANSWER_MAX: Duration = Duration::from_secs(10);
/// The pause of a person between two messages, on a fast day.
const TYPING: Duration = Duration::from_millis(20);

/// What a client of the test saw.
struct Told {
    socket: Socket,
    acked: Vec<Message>,
    refused: Vec<(String, Problem)>,
    slowest: Duration,
}

#[test]
fn sockets_on_living_nodes_stay_open_and_every_send_is_answered() {
    run(240, async {
        let cluster = own_cluster(3).await;
        let channel = cluster.api(1).new_channel().await.unwrap();
        let leader = cluster.api(1).leader_of(&channel, SOON).await.unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let acks = Arc::new(AtomicUsize::new(0));
        let mut connected = Vec::new();
        for (number, node) in cluster
            .others(leader)
            .into_iter()
            .cycle()
            .take(10)
            .enumerate()
        {
            let username = format!("client-{number}");
            let options = ConnectOptions {
                rich: number % 4 > 1,
                ..ConnectOptions::plain(&username)
            };
            let mut socket = cluster
                .api(node)
                .connect_with(&channel, &options)
                .await
                .unwrap();
            if options.rich {
                let hello = socket.frame().await.unwrap();
                assert!(matches!(hello.kind, Kind::Hello { .. }));
            }
            connected.push((socket, options));
        }
        // All are there before anyone speaks, so all see everything.
        let mut clients = JoinSet::new();
        for (socket, options) in connected {
            let (stop, acks) = (Arc::clone(&stop), Arc::clone(&acks));
            clients.spawn(Box::pin(chat(socket, options, stop, acks)));
        }
        wait_for_acks(&acks, 200).await;
        cluster.kill(leader).unwrap();
        wait_for_acks(&acks, 300).await;
        stop.store(true, Ordering::Relaxed);

        let told = clients.join_all().await;
        let reader = cluster.api(cluster.others(leader)[0]);
        let whole = read_whole(&reader, &channel).await;
        let mut slowest = Duration::ZERO;
        for mut client in told {
            slowest = slowest.max(client.slowest);
            for message in &client.acked {
                assert_eq!(whole.get(message.seq as usize - 1), Some(message));
            }
            for (text, problem) in &client.refused {
                assert_eq!(problem.status, 503, "{problem:?}");
                let stored = whole
                    .iter()
                    .filter(|message| message.message == *text)
                    .count();
                let allowed = usize::from(problem.outcome_unknown());
                assert!(
                    stored <= allowed,
                    "{text} was refused, and is stored {stored} times"
                );
            }
            // The same socket has seen everything, without a gap.
            assert_eq!(client.socket.messages(whole.len()).await.unwrap(), whole);
        }
        eprintln!(
            "the slowest answer over the leader's death took {} ms",
            slowest.as_millis()
        );
    });
}

/// Sends until told to stop, one message at a time; each is answered in time or
/// the test fails. A refused text is not sent again, but the next one is.
async fn chat(
    mut socket: Socket,
    options: ConnectOptions,
    stop: Arc<AtomicBool>,
    acks: Arc<AtomicUsize>,
) -> Told {
    let (mut acked, mut refused) = (Vec::new(), Vec::new());
    let mut slowest = Duration::ZERO;
    for number in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let text = format!("{} says {number}", options.username);
        let nonce = format!("{}-{number}", options.username);
        let sent = Instant::now();
        if options.rich {
            socket.send_rich(&nonce, &text).await.unwrap();
        } else {
            socket.send_text(&text).await.unwrap();
        }
        let answer = tokio::time::timeout(ANSWER_MAX, socket.answer()).await;
        match answer.expect("a send is answered in time").unwrap() {
            Ok(message) => {
                assert_eq!(message.message, text);
                acked.push(message);
                acks.fetch_add(1, Ordering::Relaxed);
            }
            Err((answered, problem)) => {
                assert_eq!(answered, options.rich.then_some(nonce));
                refused.push((text, problem));
            }
        }
        slowest = slowest.max(sent.elapsed());
        wait::moment(TYPING).await;
    }
    Told {
        socket,
        acked,
        refused,
        slowest,
    }
}

async fn wait_for_acks(acks: &AtomicUsize, more: usize) {
    let wanted = acks.load(Ordering::Relaxed) + more;
    wait_until("acks", SOON * 2, || async {
        let seen = acks.load(Ordering::Relaxed);
        if seen >= wanted {
            Ok(())
        } else {
            Err(format!("{seen} of {wanted}"))
        }
    })
    .await
    .unwrap();
}

#[test]
fn a_client_of_a_dead_node_resumes_on_another_with_exactly_what_it_missed() {
    run(180, async {
        let cluster = own_cluster(3).await;
        let channel = cluster.api(1).new_channel().await.unwrap();
        let dying = cluster.api(1).leader_of(&channel, SOON).await.unwrap();
        let living = cluster.others(dying);
        let mut socket = cluster.api(dying).connect(&channel, "bea").await.unwrap();
        let writer = Writer::start(vec![cluster.api(living[0])], &channel, "ann");
        let mut seen = socket.messages(100).await.unwrap();

        cluster.kill(dying).unwrap();
        while let Event::Frame(frame) = socket.event().await.unwrap() {
            if let Kind::Message(message) = frame.kind {
                seen.push(message);
            }
        }
        // Some are missed before the client is back.
        writer.wait_more(50, SOON * 2).await;
        let after = seen.last().map_or(0, |message| message.seq);
        let options = ConnectOptions::plain("bea").after(after);
        let mut socket = cluster
            .api(living[1])
            .connect_with(&channel, &options)
            .await
            .unwrap();
        seen.extend(socket.messages(50).await.unwrap());
        writer.wait_more(50, SOON).await;
        let acked = writer.finish().await;

        let whole = read_whole(&cluster.api(living[1]), &channel).await;
        assert_kept(&whole, &acked);
        seen.extend(socket.messages(whole.len() - seen.len()).await.unwrap());
        assert_gapless(&seen, 1);
        assert_eq!(seen, whole);
    });
}
