//! What shows only under load and over time: faults in a storm of calls, leaks, hostile clients. The second integration
//! binary.
//!
//! `scripts/soak.sh` and `scripts/hostile.sh` run it and show what it prints. By itself each of its tests is skipped, and says so, unless
//! `MCPGATE_SLOW_TESTS=1`; `numbers.rs` has the variables that say how much each of them does. They measure, so they
//! take turns.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::disallowed_methods,
    reason = "a test fails loudly, says what it skips and measures, and waits for all it starts"
)]

// The harness of `tests/it`, of which these tests need a part.
#[allow(dead_code, reason = "the rest is for `tests/it`")]
#[path = "../it/folder.rs"]
mod folder;
#[allow(dead_code, reason = "the rest is for `tests/it`")]
#[path = "../it/http.rs"]
mod http;
#[allow(dead_code, reason = "the rest is for `tests/it`")]
#[path = "../it/tls/identity.rs"]
mod identity;
#[allow(dead_code, reason = "the rest is for `tests/it`")]
#[path = "../it/process.rs"]
mod process;
#[allow(dead_code, reason = "the rest is for `tests/it`")]
#[path = "../it/reply.rs"]
mod reply;
#[allow(dead_code, unused_imports, reason = "the rest is for `tests/it`")]
#[path = "../it/support.rs"]
mod support;

/// Where the storm looks for it.
#[path = "../it/ws"]
mod ws {
    #[allow(dead_code, reason = "the rest is for `tests/it`")]
    pub(crate) mod client;
}
#[path = "../it/reload/storm.rs"]
mod storm;

mod numbers;

mod client;
mod figures;
mod random;

mod chaos;
mod handshakes;
mod malformed;
mod mcp;
mod reload;
mod sessions;
mod slow_clients;
mod soak;
