//! See `accord_fuzzing::fuzzing::socket_frame`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| accord_fuzzing::fuzzing::socket_frame(bytes));
