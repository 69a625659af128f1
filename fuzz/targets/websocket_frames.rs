#![no_main]
//! See `mcpgate::fuzzing::websocket_frames`.

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| mcpgate::fuzzing::websocket_frames(bytes));
