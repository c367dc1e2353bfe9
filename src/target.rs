//! Which node of which configuration a command is about.

use std::path::PathBuf;

use crate::config::Config;
use crate::config::ConfigError;
use crate::config::NodeConfig;
use crate::config::Overrides;

#[derive(Debug, clap::Args)]
pub struct Target {
    /// The cluster's configuration, the same for all nodes
    #[arg(
        long,
        env = "ACCORD_CONFIG",
        value_name = "FILE",
        default_value = "cluster.toml"
    )]
    pub config: PathBuf,
    /// Which node of it
    #[arg(long, env = "ACCORD_NODE", value_name = "ID")]
    pub node: u64,
    #[command(flatten)]
    overrides: Overrides,
}

impl Target {
    /// The whole configuration, and the node's own part of it.
    ///
    /// # Errors
    /// If the file cannot be read, is not sound, or does not know the node.
    pub fn load(&self) -> Result<(Config, NodeConfig), ConfigError> {
        let config = Config::load(&self.config, self.node, &self.overrides)?;
        let own = config.node(self.node).cloned();
        let own = own.ok_or(ConfigError::NoSuchNode {
            node: self.node,
            known: String::new(),
        })?;
        Ok((config, own))
    }
}
