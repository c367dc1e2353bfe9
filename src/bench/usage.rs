//! Processor time and memory of several processes together.

use crate::process;

#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Usage {
    pub cpu_seconds: f64,
    pub resident_bytes: u64,
}

impl Usage {
    /// What has ended by now counts nothing.
    pub fn of(pids: &[u32]) -> Usage {
        let mut sum = Usage::default();
        for pid in pids {
            let one = process::Usage::of(&pid.to_string());
            sum.cpu_seconds += one.cpu_seconds.unwrap_or(0.0);
            sum.resident_bytes += one.resident_bytes.unwrap_or(0);
        }
        sum
    }

    /// The time since an earlier reading, and the memory now.
    pub fn since(&self, before: &Usage) -> Usage {
        Usage {
            cpu_seconds: (self.cpu_seconds - before.cpu_seconds).max(0.0),
            resident_bytes: self.resident_bytes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_uses_something() {
        let now = Usage::of(&[std::process::id()]);
        assert!(now.resident_bytes > 0);
        let later = now.since(&now);
        assert_eq!(
            (later.cpu_seconds, later.resident_bytes),
            (0.0, now.resident_bytes)
        );
        assert_eq!(Usage::of(&[]), Usage::default());
    }
}
