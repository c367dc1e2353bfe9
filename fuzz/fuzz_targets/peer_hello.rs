//! See `accord_raft::fuzzing::peer_hello`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| accord_raft::fuzzing::peer_hello(bytes));
