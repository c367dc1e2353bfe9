//! See `accord_storage::fuzzing::wal_ending`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| accord_storage::fuzzing::wal_ending(bytes));
