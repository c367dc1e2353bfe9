//! What 64 committed messages cost on their way to sockets, without a network: their frames are
//! written once for the node, and then handed to each socket. `make bench-micro` runs it; beside
//! another build its figures mean nothing.
//!
//! The node is a program and no library, so its two modules are compiled in here once more.

#[allow(dead_code, unused_imports, reason = "the rest serves the node")]
#[path = "../../src/delivery/encode.rs"]
mod encode;
#[allow(dead_code, unused_imports, reason = "the rest serves the node")]
mod socket;

use std::io;
use std::pin::Pin;
use std::task::Context;
use std::task::Poll;

use accord_raft::machine::Committed;
use accord_raft::machine::Message;
use accord_raft::machine::Text;
use bytes::Bytes;
use criterion::Criterion;
use criterion::Throughput;
use criterion::criterion_group;
use criterion::criterion_main;
use tokio::io::AsyncRead;
use tokio::io::AsyncWrite;
use tokio::io::ReadBuf;

use socket::wire::Wire;

const MESSAGES: u64 = 64;
const BODY_BYTES: usize = 128;
const FRAME_BYTES_MAX: usize = 64 << 10;

fn committed() -> Committed {
    let text = |text: String| Text::from_utf8(Bytes::from(text)).expect("it was a String");
    let message = |seq: u64| Message {
        seq,
        id: u128::from(seq).to_be_bytes(),
        timestamp_ms: 1_700_000_000_000,
        username: text("user".to_owned()),
        body: text("x".repeat(BODY_BYTES)),
        reply_to: None,
    };
    Committed {
        first_seq: 1,
        timestamp_ms: 1_700_000_000_000,
        messages: (1..=MESSAGES).map(message).collect(),
    }
}

fn encoding(criterion: &mut Criterion) {
    let committed = committed();
    let mut group = criterion.benchmark_group("fan_out_of_64");
    group.throughput(Throughput::Elements(MESSAGES));
    group.bench_function("encode", |bench| bench.iter(|| encode::frames(&committed)));
    group.finish();
}

fn websocket(criterion: &mut Criterion) {
    let frames = encode::frames(&committed());
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    let runtime = runtime.expect("a runtime without drivers needs nothing");
    let mut wire = runtime.block_on(Wire::new(Sink, Vec::new(), FRAME_BYTES_MAX));
    let mut group = criterion.benchmark_group("fan_out_of_64");
    group.throughput(Throughput::Elements(MESSAGES));
    group.bench_function("to_one_socket", |bench| {
        bench.iter(|| runtime.block_on(wire.send_all(&frames)).is_ok());
    });
    group.finish();
}

/// A connection that takes everything at once and says nothing.
struct Sink;

impl AsyncRead for Sink {
    fn poll_read(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        _: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Poll::Pending
    }
}

impl AsyncWrite for Sink {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

criterion_group!(edge, encoding, websocket);
criterion_main!(edge);
