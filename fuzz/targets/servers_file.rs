#![no_main]
//! See `mcpgate::fuzzing::servers_file`.

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| mcpgate::fuzzing::servers_file(bytes));
