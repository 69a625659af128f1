//! Clients that stay while servers change: sessions, subscriptions, sockets.

use serde_json::json;

use super::{apply, flags, servers, wait_until_left, with_servers};
use crate::{
    mcp::client::{Modern, Session},
    support::{KEY, Process},
    ws::client::Socket,
};

/// The tools that a session is told of.
#[track_caller]
fn tools(session: &Session<'_>) -> Vec<String> {
    let tools = session.result("tools/list", json!({}));
    tools["tools"].as_array().unwrap().iter().map(|tool| tool["name"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn a_client_of_mcp_is_told_that_the_tools_are_others() {
    let gateway = with_servers(&[("a", json!({})), ("b", json!({}))]);
    let session = Session::open(&gateway);
    let mut standing = session.get();
    let other = Modern::new(&gateway);
    let (mut listening, _) = other.listen(1, json!({"toolsListChanged": true}));

    apply(&gateway, "mcp.json", &servers(&[("a", flags(&["--prefix", "x-"])), ("b", json!({}))]));
    standing.expect("notifications/tools/list_changed");
    listening.expect("notifications/tools/list_changed");
    assert!(tools(&session).contains(&"a__x-echo".to_owned()));

    let mut standing = session.get();
    apply(&gateway, "mcp.json", &servers(&[("b", json!({}))]));
    while standing.message()["method"] != "notifications/tools/list_changed" {}
    while listening.message()["method"] != "notifications/tools/list_changed" {}
    assert!(tools(&session).contains(&"echo".to_owned()), "the only one has no name before its tools");
    assert_eq!(session.text("echo", json!({"a": 1})), r#"{"a":1}"#);
}

#[test]
fn whoever_watches_a_resource_is_told_by_the_new_workers() {
    let gateway = with_servers(&[("a", json!({}))]);
    let session = Session::open(&gateway);
    session.result("resources/subscribe", json!({"uri": "helper://text"}));
    let mut standing = session.get();
    let (mut listening, _) = Modern::new(&gateway).listen(1, json!({"resourceSubscriptions": ["helper://text"]}));
    let old = Process::read(session.text("pid", json!({})).parse().unwrap()).unwrap();

    apply(&gateway, "mcp.json", &servers(&[("a", flags(&["--instructions", "new"]))]));
    gateway.wait_until("the end of the old worker, though there are subscribers", || !old.is_alive());
    session.text("update", json!({"uri": "helper://text"}));
    while standing.message()["method"] != "notifications/resources/updated" {}
    while listening.message()["method"] != "notifications/resources/updated" {}
    session.result("resources/unsubscribe", json!({"uri": "helper://text"}));
    drop(listening);
    gateway.wait_until("no subscriber", || session.text("update", json!({"uri": "helper://text"})) == "[]");
    wait_until_left(&gateway);
}

#[test]
fn the_worker_of_a_session_stays_with_it() {
    let session_of = |flag: &str| json!({"isolation": "session", "args": ["--instructions", flag]});
    let gateway = with_servers(&[("a", session_of("old"))]);
    let session = Session::open(&gateway);
    let own = session.text("pid", json!({}));
    let by_header = |id: &str| {
        let headers = [("X-API-Key", KEY), ("X-Session-Id", id)];
        gateway.request("POST", "/tools/pid", &headers, b"{}").data()
    };
    let second = by_header("s");

    apply(&gateway, "mcp.json", &servers(&[("a", session_of("new"))]));
    wait_until_left(&gateway);
    assert_eq!((session.text("pid", json!({})), by_header("s")), (own.clone(), second.clone()));
    let newer = Session::open(&gateway);
    let of_newer = newer.text("pid", json!({}));
    assert!(of_newer != own && second != *of_newer);
    assert_eq!((&session.result["instructions"], &newer.result["instructions"]), (&json!("old"), &json!("new")));
    assert_eq!(gateway.stats()["servers"]["a"]["pool"]["isolated_workers"], 3);

    let process = Process::read(own.parse().unwrap()).unwrap();
    session.delete().expect_status(204);
    gateway.wait_until("the end of the session's worker", || !process.is_alive());
    // The others leave with their server.
    apply(&gateway, "mcp.json", &servers(&[("b", json!({}))]));
    wait_until_left(&gateway);
    gateway.wait_until("one process", || gateway.processes().len() == 1);
}

#[test]
fn a_socket_goes_on_with_the_new_workers() {
    let gateway = with_servers(&[("a", json!({})), ("b", json!({}))]);
    let mut socket = Socket::open(&gateway, "/ws/tools/a__pid");
    let pid = |socket: &mut Socket, id: &str| {
        socket.call(id, "{}");
        socket.expect_event("started", id);
        socket.expect_event("complete", id)["data"].clone()
    };
    let old = pid(&mut socket, "1");
    apply(&gateway, "mcp.json", &servers(&[("a", flags(&["--instructions", "new"])), ("b", json!({}))]));
    assert_ne!(pid(&mut socket, "2"), old);
    apply(&gateway, "mcp.json", &servers(&[("b", json!({})), ("c", json!({}))]));
    socket.call("3", "{}");
    socket.expect_error("unknown_tool", "a__pid");
    wait_until_left(&gateway);
}

/// A request of a modern client whose legacy server asks it something is set aside, and belongs to the server that asked.
#[test]
fn a_call_that_waits_for_its_client_ends_at_the_old_worker() {
    let gateway = with_servers(&[("a", json!({}))]);
    let old = gateway.call("pid", "{}").data();
    let mut socket = Socket::open(&gateway, "/ws/tools/ask");
    socket.call("1", r#"{"method":"elicitation/create"}"#);
    socket.expect_event("started", "1");
    let question = socket.expect_event("input_required", "1");
    apply(&gateway, "mcp.json", &servers(&[("a", flags(&["--instructions", "new"]))]));
    assert_ne!(gateway.call("pid", "{}").data(), old);
    socket.input(&question, r#""result":{"action":"accept"}"#);
    socket.expect_event("complete", "1");
    wait_until_left(&gateway);
}
