//! The handshake on a socket: the messages of `hello`, sent, awaited, and judged.

use std::io;
use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::hello::{self, Hello, Message, PREFIX_BYTES, Reason, Refusal};
use super::{NodeId, Shared};
use crate::edge::{self, TcpStream};

/// Why no connection came to be.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    #[error("{0}")]
    Broken(#[from] io::Error),
    /// We refused.
    #[error("{0}")]
    Ours(Refusal),
    /// The other end refused.
    #[error("{0}")]
    Theirs(Refusal),
}

impl Failure {
    pub(super) fn refusal(&self) -> Option<&Refusal> {
        match self {
            Self::Broken(_) => None,
            Self::Ours(refusal) | Self::Theirs(refusal) => Some(refusal),
        }
    }
}

/// Agrees with the node that we dialled for, or fails.
pub(super) async fn dial(
    shared: &Arc<Shared>,
    node: NodeId,
    stream: &mut TcpStream,
) -> Result<(), Failure> {
    let own = describe(shared, node);
    send(stream, &Message::Hello(own.clone())).await?;
    let judged = match receive(stream).await {
        Ok(Message::Welcome(other)) => match hello::judge_acceptor(&own, &other) {
            Ok(()) => admit(shared, other).await,
            Err(refusal) => Err(refusal),
        },
        Ok(Message::Refused(refusal)) => return Err(Failure::Theirs(refusal)),
        Ok(Message::Hello(_) | Message::Ready) => Err(out_of_order()),
        Err(Failure::Ours(refusal)) => Err(refusal),
        Err(failure) => return Err(failure),
    };
    match judged {
        Ok(_) => Ok(send(stream, &Message::Ready).await?),
        Err(refusal) => Err(refuse(stream, refusal).await),
    }
}

/// Agrees with whoever dialled us, or fails. Answers the dialler's node id.
pub(super) async fn accept(
    shared: &Arc<Shared>,
    stream: &mut TcpStream,
) -> Result<NodeId, Failure> {
    let judged = match receive(stream).await {
        Ok(Message::Hello(other)) => {
            let own = describe(shared, other.node);
            match hello::judge_dialler(&own, |node| shared.peers.contains_key(&node), &other) {
                Ok(()) => admit(shared, other).await.map(|node| (node, own)),
                Err(refusal) => Err(refusal),
            }
        }
        Ok(_) => Err(out_of_order()),
        Err(Failure::Ours(refusal)) => Err(refusal),
        Err(failure) => return Err(failure),
    };
    let (node, own) = match judged {
        Ok(agreed) => agreed,
        Err(refusal) => return Err(refuse(stream, refusal).await),
    };
    send(stream, &Message::Welcome(own)).await?;
    match receive(stream).await? {
        Message::Ready => Ok(node),
        Message::Refused(refusal) => Err(Failure::Theirs(refusal)),
        Message::Hello(_) | Message::Welcome(_) => Err(refuse(stream, out_of_order()).await),
    }
}

fn describe(shared: &Shared, target: NodeId) -> Hello {
    let config = &shared.config;
    Hello {
        cluster: config.cluster.clone(),
        node: config.node,
        target,
        disk: config.disk,
        fingerprint: config.fingerprint.clone(),
    }
}

/// Asks the service, on a thread where it may wait for a disk.
async fn admit(shared: &Arc<Shared>, other: Hello) -> Result<NodeId, Refusal> {
    let service = Arc::clone(&shared.service);
    let admitted = edge::blocking(move || service.admit(other.node, other.disk)).await;
    let judged =
        admitted.unwrap_or_else(|_| Err("the storage identity could not be checked".to_owned()));
    match judged {
        Ok(()) => Ok(other.node),
        Err(text) => Err(Refusal::new(Reason::OtherIdentity, text)),
    }
}

/// Tells the other end, if it speaks our language and still listens.
async fn refuse(stream: &mut TcpStream, refusal: Refusal) -> Failure {
    if refusal.reason != Reason::BadMagic {
        // The refusal stands whether or not it is heard.
        let _ = send(stream, &Message::Refused(refusal.clone())).await;
    }
    Failure::Ours(refusal)
}

async fn send(stream: &mut TcpStream, message: &Message) -> io::Result<()> {
    stream.write_all(&hello::encode(message)).await
}

/// Reads exactly one message: what follows belongs to the frames.
async fn receive(stream: &mut TcpStream) -> Result<Message, Failure> {
    let mut prefix = [0; PREFIX_BYTES];
    let mut filled = 0;
    while filled < PREFIX_BYTES {
        let read = stream.read(&mut prefix[filled..]).await?;
        if read == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        filled += read;
        if !hello::may_begin(&prefix[..filled]) {
            return Err(Failure::Ours(hello::bad_magic()));
        }
    }
    let prefix = hello::decode_prefix(&prefix).map_err(Failure::Ours)?;
    let mut body = vec![0; prefix.body_bytes];
    stream.read_exact(&mut body).await?;
    hello::decode_body(prefix, &body).map_err(Failure::Ours)
}

fn out_of_order() -> Refusal {
    Refusal::new(
        Reason::Malformed,
        "the messages of the handshake came out of order",
    )
}
