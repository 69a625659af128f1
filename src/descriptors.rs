//! File descriptors: enough for the connections that are promised, or fewer connections and a warning.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::{
    config::{Config, EraSetting, Isolation, ServerSpec},
    error::Error,
    http,
};

/// Descriptors of the gateway itself: log, listener, watcher, lobby, a spare one, and room to start a process.
const OWN: usize = 26;

/// Descriptors of one worker: three pipes and two handles on the process.
const EACH_WORKER: usize = 5;

/// Descriptors of one connection: its socket, and what tells of its calls, when it is a WebSocket or makes one plain call after the other.
const EACH_CONNECTION: usize = 2;

/// Raises the process's limit as far as it is allowed to, and lowers `CONNECTIONS_MAX` to what fits. Returns a warning
/// when it had to.
///
/// Fails when not even one connection would fit.
pub fn make_room(config: &mut Config, servers: &[ServerSpec]) -> Result<Option<String>, Error> {
    let n_workers_max: usize = servers.iter().map(|server| workers_max(server, config)).sum();
    let n_workers_min: usize = servers.iter().map(|server| server.min_workers).sum();
    let fixed = |n_workers: usize| OWN + EACH_WORKER * n_workers + http::RESERVE;
    let needed = fixed(n_workers_max) + EACH_CONNECTION * config.connections_max;
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let is_enough = |limit: Option<u64>| limit.is_none_or(|limit| needed as u64 <= limit);
    if is_enough(current) {
        return Ok(None);
    }
    let wanted = maximum.map_or(needed as u64, |maximum| maximum.min(needed as u64));
    let raised = setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum }).is_ok();
    let limit = if raised { Some(wanted) } else { current };
    if is_enough(limit) {
        return Ok(None);
    }
    let limit = limit.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(usize::MAX);
    let left_by = |n_workers: usize| limit.saturating_sub(fixed(n_workers)) / EACH_CONNECTION;
    if left_by(n_workers_min) == 0 {
        let fixed = fixed(n_workers_min);
        return Err(Error::Settings {
            what: format!("the system allows {limit} file descriptors, and {n_workers_min} workers alone need {fixed}"),
            hint: "raise the limit (`ulimit -n`, or `LimitNOFILE` in a systemd unit)".to_owned(),
        });
    }
    // Where there is not room for both, connections are surer to be needed than workers above the minimum.
    let connections_max = left_by(n_workers_max).max(left_by(n_workers_min) / 2).max(1);
    let warning = format!(
        "`CONNECTIONS_MAX` is lowered from {} to {connections_max}: the system allows {limit} file descriptors",
        config.connections_max
    );
    config.connections_max = connections_max;
    Ok(Some(warning))
}

/// Most workers of a server: those that everybody shares, once for each era, those of sessions or keys, and a successor of
/// each.
fn workers_max(server: &ServerSpec, config: &Config) -> usize {
    let isolated = if server.isolation == Isolation::Shared { 0 } else { config.session_workers_max };
    let n_eras = if server.era == EraSetting::Auto { 2 } else { 1 };
    2 * (n_eras * server.max_workers + isolated)
}
