//! See `accord_fuzzing::fuzzing::api_query`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| accord_fuzzing::fuzzing::api_query(bytes));
