//! See `accord_raft::fuzzing::peer_body`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| accord_raft::fuzzing::peer_body(bytes));
