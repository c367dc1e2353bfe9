//! What is shown while it runs: a bar on a terminal, lines elsewhere. Both on standard error, so that
//! the tables can be piped somewhere.

use std::io::IsTerminal as _;
use std::io::Write as _;
use std::time::Duration;

use rustix::termios::tcgetwinsize;

const WIDTH: usize = 30;
/// Of a terminal that does not say.
const COLUMNS: u16 = 80;

/// How far the whole run is.
#[derive(Clone, Debug)]
pub struct Progress {
    total: Duration,
    done: Duration,
    now: String,
    part: Duration,
    is_terminal: bool,
}

impl Progress {
    pub fn new(total: Duration) -> Progress {
        Progress {
            total,
            done: Duration::ZERO,
            now: String::new(),
            part: Duration::ZERO,
            is_terminal: std::io::stderr().is_terminal(),
        }
    }

    /// What begins now, and about how long it takes.
    pub fn begin(&mut self, what: String, part: Duration) {
        self.done += self.part;
        self.part = part;
        self.now = what;
        match self.is_terminal {
            true => self.show(0.0),
            false => note(&format!("{}: about {} s", self.now, part.as_secs())),
        }
    }

    /// This part of it is over.
    pub fn show(&self, part: f64) {
        if self.is_terminal {
            // A line that the terminal breaks could not be taken back.
            let mut bar = self.bar(part);
            let size = tcgetwinsize(std::io::stderr()).ok();
            let columns = size.map(|size| size.ws_col).filter(|columns| *columns > 0);
            let columns = usize::from(columns.unwrap_or(COLUMNS));
            if let Some((end, _)) = bar.char_indices().nth(columns - 1) {
                bar.truncate(end);
            }
            let _ = write!(std::io::stderr().lock(), "\r\x1b[K{bar}");
        }
    }

    /// A line that stays.
    pub fn say(&self, line: &str) {
        match self.is_terminal {
            true => note(&format!("\r\x1b[K{line}")),
            false => note(line),
        }
    }

    /// Nothing more is to be done.
    pub fn clear(&self) {
        if self.is_terminal {
            let _ = write!(std::io::stderr().lock(), "\r\x1b[K");
        }
    }

    fn bar(&self, part: f64) -> String {
        let done = self.done + self.part.mul_f64(part.clamp(0.0, 1.0));
        let share = done.as_secs_f64() / self.total.as_secs_f64().max(1.0);
        let filled = ((share * WIDTH as f64) as usize).min(WIDTH);
        let left = self.total.saturating_sub(done).as_secs();
        format!(
            "[{}{}] {:3.0} %  {}, {}:{:02} left",
            "#".repeat(filled),
            "-".repeat(WIDTH - filled),
            share.min(1.0) * 100.0,
            self.now,
            left / 60,
            left % 60,
        )
    }
}

/// If nobody reads any more there is nobody to tell.
pub fn note(line: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{line}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bar_fills() {
        let mut progress = Progress::new(Duration::from_secs(120));
        progress.is_terminal = false;
        progress.begin("a".to_owned(), Duration::from_secs(60));
        progress.begin("b".to_owned(), Duration::from_secs(60));
        let bar = format!("[{}{}]  75 %  b, 0:30 left", "#".repeat(22), "-".repeat(8));
        assert_eq!(progress.bar(0.5), bar);
        assert!(progress.bar(2.0).contains("100 %"));
    }
}
