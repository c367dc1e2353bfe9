//! `accord bench`: that it finds a sound cluster sound, and says what it found. What the figures are
//! is no business of a test.

use std::path::PathBuf;
use std::process::Output;

use crate::support::{options, run, shared};

async fn bench(arguments: &[&str]) -> Output {
    let binary: PathBuf = options(1).binary.unwrap();
    let mut command = tokio::process::Command::new(binary);
    command
        .arg("bench")
        .args(["--rounds", "1", "--seconds", "1"]);
    command.args(arguments).kill_on_drop(true);
    command.output().await.unwrap()
}

#[track_caller]
fn lines(file: &std::path::Path) -> Vec<serde_json::Value> {
    let text = std::fs::read_to_string(file).unwrap();
    let lines = text.lines();
    lines
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[test]
fn a_cluster_of_its_own_is_measured_and_gone_afterwards() {
    run(120, async {
        let dir = tempfile::tempdir().unwrap();
        let (data, json) = (dir.path().join("data"), dir.path().join("json"));
        let [data_dir, file] = [&data, &json].map(|path| path.to_str().unwrap());
        let output = bench(&["--data-dir", data_dir, "--json", file, "a", "h"]).await;
        assert!(output.status.success(), "{output:?}");
        assert_eq!(std::fs::read_dir(&data).unwrap().count(), 0);
        let table = String::from_utf8(output.stdout).unwrap();
        assert!(table.contains("| a ") && table.contains("| h "), "{table}");
        let lines = lines(&json);
        let cases: Vec<&str> = lines
            .iter()
            .filter_map(|line| line["case"].as_str())
            .collect();
        assert_eq!(cases, ["a", "h"]);
        for line in &lines[..2] {
            for name in [
                "acked_per_s",
                "ack_p99_ms",
                "server_us_per_ack",
                "server_mib",
            ] {
                assert!(line[name].as_f64().unwrap() > 0.0, "{line}");
            }
        }
        assert!(lines[1]["deliveries_per_s"].as_f64() > lines[1]["acked_per_s"].as_f64());
        assert!(lines[2]["summary"]["a"]["acked_per_s"]["median"].is_f64());
    });
}

#[test]
fn a_running_cluster_is_measured() {
    run(120, async {
        let cluster = shared().await;
        let urls: Vec<String> = cluster
            .apis(&cluster.ids())
            .iter()
            .map(|api| format!("http://{}", api.address()))
            .collect();
        let output = bench(&["--urls", &urls.join(","), "j"]).await;
        assert!(output.status.success(), "{output:?}");
        let refused = bench(&["--urls", &urls.join(","), "k"]).await;
        assert!(
            !refused.status.success(),
            "it must not kill what is not its own"
        );
    });
}
