//! One node's process.

use std::io;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use rustix::process::Pid;
use rustix::process::Signal;
use rustix::process::kill_process_group;
use tokio::io::AsyncBufReadExt as _;
use tokio::io::AsyncRead;
use tokio::io::BufReader;
use tokio::process::Command;
use tokio::sync::mpsc;

use super::Event;
use super::probe;
use crate::config::NodeConfig;

/// Between two looks at whether a node that was started is ready. Ends with the first yes.
const READY_CHECK: Duration = Duration::from_millis(100);

/// Keys of a single node that would otherwise be replaced for all of them alike.
const NOT_INHERITED: [&str; 4] = [
    "ACCORD_API",
    "ACCORD_PEER",
    "ACCORD_DATA_DIR",
    "ACCORD_ZONE",
];

/// A process that is running, or has ended without the supervisor having heard yet.
#[derive(Debug)]
pub struct Child {
    pid: u32,
    orders: mpsc::Sender<Signal>,
}

impl Child {
    /// Starts a node; what becomes of it comes as events.
    pub fn start(
        config_path: &Path,
        node: &NodeConfig,
        events: mpsc::Sender<Event>,
    ) -> io::Result<Child> {
        let mut command = Command::new(std::env::current_exe()?);
        command
            .arg("serve")
            .arg("--config")
            .arg(config_path)
            .args(["--node", &node.id.to_string()])
            .arg("--exit-with-parent")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // Ctrl-C on the terminal is for the supervisor, which then stops the nodes in order.
            .process_group(0)
            .kill_on_drop(true);
        for name in NOT_INHERITED {
            command.env_remove(name);
        }
        let child = command.spawn()?;
        let pid = child
            .id()
            .ok_or_else(|| io::Error::other("it ended at once"))?;
        // One order to kill is as good as many.
        let (orders, ordered) = mpsc::channel(4);
        tokio::spawn(watch(child, pid, node.clone(), ordered, events));
        Ok(Child { pid, orders })
    }

    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// At once, as a crash would.
    pub fn kill(&self) {
        let _ = self.orders.try_send(Signal::KILL);
    }

    /// Please.
    pub fn terminate(&self) {
        let _ = self.orders.try_send(Signal::TERM);
    }
}

async fn watch(
    mut child: tokio::process::Child,
    pid: u32,
    node: NodeConfig,
    mut ordered: mpsc::Receiver<Signal>,
    events: mpsc::Sender<Event>,
) {
    // Held open: its end is how the child learns that the supervisor has gone.
    let _stdin = child.stdin.take();
    let out = child
        .stdout
        .take()
        .map(|out| pass_on(node.id, out, &events));
    let err = child
        .stderr
        .take()
        .map(|err| pass_on(node.id, err, &events));
    let ready = tokio::spawn(report_ready(node.id, node.api, events.clone()));
    let status = loop {
        tokio::select! {
            status = child.wait() => break status.ok(),
            Some(signal) = ordered.recv() => send(pid, signal),
        }
    };
    ready.abort();
    // What it said last should be shown before it is said to have ended.
    for lines in [out, err].into_iter().flatten() {
        let _ = lines.await;
    }
    let node = node.id;
    let _ = events.send(Event::Ended { node, status }).await;
}

/// The child is not reaped while this can be called, so the id is still its own.
fn send(pid: u32, signal: Signal) {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    if let Some(pid) = pid {
        // It fails only when the process has ended, which is heard of in any case.
        let _ = kill_process_group(pid, signal);
    }
}

fn pass_on(
    node: u64,
    stream: impl AsyncRead + Unpin + Send + 'static,
    events: &mpsc::Sender<Event>,
) -> tokio::task::JoinHandle<()> {
    let events = events.clone();
    tokio::spawn(async move {
        let mut lines = BufReader::new(stream).lines();
        while let Ok(Some(text)) = lines.next_line().await {
            if events.send(Event::Line { node, text }).await.is_err() {
                return;
            }
        }
    })
}

async fn report_ready(node: u64, api: String, events: mpsc::Sender<Event>) {
    while !probe::is_ready(&api).await {
        #[expect(
            clippy::disallowed_methods,
            reason = "another process's readiness is asked for"
        )]
        tokio::time::sleep(READY_CHECK).await;
    }
    let _ = events.send(Event::Ready { node }).await;
}
