//! Makes channels and fills them.
//!
//! In chunks: the channels of one are made, each then gets all of its messages in one pass, and the
//! chunk is written down. So few channels are awake at once, and a preparation that is cut off loses
//! one chunk.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde::Deserialize;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::bench::Bench;
use super::catalogue::{Catalogue, ChannelId, Stage};
use super::client::{ANSWER_WITHIN, Client, Failure};
use super::{BenchError, Settings};
use crate::Rng;
use crate::run::Say;

/// Channels that are written down together.
const CHUNK: u64 = 2_000;
/// A request that does not succeed within this ends the preparation.
const SUCCEED_WITHIN: Duration = Duration::from_secs(60);
/// Before a request is sent again.
const AGAIN_AFTER: Duration = Duration::from_millis(50);
/// Between two lines about the progress.
const TELL_EVERY: Duration = Duration::from_secs(5);
/// Shares are drawn as so many parts of a whole.
const SHARE_PARTS: u64 = 1_000_000;

/// Adds what is missing of the channels that the settings ask for.
pub async fn fill(
    bench: &Bench,
    catalogue: &mut Catalogue,
    settings: &Settings,
    say: Say<'_>,
) -> Result<(), BenchError> {
    let from = catalogue.count();
    if from >= settings.channels {
        say(&format!("{from} channels are there already"));
        return Ok(());
    }
    make_servers(bench, catalogue, settings.servers).await?;
    catalogue.prepared.stages.push(Stage {
        from,
        to: from,
        messages: 0,
        message_bytes: settings.message_bytes as u64,
        create_seconds: 0.0,
        write_seconds: 0.0,
        repeated: 0,
    });
    let filling = Filling::new(bench, settings);
    let mut told = Instant::now();
    let mut next = from;
    while next < settings.channels {
        let chunk = next..settings.channels.min(next + CHUNK);
        next = chunk.end;
        filling.chunk(catalogue, chunk).await?;
        if told.elapsed() >= TELL_EVERY || next == settings.channels {
            told = Instant::now();
            let open = bench.open().await?;
            say(&progress(catalogue, settings.channels, &open));
        }
    }
    Ok(())
}

async fn make_servers(
    bench: &Bench,
    catalogue: &mut Catalogue,
    count: u64,
) -> Result<(), BenchError> {
    // Where a channel belongs follows from how many there are, so their number stays.
    if !catalogue.prepared.servers.is_empty() {
        return Ok(());
    }
    for number in 0..count.max(1) {
        let made = bench
            .api(1)
            .create_server(&format!("server {number}"))
            .await;
        let server = made.map_err(|error| BenchError::request("making a server", &error))?;
        catalogue.prepared.servers.push(server.id);
    }
    Ok(())
}

fn progress(catalogue: &Catalogue, channels: u64, open: &[u64]) -> String {
    let stage = catalogue.prepared.stages.last();
    let (created, written) = stage.map_or((0.0, 0.0), |stage| {
        (stage.created_per_s(), stage.written_per_s())
    });
    format!(
        "{} of {channels} channels; {created:.0} made/s, {written:.0} messages/s; open: {open:?}",
        catalogue.count()
    )
}

/// What the workers of a preparation share.
#[derive(Clone)]
struct Filling {
    clients: Arc<Vec<Arc<Client>>>,
    seed: u64,
    messages_each: u64,
    message_bytes: usize,
    share: f64,
    workers: u64,
    repeated: Arc<AtomicU64>,
}

#[derive(Deserialize)]
struct Made {
    id: String,
}

impl Filling {
    fn new(bench: &Bench, settings: &Settings) -> Self {
        Self {
            clients: Arc::new(bench.clients().to_vec()),
            seed: settings.seed,
            messages_each: settings.messages_each,
            message_bytes: settings.message_bytes,
            share: settings.share,
            workers: settings.at_once.max(1) as u64,
            repeated: Arc::default(),
        }
    }

    async fn chunk(&self, catalogue: &mut Catalogue, chunk: Range<u64>) -> Result<(), BenchError> {
        let servers: Arc<Vec<String>> = Arc::new(catalogue.prepared.servers.clone());
        let started = Instant::now();
        let create = self.share_out(chunk.clone(), move |filling, number, node| {
            let servers = Arc::clone(&servers);
            async move { filling.create(&servers, number, node).await }
        });
        let ids = create.await?;
        let created = Instant::now();
        catalogue.append(&ids)?;
        let targets: Vec<String> = chunk
            .clone()
            .map(|number| catalogue.channel(number).messages())
            .collect();
        let (targets, first) = (Arc::new(targets), chunk.start);
        let write_started = Instant::now();
        let write = self.share_out(chunk, move |filling, number, node| {
            let targets = Arc::clone(&targets);
            async move {
                let place = usize::try_from(number - first).unwrap_or(0);
                filling.write(&targets[place], number, node).await
            }
        });
        let written: Vec<u64> = write.await?;
        if let Some(stage) = catalogue.prepared.stages.last_mut() {
            stage.create_seconds += (created - started).as_secs_f64();
            stage.write_seconds += write_started.elapsed().as_secs_f64();
            stage.messages += written.iter().sum::<u64>();
            stage.repeated = self.repeated.load(Ordering::Relaxed);
        }
        catalogue.save()
    }

    /// Lets the workers take the numbers one by one, each at a node of its own; the results are in
    /// the order of the numbers.
    async fn share_out<T, F>(
        &self,
        numbers: Range<u64>,
        job: impl Fn(Self, u64, usize) -> F + Clone + Send + 'static,
    ) -> Result<Vec<T>, BenchError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, BenchError>> + Send + 'static,
    {
        let next = Arc::new(AtomicU64::new(numbers.start));
        let mut workers = JoinSet::new();
        for worker in 0..self.workers {
            let (filling, next, job) = (self.clone(), Arc::clone(&next), job.clone());
            let node = usize::try_from(worker).unwrap_or(0) % self.clients.len();
            let end = numbers.end;
            workers.spawn(async move {
                let mut done = Vec::new();
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= end {
                        return Ok(done);
                    }
                    done.push((number, job(filling.clone(), number, node).await?));
                }
            });
        }
        let mut all = Vec::new();
        while let Some(joined) = workers.join_next().await {
            let done: Result<Vec<(u64, T)>, BenchError> =
                joined.expect("workers do not panic and are not aborted");
            all.extend(done?);
        }
        all.sort_by_key(|(number, _)| *number);
        Ok(all.into_iter().map(|(_, value)| value).collect())
    }

    async fn create(
        &self,
        servers: &[String],
        number: u64,
        node: usize,
    ) -> Result<ChannelId, BenchError> {
        let place = usize::try_from(number % servers.len() as u64).unwrap_or(0);
        let target = format!("/api/servers/{}/channels", servers[place]);
        let body = format!("{{\"name\":\"channel {number}\"}}");
        let answer = self.post(&target, &body, node, "making a channel").await?;
        let made: Result<Made, String> =
            serde_json::from_slice(&answer).map_err(|error| error.to_string());
        let id = made.and_then(|made| made.id.parse());
        id.map_err(|why| BenchError::request("making a channel", &why))
    }

    /// How many messages the channel got.
    async fn write(&self, target: &str, number: u64, node: usize) -> Result<u64, BenchError> {
        let mut rng = Rng::new(self.seed ^ number.rotate_left(32));
        if !gets_messages(&mut rng, self.share) {
            return Ok(0);
        }
        let bodies = (0..self.messages_each).map(|message| {
            let text = text(&mut rng, self.message_bytes);
            body(&format!("user {}", message % 3), &text)
        });
        // All at once, so that they share log entries and a million channels are filled in time.
        let posts = bodies.map(|body| async move {
            let posted = self.post(target, &body, node, "posting a message");
            posted.await.map(drop)
        });
        futures_util::future::try_join_all(posts).await?;
        Ok(self.messages_each)
    }

    /// Until it is acknowledged, at this node and those after it.
    async fn post(
        &self,
        target: &str,
        body: &str,
        node: usize,
        what: &str,
    ) -> Result<Vec<u8>, BenchError> {
        let started = Instant::now();
        for attempt in 0.. {
            let client = &self.clients[(node + attempt) % self.clients.len()];
            match client.post(target, body, None, ANSWER_WITHIN).await {
                Ok(answer) => return Ok(answer),
                Err(failure) if may_try_again(&failure, started) => {}
                Err(failure) => return Err(BenchError::request(what, &failure)),
            }
            self.repeated.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep_until(Instant::now() + AGAIN_AFTER).await;
        }
        unreachable!("the loop above has no end of its own")
    }
}

fn may_try_again(failure: &Failure, started: Instant) -> bool {
    failure.is_curable() && started.elapsed() < SUCCEED_WITHIN
}

fn gets_messages(rng: &mut Rng, share: f64) -> bool {
    let drawn = rng.below(SHARE_PARTS);
    (drawn as f64) < share * SHARE_PARTS as f64
}

/// Letters and digits of chance: they need no escaping, and do not compress to nothing.
pub fn text(rng: &mut Rng, bytes: usize) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut text = String::with_capacity(bytes);
    while text.len() < bytes {
        let mut bits = rng.next_u64();
        // Ten letters of six bits each are in a number.
        for _ in 0..10.min(bytes - text.len()) {
            text.push(char::from(LETTERS[(bits & 63) as usize]));
            bits >>= 6;
        }
    }
    text
}

/// Of a post; neither part may hold anything that JSON escapes.
pub fn body(username: &str, message: &str) -> String {
    format!("{{\"username\":\"{username}\",\"message\":\"{message}\"}}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_as_long_as_they_should_be_and_need_no_escaping() {
        let mut rng = Rng::new(3);
        for bytes in [1, 10, 11, 128] {
            let text = text(&mut rng, bytes);
            assert_eq!(text.len(), bytes);
            let json: serde_json::Value = serde_json::from_str(&body("ada", &text)).unwrap();
            assert_eq!(json["message"], text.as_str());
        }
        assert_ne!(text(&mut rng, 128), text(&mut rng, 128));
    }

    #[test]
    fn a_share_of_the_channels_gets_messages() {
        let got = |share| {
            let chosen = (0..10_000_u64).filter(|seed| gets_messages(&mut Rng::new(*seed), share));
            chosen.count()
        };
        assert_eq!((got(0.0), got(1.0)), (0, 10_000));
        assert!((2_000..3_000).contains(&got(0.25)));
    }
}
