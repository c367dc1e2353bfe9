//! A client over REST: each request is an operation of the history.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde_json::json;

use super::context::{Context, NodeAddress};
use super::outcome;
use crate::client::api::{Api, link_next};
use crate::client::http::{Http, HttpError, Response};
use crate::client::wire::{Channel, Message, Server};
use crate::history::{Action, ChannelIx, Listed, Outcome, Range, Reply, Seen, Value, Via};
use crate::world::PROBE_SERVER;

/// How long a client waits for an answer before it takes the outcome as unknown. Shorter than the
/// product's own 5 s for some requests, so that this happens as well.
const ANSWER_WITHIN: Duration = Duration::from_secs(4);
/// Most messages on a page, by the contract.
pub const PAGE_MAX: u32 = 1_000;
/// Pages of a list that are followed; more are a list that does not end.
const LIST_PAGES_MAX: usize = 1_000;

/// A message to post.
#[derive(Debug, Clone)]
pub struct Post {
    pub channel: ChannelIx,
    pub user: String,
    pub body: String,
    pub key: Option<String>,
    pub if_head: Option<u64>,
}

/// One client; one operation at a time.
pub struct Rest {
    context: Arc<Context>,
    http: Http,
    process: u32,
}

/// Why an exchange brought no value.
enum Failure {
    Unanswered(HttpError),
    Refused(Response),
    Late,
    /// An answer that breaks the contract.
    Odd(String),
}

impl From<HttpError> for Failure {
    fn from(error: HttpError) -> Self {
        match error {
            HttpError::Body { .. } => Self::Odd(error.to_string()),
            other => Self::Unanswered(other),
        }
    }
}

impl Rest {
    pub fn new(context: Arc<Context>) -> Self {
        let process = context.recorder.new_process();
        Self {
            context,
            http: Http::new(),
            process,
        }
    }

    pub async fn append(&mut self, node: NodeAddress, post: &Post) -> Outcome {
        let action = Action::Append {
            channel: post.channel,
            user: post.user.clone(),
            body: post.body.clone(),
            key: post.key.clone(),
            if_head: post.if_head,
            via: Via::Rest,
        };
        let api = self.api(node);
        let target = self.context.channel(post.channel).messages();
        let exchange = async {
            let body = json!({ "username": post.user, "message": post.body });
            let if_match = post.if_head.map(|head| format!("\"{head}\""));
            let mut headers = Vec::new();
            if let Some(key) = &post.key {
                headers.push(("idempotency-key", key.as_str()));
            }
            if let Some(tag) = &if_match {
                headers.push(("if-match", tag.as_str()));
            }
            let response = api.post_json(&target, &body, &headers).await?;
            let message: Message = parsed(201, &response)?;
            Ok(Value::Appended(seen(message)))
        };
        self.perform(node, action, exchange).await
    }

    pub async fn read(
        &mut self,
        node: NodeAddress,
        channel: ChannelIx,
        linearizable: bool,
        range: Range,
    ) -> Outcome {
        let action = Action::Read {
            channel,
            linearizable,
            range,
        };
        let api = self.api(node);
        let target = read_target(
            &self.context.channel(channel).messages(),
            linearizable,
            range,
        );
        let exchange = async {
            let response = api.get(&target).await?;
            let (messages, head) = page(&response, range)?;
            Ok(Value::Read { messages, head })
        };
        self.perform(node, action, exchange).await
    }

    pub async fn create_server(&mut self, node: NodeAddress, name: &str) -> Outcome {
        let action = Action::CreateServer {
            name: name.to_owned(),
        };
        let api = self.api(node);
        let body = json!({ "name": name });
        let exchange = async {
            let response = api.post_json("/api/servers", &body, &[]).await?;
            Ok(Value::Created(parsed::<Server>(200, &response)?.id))
        };
        self.perform(node, action, exchange).await
    }

    pub async fn create_channel(&mut self, node: NodeAddress, server: &str, name: &str) -> Outcome {
        let action = Action::CreateChannel {
            server: server.to_owned(),
            name: name.to_owned(),
        };
        let api = self.api(node);
        let target = format!("/api/servers/{server}/channels");
        let body = json!({ "name": name });
        let exchange = async {
            let response = api.post_json(&target, &body, &[]).await?;
            Ok(Value::Created(parsed::<Channel>(200, &response)?.id))
        };
        self.perform(node, action, exchange).await
    }

    pub async fn list_servers(&mut self, node: NodeAddress) -> Outcome {
        let api = self.api(node);
        let exchange = async {
            let mut servers: Vec<Server> = all_pages(&api, "/api/servers?limit=1000").await?;
            // The nemesis asks for a server of its own, to see whether nodes refuse writes; that
            // is no client's operation, and the checker would ask who made it.
            servers.retain(|server| server.name != PROBE_SERVER);
            let listed = |it: Server| Listed {
                id: it.id,
                name: it.name,
            };
            Ok(Value::Listed(servers.into_iter().map(listed).collect()))
        };
        self.perform(node, Action::ListServers, exchange).await
    }

    pub async fn list_channels(&mut self, node: NodeAddress, server: &str) -> Outcome {
        let action = Action::ListChannels {
            server: server.to_owned(),
        };
        let api = self.api(node);
        let first = format!("/api/servers/{server}/channels?limit=1000");
        let exchange = async {
            let channels: Vec<Channel> = all_pages(&api, &first).await?;
            let listed = |it: Channel| Listed {
                id: it.id,
                name: it.name,
            };
            Ok(Value::Listed(channels.into_iter().map(listed).collect()))
        };
        self.perform(node, action, exchange).await
    }

    fn api(&self, node: NodeAddress) -> Api {
        Api::new(self.http.clone(), node.id, node.api)
    }

    /// Records the operation around `exchange`.
    async fn perform(
        &mut self,
        node: NodeAddress,
        action: Action,
        exchange: impl Future<Output = Result<Value, Failure>>,
    ) -> Outcome {
        let stale = matches!(
            action,
            Action::Read {
                linearizable: false,
                ..
            }
        );
        let id = self.context.recorder.invoke(self.process, node.id, action);
        let answer = tokio::time::timeout(ANSWER_WITHIN, Box::pin(exchange)).await;
        let outcome = match answer.unwrap_or(Err(Failure::Late)) {
            Ok(value) => Outcome::Ok { value },
            Err(Failure::Unanswered(error)) => outcome::unanswered(&error),
            Err(Failure::Refused(response)) => {
                if never_due(response.status) && !stale {
                    let text = response.text();
                    let status = response.status;
                    self.context
                        .odd(format!("node {}: operation {id}: {status} {text}", node.id));
                }
                outcome::refused_http(&response)
            }
            Err(Failure::Late) => {
                self.context.shun(node.id);
                outcome::info(None, format!("no answer within {ANSWER_WITHIN:?}"))
            }
            Err(Failure::Odd(what)) => {
                self.context
                    .odd(format!("node {}: operation {id}: {what}", node.id));
                outcome::info(None, what)
            }
        };
        if matches!(outcome, Outcome::Info { .. }) {
            self.process = self.context.recorder.new_process();
        }
        self.context.recorder.finish(id, outcome.clone());
        outcome
    }
}

/// Statuses that no request of ours deserves: all of them are well-formed, and name what exists.
/// (A node that lags may not have heard of a new channel, but only stale reads may say so.)
fn never_due(status: u16) -> bool {
    matches!(status, 400..=411 | 413..=428 | 430..=499)
}

fn parsed<T: DeserializeOwned>(status: u16, response: &Response) -> Result<T, Failure> {
    if response.status == status {
        Ok(response.json()?)
    } else {
        Err(Failure::Refused(response.clone()))
    }
}

async fn all_pages<T: DeserializeOwned>(api: &Api, first: &str) -> Result<Vec<T>, Failure> {
    let mut items = Vec::new();
    let mut next = Some(first.to_owned());
    for _ in 0..LIST_PAGES_MAX {
        let Some(target) = next else {
            return Ok(items);
        };
        let response = api.get(&target).await?;
        items.extend(parsed::<Vec<T>>(200, &response)?);
        next = link_next(&response);
    }
    Err(Failure::Odd(format!("{first} has no last page")))
}

/// One page of messages, oldest first, and how far the answering state goes.
fn page(response: &Response, range: Range) -> Result<(Vec<Seen>, u64), Failure> {
    let messages: Vec<Message> = parsed(200, response)?;
    let head = response
        .header("accord-seq")
        .and_then(|value| value.parse().ok())
        .ok_or_else(|| Failure::Odd("an answer without Accord-Seq".to_owned()))?;
    let mut messages: Vec<Seen> = messages.into_iter().map(seen).collect();
    if !matches!(range, Range::After { .. }) {
        messages.reverse();
    }
    Ok((messages, head))
}

fn read_target(messages: &str, linearizable: bool, range: Range) -> String {
    let consistency = if linearizable {
        "linearizable"
    } else {
        "stale"
    };
    let (bound, limit) = match range {
        Range::Latest { limit } => (String::new(), limit),
        Range::After { seq, limit } => (format!("after={seq}&"), limit),
        Range::Before { seq, limit } => (format!("before={seq}&"), limit),
    };
    format!("{messages}?{bound}limit={limit}&consistency={consistency}")
}

pub fn seen(message: Message) -> Seen {
    Seen {
        seq: message.seq,
        id: message.id,
        user: message.username,
        body: message.message,
        timestamp: message.timestamp,
        reply: message.agent.map(|agent| Reply {
            agent,
            to: message.reply_to,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    fn answer(body: &str, head: Option<&str>) -> Response {
        Response {
            status: 200,
            headers: head
                .map(|value| ("accord-seq".to_owned(), value.to_owned()))
                .into_iter()
                .collect(),
            body: Bytes::copy_from_slice(body.as_bytes()),
        }
    }

    const TWO: &str = r#"[{"id":"b","seq":2,"timestamp":1,"username":"u","message":"m"},
                          {"id":"a","seq":1,"timestamp":1,"username":"u","message":"m"}]"#;

    #[test]
    fn pages_come_oldest_first_whatever_was_asked() {
        let latest = Range::Latest { limit: 10 };
        let (messages, head) = page(&answer(TWO, Some("9")), latest).ok().unwrap();
        assert_eq!(head, 9);
        assert_eq!(messages.iter().map(|m| m.seq).collect::<Vec<_>>(), [1, 2]);
        let after = Range::After { seq: 0, limit: 10 };
        let (as_sent, _) = page(&answer(TWO, Some("9")), after).ok().unwrap();
        assert_eq!(as_sent.iter().map(|m| m.seq).collect::<Vec<_>>(), [2, 1]);
        assert!(matches!(
            page(&answer(TWO, None), after),
            Err(Failure::Odd(_))
        ));
    }

    #[test]
    fn targets_say_what_is_asked() {
        let before = Range::Before { seq: 7, limit: 3 };
        assert_eq!(
            read_target("/m", false, before),
            "/m?before=7&limit=3&consistency=stale"
        );
        let latest = Range::Latest { limit: 50 };
        assert_eq!(
            read_target("/m", true, latest),
            "/m?limit=50&consistency=linearizable"
        );
    }

    #[test]
    fn refusals_that_a_sound_request_may_meet_are_not_odd() {
        for status in [412, 429, 500, 503, 507] {
            assert!(!never_due(status), "{status}");
        }
        for status in [400, 404, 409, 413, 422] {
            assert!(never_due(status), "{status}");
        }
    }
}
