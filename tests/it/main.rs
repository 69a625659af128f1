//! The integration tests: one binary, one file for each surface.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::disallowed_methods,
    reason = "a test fails loudly, says what it skips, and waits for all it starts"
)]

mod access;
mod arguments;
mod call;
mod check;
mod clients;
mod connections;
mod contract;
mod dashboard;
mod documents;
mod doorstep;
mod errors;
mod folder;
mod http;
mod journeys;
mod lobby;
mod logs;
mod mcp;
mod mcp_clients;
mod metrics;
mod openapi;
mod peers;
mod pool;
mod process;
mod prompts;
mod relay;
mod reload;
mod reply;
mod resources;
mod rest;
mod resting;
mod sandbox;
mod smuggling;
mod sse;
mod startup;
mod support;
mod systemd;
mod terminal;
mod tidy;
mod tiny_http;
mod tls;
mod top;
mod traces;
mod workers;
mod ws;
