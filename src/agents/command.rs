//! Which messages are commands, and of whom. Pure.
//!
//! A message is a command if it begins with a slash and a word, and the word is the name of an
//! agent of this node or, where there is a built-in agent, one of its own [`WORDS`]. Everything
//! else that begins with a slash is an ordinary message, as in any chat: `/etc/hosts`, `/shrug`.

use super::config::AgentConfig;
use super::config::AgentKind;

/// What the built-in agent understands; no agent may have such a name.
pub const WORDS: [&str; 4] = ["help", "summary", "roll", "cancel"];

/// A message split after its first word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spoken<'a> {
    /// Without the slash, as it was written.
    pub word: &'a str,
    /// What follows, without white space around it.
    pub rest: &'a str,
}

/// Splits a message that looks like a command.
pub fn spoken(body: &str) -> Option<Spoken<'_>> {
    let after = body.strip_prefix('/')?;
    let end = after.find(char::is_whitespace).unwrap_or(after.len());
    let (word, rest) = after.split_at(end);
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    if word.is_empty() || !word.chars().all(plain) {
        return None;
    }
    Some(Spoken {
        word,
        rest: rest.trim(),
    })
}

/// The agent that a message calls. Words are understood in any case.
pub fn called<'a>(agents: &'a [AgentConfig], body: &str) -> Option<&'a AgentConfig> {
    let word = spoken(body)?.word;
    let named = |agent: &&AgentConfig| agent.name.eq_ignore_ascii_case(word);
    agents.iter().find(named).or_else(|| {
        let known = WORDS.iter().any(|known| known.eq_ignore_ascii_case(word));
        let builtin = |agent: &&AgentConfig| agent.kind == AgentKind::Builtin;
        agents.iter().filter(|_| known).find(builtin)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agents::retry::RetryPolicy;
    use proptest::prelude::*;
    use std::time::Duration;

    fn agent(name: &str) -> AgentConfig {
        AgentConfig {
            name: name.to_owned(),
            description: String::new(),
            kind: AgentKind::Builtin,
            retry: RetryPolicy {
                attempts_max: 1,
                backoff: Duration::ZERO,
                backoff_max: Duration::ZERO,
            },
            concurrency: 1,
        }
    }

    #[track_caller]
    fn calls(body: &str, expected: Option<&str>) {
        let agents = [agent("accord")];
        let found = called(&agents, body).map(|agent| agent.name.as_str());
        assert_eq!(found, expected, "{body:?}");
    }

    #[test]
    fn commands_begin_with_a_slash_and_a_known_word() {
        calls("/accord", Some("accord"));
        calls("/accord help", Some("accord"));
        calls("/HELP", Some("accord"));
        calls("/roll\t2d6", Some("accord"));
        calls("/summary\n20", Some("accord"));
        calls("/cancel", Some("accord"));
        for other in [
            "help",
            " /help",
            "/",
            "//help",
            "/ help",
            "/helpme",
            "/etc/hosts",
            "/roll!",
            "/é",
            "/accordé",
        ] {
            calls(other, None);
        }
        assert_eq!(called(&[], "/help"), None);
    }

    #[test]
    fn what_follows_is_trimmed() {
        let spoken = spoken("/ask   why \n").unwrap();
        assert_eq!((spoken.word, spoken.rest), ("ask", "why"));
    }

    proptest! {
        #[test]
        fn no_text_panics(text in any::<String>()) {
            let _ = spoken(&text);
            let _ = spoken(&format!("/{text}"));
        }
    }
}
