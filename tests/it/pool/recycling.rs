//! Workers that have served for long enough are replaced, and nobody notices.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::{pool_of, server, under_load, wait_for_end, wait_for_workers, workers};
use crate::support::{Gateway, Helper, Server};

/// Waits until so many processes have served, with at least `n_workers_min` workers at every moment.
#[track_caller]
fn watch_pids(gateway: &Gateway, n_pids: usize, n_workers_min: u64) {
    let mut seen = BTreeSet::new();
    gateway.wait_until(&format!("{n_pids} processes"), || {
        let usable = gateway.usable_workers();
        assert!(n_workers_min <= usable, "only {usable} usable workers\n{}", gateway.framed_log());
        seen.extend(gateway.worker_pids());
        n_pids <= seen.len()
    });
}

#[test]
fn by_calls_under_load_no_call_fails_and_no_worker_is_missing() {
    let settings = [("WORKER_CALLS_MAX", "20"), ("MIN_WORKERS", "2"), ("MAX_WORKERS", "4")];
    let gateway = Gateway::start(&settings, Helper::new());
    wait_for_workers(&gateway, 2);

    under_load(&gateway, 8, "write", &json!({"ms": 5}), || watch_pids(&gateway, 12, 2));
    assert_eq!(server(&gateway)["breaker"]["failures"], 0, "being replaced is no failure");
}

#[test]
fn by_age_under_load_no_call_fails_and_no_worker_is_missing() {
    let gateway = pool_of(2, &[("WORKER_AGE_MAX", "0.5")], Helper::new());

    under_load(&gateway, 4, "write", &json!({"ms": 5}), || watch_pids(&gateway, 8, 2));
}

#[test]
fn a_worker_without_calls_grows_old_too() {
    let gateway = pool_of(1, &[("WORKER_AGE_MAX", "0.3")], Helper::new());
    let first = gateway.processes();

    watch_pids(&gateway, 3, 1);
    wait_for_end(&gateway, "the first", &first);
}

#[test]
fn a_long_call_ends_in_the_worker_it_began_in() {
    let gateway = pool_of(1, &[("WORKER_CALLS_MAX", "1")], Helper::new());
    let old = gateway.worker_pids()[0];
    let old_text = old.to_string();

    let call = super::Sent::call(&gateway, "write", &json!({"ms": 1500}));
    gateway.wait_until("its successor", || gateway.worker_pids().iter().any(|pid| *pid != old));
    gateway.wait_until("another worker's answer", || gateway.call("pid", "{}").data() != *old_text);
    call.reply().expect_data(&json!({"ms": 1500}));
    gateway.wait_until("the end of the old one", || !gateway.worker_pids().contains(&old));
}

#[test]
fn by_memory() {
    let settings = [("WORKER_MEMORY_MAX", "64M"), ("HEALTH_INTERVAL", "0.1")];
    let gateway = pool_of(1, &settings, Helper::new());
    check_memory(&gateway);
}

#[test]
fn by_the_memory_of_what_a_worker_has_started() {
    let settings = [("WORKER_MEMORY_MAX", "64M"), ("HEALTH_INTERVAL", "0.1"), ("STOP_GRACE", "0.5")];
    let wrapper = format!("exec 3<&0; {} <&3 & wait", Helper::program().display());
    let gateway = pool_of(1, &settings, Server::from(&["sh", "-c", &wrapper][..]));
    check_memory(&gateway);
}

/// The only worker is replaced once it has taken more than 64 MB.
#[track_caller]
fn check_memory(gateway: &Gateway) {
    let old = gateway.worker_pids()[0];
    assert!(rss_bytes(&workers(gateway)[0]) < 64 << 20, "{:#?}", workers(gateway));

    gateway.call("hold", r#"{"bytes":20000000}"#).expect_status(200);
    gateway.wait_until("20 MB", || 20_000_000 < rss_bytes(&workers(gateway)[0]));
    assert_eq!(gateway.worker_pids(), [old], "20 MB are allowed");
    under_load(gateway, 2, "write", &json!({"ms": 5}), || {
        gateway.call("hold", r#"{"bytes":100000000}"#).expect_status(200);
        gateway.wait_until("a worker in its place", || {
            assert!(1 <= gateway.usable_workers(), "no worker\n{}", gateway.framed_log());
            let pids = gateway.worker_pids();
            pids.len() == 1 && pids[0] != old
        });
    });
    assert!(rss_bytes(&workers(gateway)[0]) < 64 << 20, "{:#?}", workers(gateway));
}

fn rss_bytes(worker: &Value) -> u64 {
    worker["rss_bytes"].as_u64().unwrap_or_default()
}
