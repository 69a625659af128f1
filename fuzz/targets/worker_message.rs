#![no_main]
//! See `mcpgate::fuzzing::worker_message`.

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| mcpgate::fuzzing::worker_message(bytes));
