//! What an agent is asked: the command, and as much of the channel before it as fits. Pure.

use uuid::Uuid;

use super::config::ContextConfig;

/// One message, as agents are shown it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    pub id: Uuid,
    pub seq: u64,
    pub timestamp_ms: u64,
    pub username: String,
    pub body: String,
    /// The agent whose reply it is.
    pub agent: Option<String>,
    pub reply_to: Option<Uuid>,
}

/// One attempt's question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// The same in all attempts.
    pub job: Uuid,
    /// Counted from 1.
    pub attempt: u32,
    pub channel: Uuid,
    /// Who is asked.
    pub agent: String,
    pub command: Line,
    /// What came before the command, oldest first.
    pub history: Vec<Line>,
}

/// What tokens a text comes to, by estimate: one for each four bytes of UTF-8, rounded up, and four
/// for the message around it. That is about right for English and too much for most other
/// languages, so the bound errs on the side of sending less.
pub fn tokens_of(text: &str) -> usize {
    text.len().div_ceil(4) + 4
}

/// The newest messages that fit beside what is sent in any case (`fixed_tokens`).
pub fn fitting<'a>(history: &'a [Line], fixed_tokens: usize, config: &ContextConfig) -> &'a [Line] {
    let mut left = config.tokens_max.saturating_sub(fixed_tokens);
    let mut first = history.len();
    for line in history.iter().rev().take(config.messages_max) {
        let tokens = tokens_of(&line.body) + line.username.len().div_ceil(4);
        // The first one that does not fit ends it: a conversation with holes misleads.
        let Some(rest) = left.checked_sub(tokens) else {
            break;
        };
        left = rest;
        first -= 1;
    }
    &history[first..]
}

#[cfg(test)]
pub mod testing {
    use super::*;

    /// A message with this seq.
    pub fn line(seq: u64, username: &str, body: &str) -> Line {
        Line {
            id: Uuid::from_u128(seq.into()),
            seq,
            timestamp_ms: 1_700_000_000_000 + seq,
            username: username.to_owned(),
            body: body.to_owned(),
            agent: None,
            reply_to: None,
        }
    }

    pub fn question(body: &str, history: Vec<Line>) -> Question {
        let command = line(history.len() as u64 + 1, "ann", body);
        Question {
            job: command.id,
            attempt: 1,
            channel: Uuid::from_u128(99),
            agent: "ask".to_owned(),
            command,
            history,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::testing::line;
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_newest_that_fit_are_taken(
            sizes in prop::collection::vec(0..200_usize, 0..20),
            messages_max in 0..20_usize,
            tokens_max in 0..600_usize,
            fixed in 0..100_usize,
        ) {
            let lines: Vec<Line> = sizes
                .iter()
                .enumerate()
                .map(|(seq, size)| line(seq as u64 + 1, "ann", &"x".repeat(*size)))
                .collect();
            let config = ContextConfig { messages_max, tokens_max };
            let taken = fitting(&lines, fixed, &config);
            let tokens = |line: &Line| tokens_of(&line.body) + 1;
            let sum: usize = taken.iter().map(tokens).sum();
            prop_assert!(taken.is_empty() || sum + fixed <= tokens_max);
            prop_assert!(taken.len() <= messages_max);
            prop_assert!(lines.ends_with(taken));
            let left = lines.len() - taken.len();
            if left > 0 && taken.len() < messages_max {
                prop_assert!(sum + tokens(&lines[left - 1]) + fixed > tokens_max);
            }
        }
    }
}
