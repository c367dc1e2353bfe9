//! See `accord_raft::fuzzing::machine_batch`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| accord_raft::fuzzing::machine_batch(bytes));
