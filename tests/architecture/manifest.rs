//! As much of TOML as Cargo manifests written by people use: which tables, keys and values a
//! manifest has, and what it depends on.

pub struct Setting<'a> {
    pub line: usize,
    pub section: &'a str,
    pub key: &'a str,
    pub value: &'a str,
}

/// The `key = value` lines of a manifest with the table that they stand in: as much of TOML as
/// Cargo manifests written by people use.
pub fn settings(text: &str) -> Vec<Setting<'_>> {
    let mut section = "";
    let mut found = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if let Some(name) = line
            .strip_prefix('[')
            .and_then(|rest| rest.split(']').next())
        {
            section = name.trim_matches('[').trim();
            // A table without a line of its own still exists.
            found.push(Setting {
                line: index + 1,
                section,
                key: "",
                value: "",
            });
        } else if let Some((key, value)) = line.split_once('=').filter(|_| !line.starts_with('#')) {
            let (key, value) = (key.trim(), value.split(" #").next().unwrap_or("").trim());
            found.push(Setting {
                line: index + 1,
                section,
                key,
                value,
            });
        }
    }
    found
}

pub struct Dependency<'a> {
    pub line: usize,
    pub package: &'a str,
    pub dev: bool,
}

/// What a manifest depends on, renamed or not. `[workspace.dependencies]` only lists versions and
/// makes nobody depend on anything, so it is no part of this.
pub fn dependencies(text: &str) -> Vec<Dependency<'_>> {
    let mut found = Vec::new();
    for Setting {
        line,
        section,
        key,
        value,
    } in settings(text)
    {
        let tables = ["dependencies", "dev-dependencies", "build-dependencies"];
        let parts: Vec<&str> = section.split('.').collect();
        let Some(at) = parts.iter().position(|part| tables.contains(part)) else {
            continue;
        };
        if parts[0] == "workspace" {
            continue;
        }
        let dev = parts[at] == "dev-dependencies";
        let named = match parts.get(at + 1) {
            // [dependencies.name]
            Some(name) => *name,
            // name = "1", or name.workspace = true
            None => key.split('.').next().unwrap_or(key),
        };
        let renamed = value.split_once("package").map(|(_, rest)| rest);
        let renamed = renamed.or((key == "package").then_some(value));
        let package = renamed
            .and_then(|rest| rest.split('"').nth(1))
            .unwrap_or(named);
        if !package.is_empty() {
            found.push(Dependency {
                line,
                package: package.trim_matches('"'),
                dev,
            });
        }
    }
    found
}
