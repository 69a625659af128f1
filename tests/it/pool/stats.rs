//! `/stats` of the pool: every field is there, and says what happened.

use rustix::process::Signal;
use serde_json::{Value, json};

use super::{Sent, pool_of, server, wait_for_workers, workers};
use crate::support::{Gateway, Helper, send_signal};

/// The object has these fields.
#[track_caller]
fn expect_fields(object: &Value, fields: &[&str]) {
    let actual: Vec<&String> = object.as_object().unwrap_or_else(|| panic!("not an object: {object}")).keys().collect();
    for field in fields {
        assert!(actual.iter().any(|it| *it == field), "`{field}` is missing in {object:#}");
    }
}

#[track_caller]
fn count(object: &Value, field: &str) -> u64 {
    object[field].as_u64().unwrap_or_else(|| panic!("`{field}` is no count in {object:#}"))
}

#[test]
fn a_server_has_its_status_pool_breaker_and_workers() {
    let gateway = pool_of(2, &[], Helper::new());
    let server = server(&gateway);

    expect_fields(&server, &["status", "reason", "pool", "breaker", "workers"]);
    assert_eq!((&server["status"], &server["reason"]), (&json!("healthy"), &Value::Null));
    let pool = &server["pool"];
    expect_fields(
        pool,
        &["min", "max", "workers", "queued", "queued_peak", "calls_per_worker", "isolated_workers", "scale_events"],
    );
    assert_eq!((count(pool, "min"), count(pool, "max")), (2, 2));
    assert_eq!(pool["workers"], json!({"total": 2, "ready": 2, "busy": 0, "starting": 0, "unhealthy": 0}));
    assert_eq!((count(pool, "queued"), count(pool, "queued_peak"), count(pool, "isolated_workers")), (0, 0, 0));
    assert_eq!(count(pool, "calls_per_worker"), 1);
    assert_eq!(pool["scale_events"], json!([]));
    expect_fields(&server["breaker"], &["state", "failures", "reason", "stderr", "retry_after_seconds"]);
}

#[test]
fn a_worker_says_who_it_is_what_it_did_and_what_it_uses() {
    let settings = [("HEALTH_INTERVAL", "0.1"), ("WORKER_CONCURRENCY", "4")];
    let gateway = pool_of(1, &settings, Helper::new());
    let fresh = workers(&gateway)[0].clone();
    expect_fields(
        &fresh,
        &[
            "id",
            "server",
            "pid",
            "state",
            "in_flight",
            "calls_total",
            "errors_total",
            "late_answers_total",
            "restarts",
            "uptime_seconds",
            "rss_bytes",
            "cpu_seconds",
            "last_ping_ms",
            "protocol",
            "server_info",
            "last_error",
            "stderr",
            "for",
        ],
    );
    assert_eq!((&fresh["id"], &fresh["server"], &fresh["for"]), (&json!("helper-1"), &json!("helper"), &Value::Null));
    assert_eq!((&fresh["state"], count(&fresh, "in_flight"), count(&fresh, "restarts")), (&json!("ready"), 0, 0));
    assert_eq!((count(&fresh, "calls_total"), count(&fresh, "errors_total")), (0, 0));
    assert_eq!((&fresh["protocol"], &fresh["server_info"]["name"]), (&json!("2025-11-25"), &json!("helper")));
    assert!(fresh["last_error"].is_null() && fresh["stderr"] == json!([]), "{fresh:#}");

    gateway.call("stderr", r#"{"text":"a word"}"#).expect_status(200);
    gateway.call("error", "{}").expect_status(422);
    gateway.call("hold", r#"{"bytes":30000000}"#).expect_status(200);
    let held = Sent::call(&gateway, "delay", &json!({"ms": 60000}));
    gateway.wait_until("a busy worker with figures", || {
        let worker = workers(&gateway)[0].clone();
        let is_measured = 30_000_000 < count(&worker, "rss_bytes") && worker["last_ping_ms"].is_number();
        worker["state"] == "busy" && is_measured
    });
    let worker = workers(&gateway)[0].clone();
    assert_eq!((count(&worker, "in_flight"), count(&worker, "calls_total")), (1, 4), "{worker:#}");
    assert_eq!(worker["stderr"], json!(["a word"]));
    assert!(worker["cpu_seconds"].as_f64().is_some_and(|it| (0.0..60.0).contains(&it)), "{worker:#}");
    assert!(worker["uptime_seconds"].as_f64().is_some_and(|it| (0.0..600.0).contains(&it)), "{worker:#}");
    drop(held);
}

#[test]
fn a_worker_that_died_is_known_by_its_restarts_and_its_last_error() {
    let gateway = pool_of(1, &[], Helper::new());
    let pid = gateway.worker_pids()[0];

    send_signal(pid, Signal::KILL);
    gateway.wait_until("its successor", || {
        let pids = gateway.worker_pids();
        !pids.is_empty() && pids != [pid] && gateway.usable_workers() == 1
    });
    let worker = workers(&gateway)[0].clone();
    assert_eq!((count(&worker, "restarts"), count(&worker, "errors_total")), (1, 0), "{worker:#}");
    assert!(worker["last_error"].as_str().is_some_and(|it| it.contains("signal 9")), "{worker:#}");
    gateway.call("crash", "{}").expect_status(502);
    wait_for_workers(&gateway, 1);
    gateway.wait_until("the lost call", || count(&workers(&gateway)[0], "errors_total") == 1);
}

#[test]
fn the_queue_and_its_high_mark() {
    let gateway = pool_of(1, &[("WORKER_CONCURRENCY", "1")], Helper::new());

    let held: Vec<Sent> = (0..4).map(|_| Sent::call(&gateway, "delay", &json!({"ms": 60000}))).collect();
    let pool = || server(&gateway)["pool"].clone();
    gateway.wait_until("3 calls that wait", || pool()["queued"] == 3);
    assert_eq!(pool()["queued_peak"], 3);
    assert_eq!(pool()["workers"]["busy"], 1);
    drop(held);
    gateway.wait_until("an empty queue", || pool()["queued"] == 0);
    assert_eq!(pool()["queued_peak"], 3);
}

#[test]
fn a_tool_has_its_calls_its_errors_by_code_and_its_times() {
    let gateway = pool_of(1, &[], Helper::new());
    let tool = |gateway: &Gateway, name: &str| gateway.stats()["tools"][name].clone();
    assert_eq!(
        tool(&gateway, "delay"),
        json!({"calls": 0, "errors": 0, "errors_by_code": {}, "p50_ms": null, "p90_ms": null, "p99_ms": null})
    );

    for _ in 0..9 {
        gateway.call("delay", r#"{"ms":10}"#).expect_status(200);
    }
    gateway.call("delay", r#"{"ms":400}"#).expect_status(200);
    let delay = tool(&gateway, "delay");
    assert_eq!((count(&delay, "calls"), count(&delay, "errors")), (10, 0), "{delay}");
    let [p50, p90, p99] = ["p50_ms", "p90_ms", "p99_ms"].map(|it| delay[it].as_f64().unwrap_or(-1.0));
    // Rounded by a few per cent at most.
    assert!((9.0..390.0).contains(&p50), "{delay}");
    assert!(p50 <= p90 && p90 <= p99, "{delay}");
    assert!(380.0 <= p99, "{delay}");

    gateway.post("/tools/delay", r#"{"arguments":{"ms":60000},"timeout":0.05}"#).expect_status(504);
    gateway.post("/tools/delay", r#"{"arguments":{"ms":60000},"timeout":0.05}"#).expect_status(504);
    let delay = tool(&gateway, "delay");
    assert_eq!((count(&delay, "calls"), count(&delay, "errors")), (12, 2), "{delay}");
    assert_eq!(delay["errors_by_code"], json!({"timeout": 2}));
    gateway.call("error", "{}").expect_status(422);
    gateway.call("rpc_error", "{}").expect_status(502);
    gateway.call("crash", "{}").expect_status(502);
    assert_eq!(tool(&gateway, "error")["errors_by_code"], json!({"tool_error": 1}));
    assert_eq!(tool(&gateway, "rpc_error")["errors_by_code"], json!({"worker_error": 1}));
    assert_eq!(tool(&gateway, "crash")["errors_by_code"], json!({"worker_crashed": 1}));
}

#[test]
fn no_more_than_fifty_scale_events_are_kept() {
    let settings =
        [("MIN_WORKERS", "1"), ("MAX_WORKERS", "2"), ("SCALE_DOWN_AFTER", "0.01"), ("WORKER_CONCURRENCY", "1")];
    let gateway = Gateway::start(&settings, Helper::new());
    wait_for_workers(&gateway, 1);
    let events = || server(&gateway)["pool"]["scale_events"].as_array().cloned().unwrap_or_default();

    // Each round is two of them: up, and down again.
    for _ in 0..26 {
        let calls: Vec<Sent> = (0..2).map(|_| Sent::call(&gateway, "delay", &json!({"ms": 60000}))).collect();
        wait_for_workers(&gateway, 2);
        drop(calls);
        wait_for_workers(&gateway, 1);
    }
    let steps: Vec<_> = events().iter().map(|event| (event["from"].clone(), event["to"].clone())).collect();
    assert_eq!(steps.len(), 50);
    assert_eq!(steps.last(), Some(&(json!(2), json!(1))), "the newest come last");
}
