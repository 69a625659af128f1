//! `/stats`: what the gateway counts, for people and scripts.

use serde_json::{Map, Value, json};

use super::{Answer, Api, Counters, health};
use crate::pool::{Pool, WorkerSnapshot};

/// Everything.
pub(super) fn answer(api: &Api) -> Answer {
    let counters = &api.counters;
    let mut servers = Map::new();
    let mut tools = Map::new();
    for pool in api.servers.pools() {
        servers.insert(pool.server().to_string(), server(pool));
    }
    for (pool, tool) in api.servers.tools(None) {
        tools.insert(api.servers.public_name(None, pool, &tool), json!(tool.figures.snapshot()));
    }
    Answer::json(&json!({
        "uptime_seconds": api.started_at.elapsed().as_secs_f64(),
        "totals": {
            "requests": Counters::get(&counters.requests_total),
            "calls": Counters::get(&counters.calls_total),
            "errors": Counters::get(&counters.errors_total),
        },
        "connections": {
            "open": Counters::get(&counters.connections),
            "peak": Counters::get(&counters.connections_peak),
            "accepted": Counters::get(&counters.connections_total),
            "refused": Counters::get(&counters.connections_refused_total),
            "max": api.config.connections_max,
        },
        "servers": servers,
        "tools": tools,
    }))
}

fn server(pool: &Pool) -> Value {
    let state = pool.state();
    let (queued, queued_peak) = pool.queued();
    json!({
        "status": health::status_of(&state),
        "reason": state.reason,
        "pool": { "min": state.workers_min, "workers": state.counts, "queued": queued, "queued_peak": queued_peak },
        "workers": pool.workers().iter().map(worker).collect::<Vec<_>>(),
    })
}

fn worker(worker: &WorkerSnapshot) -> Value {
    let status = &worker.status;
    let info = worker.info.as_ref();
    json!({
        "id": &*worker.name,
        "pid": status.pid,
        "state": worker.state,
        "in_flight": worker.in_flight,
        "calls_total": worker.calls_total,
        "late_answers_total": status.late_answers,
        "restarts": status.restarts,
        "uptime_seconds": status.started_at.map(|at| at.elapsed().as_secs_f64()),
        "protocol": info.map(|info| info.revision.as_str()),
        "server_info": info.map(|info| json!({ "name": info.name, "version": info.version })),
        "last_error": status.last_error,
        "stderr": status.stderr,
    })
}
