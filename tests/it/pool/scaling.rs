//! As many workers as the calls need, between `MIN_WORKERS` and `MAX_WORKERS`, and no flapping.

use std::{
    collections::BTreeSet,
    thread,
    time::{Duration, Instant, SystemTime},
};

use serde_json::{Value, json};

use super::{Sent, expect_all_succeed, in_flight, queued, server, wait_for_workers, workers};
use crate::support::{Gateway, Helper, Launch};

/// What a busy machine may take on top.
const SLACK: Duration = Duration::from_millis(1200);

/// How long a worker of these tests takes to start; long beside all else that happens on the way.
const START_TIME: Duration = Duration::from_millis(600);

fn slow_starter() -> Helper {
    Helper::with(&["--start-delay-ms", &START_TIME.as_millis().to_string()])
}

#[test]
fn a_burst_is_at_the_maximum_within_three_start_times_and_later_the_pool_is_small_again() {
    let gateway = Launch::new(slow_starter()).set("SCALE_DOWN_AFTER", "1").start();
    wait_for_workers(&gateway, 2);

    let began_at = Instant::now();
    let calls: Vec<Sent> = (0..64).map(|_| Sent::call(&gateway, "serial_delay", &json!({"ms": 200}))).collect();
    gateway.wait_until("8 workers", || {
        expect_serial_use(&gateway);
        gateway.usable_workers() == 8
    });
    let elapsed = began_at.elapsed();
    assert!(elapsed < START_TIME * 3 + SLACK, "8 workers after {elapsed:?}\n{}", gateway.framed_log());
    gateway.wait_until("the end of the burst", || {
        expect_serial_use(&gateway);
        queued(&gateway) == 0 && in_flight(&gateway) == 0
    });
    for call in calls {
        call.reply().expect_data(&json!("done"));
    }
    gateway.wait_until("2 workers again", || server(&gateway)["pool"]["workers"]["total"] == 2);

    let steps = scale_events(&gateway);
    let (up, down): (Vec<_>, Vec<_>) = steps.iter().partition(|(from, to)| from < to);
    assert_chain(&up, 2, 8);
    assert_chain(&down, 8, 2);
    assert!(up.iter().all(|(from, to)| *to <= 2 * from), "more than doubled: {up:?}");
}

/// A server that works serially gets one call at a time, but for one that is risked now and then.
#[track_caller]
fn expect_serial_use(gateway: &Gateway) {
    let server = server(gateway);
    let workers = server["workers"].as_array().cloned().unwrap_or_default();
    let most = workers.iter().filter_map(|worker| worker["in_flight"].as_u64()).max();
    let is_serial = most <= Some(2) && server["pool"]["calls_per_worker"] == 1;
    assert!(is_serial, "{most:?} calls in one worker: {server:#}\n{}", gateway.framed_log());
}

/// `from` and `to` of each scale event; each has a time of today and a reason.
#[track_caller]
fn scale_events(gateway: &Gateway) -> Vec<(u64, u64)> {
    let events = server(gateway)["pool"]["scale_events"].as_array().cloned().unwrap_or_default();
    let step = |event: &Value| {
        let time = humantime::parse_rfc3339_weak(event["time"].as_str().unwrap_or_default());
        let age = time.ok().and_then(|time| SystemTime::now().duration_since(time).ok());
        assert!(age.is_some_and(|age| age < Duration::from_secs(600)), "the time of {event}");
        assert!(event["reason"].as_str().is_some_and(|it| !it.is_empty()), "the reason of {event}");
        (event["from"].as_u64().expect("from"), event["to"].as_u64().expect("to"))
    };
    events.iter().map(step).collect()
}

/// The steps lead from `first` to `last`, each from where the one before it ended.
#[track_caller]
fn assert_chain(steps: &[&(u64, u64)], first: u64, last: u64) {
    let ends = (steps.first().map(|step| step.0), steps.last().map(|step| step.1));
    assert_eq!(ends, (Some(first), Some(last)), "{steps:?}");
    assert!(steps.windows(2).all(|pair| pair[0].1 == pair[1].0), "{steps:?}");
}

#[test]
fn a_load_that_comes_and_goes_finds_its_workers_still_there() {
    let gateway = Launch::new(Helper::new()).set("SCALE_DOWN_AFTER", "2").start();
    let began_at = Instant::now();
    let mut seen = BTreeSet::new();

    for round in 1..=10 {
        let calls: Vec<Sent> = (0..8).map(|_| Sent::call(&gateway, "serial_delay", &json!({"ms": 100}))).collect();
        expect_all_succeed(calls);
        let now = BTreeSet::from_iter(gateway.worker_pids());
        assert!(now.is_superset(&seen), "before burst {round}: {seen:?}, after it: {now:?}\n{}", gateway.framed_log());
        seen = now;
        // The shape of the load, longer in all than `SCALE_DOWN_AFTER`.
        thread::sleep((began_at + Duration::from_millis(300) * round).saturating_duration_since(Instant::now()));
    }
    assert!(scale_events(&gateway).iter().all(|(from, to)| from < to), "{:?}", scale_events(&gateway));
}

#[test]
fn workers_that_are_all_busy_get_company_although_no_call_waits() {
    let settings = [("MIN_WORKERS", "1"), ("MAX_WORKERS", "8"), ("WORKER_CONCURRENCY", "8")];
    let gateway = Gateway::start(&settings, Helper::new());

    let held: Vec<Sent> = (0..3).map(|_| Sent::call(&gateway, "delay", &json!({"ms": 60000}))).collect();
    wait_for_workers(&gateway, 2);
    assert_eq!(scale_events(&gateway), [(1, 2)]);
    assert_eq!(server(&gateway)["pool"]["queued_peak"], 0);
    drop(held);
}

#[test]
fn one_call_that_runs_for_long_needs_no_second_worker() {
    let settings = [("MIN_WORKERS", "1"), ("MAX_WORKERS", "8"), ("SCALE_UP_AFTER", "0.01")];
    let gateway = Gateway::start(&settings, Helper::new());

    Sent::call(&gateway, "delay", &json!({"ms": 500})).reply().expect_status(200);
    assert_eq!((scale_events(&gateway), workers(&gateway).len()), (vec![], 1));
}

#[test]
fn calls_that_wait_are_seen_at_once_however_long_workers_may_be_busy() {
    let settings = [("MIN_WORKERS", "1"), ("MAX_WORKERS", "2"), ("SCALE_UP_AFTER", "3600")];
    let gateway = Gateway::start(&settings, Helper::new());

    let held: Vec<Sent> = (0..4).map(|_| Sent::call(&gateway, "serial_delay", &json!({"ms": 1000}))).collect();
    wait_for_workers(&gateway, 2);
    drop(held);
}
