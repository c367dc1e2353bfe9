//! `[[agent]]` of `cluster.toml`, checked: what a node needs to know to call an agent.
//!
//! Errors name the agent and the key. A key that has no meaning for the agent's kind is an error
//! too, since whoever wrote it meant something by it.
//!
//! The nodes of a cluster should be given the same agents, but they do not compare them: a new
//! model or another key must not need all nodes to stop at once. What a difference does is
//! bounded: a job names its agent, and a leader that does not know that agent lets the job wait for
//! its next attempt, as if the agent had not answered (docs/adr/0020).

use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

use super::command::WORDS;
use super::endpoint::Endpoint;
use super::retry::RetryPolicy;
use super::secret::SecretSource;
use crate::config::ConfigError;
use crate::config::file::invalid;
use crate::config::file::within;

/// Most agents of a node: each has its own metrics.
const AGENTS_MAX: usize = 32;
/// Most characters of a name: it is the username of the replies.
const NAME_CHARS_MAX: usize = 32;
const DESCRIPTION_CHARS_MAX: usize = 200;
const SYSTEM_PROMPT_BYTES_MAX: usize = 64 << 10;
const MODEL_CHARS_MAX: usize = 200;
/// Most messages that an agent is given besides the command.
pub const CONTEXT_MESSAGES_MAX: usize = 200;

/// One `[[agent]]` as serde sees it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AgentSection {
    pub name: String,
    pub kind: String,
    pub description: Option<String>,
    pub base_url: Option<String>,
    pub url: Option<String>,
    pub model: Option<String>,
    pub api_key_env: Option<String>,
    pub api_key_file: Option<PathBuf>,
    pub secret_env: Option<String>,
    pub secret_file: Option<PathBuf>,
    pub system_prompt: Option<String>,
    pub stream: Option<bool>,
    pub reply_tokens_max: Option<u32>,
    pub context_messages: Option<usize>,
    pub context_tokens_max: Option<usize>,
    pub timeout_ms: Option<u64>,
    pub connect_timeout_ms: Option<u64>,
    pub first_byte_timeout_ms: Option<u64>,
    pub idle_timeout_ms: Option<u64>,
    pub attempts_max: Option<u32>,
    pub backoff_ms: Option<u64>,
    pub backoff_max_ms: Option<u64>,
    pub concurrency: Option<usize>,
}

/// An agent that can be called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentConfig {
    /// Lower-case letters, digits, hyphens and underscores, a letter first.
    pub name: String,
    pub description: String,
    pub kind: AgentKind,
    pub retry: RetryPolicy,
    /// Attempts of this agent that a node runs at a time.
    pub concurrency: usize,
}

/// What answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AgentKind {
    Builtin,
    OpenAi(OpenAiConfig),
    Webhook(WebhookConfig),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenAiConfig {
    /// Of `chat/completions` itself.
    pub endpoint: Endpoint,
    pub model: String,
    pub api_key: Option<SecretSource>,
    pub system_prompt: Option<String>,
    /// Whether to ask for the answer in pieces.
    pub stream: bool,
    pub reply_tokens_max: Option<u32>,
    pub context: ContextConfig,
    pub timeouts: Timeouts,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WebhookConfig {
    pub endpoint: Endpoint,
    pub secret: SecretSource,
    pub context: ContextConfig,
    pub timeouts: Timeouts,
}

/// How much of the channel an agent is shown besides the command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ContextConfig {
    pub messages_max: usize,
    /// By estimate, see `context.rs`.
    pub tokens_max: usize,
}

/// How long the parts of an attempt may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// All of it.
    pub total: Duration,
    /// Until there is a connection, TLS included.
    pub connect: Duration,
    /// From then until the head of the answer.
    pub first_byte: Duration,
    /// Between two pieces of the answer.
    pub idle: Duration,
}

impl AgentKind {
    /// As `kind` in the file and in the API.
    pub fn name(&self) -> &'static str {
        match self {
            AgentKind::Builtin => "builtin",
            AgentKind::OpenAi(_) => "openai",
            AgentKind::Webhook(_) => "webhook",
        }
    }

    /// Whether somebody outside this node is asked.
    pub fn is_outward(&self) -> bool {
        match self {
            AgentKind::Builtin => false,
            AgentKind::OpenAi(_) | AgentKind::Webhook(_) => true,
        }
    }
}

/// Checks all of them, and that they get along.
pub fn check_agents(sections: Vec<AgentSection>) -> Result<Vec<AgentConfig>, ConfigError> {
    if sections.len() > AGENTS_MAX {
        let reason = format!("may appear {AGENTS_MAX} times at most");
        return Err(invalid("agent", reason));
    }
    let mut agents: Vec<AgentConfig> = Vec::with_capacity(sections.len());
    for section in sections {
        let agent = check(section)?;
        if agents.iter().any(|other| other.name == agent.name) {
            return Err(invalid(
                "agent",
                format!("has name \"{}\" twice", agent.name),
            ));
        }
        let builtin = |agent: &AgentConfig| agent.kind == AgentKind::Builtin;
        if builtin(&agent) && agents.iter().any(builtin) {
            return Err(invalid("agent", "may have kind \"builtin\" once only"));
        }
        agents.push(agent);
    }
    Ok(agents)
}

fn check(section: AgentSection) -> Result<AgentConfig, ConfigError> {
    check_name(&section.name)?;
    let keys = Keys(&section.name);
    let kind = match section.kind.as_str() {
        "builtin" => {
            keys.none_of(
                &section,
                "builtin",
                &[OPENAI_KEYS, WEBHOOK_KEYS, OUTWARD_KEYS],
            )?;
            AgentKind::Builtin
        }
        "openai" => {
            keys.none_of(&section, "openai", &[WEBHOOK_KEYS])?;
            AgentKind::OpenAi(openai(&keys, &section)?)
        }
        "webhook" => {
            keys.none_of(&section, "webhook", &[OPENAI_KEYS])?;
            AgentKind::Webhook(webhook(&keys, &section)?)
        }
        _ => {
            let reason = "must be \"builtin\", \"openai\" or \"webhook\"";
            return Err(keys.invalid("kind", reason));
        }
    };
    let description = section.description.clone().unwrap_or_else(|| match kind {
        AgentKind::Builtin => "Built in: works without any network.".to_owned(),
        AgentKind::OpenAi(ref openai) => format!("Asks the model {}.", openai.model),
        AgentKind::Webhook(_) => "Asks another service.".to_owned(),
    });
    keys.text("description", &description, DESCRIPTION_CHARS_MAX)?;
    Ok(AgentConfig {
        retry: retry(&keys, &section)?,
        concurrency: keys.number("concurrency", section.concurrency, 8, 1..=256)?,
        name: section.name,
        description,
        kind,
    })
}

fn openai(keys: &Keys<'_>, section: &AgentSection) -> Result<OpenAiConfig, ConfigError> {
    let base = keys.endpoint("base_url", section.base_url.as_deref())?;
    let endpoint = base
        .below("chat/completions")
        .map_err(|error| keys.invalid("base_url", error.to_string()))?;
    let model = keys.required("model", section.model.clone())?;
    keys.text("model", &model, MODEL_CHARS_MAX)?;
    let prompt = section.system_prompt.as_deref().unwrap_or_default();
    if prompt.len() > SYSTEM_PROMPT_BYTES_MAX {
        let reason = format!("must have {SYSTEM_PROMPT_BYTES_MAX} bytes at most");
        return Err(keys.invalid("system_prompt", reason));
    }
    if let Some(tokens) = section.reply_tokens_max {
        keys.number("reply_tokens_max", Some(tokens), 0, 1..=1_000_000)?;
    }
    Ok(OpenAiConfig {
        endpoint,
        model,
        api_key: keys.secret(
            ["api_key_env", "api_key_file"],
            section.api_key_env.as_ref(),
            section.api_key_file.as_ref(),
        )?,
        system_prompt: (!prompt.trim().is_empty()).then(|| prompt.to_owned()),
        stream: section.stream.unwrap_or(true),
        reply_tokens_max: section.reply_tokens_max,
        context: context(keys, section)?,
        timeouts: timeouts(keys, section)?,
    })
}

fn webhook(keys: &Keys<'_>, section: &AgentSection) -> Result<WebhookConfig, ConfigError> {
    let secret = keys.secret(
        ["secret_env", "secret_file"],
        section.secret_env.as_ref(),
        section.secret_file.as_ref(),
    )?;
    Ok(WebhookConfig {
        endpoint: keys.endpoint("url", section.url.as_deref())?,
        // Without a signature anybody who finds the URL could speak for this cluster.
        secret: keys.required("secret_env", secret)?,
        context: context(keys, section)?,
        timeouts: timeouts(keys, section)?,
    })
}

fn context(keys: &Keys<'_>, section: &AgentSection) -> Result<ContextConfig, ConfigError> {
    let messages = section.context_messages;
    let tokens = section.context_tokens_max;
    Ok(ContextConfig {
        messages_max: keys.number("context_messages", messages, 20, 0..=CONTEXT_MESSAGES_MAX)?,
        tokens_max: keys.number("context_tokens_max", tokens, 4_000, 100..=1_000_000)?,
    })
}

fn timeouts(keys: &Keys<'_>, section: &AgentSection) -> Result<Timeouts, ConfigError> {
    let total = keys.number("timeout_ms", section.timeout_ms, 30_000, 100..=3_600_000)?;
    let within_total = 50..=total.max(50);
    let part = |key, value, default: u64| {
        let value = keys.number(key, value, default.min(total), within_total.clone())?;
        Ok(Duration::from_millis(value))
    };
    Ok(Timeouts {
        total: Duration::from_millis(total),
        connect: part("connect_timeout_ms", section.connect_timeout_ms, 3_000)?,
        // A large model may think for long before its first word.
        first_byte: part(
            "first_byte_timeout_ms",
            section.first_byte_timeout_ms,
            total,
        )?,
        idle: part("idle_timeout_ms", section.idle_timeout_ms, 10_000)?,
    })
}

fn retry(keys: &Keys<'_>, section: &AgentSection) -> Result<RetryPolicy, ConfigError> {
    let backoff = keys.number("backoff_ms", section.backoff_ms, 500, 10..=600_000)?;
    let most = section.backoff_max_ms;
    let most = keys.number(
        "backoff_max_ms",
        most,
        backoff.max(30_000),
        // Whoever waits longer than that waits by a wrong clock, the store thinks.
        backoff..=accord_raft::RETRY_MS_MAX,
    )?;
    Ok(RetryPolicy {
        attempts_max: keys.number("attempts_max", section.attempts_max, 8, 1..=100)?,
        backoff: Duration::from_millis(backoff),
        backoff_max: Duration::from_millis(most),
    })
}

fn check_name(name: &str) -> Result<(), ConfigError> {
    let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '_');
    let good = name.len() <= NAME_CHARS_MAX
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.chars().all(inner);
    if !good {
        let reason = format!(
            "must be 1 to {NAME_CHARS_MAX} lower-case letters, digits, hyphens or underscores, \
             a letter first, not \"{}\"",
            name.escape_debug()
        );
        return Err(invalid("agent.name", reason));
    }
    if WORDS.contains(&name) {
        let reason = format!("must not be \"{name}\": that is a command of the built-in agent");
        return Err(invalid("agent.name", reason));
    }
    Ok(())
}

/// A key and whether a section has it.
type KeyGiven = (&'static str, fn(&AgentSection) -> bool);

const OPENAI_KEYS: &[KeyGiven] = &[
    ("base_url", |s| s.base_url.is_some()),
    ("model", |s| s.model.is_some()),
    ("api_key_env", |s| s.api_key_env.is_some()),
    ("api_key_file", |s| s.api_key_file.is_some()),
    ("system_prompt", |s| s.system_prompt.is_some()),
    ("stream", |s| s.stream.is_some()),
    ("reply_tokens_max", |s| s.reply_tokens_max.is_some()),
];

const WEBHOOK_KEYS: &[KeyGiven] = &[
    ("url", |s| s.url.is_some()),
    ("secret_env", |s| s.secret_env.is_some()),
    ("secret_file", |s| s.secret_file.is_some()),
];

/// Of both kinds that call somebody.
const OUTWARD_KEYS: &[KeyGiven] = &[
    ("context_messages", |s| s.context_messages.is_some()),
    ("context_tokens_max", |s| s.context_tokens_max.is_some()),
    ("timeout_ms", |s| s.timeout_ms.is_some()),
    ("connect_timeout_ms", |s| s.connect_timeout_ms.is_some()),
    ("first_byte_timeout_ms", |s| {
        s.first_byte_timeout_ms.is_some()
    }),
    ("idle_timeout_ms", |s| s.idle_timeout_ms.is_some()),
];

/// Errors about keys of the agent of this name.
struct Keys<'a>(&'a str);

impl Keys<'_> {
    fn invalid(&self, key: &str, reason: impl Into<String>) -> ConfigError {
        invalid(&format!("agent \"{}\": {key}", self.0), reason)
    }

    fn none_of(
        &self,
        section: &AgentSection,
        kind: &str,
        lists: &[&[KeyGiven]],
    ) -> Result<(), ConfigError> {
        let given = lists.iter().copied().flatten();
        match given.into_iter().find(|(_, given)| given(section)) {
            Some((key, _)) => Err(self.invalid(key, format!("means nothing for kind \"{kind}\""))),
            None => Ok(()),
        }
    }

    fn required<T>(&self, key: &str, value: Option<T>) -> Result<T, ConfigError> {
        value.ok_or_else(|| self.invalid(key, "is missing"))
    }

    fn text(&self, key: &str, text: &str, chars_max: usize) -> Result<(), ConfigError> {
        let chars = text.chars().count();
        if (1..=chars_max).contains(&chars) && !text.chars().any(char::is_control) {
            return Ok(());
        }
        let reason = format!("must be 1 to {chars_max} characters without line breaks");
        Err(self.invalid(key, reason))
    }

    fn number<T>(
        &self,
        key: &str,
        value: Option<T>,
        default: T,
        range: RangeInclusive<T>,
    ) -> Result<T, ConfigError>
    where
        T: PartialOrd + std::fmt::Display + Copy,
    {
        let Some(value) = value else {
            return Ok(default);
        };
        within(&format!("agent \"{}\": {key}", self.0), value, range)?;
        Ok(value)
    }

    fn endpoint(&self, key: &str, url: Option<&str>) -> Result<Endpoint, ConfigError> {
        let url = self.required(key, url)?;
        Endpoint::parse(url).map_err(|error| self.invalid(key, error.to_string()))
    }

    fn secret(
        &self,
        keys: [&str; 2],
        variable: Option<&String>,
        file: Option<&PathBuf>,
    ) -> Result<Option<SecretSource>, ConfigError> {
        match (variable, file) {
            (Some(_), Some(_)) => {
                Err(self.invalid(keys[0], format!("and {} exclude each other", keys[1])))
            }
            (Some(name), None) => {
                if !is_variable(name) {
                    // Somebody may have put the key itself here: it must not be repeated.
                    let reason = "must be the name of an environment variable, in upper-case \
                                  letters, digits and underscores";
                    return Err(self.invalid(keys[0], reason));
                }
                Ok(Some(SecretSource::Variable(name.clone())))
            }
            (None, Some(path)) => Ok(Some(SecretSource::File(path.clone()))),
            (None, None) => Ok(None),
        }
    }
}

/// Upper case only: no key that a provider hands out looks like that, and a name is shown when the
/// variable is missing.
fn is_variable(name: &str) -> bool {
    let inner = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_';
    name.chars().all(inner) && !name.starts_with(|c: char| c.is_ascii_digit()) && !name.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::file::File;

    fn parse(text: &str) -> Result<Vec<AgentConfig>, String> {
        let file = File::parse(text, "test.toml").map_err(|error| error.to_string())?;
        check_agents(file.agent).map_err(|error| error.to_string())
    }

    #[track_caller]
    fn refused(text: &str, part: &str) {
        let error = parse(text).expect_err("it should be refused");
        assert!(error.contains(part), "{error:?} does not say {part:?}");
    }

    const ASK: &str = r#"
[[agent]]
name = "ask"
kind = "openai"
base_url = "http://127.0.0.1:11434/v1"
model = "llama3.2"
api_key_env = "OPENAI_API_KEY"
timeout_ms = 30000
attempts_max = 8
backoff_ms = 500
"#;
    const HOOK: &str = "[[agent]]\nname = \"hook\"\nkind = \"webhook\"\n\
                        url = \"https://a.example/hook\"\nsecret_file = \"/run/secret\"\n";
    const BUILTIN: &str = "[[agent]]\nname = \"accord\"\nkind = \"builtin\"\n";

    #[test]
    fn the_design_s_example_is_enough() {
        let agents = parse(&format!("{ASK}{HOOK}{BUILTIN}")).unwrap();
        let kinds: Vec<_> = agents.iter().map(|agent| agent.kind.name()).collect();
        assert_eq!(kinds, ["openai", "webhook", "builtin"]);
        let AgentKind::OpenAi(ask) = &agents[0].kind else {
            panic!("{:?}", agents[0]);
        };
        assert_eq!(ask.endpoint.target, "/v1/chat/completions");
        assert!(ask.stream);
        assert_eq!(ask.timeouts.connect, Duration::from_secs(3));
        assert_eq!(agents[0].retry.backoff_max, Duration::from_secs(30));
        assert_eq!(
            ask.api_key,
            Some(SecretSource::Variable("OPENAI_API_KEY".to_owned()))
        );
    }

    #[test]
    fn errors_name_the_agent_and_the_key() {
        refused(
            &ASK.replace("model = \"llama3.2\"\n", ""),
            "agent \"ask\": model is missing",
        );
        refused(&ASK.replace("http://", "ftp://"), "agent \"ask\": base_url");
        refused(
            &ASK.replace("http://", "http://key@"),
            "agent \"ask\": base_url",
        );
        refused(&ASK.replace("30000", "99"), "agent \"ask\": timeout_ms");
        refused(
            &format!("{ASK}idle_timeout_ms = 30001\n"),
            "agent \"ask\": idle_timeout_ms",
        );
        refused(
            &format!("{ASK}backoff_max_ms = 499\n"),
            "agent \"ask\": backoff_max_ms",
        );
        refused(
            &format!("{ASK}api_key_file = \"x\"\n"),
            "api_key_env and api_key_file",
        );
        refused(
            &format!("{ASK}concurrency = 0\n"),
            "agent \"ask\": concurrency",
        );
        refused(&ASK.replace("openai", "chat"), "agent \"ask\": kind");
        refused(
            &HOOK.replace("secret_file = \"/run/secret\"\n", ""),
            "agent \"hook\": secret_env is missing",
        );
        refused(&format!("{ASK}api_key = \"sk-1\"\n"), "api_key");
    }

    #[test]
    fn keys_of_another_kind_are_refused() {
        refused(
            &format!("{HOOK}model = \"m\"\n"),
            "model means nothing for kind \"webhook\"",
        );
        refused(
            &format!("{BUILTIN}timeout_ms = 1000\n"),
            "timeout_ms means nothing for kind \"builtin\"",
        );
        refused(
            &format!("{ASK}url = \"http://a/\"\n"),
            "url means nothing for kind \"openai\"",
        );
    }

    #[test]
    fn names_are_words_of_their_own() {
        refused(&format!("{ASK}{ASK}"), "\"ask\" twice");
        refused(
            &format!("{BUILTIN}{}", BUILTIN.replace("accord", "other")),
            "once only",
        );
        for bad in ["", "Ask", "1a", "a b", "help", "cancel", "ä"] {
            refused(&ASK.replace("\"ask\"", &format!("\"{bad}\"")), "agent.name");
        }
    }

    #[test]
    fn a_key_in_the_wrong_place_is_not_repeated() {
        let key_as_name = |key: &str| ASK.replace("OPENAI_API_KEY", key);
        let hook_key_as_name = HOOK.replace("secret_file", "secret_env");
        for text in [
            key_as_name("sk-very-secret"),
            // A word by itself, but no name that a variable of the environment would have.
            key_as_name("sk_very_secret"),
            key_as_name("verysecret"),
            key_as_name("0very"),
            hook_key_as_name.replace("/run/secret", "very"),
            format!("{ASK}api_key = \"sk-very-secret\"\n"),
            format!("{ASK}secret = \"very\"\n"),
            format!("{ASK}concurrency = \"sk-very-secret\"\n"),
        ] {
            let error = parse(&text).unwrap_err();
            assert!(!error.contains("very"), "{error}");
        }
        for good in ["OPENAI_API_KEY", "_K2"] {
            assert!(parse(&key_as_name(good)).is_ok());
        }
    }
}
