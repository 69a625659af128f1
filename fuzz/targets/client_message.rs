#![no_main]
//! See `mcpgate::fuzzing::client_message`.

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| mcpgate::fuzzing::client_message(bytes));
