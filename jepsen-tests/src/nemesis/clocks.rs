//! Wall clocks that jump or run at a wrong rate.

use std::time::{Duration, SystemTime};

use crate::wait::moment;
use crate::world::shim::Done;

use super::strike::{Strike, StrikeError, Struck, judged, listed};

/// Jumps are of 2^0 to 2^14 seconds, which is some four and a half hours.
const JUMP_SECONDS_LOG2_MAX: u64 = 14;
const SKEW_PPM: (u64, u64) = (5_000, 100_000);
/// A strobe changes the clock this often.
const STROBE: Duration = Duration::from_millis(150);

/// Sets the clocks of some nodes forward or back, each by its own amount; every third time, again
/// and again.
pub async fn jump(strike: &mut Strike<'_>) -> Result<Struck, StrikeError> {
    let victims = some(strike);
    let strobe = strike.rng.below(3) == 0;
    let offsets: Vec<i64> = victims.iter().map(|_| offset_ns(strike)).collect();
    let before = done(strike, &victims)?;
    strike.begin();
    set(strike, &victims, &offsets)?;
    let mut jumps = 1;
    if strobe {
        let mut left = strike.step.lasts;
        let right = vec![0; victims.len()];
        while left > STROBE {
            moment(STROBE).await;
            left -= STROBE;
            let offsets = if jumps % 2 == 0 { &offsets } else { &right };
            set(strike, &victims, offsets)?;
            jumps += 1;
        }
    }
    strike.last(strike.step.lasts).await;
    let after = done(strike, &victims)?;
    let seconds: Vec<String> = offsets
        .iter()
        .map(|ns| format!("{:+} s", ns / 1_000_000_000))
        .collect();
    Ok(Struck {
        detail: format!(
            "the clocks of {} were set by {}, {jumps} changes",
            listed(&victims),
            seconds.join(", ")
        ),
        bite: shifted(&victims, &before, &after),
        nodes: victims,
    })
}

/// Lets the clocks of some nodes run fast or slow.
pub async fn skew(strike: &mut Strike<'_>) -> Result<Struck, StrikeError> {
    let victims = some(strike);
    let before = done(strike, &victims)?;
    let mut rates = Vec::new();
    strike.begin();
    for node in &victims {
        let (least, most) = SKEW_PPM;
        let ppm = least + strike.rng.below(most - least + 1);
        let ppm = i64::try_from(ppm).expect("at most a hundred thousand");
        let ppm = if strike.rng.below(2) == 0 { ppm } else { -ppm };
        strike.clock_of(*node)?.set_clock(0, ppm, true_now_ns())?;
        let sign = if ppm < 0 { '-' } else { '+' };
        let tenths = ppm.abs() / 1_000;
        rates.push(format!("{sign}{}.{} %", tenths / 10, tenths % 10));
    }
    strike.last(strike.step.lasts).await;
    let after = done(strike, &victims)?;
    Ok(Struck {
        detail: format!(
            "the clocks of {} were off by {}",
            listed(&victims),
            rates.join(", ")
        ),
        bite: shifted(&victims, &before, &after),
        nodes: victims,
    })
}

/// One to all nodes, one most often.
fn some(strike: &mut Strike<'_>) -> Vec<u64> {
    let mut nodes = strike.shuffled();
    let bound = nodes.len() as u64;
    let count = 1 + strike.rng.below(bound).min(strike.rng.below(bound));
    nodes.truncate(usize::try_from(count).expect("a number of nodes"));
    nodes
}

fn offset_ns(strike: &mut Strike<'_>) -> i64 {
    let seconds = 1_i64 << strike.rng.below(JUMP_SECONDS_LOG2_MAX + 1);
    let sign = if strike.rng.below(2) == 0 { 1 } else { -1 };
    sign * seconds * 1_000_000_000
}

fn set(strike: &mut Strike<'_>, victims: &[u64], offsets: &[i64]) -> Result<(), StrikeError> {
    for (node, offset) in victims.iter().zip(offsets) {
        strike.clock_of(*node)?.set_clock(*offset, 0, 0)?;
    }
    Ok(())
}

fn done(strike: &mut Strike<'_>, victims: &[u64]) -> Result<Vec<Done>, StrikeError> {
    let done = |node: &u64| Ok(strike.clock_of(*node)?.done()?);
    victims.iter().map(done).collect()
}

/// Every victim must have read its clock while it was wrong.
fn shifted(victims: &[u64], before: &[Done], after: &[Done]) -> crate::history::Bite {
    let reads: Vec<u64> = before
        .iter()
        .zip(after)
        .map(|(before, after)| after.clock_reads_shifted - before.clock_reads_shifted)
        .collect();
    judged(
        reads.iter().all(|reads| *reads > 0),
        format!(
            "{} read a wrong time {} times",
            listed(victims),
            listed(&reads)
        ),
    )
}

#[expect(
    clippy::disallowed_methods,
    reason = "the rate of a node's wall clock counts from the true wall time"
)]
fn true_now_ns() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    i64::try_from(since.unwrap_or_default().as_nanos()).unwrap_or(i64::MAX)
}
