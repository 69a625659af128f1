//! mcpgate: stdio MCP servers on the network, from a pool of warm subprocesses behind one port.
//!
//! ```text
//!  client ──► http ──► api ──► pool ──► worker ──► server process
//!             accept   routes  dispatch  link        stdin
//!             head     tools   queue                   │
//!             body     health  supervisor              ▼
//!  client ◄───────────── relay, or its mailbox ◄─ reader of its stdout
//! ```
//!
//! Knowledge points one way, from left to right; answers travel back through mailboxes and channels. In reading order:
//!
//! - [`config`]: what the operator decided. [`error`]: every failure, once.
//! - [`http`]: sockets, connections, heads and bodies. [`access`]: who may call, and how much.
//! - [`api`]: what each path answers. [`pool`]: who takes a call. [`worker`]: one server process.
//! - [`schema`]: what a tool says of its arguments.
//! - [`mcp`]: the protocol's vocabulary, and the small server side that [`journeys`] is written with.
//! - [`reload`]: files that change while it runs.
//! - `left_out/`: what stands in for parts that a smaller build leaves out (`[features]` in `Cargo.toml`).
//! - [`ui`]: the files of the dashboard. [`cli`]: the command line. `json`: JSON that is written by hand. [`threads`]: how threads are started and joined. [`logs`], [`descriptors`],
//!   [`footprint`], [`systemd`]: what a process needs besides.

pub mod access;
pub mod api;
#[cfg(any(test, benching))]
pub mod benching;
pub mod cli;
pub mod config;
pub mod descriptors;
pub mod error;
pub mod footprint;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
pub mod http;
#[cfg(feature = "journeys")]
pub mod journeys;
#[cfg(not(feature = "journeys"))]
#[path = "left_out/journeys.rs"]
pub mod journeys;
mod json;
pub mod logs;
pub mod mcp;
pub mod pool;
pub mod reload;
#[cfg(feature = "validation")]
pub use mcpgate_schema as schema;
#[cfg(not(feature = "validation"))]
#[path = "left_out/schema.rs"]
pub mod schema;
pub mod systemd;
pub mod threads;
pub mod ui;
pub mod worker;
