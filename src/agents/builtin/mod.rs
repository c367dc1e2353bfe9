//! The agent that works without any network: `/help`, `/summary`, `/roll`, `/cancel`.
//!
//! Its answers depend on nothing but the command's job and the messages before it, so an attempt
//! that is made again, on whichever node, gives the same reply. What it does not understand it
//! answers with how it is meant.

mod roll;
mod summary;

use std::fmt::Write as _;

use super::command;
use super::config::AgentConfig;
use super::question::Line;
use super::question::Question;
use roll::Dice;

/// Messages of a summary that names no number, and the most of one that does.
const SUMMARY_DEFAULT: usize = 50;
pub const SUMMARY_MAX: usize = super::config::CONTEXT_MESSAGES_MAX;

/// What a command asks of the built-in agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    Help,
    Summary {
        messages: usize,
    },
    Roll(Dice),
    Cancel,
    /// It was not understood; this says how it is meant.
    Usage(&'static str),
}

impl Request {
    /// Understands `/roll 2d6` as well as `/accord roll 2d6`, where `accord` is the agent's name.
    pub fn parse(body: &str, agent: &str) -> Request {
        let Some(mut spoken) = command::spoken(body) else {
            return Request::Help;
        };
        if spoken.word.eq_ignore_ascii_case(agent) {
            let (word, rest) = spoken
                .rest
                .split_once(char::is_whitespace)
                .unwrap_or((spoken.rest, ""));
            spoken.word = word;
            spoken.rest = rest.trim();
        }
        match spoken.word.to_ascii_lowercase().as_str() {
            "" | "help" => Request::Help,
            "summary" => summary(spoken.rest),
            "roll" => Dice::parse(spoken.rest).map_or(Request::Usage(roll::USAGE), Request::Roll),
            "cancel" if spoken.rest.is_empty() => Request::Cancel,
            "cancel" => Request::Usage(
                "Usage: /cancel ends what this channel still waits for and was asked by you, \
                 the newest first.",
            ),
            _ => Request::Usage("I know /help, /summary, /roll and /cancel."),
        }
    }
}

fn summary(rest: &str) -> Request {
    if rest.is_empty() {
        return Request::Summary {
            messages: SUMMARY_DEFAULT,
        };
    }
    match rest.parse() {
        Ok(messages) if (1..=SUMMARY_MAX).contains(&messages) => Request::Summary { messages },
        _ => Request::Usage("Usage: /summary N, with N messages, 1 to 200; without N it is 50."),
    }
}

/// `/help`: what can be said here, agents included.
pub fn help(agents: &[AgentConfig]) -> String {
    let mut text = String::from(
        "Commands are messages that begin with a slash:\n\
         /help: this list\n\
         /summary N: the gist of the last N messages (50 if N is left out, 200 at most)\n\
         /roll 2d6: dice; /roll d20+3 adds 3\n\
         /cancel: ends the newest command of yours that still waits for its answer",
    );
    for agent in agents {
        if agent.kind == super::config::AgentKind::Builtin {
            continue;
        }
        write!(text, "\n/{} …: {}", agent.name, agent.description)
            .expect("a String takes any text");
    }
    text
}

/// `/summary N` of what came before the command.
pub fn summarize(question: &Question, messages: usize) -> String {
    let first = question.history.len().saturating_sub(messages);
    let lines: Vec<&Line> = question.history[first..].iter().collect();
    summary::of(&lines)
}

/// `/roll 2d6`. The job's id is the seed: nobody can know it before the command is sent, and every
/// attempt has the same.
pub fn roll(question: &Question, dice: &Dice) -> String {
    dice.roll(question.job.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::super::question::testing::line;
    use super::super::question::testing::question;
    use super::*;
    use proptest::prelude::*;

    #[track_caller]
    fn check(body: &str, expected: Request) {
        assert_eq!(Request::parse(body, "accord"), expected, "{body:?}");
    }

    #[test]
    fn words_are_understood_alone_and_behind_the_name() {
        check("/help", Request::Help);
        check("/accord", Request::Help);
        check("/accord HELP me", Request::Help);
        check("/summary", Request::Summary { messages: 50 });
        check("/accord summary 7", Request::Summary { messages: 7 });
        check("/Summary 200", Request::Summary { messages: 200 });
        check("/cancel", Request::Cancel);
        assert!(matches!(
            Request::parse("/roll 2d6", "accord"),
            Request::Roll(_)
        ));
        for bad in [
            "/summary 0",
            "/summary 201",
            "/summary all",
            "/summary -1",
            "/roll x",
            "/cancel it",
            "/accord dance",
        ] {
            let found = Request::parse(bad, "accord");
            assert!(matches!(found, Request::Usage(_)), "{bad}: {found:?}");
        }
    }

    #[test]
    fn an_attempt_made_again_rolls_the_same() {
        let mut question = question("/roll 10d100", vec![]);
        let Request::Roll(dice) = Request::parse("/roll 10d100", "accord") else {
            panic!("not understood");
        };
        let first = roll(&question, &dice);
        question.attempt = 2;
        assert_eq!(roll(&question, &dice), first);
        question.job = uuid::Uuid::from_u128(77);
        assert_ne!(roll(&question, &dice), first);
    }

    #[test]
    fn a_summary_takes_the_last_messages_only() {
        let history = vec![
            line(1, "ann", "Elephants are very large animals indeed."),
            line(2, "bea", "The release is planned for Friday afternoon."),
        ];
        let text = summarize(&question("/summary 1", history), 1);
        assert!(
            text.contains("Friday") && !text.contains("Elephants"),
            "{text}"
        );
    }

    proptest! {
        #[test]
        fn no_text_panics(text in any::<String>(), tail in any::<String>()) {
            let _ = Request::parse(&text, "accord");
            let _ = Request::parse(&format!("/accord {tail}"), "accord");
            let _ = Request::parse(&format!("/roll {tail}"), "accord");
        }
    }
}
