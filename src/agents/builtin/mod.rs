//! The agent that works without any network: `/help`, `/summary`, `/roll`, `/cancel`.
//!
//! Dice and summaries depend on nothing but the command's job and the messages before it, so an
//! attempt that is made again, on whichever node, gives the same reply. What it does not understand
//! it answers with how it is meant.

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
const SUMMARY_MAX: usize = super::config::CONTEXT_MESSAGES_MAX;
/// Most bytes of messages that a summary looks at: all of its work is in proportion to them, and at
/// least one message fits, since none may be longer.
const SUMMARY_BYTES_MAX: usize = 256 << 10;

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
                "Usage: /cancel ends all commands of yours that this channel still waits for; \
                 sent as a reply to one it ends that one.",
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
         /cancel: ends all commands of yours that still wait for an answer; as a reply, that one",
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

/// `/summary N` of what came before the command: of the newest messages that fit into
/// [`SUMMARY_BYTES_MAX`].
pub fn summarize(question: &Question, messages: usize) -> String {
    let asked = question.history.len().min(messages);
    let mut left = SUMMARY_BYTES_MAX;
    let fits = |line: &&Line| match left.checked_sub(line.body.len()) {
        Some(rest) => {
            left = rest;
            true
        }
        None => false,
    };
    let newest = question.history.iter().rev().take(asked);
    let mut lines: Vec<&Line> = newest.take_while(fits).collect();
    lines.reverse();
    let mut text = summary::of(&lines);
    if lines.len() < asked {
        let kib = SUMMARY_BYTES_MAX >> 10;
        write!(
            text,
            "\n(Only the newest {} of {asked} messages were read: {kib} KiB of text at most.)",
            lines.len()
        )
        .expect("a String takes any text");
    }
    text
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

    #[test]
    fn a_summary_reads_so_much_and_says_when_that_is_not_all() {
        let long = "Elephants are very large animals indeed. ".repeat(1_000);
        let mut history: Vec<Line> = (1..=10).map(|seq| line(seq, "ann", &long)).collect();
        history.push(line(
            11,
            "bea",
            "The release is planned for Friday afternoon.",
        ));
        let read = SUMMARY_BYTES_MAX / long.len() + 1;
        let question = question("/summary 200", history);
        let text = summarize(&question, 200);
        let note = format!("(Only the newest {read} of 11 messages were read: 256 KiB of text");
        assert!(text.contains("Friday") && text.contains(&note), "{text}");
        assert!(
            text.starts_with(&format!("Summary of {read} messages")),
            "{text}"
        );
        let all = summarize(&question, read);
        assert!(!all.contains("Only the newest"), "{all}");
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
