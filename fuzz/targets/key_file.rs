#![no_main]
//! See `mcpgate::fuzzing::key_file`.

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| mcpgate::fuzzing::key_file(bytes));
