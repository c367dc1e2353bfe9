//! One load from beginning to end: sockets are opened, threads drive them, and this one watches what
//! the nodes use meanwhile.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::sync::mpsc::RecvTimeoutError;
use std::sync::mpsc::sync_channel;
use std::time::Duration;

use super::connection::Connection;
use super::connection::Ended;
use super::plan::Plan;
use super::plan::Seating;
use super::tally::Tally;
use super::usage::Usage;
use super::worker::Worker;

/// From when all threads are there to the first message.
const START_AFTER: Duration = Duration::from_millis(200);
/// Threads that open sockets. The nodes answer each after a moment, which need not be waited for one
/// by one.
const OPENERS: usize = 16;
/// How often what has been done is shown.
const SHOW_EVERY: Duration = Duration::from_millis(250);

/// Who makes the load, and what it is watched by.
pub struct Means {
    pub threads: usize,
    /// Processes of the nodes.
    pub pids: Vec<u32>,
    /// Called when the warm-up is over.
    pub at_warm: Box<dyn FnMut(&Plan) + Send>,
    /// Called now and then with the part of the load that is over.
    pub show: Box<dyn FnMut(f64) + Send>,
}

/// What came of it.
#[derive(Debug)]
pub struct Outcome {
    pub tally: Tally,
    /// What the nodes, and this process, used in the measured time.
    pub server: Usage,
    pub client: Usage,
    /// Acknowledgements of the sender with the fewest and with the most, of each crew, from start to end.
    pub sender_acks: Vec<(u64, u64)>,
    pub kill_to_ack_ms: Option<f64>,
}

/// Makes a load. Blocks its thread until the end.
pub fn run(seating: Seating, means: Means) -> io::Result<Outcome> {
    let threads = means.threads.max(1);
    let connections = open_all(&seating)?;
    let plan = Arc::new(Plan::new(seating, threads, START_AFTER));
    let (ended, all_ended) = sync_channel(threads);
    let mut shares: Vec<Vec<Connection>> = (0..threads).map(|_| Vec::new()).collect();
    for (index, connection) in connections.into_iter().enumerate() {
        shares[index % threads].push(connection);
    }
    for share in shares {
        let (plan, ended) = (plan.clone(), ended.clone());
        let worker = Worker::new(plan, share)?;
        std::thread::Builder::new()
            .name("load".to_owned())
            .spawn(move || ended.send(worker.run()))?;
    }
    drop(ended);
    let watched = watch(&plan, means, &all_ended)?;
    Ok(summarise(&plan, watched))
}

/// What was found while the load ran.
struct Watched {
    tally: Tally,
    ended: Vec<Ended>,
    server: Usage,
    client: Usage,
}

fn watch(
    plan: &Plan,
    mut means: Means,
    all_ended: &Receiver<io::Result<(Tally, Vec<Ended>)>>,
) -> io::Result<Watched> {
    let mut tally = Tally::new(plan.seating.workload.crews.len());
    let mut ended = Vec::new();
    let (pids, mine) = (means.pids.clone(), [std::process::id()]);
    let read = || (Usage::of(&pids), Usage::of(&mine));
    let (mut at_warm, mut at_end) = (None, None);
    loop {
        let now = plan.now_ns();
        if at_warm.is_none() && now >= plan.warm_ns {
            at_warm = Some(read());
            (means.at_warm)(plan);
        }
        if at_end.is_none() && now >= plan.end_ns {
            at_end = Some(read());
        }
        (means.show)((now as f64 / plan.end_ns as f64).min(1.0));
        let next = [plan.warm_ns, plan.end_ns].into_iter();
        let next = next.filter(|at| *at > now).min().unwrap_or(u64::MAX);
        let pause = Duration::from_nanos(next.saturating_sub(now)).min(SHOW_EVERY);
        match all_ended.recv_timeout(pause) {
            Ok(result) => {
                let (counted, connections) = result?;
                tally.add(&counted);
                ended.extend(connections);
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => break,
        }
    }
    // Threads may end before this one sees the end of the measured time, but not before it.
    let last = read();
    let (server_0, client_0) = at_warm.unwrap_or(last);
    let (server_1, client_1) = at_end.unwrap_or(last);
    Ok(Watched {
        tally,
        ended,
        server: server_1.since(&server_0),
        client: client_1.since(&client_0),
    })
}

fn open_all(seating: &Seating) -> io::Result<Vec<Connection>> {
    let users = |room| (0..seating.crew_of(room).users).map(move |user| (room, user));
    let places: Vec<(usize, usize)> = (0..seating.rooms.len()).flat_map(users).collect();
    let share = places.len().div_ceil(OPENERS).max(1);
    std::thread::scope(|scope| {
        let opening: Vec<_> = places
            .chunks(share)
            .map(|places| {
                scope.spawn(move || {
                    let open =
                        |(room, user): &(usize, usize)| Connection::open(seating, *room, *user);
                    places.iter().map(open).collect::<io::Result<Vec<_>>>()
                })
            })
            .collect();
        let mut all = Vec::with_capacity(places.len());
        for thread in opening {
            let opened = thread
                .join()
                .map_err(|_| io::Error::other("a thread panicked"))?;
            all.extend(opened?);
        }
        Ok(all)
    })
}

fn summarise(plan: &Plan, watched: Watched) -> Outcome {
    let Watched {
        mut tally,
        ended,
        server,
        client,
    } = watched;
    let acked: Vec<Vec<u32>> = (0..plan.seating.rooms.len())
        .map(|room| plan.acked(room))
        .collect();
    let mut orders: Vec<Option<u64>> = vec![None; acked.len()];
    let mut sender_acks = vec![(u64::MAX, 0); tally.crews.len()];
    for connection in &ended {
        if let Some(seen) = &connection.seen {
            tally.faults.gaps += seen.gaps(&acked[connection.room]);
            let first = orders[connection.room].get_or_insert(seen.order());
            tally.faults.order_mismatches += u64::from(*first != seen.order());
        }
        if let Some((_, acked)) = connection.sent {
            let (least, most) = &mut sender_acks[connection.crew];
            *least = acked.min(*least);
            *most = acked.max(*most);
        }
    }
    Outcome {
        tally,
        server,
        client,
        sender_acks,
        kill_to_ack_ms: plan.kill_to_ack_ns().map(|nanos| nanos as f64 / 1e6),
    }
}
