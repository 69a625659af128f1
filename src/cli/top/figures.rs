//! What a gateway says of itself in `/stats` and `/stats/history`, as far as it is shown, and what two looks at it tell.
//!
//! Values in, values out. What an older or newer gateway does not say is taken for nothing.

use std::{
    collections::{BTreeMap, HashMap},
    time::Instant,
};

use serde::Deserialize;

/// The answer of `/stats`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct Stats {
    pub(super) uptime_seconds: f64,
    pub(super) totals: Totals,
    pub(super) connections: Connections,
    pub(super) servers: BTreeMap<String, Server>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct Totals {
    pub(super) calls: u64,
    pub(super) errors: u64,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct Connections {
    pub(super) open: u64,
    pub(super) max: u64,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct Server {
    pub(super) status: String,
    pub(super) reason: Option<String>,
    pub(super) pool: Pool,
    pub(super) breaker: Breaker,
    pub(super) workers: Vec<Worker>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct Pool {
    pub(super) max: u64,
    pub(super) queued: u64,
    pub(super) queued_peak: u64,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct Breaker {
    pub(super) state: String,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct Worker {
    pub(super) id: String,
    pub(super) pid: Option<u32>,
    pub(super) state: String,
    pub(super) in_flight: u64,
    pub(super) calls_total: u64,
    pub(super) errors_total: u64,
    pub(super) restarts: u64,
    pub(super) uptime_seconds: Option<f64>,
    pub(super) rss_bytes: Option<u64>,
    pub(super) cpu_seconds: Option<f64>,
}

/// The answer of `/stats/history`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct History {
    /// Oldest first; the last one is not over.
    pub(super) points: Vec<Point>,
    /// Newest first.
    pub(super) calls: Vec<Ended>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct Point {
    pub(super) seconds: f64,
    pub(super) calls: u32,
    pub(super) errors: u32,
    pub(super) p50_ms: Option<f64>,
    pub(super) p99_ms: Option<f64>,
}

/// A call that has ended.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct Ended {
    pub(super) time: String,
    pub(super) tool: String,
    pub(super) key: String,
    pub(super) worker: Option<String>,
    pub(super) outcome: String,
    pub(super) duration_ms: f64,
}

/// One look at a gateway.
#[derive(Debug, Clone)]
pub(super) struct Look {
    pub(super) at: Instant,
    pub(super) stats: Stats,
    pub(super) history: History,
}

/// What is shown: the last look, and what the one before adds to it.
#[derive(Debug, Clone)]
pub(super) struct Shown {
    pub(super) look: Look,
    /// Calls a second.
    pub(super) rate: f64,
    /// Share of a processor, by worker.
    cpu: HashMap<String, f64>,
}

impl Point {
    /// Calls a second. One that has just begun is not made much of.
    pub(super) fn rate(&self) -> f64 {
        f64::from(self.calls) / self.seconds.max(1.0)
    }
}

impl Shown {
    /// `before` is an earlier look. Without one, calls are told from the last points, and processors from the whole life of a worker.
    pub(super) fn new(look: Look, before: Option<&Look>) -> Shown {
        // After a restart of the gateway everything counts from anew.
        let before = before.filter(|before| before.stats.uptime_seconds < look.stats.uptime_seconds);
        let seconds = before.map(|before| look.at.duration_since(before.at).as_secs_f64()).filter(|it| 0.0 < *it);
        let rate = match (before, seconds) {
            (Some(before), Some(seconds)) => {
                let calls = look.stats.totals.calls.saturating_sub(before.stats.totals.calls);
                #[allow(clippy::cast_precision_loss, reason = "calls between two looks stay far below 2^53")]
                let calls = calls as f64;
                calls / seconds
            }
            _ => look.history.points.iter().rev().take(2).map(Point::rate).fold(0.0, f64::max),
        };
        let cpu_before: HashMap<_, _> = before
            .into_iter()
            .flat_map(|before| before.stats.workers())
            .filter_map(|worker| Some(((worker.id.as_str(), worker.pid), worker.cpu_seconds?)))
            .collect();
        let share = |worker: &Worker| {
            let used = worker.cpu_seconds?;
            match (cpu_before.get(&(worker.id.as_str(), worker.pid)), seconds) {
                (Some(used_before), Some(seconds)) => Some((used - used_before) / seconds),
                _ => worker.uptime_seconds.filter(|it| 0.0 < *it).map(|lived| used / lived),
            }
        };
        let cpu = look.stats.workers().filter_map(|it| Some((it.id.clone(), share(it)?.max(0.0)))).collect();
        Shown { look, rate, cpu }
    }

    /// The share of a processor that a worker takes; 1 is the whole of one.
    pub(super) fn cpu(&self, worker: &Worker) -> Option<f64> {
        self.cpu.get(&worker.id).copied()
    }
}

impl Stats {
    /// The workers of all servers.
    pub(super) fn workers(&self) -> impl Iterator<Item = &Worker> {
        self.servers.values().flat_map(|server| &server.workers)
    }

    /// One word for all servers.
    pub(super) fn status(&self) -> &'static str {
        let is = |wanted: &'static str| move |server: &Server| server.status == wanted;
        let mut servers = self.servers.values();
        if servers.clone().all(is("healthy")) {
            "healthy"
        } else if servers.clone().all(is("starting")) {
            "starting"
        } else if servers.any(|server| matches!(server.status.as_str(), "healthy" | "degraded")) {
            "degraded"
        } else {
            "unhealthy"
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn look(at: Instant, uptime: f64, calls: u64, pid: u32, cpu: f64) -> Look {
        let stats = serde_json::json!({
            "uptime_seconds": uptime,
            "totals": { "calls": calls },
            "servers": { "s": { "status": "healthy", "workers": [
                { "id": "s-1", "pid": pid, "cpu_seconds": cpu, "uptime_seconds": 10.0 },
                { "id": "s-2", "pid": null, "cpu_seconds": null },
            ] } },
            "from_the_future": true,
        });
        Look { at, stats: serde_json::from_value(stats).unwrap(), history: History::default() }
    }

    #[test]
    fn two_looks_tell_rate_and_processor() {
        let now = Instant::now();
        let before = look(now, 10.0, 100, 1, 5.0);
        let shown = Shown::new(look(now + Duration::from_secs(2), 12.0, 120, 1, 6.0), Some(&before));
        let workers: Vec<_> = shown.look.stats.workers().collect();
        assert_eq!((shown.rate, shown.cpu(workers[0]), shown.cpu(workers[1])), (10.0, Some(0.5), None));
    }

    #[test]
    fn another_process_and_another_gateway_count_from_anew() {
        let now = Instant::now();
        let before = look(now, 10.0, 100, 1, 5.0);
        let shown = Shown::new(look(now + Duration::from_secs(2), 12.0, 100, 2, 1.0), Some(&before));
        assert_eq!(shown.cpu(shown.look.stats.workers().next().unwrap()), Some(0.1));
        let mut after = look(now + Duration::from_secs(2), 1.0, 5, 1, 6.0);
        after.history.points = vec![Point { seconds: 5.0, calls: 10, ..Point::default() }];
        assert_eq!(Shown::new(after, Some(&before)).rate, 2.0);
    }

    #[test]
    fn one_word_says_how_the_servers_are() {
        for (statuses, expected) in [
            (&["healthy", "healthy"][..], "healthy"),
            (&["healthy", "unhealthy"], "degraded"),
            (&["degraded"], "degraded"),
            (&["starting"], "starting"),
            (&["starting", "unhealthy"], "unhealthy"),
        ] {
            let server = |status: &&str| Server { status: (*status).to_owned(), ..Server::default() };
            let servers = statuses.iter().enumerate().map(|(n, status)| (n.to_string(), server(status))).collect();
            assert_eq!(Stats { servers, ..Stats::default() }.status(), expected, "{statuses:?}");
        }
    }
}
