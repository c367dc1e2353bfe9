//! Posts over REST to all channels through all nodes, with linearizable reads among them.

use super::rest::{PAGE_MAX, Post, Rest};
use super::{Bodies, Client};
use crate::history::{ChannelIx, Range};
use crate::rng::Rng;
use crate::workload::pace::Pace;

/// One operation in this many is a read.
const READ_EVERY: u64 = 8;
/// The longest page that is read.
const LIMIT_MAX: u64 = 120;
/// One read in this many asks for as much as a page can hold, from the beginning.
const WHOLE_EVERY: u64 = 20;

pub async fn run(mut client: Client) {
    let mut phase = client.context.phase.clone();
    let mut rest = Rest::new(client.context.clone());
    let mut bodies = Bodies::new(&client.name);
    let mut heads = vec![0_u64; client.context.channels.len()];
    // Reads come on top of the appends that the rate speaks of.
    let per_second = client.per_second * READ_EVERY as f64 / (READ_EVERY - 1) as f64;
    let share = client.rng.below(1_000) as f64 / 1_000.0;
    let mut pace = Pace::new(per_second, share, tokio::time::Instant::now());
    while pace.wait(&mut phase).await {
        let node = client.context.pick_node(&mut client.rng);
        let channel = client.context.pick_channel(&mut client.rng);
        if client.rng.below(READ_EVERY) == 0 {
            let known = heads[channel.0 as usize];
            let range = some_range(&mut client.rng, known);
            let outcome = rest.read(node, channel, true, range).await;
            note_head(&mut heads, channel, &outcome);
        } else {
            let post = Post {
                channel,
                user: client.name.clone(),
                body: bodies.next(&mut client.rng),
                // With and without a key: both are promised the same.
                key: (client.rng.below(2) == 0).then(|| format!("{}-{}", client.name, bodies.made)),
                if_head: None,
            };
            let outcome = rest.append(node, &post).await;
            note_head(&mut heads, channel, &outcome);
        }
    }
}

/// Mostly the newest messages; sometimes a stretch from the middle of what is known, and now and
/// then all from the beginning, which is what list checkers such as Elle can use.
pub fn some_range(rng: &mut Rng, head: u64) -> Range {
    let limit = u32::try_from(rng.below(LIMIT_MAX) + 1).unwrap_or(1);
    let seq = rng.below(head + 1);
    if rng.below(WHOLE_EVERY) == 0 {
        return Range::After {
            seq: 0,
            limit: PAGE_MAX,
        };
    }
    match rng.below(4) {
        0 => Range::After { seq, limit },
        1 => Range::Before {
            seq: seq.max(1),
            limit,
        },
        _ => Range::Latest { limit },
    }
}

/// Remembers the highest seq that an answer told of.
pub fn note_head(heads: &mut [u64], channel: ChannelIx, outcome: &crate::history::Outcome) {
    use crate::history::{Outcome, Value};
    let Outcome::Ok { value } = outcome else {
        return;
    };
    let told = match value {
        Value::Appended(seen) => seen.seq,
        Value::Read { head, .. } => *head,
        Value::Created(_) | Value::Listed(_) => return,
    };
    let known = &mut heads[channel.0 as usize];
    *known = (*known).max(told);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_ones_that_the_contract_allows() {
        let mut rng = Rng::new(5);
        for head in [0, 1, 7, 10_000] {
            for _ in 0..200 {
                match some_range(&mut rng, head) {
                    Range::Latest { limit } => assert!((1..=1_000).contains(&limit)),
                    Range::After { seq, limit } => {
                        assert!(seq <= head && (1..=1_000).contains(&limit));
                    }
                    Range::Before { seq, limit } => {
                        assert!((1..=head.max(1)).contains(&seq) && (1..=1_000).contains(&limit));
                    }
                }
            }
        }
    }
}
