//! See `accord_storage::fuzzing::snapshot_chunk`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| accord_storage::fuzzing::snapshot_chunk(bytes));
