//! `/stats`: what the gateway counts, for people and scripts.

use serde_json::{Map, Value};

use super::{Answer, Api, Counters, health};
use crate::{
    access::Principal,
    json::json,
    pool::{Pool, WorkerSnapshot},
};

/// Everything.
pub(super) fn answer(api: &Api, principal: &Principal) -> Answer {
    let counters = &api.counters;
    // Whoever may not use everything need not know who else is there.
    let is_shown = |it: &Principal| principal.may_use_everything() || it.name == principal.name;
    let keys: Map<String, Value> = api
        .access
        .principals()
        .iter()
        .filter(|it| is_shown(it))
        .map(|it| (it.name.to_string(), json!(it.usage())))
        .collect();
    let mut servers = Map::new();
    let mut tools = Map::new();
    let roster = api.servers.now();
    for pool in roster.pools() {
        servers.insert(pool.server().to_string(), server(pool));
    }
    for (pool, tool) in roster.tools(None) {
        tools.insert(roster.public_name(None, pool, &tool), json!(tool.figures.snapshot()));
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
            "max": api.config.now().connections_max,
        },
        "reload": api.reloads.to_json(&api.servers.leaving()),
        "keys": keys,
        "servers": servers,
        "tools": tools,
    }))
}

fn server(pool: &Pool) -> Value {
    let state = pool.state();
    let figures = pool.figures();
    let events = figures
        .scale_events
        .iter()
        .map(|event| json!({ "time": event.time_text(), "from": event.from, "to": event.to, "reason": event.reason }));
    json!({
        "status": health::status_of(&state),
        "reason": state.reason,
        "pool": {
            "min": state.workers_min,
            "max": state.workers_max,
            "workers": state.counts,
            "queued": figures.queued,
            "queued_peak": figures.queued_peak,
            "calls_per_worker": figures.calls_per_worker,
            "isolated_workers": figures.isolated_workers,
            "scale_events": events.collect::<Vec<_>>(),
        },
        "breaker": {
            "state": figures.breaker,
            "failures": figures.breaker_failures,
            "reason": figures.breaker_reason,
            "stderr": figures.breaker_stderr,
            "retry_after_seconds": figures.breaker_retry_after.map(|it| it.as_secs_f64()),
        },
        "workers": pool.workers().iter().map(|it| worker(pool.server(), it)).collect::<Vec<_>>(),
    })
}

fn worker(server: &str, worker: &WorkerSnapshot) -> Value {
    let status = &worker.status;
    let info = worker.info.as_ref();
    json!({
        "id": &*worker.name,
        "server": server,
        "pid": status.pid,
        "state": worker.state,
        "in_flight": worker.in_flight,
        "calls_total": worker.calls_total,
        "errors_total": worker.errors_total,
        "late_answers_total": worker.late_answers_total,
        "restarts": worker.restarts,
        "uptime_seconds": status.started_at.map(|at| at.elapsed().as_secs_f64()),
        "rss_bytes": worker.usage.map(|usage| usage.rss_bytes),
        "cpu_seconds": worker.usage.map(|usage| usage.cpu_seconds),
        "last_ping_ms": worker.last_ping.map(|it| it.as_secs_f64() * 1000.0),
        "protocol": info.map(|info| info.revision.as_str()),
        "server_info": info.map(|info| json!({ "name": info.name, "version": info.version })),
        "last_error": worker.last_error,
        "stderr": status.stderr,
        "for": worker.whose,
        "era": worker.era.word(),
    })
}
