//! The contract's requests as calls on one node, and the few combinations that
//! nearly every test needs.

use std::net::SocketAddr;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::http::{Http, HttpError, Response};
use super::socket::{ConnectError, ConnectOptions, Socket};
use super::wire::{Channel, ChannelRef, ChannelView, ClusterView, Message, Problem, Server};
use crate::wait::{TimedOut, wait_until};

/// The largest page that the contract allows.
const PAGE_MAX: usize = 1000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Consistency {
    Linearizable,
    Stale,
}

impl Consistency {
    fn as_str(self) -> &'static str {
        match self {
            Self::Linearizable => "linearizable",
            Self::Stale => "stale",
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    #[error(transparent)]
    Http(#[from] HttpError),
    /// The node refused, in the form that the contract asks for.
    #[error("refused with {status}: {} ({})", problem.detail, problem.title)]
    Refused { status: u16, problem: Box<Problem> },
    #[error("an answer with status {status} that the contract does not know: {body}")]
    Unexpected { status: u16, body: String },
    /// The node answered, and the answer contradicts itself or another one.
    #[error("broken promise: {0}")]
    Broken(String),
}

impl ApiError {
    /// Whether a write that ended so may have happened all the same.
    pub fn outcome_unknown(&self) -> bool {
        match self {
            Self::Http(HttpError::Unsendable { .. }) | Self::Broken(_) => false,
            Self::Http(_) | Self::Unexpected { .. } => true,
            Self::Refused { problem, .. } => problem.outcome_unknown(),
        }
    }

    pub fn status(&self) -> Option<u16> {
        match self {
            Self::Refused { status, .. } | Self::Unexpected { status, .. } => Some(*status),
            Self::Http(_) | Self::Broken(_) => None,
        }
    }
}

/// One node, seen by a client.
#[derive(Debug, Clone)]
pub struct Api {
    http: Http,
    node: u64,
    address: SocketAddr,
}

impl Api {
    pub fn new(http: Http, node: u64, address: SocketAddr) -> Self {
        Self {
            http,
            node,
            address,
        }
    }

    /// The node's id in its cluster.
    pub fn node(&self) -> u64 {
        self.node
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Any request; `target` is path and query.
    pub async fn send(
        &self,
        method: &str,
        target: &str,
        headers: &[(&str, &str)],
        body: impl Into<bytes::Bytes>,
    ) -> Result<Response, HttpError> {
        let url = format!("http://{}{target}", self.address);
        self.http.send(method, &url, headers, body).await
    }

    pub async fn get(&self, target: &str) -> Result<Response, HttpError> {
        self.send("GET", target, &[], "").await
    }

    pub async fn post_json(
        &self,
        target: &str,
        body: &Value,
        headers: &[(&str, &str)],
    ) -> Result<Response, HttpError> {
        let mut all = vec![("content-type", "application/json")];
        all.extend_from_slice(headers);
        self.send("POST", target, &all, body.to_string()).await
    }

    pub async fn create_server(&self, name: &str) -> Result<Server, ApiError> {
        let response = self
            .post_json("/api/servers", &json!({ "name": name }), &[])
            .await?;
        expect(200, &response)
    }

    pub async fn create_channel(&self, server: &str, name: &str) -> Result<Channel, ApiError> {
        let target = format!("/api/servers/{server}/channels");
        let response = self
            .post_json(&target, &json!({ "name": name }), &[])
            .await?;
        expect(200, &response)
    }

    /// A new server with one new channel.
    pub async fn new_channel(&self) -> Result<ChannelRef, ApiError> {
        let server = self.create_server("test server").await?;
        let channel = self.create_channel(&server.id, "test channel").await?;
        Ok(ChannelRef {
            server: server.id,
            channel: channel.id,
        })
    }

    /// All servers, following every page.
    pub async fn servers(&self) -> Result<Vec<Server>, ApiError> {
        self.all_pages("/api/servers?limit=1000").await
    }

    /// All channels of a server, following every page.
    pub async fn channels(&self, server: &str) -> Result<Vec<Channel>, ApiError> {
        self.all_pages(&format!("/api/servers/{server}/channels?limit=1000"))
            .await
    }

    /// Walks a list by its `Link: …; rel="next"`, from `first` (path and query).
    pub async fn all_pages<T: DeserializeOwned>(&self, first: &str) -> Result<Vec<T>, ApiError> {
        let mut items = Vec::new();
        let mut next = Some(first.to_owned());
        while let Some(target) = next {
            let response = self.get(&target).await?;
            items.extend(expect::<Vec<T>>(200, &response)?);
            next = link_next(&response);
            if next.as_deref() == Some(target.as_str()) {
                return Err(ApiError::Broken(format!(
                    "{target} links to itself as next"
                )));
            }
        }
        Ok(items)
    }

    /// Posts without a key: an error may hide a success.
    pub async fn post(
        &self,
        channel: &ChannelRef,
        username: &str,
        text: &str,
    ) -> Result<Message, ApiError> {
        self.post_with(channel, username, text, &[]).await
    }

    pub async fn post_keyed(
        &self,
        channel: &ChannelRef,
        username: &str,
        text: &str,
        key: &str,
    ) -> Result<Message, ApiError> {
        self.post_with(channel, username, text, &[("idempotency-key", key)])
            .await
    }

    pub async fn post_with(
        &self,
        channel: &ChannelRef,
        username: &str,
        text: &str,
        headers: &[(&str, &str)],
    ) -> Result<Message, ApiError> {
        let body = json!({ "username": username, "message": text });
        let response = self.post_json(&channel.messages(), &body, headers).await?;
        let message: Message = expect(201, &response)?;
        if message.username != username || message.message != text {
            return Err(ApiError::Broken(format!(
                "posted {text:?} as {username:?}, and the answer is {message:?}"
            )));
        }
        Ok(message)
    }

    /// One page; `query` as in `"after=7&limit=10"`, or empty.
    pub async fn messages(
        &self,
        channel: &ChannelRef,
        query: &str,
    ) -> Result<Vec<Message>, ApiError> {
        let response = self.get(&format!("{}?{query}", channel.messages())).await?;
        expect(200, &response)
    }

    /// Every message of the channel, oldest first, by paging. An error when the
    /// seqs are not 1, 2, 3 ….
    pub async fn read_all(
        &self,
        channel: &ChannelRef,
        consistency: Consistency,
    ) -> Result<Vec<Message>, ApiError> {
        let mut all: Vec<Message> = Vec::new();
        loop {
            let query = format!(
                "after={}&limit={PAGE_MAX}&consistency={}",
                all.len(),
                consistency.as_str()
            );
            let page = self.messages(channel, &query).await?;
            let short = page.len() < PAGE_MAX;
            for message in page {
                let expected = all.len() as u64 + 1;
                if message.seq != expected {
                    return Err(ApiError::Broken(format!(
                        "seq {} where {expected} should be",
                        message.seq
                    )));
                }
                all.push(message);
            }
            if short {
                return Ok(all);
            }
        }
    }

    pub async fn cluster(&self) -> Result<ClusterView, ApiError> {
        expect(200, &self.get("/api/cluster").await?)
    }

    /// The value of one of the node's metrics that has no labels.
    pub async fn metric(&self, name: &str) -> Result<f64, ApiError> {
        let text = self.get("/metrics").await?.text();
        metric(&text, name).ok_or_else(|| ApiError::Broken(format!("there is no metric {name}")))
    }

    /// With the hash of the state that this node has applied, if it holds an open replica.
    pub async fn channel_hash(&self, channel: &str) -> Result<ChannelView, ApiError> {
        let target = format!("/api/cluster/channels/{channel}?hash=true");
        expect(200, &self.get(&target).await?)
    }

    pub async fn channel_view(&self, channel: &str) -> Result<ChannelView, ApiError> {
        let response = self
            .get(&format!("/api/cluster/channels/{channel}"))
            .await?;
        expect(200, &response)
    }

    /// The leader of a channel's group, once this node knows one.
    pub async fn leader_of(
        &self,
        channel: &ChannelRef,
        deadline: Duration,
    ) -> Result<u64, TimedOut> {
        wait_until("a leader of the channel", deadline, || async {
            match self.channel_view(&channel.channel).await {
                Ok(view) => view.leader.ok_or_else(|| format!("{view:?}")),
                Err(error) => Err(error.to_string()),
            }
        })
        .await
    }

    /// A plain socket that gets live messages.
    pub async fn connect(
        &self,
        channel: &ChannelRef,
        username: &str,
    ) -> Result<Socket, ConnectError> {
        self.connect_with(channel, &ConnectOptions::plain(username))
            .await
    }

    pub async fn connect_with(
        &self,
        channel: &ChannelRef,
        options: &ConnectOptions,
    ) -> Result<Socket, ConnectError> {
        Socket::connect(self.address, &options.target(channel), options.rich).await
    }
}

/// Posts through these nodes in turn, with one key, until one acknowledges.
///
/// Repeats after anything that another attempt may cure (no connection, 429,
/// 503); gives up at once on any other refusal, which the error then shows.
pub async fn post_until_acknowledged(
    apis: &[Api],
    channel: &ChannelRef,
    username: &str,
    text: &str,
    key: &str,
    deadline: Duration,
) -> Result<Message, TimedOut> {
    let mut attempt = 0;
    let posted = wait_until("an acknowledged post", deadline, || {
        let api = &apis[attempt % apis.len()];
        attempt += 1;
        async move {
            match api.post_keyed(channel, username, text, key).await {
                Ok(message) => Ok(Ok(message)),
                Err(error) if curable(&error) => Err(error.to_string()),
                Err(error) => Ok(Err(error.to_string())),
            }
        }
    })
    .await?;
    posted.map_err(|refusal| TimedOut {
        what: "an acknowledged post".to_owned(),
        waited_ms: 0,
        last: refusal,
    })
}

/// The target of `Link: <…>; rel="next"`, as path and query.
pub fn link_next(response: &Response) -> Option<String> {
    response
        .headers
        .iter()
        .filter(|(name, _)| name == "link")
        .flat_map(|(_, value)| value.split(','))
        .find_map(|link| {
            let (target, parameters) = link.trim().strip_prefix('<')?.split_once('>')?;
            let is_next = parameters
                .split(';')
                .any(|parameter| matches!(parameter.trim(), "rel=\"next\"" | "rel=next"));
            is_next.then(|| origin_stripped(target))
        })
}

/// Encodes everything but unreserved characters.
pub fn percent_encode(text: &str) -> String {
    let mut encoded = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
            encoded.push('%');
            encoded.push(char::from(DIGITS[usize::from(byte >> 4)]));
            encoded.push(char::from(DIGITS[usize::from(byte & 15)]));
        }
    }
    encoded
}

fn curable(error: &ApiError) -> bool {
    match error {
        ApiError::Http(HttpError::Connection { .. } | HttpError::Late { .. }) => true,
        ApiError::Refused { status, .. } => matches!(status, 429 | 503),
        ApiError::Http(_) | ApiError::Unexpected { .. } | ApiError::Broken(_) => false,
    }
}

fn expect<T: DeserializeOwned>(status: u16, response: &Response) -> Result<T, ApiError> {
    if response.status == status {
        return Ok(response.json()?);
    }
    match response.json::<Problem>() {
        Ok(problem) => Err(ApiError::Refused {
            status: response.status,
            problem: Box::new(problem),
        }),
        Err(_) => Err(ApiError::Unexpected {
            status: response.status,
            body: response.text(),
        }),
    }
}

fn origin_stripped(target: &str) -> String {
    match target.split_once("://") {
        Some((_, rest)) => match rest.find('/') {
            Some(at) => rest[at..].to_owned(),
            None => "/".to_owned(),
        },
        None => target.to_owned(),
    }
}

/// The value of a metric without labels, in the text of Prometheus.
pub fn metric(text: &str, name: &str) -> Option<f64> {
    let mut samples = text.lines().filter_map(|line| line.split_once(' '));
    let (_, value) = samples.find(|(found, _)| *found == name)?;
    value.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    fn answer(status: u16, link: &[&str], body: &str) -> Response {
        Response {
            status,
            headers: link
                .iter()
                .map(|value| ("link".to_owned(), (*value).to_owned()))
                .collect(),
            body: Bytes::copy_from_slice(body.as_bytes()),
        }
    }

    /// Answers each connection with the next of `answers`, then ends.
    async fn scripted(answers: Vec<String>) -> Api {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            for answer in answers {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut buffer = vec![0; 65536];
                let mut seen = 0;
                // One read brings head and body of so short a request, nearly
                // always; the head is enough to answer.
                while !buffer[..seen].windows(4).any(|four| four == b"\r\n\r\n") {
                    seen += stream.read(&mut buffer[seen..]).await.unwrap();
                }
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        });
        Api::new(Http::new(), 1, address)
    }

    fn http(status: &str, headers: &str, body: &str) -> String {
        let length = body.len();
        format!(
            "HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {length}\r\n{headers}\r\n{body}"
        )
    }

    #[test]
    fn the_next_link_is_found_among_others() {
        let link = |values: &[&str]| link_next(&answer(200, values, ""));
        assert_eq!(
            link(&["</a?cursor=x>; rel=\"next\""]).unwrap(),
            "/a?cursor=x"
        );
        assert_eq!(
            link(&["</p>; rel=\"prev\", <http://h:1/a?c=2>; rel=\"next\""]).unwrap(),
            "/a?c=2"
        );
        assert_eq!(link(&["</p>; rel=\"prev\""]), None);
        assert_eq!(link(&[]), None);
    }

    #[test]
    fn everything_but_unreserved_characters_is_encoded() {
        assert_eq!(percent_encode("a-Z_9.~ é%"), "a-Z_9.~%20%C3%A9%25");
    }

    #[test]
    fn a_write_is_unknown_unless_the_node_says_otherwise() {
        let refusal = |body: &str| expect::<Message>(201, &answer(503, &[], body)).unwrap_err();
        let known = r#"{"type":"t","title":"t","status":503,"detail":"d","message":"d"}"#;
        let unknown = known.replace("\"d\"}", "\"d\",\"outcome\":\"unknown\"}");
        assert!(!refusal(known).outcome_unknown());
        assert!(refusal(&unknown).outcome_unknown());
        assert!(refusal("<html>").outcome_unknown());
    }

    #[tokio::test]
    async fn lists_are_followed_page_by_page() {
        let api = scripted(vec![
            http(
                "200 OK",
                "Link: </api/servers?cursor=b>; rel=\"next\"\r\n",
                r#"[{"id":"1","name":"a"}]"#,
            ),
            http("200 OK", "", r#"[{"id":"2","name":"b"}]"#),
        ])
        .await;
        let ids: Vec<String> = api
            .servers()
            .await
            .unwrap()
            .into_iter()
            .map(|s| s.id)
            .collect();
        assert_eq!(ids, ["1", "2"]);
    }

    #[tokio::test]
    async fn posting_repeats_what_may_be_cured_and_nothing_else() {
        let channel = ChannelRef {
            server: "s".to_owned(),
            channel: "c".to_owned(),
        };
        let busy = r#"{"type":"t","title":"t","status":503,"detail":"busy","message":"busy"}"#;
        let posted = r#"{"id":"i","seq":1,"timestamp":1,"username":"u","message":"m"}"#;
        let api = scripted(vec![
            http("503 Service Unavailable", "", busy),
            http("201 Created", "", posted),
            http("422 Unprocessable", "", &busy.replace("503", "422")),
        ])
        .await;
        let deadline = Duration::from_secs(10);
        let apis = [api];
        let message = post_until_acknowledged(&apis, &channel, "u", "m", "k", deadline).await;
        assert_eq!(message.unwrap().seq, 1);
        let refused = post_until_acknowledged(&apis, &channel, "u", "m", "k", deadline).await;
        assert!(refused.unwrap_err().last.contains("busy"));
    }

    #[tokio::test]
    async fn a_gap_in_seq_is_a_broken_promise() {
        let api = scripted(vec![http(
            "200 OK",
            "",
            r#"[{"id":"i","seq":2,"timestamp":1,"username":"u","message":"m"}]"#,
        )])
        .await;
        let channel = ChannelRef {
            server: "s".to_owned(),
            channel: "c".to_owned(),
        };
        let error = api
            .read_all(&channel, Consistency::Stale)
            .await
            .unwrap_err();
        assert!(matches!(error, ApiError::Broken(_)), "{error}");
    }
}
