//! What settings say together: combinations that cannot work, and those an operator should know of.

use std::net::{IpAddr, ToSocketAddrs as _};

use crate::{
    access::browser::ANY_ORIGIN,
    config::{Config, ExecutionMode, Listen},
    error::Error,
};

/// The default of `API_KEY`. It stands in our documents, so it keeps nobody out.
pub const KNOWN_API_KEY: &str = "super-secret";

const MAKE_A_KEY: &str = "make a key: `mcpgate key new NAME` with `API_KEYS_FILE` set (and `API_KEY=` empty), or \
                          `API_KEY=...` with the output of `openssl rand -hex 32`";

impl Config {
    /// Refuses settings that contradict each other, and a gateway on the network that everybody may use.
    ///
    /// May ask the resolver for the address of the host in `LISTEN`.
    pub fn check(&self) -> Result<(), Error> {
        if self.max_workers < self.min_workers {
            return Err(refused(
                format!("`MIN_WORKERS` is {}, more than `MAX_WORKERS`, {}", self.min_workers, self.max_workers),
                "lower `MIN_WORKERS`, or raise `MAX_WORKERS`",
            ));
        }
        let has_command = !self.mcp_command.is_empty();
        if has_command && self.mcp_servers.is_some() {
            return Err(refused(
                "`MCP_COMMAND` and `MCP_SERVERS` are both set",
                "keep one: `MCP_SERVERS` for several servers, `MCP_COMMAND` for one",
            ));
        }
        let is_bundled = !has_command && self.mcp_servers.is_none();
        if self.execution_mode == ExecutionMode::Direct && !is_bundled {
            return Err(refused(
                "`EXECUTION_MODE=direct` is only for the bundled server, and another server is set",
                "set `EXECUTION_MODE=subprocess`, or no `MCP_COMMAND` and no `MCP_SERVERS`",
            ));
        }
        if is_bundled && !cfg!(feature = "journeys") {
            return Err(refused(
                "no server is set, and this mcpgate was built without the bundled one",
                "name one: `mcpgate -- COMMAND`, `MCP_COMMAND` or `MCP_SERVERS`",
            ));
        }
        if self.tls_cert.is_some() && !cfg!(feature = "tls") {
            return Err(refused(
                "`TLS_CERT` is set, and this mcpgate was built without TLS",
                "build it with the feature `tls`, or have a proxy speak TLS",
            ));
        }
        let tls = [(&self.tls_cert, "TLS_CERT"), (&self.tls_key, "TLS_KEY")];
        let is_set = |(path, _): &&(&Option<_>, _)| path.is_some();
        let needs_both = tls.iter().any(|it| is_set(&it)) || self.tls_client_ca.is_some();
        if needs_both && let Some((_, key)) = tls.iter().find(|it| !is_set(it)) {
            let given = tls.iter().find(is_set).map_or("TLS_CLIENT_CA", |(_, key)| key);
            return Err(refused(
                format!("`{given}` is set and `{key}` is not"),
                "set both `TLS_CERT` and `TLS_KEY` for https, or none; `mcpgate tls self-signed` makes a pair",
            ));
        }
        if self.rate_burst.is_some() && self.rate_limit.is_none() {
            return Err(refused(
                "`RATE_BURST` is set, and `RATE_LIMIT` is not",
                "set `RATE_LIMIT` to the calls a second, or leave `RATE_BURST` out",
            ));
        }
        let is_for_any_page = self.cors_origins.iter().any(|origin| origin == ANY_ORIGIN);
        if is_for_any_page && (self.has_keys_off() || self.has_known_key()) {
            return Err(refused(
                "`CORS_ORIGINS` is `*`, so every page that is open in a browser here could call every tool without a key of yours",
                MAKE_A_KEY,
            ));
        }
        self.check_key()
    }

    /// What an operator should know when the gateway starts, one sentence each.
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        if self.has_known_key() {
            warnings.push(format!(
                "the key `{KNOWN_API_KEY}` is known to the world, so every program on this machine can call every \
                 tool; {MAKE_A_KEY}"
            ));
        }
        if self.has_keys_off() {
            warnings.push(format!(
                "keys are off because `API_KEY` is empty, so every program on this machine can call every tool; \
                 {MAKE_A_KEY}"
            ));
        }
        if self.validate_input && !cfg!(feature = "validation") {
            warnings.push(
                "arguments are not checked against the tools' schemas: this mcpgate was built without it; \
                 `VALIDATE_INPUT=false` says that this is known"
                    .to_owned(),
            );
        }
        warnings
    }

    /// Whether callers need no key at all.
    pub fn has_keys_off(&self) -> bool {
        self.api_key.is_empty() && self.api_keys_file.is_none()
    }

    fn has_known_key(&self) -> bool {
        self.api_key == KNOWN_API_KEY
    }

    fn check_key(&self) -> Result<(), Error> {
        let is_open = self.has_known_key() || self.has_keys_off();
        // In this order the resolver is asked only when it matters.
        if !is_open || self.listen.is_loopback() {
            return Ok(());
        }
        let listen = &self.listen;
        if self.has_keys_off() {
            return Err(refused(
                format!(
                    "`LISTEN` is `{listen}`, which other machines can reach, but keys are off (`API_KEY` is empty)"
                ),
                MAKE_A_KEY,
            ));
        }
        let hint = if self.api_keys_file.is_some() {
            "set `API_KEY=` (empty) to accept only the keys of the key file"
        } else {
            MAKE_A_KEY
        };
        Err(refused(
            format!(
                "`LISTEN` is `{listen}`, which other machines can reach, but the key `{KNOWN_API_KEY}` is known to the \
                 world"
            ),
            hint,
        ))
    }
}

impl Listen {
    /// Whether only this machine can reach it. A name counts by every address it stands for; one that stands for none
    /// does not count as loopback.
    pub fn is_loopback(&self) -> bool {
        if let Ok(address) = self.host.parse::<IpAddr>() {
            return address.to_canonical().is_loopback();
        }
        let Ok(addresses) = (self.host.as_str(), self.port).to_socket_addrs() else {
            return false;
        };
        let addresses: Vec<_> = addresses.collect();
        !addresses.is_empty() && addresses.iter().all(|address| address.ip().to_canonical().is_loopback())
    }
}

fn refused(what: impl Into<String>, hint: &str) -> Error {
    Error::Settings { what: what.into(), hint: hint.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listening_on(host: &str, api_key: &str) -> Config {
        let listen = Listen { host: host.to_owned(), port: 8000 };
        Config { listen, api_key: api_key.to_owned(), ..Config::default() }
    }

    #[track_caller]
    fn check_refused(config: &Config, message: &str) -> String {
        let error = config.check().expect_err(message);
        assert_eq!(error.to_string(), message);
        assert_eq!(error.exit_code(), 2);
        error.hint().expect("there is a way out")
    }

    #[test]
    fn the_defaults_are_allowed_with_a_warning() {
        let config = Config::default();
        assert_eq!(config.check(), Ok(()));
        assert!(config.warnings()[0].starts_with("the key `super-secret` is known to the world"));
    }

    #[test]
    fn loopback_is_decided_by_address_not_by_spelling() {
        for host in ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1", "localhost"] {
            assert!(listening_on(host, "").listen.is_loopback(), "{host}");
        }
        for host in ["0.0.0.0", "::", "192.0.2.1", "2001:db8::1", "host.invalid"] {
            assert!(!listening_on(host, "").listen.is_loopback(), "{host}");
        }
    }

    #[test]
    fn the_known_key_is_refused_on_the_network() {
        let hint = check_refused(
            &listening_on("0.0.0.0", "super-secret"),
            "`LISTEN` is `0.0.0.0:8000`, which other machines can reach, but the key `super-secret` is known to the \
             world",
        );
        assert!(hint.contains("`mcpgate key new NAME`") && hint.contains("`openssl rand -hex 32`"), "{hint}");
    }

    #[test]
    fn the_known_key_is_refused_on_the_network_beside_a_key_file_too() {
        let config = Config { api_keys_file: Some("keys.json".into()), ..listening_on("::", "super-secret") };
        let hint = check_refused(
            &config,
            "`LISTEN` is `[::]:8000`, which other machines can reach, but the key `super-secret` is known to the world",
        );
        assert_eq!(hint, "set `API_KEY=` (empty) to accept only the keys of the key file");
    }

    #[test]
    fn keys_may_be_off_on_loopback_only() {
        let on_loopback = listening_on("127.0.0.1", "");
        assert_eq!(on_loopback.check(), Ok(()));
        assert!(on_loopback.warnings()[0].starts_with("keys are off because `API_KEY` is empty"));
        check_refused(
            &listening_on("0.0.0.0", ""),
            "`LISTEN` is `0.0.0.0:8000`, which other machines can reach, but keys are off (`API_KEY` is empty)",
        );
    }

    #[test]
    fn a_key_of_ones_own_or_a_key_file_opens_the_network() {
        let own_key = listening_on("0.0.0.0", "8d1f");
        let key_file = Config { api_keys_file: Some("keys.json".into()), ..listening_on("0.0.0.0", "") };
        for config in [own_key, key_file] {
            assert_eq!(config.check(), Ok(()));
            assert_eq!(config.warnings(), Vec::<String>::new());
        }
    }

    #[test]
    fn fewer_workers_at_most_than_at_least_is_refused() {
        check_refused(
            &Config { max_workers: 1, ..Config::default() },
            "`MIN_WORKERS` is 2, more than `MAX_WORKERS`, 1",
        );
    }

    #[test]
    fn a_burst_without_a_rate_is_refused() {
        let burst = Config { rate_burst: std::num::NonZeroU32::new(5), ..Config::default() };
        check_refused(&burst, "`RATE_BURST` is set, and `RATE_LIMIT` is not");
        assert_eq!(Config { rate_limit: Some(1.0), ..burst }.check(), Ok(()));
    }

    #[test]
    fn every_page_there_is_may_only_call_with_a_key_of_ones_own() {
        let any_page = |api_key| Config { cors_origins: vec!["*".to_owned()], ..listening_on("127.0.0.1", api_key) };
        for api_key in ["", "super-secret"] {
            let message = "`CORS_ORIGINS` is `*`, so every page that is open in a browser here could call every tool without a key \
                           of yours";
            check_refused(&any_page(api_key), message);
        }
        assert_eq!(any_page("8d1f").check(), Ok(()));
    }

    #[test]
    fn two_ways_to_name_servers_are_refused() {
        let config = Config {
            mcp_command: vec!["server".to_owned()],
            mcp_servers: Some("mcp.json".into()),
            ..Config::default()
        };
        check_refused(&config, "`MCP_COMMAND` and `MCP_SERVERS` are both set");
    }

    #[test]
    fn half_a_pair_for_tls_is_refused() {
        let path = || Some("a.pem".into());
        let blank = Config::default;
        check_refused(&Config { tls_cert: path(), ..blank() }, "`TLS_CERT` is set and `TLS_KEY` is not");
        check_refused(&Config { tls_key: path(), ..blank() }, "`TLS_KEY` is set and `TLS_CERT` is not");
        check_refused(&Config { tls_client_ca: path(), ..blank() }, "`TLS_CLIENT_CA` is set and `TLS_CERT` is not");
        assert_eq!(Config { tls_cert: path(), tls_key: path(), ..blank() }.check(), Ok(()));
    }

    #[test]
    fn only_the_bundled_server_runs_directly() {
        let direct = Config { execution_mode: ExecutionMode::Direct, ..Config::default() };
        assert_eq!(direct.check(), Ok(()));
        let message = "`EXECUTION_MODE=direct` is only for the bundled server, and another server is set";
        check_refused(&Config { mcp_command: vec!["server".to_owned()], ..direct.clone() }, message);
        check_refused(&Config { mcp_servers: Some("mcp.json".into()), ..direct }, message);
    }
}
