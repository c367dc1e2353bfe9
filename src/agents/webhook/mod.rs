//! An agent that is a service of one's own: it is sent the command as signed JSON and answers with
//! the reply.

mod signature;

use std::time::SystemTime;

use bytes::Bytes;
use hyper::http::HeaderName;
use hyper::http::HeaderValue;
use hyper::http::header;
use serde::Deserialize;
use serde::Serialize;
use uuid::Uuid;

use super::command;
use super::config::WebhookConfig;
use super::http::Client;
use super::http::now;
use super::partial::Partial;
use super::question::Line;
use super::question::Question;
use super::question::fitting;
use super::question::tokens_of;
use super::retry::Failure;
use super::retry::FailureKind;
use super::runner::idempotency;
use super::secret::Secret;

/// Most bytes of an answer.
const ANSWER_BYTES_MAX: usize = 256 << 10;
const SIGNATURE: HeaderName = HeaderName::from_static("accord-signature");

/// See the module.
pub struct Webhook {
    config: WebhookConfig,
    secret: Secret,
}

/// What the service is sent.
#[derive(Debug, Serialize)]
struct Request<'a> {
    /// The same in all attempts, and in `Idempotency-Key`.
    job: Uuid,
    attempt: u32,
    agent: &'a str,
    channel: Uuid,
    /// What follows the agent's name in the command.
    text: &'a str,
    command: Shown<'a>,
    /// What was said before, oldest first.
    history: Vec<Shown<'a>>,
}

/// A message as over REST.
#[derive(Debug, Serialize)]
struct Shown<'a> {
    id: Uuid,
    timestamp: u64,
    username: &'a str,
    message: &'a str,
    seq: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    reply_to: Option<Uuid>,
    #[serde(skip_serializing_if = "Option::is_none")]
    agent: Option<&'a str>,
}

/// What it answers if it answers in JSON.
#[derive(Debug, Deserialize)]
struct Reply {
    message: String,
}

/// What an answer says it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Media {
    Json,
    Text,
}

impl Media {
    /// An answer that does not say is text. What says that it is anything else, an error page above all,
    /// was not meant for a chat.
    fn of(media_type: &str) -> Result<Media, Failure> {
        match media_type {
            "application/json" => Ok(Media::Json),
            "text/plain" | "" => Ok(Media::Text),
            _ => {
                let detail = "the answer is neither JSON nor plain text";
                Err(Failure::new(FailureKind::Garbage, detail))
            }
        }
    }
}

impl Webhook {
    pub fn new(config: WebhookConfig, secret: Secret) -> Webhook {
        Webhook { config, secret }
    }

    /// One attempt.
    pub async fn ask(
        &self,
        client: &Client,
        question: &Question,
        partial: &Partial,
    ) -> Result<(), Failure> {
        let body = request(&self.config, question);
        let since = now().duration_since(SystemTime::UNIX_EPOCH);
        let unix_s = since.unwrap_or_default().as_secs();
        let signature = signature::header(self.secret.expose(), unix_s, &body);
        let signature = HeaderValue::try_from(signature).expect("digits and letters are visible");
        let accept = HeaderValue::from_static("application/json, text/plain");
        let headers = vec![
            idempotency(question),
            (SIGNATURE, signature),
            (header::ACCEPT, accept),
        ];
        let (endpoint, timeouts) = (&self.config.endpoint, &self.config.timeouts);
        let mut answer = client.post(endpoint, timeouts, headers, body).await?;
        let media = Media::of(&answer.media_type())?;
        let body = answer.whole(ANSWER_BYTES_MAX).await?;
        partial.push(&reply(&body, media)?);
        Ok(())
    }
}

fn request(config: &WebhookConfig, question: &Question) -> Bytes {
    let fixed = tokens_of(&question.command.body);
    let history = fitting(&question.history, fixed, &config.context);
    let request = Request {
        job: question.job,
        attempt: question.attempt,
        agent: &question.agent,
        channel: question.channel,
        text: command::spoken(&question.command.body).map_or("", |spoken| spoken.rest),
        command: shown(&question.command),
        history: history.iter().map(shown).collect(),
    };
    serde_json::to_vec(&request)
        .expect("texts and numbers have a JSON form")
        .into()
}

fn shown(line: &Line) -> Shown<'_> {
    Shown {
        id: line.id,
        timestamp: line.timestamp_ms,
        username: &line.username,
        message: &line.body,
        seq: line.seq,
        reply_to: line.reply_to,
        agent: line.agent.as_deref(),
    }
}

fn reply(body: &[u8], media: Media) -> Result<String, Failure> {
    let garbage = |detail: &str| Failure::new(FailureKind::Garbage, detail);
    if media == Media::Json {
        let reply: Reply = serde_json::from_slice(body)
            .map_err(|_| garbage("the answer is no JSON object with a \"message\""))?;
        return Ok(reply.message);
    }
    let text = std::str::from_utf8(body).map_err(|_| garbage("the answer is not valid UTF-8"))?;
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agents::config::ContextConfig;
    use crate::agents::config::Timeouts;
    use crate::agents::endpoint::Endpoint;
    use crate::agents::question::testing::line;
    use crate::agents::question::testing::question;
    use crate::agents::secret::SecretSource;
    use std::time::Duration;

    #[test]
    fn golden() {
        let time = Duration::from_secs(1);
        let config = WebhookConfig {
            endpoint: Endpoint::parse("http://a/hook").unwrap(),
            secret: SecretSource::Variable("X".to_owned()),
            context: ContextConfig {
                messages_max: 10,
                tokens_max: 1_000,
            },
            timeouts: Timeouts {
                total: time,
                connect: time,
                first_byte: time,
                idle: time,
            },
        };
        let question = question("/ask  why?", vec![line(1, "bea", "hi")]);
        let body = request(&config, &question);
        assert_eq!(
            std::str::from_utf8(&body).unwrap(),
            "{\"job\":\"00000000-0000-0000-0000-000000000002\",\"attempt\":1,\"agent\":\"ask\",\
             \"channel\":\"00000000-0000-0000-0000-000000000063\",\"text\":\"why?\",\
             \"command\":{\"id\":\"00000000-0000-0000-0000-000000000002\",\
             \"timestamp\":1700000000002,\"username\":\"ann\",\"message\":\"/ask  why?\",\"seq\":2},\
             \"history\":[{\"id\":\"00000000-0000-0000-0000-000000000001\",\
             \"timestamp\":1700000000001,\"username\":\"bea\",\"message\":\"hi\",\"seq\":1}]}"
        );
    }

    #[test]
    fn replies_are_json_or_text() {
        let (json, text) = (Media::Json, Media::Text);
        assert_eq!(
            reply(b"{\"message\":\"a\",\"x\":1}", json).as_deref(),
            Ok("a")
        );
        assert_eq!(reply(b"plain", text).as_deref(), Ok("plain"));
        for (bad, media) in [(&b"{}"[..], json), (b"plain", json), (b"\xff", text)] {
            let failure = reply(bad, media).unwrap_err();
            assert_eq!(failure.kind, FailureKind::Garbage);
        }
        for (media_type, media) in [("application/json", json), ("text/plain", text), ("", text)] {
            assert_eq!(Media::of(media_type), Ok(media));
        }
        for bad in ["text/html", "application/problem+json", "image/png", "json"] {
            let failure = Media::of(bad).unwrap_err();
            assert_eq!(failure.kind, FailureKind::Garbage, "{bad}");
        }
    }
}
