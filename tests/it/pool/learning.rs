//! How many calls a worker is given at a time: what the setting says, or what its server has shown that it can do.

use serde_json::{Value, json};

use super::{Sent, in_flight, pool_of, queued, server, under_load};
use crate::support::{Gateway, Helper};

fn calls_per_worker(gateway: &Gateway) -> Value {
    server(gateway)["pool"]["calls_per_worker"].clone()
}

/// No worker has more calls than this now.
#[track_caller]
fn expect_at_most(gateway: &Gateway, n_calls_max: u64) {
    let n_calls = super::workers(gateway).iter().filter_map(|worker| worker["in_flight"].as_u64()).max();
    assert!(n_calls <= Some(n_calls_max), "{n_calls:?} calls in one worker\n{}", gateway.framed_log());
}

#[test]
fn a_server_that_works_on_several_calls_at_once_gets_up_to_32() {
    let gateway = pool_of(1, &[], Helper::new());
    assert_eq!(calls_per_worker(&gateway), 1, "before anything is known");

    under_load(&gateway, 40, "lookup", &json!({"ms": 100}), || {
        gateway.wait_until("32 calls per worker", || {
            expect_at_most(&gateway, 32);
            calls_per_worker(&gateway) == 32
        });
        gateway.wait_until("32 calls in the worker", || in_flight(&gateway) == 32);
    });
}

#[test]
fn a_server_that_works_on_one_call_at_a_time_gets_one() {
    let gateway = pool_of(1, &[], Helper::new());

    under_load(&gateway, 8, "serial_lookup", &json!({"ms": 100}), || {
        gateway.wait_until("40 calls", || {
            // One, and one that is risked now and then.
            expect_at_most(&gateway, 2);
            let calls_per_worker = calls_per_worker(&gateway);
            assert!(calls_per_worker == 1, "{calls_per_worker} calls per worker\n{}", gateway.framed_log());
            40 <= gateway.stats()["totals"]["calls"].as_u64().unwrap()
        });
    });
}

#[test]
fn each_server_is_learned_for_itself() {
    let helper = Helper::program().display().to_string();
    let entry = || json!({"command": helper, "min_workers": 1, "max_workers": 1});
    let gateway = super::launch_servers(&json!({"one": entry(), "two": entry()})).start();
    let calls_per_worker = |server: &str| gateway.stats()["servers"][server]["pool"]["calls_per_worker"].as_u64();

    gateway.wait_until("both servers", || gateway.get("/tools/two__echo").status == 200);
    under_load(&gateway, 16, "one__lookup", &json!({"ms": 50}), || {
        gateway.wait_until("several calls per worker", || Some(4) <= calls_per_worker("one"));
    });
    assert_eq!(calls_per_worker("two"), Some(1));
}

#[test]
fn a_server_that_answers_in_no_time_has_its_next_calls_in_the_pipe() {
    let gateway = pool_of(1, &[], Helper::new());

    under_load(&gateway, 16, "echo", &json!({}), || {
        gateway.wait_until("several calls at a time", || Some(1) < calls_per_worker(&gateway).as_u64());
    });
}

#[test]
fn a_number_in_the_settings_is_kept() {
    let gateway = pool_of(1, &[("WORKER_CONCURRENCY", "3")], Helper::new());

    let held: Vec<Sent> = (0..5).map(|_| Sent::call(&gateway, "delay", &json!({"ms": 60000}))).collect();
    gateway.wait_until("3 calls at the worker and 2 that wait", || in_flight(&gateway) == 3 && queued(&gateway) == 2);
    drop(held);
    gateway.wait_until("an idle worker", || in_flight(&gateway) == 0 && queued(&gateway) == 0);
    under_load(&gateway, 12, "lookup", &json!({"ms": 5}), || {
        gateway.wait_until("300 calls", || {
            expect_at_most(&gateway, 3);
            300 <= gateway.stats()["totals"]["calls"].as_u64().unwrap()
        });
    });
    assert_eq!(calls_per_worker(&gateway), 3);
}
