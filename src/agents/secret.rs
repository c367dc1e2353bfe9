//! Keys and secrets of agents: where they come from, and what keeps them out of logs.
//!
//! Invariants: the configuration file names a variable or a file and never holds the secret itself;
//! a [`Secret`] has no form for people, so it cannot get into a log, an error or an answer.

use std::fmt;
use std::path::PathBuf;

/// Most bytes of a secret; more is the wrong file.
const SECRET_BYTES_MAX: u64 = 16 << 10;

/// Where a secret is read from when the node starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SecretSource {
    /// An environment variable.
    Variable(String),
    /// A file; a line break at its end is not part of the secret.
    File(PathBuf),
}

/// Why there is no secret; each is the end of a sentence.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    #[error("the environment variable {0} is not set")]
    NoVariable(String),
    #[error("the environment variable {0} is not valid UTF-8")]
    NotUtf8(String),
    #[error("the file {path} cannot be read: {source}")]
    File {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("{0} is empty")]
    Empty(String),
    #[error("the file {0} has more than 16384 bytes")]
    TooLong(PathBuf),
    #[error("{0} holds characters that cannot stand in a header")]
    NotVisible(String),
}

impl SecretSource {
    pub fn read(&self) -> Result<Secret, SecretError> {
        let text = match self {
            SecretSource::Variable(name) => std::env::var(name).map_err(|error| match error {
                std::env::VarError::NotPresent => SecretError::NoVariable(name.clone()),
                std::env::VarError::NotUnicode(_) => SecretError::NotUtf8(name.clone()),
            })?,
            SecretSource::File(path) => {
                let error = |source| SecretError::File {
                    path: path.clone(),
                    source,
                };
                let metadata = std::fs::metadata(path).map_err(error)?;
                if metadata.len() > SECRET_BYTES_MAX {
                    return Err(SecretError::TooLong(path.clone()));
                }
                std::fs::read_to_string(path).map_err(error)?
            }
        };
        Secret::parse(&text, &self.to_string())
    }
}

impl fmt::Display for SecretSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SecretSource::Variable(name) => write!(f, "the environment variable {name}"),
            SecretSource::File(path) => write!(f, "the file {}", path.display()),
        }
    }
}

/// A key that nobody gets to see by accident.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    fn parse(text: &str, origin: &str) -> Result<Secret, SecretError> {
        let text = text.trim_end_matches(['\r', '\n']);
        if text.is_empty() {
            return Err(SecretError::Empty(origin.to_owned()));
        }
        if !text.bytes().all(|byte| (0x20..0x7f).contains(&byte)) {
            return Err(SecretError::NotVisible(origin.to_owned()));
        }
        Ok(Secret(text.to_owned()))
    }

    /// The secret itself; the name is for whoever reads the caller.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_lose_their_last_line_break_only() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        std::fs::write(&path, "sk- 1\n").unwrap();
        let source = SecretSource::File(path.clone());
        let secret = source.read().unwrap();
        assert_eq!(secret.expose(), "sk- 1");
        assert_eq!(format!("{secret:?}"), "Secret(…)");
        for (bad, part) in [("", "is empty"), ("\n", "is empty"), ("a\nb", "header")] {
            std::fs::write(&path, bad).unwrap();
            let error = source.read().unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
        std::fs::write(&path, vec![b'a'; 17 << 10]).unwrap();
        assert!(source.read().is_err());
    }

    #[test]
    fn what_is_missing_is_named() {
        let source = SecretSource::Variable("ACCORD_TEST_NO_SUCH_VARIABLE".to_owned());
        let error = source.read().unwrap_err().to_string();
        assert!(error.contains("ACCORD_TEST_NO_SUCH_VARIABLE"), "{error}");
        let source = SecretSource::File("/no/such/file".into());
        let error = source.read().unwrap_err().to_string();
        assert!(error.contains("/no/such/file"), "{error}");
    }
}
