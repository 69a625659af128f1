//! Sessions with a worker of their own, one after another: each gets a fresh one, and none is left.
//!
//! The client waits for each answer, but not for a session's end; so some are still ending while the next start, up to
//! `SESSION_WORKERS_MAX` at a time. At that limit the gateway refuses (503 `overloaded`), and the client tries again.

use std::{
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::{
    client::{Call, Client},
    figures::{Figures, log_end, print_head, print_row},
    numbers::{Turn, soak_sessions},
    support::{Gateway, Helper, Launch, PATIENCE, Server, holds_within},
};

/// Every so many sessions a row is printed, in ten rows.
const ROWS: u64 = 10;

/// Every so many sessions one makes a second call, which must meet the same worker.
const SECOND_CALL_EVERY: u64 = 10;

/// As in the settings.
const IDLE_TIMEOUT: Duration = Duration::from_millis(50);

/// How often the client tries again at the limit.
const RETRY: Duration = Duration::from_millis(5);

#[test]
fn sessions_end_with_their_workers_and_leave_nothing() {
    let Some(_turn) = Turn::of("sessions") else { return };
    let program = serde_json::to_string(&Helper::program().display().to_string()).unwrap();
    let servers = format!(
        r#"{{"mcpServers":{{"helper":{{"command":{program},"args":[],"isolation":"session","min_workers":1,"max_workers":1}}}}}}"#
    );
    let settings = [
        ("MCP_SERVERS", "servers.json"),
        ("SESSION_IDLE_TIMEOUT", "0.05"),
        ("SESSION_WORKERS_MAX", "32"),
        ("STOP_GRACE", "1"),
    ];
    let gateway = Launch::new(Server::FromSettings).file("servers.json", &servers).set_all(&settings).start();
    gateway.call("echo", "{}").expect_status(200);
    let before = Figures::when_idle(&gateway);

    let sessions = soak_sessions();
    let started_at = Instant::now();
    let refused = run(&gateway, sessions, &before);
    let elapsed = started_at.elapsed();
    let is_back = holds_within(PATIENCE, || {
        let now = Figures::of(&gateway);
        now.holds_no_more_than(&before) && n_workers(&gateway) == 1
    });
    let after = Figures::when_idle(&gateway);
    print_row("idle again", None, &after);
    let per_second = sessions as f64 / elapsed.as_secs_f64();
    println!(
        "{sessions} sessions in {:.1} s, {per_second:.0} a second; {refused} tries were refused at the limit",
        elapsed.as_secs_f64()
    );

    let log = || log_end(&gateway);
    assert!(is_back, "before: {before:?}\nidle again: {after:?}\n{}", log());
    assert_eq!(after.processes, before.processes, "the common worker is the same, and the only one\n{}", log());
    assert_eq!(after.zombies, 0, "{}", log());
    let isolated = gateway.stats()["servers"]["helper"]["pool"]["isolated_workers"].take();
    assert_eq!(isolated, 0, "{}", log());
}

/// Starts all sessions in sequence; gives how many tries were refused at the limit.
#[track_caller]
fn run(gateway: &Gateway, sessions: u64, before: &Figures) -> u64 {
    let mut client = Client::new(gateway.address());
    let mut refused = 0;
    let (mut printed, mut printed_at) = (0, Instant::now());
    print_head("sessions");
    print_row("idle", None, before);
    for number in 1..=sessions {
        let session = format!("session-{number}");
        let n_calls = if number % SECOND_CALL_EVERY == 0 { 2 } else { 1 };
        let mut last_at = Instant::now();
        for nth in 1..=n_calls {
            let (calls, tries) = calls_of(gateway, &mut client, &session, nth);
            // On a machine that is held up, the session may have ended before its second call.
            let is_new_again = calls == 1 && IDLE_TIMEOUT / 2 < last_at.elapsed();
            assert!(
                calls == nth || is_new_again,
                "the worker of {session} has had {calls} calls after {nth}\n{}",
                log_end(gateway)
            );
            refused += tries - 1;
            last_at = Instant::now();
        }
        if number % (sessions / ROWS).max(1) == 0 {
            let per_second = (number - printed) as f64 / printed_at.elapsed().as_secs_f64();
            print_row(&number.to_string(), Some(per_second), &Figures::of(gateway));
            (printed, printed_at) = (number, Instant::now());
        }
    }
    refused
}

/// Asks a session's worker how many calls it has had, this one included; and how many tries that took.
#[track_caller]
fn calls_of(gateway: &Gateway, client: &mut Client, session: &str, nth: u64) -> (u64, u64) {
    let deadline = Instant::now() + PATIENCE;
    for tries in 1.. {
        let id = format!("{session}.{nth}.{tries}");
        let call = Call { path: "counts", id: &id, body: r#"{"arguments":{}}"#, session: Some(session) };
        let got = client.call(&call).unwrap_or_else(|cause| panic!("{id}: {cause}\n{}", log_end(gateway)));
        let is_at_limit = got.status == 503 && got.has(r#""code":"overloaded""#);
        if !is_at_limit || deadline < Instant::now() {
            assert_eq!(got.status, 200, "{id}: {}\n{}", got.text(), log_end(gateway));
            let body: Value = serde_json::from_slice(got.body).unwrap();
            return (body["data"]["calls"].as_u64().unwrap_or_default(), tries);
        }
        thread::sleep(RETRY);
    }
    unreachable!("tried until it was answered or too late")
}

fn n_workers(gateway: &Gateway) -> usize {
    gateway.stats()["servers"]["helper"]["workers"].as_array().map_or(0, Vec::len)
}
