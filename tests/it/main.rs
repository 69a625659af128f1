//! The integration tests: one binary, one file for each surface.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test fails loudly, and says what it skips"
)]

mod http;
mod peers;
mod process;
mod reply;
mod support;
mod tidy;
mod tiny_http;
