//! What the process says about itself, on standard error.
//!
//! One line per event that an operator would want to know of, none per message or request. JSON on
//! request, with the same fields. `ACCORD_LOG` (or `--log`) selects levels as `RUST_LOG` does
//! elsewhere: `debug`, `info,accord_raft=debug`, …

use std::io::IsTerminal as _;

use tracing_subscriber::EnvFilter;

/// The engine below reports each of its own steps at `info`, and each attempt to reach a peer that is
/// down at `warn`; what matters of them, the `raft` crate says in its own words and once.
const FILTER_DEFAULT: &str = "info,openraft=error";

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// One compact line per event.
    Human,
    /// One JSON object per line.
    Json,
}

/// Starts logging.
///
/// # Errors
/// A sentence, when `filter` cannot be understood.
pub fn start(format: LogFormat, filter: Option<&str>) -> Result<(), String> {
    let directives = match filter {
        // What is asked for comes last and so wins over the default for the same target.
        Some(filter) => format!("{FILTER_DEFAULT},{filter}"),
        None => FILTER_DEFAULT.to_owned(),
    };
    let filter = EnvFilter::try_new(&directives)
        .map_err(|error| format!("the log filter \"{directives}\" is not valid: {error}"))?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    match format {
        LogFormat::Human => builder
            .compact()
            .with_target(false)
            .with_ansi(std::io::stderr().is_terminal())
            .init(),
        LogFormat::Json => builder.json().flatten_event(true).init(),
    }
    Ok(())
}
