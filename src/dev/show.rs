//! What the supervisor prints.

use std::fmt::Write as _;
use std::io::Write as _;

use serde::Deserialize;

use super::layout::Layout;
use super::probe;
use crate::config::NodeConfig;

/// Prints one text and a line end. If nobody reads any more there is nobody to tell.
pub fn say(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{text}");
    let _ = out.flush();
}

pub fn url(node: &NodeConfig) -> String {
    format!("http://{}", node.api)
}

pub fn starting(layout: &Layout) -> String {
    let count = layout.nodes.len();
    let nodes = if count == 1 { "node" } else { "nodes" };
    format!(
        "accord | starting {count} {nodes}, data in {}",
        layout.dir.display()
    )
}

/// Where the cluster is and how to try it. The lines are meant to be pasted.
pub fn welcome(layout: &Layout, has_keys: bool) -> String {
    let mut text = String::from("\nThe cluster is ready:\n");
    for node in &layout.nodes {
        writeln!(text, "  node {}  {}", node.id, url(node)).expect("a String takes any text");
    }
    text.push_str("\nTry it in another terminal, each line at another node:\n");
    for line in curl_lines(layout) {
        text.push_str("  ");
        text.push_str(&line);
        text.push('\n');
    }
    if has_keys {
        let count = layout.nodes.len();
        let range = if count == 1 {
            "1".to_owned()
        } else {
            format!("1 to {count}")
        };
        writeln!(
            text,
            "\nKeys: {range} kills a node, or starts it again; s shows the state; q quits."
        )
        .expect("a String takes any text");
    }
    text
}

/// Makes a server, a channel in it, and a message in that, which it then reads.
fn curl_lines(layout: &Layout) -> [String; 3] {
    const POST: &str = "curl -s -H 'content-type: application/json' -d";
    const ID: &str = r#"sed 's/.*"id":"\([^"]*\)".*/\1/'"#;
    let at = |index: usize| url(&layout.nodes[index % layout.nodes.len()]);
    let messages = "/api/servers/$SERVER/channels/$CHANNEL/messages";
    [
        format!(
            "SERVER=$({POST} '{{\"name\":\"workshop\"}}' {}/api/servers | {ID})",
            at(0)
        ),
        format!(
            "CHANNEL=$({POST} '{{\"name\":\"general\"}}' {}/api/servers/$SERVER/channels | {ID})",
            at(1)
        ),
        format!(
            "{POST} '{{\"username\":\"ann\",\"message\":\"hello\"}}' {}{messages}; echo; \
             curl -s {}{messages}; echo",
            at(2),
            at(0)
        ),
    ]
}

/// The part of `/api/cluster` that is shown.
#[derive(Debug, Deserialize)]
struct Overview {
    groups: Groups,
    directory: Directory,
}

#[derive(Debug, Deserialize)]
struct Groups {
    open: u64,
    leading: u64,
}

#[derive(Debug, Deserialize)]
struct Directory {
    leader: Option<u64>,
    term: u64,
}

/// Asks every node how it is and prints it.
pub async fn state(layout: Layout, pids: Vec<Option<u32>>) {
    for (node, pid) in layout.nodes.iter().zip(pids) {
        let line = match pid {
            Some(pid) => format!("pid {pid}, {}", of_node(node).await),
            None => "down".to_owned(),
        };
        say(&format!(
            "accord | node {} at {}: {line}",
            node.id,
            url(node)
        ));
    }
}

async fn of_node(node: &NodeConfig) -> String {
    let ready = match probe::is_ready(&node.api).await {
        true => "ready",
        false => "not ready",
    };
    let Ok((200, body)) = probe::get(&node.api, "/api/cluster").await else {
        return ready.to_owned();
    };
    let Ok(Overview { groups, directory }) = serde_json::from_str(&body) else {
        return ready.to_owned();
    };
    let leader = match directory.leader {
        Some(leader) => format!("node {leader}"),
        None => "nobody".to_owned(),
    };
    format!(
        "{ready}, leads {} of {} open groups, sees {leader} lead the directory in term {}",
        groups.leading, groups.open, directory.term
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(count: u16) -> Layout {
        let node = |id: u16| NodeConfig {
            id: id.into(),
            api: format!("127.0.0.1:{}", 8_080 + id),
            peer: format!("127.0.0.1:{}", 9_080 + id),
            data_dir: "d".into(),
            zone: None,
        };
        Layout {
            path: "cluster.toml".into(),
            dir: ".".into(),
            nodes: (1..=count).map(node).collect(),
        }
    }

    #[test]
    fn each_line_asks_another_node() {
        let lines = curl_lines(&layout(3));
        for (line, port) in lines.iter().zip([8_081, 8_082, 8_083]) {
            assert!(
                line.contains(&format!("127.0.0.1:{port}/api/servers")),
                "{line}"
            );
        }
        assert_eq!(
            lines[0],
            "SERVER=$(curl -s -H 'content-type: application/json' -d '{\"name\":\"workshop\"}' \
             http://127.0.0.1:8081/api/servers | sed 's/.*\"id\":\"\\([^\"]*\\)\".*/\\1/')"
        );
        assert!(curl_lines(&layout(1))[2].contains("127.0.0.1:8081"));
    }

    #[test]
    fn keys_are_explained_only_where_there_are_any() {
        assert!(welcome(&layout(3), true).contains("1 to 3 kills"));
        assert!(!welcome(&layout(3), false).contains("Keys"));
    }
}
