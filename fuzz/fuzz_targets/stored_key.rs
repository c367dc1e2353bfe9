//! See `accord_storage::fuzzing::stored_key`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| accord_storage::fuzzing::stored_key(bytes));
