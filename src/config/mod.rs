//! What the operator decided: every setting with its value, and the list of servers.
//!
//! [`settings`] is the one table of keys, defaults and sentences, [`values`] says how each kind of value is written,
//! [`mod@file`] reads `gateway.conf`, [`load`] puts flag, environment, file and default in order, [`check`] looks at
//! settings together; [`Live`] is how they are seen while they may change; [`servers`] makes the list of servers, if need be from the file that [`mcp_servers`] reads.
//! Nothing here starts anything: what touches the system reads a file, asks the resolver, or looks for a program.

use std::{fmt, num::NonZeroU32, path::PathBuf, time::Duration};

pub mod check;
pub mod file;
mod live;
pub mod load;
pub mod mcp_servers;
pub mod servers;
pub mod settings;
pub mod values;

#[cfg(test)]
pub(crate) mod test_dir;

pub use live::Live;
pub use load::{Flags, Loaded, Texts};
pub use servers::{Command, EraSetting, Isolation, ServerSpec};

/// All settings, checked. `settings::SETTINGS` says what each one means.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs, reason = "each field is a row of the settings table, which holds its sentence")]
pub struct Config {
    pub listen: Listen,
    pub api_key: String,
    pub api_keys_file: Option<PathBuf>,
    pub rate_limit: Option<f64>,
    pub rate_burst: Option<NonZeroU32>,
    pub rate_limit_address: Option<f64>,
    pub connections_per_address_max: usize,
    pub allowed_hosts: Vec<String>,
    pub cors_origins: Vec<String>,
    pub tls_cert: Option<PathBuf>,
    pub tls_key: Option<PathBuf>,
    pub tls_client_ca: Option<PathBuf>,
    pub mcp_command: Vec<String>,
    pub mcp_servers: Option<PathBuf>,
    pub execution_mode: ExecutionMode,
    pub request_timeout: Duration,
    pub call_time_max: Duration,
    pub log_level: log::LevelFilter,
    pub log_file: Option<PathBuf>,
    pub log_format: LogFormat,
    pub access_log: AccessLog,
    pub connections_max: usize,
    pub head_timeout: Duration,
    pub body_timeout: Duration,
    pub write_timeout: Duration,
    pub keep_alive_timeout: Duration,
    pub sse_keep_alive: Duration,
    pub stream_queue_bytes: usize,
    pub head_bytes_max: usize,
    pub body_bytes_max: usize,
    pub min_workers: usize,
    pub max_workers: usize,
    pub scale_up_after: Duration,
    pub scale_down_after: Duration,
    pub worker_concurrency: Concurrency,
    pub queue_max: usize,
    pub retry_read_only: bool,
    pub validate_input: bool,
    pub worker_line_bytes_max: usize,
    pub health_interval: Duration,
    pub health_timeout: Duration,
    pub worker_calls_max: Option<u64>,
    pub worker_age_max: Option<Duration>,
    pub worker_memory_bytes_max: Option<u64>,
    pub breaker_failures: u32,
    pub breaker_cooldown: Duration,
    pub sessions_max: usize,
    pub session_workers_max: usize,
    pub session_idle_timeout: Duration,
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

impl fmt::Display for Listen {
    /// As in `LISTEN`: `host:port`, with an IPv6 address in brackets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Listen { host, port } = self;
        let is_ipv6_address = host.contains(':');
        if is_ipv6_address { write!(f, "[{host}]:{port}") } else { write!(f, "{host}:{port}") }
    }
}

/// How the bundled server runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExecutionMode {
    /// Each worker is a process of its own.
    Subprocess,
    /// Each worker is a thread of the gateway. Only for the bundled server.
    Direct,
}

/// How log lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people, and in the access log for programs that read those of web servers.
    Text,
    /// One JSON object a line.
    Json,
}

/// Where the access log goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AccessLog {
    /// There is none.
    Off,
    /// Standard error, between the lines of the log.
    Stderr,
    /// A file that is appended to.
    File(PathBuf),
}

/// How many calls a worker is given at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Concurrency {
    /// As many as its server is seen to work on at once (default).
    Auto,
    /// This many, 1 to 1024, whatever its server makes of them.
    Fixed(usize),
}

/// Longest name of a server or a key.
const NAME_LETTERS_MAX: usize = 64;

/// Whether `text` can name a server or a key: 1 to 64 ASCII letters, digits, `_`, `-` or `.`, and not only dots, so
/// that it stands in a path or a log line as it is.
pub fn is_plain_name(text: &str) -> bool {
    let has_only_name_letters =
        text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.'));
    let has_only_dots = text.bytes().all(|byte| byte == b'.');
    has_only_name_letters && !has_only_dots && text.len() <= NAME_LETTERS_MAX
}
