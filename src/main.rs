//! `accord`: one node of a replicated message store, or a local cluster of them.
//!
//! This file is the command line; `serve` is a node's life, `dev` the supervisor of a local
//! cluster, `bench` what measures one. The modules below them, from the outside in: `listen` (connections), `api` (requests),
//! `socket` (WebSockets), `delivery` (committed messages on their way to sockets). Consensus and
//! storage are crates of their own, and nothing in here names them beyond `accord_raft`.

mod api;
mod app;
mod bench;
mod config;
mod counters;
mod delivery;
mod dev;
#[cfg(test)]
mod fuzzing;
mod listen;
mod logging;
#[cfg(feature = "planted-bugs")]
mod planted;
mod process;
mod rejoin;
mod serve;
mod socket;
mod target;

use std::process::ExitCode;

use clap::Parser;
use clap::Subcommand;

use logging::LogFormat;
use target::Target;

/// Also for RocksDB. Chosen by measurement (docs/benchmarks.md): after 12,000 channels were written to and
/// woken a node kept 294 MiB with glibc's allocator, and 123 with this one, which gives memory back to
/// the system within seconds of a burst.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// A replicated message store: servers, channels, messages, over REST and WebSockets.
#[derive(Debug, Parser)]
#[command(name = "accord", version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run one node of a cluster.
    ///
    /// The node takes part in the cluster that the configuration describes. The first start of a
    /// new cluster needs nothing else; a node that has data goes on from there. SIGTERM and SIGINT
    /// stop it gracefully within five seconds.
    Serve(Box<Serve>),
    /// Prepare a node whose data is damaged or lost to come back, with nothing but its id.
    ///
    /// Sets the data directory aside and makes an empty one that the other nodes accept in its place.
    /// `accord serve` then copies everything from them; until that is done the node does not vote,
    /// and it is not ready. The other nodes must all be running for that. The node itself must be
    /// stopped, on every machine that it may have run on.
    Rejoin(Box<rejoin::Options>),
    /// Run a local cluster: one process per node, under a supervisor.
    ///
    /// Data and the generated configuration stay in the data directory over restarts. On a terminal
    /// the keys 1, 2, 3 … kill a node (SIGKILL) or start it again, s shows the state, q quits.
    Dev(dev::Options),
    /// Measure a cluster from outside: throughput, latency, what a message costs.
    ///
    /// Opens plain WebSockets on all nodes, sends, and checks on each socket that nothing is missing,
    /// repeated or out of order; ends with status 1 if anything is. Prints the median and the range of
    /// all rounds. Without --urls it starts three nodes of its own, and removes their data at the end.
    Bench(Box<bench::Options>),
}

#[derive(Debug, clap::Args)]
struct Serve {
    #[command(flatten)]
    target: Target,
    /// How log lines look
    #[arg(long, env = "ACCORD_LOG_FORMAT", value_enum, default_value_t = LogFormat::Human)]
    log_format: LogFormat,
    /// What is logged: a level, or targets with levels, such as "info,accord_raft=debug"
    #[arg(long, env = "ACCORD_LOG", value_name = "FILTER")]
    log: Option<String>,
    /// Stop when standard input ends (for a supervisor that holds it open)
    #[arg(long)]
    exit_with_parent: bool,
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Serve(serve) => run_serve(*serve),
        Command::Rejoin(options) => rejoin::run(&options),
        Command::Dev(options) => run_dev(options),
        Command::Bench(options) => run_bench(*options),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("accord: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run_serve(serve: Serve) -> Result<(), Box<dyn std::error::Error>> {
    let (config, own) = serve.target.load()?;
    logging::start(serve.log_format, serve.log.as_deref())?;
    #[cfg(feature = "planted-bugs")]
    planted::plant()?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let result = runtime.block_on(serve::serve(config, own, serve.exit_with_parent));
    // Whatever still runs was cut off on purpose; a thread that hangs must not hold the process.
    runtime.shutdown_background();
    Ok(result?)
}

fn run_dev(options: dev::Options) -> Result<(), Box<dyn std::error::Error>> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let result = runtime.block_on(dev::run(options));
    runtime.shutdown_background();
    Ok(result?)
}

fn run_bench(options: bench::Options) -> Result<(), Box<dyn std::error::Error>> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let result = runtime.block_on(bench::run(options));
    // A load that was interrupted still runs in its threads.
    runtime.shutdown_background();
    Ok(result?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        use clap::CommandFactory as _;
        Cli::command().debug_assert();
    }
}
