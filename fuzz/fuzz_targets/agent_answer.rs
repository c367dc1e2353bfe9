//! See `accord_fuzzing::fuzzing::agent_answer`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| accord_fuzzing::fuzzing::agent_answer(bytes));
