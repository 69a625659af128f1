#![no_main]
//! See `mcpgate::fuzzing::gateway_conf`.

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| mcpgate::fuzzing::gateway_conf(bytes));
