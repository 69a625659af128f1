//! Workers that die, and gateways that end: callers are told, and no process is left.

use std::{
    thread,
    time::{Duration, Instant},
};

use rustix::process::Signal;

use crate::support::{Connection, Gateway, Helper, KEY, Process, Server, holds_within, send_signal};

#[test]
fn a_worker_that_dies_is_named_with_its_exit_code_and_last_words() {
    let gateway = Gateway::start(&[("MIN_WORKERS", "1"), ("MAX_WORKERS", "1")], Helper::new());

    let reply = gateway.call("crash", r#"{"code":3,"stderr":"first\nout of cheese"}"#);
    reply.expect_error(502, "worker_crashed", "exited with code 3");
    reply.expect_error(502, "worker_crashed", "out of cheese");
    assert_eq!(reply.json()["error"]["stderr"], serde_json::json!(["first", "out of cheese"]));
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
    // No more than these two, or further ones would take all that comes.
    let settings = [("MIN_WORKERS", "2"), ("MAX_WORKERS", "2"), ("STOP_GRACE", "0.2"), ("WORKER_CONCURRENCY", "16")];
    let gateway = Gateway::start(&settings, Helper::new());

    // It reads nothing while it works, and the lines of the next calls are more than its pipe holds.
    let mut deaf = gateway.connect();
    deaf.send("POST", "/tools/serial_delay", &[("X-API-Key", KEY)], br#"{"arguments":{"ms":60000}}"#).unwrap();
    gateway.wait_for_a_call_at_work();
    let text = "x".repeat(200_000);
    // None is answered before all have been sent, so that the other worker cannot take them one after the other.
    let body = format!(r#"{{"arguments":{{"ms":500,"value":"{text}"}},"timeout":2}}"#);
    let reply = || gateway.post("/tools/delay", &body);
    let statuses: Vec<u16> = thread::scope(|scope| {
        let callers: Vec<_> = (0..16).map(|_| scope.spawn(|| reply().status)).collect();
        callers.into_iter().map(|caller| caller.join().unwrap()).collect()
    });
    let count = |status| statuses.iter().filter(|it| **it == status).count();
    assert!(0 < count(200) && 0 < count(504) && count(200) + count(504) == 16, "{statuses:?}");
    gateway.wait_until("a small call at the other worker", || {
        gateway.post("/tools/echo", r#"{"arguments":{},"timeout":0.5}"#).status == 200
    });
}

#[test]
fn a_refreshed_list_of_tools_frees_no_places() {
    let settings = [("MIN_WORKERS", "1"), ("MAX_WORKERS", "1"), ("WORKER_CONCURRENCY", "2")];
    let gateway = Gateway::start(&settings, Helper::new());
    let worker = || gateway.stats()["servers"]["helper"]["workers"][0]["in_flight"].clone();

    let mut waiting = vec![hold_a_place(&gateway)];
    gateway.wait_until("the first call at the worker", || worker() == 1);
    for round in 0..5 {
        let name = format!("round_{round}");
        gateway.call("set_tools", &format!(r#"{{"names":["{name}","delay","set_tools","echo"]}}"#)).expect_status(200);
        gateway.wait_until("the new list", || gateway.get(&format!("/tools/{name}")).status == 200);
    }
    waiting.extend((0..3).map(|_| hold_a_place(&gateway)));
    gateway.wait_until("two calls at the worker and two that wait", || {
        worker() == 2 && gateway.stats()["servers"]["helper"]["pool"]["queued"] == 2
    });
}

fn hold_a_place(gateway: &Gateway) -> Connection {
    let mut connection = gateway.connect();
    let body = br#"{"arguments":{"ms":60000}}"#;
    connection.send("POST", "/tools/delay", &[("X-API-Key", KEY)], body).unwrap();
    connection
}

#[test]
fn a_death_is_noticed_even_when_a_grandchild_holds_the_pipes() {
    let helper = Helper::with(&["--spawn-grandchild"]);
    let gateway = Gateway::start(&[("MIN_WORKERS", "1")], helper);

    gateway.call("crash", r#"{"code":5}"#).expect_error(502, "worker_crashed", "exited with code 5");
    gateway.wait_until("its successor", || gateway.call("echo", "{}").status == 200);
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
    let folder = crate::support::Folder::new();
    let keys = folder.file("keys.json", r#"{"keys":[]}"#).display().to_string();
    let settings = [("COLOUR", "green"), ("API_KEY", KEY), ("API_KEYS_FILE", &keys)];
    let gateway = Gateway::start(&settings, Helper::new());

    let environment = gateway.call("env", "{}").data();
    assert_eq!(environment["COLOUR"], "green");
    assert!(environment["API_KEY"].is_null() && environment["API_KEYS_FILE"].is_null(), "{environment}");
    assert!(!environment.to_string().contains(KEY), "{environment}");
}

#[test]
fn sigterm_under_load_answers_the_calls_in_flight_and_ends_with_0() {
    let mut gateway = Gateway::start(&[("MIN_WORKERS", "2"), ("WORKER_CONCURRENCY", "32")], Helper::new());

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
