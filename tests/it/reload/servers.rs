//! An `mcpServers` file that changes: servers that come, go, and are replaced.

use serde_json::{Value, json};

use super::{
    apply, change, check_complaint, flags, reload, servers, tool_names, wait_for_server, wait_until_left, with_servers,
};
use crate::{
    sse::client::EventStream,
    support::{Gateway, Helper, KEY, Launch, Process, Server},
};

/// The process that serves a tool.
#[track_caller]
fn pid(gateway: &Gateway, tool: &str) -> u32 {
    gateway.call(tool, "{}").data().as_str().unwrap().parse().unwrap()
}

#[track_caller]
fn process(pid: u32) -> Process {
    Process::read(pid).unwrap_or_else(|| panic!("there is no process {pid}"))
}

fn has(gateway: &Gateway, tool: &str) -> bool {
    tool_names(gateway).iter().any(|name| name == tool)
}

#[test]
fn a_server_that_is_added_gives_every_tool_the_name_of_its_server() {
    let gateway = with_servers(&[("a", json!({}))]);
    let first = pid(&gateway, "pid");
    assert!(has(&gateway, "echo") && !has(&gateway, "a__echo"));
    apply(&gateway, "mcp.json", &servers(&[("a", json!({})), ("b", flags(&["--prefix", "b-"]))]));

    assert_eq!(pid(&gateway, "a__pid"), first, "it was not touched");
    gateway.call("b__b-echo", "{}").expect_status(200);
    gateway.call("echo", "{}").expect_error(404, "unknown_tool", "a__echo");
    assert!(has(&gateway, "a__echo") && has(&gateway, "b__b-echo") && !has(&gateway, "echo"));
    let health = gateway.get("/health").json();
    assert_eq!((&health["status"], &health["servers"]["b"]["status"]), (&json!("healthy"), &json!("healthy")));
    assert!(gateway.stats()["tools"]["a__pid"]["calls"] == 2, "its figures go on");
    let shown = gateway.get("/openapi.json").text();
    assert!(shown.contains("/call/b__b-echo") && !shown.contains("\"/call/echo\""));
    assert!(gateway.log().contains("reloaded: servers added b"), "{}", gateway.framed_log());

    // And back.
    apply(&gateway, "mcp.json", &servers(&[("a", json!({}))]));
    assert_eq!(pid(&gateway, "pid"), first);
    gateway.get("/servers/b/tools").expect_status(404);
    wait_until_left(&gateway);
    assert_eq!(gateway.worker_pids(), [first]);
}

#[test]
fn a_server_that_is_removed_ends_what_it_has_begun() {
    let gateway = with_servers(&[("a", json!({})), ("b", json!({}))]);
    let old = process(pid(&gateway, "b__pid"));
    let stream = EventStream::open(&gateway, "b__stream", r#"{"n":2,"gate":"each"}"#);
    let mut waiting = gateway.connect();
    waiting.send("POST", "/tools/b__delay", &[("X-API-Key", KEY)], br#"{"arguments":{"ms":1000}}"#).unwrap();
    gateway.wait_until("two calls there", || gateway.stats()["servers"]["b"]["workers"][0]["in_flight"] == 2);

    let after = apply(&gateway, "mcp.json", &servers(&[("a", json!({}))]));
    assert_eq!(after["leaving"], json!(["b-1"]));
    gateway.call("b__echo", "{}").expect_status(404);
    gateway.call("echo", "{}").expect_status(200);
    assert_eq!(gateway.get("/").json()["servers"], json!(["a"]));
    assert_eq!(waiting.receive(false).unwrap().status, 200);
    assert!(old.is_alive(), "its stream is not over");
    drop(stream);
    gateway.wait_until("the end of its process", || !old.is_alive());
    wait_until_left(&gateway);
}

#[test]
fn a_server_that_is_replaced_has_its_new_workers_ready_before_they_are_called() {
    let gateway = with_servers(&[("a", flags(&["--prefix", "old-"])), ("b", json!({}))]);
    let old = process(pid(&gateway, "a__old-pid"));
    let untouched = pid(&gateway, "b__pid");
    let mut stream = EventStream::open(&gateway, "a__old-stream", r#"{"n":3,"ms":500}"#);
    stream.expect_event("progress");
    let new = flags(&["--prefix", "new-", "--start-delay-ms", "300"]);
    let after = apply(&gateway, "mcp.json", &servers(&[("a", new), ("b", json!({}))]));

    assert_eq!(after["leaving"], json!(["a-1"]));
    assert_ne!(pid(&gateway, "a__new-pid"), old.pid);
    gateway.call("a__old-echo", "{}").expect_status(404);
    assert_eq!(pid(&gateway, "b__pid"), untouched);
    assert_eq!(stream.rest().last().map(|event| event.data.clone()), Some(json!({"status": "complete"})));
    gateway.wait_until("the end of the old process", || !old.is_alive());
    wait_until_left(&gateway);
}

#[test]
fn a_server_whose_new_workers_do_not_get_ready_keeps_the_old_ones() {
    let gateway = with_servers(&[("a", json!({}))]);
    let old = pid(&gateway, "pid");
    let missing = json!({"command": "/nowhere/serch"});
    let b = ("b", json!({}));
    check_complaint(
        &gateway,
        "mcp.json",
        &servers(&[("a", missing), b.clone()]),
        &["server a", "serch", "the old ones stay"],
    );
    assert_eq!(pid(&gateway, "a__pid"), old, "and b came all the same");

    let exits = flags(&["--exit-at-start", "3"]);
    check_complaint(&gateway, "mcp.json", &servers(&[("a", exits), b.clone()]), &["code 3", "the old ones stay"]);
    assert_eq!(pid(&gateway, "a__pid"), old);
    assert_eq!(gateway.get("/health").json()["status"], "healthy");

    change(&gateway, "gateway.conf", "MIN_WORKERS=1\nMAX_WORKERS=1\nMCP_REQUEST_TIMEOUT=0.5\n");
    let silent = flags(&["--never-initialize"]);
    check_complaint(&gateway, "mcp.json", &servers(&[("a", silent), b.clone()]), &["server a", "the old ones stay"]);
    assert_eq!(pid(&gateway, "a__pid"), old);

    apply(&gateway, "mcp.json", &servers(&[("a", flags(&["--instructions", "new"])), b]));
    assert_ne!(pid(&gateway, "a__pid"), old);
    wait_until_left(&gateway);
    assert_eq!(gateway.processes().len(), 2, "{:?}", gateway.processes());
}

#[test]
fn a_new_server_that_does_not_get_ready_comes_in_and_says_why() {
    let gateway = with_servers(&[("a", json!({}))]);
    let wrong = flags(&["--exit-at-start", "3"]);
    check_complaint(&gateway, "mcp.json", &servers(&[("a", json!({})), ("b", wrong)]), &["server b", "code 3"]);
    let health = gateway.get("/health").json();
    assert_eq!((&health["status"], &health["servers"]["b"]["status"]), (&json!("degraded"), &json!("unhealthy")));
    // Nothing is lost with it, so what is right takes its place at once.
    apply(&gateway, "mcp.json", &servers(&[("a", json!({})), ("b", json!({}))]));
    wait_for_server(&gateway, "b");
}

/// The slow one is not waited for: what follows says that it is not wanted.
#[test]
fn a_newer_change_ends_the_wait_for_a_server_that_does_not_get_ready() {
    let gateway = with_servers(&[("a", json!({}))]);
    let never = flags(&["--never-initialize"]);
    gateway.folder().replace("mcp.json", &servers(&[("a", never)]));
    gateway.wait_until("the new worker", || gateway.processes().len() == 2);
    gateway.folder().replace("mcp.json", &servers(&[("a", flags(&["--prefix", "x-"]))]));
    gateway.wait_until("the newest", || has(&gateway, "x-echo"));
    wait_until_left(&gateway);
    gateway.wait_until("one process", || gateway.processes().len() == 1);
}

#[test]
fn a_wrong_file_is_refused_whole() {
    let gateway = with_servers(&[("a", json!({}))]);
    let old = pid(&gateway, "pid");
    let wrong: [(String, &[&str]); 4] = [
        ("{\"mcpServers\": {\"a\": {},}}".to_owned(), &["mcp.json", "line 1"]),
        (servers(&[("a", json!({"isolation": "none"})), ("b", json!({}))]), &["`isolation`", "`none`"]),
        (servers(&[("b", json!({})), ("a b", json!({}))]), &["`a b`", "a name"]),
        (servers(&[("a", json!({"command": "/nowhere/serch"}))]), &["/nowhere/serch", "cannot start"]),
    ];
    for (text, what) in wrong {
        check_complaint(&gateway, "mcp.json", &text, what);
        assert_eq!(pid(&gateway, "pid"), old, "{text}");
    }
    assert_eq!((reload(&gateway)["total"].clone(), gateway.processes().len()), (json!(0), 1));
}

#[test]
fn a_server_gets_other_numbers_of_workers_without_new_ones() {
    let gateway = with_servers(&[("a", json!({}))]);
    let old = pid(&gateway, "pid");
    apply(&gateway, "mcp.json", &servers(&[("a", json!({"min_workers": 3, "max_workers": 3}))]));
    gateway.wait_until("3 workers", || gateway.usable_workers() == 3);
    assert!(gateway.worker_pids().contains(&old));
    assert!(gateway.log().contains("reloaded: servers resized a"), "{}", gateway.framed_log());
}

#[test]
fn another_command_in_gateway_conf_is_another_server() {
    let command =
        |flag: &str| format!("MCP_COMMAND='{} --prefix {flag}'\nMAX_WORKERS=2\n", Helper::program().display());
    let gateway = Launch::new(Server::FromSettings).file("gateway.conf", &command("x-")).start();
    assert!(has(&gateway, "x-echo"));
    apply(&gateway, "gateway.conf", &command("y-"));
    assert!(has(&gateway, "y-echo") && !has(&gateway, "x-echo"));
    change(&gateway, "gateway.conf", "MCP_COMMAND=\nMAX_WORKERS=2\n");
    gateway.wait_until("the bundled server", || has(&gateway, "journeys_tool"));
    wait_until_left(&gateway);
    let names: Vec<Value> = gateway.get("/").json()["servers"].as_array().unwrap().clone();
    assert_eq!(names, [json!("journeys")]);
    change(&gateway, "gateway.conf", "EXECUTION_MODE=direct\nMAX_WORKERS=2\n");
    gateway.wait_until("threads in place of processes", || gateway.processes().is_empty());
    gateway.call("journeys_tool", r#"{"action":"list"}"#).expect_status(200);
}
