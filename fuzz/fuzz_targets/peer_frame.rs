//! See `accord_raft::fuzzing::peer_frame`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| accord_raft::fuzzing::peer_frame(bytes));
