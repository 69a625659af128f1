//! `/`: what this gateway is.

use super::{Answer, Api, Counters, Request, routes};
use crate::json::json;

/// Name, version, servers, workers, totals, endpoints; somebody with a browser is sent to the dashboard.
pub(super) fn answer(api: &Api, request: &Request<'_>) -> Answer {
    let wants_page = request.header("Accept").is_some_and(|accept| accept.contains("text/html"));
    if wants_page {
        let headers = vec![("Location", "ui".to_owned()), ("Vary", "Accept".to_owned())];
        return Answer { headers, ..Answer::empty(302) };
    }
    let mut total = crate::pool::Counts::default();
    let mut servers = Vec::new();
    let roster = api.servers.now();
    for pool in roster.pools() {
        total.add(pool.counts());
        servers.push(&**pool.server());
    }
    let endpoints = routes::ENDPOINTS.iter().map(|endpoint| {
        json!({ "path": endpoint.path, "methods": endpoint.allow, "key": !endpoint.is_open, "about": endpoint.about })
    });
    Answer::json(&json!({
        "name": "mcpgate",
        "version": env!("CARGO_PKG_VERSION"),
        "uptime_seconds": api.started_at.elapsed().as_secs(),
        "servers": servers,
        "workers": total,
        "totals": {
            "requests": Counters::get(&api.counters.requests_total),
            "calls": Counters::get(&api.counters.calls_total),
            "errors": Counters::get(&api.counters.errors_total),
        },
        "endpoints": endpoints.collect::<Vec<_>>(),
    }))
}
