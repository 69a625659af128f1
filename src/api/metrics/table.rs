//! Every metric once: name, kind, unit, labels, sentence, and where its samples come from.
//!
//! `docs/metrics.md` has the same list, and a test holds the two together; the dashboard and the alert rules in `scripts/` may use
//! no other names. Names and units are as Prometheus wants them (prometheus.io/docs/practices/naming).

use super::figures::Figures;
use crate::{
    api::{Counters, health},
    pool::buckets::Distribution,
};

/// See the module.
#[derive(Debug)]
pub(super) struct Metric {
    /// As it stands in the classic text format, which Prometheus stores.
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    pub(super) unit: Option<Unit>,
    /// What tells its samples apart.
    pub(super) labels: &'static [&'static str],
    /// What it says, one sentence.
    pub(super) about: &'static str,
    pub(super) collect: fn(&Figures<'_>, &mut Samples),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Counter,
    Gauge,
    Histogram,
    /// Labels are all that it says.
    Info,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unit {
    Seconds,
    Bytes,
}

impl Unit {
    /// As it stands at the end of a name.
    pub(super) fn suffix(self) -> &'static str {
        match self {
            Unit::Seconds => "_seconds",
            Unit::Bytes => "_bytes",
        }
    }
}

/// What one metric says.
#[derive(Debug, Default)]
pub(super) struct Samples(pub(super) Vec<Sample>);

/// A value with those of the labels.
#[derive(Debug)]
pub(super) struct Sample {
    pub(super) labels: Vec<String>,
    pub(super) value: Value,
}

#[derive(Debug)]
pub(super) enum Value {
    Count(u64),
    Number(f64),
    Distribution(Box<Distribution>),
}

impl Samples {
    fn count(&mut self, labels: &[&str], count: u64) {
        self.add(labels, Value::Count(count));
    }

    fn counts(&mut self, labels: &[&str], count: usize) {
        self.count(labels, u64::try_from(count).unwrap_or(u64::MAX));
    }

    fn number(&mut self, labels: &[&str], number: f64) {
        self.add(labels, Value::Number(number));
    }

    fn distribution(&mut self, labels: &[&str], distribution: &Distribution) {
        self.add(labels, Value::Distribution(Box::new(*distribution)));
    }

    fn add(&mut self, labels: &[&str], value: Value) {
        self.0.push(Sample { labels: labels.iter().map(|label| (*label).to_owned()).collect(), value });
    }
}

/// Code of a call that has a result.
const OK: &str = "ok";

/// Every state of a worker, as in `/stats`.
const WORKER_STATES: [&str; 6] = ["starting", "ready", "busy", "draining", "stopping", "down"];

/// Every state of a breaker, as in `/stats`.
const BREAKER_STATES: [&str; 3] = ["closed", "open", "half_open"];

/// See the module; in the order in which they are shown.
pub(super) const METRICS: &[Metric] = &[
    Metric {
        labels: &["version"],
        collect: |_, out| out.count(&[env!("CARGO_PKG_VERSION")], 1),
        ..info("mcpgate_build_info", "Which mcpgate this is; always 1.")
    },
    Metric {
        labels: &["status"],
        collect: |figures, out| {
            figures.api.counters.outcomes.by_class().for_each(|(class, n)| out.count(&[class], n));
        },
        ..counter(
            "mcpgate_http_requests_total",
            "Requests that have ended, by class of their HTTP status; `none` for those whose client left without an answer.",
        )
    },
    Metric {
        unit: Some(Unit::Bytes),
        collect: |figures, out| out.count(&[], figures.counter(|it| Counters::get(&it.traffic.read_bytes))),
        ..counter("mcpgate_http_received_bytes_total", "Bytes read from clients.")
    },
    Metric {
        unit: Some(Unit::Bytes),
        collect: |figures, out| out.count(&[], figures.counter(|it| Counters::get(&it.traffic.written_bytes))),
        ..counter("mcpgate_http_sent_bytes_total", "Bytes written to clients.")
    },
    Metric {
        collect: |figures, out| out.count(&[], figures.counter(|it| Counters::get(&it.connections))),
        ..gauge("mcpgate_connections", "Connections that are open.")
    },
    Metric {
        collect: |figures, out| out.counts(&[], figures.api.config.now().connections_max),
        ..gauge("mcpgate_connections_max", "Connections that may be open (`CONNECTIONS_MAX`).")
    },
    Metric {
        collect: |figures, out| out.count(&[], figures.counter(|it| Counters::get(&it.connections_total))),
        ..counter("mcpgate_connections_accepted_total", "Connections that came.")
    },
    Metric {
        collect: |figures, out| out.count(&[], figures.counter(|it| Counters::get(&it.connections_refused_total))),
        ..counter("mcpgate_connections_refused_total", "Connections that were turned away because there were too many.")
    },
    Metric {
        collect: |figures, out| out.count(&[], figures.counter(|it| Counters::get(&it.event_streams))),
        ..gauge("mcpgate_event_streams", "Event streams that are open, those of `/mcp` included.")
    },
    Metric {
        collect: |figures, out| out.count(&[], figures.counter(|it| Counters::get(&it.sockets))),
        ..gauge("mcpgate_websockets", "WebSockets that are open.")
    },
    Metric {
        collect: |figures, out| out.counts(&[], figures.api.sessions.count()),
        ..gauge("mcpgate_mcp_sessions", "Sessions of MCP clients that are open.")
    },
    Metric {
        collect: |figures, out| out.counts(&[], figures.api.config.now().sessions_max),
        ..gauge("mcpgate_mcp_sessions_max", "Sessions that may be open (`SESSIONS_MAX`).")
    },
    Metric {
        collect: |figures, out| out.count(&[], figures.counter(|it| Counters::get(&it.calls_total))),
        ..counter("mcpgate_calls_total", "Calls that came, refused ones included.")
    },
    Metric {
        collect: |figures, out| out.count(&[], figures.counter(|it| Counters::get(&it.errors_total))),
        ..counter("mcpgate_call_errors_total", "Calls that ended without a result, refused ones included.")
    },
    Metric {
        labels: &["server", "tool", "code"],
        collect: |figures, out| {
            for tool in &figures.tools {
                let errors: u64 = tool.errors_by_code.values().sum();
                out.count(&[tool.server, &tool.name, OK], tool.durations.total().saturating_sub(errors));
                tool.errors_by_code.iter().for_each(|(code, n)| out.count(&[tool.server, &tool.name, code], *n));
            }
        },
        ..counter(
            "mcpgate_tool_calls_total",
            "Calls of a tool that have ended; code `ok` for a result, else the error's code, or `cancelled`.",
        )
    },
    Metric {
        unit: Some(Unit::Seconds),
        labels: &["server", "tool"],
        collect: |figures, out| {
            figures.tools.iter().for_each(|tool| out.distribution(&[tool.server, &tool.name], &tool.durations));
        },
        ..histogram(
            "mcpgate_tool_call_duration_seconds",
            "Time from the arrival of a call to its end, however it ended; to within 1 %.",
        )
    },
    Metric {
        labels: &["server"],
        collect: |figures, out| figures.servers.iter().for_each(|it| out.counts(&[it.name], it.in_flight)),
        ..gauge("mcpgate_calls_in_flight", "Calls and other requests that workers have now.")
    },
    Metric {
        labels: &["server"],
        collect: |figures, out| figures.servers.iter().for_each(|it| out.counts(&[it.name], it.queued)),
        ..gauge("mcpgate_calls_queued", "Calls and other requests that wait for a worker.")
    },
    Metric {
        collect: |figures, out| out.counts(&[], figures.api.config.now().queue_max),
        ..gauge("mcpgate_calls_queued_max", "How many may wait for the workers of a server (`QUEUE_MAX`).")
    },
    Metric {
        unit: Some(Unit::Seconds),
        labels: &["server"],
        collect: |figures, out| {
            figures.servers.iter().for_each(|it| out.distribution(&[it.name], &it.totals.waits));
        },
        ..histogram(
            "mcpgate_queue_wait_seconds",
            "How long calls waited for a worker that had to wait and got one; the others are not counted.",
        )
    },
    Metric {
        labels: &["server", "status"],
        collect: |figures, out| {
            for server in &figures.servers {
                let status = health::status_of(&server.state);
                for known in health::Status::ALL {
                    out.count(&[server.name, known.word()], u64::from(known == status));
                }
            }
        },
        ..gauge("mcpgate_server_status", "1 for the status that the server has in `/health`, 0 for the others.")
    },
    Metric {
        labels: &["server", "state"],
        collect: |figures, out| {
            for server in &figures.servers {
                for state in WORKER_STATES {
                    let n = server.workers.iter().filter(|worker| worker.state == state).count();
                    out.counts(&[server.name, state], n);
                }
            }
        },
        ..gauge("mcpgate_workers", "Workers by state, those of sessions and keys included.")
    },
    Metric {
        labels: &["server"],
        collect: |figures, out| figures.servers.iter().for_each(|it| out.counts(&[it.name], it.state.workers_min)),
        ..gauge("mcpgate_workers_min", "Workers that everybody shares and that are always kept.")
    },
    Metric {
        labels: &["server"],
        collect: |figures, out| figures.servers.iter().for_each(|it| out.counts(&[it.name], it.state.workers_max)),
        ..gauge("mcpgate_workers_max", "Most workers that everybody shares.")
    },
    Metric {
        labels: &["server"],
        collect: |figures, out| figures.servers.iter().for_each(|it| out.count(&[it.name], it.totals.starts)),
        ..counter("mcpgate_worker_starts_total", "Processes that were started.")
    },
    Metric {
        labels: &["server"],
        collect: |figures, out| figures.servers.iter().for_each(|it| out.count(&[it.name], it.totals.restarts)),
        ..counter("mcpgate_worker_restarts_total", "Processes that were started in the place of one that had died.")
    },
    Metric {
        labels: &["server"],
        collect: |figures, out| figures.servers.iter().for_each(|it| out.count(&[it.name], it.totals.deaths)),
        ..counter("mcpgate_worker_deaths_total", "Processes that ended without being told to, or could not be started.")
    },
    Metric {
        labels: &["server", "direction"],
        collect: |figures, out| {
            for server in &figures.servers {
                out.count(&[server.name, "up"], server.totals.grown);
                out.count(&[server.name, "down"], server.totals.shrunk);
            }
        },
        ..counter("mcpgate_scale_events_total", "How often the number of workers was changed.")
    },
    Metric {
        labels: &["server", "state"],
        collect: |figures, out| {
            for server in &figures.servers {
                for state in BREAKER_STATES {
                    out.count(&[server.name, state], u64::from(server.figures.breaker == state));
                }
            }
        },
        ..gauge("mcpgate_breaker_state", "1 for the state that the server's breaker is in, 0 for the others.")
    },
    Metric {
        labels: &["server"],
        collect: |figures, out| figures.servers.iter().for_each(|it| out.count(&[it.name], it.totals.breaker_opened)),
        ..counter("mcpgate_breaker_opened_total", "How often the breaker opened that had been closed.")
    },
    Metric {
        labels: &["server"],
        collect: |figures, out| figures.servers.iter().for_each(|it| out.count(&[it.name], it.totals.late_answers)),
        ..counter("mcpgate_late_answers_total", "Answers of workers that came after their call was given up.")
    },
    Metric {
        unit: Some(Unit::Bytes),
        labels: &["server", "worker"],
        collect: |figures, out| of_workers(figures, |labels, usage| out.count(labels, usage.rss_bytes)),
        ..gauge("mcpgate_worker_resident_memory_bytes", "Resident memory of a worker and its descendants.")
    },
    Metric {
        unit: Some(Unit::Seconds),
        labels: &["server", "worker"],
        collect: |figures, out| of_workers(figures, |labels, usage| out.number(labels, usage.cpu_seconds)),
        ..counter("mcpgate_worker_cpu_seconds_total", "CPU time of a worker's process and its descendants.")
    },
    Metric {
        labels: &["key"],
        collect: |figures, out| figures.keys.iter().for_each(|(key, usage)| out.count(&[key], usage.calls)),
        ..counter("mcpgate_key_calls_total", "Calls that a key asked for.")
    },
    Metric {
        labels: &["key"],
        collect: |figures, out| figures.keys.iter().for_each(|(key, usage)| out.count(&[key], usage.errors)),
        ..counter("mcpgate_key_errors_total", "Calls of a key that ended without a result.")
    },
    Metric {
        labels: &["key"],
        collect: |figures, out| figures.keys.iter().for_each(|(key, usage)| out.count(&[key], usage.rate_limited)),
        ..counter("mcpgate_key_rate_limited_total", "Calls of a key that were refused because of a limit.")
    },
    Metric {
        labels: &["key"],
        collect: |figures, out| figures.keys.iter().for_each(|(key, usage)| out.count(&[key], usage.in_flight)),
        ..gauge("mcpgate_key_calls_in_flight", "Calls of a key that run now.")
    },
    Metric {
        unit: Some(Unit::Seconds),
        collect: |figures, out| figures.process.iter().for_each(|it| out.number(&[], it.cpu_seconds)),
        ..counter("process_cpu_seconds_total", "CPU time of the gateway itself.")
    },
    Metric {
        unit: Some(Unit::Bytes),
        collect: |figures, out| figures.process.iter().for_each(|it| out.count(&[], it.rss_bytes)),
        ..gauge("process_resident_memory_bytes", "Resident memory of the gateway itself.")
    },
    Metric {
        unit: Some(Unit::Bytes),
        collect: |figures, out| figures.process.iter().for_each(|it| out.count(&[], it.virtual_bytes)),
        ..gauge("process_virtual_memory_bytes", "Virtual memory of the gateway itself.")
    },
    Metric {
        collect: |figures, out| figures.process.iter().for_each(|it| out.count(&[], it.threads)),
        ..gauge("process_threads", "Threads of the gateway.")
    },
    Metric {
        collect: |figures, out| figures.descriptors.0.iter().for_each(|n| out.count(&[], *n)),
        ..gauge("process_open_fds", "File descriptors that the gateway has open.")
    },
    Metric {
        collect: |figures, out| figures.descriptors.1.iter().for_each(|n| out.count(&[], *n)),
        ..gauge("process_max_fds", "File descriptors that the gateway may have open.")
    },
    Metric {
        unit: Some(Unit::Seconds),
        collect: |figures, out| {
            let since_epoch = figures.api.started_at_time.duration_since(std::time::UNIX_EPOCH);
            out.number(&[], since_epoch.unwrap_or_default().as_secs_f64());
        },
        ..gauge("process_start_time_seconds", "When the gateway started, in seconds since 1970.")
    },
];

fn of_workers(figures: &Figures<'_>, mut each: impl FnMut(&[&str], &crate::worker::usage::Usage)) {
    for server in &figures.servers {
        for worker in &server.workers {
            worker.usage.iter().for_each(|usage| each(&[server.name, &worker.name], usage));
        }
    }
}

const fn metric(name: &'static str, kind: Kind, about: &'static str) -> Metric {
    Metric { name, kind, unit: None, labels: &[], about, collect: |_, _| {} }
}

const fn counter(name: &'static str, about: &'static str) -> Metric {
    metric(name, Kind::Counter, about)
}

const fn gauge(name: &'static str, about: &'static str) -> Metric {
    metric(name, Kind::Gauge, about)
}

const fn histogram(name: &'static str, about: &'static str) -> Metric {
    metric(name, Kind::Histogram, about)
}

const fn info(name: &'static str, about: &'static str) -> Metric {
    metric(name, Kind::Info, about)
}

#[cfg(test)]
mod tests;
