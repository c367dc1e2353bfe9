//! What a batch of 64 messages costs between the lane and the rows, without disk and network: encode,
//! decode, apply. `make bench-micro` runs it; beside another build its figures mean nothing.

mod rows;

use accord_raft::machine::Batch;
use accord_raft::machine::channel::Command;
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};

use rows::{Channel, POSTS};

fn codecs(criterion: &mut Criterion) {
    let channel = Channel::new();
    let commands = channel.commands();
    let payload = channel.encode(&commands);
    let mut group = criterion.benchmark_group("batch_of_64");
    group.throughput(Throughput::Elements(POSTS));
    group.bench_function("encode", |bench| bench.iter(|| channel.encode(&commands)));
    group.bench_function("decode", |bench| {
        bench.iter(|| {
            let batch = Batch::read(&payload).expect("it was just written");
            let commands = batch.parts()[0].commands::<Command<'_>>();
            commands.expect("it was just written").len()
        });
    });
    group.finish();
}

/// Over the rows of a channel that has had many batches, each applied once.
fn apply(criterion: &mut Criterion) {
    let mut channel = Channel::new();
    let mut group = criterion.benchmark_group("batch_of_64");
    group.throughput(Throughput::Elements(POSTS));
    group.bench_function("apply", |bench| {
        // One after the other, since each batch begins where the last one ended.
        let channel = std::cell::RefCell::new(&mut channel);
        bench.iter_batched(
            || {
                let channel = channel.borrow();
                channel.encode(&channel.commands())
            },
            |payload| {
                let mut channel = channel.borrow_mut();
                let (applied, writes) = channel.apply(&payload);
                channel.keep(&applied, writes);
                applied
            },
            BatchSize::PerIteration,
        );
    });
    group.finish();
}

criterion_group!(machine, codecs, apply);
criterion_main!(machine);
