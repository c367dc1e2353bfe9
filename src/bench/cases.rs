//! The cases, by letter.

use std::time::Duration;

use super::workload::Crew;
use super::workload::Workload;

#[derive(Clone, Debug, PartialEq)]
pub struct Case {
    pub letter: char,
    pub about: &'static str,
    pub kind: Kind,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Kind {
    Load(Workload),
    /// The first crew alone, then beside the second.
    Beside(Workload),
    /// The leader of the first channel is killed when the warm-up is over, so many times, each time
    /// with new channels. All sockets are on other nodes.
    Kill {
        load: Workload,
        times: u32,
    },
}

/// Kills of cases k and m: for a median and a range, and for a tail.
const KILLS: u32 = 10;
const KILLS_OF_MANY: u32 = 3;

/// All there are, in order.
pub fn all() -> Vec<Case> {
    let load = |letter, about, workload| Case {
        letter,
        about,
        kind: Kind::Load(workload),
    };
    let quiet = Crew::talkers(20, 1).at_rate(1.0);
    let loud = Crew::talkers(1, 4).with_window(64).publish_only();
    let killed = Workload {
        warm_up: Duration::from_secs(1),
        drain_max: Duration::from_secs(20),
        ..Workload::new(Crew::talkers(1, 10).at_rate(1_000.0)).measured(3)
    };
    let everyday = Workload::new(Crew::talkers(20, 50).at_rate(5.0));
    vec![
        load(
            'a',
            "one channel, one closed-loop sender",
            Workload::new(Crew::talkers(1, 1)),
        ),
        load(
            'b',
            "one channel, 64 closed-loop senders, all receive",
            Workload::new(Crew::talkers(1, 64)),
        ),
        load(
            'c',
            "20 channels of 50 users, 5 messages/s each",
            everyday.clone().measured(30),
        ),
        load(
            'd',
            "one channel, 1,000 receivers, 10 messages/s",
            Workload::new(Crew::talkers(1, 1_000).sending(10).at_rate(10.0)).measured(15),
        ),
        load(
            'e',
            "100 channels, one closed-loop sender each",
            Workload::new(Crew::talkers(100, 1)),
        ),
        load(
            'f',
            "one channel, 4 publish-only senders, 64 in flight each",
            Workload::new(loud.clone()),
        ),
        load(
            'g',
            "100 channels, one publish-only sender with 8 in flight each",
            Workload::new(Crew::talkers(100, 1).with_window(8).publish_only()),
        ),
        load(
            'h',
            "one channel, 64 receivers, 4 of them send 200 messages/s",
            Workload::new(Crew::talkers(1, 64).sending(4).at_rate(200.0)),
        ),
        Case {
            letter: 'i',
            about: "20 quiet channels, 1 message/s each, alone and beside f",
            kind: Kind::Beside(Workload {
                crews: vec![quiet, loud],
                ..Workload::new(Crew::talkers(1, 1)).measured(30)
            }),
        },
        load(
            'j',
            "one channel, 6 receivers, one of them sends 500 messages/s",
            Workload::new(Crew::talkers(1, 6).sending(1).at_rate(500.0)),
        ),
        Case {
            letter: 'k',
            about: "the leader killed ten times under 1,000 messages/s",
            kind: Kind::Kill {
                load: killed,
                times: KILLS,
            },
        },
        load(
            'l',
            "one channel, 1,000 receivers, one sender with 64 in flight",
            Workload::new(Crew::talkers(1, 1_000).sending(1).with_window(64)),
        ),
        Case {
            letter: 'm',
            about: "c, with a node killed three times that leads some of the channels",
            kind: Kind::Kill {
                load: Workload {
                    drain_max: Duration::from_secs(20),
                    ..everyday
                },
                times: KILLS_OF_MANY,
            },
        },
    ]
}

/// Those that are named, in the order of the alphabet; all that the cluster can be put to if none is.
pub fn named(letters: &[char], own_cluster: bool) -> Vec<Case> {
    let wanted = |case: &Case| match letters {
        [] => own_cluster || !case.kills(),
        letters => letters.contains(&case.letter),
    };
    all().into_iter().filter(wanted).collect()
}

impl Case {
    pub fn loads(&mut self) -> &mut Workload {
        match &mut self.kind {
            Kind::Load(load) | Kind::Beside(load) | Kind::Kill { load, .. } => load,
        }
    }

    /// Only a cluster of our own is harmed.
    pub fn kills(&self) -> bool {
        matches!(self.kind, Kind::Kill { .. })
    }

    /// About how long one round of it takes.
    pub fn estimate(&self) -> Duration {
        /// A node that was killed starts, and its cluster is whole again.
        const RESTART: Duration = Duration::from_secs(3);
        match &self.kind {
            Kind::Load(load) => load.estimate(),
            Kind::Beside(load) => load.estimate() * 2,
            Kind::Kill { load, times } => (load.estimate() + RESTART) * *times,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cases_are_found_by_letter() {
        let letters = |cases: &[Case]| cases.iter().map(|case| case.letter).collect::<String>();
        assert_eq!(letters(&all()), "abcdefghijklm");
        assert_eq!(letters(&named(&[], false)), "abcdefghijl");
        assert_eq!(letters(&named(&['f', 'a', 'z'], true)), "af");
    }

    #[test]
    fn cases_are_possible() {
        for mut case in all() {
            for crew in &case.loads().crews {
                assert!(crew.senders > 0 && crew.senders <= crew.users);
                // In a stamp each has a number of 16 bits.
                assert!(u16::try_from(crew.channels.max(crew.users)).is_ok());
            }
        }
    }
}
