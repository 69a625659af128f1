#![no_main]
//! See `mcpgate::fuzzing::chunked_body`.

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| mcpgate::fuzzing::chunked_body(bytes));
