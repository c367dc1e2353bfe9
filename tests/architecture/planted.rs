//! The checker itself, on small made-up files: it must be able to fail, and only where it should.

use super::{TextFile, violations};

fn check(path: &str, text: &str, expected: &[&str]) {
    let file = TextFile {
        path: path.to_owned(),
        text: text.to_owned(),
    };
    let found = violations(&[file]);
    let short: Vec<&str> = found
        .iter()
        .map(|v| v.split(". ").next().unwrap_or(v))
        .collect();
    assert_eq!(short, expected, "{path}: {text}");
}

#[test]
fn a_forbidden_name_in_code_is_found_with_its_line() {
    check(
        "src/a.rs",
        "\nuse openraft::Raft;\n",
        &["src/a.rs:2 names `openraft`"],
    );
    check("raft/src/a.rs", "use openraft::Raft;", &[]);
    check(
        "raft/src/a.rs",
        "use rocksdb::DB;",
        &["raft/src/a.rs:1 names `rocksdb`"],
    );
    check("storage/tests/a.rs", "use rocksdb::DB;", &[]);
    check(
        "storage/src/a.rs",
        "axum::serve()",
        &["storage/src/a.rs:1 names `axum`"],
    );
    check(
        "jepsen-tests/src/a.rs",
        "use accord_raft as r;",
        &["jepsen-tests/src/a.rs:1 names `accord_raft`"],
    );
    check("jepsen-tests/src/a.rs", "use tokio_tungstenite as ws;", &[]);
    check("src/a.rs", "unsafe { f() }", &["src/a.rs:1 names `unsafe`"]);
    check("src/a.rs", "#![forbid(unsafe_code)]", &[]);
    check("jepsen-tests/src/world/ioctl.rs", "unsafe { f() }", &[]);
}

#[test]
fn the_state_machines_are_held_to_purity() {
    check(
        "raft/src/machine/a.rs",
        "let t = Instant::now();",
        &["raft/src/machine/a.rs:1 names `Instant`"],
    );
    check(
        "raft/src/machine.rs",
        "std::fs::read(p)",
        &["raft/src/machine.rs:1 names `fs`"],
    );
    check(
        "raft/src/machine/a.rs",
        "async fn f() {}",
        &["raft/src/machine/a.rs:1 names `async`"],
    );
    check("raft/src/link.rs", "let t = Instant::now();", &[]);
    let with_tests =
        "fn f() {}\n#[cfg(test)]\nmod tests {\n  use std::fs; fn g() { if x { y } }\n}\n";
    check("raft/src/machine/a.rs", with_tests, &[]);
    let after_tests = format!("{with_tests}fn h(f: File) {{}}");
    check(
        "raft/src/machine/a.rs",
        &after_tests,
        &["raft/src/machine/a.rs:6 names `File`"],
    );
    check(
        "raft/src/machine/a.rs",
        "#[cfg(test)]\nmod tests;\nuse tokio as t;",
        &["raft/src/machine/a.rs:3 names `tokio`"],
    );
    check("raft/src/machine/tests.rs", "use std::fs;", &[]);
}

#[test]
fn bincode_is_called_in_codec_modules_only() {
    let call = "bincode::decode_from_slice(bytes, config)";
    check("raft/src/codec.rs", call, &[]);
    check(
        "raft/src/link.rs",
        call,
        &["raft/src/link.rs:1 names `decode_from_slice`"],
    );
    check("raft/src/link.rs", "use bincode::Decode;", &[]);
}

#[test]
fn a_planted_bug_is_guarded_by_its_feature() {
    let guard = "#[cfg(feature = \"planted-bugs\")]";
    check("src/a.rs", &format!("{guard}\nmod planted;"), &[]);
    check("src/planted.rs", "use crate::planted;", &[]);
    check(
        "src/a.rs",
        &format!("{guard}\nfn f() {{}}\ncrate::planted::f();"),
        &["src/a.rs:3 names `planted`"],
    );
    check(
        "src/a.rs",
        "#[cfg(feature = \"other\")]\nmod planted;",
        &["src/a.rs:2 names `planted`"],
    );
}

#[test]
fn prose_may_name_anything() {
    check(
        "src/a.rs",
        "//! openraft\n/* rocksdb /* unsafe */ openraft */ fn f() {}",
        &[],
    );
    check(
        "src/a.rs",
        r##"let a = "openraft \" rocksdb"; let b = r#"a "rocksdb" b"#; let c = br"unsafe";"##,
        &[],
    );
    check(
        "src/a.rs",
        "let a = '\"'; openraft(); let b = '\"';",
        &["src/a.rs:1 names `openraft`"],
    );
    check(
        "src/a.rs",
        "fn f<'a>(x: &'a str) { openraft() } // '",
        &["src/a.rs:1 names `openraft`"],
    );
    check(
        "src/a.rs",
        "let a = '\\''; unsafe {}",
        &["src/a.rs:1 names `unsafe`"],
    );
    check(
        "src/a.rs",
        "let a = \"two\nlines\";\nuse rocksdb as r;",
        &["src/a.rs:3 names `rocksdb`"],
    );
    check(
        "src/a.rs",
        "let r#type = 1; unsafe {}",
        &["src/a.rs:1 names `unsafe`"],
    );
    check("src/a.rs", "\"never closed", &[]);
}

#[test]
fn a_forbidden_dependency_is_found_under_any_spelling() {
    let package = "[package]\nname = \"x\"\n[lints]\nworkspace = true\n";
    let cases = [
        (
            "raft",
            "[dependencies]\nrocksdb = \"1\"",
            "raft/Cargo.toml:6 depends on `rocksdb`",
        ),
        (
            "raft",
            "[dependencies]\nrocksdb.workspace = true",
            "raft/Cargo.toml:6 depends on `rocksdb`",
        ),
        (
            "raft",
            "[dev-dependencies]\nrocksdb = \"1\"",
            "raft/Cargo.toml:6 depends on `rocksdb`",
        ),
        (
            "raft",
            "[target.'cfg(unix)'.dependencies]\naxum = \"0\"",
            "raft/Cargo.toml:6 depends on `axum`",
        ),
        (
            "storage",
            "[dependencies]\nr = { package = \"openraft\", version = \"0\" }",
            "storage/Cargo.toml:6 depends on `openraft`",
        ),
        (
            "jepsen-tests",
            "[dependencies]\naccord-storage = { path = \"../storage\" }",
            "jepsen-tests/Cargo.toml:6 depends on `accord-storage`",
        ),
    ];
    for (folder, table, expected) in cases {
        let path = format!("{folder}/Cargo.toml");
        let text = format!("{package}{table}");
        let file = TextFile { path, text };
        let found = violations(&[file]);
        assert!(
            found.iter().any(|v| v.starts_with(expected)),
            "{table}: {found:?}"
        );
    }
    let table = format!("{package}[dependencies.rocksdb]\nversion = \"1\"");
    assert!(
        !violations(&[TextFile {
            path: "raft/Cargo.toml".into(),
            text: table
        }])
        .is_empty()
    );
    let allowed = format!("{package}[dev-dependencies]\naxum = \"0\"\n[features]\nrocksdb = []");
    check("raft/Cargo.toml", &allowed, &[]);
}

#[test]
fn a_crate_outside_the_lints_is_found() {
    check(
        "raft/Cargo.toml",
        "[package]\nname = \"x\"",
        &["raft/Cargo.toml:1 has no `[lints] workspace = true`"],
    );
    let root = "[workspace]\nmembers = []\n[workspace.dependencies]\nrocksdb = \"1\"\n";
    check(
        "Cargo.toml",
        root,
        &["Cargo.toml:1 does not forbid unsafe_code"],
    );
    let own = "[package]\nname = \"x\"\n[lints.clippy]\nunwrap_used = \"warn\"\n[lints.rust]\n";
    let deny = format!("{own}unsafe_code = \"deny\"\n");
    check("jepsen-tests/Cargo.toml", &deny, &[]);
    check(
        "raft/Cargo.toml",
        &deny,
        &["raft/Cargo.toml:1 has no `[lints] workspace = true`"],
    );
    let allow = format!("{own}unsafe_code = \"allow\"\n");
    check(
        "jepsen-tests/Cargo.toml",
        &allow,
        &["jepsen-tests/Cargo.toml:1 has no `[lints] workspace = true`"],
    );
    let root = format!("{root}[workspace.lints.rust]\nunsafe_code = \"forbid\" # no exceptions\n");
    check("Cargo.toml", &root, &[]);
}
