//! The channel's machine against a simple model, and its window at its edges.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::ops::Bound;

use accord_storage::{Order, Table};
use bytes::Bytes;
use proptest::prelude::*;

use super::window::{Expiry, Remembered};
use super::*;
use crate::machine::testing::{Replicas, Rows};
use crate::machine::{Kind, Machine, SessionId, encode_part};

fn post<'a>(username: &'a str, body: &'a str) -> Post<'a> {
    Post {
        id: [9; 16],
        username,
        body,
        key: None,
        expected_head: None,
        reply_to: None,
    }
}

/// One part from one session.
fn payload(timestamp_ms: u64, node: u64, first: u64, posts: &[Post<'_>]) -> Bytes {
    let commands: Vec<_> = posts.iter().cloned().map(Command::Post).collect();
    let session = SessionId { node, sequence: 1 };
    let part = encode_part(session, first, &commands).unwrap();
    Batch::concat(timestamp_ms, &[part]).unwrap()
}

/// A channel to which one session posts.
struct Poster {
    replicas: Replicas,
    sent: u64,
}

impl Poster {
    fn new() -> Self {
        Self {
            replicas: Replicas::new(Kind::Channel),
            sent: 0,
        }
    }

    fn post(&mut self, timestamp_ms: u64, posts: &[Post<'_>]) -> Vec<Outcome> {
        let payload = payload(timestamp_ms, 1, self.sent + 1, posts);
        self.sent += posts.len() as u64;
        self.replicas.apply(&payload).outcomes
    }
}

fn posted(seq: u64, timestamp_ms: u64) -> Outcome {
    Outcome::Posted {
        seq,
        timestamp_ms,
        id: [9; 16],
        repeated: false,
    }
}

fn repeated(seq: u64, timestamp_ms: u64) -> Outcome {
    Outcome::Posted {
        seq,
        timestamp_ms,
        id: [9; 16],
        repeated: true,
    }
}

#[test]
fn golden_commands() {
    let full = Post {
        id: [7; 16],
        username: "ada",
        body: "hé",
        key: Some("k"),
        expected_head: Some(300),
        reply_to: Some([8; 16]),
    };
    let expected = [
        &[0][..],
        &[7; 16],
        b"\x03ada",
        b"\x03h\xc3\xa9",
        b"\x01\x01k",
        &[1, 251, 44, 1],
        &[1],
        &[8; 16],
    ];
    assert_eq!(codec::encode(&Command::Post(full)), expected.concat());
    let plain = [&[0][..], &[9; 16], b"\x01a\x01b", &[0, 0, 0]].concat();
    assert_eq!(codec::encode(&Command::Post(post("a", "b"))), plain);
}

#[test]
fn golden_head() {
    let head = Head {
        seq: 2,
        clock_ms: 300,
        oldest_key: Some((1, 5)),
        ..Head::default()
    };
    assert_eq!(head.encode(), [1, 2, 251, 44, 1, 1, 1, 5]);
    assert_eq!(Head::default().encode(), [1, 0, 0, 0]);
    let busy = Head {
        jobs: 300,
        scheduled: 7,
        ..head
    };
    assert_eq!(busy.encode(), [2, 2, 251, 44, 1, 1, 1, 5, 251, 44, 1, 7]);
}

#[test]
fn golden_rows_of_a_batch() {
    let mut poster = Poster::new();
    poster.post(300, &[post("a", "b"), post("a", "c")]);
    let rows = poster.replicas.rows();
    assert_eq!(rows.state[&vec![1]], [1, 2, 251, 44, 1, 0]);
    assert_eq!(rows.state.len(), 2, "head and session: {rows:?}");
    assert_eq!(
        rows.index[&1_u64.to_be_bytes().to_vec()],
        [1, 1, 251, 44, 1, 2, 0]
    );
}

#[test]
fn bodies_are_not_copied() {
    let payload = payload(1, 1, 1, &[post("ada", "first body"), post("bob", "second")]);
    let applied = Replicas::new(Kind::Channel).apply(&payload);
    let inside = payload.as_ptr_range();
    for message in applied.committed.unwrap().messages {
        assert!(inside.contains(&message.username.as_bytes().as_ptr()));
        assert!(inside.contains(&message.body.as_bytes().as_ptr()));
    }
}

#[test]
fn the_clock_does_not_go_back() {
    let mut poster = Poster::new();
    assert_eq!(poster.post(50, &[post("a", "b")]), [posted(1, 50)]);
    assert_eq!(poster.post(10, &[post("a", "b")]), [posted(2, 50)]);
    assert_eq!(poster.post(51, &[post("a", "b")]), [posted(3, 51)]);
}

#[test]
fn one_racer_wins() {
    let mut poster = Poster::new();
    poster.post(1, &[post("a", "b")]);
    let mut racer = post("a", "mine");
    racer.expected_head = Some(1);
    let outcomes = poster.post(2, &vec![racer; 100]);
    assert_eq!(outcomes[0], posted(2, 2));
    assert_eq!(outcomes[1..], vec![Outcome::HeadMismatch { head: 2 }; 99]);
}

#[test]
fn the_key_comes_before_the_expected_head() {
    let mut poster = Poster::new();
    let mut first = post("ada", "b");
    first.key = Some("k");
    first.expected_head = Some(0);
    assert_eq!(poster.post(1, std::slice::from_ref(&first)), [posted(1, 1)]);
    let mut other_body = first.clone();
    other_body.body = "c";
    let mut other_reply = first.clone();
    other_reply.reply_to = Some([1; 16]);
    let mut other_user = first.clone();
    other_user.username = "bob";
    let mut other_id = first.clone();
    other_id.id = [1; 16];
    let outcomes = poster.post(2, &[first, other_body, other_reply, other_user, other_id]);
    let expected = [
        repeated(1, 1),
        Outcome::KeyReused,
        Outcome::KeyReused,
        Outcome::HeadMismatch { head: 1 },
        repeated(1, 1),
    ];
    assert_eq!(outcomes, expected);
}

#[test]
fn a_refused_post_does_not_take_its_key() {
    let mut poster = Poster::new();
    let mut refused = post("ada", "b");
    refused.key = Some("k");
    refused.expected_head = Some(7);
    assert_eq!(
        poster.post(1, std::slice::from_ref(&refused)),
        [Outcome::HeadMismatch { head: 0 }]
    );
    refused.expected_head = None;
    refused.body = "other";
    assert_eq!(poster.post(1, &[refused]), [posted(1, 1)]);
}

#[test]
fn a_key_is_forgotten_after_a_day() {
    let mut poster = Poster::new();
    let mut keyed = post("ada", "b");
    keyed.key = Some("k");
    let keyed = [keyed];
    assert_eq!(poster.post(5, &keyed), [posted(1, 5)]);
    assert_eq!(poster.post(4 + KEY_AGE_MS_MAX, &keyed), [repeated(1, 5)]);
    let later = 5 + KEY_AGE_MS_MAX;
    assert_eq!(poster.post(later, &keyed), [posted(2, later)]);
    assert_eq!(poster.post(later, &keyed), [repeated(2, later)]);
    check_window(poster.replicas.rows());
}

#[test]
fn a_key_is_forgotten_after_so_many_messages() {
    let mut machine = Machine::load(Kind::Channel, &Rows::default()).unwrap();
    let mut rows = Rows::default();
    let mut sent = 0;
    let mut apply = |posts: &[Post<'_>]| {
        let mut overlay = Overlay::new(&rows);
        let payload = payload(1, 1, sent + 1, posts);
        sent += posts.len() as u64;
        let applied = machine.apply(&mut overlay, sent, &payload).unwrap();
        let writes = overlay.into_writes();
        rows.apply(writes);
        applied.outcomes
    };
    let mut keyed = post("ada", "b");
    keyed.key = Some("k");
    let keyed = [keyed];
    assert_eq!(apply(&keyed), [posted(1, 1)]);
    let mut left = KEY_MESSAGES_MAX - 1;
    while left > 0 {
        let count = left.min(4096);
        apply(&vec![post("a", "b"); count as usize]);
        left -= count;
    }
    assert_eq!(apply(&keyed), [repeated(1, 1)]);
    apply(&[post("a", "b")]);
    assert_eq!(apply(&keyed), [posted(KEY_MESSAGES_MAX + 2, 1)]);
    assert_eq!(check_window(&rows), 1);
}

#[test]
fn expired_keys_go_a_bounded_number_at_a_time() {
    let mut poster = Poster::new();
    let names: Vec<_> = (0..500).map(|number| format!("k{number}")).collect();
    for names in names.chunks(100) {
        let posts: Vec<_> = names
            .iter()
            .map(|name| Post {
                key: Some(name),
                ..post("ada", "b")
            })
            .collect();
        poster.post(1, &posts);
    }
    assert_eq!(check_window(poster.replicas.rows()), 500);
    // A key whose rows are still there although it has expired.
    let again = Post {
        key: Some("k499"),
        ..post("ada", "c")
    };
    assert_eq!(
        poster.post(KEY_AGE_MS_MAX + 1, &[again]),
        [posted(501, KEY_AGE_MS_MAX + 1)]
    );
    let mut before = check_window(poster.replicas.rows());
    assert_eq!(before, 500 - 64);
    while before > 1 {
        poster.post(0, &[post("a", "b")]);
        let after = check_window(poster.replicas.rows());
        assert_eq!(after, before.saturating_sub(64).max(1));
        before = after;
    }
    // New ones make room for as many, and more. A hundred of these keys have
    // expired rows of their own, which are replaced.
    let posts: Vec<_> = names
        .iter()
        .map(|name| Post {
            key: Some(name),
            ..post("bob", "b")
        })
        .collect();
    poster.post(0, &posts);
    assert_eq!(check_window(poster.replicas.rows()), 501);
    poster.post(3 * KEY_AGE_MS_MAX, &posts[..100]);
    assert_eq!(check_window(poster.replicas.rows()), 501 - 2 * 100);
}

/// Both rows of each key are there and agree. Answers how many keys have rows.
fn check_window(rows: &Rows) -> usize {
    let (from, to) = keys::ALL_EXPIRY;
    let expiries = rows
        .scan(Table::State, from, to, Order::Ascending, usize::MAX)
        .unwrap();
    for (key, value) in &expiries {
        let seq = keys::parse_expiry(key).unwrap();
        let expiry: Expiry = codec::decode_record(1, value).unwrap();
        let row = rows
            .get(Table::State, &keys::remembered(&expiry.scope))
            .unwrap()
            .unwrap();
        let remembered = Remembered::decode(&row).unwrap();
        assert_eq!(
            (remembered.seq, remembered.timestamp_ms),
            (seq, expiry.timestamp_ms)
        );
    }
    let (from, to) = (Bound::Included(&[3][..]), Bound::Excluded(&[4][..]));
    let remembered = rows
        .scan(Table::State, from, to, Order::Ascending, usize::MAX)
        .unwrap();
    assert_eq!(remembered.len(), expiries.len());
    if let Some(oldest) = head(rows).unwrap().oldest_key {
        let first = expiries
            .first()
            .and_then(|(key, _)| keys::parse_expiry(key));
        assert!(first.is_none_or(|first| oldest.0 <= first));
    } else {
        assert!(expiries.is_empty());
    }
    expiries.len()
}

/// What a test sends: a batch of parts, or bytes that are no batch.
#[derive(Debug, Clone)]
enum Sent {
    Batch {
        timestamp_ms: u64,
        parts: Vec<SentPart>,
    },
    Garbage(Vec<u8>),
    /// A new replica begins from a snapshot.
    Join,
}

#[derive(Debug, Clone)]
struct SentPart {
    node: u64,
    /// Of which session, from the newest of its node: more is a new one.
    newer: i64,
    /// Where it begins, from what its session has done: 0 is its turn, less is
    /// a repetition, more comes too early.
    offset: i64,
    posts: Vec<SentPost>,
    damage: Damage,
}

#[derive(Debug, Clone, PartialEq)]
enum Damage {
    None,
    TrailingByte,
    CutShort,
    NoHeader,
}

#[derive(Debug, Clone)]
struct SentPost {
    id: u8,
    user: usize,
    body: usize,
    key: Option<usize>,
    /// From the head that is there at the beginning of the batch.
    expected_head: Option<i64>,
    reply_to: Option<u8>,
}

const USERS: [&str; 3] = ["ada", "bob", "日本"];
const BODIES: [&str; 4] = ["x", "hello", "🦀 crab\n", ""];
const KEYS: [&str; 3] = ["k", "kk", "n-1"];

fn sent() -> impl Strategy<Value = Sent> {
    let post = (
        any::<u8>(),
        0..USERS.len(),
        0..BODIES.len(),
        proptest::option::of(0..KEYS.len()),
        proptest::option::weighted(0.3, -1..=2_i64),
        proptest::option::weighted(0.2, any::<u8>()),
    );
    let post = post.prop_map(|(id, user, body, key, expected_head, reply_to)| SentPost {
        id,
        user,
        body,
        key,
        expected_head,
        reply_to,
    });
    let damage = prop_oneof![
        12 => Just(Damage::None),
        1 => Just(Damage::TrailingByte),
        1 => Just(Damage::CutShort),
        1 => Just(Damage::NoHeader),
    ];
    let offset = prop_oneof![6 => Just(0_i64), 1 => -3..=2_i64];
    let newer = prop_oneof![12 => Just(0_i64), 1 => -2..=2_i64];
    let part = (
        0..4_u64,
        newer,
        offset,
        proptest::collection::vec(post, 1..5),
        damage,
    );
    let part = part.prop_map(|(node, newer, offset, posts, damage)| SentPart {
        node,
        newer,
        offset,
        posts,
        damage,
    });
    let time = prop_oneof![
        8 => 0..1000_u64,
        1 => (0..4_u64).prop_map(|days| days * KEY_AGE_MS_MAX),
        1 => (0..4_u64).prop_map(|days| days * KEY_AGE_MS_MAX / 2 + 7),
    ];
    let batch = (time, proptest::collection::vec(part, 1..4));
    prop_oneof![
        20 => batch.prop_map(|(timestamp_ms, parts)| Sent::Batch { timestamp_ms, parts }),
        1 => proptest::collection::vec(any::<u8>(), 0..40).prop_map(Sent::Garbage),
        1 => Just(Sent::Join),
    ]
}

/// What is remembered of a keyed post in the model: its answer and its content.
type ModelKey = (u64, u64, [u8; 16], usize, Option<u8>);

/// The channel as one would write it down without thinking of rows.
#[derive(Default)]
struct Model {
    clock_ms: u64,
    messages: Vec<Message>,
    keys: BTreeMap<(usize, usize), ModelKey>,
    /// The newest session of each node, and how far it is.
    sessions: BTreeMap<u64, (u128, u64)>,
}

impl Model {
    fn head(&self) -> u64 {
        self.messages.len() as u64
    }

    fn newest(&self, part: &SentPart) -> (u128, u64) {
        self.sessions.get(&part.node).copied().unwrap_or((0, 0))
    }

    fn session(&self, part: &SentPart) -> SessionId {
        let sequence = self.newest(part).0.max(1) as i128 + i128::from(part.newer);
        SessionId {
            node: part.node,
            sequence: sequence.max(1) as u128,
        }
    }

    fn first(&self, part: &SentPart) -> u64 {
        let (newest, done) = self.newest(part);
        let is_newer = self.session(part).sequence > newest;
        let done = if is_newer { 0 } else { done };
        (done as i64 + 1 + part.offset).max(1) as u64
    }

    fn take(
        &mut self,
        part: &SentPart,
        session: SessionId,
        first: u64,
        heads: u64,
    ) -> Vec<Outcome> {
        if part.damage == Damage::NoHeader {
            return vec![Outcome::Malformed];
        }
        let (newest, done) = self.newest(part);
        let done = match session.sequence.cmp(&newest) {
            Ordering::Equal => done,
            Ordering::Greater if first == 1 => 0,
            Ordering::Greater | Ordering::Less => {
                return vec![Outcome::SessionUnknown { newest }; part.posts.len()];
            }
        };
        let counters = first..;
        let take = |(counter, post): (u64, &SentPost)| {
            if first > done + 1 {
                return Outcome::OutOfTurn { next: done + 1 };
            }
            if counter <= done {
                return Outcome::Repeated;
            }
            self.sessions.insert(part.node, (session.sequence, counter));
            if part.damage != Damage::None {
                return Outcome::Malformed;
            }
            self.decide(post, heads)
        };
        counters.zip(&part.posts).map(take).collect()
    }

    fn decide(&mut self, post: &SentPost, heads: u64) -> Outcome {
        let head = self.head();
        let slot = post.key.map(|key| (post.user, key));
        let live = slot.and_then(|slot| self.keys.get(&slot)).filter(|first| {
            self.clock_ms - first.1 < KEY_AGE_MS_MAX && head - first.0 < KEY_MESSAGES_MAX
        });
        if let Some((seq, timestamp_ms, id, body, reply_to)) = live {
            if (*body, *reply_to) != (post.body, post.reply_to) {
                return Outcome::KeyReused;
            }
            return Outcome::Posted {
                seq: *seq,
                timestamp_ms: *timestamp_ms,
                id: *id,
                repeated: true,
            };
        }
        if expected_head(post, heads).is_some_and(|expected| expected != head) {
            return Outcome::HeadMismatch { head };
        }
        let message = Message {
            seq: head + 1,
            id: [post.id; 16],
            timestamp_ms: self.clock_ms,
            username: USERS[post.user].into(),
            body: BODIES[post.body].into(),
            reply_to: post.reply_to.map(|id| [id; 16]),
            agent: None,
        };
        if let Some(slot) = slot {
            let key = (
                message.seq,
                message.timestamp_ms,
                message.id,
                post.body,
                post.reply_to,
            );
            self.keys.insert(slot, key);
        }
        self.messages.push(message);
        Outcome::Posted {
            seq: head + 1,
            timestamp_ms: self.clock_ms,
            id: [post.id; 16],
            repeated: false,
        }
    }
}

fn expected_head(post: &SentPost, heads: u64) -> Option<u64> {
    post.expected_head
        .map(|offset| (heads as i64 + offset).max(0) as u64)
}

fn encode(part: &SentPart, session: SessionId, first: u64, heads: u64) -> Bytes {
    let ids: Vec<_> = part
        .posts
        .iter()
        .map(|post| post.reply_to.map(|id| [id; 16]))
        .collect();
    let commands: Vec<_> = part
        .posts
        .iter()
        .zip(&ids)
        .map(|(post, reply_to)| {
            Command::Post(Post {
                id: [post.id; 16],
                username: USERS[post.user],
                body: BODIES[post.body],
                key: post.key.map(|key| KEYS[key]),
                expected_head: expected_head(post, heads),
                reply_to: *reply_to,
            })
        })
        .collect();
    let mut bytes = encode_part(session, first, &commands).unwrap().to_vec();
    match part.damage {
        Damage::None => {}
        Damage::TrailingByte => bytes.push(0),
        Damage::CutShort => bytes.truncate(bytes.len() - 1),
        Damage::NoHeader => bytes.truncate(5),
    }
    bytes.into()
}

/// A batch as it would be in the log, also with parts that cannot be read.
fn frame(timestamp_ms: u64, parts: &[Bytes]) -> Bytes {
    let mut batch = vec![1];
    batch.extend_from_slice(&timestamp_ms.to_le_bytes());
    batch.extend_from_slice(&(parts.len() as u16).to_le_bytes());
    for part in parts {
        batch.extend_from_slice(&(part.len() as u32).to_le_bytes());
        batch.extend_from_slice(part);
    }
    batch.into()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// Arbitrary sessions, repetitions, gaps, keys, conditions, clocks and damage:
    /// replicas that live differently agree with each other and with the model,
    /// and every message is found again as it was committed.
    #[test]
    fn like_the_model(history in proptest::collection::vec(sent(), 1..40)) {
        let mut replicas = Replicas::new(Kind::Channel);
        let mut model = Model::default();
        let mut log = BTreeMap::new();
        let mut told = BTreeMap::new();
        for sent in history {
            let (payload, expected) = match sent {
                Sent::Join => {
                    replicas.join();
                    continue;
                }
                Sent::Garbage(bytes) => (bytes.into(), vec![Outcome::Malformed]),
                Sent::Batch { timestamp_ms, parts } => {
                    model.clock_ms = model.clock_ms.max(timestamp_ms);
                    let heads = model.head();
                    let mut expected = Vec::new();
                    let mut encoded = Vec::new();
                    for part in &parts {
                        let (session, first) = (model.session(part), model.first(part));
                        encoded.push(encode(part, session, first, heads));
                        expected.extend(model.take(part, session, first, heads));
                    }
                    (frame(timestamp_ms, &encoded), expected)
                }
            };
            let before = replicas_head(&replicas);
            let applied = replicas.apply(&payload);
            prop_assert_eq!(&applied.outcomes, &expected);
            let new = &model.messages[before as usize..];
            match &applied.committed {
                None => prop_assert!(new.is_empty()),
                Some(committed) => {
                    prop_assert_eq!(&committed.messages, new);
                    prop_assert_eq!(committed.first_seq, before + 1);
                    prop_assert_eq!(committed.timestamp_ms, new[0].timestamp_ms);
                    told.insert(committed.first_seq, committed.clone());
                }
            }
            log.insert(replicas.applied(), payload);
        }
        replicas.catch_up();
        check_window(replicas.rows());
        check_history(replicas.rows(), &log, &told, &model);
    }

    /// The machine takes any bytes as an entry, and any as the commands of a
    /// well-framed part.
    #[test]
    fn any_bytes_are_answered(
        payloads in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..60), 1..6),
        count in 1..5_u16,
    ) {
        let mut replicas = Replicas::new(Kind::Channel);
        for bytes in payloads {
            let applied = replicas.apply(&Bytes::from(bytes.clone()));
            prop_assert!(!applied.outcomes.is_empty());
            let mut part = vec![2];
            part.extend_from_slice(&7_u64.to_le_bytes());
            part.extend_from_slice(&1_u128.to_le_bytes());
            part.extend_from_slice(&1_u64.to_le_bytes());
            part.extend_from_slice(&count.to_le_bytes());
            part.extend_from_slice(&bytes);
            let applied = replicas.apply(&frame(1, &[part.into()]));
            prop_assert_eq!(applied.outcomes.len(), usize::from(count));
        }
    }

    #[test]
    fn commands_round_trip(
        id: [u8; 16], username: String, body: String, key: Option<String>,
        expected_head: Option<u64>, reply_to: Option<[u8; 16]>,
    ) {
        let command = Command::Post(Post {
            id,
            username: &username,
            body: &body,
            key: key.as_deref(),
            expected_head,
            reply_to,
        });
        let encoded = codec::encode(&command);
        let decoded = codec::decode_first::<Command<'_>>(&encoded).unwrap();
        prop_assert_eq!(decoded, (command, encoded.len()));
    }

    #[test]
    fn heads_round_trip(seq: u64, clock_ms: u64, oldest_key: Option<(u64, u64)>, jobs in 0..3_u32, scheduled in 0..3_u32) {
        let head = Head { seq, clock_ms, oldest_key, jobs, scheduled };
        prop_assert_eq!(Head::decode(&head.encode()).unwrap(), head);
    }
}

fn replicas_head(replicas: &Replicas) -> u64 {
    head(replicas.rows()).unwrap().seq
}

/// Every message is found by its seq and is what was told when it was applied.
fn check_history(
    rows: &Rows,
    log: &BTreeMap<u64, Bytes>,
    told: &BTreeMap<u64, Committed>,
    model: &Model,
) {
    let mut last_ms = 0;
    for (expected, seq) in model.messages.iter().zip(1..) {
        let (first_seq, row) = index_at(rows, seq).unwrap().unwrap();
        let found = committed(first_seq, &row, &log[&row.log_index]).unwrap();
        assert_eq!(found, told[&first_seq]);
        assert_eq!(&found.messages[(seq - first_seq) as usize], expected);
        assert_eq!(expected.seq, seq);
        assert!(expected.timestamp_ms >= last_ms);
        last_ms = expected.timestamp_ms;

        let later = index_from(rows, seq, 2).unwrap();
        assert_eq!(later[0].0, first_seq);
        let earlier = index_up_to(rows, seq, 2).unwrap();
        assert_eq!(earlier[0].0, first_seq);
        assert_eq!(
            later.get(1).map(|next| next.0),
            told.range(first_seq + 1..).next().map(|next| *next.0)
        );
        assert_eq!(
            earlier.get(1).map(|next| next.0),
            told.range(..first_seq).next_back().map(|next| *next.0)
        );
    }
    let head = model.head();
    assert_eq!(index_at(rows, 0).unwrap(), None);
    assert_eq!(index_at(rows, head + 1).unwrap(), None);
    assert_eq!(index_from(rows, head + 1, 9).unwrap(), []);
    assert_eq!(index_from(rows, 0, usize::MAX).unwrap().len(), told.len());
    assert_eq!(
        index_up_to(rows, u64::MAX, usize::MAX).unwrap().len(),
        told.len()
    );
}

#[test]
fn a_damaged_entry_or_row_is_an_error() {
    let payload = payload(1, 1, 1, &[post("a", "b"), post("a", "c")]);
    let row = |count, accepted| IndexRow {
        log_index: 1,
        timestamp_ms: 1,
        count,
        accepted,
    };
    assert!(committed(1, &row(2, Accepted::All), &payload).is_ok());
    assert!(committed(1, &row(1, Accepted::Some(vec![2])), &payload).is_ok());
    for (first_seq, row) in [
        (1, row(1, Accepted::All)),
        (1, row(3, Accepted::All)),
        (1, row(2, Accepted::Some(vec![2]))),
        (1, row(3, Accepted::Some(vec![7]))),
        (0, row(2, Accepted::All)),
        (u64::MAX, row(2, Accepted::All)),
    ] {
        assert!(committed(first_seq, &row, &payload).is_err(), "{row:?}");
    }
    let mut rows = Rows::default();
    rows.state.insert(keys::head(), vec![2]);
    assert!(ChannelMachine::load(&rows).is_err());
    rows.index.insert(vec![1], vec![]);
    assert!(index_from(&rows, 0, 1).is_err());
}

/// The cost of applying, over rows in memory: no clock may be named here, so
/// run it alone, optimised, and divide the time that the test runner prints by
/// the messages: `cargo test --release -- --ignored apply_cost`.
#[test]
#[ignore = "a measurement"]
fn apply_cost() {
    const BATCHES: u64 = 20_000;
    const POSTS: u64 = 256;
    let body = "x".repeat(128);
    let posts = vec![post("username", &body); POSTS as usize];
    let mut machine = ChannelMachine::load(&Rows::default()).unwrap();
    let mut rows = Rows::default();
    let first = payload(1, 1, 1, &posts).to_vec();
    for batch in 0..BATCHES {
        // The same entry with the next counter, to leave encoding out.
        let mut payload = first.clone();
        payload[40..48].copy_from_slice(&(batch * POSTS + 1).to_le_bytes());
        let mut overlay = Overlay::new(&rows);
        let applied = machine
            .apply(&mut overlay, batch + 1, &payload.into())
            .unwrap();
        assert_eq!(
            applied
                .committed
                .map(|committed| committed.messages.len() as u64),
            Some(POSTS)
        );
        let writes = overlay.into_writes();
        rows.apply(writes);
    }
    assert_eq!(machine.head().seq, BATCHES * POSTS);
}
