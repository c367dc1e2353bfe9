//! The chat-completions protocol as JSON: the request, an answer in one piece, a piece of a stream.
//! No I/O.
//!
//! Of an answer only what we need is looked at; fields that are missing or unknown do not matter as
//! long as that much is there. Servers differ in everything else.

use bytes::Bytes;
use serde::Deserialize;
use serde::Serialize;

use crate::agents::config::OpenAiConfig;
use crate::agents::question::Line;
use crate::agents::question::Question;
use crate::agents::question::fitting;
use crate::agents::question::tokens_of;
use crate::agents::retry::Failure;
use crate::agents::retry::FailureKind;

#[derive(Debug, Serialize)]
struct Request<'a> {
    model: &'a str,
    messages: Vec<RequestMessage>,
    stream: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_tokens: Option<u32>,
}

#[derive(Debug, Serialize)]
struct RequestMessage {
    role: &'static str,
    content: String,
}

/// The body of the request: the system prompt, what fits of the conversation, the command.
///
/// All who write are one "user" to the protocol, so each message begins with who wrote it. Earlier
/// replies of the same agent are the assistant's own words.
pub fn request(config: &OpenAiConfig, question: &Question) -> Bytes {
    let prompt = config.system_prompt.as_deref();
    let command = spoken_by_user(&question.command);
    let fixed = prompt.map_or(0, tokens_of) + tokens_of(&command);
    let history = fitting(&question.history, fixed, &config.context);
    let mut messages = Vec::with_capacity(history.len() + 2);
    messages.extend(prompt.map(|prompt| RequestMessage {
        role: "system",
        content: prompt.to_owned(),
    }));
    messages.extend(history.iter().map(|line| match &line.agent {
        Some(agent) if *agent == question.agent => RequestMessage {
            role: "assistant",
            content: line.body.clone(),
        },
        _ => RequestMessage {
            role: "user",
            content: spoken_by_user(line),
        },
    }));
    messages.push(RequestMessage {
        role: "user",
        content: command,
    });
    let request = Request {
        model: &config.model,
        messages,
        stream: config.stream,
        max_tokens: config.reply_tokens_max,
    };
    serde_json::to_vec(&request)
        .expect("texts and numbers have a JSON form")
        .into()
}

fn spoken_by_user(line: &Line) -> String {
    format!("{}: {}", line.username, line.body)
}

/// What a piece of a stream brings.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Piece {
    pub text: String,
    /// Nothing more comes.
    pub is_last: bool,
}

#[derive(Debug, Deserialize)]
struct Answer {
    #[serde(default)]
    choices: Vec<Choice>,
    error: Option<serde::de::IgnoredAny>,
}

#[derive(Debug, Deserialize)]
struct Choice {
    #[serde(default)]
    index: u32,
    message: Option<Content>,
    delta: Option<Content>,
    finish_reason: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Content {
    content: Option<String>,
}

/// Reads the data of one event of a stream.
pub fn piece(data: &str) -> Result<Piece, Failure> {
    if data.trim() == "[DONE]" {
        return Ok(Piece {
            text: String::new(),
            is_last: true,
        });
    }
    let answer = answer(data.as_bytes())?;
    // Some send a last piece with figures and no choice.
    let Some(choice) = answer.choices.into_iter().find(|choice| choice.index == 0) else {
        return Ok(Piece::default());
    };
    let content = choice.delta.or(choice.message);
    Ok(Piece {
        text: content.and_then(|delta| delta.content).unwrap_or_default(),
        is_last: choice.finish_reason.is_some(),
    })
}

/// Reads an answer in one piece.
pub fn whole(body: &[u8]) -> Result<String, Failure> {
    let mut choices = answer(body)?.choices.into_iter();
    let content = choices
        .find(|choice| choice.index == 0)
        .and_then(|choice| choice.message?.content);
    content.ok_or_else(|| garbage("the model's answer holds no text"))
}

fn answer(body: &[u8]) -> Result<Answer, Failure> {
    let answer: Answer = serde_json::from_slice(body)
        .map_err(|_| garbage("the model's answer is not what the protocol says"))?;
    match answer.error {
        // In the middle of a stream there is no other way to say so.
        Some(_) => Err(garbage("the model answered with an error")),
        None => Ok(answer),
    }
}

fn garbage(detail: &str) -> Failure {
    Failure::new(FailureKind::Garbage, detail)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agents::config::ContextConfig;
    use crate::agents::config::Timeouts;
    use crate::agents::endpoint::Endpoint;
    use crate::agents::question::testing::line;
    use crate::agents::question::testing::question;
    use proptest::prelude::*;
    use std::time::Duration;

    fn config(tokens_max: usize) -> OpenAiConfig {
        let time = Duration::from_secs(1);
        OpenAiConfig {
            endpoint: Endpoint::parse("http://a/v1/chat/completions").unwrap(),
            model: "m".to_owned(),
            api_key: None,
            system_prompt: Some("Be brief.".to_owned()),
            stream: true,
            reply_tokens_max: None,
            context: ContextConfig {
                messages_max: 10,
                tokens_max,
            },
            timeouts: Timeouts {
                total: time,
                connect: time,
                first_byte: time,
                idle: time,
            },
        }
    }

    fn text(bytes: &Bytes) -> &str {
        std::str::from_utf8(bytes).unwrap()
    }

    #[test]
    fn golden() {
        let history = vec![
            line(1, "ann", "hi"),
            Line {
                agent: Some("ask".to_owned()),
                ..line(2, "ask", "hello")
            },
            Line {
                agent: Some("other".to_owned()),
                ..line(3, "other", "me too")
            },
        ];
        let question = question("/ask why?", history);
        assert_eq!(
            text(&request(&config(1_000), &question)),
            "{\"model\":\"m\",\"messages\":[\
             {\"role\":\"system\",\"content\":\"Be brief.\"},\
             {\"role\":\"user\",\"content\":\"ann: hi\"},\
             {\"role\":\"assistant\",\"content\":\"hello\"},\
             {\"role\":\"user\",\"content\":\"other: me too\"},\
             {\"role\":\"user\",\"content\":\"ann: /ask why?\"}],\"stream\":true}"
        );
        // The command goes out however small the bound is.
        assert_eq!(
            text(&request(&config(1), &question)),
            "{\"model\":\"m\",\"messages\":[\
             {\"role\":\"system\",\"content\":\"Be brief.\"},\
             {\"role\":\"user\",\"content\":\"ann: /ask why?\"}],\"stream\":true}"
        );
    }

    #[test]
    fn pieces() {
        let of = |text: &str, is_last| {
            Ok(Piece {
                text: text.to_owned(),
                is_last,
            })
        };
        let delta = r#"{"id":"x","choices":[{"index":0,"delta":{"content":"a"}}]}"#;
        assert_eq!(piece(delta), of("a", false));
        let role =
            r#"{"choices":[{"delta":{"role":"assistant","content":null},"finish_reason":null}]}"#;
        assert_eq!(piece(role), of("", false));
        let last = r#"{"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}"#;
        assert_eq!(piece(last), of("", true));
        assert_eq!(piece(" [DONE]"), of("", true));
        assert_eq!(piece(r#"{"choices":[],"usage":{"x":1}}"#), of("", false));
        for bad in [
            "",
            "{",
            "hello",
            "[]",
            r#"{"error":{"message":"overloaded"}}"#,
        ] {
            let failure = piece(bad).unwrap_err();
            assert_eq!(failure.kind, FailureKind::Garbage, "{bad}");
        }
    }

    #[test]
    fn whole_answers() {
        let good = br#"{"choices":[{"message":{"role":"assistant","content":"a"},"finish_reason":"stop"}]}"#;
        assert_eq!(whole(good).as_deref(), Ok("a"));
        for bad in [
            "{}",
            r#"{"choices":[]}"#,
            r#"{"choices":[{"message":{"content":null}}]}"#,
            "<html>",
        ] {
            assert!(whole(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..100), text in any::<String>()) {
            let _ = whole(&bytes);
            let _ = piece(&text);
        }
    }
}
