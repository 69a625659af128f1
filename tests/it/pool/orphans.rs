//! What a worker has started ends with it, however it was started.

use rustix::process::Signal;

use super::{pool_of, wait_for_end, wait_for_workers};
use crate::{
    peers,
    support::{Gateway, Helper, Launch, Process, Server, send_signal},
};

/// A shell that has the helper with these flags as its child, and waits for it.
fn wrapped(flags: &str) -> Server {
    let line = format!("exec 3<&0; {} {flags} <&3 & wait", Helper::program().display());
    Server::from(&["sh", "-c", &line][..])
}

#[track_caller]
fn wait_for_processes(gateway: &Gateway, n_processes: usize) {
    gateway.wait_until(&format!("{n_processes} processes"), || gateway.processes().len() == n_processes);
}

/// Restarts the only server, which has so many processes: they end, and it has as many others.
#[track_caller]
fn restart(gateway: &Gateway, server: &str, n_processes: usize) {
    wait_for_processes(gateway, n_processes);
    let before = gateway.processes();
    gateway.post(&format!("/admin/servers/{server}/restart"), "").expect_status(202);
    wait_for_end(gateway, "all that the old workers had started", &before);
    wait_for_processes(gateway, n_processes);
    gateway.call("echo", r#"{"message":"still here"}"#).expect_status(200);
}

/// Stops the gateway in order; nothing is left of it.
#[track_caller]
fn stop(mut gateway: Gateway) {
    let before = gateway.processes();
    assert!(!before.is_empty());
    assert_eq!(gateway.stop().code(), Some(0), "{}", gateway.log());
    let left: Vec<&Process> = before.iter().filter(|process| process.is_alive()).collect();
    assert!(left.is_empty(), "{left:?}\n{}", gateway.log());
}

/// The daemons of the workers.
fn sleeps(gateway: &Gateway) -> Vec<Process> {
    let all = gateway.processes().into_iter();
    all.filter(|process| process.name == "sleep" && process.state != 'Z').collect()
}

#[track_caller]
fn wait_for_sleeps(gateway: &Gateway, n_sleeps: usize) -> Vec<Process> {
    gateway.wait_until(&format!("{n_sleeps} daemons"), || sleeps(gateway).len() == n_sleeps);
    sleeps(gateway)
}

#[test]
fn a_server_behind_a_shell_leaves_nothing() {
    let gateway = pool_of(2, &[("STOP_GRACE", "1")], wrapped(""));
    restart(&gateway, "sh", 4);
    stop(gateway);
}

#[test]
fn a_server_behind_a_shell_that_does_not_want_to_end_leaves_nothing() {
    let gateway = pool_of(1, &[("STOP_GRACE", "0.2")], wrapped("--ignore-eof --ignore-term"));
    restart(&gateway, "sh", 2);
    stop(gateway);
}

#[test]
fn a_killed_shell_takes_its_server_along() {
    let gateway = pool_of(1, &[("STOP_GRACE", "0.2")], wrapped("--ignore-eof --ignore-term"));
    let before = gateway.processes();

    send_signal(gateway.worker_pids()[0], Signal::KILL);
    wait_for_end(&gateway, "the shell and its server", &before);
    wait_for_workers(&gateway, 1);
    gateway.call("echo", "{}").expect_status(200);
}

#[test]
fn a_daemon_ends_with_its_worker_and_with_no_other() {
    let gateway = pool_of(2, &[("STOP_GRACE", "0.5")], Helper::with(&["--daemon"]));
    let before = wait_for_sleeps(&gateway, 2);
    gateway.post("/admin/workers/helper-1/restart", "").expect_status(202);
    gateway.wait_until("the end of one daemon", || before.iter().filter(|it| it.is_alive()).count() == 1);
    wait_for_sleeps(&gateway, 2);
    let left = before.iter().filter(|process| process.is_alive()).count();
    assert_eq!(left, 1, "the other worker keeps its own");

    restart(&gateway, "helper", 4);
    stop(gateway);
}

#[test]
fn a_daemon_ends_with_a_worker_that_is_killed() {
    let gateway = pool_of(1, &[("STOP_GRACE", "0.2")], Helper::with(&["--daemon"]));
    let before = wait_for_sleeps(&gateway, 1);

    send_signal(gateway.worker_pids()[0], Signal::KILL);
    wait_for_end(&gateway, "the daemon", &before);
    wait_for_workers(&gateway, 1);
    wait_for_sleeps(&gateway, 1);
    gateway.call("echo", "{}").expect_status(200);
}

#[test]
fn a_daemon_ends_with_a_worker_that_never_comes_up() {
    let settings = [
        ("MIN_WORKERS", "1"),
        ("MAX_WORKERS", "1"),
        ("MCP_REQUEST_TIMEOUT", "1"),
        ("STOP_GRACE", "0.2"),
        ("BREAKER_FAILURES", "1"),
        ("BREAKER_COOLDOWN", "60"),
    ];
    let helper = Helper::with(&["--daemon", "--never-initialize"]);
    let gateway = Launch::new(helper).set_all(&settings).start_without_waiting();
    let daemons = wait_for_sleeps(&gateway, 1);
    wait_for_end(&gateway, "the daemon", &daemons);
    gateway.wait_until("the end of its worker", || gateway.processes().is_empty());
}

#[test]
fn a_daemon_that_ends_by_itself_leaves_no_zombie() {
    let gateway = pool_of(1, &[], Helper::with(&["--daemon"]));
    let daemon = wait_for_sleeps(&gateway, 1)[0].clone();

    send_signal(daemon.pid, Signal::KILL);
    wait_for_end(&gateway, "the daemon", std::slice::from_ref(&daemon));
    // At the latest when the gateway next looks, which a death makes it do.
    gateway.call("crash", "{}").expect_status(502);
    gateway.wait_until("no zombie", || gateway.processes().iter().all(|process| process.state != 'Z'));
}

#[test]
fn a_daemon_and_a_grandchild_end_together() {
    let gateway = pool_of(1, &[("STOP_GRACE", "0.2")], Helper::with(&["--spawn-grandchild", "--daemon"]));
    wait_for_sleeps(&gateway, 2);
    restart(&gateway, "helper", 3);
    stop(gateway);
}

#[test]
fn a_server_started_through_npx_leaves_nothing() {
    let Some(program) = peers::tool("node/node_modules/.bin/mcp-server-everything") else { return };
    let (folder, _) = program.split_once("/node_modules/").unwrap();
    let words = ["npx", "--prefix", folder, "--no", "mcp-server-everything"];
    let gateway = pool_of(1, &[], Server::from(&words[..]));
    let n_processes = gateway.processes().len();
    assert!(1 < n_processes, "npx starts another: {:?}", gateway.processes());
    restart(&gateway, "npx", n_processes);
    stop(gateway);
}
