#![no_main]
//! See `mcpgate::fuzzing::id_scanner`.

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| mcpgate::fuzzing::id_scanner(bytes));
