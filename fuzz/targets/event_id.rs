#![no_main]
//! See `mcpgate::fuzzing::event_id`.

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| mcpgate::fuzzing::event_id(bytes));
