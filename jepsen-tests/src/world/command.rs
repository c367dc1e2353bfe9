//! Tools of the system, run to their end.

use std::io::Write;
use std::process::{Command, Stdio};

use super::WorldError;

/// Runs a command; its standard output, or an error that holds what it complained about.
///
/// Blocks; for tools that take moments (`ip`, `mount`, `losetup`, `mkfs`, `gcc`).
pub fn run(words: &[&str]) -> Result<String, WorldError> {
    run_with_input(words, "")
}

/// The same, with something to read.
pub fn run_with_input(words: &[&str], input: &str) -> Result<String, WorldError> {
    let failed = |why: String| WorldError::Command {
        command: words.join(" "),
        why,
    };
    let (program, arguments) = words
        .split_first()
        .expect("every command that is run here names its program");
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| failed(error.to_string()))?;
    // Inputs are far smaller than a pipe's buffer, so this cannot wait for the child's output.
    if let Some(mut pipe) = child.stdin.take() {
        // A child that ended without reading is judged by its status.
        let _ = pipe.write_all(input.as_bytes());
    }
    let output = child
        .wait_with_output()
        .map_err(|error| failed(error.to_string()))?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        let complaint = String::from_utf8_lossy(&output.stderr);
        Err(failed(format!("{}: {}", output.status, complaint.trim())))
    }
}

/// Whether a program of this name can be started.
pub fn exists(program: &str) -> bool {
    std::env::var_os("PATH").is_some_and(|path| {
        std::env::split_paths(&path).any(|directory| directory.join(program).is_file())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_shows_the_command_and_its_complaint() {
        assert_eq!(run_with_input(&["cat"], "x").unwrap(), "x");
        let error = run(&["sh", "-c", "echo no >&2; exit 3"])
            .unwrap_err()
            .to_string();
        assert!(error.contains("sh -c") && error.contains("no"), "{error}");
        assert!(exists("sh") && !exists("no-such-program"));
        assert!(run(&["no-such-program"]).is_err());
    }
}
