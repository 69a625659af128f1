//! Servers of either era behind plain HTTP: which one a server speaks is found out, once, and costs it nothing.
//!
//! That a server of both eras gets a second group of workers is seen through `/mcp`, and in the tests of the library.

use std::{collections::BTreeMap, fs};

use rustix::process::Signal;
use serde_json::{Value, json};

use super::{launch_servers, pool_of, server, wait_for_workers, workers};
use crate::{
    sse::client::{EventStream, names},
    support::{Folder, Gateway, Helper, Launch, send_signal},
};

const MODERN_ONLY: [&str; 2] = ["--era", "modern"];

/// Where helpers write down what they are asked.
struct Diary(Folder);

impl Diary {
    fn new() -> Diary {
        Diary(Folder::new())
    }

    /// A gateway before a helper with these flags that keeps the diary, and this in its entry.
    fn launch(&self, flags: &[&str], era: &str) -> Launch {
        let path = self.0.path().join("diary").display().to_string();
        let args = [flags, &["--diary", &path]].concat();
        let program = Helper::program().display().to_string();
        let entry = json!({"command": program, "args": args, "era": era, "min_workers": 1, "max_workers": 1});
        launch_servers(&json!({ "helper": entry }))
    }

    /// What each process was asked, in order.
    fn by_process(&self) -> Vec<Vec<String>> {
        let text = fs::read_to_string(self.0.path().join("diary")).unwrap_or_default();
        let mut methods: BTreeMap<usize, Vec<String>> = BTreeMap::new();
        let mut pids = Vec::new();
        for (pid, method) in text.lines().filter_map(|line| line.split_once(' ')) {
            let index = pids.iter().position(|it| *it == pid).unwrap_or_else(|| {
                pids.push(pid);
                pids.len() - 1
            });
            methods.entry(index).or_default().push(method.to_owned());
        }
        methods.into_values().collect()
    }
}

/// No worker was lost, as `/stats` has it.
#[track_caller]
fn expect_no_death(gateway: &Gateway) {
    let server = server(gateway);
    assert_eq!(
        (&server["breaker"]["failures"], &server["breaker"]["state"]),
        (&json!(0), &json!("closed")),
        "{server:#}"
    );
    for worker in server["workers"].as_array().unwrap() {
        assert_eq!((&worker["restarts"], &worker["last_error"]), (&json!(0), &Value::Null), "{worker:#}");
    }
}

#[test]
fn a_modern_server_is_recognised_by_its_refusal_and_none_of_its_workers_counts_as_dead() {
    let gateway = pool_of(4, &[("BREAKER_FAILURES", "1")], Helper::with(&MODERN_ONLY));
    gateway.call("echo", r#"{"a":[1.10]}"#).expect_raw("data", r#"{"a":[1.10]}"#);
    for worker in workers(&gateway) {
        assert_eq!((&worker["era"], &worker["protocol"]), (&json!("modern"), &json!("2026-07-28")), "{worker:#}");
        assert_eq!(worker["server_info"]["name"], "helper");
    }
    expect_no_death(&gateway);
    let log = gateway.log();
    assert_eq!(log.matches("is spoken to as MCP 2026-07-28 has it").count(), 1, "{log}");
}

#[test]
fn a_modern_server_is_asked_in_its_own_words_from_its_second_process_on() {
    let diary = Diary::new();
    let gateway = diary.launch(&MODERN_ONLY, "auto").start();
    let pid = gateway.worker_pids()[0];
    send_signal(pid, Signal::KILL);
    gateway.wait_until("another worker", || gateway.worker_pids().iter().any(|it| *it != pid));
    wait_for_workers(&gateway, 1);
    // A refused `initialize` is no entry of the diary.
    let by_process = diary.by_process();
    let begin = ["server/discover", "subscriptions/listen", "tools/list"].map(str::to_owned);
    assert!(by_process.len() == 2 && by_process.iter().all(|it| it.starts_with(&begin)), "{by_process:?}");
    let refusals =
        gateway.log().lines().filter(|line| line.contains("was stopped") && line.contains("`initialize`")).count();
    assert_eq!(refusals, 1, "{}", gateway.log());
    assert_eq!(workers(&gateway)[0]["restarts"], 1);
}

#[test]
fn everything_that_plain_http_offers_works_with_a_modern_server() {
    let gateway = pool_of(1, &[], Helper::with(&MODERN_ONLY));
    gateway.get("/resources").expect(gateway.get("/resources").json()["count"] != 0, "resources");
    gateway.get("/resources/read?uri=helper://item/7").expect_data(&json!("item 7"));
    let prompt = gateway.post("/prompts/greeting", r#"{"arguments":{"name":"you"}}"#);
    prompt.expect(prompt.text().contains("Hello, you!"), "a greeting");
    gateway.call("rpc_error", r#"{"code":-32099}"#).expect_error(502, "worker_error", "no such luck");

    let events = EventStream::open(&gateway, "progress", r#"{"n":2}"#).rest();
    assert_eq!(names(&events), ["progress", "progress", "result", "done"]);
    let events = EventStream::open(&gateway, "log", r#"{"level":"info"}"#).rest();
    assert_eq!(names(&events), ["log", "result", "done"]);
}

#[test]
fn a_change_of_a_modern_servers_tools_is_heard() {
    let gateway = pool_of(1, &[], Helper::with(&MODERN_ONLY));
    gateway.call("set_tools", r#"{"names":["echo","fresh"]}"#).expect_status(200);
    gateway.wait_until("the new list", || gateway.get("/tools").json()["count"] == 2);
    gateway.call("fresh", r#"{"a":1}"#).expect_data(&json!({"a": 1}));
}

#[test]
fn a_modern_server_is_pinged_with_what_it_knows() {
    let settings = [("HEALTH_INTERVAL", "0.05"), ("HEALTH_TIMEOUT", "0.5"), ("MCP_REQUEST_TIMEOUT", "0.3")];
    let gateway = pool_of(1, &settings, Helper::with(&MODERN_ONLY));
    let pids = gateway.worker_pids();
    gateway
        .wait_until("ten pings", || gateway.counts()["methods"]["server/discover"].as_u64().is_some_and(|n| 10 <= n));
    // The ping behind the cancellation lets it have the next call.
    gateway.call("silent", "{}").expect_error(504, "timeout", "silent");
    gateway.call("echo", "{}").expect_status(200);
    assert!(gateway.counts()["methods"]["ping"].is_null(), "{}", gateway.counts());
    assert_eq!(gateway.worker_pids(), pids);
    assert!(workers(&gateway)[0]["last_ping_ms"].is_number());
}

#[test]
fn workers_are_never_asked_what_some_servers_exit_at_or_never_answer() {
    for flag in ["--exit-on-discover", "--silent-on-discover"] {
        let diary = Diary::new();
        let gateway = diary.launch(&[flag], "auto").start();
        gateway.call("echo", "{}").expect_status(200);
        let by_process = diary.by_process();
        assert!(by_process.len() == 1 && !by_process[0].contains(&"server/discover".to_owned()), "{by_process:?}");
        assert_eq!(workers(&gateway)[0]["era"], "legacy");
        expect_no_death(&gateway);
    }
}

#[test]
fn a_server_of_both_eras_is_spoken_to_in_the_legacy_one() {
    let gateway = pool_of(1, &[], Helper::with(&["--era", "both"]));
    gateway.call("echo", "{}").expect_status(200);
    assert_eq!(workers(&gateway)[0]["era"], "legacy");
    gateway.wait_until("one process", || gateway.processes().len() == 1);
}

#[test]
fn an_entry_decides_the_era_and_then_nothing_is_found_out() {
    let diary = Diary::new();
    let gateway = diary.launch(&["--era", "both"], "modern").start();
    gateway.call("echo", r#"{"a":1}"#).expect_data(&json!({"a": 1}));
    assert_eq!(workers(&gateway)[0]["era"], "modern");
    assert_eq!((diary.by_process().len(), diary.by_process()[0][0].as_str()), (1, "server/discover"));
}

#[test]
fn a_server_that_does_not_speak_what_its_entry_says_is_given_up_with_its_refusal() {
    for (speaks, era, refusal) in
        [("modern", "legacy", "`initialize` failed"), ("legacy", "modern", "`server/discover` failed")]
    {
        let diary = Diary::new();
        let gateway = diary.launch(&["--era", speaks], era).set("BREAKER_FAILURES", "2").start_without_waiting();
        gateway.wait_until("an open breaker", || server(&gateway)["breaker"]["state"] == "open");
        gateway.call("echo", "{}").expect_error(503, "breaker_open", refusal);
        let other = if era == "legacy" { "server/discover" } else { "initialize" };
        assert!(diary.by_process().iter().flatten().all(|method| method != other), "{:?}", diary.by_process());
    }
}
