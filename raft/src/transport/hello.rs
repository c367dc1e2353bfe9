//! What the two ends of a new connection say to each other before any frame, and their judgement.
//!
//! The dialler says [`Message::Hello`]; the acceptor judges it and says [`Message::Welcome`]; the
//! dialler judges that and says [`Message::Ready`]. Either may say [`Message::Refused`] instead, with
//! a sentence. Each message is `[magic 8][lowest version u16][highest version u16][type u8][len u16]
//! [body]`, little-endian. All of that and the body of a refusal (`[reason u8][text]`) stay the same
//! in every version, so that two versions that do not understand each other can still say so.
//!
//! Pure: bytes to messages and back, messages to judgements.

use bincode::{Decode, Encode};

use crate::codec;

use super::{Disk, NodeId};

pub(super) const CLUSTER_BYTES_MAX: usize = 255;
pub(super) const FINGERPRINT_BYTES_MAX: usize = 4_096;
/// A stranger makes us hold no more than this; it has room for the longest names.
pub(super) const BODY_BYTES_MAX: usize = 8_192;
/// A refusal is a sentence; it may quote two fingerprints.
const TEXT_BYTES_MAX: usize = 2_048;

pub(super) const PREFIX_BYTES: usize = 15;
/// Not text, and not the first bytes of HTTP, TLS or a frame.
const MAGIC: [u8; 8] = *b"\x89ACCORD\n";

/// The versions of the protocol that this program speaks.
///
/// 2: the hello carries the incarnation of the storage.
pub(super) const VERSIONS: Versions = Versions {
    lowest: 2,
    highest: 2,
};

const HELLO: u8 = 1;
const WELCOME: u8 = 2;
const READY: u8 = 3;
const REFUSED: u8 = 4;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Versions {
    pub(super) lowest: u16,
    pub(super) highest: u16,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Message {
    Hello(Hello),
    Welcome(Hello),
    Ready,
    Refused(Refusal),
}

/// One end's description of itself, and of whom it believes to talk to.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub(super) struct Hello {
    pub(super) cluster: String,
    pub(super) node: NodeId,
    pub(super) target: NodeId,
    pub(super) disk: Disk,
    pub(super) fingerprint: String,
}

/// Why a connection was refused, or closed for what it carried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// Something that does not speak this protocol.
    BadMagic,
    /// The two programs have no version of the protocol in common.
    Version,
    OtherCluster,
    /// The dialler wanted another node than the one it reached.
    OtherNode,
    /// Not a node of the configuration.
    UnknownNode,
    OtherSettings,
    /// [`Service::admit`](super::Service::admit) refused the storage identity.
    OtherIdentity,
    /// The messages of the handshake were not in order, or not readable.
    Malformed,
    TimedOut,
    /// Too many connections were in their handshake at once.
    TooMany,
    /// An agreed connection announced a frame over [`FRAME_BYTES_MAX`](super::FRAME_BYTES_MAX).
    OversizeFrame,
    /// An agreed connection carried something else that is not a frame.
    BadFrame,
}

impl Reason {
    pub const ALL: [Self; 12] = [
        Self::BadMagic,
        Self::Version,
        Self::OtherCluster,
        Self::OtherNode,
        Self::UnknownNode,
        Self::OtherSettings,
        Self::OtherIdentity,
        Self::Malformed,
        Self::TimedOut,
        Self::TooMany,
        Self::OversizeFrame,
        Self::BadFrame,
    ];

    /// For logs and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::BadMagic => "bad_magic",
            Self::Version => "version",
            Self::OtherCluster => "other_cluster",
            Self::OtherNode => "other_node",
            Self::UnknownNode => "unknown_node",
            Self::OtherSettings => "other_settings",
            Self::OtherIdentity => "other_identity",
            Self::Malformed => "malformed",
            Self::TimedOut => "timed_out",
            Self::TooMany => "too_many",
            Self::OversizeFrame => "oversize_frame",
            Self::BadFrame => "bad_frame",
        }
    }

    /// Its place in [`Reason::ALL`], and its byte in a message: part of the protocol.
    pub(super) fn code(self) -> u8 {
        match self {
            Self::BadMagic => 0,
            Self::Version => 1,
            Self::OtherCluster => 2,
            Self::OtherNode => 3,
            Self::UnknownNode => 4,
            Self::OtherSettings => 5,
            Self::OtherIdentity => 6,
            Self::Malformed => 7,
            Self::TimedOut => 8,
            Self::TooMany => 9,
            Self::OversizeFrame => 10,
            Self::BadFrame => 11,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub(super) struct Refusal {
    pub(super) reason: Reason,
    pub(super) text: String,
}

impl Refusal {
    pub(super) fn new(reason: Reason, text: impl Into<String>) -> Self {
        Self {
            reason,
            text: text.into(),
        }
    }
}

/// The first bytes of a message, already found to be of this protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Prefix {
    versions: Versions,
    message_type: u8,
    pub(super) body_bytes: usize,
}

pub(super) fn encode(message: &Message) -> Vec<u8> {
    let (message_type, body) = match message {
        Message::Hello(hello) => (HELLO, encode_hello(hello)),
        Message::Welcome(hello) => (WELCOME, encode_hello(hello)),
        Message::Ready => (READY, Vec::new()),
        Message::Refused(refusal) => {
            let mut body = vec![refusal.reason.code()];
            body.extend_from_slice(shortened(&refusal.text, TEXT_BYTES_MAX).as_bytes());
            (REFUSED, body)
        }
    };
    let len = u16::try_from(body.len()).expect("names and texts are bounded far below 64 KiB");
    let mut bytes = Vec::with_capacity(PREFIX_BYTES + body.len());
    bytes.extend_from_slice(&MAGIC);
    bytes.extend_from_slice(&VERSIONS.lowest.to_le_bytes());
    bytes.extend_from_slice(&VERSIONS.highest.to_le_bytes());
    bytes.push(message_type);
    bytes.extend_from_slice(&len.to_le_bytes());
    bytes.extend_from_slice(&body);
    bytes
}

/// Could a message begin like this? Garbage is recognised before as many bytes came as a prefix has.
pub(super) fn may_begin(bytes: &[u8]) -> bool {
    bytes
        .iter()
        .zip(&MAGIC)
        .all(|(byte, expected)| byte == expected)
}

pub(super) fn bad_magic() -> Refusal {
    Refusal::new(Reason::BadMagic, "what came is not Accord's peer protocol")
}

pub(super) fn decode_prefix(bytes: &[u8; PREFIX_BYTES]) -> Result<Prefix, Refusal> {
    if !may_begin(bytes) {
        return Err(bad_magic());
    }
    let number = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
    let versions = Versions {
        lowest: number(8),
        highest: number(10),
    };
    let body_bytes = usize::from(number(13));
    if body_bytes > BODY_BYTES_MAX {
        return Err(malformed());
    }
    Ok(Prefix {
        versions,
        message_type: bytes[12],
        body_bytes,
    })
}

/// A message of a version that we do not speak is an error, unless it is a refusal.
pub(super) fn decode_body(prefix: Prefix, body: &[u8]) -> Result<Message, Refusal> {
    if prefix.message_type == REFUSED {
        let (&code, text) = body.split_first().ok_or_else(malformed)?;
        let reason = Reason::ALL
            .get(usize::from(code))
            .copied()
            .unwrap_or(Reason::Malformed);
        let text = shortened(&printable(&String::from_utf8_lossy(text)), TEXT_BYTES_MAX).to_owned();
        return Ok(Message::Refused(Refusal { reason, text }));
    }
    agree(VERSIONS, prefix.versions)?;
    match prefix.message_type {
        HELLO => decode_hello(body).map(Message::Hello),
        WELCOME => decode_hello(body).map(Message::Welcome),
        READY if body.is_empty() => Ok(Message::Ready),
        _ => Err(malformed()),
    }
}

/// The highest version that both speak.
fn agree(ours: Versions, theirs: Versions) -> Result<u16, Refusal> {
    let common = ours.highest.min(theirs.highest);
    if common >= ours.lowest.max(theirs.lowest) {
        return Ok(common);
    }
    let text = format!(
        "the programs do not fit: one speaks protocol versions {} to {}, the other {} to {}",
        ours.lowest, ours.highest, theirs.lowest, theirs.highest
    );
    Err(Refusal::new(Reason::Version, text))
}

/// What the acceptor thinks of a dialler, apart from its storage identity. The texts name nodes
/// rather than "ours" and "theirs", because both ends log them.
pub(super) fn judge_dialler(
    own: &Hello,
    is_known: impl Fn(NodeId) -> bool,
    dialler: &Hello,
) -> Result<(), Refusal> {
    judge_cluster(own, dialler)?;
    if dialler.target != own.node {
        let (wanted, reached) = (dialler.target, own.node);
        let text = format!(
            "node {} dialled node {wanted} but reached node {reached}: check the address of node {wanted}",
            dialler.node
        );
        return Err(Refusal::new(Reason::OtherNode, text));
    }
    if dialler.node == own.node {
        let text = format!(
            "both ends of the connection say that they are node {}",
            own.node
        );
        return Err(Refusal::new(Reason::UnknownNode, text));
    }
    if !is_known(dialler.node) {
        let text = format!(
            "node {} is not in the configuration of node {}",
            dialler.node, own.node
        );
        return Err(Refusal::new(Reason::UnknownNode, text));
    }
    judge_settings(own, dialler)
}

/// What the dialler thinks of the acceptor. Most of it the acceptor has checked before; it is checked
/// again because neither end trusts the other's program to be correct.
pub(super) fn judge_acceptor(own: &Hello, acceptor: &Hello) -> Result<(), Refusal> {
    judge_cluster(own, acceptor)?;
    if acceptor.node != own.target || acceptor.target != own.node {
        let text = format!(
            "node {} dialled node {} but node {} answers, to node {}",
            own.node, own.target, acceptor.node, acceptor.target
        );
        return Err(Refusal::new(Reason::OtherNode, text));
    }
    judge_settings(own, acceptor)
}

fn judge_cluster(own: &Hello, other: &Hello) -> Result<(), Refusal> {
    if own.cluster == other.cluster {
        return Ok(());
    }
    let text = format!(
        "the cluster is '{}' on node {} but '{}' on node {}",
        own.cluster,
        own.node,
        printable(&other.cluster),
        other.node
    );
    Err(Refusal::new(Reason::OtherCluster, text))
}

fn judge_settings(own: &Hello, other: &Hello) -> Result<(), Refusal> {
    if own.fingerprint == other.fingerprint {
        return Ok(());
    }
    let text = format!(
        "settings differ: node {} has {}, node {} has {}",
        own.node,
        own.fingerprint,
        other.node,
        printable(&other.fingerprint)
    );
    Err(Refusal::new(Reason::OtherSettings, text))
}

/// Control characters are escaped, so that a stranger's words cannot forge log lines.
pub(super) fn printable(text: &str) -> String {
    let escaped = |c: char| match c.is_control() {
        true => c.escape_default().to_string(),
        false => c.to_string(),
    };
    text.chars().map(escaped).collect()
}

/// Cut between characters to at most so many bytes.
pub(super) fn shortened(text: &str, bytes_max: usize) -> &str {
    let mut end = text.len().min(bytes_max);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

fn encode_hello(hello: &Hello) -> Vec<u8> {
    codec::encode(hello)
}

fn decode_hello(body: &[u8]) -> Result<Hello, Refusal> {
    let hello: Hello = codec::decode::<_, BODY_BYTES_MAX>(body).map_err(|_| malformed())?;
    let bounded = hello.cluster.len() <= CLUSTER_BYTES_MAX
        && hello.fingerprint.len() <= FINGERPRINT_BYTES_MAX;
    if bounded { Ok(hello) } else { Err(malformed()) }
}

fn malformed() -> Refusal {
    Refusal::new(
        Reason::Malformed,
        "a message of the handshake cannot be read",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn decode(bytes: &[u8]) -> Result<Message, Refusal> {
        let (prefix, body) = bytes.split_first_chunk().ok_or_else(malformed)?;
        decode_body(decode_prefix(prefix)?, body)
    }

    fn hello() -> Hello {
        Hello {
            cluster: "accord".into(),
            node: 1,
            target: 2,
            disk: Disk {
                identity: [7; 16],
                incarnation: 9,
            },
            fingerprint: "replication=3".into(),
        }
    }

    fn welcome() -> Hello {
        Hello {
            node: 2,
            target: 1,
            ..hello()
        }
    }

    fn any_hello() -> impl Strategy<Value = Hello> {
        (
            ".{0,60}",
            any::<u64>(),
            any::<u64>(),
            any::<[u8; 16]>(),
            any::<u64>(),
            ".{0,600}",
        )
            .prop_map(
                |(cluster, node, target, identity, incarnation, fingerprint)| Hello {
                    cluster,
                    node,
                    target,
                    disk: Disk {
                        identity,
                        incarnation,
                    },
                    fingerprint,
                },
            )
    }

    fn any_message() -> impl Strategy<Value = Message> {
        prop_oneof![
            any_hello().prop_map(Message::Hello),
            any_hello().prop_map(Message::Welcome),
            Just(Message::Ready),
            (prop::sample::select(&Reason::ALL[..]), "[ -~]{0,80}")
                .prop_map(|(reason, text)| Message::Refused(Refusal { reason, text })),
        ]
    }

    #[test]
    fn golden_bytes() {
        let mut expected = b"\x89ACCORD\n\x02\x00\x02\x00\x01\x28\x00\x06accord\x01\x02".to_vec();
        expected.extend_from_slice(&[7; 16]);
        expected.push(9);
        expected.extend_from_slice(b"\x0dreplication=3");
        assert_eq!(encode(&Message::Hello(hello())), expected);
        let refusal = Message::Refused(Refusal::new(Reason::OtherCluster, "no"));
        assert_eq!(
            encode(&refusal),
            b"\x89ACCORD\n\x02\x00\x02\x00\x04\x03\x00\x02no"
        );
    }

    #[test]
    fn reasons_have_their_own_codes() {
        for (place, reason) in Reason::ALL.into_iter().enumerate() {
            assert_eq!(usize::from(reason.code()), place);
        }
    }

    #[test]
    fn dialler_is_judged() {
        let check = |dialler: Hello, expected: Option<(Reason, &str)>| {
            let judged = judge_dialler(&welcome(), |node| node <= 3, &dialler);
            let judged = judged.err().map(|refusal| (refusal.reason, refusal.text));
            assert_eq!(
                judged,
                expected.map(|(reason, text)| (reason, text.to_owned()))
            );
        };
        check(hello(), None);
        check(
            Hello {
                cluster: "o\nther".into(),
                ..hello()
            },
            Some((
                Reason::OtherCluster,
                "the cluster is 'accord' on node 2 but 'o\\nther' on node 1",
            )),
        );
        check(
            Hello {
                target: 3,
                ..hello()
            },
            Some((
                Reason::OtherNode,
                "node 1 dialled node 3 but reached node 2: check the address of node 3",
            )),
        );
        check(
            Hello { node: 2, ..hello() },
            Some((
                Reason::UnknownNode,
                "both ends of the connection say that they are node 2",
            )),
        );
        check(
            Hello { node: 4, ..hello() },
            Some((
                Reason::UnknownNode,
                "node 4 is not in the configuration of node 2",
            )),
        );
        check(
            Hello {
                fingerprint: "replication=1".into(),
                ..hello()
            },
            Some((
                Reason::OtherSettings,
                "settings differ: node 2 has replication=3, node 1 has replication=1",
            )),
        );
    }

    #[test]
    fn acceptor_is_judged() {
        let check = |acceptor: Hello, expected: Option<Reason>| {
            assert_eq!(
                judge_acceptor(&hello(), &acceptor)
                    .err()
                    .map(|refusal| refusal.reason),
                expected
            );
        };
        check(welcome(), None);
        check(
            Hello {
                cluster: "other".into(),
                ..welcome()
            },
            Some(Reason::OtherCluster),
        );
        check(
            Hello {
                node: 3,
                ..welcome()
            },
            Some(Reason::OtherNode),
        );
        check(
            Hello {
                target: 3,
                ..welcome()
            },
            Some(Reason::OtherNode),
        );
        check(
            Hello {
                fingerprint: String::new(),
                ..welcome()
            },
            Some(Reason::OtherSettings),
        );
        // Its own hello, come back to it, is not an answer.
        check(hello(), Some(Reason::OtherNode));
    }

    #[test]
    fn texts_are_cut_between_characters() {
        assert_eq!(shortened("xéé", 4), "xé");
        assert_eq!(shortened("xéé", 5), "xéé");
        assert_eq!(shortened("é", 1), "");
    }

    #[test]
    fn other_versions_can_be_told_so() {
        let mut bytes = encode(&Message::Hello(hello()));
        bytes[8..12].copy_from_slice(&[3, 0, 5, 0]);
        let refusal = decode(&bytes).unwrap_err();
        assert_eq!(refusal.reason, Reason::Version);
        assert!(
            refusal.text.contains("versions 2 to 2, the other 3 to 5"),
            "{refusal}"
        );
        let mut bytes = encode(&Message::Refused(refusal.clone()));
        bytes[8..12].copy_from_slice(&[3, 0, 5, 0]);
        assert_eq!(decode(&bytes), Ok(Message::Refused(refusal)));
    }

    proptest! {
        #[test]
        fn round_trip(message in any_message()) {
            prop_assert_eq!(decode(&encode(&message)), Ok(message));
        }

        #[test]
        fn any_bytes_end_well(
            message in any_message(),
            noise in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
            cut in any::<prop::sample::Index>(),
            tail in prop::collection::vec(any::<u8>(), 0..300),
        ) {
            let mut bytes = encode(&message);
            for (at, byte) in noise {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            bytes.truncate(cut.index(bytes.len() + 1));
            bytes.extend_from_slice(&tail);
            let _ = decode(&bytes);
            let _ = decode(&tail);
        }

        #[test]
        fn versions_agree_the_same_from_both_ends(a in 0_u16..5, b in 0_u16..5, c in 0_u16..5, d in 0_u16..5) {
            let (x, y) = (Versions { lowest: a.min(b), highest: a.max(b) }, Versions { lowest: c.min(d), highest: c.max(d) });
            prop_assert_eq!(agree(x, y).ok(), agree(y, x).ok());
            if let Ok(version) = agree(x, y) {
                prop_assert!((x.lowest..=x.highest).contains(&version) && (y.lowest..=y.highest).contains(&version));
            }
        }
    }
}
