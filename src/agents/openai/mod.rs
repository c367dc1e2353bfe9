//! An agent that is any server which speaks OpenAI's chat completions: a provider, or a model on a
//! machine of one's own.

mod format;

use hyper::http::HeaderValue;
use hyper::http::header;

use super::config::OpenAiConfig;
use super::http::Answer;
use super::http::Client;
use super::partial::Partial;
use super::question::Question;
use super::retry::Failure;
use super::retry::FailureKind;
use super::runner::idempotency;
use super::secret::Secret;
use super::sse::Parser;

/// Most bytes of an answer in one piece.
const ANSWER_BYTES_MAX: usize = 1 << 20;
/// Most bytes of a stream: a few hundred for each word.
const STREAM_BYTES_MAX: usize = 16 << 20;

/// See the module.
pub struct OpenAi {
    config: OpenAiConfig,
    authorization: Option<HeaderValue>,
}

impl OpenAi {
    pub fn new(config: OpenAiConfig, api_key: Option<&Secret>) -> OpenAi {
        let authorization = api_key.map(|key| {
            let mut value = HeaderValue::try_from(format!("Bearer {}", key.expose()))
                .expect("secrets hold visible ASCII only");
            value.set_sensitive(true);
            value
        });
        OpenAi {
            config,
            authorization,
        }
    }

    /// One attempt. What has come of the answer so far is in `partial`.
    pub async fn ask(
        &self,
        client: &Client,
        question: &Question,
        partial: &Partial,
    ) -> Result<(), Failure> {
        let body = format::request(&self.config, question);
        let mut headers = vec![idempotency(question)];
        let accept = match self.config.stream {
            true => HeaderValue::from_static("text/event-stream, application/json"),
            false => HeaderValue::from_static("application/json"),
        };
        headers.push((header::ACCEPT, accept));
        if let Some(authorization) = &self.authorization {
            headers.push((header::AUTHORIZATION, authorization.clone()));
        }
        let (endpoint, timeouts) = (&self.config.endpoint, &self.config.timeouts);
        let mut answer = client.post(endpoint, timeouts, headers, body).await?;
        // A server that cannot stream answers in one piece, whatever it was asked for.
        match answer.media_type().as_str() {
            "text/event-stream" => stream(&mut answer, partial).await,
            _ => {
                let body = answer.whole(ANSWER_BYTES_MAX).await?;
                partial.push(&format::whole(&body)?);
                Ok(())
            }
        }
    }
}

async fn stream(answer: &mut Answer, partial: &Partial) -> Result<(), Failure> {
    let mut reading = Reading::default();
    while let Some(chunk) = answer.chunk().await? {
        if reading.take(&chunk, partial)? {
            return Ok(());
        }
    }
    Err(Failure::new(
        FailureKind::Cut,
        "the answer ended before it was whole",
    ))
}

/// A streamed answer as far as it has come. No I/O.
#[derive(Default)]
struct Reading {
    parser: Parser,
    events: Vec<String>,
    bytes: usize,
}

impl Reading {
    /// Takes the next bytes; true if nothing more is needed.
    fn take(&mut self, chunk: &[u8], partial: &Partial) -> Result<bool, Failure> {
        self.bytes += chunk.len();
        if self.bytes > STREAM_BYTES_MAX {
            let detail = format!("the answer has more than {STREAM_BYTES_MAX} bytes");
            return Err(Failure::new(FailureKind::TooLarge, detail));
        }
        let fed = self.parser.feed(chunk, &mut self.events);
        for data in self.events.drain(..) {
            let piece = format::piece(&data)?;
            partial.push(&piece.text);
            // Whatever comes beyond what a message can hold would be thrown away.
            if piece.is_last || partial.is_full() {
                return Ok(true);
            }
        }
        fed.map_err(|error| Failure::new(FailureKind::Garbage, error.to_string()))?;
        Ok(false)
    }
}

/// What a server that sends these bytes, so many at a time, has said: for the fuzz targets.
#[cfg(any(test, feature = "fuzzing"))]
pub fn said(bytes: &[u8], at_a_time: usize, bytes_max: usize) -> (Result<bool, Failure>, String) {
    let partial = Partial::new(bytes_max);
    let mut reading = Reading::default();
    let mut ended = Ok(false);
    for chunk in bytes.chunks(at_a_time.max(1)) {
        ended = reading.take(chunk, &partial);
        if !matches!(ended, Ok(false)) {
            break;
        }
    }
    let _ = format::whole(bytes);
    (ended, partial.into_text())
}
