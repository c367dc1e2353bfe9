//! The cluster file that the nodes are started with. Pure: values to text.
//!
//! Only what a test sets is written, so that everything else is tested with the
//! product's own defaults.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;

/// Overrides of `[timing]`, `[snapshots]` and `[hibernation]`; `None` leaves the product's default.
#[derive(Debug, Clone, Default)]
pub struct RaftOptions {
    /// Lower bound of the election timeout; the upper one is twice that.
    pub election_timeout_ms: Option<u64>,
    pub heartbeat_ms: Option<u64>,
    /// Entries since the last snapshot after which the next is taken.
    pub snapshot_after_entries: Option<u64>,
    /// Entries kept in the log below a snapshot.
    pub snapshot_keep_entries: Option<u64>,
    /// How long nobody has used a channel when it goes to sleep.
    pub idle_ms: Option<u64>,
    /// Channels awake on a node before the least recently used ones sleep sooner.
    pub channels_awake_max: Option<u64>,
}

/// Overrides of `[limits]`; `None` leaves the product's default.
#[derive(Debug, Clone, Default)]
pub struct LimitOptions {
    pub message_bytes_max: Option<u64>,
    pub request_bytes_max: Option<u64>,
    pub socket_unacked_max: Option<u64>,
    pub sockets_max: Option<u64>,
}

/// One `[[node]]` of the file.
#[derive(Debug, Clone)]
pub struct NodeEntry {
    pub id: u64,
    pub api: SocketAddr,
    pub peer: SocketAddr,
    pub data_dir: PathBuf,
    pub zone: Option<String>,
}

/// A whole cluster file.
#[derive(Debug, Clone)]
pub struct ConfigFile {
    pub cluster: String,
    pub replication: u64,
    pub nodes: Vec<NodeEntry>,
    pub raft: RaftOptions,
    pub limits: LimitOptions,
    /// Appended as it is: for keys that a test wants to get wrong.
    pub extra: String,
}

impl ConfigFile {
    pub fn to_toml(&self) -> String {
        let mut text = format!(
            "[cluster]\nname = {}\nreplication = {}\n",
            quoted(&self.cluster),
            self.replication
        );
        section(
            &mut text,
            "timing",
            &[
                ("election_timeout_ms", self.raft.election_timeout_ms),
                ("heartbeat_ms", self.raft.heartbeat_ms),
            ],
        );
        section(
            &mut text,
            "snapshots",
            &[
                ("after_entries", self.raft.snapshot_after_entries),
                ("keep_entries", self.raft.snapshot_keep_entries),
            ],
        );
        section(
            &mut text,
            "hibernation",
            &[
                ("idle_ms", self.raft.idle_ms),
                ("channels_awake_max", self.raft.channels_awake_max),
            ],
        );
        section(
            &mut text,
            "limits",
            &[
                ("message_bytes_max", self.limits.message_bytes_max),
                ("request_bytes_max", self.limits.request_bytes_max),
                ("socket_unacked_max", self.limits.socket_unacked_max),
                ("sockets_max", self.limits.sockets_max),
            ],
        );
        for node in &self.nodes {
            node_section(&mut text, node);
        }
        text.push_str(&self.extra);
        text
    }
}

fn section(text: &mut String, name: &str, keys: &[(&str, Option<u64>)]) {
    if keys.iter().all(|(_, value)| value.is_none()) {
        return;
    }
    push(text, format_args!("\n[{name}]\n"));
    for (key, value) in keys {
        if let Some(value) = value {
            push(text, format_args!("{key} = {value}\n"));
        }
    }
}

fn node_section(text: &mut String, node: &NodeEntry) {
    push(
        text,
        format_args!(
            "\n[[node]]\nid = {}\napi = \"{}\"\npeer = \"{}\"\ndata_dir = {}\n",
            node.id,
            node.api,
            node.peer,
            quoted(&node.data_dir.to_string_lossy()),
        ),
    );
    if let Some(zone) = &node.zone {
        push(text, format_args!("zone = {}\n", quoted(zone)));
    }
}

fn push(text: &mut String, arguments: std::fmt::Arguments<'_>) {
    text.write_fmt(arguments)
        .expect("writing to a String cannot fail");
}

/// A TOML basic string.
fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for character in text.chars() {
        match character {
            '"' | '\\' => {
                quoted.push('\\');
                quoted.push(character);
            }
            control if control.is_control() => {
                push(&mut quoted, format_args!("\\u{:04X}", u32::from(control)));
            }
            other => quoted.push(other),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_holds_what_was_set_and_nothing_else() {
        let file = ConfigFile {
            cluster: "a \"b\"".to_owned(),
            replication: 1,
            nodes: vec![NodeEntry {
                id: 1,
                api: "127.0.0.1:8081".parse().unwrap(),
                peer: "127.0.0.1:9081".parse().unwrap(),
                data_dir: PathBuf::from("/tmp/one"),
                zone: Some("a".to_owned()),
            }],
            raft: RaftOptions {
                snapshot_after_entries: Some(50),
                ..RaftOptions::default()
            },
            limits: LimitOptions::default(),
            extra: "# the end\n".to_owned(),
        };
        let expected = r#"[cluster]
name = "a \"b\""
replication = 1

[snapshots]
after_entries = 50

[[node]]
id = 1
api = "127.0.0.1:8081"
peer = "127.0.0.1:9081"
data_dir = "/tmp/one"
zone = "a"
# the end
"#;
        assert_eq!(file.to_toml(), expected);
    }

    #[test]
    fn control_characters_are_escaped() {
        assert_eq!(quoted("a\nb\\"), "\"a\\u000Ab\\\\\"");
    }
}
