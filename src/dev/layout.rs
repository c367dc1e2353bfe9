//! The local cluster's configuration file: written once, then kept, so that a second start finds
//! the same nodes on the same ports with their data.

use std::fmt::Write as _;
use std::io;
use std::path::Path;
use std::path::PathBuf;

use super::Options;
use crate::config::Config;
use crate::config::ConfigError;
use crate::config::NodeConfig;
use crate::config::Overrides;

const FILE_NAME: &str = "cluster.toml";
const NODES_DEFAULT: u16 = 3;
/// One key per node.
const NODES_MAX: u16 = 9;
const API_PORT_DEFAULT: u16 = 8081;
const PEER_PORT_DEFAULT: u16 = 9081;

/// So that `/help` works at once. Last in the file, where more can be added.
const AGENTS_DEFAULT: &str = "\n[[agent]]\nname = \"accord\"\nkind = \"builtin\"\n";

/// Where everything is.
#[derive(Clone, Debug)]
pub struct Layout {
    /// The configuration file.
    pub path: PathBuf,
    pub dir: PathBuf,
    pub nodes: Vec<NodeConfig>,
}

/// Why there is no layout; each is a sentence.
#[derive(Debug, thiserror::Error)]
pub enum LayoutError {
    #[error("cannot use {path}: {source}")]
    Io { path: PathBuf, source: io::Error },
    #[error("{path} is not valid Unicode, which the configuration file needs")]
    NotUnicode { path: PathBuf },
    #[error("a local cluster has 1 to {NODES_MAX} nodes, not {0}")]
    Nodes(u16),
    #[error(
        "{dir} holds a cluster of {found} nodes, not {asked}: \
         leave --nodes away, or choose another --data-dir"
    )]
    OtherNodes {
        dir: PathBuf,
        found: usize,
        asked: u16,
    },
    #[error("the ports from {0} on do not suffice")]
    Ports(u16),
    #[error("{0}")]
    Config(#[from] ConfigError),
}

/// Reads the configuration of a data directory, or writes it. Ports that are asked for replace those
/// that it has.
pub fn prepare(options: &Options) -> Result<Layout, LayoutError> {
    if let Some(nodes) = options
        .nodes
        .filter(|nodes| !(1..=NODES_MAX).contains(nodes))
    {
        return Err(LayoutError::Nodes(nodes));
    }
    let dir = std::path::absolute(&options.data_dir).map_err(|source| LayoutError::Io {
        path: options.data_dir.clone(),
        source,
    })?;
    let path = dir.join(FILE_NAME);
    let ports_asked = options.api_port.is_some() || options.peer_port.is_some();
    let (nodes, api_port, peer_port) = match read(&path)? {
        Some(config) => {
            let found = config.nodes.len();
            if let Some(asked) = options.nodes.filter(|asked| usize::from(*asked) != found) {
                return Err(LayoutError::OtherNodes { dir, found, asked });
            }
            if !ports_asked {
                return Ok(Layout {
                    path,
                    dir,
                    nodes: config.nodes,
                });
            }
            let first = config.node(1);
            (
                u16::try_from(found).unwrap_or(NODES_MAX),
                first.and_then(|node| port_of(&node.api)),
                first.and_then(|node| port_of(&node.peer)),
            )
        }
        None => (options.nodes.unwrap_or(NODES_DEFAULT), None, None),
    };
    let agents = match std::fs::read_to_string(&path) {
        Ok(known) => agents_of(&known).to_owned(),
        Err(_) => AGENTS_DEFAULT.to_owned(),
    };
    let mut text = text(
        &dir,
        nodes,
        options.api_port.or(api_port).unwrap_or(API_PORT_DEFAULT),
        options.peer_port.or(peer_port).unwrap_or(PEER_PORT_DEFAULT),
    )?;
    text.push_str(&agents);
    let config = parse(&text, &path)?;
    write(&dir, &path, &text).map_err(|source| LayoutError::Io {
        path: path.clone(),
        source,
    })?;
    Ok(Layout {
        path,
        dir,
        nodes: config.nodes,
    })
}

fn read(path: &Path) -> Result<Option<Config>, LayoutError> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(parse(&text, path)?)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(LayoutError::Io {
            path: path.to_owned(),
            source,
        }),
    }
}

fn parse(text: &str, path: &Path) -> Result<Config, ConfigError> {
    Config::parse(text, &path.display().to_string(), 1, &Overrides::default())
}

fn text(dir: &Path, nodes: u16, api_port: u16, peer_port: u16) -> Result<String, LayoutError> {
    let mut text = String::from(
        "# Written by `accord dev`, which keeps it while no other ports are asked for.\n\
         [cluster]\n\
         name = \"dev\"\n",
    );
    for index in 0..nodes {
        let port = |first: u16| first.checked_add(index).ok_or(LayoutError::Ports(first));
        let id = index + 1;
        let data_dir = dir.join(format!("node-{id}"));
        let Some(data_dir) = data_dir.to_str() else {
            return Err(LayoutError::NotUnicode { path: data_dir });
        };
        let data_dir = toml::Value::String(data_dir.to_owned());
        let (api, peer) = (port(api_port)?, port(peer_port)?);
        write!(
            text,
            "\n[[node]]\n\
             id = {id}\n\
             api = \"127.0.0.1:{api}\"\n\
             peer = \"127.0.0.1:{peer}\"\n\
             data_dir = {data_dir}\n"
        )
        .expect("a String takes any text");
    }
    Ok(text)
}

/// What stands from the first agent on: agents are the user's, and stay when ports change.
fn agents_of(text: &str) -> &str {
    text.find("\n[[agent]]").map_or("", |at| &text[at..])
}

fn port_of(address: &str) -> Option<u16> {
    address.rsplit_once(':')?.1.parse().ok()
}

/// As a whole or not at all.
fn write(dir: &Path, path: &Path, text: &str) -> io::Result<()> {
    std::fs::create_dir_all(dir)?;
    let temporary = path.with_extension("toml.new");
    std::fs::write(&temporary, text)?;
    std::fs::rename(&temporary, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(dir: &Path, nodes: Option<u16>, api_port: Option<u16>) -> Options {
        Options {
            data_dir: dir.to_owned(),
            nodes,
            api_port,
            peer_port: None,
        }
    }

    #[test]
    fn a_layout_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("a \"b\"");
        let first = prepare(&options(&dir, Some(5), Some(7_000))).unwrap();
        assert_eq!(first.nodes.len(), 5);
        assert_eq!(first.nodes[4].api, "127.0.0.1:7004");
        assert_eq!(first.nodes[4].peer, "127.0.0.1:9085");
        assert_eq!(first.nodes[4].data_dir, dir.join("node-5"));
        let again = prepare(&options(&dir, None, None)).unwrap();
        assert_eq!(again.nodes, first.nodes);
        let moved = prepare(&options(&dir, Some(5), Some(7_100))).unwrap();
        assert_eq!(moved.nodes[0].api, "127.0.0.1:7100");
        let peers = Options {
            peer_port: Some(7_200),
            ..options(&dir, None, None)
        };
        let moved = prepare(&peers).unwrap();
        assert_eq!(moved.nodes[4].api, "127.0.0.1:7104");
        assert_eq!(moved.nodes[4].peer, "127.0.0.1:7204");
        let error = prepare(&options(&dir, Some(3), None)).unwrap_err();
        assert!(
            error.to_string().contains("a cluster of 5 nodes, not 3"),
            "{error}"
        );
    }

    #[test]
    fn agents_are_kept_when_ports_change() {
        let dir = tempfile::tempdir().unwrap();
        let first = prepare(&options(dir.path(), None, None)).unwrap();
        let agents = |layout: &Layout| -> Vec<String> {
            let config = read(&layout.path).unwrap().unwrap();
            config.agents.into_iter().map(|agent| agent.name).collect()
        };
        assert_eq!(agents(&first), ["accord"]);
        let mut text = std::fs::read_to_string(&first.path).unwrap();
        text.push_str(&AGENTS_DEFAULT.replace("accord", "other"));
        let text = text.replace("\"accord\"", "\"helper\"").replace(
            "name = \"other\"\nkind = \"builtin\"",
            "name = \"ask\"\nkind = \"openai\"\nbase_url = \"http://a/v1\"\nmodel = \"m\"",
        );
        std::fs::write(&first.path, text).unwrap();
        let moved = prepare(&options(dir.path(), None, Some(7_300))).unwrap();
        assert_eq!(moved.nodes[0].api, "127.0.0.1:7300");
        assert_eq!(agents(&moved), ["helper", "ask"]);
    }

    #[test]
    fn what_cannot_work_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        for (nodes, api_port) in [(0, 8_000), (10, 8_000), (3, 65_534), (3, 9_080)] {
            let options = options(dir.path(), Some(nodes), Some(api_port));
            assert!(prepare(&options).is_err(), "{nodes} {api_port}");
        }
    }
}
