//! Load at a fixed rate: open loop.
//!
//! Each request has its time on a grid that was fixed before the first was sent, and its latency is
//! counted from that time. Whatever delays a request, be it the node, this program or the requests
//! before it, shows; a client that waits for its answers would ask less where it is slow, and hide
//! it (coordinated omission).

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::client::Failure;

/// Slots that are due and were not taken yet. When there are more the pacing thread waits, and the
/// latencies, which count from the grid, grow.
const SLOTS_WAITING_MAX: usize = 4_096;
/// Requests under way. Each has a connection, of which a node takes 4,096.
pub const IN_FLIGHT_MAX: usize = 2_000;

/// The grid.
#[derive(Debug, Clone, Copy)]
pub struct Schedule {
    pub per_second: f64,
    /// None for no end.
    pub count: Option<u64>,
}

impl Schedule {
    /// Since the start.
    pub fn due(&self, number: u64) -> Duration {
        Duration::from_secs_f64(number as f64 / self.per_second)
    }
}

/// A place on the grid.
#[derive(Debug, Clone, Copy)]
pub struct Slot {
    pub number: u64,
    pub due: Instant,
}

/// The places whose time has come. A thread of its own waits for them: tokio's timers count whole
/// milliseconds, which is as long as what is measured here.
#[derive(Debug)]
pub struct Slots {
    schedule: Schedule,
    start: Instant,
    numbers: mpsc::Receiver<u64>,
    stopped: Arc<AtomicBool>,
}

impl Slots {
    pub fn start(schedule: Schedule) -> io::Result<Self> {
        let (sender, numbers) = mpsc::channel(SLOTS_WAITING_MAX);
        let stopped = Arc::new(AtomicBool::new(false));
        let start = Instant::now();
        let watched = Arc::clone(&stopped);
        thread::Builder::new()
            .name("pace".to_owned())
            .spawn(move || tick(schedule, start, &sender, &watched))?;
        Ok(Self {
            schedule,
            start,
            numbers,
            stopped,
        })
    }

    pub async fn next(&mut self) -> Option<Slot> {
        let number = self.numbers.recv().await?;
        Some(Slot {
            number,
            due: self.start + self.schedule.due(number),
        })
    }

    /// What ends the slots before their time, from anywhere.
    pub fn stopper(&self) -> Stopper {
        Stopper(Arc::clone(&self.stopped))
    }
}

#[derive(Debug)]
pub struct Stopper(Arc<AtomicBool>);

impl Drop for Stopper {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn tick(schedule: Schedule, start: Instant, sender: &mpsc::Sender<u64>, stopped: &AtomicBool) {
    for number in 0..schedule.count.unwrap_or(u64::MAX) {
        let due = start + schedule.due(number);
        loop {
            let wait = due.saturating_duration_since(Instant::now());
            if wait.is_zero() {
                break;
            }
            thread::park_timeout(wait);
        }
        if stopped.load(Ordering::Relaxed) || sender.blocking_send(number).is_err() {
            return;
        }
    }
}

/// What became of one request.
#[derive(Debug)]
pub enum Ended {
    Acknowledged,
    /// Nothing was sent: it is not this slot's turn any more.
    Skipped,
    Failed(Failure),
}

#[derive(Debug)]
pub struct Shot {
    pub due: Instant,
    /// From when it was due to its answer.
    pub took: Duration,
    pub ended: Ended,
}

/// Does `job` for each slot as it comes, and does not wait for one before the next.
pub async fn open_loop<F>(slots: &mut Slots, job: impl Fn(Slot) -> F) -> Vec<Shot>
where
    F: Future<Output = Ended> + Send + 'static,
{
    let places = Arc::new(Semaphore::new(IN_FLIGHT_MAX));
    let mut under_way = JoinSet::new();
    let mut shots = Vec::new();
    while let Some(slot) = slots.next().await {
        let place = Arc::clone(&places).acquire_owned().await;
        let place = place.expect("the semaphore is never closed");
        let work = job(slot);
        under_way.spawn(async move {
            let ended = work.await;
            let took = slot.due.elapsed();
            drop(place);
            Shot {
                due: slot.due,
                took,
                ended,
            }
        });
        while let Some(joined) = under_way.try_join_next() {
            shots.push(joined.expect("jobs do not panic and are not aborted"));
        }
    }
    shots.extend(under_way.join_all().await);
    shots
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    #[test]
    fn the_grid_does_not_drift() {
        let schedule = Schedule {
            per_second: 3.0,
            count: None,
        };
        assert_eq!(schedule.due(0), Duration::ZERO);
        assert_eq!(schedule.due(3), Duration::from_secs(1));
        assert_eq!(schedule.due(3_000_000), Duration::from_secs(1_000_000));
    }

    #[tokio::test]
    async fn slots_come_in_order_and_never_early() {
        let mut slots = Slots::start(Schedule {
            per_second: 1_000.0,
            count: Some(20),
        })
        .unwrap();
        let mut seen = Vec::new();
        while let Some(slot) = slots.next().await {
            assert!(slot.due <= Instant::now());
            seen.push(slot.number);
        }
        assert_eq!(seen, (0..20).collect::<Vec<_>>());
    }

    #[tokio::test]
    async fn a_grid_without_end_ends_when_it_is_stopped() {
        let mut slots = Slots::start(Schedule {
            per_second: 1_000.0,
            count: None,
        })
        .unwrap();
        let stopper = slots.stopper();
        slots.next().await.unwrap();
        drop(stopper);
        while slots.next().await.is_some() {}
    }

    #[tokio::test]
    async fn a_slow_answer_delays_nobody_and_counts_from_its_slot() {
        let mut slots = Slots::start(Schedule {
            per_second: 1_000.0,
            count: Some(10),
        })
        .unwrap();
        let (open, gate) = tokio::sync::watch::channel(());
        let open = Arc::new(Mutex::new(Some(open)));
        // The first is answered only after the last was asked.
        let shots = open_loop(&mut slots, |slot| {
            let (open, mut gate) = (Arc::clone(&open), gate.clone());
            async move {
                match slot.number {
                    0 => assert!(gate.changed().await.is_err(), "the gate is dropped"),
                    9 => drop(open.lock().unwrap().take()),
                    _ => {}
                }
                Ended::Acknowledged
            }
        })
        .await;
        assert_eq!(shots.len(), 10);
        let slowest = shots.iter().map(|shot| shot.took).max().unwrap();
        assert!(slowest >= Duration::from_millis(9), "{slowest:?}");
    }
}
