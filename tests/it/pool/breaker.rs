//! A server that dies at every start: callers are told at once and why, little is tried, and it recovers by itself.

use std::{
    fs,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use serde_json::json;

use super::{Sent, kill_all, server, wait_for_workers};
use crate::support::{Folder, Gateway, Helper, KEY, Launch, Reply};

/// A server that dies at every start while it is broken, with `helper: not today` on stderr and code 3.
struct Broken {
    folder: Folder,
}

impl Broken {
    fn new() -> Broken {
        let broken = Broken { folder: Folder::new() };
        broken.break_it();
        broken
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("broken")
    }

    fn break_it(&self) {
        fs::write(self.path(), "").unwrap();
    }

    fn mend(&self) {
        fs::remove_file(self.path()).unwrap();
    }

    fn launch(&self, cooldown: &str, flags: &[&str]) -> Launch {
        let path = self.path().display().to_string();
        let flags = [&["--exit-while-exists", &path], flags].concat();
        Launch::new(Helper::with(&flags)).set("BREAKER_COOLDOWN", cooldown)
    }
}

#[track_caller]
fn wait_for_breaker(gateway: &Gateway, state: &str) {
    gateway.wait_until(&format!("the breaker `{state}`"), || server(gateway)["breaker"]["state"] == state);
}

#[track_caller]
fn expect_breaker_open(reply: &Reply, cooldown: u64) {
    reply.expect_error(503, "breaker_open", "exited with code 3").expect_error(503, "breaker_open", "not today");
    assert_eq!(reply.json()["error"]["stderr"], json!(["helper: not today"]), "{}", reply.text());
    let retry_after: Option<u64> = reply.header("Retry-After").and_then(|it| it.parse().ok());
    let is_sane = retry_after.is_some_and(|seconds| (1..=cooldown).contains(&seconds));
    reply.expect(is_sane, &format!("Retry-After between 1 and {cooldown}, got {retry_after:?}"));
}

#[test]
fn five_deaths_in_a_row_open_the_breaker_and_everybody_is_told_why() {
    let broken = Broken::new();
    let gateway = broken.launch("60", &[]).start_without_waiting();
    wait_for_breaker(&gateway, "open");

    expect_breaker_open(&gateway.call("echo", "{}"), 60);
    for path in ["/health", "/health/ready"] {
        let reply = gateway.get(path);
        reply.expect_status(503).expect(reply.json()["status"] == "unhealthy", "`unhealthy`");
        // Anybody may ask for this.
        reply.expect(!reply.text().contains("not today"), "nothing of the server's stderr");
    }
    let health = gateway.get("/health");
    let reason = health.json()["servers"]["helper"]["reason"].as_str().unwrap_or_default().to_owned();
    health.expect(reason.contains("exited with code 3"), "the reason of `helper`");

    let breaker = server(&gateway)["breaker"].clone();
    assert!(breaker["failures"].as_u64().is_some_and(|it| (5..=8).contains(&it)), "{breaker}");
    assert!(breaker["reason"].as_str().is_some_and(|it| it.contains("exited with code 3")), "{breaker}");
    let lines = breaker["stderr"].as_array().cloned().unwrap_or_default();
    assert_eq!(lines.last(), Some(&json!("helper: not today")), "{breaker}");
    let retry_after = breaker["retry_after_seconds"].as_f64().unwrap_or(-1.0);
    assert!((0.0..=60.0).contains(&retry_after), "{breaker}");
}

#[test]
fn a_breaker_is_closed_as_long_as_nothing_dies() {
    let gateway = Gateway::start(&[], Helper::new());
    gateway.call("echo", "{}").expect_status(200);

    let breaker = server(&gateway)["breaker"].clone();
    assert_eq!(breaker["state"], "closed");
    assert_eq!(breaker["failures"], 0);
    assert!(breaker["reason"].is_null() && breaker["retry_after_seconds"].is_null(), "{breaker}");
    assert_eq!(breaker["stderr"], json!([]));
}

#[test]
fn little_is_tried_while_it_is_open_and_a_mended_server_is_back_by_itself() {
    let broken = Broken::new();
    let gateway = broken.launch("0.5", &[]).start_without_waiting();
    wait_for_breaker(&gateway, "open");

    let before = cpu_ticks(gateway.pid());
    thread::sleep(Duration::from_secs(2));
    let ticks = cpu_ticks(gateway.pid()) - before;
    assert!(ticks <= 20, "{ticks} ticks of CPU within 2 s\n{}", gateway.framed_log());

    broken.mend();
    wait_for_workers(&gateway, 2);
    gateway.call("echo", r#"{"a":1}"#).expect_data(&json!({"a": 1}));
    assert_eq!(server(&gateway)["breaker"]["state"], "closed");
}

/// What a process has used of the CPU, in the kernel and outside, in ticks of 10 ms; its children not counted.
fn cpu_ticks(pid: u32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("the process runs");
    let fields: Vec<&str> = stat.rsplit_once(')').expect("a name").1.split_ascii_whitespace().collect();
    fields[11..13].iter().map(|field| field.parse::<u64>().expect("a number")).sum()
}

#[test]
fn one_worker_at_a_time_finds_out_whether_the_server_is_mended() {
    let broken = Broken::new();
    let settings = [("MIN_WORKERS", "4"), ("BREAKER_FAILURES", "4")];
    let gateway = broken.launch("0.2", &["--start-delay-ms", "100"]).set_all(&settings).start_without_waiting();
    wait_for_breaker(&gateway, "open");
    gateway.wait_until("the end of those that were starting", || gateway.processes().is_empty());

    let (mut probes, mut is_probing) = (0, false);
    gateway.wait_until("three probes", || {
        let processes = gateway.processes();
        assert!(processes.len() <= 1, "{processes:?}");
        probes += u32::from(!is_probing && !processes.is_empty());
        is_probing = !processes.is_empty();
        3 <= probes
    });
    broken.mend();
    wait_for_workers(&gateway, 4);
}

#[test]
fn a_server_that_breaks_after_it_has_worked_is_given_up_and_found_again() {
    let broken = Broken::new();
    broken.mend();
    let gateway = broken.launch("0.5", &[]).start();
    wait_for_workers(&gateway, 2);
    gateway.call("echo", "{}").expect_status(200);

    broken.break_it();
    kill_all(&gateway);
    wait_for_breaker(&gateway, "open");
    // Its tools are still known, but nobody can run them.
    let refused_at = Instant::now();
    expect_breaker_open(&gateway.call("echo", "{}"), 1);
    assert!(refused_at.elapsed() < Duration::from_secs(5), "refused after {:?}", refused_at.elapsed());

    broken.mend();
    wait_for_workers(&gateway, 2);
    gateway.call("echo", "{}").expect_status(200);
    assert_eq!(server(&gateway)["breaker"]["state"], "closed");
}

#[test]
fn calls_that_wait_when_the_breaker_opens_are_told() {
    let broken = Broken::new();
    broken.mend();
    let gateway = broken.launch("60", &[]).set("BREAKER_FAILURES", "3").start();
    wait_for_workers(&gateway, 2);

    broken.break_it();
    kill_all(&gateway);
    let calls: Vec<Sent> = (0..8).map(|_| Sent::call(&gateway, "echo", &json!({}))).collect();
    for call in calls {
        let reply = call.reply();
        let body = reply.json();
        // One may have been on its way to a worker that was just killed, or have come before anything was tried.
        let is_told = ["breaker_open", "no_worker", "worker_crashed"].iter().any(|code| body["error"]["code"] == *code);
        reply.expect(is_told, "an error that says what is wrong");
    }
    wait_for_breaker(&gateway, "open");
    expect_breaker_open(&gateway.call("echo", "{}"), 60);
}

#[test]
fn a_call_that_is_answered_between_deaths_keeps_the_breaker_closed() {
    let gateway =
        Gateway::start(&[("BREAKER_FAILURES", "3"), ("MIN_WORKERS", "1"), ("MAX_WORKERS", "1")], Helper::new());

    for _ in 0..6 {
        gateway.call("crash", "{}").expect_status(502);
        gateway.wait_until("its successor", || gateway.call("echo", "{}").status == 200);
        assert_eq!(server(&gateway)["breaker"]["state"], "closed");
    }
}

#[test]
fn the_other_servers_are_not_affected() {
    let helper = Helper::program().display().to_string();
    let broken = Broken::new();
    let is_broken = |path: &Path| ["--exit-while-exists".to_owned(), path.display().to_string()];
    let servers = json!({
        "good": {"command": helper},
        "bad": {"command": helper, "args": is_broken(&broken.path())},
    });
    let gateway = super::launch_servers(&servers).set("BREAKER_COOLDOWN", "60").start();
    gateway.wait_until("the open breaker", || gateway.stats()["servers"]["bad"]["breaker"]["state"] == "open");

    gateway.call("good__echo", r#"{"a":1}"#).expect_data(&json!({"a": 1}));
    let refused = gateway.request("POST", "/servers/bad/tools/echo", &[("X-API-Key", KEY)], b"{}");
    expect_breaker_open(&refused, 60);
    let health = gateway.get("/health");
    health.expect_status(200).expect(health.json()["status"] == "degraded", "`degraded`");
    assert_eq!(gateway.stats()["servers"]["good"]["breaker"]["state"], "closed");
}
