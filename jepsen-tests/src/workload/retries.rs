//! Idempotent retries: the same key and body go to other nodes until one acknowledges, and
//! sometimes again after that.

use super::context::NodeAddress;
use super::pace::Pace;
use super::rest::{Post, Rest};
use super::{Bodies, Client};
use crate::history::Outcome;

/// Attempts at one message while it is not acknowledged; at 4 s each longer than any outage of a
/// run, and a bound all the same.
const ATTEMPTS_MAX: u32 = 40;
/// One acknowledged message in this many is sent again.
const AGAIN_EVERY: u64 = 3;
/// Attempts per second at a message that is refused: a refusal comes at once, and asking at that
/// rate would only load the nodes.
const ATTEMPTS_PER_SECOND: f64 = 10.0;

pub async fn run(mut client: Client) {
    let mut phase = client.context.phase.clone();
    let mut rest = Rest::new(client.context.clone());
    let mut bodies = Bodies::new(&client.name);
    let share = client.rng.below(1_000) as f64 / 1_000.0;
    let mut pace = Pace::new(client.per_second, share, tokio::time::Instant::now());
    while pace.wait(&mut phase).await {
        let body = bodies.next(&mut client.rng);
        let post = Post {
            channel: client.context.pick_channel(&mut client.rng),
            user: client.name.clone(),
            body,
            key: Some(format!("{}-{}", client.name, bodies.made)),
            if_head: None,
        };
        let Some(node) = until_acknowledged(&mut client, &mut rest, &post).await else {
            continue;
        };
        if client.rng.below(AGAIN_EVERY) == 0 {
            let other = client.context.pick_other(&mut client.rng, node.id);
            rest.append(other, &post).await;
        }
    }
}

/// The node that acknowledged; none if it was refused for good or the run's load ended.
pub async fn until_acknowledged(
    client: &mut Client,
    rest: &mut Rest,
    post: &Post,
) -> Option<NodeAddress> {
    let mut phase = client.context.phase.clone();
    let mut pace = Pace::new(ATTEMPTS_PER_SECOND, 0.0, tokio::time::Instant::now());
    let mut node = client.context.pick_node(&mut client.rng);
    for _ in 0..ATTEMPTS_MAX {
        if !pace.wait(&mut phase).await {
            return None;
        }
        match rest.append(node, post).await {
            Outcome::Ok { .. } => return Some(node),
            outcome if may_be_cured(&outcome) => {
                node = client.context.pick_other(&mut client.rng, node.id);
            }
            _ => return None,
        }
    }
    None
}

/// Whether another attempt may be acknowledged.
pub fn may_be_cured(outcome: &Outcome) -> bool {
    match outcome {
        Outcome::Ok { .. } => false,
        Outcome::Info { .. } => true,
        Outcome::Fail { status, .. } => matches!(status, None | Some(429 | 503 | 507)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_for_good_are_not_tried_again() {
        let fail = |status| Outcome::Fail {
            status,
            why: String::new(),
        };
        assert!(may_be_cured(&fail(None)));
        assert!(may_be_cured(&fail(Some(507))));
        assert!(!may_be_cured(&fail(Some(422))));
        assert!(may_be_cured(&super::super::outcome::info(None, "")));
    }
}
