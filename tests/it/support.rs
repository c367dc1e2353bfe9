//! What every module of these tests needs: the deadline, the shared cluster,
//! and checks of answers.

use std::future::Future;
use std::path::PathBuf;
use std::time::Duration;

use accord_jepsen::{
    Api, ChannelRef, Cluster, ClusterOptions, ConnectOptions, Problem, Response, Socket,
    sweep_abandoned,
};
use tokio::sync::OnceCell;

/// A bound on anything that a healthy cluster does; far above what it takes.
pub const SOON: Duration = Duration::from_secs(30);

/// An id that no server or channel has, in the form of one.
pub const NOBODY: &str = "01890a5d-ac96-774b-bcce-b302099a8057";

/// Directories of shared clusters are `{this}{process id}-…`.
const SHARED_PREFIX: &str = "accord-shared-";

/// Runs a test's body with a hard deadline.
///
/// The body is dropped while the panic of the deadline unwinds, so that its
/// clusters know that they belong to a failed test and keep their logs.
pub fn run(seconds: u64, body: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let mut body = Box::pin(body);
    runtime.block_on(async {
        let ended = tokio::time::timeout(Duration::from_secs(seconds), body.as_mut()).await;
        assert!(ended.is_ok(), "the test did not end within {seconds} s");
    });
}

/// Options for a cluster of this many nodes of the binary under test.
pub fn options(nodes: u64) -> ClusterOptions {
    let built = option_env!("CARGO_BIN_EXE_accord").map(PathBuf::from);
    ClusterOptions {
        binary: std::env::var_os("ACCORD_BIN").map(PathBuf::from).or(built),
        ..ClusterOptions::new(nodes)
    }
}

/// A cluster of one's own, ready.
pub async fn own_cluster(nodes: u64) -> Cluster {
    started(options(nodes)).await
}

/// A cluster with these options, ready.
pub async fn started(options: ClusterOptions) -> Cluster {
    match Cluster::start(options).await {
        Ok(cluster) => cluster,
        Err(error) => panic!("{error}"),
    }
}

/// The three-node cluster that all harmless tests of this process share. Each
/// makes its own server and channels in it. It is never dropped: its processes
/// die with ours, and its directory is swept by the next run.
pub async fn shared() -> &'static Cluster {
    static SHARED: OnceCell<Result<Cluster, String>> = OnceCell::const_new();
    let started = SHARED
        .get_or_init(|| async {
            sweep_abandoned(SHARED_PREFIX);
            let options = ClusterOptions {
                directory_prefix: format!("{SHARED_PREFIX}{}-", std::process::id()),
                ..options(3)
            };
            Cluster::start(options)
                .await
                .map_err(|error| error.to_string())
        })
        .await;
    match started {
        Ok(cluster) => cluster,
        Err(error) => panic!("the shared cluster did not start: {error}"),
    }
}

/// Clients of the shared cluster's three nodes.
pub async fn shared_apis() -> [Api; 3] {
    let cluster = shared().await;
    [1, 2, 3].map(|node| cluster.api(node))
}

/// A client of one node of the shared cluster and a new channel.
pub async fn shared_channel() -> (Api, ChannelRef) {
    let api = shared().await.api(1);
    let channel = api.new_channel().await.unwrap();
    (api, channel)
}

/// Asserts an error answer in the form that the contract gives it.
#[track_caller]
pub fn assert_problem(response: &Response, status: u16) -> Problem {
    let text = response.text();
    assert_eq!(response.status, status, "{text}");
    let content_type = response.header("content-type").unwrap_or("none");
    assert!(
        content_type.starts_with("application/problem+json"),
        "content-type {content_type}: {text}"
    );
    let problem: Problem = response.json().unwrap();
    assert_eq!(problem.status, status, "{text}");
    assert!(
        !problem.kind.is_empty() && !problem.title.is_empty(),
        "{text}"
    );
    assert!(!problem.detail.is_empty(), "{text}");
    assert_eq!(
        problem.message, problem.detail,
        "the text is repeated in message"
    );
    problem
}

/// Asserts that the answer is an error in the right form with one of these
/// statuses, where the contract leaves a choice.
#[track_caller]
pub fn assert_problem_of(response: &Response, statuses: &[u16]) {
    assert!(
        statuses.contains(&response.status),
        "{} is none of {statuses:?}: {}",
        response.status,
        response.text()
    );
    assert_problem(response, response.status);
}

/// A rich socket and the seq of its hello.
pub async fn rich(api: &Api, channel: &ChannelRef, username: &str) -> (Socket, u64) {
    rich_with(api, channel, &ConnectOptions::rich(username)).await
}

/// A rich socket with options, and the seq of its hello.
pub async fn rich_with(api: &Api, channel: &ChannelRef, options: &ConnectOptions) -> (Socket, u64) {
    let mut socket = api.connect_with(channel, options).await.unwrap();
    let first = socket.frame().await.unwrap();
    match first.kind {
        accord_jepsen::Kind::Hello { seq } => (socket, seq),
        other => panic!("a rich socket begins with hello, not {other:?}"),
    }
}

/// Asserts that these are consecutive, beginning with `first`.
#[track_caller]
pub fn assert_gapless(messages: &[accord_jepsen::Message], first: u64) {
    for (offset, message) in messages.iter().enumerate() {
        assert_eq!(message.seq, first + offset as u64, "{message:?}");
    }
}
