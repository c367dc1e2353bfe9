//! How long the last look waits for what should come about by itself.

use std::time::Duration;

/// For each stage of the look. One whose end did not come leaves the later ones only a glance: the
/// history shows by then that the cluster did not heal, and what else is broken shows at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// For agents to answer what they were asked.
    pub replies: Duration,
    /// For every node to show what every other node shows.
    pub level: Duration,
    /// For subscribers to get what is in the channels.
    pub streams: Duration,
    /// For all replicas of a channel to have applied the same entries.
    pub hashes: Duration,
    /// For the next page of a log.
    pub page: Duration,
}

impl Patience {
    pub const WHOLE: Self = Self {
        replies: Duration::from_secs(60),
        level: Duration::from_secs(30),
        streams: Duration::from_secs(30),
        hashes: Duration::from_secs(15),
        page: super::logs::LOG_WITHIN,
    };
    pub const GLANCE: Self = {
        let glance = Duration::from_secs(5);
        Self {
            replies: glance,
            level: glance,
            streams: glance,
            hashes: glance,
            page: glance,
        }
    };

    /// What is left after a stage that came about, or did not.
    pub fn after(self, came_about: bool) -> Self {
        if came_about { self } else { Self::GLANCE }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn once_lost_patience_does_not_come_back() {
        let lost = Patience::WHOLE.after(true).after(false);
        assert_eq!(lost, Patience::GLANCE);
        assert_eq!(lost.after(true), Patience::GLANCE);
        assert_eq!(Patience::WHOLE.after(true), Patience::WHOLE);
    }
}
