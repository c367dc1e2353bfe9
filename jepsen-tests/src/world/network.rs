//! What lies between the nodes: one of three things, with the same rules.

use std::sync::Arc;

use crate::cluster::NodePlace;

use super::namespaces::Namespaces;
use super::proxy::Proxies;
use super::rules::Rules;
use super::{NetworkKind, WorldError};

#[derive(Debug)]
pub struct Network {
    rules: Arc<Rules>,
    path: Path,
}

/// Kept for what its parts do when they are dropped.
#[derive(Debug)]
enum Path {
    Switched { _namespaces: Namespaces },
    Proxied { _proxies: Proxies },
    Plain,
}

impl Network {
    /// The network, and where each node runs in it.
    pub async fn start(
        kind: NetworkKind,
        nodes: u64,
        seed: u64,
    ) -> Result<(Self, Vec<NodePlace>), WorldError> {
        let rules = Arc::new(Rules::new(nodes));
        let kind = match (kind, Namespaces::missing()) {
            (NetworkKind::Best, None) => NetworkKind::Namespaces,
            (NetworkKind::Best, Some(_)) => NetworkKind::Proxy,
            (NetworkKind::Namespaces, Some(why)) => return Err(WorldError::Impossible(why)),
            (kind, _) => kind,
        };
        let (path, places) = match kind {
            NetworkKind::Best | NetworkKind::Namespaces => {
                let (namespaces, places) = Namespaces::start(nodes, &rules, seed)?;
                let path = Path::Switched {
                    _namespaces: namespaces,
                };
                (path, places)
            }
            NetworkKind::Proxy => {
                let (proxies, places) = Proxies::start(nodes, &rules, seed).await?;
                (Path::Proxied { _proxies: proxies }, places)
            }
            NetworkKind::Plain => (Path::Plain, vec![NodePlace::default(); nodes_len(nodes)]),
        };
        Ok((Self { rules, path }, places))
    }

    pub fn rules(&self) -> &Rules {
        &self.rules
    }

    pub fn kind(&self) -> NetworkKind {
        match self.path {
            Path::Switched { .. } => NetworkKind::Namespaces,
            Path::Proxied { .. } => NetworkKind::Proxy,
            Path::Plain => NetworkKind::Plain,
        }
    }
}

fn nodes_len(nodes: u64) -> usize {
    usize::try_from(nodes).expect("a world's nodes fit in memory")
}
