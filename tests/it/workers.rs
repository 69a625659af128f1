//! Workers that die, and gateways that end: callers are told, and no process is left.

use std::{
    thread,
    time::{Duration, Instant},
};

use rustix::process::Signal;

use crate::support::{Gateway, Helper, Launch, Process, Server, holds_within, send_signal};

#[test]
fn a_worker_that_dies_is_named_with_its_exit_code_and_last_words() {
    let gateway = Gateway::start(&[("MIN_WORKERS", "1"), ("MAX_WORKERS", "1")], Helper::new());

    let reply = gateway.call("crash", r#"{"code":3,"stderr":"first\nout of cheese"}"#);
    reply.expect_error(502, "worker_crashed", "exited with code 3");
    reply.expect_error(502, "worker_crashed", "out of cheese");
    gateway.wait_until("a new worker", || gateway.call("echo", "{}").status == 200);
    let reply = gateway.call("crash", r#"{"signal":11}"#);
    reply.expect_error(502, "worker_crashed", "signal 11");
}

#[test]
fn kill_9_of_a_worker_fails_its_call_only_and_it_is_back_within_a_second() {
    let gateway = Gateway::start(&[("MIN_WORKERS", "2"), ("MAX_WORKERS", "2")], Helper::new());
    gateway.wait_until("2 ready workers", || gateway.usable_workers() == 2);

    thread::scope(|scope| {
        // Least in flight first: one call goes to each worker.
        let calls = [(); 2].map(|()| scope.spawn(|| gateway.call("delay", r#"{"ms":1000,"value":"done"}"#)));
        gateway.wait_until("both workers busy", || gateway.get("/health").json()["workers"]["busy"] == 2);
        let pids = gateway.worker_pids();
        send_signal(pids[0], Signal::KILL);
        let killed_at = Instant::now();
        gateway.wait_until("2 workers again", || {
            let now = gateway.worker_pids();
            now.len() == 2 && !now.contains(&pids[0]) && gateway.usable_workers() == 2
        });
        let elapsed = killed_at.elapsed();
        assert!(elapsed < Duration::from_secs(1), "back after {elapsed:?}");
        let replies = calls.map(|call| call.join().unwrap());
        let (failed, fine): (Vec<_>, Vec<_>) = replies.iter().partition(|reply| reply.status != 200);
        assert_eq!((failed.len(), fine.len()), (1, 1));
        failed[0].expect_error(502, "worker_crashed", "signal 9");
        fine[0].expect_data(&"done".into());
    });
}

#[test]
fn a_worker_that_closes_its_output_is_replaced() {
    let gateway = Gateway::start(&[("MIN_WORKERS", "1"), ("MAX_WORKERS", "1"), ("STOP_GRACE", "0.2")], Helper::new());
    let pids = gateway.worker_pids();

    gateway.call("close_stdout", "{}").expect_error(502, "worker_crashed", "stdout");
    gateway.call("echo", r#"{"a":1}"#).expect_data(&serde_json::json!({"a": 1}));
    assert_ne!(gateway.worker_pids(), pids);
}

#[test]
fn half_an_answer_is_no_answer() {
    let gateway = Gateway::start(&[], Helper::new());

    gateway.post("/tools/half_line", r#"{"timeout":0.2}"#).expect_error(504, "timeout", "`half_line` within 200 ms");
}

#[test]
fn a_worker_that_reads_nothing_holds_nobody_else_up() {
    let settings = [("MIN_WORKERS", "1"), ("MAX_WORKERS", "1"), ("STOP_GRACE", "0.2"), ("MCP_REQUEST_TIMEOUT", "0.5")];
    let gateway = Launch::new(Helper::with(&["--stdin-stall"])).set_all(&settings).start_without_waiting();

    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let reply = gateway.call("echo", &format!(r#"{{"text":"{}"}}"#, "x".repeat(200_000)));
                reply.expect(500 <= reply.status, "an error");
            });
        }
        gateway.get("/health/live").expect_status(200);
    });
}

#[test]
fn stderr_goes_to_the_log_with_the_workers_name_and_a_flood_does_no_harm() {
    let gateway = Gateway::start(&[("MIN_WORKERS", "1"), ("MAX_WORKERS", "1")], Helper::new());

    gateway.call("stderr", r#"{"text":"the cheese is low"}"#).expect_status(200);
    gateway.wait_until("the line in the log", || {
        gateway.log().lines().any(|line| line.contains("helper-1") && line.contains("the cheese is low"))
    });
    gateway.call("flood_stderr", r#"{"bytes":5000000}"#).expect_status(200);
    assert!(gateway.log().len() < 1_000_000, "{} bytes of log", gateway.log().len());
}

#[test]
fn secrets_stay_out_of_the_workers_environment() {
    let gateway = Gateway::start(&[("COLOUR", "green")], Helper::new());

    let environment = gateway.call("env", "{}").data();
    assert_eq!(environment["COLOUR"], "green");
    assert!(!environment.to_string().contains("super-secret"), "{environment}");
    assert!(environment["API_KEY"].is_null(), "{environment}");
}

#[test]
fn sigterm_under_load_answers_the_calls_in_flight_and_ends_with_0() {
    let mut gateway = Gateway::start(&[("MIN_WORKERS", "2")], Helper::new());

    thread::scope(|scope| {
        let gateway = &gateway;
        let calls: Vec<_> =
            (0..16).map(|_| scope.spawn(|| gateway.call("delay", r#"{"ms":500,"value":"done"}"#))).collect();
        gateway.wait_until("16 calls at the workers", || {
            let workers = gateway.stats()["servers"]["helper"]["workers"].as_array().unwrap().clone();
            let total: u64 = workers.iter().filter_map(|worker| worker["in_flight"].as_u64()).sum();
            total == 16
        });
        gateway.signal(Signal::TERM);
        for call in calls {
            call.join().unwrap().expect_data(&"done".into());
        }
    });
    let status = gateway.wait_for_exit();
    assert_eq!(status.code(), Some(0), "{}", gateway.log());
    assert_eq!(gateway.left_behind(), []);
}

#[test]
fn workers_that_ignore_every_request_to_stop_are_killed_with_their_children() {
    let settings = [("STOP_GRACE", "0.2"), ("DRAIN_TIMEOUT", "1")];
    let helper = Helper::with(&["--ignore-eof", "--ignore-term", "--spawn-grandchild"]);
    let mut gateway = Gateway::start(&settings, helper);
    let before = gateway.processes();
    assert!(before.iter().any(|process| process.name == "sleep"), "{before:?}");

    let status = gateway.stop();
    assert_eq!(status.code(), Some(0), "{}", gateway.log());
    assert!(holds_within(Duration::from_secs(2), || gateway.left_behind().is_empty()), "{:?}", gateway.left_behind());
}

#[test]
fn kill_9_of_the_gateway_takes_its_children_along() {
    for server in [Server::from(Helper::with(&["--ignore-eof", "--ignore-term"])), Server::Bundled] {
        let mut gateway = Gateway::start(&[], server);
        let children: Vec<Process> = gateway.processes();
        assert!(!children.is_empty());

        gateway.signal(Signal::KILL);
        gateway.wait_for_exit();
        let is_empty = || children.iter().all(|child| !child.is_alive());
        assert!(holds_within(Duration::from_secs(2), is_empty), "{:?}", gateway.left_behind());
    }
}

#[test]
fn a_dead_worker_leaves_no_zombie() {
    let gateway = Gateway::start(&[("MIN_WORKERS", "1"), ("MAX_WORKERS", "1")], Helper::new());

    gateway.call("crash", "{}").expect_status(502);
    gateway.wait_until("no zombie", || gateway.processes().iter().all(|process| process.state != 'Z'));
}
