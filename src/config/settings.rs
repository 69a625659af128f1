//! The one table of settings: key, default, sentence, and how a value is taken.
//!
//! The environment, `gateway.conf`, `--help` and the defaults of [`Config`] all come from [`SETTINGS`]; tests walk it.
//! A row knows its own value only. What several settings say together is checked by [`Config::check`].
//!
//! An empty value is a value like any other: for keys and paths that may be absent it means "none" (and so takes back
//! what `gateway.conf` said), for the others it is refused, because nobody can tell what was meant.
//!
//! One file, and long, because the table is.

use std::{fmt::Write as _, time::Duration};

use crate::config::{AccessLog, Concurrency, Config, ExecutionMode, Listen, LogFormat, values, values::Expected};

/// One setting, the same in the environment and in `gateway.conf`.
#[derive(Debug)]
pub struct Setting {
    /// Its name: capital letters and underscores.
    pub key: &'static str,
    /// Its value when nobody says otherwise, as an operator would write it.
    pub default: &'static str,
    /// Stands for the value in the help: `SECONDS`.
    pub value: &'static str,
    /// What it decides, one sentence.
    pub help: &'static str,
    /// Kept out of the environment of workers, and its value out of every message.
    pub secret: bool,
    /// Whether a reload applies another value; else it takes effect after a restart.
    pub live: bool,
    /// Takes a value, or says what it expected.
    pub set: fn(&mut Config, &str) -> Result<(), Expected>,
}

/// Shortest time a timeout may have, in seconds.
const SHORTEST: f64 = 0.001;
const DAY: f64 = 86_400.0;
const YEAR: f64 = 365.0 * DAY;
const KIB: usize = 1024;
const MIB: usize = 1024 * 1024;
/// 1 TiB, or what an address can say.
const MEMORY_MAX: usize = MIB.saturating_mul(1024 * 1024);

/// Every setting, in the order in which the help and `gateway.conf` show them.
pub const SETTINGS: &[Setting] = &[
    Setting {
        key: "LISTEN",
        default: "127.0.0.1:8000",
        value: "HOST:PORT",
        help: "Address the gateway listens on; port 0 lets the system choose.",
        secret: false,
        live: false,
        set: |config, text| values::listen(text).map(|it| config.listen = it),
    },
    Setting {
        key: "API_KEY",
        default: "super-secret",
        value: "KEY",
        help: "Key that callers send; the default and an empty one (keys off) are for loopback only.",
        secret: true,
        live: true,
        set: |config, text| values::api_key(text).map(|it| config.api_key = it),
    },
    Setting {
        key: "API_KEYS_FILE",
        default: "",
        value: "PATH",
        help: "File with further keys, made by `mcpgate key new`.",
        secret: true,
        live: true,
        set: |config, text| values::optional_path(text).map(|it| config.api_keys_file = it),
    },
    Setting {
        key: "RATE_LIMIT",
        default: "off",
        value: "N",
        help: "Most calls a second of each key that has no rate of its own; `off` for any number.",
        secret: false,
        live: true,
        set: |config, text| values::rate(text).map(|it| config.rate_limit = it),
    },
    Setting {
        key: "RATE_BURST",
        default: "off",
        value: "N",
        help: "How many of these calls may come at once; `off` for as many as in a second.",
        secret: false,
        live: true,
        set: |config, text| values::burst(text).map(|it| config.rate_burst = it),
    },
    Setting {
        key: "RATE_LIMIT_ADDRESS",
        default: "off",
        value: "N",
        help: "Most requests a second of each client address (IPv6: of each /64); `off` for any number.",
        secret: false,
        live: true,
        set: |config, text| values::rate(text).map(|it| config.rate_limit_address = it),
    },
    Setting {
        key: "CONNECTIONS_PER_ADDRESS_MAX",
        default: "0",
        value: "N",
        help: "Most connections of each client address (IPv6: of each /64); 0 for any number, as behind a proxy.",
        secret: false,
        live: true,
        set: |config, text| values::number(text, 0..=1_000_000).map(|it| config.connections_per_address_max = it),
    },
    Setting {
        key: "CORS_ORIGINS",
        default: "",
        value: "ORIGIN,...",
        help: "Origins of other sites whose pages may call the gateway, as in `https://app.example`; `*` for all.",
        secret: false,
        live: true,
        set: |config, text| values::origins(text).map(|it| config.cors_origins = it),
    },
    Setting {
        key: "ALLOWED_HOSTS",
        default: "",
        value: "NAME,...",
        help: "Further names under which callers may reach the gateway (the `Host` header, without its port).",
        secret: false,
        live: true,
        set: |config, text| values::hosts(text).map(|it| config.allowed_hosts = it),
    },
    Setting {
        key: "TLS_CERT",
        default: "",
        value: "PATH",
        help: "PEM file with the certificate for https, followed by those between it and its authority.",
        secret: false,
        live: false,
        set: |config, text| values::optional_path(text).map(|it| config.tls_cert = it),
    },
    Setting {
        key: "TLS_KEY",
        default: "",
        value: "PATH",
        help: "PEM file with the private key of that certificate, without a password.",
        secret: true,
        live: false,
        set: |config, text| values::optional_path(text).map(|it| config.tls_key = it),
    },
    Setting {
        key: "TLS_CLIENT_CA",
        default: "",
        value: "PATH",
        help: "PEM file with authorities; clients then need a certificate of one of them, beside their key.",
        secret: false,
        live: false,
        set: |config, text| values::optional_path(text).map(|it| config.tls_client_ca = it),
    },
    Setting {
        key: "MCP_COMMAND",
        default: "",
        value: "COMMAND",
        help: "Command of the MCP server, in shell words; empty means the bundled journeys server.",
        secret: false,
        live: true,
        set: |config, text| values::shell_words(text).map(|it| config.mcp_command = it),
    },
    Setting {
        key: "MCP_SERVERS",
        default: "",
        value: "PATH",
        help: "JSON file with several MCP servers (`mcpServers`, as desktop clients write it).",
        secret: false,
        live: true,
        set: |config, text| values::optional_path(text).map(|it| config.mcp_servers = it),
    },
    Setting {
        key: "EXECUTION_MODE",
        default: "subprocess",
        value: "MODE",
        help: "How the bundled server runs: `subprocess`, or `direct` in threads of the gateway.",
        secret: false,
        live: true,
        set: |config, text| values::execution_mode(text).map(|it| config.execution_mode = it),
    },
    Setting {
        key: "MCP_REQUEST_TIMEOUT",
        default: "60.0",
        value: "SECONDS",
        help: "Longest time a call may take since its start or its last progress, in seconds.",
        secret: false,
        live: true,
        set: |config, text| values::seconds(text, SHORTEST..=DAY).map(|it| config.request_timeout = it),
    },
    Setting {
        key: "MCP_CALL_TIME_MAX",
        default: "3600",
        value: "SECONDS",
        help: "Longest time a call may take in all, in seconds.",
        secret: false,
        live: true,
        set: |config, text| values::seconds(text, SHORTEST..=30.0 * DAY).map(|it| config.call_time_max = it),
    },
    Setting {
        key: "MIN_WORKERS",
        default: "2",
        value: "N",
        help: "Workers of each server that are always kept.",
        secret: false,
        live: true,
        set: |config, text| values::number(text, 1..=1024).map(|it| config.min_workers = it),
    },
    Setting {
        key: "MAX_WORKERS",
        default: "8",
        value: "N",
        help: "Most workers of each server.",
        secret: false,
        live: true,
        set: |config, text| values::number(text, 1..=1024).map(|it| config.max_workers = it),
    },
    Setting {
        key: "SCALE_UP_AFTER",
        default: "0.05",
        value: "SECONDS",
        help: "Time every worker of a server is busy before another one is started, in seconds.",
        secret: false,
        live: true,
        set: |config, text| values::seconds(text, SHORTEST..=DAY).map(|it| config.scale_up_after = it),
    },
    Setting {
        key: "SCALE_DOWN_AFTER",
        default: "60",
        value: "SECONDS",
        help: "Time after which workers that were not needed meanwhile are stopped, in seconds.",
        secret: false,
        live: true,
        set: |config, text| values::seconds(text, SHORTEST..=DAY).map(|it| config.scale_down_after = it),
    },
    Setting {
        key: "WORKER_CONCURRENCY",
        default: "auto",
        value: "auto|N",
        help: "Most calls a worker is given at a time; `auto` finds out what its server makes of several.",
        secret: false,
        live: true,
        set: |config, text| values::concurrency(text, 1..=1024).map(|it| config.worker_concurrency = it),
    },
    Setting {
        key: "QUEUE_MAX",
        default: "1024",
        value: "N",
        help: "Most calls of a server that wait for a worker; further ones are refused.",
        secret: false,
        live: true,
        set: |config, text| values::number(text, 1..=1_000_000).map(|it| config.queue_max = it),
    },
    Setting {
        key: "RETRY_READ_ONLY",
        default: "true",
        value: "true|false",
        help: "Whether a call that its worker died of is sent to another one, if its tool says it may be repeated.",
        secret: false,
        live: true,
        set: |config, text| values::flag(text).map(|it| config.retry_read_only = it),
    },
    Setting {
        key: "VALIDATE_INPUT",
        default: "true",
        value: "true|false",
        help: "Whether arguments are checked against the `inputSchema` of their tool before a worker sees them.",
        secret: false,
        live: true,
        set: |config, text| values::flag(text).map(|it| config.validate_input = it),
    },
    Setting {
        key: "WORKER_LINE_MAX",
        default: "16M",
        value: "BYTES",
        help: "Longest message a worker may send, in bytes.",
        secret: false,
        live: true,
        set: |config, text| values::size(text, KIB..=1024 * MIB).map(|it| config.worker_line_bytes_max = it),
    },
    Setting {
        key: "HEALTH_INTERVAL",
        default: "10",
        value: "SECONDS",
        help: "Time between two pings of a worker, in seconds.",
        secret: false,
        live: true,
        set: |config, text| values::seconds(text, 0.01..=DAY).map(|it| config.health_interval = it),
    },
    Setting {
        key: "HEALTH_TIMEOUT",
        default: "5",
        value: "SECONDS",
        help: "Longest time a worker may take to answer a ping, in seconds.",
        secret: false,
        live: true,
        set: |config, text| values::seconds(text, SHORTEST..=DAY).map(|it| config.health_timeout = it),
    },
    Setting {
        key: "WORKER_CALLS_MAX",
        default: "0",
        value: "N",
        help: "Calls after which a worker is replaced; 0 means that their number does not matter.",
        secret: false,
        live: true,
        set: |config, text| {
            values::number(text, 0..=1_000_000_000).map(|it| config.worker_calls_max = values::unless_zero(it))
        },
    },
    Setting {
        key: "WORKER_AGE_MAX",
        default: "0",
        value: "SECONDS",
        help: "Age at which a worker is replaced, in seconds; 0 means that its age does not matter.",
        secret: false,
        live: true,
        set: |config, text| {
            values::seconds(text, 0.0..=YEAR).map(|it| config.worker_age_max = Some(it).filter(|it| !it.is_zero()))
        },
    },
    Setting {
        key: "WORKER_MEMORY_MAX",
        default: "0",
        value: "BYTES",
        help: "Memory at which a worker and its children are replaced, in bytes; 0 means that it does not matter.",
        secret: false,
        live: true,
        set: |config, text| {
            values::size(text, 0..=MEMORY_MAX).map(|it| config.worker_memory_bytes_max = values::unless_zero(it))
        },
    },
    Setting {
        key: "BREAKER_FAILURES",
        default: "5",
        value: "N",
        help: "Deaths of a server's workers in a row after which no more are started for a while.",
        secret: false,
        live: true,
        set: |config, text| {
            values::number(text, 1..=1000).map(|it| config.breaker_failures = u32::try_from(it).unwrap_or(u32::MAX))
        },
    },
    Setting {
        key: "BREAKER_COOLDOWN",
        default: "10",
        value: "SECONDS",
        help: "Time without starts after so many deaths, before one worker is tried again, in seconds.",
        secret: false,
        live: true,
        set: |config, text| values::seconds(text, SHORTEST..=DAY).map(|it| config.breaker_cooldown = it),
    },
    Setting {
        key: "SESSIONS_MAX",
        default: "1024",
        value: "N",
        help: "Most sessions of MCP clients; the one idle longest makes room.",
        secret: false,
        live: true,
        set: |config, text| values::number(text, 1..=65_536).map(|it| config.sessions_max = it),
    },
    Setting {
        key: "SESSION_WORKERS_MAX",
        default: "32",
        value: "N",
        help: "Most workers of each server that belong to one session or key, beside the common ones.",
        secret: false,
        live: true,
        set: |config, text| values::number(text, 1..=4096).map(|it| config.session_workers_max = it),
    },
    Setting {
        key: "SESSION_IDLE_TIMEOUT",
        default: "1800",
        value: "SECONDS",
        help: "Time without a call after which a session ends and its worker is stopped, in seconds.",
        secret: false,
        live: true,
        set: |config, text| values::seconds(text, SHORTEST..=30.0 * DAY).map(|it| config.session_idle_timeout = it),
    },
    Setting {
        key: "STOP_GRACE",
        default: "5",
        value: "SECONDS",
        help: "Time a worker gets after each step of stopping it, in seconds.",
        secret: false,
        live: true,
        set: |config, text| values::seconds(text, 0.0..=3600.0).map(|it| config.stop_grace = it),
    },
    Setting {
        key: "DRAIN_TIMEOUT",
        default: "10",
        value: "SECONDS",
        help: "Time running calls get to finish when the gateway stops, in seconds.",
        secret: false,
        live: true,
        set: |config, text| values::seconds(text, 0.0..=DAY).map(|it| config.drain_timeout = it),
    },
    Setting {
        key: "CONNECTIONS_MAX",
        default: "1024",
        value: "N",
        help: "Most connections that are served at a time.",
        secret: false,
        live: true,
        set: |config, text| values::number(text, 1..=65_536).map(|it| config.connections_max = it),
    },
    Setting {
        key: "HEAD_TIMEOUT",
        default: "10",
        value: "SECONDS",
        help: "Longest time for the head of a request to arrive, in seconds.",
        secret: false,
        live: true,
        set: |config, text| values::seconds(text, SHORTEST..=DAY).map(|it| config.head_timeout = it),
    },
    Setting {
        key: "BODY_TIMEOUT",
        default: "30",
        value: "SECONDS",
        help: "Longest time for the body of a request to arrive, in seconds.",
        secret: false,
        live: true,
        set: |config, text| values::seconds(text, SHORTEST..=DAY).map(|it| config.body_timeout = it),
    },
    Setting {
        key: "WRITE_TIMEOUT",
        default: "30",
        value: "SECONDS",
        help: "Longest time a client may take none of its answer, in seconds.",
        secret: false,
        live: true,
        set: |config, text| values::seconds(text, SHORTEST..=DAY).map(|it| config.write_timeout = it),
    },
    Setting {
        key: "KEEP_ALIVE_TIMEOUT",
        default: "75",
        value: "SECONDS",
        help: "Longest time a connection may wait for its next request, in seconds.",
        secret: false,
        live: true,
        set: |config, text| values::seconds(text, SHORTEST..=DAY).map(|it| config.keep_alive_timeout = it),
    },
    Setting {
        key: "SSE_KEEP_ALIVE",
        default: "15",
        value: "SECONDS",
        help: "Longest quiet of an event stream or WebSocket before a sign of life is sent, in seconds.",
        secret: false,
        live: true,
        set: |config, text| values::seconds(text, SHORTEST..=DAY).map(|it| config.sse_keep_alive = it),
    },
    Setting {
        key: "STREAM_QUEUE_BYTES",
        default: "8M",
        value: "BYTES",
        help: "Most bytes of a stream that wait for its client; one further behind is cut off.",
        secret: false,
        live: true,
        set: |config, text| values::size(text, KIB..=1024 * MIB).map(|it| config.stream_queue_bytes = it),
    },
    Setting {
        key: "HEAD_BYTES_MAX",
        default: "16k",
        value: "BYTES",
        help: "Longest head of a request, in bytes.",
        secret: false,
        live: true,
        set: |config, text| values::size(text, 256..=MIB).map(|it| config.head_bytes_max = it),
    },
    Setting {
        key: "BODY_BYTES_MAX",
        default: "4M",
        value: "BYTES",
        help: "Longest body of a request and longest WebSocket message, in bytes.",
        secret: false,
        live: true,
        set: |config, text| values::size(text, 1..=1024 * MIB).map(|it| config.body_bytes_max = it),
    },
    Setting {
        key: "LOG_LEVEL",
        default: "INFO",
        value: "LEVEL",
        help: "How much is logged: ERROR, WARNING, INFO, DEBUG or TRACE.",
        secret: false,
        live: true,
        set: |config, text| values::log_level(text).map(|it| config.log_level = it),
    },
    Setting {
        key: "LOG_FILE",
        default: "",
        value: "PATH",
        help: "File the log is appended to; empty means standard error.",
        secret: false,
        live: false,
        set: |config, text| values::optional_path(text).map(|it| config.log_file = it),
    },
    Setting {
        key: "LOG_FORMAT",
        default: "text",
        value: "FORMAT",
        help: "How log and access log are written: `text`, or `json` with one object a line.",
        secret: false,
        live: false,
        set: |config, text| values::log_format(text).map(|it| config.log_format = it),
    },
    Setting {
        key: "ACCESS_LOG",
        default: "off",
        value: "off|stderr|PATH",
        help: "Where a line for each request goes: `stderr` or a file; `off` for nowhere.",
        secret: false,
        live: false,
        set: |config, text| values::access_log(text).map(|it| config.access_log = it),
    },
    Setting {
        key: "DATA_DIR",
        default: "data",
        value: "PATH",
        help: "Folder of the bundled server's data.",
        secret: false,
        live: false,
        set: |config, text| values::path(text).map(|it| config.data_dir = it),
    },
];

/// The setting called `key`.
pub fn find(key: &str) -> Option<&'static Setting> {
    SETTINGS.iter().find(|setting| setting.key == key)
}

/// Keys that must not reach a worker's environment.
pub fn secret_keys() -> impl Iterator<Item = &'static str> {
    SETTINGS.iter().filter(|setting| setting.secret).map(|setting| setting.key)
}

impl Setting {
    /// What it decides, and when another value counts.
    pub fn help_text(&self) -> String {
        let note = if self.live { "" } else { RESTART_NOTE };
        format!("{}{note}", self.help)
    }

    /// Whether two values, as they are written, mean different things.
    pub fn is_other(&self, one: &str, other: &str) -> bool {
        let meaning = |text: &str| {
            let mut config = Config::default();
            (self.set)(&mut config, text).is_ok().then_some(config)
        };
        one != other && meaning(one) != meaning(other)
    }
}

/// Behind the sentence of a setting that no reload changes.
const RESTART_NOTE: &str = " Takes effect after a restart.";

/// The end of `mcpgate --help`: every key with its placeholder, default and sentence.
pub fn help_table() -> String {
    let mut table = String::from(
        "Settings, from the environment or gateway.conf (a flag wins over the environment, that over the file):\n\
         Times are in seconds, fractions allowed; sizes are in bytes and take `k` (1024 bytes) and `M` (1024 k).\n",
    );
    for setting in SETTINGS {
        let Setting { key, default, value, .. } = setting;
        let help = setting.help_text();
        let shown_default = if default.is_empty() { "none" } else { default };
        // Writing to a `String` does not fail.
        let _ = write!(table, "\n  {key}={value}  [default: {shown_default}]\n      {help}");
    }
    table
}

impl Default for Config {
    /// Every setting at its default.
    fn default() -> Config {
        let mut config = blank();
        for setting in SETTINGS {
            (setting.set)(&mut config, setting.default).expect("a setting accepts its own default");
        }
        config
    }
}

/// What [`Config::default`] starts from: each field is overwritten by its row of the table.
fn blank() -> Config {
    Config {
        listen: Listen { host: String::new(), port: 0 },
        api_key: String::new(),
        api_keys_file: None,
        rate_limit: None,
        rate_burst: None,
        rate_limit_address: None,
        connections_per_address_max: 0,
        allowed_hosts: Vec::new(),
        cors_origins: Vec::new(),
        tls_cert: None,
        tls_key: None,
        tls_client_ca: None,
        mcp_command: Vec::new(),
        mcp_servers: None,
        execution_mode: ExecutionMode::Subprocess,
        request_timeout: Duration::ZERO,
        call_time_max: Duration::ZERO,
        log_level: log::LevelFilter::Off,
        log_file: None,
        log_format: LogFormat::Json,
        access_log: AccessLog::Stderr,
        connections_max: 0,
        head_timeout: Duration::ZERO,
        body_timeout: Duration::ZERO,
        write_timeout: Duration::ZERO,
        keep_alive_timeout: Duration::ZERO,
        sse_keep_alive: Duration::ZERO,
        stream_queue_bytes: 0,
        head_bytes_max: 0,
        body_bytes_max: 0,
        min_workers: 0,
        max_workers: 0,
        scale_up_after: Duration::ZERO,
        scale_down_after: Duration::ZERO,
        worker_concurrency: Concurrency::Auto,
        queue_max: 0,
        retry_read_only: false,
        validate_input: false,
        worker_line_bytes_max: 0,
        health_interval: Duration::ZERO,
        health_timeout: Duration::ZERO,
        worker_calls_max: None,
        worker_age_max: None,
        worker_memory_bytes_max: None,
        breaker_failures: 0,
        breaker_cooldown: Duration::ZERO,
        sessions_max: 0,
        session_workers_max: 0,
        session_idle_timeout: Duration::ZERO,
        stop_grace: Duration::ZERO,
        drain_timeout: Duration::ZERO,
        data_dir: "".into(),
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::HashSet, fs, path::Path};

    use super::*;
    use crate::config::file;

    #[test]
    fn every_setting_has_a_sentence_and_a_default_it_accepts() {
        for setting in SETTINGS {
            assert!(setting.help.ends_with('.') && setting.help.len() < 110, "{}", setting.key);
            assert!(setting.help.starts_with(|letter: char| letter.is_ascii_uppercase()), "{}", setting.key);
            assert!(!setting.value.is_empty(), "{}", setting.key);
            let mut config = blank();
            (setting.set)(&mut config, setting.default).expect(setting.key);
        }
    }

    #[test]
    fn every_key_is_there_once() {
        let keys: HashSet<_> = SETTINGS.iter().map(|setting| setting.key).collect();
        assert_eq!(keys.len(), SETTINGS.len());
    }

    /// Rows, values they refuse, and what each then says it expected.
    const REFUSED: &[(&str, &[&str], &str)] = &[
        ("LISTEN", &["", "8000", ":8000"], "HOST:PORT"),
        ("API_KEY", &[" key", "k\ney"], "a key without control characters or outer spaces"),
        ("API_KEYS_FILE", &["a\0b"], "a path"),
        (
            "RATE_LIMIT",
            &["", "on", "-1", "0.0", "1e-9", "1e9", "NaN", "inf"],
            "`off`, or a number from one in a day to 1000000",
        ),
        ("RATE_BURST", &["", "on", "-1", "1.5", "1000001"], "`off` or a whole number from 1 to 1000000"),
        ("RATE_LIMIT_ADDRESS", &["", "5/s"], "`off`, or a number from one in a day to 1000000"),
        ("CONNECTIONS_PER_ADDRESS_MAX", &["", "-1", "1000001"], "a whole number from 0 to 1000000"),
        (
            "CORS_ORIGINS",
            &[
                "a,,b",
                "app.example",
                "https://a/",
                "https://a/b",
                "https://",
                "null",
                "https://a b",
                "https://u@a",
                "https://a?b",
            ],
            "origins separated by commas",
        ),
        ("ALLOWED_HOSTS", &["a,,b", "http://a"], "host names separated by commas"),
        ("TLS_CERT", &["a\0b"], "a path"),
        ("TLS_KEY", &["a\0b"], "a path"),
        ("TLS_CLIENT_CA", &["a\0b"], "a path"),
        ("MCP_COMMAND", &["npx 'oops"], "a command in shell words"),
        ("MCP_SERVERS", &["a\0b"], "a path"),
        ("EXECUTION_MODE", &["", "thread", "DIRECT"], "`subprocess` or `direct`"),
        ("MCP_REQUEST_TIMEOUT", &["", "30s"], "seconds"),
        ("MCP_CALL_TIME_MAX", &["0", "inf"], "seconds from 0.001 to 2592000"),
        ("MIN_WORKERS", &["", "0", "2.0", "1025"], "a whole number from 1 to 1024"),
        ("MAX_WORKERS", &["", "0", "-1", "1025"], "a whole number from 1 to 1024"),
        ("SCALE_UP_AFTER", &["0", "86401"], "seconds from 0.001 to 86400"),
        ("SCALE_DOWN_AFTER", &["0", "86401"], "seconds from 0.001 to 86400"),
        ("WORKER_CONCURRENCY", &["", "0", "AUTO", "1025"], "`auto` or a whole number from 1 to 1024"),
        ("QUEUE_MAX", &["", "0", "1000001"], "a whole number from 1 to 1000000"),
        ("RETRY_READ_ONLY", &["", "1", "yes", "True"], "`true` or `false`"),
        ("VALIDATE_INPUT", &["", "1", "no"], "`true` or `false`"),
        ("WORKER_LINE_MAX", &["1", "2048M"], "a size from 1k to 1024M"),
        ("HEALTH_INTERVAL", &["0", "0.009", "86401"], "seconds from 0.01 to 86400"),
        ("HEALTH_TIMEOUT", &["0", "86401"], "seconds from 0.001 to 86400"),
        ("WORKER_CALLS_MAX", &["", "-1", "1000000001"], "a whole number from 0 to 1000000000"),
        ("WORKER_AGE_MAX", &["-1", "31536001"], "seconds from 0 to 31536000"),
        ("WORKER_MEMORY_MAX", &["1048577M"], "a size from 0 to 1048576M"),
        ("BREAKER_FAILURES", &["", "0", "1001"], "a whole number from 1 to 1000"),
        ("BREAKER_COOLDOWN", &["0", "86401"], "seconds from 0.001 to 86400"),
        ("SESSIONS_MAX", &["", "0", "65537"], "a whole number from 1 to 65536"),
        ("SESSION_WORKERS_MAX", &["", "0", "4097"], "a whole number from 1 to 4096"),
        ("SESSION_IDLE_TIMEOUT", &["0", "2592001"], "seconds from 0.001 to 2592000"),
        ("STOP_GRACE", &["-1", "3601"], "seconds from 0 to 3600"),
        ("DRAIN_TIMEOUT", &["-1", "NaN"], "seconds from 0 to 86400"),
        ("CONNECTIONS_MAX", &["", "0", "65537"], "a whole number from 1 to 65536"),
        ("HEAD_TIMEOUT", &["0", "86401"], "seconds from 0.001 to 86400"),
        ("BODY_TIMEOUT", &["0", "86401"], "seconds from 0.001 to 86400"),
        ("WRITE_TIMEOUT", &["0", "86401"], "seconds from 0.001 to 86400"),
        ("KEEP_ALIVE_TIMEOUT", &["0", "86401"], "seconds from 0.001 to 86400"),
        ("SSE_KEEP_ALIVE", &["0", "86401"], "seconds from 0.001 to 86400"),
        ("STREAM_QUEUE_BYTES", &["1023", "2048M"], "a size from 1k to 1024M"),
        ("HEAD_BYTES_MAX", &["255", "2M"], "a size from 256 to 1M"),
        ("BODY_BYTES_MAX", &["", "4MB", "4 M"], "a size"),
        ("LOG_LEVEL", &["", "LOUD", "5"], "ERROR, WARNING, INFO, DEBUG or TRACE"),
        ("LOG_FILE", &["a\0b"], "a path"),
        ("LOG_FORMAT", &["", "JSON", "logfmt"], "`text` or `json`"),
        ("ACCESS_LOG", &["", "a\0b"], "`off`, `stderr` or a path"),
        ("DATA_DIR", &["", "a\0b"], "a path"),
    ];

    #[test]
    fn every_setting_refuses_a_bad_value_and_says_what_it_expected() {
        let keys: Vec<_> = REFUSED.iter().map(|(key, ..)| *key).collect();
        let known: Vec<_> = SETTINGS.iter().map(|setting| setting.key).collect();
        assert_eq!(keys, known, "each row of the table has its bad values");
        for (key, texts, what) in REFUSED {
            for text in *texts {
                let before = Config::default();
                let mut config = before.clone();
                let expected = (find(key).expect(key).set)(&mut config, text).expect_err(key);
                assert_eq!(expected.what, *what, "{key}={text}");
                assert_eq!(config, before, "{key}={text}");
            }
        }
    }

    #[test]
    fn stopping_and_draining_may_take_no_time_at_all() {
        let mut config = Config::default();
        for key in ["STOP_GRACE", "DRAIN_TIMEOUT"] {
            (find(key).expect(key).set)(&mut config, "0").expect(key);
        }
        assert_eq!((config.stop_grace, config.drain_timeout), (Duration::ZERO, Duration::ZERO));
    }

    #[test]
    fn a_worker_is_replaced_for_its_calls_age_or_memory_only_when_asked() {
        let limits = |config: &Config| (config.worker_calls_max, config.worker_age_max, config.worker_memory_bytes_max);
        let mut config = Config::default();
        assert_eq!(limits(&config), (None, None, None));
        for (key, text) in [("WORKER_CALLS_MAX", "7"), ("WORKER_AGE_MAX", "0.5"), ("WORKER_MEMORY_MAX", "1k")] {
            (find(key).expect(key).set)(&mut config, text).expect(key);
        }
        assert_eq!(limits(&config), (Some(7), Some(Duration::from_millis(500)), Some(1024)));
    }

    #[test]
    fn what_cannot_change_while_it_runs_says_so() {
        let fixed: Vec<_> = SETTINGS.iter().filter(|setting| !setting.live).map(|setting| setting.key).collect();
        assert_eq!(
            fixed,
            ["LISTEN", "TLS_CERT", "TLS_KEY", "TLS_CLIENT_CA", "LOG_FILE", "LOG_FORMAT", "ACCESS_LOG", "DATA_DIR"]
        );
        for setting in SETTINGS {
            assert_eq!(setting.help_text().contains("after a restart"), !setting.live, "{}", setting.key);
        }
    }

    #[test]
    fn values_that_are_written_differently_may_mean_the_same() {
        let is_other = |key, one, other| find(key).expect(key).is_other(one, other);
        assert!(!is_other("MCP_REQUEST_TIMEOUT", "60", "60.0") && !is_other("BODY_BYTES_MAX", "1k", "1024"));
        assert!(is_other("MCP_REQUEST_TIMEOUT", "60", "61") && is_other("API_KEY", "a", ""));
    }

    #[test]
    fn what_gives_access_is_secret() {
        assert_eq!(secret_keys().collect::<Vec<_>>(), ["API_KEY", "API_KEYS_FILE", "TLS_KEY"]);
    }

    #[test]
    fn the_help_has_every_key_default_and_sentence() {
        let table = help_table();
        for setting in SETTINGS {
            assert!(table.contains(&format!("  {}={}  [default: ", setting.key, setting.value)), "{}", setting.key);
            assert!(table.contains(setting.default) && table.contains(setting.help), "{}", setting.key);
        }
    }

    const CONF_HEAD: &str = "\
# Settings of mcpgate. Written from the table in src/config/settings.rs; every line holds its default.
#
# One KEY=VALUE a line, without spaces around the equals sign. A value with spaces or characters that mean something
# to a shell stands in single quotes. The same names work in the environment, and win there over this file.
# Times are in seconds, fractions allowed; sizes are in bytes and take k (1024 bytes) and M (1024 k).
#
# The gateway reads the file given with --config, else ./gateway.conf, else /etc/mcpgate/gateway.conf, and reads it again
# when it changes.
# Systemd (EnvironmentFile=) and a shell (set -a; . ./gateway.conf) can read it too.
";

    fn conf_from_table() -> String {
        let mut conf = CONF_HEAD.to_owned();
        for setting in SETTINGS {
            let (Setting { key, default, .. }, help) = (setting, setting.help_text());
            let mark = if default.is_empty() { "#" } else { "" };
            write!(conf, "\n# {help}\n{mark}{key}={default}\n").expect("a string takes text");
        }
        conf
    }

    #[test]
    fn gateway_conf_says_what_the_table_says() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("gateway.conf");
        let from_table = conf_from_table();
        if std::env::var_os("MCPGATE_WRITE_CONF").is_some() {
            fs::write(&path, &from_table).expect("gateway.conf can be written");
        }
        let on_disk = fs::read_to_string(&path).unwrap_or_default();
        assert_eq!(on_disk, from_table, "run the tests once with MCPGATE_WRITE_CONF=1 to write gateway.conf anew");
    }

    #[test]
    fn gateway_conf_changes_nothing_as_it_is() {
        let mut config = blank();
        let lines = file::parse(conf_from_table().as_bytes(), "gateway.conf").expect("it parses");
        assert_eq!(lines.len(), SETTINGS.iter().filter(|setting| !setting.default.is_empty()).count());
        for line in lines {
            (line.setting.set)(&mut config, &line.value).expect(line.setting.key);
        }
        assert_eq!(config, Config::default());
    }
}
