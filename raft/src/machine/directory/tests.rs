//! The directory's machine against a simple model.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::machine::testing::{Replicas, Rows};
use crate::machine::{Kind, SessionId, encode_part};

const SESSION: SessionId = SessionId {
    node: 1,
    sequence: 1,
};

fn payload(timestamp_ms: u64, first: u64, commands: &[Command<'_>]) -> Bytes {
    let part = encode_part(SESSION, first, commands).unwrap();
    Batch::concat(timestamp_ms, &[part]).unwrap()
}

/// A directory that one session talks to.
struct Directory {
    replicas: Replicas,
    sent: u64,
}

impl Directory {
    fn new() -> Self {
        Self {
            replicas: Replicas::new(Kind::Directory),
            sent: 0,
        }
    }

    fn with_nodes(replication: u32, nodes: &[u64]) -> Self {
        let mut directory = Self::new();
        let nodes = nodes.iter().map(|id| (*id, None)).collect();
        directory.ask(&[Command::SetNodes { replication, nodes }]);
        directory
    }

    fn ask(&mut self, commands: &[Command<'_>]) -> Vec<Outcome> {
        let payload = payload(5, self.sent + 1, commands);
        self.sent += commands.len() as u64;
        self.replicas.apply(&payload).outcomes
    }

    fn rows(&self) -> &Rows {
        self.replicas.rows()
    }
}

fn create_server(id: u8, name: &str) -> Command<'_> {
    Command::CreateServer { id: [id; 16], name }
}

fn create_channel(id: u8, server: u8, name: &str) -> Command<'_> {
    Command::CreateChannel {
        id: [id; 16],
        server: [server; 16],
        name,
    }
}

#[test]
fn golden_commands() {
    let check = |command: Command<'_>, expected: &[&[u8]]| {
        assert_eq!(codec::encode(&command), expected.concat());
    };
    check(create_server(7, "abc"), &[&[0], &[7; 16], b"\x03abc"]);
    check(
        create_channel(7, 8, "abc"),
        &[&[1], &[7; 16], &[8; 16], b"\x03abc"],
    );
    let nodes = vec![(1, Some("a")), (300, None)];
    let command = Command::SetNodes {
        replication: 3,
        nodes,
    };
    check(command, &[&[2, 3, 2], &[1, 1, 1], b"a", &[251, 44, 1, 0]]);
}

#[test]
fn golden_rows() {
    let mut directory = Directory::new();
    let nodes = vec![(1, Some("a")), (2, None)];
    directory.ask(&[
        Command::SetNodes {
            replication: 1,
            nodes,
        },
        create_server(7, "abc"),
        create_channel(8, 7, "def"),
    ]);
    let number = |number: u64| number.to_be_bytes();
    let expected: [(Vec<u8>, Vec<u8>); 9] = [
        (vec![0x01], vec![1, 3, 2, 5, 1]),
        ([&[0x02][..], &number(1)].concat(), vec![2, 1, 3]),
        (
            [&[0x10][..], &number(1)].concat(),
            [&[1][..], &[7; 16], b"\x03abc"].concat(),
        ),
        ([&[0x11][..], &[7; 16]].concat(), vec![1, 1]),
        (
            [&[0x12][..], &[7; 16], &number(2)].concat(),
            [&[1][..], &[8; 16], &[7; 16], b"\x03def", &[1, 1, 1, 5]].concat(),
        ),
        (
            [&[0x13][..], &[8; 16]].concat(),
            [&[1][..], &[7; 16], &[2]].concat(),
        ),
        (
            [&[0x14][..], &number(1)].concat(),
            [&[1][..], &[7; 16], &[2]].concat(),
        ),
        (
            [&[0x15][..], &number(1)].concat(),
            vec![1, 1, 1, 1, b'a', 1, 1],
        ),
        ([&[0x15][..], &number(2)].concat(), vec![1, 1, 0, 0, 0]),
    ];
    assert_eq!(directory.rows().state, BTreeMap::from(expected));
    assert!(directory.rows().index.is_empty());
}

#[test]
fn the_same_id_again_answers_what_is_there() {
    let mut directory = Directory::with_nodes(3, &[1, 2, 3]);
    let first = directory.ask(&[create_server(1, "one"), create_channel(2, 1, "general")]);
    let again = directory.ask(&[create_server(1, "other"), create_channel(2, 9, "other")]);
    assert_eq!(again, first);
    assert_eq!(servers(directory.rows(), None, 10).unwrap().len(), 1);
    assert_eq!(
        channels(directory.rows(), &[1; 16], None, 10)
            .unwrap()
            .len(),
        1
    );
}

#[test]
fn refusals() {
    let mut directory = Directory::new();
    let outcomes = directory.ask(&[
        create_channel(2, 1, "general"),
        create_server(1, "one"),
        create_channel(2, 1, "general"),
    ]);
    assert_eq!(outcomes[0], Outcome::NoSuchServer);
    assert_eq!(outcomes[2], Outcome::NoNodes);
    let long = "x".repeat(NAME_BYTES_MAX + 1);
    let zone = "x".repeat(ZONE_BYTES_MAX + 1);
    let set = |replication, nodes| Command::SetNodes { replication, nodes };
    let too_many: Vec<_> = (0..=NODES_MAX as u64).map(|id| (id, None)).collect();
    let outcomes = directory.ask(&[
        create_server(5, &long),
        create_channel(5, 1, &long),
        set(0, vec![(1, None)]),
        set(REPLICATION_MAX + 1, vec![(1, None)]),
        set(3, vec![(1, Some(&zone))]),
        set(3, too_many.clone()),
    ]);
    assert_eq!(outcomes, vec![Outcome::Malformed; 6]);
    assert_eq!(nodes(directory.rows()).unwrap(), []);
    assert_eq!(replication(directory.rows()).unwrap(), 0);
    let outcomes = directory.ask(&[set(3, too_many[1..].to_vec()), set(3, vec![(0, None)])]);
    assert_eq!(outcomes, [Outcome::Done, Outcome::Malformed]);
}

#[test]
fn setting_the_same_nodes_changes_nothing() {
    let mut directory = Directory::with_nodes(3, &[1, 2, 3]);
    let before = nodes(directory.rows()).unwrap();
    let mut rows = directory.rows().clone();
    let nodes_again = vec![(3, None), (1, None), (2, Some("x")), (2, None)];
    let outcomes = directory.ask(&[Command::SetNodes {
        replication: 3,
        nodes: nodes_again,
    }]);
    assert_eq!(outcomes, [Outcome::Done]);
    assert_eq!(nodes(directory.rows()).unwrap(), before);
    // Only the session moved.
    let session: Vec<u8> = [&[2][..], &1_u64.to_be_bytes()].concat();
    rows.state
        .insert(session.clone(), directory.rows().state[&session].clone());
    assert_eq!(*directory.rows(), rows);
}

#[test]
fn a_node_that_returns_keeps_its_counts() {
    let mut directory = Directory::with_nodes(1, &[1]);
    directory.ask(&[create_server(1, "one"), create_channel(2, 1, "general")]);
    let set = |nodes: &[u64]| Command::SetNodes {
        replication: 1,
        nodes: nodes.iter().map(|id| (*id, None)).collect(),
    };
    directory.ask(&[set(&[2])]);
    let ids = |rows: &Rows| {
        nodes(rows)
            .unwrap()
            .iter()
            .map(|node| node.id)
            .collect::<Vec<_>>()
    };
    assert_eq!(ids(directory.rows()), [2]);
    directory.ask(&[set(&[1, 2])]);
    let all = nodes(directory.rows()).unwrap();
    assert_eq!((all[0].channels, all[0].preferred), (1, 1));
    assert_eq!((all[1].channels, all[1].preferred), (0, 0));
}

#[test]
fn five_nodes_share_evenly() {
    let mut directory = Directory::with_nodes(3, &[1, 2, 3, 4, 5]);
    directory.ask(&[create_server(1, "one")]);
    for id in 0..50 {
        directory.ask(&[create_channel(id, 1, "some")]);
        let all = nodes(directory.rows()).unwrap();
        for counts in [
            all.iter().map(|n| n.channels).collect(),
            all.iter().map(|n| n.preferred).collect(),
        ] {
            let counts: Vec<u64> = counts;
            assert!(
                counts.iter().max().unwrap() - counts.iter().min().unwrap() <= 1,
                "{all:?}"
            );
        }
    }
}

#[test]
fn damaged_rows_are_errors() {
    let directory = Directory::with_nodes(1, &[1]);
    let mut rows = directory.rows().clone();
    rows.state.insert(keys::node(1), vec![1]);
    assert!(nodes(&rows).is_err());
    rows.state.insert(keys::head(), vec![]);
    assert!(DirectoryMachine::load(&rows).is_err());
    rows.state
        .insert([keys::server(1), vec![0]].concat(), vec![]);
    assert!(servers(&rows, None, 10).is_err());
}

#[derive(Debug, Clone)]
enum Asked {
    Server(u8),
    Channel {
        id: u8,
        server: u8,
    },
    Nodes {
        replication: u32,
        nodes: Vec<(u64, Option<usize>)>,
    },
}

const ZONES: [&str; 3] = ["a", "b", "c"];

fn asked() -> impl Strategy<Value = Asked> {
    let node = (0..6_u64, proptest::option::of(0..ZONES.len()));
    prop_oneof![
        2 => (0..8_u8).prop_map(Asked::Server),
        6 => (0..60_u8, 0..8_u8).prop_map(|(id, server)| Asked::Channel { id, server }),
        1 => (1..5_u32, proptest::collection::vec(node, 0..6))
            .prop_map(|(replication, nodes)| Asked::Nodes { replication, nodes }),
    ]
}

#[derive(Default)]
struct Model {
    servers: Vec<Server>,
    channels: Vec<Channel>,
    nodes: BTreeMap<u64, Option<usize>>,
    replication: u32,
}

impl Model {
    /// Whether this is the right answer; takes over what it says.
    fn check(&mut self, asked: &Asked, now: u64, outcome: &Outcome) {
        match asked {
            Asked::Server(id) => {
                let known = self
                    .servers
                    .iter()
                    .find(|server| server.id == [*id; 16])
                    .cloned();
                let server = known.unwrap_or_else(|| {
                    let name = format!("server {id} {now}");
                    let server = Server {
                        id: [*id; 16],
                        name,
                    };
                    self.servers.push(server.clone());
                    server
                });
                assert_eq!(*outcome, Outcome::ServerCreated(server));
            }
            Asked::Channel { id, server } => self.check_channel(*id, *server, now, outcome),
            Asked::Nodes { replication, nodes } => {
                assert_eq!(*outcome, Outcome::Done);
                self.replication = *replication;
                self.nodes = nodes.iter().copied().collect();
            }
        }
    }

    fn check_channel(&mut self, id: u8, server: u8, now: u64, outcome: &Outcome) {
        if let Some(known) = self.channels.iter().find(|channel| channel.id == [id; 16]) {
            return assert_eq!(*outcome, Outcome::ChannelCreated(known.clone()));
        }
        if !self.servers.iter().any(|known| known.id == [server; 16]) {
            return assert_eq!(*outcome, Outcome::NoSuchServer);
        }
        if self.nodes.is_empty() {
            return assert_eq!(*outcome, Outcome::NoNodes);
        }
        let Outcome::ChannelCreated(channel) = outcome else {
            panic!("{outcome:?}");
        };
        let mut replicas = channel.replicas.clone();
        replicas.sort_unstable();
        replicas.dedup();
        assert_eq!(
            replicas.len(),
            self.nodes.len().min(self.replication as usize)
        );
        assert!(replicas.iter().all(|id| self.nodes.contains_key(id)));
        let expected = Channel {
            id: [id; 16],
            server: [server; 16],
            name: format!("channel {id} {now}"),
            group: self.channels.len() as u64 + 1,
            replicas: channel.replicas.clone(),
            created_ms: now,
        };
        assert_eq!(*channel, expected);
        self.channels.push(expected);
    }

    /// All that can be read is what the model says.
    fn check_reads(&self, rows: &Rows, page: usize) {
        let listed = pages(page, |after| servers(rows, after, page).unwrap());
        assert_eq!(listed, self.servers);
        for known in &self.servers {
            assert_eq!(server(rows, &known.id).unwrap().as_ref(), Some(known));
            let listed = pages(page, |after| {
                channels(rows, &known.id, after, page).unwrap()
            });
            let expected = self
                .channels
                .iter()
                .filter(|channel| channel.server == known.id);
            assert!(listed.iter().eq(expected));
        }
        for known in &self.channels {
            assert_eq!(channel(rows, &known.id).unwrap().as_ref(), Some(known));
            assert_eq!(
                channel_of_group(rows, known.group).unwrap().as_ref(),
                Some(known)
            );
        }
        assert_eq!(server(rows, &[99; 16]).unwrap(), None);
        assert_eq!(channel(rows, &[99; 16]).unwrap(), None);
        assert_eq!(channels(rows, &[99; 16], None, 10).unwrap(), []);
        assert_eq!(channel_of_group(rows, 0).unwrap(), None);
        assert_eq!(replication(rows).unwrap(), self.replication);
        let read = nodes(rows).unwrap();
        let expected: Vec<_> = self
            .nodes
            .iter()
            .map(|(id, zone)| self.node(*id, *zone))
            .collect();
        assert_eq!(read, expected);
    }

    fn node(&self, id: u64, zone: Option<usize>) -> Node {
        let holds = |channel: &&Channel| channel.replicas.contains(&id);
        let leads = |channel: &&Channel| channel.replicas[0] == id;
        Node {
            id,
            zone: zone.map(|zone| ZONES[zone].to_owned()),
            channels: self.channels.iter().filter(holds).count() as u64,
            preferred: self.channels.iter().filter(leads).count() as u64,
        }
    }
}

/// A whole list, read page by page.
fn pages<T>(limit: usize, read: impl Fn(Option<u64>) -> Vec<(u64, T)>) -> Vec<T> {
    let mut after = None;
    let mut all = Vec::new();
    loop {
        let page = read(after);
        assert!(page.len() <= limit);
        let Some((last, _)) = page.last() else {
            return all;
        };
        assert!(after.is_none_or(|after| after < page[0].0));
        after = Some(*last);
        all.extend(page.into_iter().map(|(_, item)| item));
    }
}

proptest! {
    /// Replicas that live differently agree with each other and with the model,
    /// also when parts come twice.
    #[test]
    fn like_the_model(
        batches in proptest::collection::vec(
            (0..50_u64, proptest::collection::vec(asked(), 1..6), any::<bool>(), 0..10_u8), 1..30),
        page in 1..5_usize,
    ) {
        let mut replicas = Replicas::new(Kind::Directory);
        let mut model = Model::default();
        let (mut now, mut sent) = (0, 0);
        for (timestamp_ms, batch, twice, dice) in batches {
            if dice == 0 {
                replicas.join();
            }
            now = now.max(timestamp_ms);
            let names: Vec<_> = batch
                .iter()
                .map(|asked| match asked {
                    Asked::Server(id) => format!("server {id} {now}"),
                    Asked::Channel { id, .. } => format!("channel {id} {now}"),
                    Asked::Nodes { .. } => String::new(),
                })
                .collect();
            let commands: Vec<_> = batch.iter().zip(&names).map(|(asked, name)| command(asked, name)).collect();
            let part = encode_part(SESSION, sent + 1, &commands).unwrap();
            sent += commands.len() as u64;
            let count = 1 + usize::from(twice);
            let payload = Batch::concat(timestamp_ms, &vec![part; count]).unwrap();
            let outcomes = replicas.apply(&payload).outcomes;
            let (first, again) = outcomes.split_at(batch.len());
            prop_assert!(again.iter().all(|outcome| *outcome == Outcome::Repeated));
            for (asked, outcome) in batch.iter().zip(first) {
                model.check(asked, now, outcome);
            }
        }
        replicas.catch_up();
        model.check_reads(replicas.rows(), page);
    }

    #[test]
    fn any_bytes_are_answered(
        payloads in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..60), 1..6),
    ) {
        let mut replicas = Replicas::new(Kind::Directory);
        for (bytes, node) in payloads.into_iter().zip(1_u64..) {
            prop_assert!(!replicas.apply(&Bytes::from(bytes.clone())).outcomes.is_empty());
            let mut part = vec![2];
            part.extend_from_slice(&node.to_le_bytes());
            part.extend_from_slice(&1_u128.to_le_bytes());
            part.extend_from_slice(&1_u64.to_le_bytes());
            part.extend_from_slice(&1_u16.to_le_bytes());
            part.extend_from_slice(&bytes);
            let applied = replicas.apply(&Batch::concat(1, &[part.into()]).unwrap());
            prop_assert_eq!(applied.outcomes.len(), 1);
        }
    }

    #[test]
    fn commands_round_trip(id: [u8; 16], server: [u8; 16], name: String, replication: u32, nodes: Vec<(u64, Option<String>)>) {
        let nodes = nodes.iter().map(|(id, zone)| (*id, zone.as_deref())).collect();
        for command in [
            Command::CreateServer { id, name: &name },
            Command::CreateChannel { id, server, name: &name },
            Command::SetNodes { replication, nodes },
        ] {
            let encoded = codec::encode(&command);
            let decoded = codec::decode_first::<Command<'_>>(&encoded).unwrap();
            prop_assert_eq!(decoded, (command, encoded.len()));
        }
    }

    #[test]
    fn rows_round_trip(id: [u8; 16], server: [u8; 16], name: String, number: u64, replicas: Vec<u64>, member: bool, zone: Option<String>) {
        fn check<T: Encode + Decode<()> + PartialEq + std::fmt::Debug>(row: T) {
            let bytes = codec::encode_record(1, &row);
            assert_eq!(codec::decode_record::<T>(1, &bytes).unwrap(), row);
            assert!(codec::decode_record::<T>(2, &bytes).is_err());
        }
        check(Server { id, name: name.clone() });
        check(Channel { id, server, name, group: number, replicas, created_ms: number });
        check(NodeRow { member, zone, channels: number, preferred: number });
        check(Head { next_ordinal: number, next_group: number, clock_ms: number, replication: 3 });
        check(Place { server, ordinal: number });
    }
}

fn command<'a>(asked: &Asked, name: &'a str) -> Command<'a> {
    match asked {
        Asked::Server(id) => create_server(*id, name),
        Asked::Channel { id, server } => create_channel(*id, *server, name),
        Asked::Nodes { replication, nodes } => Command::SetNodes {
            replication: *replication,
            nodes: nodes
                .iter()
                .map(|(id, zone)| (*id, zone.map(|zone| ZONES[zone])))
                .collect(),
        },
    }
}
