//! Workers that no longer do anything are found and replaced, those that are busy are left alone, and `/health` is true.

use std::{
    fs, thread,
    time::{Duration, Instant},
};

use rustix::process::Signal;
use serde_json::{Value, json};

use super::{QUICK_PINGS, Sent, Trace, has_last_error, kill_all, pool_of, process, wait_for_end, workers};
use crate::support::{Folder, Gateway, Helper, Launch, send_signal};

/// Waits until the worker with this process is gone, and another has taken its place.
#[track_caller]
fn expect_replaced(gateway: &Gateway, pid: u32, n_workers: usize) {
    gateway.wait_until(&format!("a worker in the place of process {pid}"), || {
        let pids = gateway.worker_pids();
        pids.len() == n_workers && !pids.contains(&pid) && gateway.usable_workers() == n_workers as u64
    });
}

#[test]
fn a_stopped_worker_without_calls_is_replaced() {
    let gateway = pool_of(2, &QUICK_PINGS, Helper::new());
    let stopped = process(gateway.worker_pids()[0]);

    send_signal(stopped.pid, Signal::STOP);
    expect_replaced(&gateway, stopped.pid, 2);
    assert!(has_last_error(&gateway, "stopped"), "{:#?}", workers(&gateway));
    wait_for_end(&gateway, "the stopped worker", &[stopped]);
}

#[test]
fn a_read_only_call_of_a_stopped_worker_is_answered_by_another() {
    let gateway = pool_of(2, &QUICK_PINGS, Helper::new());
    let trace = Trace::new();

    let call = Sent::call(&gateway, "lookup", &trace.arguments(json!({"ms": 1000})));
    gateway.wait_until("the call at a worker", || trace.lines().len() == 1);
    let stopped = trace.pids()[0];
    send_signal(stopped, Signal::STOP);
    call.reply().expect_status(200);
    let pids = trace.pids();
    assert!(pids.len() == 2 && pids[1] != stopped, "carried out by {pids:?}, {stopped} was stopped");
    expect_replaced(&gateway, stopped, 2);
}

#[test]
fn another_call_of_a_stopped_worker_ends_with_why() {
    let gateway = pool_of(2, &QUICK_PINGS, Helper::new());
    let trace = Trace::new();

    let call = Sent::call(&gateway, "write", &trace.arguments(json!({"ms": 60000})));
    gateway.wait_until("the call at a worker", || trace.lines().len() == 1);
    send_signal(trace.pids()[0], Signal::STOP);
    call.reply().expect_error(502, "worker_crashed", "stopped");
    expect_replaced(&gateway, trace.pids()[0], 2);
    assert_eq!(trace.lines().len(), 1, "carried out again");
}

#[test]
fn a_long_call_of_a_serial_server_is_left_alone() {
    let gateway = pool_of(1, &[("HEALTH_INTERVAL", "0.1"), ("HEALTH_TIMEOUT", "0.1")], Helper::new());
    let pids = gateway.worker_pids();

    gateway.call("serial_delay", r#"{"ms":1500}"#).expect_data(&json!("done"));
    gateway.call("echo", "{}").expect_status(200);
    assert_eq!(gateway.worker_pids(), pids);
    assert_eq!(workers(&gateway)[0]["restarts"], 0);
}

#[test]
fn a_busy_worker_that_is_silent_gets_no_new_calls_while_another_is_up() {
    let settings = [("HEALTH_INTERVAL", "0.05"), ("HEALTH_TIMEOUT", "0.05"), ("WORKER_CONCURRENCY", "8")];
    let gateway = pool_of(2, &settings, Helper::new());

    let silent = Sent::call(&gateway, "serial_delay", &json!({"ms": 2500}));
    gateway.wait_until("the call at a worker", || super::in_flight(&gateway) == 1);
    // So long that several pings must have been missed.
    thread::sleep(Duration::from_millis(500));
    let held: Vec<Sent> = (0..4).map(|_| Sent::call(&gateway, "delay", &json!({"ms": 60000}))).collect();
    gateway.wait_until("4 calls at the other worker", || {
        let workers = workers(&gateway);
        let in_flight: Vec<Option<u64>> = workers.iter().map(|worker| worker["in_flight"].as_u64()).collect();
        in_flight.contains(&Some(4)) && in_flight.contains(&Some(1))
    });
    silent.reply().expect_status(200);
    drop(held);
}

#[test]
fn a_worker_without_calls_that_leaves_three_pings_unanswered_is_replaced() {
    let gateway = pool_of(1, &QUICK_PINGS, Helper::with(&["--deaf-to-pings-after", "1"]));
    let deaf = gateway.worker_pids()[0];

    gateway.call("echo", "{}").expect_status(200);
    expect_replaced(&gateway, deaf, 1);
    assert!(has_last_error(&gateway, "3 pings"), "{:#?}", workers(&gateway));
}

#[test]
fn a_worker_without_calls_that_misses_a_ping_is_unhealthy() {
    let settings = [("HEALTH_INTERVAL", "0.5"), ("HEALTH_TIMEOUT", "0.5")];
    let gateway = pool_of(2, &settings, Helper::with(&["--deaf-to-pings-after", "1"]));

    gateway.call("echo", "{}").expect_status(200);
    gateway.wait_until("an unhealthy worker", || gateway.get("/health").json()["workers"]["unhealthy"] == 1);
    gateway.get("/health").expect_status(200).expect(
        gateway.get("/health").json()["status"] != "healthy",
        "not `healthy` with fewer workers than there should be",
    );
    super::wait_for_workers(&gateway, 2);
}

#[test]
fn a_worker_stuck_in_a_call_that_timed_out_is_replaced() {
    let gateway = pool_of(1, &QUICK_PINGS, Helper::new());
    let stuck = gateway.worker_pids()[0];

    let reply = gateway.post("/tools/serial_delay", r#"{"arguments":{"ms":60000},"timeout":0.1}"#);
    reply.expect_error(504, "timeout", "`serial_delay`");
    expect_replaced(&gateway, stuck, 1);
    assert!(has_last_error(&gateway, "timed out"), "{:#?}", workers(&gateway));
    gateway.call("echo", "{}").expect_status(200);
}

#[test]
fn a_worker_that_answers_pings_may_let_calls_time_out() {
    let gateway = pool_of(1, &QUICK_PINGS, Helper::new());
    let pids = gateway.worker_pids();

    gateway.post("/tools/silent", r#"{"timeout":0.1}"#).expect_error(504, "timeout", "`silent`");
    let pings = || gateway.counts()["methods"]["ping"].as_u64().unwrap_or_default();
    let before = pings();
    gateway.wait_until("10 more pings", || before + 10 <= pings());
    assert_eq!(gateway.worker_pids(), pids);
}

#[test]
fn health_is_never_good_while_every_call_fails() {
    let folder = Folder::new();
    let broken = folder.path().join("broken");
    let helper = Helper::with(&["--exit-while-exists", &broken.display().to_string()]);
    let gateway = Launch::new(helper).set("BREAKER_COOLDOWN", "0.2").start();
    let asked = ["/health", "/health/ready"];

    fs::write(&broken, "").unwrap();
    kill_all(&gateway);
    gateway.wait_until("503", || gateway.get("/health").status == 503);
    // Through back-off, the open breaker, and several tries.
    let until = Instant::now() + Duration::from_secs(2);
    while Instant::now() < until {
        for path in asked {
            gateway.get(path).expect_status(503);
        }
        let reply = gateway.post("/tools/echo", r#"{"timeout":0.05}"#);
        reply.expect(500 <= reply.status, "a failed call");
    }

    fs::remove_file(&broken).unwrap();
    gateway.wait_until("200", || asked.iter().any(|path| gateway.get(path).status == 200));
    gateway.call("echo", r#"{"a":1}"#).expect_data(&json!({"a": 1}));
    gateway.wait_until("`healthy`", || gateway.get("/health").json()["status"] == "healthy");
}

#[test]
fn every_answered_ping_is_noted() {
    let gateway = pool_of(2, &QUICK_PINGS, Helper::new());

    gateway.wait_until("the time of a ping of each worker", || {
        workers(&gateway).iter().all(|worker| worker["last_ping_ms"].as_f64().is_some_and(|ms| 0.0 <= ms))
    });
    let restarts: Vec<Value> = workers(&gateway).iter().map(|worker| worker["restarts"].clone()).collect();
    assert_eq!(restarts, [0, 0]);
}
