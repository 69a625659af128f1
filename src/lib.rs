//! mcpgate: stdio MCP servers on the network, from a pool of warm subprocesses.

pub mod access;
pub mod cli;
pub mod config;
pub mod error;
pub mod journeys;
pub mod mcp;
pub mod threads;
