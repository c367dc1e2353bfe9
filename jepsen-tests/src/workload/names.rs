//! Names and durations as the command line takes them: strictly, with errors that list what is
//! known.

use std::fmt::Display;
use std::time::Duration;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown {what} {name:?}; known are: {known}")]
pub struct UnknownName {
    pub what: &'static str,
    pub name: String,
    pub known: String,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a duration; write a whole number and a unit, such as 500ms, 90s, 10m or 1h")]
pub struct BadDuration(String);

/// The one of `all` whose name is `text`.
pub fn one_of<T: Display + Copy>(
    text: &str,
    what: &'static str,
    all: &[T],
) -> Result<T, UnknownName> {
    let found = all.iter().find(|item| item.to_string() == text);
    found.copied().ok_or_else(|| UnknownName {
        what,
        name: text.to_owned(),
        known: listed(all),
    })
}

/// `all`, `none`, or names with commas between them; each at most once in the answer.
pub fn some_of<T: Display + Copy + PartialEq>(
    text: &str,
    what: &'static str,
    all: &[T],
) -> Result<Vec<T>, UnknownName> {
    match text {
        "all" => return Ok(all.to_vec()),
        "none" | "" => return Ok(Vec::new()),
        _ => {}
    }
    let mut found = Vec::new();
    for name in text.split(',') {
        let item = one_of(name.trim(), what, all)?;
        if !found.contains(&item) {
            found.push(item);
        }
    }
    Ok(found)
}

/// Names with commas between them, as [`some_of`] reads them.
pub fn listed<T: Display>(items: &[T]) -> String {
    let names: Vec<String> = items.iter().map(ToString::to_string).collect();
    names.join(",")
}

/// A whole number and one of `ms`, `s`, `m`, `h`; more than nothing.
pub fn duration(text: &str) -> Result<Duration, BadDuration> {
    let bad = || BadDuration(text.to_owned());
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| bad())?;
    let unit_ms = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return Err(bad()),
    };
    match number.checked_mul(unit_ms) {
        Some(ms) if ms > 0 => Ok(Duration::from_millis(ms)),
        _ => Err(bad()),
    }
}

/// As [`duration`] reads it.
pub fn duration_text(duration: Duration) -> String {
    let ms = duration.as_millis();
    match ms {
        _ if !ms.is_multiple_of(1_000) => format!("{ms}ms"),
        _ if !ms.is_multiple_of(60_000) => format!("{}s", ms / 1_000),
        _ if !ms.is_multiple_of(3_600_000) => format!("{}m", ms / 60_000),
        _ => format!("{}h", ms / 3_600_000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_need_a_number_and_a_unit() {
        for (text, ms) in [
            ("500ms", 500),
            ("90s", 90_000),
            ("10m", 600_000),
            ("1h", 3_600_000),
        ] {
            assert_eq!(duration(text).unwrap(), Duration::from_millis(ms));
            assert_eq!(duration_text(duration(text).unwrap()), text);
        }
        for bad in [
            "",
            "10",
            "s",
            "1.5s",
            "-1s",
            "1 s",
            "0s",
            "1S",
            "1sec",
            "99999999999999999h",
        ] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn lists_of_names_are_read_strictly() {
        let all = ["a", "b", "c"];
        assert_eq!(some_of("all", "letter", &all).unwrap(), all);
        assert!(some_of("none", "letter", &all).unwrap().is_empty());
        assert_eq!(some_of("c, a,c", "letter", &all).unwrap(), ["c", "a"]);
        let error = some_of("a,d", "letter", &all).unwrap_err().to_string();
        assert_eq!(error, "unknown letter \"d\"; known are: a,b,c");
        assert!(some_of("a,", "letter", &all).is_err());
    }
}
