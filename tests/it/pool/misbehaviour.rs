//! Servers that do what they should not: whoever asked is told, the log says so, and nobody else is affected.
//!
//! Small cases stand in `errors.rs` and `workers.rs`; here is what they do to others, and what is large.

use std::{fs, time::Duration};

use serde_json::json;

use super::{QUICK_PINGS, Sent, has_last_error, launch_servers, pool_of, workers};
use crate::support::{Gateway, Helper, KEY};

/// Somebody else's call is answered, soon.
#[track_caller]
fn expect_unaffected(gateway: &Gateway) {
    gateway.post("/tools/echo", r#"{"arguments":{"a":1},"timeout":5}"#).expect_data(&json!({"a": 1}));
}

/// The most memory that a process has ever had.
fn peak_rss_bytes(pid: u32) -> usize {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("the process runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a line `VmHWM:`");
    let kilobytes: usize = line.split_ascii_whitespace().next().and_then(|it| it.parse().ok()).expect("a number");
    kilobytes * 1024
}

/// How long a busy machine may take for 100 MB.
const LONG: Duration = Duration::from_secs(55);

/// Bytes that the gateway must not keep.
const MEMORY_BYTES_MAX: usize = 64 << 20;

#[test]
fn a_hundred_megabytes_on_stderr() {
    let gateway = pool_of(2, &[], Helper::new());

    let flood = Sent::call(&gateway, "flood_stderr", &json!({"bytes": 100_000_000}));
    for _ in 0..20 {
        expect_unaffected(&gateway);
    }
    flood.reply_within(LONG).expect_status(200);
    let (log_bytes, memory_bytes) = (gateway.log().len(), peak_rss_bytes(gateway.pid()));
    assert!(log_bytes < 1_000_000, "{log_bytes} bytes of log");
    assert!(memory_bytes < MEMORY_BYTES_MAX, "{memory_bytes} bytes of memory");
    gateway.wait_until("the log to say what it left out", || gateway.log().contains("left out"));
}

#[test]
fn a_line_of_a_hundred_megabytes() {
    let gateway = pool_of(2, &[], Helper::new());
    let pids = gateway.worker_pids();

    let big = Sent::call(&gateway, "big", &json!({"bytes": 100_000_000}));
    for _ in 0..20 {
        expect_unaffected(&gateway);
    }
    big.reply_within(LONG).expect_error(502, "worker_error", "longer than 16777216 bytes");
    let memory_bytes = peak_rss_bytes(gateway.pid());
    assert!(memory_bytes < MEMORY_BYTES_MAX, "{memory_bytes} bytes of memory");
    assert_eq!(gateway.worker_pids(), pids);
    assert!(gateway.log().contains("a line of more than"), "{}", gateway.log());
}

#[test]
fn half_a_line_and_silence() {
    let gateway = pool_of(2, &QUICK_PINGS, Helper::new());
    let half = Sent::call_as(&gateway, KEY, "half_line", &json!({"timeout": 0.3}));
    for _ in 0..5 {
        expect_unaffected(&gateway);
    }
    half.reply().expect_error(504, "timeout", "`half_line`");
    // It reads nothing more either.
    gateway.wait_until("its end", || has_last_error(&gateway, "timed out"));
    super::wait_for_workers(&gateway, 2);
    expect_unaffected(&gateway);
}

#[test]
fn lines_that_are_no_messages_and_answers_that_nobody_waits_for_are_in_the_log() {
    let gateway = pool_of(1, &[], Helper::new());
    let pids = gateway.worker_pids();

    for (tool, texts) in [
        ("garbage", &["helper-1", "not JSON-RPC", "Loading modules..."][..]),
        ("unknown_id", &["helper-1", "987654321", "never asked"]),
        ("twice", &["helper-1 answered"]),
    ] {
        let before = gateway.log().len();
        gateway.call(tool, "{}").expect_status(200);
        gateway.wait_until(&format!("a line on `{tool}` in the log"), || {
            let log = gateway.log();
            log[before..].lines().any(|line| texts.iter().all(|text| line.contains(text)))
        });
        expect_unaffected(&gateway);
    }
    assert_eq!(gateway.worker_pids(), pids);
}

#[test]
fn an_answer_that_comes_twice_ends_no_other_call() {
    let gateway = pool_of(1, &[("WORKER_CONCURRENCY", "8")], Helper::new());

    let other = Sent::call(&gateway, "delay", &json!({"ms": 500, "value": "its own"}));
    for _ in 0..20 {
        gateway.call("twice", "{}").expect_data(&json!("first"));
        gateway.call("unknown_id", "{}").expect_data(&json!("done"));
    }
    other.reply().expect_data(&json!("its own"));
}

#[test]
fn a_worker_that_closes_stdout_in_a_call_and_lives_on_is_ended() {
    let settings = [("STOP_GRACE", "0.2")];
    let gateway = pool_of(2, &settings, Helper::with(&["--ignore-eof", "--ignore-term"]));
    let before = gateway.processes();

    gateway.call("close_stdout", "{}").expect_error(502, "worker_crashed", "stdout");
    expect_unaffected(&gateway);
    gateway.wait_until("its end", || before.iter().filter(|process| process.is_alive()).count() == 1);
    super::wait_for_workers(&gateway, 2);
    assert!(workers(&gateway).iter().any(|it| it["restarts"] == 1), "{:#?}", workers(&gateway));
}

#[test]
fn a_server_that_closes_stdout_or_never_answers_initialize_is_named_beside_one_that_works() {
    for (flag, text) in [("--close-stdout-at-start", "stdout"), ("--never-initialize", "`initialize`")] {
        let helper = Helper::program().display().to_string();
        let servers = json!({"good": {"command": helper}, "bad": {"command": helper, "args": [flag]}});
        let settings = [("MCP_REQUEST_TIMEOUT", "0.3"), ("STOP_GRACE", "0.2"), ("BREAKER_COOLDOWN", "60")];
        let gateway = launch_servers(&servers).set_all(&settings).start();

        gateway.wait_until(&format!("the reason of {flag}"), || {
            let health = gateway.get("/health").json();
            let reason = health["servers"]["bad"]["reason"].as_str().unwrap_or_default().to_owned();
            health["status"] == "degraded" && reason.contains(text)
        });
        gateway.call("good__echo", r#"{"a":1}"#).expect_data(&json!({"a": 1}));
        gateway.wait_until("the open breaker", || gateway.stats()["servers"]["bad"]["breaker"]["state"] == "open");
        gateway.post("/servers/bad/tools/echo", "{}").expect_error(503, "breaker_open", text);
        gateway.call("good__echo", r#"{"a":1}"#).expect_data(&json!({"a": 1}));
    }
}
