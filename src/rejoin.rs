//! `accord rejoin`: what an operator gives for a node whose data is damaged or lost.

use accord_raft::OldData;
use accord_raft::RejoinOptions;
use accord_raft::rejoin;

use crate::target::Target;

#[derive(Debug, clap::Args)]
pub struct Options {
    #[command(flatten)]
    target: Target,
    /// Delete the old data instead of keeping it beside the new directory
    #[arg(long)]
    delete: bool,
}

/// Why a node cannot rejoin; each is a sentence.
#[derive(Debug, thiserror::Error)]
enum RejoinError {
    #[error(
        "node {node} is the only one of its cluster: there is nobody to copy its data from. \
         Restore the directory from a backup, or remove it to begin anew"
    )]
    Alone { node: u64 },
}

/// Does it and says so.
#[expect(clippy::print_stdout, reason = "what was done is the command's output")]
pub fn run(options: &Options) -> Result<(), Box<dyn std::error::Error>> {
    let node = options.target.node;
    let (config, own) = options.target.load()?;
    if config.nodes.len() == 1 {
        return Err(RejoinError::Alone { node }.into());
    }
    let rejoined = rejoin(&RejoinOptions {
        cluster: config.cluster.clone(),
        node,
        data_dir: own.data_dir.clone(),
        delete: options.delete,
    })?;
    let dir = own.data_dir.display();
    match rejoined.old {
        OldData::Nothing => println!("There was no data in {dir}."),
        OldData::MovedTo(path) => println!(
            "Moved the old data to {}. Remove it when it is no longer of interest.",
            path.display()
        ),
        OldData::Deleted => println!("Deleted the old data in {dir}."),
    }
    println!("{dir} is empty now and marked as node {node}'s from here on.");
    println!(
        "Next: start the node with `accord serve --config {} --node {node}` while all other nodes \
         run. It copies everything from them, and /readyz answers 200 when that is done.",
        options.target.config.display()
    );
    Ok(())
}
