#![no_main]
//! See `mcpgate::fuzzing::request_head`.

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| mcpgate::fuzzing::request_head(bytes));
