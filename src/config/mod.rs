//! What the operator decided: every setting with its value, and the list of servers.
//!
//! [`settings`] is the one table of keys, defaults and sentences; [`file`] reads `gateway.conf`; [`servers`] reads an
//! `mcpServers` file. Nothing here starts anything: values in, values out.

use std::{path::PathBuf, time::Duration};

pub mod file;
pub mod servers;
pub mod settings;

pub use servers::{Command, Isolation, ServerSpec};

/// All settings, checked. `settings::SETTINGS` says what each one means.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs, reason = "each field is a row of the settings table, which holds its sentence")]
pub struct Config {
    pub listen: Listen,
    pub api_key: String,
    pub api_keys_file: Option<PathBuf>,
    pub allowed_hosts: Vec<String>,
    pub mcp_command: Vec<String>,
    pub mcp_servers: Option<PathBuf>,
    pub execution_mode: ExecutionMode,
    pub request_timeout: Duration,
    pub call_time_max: Duration,
    pub log_level: log::LevelFilter,
    pub log_file: Option<PathBuf>,
    pub connections_max: usize,
    pub head_timeout: Duration,
    pub body_timeout: Duration,
    pub write_timeout: Duration,
    pub keep_alive_timeout: Duration,
    pub head_bytes_max: usize,
    pub body_bytes_max: usize,
    pub min_workers: usize,
    pub max_workers: usize,
    pub worker_concurrency: usize,
    pub queue_max: usize,
    pub worker_line_bytes_max: usize,
    pub stop_grace: Duration,
    pub drain_timeout: Duration,
    pub data_dir: PathBuf,
}

/// Where the gateway listens. Port 0 lets the system choose; the address in use is printed at start.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Listen {
    pub host: String,
    pub port: u16,
}

/// How the bundled server runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExecutionMode {
    /// Each worker is a process of its own.
    Subprocess,
    /// Each worker is a thread of the gateway. Only for the bundled server.
    Direct,
}
