//! See `accord_fuzzing::fuzzing::cluster_toml`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| accord_fuzzing::fuzzing::cluster_toml(bytes));
