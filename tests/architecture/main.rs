//! Checks the invariants of `docs/architecture.md` that can be read off the text of the tree.
//!
//! The page states them as absences ("only X names Y"), because an absence is what erodes
//! unnoticed: one convenient `use` in the wrong crate compiles. Each [`RULES`] entry carries the
//! page's sentence word for word, and one test compares the two, so neither can change alone.
//!
//! Comments and string literals are blanked out before a file is looked at, so prose may mention
//! what code may not use. What a text check cannot see (a re-export under another name) is left
//! to review; the dependency tables of the manifests are read too, which leaves little room.

mod manifest;
mod planted;
mod rust_text;

use std::fs;
use std::path::Path;

use manifest::{dependencies, settings};
use rust_text::{blank_out_prose, blank_out_test_modules, identifiers, is_test_file};

/// One invariant.
struct Rule {
    /// The sentence of `docs/architecture.md`.
    statement: &'static str,
    /// Identifiers that must not appear in code.
    words: &'static [&'static str],
    /// Packages that must not appear in a manifest's dependency tables.
    packages: &'static [&'static str],
    /// Paths (from the workspace root, `/` between parts) in which they must not.
    forbidden_in: fn(&str) -> bool,
    /// Whether code and dependencies of tests are held to it as well.
    tests_too: bool,
}

const RULES: &[Rule] = &[
    Rule {
        statement: "Only `raft` names openraft.",
        words: &["openraft"],
        packages: &["openraft"],
        forbidden_in: |path| !path.starts_with("raft/"),
        tests_too: true,
    },
    Rule {
        statement: "Only `storage` names RocksDB.",
        words: &["rocksdb", "librocksdb_sys"],
        packages: &["rocksdb", "librocksdb-sys"],
        forbidden_in: |path| !path.starts_with("storage/"),
        tests_too: true,
    },
    Rule {
        statement: "Only the node names axum, hyper, tungstenite and rustls.",
        words: &[
            "axum",
            "hyper",
            "tungstenite",
            "tokio_tungstenite",
            "rustls",
            "tokio_rustls",
        ],
        packages: &[
            "axum",
            "hyper",
            "tungstenite",
            "tokio-tungstenite",
            "rustls",
            "tokio-rustls",
            "rustls-native-certs",
        ],
        forbidden_in: |path| path.starts_with("raft/") || path.starts_with("storage/"),
        tests_too: false,
    },
    Rule {
        statement: "The state machines name no clock, no randomness and no I/O.",
        words: &[
            // clocks
            "Instant",
            "SystemTime",
            "now_v7",
            // randomness, and the random iteration order of std's hash tables
            "rand",
            "getrandom",
            "new_v4",
            "HashMap",
            "HashSet",
            "RandomState",
            // I/O, tasks and the surroundings of the process
            "tokio",
            "async",
            "await",
            "fs",
            "net",
            "thread",
            "process",
            "env",
            "File",
        ],
        packages: &[],
        forbidden_in: |path| path.starts_with("raft/src/machine"),
        tests_too: false,
    },
    Rule {
        statement: "`storage` knows nothing of Raft's implementation, channels or messages.",
        words: &["accord_raft", "openraft"],
        packages: &["accord", "accord-raft", "openraft"],
        forbidden_in: |path| path.starts_with("storage/"),
        tests_too: true,
    },
    Rule {
        statement: "`raft` knows nothing of the node.",
        words: &[], // nothing to name: the node has no library
        packages: &["accord"],
        forbidden_in: |path| path.starts_with("raft/"),
        tests_too: true,
    },
    Rule {
        statement: "`jepsen-tests` knows the product only by its sockets.",
        words: &["accord_raft", "accord_storage"],
        packages: &["accord", "accord-raft", "accord-storage"],
        forbidden_in: |path| path.starts_with("jepsen-tests/"),
        tests_too: true,
    },
    Rule {
        statement: "Only modules named `codec` call bincode's encoders and decoders.",
        words: &[
            "encode_to_vec",
            "encode_into_slice",
            "encode_into_std_write",
            "encode_into_writer",
            "decode_from_slice",
            "decode_from_std_read",
            "decode_from_reader",
            "borrow_decode_from_slice",
        ],
        packages: &[],
        forbidden_in: |path| !path.ends_with("/codec.rs"),
        tests_too: false,
    },
    Rule {
        statement: "There is no `unsafe` but in `jepsen-tests/src/world/ioctl.rs`.",
        words: &["unsafe"],
        packages: &[],
        forbidden_in: |path| path != "jepsen-tests/src/world/ioctl.rs",
        tests_too: true,
    },
];

/// The sentence about lints; it is checked by [`lint_violations`] instead of a [`Rule`].
const LINTS: &str = "Every crate inherits the workspace's lints.";

/// The sentence about planted bugs; it is checked by [`planted_violations`].
const PLANTED: &str = "A planted bug is compiled only with the feature `planted-bugs`.";
/// Stands on the line before whatever has to do with one.
const PLANTED_FEATURE: &str = "#[cfg(feature = \"planted-bugs\")]";

#[test]
fn the_tree_keeps_its_invariants() {
    let tree = read_tree(Path::new(env!("CARGO_MANIFEST_DIR")));
    for crate_dir in ["src/", "raft/src/", "storage/src/", "jepsen-tests/src/"] {
        assert!(
            tree.iter().any(|file| file.path.starts_with(crate_dir)),
            "no source file was found under {crate_dir}: this test looks in the wrong place"
        );
    }
    let found = violations(&tree);
    assert!(
        found.is_empty(),
        "docs/architecture.md is contradicted:\n{}",
        found.join("\n")
    );
}

#[test]
fn the_page_states_every_rule() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/architecture.md");
    let text = fs::read_to_string(&page).expect("docs/architecture.md is part of the repository");
    for statement in RULES
        .iter()
        .map(|rule| rule.statement)
        .chain([LINTS, PLANTED])
    {
        assert!(
            text.contains(statement),
            "docs/architecture.md does not say: {statement}"
        );
    }
}

/// A text file of the tree: a `.rs` file or a `Cargo.toml`.
struct TextFile {
    path: String,
    text: String,
}

/// Every contradiction, as a sentence that begins with file and line.
fn violations(tree: &[TextFile]) -> Vec<String> {
    let mut found = Vec::new();
    for file in tree {
        if file.path.ends_with("Cargo.toml") {
            found.extend(manifest_violations(file));
            found.extend(lint_violations(file));
        } else {
            found.extend(code_violations(file));
            found.extend(planted_violations(file));
        }
    }
    found
}

fn code_violations(file: &TextFile) -> Vec<String> {
    let code = blank_out_prose(&file.text);
    let product = blank_out_test_modules(&code);
    let mut found = Vec::new();
    for rule in RULES.iter().filter(|rule| (rule.forbidden_in)(&file.path)) {
        let text = match (rule.tests_too, is_test_file(&file.path)) {
            (true, _) => &code,
            (false, false) => &product,
            (false, true) => continue,
        };
        for (line, word) in identifiers(text) {
            if rule.words.contains(&word) {
                found.push(format!(
                    "{}:{line} names `{word}`. {}",
                    file.path, rule.statement
                ));
            }
        }
    }
    found
}

fn manifest_violations(file: &TextFile) -> Vec<String> {
    let mut found = Vec::new();
    for dependency in dependencies(&file.text) {
        for rule in RULES.iter().filter(|rule| (rule.forbidden_in)(&file.path)) {
            if (rule.tests_too || !dependency.dev) && rule.packages.contains(&dependency.package) {
                found.push(format!(
                    "{}:{} depends on `{}`. {}",
                    file.path, dependency.line, dependency.package, rule.statement
                ));
            }
        }
    }
    found
}

/// Names of the module `planted` that the feature does not guard.
fn planted_violations(file: &TextFile) -> Vec<String> {
    if is_test_file(&file.path) || file.path.ends_with("/planted.rs") {
        return Vec::new();
    }
    let code = blank_out_test_modules(&blank_out_prose(&file.text));
    let lines: Vec<&str> = file.text.lines().collect();
    let guarded = |line: usize| {
        let before = line.checked_sub(2).and_then(|index| lines.get(index));
        before.is_some_and(|before| before.trim() == PLANTED_FEATURE)
    };
    identifiers(&code)
        .filter(|(line, word)| *word == "planted" && !guarded(*line))
        .map(|(line, word)| format!("{}:{line} names `{word}`. {PLANTED}", file.path))
        .collect()
}

/// A crate that does not inherit the workspace's lints is held to none of them, silently.
fn lint_violations(file: &TextFile) -> Vec<String> {
    let settings = settings(&file.text);
    let has = |section: &str, key: &str, value: &str| {
        settings
            .iter()
            .any(|s| s.section == section && s.key == key && s.value == value)
    };
    let mut found = Vec::new();
    let inherits = has("lints", "workspace", "true") || has("", "lints.workspace", "true");
    // A lint that is inherited cannot be changed, so this crate repeats them all.
    let repeats = file.path == "jepsen-tests/Cargo.toml"
        && has("lints.rust", "unsafe_code", "\"deny\"")
        && has("lints.clippy", "unwrap_used", "\"warn\"");
    if settings.iter().any(|s| s.section == "package") && !inherits && !repeats {
        found.push(format!(
            "{}:1 has no `[lints] workspace = true`. {LINTS}",
            file.path
        ));
    }
    if settings.iter().any(|s| s.section == "workspace")
        && !has("workspace.lints.rust", "unsafe_code", "\"forbid\"")
    {
        found.push(format!(
            "{}:1 does not forbid unsafe_code. There is no other `unsafe`.",
            file.path
        ));
    }
    found
}

/// Every `.rs` file and every `Cargo.toml` under `root`, ordered by path.
fn read_tree(root: &Path) -> Vec<TextFile> {
    let mut files = Vec::new();
    let mut folders = vec![root.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("the checkout can be listed") {
            let path = entry.expect("the checkout can be listed").path();
            let name = path
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            if path.is_dir() {
                // Neither build output, nor hidden folders, nor a development cluster's data.
                if !name.starts_with('.') && name != "target" && name != "data" {
                    folders.push(path);
                }
            } else if name.ends_with(".rs") || name == "Cargo.toml" {
                let text = fs::read_to_string(&path).expect("source files are UTF-8");
                let path = path
                    .strip_prefix(root)
                    .expect("it was found under the root");
                let path = path.to_string_lossy().replace('\\', "/");
                files.push(TextFile { path, text });
            }
        }
    }
    files.sort_by(|a, b| a.path.cmp(&b.path));
    files
}
