//! Settings that cannot work: one line of what, which value, and what to do; exit code 2, or 1 for a port that is taken.

use std::{fs, net::TcpListener};

use rustix::process::Signal;
use serde_json::json;

use crate::support::{Gateway, Helper, Launch, Server};

/// A gateway before the helper with this setting ends at once, with `code`, and says `texts`.
#[track_caller]
fn check_setting(key: &str, value: &str, code: i32, texts: &[&str]) {
    Launch::new(Helper::new()).set(key, value).run().expect(code, texts);
}

#[test]
fn a_bad_value_is_named_with_what_was_expected() {
    check_setting("MCP_REQUEST_TIMEOUT", "30s", 2, &["MCP_REQUEST_TIMEOUT", "30s", "hint: "]);
    check_setting("MAX_WORKERS", "many", 2, &["MAX_WORKERS", "many"]);
    check_setting("LISTEN", "nowhere", 2, &["LISTEN", "nowhere"]);
    check_setting("LOG_LEVEL", "LOUD", 2, &["LOG_LEVEL", "LOUD"]);
    check_setting("BODY_BYTES_MAX", "4 bananas", 2, &["BODY_BYTES_MAX", "4 bananas"]);
}

#[test]
fn more_workers_at_least_than_at_most_are_refused() {
    let launch = Launch::new(Helper::new()).set("MIN_WORKERS", "9").set("MAX_WORKERS", "3");
    launch.run().expect(2, &["MIN_WORKERS", "9", "MAX_WORKERS", "3"]);
}

#[test]
fn the_file_is_read_and_its_mistakes_are_named_with_their_line() {
    let launch = Launch::new(Helper::new()).file("gateway.conf", "# a comment\nMIN_WORKERS=1\nMAX_WORKER=2\n");
    launch.run().expect(2, &["gateway.conf line 3", "MAX_WORKER", "`MAX_WORKERS`"]);
    let launch = Launch::new(Helper::new()).file("gateway.conf", "MIN_WORKERS=x\n");
    launch.run().expect(2, &["gateway.conf line 1", "MIN_WORKERS", "`x`"]);

    let gateway = Launch::new(Helper::new()).file("gateway.conf", "MIN_WORKERS=3\nMAX_WORKERS=3\n").start();
    gateway.wait_until("3 workers, as the file says", || gateway.worker_pids().len() == 3);
}

#[test]
fn the_environment_wins_over_the_file() {
    let launch = Launch::new(Helper::new()).file("gateway.conf", "API_KEY=from-the-file\nMIN_WORKERS=1\n");
    let gateway = launch.set("API_KEY", "super-secret").start();

    gateway.get("/tools").expect_status(200);
}

#[test]
fn a_missing_program_is_named() {
    let missing: &[&str] = &["/nowhere/serch"];
    Launch::new(missing).run().expect(2, &["/nowhere/serch", "hint: "]);
    Launch::new(Server::FromSettings)
        .set("MCP_COMMAND", "serch-that-is-not-there")
        .run()
        .expect(2, &["serch-that-is-not-there"]);
}

#[test]
fn a_taken_port_is_named_and_ends_with_1() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    check_setting("LISTEN", &address, 1, &[&address, "hint: "]);
}

#[test]
fn the_key_the_world_knows_stays_on_loopback() {
    check_setting("LISTEN", "0.0.0.0:0", 2, &["super-secret", "0.0.0.0", "hint: "]);
    let gateway = Gateway::start(&[], Helper::new());
    assert!(gateway.log().contains("super-secret"), "a warning is missing:\n{}", gateway.log());
}

#[test]
fn an_empty_key_switches_keys_off_on_loopback_only() {
    Launch::new(Helper::new()).set("API_KEY", "").set("LISTEN", "0.0.0.0:0").run().expect(2, &["API_KEY"]);
    let gateway = Gateway::start(&[("API_KEY", "")], Helper::new());
    gateway.request("GET", "/tools", &[], b"").expect_status(200);
}

#[test]
fn flags_name_host_and_port() {
    let gateway = Launch::new(Helper::new()).unset("LISTEN").arguments(&["--host", "127.0.0.1", "--port", "0"]).start();
    assert!(gateway.address().ip().is_loopback());
    let ended = Launch::new(Server::FromSettings).arguments(&["--no-such-flag"]).run();
    ended.expect(2, &["--no-such-flag"]);
    assert!(ended.stdout.is_empty(), "{}", ended.stdout);
}

#[test]
fn the_second_interrupt_does_not_wait_for_running_calls() {
    let mut gateway = Gateway::start(&[("DRAIN_TIMEOUT", "60")], Helper::new());
    let mut caller = gateway.connect();
    let body = br#"{"arguments":{"ms":60000}}"#;
    caller.send("POST", "/tools/delay", &[("X-API-Key", crate::support::KEY)], body).unwrap();
    gateway.wait_for_a_call_at_work();
    gateway.signal(Signal::INT);
    gateway.wait_until("the first interrupt", || gateway.log().contains("stopping"));
    gateway.signal(Signal::INT);
    assert_eq!(gateway.wait_for_exit().code(), Some(130));
}

#[test]
fn calls_that_outlast_the_drain_are_cut_off_and_the_end_is_orderly() {
    let mut gateway = Gateway::start(&[("DRAIN_TIMEOUT", "0.2")], Helper::new());
    let mut caller = gateway.connect();
    let body = br#"{"arguments":{"ms":60000}}"#;
    caller.send("POST", "/tools/delay", &[("X-API-Key", crate::support::KEY)], body).unwrap();
    gateway.wait_for_a_call_at_work();
    assert_eq!(gateway.stop().code(), Some(0));
    assert!(gateway.log().contains("1 connections were cut off"), "{}", gateway.log());
}

#[test]
fn completions_and_help_are_printed() {
    let run = |arguments: &[&str]| Launch::new(Server::FromSettings).arguments(arguments).run();
    assert!(run(&["completions", "bash"]).stdout.contains("mcpgate"));
    assert!(run(&["--help"]).stdout.contains("MCP_REQUEST_TIMEOUT"));
    run(&["--no-such-flag"]).expect(2, &["--no-such-flag"]);
}

/// How much code a process has, and how much of that is in memory, in kB.
fn code_kb(pid: u32) -> [u64; 2] {
    let smaps = fs::read_to_string(format!("/proc/{pid}/smaps")).unwrap();
    let mappings = smaps.split("VmFlags:").find(|it| it.contains(" r-xp ") && it.contains("/mcpgate\n")).unwrap();
    ["Size:", "Rss:"].map(|name| {
        let value = mappings.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        value.trim().trim_end_matches(" kB").parse().unwrap()
    })
}

#[test]
fn what_only_the_start_has_needed_is_given_back() {
    let gateway = Launch::new(Helper::new()).start();
    // Two thirds at first.
    gateway.wait_until("less code in memory", || {
        let [size, in_memory] = code_kb(gateway.pid());
        in_memory < size / 2
    });
    gateway.call("echo", r#"{"a":1}"#).expect_data(&json!({"a": 1}));
}
